"""Hand-worked examples for the naive oracle, so that it can be trusted to judge the real thing."""

from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import pytest

from tests.oracles.statistics import (
    active_users,
    dau,
    matches,
    retention,
    stickiness,
    top_events,
    unique,
)


def an_event(number: int, user: str, at: str, kind: str = "visit", **properties: object) -> dict[str, Any]:
    return {
        "event_id": str(UUID(int=number)),
        "user_id": user,
        "event_type": kind,
        "occurred_at": at,
        "properties": properties,
    }


def events_of(*lines: str) -> list[dict[str, Any]]:
    """Each line is: user, instant or UTC date (then at noon), and a type if it is not a visit."""
    events = []
    for number, line in enumerate(lines, start=1):
        user, at, *kind = line.split()
        events.append(an_event(number, user, at if "T" in at.upper() else f"{at}T12:00:00Z", *kind))
    return events


def users_by_date(rows: list[dict[str, Any]]) -> dict[str, int]:
    return {row["date"]: row["users"] for row in rows}


def users_in_cells(
    answer: dict[str, list[dict[str, Any]]],
) -> dict[str, tuple[int, list[int | None]]]:
    """Start → size and users of the cells."""
    return {row["start"]: (row["size"], [cell and cell["users"] for cell in row["cells"]]) for row in answer["cohorts"]}


LATER = datetime(2030, 1, 1, tzinfo=UTC)


# --- unique ---


def test_the_first_event_of_an_id_wins_whatever_the_case_of_the_id() -> None:
    first = an_event(0xABC, "a", "2024-01-01T12:00:00Z")
    again = an_event(0xABC, "b", "2024-01-02T12:00:00Z")
    again["event_id"] = again["event_id"].upper()
    other = an_event(0xDEF, "c", "2024-01-01T12:00:00Z")
    assert unique([first, other, again]) == [first, other]
    assert unique([again, other, first]) == [again, other]


def test_statistics_count_an_id_once() -> None:
    first = an_event(1, "a", "2024-01-01T12:00:00Z")
    again = an_event(1, "b", "2024-01-02T12:00:00Z")
    days: dict[str, Any] = {"first": date(2024, 1, 1), "last": date(2024, 1, 2), "tz": "UTC"}
    assert users_by_date(dau([first, again], **days)) == {"2024-01-01": 1, "2024-01-02": 0}
    assert [row["count"] for row in top_events([first, again], **days)] == [1]


# --- matches ---


@pytest.mark.parametrize(
    ("value", "text", "expected"),
    [
        ("UA", "UA", True),
        ("UA", "ua", False),
        ("UA", "UA ", False),
        ("", "", True),
        ("a:b=c", "a:b=c", True),
        ("a\nb", "a\nb", True),
        ("3", "3", True),
        ("3", "3.0", False),
        ("true", "true", True),
        (True, "true", True),
        (True, "1", False),
        (True, "True", False),
        (False, "false", True),
        (False, "0", False),
        (None, "null", True),
        (None, "None", False),
        (None, "", False),
        (3, "3", True),
        (3, "3.0", True),
        (3.0, "3", True),
        (3, "03", False),
        (3, "+3", False),
        (3, " 3", False),
        (1, "true", False),
        (2.5, "2.5", True),
        (2.5, "2.50", True),
        (2.5, "25e-1", True),
        (2.5, "2", False),
        (0.1, "0.1", True),
        (-0.0, "0", True),
        (1e16, "10000000000000000", True),
        (2**53 + 1, "9007199254740993", True),
        (2**53 + 1, "9007199254740992", False),
        (["UA"], "UA", False),
        (["UA"], '["UA"]', False),
        ({}, "{}", False),
    ],
)
@pytest.mark.parametrize("separator", [":", "="])
def test_a_property_matches_its_json_text(value: object, text: str, expected: bool, separator: str) -> None:
    event = an_event(1, "a", "2024-01-01T12:00:00Z", key=value)
    assert matches(event, [f"properties.key{separator}{text}"]) is expected


def test_a_dotted_path_is_one_key_and_nothing_nested() -> None:
    flat = an_event(1, "a", "2024-01-01T12:00:00Z", **{"geo.country": "UA"})
    nested = an_event(2, "a", "2024-01-01T12:00:00Z", geo={"country": "UA"})
    assert matches(flat, ["properties.geo.country:UA"])
    assert not matches(nested, ["properties.geo.country:UA"])


