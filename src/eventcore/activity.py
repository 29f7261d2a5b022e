"""Activity: who did something, and how often, in spans of time; what every statistic is computed from.

A statistic asks one `ActivityQuery` and gets one `ActivitySnapshot`, read by the store in a single snapshot of its
data: no two numbers of an answer come from different moments. Users are 32-bit keys in roaring bitmaps: counting
distinct users over any union of spans is exact and cheap. Not here: which events are selected (`conditions`), dates
and zones (`calendar`), or what a statistic means (`statistics`).
"""

from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import msgspec
from pyroaring import BitMap

from eventcore.calendar import QUARTER_US, Span, on_quarters
from eventcore.conditions import ABSENT, Selection, properties_reader, read_value, value_text
from eventcore.errors import InvalidQuestion


class Breakdown(msgspec.Struct, frozen=True, kw_only=True):
    """For which groups of events a query is answered besides the whole; see `eventcore.breakdown`.

    Attributes:
        field: ``event_type`` or ``properties.NAME``, by whose values events are grouped.
        groups: how many values become groups, at most: those with the most events of the first selection.
    """

    field: str
    groups: int


class ActivityQuery(msgspec.Struct, frozen=True, kw_only=True):
    """What a statistic needs to know, asked once.

    Attributes:
        project: whose events.
        slots: disjoint spans of time (a local day, a whole range); answered one by one.
        selections: answered one by one, each over all slots.
        split: also split each tally by the values of this field, ``event_type`` or ``properties.NAME``.
        history: also say which users were seen before the first instant of the first slot that is not empty.
        lead: how many slots, from the first, lie before the dates that the statistic is about.
        breakdown: also answer everything for groups of events.
        seconds: how long the answer may take, None for as long as it does.
    """

    project: str
    slots: tuple[Span, ...]
    selections: tuple[Selection, ...] = (Selection(),)
    split: str | None = None
    history: bool = False
    lead: int = 0
    breakdown: Breakdown | None = None
    seconds: float | None = None


class Tally:
    """Distinct users and the number of events in one slot under one selection.

    Attributes:
        users: 32-bit user keys.
        events: how many events.
        parts: the same for each value of the field that the query asked to split by, as `value_text` gives it; events
            that have no such text are in no part.
    """

    __slots__ = ("events", "parts", "users")

    def __init__(self, users: BitMap | None = None, events: int = 0) -> None:
        self.users: BitMap = BitMap() if users is None else users
        self.events = events
        self.parts: dict[str, Tally] = {}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tally):
            return NotImplemented
        return (self.users, self.events, self.parts) == (other.users, other.events, other.parts)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Tally(users={len(self.users)}, events={self.events}, parts={self.parts!r})"


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
        selections: in the order of the query's selections; where it asked for a breakdown, these again for each group.
        groups: the values of the groups, in order; after them, of a property, the events without it, and at last all
            others. Empty without a breakdown.
        computed_from: ``activity`` when precomputed activity answered, ``events`` when raw rows had to be read.
        as_of_us: up to when it has all that was stored, where it was read from a copy that may be behind; None where
            it has everything.
    """

    selections: tuple[SelectionActivity, ...]
    computed_from: str
    as_of_us: int | None = None
    groups: tuple[str, ...] = ()


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
        self._by_quarter = all(map(on_quarters, query.slots))
        self._slot_of: dict[int, int | None] = {}
        self._tallies = [[Tally() for _ in query.slots] for _ in query.selections]
        self._before = [BitMap() for _ in query.selections]

    @property
    def bounds_us(self) -> tuple[int, int]:
        """First instant and first instant after the query's slots; (0, 0) when they are empty."""
        return (self._starts[0], max(self._ends)) if self._starts else (0, 0)

    def slot_at(self, instant_us: int) -> int | None:
        """The slot that holds this instant, `BEFORE` if it lies before all of them, None if in none."""
        if not self._by_quarter:
            return self._find_slot(instant_us)
        quarter = instant_us // QUARTER_US
        if quarter not in self._slot_of:
            self._slot_of[quarter] = self._find_slot(instant_us)
        return self._slot_of[quarter]

    def _find_slot(self, instant_us: int) -> int | None:
        position = bisect_right(self._starts, instant_us) - 1
        if position < 0:
            return BEFORE if self._starts else None
        return self._slots[position] if instant_us < self._ends[position] else None

    def add(self, selection: int, slot: int, part: str | None, users: BitMap, events: int) -> None:
        """Count facts of one part in one slot: these users, so many events.

        Args:
            selection: index into the query's selections; the caller has checked that the facts match it.
            slot: index into the query's slots, or `BEFORE`.
            part: the text of the field by which the query splits, of all these events; None where it has none.
            users: the users' keys; taken over, not copied, so do not change it afterwards.
            events: how many events.

        Raises:
            InvalidQuestion: the field has too many values to split by.
        """
        if slot == BEFORE:
            if self._query.history:
                self._before[selection] |= users
            return
        target = self._tallies[selection][slot]
        target.users |= users
        target.events += events
        if self._query.split is not None and part is not None:
            tally = target.parts.get(part)
            if tally is None:
                _check_parts(target.parts)
                tally = target.parts[part] = Tally()
            tally.users |= users
            tally.events += events

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


