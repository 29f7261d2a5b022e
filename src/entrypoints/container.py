"""The container: the one place of a process that chooses adapters, opens them, and closes them in reverse.

Adapters are found by the scheme of their URL in the same registry that `eventcore.open` uses. Importing this opens
nothing. Not here: reading settings (`settings`) and what is done with an open eventcore.
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from os import urandom
from typing import Any
from urllib.parse import urlsplit

from dependency_injector import containers, providers

from entrypoints.settings import PREFIX, Settings
from eventcore.errors import EventcoreError
from eventcore.ports import DedupCache, EventStore, Queue
from eventcore.registry import DEDUP_CACHES, QUEUES, STORES, find_adapter
from eventcore.service import Eventcore


async def _open(group: str, setting: str, url: str, **parts: Any) -> Any:
    try:
        return await find_adapter(group, url)(url, **parts)
    except EventcoreError as error:
        message = f"{PREFIX}{setting} is {shown_url(url)}: {error.message}"
        raise EventcoreError(error.kind, error.code, message, field=error.field) from error


async def _store(url: str) -> AsyncIterator[EventStore]:
    store: EventStore = await _open(STORES, "STORE_URL", url)
    yield store
    await store.close()


async def _cache(url: str) -> AsyncIterator[DedupCache]:
    cache: DedupCache = await _open(DEDUP_CACHES, "DEDUP_URL", url)
    yield cache
    await cache.close()


async def _queue(url: str, store: EventStore) -> AsyncIterator[Queue]:
    queue: Queue = await _open(QUEUES, "QUEUE_URL", url, store=store)
    yield queue
    await queue.close()


def _clock_us() -> int:
    return time.time_ns() // 1_000


def _elapsed_us() -> int:
    return time.perf_counter_ns() // 1_000


def _new_id() -> bytes:
    return urandom(16)


class Container(containers.DeclarativeContainer):
    """The parts of a process, each made once, from its `Settings`."""

    settings: providers.Dependency[Settings] = providers.Dependency(instance_of=Settings)
    store = providers.Resource(_store, settings.provided.store_url)
    cache = providers.Resource(_cache, settings.provided.dedup_url)
    queue = providers.Resource(_queue, settings.provided.queue_url, store=store)
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
    )


@asynccontextmanager
async def open_eventcore(settings: Settings) -> AsyncIterator[Eventcore]:
    """Open the store, the cache and the queue that the settings name; close them in reverse at the end.

    Raises:
        EventcoreError: one of them cannot be opened. The message names the setting and its URL without the password.
    """
    container = Container(settings=settings)
    try:
        # A factory whose parts are opened asynchronously gives an awaitable, which its stubs do not say.
        opened: Any = container.eventcore()
        yield await opened
    finally:
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
