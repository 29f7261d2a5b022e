"""The rebuild: it changes no answer, whenever it comes, whoever does it, and wherever it is left.

A store cannot be damaged through its port; that a rebuild mends damage is for the tests of each adapter. Here it has
nothing to mend, and every row that it changes is one that it makes wrong.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, suppress
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventcore.activity import ActivityQuery
from eventcore.calendar import QUARTER_US, day_spans, find_zone, to_datetime
from eventcore.contract.event_store.asking import (
    DAY_US,
    HOUR_US,
    MIDNIGHT_US,
    a_project,
    a_query,
    kind_of,
    model_of,
)
from eventcore.contract.event_store.backend import StoreBackend, StoreFixtures
from eventcore.contract.event_store.model import Model, seen
from eventcore.errors import Kind, StoreError
from eventcore.events import Chunk
from eventcore.ports import EventStore, Rebuilt
from eventcore.strategies import a_chunk, an_event

_ALL = 1_000_000
_DAYS = 40
_TYPES = ("page_view", "signup", "purchase")
_ZONES = ("Asia/Kathmandu", "America/St_Johns", "Europe/Kyiv", "Pacific/Apia", "UTC")
_SETTINGS = settings(
    deadline=None,
    max_examples=15,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,  # one store for all examples: each takes a project of its own
        HealthCheck.differing_executors,  # a contract is there to be inherited
        HealthCheck.too_slow,
    ],
)


async def _all_of(steps: AsyncGenerator[Rebuilt, None]) -> list[Rebuilt]:
    async with aclosing(steps):
        return [step async for step in steps]


async def _some_of(steps: AsyncGenerator[Rebuilt, None], count: int) -> None:
    """So many steps, and away."""
    async with aclosing(steps):
        for _ in range(count):
            await anext(steps, None)


async def _change_rows(steps: AsyncGenerator[Rebuilt, None]) -> int:
    """How many rows a rebuild changes that has nothing to complain of."""
    done = await _all_of(steps)
    assert [step for step in done if step.left] == []
    return sum(step.rows for step in done)


async def _fold_all(store: EventStore) -> None:
    while await store.fold(_ALL):
        pass


def _busy_days(project: str = "default") -> list[Chunk]:
    """Three events a day and some at the very end of one, by users who come again, in chunks out of order."""
    events = [
        an_event(
            event_id=number,
            user_id=f"user {number * 7 % 23}",
            event_type=_TYPES[number % 3],
            occurred_us=MIDNIGHT_US + number * 8 * HOUR_US - (number % 9 == 0),
        )
        for number in range(3 * _DAYS)
    ]
    return [a_chunk(*events[turn::5], project=project) for turn in (3, 0, 4, 1, 2)]


def _questions(project: str = "default") -> list[ActivityQuery]:
    """Local days of several zones with their types and history, and a stretch of months."""
    first = to_datetime(MIDNIGHT_US - DAY_US).date()
    days = [day_spans(find_zone(zone), first, first + timedelta(_DAYS + 1)) for zone in _ZONES]
    months = ((MIDNIGHT_US - 40 * DAY_US, MIDNIGHT_US + 80 * DAY_US),)
    return [
        *(a_query(*spans, project=project, split="event_type", history=True) for spans in days),
        a_query(months, project=project),
    ]


async def _answers(store: EventStore, project: str = "default") -> list[object]:
    return [seen(await store.activity(query)) for query in _questions(project)]


def _wanted(chunks: Sequence[Chunk], project: str = "default") -> list[object]:
    model = model_of(chunks)
    return [model.activity(query) for query in _questions(project)]


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.lists(st.integers(0, 4 * _DAYS), min_size=1, max_size=8)),
        st.tuples(st.just("fold"), st.sampled_from((1, 5, _ALL))),
        st.tuples(st.just("rebuild"), st.sampled_from((1, 3, _ALL))),
        st.tuples(st.sampled_from(_ZONES), st.sampled_from((0, 1, _ALL))),
    ),
    min_size=3,
    max_size=12,
)


class Rebuilding(StoreFixtures):
    """A rebuild changes no answer, and finds nothing wrong where nothing was damaged."""

    @pytest.mark.parametrize("folded", ["nothing", "a part", "all"])
    async def test_it_finds_nothing_wrong(self, projecting: EventStore, folded: str) -> None:
        """What waits to be folded is among the events, and must not be counted twice when it is folded later."""
        chunks = _busy_days()
        for chunk in chunks:
            await projecting.append([chunk])
            if folded == "a part":
                await projecting.fold(10)
        if folded == "all":
            await _fold_all(projecting)
        done = await _all_of(projecting.rebuild())

        assert [(step.rows, step.left) for step in done] == [(0, "")] * len(done)
        assert await _answers(projecting) == _wanted(chunks)
        await _fold_all(projecting)
        assert await _answers(projecting) == _wanted(chunks)
        assert list(await projecting.verify()) == []

    async def test_it_tells_each_step(self, projecting: EventStore) -> None:
        """Days of UTC, then months, one after the other, with all events of each day."""
        await projecting.append(_busy_days())
        await projecting.append([a_chunk(an_event(occurred_us=MIDNIGHT_US), project="other")])
        await _fold_all(projecting)
        done = await _all_of(projecting.rebuild())

        assert [(step.done, step.steps) for step in done] == [(n + 1, len(done)) for n in range(len(done))]
        of_default = [step for step in done if step.project == "default"]
        first = to_datetime(MIDNIGHT_US).date()
        days = [(first + timedelta(day)).isoformat() for day in range(-1, _DAYS)]
        assert [step.period for step in of_default] == [*days, "2026-02", "2026-03", "2026-04"]
        assert sum(step.events for step in of_default) == 3 * _DAYS
        assert [step.events for step in of_default[-3:]] == [0] * 3
        assert [(step.period, step.events) for step in done if step.project == "other"] == [
            ("2026-03-01", 1),
            ("2026-03", 0),
        ]

    async def test_only_what_was_asked_for_is_made_anew(self, projecting: EventStore) -> None:
        """One project, or none where there is no such one."""
        for name in ("one", "other"):
            await projecting.append(_busy_days(name))
        await _fold_all(projecting)

        assert {step.project for step in await _all_of(projecting.rebuild("other"))} == {"other"}
        assert {step.project for step in await _all_of(projecting.rebuild())} == {"one", "other"}
        assert await _all_of(projecting.rebuild("nobody")) == []
        assert "nobody" not in (await projecting.describe()).counts

    async def test_an_empty_store_has_nothing_to_rebuild(self, store: EventStore) -> None:
        """Nor has one without a projection; going over to a zone is possible all the same."""
        assert await _all_of(store.rebuild()) == []
        assert await _all_of(store.rebuild_in_zone("Europe/Kyiv")) == []
        chunks = _busy_days()
        await store.append(chunks)
        await _fold_all(store)

        assert await _answers(store) == _wanted(chunks)
        assert list(await store.verify()) == []

    async def test_a_store_without_a_projection_rebuilds_nothing(
        self, backend: StoreBackend, store: EventStore
    ) -> None:
        """It may be asked to all the same."""
        if backend.projected:
            pytest.skip(f"{backend.name} has a projection")
        await store.append(_busy_days())

        assert await _all_of(store.rebuild()) == []
        assert await _all_of(store.rebuild_in_zone("Europe/Kyiv")) == []

    @given(steps=_STEPS)
    @_SETTINGS
    async def test_whenever_it_comes_answers_are_the_same(
        self, store: EventStore, steps: list[tuple[str, int | list[int]]]
    ) -> None:
        """Appends, folds, rebuilds and changes of zone in any order, some of them left in the middle."""
        project = a_project()
        model = Model()
        number = 0
        for what, value in steps:
            if isinstance(value, list):
                events = [
                    an_event(
                        event_id=(number := number + 1),
                        user_id=f"user {at % 7}",
                        event_type=_TYPES[at % 3],
                        occurred_us=MIDNIGHT_US + at * 6 * HOUR_US + at % 5 * QUARTER_US,
                    )
                    for at in value
                ]
                model.append(a_chunk(*events, project=project))
                await store.append([a_chunk(*events, project=project)])
            elif what == "fold":
                await store.fold(value)
            elif what == "rebuild":
                await _some_of(store.rebuild(project), value) if value < _ALL else await _all_of(store.rebuild(project))
            elif value < _ALL:
                await _some_of(store.rebuild_in_zone(what), value)
            else:
                await _all_of(store.rebuild_in_zone(what))
            assert await _answers(store, project) == [model.activity(query) for query in _questions(project)]
        assert await _change_rows(store.rebuild(project)) == 0
        assert list(await store.verify(project)) == []

    @pytest.mark.parametrize("zone", _ZONES[:-1])
    async def test_the_zone_may_change(
        self, projecting: EventStore, zone: str, reopen: Callable[[], Awaitable[EventStore]]
    ) -> None:
        """Answers are the same at every step, with folds between them, and afterwards; then nothing is left to do."""
        chunks = _busy_days()
        await projecting.append(chunks[:3])
        await _fold_all(projecting)
        for chunk in chunks[3:]:
            await projecting.append([chunk])
        rows = 0
        async with aclosing(projecting.rebuild_in_zone(zone)) as steps:
            async for step in steps:
                rows += step.rows
                assert await _answers(projecting) == _wanted(chunks)
                await projecting.fold(1)
        assert rows > 0
        assert await _answers(projecting) == _wanted(chunks)
        assert list(await projecting.verify()) == []
        await _fold_all(projecting)
        assert await _answers(projecting) == _wanted(chunks)
        assert await _change_rows(projecting.rebuild_in_zone(zone)) == 0
        assert await _change_rows(projecting.rebuild()) == 0

        reopened = await reopen()
        assert await _answers(reopened) == _wanted(chunks)
        assert list(await reopened.verify()) == []

    async def test_a_change_of_zone_may_be_left(self, projecting: EventStore) -> None:
        """And taken up again after more folds, or given up for another zone, or for the one there was."""
        sent = _busy_days()
        await projecting.append(sent[:2])
        await _fold_all(projecting)
        for turn, zone in enumerate(("Europe/Kyiv", "Asia/Kathmandu", "UTC")):
            await _some_of(projecting.rebuild_in_zone("Europe/Kyiv"), 1)
            await projecting.append([sent[2 + turn]])
            await _fold_all(projecting)
            await _all_of(projecting.rebuild_in_zone(zone))
            assert await _answers(projecting) == _wanted(sent[: 3 + turn])
            assert await _change_rows(projecting.rebuild()) == 0
            assert list(await projecting.verify()) == []

    async def test_two_zones_at_once_end_in_one(self, projecting: EventStore, beside: EventStore) -> None:
        """Whoever comes first is told that the other has come."""
        chunks = _busy_days()
        await projecting.append(chunks)
        await _fold_all(projecting)
        async with aclosing(projecting.rebuild_in_zone("Europe/Kyiv")) as first:
            await anext(first)
            async with aclosing(beside.rebuild_in_zone("Asia/Kathmandu")) as second:
                await anext(second)
                assert await kind_of(anext(first)) is Kind.UNAVAILABLE
                assert len([step async for step in second]) > 0
        for store in (projecting, beside):
            assert await _answers(store) == _wanted(chunks)
        assert await _change_rows(beside.rebuild_in_zone("Asia/Kathmandu")) == 0
        assert list(await projecting.verify()) == []

    async def test_an_unknown_zone_is_refused(self, store: EventStore) -> None:
        """Before anything is changed."""
        for zone in ("Europe/Nowhere", "", "../UTC"):
            assert await kind_of(_all_of(store.rebuild_in_zone(zone))) is Kind.INVALID

    async def test_another_opener_sees_a_change_of_zone(self, projecting: EventStore, beside: EventStore) -> None:
        """Whoever has asked before remembers rows of the old zone, which must not pass for those of the new one."""
        chunks = _busy_days()
        await projecting.append(chunks)
        for zone in ("Europe/Kyiv", "Pacific/Apia", "UTC", "Europe/Kyiv"):
            await projecting.fold(30)
            assert await _answers(beside) == _wanted(chunks)
            await _all_of(projecting.rebuild_in_zone(zone))
            assert await _answers(beside) == _wanted(chunks)

    @pytest.mark.parametrize("zones", [(), ("Europe/Kyiv", "UTC")], ids=["one zone", "two zones"])
    async def test_no_answer_holds_half_a_rebuild(self, projecting: EventStore, zones: Sequence[str]) -> None:
        """Appends, folds, rebuilds and questions at once, of one opener."""
        await _ask_while_rebuilding([projecting], zones)

    @pytest.mark.parametrize("zones", [(), ("Europe/Kyiv", "UTC")], ids=["one zone", "two zones"])
    async def test_no_answer_holds_half_a_rebuild_of_another(
        self, projecting: EventStore, beside: EventStore, zones: Sequence[str]
    ) -> None:
        """The same of two openers, who both rebuild."""
        await _ask_while_rebuilding([projecting, beside], zones)

    async def test_a_closed_store_rebuilds_nothing(self, store: EventStore) -> None:
        """It refuses, as it does everything else."""
        await store.close()

        assert await kind_of(_all_of(store.rebuild())) is Kind.CLOSED
        assert await kind_of(_all_of(store.rebuild_in_zone("UTC"))) is Kind.CLOSED


async def _ask_while_rebuilding(stores: Sequence[EventStore], zones: Sequence[str]) -> None:
    """Every append brings a new user with one event of a new type on each of three days; answers must say so."""
    days = range(-1, 2)
    queries = [
        a_query(
            *(((MIDNIGHT_US + day * DAY_US + less_us, MIDNIGHT_US + (day + 1) * DAY_US - less_us),) for day in days),
            split="event_type",
        )
        for less_us in (0, QUARTER_US)
    ]
    begun = 0
    written = 0

    async def keep_writing() -> None:
        nonlocal begun, written
        for turn in range(60):
            events = [
                an_event(
                    event_id=3 * turn + day + 1,
                    user_id=f"user {turn}",
                    event_type=f"type {turn}",
                    occurred_us=MIDNIGHT_US + day * DAY_US + turn % 20 * HOUR_US + HOUR_US,
                )
                for day in days
            ]
            begun += 1
            await stores[turn % len(stores)].append([a_chunk(*events)])
            written += 1

    async def keep_folding(store: EventStore) -> None:
        while not writing.done():
            await store.fold(20)
            await asyncio.sleep(0)

    async def keep_rebuilding(store: EventStore) -> list[Rebuilt]:
        wrong: list[Rebuilt] = []
        while not writing.done():
            with suppress(StoreError):  # the zone is another one than when it began
                async with aclosing(store.rebuild()) as steps:
                    wrong += [step async for step in steps if step.left or (step.rows and not _may_change(step))]
        return wrong

    def _may_change(step: Rebuilt) -> bool:
        """Months of a zone that became the next one meanwhile."""
        return bool(zones) and len(step.period) == len("2026-03")

    async def keep_changing(store: EventStore) -> None:
        while not writing.done():
            for zone in zones:
                await _all_of(store.rebuild_in_zone(zone))
            await asyncio.sleep(0)

    async def keep_asking(store: EventStore, query: ActivityQuery) -> list[object]:
        wrong: list[object] = []
        while not writing.done():
            least = written
            [part] = (await store.activity(query)).selections
            found = {(len(tally.users), tally.events, len(tally.parts)) for tally in part.slots}
            if found not in [{(number, number, number)} for number in range(least, begun + 1)]:
                wrong.append((least, found, begun))
            await asyncio.sleep(0)
        return wrong

    writing = asyncio.create_task(keep_writing())
    folding = asyncio.gather(*(keep_folding(store) for store in stores))
    changing = asyncio.create_task(keep_changing(stores[-1]))
    rebuilding = asyncio.gather(*(keep_rebuilding(store) for store in stores))
    found = await asyncio.gather(*(keep_asking(store, query) for store in stores for query in queries))
    await asyncio.gather(folding, changing, writing)

    assert [wrong for answers in found for wrong in answers] == []
    assert [wrong for steps in await rebuilding for wrong in steps] == []
    for store in stores:
        await _fold_all(store)
        assert await _change_rows(store.rebuild()) == 0
    assert list(await stores[-1].verify()) == []
