"""What every `eventcore.ports.Consumer` must do: each message to one worker at a time, until it is acknowledged.

The queue at its other end is tested too: what it was given comes out whole, and is pending until then. How to use it is
in `eventcore.contract`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
import pytest_asyncio

from eventcore.calendar import to_instant
from eventcore.chunks import decode_chunk
from eventcore.contract.queue import ScriptedStore
from eventcore.errors import Kind, StoreError
from eventcore.events import Chunk, Counts
from eventcore.ports import Consumer, Delivery, EventStore, Pending, Queue
from eventcore.strategies import HOSTILE_TEXTS, a_chunk, an_event

SLACK_SECONDS = 2.0
"""What a message may take on its way through a busy machine, above the time that it has to wait."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConsumerBackend:
    """How to open both ends of a queue, which is empty when the test begins.

    Attributes:
        name: for the reasons of skips.
        open_queue: opens the sender's end, in front of a store.
        open_consumer: opens a worker's end; there may be several.
        ack_wait_seconds: how long the queue waits for a word about a message; short, for tests wait for it.
    """

    name: str
    open_queue: Callable[[EventStore], Awaitable[Queue]]
    open_consumer: Callable[[], Awaitable[Consumer]]
    ack_wait_seconds: float


class ConsumerContract:
    """Subclass it and give it a fixture ``backend``, a `ConsumerBackend`."""

    pytestmark = pytest.mark.asyncio

    @pytest_asyncio.fixture
    async def queue(self, backend: ConsumerBackend) -> AsyncIterator[Queue]:
        """The sender's end."""
        queue = await backend.open_queue(ScriptedStore())
        yield queue
        await queue.close()

    @pytest_asyncio.fixture
    async def consumer(self, backend: ConsumerBackend) -> AsyncIterator[Consumer]:
        """A worker's end."""
        consumer = await backend.open_consumer()
        yield consumer
        await consumer.close()

    @pytest_asyncio.fixture
    async def another(self, backend: ConsumerBackend) -> AsyncIterator[Consumer]:
        """Another worker's end."""
        consumer = await backend.open_consumer()
        yield consumer
        await consumer.close()

    async def test_is_a_consumer_of_deliveries(self, queue: Queue, consumer: Consumer) -> None:
        """Both have every member of their ports."""
        await queue.publish([_chunk(1)])

        assert isinstance(consumer, Consumer)
        (delivery,) = await consumer.fetch(1, SLACK_SECONDS)
        assert isinstance(delivery, Delivery)

    async def test_what_is_published_comes_out_whole(self, queue: Queue, consumer: Consumer) -> None:
        """Every part of a chunk, and texts that something in the world gets wrong."""
        chunk = a_chunk(
            *(an_event(event_id=number, user_id=text[:255]) for number, text in enumerate(HOSTILE_TEXTS)),
            project="shop-2",
            queued=True,
            conflicting=[an_event(event_id=1, user_id="another")],
            counts=Counts(duplicates=1, conflicts=2, rejected=3),
            import_id=bytes(range(16)),
        )
        await queue.publish([chunk])

        assert await _chunks(consumer) == [chunk]

    async def test_chunks_without_events_come_out_too(self, queue: Queue, consumer: Consumer) -> None:
        """They carry the books of a request whose events were all known or refused."""
        chunk = a_chunk(queued=True, counts=Counts(rejected=3))
        await queue.publish([chunk])

        assert await _chunks(consumer) == [chunk]

    async def test_large_chunks_come_out_whole(self, queue: Queue, consumer: Consumer) -> None:
        """As large as `eventcore.chunks.cut` makes them."""
        chunk = a_chunk(an_event(properties='{"text":"' + "x" * 256_000 + '"}'), queued=True)
        await queue.publish([chunk])

        assert await _chunks(consumer) == [chunk]

    async def test_messages_of_before_the_consumer_are_there(self, queue: Queue, backend: ConsumerBackend) -> None:
        """A queue keeps what it takes, whether anybody reads it or not."""
        chunk = _chunk(1)
        await queue.publish([chunk])
        consumer = await backend.open_consumer()

        assert await _chunks(consumer) == [chunk]
        await consumer.close()

    async def test_each_message_comes_once(self, queue: Queue, consumer: Consumer) -> None:
        """As many as were published, each with a name of its own, and the first time that it is delivered."""
        chunks = [_chunk(number) for number in range(20)]
        await queue.publish(chunks)
        deliveries = await _all(consumer, 20)

        assert {decode_chunk(delivery.body).chunk_id for delivery in deliveries} == {each.chunk_id for each in chunks}
        assert len({delivery.name for delivery in deliveries}) == 20
        assert {delivery.attempt for delivery in deliveries} == {1}

    async def test_fetches_at_most_so_many(self, queue: Queue, consumer: Consumer) -> None:
        """The others wait for the next fetch."""
        await queue.publish([_chunk(number) for number in range(5)])

        assert [len(await consumer.fetch(most, SLACK_SECONDS)) for most in (1, 3, 3)] == [1, 3, 1]

    async def test_fetches_nothing_when_the_time_is_over(self, consumer: Consumer) -> None:
        """Not before, and not much later."""
        began_seconds = _seconds()

        assert list(await consumer.fetch(5, 0.3)) == []
        assert 0.25 <= _seconds() - began_seconds < 0.3 + SLACK_SECONDS

    async def test_does_not_wait_when_told_so(self, queue: Queue, consumer: Consumer) -> None:
        """What is there comes, at the latest a moment behind its publish, and nothing else is waited for."""
        async with asyncio.timeout(SLACK_SECONDS):
            assert list(await consumer.fetch(5, 0)) == []
            await queue.publish([_chunk(1)])
            while not (found := await consumer.fetch(5, 0)):
                pass
        assert len(found) == 1

    async def test_fetches_as_soon_as_there_are_any(self, queue: Queue, consumer: Consumer) -> None:
        """A fetch that waits does not wait for as many as it could take."""
        fetching = asyncio.create_task(_fetch(consumer, 10, 30.0))
        await asyncio.sleep(0.2)
        await queue.publish([_chunk(1)])

        async with asyncio.timeout(SLACK_SECONDS):
            assert len(await fetching) == 1

    async def test_an_acknowledged_message_never_comes_again(
        self, queue: Queue, consumer: Consumer, backend: ConsumerBackend
    ) -> None:
        """Also when it was acknowledged twice."""
        await queue.publish([_chunk(1), _chunk(2)])
        for delivery in await _all(consumer, 2):
            await delivery.ack()
            await delivery.ack()

        assert list(await consumer.fetch(5, backend.ack_wait_seconds + 0.5)) == []

    async def test_a_message_comes_again_until_it_is_acknowledged(
        self, queue: Queue, consumer: Consumer, backend: ConsumerBackend
    ) -> None:
        """The same one, not before the queue has waited, and counted."""
        chunk = _chunk(1)
        await queue.publish([chunk])
        (first,) = await consumer.fetch(5, SLACK_SECONDS)
        began_seconds = _seconds()
        again: list[Delivery] = []
        for _ in range(2):
            again += await consumer.fetch(5, backend.ack_wait_seconds + SLACK_SECONDS)

        assert _seconds() - began_seconds > 2 * backend.ack_wait_seconds * 0.9
        assert [(each.attempt, each.name) for each in (first, *again)] == [(number, first.name) for number in (1, 2, 3)]
        assert {each.body for each in again} == {first.body}

    async def test_a_message_comes_again_when_it_is_asked_for(self, queue: Queue, consumer: Consumer) -> None:
        """At once where there is no delay, without waiting for the worker's silence."""
        await queue.publish([_chunk(1)])
        (first,) = await consumer.fetch(5, SLACK_SECONDS)
        began_seconds = _seconds()
        await first.retry(0)
        (again,) = await consumer.fetch(5, SLACK_SECONDS)

        assert (again.name, again.attempt) == (first.name, 2)
        assert _seconds() - began_seconds < SLACK_SECONDS

    async def test_a_message_does_not_come_again_before_its_delay(
        self, queue: Queue, consumer: Consumer, backend: ConsumerBackend
    ) -> None:
        """Also when that is longer than the queue waits for a silent worker."""
        await queue.publish([_chunk(1)])
        (first,) = await consumer.fetch(5, SLACK_SECONDS)
        delay_seconds = 2 * backend.ack_wait_seconds
        await first.retry(delay_seconds)
        began_seconds = _seconds()
        (again,) = await consumer.fetch(5, delay_seconds + SLACK_SECONDS)

        assert (again.name, again.attempt) == (first.name, 2)
        assert _seconds() - began_seconds > delay_seconds * 0.9

    async def test_an_extended_message_stays_with_its_worker(
        self, queue: Queue, consumer: Consumer, another: Consumer, backend: ConsumerBackend
    ) -> None:
        """For as long as it is extended; then it comes again."""
        await queue.publish([_chunk(1)])
        (delivery,) = await consumer.fetch(5, SLACK_SECONDS)
        stolen: list[Delivery] = []
        for _ in range(5):
            stolen += await another.fetch(5, backend.ack_wait_seconds / 2)
            await delivery.extend()
        assert stolen == []

        (again,) = await another.fetch(5, backend.ack_wait_seconds + SLACK_SECONDS)
        assert (again.name, again.attempt) == (delivery.name, 2)

    async def test_workers_share_the_messages(self, queue: Queue, consumer: Consumer, another: Consumer) -> None:
        """Each message goes to one of them."""
        chunks = [_chunk(number) for number in range(60)]
        await queue.publish(chunks)
        got = await asyncio.gather(*(_fetch_some(each, 20) for each in (consumer, another, consumer)))

        names = [delivery.name for deliveries in got for delivery in deliveries]
        assert len(names) == len(set(names)) == 60

    async def test_a_fetch_that_was_given_up_takes_nothing_with_it(
        self, queue: Queue, consumer: Consumer, backend: ConsumerBackend
    ) -> None:
        """What comes for it comes for the next one, at the latest when the queue has waited."""
        fetching = asyncio.create_task(_fetch(consumer, 5, 30.0))
        await asyncio.sleep(0.2)
        fetching.cancel()
        with suppress(asyncio.CancelledError):
            await fetching
        chunk = _chunk(1)
        await queue.publish([chunk])

        (delivery,) = await consumer.fetch(5, backend.ack_wait_seconds + SLACK_SECONDS)
        assert decode_chunk(delivery.body) == chunk

    async def test_pending_is_what_nobody_has_acknowledged(self, queue: Queue, consumer: Consumer) -> None:
        """In events, for each project alone; being worked on is not being done."""
        await queue.publish([_chunk(1), _chunk(2, 3), _chunk(4, project="shop"), a_chunk(counts=Counts(rejected=1))])
        assert [(await queue.pending(project)).events for project in ("default", "shop", "sho")] == [3, 1, 0]

        deliveries = await _all(consumer, 4)
        assert [(await queue.pending(project)).events for project in ("default", "shop")] == [3, 1]

        for delivery in deliveries:
            if decode_chunk(delivery.body).project == "default":
                await delivery.ack()
        await _until_pending(queue, "default", 0)
        assert await queue.pending("default") == Pending()
        assert (await queue.pending("shop")).events == 1

    async def test_pending_since_is_when_the_oldest_was_received(self, queue: Queue, consumer: Consumer) -> None:
        """It moves on when that is acknowledged, and not before."""
        marks_us = []
        for number in (1, 2):
            marks_us.append(_now_us())
            await queue.publish([_chunk(number, received_us=_now_us())])
            await asyncio.sleep(0.05)
        marks_us.append(_now_us())
        since_us = (await queue.pending("default")).since_us
        assert since_us is not None
        assert marks_us[0] <= since_us < marks_us[1]

        first = {decode_chunk(each.body).events[0].event_id: each for each in await _all(consumer, 2)}
        assert (await queue.pending("default")).since_us == since_us
        await first[_chunk(1).events[0].event_id].ack()
        await _until_pending(queue, "default", 1)
        since_us = (await queue.pending("default")).since_us
        assert since_us is not None
        assert marks_us[1] <= since_us < marks_us[2]

    async def test_pending_knows_what_was_just_published(self, queue: Queue) -> None:
        """Who asks after a publish sees it: statistics must not claim to hold what they do not."""
        for number in range(1, 30):
            await queue.publish([_chunk(number)])
            found = await asyncio.gather(*(queue.pending("default") for _ in range(3)))
            assert [each.events for each in found] == [number] * 3

    async def test_refuses_when_closed(self, consumer: Consumer) -> None:
        """A closed consumer fetches nothing; closing again does nothing."""
        await consumer.close()
        await consumer.close()

        with pytest.raises(StoreError) as caught:
            await consumer.fetch(1, 0.1)
        assert (caught.value.kind, caught.value.retryable) == (Kind.CLOSED, True)

    async def test_what_a_closed_consumer_had_comes_to_another(
        self, queue: Queue, consumer: Consumer, another: Consumer, backend: ConsumerBackend
    ) -> None:
        """Words about its messages are for nobody then, and raise nothing."""
        await queue.publish([_chunk(1)])
        (delivery,) = await consumer.fetch(5, SLACK_SECONDS)
        await consumer.close()
        await delivery.extend()
        await delivery.retry(60)
        await delivery.ack()

        (again,) = await another.fetch(5, backend.ack_wait_seconds + SLACK_SECONDS)
        assert (again.name, again.attempt) == (delivery.name, 2)

    async def test_what_was_acknowledged_before_closing_is_done(
        self, queue: Queue, consumer: Consumer, another: Consumer, backend: ConsumerBackend
    ) -> None:
        """Closing at once loses no word."""
        await queue.publish([_chunk(number) for number in range(10)])
        for delivery in await _all(consumer, 10):
            await delivery.ack()
        await consumer.close()

        assert list(await another.fetch(5, backend.ack_wait_seconds + 0.5)) == []
        assert await queue.pending("default") == Pending()


