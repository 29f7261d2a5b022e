r"""Examples worked out by hand from the definitions, for what the naive oracle answers when it is asked as HTTP asks.

Each says why its numbers are what they are. Local dates, cohorts and the older forms of conditions have theirs in
test_oracle_statistics.
"""

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from tests.oracles.answering import answer
from tests.oracles.matching import BreakdownValue, breakdown_value, matches

LATER = datetime(2030, 1, 1, tzinfo=UTC)
ABSENT = None


def an_event(number: int, user: str, at: str, kind: str = "visit", properties: str = "{}") -> dict[str, Any]:
    return {
        "event_id": str(UUID(int=number)),
        "user_id": user,
        "event_type": kind,
        "occurred_at": at if "T" in at else f"{at}T12:00:00Z",
        "properties": properties,
    }


def events_of(*lines: str) -> list[dict[str, Any]]:
    """Each line is: user, instant or UTC date (then at noon), a type if it is not a visit, and properties as JSON."""
    events = []
    for number, line in enumerate(lines, start=1):
        user, at, *rest = line.split(maxsplit=3)
        events.append(an_event(number, user, at, *rest))
    return events


def with_key(json_text: str | None) -> dict[str, Any]:
    """An event whose one property is this JSON; None is without it."""
    return an_event(1, "a", "2026-01-01", properties="{}" if json_text is None else f'{{"key": {json_text}}}')


# --- Conditions ---

ONES = ["1", "1.0", "1e0", "10e-1", "1.00", '"1"']
NOT_ONES = [ABSENT, "null", "true", '"1.0"', "1.00000000000000000001", "-1", "[1]", '{"1": 1}']


@pytest.mark.parametrize("value", ONES)
def test_what_equals_1(value: str) -> None:
    # a number when it has exactly the value; a string only as it is
    for text in ("key:1", "key=1", "key in 2,1", "key in 1", "key!=01", "key!: 1"):
        assert matches(with_key(value), [f"properties.{text}"])
    for text in ("key!=1", "key!:1", "key:01", "key:+1", "key: 1", "key in 2, 1", "key in 01,11"):
        assert not matches(with_key(value), [f"properties.{text}"])


@pytest.mark.parametrize("value", NOT_ONES)
def test_what_does_not_equal_1(value: str | None) -> None:
    # `!=` is that `=` does not hold: so it holds without the key, and for arrays and objects
    for text in ("key:1", "key=1", "key in 1,2"):
        assert not matches(with_key(value), [f"properties.{text}"])
    for text in ("key!=1", "key!:1"):
        assert matches(with_key(value), [f"properties.{text}"])


def test_a_string_is_not_a_number_spelled_otherwise() -> None:
    assert not matches(with_key('"1"'), ["properties.key:1.0"])
    assert matches(with_key("1"), ["properties.key:1.0"])
    assert matches(with_key("1"), ["properties.key:1e0"])
    assert matches(with_key("-0.0"), ["properties.key:0"])
    assert matches(with_key("1e400"), ["properties.key:10e399"])
    assert matches(with_key("0.1"), ["properties.key:1E-1"])


@pytest.mark.parametrize(
    ("value", "there"),
    [(ABSENT, False), ("null", True), ("false", True), ('""', True), ("[]", True), ("{}", True), ("0", True)],
)
def test_a_key_exists_whatever_its_value(value: str | None, there: bool) -> None:
    assert matches(with_key(value), ["properties.key exists"]) is there


