"""The projection: activity folded into roaring bitmaps, which answer any range in milliseconds and exactly.

A store appends what happened as deltas, and now and then *folds* them: takes them away and adds them, in the same
transaction, to rows of users and counts. A *row* belongs to a project, a grain, a period of that grain, and an event
type, or any type, or a combination (see `eventcore.dimensions`):

* `QUARTERS`: a UTC day, its 15-minute quarters packed together: for every time zone;
* `DAY` and `MONTH`: a local day and month of the projection's own zone, united: for the zone that is asked for most.

A day or month is kept only where it is *plain*: one interval, on quarters; for others the quarters answer. A question
is taken apart into rows (`pieces`), which are read in one snapshot with the deltas that are not folded yet. Not here:
reading and writing rows, which each store does, answering from them (`bitmaps`), and making them anew (`rebuilding`).
"""

import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from functools import lru_cache
from itertools import chain, pairwise
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from pyroaring import BitMap

from eventcore.calendar import EPOCH, LATEST_DATE, QUARTER_US, day_spans, local_date, on_quarters

QUARTERS: Final = 0
DAY: Final = 1
MONTH: Final = 2
NEXT: Final = 2
"""Added to `DAY` and `MONTH`: rows of the zone that the projection is going over to. Folds keep them, nobody asks."""
ANY_TYPE: Final = -1
"""Stands for the type in rows that unite all types; real type keys are 0 and more."""
COMBINATIONS_FROM: Final = 1_048_576
"""From here on a key is not that of a type but that of a combination. An event of a type is counted there already, so
these are never united with rows of types. SQL has the same number, spelled out."""

QUARTERS_A_DAY: Final = 96
FIRST_MONTH: Final = 2 * 12
"""The calendar knows local days from 0002-01-01 on."""
LAST_MONTH: Final = LATEST_DATE.year * 12 + LATEST_DATE.month - 1
"""And up to here."""

_HEAD: Final = struct.Struct("<BQI")  # quarter of the day, events, bytes of the bitmap that follows
_CACHED_MONTHS: Final = 16_384  # 0.5 KB each


class Group(NamedTuple):
    """Distinct users and the number of events of one row, or of one quarter of it.

    Attributes:
        users: their 32-bit keys; not to be changed by whoever gets it.
        events: how many events.
    """

    users: BitMap
    events: int


class Key(NamedTuple):
    """Which row of a project.

    Attributes:
        grain: `QUARTERS`, `DAY` or `MONTH`, the last two perhaps with `NEXT`.
        period: days since 1970-01-01, of UTC or local; of a month, twelve times the year, and 0 for January.
        type_key: of the event type, or `ANY_TYPE`, or of a combination.
    """

    grain: int
    period: int
    type_key: int


def holders(type_key: int) -> tuple[int, ...]:
    """Which rows of a period hold a fact of this type or combination."""
    return (type_key, ANY_TYPE) if type_key < COMBINATIONS_FROM else (type_key,)


class Piece(NamedTuple):
    """A part of a question that rows of one period answer.

    Attributes:
        grain, period: of the rows.
        first, last: the quarters of the UTC day that count, from 0, the last one included; of `QUARTERS` only.
    """

    grain: int
    period: int
    first: int = 0
    last: int = QUARTERS_A_DAY - 1


class _Month(NamedTuple):
    """A local month; its times are quarters since 1970.

    Attributes:
        bounds: its start and end, None where it is not plain.
        end: the quarter in which its last instant lies, or the one behind.
        first_day: the number of its first day.
        days: the start and end of each day, None where it is not plain.
    """

    bounds: tuple[int, int] | None
    end: int
    first_day: int
    days: tuple[tuple[int, int] | None, ...]


# Packing


class BrokenRow(Exception):
    """Bytes that nothing here has packed."""


def unpack_users(packed: bytes) -> BitMap:
    """The bitmap of a `DAY` or `MONTH` row, or of a quarter.

    Raises:
        BrokenRow: it is none.
    """
    try:
        return BitMap.deserialize(packed)
    except (ValueError, IndexError, TypeError) as error:
        raise BrokenRow from error


def pack_quarters(quarters: Mapping[int, Group]) -> bytes:
    """The bytes of a `QUARTERS` row; keys are quarters of the day."""
    parts = []
    for quarter in sorted(quarters):
        users, events = quarters[quarter]
        packed = users.serialize()
        parts += [_HEAD.pack(quarter, events, len(packed)), packed]
    return b"".join(parts)


def unpack_quarters(packed: bytes) -> dict[int, Group]:
    """What `pack_quarters` packed.

    Raises:
        BrokenRow: it did not pack this.
    """
    quarters = {}
    at = 0
    try:
        while at < len(packed):
            quarter, events, size = _HEAD.unpack_from(packed, at)
            at += _HEAD.size + size
            quarters[quarter] = Group(unpack_users(packed[at - size : at]), events)
    except (struct.error, TypeError) as error:
        raise BrokenRow from error
    if at != len(packed):
        raise BrokenRow
    return quarters


