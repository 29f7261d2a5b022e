"""Everything in the memory of one process: an event store and a dedup cache, with nothing to install or start.

Implements `eventcore.ports.EventStore` (``memory://``; each open gives a fresh, empty store) and
`eventcore.ports.DedupCache` (``memory://`` or ``memory://?members=N``). Complete and kept to the same contract suite as
every other adapter, so tests of what is built on eventcore can run on it. Its store is not durable: events are gone
when it is closed, and an accepted event is as safe as the process. It keeps no precomputed activity but counts
the events at each question: at 100,000 events 0.2 seconds, or one where a property must be read; not for many more.

Nothing here waits for anything: a method runs from start to end without another task in between, which makes every
append a transaction and every answer a snapshot. Values are frozen and go in and out as they are; what can
be changed (bitmaps, mappings) is made anew for each answer.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from secrets import token_hex
from typing import NamedTuple

from pyroaring import BitMap

from eventcore.activity import BEFORE, ActivityQuery, ActivitySnapshot, Tallying, needs_events
from eventcore.calendar import to_datetime
from eventcore.dedup import same_content
from eventcore.errors import Kind, StoreError
from eventcore.events import Book, Chunk, Event, ImportRecord, Receipt, StoredEvent
from eventcore.ports import DedupCache, EventStore, StoreDescription

SCHEMA = 1
"""Nothing outlives the process, so there is only one version."""

DEFAULT_MEMBERS = 1_000_000
"""About 100 MB when full (measured: members of 32 bytes)."""

_STORE_URL = re.compile(r"memory:(?://)?")
_CACHE_URL = re.compile(r"memory:(?://)?(?:\?members=([0-9]{1,9}))?")
_FEWEST_MEMBERS = 2
_ID_BYTES = 16
_YEAR_10000_US = 253_402_300_800_000_000
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


async def open_store(url: str = "memory://") -> EventStore:
    """Make an empty store.

    Args:
        url: ``memory://``.

    Raises:
        StoreError: the URL says more than that; kind ``invalid``.
    """
    if _STORE_URL.fullmatch(url) is None:
        raise StoreError(Kind.INVALID, "invalid_url", "the memory store has no options; its URL is memory://")
    return MemoryStore()


async def open_dedup(url: str = "memory://") -> DedupCache:
    """Make an empty cache.

    Args:
        url: ``memory://``, or ``memory://?members=N`` to remember at most N members instead of `DEFAULT_MEMBERS`.

    Raises:
        StoreError: the URL says something else; kind ``invalid``.
    """
    found = _CACHE_URL.fullmatch(url)
    members = int(found[1] or DEFAULT_MEMBERS) if found else 0
    if members < _FEWEST_MEMBERS:
        raise StoreError(
            Kind.INVALID, "invalid_url", "the URL of the memory cache is memory:// or memory://?members=N, N at least 2"
        )
    return MemoryCache(members)


# The store


class _Project:
    """What one project has: the ledger and the events in one, its users, conflicts, books and imports."""

    __slots__ = ("books", "conflicts", "events", "imports", "user_keys")

    def __init__(self) -> None:
        self.events: dict[bytes, StoredEvent] = {}
        self.user_keys: dict[str, int] = {}
        self.conflicts: dict[tuple[bytes, bytes], StoredEvent] = {}
        self.books: dict[str, Book] = {}
        self.imports: dict[bytes, ImportRecord | None] = {}  # None: named by a chunk, not written down yet


class _Verdict(NamedTuple):
    """What an append is going to do with one chunk."""

    chunk: Chunk
    receipt: Receipt
    day: str
    winners: tuple[StoredEvent, ...]
    losers: tuple[StoredEvent, ...]


class MemoryStore:
    """An `EventStore` of dictionaries; `open_store` makes it."""

    def __init__(self) -> None:
        self._epoch = token_hex(16)
        self._projects: dict[str, _Project] = {}
        self._chunk_ids: set[bytes] = set()
        self._closed = False

    async def append(self, chunks: Sequence[Chunk]) -> Sequence[Receipt]:
        """See `EventStore.append`. First everything is judged, then everything is written, so it is all or none."""
        self._check_open()
        chunk_ids: set[bytes] = set()
        new: dict[tuple[str, bytes], Event] = {}
        verdicts: list[_Verdict | None] = []
        for chunk in chunks:
            if chunk.queued and (chunk.chunk_id in self._chunk_ids or chunk.chunk_id in chunk_ids):
                verdicts.append(None)  # delivered again: its events and its books are in
                continue
            if chunk.queued:
                chunk_ids.add(chunk.chunk_id)
            verdicts.append(self._judge(chunk, new))
        # From here on nothing can fail.
        self._chunk_ids |= chunk_ids
        for verdict in filter(None, verdicts):
            self._write(verdict)
        return tuple(verdict.receipt if verdict else Receipt() for verdict in verdicts)

    def _judge(self, chunk: Chunk, new: dict[tuple[str, bytes], Event]) -> _Verdict:
        """Compare a chunk with what is stored and with ``new``, the events earlier in this call; adds to ``new``."""
        _check(chunk)
        stored = self._project(chunk.project).events
        winners: list[Event] = []
        duplicates: list[int] = []
        conflicts: list[int] = []
        for index, event in enumerate(chunk.events):
            found = stored.get(event.event_id)
            known = found.event if found else new.get((chunk.project, event.event_id))
            if known is None:
                new[chunk.project, event.event_id] = event
                winners.append(event)
            elif same_content(known, event):
                duplicates.append(index)
            else:
                conflicts.append(index)
        losers = [chunk.events[index] for index in conflicts]
        return _Verdict(
            chunk,
            Receipt(duplicates=tuple(duplicates), conflicts=tuple(conflicts)),
            to_datetime(chunk.received_us).date().isoformat(),
            tuple(_as_stored(event, chunk) for event in winners),
            tuple(_as_stored(event, chunk) for event in (*losers, *chunk.conflicting)),
        )

    def _write(self, verdict: _Verdict) -> None:
        project = self._projects.setdefault(verdict.chunk.project, _Project())
        for stored in verdict.winners:
            project.events[stored.event.event_id] = stored
            project.user_keys.setdefault(stored.event.user_id, len(project.user_keys))
        for stored in verdict.losers:
            project.conflicts.setdefault((stored.event.event_id, stored.event.fingerprint), stored)
        if verdict.chunk.import_id is not None:
            project.imports.setdefault(verdict.chunk.import_id)
        book = project.books.get(verdict.day) or Book(date=verdict.day)
        entered = _entered(book, verdict.chunk, verdict.receipt)
        if entered.received:  # a chunk without events and counts leaves no book
            project.books[verdict.day] = entered

    async def find(self, project: str, event_ids: Sequence[bytes]) -> Mapping[bytes, StoredEvent]:
        """See `EventStore.find`."""
        self._check_open()
        events = self._project(project).events
        return {event_id: events[event_id] for event_id in event_ids if event_id in events}

    async def activity(self, query: ActivityQuery) -> ActivitySnapshot:
        """See `EventStore.activity`."""
        self._check_open()
        project = self._project(query.project)
        tallying = Tallying(query)

        @cache  # events of one type without properties are many and alike
        def matching(event_type: str, properties: str) -> list[int]:
            return [
                index
                for index, selection in enumerate(query.selections)
                if not selection.conditions or selection.matches(event_type, properties)
            ]

        keys: defaultdict[tuple[int, int, str], list[int]] = defaultdict(list)
        for stored in project.events.values():
            event = stored.event
            slot = tallying.slot_at(event.occurred_us)
            if slot is None or (slot == BEFORE and not query.history):
                continue
            for selection in matching(event.event_type, event.properties):
                keys[selection, slot, event.event_type].append(project.user_keys[event.user_id])
        for (selection, slot, event_type), found in keys.items():
            tallying.add(selection, slot, event_type, BitMap(found), len(found))
        return tallying.snapshot("events" if needs_events(query) else "activity")

    async def books(self, project: str, first: str, last: str) -> Sequence[Book]:
        """See `EventStore.books`."""
        self._check_open()
        books = self._project(project).books
        return tuple(books[day] for day in sorted(books) if first <= day <= last)

    async def record_import(self, project: str, record: ImportRecord) -> None:
        """See `EventStore.record_import`."""
        self._check_open()
        self._projects.setdefault(project, _Project()).imports[record.import_id] = record

    async def epoch(self) -> str:
        """See `EventStore.epoch`."""
        self._check_open()
        return self._epoch

    async def describe(self) -> StoreDescription:
        """See `EventStore.describe`."""
        self._check_open()
        return StoreDescription(
            technology="memory",
            schema=SCHEMA,
            epoch=self._epoch,
            durable=False,
            counts={
                name: {
                    "events": len(project.events),
                    "users": len(project.user_keys),
                    "conflicts": len(project.conflicts),
                    "imports": len(project.imports),
                }
                for name, project in self._projects.items()
            },
        )

    async def verify(self, project: str | None = None) -> Sequence[str]:
        """See `EventStore.verify`."""
        self._check_open()
        names = sorted(self._projects) if project is None else [project]
        return tuple(difference for name in names for difference in _differences(name, self._project(name)))

    async def close(self) -> None:
        """Let go of everything; closing again does nothing."""
        self._closed = True
        self._projects = {}
        self._chunk_ids = set()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(Kind.CLOSED, "store_closed", "this memory store is closed and empty; open another one")

    def _project(self, name: str) -> _Project:
        """A project to read: asking for one does not make it."""
        return self._projects.get(name) or _Project()


def _check(chunk: Chunk) -> None:
    """Refuse what decoding never lets through and other stores cannot hold, so that a test here misses nothing."""
    storable = all(_is_storable(event) for event in (*chunk.events, *chunk.conflicting))
    if not storable or not 0 <= chunk.received_us < _YEAR_10000_US:
        raise StoreError(Kind.DATA, "refused_data", "the store cannot hold one of these values")


def _is_storable(event: Event) -> bool:
    names = event.user_id + event.event_type
    return (
        len(event.event_id) == _ID_BYTES
        and 0 <= event.occurred_us < _YEAR_10000_US
        and "\0" not in names
        and not _LONE_SURROGATE.search(names + event.properties)
    )


def _as_stored(event: Event, chunk: Chunk) -> StoredEvent:
    return StoredEvent(event=event, received_us=chunk.received_us, import_id=chunk.import_id)


def _entered(book: Book, chunk: Chunk, receipt: Receipt) -> Book:
    """The book with a chunk entered; where the sender has been answered already, repeats are booked apart."""
    counts = chunk.counts
    duplicates = len(receipt.duplicates)
    conflicts = len(receipt.conflicts)
    stored = len(chunk.events) - duplicates - conflicts
    known_before = not chunk.queued
    return Book(
        date=book.date,
        received=book.received + len(chunk.events) + counts.duplicates + counts.conflicts + counts.rejected,
        accepted=book.accepted + (stored if known_before else len(chunk.events)),
        duplicates=book.duplicates + counts.duplicates + (duplicates if known_before else 0),
        conflicts=book.conflicts + counts.conflicts + (conflicts if known_before else 0),
        rejected=book.rejected + counts.rejected,
        stored=book.stored + stored,
        duplicate_at_store=book.duplicate_at_store + (0 if known_before else duplicates),
        conflict_at_store=book.conflict_at_store + (0 if known_before else conflicts),
    )


def _differences(name: str, project: _Project) -> Iterator[str]:
    for book in project.books.values():
        if book.received != book.accepted + book.duplicates + book.conflicts + book.rejected:
            yield f"project {name}, {book.date}: received is not accepted + duplicates + conflicts + rejected"
        ended = book.stored + book.duplicate_at_store + book.conflict_at_store + book.dead + book.pending
        if book.accepted != ended:
            yield f"project {name}, {book.date}: accepted is not the sum of what became of it"
    booked = sum(book.stored for book in project.books.values())
    if booked != len(project.events):
        yield f"project {name}: the books say {booked} events are stored, there are {len(project.events)}"
    users = {stored.event.user_id for stored in project.events.values()}
    if users != project.user_keys.keys():
        yield f"project {name}: {len(users)} users have events, {len(project.user_keys)} have keys"


# The cache


class MemoryCache:
    """A `DedupCache` of two generations; `open_dedup` makes it.

    A mark goes into the young generation. When that holds half of what is allowed, it becomes the old one, and what was
    the old one is forgotten whole. So the last ``members // 2`` marks are always remembered, and never more than
    ``members``.

    Args:
        members: the most it remembers, at least 2.
    """

    def __init__(self, members: int) -> None:
        self._room = members // 2
        self._young: dict[str, set[bytes]] = {}
        self._old: dict[str, set[bytes]] = {}
        self._young_count = 0

    async def seen(self, namespace: str, members: Sequence[bytes]) -> Sequence[bool]:
        """See `DedupCache.seen`."""
        young = self._young.get(namespace, ())
        old = self._old.get(namespace, ())
        return [member in young or member in old for member in members]

    async def mark(self, namespace: str, members: Sequence[bytes]) -> None:
        """See `DedupCache.mark`."""
        for member in members:
            if member in self._young.get(namespace, ()):
                continue
            if self._young_count == self._room:
                self._old, self._young, self._young_count = self._young, {}, 0
            self._young.setdefault(namespace, set()).add(member)
            self._young_count += 1

    async def close(self) -> None:
        """Forget everything."""
        self._old, self._young, self._young_count = {}, {}, 0
