"""What is the cache's own, beside the contract: windows of time, keys, limits, what a wrong reply does."""

import asyncio
import time
from collections.abc import Callable, Sequence

import pytest
from redis.asyncio import Redis

from adapters.redis.address import address_of
from adapters.redis.cache import RedisCache
from adapters.redis.connections import Connections
from tests.support.servers import Server
from tests.unit.redis.conftest import Opening
from tests.unit.redis.relay import Relay

NAMESPACE = "e:default"
TTL_SECONDS = 3_600


def some(count: int, first: int = 0) -> list[bytes]:
    """Different members."""
    return [number.to_bytes(32, "big") for number in range(first, first + count)]


def a_cache_at(url: str, clock: Callable[[], float]) -> RedisCache:
    address = address_of(f"{url}&ttl_seconds={TTL_SECONDS}")
    return RedisCache(Connections(address), address.options, clock=clock)


async def keys_of(admin: Redis, prefix: str) -> list[bytes]:
    return sorted([key async for key in admin.scan_iter(f"{prefix}:*")])


# Windows


@pytest.mark.parametrize("marked_at", [0.0, 0.5, 0.999])
async def test_a_mark_is_remembered_for_one_window_at_least_and_two_at_most(url: str, marked_at: float) -> None:
    now = (1_000 + marked_at) * TTL_SECONDS
    cache = a_cache_at(url, lambda: now)
    await cache.mark(NAMESPACE, some(1))
    for windows, known in ((0.0, True), (0.999, True), (1.0, True), (1.999 - marked_at, True), (2.0, False)):
        now = (1_000 + marked_at + windows) * TTL_SECONDS
        assert list(await cache.seen(NAMESPACE, some(1))) == [known], windows
    await cache.close()


async def test_a_mark_made_again_stays_longer(url: str) -> None:
    now = 1_000.0 * TTL_SECONDS
    cache = a_cache_at(url, lambda: now)
    for _ in range(4):
        await cache.mark(NAMESPACE, some(1))
        now += TTL_SECONDS
    assert list(await cache.seen(NAMESPACE, some(1))) == [True]
    await cache.close()


async def test_a_namespace_that_is_used_holds_two_windows(url: str, prefix: str, admin: Redis) -> None:
    now = 1_000.0 * TTL_SECONDS
    cache = a_cache_at(url, lambda: now)
    for window in range(5):
        now = (1_000.0 + window) * TTL_SECONDS
        await cache.mark(NAMESPACE, some(10, 10 * window))
    assert await keys_of(admin, prefix) == [f"{prefix}:{{{NAMESPACE}}}:{window}".encode() for window in (1_003, 1_004)]
    await cache.close()


@pytest.mark.parametrize("marked_at", [0.0, 0.5, 0.999])
async def test_every_key_expires_by_itself(url: str, prefix: str, admin: Redis, marked_at: float) -> None:
    cache = a_cache_at(url, lambda: (1_000 + marked_at) * TTL_SECONDS)
    await cache.mark(NAMESPACE, some(1))
    (key,) = await keys_of(admin, prefix)
    stays = await admin.pttl(key) / 1_000 / TTL_SECONDS
    assert 2.0 < stays + marked_at <= 2.1
    await cache.close()


async def test_nothing_is_left_of_a_namespace_that_is_used_no_more(
    url: str, prefix: str, admin: Redis, opened: Opening
) -> None:
    cache = await opened(f"{url}&ttl_seconds=1")
    await cache.mark(NAMESPACE, some(100))
    assert await cache.seen(NAMESPACE, some(100)) == [True] * 100
    async with asyncio.timeout(20):
        while await keys_of(admin, prefix):
            await asyncio.sleep(0.05)
    assert await cache.seen(NAMESPACE, some(100)) == [False] * 100


@pytest.mark.parametrize("jump_windows", [-1_000_000.0, -10.0, -1.0, 1.0, 10.0, 1_000_000.0])
async def test_a_clock_that_jumps_makes_it_forget_and_never_invent(url: str, jump_windows: float) -> None:
    now = 2_000_000.5 * TTL_SECONDS
    cache = a_cache_at(url, lambda: now)
    await cache.mark(NAMESPACE, some(10))
    now += jump_windows * TTL_SECONDS
    assert not any(await cache.seen(NAMESPACE, some(10, 10)))
    await cache.mark(NAMESPACE, some(10, 20))
    assert await cache.seen(NAMESPACE, some(20, 10)) == [False] * 10 + [True] * 10
    now = 2_000_000.5 * TTL_SECONDS
    assert not any(await cache.seen(NAMESPACE, some(10, 10)))
    assert cache.healthy
    await cache.close()


