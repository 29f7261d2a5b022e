"""Fixtures with one server for all tests of a worker process; import them into a conftest.

    from tests.support.fixtures import nats_server, postgres_server, redis_server, timescale_server

A server starts when the first test asks for it. Where it cannot be had its tests are skipped, or fail where
``EVENTCORE_REQUIRE`` names it. Not for tests that stop a server: those start their own, see `tests.support.servers`.
"""

import pytest

from tests.support import servers
from tests.support.servers import Server

__all__ = ["nats_server", "postgres_server", "redis_server", "timescale_server"]


@pytest.fixture(scope="session")
def postgres_server() -> Server:
    """PostgreSQL; make a schema of your own in it."""
    return shared("postgres")


@pytest.fixture(scope="session")
def timescale_server() -> Server:
    """PostgreSQL with TimescaleDB; make a schema of your own in it."""
    return shared("timescaledb")


@pytest.fixture(scope="session")
def redis_server() -> Server:
    """Redis with 64 MB; use key names of your own."""
    return shared("redis")


@pytest.fixture(scope="session")
def nats_server() -> Server:
    """NATS with JetStream on files; make streams of your own."""
    return shared("nats")


def shared(name: str) -> Server:
    """The shared server of that name, or a skip."""
    with servers.needed(name):
        return servers.shared(name)
    raise AssertionError  # `needed` does not return
