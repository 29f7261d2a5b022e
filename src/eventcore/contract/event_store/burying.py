"""Dead letters: an accepted event that the store refuses is kept whole, and booked, in the transaction of its chunk.

Whether a store keeps a letter has nothing to do with whether it would take the event, so most letters here are good
events. What becomes of letters afterwards is in `replaying`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
import pytest

from eventcore.contract.event_store.asking import (
    DAY,
    DAY_US,
    NO_EVENT_CAN_BE,
    a_burial,
    a_poison,
    a_query,
    all_books,
    all_letters,
    ask_tallies,
    ask_types,
    count_dead,
    find_events,
    kind_of,
    letters_of,
    names_of,
    row_counts,
    tell_everything,
)
from eventcore.contract.event_store.backend import StoreFixtures
from eventcore.dedup import member
from eventcore.errors import Kind
from eventcore.events import Book, Counts, DeadLetter, Event, Receipt, Replay
from eventcore.ports import EventStore
from eventcore.strategies import AN_INSTANT_US, a_chunk, a_death, an_event, an_id, with_other_content


class Burying(StoreFixtures):
    """``Chunk.dead`` and `EventStore.dead_letters`."""

    @pytest.mark.parametrize(
        "broken",
        [
            *NO_EVENT_CAN_BE.values(),
            {"event_id": b"seventeen bytes.."},
            {"event_id": b""},
            {"user_id": "\0", "event_type": "\0" * 100, "properties": '{"\0":"\0"}'},
            {"properties": '{"text":"' + "x" * (256 * 1024) + '"}'},
            {"properties": "this is not JSON"},
            {"occurred_us": -(2**63)},
            {"user_id": "ada"},
        ],
        ids=[*NO_EVENT_CAN_BE, "long id", "no id", "NUL everywhere", "256 KiB", "no JSON", "long ago", "good"],
    )
    async def test_a_letter_is_kept_whole(self, store: EventStore, broken: Mapping[str, Any]) -> None:
        """Whatever its values are, with all that is known of it."""
        event = a_poison(an_event(user_id="ä'\"\\ 😀", properties='{"b" : 1.0, "a":"\\u00e9"}'), **broken)
        death = a_death(event, reason='it\'s "refused": ä 😀', attempts=7, died_us=AN_INSTANT_US + 12_345)
        chunk = a_chunk(dead=[death], received_us=AN_INSTANT_US + 1, import_id=bytes(range(16)))
        receipts = await store.append([chunk])

        assert list(receipts) == [Receipt()]
        assert await all_letters(store) == letters_of(chunk)
        assert await all_books(store) == [Book(date=DAY, received=1, accepted=1, dead=1)]
        assert list(await store.verify()) == []

    async def test_a_letter_is_not_an_event(self, store: EventStore) -> None:
        """It is not found, no statistic sees it, it has no user, and it does not take its id from a later event."""
        dead = an_event(event_id=1, user_id="grace")
        await store.append([a_burial(dead)])
        receipts = await store.append([a_chunk(an_event(event_id=2), with_other_content(dead), dead)])

        assert list(receipts) == [Receipt(conflicts=(2,))]
        assert await ask_tallies(store, a_query()) == [(2, 2)]
        assert await row_counts(store) == {"events": 2, "users": 2, "conflicts": 1}
        assert [letter.event for letter in await all_letters(store)] == [dead]
        assert list(await store.verify()) == []

    async def test_an_only_letter_leaves_nothing_else(self, store: EventStore) -> None:
        """A project may have letters and no event at all."""
        event = an_event()
        await store.append([a_burial(event)])

        assert await store.find("default", [event.event_id]) == {}
        assert await ask_types(store, a_query(split="event_type")) == [{}]
        assert await row_counts(store) == {"events": 0, "users": 0, "conflicts": 0}
        assert await count_dead(store) == 1

    async def test_contents_of_one_id_are_letters_of_their_own(self, store: EventStore) -> None:
        """Unique on project, id and fingerprint."""
        events = [an_event(user_id=user) for user in ("ada", "grace", "edsger")]
        chunk = a_burial(*events)
        await store.append([chunk])

        assert await all_letters(store) == letters_of(chunk)
        assert await count_dead(store) == 3

    @pytest.mark.parametrize(
        ("queued", "book"),
        [
            (False, Book(date=DAY, received=13, accepted=4, stored=2, duplicates=3, conflicts=4, rejected=2, dead=2)),
            (
                True,
                Book(
                    date=DAY,
                    received=13,
                    accepted=6,
                    stored=2,
                    duplicates=2,
                    conflicts=3,
                    rejected=2,
                    duplicate_at_store=1,
                    conflict_at_store=1,
                    dead=2,
                ),
            ),
        ],
    )
    async def test_letters_are_booked_as_accepted_and_dead(self, store: EventStore, queued: bool, book: Book) -> None:
        """Beside all else that a chunk may have, and both equations hold."""
        await store.append([a_chunk(an_event(event_id=1), received_us=AN_INSTANT_US - DAY_US)])
        receipts = await store.append(
            [
                a_chunk(
                    an_event(event_id=2),
                    an_event(event_id=1),
                    an_event(event_id=3),
                    an_event(event_id=1, user_id="grace"),
                    dead=[a_death(a_poison()), a_death(an_event(event_id=5))],
                    conflicting=[an_event(event_id=2, user_id="grace")],
                    counts=Counts(duplicates=2, conflicts=3, rejected=2),
                    queued=queued,
                )
            ]
        )

        assert list(receipts) == [Receipt(duplicates=(1,), conflicts=(3,))]
        assert list(await store.books("default", DAY, DAY)) == [book]
        assert list(await store.verify()) == []

    async def test_a_known_chunk_buries_nothing_again(self, store: EventStore) -> None:
        """It comes again as it was buried, and as it came before anybody knew of the poison."""
        poison = a_poison(an_event(event_id=2))
        as_it_came = a_chunk(an_event(event_id=1), poison, counts=Counts(rejected=1), queued=True)
        buried = msgspec.structs.replace(as_it_came, events=as_it_came.events[:1], dead=(a_death(poison),))
        later = msgspec.structs.replace(buried, dead=(a_death(poison, attempts=9),))
        await store.append([buried])
        before = await tell_everything(store, [as_it_came])
        again = await store.append([buried, as_it_came, later])

        assert list(again) == [Receipt()] * 3
        assert await tell_everything(store, [as_it_came]) == before
        assert await all_letters(store) == letters_of(buried)
        assert await all_books(store) == [Book(date=DAY, received=3, accepted=2, stored=1, rejected=1, dead=1)]

    async def test_a_chunk_of_nothing_but_letters_is_remembered(self, store: EventStore) -> None:
        """Its redelivery must not look for a place among the duplicates."""
        chunk = a_burial(a_poison(), queued=True)
        await store.append([chunk])
        await store.append([chunk])

        assert await all_books(store) == [Book(date=DAY, received=1, accepted=1, dead=1)]

    @pytest.mark.parametrize("queued", [False, True])
    async def test_the_same_letter_again_is_kept_once(self, store: EventStore, queued: bool) -> None:
        """Sent anew it is accepted, and a repeat; when and how it first came stays, how it last died is new."""
        event = a_poison()
        first = a_burial(event, import_id=bytes(16), queued=queued)
        second = a_chunk(
            dead=[a_death(event, reason="another reason", attempts=5, died_us=AN_INSTANT_US + DAY_US)],
            received_us=AN_INSTANT_US + DAY_US,
            queued=queued,
        )
        await store.append([first])
        await store.append([second])

        assert await all_letters(store) == [
            DeadLetter(
                event=event,
                received_us=first.received_us,
                import_id=bytes(16),
                reason="another reason",
                attempts=5,
                died_us=AN_INSTANT_US + DAY_US,
            )
        ]
        assert await all_books(store) == [
            Book(date=DAY, received=1, accepted=1, dead=1),
            Book(date="2026-03-02", received=1, accepted=1, duplicate_at_store=1),
        ]
        assert list(await store.verify()) == []

    async def test_the_same_letter_twice_in_one_call_is_kept_once(self, store: EventStore) -> None:
        """In one chunk and in two, and mixed with new ones, on two days: each repeat is booked on its own day."""
        one, two, three = (a_poison(an_event(event_id=number)) for number in (1, 2, 3))
        await store.append(
            [
                a_burial(one, two, one, queued=True),
                a_burial(two, three, received_us=AN_INSTANT_US + DAY_US, queued=True),
                a_burial(three, received_us=AN_INSTANT_US + DAY_US),
            ]
        )

        assert [(letter.event, letter.received_us) for letter in await all_letters(store)] == [
            (one, AN_INSTANT_US),
            (two, AN_INSTANT_US),
            (three, AN_INSTANT_US + DAY_US),
        ]
        assert await all_books(store) == [
            Book(date=DAY, received=3, accepted=3, dead=2, duplicate_at_store=1),
            Book(date="2026-03-02", received=3, accepted=3, dead=1, duplicate_at_store=2),
        ]
        assert list(await store.verify()) == []

    async def test_letters_share_the_transaction_of_their_call(self, store: EventStore) -> None:
        """A call that is refused buries nothing, whichever of its chunks has the letters."""
        burial = a_chunk(an_event(event_id=1), dead=[a_death(a_poison())], queued=True)
        refused = await kind_of(store.append([burial, a_chunk(a_poison(an_event(event_id=3)))]))

        assert refused is Kind.DATA
        assert await all_letters(store) == []
        assert await all_books(store) == []
        assert (await store.describe()).counts == {}
        assert list(await store.append([burial])) == [Receipt()]
        assert await all_letters(store) == letters_of(burial)
        assert await all_books(store) == [Book(date=DAY, received=2, accepted=2, stored=1, dead=1)]

    async def test_letters_of_projects_are_apart(self, store: EventStore) -> None:
        """The same letter in two projects is two, to read, to replay and to drop."""
        event = an_event()
        await store.append([a_burial(event, project="mine"), a_burial(event, project="theirs")])
        await store.append([a_burial(event, project="dropping")])
        replayed = [await store.replay(project, names_of(event)) for project in ("mine", "unheard-of")]
        dropped = [await store.drop(project, names_of(event)) for project in ("dropping", "unheard-of")]

        assert replayed == [Replay(stored=1), Replay()]
        assert dropped == [1, 0]
        assert [len(await all_letters(store, project)) for project in ("mine", "theirs", "dropping")] == [0, 1, 0]
        assert [await find_events(store, [event], project) for project in ("mine", "theirs")] == [[event], []]
        assert (await store.describe()).counts.keys() == {"mine", "theirs", "dropping"}
        assert list(await store.verify()) == []

    async def test_workers_that_bury_the_same_letters_keep_each_once(self, store: EventStore) -> None:
        """Twenty at once, in different orders, each with deliveries of its own and one that all of them hold."""
        poisons = [a_poison(an_event(event_id=number)) for number in range(10)]
        shared = a_burial(*poisons, queued=True)
        await asyncio.gather(
            *(
                store.append([a_burial(*poisons[turn % 10 :], *poisons[: turn % 10], queued=True), shared])
                for turn in range(20)
            )
        )

        assert [letter.event for letter in await all_letters(store)] == poisons
        assert await all_books(store) == [Book(date=DAY, received=210, accepted=210, dead=10, duplicate_at_store=200)]
        assert list(await store.verify()) == []

    async def test_letters_are_read_in_pages(self, store: EventStore) -> None:
        """Each once, in the order of their names, however long the pages are; a page after the last one is empty."""
        chunk = a_burial(*(an_event(event_id=(number * 37) % 100, user_id=f"user {number}") for number in range(130)))
        await store.append([chunk])
        expected = letters_of(chunk)

        async def read(limit: int) -> list[DeadLetter]:
            read: list[DeadLetter] = []
            while page := await store.dead_letters(
                "default", limit=limit, after=member(read[-1].event) if read else b""
            ):
                assert len(page) <= limit
                read += page
            return read

        assert [await read(limit) for limit in (1, 7, 130, 131)] == [expected] * 4
        assert list(await store.dead_letters("default", limit=3)) == expected[:3]

    async def test_a_page_may_begin_after_a_name_that_is_gone(self, store: EventStore) -> None:
        """Somebody replays while another reads."""
        events = [an_event(event_id=number) for number in range(5)]
        await store.append([a_burial(*events)])
        await store.replay("default", names_of(events[2]))

        page = await store.dead_letters("default", limit=10, after=member(events[2]))
        assert [letter.event for letter in page] == events[3:]

    async def test_the_order_is_that_of_whole_names(self, store: EventStore) -> None:
        """Where an id is the beginning of another one, what follows it decides, and is not taken for the other's."""
        long, short = an_event(event_id=bytes([1] * 16)), an_event(event_id=bytes([1] * 15))
        events = [
            msgspec.structs.replace(long, fingerprint=bytes([5] * 16)),
            msgspec.structs.replace(short, fingerprint=bytes([0] * 16)),
            msgspec.structs.replace(short, fingerprint=bytes([9] * 16)),
            an_event(event_id=b"\xff" * 16),
            an_event(event_id=b"\x7f" * 16),
            an_event(event_id=b"\x80" * 16),
        ]
        await store.append([a_burial(*events)])
        ordered = sorted(events, key=member)

        assert [letter.event for letter in await all_letters(store)] == ordered
        assert [
            [letter.event for letter in await store.dead_letters("default", limit=1, after=name)]
            for name in names_of(*ordered)
        ] == [[event] for event in ordered[1:]] + [[]]

    async def test_letters_of_some_ids(self, store: EventStore) -> None:
        """All contents of them, in pages too; ids that nobody has and none at all give none."""
        events = [an_event(event_id=number, user_id=user) for number in range(4) for user in ("ada", "grace")]
        broken = a_poison(event_id=b"fifteen bytes..")
        await store.append([a_burial(*events, broken)])

        async def ask(*event_ids: bytes, limit: int = 10, after: bytes = b"") -> list[Event]:
            found = await store.dead_letters("default", limit=limit, after=after, event_ids=event_ids)
            return [letter.event for letter in found]

        of_two = sorted((event for event in events if event.event_id in (an_id(1), an_id(3))), key=member)
        assert await ask(an_id(3), an_id(9), an_id(1), an_id(3)) == of_two
        assert await ask(an_id(1), an_id(3), limit=2, after=member(of_two[0])) == of_two[1:3]
        assert await ask(b"fifteen bytes..", b"", b"seventeen bytes..") == [broken]
        assert await ask(an_id(9)) == []
        assert await ask() == []

    async def test_letters_of_many_ids(self, store: EventStore) -> None:
        """As many as an operator may have in a file."""
        events = [an_event(event_id=number) for number in range(0, 1_000, 2)]
        await store.append([a_burial(*events)])

        found = await store.dead_letters("default", limit=5_000, event_ids=[an_id(number) for number in range(5_000)])
        assert [letter.event for letter in found] == events

    async def test_asking_of_an_unknown_project_does_not_make_it(self, store: EventStore) -> None:
        """It has no letters, and nothing to replay or to drop."""
        event = an_event()

        assert list(await store.dead_letters("unheard-of", limit=10)) == []
        assert list(await store.dead_letters("unheard-of", limit=10, event_ids=[event.event_id])) == []
        assert await store.replay("unheard-of", names_of(event)) == Replay()
        assert await store.drop("unheard-of", names_of(event)) == 0
        await store.check(a_chunk(event, dead=[a_death(event)], project="unheard-of"))
        assert (await store.describe()).counts == {}

    async def test_another_opener_sees_letters_come_and_go(self, store: EventStore, beside: EventStore) -> None:
        """A worker buries, an operator's command looks and replays, the API answers with it."""
        one, other = an_event(event_id=1), an_event(event_id=2, user_id="grace")
        burial = a_burial(one, other)
        await store.append([burial])
        seen_beside = await all_letters(beside)
        replayed = await beside.replay("default", names_of(one))
        dropped = await beside.drop("default", names_of(other))

        assert (seen_beside, replayed, dropped) == (letters_of(burial), Replay(stored=1), 1)
        assert await all_letters(store) == []
        assert await ask_tallies(store, a_query()) == [(1, 1)]
        assert await find_events(store, [one, other]) == [one]
        assert list(await store.verify()) == []

    async def test_letters_are_there_after_reopening(
        self, store: EventStore, reopen: Callable[[], Awaitable[EventStore]]
    ) -> None:
        """With what was replayed and dropped of them, and they can be replayed still."""
        events = [an_event(event_id=number, user_id=f"user {number}") for number in range(3)]
        burial = a_burial(*events, a_poison(), import_id=bytes(range(16)))
        await store.append([burial])
        await store.replay("default", names_of(events[0]))
        await store.drop("default", names_of(events[1]))
        before = await tell_everything(store, [a_chunk(*events)])
        reopened = await reopen()

        assert await tell_everything(reopened, [a_chunk(*events)]) == before
        assert await reopened.replay("default", names_of(*events)) == Replay(stored=1)
        assert await all_books(reopened) == [Book(date=DAY, received=4, accepted=4, stored=2, dead=2)]
        assert list(await reopened.verify()) == []