# Keys and members


async def test_processes_share_marks(url: str, opened: Opening) -> None:
    one, other = await opened(url), await opened(url)
    await one.mark(NAMESPACE, some(3))
    assert await other.seen(NAMESPACE, some(4)) == [True, True, True, False]


async def test_prefixes_and_databases_are_apart(redis_server: Server, prefix: str, opened: Opening) -> None:
    server = redis_server.url.removesuffix("/0")
    places = [f"{server}/0?prefix={prefix}", f"{server}/0?prefix={prefix}x", f"{server}/1?prefix={prefix}"]
    caches = [await opened(f"{place}&timeout_ms=2000&ttl_seconds=60") for place in places]
    for number, cache in enumerate(caches):
        await cache.mark(NAMESPACE, some(1, number))
    answers = [await cache.seen(NAMESPACE, some(3)) for cache in caches]
    assert answers == [[True, False, False], [False, True, False], [False, False, True]]


async def test_the_keys_of_a_namespace_lie_on_one_node_of_a_cluster(url: str, prefix: str, admin: Redis) -> None:
    now = 1_000.0 * TTL_SECONDS
    cache = a_cache_at(url, lambda: now)
    for _ in range(2):
        await cache.mark(NAMESPACE, some(1))
        now += TTL_SECONDS
    keys = await keys_of(admin, prefix)
    assert len(keys) == 2
    assert {key[key.index(b"{") : key.index(b"}") + 1] for key in keys} == {b"{e:default}"}
    await cache.close()


@pytest.mark.parametrize("count", [1, 1_999, 2_000, 2_001, 9_001])
async def test_any_number_of_members(url: str, opened: Opening, count: int) -> None:
    cache = await opened(url)
    await cache.mark(NAMESPACE, some(count)[::2])
    assert await cache.seen(NAMESPACE, some(count)) == [number % 2 == 0 for number in range(count)]


async def test_a_namespace_that_is_no_text(url: str, opened: Opening) -> None:
    cache = await opened(url)
    await cache.mark("\ud800", some(1))
    assert await cache.seen("\ud800", some(1)) == [True]


async def test_a_call_is_one_script(relayed_url: str, relay: Relay, opened: Opening) -> None:
    cache = await opened(relayed_url)
    await cache.seen(NAMESPACE, some(2_000))
    assert relay.scripts == 1
    await cache.mark(NAMESPACE, some(2_000))
    assert relay.scripts == 2
    await cache.mark(NAMESPACE, [])
    assert list(await cache.seen(NAMESPACE, [])) == []
    assert (relay.scripts, relay.connections) == (2, 1)


# Connections


async def test_opening_asks_nobody(relay: Relay, opened: Opening) -> None:
    cache = await opened(f"redis://127.0.0.1:{relay.port}")
    assert (cache.healthy, relay.connections) == (True, 0)


async def test_many_callers_share_a_few_connections(relayed_url: str, relay: Relay, opened: Opening) -> None:
    cache = await opened(f"{relayed_url}&connections=3")
    await cache.mark(NAMESPACE, some(100))
    answers = await asyncio.gather(*(cache.seen(NAMESPACE, some(10, 10 * caller)) for caller in range(200)))
    assert answers == [[caller < 10] * 10 for caller in range(200)]
    assert relay.connections == 3
    assert cache.seen_failures == 0


async def test_waiting_for_a_connection_ends_in_time_and_says_nothing_of_the_server(
    relayed_url: str, relay: Relay, opened: Opening
) -> None:
    cache = await opened(relayed_url.replace("timeout_ms=2000", "timeout_ms=1000&connections=1"))
    await cache.mark(NAMESPACE, some(1))
    relay.delay_seconds = 0.7
    began = time.perf_counter()
    answers = await asyncio.gather(*(cache.seen(NAMESPACE, some(1)) for _ in range(50)))
    assert time.perf_counter() - began < 2.0
    assert (answers.count([True]), answers.count([False])) == (1, 49)
    assert cache.trouble == "all 1 connections to Redis were busy; the URL may allow more"
    assert cache.seen_failures == 49

    relay.delay_seconds = 0.0
    assert await cache.seen(NAMESPACE, some(1)) == [True]
    assert cache.healthy


