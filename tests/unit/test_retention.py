"""Retention: its parameters, hand-worked matrices, and properties against the naive oracle.

The oracle finds a user's first event by instant, eventcore finds it by local date. They differ only for a user who has
an event with an earlier local date after one with a later date, which takes a zone whose clocks went back over
midnight. `in_order_of_dates` leaves such events out where the oracle judges; tests of their own are about them.
"""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple, get_args
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap

from eventcore.activity import ActivitySnapshot, SelectionActivity, Tally
from eventcore.calendar import (
    WeekStart,
    Window,
    add_periods,
    day_spans,
    local_date,
    merge,
    period_start,
    to_datetime,
    to_instant,
)
from eventcore.errors import InvalidQuestion
from eventcore.retention import CohortRule, Retention, ReturnRule
from tests.oracles import statistics as oracle
from tests.unit.test_statistics import (
    LATER_US,
    Happening,
    ask,
    days_around,
    for_oracle,
    happened,
    happenings_about,
    instants,
    scenes,
    segments,
)

RULES: tuple[CohortRule, ...] = get_args(CohortRule)
UTC = ZoneInfo("UTC")
ST_JOHNS = ZoneInfo("America/St_Johns")

Matrix = list[tuple[str, int, list[int | None]]]


def matrix_of(answer: dict[str, Any]) -> Matrix:
    """Start, size, and the users of each cell."""
    return [(row["start"], row["size"], [cell and cell["users"] for cell in row["cells"]]) for row in answer["cohorts"]]


def matrix(happenings: Sequence[Happening], now_us: int = LATER_US, **parameters: Any) -> Matrix:
    return matrix_of(ask(Retention.parse(**parameters), happenings, now_us))


def at(zone: ZoneInfo, text: str, fold: int = 0) -> int:
    return to_instant(datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold))


def a_snapshot(*slots: BitMap, before: BitMap | None = None) -> ActivitySnapshot:
    activity = SelectionActivity(slots=tuple(Tally(users) for users in slots), before=before or BitMap())
    return ActivitySnapshot(selections=(activity,), computed_from="activity")


# Cohorts

TWO_DAYS_TWICE = happened(
    "u 2026-03-01", "u 2026-03-03", "v 2026-03-02", "v 2026-03-03", "w 2026-02-01", "w 2026-03-02"
)


def test_a_user_belongs_to_the_cohort_of_the_first_event_ever() -> None:
    assert matrix(TWO_DAYS_TWICE, start_date="2026-03-01", windows=2) == [
        ("2026-03-01", 1, [1, 0, 1]),
        ("2026-03-02", 1, [1, 1, 0]),
        ("2026-03-03", 0, [0, 0, 0]),
    ]


def test_first_in_range_knows_nothing_before_the_first_cohort() -> None:
    assert matrix(TWO_DAYS_TWICE, start_date="2026-03-01", windows=2, cohort="first_in_range") == [
        ("2026-03-01", 1, [1, 0, 1]),
        ("2026-03-02", 2, [2, 1, 0]),
        ("2026-03-03", 0, [0, 0, 0]),
    ]


def test_recurring_counts_a_user_in_every_period_with_a_cohort_event() -> None:
    assert matrix(TWO_DAYS_TWICE, start_date="2026-03-01", windows=2, cohort="recurring") == [
        ("2026-03-01", 1, [1, 0, 1]),
        ("2026-03-02", 2, [2, 1, 0]),
        ("2026-03-03", 2, [2, 0, 0]),
    ]


def test_on_or_after_counts_a_return_in_any_later_window_asked() -> None:
    happenings = happened("u 2026-03-01", "u 2026-03-03", "v 2026-03-01", "v 2026-03-04", "w 2026-03-01")
    assert matrix(happenings, start_date="2026-03-01", windows=2, cohorts=1, return_="on_or_after") == [
        ("2026-03-01", 3, [3, 1, 1])  # v came back after the last window asked
    ]


def test_cohort_event_and_return_event_are_types_of_their_own() -> None:
    happenings = happened("u 2026-03-01 signup", "u 2026-03-02 buy", "v 2026-03-01 visit", "v 2026-03-02 signup")
    parameters = {"start_date": "2026-03-01", "windows": 1, "cohort_event": "signup"}
    assert matrix(happenings, **parameters, return_event="buy") == [
        ("2026-03-01", 1, [0, 1]),
        ("2026-03-02", 1, [0, 0]),
    ]
    assert matrix(happenings, **parameters) == [("2026-03-01", 1, [1, 1]), ("2026-03-02", 1, [1, 0])]