def test_conditions_on_the_event_type() -> None:
    event = an_event(1, "a", "2026-01-01", "buy")
    for text in ("event_type:buy", "event_type=buy", "event_type in sell,buy", "event_type exists", "event_type!=Buy"):
        assert matches(event, [text])
    for text in ("event_type!=buy", "event_type!:buy", "event_type in sell,Buy", "event_type in "):
        assert not matches(event, [text])
    # a type is a text, and 1.0 another one than 1
    assert not matches(an_event(1, "a", "2026-01-01", "1"), ["event_type:1.0"])


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (r"a,b", ["a", "b"]),
        (r"a\,b", ["a,b"]),  # an escaped comma
        (r"a\\,b", ["a\\", "b"]),  # an escaped backslash, then a comma that separates
        (r"a\\\,b", ["a\\,b"]),  # both escaped
        (r"a\b", [r"a\b"]),  # no comma or backslash after it: itself
        ("a,", ["a", ""]),
    ],
)
def test_a_list_of_values_with_escapes(text: str, values: list[str]) -> None:
    found = [
        value
        for value in ["a", "b", "a,b", "a\\", "a\\,b", r"a\b", ""]
        if matches(with_key(json.dumps(value)), ["properties.key in " + text])
    ]
    assert sorted(found) == sorted(values)


@pytest.mark.parametrize(
    ("text", "properties", "expected"),
    [
        ("properties.a:b!=c", {"a": "b!=c"}, True),  # ":" comes first, the rest is the value
        ("properties.a!=b:c", {"a": "b:c"}, False),
        ("properties.a!=b:c", {}, True),
        ("properties.a in b:c", {"a": "b:c"}, True),  # " in " comes first
        ("properties.a:b in c", {"a": "b in c"}, True),
        ("properties.a:b exists", {"a": "b exists"}, True),
        ("properties.a.b exists", {"a.b": None}, True),  # dots are a part of the key
        ("properties.a.b exists", {"a": {"b": 1}}, False),
        ("properties.a b:c", {"a b": "c"}, True),
        ("properties.a!b:c", {"a!b": "c"}, True),
        ("properties.within:c", {"within": "c"}, True),
        ("properties.a in:c", {"a in": "c"}, True),  # no blank after `in`
        ("properties.a in b in c", {"a": "b in c"}, True),
    ],
)
def test_a_name_ends_at_the_first_operator(text: str, properties: dict[str, Any], expected: bool) -> None:
    assert matches(an_event(1, "a", "2026-01-01", properties=json.dumps(properties)), [text]) is expected


@pytest.mark.parametrize(
    "text", ["properties.a", "properties.a in", "event_type", "event_type  exists", "event_types:a"]
)
def test_a_text_without_an_operator_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a segment"):
        matches(an_event(1, "a", "2026-01-01"), [text])


# --- Values of a breakdown ---


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1.0", "1"),
        ("1e3", "1000"),
        ("0.50", "0.5"),
        ("-0.0", "0"),
        ("-0", "0"),
        ("0e5", "0"),
        ("-12.340e1", "-123.4"),
        ("12345e-7", "0.0012345"),
        ("1E-7", "0.0000001"),
        ("100", "100"),
        ("1e23", "1" + "0" * 23),
        ("9007199254740993", "9007199254740993"),
        ('"1.0"', "1.0"),  # a string, as it is
        ('""', ""),
        ("true", "true"),
        ("false", "false"),
        ("null", "null"),
    ],
)
def test_the_value_of_a_property_as_a_text(value: str, expected: str) -> None:
    assert breakdown_value(with_key(value), "properties.key") == BreakdownValue("value", expected)


def test_what_has_no_value_in_a_breakdown() -> None:
    assert breakdown_value(with_key(ABSENT), "properties.key") == BreakdownValue("missing")
    assert breakdown_value(with_key("[]"), "properties.key") == BreakdownValue("other")
    assert breakdown_value(with_key("{}"), "properties.key") == BreakdownValue("other")
    assert breakdown_value(with_key(ABSENT), "event_type") == BreakdownValue("value", "visit")


# --- Active users, stickiness ---


