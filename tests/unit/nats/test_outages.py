"""NATS killed, frozen, emptied and cut off under a queue: no false success, nothing lost, and nobody has to help.

The failure matrix, F12 to F17 and F36, as far as the adapter alone has to keep it.
"""

import asyncio
import logging
import random
import shutil
import time
from collections.abc import Awaitable
from pathlib import Path

import nats
import pytest

from adapters.nats import link, open_consumer, open_queue
from eventcore.chunks import decode_chunk
from eventcore.errors import Kind, StoreError
from eventcore.ports import Consumer, Queue
from eventcore.strategies import a_chunk, an_event
from tests.support import servers
from tests.support.processes import OwnServer
from tests.unit.nats.conftest import OpenConsumer, OpenQueue, Store, made_again, until
from tests.unit.nats.relay import relay_to

pytestmark = pytest.mark.e2e


@pytest.fixture
def quick_pings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A frozen server is noticed within a second."""
    monkeypatch.setattr(link, "PING_SECONDS", 0.2)
    monkeypatch.setattr(link, "PONG_SECONDS", 0.5)


async def failure(attempt: Awaitable[object]) -> tuple[StoreError, float]:
    """How it failed, and after how many seconds."""
    began_seconds = time.monotonic()
    with pytest.raises(StoreError) as caught:
        await attempt
    return caught.value, time.monotonic() - began_seconds


async def frozen(server: OwnServer) -> None:
    """The signal is sent when `pause` returns; some thread may still be at something."""
    server.pause()
    await asyncio.sleep(0.05)


async def everything_in(consumer: Consumer) -> dict[bytes, int]:
    """How often each chunk comes."""
    found: dict[bytes, int] = {}
    while deliveries := await consumer.fetch(50, 0.5):
        for delivery in deliveries:
            chunk_id = decode_chunk(delivery.body).chunk_id
            found[chunk_id] = found.get(chunk_id, 0) + 1
            await delivery.ack()
    return found


# --- killed and restarted ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
async def test_what_was_acknowledged_survives_a_kill(
    queue_at: OpenQueue, consumer_at: OpenConsumer, own_server: OwnServer, seed: int
) -> None:
    """F13 and F14: killed at random moments under load; whoever was told "done" is in the queue, once."""
    rng = random.Random(seed)
    queue, consumer = await queue_at(own_server.url), await consumer_at(own_server.url)
    done: set[bytes] = set()
    kinds: set[Kind] = set()
    stopping = asyncio.Event()

    async def send(sender: int) -> None:
        number = 0
        while not stopping.is_set():
            number += 1
            event = an_event(event_id=sender * 1_000_000 + number, properties='{"t":"' + "x" * 20_000 + '"}')
            chunks = [a_chunk(event, queued=True), a_chunk(queued=True)]
            try:
                await queue.publish(chunks)
            except StoreError as error:
                kinds.add(error.kind)
                await asyncio.sleep(0.02)
            else:
                done.update(chunk.chunk_id for chunk in chunks)

    senders = [asyncio.create_task(send(sender)) for sender in range(8)]
    for _ in range(3):
        await asyncio.sleep(rng.uniform(0.1, 0.6))
        own_server.kill()
        await asyncio.sleep(rng.uniform(0, 0.3))
        before = len(done)
        await asyncio.to_thread(own_server.start)
        async with asyncio.timeout(20):
            while len(done) < before + 20:
                await asyncio.sleep(0.01)
    stopping.set()
    await asyncio.gather(*senders)

    assert kinds <= {Kind.UNAVAILABLE, Kind.TIMEOUT}
    found = await until(lambda: everything_in(consumer))
    assert done - found.keys() == set()
    assert set(found.values()) == {1}


async def test_a_publish_ends_at_once_when_the_server_is_killed(queue_at: OpenQueue, own_server: OwnServer) -> None:
    """Not when its time is over; and nothing waits for a server that is not there."""
    async with relay_to(own_server.url) as relay:
        queue = await queue_at(relay.url)
        relay.lose_answers = True
        publishing = asyncio.create_task(_publish(queue, 1))
        await asyncio.sleep(0.1)
        own_server.kill()
        error, seconds = await failure(publishing)
        assert (error.kind, error.code) == (Kind.UNAVAILABLE, "disconnected")
        assert seconds < 1
        error, seconds = await failure(_publish(queue, 1))
        assert error.kind is Kind.UNAVAILABLE
        assert seconds < 0.2


async def test_nothing_is_sent_behind_the_back_of_who_got_an_error(
    queue_at: OpenQueue, consumer_at: OpenConsumer, own_server: OwnServer
) -> None:
    """A publish that failed because there was no connection does not happen later."""
    queue = await queue_at(own_server.url)
    own_server.kill()
    for number in range(10):
        error, _ = await failure(_publish(queue, number))
        assert error.kind is Kind.UNAVAILABLE
        await asyncio.sleep(0.01)
    own_server.start()
    await until(lambda: _publish(queue, 100))
    consumer = await consumer_at(own_server.url)
    assert len(await everything_in(consumer)) == 1


async def test_all_calls_fail_fast_while_the_server_is_down_and_recover_unaided(
    queue_at: OpenQueue, consumer_at: OpenConsumer, own_server: OwnServer, caplog: pytest.LogCaptureFixture
) -> None:
    queue, consumer = await queue_at(own_server.url), await consumer_at(own_server.url)
    await _publish(queue, 1)
    own_server.kill()
    await asyncio.sleep(0.1)
    for _ in range(2):
        for attempt in (_publish(queue, 2), consumer.fetch(5, 30), queue.pending("default")):
            error, seconds = await failure(attempt)
            assert error.kind is Kind.UNAVAILABLE
            assert own_server.url.removeprefix("nats://") in error.message
            assert seconds < 0.2
        await asyncio.sleep(0.7)  # several attempts to connect
    own_server.start()
    assert (await until(lambda: queue.pending("default"))).events == 1
    assert len(await until(lambda: consumer.fetch(5, 1))) == 1
    await until(lambda: _publish(queue, 3))

    said = [each.getMessage() for each in caplog.records if each.name == "eventcore"]
    assert sum("is lost" in each for each in said) == sum("is back" in each for each in said) == 2
    assert len(said) == 5  # with the stream that was made


async def test_a_fetch_that_waits_ends_when_the_server_is_killed(
    consumer_at: OpenConsumer, own_server: OwnServer
) -> None:
    consumer = await consumer_at(own_server.url)
    fetching = asyncio.create_task(_fetch(consumer))
    await asyncio.sleep(0.1)
    own_server.kill()
    error, seconds = await failure(fetching)
    assert (error.kind, error.code) == (Kind.UNAVAILABLE, "disconnected")
    assert seconds < 1


async def test_a_server_that_comes_back_empty_gets_its_stream_again(
    queue_at: OpenQueue, consumer_at: OpenConsumer, own_server: OwnServer
) -> None:
    queue, consumer = await queue_at(own_server.url), await consumer_at(own_server.url)
    await _publish(queue, 1)
    own_server.kill()
    shutil.rmtree(own_server.data)
    own_server.start()
    await until(lambda: _publish(queue, 2))
    assert (await queue.pending("default")).events == 1
    (delivery,) = await until(lambda: consumer.fetch(5, 1))
    assert delivery.attempt == 1


async def test_a_server_that_comes_back_with_an_unsafe_stream_is_not_used(
    queue_at: OpenQueue, own_server: OwnServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Until somebody mends it."""
    queue = await queue_at(own_server.url)
    client = await nats.connect(own_server.url)
    await client.jsm().delete_stream("EVENTCORE")
    safe = {"name": "EVENTCORE", "subjects": ["eventcore.*.*"], "retention": "workqueue", "max_bytes": 4_000_000}
    await made_again(client, **safe, discard="old")
    await client.close()
    own_server.restart()

    async with asyncio.timeout(10):
        while (error := (await failure(_publish(queue, 1)))[0]).code != "unsafe_queue":
            await asyncio.sleep(0.05)
    assert (error.kind, error.retryable) == (Kind.UNAVAILABLE, True)
    assert "discard=old" in error.message

    client = await nats.connect(own_server.url)
    assert (await client.jsm().stream_info("EVENTCORE")).state.messages == 0
    await client.jsm().update_stream(**safe, discard="new")
    await client.close()
    await until(lambda: _publish(queue, 1))


