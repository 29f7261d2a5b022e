"""CSV rows to events: what CSV accepts is what HTTP accepts, anybody's columns and times, ids made from content."""

import csv
import io
import json
from uuid import UUID, uuid5

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entrypoints.cli.csv_rows import (
    COLUMNS,
    ColumnOptions,
    HeaderError,
    RowIds,
    decode_rows,
    lay_out,
    time_reader,
)
from entrypoints.csv_reader import Rows
from eventcore.calendar import find_zone
from eventcore.decoding import Decoded, decode
from eventcore.errors import EventcoreError
from eventcore.events import Event
from eventcore.limits import Limits

NOW_US = 1_780_000_000_000_000
SPACE = UUID(int=7 << 64)
PLAIN = ColumnOptions()
HEADER = ["event_id", "occurred_at", "user_id", "event_type", "properties_json"]


def an_id(number: int) -> str:
    return str(uuid5(SPACE, str(number)))


def a_row(number: int = 0, **cells: str) -> list[str]:
    row = {
        "event_id": an_id(number),
        "occurred_at": "2026-01-31T09:30:00Z",
        "user_id": "ada",
        "event_type": "signup",
        "properties_json": '{"plan":"pro"}',
    }
    return list((row | cells).values())


def decoded(
    rows: list[list[str]],
    *,
    header: list[str] = HEADER,
    options: ColumnOptions = PLAIN,
    ids: RowIds | None = None,
) -> Decoded:
    layout = lay_out(header, options)
    texts = [",".join(row) for row in rows]
    return decode_rows(
        Rows(range(2, len(rows) + 2), list(rows), texts), layout, ids or RowIds(), now_us=NOW_US, limits=Limits()
    )


def codes(found: Decoded) -> list[tuple[int, str, str | None]]:
    return [(problem.index, problem.code, problem.field) for problem in found.problems]


def test_a_row_is_the_event_that_its_json_would_be() -> None:
    body = json.dumps(
        [
            {
                "event_id": an_id(0),
                "occurred_at": "2026-01-31T09:30:00Z",
                "user_id": "ada",
                "event_type": "signup",
                "properties": {"plan": "pro"},
            }
        ],
        separators=(",", ":"),
    )
    assert decoded([a_row()]).events == decode(body.encode(), now_us=NOW_US).events


cells = {
    "event_id": st.sampled_from(
        [an_id(1), an_id(2).upper(), an_id(3), "", "nil", str(UUID(int=0)), an_id(1)[1:], "é" * 36]
    ),
    "occurred_at": st.sampled_from(
        [
            "2026-01-31T09:30:00Z",
            "2026-01-31t09:30:00.125+05:45",
            "2026-01-31T09:30:00",
            "2026-02-30T00:00:00Z",
            "1969-12-31T23:59:59Z",
            "2099-01-01T00:00:00Z",
            "",
            " 2026-01-31T09:30:00Z",
        ]
    ),
    "user_id": st.sampled_from(["ada", "Ада", "", " ", "a\nb", "x" * 255, "x" * 256, "\u202e", "a\0"]),
    "event_type": st.sampled_from(["signup", "", "x" * 101, "'; DROP TABLE", "a:b"]),
    "properties_json": st.sampled_from(
        [
            "{}",
            '{"a":1,"b":[{"c":null}]}',
            '{"a":1e400}',
            '{"a":NaN}',
            '{"a":1,"a":2}',
            '{"a":"\\u0000"}',
            '{"a":"\\ud800"}',
            '{"a":"x:y"}',
            "[]",
            "null",
            "{",
            "{}}",
            "{},{}",
            '{"a":' * 9 + "1" + "}" * 9,
            '{"a":' * 2_000 + "1" + "}" * 2_000,
            '{"a":99999999999999999999999}',
            '{"event_id":"x"}',
        ]
    ),
}


@settings(max_examples=200, deadline=None)
@given(st.lists(st.fixed_dictionaries(cells), min_size=1, max_size=8))
def test_csv_and_http_accept_and_refuse_the_same(values: list[dict[str, str]]) -> None:
    """Each row against the same event as a JSON batch of its own, so neighbours and fast roads cannot matter."""
    found = decoded([[row[name] for name in HEADER] for row in values])
    events = dict(zip(found.positions, found.events, strict=True))
    problems = {problem.index: problem for problem in found.problems}
    for index, row in enumerate(values):
        texts = {name: row[name] for name in HEADER[:4]}
        line = json.dumps(texts)[:-1] + ',"properties":' + row["properties_json"] + "}"
        expected = decode(line.encode(), now_us=NOW_US, form="ndjson")
        if expected.events:
            assert events[index] == expected.events[0]
        elif row["properties_json"] in ("{", "{}}", "{},{}"):
            assert problems[index].code == "invalid_json"
        elif all(cells_are_fine(row, name) for name in HEADER[:4]):
            assert (problems[index].code, problems[index].field) == (
                expected.problems[0].code,
                expected.problems[0].field or "properties",
            )
        else:
            assert index in problems


