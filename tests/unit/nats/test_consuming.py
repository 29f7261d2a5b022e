"""What a worker's end of a queue on NATS does beside its contract."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import nats
import pytest
from nats.aio.msg import Msg

from adapters.nats import consumer as consuming
from eventcore.chunks import decode_chunk
from eventcore.errors import Kind, StoreError
from eventcore.events import Chunk
from eventcore.ports import Consumer, Delivery, Queue
from eventcore.strategies import a_chunk, an_event
from tests.support.servers import Server
from tests.unit.nats.conftest import OpenConsumer, OpenQueue, consumer_of, made_again, stream_of, until
from tests.unit.nats.relay import relay_to


def a_message(number: int = 1) -> Chunk:
    return a_chunk(an_event(event_id=number), queued=True)


async def pending_is(queue: Queue, events: int) -> None:
    async with asyncio.timeout(5):
        while (await queue.pending("default")).events != events:
            await asyncio.sleep(0.01)


async def test_a_message_is_named_after_its_place_in_the_stream(
    queue_at: OpenQueue, consumer_at: OpenConsumer, url: str, client: nats.NATS
) -> None:
    queue, consumer = await queue_at(url), await consumer_at(url)
    await queue.publish([a_message(1)])
    await queue.publish([a_message(2)])
    first = (await client.jsm().stream_info(stream_of(url))).state.first_seq
    assert [each.name for each in await consumer.fetch(5, 1)] == [
        f"{stream_of(url)}:{number}" for number in (first, first + 1)
    ]


async def test_an_acknowledgement_never_means_a_message_of_another_stream(
    queue_at: OpenQueue, consumer_at: OpenConsumer, url: str, client: nats.NATS
) -> None:
    """Where the stream was made again meanwhile, under the same name: a late word must not cost a new message."""
    queue, consumer = await queue_at(url), await consumer_at(url)
    await queue.publish([a_message(number) for number in range(5)])
    late = await consumer.fetch(5, 1)
    await client.jsm().delete_stream(stream_of(url))
    await until(lambda: queue.publish([a_message(number) for number in range(10, 15)]))
    new = await until(lambda: consumer.fetch(5, 1))

    for delivery in late:
        await delivery.ack()
    await asyncio.sleep(0.2)
    assert (await queue.pending("default")).events == len(new) == 5


async def test_an_acknowledgement_that_was_lost_means_one_more_delivery(
    queue_at: OpenQueue, consumer_at: OpenConsumer, url: str, nats_server: Server
) -> None:
    """F16"""
    async with relay_to(nats_server.url) as relay:
        queue, consumer = await queue_at(url), await consumer_at(url.replace(nats_server.url, relay.url))
        await queue.publish([a_message()])
        (first,) = await consumer.fetch(5, 1)
        relay.lose_acks = True
        await first.ack()
        assert (await queue.pending("default")).events == 1

        (again,) = await consumer.fetch(5, 3)
        assert relay.lost_acks == 1
        assert (again.body, again.name, again.attempt) == (first.body, first.name, 2)
        relay.lose_acks = False
        await again.ack()
        await pending_is(queue, 0)


async def test_a_word_that_is_on_its_way_arrives_though_its_worker_closes(
    queue_at: OpenQueue, consumer_at: OpenConsumer, url: str, nats_server: Server
) -> None:
    async with relay_to(nats_server.url) as relay:
        queue, consumer = await queue_at(url), await consumer_at(url.replace(nats_server.url, relay.url))
        await queue.publish([a_message(1), a_message(2)])
        deliveries = await consumer.fetch(5, 1)
        relay.delay_seconds = 0.3
        for delivery in deliveries:
            await delivery.ack()
        await consumer.close()
        assert (await queue.pending("default")).events == 0


async def test_what_is_acknowledged_without_a_connection_is_told_to_the_next_one(
    queue_at: OpenQueue, consumer_at: OpenConsumer, url: str, nats_server: Server
) -> None:
    """A message that is stored does not come again for the time that the server was away."""
    patient = url.replace("ack_wait_seconds=1", "ack_wait_seconds=60")
    async with relay_to(nats_server.url) as relay:
        queue = await queue_at(patient)
        consumer = await consumer_at(patient.replace(nats_server.url, relay.url))
        await queue.publish([a_message(1), a_message(2)])
        deliveries = await consumer.fetch(5, 1)
        relay.refuse = True
        relay.cut()
        await asyncio.sleep(0.1)
        for delivery in deliveries:
            await delivery.extend()
            await delivery.ack()
        await asyncio.sleep(0.1)
        assert (await queue.pending("default")).events == 2
        relay.refuse = False
        await pending_is(queue, 0)


async def test_what_comes_too_late_for_a_fetch_comes_with_the_next_one(
    queue_at: OpenQueue, consumer_at: OpenConsumer, url: str
) -> None:
    """At once, and not when the server has waited for a word about it."""
    patient = url.replace("ack_wait_seconds=1", "ack_wait_seconds=60")
    queue, consumer = await queue_at(patient), await consumer_at(patient)
    fetching = asyncio.create_task(_fetch(consumer, 5))
    await asyncio.sleep(0.1)
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    chunk = a_message()
    await queue.publish([chunk])
    await asyncio.sleep(0.1)

    (delivery,) = await consumer.fetch(5, 1)
    assert (decode_chunk(delivery.body), delivery.attempt) == (chunk, 1)


async def test_what_came_for_a_fetch_that_failed_comes_with_the_next_one(
    queue_at: OpenQueue, consumer_at: OpenConsumer, url: str, nats_server: Server
) -> None:
    """The server has counted it as delivered, and would be silent about it for long."""
    patient = url.replace("ack_wait_seconds=1", "ack_wait_seconds=60")
    async with relay_to(nats_server.url) as relay:
        queue = await queue_at(patient)
        consumer = await consumer_at(f"{patient.replace(nats_server.url, relay.url)}&timeout_seconds=0.3")
        await queue.publish([a_message(number) for number in range(3)])
        relay.lose_ends = True
        with pytest.raises(StoreError) as caught:
            await consumer.fetch(10, 1)
        assert caught.value.kind is Kind.TIMEOUT
        assert [each.attempt for each in await consumer.fetch(10, 1)] == [1, 1, 1]


async def test_what_nobody_was_given_goes_to_another_when_its_holder_closes(
    queue_at: OpenQueue, consumer_at: OpenConsumer, url: str
) -> None:
    patient = url.replace("ack_wait_seconds=1", "ack_wait_seconds=60")
    queue, consumer, another = await queue_at(patient), await consumer_at(patient), await consumer_at(patient)
    fetching = asyncio.create_task(_fetch(consumer, 5))
    await asyncio.sleep(0.1)
    fetching.cancel()
    await asyncio.gather(fetching, return_exceptions=True)
    await queue.publish([a_message()])
    await asyncio.sleep(0.1)
    assert list(await another.fetch(5, 0.1)) == []

    await consumer.close()
    (delivery,) = await another.fetch(5, 1)
    assert delivery.attempt == 2


async def test_what_was_kept_too_long_is_left_to_others(
    queue_at: OpenQueue, consumer_at: OpenConsumer, url: str
) -> None:
    """Half the time in which the server waits for a word is gone: soon it gives the message to somebody."""
    queue, consumer = await queue_at(url), await consumer_at(url)
    fetching = asyncio.create_task(_fetch(consumer, 5))
    await asyncio.sleep(0.1)
    fetching.cancel()
    await asyncio.gather(fetching, return_exceptions=True)
    await queue.publish([a_message()])
    await asyncio.sleep(0.6)

    (delivery,) = await consumer.fetch(5, 3)
    assert delivery.attempt == 2


async def test_fetches_that_are_given_up_lose_nothing(queue_at: OpenQueue, consumer_at: OpenConsumer, url: str) -> None:
    """At whatever moment."""
    queue, consumer = await queue_at(url), await consumer_at(url)
    chunks = [a_message(number) for number in range(60)]
    publishing = asyncio.create_task(_publish_slowly(queue, chunks))
    found: set[bytes] = set()
    for number in range(60):
        fetching = asyncio.create_task(_fetch(consumer, 5))
        await asyncio.sleep(number / 3_000)
        fetching.cancel()
        with suppress(asyncio.CancelledError):
            found |= await _acknowledged(await fetching)
    await publishing
    async with asyncio.timeout(10):
        while len(found) < 60:
            found |= await _acknowledged(await consumer.fetch(10, 1))
    assert found == {chunk.chunk_id for chunk in chunks}
    await pending_is(queue, 0)


async def test_many_fetches_at_once_share_what_there_is(
    queue_at: OpenQueue, consumer_at: OpenConsumer, url: str
) -> None:
    """The lanes of a worker; each waits alone, and gets no more than it asked for."""
    queue, consumer = await queue_at(url), await consumer_at(url)
    fetching = [asyncio.create_task(_fetch(consumer, 2)) for _ in range(10)]
    await asyncio.sleep(0.1)
    await queue.publish([a_message(number) for number in range(20)])
    names: list[str] = []
    for deliveries in await asyncio.gather(*fetching):
        assert 1 <= len(deliveries) <= 2
        names += [delivery.name for delivery in deliveries]
    while more := await consumer.fetch(5, 0.2):
        names += [delivery.name for delivery in more]
    assert len(names) == len(set(names)) == 20


async def test_an_idle_worker_asks_seldom(consumer_at: OpenConsumer, url: str, nats_server: Server) -> None:
    """A fetch that waits is one question, whatever its time; and it has one inbox for all of them."""
    async with relay_to(nats_server.url) as relay:
        consumer = await consumer_at(url.replace(nats_server.url, relay.url))
        for _ in range(5):
            await consumer.fetch(5, 0.1)
        assert relay.said.count(b"CONSUMER.MSG.NEXT") == 10
        assert relay.said.count(b"SUB _INBOX") == 2  # with the one for answers


async def test_a_consumer_that_is_gone_is_made_again(
    queue_at: OpenQueue, consumer_at: OpenConsumer, url: str, client: nats.NATS
) -> None:
    """A fetch that waits says so at once; the next one goes on."""
    queue, consumer = await queue_at(url), await consumer_at(url)
    fetching = asyncio.create_task(_fetch(consumer, 5))
    await asyncio.sleep(0.1)
    began_seconds = time.monotonic()
    await client.jsm().delete_consumer(stream_of(url), await consumer_of(client, url))
    with pytest.raises(StoreError) as caught:
        await fetching
    assert (caught.value.kind, caught.value.code) == (Kind.UNAVAILABLE, "no_consumer")
    assert "Consumer Deleted" in caught.value.message
    assert time.monotonic() - began_seconds < 1

    await queue.publish([a_message()])
    assert len(await consumer.fetch(5, 1)) == 1


async def test_behind_a_silence_the_consumer_is_looked_for(
    consumer_at: OpenConsumer, url: str, client: nats.NATS, nats_server: Server
) -> None:
    """Some versions of NATS are silent where there is none."""
    async with relay_to(nats_server.url) as relay:
        consumer = await consumer_at(f"{url.replace(nats_server.url, relay.url)}&timeout_seconds=0.5")
        relay.lose_answers = True
        with pytest.raises(StoreError) as caught:
            await consumer.fetch(5, 0.1)
        assert caught.value.kind is Kind.TIMEOUT
        await client.jsm().delete_consumer(stream_of(url), await consumer_of(client, url))
        relay.lose_answers = False
        assert list(await consumer.fetch(5, 0.1)) == []


async def test_a_stream_that_is_gone_is_made_again(
    queue_at: OpenQueue, consumer_at: OpenConsumer, url: str, client: nats.NATS
) -> None:
    """Each call says so once: that there is nothing to fetch, or nothing pending, would be a lie."""
    queue, consumer, reader = await queue_at(url), await consumer_at(url), await queue_at(url)
    await queue.publish([a_message()])
    await client.jsm().delete_stream(stream_of(url))

    for attempt in (queue.publish([a_message()]), consumer.fetch(5, 1), reader.pending("default")):
        with pytest.raises(StoreError) as caught:
            await attempt
        assert caught.value.kind is Kind.UNAVAILABLE
        assert caught.value.code in ("no_stream", "no_consumer")
    assert "nobody can say how fresh the numbers are" in caught.value.message  # the last one: what is pending
    await until(lambda: queue.publish([a_message()]))
    assert (await reader.pending("default")).events == 1
    assert len(await until(lambda: consumer.fetch(5, 1))) == 1


async def test_a_stream_that_came_back_unsafe_is_not_used(
    queue_at: OpenQueue, consumer_at: OpenConsumer, url: str, client: nats.NATS
) -> None:
    """Until somebody mends it; senders are told to come again, for nothing is wrong with their events."""
    queue, consumer = await queue_at(url), await consumer_at(url)
    name = stream_of(url)
    await client.jsm().delete_stream(name)
    with pytest.raises(StoreError):
        await queue.publish([a_message()])
    with pytest.raises(StoreError):
        await consumer.fetch(1, 0.1)
    safe = {"name": name, "subjects": [f"{name.lower()}.*.*"], "retention": "workqueue", "max_bytes": 4_000_000}
    await made_again(client, **safe, discard="old")
    for attempt in (queue.publish([a_message()]), consumer.fetch(1, 0.1)):
        with pytest.raises(StoreError) as caught:
            await attempt
        assert (caught.value.kind, caught.value.code) == (Kind.UNAVAILABLE, "unsafe_queue")
        assert "discard=old" in caught.value.message

    await client.jsm().update_stream(**safe, discard="new")
    await queue.publish([a_message()])
    assert len(await consumer.fetch(1, 1)) == 1


@pytest.mark.parametrize("status", ["409 Server Shutdown", "409 Leadership Change", "503"])
async def test_a_server_that_will_not_answer_is_not_taken_for_an_empty_queue(
    queue_at: OpenQueue, consumer_at: OpenConsumer, url: str, nats_server: Server, status: str
) -> None:
    async with relay_to(nats_server.url) as relay:
        consumer = await consumer_at(url.replace(nats_server.url, relay.url))
        fetching = asyncio.create_task(_fetch(consumer, 5))
        await asyncio.sleep(0.1)
        subscription = relay.said.rpartition(b"SUB ")[2].split(b"\r\n")[0].split()
        reply = relay.said.rpartition(b"MSG.NEXT")[2].split()[1]
        header = f"NATS/1.0 {status}\r\n\r\n".encode()
        relay.say(b"HMSG %s %s %d %d\r\n%s\r\n" % (reply, subscription[-1], len(header), len(header), header))
        with pytest.raises(StoreError) as caught:
            await fetching
        assert (caught.value.kind, caught.value.code) == (Kind.UNAVAILABLE, "no_consumer")
        queue = await queue_at(url)
        await queue.publish([a_message()])
        assert len(await until(lambda: consumer.fetch(5, 1))) == 1


async def _fetch(consumer: Consumer, most: int) -> Sequence[Delivery]:
    return await consumer.fetch(most, 10)


async def _publish_slowly(queue: Queue, chunks: Sequence[Chunk]) -> None:
    for chunk in chunks:
        await queue.publish([chunk])
        await asyncio.sleep(0.005)


async def _acknowledged(deliveries: Sequence[Delivery]) -> set[bytes]:
    for delivery in deliveries:
        await delivery.ack()
    return {decode_chunk(delivery.body).chunk_id for delivery in deliveries}


class _Silent:
    """A connection for an inbox; what arrives is said by the test."""

    def new_inbox(self) -> str:
        return "_INBOX.one"

    async def subscribe(self, subject: str, cb: Callable[[Msg], Awaitable[None]], **_: object) -> None:
        self.hear = cb


async def test_an_inbox_keeps_every_message_and_no_word_of_an_earlier_request() -> None:
    """Whenever they come: before a request has ended, after it, or while the next one is under way."""
    connection, kept = _Silent(), list[Msg]()
    inbox = consuming._Inbox(connection, kept.append)  # type: ignore[arg-type]
    await inbox.open()

    def a_word(reply: str) -> Msg:
        return Msg(None, subject=reply, headers={"Status": "408"})  # type: ignore[arg-type]

    before, unread, after, read = (Msg(None, subject=f"s.p.{number}") for number in range(4))  # type: ignore[arg-type]
    await connection.hear(before)
    first = inbox.begin()
    await connection.hear(unread)
    await connection.hear(a_word(first))
    inbox.end()
    await connection.hear(after)
    await connection.hear(a_word(first))
    second = inbox.begin()
    await connection.hear(a_word(first))
    await connection.hear(read)
    await connection.hear(a_word(second))

    assert kept == [before, unread, after]
    assert [inbox.arriving.get_nowait() for _ in range(2)] == [read, a_word(second)]
    assert inbox.arriving.empty()
