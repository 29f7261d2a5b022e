"""202 means durable: the order of system calls, and SIGKILL at random moments of `serve` and `import`.

SIGKILL alone proves nothing about the disk, because the kernel keeps what a killed process wrote; so the first part
reads a trace of system calls. `EVENTCORE_TEST_KILLS` sets how often each process is killed, 25 unless told otherwise.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

import eventcore
from entrypoints.sample import SamplePlan, write_csv
from tests.oracles import statistics as oracle
from tests.support import syscalls

EVENTCORE = str(Path(sys.executable).with_name("eventcore"))
KILLS = int(os.environ.get("EVENTCORE_TEST_KILLS", "25"))
SERVE = [EVENTCORE, "serve", "--port", "0"]
SERVE_UNSYNCED = [
    sys.executable,
    "-c",
    "from adapters.sqlite.database import Database\n"
    "original = Database.pragma\n"
    "def pragma(self, text, *rest, **more):\n"
    "    return original(self, text.replace('synchronous = FULL', 'synchronous = OFF'), *rest, **more)\n"
    "Database.pragma = pragma\n"
    "from entrypoints.cli.start import main\n"
    "import sys; sys.argv = ['eventcore', 'serve', '--port', '0']; main()",
]

pytestmark = pytest.mark.e2e


class Server:
    """`serve` in a process of its own; ended by its process id, never by name."""

    def __init__(self, store: Path, log: Path, command: list[str]) -> None:
        self.log = log
        offset = log.stat().st_size if log.exists() else 0
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=environment(store)
            )
        deadline = time.monotonic() + 30
        while True:
            found = re.search(rb'"url":\s*"http://127\.0\.0\.1:(\d+)"', log.read_bytes()[offset:])
            if found:
                break
            assert self.process.poll() is None, log.read_text()[-2_000:]
            assert time.monotonic() < deadline, log.read_text()[-2_000:]
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{int(found[1])}"

    def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(30)


def environment(store: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EVENTCORE_")}
    return kept | {"EVENTCORE_STORE_URL": f"sqlite:///{store}", "EVENTCORE_LOG_FORMAT": "json"}


@contextmanager
def serving(store: Path, log: Path, command: list[str] = SERVE) -> Iterator[Server]:
    server = Server(store, log, command)
    try:
        yield server
    finally:
        server.end(signal.SIGKILL if sys.exc_info()[0] else signal.SIGTERM)


def unsynced_answers(trace: Path) -> tuple[int, int]:
    """How many 202 were sent, and how many of them while something written to the store was not synced yet."""
    dirty: set[str] = set()
    wrote = False
    answers = unsynced = 0
    for line in trace.read_text().splitlines():
        call = json.loads(line)
        if call["path"].endswith(".sqlite3-wal"):
            if call["call"] == "write":
                dirty.add(call["path"])
                wrote = True
            else:
                dirty.discard(call["path"])
        elif call["head"].startswith("HTTP/1.1 202"):
            answers += 1
            unsynced += bool(dirty) or not wrote
            wrote = False
    return answers, unsynced


def trace_of_posts(tmp_path: Path, command: list[str], posts: int) -> Path:
    trace = tmp_path / "trace.jsonl"
    traced = [sys.executable, syscalls.__file__, str(trace), *command]
    with serving(tmp_path / "events.sqlite3", tmp_path / "log", traced) as server, httpx.Client(timeout=30) as client:
        for number in range(posts):
            answer = client.post(f"{server.url}/events", json=[an_event(number, "u", "2026-01-01T00:00:00Z")])
            assert (answer.status_code, answer.json()["accepted"]) == (202, 1)
    return trace


needs_ptrace = pytest.mark.skipif(
    sys.platform != "linux" or not syscalls.CALLS, reason="needs ptrace of Linux on x86_64 or aarch64: run it there"
)


@needs_ptrace
def test_the_log_is_synced_before_every_202(tmp_path: Path) -> None:
    assert unsynced_answers(trace_of_posts(tmp_path, SERVE, 20)) == (20, 0)


@needs_ptrace
def test_the_trace_shows_a_store_that_does_not_sync(tmp_path: Path) -> None:
    """The planted bug: without it, nobody knows that the test above can fail."""
    assert unsynced_answers(trace_of_posts(tmp_path, SERVE_UNSYNCED, 5)) == (5, 5)


def an_event(number: int, user_id: str, occurred_at: str, **more: Any) -> dict[str, Any]:
    return {
        "event_id": str(UUID(int=(number << 80) | (4 << 76) | (8 << 60) | number)),
        "user_id": user_id,
        "event_type": ("view", "search", "buy")[number % 3],
        "occurred_at": occurred_at,
        "properties": {"n": number},
    } | more


class Sender(threading.Thread):
    """Sends batches of new and of repeated events, and keeps its own book of what it was told.

    Attributes:
        sent: every event by its id, in its first content.
        told: ids in batches that were answered with 202.
        unknown: batches without an answer.
    """

    def __init__(self, seed: int, url: str, first_number: int, sent: dict[str, Any]) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.url = url
        self.number = first_number
        self.sent = sent
        self.told: set[str] = set()
        self.unknown: list[list[dict[str, Any]]] = []
        self.surprises: list[str] = []

    def run(self) -> None:
        with httpx.Client(timeout=30) as client:
            while True:
                batch = self.make_batch()
                if not self.send(client, batch):
                    self.unknown.append(batch)
                    return

    def make_batch(self) -> list[dict[str, Any]]:
        batch = []
        for _ in range(self.random.randrange(1, 300)):
            if self.sent and self.random.random() < 0.1:
                batch.append(self.random.choice(list(self.sent.values())[-200:]))
                continue
            moment = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.random.randrange(10 * 86_400))
            event = an_event(self.number, f"user-{self.random.randrange(500)}", moment.isoformat())
            self.number += 1
            self.sent[event["event_id"]] = event
            batch.append(event)
        return batch

    def send(self, client: httpx.Client, batch: list[dict[str, Any]]) -> bool:
        try:
            answer = client.post(f"{self.url}/events", json=batch)
        except httpx.HTTPError:
            return False
        if answer.status_code == 503:
            return False
        if answer.status_code != 202 or answer.json()["rejected"] or answer.json()["conflicts"]:
            self.surprises.append(answer.text[:300])
        self.told.update(event["event_id"] for event in batch)
        return True


async def check_store(store: Path, sent: dict[str, Any], told: set[str]) -> None:
    """LOST, DUP, PHANTOM, WRONG are all zero, the books balance, and the file is whole."""
    async with await eventcore.open(f"sqlite:///{store}") as core:
        assert list(await core.store.verify()) == []
        ids = [UUID(event_id).bytes for event_id in sent]
        found = {}
        for start in range(0, len(ids), 2_000):
            found |= await core.store.find("default", ids[start : start + 2_000])
        lost = [event_id for event_id in told if UUID(event_id).bytes not in found]
        assert lost == []
        for event_id, event in sent.items():
            stored = found[UUID(event_id).bytes].event
            assert (stored.user_id, stored.event_type) == (event["user_id"], event["event_type"])
        counts = (await core.store.describe()).counts["default"]
        assert counts["events"] == len(sent)
        answer = await core.daily_active_users("2026-01-01", "2026-01-11")
        expected = oracle.dau(list(sent.values()), first=date(2026, 1, 1), last=date(2026, 1, 11), tz="UTC")
        assert answer.data == expected
        top = await core.top_events("2026-01-01", "2026-01-11")
        expected = oracle.top_events(list(sent.values()), first=date(2026, 1, 1), last=date(2026, 1, 11), tz="UTC")
        assert top.data == expected


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_nothing_accepted_is_missing_after_serve_was_killed(tmp_path: Path) -> None:
    seed = int(os.environ.get("EVENTCORE_TEST_SEED", "20260101"))
    chance = random.Random(seed)
    store, log = tmp_path / "events.sqlite3", tmp_path / "log"
    sent: list[dict[str, Any]] = [{}, {}]
    told: set[str] = set()
    unknown: list[list[dict[str, Any]]] = []
    for kill in range(KILLS):
        server = Server(store, log, SERVE)
        try:
            senders = [
                Sender(seed + 2 * kill + which, server.url, which * 10**9 + len(sent[which]), sent[which])
                for which in (0, 1)
            ]
            for sender, batch in zip(senders, unknown, strict=False):
                with httpx.Client(timeout=30) as client:
                    assert sender.send(client, batch)
            for sender in senders:
                sender.start()
            time.sleep(chance.random() * 0.4)
        finally:
            server.end(signal.SIGKILL)
        for sender in senders:
            sender.join(60)
            told |= sender.told
            assert sender.surprises == []
        unknown = [batch for sender in senders for batch in sender.unknown]
    with serving(store, log) as server, httpx.Client(timeout=30) as client:
        last = Sender(seed, server.url, 0, {})
        assert all(last.send(client, batch) for batch in unknown)
        told |= last.told
    assert "Traceback" not in log.read_text()
    everything = sent[0] | sent[1]
    assert told == everything.keys()
    assert len(everything) > 10 * KILLS
    await check_store(store, everything, told)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_an_import_that_was_killed_ends_with_every_row_once(tmp_path: Path) -> None:
    seed = int(os.environ.get("EVENTCORE_TEST_SEED", "20260101"))
    chance = random.Random(seed)
    store, source = tmp_path / "events.sqlite3", tmp_path / "sample.csv"
    rows = 0
    kills = 0
    rounds = max(1, KILLS // 5)
    for number in range(rounds):
        plan = SamplePlan(events=30_000, users=2_000, days=10, seed=seed + number, start=date(2026, 1, 1))
        with source.open("w", newline="") as stream:
            write_csv(plan, stream)
        rows += plan.events
        command = [EVENTCORE, "import", "--format", "json", str(source)]
        while kills < KILLS * (number + 1) // rounds:
            with subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment(store)
            ) as process:
                time.sleep(0.3 + chance.random() * 0.5)
                process.kill()
            kills += 1
        done = subprocess.run(command, capture_output=True, env=environment(store), check=True, timeout=120)
        summary = json.loads(done.stdout)
        assert summary["rows"] == plan.events
        assert summary["accepted"] + summary["duplicates"] == plan.events
        async with await eventcore.open(f"sqlite:///{store}") as core:
            assert (await core.store.describe()).counts["default"]["events"] == rows
    assert kills == KILLS
    async with await eventcore.open(f"sqlite:///{store}") as core:
        assert list(await core.store.verify()) == []
        totals = (await core.top_events("2025-12-31", "2026-01-12", limit=1_000)).data
        assert sum(row["count"] for row in totals) == rows
