"""Dimensions: whenever one is declared, built, full or removed, each answer is the same, and only comes from elsewhere.

Where an answer came from is always looked at, too: one that reads raw events is right whatever is kept of dimensions.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from datetime import timedelta
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from eventcore.activity import ActivityQuery, Breakdown
from eventcore.calendar import QUARTER_US, Span, day_spans, find_zone, to_datetime
from eventcore.conditions import Condition, Operator, Selection, equals
from eventcore.contract.event_store.asking import (
    DAY_US,
    HOUR_US,
    MIDNIGHT_US,
    WHOLE_DAY,
    a_burial,
    a_poison,
    a_project,
    a_query,
    a_selection,
    kind_of,
    model_of,
    names_of,
)
from eventcore.contract.event_store.backend import StoreBackend, StoreFixtures
from eventcore.contract.event_store.model import Model, seen
from eventcore.dimensions import MOST_DIMENSIONS, MOST_VALUE_CHARS, MOST_VALUES, Dimension
from eventcore.errors import Kind, StoreError
from eventcore.events import Chunk, Event
from eventcore.ports import EventStore, Rebuilt
from eventcore.strategies import a_chunk, an_event

_ALL = 1_000_000
_SETTINGS = settings(
    deadline=None,
    max_examples=20,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,  # one store for all examples: each takes a project of its own
        HealthCheck.differing_executors,  # a contract is there to be inherited
        HealthCheck.too_slow,
    ],
)
HOSTILE_NAMES = ("a", "b.c", "", " ", "ключ", '"', "\\", "'; DROP TABLE events; --", "$[0]", "\x1f", "😀", "x" * 255)
_VALUES: Sequence[object] = (
    *(
        "UA",
        "PL",
        "",
        "1",
        "1.0",
        "true",
        "null",
        "[]",
        "?",
        "Київ",
        '"',
        "\\",
        "\x00",
        "\x1f",
        "😀",
        "x" * MOST_VALUE_CHARS,
    ),
    *(1, 1.0, 10, 0, -0.0, 0.1, 1e3, 1e-7, 2**63, True, False, None, [], ["UA"], {}, {"a": 1}),
)
_ABSENT = object()
_NAMES = ("a", "b.c")
_TYPES = ("page_view", "signup", "purchase")
_ASKED = ("UA", "", "1", "1.0", "10e-1", "1000", "true", "null", "[]", "\x1f", "😀", "nothing")
_OPERATORS: tuple[Operator, ...] = get_args(Operator)


@st.composite
def _some_events(draw: DrawFn) -> list[Event]:
    """A few events of a few users, at and around the bounds of three days."""
    return [
        an_event(
            event_id=draw(st.integers(1, 2**40)),
            user_id=draw(st.sampled_from(("ada", "grace", "edsger"))),
            event_type=draw(st.sampled_from(_TYPES)),
            occurred_us=MIDNIGHT_US
            + draw(st.sampled_from((-40 * DAY_US, -1, 0, QUARTER_US, HOUR_US, DAY_US, 2 * DAY_US)))
            + draw(st.sampled_from((0, 0, 1))),
            properties={
                name: value
                for name in _NAMES
                if (value := draw(st.sampled_from((_ABSENT, "UA", "UA", 1, 1.0, "1", *_VALUES)))) is not _ABSENT
            },
        )
        for _ in range(draw(st.integers(1, 5)))
    ]


@st.composite
def _conditions(draw: DrawFn) -> Selection:
    field = st.sampled_from(("event_type", *(f"properties.{name}" for name in _NAMES)))
    values = st.lists(st.sampled_from((*_ASKED, "page_view")), max_size=3).map(tuple)
    return Selection(
        tuple(
            Condition(draw(field), draw(values), draw(st.sampled_from(_OPERATORS)))
            for _ in range(draw(st.sampled_from((0, 1, 1, 2))))
        )
    )


@st.composite
def _queries(draw: DrawFn) -> ActivityQuery:
    """Local days, or all of them together, with any conditions, splits and groups."""
    zone = find_zone(draw(st.sampled_from(("UTC", "Europe/Kyiv", "Asia/Kathmandu"))))
    first = to_datetime(MIDNIGHT_US).date() - timedelta(draw(st.sampled_from((0, 1, 45))))
    slots: Sequence[Span] = day_spans(zone, first, to_datetime(MIDNIGHT_US).date() + timedelta(draw(st.integers(0, 3))))
    if draw(st.booleans()):
        off_us = draw(st.sampled_from((0, 0, 0, 1)))
        slots = [((slots[0][0][0] + off_us, slots[-1][-1][1]),)]
    fields = st.sampled_from((None, None, "event_type", *(f"properties.{name}" for name in _NAMES)))
    field = draw(fields)
    return ActivityQuery(
        project="default",
        slots=tuple(slots),
        selections=tuple(draw(st.lists(_conditions(), min_size=1, max_size=3))),
        split=draw(fields),
        history=draw(st.booleans()),
        breakdown=None if field is None else Breakdown(field=field, groups=draw(st.integers(1, 3))),
    )


_NAME = st.sampled_from(_NAMES)
_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), _some_events()),
        st.tuples(st.just("append"), _some_events()),
        st.tuples(st.just("fold"), st.sampled_from((1, 3, _ALL))),
        st.tuples(st.just("add"), _NAME),
        st.tuples(st.just("add"), _NAME),
        st.tuples(st.just("begin"), _NAME),
        st.tuples(st.just("remove"), _NAME),
        st.tuples(st.just("rebuild"), st.none()),
        st.tuples(st.just("check"), _some_events()),
    ),
    min_size=2,
    max_size=10,
)


def _is_on_quarters(query: ActivityQuery) -> bool:
    return all(bound % QUARTER_US == 0 for span in query.slots for interval in span for bound in interval)


def _source(query: ActivityQuery, ready: set[str]) -> str:
    """Where an answer must come from: in words, anything but types, dimensions one at a time, and quarters is raw."""
    for selection in query.selections:
        fields = {condition.field for condition in selection.conditions}
        fields |= {query.split or "event_type", query.breakdown.field if query.breakdown else "event_type"}
        properties = fields - {"event_type"}
        if len(properties) > 1 or not properties <= {f"properties.{name}" for name in ready}:
            return "events"
    return "activity" if _is_on_quarters(query) else "events"


async def add(store: EventStore, name: str, project: str = "default") -> list[Rebuilt]:
    """Declare a dimension and build it to the end."""
    async with aclosing(store.add_dimension(project, name)) as steps:
        return [step async for step in steps]


async def _begin(steps: AsyncGenerator[Rebuilt, None], count: int = 1) -> None:
    """So many steps, and away."""
    async with aclosing(steps):
        for _ in range(count):
            await anext(steps, None)


async def _exhaust(steps: AsyncGenerator[Rebuilt, None]) -> None:
    async for _ in steps:
        pass


async def _ready(store: EventStore, project: str) -> set[str]:
    return {one.name for one in await store.dimensions(project) if one.state == "ready"}


async def _states(store: EventStore, project: str = "default") -> dict[str, str]:
    return {one.name: one.state for one in await store.dimensions(project)}


async def _fold_all(store: EventStore) -> None:
    while await store.fold(_ALL):
        pass


def _visits(count: int, *, first: int = 0, project: str = "default", **properties: Any) -> Chunk:
    """So many events of as many users, each a quarter of an hour later, from a number on."""
    return a_chunk(
        *(
            an_event(
                event_id=1_000 + number,
                user_id=f"user {number % 11}",
                event_type=_TYPES[number % 3],
                occurred_us=MIDNIGHT_US + number * QUARTER_US,
                properties={"country": ("UA", "PL", "NP")[number % 3 - number % 2]} | properties,
            )
            for number in range(first, first + count)
        ),
        project=project,
    )


_DAYS: tuple[Span, ...] = tuple(
    ((MIDNIGHT_US + day * DAY_US, MIDNIGHT_US + (day + 1) * DAY_US),) for day in range(-1, 5)
)


def _questions(name: str = "country", project: str = "default") -> list[ActivityQuery]:
    """Everything that one dimension can answer."""
    field = f"properties.{name}"
    segments = (Selection((equals(field, "UA"),)), Selection((Condition(field, ("UA",), "not in"),)))
    with_type = Selection((equals(field, "UA"), equals("event_type", "signup")))
    by_value = a_query(*_DAYS, project=project, history=True)
    return [
        a_query(*_DAYS, project=project, selections=(*segments, with_type, Selection()), history=True),
        a_query(*_DAYS, project=project, selections=segments, split="event_type"),
        a_query(*_DAYS, project=project, selections=(with_type, Selection()), split=field),
        msgspec.structs.replace(by_value, breakdown=Breakdown(field=field, groups=2)),
    ]


async def _check(store: EventStore, model: Model, source: str, name: str = "country", project: str = "default") -> None:
    """All questions are answered rightly, and from where they should be."""
    for query in _questions(name, project):
        snapshot = await store.activity(query)
        assert seen(snapshot) == model.activity(query)
        assert snapshot.computed_from == source


class Dimensioning(StoreFixtures):
    """Dimensions change no answer, and answer what they can."""

    @given(steps=_STEPS, queries=st.lists(_queries(), min_size=1, max_size=3))
    @_SETTINGS
    async def test_whatever_is_declared_answers_are_the_same(
        self, store: EventStore, steps: list[tuple[str, Any]], queries: list[ActivityQuery]
    ) -> None:
        """Events of any age and values, with folds, additions, removals and rebuilds between them."""
        project = a_project()
        model = Model()
        asked = [msgspec.structs.replace(query, project=project) for query in queries]
        for what, value in steps:
            match what:
                case "append":
                    chunk = a_chunk(*value, project=project)
                    model.append(chunk)
                    await store.append([chunk])
                case "fold":
                    await store.fold(value)
                case "add":
                    await add(store, value, project)
                case "begin":
                    await _begin(store.add_dimension(project, value))
                case "remove":
                    await store.remove_dimension(project, value)
                case "rebuild":
                    await _begin(store.rebuild(project), 2)
                case "check":
                    await store.check(a_chunk(*value, project=project))
            ready = await _ready(store, project)
            for query in asked:
                snapshot = await store.activity(query)
                assert seen(snapshot) == model.activity(query)
                assert snapshot.computed_from == _source(query, ready)
        assert list(await store.verify(project)) == []

    @pytest.mark.parametrize("operator", _OPERATORS)
    @pytest.mark.parametrize("folded", [False, True])
    async def test_every_operator_is_exact_for_every_value(
        self, store: EventStore, operator: Operator, folded: bool
    ) -> None:
        """Each value alone, together with its type, and all of them as parts."""
        events = [
            an_event(event_id=number, user_id=f"user {number}", event_type=_TYPES[number % 3], properties=properties)
            for number, properties in enumerate([{}, *({"a": value} for value in _VALUES)])
        ]
        await add(store, "a")
        await store.append([a_chunk(*events)])
        if folded:
            await _fold_all(store)
        model = model_of([a_chunk(*events)])
        for value in (*_ASKED, "x" * MOST_VALUE_CHARS):
            condition = Condition("properties.a", (value, "PL"), operator)
            query = a_query(
                selections=(Selection((condition,)), Selection((condition, equals("event_type", "signup")))),
                split="properties.a",
            )
            snapshot = await store.activity(query)
            assert (snapshot.computed_from, seen(snapshot)) == ("activity", model.activity(query))
        assert list(await store.verify()) == []

    async def test_one_declared_before_between_and_after(self, store: EventStore) -> None:
        """Nothing folded, some of it, all of it; whenever it was declared, it has every event."""
        chunks = [_visits(60, first=60 * turn) for turn in range(5)]
        model = Model()
        await _check(store, model, "events")
        for turn, chunk in enumerate(chunks):
            model.append(chunk)
            await store.append([chunk])
            if turn == 1:
                await _fold_all(store)
            if turn == 2:
                await _check(store, model, "events")
                await add(store, "country")
            if turn == 3:
                await store.fold(100)
            await _check(store, model, "activity" if turn >= 2 else "events")
        await _fold_all(store)
        await _check(store, model, "activity")
        assert await store.dimensions("default") == (Dimension(name="country", state="ready", values=3),)
        assert list(await store.verify()) == []

    async def test_two_dimensions_answer_one_at_a_time(self, store: EventStore) -> None:
        """Who did one thing in a country and the other on a plan has not done both at once."""
        plans = ("free", "pro")
        for name in ("country", "plan"):
            await add(store, name)
        chunk = a_chunk(*(one for plan in plans for one in _visits(20, first=20 * plans.index(plan), plan=plan).events))
        await store.append([chunk])
        both = a_selection(**{"properties.country": "UA", "properties.plan": "pro"})
        alone = [a_selection(**{"properties.country": "UA"}), a_selection(**{"properties.plan": "pro"})]
        grouped = msgspec.structs.replace(
            a_query(selections=(alone[0],)), breakdown=Breakdown(field="properties.plan", groups=3)
        )
        model = model_of([chunk])
        for query, source in (
            (a_query(selections=tuple(alone)), "activity"),
            (a_query(selections=(both,)), "events"),
            (a_query(selections=(alone[0],), split="properties.plan"), "events"),
            (grouped, "events"),
        ):
            snapshot = await store.activity(query)
            assert (snapshot.computed_from, seen(snapshot)) == (source, model.activity(query))

    async def test_all_types_are_types_only(self, store: EventStore) -> None:
        """A fact of a dimension is the same event again, and counts nowhere else."""
        await add(store, "country")
        chunk = _visits(30)
        await store.append([chunk])
        queries = [
            a_query(*_DAYS, selections=selections, split=split, history=True)
            for split in (None, "event_type")
            for selections in ((Selection(),), (Selection(), a_selection(**{"properties.country": "UA"})))
        ]
        for _ in range(2):
            for query in queries:
                snapshot = await store.activity(query)
                assert (snapshot.computed_from, seen(snapshot)) == ("activity", model_of([chunk]).activity(query))
            await _fold_all(store)

    @pytest.mark.parametrize("name", HOSTILE_NAMES)
    async def test_a_property_may_have_any_name(self, store: EventStore, name: str) -> None:
        """What looks like SQL, JSON or a path is a name."""
        chunk = a_chunk(
            an_event(event_id=1, properties={name: "UA"}),
            an_event(event_id=2, user_id="grace", properties={f"{name}x": "UA"}),
        )
        await store.append([chunk])
        await add(store, name)
        await _check(store, model_of([chunk]), "activity", name)
        assert [one.name for one in await store.dimensions("default")] == [name]
        assert await store.remove_dimension("default", name)

    @pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 256])
    async def test_a_name_that_no_property_has_is_refused(self, store: EventStore, name: str) -> None:
        """And nothing is kept of it."""
        assert await kind_of(add(store, name)) is Kind.DATA
        assert list(await store.dimensions("default")) == []

    async def test_there_are_a_few_at_most(self, store: EventStore) -> None:
        """Each costs every event something; when one goes, another may come."""
        for number in range(MOST_DIMENSIONS):
            await add(store, f"name {number}")
        with pytest.raises(StoreError, match="at most") as caught:
            await add(store, "one more")
        assert (caught.value.kind, caught.value.code) == (Kind.INVALID, "too_many_dimensions")
        assert await add(store, "name 3") == []
        assert await store.remove_dimension("default", "name 3")
        await add(store, "one more")
        assert len(await store.dimensions("default")) == MOST_DIMENSIONS

    async def test_every_project_has_its_own(self, store: EventStore) -> None:
        """What one declares, another knows nothing of."""
        chunks = [_visits(10), _visits(10, project="other")]
        await store.append(chunks)
        await add(store, "country", "other")
        await store.append([_visits(10, first=10), _visits(10, first=10, project="other")])
        model = model_of([*chunks, _visits(10, first=10), _visits(10, first=10, project="other")])

        await _check(store, model, "events")
        await _check(store, model, "activity", project="other")
        assert await _states(store) == {}
        assert not await store.remove_dimension("default", "country")
        assert not await store.remove_dimension("unheard-of", "country")
        assert "unheard-of" not in (await store.describe()).counts

    async def test_one_that_is_gone_and_comes_again_has_everything(self, store: EventStore) -> None:
        """Also what came while it was not there; nothing of its first life counts twice."""
        chunks = [_visits(40, first=40 * turn) for turn in range(6)]
        model = Model()
        for turn, chunk in enumerate(chunks):
            model.append(chunk)
            await store.append([chunk])
            if turn % 2:
                await _fold_all(store)
                assert await store.remove_dimension("default", "country")
                await _check(store, model, "events")
            else:
                await add(store, "country")
                await _check(store, model, "activity")
        assert list(await store.verify()) == []
        await add(store, "country")
        await _check(store, model, "activity")
        await _fold_all(store)
        await _check(store, model, "activity")
        assert list(await store.verify()) == []

    async def test_what_waits_of_a_removed_one_is_forgotten(self, store: EventStore) -> None:
        """Its facts may wait to be folded when it goes, and another one may have come when they are."""
        await add(store, "country")
        await store.append([_visits(40)])
        await store.remove_dimension("default", "country")
        await store.append([_visits(40, first=40)])
        await add(store, "country")
        model = model_of([_visits(40), _visits(40, first=40)])
        await _check(store, model, "activity")
        await _fold_all(store)
        await _check(store, model, "activity")
        assert list(await store.verify()) == []

    # Full

    async def test_too_many_values_make_it_full(self, store: EventStore) -> None:
        """In the very append that brings one too many; answers stay exact, and others are not touched."""
        await add(store, "n")
        await add(store, "country")
        chunks = [
            a_chunk(*_numbered(0, MOST_VALUES)),
            a_chunk(*_numbered(MOST_VALUES, 1)),
            a_chunk(*_numbered(5_000, 3)),
        ]
        model = Model()
        for chunk, source in zip(chunks, ("activity", "events", "events"), strict=True):
            model.append(chunk)
            await store.append([chunk])
            await _check(store, model, source, "n")
            await _fold_all(store)
            await _check(store, model, source, "n")
            await _check(store, model, "activity")
        assert await _states(store) == {"n": "full", "country": "ready"}
        assert list(await store.verify()) == []
        with pytest.raises(StoreError) as caught:
            await add(store, "n")
        assert (caught.value.kind, caught.value.code) == (Kind.INVALID, "dimension_full")
        assert await store.remove_dimension("default", "n")
        assert await _states(store) == {"country": "ready"}

    async def test_an_absent_property_is_no_value(self, store: EventStore) -> None:
        """A dimension with as many values as there may be also takes events without it."""
        await add(store, "n")
        chunk = a_chunk(*_numbered(0, MOST_VALUES), an_event(event_id=2), an_event(event_id=3, properties={"n": 1e0}))
        await store.append([chunk])
        assert await store.dimensions("default") == (Dimension(name="n", state="ready", values=MOST_VALUES),)
        await _check(store, model_of([chunk]), "activity", "n")

    async def test_a_value_that_is_too_long_makes_it_full(self, store: EventStore) -> None:
        """No question could name it, and it would be kept for every day."""
        await add(store, "n")
        chunk = a_chunk(an_event(event_id=1), an_event(event_id=2, properties={"n": "x" * (MOST_VALUE_CHARS + 1)}))
        await store.append([chunk])
        await _check(store, model_of([chunk]), "events", "n")
        assert await _states(store) == {"n": "full"}

    async def test_one_that_cannot_be_built_is_full(self, store: EventStore) -> None:
        """It is said, and it stays declared, so that the list says it too."""
        chunk = a_chunk(*_numbered(0, MOST_VALUES + 1))
        await store.append([chunk])
        with pytest.raises(StoreError) as caught:
            await add(store, "n")
        assert caught.value.code == "dimension_full"
        assert await _states(store) == {"n": "full"}
        await _fold_all(store)
        await _check(store, model_of([chunk]), "events", "n")
        assert list(await store.verify()) == []

    async def test_a_check_fills_nothing(self, store: EventStore) -> None:
        """What is tried and taken back has brought no value."""
        await add(store, "n")
        await store.check(a_chunk(*_numbered(0, MOST_VALUES + 1)))
        chunk = a_chunk(*_numbered(0, 3))
        await asyncio.gather(
            store.check(a_chunk(*_numbered(0, MOST_VALUES + 1))),
            kind_of(store.append([a_chunk(*_numbered(0, MOST_VALUES + 1), a_poison())])),
            store.append([chunk]),
        )
        assert await store.dimensions("default") == (Dimension(name="n", state="ready", values=3),)
        await _check(store, model_of([chunk]), "activity", "n")
        assert list(await store.verify()) == []

    # Building

    @pytest.mark.parametrize("folded", [0, 100, _ALL])
    async def test_one_that_was_left_is_begun_again(self, projecting: EventStore, folded: int) -> None:
        """Until it is built, questions read events, and it takes what comes; however much of that is folded."""
        chunks = [_visits(200), _visits(200, first=200)]
        await projecting.append(chunks[:1])
        await _begin(projecting.add_dimension("default", "country"))
        assert await _states(projecting) == {"country": "building"}
        await projecting.append(chunks[1:])
        if folded:
            await projecting.fold(folded)
        await _check(projecting, model_of(chunks), "events")
        assert list(await projecting.verify()) == []

        done = await add(projecting, "country")
        assert [(step.done, step.steps) for step in done] == [(turn + 1, len(done)) for turn in range(len(done))]
        assert [step.period for step in done] == [*(f"2026-03-0{day}" for day in range(1, 6)), "2026-03"]
        assert sum(step.events for step in done) == 400
        await _check(projecting, model_of(chunks), "activity")
        assert await add(projecting, "country") == []
        assert list(await projecting.verify()) == []
        await _fold_all(projecting)
        await _check(projecting, model_of(chunks), "activity")
        assert list(await projecting.verify()) == []

    async def test_one_that_is_removed_while_it_is_built(self, projecting: EventStore) -> None:
        """Whoever builds it is told."""
        await projecting.append([_visits(200)])
        async with aclosing(projecting.add_dimension("default", "country")) as steps:
            await anext(steps)
            await projecting.remove_dimension("default", "country")
            with pytest.raises(StoreError) as caught:
                await anext(steps)
        assert caught.value.code == "dimension_removed"
        assert await _states(projecting) == {}
        assert list(await projecting.verify()) == []

    async def test_a_rebuild_finds_nothing_wrong(self, projecting: EventStore) -> None:
        """What dimensions have is part of what there has to be, also of one that is not built yet."""
        chunks = [_visits(200), _visits(200, first=200)]
        await projecting.append(chunks[:1])
        await add(projecting, "country")
        await _fold_all(projecting)
        await projecting.append(chunks[1:])
        async with aclosing(projecting.rebuild()) as steps:
            assert sum([step.rows async for step in steps]) == 0
        await _check(projecting, model_of(chunks), "activity")

        await _begin(projecting.add_dimension("default", "event"))
        await _fold_all(projecting)
        async with aclosing(projecting.rebuild("default")) as steps:
            assert [step.left async for step in steps if step.left] == []
        await add(projecting, "event")
        await _check(projecting, model_of(chunks), "activity", "event")
        assert list(await projecting.verify()) == []

    @pytest.mark.parametrize("left", [False, True])
    async def test_another_zone_keeps_dimensions(self, projecting: EventStore, left: bool) -> None:
        """Going over to it, or having begun to, before and while one is built."""
        chunks = [_visits(200), _visits(200, first=200)]
        model = model_of(chunks)
        await projecting.append(chunks[:1])
        await _fold_all(projecting)
        await add(projecting, "country")
        if left:
            await _begin(projecting.rebuild_in_zone("Asia/Kathmandu"))
        else:
            async with aclosing(projecting.rebuild_in_zone("Asia/Kathmandu")) as steps:
                assert [step async for step in steps]
        await projecting.append(chunks[1:])
        await add(projecting, "event")
        await _fold_all(projecting)
        for name in ("country", "event"):
            await _check(projecting, model, "activity", name)
        async with aclosing(projecting.rebuild_in_zone("Asia/Kathmandu")) as steps:
            assert [step async for step in steps]
        assert list(await projecting.verify()) == []
        for name in ("country", "event"):
            await _check(projecting, model, "activity", name)

    async def test_a_zone_that_changes_while_one_is_built(self, projecting: EventStore) -> None:
        """Rows of the new zone may lack what was not built when they were made: it is not ready, and begun again."""
        chunk = _visits(400)
        await projecting.append([chunk])
        await _fold_all(projecting)
        async with aclosing(projecting.add_dimension("default", "country")) as steps:
            await anext(steps)
            await _begin(projecting.rebuild_in_zone("Europe/Kyiv"))
            with pytest.raises(StoreError) as caught:
                await _exhaust(steps)
        assert caught.value.code == "zone_changed"
        assert await _states(projecting) == {"country": "building"}
        async with aclosing(projecting.rebuild_in_zone("Europe/Kyiv")) as steps:
            assert [step async for step in steps]
        await add(projecting, "country")
        await _check(projecting, model_of([chunk]), "activity")
        assert list(await projecting.verify()) == []

    # Several at once

    async def test_another_opener_writes_facts_from_its_next_append_on(
        self, store: EventStore, beside: EventStore
    ) -> None:
        """It has written before, and nobody tells it but the store."""
        chunks = [_visits(30, first=30 * turn) for turn in range(6)]
        model = Model()
        for turn, chunk in enumerate(chunks):
            model.append(chunk)
            await beside.append([chunk])
            source = "activity" if turn % 2 else "events"
            for one in (store, beside):
                await _check(one, model, "events" if turn == 0 else source)
            if turn % 2:
                await store.remove_dimension("default", "country")
            else:
                await add(store, "country")
            assert await _states(store) == await _states(beside)
        assert list(await store.verify()) == []

    async def test_events_that_come_while_one_is_added(self, store: EventStore, backend: StoreBackend) -> None:
        """Every one of them has it or is built; nobody's answer is wrong at any moment."""
        other = await backend.open("here") if backend.shared else store
        chunks = [_visits(5, first=5 * turn) for turn in range(60)]

        async def keep_writing(writer: EventStore, first: int) -> None:
            for chunk in chunks[first::4]:
                await writer.append([chunk])

        async def keep_declaring() -> None:
            for _ in range(3):
                await asyncio.sleep(0.01)
                await add(store, "country")
                await store.fold(50)
                await store.remove_dimension("default", "country")
            await add(store, "country")

        await asyncio.gather(
            keep_declaring(), *(keep_writing(store if first % 2 else other, first) for first in range(4))
        )
        await _check(store, model_of(chunks), "activity")
        await _fold_all(store)
        await _check(other, model_of(chunks), "activity")
        assert list(await store.verify()) == []
        if other is not store:
            await other.close()

    async def test_two_that_add_the_same_make_it_once(self, store: EventStore) -> None:
        """Also while others add others."""
        chunk = _visits(300)
        await store.append([chunk])
        await asyncio.gather(*(add(store, name) for name in ("country", "country", "event", "country")))
        assert await _states(store) == {"country": "ready", "event": "ready"}
        await _check(store, model_of([chunk]), "activity")
        assert list(await store.verify()) == []

    async def test_new_values_at_once_get_one_key_each(self, store: EventStore, backend: StoreBackend) -> None:
        """Writers at the same time meet the same values for the first time."""
        other = await backend.open("here") if backend.shared else store
        await add(store, "n")
        chunks = [
            a_chunk(
                *(an_event(event_id=1 + 20 * turn + n, user_id=f"user {turn}", properties={"n": n}) for n in range(20))
            )
            for turn in range(12)
        ]
        await asyncio.gather(*((store, other)[turn % 2].append([chunk]) for turn, chunk in enumerate(chunks)))
        await _check(store, model_of(chunks), "activity", "n")
        assert await store.dimensions("default") == (Dimension(name="n", state="ready", values=20),)
        assert list(await store.verify()) == []
        if other is not store:
            await other.close()

    async def test_it_outlives_the_process(self, store: EventStore, reopen: Any) -> None:
        """A built one, one that is being built, and a full one."""
        chunk = a_chunk(*_numbered(0, 3), *_visits(30).events)
        await store.append([chunk])
        await add(store, "country")
        await add(store, "n")
        await _begin(store.add_dimension("default", "event"))
        await store.append([a_chunk(*_numbered(10, MOST_VALUES))])
        again = await reopen()
        assert await _states(again) == {"country": "ready", "event": "building", "n": "full"}
        model = model_of([chunk, a_chunk(*_numbered(10, MOST_VALUES))])
        await _check(again, model, "activity")
        await _check(again, model, "events", "event")
        await add(again, "event")
        await _check(again, model, "activity", "event")
        assert list(await again.verify()) == []

    async def test_a_dead_letter_that_is_replayed_has_it(self, store: EventStore) -> None:
        """However an event gets in."""
        await add(store, "country")
        event = an_event(event_id=1, properties={"country": "UA"})
        await store.append([a_burial(event)])
        await store.replay("default", names_of(event))
        await _check(store, model_of([a_chunk(event)]), "activity")

    async def test_a_question_about_no_time_is_answered(self, store: EventStore) -> None:
        """By either way."""
        query = a_query(slots=(), selections=(a_selection(**{"properties.country": "UA"}),))
        await store.append([_visits(3)])
        assert seen(await store.activity(query)) == model_of([]).activity(query)
        await add(store, "country")
        assert seen(await store.activity(query)) == model_of([]).activity(query)
        assert (await store.activity(a_query(WHOLE_DAY))).computed_from == "activity"


def _numbered(first: int, count: int) -> list[Event]:
    """Events that differ in a number."""
    return [
        an_event(event_id=10_000 + number, user_id=f"user {number % 7}", properties={"n": number})
        for number in range(first, first + count)
    ]
