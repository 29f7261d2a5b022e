"""CSV rows to events: which column is which field, other people's time formats, and ids for rows that have none.

A batch of rows becomes columns, and whole columns are checked at once; where that finds a doubt, runs of rows and then
single rows are checked, so that every bad row is named and its neighbours are kept. What a valid event is, the core
decides (`eventcore.decoding`), so CSV and HTTP accept the same. Not here: reading the file (`entrypoints.csv_reader`).
"""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

from entrypoints.csv_reader import Rows
from eventcore.calendar import format_instant
from eventcore.decoding import Decoded, Wire, check_wires, read_object
from eventcore.errors import BodyError, EventcoreError, Kind
from eventcore.events import Event, Problem
from eventcore.limits import ECHO_CHARS, Limits
from eventcore.strict_json import Flaw, read_element, split_array

COLUMNS: Final = ("event_id", "occurred_at", "user_id", "event_type", "properties_json")
"""The fields of an event as a CSV file names them."""
REASON_COLUMNS: Final = ("_line", "_code", "_field", "_message")
"""The columns that ``--errors`` puts in front of each rejected row, and that an import therefore leaves alone."""

_RUN_ROWS = 64  # rows checked together where a whole batch is in doubt
_REMEMBERED_ROWS = 200_000  # times two; some 60 MB
_PLACEHOLDER_ID = "00000000-0000-8000-8000-000000000001"  # stands in until the content, and so the id, is known
_DELIMITERS = (",", ";", "\t", "|")  # what a header of one field is searched for
_SPACE = " \t\r\n"  # of JSON
_UNIX = re.compile(r"(-?)([0-9]{1,12})(?:\.([0-9]{1,6}))?", re.ASCII)
_UNIX_MS = re.compile(r"(-?)([0-9]{1,15})(?:\.([0-9]{1,3}))?", re.ASCII)
_LATEST_US = 253_402_300_799_999_999  # the end of the year 9999


class HeaderError(EventcoreError):
    """The columns of a file do not make events; the message says which, and the way out."""

    def __init__(self, code: str, message: str, *, column: str | None = None) -> None:
        super().__init__(Kind.INVALID, code, message, field=column)


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnOptions:
    """What the user says about a file's columns.

    Attributes:
        names: for a field (one of `COLUMNS`), the column that holds it, where the names differ.
        defaults: for a field, what an absent column or an empty cell means.
        ignored: columns to leave alone, also those that are named as a field.
        rest_as_properties: whether the columns that mean nothing else are properties.
        read_time: turns a cell into RFC 3339 or raises `ValueError`; None where cells are RFC 3339 already.
        delimiter: what separates fields.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    defaults: Mapping[str, str] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()
    rest_as_properties: bool = False
    read_time: Callable[[str], str] | None = None
    delimiter: str = ","


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where in a row each field stands; `lay_out` makes it.

    Attributes:
        header: the names of all columns, in order.
        places: for each of `COLUMNS` its position, None where the file has no such column.
        rest: position and name of the columns that become properties.
        options: what the user said.
    """

    header: tuple[str, ...]
    places: Mapping[str, int | None]
    rest: tuple[tuple[int, str], ...]
    options: ColumnOptions

    @property
    def width(self) -> int:
        """How many fields a row has."""
        return len(self.header)

    @property
    def makes_ids(self) -> bool:
        """Whether ids are made from the rows' content because no column holds any."""
        return self.places["event_id"] is None


