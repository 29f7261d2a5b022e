"""The fold of a SQLite store: when it happens, what it leaves, and what a process sees of another's folds."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

import adapters.sqlite.folding
import adapters.sqlite.writer
from adapters.sqlite import open_store
from eventcore.activity import ActivityQuery
from eventcore.calendar import QUARTER_US
from eventcore.errors import Kind, StoreError
from eventcore.ports import EventStore
from eventcore.strategies import AN_INSTANT_US, a_chunk, a_death, an_event

DAY_US = 96 * QUARTER_US


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.sqlite3"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[EventStore]:
    store = await open_store(f"sqlite:///{path}")
    yield store
    await store.close()


def some(first: int, count: int, *, day: int = 0, user: str = "u"):
    return [
        an_event(
            event_id=number,
            user_id=f"{user}{number % 7}",
            event_type=f"t{number % 3}",
            occurred_us=AN_INSTANT_US + day * DAY_US + number * 1_000_000,
        )
        for number in range(first, first + count)
    ]


QUERY = ActivityQuery(
    project="default",
    slots=tuple(
        (((AN_INSTANT_US // DAY_US + day) * DAY_US, (AN_INSTANT_US // DAY_US + day + 1) * DAY_US),)
        for day in range(-1, 4)
    ),
    split="event_type",
    history=True,
)


def asked(path: Path, sql: str):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


async def test_a_fold_takes_the_deltas_away_and_changes_no_answer(store: EventStore, path: Path) -> None:
    for day in range(3):
        await store.append([a_chunk(*some(100 * day, 50, day=day))])
    before = await store.activity(QUERY)
    assert await store.fold(1_000) == 150
    assert asked(path, "SELECT count(*) FROM activity_delta") == [(0,)]
    assert await store.activity(QUERY) == before
    assert await store.fold(1_000) == 0
    assert await store.verify() == []


async def test_a_fold_is_bounded_and_takes_at_least_one_delta(store: EventStore) -> None:
    for number in range(4):
        await store.append([a_chunk(*some(100 * number, 50))])
    assert await store.fold(1) == 50
    assert await store.fold(100) == 100
    assert await store.fold(1_000) == 50


async def test_transactions_that_only_bury_do_not_hold_up_the_fold(store: EventStore) -> None:
    for number in range(3):
        await store.append([a_chunk(dead=[a_death(an_event(event_id=number))], project="a")])
    await store.append([a_chunk(*some(0, 10), project="b")])
    assert await store.fold(1) == 10
    await store.append([a_chunk(*some(0, 10), project="a")])
    assert await store.fold(1) == 10
    assert await store.fold(1) == 0
    assert await store.verify() == []


async def test_another_process_sees_what_is_folded(store: EventStore, path: Path) -> None:
    other = await open_store(f"sqlite:///{path}")
    try:
        await store.append([a_chunk(*some(0, 50))])
        assert await other.activity(QUERY) == await store.activity(QUERY)
        await store.fold(1_000)
        await other.append([a_chunk(*some(100, 50, day=1))])
        assert await other.activity(QUERY) == await store.activity(QUERY)
        await other.fold(1_000)
        await store.append([a_chunk(*some(200, 50, day=0, user="late"))])
        await store.fold(1_000)
        assert await other.activity(QUERY) == await store.activity(QUERY)
        fresh = await open_store(f"sqlite:///{path}")
        assert await fresh.activity(QUERY) == await store.activity(QUERY)
        await fresh.close()
    finally:
        await other.close()


async def test_a_writer_whose_last_delta_was_folded_knows_its_store(store: EventStore, path: Path) -> None:
    """Else each fold by another process would cost an epoch, and with it what all caches know."""
    await store.append([a_chunk(*some(0, 10))])
    epoch = await store.epoch()
    other = await open_store(f"sqlite:///{path}")
    await other.append([a_chunk(*some(100, 10))])
    await other.fold(1_000)
    await other.close()
    await store.append([a_chunk(*some(200, 10))])
    assert (await store.describe()).epoch == epoch


async def test_a_reader_far_behind_reads_anew(store: EventStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters.sqlite.folding, "KEPT_FOLDS", 2)
    other = await open_store(f"sqlite:///{path}")
    try:
        for number in range(6):
            await store.append([a_chunk(*some(100 * number, 20, day=number % 3))])
            await store.fold(1_000)
            if number == 0:
                await other.activity(QUERY)
        assert asked(path, "SELECT count(*) FROM activity_folds") == [(2,)]
        assert await other.activity(QUERY) == await store.activity(QUERY)
    finally:
        await other.close()


async def test_a_backup_from_before_a_fold_is_the_truth(store: EventStore, path: Path) -> None:
    await store.append([a_chunk(*some(0, 20))])
    await store.fold(1_000)
    backup = path.with_name("backup")
    with closing(sqlite3.connect(path)) as one, closing(sqlite3.connect(backup)) as two:
        one.backup(two)
    await store.append([a_chunk(*some(100, 20, day=1))])
    await store.fold(1_000)
    await store.activity(QUERY)
    with closing(sqlite3.connect(backup)) as one, closing(sqlite3.connect(path)) as two:
        one.backup(two)
    fresh = await open_store(f"sqlite:///{path}")
    assert await store.activity(QUERY) == await fresh.activity(QUERY)
    await store.append([a_chunk(*some(300, 20, day=2, user="other"))])
    await store.fold(1_000)
    assert await store.activity(QUERY) == await fresh.activity(QUERY)
    assert await store.verify() == []
    await fresh.close()


async def test_it_folds_by_itself_when_much_waits(
    store: EventStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters.sqlite.writer, "FOLD_EVENTS", 40)
    await store.append([a_chunk(*some(0, 30))])
    assert asked(path, "SELECT count(*) FROM activity_folds") == [(0,)]
    await store.append([a_chunk(*some(100, 30))])
    async with asyncio.timeout(10):
        while asked(path, "SELECT count(*) FROM activity_delta") != [(0,)]:
            await asyncio.sleep(0.01)
    assert await store.verify() == []


async def test_it_folds_little_when_it_is_quiet(store: EventStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters.sqlite.writer, "FOLD_SECONDS", 0.05)
    await store.append([a_chunk(*some(0, 3))])
    async with asyncio.timeout(10):
        while asked(path, "SELECT count(*) FROM activity_delta") != [(0,)]:
            await asyncio.sleep(0.01)


async def test_what_waits_is_folded_at_the_end(path: Path) -> None:
    store = await open_store(f"sqlite:///{path}")
    await store.append([a_chunk(*some(0, 30))])
    await store.close()
    assert asked(path, "SELECT count(*) FROM activity_delta") == [(0,)]


async def test_a_row_that_cannot_be_read_stops_no_writer_and_is_told(
    store: EventStore, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await store.append([a_chunk(*some(0, 30))])
    await store.fold(1_000)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE activity_bitmaps SET users = x'0102030405'")
    monkeypatch.setattr(adapters.sqlite.writer, "FOLD_SECONDS", 0.0)
    for number in range(3):
        await store.append([a_chunk(*some(100 * number + 100, 10))])
    with pytest.raises(StoreError, match="damaged"):
        await store.activity(QUERY)
    assert any("damaged" in difference for difference in await store.verify())
    assert (await store.describe()).counts["default"]["events"] == 60
    assert "could not be folded" in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_writer_that_dies_lets_nobody_wait(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    await store.append([a_chunk(*some(0, 3))])

    def die() -> None:
        raise SystemExit

    monkeypatch.setattr(store._writer, "_next_group", die)  # type: ignore[attr-defined]
    async with asyncio.timeout(10):
        with pytest.raises(StoreError) as caught:
            await store.append([a_chunk(*some(100, 3))])
    assert caught.value.kind is Kind.CLOSED
    with pytest.raises(StoreError):
        await store.epoch()


async def test_people_may_ask_in_sql(store: EventStore, path: Path) -> None:
    await store.append([a_chunk(*some(0, 14), *some(100, 7, day=1))])
    await store.fold(1_000)
    assert [row[2:] for row in asked(path, "SELECT * FROM daily_active_users ORDER BY day")] == [(7, 14), (7, 7)]
    found = asked(path, "SELECT event_type, users, events FROM event_type_counts ORDER BY day, event_type")
    assert found[0] == ("t0", len({n % 7 for n in range(14) if n % 3 == 0}), 5)


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM activity_bitmaps WHERE grain = 0 AND type_key = 0",
        "DELETE FROM activity_bitmaps WHERE grain = 0 AND type_key = -1",
        "DELETE FROM activity_bitmaps WHERE grain = 1 AND type_key = 0",
        "DELETE FROM activity_bitmaps WHERE grain = 2 AND type_key = -1",
        "UPDATE activity_bitmaps SET events = events + 1 WHERE grain = 1 AND type_key = -1",
        "UPDATE activity_bitmaps SET users = (SELECT users FROM activity_bitmaps WHERE grain = 1 AND type_key = 0) "
        "WHERE grain = 1 AND type_key = -1",
    ],
)
async def test_damage_of_the_projection_is_told(store: EventStore, path: Path, damage: str) -> None:
    await store.append([a_chunk(*some(0, 8))])
    await store.fold(1_000)
    assert await store.verify() == []
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(damage)
    assert await store.verify() != []


async def test_a_broken_delta_stops_the_fold_and_loses_nothing(store: EventStore, path: Path) -> None:
    await store.append([a_chunk(*some(0, 30))])
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE activity_delta SET types = x'00000000'")
    with pytest.raises(Exception, match="damaged"):
        await store.fold(1_000)
    assert asked(path, "SELECT count(*) FROM activity_delta") == [(1,)]
    assert asked(path, "SELECT count(*) FROM activity_bitmaps") == [(0,)]
