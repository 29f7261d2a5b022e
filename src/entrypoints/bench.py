"""Measuring what this machine does: an import, and the HTTP API, each on a fresh SQLite file with the shipped settings.

A benchmark that counts answers, not rows, is a lie: after each run the store is opened and must hold exactly the events
that were sent, its books must balance, and its daily active users must be those that the generator counted. A run that
fails this raises and gives no figure. The events are made beforehand; load comes from a process of its own
(`entrypoints.bench_load`). Not here: printing (`entrypoints.cli.benching`), and how fast statistics are
(`entrypoints.bench_stats`, `entrypoints.bench_mixed`).
"""

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from entrypoints.bench_load import REQUEST_LENGTH, LoadReport
from entrypoints.bench_processes import free_port, new_folder, require, start, wait, wait_for_port
from entrypoints.sample import SampleEvent, SamplePlan, generate, write_csv
from eventcore.library import open as open_eventcore

START: Final = date(2025, 1, 1)
DAYS: Final = 90
EVENTS_PER_USER: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to measure.

    Attributes:
        events: how many, all different.
        batch: events in one request.
        clients: connections at once.
        id_version: of the events' UUIDs.
        runs: how often, each on a file of its own.
        folder: where files are made; its disk is part of what is measured.
    """

    events: int
    batch: int = 1_000
    clients: int = 8
    id_version: Literal[4, 7] = 4
    runs: int = 3
    folder: Path = Path()

    @property
    def sample(self) -> SamplePlan:
        """The events that are sent."""
        return SamplePlan(
            events=self.events,
            users=max(1, self.events // EVENTS_PER_USER),
            days=DAYS,
            seed=1,
            start=START,
            id_version=self.id_version,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One verified run.

    Attributes:
        seconds: from the first byte sent (HTTP) or the start of the process (import) to the last answer.
        events_per_second: events stored in that time.
        cpu_seconds: of the measured process, start included.
        peak_mib: its largest resident memory.
        bytes_per_event: of the file and its log, after the end of the process.
        median_ms: of a request; None for an import.
        slow_ms: the 99th percentile of a request; None for an import.
    """

    seconds: float
    events_per_second: float
    cpu_seconds: float
    peak_mib: float
    bytes_per_event: float
    median_ms: float | None = None
    slow_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What the generator counted itself.

    Attributes:
        events: different ids.
        user_days: different pairs of user and UTC date: the sum of the daily active users.
    """

    events: int
    user_days: int


def measure_import(plan: Plan) -> list[Run]:
    """Time ``eventcore import`` of a CSV file, the start of the process included.

    Raises:
        NotVerified: the store does not hold what the file held.
    """
    expected = _expect(plan)
    runs = []
    with new_folder(plan.folder) as folder:
        sample = folder / "sample.csv"
        with sample.open("w", encoding="utf-8", newline="") as file:
            write_csv(plan.sample, file)
        for number in range(plan.runs):
            store = folder / f"run-{number}.sqlite3"
            began = time.perf_counter()
            with start(folder, f"sqlite:///{store}", "import", str(sample), "--format", "json") as process:
                output, usage = wait(process)
            seconds = time.perf_counter() - began
            summary = msgspec.json.decode(output)
            require(summary["accepted"] == expected.events, f"the import says {summary}")
            runs.append(_verified_run(store, expected, seconds, usage))
            store.unlink()
    return runs


def measure_embedded(plan: Plan) -> list[Run]:
    """Time ``eventcore serve`` taking in batches from several clients at once.

    Raises:
        NotVerified: the store does not hold what was sent.
    """
    expected = _expect(plan)
    runs = []
    with new_folder(plan.folder) as folder:
        requests = folder / "requests"
        for number in range(plan.runs):
            store = folder / f"run-{number}.sqlite3"
            port = free_port()
            write_requests(requests, plan, port)
            with start(folder, f"sqlite:///{store}", "serve", "--port", str(port)) as server:
                wait_for_port(server, port)
                report = load(requests, port, plan.clients)
                server.terminate()
                _, usage = wait(server)
            require(
                report.accepted == expected.events or report.sent_again > 0,
                f"the answers accept {report.accepted:,} events, sent were {expected.events:,}",
            )
            runs.append(_verified_run(store, expected, report.seconds, usage, report))
            store.unlink()
    return runs


def measure_ceiling(plan: Plan) -> float:
    """How many events a second the load generator sends to a server that only reads the bodies."""
    with new_folder(plan.folder) as folder:
        port = free_port()
        write_requests(folder / "requests", plan, port)
        command = [sys.executable, "-m", "uvicorn", "entrypoints.bench_load:null_app", "--port", str(port)]
        command += ["--log-level", "warning", "--lifespan", "off"]
        with subprocess.Popen(command, cwd=folder, stdin=subprocess.DEVNULL) as server:  # noqa: S603 - our own
            try:
                wait_for_port(server, port)
                report = load(folder / "requests", port, plan.clients)
            finally:
                server.kill()
    return plan.events / report.seconds


def summary(plan: Plan, runs: Sequence[Run]) -> dict[str, Any]:
    """The runs and their median as one JSON document."""
    rates = [run.events_per_second for run in runs]
    return {
        "events": plan.events,
        "batch": plan.batch,
        "clients": plan.clients,
        "ids": f"v{plan.id_version}",
        "cores": os.cpu_count(),
        "verified": True,
        "median_events_per_second": statistics.median(rates),
        "min_events_per_second": min(rates),
        "max_events_per_second": max(rates),
        "runs": [asdict(run) for run in runs],
    }


def _expect(plan: Plan) -> Expected:
    ids = set()
    user_days = set()
    for row in generate(plan.sample):
        ids.add(int(row.event_id.replace("-", ""), 16))
        day = datetime.fromisoformat(row.occurred_at).astimezone(UTC).toordinal()
        user_days.add((day, row.user_id))
    return Expected(events=len(ids), user_days=len(user_days))


def _verified_run(store: Path, expected: Expected, seconds: float, usage: Any, report: LoadReport | None = None) -> Run:
    stored = sum(path.stat().st_size for path in store.parent.glob(f"{store.name}*"))
    asyncio.run(_verify(store, expected))
    return Run(
        seconds=round(seconds, 3),
        events_per_second=round(expected.events / seconds),
        cpu_seconds=round(usage.ru_utime + usage.ru_stime, 2),
        peak_mib=round(_peak_kib(store.parent, usage) / 1024, 1),
        bytes_per_event=round(stored / expected.events, 1),
        median_ms=None if report is None else report.median_ms,
        slow_ms=None if report is None else report.slow_ms,
    )


def _peak_kib(folder: Path, usage: Any) -> float:
    status = folder / "status"
    if status.exists():
        return float(status.read_text().partition("VmHWM:")[2].split()[0])
    return float(usage.ru_maxrss) / (1024 if sys.platform == "darwin" else 1)


async def _verify(store: Path, expected: Expected) -> None:
    async with await open_eventcore(f"sqlite:///{store}") as core:
        counts = (await core.store.describe()).counts.get("default", {})
        require(counts.get("events") == expected.events, f"stored are {counts}, sent were {expected.events:,} events")
        # A day more on either side: nothing must lie outside of the days that were asked for.
        first, last = START - timedelta(days=1), START + timedelta(days=DAYS)
        answer = await core.daily_active_users(first.isoformat(), last.isoformat(), tz="UTC")
        assert isinstance(answer.data, list)
        user_days = sum(row["users"] for row in answer.data)
        require(
            user_days == expected.user_days,
            f"daily active users add up to {user_days:,}; the generator counted {expected.user_days:,}",
        )
        differences = await core.store.verify()
        require(not differences, f"the books do not balance: {differences[:1]}")


def write_requests(path: Path, plan: Plan, port: int) -> None:
    """Write each request as it goes over the wire, head and body, behind its length."""
    rows = generate(plan.sample)
    with path.open("wb") as file:
        while batch := list(islice(rows, plan.batch)):
            body = b"[" + b",".join(map(_event_json, batch)) + b"]"
            head = (
                f"POST /events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n"
            ).encode()
            file.write(REQUEST_LENGTH.pack(len(head) + len(body)) + head + body)


def _event_json(row: SampleEvent) -> bytes:
    # No value of the generator needs escaping, and its properties are JSON already.
    return (
        f'{{"event_id":"{row.event_id}","user_id":"{row.user_id}","event_type":"{row.event_type}",'
        f'"occurred_at":"{row.occurred_at}","properties":{row.properties_json}}}'
    ).encode()


def load(requests: Path, port: int, clients: int) -> LoadReport:
    """Send the requests of a file from a process of its own."""
    command = [sys.executable, "-m", "entrypoints.bench_load", str(requests), str(port), str(clients)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)  # noqa: S603 - our own
    require(done.returncode == 0, f"the load generator failed: {done.stderr.decode(errors='replace')[-200:].strip()}")
    return msgspec.json.decode(done.stdout, type=LoadReport)
