"""The rebuild of a PostgreSQL store: every damage of the projection is mended, and what is all that is left is kept."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from typing import Any

import asyncpg
import pytest

from adapters.postgres import migrate, open_store, rebuilding
from adapters.postgres.connections import Session
from eventcore.activity import ActivityQuery
from eventcore.calendar import QUARTER_US
from eventcore.contract.event_store.asking import model_of
from eventcore.contract.event_store.model import seen
from eventcore.errors import Kind, StoreError
from eventcore.events import Chunk
from eventcore.ports import EventStore, Rebuilt
from eventcore.projection import QUARTERS, unpack_quarters, unpack_users
from eventcore.rebuilding import GONE, UNREADABLE
from eventcore.strategies import AN_INSTANT_US, a_chunk, an_event

DAY_US = 96 * QUARTER_US
DAY = AN_INSTANT_US // DAY_US
ALL = 1_000_000


@pytest.fixture
async def connection(url: str) -> AsyncIterator[asyncpg.Connection]:
    """For looking at the tables, and changing them behind the store's back."""
    connection = await asyncpg.connect(url)
    yield connection
    await connection.close()


def some(first: int, count: int, *, project: str = "default", day: int = DAY) -> Chunk:
    """Events of three types over five days, so many from a number on."""
    return a_chunk(
        *(
            an_event(
                event_id=number,
                user_id=f"u{number % 11}",
                event_type=f"t{number % 3}",
                occurred_us=(day + number % 5) * DAY_US + number * 97_000_000,
            )
            for number in range(first, first + count)
        ),
        project=project,
    )


def about_days(*days: int) -> ActivityQuery:
    return ActivityQuery(
        project="default",
        slots=tuple((((DAY + day) * DAY_US, (DAY + day + 1) * DAY_US),) for day in days or range(-1, 7)),
        split="event_type",
        history=True,
    )


async def rows_of(connection: asyncpg.Connection) -> dict[Any, Any]:
    """Every row with what it holds, however that is spelled."""
    rows = await connection.fetch(
        "SELECT project_key, grain, period, type_key, events, distinct_users, users FROM activity_bitmaps"
    )
    return {
        tuple(row[:4]): (tuple(row[4:6]), (unpack_quarters if row[1] == QUARTERS else unpack_users)(row[6]))
        for row in map(tuple, rows)
    }


async def all_of(store: EventStore, project: str | None = None) -> list[Rebuilt]:
    async with aclosing(store.rebuild(project)) as steps:
        return [step async for step in steps]


def changed_rows(steps: list[Rebuilt]) -> int:
    return sum(step.rows for step in steps)


INSERT = "INSERT INTO activity_bitmaps (project_key, grain, period, type_key, events, distinct_users, users) "
A_COPY = INSERT + "SELECT project_key, grain, {period}, {type_key}, events, distinct_users, users FROM activity_bitmaps"
DAMAGES = {
    "garbage": "UPDATE activity_bitmaps SET users = '\\x0102030405'",
    "garbage in some": "UPDATE activity_bitmaps SET users = '\\x01' WHERE (period + type_key) % 3 = 0",
    "empty": "UPDATE activity_bitmaps SET users = '' WHERE grain = 0",
    "cut": "UPDATE activity_bitmaps SET users = substr(users, 1, length(users) - 1)",
    "all gone": "DELETE FROM activity_bitmaps",
    "quarters gone": "DELETE FROM activity_bitmaps WHERE grain = 0",
    "days gone": "DELETE FROM activity_bitmaps WHERE grain = 1 AND type_key = -1",
    "months gone": "DELETE FROM activity_bitmaps WHERE grain = 2",
    "some gone": "DELETE FROM activity_bitmaps WHERE (period + type_key) % 3 = 1",
    "counts": "UPDATE activity_bitmaps SET events = events + 1",
    "distinct users": "UPDATE activity_bitmaps SET distinct_users = 1 WHERE grain > 0",
    "users of another": "UPDATE activity_bitmaps AS b SET users = (SELECT users FROM activity_bitmaps AS o "
    "WHERE o.grain = b.grain AND o.type_key <> b.type_key LIMIT 1)",
    "a day too many": A_COPY.format(period="period + 400", type_key="type_key") + " WHERE grain < 2",
    "a month too many": A_COPY.format(period="period + 4", type_key="type_key") + " WHERE grain = 2",
    "a type too many": A_COPY.format(period="period", type_key="7") + " WHERE type_key = 1",
    "periods of no calendar": A_COPY.format(period="period + 1000000000", type_key="type_key"),
    "all of it": "DELETE FROM activity_bitmaps WHERE (period + type_key) % 4 = 1;"
    "UPDATE activity_bitmaps SET users = '\\x0102' WHERE (period + type_key) % 4 = 0;"
    "UPDATE activity_bitmaps SET events = 0 WHERE (period + type_key) % 4 = 2;"
    + A_COPY.format(period="period + 33", type_key="type_key + 5"),
}


