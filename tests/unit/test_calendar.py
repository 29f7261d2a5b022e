"""Local days, weeks and months: the cases that zones are known for, and properties against naive oracles.

The naive oracles ask the standard library which date one instant has (`dated`), look at every half minute of some
days (`scanned`), walk over days one by one, and read from a zone's file when its clocks changed (`recorded_changes`).
Beside the zones of the database there are made-up ones (`a_zone`), with changes that no government has thought of yet.
"""

import io
import struct
import zoneinfo
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, timezone
from functools import cache
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import get_args
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventcore import calendar
from eventcore.calendar import (
    EPOCH,
    Interval,
    Span,
    UnknownZone,
    WeekStart,
    Window,
    add_periods,
    day_spans,
    days_between,
    each_day,
    find_zone,
    format_instant,
    local_date,
    merge,
    on_quarters,
    parse_date,
    period_start,
    to_datetime,
    to_instant,
)

SECOND_US = 1_000_000
HOUR_US = 3_600 * SECOND_US
FIVE_MINUTES_US = 300 * SECOND_US
HALF_MINUTE_US = 30 * SECOND_US  # since 1970, every offset and every change is a multiple of it
DAY = timedelta(days=1)

ZONE_NAMES = sorted(zoneinfo.available_timezones() - {"localtime", "Factory"})


# Factories and oracles


def utc(text: str) -> int:
    """The instant of `2010-11-06T02:30`, in UTC."""
    return (datetime.fromisoformat(text).replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(
        microseconds=1
    )


def a_span(*bounds: str) -> Span:
    return tuple((utc(start), utc(end)) for start, end in zip(bounds[::2], bounds[1::2], strict=True))


def span_of(zone_name: str, day: str) -> Span:
    [span] = day_spans(find_zone(zone_name), date.fromisoformat(day), date.fromisoformat(day))
    return span


def dated(instant_us: int, zone: ZoneInfo) -> date:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=instant_us)).astimezone(zone).date()


def holds(span: Span, instant_us: int) -> bool:
    return any(start_us <= instant_us < end_us for start_us, end_us in span)


def length_us(span: Span) -> int:
    return sum(end_us - start_us for start_us, end_us in span)


def runs(steps: list[int], step: int) -> Span:
    """The intervals that some multiples of `step` make up, each standing for the step after it."""
    intervals: list[Interval] = []
    for start in steps:
        if intervals and intervals[-1][1] == start:
            intervals[-1] = (intervals[-1][0], start + step)
        else:
            intervals.append((start, start + step))
    return tuple(intervals)


def scanned(zone: ZoneInfo, first: date, last: date, *, step_us: int = HALF_MINUTE_US) -> list[Span]:
    """The span of each date, by looking at every step from a day before to a day after."""
    found: dict[date, list[int]] = {}
    for instant_us in range(utc(f"{first - DAY}T00:00"), utc(f"{last + 2 * DAY}T00:00"), step_us):
        found.setdefault(dated(instant_us, zone), []).append(instant_us)
    return [runs(found.get(first + n * DAY, []), step_us) for n in range((last - first).days + 1)]


def a_zone(offset_seconds: int, *changes: tuple[int, int]) -> ZoneInfo:
    """A zone of one offset, and then of each (seconds since the epoch, offset in seconds), as a TZif file has it."""
    offsets = [offset_seconds, *(offset for _, offset in changes)]
    data = b"TZif" + bytes(16) + struct.pack(">6l", 0, 0, 0, len(changes), len(offsets), 4)
    data += struct.pack(f">{len(changes)}l", *(seconds for seconds, _ in changes)) + bytes(range(1, len(offsets)))
    data += b"".join(struct.pack(">lBB", offset, 0, 0) for offset in offsets) + b"ABC\0"
    return ZoneInfo.from_file(io.BytesIO(data))


@cache
def recorded_changes(zone_name: str) -> list[int]:
    """The instants from 1970 on at which the zone's file (TZif, RFC 9636) records a change of its clocks."""
    data = (
        next(
            (path.read_bytes() for root in zoneinfo.TZPATH if (path := Path(root, zone_name)).is_file()),
            None,
        )
        or resources.files("tzdata").joinpath("zoneinfo", *zone_name.split("/")).read_bytes()
    )
    ut, std, leap, times, types, chars = struct.unpack(">6l", data[20:44])
    second = 44 + times * 5 + types * 6 + chars + leap * 8 + std + ut  # where the block of 64-bit times begins
    (count,) = struct.unpack(">l", data[second + 32 : second + 36])
    changes = struct.unpack(f">{count}q", data[second + 44 : second + 44 + 8 * count])
    return [seconds * SECOND_US for seconds in changes if seconds >= 0]


