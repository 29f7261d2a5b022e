"""Queues on NATS for tests: each has a stream of its own, and leaves nothing behind in the loop or the log."""

import asyncio
import gc
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, suppress
from itertools import count
from os import getpid
from pathlib import Path
from typing import Any, TypeVar

import nats
import pytest
from nats.js.errors import NotFoundError, ServerError

from adapters.nats import open_consumer, open_queue
from eventcore.contract.queue import ScriptedStore
from eventcore.errors import StoreError
from eventcore.ports import Consumer, Queue
from tests.support import servers
from tests.support.fixtures import nats_server
from tests.support.processes import OwnServer
from tests.support.servers import Server

__all__ = ["nats_server"]

_numbers = count(1)
AT_THE_END_OF_TLS = "returning true from eof_received() has no effect when using ssl"
"""What asyncio says of the driver's way to begin TLS; it changes nothing."""

T = TypeVar("T")
OpenQueue = Callable[..., Awaitable[Queue]]
OpenConsumer = Callable[[str], Awaitable[Consumer]]


class Store(ScriptedStore):
    """A store that knows its epoch."""

    async def epoch(self) -> str:
        return "e1"


@pytest.fixture(autouse=True)
async def nothing_is_left(caplog: pytest.LogCaptureFixture) -> AsyncIterator[None]:
    """No task outlives its queue, and asyncio has nothing to complain about."""
    yield
    for _ in range(3):
        await asyncio.sleep(0)
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
    gc.collect()
    for phase in ("setup", "call"):
        loud = [each for each in caplog.get_records(phase) if each.name != "eventcore" and each.levelno > logging.INFO]
        assert [said for each in loud if (said := each.getMessage()) != AT_THE_END_OF_TLS] == []


@pytest.fixture
async def opened() -> AsyncIterator[AsyncExitStack]:
    """Closes what was opened."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def queue_at(opened: AsyncExitStack) -> OpenQueue:
    """Opens queues and closes them after the test."""

    async def open_it(url: str, store: ScriptedStore | None = None) -> Queue:
        queue = await open_queue(url, store=store or Store())
        opened.push_async_callback(queue.close)
        return queue

    return open_it


@pytest.fixture
def consumer_at(opened: AsyncExitStack) -> OpenConsumer:
    """Opens consumers and closes them after the test."""

    async def open_it(url: str) -> Consumer:
        consumer = await open_consumer(url)
        opened.push_async_callback(consumer.close)
        return consumer

    return open_it


@pytest.fixture
async def url(nats_server: Server, client: nats.NATS) -> AsyncIterator[str]:
    """A stream of the shared server, named at the end, with a small room."""
    name = a_name()
    yield f"{nats_server.url}/{name}?max_bytes=16777216&ack_wait_seconds=1"
    with suppress(NotFoundError):
        await client.jsm().delete_stream(name)


def a_name() -> str:
    """Of a stream that nobody else has."""
    return f"TEST-{getpid()}-{next(_numbers)}"


def stream_of(url: str) -> str:
    return url.partition("?")[0].rpartition("/")[2]


async def consumer_of(client: nats.NATS, url: str) -> str:
    """The name of the stream's consumer, as `adapters.nats.stream.settle_stream` makes it."""
    subject = f"$JS.API.STREAM.INFO.{stream_of(url)}"
    created = json.loads((await client.request(subject, timeout=5)).data)["created"]
    return "workers-" + "".join(letter for letter in created if letter.isdigit())


@pytest.fixture
async def client(nats_server: Server) -> AsyncIterator[nats.NATS]:
    """An operator of the shared server."""
    client = await nats.connect(nats_server.url)
    yield client
    await client.close()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[OwnServer]:
    """A server that the test may kill, stop and start."""
    with servers.needed("nats"), servers.nats(tmp_path / "nats", own_process=True) as server:
        assert isinstance(server, OwnServer)
        yield server


async def made_again(client: nats.NATS, **config: Any) -> None:
    """Make a stream whose namesake was deleted a moment ago; the server may still be clearing that one away."""
    async with asyncio.timeout(10):
        while True:
            try:
                await client.jsm().add_stream(**config)
                return
            except ServerError:
                await asyncio.sleep(0.05)


async def until(attempt: Callable[[], Awaitable[T]], seconds: float = 20.0) -> T:
    """What it gives once it raises no error of a queue any more."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                return await attempt()
            except StoreError as error:
                if not error.retryable:
                    raise
                await asyncio.sleep(0.05)