def cells_are_fine(row: dict[str, str], name: str) -> bool:
    good = dict(zip(HEADER, a_row(), strict=True)) | {name: row[name]}
    return not decoded([list(good.values())]).problems


@pytest.mark.parametrize("place", [0, 63, 64, 100, 199])
def test_one_bad_row_is_named_and_costs_only_itself(place: int) -> None:
    rows = [a_row(number) for number in range(200)]
    rows[place][2] = ""
    found = decoded(rows)
    assert codes(found) == [(place, "empty", "user_id")]
    assert found.positions == [number for number in range(200) if number != place]
    assert [event.event_id.hex() for event in found.events] == [
        an_id(number).replace("-", "") for number in range(200) if number != place
    ]


def test_rows_of_another_width_are_named() -> None:
    found = decoded([a_row(1), a_row(2)[:4], [*a_row(3), "more"], a_row(4)])
    assert codes(found) == [(1, "too_few_fields", None), (2, "too_many_fields", None)]
    assert found.positions == [0, 3]


@pytest.mark.parametrize("name", HEADER)
def test_bytes_that_are_not_utf8_are_named_with_their_field(name: str) -> None:
    (problem,) = decoded([a_row(**{name: "x\udcff"}), a_row(5)]).problems
    assert (problem.index, problem.code, problem.field) == (0, "invalid_utf8", name.removesuffix("_json"))


def test_properties_may_be_empty_or_absent_or_have_space_around() -> None:
    assert [
        event.properties
        for event in decoded([a_row(1, properties_json=""), a_row(2, properties_json=' {"a":1}\n')]).events
    ] == [
        "{}",
        '{"a":1}',
    ]
    assert decoded([a_row()[:4]], header=HEADER[:4]).events[0].properties == "{}"


def test_columns_come_in_any_order() -> None:
    row = dict(zip(HEADER, a_row(), strict=True))
    backwards = list(reversed(HEADER))
    assert decoded([[row[name] for name in backwards]], header=backwards).events == decoded([a_row()]).events


def test_columns_may_have_other_names_and_reasons_are_left_alone() -> None:
    options = ColumnOptions(names={"user_id": "uid", "occurred_at": "ts"}, ignored=frozenset({"junk"}))
    header = ["_line", "_code", "_field", "_message", "junk", "event_id", "ts", "uid", "event_type", "properties_json"]
    found = decoded([["7", "empty", "user_id", "is empty", "?", *a_row()]], header=header, options=options)
    assert found.events == decoded([a_row()]).events


def test_a_default_fills_an_absent_column_and_an_empty_cell() -> None:
    options = ColumnOptions(defaults={"event_type": "visit", "user_id": "nobody"})
    header = ["event_id", "occurred_at", "user_id"]
    found = decoded([a_row(1)[:3], a_row(2, user_id="")[:3]], header=header, options=options)
    assert [(event.user_id, event.event_type) for event in found.events] == [("ada", "visit"), ("nobody", "visit")]


def test_other_columns_become_text_properties_on_request() -> None:
    header = [*HEADER[:4], "country", "näme", "n"]
    options = ColumnOptions(rest_as_properties=True)
    found = decoded([[*a_row()[:4], "UA", 'a"b', ""]], header=header, options=options)
    assert json.loads(found.events[0].properties) == {"country": "UA", "näme": 'a"b'}