@pytest.mark.parametrize("damaging", DAMAGES.values(), ids=DAMAGES)
async def test_damage_is_mended(store: EventStore, url: str, connection: asyncpg.Connection, damaging: str) -> None:
    """With a part of the events folded and a part not; whoever remembers rows that were wrong forgets them."""
    other = await open_store(url)
    sent = [some(0, 60), some(100, 60, project="other"), some(200, 40)]
    await store.append(sent)
    await store.fold(ALL)
    late = some(300, 30)
    await store.append([late])
    right = await rows_of(connection)
    wanted = model_of([*sent, late]).activity(about_days())
    await connection.execute(damaging)
    assert await store.verify() != []
    for asking in (store, other):
        with suppress(StoreError):
            await asking.activity(about_days())
    assert changed_rows(await all_of(store)) > 0
    assert await rows_of(connection) == right
    assert [seen(await asking.activity(about_days())) for asking in (store, other)] == [wanted] * 2
    assert list(await store.verify()) == []
    assert changed_rows(await all_of(other)) == 0
    assert await other.fold(ALL) == 30
    assert [seen(await asking.activity(about_days())) for asking in (store, other)] == [wanted] * 2
    assert list(await store.verify()) == []
    await other.close()


async def test_only_the_project_asked_for_is_mended(store: EventStore, connection: asyncpg.Connection) -> None:
    await store.append([some(0, 30)])
    await store.append([some(0, 30, project="other")])
    await store.fold(ALL)
    right = await rows_of(connection)
    await connection.execute("DELETE FROM activity_bitmaps")
    await all_of(store, "other")
    assert await rows_of(connection) == {key: row for key, row in right.items() if key[0] == 2}
    await all_of(store)
    assert await rows_of(connection) == right


async def test_many_rows_are_written_in_parts(
    store: EventStore, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuilding, "_ROWS_AT_ONCE", 3)
    await store.append([some(0, 60)])
    await store.fold(ALL)
    right = await rows_of(connection)
    await connection.execute("DELETE FROM activity_bitmaps")
    await all_of(store)
    assert await rows_of(connection) == right