async def test_the_other_server_of_the_url_takes_over(queue_at: OpenQueue, tmp_path: Path) -> None:
    with (
        servers.needed("nats"),
        servers.nats(tmp_path / "one", own_process=True) as one,
        servers.nats(tmp_path / "other", own_process=True) as other,
    ):
        queue = await queue_at(f"{one.url},{other.url.removeprefix('nats://')}")
        await _publish(queue, 1)
        for server, rest in ((one, other), (other, one)):
            server.kill()
            await until(lambda: _publish(queue, 2))
            assert rest.pid is not None
            server.start()


# --- frozen -----------------------------------------------------------------------------------------------------------


async def test_a_frozen_server_costs_no_more_than_the_time_of_a_call(
    queue_at: OpenQueue, consumer_at: OpenConsumer, own_server: OwnServer
) -> None:
    """And nothing has to be connected again when it goes on soon."""
    url = f"{own_server.url}?timeout_seconds=0.5"
    queue, consumer = await queue_at(url), await consumer_at(url)
    await frozen(own_server)
    for attempt in (_publish(queue, 1), consumer.fetch(5, 0.1), queue.pending("default")):
        error, seconds = await failure(attempt)
        assert (error.kind, error.code, error.retryable) == (Kind.TIMEOUT, "too_slow", True)
        assert 0.4 < seconds < 1.5
    own_server.resume()
    await until(lambda: _publish(queue, 2))
    assert len(await everything_in(consumer)) >= 1