zones = st.sampled_from(ZONE_NAMES).map(find_zone)
dates = st.dates(min_value=date(1970, 1, 1), max_value=date(2110, 12, 31))
windows = st.sampled_from(get_args(Window))
week_starts = st.sampled_from(get_args(WeekStart))


@st.composite
def changes_of_clocks(draw: st.DrawFn) -> tuple[ZoneInfo, int]:
    zone_name = draw(st.sampled_from([name for name in ZONE_NAMES if recorded_changes(name)]))
    return find_zone(zone_name), draw(st.sampled_from(recorded_changes(zone_name)))


@st.composite
def made_up_zones(draw: st.DrawFn) -> ZoneInfo:
    """Up to three offsets that come and go up to six times within four days of the epoch, 13 hours apart or more."""
    offsets = st.sampled_from(draw(st.lists(st.integers(-287, 287).map(lambda n: n * 300), min_size=1, max_size=3)))
    slots = sorted(draw(st.sets(st.integers(-6, 6), max_size=6)))
    late_seconds = st.sampled_from([0, 300, 3_600, 7_200])
    changes = [(slot * 15 * 3_600 + draw(late_seconds), draw(offsets)) for slot in slots]
    return a_zone(draw(offsets), *changes)


@st.composite
def small_spans(draw: st.DrawFn) -> Span:
    bounds = sorted(draw(st.sets(st.integers(-30, 30), max_size=8)))
    return tuple(zip(bounds[: len(bounds) // 2 * 2 : 2], bounds[1::2], strict=True))


# Zones


def test_every_zone_of_the_database_is_found_under_its_name() -> None:
    assert [find_zone(name).key for name in ZONE_NAMES] == ZONE_NAMES


def test_an_old_name_that_the_database_keeps_is_found() -> None:
    assert find_zone("Asia/Calcutta").key == "Asia/Calcutta"


def test_a_zone_found_twice_is_the_same_object() -> None:
    assert find_zone("Europe/Kyiv") is find_zone("Europe/Kyiv")


NOT_ZONES = [
    "",
    " ",
    ".",
    "..",
    "/",
    "Mars/Base",
    "Europe",
    "Europe/",
    "America/Argentina",
    "europe/berlin",
    "EUROPE/BERLIN",
    "utc",
    " UTC",
    "UTC ",
    "UTC\n",
    "UTC\x00",
    "\x00",
    "../../etc/passwd",
    "Europe/../Europe/Berlin",
    "Europe//Berlin",
    "./UTC",
    "/etc/passwd",
    "/usr/share/zoneinfo/UTC",
    "..\\..\\etc\\passwd",
    "C:\\Windows",
    "localtime",
    "posixrules",
    "Factory",
    "posix/UTC",
    "posix/Europe/Berlin",
    "right/UTC",
    "right/Europe/Berlin",
    "zone.tab",
    "tzdata.zi",
    "leapseconds",
    "+02:00",
    "UTC+2",
    "EST5EDT4,M3.2.0,M11.1.0",
    "Europe/Berl\u0456n",
    "\ud800",
    "A" * 100_000,
    "../" * 10_000,
]


@pytest.mark.parametrize("name", NOT_ZONES, ids=lambda name: ascii(name[:32]))
def test_what_is_not_an_iana_name_is_refused(name: str) -> None:
    with pytest.raises(UnknownZone, match="name of the IANA database"):
        find_zone(name)


def test_a_refused_name_never_reaches_the_file_system(monkeypatch: pytest.MonkeyPatch) -> None:
    def touched(*_: object, **__: object) -> None:
        raise AssertionError("the file system was asked")

    find_zone("UTC")  # the list of names is read once
    with monkeypatch.context() as patched:
        patched.setattr("builtins.open", touched)
        patched.setattr("os.path.isfile", touched)
        patched.setattr("os.stat", touched)
        with pytest.raises(UnknownZone):
            find_zone("Europe/Nowhere")


def test_a_refusal_echoes_no_more_than_64_characters() -> None:
    with pytest.raises(UnknownZone) as refusal:
        find_zone("A" * 65)
    assert "A" * 64 in str(refusal.value)
    assert "A" * 65 not in str(refusal.value)


def test_a_zone_removed_from_the_running_machine_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calendar, "_zone_names", lambda: frozenset({"Europe/Removed"}))
    with pytest.raises(UnknownZone, match="Europe/Removed"):
        find_zone("Europe/Removed")


@given(
    st.sampled_from(ZONE_NAMES),
    st.sampled_from(["{}/", "/{}", "./{}", "../zoneinfo/{}", "{}/.", " {}", "{}\n", "{}\x00", "posix/{}", "right/{}"]),
)
@settings(max_examples=100, deadline=None)
def test_a_name_with_anything_around_it_is_refused(name: str, around: str) -> None:
    with pytest.raises(UnknownZone):
        find_zone(around.format(name))


@given(st.sampled_from(ZONE_NAMES).map(str.swapcase).filter(lambda name: name not in ZONE_NAMES))
@settings(max_examples=50, deadline=None)
def test_a_name_with_other_capitals_is_refused(name: str) -> None:
    with pytest.raises(UnknownZone):
        find_zone(name)


# The local date of an instant


@pytest.mark.parametrize(
    ("instant", "zone_name", "day"),
    [
        ("1970-01-01T00:00", "America/New_York", "1969-12-31"),
        ("1970-01-01T00:00", "Asia/Tokyo", "1970-01-01"),
        ("1969-12-31T15:00", "Asia/Tokyo", "1970-01-01"),
        ("2026-03-01T22:59:59.999999", "Europe/Berlin", "2026-03-01"),
        ("2026-03-01T23:00", "Europe/Berlin", "2026-03-02"),
        ("2024-02-29T10:14:59.999999", "Asia/Kathmandu", "2024-02-29"),
        ("2024-02-29T18:15", "Asia/Kathmandu", "2024-03-01"),
        ("2011-12-30T09:59:59.999999", "Pacific/Apia", "2011-12-29"),
        ("2011-12-30T10:00", "Pacific/Apia", "2011-12-31"),
    ],
)
def test_an_instant_has_the_date_that_local_clocks_showed(instant: str, zone_name: str, day: str) -> None:
    assert local_date(utc(instant), find_zone(zone_name)) == date.fromisoformat(day)


@given(zones, st.datetimes(datetime(1960, 1, 1), datetime(2110, 1, 1)))
@settings(max_examples=100, deadline=None)
def test_a_local_date_is_what_the_standard_library_says(zone: ZoneInfo, moment: datetime) -> None:
    instant_us = (moment - datetime(1970, 1, 1)) // timedelta(microseconds=1)
    assert local_date(instant_us, zone) == dated(instant_us, zone)


def test_a_local_time_beyond_the_year_9999_is_refused() -> None:
    with pytest.raises(ValueError, match=r"local time .* outside the years 1 to 9999"):
        local_date(utc("9999-12-31T23:00"), find_zone("Asia/Tokyo"))


def test_a_local_time_before_the_year_1_is_refused() -> None:
    with pytest.raises(ValueError, match=r"local time .* outside the years 1 to 9999"):
        local_date(utc("0001-01-01T00:00"), find_zone("America/New_York"))


# The span of a local day

KNOWN_DAYS = {
    "a day of UTC": ("UTC", "2024-02-29", a_span("2024-02-29T00:00", "2024-03-01T00:00")),
    "the first day of instants": ("Asia/Tokyo", "1970-01-01", a_span("1969-12-31T15:00", "1970-01-01T15:00")),
    "gap, 23 hours": ("Europe/Berlin", "2024-03-31", a_span("2024-03-30T23:00", "2024-03-31T22:00")),
    "fold, 25 hours": ("Europe/Berlin", "2024-10-27", a_span("2024-10-26T22:00", "2024-10-27T23:00")),
    "gap, winter as negative DST": (
        "Europe/Dublin",
        "2024-03-31",
        a_span("2024-03-31T00:00", "2024-03-31T23:00"),
    ),
    "two hours of DST": ("Antarctica/Troll", "2024-03-31", a_span("2024-03-31T00:00", "2024-03-31T22:00")),
    "half an hour of DST ends": (
        "Australia/Lord_Howe",
        "2024-04-07",
        a_span("2024-04-06T13:00", "2024-04-07T13:30"),
    ),
    "half an hour of DST begins": (
        "Australia/Lord_Howe",
        "2024-10-06",
        a_span("2024-10-05T13:30", "2024-10-06T13:00"),
    ),
    "offset of 12:45, fold": (
        "Pacific/Chatham",
        "2024-04-07",
        a_span("2024-04-06T10:15", "2024-04-07T11:15"),
    ),
    "offset of 5:45": ("Asia/Kathmandu", "2024-01-01", a_span("2023-12-31T18:15", "2024-01-01T18:15")),
    "offset 15 minutes later": (
        "Asia/Kathmandu",
        "1986-01-01",
        a_span("1985-12-31T18:30", "1986-01-01T18:15"),
    ),
    "no midnight": ("America/Sao_Paulo", "2018-11-04", a_span("2018-11-04T03:00", "2018-11-05T02:00")),
    "before the missing midnight": (
        "America/Sao_Paulo",
        "2018-11-03",
        a_span("2018-11-03T03:00", "2018-11-04T03:00"),
    ),
    "23:00 twice": ("America/Sao_Paulo", "2018-02-17", a_span("2018-02-17T02:00", "2018-02-18T03:00")),
    "no midnight, Cairo": ("Africa/Cairo", "2023-04-28", a_span("2023-04-27T22:00", "2023-04-28T21:00")),
    "23:00 twice, Cairo": ("Africa/Cairo", "2023-10-26", a_span("2023-10-25T21:00", "2023-10-26T22:00")),
    "gap at 00:01": ("Asia/Gaza", "2010-03-27", a_span("2010-03-26T22:00", "2010-03-27T21:00")),
    "gap at 22:00": ("America/Nuuk", "2024-03-30", a_span("2024-03-30T02:00", "2024-03-31T01:00")),
    "DST off for Ramadan": (
        "Africa/Casablanca",
        "2024-03-10",
        a_span("2024-03-09T23:00", "2024-03-11T00:00"),
    ),
    "a week of DST, Boa Vista": ("America/Boa_Vista", "2000-10-10", a_span("2000-10-10T03:00", "2000-10-11T03:00")),
    "no date, Apia": ("Pacific/Apia", "2011-12-30", ()),
    "before no date, Apia": ("Pacific/Apia", "2011-12-29", a_span("2011-12-29T10:00", "2011-12-30T10:00")),
    "after no date, Apia": ("Pacific/Apia", "2011-12-31", a_span("2011-12-30T10:00", "2011-12-31T10:00")),
    "no date, Kwajalein": ("Pacific/Kwajalein", "1993-08-21", ()),
    "before no date, Kwajalein": (
        "Pacific/Kwajalein",
        "1993-08-20",
        a_span("1993-08-20T12:00", "1993-08-21T12:00"),
    ),
    "after no date, Kwajalein": (
        "Pacific/Kwajalein",
        "1993-08-22",
        a_span("1993-08-21T12:00", "1993-08-22T12:00"),
    ),
    "no date, Kiritimati": ("Pacific/Kiritimati", "1994-12-31", ()),
    "a day and 59 minutes of it again": (
        "America/St_Johns",
        "2010-11-06",
        a_span("2010-11-06T02:30", "2010-11-07T02:30", "2010-11-07T02:31", "2010-11-07T03:30"),
    ),
    "a minute, and later the day": (
        "America/St_Johns",
        "2010-11-07",
        a_span("2010-11-07T02:30", "2010-11-07T02:31", "2010-11-07T03:30", "2010-11-08T03:30"),
    ),
    "gap at 00:01, St John's": (
        "America/St_Johns",
        "2011-03-13",
        a_span("2011-03-13T03:30", "2011-03-14T02:30"),
    ),
    "offset of -0:44:30": (
        "Africa/Monrovia",
        "1971-06-01",
        a_span("1971-06-01T00:44:30", "1971-06-02T00:44:30"),
    ),
    "offset of -0:44:30 ends": (
        "Africa/Monrovia",
        "1972-01-07",
        a_span("1972-01-07T00:44:30", "1972-01-08T00:00"),
    ),
}


@pytest.mark.parametrize(("zone_name", "day", "span"), KNOWN_DAYS.values(), ids=KNOWN_DAYS.keys())
def test_a_local_day_is_exactly_its_instants(zone_name: str, day: str, span: Span) -> None:
    assert span_of(zone_name, day) == span


def test_there_is_one_span_for_every_date_of_the_range() -> None:
    assert day_spans(find_zone("Pacific/Apia"), date(2011, 12, 29), date(2012, 1, 1)) == [
        a_span("2011-12-29T10:00", "2011-12-30T10:00"),
        (),
        a_span("2011-12-30T10:00", "2011-12-31T10:00"),
        a_span("2011-12-31T10:00", "2012-01-01T10:00"),
    ]


def test_a_range_that_ends_before_it_begins_has_no_spans() -> None:
    assert day_spans(find_zone("UTC"), date(2024, 1, 2), date(2024, 1, 1)) == []


def test_a_day_of_a_long_range_is_the_day_asked_for_alone() -> None:
    zone, first, last = find_zone("America/St_Johns"), date(2004, 1, 1), date(2011, 12, 31)
    assert day_spans(zone, first, last) == [
        day_spans(zone, day, day)[0] for day in (first + n * DAY for n in range((last - first).days + 1))
    ]


@given(changes_of_clocks())
@settings(max_examples=60, deadline=None)
def test_days_around_a_change_of_clocks_are_what_a_scan_of_every_half_minute_finds(
    change: tuple[ZoneInfo, int],
) -> None:
    zone, change_us = change
    day = dated(change_us, zone)
    assert day_spans(zone, day - DAY, day + DAY) == scanned(zone, day - DAY, day + DAY)


@given(made_up_zones())
@settings(max_examples=100, deadline=None)
def test_days_of_any_zone_that_could_be_are_what_a_scan_finds(zone: ZoneInfo) -> None:
    first, last = date(1969, 12, 27), date(1970, 1, 6)
    assert day_spans(zone, first, last) == scanned(zone, first, last, step_us=FIVE_MINUTES_US)


def test_a_date_in_three_pieces_has_three_intervals() -> None:
    zone = a_zone(0, (86_700, -86_100), (129_900, 0), (173_100, -86_100), (216_300, 0))
    assert day_spans(zone, date(1970, 1, 2), date(1970, 1, 2)) == scanned(zone, date(1970, 1, 2), date(1970, 1, 2))


def test_no_zone_changes_its_clocks_twice_within_two_days_as_finding_the_changes_relies_on() -> None:
    changes = {name: recorded_changes(name) for name in ZONE_NAMES}
    close = [n for n, instants in changes.items() if any(b - a < 48 * HOUR_US for a, b in pairwise(instants))]
    assert close == []


@given(zones, dates)
@settings(max_examples=40, deadline=None)
def test_any_day_is_what_a_scan_of_every_half_minute_finds(zone: ZoneInfo, day: date) -> None:
    assert day_spans(zone, day, day) == scanned(zone, day, day)


@given(zones, dates, st.integers(-3 * 24 * HOUR_US, 3 * 24 * HOUR_US))
@settings(max_examples=200, deadline=None)
def test_an_instant_lies_in_the_span_of_its_local_date_and_in_no_other(zone: ZoneInfo, day: date, near_us: int) -> None:
    instant_us = utc(f"{day}T12:00") + near_us
    days = [day + n * DAY for n in range(-5, 6)]
    spans = day_spans(zone, days[0], days[-1])
    assert [d for d, span in zip(days, spans, strict=True) if holds(span, instant_us)] == [dated(instant_us, zone)]


@given(changes_of_clocks(), st.integers(-2 * SECOND_US, 2 * SECOND_US))
@settings(max_examples=200, deadline=None)
def test_an_instant_beside_a_change_of_clocks_lies_in_the_span_of_its_local_date(
    change: tuple[ZoneInfo, int], near_us: int
) -> None:
    zone, change_us = change
    instant_us = change_us + near_us
    day = dated(instant_us, zone)
    spans = day_spans(zone, day - DAY, day + DAY)
    assert [holds(span, instant_us) for span in spans] == [False, True, False]


@given(zones, dates, st.integers(0, 800))
@settings(max_examples=60, deadline=None)
def test_consecutive_days_leave_no_instant_out_and_none_twice(zone: ZoneInfo, first: date, more_days: int) -> None:
    spans = day_spans(zone, first, first + more_days * DAY)
    [(start_us, end_us)] = merge(spans) or ((0, 0),)
    assert sum(length_us(span) for span in spans) == end_us - start_us


@given(changes_of_clocks())
@settings(max_examples=60, deadline=None)
def test_the_intervals_of_a_day_are_in_order_and_do_not_touch(change: tuple[ZoneInfo, int]) -> None:
    zone, change_us = change
    day = dated(change_us, zone)
    for span in day_spans(zone, day - DAY, day + DAY):
        bounds = [bound for interval in span for bound in interval]
        assert all(before < after for before, after in pairwise(bounds))


@pytest.mark.parametrize("zone_name", ["UTC", "Pacific/Kiritimati", "Etc/GMT+12", "Asia/Gaza", "Africa/Casablanca"])
def test_the_last_day_there_is_has_its_span(zone_name: str) -> None:
    zone = find_zone(zone_name)
    [[(start_us, end_us)]] = day_spans(zone, calendar.LATEST_DATE, calendar.LATEST_DATE)
    assert [dated(instant_us, zone) for instant_us in (start_us - 1, start_us, end_us - 1, end_us)] == [
        date(9998, 12, 30),
        date(9998, 12, 31),
        date(9998, 12, 31),
        date(9999, 1, 1),
    ]


def test_a_local_time_long_before_zones_has_its_span() -> None:
    assert span_of("Asia/Tokyo", "0002-01-01") == a_span("0001-12-31T14:41:01", "0002-01-01T14:41:01")


@pytest.mark.parametrize(
    ("first", "last"),
    [
        (date(9998, 12, 31), date(9999, 1, 1)),
        (date.max, date.max),
        (date.max, date.min),
        (date(1, 12, 31), date(2, 1, 1)),
        (date.min, date.min),
    ],
)
def test_days_at_the_ends_of_what_datetimes_hold_are_refused(first: date, last: date) -> None:
    with pytest.raises(ValueError, match="from 0002-01-01 to 9998-12-31"):
        day_spans(find_zone("UTC"), first, last)


# Quarters


@pytest.mark.parametrize(
    ("zone_name", "day"),
    [
        ("UTC", "2024-01-01"),
        ("Asia/Kathmandu", "2024-01-01"),
        ("Pacific/Chatham", "2024-04-07"),
        ("America/St_Johns", "2010-11-05"),
        ("America/St_Johns", "2011-03-13"),
        ("Africa/Monrovia", "1972-01-08"),
        ("Pacific/Apia", "2011-12-30"),
    ],
)
def test_a_day_bounded_by_quarter_hours_is_on_quarters(zone_name: str, day: str) -> None:
    assert on_quarters(span_of(zone_name, day))


@pytest.mark.parametrize(
    ("zone_name", "day"),
    [
        ("America/St_Johns", "2010-11-06"),
        ("America/St_Johns", "2010-11-07"),
        ("Africa/Monrovia", "1971-06-01"),
        ("Africa/Monrovia", "1972-01-07"),
        ("Pacific/Kiritimati", "1975-01-01"),
    ],
)
def test_a_day_that_changes_off_the_quarter_hour_is_not_on_quarters(zone_name: str, day: str) -> None:
    assert not on_quarters(span_of(zone_name, day))


@pytest.mark.parametrize("span", [((0, 1),), ((1, 900_000_000),), ((0, 900_000_000), (1_800_000_000, 1_800_000_001))])
def test_one_bound_off_by_a_microsecond_is_not_on_quarters(span: Span) -> None:
    assert not on_quarters(span)


# Merging


def test_days_that_touch_merge_into_one_interval() -> None:
    zone = find_zone("America/St_Johns")
    assert merge(day_spans(zone, date(2010, 11, 1), date(2010, 11, 30))) == a_span(
        "2010-11-01T02:30", "2010-12-01T03:30"
    )


def test_days_that_do_not_touch_stay_apart() -> None:
    assert merge([((10, 20),), ((0, 5),), ()]) == ((0, 5), (10, 20))


def test_an_interval_inside_another_adds_nothing() -> None:
    assert merge([((0, 10),), ((2, 3),), ((4, 10),)]) == ((0, 10),)


def test_nothing_merges_into_the_empty_span() -> None:
    assert merge([]) == ()


@given(st.lists(small_spans(), max_size=6))
@settings(max_examples=200, deadline=None)
def test_a_merged_span_holds_what_any_of_its_parts_holds(spans: list[Span]) -> None:
    held = sorted({instant for span in spans for start, end in span for instant in range(start, end)})
    assert merge(spans) == runs(held, 1)


# Ranges of dates


@pytest.mark.parametrize(
    ("first", "last", "count"),
    [
        (date(2024, 1, 1), date(2024, 1, 1), 1),
        (date(2024, 1, 1), date(2024, 12, 31), 366),
        (date(2024, 1, 2), date(2024, 1, 1), 0),
        (date(2024, 2, 1), date(2024, 1, 1), 0),
        (date.min, date.max, 3_652_059),
    ],
)
def test_days_are_counted_with_both_ends(first: date, last: date, count: int) -> None:
    assert days_between(first, last) == count


def test_each_day_goes_over_the_leap_day() -> None:
    assert list(each_day(date(2024, 2, 28), date(2024, 3, 1))) == [
        date(2024, 2, 28),
        date(2024, 2, 29),
        date(2024, 3, 1),
    ]


def test_each_day_goes_up_to_the_last_date_there_is() -> None:
    assert list(each_day(date(9999, 12, 30), date.max)) == [date(9999, 12, 30), date.max]


@given(dates, st.integers(-40, 40))
@settings(max_examples=50, deadline=None)
def test_counting_walking_and_spans_agree_on_how_many_days_there_are(first: date, distance: int) -> None:
    last = first + distance * DAY
    walked = list(each_day(first, last))
    assert [days_between(first, last), len(day_spans(find_zone("UTC"), first, last))] == [len(walked)] * 2


# Periods


@pytest.mark.parametrize(
    ("window", "week_start", "start"),
    [
        ("day", "monday", date(2024, 3, 2)),
        ("week", "monday", date(2024, 2, 26)),
        ("week", "sunday", date(2024, 2, 25)),
        ("week", "saturday", date(2024, 3, 2)),
        ("month", "sunday", date(2024, 3, 1)),
    ],
)
def test_the_period_that_holds_a_saturday_starts_where_its_kind_says(
    window: Window, week_start: WeekStart, start: date
) -> None:
    assert period_start(date(2024, 3, 2), window, week_start) == start


@given(dates, windows, week_starts)
@settings(max_examples=150, deadline=None)
def test_a_period_starts_at_the_nearest_first_day_looking_back(
    day: date, window: Window, week_start: WeekStart
) -> None:
    is_first: dict[str, Callable[[date], bool]] = {
        "day": lambda _: True,
        "week": lambda d: f"{d:%A}".lower() == week_start,
        "month": lambda d: d.day == 1,
    }
    start = day
    while not is_first[window](start):
        start -= DAY
    assert period_start(day, window, week_start) == start


@given(dates, windows, week_starts, st.integers(0, 30))
@settings(max_examples=150, deadline=None)
def test_adding_periods_is_walking_over_their_days(
    day: date, window: Window, week_start: WeekStart, count: int
) -> None:
    start = period_start(day, window, week_start)
    walked = start
    for _ in range(count):
        walked += DAY
        while period_start(walked, window, week_start) != walked:
            walked += DAY
    assert add_periods(start, window, count) == walked


@given(dates, windows, week_starts, st.integers(-300, 300))
@settings(max_examples=100, deadline=None)
def test_periods_added_and_taken_away_lead_back(day: date, window: Window, week_start: WeekStart, count: int) -> None:
    start = period_start(day, window, week_start)
    assert add_periods(add_periods(start, window, count), window, -count) == start


def test_months_are_added_over_the_turn_of_the_year() -> None:
    assert [add_periods(date(2023, 12, 1), "month", count) for count in (-12, -1, 0, 1, 2, 14)] == [
        date(2022, 12, 1),
        date(2023, 11, 1),
        date(2023, 12, 1),
        date(2024, 1, 1),
        date(2024, 2, 1),
        date(2025, 2, 1),
    ]


def test_months_are_not_added_to_a_day_inside_a_month() -> None:
    with pytest.raises(ValueError, match="begins on its first day, not on 2024-01-31"):
        add_periods(date(2024, 1, 31), "month", 1)


@pytest.mark.parametrize(
    ("start", "window", "count"),
    [
        (date.max, "day", 1),
        (date(9999, 12, 27), "week", 1),
        (date(9999, 12, 1), "month", 1),
        (date.min, "day", -1),
        (date.min, "week", -1),
        (date.min, "month", -1),
        (date(2024, 1, 1), "day", 10**18),
        (date(2024, 1, 1), "week", 10**30),
        (date(2024, 1, 1), "month", 10**30),
    ],
)
def test_a_period_outside_the_years_1_to_9999_is_refused(start: date, window: Window, count: int) -> None:
    with pytest.raises(ValueError, match="outside the years 1 to 9999"):
        add_periods(start, window, count)


def test_a_week_that_begins_before_the_year_1_is_refused() -> None:
    with pytest.raises(ValueError, match="outside the years 1 to 9999"):
        period_start(date.min, "week", "sunday")


# Dates as people type them


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("2024-02-29", date(2024, 2, 29)),
        ("1969-12-31", date(1969, 12, 31)),
        ("1970-01-01", date(1970, 1, 1)),
        ("9998-12-31", date(9998, 12, 31)),
    ],
)
def test_a_calendar_date_is_read(text: str, day: date) -> None:
    assert parse_date(text) == day


