"""The named statements of ``queries.sql`` and the numbered migrations, read from the package once.

Not here: running them.
"""

import re
import sqlite3
from collections.abc import Iterator
from functools import cache
from importlib.resources import files

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_COMMENT = re.compile(r"^\s*--.*\n", re.MULTILINE)


@cache
def statements() -> dict[str, str]:
    """The statements of ``queries.sql`` by name, without their comments."""
    _, *parts = _NAME.split(_read("queries.sql"))
    return {name: _COMMENT.sub("", sql).strip() for name, sql in zip(parts[::2], parts[1::2], strict=True)}


@cache
def repeated(name: str, rows: int) -> str:
    """The one-row INSERT of that name, with its VALUES repeated for so many rows; what follows that line stays."""
    head, values = statements()[name].rsplit("VALUES", 1)
    row, line_end, rest = values.partition("\n")
    return f"{head}VALUES {','.join([row] * rows)}{line_end}{rest}"


@cache
def migrations() -> tuple[str, ...]:
    """The migrations in order; the first makes schema version 1."""
    folder = files(__package__) / "migrations"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1))
    return tuple(_read(f"migrations/{name}") for name in names)


def split(script: str) -> Iterator[str]:
    """The statements of a script, one by one; sqlite3's own ``executescript`` would commit first."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    assert not _COMMENT.sub("", statement + "\n").strip(), "a migration ends with a semicolon"


def _read(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")
