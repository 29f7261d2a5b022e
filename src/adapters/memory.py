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
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from secrets import token_hex
from typing import NamedTuple

import msgspec
from pyroaring import BitMap

from eventcore.activity import BEFORE, ActivityQuery, ActivitySnapshot, Matching, Tallying, needs_events
from eventcore.booking import entry, replay_entry
from eventcore.breakdown import answer_in_parts
from eventcore.calendar import YEAR_10000_US, to_datetime
from eventcore.conditions import properties_reader
from eventcore.dedup import member, same_content
from eventcore.dimensions import (
    MOST_DIMENSIONS,
    NO_VALUE,
    Dimension,
    State,
    canonical,
    check_name,
    has_room,
    is_full,
    too_many_dimensions,
)
from eventcore.errors import Kind, StoreError
from eventcore.events import Book, Chunk, DeadLetter, Event, ImportRecord, Receipt, Replay, StoredEvent
from eventcore.keys import ApiKey, id_taken
from eventcore.ports import DedupCache, EventStore, Rebuilt, StoreDescription
from eventcore.rebuilding import known_zone

SCHEMA = 1
"""Nothing outlives the process, so there is only one version."""

DEFAULT_MEMBERS = 1_000_000
"""About 100 MB when full (measured: members of 32 bytes)."""

_STORE_URL = re.compile(r"memory:(?://)?")
_CACHE_URL = re.compile(r"memory:(?://)?(?:\?members=([0-9]{1,9}))?")
_FEWEST_MEMBERS = 2
_ID_BYTES = 16
_NO_STEPS: Sequence[Rebuilt] = ()
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
    """What one project has: the ledger and the events in one, its users, conflicts, dead letters, books and imports."""

    __slots__ = ("books", "conflicts", "dead", "dimensions", "dropped", "events", "imports", "user_keys")

    def __init__(self) -> None:
        self.events: dict[bytes, StoredEvent] = {}
        self.user_keys: dict[str, int] = {}
        self.conflicts: dict[tuple[bytes, bytes], StoredEvent] = {}
        self.dead: dict[bytes, DeadLetter] = {}
        self.dropped = 0
        self.books: dict[str, Book] = {}
        self.imports: dict[bytes, ImportRecord | None] = {}  # None: named by a chunk, not written down yet
        self.dimensions: dict[str, _Dimension] = {}

    def keep(self, stored: StoredEvent) -> None:
        """Store an event whose id is free."""
        self.events[stored.event.event_id] = stored
        for dimension in self.dimensions.values():
            dimension.take(stored.event)
        self.user_keys.setdefault(stored.event.user_id, len(self.user_keys))

    def keep_conflict(self, stored: StoredEvent) -> None:
        """Keep what lost against other content, once."""
        self.conflicts.setdefault((stored.event.event_id, stored.event.fingerprint), stored)

    def bury(self, letter: DeadLetter) -> bool:
        """Keep a dead letter; of one that is there already only the last attempt is new. Whether it is there already.

        It keeps its time of receiving, by which it is in the books.
        """
        name = member(letter.event)
        known = self.dead.get(name)
        if known is not None:
            letter = msgspec.structs.replace(letter, received_us=known.received_us, import_id=known.import_id)
        self.dead[name] = letter
        return known is not None

    def enter(self, received_us: int, changes: Mapping[str, int]) -> None:
        """Add to the book of the day of receiving, which is made where there is something to enter."""
        if not any(changes.values()):
            return
        day = to_datetime(received_us).date().isoformat()
        book = self.books.get(day) or Book(date=day)
        self.books[day] = msgspec.structs.replace(
            book, **{column: getattr(book, column) + change for column, change in changes.items()}
        )


