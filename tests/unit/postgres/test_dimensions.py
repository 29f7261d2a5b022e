"""Dimensions in PostgreSQL: an older database, the lock of appends, damage, expired events, what is left behind."""

import asyncio
from contextlib import aclosing
from typing import Any

import asyncpg
import pytest

from adapters.postgres import migrate, open_store
from adapters.postgres.statements import migrations
from adapters.postgres.upkeep import Upkeep
from eventcore.calendar import QUARTER_US
from eventcore.contract.event_store.asking import a_query, a_selection, model_of
from eventcore.contract.event_store.dimensioning import add
from eventcore.contract.event_store.model import seen
from eventcore.errors import StoreError
from eventcore.events import Chunk
from eventcore.ports import EventStore
from eventcore.strategies import AN_INSTANT_US, a_chunk, an_event

ALL = 1_000_000
QUESTION = a_query(
    selections=(a_selection(**{"properties.country": "UA"}), a_selection(event_type="signup")), history=True
)


@pytest.fixture(autouse=True)
def never_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test folds when it means to."""
    monkeypatch.setattr(Upkeep, "appended", lambda self, events: None)


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


async def run(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


async def asked(url: str, statement: str) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(url)
    found = [tuple(row) for row in await connection.fetch(statement)]
    await connection.close()
    return found


async def test_a_store_without_dimensions_is_migrated_and_answers_the_same(url: str) -> None:
    store = await open_store(url)
    await store.append([some(1, 50)])
    await store.fold(ALL)
    await store.append([some(51, 50)])
    before = seen(await store.activity(QUESTION))
    await store.close()
    await run(
        url,
        "DROP TABLE combinations, dimensions; ALTER TABLE projects DROP COLUMN combinations;"
        "DELETE FROM store WHERE key = 'dimensions'; UPDATE store SET value = '2' WHERE key = 'schema_version'",
    )
    with pytest.raises(StoreError) as caught:
        await open_store(url)
    assert caught.value.code == "schema_older"
    assert await migrate(url) == (2, len(migrations()))
    store = await open_store(url)
    assert seen(await store.activity(QUESTION)) == before
    await store.append([some(101, 9)])
    await add(store, "country")
    answer = await store.activity(QUESTION)
    model = model_of([some(1, 50), some(51, 50), some(101, 9)])
    assert (answer.computed_from, seen(answer)) == ("activity", model.activity(QUESTION))
    assert await store.verify() == []
    await store.close()


async def test_an_append_that_has_begun_is_waited_for(url: str, store: EventStore) -> None:
    """It has read the list already, and its events must not be missed by who builds the dimension."""
    await store.append([some(1, 3)])
    connection = await asyncpg.connect(url)
    try:
        writing = connection.transaction()
        await writing.start()
        await connection.execute("LOCK TABLE event_ledger IN ACCESS EXCLUSIVE MODE")
        appending = asyncio.create_task(store.append([some(11, 3)]))
        await asyncio.sleep(0.3)  # it has the lock of the list by now, and waits for the ledger
        adding = asyncio.create_task(add(store, "country"))
        await asyncio.sleep(0.3)
        late = asyncio.create_task(store.append([some(21, 3)]))
        await asyncio.wait([adding, appending, late], timeout=0.3)
        assert not adding.done()
        assert await asked(url, "SELECT count(*) FROM dimensions") == [(0,)]
    finally:
        await connection.close()
    await asyncio.gather(appending, adding, late)
    answer = await store.activity(QUESTION)
    model = model_of([some(1, 3), some(11, 3), some(21, 3)])
    assert (answer.computed_from, seen(answer)) == ("activity", model.activity(QUESTION))
    assert await store.verify() == []


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM activity_bitmaps WHERE type_key = 1048577 AND grain = 0",
        "DELETE FROM activity_bitmaps WHERE type_key = 1048577 AND grain = 1",
        "UPDATE activity_bitmaps SET events = events + 1 WHERE type_key = 1048576 AND grain = 2",
        "UPDATE activity_bitmaps SET users = '\\x00' WHERE type_key = 1048576 AND grain = 0",
        "UPDATE activity_bitmaps SET type_key = 2000000 WHERE type_key = 1048576",
    ],
    ids=["quarters lost", "days lost", "a count", "unreadable", "of nothing"],
)
async def test_damage_is_found_and_mended(url: str, store: EventStore, statement: str) -> None:
    await add(store, "country")
    await store.append([some(1, 60)])
    await store.fold(ALL)
    await store.append([some(61, 9)])
    right = seen(await store.activity(QUESTION))
    assert await store.verify() == []
    await run(url, statement)
    differences = await store.verify()
    assert any("combination" in difference for difference in differences)
    async with aclosing(store.rebuild()) as steps:
        assert sum([step.rows async for step in steps]) > 0
    assert await store.verify() == []
    await store.begin_epoch()  # what was remembered from before the damage would do
    assert seen(await store.activity(QUESTION)) == right


async def test_a_lost_combination_is_found(url: str, store: EventStore) -> None:
    await add(store, "country")
    await store.append([some(1, 9)])
    await run(url, "DELETE FROM combinations WHERE combination_key = 1048576")
    assert await store.verify() != []


async def test_one_is_built_from_the_events_that_there_are(url: str, store: EventStore) -> None:
    """Of a day of which some have expired, the others count, as where raw events are read."""
    await store.append([some(1, 120)])
    await store.fold(ALL)
    await run(url, "DELETE FROM events WHERE type_key = 0 AND occurred_at < '2026-03-02'")
    raw = seen(await store.activity(a_query(selections=QUESTION.selections[:1], split="properties.country")))
    await add(store, "country")
    answer = await store.activity(a_query(selections=QUESTION.selections[:1], split="properties.country"))
    assert (answer.computed_from, seen(answer)) == ("activity", raw)


@pytest.mark.parametrize("way", ["removed", "full"])
async def test_nothing_is_left_of_one_that_is_gone(url: str, store: EventStore, way: str) -> None:
    """Its rows go with the next fold, and what waits of it is never folded."""
    await add(store, "country")
    await store.append([some(1, 30)])
    await store.fold(ALL)
    await store.append([some(31, 30)])
    if way == "removed":
        await store.remove_dimension("default", "country")
    else:
        await store.append([some(71, 3, country="x" * 256)])
    while await store.fold(ALL):
        pass
    assert await asked(url, "SELECT count(*) FROM combinations") == [(0,)]
    assert await asked(url, "SELECT count(*) FROM activity_bitmaps WHERE type_key >= 1048576") == [(0,)]
    assert await store.verify() == []


async def test_people_who_ask_in_sql_see_types_only(url: str, store: EventStore) -> None:
    views = ("daily_active_users", "event_type_counts")
    await store.append([some(1, 30)])
    await store.fold(ALL)
    before = [await asked(url, f"SELECT * FROM {view} ORDER BY 1, 2, 3") for view in views]
    await add(store, "country")
    assert [await asked(url, f"SELECT * FROM {view} ORDER BY 1, 2, 3") for view in views] == before
