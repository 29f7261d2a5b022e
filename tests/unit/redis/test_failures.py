"""A Redis that is away, hangs, is full, forgets, or answers and is not heard: never an error, and never an invention."""

import asyncio
import random
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
import uvloop
from redis.asyncio import Redis

from adapters.inline import InlineQueue
from adapters.memory import MemoryStore
from adapters.redis.address import address_of
from adapters.redis.cache import RedisCache, open_dedup
from adapters.redis.circuit import OPEN_SECONDS, Circuit
from adapters.redis.connections import Connections
from eventcore.decoding import Decoded
from eventcore.errors import Kind, StoreError
from eventcore.events import Chunk, Outcome, Receipt
from eventcore.ingestion import accept
from eventcore.strategies import an_event, an_id
from tests.support import servers
from tests.support.servers import Server
from tests.unit.redis.conftest import Opening
from tests.unit.redis.relay import Relay, a_certificate, missing_openssl, relay_to, server_side
from tests.unit.redis.test_cache import NAMESPACE, eventually, some

PATIENT = "?timeout_ms=2000"
"""For tests in which nothing hangs: a busy machine is no failure."""


async def marked_again(cache: RedisCache, members: Sequence[bytes]) -> None:
    """Mark until it has effect, as the next batches do."""
    async with asyncio.timeout(20):
        while not all(await cache.seen(NAMESPACE, members)):
            await cache.mark(NAMESPACE, members)
            await asyncio.sleep(0.05)


# Away


async def test_a_server_that_is_down_at_first(own_server: Server, opened: Opening) -> None:
    own_server.stop()
    cache = await opened(own_server.url + PATIENT)
    for _ in range(10):
        assert await cache.seen(NAMESPACE, some(3)) == [False] * 3
        await cache.mark(NAMESPACE, some(3))
    assert (cache.healthy, cache.trouble) == (False, "Redis cannot be reached")
    assert (cache.seen_failures, cache.mark_failures) == (10, 10)

    own_server.start()
    await marked_again(cache, some(3))
    assert (cache.healthy, cache.trouble) == (True, None)


async def test_a_server_that_is_killed_and_comes_back_empty(own_server: Server, opened: Opening) -> None:
    cache = await opened(own_server.url + PATIENT)
    await cache.mark(NAMESPACE, some(3))
    own_server.kill()
    assert await cache.seen(NAMESPACE, some(3)) == [False] * 3
    own_server.start()
    async with asyncio.timeout(20):
        while not cache.healthy:
            assert await cache.seen(NAMESPACE, some(3)) == [False] * 3
            await asyncio.sleep(0.05)
    await cache.mark(NAMESPACE, some(2))
    assert await cache.seen(NAMESPACE, some(3)) == [True, True, False]


async def test_a_restart_between_two_calls_costs_one_of_them(own_server: Server, opened: Opening) -> None:
    cache = await opened(f"{own_server.url}{PATIENT}&connections=8")
    await asyncio.gather(*(cache.mark(f"e:{group}", some(1_000)) for group in range(8)))
    own_server.restart()
    await cache.seen(NAMESPACE, some(1))
    assert cache.seen_failures == 1
    for _ in range(8):
        await cache.mark(NAMESPACE, some(3))
        assert await cache.seen(NAMESPACE, some(3)) == [True] * 3
    assert (cache.seen_failures, cache.mark_failures) == (1, 0)


async def test_a_flush_is_forgetting(own_server: Server, opened: Opening) -> None:
    cache = await opened(own_server.url + PATIENT)
    await cache.mark(NAMESPACE, some(3))
    async with Redis.from_url(own_server.url) as admin:
        await admin.flushall()
    assert await cache.seen(NAMESPACE, some(3)) == [False] * 3
    await cache.mark(NAMESPACE, some(3))
    assert await cache.seen(NAMESPACE, some(3)) == [True] * 3
    assert cache.seen_failures == 0


# Hanging


