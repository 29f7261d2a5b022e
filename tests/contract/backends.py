"""The table of everything that the contract suites run against.

A row says what a backend is called in ``EVENTCORE_REQUIRE``, under which URL scheme its adapter is registered, what it
can do, and what a machine must have to run it. Every adapter that eventcore registers has a row for its port (see
`test_backends`); one adapter may have several, as PostgreSQL with and without TimescaleDB.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from eventcore.registry import DEDUP_CACHES, QUEUES, STORES
from tests.support import servers

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


@dataclass(frozen=True, kw_only=True, slots=True)
class Backend:
    """One row.

    Attributes:
        name: what it is called in ``EVENTCORE_REQUIRE`` and in the ids of tests.
        port: the entry-point group of its adapter.
        scheme: the name of its entry point.
        places: prepares a fresh namespace for one test and clears it away.
        missing: what this machine lacks to run it and how to get that; None when it lacks nothing.
        durable, shared, precomputed: of a store, see `eventcore.contract.StoreBackend`.
        bounded: of a cache, whether its URL takes ``?members=N``.
        answers_first: of a queue.
    """

    name: str
    port: str
    scheme: str
    places: Callable[[Path], AbstractAsyncContextManager[Places]]
    missing: Callable[[], str | None] = nothing_missing
    durable: bool = False
    shared: bool = False
    precomputed: bool = True
    bounded: bool = False
    answers_first: bool = False


BACKENDS = (
    Backend(name="memory", port=STORES, scheme="memory", places=in_memory),
    Backend(name="sqlite", port=STORES, scheme="sqlite", places=in_files, durable=True, shared=True),
    Backend(name="memory", port=DEDUP_CACHES, scheme="memory", places=in_memory, bounded=True),
    Backend(name="inline", port=QUEUES, scheme="inline", places=inline),
)


def rows(port: str) -> list[Backend]:
    """The backends of one port."""
    return [backend for backend in BACKENDS if backend.port == port]


def need(backend: Backend) -> None:
    """Skip the test where the machine lacks what the backend needs, or fail it where the backend is required."""
    if (lack := backend.missing()) is not None:
        servers.require(backend.name, lack)
