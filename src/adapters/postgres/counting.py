"""Activity answered from PostgreSQL: from the projection, from deltas that wait for the fold, and from events.

Everything is read in one snapshot. A span is taken apart at the quarters of an hour: whole quarters come from the
projection and the deltas, what is left at its ends from the events, one row for each piece of time and type. Rows of
the projection that an earlier question has read are not read again. Only conditions on properties have their events
sent and looked at one by one. Not here: what a question means (`eventcore.activity`), and how rows answer it
(`eventcore.bitmaps`).
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from pyroaring import BitMap

from adapters.postgres.connections import SNAPSHOT, Session
from adapters.postgres.dimensions import combinations_of, ready
from adapters.postgres.keys import Declared
from adapters.postgres.remembering import Changed, Memory, Recall, Version
from adapters.postgres.rows import unpack
from eventcore.activity import (
    BEFORE,
    ActivityQuery,
    ActivitySnapshot,
    Matching,
    Tallying,
    looks_at_properties,
    needs_events,
    property_fields,
    reads_events,
)
from eventcore.bitmaps import Period, Plan, stored_quarters
from eventcore.breakdown import broken_down, ranked, ranking
from eventcore.calendar import QUARTER_US, Interval, find_zone, on_quarters
from eventcore.conditions import Condition, Selection, needles
from eventcore.dimensions import Kinds
from eventcore.projection import COMBINATIONS_FROM

EARLIEST_US = -62_135_596_800_000_000
"""The year 1, long before anything can have happened; at a quarter of an hour."""

_EVENTS_AT_ONCE = 2_000
_NO_EVENTS = Selection((Condition("event_type"),))
_PERIODS = msgspec.msgpack.Decoder(list[Period])


class _Piece(NamedTuple):
    """Time from ``start`` to before ``end``, in quarters or in microseconds, that belongs to a slot."""

    start: int
    end: int
    slot: int


async def read_activity(session: Session, query: ActivityQuery, memory: Memory, *, from_copy: bool) -> ActivitySnapshot:
    """See `EventStore.activity`.

    Args:
        session: not in a transaction.
        query: the question.
        memory: of this store.
        from_copy: whether the session may be on a replica, which may be behind.
    """
    # Before the snapshot, which may then only have more than is said here.
    found = await session.first("as_of") if from_copy else None
    as_of_us = None if found is None else int(found[0])
    async with session.transaction(SNAPSHOT):
        if query.breakdown is None:
            return await _tally(session, query, memory, as_of_us)
        order = await _tally(session, ranking(query, query.breakdown), memory, as_of_us)
        groups = ranked(order, query.breakdown)
        snapshot = await _tally(session, broken_down(query, query.breakdown, groups), memory, as_of_us)
        return msgspec.structs.replace(snapshot, groups=groups)


async def _tally(session: Session, query: ActivityQuery, memory: Memory, as_of_us: int | None) -> ActivitySnapshot:
    tallying = Tallying(query)
    head = await session.first("question", project=query.project)
    dimensions: Mapping[str, Declared] = {}
    if head is not None and looks_at_properties(query):
        dimensions = await ready(session, head["project_key"])
    if head is not None and tallying.bounds_us != (0, 0):
        names = await _read_names(session, query, head["project_key"])
        await _Counting(session, query, tallying, head, names, dimensions, memory).count()
    return tallying.snapshot("events" if needs_events(query, dimensions) else "activity", as_of_us)


async def _read_names(session: Session, query: ActivityQuery, project_key: int) -> dict[int, str]:
    """The names, by their keys, of the types that a question tells apart; there may be thousands of others."""
    named: set[str] | None = set()
    for selection in query.selections:
        if query.split is not None or selection.properties:
            named = None
        elif named is not None and not selection.any_type:
            of_selection = selection.event_types
            named = None if of_selection is None else named | of_selection
    if named is not None and not named:
        return {}
    return dict(
        await session.rows("type_names", project_key=project_key, names=None if named is None else sorted(named))
    )


class _Counting:
    """One question to one project.

    Args:
        session: in a snapshot.
        query: the question.
        tallying: takes the facts.
        head: what `question` told.
        names: by their keys, of the types that the question tells apart.
        dimensions: of the project, that answer questions.
        memory: of the store.
    """

    def __init__(
        self,
        session: Session,
        query: ActivityQuery,
        tallying: Tallying,
        head: Any,
        names: Mapping[int, str],
        dimensions: Mapping[str, Declared],
        memory: Memory,
    ) -> None:
        self._session = session
        self._query = query
        self._tallying = tallying
        self._head = head
        self._project_key: int = head["project_key"]
        self._names = names
        self._dimensions = dimensions
        self._memory = memory

    async def count(self) -> None:
        query = self._query
        # Ends of slots within a quarter of an hour are in no row, and in the events their values are to be looked at.
        dimensions = self._dimensions if all(map(on_quarters, query.slots)) else {}
        scanned = [one for one in enumerate(query.selections) if reads_events(query, one[1], dimensions)]
        if len(scanned) < len(query.selections):
            left_out = {index for index, _ in scanned}
            precomputed = msgspec.structs.replace(
                query,
                selections=tuple(
                    _NO_EVENTS if index in left_out else selection for index, selection in enumerate(query.selections)
                ),
            )
            kinds = await self._read_kinds(precomputed)
            quarters, ends = _take_apart(self._intervals())
            await self._recall(precomputed, quarters, kinds)
            await self._tally("tally_activity", quarters, kinds)
            await self._tally("tally_events", ends, kinds)
        if scanned:
            await self._scan(scanned)

    async def _read_kinds(self, query: ActivityQuery) -> Kinds:
        fields = frozenset[str]().union(*[property_fields(query, selection) for selection in query.selections])
        combinations = {
            field: await combinations_of(self._session, self._dimensions[field])
            for field in sorted(fields.intersection(self._dimensions))
        }
        return Kinds(query, self._names, combinations)

    def _intervals(self) -> Iterator[_Piece]:
        if self._query.history:
            yield _Piece(EARLIEST_US, self._tallying.bounds_us[0], BEFORE)
        for slot, span in enumerate(self._query.slots):
            yield from (_Piece(start_us, end_us, slot) for start_us, end_us in span if start_us < end_us)

    def _kinds(self, selection: Selection) -> frozenset[int] | None:
        """The types that matter to a selection, None when all do."""
        if selection.any_type:
            return None
        return frozenset(key for key, name in self._names.items() if selection.admits(name))

    async def _recall(self, query: ActivityQuery, quarters: Sequence[_Piece], kinds: Kinds) -> None:
        """Count what is folded."""
        head = self._head
        if not quarters or head["first_day"] is None:
            return
        version = Version(head["epoch"], head["fold"] or 0, head["mark"] or b"")
        folds = await self._read_folds(version)
        plan = await asyncio.to_thread(self._plan, query, quarters, kinds)
        for portion in plan.portions:
            recall = Recall(self._project_key, version, folds, plan, portion)
            # In a thread, because there may be millions of users. Once when all is remembered, as a rule.
            while lacking := await asyncio.to_thread(self._memory.tally, recall, self._tallying):
                recall.take(lacking, await self._read_rows(lacking, plan))

    async def _read_folds(self, version: Version) -> list[Changed]:
        """The folds since the version that is remembered, if that is of any use."""
        known = self._memory.version(self._project_key)
        if known is None or known == version or known.epoch != version.epoch:
            return []
        rows = await self._session.rows("folds_since", project_key=self._project_key, fold=known.fold)
        try:
            return [Changed(fold, mark, _PERIODS.decode(periods)) for fold, mark, periods in rows]
        except msgspec.DecodeError:  # then nothing remembered is of use
            return []

    def _plan(self, query: ActivityQuery, quarters: Sequence[_Piece], kinds: Kinds) -> Plan:
        return Plan(
            _on_quarters(query, quarters),
            find_zone(self._head["zone"]),
            stored_quarters(self._head["first_day"], self._head["last_day"]),
            kinds,
        )

    async def _read_rows(self, periods: Sequence[Period], plan: Plan) -> Sequence[Any]:
        statement = "read_rows" if plan.wanted.type_keys is not None else "read_rows_of_all_types"
        return await self._session.rows(
            statement,
            project_key=self._project_key,
            grains=[grain for grain, _ in periods],
            periods=[period for _, period in periods],
            type_keys=plan.wanted.keys,
        )

    async def _tally(self, statement: str, pieces: Sequence[_Piece], kinds: Kinds) -> None:
        named = frozenset[int]().union(*[wanted for wanted in kinds.wanted if wanted is not None])
        all_types = None in kinds.wanted
        if not pieces or not (all_types or named):
            return
        bounds, slots = _bounds(pieces)
        rows = await self._session.rows(
            statement,
            project_key=self._project_key,
            bounds=bounds,
            wanted=[slot is not None for slot in slots],
            all_types=all_types,
            type_keys=sorted(named),
            told=self._query.split is not None or any(wanted is not None for wanted in kinds.wanted),
        )
        # In a thread, because there may be millions of keys.
        await asyncio.to_thread(self._add, rows, slots, kinds)

    def _add(self, rows: Iterable[tuple[int, int, bytes]], slots: Sequence[int | None], kinds: Kinds) -> None:
        for piece, type_key, packed in rows:
            slot = slots[piece - 1]
            keys = unpack(packed)
            users = BitMap(keys)
            for index, wanted in enumerate(kinds.wanted):
                if slot is not None and (type_key < COMBINATIONS_FROM if wanted is None else type_key in wanted):
                    self._tallying.add(index, slot, kinds.part(type_key), users, len(keys))

    async def _scan(self, selections: Sequence[tuple[int, Selection]]) -> None:
        type_keys = _all_of(self._kinds(selection) for _, selection in selections)
        if type_keys == []:
            return
        indexes = [index for index, _ in selections]
        matching = Matching(msgspec.structs.replace(self._query, selections=tuple(one for _, one in selections)))
        start_us, end_us = self._tallying.bounds_us
        async for rows in self._session.scan(
            "scan_events",
            rows=_EVENTS_AT_ONCE,
            project_key=self._project_key,
            start=EARLIEST_US if self._query.history else start_us,
            end=end_us,
            type_keys=type_keys,
            needles=needles([selection for _, selection in selections]),
        ):
            # In a thread, because looking at properties takes microseconds for each event.
            await asyncio.to_thread(self._look_at, rows, matching, indexes)

    def _look_at(self, rows: Iterable[Any], matching: Matching, indexes: Sequence[int]) -> None:
        users: defaultdict[tuple[int, int, str | None], list[int]] = defaultdict(list)
        for occurred_us, type_key, user_key, properties in rows:
            slot = self._tallying.slot_at(occurred_us)
            if slot is None:
                continue
            for index, part in matching.find(self._names[type_key], properties):
                users[indexes[index], slot, part].append(user_key)
        for (index, slot, part), found in users.items():
            self._tallying.add(index, slot, part, BitMap(found), len(found))


def _all_of(kinds: Iterable[frozenset[int] | None]) -> list[int] | None:
    """The types that matter to any of these, None when all do."""
    found: set[int] = set()
    for some in kinds:
        if some is None:
            return None
        found |= some
    return sorted(found)


def _on_quarters(query: ActivityQuery, quarters: Iterable[_Piece]) -> ActivityQuery:
    """The part of a question that quarters answer.

    A last slot marks where history ends: it may be within the quarter in which the first slot begins, and holds none.
    """
    slots: list[list[Interval]] = [[] for _ in query.slots]
    history_end: list[Interval] = []
    for start, end, slot in quarters:
        if slot == BEFORE:
            history_end.append((end * QUARTER_US, end * QUARTER_US + 1))
        else:
            slots[slot].append((start * QUARTER_US, end * QUARTER_US))
    return msgspec.structs.replace(query, slots=(*map(tuple, slots), tuple(history_end)))


def _take_apart(intervals: Iterable[_Piece]) -> tuple[list[_Piece], list[_Piece]]:
    """What of these intervals is whole quarters, in quarters, and what is left, in microseconds; both ascending."""
    quarters: list[_Piece] = []
    ends: list[_Piece] = []
    for start_us, end_us, slot in sorted(intervals):
        first = -(-start_us // QUARTER_US)
        last = end_us // QUARTER_US
        if first < last:
            quarters.append(_Piece(first, last, slot))
            ends += [_Piece(start_us, first * QUARTER_US, slot), _Piece(last * QUARTER_US, end_us, slot)]
        else:
            ends.append(_Piece(start_us, end_us, slot))
    return quarters, [piece for piece in ends if piece.start < piece.end]


def _bounds(pieces: Sequence[_Piece]) -> tuple[list[int], list[int | None]]:
    """Where a piece begins, or a gap, and which slot begins there; None for a gap."""
    bounds: list[int] = []
    slots: list[int | None] = []
    for start, end, slot in pieces:
        if bounds and bounds[-1] == start:
            slots[-1] = slot
        else:
            bounds.append(start)
            slots.append(slot)
        bounds.append(end)
        slots.append(None)
    return bounds, slots
