"""Activity answered from SQLite: from the projection and the deltas, or from the events where those are not enough.

Rows of the projection are kept in memory within bounds (`eventcore.bitmaps`). The deltas that are not folded yet are
unpacked once per process and kept as bitmaps per quarter of an hour and type; the next question only reads what was
added since. Not here: what a question means (`eventcore.activity`).
"""

import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from zoneinfo import ZoneInfo

import msgspec
from pyroaring import BitMap

from adapters.sqlite.database import Damaged, Database
from adapters.sqlite.dimensions import combinations_of, ready
from adapters.sqlite.folding import projection_zone
from adapters.sqlite.reader import epoch, project_key
from adapters.sqlite.rows import unpack
from eventcore.activity import (
    BEFORE,
    ActivityQuery,
    ActivitySnapshot,
    Matching,
    Tallying,
    looks_at_properties,
    needs_events,
    property_fields,
)
from eventcore.bitmaps import Kept, Period, Plan, Wanted, stored_quarters
from eventcore.breakdown import answer_in_parts
from eventcore.calendar import QUARTER_US
from eventcore.conditions import Selection, needles
from eventcore.dimensions import Kinds
from eventcore.projection import COMBINATIONS_FROM, Key

KEPT_BYTES = 32 * 1024 * 1024
"""Unpacked deltas kept in a process; the folds see to it that there are few."""

_LOOK_AGAIN_SECONDS = 0.1
_LOOK_AT_ROWS_BYTES = 16 * 1024 * 1024
_GROUP_BYTES = 600  # of a bitmap with its dictionary entries, measured
_USER_BYTES = 3  # of a user in a bitmap, measured
_DELTAS_AT_ONCE = 20
_PERIODS_AT_ONCE = 16  # of a quarter of a megabyte each, and one for each type
_EVENTS_AT_ONCE = 250  # of 256 KiB each 64 MiB, a few times over while they are read

_decode_names = msgspec.json.Decoder(list[str]).decode
_decode_keys = msgspec.json.Decoder(list[list[Key]]).decode
_decode_heads = msgspec.json.Decoder(list[tuple[int, int, int, int, int]]).decode
_decode_events = msgspec.json.Decoder(list[tuple[int, int, int, int, str]]).decode


@dataclass(slots=True)
class _Group:
    """Who was active in one quarter of an hour with one type, and in how many events."""

    users: BitMap = field(default_factory=BitMap)
    events: int = 0


@dataclass(slots=True)
class _Unpacked:
    """The activity of one project up to a delta; quarter → type key → group."""

    delta_key: int = 0
    mark: int | None = None
    quarters: dict[int, dict[int, _Group]] = field(default_factory=dict)
    bytes: int = 0


