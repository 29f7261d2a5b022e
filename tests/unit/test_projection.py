"""The projection: whatever is folded in whatever portions, any question on quarters is answered as from the facts."""

from collections import defaultdict
from datetime import date
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyroaring import BitMap

from eventcore.activity import ActivityQuery, Tallying
from eventcore.bitmaps import MOST_ROWS, Kept, Plan, stored_quarters
from eventcore.calendar import QUARTER_US, day_spans, find_zone, on_quarters
from eventcore.conditions import Selection, equals
from eventcore.dimensions import Kinds
from eventcore.projection import (
    ANY_TYPE,
    DAY,
    MONTH,
    QUARTERS,
    BrokenRow,
    Fold,
    Group,
    Key,
    pack_quarters,
    pieces,
    places_of,
    unpack_quarters,
    unpack_users,
)

ZONES = (
    "UTC",
    "Europe/Kyiv",
    "America/St_Johns",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Kiritimati",
    "Africa/Monrovia",
    "America/Goose_Bay",
)
NAMES = {0: "visit", 1: "signup", 2: "purchase"}
EVENINGS = (  # in quarters: the epoch, changes of clocks in St John's, Apia's missing day, usual days
    0,
    date(1971, 12, 31).toordinal() * 96 - date(1970, 1, 1).toordinal() * 96,
    (date(2006, 10, 29).toordinal() - date(1970, 1, 1).toordinal()) * 96,
    (date(2011, 12, 30).toordinal() - date(1970, 1, 1).toordinal()) * 96,
    (date(2025, 3, 30).toordinal() - date(1970, 1, 1).toordinal()) * 96,
)


class Fact(NamedTuple):
    quarter: int
    kind: int
    user: int


facts = st.builds(
    Fact,
    st.builds(lambda start, more: max(0, start + more), st.sampled_from(EVENINGS), st.integers(-96 * 45, 96 * 45)),
    st.sampled_from(sorted(NAMES)),
    st.integers(0, 12),
)


class Table:
    """Rows as a store would hold them, and what a process keeps of them."""

    def __init__(self, zone_name: str, kept_bytes: int = 1 << 30, most_rows: int = MOST_ROWS) -> None:
        self.zone = find_zone(zone_name)
        self.most_rows = most_rows
        self.rows: dict[Key, tuple[int, bytes]] = {}
        self.kept = Kept(kept_bytes)
        self.folds = 0
        self.read_rows = 0

    def fold(self, portion: list[Fact]) -> None:
        fold = Fold(self.zone)
        fold.add([fact.quarter for fact in portion], [fact.kind for fact in portion], [fact.user for fact in portion])
        changes = fold.changes()
        for key, change in changes.items():
            events, packed = self.rows.get(key, (0, None))
            users, distinct = change.onto(key.grain, packed)
            self.rows[key] = (events + change.events, users)
            assert distinct == (None if key.grain == QUARTERS else len(BitMap.deserialize(users)))
        self.folds += 1
        self.kept.advance(1, self.folds, changes)

    def answer(self, query: ActivityQuery):
        days = [key.period for key in self.rows if key.grain == QUARTERS]
        stored = stored_quarters(min(days, default=None), max(days, default=None))
        plan = Plan(query, self.zone, stored, Kinds(query, NAMES, {}), most_rows=self.most_rows)
        tallying = Tallying(query)
        for portion in plan.portions:
            missing = self.kept.missing(1, portion.periods, plan.wanted)
            read = [
                (*key, *row) for key, row in self.rows.items() if key[:2] in missing and plan.wanted.holds(key.type_key)
            ]
            self.read_rows += len(read)
            plan.tally(self.kept.take(1, portion.periods, plan.wanted, missing, read), portion, tallying)
            self.kept.shrink(least_bytes=1)
        self.kept.shrink()
        return tallying.snapshot("activity")


def counted(query: ActivityQuery, seen: list[Fact]):
    """The same from the facts, one by one."""
    tallying = Tallying(query)
    for fact in seen:
        slot = tallying.slot_at(fact.quarter * QUARTER_US)
        if slot is None:
            continue
        for index, selection in enumerate(query.selections):
            if selection.admits(NAMES[fact.kind]):
                tallying.add(index, slot, NAMES[fact.kind], BitMap([fact.user]), 1)
    return tallying.snapshot("activity")