def test_an_absent_property_matches_nothing() -> None:
    event = an_event(1, "a", "2024-01-01T12:00:00Z")
    assert not matches(event, ["properties.key:null"])
    assert not matches(event, ["properties.key:"])


def test_no_segment_matches_everything_and_several_are_anded() -> None:
    event = an_event(1, "a", "2024-01-01T12:00:00Z", "purchase", country="UA")
    assert matches(event, [])
    assert matches(event, ["event_type=purchase", "properties.country:UA"])
    assert not matches(event, ["event_type=purchase", "properties.country:PL"])
    assert not matches(event, ["event_type:visit", "properties.country:UA"])


@pytest.mark.parametrize("segment", ["", "event_type", "country:UA", "user_id:a", "properties:UA", "properties"])
def test_what_is_not_a_segment_is_refused(segment: str) -> None:
    with pytest.raises(ValueError, match="not a segment"):
        matches(an_event(1, "a", "2024-01-01T12:00:00Z"), [segment])


def test_conditions_hold_on_the_same_event() -> None:
    events = [
        an_event(1, "a", "2024-01-01T10:00:00Z", "purchase", country="PL"),
        an_event(2, "a", "2024-01-01T11:00:00Z", "visit", country="UA"),
        an_event(3, "b", "2024-01-01T12:00:00Z", "purchase", country="UA"),
    ]
    rows = dau(
        events,
        first=date(2024, 1, 1),
        last=date(2024, 1, 1),
        tz="UTC",
        segments=["event_type:purchase", "properties.country:UA"],
    )
    assert rows == [{"date": "2024-01-01", "users": 1}]


# --- local dates ---


def test_dau_lists_every_date_and_counts_a_user_once() -> None:
    events = events_of("a 2024-02-28", "a 2024-02-28", "b 2024-02-28", "a 2024-03-01", "c 2024-03-02")
    rows = dau(events, first=date(2024, 2, 28), last=date(2024, 3, 1), tz="UTC")
    assert rows == [
        {"date": "2024-02-28", "users": 2},
        {"date": "2024-02-29", "users": 0},
        {"date": "2024-03-01", "users": 1},
    ]


def test_user_ids_are_exact() -> None:
    events = events_of("a 2024-01-01", "A 2024-01-01", "é 2024-01-01", "e\u0301 2024-01-01")
    assert dau(events, first=date(2024, 1, 1), last=date(2024, 1, 1), tz="UTC")[0]["users"] == 4


def test_an_empty_range_has_no_rows() -> None:
    days: dict[str, Any] = {"first": date(2024, 1, 2), "last": date(2024, 1, 1), "tz": "UTC"}
    assert dau(events_of("a 2024-01-01"), **days) == []


def test_the_offset_of_an_event_says_the_instant_and_not_the_date() -> None:
    events = events_of(
        "a 2024-01-01T23:30:00-05:00",
        "b 2024-01-02t00:30:00z",
        "c 2024-01-02T04:30:00.000001+00:00",
    )
    days: dict[str, Any] = {"first": date(2024, 1, 1), "last": date(2024, 1, 2)}
    assert users_by_date(dau(events, tz="UTC", **days)) == {"2024-01-01": 0, "2024-01-02": 3}
    assert users_by_date(dau(events, tz="America/New_York", **days)) == {
        "2024-01-01": 3,
        "2024-01-02": 0,
    }


def test_a_naive_time_is_an_error() -> None:
    with pytest.raises(ValueError, match="no offset"):
        dau(
            events_of("a 2024-01-01T12:00:00"),
            first=date(2024, 1, 1),
            last=date(2024, 1, 1),
            tz="UTC",
        )


def test_the_short_day_of_spring_has_23_hours() -> None:
    """Berlin, 2024-03-31: from 23:00Z on the 30th (+1) to 22:00Z on the 31st (+2)."""
    events = events_of(
        "a 2024-03-30T22:59:59.999999Z",
        "b 2024-03-30T23:00:00Z",
        "c 2024-03-31T21:59:59Z",
        "d 2024-03-31T22:00:00Z",
    )
    rows = dau(events, first=date(2024, 3, 30), last=date(2024, 4, 1), tz="Europe/Berlin")
    assert users_by_date(rows) == {"2024-03-30": 1, "2024-03-31": 2, "2024-04-01": 1}


