"""What one transaction of the writer does: chunks become rows, and the answer says what was there before.

The order makes it cheap: first every id claims its place in the ledger, in one statement; only those that lost are
looked at one by one; only those that won get users, types, rows and activity. Not here: threads, grouping and what
happens when it fails (`writer`).
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate, chain, compress, repeat
from secrets import token_hex
from typing import Any, NamedTuple, cast

import msgspec

from adapters.sqlite import access, letters
from adapters.sqlite.database import Database
from adapters.sqlite.dimensions import Combining
from adapters.sqlite.folding import fold
from adapters.sqlite.keys import KnownKeys
from adapters.sqlite.reader import project_key
from adapters.sqlite.rows import ID_BYTES, fingerprints, pack, stored_events
from eventcore.booking import entry, replay_entry
from eventcore.calendar import QUARTER_US, YEAR_10000_US, to_datetime
from eventcore.dedup import member, same_content
from eventcore.errors import Kind, StoreError
from eventcore.events import Chunk, Counts, Event, ImportRecord, Receipt, Replay
from eventcore.keys import ApiKey

_KNOWN_USERS = 200_000
"""About 200 bytes each, so 40 MB."""
_KNOWN_TYPES = 20_000
_KNOWN_PROJECTS = 10_000
_COMPARED_AT_ONCE = 64  # stored events of up to 256 KiB each
_ID_RULE = "an event id has 16 bytes"
_INSTANT_RULE = "an event occurs from 1970 to the year 9999"
_NAME_RULE = "a name holds no NUL character"
_ANYWHERE = 0
"""In place of a project's key, for the names of the projects themselves."""

_decode_integers = msgspec.json.Decoder(list[int]).decode
_decode_pairs = msgspec.json.Decoder(list[tuple[int, int]]).decode


class _Part(NamedTuple):
    """The chunks of one project, and what the ledger said of their events.

    Attributes:
        project_key: whose they are.
        chunks: the chunks.
        events: all their events, in order.
        starts: for each chunk, the position of its first event in ``events``; the number of events comes last.
        duplicates: positions in ``events``, ascending.
        conflicts: positions in ``events``, ascending.
    """

    project_key: int
    chunks: Sequence[Chunk]
    events: Sequence[Event]
    starts: Sequence[int]
    duplicates: Sequence[int]
    conflicts: Sequence[int]

    def receipts(self) -> list[Receipt]:
        """A receipt for each chunk."""
        if not self.duplicates and not self.conflicts:
            return [_NOTHING_LOST] * len(self.chunks)
        return [
            Receipt(duplicates=_within(self.duplicates, start, end), conflicts=_within(self.conflicts, start, end))
            for start, end in zip(self.starts, self.starts[1:], strict=False)
        ]


_NOTHING_LOST = Receipt()


def _within(positions: Sequence[int], start: int, end: int) -> tuple[int, ...]:
    return tuple(
        position - start for position in positions[bisect_left(positions, start) : bisect_left(positions, end)]
    )