@pytest.mark.usefixtures("quick_pings")
async def test_a_server_that_stays_frozen_is_left_and_found_again(
    queue_at: OpenQueue, consumer_at: OpenConsumer, own_server: OwnServer
) -> None:
    """While it is frozen, calls fail at once; connections that it accepts in its sleep are not waited for."""
    queue, consumer = await queue_at(own_server.url), await consumer_at(own_server.url)
    fetching = asyncio.create_task(_fetch(consumer))
    await asyncio.sleep(0.1)
    await frozen(own_server)
    publishing = asyncio.create_task(_publish(queue, 1, large=True))
    for under_way in (fetching, publishing):
        error, seconds = await failure(under_way)
        assert error.kind is Kind.UNAVAILABLE
        assert seconds < 2
    for attempt in (_publish(queue, 2), consumer.fetch(5, 30)):
        error, seconds = await failure(attempt)
        assert error.kind is Kind.UNAVAILABLE
        assert seconds < 0.2
    await asyncio.sleep(3.5)  # an attempt to connect has failed meanwhile
    own_server.resume()
    await until(lambda: _publish(queue, 3))
    assert len(await until(lambda: everything_in(consumer))) >= 1


@pytest.mark.usefixtures("quick_pings")
async def test_closing_does_not_wait_for_a_frozen_server(own_server: OwnServer) -> None:
    """Also not with megabytes that it has not taken."""
    queue, consumer = await open_queue(own_server.url, store=Store()), await open_consumer(own_server.url)
    await frozen(own_server)
    calls = [asyncio.create_task(_publish(queue, number, large=True)) for number in range(20)]
    calls.append(asyncio.create_task(_fetch(consumer)))
    await asyncio.sleep(0.1)
    began_seconds = time.monotonic()
    await asyncio.gather(queue.close(), consumer.close())
    assert time.monotonic() - began_seconds < 5
    for call in calls:
        error, _ = await failure(call)
        assert error.kind in (Kind.CLOSED, Kind.UNAVAILABLE)
    own_server.resume()


async def test_closing_right_behind_the_end_of_the_server_does_not_wait(own_server: OwnServer) -> None:
    """A process and its broker are often stopped together."""
    queue, consumer = await open_queue(own_server.url, store=Store()), await open_consumer(own_server.url)
    own_server.stop()
    began_seconds = time.monotonic()
    await asyncio.gather(queue.close(), consumer.close())
    assert time.monotonic() - began_seconds < 1


