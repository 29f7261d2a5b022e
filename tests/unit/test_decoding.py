"""Bytes to events: every line of the bad-input catalogue that the decoder decides, and the two roads compared."""

import contextlib
import json
import tracemalloc
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventcore import decoding
from eventcore.dedup import fingerprint
from eventcore.errors import BodyError, Kind
from eventcore.events import Event
from eventcore.limits import Limits

NOW_US = int(datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()) * 1_000_000
ID = "0192f0c1-2b3a-7c4d-8e5f-6a7b8c9d0e1f"
LIMITS = Limits()


def an_event(**changes: Any) -> dict[str, Any]:
    event = {
        "event_id": ID,
        "user_id": "u1",
        "event_type": "purchase",
        "occurred_at": "2026-02-28T23:59:59.999999Z",
        "properties": {"country": "UA"},
    }
    event |= changes
    return {name: value for name, value in event.items() if value is not ...}


def another_event() -> dict[str, Any]:
    return an_event(event_id="00000000-0000-4000-8000-000000000001", user_id="neighbour")


def decode(body: bytes, form: decoding.Form = "json") -> decoding.Decoded:
    return decoding.decode(body, now_us=NOW_US, form=form)


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def the_problem(raw_event: bytes) -> tuple[str, str | None]:
    """Code and field of the one problem, after checking that both neighbours were kept and the form does not matter."""
    neighbour = as_json(another_event())
    decoded = decode(b"[" + neighbour + b"," + raw_event + b"," + neighbour + b"]")
    assert [problem.index for problem in decoded.problems] == [1]
    assert [event.user_id for event in decoded.events] == ["neighbour", "neighbour"]
    assert list(decoded.positions) == [0, 2]
    problem = decoded.problems[0]
    assert 0 < len(problem.message) < 300
    if b"\n" not in raw_event:
        lines = decode(raw_event + b"\n" + neighbour, form="ndjson")
        assert (lines.problems[0].code, lines.problems[0].field) == (problem.code, problem.field)
        assert len(lines.events) == 1
    return problem.code, problem.field


def the_event(raw_event: bytes) -> Event:
    decoded = decode(b"[" + raw_event + b"]")
    assert decoded.problems == []
    (event,) = decoded.events
    slow = decode_one_by_one(b"[" + raw_event + b"]", "json")
    assert slow.events == [event]
    return event


def test_a_valid_event_keeps_everything_byte_exact() -> None:
    event = the_event(as_json(an_event()))
    assert event == Event(
        UUID(ID).bytes,
        "u1",
        "purchase",
        1772323199999999,
        '{"country": "UA"}',
        fingerprint("u1", "purchase", 1772323199999999, '{"country": "UA"}'),
    )


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "empty_body"),
        (b" \n", "empty_body"),
        (b"\xef\xbb\xbf", "empty_body"),
        (b"[]", "empty_batch"),
        (b" [ ] ", "empty_batch"),
        (b'{"events": []}', "empty_batch"),
        (b"null", "not_a_batch"),
        (b'"x"', "not_a_batch"),
        (b"1", "not_a_batch"),
        (b"true", "not_a_batch"),
        (b"{}", "not_a_batch"),
        (as_json(an_event()), "not_a_batch"),
        (b'{"events": {}}', "not_a_batch"),
        (b'{"events": null}', "not_a_batch"),
        (b"nonsense", "invalid_json"),
        (b"[", "invalid_json"),
        (as_json([an_event()])[:-1], "invalid_json"),
        (as_json([an_event()])[:40], "invalid_json"),
        (as_json([an_event()]) + b"x", "invalid_json"),
        (as_json([an_event()]) + b"[]", "invalid_json"),
        (as_json([an_event()])[:-1] + b",]", "invalid_json"),
        (b"[," + as_json(an_event()) + b"]", "invalid_json"),
        (b"[" + as_json(an_event()) + b" " + as_json(an_event()) + b"]", "invalid_json"),
        (b"[" + as_json(an_event()) + b"}", "invalid_json"),
        (as_json([an_event()]) + b"\xff", "invalid_utf8"),
        (b"[\xff," + as_json(an_event()) + b"]", "invalid_utf8"),
        (as_json([an_event()]).decode().encode("utf-16"), "invalid_utf8"),
        (as_json([an_event()]).decode().encode("utf-16-le"), "invalid_utf8"),
        (as_json([an_event()]).decode().encode("utf-16-be"), "invalid_utf8"),
        (b"[" * 100_000 + b"]" * 100_000, "too_deep"),
        (b"[" * 1_000_000, "too_deep"),
        (b'[{"properties":' * 50_000, "too_deep"),
        (b'{"events": [' + as_json(an_event()) + b'], "events": []}', "duplicate_key"),
        (b'{"events": [' + as_json(an_event()) + b'], "more": 1}', "unknown_field"),
    ],
)
def test_a_body_that_is_no_batch_is_refused_whole(body: bytes, code: str) -> None:
    with pytest.raises(BodyError) as raised:
        decode(body)
    assert raised.value.code == code
    assert raised.value.kind is Kind.INVALID


