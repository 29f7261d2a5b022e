"""What people do with dead letters: look at them a page at a time, store them after all, or drop them.

However many there are, a bounded number is held at once, and each transaction has few. Which letters are meant is said
by the ids of their events, or by the word ``all``. Not here: how an event becomes a dead letter (`storing`), and how
one is shown to people and programs, which the entrypoints do.
"""

import re
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Literal
from uuid import UUID

import msgspec

from eventcore.answers import parse_count
from eventcore.decoding import is_event_id
from eventcore.dedup import member
from eventcore.errors import EventcoreError, InvalidQuestion, Kind, StoreError
from eventcore.events import DeadLetter, Replay
from eventcore.ports import EventStore

AT_ONCE = 100
"""Letters of one transaction. They may lie as many dates apart, and a store whose tables are cut by time holds locks
for each of those (DESIGN.md, trap 7); with 256 KiB each they are 25 MiB."""
MOST_LIMIT = 1_000
"""Letters of one page; more than a person reads."""
PAGE_CHARS = 8 * 1024 * 1024
"""Properties of one page: a page of the largest events ends earlier than its limit says."""
MOST_EVENT_IDS = 1_000
"""Ids that one call may name; whoever has more calls again, or means all."""

_NAME = re.compile(r"(?:[0-9a-f]{2})*")
_NO_UUID = re.compile(r"(?!.{32}\Z)(?:[0-9a-f]{2})+")

Chosen = Iterable[str | UUID] | Literal["all"]
"""Which dead letters of a project are meant: those of these events, or all."""


class DeadPage(msgspec.Struct, frozen=True, kw_only=True):
    """Some dead letters, in the order of their names.

    Attributes:
        letters: these.
        next: give it as ``after`` to go on; None when there are no more.
    """

    letters: tuple[DeadLetter, ...]
    next: str | None


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """What became of dead letters that were replayed, in numbers.

    Attributes:
        stored: stored now.
        duplicates: stored already with equal content; the letter is gone.
        conflicts: their id is stored already with other content; they are among the conflicts now.
        refused: the store refuses them still; they stay dead letters.
        missing: ids without a dead letter, and letters that somebody else replayed or dropped meanwhile.
    """

    stored: int
    duplicates: int
    conflicts: int
    refused: int
    missing: int


class Dropped(msgspec.Struct, frozen=True, kw_only=True):
    """What became of dead letters that were dropped, in numbers.

    Attributes:
        dropped: gone for ever.
        missing: ids without a dead letter, and letters that somebody else replayed or dropped meanwhile.
    """

    dropped: int
    missing: int


async def read_page(
    store: EventStore, project: str, *, limit: int, after: bytes = b"", event_ids: Sequence[bytes] | None = None
) -> DeadPage:
    """At most ``limit`` dead letters behind the one named ``after``, and at most about `PAGE_CHARS` of properties."""
    letters: list[DeadLetter] = []
    chars = 0
    while True:
        most = min(AT_ONCE, limit + 1 - len(letters))
        found = await store.dead_letters(project, limit=most, after=after, event_ids=event_ids)
        for letter in found:
            chars += len(letter.event.properties)
            if letters and (len(letters) == limit or chars > PAGE_CHARS):
                return DeadPage(letters=tuple(letters), next=member(letters[-1].event).hex())
            letters.append(letter)
        if len(found) < most:
            return DeadPage(letters=tuple(letters), next=None)
        after = member(found[-1].event)


async def replay(store: EventStore, project: str, event_ids: Sequence[bytes] | None) -> Replayed:
    """Store dead letters after all; one that is still refused stays, and costs its neighbours nothing.

    Args:
        store: where they are.
        project: whose.
        event_ids: those of events with one of these ids; None for all.

    Raises:
        StoreError: the store failed in the middle; doing the same again is safe, and goes on.
    """
    total = Replay()
    refused = seen = 0
    found: set[bytes] = set()
    async for letters in _batches(store, project, event_ids):
        done, kept = await _replay_batch(store, project, [member(letter.event) for letter in letters])
        total = _add(total, done)
        refused += kept
        seen += len(letters)
        if event_ids is not None:
            found.update(letter.event.event_id for letter in letters)
    gone = seen - refused - total.stored - total.duplicates - total.conflicts
    return Replayed(
        stored=total.stored,
        duplicates=total.duplicates,
        conflicts=total.conflicts,
        refused=refused,
        missing=gone + len(set(event_ids or ()) - found),
    )


