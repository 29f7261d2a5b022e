"""Chunks whose events are spread over too many dates for one transaction, cut into pieces that are not.

A transaction on a hypertable holds locks on each chunk of it that it touches until it ends, and the server's table of
locks is small: a batch over fifty years would fail for ever. So such a chunk is stored in several transactions. Every
piece is a `Chunk` of its own, with its part of the books and an id made from the whole one's id and its own events:
however often and wherever it is delivered again, the cuts are the same, and what is stored already is known; where they
are not, because an event has died or a bound was changed, nothing is taken for known that is not stored. The last piece
has the id of the whole, and its dead, because earlier pieces may be stored before it is found out who has to die. Not
here: tables that are not partitioned, which have no such bound.
"""

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import NamedTuple

import msgspec

from adapters.postgres.rows import ID_BYTES, MOST_PARTITIONS
from eventcore.dedup import member
from eventcore.events import Chunk, Counts, Event


class Piece(NamedTuple):
    """A part of a chunk, or all of it.

    Attributes:
        chunk: what to store.
        origin: the position of the chunk that it came from.
        start: the position of its first event in that one.
    """

    chunk: Chunk
    origin: int
    start: int


def partitions_of(chunk: Chunk, partition_us: int) -> set[int]:
    """The chunks of the hypertable, by number, that the events belong to."""
    return {event.occurred_us // partition_us for event in chunk.events}


def spread(chunks: Sequence[Chunk], partition_us: int) -> Iterator[list[Piece]]:
    """All the chunks, in order, as the pieces of one transaction after the other."""
    transaction: list[Piece] = []
    touched: set[int] = set()
    for origin, chunk in enumerate(chunks):
        for piece in _cut(chunk, origin, partition_us):
            own = partitions_of(piece.chunk, partition_us)
            if transaction and len(touched | own) > MOST_PARTITIONS:
                yield transaction
                transaction, touched = [], set()
            transaction.append(piece)
            touched |= own
    if transaction:
        yield transaction


def _cut(chunk: Chunk, origin: int, partition_us: int) -> Iterator[Piece]:
    """The order stays, because the first of two equal ids wins; and nothing but the chunk itself decides."""
    starts = [0]
    seen: set[int] = set()
    for position, event in enumerate(chunk.events):
        partition = event.occurred_us // partition_us
        if partition not in seen and len(seen) == MOST_PARTITIONS:
            starts.append(position)
            seen = set()
        seen.add(partition)
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(chunk.events)], strict=True)):
        part = chunk
        if len(starts) > 1:
            events = chunk.events[start:end]
            part = msgspec.structs.replace(
                chunk,
                chunk_id=chunk.chunk_id if end == len(chunk.events) else _piece_id(chunk.chunk_id, events),
                events=events,
                conflicting=() if number else chunk.conflicting,
                counts=Counts() if number else chunk.counts,
                dead=chunk.dead if end == len(chunk.events) else (),
            )
        yield Piece(part, origin, start)


def _piece_id(chunk_id: bytes, events: Sequence[Event]) -> bytes:
    names = b"".join(map(member, events))
    return blake2b(chunk_id + names, digest_size=ID_BYTES).digest()
