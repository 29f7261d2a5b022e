"""The bugs that a fold invites: whatever is folded, late, or interrupted, each event is counted once."""

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing, suppress
from pathlib import Path

import asyncpg
import pytest

from eventcore.errors import StoreError
from eventcore.service import Eventcore
from tests.e2e.traps.homes import DAY, Urls, a_batch, a_core, counted, send_until_told

pytestmark = pytest.mark.e2e

Execute = Callable[[str], Awaitable[None]]

_RULES = {
    "sqlite": (
        "CREATE TRIGGER no_fold BEFORE {when} BEGIN SELECT RAISE(ABORT, 'the process dies here'); END",
        "DROP TRIGGER no_fold",
    ),
    "postgres": (
        "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'it dies here'; END $$;"
        " CREATE TRIGGER no_fold BEFORE {when} FOR EACH ROW EXECUTE FUNCTION die()",
        "DROP FUNCTION die CASCADE",
    ),
}


@pytest.fixture(params=["sqlite", "postgres"])
def home(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(home: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    if home == "sqlite":
        return f"sqlite:///{tmp_path / 'events.sqlite3'}"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def core(url: str) -> AsyncIterator[Eventcore]:
    async with a_core(Urls(store=url)) as core:
        yield core


@pytest.fixture
def execute(home: str, url: str) -> Execute:
    """Somebody else's statements."""

    async def in_postgres(script: str) -> None:
        connection = await asyncpg.connect(url)
        await connection.execute(script)
        await connection.close()

    async def in_sqlite(script: str) -> None:
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            connection.executescript(script)

    return in_sqlite if home == "sqlite" else in_postgres


async def counted_by_others(url: str) -> tuple[int, int]:
    """What a process that remembers nothing counts: events, and users of the day."""
    async with a_core(Urls(store=url)) as other:
        [row] = (await other.daily_active_users(DAY, DAY)).data
        return await counted(other), int(row["users"])


async def test_what_is_folded_is_counted_once(core: Eventcore, url: str) -> None:
    await send_until_told(core, a_batch(range(100)))
    for _ in range(2):
        await core.store.fold(1_000)
        assert (await counted(core), await counted_by_others(url)) == (100, (100, 7))
    assert list(await core.store.verify()) == []


async def test_a_late_event_of_a_folded_day_is_counted(core: Eventcore, url: str) -> None:
    """Before and after it is folded too; of a user who was there, and of one who was not."""
    await send_until_told(core, a_batch(range(100)))
    await core.store.fold(1_000)
    await send_until_told(core, a_batch(range(100, 110)))
    await send_until_told(core, a_batch([200], user_id="late"))
    for _ in range(2):
        assert (await counted(core), await counted_by_others(url)) == (111, (111, 8))
        await core.store.fold(1_000)
    assert list(await core.store.verify()) == []


@pytest.mark.parametrize("when", ["INSERT ON activity_bitmaps", "DELETE ON activity_delta", "INSERT ON activity_folds"])
async def test_a_fold_that_dies_on_its_way_changes_nothing(
    core: Eventcore, url: str, home: str, execute: Execute, when: str
) -> None:
    """At each of its steps a rule in the database ends it, as the end of its process would; the next one goes on."""
    begin, end = _RULES[home]
    await send_until_told(core, a_batch(range(100)))
    await execute(begin.format(when=when))
    for _ in range(2):
        with suppress(StoreError):
            await core.store.fold(1_000)
        assert await counted_by_others(url) == (100, 7)
    await execute(end)
    await core.store.fold(1_000)
    assert (await counted(core), await counted_by_others(url)) == (100, (100, 7))
    assert list(await core.store.verify()) == []
