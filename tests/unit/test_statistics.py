"""Daily active users and top events: their parameters, hand-worked cases, and properties against the naive oracle.

The core computes from a snapshot of activity; here `ask` builds that snapshot from plain events with `Tallying`, as a
store without precomputed activity does. Whether the stores build the same one is the contract suite's matter.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap

from eventcore.activity import ActivityQuery, ActivitySnapshot, Tallying
from eventcore.answers import Question
from eventcore.calendar import to_datetime, to_instant
from eventcore.conditions import Selection, read_properties
from eventcore.errors import InvalidQuestion
from eventcore.statistics import DailyActiveUsers, TopEvents
from tests.oracles import statistics as oracle

NOON = time(12)
LATER_US = to_instant(datetime(2030, 1, 1, tzinfo=UTC))


# Factories: events that happened, and what is computed from them. The tests of retention use them too.


class Happening(NamedTuple):
    """An event without its id."""

    user_id: str
    instant_us: int
    event_type: str = "visit"
    properties: Mapping[str, Any] = MappingProxyType({})


def happened(*lines: str) -> list[Happening]:
    """Each line is: user, instant or UTC date (then at noon), and a type if it is not a visit."""
    happenings = []
    for line in lines:
        user_id, at, *event_type = line.split()
        moment = datetime.fromisoformat(at if "T" in at else f"{at}T12:00:00Z")
        happenings.append(Happening(user_id, to_instant(moment), *event_type))
    return happenings


def snapshot_of(query: ActivityQuery, happenings: Sequence[Happening]) -> ActivitySnapshot:
    """What a store that read every event would answer."""
    tallying = Tallying(query)
    keys: dict[str, int] = {}
    for user_id, instant_us, event_type, properties in happenings:
        key = keys.setdefault(user_id, len(keys))
        slot = tallying.slot_at(instant_us)
        for number, selection in enumerate(query.selections):
            if slot is not None and selection.matches(event_type, read_properties(json.dumps(dict(properties)))):
                tallying.add(number, slot, event_type, BitMap([key]), 1)
    return tallying.snapshot("events")


def ask(question: Question, happenings: Sequence[Happening], now_us: int = LATER_US) -> Any:
    return question.compute(snapshot_of(question.query("default"), happenings), now_us)


def for_oracle(happenings: Sequence[Happening]) -> list[dict[str, Any]]:
    return [
        {
            "event_id": str(UUID(int=number)),
            "user_id": user_id,
            "event_type": event_type,
            "occurred_at": to_datetime(instant_us).isoformat(),
            "properties": properties,
        }
        for number, (user_id, instant_us, event_type, properties) in enumerate(happenings, start=1)
    ]


# Strategies: a scene is a zone and a date about which something is odd in it.

SCENES = [
    ("UTC", date(2024, 2, 29)),
    ("Asia/Kathmandu", date(1986, 1, 1)),  # +05:30 became +05:45
    ("America/St_Johns", date(2010, 11, 6)),  # at 00:01 of the 7th the clocks went back to 23:01 of the 6th
    ("America/St_Johns", date(2010, 3, 14)),
    ("Pacific/Apia", date(2011, 12, 30)),  # a date that was skipped
    ("Africa/Monrovia", date(1972, 1, 7)),  # -00:44:30 became +00:00
    ("Australia/Lord_Howe", date(2019, 4, 7)),  # half an hour back
    ("America/Sao_Paulo", date(2018, 2, 17)),  # a day of 25 hours
    ("America/Sao_Paulo", date(2018, 11, 4)),  # a day that began at 01:00
    ("Europe/Kyiv", date(2024, 3, 31)),
    ("Europe/Kyiv", date(2024, 10, 27)),
]
CLOCK_TIMES = [
    time(),
    time(0, 0, 30),
    time(0, 59, 59),
    time(3, 30),
    NOON,
    time(23, 1),
    time(23, 30),
    time(23, 59, 59, 999_999),
]
SEGMENTS = [
    "event_type:a",
    "event_type=b",
    "properties.country:UA",
    "properties.n=1",
    "properties.a.b:true",
    "properties.none:x",
]

scenes = st.sampled_from(SCENES)
segments = st.lists(st.sampled_from(SEGMENTS), max_size=2)
properties = st.fixed_dictionaries(
    {},
    optional={
        "country": st.sampled_from(["UA", "UK"]),
        "n": st.sampled_from([1, 1.0, 2, "1", None]),
        "a.b": st.booleans(),
    },
)


def days_around(day: date, *, before: int, after: int) -> st.SearchStrategy[date]:
    return st.integers(-before, after).map(lambda days: day + timedelta(days=days))


def instants(zone_name: str, days: st.SearchStrategy[date]) -> st.SearchStrategy[int]:
    """Clock times about local midnight and others, on both sides of what clocks repeat."""
    return st.builds(
        lambda day, clock, fold: to_instant(datetime.combine(day, clock.replace(fold=fold), ZoneInfo(zone_name))),
        days,
        st.sampled_from(CLOCK_TIMES),
        st.integers(0, 1),
    )


def happenings_about(zone_name: str, days: st.SearchStrategy[date]) -> st.SearchStrategy[list[Happening]]:
    return st.lists(
        st.builds(Happening, st.sampled_from("uvwxyz"), instants(zone_name, days), st.sampled_from("abc"), properties),
        max_size=25,
    )


class RangeCase(NamedTuple):
    zone_name: str
    happenings: list[Happening]
    first: date
    last: date
    segments: list[str]


@st.composite
def range_cases(draw: st.DrawFn) -> RangeCase:
    zone_name, day = draw(scenes)
    first, last = sorted(draw(st.tuples(*[days_around(day, before=3, after=3)] * 2)))
    happenings = draw(happenings_about(zone_name, days_around(day, before=4, after=4)))
    return RangeCase(zone_name, happenings, first, last, draw(segments))


# Daily active users


def test_every_date_of_the_range_is_listed_with_its_distinct_users() -> None:
    happenings = happened("u 2026-03-01", "u 2026-03-01", "v 2026-03-01", "u 2026-03-03", "w 2026-03-04")
    assert ask(DailyActiveUsers.parse(from_="2026-03-01", to="2026-03-03"), happenings) == [
        {"date": "2026-03-01", "users": 2},
        {"date": "2026-03-02", "users": 0},
        {"date": "2026-03-03", "users": 1},
    ]


def test_a_date_that_the_zone_skipped_is_listed_with_zero() -> None:
    happenings = happened("u 2011-12-30T09:59:59Z", "v 2011-12-30T10:00:00Z")  # midnight was at 10:00 UTC
    assert ask(DailyActiveUsers.parse(from_="2011-12-29", to="2011-12-31", tz="Pacific/Apia"), happenings) == [
        {"date": "2011-12-29", "users": 1},
        {"date": "2011-12-30", "users": 0},
        {"date": "2011-12-31", "users": 1},
    ]


def test_a_date_of_two_pieces_counts_a_user_of_both_once() -> None:
    happenings = happened("u 2010-11-07T02:29:59Z", "u 2010-11-07T02:31:00Z", "v 2010-11-07T02:30:00Z")
    question = DailyActiveUsers.parse(from_="2010-11-06", to="2010-11-07", tz="America/St_Johns")
    assert ask(question, happenings) == [{"date": "2010-11-06", "users": 1}, {"date": "2010-11-07", "users": 1}]


def test_all_segments_must_hold_on_the_same_event() -> None:
    happenings = [
        Happening("u", 0, "purchase", {"country": "UK"}),
        Happening("u", 0, "visit", {"country": "UA"}),
        Happening("v", 0, "purchase", {"country": "UA"}),
    ]
    question = DailyActiveUsers.parse(
        from_="1970-01-01", to="1970-01-01", segment=["event_type:purchase", "properties.country:UA"]
    )
    assert ask(question, happenings) == [{"date": "1970-01-01", "users": 1}]


def test_two_types_at_once_match_nothing() -> None:
    question = DailyActiveUsers.parse(from_="2026-03-01", to="2026-03-01", segment=["event_type:a", "event_type:b"])
    assert ask(question, happened("u 2026-03-01 a", "u 2026-03-01 b")) == [{"date": "2026-03-01", "users": 0}]


@settings(max_examples=150, deadline=None)
@given(range_cases())
def test_daily_active_users_are_what_the_oracle_counts(case: RangeCase) -> None:
    question = DailyActiveUsers.parse(from_=case.first, to=case.last, tz=case.zone_name, segment=case.segments)
    assert ask(question, case.happenings) == oracle.dau(
        for_oracle(case.happenings), first=case.first, last=case.last, tz=case.zone_name, segments=case.segments
    )


# Top events


def test_top_events_are_ranked_by_count_then_by_code_point() -> None:
    happenings = happened(
        "u 2026-03-01 b", "u 2026-03-02 b", "v 2026-03-01 é", "v 2026-03-01 Z", "u 2026-03-01 a", "u 2026-03-09 a"
    )
    assert ask(TopEvents.parse(from_="2026-03-01", to="2026-03-02"), happenings) == [
        {"event_type": "b", "count": 2, "users": 1, "share": 0.4},
        {"event_type": "Z", "count": 1, "users": 1, "share": 0.2},
        {"event_type": "a", "count": 1, "users": 1, "share": 0.2},
        {"event_type": "é", "count": 1, "users": 1, "share": 0.2},
    ]


def test_share_is_of_all_matching_events_also_those_beyond_the_limit() -> None:
    happenings = happened("u 2026-03-01 a", "v 2026-03-01 a", "u 2026-03-01 b", "u 2026-03-01 c")
    assert ask(TopEvents.parse(from_="2026-03-01", to="2026-03-01", limit=1), happenings) == [
        {"event_type": "a", "count": 2, "users": 2, "share": 0.5}
    ]


def test_share_is_of_the_events_that_the_segments_leave() -> None:
    happenings = happened("u 2026-03-01 a", "v 2026-03-01 b")
    question = TopEvents.parse(from_="2026-03-01", to="2026-03-01", segment=["event_type:a"])
    assert ask(question, happenings) == [{"event_type": "a", "count": 1, "users": 1, "share": 1.0}]


def test_without_events_there_are_no_top_events() -> None:
    assert ask(TopEvents.parse(from_="2026-03-01", to="2026-03-01"), []) == []


def test_top_events_ask_for_one_span_however_long_the_range_is() -> None:
    question = TopEvents.parse(from_="2025-01-01", to="2025-12-31", tz="Europe/Kyiv")
    new_year = datetime(2025, 1, 1, tzinfo=ZoneInfo("Europe/Kyiv"))
    assert question.query("default") == ActivityQuery(
        project="default",
        slots=(((to_instant(new_year), to_instant(new_year.replace(year=2026))),),),
        selections=(Selection(),),
        split="event_type",
    )


@settings(max_examples=150, deadline=None)
@given(range_cases(), st.integers(1, 4))
def test_top_events_are_what_the_oracle_counts(case: RangeCase, limit: int) -> None:
    question = TopEvents.parse(from_=case.first, to=case.last, limit=limit, tz=case.zone_name, segment=case.segments)
    assert ask(question, case.happenings) == oracle.top_events(
        for_oracle(case.happenings),
        first=case.first,
        last=case.last,
        tz=case.zone_name,
        limit=limit,
        segments=case.segments,
    )


# Parameters

MARCH = {"from_": "2026-03-01", "to": "2026-03-31"}


def test_parameters_are_read_as_texts_or_as_values() -> None:
    as_values = TopEvents.parse(from_=date(2026, 3, 1), to=date(2026, 3, 31), limit=1_000)
    assert as_values == TopEvents.parse(from_="2026-03-01", to="2026-03-31", limit="1000")
    assert (as_values.first, as_values.last, as_values.limit) == (date(2026, 3, 1), date(2026, 3, 31), 1_000)


def test_the_reporting_zone_holds_where_no_other_is_named() -> None:
    assert DailyActiveUsers.parse(**MARCH).zone == ZoneInfo("UTC")
    assert DailyActiveUsers.parse(**MARCH, reporting_zone="Europe/Kyiv").zone == ZoneInfo("Europe/Kyiv")
    assert DailyActiveUsers.parse(**MARCH, tz="UTC", reporting_zone="Europe/Kyiv").zone == ZoneInfo("UTC")


def test_the_longest_range_is_ten_years() -> None:
    longest = DailyActiveUsers.parse(from_="2016-01-01", to=date(2016, 1, 1) + timedelta(days=3_659))
    assert len(longest.query("default").slots) == 3_660


@pytest.mark.parametrize(
    ("parameters", "field", "code"),
    [
        ({"from_": None}, "from", "missing_parameter"),
        ({"to": None}, "to", "missing_parameter"),
        ({"from_": ""}, "from", "invalid_date"),
        ({"from_": "2026-02-30"}, "from", "invalid_date"),
        ({"from_": "20260301"}, "from", "invalid_date"),
        ({"from_": "2026-W10-1"}, "from", "invalid_date"),
        ({"from_": " 2026-03-01"}, "from", "invalid_date"),
        ({"from_": "202\uff16-03-01"}, "from", "invalid_date"),
        ({"from_": "2026-03-01T00:00:00Z"}, "from", "invalid_date"),
        ({"from_": datetime(2026, 3, 1, tzinfo=UTC)}, "from", "invalid_date"),
        ({"from_": "1969-12-30"}, "from", "invalid_date"),
        ({"from_": date(1969, 12, 30)}, "from", "invalid_date"),
        ({"to": "9999-01-01"}, "to", "invalid_date"),
        ({"to": date.max}, "to", "invalid_date"),
        ({"to": "yesterday"}, "to", "invalid_date"),
        ({"from_": "2026-04-01"}, "from", "invalid_range"),
        ({"from_": "2016-03-20"}, "to", "range_too_long"),  # 3,664 days
        ({"from_": "1970-01-01", "to": "9998-12-31"}, "to", "range_too_long"),
        ({"tz": ""}, "tz", "unknown_time_zone"),
        ({"tz": "Mars/Base"}, "tz", "unknown_time_zone"),
        ({"tz": "../../etc/passwd"}, "tz", "unknown_time_zone"),
        ({"tz": "UTC\0"}, "tz", "unknown_time_zone"),
        ({"segment": ["country:UA"]}, "segment", "invalid_segment"),
        ({"segment": ["event_type:a"] * 50}, "segment", "too_many_segments"),
    ],
    ids=str,
)
def test_a_parameter_without_an_answer_is_refused_by_name(parameters: dict[str, Any], field: str, code: str) -> None:
    for statistic in (DailyActiveUsers, TopEvents):
        with pytest.raises(InvalidQuestion) as refused:
            statistic.parse(**{**MARCH, **parameters})
        assert (refused.value.field, refused.value.code) == (field, code)


def test_a_range_of_one_day_too_many_is_refused_with_the_limit() -> None:
    with pytest.raises(InvalidQuestion, match="3660 days"):
        DailyActiveUsers.parse(from_="2016-01-01", to=date(2016, 1, 1) + timedelta(days=3_660))


@pytest.mark.parametrize(
    "limit", [0, -1, 1_001, 10**9, True, "", "0", "-1", "1001", "1e3", "+5", " 5", "5 ", "٣", "1_0", "0x5", "9" * 5_000]
)
def test_a_limit_that_is_no_number_from_1_to_1000_is_refused(limit: int | str) -> None:
    with pytest.raises(InvalidQuestion, match="from 1 to 1000") as refused:
        TopEvents.parse(**MARCH, limit=limit)
    assert (refused.value.field, refused.value.code) == ("limit", "invalid_number")