async def test_a_server_that_hangs_costs_each_sender_less_than_two_timeouts(
    own_server: Server, opened: Opening
) -> None:
    timeout_ms = 400
    cache = await opened(f"{own_server.url}?timeout_ms={timeout_ms}")
    await cache.mark(NAMESPACE, some(3))
    assert await cache.seen(NAMESPACE, some(3)) == [True] * 3

    async def one_request() -> float:
        began = time.perf_counter()
        assert await cache.seen(NAMESPACE, some(3)) == [False] * 3
        await cache.mark(NAMESPACE, some(3))
        return (time.perf_counter() - began) * 1_000

    own_server.pause()
    first = await asyncio.gather(*(one_request() for _ in range(100)))
    assert max(first) < 2 * timeout_ms
    assert cache.trouble == f"Redis did not answer within {timeout_ms} ms"
    # From now on one of them a second pays for finding out.
    later = [await one_request() for _ in range(100)]
    assert sum(later) < 2 * timeout_ms
    assert cache.seen_failures == 200

    own_server.resume()
    await eventually(cache, some(3), [True] * 3)
    assert cache.healthy


async def test_a_hanging_server_is_asked_once_a_second(own_server: Server) -> None:
    own_server.pause()
    now = 0.0
    async with relay_to(own_server.url) as relay:
        address = address_of(f"redis://127.0.0.1:{relay.port}?timeout_ms=20")
        cache = RedisCache(Connections(address), address.options, circuit=Circuit(lambda: now))
        for second in range(5):
            for _ in range(20):
                await cache.seen(NAMESPACE, some(1))
                await cache.mark(NAMESPACE, some(1))
            assert relay.connections == second + 1
            now += OPEN_SECONDS
        await cache.close()
    own_server.resume()


async def test_a_host_that_takes_no_connection(opened: Opening) -> None:
    """Connecting itself must end in time."""
    with ExitStack() as sockets:
        listener = sockets.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):  # more than wait to be accepted; what comes then gets no answer
            client = sockets.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        cache = await opened(f"redis://127.0.0.1:{listener.getsockname()[1]}?timeout_ms=400")
        began = time.perf_counter()
        assert await cache.seen(NAMESPACE, some(1)) == [False]
        await cache.mark(NAMESPACE, some(1))
        assert 0.4 <= time.perf_counter() - began < 0.8
        assert cache.trouble == "Redis did not answer within 400 ms"


@pytest.mark.parametrize("held_up_by", ["a task", "others too"])
@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_loop_that_is_held_up_is_no_failure(
    redis_server: Server, prefix: str, loop_factory: Callable[[], asyncio.AbstractEventLoop], held_up_by: str
) -> None:
    """The reply came in time; it is only read late, as where requests are decoded meanwhile."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        reading, writing = socket.socketpair()
        reading.setblocking(False)
        loop.add_reader(reading, lambda: time.sleep(0.4 * len(reading.recv(1))))
        cache = await open_dedup(f"{redis_server.url}?prefix={prefix}&timeout_ms=200")
        assert isinstance(cache, RedisCache)
        await cache.mark(NAMESPACE, some(1_000))
        for _ in range(3):
            asking = asyncio.ensure_future(cache.seen(NAMESPACE, some(1_000)))
            await asyncio.sleep(0)
            if held_up_by == "a task":
                time.sleep(0.4)
            else:
                writing.send(b".")
                loop.call_soon(time.sleep, 0.4)
            assert await asking == [True] * 1_000
        loop.remove_reader(reading)
        reading.close()
        writing.close()
        assert cache.healthy
        await cache.close()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(scenario())


# Full


async def test_a_full_server_forgets_and_still_knows(opened: Opening) -> None:
    with (
        servers.needed("redis"),
        servers.redis(own_process=True, maxmemory="4mb", maxmemory_policy="noeviction") as server,
    ):
        cache = await opened(server.url + PATIENT)
        marked = 0
        while cache.healthy:
            await cache.mark(NAMESPACE, some(1_000, 1_000 * marked))
            marked += 1
            assert marked < 1_000  # ten times what there is room for
        assert cache.trouble is not None
        assert cache.trouble.startswith("Redis refuses: ")
        async with Redis.from_url(server.url) as admin:
            await admin.config_set("maxmemory", "1mb")  # so that it stays full whatever a call itself takes
        for _ in range(20):
            await cache.mark(NAMESPACE, some(1_000, 2_000_000))
            assert await cache.seen(NAMESPACE, some(1_000)) == [True] * 1_000
            assert not any(await cache.seen(NAMESPACE, some(1_000, 2_000_000)))
        assert not cache.healthy
        assert cache.seen_failures == 0

        async with Redis.from_url(server.url) as admin:
            await admin.config_set("maxmemory", "64mb")
        await cache.mark(NAMESPACE, some(1_000, 2_000_000))
        assert await cache.seen(NAMESPACE, some(1_000, 2_000_000)) == [True] * 1_000
        assert cache.healthy


async def test_a_server_that_makes_room_forgets_the_oldest(opened: Opening) -> None:
    with (
        servers.needed("redis"),
        servers.redis(own_process=True, maxmemory="4mb", maxmemory_policy="volatile-ttl") as server,
    ):
        address = address_of(server.url + PATIENT)
        now = 0.0
        cache = RedisCache(Connections(address), address.options, clock=lambda: now)
        for window in range(2):
            now = window * address.options.ttl_seconds + 1.0
            for group in range(30):
                await cache.mark(NAMESPACE, some(1_000, (window * 30 + group) * 1_000))
        assert cache.healthy
        assert await cache.seen(NAMESPACE, some(1_000, 59_000)) == [True] * 1_000
        assert not any(await cache.seen(NAMESPACE, some(1_000)))
        await cache.close()


# Replies that are lost


async def test_nothing_is_sent_twice(url: str, relayed_url: str, relay: Relay, opened: Opening) -> None:
    """The server runs the script, the reply is lost: the driver's own retries would send it again."""
    cache, beside = await opened(relayed_url), await opened(url)
    await cache.seen(NAMESPACE, some(1))
    relay.lose_replies, before = True, relay.scripts

    assert await cache.seen(NAMESPACE, some(1)) == [False]
    assert relay.scripts == before + 1
    assert await beside.seen(NAMESPACE, some(1)) == [False]

    await cache.mark(NAMESPACE, some(1))
    assert relay.scripts == before + 2
    assert await beside.seen(NAMESPACE, some(1)) == [True]
    assert (cache.seen_failures, cache.mark_failures) == (1, 1)