def lay_out(header: Sequence[str], options: ColumnOptions) -> Layout:
    """Find the fields of an event among a file's columns.

    Raises:
        HeaderError: a column is missing, unknown, or there twice.
    """
    if any("\udc80" <= char <= "\udcff" for char in "".join(header)):
        raise HeaderError("invalid_utf8", "the first line is not UTF-8; save the file as UTF-8")
    _refuse_undivided(header, options)
    twice = next((name for number, name in enumerate(header) if name in header[:number]), None)
    if twice is not None:
        raise HeaderError("duplicate_column", f"the column {_shown(twice)} is there twice; rename one", column=twice)
    places: dict[str, int | None] = {}
    for name in COLUMNS:
        column = options.names.get(name, name)
        places[name] = header.index(column) if column in header and column not in options.ignored else None
        if places[name] is None:
            _refuse_missing(name, column, header, options)
    used = set(places.values())
    extra = [
        (place, name)
        for place, name in enumerate(header)
        if place not in used and name not in options.ignored and name not in REASON_COLUMNS
    ]
    if extra and not options.rest_as_properties:
        raise _unknown_columns([name for _, name in extra])
    if extra and (places["properties_json"] is not None or "properties_json" in options.defaults):
        raise HeaderError(
            "two_sources_of_properties",
            "properties come from properties_json and from the other columns at once; leave either out with --ignore",
        )
    # By name, so that ids made of the content do not depend on the order of the columns.
    rest = tuple(sorted(extra, key=lambda column: column[1]))
    return Layout(header=tuple(header), places=places, rest=rest, options=options)


def _refuse_undivided(header: Sequence[str], options: ColumnOptions) -> None:
    """Refuse a header that is one field only because something else separates the fields of this file."""
    if len(header) != 1:
        return
    [whole] = header
    if whole in options.ignored or whole in options.names.values():
        return
    likely = max((mark for mark in _DELIMITERS if mark != options.delimiter), key=whole.count)
    if likely in whole:
        way_out = "leave --delimiter out" if likely == "," else f"say {_delimiter_option(likely)}"
        raise HeaderError("wrong_delimiter", f"the first line is one single field, {_shown(whole)}; {way_out}")


def _delimiter_option(mark: str) -> str:
    return "--delimiter tab" if mark == "\t" else f"--delimiter '{mark}'"


def _refuse_missing(name: str, column: str, header: Sequence[str], options: ColumnOptions) -> None:
    optional = name in ("event_id", "properties_json") or name in options.defaults
    if column in options.ignored and column in header and (name in options.names or not optional):
        raise HeaderError(
            "missing_column",
            f"--ignore leaves out the column {_shown(column)}, but {name} is taken from it; say one or the other",
            column=column,
        )
    if name in options.names:
        raise HeaderError(
            "missing_column",
            f"--map takes {name} from the column {_shown(column)}, which the file does not have; it has {_all(header)}",
            column=column,
        )
    if optional:
        return
    if not set(header) & set(COLUMNS) and not options.names:
        raise HeaderError(
            "missing_header",
            f"the first line names none of {', '.join(COLUMNS)}: put a line with the columns' names first, or name "
            "them with --map user_id=…,event_type=…,occurred_at=…",
        )
    close = difflib.get_close_matches(name, header, n=1, cutoff=0.5)
    hint = f"--map {name}={close[0] if close else 'COLUMN'}"
    way_out = hint if name == "occurred_at" else f"{hint} or --default {name}=VALUE"
    raise HeaderError(
        "missing_column",
        f"the column {name} is missing; name it, or say {way_out}; found are {_all(header)}",
        column=name,
    )


def _unknown_columns(names: Sequence[str]) -> HeaderError:
    close = difflib.get_close_matches(names[0].strip().lower(), COLUMNS, n=1)
    hint = f"; is {_shown(names[0])} meant to be {close[0]}? --map {close[0]}={_shown(names[0])}" if close else ""
    plural = "columns" if len(names) > 1 else "column"
    return HeaderError(
        "unknown_column",
        f"unknown {plural} {_all(names)}: make properties of them with --properties-from-rest, or leave them out with "
        f"--ignore COLUMN{hint}",
        column=names[0],
    )


def _all(names: Sequence[str]) -> str:
    shown = ", ".join(_shown(name) for name in names[:20])
    return f"{shown} and {len(names) - 20} more" if len(names) > 20 else shown


def _shown(text: str) -> str:
    text = _echo(text)
    return text if text.isprintable() and text.strip() == text != "" else ascii(text)


def _echo(text: str) -> str:
    return text[:ECHO_CHARS].encode("utf-8", "replace").decode()


