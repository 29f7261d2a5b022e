"""Dimensions: properties declared for a project, so that questions about one of them need no raw events.

A *combination* is a dimension, an event type and a value. It has a key of its own, beside those of types, and every
event of its project is one more fact of it, which is folded as the fact of the type is; see `eventcore.projection`. As
the value is part of the combination, every condition on the dimension and on the type is decided on the combination,
for all its events at once. Conditions on two properties are not: nothing says which events two combinations share. Not
here: writing facts, which each store does in the event's own transaction.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

import msgspec

from eventcore.activity import ActivityQuery, property_fields
from eventcore.conditions import ABSENT, Selection, read_value, value_text
from eventcore.errors import Kind, StoreError

MOST_DIMENSIONS: Final = 10
"""Of a project. Each makes an event one more fact to write and to fold."""

MOST_VALUES: Final = 1_000
"""Of a dimension; with more it is ``full``. Each has rows of its own for every day on which it occurs, and a property
with more is rather a name of something than a kind of it."""

MOST_COMBINATIONS: Final = 100_000
"""Of a dimension, with as many types as there may be; read at a question about it."""

MOST_VALUE_CHARS: Final = 255
"""Of one value as a text: as many as a condition can name."""

NO_VALUE: Final = ""
"""In place of the value: the event has no such property."""

COLLECTION: Final = "[]"
"""Stands for every array and object: no condition and no breakdown tells them apart."""

State = Literal["building", "ready", "full"]
"""``building``: facts are written, and those of earlier events are being made; ``ready``: questions are answered from
them; ``full``: there are too many values, so no facts are kept. Only ``ready`` ones answer questions."""

_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")
_LONE_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_LONGEST_RAW: Final = 6 * MOST_VALUE_CHARS + 2  # \u0041 for every character, in quotes


class Dimension(msgspec.Struct, frozen=True, kw_only=True):
    """A property that was declared.

    Attributes:
        name: one key of the properties' top level, dots included.
        state: whether questions about it are answered from what is kept of it.
        values: how many different values are kept of it.
    """

    name: str
    state: State
    values: int = 0


class Combination(NamedTuple):
    """A type and a value of a dimension.

    Attributes:
        key: of its facts and rows.
        type_key: of the event type.
        value: as `canonical` writes it.
    """

    key: int
    type_key: int
    value: str


def canonical(raw: bytes | None) -> str | None:
    """The one text of all values that no condition can tell apart, as JSON.

    Args:
        raw: a value as it stands in properties; None where there is none.

    Returns:
        The text; None for a value that is too long to be kept.
    """
    if raw is None:
        return NO_VALUE
    if raw[:1] in (b"[", b"{"):
        return COLLECTION
    if len(raw) > _LONGEST_RAW:
        return None
    found = read_value(raw)
    text = value_text(found)
    if text is None or len(text) > MOST_VALUE_CHARS:
        return None
    if not isinstance(found, str):
        return text
    if _LONE_SURROGATE.search(text):  # half a character, which no store holds
        return None
    return json.dumps(text, ensure_ascii=False)


def check_name(name: str) -> None:
    """Refuse a name that no property can have, or that no store can hold.

    Raises:
        StoreError: kind ``data``.
    """
    if not len(name) <= MOST_VALUE_CHARS or _UNSTORABLE.search(name):
        rule = f"a dimension's name has at most {MOST_VALUE_CHARS} characters, no NUL and no lone surrogate"
        raise StoreError(Kind.DATA, "refused_data", f"the store refuses this: {rule}", field="name")


def value_of(text: str) -> Any:
    """A value as conditions take it, from what `canonical` wrote."""
    return ABSENT if text == NO_VALUE else read_value(text.encode())


def has_room(values: set[str], combinations: int) -> bool:
    """Whether a dimension with these values, and so many combinations, is not full."""
    return len(values - {NO_VALUE}) <= MOST_VALUES and combinations <= MOST_COMBINATIONS


class Kinds:
    """By which keys of rows and facts a query is answered; nothing in it may need raw events.

    Attributes:
        wanted: for each selection the keys of types, or of combinations, whose events it selects; None for all types.

    Args:
        query: the question.
        type_names: by key; of all types that it tells apart.
        combinations: of each dimension that it asks about, by the name of the field, ``properties.NAME``.
    """

    def __init__(
        self, query: ActivityQuery, type_names: Mapping[int, str], combinations: Mapping[str, Sequence[Combination]]
    ) -> None:
        self._parts: dict[int, str | None] = {}
        if query.split == "event_type":
            self._parts.update(type_names)
        values = {field: {one.value: value_of(one.value) for one in found} for field, found in combinations.items()}
        for field, found in combinations.items():
            for one in found:
                if query.split == field:
                    self._parts[one.key] = value_text(values[field][one.value])
                elif query.split == "event_type":
                    self._parts[one.key] = type_names.get(one.type_key)
        self.wanted: tuple[frozenset[int] | None, ...] = tuple(
            _keys(selection, property_fields(query, selection), type_names, combinations, values)
            for selection in query.selections
        )

    @property
    def parts(self) -> int:
        """How many keys there are that a split tells apart."""
        return len(self._parts)

    def part(self, key: int) -> str | None:
        """The part of a split that events of this key are in; None where they are in none."""
        return self._parts.get(key)


def _keys(
    selection: Selection,
    fields: frozenset[str],
    type_names: Mapping[int, str],
    combinations: Mapping[str, Sequence[Combination]],
    values: Mapping[str, Mapping[str, Any]],
) -> frozenset[int] | None:
    if not fields and selection.any_type:
        return None
    admitted = frozenset(selection.admitted(type_names.items()))
    if not fields:
        return admitted
    [field] = fields
    held = {
        text
        for text, value in values.get(field, {}).items()
        if all(condition.holds(value) for condition in selection.properties)
    }
    return frozenset(one.key for one in combinations.get(field, ()) if one.type_key in admitted and one.value in held)


# What can go wrong


def too_many_dimensions() -> StoreError:
    """The error for one more than there may be."""
    return StoreError(
        Kind.INVALID,
        "too_many_dimensions",
        f"a project has at most {MOST_DIMENSIONS} dimensions: remove one that is asked for less",
        field="name",
    )


def is_full(name: str) -> StoreError:
    """The error where a dimension cannot be built because it has too many values."""
    return StoreError(
        Kind.INVALID,
        "dimension_full",
        f"properties.{name} has more than {MOST_VALUES:,} values, or one of more than {MOST_VALUE_CHARS} characters, "
        "or too many types have it: questions about it read raw events as before; remove the dimension",
        field="name",
    )


def was_removed(name: str) -> StoreError:
    """The error where somebody has removed a dimension while it was built."""
    return StoreError(
        Kind.UNAVAILABLE, "dimension_removed", f"the dimension {name} was removed while it was built", field="name"
    )
