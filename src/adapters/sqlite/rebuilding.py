"""The rebuild: the projection made anew from the events, step by step, while others write and fold.

There is no index on time, so the events are walked once, in a snapshot, and gathered by quarter of an hour in a
temporary table, and so are the values of dimensions. A step then takes what was gathered of its day. In the writer's
transaction only the events behind the last one that was gathered are read, and the deltas: keys of events ascend, and
events are never changed. A dimension is built in the same steps, which then look at nothing but its own rows. Not here:
what rows have to be (`eventcore.rebuilding`).
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar
from zoneinfo import ZoneInfo

import msgspec

from adapters.sqlite.appending import Appending
from adapters.sqlite.database import Damaged, Database, discard, driver_errors, open_writer
from adapters.sqlite.dimensions import TOO_MUCH, Declared, combinations_of, live_combinations, teach_values
from adapters.sqlite.folding import NEXT_ZONE, announce, next_zone, projection_zone
from adapters.sqlite.rows import unpack
from adapters.sqlite.writer import Writer
from eventcore.bitmaps import Period
from eventcore.calendar import QUARTER_US
from eventcore.conditions import properties_reader
from eventcore.dimensions import canonical, is_full, was_removed
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
_decode_facts = msgspec.json.Decoder(list[tuple[int, int, int, str]]).decode


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


class _Building(NamedTuple):
    """A dimension that is built.

    Attributes:
        project_key: whose.
        dimension: which.
        state: that it was found in.
    """

    project_key: int
    dimension: Declared
    state: str


class _Day(NamedTuple):
    """What was gathered of a UTC day.

    Attributes:
        facts: of its types; without any where only a dimension is built.
        values: of each dimension of the project: quarters, types, canonical values, users.
        newest: up to where events were gathered.
        only: the dimension that is built, None for a rebuild of everything.
    """

    facts: DayFacts
    values: Mapping[Declared, list[tuple[int, int, str, list[int]]]]
    newest: _Newest
    only: Declared | None


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


async def add_dimension(path: Path, writer: Writer, project: str, name: str) -> AsyncGenerator[Rebuilt, None]:
    """See `EventStore.add_dimension`."""
    building = await writer.write(lambda appending: _declare(appending, project, name))
    if building.state == "ready":
        return
    async with _opened(path) as gathering:
        _check_state(name, building.state)
        zones, todo = await gathering.run(lambda: gathering.begin_dimension(project, building))
        for number, (zone, step) in enumerate(todo, 1):
            if step.grain == QUARTERS:
                done = await _rebuild_day(path, writer, step, gathering)
            else:
                done = await _rebuild_month(writer, step, zone, building.dimension)
            _check_state(name, await writer.write(lambda appending: appending.combining.state(building.dimension)))
            yield _told(step, number, len(todo), done)
        _check_state(name, await writer.write(lambda appending: _finish(appending, building.dimension, zones)))


def _check_state(name: str, state: str | None) -> None:
    if state is None:
        raise was_removed(name)
    if state == "full":
        raise is_full(name)


def _declare(appending: Appending, project: str, name: str) -> _Building:
    project_key = appending.project_key(project)
    return _Building(project_key, *appending.combining.declare(project_key, name))


def _finish(appending: Appending, dimension: Declared, zones: "_Zones") -> str | None:
    """Have it answer questions, unless rows of another zone may lack some of its facts."""
    database = appending.database
    following = next_zone(database)
    if projection_zone(database) is not zones.present or (following is not None and following is not zones.following):
        raise zone_has_changed()
    appending.combining.finish(dimension)
    return appending.combining.state(dimension)


class _Zones(NamedTuple):
    """The projection's zone, and the one that it is going over to, None when it is to stay."""

    present: ZoneInfo
    following: ZoneInfo | None


async def _write(writer: Writer, work: Callable[..., _T], *values: Any) -> _T:
    """Do something in a transaction of the writer."""
    return await writer.write(lambda appending: work(appending.database, *values))


async def _rebuild_day(path: Path, writer: Writer, step: Step, gathering: "_Gathering") -> _Done:
    day = await gathering.run(lambda: gathering.facts(step))
    done = await writer.write(lambda appending: _mend_day(appending, step.project_key, day))
    if done is None:
        raise _was_replaced(path)
    return done