# --- between us -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        b"-ERR 'maximum connections exceeded'\r\n",
        b"-ERR 'Authentication Timeout'\r\n",
        b"-ERR 'Stale Connection'\r\n",
        b"-ERR 'Authorization Violation'\r\n",
        b"-ERR\r\n",
        b"nonsense, with an end\r\n" + b"x" * 5_000,
        b'INFO {"broken\r\n',
        b"HMSG nowhere 1 12 12\r\nnot a header\r\n",
    ],
    ids=lambda words: words[:20].decode(),
)
@pytest.mark.usefixtures("quick_pings")
async def test_whatever_the_server_says_the_connection_comes_back(
    queue_at: OpenQueue,
    consumer_at: OpenConsumer,
    own_server: OwnServer,
    words: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The driver alone gives up for ever at most of these."""
    async with relay_to(own_server.url) as relay:
        queue, consumer = await queue_at(relay.url), await consumer_at(relay.url)
        await _publish(queue, 1)
        relay.say(words)
        await asyncio.sleep(0.05)
        await until(lambda: _publish(queue, 2))
        assert len(await until(lambda: everything_in(consumer))) >= 2  # what failed may have got there too
    for phase in ("setup", "call"):
        for record in list(caplog.get_records(phase)):
            if record.name == "nats.aio.client":  # its reader met what it does not understand
                caplog.get_records(phase).remove(record)


async def test_an_answer_that_is_lost_is_no_success(
    queue_at: OpenQueue, consumer_at: OpenConsumer, own_server: OwnServer
) -> None:
    """F13 seen from the other side: the server has it, the sender does not know; sending again stores it once more."""
    async with relay_to(own_server.url) as relay:
        queue = await queue_at(relay.url)
        relay.lose_answers = True
        publishing = asyncio.create_task(_publish(queue, 1))
        await asyncio.sleep(0.2)
        relay.cut()
        error, seconds = await failure(publishing)
        assert (error.kind, error.code) == (Kind.UNAVAILABLE, "disconnected")
        assert seconds < 1
        relay.lose_answers = False
        await until(lambda: _publish(queue, 1))
    consumer = await consumer_at(own_server.url)
    assert len(await everything_in(consumer)) == 2


async def test_a_loss_is_noticed_while_an_answer_is_awaited(
    queue_at: OpenQueue, own_server: OwnServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not when the time for the answer is over."""
    monkeypatch.setattr(link, "PING_SECONDS", 0.05)
    monkeypatch.setattr(link, "PONG_SECONDS", 60)
    async with relay_to(own_server.url) as relay:
        queue = await queue_at(relay.url)
        relay.lose_answers = True
        await asyncio.sleep(0.2)
        relay.lose_answers = False
        relay.cut()
        await until(lambda: _publish(queue, 1), seconds=2)


async def test_cut_again_and_again_nothing_is_lost(
    queue_at: OpenQueue, consumer_at: OpenConsumer, own_server: OwnServer
) -> None:
    """Sender and worker both behind a line that breaks ten times a second."""
    async with relay_to(own_server.url) as relay:
        url = f"{relay.url}?ack_wait_seconds=1"
        queue, consumer = await queue_at(url), await consumer_at(url)
        done: set[bytes] = set()
        found: dict[bytes, int] = {}
        stopping = asyncio.Event()

        async def send() -> None:
            while not stopping.is_set():
                chunk = a_chunk(an_event(), queued=True)
                try:
                    await queue.publish([chunk])
                    done.add(chunk.chunk_id)
                except StoreError:
                    await asyncio.sleep(0.01)

        async def work() -> None:
            while not stopping.is_set():
                try:
                    for delivery in await consumer.fetch(10, 0.2):
                        chunk_id = decode_chunk(delivery.body).chunk_id
                        found[chunk_id] = found.get(chunk_id, 0) + 1
                        await delivery.ack()
                except StoreError:
                    await asyncio.sleep(0.01)

        tasks = [asyncio.create_task(each()) for each in (send, send, work, work)]
        for _ in range(30):
            await asyncio.sleep(0.1)
            relay.cut()
        stopping.set()
        await asyncio.gather(*tasks)
        assert len(done) > 30

        async with asyncio.timeout(20):
            while (await until(lambda: queue.pending("default"))).events:
                found |= await until(lambda: everything_in(consumer))
        assert done - found.keys() == set()


async def test_nothing_is_logged_that_is_secret(
    queue_at: OpenQueue, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    settings = {"authorization": {"user": "ada", "password": "s3cret"}}
    with servers.needed("nats"), servers.nats(tmp_path, own_process=True, settings=settings) as server:
        assert isinstance(server, OwnServer)
        queue = await queue_at(server.url.replace("//", "//ada:s3cret@"))
        server.kill()
        await asyncio.sleep(0.3)
        server.start()
        await until(lambda: _publish(queue, 1))
    assert "is back" in caplog.text
    assert "s3cret" not in caplog.text
    assert "ada" not in caplog.text


async def _publish(queue: Queue, number: int, *, large: bool = False) -> None:
    properties = '{"t":"' + "x" * 500_000 + '"}' if large else "{}"
    await queue.publish([a_chunk(an_event(event_id=number, properties=properties), queued=True)])


async def _fetch(consumer: Consumer) -> object:
    return await consumer.fetch(5, 30)
