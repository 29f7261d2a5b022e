"""What is special to writing into a file: shared commits, locks, full disks, other processes and sudden ends."""

import asyncio
import json
import os
import random
import re
import shutil
import signal
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
from adapters.sqlite.database import Database, open_writer
from adapters.sqlite.keys import KnownKeys
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
    file = path.with_name(path.name + "-wal")
    log = file.read_bytes() if file.exists() else b""
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
    async def call(caller):
        old = [an_event(event_id=10_000 * caller + number, user_id=f"user {number}") for number in range(3_000)]
        while True:
            await store.append([a_chunk(an_event(event_id=os.urandom(16)), *old)])
            print("wrote", flush=True)
    await asyncio.gather(*map(call, range(1, 9)))

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
    """An import beside a server: while one call waits, at most a few transactions of the other process overtake it."""

    def transactions(connection: sqlite3.Connection) -> int:
        return int(connection.execute("SELECT max(delta_key) FROM activity_delta").fetchone()[0])

    with running(HOG, path) as hog, closing(sqlite3.connect(path)) as connection:
        assert hog.stdout is not None
        assert hog.stdout.readline() == "wrote\n"
        overtaken = []
        for number in range(10):
            await asyncio.sleep(0.05)
            before = transactions(connection)
            await store.append([a_chunk(an_event(event_id=number))])
            overtaken.append(transactions(connection) - before - 1)
        assert hog.poll() is None
        # For nothing to be proved by a hog that rests:
        before = transactions(connection)
        while transactions(connection) < before + 10:
            await asyncio.sleep(0.05)
    assert max(overtaken) <= 4
    assert list(await store.verify()) == []


# Other processes

WRITER = """
import asyncio, sys
from adapters.sqlite import open_store
from eventcore.strategies import a_chunk, an_event

async def main():
    url, own = sys.argv[1], int(sys.argv[2])
    store = await open_store(url)
    async def call(turn):
        events = [
            an_event(
                event_id=(own * 7 + turn * 40 + number * 3) % 2_000,
                user_id=f"user {(own * 7 + turn * 40 + number * 3) % 2_000 % 97}",
                event_type=f"type {(own * 7 + turn * 40 + number * 3) % 2_000 % 5}",
            )
            for number in range(100)
        ]
        project = f"project {turn % 3}"
        [receipt] = await store.append([a_chunk(*events, project=project)])
        return len(receipt.duplicates), len(receipt.conflicts)
    print(await asyncio.gather(*map(call, range(60))))
    await store.close()

asyncio.run(main())
"""


async def test_several_processes_give_out_keys_together(store: EventStore, path: Path) -> None:
    """The same ids, users, types and projects, new to all of them, in different orders."""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, f"sqlite:///{path}", str(own)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for own in range(3)
    ]
    answers = [writer.communicate(timeout=60) for writer in writers]
    assert [error for _, error in answers] == [""] * 3
    receipts = [receipt for output, _ in answers for receipt in json.loads(output.replace("(", "[").replace(")", "]"))]
    assert sum(conflicts for _, conflicts in receipts) == 0
    repeats = sum(duplicates for duplicates, _ in receipts)
    assert rows_in(path)["events"] == 3 * 60 * 100 - repeats
    assert list(await store.verify()) == []


async def test_two_stores_in_turn_know_each_others_keys(store: EventStore, path: Path) -> None:
    other = await open_store(f"sqlite:///{path}")
    for number in range(40):
        user = f"user {number // 3}"
        one = store if number % 2 else other
        await one.append([a_chunk(an_event(event_id=number, user_id=user, event_type=user), project=f"p{number // 5}")])
    assert list(await store.verify()) == []
    await other.close()


