"""Dimensions in SQLite: an older file, damage that `verify` finds and a rebuild mends, what is left behind, and cost."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import pytest

from adapters.sqlite import migrate, open_store, rebuilding
from adapters.sqlite.statements import migrations
from adapters.sqlite.writer import Writer
from eventcore.calendar import QUARTER_US
from eventcore.contract.event_store.asking import DAY_US, a_query, a_selection, model_of
from eventcore.contract.event_store.dimensioning import add
from eventcore.contract.event_store.model import seen
from eventcore.errors import StoreError
from eventcore.events import Chunk
from eventcore.ports import EventStore
from eventcore.strategies import AN_INSTANT_US, a_chunk, an_event

ALL = 1_000_000
QUESTION = a_query(selections=(a_selection(**{"properties.country": "UA"}), a_selection(event_type="signup")))


@pytest.fixture(autouse=True)
def never_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test folds when it means to."""
    monkeypatch.setattr(Writer, "_fold_when_due", lambda self, due_events: None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.sqlite3"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[EventStore]:
    store = await open_store(f"sqlite:///{path}")
    yield store
    await store.close()


def some(first: int, count: int, **properties: Any) -> Chunk:
    return a_chunk(
        *(
            an_event(
                event_id=number,
                user_id=f"user {number % 5}",
                event_type=("signup", "page_view")[number % 2],
                occurred_us=AN_INSTANT_US + number * QUARTER_US,
                properties={"country": ("UA", "PL")[number % 3 == 0]} | properties,
            )
            for number in range(first, first + count)
        )
    )


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def asked(path: Path, statement: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(statement).fetchall()


def schema(path: Path) -> set[tuple[str, str]]:
    return {
        (name, " ".join(sql.split()))
        for name, sql in asked(path, "SELECT name, sql FROM sqlite_schema WHERE sql <> ''")
    }


def make_schema_2(path: Path) -> None:
    """As the version before dimensions made it, with what there is."""
    change(
        path,
        "DROP TABLE combinations",
        "DROP TABLE dimensions",
        "ALTER TABLE projects DROP COLUMN combinations",
        "DELETE FROM store WHERE key = 'dimensions'",
        "UPDATE store SET value = '2' WHERE key = 'schema_version'",
    )


async def test_a_store_without_dimensions_is_migrated_and_answers_the_same(path: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{path}"
    store = await open_store(url)
    await store.append([some(1, 50)])
    await store.fold(ALL)
    await store.append([some(51, 50)])
    before = seen(await store.activity(QUESTION))
    books = await store.books("default", "1970-01-01", "9999-12-31")
    await store.close()
    make_schema_2(path)
    with closing(sqlite3.connect(tmp_path / "other.sqlite3")) as connection:
        connection.executescript("".join(migrations()[:2]))
    assert schema(path) == schema(tmp_path / "other.sqlite3")

    with pytest.raises(StoreError) as caught:
        await open_store(url)
    assert caught.value.code == "schema_older"
    assert await migrate(url) == (2, len(migrations()))
    store = await open_store(url)
    assert seen(await store.activity(QUESTION)) == before
    assert await store.books("default", "1970-01-01", "9999-12-31") == books
    await store.append([some(101, 9)])
    await add(store, "country")
    answer = await store.activity(QUESTION)
    assert answer.computed_from == "activity"
    assert await store.verify() == []
    await store.close()


async def rebuilt(store: EventStore) -> int:
    async with aclosing(store.rebuild()) as steps:
        return sum([step.rows async for step in steps])


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM activity_bitmaps WHERE type_key = 1048577 AND grain = 0",
        "DELETE FROM activity_bitmaps WHERE type_key = 1048577 AND grain = 1",
        "UPDATE activity_bitmaps SET events = events + 1 WHERE type_key = 1048576 AND grain = 2",
        "UPDATE activity_bitmaps SET users = (SELECT users FROM activity_bitmaps WHERE type_key = 1048577 AND grain = 0)"
        " WHERE type_key = 1048576 AND grain = 0",
        "UPDATE activity_bitmaps SET users = x'00' WHERE type_key = 1048576 AND grain = 0",
        "UPDATE activity_bitmaps SET type_key = 2000000 WHERE type_key = 1048576",
    ],
    ids=["quarters lost", "days lost", "a count", "another's", "unreadable", "of nothing"],
)
async def test_damage_is_found_and_mended(store: EventStore, path: Path, statement: str) -> None:
    await add(store, "country")
    await store.append([some(1, 60)])
    await store.fold(ALL)
    await store.append([some(61, 9)])
    right = seen(await store.activity(QUESTION))
    assert await store.verify() == []
    change(path, statement)
    differences = await store.verify()
    assert differences
    assert any("combination" in difference for difference in differences)
    assert await rebuilt(store) > 0
    assert await store.verify() == []
    await store.begin_epoch()  # what was remembered from before the damage would do
    assert seen(await store.activity(QUESTION)) == right


async def test_a_lost_combination_is_found(store: EventStore, path: Path) -> None:
    await add(store, "country")
    await store.append([some(1, 9)])
    change(path, "DELETE FROM combinations WHERE combination_key = 1048576")
    assert any("combination" in difference for difference in await store.verify())


async def test_nothing_is_left_of_one_that_is_gone(store: EventStore, path: Path) -> None:
    await store.append([some(1, 30)])
    await store.fold(ALL)
    before = asked(path, "SELECT count(*) FROM activity_bitmaps")
    await add(store, "country")
    await store.append([some(31, 30)])
    assert asked(path, "SELECT count(*) FROM activity_bitmaps") > before
    await store.remove_dimension("default", "country")
    assert asked(path, "SELECT count(*) FROM combinations") == [(0,)]
    assert asked(path, "SELECT count(*) FROM activity_bitmaps WHERE type_key >= 1048576") == [(0,)]
    await store.fold(ALL)  # what waited of it
    assert asked(path, "SELECT count(*) FROM activity_bitmaps WHERE type_key >= 1048576") == [(0,)]


async def test_nothing_is_left_of_a_full_one(store: EventStore, path: Path) -> None:
    await add(store, "country")
    await store.append([some(1, 30)])
    await store.fold(ALL)
    await store.append([some(31, 3, country="x" * 256)])
    await store.append([some(41, 3)])
    await store.fold(ALL)
    assert asked(path, "SELECT count(*) FROM combinations") == [(0,)]
    assert asked(path, "SELECT count(*) FROM activity_bitmaps WHERE type_key >= 1048576") == [(0,)]
    assert asked(path, "SELECT length(types) FROM activity_delta") == []


async def test_facts_lie_behind_those_of_events(store: EventStore, path: Path) -> None:
    """And only where a project has dimensions."""
    await store.append([some(1, 10)])
    await add(store, "country")
    await add(store, "plan")
    await store.append([some(11, 10)])
    assert asked(path, "SELECT length(users) / 4, length(types) / 4 FROM activity_delta") == [(10, 10), (30, 30)]


async def test_people_who_ask_in_sql_see_types_only(store: EventStore, path: Path) -> None:
    views = ("daily_active_users", "event_type_counts")
    await store.append([some(1, 30)])
    await store.fold(ALL)
    before = [asked(path, f"SELECT * FROM {view} ORDER BY 1, 2, 3") for view in views]
    await add(store, "country")
    assert [asked(path, f"SELECT * FROM {view} ORDER BY 1, 2, 3") for view in views] == before


async def test_a_failed_append_gives_no_keys(store: EventStore, path: Path) -> None:
    """What it made up is void, and nobody else's combination is taken for it afterwards."""
    await add(store, "country")
    change(
        path,
        "CREATE TRIGGER refuse BEFORE INSERT ON events WHEN new.properties LIKE '%bad%' BEGIN SELECT raise(ABORT, 'no'); END",
    )
    with pytest.raises(StoreError):
        await store.append([some(1, 1, country="bad")])
    await store.append([some(2, 1, country="UA")])
    await store.append([some(3, 1, country="PL")])
    snapshot = await store.activity(a_query(split="properties.country"))
    assert {name: part.events for name, part in snapshot.selections[0].slots[0].parts.items()} == {"UA": 1, "PL": 1}
    assert await store.verify() == []


async def test_events_that_come_after_the_walk_are_built(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some behind the last look at the events, and before the step's own transaction; some folded, some not."""
    sent = [some(1, 60)]
    await store.append(sent)
    loop = asyncio.get_running_loop()
    facts = rebuilding._Gathering.facts

    def late(self: rebuilding._Gathering, step: Any) -> Any:
        found = facts(self, step)
        for part in range(2):
            sent.append(some(100 * len(sent), 10, country=f"new {len(sent)}"))
            asyncio.run_coroutine_threadsafe(store.append(sent[-1:]), loop).result(10)
            if part == 0:
                asyncio.run_coroutine_threadsafe(store.fold(ALL), loop).result(10)
        return found

    monkeypatch.setattr(rebuilding._Gathering, "facts", late)
    await add(store, "country")
    days = tuple(
        ((AN_INSTANT_US - 12 * 3_600_000_000 + day * DAY_US, AN_INSTANT_US + 12 * 3_600_000_000 + day * DAY_US),)
        for day in range(9)
    )
    query = a_query(*days, selections=QUESTION.selections, split="properties.country")
    answer = await store.activity(query)
    assert (answer.computed_from, seen(answer)) == ("activity", model_of(sent).activity(query))
    assert await store.verify() == []
