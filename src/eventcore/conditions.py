"""Conditions on events: which events a question is about, decided event by event.

Not here: how they are written in a request (`answers`), and counting what they select (`activity`).
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any, Final, Literal, assert_never

import msgspec


class Condition(msgspec.Struct, frozen=True, gc=False):
    """What one field of an event must be.

    Attributes:
        field: ``event_type`` or ``properties.NAME``; NAME is one key of the top-level object, dots included.
        values: what it is compared with.
        operator: how; see `Operator`.
    """

    field: str
    values: tuple[str, ...] = ()
    operator: "Operator" = "in"

    def holds(self, found: Any) -> bool:
        """Whether it holds for a value of the field, read by `read_properties`; `ABSENT` where there is none."""
        match self.operator:
            case "in":
                return _is_one_of(found, self.values)
            case "not in":
                return not _is_one_of(found, self.values)
            case "exists":
                return found is not ABSENT
            case "missing":
                return found is ABSENT
            case "is":
                return value_text(found) in self.values
            case "is not":
                return found is not ABSENT and value_text(found) not in self.values
            case _:
                assert_never(self.operator)


Operator = Literal["in", "not in", "exists", "missing", "is", "is not"]
"""How a field is compared.

``in``: its value equals one of the condition's: a string as it is; a number where the text is a number of JSON with the
same value (``1`` is ``1.0``); true, false and null where it is that word; an array or object never. ``not in``: it does
not, or the field is absent. ``exists``, ``missing``: whether it is there, whatever its value. ``is``, ``is not``: it is
there, and its text (`value_text`) is, or is not, one of the condition's; each text is in exactly one group then.
"""

NAME_CHARS: Final = 255
"""Characters of the longest string that is a group of its own in a breakdown; no condition names a longer one."""

ABSENT: Final = object()
"""Stands for the value of a property that an event does not have."""


def equals(field: str, value: str) -> Condition:
    """The condition that a field equals one value."""
    return Condition(field, (value,))


def _is_one_of(found: Any, values: tuple[str, ...]) -> bool:
    if isinstance(found, str):
        return found in values
    if found is None or isinstance(found, bool):
        return json.dumps(found) in values
    return isinstance(found, int | Decimal) and any(_is_number(found, value) for value in values)


def _is_number(found: int | Decimal, wanted: str) -> bool:
    try:
        return _NUMBER.fullmatch(wanted) is not None and Decimal(wanted) == found
    except InvalidOperation:  # an exponent beyond what a Decimal holds, and so beyond any stored number
        return False


_UNNAMEABLE = re.compile(r'["\\\x00-\x1f]')
"""What msgspec takes in no name of a struct's field."""

_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)
"""A number as JSON writes it (RFC 8259, section 6)."""


def read_properties(properties: str) -> dict[str, Any]:
    """The JSON object of an event's properties, its fractions exact."""
    found: dict[str, Any] = json.loads(properties, parse_float=Decimal)
    return found


def properties_reader(names: Sequence[str]) -> Callable[[str], tuple[bytes | None, ...]]:
    """Make a function that takes the values of these keys out of the JSON text of an object; None where absent.

    Much faster than reading all of it, and stored properties are known to be objects without repeated keys.
    """
    if any(_UNNAMEABLE.search(name) for name in names):
        read_all = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

        def read_by_key(properties: str) -> tuple[bytes | None, ...]:
            found = read_all(properties)
            return tuple([bytes(found[name]) if name in found else None for name in names])

        return read_by_key

    fields = [
        (f"value_{place}", msgspec.Raw | msgspec.UnsetType, msgspec.field(default=msgspec.UNSET, name=name))
        for place, name in enumerate(names)
    ]
    decode = msgspec.json.Decoder(msgspec.defstruct("Values", fields, gc=False)).decode
    members = [name for name, *_ in fields]

    def read(properties: str) -> tuple[bytes | None, ...]:
        found = decode(properties)
        values = [getattr(found, member) for member in members]
        return tuple([None if value is msgspec.UNSET else bytes(value) for value in values])

    return read


def read_value(value: bytes) -> Any:
    """One value of properties, as JSON, its fractions exact."""
    return json.loads(value, parse_float=Decimal)


def value_text(found: Any) -> str | None:
    """What a value is called where events are broken down by it; None for what has no name.

    Arrays and objects have none, and strings of more than `NAME_CHARS`.

    A string as it is; a number in its shortest digits without an exponent (1.0 is ``1``, 1e3 is ``1000``); true, false
    and null as these words.
    """
    if isinstance(found, str):
        return found if len(found) <= NAME_CHARS else None
    if found is None or isinstance(found, bool):
        return json.dumps(found)
    if isinstance(found, int):
        return str(found)
    if isinstance(found, Decimal):
        text = format(found, "f") if found else "0"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return None


class Selection(msgspec.Struct, frozen=True, gc=False):
    """Events for which all conditions hold on the same event; no condition selects every event."""

    conditions: tuple[Condition, ...] = ()

    @property
    def any_type(self) -> bool:
        """Whether the type of an event does not matter."""
        return not any(condition.field == "event_type" for condition in self.conditions)

    @property
    def event_types(self) -> frozenset[str] | None:
        """The names that a selected event's type is among; None when it may be one that is not named."""
        named = [
            frozenset(condition.values)
            for condition in self.conditions
            if condition.field == "event_type" and condition.operator in ("in", "is")
        ]
        return frozenset.intersection(*named) if named else None

    def admits(self, event_type: str) -> bool:
        """Whether events of this type are selected, as far as their type decides."""
        return all(condition.holds(event_type) for condition in self.conditions if condition.field == "event_type")

    def admitted(self, types: Iterable[tuple[int, str]]) -> tuple[int, ...]:
        """The keys of the types that it admits, of thousands; each type is a key and its name."""
        named = self.event_types
        return tuple([key for key, name in types if (named is None or name in named) and self.admits(name)])

    @property
    def properties(self) -> tuple[Condition, ...]:
        """The conditions on properties."""
        return tuple(condition for condition in self.conditions if condition.field != "event_type")

    def matches(self, event_type: str, properties: Mapping[str, Any]) -> bool:
        """Whether an event of this type, with these properties as `read_properties` gives them, is selected."""
        return self.admits(event_type) and all(
            condition.holds(properties.get(condition.field.removeprefix("properties."), ABSENT))
            for condition in self.properties
        )

    def and_also(self, *conditions: Condition) -> "Selection":
        """The events that fulfil these conditions too; each condition once, so that equal selections are equal."""
        return Selection(tuple(dict.fromkeys((*self.conditions, *conditions))))


def needles(selections: Sequence[Selection]) -> list[str]:
    """Texts that the properties of every event matching any selection hold, as far as no backslash is in them.

    A prefilter only, the most telling ones first: a key stands there in quotes, and a string as it is; a number may be
    spelled in other ways. What JSON must escape (a quote, a backslash, a control character) comes with a backslash.
    """
    common: set[str] | None = None
    for selection in selections:
        own: set[str] = set()
        for condition in selection.properties:
            if condition.operator in ("in", "is", "exists", "is not"):
                own.add(f'"{condition.field.removeprefix("properties.")}"')
            if condition.operator in ("in", "is") and len(condition.values) == 1:
                [value] = condition.values
                own |= set() if _may_be_other_than_text(value) else {f'"{value}"'}
        common = own if common is None else common & own
    return sorted(common or (), key=lambda needle: (-len(needle), needle))


def _may_be_other_than_text(value: str) -> bool:
    return value in ("true", "false", "null") or value.strip().lstrip("-")[:1].isdigit()
