"""The rebuild of a SQLite store: every damage of the projection is mended, beside whatever else goes on."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, closing, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

import adapters.sqlite.folding
from adapters.sqlite import open_store, rebuilding
from eventcore.activity import ActivityQuery
from eventcore.calendar import QUARTER_US
from eventcore.contract.event_store.asking import model_of
from eventcore.contract.event_store.model import seen
from eventcore.errors import Kind, StoreError
from eventcore.events import Chunk
from eventcore.ports import EventStore, Rebuilt
from eventcore.projection import QUARTERS, unpack_quarters, unpack_users
from eventcore.strategies import AN_INSTANT_US, a_chunk, an_event

DAY_US = 96 * QUARTER_US
DAY = AN_INSTANT_US // DAY_US
ALL = 1_000_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.sqlite3"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[EventStore]:
    store = await open_store(f"sqlite:///{path}")
    yield store
    await store.close()


def some(first: int, count: int, *, project: str = "default") -> Chunk:
    """Events of three types over five days, so many from a number on."""
    return a_chunk(
        *(
            an_event(
                event_id=number,
                user_id=f"u{number % 11}",
                event_type=f"t{number % 3}",
                occurred_us=(DAY + number % 5) * DAY_US + number * 97_000_000,
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


def asked(path: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def damage(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)


def rows_of(path: Path) -> dict[Any, Any]:
    """Every row with what it holds, however that is spelled."""
    rows = asked(
        path, "SELECT project_key, grain, period, type_key, events, distinct_users, users FROM activity_bitmaps"
    )
    return {row[:4]: (row[4:6], (unpack_quarters if row[1] == QUARTERS else unpack_users)(row[6])) for row in rows}


async def all_of(store: EventStore, project: str | None = None) -> list[Rebuilt]:
    async with aclosing(store.rebuild(project)) as steps:
        return [step async for step in steps]


def changed_rows(steps: list[Rebuilt]) -> int:
    return sum(step.rows for step in steps)


A_COPY = "project_key, grain, {period}, {type_key}, events, distinct_users, users FROM activity_bitmaps"
INSERT = "INSERT INTO activity_bitmaps (project_key, grain, period, type_key, events, distinct_users, users) SELECT "
DAMAGES = {
    "garbage": "UPDATE activity_bitmaps SET users = x'0102030405'",
    "garbage in some": "UPDATE activity_bitmaps SET users = x'01' WHERE bitmap_key % 3 = 0",
    "empty": "UPDATE activity_bitmaps SET users = x'' WHERE grain = 0",
    "cut": "UPDATE activity_bitmaps SET users = substr(users, 1, length(users) - 1)",
    "all gone": "DELETE FROM activity_bitmaps",
    "quarters gone": "DELETE FROM activity_bitmaps WHERE grain = 0",
    "days gone": "DELETE FROM activity_bitmaps WHERE grain = 1 AND type_key = -1",
    "months gone": "DELETE FROM activity_bitmaps WHERE grain = 2",
    "some gone": "DELETE FROM activity_bitmaps WHERE bitmap_key % 3 = 1",
    "counts": "UPDATE activity_bitmaps SET events = events + 1 WHERE grain > 0",
    "users of another": "UPDATE activity_bitmaps AS b SET users = (SELECT users FROM activity_bitmaps AS o "
    "WHERE o.grain = b.grain AND o.bitmap_key <> b.bitmap_key LIMIT 1)",
    "a day too many": INSERT + A_COPY.format(period="period + 400", type_key="type_key") + " WHERE grain < 2",
    "a month too many": INSERT + A_COPY.format(period="period + 4", type_key="type_key") + " WHERE grain = 2",
    "a type too many": INSERT + A_COPY.format(period="period", type_key="7") + " WHERE type_key = 1",
    "periods of no calendar": INSERT
    + A_COPY.format(period="period + 1000000000", type_key="type_key")
    + ";"
    + INSERT
    + A_COPY.format(period="-period", type_key="type_key")
    + " WHERE grain = 0 AND period < 1000000;",
    "all of it": "DELETE FROM activity_bitmaps WHERE bitmap_key % 4 = 1;"
    "UPDATE activity_bitmaps SET users = x'0102' WHERE bitmap_key % 4 = 0;"
    "UPDATE activity_bitmaps SET events = 0 WHERE bitmap_key % 4 = 2;"
    + INSERT
    + A_COPY.format(period="period + 33", type_key="type_key + 5"),
}


@pytest.mark.parametrize("damaging", DAMAGES.values(), ids=DAMAGES)
async def test_damage_is_mended(store: EventStore, path: Path, damaging: str) -> None:
    """With a part of the events folded and a part not; whoever remembers rows that were wrong forgets them."""
    other = await open_store(f"sqlite:///{path}")
    sent = [some(0, 60), some(100, 60, project="other"), some(200, 40)]
    await store.append(sent)
    await store.fold(ALL)
    await store.fold(ALL)
    late = some(300, 30)
    await store.append([late])
    right = rows_of(path)
    wanted = model_of([*sent, late]).activity(about_days())
    damage(path, damaging)
    assert await store.verify() != []
    for asking in (store, other):
        with suppress(StoreError):
            await asking.activity(about_days())
    assert changed_rows(await all_of(store)) > 0
    assert rows_of(path) == right
    assert [seen(await asking.activity(about_days())) for asking in (store, other)] == [wanted] * 2
    assert await store.verify() == []
    assert changed_rows(await all_of(other)) == 0
    while await other.fold(ALL):
        pass
    assert [seen(await asking.activity(about_days())) for asking in (store, other)] == [wanted] * 2
    assert await store.verify() == []
    await other.close()


async def test_damage_is_told_with_the_way_out(store: EventStore, path: Path) -> None:
    """By answers, folds and the check, which goes on; and whatever is appended at the same time is taken."""
    await store.append([some(0, 60)])
    await store.fold(ALL)
    damage(path, "UPDATE activity_bitmaps SET users = x'0102' WHERE type_key = -1 AND grain < 2")
    late = some(100, 5)
    outcome = await asyncio.gather(
        store.activity(about_days()),
        store.activity(msgspec.structs.replace(about_days(), split=None)),
        store.append([late]),
        store.fold(ALL),
        store.append([some(200, 5)]),
        return_exceptions=True,
    )
    assert [str(one) for one in outcome if isinstance(one, StoreError)] == [
        "the precomputed activity of events.sqlite3 is damaged: `eventcore verify` tells where, "
        "`eventcore rebuild` makes it anew"
    ] * 2
    assert list(await store.find("default", [late.events[0].event_id]))
    found = await store.verify()
    assert f"project default: the projection's row for the UTC day {DAY} (since 1970) and all types is damaged" in found
    assert len(found) == 10


async def test_only_the_project_asked_for_is_mended(store: EventStore, path: Path) -> None:
    await store.append([some(0, 30), some(0, 30, project="other")])
    await store.fold(ALL)
    await store.fold(ALL)
    right = rows_of(path)
    damage(path, "DELETE FROM activity_bitmaps")
    await all_of(store, "other")
    assert rows_of(path) == {key: row for key, row in right.items() if key[0] == 2}
    assert await store.verify("other") == []
    assert await store.verify("default") != []
    await all_of(store)
    assert rows_of(path) == right


async def test_what_sql_shows_of_users_is_mended(store: EventStore, path: Path) -> None:
    await store.append([some(0, 30)])
    await store.fold(ALL)
    shown = asked(path, "SELECT * FROM daily_active_users")
    damage(path, "UPDATE activity_bitmaps SET distinct_users = 0 WHERE grain = 1")
    await all_of(store)
    assert asked(path, "SELECT * FROM daily_active_users") == shown


async def test_events_that_come_after_the_walk_count(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some behind the last look at the events, and before the step's own transaction; some folded, some not."""
    await store.append([some(0, 60)])
    loop = asyncio.get_running_loop()
    facts = rebuilding._Gathering.facts
    sent = [some(0, 60)]

    def late(self: rebuilding._Gathering, step: Any) -> Any:
        found = facts(self, step)
        for part in range(2):
            sent.append(some(100 * len(sent), 10))
            asyncio.run_coroutine_threadsafe(store.append(sent[-1:]), loop).result(10)
            if part == 0:
                asyncio.run_coroutine_threadsafe(store.fold(ALL), loop).result(10)
        return found

    monkeypatch.setattr(rebuilding._Gathering, "facts", late)
    assert changed_rows(await all_of(store)) == 0
    assert len(sent) > 10
    assert seen(await store.activity(about_days())) == model_of(sent).activity(about_days())
    assert await store.verify() == []