def test_active_users_have_a_window_of_seven_days_unless_another_is_asked() -> None:
    events = events_of("a 2026-01-01", "b 2026-01-07", "a 2026-01-08")
    asked = {"from": "2026-01-07", "to": "2026-01-08"}
    # 7th: 1st to 7th {a, b}; 8th: 2nd to 8th {a, b}
    assert [row["users"] for row in answer(events, "active-users", asked, LATER)] == [2, 2]
    assert [row["users"] for row in answer(events, "active-users", {**asked, "window": "1d"}, LATER)] == [1, 1]
    far = {"from": "2026-01-30", "to": "2026-02-07", "window": "30d"}
    # 30 dates that end with 30 Jan begin with the 1st; b's 7th leaves on 6 Feb, a's 8th on 7 Feb
    assert [row["users"] for row in answer(events, "active-users", far, LATER)] == [2, 2, 2, 2, 2, 2, 2, 1, 0]
    assert answer(events, "stickiness", {"from": "2026-01-08", "to": "2026-01-08"}, LATER) == [
        {"date": "2026-01-08", "dau": 1, "mau": 2, "stickiness": 0.5}
    ]
    assert answer(events, "dau", {"from": "2026-01-08", "to": "2026-01-08"}, LATER) == [
        {"date": "2026-01-08", "users": 1}
    ]


# --- Lifecycle ---


def test_the_days_of_users_who_come_stay_go_and_come_again() -> None:
    events = events_of(
        "old 2025-06-01", "a 2026-01-01", "a 2026-01-02", "old 2026-01-02", "a 2026-01-04", "b 2026-01-04"
    )
    rows = answer(events, "lifecycle", {"from": "2026-01-01", "to": "2026-01-05"}, datetime(2026, 1, 4, 12, tzinfo=UTC))
    keys = ["start", "new", "returning", "resurrected", "dormant", "complete"]
    assert rows == [
        dict(zip(keys, row, strict=True))
        for row in [
            ("2026-01-01", 1, 0, 0, 0, True),  # a is new, the day before had nobody
            ("2026-01-02", 0, 1, 1, 0, True),  # a again; old, last seen in June
            ("2026-01-03", 0, 0, 0, 2, True),  # both stay away
            ("2026-01-04", 1, 0, 1, 0, False),  # b is new; a was away on the 3rd; it is still the 4th
            ("2026-01-05", 0, 0, 0, None, False),  # has not begun
        ]
    ]


def test_lifecycle_looks_at_the_period_before_the_range_and_widens_to_whole_weeks() -> None:
    # 2026-01-07 is a Wednesday: its week begins on Monday the 5th, Sunday the 4th, or Saturday the 3rd.
    events = events_of("a 2025-12-30", "a 2026-01-05", "b 2026-01-03", "b 2026-01-11", "c 2026-01-04")
    asked = {"from": "2026-01-07", "to": "2026-01-07", "interval": "week"}

    def row(**more: str) -> tuple[object, ...]:
        (only,) = answer(events, "lifecycle", {**asked, **more}, LATER)
        return tuple(only.values())

    # 5th–11th: a, b, both also in 29 Dec–4 Jan; c only there
    assert row() == ("2026-01-05", 0, 2, 0, 1, True)
    # 4th–10th: a, c. Before, 28 Dec–3 Jan: a, b
    assert row(week_start="sunday") == ("2026-01-04", 1, 1, 0, 1, True)
    # 3rd–9th: a, b, c. Before, 27 Dec–2 Jan: a
    assert row(week_start="saturday") == ("2026-01-03", 2, 1, 0, 0, True)
    # January: all; December: a
    assert row(interval="month") == ("2026-01-01", 2, 1, 0, 0, True)


def test_who_is_new_goes_by_the_local_date_and_by_matching_events() -> None:
    # St. John's went back from 00:01 on 2010-11-07 to 23:01 on the 6th: a's later event has the earlier date.
    events = events_of("a 2010-11-07T02:30:30Z buy", "a 2010-11-07T02:31:00Z buy", "a 2010-11-01 look")
    asked = {"from": "2010-11-06", "to": "2010-11-07", "tz": "America/St_Johns", "segment": ["event_type:buy"]}
    found = answer(events, "lifecycle", asked, LATER)
    assert [(row["new"], row["returning"]) for row in found] == [(1, 0), (0, 1)]
    # so it is for a cohort of users by their first day
    asked = {"start_date": "2010-11-06", "windows": "1", "tz": "America/St_Johns", "segment": ["event_type:buy"]}
    assert [row["size"] for row in answer(events, "retention", asked, LATER)["cohorts"]] == [1, 0]


