"""JSON read exactly: finds the one flaw that a fast parser only trips over.

Two steps that never recurse deeper than a limit. `split_array` cuts a body into its elements by following strings and
brackets alone, so one broken element leaves its neighbours whole. `read_element` parses one of them with every
rule on: valid UTF-8, no NaN or Infinity, no lone surrogate, no repeated key, no number out of range (RFC 8259, read
as I-JSON, RFC 7493, reads it). Not here: what an event must look like (`decoding`).
"""

import json
import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from math import isfinite
from typing import Any, NamedTuple

from eventcore.errors import BodyError, Kind
from eventcore.limits import ECHO_CHARS

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
SMALLEST_INTEGER = -(2**63)
LARGEST_INTEGER = 2**64 - 1
_NUMBER_CHARS = 1_000
_NOT_ZERO = re.compile(r"[-0.]*[1-9]")
_LONG_EXPONENT = re.compile(r"[eE][+-]?0*[1-9]\d{3}")  # only a zero can have one, and written out it fills the memory

_SPACE = re.compile(rb"[ \t\n\r]*")
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+("?)|[\[\]{},]', re.DOTALL)


class Flaw(NamedTuple):
    """What is wrong with a value.

    Attributes:
        code: a stable lower-case name.
        path: the keys that lead to it from the element, empty for the element itself.
        message: what is wrong and what is accepted.
    """

    code: str
    path: tuple[str, ...]
    message: str


class Element(NamedTuple):
    """One element of an array, as bytes.

    Attributes:
        text: its bytes, without the white space around them.
        offset: where they begin in the body.
        depth: the most brackets open at once in it.
    """

    text: bytes
    offset: int
    depth: int


def split_array(body: bytes, start: int, *, most_elements: int, most_depth: int) -> tuple[list[Element], int]:
    """Cut the array that begins at ``start`` into its elements.

    Args:
        body: the whole body.
        start: where the opening bracket is.
        most_elements: more of them are refused while cutting, so a huge body costs no memory.
        most_depth: more brackets open at once are refused.

    Returns:
        The elements and the position behind the closing bracket.

    Raises:
        BodyError: the array is not closed, has a gap between commas, too many elements or brackets.
    """
    elements: list[Element] = []
    depth = deepest = 0
    begin = start + 1
    for token in _TOKEN.finditer(body, start):
        mark = token[0]
        if mark in (b"[", b"{"):
            depth += 1
            deepest = max(deepest, depth)
            if depth > most_depth:
                raise BodyError("too_deep", f"more than {most_depth} brackets are open at once", offset=token.start())
        elif mark in (b"]", b"}"):
            depth -= 1
        elif token[1] == b"":
            raise _cut_short(len(body))
        if (mark == b"," and depth == 1) or depth == 0:
            if depth == 0 and mark != b"]":
                raise _not_json(token.start())
            text = body[begin : token.start()].strip(b" \t\n\r")
            if text or elements or mark == b",":
                if not text:
                    raise _not_json(token.start())
                if len(elements) == most_elements:
                    raise too_many(most_elements)
                elements.append(Element(text, begin, deepest - 1))
            if depth == 0:
                return elements, token.end()
            begin = token.end()
            deepest = 1
    raise _cut_short(len(body))


def depth_of(text: bytes) -> int:
    """The most brackets open at once in a text, whether it is JSON or not; those in strings do not count."""
    depth = deepest = 0
    for token in _TOKEN.finditer(text):
        if token[0] in (b"[", b"{"):
            depth += 1
            deepest = max(deepest, depth)
        elif token[0] in (b"]", b"}"):
            depth -= 1
    return deepest


def skip_space(body: bytes, start: int) -> int:
    """The position of the first byte from ``start`` that is not JSON white space."""
    found = _SPACE.match(body, start)
    return found.end() if found else start


def too_many(most_elements: int) -> BodyError:
    """The error for a batch with more than ``most_elements`` events."""
    return BodyError(
        "batch_too_large",
        f"a batch holds at most {most_elements} events; send the rest in further batches",
        kind=Kind.TOO_LARGE,
    )


def _cut_short(offset: int) -> BodyError:
    return BodyError("invalid_json", f"the JSON ends too early, at byte {offset}; send it whole", offset=offset)


def _not_json(offset: int) -> BodyError:
    return BodyError("invalid_json", f"this is not JSON from byte {offset} on", offset=offset)


def read_element(text: bytes) -> Any:
    """Parse one JSON value, every rule on.

    A value inside it that breaks a rule is replaced by a `Flaw`, so that `first_flaw` can say where it is. Floats
    become Decimals, so that nothing is rounded.

    Returns:
        The value, or a `Flaw` when the text as a whole cannot be read.
    """
    try:
        decoded = text.decode("utf-8")
    except UnicodeDecodeError as error:
        return Flaw("invalid_utf8", (), f"byte {error.start} of the event is not valid UTF-8")
    try:
        return _DECODER.decode(decoded)
    except RecursionError:
        return Flaw("too_deep", (), "there are far too many levels of nesting")
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            return Flaw("extra_data", (), f"something follows the event at its character {error.pos}")
        return Flaw("invalid_json", (), f"this is not JSON from character {error.pos} of the event on")


def first_flaw(value: Any, *, most_depth: int, most_keys: int) -> Flaw | None:
    """The first flaw inside a value that `read_element` gave, in reading order; None when there is none.

    Args:
        value: the value; walked without recursion.
        most_depth: levels of nesting allowed, ``value`` itself being the first.
        most_keys: keys allowed in any one object.
    """
    stack: list[Iterator[tuple[tuple[str, ...], Any]]] = [iter([((), value)])]
    while stack:
        path, current = next(stack[-1], (None, None))
        if path is None:
            stack.pop()
            continue
        if isinstance(current, Flaw):
            return current._replace(path=path + current.path)
        if isinstance(current, str):
            flaw = _text_flaw(current)
            if flaw:
                return flaw._replace(path=path)
        elif isinstance(current, dict | list):
            if len(stack) > most_depth:
                return Flaw("too_deep", path, f"at most {most_depth} levels of nesting are accepted")
            if isinstance(current, dict):
                if len(current) > most_keys:
                    return Flaw("too_many_keys", path, f"an object has at most {most_keys} keys")
                flaw = next(filter(None, map(_text_flaw, current)), None)
                if flaw:
                    return flaw._replace(path=path)
                stack.append(_members(path, current.items()))
            else:
                stack.append(_members(path, enumerate(current)))
    return None


def _members(path: tuple[str, ...], members: Iterable[tuple[Any, Any]]) -> Iterator[tuple[tuple[str, ...], Any]]:
    # One by one: a long array far down would have as many long paths at once.
    for key, member in members:
        yield (*path, str(key)), member


def _text_flaw(text: str) -> Flaw | None:
    if "\0" in text:
        return Flaw("control_character", (), "the NUL character is not accepted")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return Flaw("invalid_unicode", (), "a lone surrogate is not a character; send whole surrogate pairs")
    return None


def _read_object(pairs: list[tuple[str, Any]]) -> Any:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            shown = key[:ECHO_CHARS].encode("utf-8", "replace").decode()
            return Flaw("duplicate_key", (key,), f"the key {shown!r} appears twice in one object")
        seen.add(key)
    return found


def _read_integer(digits: str) -> int | Flaw:
    if len(digits) <= 20 and SMALLEST_INTEGER <= (number := int(digits)) <= LARGEST_INTEGER:
        return number
    return Flaw("number_range", (), "integers from -2^63 to 2^64-1 are accepted; send larger ones as strings")


def _read_float(digits: str) -> Decimal | Flaw:
    if len(digits) <= _NUMBER_CHARS and not _LONG_EXPONENT.search(digits):
        nearest = float(digits)
        if isfinite(nearest) and (nearest or not _NOT_ZERO.match(digits)):
            return Decimal(digits)
    return Flaw("number_range", (), "this number does not fit a 64-bit float; send it as a string")


def _read_constant(word: str) -> Flaw:
    return Flaw("not_a_number", (), f"{word} is not JSON; leave the member out or send null")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_read_object,
    parse_int=_read_integer,
    parse_float=_read_float,
    parse_constant=_read_constant,
)


def equal(one: Any, other: Any) -> bool:
    """Whether two values that `read_element` gave are equal; key order and spelling of numbers do not matter."""
    if isinstance(one, bool) or isinstance(other, bool) or one is None or other is None:
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(equal(member, other[key]) for key, member in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, int | Decimal) and isinstance(other, int | Decimal):
        return one == other
    return type(one) is type(other) and bool(one == other)