def test_the_long_day_of_autumn_has_25_hours() -> None:
    """Berlin, 2024-10-27: from 22:00Z on the 26th (+2) to 23:00Z on the 27th (+1)."""
    events = events_of(
        "a 2024-10-26T21:59:59Z",
        "b 2024-10-26T22:00:00Z",
        "c 2024-10-27T22:59:59Z",
        "d 2024-10-27T23:00:00Z",
    )
    rows = dau(events, first=date(2024, 10, 26), last=date(2024, 10, 28), tz="Europe/Berlin")
    assert users_by_date(rows) == {"2024-10-26": 1, "2024-10-27": 2, "2024-10-28": 1}


def test_kathmandu_is_five_hours_and_three_quarters_ahead() -> None:
    events = events_of("a 2024-01-01T18:14:59Z", "b 2024-01-01T18:15:00Z")
    rows = dau(events, first=date(2024, 1, 1), last=date(2024, 1, 2), tz="Asia/Kathmandu")
    assert users_by_date(rows) == {"2024-01-01": 1, "2024-01-02": 1}


def test_a_date_that_samoa_skipped_is_listed_with_zero() -> None:
    """Apia went from -10 to +14 at the end of 2011-12-29, which is 10:00Z on the 30th."""
    events = events_of("a 2011-12-30T09:59:59Z", "b 2011-12-30T10:00:00Z")
    rows = dau(events, first=date(2011, 12, 29), last=date(2011, 12, 31), tz="Pacific/Apia")
    assert users_by_date(rows) == {"2011-12-29": 1, "2011-12-30": 0, "2011-12-31": 1}


ST_JOHNS_2010 = events_of(
    "before 2010-11-06T02:29:59Z",  # 23:59:59 on the 5th, -2:30
    "sixth 2010-11-06T02:30:00Z",  # 00:00:00 on the 6th, -2:30
    "sixth 2010-11-07T02:29:59Z",  # 23:59:59 on the 6th, -2:30: the first piece ends
    "minute 2010-11-07T02:30:00Z",  # 00:00:00 on the 7th, for one minute
    "minute 2010-11-07T02:30:59Z",  # 00:00:59 on the 7th
    "again 2010-11-07T02:31:00Z",  # 23:01:00 on the 6th, -3:30: its second piece
    "minute 2010-11-07T03:29:59Z",  # 23:59:59 on the 6th, -3:30
    "seventh 2010-11-07T03:30:00Z",  # 00:00:00 on the 7th, its second piece
)


def test_a_local_date_can_be_two_pieces_of_utc() -> None:
    rows = dau(ST_JOHNS_2010, first=date(2010, 11, 5), last=date(2010, 11, 8), tz="America/St_Johns")
    assert users_by_date(rows) == {
        "2010-11-05": 1,
        "2010-11-06": 3,
        "2010-11-07": 2,
        "2010-11-08": 0,
    }


# --- rolling windows ---


def test_active_users_are_distinct_over_the_window_and_see_what_was_before_the_range() -> None:
    events = events_of("a 2024-01-01", "b 2024-01-02", "a 2024-01-08", "c 2024-01-09")
    rows = active_users(events, first=date(2024, 1, 6), last=date(2024, 1, 10), tz="UTC", window_days=7)
    # 6th: since Dec 31 {a, b}; 7th: since the 1st {a, b}; 8th: since the 2nd {b, a}; 9th: since the 3rd {a, c}
    assert users_by_date(rows) == {
        "2024-01-06": 2,
        "2024-01-07": 2,
        "2024-01-08": 2,
        "2024-01-09": 2,
        "2024-01-10": 2,
    }
    only_b = events_of("b 2024-01-02")
    rows = active_users(only_b, first=date(2024, 1, 8), last=date(2024, 1, 9), tz="UTC", window_days=7)
    assert users_by_date(rows) == {"2024-01-08": 1, "2024-01-09": 0}


