"""What is special to writing into a file: shared commits, locks, full disks, other processes and sudden ends."""

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from time import monotonic

import msgspec
import pytest

import adapters.sqlite.appending
import adapters.sqlite.database
import adapters.sqlite.writer
from adapters.sqlite import open_store
from adapters.sqlite.database import Database
from eventcore.errors import Kind, StoreError
from eventcore.events import Counts, Event, Receipt
from eventcore.ports import EventStore
from eventcore.strategies import a_chunk, an_event, an_id

BROKEN = "\ud800"
"""Half a character: no text that SQLite takes."""


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
    """Another writer is in the middle of a transaction."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


def rows_in(path: Path) -> dict[str, int]:
    with closing(sqlite3.connect(path)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        return {name: connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in tables}


def commits_in(path: Path) -> int:
    """The commits in the log: each frame says in bytes 4 to 8 whether it ends one, and carries the log's own salt."""
    log = path.with_name(path.name + "-wal").read_bytes()
    page_bytes = int.from_bytes(log[8:12], "big")
    frames = [log[at : at + 24] for at in range(32, len(log), 24 + page_bytes)]
    return sum(frame[8:16] == log[16:24] and frame[4:8] != bytes(4) for frame in frames)


def many_events(count: int, *, first: int = 0, users: int = 100) -> list[Event]:
    return [an_event(event_id=number, user_id=f"user {number % users}") for number in range(first, first + count)]


# Shared commits


async def test_calls_that_wait_together_share_a_commit(store: EventStore, path: Path) -> None:
    before = commits_in(path)
    with locked(path):
        calls = [asyncio.create_task(store.append([a_chunk(event)])) for event in many_events(100)]
        await asyncio.sleep(0.1)
    receipts = await asyncio.gather(*calls)
    assert receipts == [(Receipt(),)] * 100
    assert commits_in(path) - before <= 2  # the first to come does not wait for others
    assert rows_in(path)["events"] == 100


async def test_each_call_gets_its_own_receipts(store: EventStore, path: Path) -> None:
    with locked(path):
        calls = [
            asyncio.create_task(store.append(chunks))
            for chunks in (
                [a_chunk(an_event()), a_chunk(an_event(event_id=2), an_event())],
                [],
                [a_chunk(an_event(event_id=3), an_event(event_id=2, user_id="grace"), an_event())],
                [a_chunk(counts=Counts(rejected=3))],
            )
        ]
        await asyncio.sleep(0.1)
    assert await asyncio.gather(*calls) == [
        (Receipt(), Receipt(duplicates=(1,))),
        (),
        (Receipt(duplicates=(2,), conflicts=(1,)),),
        (Receipt(),),
    ]


async def test_a_group_has_a_bound(store: EventStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters.sqlite.writer, "GROUP_EVENTS", 10)
    before = commits_in(path)
    with locked(path):
        calls = [asyncio.create_task(store.append([a_chunk(event)])) for event in many_events(100)]
        await asyncio.sleep(0.1)
    await asyncio.gather(*calls)
    assert 10 <= commits_in(path) - before <= 11


async def test_a_group_is_bounded_in_bytes_too(store: EventStore, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters.sqlite.writer, "GROUP_BYTES", 25_000)
    before = commits_in(path)
    large = [an_event(event_id=number, properties={"text": "x" * 10_000}) for number in range(10)]
    with locked(path):
        calls = [asyncio.create_task(store.append([a_chunk(event)])) for event in large]
        await asyncio.sleep(0.1)
    await asyncio.gather(*calls)
    assert 5 <= commits_in(path) - before <= 6


async def test_closing_finishes_what_waits(path: Path) -> None:
    store = await open_store(f"sqlite:///{path}")
    calls = [asyncio.create_task(store.append([a_chunk(event)])) for event in many_events(50)]
    await asyncio.sleep(0)
    await store.close()
    assert await asyncio.gather(*calls) == [(Receipt(),)] * 50
    assert [found.name for found in path.parent.iterdir()] == [path.name]  # the log is in the file
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("eventcore-sqlite")] == []
    assert rows_in(path)["events"] == 50


# What fails


def broken(**changes: object) -> Event:
    """An event that decoding never lets through."""
    return msgspec.structs.replace(an_event(event_id=666, user_id="nobody", event_type="nothing"), **changes)


CULPRITS = {
    "half a character in the properties": broken(properties=BROKEN),
    "half a character in the user": broken(user_id=BROKEN),
    "NUL in the user": broken(user_id="a\0b"),
    "NUL in the type": broken(event_type="a\0b"),
    "short id": broken(event_id=bytes(15)),
    "long id": broken(event_id=bytes(17)),
    "before 1970": broken(occurred_us=-1),
    "after 9999": broken(occurred_us=2**62),
    "too large a number": broken(occurred_us=2**64),
}


