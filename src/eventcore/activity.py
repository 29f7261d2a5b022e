"""Activity: who did something, and how often, in spans of time; what every statistic is computed from.

A statistic asks one `ActivityQuery` and gets one `ActivitySnapshot`, read by the store in a single snapshot of its
data: no two numbers of an answer come from different moments. Users are 32-bit keys in roaring bitmaps: counting
distinct users over any union of spans is exact and cheap. Not here: dates and zones (`calendar`), or what a
statistic means (`statistics`, `retention`).
"""

import json
import re
from bisect import bisect_right
from collections.abc import Iterable
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec
from pyroaring import BitMap

from eventcore.calendar import Span, on_quarters


class Condition(msgspec.Struct, frozen=True, gc=False):
    """One field of an event equals one value.

    Attributes:
        field: ``event_type`` or ``properties.NAME``; NAME is one key of the top-level object, dots included.
        value: compared with a string as it is; with a number as a number (``1`` is ``1.0``); with true, false and
            null as these words.
    """

    field: str
    value: str


class Selection(msgspec.Struct, frozen=True, gc=False):
    """Events for which all conditions hold on the same event; no condition selects every event."""

    conditions: tuple[Condition, ...] = ()

    @property
    def event_types(self) -> frozenset[str] | None:
        """The types an event may have to match: None when any, empty when the conditions exclude each other."""
        named = {condition.value for condition in self.conditions if condition.field == "event_type"}
        if not named:
            return None
        return frozenset(named) if len(named) == 1 else frozenset()

    @property
    def properties(self) -> tuple[tuple[str, str], ...]:
        """The conditions on properties, as (key, value)."""
        return tuple(
            (condition.field.removeprefix("properties."), condition.value)
            for condition in self.conditions
            if condition.field != "event_type"
        )

    def matches(self, event_type: str, properties: str) -> bool:
        """Whether an event of this type, with this JSON text as properties, is selected."""
        types = self.event_types
        if types is not None and event_type not in types:
            return False
        wanted = self.properties
        return not wanted or matches_properties(properties, wanted)


def matches_properties(properties: str, wanted: Iterable[tuple[str, str]]) -> bool:
    """Whether the JSON object ``properties`` holds each wanted (key, value); the rule is in `Condition`."""
    found = json.loads(properties, parse_float=Decimal)
    return all(key in found and _equals(found[key], value) for key, value in wanted)


def _equals(found: Any, wanted: str) -> bool:
    if isinstance(found, str):
        return found == wanted
    if found is None or isinstance(found, bool):
        return json.dumps(found) == wanted
    if isinstance(found, int | Decimal) and _NUMBER.fullmatch(wanted):
        try:
            return Decimal(wanted) == found
        except InvalidOperation:  # an exponent beyond what a Decimal holds, and so beyond any stored number
            return False
    return False


_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?", re.ASCII)
"""A number as JSON writes it (RFC 8259, section 6)."""


class ActivityQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What a statistic needs to know, asked once.

    Attributes:
        project: whose events.
        slots: disjoint spans of time (a local day, a whole range); answered one by one.
        selections: answered one by one, each over all slots.
        by_type: also split each tally by event type.
        history: also say which users were seen before the first instant of the first slot that is not empty.
    """

    project: str
    slots: tuple[Span, ...]
    selections: tuple[Selection, ...] = (Selection(),)
    by_type: bool = False
    history: bool = False


class Tally:
    """Distinct users and the number of events in one slot under one selection.

    Attributes:
        users: 32-bit user keys.
        events: how many events.
        types: the same per event type, where the query asked for it; else empty.
    """

    __slots__ = ("events", "types", "users")

    def __init__(self, users: BitMap | None = None, events: int = 0) -> None:
        self.users: BitMap = BitMap() if users is None else users
        self.events = events
        self.types: dict[str, Tally] = {}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tally):
            return NotImplemented
        return (self.users, self.events, self.types) == (other.users, other.events, other.types)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Tally(users={len(self.users)}, events={self.events}, types={self.types!r})"


class SelectionActivity(msgspec.Struct, frozen=True, kw_only=True):
    """One selection's part of a snapshot.

    Attributes:
        slots: a tally for each slot of the query, in its order.
        before: users with a selected event before the first slot, where the query asked for history; else empty.
    """

    slots: tuple[Tally, ...]
    before: BitMap


class ActivitySnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What a store held at one moment.

    Attributes:
        selections: in the order of the query's selections.
        computed_from: ``activity`` when precomputed activity answered, ``events`` when raw rows had to be read.
        as_of_us: up to when it has all that was stored, where it was read from a copy that may be behind; None where
            it has everything.
    """

    selections: tuple[SelectionActivity, ...]
    computed_from: str
    as_of_us: int | None = None


BEFORE = -1
"""The slot of everything that happened before the first instant a query asks about."""


class Tallying:
    """Builds a snapshot from facts that a store reads one by one or in bulk; the slots of the query must be disjoint.

    Args:
        query: the question that the snapshot will answer.
    """

    def __init__(self, query: ActivityQuery) -> None:
        self._query = query
        bounds = sorted(
            (start, end, slot) for slot, span in enumerate(query.slots) for start, end in span if start < end
        )
        self._starts = [start for start, _, _ in bounds]
        self._ends = [end for _, end, _ in bounds]
        self._slots = [slot for _, _, slot in bounds]
        self._tallies = [[Tally() for _ in query.slots] for _ in query.selections]
        self._before = [BitMap() for _ in query.selections]

    @property
    def bounds_us(self) -> tuple[int, int]:
        """First instant and first instant after the query's slots; (0, 0) when they are empty."""
        return (self._starts[0], max(self._ends)) if self._starts else (0, 0)

    def slot_at(self, instant_us: int) -> int | None:
        """The slot that holds this instant, `BEFORE` if it lies before all of them, None if in none."""
        position = bisect_right(self._starts, instant_us) - 1
        if position < 0:
            return BEFORE if self._starts else None
        return self._slots[position] if instant_us < self._ends[position] else None

    def add(self, selection: int, slot: int, event_type: str, users: BitMap, events: int) -> None:
        """Count facts of one type in one slot: these users, so many events.

        Args:
            selection: index into the query's selections; the caller has checked that the facts match it.
            slot: index into the query's slots, or `BEFORE`.
            event_type: the type of all these events.
            users: the users' keys; taken over, not copied, so do not change it afterwards.
            events: how many events.
        """
        if slot == BEFORE:
            if self._query.history:
                self._before[selection] |= users
            return
        target = self._tallies[selection][slot]
        target.users |= users
        target.events += events
        if self._query.by_type:
            part = target.types.setdefault(event_type, Tally())
            part.users |= users
            part.events += events

    def snapshot(self, computed_from: str, as_of_us: int | None = None) -> ActivitySnapshot:
        """The finished snapshot; the arguments are members of `ActivitySnapshot`."""
        return ActivitySnapshot(
            selections=tuple(
                SelectionActivity(slots=tuple(slots), before=before)
                for slots, before in zip(self._tallies, self._before, strict=True)
            ),
            computed_from=computed_from,
            as_of_us=as_of_us,
        )


def needs_events(query: ActivityQuery) -> bool:
    """Whether precomputed activity cannot answer: a condition on a property, or a slot off the quarter hour."""
    return any(selection.properties for selection in query.selections) or not all(
        on_quarters(span) for span in query.slots
    )
