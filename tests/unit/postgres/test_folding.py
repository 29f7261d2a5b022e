"""The projection in PostgreSQL: what a fold writes, what is remembered of it, and what people see of it in SQL."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from adapters.postgres import folding, migrate, open_store
from adapters.postgres.connections import Session
from eventcore.activity import ActivityQuery
from eventcore.calendar import day_spans, find_zone
from eventcore.conditions import Selection
from eventcore.contract.event_store.model import Model, seen
from eventcore.errors import Kind, StoreError
from eventcore.events import Chunk, Event
from eventcore.ports import EventStore
from eventcore.strategies import AN_INSTANT_US, a_chunk, an_event

DAY_US = 86_400_000_000
HOUR_US = DAY_US // 24
READS = {"read_rows", "read_rows_of_all_types"}

Reads = list[tuple[str, Mapping[str, Any]]]


@pytest.fixture
async def connection(url: str) -> AsyncIterator[asyncpg.Connection]:
    """For looking at the tables, and changing them behind the store's back."""
    connection = await asyncpg.connect(url)
    yield connection
    await connection.close()


@pytest.fixture
def statements_run(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """The names of all statements that are run, with their values."""
    run: Reads = []
    rows = Session.rows

    async def noted(self: Session, name: str, /, **values: Any) -> Any:
        run.append((name, values))
        return await rows(self, name, **values)

    monkeypatch.setattr(Session, "rows", noted)
    return run


def periods_read(run: Reads) -> list[tuple[int, int]]:
    """The rows that were read, by grain and period."""
    return [
        place
        for name, values in run
        if name in READS
        for place in zip(values["grains"], values["periods"], strict=True)
    ]


def in_days(*days: int, user: str = "user", first_id: int = 0, **others: Any) -> Chunk:
    """An event on each of these days since 1970."""
    return a_chunk(
        *(
            an_event(event_id=first_id + number, user_id=f"{user} {number}", occurred_us=day * DAY_US)
            for number, day in enumerate(days)
        ),
        **others,
    )


def about(*days: int, **others: Any) -> ActivityQuery:
    """A slot for each of these days since 1970."""
    slots = tuple(((day * DAY_US, (day + 1) * DAY_US),) for day in days)
    return ActivityQuery(project="default", slots=slots, **others)


async def events_of(store: EventStore, query: ActivityQuery) -> list[int]:
    """How many events each slot has."""
    [part] = (await store.activity(query)).selections
    return [tally.events for tally in part.slots]


# What is remembered


async def test_a_warm_question_reads_no_rows(store: EventStore, statements_run: Reads) -> None:
    """Nor does one with history, or about types; events that wait are counted all the same."""
    await store.append([in_days(*range(100))])
    await store.fold(1_000)
    queries = [about(70, 71, history=True), about(70, 71, split="event_type")]
    first = [seen(await store.activity(query)) for query in queries]
    statements_run.clear()

    assert [seen(await store.activity(query)) for query in queries] == first
    assert periods_read(statements_run) == []
    await store.append([in_days(70, user="late", first_id=1_000)])
    assert [await events_of(store, query) for query in queries] == [[2, 1]] * 2
    assert periods_read(statements_run) == []


async def test_a_late_event_costs_its_own_day(store: EventStore, statements_run: Reads) -> None:
    await store.append([in_days(*range(90))])
    await store.fold(1_000)
    days = range(60, 90)
    assert await events_of(store, about(*days)) == [1] * 30
    for turn in range(3):
        await store.append([in_days(75, user="late", first_id=1_000 + turn)])
        await store.fold(1_000)
    statements_run.clear()

    assert await events_of(store, about(*days)) == [1] * 15 + [4] + [1] * 14
    assert periods_read(statements_run) == [(1, 75)]


async def test_types_cost_nothing_where_nobody_asks_for_them(store: EventStore, statements_run: Reads) -> None:
    await store.append([a_chunk(*(an_event(event_id=n, event_type=f"type {n}", occurred_us=0) for n in range(500)))])
    await store.fold(1_000)
    assert await events_of(store, about(0)) == [500]

    assert [values["type_keys"] for name, values in statements_run if name == "read_rows"] == [[-1]]
    assert "type_names" not in [name for name, _ in statements_run]


async def test_after_more_folds_than_are_kept_all_is_read_again(
    store: EventStore, url: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, statements_run: Reads
) -> None:
    monkeypatch.setattr(folding, "FOLDS_KEPT", 3)
    beside = await open_store(url)
    await beside.append([in_days(1, 2, 3)])
    await beside.fold(100)
    for folds, read in ((2, [(1, 1)]), (3, [(1, 1), (1, 2), (1, 3)])):
        assert await events_of(store, about(2, 3)) == [1, 1]
        before = (await events_of(store, about(1)))[0]
        for turn in range(folds):
            await beside.append([in_days(1, user="late", first_id=100 * folds + turn)])
            await beside.fold(100)
        statements_run.clear()
        assert await events_of(store, about(1, 2, 3)) == [before + folds, 1, 1]
        assert periods_read(statements_run) == read
    assert await connection.fetchval("SELECT array_agg(fold ORDER BY fold) FROM activity_folds") == [4, 5, 6]
    await beside.close()


async def test_a_restored_backup_is_never_taken_for_what_it_was(
    store: EventStore, url: str, connection: asyncpg.Connection
) -> None:
    """Fold numbers that come a second time, with other rows, under the very same epoch."""
    await store.append([in_days(1)])
    await store.fold(100)
    tables = ("activity_bitmaps", "activity_folds", "activity_delta")
    for table in tables:
        await connection.execute(f"CREATE TABLE saved_{table} AS TABLE {table}")
    await store.append([in_days(2, first_id=10)])
    await store.fold(100)
    assert await events_of(store, about(1, 2)) == [1, 1]
    for table in tables:
        await connection.execute(f"DELETE FROM {table}; INSERT INTO {table} TABLE saved_{table}")
    assert await events_of(store, about(1, 2)) == [1, 0]

    other = await open_store(url)
    await other.append([in_days(1, 1, first_id=20)])
    await other.fold(100)
    assert await events_of(store, about(1, 2)) == [3, 0]
    await other.append([in_days(3, first_id=30)])
    await other.fold(100)
    assert await events_of(store, about(1, 2, 3)) == [3, 0, 1]
    await other.close()


async def test_a_question_with_an_older_snapshot_remembers_by_itself(
    store: EventStore, monkeypatch: pytest.MonkeyPatch, statements_run: Reads
) -> None:
    """It has seen its version before a fold and reads its rows after another question has seen the fold.

    Both answers are those of their moments, and what the newer one has read stays.
    """
    await store.append([in_days(1, 2)])
    await store.fold(100)
    rows = Session.rows
    meanwhile: list[list[int]] = []

    async def late(self: Session, name: str, /, **values: Any) -> Any:
        if name in READS and not meanwhile:
            meanwhile.append([])
            await store.append([in_days(1, 2, user="late", first_id=10)])
            await store.fold(100)
            meanwhile[0] = await events_of(store, about(1, 2))
        return await rows(self, name, **values)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "rows", late)
        assert await events_of(store, about(1, 2)) == [1, 1]
    assert meanwhile == [[2, 2]]
    statements_run.clear()
    assert await events_of(store, about(1, 2)) == [2, 2]
    assert periods_read(statements_run) == []


