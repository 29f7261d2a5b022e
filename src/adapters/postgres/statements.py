"""The named statements of the .sql files and the numbered migrations, read from the package once.

Not here: running them.
"""

import re
from functools import cache
from importlib.resources import files
from typing import NamedTuple

_FILES = ("queries.sql", "timescaledb.sql")
_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_COMMENT = re.compile(r"^\s*--.*\n?", re.MULTILINE)
_PARAMETER = re.compile(r"(?<!:):([a-z]\w*)")


class Statement(NamedTuple):
    """A statement as the driver takes it.

    Attributes:
        sql: with ``$1``, ``$2``, … for parameters.
        parameters: the names that stood in their place, in that order.
    """

    sql: str
    parameters: tuple[str, ...]


@cache
def statements() -> dict[str, Statement]:
    """All statements by name, without their comments."""
    found: dict[str, Statement] = {}
    for file in _FILES:
        _, *parts = _NAME.split(_read(file))
        for name, text in zip(parts[::2], parts[1::2], strict=True):
            assert name not in found, name
            found[name] = _compiled(_COMMENT.sub("", text).strip())
    return found


def _compiled(text: str) -> Statement:
    parameters = tuple(dict.fromkeys(_PARAMETER.findall(text)))
    return Statement(_PARAMETER.sub(lambda found: f"${parameters.index(found[1]) + 1}", text), parameters)


@cache
def migrations() -> tuple[str, ...]:
    """The migrations in order; the first makes schema version 1."""
    folder = files(__package__) / "migrations"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1))
    return tuple(_read(f"migrations/{name}") for name in names)


def _read(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")
