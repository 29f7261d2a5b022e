"""The work of ``eventcore import``: files in, batches to the store, every row accounted for.

Files are read apart from the event loop, because a pipe may be silent for ever and Ctrl-C must end that too. A few
batches are under way at any time, so that reading goes on while the store commits. Batches reach the store in no
promised order; one that could meet an earlier one under way in a conflict therefore waits for it: of two rows of one
file with the same id the first is kept, always. Memory is bounded by the batches under way. Not here: options
(`importing`), rows (`csv_rows`), drawing a progress bar (`progress`).
"""

import asyncio
import csv
import io
import os
import re
import shutil
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import BinaryIO, Protocol, Self, TextIO

from entrypoints.cli.csv_rows import REASON_COLUMNS, ColumnOptions, HeaderError, Layout, RowIds, decode_rows, lay_out
from entrypoints.cli.exits import CommandError, Exit, say
from entrypoints.cli.output import printable
from entrypoints.cli.session import apart
from entrypoints.csv_reader import RowReader, Rows, Source
from eventcore.decoding import Decoded
from eventcore.dedup import same_content
from eventcore.errors import EventcoreError
from eventcore.events import Event, ImportRecord, Outcome, Problem
from eventcore.ingestion import event_id_text
from eventcore.service import Eventcore
from eventcore.strict_json import Flaw

BATCHES_UNDER_WAY = 3
"""One that the store commits, one that waits for it, one that is being read."""
NAMED_ROWS = 20
"""Rows named on stderr; ``--errors`` keeps all."""
FIRST_ROWS = 5
"""Rows that a dry run shows."""

STANDARD_INPUT = "-"


class Input:
    """One PATH of the command. Regular files are opened as often as needed, anything else once.

    Args:
        path: a path, or ``-`` for standard input.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.name = "standard input" if path == STANDARD_INPUT else path
        self.source_name = path if path == STANDARD_INPUT else Path(path).name
        self._spool: BinaryIO | None = None
        self._opened: Opened | None = None
        try:
            self._stat = os.fstat(0) if path == STANDARD_INPUT else Path(path).stat()
            if S_ISDIR(self._stat.st_mode):
                raise IsADirectoryError(0, "it is a directory; name the files in it")
        except OSError as error:
            raise _unreadable(self.name, error) from error

    @property
    def size(self) -> int | None:
        """Its bytes, None when nobody knows."""
        if self._spool is not None:
            return os.fstat(self._spool.fileno()).st_size
        return self._stat.st_size if S_ISREG(self._stat.st_mode) else None

    def is_file(self, path: Path) -> bool:
        """Whether ``path`` names this very file."""
        return path.exists() and os.path.samestat(path.stat(), self._stat)

    async def spool(self, files: ExitStack) -> None:
        """Copy what can be read only once to a temporary file, so that it can be read twice."""
        if self.path != STANDARD_INPUT and S_ISREG(self._stat.st_mode):
            return
        spool: BinaryIO = files.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - closed by ``files``
        await apart(partial(self._copy_to, spool))
        self._spool = spool

    def _copy_to(self, spool: BinaryIO) -> None:
        with self._open_file() as file:
            shutil.copyfileobj(file, spool, 1024 * 1024)
        spool.flush()

    async def open(self, options: ColumnOptions) -> "Opened":
        """Open it, or give what is open already, and read its header.

        Raises:
            CommandError: it cannot be read, or its columns do not make events.
        """
        if self._opened is not None:
            opened, self._opened = self._opened, None
            return opened
        return await apart(partial(self._open_now, options))

    def _open_now(self, options: ColumnOptions) -> "Opened":
        source = Source(self._open_file(), name=self.path, size=self.size)
        try:
            reader = RowReader(source, options.delimiter)
            return Opened(self, source, reader, options)
        except OSError as error:
            source.close()
            raise _unreadable(self.name, error) from error
        except BaseException:
            source.close()
            raise

    async def look(self, options: ColumnOptions) -> "Opened":
        """Read the header ahead of everything else; what can be read only once stays open."""
        opened = await self.open(options)
        if self.size is None:
            self._opened = opened
        else:
            opened.source.close()
        return opened

    def _open_file(self) -> BinaryIO:
        try:
            if self._spool is not None:
                os.lseek(self._spool.fileno(), 0, os.SEEK_SET)
                return os.fdopen(os.dup(self._spool.fileno()), "rb", buffering=0)
            if self.path == STANDARD_INPUT:
                return os.fdopen(0, "rb", buffering=0, closefd=False)
            return Path(self.path).open("rb", buffering=0)
        except OSError as error:
            raise _unreadable(self.name, error) from error


def _unreadable(name: str, error: OSError) -> CommandError:
    reason = (error.strerror or "it cannot be read").lower()
    return CommandError(f"cannot read {printable(name)}: {reason}")


class Opened:
    """An open input with its header read; ``layout`` is None where it is empty."""

    def __init__(self, input_: Input, source: Source, reader: RowReader, options: ColumnOptions) -> None:
        self.input = input_
        self.source = source
        self._batches = reader.batches()
        self._reading = False
        self.layout: Layout | None = None
        self.header_text = ""
        header = reader.read_header()
        if header is None:
            return
        fields, self.header_text = header
        try:
            if isinstance(fields, Flaw):
                raise HeaderError(fields.code, f"the header cannot be read: {fields.message}")
            self.layout = lay_out(fields, options)
        except HeaderError as error:
            raise CommandError(f"{printable(input_.name)}: {error.message}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._reading:  # closing would wait until the pipe says something
            self.source.close()

    async def next_rows(self) -> Rows | None:
        """The next batch, None behind the last one. Once this was cancelled, nothing more can be read."""
        self._reading = True
        return await apart(self._read)

    def _read(self) -> Rows | None:
        try:
            return next(self._batches, None)
        finally:
            self._reading = False


@dataclass(slots=True)
class Tally:
    """What became of the rows so far."""

    rows: int = 0
    accepted: int = 0
    duplicates: int = 0
    conflicts: int = 0
    rejected: int = 0

    def add(self, outcome: Outcome) -> None:
        """Count one more batch."""
        self.accepted += outcome.accepted
        self.duplicates += outcome.duplicates
        self.conflicts += outcome.conflicts
        self.rejected += outcome.rejected
        self.rows += outcome.accepted + outcome.duplicates + outcome.conflicts + outcome.rejected

    def outcome(self) -> Outcome:
        """The totals, as an import's record keeps them."""
        return Outcome(
            accepted=self.accepted, duplicates=self.duplicates, conflicts=self.conflicts, rejected=self.rejected
        )

    def document(self) -> dict[str, int]:
        """The summary that ``--format json`` prints."""
        return {
            "rows": self.rows,
            "accepted": self.accepted,
            "duplicates": self.duplicates,
            "conflicts": self.conflicts,
            "rejected": self.rejected,
        }


