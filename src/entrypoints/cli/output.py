"""The answer of a command on stdout: a table for people, JSON, JSON lines or CSV for programs.

On a terminal tables are drawn by rich; elsewhere they are plain aligned text, never cut to a width. Whatever came from
outside is shown with its unprintable characters escaped. Not here: what the rows are.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import msgspec

from entrypoints.rows import csv_text


class Format(StrEnum):
    """The formats that every answer has."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"


def print_document(document: Any) -> None:
    """Print one JSON document, indented for people on a terminal."""
    text = msgspec.json.encode(document)
    if sys.stdout.isatty():
        text = msgspec.json.format(text, indent=2)
    _print_json(text)


def _print_json(text: bytes) -> None:
    """Print JSON; on a terminal with what JSON leaves raw escaped as well, which says the same."""
    lines = text.decode().split("\n")
    if sys.stdout.isatty():
        lines = ["".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in line) for line in lines]
    sys.stdout.write("\n".join(lines) + "\n")


def print_rows(rows: Sequence[Mapping[str, Any]], form: Format, *, names: Sequence[str] = ()) -> None:
    """Print flat rows as JSON lines or CSV; all have the same keys, which are ``names`` if there may be no row."""
    if form is Format.JSONL:
        for row in rows:
            _print_json(msgspec.json.encode(row))
    elif rows or names:
        columns = list(rows[0]) if rows else names
        sys.stdout.write(csv_text(columns, rows, printable if sys.stdout.isatty() else str))


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> None:
    """Print a table for people.

    Args:
        headers: the columns' names.
        rows: cells as text; unprintable characters are escaped here.
        left: how many columns, from the first, are aligned to the left; the others hold numbers.
    """
    shown = [[printable(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _print_drawn(headers, shown, left)
    else:
        _print_plain(headers, shown, left)


def _print_plain(headers: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> None:
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    for row in (headers, *rows):
        cells = [
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        sys.stdout.write("  ".join(cells).rstrip() + "\n")


def _print_drawn(headers: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, header_style="bold")
    for place, header in enumerate(headers):
        table.add_column(header, justify="left" if place < left else "right", no_wrap=place >= left)
    for row in rows:
        table.add_row(*map(Text, row))
    Console(no_color="NO_COLOR" in os.environ or None, highlight=False).print(table)


def printable(text: str) -> str:
    """The text with every unprintable character escaped, as nothing from outside may steer a terminal."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def number(value: int) -> str:
    """A whole number as people read it."""
    return f"{value:,}"


def percentage(rate: float | None) -> str:
    """A rate as people read it; a dash where there is none."""
    return "–" if rate is None else f"{rate * 100:.1f} %"