async def _rebuild_month(writer: Writer, step: Step, zone: ZoneInfo, only: Declared | None = None) -> _Done:
    done = await _write(writer, _mend_month, step, zone, only)
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
            teach_values(self._database)
        self._newest = _Newest()
        self._project_key: int | None = None
        self._only: Declared | None = None
        self._dimensions: defaultdict[int, list[Declared]] = defaultdict(list)

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
            self._make_tables()
            with database.transaction("BEGIN"):
                names = database.all("project_names", name=project)
                zone = projection_zone(database)
                wanted = {key for key, _ in names}
                for key, *declared in database.all("live_dimensions"):
                    if key in wanted:
                        self._dimensions[key].append(Declared(*declared))
                if project is not None and names:
                    self._project_key = names[0][0]
                self._gather()
                todo: list[Step] = []
                for key, name in names:
                    days = [(QUARTERS, day) for (day,) in database.all("gathered_days", project_key=key)]
                    todo += steps(key, name, [*days, *_periods(database, key, 0)], zone)
        return _Plan(zone, [key for key, _ in names], todo)

    def begin_dimension(self, project: str, building: _Building) -> tuple[_Zones, list[tuple[ZoneInfo, Step]]]:
        """The same for one dimension: zones, and what has to be done, each step in one of them."""
        database = self._database
        with driver_errors(self._path):
            self._make_tables()
            with database.transaction("BEGIN"):
                zones = _Zones(projection_zone(database), next_zone(database))
                self._project_key = key = building.project_key
                self._only = building.dimension
                self._dimensions[key].append(building.dimension)
                self._gather()
                days = [(QUARTERS, day) for (day,) in database.all("gathered_days", project_key=key)]
        todo = [(zones.present, step) for step in steps(key, project, days, zones.present)]
        if zones.following is not None:
            months = [step for step in steps(key, project, days, zones.following) if step.grain == MONTH]
            todo += [(zones.following, step) for step in months]
        return zones, todo

    def _make_tables(self) -> None:
        self._database.run("make_gathered")
        self._database.run("make_gathered_values")

    def _gather(self) -> None:
        if not _is_still_there(self._database, self._newest):
            raise _was_replaced(self._path)
        found = self._database.first("newest_event")
        if found is None or found[0] == self._newest.event_key:
            return
        newest = _Newest(*found)
        bounds = {"event_key": self._newest.event_key, "up_to": newest.event_key}
        if self._only is None:
            self._database.run("gather", project_key=self._project_key, **bounds)
        for key, declared in self._dimensions.items():
            for dimension in declared:
                self._database.run("gather_values", project_key=key, **dimension._asdict(), **bounds)
        self._newest = newest

    def facts(self, step: Step) -> _Day:
        """The events of a day."""
        database = self._database
        with driver_errors(self._path):
            with database.transaction("BEGIN"):
                self._gather()
            facts = DayFacts(step.period)
            first = step.period * QUARTERS_A_DAY
            bounds = {"project_key": step.project_key, "first": first, "after": first + QUARTERS_A_DAY}
            for quarter, type_key, users in database.all("gathered_day", **bounds):
                facts.add(quarter, type_key, _decode_users(users))
            values = {
                dimension: [
                    (quarter, type_key, value, _decode_users(users))
                    for quarter, type_key, value, users in database.all(
                        "gathered_values_of_day", dimension_key=dimension.dimension_key, **bounds
                    )
                ]
                for dimension in self._dimensions[step.project_key]
            }
        return _Day(facts, values, self._newest, self._only)


# In the writer's transaction


def _is_still_there(database: Database, newest: _Newest) -> bool:
    """Whether the events up to this one are those that were gathered."""
    return not newest.event_key or database.first("event_id", event_key=newest.event_key) == (newest.event_id,)


def _delete_strays(database: Database, project_key: int) -> int:
    return database.run("delete_strays", project_key=project_key, **stray_bounds())


def _mend_day(appending: Appending, project_key: int, day: _Day) -> _Done | None:
    """Mend the rows of a UTC day; None, and nothing is done, when the events are not those that were gathered."""
    database, facts = appending.database, day.facts
    if not _is_still_there(database, day.newest):
        return None
    (later,) = database.first(
        "events_since",
        event_key=day.newest.event_key,
        project_key=project_key,
        start_us=facts.day * _DAY_US,
        end_us=(facts.day + 1) * _DAY_US,
        with_properties=bool(day.values),
    )
    events = _decode_facts(later)
    if day.only is None:
        for quarter, type_key, user, _ in events:
            facts.add(quarter, type_key, (user,))
    counted = facts.events
    made = []
    for dimension, values in day.values.items():
        if not appending.combining.is_live(project_key, dimension):
            continue
        read = properties_reader([dimension.name])
        texts = [canonical(read(properties)[0]) for *_, properties in events]
        values = [
            *values,
            *((*event[:2], text or TOO_MUCH, [event[2]]) for event, text in zip(events, texts, strict=True)),
        ]
        keys = appending.combining.find_or_give(
            project_key, dimension, {(kind, None if value == TOO_MUCH else value) for _, kind, value, _ in values}
        )
        if keys is not None:
            made.append(dimension)
            for quarter, type_key, value, users in values:
                facts.add(quarter, keys[type_key, value], users)
                counted += len(users) if day.only else 0
    _leave_out_deltas(database, project_key, facts)
    is_meant = _meant(database, project_key, made, day.only)
    stored = _rows(database, project_key, QUARTERS, range(facts.day, facts.day + 1))
    mending = mend(facts.rows(), [row for row in stored if is_meant(row[0].type_key)])
    return _Done(counted, _mend(database, project_key, mending))


def _meant(
    database: Database, project_key: int, made: Sequence[Declared], only: Declared | None
) -> Callable[[int], bool]:
    """Which rows a step is about: those of one dimension, or all but those of dimensions that were not gathered."""
    own = {one.key for dimension in made for one in combinations_of(database, dimension.dimension_key)}
    if only is not None:
        return own.__contains__
    others = live_combinations(database, project_key) - own
    return lambda key: key not in others


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


def _every(key: int) -> bool:
    return True


def _mend_month(database: Database, step: Step, zone: ZoneInfo, only: Declared | None) -> _Done | None:
    """Mend the rows of a local month and its days; None, and nothing is done, when nobody wants them in this zone."""
    shift = _shift(database, zone)
    if shift is None:
        return None
    is_meant = _every if only is None else _meant(database, step.project_key, [only], only)
    parts = MonthParts(zone, step.period, shift)
    try:
        for _, day, type_key, _, _, users in _whole_rows(database, step.project_key, QUARTERS, parts.utc_days):
            if type_key != ANY_TYPE and is_meant(type_key):
                parts.add(day, type_key, users)
    except BrokenRow:
        return _Done(0, None)
    stored = [
        *_rows(database, step.project_key, DAY + shift, parts.days),
        *_rows(database, step.project_key, MONTH + shift, range(step.period, step.period + 1)),
    ]
    mending = mend(parts.rows(), [row for row in stored if is_meant(row[0].type_key)])
    return _Done(0, _mend(database, step.project_key, mending))


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
