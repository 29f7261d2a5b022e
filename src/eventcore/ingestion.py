"""From a decoded batch to durable events: the steps that an accepted event goes through, in order.

collapse repeats → leave out what the cache knows → cut into chunks → publish, all of them acknowledged → count. An
event is counted as accepted only behind the acknowledgement, and marked in the cache only after it; every other order
loses events. Not here: reading bytes (`decoding`), HTTP, time and randomness, which are arguments.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from eventcore.chunks import cut
from eventcore.decoding import Decoded
from eventcore.dedup import collapse, member, namespace, same_content
from eventcore.errors import StoreError
from eventcore.events import Chunk, Counts, Event, Outcome, Problem, StoredEvent
from eventcore.ports import DedupCache, EventStore, Queue

_COMPARED_AT_ONCE = 64
"""Stored events that are looked at together; each may have 256 KiB, whatever is compared with it."""
_EPOCH_SECONDS = 0.1
"""How long a batch that a queue can take waits for a store that may be away; it is lost time for every sender."""
_CONFLICT_IN_BATCH = "an earlier event of this batch has the same event_id and other content; the earlier one is kept"
_DUPLICATE_IN_BATCH = "an earlier event of this batch is the same; with strict, a batch names each event once"
_CONFLICT = "an event with this event_id and other content is stored already; the stored one stays"


async def accept(
    decoded: Decoded,
    *,
    project: str,
    store: EventStore,
    cache: DedupCache,
    queue: Queue,
    now_us: int,
    new_id: Callable[[], bytes],
    strict: bool = False,
    import_id: bytes | None = None,
) -> Outcome:
    """Take a batch in.

    Args:
        decoded: the batch.
        project: whose events these are.
        store: asked only for its epoch; where the queue answers first it may be away, and then nothing is taken for
            seen and nothing is marked.
        cache: knows some of what is stored already.
        queue: makes the rest durable.
        now_us: when the batch was received.
        new_id: gives 16 random bytes.
        strict: keep nothing unless every event is valid and appears once in the batch.
        import_id: the import that the events come from.

    Returns:
        The outcome; every event counted as accepted is durable.

    Raises:
        StoreError: durability is unknown or refused for a part of the batch; sending all of it again is safe.
    """
    firsts, repeats, losers = collapse(decoded.events)

    async def publish(
        positions: Sequence[int], conflicting: Sequence[int], counts: Counts
    ) -> tuple[list[int], list[int]]:
        """Make these events durable; gives the positions of those that turned out as duplicates and as conflicts."""
        runs = list(cut([decoded.events[position] for position in positions])) or [()]
        lost = tuple(decoded.events[position] for position in conflicting)
        chunks = [_chunk(runs[0], lost, counts, project, now_us, new_id, queue, import_id)]
        chunks += [_chunk(run, (), Counts(), project, now_us, new_id, queue, import_id) for run in runs[1:]]
        receipts = await queue.publish(chunks)
        duplicates: list[int] = []
        conflicts: list[int] = []
        start = 0
        for chunk, receipt in zip(chunks, receipts, strict=True):
            duplicates += [positions[start + index] for index in receipt.duplicates]
            conflicts += [positions[start + index] for index in receipt.conflicts]
            start += len(chunk.events)
        return duplicates, conflicts

    if strict and (decoded.problems or repeats or losers):
        counts = Counts(rejected=decoded.received)
        await queue.publish([_chunk((), (), counts, project, now_us, new_id, queue, import_id)])
        return _refused(decoded, repeats, losers)

    members = [member(decoded.events[position]) for position in firsts]
    epoch = await _epoch(store, queue)
    # Without an epoch nobody knows what the cache's marks are worth.
    seen = [False] * len(firsts) if epoch is None else await cache.seen(namespace(epoch, project), members)
    known = [position for position, was_seen in zip(firsts, seen, strict=True) if was_seen]
    unseen = [position for position, was_seen in zip(firsts, seen, strict=True) if not was_seen]
    counts = Counts(duplicates=len(repeats) + len(known), conflicts=len(losers), rejected=len(decoded.problems))
    duplicates, conflicts = await publish(unseen, losers, counts)
    if known and (newer := await _epoch(store, queue)) not in (epoch, None):
        # The store became another one while its old epoch was believed: what the cache knew is worth nothing. The
        # books have these events as duplicates by now, which is taken back.
        epoch = newer
        more_duplicates, more_conflicts = await publish(known, (), Counts(duplicates=-len(known)))
        duplicates += more_duplicates
        conflicts += more_conflicts
        unseen += known
        known = []
    if epoch is not None:
        lost = set(conflicts)
        await cache.mark(
            namespace(epoch, project), [member(decoded.events[position]) for position in unseen if position not in lost]
        )

    return _outcome(
        decoded,
        duplicates=len(repeats) + len(known) + len(duplicates),
        conflicts_in_batch=losers,
        conflicts_at_store=conflicts,
    )


async def _epoch(store: EventStore, queue: Queue) -> str | None:
    """The store's epoch; None when the store does not tell it in time and is not needed, as a queue lies between."""
    if not queue.answers_first:
        return await store.epoch()
    try:
        return await asyncio.wait_for(store.epoch(), _EPOCH_SECONDS)
    except (StoreError, TimeoutError):
        return None


