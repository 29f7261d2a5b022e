"""Measuring statistics while events stream in at full speed, and what ingestion loses to them.

Runs come in pairs on stores of their own: once events only, once the same events while questions are asked at a steady
rate. Every answer is held against what was sent: it must have all that was acknowledged before its ``data_as_of``, and
nothing that was sent after it came: users of each day, events of each type and day, the sum of all cohorts. When all is
sent the answers must be those of SQL on the raw rows. Not here: printing (`entrypoints.cli.benching`).
"""

import os
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from entrypoints.bench import Plan, load, write_requests
from entrypoints.bench_load import LoadReport
from entrypoints.bench_processes import Client, free_port, new_folder, require, serve, start, wait
from entrypoints.bench_questions import Asked, questions
from entrypoints.bench_rivals import drop_database, make_database, open_rows
from entrypoints.bench_stores import StoreKind, postgres
from entrypoints.sample import generate

_ASKED: Final = ("dau", "top events", "event counts, days", "retention, 90 × 15 days")
_DATABASE: Final = "eventcore_bench_mixed"

Key = tuple[str, ...]
"""What a number of an answer counts: users of a day, events of a day or type, users of all days."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedPlan:
    """What to measure.

    Attributes:
        events: sent in each run, all different.
        store: of which kind.
        url: a PostgreSQL server on which databases may be made; None for a server of our own.
        batch: events in one request.
        clients: connections that send at once.
        rate: questions a second.
        id_version: of the events' UUIDs.
        runs: pairs of runs.
        folder: where files are made.
    """

    events: int
    store: StoreKind = "sqlite"
    url: str | None = None
    batch: int = 1_000
    clients: int = 8
    rate: float = 10.0
    id_version: Literal[4, 7] = 4
    runs: int = 3
    folder: Path = Path()

    @property
    def ingest(self) -> Plan:
        """The same for the load generator."""
        return Plan(events=self.events, batch=self.batch, clients=self.clients, id_version=self.id_version)


@dataclass(frozen=True, slots=True, kw_only=True)
class MixedRun:
    """One pair of verified runs.

    Attributes:
        alone_events_per_second: without questions.
        asked_events_per_second: with them.
        lost: the part of the rate that is lost to questions; negative where they came with luck.
        answers: how many there were, each checked.
        median_ms, p95_ms, slowest_ms: of an answer.
        p95_ms_of: of the answers to each question.
        load: processes running or ready before the pair, on average over a minute.
    """

    alone_events_per_second: int
    asked_events_per_second: int
    lost: float
    answers: int
    median_ms: float
    p95_ms: float
    slowest_ms: float
    p95_ms_of: Mapping[str, float]
    load: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """An answer and when it was given.

    Attributes:
        name: of the question.
        data: what was answered.
        as_of: seconds since 1970 up to which it claims to have everything.
        came_at: when it was there.
        took_ms: since it was asked.
    """

    name: str
    data: Any
    as_of: float
    came_at: float
    took_ms: float


@dataclass(frozen=True, slots=True)
class _Request:
    """What one request holds: events by type, events by day, and pairs of day and user."""

    types: Counter[str]
    days: Counter[str]
    users: frozenset[tuple[str, str]]


class _Counted:
    """What a growing number of requests holds."""

    def __init__(self) -> None:
        self._events: Counter[Key] = Counter()
        self._users: defaultdict[str, set[str]] = defaultdict(set)
        self._everyone: set[str] = set()

    def add(self, request: _Request) -> None:
        for kind, count in request.types.items():
            self._events["type", kind] += count
        for day, count in request.days.items():
            self._events["events", day] += count
        for day, user in request.users:
            self._users[day].add(user)
            self._everyone.add(user)

    def number(self, key: Key) -> int:
        if key[0] == "users":
            return len(self._users[key[1]])
        return len(self._everyone) if key[0] == "everyone" else self._events[key]


def measure_mixed(plan: MixedPlan, say: Callable[[str], None] = lambda text: None) -> list[MixedRun]:
    """Measure pairs of runs.

    Args:
        plan: what to measure.
        say: is told what is done.

    Raises:
        NotVerified: an answer has too little or too much, or the store does not hold what was sent.
        NoServer: PostgreSQL is wanted, and neither given nor found.
    """
    sent = list(_requests(plan))
    asked = [one for one in questions("UTC") if one.name in _ASKED]
    runs = []
    with ExitStack() as opened:
        folder = opened.enter_context(new_folder(plan.folder))
        server_url = plan.url
        if plan.store == "postgresql" and server_url is None:
            server_url = opened.enter_context(postgres(folder / "postgres"))
        port = free_port()
        requests = folder / "requests"
        write_requests(requests, plan.ingest, port)
        for number in range(plan.runs):
            load_before = round(os.getloadavg()[0], 2)
            rates = []
            answers: list[_Answer] = []
            for with_questions in (False, True):
                say(f"pair {number + 1}, {'with' if with_questions else 'without'} questions")
                with _store(folder, server_url) as url, serve(folder, url, port=port):
                    report, answers = _run(plan, requests, port, asked if with_questions else [])
                    _check_end(url, port, asked, sent)
                _check(answers, report, sent)
                rates.append(plan.events / report.seconds)
            runs.append(_measured(rates, answers, load_before))
    return runs


@contextmanager
def _store(folder: Path, server_url: str | None) -> Iterator[str]:
    """The URL of an empty store, which is deleted afterwards."""
    if server_url is None:
        yield f"sqlite:///{folder / 'store.sqlite3'}"
        for file in folder.glob("store.sqlite3*"):
            file.unlink()
        return
    url = make_database(server_url, _DATABASE)
    with start(folder, url, "migrate") as process:
        wait(process)
    yield url
    drop_database(server_url, _DATABASE)


def _requests(plan: MixedPlan) -> Iterator[_Request]:
    rows = generate(plan.ingest.sample)
    while batch := list(islice(rows, plan.batch)):
        days = [_utc_day(row.occurred_at) for row in batch]
        yield _Request(
            Counter(row.event_type for row in batch),
            Counter(days),
            frozenset(zip(days, [row.user_id for row in batch], strict=True)),
        )


def _utc_day(occurred_at: str) -> str:
    return datetime.fromisoformat(occurred_at).astimezone(UTC).date().isoformat()


def _run(plan: MixedPlan, requests: Path, port: int, asked: Sequence[Asked]) -> tuple[LoadReport, list[_Answer]]:
    client = Client(port)
    for one in asked:
        client.get(one.path)
    answers: list[_Answer] = []
    with ThreadPoolExecutor(1) as sender:
        sending = sender.submit(load, requests, port, plan.clients)
        began = time.monotonic()
        while asked and not sending.done():
            answers.append(_ask(client, asked[len(answers) % len(asked)]))
            time.sleep(max(0.0, began + len(answers) / plan.rate - time.monotonic()))
        report = sending.result()
    client.close()
    return report, answers


def _ask(client: Client, asked: Asked) -> _Answer:
    began = time.perf_counter()
    body = client.get(asked.path)
    took_ms = (time.perf_counter() - began) * 1_000
    came_at = time.time()
    document = msgspec.json.decode(body)
    as_of = datetime.fromisoformat(document["meta"]["data_as_of"]).timestamp()
    return _Answer(name=asked.name, data=document["data"], as_of=as_of, came_at=came_at, took_ms=took_ms)


def _check(answers: Sequence[_Answer], report: LoadReport, sent: Sequence[_Request]) -> None:
    """Every answer has all that it claims, and nothing that was not sent yet."""
    acknowledged = sorted(zip([after for _, after in report.spans], sent, strict=True), key=lambda pair: pair[0])
    begun = sorted(zip([before for before, _ in report.spans], sent, strict=True), key=lambda pair: pair[0])
    for least, requests in ((True, acknowledged), (False, begun)):
        counted = _Counted()
        place = 0
        in_order = sorted((answer.as_of if least else answer.came_at, at) for at, answer in enumerate(answers))
        for instant, at in in_order:
            while place < len(requests) and requests[place][0] < instant:
                counted.add(requests[place][1])
                place += 1
            for key, number in _numbers(answers[at].name, answers[at].data):
                bound = counted.number(key)
                require(
                    number >= bound if least else number <= bound,
                    f"{answers[at].name} says {number:,} of {' '.join(key)}: "
                    + (f"{bound:,} were acknowledged before its data_as_of" if least else f"only {bound:,} were sent"),
                )


def _numbers(name: str, data: Any) -> Iterator[tuple[Key, int]]:
    """The numbers of an answer that only grow while events come in."""
    if name == "dau":
        yield from ((("users", row["date"]), row["users"]) for row in data)
    elif name == "top events":
        yield from ((("type", row["event_type"]), row["count"]) for row in data)
    elif name == "event counts, days":
        for row in data:
            yield ("users", row["start"]), row["users"]
            yield ("events", row["start"]), row["count"]
    else:
        yield ("everyone",), sum(cohort["size"] for cohort in data["cohorts"])


def _check_end(url: str, port: int, asked: Sequence[Asked], sent: Sequence[_Request]) -> None:
    """When all is sent, the answers are those of the generator's own count, and of SQL on the raw rows."""
    counted = _Counted()
    for request in sent:
        counted.add(request)
    client = Client(port)
    with open_rows(url, "UTC") as rows:
        for one in asked:
            data = _ask(client, one).data
            require(data == one.in_sql(rows.run), f"{one.name} is not what SQL on the raw rows gives")
            for key, number in _numbers(one.name, data):
                require(number == counted.number(key), f"{one.name} says {number:,} of {' '.join(key)}")
    client.close()