class Appending:
    """Writes chunks in the transaction that its caller holds; remembers keys only when told that they are durable.

    Attributes:
        last_delta: where the history of the store ended when the last transaction was committed.
        epoch: of the store, as this transaction leaves it.
        combining: what this transaction knows of dimensions.

    Args:
        database: the writer's connection.
        last_delta: where the history of the store ended when it was last written to from here; key and mark.
    """

    def __init__(self, database: Database, last_delta: tuple[int, int] | None) -> None:
        self._database = database
        self._projects: KnownKeys[str] = KnownKeys(_KNOWN_PROJECTS)
        self._types: KnownKeys[str] = KnownKeys(_KNOWN_TYPES)
        self._users: KnownKeys[str] = KnownKeys(_KNOWN_USERS)
        self._learned: list[tuple[KnownKeys[Any], int, Mapping[Any, int]]] = []
        self.combining = Combining(database)
        self.last_delta = last_delta
        self._new_last_delta: tuple[int, int] | None = None
        self._next_event_key = 1
        self.epoch = ""

    def head(self) -> int:
        """Read what the transaction must know first; comes right after its begin.

        A store that went back to a backup has lost the delta that was last seen, or has another one in its place. It
        gets a new epoch, because the old one promises what is not there any more.

        Returns:
            The file's schema version.
        """
        known_key, known_mark = self.last_delta or (0, None)
        schema, epoch, self._next_event_key, mark, self.combining.mark = self._database.first(
            "head", known_delta=known_key
        )
        self._learned = []
        if mark != known_mark:
            epoch = self._begin_epoch()
        if epoch != self.epoch:  # another store, as far as keys are concerned
            for known in (self._projects, self._types, self._users):
                known.forget()
            self.combining.known.forget()
            self.epoch = epoch
        return int(schema)

    def begin_epoch(self) -> str:
        """See `EventStore.begin_epoch`. Keys stay what they are, so those that are known stay known."""
        self.epoch = self._begin_epoch()
        return self.epoch

    def _begin_epoch(self) -> str:
        epoch = token_hex(16)
        self._database.run("set_epoch", epoch=epoch)
        return epoch

    def end(self) -> None:
        """Remember where the history of the store ends; comes right before its commit."""
        self._new_last_delta = self._database.first("last_delta")

    def committed(self) -> None:
        """What was written since `head` is durable: its keys may be remembered, if it is seen when they are gone."""
        self.last_delta = self._new_last_delta
        if self.last_delta:
            for known, project_key, keys in self._learned:
                known.remember(project_key, keys)
        self._learned = []

    @property
    def database(self) -> Database:
        """The connection, for what is no business of events; nothing of it is remembered here."""
        return self._database

    @property
    def in_transaction(self) -> bool:
        """Whether the transaction is still open; some errors end it."""
        return self._database.in_transaction

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Undo what the body does, whether it raises or not."""
        learned = len(self._learned)
        try:
            with self._database.undone():
                yield
        finally:
            del self._learned[learned:]
            self.combining.forget_list()

    def append(self, chunks: Sequence[Chunk]) -> list[Receipt]:
        """Write chunks, in the order in which they came.

        Returns:
            A receipt for each.
        """
        receipts = [_NOTHING_LOST] * len(chunks)
        known = self._known_chunks(chunks)
        by_project: defaultdict[str, list[int]] = defaultdict(list)
        for position, chunk in enumerate(chunks):
            if position not in known and _has_anything(chunk):
                by_project[chunk.project].append(position)
        for project, positions in by_project.items():
            part = self._store(self.project_key(project), [chunks[one] for one in positions])
            found = part.receipts()
            self._enter_books(
                part,
                [
                    entry(chunk, receipt, dead_again=again)
                    for chunk, receipt, again in zip(part.chunks, found, self._keep_dead(part), strict=True)
                ],
            )
            for position, receipt in zip(positions, found, strict=True):
                receipts[position] = receipt
        return receipts

    def replay(self, project: str, names: Sequence[bytes]) -> Replay:
        """See `EventStore.replay`. Letters of one id are stored in the order of their names in ``names``."""
        key = project_key(self._database, project)
        taken = [] if key is None else letters.take(self._database, key, names)
        if key is None or not taken:
            return Replay()
        part = self._store(
            key,
            [
                Chunk(
                    chunk_id=b"",
                    project=project,
                    received_us=letter.received_us,
                    events=(letter.event,),
                    import_id=letter.import_id,
                )
                for letter in taken
            ],
        )
        self._enter_books(part, [replay_entry(1, receipt) for receipt in part.receipts()])
        duplicates, conflicts = len(part.duplicates), len(part.conflicts)
        return Replay(stored=len(taken) - duplicates - conflicts, duplicates=duplicates, conflicts=conflicts)

    def drop(self, project: str, names: Sequence[bytes]) -> int:
        """See `EventStore.drop`."""
        key = project_key(self._database, project)
        dropped = 0 if key is None else letters.delete(self._database, key, names)
        if dropped:
            self._database.run("count_dropped", project_key=key, dropped=dropped)
            self.begin_epoch()
        return dropped

    def fold(self, most_events: int) -> int:
        """See `EventStore.fold`."""
        return fold(self._database, most_events)

    def waiting_events(self) -> int:
        """How many events wait to be folded."""
        return int(self._database.first("waiting_events")[0])

    def _store(self, project_key: int, chunks: Sequence[Chunk]) -> _Part:
        """Write the events of chunks, and those that lost; not the books."""
        first_key = self._next_event_key
        part = self._judge(project_key, chunks, first_key)
        self._database.insert("insert_event", self._winning_columns(part, first_key))
        self._keep_conflicts(part)
        self._next_event_key += len(part.events)
        return part

    def _known_chunks(self, chunks: Sequence[Chunk]) -> set[int]:
        """Positions of chunks that came through a queue before; the others of them are remembered."""
        first_of: dict[bytes, int] = {}
        known = set()
        for position, chunk in enumerate(chunks):
            if chunk.queued and first_of.setdefault(chunk.chunk_id, position) != position:
                known.add(position)
        if not first_of:
            return known
        _must_be(set(map(len, first_of)) == {ID_BYTES}, "a chunk id has 16 bytes")
        queued = list(first_of.values())
        (found,) = self._database.first("known_chunks", ids=b"".join(first_of), count=len(queued))
        delivered_before = {queued[at] for at in _decode_integers(found)}
        new = [chunk_id for chunk_id, position in first_of.items() if position not in delivered_before]
        if new:
            self._database.run("insert_chunks", ids=b"".join(new), count=len(new))
        return known | delivered_before

    def project_key(self, name: str) -> int:
        """The key of a project, which is made where it is new."""
        found = self._projects.of(_ANYWHERE).get(name)
        if found is None:
            self._database.run("insert_project", name=name)
            found = int(self._database.first("project", name=name)[0])
            self._learned.append((self._projects, _ANYWHERE, {name: found}))
        return found

    def record_import(self, project: str, record: ImportRecord) -> None:
        """Write down an import, or what is new of it."""
        self._database.run(
            "put_import",
            project_key=self.project_key(project),
            import_id=record.import_id,
            source=record.source,
            started_us=record.started_us,
            finished_us=record.finished_us,
            outcome=None if record.outcome is None else msgspec.json.encode(record.outcome).decode(),
        )

    def put_key(self, key: ApiKey) -> None:
        """Keep an API key, or end it."""
        access.put_key(self._database, key)

    def touch_keys(self, used: Mapping[str, int]) -> None:
        """Note when API keys were last used."""
        access.touch_keys(self._database, used)

    def _judge(self, project_key: int, chunks: Sequence[Chunk], first_key: int) -> _Part:
        """Claim the ids of all events for the keys from ``first_key`` on, and compare those that were taken."""
        events = [event for chunk in chunks for event in chunk.events]
        starts = [0, *accumulate(len(chunk.events) for chunk in chunks)]
        duplicates: list[int] = []
        conflicts: list[int] = []
        if events:
            event_ids = [event.event_id for event in events]
            _must_be(set(map(len, event_ids)) == {ID_BYTES}, _ID_RULE)
            claims = {
                "project_key": project_key,
                "ids": b"".join(event_ids),
                "count": len(events),
                "first_key": first_key,
            }
            if self._database.run("insert_ledger", **claims) < len(events):
                (losers,) = self._database.first("losers", **claims)
                duplicates, conflicts = self._compare(events, dict(_decode_pairs(losers)), first_key)
        return _Part(project_key, chunks, events, starts, duplicates, conflicts)

    def _compare(
        self, events: Sequence[Event], holders: Mapping[int, int], first_key: int
    ) -> tuple[list[int], list[int]]:
        """Sort the positions of losers into duplicates and conflicts; ``holders`` says which event has the id."""
        stored = fingerprints(self._database, sorted({key for key in holders.values() if key < first_key}))
        unequal = [
            position
            for position, key in holders.items()
            if events[position].fingerprint != (stored[key] if key < first_key else events[key - first_key].fingerprint)
        ]
        # Other bytes may still be the same values.
        doubtful = sorted({holders[position] for position in unequal if holders[position] < first_key})
        conflicts = {
            position
            for position in unequal
            if (key := holders[position]) >= first_key and not same_content(events[key - first_key], events[position])
        }
        losers_of: defaultdict[int, list[int]] = defaultdict(list)
        for position in unequal:
            losers_of[holders[position]].append(position)
        for start in range(0, len(doubtful), _COMPARED_AT_ONCE):
            for key, found in stored_events(self._database, doubtful[start : start + _COMPARED_AT_ONCE]):
                conflicts.update(one for one in losers_of[key] if not same_content(found.event, events[one]))
        return sorted(holders.keys() - conflicts), sorted(conflicts)

    def _winning_columns(self, part: _Part, first_key: int) -> Sequence[Sequence[Any]]:
        """The columns of `events` for those that are stored; their users, types and activity are written here."""
        project_key = part.project_key
        import_key_of = self._import_keys(part)
        columns: list[Sequence[Any]] = [
            range(first_key, first_key + len(part.events)),
            part.events,
            _for_each_event(part, [import_key_of[chunk.import_id] for chunk in part.chunks]),
            _for_each_event(part, [chunk.received_us for chunk in part.chunks]),
        ]
        if part.duplicates or part.conflicts:
            lost = {*part.duplicates, *part.conflicts}
            won = [position not in lost for position in range(len(part.events))]
            columns = [list(compress(column, won)) for column in columns]
        event_keys, events, import_keys, received = columns
        if not events:
            return ()
        instants = [event.occurred_us for event in events]
        _must_be(min(instants) >= 0 and max(instants) < YEAR_10000_US, _INSTANT_RULE)
        types = self._keys_of(self._types, "types", project_key, [event.event_type for event in events])
        users = self._keys_of(self._users, "users", project_key, [event.user_id for event in events])
        quarters = [instant // QUARTER_US for instant in instants]
        kinds = [types, *self.combining.keys(project_key, types, events, self._learn)]
        self._database.run(
            "insert_delta",
            project_key=project_key,
            users=pack(users) * len(kinds),
            quarters=pack(quarters) * len(kinds),
            types=b"".join(map(pack, kinds)),
        )
        return (
            event_keys,
            [project_key] * len(events),
            users,
            types,
            import_keys,
            instants,
            received,
            [event.event_id for event in events],
            [event.fingerprint for event in events],
            [event.properties for event in events],
        )

    def _learn(self, known: KnownKeys[Any], scope: int, keys: Mapping[Any, int]) -> None:
        self._learned.append((known, scope, keys))

    def _keys_of(self, known: KnownKeys[str], kind: str, project_key: int, names: Sequence[str]) -> list[int]:
        """The key of each name; new ones are given to those that have none, in the order of the names."""
        keys: list[int | None] = list(map(known.of(project_key).get, names))
        if None in keys:
            unknown = {name for name, key in zip(names, keys, strict=True) if key is None}
            found = self._find_or_give(kind, project_key, sorted(unknown))
            self._learned.append((known, project_key, found))
            keys = [found[name] if key is None else key for name, key in zip(names, keys, strict=True)]
        return cast(list[int], keys)

    def _find_or_give(self, kind: str, project_key: int, names: Sequence[str]) -> dict[str, int]:
        # JSON reads a NUL as the end in SQLite, so two names would become one.
        _must_be(not any("\0" in name for name in names), _NAME_RULE)
        (pairs,) = self._database.first(f"find_{kind}", project_key=project_key, names=_json(names))
        found = {names[at]: key for at, key in _decode_pairs(pairs)}
        new = [name for name in names if name not in found]
        if new:
            (end,) = self._database.first(f"give_{kind}_keys", project_key=project_key, given=len(new))
            first_key = end - len(new)
            self._database.run(f"insert_{kind}", project_key=project_key, first_key=first_key, names=_json(new))
            found |= zip(new, range(first_key, end), strict=True)
        return found

    def _import_keys(self, part: _Part) -> Mapping[bytes | None, int | None]:
        """The key of each import that the chunks name; None has None."""
        keys: dict[bytes | None, int | None] = {None: None}
        for chunk in part.chunks:
            if chunk.import_id is not None and chunk.import_id not in keys:
                values = {"project_key": part.project_key, "import_id": chunk.import_id}
                self._database.run("insert_import", **values)
                (keys[chunk.import_id],) = self._database.first("import", **values)
        return keys

    def _keep_conflicts(self, part: _Part) -> None:
        losers = [
            (part.events[start + index], chunk)
            for chunk, receipt, start in zip(part.chunks, part.receipts(), part.starts, strict=False)
            for index in receipt.conflicts
        ]
        losers += [(event, chunk) for chunk in part.chunks for event in chunk.conflicting]
        if not losers:
            return
        for event, _ in losers:
            _must_be(len(event.event_id) == ID_BYTES, _ID_RULE)
            _must_be("\0" not in event.user_id + event.event_type, _NAME_RULE)
            _must_be(0 <= event.occurred_us < YEAR_10000_US, _INSTANT_RULE)
        import_key_of = self._import_keys(part)
        columns = (
            [part.project_key] * len(losers),
            [event.event_id for event, _ in losers],
            [event.fingerprint for event, _ in losers],
            [event.user_id for event, _ in losers],
            [event.event_type for event, _ in losers],
            [event.occurred_us for event, _ in losers],
            [chunk.received_us for _, chunk in losers],
            [import_key_of[chunk.import_id] for _, chunk in losers],
            [event.properties for event, _ in losers],
        )
        self._database.insert("insert_conflict", columns)

    def _keep_dead(self, part: _Part) -> list[int]:
        """Write the dead of the chunks; says for each chunk how many of them were among the dead letters already."""
        deaths = [(death, chunk) for chunk in part.chunks for death in chunk.dead]
        if not deaths:
            return [0] * len(part.chunks)
        known = letters.known(self._database, part.project_key, [member(death.event) for death, _ in deaths])
        again = []
        for chunk in part.chunks:
            names = {member(death.event) for death in chunk.dead}
            again.append(len(chunk.dead) - len(names - known))
            known |= names
        import_key_of = self._import_keys(part)
        letters.keep(self._database, part.project_key, deaths, [import_key_of[chunk.import_id] for _, chunk in deaths])
        # A cache may take them for known from now on: a backup without them must not pass for this store.
        self._database.run("insert_delta", project_key=part.project_key, users=b"", quarters=b"", types=b"")
        return again

    def _enter_books(self, part: _Part, entries: Iterable[Mapping[str, int]]) -> None:
        """Add to the books what the chunks bring; an entry for each."""
        books: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for chunk, numbers in zip(part.chunks, entries, strict=True):
            books[to_datetime(chunk.received_us).date().isoformat()].update(numbers)
        for day, totals in books.items():
            self._database.run("add_to_book", project_key=part.project_key, day=day, **totals)


def _has_anything(chunk: Chunk) -> bool:
    return bool(chunk.events or chunk.conflicting or chunk.dead) or chunk.counts != Counts()


def _must_be(so: bool, rule: str) -> None:
    """What decoding guarantees and the statements rely on; a caller that breaks it fails alone."""
    if not so:
        raise StoreError(Kind.DATA, "refused_data", f"the store refuses this: {rule}")


def _for_each_event(part: _Part, of_chunks: Sequence[Any]) -> Sequence[Any]:
    """What each chunk has, once for each of its events."""
    return list(
        chain.from_iterable(
            repeat(value, len(chunk.events)) for value, chunk in zip(of_chunks, part.chunks, strict=True)
        )
    )


def _json(names: Sequence[str]) -> str:
    return msgspec.json.encode(names).decode()
