"""What is special to reading from a file: windows, what is kept between answers, and which indexes are used."""

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import strategies as st

import adapters.sqlite.counting
import adapters.sqlite.rows
import adapters.sqlite.store
from adapters.memory import open_store as open_memory_store
from adapters.sqlite import open_store
from adapters.sqlite.statements import statements
from eventcore.activity import ActivityQuery
from eventcore.calendar import QUARTER_US
from eventcore.conditions import Selection, equals
from eventcore.errors import Kind, StoreError
from eventcore.events import Event
from eventcore.ports import EventStore
from eventcore.strategies import HOSTILE_TEXTS, a_chunk, an_event, an_id

HOUR = 4 * QUARTER_US


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.sqlite3"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[EventStore]:
    opened = await open_store(f"sqlite:///{path}")
    yield opened
    await opened.close()


def some_events(count: int) -> list[Event]:
    return [
        an_event(
            event_id=number,
            user_id=f"user {number * 7 % 31:02}",
            event_type=f"type {number % 3}",
            occurred_us=number * 11 % 48 * QUARTER_US + number,
            properties={"plan": "pro" if number % 4 else "free", "n": number % 5},
        )
        for number in range(count)
    ]


def a_query(*, off_quarters: bool = False, plan: str | None = None, **changes: Any) -> ActivityQuery:
    conditions = () if plan is None else (equals("properties.plan", plan),)
    shift = 1 if off_quarters else 0
    values: dict[str, Any] = {
        "project": "default",
        "slots": tuple(((start * HOUR + shift, (start + 3) * HOUR + shift),) for start in (1, 4, 8)),
        "selections": (Selection(conditions), Selection((*conditions, equals("event_type", "type 1")))),
        "split": "event_type",
        "history": True,
    }
    return ActivityQuery(**{**values, **changes})


QUERIES = {
    "quarters": a_query(),
    "one type only": a_query(selections=(Selection((equals("event_type", "type 2"),)),)),
    "no type at all": a_query(selections=(Selection((equals("event_type", "type 9"),)),)),
    "off quarters": a_query(off_quarters=True),
    "a property": a_query(plan="free"),
    "a property and not": a_query(selections=(Selection(), Selection((equals("properties.n", "3.0"),)))),
    "without history": a_query(history=False, split=None, plan="pro"),
}


async def appended(store: EventStore, events: list[Event]) -> EventStore:
    # Each store gives out user keys in its own order, unless the users come one by one.
    await store.append([a_chunk(an_event(event_id=1000 + user, user_id=f"user {user:02}")) for user in range(31)])
    for start in range(0, len(events), 10):
        await store.append([a_chunk(*events[start : start + 10])])
    return store


@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
async def test_what_is_read_in_windows_is_read_whole(
    store: EventStore, query: ActivityQuery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters.sqlite.counting, "_EVENTS_AT_ONCE", 7)
    monkeypatch.setattr(adapters.sqlite.counting, "_DELTAS_AT_ONCE", 3)
    other = await appended(await open_memory_store(), some_events(200))
    assert await (await appended(store, some_events(200))).activity(query) == await other.activity(query)


async def test_events_are_found_in_windows(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters.sqlite.rows, "_AT_ONCE", 7)
    events = some_events(50)
    await appended(store, events)
    wanted = [an_id(number) for number in (*range(60, -1, -1), 3)]
    found = await store.find("default", [*wanted, b"short"])
    assert [found[event.event_id].event for event in events] == events
    assert len(found) == len(events)


async def test_what_is_kept_between_answers_changes_none(store: EventStore) -> None:
    events = some_events(100)
    for count in (10, 50, 50, 100):
        await appended(store, events[:count])
        other = await appended(await open_memory_store(), events[:count])
        for _ in range(2):
            snapshot = await store.activity(a_query())
            assert snapshot == await other.activity(a_query())
            for selection in snapshot.selections:  # whoever asked may do with the answer what he likes
                selection.before.add(99)
                for tally in selection.slots:
                    tally.users.clear()
                    for part in tally.parts.values():
                        part.users.clear()


