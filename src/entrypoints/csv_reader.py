"""CSV files to rows: bytes from a file, a pipe or a gzip to lists of fields, each row with the line it begins in.

RFC 4180, read so that a flaw costs one row. A row that is well formed is one row, however many lines its quoted fields
span. One that is not (a quote that is never closed, text behind a closing quote, a row beyond the size limit)
costs its first line only, and reading goes on at the next line. Whole batches go through the standard library's parser
at once; only a batch with a flaw, a blank line or a quoted line break is cut row by row. Memory stays bounded whatever
the file holds. Not here: what the columns mean (`entrypoints.cli.csv_rows`).
"""

import csv
import io
import os
import zlib
from collections import deque
from collections.abc import Iterator
from functools import partial
from itertools import islice
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

from eventcore.strict_json import Flaw

BATCH_ROWS = 10_000
"""Rows read, decoded and handed on together: one group commit of the SQLite store."""
BATCH_CHARS = 16 * 1024 * 1024
"""A batch ends early here, so that large rows do not make a large batch."""
ROW_CHARS = 640 * 1024
"""The longest row: an event of 256 KiB with every quote doubled fits twice over."""

_BLOCK_BYTES = 256 * 1024
_LINES_AT_ONCE = 64  # of at most ROW_CHARS each, between two looks at the size of the batch
_GZIP_MAGIC = b"\x1f\x8b"
_CUT_SHORT = "the gzip data ends too early; the file is cut short"
_DAMAGED = "the gzip data is damaged"


class Rows(NamedTuple):
    """Rows of one batch; the three sequences go together.

    Attributes:
        numbers: the line of the file, from 1, in which each row begins.
        fields: its fields, or why it has none.
        texts: its text as it stands in the file, line end included; bytes that are not UTF-8 as lone surrogates.
    """

    numbers: list[int] | range
    fields: list[list[str] | Flaw]
    texts: list[str]


