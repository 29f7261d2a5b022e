"""The fold: it changes no answer of any kind, whenever it comes, however much it takes, and whoever does it."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import date, timedelta

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from eventcore.activity import ActivityQuery, Breakdown
from eventcore.calendar import QUARTER_US, Span, day_spans, find_zone
from eventcore.conditions import Selection
from eventcore.contract.event_store.asking import (
    DAY_US,
    HOUR_US,
    MIDNIGHT_US,
    a_burial,
    a_poison,
    a_project,
    a_query,
    a_selection,
    ask_tallies,
    ask_types,
    kind_of,
    model_of,
    names_of,
    tell_everything,
)
from eventcore.contract.event_store.backend import StoreBackend, StoreFixtures
from eventcore.contract.event_store.model import Model, seen
from eventcore.errors import Kind
from eventcore.events import Chunk, Event
from eventcore.ports import EventStore
from eventcore.strategies import AN_INSTANT_US, a_chunk, an_event

_ALL = 1_000_000
_MINUTE_US = 60_000_000

# A date on which something happens to days, and who lives where it does.
_DATES = {
    "UTC": date(2026, 3, 1),
    "Asia/Kathmandu": date(2026, 3, 1),  # +05:45
    "America/New_York": date(2025, 11, 2),  # 25 hours
    "America/St_Johns": date(2010, 11, 7),  # a night of two dates of two intervals each, off the quarter
    "Australia/Lord_Howe": date(2026, 4, 5),  # half an hour more
    "Pacific/Apia": date(2011, 12, 30),  # left out
    "Africa/Monrovia": date(1972, 1, 7),  # off by seconds until then
}
_TYPES = ("page_view", "signup", "purchase")
_SELECTIONS = (
    Selection(),
    a_selection(event_type="signup"),
    a_selection(event_type="nobody does this"),
    a_selection(**{"properties.n": "1"}),
    a_selection(**{"event_type": "signup", "properties.n": "1"}),
)
_SETTINGS = settings(
    deadline=None,
    max_examples=40,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,  # one store for all examples: each takes projects of its own
        HealthCheck.differing_executors,  # a contract is there to be inherited
        HealthCheck.too_slow,
    ],
)


def _local_days(zone: str, before: int, after: int) -> list[Span]:
    """Local days around the one on which something happens."""
    day = _DATES[zone]
    return day_spans(find_zone(zone), day - timedelta(before), day + timedelta(after))


def _start_us(zone: str) -> int:
    """The first instant of the local day before the one on which something happens."""
    return _local_days(zone, 1, 0)[0][0][0]


@st.composite
def _events(draw: DrawFn) -> list[Event]:
    """A few events around one of the dates, some of them long before it."""
    start_us = _start_us(draw(st.sampled_from(sorted(_DATES))))
    offsets_us = st.one_of(
        st.integers(-40, 40).map(lambda day: day * DAY_US),
        st.integers(-4, 200).map(lambda quarter: quarter * QUARTER_US),
        st.integers(0, 3 * DAY_US),
    )
    return [
        an_event(
            event_id=draw(st.integers(1, 2**40)),
            user_id=draw(st.sampled_from(("ada", "grace", "edsger", "barbara"))),
            event_type=draw(st.sampled_from(_TYPES)),
            occurred_us=max(0, start_us + draw(offsets_us) + draw(st.sampled_from((0, 0, -1, 1)))),
            properties={"n": draw(st.integers(0, 1))},
        )
        for _ in range(draw(st.integers(1, 8)))
    ]


@st.composite
def _queries(draw: DrawFn) -> ActivityQuery:
    """Local days, or all of them together, or any other stretches; of any zone, with or without history and types."""
    zone = draw(st.sampled_from(sorted(_DATES)))
    slots = _local_days(zone, draw(st.integers(0, 45)), draw(st.integers(0, 45)))
    shape = draw(st.sampled_from(("days", "whole", "off")))
    if shape != "days":
        off_us = draw(st.sampled_from((1, -1, _MINUTE_US))) if shape == "off" else 0
        bounds = [bound for span in slots for interval in span for bound in interval] or [0, DAY_US]
        slots = [((min(bounds) + off_us, max(bounds) - off_us),)]
    return ActivityQuery(
        project="default",
        slots=tuple(slots),
        selections=tuple(draw(st.lists(st.sampled_from(_SELECTIONS), min_size=1, max_size=3))),
        split=draw(st.sampled_from((None, "event_type"))),
        history=draw(st.booleans()),
        breakdown=draw(st.sampled_from((None, Breakdown(field="event_type", groups=2)))),
    )


_PROJECTS = st.sampled_from(("one", "one", "other"))
_BOUNDS = st.sampled_from((1, 3, 10, _ALL))
_STEPS = st.lists(st.tuples(_PROJECTS, _events(), st.lists(_BOUNDS, max_size=2)), min_size=1, max_size=5)


def _busy_days(zone: str) -> list[Chunk]:
    """Five days in a zone, an event every 17 minutes and at the ends of each interval, in chunks out of order."""
    spans = _local_days(zone, 2, 2)
    start_us, end_us = spans[0][0][0], spans[-1][-1][1]
    instants = {*range(start_us, end_us, 17 * _MINUTE_US)}
    instants |= {bound + step for span in spans for interval in span for bound in interval for step in (-1, 0)}
    events = [
        an_event(
            event_id=number,
            user_id=f"user {number * 7 % 23}",
            event_type=_TYPES[number % 3],
            occurred_us=max(0, occurred_us),
        )
        for number, occurred_us in enumerate(sorted(instants))
    ]
    return [a_chunk(*events[turn::5]) for turn in (3, 0, 4, 1, 2)]


async def _fold_all(store: EventStore, most_events: int = _ALL) -> int:
    """Fold until nothing waits; gives how many events that were."""
    total = 0
    while folded := await store.fold(most_events):
        total += folded
    return total


class Folding(StoreFixtures):
    """The fold changes no answer."""

    @given(steps=_STEPS, queries=st.lists(_queries(), min_size=1, max_size=3))
    @_SETTINGS
    async def test_whenever_it_comes_answers_are_the_same(
        self,
        store: EventStore,
        steps: list[tuple[str, list[Event], list[int]]],
        queries: list[ActivityQuery],
    ) -> None:
        """Events of any age, folds of any size between them, and the same questions to two projects all the time."""
        names = {"one": a_project(), "other": a_project()}
        model = Model()
        for project, events, folds in steps:
            chunk = a_chunk(*events, project=names[project])
            model.append(chunk)
            await store.append([chunk])
            asked = [msgspec.structs.replace(query, project=name) for query in queries for name in names.values()]
            wanted = [model.activity(query) for query in asked]
            assert [seen(await store.activity(query)) for query in asked] == wanted
            for most_events in folds:
                await store.fold(most_events)
                assert [seen(await store.activity(query)) for query in asked] == wanted
        for name in names.values():
            assert list(await store.verify(name)) == []

    @pytest.mark.parametrize("zone", _DATES)
    async def test_days_of_every_zone_stay_exact(self, store: EventStore, zone: str) -> None:
        """Nothing folded, half, most of it, all: every local day, its types and its history, as if counted."""
        chunks = _busy_days(zone)
        query = a_query(*_local_days(zone, 1, 2), split="event_type", history=True)
        model = Model()
        for chunk in chunks:
            model.append(chunk)
            await store.append([chunk])
            assert seen(await store.activity(query)) == model.activity(query)
            await store.fold(len(chunk.events) // 2)
            assert seen(await store.activity(query)) == model.activity(query)
        await _fold_all(store)

        assert seen(await store.activity(query)) == model.activity(query)
        assert list(await store.verify()) == []

    async def test_history_reaches_back_over_years(self, store: EventStore) -> None:
        """Months, days and quarters of it, with a first slot that begins anywhere."""
        chunks = [
            a_chunk(
                *(
                    an_event(event_id=1_000 * turn + day, user_id=f"user {day}", occurred_us=day * 11 * DAY_US + turn)
                    for day in range(turn, 300, 3)
                )
            )
            for turn in range(3)
        ]
        for chunk in chunks:
            await store.append([chunk])
            await store.fold(70)
        for start_us in (MIDNIGHT_US // 2, MIDNIGHT_US // 2 // QUARTER_US * QUARTER_US, 250 * 11 * DAY_US):
            query = a_query(((start_us, start_us + 40 * DAY_US),), history=True)
            assert seen(await store.activity(query)) == model_of(chunks).activity(query)

    async def test_a_slot_may_begin_and_end_within_a_folded_quarter(self, store: EventStore) -> None:
        """Whoever came in that quarter, but before, is history; who came at the end of the last one is neither."""
        offsets_us = (
            -1,
            0,
            5,
            6,
            7,
            _MINUTE_US,
            QUARTER_US - 1,
            QUARTER_US,
            DAY_US,
            DAY_US + 5,
            DAY_US + 6,
            DAY_US + 7,
        )
        chunk = a_chunk(
            *(
                an_event(event_id=number, user_id=f"user {number}", occurred_us=MIDNIGHT_US + offset_us)
                for number, offset_us in enumerate(offsets_us)
            )
        )
        await store.append([chunk])
        for _ in range(2):
            for start_us, end_us in ((6, DAY_US + 6), (6, 7), (6, QUARTER_US), (0, DAY_US + 6), (QUARTER_US, DAY_US)):
                query = a_query(((MIDNIGHT_US + start_us, MIDNIGHT_US + end_us),), history=True, split="event_type")
                assert seen(await store.activity(query)) == model_of([chunk]).activity(query)
            await store.fold(_ALL)

    async def test_late_events_land_in_folded_days(self, store: EventStore) -> None:
        """Each is seen at once, by itself and after its fold, in a day that was asked for before."""
        query = a_query(history=True, split="event_type")
        sent = []
        for number, offset_us in enumerate((-DAY_US, 0, 5, 12 * HOUR_US, DAY_US - 1, DAY_US, -40 * DAY_US)):
            event = an_event(
                event_id=number,
                user_id=f"user {number % 3}",
                event_type=_TYPES[number % 2],
                occurred_us=MIDNIGHT_US + offset_us,
            )
            sent.append(a_chunk(event))
            await store.append(sent[-1:])
            assert seen(await store.activity(query)) == model_of(sent).activity(query)
            await _fold_all(store)
            assert seen(await store.activity(query)) == model_of(sent).activity(query)

    async def test_projects_share_a_fold_and_nothing_else(self, store: EventStore) -> None:
        """Equal users, types and days of three projects."""
        chunks = [
            a_chunk(*(an_event(event_id=number, user_id=f"user {number % 4}") for number in range(size)), project=name)
            for name, size in (("one", 3), ("two", 5), ("three", 9))
        ]
        for turn in range(3):
            for chunk in chunks:
                await store.append([msgspec.structs.replace(chunk, events=chunk.events[turn::3])])
            await store.fold(_ALL)

        assert [await ask_tallies(store, a_query(project=name)) for name in ("one", "two", "three", "four")] == [
            [(3, 3)],
            [(4, 5)],
            [(4, 9)],
            [(0, 0)],
        ]
        assert list(await store.verify()) == []

    async def test_types_may_be_many(self, store: EventStore) -> None:
        """A question about all of them, one about each, and one about one that comes after the fold."""
        names = [f"type {number}" for number in range(300)]
        sent = [
            an_event(event_id=number, event_type=name, user_id=f"user {number % 10}")
            for number, name in enumerate(names)
        ]
        await store.append([a_chunk(*sent)])
        await store.fold(_ALL)
        await store.append([a_chunk(an_event(event_id=999, event_type="another", user_id="another"))])

        assert await ask_tallies(store, a_query()) == [(11, 301)]
        assert await ask_types(store, a_query(split="event_type")) == [dict.fromkeys([*names, "another"], (1, 1))]
        selections = tuple(a_selection(event_type=name) for name in ("type 7", "another", "none"))
        assert await ask_tallies(store, a_query(selections=selections)) == [(1, 1), (1, 1), (0, 0)]

    async def test_it_counts_what_it_folds(self, projecting: EventStore) -> None:
        """Every stored event once, repeats and conflicts never, and nothing when nothing waits."""
        assert await projecting.fold(_ALL) == 0
        sent = [an_event(event_id=number, user_id=f"user {number % 7}") for number in range(100)]
        await projecting.append([a_chunk(*sent, sent[3])])
        await projecting.append([a_chunk(*sent[:50], an_event(event_id=1, user_id="x"), project="default")])
        await projecting.append([a_chunk(*sent[:10], project="other")])

        assert await _fold_all(projecting) == 110
        assert await projecting.fold(_ALL) == 0

    async def test_a_bound_is_kept_about(self, projecting: EventStore) -> None:
        """Whole deltas, at least one, and no more than the one that reaches the bound."""
        for number in range(30):
            await projecting.append([a_chunk(*(an_event(event_id=5 * number + more) for more in range(5)))])

        assert await projecting.fold(1) == 5
        assert 5 <= await projecting.fold(12) <= 16
        assert await ask_tallies(projecting, a_query()) == [(1, 150)]
        assert 5 <= await projecting.fold(0) <= 9

    async def test_a_store_without_a_projection_folds_nothing(self, backend: StoreBackend, store: EventStore) -> None:
        """It may be asked to all the same."""
        if backend.projected:
            pytest.skip(f"{backend.name} has a projection")
        await store.append([a_chunk(an_event())])

        assert await store.fold(_ALL) == 0

    async def test_folds_outlive_reopening(
        self, store: EventStore, reopen: Callable[[], Awaitable[EventStore]]
    ) -> None:
        """What is folded and what is not, and nothing of it twice; a store may fold the rest when it is closed."""
        chunks = _busy_days("UTC")
        for chunk in chunks:
            await store.append([chunk])
        folded = await store.fold(len(chunks[0].events))
        before = await tell_everything(store, chunks)
        reopened = await reopen()

        assert await tell_everything(reopened, chunks) == before
        stored = sum(len(chunk.events) for chunk in chunks)
        assert folded + await _fold_all(reopened, 10) <= stored
        assert await _fold_all(reopened, 10) == 0
        assert await tell_everything(reopened, chunks) == before
        assert list(await reopened.verify()) == []

    async def test_what_is_done_to_an_answer_does_not_reach_the_projection(self, store: EventStore) -> None:
        """Nor does a fold reach an answer that was given."""
        await store.append([a_chunk(*(an_event(event_id=n, user_id=f"user {n}") for n in range(20)))])
        await store.fold(_ALL)
        query = a_query(((MIDNIGHT_US + DAY_US, MIDNIGHT_US + 2 * DAY_US),), split="event_type", history=True)
        for asked in (query, msgspec.structs.replace(query, slots=a_query().slots)):
            first = await store.activity(asked)
            read = seen(first)
            [part] = first.selections
            await store.append([a_chunk(an_event(event_id=99, user_id="late", occurred_us=AN_INSTANT_US - 9 * DAY_US))])
            await store.fold(_ALL)
            assert seen(first) == read
            again = await store.activity(asked)
            for users in [part.before, *(tally.users for slot in part.slots for tally in (slot, *slot.parts.values()))]:
                users.add(4_000_000_000)
                users.discard(0)
            assert seen(await store.activity(asked)) == seen(again)

    async def test_a_new_epoch_changes_no_answer(self, store: EventStore) -> None:
        """Dropping a dead letter makes one; what is remembered from the old one is of no use."""
        await store.append([a_chunk(an_event()), a_burial(a_poison())])
        await store.fold(_ALL)
        assert await ask_tallies(store, a_query()) == [(1, 1)]
        assert await store.drop("default", names_of(a_poison())) == 1
        await store.append([a_chunk(an_event(event_id=2, user_id="grace"))])
        assert await ask_tallies(store, a_query()) == [(2, 2)]
        await store.fold(_ALL)

        assert await ask_tallies(store, a_query()) == [(2, 2)]
        assert list(await store.verify()) == []

    async def test_folds_at_once_fold_each_event_once(self, projecting: EventStore) -> None:
        """Whoever comes second folds the rest, or nothing."""
        for number in range(40):
            await projecting.append([a_chunk(an_event(event_id=number, user_id=f"user {number % 9}"))])
        folded = await asyncio.gather(*(projecting.fold(15) for _ in range(4)))

        assert sum(folded) + await _fold_all(projecting) == 40
        assert await ask_tallies(projecting, a_query()) == [(9, 40)]
        assert list(await projecting.verify()) == []

    async def test_two_openers_fold_each_event_once(self, projecting: EventStore, beside: EventStore) -> None:
        """As several workers do, while events come."""
        stores = (projecting, beside)

        async def keep_writing(store: EventStore, first: int) -> None:
            for number in range(first, 120, 2):
                occurred_us = MIDNIGHT_US + number % 50 * HOUR_US
                await store.append([a_chunk(an_event(event_id=number, user_id=f"u{number}", occurred_us=occurred_us))])

        async def keep_folding(store: EventStore) -> int:
            total = 0
            while not writing.done():
                total += await store.fold(7)
            return total

        writing = asyncio.gather(*(keep_writing(store, first) for first, store in enumerate(stores)))
        folded = await asyncio.gather(*(keep_folding(store) for store in stores))
        await writing

        assert sum(folded) + await _fold_all(projecting) == 120
        whole = a_query(((MIDNIGHT_US, MIDNIGHT_US + 3 * DAY_US),))
        assert [await ask_tallies(store, whole) for store in stores] == [[(120, 120)]] * 2
        assert list(await beside.verify()) == []

    async def test_another_openers_fold_is_seen(self, store: EventStore, beside: EventStore) -> None:
        """Whoever has asked before remembers rows; each fold of the other makes some of them old."""
        queries = [a_query(split="event_type"), a_query(*_local_days("Asia/Kathmandu", 2, 1), history=True)]
        sent = []
        for turn, (one, other) in enumerate([(store, beside), (beside, store)] * 6):
            event = an_event(
                event_id=turn,
                user_id=f"user {turn % 5}",
                event_type=_TYPES[turn % 3],
                occurred_us=MIDNIGHT_US + (turn % 4 - 2) * DAY_US + turn * HOUR_US,
            )
            sent.append(a_chunk(event))
            await one.append(sent[-1:])
            if turn % 3:
                await other.fold(_ALL)
            for query in queries:
                told = [seen(await asked.activity(query)) for asked in (one, other)]
                assert told == [model_of(sent).activity(query)] * 2

    async def test_no_answer_holds_half_a_fold(self, store: EventStore) -> None:
        """Folds between questions, of one opener."""
        await _ask_while_folding([store])

    async def test_no_answer_holds_half_a_fold_of_another(self, store: EventStore, beside: EventStore) -> None:
        """Folds between questions, of two openers."""
        await _ask_while_folding([store, beside])

    async def test_a_closed_store_does_not_fold(self, store: EventStore) -> None:
        """It refuses, as it does everything else."""
        await store.close()

        assert await kind_of(store.fold(1)) is Kind.CLOSED


async def _ask(store: EventStore, query: ActivityQuery) -> set[tuple[int, int, int]]:
    """Users, events and types of all slots."""
    [part] = (await store.activity(query)).selections
    return {(len(tally.users), tally.events, len(tally.parts)) for tally in part.slots}


async def _ask_while_folding(stores: Sequence[EventStore]) -> None:
    """Every append brings a new user with one event of a new type on each of three days; answers must say so."""
    queries = [
        a_query(*(((day * DAY_US + start_us, (day + 1) * DAY_US - less_us),) for day in range(3)), split="event_type")
        for start_us, less_us in ((0, 0), (0, 1), (5 * QUARTER_US, 0))
    ]

    async def keep_writing(first: int) -> None:
        for turn in range(first, 90, 2):
            events = [
                an_event(
                    event_id=3 * turn + day,
                    user_id=f"user {turn}",
                    event_type=f"type {turn}",
                    occurred_us=day * DAY_US + turn % 20 * HOUR_US + 2 * HOUR_US,
                )
                for day in range(3)
            ]
            await stores[turn % len(stores)].append([a_chunk(*events)])

    async def keep_folding(store: EventStore) -> None:
        while not writing.done():
            await store.fold(20)
            await asyncio.sleep(0)

    async def keep_asking(store: EventStore, query: ActivityQuery) -> list[set[tuple[int, int, int]]]:
        answers = []
        while not writing.done():
            answers.append(await _ask(store, query))
            await asyncio.sleep(0)
        return answers

    writing = asyncio.gather(*(keep_writing(first) for first in range(2)))
    folding = asyncio.gather(*(keep_folding(store) for store in stores))
    found = await asyncio.gather(*(keep_asking(store, query) for store in stores for query in queries))
    await folding
    await writing

    whole = [{(number, number, number)} for number in range(91)]
    assert [answer for answers in found for answer in answers if answer not in whole] == []
    for store in stores:
        await _fold_all(store)
        assert [await _ask(store, query) for query in queries] == [{(90, 90, 90)}] * 3
    assert list(await stores[-1].verify()) == []
