"""Measuring how long statistics take, and whether they are right: over HTTP and in process, against SQL on raw rows.

Each question is asked in six ways:

* HTTP cold: the first question that a fresh server process answers after its readiness; the files are in the system's
  memory, the rows of the projection are not in the process's. As many processes as there are runs.
* HTTP warm: again and again over one kept connection. No ETag is used: each answer is computed.
* HTTP in turn: all questions one after the other, round by round, as dashboards ask: they share the memory.
* directly: the library in this process, again and again.
* SQL on the raw rows of the same store, and DuckDB on the same events in a file of its own.

All answers to a question must be equal to the last digit, else there is no figure. Not here: the questions and their
SQL (`bench_questions`), loading (`bench_stores`), printing (`entrypoints.cli.benching`).
"""

import asyncio
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import msgspec

from entrypoints.bench_processes import Client, require, serve
from entrypoints.bench_questions import LAST, Asked, questions
from entrypoints.bench_rivals import Rival, open_duckdb, open_rows
from entrypoints.bench_stores import Place, StoreKind, loaded_store, withhold_folds
from entrypoints.sample import SamplePlan
from eventcore.library import open as open_eventcore

EVENTS_PER_USER: Final = 20
_MOST_ASKED: Final = 100
_LEAST_ASKED: Final = 5
_ASKED_SECONDS: Final = 3.0
"""A way is measured so long, but not longer than `_MOST_ASKED` times and not less than `_LEAST_ASKED`."""
_SLOW_SECONDS: Final = 2.0
"""What takes longer is asked only once or twice."""
_ROUNDS: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class StatsPlan:
    """What to measure.

    Attributes:
        events: in the store, all different.
        store: of which kind.
        url: a database of PostgreSQL; None for a server of our own.
        days: that the events are spread over, up to `LAST`.
        event_types: kinds of event.
        waiting: how many events, the last ones, are not folded.
        zone: the other time zone.
        runs: server processes of each cold question.
        id_version: of the events' UUIDs.
        properties: whether questions about properties are asked, which read raw rows and take long.
        folder: where files are made.
        keep: a folder in which the loaded store stays for the next time; None for none.
    """

    events: int
    store: StoreKind = "sqlite"
    url: str | None = None
    days: int = 90
    event_types: int = 6
    waiting: int = 0
    zone: str = "Asia/Kathmandu"
    runs: int = 3
    id_version: Literal[4, 7] = 4
    properties: bool = True
    folder: Path = Path()
    keep: Path | None = None

    @property
    def sample(self) -> SamplePlan:
        """The events."""
        return SamplePlan(
            events=self.events,
            users=max(1, self.events // EVENTS_PER_USER),
            days=self.days,
            seed=1,
            start=LAST - timedelta(days=self.days - 1),
            event_types=self.event_types,
            id_version=self.id_version,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How long one question took in one way.

    Attributes:
        asked: how often.
        median_ms: of these.
        p95_ms: of these; the slowest where there are fewer than twenty.
        least_ms: the fastest: what it takes where nothing else runs, on a machine where something does.
    """

    asked: int
    least_ms: float
    median_ms: float
    p95_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One question.

    Attributes:
        question: its name.
        computed_from: what eventcore answered from.
        answers: how many answers were compared; all are equal.
        http_cold, http_warm, http_in_turn, direct, sql, duckdb: the ways; None where there was no such one.
    """

    question: str
    computed_from: str
    answers: int
    http_cold: Timing
    http_warm: Timing
    http_in_turn: Timing | None
    direct: Timing
    sql: Timing | None
    duckdb: Timing | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StatsReport:
    """What was measured.

    Attributes:
        questions: one by one.
        technologies: of the store, of its SQL, and of DuckDB.
        import_events_per_second: of loading, with the fold; None for a store that was loaded before this was noted.
        projection_bytes: that the projection takes on disk.
        waiting_events: that were not folded.
        waiting_rows: of the delta, which hold these.
        load: how many processes were running or ready, on average over a minute, before and after each step.
    """

    questions: Sequence[Measured]
    technologies: Sequence[str]
    import_events_per_second: int | None
    projection_bytes: int
    waiting_events: int
    waiting_rows: int
    load: dict[str, float]


_Maybe = TypeVar("_Maybe", Timing, Timing | None)


class _Answers:
    """Compares all answers to one question; keeps the first."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._data: Any = None
        self.computed_from = ""
        self.count = 0

    def add_document(self, document: Any, way: str) -> None:
        """An answer of eventcore."""
        self.computed_from = document["meta"]["computed_from"]
        source = "events" if self._asked.from_events else "activity"
        require(self.computed_from == source, f"{self._asked.name} is computed from {self.computed_from}, not {source}")
        require(document["meta"]["exact"] is True, f"{self._asked.name} is not exact")
        self.add(document["data"], way)

    def add(self, data: Any, way: str) -> None:
        """An answer."""
        if self.count:
            require(
                data == self._data, f"{self._asked.name}: {way} is answered otherwise than before; {self._hint(data)}"
            )
        self._data = data
        self.count += 1

    def _hint(self, data: Any) -> str:
        texts = [msgspec.json.encode(one, order="sorted").decode() for one in (self._data, data)]
        place = next((at for at, (one, other) in enumerate(zip(*texts, strict=False)) if one != other), 0)
        return " and ".join(text[max(0, place - 40) : place + 40] for text in texts)


def measure_stats(plan: StatsPlan, say: Callable[[str], None] = lambda text: None) -> StatsReport:
    """Load a store and time all questions.

    Args:
        plan: what to measure.
        say: is told what is done.

    Raises:
        NotVerified: two answers to one question differ.
        NoServer, Unfit: there is no such store.
        ValueError: a plan that cannot be carried out.
    """
    if not 0 <= plan.waiting < plan.events:
        raise ValueError(f"unfolded: {plan.waiting} is not from 0 to below the number of events")
    asked = [one for one in questions(plan.zone) if plan.properties or not one.from_events]
    say(f"{plan.store}: {plan.events:,} events")
    with loaded_store(
        plan.store, plan.sample, url=plan.url, waiting=plan.waiting, folder=plan.folder, keep=plan.keep
    ) as place:
        return _measure(plan, place, asked, say)


def _measure(plan: StatsPlan, place: Place, asked: Sequence[Asked], say: Callable[[str], None]) -> StatsReport:
    answers = [_Answers(one) for one in asked]
    load: dict[str, float] = {}

    def step(name: str) -> None:
        load[name] = round(os.getloadavg()[0], 2)
        say(f"{name}, load {load[name]}")

    def each(way: Callable[[Asked, _Answers], _Maybe]) -> list[_Maybe]:
        found = []
        for one, known in zip(asked, answers, strict=True):
            timing = way(one, known)
            found.append(timing)
            if timing is not None:
                say(f"  {one.name}: {timing.median_ms:,} ms")
        return found

    step("http cold")
    cold = each(lambda one, known: _ask_cold(plan, place, one, known))
    step("http warm")
    with serve(place.folder, place.url, folds=place.folds) as port:
        client = Client(port)
        warm = each(lambda one, known: _ask_warm(client, one, known))
        step("http in turn")
        in_turn = _ask_in_turn(client, asked, answers)
        client.close()
    step("direct")
    with nullcontext() if place.folds else withhold_folds():
        direct = asyncio.run(_ask_directly(place.url, asked, answers))
    with ExitStack() as opened:
        step("sql")
        rows = opened.enter_context(open_rows(place.url, plan.zone))
        sql = each(lambda one, known: _ask_rival(rows, one, known))
        duckdb: list[Timing | None] = [None] * len(asked)
        technologies = [rows.technology]
        if place.duckdb is not None:
            step("duckdb")
            duck = opened.enter_context(open_duckdb(place.duckdb, plan.zone))
            duckdb = each(lambda one, known: _ask_rival(duck, one, known))
            technologies.append(duck.technology)
        step("end")
        waiting, waiting_rows = rows.waiting()
        require(waiting == plan.waiting, f"{waiting:,} events wait to be folded, not {plan.waiting:,}")
        projection_bytes = rows.projection_bytes()
    measured = [
        Measured(
            question=one.name,
            computed_from=known.computed_from,
            answers=known.count,
            http_cold=cold[number],
            http_warm=warm[number],
            http_in_turn=in_turn[number],
            direct=direct[number],
            sql=sql[number],
            duckdb=duckdb[number],
        )
        for number, (one, known) in enumerate(zip(asked, answers, strict=True))
    ]
    return StatsReport(
        questions=measured,
        technologies=technologies,
        import_events_per_second=place.loaded.events_per_second,
        projection_bytes=projection_bytes,
        waiting_events=waiting,
        waiting_rows=waiting_rows,
        load=load,
    )


def _ask_cold(plan: StatsPlan, place: Place, asked: Asked, answers: _Answers) -> Timing:
    times_ms = []
    for _ in range(1 if asked.from_events else plan.runs):
        with serve(place.folder, place.url, folds=place.folds) as port:
            client = Client(port)
            began = time.perf_counter()
            body = client.get(asked.path)
            times_ms.append((time.perf_counter() - began) * 1_000)
            answers.add_document(msgspec.json.decode(body), "http cold")
            client.close()
    return _timing(times_ms)


def _ask_warm(client: Client, asked: Asked, answers: _Answers) -> Timing:
    if not asked.from_events:  # of raw rows nothing is remembered
        client.get(asked.path)
    times_ms = []
    for _ in _repeat():
        began = time.perf_counter()
        body = client.get(asked.path)
        times_ms.append((time.perf_counter() - began) * 1_000)
        answers.add_document(msgspec.json.decode(body), "http warm")
    return _timing(times_ms)


def _ask_in_turn(client: Client, asked: Sequence[Asked], answers: Sequence[_Answers]) -> list[Timing | None]:
    times_ms: list[list[float]] = [[] for _ in asked]
    for number in range(_ROUNDS + 1):
        for place, one in enumerate(asked):
            if one.from_events:
                continue
            began = time.perf_counter()
            body = client.get(one.path)
            if number:  # before that it may be the first time
                times_ms[place].append((time.perf_counter() - began) * 1_000)
                answers[place].add_document(msgspec.json.decode(body), "http in turn")
    return [_timing(times) if times else None for times in times_ms]


async def _ask_directly(url: str, asked: Sequence[Asked], answers: Sequence[_Answers]) -> list[Timing]:
    timings = []
    async with await open_eventcore(url) as core:
        for one, known in zip(asked, answers, strict=True):
            if not one.from_events:
                await core.ask_for(one.statistic, **one.arguments)
            times_ms = []
            for _ in _repeat():
                began = time.perf_counter()
                answer = await core.ask_for(one.statistic, **one.arguments)
                times_ms.append((time.perf_counter() - began) * 1_000)
                known.add_document(msgspec.to_builtins(answer), "direct")
            timings.append(_timing(times_ms))
    return timings


def _ask_rival(rival: Rival, asked: Asked, answers: _Answers) -> Timing | None:
    if asked.local and not rival.knows_zone:
        return None
    times_ms = []
    for _ in _repeat():
        began = time.perf_counter()
        data = asked.in_sql(rival.run)
        times_ms.append((time.perf_counter() - began) * 1_000)
        answers.add(data, rival.technology)
    return _timing(times_ms)


def _repeat() -> Iterator[None]:
    """As often as the time allows."""
    began = time.perf_counter()
    for number in range(_MOST_ASKED):
        seconds = time.perf_counter() - began
        if number and seconds > _SLOW_SECONDS * number:
            return
        if number >= _LEAST_ASKED and seconds > _ASKED_SECONDS:
            return
        yield


def _timing(times_ms: list[float]) -> Timing:
    ordered = sorted(times_ms)
    slow = ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]
    return Timing(
        asked=len(ordered),
        least_ms=round(ordered[0], 3),
        median_ms=round(statistics.median(ordered), 3),
        p95_ms=round(slow, 3),
    )


def summary(plan: StatsPlan, report: StatsReport) -> dict[str, Any]:
    """What was measured as one JSON document."""
    return {
        "events": plan.events,
        "store": plan.store,
        "days": plan.days,
        "event_types": plan.event_types,
        "zone": plan.zone,
        "ids": f"v{plan.id_version}",
        "cores": os.cpu_count(),
        "technologies": list(report.technologies),
        "verified": True,
        "import_events_per_second": report.import_events_per_second,
        "projection_bytes_per_event": round(report.projection_bytes / (plan.events - plan.waiting), 2),
        "waiting_events": report.waiting_events,
        "waiting_rows": report.waiting_rows,
        "load": report.load,
        "questions": [_row(measured) for measured in report.questions],
    }


def _row(measured: Measured) -> dict[str, Any]:
    row = asdict(measured) | {"equal": True}
    for name in ("sql", "duckdb"):
        timing: Timing | None = getattr(measured, name)
        row[f"{name}_ratio"] = None if timing is None else round(timing.median_ms / measured.http_warm.median_ms, 1)
    return row


def flat_rows(document: dict[str, Any]) -> list[dict[str, Any]]:
    """The questions of a summary as rows of plain values."""
    rows = []
    for question in document["questions"]:
        row: dict[str, Any] = {}
        for name, value in question.items():
            if name in ("http_cold", "http_warm", "http_in_turn", "direct", "sql", "duckdb"):
                for part in ("asked", "least_ms", "median_ms", "p95_ms"):
                    row[f"{name}_{part}"] = None if value is None else value[part]
            else:
                row[name] = value
        rows.append(row)
    return rows
