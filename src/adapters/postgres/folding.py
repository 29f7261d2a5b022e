"""The fold: activity that waits becomes rows of the projection, in one transaction of the one process that folds.

Whole deltas are taken away and added to the rows, never "those before a mark": what others commit meanwhile waits for
the next fold, wherever it stands in the table. Whatever interrupts it, nothing has happened. Not here: what rows are
(`eventcore.projection`), and who folds when.
"""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple
from zoneinfo import ZoneInfo

import msgspec

from adapters.postgres.address import Address
from adapters.postgres.connections import READ_COMMITTED, Session
from adapters.postgres.dimensions import clear
from adapters.postgres.migrating import check_version
from adapters.postgres.rows import unpack
from eventcore.bitmaps import Period
from eventcore.calendar import find_zone
from eventcore.projection import COMBINATIONS_FROM, Change, Fold, Key

FOLD_SECONDS = 300
"""For one statement of a fold, and for what is computed between two: a million events take half a minute on a busy
machine. Nobody waits for it but other folds."""

MOST_DELTAS = 200_000
"""Rows that one fold takes. Where each holds an event or two, memory is what they become: some 2 KB each."""

FOLDS_KEPT = 256
"""Folds whose changes are known; a process that has not asked for longer reads its rows again."""

NEXT_ZONE = "projection_next_zone"
"""The setting that is there while the projection goes over to another zone."""

_ROWS_AT_ONCE = 500
"""Rows that are read, changed and written together; those of large projects have some 100 KB each."""

_Facts = Sequence[tuple[int, int, int, bytes]]
"""Project, quarter, type, and the packed keys of the users of all events."""


class _Change(NamedTuple):
    """What is added to one row.

    Attributes:
        project_key: whose.
        key: which row.
        change: what.
    """

    project_key: int
    key: Key
    change: Change


async def fold(session: Session, address: Address, most_events: int) -> int:
    """See `EventStore.fold`."""
    async with session.transaction(READ_COMMITTED):
        (is_ours,) = await session.first("lock_fold")
        if not is_ours:
            return 0
        version, *_ = await session.first("head")
        check_version(version, address)
        await clear(session)
        facts = await session.rows("take_deltas", most_events=max(1, most_events), most_rows=MOST_DELTAS)
        if not facts:
            return 0
        live = await live_combinations(session, {project_key for project_key, *_ in facts})
        events, changes = await asyncio.to_thread(_changes, facts, await projection_zones(session), live)
        for part in _parts(changes):
            await _change_rows(session, part)
        periods: defaultdict[int, set[Period]] = defaultdict(set)
        for project_key, key, _ in changes:
            periods[project_key].add((key.grain, key.period))
        await announce(session, periods)
    return events


async def projection_zones(session: Session) -> tuple[ZoneInfo, ZoneInfo | None]:
    """Whose local days and months the projection keeps, and to which zone it is going over, None when it is to stay."""
    (zone,) = await session.first("setting", key="projection_zone")
    following = await session.first("setting", key=NEXT_ZONE)
    return find_zone(zone), None if following is None else find_zone(following[0])


async def live_combinations(session: Session, project_keys: Collection[int]) -> frozenset[tuple[int, int]]:
    """The combinations whose facts count, by project and key."""
    found = await session.rows("live_combinations", project_keys=sorted(project_keys))
    return frozenset((project_key, key) for project_key, key in found)


def _changes(
    facts: _Facts, zones: tuple[ZoneInfo, ZoneInfo | None], live: Collection[tuple[int, int]]
) -> tuple[int, list[_Change]]:
    """How many facts there are, and what they change, in the order of the rows."""
    folds: defaultdict[int, Fold] = defaultdict(lambda: Fold(*zones))
    events = 0
    for project_key, quarter, type_key, packed in facts:
        users = unpack(packed)
        events += len(users)
        if type_key < COMBINATIONS_FROM or (project_key, type_key) in live:
            folds[project_key].add_group(quarter, type_key, users)
    changes = [
        _Change(project_key, key, change)
        for project_key, fold_of_project in folds.items()
        for key, change in fold_of_project.changes().items()
    ]
    return events, sorted(changes, key=lambda change: change[:2])


def _parts(changes: Iterable[_Change]) -> Iterator[list[_Change]]:
    rest = iter(changes)
    while part := list(islice(rest, _ROWS_AT_ONCE)):
        yield part


async def _change_rows(session: Session, changes: Sequence[_Change]) -> None:
    """Read the rows, as far as there are any, and write what becomes of them."""
    names = {
        "project_keys": [change.project_key for change in changes],
        "grains": [change.key.grain for change in changes],
        "periods": [change.key.period for change in changes],
        "type_keys": [change.key.type_key for change in changes],
    }
    stored = {(project_key, *key): users for project_key, *key, users in await session.rows("rows_to_change", **names)}
    # In a thread, because uniting bitmaps takes a while.
    written = await asyncio.to_thread(
        lambda: [change.onto(key.grain, stored.get((project_key, *key))) for project_key, key, change in changes]
    )
    await session.run(
        "put_rows",
        **names,
        events=[change.change.events for change in changes],
        users=[users for users, _ in written],
        distinct_users=[distinct_users for _, distinct_users in written],
    )


async def announce(session: Session, periods: Mapping[int, Collection[Period]]) -> None:
    """Write down which periods of each project are changed, for those who remember their rows."""
    projects = sorted(periods)
    numbered = await session.rows(
        "number_folds",
        project_keys=projects,
        periods=[msgspec.msgpack.encode(sorted(periods[project_key])) for project_key in projects],
    )
    await session.run(
        "forget_folds",
        project_keys=[project_key for project_key, _ in numbered],
        folds=[number - FOLDS_KEPT for _, number in numbered],
    )