async def test_a_closed_cache_leaves_no_connection(relayed_url: str, relay: Relay, opened: Opening) -> None:
    relay.delay_seconds = 0.1
    cache = await opened(relayed_url)
    await cache.mark(NAMESPACE, some(1))
    asking = asyncio.create_task(cache.seen(NAMESPACE, some(1)))
    await asyncio.sleep(0.03)
    await cache.close()
    assert await asking == [True]
    async with asyncio.timeout(20):
        while relay.open_connections:
            await asyncio.sleep(0.01)


# Replies that are not what they should be


async def test_a_reply_to_another_call_is_believed_by_nobody(relayed_url: str, relay: Relay, opened: Opening) -> None:
    """Whatever lies between sends everything twice, so each reply is the one to the call before."""
    cache = await opened(f"{relayed_url}&connections=1")
    await cache.mark(NAMESPACE, some(10))
    relay.repeat_replies = True
    for _ in range(5):
        known, unknown = await cache.seen(NAMESPACE, some(10)), await cache.seen(NAMESPACE, some(10, 10))
        assert known in ([True] * 10, [False] * 10)
        assert unknown == [False] * 10
    assert cache.seen_failures > 0
    relay.repeat_replies = False
    await eventually(cache, some(10), [True] * 10)


async def test_a_key_of_somebody_else_is_no_mark(url: str, prefix: str, admin: Redis) -> None:
    cache = a_cache_at(url, lambda: 1_000.5 * TTL_SECONDS)
    await admin.set(f"{prefix}:{{{NAMESPACE}}}:1000", "something", ex=600)
    assert await cache.seen(NAMESPACE, some(2)) == [False, False]
    await cache.mark(NAMESPACE, some(2))
    assert await cache.seen(NAMESPACE, some(2)) == [False, False]
    assert cache.trouble is not None
    assert cache.trouble.startswith("Redis refuses: ")
    assert (cache.healthy, cache.seen_failures, cache.mark_failures) == (False, 2, 1)

    await admin.delete(f"{prefix}:{{{NAMESPACE}}}:1000")
    await cache.seen(NAMESPACE, some(2))
    assert not cache.healthy  # marks may still be refused
    await cache.mark(NAMESPACE, some(2))
    assert cache.healthy
    assert await cache.seen(NAMESPACE, some(2)) == [True, True]
    await cache.close()


@pytest.mark.parametrize(
    ("reply", "trouble"),
    [
        (b":1", "what answers is not Redis, or mixes up its replies"),
        (b"*2\r\n:1\r\n:1", "what answers is not Redis, or mixes up its replies"),
        (b"$-1", "what answers is not Redis, or mixes up its replies"),
        (b"-ERR unknown command 'EVAL'", "Redis refuses: unknown command 'EVAL'"),
        (b"-MOVED 1 10.9.8.7:6379", "this is one node of a Redis Cluster; name a server or a proxy that has all keys"),
        (b"-LOADING Redis is loading the dataset in memory", "Redis cannot be reached"),
        (b"HTTP/1.1 400 Bad Request", "Redis cannot be reached"),
    ],
)
async def test_what_does_not_answer_like_redis_is_not_believed(opened: Opening, reply: bytes, trouble: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write((reply + b"\r\n") * (data.count(b"SETINFO") + data.count(b"EVAL")))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listener:
        cache = await opened(f"redis://127.0.0.1:{listener.sockets[0].getsockname()[1]}?timeout_ms=2000")
        assert await cache.seen(NAMESPACE, some(2)) == [False, False]
        assert cache.trouble == trouble
        await cache.close()


async def eventually(cache: RedisCache, members: Sequence[bytes], expected: list[bool]) -> None:
    """Ask until it answers so; the circuit may be open for a second."""
    async with asyncio.timeout(20):
        while await cache.seen(NAMESPACE, members) != expected:
            await asyncio.sleep(0.05)
