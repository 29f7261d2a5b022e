"""The store: gives each method of the port to the thread that can do it.

Implements `eventcore.ports.EventStore`. Durable; several processes may open one file at the same time, on a local disk
of one machine. Not for many writers on many machines: that is what the PostgreSQL adapter is for.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from math import inf
from pathlib import Path
from time import monotonic

from adapters.sqlite import access, reader, rebuilding
from adapters.sqlite.appending import Appending
from adapters.sqlite.counting import Counting
from adapters.sqlite.database import Database, file_of, migrate_file, prepare
from adapters.sqlite.dimensions import list_dimensions
from adapters.sqlite.reader import Readers, project_key
from adapters.sqlite.verifying import verify_file
from adapters.sqlite.writer import Writer, closed
from eventcore.activity import ActivityQuery, ActivitySnapshot
from eventcore.dimensions import Dimension, check_name
from eventcore.errors import StoreError, too_slow
from eventcore.events import Book, Chunk, DeadLetter, ImportRecord, Receipt, Replay, StoredEvent
from eventcore.keys import ApiKey
from eventcore.ports import EventStore, Rebuilt, StoreDescription

EPOCH_SECONDS = 1.0
"""How old the answer of `SqliteStore.epoch` may be."""


async def open_store(url: str) -> EventStore:
    """Open the store in a file; a missing file is made, with the folders it needs.

    Args:
        url: ``sqlite:///relative/path`` or ``sqlite:////absolute/path``; ``%20`` and the like are decoded.

    Raises:
        StoreError: kind ``invalid`` for a URL that names no file; ``schema`` for a file that is no eventcore store, or
            one of another schema version, with the command to run; ``unavailable`` or ``full`` where it cannot be made.
    """
    path = file_of(url)
    await asyncio.to_thread(prepare, path)
    return SqliteStore(path)


async def migrate(url: str, *, check: bool = False) -> tuple[int, int]:
    """Bring the schema of a file up to date, all or nothing, under a lock; a missing file is made.

    Args:
        url: as for `open_store`.
        check: only look, change nothing.

    Returns:
        The version found (0 where there was no store) and the version wanted.

    Raises:
        StoreError: as `open_store`; kind ``schema`` also for a file that is newer than this code, unless ``check``;
            with ``check``, ``unavailable`` also where there is no file and none can be made.
    """
    path = file_of(url)
    return await asyncio.to_thread(migrate_file, path, check=check)


def _remove(appending: Appending, project: str, name: str) -> bool:
    key = project_key(appending.database, project)
    return key is not None and appending.combining.remove(key, name)


class SqliteStore:
    """An `EventStore` in one file; `open_store` makes it.

    Args:
        path: the file, prepared.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer = Writer(path)
        self._readers = Readers(path)
        # Of their own, so that what takes seconds never keeps events or readiness waiting.
        self._patient_readers = Readers(path)
        self._counting = Counting()
        self._epoch = ""
        self._epoch_read_at = -inf
        self._epoch_failure: tuple[float, StoreError | None] = (-inf, None)
        self._epoch_lock = threading.Lock()
        self._closed = False

    async def append(self, chunks: Sequence[Chunk]) -> Sequence[Receipt]:
        """See `EventStore.append`. Calls that wait at the same time share a transaction."""
        return await self._writer.append(chunks)

    async def check(self, chunk: Chunk) -> None:
        """See `EventStore.check`. Shares transactions with appends, and fails none of them."""
        await self._writer.check(chunk)

    async def dead_letters(
        self, project: str, *, limit: int, after: bytes = b"", event_ids: Sequence[bytes] | None = None
    ) -> Sequence[DeadLetter]:
        """See `EventStore.dead_letters`."""
        self._check_open()
        return await self._readers.answer(
            lambda database: reader.dead_letters(database, project, limit, after, event_ids)
        )

    async def replay(self, project: str, names: Sequence[bytes]) -> Replay:
        """See `EventStore.replay`."""
        return await self._writer.write(lambda appending: appending.replay(project, names), events=len(names))

    async def drop(self, project: str, names: Sequence[bytes]) -> int:
        """See `EventStore.drop`."""
        return await self._writer.write(lambda appending: appending.drop(project, names))

    async def find(self, project: str, event_ids: Sequence[bytes]) -> Mapping[bytes, StoredEvent]:
        """See `EventStore.find`."""
        self._check_open()
        return await self._readers.answer(lambda database: reader.find(database, project, event_ids))

    async def activity(self, query: ActivityQuery) -> ActivitySnapshot:
        """See `EventStore.activity`."""
        self._check_open()
        asked_at = monotonic()

        def answer(database: Database) -> ActivitySnapshot:
            if query.seconds is None:
                return self._counting.activity(database, query)
            with database.until(asked_at + query.seconds, too_slow(query.seconds)):
                return self._counting.activity(database, query)

        return await self._patient_readers.answer(answer)

    async def version(self, project: str) -> str:
        """See `EventStore.version`."""
        self._check_open()
        return await self._readers.answer(lambda database: reader.version(database, project))

    async def fold(self, most_events: int) -> int:
        """See `EventStore.fold`. The writer folds by itself, too, when much waits and nobody writes."""
        return await self._writer.write(lambda appending: appending.fold(most_events))

    async def rebuild(self, project: str | None = None) -> AsyncGenerator[Rebuilt, None]:
        """See `EventStore.rebuild`. Needs room for the events' activity on the disk of temporary files."""
        self._check_open()
        async with aclosing(rebuilding.rebuild(self._path, self._writer, project)) as done:
            async for step in done:
                yield step

    async def rebuild_in_zone(self, zone: str) -> AsyncGenerator[Rebuilt, None]:
        """See `EventStore.rebuild_in_zone`. Other writers wait while the rows change places."""
        self._check_open()
        async with aclosing(rebuilding.rebuild_in_zone(self._writer, zone)) as done:
            async for step in done:
                yield step

    async def dimensions(self, project: str) -> Sequence[Dimension]:
        """See `EventStore.dimensions`."""
        self._check_open()
        return await self._readers.answer(lambda database: list_dimensions(database, project))

    async def add_dimension(self, project: str, name: str) -> AsyncGenerator[Rebuilt, None]:
        """See `EventStore.add_dimension`. Needs room for its facts on the disk of temporary files."""
        self._check_open()
        check_name(name)
        async with aclosing(rebuilding.add_dimension(self._path, self._writer, project, name)) as done:
            async for step in done:
                yield step

    async def remove_dimension(self, project: str, name: str) -> bool:
        """See `EventStore.remove_dimension`. Others wait while the rows are deleted."""
        self._check_open()
        return await self._writer.write(lambda appending: _remove(appending, project, name))

    async def books(self, project: str, first: str, last: str) -> Sequence[Book]:
        """See `EventStore.books`."""
        self._check_open()
        return await self._readers.answer(lambda database: reader.books(database, project, first, last))

    async def record_import(self, project: str, record: ImportRecord) -> None:
        """See `EventStore.record_import`."""
        await self._writer.write(lambda appending: appending.record_import(project, record))

    async def epoch(self) -> str:
        """See `EventStore.epoch`."""
        self._check_open()
        asked_at = monotonic()
        return self._known_epoch() or await self._readers.run(lambda: self._read_epoch(asked_at))

    def _known_epoch(self) -> str:
        """The epoch as it was read or committed last, empty when that is too long ago."""
        oldest = monotonic() - EPOCH_SECONDS
        if self._writer.epoch_at > max(oldest, self._epoch_read_at):
            return self._writer.epoch
        return self._epoch if self._epoch_read_at > oldest else ""

    def _read_epoch(self, asked_at: float) -> str:
        with self._epoch_lock:  # one reads, and all who wait meanwhile have what came of it
            if known := self._known_epoch():
                return known
            failed_at, failure = self._epoch_failure
            if failure and failed_at > asked_at:
                raise StoreError(failure.kind, failure.code, failure.message) from failure
            began_at = monotonic()  # what is committed from here on may be missed
            try:
                self._epoch = self._readers.read(reader.epoch)
            except StoreError as error:
                self._epoch_failure = monotonic(), error
                raise
            self._epoch_read_at = began_at
            return self._epoch

    async def begin_epoch(self) -> str:
        """See `EventStore.begin_epoch`."""
        return await self._writer.write(lambda appending: appending.begin_epoch())

    async def keys(self) -> Sequence[ApiKey]:
        """See `EventStore.keys`."""
        self._check_open()
        return await self._readers.answer(access.read_keys)

    async def put_key(self, key: ApiKey) -> None:
        """See `EventStore.put_key`."""
        await self._writer.write(lambda appending: appending.put_key(key))

    async def touch_keys(self, used: Mapping[str, int]) -> None:
        """See `EventStore.touch_keys`."""
        await self._writer.write(lambda appending: appending.touch_keys(used))

    async def describe(self) -> StoreDescription:
        """See `EventStore.describe`."""
        self._check_open()
        return await self._patient_readers.answer(reader.describe)

    async def verify(self, project: str | None = None) -> Sequence[str]:
        """See `EventStore.verify`."""
        self._check_open()
        return await self._patient_readers.run(lambda: verify_file(self._path, project))

    async def close(self) -> None:
        """See `EventStore.close`; closing again does nothing."""
        self._closed = True
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        # Readers first: the writer's last checkpoint waits for nobody then.
        self._readers.close()
        self._patient_readers.close()
        self._writer.close()

    def _check_open(self) -> None:
        if self._closed or self._writer.has_ended:
            raise closed(self._path)
