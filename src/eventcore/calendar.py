"""Local days, weeks and months of any time zone, as sets of instants.

The only date arithmetic of the project. Everything else counts instants, and asks here which of them
belong to a local date. An instant is an ``int``, microseconds since 1970-01-01T00:00:00Z without leap seconds
(POSIX); a local date is a ``datetime.date``; what joins them is a `Span`.

Not for: knowing what time it is (there is no clock here), the grammar of ``occurred_at`` (``decoding``), or
how long a range may be asked for (``answers``).

The rules of the zones are the IANA database as ``zoneinfo`` finds it: the system's copy first, the ``tzdata``
package for what the system lacks. Two machines with different copies may draw a day differently.
"""

import re
import zoneinfo
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from functools import cache, lru_cache
from itertools import chain, pairwise
from typing import Final, Literal, assert_never
from zoneinfo import ZoneInfo

Interval = tuple[int, int]
"""Half open, ``[start_us, end_us)``: UTC microseconds since the epoch, start before end."""

Span = tuple[Interval, ...]
"""Intervals in order, disjoint and not touching: the instants of a local date, or of a union of dates.

A local date is usually one interval, none where the zone skipped it, two where clocks went back over
midnight.
"""

Window = Literal["day", "week", "month"]
"""The periods of the calendar; ``typing.get_args(Window)`` lists them."""

WeekStart = Literal["monday", "sunday", "saturday"]
"""The day a week begins with.

Monday by ISO 8601, Sunday in much of the Americas, Saturday in much of the Arab world: these serve every
territory of CLDR's ``weekData`` but the Maldives, so there are not seven.
"""

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
"""The instant 0."""

YEAR_10000_US: Final = 253_402_300_800_000_000
"""The first instant that has no date here; a store keeps those before it, from 1970 on."""

QUARTER_US: Final = 15 * 60 * 1_000_000
"""Microseconds of the 15-minute bucket that activity is kept in (see `on_quarters`)."""

EARLIEST_DATE: Final = date(1969, 12, 31)
"""First date that `parse_date` accepts: the local date, west of UTC, of the earliest event (instant 0)."""

LATEST_DATE: Final = date(9998, 12, 31)
"""Last date with a span: a year before ``datetime`` ends, so that no zone's offset leads past its end."""

_EARLIEST_DAY_SPAN: Final = date(2, 1, 1)  # a year after datetime begins, for the same reason
_LONGEST_ECHO: Final = 64  # characters of input in an error message, at most (DESIGN, section 5)

_SECOND_US: Final = 1_000_000
_DAY_SECONDS: Final = 86_400
_DAY_US: Final = _DAY_SECONDS * _SECOND_US
_DAY_HOURS: Final = 24
_HOUR_US: Final = _DAY_US // _DAY_HOURS

# Offsets are looked up every twelve hours, and a change is sought where two neighbours differ. What could be
# missed is an offset that comes back to what it was in less: by tzdata 2025b no zone ever did within 95 hours
# (Freetown, 1939), nor since 1970 within 166 (Boa Vista, October 2000; Gaza, October 2040).
_PROBE_SECONDS: Final = 12 * 3_600
_BLOCK_DAYS: Final = 64  # days whose offsets are looked up and cached together: 128 probes, 0.2 ms
_BLOCK_US: Final = _BLOCK_DAYS * _DAY_US
_CACHED_BLOCKS: Final = 8_192  # 3,660 days of 140 zones; about 0.4 KB each, so 3 MB at most
_CACHED_ZONES: Final = 1_024  # every name there is: about 600

_OUTSIDE: Final = "a date lies outside the years 1 to 9999"

_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_WEEKDAY: Final[dict[WeekStart, int]] = {"monday": 0, "saturday": 5, "sunday": 6}  # as date.weekday() counts

# Files that stand beside the zones and are none: the machine's own zone, the fall-back of POSIX rules, and
# "no zone was set" (offset -00).
_NOT_ZONES: Final = frozenset({"localtime", "posixrules", "Factory"})

_Segment = tuple[int, int, int]  # [start_us, end_us) of UTC, and the offset_us of local time throughout it


class UnknownZone(ValueError):
    """Not the name of a time zone in the IANA database."""


# Zones


def find_zone(name: str) -> ZoneInfo:
    """Find a time zone by its IANA name, such as ``Europe/Berlin`` or ``UTC``.

    Names are spelled as the database spells them, capitals included; old names that it keeps as links
    (``GB``, ``US/Pacific``) are known. Refused are ``right/…`` (counts leap seconds; instants here do not),
    ``posix/…``, ``localtime``, ``posixrules`` and ``Factory``, which depend on the machine or mean that no
    zone was set. Only a name on the list of zones is ever made into a path.

    Args:
        name: The name, from anywhere: any text is safe.

    Returns:
        The zone; the same object each time.

    Raises:
        UnknownZone: The name is not in the database.
    """
    if name in _zone_names():
        try:
            return _open_zone(name)
        except zoneinfo.ZoneInfoNotFoundError as error:  # the database changed under the running process
            raise UnknownZone(_unknown(name)) from error
    raise UnknownZone(_unknown(name))


