"""A worker's lane: takes what the queue gives, waits for what is away, survives its own bugs, and ends when told."""

import asyncio
from collections.abc import Sequence

import httpx
import pytest

import entrypoints.patience
import entrypoints.worker.lanes
from adapters.memory import open_store
from entrypoints.telemetry import WorkerMetrics
from entrypoints.worker.health import create_app
from entrypoints.worker.lanes import Lane, Progress
from eventcore.chunks import encode_chunk
from eventcore.errors import Kind, StoreError
from eventcore.events import Chunk, Receipt
from eventcore.strategies import a_chunk, an_event


class Message:
    def __init__(self, chunk: Chunk, log: list[str]) -> None:
        self.body, self.attempt, self.name = encode_chunk(chunk), 1, "S:1"
        self._log = log

    async def ack(self) -> None:
        self._log.append("ack")

    async def retry(self, delay_seconds: float) -> None:
        self._log.append("retry")

    async def extend(self) -> None:
        self._log.append("extend")


class Pipe:
    """A consumer that gives what a test puts into it, and fails as told."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.waiting: list[Chunk] = []
        self.error: Exception | None = None
        self.asked: list[int] = []
        self.gate: asyncio.Event | None = None

    async def fetch(self, most: int, wait_seconds: float) -> Sequence[Message]:
        self.asked.append(most)
        if self.gate is not None:
            await self.gate.wait()
        await asyncio.sleep(0.001)
        if self.error is not None:
            raise self.error
        taken, self.waiting = self.waiting[:most], self.waiting[most:]
        return [Message(chunk, self.log) for chunk in taken]

    async def close(self) -> None:
        return


class Store:
    """A store in memory that is away as long as a test says so."""

    def __init__(self, store) -> None:
        self._store = store
        self.error: Exception | None = None
        self.gate: asyncio.Event | None = None

    async def epoch(self) -> str:
        if self.error is not None:
            raise self.error
        return await self._store.epoch()

    async def append(self, chunks: Sequence[Chunk]) -> Sequence[Receipt]:
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        return await self._store.append(chunks)

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


class Work:
    """A lane that runs, and all that it touches."""

    def __init__(self, store: Store) -> None:
        self.store, self.pipe, self.progress, self.metrics = store, Pipe(), Progress(), WorkerMetrics()
        self.stopping = asyncio.Event()
        lane = Lane(store, self.pipe, self.metrics, self.progress, self.stopping)  # type: ignore[arg-type]
        self.task = asyncio.create_task(lane.work())

    async def until(self, condition) -> None:
        async with asyncio.timeout(10):
            while not condition():
                assert not self.task.done()
                await asyncio.sleep(0.002)

    async def end(self) -> None:
        self.stopping.set()
        async with asyncio.timeout(10):
            await self.task


@pytest.fixture
async def work(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(entrypoints.patience, "FIRST_PAUSE_SECONDS", 0.002)
    work = Work(Store(await open_store()))
    yield work
    await work.end()


def away() -> StoreError:
    return StoreError(Kind.UNAVAILABLE, "away", "the server is away; start it")


def chunk(number: int) -> Chunk:
    return a_chunk(an_event(event_id=number), queued=True)


def code_of(error: StoreError | None) -> str | None:
    return None if error is None else error.code


async def test_it_is_ready_once_it_has_fetched(work: Work) -> None:
    """An orchestrator that is told otherwise ends the old worker before the new one can work."""

    async def status() -> int:
        transport = httpx.ASGITransport(create_app(work.progress, work.metrics))
        async with httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
            answers = [await client.get(path) for path in ("/health", "/health/ready")]
        assert len({answer.status_code for answer in answers}) == 1
        return answers[0].status_code

    work.pipe.gate = asyncio.Event()
    assert await status() == 503
    await work.until(lambda: work.pipe.asked)
    assert await status() == 503
    assert work.progress.store_error is None
    work.pipe.gate.set()
    await work.until(lambda: work.progress.queue_error is None)
    assert await status() == 200


async def test_it_stores_and_acknowledges_what_comes(work: Work) -> None:
    work.pipe.waiting = [chunk(1), chunk(2)]
    await work.until(lambda: work.pipe.log == ["ack", "ack"])
    await work.until(lambda: b'worker_events_total{result="stored"} 2.0' in work.metrics.exposition())
    work.pipe.waiting = [chunk(3)]
    await work.until(lambda: len(work.pipe.log) == 3)


async def test_while_the_store_is_away_nothing_is_fetched(work: Work) -> None:
    work.store.error = away()
    await work.until(lambda: code_of(work.progress.store_error) == "away")
    asked = len(work.pipe.asked)
    work.pipe.waiting = [chunk(1)]
    await asyncio.sleep(0.1)
    assert len(work.pipe.asked) <= asked + 1
    work.store.error = None
    await work.until(lambda: work.pipe.log[-1:] == ["ack"])
    assert work.progress.store_error is None


async def test_a_queue_that_is_away_is_waited_for(work: Work) -> None:
    work.pipe.error = away()
    await work.until(lambda: code_of(work.progress.queue_error) == "away")
    work.pipe.waiting, work.pipe.error = [chunk(1)], None
    await work.until(lambda: work.pipe.log == ["ack"])
    assert work.progress.queue_error is None


async def test_what_cannot_be_stored_comes_again(work: Work) -> None:
    work.store.gate = asyncio.Event()
    work.pipe.waiting = [chunk(1)]
    await work.until(lambda: not work.pipe.waiting)
    work.store.error = away()
    work.store.gate.set()
    await work.until(lambda: work.pipe.log == ["retry"])
    await work.until(lambda: b'worker_failures_total{code="away"}' in work.metrics.exposition())


async def test_a_bug_does_not_end_the_work(work: Work) -> None:
    work.pipe.error = ZeroDivisionError()
    await work.until(lambda: len(work.pipe.asked) > 2)
    work.pipe.waiting, work.pipe.error = [chunk(1)], None
    await work.until(lambda: work.pipe.log == ["ack"])


async def test_told_to_stop_it_finishes_what_it_began(work: Work) -> None:
    work.store.gate = asyncio.Event()
    work.pipe.waiting = [chunk(1)]
    await work.until(lambda: not work.pipe.waiting)
    work.stopping.set()
    await asyncio.sleep(0.05)
    assert not work.task.done()
    work.store.gate.set()
    async with asyncio.timeout(10):
        await work.task
    assert work.pipe.log == ["ack"]


async def test_long_work_is_announced_to_the_queue(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entrypoints.worker.lanes, "EXTEND_SECONDS", 0.01)
    work.store.gate = asyncio.Event()
    work.pipe.waiting = [chunk(1)]
    await work.until(lambda: work.pipe.log.count("extend") >= 2)
    work.store.gate.set()
    await work.until(lambda: work.pipe.log[-1] == "ack")


async def test_small_messages_are_fetched_in_larger_numbers(work: Work) -> None:
    work.pipe.waiting = [chunk(number) for number in range(20)]
    await work.until(lambda: len(work.pipe.log) == 20)
    await work.until(lambda: work.pipe.asked[-1] > work.pipe.asked[0])
