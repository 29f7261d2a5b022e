"""Question → answer: a statistic's parameters, its data, and what has to be known about them.

`answer` takes a question from the ports to its `Answer`. The ``parse_…`` functions read the parameters that
statistics share, so that HTTP, the command line and the library accept and refuse the same. Not here: what a
statistic means (`statistics`, `retention`), and parameters that nobody knows or that come twice, which only the
entrypoints can see.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from hashlib import sha256
from typing import Any, Final, Protocol, TypeVar, get_args
from zoneinfo import ZoneInfo

import msgspec

from eventcore.activity import ActivityQuery, ActivitySnapshot
from eventcore.calendar import (
    EARLIEST_DATE,
    LATEST_DATE,
    UnknownZone,
    WeekStart,
    Window,
    add_periods,
    days_between,
    find_zone,
    format_instant,
    local_date,
    parse_date,
    period_start,
)
from eventcore.conditions import Condition, Selection
from eventcore.errors import InvalidQuestion
from eventcore.ports import EventStore, Queue

Data = list[dict[str, Any]] | dict[str, Any]
"""What a statistic answers, ready for JSON; each statistic describes its own shape."""

WINDOWS: Final[tuple[Window, ...]] = get_args(Window)
WEEK_STARTS: Final[tuple[WeekStart, ...]] = get_args(WeekStart)

Choice = TypeVar("Choice", bound=str)


class StatisticLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds on one question.

    Attributes:
        range_days: local dates of one question, all cohorts and windows of a retention together. Ten years; a row a
            day is then some 150 KB of answer.
        rows: ``limit`` of top events. More types than a person reads, at 100 characters each some 200 KB.
        windows: windows of a retention after the cohort's own. A year of days and a leap day.
        cohorts: cohorts of a retention. One more than windows, which is how many there are when none are asked for.
        segments: conditions of one question. Each is compared with every event that is read.
        segment_value_chars: characters of a condition's value, or of a type of event. As many as a user id has.
        property_name_chars: characters of a property's name in a condition or a breakdown.
        segment_values: values of one condition with ``in``.
        groups: groups of a breakdown. Each costs as much as the question alone.
        group_cells: rows or cells of an answer with a breakdown, all groups together: some 15 MB.
        group_tallies: sets of users that are counted for one.
        hour_range_days: local dates of a question about hours; a year is 8,784 rows.
    """

    range_days: int = 3_660
    rows: int = 1_000
    windows: int = 366
    cohorts: int = 367
    segments: int = 20
    segment_value_chars: int = 255
    property_name_chars: int = 255
    segment_values: int = 100
    groups: int = 50
    group_cells: int = 200_000
    group_tallies: int = 40_000
    hour_range_days: int = 366


LIMITS: Final = StatisticLimits()
"""The bounds that every ``parse`` keeps."""

_DATE_FORM: Final = f"a date is written YYYY-MM-DD, exists, and lies from {EARLIEST_DATE} to {LATEST_DATE}"
_SEGMENT_FORM: Final = (
    "a segment is written FIELD:VALUE or FIELD=VALUE, FIELD!=VALUE, FIELD in VALUE,VALUE or FIELD exists, where FIELD "
    "is event_type or properties.NAME, and NAME is one key of the properties, dots included"
)
_FIELD: Final = r"(?P<field>event_type|properties\.(?P<name>(?:(?!!=|!:|=|:| in ).)+?))"
_SEGMENT: Final = re.compile(_FIELD + r"(?:(?P<operator>!=|!:|=|:| in )(?P<value>.*)| exists)", re.DOTALL)
_EVENT_FIELD: Final = re.compile(r"event_type|properties\.(?P<name>.+)", re.DOTALL)
_LIST_PART: Final = re.compile(
    r"(?:^|,)((?:\\[\\,]|[^,])*)", re.DOTALL
)  # up to a comma that has no backslash before it
_DIGITS: Final = re.compile(r"[0-9]{1,9}")  # ASCII; nine digits hold every limit, and int() never gets a long text
_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")  # no stored text holds them, and databases refuse to compare them