def time_reader(pattern: str, zone: ZoneInfo | None) -> Callable[[str], str]:
    """A function that turns a cell in this format into RFC 3339.

    Args:
        pattern: as ``strptime`` takes it, or ``unix`` (seconds) or ``unix_ms``.
        zone: whose local times they are, where the pattern has no offset (``%z``).

    Raises:
        ValueError: the pattern is none, or the zone is missing or too much.
    """
    if pattern in ("unix", "unix_ms"):
        if zone is not None:
            raise ValueError(f"{pattern} counts from 1970 in UTC; leave --tz out")
        return _read_unix if pattern == "unix" else _read_unix_ms
    _check_pattern(pattern)
    has_offset = "%z" in pattern.replace("%%", "")
    if has_offset and zone is not None:
        raise ValueError("the times have an offset of their own (%z); leave --tz out")
    if not has_offset and zone is None:
        raise ValueError("the times have no offset: say whose local times they are with --tz, e.g. --tz Europe/Berlin")

    def read(text: str) -> str:
        moment = datetime.strptime(text, pattern)  # noqa: DTZ007 - made aware below
        if zone is None:
            return moment.isoformat()
        # Of a local time that clocks show twice, the first is taken; one that they skip is no time at all.
        local = moment.replace(tzinfo=zone)
        if local.astimezone(UTC).astimezone(zone).replace(tzinfo=None) != moment:
            raise ValueError(f"there is no such local time in {zone.key}: clocks were put forward over it")
        return local.astimezone(UTC).isoformat()

    return read


def _check_pattern(pattern: str) -> None:
    directives = set(re.findall(r"%(.)", pattern.replace("%%", "")))
    if "Z" in directives:
        raise ValueError("strptime reads the name of a zone (%Z) and forgets it: name the zone with --tz, or use %z")
    if "p" in directives and "I" not in directives:
        raise ValueError("%p means nothing beside %H: write the hour of twelve as %I")
    if directives & {"U", "W"}:
        raise ValueError("a number of a week (%U, %W) is no date")
    try:
        datetime.strptime("", pattern)  # noqa: DTZ007 - only the pattern matters
    except ValueError as error:
        if "does not match" not in str(error):
            raise ValueError(f"this is not a time format: {error}; e.g. %Y-%m-%d %H:%M:%S") from error
    except re.error as error:
        raise ValueError("a time format holds each part once, e.g. %Y-%m-%d %H:%M:%S") from error
    else:
        raise ValueError("the time format is empty; e.g. %Y-%m-%d %H:%M:%S, unix or unix_ms")


def _read_unix(text: str) -> str:
    return _read_number(_UNIX, text, 6, "seconds since 1970 with at most 6 decimals")


def _read_unix_ms(text: str) -> str:
    return _read_number(_UNIX_MS, text, 3, "milliseconds since 1970 with at most 3 decimals")


def _read_number(form: re.Pattern[str], text: str, decimals: int, accepted: str) -> str:
    found = form.fullmatch(text)
    if found is None:
        raise ValueError(f"accepted are {accepted}")
    sign, whole, part = found.groups()
    instant_us = int(whole) * 10**decimals + int((part or "").ljust(decimals, "0"))
    instant_us = -instant_us if sign else instant_us
    if abs(instant_us) > _LATEST_US:
        raise ValueError(f"this lies beyond the year 9999; accepted are {accepted}")
    return format_instant(instant_us)


class RowIds:
    """Ids for rows without one: the same file gives the same ids, and equal rows of a file different ones.

    An id is a UUID of version 8: a digest of user, type, instant and properties, and of how many equal rows came
    before. Counting them for ever would need memory for every row, so a row is forgotten when `_REMEMBERED_ROWS` to
    twice as many other rows have come; an equal one after that has the id of the first.
    """

    def __init__(self) -> None:
        self._recent: dict[bytes, int] = {}
        self._older: dict[bytes, int] = {}

    def give(self, event: Event) -> Event:
        """The event with its id."""
        content = event.fingerprint
        count = self._recent.get(content)
        if count is None:
            count = self._older.get(content, 0)
        if len(self._recent) >= _REMEMBERED_ROWS:
            self._older, self._recent = self._recent, {}
        self._recent[content] = count + 1
        digest = blake2b(content + count.to_bytes(8, "big"), digest_size=16, person=b"eventcore-csv-id").digest()
        bits = int.from_bytes(digest, "big") & ~(0xF << 76 | 0x3 << 62) | 0x8 << 76 | 0x2 << 62
        return msgspec.structs.replace(event, event_id=bits.to_bytes(16, "big"))


