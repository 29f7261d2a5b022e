"""The ports: what the core asks of the world outside, and nothing about how it is done.

Adapters implement these; the core decides. Every method may raise `eventcore.errors.StoreError`, whose kind says
whether trying again can help; no driver's own error crosses. All instants are microseconds since the epoch, UTC.
The contract that an adapter must keep is executable: `eventcore.contract`.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import msgspec

from eventcore.activity import ActivityQuery, ActivitySnapshot
from eventcore.dimensions import Dimension
from eventcore.events import Book, Chunk, DeadLetter, ImportRecord, Receipt, Replay, StoredEvent
from eventcore.keys import ApiKey


class StoreDescription(msgspec.Struct, frozen=True, kw_only=True):
    """What a store says of itself, for `doctor` and readiness.

    Attributes:
        technology: e.g. ``sqlite 3.40.1``.
        schema: the version of its schema.
        epoch: the random id that marks this state of the store; a restore or purge makes a new one.
        durable: whether an appended chunk survives a crash of the machine.
        settings: what matters for durability, as name and value.
        counts: rows per project and table, as ``{"default": {"events": 3, "users": 2, "conflicts": 0, "imports": 1}}``;
            a store may count more than these four, and counts ``dead`` letters. Asking about a project never makes it.
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


class Rebuilt(msgspec.Struct, frozen=True, kw_only=True):
    """A step of a rebuild, durable when it is told.

    Attributes:
        project: whose rows.
        period: which, ``2026-03-01`` for a UTC day, ``2026-03`` for a month of the projection's zone and its days.
        done: how many steps are done, this one included.
        steps: how many there are.
        events: how many events were read for it; none for a month, which is put together from UTC days.
        rows: how many rows were wrong and are right now, those included that were lacking or too many.
        left: why the rows of this period stay as they are; empty when they are right now.
    """

    project: str
    period: str
    done: int
    steps: int
    events: int = 0
    rows: int = 0
    left: str = ""


