"""The importer's batches under way: whatever order they reach the store in, the first row of a file wins."""

import asyncio
import os
import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from entrypoints.cli.csv_rows import ColumnOptions
from entrypoints.cli.loading import BATCHES_UNDER_WAY, Input, Refusals, Tally, load
from entrypoints.csv_reader import RowReader, Rows
from eventcore.decoding import Decoded
from eventcore.errors import Kind, StoreError
from eventcore.events import Outcome
from eventcore.limits import Limits
from eventcore.service import Eventcore

CORE = cast(Eventcore, SimpleNamespace(now_us=lambda: 1_780_000_000_000_000, limits=Limits()))
OPTIONS = ColumnOptions()


class Nobody:
    def begin(self, name: str, size: int | None) -> None:
        pass

    def advance(self, bytes_read: int, rows: int) -> None:
        pass


class LateStore:
    """Decides about a batch only after a pause of its own, so batches overtake each other."""

    def __init__(self, seed: int) -> None:
        self.users: dict[bytes, str] = {}
        self.under_way = 0
        self.most_under_way = 0
        self._random = random.Random(seed)

    def ingest(self, decoded: Decoded) -> "asyncio.Task[Outcome]":
        return asyncio.create_task(self._ingest(decoded))

    async def _ingest(self, decoded: Decoded) -> Outcome:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        await asyncio.sleep(self._random.random() / 500)
        self.under_way -= 1
        new = 0
        for event in decoded.events:
            new += event.event_id not in self.users
            self.users.setdefault(event.event_id, event.user_id)
        return Outcome(accepted=new, duplicates=len(decoded.events) - new, conflicts=0, rejected=len(decoded.problems))


async def run(path: Path, ingest: Any) -> Tally:
    tally = Tally()
    with await Input(str(path)).open(OPTIONS) as opened:
        await load(opened, ingest, CORE, tally=tally, refusals=Refusals(None), watcher=Nobody())
    return tally


def write_rows(path: Path, rows: list[tuple[int, str]]) -> Path:
    lines = [f"00000000-0000-4000-8000-{number:012d},2026-01-31T09:30:00Z,{user},visit\n" for number, user in rows]
    path.write_text("event_id,occurred_at,user_id,event_type\n" + "".join(lines))
    return path


@pytest.mark.parametrize("seed", range(5))
async def test_the_first_row_wins_though_batches_overtake_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr("entrypoints.csv_reader.BATCH_ROWS", 2)
    rows = [(number // 3, f"u{number % 3}") for number in range(120)]
    store = LateStore(seed)
    tally = await run(write_rows(tmp_path / "rows.csv", rows), store.ingest)
    assert set(store.users.values()) == {"u0"}
    assert (tally.rows, tally.accepted) == (120, 40)


async def test_batches_that_cannot_meet_are_under_way_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("entrypoints.csv_reader.BATCH_ROWS", 2)
    rows = [(number, "ada") for number in range(60)] + [(number, "ada") for number in range(60)]
    store = LateStore(1)
    await run(write_rows(tmp_path / "rows.csv", rows), store.ingest)
    assert store.most_under_way == BATCHES_UNDER_WAY


async def test_a_failing_batch_ends_the_import_and_the_others_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("entrypoints.csv_reader.BATCH_ROWS", 10)
    store = LateStore(1)
    calls = 0

    async def fail() -> Outcome:
        raise StoreError(Kind.FULL, "disk_full", "no room")

    def ingest(decoded: Decoded) -> "asyncio.Task[Outcome]":
        nonlocal calls
        calls += 1
        return asyncio.create_task(fail()) if calls == 3 else store.ingest(decoded)

    tally = Tally()
    path = write_rows(tmp_path / "rows.csv", [(number, "ada") for number in range(100)])
    with await Input(str(path)).open(OPTIONS) as opened, pytest.raises(StoreError):
        await load(opened, ingest, CORE, tally=tally, refusals=Refusals(None), watcher=Nobody())
    assert tally.accepted == len(store.users)
    assert calls <= 3 + BATCHES_UNDER_WAY


async def test_a_file_that_cannot_be_read_on_ends_the_import_and_the_rows_before_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("entrypoints.csv_reader.BATCH_ROWS", 10)
    whole = RowReader.batches

    def broken(reader: RowReader) -> Iterator[Rows]:
        for _, rows in zip(range(4), whole(reader), strict=False):
            yield rows
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(RowReader, "batches", broken)
    store = LateStore(1)
    tally = Tally()
    path = write_rows(tmp_path / "rows.csv", [(number, "ada") for number in range(100)])
    with await Input(str(path)).open(OPTIONS) as opened, pytest.raises(OSError, match="Input/output error"):
        await load(opened, store.ingest, CORE, tally=tally, refusals=Refusals(None), watcher=Nobody())
    assert tally.accepted == len(store.users) == 40


async def test_a_named_pipe_that_nobody_writes_to_can_be_given_up(tmp_path: Path) -> None:
    path = tmp_path / "pipe.csv"
    os.mkfifo(path)
    looking = asyncio.create_task(Input(str(path)).look(OPTIONS))
    await asyncio.sleep(0.1)
    looking.cancel()
    _, pending = await asyncio.wait([looking], timeout=5)
    assert not pending
    assert looking.cancelled()
    path.write_bytes(b"")  # lets the thread that was left behind end