async def test_a_store_that_is_replaced_meanwhile_is_left_alone(store: EventStore, path: Path) -> None:
    """By a backup with other events under the keys that were read."""
    await store.append([some(0, 20)])
    backup = path.with_name("backup")
    with closing(sqlite3.connect(path)) as one, closing(sqlite3.connect(backup)) as two:
        one.backup(two)
    await store.append([some(100, 20)])
    async with aclosing(store.rebuild()) as steps:
        await anext(steps)
        with closing(sqlite3.connect(backup)) as one, closing(sqlite3.connect(path)) as two:
            one.backup(two)
        await store.append([some(200, 30)])
        with pytest.raises(StoreError, match="run the command again") as caught:
            await anext(steps)
    assert (caught.value.kind, caught.value.code) == (Kind.UNAVAILABLE, "store_replaced")
    assert changed_rows(await all_of(store)) == 0
    assert await store.verify() == []


async def test_days_of_a_new_zone_want_readable_quarters(store: EventStore, path: Path) -> None:
    await store.append([some(0, 60)])
    await store.fold(ALL)
    damage(path, "UPDATE activity_bitmaps SET users = x'01' WHERE grain = 0 AND type_key = 0")
    with pytest.raises(StoreError, match="run `eventcore rebuild` first"):
        [step async for step in store.rebuild_in_zone("Europe/Kyiv")]
    await all_of(store)
    assert await store.verify() == []
    assert [step async for step in store.rebuild_in_zone("Europe/Kyiv")]
    assert asked(path, "SELECT value FROM store WHERE key LIKE 'projection%'") == [("Europe/Kyiv",)]
    assert await store.verify() == []
    assert seen(await store.activity(about_days())) == model_of([some(0, 60)]).activity(about_days())


