"""Draining: acknowledged only behind the commit, merged, alone after failures, and nothing buried for being tried."""

import asyncio
from collections.abc import Sequence

import pytest

from adapters.memory import open_store
from eventcore.chunks import CODEC_VERSION, encode_chunk
from eventcore.draining import ALONE_FROM_ATTEMPT, GROUP_EVENTS, STUCK_SECONDS, drain
from eventcore.errors import Kind, StoreError
from eventcore.events import Chunk, Counts, Receipt
from eventcore.ports import Delivery, EventStore
from eventcore.strategies import a_chunk, an_event

NOW_US = 1_700_000_000_000_000


class Message:
    """A delivery that writes down what becomes of it."""

    def __init__(self, body: bytes | Chunk, attempt: int = 1, name: str = "S:1", acks_fail: bool = False) -> None:
        self.body = body if isinstance(body, bytes) else encode_chunk(body)
        self.attempt, self.name = attempt, name
        self.acked = 0
        self.retried: list[float] = []

    async def ack(self) -> None:
        self.acked += 1

    async def retry(self, delay_seconds: float) -> None:
        self.retried.append(delay_seconds)

    async def extend(self) -> None:
        raise AssertionError("draining does not extend; the lane does")


class Watched:
    """A store in memory whose appends are written down, and fail as told, once or for ever."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self.groups: list[list[bytes]] = []
        self.failures: list[StoreError | None] = []
        self.for_ever: StoreError | None = None
        self.message: Message | None = None

    async def append(self, chunks: Sequence[Chunk]) -> Sequence[Receipt]:
        self.groups.append([chunk.chunk_id for chunk in chunks])
        if self.message is not None:
            assert self.message.acked == 0, "acknowledged before it was stored"
        error = self.for_ever or (self.failures.pop(0) if self.failures else None)
        if error is not None:
            raise error
        return await self._store.append(chunks)

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


@pytest.fixture
async def store() -> Watched:
    return Watched(await open_store())


def away(kind: Kind = Kind.UNAVAILABLE) -> StoreError:
    return StoreError(kind, "away", "the store is away; try again")


async def run(store: Watched, *messages: Message):
    deliveries: list[Delivery] = list(messages)
    return await drain(store, deliveries, now_us=NOW_US, retry_seconds=lambda attempt: attempt / 10)  # type: ignore[arg-type]


async def stored(store: Watched) -> int:
    return (await store.describe()).counts.get("default", {}).get("events", 0)  # type: ignore[operator]


def queued(*numbers: int, **more) -> Chunk:
    return a_chunk(*(an_event(event_id=number) for number in numbers), queued=True, **more)


async def test_messages_are_merged_stored_and_acknowledged(store: Watched) -> None:
    messages = [Message(queued(1, 2)), Message(queued(3)), Message(queued(3, 4))]
    drained = await run(store, *messages)
    assert len(store.groups) == 1
    assert [message.acked for message in messages] == [1, 1, 1]
    assert (drained.messages, drained.events, drained.duplicates, drained.stored) == (3, 5, 1, 4)
    assert (await stored(store), drained.troubles) == (4, ())


async def test_messages_without_events_bring_their_counts(store: Watched) -> None:
    messages = [Message(a_chunk(queued=True, counts=Counts(rejected=2))), Message(queued(1))]
    drained = await run(store, *messages)
    assert ([message.acked for message in messages], drained.events) == ([1, 1], 1)
    (book,) = await store.books("default", "1970-01-01", "9999-12-31")  # type: ignore[operator]
    assert (book.received, book.rejected, book.stored) == (3, 2, 1)


async def test_nothing_fetched_does_nothing(store: Watched) -> None:
    drained = await run(store)
    assert (drained.messages, store.groups, drained.is_store_away) == (0, [], False)


async def test_acknowledged_only_behind_the_append(store: Watched) -> None:
    store.message = Message(queued(1))
    await run(store, store.message)
    assert store.message.acked == 1


@pytest.mark.parametrize("kind", [Kind.UNAVAILABLE, Kind.FULL, Kind.TIMEOUT, Kind.CLOSED])
async def test_a_store_that_is_away_buries_nothing_however_often(store: Watched, kind: Kind) -> None:
    store.for_ever = away(kind)
    message = Message(queued(1), attempt=1_000_000)
    drained = await run(store, message)
    assert (message.acked, message.retried) == (0, [100_000.0])
    assert drained.is_store_away
    assert await store.dead_letters("default", limit=10) == ()  # type: ignore[operator]


async def test_a_delivery_that_comes_again_changes_nothing(store: Watched) -> None:
    chunk = queued(1, 2)
    await run(store, Message(chunk))
    books = await store.books("default", "1970-01-01", "9999-12-31")  # type: ignore[operator]
    again = Message(chunk, attempt=2)
    await run(store, again)
    assert again.acked == 1
    assert await store.books("default", "1970-01-01", "9999-12-31") == books  # type: ignore[operator]


async def test_a_codec_of_tomorrow_and_damage_wait_and_are_never_dropped(store: Watched) -> None:
    unknown = Message(bytes([CODEC_VERSION + 1]) + b"x")
    broken = Message(bytes([CODEC_VERSION]) + b"\xff\xff")
    empty = Message(b"")
    well = Message(queued(1))
    drained = await run(store, unknown, broken, empty, well)
    assert [message.retried for message in (unknown, broken, empty)] == [[STUCK_SECONDS]] * 3
    assert [message.acked for message in (unknown, broken, empty, well)] == [0, 0, 0, 1]
    assert [trouble.error.code for trouble in drained.troubles] == ["unknown_codec", "broken_chunk", "broken_chunk"]
    assert not drained.is_store_away


async def test_a_poison_event_costs_only_itself(store: Watched) -> None:
    poison = an_event(event_id=7, user_id="a\0b")
    message = Message(a_chunk(an_event(event_id=1), poison, an_event(event_id=2), queued=True))
    neighbour = Message(queued(3))
    drained = await run(store, message, neighbour)
    assert (message.acked, neighbour.acked) == (1, 1)
    assert (drained.events, drained.dead, drained.stored, await stored(store)) == (4, 1, 3, 3)
    (letter,) = await store.dead_letters("default", limit=10)  # type: ignore[operator]
    assert (letter.event, letter.died_us, letter.attempts) == (poison, NOW_US, 1)


async def test_what_failed_often_goes_alone_and_lets_its_neighbours_pass(store: Watched) -> None:
    tired = Message(queued(9), attempt=ALONE_FROM_ATTEMPT)
    fresh = [Message(queued(1)), Message(queued(2), attempt=ALONE_FROM_ATTEMPT - 1)]
    store.failures = [None, away()]
    drained = await run(store, tired, *fresh)
    assert [len(group) for group in store.groups] == [2, 1]
    assert (tired.acked, [message.acked for message in fresh]) == (0, [1, 1])
    assert not drained.is_store_away


async def test_groups_are_bounded(store: Watched) -> None:
    size = 500
    messages = [Message(queued(*range(start, start + size))) for start in range(0, 2 * GROUP_EVENTS + size, size)]
    drained = await run(store, *messages)
    assert [len(group) for group in store.groups] == [GROUP_EVENTS // size, GROUP_EVENTS // size, 1]
    assert drained.events == await stored(store) == 2 * GROUP_EVENTS + size


async def test_one_group_that_fails_does_not_stop_the_next(store: Watched) -> None:
    messages = [Message(queued(*range(start, start + GROUP_EVENTS))) for start in (0, GROUP_EVENTS)]
    store.failures = [away()]
    await run(store, *messages)
    assert [(message.acked, message.retried) for message in messages] == [(0, [0.1]), (1, [])]


async def test_refused_data_without_a_culprit_waits(store: Watched) -> None:
    store.for_ever = StoreError(Kind.DATA, "refused_data", "the store refuses this")
    message = Message(queued(1, 2))
    drained = await run(store, message)
    assert (message.acked, message.retried) == (0, [STUCK_SECONDS])
    assert not drained.is_store_away


async def test_a_cancelled_drain_acknowledges_nothing(store: Watched) -> None:
    message = Message(queued(1))
    begun = asyncio.Event()

    async def hang(chunks: Sequence[Chunk]) -> Sequence[Receipt]:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    store.append = hang  # type: ignore[method-assign]
    task = asyncio.create_task(run(store, message))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert message.acked == 0
