"""Many tasks, and several openers, use one store at once."""

import asyncio
from collections import Counter

from eventcore.calendar import Span
from eventcore.contract.event_store.asking import (
    DAY,
    DAY_US,
    HOUR_US,
    a_query,
    all_books,
    ask_tallies,
    ask_types,
    find_events,
    row_counts,
)
from eventcore.contract.event_store.backend import StoreFixtures
from eventcore.events import Book, Counts, Receipt
from eventcore.ports import EventStore
from eventcore.strategies import a_chunk, an_event


class Concurrency(StoreFixtures):
    """Many tasks use one store at once."""

    async def test_overlapping_appends_store_each_id_once(self, store: EventStore) -> None:
        """Twenty tasks send the same hundred events in different orders: each is stored by exactly one of them."""
        sent = [an_event(event_id=number, user_id=f"user {number % 7}") for number in range(100)]
        chunks = [
            a_chunk(*(sent[(turn * 13 + number * (1 if turn % 2 else -1)) % 100] for number in range(60)))
            for turn in range(20)
        ]
        receipts = [receipt for [receipt] in await asyncio.gather(*(store.append([chunk]) for chunk in chunks))]

        winners = [
            event.event_id
            for chunk, receipt in zip(chunks, receipts, strict=True)
            for index, event in enumerate(chunk.events)
            if index not in receipt.duplicates
        ]
        assert sorted(winners) == sorted({event.event_id for chunk in chunks for event in chunk.events})
        assert [receipt.conflicts for receipt in receipts] == [()] * 20
        assert await row_counts(store) == {"events": len(winners), "users": 7, "conflicts": 0}
        assert await all_books(store) == [
            Book(date=DAY, received=1_200, accepted=len(winners), stored=len(winners), duplicates=1_200 - len(winners))
        ]
        assert await ask_tallies(store, a_query()) == [(7, len(winners))]
        assert list(await store.verify()) == []

    async def test_a_chunk_delivered_many_times_at_once_counts_once(self, store: EventStore) -> None:
        """Several workers may hold the same delivery."""
        chunk = a_chunk(an_event(), an_event(event_id=2), counts=Counts(rejected=1), queued=True)
        receipts = await asyncio.gather(*(store.append([chunk]) for _ in range(20)))

        assert [list(receipt) for receipt in receipts] == [[Receipt()]] * 20
        assert await all_books(store) == [Book(date=DAY, received=3, accepted=2, stored=2, rejected=1)]

    async def test_one_of_two_contents_wins(self, store: EventStore) -> None:
        """Twenty tasks send ten contents of one id, each twice: one content is stored, nine are kept as conflicts."""
        contents = [an_event(user_id=f"user {number % 10}") for number in range(20)]
        receipts = await asyncio.gather(*(store.append([a_chunk(event)]) for event in contents))

        assert Counter(receipt for [receipt] in receipts) == {
            Receipt(): 1,
            Receipt(duplicates=(0,)): 1,
            Receipt(conflicts=(0,)): 18,
        }
        assert await row_counts(store) == {"events": 1, "users": 1, "conflicts": 9}

    async def test_no_snapshot_holds_half_an_append(self, store: EventStore) -> None:
        """Every append brings a new user with one event of a new type on each of two days.

        Whenever an answer is read, it has as many users as events and types, and as many on both days.
        """
        days: list[Span] = [((0, DAY_US),), ((DAY_US, 2 * DAY_US),)]
        off_the_quarter: list[Span] = [((0, DAY_US - 1),), ((DAY_US, 2 * DAY_US - 1),)]

        async def read(slots: list[Span]) -> set[tuple[int, int, int]]:
            [part] = (await store.activity(a_query(*slots, split="event_type"))).selections
            return {(len(tally.users), tally.events, len(tally.parts)) for tally in part.slots}

        async def keep_writing(first: int) -> None:
            for turn in range(first, 200, 4):
                one, other = (
                    an_event(event_id=number, user_id=f"user {turn}", event_type=f"type {turn}", occurred_us=at_us)
                    for number, at_us in ((2 * turn, HOUR_US), (2 * turn + 1, DAY_US + HOUR_US))
                )
                await store.append([a_chunk(one), a_chunk(other)])
                await asyncio.sleep(0)

        async def keep_reading(slots: list[Span]) -> list[set[tuple[int, int, int]]]:
            answers = []
            while not writing.done():
                answers.append(await read(slots))
                await asyncio.sleep(0)
            return answers

        writing = asyncio.gather(*(keep_writing(first) for first in range(4)))
        answers = await asyncio.gather(keep_reading(days), keep_reading(off_the_quarter))
        await writing

        whole = [{(number, number, number)} for number in range(201)]
        assert [answer for read_on in answers for answer in read_on if answer not in whole] == []
        assert [await read(days), await read(off_the_quarter)] == [{(200, 200, 200)}] * 2

    async def test_a_cancelled_append_is_all_or_nothing(self, store: EventStore) -> None:
        """Its outcome is unknown to the caller; sending the same events again is always right."""
        sent = [an_event(event_id=number, user_id=f"user {number}") for number in range(600)]
        tasks = [
            asyncio.create_task(
                store.append([a_chunk(*sent[start : start + 50]), a_chunk(*sent[start + 50 : start + 100])])
            )
            for start in range(0, 600, 100)
        ]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

        again = [await store.append([a_chunk(*sent[start : start + 100])]) for start in range(0, 600, 100)]
        assert {len(receipt.duplicates) for [receipt] in again} <= {0, 100}
        assert await find_events(store, sent) == sent
        assert await ask_tallies(store, a_query()) == [(600, 600)]
        assert list(await store.verify()) == []

    async def test_two_openers_share_one_place(self, store: EventStore, beside: EventStore) -> None:
        """An API and a worker: each id is stored once between them, and both give the same answers."""
        sent = [an_event(event_id=number, user_id=f"user {number % 5}") for number in range(200)]
        receipts = await asyncio.gather(
            *(
                one.append([a_chunk(*sent[start : start + 40])])
                for start in range(0, 200, 20)
                for one in (store, beside)
            )
        )

        repeats = sum(len(receipt.duplicates) for [receipt] in receipts)
        handed_in = 2 * (9 * 40 + 20)
        assert handed_in - repeats == 200
        assert await store.epoch() == await beside.epoch()
        assert await store.activity(a_query()) == await beside.activity(a_query())
        assert await ask_tallies(beside, a_query()) == [(5, 200)]
        assert await all_books(store) == [
            Book(date=DAY, received=handed_in, accepted=200, stored=200, duplicates=repeats)
        ]
        assert list(await beside.verify()) == []

    async def test_another_opener_sees_an_append_at_once(self, store: EventStore, beside: EventStore) -> None:
        """Nothing that was answered before may be answered from memory after somebody else's append."""
        turns = [
            (
                await one.append([a_chunk(an_event(event_id=turn, user_id=f"user {turn}", event_type=f"type {turn}"))]),
                await ask_types(other, a_query(split="event_type")),
            )
            for turn, (one, other) in enumerate([(store, beside), (beside, store)] * 5)
        ]

        assert [types for _, types in turns] == [
            [{f"type {number}": (1, 1) for number in range(turn + 1)}] for turn in range(10)
        ]
