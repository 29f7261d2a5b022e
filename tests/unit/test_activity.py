"""How facts become tallies."""

from pyroaring import BitMap

from eventcore.activity import BEFORE, ActivityQuery, Tally, Tallying, needs_events
from eventcore.conditions import Selection, equals

QUARTER_US = 900_000_000


def select(*conditions: tuple[str, str]) -> Selection:
    return Selection(tuple(equals(field, value) for field, value in conditions))


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
    tallying = Tallying(ActivityQuery(project="p", slots=(((0, 10),),), split="event_type", history=True))
    tallying.add(0, 0, "t", BitMap([1, 2]), 3)
    tallying.add(0, 0, "s", BitMap([2, 3]), 2)
    tallying.add(0, BEFORE, "t", BitMap([9]), 1)
    [selection] = tallying.snapshot("activity").selections
    expected = Tally(BitMap([1, 2, 3]), 5)
    expected.parts = {"t": Tally(BitMap([1, 2]), 3), "s": Tally(BitMap([2, 3]), 2)}
    assert selection.slots == (expected,)
    assert selection.before == BitMap([9])


def test_properties_and_slots_off_the_quarter_hour_need_events() -> None:
    on_quarters = ((0, QUARTER_US), (QUARTER_US * 2, QUARTER_US * 3))
    assert not needs_events(ActivityQuery(project="p", slots=(on_quarters,), selections=(select(("event_type", "t")),)))
    assert needs_events(ActivityQuery(project="p", slots=(on_quarters,), selections=(select(("properties.a", "1")),)))
    assert needs_events(ActivityQuery(project="p", slots=(((0, QUARTER_US + 1),),)))
