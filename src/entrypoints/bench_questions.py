"""The questions of ``eventcore bench stats``, each also as SQL on raw events, with the answer made of its rows.

The SQL is what somebody would write who knows SQL well and has only the events; it shares nothing with the code that is
measured but the calendar's arithmetic. Not here: asking and timing (`bench_stats`), and connections (`bench_rivals`).
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache, partial
from importlib.resources import files
from typing import Any, Final
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

LAST: Final = date(2025, 3, 31)
"""The last day of every store that is measured; all questions are about the 90 days that end with it."""
FIRST: Final = LAST - timedelta(days=89)

_EPOCH: Final = date(1970, 1, 1)
_DAY: Final = timedelta(days=1)
_MARGIN: Final = timedelta(days=5)  # the 90 days are three whole months, which is easy on the projection
_WEEK_DAYS: Final = 7
_COHORTS: Final = 90
_WINDOWS: Final = 15
_WEEKS: Final = 12
_ROLLING_DAYS: Final = 30
_GROUPS: Final = 10
_NAME: Final = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_COMMENT: Final = re.compile(r"^\s*--.*\n?", re.MULTILINE)

Rows = Sequence[Sequence[Any]]
Run = Callable[..., Rows]
"""Runs a statement by its name, with what stands in its braces; dates and instants are written as the engine does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question.

    Attributes:
        name: in the table.
        statistic: its route and command.
        parameters: as HTTP takes them.
        in_sql: asks the same of raw rows, and gives the data in the same shape.
        from_events: whether eventcore, too, has to read raw rows.
        local: whether it is about the days of another zone.
    """

    name: str
    statistic: str
    parameters: Mapping[str, str]
    in_sql: Callable[[Run], Any]
    from_events: bool = False
    local: bool = False

    @property
    def path(self) -> str:
        """What is asked over HTTP."""
        return f"/stats/{self.statistic}?{urlencode(self.parameters)}"

    @property
    def arguments(self) -> dict[str, Any]:
        """What the library is asked with."""
        found: dict[str, Any] = dict(self.parameters)
        found["from_"] = found.pop("from", None)
        if found["from_"] is None:
            del found["from_"]
        if "segment" in found:
            found["segment"] = [found["segment"]]
        return found


def questions(zone: str) -> list[Asked]:
    """All of them; some are asked about the days of another zone too."""
    days = {"from": FIRST.isoformat(), "to": LAST.isoformat()}
    week = {"from": (LAST - 6 * _DAY).isoformat(), "to": LAST.isoformat()}
    matrix = {"start_date": FIRST.isoformat(), "windows": str(_WINDOWS), "cohorts": str(_COHORTS)}
    weeks = {"start_date": FIRST.isoformat(), "window": "week", "windows": str(_WEEKS)}
    bought = "kind = (SELECT kind FROM kinds WHERE name = 'purchase')"
    there = ZoneInfo(zone)
    return [
        Asked(name="dau", statistic="dau", parameters=days, in_sql=_dau),
        Asked(
            name="dau, other zone",
            statistic="dau",
            parameters=days | {"tz": zone},
            in_sql=partial(_dau, zone=there),
            local=True,
        ),
        Asked(
            name="dau of one type",
            statistic="dau",
            parameters=days | {"segment": "event_type:purchase"},
            in_sql=partial(_dau, condition=bought),
        ),
        Asked(
            name="dau by type",
            statistic="dau",
            parameters=days | {"breakdown": "event_type"},
            in_sql=partial(_dau_by, field="kind"),
        ),
        Asked(
            name="active users, 30 days",
            statistic="active-users",
            parameters=days | {"window": "30d"},
            in_sql=_active_users,
        ),
        Asked(name="stickiness", statistic="stickiness", parameters=days, in_sql=_stickiness),
        Asked(
            name="lifecycle, weeks", statistic="lifecycle", parameters=days | {"interval": "week"}, in_sql=_lifecycle
        ),
        Asked(name="top events", statistic="top-events", parameters=days, in_sql=_top_events),
        Asked(
            name="top events, parts of months",
            statistic="top-events",
            parameters={"from": (FIRST + _MARGIN).isoformat(), "to": (LAST - _MARGIN).isoformat()},
            in_sql=partial(_top_events, first=FIRST + _MARGIN, last=LAST - _MARGIN),
        ),
        Asked(name="event counts, days", statistic="event-counts", parameters=days, in_sql=_day_counts),
        Asked(
            name="event counts, hours",
            statistic="event-counts",
            parameters=week | {"interval": "hour"},
            in_sql=_hour_counts,
        ),
        Asked(name="retention, 90 × 15 days", statistic="retention", parameters=matrix, in_sql=_retention),
        Asked(
            name="retention, other zone",
            statistic="retention",
            parameters=matrix | {"tz": zone},
            in_sql=partial(_retention, zone=there),
            local=True,
        ),
        Asked(name="retention, weeks", statistic="retention", parameters=weeks, in_sql=_weekly_retention),
        Asked(
            name="dau with a property",
            statistic="dau",
            parameters=days | {"segment": "properties.country:UA"},
            in_sql=partial(_dau, condition="country = 'UA'"),
            from_events=True,
        ),
        Asked(
            name="dau by a property",
            statistic="dau",
            parameters=days | {"breakdown": "properties.country"},
            in_sql=partial(_dau_by, field="country"),
            from_events=True,
        ),
    ]


@cache
def statements() -> Mapping[str, str]:
    """The statements of bench_questions.sql by name, without their comments."""
    text = (files(__package__) / "bench_questions.sql").read_text(encoding="utf-8")
    _, *parts = _NAME.split(text)
    return {name: _COMMENT.sub("", part).strip() for name, part in zip(parts[::2], parts[1::2], strict=True)}


# The same in SQL. Days are numbers since 1970; those without a row had nobody.


def _dau(run: Run, zone: ZoneInfo | None = None, condition: str = "1 = 1") -> list[dict[str, Any]]:
    period = "day" if zone is None else "local_day"
    return _users(run("users", period=period, condition=condition, **_between(FIRST, LAST, zone)))


def _users(rows: Rows) -> list[dict[str, Any]]:
    users = {row[0]: row[1] for row in rows}
    return [{"date": day.isoformat(), "users": users.get(_number(day), 0)} for day in _each_day(FIRST, LAST)]


def _dau_by(run: Run, field: str) -> dict[str, Any]:
    asked = {"period": "day", **_between(FIRST, LAST)}
    rows = run("parts", field=field, condition="1 = 1", **asked)
    names = dict(_pairs(run("kinds"))) if field == "kind" else {row[3]: row[3] for row in rows if row[3] is not None}
    events: dict[Any, int] = {}
    for _, _, count, value in rows:
        events[value] = events.get(value, 0) + count
    ranked = sorted((value for value in events if value is not None), key=lambda value: (-events[value], names[value]))
    groups = [(names[value], "value", [row for row in rows if row[3] == value]) for value in ranked[:_GROUPS]]
    if field != "kind":
        groups.append((None, "missing", [row for row in rows if row[3] is None]))
    others: Rows = []
    if len(ranked) > _GROUPS:
        listed = ", ".join(_literal(value) for value in ranked[:_GROUPS])
        others = run("users", condition=f"{field} NOT IN ({listed})", **asked)
    groups.append((None, "other", list(others)))
    return {
        "all": _dau(run),
        "groups": [{"group": name, "kind": kind, "data": _users(found)} for name, kind, found in groups],
    }


def _active_users(run: Run) -> list[dict[str, Any]]:
    return [{"date": day.isoformat(), "users": users} for day, users in _rolling(run)]


def _rolling(run: Run) -> list[tuple[date, int]]:
    before = FIRST - (_ROLLING_DAYS - 1) * _DAY
    changes = {day: int(change) for day, change in run("rolling", days=_ROLLING_DAYS, **_between(before, LAST))}
    found = []
    users = 0
    for day in _each_day(before, LAST):
        users += changes.get(_number(day), 0)
        if day >= FIRST:
            found.append((day, users))
    return found


def _stickiness(run: Run) -> list[dict[str, Any]]:
    daily = {row["date"]: row["users"] for row in _dau(run)}
    return [
        {
            "date": day.isoformat(),
            "dau": daily[day.isoformat()],
            "mau": mau,
            "stickiness": daily[day.isoformat()] / mau if mau else None,
        }
        for day, mau in _rolling(run)
    ]


def _lifecycle(run: Run) -> list[dict[str, Any]]:
    until = _monday(LAST) + 6 * _DAY
    found = {row[0]: [int(value) for value in row[1:]] for row in run("lifecycle", **_between(FIRST, until))}
    rows = []
    for monday in _mondays(_monday(FIRST), _monday(LAST)):
        users, new, returning = found.get(_number(monday), (0, 0, 0))
        before = found.get(_number(monday) - _WEEK_DAYS, (0, 0, 0))[0]
        rows.append(
            {
                "start": monday.isoformat(),
                "new": new,
                "returning": returning,
                "resurrected": users - new - returning,
                "dormant": before - returning,
                "complete": True,
            }
        )
    return rows


def _top_events(run: Run, first: date = FIRST, last: date = LAST) -> list[dict[str, Any]]:
    names = dict(_pairs(run("kinds")))
    counted = [(names[kind], users, count) for kind, users, count in run("kind_counts", **_between(first, last))]
    total = sum(count for _, _, count in counted)
    return [
        {"event_type": name, "count": count, "users": users, "share": count / total}
        for name, users, count in sorted(counted, key=lambda row: (-row[2], row[0]))[:10]
    ]


def _day_counts(run: Run) -> list[dict[str, Any]]:
    found = {row[0]: row for row in run("counts", period="day", condition="1 = 1", **_between(FIRST, LAST))}
    rows = [(day, found.get(_number(day), (0, 0, 0))) for day in _each_day(FIRST, LAST)]
    return [{"start": day.isoformat(), "count": row[2], "users": row[1]} for day, row in rows]


def _hour_counts(run: Run) -> list[dict[str, Any]]:
    first = LAST - 6 * _DAY
    asked = run("counts", period="hour", condition="1 = 1", **_between(first, LAST))
    found = {_hour(row[0]): row for row in asked}
    start = datetime(first.year, first.month, first.day, tzinfo=UTC)
    hours = [start + timedelta(hours=number) for number in range(7 * 24)]
    counted = [(hour, found.get(hour, (0, 0, 0))) for hour in hours]
    return [{"start": hour.isoformat(), "count": row[2], "users": row[1]} for hour, row in counted]


def _hour(value: Any) -> datetime:
    if isinstance(value, datetime):
        return value.replace(tzinfo=UTC)
    return datetime.fromtimestamp(value * 3_600, tz=UTC)


def _retention(run: Run, zone: ZoneInfo | None = None) -> dict[str, Any]:
    until = LAST + _WINDOWS * _DAY
    rows = run(
        "cohorts",
        period="day" if zone is None else "local_day",
        first=_number(FIRST),
        last=_number(FIRST) + _COHORTS - 1,
        most_days=_WINDOWS,
        **_between(FIRST, until, zone),
    )
    return _matrix(rows, [FIRST + number * _DAY for number in range(_COHORTS)], 1, _WINDOWS)


def _weekly_retention(run: Run) -> dict[str, Any]:
    starts = list(_mondays(_monday(FIRST), _monday(FIRST) + _WEEKS * _WEEK_DAYS * _DAY))
    until = starts[-1] + (_WEEKS + 1) * _WEEK_DAYS * _DAY - _DAY
    rows = run(
        "cohorts",
        period="week",
        first=_number(starts[0]),
        last=_number(starts[-1]),
        most_days=_WEEKS * _WEEK_DAYS,
        **_between(starts[0], until),
    )
    return _matrix(rows, starts, _WEEK_DAYS, _WEEKS)


def _matrix(rows: Rows, starts: Sequence[date], step_days: int, windows: int) -> dict[str, Any]:
    """All windows lie in the past, so all cells are complete."""
    found = {(cohort, later // step_days): users for cohort, later, users in rows}
    cohorts = []
    for start in starts:
        counts = [found.get((_number(start), window), 0) for window in range(windows + 1)]
        size = counts[0]  # who begins on a day is there on it
        cells = [
            {"window": window, "users": users, "rate": users / size if size else None, "complete": True}
            for window, users in enumerate(counts)
        ]
        cohorts.append({"start": start.isoformat(), "size": size, "cells": cells})
    total = sum(cohort["size"] for cohort in cohorts)
    overall = []
    for window in range(windows + 1):
        users = sum(cohort["cells"][window]["users"] for cohort in cohorts)
        overall.append({"window": window, "users": users, "size": total, "rate": users / total if total else None})
    return {"cohorts": cohorts, "overall": overall}


# Dates


def _between(first: date, last: date, zone: ZoneInfo | None = None) -> dict[str, datetime]:
    bounds = [datetime(day.year, day.month, day.day, tzinfo=zone or UTC) for day in (first, last + _DAY)]
    return {"since": bounds[0].astimezone(UTC), "until": bounds[1].astimezone(UTC)}


def _each_day(first: date, last: date) -> Iterable[date]:
    return [first + number * _DAY for number in range((last - first).days + 1)]


def _monday(day: date) -> date:
    return day - day.weekday() * _DAY


def _mondays(first: date, last: date) -> Iterable[date]:
    return [first + number * _DAY for number in range(0, (last - first).days + 1, _WEEK_DAYS)]


def _number(day: date) -> int:
    return (day - _EPOCH).days


def _pairs(rows: Rows) -> Iterable[tuple[Any, Any]]:
    return [(row[0], row[1]) for row in rows]


def _literal(value: Any) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return str(int(value))


def fixed_shift_us(zone: str, first: date, last: date) -> int | None:
    """How far a zone's clocks are from UTC from one date to another; None where that changes."""
    found = {
        datetime(day.year, day.month, day.day, tzinfo=ZoneInfo(zone)).utcoffset()
        for day in _each_day(first - _DAY, last + 2 * _DAY)
    }
    [offset, *others] = found
    return None if others or offset is None else round(offset / timedelta(microseconds=1))
