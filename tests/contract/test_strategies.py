"""What eventcore offers for tests is valid: the strategies make nothing that eventcore would refuse."""

import json
from typing import Any

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from eventcore.calendar import find_zone
from eventcore.decoding import decode
from eventcore.dedup import collapse, fingerprint, same_content
from eventcore.events import Event
from eventcore.strategies import (
    AN_INSTANT_US,
    HOSTILE_KEYS,
    HOSTILE_TEXTS,
    TRICKY_ZONES,
    a_chunk,
    an_event,
    an_id,
    events,
    from_wire,
    json_objects,
    respelled,
    spellings,
    wire_batches,
    wire_events,
    with_other_content,
    zones,
)
from eventcore.strict_json import equal, first_flaw, read_element

QUICK = settings(deadline=None, max_examples=200)


def decoded(batch: list[dict[str, Any]], *, ensure_ascii: bool = True) -> list[Event]:
    """The events of a batch of which nothing is refused."""
    found = decode(json.dumps(batch, ensure_ascii=ensure_ascii).encode(), now_us=AN_INSTANT_US - 86_400_000_000)
    assert found.problems == []
    return found.events


@given(wire_batches(), st.booleans())
@QUICK
def test_every_batch_is_valid(batch: list[dict[str, Any]], ensure_ascii: bool) -> None:
    assert len(decoded(batch, ensure_ascii=ensure_ascii)) == len(batch)


@given(wire_events())
@QUICK
def test_an_event_from_the_wire_is_what_decoding_makes_of_it(wire: dict[str, Any]) -> None:
    [event] = decoded([wire])
    assert (event.event_id, same_content(event, from_wire(wire))) == (from_wire(wire).event_id, True)


@pytest.mark.parametrize("kind", [0, 1, 2], ids=["firsts", "duplicates", "conflicts"])
def test_batches_hold_repeats_and_conflicts(kind: int) -> None:
    find(wire_batches(), lambda batch: bool(collapse(decoded(batch))[kind]), settings=settings(phases=[Phase.generate]))


@given(json_objects(depth=8).flatmap(lambda value: st.tuples(st.just(value), spellings(value))))
@QUICK
def test_spellings_mean_the_same_value(spelled: tuple[dict[str, Any], str]) -> None:
    value, text = spelled
    read = read_element(text.encode())
    assert first_flaw(read, most_depth=8, most_keys=255) is None
    assert equal(read, read_element(json.dumps(value).encode()))


@given(events().flatmap(lambda event: st.tuples(st.just(event), respelled(event))))
@QUICK
def test_a_respelled_event_is_the_same(pair: tuple[Event, Event]) -> None:
    event, again = pair
    assert event.event_id == again.event_id
    assert same_content(event, again)


@given(events())
@QUICK
def test_other_content_is_other_content(event: Event) -> None:
    other = with_other_content(event)
    assert event.event_id == other.event_id
    assert not same_content(event, other)


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_hostile_texts_are_valid_anywhere(text: str) -> None:
    wire = {
        "event_id": "018f0000-0000-7000-8000-000000000001",
        "user_id": text,
        "event_type": text[:100],
        "occurred_at": "2026-01-01T00:00:00Z",
        "properties": {text: text},
    }
    [event] = decoded([wire])
    assert (event.user_id, event.event_type, json.loads(event.properties)) == (text, text[:100], {text: text})


def test_hostile_keys_are_valid() -> None:
    wire = {
        "event_id": "018f0000-0000-7000-8000-000000000001",
        "user_id": "ada",
        "event_type": "x",
        "occurred_at": "2026-01-01T00:00:00Z",
        "properties": dict.fromkeys(HOSTILE_KEYS, 1),
    }
    assert json.loads(decoded([wire])[0].properties) == dict.fromkeys(HOSTILE_KEYS, 1)


@given(zones())
@QUICK
def test_zones_are_known(name: str) -> None:
    assert find_zone(name).key == name


def test_tricky_zones_are_known() -> None:
    assert [find_zone(name).key for name in TRICKY_ZONES] == list(TRICKY_ZONES)


def test_an_event_is_complete_and_its_parts_can_be_named() -> None:
    changed = an_event(event_id=7, user_id="grace", properties={"a": 1})
    content = ("grace", "page_view", AN_INSTANT_US, '{"a": 1}')
    assert changed == Event(an_id(7), *content, fingerprint(*content))
    assert an_event() == an_event()


def test_each_chunk_is_another_one() -> None:
    assert a_chunk(an_event()).chunk_id != a_chunk(an_event()).chunk_id
