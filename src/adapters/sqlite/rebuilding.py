"""The rebuild: the projection made anew from the events, step by step, while others write and fold.

There is no index on time, so the events are walked once, in a snapshot, and gathered by quarter of an hour in a
temporary table. A step then takes what was gathered of its day. In the writer's transaction only the events behind the
last one that was gathered are read, and the deltas: keys of events ascend, and events are never changed. Not here: what
rows have to be (`eventcore.rebuilding`).
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

import msgspec

from adapters.sqlite.database import Damaged, Database, discard, driver_errors, open_writer
from adapters.sqlite.folding import NEXT_ZONE, announce, next_zone, projection_zone
from adapters.sqlite.rows import unpack
from adapters.sqlite.writer import Writer
from eventcore.bitmaps import Period
from eventcore.calendar import QUARTER_US
from eventcore.errors import Kind, StoreError
from eventcore.ports import Rebuilt
from eventcore.projection import ANY_TYPE, DAY, MONTH, NEXT, QUARTERS, QUARTERS_A_DAY, BrokenRow, Key
from eventcore.rebuilding import (
    UNREADABLE,
    DayFacts,
    Mending,
    MonthParts,
    Packed,
    Step,
    cannot_be_read,
    known_zone,
    mend,
    steps,
    stray_bounds,
    zone_has_changed,
)

_DAY_US: Final = QUARTERS_A_DAY * QUARTER_US
_DELTAS_AT_ONCE: Final = 20
_LOOK_SECONDS: Final = 0.1

_T = TypeVar("_T")

_decode_users = msgspec.json.Decoder(list[int]).decode
_decode_facts = msgspec.json.Decoder(list[tuple[int, int, int]]).decode


class _Newest(NamedTuple):
    """The last event that was gathered; key 0 where there was none."""

    event_key: int = 0
    event_id: bytes = b""


class _Plan(NamedTuple):
    """What there is to do.

    Attributes:
        zone: the projection's own.
        project_keys: of all projects that were asked for.
        steps: in order.
    """

    zone: ZoneInfo
    project_keys: Sequence[int]
    steps: Sequence[Step]


class _Done(NamedTuple):
    """How many events a step has read, and how many rows it has changed; None where it could do nothing."""

    events: int
    rows: int | None


async def rebuild(path: Path, writer: Writer, project: str | None) -> AsyncGenerator[Rebuilt, None]:
    """See `EventStore.rebuild`."""
    async with _opened(path) as gathering:
        zone, project_keys, todo = await gathering.run(lambda: gathering.begin(project))
        strays = {key: await _write(writer, _delete_strays, key) for key in project_keys}
        for number, step in enumerate(todo, 1):
            if step.grain == QUARTERS:
                done = await _rebuild_day(path, writer, step, gathering)
            else:
                done = await _rebuild_month(writer, step, zone)
            yield _told(step, number, len(todo), done, strays.pop(step.project_key, 0))


async def rebuild_in_zone(writer: Writer, zone_name: str) -> AsyncGenerator[Rebuilt, None]:
    """See `EventStore.rebuild_in_zone`."""
    zone = known_zone(zone_name)
    todo = await _write(writer, _begin_zone, zone)
    for number, step in enumerate(todo, 1):
        done = await _rebuild_month(writer, step, zone)
        if done.rows is None:
            raise cannot_be_read(step.project)
        yield _told(step, number, len(todo), done)
    if not await _write(writer, _end_zone, zone):
        raise zone_has_changed()


async def _write(writer: Writer, work: Callable[..., _T], *values: Any) -> _T:
    """Do something in a transaction of the writer."""
    return await writer.write(lambda appending: work(appending.database, *values))


async def _rebuild_day(path: Path, writer: Writer, step: Step, gathering: "_Gathering") -> _Done:
    facts, newest = await gathering.run(lambda: gathering.facts(step))
    done = await _write(writer, _mend_day, step.project_key, facts, newest)
    if done is None:
        raise _was_replaced(path)
    return done


async def _rebuild_month(writer: Writer, step: Step, zone: ZoneInfo) -> _Done:
    done = await _write(writer, _mend_month, step, zone)
    if done is None:
        raise zone_has_changed()
    return done


def _was_replaced(path: Path) -> StoreError:
    return StoreError(
        Kind.UNAVAILABLE,
        "store_replaced",
        f"the store {path.name} was replaced, perhaps by a backup, while it was read; run the command again",
    )


def _told(step: Step, number: int, all_steps: int, done: _Done, strays: int = 0) -> Rebuilt:
    return Rebuilt(
        project=step.project,
        period=step.name,
        done=number,
        steps=all_steps,
        events=done.events,
        rows=strays + (done.rows or 0),
        left=UNREADABLE if done.rows is None else "",
    )


# Gathering


@asynccontextmanager
async def _opened(path: Path) -> AsyncGenerator["_Gathering", None]:
    gathering = _Gathering(path)
    try:
        yield gathering
    finally:
        gathering.close()


class _Gathering:
    """Reads the events, on a connection and in threads of its own.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with driver_errors(path):
            self._database = open_writer(path)  # who cannot write cannot make a temporary table either
        self._newest = _Newest()
        self._project_key: int | None = None

    def close(self) -> None:
        discard(self._database)

    async def run(self, work: Callable[[], _T]) -> _T:
        """Run one of the methods below in a thread; whoever is cancelled need not wait for a walk over all events."""
        thread = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            return await asyncio.shield(thread)
        except asyncio.CancelledError:
            while not thread.done():
                self._database.interrupt()
                await asyncio.wait([thread], timeout=_LOOK_SECONDS)
            thread.exception()  # it was interrupted, which is no news
            raise

    def begin(self, project: str | None) -> _Plan:
        """Gather the events there are, and say in which zone what has to be done."""
        database = self._database
        with driver_errors(self._path):
            database.run("make_gathered")
            with database.transaction("BEGIN"):
                names = database.all("project_names", name=project)
                zone = projection_zone(database)
                if project is not None and names:
                    self._project_key = names[0][0]
                self._gather()
                todo: list[Step] = []
                for key, name in names:
                    days = [(QUARTERS, day) for (day,) in database.all("gathered_days", project_key=key)]
                    todo += steps(key, name, [*days, *_periods(database, key, 0)], zone)
        return _Plan(zone, [key for key, _ in names], todo)

    def _gather(self) -> None:
        if not _is_still_there(self._database, self._newest):
            raise _was_replaced(self._path)
        found = self._database.first("newest_event")
        if found is None or found[0] == self._newest.event_key:
            return
        newest = _Newest(*found)
        self._database.run(
            "gather", event_key=self._newest.event_key, up_to=newest.event_key, project_key=self._project_key
        )
        self._newest = newest

    def facts(self, step: Step) -> tuple[DayFacts, _Newest]:
        """The events of a day, and up to which event these are all."""
        database = self._database
        with driver_errors(self._path):
            with database.transaction("BEGIN"):
                self._gather()
            facts = DayFacts(step.period)
            first = step.period * QUARTERS_A_DAY
            for quarter, type_key, users in database.all(
                "gathered_day", project_key=step.project_key, first=first, after=first + QUARTERS_A_DAY
            ):
                facts.add(quarter, type_key, _decode_users(users))
        return facts, self._newest


