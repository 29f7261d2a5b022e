"""Chunks into a store, whatever they hold: what it refuses becomes a dead letter, and costs its neighbours nothing.

The way of every accepted event, with and without a queue. Only the *kind* of an error decides (``data``): a store that
is away, full or slow buries nothing, however often. Not here: taking messages from a queue (`draining`).
"""

from collections.abc import Callable, Sequence

import msgspec

from eventcore.errors import Kind, StoreError
from eventcore.events import Chunk, Counts, Death, Event, Receipt
from eventcore.ports import EventStore


async def persist(
    store: EventStore, chunks: Sequence[Chunk], *, now_us: int, attempts: int = 1
) -> tuple[Sequence[Receipt], int]:
    """Store chunks; those with events that the store refuses go in one by one, each in one transaction with its dead.

    Args:
        store: where they go.
        chunks: all of them, or, after an error, some of them are stored when this returns.
        now_us: the time, to be written on dead letters.
        attempts: how often this was tried, for the same purpose.

    Returns:
        A receipt for each chunk, with positions in its ``events`` as given; and how many events are dead letters now.

    Raises:
        StoreError: some chunk is not stored, or not known to be; doing the same again is safe.
    """
    try:
        return await store.append(chunks), 0
    except StoreError as error:
        if error.kind is not Kind.DATA:
            raise
        if len(chunks) == 1:
            receipt, dead = await _bury(store, chunks[0], now_us, attempts)
            return (receipt,), dead
    middle = len(chunks) // 2
    first, first_dead = await persist(store, chunks[:middle], now_us=now_us, attempts=attempts)
    second, second_dead = await persist(store, chunks[middle:], now_us=now_us, attempts=attempts)
    return (*first, *second), first_dead + second_dead


async def _bury(store: EventStore, chunk: Chunk, now_us: int, attempts: int) -> tuple[Receipt, int]:
    """Store what the store takes of a chunk, and the rest as dead letters, in one transaction.

    Where no event is refused by itself, the chunk is tried once more as it is: either somebody has mended the store or
    stored the chunk meanwhile, or its error is raised, because nobody knows which event to bury.
    """
    events = await _refused(
        store, chunk.events, lambda some: msgspec.structs.replace(chunk, events=some, conflicting=(), counts=Counts())
    )
    losers = await _refused(
        store,
        chunk.conflicting,
        lambda some: msgspec.structs.replace(chunk, events=(), conflicting=some, counts=Counts()),
    )
    deaths = [
        Death(event=all_events[position], reason=reason, attempts=attempts, died_us=now_us)
        for all_events, refused in ((chunk.events, events), (chunk.conflicting, losers))
        for position, reason in refused.items()
    ]
    kept = [position for position in range(len(chunk.events)) if position not in events]
    # An event that lost inside its request was told to be a conflict; as a dead letter it is booked as one.
    counts = msgspec.structs.replace(chunk.counts, conflicts=chunk.counts.conflicts - len(losers))
    (receipt,) = await store.append(
        [
            msgspec.structs.replace(
                chunk,
                events=tuple(chunk.events[position] for position in kept),
                conflicting=tuple(event for position, event in enumerate(chunk.conflicting) if position not in losers),
                counts=counts,
                dead=tuple(deaths),
            )
        ]
    )
    return Receipt(
        duplicates=tuple(kept[position] for position in receipt.duplicates),
        conflicts=tuple(kept[position] for position in receipt.conflicts),
    ), len(deaths)


async def _refused(
    store: EventStore, events: Sequence[Event], chunk_of: Callable[[tuple[Event, ...]], Chunk]
) -> dict[int, str]:
    """The positions of the events that the store refuses, each with the reason: halves of them until each is alone."""
    refused: dict[int, str] = {}
    waiting = [(0, len(events))]
    while waiting:
        start, end = waiting.pop()
        if start == end:
            continue
        try:
            await store.check(chunk_of(tuple(events[start:end])))
        except StoreError as error:
            if error.kind is not Kind.DATA:
                raise
            if end - start == 1:
                refused[start] = error.message
                continue
            middle = (start + end) // 2
            waiting += [(middle, end), (start, middle)]
    return refused
