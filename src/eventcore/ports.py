"""The ports: what the core asks of the world outside, and nothing about how it is done.

Adapters implement these; the core decides. Every method may raise `eventcore.errors.StoreError`, whose kind says
whether trying again can help; no driver's own error crosses. All instants are microseconds since the epoch, UTC.
The contract that an adapter must keep is executable: `eventcore.contract`.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import msgspec

from eventcore.activity import ActivityQuery, ActivitySnapshot
from eventcore.events import Book, Chunk, ImportRecord, Receipt, StoredEvent


class StoreDescription(msgspec.Struct, frozen=True, kw_only=True):
    """What a store says of itself, for `doctor` and readiness.

    Attributes:
        technology: e.g. ``sqlite 3.40.1``.
        schema: the version of its schema.
        epoch: the random id that marks this state of the store; a restore or purge makes a new one.
        durable: whether an appended chunk survives a crash of the machine.
        settings: what matters for durability, as name and value.
        counts: rows per project and table, as ``{"default": {"events": 3, "users": 2, "conflicts": 0, "imports": 1}}``;
            a store may count more than these four. Asking about a project never makes it.
    """

    technology: str
    schema: int
    epoch: str
    durable: bool
    settings: Mapping[str, str] = {}
    counts: Mapping[str, Mapping[str, int]] = {}


class Pending(msgspec.Struct, frozen=True, kw_only=True):
    """Accepted events of a project that no statistic can see yet.

    Attributes:
        events: how many.
        since_us: when the oldest of them was received, None when there is none.
    """

    events: int = 0
    since_us: int | None = None


@runtime_checkable
class EventStore(Protocol):
    """Keeps each event once and answers what it holds. The arbiter of uniqueness is its ledger."""

    async def append(self, chunks: Sequence[Chunk]) -> Sequence[Receipt]:
        """Store chunks, all or none, durably, in one transaction: events, activity, conflicts and books.

        Within a project an id is stored once, for ever; the first stored wins, also between two chunks of one
        call. An equal id with an equal fingerprint, or with equal content by value, is a duplicate; other content is
        a conflict, kept for inspection. A queued chunk whose ``chunk_id`` is known changes nothing, and its receipt is
        empty; ids of chunks that are not queued are not remembered. Values that no decoded event can have (an id that
        is not 16 bytes, a NUL in a name) are refused with kind ``data``, at the cost of this call alone.

        Returns:
            A receipt for each chunk, in order.
        """
        ...

    async def find(self, project: str, event_ids: Sequence[bytes]) -> Mapping[bytes, StoredEvent]:
        """The stored events among these ids."""
        ...

    async def activity(self, query: ActivityQuery) -> ActivitySnapshot:
        """Tallies and history, all read in one snapshot of the data; the caller may change the bitmaps it gets."""
        ...

    async def books(self, project: str, first: str, last: str) -> Sequence[Book]:
        """The books of the UTC days ``first`` to ``last`` (YYYY-MM-DD, inclusive) that have any, in order."""
        ...

    async def record_import(self, project: str, record: ImportRecord) -> None:
        """Write down an import; the same ``import_id`` again replaces what is known of it."""
        ...

    async def epoch(self) -> str:
        """The store's epoch; may be up to one second old."""
        ...

    async def describe(self) -> StoreDescription:
        """What the store is and holds."""
        ...

    async def verify(self, project: str | None = None) -> Sequence[str]:
        """Compare books, ledger, events and activity; one sentence per difference, none when all agree."""
        ...

    async def close(self) -> None:
        """Finish what was begun, then let go of everything.

        Closing again does nothing; other calls raise `StoreError` of kind ``closed``.
        """
        ...


@runtime_checkable
class DedupCache(Protocol):
    """Remembers what is known to be stored. It may forget anything at any time; it must never invent."""

    async def seen(self, namespace: str, members: Sequence[bytes]) -> Sequence[bool]:
        """For each member whether it was marked. Must not raise: whatever goes wrong means "not seen"."""
        ...

    async def mark(self, namespace: str, members: Sequence[bytes]) -> None:
        """Remember members. Must not raise: forgetting is always right."""
        ...

    async def close(self) -> None:
        """Let go of everything."""
        ...


@runtime_checkable
class Queue(Protocol):
    """Takes chunks between the answer and the store. The inline queue has no between: it appends at once."""

    async def publish(self, chunks: Sequence[Chunk]) -> Sequence[Receipt]:
        """Make chunks durable before returning; raises `StoreError` unless every one of them is.

        Returns:
            What is known of each chunk: final receipts inline, empty ones where the store decides later.
        """
        ...

    async def pending(self, project: str) -> Pending:
        """What was accepted and is not stored yet."""
        ...

    @property
    def answers_first(self) -> bool:
        """Whether the sender is answered before the store has decided; becomes ``Chunk.queued``."""
        ...

    async def close(self) -> None:
        """Let go of everything."""
        ...
