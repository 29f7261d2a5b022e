"""Bytes to events: strict, and exact about what is wrong with each.

Two roads that agree on everything. The fast one reads the whole batch in one pass of msgspec and checks its columns
in bulk; at the first doubt of any kind it gives up. The slow one then cuts the batch into elements and names the flaw
of each bad event, so that a flaw costs only its own event. Not here: the CSV reader, decompression, and repeats
(`dedup`).
"""

import difflib
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

import msgspec

from eventcore.calendar import EPOCH, format_instant
from eventcore.dedup import fingerprint
from eventcore.errors import BodyError, Kind
from eventcore.events import Event, Problem
from eventcore.limits import ECHO_CHARS, Limits
from eventcore.strict_json import (
    BYTE_ORDER_MARK,
    LARGEST_INTEGER,
    SMALLEST_INTEGER,
    Element,
    Flaw,
    depth_of,
    first_flaw,
    read_element,
    skip_space,
    split_array,
    too_many,
)

Form = Literal["json", "ndjson"]
FIELDS = ("event_id", "user_id", "event_type", "occurred_at", "properties")
REQUIRED = FIELDS[:4]

_FIXED_EVENT_BYTES = 64
_UUID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
_UUIDS = re.compile(f"(?:{_UUID.pattern})*+")
_NIL = bytes(16)
_MAX = b"\xff" * 16
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_STAMP = re.compile(
    r"\d{4}-\d\d-\d\d[Tt](?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,6})?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)",
    re.ASCII,
)
_STAMP_LINES = re.compile(f"(?:{_STAMP.pattern}\n)*+", re.ASCII)
_TIMESTAMP_HELP = (
    "accepted is RFC 3339 with an offset and at most 6 digits of a second, like 2026-01-31T09:30:00Z or "
    "2026-01-31T09:30:00.125+02:00"
)
_UUID_HELP = "accepted is a UUID of 36 characters with dashes, like 0192f0c1-2b3a-7c4d-8e5f-6a7b8c9d0e1f"
_UNDERFLOW = re.compile(rb"[eE]-|[eE]\+?\d{4}|0{300}")
"""Where a number may be that is not zero and becomes it as a float, or a zero with an exponent that is not accepted."""
_LONG_NUMBER = re.compile(rb"[0-9.]{900}")


