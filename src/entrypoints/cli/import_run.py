"""What ``eventcore import`` does: options to a run, and how it ended to one line and an exit code.

Not here: how rows get from a file to the store (`loading`).
"""

import difflib
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from entrypoints.cli.csv_rows import COLUMNS, ColumnOptions, time_reader
from entrypoints.cli.exits import CommandError, Exit, exit_of, say
from entrypoints.cli.loading import (
    STANDARD_INPUT,
    Forgetful,
    Input,
    Opened,
    Refusals,
    Tally,
    check_rows,
    import_rows,
    rehearsal,
    rehearse_rows,
)
from entrypoints.cli.output import Format, print_document, print_rows, print_table, printable
from entrypoints.cli.progress import Bar
from entrypoints.cli.session import find_schema, read_settings, wait_for
from entrypoints.container import open_eventcore
from entrypoints.settings import Settings
from eventcore.calendar import UnknownZone, find_zone, format_instant
from eventcore.errors import EventcoreError
from eventcore.events import Event
from eventcore.ingestion import event_id_text
from eventcore.service import Eventcore, check_project


def run_import(
    paths: Sequence[str],
    options: ColumnOptions,
    *,
    project: str,
    strict: bool,
    dry_run: bool,
    errors: Path | None,
    store_url: str | None,
    form: Format,
) -> Exit:
    """Import files and print the summary.

    Args:
        paths: files, or ``-``.
        options: what their columns mean.
        project: whose events they are.
        strict: store nothing if one row is bad.
        dry_run: store nothing at all.
        errors: where rows that were not taken are kept.
        store_url: the store, None for that of the settings.
        form: how the summary is printed.

    Raises:
        CommandError: it cannot begin, it failed in the middle, or Ctrl-C ended it.
    """
    settings = read_settings(store_url=store_url)
    check_project(project)
    if list(paths).count(STANDARD_INPUT) > 1:
        raise CommandError("standard input can be read once; name - once")
    inputs = [Input(path) for path in paths]
    if errors is not None and any(given.is_file(errors) for given in inputs):
        raise CommandError("--errors names a file that is to be imported; name another one")
    run = _Run(settings, inputs, options, project=project, strict=strict, dry_run=dry_run, errors=errors)
    began = time.monotonic()
    try:
        wait_for(run.run())
    except KeyboardInterrupt:
        raise CommandError(run.interrupted(), code=Exit.INTERRUPTED) from None
    except EventcoreError as error:
        # What neither time nor the rows so far have any part in, the same command again would meet again.
        by_time = error.retryable and not error.is_misconfiguration
        way_on = run.way_on() if by_time or run.tally.rows else ""
        raise CommandError(error.message + way_on, code=exit_of(error)) from error
    seconds = time.monotonic() - began
    run.print_answer(form)
    if run.tally.rows and not dry_run:
        say(f"{_counted(run.tally.rows, 'row')} in {seconds:.1f} s, {run.tally.rows / max(seconds, 1e-3):,.0f} rows/s")
    return run.exit_code()


def column_options(
    map_: list[str],
    default: list[str],
    ignore: list[str],
    rest_as_properties: bool,
    time_format: str | None,
    tz: str | None,
    delimiter: str,
) -> ColumnOptions:
    """Read the options that say what columns mean.

    Raises:
        CommandError: one is malformed, or they do not go together.
    """
    names = dict(_pair("--map", part, COLUMNS) for text in map_ for part in text.split(","))
    defaults = dict(_pair("--default", text, COLUMNS[1:]) for text in default)
    if tz is not None and time_format is None:
        raise CommandError(
            "--tz goes with --time-format; without one, times are RFC 3339 with an offset, like 2026-01-31T09:30:00Z"
        )
    read_time = None
    if time_format is not None:
        try:
            read_time = time_reader(time_format, None if tz is None else find_zone(tz))
        except UnknownZone as error:
            raise CommandError(f"--tz: {error}") from error
        except ValueError as error:
            raise CommandError(f"--time-format: {error}") from error
    return ColumnOptions(
        names=names,
        defaults=defaults,
        ignored=frozenset(ignore),
        rest_as_properties=rest_as_properties,
        read_time=read_time,
        delimiter=_delimiter(delimiter),
    )


def _pair(option: str, text: str, fields: tuple[str, ...]) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if name == "properties":
        name = "properties_json"
    if not equals or not value or name not in fields:
        close = difflib.get_close_matches(name, fields, n=1) if equals and name not in fields else []
        hint = f"; did you mean {close[0]}?" if close else ""
        raise CommandError(f"{option} is written FIELD=…, and FIELD is one of {', '.join(fields)}{hint}")
    return name, value


def _delimiter(text: str) -> str:
    mark = "\t" if text == "tab" else text
    # A quote, a line end, or what names and numbers are made of would separate nothing.
    if len(mark) == 1 and (mark == "\t" or mark.isprintable()) and not mark.isalnum() and mark not in '"_':
        return mark
    raise CommandError("--delimiter is one character that is no quote, letter or digit, such as ';', or the word tab")


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun if count == 1 else noun + 's'}"


