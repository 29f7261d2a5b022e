"""Adapters by URL scheme, found through packaging entry points, so the core imports none of them.

An adapter registers a function under its scheme in one of the groups below; other distributions bring their own the
same way. Not here: which adapters a process uses (its container, or `eventcore.open`).
"""

import re
from importlib.metadata import entry_points
from typing import Any

from eventcore.errors import EventcoreError, Kind

STORES = "eventcore.stores"
"""``async def open_store(url) -> EventStore``, with a parameter ``read_url=None`` where it can read from replicas"""
DEDUP_CACHES = "eventcore.dedup"
"""``async def open_dedup(url) -> DedupCache``"""
QUEUES = "eventcore.queues"
"""``async def open_queue(url, *, store) -> Queue``"""
CONSUMERS = "eventcore.consumers"
"""``async def open_consumer(url) -> Consumer``, for the scheme of a queue that answers first"""
MIGRATIONS = "eventcore.migrations"
"""``async def migrate(url, *, check=False) -> tuple[int, int]``: the schema found and the schema wanted"""

_SCHEME = re.compile(r"([a-z][a-z0-9+.-]*):")


def find_adapter(group: str, url: str) -> Any:
    """The function registered in ``group`` for the scheme of ``url``.

    Raises:
        EventcoreError: the URL has no scheme, or nothing installed speaks it. The message never holds the URL, which
            may carry a password.
    """
    found = _SCHEME.match(url)
    known = sorted(entry_points(group=group).names)
    if found is None:
        raise EventcoreError(
            Kind.UNSUPPORTED, "invalid_url", f"this is not a URL; it begins with one of {', '.join(known)}, then ://"
        )
    scheme = found[1]
    for entry in entry_points(group=group, name=scheme):
        try:
            return entry.load()
        except ModuleNotFoundError as error:
            raise EventcoreError(
                Kind.UNSUPPORTED,
                "missing_driver",
                f"the driver for {scheme}:// is not installed (no module {error.name}): install eventcore-analytics "
                "with the extra postgres, redis or nats, e.g. pip install 'eventcore-analytics[postgres]'",
            ) from error
    raise EventcoreError(
        Kind.UNSUPPORTED,
        "unknown_scheme",
        f"nothing installed speaks {scheme[:32]}:// here; known are {', '.join(known)}",
    )
