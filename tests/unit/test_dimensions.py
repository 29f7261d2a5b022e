"""Dimensions in the core: one text for all values that no condition can tell apart, and which keys answer a question."""

import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventcore.activity import ActivityQuery, Breakdown, needs_events
from eventcore.conditions import Condition, Operator, Selection, equals, properties_reader, read_value, value_text
from eventcore.dimensions import (
    COLLECTION,
    MOST_VALUE_CHARS,
    MOST_VALUES,
    NO_VALUE,
    Combination,
    Kinds,
    canonical,
    check_name,
    has_room,
    value_of,
)
from eventcore.errors import StoreError
from eventcore.projection import COMBINATIONS_FROM
from eventcore.strategies import json_objects

DAY = ((0, 86_400_000_000),)
TYPES = {0: "view", 1: "order"}
COUNTRIES = [
    Combination(COMBINATIONS_FROM + at, kind, value)
    for at, (kind, value) in enumerate([(0, '"UA"'), (1, '"UA"'), (0, '"PL"'), (1, ""), (0, "1"), (0, "[]")])
]


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (None, NO_VALUE),
        ('"UA"', '"UA"'),
        (r'"\u0055\u0041"', '"UA"'),
        ('"Київ"', '"Київ"'),
        (r'"\u0000"', r'"\u0000"'),
        ('""', '""'),
        ("1", "1"),
        ("1.0", "1"),
        ("10e-1", "1"),
        ("1E3", "1000"),
        ("-0.0", "0"),
        ("0.10", "0.1"),
        ('"1"', '"1"'),
        ("true", "true"),
        ("null", "null"),
        ("[]", COLLECTION),
        ('{"a": 1}', COLLECTION),
        ("[" + "1," * 5_000 + "1]", COLLECTION),
        ('"' + "x" * MOST_VALUE_CHARS + '"', '"' + "x" * MOST_VALUE_CHARS + '"'),
        ('"' + r"\u0041" * MOST_VALUE_CHARS + '"', '"' + "A" * MOST_VALUE_CHARS + '"'),
        ('"' + "x" * (MOST_VALUE_CHARS + 1) + '"', None),
        ('"' + r"\u0041" * 5_000 + '"', None),
        ("1e300", None),
        ("9" * 5_000, None),
        (r'"\ud800"', None),
    ],
)
def test_a_value_has_one_text(raw: str | None, text: str | None) -> None:
    assert canonical(None if raw is None else raw.encode()) == text


@given(
    properties=json_objects(),
    operator=st.sampled_from(get_args(Operator)),
    values=st.lists(
        st.one_of(st.sampled_from(("1", "1.0", "true", "null", "[]", "")), st.text(max_size=3)), max_size=3
    ),
)
def test_a_condition_holds_for_the_text_as_for_the_value(
    properties: dict[str, Any], operator: Operator, values: list[str]
) -> None:
    for name in [*properties, "absent"]:
        [raw] = properties_reader([name])(json.dumps(properties, ensure_ascii=False))
        text = canonical(raw)
        if text is None:
            continue
        found = value_of(NO_VALUE) if raw is None else read_value(raw)
        named = [value_text(found) or "", *values]
        for condition in (Condition("properties.x", tuple(some), operator) for some in (values, named)):
            assert condition.holds(value_of(text)) == condition.holds(found)
        assert value_text(value_of(text)) == value_text(found)
        assert (text == NO_VALUE) == (raw is None)


def test_values_are_bounded() -> None:
    values = {str(number) for number in range(MOST_VALUES)}
    assert has_room(values, 1)
    assert has_room({*values, NO_VALUE}, 100_000)
    assert not has_room({*values, "one more"}, 1)
    assert not has_room(values, 100_001)


@pytest.mark.parametrize("name", ["a\0", "\ud800", "x" * 256])
def test_a_name_that_no_store_holds_is_refused(name: str) -> None:
    with pytest.raises(StoreError, match="a dimension's name"):
        check_name(name)


def a_query(*selections: Selection, **others: Any) -> ActivityQuery:
    return ActivityQuery(project="default", slots=(DAY,), selections=selections, **others)


IN_UA = equals("properties.country", "UA")


@pytest.mark.parametrize(
    ("conditions", "at"),
    [
        ([IN_UA], {0, 1}),
        ([IN_UA, equals("event_type", "order")], {1}),
        ([Condition("properties.country", ("UA",), "not in")], {2, 3, 4, 5}),
        ([Condition("properties.country", (), "missing")], {3}),
        ([Condition("properties.country", (), "exists")], {0, 1, 2, 4, 5}),
        ([Condition("properties.country", ("UA", "1"), "is not")], {2, 5}),
        ([equals("properties.country", "1.0")], {4}),
        ([IN_UA, equals("properties.country", "PL")], set()),
        ([IN_UA, equals("event_type", "nothing")], set()),
    ],
)
def test_a_selection_is_some_combinations(conditions: list[Condition], at: set[int]) -> None:
    kinds = Kinds(a_query(Selection(tuple(conditions))), TYPES, {"properties.country": COUNTRIES})
    assert kinds.wanted == ({COMBINATIONS_FROM + number for number in at},)


def test_selections_without_the_dimension_are_types() -> None:
    selections = (Selection(), Selection((equals("event_type", "order"),)), Selection((IN_UA,)))
    kinds = Kinds(a_query(*selections), TYPES, {"properties.country": COUNTRIES})
    assert kinds.wanted == (None, {1}, {COMBINATIONS_FROM, COMBINATIONS_FROM + 1})
    by_type = Kinds(a_query(*selections, split="event_type"), TYPES, {"properties.country": COUNTRIES})
    assert [by_type.part(key) for key in (0, 1, COMBINATIONS_FROM, COMBINATIONS_FROM + 1)] == ["view", "order"] * 2


def test_a_split_by_the_dimension_tells_its_values() -> None:
    kinds = Kinds(a_query(Selection(), split="properties.country"), TYPES, {"properties.country": COUNTRIES})
    assert kinds.wanted == ({one.key for one in COUNTRIES},)
    assert [kinds.part(one.key) for one in COUNTRIES] == ["UA", "UA", "PL", None, "1", None]


BOTH = ("properties.country", "properties.plan")


@pytest.mark.parametrize(
    ("query", "dimensions", "raw"),
    [
        (a_query(Selection()), (), False),
        (a_query(Selection((IN_UA,))), (), True),
        (a_query(Selection((IN_UA,))), BOTH[:1], False),
        (a_query(Selection((IN_UA,))), BOTH[1:], True),
        (a_query(Selection((IN_UA, equals("properties.plan", "pro")))), BOTH, True),
        (a_query(Selection((IN_UA,)), Selection((equals("properties.plan", "pro"),))), BOTH, False),
        (a_query(Selection((IN_UA,)), split="properties.country"), BOTH, False),
        (a_query(Selection((IN_UA,)), split="properties.plan"), BOTH, True),
        (a_query(Selection(), split="properties.plan"), BOTH, False),
        (a_query(Selection((IN_UA,)), breakdown=Breakdown(field="properties.plan", groups=3)), BOTH, True),
        (a_query(Selection((IN_UA,)), breakdown=Breakdown(field="event_type", groups=3)), BOTH, False),
        (ActivityQuery(project="default", slots=(((1, 2),),), selections=(Selection((IN_UA,)),)), BOTH, True),
    ],
)
def test_one_dimension_at_a_time_needs_no_events(query: ActivityQuery, dimensions: tuple[str, ...], raw: bool) -> None:
    assert needs_events(query, dimensions) == raw