@pytest.mark.parametrize(
    "text",
    [
        "",
        "today",
        "2024-2-29",
        "24-02-29",
        "20240229",
        "2024-060",
        "2024-W09-4",
        "2024W094",
        "2024/02/29",
        "29-02-2024",
        "2024-02-29T00:00:00Z",
        "2024-02-29Z",
        " 2024-02-29",
        "2024-02-29 ",
        "2024-02-29\n",
        "2024-02-29\x00",
        "+2024-02-29",
        "-2024-02-29",
        "\uff12\uff10\uff12\uff14-02-29",
        "2024-0\u0662-29",
        "2024\u201302\u201329",
        "\ud800",
        "1" * 100_000,
        "2026-02-30",
        "2023-02-29",
        "2024-00-01",
        "2024-13-01",
        "2024-01-00",
        "0000-01-01",
        "0001-01-01",
        "1969-12-30",
        "9999-01-01",
        "10000-01-01",
    ],
    ids=lambda text: ascii(text[:32]),
)
def test_what_is_not_a_date_of_the_range_is_refused_saying_what_is_accepted(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"^a date is written YYYY-MM-DD, exists, and lies from 1969-12-31 to 9998-12-31$"
    ):
        parse_date(text)


@given(st.dates(min_value=calendar.EARLIEST_DATE, max_value=calendar.LATEST_DATE))
@settings(max_examples=50, deadline=None)
def test_every_date_of_the_range_is_read_as_it_is_written(day: date) -> None:
    assert parse_date(day.isoformat()) == day