@pytest.mark.parametrize(
    ("header", "options", "code", "named"),
    [
        (["event_id", "occurred_at", "user_id"], ColumnOptions(), "missing_column", "event_type"),
        (["event_id", "event_type", "user_id"], ColumnOptions(), "missing_column", "--map occurred_at="),
        ([*HEADER, "country"], ColumnOptions(), "unknown_column", "country"),
        ([*HEADER[:4], "country", "plan"], ColumnOptions(), "unknown_column", "country, plan"),
        ([*HEADER, "user_id"], ColumnOptions(), "duplicate_column", "user_id"),
        ([*HEADER, "x"], ColumnOptions(rest_as_properties=True), "two_sources_of_properties", "--ignore"),
        (HEADER, ColumnOptions(names={"user_id": "uid"}), "missing_column", "uid"),
        (a_row(), ColumnOptions(), "missing_header", "first line"),
        (["User_ID", *HEADER[:2], "event_type"], ColumnOptions(), "missing_column", "user_id"),
        (["\udcff\udcfee"], ColumnOptions(), "invalid_utf8", "UTF-8"),
        (HEADER, ColumnOptions(ignored=frozenset({"user_id"})), "missing_column", "--ignore leaves out"),
        (
            ["id", *HEADER[1:]],
            ColumnOptions(names={"event_id": "id"}, ignored=frozenset({"id"})),
            "missing_column",
            "--ignore leaves out",
        ),
        ([";".join(HEADER)], ColumnOptions(), "wrong_delimiter", "--delimiter ';'"),
        (["\t".join(HEADER)], ColumnOptions(), "wrong_delimiter", "--delimiter tab"),
        (["a|b"], ColumnOptions(names={"user_id": "a"}), "wrong_delimiter", "--delimiter '|'"),
        ([",".join(HEADER)], ColumnOptions(delimiter=";"), "wrong_delimiter", "leave --delimiter out"),
    ],
)
def test_a_header_problem_says_which_column(header: list[str], options: ColumnOptions, code: str, named: str) -> None:
    with pytest.raises(HeaderError) as caught:
        lay_out(header, options)
    assert caught.value.code == code
    assert named in caught.value.message


@pytest.mark.parametrize(
    ("pattern", "zone", "cell", "instant"),
    [
        ("unix", None, "1700000000", "2023-11-14T22:13:20Z"),
        ("unix", None, "1700000000.25", "2023-11-14T22:13:20.25Z"),
        ("unix_ms", None, "1700000000125", "2023-11-14T22:13:20.125Z"),
        ("%d.%m.%Y %H:%M", "Europe/Kyiv", "31.01.2026 09:30", "2026-01-31T07:30:00Z"),
        ("%Y-%m-%d %H:%M:%S%z", None, "2026-01-31 09:30:00+0545", "2026-01-31T03:45:00Z"),
        ("%Y-%m-%d %H:%M", "Europe/Berlin", "2025-10-26 02:30", "2025-10-26T00:30:00Z"),  # twice: the first
    ],
)
def test_times_in_other_formats(pattern: str, zone: str | None, cell: str, instant: str) -> None:
    options = ColumnOptions(read_time=time_reader(pattern, None if zone is None else find_zone(zone)))
    (event,) = decoded([a_row(occurred_at=cell)], options=options).events
    (expected,) = decoded([a_row(occurred_at=instant)]).events
    assert event == expected


@pytest.mark.parametrize(
    ("pattern", "zone", "cell"),
    [
        ("unix", None, "12e3"),
        ("unix", None, "9" * 13),
        ("unix", None, "1.1234567"),
        ("unix_ms", None, ""),
        ("unix", None, "٣"),
        ("%d.%m.%Y", "UTC", "31.02.2026"),
        ("%d.%m.%Y", "UTC", "31.01.2026 "),
        ("%Y-%m-%d %H:%M", "Europe/Berlin", "2025-03-30 02:30"),  # skipped
        ("%Y-%m-%d", "America/New_York", "0001-01-01"),
    ],
)
def test_times_that_are_none_are_named(pattern: str, zone: str | None, cell: str) -> None:
    options = ColumnOptions(read_time=time_reader(pattern, None if zone is None else find_zone(zone)))
    found = decoded([a_row(1, occurred_at=cell), a_row(2, occurred_at=cell)], options=options)
    assert [code for _, code, _ in codes(found)] in (["invalid_timestamp"] * 2, ["too_old"] * 2)