def decode_rows(rows: Rows, layout: Layout, ids: RowIds, *, now_us: int, limits: Limits) -> Decoded:
    """Check the rows of a batch; ``index`` of a problem is the position in ``rows``.

    Args:
        rows: the batch.
        layout: where the fields stand.
        ids: gives ids where the file has none; belongs to one reading of one file.
        now_us: the clock, the measure of what lies in the future.
        limits: what is accepted.
    """
    events: list[Event] = []
    positions: list[int] = []
    problems: list[Problem] = []
    for run in _runs(rows.fields, layout, now_us, limits):
        for index, found in run:
            if isinstance(found, Problem):
                problems.append(found)
            else:
                events.append(found)
                positions.append(index)
    if layout.makes_ids:
        events = list(map(ids.give, events))
    return Decoded(len(rows.fields), events, positions, problems)


def _runs(
    fields: Sequence[list[str] | Flaw], layout: Layout, now_us: int, limits: Limits
) -> Iterator[Iterable[tuple[int, Event | Problem]]]:
    """Every row with its index: checked all at once if possible, else in runs, and a run in doubt row by row."""
    whole = _check_at_once(fields, layout, now_us, limits)
    if whole is not None:
        yield enumerate(whole)
        return
    for start in range(0, len(fields), _RUN_ROWS):
        run = fields[start : start + _RUN_ROWS]
        found = _check_at_once(run, layout, now_us, limits)
        if found is not None:
            yield enumerate(found, start)
        else:
            yield [(index, _check_one(row, index, layout, now_us, limits)) for index, row in enumerate(run, start)]


def _check_at_once(fields: Sequence[Any], layout: Layout, now_us: int, limits: Limits) -> list[Event] | None:
    """The events of rows that are surely well, None at any doubt."""
    if set(map(len, fields)) != {layout.width} or Flaw in set(map(type, fields)):
        return None
    columns = list(zip(*fields, strict=True))
    count = len(fields)
    try:
        raws = [msgspec.Raw(text.encode()) for text in _properties(columns, layout, count)]
        wires = list(
            map(
                Wire,
                [_PLACEHOLDER_ID] * count if layout.makes_ids else _cells("event_id", columns, layout, count),
                _cells("user_id", columns, layout, count),
                _cells("event_type", columns, layout, count),
                _times(columns, layout, count),
                raws,
            )
        )
        return check_wires(wires, now_us=now_us, limits=limits)[0]
    except Exception:  # the promise of check_wires: any exception is a doubt, and the single rows are checked next
        return None


def _cells(name: str, columns: Sequence[Sequence[str]], layout: Layout, count: int) -> Sequence[str]:
    place = layout.places[name]
    default = layout.options.defaults.get(name, "")
    if place is None:
        return [default] * count
    return [cell or default for cell in columns[place]] if default else columns[place]


def _times(columns: Sequence[Sequence[str]], layout: Layout, count: int) -> Sequence[str]:
    cells = _cells("occurred_at", columns, layout, count)
    return cells if layout.options.read_time is None else list(map(layout.options.read_time, cells))


def _properties(columns: Sequence[Sequence[str]], layout: Layout, count: int) -> Sequence[str]:
    if layout.rest:
        names = [name for _, name in layout.rest]
        rest = zip(*(columns[place] for place, _ in layout.rest), strict=True)
        return [
            msgspec.json.encode({name: cell for name, cell in zip(names, cells, strict=True) if cell}).decode()
            for cells in rest
        ]
    return [cell.strip(_SPACE) or "{}" for cell in _cells("properties_json", columns, layout, count)]


