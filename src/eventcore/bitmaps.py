"""Questions answered from the rows of the projection, which are kept in memory within a bound.

A store asks a `Plan` which rows a question needs, reads those that `Kept` does not hold, has the plan tally them, and
adds the deltas that are not folded yet. What is kept belongs to a version of the project's projection; a newer version
says which rows changed. Not here: what rows are (`projection`), and SQL.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from eventcore.activity import BEFORE, ActivityQuery, Tallying
from eventcore.calendar import QUARTER_US
from eventcore.conditions import Selection
from eventcore.projection import (
    ANY_TYPE,
    QUARTERS,
    QUARTERS_A_DAY,
    Group,
    Key,
    Piece,
    pieces,
    united,
    unpack_quarters,
    unpack_users,
)

KEPT_BYTES: Final = 96 * 1024 * 1024
"""Rows kept in a process: 90 days of 10 million events of 500,000 users in six types take about 60 MB, all of them."""

_ROW_BYTES: Final = 400  # of a row with its objects, measured
_GROUP_BYTES: Final = 200  # of a group with its bitmap, beside what the bitmap holds

Period = tuple[int, int]
"""A grain and a period of it; see `eventcore.projection.Key`."""


class Row:
    """One row in memory.

    Args:
        grain: of the row.
        packed: as stored.
        events: how many events.
    """

    __slots__ = ("_quarters", "_unions", "_whole", "bytes")

    def __init__(self, grain: int, packed: bytes, events: int) -> None:
        self.bytes = len(packed) + _ROW_BYTES
        self._unions: dict[tuple[int, int], Group] = {}
        self._quarters: dict[int, Group] = {}
        self._whole: Group | None = None
        if grain == QUARTERS:
            self._quarters = unpack_quarters(packed)
            self.bytes += len(self._quarters) * _GROUP_BYTES
        else:
            self._whole = Group(unpack_users(packed), events)

    def group(self, first: int, last: int) -> Group | None:
        """What happened in these quarters of the day, or in all of a longer period; None when nothing did."""
        if self._whole is not None:
            return self._whole
        known = self._unions.get((first, last))
        if known is None:
            parts = [group for quarter, group in self._quarters.items() if first <= quarter <= last]
            if not parts:
                return None
            known = self._unions[first, last] = united(parts)
            self.bytes += len(known.users) * 2 + _GROUP_BYTES
        return known


class _Rows:
    """What is kept of one period."""

    __slots__ = ("complete", "known", "rows")

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.known: set[int] = set()  # types that were looked for, found or not
        self.complete = False  # all types were

    def lacks(self, wanted: "Wanted") -> bool:
        if wanted.any_type and ANY_TYPE not in self.known:
            return True
        if self.complete or wanted.type_keys == ():
            return False
        return wanted.type_keys is None or not self.known.issuperset(wanted.type_keys)


class Wanted(NamedTuple):
    """Which rows of each period a question needs.

    Attributes:
        any_type: those that unite all types.
        type_keys: those of these types, None for all types.
    """

    any_type: bool
    type_keys: tuple[int, ...] | None

    def holds(self, type_key: int) -> bool:
        """Whether a row is wanted."""
        if type_key == ANY_TYPE:
            return self.any_type
        return self.type_keys is None or type_key in self.type_keys


Found = Mapping[Period, Mapping[int, Row]]
"""Rows by period and type."""


class Kept:
    """The rows that a process remembers, of all projects of one store; drops those not asked for longest.

    Args:
        most_bytes: how much of them.
    """

    def __init__(self, most_bytes: int = KEPT_BYTES) -> None:
        self._most_bytes = most_bytes
        self._versions: dict[int, object] = {}
        self._periods: OrderedDict[tuple[int, Period], _Rows] = OrderedDict()

    def version(self, project_key: int) -> object:
        """What `advance` was told last of this project; None when nothing is known."""
        return self._versions.get(project_key)

    def advance(self, project_key: int, version: object, changed: Iterable[Key] | None) -> None:
        """The projection of a project has become another version.

        Args:
            project_key: whose.
            version: which.
            changed: the rows in which it differs from the version known, None when that is not known.
        """
        if version == self._versions.get(project_key):
            return
        if changed is None:
            for known in [known for known in self._periods if known[0] == project_key]:
                del self._periods[known]
        else:
            for period in {(key.grain, key.period) for key in changed}:
                self._periods.pop((project_key, period), None)
        self._versions[project_key] = version

    def missing(self, project_key: int, periods: Iterable[Period], wanted: Wanted) -> list[Period]:
        """Those of the periods that have to be read, in order."""
        found = []
        for period in periods:
            rows = self._periods.get((project_key, period))
            if rows is None or rows.lacks(wanted):
                found.append(period)
        return sorted(found)

    def take(
        self,
        project_key: int,
        periods: Collection[Period],
        wanted: Wanted,
        read: Sequence[Period],
        rows: Iterable[tuple[int, int, int, int, bytes]],
    ) -> Found:
        """Remember what was read, and give all that was asked for.

        Args:
            project_key: whose.
            periods: what a question needs.
            wanted: which rows of them.
            read: the periods that `missing` named and that were read.
            rows: what they held: grain, period, type, events, packed.
        """
        arrived = list(rows)  # reading may fail in the middle, and then nothing of it may count as known
        fresh: dict[Period, _Rows] = {}
        for period in read:
            known = self._periods.get((project_key, period)) or _Rows()
            known.known.update((ANY_TYPE,) if wanted.any_type else (), wanted.type_keys or ())
            known.complete = known.complete or wanted.type_keys is None
            fresh[period] = known
        for grain, number, type_key, events, packed in arrived:
            fresh[grain, number].rows.setdefault(type_key, Row(grain, packed, events))
        found = {}
        for period in periods:
            kept = fresh.get(period) or self._periods[project_key, period]
            found[period] = kept.rows
            self._periods[project_key, period] = kept
            self._periods.move_to_end((project_key, period))
        return found

    def shrink(self) -> None:
        """Drop what is too much; after a question, because answering makes unions that are kept too."""
        total = sum([_ROW_BYTES + sum([row.bytes for row in kept.rows.values()]) for kept in self._periods.values()])
        while total > self._most_bytes and self._periods:
            _, dropped = self._periods.popitem(last=False)
            total -= _ROW_BYTES + sum([row.bytes for row in dropped.rows.values()])


class Plan:
    """What a question needs of the projection, and how it is answered from that.

    Args:
        query: the question; nothing in it needs raw events.
        zone: the projection's own.
        stored: the first quarter that has rows, and the one behind the last; equal when there are none.
        type_names: of the project, by key.
    """

    def __init__(
        self, query: ActivityQuery, zone: ZoneInfo, stored: tuple[int, int], type_names: Mapping[int, str]
    ) -> None:
        self._query = query
        self._type_names = type_names
        self._kinds = [_kinds(selection, query, type_names) for selection in query.selections]
        self._slots = list(_slots(query, zone, stored))
        self.periods: frozenset[Period] = frozenset(
            (piece.grain, piece.period) for _, found in self._slots for piece in found
        )
        named = [kinds for kinds in self._kinds if kinds != (ANY_TYPE,)]
        self.wanted = Wanted(
            any_type=len(named) < len(self._kinds),
            type_keys=None if None in named else tuple(sorted({key for kinds in named for key in kinds or ()})),
        )

    def tally(self, found: Found, tallying: Tallying) -> None:
        """Count the rows that were found."""
        for selection, kinds in enumerate(self._kinds):
            for slot, parts in self._slots:
                groups: dict[int, list[Group]] = {}
                for piece in parts:
                    rows = found[piece.grain, piece.period]
                    for kind in _real(rows) if kinds is None else kinds:
                        row = rows.get(kind)
                        group = None if row is None else row.group(piece.first, piece.last)
                        if group is not None:
                            groups.setdefault(kind, []).append(group)
                for kind, same in groups.items():
                    users, events = united(same)
                    tallying.add(selection, slot, self._type_names.get(kind, ""), users, events)


def _real(rows: Mapping[int, Row]) -> list[int]:
    return [kind for kind in rows if kind != ANY_TYPE]


def _kinds(selection: Selection, query: ActivityQuery, type_names: Mapping[int, str]) -> tuple[int, ...] | None:
    """The types of rows that tell about a selection; None for all real types."""
    if selection.any_type:
        return (ANY_TYPE,) if query.split is None else None
    return selection.admitted(type_names.items())


def _slots(query: ActivityQuery, zone: ZoneInfo, stored: tuple[int, int]) -> Iterable[tuple[int, list[Piece]]]:
    first, after = stored
    starts = [start_us for span in query.slots for start_us, end_us in span if start_us < end_us]
    if query.history and starts:
        yield BEFORE, list(pieces(first, min(after, min(starts) // QUARTER_US), zone))
    for slot, span in enumerate(query.slots):
        parts: list[Piece] = []
        for start_us, end_us in span:
            parts += pieces(max(first, start_us // QUARTER_US), min(after, end_us // QUARTER_US), zone)
        yield slot, parts


def stored_quarters(first_day: int | None, last_day: int | None) -> tuple[int, int]:
    """The quarters that rows of `QUARTERS` from one UTC day to another may hold, as `Plan` takes them."""
    if first_day is None or last_day is None:
        return 0, 0
    return first_day * QUARTERS_A_DAY, (last_day + 1) * QUARTERS_A_DAY