def test_truncated_json_names_the_byte_where_it_ends() -> None:
    body = as_json([an_event(), another_event()])[:-30]
    with pytest.raises(BodyError) as raised:
        decode(body)
    assert raised.value.offset == len(body)


@pytest.mark.parametrize(
    "body",
    [
        b"\xef\xbb\xbf" + as_json([an_event()]),
        as_json({"events": [an_event()]}),
        b' \r\n{ "events" :\n' + as_json([an_event()]) + b"} ",
        b"\n\t" + as_json([an_event()]) + b"\r\n ",
        json.dumps([an_event()], indent=2).encode(),
    ],
)
def test_other_spellings_of_a_batch_are_accepted(body: bytes) -> None:
    assert [event.user_id for event in decode(body).events] == ["u1"]


def test_ndjson_ignores_blank_lines_and_carriage_returns() -> None:
    body = b"\xef\xbb\xbf" + as_json(an_event()) + b"\r\n\r\n \n" + as_json(another_event()) + b"\n\n"
    assert [event.user_id for event in decode(body, "ndjson").events] == ["u1", "neighbour"]


def test_many_brackets_side_by_side_are_not_deep() -> None:
    flat = as_json(an_event(properties={"a": [[]] * 1_500}))
    for form, body in (("json", b"[1," + flat + b"]"), ("ndjson", b"1\n" + flat)):
        decoded = decode(body, form)  # type: ignore[arg-type]
        assert [problem.code for problem in decoded.problems] == ["not_an_object"]
        assert [event.user_id for event in decoded.events] == ["u1"]


def test_an_ndjson_line_nested_very_deep_is_a_problem_of_its_own() -> None:
    decoded = decode(b"[" * 100_000 + b"]" * 100_000 + b"\n" + as_json(an_event()), "ndjson")
    assert [problem.code for problem in decoded.problems] == ["too_deep"]


def test_an_ndjson_line_cut_in_two_is_two_problems_not_one_event() -> None:
    body = b'{"event_id":"' + ID.encode() + b'",\n"user_id":"u"}\n' + as_json(another_event())
    decoded = decode(body, "ndjson")
    assert [problem.index for problem in decoded.problems] == [0, 1]
    assert len(decoded.events) == 1


def test_two_events_on_one_ndjson_line_are_one_problem() -> None:
    body = as_json(an_event()) + as_json(another_event())
    decoded = decode(body, "ndjson")
    assert [problem.code for problem in decoded.problems] == ["invalid_json"]


@pytest.mark.parametrize("form", ["json", "ndjson"])
def test_one_event_more_than_the_limit_is_too_large(form: decoding.Form) -> None:
    events = [an_event(event_id=str(UUID(int=number + (4 << 76) + (8 << 60)))) for number in range(2_001)]
    allowed, over = events[:2_000], events
    if form == "json":
        assert len(decode(as_json(allowed)).events) == 2_000
        body = as_json(over)
    else:
        body = b"\n".join(map(as_json, over))
    with pytest.raises(BodyError) as raised:
        decode(body, form)
    assert (raised.value.code, raised.value.kind) == ("batch_too_large", Kind.TOO_LARGE)
    assert "2000" in raised.value.message.replace(",", "")


def test_a_body_over_the_limit_is_too_large() -> None:
    with pytest.raises(BodyError) as raised:
        decode(b" " * LIMITS.body_bytes + b"[]")
    assert raised.value.code == "body_too_large"