def selections() -> st.SearchStrategy[tuple[Selection, ...]]:
    one = st.sampled_from((None, "visit", "signup", "never seen"))
    made = one.map(lambda name: Selection() if name is None else Selection((equals("event_type", name),)))
    return st.lists(made, min_size=1, max_size=3).map(tuple)


@st.composite
def queries(draw: st.DrawFn) -> ActivityQuery:
    """Local days of any zone, or ranges of any quarters, some with history."""
    if draw(st.booleans()):
        zone = find_zone(draw(st.sampled_from(ZONES)))
        middle = date(1970, 1, 1).toordinal() + draw(st.sampled_from(EVENINGS)) // 96
        first = date.fromordinal(max(date(1970, 1, 2).toordinal(), middle - draw(st.integers(0, 35))))
        last = date.fromordinal(first.toordinal() + draw(st.integers(0, 70)))
        spans = [span for span in day_spans(zone, first, last) if on_quarters(span)]
        slots = (tuple(sorted(interval for span in spans for interval in span)),) if draw(st.booleans()) else spans
    else:
        bounds = sorted(draw(st.sets(st.integers(0, 96 * 60), min_size=2, max_size=8)))
        base = draw(st.sampled_from(EVENINGS))
        slots = [
            (((base + start) * QUARTER_US, (base + end) * QUARTER_US),)
            for start, end in zip(bounds[::2], bounds[1::2], strict=False)
        ]
    return ActivityQuery(
        project="default",
        slots=tuple(tuple(slot) for slot in slots),
        selections=draw(selections()),
        split=draw(st.sampled_from((None, "event_type"))),
        history=draw(st.booleans()),
    )


@given(
    zone=st.sampled_from(ZONES),
    portions=st.lists(st.lists(facts, max_size=25), max_size=5),
    asked=st.lists(queries(), min_size=1, max_size=4),
    kept_bytes=st.sampled_from((0, 5_000, 1 << 30)),
    most_rows=st.sampled_from((1, 7, MOST_ROWS)),
)
@settings(deadline=None, max_examples=150)
def test_any_question_at_any_time_is_answered_as_from_the_facts(zone, portions, asked, kept_bytes, most_rows) -> None:
    table = Table(zone, kept_bytes, most_rows)
    seen: list[Fact] = []
    for portion in [[], *portions]:
        table.fold(portion)
        seen += portion
        for query in asked:
            found, wanted = table.answer(query), counted(query, seen)
            assert found.selections == wanted.selections


@given(start=st.integers(0, 2_000_000), length=st.integers(0, 96 * 100), zone=st.sampled_from(ZONES))
@settings(deadline=None, max_examples=80)
def test_pieces_cover_a_stretch_once(start: int, length: int, zone: str) -> None:
    covered: list[tuple[int, int]] = []
    place = find_zone(zone)
    at = start
    for piece in pieces(start, start + length, place):
        if piece.grain == QUARTERS:
            bounds = (piece.period * 96 + piece.first, piece.period * 96 + piece.last + 1)
        else:
            inside = [
                quarter
                for quarter in range(at, start + length)
                if (piece.grain, piece.period) in places_of(quarter, place)
            ]
            bounds = (inside[0], inside[-1] + 1)
            assert len(inside) == bounds[1] - bounds[0]
        covered.append(bounds)
        at = bounds[1]
    assert [bounds[0] for bounds in covered] == ([start, *(bounds[1] for bounds in covered)][: len(covered)])
    assert (covered[-1][1] if covered else start) == start + length


