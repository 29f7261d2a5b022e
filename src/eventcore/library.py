"""Opening eventcore as a library: the composition root for people who import it.

The one module of the core that brings a clock and randomness along, because somebody has to; a process of our own
does it in its container instead.
"""

import time
from contextlib import AsyncExitStack
from os import urandom

from eventcore.events import DEFAULT_PROJECT
from eventcore.limits import Limits
from eventcore.registry import DEDUP_CACHES, QUEUES, STORES, find_adapter
from eventcore.service import Eventcore

__all__ = ["DEFAULT_PROJECT", "DEFAULT_STORE_URL", "open"]

DEFAULT_STORE_URL = "sqlite:///eventcore-data/eventcore.sqlite3"


async def open(
    store_url: str = DEFAULT_STORE_URL,
    *,
    dedup_url: str = "memory://",
    queue_url: str = "inline://",
    reporting_zone: str = "UTC",
    limits: Limits = Limits(),
    statistics_seconds: float | None = None,
) -> Eventcore:
    """Open a store by its URL, with the cache and the queue that go with it.

    Args:
        store_url: e.g. ``sqlite:///events.sqlite3`` (relative), ``sqlite:////var/lib/events.sqlite3``, ``memory://``.
        dedup_url: the dedup cache.
        queue_url: the queue; ``inline://`` has the caller wait for the store.
        reporting_zone: the time zone of statistics that name none.
        limits: what is accepted.
        statistics_seconds: how long the store may take for one statistic, None for as long as it does.

    Raises:
        EventcoreError: no adapter speaks a URL's scheme, or the store cannot be opened.
    """
    open_store = find_adapter(STORES, store_url)
    open_cache = find_adapter(DEDUP_CACHES, dedup_url)
    open_queue = find_adapter(QUEUES, queue_url)
    async with AsyncExitStack() as opened:  # closes what is open already when the next part cannot be opened
        store = await open_store(store_url)
        opened.push_async_callback(store.close)
        cache = await open_cache(dedup_url)
        opened.push_async_callback(cache.close)
        queue = await open_queue(queue_url, store=store)
        opened.pop_all()
    return Eventcore(
        store=store,
        cache=cache,
        queue=queue,
        clock_us=lambda: time.time_ns() // 1_000,
        elapsed_us=lambda: time.perf_counter_ns() // 1_000,
        new_id=lambda: urandom(16),
        limits=limits,
        reporting_zone=reporting_zone,
        statistics_seconds=statistics_seconds,
    )
