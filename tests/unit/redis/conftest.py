"""Places in Redis: each test has a prefix of its own in the shared server, or a server of its own to break."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import count
from os import getpid

import pytest
from redis.asyncio import Redis

from adapters.redis import RedisCache, open_dedup
from tests.support import servers
from tests.support.fixtures import redis_server
from tests.support.servers import Server
from tests.unit.redis.relay import Relay, relay_to

__all__ = ["redis_server"]

_numbers = count(1)


@pytest.fixture
def prefix() -> str:
    """What no other test's keys begin with."""
    return f"test-{getpid()}-{next(_numbers)}"


@pytest.fixture
def url(redis_server: Server, prefix: str) -> str:
    """A place of its own in the shared server; with enough time for a busy machine."""
    return f"{redis_server.url}?prefix={prefix}&timeout_ms=2000"


@pytest.fixture
async def admin(redis_server: Server) -> AsyncIterator[Redis]:
    """Another client of the shared server."""
    async with Redis.from_url(redis_server.url) as client:
        yield client


@pytest.fixture
def own_server() -> Iterator[Server]:
    """A server to break."""
    with servers.needed("redis"), servers.redis(own_process=True) as server:
        yield server


@pytest.fixture
def relayed_url(url: str, relay: Relay) -> str:
    """The same place through the relay."""
    return f"redis://127.0.0.1:{relay.port}/0?{url.partition('?')[2]}"


@pytest.fixture
async def relay(redis_server: Server) -> AsyncIterator[Relay]:
    """A relay in front of the shared server."""
    async with relay_to(redis_server.url) as relay:
        yield relay


Opening = Callable[[str], Awaitable[RedisCache]]


@pytest.fixture
async def opened() -> AsyncIterator[Opening]:
    """Opens caches that are closed after the test."""
    caches: list[RedisCache] = []

    async def open_cache(url: str) -> RedisCache:
        cache = await open_dedup(url)
        assert isinstance(cache, RedisCache)
        caches.append(cache)
        return cache

    yield open_cache
    for cache in caches:
        await cache.close()