@pytest.mark.parametrize(
    ("pattern", "zone", "named"),
    [
        ("%d.%m.%Y", None, "--tz"),
        ("%d.%m.%Y %z", "UTC", "leave --tz out"),
        ("unix", "UTC", "leave --tz out"),
        ("%Q", "UTC", "not a time format"),
        ("%Y %Y", "UTC", "once"),
        ("", "UTC", "empty"),
        ("%d.%m.%Y %H:%M %Z", "UTC", "%Z"),
        ("%d.%m.%Y %H:%M %p", "UTC", "%I"),
        ("%Y-W%W", "UTC", "week"),
    ],
)
def test_a_time_format_that_cannot_work_is_refused_at_once(pattern: str, zone: str | None, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        time_reader(pattern, None if zone is None else find_zone(zone))


def without_ids(rows: list[list[str]], ids: RowIds | None = None) -> list[Event]:
    return decoded([row[1:] for row in rows], header=HEADER[1:], ids=ids).events


def test_made_ids_are_the_same_each_time_and_differ_between_equal_rows() -> None:
    rows = [a_row(user_id="ada"), a_row(user_id="bob"), a_row(user_id="ada")]
    once, again = without_ids(rows), without_ids(rows)
    assert once == again
    assert len({event.event_id for event in once}) == 3
    assert all(UUID(bytes=event.event_id).version == 8 for event in once)
    assert all(UUID(bytes=event.event_id).variant == "specified in RFC 4122" for event in once)


def test_made_ids_do_not_depend_on_the_order_of_different_rows() -> None:
    rows = [a_row(user_id=name) for name in ("ada", "bob", "eve", "bob")]
    assert {event.event_id for event in without_ids(rows)} == {event.event_id for event in without_ids(rows[::-1])}


def test_made_ids_count_on_over_batches_and_bad_rows() -> None:
    ids = RowIds()
    first = without_ids([a_row(), a_row(user_id="")], ids) + without_ids([a_row()], ids)
    assert first == without_ids([a_row(), a_row()])


def test_made_ids_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("entrypoints.cli.csv_rows._REMEMBERED_ROWS", 10)
    ids = RowIds()
    many = without_ids([a_row(user_id=f"u{number}") for number in range(100)], ids)
    assert len(ids._recent) + len(ids._older) <= 20
    near = without_ids([a_row(user_id="u95")], ids)
    far = without_ids([a_row(user_id="u0")], ids)
    assert near[0].event_id not in {event.event_id for event in many}
    assert far[0].event_id == many[0].event_id


def test_an_ignored_column_of_ids_gives_ids_made_from_content() -> None:
    rows = [a_row(event_id=number) for number in ("1", "2")]
    ignoring = ColumnOptions(ignored=frozenset({"event_id"}))
    found = decoded(rows, options=ignoring)
    without = decoded([row[1:] for row in rows], header=HEADER[1:])
    assert found.problems == []
    assert found.events == without.events
    assert len({event.event_id for event in found.events}) == 2


def test_an_ignored_optional_column_makes_room_for_the_rest_or_for_a_default() -> None:
    [event] = decoded(
        [[*a_row(), "UA"]],
        header=[*HEADER, "country"],
        options=ColumnOptions(ignored=frozenset({"properties_json"}), rest_as_properties=True),
    ).events
    assert json.loads(event.properties) == {"country": "UA"}
    [event] = decoded(
        [a_row()], options=ColumnOptions(ignored=frozenset({"user_id"}), defaults={"user_id": "bob"})
    ).events
    assert event.user_id == "bob"


@pytest.mark.parametrize(
    ("names", "way_out"),
    [({}, "--ignore event_id makes ids"), ({"event_id": "id"}, "--ignore id in place of --map makes ids")],
)
def test_an_id_that_is_none_names_the_way_out(names: dict[str, str], way_out: str) -> None:
    header = [names.get(name, name) for name in HEADER]
    [problem] = decoded([a_row(event_id="1")], header=header, options=ColumnOptions(names=names)).problems
    assert (problem.code, problem.event_id) == ("invalid_event_id", "1")
    assert way_out in problem.message


def test_one_field_is_said_as_one() -> None:
    [problem] = decoded([["x"]]).problems
    assert problem.message.startswith("the row has 1 field;")


def test_errors_of_headers_are_errors_of_the_core() -> None:
    assert issubclass(HeaderError, EventcoreError)
    assert [name.removesuffix("_json") for name in COLUMNS] == [name.removesuffix("_json") for name in HEADER]
    assert next(csv.reader(io.StringIO(",".join(COLUMNS)))) == HEADER


def test_ids_made_of_content_do_not_depend_on_the_order_of_columns() -> None:
    options = ColumnOptions(rest_as_properties=True)
    one = ["user_id", "event_type", "occurred_at", "a", "b"], ["u", "t", "2026-01-01T00:00:00Z", "1", "2"]
    other = ["b", "event_type", "a", "occurred_at", "user_id"], ["2", "t", "1", "2026-01-01T00:00:00Z", "u"]
    first, second = (decoded([row], header=header, options=options).events for header, row in (one, other))
    assert first == second
