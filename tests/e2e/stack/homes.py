"""The homes of eventcore: which settings make them, what a machine must have, and which processes run in them."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import count
from os import getpid
from pathlib import Path

import asyncpg
import nats

from tests.e2e.stack.running import Settings, Stack
from tests.support import servers
from tests.support.fixtures import shared

STREAM_BYTES = 64 * 1024 * 1024
"""The shared server has room for some such streams, not for many of the usual size."""

_numbers = count(1)


@contextmanager
def in_memory(folder: Path) -> Iterator[Settings]:
    yield {"store_url": "memory://"}


@contextmanager
def in_a_file(folder: Path) -> Iterator[Settings]:
    yield {"store_url": f"sqlite:///{folder / 'events.sqlite3'}"}


@contextmanager
def in_postgres(folder: Path) -> Iterator[Settings]:
    with a_schema(shared("postgres").url) as url:
        yield {"store_url": url}


@contextmanager
def in_timescaledb(folder: Path) -> Iterator[Settings]:
    with a_schema(shared("timescaledb").url) as url:
        yield {"store_url": url}


@contextmanager
def behind_a_queue(folder: Path) -> Iterator[Settings]:
    with a_schema(shared("postgres").url) as store_url, a_stream(shared("nats").url) as queue_url:
        yield {"store_url": store_url, "queue_url": queue_url, "dedup_url": a_prefix(shared("redis").url)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Home:
    """One row.

    Attributes:
        name: in the ids of tests.
        servers: what a machine must have.
        settings: prepares a fresh place, and clears it away.
        workers: beside the API.
        outlives: whether another process, or the next one, sees the same store.
        migrated: whether `eventcore migrate` has to make the store.
    """

    name: str
    servers: tuple[str, ...] = ()
    settings: Callable[[Path], AbstractContextManager[Settings]]
    workers: int = 0
    outlives: bool = True
    migrated: bool = False


MEMORY = Home(name="memory", settings=in_memory, outlives=False)
SQLITE = Home(name="sqlite", settings=in_a_file)
POSTGRES = Home(name="postgres", servers=("postgres",), settings=in_postgres, migrated=True)
TIMESCALEDB = Home(name="timescaledb", servers=("timescaledb",), settings=in_timescaledb, migrated=True)
QUEUED = Home(
    name="postgres+redis+nats",
    servers=("postgres", "redis", "nats"),
    settings=behind_a_queue,
    workers=2,
    migrated=True,
)
HOMES = (MEMORY, SQLITE, POSTGRES, QUEUED, TIMESCALEDB)


def need(*names: str) -> None:
    """Skip the test where the machine lacks one of these servers, or fail it where that is required."""
    for name in names:
        if (lack := servers.missing(name)) is not None:
            servers.require(name, lack)


@contextmanager
def running(home: Home, folder: Path) -> Iterator[Stack]:
    """The processes of a home on a fresh store; at the end they must stop well."""
    need(*home.servers)
    with home.settings(folder) as settings, ending(Stack(folder, settings)) as stack:
        if home.migrated:
            stack.migrate()
        stack.start_workers(home.workers)
        stack.start_api()
        yield stack


@contextmanager
def ending(stack: Stack) -> Iterator[Stack]:
    """Its processes must stop well at the end, and are gone behind it."""
    try:
        yield stack
        stack.stop()
    finally:
        stack.close()


@dataclass(frozen=True, kw_only=True, slots=True)
class Servers:
    """Servers of a test's own, to be stopped, killed and started again with what they had."""

    postgres: servers.Server
    redis: servers.Server
    nats: servers.Server

    @property
    def settings(self) -> Settings:
        return {
            "store_url": self.postgres.url,
            # A killed worker's messages come again after this time, and a test waits for them.
            "queue_url": f"{self.nats.url}/EVENTS?ack_wait_seconds=6",
            "dedup_url": self.redis.url,
        }


@contextmanager
def own_servers() -> Iterator[Servers]:
    """All three, running and empty."""
    need("postgres", "redis", "nats")
    with (
        servers.postgres(own_process=True) as postgres,
        servers.redis(own_process=True) as redis,
        servers.nats(own_process=True) as nats_server,
    ):
        yield Servers(postgres=postgres, redis=redis, nats=nats_server)


@contextmanager
def a_schema(url: str) -> Iterator[str]:
    """The URL of a store in an empty schema of its own."""
    name = f"stack_{getpid()}_{next(_numbers)}"
    asyncio.run(_execute(url, f"CREATE SCHEMA {name}"))
    yield f"{url}?search_path={name}"
    asyncio.run(_execute(url, f"DROP SCHEMA {name} CASCADE"))


@contextmanager
def a_stream(url: str) -> Iterator[str]:
    """The URL of a queue in a stream of its own."""
    name = f"STACK_{getpid()}_{next(_numbers)}"
    yield f"{url}/{name}?max_bytes={STREAM_BYTES}"
    asyncio.run(_delete_stream(url, name))


def a_prefix(url: str) -> str:
    """The URL of a cache whose keys nobody else has."""
    return f"{url}?prefix=stack-{getpid()}-{next(_numbers)}&ttl_seconds=600"


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(statement)
    await connection.close()


async def _delete_stream(url: str, name: str) -> None:
    connection = await nats.connect(url)
    await connection.jetstream().delete_stream(name)
    await connection.close()