def _check_one(fields: list[str] | Flaw, index: int, layout: Layout, now_us: int, limits: Limits) -> Event | Problem:
    if isinstance(fields, Flaw):
        return _problem(index, None, fields.code, None, fields.message)
    if len(fields) != layout.width:
        code = "too_few_fields" if len(fields) < layout.width else "too_many_fields"
        reasons = len(set(layout.header) & set(REASON_COLUMNS))
        found, named = len(fields) - reasons, layout.width - reasons
        message = f"the row has {found} {'field' if found == 1 else 'fields'}; the header names {named}"
        return _problem(index, None, code, None, message)
    columns = [(cell,) for cell in fields]
    event_id = _PLACEHOLDER_ID if layout.makes_ids else _cells("event_id", columns, layout, 1)[0]
    shown_id = None if layout.makes_ids else _echo(event_id)
    texts = {
        "event_id": event_id,
        "user_id": _cells("user_id", columns, layout, 1)[0],
        "event_type": _cells("event_type", columns, layout, 1)[0],
        "occurred_at": _cells("occurred_at", columns, layout, 1)[0],
    }
    used = {**texts, "properties": "".join(fields[place] for place, _ in layout.rest)}
    if not layout.rest:
        used["properties"] = _cells("properties_json", columns, layout, 1)[0]
    for name, text in used.items():
        if not _is_text(text):
            return _problem(index, shown_id, "invalid_utf8", name, "the row holds bytes that are not UTF-8")
    if layout.options.read_time is not None:
        try:
            texts["occurred_at"] = layout.options.read_time(texts["occurred_at"])
        except (ValueError, OverflowError) as error:
            return _problem(index, shown_id, "invalid_timestamp", "occurred_at", _time_help(error))
    properties = _properties(columns, layout, 1)[0].encode()
    object_ = _read_properties(properties, limits)
    if isinstance(object_, Flaw):
        return _problem(index, shown_id, object_.code, _echo(".".join(("properties", *object_.path))), object_.message)
    members = [msgspec.json.encode(name) + b":" + msgspec.json.encode(text) for name, text in texts.items()]
    event = b"{" + b",".join([*members, b'"properties":' + properties]) + b"}"
    checked = read_object({**texts, "properties": object_}, event, index, now_us=now_us, limits=limits)
    if isinstance(checked, Problem) and layout.makes_ids:
        return msgspec.structs.replace(checked, event_id=None)
    if isinstance(checked, Problem) and checked.code == "invalid_event_id":
        return msgspec.structs.replace(checked, message=checked.message + _way_out_of_ids(layout.options))
    return checked


def _way_out_of_ids(options: ColumnOptions) -> str:
    """How to import rows whose ids are none: other people's files often just number them."""
    column = options.names.get("event_id", "event_id")
    instead = " in place of --map" if "event_id" in options.names else ""
    return f"; --ignore {_shown(column)}{instead} makes ids from the rows' content"


def _read_properties(text: bytes, limits: Limits) -> Any:
    """The properties as `read_element` gives them; nothing nested without bound reaches its recursion."""
    try:
        split_array(b"[" + text + b"]", 0, most_elements=1, most_depth=limits.body_depth)
    except BodyError as error:
        if error.code == "too_deep":
            return Flaw("too_deep", (), f"at most {limits.property_depth} levels of nesting are accepted")
        return Flaw("invalid_json", (), 'properties_json is not one JSON object, e.g. {"plan":"pro"}')
    found = read_element(text)
    if isinstance(found, Flaw) and found.code in ("invalid_json", "extra_data"):
        message = found.message.replace("of the event", "of properties_json").replace("the event", "the object")
        return Flaw("invalid_json", (), message.replace("its character", "character"))
    return found


def _time_help(error: Exception) -> str:
    message = str(error)
    if "does not match format" in message or "unconverted data" in message:
        return "this is not a time in the format that --time-format names"
    return message


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _problem(index: int, event_id: str | None, code: str, name: str | None, message: str) -> Problem:
    return Problem(index=index, event_id=event_id, code=code, field=name, message=message)
