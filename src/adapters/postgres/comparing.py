"""Do events and activity agree? The server gives both in order, and they are compared a UTC day at a time.

Two things are looked at: whether the projection's quarters of an hour, with what waits to be folded, tell of the very
events that are stored; and whether its other rows, days and months and those of all types, are what these quarters make
of them. Memory is that of a few months of rows. Not here: the other tables (`verifying`).
"""

import asyncio
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple

from pyroaring import BitMap

from adapters.postgres.connections import Session
from adapters.postgres.dimensions import combinations_of, ready
from adapters.postgres.keys import Declared
from adapters.postgres.rows import unpack
from eventcore.calendar import EPOCH, QUARTER_US, find_zone
from eventcore.conditions import properties_reader
from eventcore.dimensions import canonical
from eventcore.projection import (
    ANY_TYPE,
    COMBINATIONS_FROM,
    DAY,
    MONTH,
    QUARTERS,
    QUARTERS_A_DAY,
    BrokenRow,
    Group,
    Key,
    holders,
    places_of,
    united,
    unpack_quarters,
    unpack_users,
)

_ROWS_AT_ONCE = 500
_END = sys.maxsize
_LAST_DAYS = date.max.toordinal() - EPOCH.toordinal()
_NO_COMBINATION = COMBINATIONS_FROM - 1
"""In place of the key, for a value that has none."""

_NO_GROUP = Group(BitMap(), 0)


class Difference(NamedTuple):
    """Something that does not agree.

    Attributes:
        project_key: whose.
        kind: ``activity`` where it tells of other events than are stored, ``projection`` where it contradicts itself.
        sentence: for people.
    """

    project_key: int
    kind: str
    sentence: str


class _Place(NamedTuple):
    """A project, and in it a UTC day, or a local day or month."""

    project_key: int
    period: int


class _Row(NamedTuple):
    """Of the projection, as the statement ``folded`` gives them."""

    project_key: int
    period: int
    type_key: int
    events: int
    users: bytes
    distinct_users: int | None