def _chunk(*numbers: int, project: str = "default", received_us: int | None = None) -> Chunk:
    return a_chunk(
        *(an_event(event_id=number) for number in numbers),
        project=project,
        queued=True,
        received_us=_now_us() if received_us is None else received_us,
    )


def _now_us() -> int:
    return to_instant(datetime.now(UTC))  # noqa: TID251 (a test, not the core)


def _seconds() -> float:
    return asyncio.get_running_loop().time()


async def _fetch(consumer: Consumer, most: int, wait_seconds: float) -> Sequence[Delivery]:
    return await consumer.fetch(most, wait_seconds)


async def _fetch_some(consumer: Consumer, most: int) -> Sequence[Delivery]:
    """Several fetches, until there is nothing more."""
    found: list[Delivery] = []
    while more := await consumer.fetch(most, 0.3):
        found += more
    return found


async def _all(consumer: Consumer, number: int) -> Sequence[Delivery]:
    """So many messages, in as many fetches as it takes."""
    found: list[Delivery] = []
    async with asyncio.timeout(5 * SLACK_SECONDS):
        while len(found) < number:
            found += await consumer.fetch(number - len(found), SLACK_SECONDS)
    return found


async def _chunks(consumer: Consumer) -> Sequence[Chunk]:
    """What the messages hold that are there now."""
    return [decode_chunk(delivery.body) for delivery in await consumer.fetch(100, SLACK_SECONDS)]


async def _until_pending(queue: Queue, project: str, events: int) -> None:
    """Acknowledging takes its time."""
    async with asyncio.timeout(SLACK_SECONDS):
        while (await queue.pending(project)).events != events:  # noqa: ASYNC110 (nobody tells)
            await asyncio.sleep(0.01)
