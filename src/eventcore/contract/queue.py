"""What every `eventcore.ports.Queue` must do: durable before it returns, or an error; never in between.

How to use it is in `eventcore.contract`.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import pytest
import pytest_asyncio

from eventcore.activity import ActivityQuery, ActivitySnapshot
from eventcore.dimensions import Dimension
from eventcore.errors import Kind, StoreError
from eventcore.events import Book, Chunk, DeadLetter, ImportRecord, Receipt, Replay, StoredEvent
from eventcore.keys import ApiKey
from eventcore.ports import EventStore, Pending, Queue, Rebuilt, StoreDescription
from eventcore.strategies import a_chunk, an_event


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueBackend:
    """How to open a queue, and what it can do.

    Attributes:
        name: for the reasons of skips.
        open: opens an empty queue in front of a store.
        answers_first: whether the sender is answered before the store has decided, as `Queue.answers_first` says.
    """

    name: str
    open: Callable[[EventStore], Awaitable[Queue]]
    answers_first: bool


class ScriptedStore:
    """A store that does what a test tells it: it fails, or writes down what it gets and gives receipts.

    Attributes:
        chunks: what it was given and kept, in order.
        receipts: by chunk id; a chunk that is not in it gets an empty one.
        failure: raised by the next appends and checks, until it is None.
        closed: whether somebody closed it.
    """

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        self.receipts: dict[bytes, Receipt] = {}
        self.failure: StoreError | None = None
        self.closed = False

    async def append(self, chunks: Sequence[Chunk]) -> Sequence[Receipt]:
        """Fail, or keep the chunks."""
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure
        self.chunks += chunks
        return [self.receipts.get(chunk.chunk_id, Receipt()) for chunk in chunks]

    async def close(self) -> None:
        """Remember it."""
        self.closed = True

    async def check(self, chunk: Chunk) -> None:
        """Fail as an append would."""
        await asyncio.sleep(0)
        if self.failure is not None:
            raise self.failure

    async def find(self, project: str, event_ids: Sequence[bytes]) -> Mapping[bytes, StoredEvent]:
        """Not a queue's business; neither are the others below."""
        raise NotImplementedError

    async def dead_letters(
        self, project: str, *, limit: int, after: bytes = b"", event_ids: Sequence[bytes] | None = None
    ) -> Sequence[DeadLetter]:
        """See `find`."""
        raise NotImplementedError

    async def replay(self, project: str, names: Sequence[bytes]) -> Replay:
        """See `find`."""
        raise NotImplementedError

    async def drop(self, project: str, names: Sequence[bytes]) -> int:
        """See `find`."""
        raise NotImplementedError

    async def activity(self, query: ActivityQuery) -> ActivitySnapshot:
        """See `find`."""
        raise NotImplementedError

    async def version(self, project: str) -> str:
        """See `find`."""
        raise NotImplementedError

    async def fold(self, most_events: int) -> int:
        """See `find`."""
        raise NotImplementedError

    def rebuild(self, project: str | None = None) -> AsyncGenerator[Rebuilt, None]:
        """See `find`."""
        raise NotImplementedError

    def rebuild_in_zone(self, zone: str) -> AsyncGenerator[Rebuilt, None]:
        """See `find`."""
        raise NotImplementedError

    async def dimensions(self, project: str) -> Sequence[Dimension]:
        """See `find`."""
        raise NotImplementedError

    def add_dimension(self, project: str, name: str) -> AsyncGenerator[Rebuilt, None]:
        """See `find`."""
        raise NotImplementedError

    async def remove_dimension(self, project: str, name: str) -> bool:
        """See `find`."""
        raise NotImplementedError

    async def books(self, project: str, first: str, last: str) -> Sequence[Book]:
        """See `find`."""
        raise NotImplementedError

    async def record_import(self, project: str, record: ImportRecord) -> None:
        """See `find`."""
        raise NotImplementedError

    async def epoch(self) -> str:
        """See `find`."""
        raise NotImplementedError

    async def begin_epoch(self) -> str:
        """See `find`."""
        raise NotImplementedError

    async def keys(self) -> Sequence[ApiKey]:
        """See `find`."""
        raise NotImplementedError

    async def put_key(self, key: ApiKey) -> None:
        """See `find`."""
        raise NotImplementedError

    async def touch_keys(self, used: Mapping[str, int]) -> None:
        """See `find`."""
        raise NotImplementedError

    async def describe(self) -> StoreDescription:
        """See `find`."""
        raise NotImplementedError

    async def verify(self, project: str | None = None) -> Sequence[str]:
        """See `find`."""
        raise NotImplementedError


