"""What one transaction of a writer does: chunks become rows, and the answer says what was there before.

First every id claims its place in the ledger, in one statement; only those that lost are looked at one by one; only
those that won get users, rows and activity. Every transaction takes the tables in this order, and rows of a table
sorted, so that two of them may wait for each other but never in a circle:

    chunks → projects that are new → dead_events → event_ledger → imports → keys, a project's at a time → events,
    activity → conflicts → books → epoch, dimensions

The books come so late, because from there on every other transaction of the project waits. Not here: grouping,
retrying, and what happens when it fails (`writer`).
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from itertools import accumulate, chain, compress, groupby, repeat
from secrets import token_hex
from typing import Any, NamedTuple, cast

import msgspec

from adapters.postgres import access
from adapters.postgres.burying import bury, dig_up
from adapters.postgres.connections import Session
from adapters.postgres.dimensions import Combining, Declaration, declare, remove
from adapters.postgres.keys import ANYWHERE, Known, KnownKeys
from adapters.postgres.rows import ID_BYTES, PROJECT_BYTES, Listed, look_up, name_of, pack, read_events
from eventcore.booking import COLUMNS, entry, replay_entry
from eventcore.calendar import QUARTER_US, to_datetime, to_instant
from eventcore.dedup import FINGERPRINT_BYTES, same_content
from eventcore.errors import Kind, StoreError
from eventcore.events import Chunk, Counts, DeadLetter, Event, ImportRecord, Receipt, Replay
from eventcore.keys import ApiKey

_NOTHING_LOST = Receipt()
_NO_COUNTS = Counts()
_NAME_BYTES = PROJECT_BYTES + ID_BYTES
_EVENT_COLUMNS = (
    "project_key",
    "user_key",
    "type_key",
    "occurred_at",
    "received_at",
    "event_id",
    "import_id",
    "properties",
)
_LATEST_US = to_instant(datetime.max.replace(tzinfo=UTC))
_DELTA_COLUMNS = ("project_key", "quarter", "type_key", "users")


_Combined = tuple[Sequence[int], Sequence[int]]
"""Positions of events, and for each the key of one of its combinations."""


class _Part(NamedTuple):
    """The chunks that are not known yet.

    Attributes:
        chunks: the chunks.
        project_keys: for each chunk, whose it is.
        events: all their events, in order.
        owners: for each event, the key of its project.
        event_ids: of the events.
        fingerprints: of the events.
        instants: of the events.
        starts: for each chunk, the position of its first event in ``events``; the number of events comes last.
    """

    chunks: Sequence[Chunk]
    project_keys: Sequence[int]
    events: Sequence[Event]
    owners: Sequence[int]
    event_ids: Sequence[bytes]
    fingerprints: Sequence[bytes]
    instants: Sequence[int]
    starts: Sequence[int]


class _Verdict(NamedTuple):
    """What the ledger said of the events of a part.

    Attributes:
        duplicates: positions in ``events``, ascending.
        conflicts: positions in ``events``, ascending.
    """

    duplicates: Sequence[int] = ()
    conflicts: Sequence[int] = ()


class Appending:
    """Writes chunks in the transaction that its caller holds.

    Args:
        session: the writer's, in a transaction.
        known: what is remembered of this store; told what is new only by `committed`.
        partition_us: the width of the hypertable's chunks, None where events is a plain table.
        dimensions_mark: of the list of dimensions.
    """

    def __init__(self, session: Session, known: Known, partition_us: int | None, dimensions_mark: str | None) -> None:
        self._session = session
        self._known = known
        self._partition_us = partition_us
        self._new: list[tuple[KnownKeys[Any], int, Mapping[Any, int]]] = []
        self._combining = Combining(session, known, dimensions_mark)

    def committed(self) -> None:
        """What was read and written is durable."""
        for known, project_key, keys in self._new:
            known.remember(project_key, keys)

    async def append(self, chunks: Sequence[Chunk]) -> list[Receipt]:
        """Write chunks, in the order in which they came.

        Returns:
            A receipt for each.
        """
        receipts = [_NOTHING_LOST] * len(chunks)
        known = await self._known_chunks(chunks)
        positions = [
            position for position, chunk in enumerate(chunks) if position not in known and _brings_anything(chunk)
        ]
        if positions:
            part = await self._part([chunks[position] for position in positions])
            dead_again = await bury(self._session, part.chunks, part.project_keys)
            own = await self._store(part)
            await self._enter_books(
                part,
                [
                    entry(chunk, receipt, dead_again=again)
                    for chunk, receipt, again in zip(part.chunks, own, dead_again, strict=True)
                ],
            )
            await self._combining.tell_full()
            for position, receipt in zip(positions, own, strict=True):
                receipts[position] = receipt
        return receipts

    async def replay(self, project: str, names: Sequence[bytes]) -> Replay:
        """Write the events of dead letters as those of any chunk; the letters are gone."""
        letters = await dig_up(self._session, project, names)
        if not letters:
            return Replay()
        part = await self._part(_chunks_of(project, letters))
        receipts = await self._store(part)
        await self._enter_books(
            part,
            [replay_entry(len(chunk.events), receipt) for chunk, receipt in zip(part.chunks, receipts, strict=True)],
        )
        await self._combining.tell_full()
        duplicates = sum(len(receipt.duplicates) for receipt in receipts)
        conflicts = sum(len(receipt.conflicts) for receipt in receipts)
        return Replay(stored=len(letters) - duplicates - conflicts, duplicates=duplicates, conflicts=conflicts)

    async def drop(self, project: str, names: Sequence[bytes]) -> int:
        """Delete dead letters, and begin a new epoch if there were any.

        Returns:
            How many there were.
        """
        dropped = await self._session.first("drop_letters", project=project, names=names)
        if dropped is None:
            return 0
        await self.begin_epoch()
        return int(dropped[0])

    async def begin_epoch(self) -> str:
        """See `EventStore.begin_epoch`."""
        epoch = token_hex(16)
        await self._session.run("put_setting", key="epoch", value=epoch)
        return epoch

    async def record_import(self, project: str, record: ImportRecord) -> None:
        """Write down an import, or what is new of it."""
        _must_be(len(record.import_id) == ID_BYTES, "an import id has 16 bytes")
        await self._session.run(
            "put_import",
            project_key=(await self._project_keys([project]))[0],
            import_id=record.import_id,
            source=record.source,
            started_at=record.started_us,
            finished_at=record.finished_us,
            outcome=None if record.outcome is None else msgspec.json.encode(record.outcome).decode(),
        )

    async def declare(self, project: str, name: str) -> Declaration:
        """Declare a dimension, unless it is there; in a transaction that has begun so."""
        return await declare(self._session, (await self._project_keys([project]))[0], name)

    async def remove(self, project: str, name: str) -> bool:
        """Remove a dimension; in a transaction that has begun so."""
        return await remove(self._session, project, name)

    async def put_key(self, key: ApiKey) -> None:
        """Keep an API key, or end it."""
        await access.put_key(self._session, key)

    async def touch_keys(self, used: Mapping[str, int]) -> None:
        """Note when API keys were last used."""
        await access.touch_keys(self._session, used)

    async def known(self, chunk_ids: Sequence[bytes]) -> frozenset[bytes]:
        """Those of the ids that belong to chunks that came through a queue and are stored."""
        _must_be(set(map(len, chunk_ids)) <= {ID_BYTES}, "a chunk id has 16 bytes")
        return frozenset(chunk_id for (chunk_id,) in await self._session.rows("find_chunks", chunk_ids=chunk_ids))

    async def _store(self, part: _Part) -> list[Receipt]:
        """Write the events of a part, and those that lost inside their request; all but the books."""
        verdict = await self._judge(part)
        receipts = _receipts(part, verdict)
        await self._name_imports(part)
        await self._store_winners(part, verdict)
        await self._keep_conflicts(part, receipts)
        return receipts

    async def _known_chunks(self, chunks: Sequence[Chunk]) -> set[int]:
        """Positions of chunks that came through a queue before; the others of them are remembered."""
        first_of: dict[bytes, int] = {}
        known = set()
        for position, chunk in enumerate(chunks):
            if chunk.queued and first_of.setdefault(chunk.chunk_id, position) != position:
                known.add(position)
        if first_of:
            _must_be(set(map(len, first_of)) == {ID_BYTES}, "a chunk id has 16 bytes")
            chunk_ids = sorted(first_of)
            new = await self._session.rows(
                "insert_chunks",
                chunk_ids=chunk_ids,
                received_at=[chunks[first_of[chunk_id]].received_us for chunk_id in chunk_ids],
            )
            known |= {first_of[chunk_id] for chunk_id in first_of.keys() - {chunk_id for (chunk_id,) in new}}
        return known

    async def _part(self, chunks: Sequence[Chunk]) -> _Part:
        events = [event for chunk in chunks for event in chunk.events]
        event_ids = [event.event_id for event in events]
        fingerprints = [event.fingerprint for event in events]
        instants = [event.occurred_us for event in events]
        losers = [event for chunk in chunks for event in chunk.conflicting]
        _check(
            event_ids + [event.event_id for event in losers],
            fingerprints + [event.fingerprint for event in losers],
            instants + [event.occurred_us for event in losers],
        )
        project_keys = await self._project_keys([chunk.project for chunk in chunks])
        return _Part(
            chunks=chunks,
            project_keys=project_keys,
            events=events,
            owners=_for_each_event(chunks, project_keys),
            event_ids=event_ids,
            fingerprints=fingerprints,
            instants=instants,
            starts=[0, *accumulate(len(chunk.events) for chunk in chunks)],
        )

    async def _project_keys(self, names: Sequence[str]) -> Sequence[int]:
        """The keys of projects; those that are new are made."""
        keys = self._known.projects.find(ANYWHERE, names)
        missing = _missing(names, keys)
        if not missing:
            return _filled(names, keys, {})
        found = dict(await self._session.rows("find_projects", names=missing))
        if len(found) < len(missing):
            # Asked again afterwards, because another transaction may have made them first.
            await self._session.run("insert_projects", names=[name for name in missing if name not in found])
            found = dict(await self._session.rows("find_projects", names=missing))
        self._new.append((self._known.projects, ANYWHERE, found))
        return _filled(names, keys, found)

    async def _judge(self, part: _Part) -> _Verdict:
        """Claim the ids of all events, and compare those that were taken."""
        events = part.events
        if not events:
            return _Verdict()
        prefixes = {project_key: name_of(project_key, b"") for project_key in set(part.project_keys)}
        names = [prefixes[owner] + event_id for owner, event_id in zip(part.owners, part.event_ids, strict=True)]
        # From behind, so that the first of equal names stays.
        first_of = dict(zip(reversed(names), range(len(names) - 1, -1, -1), strict=True))
        claims = sorted(first_of)
        positions = [first_of[name] for name in claims]
        projects = sorted(prefixes)
        count, free = await self._session.first(
            "claim_ids",
            project_keys=projects,
            starts=[bisect_left(claims, prefixes[project_key]) + 1 for project_key in projects],
            names=b"".join(claims),
            fingerprints=b"".join([part.fingerprints[position] for position in positions]),
            instants=[part.instants[position] for position in positions],
        )
        if count == len(events):
            return _Verdict()
        taken = first_of.keys() - _cut_names(free or b"") if count < len(claims) else frozenset()
        repeats = {position: name for position, name in enumerate(names) if name in taken or first_of[name] != position}
        conflicts = {
            position
            for position, name in repeats.items()
            if name not in taken and not same_content(events[first_of[name]], events[position])
        }
        conflicts |= await self._compare_with_stored(
            {position: (name, events[position]) for position, name in repeats.items() if name in taken}
        )
        return _Verdict(sorted(repeats.keys() - conflicts), sorted(conflicts))

    async def _compare_with_stored(self, repeats: Mapping[int, tuple[bytes, Event]]) -> set[int]:
        """Positions of those whose content is another than that of the stored event of their name.

        A statement after the one that claimed: only now is visible what another transaction has stored meanwhile.
        """
        if not repeats:
            return set()
        listed = await look_up(self._session, {name for name, _ in repeats.values()})
        conflicts: set[int] = set()
        doubtful: dict[int, tuple[bytes, Event]] = {}
        for position, (name, event) in repeats.items():
            found = listed.get(name)
            if found is None:
                raise StoreError(Kind.UNAVAILABLE, "changed_meanwhile", "an event was removed meanwhile; send again")
            if event.fingerprint == found.fingerprint:
                continue
            if event.occurred_us != found.occurred_us:
                conflicts.add(position)
            else:  # other bytes may still be the same values
                doubtful[position] = (name, event)
        wanted: dict[bytes, Listed] = {name: listed[name] for name, _ in doubtful.values()}
        stored = await read_events(self._session, wanted, self._partition_us)
        return conflicts | {
            position
            for position, (name, event) in doubtful.items()
            # Where the raw row has expired, another fingerprint is all that can be known.
            if name not in stored or not same_content(stored[name].event, event)
        }

    async def _name_imports(self, part: _Part) -> None:
        """An import is known from its first chunk on, also when its record never comes."""
        imports = sorted(
            {
                (project_key, chunk.import_id)
                for chunk, project_key in zip(part.chunks, part.project_keys, strict=True)
                if chunk.import_id is not None
            }
        )
        if imports:
            _must_be({len(import_id) for _, import_id in imports} == {ID_BYTES}, "an import id has 16 bytes")
            await self._session.run(
                "insert_imports",
                project_keys=[project_key for project_key, _ in imports],
                import_ids=[import_id for _, import_id in imports],
            )

    async def _store_winners(self, part: _Part, verdict: _Verdict) -> None:
        """Write the rows and the activity of the events that are stored."""
        lost = {*verdict.duplicates, *verdict.conflicts}
        won = [position not in lost for position in range(len(part.events))]
        events = list(compress(part.events, won))
        if not events:
            return
        owners = list(compress(part.owners, won))
        instants = list(compress(part.instants, won))
        users, types, combined = await self._keys_of(owners, events)
        await self._session.copy(
            "events",
            _EVENT_COLUMNS,
            zip(
                owners,
                users,
                types,
                instants,
                compress(_for_each_event(part.chunks, [chunk.received_us for chunk in part.chunks]), won),
                compress(part.event_ids, won),
                compress(_for_each_event(part.chunks, [chunk.import_id for chunk in part.chunks]), won),
                [event.properties for event in events],
                strict=True,
            ),
        )
        facts = _facts(owners, instants, types, users)
        for positions, keys in combined:
            facts += _facts(
                [owners[position] for position in positions],
                [instants[position] for position in positions],
                keys,
                [users[position] for position in positions],
            )
        await self._session.copy("activity_delta", _DELTA_COLUMNS, facts)

    async def _keys_of(
        self, owners: Sequence[int], events: Sequence[Event]
    ) -> tuple[Sequence[int], Sequence[int], list[_Combined]]:
        """For each event the keys of its user and its type; and those of its combinations."""
        projects = sorted(set(owners))
        if len(projects) == 1:
            users, types, columns = await self._keys_in(projects[0], events)
            return users, types, [(range(len(events)), keys) for keys in columns]
        positions: defaultdict[int, list[int]] = defaultdict(list)
        for position, owner in enumerate(owners):
            positions[owner].append(position)
        users = [0] * len(events)
        types = [0] * len(events)
        combined: list[_Combined] = []
        for project_key in projects:
            own = positions[project_key]
            *found, columns = await self._keys_in(project_key, [events[position] for position in own])
            for position, user, kind in zip(own, *found, strict=True):
                users[position] = user
                types[position] = kind
            combined += [(own, keys) for keys in columns]
        return users, types, combined

    async def _keys_in(
        self, project_key: int, events: Sequence[Event]
    ) -> tuple[Sequence[int], Sequence[int], list[Sequence[int]]]:
        """The same in one project, with a column of keys for each of its dimensions; what is new gets keys.

        Only what nobody has a key for gets one, and only the holder of the project's lock can know that.
        """
        user_ids = [event.user_id for event in events]
        type_names = [event.event_type for event in events]
        users = self._known.users.find(project_key, user_ids)
        types = self._known.types.find(project_key, type_names)
        missing = {"users": _missing(user_ids, users), "types": _missing(type_names, types)}
        found: dict[str, dict[str, int]] = {"users": {}, "types": {}}
        for locked in (False, True):
            for kind, names in missing.items():
                if names:
                    found[kind] |= dict(await self._session.rows(f"find_{kind}", project_key=project_key, names=names))
                    missing[kind] = names = [name for name in names if name not in found[kind]]
                if names and locked:
                    found[kind] |= dict(
                        await self._session.rows(f"insert_{kind}", project_key=project_key, names=names)
                    )
            if not locked and not any(missing.values()):
                break
            if not locked:
                await self._session.run("lock_keys", project_key=project_key)
        self._new += [
            (self._known.users, project_key, found["users"]),
            (self._known.types, project_key, found["types"]),
        ]
        type_keys = _filled(type_names, types, found["types"])
        columns = await self._combining.keys(project_key, type_keys, events, self._learn)
        return _filled(user_ids, users, found["users"]), type_keys, columns

    def _learn(self, known: KnownKeys[Any], scope: int, keys: Mapping[Any, int]) -> None:
        self._new.append((known, scope, keys))

    async def _keep_conflicts(self, part: _Part, receipts: Sequence[Receipt]) -> None:
        losers: dict[bytes, tuple[int, Event, Chunk]] = {}
        for chunk, project_key, start, receipt in zip(
            part.chunks, part.project_keys, part.starts, receipts, strict=False
        ):
            for event in (*[part.events[start + index] for index in receipt.conflicts], *chunk.conflicting):
                losers.setdefault(name_of(project_key, event.event_id) + event.fingerprint, (project_key, event, chunk))
        if not losers:
            return
        rows = [losers[name] for name in sorted(losers)]
        await self._session.run(
            "insert_conflicts",
            project_keys=[project_key for project_key, _, _ in rows],
            event_ids=[event.event_id for _, event, _ in rows],
            fingerprints=[event.fingerprint for _, event, _ in rows],
            occurred_at=[event.occurred_us for _, event, _ in rows],
            received_at=[chunk.received_us for _, _, chunk in rows],
            import_ids=[chunk.import_id for _, _, chunk in rows],
            user_ids=[event.user_id for _, event, _ in rows],
            event_types=[event.event_type for _, event, _ in rows],
            properties=[event.properties for _, event, _ in rows],
        )

    async def _enter_books(self, part: _Part, entries: Sequence[Mapping[str, int]]) -> None:
        """Add what each chunk changes to the books of its day."""
        books: defaultdict[tuple[int, date], Counter[str]] = defaultdict(Counter)
        for chunk, project_key, entered in zip(part.chunks, part.project_keys, entries, strict=True):
            books[project_key, _day(chunk.received_us)].update(entered)
        days = sorted(books)
        await self._session.run(
            "add_to_books",
            project_keys=[project_key for project_key, _ in days],
            days=[day for _, day in days],
            **{column: [books[day][column] for day in days] for column in COLUMNS},
        )


def _brings_anything(chunk: Chunk) -> bool:
    return bool(chunk.events or chunk.conflicting or chunk.dead or chunk.counts != _NO_COUNTS)


def _chunks_of(project: str, letters: Sequence[DeadLetter]) -> list[Chunk]:
    """What the letters would have come in: their events, with when they were received and what import they are from."""
    return [
        Chunk(
            chunk_id=b"",
            project=project,
            received_us=received_us,
            import_id=import_id,
            events=tuple(letter.event for letter in together),
        )
        for (received_us, import_id), together in groupby(
            letters, key=lambda letter: (letter.received_us, letter.import_id)
        )
    ]


def _must_be(so: bool, rule: str) -> None:
    """What decoding guarantees and the statements rely on; a caller that breaks it fails alone."""
    if not so:
        raise StoreError(Kind.DATA, "refused_data", f"the store refuses this: {rule}")


def _check(event_ids: Sequence[bytes], fingerprints: Sequence[bytes], instants: Sequence[int]) -> None:
    _must_be(set(map(len, event_ids)) <= {ID_BYTES}, "an event id has 16 bytes")
    _must_be(set(map(len, fingerprints)) <= {FINGERPRINT_BYTES}, "a fingerprint has 16 bytes")
    _must_be(
        min(instants, default=0) >= 0 and max(instants, default=0) <= _LATEST_US,
        "an event lies between the years 1970 and 9999",
    )


def _missing(names: Sequence[str], keys: Sequence[int | None]) -> list[str]:
    """The names whose keys are None, each once, sorted."""
    if None not in keys:
        return []
    return sorted({name for name, key in zip(names, keys, strict=True) if key is None})


def _filled(names: Sequence[str], keys: Sequence[int | None], found: Mapping[str, int]) -> Sequence[int]:
    """The keys, with those found where there was None."""
    if not found:
        return cast(Sequence[int], keys)
    return [found[name] if key is None else key for name, key in zip(names, keys, strict=True)]


def _for_each_event(chunks: Sequence[Chunk], of_chunks: Iterable[Any]) -> list[Any]:
    return list(
        chain.from_iterable(repeat(value, len(chunk.events)) for value, chunk in zip(of_chunks, chunks, strict=True))
    )


def _cut_names(names: bytes) -> set[bytes]:
    return {names[start : start + _NAME_BYTES] for start in range(0, len(names), _NAME_BYTES)}


def _receipts(part: _Part, verdict: _Verdict) -> list[Receipt]:
    if not verdict.duplicates and not verdict.conflicts:
        return [_NOTHING_LOST] * len(part.chunks)
    return [
        Receipt(duplicates=_within(verdict.duplicates, start, end), conflicts=_within(verdict.conflicts, start, end))
        for start, end in zip(part.starts, part.starts[1:], strict=False)
    ]


def _within(positions: Sequence[int], start: int, end: int) -> tuple[int, ...]:
    return tuple(
        position - start for position in positions[bisect_left(positions, start) : bisect_left(positions, end)]
    )


def _facts(
    owners: Sequence[int], instants: Sequence[int], types: Sequence[int], users: Sequence[int]
) -> list[tuple[int, int, int, bytes]]:
    """The activity of one transaction: a row for each project, quarter and type."""
    groups: defaultdict[tuple[int, int, int], list[int]] = defaultdict(list)
    quarters = [instant // QUARTER_US for instant in instants]
    for group, user in zip(zip(owners, quarters, types, strict=True), users, strict=True):
        groups[group].append(user)
    return [(*group, pack(found)) for group, found in groups.items()]


def _day(instant_us: int) -> date:
    try:
        return to_datetime(instant_us).date()
    except ValueError as error:
        raise StoreError(Kind.DATA, "refused_data", f"the store refuses this: {error}") from error
