"""Conditions on events, one by one and together, and the prefilter that stores make of them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventcore.conditions import (
    ABSENT,
    Condition,
    Operator,
    Selection,
    equals,
    needles,
    properties_reader,
    read_properties,
    read_value,
    value_text,
)
from eventcore.strategies import HOSTILE_KEYS, json_objects, spellings


def select(*conditions: tuple[str, str]) -> Selection:
    return Selection(tuple(equals(field, value) for field, value in conditions))


@pytest.mark.parametrize(
    ("properties", "wanted", "expected"),
    [
        ('{"a":"UA"}', "UA", True),
        ('{"a":"ua"}', "UA", False),
        ('{"b":"UA"}', "UA", False),
        ('{"a":"U\\u0041"}', "UA", True),
        ('{"a":3}', "3", True),
        ('{"a":3.0}', "3", True),
        ('{"a":3}', "3.0", True),
        ('{"a":3e2}', "300", True),
        ('{"a":3}', "03", False),
        ('{"a":3}', "+3", False),
        ('{"a":3}', "3 ", False),
        ('{"a":3}', "\t3", False),
        ('{"a":3}', "٣", False),
        ('{"a":3}', "1e99999999999999999999", False),
        ('{"a":"3"}', "3", True),
        ('{"a":9007199254740993}', "9007199254740992", False),
        ('{"a":0.1}', "0.10000000000000000001", False),
        ('{"a":true}', "true", True),
        ('{"a":true}', "1", False),
        ('{"a":1}', "true", False),
        ('{"a":null}', "null", True),
        ("{}", "null", False),
        ('{"a":""}', "", True),
        ('{"a":[1]}', "[1]", False),
        ('{"a":{}}', "{}", False),
        ('{"a":1}', "NaN", False),
    ],
)
def test_a_property_equals_a_value_by_its_kind(properties: str, wanted: str, expected: bool) -> None:
    assert select(("properties.a", wanted)).matches("t", read_properties(properties)) is expected


def test_conditions_hold_on_the_same_event() -> None:
    selection = select(("event_type", "t"), ("properties.a.b", "1"), ("properties.c", "2"))
    assert selection.matches("t", read_properties('{"a.b":1,"c":2}'))
    assert not selection.matches("s", read_properties('{"a.b":1,"c":2}'))
    assert not selection.matches("t", read_properties('{"a.b":1}'))
    assert not selection.matches("t", read_properties('{"a":{"b":1},"c":2}'))


def test_two_types_at_once_match_nothing() -> None:
    selection = select(("event_type", "t"), ("event_type", "s"))
    assert selection.event_types == frozenset()
    assert not selection.matches("t", read_properties("{}"))


@pytest.mark.parametrize(
    ("operator", "properties", "expected"),
    [
        ("in", '{"a":"x"}', True),
        ("in", '{"a":2.0}', True),
        ("in", '{"a":"z"}', False),
        ("in", "{}", False),
        ("not in", '{"a":"x"}', False),
        ("not in", '{"a":"z"}', True),
        ("not in", '{"a":[2]}', True),
        ("not in", "{}", True),
        ("exists", '{"a":null}', True),
        ("exists", '{"b":1}', False),
        ("missing", '{"a":null}', False),
        ("missing", "{}", True),
        ("is", '{"a":2.0}', True),
        ("is", '{"a":"2.0"}', False),
        ("is", '{"a":"2"}', True),
        ("is", "{}", False),
        ("is not", '{"a":"2.0"}', True),
        ("is not", '{"a":[2]}', True),
        ("is not", '{"a":2}', False),
        ("is not", "{}", False),
    ],
)
def test_each_operator_holds_as_it_is_defined(operator: Operator, properties: str, expected: bool) -> None:
    selection = Selection((Condition("properties.a", ("x", "2"), operator),))
    assert selection.matches("t", read_properties(properties)) is expected


@given(st.sampled_from(("a", "b")), json_objects(depth=2))
def test_every_value_is_in_exactly_one_group(key: str, properties: dict[str, Any]) -> None:
    found = properties.get(key, ABSENT)
    name = value_text(found)
    groups = [
        Condition(f"properties.{key}", ("some text", "1", "null"), "is"),
        Condition(f"properties.{key}", (), "missing"),
        Condition(f"properties.{key}", ("some text", "1", "null"), "is not"),
    ]
    assert [condition.holds(found) for condition in groups].count(True) == 1
    assert name is None or Condition(f"properties.{key}", (name,), "is").holds(found)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        ("1", "1"),
        ("1.0", "1"),
        ("1e3", "1000"),
        ("0.50", "0.5"),
        ("-0.0", "0"),
        ("-12.30e1", "-123"),
        ("1e-3", "0.001"),
        ("0e5", "0"),
        ("-0", "0"),
        ("0e-300", "0"),
        ("9007199254740993", "9007199254740993"),
    ],
)
def test_a_number_is_called_by_its_shortest_digits(number: str, text: str) -> None:
    assert value_text(read_properties(f'{{"a":{number}}}')["a"]) == text


def test_types_that_may_match_are_known_from_what_must_hold() -> None:
    a_or_b = Condition("event_type", ("a", "b"))
    assert Selection((a_or_b, equals("event_type", "b"))).event_types == {"b"}
    assert Selection((Condition("event_type", ("a",), "not in"),)).event_types is None
    both = Selection((a_or_b, Condition("event_type", ("a",), "not in")))
    assert (both.event_types, both.admits("a"), both.admits("b"), both.any_type) == ({"a", "b"}, False, True, False)
    assert Selection((equals("properties.a", "1"),)).any_type


_texts = st.sampled_from(("x", "1", "a b", "ä", ""))
_operators = st.sampled_from(("in", "not in", "exists", "missing", "is", "is not"))


@st.composite
def spelled_with_conditions(draw: st.DrawFn) -> tuple[str, Selection]:
    """Properties in some spelling, and conditions on one or two of their members."""
    value = draw(json_objects(depth=1)) | draw(st.dictionaries(st.sampled_from(HOSTILE_KEYS), _texts, min_size=1))
    keys = draw(st.lists(st.sampled_from(sorted(value)), min_size=1, max_size=2, unique=True))
    conditions = []
    for key in keys:
        own = value_text(value[key]) or "x"
        values = draw(st.lists(st.one_of(st.just(own), _texts), min_size=1, max_size=2))
        conditions.append(Condition(f"properties.{key}", tuple(values), draw(_operators)))
    return draw(spellings(value)), Selection(tuple(conditions))


@given(spelled_with_conditions())
def test_the_prefilter_never_hides_a_match(case: tuple[str, Selection]) -> None:
    properties, selection = case
    if selection.matches("page_view", read_properties(properties)):
        assert "\\" in properties or all(needle in properties for needle in needles([selection]))


@given(
    st.lists(
        st.builds(
            Condition,
            st.just("event_type"),
            st.lists(st.sampled_from("abcd"), max_size=3).map(tuple),
            st.sampled_from(("in", "not in", "is", "is not", "exists", "missing")),
        ),
        max_size=3,
    )
)
def test_the_types_that_are_admitted_are_those_that_it_admits_one_by_one(conditions: list[Condition]) -> None:
    selection = Selection(tuple(conditions))
    types = list(enumerate("abcde"))
    assert selection.admitted(types) == tuple(key for key, name in types if selection.admits(name))


def test_the_prefilter_serves_all_selections() -> None:
    one = Selection((equals("properties.plan", "pro"), equals("properties.country", "UA")))
    other = Selection((equals("properties.plan", "pro"), equals("properties.n", "1")))
    assert needles([one])[:2] == ['"country"', '"plan"']
    assert set(needles([one, other])) == {'"plan"', '"pro"'}
    assert needles([other])[:2] == ['"plan"', '"pro"']
    assert needles([one, Selection()]) == []
    assert needles([Selection((Condition("properties.plan", ("pro",), "not in"),))]) == []
    assert needles([Selection((Condition("properties.plan", ("pro", "x")),))]) == ['"plan"']


@given(
    json_objects(depth=2),
    st.lists(st.one_of(st.sampled_from(HOSTILE_KEYS), st.text(max_size=3)), max_size=3),
    st.data(),
)
def test_values_are_taken_out_of_any_spelling(value: dict[str, Any], names: list[str], data: st.DataObject) -> None:
    names = list(dict.fromkeys([*names, *value]))
    text = data.draw(spellings(value))
    expected = read_properties(text)
    found = properties_reader(names)(text)
    assert [ABSENT if one is None else read_value(one) for one in found] == [
        expected.get(name, ABSENT) for name in names
    ]
