"""No queue at all: what is published is stored at once, and the sender waits for it.

Implements `eventcore.ports.Queue` (``inline://``). Whatever the store promises holds when `publish` returns, its
receipts are final, and nothing is ever pending. Not for taking in events while the store is away: that is what a real
queue is for.
"""

from collections.abc import Sequence
from time import time_ns

from eventcore.errors import Kind, StoreError
from eventcore.events import Chunk, Receipt
from eventcore.ports import EventStore, Pending, Queue
from eventcore.storing import persist


async def open_queue(url: str = "inline://", *, store: EventStore) -> Queue:
    """Join the sender to a store directly.

    Args:
        url: ``inline://``.
        store: where chunks go; it stays its opener's to close.

    Raises:
        StoreError: the URL says more than that; kind ``invalid``.
    """
    if url not in ("inline:", "inline://"):
        raise StoreError(Kind.INVALID, "invalid_url", "the inline queue has no options; its URL is inline://")
    return InlineQueue(store)


class InlineQueue:
    """A `Queue` that holds nothing; `open_queue` makes it.

    Args:
        store: where chunks go.
    """

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._closed = False

    async def publish(self, chunks: Sequence[Chunk]) -> Sequence[Receipt]:
        """See `Queue.publish`; the receipts are the store's, and so are the errors that do not name one event."""
        self._check_open()
        receipts, _ = await persist(self._store, chunks, now_us=time_ns() // 1_000)
        return receipts

    async def pending(self, project: str) -> Pending:
        """See `Queue.pending`; nothing ever is."""
        self._check_open()
        return Pending()

    @property
    def answers_first(self) -> bool:
        """The sender is answered when the store has decided."""
        return False

    async def close(self) -> None:
        """Take nothing any more; the store stays open, and closing again does nothing."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(Kind.CLOSED, "queue_closed", "this inline queue is closed; open another one")