class Meta(msgspec.Struct, frozen=True, kw_only=True, rename={"from_": "from"}):
    """What has to be known about an answer to trust it. Its members stand in the order of the JSON.

    Attributes:
        definition: what the numbers mean, one sentence.
        timezone: whose local dates they are, by IANA name.
        from_: first local date; ``from`` in JSON.
        to: last local date, included.
        filters: the segments, as ``event_type:purchase``; all hold on the same event.
        data_as_of: RFC 3339 in UTC; all events accepted until then are in.
        pending: events of the project that are accepted and not stored yet.
        exact: always true: nothing here is sampled or estimated.
        computed_from: ``activity`` when precomputed activity answered, ``events`` when raw rows were read.
        took_ms: milliseconds that the answer took.
    """

    definition: str
    timezone: str
    from_: str
    to: str
    filters: list[str]
    data_as_of: str
    pending: int
    exact: bool = True
    computed_from: str
    took_ms: float


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A statistic's data with what has to be known about them.

    Attributes:
        data: lists, dicts, texts, numbers and None only; its shape is described at each statistic.
        meta: definition, range and freshness.
    """

    data: Data
    meta: Meta


class Question(Protocol):
    """A statistic with its parameters: what it needs to know, and how it computes its data from that.

    To ask a new one, write a class of this shape with a classmethod ``parse`` that reads the parameters' texts.
    """

    @property
    def name(self) -> str:
        """What it is called in routes and commands, e.g. ``top-events``."""
        ...

    @property
    def definition(self) -> str:
        """What its numbers mean, in one sentence."""
        ...

    @property
    def zone(self) -> ZoneInfo:
        """Whose local dates it counts."""
        ...

    @property
    def first(self) -> date:
        """First local date that it looks at, apart from history."""
        ...

    @property
    def last(self) -> date:
        """Last local date that it looks at."""
        ...

    @property
    def segments(self) -> Selection:
        """The conditions that every event it counts fulfils."""
        ...

    @property
    def cells(self) -> int:
        """How many rows its data have, at most; of a matrix how many cells."""
        ...

    def query(self, project: str) -> ActivityQuery:
        """What it needs to know of the project's activity."""
        ...

    def compute(self, snapshot: ActivitySnapshot, now_us: int) -> Data:
        """Its data, from the answer to `query`. Never changes the snapshot, which stores may keep."""
        ...


async def answer(
    question: Question,
    *,
    project: str,
    store: EventStore,
    queue: Queue,
    now_us: int,
    elapsed_ms: Callable[[], float],
    seconds: float | None = None,
) -> Answer:
    """Answer a question from one snapshot of the store.

    Args:
        question: what is asked.
        project: whose events.
        store: holds the events.
        queue: knows which accepted events are not in the store yet.
        now_us: the time, read before the call.
        elapsed_ms: tells how many milliseconds the work has taken so far.
        seconds: how long the store may take, None for as long as it does.

    Returns:
        The data with their freshness.

    Raises:
        StoreError: the store or the queue does not answer, or not in time.
    """
    # Pending before the snapshot: an event stored between the two is then counted though no freshness was claimed
    # for it. The other way round it could be missing from both.
    pending = await queue.pending(project)
    query = msgspec.structs.replace(question.query(project), seconds=seconds)
    snapshot = await store.activity(query)
    # In a thread: the largest matrix takes most of a second, which the event loop has to spare for others.
    data = await asyncio.to_thread(question.compute, snapshot, now_us)
    as_of_us = now_us
    if pending.events:
        assert pending.since_us is not None, "a queue that holds events knows since when"
        as_of_us = min(now_us, pending.since_us)
    if snapshot.as_of_us is not None:
        as_of_us = min(as_of_us, snapshot.as_of_us)
    return Answer(
        data=data,
        meta=Meta(
            definition=question.definition,
            timezone=question.zone.key,
            from_=question.first.isoformat(),
            to=question.last.isoformat(),
            filters=segment_texts(question.segments),
            data_as_of=format_instant(as_of_us),
            pending=pending.events,
            computed_from=snapshot.computed_from,
            took_ms=round(elapsed_ms(), 3),
        ),
    )


def answer_tag(question: Question, *, project: str, version: str, now_us: int) -> str:
    """A name for the data of an answer: it stays the same as long as they do.

    Args:
        question: what is asked.
        project: whose events.
        version: of the project's data, read from the store before the answer.
        now_us: the time; its local date decides which periods have begun.
    """
    known = (question.name, repr(question), project, version, local_date(now_us, question.zone).isoformat())
    return sha256(repr(known).encode()).hexdigest()[:32]


