"""The naive oracle's calendar: local dates, days, weeks, months, and the hours of a local date.

Where the definitions leave a choice open, this is the reading taken here.

* Ranges, rolling windows, weeks and months are sets of calendar dates. A date that the zone skipped is a date like any
  other: it is listed, it takes a place in a rolling window or a week, it can be a cohort, a window or the period right
  before another, and it has no events and no hours.
* `first` after `last` is an empty range, not an error, and does not widen.
* Weeks may start on any of the seven days, by English name in lower case.
* An hour can be a minute long, or half an hour, where clocks change inside it. Hours of one date need not stand
  together: those of the next one can come in between (America/St_Johns until 2010).
"""

from datetime import UTC, date, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

Period = tuple[date, date]  # first and last date, both inside
Hour = tuple[date, int, timedelta]  # local date, hour of the clock, UTC offset

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def local_date(instant: datetime, zone: ZoneInfo) -> date:
    """The date that clocks in the zone show at an instant."""
    if instant.utcoffset() is None:
        raise ValueError(f"no offset: {instant}")
    return instant.astimezone(zone).date()


def dates_between(first: date, last: date) -> list[date]:
    """Every date of a range."""
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]


def period(start_date: date, number: int, kind: str, week_start: str) -> Period:
    """The dates of the `number`-th day, week or month after the one that holds `start_date`."""
    if kind == "day":
        first = start_date + timedelta(days=number)
        return first, first
    if kind == "week":
        days_into_week = (start_date.weekday() - WEEKDAYS.index(week_start)) % 7
        first = start_date - timedelta(days=days_into_week) + timedelta(days=7 * number)
        return first, first + timedelta(days=6)
    if kind == "month":
        first = _first_of_month(start_date, number)
        return first, _first_of_month(start_date, number + 1) - timedelta(days=1)
    raise ValueError(f"not a window: {kind}")


def periods_over(first: date, last: date, kind: str, week_start: str) -> list[Period]:
    """The whole periods that hold the dates of a range, one after the other."""
    if first > last:
        return []
    found = [period(first, 0, kind, week_start)]
    while found[-1][1] < last:
        found.append(period(first, len(found), kind, week_start))
    return found


def _first_of_month(day: date, months_later: int) -> date:
    months = day.month - 1 + months_later
    return date(day.year + months // 12, months % 12 + 1, 1)


def hour_of(instant: datetime, zone: ZoneInfo) -> Hour:
    """The local hour that holds an instant."""
    shown = instant.astimezone(zone)
    offset = shown.utcoffset()
    if offset is None:
        raise ValueError(f"no offset: {instant}")
    return shown.date(), shown.hour, offset


@cache
def hours_between(first: date, last: date, tz: str) -> dict[Hour, str]:
    """Every hour of the dates of a range, in order of time, with the local time of its first instant.

    Looks at the clock once a minute, and every second of a minute in which the hour changed. (Clocks change on whole
    seconds, and never twice within a minute.) No offset is as long as a day.
    """
    zone = ZoneInfo(tz)
    instant = datetime(first.year, first.month, first.day, tzinfo=UTC) - timedelta(days=1)
    end = datetime(last.year, last.month, last.day, tzinfo=UTC) + timedelta(days=2)
    found: dict[Hour, str] = {}
    shown_before = hour_of(instant, zone)
    while instant < end:
        next_minute = instant + timedelta(minutes=1)
        if hour_of(next_minute, zone) != shown_before:
            second = instant
            while second < next_minute:
                second += timedelta(seconds=1)
                hour = hour_of(second, zone)
                if first <= hour[0] <= last and hour not in found:
                    found[hour] = second.astimezone(zone).isoformat()
        instant = next_minute
        shown_before = hour_of(instant, zone)
    return found
