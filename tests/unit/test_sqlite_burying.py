"""What is special to dead letters in a file: checks that leave no trace, rules in the tables, windows, and processes."""

import asyncio
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import adapters.sqlite.letters
import adapters.sqlite.reader
import adapters.sqlite.writer
from adapters.sqlite import open_store
from adapters.sqlite.database import Database
from adapters.sqlite.letters import _pack, _unpack
from eventcore.dedup import member
from eventcore.errors import Kind, StoreError
from eventcore.events import Book, Event, Receipt, Replay
from eventcore.ports import EventStore
from eventcore.storing import persist
from eventcore.strategies import AN_INSTANT_US, a_chunk, a_death, an_event, an_id

POISON = msgspec.structs.replace(an_event(event_id=666), user_id="a\0b")
"""An event that every store refuses."""

DAY = "2026-03-01"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.sqlite3"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[EventStore]:
    opened = await open_store(f"sqlite:///{path}")
    yield opened
    await opened.close()


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another writer is in the middle of a transaction, so that calls gather and share the next one."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def log_of(path: Path) -> bytes:
    return path.with_name(path.name + "-wal").read_bytes()


def many_events(count: int, *, first: int = 0) -> list[Event]:
    return [an_event(event_id=number, user_id=f"user {number}") for number in range(first, first + count)]


async def bury(store: EventStore, *events: Event) -> list[bytes]:
    """Make dead letters of these events; gives their names, in order."""
    await store.append([a_chunk(dead=[a_death(event) for event in events])])
    return sorted(map(member, events))


async def letters(store: EventStore) -> list[Event]:
    return [letter.event for letter in await store.dead_letters("default", limit=1_000_000)]


async def kind_of(call: asyncio.Future[object]) -> Kind | None:
    try:
        await call
    except StoreError as error:
        return error.kind
    return None


# Checks


async def test_checks_write_nothing_to_the_disk(store: EventStore, path: Path) -> None:
    """So the many of them that look for one poison cost no wait for it."""
    await store.append([a_chunk(an_event())])
    before = path.read_bytes(), log_of(path)
    await store.check(a_chunk(*many_events(200, first=10), project="new", queued=True))
    with pytest.raises(StoreError):
        await store.check(a_chunk(an_event(event_id=2), POISON))
    assert (path.read_bytes(), log_of(path)) == before