# Instants


def test_instant_0_is_the_epoch() -> None:
    assert to_datetime(0) == EPOCH == datetime(1970, 1, 1, tzinfo=UTC)


def test_an_instant_is_a_datetime_in_utc() -> None:
    assert to_datetime(-1).isoformat() == "1969-12-31T23:59:59.999999+00:00"


@given(st.integers(utc("0001-01-01T00:00"), utc("9999-12-31T23:59:59.999999")))
@settings(max_examples=100, deadline=None)
def test_an_instant_comes_back_exactly_from_its_datetime(instant_us: int) -> None:
    assert to_instant(to_datetime(instant_us)) == instant_us


@given(zones, st.integers(utc("1960-01-01T00:00"), utc("2110-01-01T00:00")))
@settings(max_examples=100, deadline=None)
def test_an_instant_comes_back_exactly_from_its_local_datetime(zone: ZoneInfo, instant_us: int) -> None:
    assert to_instant(to_datetime(instant_us).astimezone(zone)) == instant_us


def test_the_hour_that_clocks_repeat_is_told_apart_by_its_fold() -> None:
    repeated = datetime(2024, 10, 27, 2, 30, tzinfo=find_zone("Europe/Berlin"))
    assert [to_instant(repeated), to_instant(repeated.replace(fold=1))] == [
        utc("2024-10-27T00:30"),
        utc("2024-10-27T01:30"),
    ]