class Source:
    """One open CSV, decompressed and decoded as it is read. Close it, or use it in ``with``.

    Args:
        file: the bytes; closed together with the source.
        name: the file's name; one that ends in ``.gz`` must hold gzip data, any other one may.
        size: its bytes as stored, None when nobody knows.
    """

    def __init__(self, file: BinaryIO, *, name: str, size: int | None) -> None:
        self.name = name
        self.size = size
        self._counted = _Counted(file)
        stored: io.BufferedReader = io.BufferedReader(self._counted, _BLOCK_BYTES)
        self._inflated: _Inflated | None = None
        bytes_in: io.BufferedReader = stored
        if name.endswith(".gz") or stored.peek(2)[:2] == _GZIP_MAGIC:
            self._inflated = _Inflated(stored)
            bytes_in = io.BufferedReader(self._inflated, _BLOCK_BYTES)
        # Bytes that are not UTF-8 come through as lone surrogates, which no check lets pass: they cost their row only.
        self._text = io.TextIOWrapper(bytes_in, encoding="utf-8", errors="surrogateescape", newline="\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def bytes_read(self) -> int:
        """How many of the stored bytes were read so far."""
        return self._counted.count

    @property
    def damage(self) -> str | None:
        """Why reading ended before the end of the data, None when it did not."""
        return None if self._inflated is None else self._inflated.damage

    def lines(self) -> Iterator[str]:
        """The lines with their ends; of a longer one the first `ROW_CHARS` characters.

        What stands behind the last line end of damaged data is left out: half a row can look like a whole one.
        """
        read_line = partial(self._text.readline, ROW_CHARS)
        for line in iter(read_line, ""):
            if line[-1] != "\n":
                if len(line) == ROW_CHARS:
                    while (rest := read_line()) and rest[-1] != "\n":
                        pass
                elif self.damage is not None:
                    return
            yield line

    def close(self) -> None:
        """Close the file."""
        self._text.close()


class _Counted(io.RawIOBase):
    """A file that counts what is read of it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.count = 0

    def readable(self) -> bool:
        return True

    def readinto(self, into: memoryview) -> int:  # type: ignore[override]
        found = os.readv(self._file.fileno(), [into])
        while 0 < self.count + found < len(_GZIP_MAGIC):  # a pipe may give one byte; the magic number has two
            more = os.readv(self._file.fileno(), [into[found:]])
            if not more:
                break
            found += more
        self.count += found
        return found

    def close(self) -> None:
        self._file.close()
        super().close()


class _Inflated(io.RawIOBase):
    """Gzip data, any number of members, read in bounded memory. Damage ends the data instead of raising."""

    def __init__(self, stored: io.BufferedReader) -> None:
        self._stored = stored
        self._inflater: zlib._Decompress | None = _new_inflater()
        self._fed = b""
        self.damage: str | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, into: memoryview) -> int:  # type: ignore[override]
        while self.damage is None:
            fed = self._fed or self._stored.read1(_BLOCK_BYTES)
            if self._inflater is None:  # between two members, where some writers pad with zeros
                if not fed:
                    return 0
                self._fed = fed.lstrip(b"\0")
                if self._fed:
                    self._inflater = _new_inflater()
                continue
            try:
                found = self._inflater.decompress(fed, len(into))
            except zlib.error:
                self.damage = _DAMAGED
                return 0
            if self._inflater.eof:
                self._fed = self._inflater.unused_data
                self._inflater = None
            else:
                self._fed = self._inflater.unconsumed_tail
            if found:
                into[: len(found)] = found
                return len(found)
            if not fed:
                self.damage = _CUT_SHORT
        return 0

    def close(self) -> None:
        self._stored.close()
        super().close()


def _new_inflater() -> "zlib._Decompress":
    return zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)


class _TooLarge(Exception):
    """A row goes beyond `ROW_CHARS`."""


class RowReader:
    """The rows of one source, in batches.

    Args:
        source: where the lines come from; left open.
        delimiter: what separates fields.
    """

    def __init__(self, source: Source, delimiter: str = ",") -> None:
        self._cut = partial(csv.reader, delimiter=delimiter, strict=True)
        self._lines = source.lines()
        self._kept: deque[str] = deque()  # lines read ahead
        self._next_number = 1
        # The parser's own limit (128 KiB) is below what an event may hold, and belongs to the whole process.
        csv.field_size_limit(ROW_CHARS)

    def read_header(self) -> tuple[list[str] | Flaw, str] | None:
        """The fields and the text of the first row; None when there is no row at all."""
        while lines := self._take(1):
            lines[0] = lines[0].removeprefix("\ufeff")
            if not lines[0]:  # a byte order mark and nothing else
                return None
            header = self._cut_one_by_one(lines)
            if header.fields:
                return header.fields[0], header.texts[0]
        return None

    def batches(self) -> Iterator[Rows]:
        """The remaining rows; blank lines are left out, and no batch is empty."""
        while lines := self._take(BATCH_ROWS):
            rows = self._cut_at_once(lines) or self._cut_one_by_one(lines)
            if rows.fields:
                yield rows

    def _take(self, most: int) -> list[str]:
        lines = [self._kept.popleft() for _ in range(min(most, len(self._kept)))]
        size = sum(map(len, lines))
        while len(lines) < most and size < BATCH_CHARS:
            more = list(islice(self._lines, min(_LINES_AT_ONCE, most - len(lines))))
            if not more:
                break
            lines += more
            size += sum(map(len, more))
        return lines

    def _cut_at_once(self, lines: list[str]) -> Rows | None:
        """The rows of a batch in which every line is a flawless row; None otherwise."""
        try:
            fields: list[list[str] | Flaw] = list(self._cut(lines))
        except csv.Error:
            return None
        if len(fields) != len(lines) or [] in fields or max(map(len, lines)) >= ROW_CHARS:
            return None
        first = self._next_number
        self._next_number += len(lines)
        return Rows(range(first, self._next_number), fields, lines)

    def _cut_one_by_one(self, lines: list[str]) -> Rows:
        numbers: list[int] = []
        fields: list[list[str] | Flaw] = []
        texts: list[str] = []
        waiting = deque(lines)
        begun = self._next_number
        while waiting and self._next_number - begun < len(lines):
            taken: list[str] = []
            found: list[str] | Flaw
            try:
                found = next(self._cut(self._feed(waiting, taken)))
            except (csv.Error, _TooLarge) as error:
                found = _flaw(error, taken)
                waiting.extendleft(reversed(taken[1:]))
                del taken[1:]
            if found:
                numbers.append(self._next_number)
                fields.append(found)
                texts.append("".join(taken))
            self._next_number += len(taken)
        self._kept.extendleft(reversed(waiting))
        return Rows(numbers, fields, texts)

    def _feed(self, waiting: deque[str], taken: list[str]) -> Iterator[str]:
        size = 0
        while line := (waiting or self._kept).popleft() if waiting or self._kept else next(self._lines, ""):
            taken.append(line)
            size += len(line)
            if size >= ROW_CHARS:
                raise _TooLarge
            yield line


def _flaw(error: Exception, taken: list[str]) -> Flaw:
    if isinstance(error, _TooLarge) and len(taken) == 1:
        return Flaw("row_too_large", (), f"a row holds fewer than {ROW_CHARS} characters; only its beginning is kept")
    if isinstance(error, csv.Error) and "new-line" in str(error):
        return Flaw("bare_carriage_return", (), "lines end in LF or CRLF; put a carriage return inside quotes")
    if isinstance(error, csv.Error) and "expected after" in str(error):
        return Flaw("broken_quote", (), "a quote is not closed, or not doubled inside a quoted field")
    return Flaw("unclosed_quote", (), "a quote opens in this line and is never closed")