def answer_json(answer: Answer) -> dict[str, Any]:
    """The document that HTTP and ``--format json`` print, as plain dicts: ``{"data": …, "meta": {…}}``."""
    return {"data": answer.data, "meta": msgspec.to_builtins(answer.meta)}


def segment_texts(segments: Selection) -> list[str]:
    """Write conditions as `parse_segments` reads them, e.g. ``event_type:purchase``."""
    return [_segment_text(condition) for condition in segments.conditions]


def _segment_text(condition: Condition) -> str:
    if condition.operator == "exists":
        return f"{condition.field} exists"
    if len(condition.values) == 1:
        return f"{condition.field}{':' if condition.operator == 'in' else '!='}{condition.values[0]}"
    escaped = [value.replace("\\", "\\\\").replace(",", "\\,") for value in condition.values]
    return f"{condition.field} in {','.join(escaped)}"


# Reading parameters. ``field`` is the name of the HTTP parameter; no message repeats what was sent, except that of an
# unknown zone, which echoes at most 64 characters.


def parse_range(from_: str | date | None, to: str | date | None) -> tuple[date, date]:
    """Read ``from`` and ``to``, inclusive local dates.

    Raises:
        InvalidQuestion: one is missing or no date, ``from`` comes after ``to``, or the range is too long.
    """
    first, last = parse_day("from", from_), parse_day("to", to)
    if first > last:
        raise InvalidQuestion("from", "invalid_range", "from comes after to: from is the first date, to the last")
    if days_between(first, last) > LIMITS.range_days:
        raise InvalidQuestion("to", "range_too_long", f"from and to may span at most {LIMITS.range_days} days")
    return first, last


def parse_periods(
    from_: str | date | None, to: str | date | None, interval: Window, week_start: WeekStart
) -> tuple[date, date]:
    """Read ``from`` and ``to``, widened to the whole periods that hold them.

    Raises:
        InvalidQuestion: as `parse_range`; or a period leads beyond the calendar, or the periods together are too long.
    """
    given_first, given_last = parse_range(from_, to)
    first = period_start(given_first, interval, week_start)
    last = add_periods(period_start(given_last, interval, week_start), interval, 1) - timedelta(days=1)
    if last > LATEST_DATE:
        raise InvalidQuestion("to", "range_too_late", f"to: its {interval} ends after {LATEST_DATE}: end earlier")
    if days_between(first, last) > LIMITS.range_days:
        raise InvalidQuestion(
            "to",
            "range_too_long",
            f"from and to, with the whole {interval}s, may span at most {LIMITS.range_days} days",
        )
    return first, last


def parse_day(field: str, value: str | date | None) -> date:
    """Read one local date, as text or as a date.

    Raises:
        InvalidQuestion: it is missing, no date, or outside the years that can be answered.
    """
    if value is None:
        raise InvalidQuestion(field, "missing_parameter", f"{field} is missing: {_DATE_FORM}")
    if isinstance(value, str):
        try:
            return parse_date(value)
        except ValueError as error:
            raise InvalidQuestion(field, "invalid_date", f"{field}: {_DATE_FORM}") from error
    # A datetime is a date to Python, but which local date it means depends on a zone: refused, not guessed.
    if isinstance(value, datetime) or not EARLIEST_DATE <= value <= LATEST_DATE:
        raise InvalidQuestion(field, "invalid_date", f"{field}: {_DATE_FORM}")
    return value


def parse_count(field: str, value: str | int, *, most: int) -> int:
    """Read a whole number from 1 to ``most``, as ASCII digits or as an int.

    Raises:
        InvalidQuestion: it is something else.
    """
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most:
        return value
    raise InvalidQuestion(field, "invalid_number", f"{field} is a whole number from 1 to {most}, in digits 0-9 only")


def parse_choice(field: str, value: str, choices: Sequence[Choice]) -> Choice:
    """Read one of a few words.

    Raises:
        InvalidQuestion: it is none of them; the message lists them.
    """
    for choice in choices:
        if choice == value:
            return choice
    raise InvalidQuestion(field, "unknown_choice", f"{field} is one of: {', '.join(choices)}")