def test_a_skipped_date_takes_its_place_in_a_rolling_window() -> None:
    events = events_of("a 2011-12-25T20:00:00Z")  # 10:00 on the 25th in Apia
    rows = active_users(events, first=date(2011, 12, 30), last=date(2012, 1, 1), tz="Pacific/Apia", window_days=7)
    assert users_by_date(rows) == {"2011-12-30": 1, "2011-12-31": 1, "2012-01-01": 0}


def test_stickiness_is_dau_by_mau_and_null_without_users() -> None:
    events = events_of("a 2024-01-01", "b 2024-01-01", "a 2024-01-30")
    rows = stickiness(events, first=date(2023, 12, 31), last=date(2024, 1, 31), tz="UTC")
    assert rows[0] == {"date": "2023-12-31", "dau": 0, "mau": 0, "stickiness": None}
    assert rows[1] == {"date": "2024-01-01", "dau": 2, "mau": 2, "stickiness": 1.0}
    assert rows[2] == {"date": "2024-01-02", "dau": 0, "mau": 2, "stickiness": 0.0}
    assert rows[30] == {"date": "2024-01-30", "dau": 1, "mau": 2, "stickiness": 0.5}
    assert rows[31] == {"date": "2024-01-31", "dau": 0, "mau": 1, "stickiness": 0.0}


# --- top events ---


def test_top_events_go_by_count_then_by_code_point() -> None:
    events = events_of(
        "a 2024-01-01 visit",
        "a 2024-01-01 visit",
        "b 2024-01-02 visit",
        "a 2024-01-01 é",
        "a 2024-01-01 z",
        "a 2024-01-01 a",
        "b 2024-01-01 B",
        "b 2024-01-01 \U0001f600",
        "b 2024-01-01 \uffee",  # before the emoji by code point, after it in UTF-16
        "a 2024-01-03 z",  # outside the range
    )
    days: dict[str, Any] = {"first": date(2024, 1, 1), "last": date(2024, 1, 2), "tz": "UTC"}
    rows = top_events(events, **days)
    assert rows[0] == {"event_type": "visit", "count": 3, "users": 2, "share": 3 / 9}
    assert rows[1] == {"event_type": "B", "count": 1, "users": 1, "share": 1 / 9}
    assert [row["event_type"] for row in rows] == [
        "visit",
        "B",
        "a",
        "z",
        "é",
        "\uffee",
        "\U0001f600",
    ]
    assert top_events(events, limit=2, **days) == rows[:2]
    assert top_events(events, segments=["event_type:z"], **days) == [
        {"event_type": "z", "count": 1, "users": 1, "share": 1.0}
    ]
    assert top_events([], **days) == []


# --- retention ---


def test_the_whole_matrix_of_three_days() -> None:
    events = events_of(
        "a 2024-01-01",
        "b 2024-01-01",
        "a 2024-01-02",
        "c 2024-01-02",
        "b 2024-01-03",
        "a 2024-01-03",
    )
    answer = retention(
        events,
        start_date=date(2024, 1, 1),
        windows=2,
        tz="UTC",
        now=datetime(2024, 1, 3, 15, tzinfo=UTC),
    )
    assert answer == {
        "cohorts": [
            {
                "start": "2024-01-01",
                "size": 2,
                "cells": [
                    {"window": 0, "users": 2, "rate": 1.0, "complete": True},
                    {"window": 1, "users": 1, "rate": 0.5, "complete": True},
                    {"window": 2, "users": 2, "rate": 1.0, "complete": False},
                ],
            },
            {
                "start": "2024-01-02",
                "size": 1,
                "cells": [
                    {"window": 0, "users": 1, "rate": 1.0, "complete": True},
                    {"window": 1, "users": 0, "rate": 0.0, "complete": False},
                    None,
                ],
            },
            {
                "start": "2024-01-03",
                "size": 0,
                "cells": [{"window": 0, "users": 0, "rate": None, "complete": False}, None, None],
            },
        ],
        "overall": [
            {"window": 0, "users": 3, "size": 3, "rate": 1.0},
            {"window": 1, "users": 1, "size": 2, "rate": 0.5},
            {"window": 2, "users": 0, "size": 0, "rate": None},
        ],
    }


