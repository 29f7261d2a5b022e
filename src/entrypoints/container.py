"""The container: the one place of a process that chooses adapters, opens them, and closes them in reverse.

Adapters are found by the scheme of their URL in the same registry that `eventcore.open` uses. Importing this opens
nothing. Not here: reading settings (`settings`) and what is done with an open eventcore.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from inspect import signature
from os import urandom
from typing import Any, TypeVar
from urllib.parse import urlsplit

from dependency_injector import containers, providers

from entrypoints.patience import Opening, WaitingConsumer, WaitingQueue, WaitingStore
from entrypoints.settings import PREFIX, Settings
from eventcore.errors import EventcoreError, Kind
from eventcore.ports import Consumer, DedupCache, EventStore, Queue
from eventcore.registry import CONSUMERS, DEDUP_CACHES, QUEUES, STORES, find_adapter
from eventcore.service import Eventcore

_Waiting = TypeVar("_Waiting")


async def _open(group: str, setting: str, url: str, **parts: Any) -> Any:
    try:
        open_part = find_adapter(group, url)
        if "read_url" in parts and "read_url" not in signature(open_part).parameters:
            raise EventcoreError(
                Kind.UNSUPPORTED, "no_replicas", f"this store has no replicas; leave {PREFIX}STORE_READ_URL unset"
            )
        return await open_part(url, **parts)
    except EventcoreError as error:
        message = f"{PREFIX}{setting} is {shown_url(url)}: {error.message}"
        raise EventcoreError(error.kind, error.code, message, field=error.field) from error


async def _store(url: str, read_url: str | None, wait: bool) -> AsyncIterator[EventStore]:
    async def open_store() -> EventStore:
        parts = {} if read_url is None else {"read_url": read_url}
        store: EventStore = await _open(STORES, "STORE_URL", url, **parts)
        return store

    store = (
        await _opened(Opening("store", open_store), WaitingStore) if wait and _has_server(url) else await open_store()
    )
    yield store
    await store.close()


async def _cache(url: str) -> AsyncIterator[DedupCache]:
    cache: DedupCache = await _open(DEDUP_CACHES, "DEDUP_URL", url)
    yield cache
    await cache.close()


async def _queue(url: str, store: EventStore, wait: bool) -> AsyncIterator[Queue]:
    async def open_queue() -> Queue:
        queue: Queue = await _open(QUEUES, "QUEUE_URL", url, store=store)
        return queue

    queue = (
        await _opened(Opening("queue", open_queue), WaitingQueue) if wait and _has_server(url) else await open_queue()
    )
    yield queue
    await queue.close()


async def _consumer(url: str) -> AsyncIterator[Consumer]:
    async def open_consumer() -> Consumer:
        consumer: Consumer = await _open(CONSUMERS, "QUEUE_URL", url)
        return consumer

    consumer = await _opened(Opening("queue", open_consumer), WaitingConsumer)
    yield consumer
    await consumer.close()


async def _opened(opening: Opening[Any], waiting: Callable[[Opening[Any]], _Waiting]) -> _Waiting:
    await opening.begin()
    return waiting(opening)


def _has_server(url: str) -> bool:
    """Whether a URL names a server, which may be away for a while; a file that is not there stays away."""
    return url.partition("://")[2][:1] not in ("", "/", "?")


def _clock_us() -> int:
    return time.time_ns() // 1_000


def _elapsed_us() -> int:
    return time.perf_counter_ns() // 1_000


def _new_id() -> bytes:
    return urandom(16)


class Container(containers.DeclarativeContainer):
    """The parts of a process, each made once, from its `Settings`."""

    settings: providers.Dependency[Settings] = providers.Dependency(instance_of=Settings)
    wait: providers.Dependency[bool] = providers.Dependency(instance_of=bool)
    store = providers.Resource(_store, settings.provided.store_url, settings.provided.store_read_url, wait)
    cache = providers.Resource(_cache, settings.provided.dedup_url)
    queue = providers.Resource(_queue, settings.provided.queue_url, store=store, wait=wait)
    consumer = providers.Resource(_consumer, settings.provided.queue_url)
    eventcore = providers.Factory(
        Eventcore,
        store=store,
        cache=cache,
        queue=queue,
        clock_us=providers.Object(_clock_us),
        elapsed_us=providers.Object(_elapsed_us),
        new_id=providers.Object(_new_id),
        limits=settings.provided.limits,
        reporting_zone=settings.provided.reporting_zone,
        statistics_seconds=settings.provided.statistics_seconds,
    )


@asynccontextmanager
async def open_eventcore(settings: Settings, *, wait: bool = False) -> AsyncIterator[Eventcore]:
    """Open the store, the cache and the queue that the settings name; close them in reverse at the end.

    Args:
        settings: name them.
        wait: whether servers may be away for now; see `entrypoints.patience`.

    Raises:
        EventcoreError: one of them cannot be opened. The message names the setting and its URL without the password.
    """
    container = Container(settings=settings, wait=wait)
    try:
        # A factory whose parts are opened asynchronously gives an awaitable, which its stubs do not say.
        core: Any = container.eventcore()
        yield await _to_its_end(core)
    finally:
        await _close(container)


@asynccontextmanager
async def open_worker_parts(settings: Settings) -> AsyncIterator[tuple[EventStore, Consumer]]:
    """Open the store and the consuming end of the queue; servers may be away for now.

    Raises:
        EventcoreError: one of them cannot be opened and waiting cannot help, or there is no queue to work on.
    """
    container = Container(settings=settings, wait=True)
    try:
        store: Any = container.store()
        consumer: Any = container.consumer()
        yield await _to_its_end(store), await _to_its_end(consumer)
    finally:
        await _close(container)


async def _to_its_end(opening: Awaitable[Any]) -> Any:
    """What was opened; who is cancelled meanwhile waits until it is, for what is half open cannot be closed."""
    opened = asyncio.ensure_future(opening)
    try:
        return await asyncio.shield(opened)
    except asyncio.CancelledError:
        await asyncio.wait([opened])
        raise


async def _close(container: Container) -> None:
    closing = container.shutdown_resources()
    if closing is not None:
        await closing


def shown_url(url: str) -> str:
    """A URL for people to read: without user, password and query."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "a URL that cannot be read"
    if not parts.scheme:
        return "not a URL"
    if "@" in f"{parts.path}{parts.query}{parts.fragment}":  # a password with a bare / in it: what is what is unknown
        return f"{parts.scheme}://…"
    return f"{parts.scheme}://{host}{port}{parts.path}"