class _Dimension:
    """Which values a dimension has. Nothing is kept of its events, which are read at each question anyway.

    Args:
        name: of the property.
    """

    __slots__ = ("_found", "_read", "is_full")

    def __init__(self, name: str) -> None:
        self._read = properties_reader([name])
        self._found: set[tuple[str, str]] = set()
        self.is_full = False

    def take(self, event: Event) -> None:
        """One more event has it, or has it not."""
        if self.is_full:
            return
        [raw] = self._read(event.properties)
        value = canonical(raw)
        if value is not None:
            self._found.add((event.event_type, value))
        if value is None or not has_room(self._values(), len(self._found)):
            self.is_full = True
            self._found.clear()

    def _values(self) -> set[str]:
        return {value for _, value in self._found}

    def told(self, name: str) -> Dimension:
        """As the port tells it."""
        state: State = "full" if self.is_full else "ready"
        return Dimension(name=name, state=state, values=len(self._values() - {NO_VALUE}))


class _Verdict(NamedTuple):
    """What an append is going to do with one chunk."""

    chunk: Chunk
    receipt: Receipt
    winners: tuple[StoredEvent, ...]
    losers: tuple[StoredEvent, ...]


class MemoryStore:
    """An `EventStore` of dictionaries; `open_store` makes it."""

    def __init__(self) -> None:
        self._epoch = token_hex(16)
        self._projects: dict[str, _Project] = {}
        self._chunk_ids: set[bytes] = set()
        self._keys: dict[str, ApiKey] = {}
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

    async def check(self, chunk: Chunk) -> None:
        """See `EventStore.check`. An append that is judged is as good as written, so judging is all there is to it."""
        self._check_open()
        if not (chunk.queued and chunk.chunk_id in self._chunk_ids):
            self._judge(chunk, {})

    def _judge(self, chunk: Chunk, new: dict[tuple[str, bytes], Event]) -> _Verdict:
        """Compare a chunk with what is stored and with ``new``, the events earlier in this call; adds to ``new``."""
        _check((*chunk.events, *chunk.conflicting), chunk.received_us)
        receipt = self._compare(chunk.project, chunk.events, new)
        lost = {*receipt.duplicates, *receipt.conflicts}
        winners = [event for index, event in enumerate(chunk.events) if index not in lost]
        losers = [chunk.events[index] for index in receipt.conflicts]
        return _Verdict(
            chunk,
            receipt,
            tuple(_as_stored(event, chunk) for event in winners),
            tuple(_as_stored(event, chunk) for event in (*losers, *chunk.conflicting)),
        )

    def _compare(self, project: str, events: Sequence[Event], new: dict[tuple[str, bytes], Event]) -> Receipt:
        """Which of these events have lost, against what is stored, against ``new`` and each other; adds to ``new``."""
        stored = self._project(project).events
        duplicates: list[int] = []
        conflicts: list[int] = []
        for index, event in enumerate(events):
            found = stored.get(event.event_id)
            known = found.event if found else new.get((project, event.event_id))
            if known is None:
                new[project, event.event_id] = event
            elif same_content(known, event):
                duplicates.append(index)
            else:
                conflicts.append(index)
        return Receipt(duplicates=tuple(duplicates), conflicts=tuple(conflicts))

    def _write(self, verdict: _Verdict) -> None:
        chunk = verdict.chunk
        project = self._projects.setdefault(chunk.project, _Project())
        for stored in verdict.winners:
            project.keep(stored)
        for stored in verdict.losers:
            project.keep_conflict(stored)
        dead_again = [project.bury(letter) for letter in _letters(chunk)].count(True)
        if chunk.import_id is not None:
            project.imports.setdefault(chunk.import_id)
        project.enter(chunk.received_us, entry(chunk, verdict.receipt, dead_again=dead_again))

    async def dead_letters(
        self, project: str, *, limit: int, after: bytes = b"", event_ids: Sequence[bytes] | None = None
    ) -> Sequence[DeadLetter]:
        """See `EventStore.dead_letters`."""
        self._check_open()
        wanted = None if event_ids is None else set(event_ids)
        letters = self._project(project).dead
        names = sorted(
            name
            for name, letter in letters.items()
            if name > after and (wanted is None or letter.event.event_id in wanted)
        )
        return tuple(letters[name] for name in names[:limit])

    async def replay(self, project: str, names: Sequence[bytes]) -> Replay:
        """See `EventStore.replay`. Of two contents of one id, the one that is named first is stored."""
        self._check_open()
        found = self._project(project)
        letters = [found.dead[name] for name in dict.fromkeys(names) if name in found.dead]
        events = [letter.event for letter in letters]
        _check(events, *(letter.received_us for letter in letters))
        receipt = self._compare(project, events, {})
        # From here on nothing can fail.
        duplicates, conflicts = set(receipt.duplicates), set(receipt.conflicts)
        for index, letter in enumerate(letters):
            stored = StoredEvent(event=letter.event, received_us=letter.received_us, import_id=letter.import_id)
            if index in conflicts:
                found.keep_conflict(stored)
            elif index not in duplicates:
                found.keep(stored)
            del found.dead[member(letter.event)]
            outcome = Receipt(duplicates=(0,) * (index in duplicates), conflicts=(0,) * (index in conflicts))
            found.enter(letter.received_us, replay_entry(1, outcome))
        return Replay(
            stored=len(letters) - len(duplicates) - len(conflicts), duplicates=len(duplicates), conflicts=len(conflicts)
        )

    async def drop(self, project: str, names: Sequence[bytes]) -> int:
        """See `EventStore.drop`."""
        self._check_open()
        found = self._project(project)
        letters = [name for name in dict.fromkeys(names) if name in found.dead]
        for name in letters:
            del found.dead[name]
        if letters:
            found.dropped += len(letters)
            self._epoch = token_hex(16)
        return len(letters)

    async def find(self, project: str, event_ids: Sequence[bytes]) -> Mapping[bytes, StoredEvent]:
        """See `EventStore.find`."""
        self._check_open()
        events = self._project(project).events
        return {event_id: events[event_id] for event_id in event_ids if event_id in events}

    async def activity(self, query: ActivityQuery) -> ActivitySnapshot:
        """See `EventStore.activity`."""
        self._check_open()
        project = self._project(query.project)
        return answer_in_parts(query, lambda asked: _tally(project, asked))

    async def version(self, project: str) -> str:
        """See `EventStore.version`."""
        self._check_open()
        return f"{self._epoch} {len(self._project(project).events)}"

    async def fold(self, most_events: int) -> int:
        """See `EventStore.fold`; events are counted at each question, so there is nothing to fold."""
        self._check_open()
        return 0

    async def rebuild(self, project: str | None = None) -> AsyncGenerator[Rebuilt, None]:
        """See `EventStore.rebuild`; there is nothing to rebuild."""
        self._check_open()
        for step in _NO_STEPS:
            yield step

    async def rebuild_in_zone(self, zone: str) -> AsyncGenerator[Rebuilt, None]:
        """See `EventStore.rebuild_in_zone`; days are counted anew for every question, in its zone."""
        self._check_open()
        known_zone(zone)
        for step in _NO_STEPS:
            yield step

    async def dimensions(self, project: str) -> Sequence[Dimension]:
        """See `EventStore.dimensions`."""
        self._check_open()
        return tuple(found.told(name) for name, found in sorted(self._project(project).dimensions.items()))

    async def add_dimension(self, project: str, name: str) -> AsyncGenerator[Rebuilt, None]:
        """See `EventStore.add_dimension`; it is ready at once."""
        self._check_open()
        check_name(name)
        found = self._projects.setdefault(project, _Project())
        if name not in found.dimensions:
            if len(found.dimensions) >= MOST_DIMENSIONS:
                raise too_many_dimensions()
            dimension = found.dimensions[name] = _Dimension(name)
            for stored in found.events.values():
                dimension.take(stored.event)
        if found.dimensions[name].is_full:
            raise is_full(name)
        for step in _NO_STEPS:
            yield step

    async def remove_dimension(self, project: str, name: str) -> bool:
        """See `EventStore.remove_dimension`."""
        self._check_open()
        return self._project(project).dimensions.pop(name, None) is not None

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

    async def begin_epoch(self) -> str:
        """See `EventStore.begin_epoch`."""
        self._check_open()
        self._epoch = token_hex(16)
        return self._epoch

    async def keys(self) -> Sequence[ApiKey]:
        """See `EventStore.keys`."""
        self._check_open()
        return tuple(sorted(self._keys.values(), key=lambda key: (key.created_us, key.key_id)))

    async def put_key(self, key: ApiKey) -> None:
        """See `EventStore.put_key`."""
        self._check_open()
        known = self._keys.setdefault(key.key_id, key)
        if known.digest != key.digest:
            raise id_taken()
        ends = [one.revoked_us for one in (known, key) if one.revoked_us is not None]
        self._keys[key.key_id] = msgspec.structs.replace(known, revoked_us=min(ends, default=None))

    async def touch_keys(self, used: Mapping[str, int]) -> None:
        """See `EventStore.touch_keys`."""
        self._check_open()
        for key_id in used.keys() & self._keys.keys():
            key = self._keys[key_id]
            latest_us = max(used[key_id], key.last_used_us or 0)
            self._keys[key_id] = msgspec.structs.replace(key, last_used_us=latest_us)

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
                    "dead": len(project.dead),
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
        self._keys = {}

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(Kind.CLOSED, "store_closed", "this memory store is closed and empty; open another one")

    def _project(self, name: str) -> _Project:
        """A project to read: asking for one does not make it."""
        return self._projects.get(name) or _Project()