# Folding


class Fold:
    """Collects the facts of deltas, and says what each row becomes.

    Args:
        zone: the projection's own.
        next_zone: which it is going over to, None when it is to stay.
    """

    def __init__(self, zone: ZoneInfo, next_zone: ZoneInfo | None = None) -> None:
        self._zone = zone
        self._next_zone = next_zone
        self._users: defaultdict[tuple[int, int], list[int]] = defaultdict(list)

    def add(self, quarters: Iterable[int], type_keys: Iterable[int], users: Iterable[int]) -> None:
        """Facts side by side, one event each; quarters since 1970."""
        found = self._users
        for group, user in zip(zip(quarters, type_keys, strict=True), users, strict=True):
            found[group].append(user)

    def add_group(self, quarter: int, type_key: int, users: Sequence[int]) -> None:
        """Events of one quarter and type; a user as often as there are events of his."""
        self._users[quarter, type_key] += users

    def changes(self) -> dict[Key, "Change"]:
        """What has to be added to which rows; the facts are given away with it."""
        changes: defaultdict[tuple[int, int, int], Change] = defaultdict(Change)
        by_quarter: defaultdict[int, list[tuple[int, list[int]]]] = defaultdict(list)
        while self._users:
            (quarter, type_key), users = self._users.popitem()
            by_quarter[quarter].append((type_key, users))
        for quarter, found in by_quarter.items():
            day, quarter_of_day = divmod(quarter, QUARTERS_A_DAY)
            # Kept as lists: one bitmap of many users is made much faster than many bitmaps of few and their union.
            anyone = list(chain.from_iterable([users for type_key, users in found if type_key < COMBINATIONS_FROM]))
            for grain, period in ((QUARTERS, day), *self._places_of(quarter)):
                part = quarter_of_day if grain == QUARTERS else 0
                if anyone:
                    changes[grain, period, ANY_TYPE].add(part, anyone)
                for type_key, users in found:
                    changes[grain, period, type_key].add(part, users)
        return {Key(*place): change for place, change in changes.items()}

    def _places_of(self, quarter: int) -> list[tuple[int, int]]:
        """The local days and months that hold a quarter, of both zones."""
        places = places_of(quarter, self._zone)
        if self._next_zone is not None:
            places += [(grain + NEXT, period) for grain, period in places_of(quarter, self._next_zone)]
        return places


class Change:
    """What a fold adds to one row."""

    __slots__ = ("_parts", "events")

    def __init__(self) -> None:
        self._parts: defaultdict[int, list[int]] = defaultdict(list)
        self.events = 0

    def add(self, quarter_of_day: int, users: Sequence[int]) -> None:
        """Add events, each by its user; to rows of days and months always at 0."""
        self._parts[quarter_of_day] += users
        self.events += len(users)

    def onto(self, grain: int, stored: bytes | None) -> tuple[bytes, int | None]:
        """The row's bytes from now on, and how many distinct users it has; None for `QUARTERS`, which nobody asks.

        Args:
            grain: of the row.
            stored: its bytes until now, None where there is no such row.
        """
        if grain == QUARTERS:
            quarters = {} if stored is None else unpack_quarters(stored)
            for quarter, found in self._parts.items():
                known = quarters.get(quarter)
                users = BitMap(found)
                quarters[quarter] = (
                    Group(users, len(found)) if known is None else Group(users | known.users, len(found) + known.events)
                )
            return pack_quarters(quarters), None
        users = BitMap(self._parts[0])
        if stored is not None:
            users |= unpack_users(stored)
        return users.serialize(), len(users)


def united(groups: Sequence[Group]) -> Group:
    """The users of all groups, and the sum of their events."""
    if len(groups) == 1:
        return groups[0]
    return Group(BitMap.union(*[group.users for group in groups]), sum([group.events for group in groups]))


# Checking


