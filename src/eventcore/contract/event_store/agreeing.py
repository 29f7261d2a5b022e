"""Property tests: whatever happens, the store says what the naive model says."""

from contextlib import aclosing
from itertools import pairwise
from typing import get_args

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from eventcore.activity import ActivityQuery, Breakdown
from eventcore.calendar import QUARTER_US, Span, merge
from eventcore.conditions import Condition, Operator, Selection, equals
from eventcore.contract.event_store.asking import (
    DAY_US,
    HOUR_US,
    MIDNIGHT_US,
    a_project,
    find_events,
    model_of,
    row_counts,
)
from eventcore.contract.event_store.backend import StoreFixtures
from eventcore.contract.event_store.model import Model, seen
from eventcore.events import Chunk, Counts, Event
from eventcore.ports import EventStore
from eventcore.strategies import (
    a_chunk,
    an_id,
    event_types,
    events,
    json_objects,
    respelled,
    user_ids,
    with_other_content,
)

_SETTINGS = settings(
    deadline=None,
    max_examples=50,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,  # one store for all examples: each takes projects of its own
        HealthCheck.differing_executors,  # a contract is there to be inherited
        HealthCheck.too_slow,
    ],
)
# Narrow on purpose: the same user must often do the same thing in the same slot, and what is asked for must be there.
_FEW_USERS = st.sampled_from(("ada", "grace"))
_USERS = st.one_of(_FEW_USERS, _FEW_USERS, user_ids())
_FEW_TYPES = st.sampled_from(("page_view", "signup"))
_TYPES = st.one_of(_FEW_TYPES, _FEW_TYPES, event_types())
_FEW_PROPERTIES = st.fixed_dictionaries(
    {"a": st.sampled_from((1, 1.0, "1", "1.0", True, None, "x", []))}, optional={"b.c": st.sampled_from(("x", 0.5))}
)
_PROPERTIES = st.one_of(_FEW_PROPERTIES, _FEW_PROPERTIES, json_objects(depth=2))
_OPERATORS = st.sampled_from(get_args(Operator))
_TYPE_VALUES = st.sampled_from(("page_view", "signup", "nothing"))
_PROPERTY_VALUES = st.sampled_from(("1", "1.0", "10e-1", "true", "null", "x"))
_TYPE_IS = st.one_of(
    st.builds(equals, st.just("event_type"), _TYPE_VALUES),
    st.builds(Condition, st.just("event_type"), st.lists(_TYPE_VALUES, max_size=2).map(tuple), _OPERATORS),
)
_PROPERTY_IS = st.one_of(
    st.builds(equals, st.just("properties.a"), _PROPERTY_VALUES),
    st.just(equals("properties.b.c", "x")),
    st.builds(
        Condition,
        st.sampled_from(("properties.a", "properties.b.c")),
        st.lists(_PROPERTY_VALUES, max_size=2).map(tuple),
        _OPERATORS,
    ),
)
_SELECTIONS = st.lists(
    st.one_of(
        st.just(Selection()),
        st.builds(lambda one: Selection((one,)), _TYPE_IS),
        st.builds(lambda one: Selection((one,)), _PROPERTY_IS),
        st.builds(lambda one, other: Selection((one, other)), _PROPERTY_IS, st.one_of(_TYPE_IS, _PROPERTY_IS)),
    ),
    min_size=1,
    max_size=4,
)
_FIELDS = st.sampled_from(("event_type", "properties.a", "properties.b.c"))
# Few instants, most of them at bounds of the slots below, over three days.
_BOUNDS = [
    MIDNIGHT_US + offset
    for offset in (0, QUARTER_US, 2 * QUARTER_US, HOUR_US, DAY_US, DAY_US + QUARTER_US, 2 * DAY_US, 3 * DAY_US)
]
_INSTANTS = st.builds(lambda bound, off: bound + off, st.sampled_from(_BOUNDS), st.sampled_from((-1, 0, 1, 60_000_000)))


@st.composite
def _queries(draw: DrawFn) -> ActivityQuery:
    """Any question about those three days, in the project ``default``."""
    off_quarters = draw(st.lists(st.sampled_from(_BOUNDS).map(lambda bound: bound + 1), max_size=1))
    cuts = sorted({*draw(st.lists(st.sampled_from(_BOUNDS), min_size=3, max_size=8, unique=True)), *off_quarters})
    intervals = list(pairwise(cuts))
    owners = [draw(st.sampled_from((0, 1, 2, -1))) for _ in intervals]  # which slot has the interval; -1: none has
    slots: list[Span] = []
    for owner in dict.fromkeys(owners):
        slots += [()] * draw(st.integers(0, 1))
        slots += [merge((interval,) for interval, its in zip(intervals, owners, strict=True) if its == owner >= 0)]
    breakdowns = st.builds(Breakdown, field=_FIELDS, groups=st.integers(1, 3))
    return ActivityQuery(
        project="default",
        slots=tuple(slots),
        selections=tuple(draw(_SELECTIONS)),
        split=draw(st.one_of(st.none(), _FIELDS)),
        history=draw(st.booleans()),
        lead=draw(st.integers(0, len(slots))),
        breakdown=draw(st.one_of(st.none(), breakdowns)),
    )