async def test_what_is_kept_between_answers_is_bounded(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    events = some_events(100)
    for project in ("one", "two", "three"):
        await store.append([a_chunk(*events, project=project)])
    await store.activity(a_query(project="one"))
    [bytes_of_one] = [kept.bytes for kept in store._counting._deltas.values()]  # type: ignore[attr-defined]
    monkeypatch.setattr(adapters.sqlite.counting, "KEPT_BYTES", 2 * bytes_of_one)
    for project in ("two", "three", "one", "one", "three"):
        answer = await store.activity(a_query(project=project))
        assert sum(tally.events for tally in answer.selections[0].slots) > 0
        assert len(store._counting._deltas) == 2  # type: ignore[attr-defined]
    monkeypatch.setattr(adapters.sqlite.counting, "KEPT_BYTES", 0)
    assert await store.activity(a_query(project="three")) == answer
    assert store._counting._deltas == {}  # type: ignore[attr-defined]


async def test_an_answer_that_failed_leaves_nothing_half_read(
    store: EventStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await appended(store, some_events(20))
    other = await appended(await open_memory_store(), some_events(20))
    await store.activity(a_query())
    for number in (500, 501):
        event = an_event(event_id=number, user_id="user 00", occurred_us=HOUR)
        await store.append([a_chunk(event)])
        await other.append([a_chunk(event)])
    with closing(sqlite3.connect(path)) as connection, connection:
        [last, types] = connection.execute("SELECT max(delta_key), types FROM activity_delta").fetchone()
        connection.execute("UPDATE activity_delta SET types = x'' WHERE delta_key = ?", [last])
    monkeypatch.setattr(adapters.sqlite.counting, "_DELTAS_AT_ONCE", 1)
    with pytest.raises(StoreError) as caught:
        await store.activity(a_query())
    assert (caught.value.kind, caught.value.code) == (Kind.SCHEMA, "damaged")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE activity_delta SET types = ? WHERE delta_key = ?", [types, last])
    assert await store.activity(a_query()) == await other.activity(a_query())


async def test_many_ask_at_once_while_much_is_written(store: EventStore) -> None:
    events = some_events(400)

    async def write() -> None:
        await appended(store, events)

    async def read() -> None:
        counted = 0
        while counted < len(events):
            snapshot = await store.activity(a_query(slots=(((0, 13 * HOUR),),), selections=(Selection(),), split=None))
            [tally] = snapshot.selections[0].slots
            assert tally.events >= counted
            counted = tally.events

    await asyncio.gather(write(), *(read() for _ in range(6)))


async def test_the_epoch_is_at_most_a_second_old(
    store: EventStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await store.epoch()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE store SET value = 'another' WHERE key = 'epoch'")
    clock = [adapters.sqlite.store.monotonic()]
    monkeypatch.setattr(adapters.sqlite.store, "monotonic", lambda: clock[0])
    clock[0] += 0.5
    assert await store.epoch() == before
    clock[0] += 0.6
    assert await store.epoch() == "another"


async def test_a_reader_cannot_write(store: EventStore) -> None:
    with pytest.raises(StoreError) as caught:
        await store._readers.answer(  # type: ignore[attr-defined]
            lambda database: database.run("put_setting", key="epoch", value="x")
        )
    assert caught.value.code == "read_only"
    await store.epoch()


_texts = st.one_of(st.sampled_from(HOSTILE_TEXTS), st.sampled_from(("1", "1.0", "-0", " 1", "true", "null", "a")))


async def test_a_question_about_properties_is_given_up_in_time(store: EventStore) -> None:
    await store.append([a_chunk(an_event())])
    query = msgspec.structs.replace(a_query(plan="pro"), seconds=1e-9)
    with pytest.raises(StoreError) as refused:
        await store.activity(query)
    assert (refused.value.kind, refused.value.code) == (Kind.TIMEOUT, "question_too_slow")
    assert "properties" in refused.value.message
    assert (await store.activity(a_query(plan="pro"))).computed_from == "events"


LARGE = ("events", "event_ledger", "users", "activity_delta", "conflicts", "dead_events", "chunks")
FOR_ALL = (
    *("check_", "counts", "make_facts", "insert_fact", "make_counted", "insert_counted", "waiting_events"),
    *("make_gathered", "gather", "make_happened", "insert_happened"),
)
"""Statements that compare or count everything there is; what waits to be folded is kept small by the folds."""


@pytest.mark.parametrize("name", [name for name in statements() if not name.startswith(FOR_ALL)])
async def test_no_statement_walks_through_a_large_table(store: EventStore, path: Path, name: str) -> None:
    sql = statements()[name]
    with closing(sqlite3.connect(path)) as connection:
        values = dict.fromkeys(re.findall(r":(\w+)", sql), 0) or [None] * sql.count("?")
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", values)]
    walked = [line for line in plan if re.match(rf"SCAN ({'|'.join(LARGE)})\b", line)]
    assert walked == []
