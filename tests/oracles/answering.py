"""The naive oracle, asked as HTTP asks: names of routes, parameters as texts, breakdowns.

Where the definitions leave a choice open, this is the reading taken here.

Parameters
* A parameter that a statistic does not have is a ValueError, as HTTP refuses it. Other nonsense is not refused:
  brackets that do not begin with 0, a limit of 0, a range that ends before it begins.
* The time zone is UTC unless one is asked for.

Breakdowns
* Only values of at least one ranked event are groups: there can be fewer than N, and none.
* A value that is seen only outside the ranked dates is in "other", with all its data.
* In a retention the ranking sees cohort events, on all the dates of cohorts and windows; the data of
  a group is made of cohort and return events that both have its value.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from tests.oracles.matching import Event, breakdown_value, matches
from tests.oracles.periods import Period, local_date, periods_over
from tests.oracles.statistics import (
    Row,
    active_users,
    dau,
    event_counts,
    instant_of,
    last_window,
    lifecycle,
    retention,
    retention_periods,
    stickiness,
    top_events,
    unique,
)

PARAMETERS = {
    "dau": {"from", "to"},
    "active-users": {"from", "to", "window"},
    "stickiness": {"from", "to"},
    "lifecycle": {"from", "to", "interval", "week_start"},
    "event-counts": {"from", "to", "interval", "week_start"},
    "top-events": {"from", "to", "limit", "by"},
    "retention": {
        "start_date",
        "windows",
        "window",
        "week_start",
        "cohorts",
        "cohort",
        "return",
        "cohort_event",
        "return_event",
        "brackets",
    },
}
PARAMETERS_OF_ALL = {"tz", "segment", "breakdown", "groups"}
WINDOW_DAYS = {"1d": 1, "7d": 7, "30d": 30}


def answer(events: Iterable[Event], statistic: str, params: Mapping[str, Any], now: datetime) -> Any:
    """The `data` of a statistic, by the name of its route and the texts of its parameters.

    `segment` is a list of texts. A parameter that is missing, or None, takes its default.
    """
    asked = {name: value for name, value in params.items() if value is not None}
    unknown = set(asked) - PARAMETERS[statistic] - PARAMETERS_OF_ALL
    if unknown:
        raise ValueError(f"not parameters of {statistic}: {sorted(unknown)}")
    segments = asked.get("segment", [])
    if isinstance(segments, str):
        segments = [segments]
    matching = [event for event in unique(events) if matches(event, segments)]
    if "breakdown" not in asked:
        return _usual_data(matching, statistic, asked, now)

    field = asked["breakdown"]
    groups = _ranked_values(matching, statistic, asked)[: int(asked.get("groups", "10"))]
    of_group: dict[str, list[Event]] = {value: [] for value in groups}
    missing = []
    other = []
    for event in matching:
        found = breakdown_value(event, field)
        if found.kind == "missing":
            missing.append(event)
        elif found.kind == "value" and found.value in of_group:
            of_group[found.value].append(event)
        else:
            other.append(event)

    def listed(value: str | None, kind: str, part: list[Event]) -> Row:
        return {"group": value, "kind": kind, "data": _usual_data(part, statistic, asked, now)}

    rows = [listed(value, "value", of_group[value]) for value in groups]
    if field != "event_type":
        rows.append(listed(None, "missing", missing))
    rows.append(listed(None, "other", other))
    return {"all": _usual_data(matching, statistic, asked, now), "groups": rows}


def _ranked_values(matching: list[Event], statistic: str, asked: Mapping[str, Any]) -> list[str]:
    """The values of a breakdown, that with the most ranked events first."""
    zone = ZoneInfo(asked.get("tz", "UTC"))
    first, last = _ranked_dates(statistic, asked)
    counts: Counter[str] = Counter()
    for event in matching:
        if statistic == "retention" and asked.get("cohort_event") not in (None, event["event_type"]):
            continue
        found = breakdown_value(event, asked["breakdown"])
        if found.value is not None and first <= local_date(instant_of(event), zone) <= last:
            counts[found.value] += 1
    return sorted(counts, key=lambda value: (-counts[value], value))


def _ranked_dates(statistic: str, asked: Mapping[str, Any]) -> Period:
    """The dates whose events decide which values are groups."""
    week_start = asked.get("week_start", "monday")
    if statistic == "retention":
        windows = last_window(_number(asked, "windows"), _numbers(asked, "brackets"))
        cohorts = _number(asked, "cohorts")
        periods = retention_periods(
            date.fromisoformat(asked["start_date"]),
            windows,
            asked.get("window", "day"),
            week_start,
            windows + 1 if cohorts is None else cohorts,
        )
        return periods[0][0], periods[-1][1]

    first, last = date.fromisoformat(asked["from"]), date.fromisoformat(asked["to"])
    interval = asked.get("interval", "day")
    if interval == "hour" or first > last:
        return first, last
    periods = periods_over(first, last, interval, week_start)
    return periods[0][0], periods[-1][1]


def _usual_data(events: list[Event], statistic: str, asked: Mapping[str, Any], now: datetime) -> Any:
    """A statistic over just these events."""
    tz = asked.get("tz", "UTC")
    if statistic == "retention":
        return retention(
            events,
            start_date=date.fromisoformat(asked["start_date"]),
            windows=_number(asked, "windows"),
            window=asked.get("window", "day"),
            week_start=asked.get("week_start", "monday"),
            cohorts=_number(asked, "cohorts"),
            cohort=asked.get("cohort", "first_ever"),
            return_mode=asked.get("return", "on"),
            cohort_event=asked.get("cohort_event"),
            return_event=asked.get("return_event"),
            brackets=_numbers(asked, "brackets"),
            first_by="date",
            tz=tz,
            now=now,
        )

    first, last = date.fromisoformat(asked["from"]), date.fromisoformat(asked["to"])
    interval, week_start = asked.get("interval", "day"), asked.get("week_start", "monday")
    if statistic == "dau":
        return dau(events, first=first, last=last, tz=tz)
    if statistic == "active-users":
        window_days = WINDOW_DAYS[asked.get("window", "7d")]
        return active_users(events, first=first, last=last, tz=tz, window_days=window_days)
    if statistic == "stickiness":
        return stickiness(events, first=first, last=last, tz=tz)
    if statistic == "lifecycle":
        return lifecycle(events, first=first, last=last, interval=interval, week_start=week_start, tz=tz, now=now)
    if statistic == "event-counts":
        return event_counts(events, first=first, last=last, interval=interval, week_start=week_start, tz=tz)
    if statistic == "top-events":
        limit, by = int(asked.get("limit", "10")), asked.get("by", "events")
        return top_events(events, first=first, last=last, tz=tz, limit=limit, by=by)
    raise ValueError(f"not a statistic: {statistic}")


def _number(asked: Mapping[str, Any], name: str) -> int | None:
    return int(asked[name]) if name in asked else None


def _numbers(asked: Mapping[str, Any], name: str) -> list[int] | None:
    return [int(text) for text in asked[name].split(",")] if name in asked else None
