"""What the tests of traps are made of: eventcore over real servers, in this process or in processes of its own.

Not here: what goes wrong, which is each test's own.
"""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from adapters.nats import open_consumer
from entrypoints.container import open_eventcore
from entrypoints.settings import Settings
from eventcore.draining import drain
from eventcore.errors import StoreError
from eventcore.events import Book
from eventcore.ports import Consumer, Delivery, EventStore
from eventcore.service import Eventcore

EVENTCORE = str(Path(sys.executable).with_name("eventcore"))
WAIT_SECONDS = 30.0
DAY = "2026-02-01"


def an_id(number: int) -> str:
    return str(UUID(int=(number << 80) | (4 << 76) | (8 << 60) | number))


def an_event(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "event_id": an_id(number),
        "user_id": f"user-{number % 7}",
        "event_type": "view",
        "occurred_at": f"{DAY}T12:00:00Z",
        "properties": {"n": number},
    } | changes


def a_batch(numbers: Iterable[int], **changes: Any) -> bytes:
    return json.dumps([an_event(number, **changes) for number in numbers]).encode()


@dataclass(frozen=True, kw_only=True, slots=True)
class Urls:
    """Where the parts of an eventcore are."""

    store: str
    dedup: str = "memory://"
    queue: str = "inline://"

    def settings(self) -> dict[str, str]:
        return {"store_url": self.store, "dedup_url": self.dedup, "queue_url": self.queue}


@asynccontextmanager
async def a_core(urls: Urls) -> AsyncIterator[Eventcore]:
    """An eventcore in this process, opened as `serve` opens it."""
    async with open_eventcore(Settings(_env_file=None, **urls.settings())) as core:  # type: ignore[call-arg, arg-type]
        yield core


@asynccontextmanager
async def a_consumer(queue_url: str) -> AsyncIterator[Consumer]:
    consumer = await open_consumer(queue_url)
    try:
        yield consumer
    finally:
        await consumer.close()


async def drain_all(store: EventStore, queue_url: str, *, silence_seconds: float = 0.5) -> None:
    """What workers do, until nothing more comes for a while."""
    async with a_consumer(queue_url) as consumer:
        while deliveries := await consumer.fetch(50, silence_seconds):
            await drain_once(store, deliveries)


async def drain_once(store: EventStore, deliveries: Sequence[Delivery]) -> None:
    await drain(store, deliveries, now_us=time.time_ns() // 1_000, retry_seconds=lambda attempt: 0.05)


async def send_until_told(core: Eventcore, body: bytes) -> tuple[int, int, int, int]:
    """What a sender does with an outcome that is unknown: the same again, until there is an answer."""
    async with asyncio.timeout(WAIT_SECONDS):
        while True:
            try:
                told = await core.ingest_body(body)
            except StoreError as error:
                if not error.retryable:
                    raise
                await asyncio.sleep(0.05)
            else:
                return told.accepted, told.duplicates, told.conflicts, told.rejected


async def stored(core: Eventcore, numbers: Iterable[int]) -> set[int]:
    """Which of these events are in the store."""
    ids = {UUID(an_id(number)).bytes: number for number in numbers}
    return {ids[event_id] for event_id in await core.store.find("default", list(ids))}


async def counted(core: Eventcore) -> int:
    """How many events of these years the statistics count, whoever's and of whatever type."""
    rows = (await core.top_events("2020-01-01", "2026-12-31", limit=1_000)).data
    return sum(int(row["count"]) for row in rows)


async def booked(core: Eventcore) -> dict[str, int]:
    """The books of all days together, without zeros."""
    total: dict[str, int] = {}
    for book in await core.store.books("default", "1970-01-01", "9999-12-31"):
        for column in Book.__struct_fields__:
            value = getattr(book, column)
            if column != "date" and value:
                total[column] = total.get(column, 0) + value
    return total


class Process:
    """`serve` or `worker` in a process of its own, on a free port; ended by its id.

    Args:
        command: which of them.
        urls: of its parts.
        log: the file that gets what it says.
        more: other settings.
    """

    def __init__(self, command: str, urls: Urls, log: Path, more: Mapping[str, object] | None = None) -> None:
        settings = urls.settings() | {"log_format": "json", "port": 0, "worker_port": 0} | dict(more or {})
        kept = {name: value for name, value in os.environ.items() if not name.startswith("EVENTCORE_")}
        self._log = log
        self._begun = log.stat().st_size if log.exists() else 0
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                [EVENTCORE, command],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                cwd=log.parent,
                env=kept | {f"EVENTCORE_{name.upper()}": str(value) for name, value in settings.items()},
            )
        self.url = self._announced()

    def _announced(self) -> str:
        deadline = time.monotonic() + WAIT_SECONDS
        while (found := re.search(rb"http://127\.0\.0\.1:\d+", self._log.read_bytes()[self._begun :])) is None:
            assert self._process.poll() is None, self._log.read_text()[-2_000:]
            assert time.monotonic() < deadline, self._log.read_text()[-2_000:]
            time.sleep(0.01)
        return found[0].decode()

    def kill(self) -> None:
        """As the kernel does it: nothing is finished, nothing said."""
        self._process.kill()
        self._process.wait(WAIT_SECONDS)

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(WAIT_SECONDS)
            finally:
                self._process.kill()


async def until(condition: Callable[[], Any], seconds: float = WAIT_SECONDS) -> None:
    """Ask an asynchronous question again and again until the answer is yes."""
    async with asyncio.timeout(seconds):
        while not await condition():
            await asyncio.sleep(0.05)