def test_a_return_event_before_the_cohort_event_counts_in_window_zero() -> None:
    happenings = happened("u 2026-03-01T09:00:00Z buy", "u 2026-03-01T10:00:00Z signup")
    parameters = {"start_date": "2026-03-01", "windows": 1, "cohorts": 1}
    assert matrix(happenings, **parameters, cohort_event="signup", return_event="buy") == [("2026-03-01", 1, [1, 0])]


def test_segments_filter_cohort_and_return_events_alike() -> None:
    happenings = [
        Happening("u", at(UTC, "2026-03-01T12:00"), "visit", {"country": "UA"}),
        Happening("u", at(UTC, "2026-03-02T12:00"), "visit", {"country": "UK"}),
        Happening("v", at(UTC, "2026-03-01T12:00"), "visit", {"country": "UK"}),
        Happening("v", at(UTC, "2026-03-02T12:00"), "visit", {"country": "UA"}),
    ]
    assert matrix(happenings, start_date="2026-03-01", windows=1, segment=["properties.country:UA"]) == [
        ("2026-03-01", 1, [1, 0]),
        ("2026-03-02", 1, [1, 0]),
    ]


def test_equal_cohort_and_return_selections_are_asked_once() -> None:
    same = Retention.parse(start_date="2026-03-01", cohort_event="a", return_event="a", segment=["event_type:a"])
    other = Retention.parse(start_date="2026-03-01", cohort_event="a")
    assert [len(question.query("default").selections) for question in (same, other)] == [1, 2]


def test_only_first_ever_asks_for_history() -> None:
    assert {rule: Retention.parse(start_date="2026-03-01", cohort=rule).query("default").history for rule in RULES} == {
        "first_ever": True,
        "first_in_range": False,
        "recurring": False,
    }


# Periods


def test_a_start_inside_a_week_means_the_week_that_holds_it() -> None:
    starts = {
        week_start: [
            row[0] for row in matrix([], start_date="2026-03-04", window="week", week_start=week_start, windows=1)
        ]
        for week_start in ("monday", "sunday", "saturday")
    }
    assert starts == {
        "monday": ["2026-03-02", "2026-03-09"],
        "sunday": ["2026-03-01", "2026-03-08"],
        "saturday": ["2026-02-28", "2026-03-07"],
    }


def test_a_start_inside_a_month_means_the_month_that_holds_it() -> None:
    happenings = happened("u 2023-12-31", "u 2024-02-29", "v 2024-01-31", "v 2024-02-01")
    assert matrix(happenings, start_date="2023-12-31", window="month", windows=2, cohorts=2) == [
        ("2023-12-01", 1, [1, 0, 1]),
        ("2024-01-01", 1, [1, 1, 0]),
    ]


def test_cohorts_are_one_more_than_windows_unless_said() -> None:
    assert len(matrix([], start_date="2026-03-01", windows=5)) == 6
    assert len(matrix([], start_date="2026-03-01", windows=5, cohorts="2")) == 2


def test_the_range_of_the_answer_is_all_cohorts_with_all_their_windows() -> None:
    question = Retention.parse(start_date="2026-03-04", window="month", windows=2, cohorts=3)
    assert (question.first, question.last) == (date(2026, 3, 1), date(2026, 7, 31))


def test_a_day_of_25_hours_is_one_window() -> None:
    kyiv = ZoneInfo("Europe/Kyiv")
    happenings = [Happening("u", at(kyiv, "2024-10-26T23:59")), Happening("u", at(kyiv, "2024-10-27T23:59"))]
    assert matrix(happenings, start_date="2024-10-26", windows=2, cohorts=1, tz="Europe/Kyiv") == [
        ("2024-10-26", 1, [1, 1, 0])
    ]


def test_a_skipped_date_is_an_empty_cohort_and_an_empty_window() -> None:
    apia = ZoneInfo("Pacific/Apia")
    happenings = [Happening("u", at(apia, "2011-12-29T12:00")), Happening("u", at(apia, "2011-12-31T12:00"))]
    assert matrix(happenings, start_date="2011-12-29", windows=2, tz="Pacific/Apia") == [
        ("2011-12-29", 1, [1, 0, 1]),
        ("2011-12-30", 0, [0, 0, 0]),
        ("2011-12-31", 0, [0, 0, 0]),
    ]


# What has begun and what is complete


