"""Random worlds: what was sent to a store, in which batches, and what happened to the store in between.

Narrow on purpose. Few users do few things with few properties, all of it around one date on which something happens to
the clocks of one zone, so that users, dates, hours and values collide. Properties are JSON texts, so that a number can
be spelled in all its ways. Not here: what is asked (`questions`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from functools import cache
from itertools import pairwise
from json import dumps, loads
from typing import Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from eventcore.strategies import HOSTILE_TEXTS

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US


# --- Where and when ---


@dataclass(frozen=True, slots=True)
class Place:
    """A zone, and a date in it on which something happens."""

    tz: str
    day: date


PLACES = (
    Place("UTC", date(2026, 3, 1)),
    Place("Europe/Berlin", date(2026, 3, 29)),  # 23 hours
    Place("Europe/Berlin", date(2025, 10, 26)),  # 25 hours
    Place("America/St_Johns", date(2010, 11, 7)),  # back at 00:01: two dates of two pieces each
    Place("America/St_Johns", date(2010, 3, 14)),  # on at 00:01
    Place("America/Havana", date(2025, 11, 2)),  # midnight comes twice on one date
    Place("America/Havana", date(2026, 3, 8)),  # begins at 01:00
    Place("Asia/Kathmandu", date(2026, 3, 1)),  # +05:45
    Place("Australia/Lord_Howe", date(2026, 4, 5)),  # half an hour more
    Place("Australia/Lord_Howe", date(2025, 10, 5)),  # half an hour less
    Place("Pacific/Apia", date(2011, 12, 30)),  # left out
    Place("Africa/Monrovia", date(1972, 1, 7)),  # off by 44:30 minutes until then
)
ZONES = tuple(dict.fromkeys(place.tz for place in PLACES))


@cache
def near_edges(place: Place) -> tuple[int, ...]:
    """Instants of the six dates around that of the place: midnights, and wherever clocks change."""
    return tuple(
        sorted(
            {
                *(edge for offset in range(-2, 4) for edge in _midnights(place, offset)),
                *_changes(place),
            }
        )
    )


@cache
def hour_edges(place: Place) -> tuple[int, ...]:
    """The hours, and half hours, after the midnight before the date of the place."""
    start_us = _midnights(place, -1)[0]
    return tuple(start_us + half * HOUR_US // 2 for half in range(2 * 60))


@cache
def far_edges(place: Place) -> tuple[int, ...]:
    """Midnights up to five weeks away: of weeks, of months, and of the 30 dates of a rolling window."""
    offsets = (-35, -31, -30, -29, -28, -21, -14, -8, -7, -6, 6, 7, 8, 14, 21, 28, 29, 30, 31, 35)
    months = (place.day.replace(day=1), (place.day.replace(day=1) + timedelta(days=31)).replace(day=1))
    offsets += tuple((month - place.day).days for month in months)
    return tuple(edge for offset in offsets for edge in _midnights(place, offset))


def _midnights(place: Place, offset: int) -> list[int]:
    day, zone = place.day + timedelta(days=offset), ZoneInfo(place.tz)
    naive = datetime(day.year, day.month, day.day)
    return sorted({_instant(naive.replace(tzinfo=zone, fold=fold)) for fold in (0, 1)})


def _changes(place: Place) -> list[int]:
    zone = ZoneInfo(place.tz)
    middle = _midnights(place, 0)[0]
    hours = range(middle - 3 * DAY_US, middle + 3 * DAY_US, HOUR_US)
    changes = []
    for before, after in pairwise(hours):
        if _offset(before, zone) != _offset(after, zone):
            low, high = before, after
            while high - low > 1_000_000:
                half = (low + high) // 2
                low, high = (half, high) if _offset(half, zone) == _offset(before, zone) else (low, half)
            changes.append(high // 1_000_000 * 1_000_000)
    return changes


def _offset(instant_us: int, zone: ZoneInfo) -> timedelta | None:
    return at(instant_us).astimezone(zone).utcoffset()


def _instant(moment: datetime) -> int:
    return (moment - EPOCH) // MICROSECOND


def at(instant_us: int) -> datetime:
    """The instant as a datetime in UTC."""
    return EPOCH + instant_us * MICROSECOND


def instants(place: Place, *, far: bool) -> st.SearchStrategy[int]:
    """Mostly at an edge, or next to one; ``far`` ones too, of which a few make nobody new any more near the place."""
    near = (*near_edges(place) * 4, *hour_edges(place))
    edges = st.sampled_from((*near, *far_edges(place) * 3) if far else near)
    steps = st.sampled_from((0, -1, 1, 0, -1, MINUTE_US - 1, 20 * MINUTE_US, 3 * HOUR_US, 12 * HOUR_US, -7 * HOUR_US))
    return st.builds(lambda edge, step: edge + step, edges, steps)


# --- Who, what, how ---

TYPES = ("view", "signup", "order", "View", "é", "e\u0301", "a,b\\", "x in y", "event_type:view", "null")
USERS = ("ada", "bob", "cyd", *HOSTILE_TEXTS)
NAMES = ("p", "b.c", "a b", "p exists", "é", '"', "\\", "$.p", "event_type", "0")
"""Names of properties that conditions and breakdowns can ask for."""
VALUES = (
    *("1", "1.0", '"1"', '"1.0"', "1e0", "10E-1", "true", "null", '"null"', '"true"', '""', '"x"'),
    *('"a,b"', '"x,"', '","', '"a\\\\b"', '"\\\\"', '"\\\\,"', '"\\u0061"', '"é"', '" x"', '"x in y"', '"😀"'),
    *("0", "-0", "-0.0", "0e5", "false", "0.50", "0.5", "5E-1", "1e3", "1000", "1000.0", "-7", "0.1"),
    *("9007199254740993", "9007199254740992.0", "1e22", "1.5e300", "5e-324", "1e-7", "0.10000000000000000001"),
    *("[]", "[1]", "{}", '{"p":1}', '["x"]'),
)
"""Values of properties, as JSON texts."""
SPELLINGS = (
    *("1", "1.0", "1e0", "10e-1", "01", "+1", " 1", "1 ", ".1e1", "1.", "-1", "0", "-0", "0.5", "5e-1", ".5", "1e3"),
    *("true", "True", "null", "false", "x", "", ",", "\\", "a,b", "x,", "[]", "{}", "9007199254740993", "1E+22"),
)
"""Values to ask for beside those that are there."""


def text_of(value: str) -> str:
    """What a JSON value is called in a condition that wants it."""
    read = loads(value)
    return read if isinstance(read, str) else value


Event = dict[str, Any]
"""An event as the oracle takes it; its properties are a JSON text."""

Route = Literal["mappings", "objects", "body"]
"""How a batch goes in: as plain mappings, as mappings with datetimes and UUIDs, or as the bytes of a body."""


@dataclass(frozen=True, slots=True)
class Fold:
    """So many events of what waits become part of the projection."""

    most_events: int


@dataclass(frozen=True, slots=True)
class Reopen:
    """The store is closed and opened again, and the cache forgets everything."""


@dataclass(frozen=True, slots=True)
class Declare:
    """A property becomes a dimension, if it is none."""

    name: str


Happening = Fold | Reopen | Declare


@dataclass(frozen=True, slots=True)
class Step:
    """A batch, and what happens to the store after it."""

    route: Route
    events: list[Event]
    then: tuple[Happening, ...]

    @property
    def sent(self) -> list[Event]:
        """The events as the oracle takes them: numbers that went in as floats have the digits of the float."""
        if self.route == "body":
            return self.events
        return [event | {"properties": loads(event["properties"])} for event in self.events]


@dataclass(frozen=True, slots=True)
class World:
    """Everything that was sent, and the pools that it was drawn from."""

    place: Place
    now: datetime
    types: Sequence[str]
    names: Sequence[str]
    values: Sequence[str]
    steps: list[Step]


_ID_KINDS = st.sampled_from(("version 7", "random", "first", "last"))
_SPELLED_OFFSETS = st.sampled_from((0, 0, 0, 345, -210, 840, -720))


def _event_id(kind: str, number: int, occurred_us: int, upper: bool) -> str:
    made = {
        "version 7": (occurred_us // 1_000 & (1 << 48) - 1) << 80 | 7 << 76 | 2 << 62 | number,
        "random": number * 0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835 & (1 << 128) - 1,
        "first": number,
        "last": (1 << 128) - 1 - number,
    }[kind]
    text = str(UUID(int=made))
    return text.upper() if upper else text


def _occurred_at(occurred_us: int, offset_minutes: int, small: bool) -> str:
    text = at(occurred_us).astimezone(timezone(timedelta(minutes=offset_minutes))).isoformat()
    if offset_minutes == 0:
        text = text.replace("+00:00", "Z")
    return text.lower() if small else text


def _properties(names: Sequence[str], values: Sequence[str]) -> st.SearchStrategy[str]:
    """JSON texts of objects with some of these members; the first name is nearly always there."""
    usual = st.sampled_from((None, *values, *values))
    rarer = st.sampled_from((None, None, None, *values))
    escaped = st.sampled_from((False, False, False, True))

    def written(members: tuple[str | None, ...], escape: bool) -> str:
        keys = [_escaped(name) if escape else dumps(name, ensure_ascii=False) for name in names]
        return "{" + ",".join(f"{key}: {value}" for key, value in zip(keys, members, strict=True) if value) + "}"

    return st.builds(written, st.tuples(usual, *(rarer for _ in names[1:])), escaped)


def _escaped(text: str) -> str:
    return '"' + "".join(f"\\u{ord(letter):04x}" for letter in text) + '"'


@dataclass(frozen=True, slots=True)
class _Arrival:
    """One event of a batch; nothing in it depends on what comes before, so that Hypothesis can leave any of them out.

    Attributes:
        content: user, type, instant, properties, and the offset that the instant is spelled with.
        repeats: what it is to an earlier event: none, or its repeat.
        earlier: to which one, modulo how many there are.
        ends: how its batch goes in and what happens then, if it is the last of it.
    """

    content: tuple[str, str, int, str, int]
    repeats: Literal["nothing", "all", "all but the case", "the id"]
    earlier: int
    ends: tuple[Route, tuple[Happening, ...]] | None


_ALL = 1_000_000
_HAPPENINGS: tuple[tuple[Happening, ...], ...] = (
    *((), (Fold(_ALL),), (Fold(5),), (Fold(1),), (Reopen(),)),
    *((Fold(_ALL), Reopen()), (Fold(3), Fold(_ALL)), (Reopen(), Fold(_ALL)), (Fold(2), Reopen())),
    *((Declare("p"),), (Fold(2), Declare("p")), (Declare("p"), Fold(_ALL))),
)
_ROUTES: tuple[Route, ...] = ("mappings", "objects", "body")
_ENDS = (*(None,) * 90, *((route, then) for then in _HAPPENINGS for route in _ROUTES))
_MOST_ARRIVALS = 40


@st.composite
def worlds(draw: DrawFn) -> World:
    """Any world of 1 to 40 events, repeats among them."""
    place = draw(st.sampled_from(PLACES))
    types = draw(st.lists(st.sampled_from(TYPES), min_size=2, max_size=4, unique=True))
    users = draw(st.lists(st.sampled_from(USERS), min_size=2, max_size=7, unique=True))
    names = ["p", *draw(st.lists(st.sampled_from(NAMES[1:]), max_size=2, unique=True))]
    values = draw(st.lists(st.sampled_from(VALUES), min_size=2, max_size=6, unique=True))
    id_kind = draw(_ID_KINDS)
    when = instants(place, far=draw(st.booleans())).map(lambda instant_us: max(0, instant_us))
    arrivals = st.builds(
        _Arrival,
        content=st.tuples(
            st.sampled_from(users), st.sampled_from(types), when, _properties(names, values), _SPELLED_OFFSETS
        ),
        repeats=st.sampled_from((*("nothing",) * 9, "all", "all but the case", "the id")),
        earlier=st.integers(0, _MOST_ARRIVALS),
        ends=st.sampled_from(_ENDS),
    )
    fewest = draw(st.sampled_from((1, 8, 16, 24)))
    drawn = draw(st.lists(arrivals, min_size=fewest, max_size=_MOST_ARRIVALS))
    now = at(max(0, draw(when) + draw(st.sampled_from((0, 0, -10, 10, 60))) * DAY_US))
    return World(place=place, now=now, types=types, names=names, values=values, steps=_steps(drawn, id_kind))


def _steps(arrivals: Sequence[_Arrival], id_kind: str) -> list[Step]:
    steps: list[Step] = []
    batch: list[Event] = []
    known: list[Event] = []
    for number, arrival in enumerate(arrivals, start=1):
        event = _event(arrival.content, number, id_kind)
        if known and arrival.repeats != "nothing":
            earlier = known[arrival.earlier % len(known)]
            if arrival.repeats == "the id":
                event["event_id"] = earlier["event_id"]
            else:
                event = dict(earlier)
            if arrival.repeats == "all but the case":
                event["event_id"] = event["event_id"].swapcase()
        known.append(event)
        batch.append(event)
        if arrival.ends is not None or arrival is arrivals[-1]:
            route, then = arrival.ends or ("mappings", ())
            steps.append(Step(route, batch, then))
            batch = []
    return steps


def _event(content: tuple[str, str, int, str, int], number: int, id_kind: str) -> Event:
    user_id, event_type, occurred_us, properties, offset_minutes = content
    return {
        "event_id": _event_id(id_kind, number, occurred_us, upper=number % 5 == 0),
        "user_id": user_id,
        "event_type": event_type,
        "occurred_at": _occurred_at(occurred_us, offset_minutes, small=number % 7 == 0),
        "properties": properties,
    }


def as_mapping(event: Event, route: Route) -> Event:
    """The event as it is given to the library."""
    mapping = event | {"properties": loads(event["properties"])}
    if route == "objects":
        mapping["event_id"] = UUID(event["event_id"])
        mapping["occurred_at"] = datetime.fromisoformat(event["occurred_at"].upper())
    if mapping["properties"] == {}:
        del mapping["properties"]
    return mapping


def as_body(events: Sequence[Event]) -> bytes:
    """The events as a JSON array in which the properties are spelled as they are."""
    members = []
    for event in events:
        others = dumps({name: value for name, value in event.items() if name != "properties"}, ensure_ascii=False)
        members.append(f'{others[:-1]}, "properties": {event["properties"]}}}')
    return f"[{','.join(members)}]".encode()
