"""Activity answered from PostgreSQL: from the deltas, and from the events for what those cannot tell.

Everything is read in one snapshot. A span is taken apart at the quarters of an hour: whole quarters come from the
deltas, what is left at its ends from the events, and both are put together by the server, one row for each piece of
time and type. Only conditions on properties have their events sent and looked at one by one. Not here: what a question
means (`eventcore.activity`).
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pyroaring import BitMap

from adapters.postgres.connections import SNAPSHOT, Session
from adapters.postgres.rows import unpack
from eventcore.activity import BEFORE, ActivityQuery, ActivitySnapshot, Selection, Tallying, needs_events
from eventcore.calendar import QUARTER_US

EARLIEST_US = -62_135_596_800_000_000
"""The year 1, long before anything can have happened; at a quarter of an hour."""

_EVENTS_AT_ONCE = 2_000


class _Piece(NamedTuple):
    """Time from ``start`` to before ``end``, in quarters or in microseconds, that belongs to a slot."""

    start: int
    end: int
    slot: int


async def read_activity(session: Session, query: ActivityQuery) -> ActivitySnapshot:
    """See `EventStore.activity`."""
    tallying = Tallying(query)
    async with session.transaction(SNAPSHOT):
        types = await session.rows("type_names", project=query.project)
        if types and tallying.bounds_us != (0, 0):
            project_key = types[0]["project_key"]
            names = {row["type_key"]: row["name"] for row in types if row["name"] is not None}
            await _Counting(session, query, tallying, project_key, names).count()
    return tallying.snapshot("events" if needs_events(query) else "activity")


class _Counting:
    """One question to one project.

    Args:
        session: in a snapshot.
        query: the question.
        tallying: takes the facts.
        project_key: of its project.
        names: of event types by their keys.
    """

    def __init__(
        self, session: Session, query: ActivityQuery, tallying: Tallying, project_key: int, names: Mapping[int, str]
    ) -> None:
        self._session = session
        self._query = query
        self._tallying = tallying
        self._project_key = project_key
        self._names = names

    async def count(self) -> None:
        selections = list(enumerate(self._query.selections))
        plain = [(index, selection) for index, selection in selections if not selection.properties]
        if plain:
            type_keys = self._type_keys(plain)
            quarters, ends = _take_apart(self._intervals())
            await self._tally("tally_activity", quarters, plain, type_keys)
            await self._tally("tally_events", ends, plain, type_keys)
        by_property = [(index, selection) for index, selection in selections if selection.properties]
        if by_property:
            await self._scan(by_property)

    def _intervals(self) -> Iterator[_Piece]:
        if self._query.history:
            yield _Piece(EARLIEST_US, self._tallying.bounds_us[0], BEFORE)
        for slot, span in enumerate(self._query.slots):
            yield from (_Piece(start_us, end_us, slot) for start_us, end_us in span if start_us < end_us)

    def _type_keys(self, selections: Sequence[tuple[int, Selection]]) -> list[int] | None:
        """The types that matter to any of the selections, None when all do."""
        wanted: set[str] = set()
        for _, selection in selections:
            if selection.event_types is None:
                return None
            wanted |= selection.event_types
        return [key for key, name in self._names.items() if name in wanted]

    async def _tally(
        self,
        statement: str,
        pieces: Sequence[_Piece],
        selections: Sequence[tuple[int, Selection]],
        type_keys: list[int] | None,
    ) -> None:
        if not pieces or type_keys == []:
            return
        bounds, slots = _bounds(pieces)
        rows = await self._session.rows(
            statement,
            project_key=self._project_key,
            bounds=bounds,
            wanted=[slot is not None for slot in slots],
            type_keys=type_keys,
        )
        # In a thread, because there may be millions of keys.
        await asyncio.to_thread(self._add, rows, slots, selections)

    def _add(
        self,
        rows: Iterable[tuple[int, int, bytes]],
        slots: Sequence[int | None],
        selections: Sequence[tuple[int, Selection]],
    ) -> None:
        for piece, type_key, packed in rows:
            slot = slots[piece - 1]
            name = self._names[type_key]
            keys = unpack(packed)
            users = BitMap(keys)
            for index, selection in selections:
                if slot is not None and selection.matches(name, "{}"):
                    self._tallying.add(index, slot, name, users, len(keys))

    async def _scan(self, selections: Sequence[tuple[int, Selection]]) -> None:
        type_keys = self._type_keys(selections)
        if type_keys == []:
            return
        start_us, end_us = self._tallying.bounds_us
        async for rows in self._session.scan(
            "scan_events",
            rows=_EVENTS_AT_ONCE,
            project_key=self._project_key,
            start=EARLIEST_US if self._query.history else start_us,
            end=end_us,
            type_keys=type_keys,
            needles=_needles([selection for _, selection in selections]),
        ):
            # In a thread, because looking at properties takes microseconds for each event.
            await asyncio.to_thread(self._look_at, rows, selections)

    def _look_at(self, rows: Iterable[Any], selections: Sequence[tuple[int, Selection]]) -> None:
        users: defaultdict[tuple[int, int, int], list[int]] = defaultdict(list)
        for occurred_us, type_key, user_key, properties in rows:
            slot = self._tallying.slot_at(occurred_us)
            if slot is None:
                continue
            for index, selection in selections:
                if selection.matches(self._names[type_key], properties):
                    users[index, slot, type_key].append(user_key)
        for (index, slot, type_key), found in users.items():
            self._tallying.add(index, slot, self._names[type_key], BitMap(found), len(found))


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


def _needles(selections: Sequence[Selection]) -> list[str]:
    """Texts that the properties of every event matching any selection hold, as far as no backslash is in them.

    A prefilter only: a key stands there in quotes, and a string as it is; a number may be spelled in other ways. What
    JSON must escape (a quote, a backslash, a control character) comes with a backslash.
    """
    common: set[str] | None = None
    for selection in selections:
        own = {f'"{key}"' for key, _ in selection.properties}
        own |= {f'"{value}"' for _, value in selection.properties if not _may_be_other_than_text(value)}
        common = own if common is None else common & own
    return sorted(common or ())


def _may_be_other_than_text(value: str) -> bool:
    return value in ("true", "false", "null") or value.lstrip("-")[:1].isdigit()