def test_a_window_that_has_not_begun_is_null_and_one_in_progress_is_incomplete() -> None:
    answer = ask(
        Retention.parse(start_date="2026-03-01", windows=2),
        happened("u 2026-03-01", "u 2026-03-02", "v 2026-03-02"),
        at(UTC, "2026-03-02T18:00"),
    )
    assert answer == {
        "cohorts": [
            {
                "start": "2026-03-01",
                "size": 1,
                "cells": [
                    {"window": 0, "users": 1, "rate": 1.0, "complete": True},
                    {"window": 1, "users": 1, "rate": 1.0, "complete": False},
                    None,
                ],
            },
            {
                "start": "2026-03-02",
                "size": 1,
                "cells": [{"window": 0, "users": 1, "rate": 1.0, "complete": False}, None, None],
            },
            {"start": "2026-03-03", "size": 0, "cells": [None, None, None]},
        ],
        "overall": [
            {"window": 0, "users": 1, "size": 1, "rate": 1.0},
            {"window": 1, "users": 0, "size": 0, "rate": None},
            {"window": 2, "users": 0, "size": 0, "rate": None},
        ],
    }


def test_today_is_a_date_of_the_zone_asked_for() -> None:
    new_year = at(UTC, "2026-01-01T00:30")
    in_kyiv = matrix([], new_year, start_date="2026-01-01", windows=1, cohorts=1, tz="Europe/Kyiv")
    in_new_york = matrix([], new_year, start_date="2026-01-01", windows=1, cohorts=1, tz="America/New_York")
    assert (in_kyiv, in_new_york) == ([("2026-01-01", 0, [0, None])], [("2026-01-01", 0, [None, None])])


def test_the_rate_of_an_empty_cohort_is_null() -> None:
    [row] = ask(Retention.parse(start_date="2026-03-01", windows=1, cohorts=1), [])["cohorts"]
    assert [cell["rate"] for cell in row["cells"]] == [None, None]


def test_the_overall_row_pools_complete_cells_only() -> None:
    first, second, third = BitMap(range(1_000)), BitMap(range(1_000, 1_500)), BitMap(range(1_500, 2_200))
    question = Retention.parse(start_date="2026-03-01", windows=1, cohorts=3)
    snapshot = a_snapshot(first, second | first[:500], third | second[:400], third[:10])
    overall = question.compute(snapshot, at(UTC, "2026-03-04T12:00"))["overall"]
    assert overall == [
        {"window": 0, "users": 2_200, "size": 2_200, "rate": 1.0},
        {"window": 1, "users": 900, "size": 1_500, "rate": 0.6},
    ]


@pytest.mark.parametrize("return_rule", ["on", "on_or_after"])
@pytest.mark.parametrize("cohort_rule", ["first_ever", "first_in_range", "recurring"])
def test_computing_leaves_the_snapshot_as_it_was(cohort_rule: str, return_rule: str) -> None:
    question = Retention.parse(start_date="2026-03-01", windows=1, cohort=cohort_rule, return_=return_rule)
    snapshot, same = (a_snapshot(BitMap([1, 2]), BitMap([2, 3]), BitMap([1, 3]), before=BitMap([3])) for _ in "12")
    question.compute(snapshot, LATER_US)
    assert snapshot == same


# Where clocks went back over midnight: 2010-11-07 began at 02:30 UTC, at 02:31 it was the 6th again until 03:30.


def test_a_first_event_in_the_repeated_end_of_yesterday_is_no_first_event_of_today() -> None:
    happenings = [
        Happening("u", at(ST_JOHNS, "2010-11-06T23:30", fold=1)),
        Happening("u", at(ST_JOHNS, "2010-11-07T12:00")),
        Happening("v", at(ST_JOHNS, "2010-11-07T00:00:30")),
    ]
    assert matrix(happenings, start_date="2010-11-07", windows=1, cohorts=1, tz="America/St_Johns") == [
        ("2010-11-07", 1, [1, 0])
    ]


def test_a_user_belongs_to_the_earliest_local_date_though_another_came_first() -> None:
    happenings = [
        Happening("u", at(ST_JOHNS, "2010-11-07T00:00:30")),
        Happening("u", at(ST_JOHNS, "2010-11-06T23:30", fold=1)),
    ]
    assert [instant for _, instant, *_ in happenings] == sorted(instant for _, instant, *_ in happenings)
    assert matrix(happenings, start_date="2010-11-06", windows=1, tz="America/St_Johns") == [
        ("2010-11-06", 1, [1, 1]),
        ("2010-11-07", 0, [0, 0]),
    ]


