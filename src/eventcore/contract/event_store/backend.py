"""How a store is opened, and the fixtures that all tests of a store build on."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest
import pytest_asyncio

from eventcore.ports import EventStore


@dataclass(frozen=True, kw_only=True, slots=True)
class StoreBackend:
    """How to open a store, and what it can do.

    Attributes:
        name: for the reasons of skips.
        open: opens the store at a place. Every place is empty when a test begins; where `durable`, the same place
            opened again is the same store.
        durable: whether a store holds, after it was closed and opened again, all that it held.
        shared: whether a place may be open more than once at a time, as by an API and a worker.
        precomputed: whether it answers from precomputed activity where that is enough, instead of reading events.
        projected: whether it keeps a projection, so that there is something to fold.
    """

    name: str
    open: Callable[[str], Awaitable[EventStore]]
    durable: bool
    shared: bool = False
    precomputed: bool = True
    projected: bool = True


class StoreFixtures:
    """What the tests of all subjects ask for."""

    pytestmark = pytest.mark.asyncio

    @pytest_asyncio.fixture
    async def store(self, backend: StoreBackend) -> AsyncIterator[EventStore]:
        """An empty store, closed after the test."""
        store = await backend.open("here")
        yield store
        await store.close()

    @pytest_asyncio.fixture
    async def elsewhere(self, backend: StoreBackend) -> AsyncIterator[EventStore]:
        """An empty store at another place, closed after the test."""
        store = await backend.open("elsewhere")
        yield store
        await store.close()

    @pytest_asyncio.fixture
    async def beside(self, backend: StoreBackend, store: EventStore) -> AsyncIterator[EventStore]:
        """The place of ``store``, opened a second time."""
        if not backend.shared:
            pytest.skip(f"{backend.name}: a place cannot be open more than once at a time")
        beside = await backend.open("here")
        yield beside
        await beside.close()

    @pytest_asyncio.fixture
    async def reopen(
        self, backend: StoreBackend, store: EventStore
    ) -> AsyncIterator[Callable[[], Awaitable[EventStore]]]:
        """Closes ``store`` and opens its place again."""
        if not backend.durable:
            pytest.skip(f"{backend.name} is not durable: nothing is left after close")
        opened: list[EventStore] = [store]

        async def close_and_open() -> EventStore:
            await opened[-1].close()
            opened.append(await backend.open("here"))
            return opened[-1]

        yield close_and_open
        for one in opened:
            await one.close()

    @pytest.fixture
    def precomputing(self, backend: StoreBackend, store: EventStore) -> EventStore:
        """A store that has precomputed activity."""
        if not backend.precomputed:
            pytest.skip(f"{backend.name} reads events for every answer")
        return store

    @pytest.fixture
    def projecting(self, backend: StoreBackend, store: EventStore) -> EventStore:
        """A store that has a projection."""
        if not backend.projected:
            pytest.skip(f"{backend.name} keeps no projection")
        return store