async def test_keys_are_right_also_when_few_are_remembered(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_KNOWN_USERS", "_KNOWN_TYPES", "_KNOWN_PROJECTS"):
        monkeypatch.setattr(adapters.sqlite.appending, name, 10)
    store = await open_store(f"sqlite:///{path}")
    for turn in range(30):
        events = [
            an_event(event_id=30 * turn + number, user_id=f"user {number + turn}", event_type=f"type {number + turn}")
            for number in range(30)
        ]
        await store.append([a_chunk(*events, project=f"p{turn % 12}")])
    assert list(await store.verify()) == []
    await store.close()


def test_remembered_keys_are_bounded() -> None:
    known = KnownKeys(10)
    for number in range(100):
        known.remember(number % 3, {f"{number} {more}": number for more in range(4)})
        remembered = [name for project in range(3) for name in known.of(project)]
        assert 4 <= len(remembered) <= 10
        assert f"{number} 3" in remembered


async def test_another_epoch_forgets_all_keys(store: EventStore, path: Path) -> None:
    """Whoever empties a store, or puts other content in its place, gives it another epoch."""
    await store.append([a_chunk(*many_events(20), project="old"), a_chunk(*many_events(20))])
    with closing(sqlite3.connect(path)) as connection, connection:
        for table in (
            "projects",
            "users",
            "event_types",
            "events",
            "event_ledger",
            "activity_delta",
            "ingestion_books",
        ):
            connection.execute(f"DELETE FROM {table}")
        connection.execute("UPDATE store SET value = 'another' WHERE key = 'epoch'")
    await store.append([a_chunk(an_event(user_id="user 7"))])
    assert rows_in(path)["users"] == rows_in(path)["projects"] == rows_in(path)["event_types"] == 1
    assert list(await store.verify()) == []


# The file itself


async def test_a_deleted_file_is_not_written_to(store: EventStore, path: Path) -> None:
    """What is written to a file that nobody can open any more is lost."""
    await store.append([a_chunk(an_event())])
    assert len(await store.find("default", [an_id(1)])) == 1
    for file in path.parent.iterdir():
        file.unlink()
    with pytest.raises(StoreError) as caught:
        await store.append([a_chunk(an_event(event_id=2))])
    assert (caught.value.kind, caught.value.code) == (Kind.UNAVAILABLE, "cannot_open")
    with pytest.raises(StoreError):
        await store.find("default", [an_id(1)])
    assert not path.exists()


async def test_a_file_put_in_its_place_is_taken(store: EventStore, path: Path, tmp_path: Path) -> None:
    """A backup moved to where the store was: nothing of the old file is remembered."""
    for number in range(3):
        await store.append([a_chunk(an_event(event_id=number, user_id=f"user {number}"))])
    backup = await open_store(f"sqlite:///{tmp_path / 'backup'}")
    await backup.append([a_chunk(an_event(event_id=7, user_id="user 2"))])
    await backup.close()
    for file in path.parent.glob("events.sqlite3*"):
        file.unlink()
    (tmp_path / "backup").rename(path)

    await store.append([a_chunk(an_event(event_id=2, user_id="user 1"))])
    assert sorted(await store.find("default", [an_id(number) for number in range(9)])) == [an_id(2), an_id(7)]
    assert list(await store.verify()) == []


async def test_the_log_does_not_grow_without_bound(
    store: EventStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters.sqlite.writer, "CHECKPOINT_PAGES", 200)
    log = path.with_name(path.name + "-wal")
    sizes = []
    for turn in range(40):
        await store.append([a_chunk(*many_events(100, first=100 * turn))])
        sizes.append(log.stat().st_size)
    assert max(sizes[20:]) <= max(sizes[:20]) * 1.5
    assert max(sizes) < path.stat().st_size


async def test_writers_that_come_and_go_leave_no_log_behind(store: EventStore, path: Path) -> None:
    """Imports beside a server that only reads."""
    await store.epoch()
    log = path.with_name(path.name + "-wal")
    sizes = []
    for turn in range(20):
        writer = await open_store(f"sqlite:///{path}")
        await writer.append([a_chunk(*many_events(100, first=100 * turn))])
        await writer.close()
        sizes.append(log.stat().st_size)
    assert max(sizes[10:]) <= max(sizes[:10]) * 1.5


async def test_a_long_reader_holds_the_log_up_only_while_it_reads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters.sqlite.writer, "CHECKPOINT_PAGES", 100)
    store = await open_store(f"sqlite:///{path}")
    log = path.with_name(path.name + "-wal")
    await store.append([a_chunk(an_event())])
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM events").fetchone() == (1,)
        for turn in range(1, 40):
            await store.append([a_chunk(*many_events(100, first=100 * turn))])
        assert reader.execute("SELECT count(*) FROM events").fetchone() == (1,)
        size = log.stat().st_size
        assert size > 300 * 4096
    for turn in range(40, 80):
        await store.append([a_chunk(*many_events(100, first=100 * turn))])
    assert log.stat().st_size <= size * 1.2
    await store.close()


async def test_the_log_is_short_also_when_somebody_always_reads(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters.sqlite.writer, "CHECKPOINT_PAGES", 100)
    monkeypatch.setattr(adapters.sqlite.writer, "LONGEST_LOG_PAGES", 300)
    store = await open_store(f"sqlite:///{path}")
    log = path.with_name(path.name + "-wal")
    await store.append([a_chunk(an_event())])
    end = threading.Event()

    def read_on_and_on() -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            while not end.is_set():
                reader.execute("BEGIN")
                reader.execute("SELECT count(*) FROM store").fetchone()
                end.wait(0.1)
                reader.execute("COMMIT")

    readers = [threading.Thread(target=read_on_and_on) for _ in range(3)]
    for reader in readers:
        reader.start()
        await asyncio.sleep(0.03)  # one begins before another ends
    for turn in range(1, 200):
        await store.append([a_chunk(*many_events(100, first=100 * turn))])
    size = log.stat().st_size
    end.set()
    for reader in readers:
        reader.join()
    assert size < 1_000 * 4096
    await store.close()


# Full disks