def _tally(project: _Project, query: ActivityQuery) -> ActivitySnapshot:
    tallying = Tallying(query)
    matching = Matching(query)
    keys: defaultdict[tuple[int, int, str | None], list[int]] = defaultdict(list)
    for stored in project.events.values():
        event = stored.event
        slot = tallying.slot_at(event.occurred_us)
        if slot is None or (slot == BEFORE and not query.history):
            continue
        for selection, part in matching.find(event.event_type, event.properties):
            keys[selection, slot, part].append(project.user_keys[event.user_id])
    for (selection, slot, part), found in keys.items():
        tallying.add(selection, slot, part, BitMap(found), len(found))
    ready = [f"properties.{name}" for name, found in project.dimensions.items() if not found.is_full]
    return tallying.snapshot("events" if needs_events(query, ready) else "activity")


def _check(events: Sequence[Event], *received_us: int) -> None:
    """Refuse what decoding never lets through and other stores cannot hold, so that a test here misses nothing."""
    if not all(map(_is_storable, events)) or not all(0 <= at_us < YEAR_10000_US for at_us in received_us):
        raise StoreError(Kind.DATA, "refused_data", "the store cannot hold one of these values")


def _is_storable(event: Event) -> bool:
    names = event.user_id + event.event_type
    return (
        len(event.event_id) == _ID_BYTES
        and 0 <= event.occurred_us < YEAR_10000_US
        and "\0" not in names
        and not _LONE_SURROGATE.search(names + event.properties)
    )