def test_the_overall_row_pools_complete_cells_as_in_the_design() -> None:
    lines = []
    for name, size, returning, cohort_day in (
        ("a", 1000, 500, 1),
        ("b", 500, 400, 2),
        ("c", 700, 10, 3),
    ):
        lines += [f"{name}{number} 2024-01-0{cohort_day}" for number in range(size)]
        lines += [f"{name}{number} 2024-01-0{cohort_day + 1}" for number in range(returning)]
    answer = retention(
        events_of(*lines),
        start_date=date(2024, 1, 1),
        windows=1,
        cohorts=3,
        tz="UTC",
        now=datetime(2024, 1, 4, 12, tzinfo=UTC),
    )
    assert users_in_cells(answer) == {
        "2024-01-01": (1000, [1000, 500]),
        "2024-01-02": (500, [500, 400]),
        "2024-01-03": (700, [700, 10]),
    }
    assert answer["overall"] == [
        {"window": 0, "users": 2200, "size": 2200, "rate": 1.0},
        {"window": 1, "users": 900, "size": 1500, "rate": 0.6},
    ]


def test_there_are_windows_plus_one_cohorts_and_cells_unless_asked() -> None:
    asked: dict[str, Any] = {"start_date": date(2024, 1, 1), "tz": "UTC", "now": LATER}
    answer = retention([], **asked)
    assert [row["start"] for row in answer["cohorts"]] == [
        "2024-01-01",
        "2024-01-02",
        "2024-01-03",
        "2024-01-04",
    ]
    assert [[cell["window"] for cell in row["cells"]] for row in answer["cohorts"]] == [[0, 1, 2, 3]] * 4
    assert [row["start"] for row in retention([], cohorts=1, **asked)["cohorts"]] == ["2024-01-01"]


def test_now_is_taken_on_the_local_calendar() -> None:
    """At 18:15Z on the 1st it is already the 2nd in Kathmandu."""
    asked: dict[str, Any] = {"start_date": date(2024, 1, 1), "windows": 1, "cohorts": 1}
    nothing = {"users": 0, "rate": None}
    before = retention([], now=datetime(2024, 1, 1, 18, 14, tzinfo=UTC), tz="Asia/Kathmandu", **asked)
    after = retention([], now=datetime(2024, 1, 1, 18, 15, tzinfo=UTC), tz="Asia/Kathmandu", **asked)
    assert before["cohorts"][0]["cells"] == [{"window": 0, "complete": False, **nothing}, None]
    assert after["cohorts"][0]["cells"] == [
        {"window": 0, "complete": True, **nothing},
        {"window": 1, "complete": False, **nothing},
    ]


def test_a_cohort_that_has_not_begun_is_listed_without_cells() -> None:
    answer = retention(
        events_of("a 2024-01-02"),
        start_date=date(2024, 1, 2),
        windows=1,
        cohorts=1,
        tz="UTC",
        now=datetime(2024, 1, 1, 12, tzinfo=UTC),
    )
    assert answer["cohorts"] == [{"start": "2024-01-02", "size": 1, "cells": [None, None]}]


KINDS_OF_COHORT = events_of("a 2023-12-31", "a 2024-01-01", "a 2024-01-02", "b 2024-01-01", "b 2024-01-03")


@pytest.mark.parametrize(
    ("cohort", "expected"),
    [
        ("first_ever", {"2024-01-01": (1, [1, 0, 1]), "2024-01-02": (0, [0, 0, 0])}),
        ("first_in_range", {"2024-01-01": (2, [2, 1, 1]), "2024-01-02": (0, [0, 0, 0])}),
        ("recurring", {"2024-01-01": (2, [2, 1, 1]), "2024-01-02": (1, [1, 0, 0])}),
    ],
)
def test_who_belongs_to_a_cohort(cohort: Any, expected: object) -> None:
    answer = retention(
        KINDS_OF_COHORT,
        start_date=date(2024, 1, 1),
        windows=2,
        cohorts=2,
        cohort=cohort,
        tz="UTC",
        now=LATER,
    )
    assert users_in_cells(answer) == expected


def test_arrival_order_does_not_say_what_was_first() -> None:
    asked: dict[str, Any] = {"start_date": date(2023, 12, 31), "tz": "UTC", "now": LATER}
    assert retention(KINDS_OF_COHORT, **asked) == retention(KINDS_OF_COHORT[::-1], **asked)


