"""Does the file agree with itself? One plain sentence for each difference.

Rows are compared by SQLite, on disk where they are many, so memory stays small whatever the store holds; ten million
events take minutes. Not here: mending.
"""

from collections.abc import Iterator
from pathlib import Path

from adapters.sqlite.database import DAMAGED, Database, driver_errors, open_writer
from adapters.sqlite.reader import project_key
from adapters.sqlite.rows import unpack
from adapters.sqlite.statements import statements
from eventcore.errors import StoreError

_SHOWN = 20
"""Differences of one kind that are told one by one; beyond it, that there are more."""

_DELTAS_AT_ONCE = 20


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


def _unpack_facts(database: Database, project: str | None) -> Iterator[str]:
    database.run("make_facts")
    for key, name in database.all("project_names", name=project):
        delta_key = 0
        while True:
            last_key, *columns = database.first(
                "deltas_after", project_key=key, delta_key=delta_key, rows=_DELTAS_AT_ONCE
            )
            if last_key is None:
                break
            users, quarters, types = map(unpack, columns)
            if not len(users) == len(quarters) == len(types):
                yield f"project {name}: the columns of activity rows {delta_key + 1} to {last_key} differ in length"
            else:
                database.insert("insert_fact", ([key] * len(users), users, quarters, types))
            delta_key = last_key
