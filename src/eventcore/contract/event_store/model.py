"""The naive model of an event store that the contract compares real ones with.

Written from the words of the contract alone: it keeps lists and walks through all of them for every answer, and shares
no code with `eventcore.activity` or `eventcore.dedup`, so that a mistake there does not hide itself. Slow on purpose;
not a store.
"""

import json
import re
from collections import Counter
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

from eventcore.activity import ActivityQuery, ActivitySnapshot
from eventcore.conditions import Condition, Selection
from eventcore.events import Book, Chunk, DeadLetter, Death, Event, Receipt, Replay, StoredEvent

Label = tuple[int, int | str, str | None]
"""A place in a snapshot: which selection, which slot (or ``before``), which event type (None for all)."""

_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")


@dataclass(frozen=True, slots=True)
class Seen:
    """What an activity snapshot says, apart from user keys, which every store deals out in its own way.

    Attributes:
        events: how many events, for each place in the snapshot.
        users: for each set of places, how many users are in exactly these. Equal counters mean that the keys of one
            snapshot can be renamed to those of the other, so every union and every intersection has the same size.
    """

    events: dict[Label, int]
    users: Counter[frozenset[Label]]


def seen(snapshot: ActivitySnapshot) -> Seen:
    """What a snapshot says."""
    events: dict[Label, int] = {}
    places: dict[Hashable, set[Label]] = {}
    for selection, found in enumerate(snapshot.selections):
        for key in found.before:
            places.setdefault(key, set()).add((selection, "before", None))
        for slot, tally in enumerate(found.slots):
            parts = [(None, tally), *tally.parts.items()]
            for event_type, part in parts:
                label = (selection, slot, event_type)
                events[label] = part.events
                for key in part.users:
                    places.setdefault(key, set()).add(label)
    return Seen(events, Counter(map(frozenset, places.values())))