async def test_a_full_disk_is_told_and_there_is_life_after_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Database] = []

    def open_small(file: Path) -> Database:
        opened.append(open_writer(file))
        opened[-1].pragma("max_page_count = 60")
        return opened[-1]

    monkeypatch.setattr(adapters.sqlite.writer, "open_writer", open_small)
    store = await open_store(f"sqlite:///{path}")
    await store.append([a_chunk(an_event())])
    large = a_chunk(*(an_event(event_id=2 + number, properties={"text": "x" * 5_000}) for number in range(100)))
    results = await asyncio.gather(
        store.append([large]), store.append([a_chunk(an_event(event_id=900))]), return_exceptions=True
    )
    assert isinstance(results[0], StoreError)
    assert (results[0].kind, results[0].code, results[0].retryable) == (Kind.FULL, "disk_full", True)
    assert str(path.parent) not in results[0].message
    await store.append([a_chunk(an_event(event_id=1000))])  # there is room for little ones
    opened[0].pragma("max_page_count = 100000")
    await store.append([large])
    assert list(await store.verify()) == []
    assert len(opened) == 1
    await store.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("only root may mount the small file system that this needs")
    yield folder
    subprocess.run(["umount", folder], check=True)


async def test_a_file_system_without_room_is_told_and_loses_nothing(small_disk: Path) -> None:
    store = await open_store(f"sqlite:///{small_disk / 'events.sqlite3'}")
    (small_disk / "ballast").write_bytes(bytes(200_000))
    stored = 0
    refused = None
    while refused is None:
        chunk = a_chunk(*many_events(50, first=stored))
        try:
            await store.append([chunk])
            stored += 50
        except StoreError as error:
            refused = error
    assert stored > 0
    assert (refused.kind, refused.code) == (Kind.FULL, "disk_full")
    assert (await store.describe()).counts["default"]["events"] == stored
    (small_disk / "ballast").unlink()
    assert await store.append([chunk]) == (Receipt(),)
    assert list(await store.verify()) == []
    await store.close()


# Sudden ends

VICTIM = """
import asyncio, sys
from adapters.sqlite import open_store
from eventcore.strategies import a_chunk, an_event

async def main():
    store = await open_store(sys.argv[1])
    first = int(sys.argv[2])
    async def call(caller):
        number = first + caller * 10
        while True:
            chunk = a_chunk(*(an_event(event_id=number + more, user_id=f"user {number % 500}") for more in range(10)))
            await store.append([chunk])
            print(number, flush=True)
            number += 80
    await asyncio.gather(*map(call, range(8)))

asyncio.run(main())
"""


async def test_what_was_answered_survives_a_kill(path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    answered: list[int] = []
    for turn in range(5):
        victim = subprocess.Popen(
            [sys.executable, "-c", VICTIM, f"sqlite:///{path}", str(turn * 1_000_000)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert victim.stdout is not None
        answered.append(int(victim.stdout.readline()))
        threading.Timer(moments.uniform(0, 0.3), victim.kill).start()
        answered += [int(line) for line in victim.stdout if line.endswith("\n")]
        victim.stdout.close()
        assert victim.wait() == -signal.SIGKILL

        store = await open_store(f"sqlite:///{path}")
        wanted = [an_id(number + more) for number in answered for more in range(10)]
        assert (await store.find("default", wanted)).keys() == set(wanted)
        assert list(await store.verify()) == []
        await store.close()
    assert len(answered) > 5


ANSWERING = """
import asyncio, os, sys
from adapters.sqlite import open_store
from eventcore.strategies import a_chunk, an_event

async def main():
    store = await open_store(sys.argv[1])
    for number in range(5):
        os.write(1, b"ask\\n")
        await store.append([a_chunk(an_event(event_id=number))])
        os.write(1, b"answered\\n")
    await store.close()

asyncio.run(main())
"""


def test_the_disk_is_waited_for_before_each_answer(path: Path, tmp_path: Path) -> None:
    """A kill proves nothing of it: what the kernel holds survives. So this looks at the system calls."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("needs strace")
    trace = tmp_path / "trace"
    command = [strace, "-f", "-y", "-o", str(trace), "-e", "trace=write,pwrite64,fsync,fdatasync"]
    done = subprocess.run(
        [*command, sys.executable, "-c", ANSWERING, f"sqlite:///{path}"], capture_output=True, text=True, check=False
    )
    if "ptrace" in done.stderr.lower():
        pytest.skip(f"strace may not trace here: {done.stderr[:200]}")
    assert done.stdout == "ask\nanswered\n" * 5, done.stderr
    calls = trace.read_text()
    between = re.findall(r'"ask\\n"(.*?)"answered\\n"', calls, re.DOTALL)
    assert len(between) == 5
    for part in between:
        last_write = part.rindex("pwrite64(", 0, part.rindex("sync("))
        assert re.search(r"f(?:data)?sync\(\d+<[^>]*-wal>\)\s*= 0|resumed>", part[last_write:])
        assert "pwrite64(" not in part[part.rindex("sync(") :]