class Counting:
    """Answers activity queries of one store; called by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._epoch = ""
        self._deltas: dict[int, _Unpacked] = {}
        self._rows = Kept()

    def activity(self, database: Database, query: ActivityQuery) -> ActivitySnapshot:
        """See `EventStore.activity`; runs in a read transaction that has read nothing yet."""
        if needs_events(query) and not looks_at_properties(query):
            return answer_in_parts(query, lambda asked: _from_events(database, asked))
        # The snapshot begins with the first statement, so behind the lock it is never older than what is kept.
        with self._turn(database):
            dimensions: dict[str, int] = {}
            if looks_at_properties(query):
                dimensions = ready(database, project_key(database, query.project))
            if not needs_events(query, dimensions):
                return answer_in_parts(query, lambda asked: self._from_rows(database, asked, dimensions))
        return answer_in_parts(query, lambda asked: _from_events(database, asked))

    @contextmanager
    def _turn(self, database: Database) -> Iterator[None]:
        """Wait for those who ask at the same time, as long as there is time."""
        while not self._lock.acquire(timeout=-1 if database.deadline is None else _LOOK_AGAIN_SECONDS):
            database.check_time()
        try:
            yield
        finally:
            self._lock.release()

    def _from_rows(self, database: Database, query: ActivityQuery, dimensions: Mapping[str, int]) -> ActivitySnapshot:
        tallying = Tallying(query)
        key = project_key(database, query.project)
        if key is not None:
            zone = self._same_store(database)
            fields = frozenset[str]().union(*[property_fields(query, selection) for selection in query.selections])
            combinations = {field: combinations_of(database, dimensions[field]) for field in fields}
            kinds = Kinds(query, dict(enumerate(_names(database, key))), combinations)
            self._tally_rows(database, key, query, zone, kinds, tallying)
            _tally_deltas(query, self._unpacked(database, key), kinds, tallying)
        return tallying.snapshot("activity")

    def _same_store(self, database: Database) -> ZoneInfo:
        """The projection's zone, which a rebuild may change; forgets everything when the store became another one."""
        found = epoch(database)
        if found != self._epoch:
            self._deltas.clear()
            self._rows = Kept()
            self._epoch = found
        return projection_zone(database)

    def _tally_rows(
        self, database: Database, key: int, query: ActivityQuery, zone: ZoneInfo, kinds: Kinds, tallying: Tallying
    ) -> None:
        """Count what is folded."""
        fold, mark, first_day, last_day = database.first("last_fold", project_key=key) or (0, None, None, None)
        known = self._rows.version(key)
        if known != (fold, mark):
            self._rows.advance(key, (fold, mark), _changed(database, key, known))
            self._deltas.pop(key, None)  # some of them are folded now
        plan = Plan(query, zone, stored_quarters(first_day, last_day), kinds)
        for portion in plan.portions:
            database.check_time()
            missing = self._rows.missing(key, portion.periods, plan.wanted)
            rows = _read_rows(database, key, missing, plan.wanted)
            plan.tally(self._rows.take(key, portion.periods, plan.wanted, missing, rows), portion, tallying)
            self._rows.shrink(least_bytes=_LOOK_AT_ROWS_BYTES)
        self._rows.shrink()

    def _unpacked(self, database: Database, key: int) -> _Unpacked:
        unpacked = self._deltas.pop(key, None) or _Unpacked()  # back in only when it was brought up to date
        if _mark(database, key, unpacked) != unpacked.mark:  # a backup took the place of what was read
            unpacked = _Unpacked()
        _read_deltas(database, key, unpacked)
        unpacked.mark = _mark(database, key, unpacked)
        self._deltas[key] = unpacked
        while self._deltas and sum(one.bytes for one in self._deltas.values()) > KEPT_BYTES:
            del self._deltas[next(iter(self._deltas))]  # the one not asked for longest
        return unpacked


def _changed(database: Database, key: int, known: object) -> set[Key] | None:
    """The rows that changed since a version, None when nobody can tell."""
    if not isinstance(known, tuple):
        return None
    fold, mark = known
    found_mark, keys = database.first("folds_since", project_key=key, fold=fold)
    if fold and found_mark != mark:  # forgotten, or a backup took its place
        return None
    return {changed for one in _decode_keys(keys) for changed in one}


def _read_rows(
    database: Database, key: int, periods: Sequence[Period], wanted: Wanted
) -> Iterator[tuple[int, int, int, int, bytes]]:
    keys = msgspec.json.encode(wanted.keys).decode()
    for start in range(0, len(periods), _PERIODS_AT_ONCE):
        heads, joined = database.first(
            "bitmaps",
            project_key=key,
            periods=msgspec.json.encode(periods[start : start + _PERIODS_AT_ONCE]).decode(),
            keys=keys,
            all_types=wanted.type_keys is None,
        )
        at = 0
        for grain, period, type_key, events, size in _decode_heads(heads):
            yield grain, period, type_key, events, joined[at : at + size]
            at += size
        if at != len(joined or b""):
            raise Damaged


def _mark(database: Database, key: int, unpacked: _Unpacked) -> int | None:
    found = database.first("mark", project_key=key, delta_key=unpacked.delta_key)
    return int(found[0]) if found else None


def _read_deltas(database: Database, key: int, unpacked: _Unpacked) -> None:
    while True:
        values = {"project_key": key, "delta_key": unpacked.delta_key, "rows": _DELTAS_AT_ONCE}
        last_key, *columns = database.first("deltas_after", **values)
        if last_key is None:
            return
        _add(unpacked, *map(unpack, columns))
        unpacked.delta_key = last_key


