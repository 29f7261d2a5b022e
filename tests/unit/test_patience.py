"""Waiting parts: a process starts without its servers, says what is missing, and goes on when they are there."""

import asyncio

import pytest
from structlog.testing import capture_logs

import entrypoints.patience
from adapters.memory import open_store
from entrypoints.patience import Opening, WaitingConsumer, WaitingQueue, WaitingStore, pause_seconds
from eventcore.errors import EventcoreError, Kind, StoreError
from eventcore.ports import Consumer, EventStore, Queue


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entrypoints.patience, "FIRST_PAUSE_SECONDS", 0.001)


class Server:
    """Opens when it is up."""

    def __init__(self, kind: Kind = Kind.UNAVAILABLE, code: str = "unreachable") -> None:
        self.error: EventcoreError | None = StoreError(kind, code, "start it")
        self.tries = 0

    async def open(self) -> EventStore:
        self.tries += 1
        if self.error is not None:
            raise self.error
        return await open_store()


async def test_it_waits_and_then_works() -> None:
    server = Server()
    opening = Opening("store", server.open)
    await opening.begin()
    store = WaitingStore(opening)
    with pytest.raises(StoreError) as caught:
        await store.epoch()
    assert (caught.value.kind, caught.value.code, caught.value.message) == (Kind.UNAVAILABLE, "unreachable", "start it")
    server.error = None
    async with asyncio.timeout(5):
        while opening.opened is None:
            await asyncio.sleep(0.001)
    assert await store.epoch()
    await store.close()


@pytest.mark.parametrize("kind", [Kind.SCHEMA, Kind.INVALID, Kind.UNSUPPORTED])
async def test_what_waiting_cannot_mend_is_raised_at_once(kind: Kind) -> None:
    server = Server(kind, "schema_newer")
    with pytest.raises(EventcoreError):
        await Opening("store", server.open).begin()
    assert server.tries == 1


@pytest.mark.parametrize("code", ["access_denied", "no_database"])
async def test_what_somebody_has_to_correct_is_an_error_at_every_attempt(code: str) -> None:
    server = Server(code=code)
    with capture_logs() as said:
        opening = Opening("store", server.open)
        await opening.begin()
        async with asyncio.timeout(5):
            while server.tries < 4:
                await asyncio.sleep(0.001)
        server.error = None
        async with asyncio.timeout(5):
            while opening.opened is None:
                await asyncio.sleep(0.001)
    errors = [line for line in said if line["log_level"] == "error"]
    assert len(errors) == server.tries - 1
    assert {(line["event"], line["reason"], line["code"]) for line in errors} == {
        ("cannot open the store", "start it", code)
    }
    await opening.close()


async def test_a_server_that_is_away_is_said_once() -> None:
    server = Server()
    with capture_logs() as said:
        opening = Opening("store", server.open)
        await opening.begin()
        async with asyncio.timeout(5):
            while server.tries < 4:
                await asyncio.sleep(0.001)
        await opening.close()
    assert [(line["log_level"], line["event"]) for line in said] == [("warning", "waiting for the store")]


async def test_a_database_without_a_store_is_waited_for() -> None:
    opening = Opening("store", Server(Kind.SCHEMA, "no_store").open)
    await opening.begin()
    with pytest.raises(StoreError) as caught:
        await WaitingStore(opening).epoch()
    assert caught.value.retryable
    await opening.close()


async def test_closing_stops_the_waiting_and_refuses_calls() -> None:
    server = Server()
    opening = Opening("store", server.open)
    await opening.begin()
    store = WaitingStore(opening)
    await store.close()
    await store.close()
    tries = server.tries
    await asyncio.sleep(0.05)
    assert server.tries == tries
    with pytest.raises(StoreError) as caught:
        await store.epoch()
    assert caught.value.kind is Kind.CLOSED


async def test_closing_closes_what_was_opened() -> None:
    store = await open_store()

    async def opened() -> EventStore:
        return store

    opening = Opening("store", opened)
    await opening.begin()
    await opening.close()
    with pytest.raises(StoreError):
        await store.epoch()


async def test_a_queue_that_is_waited_for_answers_first() -> None:
    """Else an event accepted later would be booked as if the store had decided."""
    opening: Opening[Queue] = Opening("queue", Server().open)  # type: ignore[arg-type]
    await opening.begin()
    queue = WaitingQueue(opening)
    assert queue.answers_first
    with pytest.raises(StoreError):
        await queue.publish([])
    with pytest.raises(StoreError, match="nobody can say how fresh the numbers are"):
        await queue.pending("default")
    await queue.close()


async def test_a_consumer_that_is_waited_for_gives_nothing() -> None:
    opening: Opening[Consumer] = Opening("queue", Server().open)  # type: ignore[arg-type]
    await opening.begin()
    consumer = WaitingConsumer(opening)
    with pytest.raises(StoreError):
        await consumer.fetch(1, 0.1)
    await consumer.close()


def test_waiting_parts_have_every_member_of_their_ports() -> None:
    opening: Opening[EventStore] = Opening("store", Server().open)
    assert isinstance(WaitingStore(opening), EventStore)
    assert isinstance(WaitingConsumer(opening), Consumer)  # type: ignore[arg-type]
    for name in ("publish", "pending", "answers_first", "close"):
        assert hasattr(WaitingQueue, name)


def test_pauses_grow_to_a_bound_and_differ() -> None:
    entrypoints.patience.FIRST_PAUSE_SECONDS = 0.25  # type: ignore[misc]
    assert all(0.125 <= pause_seconds(1) <= 0.25 for _ in range(100))
    assert all(2.5 <= pause_seconds(10_000) <= 5 for _ in range(100))
    assert all(pause_seconds(10_000, 30.0) <= 30 for _ in range(100))
    assert len({pause_seconds(3) for _ in range(100)}) > 90