def test_history_ends_before_both_dates_that_overlap() -> None:
    question = Retention.parse(start_date="2010-11-07", windows=1, cohorts=1, tz="America/St_Johns")
    days = day_spans(ST_JOHNS, date(2010, 11, 6), date(2010, 11, 8))
    assert list(question.query("default").slots) == days
    elsewhere = Retention.parse(start_date="2010-11-07", windows=1, cohorts=1, tz="Europe/Kyiv")
    assert len(elsewhere.query("default").slots) == 2


@settings(max_examples=150, deadline=None)
@given(
    happenings_about("America/St_Johns", days_around(date(2010, 11, 6), before=2, after=3)),
    days_around(date(2010, 11, 6), before=2, after=2),
    st.integers(1, 4),
)
def test_cohorts_are_decided_by_local_date_where_clocks_went_back_over_midnight(
    happenings: list[Happening], start_date: date, cohorts: int
) -> None:
    dates: dict[str, set[date]] = {}
    for user_id, instant_us, *_ in happenings:
        dates.setdefault(user_id, set()).add(to_datetime(instant_us).astimezone(ST_JOHNS).date())
    wanted = []
    for day in (start_date + timedelta(days=number) for number in range(cohorts)):
        members = [seen for seen in dates.values() if min(seen) == day]
        wanted.append(
            (day.isoformat(), len(members), [len(members), sum(day + timedelta(1) in seen for seen in members)])
        )
    assert matrix(happenings, start_date=start_date, windows=1, cohorts=cohorts, tz="America/St_Johns") == wanted


# Against the oracle

NEAR = {"day": (3, 6), "week": (10, 30), "month": (40, 100)}  # days before and after the odd date


class RetentionCase(NamedTuple):
    zone_name: str
    happenings: list[Happening]
    parameters: dict[str, Any]
    now_us: int


@st.composite
def retention_cases(draw: st.DrawFn) -> RetentionCase:
    zone_name, day = draw(scenes)
    window = draw(st.sampled_from(get_args(Window)))
    before, after = NEAR[window]
    around = days_around(day, before=before, after=after)
    parameters = {
        "start_date": draw(days_around(day, before=before, after=2)),
        "windows": draw(st.integers(1, 4)),
        "window": window,
        "week_start": draw(st.sampled_from(get_args(WeekStart))),
        "cohorts": draw(st.none() | st.integers(1, 5)),
        "cohort": draw(st.sampled_from(RULES)),
        "return_": draw(st.sampled_from(get_args(ReturnRule))),
        "cohort_event": draw(st.none() | st.sampled_from("ab")),
        "return_event": draw(st.none() | st.sampled_from("ab")),
        "tz": zone_name,
        "segment": draw(segments),
    }
    return RetentionCase(
        zone_name, draw(happenings_about(zone_name, around)), parameters, draw(instants(zone_name, around))
    )


def in_order_of_dates(case: RetentionCase) -> list[Happening]:
    """Without the events of a user whose local date is before that of an earlier instant of theirs."""
    latest: dict[str, date] = {}
    kept = []
    for happening in sorted(case.happenings, key=lambda happening: happening.instant_us):
        day = local_date(happening.instant_us, ZoneInfo(case.zone_name))
        if day >= latest.setdefault(happening.user_id, day):
            latest[happening.user_id] = day
            kept.append(happening)
    return kept


@settings(max_examples=400, deadline=None)
@given(retention_cases())
def test_retention_is_what_the_oracle_counts(case: RetentionCase) -> None:
    happenings = case.happenings if case.parameters["cohort"] == "recurring" else in_order_of_dates(case)
    same = {"return_": "return_mode", "segment": "segments"}  # the oracle's names
    wanted = oracle.retention(
        for_oracle(happenings),
        now=to_datetime(case.now_us),
        **{same.get(name, name): value for name, value in case.parameters.items()},
    )
    assert ask(Retention.parse(**case.parameters), happenings, case.now_us) == wanted


@settings(max_examples=100, deadline=None)
@given(retention_cases(), st.integers(1, 3), st.integers(0, 3))
def test_widening_the_range_never_changes_an_old_first_ever_cohort(
    case: RetentionCase, earlier: int, more: int
) -> None:
    parameters = {**case.parameters, "cohort": "first_ever", "cohorts": 3}
    window, week_start = parameters["window"], parameters["week_start"]
    first = period_start(parameters["start_date"], window, week_start)
    wider = {**parameters, "start_date": add_periods(first, window, -earlier), "cohorts": 3 + earlier + more}
    narrow_rows = ask(Retention.parse(**parameters), case.happenings, case.now_us)["cohorts"]
    wide_rows = ask(Retention.parse(**wider), case.happenings, case.now_us)["cohorts"]
    assert wide_rows[earlier : earlier + 3] == narrow_rows