async def test_checks_share_the_transaction_of_appends_and_fail_none(
    store: EventStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    real = Database.transaction

    def counted(self: Database, begin: str, *, end: str = "COMMIT") -> object:
        begun.append(end)
        return real(self, begin, end=end)

    monkeypatch.setattr(Database, "transaction", counted)
    with locked(path):
        first = asyncio.create_task(store.append([a_chunk(an_event(event_id=1))]))
        await asyncio.sleep(0.1)
        calls = []
        for event in many_events(20, first=100):
            calls += [asyncio.create_task(store.append([a_chunk(event)]))]
            calls += [asyncio.create_task(store.check(a_chunk(msgspec.structs.replace(event, event_id=an_id(7)))))]
            calls += [asyncio.create_task(store.check(a_chunk(POISON)))]
        await asyncio.sleep(0.1)
    await first
    assert await asyncio.gather(*map(kind_of, calls)) == [None, None, Kind.DATA] * 20
    assert begun == ["COMMIT"] * 2
    assert await store.find("default", [an_id(7)]) == {}
    assert list(await store.verify()) == []


async def test_what_is_checked_beside_an_append_is_nobodys_key(store: EventStore, path: Path) -> None:
    """The keys that a check gave to its names are given again, to others."""
    await store.append([a_chunk(an_event(event_id=1))])
    checked = a_chunk(an_event(event_id=3, user_id="checked", event_type="checked"), project="checked", queued=True)
    here = a_chunk(an_event(event_id=3, user_id="checked", event_type="checked"))
    with locked(path):
        calls = [
            asyncio.create_task(call)
            for call in (
                store.append([a_chunk(an_event(event_id=2, user_id="beside"))]),
                store.check(here),
                store.check(checked),
                store.check(here),
            )
        ]
        await asyncio.sleep(0.1)
    await asyncio.gather(*calls)
    await store.append([a_chunk(an_event(event_id=4, user_id="new", event_type="new"), project="new")])
    await store.append([a_chunk(an_event(event_id=5, user_id="new", event_type="new"))])
    assert (await store.append([checked, here])) == (Receipt(), Receipt())
    found = await store.find("default", [an_id(number) for number in range(9)])
    assert [stored.event.user_id for stored in found.values()] == ["ada", "beside", "checked", "new"]
    assert list(await store.verify()) == []


@pytest.mark.parametrize("end", ["ABORT", "FAIL", "ROLLBACK"])
async def test_a_rule_in_the_tables_counts_for_checks_too(store: EventStore, path: Path, end: str) -> None:
    """Also one that ends the whole transaction: what others have in it is written all the same."""
    change(
        path,
        "CREATE TRIGGER rule BEFORE INSERT ON events WHEN NEW.properties LIKE '%forbidden%' "
        f"BEGIN SELECT RAISE({end}, 'we do not want this'); END",
    )
    bad = a_chunk(*many_events(10, first=50), an_event(event_id=99, properties={"forbidden": 1}))
    with locked(path):
        good = [asyncio.create_task(store.append([a_chunk(event)])) for event in many_events(10)]
        checks = [asyncio.create_task(store.check(chunk)) for chunk in (bad, a_chunk(an_event(event_id=98)), bad)]
        more = [asyncio.create_task(store.append([a_chunk(event)])) for event in many_events(10, first=10)]
        await asyncio.sleep(0.1)
    assert await asyncio.gather(*map(kind_of, checks)) == [Kind.DATA, None, Kind.DATA]
    assert await asyncio.gather(*good, *more) == [(Receipt(),)] * 20
    assert await kind_of(asyncio.create_task(store.check(bad))) is Kind.DATA  # alone, too
    assert (await store.describe()).counts["default"]["events"] == 20
    assert list(await store.verify()) == []


async def test_a_refused_loser_is_refused_data(store: EventStore) -> None:
    """What lost inside its request goes into another table, which could hold more than the events can."""
    for changes in ({"event_id": bytes(15)}, {"user_id": "a\0b"}, {"event_type": "a\0b"}, {"occurred_us": -1}):
        loser = msgspec.structs.replace(an_event(), **changes)
        for call in (store.append, lambda chunks: store.check(chunks[0])):
            with pytest.raises(StoreError) as caught:
                await call([a_chunk(an_event(), conflicting=[loser])])
            assert caught.value.kind is Kind.DATA
    assert (await store.describe()).counts == {}


async def test_a_rule_buries_and_its_end_brings_back(store: EventStore, path: Path) -> None:
    """The whole way: of 500 events the three that somebody's rule refuses become letters, and are stored later."""
    change(
        path,
        "CREATE TRIGGER rule BEFORE INSERT ON events WHEN NEW.occurred_us % 1000 = 7 "
        "BEGIN SELECT RAISE(ABORT, 'not at seven'); END",
    )
    events = many_events(500)
    for position in (0, 250, 499):
        events[position] = msgspec.structs.replace(events[position], occurred_us=AN_INSTANT_US + 7)
    chunk = a_chunk(*events, queued=True, import_id=bytes(16))
    assert await persist(store, [chunk], now_us=AN_INSTANT_US) == ((Receipt(),), 3)
    assert await letters(store) == [events[0], events[250], events[499]]
    names = [member(events[position]) for position in (0, 250, 499)]
    with pytest.raises(StoreError) as caught:
        await store.replay("default", names)
    assert caught.value.kind is Kind.DATA
    assert len(await letters(store)) == 3
    change(path, "DROP TRIGGER rule")
    assert await store.replay("default", names) == Replay(stored=3)
    found = await store.find("default", [an_id(250)])
    assert (found[an_id(250)].received_us, found[an_id(250)].import_id) == (chunk.received_us, bytes(16))
    assert list(await store.books("default", DAY, DAY)) == [Book(date=DAY, received=500, accepted=500, stored=500)]
    assert list(await store.verify()) == []


# Letters


@given(
    st.builds(
        Event,
        st.binary(max_size=20),
        st.text(st.characters()),
        st.text(st.characters()),
        st.integers(),
        st.text(st.characters(), max_size=300),
        st.binary(max_size=20),
    )
)
def test_any_event_is_packed_whole(event: Event) -> None:
    assert _unpack(_pack(event)) == event


async def test_two_halves_of_a_character_do_not_become_one(store: EventStore) -> None:
    event = msgspec.structs.replace(an_event(), user_id="\ud83d\ude00", occurred_us=2**80)
    await bury(store, event)
    assert await letters(store) == [event]


async def test_letters_are_in_the_order_of_their_names_whatever_the_length_of_ids(store: EventStore) -> None:
    """A short id ends where the fingerprint begins, which may be larger than what a longer id has there."""
    events = [
        msgspec.structs.replace(an_event(), event_id=event_id, fingerprint=bytes([byte]) * 16)
        for event_id, byte in ((b"", 0), (b"", 200), (b"\0", 1), (b"a", 255), (b"ab", 0), (bytes(16), 9))
    ]
    names = await bury(store, *events)
    assert list(map(member, await letters(store))) == names
    pages = [[*await store.dead_letters("default", limit=1, after=name)] for name in names]
    assert [member(page[0].event) for page in pages[:-1]] == names[1:]
    for name in names:
        assert await store.drop("default", [name]) == 1
    assert list(await store.verify()) == []


async def test_letters_are_read_and_taken_in_windows(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters.sqlite.letters, "_AT_ONCE", 7)
    events = many_events(50)
    names = await bury(store, *events)
    assert await letters(store) == events
    for limit in (6, 7, 8, 14, 49, 50, 51):
        page = await store.dead_letters("default", limit=limit, event_ids=[an_id(at) for at in range(1, 60)])
        assert [letter.event for letter in page] == events[1 : limit + 1]
    assert await store.dead_letters("default", limit=0) == []
    assert await store.replay("default", [*names[:20], *names[:5]]) == Replay(stored=20)
    assert await letters(store) == events[20:]
    assert list(await store.verify()) == []


async def test_letters_count_for_the_size_of_a_group(
    store: EventStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters.sqlite.writer, "GROUP_EVENTS", 10)
    commits: list[object] = []
    real = Database.is_reached
    monkeypatch.setattr(Database, "is_reached", property(lambda self: commits.append(1) or real.fget(self)))  # type: ignore[attr-defined]
    with locked(path):
        calls = [asyncio.create_task(bury(store, *many_events(5, first=5 * turn))) for turn in range(20)]
        await asyncio.sleep(0.1)
    await asyncio.gather(*calls)
    assert 10 <= len(commits) <= 11
    assert len(await letters(store)) == 100


async def test_a_refused_replay_beside_appends_fails_alone(store: EventStore, path: Path) -> None:
    names = await bury(store, an_event(), POISON)
    with locked(path):
        calls = [asyncio.create_task(store.append([a_chunk(event)])) for event in many_events(10, first=10)]
        bad = asyncio.create_task(store.replay("default", names))
        good = asyncio.create_task(store.replay("default", names[:1]))
        calls += [asyncio.create_task(store.append([a_chunk(event)])) for event in many_events(10, first=20)]
        await asyncio.sleep(0.1)
    assert await kind_of(bad) is Kind.DATA
    assert await good == Replay(stored=1)
    assert await asyncio.gather(*calls) == [(Receipt(),)] * 20
    assert await letters(store) == [POISON]
    assert list(await store.verify()) == []


# Epochs and processes


async def test_a_drop_is_known_at_once_to_a_reading_that_began_before_it(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a cache would be believed, for a second more, about events that are gone."""
    names = await bury(store, POISON)
    old = (await store.describe()).epoch
    store._writer.epoch_at = 0.0  # type: ignore[attr-defined]  # long ago, so that the file is asked
    has_read, may_return = threading.Event(), threading.Event()
    real = adapters.sqlite.reader.epoch

    def slowly(database: Database) -> str:
        epoch = real(database)
        has_read.set()
        may_return.wait(5)
        return epoch

    monkeypatch.setattr(adapters.sqlite.reader, "epoch", slowly)
    slow = asyncio.create_task(store.epoch())
    assert await asyncio.to_thread(has_read.wait, 5)
    await store.drop("default", names)
    may_return.set()
    assert await slow == old
    assert await store.epoch() not in ("", old)


async def test_a_failed_drop_keeps_the_epoch(store: EventStore, path: Path) -> None:
    await store.append([a_chunk(*many_events(3))])
    names = await bury(store, POISON)
    epoch = await store.epoch()
    change(path, "CREATE TRIGGER rule BEFORE UPDATE OF dropped ON projects BEGIN SELECT RAISE(ABORT, 'keep them'); END")
    with pytest.raises(StoreError):
        await store.drop("default", names)
    await store.append([a_chunk(*many_events(3, first=1))])
    assert await store.epoch() == (await store.describe()).epoch == epoch
    assert await letters(store) == [POISON]
    assert list(await store.verify()) == []


REPLAYER = """
import asyncio, sys
from adapters.sqlite import open_store
from eventcore.dedup import member
from eventcore.strategies import an_event

async def main():
    store = await open_store(sys.argv[1])
    names = [member(an_event(event_id=number, user_id=f"user {number}")) for number in range(300)]
    stored = 0
    for begin in range(0, 300, 3):
        stored += (await store.replay("default", names[begin : begin + 7])).stored
    await store.drop("default", [member(an_event(event_id=1_000 + int(sys.argv[2])))])
    print(stored)
    await store.close()

asyncio.run(main())
"""


async def test_processes_that_replay_the_same_letters_store_each_once(store: EventStore, path: Path) -> None:
    """And drop others, beside a server that goes on appending."""
    await bury(store, *many_events(300), *(an_event(event_id=1_000 + own) for own in range(2)), POISON)
    epoch = (await store.describe()).epoch
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", REPLAYER, f"sqlite:///{path}", str(own)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for own in range(2)
    ]
    ends = [asyncio.create_task(asyncio.to_thread(process.communicate, timeout=60)) for process in processes]
    first = 10_000
    while not all(end.done() for end in ends):
        await store.append([a_chunk(an_event(event_id=first, user_id=f"user {first % 300}"))])
        first += 1
        await asyncio.sleep(0.005)
    answers = [await end for end in ends]
    assert [error for _, error in answers] == ["", ""]
    assert sum(int(output) for output, _ in answers) == 300
    assert await letters(store) == [POISON]
    assert (await store.describe()).counts["default"]["events"] == 300 + first - 10_000
    await asyncio.sleep(1.05)
    assert await store.epoch() == (await store.describe()).epoch != epoch
    assert list(await store.verify()) == []


# Damage


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        (
            "DELETE FROM dead_events WHERE length(event_id) = 16",
            "project default: the books count 3 events as dead, 1 are dead letters, and 1 were dropped",
        ),
        (
            "UPDATE projects SET dropped = 0",
            "project default: the books count 3 events as dead, 2 are dead letters, and 0 were dropped",
        ),
        (
            "UPDATE ingestion_books SET dead = 2, stored = stored + 1",
            "project default: the books count 2 events as dead, 2 are dead letters, and 1 were dropped",
        ),
        (
            "UPDATE dead_events SET event = substr(event, 1, 9) WHERE length(event_id) = 16",
            f"project default: dead letter {member(POISON).hex()} does not hold its event",
        ),
        (
            "UPDATE dead_events SET event = (SELECT event FROM dead_events WHERE length(event_id) = 15)",
            f"project default: dead letter {member(POISON).hex()} does not hold its event",
        ),
    ],
    ids=["letter lost", "dropped forgotten", "books count too few", "letter cut short", "letter of another"],
)
async def test_planted_damage_is_told(store: EventStore, path: Path, statement: str, sentence: str) -> None:
    short = msgspec.structs.replace(POISON, event_id=bytes(15))
    await bury(store, an_event(), POISON, short)
    await store.append([a_chunk(dead=[a_death(POISON)], project="other")])
    await store.drop("default", [member(an_event())])
    await store.drop("other", [member(POISON)])
    assert list(await store.verify()) == []
    change(path, statement.replace("projects SET dropped = 0", "projects SET dropped = 0 WHERE name = 'default'"))
    assert sentence in await store.verify("default")


async def test_a_broken_letter_is_not_passed_over(store: EventStore, path: Path) -> None:
    names = await bury(store, POISON)
    change(path, "UPDATE dead_events SET event = x'00'")
    for call in (store.dead_letters("default", limit=1), store.replay("default", names)):
        with pytest.raises(StoreError) as caught:
            await call
        assert (caught.value.kind, caught.value.code) == (Kind.SCHEMA, "damaged")
    assert (await store.describe()).counts["default"]["dead"] == 1