MOST_PARTS: Final = 100_000
"""Different values of a field in one question; each takes some 200 bytes while it is counted."""


def _check_parts(parts: Mapping[str, Tally]) -> None:
    if len(parts) >= MOST_PARTS:
        raise InvalidQuestion(
            "breakdown",
            "too_many_values",
            f"the field has more than {MOST_PARTS:,} values in this range: ask for fewer days, or with a segment",
        )


class Matching:
    """Tells for one event after the other which selections of a query it is in; remembers what it found out.

    Args:
        query: the question.
    """

    def __init__(self, query: ActivityQuery) -> None:
        self._selections = list(enumerate(query.selections))
        self._split = query.split
        fields = {condition.field for selection in query.selections for condition in selection.properties}
        if query.split not in (None, "event_type"):
            fields.add(query.split or "")
        self._names = [field.removeprefix("properties.") for field in sorted(fields)]
        self._read = properties_reader(self._names)
        self._by_text: dict[tuple[str, str], Found] = {}
        self._by_values: dict[tuple[str, *tuple[bytes | None, ...]], Found] = {}

    def find(self, event_type: str, properties: str) -> "Found":
        """The selections that hold an event of this type with this JSON text as properties, each with its part.

        The text does not matter where the query `looks_at_properties` of no event. What a part is, `Tallying.add` says.
        """
        if not self._names:
            properties = ""
        # Events are many and alike: most texts come again and again, and of the others most values that matter.
        found = self._by_text.get((event_type, properties))
        if found is None:
            values = self._read(properties) if self._names else ()
            found = self._by_values.get((event_type, *values))
            if found is None:
                found = self._look(event_type, values)
                _remember(self._by_values, (event_type, *values), found)
            _remember(self._by_text, (event_type, properties), found)
        return found

    def _look(self, event_type: str, values: Sequence[bytes | None]) -> "Found":
        read = {name: read_value(value) for name, value in zip(self._names, values, strict=True) if value is not None}
        if self._split is None:
            part = None
        elif self._split == "event_type":
            part = event_type
        else:
            part = value_text(read.get(self._split.removeprefix("properties."), ABSENT))
        return tuple((index, part) for index, one in self._selections if one.matches(event_type, read))


Found = tuple[tuple[int, str | None], ...]
"""Indexes of selections, each with the part of an event; see `Matching.find`."""

_KNOWN_TEXTS: Final = 20_000
_KNOWN_CHARS: Final = 500  # 10 MB together


def _remember(known: dict[Any, Found], texts: tuple[str | bytes | None, ...], found: Found) -> None:
    if sum([len(text) for text in texts if text is not None]) <= _KNOWN_CHARS:
        if len(known) >= _KNOWN_TEXTS:
            known.clear()
        known[texts] = found


def looks_at_properties(query: ActivityQuery) -> bool:
    """Whether a question asks for anything about properties."""
    return any(field != "event_type" for field in _grouped_by(query)) or any(
        selection.properties for selection in query.selections
    )


def property_fields(query: ActivityQuery, selection: Selection) -> frozenset[str]:
    """The properties, as ``properties.NAME``, that decide what a query says of events in one of its selections."""
    asked = {condition.field for condition in selection.properties}
    return frozenset(asked | {field for field in _grouped_by(query) if field != "event_type"})


def _grouped_by(query: ActivityQuery) -> list[str]:
    fields = (query.split, None if query.breakdown is None else query.breakdown.field)
    return [field for field in fields if field is not None]


def reads_events(query: ActivityQuery, selection: Selection, dimensions: Collection[str]) -> bool:
    """Whether only raw events tell about one selection of a query, wherever its slots begin and end.

    Two properties are too many even if both are dimensions: what is kept of each does not say which events have both.

    Args:
        query: the question.
        selection: one of its.
        dimensions: the properties, as ``properties.NAME``, that are ready.
    """
    fields = property_fields(query, selection)
    return len(fields) > 1 or not fields.issubset(dimensions)


def needs_events(query: ActivityQuery, dimensions: Collection[str] = ()) -> bool:
    """Whether precomputed activity cannot answer: a property that is no dimension, two, or a slot off the quarter hour.

    Arguments as those of `reads_events`.
    """
    return any(reads_events(query, selection, dimensions) for selection in query.selections) or not all(
        on_quarters(span) for span in query.slots
    )
