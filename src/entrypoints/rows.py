"""Answers as flat rows, for CSV and JSON lines; over HTTP and on the command line alike.

Not here: tables for people (`cli.output`), and what the numbers mean.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

Row = Mapping[str, Any]

_QUOTED: Final = re.compile(r'[",\r\n]')
_COHORT: Final = ("cohort", "size", "window", "users", "rate", "complete")

COLUMNS: Final[Mapping[str, Sequence[str]]] = {
    "dau": ("date", "users"),
    "active-users": ("date", "users"),
    "stickiness": ("date", "dau", "mau", "stickiness"),
    "lifecycle": ("start", "new", "returning", "resurrected", "dormant", "complete"),
    "event-counts": ("start", "count", "users"),
    "top-events": ("event_type", "count", "users", "share"),
    "retention": _COHORT,
}
"""What the rows of each statistic hold; of a breakdown first ``group`` and ``kind``."""


def flat_rows(name: str, data: Any) -> tuple[Sequence[str], list[Row]]:
    """The names of the columns, and the rows.

    Args:
        name: of the statistic.
        data: of its answer, with or without a breakdown; the whole is the group of kind ``all``.
    """
    if not isinstance(data, dict) or "all" not in data:
        return _flat(name, data)
    columns, rows = _flat(name, data["all"])
    found: list[Row] = [{"group": None, "kind": "all", **row} for row in rows]
    for group in data["groups"]:
        found += [{"group": group["group"], "kind": group["kind"], **row} for row in _flat(name, group["data"])[1]]
    return ("group", "kind", *columns), found


def _flat(name: str, data: Any) -> tuple[Sequence[str], list[Row]]:
    if name == "retention":
        return _flat_cells(data)
    return COLUMNS.get(name) or list(data[0]), data


def _flat_cells(data: dict[str, Any]) -> tuple[Sequence[str], list[Row]]:
    """A row for each cell, empty where the window has not begun, and those of the overall row at the end.

    The overall row pools complete cells; ``complete`` is false where there is none to pool.
    """
    overall = data["overall"]
    bracketed = "to" in overall[0]
    names = [{key: cell[key] for key in ("window", "to") if key in cell} for cell in overall]
    rows: list[dict[str, Any]] = [
        {"cohort": cohort["start"], "size": cohort["size"]}
        | (cell or name | {"users": None, "rate": None, "complete": False})
        for cohort in data["cohorts"]
        for name, cell in zip(names, cohort["cells"], strict=True)
    ]
    complete = {row["window"] for row in rows if row["complete"]}
    rows += [{"cohort": "overall"} | cell | {"complete": cell["window"] in complete} for cell in overall]
    columns = ("cohort", "size", "window", "to", "users", "rate", "complete") if bracketed else _COHORT
    return columns, [{column: row[column] for column in columns} for row in rows]


def csv_text(columns: Sequence[str], rows: Iterable[Row], shown: Callable[[str], str] = str) -> str:
    """The rows as CSV (RFC 4180, but lines end in a line feed), with a header; true and false as these words.

    Args:
        columns: names, in order.
        rows: each with these columns.
        shown: what becomes of a text.
    """
    lines = [",".join(columns)]
    lines += [",".join([_cell(row[column], shown) for column in columns]) for row in rows]
    return "\n".join(lines) + "\n"


def _cell(value: Any, shown: Callable[[str], str]) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, str):
        return str(value)
    text = shown(value)
    # Python's writer leaves a carriage return bare, which readers take for the end of a line.
    return '"' + text.replace('"', '""') + '"' if _QUOTED.search(text) else text
