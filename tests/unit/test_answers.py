"""Question to answer: freshness, the document, and the parameters that statistics share."""

import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventcore.activity import ActivityQuery, ActivitySnapshot, Tallying
from eventcore.answers import Answer, answer, answer_json, parse_segments, segment_texts
from eventcore.calendar import to_instant
from eventcore.conditions import Condition, Selection, equals, read_properties
from eventcore.errors import InvalidQuestion, Kind
from eventcore.ports import Pending
from eventcore.retention import Retention
from eventcore.statistics import DailyActiveUsers, TopEvents
from tests.oracles import statistics as oracle

NOW_US = to_instant(datetime(2026, 3, 5, 12, tzinfo=UTC))
MINUTE_US = 60_000_000


class Ports:
    """A store and a queue in one, which write down what they are asked."""

    def __init__(self, pending: Pending, as_of_us: int | None = None) -> None:
        self.asked: list[object] = []
        self._pending = pending
        self._as_of_us = as_of_us

    async def pending(self, project: str) -> Pending:
        self.asked.append(("pending", project))
        return self._pending

    async def activity(self, query: ActivityQuery) -> ActivitySnapshot:
        self.asked.append(("activity", query))
        return Tallying(query).snapshot("activity", self._as_of_us)


A_QUESTION = DailyActiveUsers.parse(
    from_="2026-03-04", to="2026-03-05", tz="Europe/Kyiv", segment=["event_type=purchase", "properties.country:UA"]
)


async def answer_with(ports: Any) -> Answer:
    return await answer(A_QUESTION, project="shop", store=ports, queue=ports, now_us=NOW_US, elapsed_ms=lambda: 1.23456)


# Freshness


async def test_with_nothing_pending_the_data_are_as_of_now() -> None:
    meta = (await answer_with(Ports(Pending()))).meta
    assert (meta.pending, meta.data_as_of) == (0, "2026-03-05T12:00:00Z")


@pytest.mark.parametrize(("behind", "pending"), [(9, 5), (5, 9), (7, None)])
async def test_the_data_are_as_of_the_copy_they_were_read_from(behind: int, pending: int | None) -> None:
    waiting = Pending() if pending is None else Pending(events=1, since_us=NOW_US - pending * MINUTE_US)
    meta = (await answer_with(Ports(waiting, NOW_US - behind * MINUTE_US))).meta
    assert meta.data_as_of == f"2026-03-05T11:{60 - max(behind, pending or 0):02}:00Z"


async def test_with_events_pending_the_data_are_as_of_the_oldest_of_them() -> None:
    meta = (await answer_with(Ports(Pending(events=7, since_us=NOW_US - 5 * MINUTE_US)))).meta
    assert (meta.pending, meta.data_as_of) == (7, "2026-03-05T11:55:00Z")


async def test_the_data_are_never_as_of_a_time_to_come() -> None:
    meta = (await answer_with(Ports(Pending(events=1, since_us=NOW_US + 1)))).meta
    assert meta.data_as_of == "2026-03-05T12:00:00Z"


async def test_what_is_pending_is_read_before_what_is_stored() -> None:
    ports = Ports(Pending())
    await answer_with(ports)
    assert ports.asked == [("pending", "shop"), ("activity", A_QUESTION.query("shop"))]


# The document


async def test_the_document_holds_data_and_meta_in_this_order() -> None:
    document = answer_json(await answer_with(Ports(Pending())))
    assert document == {
        "data": [{"date": "2026-03-04", "users": 0}, {"date": "2026-03-05", "users": 0}],
        "meta": {
            "definition": DailyActiveUsers.definition,
            "timezone": "Europe/Kyiv",
            "from": "2026-03-04",
            "to": "2026-03-05",
            "filters": ["event_type:purchase", "properties.country:UA"],
            "data_as_of": "2026-03-05T12:00:00Z",
            "pending": 0,
            "exact": True,
            "computed_from": "activity",
            "took_ms": 1.235,
        },
    }
    assert list(document["meta"]) == [
        "definition",
        "timezone",
        "from",
        "to",
        "filters",
        "data_as_of",
        "pending",
        "exact",
        "computed_from",
        "took_ms",
    ]


async def test_an_answer_encodes_to_the_same_document() -> None:
    whole = await answer_with(Ports(Pending()))
    assert json.loads(msgspec.json.encode(whole)) == answer_json(whole)


