r"""The naive oracle's reading of one event: does a condition hold on it, and what is its value in a breakdown.

An event is a dict {"event_id", "user_id", "event_type", "occurred_at", "properties"}; its properties are JSON text, or
the dict that such a text stands for.

Where the definitions leave a choice open, this is the reading taken here.

Numbers
* A number is the decimal number that its JSON text spells, to the last digit, whatever a float could keep of it. A
  float in a dict stands for its shortest spelling (0.1 is a tenth).
* V is compared as a number only when it is a JSON number to the letter: 01, +1, .5 and " 1" are none. So the text 3
  equals the number 3 and the string "3", and null equals null and the string "null".

Conditions
* A property's NAME ends where the first of ":", "=", "!=", "!:", " in " stands; NAME may be empty. A "!" before
  anything else is a part of NAME. The value is all the rest, operators and blanks too.
* " exists" is an operator only where the text ends with it: `properties.a exists:1` asks for the key "a exists".
* Blanks count: `properties.a = b` asks the key "a " for the value " b".
* In a list a backslash before anything but a comma or a backslash is itself. There are no empty lists: `in ` has
  one value, the empty text; so has each place between two commas.
* A text that has no such form is a ValueError.

Breakdown values
* A value is a text: the number 1, 1.0 and the string "1" are one value, so are null and the string "null".
* The NAME of a breakdown is all that follows `properties.`, operators too.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

Event = Mapping[str, Any]

JSON_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
FIRST_OPERATOR = re.compile(r"!=|!:|=|:| in | exists\Z")


# --- Numbers ---


@dataclass(frozen=True, slots=True)
class JsonNumber:
    """A number as the JSON text spells it."""

    text: str


@dataclass(frozen=True, slots=True)
class Number:
    """±0.DIGITS × 10^exponent, without zeros at either end of DIGITS: equal numbers are equal objects."""

    negative: bool
    digits: str
    exponent: int


ZERO = Number(negative=False, digits="", exponent=0)


def parse_number(text: str) -> Number | None:
    """The number that a text spells as JSON does, or None."""
    if JSON_NUMBER.fullmatch(text) is None:
        return None
    mantissa, _, power = text.lower().partition("e")
    whole, _, fraction = mantissa.removeprefix("-").partition(".")
    digits = whole + fraction
    without_leading = digits.lstrip("0")
    if without_leading == "":
        return ZERO
    leading_zeros = len(digits) - len(without_leading)
    return Number(
        negative=mantissa.startswith("-"),
        digits=without_leading.rstrip("0"),
        exponent=len(whole) - leading_zeros + int(power or "0"),
    )


def plain(number: Number) -> str:
    """Its decimal digits, as few as there can be, without an exponent."""
    if number == ZERO:
        return "0"
    sign = "-" if number.negative else ""
    if number.exponent <= 0:
        return f"{sign}0.{'0' * -number.exponent}{number.digits}"
    whole = number.digits[: number.exponent].ljust(number.exponent, "0")
    fraction = number.digits[number.exponent :]
    return f"{sign}{whole}.{fraction}" if fraction else f"{sign}{whole}"


# --- Properties ---


def properties_of(event: Event) -> Mapping[str, Any]:
    """The properties of an event; the numbers of a JSON text keep their spelling."""
    properties = event["properties"]
    if isinstance(properties, str):
        parsed = json.loads(properties, parse_int=JsonNumber, parse_float=JsonNumber)
        if not isinstance(parsed, dict):
            raise ValueError(f"not an object: {properties}")
        return parsed
    return properties


def number_of(value: object) -> Number | None:
    """The number that a property's value is, or None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, JsonNumber):
        return parse_number(value.text)
    if isinstance(value, int | Decimal):
        return parse_number(str(value))
    if isinstance(value, float):
        return parse_number(repr(value))
    return None


def equals(value: object, text: str) -> bool:
    """Whether a property that is there equals the text of a condition."""
    if isinstance(value, str):
        return value == text
    if value is None:
        return text == "null"
    if value is True:
        return text == "true"
    if value is False:
        return text == "false"
    number = number_of(value)
    return number is not None and number == parse_number(text)


# --- Conditions ---


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition: NAME is None for event_type; there are as many values as the operator takes."""

    name: str | None
    operator: Literal["=", "!=", "in", "exists"]
    values: tuple[str, ...]


def matches(event: Event, segments: Sequence[str]) -> bool:
    """Whether this one event fulfils every condition."""
    return all(holds(event, parse_condition(segment)) for segment in segments)


def parse_condition(segment: str) -> Condition:
    """Take the text of a condition apart."""
    if segment.startswith("properties."):
        text = segment.removeprefix("properties.")
        operator = FIRST_OPERATOR.search(text)
    elif segment.startswith("event_type"):
        text = segment.removeprefix("event_type")
        operator = FIRST_OPERATOR.match(text)
    else:
        raise ValueError(f"not a segment: {segment}")
    if operator is None:
        raise ValueError(f"not a segment: {segment}")

    name = text[: operator.start()] if segment.startswith("properties.") else None
    rest = text[operator.end() :]
    if operator.group() in (":", "="):
        return Condition(name, "=", (rest,))
    if operator.group() in ("!:", "!="):
        return Condition(name, "!=", (rest,))
    if operator.group() == " in ":
        return Condition(name, "in", split_list(rest))
    return Condition(name, "exists", ())


def split_list(text: str) -> tuple[str, ...]:
    r"""The values between commas; `\,` is a comma and `\\` a backslash inside a value."""
    values = [""]
    position = 0
    while position < len(text):
        if text[position] == "\\" and text[position + 1 : position + 2] in (",", "\\"):
            values[-1] += text[position + 1]
            position += 2
        elif text[position] == ",":
            values.append("")
            position += 1
        else:
            values[-1] += text[position]
            position += 1
    return tuple(values)


def holds(event: Event, condition: Condition) -> bool:
    """Whether one condition holds on an event."""
    if condition.name is None:
        is_there, value = True, event["event_type"]
    else:
        properties = properties_of(event)
        is_there, value = condition.name in properties, properties.get(condition.name)

    if condition.operator == "exists":
        return is_there
    is_equal = is_there and any(equals(value, text) for text in condition.values)
    return not is_equal if condition.operator == "!=" else is_equal


# --- Breakdown values ---


@dataclass(frozen=True, slots=True)
class BreakdownValue:
    """The part of a breakdown that an event belongs to: a value, or one of the two kinds without a value."""

    kind: Literal["value", "missing", "other"]
    value: str | None = None


def breakdown_value(event: Event, field: str) -> BreakdownValue:
    """The value of an event in a breakdown by a field."""
    if field == "event_type":
        return BreakdownValue("value", event["event_type"])
    if not field.startswith("properties."):
        raise ValueError(f"not a breakdown: {field}")
    name = field.removeprefix("properties.")
    properties = properties_of(event)
    if name not in properties:
        return BreakdownValue("missing")
    value = properties[name]
    if isinstance(value, str):
        return BreakdownValue("value", value) if len(value) <= 255 else BreakdownValue("other")
    if value is None:
        return BreakdownValue("value", "null")
    if value is True:
        return BreakdownValue("value", "true")
    if value is False:
        return BreakdownValue("value", "false")
    number = number_of(value)
    return BreakdownValue("other") if number is None else BreakdownValue("value", plain(number))