@pytest.mark.parametrize("raw", [b"1", b"null", b'"x"', b"[]", b"true"])
def test_an_event_that_is_not_an_object_is_named(raw: bytes) -> None:
    assert the_problem(raw) == ("not_an_object", None)


@pytest.mark.parametrize("field", decoding.REQUIRED)
def test_each_missing_field_is_named(field: str) -> None:
    assert the_problem(as_json(an_event(**{field: ...}))) == ("missing_field", field)


@pytest.mark.parametrize("field", decoding.REQUIRED)
@pytest.mark.parametrize("value", [None, 1, 1.5, True, [], {}, ["x"], {"a": 1}])
def test_each_field_of_another_type_is_named(field: str, value: Any) -> None:
    assert the_problem(as_json(an_event(**{field: value}))) == ("wrong_type", field)


@pytest.mark.parametrize("value", [None, [], "x", 1, True])
def test_properties_that_are_not_an_object_are_refused(value: Any) -> None:
    assert the_problem(as_json(an_event(properties=value))) == ("wrong_type", "properties")


def test_missing_properties_are_an_empty_object() -> None:
    assert the_event(as_json(an_event(properties=...))).properties == "{}"


def test_an_unknown_field_gets_a_suggestion() -> None:
    decoded = decode(as_json([an_event(userid="x")]))
    assert (decoded.problems[0].code, decoded.problems[0].field) == ("unknown_field", "userid")
    assert "'user_id'" in decoded.problems[0].message


@pytest.mark.parametrize("literal", [b"NaN", b"Infinity", b"-Infinity"])
@pytest.mark.parametrize("field", ["user_id", "properties"])
def test_a_literal_that_is_no_number_costs_only_its_event(literal: bytes, field: str) -> None:
    if field == "properties":
        raw = as_json(an_event()).replace(b'"UA"', literal)
        assert the_problem(raw) == ("not_a_number", "properties.country")
    else:
        raw = as_json(an_event()).replace(b'"u1"', literal)
        assert the_problem(raw) == ("not_a_number", "user_id")


@pytest.mark.parametrize(
    ("raw", "field"),
    [
        (as_json(an_event())[:-1] + b',"user_id":"u1"}', "user_id"),
        (as_json(an_event())[:-1] + b',"user\\u005fid":"u1"}', "user_id"),
        (as_json(an_event())[:-1] + b',"properties":{}}', "properties"),
        (as_json(an_event(properties={"a": 1})).replace(b'"a": 1', b'"a": 1, "a": 1'), "properties.a"),
        (as_json(an_event(properties={"a": 1})).replace(b'"a": 1', b'"a": 1, "\\u0061" :2'), "properties.a"),
        (as_json(an_event(properties={"a": 1})).replace(b'"a": 1', b'"b": [{"x":1,"x":"::"}]'), "properties.b.0.x"),
        (as_json(an_event(properties={"a": 1})).replace(b'"a": 1', b'"a": "\\u003a", "a": 1'), "properties.a"),
    ],
)
def test_a_repeated_key_costs_only_its_event(raw: bytes, field: str) -> None:
    assert the_problem(raw) == ("duplicate_key", field)


def test_a_colon_hidden_by_an_escape_does_not_hide_a_repeated_key() -> None:
    """One repeated key adds a colon to the body, one escaped colon takes one away: the sum looks right."""
    raw = as_json(an_event())[:-1] + b',"user_id":"a\\u003ab"}'
    assert the_problem(raw) == ("duplicate_key", "user_id")


def test_two_wrong_ids_that_join_to_two_right_ones_are_two_problems() -> None:
    decoded = decode(as_json([an_event(event_id=ID[:-1]), an_event(event_id=ID[-1] + ID)]))
    assert [problem.code for problem in decoded.problems] == ["invalid_event_id", "invalid_event_id"]


@pytest.mark.parametrize(
    "event_id",
    [
        "",
        "x",
        "0192f0c12b3a7c4d8e5f6a7b8c9d0e1f",
        ID[:-1],
        ID + "0",
        "{" + ID + "}",
        "urn:uuid:" + ID,
        " " + ID[1:],
        ID + " ",
        ID.replace("1", "１"),  # noqa: RUF001 - a full-width digit is the point
        ID.replace("-", "_"),
        "0192f0c1-2b3a-7c4d-8e5f6-a7b8c9d0e1f",
        "g192f0c1-2b3a-7c4d-8e5f-6a7b8c9d0e1f",
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
        "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF",
    ],
)
def test_an_id_that_is_no_canonical_uuid_is_refused(event_id: str) -> None:
    assert the_problem(as_json(an_event(event_id=event_id))) == ("invalid_event_id", "event_id")