class Watcher(Protocol):
    """Is told how far an import is."""

    def begin(self, name: str, size: int | None) -> None:
        """The next file begins."""

    def advance(self, bytes_read: int, rows: int) -> None:
        """So many of its bytes are read, and so many rows of it are done."""


def _is_ours(path: Path) -> bool:
    """Whether a file may be written over: it is empty, or holds refused rows of an earlier import."""
    with path.open("rb") as stream:
        begin = stream.read(64).decode("utf-8", "replace")
    return not begin or _OUR_BEGIN.match(begin) is not None


_OUR_BEGIN = re.compile(r"(.)".join(REASON_COLUMNS[:2]) + "".join(rf"\1{name}" for name in REASON_COLUMNS[2:]))


class Refusals:
    """Names the rows that were not taken: the first on stderr, all of them in the file of ``--errors``.

    A row is kept as it stands in its file, behind the columns that say what is wrong with it.

    Args:
        path: the file of ``--errors``, None for none. It is written anew.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._file: TextIO | None = None
        self._count = 0
        self._header = ""
        if path is not None:
            try:
                if path.is_file() and not _is_ours(path):
                    raise CommandError(f"--errors: {path} is there and holds something else; name another file")
                self._file = path.open("w", encoding="utf-8", errors="surrogateescape", newline="")
            except OSError as error:
                reason = (error.strerror or "it failed").lower()
                raise CommandError(f"--errors: cannot write {path}: {reason}") from error

    def begin(self, opened: Opened) -> None:
        """The rows of this file follow.

        Raises:
            CommandError: they cannot stand in one file with those before, or with the columns of reasons.
        """
        if self._file is None or opened.layout is None:
            return
        header = _bare(opened.header_text, opened.layout)
        names = opened.layout.header
        if names[: len(REASON_COLUMNS)] != REASON_COLUMNS and set(names) & set(REASON_COLUMNS):
            raise CommandError(
                f"--errors: the columns {', '.join(REASON_COLUMNS)} must come first in this order, or go"
            )
        if not self._header:
            self._header = header
            self._write_row(REASON_COLUMNS, header, opened.layout.options.delimiter)
        elif self._header.rstrip("\r\n") != header.rstrip("\r\n"):
            raise CommandError("--errors keeps rows of one header; import files with different headers one by one")

    def add(self, name: str, rows: Rows, problems: Sequence[Problem], layout: Layout) -> None:
        """These rows of this batch were not taken."""
        for problem in problems:
            line, text = rows.numbers[problem.index], rows.texts[problem.index]
            self._count += 1
            if self._count <= NAMED_ROWS:
                more_lines = text.rstrip("\r\n").count("\n")
                lines = f"lines {line} to {line + more_lines}" if more_lines else f"line {line}"
                field = f" ({printable(problem.field)})" if problem.field else ""
                say(f"{printable(name)}: {lines}: {problem.code}{field}: {printable(problem.message)}")
            if self._file is not None:
                reasons = (str(line), problem.code, problem.field or "", problem.message)
                self._write_row(reasons, _bare(text, layout), layout.options.delimiter)

    def _write_row(self, reasons: Sequence[str], text: str, delimiter: str) -> None:
        assert self._file is not None
        front = io.StringIO()
        csv.writer(front, delimiter=delimiter, lineterminator="").writerow(reasons)
        try:
            self._file.write(f"{front.getvalue()}{delimiter}{text}" + ("" if text.endswith("\n") else "\n"))
            self._file.flush()
        except OSError as error:
            reason = (error.strerror or "it failed").lower()
            raise CommandError(f"--errors: cannot write {self._path}: {reason}", code=Exit.FAILURE) from error

    def close(self) -> None:
        """Say what was not said, and close the file."""
        if self._count > NAMED_ROWS:
            say(f"… and {self._count - NAMED_ROWS:,} more" + ("" if self._path else "; --errors FILE keeps them all"))
        if self._file is not None:
            with suppress(OSError):  # said when the row could not be written
                self._file.close()
            if self._count:
                say(f"{self._path} holds the rows that were not taken; mend them there and import that file")


def _bare(text: str, layout: Layout) -> str:
    """A row without the columns that an earlier ``--errors`` put in front."""
    if layout.header[: len(REASON_COLUMNS)] != REASON_COLUMNS:
        return text
    mark = re.escape(layout.options.delimiter)
    found = re.match(rf'(?:(?:"(?:[^"]|"")*+"|[^"{mark}\n]*+){mark}){{4}}', text)
    return text[found.end() :] if found else text


class Forgetful:
    """A `DedupCache` that knows nothing: rows of a file rarely repeat, and remembering them costs time and 120 MiB."""

    async def seen(self, namespace: str, members: Sequence[bytes]) -> Sequence[bool]:
        """See `DedupCache.seen`."""
        return [False] * len(members)

    async def mark(self, namespace: str, members: Sequence[bytes]) -> None:
        """See `DedupCache.mark`."""

    @property
    def healthy(self) -> bool:
        """See `DedupCache.healthy`."""
        return True

    async def close(self) -> None:
        """See `DedupCache.close`."""


Ingest = Callable[[Decoded], "asyncio.Task[Outcome]"]


async def load(
    opened: Opened,
    ingest: Ingest,
    core: Eventcore,
    *,
    tally: Tally,
    refusals: Refusals,
    watcher: Watcher,
    first_events: list[Event] | None = None,
) -> None:
    """Read one open file to its end and take its rows in.

    Args:
        opened: the file.
        ingest: begins to take a batch in.
        core: knows the time and the limits.
        tally: is kept up to date, also when this fails.
        refusals: is told of rows that were not taken.
        watcher: is told of the progress.
        first_events: gets the first `FIRST_ROWS` valid events.

    Raises:
        EventcoreError: a batch may not be stored.
    """
    layout = opened.layout
    if layout is None:
        return
    under_way: deque[tuple[asyncio.Task[Outcome], Rows, dict[bytes, bytes]]] = deque()
    rows_before = tally.rows

    async def settle() -> None:
        task, rows, _ = under_way[0]
        outcome = await asyncio.shield(task)  # Ctrl-C stops the reading; what is under way is finished and counted
        under_way.popleft()
        tally.add(outcome)
        refusals.add(opened.input.name, rows, outcome.errors, layout)
        watcher.advance(opened.source.bytes_read, tally.rows - rows_before)

    ids = RowIds()
    try:
        while (rows := await opened.next_rows()) is not None:
            decoded = decode_rows(rows, layout, ids, now_us=core.now_us(), limits=core.limits)
            if first_events is not None and len(first_events) < FIRST_ROWS:
                first_events += decoded.events[: FIRST_ROWS - len(first_events)]
            contents = {event.event_id: event.fingerprint for event in reversed(decoded.events)}
            while any(_differ(earlier, contents) for _, _, earlier in under_way):
                await settle()
            under_way.append((ingest(decoded), rows, contents))
            await asyncio.sleep(0)  # lets it begin
            while len(under_way) >= BATCHES_UNDER_WAY:
                await settle()
        while under_way:
            await settle()
    finally:
        for task, _, _ in under_way:
            with suppress(EventcoreError, asyncio.CancelledError):
                tally.add(await task)
    watcher.advance(opened.source.bytes_read, tally.rows - rows_before)


def _differ(earlier: dict[bytes, bytes], later: dict[bytes, bytes]) -> bool:
    """Whether some id has other content in the later batch."""
    return any(earlier[event_id] != later[event_id] for event_id in earlier.keys() & later.keys())


async def import_rows(
    core: Eventcore,
    opened: Opened,
    *,
    project: str,
    tally: Tally,
    refusals: Refusals,
    watcher: Watcher,
) -> None:
    """Import one open file, with a record of the import at its begin and at its end.

    Raises:
        EventcoreError: the store failed; the same command again goes on.
        CommandError: the file could not be read to its end; what was read is stored.
    """
    import_id = core.new_id()
    started_us = core.now_us()
    record = ImportRecord(import_id=import_id, source=opened.input.source_name, started_us=started_us)
    await core.store.record_import(project, record)
    own = Tally()

    def ingest(decoded: Decoded) -> asyncio.Task[Outcome]:
        return asyncio.create_task(core.ingest_decoded(decoded, project=project, import_id=import_id))

    try:
        await load(opened, ingest, core, tally=own, refusals=refusals, watcher=watcher)
    finally:
        tally.add(own.outcome())
    finished = ImportRecord(
        import_id=import_id,
        source=record.source,
        started_us=started_us,
        finished_us=core.now_us(),
        outcome=own.outcome(),
    )
    await core.store.record_import(project, finished)


async def check_rows(core: Eventcore, opened: Opened, *, tally: Tally, refusals: Refusals, watcher: Watcher) -> None:
    """Only decode the rows of one open file: valid ones count as accepted, whatever the store holds."""

    async def count(decoded: Decoded) -> Outcome:
        return Outcome(
            accepted=len(decoded.events),
            duplicates=0,
            conflicts=0,
            rejected=len(decoded.problems),
            errors=tuple(decoded.problems),
        )

    def ingest(decoded: Decoded) -> asyncio.Task[Outcome]:
        return asyncio.create_task(count(decoded))

    await load(opened, ingest, core, tally=tally, refusals=refusals, watcher=watcher)


@asynccontextmanager
async def rehearsal() -> AsyncIterator[Eventcore]:
    """A store of its own in a temporary folder, where a dry run keeps what it would store."""
    from eventcore.library import open as open_eventcore

    with tempfile.TemporaryDirectory(prefix="eventcore-dry-run-") as folder:
        async with await open_eventcore(f"sqlite:///{folder}/rehearsal.sqlite3") as stage:
            yield stage


async def rehearse_rows(
    core: Eventcore,
    stage: Eventcore,
    opened: Opened,
    *,
    project: str,
    tally: Tally,
    refusals: Refusals,
    watcher: Watcher,
    first_events: list[Event],
) -> None:
    """Find out what importing one open file would give; the store is only read.

    Rows that the store does not know go to the stage, which knows the earlier rows of this run: so repeats inside a
    file count as they would, however far apart they are.
    """

    async def preview(decoded: Decoded) -> Outcome:
        stored = await core.store.find(project, list({event.event_id for event in decoded.events}))
        pairs = list(zip(decoded.events, decoded.positions, strict=True))
        unknown = [pair for pair in pairs if pair[0].event_id not in stored]
        staged = Decoded(
            len(unknown) + len(decoded.problems),
            [event for event, _ in unknown],
            [position for _, position in unknown],
            decoded.problems,
        )
        outcome = await stage.ingest_decoded(staged, project=project)
        known = [pair for pair in pairs if pair[0].event_id in stored]
        losers = [pair for pair in known if not same_content(stored[pair[0].event_id].event, pair[0])]
        errors = [*outcome.errors, *(_conflict(event, position) for event, position in losers)]
        return Outcome(
            accepted=outcome.accepted,
            duplicates=outcome.duplicates + len(known) - len(losers),
            conflicts=outcome.conflicts + len(losers),
            rejected=outcome.rejected,
            errors=tuple(sorted(errors, key=lambda problem: problem.index)),
        )

    def ingest(decoded: Decoded) -> asyncio.Task[Outcome]:
        return asyncio.create_task(preview(decoded))

    await load(opened, ingest, core, tally=tally, refusals=refusals, watcher=watcher, first_events=first_events)


def _conflict(event: Event, position: int) -> Problem:
    return Problem(
        index=position,
        event_id=event_id_text(event.event_id),
        code="conflict",
        field="event_id",
        message="an event with this event_id and other content is stored already; the stored one stays",
    )
