"""From a queue to the store: what a worker does with the messages it has fetched.

decode → merge → persist (`storing`) → acknowledge. A message is acknowledged only behind the COMMIT that holds its
events; whatever happens in between means one more delivery, which changes nothing, because the store knows the chunk.
Nothing is ever buried for being tried often: only an event that the store refuses for its values is. Not here:
fetching, pausing, and how many do this at once, which are the worker's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from eventcore.chunks import decode_chunk
from eventcore.errors import EventcoreError, StoreError
from eventcore.events import Chunk
from eventcore.ports import Delivery, EventStore
from eventcore.storing import persist

GROUP_EVENTS = 5_000
"""Events that share a transaction: one wait for the disk; more would only hold memory and locks for longer."""
ALONE_FROM_ATTEMPT = 4
"""A message that failed so often goes without others: whatever it is, its neighbours must not wait for it."""
STUCK_SECONDS = 60.0
"""What this process cannot read, or the store refuses without an event to blame, waits for a process that can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Messages that were not stored now, and come again.

    Attributes:
        names: the messages.
        error: why.
        attempt: how often the most tried of them was delivered.
    """

    names: tuple[str, ...]
    error: EventcoreError
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """What became of the messages of one fetch.

    Attributes:
        messages: acknowledged ones.
        events: events that these brought.
        duplicates: of these, events that were stored already.
        conflicts: of these, events whose id was stored already with other content.
        dead: of these, events that the store refuses, dead letters now.
        troubles: what comes again.
    """

    messages: int = 0
    events: int = 0
    duplicates: int = 0
    conflicts: int = 0
    dead: int = 0
    troubles: tuple[Trouble, ...] = ()

    @property
    def stored(self) -> int:
        """Events that are new in the store."""
        # The dead may include events that lost inside their request, which are none of the messages' events.
        return max(0, self.events - self.duplicates - self.conflicts - self.dead)

    @property
    def is_store_away(self) -> bool:
        """Whether nothing got through, for reasons that have nothing to do with what the messages hold."""
        return not self.messages and any(trouble.error.retryable for trouble in self.troubles)


async def drain(
    store: EventStore, deliveries: Sequence[Delivery], *, now_us: int, retry_seconds: Callable[[int], float]
) -> Drained:
    """Store the events of messages and acknowledge them, or have them delivered again.

    Args:
        store: where the events go.
        deliveries: the messages of one fetch.
        now_us: the time, to be written on dead letters.
        retry_seconds: when to deliver again what could not be stored at the attempt of this number.
    """
    troubles: list[Trouble] = []
    readable: list[tuple[Delivery, Chunk]] = []
    for delivery in deliveries:
        try:
            readable.append((delivery, decode_chunk(delivery.body)))
        except EventcoreError as error:
            # Perhaps written by a newer version, perhaps damaged: never a reason to drop it.
            await delivery.retry(STUCK_SECONDS)
            troubles.append(Trouble(names=(delivery.name,), error=error, attempt=delivery.attempt))
    messages = events = duplicates = conflicts = dead = 0
    for group in _groups(readable):
        try:
            receipts, died = await persist(
                store,
                [chunk for _, chunk in group],
                now_us=now_us,
                attempts=max(delivery.attempt for delivery, _ in group),
            )
        except StoreError as error:
            for delivery, _ in group:
                await delivery.retry(retry_seconds(delivery.attempt) if error.retryable else STUCK_SECONDS)
            troubles.append(
                Trouble(
                    names=tuple(delivery.name for delivery, _ in group),
                    error=error,
                    attempt=max(delivery.attempt for delivery, _ in group),
                )
            )
            continue
        for delivery, _ in group:
            await delivery.ack()
        messages += len(group)
        events += sum(len(chunk.events) for _, chunk in group)
        duplicates += sum(len(receipt.duplicates) for receipt in receipts)
        conflicts += sum(len(receipt.conflicts) for receipt in receipts)
        dead += died
    return Drained(
        messages=messages,
        events=events,
        duplicates=duplicates,
        conflicts=conflicts,
        dead=dead,
        troubles=tuple(troubles),
    )


def _groups(readable: Sequence[tuple[Delivery, Chunk]]) -> list[list[tuple[Delivery, Chunk]]]:
    """Messages that are stored together, the untried ones first."""
    groups: list[list[tuple[Delivery, Chunk]]] = []
    alone = []
    size = 0
    for delivery, chunk in readable:
        if delivery.attempt >= ALONE_FROM_ATTEMPT:
            alone.append([(delivery, chunk)])
            continue
        if not groups or size + len(chunk.events) > GROUP_EVENTS:
            groups.append([])
            size = 0
        groups[-1].append((delivery, chunk))
        size += len(chunk.events)
    return groups + alone