def test_the_day_that_apia_skipped_has_nobody_and_is_the_day_before_another() -> None:
    # Apia had no 30 December 2011: 10:00Z on the 30th is midnight of the 31st.
    events = events_of("a 2011-12-30T09:00:00Z", "a 2011-12-30T11:00:00Z")
    asked = {"from": "2011-12-29", "to": "2011-12-31", "tz": "Pacific/Apia"}
    found = answer(events, "lifecycle", asked, LATER)
    assert [tuple(row.values())[1:5] for row in found] == [(1, 0, 0, 0), (0, 0, 0, 1), (0, 0, 1, 0)]
    counts = answer(events, "event-counts", asked, LATER)
    assert [(row["start"], row["count"]) for row in counts] == [("2011-12-29", 1), ("2011-12-30", 0), ("2011-12-31", 1)]
    hours = answer(events, "event-counts", {**asked, "interval": "hour"}, LATER)
    assert len(hours) == 48
    assert [row["start"] for row in hours if row["count"]] == ["2011-12-29T23:00:00-10:00", "2011-12-31T01:00:00+14:00"]
    asked = {**asked, "from": "2011-12-30", "to": "2011-12-30", "interval": "hour"}
    assert answer(events, "event-counts", asked, LATER) == []


# --- Event counts ---


def hours_of(tz: str, first: str, last: str | None = None, *lines: str) -> list[tuple[str, int, int]]:
    asked = {"from": first, "to": last or first, "tz": tz, "interval": "hour"}
    return [
        (row["start"], row["count"], row["users"])
        for row in answer(events_of(*lines), "event-counts", asked, datetime(2026, 1, 1, tzinfo=UTC))
    ]


def test_an_hour_that_berlin_skips_is_none() -> None:
    # 2026-03-29: 01:59:59+01:00 is followed, at 01:00Z, by 03:00:00+02:00
    found = hours_of("Europe/Berlin", "2026-03-29", None, "a 2026-03-29T00:59:59Z", "a 2026-03-29T01:00:00Z")
    assert len(found) == 23
    assert found[:3] == [
        ("2026-03-29T00:00:00+01:00", 0, 0),
        ("2026-03-29T01:00:00+01:00", 1, 1),
        ("2026-03-29T03:00:00+02:00", 1, 1),
    ]
    assert found[-1] == ("2026-03-29T23:00:00+02:00", 0, 0)


def test_an_hour_that_berlin_repeats_is_two() -> None:
    # 2026-10-25: 02:59:59+02:00 is followed, at 01:00Z, by 02:00:00+01:00
    found = hours_of(
        "Europe/Berlin",
        "2026-10-25",
        None,
        "a 2026-10-25T00:00:00Z",
        "b 2026-10-25T00:59:59.999999Z",
        "a 2026-10-25T00:30:00Z",
        "a 2026-10-25T01:00:00Z",
    )
    assert len(found) == 25
    assert found[1:5] == [
        ("2026-10-25T01:00:00+02:00", 0, 0),
        ("2026-10-25T02:00:00+02:00", 3, 2),
        ("2026-10-25T02:00:00+01:00", 1, 1),
        ("2026-10-25T03:00:00+01:00", 0, 0),
    ]