class Wire(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """An event as it stands on the wire: types checked, values not."""

    event_id: str
    user_id: str
    event_type: str
    occurred_at: str
    properties: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Envelope(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    events: list[Wire]


class Decoded(NamedTuple):
    """A batch as understood.

    Attributes:
        received: how many events were sent.
        events: the valid ones, in order.
        positions: for each of them, its position in the batch.
        problems: the others, in order.
    """

    received: int
    events: list[Event]
    positions: Sequence[int]
    problems: list[Problem]


_decode_array = msgspec.json.Decoder(list[Wire]).decode
_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_wire = msgspec.json.Decoder(Wire).decode
_decode_any = msgspec.json.Decoder().decode


def decode(body: bytes, *, now_us: int, form: Form = "json", limits: Limits = Limits()) -> Decoded:
    """Read a batch: a JSON array, ``{"events": […]}``, or JSON lines.

    Args:
        body: the bytes, decompressed; a UTF-8 byte order mark is accepted.
        now_us: the server's clock, the measure of what lies in the future.
        form: ``json`` or ``ndjson`` (one event a line, blank lines ignored).
        limits: what is accepted.

    Raises:
        BodyError: the body is not a batch at all, or larger than a limit; nothing of it is kept.
    """
    if len(body) > limits.body_bytes:
        raise BodyError(
            "body_too_large",
            f"a body holds at most {limits.body_bytes} bytes, decompressed",
            kind=Kind.TOO_LARGE,
        )
    body = body.removeprefix(BYTE_ORDER_MARK)
    if not body.strip(b" \t\n\r"):
        raise BodyError("empty_body", 'the body is empty; send a JSON array of events or {"events": […]}')
    if body[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in body[:2]:
        raise BodyError("invalid_utf8", "the body is not UTF-8; UTF-16 and UTF-32 are not accepted", offset=0)
    try:
        return _decode_fast(body, form, now_us, limits)
    except _DOUBTS:
        return _decode_slowly(body, form, now_us, limits)


class _Doubt(Exception):
    """The fast road cannot be sure that everything is well."""


_DOUBTS = (_Doubt, msgspec.MsgspecError, ValueError, RecursionError)
_READ_DEPTH = 64
"""Levels of nesting down to which an event is parsed at all, to say what else is wrong with it."""
_RUN = 32
"""Events that the slow road first reads together: one flaw then costs 32 events the long way, not 2,000."""


def _doubt_unless(sure: bool) -> None:
    if not sure:
        raise _Doubt


def _decode_fast(body: bytes, form: Form, now_us: int, limits: Limits) -> Decoded:
    colons = 0
    if form == "ndjson":
        wires = [_decode_wire(line) for line in body.split(b"\n") if line.strip(b" \t\r")]
    elif body[skip_space(body, 0)] == 0x7B:
        wires = _decode_envelope(body).events
        colons = 1
    else:
        wires = _decode_array(body)
    _doubt_unless(0 < len(wires) <= limits.batch_events)
    events, event_colons = check_wires(wires, now_us=now_us, limits=limits)
    _doubt_unless_counted(body, colons + event_colons)
    return Decoded(len(wires), events, range(len(wires)), [])


def _doubt_unless_counted(text: bytes, colons: int) -> None:
    """Doubt unless a text has just these colons.

    A repeated member leaves no trace in what msgspec gives; it does leave a colon in the text. Escaped colons would
    make the sum wrong, so they are a doubt of their own.
    """
    _doubt_unless(text.count(b":") == colons and b"\\u003a" not in text and b"\\u003A" not in text)


def check_wires(wires: Sequence[Wire], *, now_us: int, limits: Limits) -> tuple[list[Event], int]:
    """Check whole columns of a batch at once, which costs a fraction of checking event by event.

    Returns:
        An event for each wire, and the number of colons that their JSON must hold if no member is repeated.

    Raises:
        Exception: of any kind, when some event may be flawed; `check_wire` then finds which.
    """
    ids = [wire.event_id for wire in wires]
    users = [wire.user_id for wire in wires]
    types = [wire.event_type for wire in wires]
    stamps = [wire.occurred_at for wire in wires]
    colons = 4 * len(wires)
    colons += _check_texts(users, limits.user_id_chars)
    colons += _check_texts(types, limits.event_type_chars)
    colons += sum(stamp.count(":") for stamp in stamps)
    instants = _check_stamps(stamps, now_us, limits)
    texts, property_colons = _check_properties([wire.properties for wire in wires], limits)
    colons += property_colons
    digests = map(fingerprint, users, types, instants, texts)
    return list(map(Event, _check_ids(ids), users, types, instants, texts, digests)), colons


def _check_ids(ids: list[str]) -> list[bytes]:
    joined = "".join(ids)
    _doubt_unless(len(joined) == 36 * len(ids) and _UUIDS.fullmatch(joined) is not None)
    _doubt_unless(set(map(len, ids)) == {36})
    packed = bytes.fromhex(joined.replace("-", ""))
    found = [packed[start : start + 16] for start in range(0, len(packed), 16)]
    _doubt_unless(_NIL not in found and _MAX not in found)
    return found


def _check_texts(texts: list[str], most_chars: int) -> int:
    _doubt_unless(all(map(str.strip, texts)) and max(map(len, texts)) <= most_chars)
    joined = "".join(texts)
    _doubt_unless(joined.isprintable() or _CONTROL.search(joined) is None)
    return joined.count(":")


def _check_stamps(stamps: list[str], now_us: int, limits: Limits) -> list[int]:
    joined = "\n".join(stamps).upper() + "\n"
    _doubt_unless(joined.count("\n") == len(stamps) and _STAMP_LINES.fullmatch(joined) is not None)
    instants = []
    for moment in map(datetime.fromisoformat, joined.split("\n")[:-1]):
        passed = moment - EPOCH
        instants.append((passed.days * 86_400 + passed.seconds) * 1_000_000 + passed.microseconds)
    _doubt_unless(limits.oldest_us <= min(instants) and max(instants) <= now_us + limits.future_us)
    return instants


def _check_properties(raws: list[Any], limits: Limits) -> tuple[list[str], int]:
    texts: list[str] = []
    colons = 0
    for raw in raws:
        if raw is msgspec.UNSET:
            texts.append("{}")
            continue
        text = bytes(raw)
        own_colons = text.count(b":")
        colons += own_colons + 1
        if text != b"{}":
            _check_object(text, own_colons, limits)
        texts.append(text.decode())
    return texts, colons


def _check_object(text: bytes, colons: int, limits: Limits) -> None:
    """Doubt unless ``text`` is surely a flawless object.

    The colons of the text are those of its members and those inside strings; when the members that msgspec kept and
    their strings account for all of them, no key was repeated.
    """
    _doubt_unless(len(text) <= limits.event_bytes - 4096)
    found = _decode_any(text)
    _doubt_unless(type(found) is dict)
    _doubt_unless(len(found) <= limits.property_keys)
    if b"\\u00" in text:
        _doubt_unless(b"\\u0000" not in text and b"\\u003a" not in text and b"\\u003A" not in text)
    counted = len(found)
    for value in found.values():
        kind = type(value)
        if kind is str:
            if ":" in value:
                counted += value.count(":")
        elif kind is int:
            _doubt_unless(SMALLEST_INTEGER <= value <= LARGEST_INTEGER)
        elif kind is float:
            _doubt_unless(value != 0.0 or _UNDERFLOW.search(text) is None)
        elif kind is dict or kind is list:
            counted += _check_nested(value, text, limits)
    if counted != colons:
        counted += "".join(found).count(":")
        _doubt_unless(counted == colons)
    if len(text) > 1_000:
        _doubt_unless(_LONG_NUMBER.search(text) is None)


def _check_nested(value: Any, text: bytes, limits: Limits) -> int:
    counted = 0
    level = [value]
    depth = 1
    while level:
        depth += 1
        _doubt_unless(depth <= limits.property_depth)
        below: list[Any] = []
        for container in level:
            if type(container) is dict:
                _doubt_unless(len(container) <= limits.property_keys)
                counted += len(container) + "".join(container).count(":")
                members = container.values()
            else:
                members = container
            for member in members:
                kind = type(member)
                if kind is str:
                    counted += member.count(":")
                elif kind is int:
                    _doubt_unless(SMALLEST_INTEGER <= member <= LARGEST_INTEGER)
                elif kind is float:
                    _doubt_unless(member != 0.0 or _UNDERFLOW.search(text) is None)
                elif kind is dict or kind is list:
                    below.append(member)
        level = below
    return counted


def _decode_slowly(body: bytes, form: Form, now_us: int, limits: Limits) -> Decoded:
    marks = body.count(b"[") + body.count(b"{") + body.count(b",") + body.count(b'"') // 2
    if marks > limits.body_marks:
        raise BodyError(
            "too_complex",
            f"some event is flawed, and among more than {limits.body_marks} brackets, commas and strings it is not "
            "looked for; send smaller batches",
        )
    elements = _cut_lines(body, limits) if form == "ndjson" else _cut_array(body, limits)
    if not elements:
        raise BodyError("empty_batch", "the batch holds no event; send at least one")
    events: list[Event] = []
    positions: list[int] = []
    problems: list[Problem] = []
    for start in range(0, len(elements), _RUN):
        part = elements[start : start + _RUN]
        try:
            events += _read_surely(part, now_us, limits)
            positions += range(start, start + len(part))
        except _DOUBTS:
            for index, element in enumerate(part, start):
                found = _read_event(element, index, form, now_us, limits)
                if isinstance(found, Problem):
                    problems.append(found)
                else:
                    events.append(found)
                    positions.append(index)
    return Decoded(len(elements), events, positions, problems)


def _read_surely(elements: Sequence[Element], now_us: int, limits: Limits) -> list[Event]:
    """The events of a run of elements that has no flaw; raises one of `_DOUBTS` if that is not sure."""
    texts = [element.text for element in elements]
    events, colons = check_wires([_decode_wire(text) for text in texts], now_us=now_us, limits=limits)
    _doubt_unless_counted(b"".join(texts), colons)
    return events


def _cut_array(body: bytes, limits: Limits) -> list[Element]:
    start = skip_space(body, 0)
    if body[start : start + 1] == b"{":
        return _cut_envelope(body, start, limits)
    if body[start : start + 1] != b"[":
        raise _not_a_batch(body, start)
    elements, end = _cut_at(body, start, limits)
    _refuse_rest(body, end)
    return elements


def _cut_at(body: bytes, start: int, limits: Limits) -> tuple[list[Element], int]:
    elements, end = split_array(body, start, most_elements=limits.batch_events, most_depth=limits.body_depth)
    for element in elements:
        if element.text[:1] != b"{":
            _refuse_broken_text(element)
    return elements, end


def _cut_envelope(body: bytes, start: int, limits: Limits) -> list[Element]:
    key = _ENVELOPE_KEY.match(body, start)
    if key is None:
        raise _not_a_batch(body, start)
    if body[key.end() : key.end() + 1] != b"[":
        raise BodyError("not_a_batch", '"events" is not an array; send {"events": [ … ]}', offset=key.end())
    elements, end = _cut_at(body, key.end(), limits)
    end = skip_space(body, end)
    if body[end : end + 1] != b"}":
        if _ENVELOPE_KEY.match(body, end) is not None:
            raise BodyError("duplicate_key", 'the key "events" appears twice in the body', offset=end)
        if body[end : end + 1] == b",":
            raise BodyError("unknown_field", 'a body of {"events": […]} holds nothing beside "events"', offset=end)
        raise BodyError("invalid_json", f"this is not JSON from byte {end} on", offset=end)
    _refuse_rest(body, end + 1)
    return elements


_ENVELOPE_KEY = re.compile(rb'[{,][ \t\n\r]*"events"[ \t\n\r]*:[ \t\n\r]*')


def _not_a_batch(body: bytes, start: int) -> BodyError:
    found = read_element(body[start:].rstrip()) if len(body) <= _READ_WHOLE_BYTES else None
    if isinstance(found, Flaw) and found.code in ("invalid_json", "extra_data"):
        return BodyError("invalid_json", f"the body is not JSON: {found.message}", offset=start)
    if isinstance(found, Flaw) and found.code == "too_deep":
        return BodyError("too_deep", found.message, offset=start)
    if isinstance(found, Flaw) and found.code == "invalid_utf8":
        return BodyError("invalid_utf8", "the body is not valid UTF-8", offset=start)
    return BodyError("not_a_batch", 'send a JSON array of events, or {"events": [ … ]}; one event goes in an array too')


_READ_WHOLE_BYTES = 4_096


def _refuse_rest(body: bytes, end: int) -> None:
    end = skip_space(body, end)
    if end < len(body):
        code = "invalid_json"
        try:
            body[end:].decode()
        except UnicodeDecodeError:
            code = "invalid_utf8"
        raise BodyError(code, f"something follows the batch at byte {end}; send one batch a request", offset=end)


def _refuse_broken_text(element: Element) -> None:
    try:
        element.text.decode()
    except UnicodeDecodeError as error:
        offset = element.offset + error.start
        raise BodyError("invalid_utf8", f"byte {offset} is not valid UTF-8", offset=offset) from error


def _cut_lines(body: bytes, limits: Limits) -> list[Element]:
    elements: list[Element] = []
    offset = 0
    for line in body.split(b"\n"):
        text = line.strip(b" \t\r")
        if text:
            if len(elements) == limits.batch_events:
                raise too_many(limits.batch_events)
            brackets = text.count(b"[") + text.count(b"{")
            elements.append(Element(text, offset, brackets if brackets <= _READ_DEPTH else depth_of(text)))
        offset += len(line) + 1
    return elements


def _read_event(element: Element, index: int, form: Form, now_us: int, limits: Limits) -> Event | Problem:
    oversized = _refuse_oversized(element.text, index, limits)
    if oversized:
        return oversized
    found: Any
    if element.depth > _READ_DEPTH:
        found = Flaw("too_deep", (), f"at most {limits.property_depth} levels of nesting are accepted in properties")
    else:
        found = read_element(element.text)
    if isinstance(found, Flaw):
        if found.code == "extra_data" and form == "json":
            raise BodyError("invalid_json", f"a comma is missing in or after event {index}", offset=element.offset)
        if found.code == "extra_data":
            found = found._replace(code="invalid_json", path=())
        return _problem(index, None, found.code, None if not found.path else _shown(found.path[0]), found.message)
    if not isinstance(found, dict):
        return _problem(index, None, "not_an_object", None, "an event is a JSON object")
    return read_object(found, element.text, index, now_us=now_us, limits=limits)


def _refuse_oversized(text: bytes, index: int, limits: Limits) -> Problem | None:
    """Refuse an event that is far too large before it is taken apart, which takes a hundred times its size in memory.

    White space around the members does not count, as on the fast road: where msgspec can find the properties, it is
    their size that decides.
    """
    if len(text) <= limits.event_bytes:
        return None
    if text[:1] == b"[":
        return _problem(index, None, "not_an_object", None, "an event is a JSON object")
    try:
        wire = _decode_wire(text)
    except (msgspec.MsgspecError, ValueError):
        wire = None
    if wire and (wire.properties is msgspec.UNSET or len(bytes(wire.properties)) <= limits.event_bytes):
        return None
    shown_id = _shown(wire.event_id) if wire else None
    message = f"an event holds at most {limits.event_bytes} bytes"
    return _problem(index, shown_id, "event_too_large", "properties", message)


def read_object(found: dict[str, Any], text: bytes, index: int, *, now_us: int, limits: Limits) -> Event | Problem:
    """Check one event and say what is wrong with it.

    Args:
        found: the event as `eventcore.strict_json.read_element` gave it.
        text: the bytes it was read from.
        index: its position in the batch.
        now_us: the server's clock.
        limits: what is accepted.
    """
    event_id = found.get("event_id")
    shown_id = _shown(event_id) if isinstance(event_id, str) else None

    def problem(code: str, field: str | None, message: str) -> Problem:
        return _problem(index, shown_id, code, field, message)

    for name in found:
        if name not in FIELDS:
            return problem("unknown_field", _shown(name), _unknown_field_help(name))
    for name in REQUIRED:
        if name not in found:
            return problem("missing_field", name, f"{name} is missing; an event has {', '.join(REQUIRED)}")
    for name in REQUIRED:
        value = found[name]
        if not isinstance(value, str | Flaw):
            return problem("wrong_type", name, f"{name} is {_kind_of(value)}; a string is accepted")
        flaw = first_flaw(value, most_depth=1, most_keys=0)
        if flaw:
            return problem(flaw.code, name, flaw.message)
    if isinstance(found.get("properties"), Flaw):
        flaw = found["properties"]
        return problem(flaw.code, _field(("properties", *flaw.path)), flaw.message)
    if not isinstance(found.get("properties", {}), dict):
        kind = _kind_of(found["properties"])
        return problem("wrong_type", "properties", f"properties is {kind}; an object is accepted")
    flaw = (
        _id_flaw(found["event_id"])
        or _text_flaw("user_id", found["user_id"], limits.user_id_chars)
        or _text_flaw("event_type", found["event_type"], limits.event_type_chars)
        or _stamp_flaw(found["occurred_at"], now_us, limits)
    )
    if flaw:
        return problem(flaw.code, flaw.path[0], flaw.message)
    flaw = first_flaw(found.get("properties", {}), most_depth=limits.property_depth, most_keys=limits.property_keys)
    if flaw:
        return problem(flaw.code, _field(("properties", *flaw.path)), flaw.message)
    wire = _decode_wire(text)
    properties = "{}" if wire.properties is msgspec.UNSET else bytes(wire.properties).decode()
    size = len(properties.encode()) + len(wire.user_id.encode()) + len(wire.event_type.encode()) + _FIXED_EVENT_BYTES
    if size > limits.event_bytes:
        return problem("event_too_large", "properties", f"an event holds at most {limits.event_bytes} bytes")
    occurred_us = _instant_of(wire.occurred_at)
    return Event(
        bytes.fromhex(wire.event_id.replace("-", "")),
        wire.user_id,
        wire.event_type,
        occurred_us,
        properties,
        fingerprint(wire.user_id, wire.event_type, occurred_us, properties),
    )


def _problem(index: int, event_id: str | None, code: str, field: str | None, message: str) -> Problem:
    return Problem(index=index, event_id=event_id, code=code, field=field, message=message)


def _shown(text: str) -> str:
    return text[:ECHO_CHARS].encode("utf-8", "replace").decode()


def _field(path: Sequence[str]) -> str:
    return _shown(".".join(path))


def _kind_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, list):
        return "an array"
    if isinstance(value, dict):
        return "an object"
    return "a string" if isinstance(value, str) else "a number"


def _unknown_field_help(name: str) -> str:
    close = difflib.get_close_matches(name[:ECHO_CHARS], FIELDS, n=1)
    if close:
        return f"{_shown(name)!r} is not a field of an event; did you mean {close[0]!r}?"
    return f"{_shown(name)!r} is not a field of an event; put data of your own into properties"


def is_event_id(text: str) -> bool:
    """Whether ``text`` is a UUID in canonical form, upper or lower case (RFC 9562, section 4)."""
    return _UUID.fullmatch(text) is not None


def _id_flaw(text: str) -> Flaw | None:
    if not is_event_id(text):
        return Flaw("invalid_event_id", ("event_id",), f"this is not a UUID in canonical form; {_UUID_HELP}")
    if bytes.fromhex(text.replace("-", "")) in (_NIL, _MAX):
        return Flaw("invalid_event_id", ("event_id",), f"the nil and the max UUID name no event; {_UUID_HELP}")
    return None


def _text_flaw(field: str, text: str, most_chars: int) -> Flaw | None:
    if not text:
        return Flaw("empty", (field,), f"{field} is empty; it has 1 to {most_chars} characters")
    if len(text) > most_chars:
        return Flaw("too_long", (field,), f"{field} has {len(text)} characters; at most {most_chars} are accepted")
    if _CONTROL.search(text):
        return Flaw("control_character", (field,), f"{field} holds a control character; none is accepted")
    if not text.strip():
        return Flaw("blank", (field,), f"{field} holds only white space")
    return None


def stored_name_flaw(field: str, name: bytes) -> str | None:
    """Why a name that is stored is none that an event can have brought; None when it is one.

    Args:
        field: ``user_id`` or ``event_type``.
        name: its bytes. How long it may have been is up to the limits of that time, so its length says nothing.
    """
    try:
        flaw = _text_flaw(field, name.decode(), len(name))
    except UnicodeDecodeError:
        return f"{field} is not UTF-8"
    return None if flaw is None else flaw.message


def _stamp_flaw(text: str, now_us: int, limits: Limits) -> Flaw | None:
    field = ("occurred_at",)
    if _STAMP.fullmatch(text) is None:
        return Flaw("invalid_timestamp", field, f"this is not a timestamp; {_TIMESTAMP_HELP}")
    try:
        occurred_us = _instant_of(text)
    except ValueError:
        return Flaw("invalid_timestamp", field, f"there is no such moment; {_TIMESTAMP_HELP}")
    if occurred_us < limits.oldest_us:
        return Flaw("too_old", field, f"events from {format_instant(limits.oldest_us)} on are accepted")
    if occurred_us > now_us + limits.future_us:
        return Flaw(
            "in_the_future",
            field,
            f"this lies more than {limits.future_us // 3_600_000_000} hours after the server's clock, "
            f"which says {format_instant(now_us)}",
        )
    return None


def _instant_of(text: str) -> int:
    passed = datetime.fromisoformat(text.upper()) - EPOCH
    return (passed.days * 86_400 + passed.seconds) * 1_000_000 + passed.microseconds
