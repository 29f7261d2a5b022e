"""Conditions on events, and how facts become tallies."""

import pytest
from pyroaring import BitMap

from eventcore.activity import BEFORE, ActivityQuery, Condition, Selection, Tally, Tallying, needs_events

QUARTER_US = 900_000_000


def select(*conditions: tuple[str, str]) -> Selection:
    return Selection(tuple(Condition(field, value) for field, value in conditions))


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
    assert select(("properties.a", wanted)).matches("t", properties) is expected


def test_conditions_hold_on_the_same_event() -> None:
    selection = select(("event_type", "t"), ("properties.a.b", "1"), ("properties.c", "2"))
    assert selection.matches("t", '{"a.b":1,"c":2}')
    assert not selection.matches("s", '{"a.b":1,"c":2}')
    assert not selection.matches("t", '{"a.b":1}')
    assert not selection.matches("t", '{"a":{"b":1},"c":2}')


def test_two_types_at_once_match_nothing() -> None:
    selection = select(("event_type", "t"), ("event_type", "s"))
    assert selection.event_types == frozenset()
    assert not selection.matches("t", "{}")


def test_an_instant_falls_into_the_half_open_slot_that_holds_it() -> None:
    tallying = Tallying(ActivityQuery(project="p", slots=(((10, 20), (30, 40)), (), ((20, 30),), ((50, 60),))))
    found = {instant: tallying.slot_at(instant) for instant in (9, 10, 19, 20, 29, 30, 39, 40, 50, 59, 60)}
    assert found == {9: BEFORE, 10: 0, 19: 0, 20: 2, 29: 2, 30: 0, 39: 0, 40: None, 50: 3, 59: 3, 60: None}
    assert tallying.bounds_us == (10, 60)


def test_a_query_without_time_holds_nothing_and_nothing_is_before_it() -> None:
    tallying = Tallying(ActivityQuery(project="p", slots=((), ()), history=True))
    assert tallying.slot_at(0) is None
    assert tallying.bounds_us == (0, 0)


def test_facts_add_up_by_slot_type_and_history() -> None:
    tallying = Tallying(ActivityQuery(project="p", slots=(((0, 10),),), by_type=True, history=True))
    tallying.add(0, 0, "t", BitMap([1, 2]), 3)
    tallying.add(0, 0, "s", BitMap([2, 3]), 2)
    tallying.add(0, BEFORE, "t", BitMap([9]), 1)
    [selection] = tallying.snapshot("activity").selections
    expected = Tally(BitMap([1, 2, 3]), 5)
    expected.types = {"t": Tally(BitMap([1, 2]), 3), "s": Tally(BitMap([2, 3]), 2)}
    assert selection.slots == (expected,)
    assert selection.before == BitMap([9])


def test_properties_and_slots_off_the_quarter_hour_need_events() -> None:
    on_quarters = ((0, QUARTER_US), (QUARTER_US * 2, QUARTER_US * 3))
    assert not needs_events(ActivityQuery(project="p", slots=(on_quarters,), selections=(select(("event_type", "t")),)))
    assert needs_events(ActivityQuery(project="p", slots=(on_quarters,), selections=(select(("properties.a", "1")),)))
    assert needs_events(ActivityQuery(project="p", slots=(((0, QUARTER_US + 1),),)))