@cache
def _zone_names() -> frozenset[str]:
    # Looks through the database's directories, once (30 ms); zoneinfo itself leaves out right/ and posix/.
    return frozenset(zoneinfo.available_timezones() - _NOT_ZONES)


_open_zone = lru_cache(maxsize=_CACHED_ZONES)(ZoneInfo)


def _unknown(name: str) -> str:
    echo = name[:_LONGEST_ECHO] + ("…" if len(name) > _LONGEST_ECHO else "")
    return (
        f"unknown time zone {echo!r}: a name of the IANA database is expected, such as Europe/Berlin or UTC, "
        "spelled with its capitals"
    )


# Local days


def local_date(instant_us: int, zone: ZoneInfo) -> date:
    """Tell the local date of an instant.

    Args:
        instant_us: Microseconds since the epoch.
        zone: Whose calendar it is.

    Returns:
        The date that clocks in the zone showed at that instant.

    Raises:
        ValueError: The instant or its local time lies outside the years 1 to 9999.
    """
    moment = to_datetime(instant_us)
    try:
        return moment.astimezone(zone).date()
    except OverflowError as error:
        raise ValueError("the local time of that instant lies outside the years 1 to 9999") from error


def day_spans(zone: ZoneInfo, first: date, last: date) -> list[Span]:
    """Give the instants of each local date of a range.

    Exact to the microsecond: an instant lies in the span of a date if, and only if, `local_date` names that
    date. Days of 23 or 25 hours come out as they are, a date that the zone skipped (Pacific/Apia, 2011-12-30)
    as the empty span, and dates between which clocks went back over midnight as two intervals each
    (America/St_Johns in autumn until 2010: 00:01 became 23:01 of the day before). Spans of different dates
    never overlap, and all of them together leave no instant out.

    Args:
        zone: Whose calendar it is.
        first: First local date.
        last: Last local date, included.

    Returns:
        One span a date, in order; none where ``last`` comes before ``first``.

    Raises:
        ValueError: A date lies outside 0002-01-01 to 9998-12-31 (`LATEST_DATE`).
    """
    if min(first, last) < _EARLIEST_DAY_SPAN or max(first, last) > LATEST_DATE:
        raise ValueError(f"local days are known from {_EARLIEST_DAY_SPAN} to {LATEST_DATE}")
    first_day, last_day = _day_number(first), _day_number(last)
    spans: list[Span] = [()] * days_between(first, last)
    # No offset reaches 24 hours, so the instants of a date lie within its UTC day and the two beside it.
    blocks = range((first_day - 1) // _BLOCK_DAYS, (last_day + 1) // _BLOCK_DAYS + 1)
    for start_us, end_us, offset_us in chain.from_iterable(_segments(zone, block) for block in blocks):
        earliest_day = max(first_day, (start_us + offset_us) // _DAY_US)
        latest_day = min(last_day, (end_us + offset_us - 1) // _DAY_US)
        for day in range(earliest_day, latest_day + 1):
            midnight_us = day * _DAY_US - offset_us
            piece = (max(start_us, midnight_us), min(end_us, midnight_us + _DAY_US))
            known = spans[day - first_day]
            spans[day - first_day] = merge((known, (piece,))) if known else (piece,)
    return spans


def hour_spans(zone: ZoneInfo, first: date, last: date) -> list[tuple[str, Span]]:
    """Give the instants of each local hour of a range of dates.

    An hour is all instants with the same local date, the same hour of the clock and the same offset: one that clocks
    repeat comes twice, one that they skip not at all, one in the middle of which they change is shorter.

    Args:
        zone: Whose calendar it is.
        first: First local date.
        last: Last local date, included.

    Returns:
        The hours in order of time: the local time of the first instant with its offset, as
        ``2026-03-29T03:00:00+02:00`` (RFC 3339, with seconds in an offset that has some), and the instants.

    Raises:
        ValueError: A date lies outside 0002-01-01 to 9998-12-31 (`LATEST_DATE`).
    """
    days = merge(day_spans(zone, first, last))
    if not days:
        return []
    first_hour, last_hour = _day_number(first) * _DAY_HOURS, _day_number(last) * _DAY_HOURS + _DAY_HOURS - 1
    blocks = range(days[0][0] // _BLOCK_US, (days[-1][1] - 1) // _BLOCK_US + 1)
    spans: dict[tuple[int, int], Span] = {}
    for start_us, end_us, offset_us in chain.from_iterable(_segments(zone, block) for block in blocks):
        earliest = max(first_hour, (start_us + offset_us) // _HOUR_US)
        latest = min(last_hour, (end_us + offset_us - 1) // _HOUR_US)
        for hour in range(earliest, latest + 1):
            hour_us = hour * _HOUR_US - offset_us
            piece = (max(start_us, hour_us), min(end_us, hour_us + _HOUR_US))
            spans[hour, offset_us] = merge((spans.get((hour, offset_us), ()), (piece,)))
    return [(_local_time(span[0][0], offset_us), span) for (_, offset_us), span in spans.items()]


def _local_time(instant_us: int, offset_us: int) -> str:
    return to_datetime(instant_us).astimezone(timezone(timedelta(microseconds=offset_us))).isoformat()


def overlap_before(zone: ZoneInfo, first: date) -> tuple[Span, ...]:
    """The date before ``first``, where it went on after ``first`` had begun; else nothing.

    What happened before a range is asked for by instant, up to the first one of the range. Where clocks went back over
    midnight, the date before has instants after that: it has to be asked for as a slot of its own in front, so that
    what comes before ends before both dates.
    """
    before, own = day_spans(zone, first - timedelta(days=1), first)
    return (before,) if before and own and before[-1][1] > own[0][0] else ()


def _day_number(day: date) -> int:
    """Days since 1970-01-01."""
    return day.toordinal() - EPOCH.toordinal()


@lru_cache(maxsize=_CACHED_BLOCKS)
def _segments(zone: ZoneInfo, block: int) -> tuple[_Segment, ...]:
    """The stretches of constant offset in `_BLOCK_DAYS` days of UTC, the epoch being where block 0 starts."""
    start_seconds = block * _BLOCK_DAYS * _DAY_SECONDS
    end_seconds = start_seconds + _BLOCK_DAYS * _DAY_SECONDS
    probes = range(start_seconds, end_seconds + 1, _PROBE_SECONDS)
    offsets = [(seconds, _offset(zone, seconds)) for seconds in probes]
    changes = chain.from_iterable(_changes(zone, before, after) for before, after in pairwise(offsets))
    return tuple(
        (from_seconds * _SECOND_US, to_seconds * _SECOND_US, offset // timedelta(microseconds=1))
        for (from_seconds, offset), (to_seconds, _) in pairwise([offsets[0], *changes, offsets[-1]])
        if from_seconds < to_seconds
    )


def _changes(
    zone: ZoneInfo, before: tuple[int, timedelta], after: tuple[int, timedelta]
) -> Iterator[tuple[int, timedelta]]:
    """The first second of each new offset, after one probe and up to the next.

    Zones change on whole seconds (RFC 9636, section 3.2).
    """
    if before[1] == after[1]:
        return
    if after[0] - before[0] == 1:
        yield after
        return
    middle_seconds = (before[0] + after[0]) // 2
    middle = (middle_seconds, _offset(zone, middle_seconds))
    yield from _changes(zone, before, middle)
    yield from _changes(zone, middle, after)


def _offset(zone: ZoneInfo, instant_seconds: int) -> timedelta:
    # fromutc takes UTC under the zone's name; two datetimes of one zone are subtracted as their clocks read.
    utc = datetime(1970, 1, 1, tzinfo=zone) + timedelta(seconds=instant_seconds)
    return zone.fromutc(utc) - utc


def on_quarters(span: Span) -> bool:
    """Tell whether a span is made of whole 15-minute buckets.

    Where it is not (America/St_Johns on the days of a change at 00:01, Africa/Monrovia before 1972,
    Pacific/Kiritimati before 1979), buckets cannot answer for the day and raw rows must.

    Args:
        span: The instants of a date or of several; the empty span is on quarters.

    Returns:
        Whether every bound is a multiple of `QUARTER_US`.
    """
    return all(start_us % QUARTER_US == 0 and end_us % QUARTER_US == 0 for start_us, end_us in span)


def merge(spans: Iterable[Span]) -> Span:
    """Unite spans, in any order, overlapping or not.

    Args:
        spans: The spans of some dates, for instance of a week.

    Returns:
        One span with the instants of all; intervals that touch have become one.
    """
    union: list[Interval] = []
    for start_us, end_us in sorted(chain.from_iterable(spans)):
        if union and start_us <= union[-1][1]:
            union[-1] = (union[-1][0], max(union[-1][1], end_us))
        else:
            union.append((start_us, end_us))
    return tuple(union)


# Dates and periods


def parse_date(text: str) -> date:
    """Read a local date as people type it in a query.

    Args:
        text: ``YYYY-MM-DD`` in ASCII digits and nothing around it (``full-date`` of RFC 3339, no other form
            of ISO 8601).

    Returns:
        The date, from `EARLIEST_DATE` to `LATEST_DATE`.

    Raises:
        ValueError: The text is not such a date; the message says what is accepted and echoes nothing.
    """
    accepted = f"a date is written YYYY-MM-DD, exists, and lies from {EARLIEST_DATE} to {LATEST_DATE}"
    if not _DATE.fullmatch(text):
        raise ValueError(accepted)
    try:
        day = date.fromisoformat(text)
    except ValueError as error:
        raise ValueError(accepted) from error
    if not EARLIEST_DATE <= day <= LATEST_DATE:
        raise ValueError(accepted)
    return day


def days_between(first: date, last: date) -> int:
    """Count the days of a range, both ends included.

    Args:
        first: First date.
        last: Last date, included.

    Returns:
        Days; 0 where ``last`` comes before ``first``.
    """
    return max(0, (last - first).days + 1)


def each_day(first: date, last: date) -> Iterator[date]:
    """Go through the days of a range, both ends included.

    Args:
        first: First date.
        last: Last date, included.

    Returns:
        Every date in order, also those that some zone skipped; none where ``last`` comes before ``first``.
    """
    return map(date.fromordinal, range(first.toordinal(), last.toordinal() + 1))


def period_start(day: date, window: Window, week_start: WeekStart) -> date:
    """Find the first date of the day, week or month that holds a date.

    Args:
        day: Any date.
        window: The kind of period.
        week_start: The day a week begins with; matters to weeks only.

    Returns:
        The date itself, or the latest such weekday or first of a month that is not after it.

    Raises:
        ValueError: The week begins before the year 1.
    """
    match window:
        case "day":
            return day
        case "week":
            return _days_after(day, -((day.weekday() - _WEEKDAY[week_start]) % 7))
        case "month":
            return day.replace(day=1)
        case _:
            assert_never(window)


def add_periods(start: date, window: Window, count: int) -> date:
    """Find the first date of the period that comes ``count`` periods after another.

    By dates, never by seconds, so that clock changes and the length of months do not matter.

    Args:
        start: First date of a period, as `period_start` gives it.
        window: The kind of period.
        count: How many periods later; 0 is the period itself, negative is earlier.

    Returns:
        The first date of that period.

    Raises:
        ValueError: The period begins outside the years 1 to 9999, or ``start`` is not the first of a month
            where months are counted.
    """
    match window:
        case "day":
            return _days_after(start, count)
        case "week":
            return _days_after(start, 7 * count)
        case "month":
            if start.day != 1:
                raise ValueError(f"a month begins on its first day, not on {start}")
            year, month = divmod(start.year * 12 + start.month - 1 + count, 12)
            if not date.min.year <= year <= date.max.year:
                raise ValueError(_OUTSIDE)
            return date(year, month + 1, 1)
        case _:
            assert_never(window)


def period_starts(first: date, last: date, window: Window) -> list[date]:
    """List the first dates of the periods of a range, and of the one that comes next.

    Args:
        first: First date of the first period.
        last: Last date of the last period.
        window: The kind of period.
    """
    starts = [first]
    while starts[-1] <= last:
        starts.append(add_periods(starts[-1], window, 1))
    return starts


def _days_after(day: date, count: int) -> date:
    try:
        return day + timedelta(days=count)
    except OverflowError as error:
        raise ValueError(_OUTSIDE) from error


# Instants


def to_datetime(instant_us: int) -> datetime:
    """Turn an instant into an aware datetime in UTC, exactly.

    Args:
        instant_us: Microseconds since the epoch.

    Returns:
        The same instant; `to_instant` gives the number back.

    Raises:
        ValueError: The instant lies outside the years 1 to 9999.
    """
    try:
        return EPOCH + timedelta(microseconds=instant_us)
    except OverflowError as error:
        raise ValueError("an instant lies outside the years 1 to 9999") from error


def to_instant(moment: datetime) -> int:
    """Turn an aware datetime into an instant, exactly: no float is involved.

    Args:
        moment: A datetime with any offset. A local time that a zone skipped or repeated is read by its
            ``fold`` (PEP 495).

    Returns:
        Microseconds since the epoch.

    Raises:
        ValueError: The datetime is naive: which instant it means cannot be known.
    """
    if moment.utcoffset() is None:
        raise ValueError("a datetime without an offset is not an instant: give it a tzinfo")
    return (moment - EPOCH) // timedelta(microseconds=1)


def format_instant(instant_us: int) -> str:
    """Write an instant as RFC 3339 in UTC, such as ``2026-03-01T09:30:00Z``.

    Args:
        instant_us: Microseconds since the epoch.

    Returns:
        The text, with six fraction digits where the instant is not a whole second and none where it is.

    Raises:
        ValueError: The instant lies outside the years 1 to 9999.
    """
    return to_datetime(instant_us).replace(tzinfo=None).isoformat() + "Z"