async def test_a_question_whose_rows_were_dropped_meanwhile_reads_them(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it found remembered when it began is not there any more when it has read the rest."""
    await store.append([in_days(1, 2, 3)])
    await store.fold(100)
    await store.activity(about(1))
    rows = Session.rows

    async def forgetful(self: Session, name: str, /, **values: Any) -> Any:
        if name in READS:
            store._memory._kept._periods.clear()  # as a large question does
        return await rows(self, name, **values)

    monkeypatch.setattr(Session, "rows", forgetful)
    assert await events_of(store, about(1, 2, 3)) == [1, 1, 1]


async def test_a_damaged_row_is_an_error_each_time(store: EventStore, connection: asyncpg.Connection) -> None:
    """Of the store, with the command that tells more; never an answer that leaves the row out."""
    await store.append([in_days(1, 2)])
    await store.fold(100)
    assert await events_of(store, about(1, 2)) == [1, 1]
    await connection.execute("UPDATE activity_bitmaps SET users = '\\x00' WHERE grain = 1 AND period = 2")
    for _ in range(2):
        with pytest.raises(StoreError, match="eventcore verify") as caught:
            await store.activity(about(1, 2, split="event_type"))
        assert (caught.value.kind, caught.value.code) == (Kind.UNAVAILABLE, "damaged")
        assert await events_of(store, about(1)) == [1]
    await store.append([in_days(2, first_id=20)])
    with pytest.raises(StoreError, match="eventcore verify"):
        await store.fold(100)


async def test_a_fold_whose_changes_cannot_be_read_makes_all_be_read_again(
    store: EventStore, connection: asyncpg.Connection
) -> None:
    await store.append([in_days(1, 2)])
    await store.fold(100)
    assert await events_of(store, about(1, 2)) == [1, 1]
    await store.append([in_days(2, first_id=10)])
    await store.fold(100)
    await connection.execute("UPDATE activity_folds SET periods = '\\xc1' WHERE fold = 2")
    assert await events_of(store, about(1, 2)) == [1, 2]


# Folding


async def test_a_fold_that_fails_has_not_happened(
    store: EventStore, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is interrupted, by an error or by whoever does not want to wait."""
    await store.append([in_days(1, 2, 3)])
    rows = Session.rows
    names = ("take_deltas", "rows_to_change", "put_rows", "number_folds", "forget_folds")
    for failing in names:
        for error in (StoreError(Kind.UNAVAILABLE, "test", "the server is gone"), asyncio.CancelledError()):

            async def interrupted(
                self: Session, name: str, /, failing: str = failing, error: BaseException = error, **values: Any
            ) -> Any:
                found = await rows(self, name, **values)
                if name == failing:
                    raise error
                return found

            with monkeypatch.context() as patch:
                patch.setattr(Session, "rows", interrupted)
                with pytest.raises(type(error)):
                    await store.fold(100)
            assert await connection.fetchval("SELECT count(*) FROM activity_bitmaps") == 0
    assert await store.fold(100) == 3
    assert list(await store.verify()) == []


async def test_while_somebody_folds_nobody_else_does(
    store: EventStore, connection: asyncpg.Connection, statements_run: Reads
) -> None:
    """Others are told at once; they may go on with something else."""
    await store.append([in_days(1)])
    async with connection.transaction():
        await connection.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended('eventcore fold ' || current_schema(), 0))"
        )
        statements_run.clear()
        assert await asyncio.wait_for(store.fold(100), 5) == 0
        assert [name for name, _ in statements_run] == ["lock_fold"]
        assert await events_of(store, about(1)) == [1]
    assert await store.fold(100) == 1


