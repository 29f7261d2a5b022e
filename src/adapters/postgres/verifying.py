"""Does the store agree with itself? One plain sentence for each difference.

The server compares whole tables, on disk where they are large, in one snapshot, so memory stays small whatever the
store holds; ten million events take minutes. Not here: mending, and how activity is compared (`comparing`).
"""

from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from time import time_ns
from typing import Any

from adapters.postgres.burying import broken
from adapters.postgres.comparing import disagreements
from adapters.postgres.connections import SNAPSHOT, Session
from adapters.postgres.counting import EARLIEST_US
from adapters.postgres.reader import policies
from adapters.postgres.statements import statements
from eventcore.calendar import QUARTER_US
from eventcore.decoding import stored_name_flaw

_SHOWN = 20
"""Differences of one kind that are told one by one; beyond it, that there are more."""

_NAMES_AT_ONCE = 10_000
_DAY_US = 86_400_000_000


async def differences(session: Session, project: str | None, partition_us: int | None) -> list[str]:
    """See `EventStore.verify`."""
    since_us = await kept_since_us(session, partition_us)
    found: list[str] = []
    async with session.transaction(SNAPSHOT):
        for check in (name for name in statements() if name.startswith("check_")):
            values = {"project": project, "since": since_us, "shown": _SHOWN + 1}
            taken = {name: values[name] for name in statements()[check].parameters}
            found += _told(check.removeprefix("check_"), await session.rows(check, **taken))
        found += await _activity(session, project, since_us)
        for kind, field in (("user", "user_id"), ("type", "event_type")):
            found += _told(f"{kind} names", [row async for row in _broken_names(session, project, kind, field)])
        found += _told("letters", [row async for row in _broken_letters(session, project)])
    return found


async def kept_since_us(session: Session, partition_us: int | None) -> int:
    """From when on no event can have expired, at a quarter of an hour; long ago where events are kept for ever."""
    retention_days = 0 if partition_us is None else (await policies(session)).get("retention_days", 0)
    if not retention_days:
        return EARLIEST_US
    # A day less, because clocks differ, and from a whole quarter of an hour on, as activity is kept.
    since_us = time_ns() // 1_000 - (retention_days - 1) * _DAY_US
    return since_us - since_us % QUARTER_US


async def _activity(session: Session, project: str | None, since_us: int) -> list[str]:
    """What events and activity say of each other, some of each kind."""
    names = dict(await session.rows("project_names", project=project))
    found: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    async for project_key, kind, sentence in disagreements(session, sorted(names), since_us):
        if len(found[kind]) <= _SHOWN:
            found[kind].append((names[project_key], sentence))
    return [sentence for kind in sorted(found) for sentence in _told(kind, found[kind])]


async def _broken_names(session: Session, project: str | None, kind: str, field: str) -> AsyncIterator[tuple[str, str]]:
    shown = 0
    async for rows in session.scan(f"stored_{kind}s", rows=_NAMES_AT_ONCE, project=project):
        for name, key, stored in rows:
            if (flaw := stored_name_flaw(field, stored)) is None:
                continue
            yield name, f"{kind} key {key} has a name that no event can bring: {flaw}"
            shown += 1
            if shown > _SHOWN:
                return


async def _broken_letters(session: Session, project: str | None) -> AsyncIterator[tuple[str, str]]:
    shown = 0
    async for name, letter in broken(session, project):
        yield name, f"dead letter {letter.hex()} does not hold the event that it is named after"
        shown += 1
        if shown > _SHOWN:
            return


def _told(kind: str, rows: Sequence[Any]) -> Iterator[str]:
    yield from (f"project {name}: {text}" for name, text in rows[:_SHOWN])
    if len(rows) > _SHOWN:
        yield f"there are more differences of this kind ({kind})"