@pytest.mark.parametrize("culprit", CULPRITS.values(), ids=CULPRITS)
async def test_only_the_call_at_fault_fails(store: EventStore, path: Path, culprit: Event) -> None:
    with locked(path):
        before = [asyncio.create_task(store.append([a_chunk(event)])) for event in many_events(20)]
        bad = asyncio.create_task(store.append([a_chunk(an_event(event_id=500)), a_chunk(culprit)]))
        after = [asyncio.create_task(store.append([a_chunk(event)])) for event in many_events(20, first=20)]
        await asyncio.sleep(0.1)
    with pytest.raises(StoreError) as caught:
        await bad
    assert (caught.value.kind, caught.value.retryable) == (Kind.DATA, False)
    assert await asyncio.gather(*before, *after) == [(Receipt(),)] * 40
    assert list(await store.find("default", [an_id(number) for number in (0, 39, 500, 666)])) == [an_id(0), an_id(39)]
    assert list(await store.verify()) == []


async def test_a_failed_transaction_leaves_nothing(store: EventStore, path: Path) -> None:
    await store.append([a_chunk(an_event())])
    before = rows_in(path)
    chunk = a_chunk(
        an_event(event_id=2, user_id="new", event_type="new"),
        broken(properties=BROKEN),
        project="new",
        import_id=bytes(16),
        queued=True,
    )
    for _ in range(2):
        with pytest.raises(StoreError):
            await store.append([chunk])
    assert rows_in(path) == before

    # Nothing was remembered of it either: what it would have used is given to others.
    await store.append([a_chunk(an_event(event_id=3, user_id="other"), project="other")])
    await store.append([msgspec.structs.replace(chunk, events=chunk.events[:1])])
    assert list(await store.verify()) == []
    found = await store.find("new", [an_id(2)])
    assert (found[an_id(2)].event, found[an_id(2)].import_id) == (chunk.events[0], bytes(16))


async def test_an_error_that_nobody_thought_of_stops_nobody(
    store: EventStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Database.insert

    def fails(self: Database, name: str, columns: object) -> None:
        if name == "insert_conflict":
            raise ZeroDivisionError
        real(self, name, columns)  # type: ignore[arg-type]

    await store.append([a_chunk(an_event())])
    monkeypatch.setattr(Database, "insert", fails)
    with locked(path):
        bad = asyncio.create_task(store.append([a_chunk(an_event(user_id="grace"))]))
        good = asyncio.create_task(store.append([a_chunk(an_event(event_id=2))]))
        await asyncio.sleep(0.1)
    with pytest.raises(ZeroDivisionError):
        await bad
    assert await good == (Receipt(),)
    assert list(await store.verify()) == []


async def test_who_gave_up_waiting_stops_nobody(store: EventStore, path: Path) -> None:
    with locked(path):
        patient = asyncio.create_task(store.append([a_chunk(an_event())]))
        impatient = asyncio.create_task(store.append([a_chunk(an_event(event_id=2))]))
        await asyncio.sleep(0.1)
        impatient.cancel()
        await asyncio.sleep(0)
    assert await patient == (Receipt(),)
    assert impatient.cancelled()
    await store.append([a_chunk(an_event(event_id=3))])


# Locks


async def test_a_lock_is_waited_for(store: EventStore, path: Path) -> None:
    with locked(path):
        call = asyncio.create_task(store.append([a_chunk(an_event())]))
        await asyncio.sleep(0.3)
        assert not call.done()
    assert await call == (Receipt(),)


async def test_a_lock_that_stays_is_told_and_nothing_is_lost(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters.sqlite.database, "BUSY_SECONDS", 0.3)
    store = await open_store(f"sqlite:///{path}")
    chunk = a_chunk(an_event())
    with locked(path):
        began = monotonic()
        results = await asyncio.gather(
            store.append([chunk]), store.append([a_chunk(an_event(event_id=2))]), return_exceptions=True
        )
        assert 0.3 <= monotonic() - began < 3
        errors = [result for result in results if isinstance(result, StoreError)]
        assert [(error.kind, error.code) for error in errors] == [(Kind.UNAVAILABLE, "locked")] * 2
        assert errors[0] is not errors[1]
        assert await store.find("default", [an_id(1)]) == {}  # reading goes on
    assert await store.append([chunk]) == (Receipt(),)
    assert rows_in(path)["events"] == 1
    await store.close()


HOG = """
import asyncio, os, sys
from adapters.sqlite import open_store
from eventcore.strategies import a_chunk, an_event

async def main():
    store = await open_store(sys.argv[1])
    chunk = a_chunk(*(an_event(event_id=number, user_id=f"user {number}") for number in range(3_000)))
    async def call():
        while True:
            events = tuple(an_event(event_id=os.urandom(16), user_id="u") for _ in range(300))
            await store.append([a_chunk(*events)])
            print("wrote", flush=True)
    await asyncio.gather(*(call() for _ in range(4)))

asyncio.run(main())
"""


@contextmanager
def running(program: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", program, f"sqlite:///{path}"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        yield process
    finally:
        process.kill()
        assert process.stdout is not None
        process.stdout.close()
        process.wait()


async def test_a_writer_without_pause_leaves_others_their_turn(store: EventStore, path: Path) -> None:
    """An import beside a server."""
    with running(HOG, path) as hog:
        assert hog.stdout is not None
        assert hog.stdout.readline() == "wrote\n"
        waits = []
        for number in range(20):
            began = monotonic()
            await store.append([a_chunk(an_event(event_id=number))])
            waits.append(monotonic() - began)
        assert hog.poll() is None
    print(sorted(waits))
    assert sorted(waits)[10] < 0.5
    assert list(await store.verify()) == []
