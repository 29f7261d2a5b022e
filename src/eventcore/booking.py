"""What a chunk changes in the ingestion books, the same in every store; see `eventcore.events.Book` for the equations.

Not here: keeping the books, which each store does in the transaction of the events.
"""

from eventcore.events import Chunk, Receipt

COLUMNS = (
    "received",
    "accepted",
    "duplicates",
    "conflicts",
    "rejected",
    "stored",
    "duplicate_at_store",
    "conflict_at_store",
    "dead",
)
"""The numbers of a book that a store keeps; all but ``pending``, which the queue knows."""


def entry(chunk: Chunk, receipt: Receipt, *, dead_again: int = 0) -> dict[str, int]:
    """What appending a chunk adds to each of `COLUMNS`.

    Where the sender has been answered before, what the store finds is booked apart.

    Args:
        chunk: the chunk, not one that was delivered again.
        receipt: what the store found of its events.
        dead_again: how many of ``chunk.dead`` were among the dead letters already.
    """
    duplicates = len(receipt.duplicates)
    conflicts = len(receipt.conflicts)
    stored = len(chunk.events) - duplicates - conflicts
    answered = chunk.queued
    counts = chunk.counts
    return {
        "received": len(chunk.events) + len(chunk.dead) + counts.duplicates + counts.conflicts + counts.rejected,
        "accepted": (len(chunk.events) if answered else stored) + len(chunk.dead),
        "duplicates": counts.duplicates + (0 if answered else duplicates),
        "conflicts": counts.conflicts + (0 if answered else conflicts),
        "rejected": counts.rejected,
        "stored": stored,
        "duplicate_at_store": (duplicates if answered else 0) + dead_again,
        "conflict_at_store": conflicts if answered else 0,
        "dead": len(chunk.dead) - dead_again,
    }


def replay_entry(letters: int, receipt: Receipt) -> dict[str, int]:
    """What replaying so many dead letters of a day adds to the `COLUMNS` of that day.

    Args:
        letters: how many left the dead letters.
        receipt: what the store found of their events.
    """
    duplicates = len(receipt.duplicates)
    conflicts = len(receipt.conflicts)
    return dict.fromkeys(COLUMNS, 0) | {
        "stored": letters - duplicates - conflicts,
        "duplicate_at_store": duplicates,
        "conflict_at_store": conflicts,
        "dead": -letters,
    }
