"""A file that becomes another one under a running store: a backup put back, a file moved away, a log deleted."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

import eventcore
from adapters.sqlite import open_store
from eventcore.errors import Kind, StoreError
from eventcore.service import Eventcore
from eventcore.strategies import a_chunk, a_death
from eventcore.strategies import an_event as an_inner_event


def an_event(number: int, user: str, kind: str = "t") -> dict[str, str]:
    return {
        "event_id": f"00000000-0000-4000-8000-{number:012}",
        "user_id": user,
        "event_type": kind,
        "occurred_at": "2026-02-02T00:00:00Z",
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.sqlite3"


@pytest.fixture
async def core(path: Path) -> AsyncIterator[Eventcore]:
    async with await eventcore.open(f"sqlite:///{path}") as opened:
        yield opened


def copy(source: Path, target: Path) -> None:
    """SQLite's own online backup, in either direction."""
    with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(target)) as other:
        one.backup(other)


def move(source: Path, target: Path) -> None:
    for name in (target.name + "-wal", target.name + "-shm"):
        target.with_name(name).unlink(missing_ok=True)
    source.rename(target)


async def active(core: Eventcore) -> int:
    [row] = (await core.daily_active_users("2026-02-02", "2026-02-02")).data
    return int(row["users"])


@pytest.mark.parametrize("put_back", [copy, move])
async def test_a_backup_put_back_under_a_running_store_is_the_truth(core: Eventcore, path: Path, put_back) -> None:  # type: ignore[no-untyped-def]
    await core.ingest([an_event(1, "ann")])
    copy(path, path.with_name("backup"))
    await core.ingest([an_event(2, "bob", "buy"), an_event(3, "cid")])
    assert await active(core) == 3
    epoch = await core.store.epoch()
    put_back(path.with_name("backup"), path)
    assert await active(core) == 1

    await core.ingest([an_event(4, "eve", "sell")])
    assert await core.store.epoch() != epoch
    again = await core.ingest([an_event(2, "bob", "buy"), an_event(3, "cid")])
    assert (again.accepted, again.duplicates) == (2, 0)
    for number, user, kind in ((1, "ann", "t"), (2, "bob", "buy"), (3, "cid", "t"), (4, "eve", "sell")):
        found = await core.find(an_event(number, "")["event_id"])
        assert found is not None
        assert (found.event.user_id, found.event.event_type) == (user, kind)
    assert await active(core) == 4
    assert not await core.store.verify()


@pytest.mark.parametrize("put_back", [copy, move])
async def test_what_a_backup_does_not_hold_is_accepted_again_at_once(core: Eventcore, path: Path, put_back) -> None:  # type: ignore[no-untyped-def]
    await core.ingest([an_event(1, "ann")])
    copy(path, path.with_name("backup"))
    await core.ingest([an_event(2, "bob")])
    put_back(path.with_name("backup"), path)
    assert (await core.ingest([an_event(2, "bob")])).accepted == 1
    assert await core.find(an_event(2, "")["event_id"]) is not None


@pytest.mark.parametrize("first", ["a refused append", "a check"])
async def test_a_backup_is_noticed_also_when_the_first_transaction_after_it_keeps_nothing(
    path: Path, first: str
) -> None:
    store = await open_store(f"sqlite:///{path}")
    await store.append([a_chunk(an_inner_event(event_id=1))])
    copy(path, path.with_name("backup"))
    await store.append([a_chunk(an_inner_event(event_id=2))])
    epoch = await store.epoch()
    copy(path.with_name("backup"), path)
    if first == "a check":
        await store.check(a_chunk(an_inner_event(event_id=3)))
    else:
        with pytest.raises(StoreError):
            await store.append([a_chunk(an_inner_event(event_id=b"short"))])
    await store.append([a_chunk(an_inner_event(event_id=4))])
    assert await store.epoch() == (await store.describe()).epoch != epoch
    await store.close()


async def test_a_backup_without_a_dead_letter_is_noticed(path: Path) -> None:
    """A cache takes the event for known; it is neither stored nor a dead letter any more."""
    store = await open_store(f"sqlite:///{path}")
    await store.append([a_chunk(an_inner_event(event_id=1))])
    copy(path, path.with_name("backup"))
    await store.append([a_chunk(dead=[a_death(an_inner_event(event_id=2))])])
    epoch = await store.epoch()
    copy(path.with_name("backup"), path)
    await store.append([a_chunk(an_inner_event(event_id=1))])
    assert await store.epoch() != epoch
    assert not await store.verify()
    await store.close()


async def test_a_new_file_in_the_place_of_the_old_one_is_noticed_at_once(core: Eventcore, path: Path) -> None:
    await core.ingest([an_event(1, "ann")])
    other = await open_store(f"sqlite:///{path.with_name('other')}")
    await other.close()
    move(path.with_name("other"), path)
    assert (await core.ingest([an_event(1, "ann")])).accepted == 1
    assert await core.find(an_event(1, "")["event_id"]) is not None


async def test_nothing_is_acknowledged_that_went_into_a_file_moved_away_meanwhile(path: Path) -> None:
    store = await open_store(f"sqlite:///{path}")
    await store.append([a_chunk(an_inner_event(event_id=1))])
    with closing(sqlite3.connect(path, isolation_level=None)) as locker:
        locker.execute("BEGIN IMMEDIATE")
        waiting = asyncio.ensure_future(store.append([a_chunk(an_inner_event(event_id=2))]))
        await asyncio.sleep(0.3)
        path.rename(path.with_name("elsewhere"))
        locker.execute("ROLLBACK")
        with pytest.raises(StoreError) as raised:
            await waiting
    assert raised.value.kind is Kind.UNAVAILABLE
    await store.close()


async def test_nothing_is_acknowledged_while_the_log_is_deleted(path: Path) -> None:
    store = await open_store(f"sqlite:///{path}")
    await store.append([a_chunk(an_inner_event(event_id=1))])
    for name in (path.name + "-wal", path.name + "-shm"):
        path.with_name(name).unlink()
    with pytest.raises(StoreError) as raised:
        await store.append([a_chunk(an_inner_event(event_id=2))])
    assert raised.value.kind is Kind.UNAVAILABLE
    await store.append([a_chunk(an_inner_event(event_id=2))])
    other = await open_store(f"sqlite:///{path}")
    assert len(await other.find("default", [an_inner_event(event_id=2).event_id])) == 1
    await other.close()
    await store.close()


async def test_a_locked_file_is_waited_for_once_by_all_who_ask_for_the_epoch(path: Path) -> None:
    core = await eventcore.open(f"sqlite:///{path}")
    with closing(sqlite3.connect(path, isolation_level=None)) as locker:
        locker.execute("PRAGMA locking_mode = EXCLUSIVE")
        locker.execute("BEGIN EXCLUSIVE")
        locker.execute("CREATE TABLE x (y)")
        began = asyncio.get_running_loop().time()
        failures = await asyncio.gather(*(core.store.epoch() for _ in range(32)), return_exceptions=True)
        assert asyncio.get_running_loop().time() - began < 12
    assert {type(failure) for failure in failures} <= {StoreError, str}
    await core.close()
