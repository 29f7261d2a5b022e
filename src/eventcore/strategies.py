"""Events for tests: factories for the one event a test is about, Hypothesis strategies for all the others.

Everything made here is valid, and as hostile as valid allows: what breaks on it is broken. Install the extra
``testing`` to have Hypothesis; nothing else in eventcore imports this module but `eventcore.contract`. Not here:
what eventcore must refuse; that is for the tests of `eventcore.decoding`.

    from hypothesis import given
    from eventcore.strategies import wire_batches

    @given(wire_batches())
    def test_my_sender_survives(batch): ...
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from itertools import count
from typing import Any
from uuid import UUID
from zoneinfo import available_timezones

import msgspec
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from eventcore.calendar import to_datetime, to_instant
from eventcore.dedup import fingerprint
from eventcore.events import DEFAULT_PROJECT, Chunk, Counts, Death, Event
from eventcore.limits import Limits
from eventcore.strict_json import LARGEST_INTEGER, SMALLEST_INTEGER

AN_INSTANT_US = to_instant(datetime(2026, 3, 1, 12, tzinfo=UTC))
"""When everything happens that says nothing else: 2026-03-01T12:00:00Z."""

HOSTILE_TEXTS = (
    "é",  # one code point, and below the same as two: different users
    "e\u0301",
    "ada ",
    " ada",
    "Ada",
    "\u202eada",  # right to left from here
    "a\u200bda",  # zero width
    "👩\u200d👩\u200d👧",
    "İ",  # longer in lower case
    "ß",
    "ﬁ",
    "a\u2028b",  # a line ends here, for some
    "\ufeffada",
    "\uffff",
    "\U0010ffff",
    "'; DROP TABLE events; --",
    '"',
    "\\",
    "\\u0000",
    "%s %(name)s {{7*7}} $1 :name ?",
    "../../etc/passwd",
    "<script>alert(1)</script>",
    "null",
    "true",
    "1",
    "1.0",
    "NaN",
    "{}",
    "a:b=c",
    "😀" * 255,
)
"""Texts that are valid wherever a text may be this long, and that something in the world gets wrong."""

HOSTILE_KEYS = (
    "",
    "a.b",
    "a",
    ".",
    "$",
    "$.a",
    '"',
    'a"b',
    "'",
    "\\",
    "[0]",
    "a[0]",
    "#",
    "*",
    "a b",
    "event_type",
    "é",
)
"""Keys of properties that a path language would read as something else."""

TRICKY_ZONES = (
    "UTC",
    "Europe/Berlin",  # clocks change at night
    "America/New_York",
    "America/St_Johns",  # until 2011 they changed at 00:01
    "America/Havana",  # a day that begins at 01:00, and one with midnight twice
    "Asia/Kathmandu",  # +05:45
    "Australia/Lord_Howe",  # changes by half an hour
    "Pacific/Apia",  # skipped 2011-12-30
    "Pacific/Kiritimati",  # +14:00
    "Africa/Monrovia",  # until 1972 off by seconds
    "Etc/GMT+12",
)
"""Zones that are known for one thing or another; the first ones are the simplest."""

_FIRST_ID = UUID("018f0000-0000-7000-8000-000000000000").int
_chunk_numbers = count(1)


# Factories


def an_id(number: int) -> bytes:
    """The bytes of a valid UUID; equal numbers give equal ids."""
    return (_FIRST_ID + number).to_bytes(16, "big")


def an_event(
    *,
    event_id: bytes | int = 1,
    user_id: str = "ada",
    event_type: str = "page_view",
    occurred_us: int = AN_INSTANT_US,
    properties: str | Mapping[str, Any] = "{}",
) -> Event:
    """One valid event; name only what the test is about.

    Args:
        event_id: 16 bytes, or a number for `an_id`.
        user_id: who.
        event_type: what.
        occurred_us: when.
        properties: JSON text, kept as it is, or a mapping.
    """
    text = properties if isinstance(properties, str) else json.dumps(properties)
    return Event(
        an_id(event_id) if isinstance(event_id, int) else event_id,
        user_id,
        event_type,
        occurred_us,
        text,
        fingerprint(user_id, event_type, occurred_us, text),
    )


def a_chunk(
    *events: Event,
    chunk_id: bytes | None = None,
    project: str = DEFAULT_PROJECT,
    received_us: int = AN_INSTANT_US,
    queued: bool = False,
    conflicting: Sequence[Event] = (),
    counts: Counts | None = None,
    import_id: bytes | None = None,
    dead: Sequence[Death] = (),
) -> Chunk:
    """A chunk of these events. Each call makes another chunk: to deliver one again, append the same value again."""
    return Chunk(
        chunk_id=next(_chunk_numbers).to_bytes(16, "big") if chunk_id is None else chunk_id,
        project=project,
        received_us=received_us,
        queued=queued,
        events=events,
        conflicting=tuple(conflicting),
        counts=counts or Counts(),
        import_id=import_id,
        dead=tuple(dead),
    )


def a_death(
    event: Event,
    *,
    reason: str = "the store refuses this: a name holds no NUL character",
    attempts: int = 1,
    died_us: int = AN_INSTANT_US + 1_000_000,
) -> Death:
    """How this event became a dead letter; `a_chunk` carries it in ``dead``. The event may be a good one too."""
    return Death(event=event, reason=reason, attempts=attempts, died_us=died_us)


def from_wire(wire: Mapping[str, Any]) -> Event:
    """The event that a valid event on the wire means; its properties are spelled as `json.dumps` does it."""
    return an_event(
        event_id=UUID(wire["event_id"]).bytes,
        user_id=wire["user_id"],
        event_type=wire["event_type"],
        occurred_us=to_instant(datetime.fromisoformat(wire["occurred_at"].upper())),
        properties=wire.get("properties", "{}"),
    )


# Strategies: the parts of an event


def texts(*, most_chars: int) -> SearchStrategy[str]:
    """Texts as a user id or an event type may be: hostile, not blank, without control characters."""
    hostile = st.sampled_from([text[:most_chars] for text in HOSTILE_TEXTS])
    anything = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=most_chars)
    return st.one_of(anything, hostile).filter(lambda text: text.strip() != "")


def user_ids() -> SearchStrategy[str]:
    """User ids: few plain ones that come up again and again, and hostile ones."""
    return st.one_of(st.sampled_from(("ada", "grace", "edsger")), texts(most_chars=Limits().user_id_chars))


def event_types() -> SearchStrategy[str]:
    """Event types: few plain ones that come up again and again, and hostile ones."""
    return st.one_of(st.sampled_from(("page_view", "signup", "purchase")), texts(most_chars=Limits().event_type_chars))


def json_objects(*, depth: int = 3) -> SearchStrategy[dict[str, Any]]:
    """Properties: JSON objects nested at most ``depth`` deep, the object itself being the first level."""
    inside = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
    values: SearchStrategy[Any] = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 3),
        st.integers(SMALLEST_INTEGER, LARGEST_INTEGER),
        st.sampled_from((2**53, 2**53 + 1, SMALLEST_INTEGER, LARGEST_INTEGER, 1e308, 5e-324, -0.0, 0.1)),
        st.floats(allow_nan=False, allow_infinity=False),
        inside,
        st.sampled_from(HOSTILE_TEXTS),
    )
    keys = st.one_of(st.sampled_from(HOSTILE_KEYS), inside)
    for _ in range(depth - 1):
        values = st.one_of(values, st.lists(values, max_size=3), st.dictionaries(keys, values, max_size=3))
    return st.dictionaries(keys, values, max_size=5)


def instants(*, first_us: int = 0, last_us: int = AN_INSTANT_US) -> SearchStrategy[int]:
    """Instants from ``first_us`` to ``last_us``, both included; many at the bounds of minutes, quarters and days."""
    anywhere = st.integers(first_us, last_us)
    step_us = st.sampled_from((60_000_000, 900_000_000, 86_400_000_000))
    at_bounds = st.builds(lambda at, step, off: at - at % step + off, anywhere, step_us, st.integers(-1, 1))
    return st.one_of(anywhere, at_bounds.map(lambda at: min(max(at, first_us), last_us)))


@st.composite
def timestamps(draw: DrawFn, *, first_us: int = 0, last_us: int = AN_INSTANT_US) -> str:
    """Spellings of ``occurred_at``: any offset, 0 to 6 digits of a second, small letters, Z and -00:00."""
    moment = to_datetime(draw(instants(first_us=first_us, last_us=last_us)))
    offset = draw(st.sampled_from((0, 0, 0, 60, -300, 345, 840, -720, 1439, -1439)))
    try:
        local = moment.astimezone(timezone(timedelta(minutes=offset)))
    except OverflowError:
        local = moment
    text = local.isoformat(timespec="microseconds" if local.microsecond else "seconds")
    if local.microsecond and draw(st.booleans()):
        text = text[:-6].rstrip("0") + text[-6:]
    if not local.utcoffset():
        text = text[:-6] + draw(st.sampled_from(("Z", "+00:00", "-00:00")))
    return text.lower() if draw(st.integers(0, 9)) == 9 else text


def wire_ids() -> SearchStrategy[str]:
    """Spellings of ``event_id``: small letters and capitals."""
    ids = st.uuids().filter(lambda found: found.int not in (0, 2**128 - 1)).map(str)
    return st.one_of(ids, ids.map(str.upper))


def zones() -> SearchStrategy[str]:
    """Names of time zones: the tricky ones, and all there are."""
    known = sorted(available_timezones() - {"Factory", "localtime", "posixrules"})
    return st.one_of(st.sampled_from(TRICKY_ZONES), st.sampled_from(known))


# Strategies: events and batches


@st.composite
def wire_events(draw: DrawFn, *, last_us: int = AN_INSTANT_US) -> dict[str, Any]:
    """One valid event as it goes on the wire; ``last_us`` is the latest that it may have occurred."""
    event: dict[str, Any] = {
        "event_id": draw(wire_ids()),
        "user_id": draw(user_ids()),
        "event_type": draw(event_types()),
        "occurred_at": draw(timestamps(last_us=last_us)),
    }
    if draw(st.booleans()):
        event["properties"] = draw(json_objects())
    return event


@st.composite
def wire_batches(draw: DrawFn, *, most_events: int = 12, last_us: int = AN_INSTANT_US) -> list[dict[str, Any]]:
    """Batches on the wire, in which events come again: as they were, spelled otherwise, and with other content."""
    batch: list[dict[str, Any]] = []
    for event in draw(st.lists(wire_events(last_us=last_us), min_size=1, max_size=max(1, most_events // 2))):
        batch.append(event)
        again = draw(st.sampled_from(("never", "never", "same", "respelled", "conflict")))
        if again == "same":
            batch.append(dict(event))
        elif again == "respelled":
            batch.append(_respelled_wire(event))
        elif again == "conflict":
            batch.append(event | {"user_id": "not " + event["user_id"][:200]})
    return list(draw(st.permutations(batch)))[:most_events]


def _respelled_wire(event: Mapping[str, Any]) -> dict[str, Any]:
    """The same event: the members in another order, the id in the other case."""
    return dict(reversed(list(event.items()))) | {"event_id": event["event_id"].swapcase()}


@st.composite
def spellings(draw: DrawFn, value: Any) -> str:
    """JSON texts that mean ``value``: keys in any order, numbers and characters spelled in any way, any white space."""
    space = draw(st.sampled_from(("", "", " ", "\n\t")))
    if isinstance(value, Mapping):
        keys = draw(st.permutations(list(value)))
        members = [f"{draw(spellings(key))}{space}:{space}{draw(spellings(value[key]))}" for key in keys]
        return "{" + space + f"{space},{space}".join(members) + space + "}"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=draw(st.booleans()))
    if isinstance(value, Sequence):
        return "[" + space + f"{space},{space}".join(draw(spellings(member)) for member in value) + space + "]"
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    sign, digits, exponent = Decimal(str(value)).as_tuple()
    plain = str(value)
    scientific = f"{'-' * sign}{''.join(map(str, digits))}e{exponent}"
    if "e" in plain.lower():
        return draw(st.sampled_from((plain, scientific, scientific.upper())))
    longer = plain + ("0" if "." in plain else ".0")
    return draw(st.sampled_from((plain, longer, longer + "e0", scientific)))


def events(
    *,
    ids: SearchStrategy[int] | None = None,
    users: SearchStrategy[str] | None = None,
    types: SearchStrategy[str] | None = None,
    when: SearchStrategy[int] | None = None,
    properties: SearchStrategy[Mapping[str, Any]] | None = None,
) -> SearchStrategy[Event]:
    """Events as the core has them; each part may be narrowed by a strategy of its own.

    Args:
        ids: numbers for `an_id`.
        users: user ids.
        types: event types.
        when: instants.
        properties: mappings; they are spelled in any way.
    """
    spelled = (json_objects() if properties is None else properties).flatmap(spellings)
    return st.builds(
        an_event,
        event_id=st.integers(0, 2**32) if ids is None else ids,
        user_id=user_ids() if users is None else users,
        event_type=event_types() if types is None else types,
        occurred_us=instants() if when is None else when,
        properties=spelled,
    )


@st.composite
def respelled(draw: DrawFn, event: Event) -> Event:
    """The same event with its properties spelled in another way: a duplicate by value."""
    text = draw(spellings(json.loads(event.properties, parse_float=Decimal)))
    return msgspec.structs.replace(
        event,
        properties=text,
        fingerprint=fingerprint(event.user_id, event.event_type, event.occurred_us, text),
    )


def with_other_content(event: Event) -> Event:
    """An event of the same id that conflicts with this one: another user."""
    user_id = "not " + event.user_id[:200]
    return msgspec.structs.replace(
        event,
        user_id=user_id,
        fingerprint=fingerprint(user_id, event.event_type, event.occurred_us, event.properties),
    )