def _measured(rates: Sequence[float], answers: Sequence[_Answer], load_before: float) -> MixedRun:
    by_name: defaultdict[str, list[float]] = defaultdict(list)
    for answer in answers:
        by_name[answer.name].append(answer.took_ms)
    times_ms = [answer.took_ms for answer in answers]
    require(bool(times_ms), "all events were in before the first answer came; send more")
    return MixedRun(
        alone_events_per_second=round(rates[0]),
        asked_events_per_second=round(rates[1]),
        lost=round(1 - rates[1] / rates[0], 4),
        answers=len(answers),
        median_ms=round(statistics.median(times_ms), 2),
        p95_ms=_percentile(times_ms),
        slowest_ms=round(max(times_ms), 2),
        p95_ms_of={name: _percentile(times) for name, times in by_name.items()},
        load=load_before,
    )


def _percentile(times_ms: Sequence[float]) -> float:
    return round(sorted(times_ms)[min(len(times_ms) - 1, int(len(times_ms) * 0.95))], 2)


def mixed_summary(plan: MixedPlan, runs: Sequence[MixedRun]) -> dict[str, Any]:
    """The pairs, and their medians, as one JSON document."""
    return {
        "events": plan.events,
        "store": plan.store,
        "batch": plan.batch,
        "clients": plan.clients,
        "questions_per_second": plan.rate,
        "ids": f"v{plan.id_version}",
        "cores": os.cpu_count(),
        "verified": True,
        "median_alone_events_per_second": statistics.median(run.alone_events_per_second for run in runs),
        "median_asked_events_per_second": statistics.median(run.asked_events_per_second for run in runs),
        "median_lost": statistics.median(run.lost for run in runs),
        "median_p95_ms": statistics.median(run.p95_ms for run in runs),
        "runs": [asdict(run) for run in runs],
    }
