"""Dead letters go: they are stored after all, or dropped for ever; both equations of the books hold all the time."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from eventcore.contract.event_store.asking import (
    DAY,
    DAY_US,
    MIDNIGHT_US,
    NO_EVENT_CAN_BE,
    a_burial,
    a_poison,
    a_project,
    a_query,
    all_books,
    all_letters,
    an_import,
    ask_tallies,
    ask_types,
    count_dead,
    find_events,
    kind_of,
    names_of,
    row_counts,
    tell_everything,
)
from eventcore.contract.event_store.backend import StoreFixtures
from eventcore.contract.event_store.model import Model, seen
from eventcore.errors import Kind, StoreError
from eventcore.events import Book, Chunk, Counts, Receipt, Replay, StoredEvent
from eventcore.ports import EventStore
from eventcore.strategies import AN_INSTANT_US, a_chunk, a_death, an_event, with_other_content

_SETTINGS = settings(
    deadline=None,
    max_examples=50,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,  # one store for all examples: each takes projects of its own
        HealthCheck.differing_executors,  # a contract is there to be inherited
        HealthCheck.too_slow,
    ],
)


_GOOD = [
    an_event(event_id=number, user_id=user, event_type=kind)
    for number, user, kind in ((1, "ada", "signup"), (2, "ada", "page_view"), (3, "grace", "signup"))
]
_POOL = [
    *_GOOD,
    *map(with_other_content, _GOOD[:2]),
    an_event(event_id=4, properties='{"a":1}'),
    an_event(event_id=4, properties='{"a":1.0}'),
]
_POISONS = [a_poison(an_event(event_id=number), user_id=f"\0{number}") for number in (3, 9)]
_MORTAL = [*_POOL, *_POISONS]

_Step = tuple[str, Any]


@st.composite
def _chunks(draw: DrawFn, project: str) -> Chunk:
    deaths = st.builds(a_death, st.sampled_from(_MORTAL), attempts=st.integers(1, 3))
    return a_chunk(
        *draw(st.lists(st.sampled_from(_POOL), max_size=3)),
        project=project,
        received_us=MIDNIGHT_US + draw(st.sampled_from((-1, 0, DAY_US))),
        queued=draw(st.booleans()),
        counts=Counts(rejected=1),
        import_id=draw(st.sampled_from((None, bytes(range(16))))),
        dead=draw(st.lists(deaths, max_size=3)),
    )


@st.composite
def _histories(draw: DrawFn, project: str) -> list[_Step]:
    """What is done to a project, each step with what it is done with."""
    # Which of two contents of one id a replay stores is nobody's promise, so none has both.
    some_names = st.lists(st.sampled_from(_MORTAL), max_size=4, unique_by=lambda event: event.event_id).map(
        lambda events: names_of(*events)
    )
    sent: list[Chunk] = []
    steps: list[_Step] = []
    for kind in draw(st.lists(st.sampled_from(("append", "append", "check", "replay", "drop")), max_size=8)):
        if kind in ("replay", "drop"):
            steps.append((kind, draw(some_names)))
            continue
        call = draw(st.lists(_chunks(project), min_size=1, max_size=2))
        call += draw(st.lists(st.sampled_from(sent), max_size=1)) if sent else []
        sent += [chunk for chunk in call if chunk.queued]
        steps.append((kind, call))
    return steps


async def _do(store: EventStore, project: str, step: _Step) -> object:
    match step:
        case ("append", call):
            return list(await store.append(call))
        case ("check", call):
            return [await kind_of(store.check(chunk)) for chunk in call]
        case ("replay", names):
            return await _replay(store, project, names)
        case (_, names):
            return await store.drop(project, names)


def _expect(model: Model, project: str, step: _Step) -> object:
    match step:
        case ("append", call):
            return [model.append(chunk) for chunk in call]
        case ("check", call):
            return [None for _ in call]
        case ("replay", names):
            return model.replay(project, names)
        case (_, names):
            return model.drop(project, names)


async def _replay(store: EventStore, project: str, names: Sequence[bytes]) -> Replay | None:
    """What a replay says; None when an event is refused."""
    try:
        return await store.replay(project, names)
    except StoreError as error:
        if error.kind is not Kind.DATA:
            raise
        return None


class Replaying(StoreFixtures):
    """`EventStore.replay` and `EventStore.drop`."""

    async def test_a_replayed_letter_is_an_event(self, store: EventStore) -> None:
        """As if nothing had happened: found with when it came and by which import, counted, and no letter any more."""
        await store.append([a_chunk(an_event(event_id=1))])
        event = an_event(event_id=2, user_id="grace", event_type="signup", properties='{"b" : 1.0, "a":"\\u00e9"}')
        await store.append([a_burial(event, received_us=AN_INSTANT_US + 1, import_id=bytes(range(16)), queued=True)])
        epoch = await store.epoch()
        replayed = await store.replay("default", names_of(event))

        assert replayed == Replay(stored=1)
        assert await all_letters(store) == []
        assert await count_dead(store) == 0
        assert await store.find("default", [event.event_id]) == {
            event.event_id: StoredEvent(event=event, received_us=AN_INSTANT_US + 1, import_id=bytes(range(16)))
        }
        assert await ask_types(store, a_query(split="event_type")) == [{"page_view": (1, 1), "signup": (1, 1)}]
        assert await row_counts(store) == {"events": 2, "users": 2, "conflicts": 0}
        assert await all_books(store) == [Book(date=DAY, received=2, accepted=2, stored=2)]
        assert (await store.describe()).epoch == epoch
        assert list(await store.verify()) == []

    async def test_a_replay_belongs_to_the_day_of_receiving(self, store: EventStore) -> None:
        """Each letter changes the book of its own day, to the microsecond; the day of the event is another matter."""
        events = [an_event(event_id=number, occurred_us=MIDNIGHT_US - 9 * DAY_US) for number in range(5)]
        received = (MIDNIGHT_US - 1, MIDNIGHT_US, MIDNIGHT_US + DAY_US - 1, MIDNIGHT_US + DAY_US, MIDNIGHT_US)
        await store.append([a_burial(event, received_us=at_us) for event, at_us in zip(events, received, strict=True)])
        replayed = await store.replay("default", names_of(*events[:4]))

        assert replayed == Replay(stored=4)
        assert await all_books(store) == [
            Book(date="2026-02-28", received=1, accepted=1, stored=1),
            Book(date="2026-03-01", received=3, accepted=3, stored=2, dead=1),
            Book(date="2026-03-02", received=1, accepted=1, stored=1),
        ]
        assert list(await store.verify()) == []

    @pytest.mark.parametrize("queued", [False, True])
    async def test_a_replay_finds_duplicates_and_conflicts(self, store: EventStore, queued: bool) -> None:
        """What is stored meanwhile stays; a conflict is kept among the conflicts, and neither is a letter any more."""
        stored = [an_event(event_id=number, properties='{"a":1}') for number in (1, 2, 3)]
        letters = [
            stored[0],
            an_event(event_id=2, properties='{ "a" : 1.0 }'),
            an_event(event_id=3, properties='{"a":2}'),
            an_event(event_id=4, user_id="grace"),
        ]
        await store.append([a_burial(*letters, queued=queued)])
        await store.append([a_chunk(*stored, received_us=AN_INSTANT_US + DAY_US)])
        replayed = await store.replay("default", names_of(*letters))

        assert replayed == Replay(stored=1, duplicates=2, conflicts=1)
        assert await all_letters(store) == []
        assert await find_events(store, letters) == [*stored, letters[3]]
        assert await row_counts(store) == {"events": 4, "users": 2, "conflicts": 1}
        assert await ask_tallies(store, a_query()) == [(2, 4)]
        assert await all_books(store) == [
            Book(date=DAY, received=4, accepted=4, stored=1, duplicate_at_store=2, conflict_at_store=1),
            Book(date="2026-03-02", received=3, accepted=3, stored=3),
        ]
        assert list(await store.verify()) == []

    async def test_a_conflict_that_is_kept_already_is_kept_once(self, store: EventStore) -> None:
        """The same content was sent again meanwhile, and lost."""
        loser = an_event(user_id="grace")
        await store.append([a_burial(loser)])
        await store.append([a_chunk(an_event()), a_chunk(loser)])

        assert await store.replay("default", names_of(loser)) == Replay(conflicts=1)
        assert await row_counts(store) == {"events": 1, "users": 1, "conflicts": 1}
        assert list(await store.verify()) == []

    async def test_two_contents_of_one_id_do_not_both_get_stored(self, store: EventStore) -> None:
        """Replayed in one call, one of them wins and the other one is a conflict; equal values are no conflict."""
        contents = [an_event(properties=text) for text in ('{"a":1}', '{"a":1.0}', '{"a":2}', '{"a":2.0}')]
        await store.append([a_burial(*contents)])
        replayed = await store.replay("default", names_of(*contents))

        assert replayed == Replay(stored=1, duplicates=1, conflicts=2)
        assert await row_counts(store) == {"events": 1, "users": 1, "conflicts": 2}
        assert await all_books(store) == [
            Book(date=DAY, received=4, accepted=4, stored=1, duplicate_at_store=1, conflict_at_store=2)
        ]
        assert list(await store.verify()) == []

    async def test_names_that_are_no_letter_are_passed_over(self, store: EventStore) -> None:
        """Unknown ones, of any length, those that were replayed before, and the same one twice."""
        event, replayed_before = an_event(event_id=1), an_event(event_id=2)
        await store.append([a_burial(event, replayed_before), a_chunk(an_event(event_id=3))])
        await store.replay("default", names_of(replayed_before))
        strangers = [
            b"",
            b"\0",
            bytes(32),
            bytes(300),
            event.event_id,
            *names_of(replayed_before, an_event(event_id=3)),
        ]

        assert await store.replay("default", strangers) == Replay()
        assert await store.replay("default", []) == Replay()
        assert await store.replay("default", [*strangers, *names_of(event, event), *strangers]) == Replay(stored=1)
        assert await store.replay("default", names_of(event)) == Replay()
        assert await all_books(store) == [Book(date=DAY, received=3, accepted=3, stored=3)]

    @pytest.mark.parametrize("broken", NO_EVENT_CAN_BE.values(), ids=NO_EVENT_CAN_BE)
    async def test_a_replay_with_a_letter_that_is_still_refused_changes_nothing(
        self, store: EventStore, broken: Mapping[str, Any]
    ) -> None:
        """All or none, alone and among good ones; the good ones can be replayed without it."""
        good = [an_event(event_id=number, user_id=f"user {number}") for number in (2, 3)]
        bad = a_poison(**broken)
        burial = a_burial(good[0], bad, good[1])
        await store.append([burial])
        before = await tell_everything(store, [burial, a_chunk(*good)])

        assert await kind_of(store.replay("default", names_of(bad))) is Kind.DATA
        assert await kind_of(store.replay("default", names_of(good[0], bad, good[1]))) is Kind.DATA
        assert await tell_everything(store, [burial, a_chunk(*good)]) == before
        assert await store.replay("default", names_of(*good)) == Replay(stored=2)
        assert [letter.event for letter in await all_letters(store)] == [bad]
        assert await all_books(store) == [Book(date=DAY, received=3, accepted=3, stored=2, dead=1)]
        assert list(await store.verify()) == []

    async def test_a_refused_replay_forgets_its_users_and_types(self, store: EventStore) -> None:
        """As a refused append does: nobody else's may be taken for them afterwards."""
        grace = an_event(event_id=1, user_id="grace", event_type="signup")
        bad = a_poison(an_event(event_id=2))
        await store.append([a_burial(grace, bad)])
        await kind_of(store.replay("default", names_of(grace, bad)))
        await store.append([a_chunk(an_event(event_id=3, user_id="edsger", event_type="purchase"))])
        await store.replay("default", names_of(grace))

        assert await ask_types(store, a_query(split="event_type")) == [{"signup": (1, 1), "purchase": (1, 1)}]
        assert await ask_tallies(store, a_query()) == [(2, 2)]
        assert list(await store.verify()) == []

    async def test_many_letters_are_replayed_at_once(self, store: EventStore) -> None:
        """2,500 of them, as after a rule that somebody added to the tables and took away again."""
        events = [an_event(event_id=number, user_id=f"user {number % 90}") for number in range(2_500)]
        await store.append([a_burial(*events[start : start + 500]) for start in range(0, 2_500, 500)])
        replayed = await store.replay("default", names_of(*events))

        assert replayed == Replay(stored=2_500)
        assert await find_events(store, events) == events
        assert await ask_tallies(store, a_query()) == [(90, 2_500)]
        assert await all_books(store) == [Book(date=DAY, received=2_500, accepted=2_500, stored=2_500)]
        assert list(await store.verify()) == []

    async def test_replays_at_once_store_each_letter_once(self, store: EventStore) -> None:
        """Twenty at once, in different orders: each letter is counted by exactly one of them."""
        events = [an_event(event_id=number, user_id=f"user {number % 7}") for number in range(50)]
        await store.append([a_burial(*events)])
        replays = await asyncio.gather(
            *(
                store.replay("default", names_of(*events[turn * 2 :], *events[: turn * 2])[:: 1 if turn % 2 else -1])
                for turn in range(20)
            )
        )

        assert sorted(replays, key=lambda replay: replay.stored)[:-1] == [Replay()] * 19
        assert sum(replay.stored for replay in replays) == 50
        assert await ask_tallies(store, a_query()) == [(7, 50)]
        assert await all_books(store) == [Book(date=DAY, received=50, accepted=50, stored=50)]
        assert list(await store.verify()) == []

    async def test_replays_of_two_openers_store_each_letter_once(self, store: EventStore, beside: EventStore) -> None:
        """Two operators have the same idea, and each letter in a replay of its own."""
        events = [an_event(event_id=number, user_id=f"user {number % 7}") for number in range(30)]
        await store.append([a_burial(*events)])
        replays = await asyncio.gather(
            *(one.replay("default", names_of(event)) for event in events for one in (store, beside))
        )

        assert sum(replay.stored for replay in replays) == 30
        assert [replay for replay in replays if replay not in (Replay(), Replay(stored=1))] == []
        assert await ask_tallies(beside, a_query()) == [(7, 30)]
        assert await all_books(store) == [Book(date=DAY, received=30, accepted=30, stored=30)]
        assert list(await store.verify()) == []

    async def test_a_replay_beside_an_append_of_the_same_stores_it_once(self, store: EventStore) -> None:
        """The sender sends again while the operator replays: one of the two is a duplicate."""
        events = [an_event(event_id=number, user_id=f"user {number % 7}") for number in range(40)]
        await store.append([a_burial(*events)])
        replays, appends = await asyncio.gather(
            asyncio.gather(*(store.replay("default", names_of(event)) for event in events)),
            asyncio.gather(*(store.append([a_chunk(event, queued=True)]) for event in events)),
        )

        repeats = sum(replay.duplicates for replay in replays) + sum(len(one.duplicates) for [one] in appends)
        assert repeats == 40
        assert await find_events(store, events) == events
        assert await ask_tallies(store, a_query()) == [(7, 40)]
        assert await all_books(store) == [Book(date=DAY, received=80, accepted=80, stored=40, duplicate_at_store=40)]
        assert list(await store.verify()) == []

    async def test_a_dropped_letter_is_gone_and_stays_in_the_books(self, store: EventStore) -> None:
        """It was accepted and is not stored: that remains true. Only the letters named are dropped."""
        events = [an_event(event_id=number) for number in range(4)]
        await store.append([a_burial(*events, received_us=AN_INSTANT_US + day * DAY_US) for day in (0, 1)])
        dropped = await store.drop("default", [*names_of(events[0], events[2], events[0]), bytes(32), b""])

        assert dropped == 2
        assert [letter.event for letter in await all_letters(store)] == [events[1], events[3]]
        assert await count_dead(store) == 2
        assert await store.replay("default", names_of(*events[:3])) == Replay(stored=1)
        assert await all_books(store) == [
            Book(date=DAY, received=4, accepted=4, stored=1, dead=3),
            Book(date="2026-03-02", received=4, accepted=4, duplicate_at_store=4),
        ]
        assert list(await store.verify()) == []

    async def test_a_dropped_event_may_come_again(self, store: EventStore) -> None:
        """It is new then, and stored; and if it is refused again, it is a letter again."""
        good, bad = an_event(event_id=1), a_poison(an_event(event_id=2))
        await store.append([a_burial(good, bad, queued=True)])
        dropped = await store.drop("default", names_of(good, bad))
        receipts = await store.append([a_chunk(good, dead=[a_death(bad, attempts=2)], queued=True)])

        assert (dropped, list(receipts)) == (2, [Receipt()])
        assert [(letter.event, letter.attempts) for letter in await all_letters(store)] == [(bad, 2)]
        assert await all_books(store) == [Book(date=DAY, received=4, accepted=4, stored=1, dead=3)]
        assert list(await store.verify()) == []
        assert await store.drop("default", names_of(bad)) == 1
        assert list(await store.verify()) == []

    async def test_dropping_begins_a_new_epoch(self, store: EventStore) -> None:
        """So that no cache takes the event for seen when it comes again; everything else is where it was."""
        sent = [an_event(event_id=number, user_id=f"user {number}") for number in range(3)]
        event = an_event(event_id=9)
        await store.append([a_chunk(*sent), a_burial(event, a_poison())])
        old = (await store.describe()).epoch
        await store.drop("default", names_of(event))
        new = (await store.describe()).epoch
        await store.append([a_chunk(sent[0], an_event(event_id=4, user_id="grace"), event)])

        assert new
        assert new != old
        assert (await store.describe()).epoch == new
        assert await find_events(store, [*sent, event]) == [*sent, event]
        assert await ask_tallies(store, a_query()) == [(5, 5)]
        assert list(await store.verify()) == []

    async def test_the_new_epoch_is_known_within_a_second(self, store: EventStore) -> None:
        """Also to those that have asked for it just before."""
        event = an_event()
        await store.append([a_burial(event)])
        old = await store.epoch()
        await store.drop("default", names_of(event))
        await asyncio.sleep(1.05)

        assert await store.epoch() != old
        assert await store.epoch() == (await store.describe()).epoch

    async def test_another_opener_knows_the_new_epoch_within_a_second(
        self, store: EventStore, beside: EventStore
    ) -> None:
        """The command line drops, and the API must not believe its cache any more; both go on."""
        event = an_event(user_id="grace")
        await store.append([a_burial(event), a_chunk(an_event(event_id=2))])
        await beside.append([a_chunk(an_event(event_id=3, user_id="edsger"))])
        old = await beside.epoch()
        await store.drop("default", names_of(event))
        await asyncio.sleep(1.05)
        known = [await one.epoch() for one in (store, beside)]
        await beside.append([a_chunk(event)])
        await store.append([a_chunk(an_event(event_id=4, user_id="barbara"), an_event(event_id=5, user_id="edsger"))])

        assert known == [(await store.describe()).epoch] * 2
        assert known[0] != old
        assert [await one.epoch() for one in (store, beside)] == known
        assert await ask_tallies(store, a_query()) == [(4, 5)]
        assert list(await beside.verify()) == []

    async def test_dropping_nothing_changes_nothing(self, store: EventStore) -> None:
        """No letter is meant, so the caches stay good."""
        await store.append([a_burial(a_poison()), a_chunk(an_event(event_id=2))])
        before = await tell_everything(store, [])
        dropped = [
            await store.drop("default", names) for names in ([], [bytes(32)], names_of(an_event(event_id=2)), [b""])
        ]

        assert dropped == [0, 0, 0, 0]
        assert await tell_everything(store, []) == before

    async def test_each_letter_is_replayed_or_dropped(self, store: EventStore) -> None:
        """Many at once: never both, never neither."""
        events = [an_event(event_id=number, user_id=f"user {number % 7}") for number in range(60)]
        await store.append([a_burial(*events)])
        calls: list[Awaitable[Replay | int]] = []
        for event in events:
            calls += [store.replay("default", names_of(event)), store.drop("default", names_of(event))]
        results = await asyncio.gather(*calls)

        pairs = list(zip(results[::2], results[1::2], strict=True))
        assert set(pairs) <= {(Replay(stored=1), 0), (Replay(), 1)}
        stored = sum(dropped == 0 for _, dropped in pairs)
        assert len(await find_events(store, events)) == stored
        assert await all_letters(store) == []
        assert await all_books(store) == [Book(date=DAY, received=60, accepted=60, stored=stored, dead=60 - stored)]
        assert list(await store.verify()) == []

    async def test_an_import_whose_events_all_died_is_an_import(self, store: EventStore) -> None:
        """It can be found by its id, from its first letter on, and again when they are stored."""
        event = an_event()
        record = an_import()
        await store.append([a_burial(event, import_id=record.import_id)])
        before = (await store.describe()).counts["default"]["imports"]
        await store.record_import("default", record)
        await store.replay("default", names_of(event))

        assert (before, (await store.describe()).counts["default"]["imports"]) == (1, 1)
        assert (await store.find("default", [event.event_id]))[event.event_id].import_id == record.import_id
        assert list(await store.verify()) == []

    @given(data=st.data())
    @_SETTINGS
    async def test_any_history_of_deaths_agrees_with_the_model(self, store: EventStore, data: st.DataObject) -> None:
        """Appends with and without letters, redelivered ones, checks, replays and drops, in any order."""
        project = a_project()
        model = Model()
        steps = data.draw(_histories(project))

        assert [await _do(store, project, step) for step in steps] == [_expect(model, project, step) for step in steps]
        assert await all_letters(store, project) == model.letters(project)
        assert await store.find(project, [event.event_id for event in _POOL]) == model.found(project)
        assert list(await store.books(project, "2026-01-01", "2026-12-31")) == model.books(project)
        assert await row_counts(store, project) == model.counts(project)
        assert seen(await store.activity(a_query(project=project, split="event_type"))) == model.activity(
            a_query(project=project, split="event_type")
        )
        assert list(await store.verify(project)) == []