async def test_sql_shows_one_zone_or_the_other(store: EventStore, path: Path) -> None:
    """Never days of the one among those of the other, and never half of them."""
    await store.append([some(0, 60)])
    await store.fold(ALL)
    before = asked(path, "SELECT * FROM daily_active_users")
    async with aclosing(store.rebuild_in_zone("America/Los_Angeles")) as steps:
        async for _ in steps:
            assert asked(path, "SELECT * FROM daily_active_users") == before
    after = asked(path, "SELECT * FROM daily_active_users")
    assert after != before
    assert sum(row[3] for row in after) == 60
    assert asked(path, "SELECT DISTINCT grain FROM activity_bitmaps ORDER BY 1") == [(0,), (1,), (2,)]


async def test_a_zone_that_was_given_up_leaves_nothing(store: EventStore, path: Path) -> None:
    """Nor does one that another took the place of; until then folds keep its rows."""
    await store.append([some(0, 60)])
    await store.fold(ALL)
    for zone in ("Europe/Kyiv", "Asia/Kathmandu"):
        async with aclosing(store.rebuild_in_zone(zone)) as steps:
            await anext(steps)
        assert asked(path, "SELECT DISTINCT grain FROM activity_bitmaps ORDER BY 1") == [(0,), (1,), (2,), (3,), (4,)]
        await store.append([some(100 if zone == "Europe/Kyiv" else 200, 9)])
        await store.fold(ALL)
    assert [step async for step in store.rebuild_in_zone("UTC")]
    assert asked(path, "SELECT DISTINCT grain FROM activity_bitmaps ORDER BY 1") == [(0,), (1,), (2,)]
    assert asked(path, "SELECT key, value FROM store WHERE key LIKE 'projection%'") == [("projection_zone", "UTC")]
    assert await store.verify() == []