def test_an_upper_case_id_is_the_same_id() -> None:
    assert the_event(as_json(an_event(event_id=ID.upper()))).event_id == UUID(ID).bytes


@pytest.mark.parametrize(("field", "most"), [("user_id", 255), ("event_type", 100)])
@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda most: "", "empty"),
        (lambda most: "x" * (most + 1), "too_long"),
        (lambda most: "  \u3000", "blank"),
        (lambda most: "a\0", "control_character"),
        (lambda most: "a\x01", "control_character"),
        (lambda most: "a\nb", "control_character"),
        (lambda most: "a\x7f", "control_character"),
        (lambda most: "a\x85", "control_character"),
        (lambda most: "a\ud800", "invalid_unicode"),
        (lambda most: "\udc00b", "invalid_unicode"),
    ],
)
def test_a_text_that_breaks_a_rule_is_named(field: str, most: int, make: Any, code: str) -> None:
    assert the_problem(as_json(an_event(**{field: make(most)}))) == (code, field)


@pytest.mark.parametrize(
    "text",
    [
        "x" * 100,
        "😀" * 100,
        " padded ",
        "'; DROP TABLE events; --",
        "%s",
        "{{7*7}}",
        "../../etc/passwd",
        "<script>alert(1)</script>",
        "\u202eright-to-left",
        "zero\u200bwidth",
        "e\u0301",
        "\u00e9",
        "a:b",
        "\\u0041",
    ],
)
@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_strange_but_valid_texts_are_kept_exact(text: str, ensure_ascii: bool) -> None:
    event = the_event(json.dumps(an_event(user_id=text, event_type=text), ensure_ascii=ensure_ascii).encode())
    assert (event.user_id, event.event_type) == (text, text)


def test_the_longest_user_id_is_accepted() -> None:
    assert len(the_event(as_json(an_event(user_id="x" * 255))).user_id) == 255


@pytest.mark.parametrize(
    "stamp",
    [
        "",
        "now",
        "2026-13-01T00:00:00Z",
        "2026-02-30T00:00:00Z",
        "2025-02-29T00:00:00Z",
        "2026-01-01T24:00:00Z",
        "2026-01-01T23:60:00Z",
        "2026-01-01T23:59:60Z",
        "2026-01-01T00:00:00",
        "2026-01-01T00:00:00+25:00",
        "2026-01-01T00:00:00+24:00",
        "2026-01-01T00:00:00+02:60",
        "2026-01-01T00:00:00+0200",
        "26-01-01T00:00:00Z",
        "0000-01-01T00:00:00Z",
        "10000-01-01T00:00:00Z",
        "2026-01-01",
        " 2026-01-01T00:00:00Z",
        "2026-01-01T00:00:00Z ",
        "2026-01-01T00:00:00Z\n",
        "2026-01-01 00:00:00Z",
        "2026-01-01T00:00:00Zjunk",
        "2026-W01-1T00:00:00Z",
        "2026-001T00:00:00Z",
        "2026-01-01T00:00Z",
        "2026-01-01T00:00:00.Z",
        "2026-01-01T00:00:00,5Z",
        "2026-01-01T00:00:00.123456789Z",
        "2026-01-01T00:00:00.1234567Z",
        "２026-01-01T00:00:00Z",  # noqa: RUF001 - a full-width digit is the point
        "1767225600",
    ],
)
def test_a_time_that_is_no_timestamp_is_refused(stamp: str) -> None:
    assert the_problem(as_json(an_event(occurred_at=stamp))) == ("invalid_timestamp", "occurred_at")


