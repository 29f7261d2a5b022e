"""The projection made anew: which rows there have to be, and which of the stored ones are not so.

It goes in steps, each a transaction of its own. First each UTC day: its `QUARTERS` rows are what its events say, less
what waits in deltas to be folded (`DayFacts`). Then each local month: its row and those of its days are what the
`QUARTERS` rows say (`MonthParts`). A step changes only rows that are wrong, and no step relies on what a later one
makes. So where all rows were right, all stay right at every commit; and after the last step all are right, whatever
they were. Not here: reading and writing rows, which each store does.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from pyroaring import BitMap

from eventcore.calendar import EPOCH, QUARTER_US, UnknownZone, find_zone, local_date
from eventcore.errors import Kind, StoreError
from eventcore.projection import (
    ANY_TYPE,
    COMBINATIONS_FROM,
    DAY,
    FIRST_MONTH,
    LAST_MONTH,
    MONTH,
    QUARTERS,
    QUARTERS_A_DAY,
    BrokenRow,
    Group,
    Key,
    holders,
    pack_quarters,
    places_of,
    united,
    unpack_quarters,
    unpack_users,
)

Content = Mapping[int, Group]
"""What a row holds: groups by quarter of the day; of days and months one group, at 0."""


def _number_of(day: date) -> int:
    return day.toordinal() - EPOCH.toordinal()


def _first_day(month: int) -> int:
    return _number_of(date(month // 12, month % 12 + 1, 1))


KNOWN: Final[Mapping[int, range]] = {
    QUARTERS: range(_number_of(date.max) + 1),
    DAY: range(_first_day(FIRST_MONTH), _first_day(LAST_MONTH + 1)),
    MONTH: range(FIRST_MONTH, LAST_MONTH + 1),
}
"""The periods of which there may be rows, by grain; rows of others are only there by mistake."""


class Packed(NamedTuple):
    """A row as it lies in a store.

    Attributes:
        events: how many.
        distinct_users: how many; None for `QUARTERS`.
        users: the bytes.
    """

    events: int
    distinct_users: int | None
    users: bytes


class DayFacts:
    """What happened in a UTC day, as far as it is folded: its events, less those that wait to be folded.

    Args:
        day: since 1970-01-01.
    """

    def __init__(self, day: int) -> None:
        self.day = day
        self._first = day * QUARTERS_A_DAY
        self._users: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        self._waiting: defaultdict[tuple[int, int], list[int]] = defaultdict(list)

    def add(self, quarter: int, type_key: int, users: Iterable[int]) -> None:
        """Events of one quarter (since 1970) of the day and of one type; a user as often as there are events of his."""
        self._users[quarter - self._first, type_key].extend(users)

    @property
    def events(self) -> int:
        """How many events there are, those that wait included."""
        return sum([len(users) for (_, key), users in self._users.items() if key < COMBINATIONS_FROM])

    def leave_out(self, quarter: int, type_key: int, users: Iterable[int]) -> None:
        """The same of a delta: they are among the events, and will be folded."""
        self._waiting[quarter - self._first, type_key].extend(users)

    def leave_out_delta(self, quarters: Sequence[int], type_keys: Sequence[int], users: Sequence[int]) -> None:
        """Facts of a delta side by side, one event each, of any days."""
        last = self._first + QUARTERS_A_DAY - 1
        if not quarters or max(quarters) < self._first or min(quarters) > last:
            return
        for quarter, type_key, user in zip(quarters, type_keys, users, strict=True):
            if self._first <= quarter <= last:
                self._waiting[quarter - self._first, type_key].append(user)

    def rows(self) -> dict[Key, Content]:
        """What its `QUARTERS` rows have to be."""
        of_types: defaultdict[int, dict[int, Group]] = defaultdict(dict)
        of_all: defaultdict[int, list[Group]] = defaultdict(list)
        for (quarter, type_key), found in self._users.items():
            users = _less(found, self._waiting.get((quarter, type_key)))
            if users:
                group = Group(BitMap(users), len(users))
                of_types[type_key][quarter] = group
                if type_key < COMBINATIONS_FROM:
                    of_all[quarter].append(group)
        if of_all:
            of_types[ANY_TYPE] = {quarter: united(groups) for quarter, groups in of_all.items()}
        return {Key(QUARTERS, self.day, type_key): content for type_key, content in of_types.items()}


def _less(users: list[int], waiting: list[int] | None) -> list[int]:
    """Users without those that wait, each as often as it is in both."""
    if not waiting:
        return users
    left = Counter(users)
    left.subtract(waiting)
    return list(left.elements())


class MonthParts:
    """The rows of a local month and of its days, put together from `QUARTERS` rows.

    Attributes:
        utc_days: the UTC days whose rows may have a part in it.
        days: its days, since 1970-01-01.

    Args:
        zone: whose month.
        month: twelve times the year, and 0 for January.
        shift: `NEXT` for rows of the zone that the projection is going over to, else 0.
    """

    def __init__(self, zone: ZoneInfo, month: int, shift: int) -> None:
        self._zone = zone
        self._shift = shift
        self.days = range(_first_day(month), _first_day(month + 1))
        self.utc_days = range(self.days.start - 1, self.days.stop + 1)  # no clock is a day ahead or behind
        self._periods = {DAY: self.days, MONTH: range(month, month + 1)}
        self._places: dict[int, list[tuple[int, int]]] = {}
        self._parts: defaultdict[Key, list[Group]] = defaultdict(list)

    def add(self, utc_day: int, type_key: int, packed: bytes) -> None:
        """A `QUARTERS` row of one type, as it is stored.

        Raises:
            BrokenRow: nobody can read it.
        """
        by_place: defaultdict[tuple[int, int], list[Group]] = defaultdict(list)
        for quarter, group in unpack_quarters(packed).items():
            for place in self._places_of(utc_day * QUARTERS_A_DAY + quarter):
                by_place[place].append(group)
        for (grain, period), groups in by_place.items():
            part = united(groups)
            for kind in holders(type_key):
                self._parts[Key(grain + self._shift, period, kind)].append(part)

    def _places_of(self, quarter: int) -> list[tuple[int, int]]:
        found = self._places.get(quarter)
        if found is None:
            found = self._places[quarter] = [
                place for place in places_of(quarter, self._zone) if place[1] in self._periods[place[0]]
            ]
        return found

    def rows(self) -> dict[Key, Content]:
        """What the rows of the month and its days have to be."""
        return {key: {0: united(parts)} for key, parts in self._parts.items()}


class Mending(NamedTuple):
    """What has to be done to rows.

    Attributes:
        put: these have to be so.
        delete: these must not be there.
    """

    put: list[tuple[Key, Packed]]
    delete: list[Key]

    @property
    def keys(self) -> list[Key]:
        """Which rows are not the same afterwards."""
        return [*(key for key, _ in self.put), *self.delete]


def mend(wanted: Mapping[Key, Content], stored: Iterable[tuple[Key, Packed]]) -> Mending:
    """Compare rows by what they hold, because one bitmap may be spelled in several ways.

    Args:
        wanted: all rows that there have to be of some periods.
        stored: all rows that there are of them.
    """
    found = dict(stored)
    put = [
        (key, _pack(key.grain, content))
        for key, content in wanted.items()
        if key not in found or not _is_so(key.grain, content, found[key])
    ]
    return Mending(put, [key for key in found if key not in wanted])


def _is_so(grain: int, content: Content, row: Packed) -> bool:
    try:
        found = unpack_quarters(row.users) if grain == QUARTERS else {0: Group(unpack_users(row.users), row.events)}
    except BrokenRow:
        return False
    return found == content and row[:2] == _numbers(grain, content)


def _pack(grain: int, content: Content) -> Packed:
    users = pack_quarters(content) if grain == QUARTERS else content[0].users.serialize()
    return Packed(*_numbers(grain, content), users)


def _numbers(grain: int, content: Content) -> tuple[int, int | None]:
    events = sum([group.events for group in content.values()])
    return events, None if grain == QUARTERS else len(content[0].users)


# What there is to do


class Step(NamedTuple):
    """One transaction of a rebuild.

    Attributes:
        project_key: whose rows.
        project: its name.
        grain: `QUARTERS` or `MONTH`.
        period: the UTC day, or the local month.
    """

    project_key: int
    project: str
    grain: int
    period: int

    @property
    def name(self) -> str:
        """The period, ``2026-03-01`` or ``2026-03``."""
        if self.grain == QUARTERS:
            return date.fromordinal(self.period + EPOCH.toordinal()).isoformat()
        return f"{self.period // 12:04}-{self.period % 12 + 1:02}"


def steps(project_key: int, project: str, periods: Iterable[tuple[int, int]], zone: ZoneInfo) -> list[Step]:
    """What has to be done to make the projection of a project anew, in order.

    Args:
        project_key: whose.
        project: its name.
        periods: as grain and period: all that rows are there of, and the UTC days of all events as `QUARTERS`.
        zone: the projection's own.
    """
    known = {(grain, period) for grain, period in periods if grain in KNOWN and period in KNOWN[grain]}
    days = sorted(period for grain, period in known if grain == QUARTERS)
    return [
        *(Step(project_key, project, QUARTERS, day) for day in days),
        *(Step(project_key, project, MONTH, month) for month in months_of(known, zone)),
    ]


def months_of(periods: Iterable[tuple[int, int]], zone: ZoneInfo) -> list[int]:
    """The local months in which any of these periods, as grain and period, has a part, in order."""
    found = {month for grain, period in periods for month in _months_of(grain, period, zone)}
    return sorted(month for month in found if month in KNOWN[MONTH])


def _months_of(grain: int, period: int, zone: ZoneInfo) -> Iterator[int]:
    if grain == MONTH:
        yield period
    elif grain == DAY:
        yield _month_of(date.fromordinal(period + EPOCH.toordinal()))
    else:
        for quarter in (period * QUARTERS_A_DAY, (period + 1) * QUARTERS_A_DAY - 1):
            try:
                yield _month_of(local_date(quarter * QUARTER_US, zone))
            except ValueError:  # beyond the calendar there are no months
                continue


def _month_of(day: date) -> int:
    return day.year * 12 + day.month - 1


def stray_bounds() -> dict[str, int]:
    """Outside of which periods rows are there by mistake, for a statement that deletes them."""
    return {
        "last_utc_day": KNOWN[QUARTERS][-1],
        "first_day": KNOWN[DAY][0],
        "last_day": KNOWN[DAY][-1],
        "first_month": KNOWN[MONTH][0],
        "last_month": KNOWN[MONTH][-1],
    }


# What can go wrong


def known_zone(name: str) -> ZoneInfo:
    """The zone of that name.

    Raises:
        StoreError: there is none.
    """
    try:
        return find_zone(name)
    except UnknownZone as error:
        raise StoreError(Kind.INVALID, "unknown_zone", str(error), field="zone") from error


def zone_has_changed() -> StoreError:
    """The error where somebody else has changed the projection's zone meanwhile."""
    return StoreError(
        Kind.UNAVAILABLE,
        "zone_changed",
        "another rebuild has begun to change the projection's zone, or has done so; run the command again",
    )


def cannot_be_read(project: str) -> StoreError:
    """The error where days of a new zone cannot be put together."""
    return StoreError(
        Kind.UNAVAILABLE,
        "damaged",
        f"the projection of project {project} has rows that cannot be read: run `eventcore rebuild` first",
    )


GONE: Final = "events are gone or about to expire, and what is counted of them is all that is left"
"""Why a UTC day stays as it is."""

UNREADABLE: Final = "counts of a UTC day in it cannot be read, and events of that day are gone"
"""Why a month stays as it is."""