class FailingQueue(InlineQueue):
    """One that is away at first."""

    away = True

    async def publish(self, chunks: Sequence[Chunk]) -> Sequence[Receipt]:
        if self.away:
            raise StoreError(Kind.UNAVAILABLE, "unavailable", "it is away")
        return await super().publish(chunks)


async def test_an_event_is_not_taken_for_seen_because_of_an_earlier_try(
    relayed_url: str, relay: Relay, opened: Opening
) -> None:
    cache = await opened(relayed_url)
    store = MemoryStore()
    queue = FailingQueue(store)
    events = [an_event(event_id=number) for number in range(1, 21)]

    async def send() -> Outcome:
        return await accept(
            Decoded(received=len(events), events=events, positions=list(range(len(events))), problems=[]),
            project="default",
            store=store,
            cache=cache,
            queue=queue,
            now_us=1_700_000_000_000_000,
            new_id=lambda: random.randbytes(16),
        )

    relay.lose_replies = True
    for _ in range(2):
        with pytest.raises(StoreError):
            await send()
    queue.away = False
    relay.lose_replies = False
    await eventually(cache, some(1), [False])
    assert (await send()).accepted == 20
    assert len(await store.find("default", [an_id(number) for number in range(1, 21)])) == 20

    # The mark's own reply is lost: it was made behind the acknowledgement, and may be believed.
    await marked_again(cache, some(1))
    assert (await send()).duplicates == 20


# Calls that are cancelled


async def test_cancelled_calls_never_make_another_read_their_reply(
    relayed_url: str, relay: Relay, opened: Opening
) -> None:
    """Callers go at random moments; nobody who stays gets a wrong answer, or none."""
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    cache = await opened(f"{relayed_url}&connections=3")
    groups = [some(20, 20 * group) for group in range(20)]
    for group in groups[::2]:
        await cache.mark(NAMESPACE, group)
    relay.delay_seconds = 0.002

    async def ask(number: int) -> None:
        answer = await cache.seen(NAMESPACE, groups[number])
        assert answer == [number % 2 == 0] * 20, f"seed {seed}"

    for _ in range(30):
        asking = [asyncio.create_task(ask(number)) for number in range(20)]
        for task in rng.sample(asking, 10):
            await asyncio.sleep(rng.choice((0, 0, 0.001, 0.003)))
            task.cancel()
        for result in await asyncio.gather(*asking, return_exceptions=True):
            assert result is None or isinstance(result, asyncio.CancelledError), f"seed {seed}: {result!r}"
    assert cache.seen_failures == 0, f"seed {seed}"
    assert cache.healthy