class QueueContract:
    """Subclass it and give it a fixture ``backend``, a `QueueBackend`."""

    pytestmark = pytest.mark.asyncio

    @pytest.fixture
    def store(self) -> ScriptedStore:
        """The store behind the queue."""
        return ScriptedStore()

    @pytest_asyncio.fixture
    async def queue(self, backend: QueueBackend, store: ScriptedStore) -> AsyncIterator[Queue]:
        """An empty queue, closed after the test."""
        queue = await backend.open(store)
        yield queue
        await queue.close()

    @pytest.fixture
    def direct(self, backend: QueueBackend, queue: Queue) -> Queue:
        """A queue that answers when the store has decided."""
        if backend.answers_first:
            pytest.skip(f"{backend.name} answers before the store has decided")
        return queue

    @pytest.fixture
    def early(self, backend: QueueBackend, queue: Queue) -> Queue:
        """A queue that answers before the store has decided."""
        if not backend.answers_first:
            pytest.skip(f"{backend.name} answers when the store has decided")
        return queue

    async def test_is_a_queue(self, queue: Queue) -> None:
        """It has every member of the port."""
        assert isinstance(queue, Queue)

    async def test_says_when_it_answers(self, queue: Queue, backend: QueueBackend) -> None:
        """What it says of itself is what its backend is known for."""
        assert queue.answers_first is backend.answers_first

    async def test_publishing_nothing_gives_no_receipts(self, queue: Queue) -> None:
        """No chunks, no receipts, no error."""
        assert list(await queue.publish([])) == []

    async def test_gives_a_receipt_for_each_chunk(self, queue: Queue) -> None:
        """New events have nothing to say against them."""
        chunks = [a_chunk(an_event(event_id=number), queued=queue.answers_first) for number in range(3)]

        assert list(await queue.publish(chunks)) == [Receipt()] * 3

    async def test_nothing_is_pending_at_first(self, queue: Queue) -> None:
        """An empty queue holds nothing for any project."""
        assert await queue.pending("default") == Pending()

    async def test_refuses_when_closed(self, queue: Queue) -> None:
        """A closed queue takes nothing, and says that trying elsewhere can help; closing again does nothing."""
        await queue.close()
        await queue.close()

        for refused in (queue.publish([a_chunk(an_event())]), queue.pending("default")):
            with pytest.raises(StoreError) as caught:
                await refused
            assert (caught.value.kind, caught.value.retryable) == (Kind.CLOSED, True)

    async def test_closing_leaves_the_store_open(self, queue: Queue, store: ScriptedStore) -> None:
        """Who opened the store closes it."""
        await queue.close()

        assert not store.closed

    async def test_is_stored_when_publish_returns(self, direct: Queue, store: ScriptedStore) -> None:
        """Without a wait in between, the chunks are in the store, whole and in order."""
        chunks = [a_chunk(an_event(event_id=number), an_event(event_id=-number)) for number in (1, 2)]
        await direct.publish(chunks)

        assert store.chunks == chunks

    async def test_receipts_are_the_stores(self, direct: Queue, store: ScriptedStore) -> None:
        """What the store has decided is what the sender hears."""
        known, new, other = (a_chunk(an_event(event_id=number)) for number in (1, 2, 3))
        store.receipts = {known.chunk_id: Receipt(duplicates=(0,)), other.chunk_id: Receipt(conflicts=(0,))}

        assert list(await direct.publish([known, new, other])) == [
            Receipt(duplicates=(0,)),
            Receipt(),
            Receipt(conflicts=(0,)),
        ]

    async def test_a_failure_of_the_store_surfaces(self, direct: Queue, store: ScriptedStore) -> None:
        """As the error it is, so that its kind decides what the sender is told."""
        store.failure = StoreError(Kind.FULL, "disk_full", "the disk is full; make room")

        with pytest.raises(StoreError) as caught:
            await direct.publish([a_chunk(an_event())])
        assert (caught.value.kind, caught.value.code) == (Kind.FULL, "disk_full")

    async def test_a_failure_marks_nothing(self, direct: Queue, store: ScriptedStore) -> None:
        """The very same chunk is taken as new once the store works again, and nothing of the failed try was kept."""
        chunk = a_chunk(an_event())
        store.failure = StoreError(Kind.UNAVAILABLE, "away", "the store does not answer; try again")
        with pytest.raises(StoreError):
            await direct.publish([chunk])
        assert (store.chunks, await direct.pending("default")) == ([], Pending())

        store.failure = None
        assert list(await direct.publish([chunk])) == [Receipt()]
        assert store.chunks == [chunk]

    async def test_nothing_is_pending_after_publishing(self, direct: Queue) -> None:
        """What was published is stored already."""
        await direct.publish([a_chunk(an_event())])

        assert await direct.pending("default") == Pending()

    async def test_many_tasks_may_publish_at_once(self, direct: Queue, store: ScriptedStore) -> None:
        """Each gets its own receipts, and every chunk arrives once."""
        chunks = [a_chunk(an_event(event_id=number)) for number in range(50)]
        store.receipts = {chunk.chunk_id: Receipt(duplicates=(0,)) for chunk in chunks[::2]}

        receipts = await asyncio.gather(*(direct.publish([chunk]) for chunk in chunks))

        assert [list(receipt) for receipt in receipts] == [[Receipt(duplicates=(0,))], [Receipt()]] * 25
        assert {chunk.chunk_id for chunk in store.chunks} == {chunk.chunk_id for chunk in chunks}
        assert len(store.chunks) == 50

    async def test_takes_events_while_the_store_is_away(self, early: Queue, store: ScriptedStore) -> None:
        """The store is somebody else's business; of what it would say nothing is known yet."""
        store.failure = StoreError(Kind.UNAVAILABLE, "away", "the store does not answer; try again")
        chunk = a_chunk(an_event(), queued=True)
        store.receipts = {chunk.chunk_id: Receipt(duplicates=(0,))}

        assert list(await early.publish([chunk])) == [Receipt()]
        assert store.chunks == []

    async def test_takes_events_while_the_store_hangs(self, early: Queue, store: ScriptedStore) -> None:
        """Senders do not wait for it."""
        store.epoch = lambda: asyncio.sleep(60, "")  # type: ignore[method-assign]

        async with asyncio.timeout(10):
            await early.publish([a_chunk(an_event(), queued=True)])

    async def test_everything_is_pending_after_publishing(self, early: Queue) -> None:
        """Each event is counted once, for its own project, however many tasks published at once."""
        chunks = [
            a_chunk(*(an_event(event_id=each) for each in range(number % 4)), queued=True) for number in range(50)
        ]
        other = a_chunk(an_event(), project="other", queued=True)

        receipts = await asyncio.gather(*(early.publish([chunk]) for chunk in (*chunks, other)))

        assert [list(each) for each in receipts] == [[Receipt()]] * 51
        assert (await early.pending("default")).events == sum(len(chunk.events) for chunk in chunks)
        assert (await early.pending("other")).events == 1
        assert await early.pending("nobody") == Pending()