# In the writer's transaction


def _is_still_there(database: Database, newest: _Newest) -> bool:
    """Whether the events up to this one are those that were gathered."""
    return not newest.event_key or database.first("event_id", event_key=newest.event_key) == (newest.event_id,)


def _delete_strays(database: Database, project_key: int) -> int:
    return database.run("delete_strays", project_key=project_key, **stray_bounds())


def _mend_day(database: Database, project_key: int, facts: DayFacts, newest: _Newest) -> _Done | None:
    """Mend the rows of a UTC day; None, and nothing is done, when the events are not those that were gathered."""
    if not _is_still_there(database, newest):
        return None
    (later,) = database.first(
        "events_since",
        event_key=newest.event_key,
        project_key=project_key,
        start_us=facts.day * _DAY_US,
        end_us=(facts.day + 1) * _DAY_US,
    )
    for quarter, type_key, user in _decode_facts(later):
        facts.add(quarter, type_key, (user,))
    _leave_out_deltas(database, project_key, facts)
    stored = _rows(database, project_key, QUARTERS, range(facts.day, facts.day + 1))
    return _Done(facts.events, _mend(database, project_key, mend(facts.rows(), stored)))


def _leave_out_deltas(database: Database, project_key: int, facts: DayFacts) -> None:
    delta_key = 0
    while True:
        delta_key, *columns = database.first(
            "deltas_after", project_key=project_key, delta_key=delta_key, rows=_DELTAS_AT_ONCE
        )
        if delta_key is None:
            return
        users, quarters, types = map(unpack, columns)
        if not len(users) == len(quarters) == len(types):
            raise Damaged
        facts.leave_out_delta(quarters, types, users)