@runtime_checkable
class EventStore(Protocol):
    """Keeps each event once and answers what it holds. The arbiter of uniqueness is its ledger."""

    async def append(self, chunks: Sequence[Chunk]) -> Sequence[Receipt]:
        """Store chunks, all or none, durably, in one transaction: events, activity, conflicts, dead letters and books.

        Within a project an id is stored once, for ever; the first stored wins, also between two chunks of one
        call. An equal id with an equal fingerprint, or with equal content by value, is a duplicate; other content is
        a conflict, kept for inspection. A queued chunk whose ``chunk_id`` is known changes nothing, and its receipt is
        empty; ids of chunks that are not queued are not remembered. Values that no decoded event can have (an id that
        is not 16 bytes, a NUL in a name) are refused with kind ``data``, at the cost of this call alone.

        What a chunk has in ``dead`` is kept as dead letters, whatever its values, and booked as accepted and dead; an
        event whose id and fingerprint are among the dead letters already is kept once and booked as
        ``duplicate_at_store``. What the books get is `eventcore.booking.entry`.

        A store whose tables are cut by time may take several transactions for events that lie very many dates apart
        (DESIGN.md, trap 7): then an error leaves some of them stored, and sending the same again stores the rest.

        Returns:
            A receipt for each chunk, in order.
        """
        ...

    async def check(self, chunk: Chunk) -> None:
        """Raise what `append` of this chunk alone would raise, and keep nothing of it, its ``chunk_id`` included.

        It goes the whole way of an append but for its end, so rules that somebody added to the tables count too.
        """
        ...

    async def dead_letters(
        self, project: str, *, limit: int, after: bytes = b"", event_ids: Sequence[bytes] | None = None
    ) -> Sequence[DeadLetter]:
        """Dead letters in the order of their names; its name is what `eventcore.dedup.member` makes of the event.

        Args:
            project: whose.
            limit: how many, at most.
            after: the name of the last one that is known; empty for the first ones.
            event_ids: only letters with one of these ids; None for all.
        """
        ...

    async def replay(self, project: str, names: Sequence[bytes]) -> Replay:
        """Store dead letters after all, all or none, in one transaction; each leaves the dead letters.

        The books of the day on which a letter was received change from ``dead`` to ``stored``, ``duplicate_at_store``
        or ``conflict_at_store``. Names that are no dead letter are passed over.

        Raises:
            StoreError: kind ``data`` when one is still refused; then nothing changed.
        """
        ...

    async def drop(self, project: str, names: Sequence[bytes]) -> int:
        """Delete dead letters for ever and begin a new epoch, in one transaction, so that their events may come again.

        Where there are none of these names the epoch stays.

        The books keep them as ``dead``: they were accepted and are not stored.

        Returns:
            How many there were.
        """
        ...

    async def find(self, project: str, event_ids: Sequence[bytes]) -> Mapping[bytes, StoredEvent]:
        """The stored events among these ids."""
        ...

    async def activity(self, query: ActivityQuery) -> ActivitySnapshot:
        """Tallies and history, all read in one snapshot of the data; the caller may change the bitmaps it gets.

        Raises:
            StoreError: also of kind ``timeout``, where the query took longer than it allows.
            InvalidQuestion: a breakdown by a field with too many values.
        """
        ...

    async def version(self, project: str) -> str:
        """A name for what `activity` answers: two calls give the same only if nothing has changed between them.

        It may change without a cause, as with a fold. Costs next to nothing, however much there is.
        """
        ...

    async def fold(self, most_events: int) -> int:
        """Fold waiting activity into the projection, in one transaction; see `eventcore.projection`.

        Changes no answer, only how fast it comes. One process folds at a time.

        Args:
            most_events: about how many events to fold; a store folds whole deltas, and at least one. An event counts
                once for itself, and once more for each dimension of its project.

        Returns:
            How many events were folded, counted so; 0 when none wait, when somebody else is folding, and where nothing
            is kept to be folded.
        """
        ...

    def rebuild(self, project: str | None = None) -> AsyncGenerator[Rebuilt, None]:
        """Make the projection anew from the events, step by step; see `eventcore.rebuilding`.

        Every step is one transaction and mends rows that are wrong, whatever they are; others it leaves alone. Appends
        and folds go on, questions are answered exactly, and rebuilds at the same time do no harm. It may be left at any
        step, by ``aclose()`` or a crash, and begun anew. Days of which events are gone (a store may drop old ones) stay
        as they are, and so do months that have unreadable rows of such days; `Rebuilt.left` says so.

        Args:
            project: whose; None for all.

        Yields:
            Each step, when it is done. None where nothing is kept to be rebuilt.
        """
        ...

    def rebuild_in_zone(self, zone: str) -> AsyncGenerator[Rebuilt, None]:
        """Go over to another zone for the projection's days and months, of all projects, without reading events.

        Rows of the new zone are made beside those of the old one, month by month, and take their place in one
        transaction behind the last step; until then questions are answered from the old ones. Left before, it has to
        be begun anew; until that, or until the old zone is asked for in the same way, folds keep both. With the zone
        that the projection has, only its days and months are made anew.

        Args:
            zone: an IANA name.

        Yields:
            As `rebuild`.

        Raises:
            StoreError: kind ``invalid`` when there is no such zone; ``unavailable`` when UTC days cannot be read, which
                `rebuild` mends, or when the zone was changed by somebody else meanwhile.
        """
        ...

    async def dimensions(self, project: str) -> Sequence[Dimension]:
        """The dimensions declared for a project, by name; see `eventcore.dimensions`."""
        ...

    def add_dimension(self, project: str, name: str) -> AsyncGenerator[Rebuilt, None]:
        """Declare a property a dimension and build it from the events, step by step, as `rebuild` does.

        It is declared before the first step: events that come from then on, in whatever process, have it. It is ready
        behind the last one, and until then questions about it read raw events. Left before, it stays ``building``; the
        same call goes on, where all that is right already stays as it is. Of one that is ready there is nothing to do.

        Args:
            project: whose; it need not have any event yet.
            name: one key of the properties' top level.

        Yields:
            As `rebuild`.

        Raises:
            StoreError: kind ``invalid`` when there are too many dimensions, or too many values, which leaves it
                ``full``; ``data`` for a name that no store holds; ``unavailable`` when it was removed meanwhile, or the
                projection's zone changed.
        """
        ...

    async def remove_dimension(self, project: str, name: str) -> bool:
        """Forget a dimension and all that was kept of it; questions about it read raw events at once.

        Returns:
            Whether there was one.
        """
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

    async def begin_epoch(self) -> str:
        """Begin a new epoch, durably, so that nothing that a cache or a queue remembers is believed any more.

        For when accepted events are gone without the store's knowledge: a restored backup, a purged queue.

        Returns:
            The new epoch; other processes go by it within a second.
        """
        ...

    async def keys(self) -> Sequence[ApiKey]:
        """All API keys of all projects in the order of making, those that have ended included.

        Never from a replica, which may be behind: a revocation counts from when it is answered.
        """
        ...

    async def put_key(self, key: ApiKey) -> None:
        """Keep a key, durably; of one that is there, nothing but its end can change.

        The earlier one of two ends counts: a revocation is never taken back.

        Raises:
            StoreError: kind ``data`` when another key has this id.
        """
        ...

    async def touch_keys(self, used: Mapping[str, int]) -> None:
        """Note when keys were last used, in microseconds by their ids; the latest counts, unknown ids do not."""
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

    @property
    def healthy(self) -> bool:
        """Whether it works, as far as is known; for readiness and metrics, since nothing depends on it."""
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
        """What was accepted and is not stored yet.

        Raises:
            StoreError: nobody can say; `eventcore.errors.unknown_freshness` makes the error that says so.
        """
        ...

    @property
    def answers_first(self) -> bool:
        """Whether the sender is answered before the store has decided; becomes ``Chunk.queued``."""
        ...

    async def close(self) -> None:
        """Let go of everything."""
        ...


@runtime_checkable
class Delivery(Protocol):
    """One message as a worker gets it; it comes again until it is acknowledged."""

    @property
    def body(self) -> bytes:
        """What `eventcore.chunks.encode_chunk` wrote, if it is a message of ours."""
        ...

    @property
    def name(self) -> str:
        """What an operator finds the message by, e.g. its sequence number in the stream; for logs."""
        ...

    @property
    def attempt(self) -> int:
        """How often it was delivered, this time included."""
        ...

    async def ack(self) -> None:
        """It is done with. Must not raise: a lost acknowledgement means one more delivery, which changes nothing."""
        ...

    async def retry(self, delay_seconds: float) -> None:
        """Deliver it again, not before this time. Must not raise: unasked it comes again all the same, only later."""
        ...

    async def extend(self) -> None:
        """It is being worked on: deliver it to nobody else yet. Must not raise."""
        ...


@runtime_checkable
class Consumer(Protocol):
    """The other end of a `Queue` that answers first: gives its messages to workers, each to one at a time."""

    async def fetch(self, most: int, wait_seconds: float) -> Sequence[Delivery]:
        """At most so many messages, as soon as there are any; none when the time has passed without.

        Raises:
            StoreError: the queue does not answer; kind ``unavailable`` or ``timeout``.
        """
        ...

    async def close(self) -> None:
        """Let go of everything; what was fetched and not acknowledged comes again."""
        ...
