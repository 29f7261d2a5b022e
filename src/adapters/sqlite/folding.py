"""The fold: deltas become rows of users and counts, in the transaction that takes them away.

Runs in the writer's transaction, which nobody else can have at the same time; whatever is not committed never happened.
What rows are is in `eventcore.projection`. Not here: when to fold (`writer`).
"""

from collections.abc import Iterable, Sequence
from itertools import compress
from zoneinfo import ZoneInfo

import msgspec

from adapters.sqlite.database import Damaged, Database
from adapters.sqlite.dimensions import clear, live_combinations
from adapters.sqlite.rows import unpack
from eventcore.calendar import UnknownZone, find_zone
from eventcore.projection import COMBINATIONS_FROM, Change, Fold, Key

KEPT_FOLDS = 256
"""How many folds a reader may be behind without reading everything anew."""

NEXT_ZONE = "projection_next_zone"
"""The setting that is there while the projection goes over to another zone."""

KEPT_MARKS = 10_000
"""How many deltas a writer may be behind, and still see that the store is the one it knew."""

_DELTAS_AT_ONCE = 20
_ROWS_AT_ONCE = 400
"""Rows that are changed and written together, so that a fold of a long history does not hold all of them twice."""


def fold(database: Database, most_events: int) -> int:
    """Fold about so many events of one project; see `EventStore.fold`."""
    clear(database)
    found = database.first("next_fold", most_events=most_events)
    if found is None:
        return 0
    project_key, last_key = found
    live = live_combinations(database, project_key)
    facts = Fold(projection_zone(database), next_zone(database))
    events = 0
    delta_key = 0
    while delta_key < last_key:
        delta_key, *columns = database.first(
            "deltas_between", project_key=project_key, delta_key=delta_key, last_key=last_key, rows=_DELTAS_AT_ONCE
        )
        users, quarters, types = map(unpack, columns)
        if not len(users) == len(quarters) == len(types):
            raise Damaged
        facts.add(*_counting(quarters, types, users, live))
        events += len(users)
    changes = sorted(facts.changes().items())
    for start in range(0, len(changes), _ROWS_AT_ONCE):
        _write(database, project_key, changes[start : start + _ROWS_AT_ONCE])
    database.run("keep_marks", project_key=project_key, last_key=last_key)
    database.run("forget_marks", kept=KEPT_MARKS)
    database.run("delete_deltas", project_key=project_key, last_key=last_key)
    announce(database, project_key, [key for key, _ in changes])
    return events


def _counting(
    quarters: Sequence[int], types: Sequence[int], users: Sequence[int], live: frozenset[int]
) -> tuple[Sequence[int], Sequence[int], Sequence[int]]:
    """The facts without those of combinations that are dead."""
    if live.issuperset(kind for kind in set(types) if kind >= COMBINATIONS_FROM):
        return quarters, types, users
    counts = [kind < COMBINATIONS_FROM or kind in live for kind in types]
    return list(compress(quarters, counts)), list(compress(types, counts)), list(compress(users, counts))


def announce(database: Database, project_key: int, keys: Iterable[Key]) -> None:
    """Write down which rows of a project this transaction changes, for those who remember them."""
    changed = msgspec.json.encode([tuple(key) for key in keys]).decode()
    database.run("put_fold", project_key=project_key, keys=changed)
    database.run("forget_folds", project_key=project_key, kept=KEPT_FOLDS)


def projection_zone(database: Database) -> ZoneInfo:
    """Whose local days and months the projection keeps."""
    found = database.first("setting", key="projection_zone")
    return _zone("" if found is None else found[0])


def next_zone(database: Database) -> ZoneInfo | None:
    """The zone that the projection is going over to, None when it is to stay."""
    found = database.first("setting", key=NEXT_ZONE)
    return None if found is None else _zone(found[0])


def _zone(name: str) -> ZoneInfo:
    try:
        return find_zone(name)
    except UnknownZone as error:
        raise Damaged from error


def _write(database: Database, project_key: int, changes: list[tuple[Key, Change]]) -> None:
    rows = []
    for key, change in changes:
        stored = database.first("bitmap", project_key=project_key, **key._asdict())
        users, distinct = change.onto(key.grain, None if stored is None else stored[0])
        rows.append((project_key, *key, change.events, distinct, users))
    database.insert("put_bitmap", list(zip(*rows, strict=True)))
