"""Does the file agree with itself? One plain sentence for each difference.

Rows are compared by SQLite, on disk where they are many; only the projection is held in memory, 5 to 10 bytes an event.
Ten million events take minutes. Not here: mending.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Set
from itertools import compress, islice
from pathlib import Path

from adapters.sqlite import letters
from adapters.sqlite.database import DAMAGED, Database, driver_errors, open_writer
from adapters.sqlite.dimensions import combinations_of, ready, teach_values
from adapters.sqlite.folding import projection_zone
from adapters.sqlite.reader import project_key
from adapters.sqlite.rows import unpack
from adapters.sqlite.statements import statements
from eventcore.decoding import stored_name_flaw
from eventcore.errors import StoreError
from eventcore.projection import (
    ANY_TYPE,
    COMBINATIONS_FROM,
    QUARTERS,
    QUARTERS_A_DAY,
    BrokenRow,
    Checked,
    Group,
    Key,
    unpack_quarters,
)

_SHOWN = 20
"""Differences of one kind that are told one by one; beyond it, that there are more."""

_DELTAS_AT_ONCE = 20
_NAMES_AT_ONCE = 10_000


def verify_file(path: Path, project: str | None) -> list[str]:
    """See `EventStore.verify`; on a connection of its own, because it fills a temporary table."""
    try:
        with driver_errors(path):
            database = open_writer(path)
            try:
                with database.transaction("BEGIN"):
                    return list(_differences(database, project))
            finally:
                database.close()
    except StoreError as error:
        if error.code != DAMAGED:
            raise
        return [f"the file is damaged: {error.message}"]


def _differences(database: Database, project: str | None) -> Iterator[str]:
    damages = [text for (text,) in database.execute(f"PRAGMA integrity_check({_SHOWN})") if text != "ok"]
    if damages:
        yield from (f"the file is damaged: {text}" for text in damages)
        return  # what can be read of it says nothing
    key = None if project is None else project_key(database, project)
    if project is not None and key is None:
        return
    yield from _unpack_facts(database, project)
    for check in (name for name in statements() if name.startswith("check_")):
        found = database.all(check, project_key=key, shown=_SHOWN + 1)
        yield from (f"project {name}: {text}" for name, text in found[:_SHOWN])
        if len(found) > _SHOWN:
            yield f"there are more differences of this kind ({check.removeprefix('check_')})"
    yield from _broken_names(database, project)
    yield from _broken_letters(database, project)


def _broken_names(database: Database, project: str | None) -> Iterator[str]:
    for key, name in database.all("project_names", name=project):
        for kind, field in (("user", "user_id"), ("type", "event_type")):
            flaws = (
                f"project {name}: {kind} key {of} has a name that no event can bring: {flaw}"
                for of, stored in _names(database, f"{kind}s_after", key)
                if (flaw := stored_name_flaw(field, stored)) is not None
            )
            yield from islice(flaws, _SHOWN)
            if next(flaws, None) is not None:
                yield f"there are more differences of this kind ({kind} names)"


def _names(database: Database, statement: str, project_key: int) -> Iterator[tuple[int, bytes]]:
    rows = [(-1, b"")]
    while rows:
        rows = database.all(statement, project_key=project_key, after=rows[-1][0], rows=_NAMES_AT_ONCE)
        yield from rows


def _broken_letters(database: Database, project: str | None) -> Iterator[str]:
    for key, name in database.all("project_names", name=project):
        found = list(islice(letters.broken(database, key), _SHOWN + 1))
        yield from (f"project {name}: dead letter {one.hex()} does not hold its event" for one in found[:_SHOWN])
        if len(found) > _SHOWN:
            yield "there are more differences of this kind (letters)"


def _unpack_facts(database: Database, project: str | None) -> Iterator[str]:
    database.run("make_facts")
    database.run("make_counted")
    database.run("make_happened")
    teach_values(database)
    zone = projection_zone(database)
    for key, name in database.all("project_names", name=project):
        dimensions = ready(database, key).values()
        for dimension_key in dimensions:
            database.run("insert_happened", dimension_key=dimension_key)
        whole = {one.key for dimension_key in dimensions for one in combinations_of(database, dimension_key)}
        # Those of dimensions that are not built yet, or not any more, tell only a part.
        parts = {found for (found,) in database.all("combination_keys", project_key=key)} - whole
        yield from _unpack_deltas(database, key, name, whole)
        checked = Checked(zone)
        for grain, period, type_key, events, users in database.all("all_bitmaps", project_key=key):
            if type_key in parts:
                continue
            try:
                checked.add(Key(grain, period, type_key), events, users)
            except BrokenRow:
                continue
            if grain == QUARTERS and type_key != ANY_TYPE:
                _insert_quarters(database, key, period, type_key, unpack_quarters(users))
        yield from (f"project {name}: {text}" for text in islice(checked.differences(), _SHOWN))


def _unpack_deltas(database: Database, key: int, name: str, combinations: Set[int]) -> Iterator[str]:
    delta_key = 0
    while True:
        last_key, *columns = database.first("deltas_after", project_key=key, delta_key=delta_key, rows=_DELTAS_AT_ONCE)
        if last_key is None:
            return
        users, quarters, types = map(unpack, columns)
        if not len(users) == len(quarters) == len(types):
            yield f"project {name}: the columns of activity rows {delta_key + 1} to {last_key} differ in length"
        else:
            counts = [kind < COMBINATIONS_FROM or kind in combinations for kind in types]
            users, quarters, types = (list(compress(column, counts)) for column in (users, quarters, types))
            database.insert("insert_fact", ([key] * len(users), users, quarters, types))
            counted = Counter(zip(quarters, types, strict=True))
            database.insert(
                "insert_counted",
                list(zip(*((key, *group, events) for group, events in counted.items()), strict=True)),
            )
        delta_key = last_key


def _insert_quarters(database: Database, key: int, day: int, type_key: int, quarters: Mapping[int, Group]) -> None:
    for quarter_of_day, group in quarters.items():
        quarter = day * QUARTERS_A_DAY + quarter_of_day
        users = list(group.users)
        rows = len(users)
        database.insert("insert_fact", ([key] * rows, users, [quarter] * rows, [type_key] * rows))
        database.insert("insert_counted", ([key], [quarter], [type_key], [group.events]))