@pytest.mark.parametrize(
    "question",
    [
        A_QUESTION,
        TopEvents.parse(from_="2026-03-04", to="2026-03-05"),
        Retention.parse(start_date="2026-03-04"),
        Retention.parse(start_date="2026-03-04", cohort="recurring", return_="on_or_after", window="week"),
        Retention.parse(start_date="2026-03-04", cohort="first_in_range", cohort_event="a", return_event="b"),
    ],
    ids=repr,
)
def test_a_definition_is_one_sentence(question: Any) -> None:
    assert question.definition.count(".") == 1
    assert question.definition.endswith(".")


def test_a_definition_repeats_no_more_than_64_characters_of_a_type() -> None:
    definition = Retention.parse(start_date="2026-03-04", return_event="x" * 255).definition
    assert "x" * 64 in definition
    assert "x" * 65 not in definition


# Segments


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("event_type:purchase", "event_type", "purchase"),
        ("event_type=purchase", "event_type", "purchase"),
        ("event_type::a=b", "event_type", ":a=b"),
        ("properties.country:UA", "properties.country", "UA"),
        ("properties.country=UA", "properties.country", "UA"),
        ("properties.url=https://a.example/?b=c", "properties.url", "https://a.example/?b=c"),
        ("properties.a.b.c:1", "properties.a.b.c", "1"),
        ("properties.$browser: x ", "properties.$browser", " x "),
        ("properties.event_type:x", "properties.event_type", "x"),
        ("properties.empty:", "properties.empty", ""),
        ("properties.lines:a\nb", "properties.lines", "a\nb"),
        ("properties." + "n" * 255 + ":" + "v" * 255, "properties." + "n" * 255, "v" * 255),
    ],
)
def test_the_first_sign_after_the_field_ends_it(text: str, field: str, value: str) -> None:
    assert parse_segments([text]) == Selection((equals(field, value),))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("event_type!=a", Condition("event_type", ("a",), "not in")),
        ("event_type!:a", Condition("event_type", ("a",), "not in")),
        ("event_type in a,b", Condition("event_type", ("a", "b"))),
        ("event_type exists", Condition("event_type", (), "exists")),
        ("properties.a!=b=c", Condition("properties.a", ("b=c",), "not in")),
        ("properties.a in b:c,d!=e", Condition("properties.a", ("b:c", "d!=e"))),
        (r"properties.a in b\,c,d\\,e\f", Condition("properties.a", ("b,c", "d\\", "e\\f"))),
        ("properties.a in ,b,", Condition("properties.a", ("", "b"))),
        ("properties.a in ", Condition("properties.a", ("",))),
        (r"properties.a in b,c\,", Condition("properties.a", ("b", "c,"))),
        (r"event_type in a\,", Condition("event_type", ("a,",))),
        ("properties.a in b,b", Condition("properties.a", ("b",))),
        ("properties.a b exists", Condition("properties.a b", (), "exists")),
        ("properties.exists exists", Condition("properties.exists", (), "exists")),
        ("properties.a:b exists", Condition("properties.a", ("b exists",))),
        ("properties.in:x", Condition("properties.in", ("x",))),
    ],
)
def test_operators_are_read_and_written(text: str, expected: Condition) -> None:
    assert parse_segments([text]) == Selection((expected,))
    assert parse_segments(segment_texts(Selection((expected,)))) == Selection((expected,))


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "invalid_segment"),
        ("event_type in a,,b", "empty_event_type"),
        ("event_type in " + ",".join(map(str, range(101))), "too_many_values"),
        ("properties.a in " + "x" * 256, "too_long"),
        ("properties.:U:A", "invalid_segment"),
        ("properties. exists", "invalid_segment"),
        ("event_type  exists", "invalid_segment"),
        ("event_type exists ", "invalid_segment"),
        ("purchase", "invalid_segment"),
        ("event_type", "invalid_segment"),
        ("event_types:a", "invalid_segment"),
        ("Event_type:a", "invalid_segment"),
        (" event_type:a", "invalid_segment"),
        ("user_id:u", "invalid_segment"),
        ("country:UA", "invalid_segment"),
        ("properties:UA", "invalid_segment"),
        ("properties.country", "invalid_segment"),
        ("properties.:UA", "invalid_segment"),
        ("properties", "invalid_segment"),
        (":", "invalid_segment"),
        ("event_type:", "empty_event_type"),
        ("event_type:" + "x" * 256, "too_long"),
        ("properties.country:" + "x" * 256, "too_long"),
        ("properties." + "x" * 256 + ":UA", "too_long"),
        ("properties.country:a\0", "invalid_unicode"),
        ("properties.country:\ud800", "invalid_unicode"),
        ("properties.\0:a", "invalid_unicode"),
        ("event_type:a\0", "invalid_unicode"),
    ],
)
def test_a_segment_that_is_none_is_refused_without_an_echo(text: str, code: str) -> None:
    with pytest.raises(InvalidQuestion) as refused:
        parse_segments(["event_type:fine", text])
    assert (refused.value.field, refused.value.code, refused.value.kind) == ("segment", code, Kind.INVALID)
    assert "x" * 65 not in refused.value.message


