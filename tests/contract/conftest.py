"""One fixture for each port: the contract runs against every row of the table that has it.

Adapters are opened as any program opens them, by URL through the registry, so that their registration is tested too.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from eventcore.contract import CacheBackend, ConsumerBackend, QueueBackend, StoreBackend
from eventcore.ports import Consumer, DedupCache, EventStore, Queue
from eventcore.registry import CONSUMERS, DEDUP_CACHES, QUEUES, STORES, find_adapter
from tests.contract.backends import ACK_WAIT_SECONDS, Backend, need, rows


@pytest.fixture(params=rows(STORES), ids=lambda backend: backend.name)
async def store_backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[StoreBackend]:
    backend: Backend = request.param
    need(backend)
    prepared: set[str] = set()
    async with backend.places(tmp_path) as url_of:

        async def open_store(place: str) -> EventStore:
            url = url_of(place)
            if url not in prepared:
                prepared.add(url)
                await backend.prepare(url)
            return await find_adapter(STORES, url)(url)

        yield StoreBackend(
            name=backend.name,
            open=open_store,
            durable=backend.durable,
            shared=backend.shared,
            precomputed=backend.precomputed,
            projected=backend.projected,
        )


@pytest.fixture(params=rows(DEDUP_CACHES), ids=lambda backend: backend.name)
async def cache_backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[CacheBackend]:
    backend: Backend = request.param
    need(backend)
    async with backend.places(tmp_path) as url_of:

        async def open_cache() -> DedupCache:
            url = url_of("cache")
            return await find_adapter(DEDUP_CACHES, url)(url)

        async def open_bounded(members: int) -> DedupCache:
            url = f"{url_of('bounded')}?members={members}"
            return await find_adapter(DEDUP_CACHES, url)(url)

        yield CacheBackend(name=backend.name, open=open_cache, open_bounded=open_bounded if backend.bounded else None)


@pytest.fixture(params=rows(QUEUES), ids=lambda backend: backend.name)
async def queue_backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[QueueBackend]:
    backend: Backend = request.param
    need(backend)
    async with backend.places(tmp_path) as url_of:

        async def open_queue(store: EventStore) -> Queue:
            url = url_of("queue")
            return await find_adapter(QUEUES, url)(url, store=store)

        yield QueueBackend(name=backend.name, open=open_queue, answers_first=backend.answers_first)


@pytest.fixture(params=rows(CONSUMERS), ids=lambda backend: backend.name)
async def consumer_backend(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ConsumerBackend]:
    backend: Backend = request.param
    need(backend)
    async with backend.places(tmp_path) as url_of:
        url = url_of("queue")

        async def open_queue(store: EventStore) -> Queue:
            return await find_adapter(QUEUES, url)(url, store=store)

        async def open_consumer() -> Consumer:
            return await find_adapter(CONSUMERS, url)(url)

        yield ConsumerBackend(
            name=backend.name,
            open_queue=open_queue,
            open_consumer=open_consumer,
            ack_wait_seconds=ACK_WAIT_SECONDS,
        )