def _add(unpacked: _Unpacked, users: Sequence[int], quarters: Sequence[int], kinds: Sequence[int]) -> None:
    if not len(users) == len(quarters) == len(kinds):
        raise Damaged
    users_of: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for group_key, user in zip(zip(quarters, kinds, strict=True), users, strict=True):
        users_of[group_key].append(user)
    for (quarter, kind), found in users_of.items():
        groups = unpacked.quarters.setdefault(quarter, {})
        if kind not in groups:
            groups[kind] = _Group()
            unpacked.bytes += _GROUP_BYTES
        groups[kind].users.update(found)
        groups[kind].events += len(found)
    unpacked.bytes += len(users) * _USER_BYTES


def _names(database: Database, key: int) -> list[str]:
    (names,) = database.first("types", project_key=key)
    return _decode_names(names)


def _tally_deltas(query: ActivityQuery, unpacked: _Unpacked, kinds: Kinds, tallying: Tallying) -> None:
    # Bitmaps that belong together are collected first: uniting them all at once is much faster than one by one.
    groups: defaultdict[tuple[int, int, str | None], list[_Group]] = defaultdict(list)
    for quarter, of_quarter in unpacked.quarters.items():
        slot = tallying.slot_at(quarter * QUARTER_US)
        if slot is None or (slot == BEFORE and not query.history):
            continue
        for kind, group in of_quarter.items():
            for selection, wanted in enumerate(kinds.wanted):
                if kind < COMBINATIONS_FROM if wanted is None else kind in wanted:
                    groups[selection, slot, kinds.part(kind)].append(group)
    for (selection, slot, part), found in groups.items():
        users = BitMap.union(*[group.users for group in found])
        tallying.add(selection, slot, part, users, sum([group.events for group in found]))


def _type_keys(selection: Selection, names: Sequence[str]) -> frozenset[int] | None:
    """The types that matter to a selection, None when all do."""
    return None if selection.any_type else frozenset(selection.admitted(enumerate(names)))


def _from_events(database: Database, query: ActivityQuery) -> ActivitySnapshot:
    tallying = Tallying(query)
    key = project_key(database, query.project)
    start_us, end_us = tallying.bounds_us
    if key is None or start_us == end_us:
        return tallying.snapshot("events")
    names = _names(database, key)
    of_selections = [_type_keys(selection, names) for selection in query.selections]
    kinds = None if None in of_selections else frozenset().union(*filter(None, of_selections))
    matching = Matching(query)
    needle_1, needle_2, *_ = (*needles(query.selections), "", "")
    event_key = 0
    while True:
        database.check_time()
        (rows,) = database.first(
            "scan_events",
            project_key=key,
            event_key=event_key,
            start_us=_EARLIEST_US if query.history else start_us,
            end_us=end_us,
            type_keys=None if kinds is None else msgspec.json.encode(sorted(kinds)).decode(),
            needle_1=needle_1,
            needle_2=needle_2,
            with_properties=looks_at_properties(query),
            rows=_EVENTS_AT_ONCE,
        )
        events = _decode_events(rows)
        _count(events, names, query, matching, tallying)
        if len(events) < _EVENTS_AT_ONCE:
            return tallying.snapshot("events")
        event_key = max(found[0] for found in events)


_EARLIEST_US = -(2**63)


def _count(
    events: Iterable[tuple[int, int, int, int, str]],
    names: Sequence[str],
    query: ActivityQuery,
    matching: Matching,
    tallying: Tallying,
) -> None:
    users: defaultdict[tuple[int, int, str | None], list[int]] = defaultdict(list)
    for _, user, kind, occurred_us, properties in events:
        slot = tallying.slot_at(occurred_us)
        if slot is None or (slot == BEFORE and not query.history):
            continue
        for index, part in matching.find(names[kind], properties):
            users[index, slot, part].append(user)
    for (index, slot, part), found in users.items():
        tallying.add(index, slot, part, BitMap(found), len(found))