class _Run:
    """One run of the command."""

    def __init__(
        self,
        settings: Settings,
        inputs: list[Input],
        options: ColumnOptions,
        *,
        project: str,
        strict: bool,
        dry_run: bool,
        errors: Path | None,
    ) -> None:
        self.settings = settings
        self.inputs = inputs
        self.options = options
        self.project = project
        self.strict = strict
        self.dry_run = dry_run
        self.errors = errors
        self.tally = Tally()
        self.checked = Tally()  # the first pass of --strict
        self.refused = False  # by --strict
        self.damage: dict[str, str] = {}
        self.first_events: list[Event] = []

    async def run(self) -> None:
        """Check what can be checked before anything is stored, then take the rows in."""
        with ExitStack() as files:
            if self.strict:
                for given in self.inputs:
                    await given.spool(files)
            seen = [await given.look(self.options) for given in self.inputs]
            refusals = Refusals(self.errors)
            files.callback(refusals.close)
            for opened in seen:
                _note_ids(opened)
                refusals.begin(opened)
            bar = files.enter_context(Bar())
            async with open_eventcore(await self._store_settings()) as core:
                core.cache = Forgetful()
                if self.strict:
                    for given in self.inputs:
                        async with self._open(given, bar, "checking ") as opened:
                            await check_rows(core, opened, tally=self.checked, refusals=refusals, watcher=bar)
                    if self.checked.rejected or self.damage:
                        self.refused = True
                        return
                await self._take(core, refusals, bar)

    async def _take(self, core: Eventcore, refusals: Refusals, bar: Bar) -> None:
        if not self.dry_run:
            for given in self.inputs:
                async with self._open(given, bar) as opened:
                    await import_rows(
                        core, opened, project=self.project, tally=self.tally, refusals=refusals, watcher=bar
                    )
            return
        async with rehearsal() as stage:
            for given in self.inputs:
                async with self._open(given, bar) as opened:
                    await rehearse_rows(
                        core,
                        stage,
                        opened,
                        project=self.project,
                        tally=self.tally,
                        refusals=refusals,
                        watcher=bar,
                        first_events=self.first_events,
                    )

    @asynccontextmanager
    async def _open(self, given: Input, bar: Bar, doing: str = "") -> AsyncIterator[Opened]:
        with await given.open(self.options) as opened:
            bar.begin(f"{doing}{printable(given.source_name)}", given.size)
            yield opened
            if opened.source.damage is not None and not self.damage.get(given.name):
                self.damage[given.name] = opened.source.damage

    async def _store_settings(self) -> Settings:
        """How the store is opened: without a queue, so that the counts are final; a dry run never makes one."""
        direct = {"queue_url": "inline://", "dedup_url": "memory://"}
        if self.dry_run:
            schema = await find_schema(self.settings.store_url)
            if schema is not None and schema[0] == 0:
                direct["store_url"] = "memory://"
        return self.settings.model_copy(update=direct)

    def exit_code(self) -> Exit:
        """How the command ends."""
        if self.refused or self.damage:
            return Exit.FAILURE
        return Exit.PARTLY_DONE if self.tally.rejected or self.tally.conflicts else Exit.WELL

    def interrupted(self) -> str:
        """What to say after Ctrl-C."""
        if self.dry_run:
            return "interrupted; nothing is stored"
        return f"interrupted{self.way_on()}"

    def way_on(self) -> str:
        """How to go on after a stop in the middle."""
        if self.dry_run:
            return ""
        return (
            f"; {_counted(self.tally.accepted, 'new row')} {'is' if self.tally.accepted == 1 else 'are'} known to be "
            "stored, and the same command again goes on: what is stored counts as duplicate"
        )

    def document(self) -> dict[str, Any]:
        """The answer as JSON."""
        if self.refused:  # as a strict batch over HTTP: one bad row, and all of them are rejected
            return Tally(rows=self.checked.rows, rejected=self.checked.rows).document()
        document: dict[str, Any] = self.tally.document()
        if self.dry_run:
            document |= {"dry_run": True, "first_rows": [_event_row(event) for event in self.first_events]}
        return document

    def print_answer(self, form: Format) -> None:
        """Print the summary on stdout, and on stderr what has to be said beside it."""
        for name, damage in self.damage.items():
            say(f"{printable(name)}: {damage}; {'nothing is stored' if self.refused else 'what came before is stored'}")
        if form is Format.JSON:
            print_document(self.document())
        elif form is not Format.TABLE:
            print_rows([{name: value for name, value in self.document().items() if name != "first_rows"}], form)
        elif self.refused:
            print(
                f"{self.checked.rejected:,} of {_counted(self.checked.rows, 'row')} cannot be taken; nothing is stored"
            )
        else:
            if self.first_events:
                rows = [[str(cell) for cell in _event_row(event).values()] for event in self.first_events]
                print_table(COLUMNS, rows, left=len(COLUMNS))
            would = "would be " if self.dry_run else ""
            print(
                f"{_counted(self.tally.rows, 'row')}: {would}{self.tally.accepted:,} accepted, "
                f"{_counted(self.tally.duplicates, 'duplicate')}, {_counted(self.tally.conflicts, 'conflict')}, "
                f"{self.tally.rejected:,} rejected"
            )


def _note_ids(opened: Opened) -> None:
    if opened.layout is not None and opened.layout.makes_ids:
        why = "--ignore event_id" if "event_id" in opened.layout.header else "no column event_id"
        say(f"{printable(opened.input.name)}: {why}; ids are made from the rows' content (see --help)")


def _event_row(event: Event) -> dict[str, str]:
    values = (
        event_id_text(event.event_id),
        format_instant(event.occurred_us),
        event.user_id,
        event.event_type,
        event.properties,
    )
    return dict(zip(COLUMNS, values, strict=True))