class Checked:
    """Compares rows with each other: whether those that unite others hold what these hold.

    All rows of a project go in; holds about as much as they do.

    Args:
        zone: the projection's own.
    """

    def __init__(self, zone: ZoneInfo) -> None:
        self._zone = zone
        self._expected: defaultdict[Key, list[Group]] = defaultdict(list)
        self._found: dict[Key, Group] = {}
        self._damaged: set[Key] = set()

    def add(self, key: Key, events: int, packed: bytes) -> None:
        """A row as it is stored.

        Raises:
            BrokenRow: it cannot be read; it is among the differences.
        """
        try:
            self._add(key, events, packed)
        except BrokenRow:
            self._damaged.add(key)
            raise

    def _add(self, key: Key, events: int, packed: bytes) -> None:
        if key.grain != QUARTERS:
            self._found[key] = Group(unpack_users(packed), events)
            return
        quarters = unpack_quarters(packed)
        if not quarters:
            raise BrokenRow
        whole = united(list(quarters.values()))
        self._found[key] = Group(whole.users, events)
        if key.type_key == ANY_TYPE:
            return
        for type_key in holders(key.type_key):
            self._expect(key._replace(type_key=type_key), whole)
        by_place: defaultdict[tuple[int, int], list[Group]] = defaultdict(list)
        for quarter, group in quarters.items():
            for place in places_of(key.period * QUARTERS_A_DAY + quarter, self._zone):
                by_place[place].append(group)
        for place, groups in by_place.items():
            part = united(groups)
            for type_key in holders(key.type_key):
                self._expect(Key(*place, type_key), part)

    def _expect(self, key: Key, group: Group) -> None:
        known = self._expected[key]
        known[:] = [united([*known, group])]

    def differences(self) -> Iterator[str]:
        """One sentence for each row that is not what the others make it."""
        for key in sorted({*self._found, *self._expected, *self._damaged}):
            expected = united(self._expected[key]) if key in self._expected else None
            if key in self._found and expected == self._found[key]:
                continue
            kind = "all types" if key.type_key == ANY_TYPE else f"type key {key.type_key}"
            if key.type_key >= COMBINATIONS_FROM:
                kind = f"combination {key.type_key}"
            place = (f"the UTC day {key.period}", f"the local day {key.period}", f"the local month {key.period}")
            what = "is damaged" if key in self._damaged else "is not what its parts make it"
            yield f"the projection's row for {place[key.grain]} (since 1970) and {kind} {what}"


# The calendar of the projection's zone


def places_of(quarter: int, zone: ZoneInfo) -> list[tuple[int, int]]:
    """The local day and month that hold a quarter, as grain and period, as far as they are plain."""
    try:
        day = local_date(quarter * QUARTER_US, zone)
    except ValueError:  # beyond the calendar: the quarters hold it all the same
        return []
    number = day.year * 12 + day.month - 1
    if not FIRST_MONTH <= number <= LAST_MONTH:
        return []
    month = _month(zone, number)
    found = []
    if month.days[_day_number(day) - month.first_day] is not None:
        found.append((DAY, _day_number(day)))
    if month.bounds is not None:
        found.append((MONTH, number))
    return found


def pieces(start: int, end: int, zone: ZoneInfo) -> Iterator[Piece]:
    """Take a stretch of time apart into as few rows as there are: months, days, and quarters for the rest.

    Args:
        start: the first quarter since 1970.
        end: the quarter behind the last one.
        zone: the projection's own.
    """
    while start < end:
        start, piece = _next_piece(start, end, zone)
        yield piece


def _next_piece(start: int, end: int, zone: ZoneInfo) -> tuple[int, Piece]:
    """The largest piece that begins at ``start``, and where it ends."""
    found = dict(places_of(start, zone))
    if DAY in found:
        month = _month_at(start, zone)
        if month.bounds is not None and month.bounds[0] == start and month.bounds[1] <= end:
            return month.bounds[1], Piece(MONTH, found[MONTH])
        bounds = month.days[found[DAY] - month.first_day]
        assert bounds is not None, "a place is a plain day"
        if bounds[0] == start and bounds[1] <= end:
            return bounds[1], Piece(DAY, found[DAY])
        end = min(end, bounds[1])  # from where on whole days may follow
    utc_day, first = divmod(start, QUARTERS_A_DAY)
    after = min(end, (utc_day + 1) * QUARTERS_A_DAY)
    if not found:
        after = min(after, _next_plain_day(start, zone))
    return after, Piece(QUARTERS, utc_day, first, after - 1 - utc_day * QUARTERS_A_DAY)


def _next_plain_day(quarter: int, zone: ZoneInfo) -> int:
    """A quarter behind this one before which no plain day begins."""
    try:
        month = _month_at(quarter, zone)
    except ValueError:
        return quarter + 1
    starts = [bounds[0] for bounds in month.days if bounds is not None and bounds[0] > quarter]
    return min(starts, default=max(quarter + 1, month.end))


def _month_at(quarter: int, zone: ZoneInfo) -> _Month:
    day = local_date(quarter * QUARTER_US, zone)
    return _month(zone, day.year * 12 + day.month - 1)


@lru_cache(maxsize=_CACHED_MONTHS)
def _month(zone: ZoneInfo, number: int) -> _Month:
    year, month = divmod(number, 12)
    first = date(year, month + 1, 1)
    last_number = _day_number(date(year + (month == 11), (month + 1) % 12 + 1, 1)) - 1
    last = date.fromordinal(last_number + EPOCH.toordinal())
    spans = day_spans(zone, first, last)
    days = tuple(
        (span[0][0] // QUARTER_US, span[0][1] // QUARTER_US) if len(span) == 1 and on_quarters(span) else None
        for span in spans
    )
    bounds = None
    if all(day is not None for day in days) and all(
        one is not None and other is not None and one[1] == other[0] for one, other in pairwise(days)
    ):
        assert days[0] is not None
        assert days[-1] is not None
        bounds = (days[0][0], days[-1][1])
    end = max(span[-1][1] for span in spans if span) // QUARTER_US
    return _Month(bounds, end, _day_number(first), days)


def _day_number(day: date) -> int:
    return day.toordinal() - EPOCH.toordinal()