def test_lord_howe_moves_its_clocks_by_half_an_hour() -> None:
    # Spring, 2026-10-04: 02:00+10:30 becomes 02:30+11:00, at 15:30Z on the 3rd; the hour of 2 has half an hour.
    found = hours_of("Australia/Lord_Howe", "2026-10-04", None, "a 2026-10-03T15:29:59Z", "a 2026-10-03T15:30:00Z")
    assert len(found) == 24
    assert found[1:4] == [
        ("2026-10-04T01:00:00+10:30", 1, 1),
        ("2026-10-04T02:30:00+11:00", 1, 1),
        ("2026-10-04T03:00:00+11:00", 0, 0),
    ]
    # Autumn, 2026-04-05: 02:00+11:00 becomes 01:30+10:30, at 15:00Z on the 4th; the half from 1:30 on comes again.
    found = hours_of("Australia/Lord_Howe", "2026-04-05", None, "a 2026-04-04T14:59:59Z", "a 2026-04-04T15:00:00Z")
    assert len(found) == 25
    assert found[1:4] == [
        ("2026-04-05T01:00:00+11:00", 1, 1),
        ("2026-04-05T01:30:00+10:30", 1, 1),
        ("2026-04-05T02:00:00+10:30", 0, 0),
    ]


def test_hours_of_two_dates_can_stand_between_each_other() -> None:
    # St. John's, 2010: at 00:01 on 7 November it was 23:01 on the 6th again.
    found = hours_of("America/St_Johns", "2010-11-06", "2010-11-07", "a 2010-11-07T02:30:59Z", "b 2010-11-07T03:29:59Z")
    assert [hour[0] for hour in found[23:27]] == [
        "2010-11-06T23:00:00-02:30",
        "2010-11-07T00:00:00-02:30",
        "2010-11-06T23:01:00-03:30",
        "2010-11-07T00:00:00-03:30",
    ]
    assert [hour[1] for hour in found[23:27]] == [0, 1, 1, 0]
    # Of one of the dates only its own hours are listed.
    assert len(hours_of("America/St_Johns", "2010-11-06")) == 25
    assert hours_of("America/St_Johns", "2010-11-07")[0][0] == "2010-11-07T00:00:00-02:30"


def test_an_offset_with_seconds() -> None:
    # Monrovia was 44 minutes and 30 seconds behind until 00:00 on 1972-01-07, then at once at 00:44:30.
    found = hours_of("Africa/Monrovia", "1972-01-06", "1972-01-07")
    assert len(found) == 48
    assert [hour[0] for hour in found[23:26]] == [
        "1972-01-06T23:00:00-00:44:30",
        "1972-01-07T00:44:30+00:00",
        "1972-01-07T01:00:00+00:00",
    ]
    assert hours_of("UTC", "2026-01-01")[1][0] == "2026-01-01T01:00:00+00:00"
    assert hours_of("Asia/Kathmandu", "2026-01-01")[0][0] == "2026-01-01T00:00:00+05:45"


def test_events_of_days_weeks_and_months() -> None:
    events = events_of("a 2026-01-31", "a 2026-02-01", "a 2026-02-01", "b 2026-02-01", "a 2026-03-01")
    asked = {"from": "2026-01-31", "to": "2026-02-02"}
    assert answer(events, "event-counts", asked, LATER) == [
        {"start": "2026-01-31", "count": 1, "users": 1},
        {"start": "2026-02-01", "count": 3, "users": 2},
        {"start": "2026-02-02", "count": 0, "users": 0},
    ]
    # 31 January is a Saturday, 2 February a Monday
    assert answer(events, "event-counts", {**asked, "interval": "week"}, LATER) == [
        {"start": "2026-01-26", "count": 4, "users": 2},
        {"start": "2026-02-02", "count": 0, "users": 0},
    ]
    assert answer(events, "event-counts", {**asked, "interval": "week", "week_start": "sunday"}, LATER) == [
        {"start": "2026-01-25", "count": 1, "users": 1},
        {"start": "2026-02-01", "count": 3, "users": 2},
    ]
    assert answer(events, "event-counts", {**asked, "interval": "month"}, LATER) == [
        {"start": "2026-01-01", "count": 1, "users": 1},
        {"start": "2026-02-01", "count": 3, "users": 2},
    ]