async def test_a_fold_takes_a_bounded_number_of_deltas(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few events each has; and rows are changed in portions."""
    monkeypatch.setattr(folding, "MOST_DELTAS", 40)
    monkeypatch.setattr(folding, "_ROWS_AT_ONCE", 7)
    await store.append([in_days(*range(100))])

    assert [await store.fold(1_000) for _ in range(4)] == [40, 40, 20, 0]
    assert await events_of(store, about(*range(100))) == [1] * 100
    assert list(await store.verify()) == []


async def test_a_database_of_another_version_is_not_folded(store: EventStore, connection: asyncpg.Connection) -> None:
    await store.append([in_days(1)])
    await connection.execute("UPDATE store SET value = '99' WHERE key = 'schema_version'")
    with pytest.raises(StoreError) as caught:
        await store.fold(100)
    assert caught.value.kind is Kind.SCHEMA


# In SQL, and in other zones


def some_events() -> list[Event]:
    """Of five days and three types, by users who come again, at all hours."""
    return [
        an_event(
            event_id=number,
            user_id=f"user {number * 7 % 13}",
            event_type=f"type {number % 3}",
            occurred_us=AN_INSTANT_US + number * 37 * 60_000_000,
        )
        for number in range(180)
    ]


def day_of(event: Event, zone: str) -> date:
    return (
        (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=event.occurred_us))
        .astimezone(find_zone(zone))
        .date()
    )


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu"])
async def test_views_for_people(either_url: str, zone: str) -> None:
    """As of the last fold, in days of the projection's zone, as if counted one by one; of each project by its name."""
    connection = await asyncpg.connect(either_url)
    await connection.execute("UPDATE store SET value = $1 WHERE key = 'projection_zone'", zone)
    store = await open_store(either_url)
    sent = some_events()
    await store.append([a_chunk(*sent[:100]), a_chunk(*sent[100:], project="other")])
    assert await connection.fetch("TABLE daily_active_users") == []
    while await store.fold(30):
        pass
    await store.append([a_chunk(an_event(event_id=999))])

    users: defaultdict[tuple[Any, ...], set[str]] = defaultdict(set)
    events: Counter[tuple[Any, ...]] = Counter()
    for number, event in enumerate(sent):
        place = ("default" if number < 100 else "other", day_of(event, zone))
        for row in (place, (*place, event.event_type)):
            users[row].add(event.user_id)
            events[row] += 1
    expected = {(*row, len(users[row]), events[row]) for row in events}
    found = [tuple(row) for row in await connection.fetch("SELECT project, day, users, events FROM daily_active_users")]
    found += [
        tuple(row)
        for row in await connection.fetch("SELECT project, day, event_type, users, events FROM event_type_counts")
    ]
    assert len(found) == len(expected)
    assert set(found) == expected
    for view in ("daily_active_users", "event_type_counts"):
        comment = await connection.fetchval("SELECT obj_description($1::regclass)", view)
        assert "last fold" in comment
        assert "projection zone" in comment
    await store.close()
    await connection.close()


async def test_views_never_count_events(url: str, connection: asyncpg.Connection) -> None:
    for view in ("daily_active_users", "event_type_counts"):
        plan = await connection.fetch(f"EXPLAIN SELECT * FROM {view}")
        assert not any(table in line for (line,) in plan for table in ("events", "activity_delta", "Aggregate"))


@pytest.mark.parametrize("zone", ["America/St_Johns", "Pacific/Apia", "Asia/Kathmandu"])
async def test_the_projection_may_have_any_zone(url: str, connection: asyncpg.Connection, zone: str) -> None:
    """Days that are not plain are answered from quarters, or from events."""
    await connection.execute("UPDATE store SET value = $1 WHERE key = 'projection_zone'", zone)
    store = await open_store(url)
    middle = date(2010, 11, 7) if zone == "America/St_Johns" else date(2011, 12, 30)
    spans = {
        name: day_spans(find_zone(name), middle - timedelta(4), middle + timedelta(4))
        for name in (zone, "UTC", "Europe/Kyiv")
    }
    start_us = spans["UTC"][0][0][0]
    chunks = [
        a_chunk(
            *(
                an_event(event_id=n, user_id=f"user {n % 17}", occurred_us=start_us + n * 29 * 60_000_000)
                for n in range(turn, 500, 3)
            )
        )
        for turn in range(3)
    ]
    model = Model()
    for chunk in chunks:
        model.append(chunk)
        await store.append([chunk])
        await store.fold(120)
        for name in spans:
            query = ActivityQuery(project="default", slots=tuple(spans[name]), history=True, split="event_type")
            assert seen(await store.activity(query)) == model.activity(query)
        whole = ActivityQuery(project="default", slots=(((0, start_us + 30 * DAY_US),),), selections=(Selection(),))
        assert seen(await store.activity(whole)) == model.activity(whole)
    assert list(await store.verify()) == []
    await store.close()


async def test_users_lie_as_they_are(url: str, connection: asyncpg.Connection) -> None:
    assert (
        await connection.fetchval(
            "SELECT attstorage FROM pg_attribute WHERE attrelid = 'activity_bitmaps'::regclass AND attname = 'users'"
        )
        == b"e"
    )
    assert (await migrate(url))[0] == (await migrate(url))[1]
