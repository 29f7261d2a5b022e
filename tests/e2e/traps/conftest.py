"""Places for the tests of traps: each has a schema, a stream and a prefix of its own in the shared servers."""

from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from os import getpid
from pathlib import Path

import pytest

from adapters.postgres import migrate
from tests.e2e.traps.homes import Process, Urls
from tests.support import servers
from tests.support.fixtures import nats_server, postgres_server, redis_server
from tests.support.servers import Server
from tests.unit.postgres.conftest import a_schema

__all__ = ["nats_server", "postgres_server", "redis_server"]

_numbers = count(1)
MEBIBYTE = 1024 * 1024


@pytest.fixture
async def postgres_url(postgres_server: Server) -> AsyncIterator[str]:
    """An empty store."""
    async with a_schema(postgres_server) as url:
        await migrate(url)
        yield url


@pytest.fixture
def redis_url(redis_server: Server) -> str:
    """An empty cache, with enough time for a busy machine."""
    return f"{redis_server.url}?prefix=traps-{getpid()}-{next(_numbers)}&timeout_ms=2000"


@pytest.fixture
def queue_url(nats_server: Server) -> str:
    """A small empty stream whose messages come again after a second."""
    return f"{nats_server.url}/TRAPS-{getpid()}-{next(_numbers)}?max_bytes={MEBIBYTE}&ack_wait_seconds=1"


@pytest.fixture
def own_nats(tmp_path: Path) -> Iterator[Server]:
    """A NATS to kill."""
    with servers.needed("nats"), servers.nats(tmp_path / "nats", own_process=True) as server:
        yield server


@pytest.fixture
def own_queue_url(own_nats: Server) -> str:
    """An empty stream on a NATS to kill."""
    return f"{own_nats.url}/TRAPS?max_bytes={64 * MEBIBYTE}&ack_wait_seconds=1"


Start = Callable[[str, Urls], Process]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start `serve` or `worker`; they are ended with the test, and none may have left a traceback."""
    processes: list[Process] = []

    def start_one(command: str, urls: Urls) -> Process:
        processes.append(Process(command, urls, tmp_path / f"{command}.log"))
        return processes[-1]

    yield start_one
    for process in processes:
        process.end()
    for log in tmp_path.glob("*.log"):
        assert "Traceback" not in log.read_text()