@settings(max_examples=50, deadline=None)
@given(retention_cases())
def test_the_slots_of_a_query_are_disjoint_and_its_periods_hold_just_its_dates(case: RetentionCase) -> None:
    question = Retention.parse(**case.parameters)
    slots = question.query("default").slots
    bounds = sorted(interval for slot in slots for interval in slot)
    assert all(end_us <= start_us for (_, end_us), (start_us, _) in pairwise(bounds))
    periods = slots[-(question.cohorts + question.windows) :]
    assert merge(periods) == merge(day_spans(question.zone, question.first, question.last))


# Parameters


@pytest.mark.parametrize(
    ("parameters", "field", "code"),
    [
        ({"start_date": None}, "start_date", "missing_parameter"),
        ({"start_date": "2026-02-30"}, "start_date", "invalid_date"),
        ({"start_date": "1969-12-30"}, "start_date", "invalid_date"),
        ({"start_date": "9999-01-01"}, "start_date", "invalid_date"),
        ({"start_date": date.max}, "start_date", "invalid_date"),
        ({"start_date": "9998-12-31"}, "start_date", "range_too_late"),
        ({"start_date": "9998-12-01", "window": "month", "windows": 12}, "start_date", "range_too_late"),
        ({"start_date": "9990-01-01", "window": "month", "windows": 366}, "start_date", "range_too_late"),
        ({"windows": 0}, "windows", "invalid_number"),
        ({"windows": "0"}, "windows", "invalid_number"),
        ({"windows": "367"}, "windows", "invalid_number"),
        ({"windows": "1000"}, "windows", "invalid_number"),
        ({"windows": "1e1"}, "windows", "invalid_number"),
        ({"windows": ""}, "windows", "invalid_number"),
        ({"windows": True}, "windows", "invalid_number"),
        ({"window": "year"}, "window", "unknown_choice"),
        ({"window": "Day"}, "window", "unknown_choice"),
        ({"window": ""}, "window", "unknown_choice"),
        ({"week_start": "tuesday"}, "week_start", "unknown_choice"),
        ({"cohorts": 0}, "cohorts", "invalid_number"),
        ({"cohorts": "368"}, "cohorts", "invalid_number"),
        ({"cohorts": "-1"}, "cohorts", "invalid_number"),
        ({"cohort": "first"}, "cohort", "unknown_choice"),
        ({"return_": "after"}, "return", "unknown_choice"),
        ({"cohort_event": ""}, "cohort_event", "empty_event_type"),
        ({"cohort_event": "x" * 256}, "cohort_event", "too_long"),
        ({"return_event": ""}, "return_event", "empty_event_type"),
        ({"return_event": "a\0"}, "return_event", "invalid_unicode"),
        ({"tz": "Mars/Base"}, "tz", "unknown_time_zone"),
        ({"tz": ""}, "tz", "unknown_time_zone"),
        ({"segment": ["country:UA"]}, "segment", "invalid_segment"),
        ({"segment": ["event_type:a"] * 50}, "segment", "too_many_segments"),
        ({"window": "week", "windows": 366}, "windows", "range_too_long"),
        ({"window": "month", "windows": 60, "cohorts": 61}, "windows", "range_too_long"),
    ],
    ids=str,
)
def test_a_parameter_without_an_answer_is_refused_by_name(parameters: dict[str, Any], field: str, code: str) -> None:
    with pytest.raises(InvalidQuestion) as refused:
        Retention.parse(**{"start_date": "2026-03-01", **parameters})
    assert (refused.value.field, refused.value.code) == (field, code)


@pytest.mark.parametrize("field", ["window", "week_start", "cohort", "return_"])
def test_an_unknown_choice_is_told_the_known_ones(field: str) -> None:
    known = {
        "window": "day, week, month",
        "week_start": "monday, sunday, saturday",
        "cohort": "first_ever, first_in_range, recurring",
        "return_": "on, on_or_after",
    }
    with pytest.raises(InvalidQuestion, match=known[field]):
        Retention.parse(start_date="2026-03-01", **{field: "x"})


def test_the_most_windows_have_their_cohorts() -> None:
    question = Retention.parse(start_date="2026-03-01", windows="366")
    assert (question.windows, question.cohorts) == (366, 367)


def test_the_last_answerable_matrix_ends_with_the_calendar() -> None:
    question = Retention.parse(start_date="9998-12-30", windows=1, cohorts=1, tz="Pacific/Kiritimati")
    assert question.last == date(9998, 12, 31)
    assert matrix_of(ask(question, [])) == [("9998-12-30", 0, [None, None])]
