"""What flows: events, what is wrong with one, and the chunk that carries many to the store.

Values only. How bytes become events is in `decoding`, what happens to them in `ingestion`. Instants are integers:
microseconds since 1970-01-01T00:00:00Z, in names that end in ``_us``.
"""

import re

import msgspec

DEFAULT_PROJECT = "default"
_PROJECT_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


def is_project_name(name: str) -> bool:
    """Whether ``name`` may name a project: 1–63 of a–z, 0–9, ``-`` and ``_``, beginning with a letter or digit."""
    return _PROJECT_NAME.fullmatch(name) is not None


class Event(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One valid event. Positional and array-like because it is also its own form inside a chunk.

    Attributes:
        event_id: the 16 bytes of the UUID; unique in its project, for ever (the idempotency key).
        user_id: 1–255 characters, byte-exact as sent.
        event_type: 1–100 characters.
        occurred_us: when it happened.
        properties: the JSON text of an object, as received.
        fingerprint: 16 bytes, digest of the content; see `eventcore.dedup.fingerprint`.
    """

    event_id: bytes
    user_id: str
    event_type: str
    occurred_us: int
    properties: str
    fingerprint: bytes


class Problem(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is wrong with one event of a batch.

    Attributes:
        index: position in the batch as sent, from 0 (in a CSV file: see the importer).
        event_id: the id as sent, at most 64 characters of it, or None when there is none to show.
        code: a stable lower-case name, e.g. ``missing_field``.
        field: the member at fault, e.g. ``properties.amount``; None when it is the event as a whole.
        message: what is wrong and what is accepted.
    """

    index: int
    event_id: str | None
    code: str
    field: str | None
    message: str


class Counts(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What became of the events of a request that do not travel on in its chunks."""

    duplicates: int = 0
    conflicts: int = 0
    rejected: int = 0


class Death(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An accepted event that the store refuses, on its way to the dead letters.

    Attributes:
        event: the event, whole.
        reason: why it is refused, in a sentence without SQL and values.
        attempts: how often it was tried to store it.
        died_us: when that was given up.
    """

    event: Event
    reason: str
    attempts: int
    died_us: int


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """Up to 500 events of one project on their way to the store, and the books of their request.

    Attributes:
        chunk_id: 16 random bytes; a store that knows it already skips the chunk, so redelivery changes no book.
        project: the project all its events belong to.
        received_us: when the request was received; its UTC day is the day in the books.
        queued: True when the sender has been answered before the store decided (a queue lies between). Then a
            repeat found by the store is booked as ``duplicate_at_store``, otherwise as ``duplicates``.
        events: the events, without repeats among themselves.
        conflicting: events that lost against another content of the same id inside the request; kept for inspection.
        counts: of the whole request, carried by its first chunk only.
        import_id: 16 bytes naming the import the events came from, or None.
        dead: accepted events that the store refuses, to be kept as dead letters; only `eventcore.storing` fills it.
    """

    chunk_id: bytes
    project: str
    received_us: int
    queued: bool = False
    events: tuple[Event, ...] = ()
    conflicting: tuple[Event, ...] = ()
    counts: Counts = Counts()
    import_id: bytes | None = None
    dead: tuple[Death, ...] = ()


class Receipt(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What is known about a chunk when it is durable. Positions are indexes into ``Chunk.events``.

    Attributes:
        duplicates: events already stored with equal content.
        conflicts: events whose id is already stored with other content.
    """

    duplicates: tuple[int, ...] = ()
    conflicts: tuple[int, ...] = ()


class StoredEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An event as the store holds it.

    Attributes:
        event: the event.
        received_us: when the request that brought it was received.
        import_id: the import it came from, or None.
    """

    event: Event
    received_us: int
    import_id: bytes | None = None


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A dead letter as the store holds it: an accepted event that is not stored, whole, with the reason.

    Attributes:
        event: the event.
        received_us: when the request that brought it was received.
        import_id: the import it came from, or None.
        reason, attempts, died_us: see `Death`; of the last attempt.
    """

    event: Event
    received_us: int
    import_id: bytes | None = None
    reason: str
    attempts: int
    died_us: int


class Replay(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What became of dead letters that were replayed, in numbers; those not found are in none of them.

    Attributes:
        stored: stored now.
        duplicates: stored already with equal content; the letter is gone.
        conflicts: their id is stored already with other content; they are among the conflicts now.
    """

    stored: int = 0
    duplicates: int = 0
    conflicts: int = 0


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a batch: received = accepted + duplicates + conflicts + rejected.

    Attributes:
        accepted: durable, to be stored or kept whole in the dead letters.
        duplicates: already there with equal content.
        conflicts: the id is already there, or earlier in the batch, with other content; the first one stays.
        rejected: not valid, named one by one in ``errors``.
        errors: a problem for each rejected and each conflicting event, in the order of the batch.
    """

    accepted: int
    duplicates: int
    conflicts: int
    rejected: int
    errors: tuple[Problem, ...] = ()


class Book(msgspec.Struct, frozen=True, kw_only=True):
    """The books of one project and one UTC day.

    Two equations hold at any time: received = accepted + duplicates + conflicts + rejected, and
    accepted = stored + duplicate_at_store + conflict_at_store + pending + dead. A store leaves ``pending`` at 0: what
    waits in a queue is known to the queue, and added by whoever shows the books.
    """

    date: str
    received: int = 0
    accepted: int = 0
    duplicates: int = 0
    conflicts: int = 0
    rejected: int = 0
    stored: int = 0
    duplicate_at_store: int = 0
    conflict_at_store: int = 0
    dead: int = 0
    pending: int = 0


class ImportRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One run of an importer over one source.

    Attributes:
        import_id: 16 bytes.
        source: the file's name without its folder, or ``-``.
        started_us: when it began.
        finished_us: when it ended, None while it runs or when it was killed.
        outcome: its totals, None while it runs.
    """

    import_id: bytes
    source: str
    started_us: int
    finished_us: int | None = None
    outcome: Outcome | None = None
