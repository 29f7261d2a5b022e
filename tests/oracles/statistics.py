"""The naive oracle: every statistic recomputed from plain events, straight from the definitions.

It is for tests only: what the real implementation answers must equal what this module answers. It
is written from the definitions alone, shares no code with eventcore, and is slow on
purpose: each statistic walks a list of events. It is not for validating events or parameters:
events are those that ingestion accepts, in the order of arrival, and a limit or a range that HTTP
would refuse is not refused here.

How conditions and breakdown values are read stands in `matching`, dates and hours in `periods`;
`answering` asks all this with the parameters of HTTP, and knows breakdowns.

An event is a dict {"event_id", "user_id", "event_type", "occurred_at", "properties"}; properties
are a dict, or its JSON text.

Where the definitions leave a choice open, this is the reading taken here.

Events
* Every statistic counts an event_id once (`unique`): a list with repeats gives the same answer as
  one without.
* All data means all data: events after `now` count like any others, also in periods that have not
  begun.

Lifecycle
* The period right before the first of the range lies outside it, and its users are counted all the
  same.

Top events
* `share` divides by the events of the range that match the segments, also those of types beyond
  `limit`. In a group of a breakdown it divides by the events of that group.

Retention
* A user's first event is that on the earliest local date. `retention` itself, called without
  `first_by="date"`, goes by the earliest instant. They differ where clocks went back over midnight
  (America/St_Johns until 2010): the later instant can have the earlier date.
* `cohort_event` and `return_event` of None mean any event. Segments filter both.
* `first_in_range` looks for the first cohort event from the first date of the first cohort period
  to the last date of the last one.
* Whether a window has begun or is complete is decided by its own dates and the local date of
  `now`. So under `on_or_after` a complete cell can still grow while later windows run, and return
  events in windows not yet begun count, also in those of a bracket.
* A cohort whose own period has not begun is listed, with its size and with null for every cell.
* The overall row has an entry for every window asked; without a complete cell it is
  {"users": 0, "size": 0, "rate": None}. So it is with brackets, and "to" is there too.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal
from zoneinfo import ZoneInfo

from tests.oracles.matching import Event, matches
from tests.oracles.periods import (
    Period,
    dates_between,
    hour_of,
    hours_between,
    local_date,
    period,
    periods_over,
)

Row = dict[str, Any]

MONTHLY_DATES = 30


def unique(events: Iterable[Event]) -> list[Event]:
    """The first event of each event_id, in order of arrival; upper and lower case are one id."""
    first_by_id: dict[str, Event] = {}
    for event in events:
        first_by_id.setdefault(event["event_id"].lower(), event)
    return list(first_by_id.values())


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
    for day in dates_between(first, last):
        users = _users_between(sightings, day - timedelta(days=window_days - 1), day)
        rows.append({"date": day.isoformat(), "users": len(users)})
    return rows


def stickiness(events: Iterable[Event], *, first: date, last: date, tz: str, segments: Sequence[str] = ()) -> list[Row]:
    """Users of each date as a part of the users of the 30 dates that end with it."""
    sightings = _sightings(events, tz, segments)
    rows = []
    for day in dates_between(first, last):
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


def lifecycle(
    events: Iterable[Event],
    *,
    first: date,
    last: date,
    interval: str = "day",
    week_start: str = "monday",
    tz: str,
    now: datetime,
    segments: Sequence[str] = (),
) -> list[Row]:
    """The users of each period: new, returning from the period before, resurrected; and those who stayed away."""
    sightings = _sightings(events, tz, segments)
    today = local_date(now, ZoneInfo(tz))
    earliest_dates: dict[str, date] = {}
    for seen in sightings:
        earliest_dates[seen.user_id] = min(seen.local_date, earliest_dates.get(seen.user_id, date.max))

    rows = []
    for start, end in periods_over(first, last, interval, week_start):
        active = _users_between(sightings, start, end)
        active_before = _users_between(sightings, *period(start, -1, interval, week_start))
        new = {user for user in active if start <= earliest_dates[user] <= end}
        returning = active & active_before
        resurrected = active - new - active_before
        dormant = active_before - active
        rows.append(
            {
                "start": start.isoformat(),
                "new": len(new),
                "returning": len(returning),
                "resurrected": len(resurrected),
                "dormant": len(dormant) if start <= today else None,
                "complete": end < today,
            }
        )
    return rows


def event_counts(
    events: Iterable[Event],
    *,
    first: date,
    last: date,
    interval: str = "day",
    week_start: str = "monday",
    tz: str,
    segments: Sequence[str] = (),
) -> list[Row]:
    """Events and distinct users of each hour, day, week or month."""
    sightings = _sightings(events, tz, segments)
    rows = []
    if interval == "hour":
        hours = hours_between(first, last, tz)
        seen_in: dict[Any, list[Sighting]] = {hour: [] for hour in hours}
        for seen in sightings:
            if first <= seen.local_date <= last:
                seen_in[hour_of(seen.instant, ZoneInfo(tz))].append(seen)
        for hour, start_text in hours.items():
            rows.append(_counts(start_text, seen_in[hour]))
    else:
        for start, end in periods_over(first, last, interval, week_start):
            rows.append(_counts(start.isoformat(), [seen for seen in sightings if start <= seen.local_date <= end]))
    return rows


def top_events(
    events: Iterable[Event],
    *,
    first: date,
    last: date,
    tz: str,
    limit: int = 10,
    by: Literal["events", "users"] = "events",
    segments: Sequence[str] = (),
) -> list[Row]:
    """The event types with the most events, or users, of the range; equal ones in code point order of the name."""
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
    ranked_by = {"events": "count", "users": "users"}[by]
    rows.sort(key=lambda row: (-row[ranked_by], row["event_type"]))
    return rows[:limit]


def retention(
    events: Iterable[Event],
    *,
    start_date: date,
    windows: int | None = None,
    window: Literal["day", "week", "month"] = "day",
    week_start: str = "monday",
    cohorts: int | None = None,
    cohort: Literal["first_ever", "first_in_range", "recurring"] = "first_ever",
    return_mode: Literal["on", "on_or_after"] = "on",
    cohort_event: str | None = None,
    return_event: str | None = None,
    brackets: Sequence[int] | None = None,
    first_by: Literal["instant", "date"] = "instant",
    tz: str,
    now: datetime,
    segments: Sequence[str] = (),
) -> dict[str, list[Row]]:
    """The matrix of cohorts and windows 0 to `windows`, and the row that pools its complete cells.

    Window k of cohort c is the calendar period c + k, counted from the period that holds `start_date`.
    Without brackets each window is a cell; with them each bracket of windows is one.
    """
    windows = last_window(windows, brackets)
    cohort_count = windows + 1 if cohorts is None else cohorts
    periods = retention_periods(start_date, windows, window, week_start, cohort_count)
    bounds = _brackets(windows, brackets)
    today = local_date(now, ZoneInfo(tz))

    sightings = _sightings(events, tz, segments)
    cohort_sightings = [seen for seen in sightings if cohort_event in (None, seen.event_type)]
    return_sightings = [seen for seen in sightings if return_event in (None, seen.event_type)]
    members = _cohort_members(cohort_sightings, periods[:cohort_count], cohort, first_by)
    returned = [_users_between(return_sightings, first, last) for first, last in periods]

    rows = []
    for number in range(cohort_count):
        cells: list[Row | None] = []
        for begin, end in bounds:
            if periods[number + begin][0] > today:
                cells.append(None)
                continue
            users = members[number] & _returners(returned, number + begin, number + end, number + windows, return_mode)
            cells.append(
                {
                    "window": begin,
                    "to": end,
                    "users": len(users),
                    "rate": _ratio(len(users), len(members[number])),
                    "complete": periods[number + end][1] < today,
                }
            )
        rows.append({"start": periods[number][0].isoformat(), "size": len(members[number]), "cells": cells})
    overall = [_pool_complete_cells(rows, position, begin, end) for position, (begin, end) in enumerate(bounds)]
    if brackets is None:
        for cell in [*overall, *(cell for row in rows for cell in row["cells"] if cell is not None)]:
            del cell["to"]
    return {"cohorts": rows, "overall": overall}


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
            instant = instant_of(event)
            sightings.append(
                Sighting(
                    user_id=event["user_id"],
                    event_type=event["event_type"],
                    instant=instant.astimezone(UTC),
                    local_date=local_date(instant, zone),
                )
            )
    return sightings


def instant_of(event: Event) -> datetime:
    """When it happened."""
    return datetime.fromisoformat(event["occurred_at"].upper())


def _users_between(sightings: Iterable[Sighting], first: date, last: date) -> set[str]:
    return {seen.user_id for seen in sightings if first <= seen.local_date <= last}


def _counts(start: str, sightings: list[Sighting]) -> Row:
    return {"start": start, "count": len(sightings), "users": len({seen.user_id for seen in sightings})}


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def last_window(windows: int | None, brackets: Sequence[int] | None) -> int:
    """The last window asked."""
    if windows is not None:
        return windows
    return 3 if brackets is None else brackets[-1]


def _brackets(windows: int, brackets: Sequence[int] | None) -> list[tuple[int, int]]:
    """The first and last window of each cell."""
    if brackets is None:
        return [(number, number) for number in range(windows + 1)]
    ends = [begin - 1 for begin in brackets[1:]]
    return list(zip(brackets, [*ends, windows], strict=True))


def retention_periods(start_date: date, windows: int, window: str, week_start: str, cohorts: int) -> list[Period]:
    """The periods of all cohorts and windows."""
    return [period(start_date, number, window, week_start) for number in range(cohorts + windows)]


def _cohort_members(sightings: list[Sighting], periods: list[Period], cohort: str, first_by: str) -> list[set[str]]:
    """The users of each cohort period."""
    if cohort == "first_ever":
        counted = _first_of_each_user(sightings, first_by)
    elif cohort == "first_in_range":
        in_range = [seen for seen in sightings if any(first <= seen.local_date <= last for first, last in periods)]
        counted = _first_of_each_user(in_range, first_by)
    elif cohort == "recurring":
        counted = sightings
    else:
        raise ValueError(f"not a kind of cohort: {cohort}")
    return [_users_between(counted, first, last) for first, last in periods]


def _first_of_each_user(sightings: list[Sighting], first_by: str) -> list[Sighting]:
    first_by_user: dict[str, Sighting] = {}
    for seen in sightings:
        known = first_by_user.get(seen.user_id)
        if known is None or _order(seen, first_by) < _order(known, first_by):
            first_by_user[seen.user_id] = seen
    return list(first_by_user.values())


def _order(seen: Sighting, first_by: str) -> Any:
    if first_by == "instant":
        return seen.instant
    if first_by == "date":
        return seen.local_date
    raise ValueError(f"not an order: {first_by}")


def _returners(returned: list[set[str]], begin: int, end: int, last_asked: int, return_mode: str) -> set[str]:
    """The users who came back in the periods `begin` to `end`, or up to the last window asked of their cohort."""
    if return_mode == "on":
        return set().union(*returned[begin : end + 1])
    if return_mode == "on_or_after":
        return set().union(*returned[begin : last_asked + 1])
    raise ValueError(f"not a return mode: {return_mode}")


def _pool_complete_cells(rows: list[Row], position: int, begin: int, end: int) -> Row:
    complete = [row for row in rows if row["cells"][position] is not None and row["cells"][position]["complete"]]
    users = sum(row["cells"][position]["users"] for row in complete)
    size = sum(row["size"] for row in complete)
    return {"window": begin, "to": end, "users": users, "size": size, "rate": _ratio(users, size)}
