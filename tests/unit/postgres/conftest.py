"""Places in the shared servers: each test has a schema of its own, which is gone afterwards."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from os import getpid

import asyncpg
import pytest

from adapters.postgres import migrate, open_store
from eventcore.ports import EventStore
from tests.support.fixtures import postgres_server, shared, timescale_server
from tests.support.servers import Server

__all__ = ["postgres_server", "timescale_server"]

_numbers = count(1)


@asynccontextmanager
async def a_schema(server: Server) -> AsyncIterator[str]:
    """The URL of a new, empty schema."""
    name = f"test_{getpid()}_{next(_numbers)}"
    connection = await asyncpg.connect(server.url)
    try:
        await connection.execute(f"CREATE SCHEMA {name}")
        yield f"{server.url}?search_path={name}"
        await connection.execute(f"DROP SCHEMA {name} CASCADE")
    finally:
        await connection.close()


@pytest.fixture
async def empty_url(postgres_server: Server) -> AsyncIterator[str]:
    """A place without a store."""
    async with a_schema(postgres_server) as url:
        yield url


@pytest.fixture
async def url(empty_url: str) -> str:
    """A place with an empty store."""
    await migrate(empty_url)
    return empty_url


@pytest.fixture
async def store(url: str) -> AsyncIterator[EventStore]:
    """An empty store."""
    store = await open_store(url)
    yield store
    await store.close()


@pytest.fixture
async def timescale_url(timescale_server: Server) -> AsyncIterator[str]:
    """A place without a store, in a database with TimescaleDB."""
    async with a_schema(timescale_server) as url:
        yield url


@pytest.fixture(params=["postgres", "timescaledb"])
async def either_url(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """A place with an empty store whose events are a plain table, and one where they are a hypertable."""
    async with a_schema(shared(request.param)) as url:
        await migrate(url)
        yield url