@pytest.mark.parametrize(
    ("stamp", "code"),
    [
        ("1969-12-31T23:59:59.999999Z", "too_old"),
        ("0001-01-01T00:00:00Z", "too_old"),
        ("0001-01-01T00:00:00+23:59", "too_old"),
        ("1970-01-01T00:00:00+00:01", "too_old"),
        ("2026-03-02T12:00:01Z", "in_the_future"),
        ("2026-03-02T12:00:00.000001Z", "in_the_future"),
        ("9999-12-31T23:59:59-23:59", "in_the_future"),
    ],
)
def test_a_time_out_of_bounds_is_refused(stamp: str, code: str) -> None:
    assert the_problem(as_json(an_event(occurred_at=stamp))) == (code, "occurred_at")


def test_a_time_in_the_future_is_told_the_servers_time() -> None:
    decoded = decode(as_json([an_event(occurred_at="2026-03-03T00:00:00Z")]))
    assert "2026-03-01T12:00:00Z" in decoded.problems[0].message


@pytest.mark.parametrize(
    ("stamp", "instant"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:01z", 1_000_000),
        ("1970-01-01T00:00:00-00:00", 0),
        ("1970-01-01T02:00:00.1+02:00", 100_000),
        ("1970-01-01T00:00:00.12Z", 120_000),
        ("1970-01-01T00:00:00.123Z", 123_000),
        ("1970-01-01T00:00:00.1234Z", 123_400),
        ("1970-01-01T00:00:00.12345Z", 123_450),
        ("1970-01-01T00:00:00.123456Z", 123_456),
        ("2024-02-29T23:59:59.999999Z", 1709251199999999),
        ("2026-03-02T12:00:00Z", NOW_US + LIMITS.future_us),
    ],
)
def test_every_accepted_spelling_of_a_time_is_the_same_instant(stamp: str, instant: int) -> None:
    assert the_event(as_json(an_event(occurred_at=stamp))).occurred_us == instant


def nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


def test_properties_may_be_eight_levels_deep_not_nine() -> None:
    assert the_event(as_json(an_event(properties=nested(8)))).properties == json.dumps(nested(8))
    assert the_problem(as_json(an_event(properties=nested(9))))[0] == "too_deep"


def test_deep_but_balanced_properties_cost_only_their_event() -> None:
    raw = as_json(an_event()).replace(b'"UA"', b"[" * 900 + b"]" * 900)
    assert the_problem(raw)[0] == "too_deep"


def test_properties_may_have_255_keys_not_256() -> None:
    assert the_event(as_json(an_event(properties=dict.fromkeys(map(str, range(255))))))
    assert the_problem(as_json(an_event(properties=dict.fromkeys(map(str, range(256))))))[0] == "too_many_keys"


def test_an_event_over_the_limit_costs_only_itself() -> None:
    assert the_event(as_json(an_event(properties={"a": "x" * 255_000})))
    assert the_problem(as_json(an_event(properties={"a": "x" * 256 * 1024}))) == ("event_too_large", "properties")


@pytest.mark.parametrize("number", ["9223372036854775807", "-9223372036854775808", "18446744073709551615", "-0"])
@pytest.mark.parametrize("wrap", ["{}", "[[{}]]"])
def test_integers_of_64_bits_are_kept_exact(number: str, wrap: str) -> None:
    raw = as_json(an_event()).replace(b'"UA"', wrap.replace("{}", number).encode())
    assert number in the_event(raw).properties


@pytest.mark.parametrize(
    "number",
    [
        "18446744073709551616",
        "-9223372036854775809",
        "1e400",
        "-1e400",
        "1e-400",
        "0.0001E-400",
        "1" * 5_000,
        "0." + "0" * 5_000 + "1",
        "0." + "0" * 400 + "1",
        "1e99999999999999999999",
        "0e99999999999999999999",
        "0e-99999999999999999999",
        "0.0e-2000",
        "-0e+1000",
    ],
)
@pytest.mark.parametrize("wrap", ["{}", "[[{}]]"])
def test_numbers_that_would_be_rounded_away_are_refused(number: str, wrap: str) -> None:
    raw = as_json(an_event()).replace(b'"UA"', wrap.replace("{}", number).encode())
    code, field = the_problem(raw)
    assert (code, (field or "")[:18]) == ("number_range", "properties.country")


@pytest.mark.parametrize("key", ["", "a.b", "$set", "a:b", "'", '"', "\\", "\u0301", "😀"])
def test_strange_keys_are_kept_exact(key: str) -> None:
    event = the_event(as_json(an_event(properties={key: {key: [key]}})))
    assert json.loads(event.properties) == {key: {key: [key]}}


