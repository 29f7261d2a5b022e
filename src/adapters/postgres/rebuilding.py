"""The rebuild: the projection made anew from the events, step by step, while others write and fold.

A step has the lock of the fold, so nobody else changes rows meanwhile, and reads the events of its day and the deltas
in one statement, which is one snapshot. The ledger keeps the instants of all events for ever: where it lists more of a
day than there are, raw events have expired, and what the projection has of them is all that is left. Not here: what
rows have to be (`eventcore.rebuilding`).
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from time import monotonic
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

from adapters.postgres.address import Address
from adapters.postgres.connections import READ_COMMITTED, SNAPSHOT, Session
from adapters.postgres.dimensions import Combining, Declaration, combinations_of
from adapters.postgres.folding import NEXT_ZONE, announce, projection_zones
from adapters.postgres.keys import Declared, Known
from adapters.postgres.migrating import check_version
from adapters.postgres.rows import unpack
from adapters.postgres.upkeep import MOST_EVENTS
from adapters.postgres.verifying import kept_since_us
from eventcore.bitmaps import Period
from eventcore.calendar import QUARTER_US
from eventcore.conditions import properties_reader
from eventcore.dimensions import canonical, is_full, was_removed
from eventcore.errors import StoreError
from eventcore.ports import Rebuilt
from eventcore.projection import ANY_TYPE, DAY, MONTH, NEXT, QUARTERS, QUARTERS_A_DAY, BrokenRow, Key
from eventcore.rebuilding import (
    GONE,
    UNREADABLE,
    DayFacts,
    Mending,
    MonthParts,
    Packed,
    Step,
    cannot_be_read,
    mend,
    steps,
    stray_bounds,
    zone_has_changed,
)

FOLD_SECONDS = 10.0
"""How often a rebuild folds. Whoever else wants to does not wait for the lock, and would hardly ever find it free."""

_ROWS_AT_ONCE: Final = 500
_EVENTS_AT_ONCE: Final = 2_000
_TEXTS_AT_ONCE: Final = 20_000
_DAY_US: Final = QUARTERS_A_DAY * QUARTER_US


class _Done(NamedTuple):
    """What a step has done.

    Attributes:
        events: how many it has read.
        rows: how many it has changed.
        left: why it could not do anything, empty when it could.
    """

    events: int = 0
    rows: int = 0
    left: str = ""


class Rebuilding:
    """One rebuild.

    Args:
        session: on a connection of its own, where statements may take long.
        address: of the store.
        partition_us: the width of the hypertable's chunks, None where events is a plain table.
        fold: folds about so many events.
    """

    def __init__(
        self, session: Session, address: Address, partition_us: int | None, fold: Callable[[int], Awaitable[int]]
    ) -> None:
        self._session = session
        self._address = address
        self._partition_us = partition_us
        self._fold = fold
        self._folded_at = monotonic()

    async def rebuild(self, project: str | None) -> AsyncGenerator[Rebuilt, None]:
        """See `EventStore.rebuild`."""
        session = self._session
        since_us = await kept_since_us(session, self._partition_us)
        async with session.transaction(SNAPSHOT):
            zone, _ = await projection_zones(session)
            names = dict(await session.rows("project_names", project=project))
            periods = await self._periods(names, 0)
            listed: dict[tuple[int, int], int] = {}
            for project_key, day, in_ledger in await session.rows("day_counts", project_keys=sorted(names)):
                listed[project_key, day] = in_ledger
                periods[project_key].append((QUARTERS, day))
        async with self._locked():
            strays = Counter(
                key for (key,) in await session.rows("delete_strays", project_keys=sorted(names), **stray_bounds())
            )
        todo = [step for key, name in names.items() for step in steps(key, name, periods[key], zone)]
        for number, step in enumerate(todo, 1):
            if step.grain == MONTH:
                done = await self._rebuild_month(step, zone)
            elif step.period * _DAY_US < since_us:
                done = _Done(left=GONE)
            else:
                done = await self._rebuild_day(step, listed.get((step.project_key, step.period), 0))
            yield _told(step, number, len(todo), done, strays.pop(step.project_key, 0))
            await self._let_fold()

    async def rebuild_in_zone(self, zone: ZoneInfo) -> AsyncGenerator[Rebuilt, None]:
        """See `EventStore.rebuild_in_zone`."""
        todo = await self._begin_zone(zone)
        for number, step in enumerate(todo, 1):
            done = await self._rebuild_month(step, zone)
            if done.left:
                raise cannot_be_read(step.project)
            yield _told(step, number, len(todo), done)
            await self._let_fold()
        await self._end_zone(zone)

    async def add_dimension(self, project: str, declared: Declaration) -> AsyncGenerator[Rebuilt, None]:
        """Build a dimension that is declared; see `EventStore.add_dimension`."""
        session, (project_key, dimension, state) = self._session, declared
        _check_state(dimension, state)
        async with session.transaction(SNAPSHOT):
            present, following = await projection_zones(session)
            days = [(QUARTERS, day) for (day,) in await session.rows("days_of_events", project_key=project_key)]
        todo = [(present, step) for step in steps(project_key, project, days, present)]
        if following is not None:
            months = [step for step in steps(project_key, project, days, following) if step.grain == MONTH]
            todo += [(following, step) for step in months]
        for number, (zone, step) in enumerate(todo, 1):
            if step.grain == MONTH:
                done = await self._rebuild_month(step, zone, dimension)
            else:
                done = await self._build_day(step, dimension)
            _check_state(dimension, await self._state(dimension))
            yield _told(step, number, len(todo), done)
            await self._let_fold()
        async with self._locked():
            # Rows of another zone may lack what was not built yet when they were made.
            zones = await projection_zones(session)
            if zones[0] is not present or zones[1] not in (None, following):
                raise zone_has_changed()
            await session.run("finish", dimension_key=dimension.dimension_key)
        _check_state(dimension, await self._state(dimension))

    async def _state(self, dimension: Declared) -> str | None:
        found = await self._session.first("state", dimension_key=dimension.dimension_key)
        return None if found is None else str(found[0])

    @asynccontextmanager
    async def _locked(self) -> AsyncIterator[Combining]:
        """A transaction in which nobody else folds or rebuilds; for the dimensions as they are in it."""
        async with self._session.transaction(READ_COMMITTED):
            await self._session.run("wait_for_folds")
            version, epoch, mark = await self._session.first("head")
            check_version(version, self._address)
            yield Combining(self._session, Known(epoch), mark)

    async def _periods(self, project_keys: Iterable[int], shift: int) -> defaultdict[int, list[Period]]:
        """Of which periods each project has rows; days and months of the one zone or the other."""
        found: defaultdict[int, list[Period]] = defaultdict(list)
        for project_key, *period in await self._session.rows("periods", project_keys=sorted(project_keys), shift=shift):
            found[project_key].append((period[0], period[1]))
        return found

    async def _let_fold(self) -> None:
        if monotonic() - self._folded_at >= FOLD_SECONDS:
            with suppress(StoreError):  # a row that is still to be made anew, perhaps; who folds later will tell
                await self._fold(MOST_EVENTS)
            self._folded_at = monotonic()

    # Steps

    async def _rebuild_day(self, step: Step, listed: int) -> _Done:
        """Mend the rows of a UTC day, if all events are there that the ledger has listed."""
        async with self._locked() as combining:
            found = await self._session.rows("facts_of_day", project_key=step.project_key, **_bounds(step))
            values = await self._values(step, await combining.declared(step.project_key))
            facts = DayFacts(step.period)
            # In a thread, as for a fold.
            await asyncio.to_thread(_add_facts, facts, found)
            events = facts.events
            if events < listed:
                return _Done(left=GONE)
            await self._add_values(step, combining, facts, values)
            rows = await self._mend_day(step, facts, None)
            await combining.tell_full()
        return _Done(events, rows)

    async def _build_day(self, step: Step, dimension: Declared) -> _Done:
        """The same for one dimension, from whatever events there are."""
        async with self._locked() as combining:
            is_live = dimension in await combining.declared(step.project_key)
            values = await self._values(step, [dimension] if is_live else [])
            facts = DayFacts(step.period)
            await self._add_values(step, combining, facts, values)
            rows = await self._mend_day(step, facts, dimension)
            await combining.tell_full()
        return _Done(sum([len(users) for users in values.users.values()]), rows)

    async def _values(self, step: Step, dimensions: Sequence[Declared]) -> "_Values":
        values = _Values(dimensions)
        if dimensions:
            async for rows in self._session.scan(
                "values_of_day", rows=_EVENTS_AT_ONCE, project_key=step.project_key, **_bounds(step)
            ):
                await asyncio.to_thread(values.add, rows)
        return values

    async def _add_values(self, step: Step, combining: Combining, facts: DayFacts, values: "_Values") -> None:
        for (quarter, key), users in values.waiting.items():
            facts.leave_out(quarter, key, users)
        for dimension in values.dimensions:
            found = {at[1:]: users for at, users in values.users.items() if at[0] == dimension.dimension_key}
            keys = await combining.find_or_give(
                step.project_key, dimension, {(type_key, value) for _, type_key, value in found}
            )
            if keys is not None:
                for (quarter, type_key, value), users in found.items():
                    facts.add(quarter, keys[type_key, value or ""], users)

    async def _mend_day(self, step: Step, facts: DayFacts, only: Declared | None) -> int:
        is_meant = await self._meant(only)
        stored = await self._rows(step.project_key, QUARTERS, range(step.period, step.period + 1))
        meant = [row for row in stored if is_meant(row[0].type_key)]
        return await self._write(step.project_key, await asyncio.to_thread(lambda: mend(facts.rows(), meant)))

    async def _meant(self, only: Declared | None) -> Callable[[int], bool]:
        """Which rows a step is about: all, or those of one dimension."""
        if only is None:
            return lambda key: True
        return frozenset([one.key for one in await combinations_of(self._session, only)]).__contains__

    async def _rebuild_month(self, step: Step, zone: ZoneInfo, only: Declared | None = None) -> _Done:
        """Mend the rows of a local month and its days."""
        async with self._locked():
            shift = _shift(await projection_zones(self._session), zone)
            if shift is None:
                raise zone_has_changed()
            is_meant = await self._meant(only)
            parts = MonthParts(zone, step.period, shift)
            quarters = await self._rows(step.project_key, QUARTERS, parts.utc_days)
            stored = [
                *await self._rows(step.project_key, DAY + shift, parts.days),
                *await self._rows(step.project_key, MONTH + shift, range(step.period, step.period + 1)),
            ]
            quarters, stored = ([row for row in rows if is_meant(row[0].type_key)] for rows in (quarters, stored))
            try:
                mending = await asyncio.to_thread(_mend_month, parts, quarters, stored)
            except BrokenRow:
                return _Done(left=UNREADABLE)
            return _Done(rows=await self._write(step.project_key, mending))

    async def _rows(self, project_key: int, grain: int, periods: range) -> list[tuple[Key, Packed]]:
        rows = await self._session.rows(
            "rows_between", project_key=project_key, grain=grain, first=periods.start, after=periods.stop
        )
        return [(Key(*row[:3]), Packed(*row[3:])) for row in map(tuple, rows)]

    async def _write(self, project_key: int, mending: Mending) -> int:
        """Write the rows that are wrong and tell everybody; says how many."""
        for start in range(0, len(mending.put), _ROWS_AT_ONCE):
            part = mending.put[start : start + _ROWS_AT_ONCE]
            await self._session.run(
                "set_rows",
                project_key=project_key,
                **_named([key for key, _ in part]),
                events=[packed.events for _, packed in part],
                distinct_users=[packed.distinct_users for _, packed in part],
                users=[packed.users for _, packed in part],
            )
        if mending.delete:
            await self._session.run("delete_rows", project_key=project_key, **_named(mending.delete))
        if mending.keys:
            await announce(self._session, {project_key: {(key.grain, key.period) for key in mending.keys}})
        return len(mending.keys)

    # Another zone

    async def _begin_zone(self, zone: ZoneInfo) -> list[Step]:
        """From here on folds keep rows of this zone, too; says which months there are to be made."""
        session = self._session
        async with self._locked():
            present, following = await projection_zones(session)
            if following is not None and following is not zone:  # somebody wanted another one and left
                await session.run("delete_next_rows")
                await session.run("delete_setting", key=NEXT_ZONE)
            shift = 0 if zone is present else NEXT
            if shift:
                await session.run("put_setting", key=NEXT_ZONE, value=zone.key)
            names = dict(await session.rows("project_names", project=None))
            periods = await self._periods(names, shift)
        todo = [step for key, name in names.items() for step in steps(key, name, periods[key], zone)]
        return [step for step in todo if step.grain == MONTH]

    async def _end_zone(self, zone: ZoneInfo) -> None:
        """The rows of this zone take the place of the others, unless that was done."""
        session = self._session
        async with self._locked():
            shift = _shift(await projection_zones(session), zone)
            if shift is None:
                raise zone_has_changed()
            if shift == NEXT:
                changed: defaultdict[int, list[Period]] = defaultdict(list)
                for project_key, grain, period in await session.rows("zone_periods"):
                    changed[project_key].append((grain, period))
                await session.run("delete_zone_rows")
                await session.run("take_over_next_rows")
                await session.run("put_setting", key="projection_zone", value=zone.key)
                await session.run("delete_setting", key=NEXT_ZONE)
                await announce(session, changed)


def _check_state(dimension: Declared, state: str | None) -> None:
    if state is None:
        raise was_removed(dimension.name)
    if state == "full":
        raise is_full(dimension.name)


def _shift(zones: tuple[ZoneInfo, ZoneInfo | None], zone: ZoneInfo) -> int | None:
    """Where the rows of a zone are; None when nobody keeps any."""
    present, following = zones
    if zone is present:
        return 0
    return NEXT if zone is following else None


class _Values:
    """What the events of a UTC day have of some dimensions.

    Attributes:
        dimensions: these.
        users: the users of each event, by dimension, quarter, type and canonical value; None for what is too long.
        waiting: those of facts that are not folded yet, by quarter and combination.

    Args:
        dimensions: which.
    """

    def __init__(self, dimensions: Sequence[Declared]) -> None:
        self.dimensions = dimensions
        self.users: defaultdict[tuple[int, int, int, str | None], list[int]] = defaultdict(list)
        self.waiting: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        self._read = properties_reader([dimension.name for dimension in dimensions])
        self._texts: dict[bytes | None, str | None] = {}

    def add(self, rows: Iterable[Any]) -> None:
        """Rows of the statement ``values_of_day``."""
        for quarter, key, packed, properties in rows:
            users = unpack(packed)
            if properties is None:
                self.waiting[quarter, key].extend(users)
                continue
            for dimension, raw in zip(self.dimensions, self._read(properties), strict=True):
                self.users[dimension.dimension_key, quarter, key, self._text(raw)].extend(users)

    def _text(self, raw: bytes | None) -> str | None:
        if raw not in self._texts:
            if len(self._texts) >= _TEXTS_AT_ONCE:
                self._texts = {}
            self._texts[raw] = canonical(raw)
        return self._texts[raw]


def _bounds(step: Step) -> dict[str, int]:
    first = step.period * QUARTERS_A_DAY
    return {
        "start": step.period * _DAY_US,
        "end": (step.period + 1) * _DAY_US,
        "first": first,
        "after": first + QUARTERS_A_DAY,
    }


def _add_facts(facts: DayFacts, found: Iterable[Any]) -> None:
    for waiting, quarter, type_key, users in found:
        (facts.leave_out if waiting else facts.add)(quarter, type_key, unpack(users))


def _mend_month(
    parts: MonthParts, quarters: Iterable[tuple[Key, Packed]], stored: Sequence[tuple[Key, Packed]]
) -> Mending:
    for key, packed in quarters:
        if key.type_key != ANY_TYPE:
            parts.add(key.period, key.type_key, packed.users)
    return mend(parts.rows(), stored)


def _named(keys: Sequence[Key]) -> Mapping[str, list[int]]:
    return {
        "grains": [key.grain for key in keys],
        "periods": [key.period for key in keys],
        "type_keys": [key.type_key for key in keys],
    }


def _told(step: Step, number: int, all_steps: int, done: _Done, strays: int = 0) -> Rebuilt:
    return Rebuilt(
        project=step.project,
        period=step.name,
        done=number,
        steps=all_steps,
        events=done.events,
        rows=done.rows + strays,
        left=done.left,
    )
