"""The table of everything that the contract suites run against.

A row says what a backend is called in ``EVENTCORE_REQUIRE``, under which URL scheme its adapter is registered, what it
can do, and what a machine must have to run it. Every adapter that eventcore registers has a row for its port (see
`test_backends`); one adapter may have several, as PostgreSQL with and without TimescaleDB.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from os import getpid
from pathlib import Path

import asyncpg
import nats

from eventcore.registry import CONSUMERS, DEDUP_CACHES, MIGRATIONS, QUEUES, STORES, find_adapter
from tests.support import servers
from tests.support.fixtures import shared
from tests.unit.redis.relay import a_certificate, missing_openssl, relay_to, server_side

Places = Callable[[str], str]
"""The URL of a place by its name; all of a test's places are empty when it begins."""


def nothing_missing() -> None:
    """What a backend lacks that needs nothing but Python."""
    return


@asynccontextmanager
async def in_memory(folder: Path) -> AsyncIterator[Places]:
    """Every open is a place of its own."""
    yield lambda place: "memory://"


@asynccontextmanager
async def in_files(folder: Path) -> AsyncIterator[Places]:
    """A place is a file in the test's own folder."""
    yield lambda place: f"sqlite:///{folder / place}.sqlite3"


@asynccontextmanager
async def inline(folder: Path) -> AsyncIterator[Places]:
    """There is only one."""
    yield lambda place: "inline://"


_numbers = count(1)
ACK_WAIT_SECONDS = 1.0
"""How long queues with an end for workers wait for a word about a message."""
_SMALL_STREAM = f"max_bytes={16 * 1024 * 1024}&ack_wait_seconds={ACK_WAIT_SECONDS}"


def in_schemas(server: str, scheme: str) -> Callable[[Path], AbstractAsyncContextManager[Places]]:
    """A place is a schema of the shared server of that name; `with_a_schema` makes it."""

    @asynccontextmanager
    async def places(folder: Path) -> AsyncIterator[Places]:
        url = shared(server).url
        prefix = f"contract_{getpid()}_{next(_numbers)}_"
        yield lambda place: f"{scheme}:{url.partition(':')[2]}?search_path={prefix}{place}"
        connection = await asyncpg.connect(url)
        for (name,) in await connection.fetch(
            "SELECT nspname FROM pg_namespace WHERE starts_with(nspname, $1)", prefix
        ):
            await connection.execute(f"DROP SCHEMA {name} CASCADE")
        await connection.close()

    return places


async def with_a_schema(url: str) -> None:
    """What an operator does before the first start: CREATE SCHEMA, then ``eventcore migrate``."""
    server, _, schema = url.partition("?search_path=")
    connection = await asyncpg.connect(server)
    await connection.execute(f"CREATE SCHEMA {schema}")
    await connection.close()
    await find_adapter(MIGRATIONS, url)(url)


@asynccontextmanager
async def with_prefixes(folder: Path) -> AsyncIterator[Places]:
    """Every open is a place of its own in the shared Redis; its keys expire, so nothing is cleared away."""
    yield lambda place: _with_a_prefix(shared("redis").url)


@asynccontextmanager
async def behind_tls(folder: Path) -> AsyncIterator[Places]:
    """As `with_prefixes`, through a relay that speaks TLS, since not every Redis program can."""
    certificate, key = a_certificate(folder)
    async with relay_to(shared("redis").url, server_side(certificate, key)) as relay:
        yield lambda place: f"{_with_a_prefix(f'rediss://localhost:{relay.port}')}&ca_file={certificate}"


def _with_a_prefix(url: str) -> str:
    return f"{url}?prefix=contract-{getpid()}-{next(_numbers)}&ttl_seconds=600&timeout_ms=2000"


def redis_or_openssl_missing() -> str | None:
    """What a machine lacks for `behind_tls`."""
    return servers.missing("redis") or missing_openssl()


@asynccontextmanager
async def in_streams(folder: Path) -> AsyncIterator[Places]:
    """A place is a stream of the shared NATS."""
    url = shared("nats").url
    prefix = f"CONTRACT-{getpid()}-{next(_numbers)}-"
    yield lambda place: f"{url}/{prefix}{place}?{_SMALL_STREAM}"
    client = await nats.connect(url)
    for stream in await client.jsm().streams_info():
        if str(stream.config.name).startswith(prefix):
            await client.jsm().delete_stream(str(stream.config.name))
    await client.close()