@dataclass(slots=True)
class Model:
    """Everything that was appended, and what a store must say of it.

    Attributes:
        stored: what each project has stored, in order.
        conflicts: for each project, id and fingerprint of what lost against other content.
        dead: for each project, the dead letters by name.
        chunk_ids: of queued chunks.
    """

    stored: dict[str, list[StoredEvent]] = field(default_factory=dict)
    conflicts: dict[str, set[tuple[bytes, bytes]]] = field(default_factory=dict)
    dead: dict[str, dict[bytes, DeadLetter]] = field(default_factory=dict)
    chunk_ids: set[bytes] = field(default_factory=set)
    _books: dict[str, dict[str, Counter[str]]] = field(default_factory=dict)

    def append(self, chunk: Chunk) -> Receipt:
        """Take a chunk in."""
        if chunk.queued and chunk.chunk_id in self.chunk_ids:
            return Receipt()
        if chunk.queued:
            self.chunk_ids.add(chunk.chunk_id)
        outcomes = [
            self._take(
                chunk.project, StoredEvent(event=event, received_us=chunk.received_us, import_id=chunk.import_id)
            )
            for event in chunk.events
        ]
        for event in chunk.conflicting:
            self.conflicts.setdefault(chunk.project, set()).add((event.event_id, event.fingerprint))
        self._enter(chunk, Counter(outcomes), Counter(self._bury(chunk, death) for death in chunk.dead))
        return Receipt(
            duplicates=tuple(index for index, outcome in enumerate(outcomes) if outcome == "duplicate"),
            conflicts=tuple(index for index, outcome in enumerate(outcomes) if outcome == "conflict"),
        )

    def replay(self, project: str, names: Iterable[bytes]) -> Replay | None:
        """Store dead letters after all; None when one of them has a NUL in its user, which no store takes."""
        letters = self.dead.get(project, {})
        replayed = [letters[name] for name in names if name in letters]
        if any("\0" in letter.event.user_id for letter in replayed):
            return None
        outcomes: Counter[str] = Counter()
        for letter in replayed:
            outcome = self._take(
                project, StoredEvent(event=letter.event, received_us=letter.received_us, import_id=letter.import_id)
            )
            outcomes[outcome] += 1
            column = {"duplicate": "duplicate_at_store", "conflict": "conflict_at_store"}.get(outcome, outcome)
            book = self._books[project][_day(letter.received_us)]
            book["dead"] -= 1
            book[column] += 1
            del letters[letter.event.event_id + letter.event.fingerprint]
        return Replay(stored=outcomes["stored"], duplicates=outcomes["duplicate"], conflicts=outcomes["conflict"])

    def drop(self, project: str, names: Iterable[bytes]) -> int:
        """Forget dead letters; the books keep them."""
        letters = self.dead.get(project, {})
        return len([letters.pop(name) for name in names if name in letters])

    def _take(self, project: str, new: StoredEvent) -> str:
        """Store an event, or keep it as a conflict, or neither."""
        stored = self.stored.setdefault(project, [])
        known = [one.event for one in stored if one.event.event_id == new.event.event_id]
        if not known:
            stored.append(new)
            return "stored"
        if _content(known[0]) == _content(new.event):
            return "duplicate"
        self.conflicts.setdefault(project, set()).add((new.event.event_id, new.event.fingerprint))
        return "conflict"

    def _bury(self, chunk: Chunk, death: Death) -> str:
        """Keep a dead letter; of one that is there already only the last attempt is new."""
        letters = self.dead.setdefault(chunk.project, {})
        name = death.event.event_id + death.event.fingerprint
        first = letters.get(name)
        letters[name] = DeadLetter(
            event=death.event,
            received_us=first.received_us if first else chunk.received_us,
            import_id=first.import_id if first else chunk.import_id,
            reason=death.reason,
            attempts=death.attempts,
            died_us=death.died_us,
        )
        return "known" if first else "new"

    def _enter(self, chunk: Chunk, outcomes: Counter[str], deaths: Counter[str]) -> None:
        book = self._books.setdefault(chunk.project, {}).setdefault(_day(chunk.received_us), Counter())
        book["duplicates"] += chunk.counts.duplicates
        book["conflicts"] += chunk.counts.conflicts
        book["rejected"] += chunk.counts.rejected
        book["stored"] += outcomes["stored"]
        book["dead"] += deaths["new"]
        book["duplicate_at_store"] += deaths["known"]
        if chunk.queued:
            book["duplicate_at_store"] += outcomes["duplicate"]
            book["conflict_at_store"] += outcomes["conflict"]
        else:
            book["duplicates"] += outcomes["duplicate"]
            book["conflicts"] += outcomes["conflict"]

    def books(self, project: str) -> list[Book]:
        """The books of every day: accepted and received are the sums that the two equations make of them."""
        books = []
        for day, entries in sorted(self._books.get(project, {}).items()):
            ended = ("stored", "duplicate_at_store", "conflict_at_store", "dead")
            accepted = sum(entries[column] for column in ended)
            received = accepted + entries["duplicates"] + entries["conflicts"] + entries["rejected"]
            books.append(Book(date=day, accepted=accepted, received=received, **entries))
        return books

    def found(self, project: str) -> dict[bytes, StoredEvent]:
        """Everything stored, by id."""
        return {one.event.event_id: one for one in self.stored.get(project, [])}

    def letters(self, project: str) -> list[DeadLetter]:
        """The dead letters, in the order of their names."""
        return [letter for _, letter in sorted(self.dead.get(project, {}).items())]

    def counts(self, project: str) -> dict[str, int]:
        """How many events, users and conflicts."""
        stored = self.stored.get(project, [])
        return {
            "events": len(stored),
            "users": len({one.event.user_id for one in stored}),
            "conflicts": len(self.conflicts.get(project, ())),
        }

    def activity(self, query: ActivityQuery) -> Seen:
        """What the snapshot of a query must say."""
        starts = [start_us for span in query.slots for start_us, end_us in span if start_us < end_us]
        groups = self.groups(query)
        selections = len(query.selections) * (1 + len(groups))
        events: dict[Label, int] = {
            (selection, slot, None): 0 for selection in range(selections) for slot in range(len(query.slots))
        }
        places: dict[Hashable, set[Label]] = {}
        for one in self.stored.get(query.project, []):
            event = one.event
            for index, wanted in enumerate(query.selections):
                if not _selected(event, wanted):
                    continue
                held = [number for number, group in enumerate(groups, 1) if _group(event, query, groups) == group]
                for selection in [index, *(index + number * len(query.selections) for number in held)]:
                    labels: list[Label] = []
                    for slot in _slots_at(query, event.occurred_us):
                        labels.append((selection, slot, None))
                        part = None if query.split is None else _name(_value(event, query.split))
                        labels += [] if part is None else [(selection, slot, part)]
                    for label in labels:
                        events[label] = events.get(label, 0) + 1
                    if query.history and starts and event.occurred_us < min(starts):
                        labels.append((selection, "before", None))
                    if labels:
                        places.setdefault(event.user_id, set()).update(labels)
        return Seen(events, Counter(map(frozenset, places.values())))

    def groups(self, query: ActivityQuery) -> list[str | int]:
        """The groups of a breakdown: the values as texts, and `_MISSING` and `_OTHER`; none without a breakdown."""
        if query.breakdown is None:
            return []
        found: Counter[str] = Counter()
        for one in self.stored.get(query.project, []):
            inside = any(slot >= query.lead for slot in _slots_at(query, one.event.occurred_us))
            name = _name(_value(one.event, query.breakdown.field))
            if inside and name is not None and _selected(one.event, query.selections[0]):
                found[name] += 1
        best = sorted(found, key=lambda name: (-found[name], name))[: query.breakdown.groups]
        return [*best, *([_MISSING] if query.breakdown.field != "event_type" else []), _OTHER]