def test_a_malformed_segment_is_told_the_accepted_forms() -> None:
    with pytest.raises(InvalidQuestion, match=r"FIELD:VALUE .* event_type or properties\.NAME"):
        parse_segments(["country:UA"])


def test_twenty_segments_are_accepted_and_one_more_is_not() -> None:
    texts = [f"properties.n{number}:1" for number in range(21)]
    assert segment_texts(parse_segments(texts[:20])) == texts[:20]
    with pytest.raises(InvalidQuestion, match="at most 20 segments"):
        parse_segments(texts)


def test_a_repeated_segment_is_one_condition() -> None:
    assert segment_texts(parse_segments(["event_type:a", "event_type=a"])) == ["event_type:a"]


def test_one_text_is_one_segment() -> None:
    assert parse_segments("event_type:a") == parse_segments(["event_type:a"])


@given(
    st.lists(
        st.builds(
            lambda field, sign, value: f"{field}{sign}{value}",
            st.sampled_from(["event_type", "properties.n", "properties.a.b"]),
            st.sampled_from(":="),
            st.sampled_from(["a", "1", "1.0", "01", "true", "null", "a:b=c"]),
        ),
        max_size=3,
    ),
    st.fixed_dictionaries(
        {},
        optional={
            "n": st.sampled_from([1, 1.0, 10, True, None, "1", "01", "a:b=c", [1]]),
            "a.b": st.sampled_from(["a", 1]),
            "a": st.just({"b": "a"}),
        },
    ),
    st.sampled_from(["a", "1", "a:b=c"]),
)
def test_segments_select_what_the_oracle_selects(texts: list[str], properties: dict[str, Any], event_type: str) -> None:
    event = {"event_type": event_type, "properties": properties}
    assert parse_segments(texts).matches(event_type, read_properties(json.dumps(properties))) == oracle.matches(
        event, texts
    )


# Parameters of every kind


def refusal(ask: Callable[[], object]) -> InvalidQuestion | None:
    """How it is refused, None when it is not; whatever else is raised is a failure."""
    try:
        ask()
    except InvalidQuestion as refused:
        return refused
    return None


TEXTS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["x" * 300, "9" * 5_000, "2026-03-04", "9998-12-31", "UTC", "12", "week", "\0", "\ud800", "٣"]),
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([DailyActiveUsers.parse, TopEvents.parse, Retention.parse]), st.data())
def test_any_text_in_any_parameter_is_read_or_refused_by_name(parse: Callable[..., Any], data: st.DataObject) -> None:
    known = {
        DailyActiveUsers.parse: {"from_": "2026-03-04", "to": "2026-03-05", "tz": "UTC", "segment": ["event_type:a"]},
        TopEvents.parse: {"from_": "2026-03-04", "to": "2026-03-05", "limit": "10"},
        Retention.parse: {
            "start_date": "2026-03-04",
            "windows": "3",
            "window": "day",
            "week_start": "monday",
            "cohorts": "4",
            "cohort": "first_ever",
            "return_": "on",
            "cohort_event": "a",
            "return_event": "b",
        },
    }[parse]
    name = data.draw(st.sampled_from(sorted(known)))
    text = data.draw(TEXTS)
    refused = refusal(lambda: parse(**{**known, name: [text] if name == "segment" else text}))
    assert refused is None or refused.field == name.removesuffix("_")
    assert refused is None or not any(echo in refused.message for echo in ("x" * 65, "9" * 65))


@settings(deadline=None)
@given(
    st.one_of(st.dates(), st.dates(min_value=date(9970, 1, 1)), st.dates(max_value=date(1970, 2, 1))),
    st.integers(1, 366),
    st.integers(1, 367),
    st.sampled_from(["day", "week", "month"]),
    st.sampled_from(["UTC", "Pacific/Kiritimati", "Etc/GMT+12"]),
)
def test_dates_near_the_ends_of_the_calendar_are_answered_or_refused(
    start_date: date, windows: int, cohorts: int, window: str, tz: str
) -> None:
    def ask() -> int:
        question = Retention.parse(start_date=start_date, windows=windows, cohorts=cohorts, window=window, tz=tz)
        snapshot = Tallying(question.query("default")).snapshot("activity")
        return len(question.compute(snapshot, NOW_US)["cohorts"])

    refused = refusal(ask)
    assert refused is None or refused.field in {"start_date", "windows"}