def parse_zone(tz: str | None, reporting_zone: str) -> ZoneInfo:
    """Read ``tz``, the IANA name of a time zone; None means the reporting zone.

    Raises:
        InvalidQuestion: there is no such zone.
    """
    try:
        return find_zone(reporting_zone if tz is None else tz)
    except UnknownZone as error:
        raise InvalidQuestion("tz", "unknown_time_zone", str(error)) from error


def parse_segments(texts: Sequence[str]) -> Selection:
    """Read ``segment`` parameters, which all have to hold on the same event.

    Written ``FIELD:VALUE`` (``=`` works too), ``FIELD!=VALUE`` (``!:`` too), ``FIELD in VALUE,VALUE`` or ``FIELD
    exists``; the field is ``event_type`` or ``properties.NAME``, and the first of these operators ends it, so that a
    value may hold them all. Among several values a backslash before a comma or a backslash takes it into the value. One
    text alone is taken as one segment. Repeats are read once.

    Raises:
        InvalidQuestion: one is malformed or too long, or there are too many.
    """
    if isinstance(texts, str):
        texts = (texts,)
    if len(texts) > LIMITS.segments:
        raise InvalidQuestion("segment", "too_many_segments", f"at most {LIMITS.segments} segments are accepted")
    return Selection(tuple(dict.fromkeys(_parse_segment(text) for text in texts)))


def _parse_segment(text: str) -> Condition:
    parsed = _SEGMENT.fullmatch(text)
    if parsed is None:
        raise InvalidQuestion("segment", "invalid_segment", _SEGMENT_FORM)
    field, operator, value = parsed["field"], parsed["operator"], parsed["value"]
    if parsed["name"] is not None:
        _check_text("segment", "a property's name", parsed["name"], LIMITS.property_name_chars)
    if operator is None:
        return Condition(field, (), "exists")
    values = _parse_values(value) if operator == " in " else (value,)
    for one in values:
        if parsed["name"] is None:
            parse_event_type("segment", one)
        else:
            _check_text("segment", "a segment's value", one, LIMITS.segment_value_chars)
    return Condition(field, values, "not in" if operator.startswith("!") else "in")


def _parse_values(text: str) -> tuple[str, ...]:
    found = [re.sub(r"\\([\\,])", r"\1", match[1]) for match in _LIST_PART.finditer(text)]
    if len(found) > LIMITS.segment_values:
        raise InvalidQuestion(
            "segment", "too_many_values", f"a segment has at most {LIMITS.segment_values} values; repeats count"
        )
    return tuple(dict.fromkeys(found))


def parse_event_field(field: str, value: str) -> str:
    """Read the name of a field of events, ``event_type`` or ``properties.NAME``.

    Raises:
        InvalidQuestion: it is something else.
    """
    parsed = _EVENT_FIELD.fullmatch(value)
    if parsed is None:
        form = f"{field} is event_type or properties.NAME, and NAME is one key of the properties, dots included"
        raise InvalidQuestion(field, "invalid_field", form)
    _check_text(field, "a property's name", parsed["name"] or "", LIMITS.property_name_chars)
    return value


def parse_dimension(name: str) -> str:
    """Read the name of a property that is to be a dimension.

    Raises:
        InvalidQuestion: it is empty or too long, or holds what no store can hold.
    """
    if not name:
        raise InvalidQuestion(
            "name", "invalid_field", "a dimension is named by one key of the properties, dots included"
        )
    _check_text("name", "a property's name", name, LIMITS.property_name_chars)
    return name


def parse_event_type(field: str, value: str) -> str:
    """Read a type of event, in a segment or as a parameter of its own.

    Raises:
        InvalidQuestion: it is empty, which no type is, or too long, or holds what no stored text can hold.
    """
    if not value:
        raise InvalidQuestion(field, "empty_event_type", f"{field}: a type of event has at least one character")
    _check_text(field, "a type of event", value, LIMITS.segment_value_chars)
    return value


def _check_text(field: str, what: str, text: str, most_chars: int) -> None:
    if len(text) > most_chars:
        raise InvalidQuestion(field, "too_long", f"{field}: {what} has at most {most_chars} characters")
    if _UNSTORABLE.search(text):
        raise InvalidQuestion(field, "invalid_unicode", f"{field}: {what} holds no NUL and no lone surrogate")