@st.composite
def _deliveries(draw: DrawFn) -> tuple[list[Event], list[list[Chunk]]]:
    """Distinct events, and calls that bring each of them at least once, in any order, split in any way."""
    sent = draw(
        st.lists(
            events(ids=st.integers(1, 30), users=_USERS, types=_TYPES, when=_INSTANTS, properties=_PROPERTIES),
            min_size=2,
            max_size=12,
            unique_by=lambda event: event.event_id,
        )
    )
    arrivals = draw(st.permutations(sent + draw(st.lists(st.sampled_from(sent), max_size=12))))
    calls: list[list[Chunk]] = []
    while arrivals:
        size = draw(st.integers(1, 8))
        chunk = a_chunk(*dict.fromkeys(arrivals[:size]), queued=draw(st.booleans()))
        arrivals = arrivals[size:]
        in_the_same_call = draw(st.booleans())
        if calls and in_the_same_call:
            calls[-1].append(chunk)
        else:
            calls.append([chunk])
    return sent, calls


@st.composite
def _histories(draw: DrawFn) -> list[list[Chunk]]:
    """Calls with everything that can happen: repeats, conflicts, counts, two projects, days, redelivered chunks."""
    few_events = events(ids=st.integers(1, 6), users=_USERS, types=_TYPES, when=_INSTANTS, properties=_PROPERTIES)
    pool = draw(st.lists(few_events, min_size=2, max_size=8))
    pool += [with_other_content(event) for event in pool[:2]]
    pool += [draw(respelled(event)) for event in pool[:3]]
    some = st.lists(st.sampled_from(pool), max_size=6)
    sent: list[Chunk] = []
    calls: list[list[Chunk]] = []
    for _ in range(draw(st.integers(1, 5))):
        call = [
            a_chunk(
                *draw(some),
                project=draw(st.sampled_from(("default", "default", "other"))),
                received_us=MIDNIGHT_US + draw(st.sampled_from((-1, 0, DAY_US))),
                queued=draw(st.booleans()),
                conflicting=draw(st.lists(st.sampled_from(pool), max_size=1)),
                counts=Counts(
                    duplicates=draw(st.integers(0, 2)),
                    conflicts=draw(st.integers(0, 2)),
                    rejected=draw(st.integers(1, 2)),
                ),
                import_id=draw(st.sampled_from((None, bytes(range(16))))),
            )
            for _ in range(draw(st.integers(0, 3)))
        ]
        queued = [chunk for chunk in sent + call if chunk.queued]
        again = draw(st.lists(st.sampled_from(queued), max_size=2)) if queued else []
        sent += call
        calls.append(call + again)
    return calls


_DECLARED = st.lists(st.tuples(st.sampled_from(("a", "b.c")), st.integers(0, 4)), max_size=2)
"""Properties that are declared dimensions, each before the call of this number."""


async def _declare(store: EventStore, project: str, declared: list[tuple[str, int]], turn: int) -> None:
    for name, its_turn in declared:
        if its_turn == turn:
            async with aclosing(store.add_dimension(project, name)) as steps:
                async for _ in steps:
                    pass


class Agreeing(StoreFixtures):
    """Whatever happens, the store says what the naive model says."""

    @given(delivered=_deliveries(), query=_queries(), declared=_DECLARED)
    @_SETTINGS
    async def test_order_split_and_repeats_change_nothing(
        self,
        store: EventStore,
        delivered: tuple[list[Event], list[list[Chunk]]],
        query: ActivityQuery,
        declared: list[tuple[str, int]],
    ) -> None:
        """The same events, however they come, give the same activity, are found, and are counted once."""
        sent, calls = delivered
        project = a_project()
        for turn, call in enumerate(calls):
            await _declare(store, project, declared, turn)
            await store.append([msgspec.structs.replace(chunk, project=project) for chunk in call])

        model = model_of([a_chunk(*sent, project=project)])
        query = msgspec.structs.replace(query, project=project)
        assert seen(await store.activity(query)) == model.activity(query)
        assert await find_events(store, sent, project) == sent
        assert await row_counts(store, project) == model.counts(project)
        assert sum(book.stored for book in await store.books(project, "2026-01-01", "2026-12-31")) == len(sent)

    @given(calls=_histories(), query=_queries(), declared=_DECLARED)
    @_SETTINGS
    async def test_any_history_agrees_with_the_model(
        self, store: EventStore, calls: list[list[Chunk]], query: ActivityQuery, declared: list[tuple[str, int]]
    ) -> None:
        """Receipts, events, conflicts, books and activity, with all that can happen in between."""
        names = {"default": a_project(), "other": a_project()}
        mine = [[msgspec.structs.replace(chunk, project=names[chunk.project]) for chunk in call] for call in calls]
        model = Model()
        expected = [[model.append(chunk) for chunk in call] for call in mine]

        for turn, call in enumerate(mine):
            await _declare(store, names["default"], declared, turn)
            assert list(await store.append(call)) == expected[turn]
        for project in names.values():
            query = msgspec.structs.replace(query, project=project)
            assert seen(await store.activity(query)) == model.activity(query)
            assert await store.find(project, [an_id(number) for number in range(10)]) == model.found(project)
            assert list(await store.books(project, "2026-01-01", "2026-12-31")) == model.books(project)
            assert await row_counts(store, project) == model.counts(project)
            assert list(await store.verify(project)) == []