_ABSENT = object()
_MISSING = 1
_OTHER = 2


def _slots_at(query: ActivityQuery, instant_us: int) -> list[int]:
    return [
        slot
        for slot, span in enumerate(query.slots)
        if any(start_us <= instant_us < end_us for start_us, end_us in span)
    ]


def _group(event: Event, query: ActivityQuery, groups: list[str | int]) -> str | int:
    assert query.breakdown is not None
    value = _value(event, query.breakdown.field)
    if value is _ABSENT:
        return _MISSING
    name = _name(value)
    return name if name is not None and name in groups else _OTHER


def _value(event: Event, field: str) -> Any:
    if field == "event_type":
        return event.event_type
    properties = json.loads(event.properties, parse_int=Fraction, parse_float=_exact)
    return properties.get(field.removeprefix("properties."), _ABSENT)


def _name(value: Any) -> str | None:
    match value:
        case str(text):
            return text if len(text) <= 255 else None
        case True | False | None as word:
            return {True: "true", False: "false", None: "null"}[word]
        case Fraction() as number:
            digits = f"{Decimal(number.numerator) / Decimal(number.denominator):f}"
            return digits.rstrip("0").rstrip(".") if "." in digits else digits
        case _:
            return None


def _day(instant_us: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=instant_us)).date().isoformat()


def _selected(event: Event, selection: Selection) -> bool:
    return all(_fulfils(event, condition) for condition in selection.conditions)


def _fulfils(event: Event, condition: Condition) -> bool:
    value = _value(event, condition.field)
    equal = any(_equal(value, wanted) for wanted in condition.values)
    return {
        "in": equal,
        "not in": not equal,
        "exists": value is not _ABSENT,
        "missing": value is _ABSENT,
        "is": _name(value) in condition.values,
        "is not": value is not _ABSENT and _name(value) not in condition.values,
    }[condition.operator]


def _equal(value: Any, wanted: str) -> bool:
    if isinstance(value, Fraction):
        return _NUMBER.fullmatch(wanted) is not None and _exact(wanted) == value
    return value == wanted if isinstance(value, str) else _name(value) == wanted


def _content(event: Event) -> Hashable:
    """Equal for equal content: key order and the spelling of numbers do not matter."""
    properties = json.loads(event.properties, parse_int=Fraction, parse_float=_exact)
    return (event.user_id, event.event_type, event.occurred_us, _frozen(properties))


def _frozen(value: Any) -> Hashable:
    match value:
        case dict():
            return ("object", frozenset((key, _frozen(member)) for key, member in value.items()))
        case list():
            return ("array", tuple(map(_frozen, value)))
        case _:
            return (type(value).__name__, value)


def _exact(digits: str) -> Fraction:
    return Fraction(Decimal(digits))
