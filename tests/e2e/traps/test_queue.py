"""Traps 4, 5 and 8: between the answer and the store nothing is lost, and nothing is answered that is not kept."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

import eventcore.chunks
import eventcore.draining
from adapters.memory import open_store
from adapters.nats import open_queue
from eventcore.errors import Kind, StoreError
from eventcore.events import Chunk, Receipt
from eventcore.ports import Delivery, EventStore
from eventcore.strategies import a_chunk, an_event
from tests.e2e.traps.homes import (
    WAIT_SECONDS,
    Urls,
    a_batch,
    a_consumer,
    a_core,
    booked,
    counted,
    drain_all,
    drain_once,
    send_until_told,
    stored,
)
from tests.support.servers import Server

pytestmark = pytest.mark.e2e

LONG_TEXT = "x" * 3_000


def a_large_chunk(number: int) -> Chunk:
    """Some 150 kB of random text, which nothing makes smaller."""
    text = random.Random(number).randbytes(75_000).hex()
    return a_chunk(an_event(event_id=number, properties={"text": text}), queued=True)


class AwayStore:
    """A store that refuses so many appends because it is away."""

    def __init__(self, store: EventStore, refusals: int) -> None:
        self._store = store
        self._refusals = refusals

    async def append(self, chunks: Sequence[Chunk]) -> Sequence[Receipt]:
        if self._refusals:
            self._refusals -= 1
            raise StoreError(Kind.UNAVAILABLE, "away", "the store does not answer; try again")
        return await self._store.append(chunks)

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


async def kept(store: Any) -> int:
    """How many events are in it."""
    counts = (await store.describe()).counts.get("default", {})
    return int(counts.get("events", 0))


@dataclass(slots=True)
class Unheard:
    """A delivery whose acknowledgement gets lost on its way."""

    delivery: Delivery
    body: bytes = field(init=False)
    name: str = field(init=False)
    attempt: int = field(init=False)

    def __post_init__(self) -> None:
        self.body, self.name, self.attempt = self.delivery.body, self.delivery.name, self.delivery.attempt

    async def ack(self) -> None:
        return

    async def retry(self, delay_seconds: float) -> None:
        return

    async def extend(self) -> None:
        return


# Trap 4


async def test_a_full_stream_refuses_the_new_and_keeps_the_old(queue_url: str) -> None:
    store = await open_store()
    queue = await open_queue(queue_url, store=store)
    acknowledged = []
    refusals = []
    for number in range(20):
        try:
            await queue.publish([a_large_chunk(number)])
        except StoreError as error:
            refusals.append((error.kind, error.retryable))
        else:
            acknowledged.append(number)
    await drain_all(store, queue_url)
    chunks = [a_large_chunk(number) for number in acknowledged]
    assert len(await store.find("default", [chunk.events[0].event_id for chunk in chunks])) == len(chunks)
    assert set(refusals) == {(Kind.FULL, True)}
    await queue.publish([a_large_chunk(99)])
    await queue.close()


async def test_an_outage_longer_than_any_number_of_deliveries_loses_nothing(queue_url: str) -> None:
    store = AwayStore(await open_store(), refusals=12)
    async with a_consumer(queue_url) as consumer:
        queue = await open_queue(queue_url, store=store)  # type: ignore[arg-type]
        await queue.publish([a_chunk(an_event(event_id=number), queued=True) for number in range(3)])
        while deliveries := await consumer.fetch(50, 1.5):
            await drain_once(store, deliveries)  # type: ignore[arg-type]
        await queue.close()
    assert await kept(store) == 3


async def test_a_chunk_of_a_newer_sender_waits_for_a_worker_that_can_read_it(
    queue_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_store()
    queue = await open_queue(queue_url, store=store)
    version = eventcore.chunks.CODEC_VERSION
    monkeypatch.setattr(eventcore.draining, "STUCK_SECONDS", 0.2)
    monkeypatch.setattr(eventcore.chunks, "CODEC_VERSION", version + 1)
    await queue.publish([a_chunk(an_event(event_id=1), queued=True)])
    monkeypatch.setattr(eventcore.chunks, "CODEC_VERSION", version)
    async with a_consumer(queue_url) as consumer:
        for _ in range(3):
            await drain_once(store, await consumer.fetch(50, 0.5))
    assert await kept(store) == 0
    monkeypatch.setattr(eventcore.chunks, "CODEC_VERSION", version + 1)
    await drain_all(store, queue_url, silence_seconds=1.5)
    await queue.close()
    assert await kept(store) == 1


# Trap 5


async def test_one_refused_chunk_of_a_batch_is_a_refused_batch(postgres_url: str, queue_url: str) -> None:
    """The first chunks of the batch fit into the stream, the others do not."""
    numbers = range(1_000)
    body = a_batch(numbers, properties={"text": LONG_TEXT})
    async with a_core(Urls(store=postgres_url, queue=queue_url)) as core:
        told = None
        for _ in range(2):
            try:
                told = await core.ingest_body(body)
            except StoreError as error:
                if error.kind is not Kind.FULL:
                    raise
            else:
                break
            await drain_all(core.store, queue_url, silence_seconds=0.3)
        await drain_all(core.store, queue_url)
        assert told is None, f"{len(await stored(core, numbers))} of {told.accepted} accepted events are stored"
        half = a_batch(numbers[:200], properties={"text": LONG_TEXT})
        await send_until_told(core, half)
        await drain_all(core.store, queue_url)
        assert await stored(core, numbers[:200]) == set(numbers[:200])


async def test_a_redelivered_chunk_changes_no_book(postgres_url: str, queue_url: str) -> None:
    """All acknowledgements of a worker are lost, so every chunk comes again, in another company."""
    async with a_core(Urls(store=postgres_url, queue=queue_url)) as core, a_consumer(queue_url) as consumer:
        assert await send_until_told(core, a_batch([*range(1_200), 3], properties={})) == (1_200, 1, 0, 0)
        for most in (2, 1, 3):
            await drain_once(core.store, [Unheard(each) for each in await consumer.fetch(most, 2.0)])
        await drain_all(core.store, queue_url, silence_seconds=1.5)
        assert await booked(core) == {"received": 1_201, "accepted": 1_200, "duplicates": 1, "stored": 1_200}
        assert await counted(core) == 1_200
        assert list(await core.store.verify()) == []


async def test_a_batch_of_nothing_but_repeats_is_booked_at_the_first_delivery(
    postgres_url: str, queue_url: str
) -> None:
    """Its chunk has counts and no events, and must not hold up what is delivered behind it."""
    async with a_core(Urls(store=postgres_url, queue=queue_url)) as core, a_consumer(queue_url) as consumer:
        await send_until_told(core, a_batch([1]))
        await drain_once(core.store, await consumer.fetch(50, 2.0))
        await send_until_told(core, a_batch([1]))
        await send_until_told(core, a_batch([2]))
        await drain_once(core.store, await consumer.fetch(50, 2.0))
        assert await booked(core) == {"received": 3, "accepted": 2, "duplicates": 1, "stored": 2}


# Trap 8


async def test_no_publish_lies_or_hangs_while_the_broker_dies(own_queue_url: str, own_nats: Server) -> None:
    """Twenty tasks publish while it is killed again and again, once for longer; afterwards all goes on unaided."""
    store = await open_store()
    queue = await open_queue(own_queue_url, store=store)
    acknowledged: set[bytes] = set()
    ended = asyncio.Event()
    errors = 0

    async def keep_publishing(lane: int) -> None:
        nonlocal errors
        number = lane * 1_000_000
        while not ended.is_set():
            number += 1
            chunk = a_chunk(an_event(event_id=number), queued=True)
            try:
                async with asyncio.timeout(WAIT_SECONDS):
                    await queue.publish([chunk])
            except StoreError as error:
                if not error.retryable:
                    raise
                errors += 1
                await asyncio.sleep(0.02)
            else:
                acknowledged.add(chunk.events[0].event_id)

    lanes = [asyncio.create_task(keep_publishing(lane)) for lane in range(20)]
    for away_seconds in (0.0, 0.0, 1.5):
        await asyncio.sleep(0.3)
        await asyncio.to_thread(own_nats.kill)
        await asyncio.sleep(away_seconds)
        await asyncio.to_thread(own_nats.start)
    before = len(acknowledged)
    async with asyncio.timeout(WAIT_SECONDS):
        while len(acknowledged) < before + 20:
            await asyncio.sleep(0.05)
    ended.set()
    async with asyncio.timeout(WAIT_SECONDS):
        await asyncio.gather(*lanes)
    await drain_all(store, own_queue_url)
    assert errors
    assert acknowledged - (await store.find("default", list(acknowledged))).keys() == set()
    await queue.close()
