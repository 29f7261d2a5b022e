"""Activity answered from SQLite: from the deltas, or from the events where those are not enough.

The deltas are unpacked once per process and kept, within bounds, as bitmaps per quarter of an hour and type; the next
question only reads what was added since. Not here: what a question means (`eventcore.activity`).
"""

import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec
from pyroaring import BitMap

from adapters.sqlite.database import Damaged, Database
from adapters.sqlite.reader import epoch, project_key
from adapters.sqlite.rows import unpack
from eventcore.activity import BEFORE, ActivityQuery, ActivitySnapshot, Selection, Tallying, needs_events
from eventcore.calendar import QUARTER_US

KEPT_BYTES = 64 * 1024 * 1024
"""Unpacked activity kept in a process: 10 million events of 500,000 users in 90 days take about 60 MB."""

_GROUP_BYTES = 600  # of a bitmap with its dictionary entries, measured
_USER_BYTES = 3  # of a user in a bitmap, measured
_DELTAS_AT_ONCE = 20
_EVENTS_AT_ONCE = 250  # of 256 KiB each 64 MiB, a few times over while they are read

_decode_names = msgspec.json.Decoder(list[str]).decode
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
    names: list[str] = field(default_factory=list)
    bytes: int = 0


class Counting:
    """Answers activity queries of one store; called by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._epoch = ""
        self._kept: dict[int, _Unpacked] = {}

    def activity(self, database: Database, query: ActivityQuery) -> ActivitySnapshot:
        """See `EventStore.activity`; runs in a read transaction that has read nothing yet."""
        if needs_events(query):
            return _from_events(database, query)
        # The snapshot begins with the first statement, so behind the lock it is never older than what is kept.
        with self._lock:
            key = project_key(database, query.project)
            if key is None:
                return Tallying(query).snapshot("activity")
            return _from_groups(query, self._unpacked(database, key))

    def _unpacked(self, database: Database, key: int) -> _Unpacked:
        if (found := epoch(database)) != self._epoch:
            self._kept.clear()
            self._epoch = found
        unpacked = self._kept.pop(key, None) or _Unpacked()  # back in only when it was brought up to date
        if _mark(database, key, unpacked) != unpacked.mark:  # a backup took the place of what was read
            unpacked = _Unpacked()
        _read_deltas(database, key, unpacked)
        unpacked.mark = _mark(database, key, unpacked)
        self._kept[key] = unpacked
        while self._kept and sum(one.bytes for one in self._kept.values()) > KEPT_BYTES:
            del self._kept[next(iter(self._kept))]  # the one not asked for longest
        return unpacked


def _mark(database: Database, key: int, unpacked: _Unpacked) -> int | None:
    found = database.first("mark", project_key=key, delta_key=unpacked.delta_key)
    return int(found[0]) if found else None


def _read_deltas(database: Database, key: int, unpacked: _Unpacked) -> None:
    unpacked.names += _names(database, key, len(unpacked.names))
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


def _names(database: Database, key: int, first_key: int = 0) -> list[str]:
    (names,) = database.first("types_from", project_key=key, first_key=first_key)
    return _decode_names(names)


def _from_groups(query: ActivityQuery, unpacked: _Unpacked) -> ActivitySnapshot:
    tallying = Tallying(query)
    wanted = [_type_keys(selection, unpacked.names) for selection in query.selections]
    # Bitmaps that belong together are collected first: uniting them all at once is much faster than one by one.
    groups: defaultdict[tuple[int, int, int], list[_Group]] = defaultdict(list)
    for quarter, of_quarter in unpacked.quarters.items():
        slot = tallying.slot_at(quarter * QUARTER_US)
        if slot is None or (slot == BEFORE and not query.history):
            continue
        for kind, group in of_quarter.items():
            part = kind if query.by_type else 0
            for selection, kinds in enumerate(wanted):
                if kinds is None or kind in kinds:
                    groups[selection, slot, part].append(group)
    for (selection, slot, part), found in groups.items():
        users = BitMap.union(*[group.users for group in found])
        tallying.add(selection, slot, unpacked.names[part], users, sum([group.events for group in found]))
    return tallying.snapshot("activity")


def _type_keys(selection: Selection, names: Sequence[str]) -> frozenset[int] | None:
    wanted = selection.event_types
    return None if wanted is None else frozenset(key for key, name in enumerate(names) if name in wanted)


def _from_events(database: Database, query: ActivityQuery) -> ActivitySnapshot:
    tallying = Tallying(query)
    key = project_key(database, query.project)
    start_us, end_us = tallying.bounds_us
    if key is None or start_us == end_us:
        return tallying.snapshot("events")
    names = _names(database, key)
    of_selections = [_type_keys(selection, names) for selection in query.selections]
    kinds = None if None in of_selections else frozenset().union(*filter(None, of_selections))
    with_properties = any(selection.properties for selection in query.selections)
    needle_1, needle_2 = _needles(query.selections)
    event_key = 0
    while True:
        (rows,) = database.first(
            "scan_events",
            project_key=key,
            event_key=event_key,
            start_us=_EARLIEST_US if query.history else start_us,
            end_us=end_us,
            type_keys=None if kinds is None else msgspec.json.encode(sorted(kinds)).decode(),
            needle_1=needle_1,
            needle_2=needle_2,
            with_properties=with_properties,
            rows=_EVENTS_AT_ONCE,
        )
        events = _decode_events(rows)
        _count(events, names, query, tallying)
        if len(events) < _EVENTS_AT_ONCE:
            return tallying.snapshot("events")
        event_key = max(found[0] for found in events)


_EARLIEST_US = -(2**63)


def _count(
    events: Iterable[tuple[int, int, int, int, str]], names: Sequence[str], query: ActivityQuery, tallying: Tallying
) -> None:
    users: defaultdict[tuple[int, int, int], list[int]] = defaultdict(list)
    for _, user, kind, occurred_us, properties in events:
        slot = tallying.slot_at(occurred_us)
        if slot is None or (slot == BEFORE and not query.history):
            continue
        for index, selection in enumerate(query.selections):
            if not selection.conditions or selection.matches(names[kind], properties):
                users[index, slot, kind].append(user)
    for (index, slot, kind), found in users.items():
        tallying.add(index, slot, names[kind], BitMap(found), len(found))


def _needles(selections: Sequence[Selection]) -> tuple[str, str]:
    """Two texts that the properties of every event matching any selection hold, as far as no backslash is in them.

    A prefilter only: a key stands there in quotes, and a string as it is; a number may be spelled in other ways. What
    JSON must escape (a quote, a backslash, a control character) comes with a backslash.
    """
    common: set[str] | None = None
    for selection in selections:
        own = {f'"{key}"' for key, _ in selection.properties}
        own |= {f'"{value}"' for _, value in selection.properties if not _may_be_other_than_text(value)}
        common = own if common is None else common & own
    longest = sorted(common or (), key=len, reverse=True)
    first, second, *_ = (*longest, "", "")
    return first, second


def _may_be_other_than_text(value: str) -> bool:
    return value in ("true", "false", "null") or value.strip().lstrip("-")[:1].isdigit()