@asynccontextmanager
async def in_encrypted_streams(folder: Path) -> AsyncIterator[Places]:
    """A place is a stream of a NATS of its own, which speaks nothing but TLS."""
    certificate, key = a_certificate(folder)
    tls = {"cert_file": str(certificate), "key_file": str(key)}
    with servers.needed("nats"), servers.nats(folder / "nats", own_process=True, settings={"tls": tls}) as server:
        host = server.url.removeprefix("nats://").replace("127.0.0.1", "localhost")
        yield lambda place: f"tls://{host}/{place}?{_SMALL_STREAM}&tls_ca={certificate}"


def nats_or_openssl_missing() -> str | None:
    """What a machine lacks for `in_encrypted_streams`."""
    return servers.missing("nats") or missing_openssl()


async def as_it_is(url: str) -> None:
    """A place that is made by whoever opens it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Backend:
    """One row.

    Attributes:
        name: what it is called in ``EVENTCORE_REQUIRE`` and in the ids of tests.
        port: the entry-point group of its adapter.
        scheme: the name of its entry point.
        places: prepares a fresh namespace for one test and clears it away.
        prepare: makes what must be at a place before it is opened for the first time.
        missing: what this machine lacks to run it and how to get that; None when it lacks nothing.
        durable, shared, precomputed, projected: of a store, see `eventcore.contract.StoreBackend`.
        bounded: of a cache, whether its URL takes ``?members=N``.
        answers_first: of a queue.
    """

    name: str
    port: str
    scheme: str
    places: Callable[[Path], AbstractAsyncContextManager[Places]]
    prepare: Callable[[str], Awaitable[None]] = as_it_is
    missing: Callable[[], str | None] = nothing_missing
    durable: bool = False
    shared: bool = False
    precomputed: bool = True
    projected: bool = True
    bounded: bool = False
    answers_first: bool = False


BACKENDS = (
    Backend(name="memory", port=STORES, scheme="memory", places=in_memory, projected=False),
    Backend(name="sqlite", port=STORES, scheme="sqlite", places=in_files, durable=True, shared=True),
    Backend(
        name="postgres",
        port=STORES,
        scheme="postgresql",
        places=in_schemas("postgres", "postgresql"),
        prepare=with_a_schema,
        missing=partial(servers.missing, "postgres"),
        durable=True,
        shared=True,
    ),
    Backend(
        name="timescaledb",
        port=STORES,
        scheme="postgres",
        places=in_schemas("timescaledb", "postgres"),
        prepare=with_a_schema,
        missing=partial(servers.missing, "timescaledb"),
        durable=True,
        shared=True,
    ),
    Backend(name="memory", port=DEDUP_CACHES, scheme="memory", places=in_memory, bounded=True),
    Backend(
        name="redis",
        port=DEDUP_CACHES,
        scheme="redis",
        places=with_prefixes,
        missing=partial(servers.missing, "redis"),
    ),
    Backend(
        name="redis-tls",
        port=DEDUP_CACHES,
        scheme="rediss",
        places=behind_tls,
        missing=redis_or_openssl_missing,
    ),
    Backend(name="inline", port=QUEUES, scheme="inline", places=inline),
    *(
        Backend(
            name=name,
            port=port,
            scheme=scheme,
            places=places,
            missing=missing,
            answers_first=True,
        )
        for port in (QUEUES, CONSUMERS)
        for name, scheme, places, missing in (
            ("nats", "nats", in_streams, partial(servers.missing, "nats")),
            ("nats-tls", "tls", in_encrypted_streams, nats_or_openssl_missing),
        )
    ),
)


def rows(port: str) -> list[Backend]:
    """The backends of one port."""
    return [backend for backend in BACKENDS if backend.port == port]


def need(backend: Backend) -> None:
    """Skip the test where the machine lacks what the backend needs, or fail it where the backend is required."""
    if (lack := backend.missing()) is not None:
        servers.require(backend.name, lack)
