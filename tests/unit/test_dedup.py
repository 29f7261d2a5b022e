"""When two events are the same."""

import json
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventcore.dedup import collapse, fingerprint, same_content
from eventcore.events import Event


def an_event(number: int = 1, *, user: str = "u", kind: str = "t", at: int = 0, properties: str = "{}") -> Event:
    return Event(UUID(int=number).bytes, user, kind, at, properties, fingerprint(user, kind, at, properties))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"a":1,"b":2}', '{ "b": 2, "a": 1 }'),
        ('{"a":1}', '{"a":1.0}'),
        ('{"a":1}', '{"a":1e0}'),
        ('{"a":100}', '{"a":1E+2}'),
        ('{"a":0}', '{"a":-0}'),
        ('{"a":0}', '{"a":-0.0}'),
        ('{"a":"é"}', '{"a":"\\u00e9"}'),
        ('{"a":[1,{"b":[]}]}', '{"a":[1.0,{"b":[]}]}'),
        ('{"a":9007199254740993}', '{"a":9007199254740993.0}'),
    ],
)
def test_equal_values_in_other_spelling_are_the_same_content(one: str, other: str) -> None:
    assert an_event(properties=one).fingerprint != an_event(properties=other).fingerprint
    assert same_content(an_event(properties=one), an_event(properties=other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('{"a":1}', '{"a":true}'),
        ('{"a":0}', '{"a":false}'),
        ('{"a":null}', "{}"),
        ('{"a":null}', '{"a":false}'),
        ('{"a":1}', '{"a":"1"}'),
        ('{"a":[1,2]}', '{"a":[2,1]}'),
        ('{"a":[]}', '{"a":{}}'),
        ('{"a":[1]}', '{"a":[1,1]}'),
        ('{"a":9007199254740993}', '{"a":9007199254740992}'),
        ('{"a":0.1}', '{"a":0.10000000000000000001}'),
        ('{"a":"é"}', '{"a":"e\\u0301"}'),
    ],
)
def test_other_values_are_other_content(one: str, other: str) -> None:
    assert not same_content(an_event(properties=one), an_event(properties=other))


@pytest.mark.parametrize("change", [{"user": "v"}, {"kind": "s"}, {"at": 1}, {"properties": '{"a":1}'}])
def test_each_field_is_content(change: dict[str, Any]) -> None:
    assert an_event(**change).fingerprint != an_event().fingerprint
    assert not same_content(an_event(**change), an_event())


def test_texts_that_join_alike_have_other_fingerprints() -> None:
    assert fingerprint("ab", "c", 1, "{}") != fingerprint("a", "bc", 1, "{}")
    assert fingerprint("a", "c", 11, "{}") != fingerprint("a", "c", 1, "1{}")


_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from([0.5, 1.0, 2.0]), st.text(max_size=2)),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.sampled_from("abc"), inner, max_size=2)),
    max_leaves=5,
)


def _strictly_equal(one: Any, other: Any) -> bool:
    """JSON equality by another way: canonical text with every number as a float and every bool marked."""

    def canonical(value: Any) -> Any:
        if isinstance(value, bool):
            return ["bool", value]
        if isinstance(value, int | float):
            return ["number", float(value)]
        if isinstance(value, list):
            return ["list", *map(canonical, value)]
        if isinstance(value, dict):
            return ["dict", {key: canonical(member) for key, member in value.items()}]
        return [type(value).__name__, value]

    return json.dumps(canonical(one), sort_keys=True) == json.dumps(canonical(other), sort_keys=True)


@given(_values, _values)
def test_equality_agrees_with_canonical_text(one: Any, other: Any) -> None:
    left, right = an_event(properties=json.dumps({"a": one})), an_event(properties=json.dumps({"a": other}))
    assert same_content(left, right) == _strictly_equal(one, other)


def test_a_batch_collapses_to_the_first_of_each_id() -> None:
    events = [
        an_event(1),
        an_event(2),
        an_event(1),
        an_event(2, user="other"),
        an_event(1, properties="{ }"),
        an_event(2),
    ]
    assert collapse(events) == ([0, 1], [2, 4, 5], [3])