async def preview(decoded: Decoded, *, project: str, store: EventStore) -> Outcome:
    """What `accept` would answer at this moment; nothing is stored."""
    firsts, repeats, losers = collapse(decoded.events)
    duplicates: list[int] = []
    conflicts: list[int] = []
    for start in range(0, len(firsts), _COMPARED_AT_ONCE):
        part = firsts[start : start + _COMPARED_AT_ONCE]
        stored = await store.find(project, [decoded.events[position].event_id for position in part])
        found = _compare(decoded.events, part, stored)
        duplicates += found[0]
        conflicts += found[1]
    return _outcome(
        decoded,
        duplicates=len(repeats) + len(duplicates),
        conflicts_in_batch=losers,
        conflicts_at_store=conflicts,
    )


def refusal(decoded: Decoded) -> Outcome | None:
    """What a strict `accept` would answer if it would keep nothing of this batch; None if it would go on."""
    _, repeats, losers = collapse(decoded.events)
    return _refused(decoded, repeats, losers) if decoded.problems or repeats or losers else None


def _compare(
    events: Sequence[Event], positions: Sequence[int], stored: Mapping[bytes, StoredEvent]
) -> tuple[list[int], list[int]]:
    duplicates: list[int] = []
    conflicts: list[int] = []
    for position in positions:
        known = stored.get(events[position].event_id)
        if known is not None:
            (duplicates if same_content(known.event, events[position]) else conflicts).append(position)
    return duplicates, conflicts


def _chunk(
    events: tuple[Event, ...],
    conflicting: tuple[Event, ...],
    counts: Counts,
    project: str,
    now_us: int,
    new_id: Callable[[], bytes],
    queue: Queue,
    import_id: bytes | None,
) -> Chunk:
    return Chunk(
        chunk_id=new_id(),
        project=project,
        received_us=now_us,
        queued=queue.answers_first,
        events=events,
        conflicting=conflicting,
        counts=counts,
        import_id=import_id,
    )


def _outcome(
    decoded: Decoded, *, duplicates: int, conflicts_in_batch: Sequence[int], conflicts_at_store: Sequence[int]
) -> Outcome:
    errors = list(decoded.problems)
    errors += [_problem(decoded, position, "conflict_in_batch", _CONFLICT_IN_BATCH) for position in conflicts_in_batch]
    errors += [_problem(decoded, position, "conflict", _CONFLICT) for position in conflicts_at_store]
    errors.sort(key=lambda problem: problem.index)
    conflicts = len(conflicts_in_batch) + len(conflicts_at_store)
    return Outcome(
        accepted=len(decoded.events) - duplicates - conflicts,
        duplicates=duplicates,
        conflicts=conflicts,
        rejected=len(decoded.problems),
        errors=tuple(errors),
    )


def _refused(decoded: Decoded, repeats: Sequence[int], losers: Sequence[int]) -> Outcome:
    errors = list(decoded.problems)
    errors += [_problem(decoded, position, "duplicate_in_batch", _DUPLICATE_IN_BATCH) for position in repeats]
    errors += [_problem(decoded, position, "conflict_in_batch", _CONFLICT_IN_BATCH) for position in losers]
    errors.sort(key=lambda problem: problem.index)
    return Outcome(accepted=0, duplicates=0, conflicts=0, rejected=decoded.received, errors=tuple(errors))


def _problem(decoded: Decoded, position: int, code: str, message: str) -> Problem:
    return Problem(
        index=decoded.positions[position],
        event_id=event_id_text(decoded.events[position].event_id),
        code=code,
        field="event_id",
        message=message,
    )


def event_id_text(event_id: bytes) -> str:
    """The canonical form of an id: lower case, with dashes (RFC 9562, section 4)."""
    text = event_id.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