# --- Top events ---


def test_top_events_by_events_or_by_users() -> None:
    events = events_of(
        "a 2026-01-01 x", "a 2026-01-01 x", "a 2026-01-01 x", "a 2026-01-01 z", "b 2026-01-01 z", "b 2026-01-01 y"
    )
    asked = {"from": "2026-01-01", "to": "2026-01-01"}
    x = {"event_type": "x", "count": 3, "users": 1, "share": 0.5}
    y = {"event_type": "y", "count": 1, "users": 1, "share": 1 / 6}
    z = {"event_type": "z", "count": 2, "users": 2, "share": 2 / 6}
    assert answer(events, "top-events", asked, LATER) == [x, z, y]
    # x and y have one user each: by name, not by count; the share is one of events all the same
    assert answer(events, "top-events", {**asked, "by": "users"}, LATER) == [z, x, y]
    assert answer(events, "top-events", {**asked, "by": "users", "limit": "1"}, LATER) == [z]


# --- Retention in brackets ---

COMERS_BACK = events_of("a 2026-01-01", "a 2026-01-03", "b 2026-01-01", "b 2026-01-05", "c 2026-01-02", "c 2026-01-03")


def cells_of(data: dict[str, Any], number: int = 0) -> list[tuple[object, ...] | None]:
    return [cell and tuple(cell.values()) for cell in data["cohorts"][number]["cells"]]


def test_brackets_are_windows_taken_together() -> None:
    asked = {"start_date": "2026-01-01", "brackets": "0,1,3", "cohorts": "2"}
    data = answer(COMERS_BACK, "retention", asked, datetime(2026, 1, 4, tzinfo=UTC))
    # 0 alone; 1 and 2: 2 and 3 January; 3 alone: the 4th, today. b's 5th is window 4, which is not asked.
    assert data["cohorts"][0] == {
        "start": "2026-01-01",
        "size": 2,
        "cells": [
            {"window": 0, "to": 0, "users": 2, "rate": 1.0, "complete": True},
            {"window": 1, "to": 2, "users": 1, "rate": 0.5, "complete": True},
            {"window": 3, "to": 3, "users": 0, "rate": 0.0, "complete": False},
        ],
    }
    # c's 1 and 2 are 3 and 4 January: begun, not complete; 3 is the 5th
    assert cells_of(data, 1) == [(0, 0, 1, 1.0, True), (1, 2, 1, 1.0, False), None]
    assert data["overall"] == [
        {"window": 0, "to": 0, "users": 3, "size": 3, "rate": 1.0},
        {"window": 1, "to": 2, "users": 1, "size": 2, "rate": 0.5},
        {"window": 3, "to": 3, "users": 0, "size": 0, "rate": None},
    ]


def test_the_last_bracket_ends_with_the_windows_asked() -> None:
    asked = {"start_date": "2026-01-01", "brackets": "0,1,3", "windows": "5"}
    data = answer(COMERS_BACK, "retention", asked, LATER)
    assert len(data["cohorts"]) == 6  # windows + 1
    assert cells_of(data) == [(0, 0, 2, 1.0, True), (1, 2, 1, 0.5, True), (3, 5, 1, 0.5, True)]
    # or after: b's window 4 counts for 1 and 2 as well
    data = answer(COMERS_BACK, "retention", {**asked, "return": "on_or_after"}, LATER)
    assert cells_of(data) == [(0, 0, 2, 1.0, True), (1, 2, 2, 1.0, True), (3, 5, 1, 0.5, True)]
    # but not when the last window asked is 3, the last number
    data = answer(COMERS_BACK, "retention", {**asked, "windows": None, "return": "on_or_after"}, LATER)
    assert len(data["cohorts"]) == 4
    assert cells_of(data) == [(0, 0, 2, 1.0, True), (1, 2, 1, 0.5, True), (3, 3, 0, 0.0, True)]


