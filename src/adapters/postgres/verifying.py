"""Does the store agree with itself? One plain sentence for each difference.

The server compares whole tables, on disk where they are large, in one snapshot, so memory stays small whatever the
store holds; ten million events take minutes. Not here: mending.
"""

from collections.abc import Iterator, Sequence
from time import time_ns
from typing import Any

from adapters.postgres.connections import SNAPSHOT, Session
from adapters.postgres.counting import EARLIEST_US
from adapters.postgres.reader import policies
from adapters.postgres.statements import statements
from eventcore.calendar import QUARTER_US

_SHOWN = 20
"""Differences of one kind that are told one by one; beyond it, that there are more."""

_DAY_US = 86_400_000_000


async def differences(session: Session, project: str | None, partition_us: int | None) -> list[str]:
    """See `EventStore.verify`."""
    retention_days = 0 if partition_us is None else (await policies(session)).get("retention_days", 0)
    since_us = EARLIEST_US
    if retention_days:
        # A day less, because clocks differ, and from a whole quarter of an hour on, as activity is kept.
        since_us = time_ns() // 1_000 - (retention_days - 1) * _DAY_US
        since_us -= since_us % QUARTER_US
    found: list[str] = []
    async with session.transaction(SNAPSHOT):
        for check in (name for name in statements() if name.startswith("check_")):
            values = {"project": project, "since": since_us, "shown": _SHOWN + 1}
            taken = {name: values[name] for name in statements()[check].parameters}
            found += _told(check, await session.rows(check, **taken))
    return found


def _told(check: str, rows: Sequence[Any]) -> Iterator[str]:
    yield from (f"project {name}: {text}" for name, text in rows[:_SHOWN])
    if len(rows) > _SHOWN:
        yield f"there are more differences of this kind ({check.removeprefix('check_')})"
