"""Questions answered from the rows of the projection, which are kept in memory within a bound.

A store asks a `Plan` which rows a question needs, reads those that `Kept` does not hold, has the plan tally them, and
adds the deltas that are not folded yet. What is kept belongs to a version of the project's projection; a newer version
says which rows changed. Not here: what rows are (`projection`), and SQL.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from eventcore.activity import BEFORE, ActivityQuery, Tallying
from eventcore.calendar import QUARTER_US
from eventcore.dimensions import Kinds
from eventcore.projection import (
    ANY_TYPE,
    COMBINATIONS_FROM,
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
        self.known: frozenset[int] = frozenset()  # keys that were looked for, found or not
        self.complete = False  # all types were

    def lacks(self, wanted: "Wanted") -> bool:
        if wanted.type_keys is None:
            return not self.complete or not wanted.others <= self.known
        types = frozenset() if self.complete else wanted.type_keys
        return not types <= self.known or not wanted.others <= self.known


class Wanted(NamedTuple):
    """Which rows of each period a question needs.

    Attributes:
        type_keys: those of these types, None for all types.
        others: `ANY_TYPE`, and combinations.
    """

    type_keys: frozenset[int] | None
    others: frozenset[int]

    @property
    def keys(self) -> list[int]:
        """All that are named one by one."""
        return sorted(self.others.union(self.type_keys or ()))

    def holds(self, key: int) -> bool:
        """Whether a row is wanted."""
        return key in self.others or (_is_type(key) if self.type_keys is None else key in self.type_keys)


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
        self._taken_bytes = 0
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
        # There may be thousands of keys, and hundreds of periods that know the same ones: these share a set.
        looked_for = wanted.others.union(wanted.type_keys or ())
        united_with: dict[frozenset[int], frozenset[int]] = {frozenset(): looked_for}
        for period in read:
            known = self._periods.get((project_key, period)) or _Rows()
            if known.known not in united_with:
                united_with[known.known] = known.known | looked_for
            known.known = united_with[known.known]
            known.complete = known.complete or wanted.type_keys is None
            fresh[period] = known
        for grain, number, type_key, events, packed in arrived:
            row = fresh[grain, number].rows.setdefault(type_key, Row(grain, packed, events))
            self._taken_bytes += row.bytes
        found = {}
        for period in periods:
            kept = fresh.get(period) or self._periods[project_key, period]
            found[period] = kept.rows
            self._periods[project_key, period] = kept
            self._periods.move_to_end((project_key, period))
        return found

    def shrink(self, *, least_bytes: int = 0) -> None:
        """Drop what is too much; after a question, because answering makes unions that are kept too.

        Args:
            least_bytes: do nothing unless so much was taken since the last time, because looking takes time.
        """
        if self._taken_bytes < least_bytes:
            return
        self._taken_bytes = 0
        total = sum([_ROW_BYTES + sum([row.bytes for row in kept.rows.values()]) for kept in self._periods.values()])
        while total > self._most_bytes and self._periods:
            _, dropped = self._periods.popitem(last=False)
            total -= _ROW_BYTES + sum([row.bytes for row in dropped.rows.values()])


MOST_ROWS: Final = 50_000
"""Rows that a question may need at once: with what they hold in memory, some 50 MB."""


class Portion(NamedTuple):
    """A part of a question that is read and counted at once.

    Attributes:
        periods: whose rows it needs.
        slots: the slots, or parts of them, that these rows answer.
    """

    periods: frozenset[Period]
    slots: Sequence[tuple[int, Sequence[Piece]]]


class Plan:
    """What a question needs of the projection, and how it is answered from that.

    Args:
        query: the question; nothing in it needs raw events.
        zone: the projection's own.
        stored: the first quarter that has rows, and the one behind the last; equal when there are none.
        kinds: of the question.
        most_rows: rows of one portion, about; a period is never divided.
    """

    def __init__(
        self,
        query: ActivityQuery,
        zone: ZoneInfo,
        stored: tuple[int, int],
        kinds: Kinds,
        most_rows: int = MOST_ROWS,
    ) -> None:
        self._part = kinds.part
        # Where types are not told apart, all of them are one row.
        every_type = frozenset((ANY_TYPE,)) if query.split is None else None
        self._keys = [every_type if keys is None else keys for keys in kinds.wanted]
        slots = list(_slots(query, zone, stored))
        named = frozenset[int]().union(*[keys for keys in self._keys if keys is not None])
        types = frozenset(filter(_is_type, named))
        self.wanted = Wanted(type_keys=None if None in self._keys else types, others=named - types)
        rows_a_period = len(named) + (kinds.parts if self.wanted.type_keys is None else 0)
        self.portions = list(_portions(slots, max(1, most_rows // max(1, rows_a_period))))

    def tally(self, found: Found, portion: Portion, tallying: Tallying) -> None:
        """Count the rows of a portion that were found."""
        for selection, keys in enumerate(self._keys):
            for slot, pieces_of_slot in portion.slots:
                groups: dict[str | None, list[Group]] = {}
                for piece in pieces_of_slot:
                    rows = found[piece.grain, piece.period]
                    for key in _among(rows, keys):
                        group = rows[key].group(piece.first, piece.last)
                        if group is not None:
                            groups.setdefault(self._part(key), []).append(group)
                for part, same in groups.items():
                    tallying.add(selection, slot, part, *united(same))


def _portions(slots: Sequence[tuple[int, Sequence[Piece]]], most_periods: int) -> Iterator[Portion]:
    """Divide slots after so many periods; neighbours may share one."""
    periods: set[Period] = set()
    some: list[tuple[int, list[Piece]]] = []
    for slot, found in slots:
        some.append((slot, []))
        for piece in found:
            if len(periods) >= most_periods and (piece.grain, piece.period) not in periods:
                yield Portion(frozenset(periods), some)
                periods = set()
                some = [(slot, [])]
            periods.add((piece.grain, piece.period))
            some[-1][1].append(piece)
    if periods:
        yield Portion(frozenset(periods), some)


def _is_type(key: int) -> bool:
    return ANY_TYPE < key < COMBINATIONS_FROM


def _among(rows: Mapping[int, Row], keys: frozenset[int] | None) -> Iterator[int]:
    """The keys of those rows that are meant; None means all types."""
    if keys is None:
        return filter(_is_type, rows)
    if len(keys) < len(rows):
        return filter(rows.__contains__, keys)
    return filter(keys.__contains__, rows)


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