def test_without_brackets_there_are_windows_as_before() -> None:
    data = answer(COMERS_BACK, "retention", {"start_date": "2026-01-01"}, LATER)
    assert data["cohorts"][0]["cells"][2] == {"window": 2, "users": 1, "rate": 0.5, "complete": True}
    assert len(data["overall"]) == len(data["cohorts"]) == 4
    assert data["overall"][1] == {"window": 1, "users": 1, "size": 3, "rate": 1 / 3}


# --- Breakdowns ---

BY_KEY = events_of(
    'a 2026-01-01 visit {"key": 1}',
    'b 2026-01-01 visit {"key": "1"}',
    'c 2026-01-01 visit {"key": 1.0}',
    'a 2026-01-01 visit {"key": "b"}',
    'b 2026-01-01 visit {"key": "a"}',
    'a 2026-01-01 visit {"key": []}',
    'b 2026-01-01 visit {"key": {"a": 1}}',
    "d 2026-01-01 visit {}",
    "d 2026-01-01 visit {}",
    'e 2025-12-31 visit {"key": "b"}',
    'e 2025-12-31 visit {"key": "early"}',
)


def groups_of(data: dict[str, Any]) -> list[tuple[object, object, object]]:
    return [(row["group"], row["kind"], row["data"]) for row in data["groups"]]


def test_groups_then_missing_then_other() -> None:
    asked = {"from": "2026-01-01", "to": "2026-01-01", "breakdown": "properties.key", "groups": "2"}

    def users(number: int) -> list[dict[str, object]]:
        return [{"date": "2026-01-01", "users": number}]

    data = answer(BY_KEY, "dau", asked, LATER)
    assert data["all"] == users(4)
    # "1" thrice: the number 1, 1.0 and the string; "a" and "b" once each that day, "a" before "b"
    assert groups_of(data) == [
        ("1", "value", users(3)),
        ("a", "value", users(1)),
        (None, "missing", users(1)),
        (None, "other", users(2)),  # "b" of a, the array of a, the object of b
    ]
    data = answer(BY_KEY, "dau", {**asked, "groups": None}, LATER)
    assert groups_of(data) == [
        ("1", "value", users(3)),
        ("a", "value", users(1)),
        ("b", "value", users(1)),
        (None, "missing", users(1)),
        (None, "other", users(2)),
    ]


def test_active_users_rank_by_the_range_and_count_the_days_before() -> None:
    asked = {"from": "2026-01-01", "to": "2026-01-01", "breakdown": "properties.key", "groups": "3"}
    found = groups_of(answer(BY_KEY, "active-users", asked, LATER))
    # b of e, on the day before, does not put "b" before "a", and yet e is one of its users; "early" is no group
    assert [(value, kind, data[0]["users"]) for value, kind, data in found] == [  # type: ignore[index]
        ("1", "value", 3),
        ("a", "value", 1),
        ("b", "value", 2),
        (None, "missing", 1),
        (None, "other", 3),  # a and b with the array and the object, and e with "early"
    ]


def test_an_empty_missing_and_other_are_listed_and_a_type_is_never_missing() -> None:
    events = events_of("a 2026-01-01 y", "a 2026-01-01 x")
    asked = {"from": "2026-01-01", "to": "2026-01-01", "breakdown": "event_type"}
    # equal counts: x before y; the share is one of the group's own events
    assert groups_of(answer(events, "top-events", asked, LATER)) == [
        ("x", "value", [{"event_type": "x", "count": 1, "users": 1, "share": 1.0}]),
        ("y", "value", [{"event_type": "y", "count": 1, "users": 1, "share": 1.0}]),
        (None, "other", []),
    ]
    asked = {**asked, "breakdown": "properties.key"}
    assert [(value, kind) for value, kind, _ in groups_of(answer([], "top-events", asked, LATER))] == [
        (None, "missing"),
        (None, "other"),
    ]