def _mend_month(database: Database, step: Step, zone: ZoneInfo) -> _Done | None:
    """Mend the rows of a local month and its days; None, and nothing is done, when nobody wants them in this zone."""
    shift = _shift(database, zone)
    if shift is None:
        return None
    parts = MonthParts(zone, step.period, shift)
    try:
        for _, day, type_key, _, _, users in _whole_rows(database, step.project_key, QUARTERS, parts.utc_days):
            if type_key != ANY_TYPE:
                parts.add(day, type_key, users)
    except BrokenRow:
        return _Done(0, None)
    stored = [
        *_rows(database, step.project_key, DAY + shift, parts.days),
        *_rows(database, step.project_key, MONTH + shift, range(step.period, step.period + 1)),
    ]
    return _Done(0, _mend(database, step.project_key, mend(parts.rows(), stored)))


def _shift(database: Database, zone: ZoneInfo) -> int | None:
    if zone is projection_zone(database):
        return 0
    return NEXT if zone is next_zone(database) else None


def _periods(database: Database, project_key: int, shift: int) -> list[Period]:
    """Of which periods a project has rows; days and months of the one zone or the other."""
    return database.all("periods", project_key=project_key, shift=shift)


def _rows(database: Database, project_key: int, grain: int, periods: range) -> list[tuple[Key, Packed]]:
    return [(Key(*row[:3]), Packed(*row[3:])) for row in _whole_rows(database, project_key, grain, periods)]


def _whole_rows(
    database: Database, project_key: int, grain: int, periods: range
) -> Iterable[tuple[int, int, int, int, int | None, bytes]]:
    return database.all("rows_between", project_key=project_key, grain=grain, first=periods.start, after=periods.stop)


def _mend(database: Database, project_key: int, mending: Mending) -> int:
    """Write the rows that are wrong and tell everybody; says how many."""
    if not mending.keys:
        return 0
    rows = [(project_key, *key, *packed) for key, packed in mending.put]
    database.insert("set_bitmap", list(zip(*rows, strict=True)))
    for key in mending.delete:
        database.run("delete_bitmap", project_key=project_key, **key._asdict())
    announce(database, project_key, mending.keys)
    return len(mending.keys)


# Another zone


def _begin_zone(database: Database, zone: ZoneInfo) -> Sequence[Step]:
    """From here on folds keep rows of this zone, too; says which months there are to be made."""
    following = next_zone(database)
    if following is not None and following is not zone:  # somebody wanted another one and left
        database.run("delete_next_rows")
        database.run("delete_setting", key=NEXT_ZONE)
    if zone is not projection_zone(database):
        database.run("put_setting", key=NEXT_ZONE, value=zone.key)
    shift = _shift(database, zone)
    assert shift is not None, "it was just said"
    return [
        step
        for key, name in database.all("project_names", name=None)
        for step in steps(key, name, _periods(database, key, shift), zone)
        if step.grain == MONTH
    ]


def _end_zone(database: Database, zone: ZoneInfo) -> bool:
    """The rows of this zone take the place of the others, unless that was done; false when nobody wants them."""
    shift = _shift(database, zone)
    if shift != NEXT:
        return shift is not None
    changed = {
        key: [Key(grain, period, ANY_TYPE) for grain, period in database.all("zone_periods", project_key=key)]
        for key, _ in database.all("project_names", name=None)
    }
    database.run("delete_zone_rows")
    database.run("take_over_next_rows")
    database.run("put_setting", key="projection_zone", value=zone.key)
    database.run("delete_setting", key=NEXT_ZONE)
    for project_key, keys in changed.items():
        announce(database, project_key, keys)
    return True
