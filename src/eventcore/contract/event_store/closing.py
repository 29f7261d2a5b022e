"""What is refused after the end, and what is there after reopening."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from eventcore.contract.event_store.admitting import an_api_key
from eventcore.contract.event_store.asking import (
    DAY,
    a_busy_day,
    a_query,
    all_books,
    an_import,
    ask_tallies,
    tell_everything,
)
from eventcore.contract.event_store.backend import StoreFixtures
from eventcore.errors import Kind, StoreError
from eventcore.events import Book, Receipt
from eventcore.ports import EventStore
from eventcore.strategies import AN_INSTANT_US, a_chunk, an_event, an_id


class Closing(StoreFixtures):
    """What is there after the end."""

    @pytest.mark.parametrize(
        "call",
        [
            lambda store: store.append([a_chunk(an_event())]),
            lambda store: store.append([]),
            lambda store: store.check(a_chunk(an_event())),
            lambda store: store.dead_letters("default", limit=1),
            lambda store: store.replay("default", [bytes(32)]),
            lambda store: store.drop("default", [bytes(32)]),
            lambda store: store.find("default", [an_id(1)]),
            lambda store: store.activity(a_query()),
            lambda store: store.books("default", DAY, DAY),
            lambda store: store.record_import("default", an_import()),
            lambda store: store.keys(),
            lambda store: store.put_key(an_api_key()),
            lambda store: store.touch_keys({"abcdefgh": AN_INSTANT_US}),
            lambda store: store.epoch(),
            lambda store: store.describe(),
            lambda store: store.verify(),
        ],
        ids=[
            "append",
            "append nothing",
            "check",
            "dead_letters",
            "replay",
            "drop",
            "find",
            "activity",
            "books",
            "record_import",
            "keys",
            "put_key",
            "touch_keys",
            "epoch",
            "describe",
            "verify",
        ],
    )
    async def test_a_closed_store_refuses(
        self, store: EventStore, call: Callable[[EventStore], Awaitable[object]]
    ) -> None:
        """Every method does, with an error that says that trying again elsewhere can help."""
        await store.append([a_chunk(an_event())])
        await store.close()

        with pytest.raises(StoreError) as caught:
            await call(store)
        assert (caught.value.kind, caught.value.retryable) == (Kind.CLOSED, True)

    async def test_closing_again_does_nothing(self, store: EventStore) -> None:
        """Two owners may each be careful."""
        await store.close()
        await store.close()

    async def test_everything_is_there_after_reopening(
        self, store: EventStore, reopen: Callable[[], Awaitable[EventStore]]
    ) -> None:
        """Events, books, conflicts, dead letters, imports, epoch, users' keys: every answer is the very same."""
        chunks = a_busy_day()
        for chunk in chunks:
            await store.append([chunk])
        await store.record_import("default", an_import())
        before = await tell_everything(store, chunks)
        reopened = await reopen()

        assert await tell_everything(reopened, chunks) == before
        assert list(await reopened.verify()) == []

    async def test_a_reopened_store_goes_on(
        self, store: EventStore, reopen: Callable[[], Awaitable[EventStore]]
    ) -> None:
        """It knows its events and its chunks, and gives new users new keys."""
        chunk = a_chunk(an_event(event_id=1), queued=True)
        await store.append([chunk])
        reopened = await reopen()
        receipts = await reopened.append(
            [
                chunk,
                a_chunk(an_event(event_id=1), an_event(event_id=2, user_id="grace")),
                a_chunk(an_event(user_id="x")),
            ]
        )

        assert list(receipts) == [Receipt(), Receipt(duplicates=(0,)), Receipt(conflicts=(0,))]
        assert await ask_tallies(reopened, a_query()) == [(2, 2)]
        assert await all_books(reopened) == [
            Book(date=DAY, received=4, accepted=2, stored=2, duplicates=1, conflicts=1)
        ]
        assert list(await reopened.verify()) == []

    async def test_every_receipt_outlives_closing(
        self, store: EventStore, reopen: Callable[[], Awaitable[EventStore]]
    ) -> None:
        """Closed in the midst of appends: who got a receipt has been stored, who was refused was told so."""
        sent = [an_event(event_id=number, user_id=f"user {number}") for number in range(16_000)]
        chunks = [a_chunk(*sent[start : start + 400]) for start in range(0, 16_000, 400)]
        tasks = [asyncio.create_task(store.append([chunk])) for chunk in chunks]
        await asyncio.sleep(0)
        reopened = await reopen()
        results = await asyncio.gather(*tasks, return_exceptions=True)

        stored = (await reopened.find("default", [event.event_id for event in sent])).keys()
        refusals = [result for result in results if isinstance(result, BaseException)]
        promised = {
            event.event_id
            for chunk, result in zip(chunks, results, strict=True)
            if not isinstance(result, BaseException)
            for event in chunk.events
        }
        assert promised <= stored
        assert {type(refusal) for refusal in refusals} <= {StoreError}
        assert list(await reopened.verify()) == []