def test_a_lifecycle_ranks_by_the_widened_range_and_is_new_by_value() -> None:
    # The week of Wednesday 2026-01-07 is 5th–11th; "b" leads in it, "a" on the 7th and before.
    events = events_of(
        'u 2026-01-07 visit {"key": "a"}',
        'u 2026-01-11 visit {"key": "b"}',
        'v 2026-01-11 visit {"key": "b"}',
        'u 2025-12-30 visit {"key": "a"}',
        'v 2025-12-30 visit {"key": "a"}',
    )
    asked = {"from": "2026-01-07", "to": "2026-01-07", "interval": "week", "breakdown": "properties.key", "groups": "1"}
    data = answer(events, "lifecycle", asked, LATER)
    counted = [(row["group"], tuple(row["data"][0].values())[1:5]) for row in data["groups"]]
    assert tuple(data["all"][0].values())[1:5] == (0, 2, 0, 0)
    assert counted == [
        ("b", (2, 0, 0, 0)),  # both users have their first "b" in the week
        (None, (0, 0, 0, 0)),  # missing
        (None, (0, 1, 0, 1)),  # other is "a": u returns, v stays away
    ]
    # by the hours of the 7th alone "a" leads
    data = answer(events, "event-counts", {**asked, "interval": "hour"}, LATER)
    assert [row["group"] for row in data["groups"]] == ["a", None, None]


def test_a_retention_ranks_the_cohort_events_of_all_its_dates() -> None:
    events = events_of(
        'u 2026-01-01 signup {"key": "a"}',
        'u 2026-01-02 visit {"key": "a"}',
        'v 2026-01-03 signup {"key": "b"}',
        'w 2026-01-03 signup {"key": "b"}',
        'u 2026-01-02 visit {"key": "c"}',
        'u 2026-01-02 visit {"key": "c"}',
        'u 2026-01-02 visit {"key": "c"}',
        'x 2026-01-04 signup {"key": "c"}',
        'y 2026-01-04 signup {"key": "c"}',
        'z 2026-01-04 signup {"key": "c"}',
    )
    asked = {
        "start_date": "2026-01-01",
        "windows": "1",
        "cohorts": "2",
        "cohort_event": "signup",
        "breakdown": "properties.key",
    }
    # Cohorts of the 1st and 2nd, with their windows up to the 3rd: "b" has two signups there, "a" one, "c" none.
    data = answer(events, "retention", asked, LATER)
    assert [row["group"] for row in data["groups"]] == ["b", "a", None, None]
    cells = {row["group"]: (row["data"]["cohorts"][0]["size"], cells_of(row["data"])) for row in data["groups"][:2]}
    assert cells == {
        "b": (0, [(0, 0, None, True), (1, 0, None, True)]),
        "a": (1, [(0, 1, 1.0, True), (1, 1, 1.0, True)]),
    }
    # without a cohort event every event is one of a cohort, and "c" leads with its visits
    data = answer(events, "retention", {**asked, "cohort_event": None}, LATER)
    assert [row["group"] for row in data["groups"]] == ["c", "a", "b", None, None]


def test_conditions_come_before_the_breakdown() -> None:
    asked = {"from": "2026-01-01", "to": "2026-01-01", "breakdown": "properties.key"}
    data = answer(BY_KEY, "event-counts", {**asked, "segment": ["properties.key exists", "properties.key!=1"]}, LATER)
    assert data["all"][0]["count"] == 4
    assert [(row["group"], row["data"][0]["count"]) for row in data["groups"]] == [
        ("a", 1),
        ("b", 1),
        (None, 0),
        (None, 2),
    ]


def test_a_parameter_of_another_statistic_is_refused() -> None:
    with pytest.raises(ValueError, match="not parameters of dau"):
        answer([], "dau", {"from": "2026-01-01", "to": "2026-01-01", "limit": "3"}, LATER)