def test_an_instant_at_the_edge_of_datetimes_is_exact_with_any_offset() -> None:
    assert to_instant(datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))) == utc("0001-01-01T00:00") - 14 * HOUR_US


def test_a_naive_datetime_is_not_an_instant() -> None:
    with pytest.raises(ValueError, match="without an offset is not an instant"):
        to_instant(datetime(2024, 1, 1))


@pytest.mark.parametrize("instant_us", [utc("9999-12-31T23:59:59.999999") + 1, utc("0001-01-01T00:00") - 1, 10**30])
@pytest.mark.parametrize(
    "use", [to_datetime, format_instant, lambda instant_us: local_date(instant_us, find_zone("UTC"))]
)
def test_an_instant_outside_the_years_1_to_9999_is_refused(use: Callable[[int], object], instant_us: int) -> None:
    with pytest.raises(ValueError, match="outside the years 1 to 9999"):
        use(instant_us)


@pytest.mark.parametrize(
    ("instant_us", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1, "1970-01-01T00:00:00.000001Z"),
        (-1, "1969-12-31T23:59:59.999999Z"),
        (500_000, "1970-01-01T00:00:00.500000Z"),
        (utc("2026-03-01T09:30"), "2026-03-01T09:30:00Z"),
        (utc("0001-01-01T00:00"), "0001-01-01T00:00:00Z"),
    ],
)
def test_an_instant_is_written_as_rfc_3339_with_a_fraction_only_where_there_is_one(instant_us: int, text: str) -> None:
    assert format_instant(instant_us) == text


@given(st.integers(0, utc("9999-12-31T23:59:59.999999")))
@settings(max_examples=50, deadline=None)
def test_a_written_instant_reads_back_as_itself(instant_us: int) -> None:
    assert to_instant(datetime.fromisoformat(format_instant(instant_us))) == instant_us