async def drop(store: EventStore, project: str, event_ids: Sequence[bytes] | None) -> Dropped:
    """Delete dead letters for ever; arguments and errors as those of `replay`.

    The store begins a new epoch, so that no cache takes the events for seen when they are sent again.
    """
    dropped = seen = 0
    found: set[bytes] = set()
    async for letters in _batches(store, project, event_ids):
        dropped += await store.drop(project, [member(letter.event) for letter in letters])
        seen += len(letters)
        if event_ids is not None:
            found.update(letter.event.event_id for letter in letters)
    return Dropped(dropped=dropped, missing=seen - dropped + len(set(event_ids or ()) - found))


async def _batches(
    store: EventStore, project: str, event_ids: Sequence[bytes] | None
) -> AsyncIterator[Sequence[DeadLetter]]:
    after = b""
    while letters := await store.dead_letters(project, limit=AT_ONCE, after=after, event_ids=event_ids):
        yield letters
        after = member(letters[-1].event)


async def _replay_batch(store: EventStore, project: str, names: Sequence[bytes]) -> tuple[Replay, int]:
    """What became of them, and how many are still refused: halves of them until each of these is alone."""
    total = Replay()
    refused = 0
    waiting = [names]
    while waiting:
        batch = waiting.pop()
        try:
            total = _add(total, await store.replay(project, batch))
        except StoreError as error:
            if error.kind is not Kind.DATA:
                raise
            if len(batch) == 1:
                refused += 1
                continue
            middle = len(batch) // 2
            waiting += [batch[middle:], batch[:middle]]
    return total, refused


def _add(one: Replay, other: Replay) -> Replay:
    return Replay(
        stored=one.stored + other.stored,
        duplicates=one.duplicates + other.duplicates,
        conflicts=one.conflicts + other.conflicts,
    )


def parse_limit(limit: int | str) -> int:
    """Read how many letters a page has at most; raises `InvalidQuestion` unless it is 1 to `MOST_LIMIT`."""
    return parse_count("limit", limit, most=MOST_LIMIT)


def parse_after(after: str) -> bytes:
    """Read a letter's name, as `DeadPage.next` has it; empty is before the first. Raises `InvalidQuestion`."""
    if _NAME.fullmatch(after) is None:
        raise InvalidQuestion("after", "invalid_name", "after is what the page before gave as next, or nothing at all")
    return bytes.fromhex(after)


def parse_chosen(chosen: Chosen) -> Sequence[bytes] | None:
    """Read which letters are meant: the ids of their events, each once, or None for all.

    Raises:
        EventcoreError: there are none or more than `MOST_EVENT_IDS`, or one is no id that a letter could have.
    """
    if chosen == "all":
        return None
    texts = [chosen] if isinstance(chosen, str) else list(chosen)
    if not texts:
        raise EventcoreError(Kind.INVALID, "no_event_ids", "name the events, or say all", field="event_ids")
    if len(texts) > MOST_EVENT_IDS:
        message = f"name at most {MOST_EVENT_IDS} events at once; name the others in further calls"
        raise EventcoreError(Kind.TOO_LARGE, "too_many_event_ids", message, field="event_ids")
    return list(dict.fromkeys(parse_dead_id(text, field="event_ids") for text in texts))


def parse_dead_id(event_id: str | UUID, *, field: str = "event_id") -> bytes:
    """The bytes of the id of an event that may be dead: a UUID, or what `dead_id_text` makes of an id that is none.

    Raises:
        EventcoreError: it is neither; kind ``invalid``.
    """
    text = str(event_id)
    if not is_event_id(text) and _NO_UUID.fullmatch(text) is None:
        message = "an event id is a UUID of 36 characters with dashes, or what the list of dead letters shows instead"
        raise EventcoreError(Kind.INVALID, "invalid_event_id", message, field=field)
    return bytes.fromhex(text.replace("-", ""))


def dead_id_text(event_id: bytes) -> str:
    """The canonical form of a UUID; an id of another length, which no other event can have, in hexadecimal digits."""
    return str(UUID(bytes=event_id)) if len(event_id) == 16 else event_id.hex()
