"""The naive oracle: every statistic recomputed from plain events, straight from the definitions.

It is for tests only: what the real implementation answers must equal what this module answers. It
is written from the design (sections 5 and 6) alone, shares no code with eventcore, and is slow on
purpose: each statistic walks a list of events. It is not for validating events or parameters:
events are those that ingestion accepts, in the order of arrival, and a limit or a range that HTTP
would refuse is not refused here.

An event is a dict {"event_id", "user_id", "event_type", "occurred_at", "properties"}.

Where the definitions leave a choice open, this is the reading taken here.

Events
* Every statistic counts an event_id once (`unique`): a list with repeats gives the same answer as
  one without.
* All data means all data: events after `now` count like any others.

Segments
* The field ends at the first ":" or "=", so a value may hold both and a property key neither.
* Only `event_type` and `properties.<key>` are fields; anything else, or no separator, is a
  ValueError.
* A property that is absent, an array or an object matches nothing. Absent is not null.
* The text "3" matches the number 3 and the string "3"; "null" matches null and the string "null".
* A number matches when the text is a JSON number of exactly the same decimal value: 1, 1.0 and
  1e0 are one number; 01, +1 and " 1" are no JSON numbers. A float has the value of its shortest
  decimal spelling (0.1 is a tenth).

Dates
* Ranges, rolling windows, weeks and months are sets of calendar dates. A date that the zone
  skipped is a date like any other: it is listed, it takes a place in a rolling window or a week, it
  can be a cohort or a window, and it has no events.
* `first` after `last` is an empty range, not an error.

Top events
* `share` divides by the events of the range that match the segments, also those of types beyond
  `limit`.

Retention
* A user's first event is the earliest instant, not the earliest local date. They differ where
  clocks went back over midnight (America/St_Johns until 2010): the later instant can have the
  earlier date.
* `cohort_event` and `return_event` of None mean any event. Segments filter both.
* `first_in_range` looks for the first cohort event from the first date of the first cohort period
  to the last date of the last one.
* Whether a window has begun or is complete is decided by its own dates and the local date of
  `now`. So under `on_or_after` a complete cell can still grow while later windows run, and return
  events in windows not yet begun count.
* A cohort whose own period has not begun is listed, with its size and with null for every cell.
* The overall row has an entry for every window asked; without a complete cell it is
  {"users": 0, "size": 0, "rate": None}.
* Weeks may start on any of the seven days, by English name in lower case.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Literal
from zoneinfo import ZoneInfo

Event = Mapping[str, Any]
Row = dict[str, Any]
Period = tuple[date, date]  # first and last date, both inside

MONTHLY_DATES = 30
WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
JSON_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def unique(events: Iterable[Event]) -> list[Event]:
    """The first event of each event_id, in order of arrival; upper and lower case are one id."""
    first_by_id: dict[str, Event] = {}
    for event in events:
        first_by_id.setdefault(event["event_id"].lower(), event)
    return list(first_by_id.values())


def matches(event: Event, segments: Sequence[str]) -> bool:
    """Whether this one event fulfils every segment."""
    return all(_matches_one(event, segment) for segment in segments)


def dau(events: Iterable[Event], *, first: date, last: date, tz: str, segments: Sequence[str] = ()) -> list[Row]:
    """Distinct users of every date of the range."""
    return active_users(events, first=first, last=last, tz=tz, window_days=1, segments=segments)


def active_users(
    events: Iterable[Event],
    *,
    first: date,
    last: date,
    tz: str,
    window_days: int,
    segments: Sequence[str] = (),
) -> list[Row]:
    """Distinct users of the `window_days` dates that end with each date of the range."""
    sightings = _sightings(events, tz, segments)
    rows = []
    for day in _dates(first, last):
        users = _users_between(sightings, day - timedelta(days=window_days - 1), day)
        rows.append({"date": day.isoformat(), "users": len(users)})
    return rows


def stickiness(events: Iterable[Event], *, first: date, last: date, tz: str, segments: Sequence[str] = ()) -> list[Row]:
    """Users of each date as a part of the users of the 30 dates that end with it."""
    sightings = _sightings(events, tz, segments)
    rows = []
    for day in _dates(first, last):
        daily = len(_users_between(sightings, day, day))
        monthly = len(_users_between(sightings, day - timedelta(days=MONTHLY_DATES - 1), day))
        rows.append(
            {
                "date": day.isoformat(),
                "dau": daily,
                "mau": monthly,
                "stickiness": _ratio(daily, monthly),
            }
        )
    return rows


def top_events(
    events: Iterable[Event],
    *,
    first: date,
    last: date,
    tz: str,
    limit: int = 10,
    segments: Sequence[str] = (),
) -> list[Row]:
    """The most frequent event types of the range; equal counts stand in code point order of the name."""
    in_range = [seen for seen in _sightings(events, tz, segments) if first <= seen.local_date <= last]
    rows: list[Row] = []
    for event_type in {seen.event_type for seen in in_range}:
        of_type = [seen for seen in in_range if seen.event_type == event_type]
        rows.append(
            {
                "event_type": event_type,
                "count": len(of_type),
                "users": len({seen.user_id for seen in of_type}),
                "share": len(of_type) / len(in_range),
            }
        )
    rows.sort(key=lambda row: (-row["count"], row["event_type"]))
    return rows[:limit]


def retention(
    events: Iterable[Event],
    *,
    start_date: date,
    windows: int = 3,
    window: Literal["day", "week", "month"] = "day",
    week_start: str = "monday",
    cohorts: int | None = None,
    cohort: Literal["first_ever", "first_in_range", "recurring"] = "first_ever",
    return_mode: Literal["on", "on_or_after"] = "on",
    cohort_event: str | None = None,
    return_event: str | None = None,
    tz: str,
    now: datetime,
    segments: Sequence[str] = (),
) -> dict[str, list[Row]]:
    """The matrix of cohorts and windows 0 to `windows`, and the row that pools its complete cells.

    Window k of cohort c is the calendar period c + k, counted from the period that holds `start_date`.
    """
    cohort_count = windows + 1 if cohorts is None else cohorts
    periods = [_period(start_date, number, window, week_start) for number in range(cohort_count + windows)]
    today = _local_date(now, ZoneInfo(tz))

    sightings = _sightings(events, tz, segments)
    cohort_sightings = [seen for seen in sightings if cohort_event in (None, seen.event_type)]
    return_sightings = [seen for seen in sightings if return_event in (None, seen.event_type)]
    members = _cohort_members(cohort_sightings, periods[:cohort_count], cohort)
    returned = [_users_between(return_sightings, first, last) for first, last in periods]

    rows = []
    for number in range(cohort_count):
        cells: list[Row | None] = []
        for k in range(windows + 1):
            first, last = periods[number + k]
            if first > today:
                cells.append(None)
                continue
            users = members[number] & _returners(returned, number + k, number + windows, return_mode)
            cells.append(
                {
                    "window": k,
                    "users": len(users),
                    "rate": _ratio(len(users), len(members[number])),
                    "complete": last < today,
                }
            )
        rows.append({"start": periods[number][0].isoformat(), "size": len(members[number]), "cells": cells})
    return {"cohorts": rows, "overall": [_pool_complete_cells(rows, k) for k in range(windows + 1)]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """A user did something at an instant, which is a date in the zone asked for."""

    user_id: str
    event_type: str
    instant: datetime
    local_date: date


def _sightings(events: Iterable[Event], tz: str, segments: Sequence[str]) -> list[Sighting]:
    zone = ZoneInfo(tz)
    sightings = []
    for event in unique(events):
        if matches(event, segments):
            instant = datetime.fromisoformat(event["occurred_at"].upper())
            sightings.append(
                Sighting(
                    user_id=event["user_id"],
                    event_type=event["event_type"],
                    instant=instant.astimezone(UTC),
                    local_date=_local_date(instant, zone),
                )
            )
    return sightings


def _local_date(instant: datetime, zone: ZoneInfo) -> date:
    if instant.utcoffset() is None:
        raise ValueError(f"no offset: {instant}")
    return instant.astimezone(zone).date()


def _matches_one(event: Event, segment: str) -> bool:
    parsed = re.fullmatch(r"(event_type|properties\.([^:=]*))[:=](.*)", segment, re.DOTALL)
    if parsed is None:
        raise ValueError(f"not a segment: {segment}")
    field, key, text = parsed.groups()
    if field == "event_type":
        return bool(event["event_type"] == text)
    return key in event["properties"] and _is_spelled(event["properties"][key], text)


def _is_spelled(value: object, text: str) -> bool:
    if isinstance(value, str):
        return value == text
    if value is None:
        return text == "null"
    if isinstance(value, bool):
        return text == ("true" if value else "false")
    if isinstance(value, int | float):
        return JSON_NUMBER.fullmatch(text) is not None and Decimal(text) == Decimal(repr(value))
    return False


def _dates(first: date, last: date) -> list[date]:
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]


def _users_between(sightings: Iterable[Sighting], first: date, last: date) -> set[str]:
    return {seen.user_id for seen in sightings if first <= seen.local_date <= last}


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _period(start_date: date, number: int, window: str, week_start: str) -> Period:
    """The dates of the `number`-th day, week or month after the one that holds `start_date`."""
    if window == "day":
        first = start_date + timedelta(days=number)
        return first, first
    if window == "week":
        days_into_week = (start_date.weekday() - WEEKDAYS.index(week_start)) % 7
        first = start_date - timedelta(days=days_into_week) + timedelta(days=7 * number)
        return first, first + timedelta(days=6)
    if window == "month":
        first = _first_of_month(start_date, number)
        return first, _first_of_month(start_date, number + 1) - timedelta(days=1)
    raise ValueError(f"not a window: {window}")


def _first_of_month(day: date, months_later: int) -> date:
    months = day.month - 1 + months_later
    return date(day.year + months // 12, months % 12 + 1, 1)


def _cohort_members(sightings: list[Sighting], periods: list[Period], cohort: str) -> list[set[str]]:
    """The users of each cohort period."""
    if cohort == "first_ever":
        counted = _first_of_each_user(sightings)
    elif cohort == "first_in_range":
        in_range = [seen for seen in sightings if any(first <= seen.local_date <= last for first, last in periods)]
        counted = _first_of_each_user(in_range)
    elif cohort == "recurring":
        counted = sightings
    else:
        raise ValueError(f"not a kind of cohort: {cohort}")
    return [_users_between(counted, first, last) for first, last in periods]


def _first_of_each_user(sightings: list[Sighting]) -> list[Sighting]:
    first_by_user: dict[str, Sighting] = {}
    for seen in sightings:
        known = first_by_user.get(seen.user_id)
        if known is None or seen.instant < known.instant:
            first_by_user[seen.user_id] = seen
    return list(first_by_user.values())


def _returners(returned: list[set[str]], this: int, last_asked: int, return_mode: str) -> set[str]:
    """The users who came back in period `this`, or up to the last window asked of their cohort."""
    if return_mode == "on":
        return returned[this]
    if return_mode == "on_or_after":
        return set().union(*returned[this : last_asked + 1])
    raise ValueError(f"not a return mode: {return_mode}")


def _pool_complete_cells(rows: list[Row], k: int) -> Row:
    complete = [row for row in rows if row["cells"][k] is not None and row["cells"][k]["complete"]]
    users = sum(row["cells"][k]["users"] for row in complete)
    size = sum(row["size"] for row in complete)
    return {"window": k, "users": users, "size": size, "rate": _ratio(users, size)}