def test_a_year_is_twelve_rows_and_a_day_is_one() -> None:
    zone = find_zone("Europe/Kyiv")
    (year,) = [(spans[0][0][0], spans[-1][-1][1]) for spans in [day_spans(zone, date(2025, 1, 1), date(2025, 12, 31))]]
    found = list(pieces(year[0] // QUARTER_US, year[1] // QUARTER_US, zone))
    assert [piece.grain for piece in found] == [MONTH] * 12
    ((start_us, end_us),) = day_spans(zone, date(2025, 3, 30), date(2025, 3, 30))[0]
    assert [piece.grain for piece in pieces(start_us // QUARTER_US, end_us // QUARTER_US, zone)] == [DAY]


def test_a_question_without_types_reads_one_row_a_day_however_many_types_there_are() -> None:
    table = Table("UTC")
    table.fold([Fact(96 * day + 5, kind, kind) for day in range(10) for kind in NAMES])
    spans = tuple(day_spans(find_zone("UTC"), date(1970, 1, 2), date(1970, 1, 8)))
    table.answer(ActivityQuery(project="default", slots=spans))
    assert table.read_rows == 7


def test_a_warm_question_reads_nothing_and_a_late_event_costs_its_own_day() -> None:
    table = Table("UTC")
    table.fold([Fact(96 * day + 5, 0, 1) for day in range(10)])
    query = ActivityQuery(
        project="default", slots=tuple(day_spans(find_zone("UTC"), date(1970, 1, 1), date(1970, 1, 9)))
    )
    table.answer(query)
    read = table.read_rows
    table.answer(query)
    assert table.read_rows == read
    table.fold([Fact(96 * 3, 1, 9)])
    assert table.answer(query).selections[0].slots[3].events == 2
    assert table.read_rows == read + 1


def test_a_read_that_fails_in_the_middle_is_read_again() -> None:
    table = Table("UTC")
    table.fold([Fact(96 * day + 5, 0, 1) for day in range(5)])
    query = ActivityQuery(
        project="default", slots=tuple(day_spans(find_zone("UTC"), date(1970, 1, 1), date(1970, 1, 5)))
    )

    def broken():
        yield (DAY, 0, ANY_TYPE, *table.rows[Key(DAY, 0, ANY_TYPE)])
        raise ZeroDivisionError

    plan = Plan(query, table.zone, stored_quarters(0, 4), Kinds(query, NAMES, {}))
    [portion] = plan.portions
    missing = table.kept.missing(1, portion.periods, plan.wanted)
    with pytest.raises(ZeroDivisionError):
        table.kept.take(1, portion.periods, plan.wanted, missing, broken())
    assert table.answer(query).selections == counted(query, [Fact(96 * d + 5, 0, 1) for d in range(5)]).selections


@pytest.mark.parametrize("packed", [b"", b"x", b"\0" * 13, bytes(range(200))])
def test_broken_rows_are_told_from_ours(packed: bytes) -> None:
    whole = pack_quarters({3: Group(BitMap([1, 2]), 2)})
    for broken in (whole[:-1], whole + b"x", packed or b"\xff"):
        with pytest.raises(BrokenRow):
            unpack_quarters(broken)
    with pytest.raises(BrokenRow):
        unpack_users(packed)


def test_an_unknown_change_forgets_one_project() -> None:
    table = Table("UTC")
    table.fold([Fact(5, 0, 1)])
    query = ActivityQuery(project="default", slots=(((0, 96 * QUARTER_US),),))
    table.answer(query)
    table.kept.advance(1, 99, None)
    before = table.read_rows
    table.answer(query)
    assert table.read_rows > before


@given(
    st.dictionaries(
        st.integers(0, 95), st.tuples(st.sets(st.integers(0, 2**32 - 1), min_size=1), st.integers(1, 2**40))
    )
)
def test_packed_quarters_come_back(quarters) -> None:
    made = {quarter: Group(BitMap(users), events) for quarter, (users, events) in quarters.items()}
    assert unpack_quarters(pack_quarters(made)) == made


def test_what_is_kept_is_bounded() -> None:
    table = Table("UTC", kept_bytes=50_000)
    table.fold([Fact(96 * day + 5, 0, user) for day in range(200) for user in range(50)])
    spans = tuple(day_spans(find_zone("UTC"), date(1970, 1, 1), date(1970, 7, 1)))
    table.answer(ActivityQuery(project="default", slots=spans))
    sizes = defaultdict(int)
    for (project, _), rows in table.kept._periods.items():
        sizes[project] += sum(row.bytes for row in rows.rows.values())
    assert 0 < sizes[1] <= 50_000


@pytest.mark.parametrize("quarter", [10**15, -(10**12)])
def test_beyond_the_calendar_only_quarters_hold_it(quarter: int) -> None:
    assert places_of(quarter, find_zone("UTC")) == []
    fold = Fold(find_zone("UTC"))
    fold.add([quarter], [0], [1])
    assert {key.grain for key in fold.changes()} == {QUARTERS}
    assert {key.type_key for key in Fold(find_zone("UTC")).changes()} <= {ANY_TYPE}