def test_on_or_after_ends_with_the_last_window_asked_of_the_cohort() -> None:
    events = events_of(
        "a 2024-01-01",
        "a 2024-01-03",
        "b 2024-01-01",
        "b 2024-01-04",
        "c 2024-01-02",
        "c 2024-01-04",
    )
    asked: dict[str, Any] = {
        "start_date": date(2024, 1, 1),
        "windows": 2,
        "cohorts": 2,
        "tz": "UTC",
        "now": LATER,
    }
    assert users_in_cells(retention(events, return_mode="on", **asked)) == {
        "2024-01-01": (2, [2, 0, 1]),
        "2024-01-02": (1, [1, 0, 1]),
    }
    assert users_in_cells(retention(events, return_mode="on_or_after", **asked)) == {
        "2024-01-01": (2, [2, 1, 1]),
        "2024-01-02": (1, [1, 1, 1]),
    }


def test_cohort_and_return_events_and_window_zero_counts_returns_anywhere_in_the_period() -> None:
    events = events_of(
        "a 2024-01-01T08:00:00Z purchase",  # before the signup, and still inside window 0
        "a 2024-01-01T09:00:00Z signup",
        "b 2024-01-01T09:00:00Z signup",
        "b 2024-01-02T09:00:00Z purchase",
        "c 2023-12-31T09:00:00Z purchase",  # not a cohort event: c is first seen with its signup
        "c 2024-01-01T09:00:00Z signup",
        "c 2024-01-02T09:00:00Z signup",  # not a return event
    )
    answer = retention(
        events,
        start_date=date(2024, 1, 1),
        windows=1,
        cohorts=1,
        cohort_event="signup",
        return_event="purchase",
        tz="UTC",
        now=LATER,
    )
    assert users_in_cells(answer) == {"2024-01-01": (3, [1, 1])}


def test_a_segment_filters_cohort_and_return_events_alike() -> None:
    events = [
        an_event(1, "a", "2024-01-01T12:00:00Z", country="PL"),
        an_event(2, "a", "2024-01-02T12:00:00Z", country="UA"),
        an_event(3, "a", "2024-01-03T12:00:00Z", country="PL"),
        an_event(4, "b", "2024-01-02T12:00:00Z", country="UA"),
        an_event(5, "b", "2024-01-03T12:00:00Z", country="UA"),
    ]
    answer = retention(
        events,
        start_date=date(2024, 1, 1),
        windows=1,
        tz="UTC",
        now=LATER,
        segments=["properties.country:UA"],
    )
    assert users_in_cells(answer) == {"2024-01-01": (0, [0, 0]), "2024-01-02": (2, [2, 1])}


# 2024-01-03 is a Wednesday.
@pytest.mark.parametrize(
    ("week_start", "start", "expected"),
    [
        ("monday", "2024-01-01", (1, [1, 1])),
        ("sunday", "2023-12-31", (2, [2, 2])),
        ("wednesday", "2024-01-03", (0, [0, 0])),
        ("thursday", "2023-12-28", (2, [2, 1])),
    ],
)
def test_a_week_is_seven_dates_from_its_start(week_start: str, start: str, expected: object) -> None:
    events = events_of("a 2023-12-31", "b 2024-01-01", "b 2024-01-08", "a 2024-01-11")
    answer = retention(
        events,
        start_date=date(2024, 1, 3),
        windows=1,
        window="week",
        week_start=week_start,
        cohorts=1,
        tz="UTC",
        now=LATER,
    )
    assert users_in_cells(answer) == {start: expected}


def test_weeks_go_by_local_dates_when_clocks_change() -> None:
    """Berlin: the week of 2024-03-25 ends at 22:00Z on Sunday the 31st, an hour short of 7 × 24."""
    events = events_of(
        "a 2024-03-24T23:00:00Z",
        "b 2024-03-24T23:00:00Z",
        "a 2024-03-31T21:59:59Z",
        "b 2024-03-31T22:00:00Z",
    )
    answer = retention(
        events,
        start_date=date(2024, 3, 31),
        windows=1,
        window="week",
        cohorts=1,
        tz="Europe/Berlin",
        now=LATER,
    )
    assert users_in_cells(answer) == {"2024-03-25": (2, [2, 1])}