class _Stream:
    """The rows of a statement, in the order of their places.

    Args:
        rows: as the server gives them, project and period first.
        width: how many of their periods are one of ours.
    """

    def __init__(self, rows: AsyncIterator[Sequence[Any]], width: int = 1) -> None:
        self._rows = rows
        self._width = width
        self._next: list[Any] = []

    async def place(self) -> _Place | None:
        """Of the next row, None when there is none."""
        if not self._next:
            self._next = [*(await anext(self._rows, None) or ())][::-1]
        if not self._next:
            return None
        project_key, period, *_ = self._next[-1]
        return _Place(project_key, period // self._width)

    async def up_to(self, last: _Place) -> list[Any]:
        """The next rows, up to this place."""
        found = []
        while (place := await self.place()) is not None and place <= last:
            found.append(self._next.pop())
        return found


async def disagreements(session: Session, project_keys: Sequence[int], since_us: int) -> AsyncIterator[Difference]:
    """Where events and activity of these projects do not agree, or activity not with itself.

    Args:
        session: in a snapshot.
        project_keys: of which projects.
        since_us: events before it may be gone; at a quarter of an hour.
    """
    dimensions = {project_key: await _read_dimensions(session, project_key) for project_key in project_keys}
    comparison = _Comparison((await session.first("setting", key="projection_zone"))[0], since_us // QUARTER_US)
    happened = session.scan("happened", rows=_ROWS_AT_ONCE, project_keys=project_keys, since=since_us)
    waiting = session.scan("waiting", rows=_ROWS_AT_ONCE, project_keys=project_keys)
    quarters, days, months = (
        _Stream(session.scan("folded", rows=_ROWS_AT_ONCE, project_keys=project_keys, grain=grain))
        for grain in (QUARTERS, DAY, MONTH)
    )
    streams = (_Stream(happened, QUARTERS_A_DAY), _Stream(waiting, QUARTERS_A_DAY), quarters)
    place = await _first_place(streams)
    while place is not None:
        rows = [await stream.up_to(place) for stream in streams]
        known = dimensions[place.project_key]
        values = await _read_values(session, place, known)
        for difference in await asyncio.to_thread(comparison.compare_day, place, rows, values, known):
            yield difference
        following = await _first_place(streams)
        is_last = following is None or following.project_key != place.project_key
        # A local day may reach into the UTC days beside it.
        final = place._replace(period=_END if is_last else place.period - 1)
        stored = {
            grain: [row for row in await stream.up_to(last) if _Row(*row).type_key not in known.parts]
            for grain, stream, last in ((DAY, days, final), (MONTH, months, _before_month_of(final)))
        }
        for difference in await asyncio.to_thread(comparison.compare_periods, final, stored):
            yield difference
        place = following
    everything = _Place(_END, _END)
    for grain, stream in ((DAY, days), (MONTH, months)):
        for row in map(_Row._make, await stream.up_to(everything)):
            if row.project_key not in dimensions or row.type_key not in dimensions[row.project_key].parts:
                yield _surplus(grain, row)


class _Dimensions(NamedTuple):
    """What there is of a project's.

    Attributes:
        declared: those whose facts are all there.
        keys: for each of them the keys of its combinations, by type and value.
        whole: all these keys.
        parts: keys of others, of which only a part is there, or something left of it.
    """

    declared: Sequence[Declared]
    keys: Sequence[Mapping[tuple[int, str | None], int]]
    whole: frozenset[int]
    parts: frozenset[int]


async def _read_dimensions(session: Session, project_key: int) -> _Dimensions:
    declared = list((await ready(session, project_key)).values())
    keys: list[Mapping[tuple[int, str | None], int]] = [
        {(one.type_key, one.value): one.key for one in await combinations_of(session, dimension)}
        for dimension in declared
    ]
    whole = frozenset([key for found in keys for key in found.values()])
    known = [key for (key,) in await session.rows("combination_keys", project_key=project_key)]
    return _Dimensions(declared, keys, whole, frozenset(known) - whole)


async def _read_values(session: Session, day: _Place, dimensions: _Dimensions) -> Mapping[tuple[int, int], list[int]]:
    """The users of the facts that the events of a UTC day make for dimensions, by quarter and combination."""
    users: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    if dimensions.declared and 0 <= day.period < _LAST_DAYS:
        read = properties_reader([dimension.name for dimension in dimensions.declared])
        first = day.period * QUARTERS_A_DAY
        async for rows in session.scan(
            "values_of_day",
            rows=_ROWS_AT_ONCE,
            project_key=day.project_key,
            start=first * QUARTER_US,
            end=(first + QUARTERS_A_DAY) * QUARTER_US,
            first=first,
            after=first + QUARTERS_A_DAY,
        ):
            for quarter, type_key, packed, properties in rows:
                if properties is not None:
                    for keys, raw in zip(dimensions.keys, read(properties), strict=True):
                        users[quarter, keys.get((type_key, canonical(raw)), _NO_COMBINATION)].extend(unpack(packed))
    return users


async def _first_place(streams: Sequence[_Stream]) -> _Place | None:
    places = [await stream.place() for stream in streams]
    return min((place for place in places if place is not None), default=None)


def _before_month_of(day: _Place) -> _Place:
    if day.period == _END:
        return day
    found = _date_of(day.period)
    return day._replace(period=found.year * 12 + found.month - 2)


def _date_of(day: int) -> date:
    """The nearest one of the calendar; a row may claim to be of any day."""
    return date.fromordinal(min(max(day + EPOCH.toordinal(), date.min.toordinal()), date.max.toordinal()))


class _Comparison:
    """What was read, as far as it is needed later.

    Args:
        zone_name: of the projection.
        since: the first quarter whose events are all there.
    """

    def __init__(self, zone_name: str, since: int) -> None:
        self._zone = find_zone(zone_name)
        self._since = since
        self._expected: defaultdict[tuple[int, Key], list[Group]] = defaultdict(list)

    def compare_day(
        self,
        place: _Place,
        rows: Sequence[Sequence[Any]],
        values: Mapping[tuple[int, int], list[int]],
        dimensions: _Dimensions,
    ) -> list[Difference]:
        """Compare the events of a UTC day with its activity, and this with its rows of all types.

        Args:
            place: project and day.
            rows: what happened, what waits and what is folded.
            values: what happened to dimensions.
            dimensions: of the project.
        """
        happened, waiting, folded = rows
        found: list[Difference] = []
        stored = {(quarter, kind): _group(users) for _, quarter, kind, users in happened}
        stored |= {at: Group(BitMap(users), len(users)) for at, users in values.items()}
        told: defaultdict[tuple[int, int], list[Group]] = defaultdict(list)
        of_all: defaultdict[int, list[Group]] = defaultdict(list)
        any_type: Mapping[int, Group] = {}
        for row in (_Row(*columns) for columns in folded):
            if row.type_key in dimensions.parts:
                continue
            try:
                quarters = unpack_quarters(row.users)
            except BrokenRow:
                found.append(_unreadable(QUARTERS, row))
                continue
            if row.events != sum([group.events for group in quarters.values()]):
                found.append(_wrong(QUARTERS, row.project_key, _key_of(QUARTERS, row)))
            if row.type_key == ANY_TYPE:
                any_type = quarters
                continue
            for number, group in quarters.items():
                quarter = place.period * QUARTERS_A_DAY + number
                told[quarter, row.type_key].append(group)
                if row.type_key < COMBINATIONS_FROM:
                    of_all[number].append(group)
                self._expect(place.project_key, quarter, row.type_key, group)
        if any_type != {number: united(groups) for number, groups in of_all.items()}:
            found.append(_wrong(QUARTERS, place.project_key, Key(QUARTERS, place.period, ANY_TYPE)))
        for _, quarter, kind, users in waiting:
            if kind >= COMBINATIONS_FROM and kind not in dimensions.whole:
                continue
            told[quarter, kind].append(_group(users))
        return [*found, *self._compare(place, stored, {at: united(groups) for at, groups in told.items()})]

    def _expect(self, project_key: int, quarter: int, type_key: int, group: Group) -> None:
        for grain, period in places_of(quarter, self._zone):
            for kind in holders(type_key):
                self._expected[project_key, Key(grain, period, kind)].append(group)

    def _compare(
        self, place: _Place, stored: Mapping[tuple[int, int], Group], told: Mapping[tuple[int, int], Group]
    ) -> Iterator[Difference]:
        day = _date_of(place.period).isoformat()
        wrong = {at for at in stored.keys() | told.keys() if at[0] >= self._since and stored.get(at) != told.get(at)}
        for kind in sorted({kind for _, kind in wrong}):
            first = min(quarter for quarter, other in wrong if other == kind)
            one, other = stored.get((first, kind), _NO_GROUP), told.get((first, kind), _NO_GROUP)
            more = len([at for at in wrong if at[1] == kind]) - 1
            yield Difference(
                place.project_key,
                "activity",
                f"{day}, {_kind(kind)}: in the quarter of an hour {first} there are {one.events} events of "
                f"{len(one.users)} users, activity says {other.events} of {len(other.users)}"
                + (" others" if (one.events, len(one.users)) == (other.events, len(other.users)) else "")
                + (f"; so with {more} more quarters" if more else ""),
            )

    def compare_periods(self, final: _Place, stored: Mapping[int, Sequence[Any]]) -> list[Difference]:
        """Compare the rows of days and months that no later quarter belongs to.

        Args:
            final: the project and the last such day.
            stored: rows of days up to it, and of months before its own, by grain.
        """
        last = {DAY: final.period, MONTH: _before_month_of(final).period}
        ready = [at for at in self._expected if at[1].period <= last[at[1].grain]]
        expected = {at: united(self._expected.pop(at)) for at in ready}
        found = []
        for grain, rows in stored.items():
            for row in (_Row(*columns) for columns in rows):
                wanted = expected.pop((row.project_key, _key_of(grain, row)), None)
                if wanted is None:
                    found.append(_surplus(grain, row))
                    continue
                try:
                    users = unpack_users(row.users)
                except BrokenRow:
                    found.append(_unreadable(grain, row))
                    continue
                if (users, row.events, row.distinct_users) != (*wanted, len(wanted.users)):
                    found.append(_wrong(grain, row.project_key, _key_of(grain, row)))
        return [*found, *(_wrong(key.grain, project_key, key) for project_key, key in expected)]


def _group(packed: bytes) -> Group:
    users = unpack(packed)
    return Group(BitMap(users), len(users))


def _key_of(grain: int, row: _Row) -> Key:
    return Key(grain, row.period, row.type_key)


def _wrong(grain: int, project_key: int, key: Key) -> Difference:
    return Difference(project_key, "projection", f"{_named(grain, key)} is not what its quarters of an hour say")


def _surplus(grain: int, row: _Row) -> Difference:
    named = _named(grain, _key_of(grain, row))
    return Difference(row.project_key, "projection", f"{named} has no quarters of an hour")


def _unreadable(grain: int, row: _Row) -> Difference:
    return Difference(row.project_key, "projection", f"{_named(grain, _key_of(grain, row))} cannot be read")


def _named(grain: int, key: Key) -> str:
    return f"the row of {('quarters of UTC day', 'day', 'month')[grain]} {key.period} and {_kind(key.type_key)}"


def _kind(type_key: int) -> str:
    if type_key == ANY_TYPE:
        return "all types"
    return f"type {type_key}" if type_key < _NO_COMBINATION else f"combination {type_key}"