@pytest.mark.parametrize(
    "properties", [{"a\0": 1}, {"a": "\0"}, {"a": ["\0"]}, {"a": {"b\0": 1}}], ids=["key", "value", "list", "nested"]
)
def test_nul_in_properties_is_refused(properties: Any) -> None:
    assert the_problem(as_json(an_event(properties=properties)))[0] == "control_character"


@pytest.mark.parametrize("properties", [{"a\ud800": 1}, {"a": "\udfff"}, {"a": ["\ud83d\ud83d"]}])
def test_lone_surrogates_in_properties_cost_only_their_event(properties: Any) -> None:
    assert the_problem(as_json(an_event(properties=properties)))[0] == "invalid_unicode"


@pytest.mark.parametrize("depth", [10, 63, 64, 65, 500, 950, 970, 998])
@pytest.mark.parametrize("field", ["event_id", "user_id", "properties"])
def test_nesting_of_any_depth_costs_only_its_event(depth: int, field: str) -> None:
    raw = as_json(an_event(**{field: "NEST"})).replace(b'"NEST"', b"[" * depth + b"]" * depth)
    code, _ = the_problem(raw)
    assert code in ("wrong_type", "too_deep")


@pytest.mark.parametrize("depth", [950, 1_500, 2_000])
def test_a_body_of_nothing_but_nesting_is_refused(depth: int) -> None:
    for body in (b'{"a":' + b"[" * depth + b"]" * depth + b"}", b"[" * depth + b"]" * depth):
        with contextlib.suppress(BodyError):
            assert decode(body).events == []


def test_a_long_array_far_down_takes_no_memory_for_its_paths() -> None:
    numbers = b",".join([b"1"] * 120_000)
    raw = as_json(an_event(event_id="NEST")).replace(b'"NEST"', b"[" * 900 + numbers + b"]" * 900)
    tracemalloc.start()
    try:
        assert the_problem(raw)[0] == "too_deep"
        assert tracemalloc.get_traced_memory()[1] < 60_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("broken", [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xc0\x80"])
def test_invalid_utf8_inside_an_event_costs_only_that_event(broken: bytes) -> None:
    assert the_problem(as_json(an_event()).replace(b"UA", b"U" + broken))[0] == "invalid_utf8"
    assert the_problem(as_json(an_event()).replace(b"u1", b"u" + broken))[0] == "invalid_utf8"


@pytest.mark.parametrize(
    "raw",
    [b"{,}", b'{"a"}', b'{"a":}', b"{'a':1}", b'{"a":01}', b'{"a":1,}', b'{"a":"\t"}', b'{"a":"\\x"}', b'{"a":+1}'],
)
def test_broken_json_inside_an_event_costs_only_that_event(raw: bytes) -> None:
    assert the_problem(raw)[0] == "invalid_json"


def test_one_flaw_in_a_full_batch_leaves_the_others_as_they_were() -> None:
    events = [an_event(event_id=str(UUID(int=number + (4 << 76) + (8 << 60)))) for number in range(1, 2_001)]
    whole = decode(as_json(events))
    events[1_000] = an_event(user_id="")
    found = decode(as_json(events))
    assert [problem.index for problem in found.problems] == [1_000]
    assert found.events == whole.events[:1_000] + whole.events[1_001:]
    assert list(found.positions) == [*range(1_000), *range(1_001, 2_000)]


def test_a_flaw_is_not_looked_for_in_a_body_made_to_take_long() -> None:
    with pytest.raises(BodyError) as raised:
        decode(b"[[" + b"[]," * 2_000_000 + b"[]]]")
    assert raised.value.code == "too_complex"


def test_an_echo_of_input_is_at_most_64_characters() -> None:
    decoded = decode(as_json([an_event(event_id="e" * 500), an_event(**{"f" * 500: 1}), {"g" * 500: 1}]))
    for problem in decoded.problems:
        assert len(problem.event_id or "") <= 64
        assert len(problem.field or "") <= 64
        assert "f" * 65 not in problem.message
        assert "g" * 65 not in problem.message


# The differential test: whatever the fast road accepts, the slow road reads the same way; what it doubts is decided
# by the slow road alone.

_scraps = st.sampled_from(
    [
        "",
        ":",
        '"',
        "\\",
        "\\u003a",
        "\\u0000",
        "\\ud800",
        "NaN",
        "1e400",
        "0.0",
        "1e-5",
        "é",
        "\x00",
        "{",
        "}",
        ",",
        "a",
    ]
)
_texts = st.one_of(st.text(max_size=8), st.lists(_scraps, max_size=3).map("".join))
_json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(),
        _texts,
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_texts, inner, max_size=3)),
    max_leaves=6,
)
_wire_events = st.fixed_dictionaries(
    {
        "event_id": st.one_of(st.uuids().map(str), st.sampled_from([ID, ID.upper(), "x"])),
        "user_id": st.one_of(_texts, st.just("u1")),
        "event_type": st.one_of(_texts, st.just("t")),
        "occurred_at": st.sampled_from(
            ["2026-01-01T00:00:00Z", "2026-01-01t00:00:00.5+05:45", "2026-01-01T24:00:00Z", "1960-01-01T00:00:00Z", "x"]
        ),
    },
    optional={"properties": st.one_of(st.dictionaries(_texts, _json_values, max_size=4), _json_values)},
)