async def test_a_step_that_fails_has_not_happened(
    store: EventStore, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is interrupted, by an error or by whoever does not want to wait; the next rebuild does it all."""
    await store.append([some(0, 60)])
    await store.fold(ALL)
    right = await rows_of(connection)
    rows = Session.rows
    for failing in ("facts_of_day", "rows_between", "set_rows", "delete_rows", "number_folds", "forget_folds"):
        for error in (StoreError(Kind.UNAVAILABLE, "test", "the server is gone"), asyncio.CancelledError()):
            await connection.execute("UPDATE activity_bitmaps SET type_key = 7 WHERE type_key = 1")
            wrong = await connection.fetch("SELECT * FROM activity_bitmaps ORDER BY grain, period, type_key")

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
                    await all_of(store)
            assert (await connection.fetch("SELECT * FROM activity_bitmaps ORDER BY grain, period, type_key")) == wrong
            await all_of(store)
            assert await rows_of(connection) == right
    assert list(await store.verify()) == []


async def test_it_waits_for_a_fold(store: EventStore, url: str, connection: asyncpg.Connection) -> None:
    """And sees what that has done: else it would count what is folded a second time."""
    await store.append([some(0, 60)])
    other = await open_store(url)
    rows = Session.rows
    async with connection.transaction():
        await connection.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended('eventcore fold ' || current_schema(), 0))"
        )
        task = asyncio.create_task(all_of(store))
        await asyncio.sleep(0.3)
        assert not task.done()
        # What a fold does, which has the lock.
        await connection.execute("CREATE TABLE saved AS TABLE activity_delta; DELETE FROM activity_delta")
    done = await task
    assert changed_rows(done) > 0
    assert Session.rows is rows
    assert seen(await other.activity(about_days())) == model_of([some(0, 60)]).activity(about_days())
    assert list(await store.verify()) == []
    await other.close()


async def test_it_lets_folds_pass(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuilding, "FOLD_SECONDS", 0.0)
    await store.append([some(0, 60)])
    await all_of(store)
    assert await store.fold(ALL) == 0
    assert list(await store.verify()) == []


async def test_a_damaged_store_is_mended_while_events_come(
    store: EventStore, url: str, connection: asyncpg.Connection
) -> None:
    """Folds of damaged rows fail until these are mended, and lose nothing; days that are right stay exact."""
    other = await open_store(url)
    sent = [some(0, 60)]
    await store.append(sent)
    await store.fold(ALL)
    await connection.execute(f"UPDATE activity_bitmaps SET users = '\\x0102' WHERE grain = 0 AND period <> {DAY + 4}")

    async def keep_writing() -> None:
        for number in range(1, 40):
            sent.append(some(100 * number, 5))
            await (store, other)[number % 2].append(sent[-1:])

    async def keep_folding() -> None:
        while not writing.done():
            with suppress(StoreError):
                await other.fold(ALL)

    async def keep_asking() -> None:
        """About a day that is right."""
        query = about_days(4)
        while not writing.done():
            least = sum(len(chunk.events) for chunk in sent[:-2]) // 5
            [part] = (await store.activity(query)).selections
            assert least <= part.slots[0].events <= sum(len(chunk.events) for chunk in sent) // 5 + 1

    writing = asyncio.create_task(keep_writing())
    await asyncio.gather(keep_folding(), keep_asking(), *(all_of(one) for one in (store, other, store)))
    await writing
    assert changed_rows(await all_of(store)) == 0
    wanted = model_of(sent).activity(about_days())
    assert [seen(await asking.activity(about_days())) for asking in (store, other)] == [wanted] * 2
    while await store.fold(ALL):
        pass
    assert [seen(await asking.activity(about_days())) for asking in (store, other)] == [wanted] * 2
    assert list(await store.verify()) == []
    await other.close()


async def test_a_database_of_another_version_is_not_rebuilt(store: EventStore, connection: asyncpg.Connection) -> None:
    await store.append([some(0, 10)])
    await connection.execute("UPDATE store SET value = '99' WHERE key = 'schema_version'")
    for steps in (store.rebuild(), store.rebuild_in_zone("Europe/Kyiv")):
        with pytest.raises(StoreError) as caught:
            await anext(steps)
        assert caught.value.kind is Kind.SCHEMA


async def test_sql_shows_one_zone_or_the_other(store: EventStore, connection: asyncpg.Connection) -> None:
    """Never days of the one among those of the other, and never half of them."""
    await store.append([some(0, 60)])
    await store.fold(ALL)
    before = await connection.fetch("SELECT * FROM daily_active_users ORDER BY day")
    async with aclosing(store.rebuild_in_zone("America/Los_Angeles")) as steps:
        async for _ in steps:
            assert await connection.fetch("SELECT * FROM daily_active_users ORDER BY day") == before
    after = await connection.fetch("SELECT * FROM daily_active_users ORDER BY day")
    assert after != before
    assert sum(row["events"] for row in after) == 60
    assert await connection.fetch("SELECT value FROM store WHERE key LIKE 'projection%'") == [("America/Los_Angeles",)]


# Days whose events are gone


async def test_days_whose_events_are_gone_stay_as_they_are(store: EventStore, connection: asyncpg.Connection) -> None:
    """All of them or some; other days are made anew, and months from both."""
    sent = [some(0, 60)]
    await store.append(sent)
    await store.fold(ALL)
    right = await rows_of(connection)
    day = "occurred_at >= to_timestamp({0} * 86400) AND occurred_at < to_timestamp({1} * 86400)"
    await connection.execute(f"DELETE FROM events WHERE {day.format(DAY, DAY + 1)}")
    await connection.execute(
        f"DELETE FROM events WHERE event_id = (SELECT event_id FROM events WHERE {day.format(DAY + 1, DAY + 2)} LIMIT 1)"
    )
    await connection.execute("DELETE FROM activity_bitmaps WHERE grain > 0")
    await connection.execute(f"UPDATE activity_bitmaps SET users = '\\x01' WHERE period > {DAY + 1}")
    late = some(100, 10)
    await store.append([late])
    done = await all_of(store)

    assert [step.left for step in done] == [GONE, GONE, "", "", "", ""]
    assert await rows_of(connection) == right
    assert seen(await store.activity(about_days())) == model_of([*sent, late]).activity(about_days())


async def test_a_month_with_unreadable_rows_of_such_days_stays_as_it_is(
    store: EventStore, connection: asyncpg.Connection
) -> None:
    await store.append([some(0, 60)])
    await store.append([some(100, 60, day=DAY + 90)])
    await store.fold(ALL)
    right = await rows_of(connection)
    await connection.execute(f"DELETE FROM events WHERE occurred_at < to_timestamp({DAY + 1} * 86400)")
    await connection.execute(f"UPDATE activity_bitmaps SET users = '\\x01' WHERE grain = 0 AND period = {DAY}")
    await connection.execute(f"DELETE FROM activity_bitmaps WHERE grain < 2 AND period > {DAY + 90}")
    done = await all_of(store)

    assert [(step.period, step.left) for step in done if step.left] == [("2026-03-01", GONE), ("2026-03", UNREADABLE)]
    await connection.execute(f"DELETE FROM activity_bitmaps WHERE grain = 0 AND period = {DAY}")
    assert await rows_of(connection) == {key: row for key, row in right.items() if key[1:3] != (QUARTERS, DAY)}
    assert seen(await store.activity(about_days(90))) == model_of([some(0, 60), some(100, 60, day=DAY + 90)]).activity(
        about_days(90)
    )


async def test_what_a_retention_policy_drops_is_kept(timescale_url: str) -> None:
    """Chunks that it has dropped, and days that it is about to reach; newer ones are made anew."""
    await migrate(f"{timescale_url}&chunk_days=1&retention_days=10")
    store = await open_store(timescale_url)
    connection = await asyncpg.connect(timescale_url)
    today = time.time_ns() // 1_000 // DAY_US
    days = (today - 30, today - 20, today - 10, today - 9, today - 7, today - 1)
    await store.append(
        [
            a_chunk(
                *(
                    an_event(event_id=10 * number + more, user_id=f"u{more}", occurred_us=day * DAY_US + QUARTER_US)
                    for more in range(4)
                )
            )
            for number, day in enumerate(days)
        ]
    )
    await store.fold(ALL)
    right = await rows_of(connection)
    await connection.execute("SELECT set_config('search_path', current_schema() || ', public', false)")
    await connection.execute("SELECT drop_chunks('events', older_than => now() - INTERVAL '15 days')")
    await connection.execute(f"UPDATE activity_bitmaps SET users = '\\x01' WHERE grain = 0 AND period > {today - 9}")
    await connection.execute("DELETE FROM activity_bitmaps WHERE grain = 1")
    done = await all_of(store)

    assert [bool(step.left) for step in done if len(step.period) == 10] == [True, True, True, True, False, False]
    assert await rows_of(connection) == right
    assert list(await store.verify()) == []
    assert [step.left for step in await all_of(store)][:2] == [GONE] * 2
    await connection.close()
    await store.close()
