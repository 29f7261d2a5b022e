"""The threads that read: each answer comes from one snapshot of the file, on a connection that cannot write.

Not here: activity (`counting`) and the checks of `verifying`.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TypeVar

import msgspec

from adapters.sqlite import letters
from adapters.sqlite.database import Database, discard, driver_errors, open_reader
from adapters.sqlite.rows import ID_BYTES, stored_events
from eventcore.events import Book, DeadLetter, StoredEvent
from eventcore.ports import StoreDescription

READERS = 4

_T = TypeVar("_T")

_decode_keys = msgspec.json.Decoder(list[int]).decode
_decode_books = msgspec.json.Decoder(list[Book]).decode
_decode_counts = msgspec.json.Decoder(dict[str, dict[str, int]]).decode


class Readers:
    """A few threads, each with a connection for as long as it answers.

    Args:
        path: the file, prepared.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="eventcore-sqlite-reader")
        self._idle: SimpleQueue[Database] = SimpleQueue()

    async def answer(self, read: Callable[[Database], _T]) -> _T:
        """Run ``read`` in a thread, in one read transaction."""
        return await self.run(lambda: self.read(read))

    async def run(self, work: Callable[[], _T]) -> _T:
        """Run something in a thread that brings its own connection."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def read(self, read: Callable[[Database], _T]) -> _T:
        """Run ``read`` in this thread, in one read transaction."""
        with driver_errors(self._path), self._connection() as database, database.transaction("BEGIN"):
            return read(database)

    @contextmanager
    def _connection(self) -> Iterator[Database]:
        database = self._idle_connection() or open_reader(self._path)
        try:
            yield database
        except BaseException:
            discard(database)
            raise
        self._idle.put(database)

    def _idle_connection(self) -> Database | None:
        with suppress(Empty):
            while True:
                database = self._idle.get_nowait()
                if database.is_current:
                    return database
                discard(database)
        return None

    def close(self) -> None:
        """Finish what is being read, then close; blocks until that is done."""
        self._threads.shutdown()
        while not self._idle.empty():
            discard(self._idle.get())


def project_key(database: Database, name: str) -> int | None:
    """The key of a project, None when it has nothing."""
    found = database.first("project", name=name)
    return int(found[0]) if found else None


def find(database: Database, project: str, event_ids: Sequence[bytes]) -> dict[bytes, StoredEvent]:
    """See `EventStore.find`."""
    key = project_key(database, project)
    wanted = [event_id for event_id in dict.fromkeys(event_ids) if len(event_id) == ID_BYTES]
    if key is None or not wanted:
        return {}
    (found,) = database.first("find_events", project_key=key, ids=b"".join(wanted), count=len(wanted))
    return {stored.event.event_id: stored for _, stored in stored_events(database, _decode_keys(found))}


def dead_letters(
    database: Database, project: str, limit: int, after: bytes, event_ids: Sequence[bytes] | None
) -> list[DeadLetter]:
    """See `EventStore.dead_letters`."""
    key = project_key(database, project)
    return [] if key is None else letters.read_after(database, key, after, limit, event_ids)


def books(database: Database, project: str, first: str, last: str) -> tuple[Book, ...]:
    """See `EventStore.books`."""
    (rows,) = database.first("books", project_key=project_key(database, project), first=first, last=last)
    return tuple(_decode_books(rows))


def epoch(database: Database) -> str:
    """See `EventStore.epoch`."""
    return str(database.first("setting", key="epoch")[0])


def version(database: Database, project: str) -> str:
    """See `EventStore.version`."""
    return repr(database.first("version", project_key=project_key(database, project)))


_SETTINGS = ("journal_mode", "synchronous", "page_size", "cache_size", "busy_timeout", "journal_size_limit")
_SYNCHRONOUS = ("OFF", "NORMAL", "FULL", "EXTRA")


def describe(database: Database) -> StoreDescription:
    """See `EventStore.describe`."""
    settings = {name: str(database.pragma(name)) for name in _SETTINGS}
    settings["synchronous"] = _SYNCHRONOUS[int(settings["synchronous"])]
    return StoreDescription(
        technology=f"sqlite {database.first('library')[0]}",
        schema=int(database.first("setting", key="schema_version")[0]),
        epoch=epoch(database),
        durable=True,
        settings=settings,
        counts=_counts(database),
    )


def _counts(database: Database) -> Mapping[str, Mapping[str, int]]:
    (rows,) = database.first("counts")
    return _decode_counts(rows)