async def test_a_rebuild_may_be_cancelled_while_it_walks(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A walk over all events takes as long as there are events; nobody waits for it in vain."""
    await store.append([some(0, 60)])
    endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    monkeypatch.setattr(rebuilding._Gathering, "_gather", lambda self: self._database.execute(endless).fetchone())
    task = asyncio.create_task(all_of(store))
    await asyncio.sleep(0.2)
    task.cancel()
    async with asyncio.timeout(5):
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_one_that_is_far_behind_reads_anew(
    store: EventStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rebuild counts as folds do: who misses some of its steps forgets what was remembered."""
    monkeypatch.setattr(adapters.sqlite.folding, "KEPT_FOLDS", 2)
    other = await open_store(f"sqlite:///{path}")
    await store.append([some(0, 60)])
    await store.fold(ALL)
    damage(path, "UPDATE activity_bitmaps SET events = 1000 WHERE grain > 0")
    assert [tally.events for tally in (await other.activity(about_days(0, 1))).selections[0].slots] == [3000] * 2
    await all_of(store)
    assert asked(path, "SELECT count(*) FROM activity_folds") == [(2,)]
    assert seen(await other.activity(about_days())) == model_of([some(0, 60)]).activity(about_days())
    await other.close()


async def test_a_damaged_store_is_mended_while_events_come(store: EventStore, path: Path) -> None:
    """Folds of damaged rows fail until these are mended, and lose nothing; days that are right stay exact."""
    other = await open_store(f"sqlite:///{path}")
    sent = [some(0, 60)]
    await store.append(sent)
    await store.fold(ALL)
    damage(path, f"UPDATE activity_bitmaps SET users = x'0102' WHERE grain = 0 AND period <> {DAY + 4}")

    async def keep_writing() -> None:
        for number in range(1, 40):
            sent.append(some(100 * number, 5))
            await (store, other)[number % 2].append(sent[-1:])
            await asyncio.sleep(0)

    async def keep_folding() -> None:
        while not writing.done():
            with suppress(StoreError):
                await other.fold(ALL)
            await asyncio.sleep(0)

    async def keep_asking() -> None:
        """About a day that is right."""
        query = about_days(4)
        while not writing.done():
            least = sum(len(chunk.events) for chunk in sent[:-2]) // 5
            [part] = (await store.activity(query)).selections
            assert least <= part.slots[0].events <= sum(len(chunk.events) for chunk in sent) // 5 + 1
            await asyncio.sleep(0)

    writing = asyncio.create_task(keep_writing())
    await asyncio.gather(keep_folding(), keep_asking(), *(all_of(one) for one in (store, other, store)))
    await writing
    assert changed_rows(await all_of(store)) == 0
    wanted = model_of(sent).activity(about_days())
    assert [seen(await asking.activity(about_days())) for asking in (store, other)] == [wanted] * 2
    while await store.fold(ALL):
        pass
    assert [seen(await asking.activity(about_days())) for asking in (store, other)] == [wanted] * 2
    assert await store.verify() == []
    await other.close()


@pytest.mark.parametrize("arguments", [(), ("--zone", "Europe/Kyiv")])
async def test_a_rebuild_may_be_killed(store: EventStore, path: Path, arguments: tuple[str, ...]) -> None:
    """At any moment; what is not committed has not happened, and the next one begins anew."""
    sent = [some(2_000 * turn, 2_000) for turn in range(5)]
    await store.append(sent)
    await store.fold(ALL)
    command = [str(Path(sys.executable).with_name("eventcore")), "rebuild", *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EVENTCORE_")}
    environment["EVENTCORE_STORE_URL"] = f"sqlite:///{path}"
    for turn in range(6):
        if not arguments:
            damage(path, f"UPDATE activity_bitmaps SET users = x'0102' WHERE bitmap_key % 6 = {turn}")
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        await asyncio.sleep(0.45 + 0.06 * turn)
        process.send_signal(signal.SIGKILL if turn % 2 else signal.SIGINT)
        assert process.wait(10) in (0, 130, -signal.SIGINT, -signal.SIGKILL)
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert changed_rows(await all_of(store)) == 0
    assert seen(await store.activity(about_days())) == model_of(sent).activity(about_days())
    assert await store.verify() == []