def test_the_week_that_samoa_shortened_still_has_seven_dates() -> None:
    """Apia: the week of 2011-12-26 ends with Sunday, January 1, that is 10:00Z, and has six days of 24 hours."""
    events = events_of(
        "a 2011-12-26T10:00:00Z",
        "a 2012-01-01T09:59:59Z",
        "b 2011-12-26T10:00:00Z",
        "b 2012-01-01T10:00:00Z",
    )
    answer = retention(
        events,
        start_date=date(2011, 12, 30),
        windows=1,
        window="week",
        cohorts=1,
        tz="Pacific/Apia",
        now=LATER,
    )
    assert users_in_cells(answer) == {"2011-12-26": (2, [2, 1])}


def test_a_date_that_samoa_skipped_is_an_empty_cohort_and_a_window_without_returns() -> None:
    events = events_of("a 2011-12-30T09:00:00Z", "a 2011-12-30T11:00:00Z", "b 2011-12-30T10:00:00Z")
    answer = retention(
        events,
        start_date=date(2011, 12, 29),
        windows=2,
        tz="Pacific/Apia",
        now=datetime(2011, 12, 30, 9, 59, tzinfo=UTC),
    )
    assert answer["cohorts"][0]["cells"][1:] == [None, None]
    answer = retention(
        events,
        start_date=date(2011, 12, 29),
        windows=2,
        tz="Pacific/Apia",
        now=datetime(2011, 12, 30, 10, 0, tzinfo=UTC),
    )
    assert users_in_cells(answer) == {
        "2011-12-29": (1, [1, 0, 1]),
        "2011-12-30": (0, [0, 0, None]),
        "2011-12-31": (1, [1, None, None]),
    }
    assert [cell["complete"] for cell in answer["cohorts"][0]["cells"]] == [True, True, False]


def test_first_is_the_earliest_instant_also_where_a_later_one_has_an_earlier_date() -> None:
    answer = retention(ST_JOHNS_2010, start_date=date(2010, 11, 6), windows=1, tz="America/St_Johns", now=LATER)
    # minute: first seen in the one early minute of the 7th, then again on the 6th
    assert users_in_cells(answer) == {"2010-11-06": (2, [2, 0]), "2010-11-07": (2, [2, 0])}


def test_months_are_calendar_months_over_the_end_of_a_year() -> None:
    events = events_of(
        "a 2023-11-30",
        "a 2023-12-01",
        "a 2024-02-29",
        "b 2023-12-31",
        "b 2024-01-31",
        "b 2024-03-01",
    )
    answer = retention(
        events,
        start_date=date(2023, 11, 30),
        windows=3,
        window="month",
        cohorts=2,
        tz="UTC",
        now=datetime(2024, 2, 29, 12, tzinfo=UTC),
    )
    assert users_in_cells(answer) == {
        "2023-11-01": (1, [1, 1, 0, 1]),
        "2023-12-01": (1, [1, 1, 0, None]),
    }
    assert [cell["complete"] for cell in answer["cohorts"][0]["cells"]] == [True, True, True, False]
    answer = retention(
        events,
        start_date=date(2023, 11, 30),
        windows=3,
        window="month",
        cohorts=1,
        tz="UTC",
        now=datetime(2024, 3, 1, 0, tzinfo=UTC),
    )
    assert [cell["complete"] for cell in answer["cohorts"][0]["cells"]] == [True, True, True, True]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"window": "year"}, "not a window"),
        ({"cohort": "last"}, "not a kind of cohort"),
        ({"return_mode": "never"}, "not a return mode"),
        ({"window": "week", "week_start": "Monday"}, "not in tuple"),
        ({"now": datetime(2024, 1, 1)}, "no offset"),
    ],
)
def test_an_unknown_word_or_a_naive_now_is_an_error(change: dict[str, Any], complaint: str) -> None:
    asked: dict[str, Any] = {"start_date": date(2024, 1, 1), "tz": "UTC", "now": LATER}
    with pytest.raises(ValueError, match=complaint):
        retention([], **{**asked, **change})