@st.composite
def _bodies(draw: st.DrawFn) -> bytes:
    events = draw(st.lists(_wire_events, min_size=1, max_size=3))
    text = json.dumps(events, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    for _ in range(draw(st.integers(0, 2))):
        scrap = draw(
            st.sampled_from(
                [b'"a":1,', b'"user_id":"x",', b",", b":", b'"', b"\\", b"\xff", b"{}", b"[", b"]", b" ", b"\n", b"1"]
            )
        )
        place = draw(st.integers(0, len(text)))
        text = text[:place] + scrap + text[place + draw(st.integers(0, 1)) :]
    return text


def decode_one_by_one(body: bytes, form: decoding.Form) -> decoding.Decoded:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "_read_surely", _always_doubt)
        return decoding._decode_slowly(body, form, NOW_US, LIMITS)


def code_of_refusal(read: Any, body: bytes, form: decoding.Form) -> str | None:
    try:
        read(body, form)
    except BodyError as error:
        return error.code
    return None


def _always_doubt(*anything: Any) -> Any:
    raise decoding._Doubt


@settings(max_examples=600, deadline=None)
@given(_bodies(), st.sampled_from(["json", "ndjson"]))
def test_both_roads_read_every_body_alike(body: bytes, form: decoding.Form) -> None:
    """What is compared with is the slow road at its slowest: no event is read together with others."""
    if form == "ndjson":
        body = body[1:-1].replace(b"}, {", b"}\n{")
    refused = code_of_refusal(decode_one_by_one, body, form)
    if refused:
        assert code_of_refusal(decode, body, form) in (refused, "empty_body", "invalid_utf8")
        return
    slow = decode_one_by_one(body, form)
    decoded = decode(body, form)
    assert decoded.received == slow.received
    assert decoded.events == slow.events
    assert list(decoded.positions) == slow.positions
    assert decoded.problems == slow.problems
    for event in decoded.events:
        event.properties.encode()
        json.loads(event.properties)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.dictionaries(st.text(max_size=6), _json_values, max_size=4), min_size=1, max_size=4))
def test_the_fast_road_is_taken_for_ordinary_batches_or_the_slow_one_finds_a_flaw(properties: list[Any]) -> None:
    body = json.dumps([an_event(properties=each) for each in properties]).encode()
    decoded = decode(body)
    assert decoded.received == len(properties)
    assert len(decoded.events) + len(decoded.problems) == len(properties)


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {"country": "UA", "n": 1, "f": 0.0, "ok": True, "none": None},
        {"url": "https://example.org:443/a?b=c:d", "time": "10:20:30"},
        {"text": 'line\nbreak "quoted" \\ \u00e9 \u0416'},
        {"nested": {"list": [1, 2.5, {"a:b": "c:d"}]}},
        {"price": 12.0, "e": 1e-5},
    ],
)
@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_what_people_send_takes_the_fast_road(properties: Any, ensure_ascii: bool) -> None:
    body = json.dumps([an_event(properties=properties)] * 3, ensure_ascii=ensure_ascii).encode()
    assert len(decoding._decode_fast(body, "json", NOW_US, LIMITS).events) == 3