async def test_a_cancelled_call_costs_its_own_connection_only(relayed_url: str, relay: Relay, opened: Opening) -> None:
    cache = await opened(relayed_url)
    relay.delay_seconds = 0.1
    await asyncio.gather(*(cache.mark(NAMESPACE, some(1)) for _ in range(3)))
    assert relay.connections == 3
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(cache.seen(NAMESPACE, some(1)), 0.05)
    assert await asyncio.gather(*(cache.seen(NAMESPACE, some(1)) for _ in range(3))) == [[True]] * 3
    assert relay.connections == 4


async def test_a_cancelled_call_is_cancelled(own_server: Server, opened: Opening) -> None:
    cache = await opened(own_server.url + PATIENT)
    await cache.mark(NAMESPACE, some(1))
    own_server.pause()
    for call in (cache.seen(NAMESPACE, some(1)), cache.mark(NAMESPACE, some(1))):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call, 0.05)
    own_server.resume()
    assert await cache.seen(NAMESPACE, some(1)) == [True]


# Who we are, and who the server is


async def test_a_password_that_is_refused(own_server: Server, tmp_path: Path, opened: Opening) -> None:
    async with Redis.from_url(own_server.url) as admin:
        await admin.acl_setuser("ada", enabled=True, passwords=["+zq:x@j"], keys=["eventcore:*"], commands=["+@all"])
        await admin.acl_setuser("reader", enabled=True, passwords=["+zqxj"], keys=["*"], commands=["+@all", "-sadd"])
        await admin.config_set("requirepass", "zqxj")
    server = own_server.url.removeprefix("redis://")
    file = tmp_path / "password"
    file.write_text("zq:x@j\n")
    for who, options in (("ada:zq%3Ax%40j@", ""), ("ada@", f"&password_file={file}"), (":zqxj@", "")):
        cache = await opened(f"redis://{who}{server}{PATIENT}{options}")
        await cache.mark(who, some(1))
        assert await cache.seen(who, some(2)) == [True, False]
        assert cache.healthy
    for who, options, trouble in (
        ("ada:wrong@", "", "Redis refuses the user or the password of the URL"),
        ("", "", "Redis refuses the user or the password of the URL"),
        ("ada:zq%3Ax%40j@", "&prefix=others", "Redis refuses: "),
        ("reader:zqxj@", "", "Redis refuses: "),
    ):
        cache = await opened(f"redis://{who}{server}{PATIENT}{options}")
        assert await cache.seen(NAMESPACE, some(1)) == [False]
        await cache.mark(NAMESPACE, some(1))
        assert await cache.seen(NAMESPACE, some(1)) == [False]
        assert cache.trouble is not None
        assert cache.trouble.startswith(trouble)
        assert "zq" not in cache.trouble


@pytest.mark.skipif(missing_openssl() is not None, reason=str(missing_openssl()))
async def test_only_the_server_of_the_certificate_is_spoken_to(
    redis_server: Server, prefix: str, tmp_path: Path, opened: Opening
) -> None:
    certificate, key = a_certificate(tmp_path)
    other, _ = a_certificate(tmp_path, "elsewhere")
    async with relay_to(redis_server.url, server_side(certificate, key)) as relay:
        query = f"/0{PATIENT}&prefix={prefix}"
        cache = await opened(f"rediss://localhost:{relay.port}{query}&ca_file={certificate}")
        await cache.mark(NAMESPACE, some(1))
        assert await cache.seen(NAMESPACE, some(1)) == [True]
        for url in (
            f"rediss://localhost:{relay.port}{query}",
            f"rediss://localhost:{relay.port}{query}&ca_file={other}",
            f"rediss://127.0.0.1:{relay.port}{query}&ca_file={certificate}",
            f"redis://localhost:{relay.port}{query}",
        ):
            cache = await opened(url)
            assert await cache.seen(NAMESPACE, some(1)) == [False]
            assert not cache.healthy
