"""The store: gives each method of the port to the connections that can do it.

Implements `eventcore.ports.EventStore`. Durable; any number of processes on any number of machines may use one
database. What writes and what reads have connections of their own, so a long question does not hold up events; readers
may also go to a replica. Not for one process alone: the SQLite adapter needs no server.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from time import monotonic

from adapters.postgres import access, burying, reader
from adapters.postgres.address import Address, address_of
from adapters.postgres.appending import Appending
from adapters.postgres.connections import Connections, Session
from adapters.postgres.counting import read_activity
from adapters.postgres.dimensions import list_dimensions
from adapters.postgres.failures import closed
from adapters.postgres.folding import FOLD_SECONDS, fold
from adapters.postgres.migrating import bring_up_to_date, check_encoding, check_version, find_version, partition_us
from adapters.postgres.rebuilding import Rebuilding
from adapters.postgres.remembering import Memory
from adapters.postgres.upkeep import Upkeep
from adapters.postgres.verifying import differences
from adapters.postgres.writer import Writer
from eventcore.activity import ActivityQuery, ActivitySnapshot
from eventcore.dimensions import Dimension, check_name
from eventcore.errors import StoreError, too_slow
from eventcore.events import Book, Chunk, DeadLetter, ImportRecord, Receipt, Replay, StoredEvent
from eventcore.keys import ApiKey
from eventcore.ports import EventStore, Rebuilt, StoreDescription
from eventcore.rebuilding import known_zone

EPOCH_SECONDS = 1.0
"""How old the answer of `PostgresStore.epoch` may be."""


async def open_store(url: str, *, read_url: str | None = None) -> EventStore:
    """Open the store in a database that `migrate` has prepared.

    Args:
        url: ``postgresql://user:password@host:port/database``, also with several hosts; `adapters.postgres.address`
            says which options it takes.
        read_url: where questions go, for instance to a replica; to the same servers when nothing is said.

    Raises:
        StoreError: kind ``invalid`` for a URL that cannot be used; ``unavailable`` when no server answers, or none that
            lets us in; ``schema`` for a database without a store, or with one of another schema version, with the
            command to run. The message names host and port, never the password.
    """
    address = address_of(url)
    writers = Connections(
        address,
        most=address.options.writers,
        settings={},
        timeout_seconds=address.options.timeout_seconds,
    )
    try:
        async with writers.lend() as session:
            check_encoding(session, address)
            check_version(await find_version(session), address)
            width_us = await partition_us(session)
    except BaseException:
        await writers.close()
        raise
    return PostgresStore(address, address if read_url is None else address_of(read_url), writers, width_us)


async def migrate(url: str, *, check: bool = False) -> tuple[int, int]:
    """Bring the schema of a database up to date, under a lock; an empty database gets its store.

    Where the server has TimescaleDB, a new store keeps its events in a hypertable, and the URL's options about chunks
    and policies are taken over.

    Args:
        url: as for `open_store`.
        check: only look, change nothing.

    Returns:
        The version found (0 where there was no store) and the version wanted.

    Raises:
        StoreError: as `open_store`; kind ``schema`` also for a database that is newer than this code, unless ``check``.
    """
    return await bring_up_to_date(address_of(url), check=check)


class PostgresStore:
    """An `EventStore` in a database; `open_store` makes it.

    Args:
        address: where it is written.
        read_address: where it is read.
        writers: connections to ``address``.
        partition_us: the width of the hypertable's chunks, None where events is a plain table.
    """

    def __init__(self, address: Address, read_address: Address, writers: Connections, partition_us: int | None) -> None:
        self._address = address
        self._read_address = read_address
        self._partition_us = partition_us
        self._writers = writers
        self._writer = Writer(writers, address, partition_us)
        self._readers = Connections(
            read_address,
            most=read_address.options.readers,
            settings={"default_transaction_read_only": "on"},
            timeout_seconds=read_address.options.timeout_seconds,
        )
        # Of its own, so that no event waits for a fold; a second one, so that a second fold is told at once.
        self._folders = Connections(
            address,
            most=2,
            settings={"idle_in_transaction_session_timeout": f"{FOLD_SECONDS}s"},
            timeout_seconds=FOLD_SECONDS,
        )
        self._upkeep = Upkeep(self.fold)
        self._memory = Memory()
        self._epoch: asyncio.Task[str] | None = None
        self._epoch_asked_at = 0.0
        self._closed: asyncio.Task[None] | None = None

    async def append(self, chunks: Sequence[Chunk]) -> Sequence[Receipt]:
        """See `EventStore.append`. Calls that wait at the same time may share a transaction.

        Where events is a hypertable, a call that touches more than `rows.MOST_PARTITIONS` of its chunks takes several
        transactions: see `spreading`.
        """
        receipts = await self._writer.append(chunks)
        self._upkeep.appended(sum([len(chunk.events) for chunk in chunks]))
        return receipts

    async def check(self, chunk: Chunk) -> None:
        """See `EventStore.check`; in several transactions where `append` takes several."""
        await self._writer.check(chunk)

    async def dead_letters(
        self, project: str, *, limit: int, after: bytes = b"", event_ids: Sequence[bytes] | None = None
    ) -> Sequence[DeadLetter]:
        """See `EventStore.dead_letters`."""
        async with self._readers.lend() as session:
            return await burying.dead_letters(session, project, limit=limit, after=after, event_ids=event_ids)

    async def replay(self, project: str, names: Sequence[bytes]) -> Replay:
        """See `EventStore.replay`."""
        return await self._writer.write(partial(Appending.replay, project=project, names=names))

    async def drop(self, project: str, names: Sequence[bytes]) -> int:
        """See `EventStore.drop`; where there was nothing to drop, the epoch stays."""
        dropped = await self._writer.write(partial(Appending.drop, project=project, names=names))
        self._epoch = None
        return dropped

    async def find(self, project: str, event_ids: Sequence[bytes]) -> Mapping[bytes, StoredEvent]:
        """See `EventStore.find`."""
        async with self._readers.lend() as session:
            return await reader.find(session, project, event_ids, self._partition_us)

    async def activity(self, query: ActivityQuery) -> ActivitySnapshot:
        """See `EventStore.activity`."""
        from_copy = self._read_address is not self._address
        limit = asyncio.timeout(query.seconds)
        try:
            async with limit, self._readers.lend() as session:
                return await read_activity(session, query, self._memory, from_copy=from_copy)
        except TimeoutError as error:
            assert query.seconds is not None, "without a limit there is no end of it"
            raise too_slow(query.seconds) from error

    async def version(self, project: str) -> str:
        """See `EventStore.version`."""
        async with self._readers.lend() as session:
            return await reader.version(session, project)

    async def fold(self, most_events: int) -> int:
        """See `EventStore.fold`."""
        async with self._folders.lend() as session:
            return await fold(session, self._address, most_events)

    async def rebuild(self, project: str | None = None) -> AsyncGenerator[Rebuilt, None]:
        """See `EventStore.rebuild`. Events that a retention policy may drop are not counted on."""
        async with (
            self._patient(self._address) as session,
            aclosing(self._rebuilding(session).rebuild(project)) as done,
        ):
            async for step in done:
                yield step

    async def rebuild_in_zone(self, zone: str) -> AsyncGenerator[Rebuilt, None]:
        """See `EventStore.rebuild_in_zone`. Events are taken meanwhile; only folds wait."""
        found = known_zone(zone)
        async with (
            self._patient(self._address) as session,
            aclosing(self._rebuilding(session).rebuild_in_zone(found)) as done,
        ):
            async for step in done:
                yield step

    async def dimensions(self, project: str) -> Sequence[Dimension]:
        """See `EventStore.dimensions`."""
        async with self._readers.lend() as session:
            return await list_dimensions(session, project)

    async def add_dimension(self, project: str, name: str) -> AsyncGenerator[Rebuilt, None]:
        """See `EventStore.add_dimension`. Appends wait until those that have begun are through, and no longer."""
        check_name(name)
        declared = await self._writer.declare(partial(Appending.declare, project=project, name=name))
        if declared.state == "ready":
            return
        async with (
            self._patient(self._address) as session,
            aclosing(self._rebuilding(session).add_dimension(project, declared)) as done,
        ):
            async for step in done:
                yield step

    async def remove_dimension(self, project: str, name: str) -> bool:
        """See `EventStore.remove_dimension`. Its rows are deleted with a fold, this one or another's."""
        removed = await self._writer.declare(partial(Appending.remove, project=project, name=name))
        if removed:
            with suppress(StoreError):
                await self.fold(1)
        return removed

    def _rebuilding(self, session: Session) -> Rebuilding:
        return Rebuilding(session, self._address, self._partition_us, self.fold)

    async def books(self, project: str, first: str, last: str) -> Sequence[Book]:
        """See `EventStore.books`."""
        async with self._readers.lend() as session:
            return await reader.books(session, project, first, last)

    async def record_import(self, project: str, record: ImportRecord) -> None:
        """See `EventStore.record_import`."""
        await self._writer.write(partial(Appending.record_import, project=project, record=record))

    async def epoch(self) -> str:
        """See `EventStore.epoch`; all that ask within a second wait for one question, and get one error."""
        if self._closed is not None:
            raise closed(self._address)
        now = monotonic()
        if self._epoch is None or (self._epoch.done() and now - self._epoch_asked_at >= EPOCH_SECONDS):
            self._epoch = asyncio.get_running_loop().create_task(self._read_epoch())
            self._epoch.add_done_callback(_look_at)
            self._epoch_asked_at = now
        return await asyncio.shield(self._epoch)

    async def _read_epoch(self) -> str:
        # Not from a replica, which may be behind.
        async with self._writers.lend() as session:
            return await reader.epoch(session)

    async def begin_epoch(self) -> str:
        """See `EventStore.begin_epoch`."""
        epoch = await self._writer.write(Appending.begin_epoch)
        self._epoch = None
        return epoch

    async def keys(self) -> Sequence[ApiKey]:
        """See `EventStore.keys`."""
        async with self._writers.lend() as session:
            return await access.read_keys(session)

    async def put_key(self, key: ApiKey) -> None:
        """See `EventStore.put_key`."""
        await self._writer.write(partial(Appending.put_key, key=key))

    async def touch_keys(self, used: Mapping[str, int]) -> None:
        """See `EventStore.touch_keys`."""
        await self._writer.write(partial(Appending.touch_keys, used=used))

    async def describe(self) -> StoreDescription:
        """See `EventStore.describe`."""
        async with self._writers.lend() as session:
            return await reader.describe(session, self._partition_us)

    async def verify(self, project: str | None = None) -> Sequence[str]:
        """See `EventStore.verify`."""
        async with self._patient(self._read_address) as session:
            return await differences(session, project, self._partition_us)

    @asynccontextmanager
    async def _patient(self, address: Address) -> AsyncIterator[Session]:
        """A connection of its own, whose statements may take long, and so may what is computed between two."""
        if self._closed is not None:
            raise closed(self._address)
        connections = Connections(
            address,
            most=1,
            settings={"idle_in_transaction_session_timeout": f"{FOLD_SECONDS}s"},
            timeout_seconds=None,
        )
        try:
            async with connections.lend() as session:
                yield session
        finally:
            await connections.close()

    async def close(self) -> None:
        """See `EventStore.close`; closing again waits for the same end."""
        if self._closed is None:
            self._closed = asyncio.get_running_loop().create_task(self._close())
        await asyncio.shield(self._closed)

    async def _close(self) -> None:
        await self._writer.close()
        await self._upkeep.close()
        await asyncio.gather(self._writers.close(), self._readers.close(), self._folders.close())


def _look_at(task: asyncio.Task[str]) -> None:
    """Everybody who asked may have been cancelled; then an error concerns nobody."""
    if not task.cancelled():
        task.exception()