def _as_stored(event: Event, chunk: Chunk) -> StoredEvent:
    return StoredEvent(event=event, received_us=chunk.received_us, import_id=chunk.import_id)


def _letters(chunk: Chunk) -> Iterator[DeadLetter]:
    for death in chunk.dead:
        yield DeadLetter(
            event=death.event,
            received_us=chunk.received_us,
            import_id=chunk.import_id,
            reason=death.reason,
            attempts=death.attempts,
            died_us=death.died_us,
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
    dead = sum(book.dead for book in project.books.values())
    if dead != len(project.dead) + project.dropped:
        yield (
            f"project {name}: the books say {dead} events are dead, there are {len(project.dead)} dead letters,"
            f" and {project.dropped} were dropped"
        )
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

    @property
    def healthy(self) -> bool:
        """See `DedupCache.healthy`; nothing here can fail."""
        return True

    async def seen(self, namespace: str, members: Sequence[bytes]) -> Sequence[bool]:
        """See `DedupCache.seen`."""
        young = self._young.get(namespace, ())
        old = self._old.get(namespace, ())
        return [member in young or member in old for member in members]

    async def mark(self, namespace: str, members: Sequence[bytes]) -> None:
        """See `DedupCache.mark`."""
        for mark in members:
            if mark in self._young.get(namespace, ()):
                continue
            if self._young_count == self._room:
                self._old, self._young, self._young_count = self._young, {}, 0
            self._young.setdefault(namespace, set()).add(mark)
            self._young_count += 1

    async def close(self) -> None:
        """Forget everything."""
        self._old, self._young, self._young_count = {}, {}, 0
