"""The one thread that writes: it takes all calls that wait, writes them in one transaction, and answers each.

One COMMIT is one wait for the disk, so what is shared by many calls costs each of them little. A transaction that
fails because of the data is split until only the culprit fails. Not here: what is written (`appending`).
"""

import asyncio
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any

from adapters.sqlite.appending import Appending
from adapters.sqlite.database import Database, discard, driver_errors, open_writer, wrong_version
from adapters.sqlite.statements import migrations
from adapters.sqlite.turn import Turn
from eventcore.errors import Kind, StoreError
from eventcore.events import Chunk, Receipt

GROUP_EVENTS = 20_000
"""Events in one transaction. Random ids touch nearly a page of the ledger each, and a larger group shares more of them:
one million in groups of 20,000 took 7.6 s, of 10,000 9.7 s. Held lock: 0.15 s at one million rows, 0.5 s at ten."""

GROUP_BYTES = 32 * 1024 * 1024
"""The same for large events: about what a transaction adds to the log."""

CHECKPOINT_PAGES = 60_000
"""Pages written to the log, by estimate, until they are moved into the file: up to 250 MB. Moving them less often moves
fewer, because most are written again and again: 9 % faster than every 20,000."""

LONGEST_LOG_PAGES = 200_000
"""A log of 800 MB is only there when somebody always reads, one beginning before another ends. Then writing rests until
those who read are through, so that the log can begin anew."""

READERS_SECONDS = 0.5
"""How long it rests at most. Who reads for longer keeps the log growing as long as he reads."""

_PAGES_PER_COMMIT = 10
_EVENT_BYTES = 100

Record = Callable[[Appending], None]
"""Something else than events to write in a transaction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """One call that waits for an answer.

    Attributes:
        future: gets the receipts, or the error.
        chunks: to be appended.
        record: to be written after them.
        events: how many events the chunks bring, those that lost inside the request included.
        bytes: how large they are, about.
    """

    future: asyncio.Future[Sequence[Receipt]]
    chunks: Sequence[Chunk]
    record: Record | None
    events: int
    bytes: int


class Writer:
    """Owns the connection that writes, and the thread that uses it.

    Attributes:
        epoch: of the store, as the last commit found it.
        epoch_at: when that was, on the monotonic clock, in seconds.

    Args:
        path: the file, prepared.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with driver_errors(path):
            self._turn = Turn(path.parent)
        self._connection: tuple[Database, Appending] | None = None
        self._unmoved_pages = 0
        self._last_delta: tuple[int, int] | None = None
        self.epoch = ""
        self.epoch_at = -inf
        self._waiting: deque[_Call] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="eventcore-sqlite-writer", daemon=True)
        self._thread.start()

    def append(self, chunks: Sequence[Chunk]) -> asyncio.Future[Sequence[Receipt]]:
        """Have chunks written; the future has the receipts when they are durable."""
        events = [event for chunk in chunks for event in (*chunk.events, *chunk.conflicting)]
        size = sum([len(event.properties) for event in events]) + _EVENT_BYTES * len(events)
        return self._wait_for(chunks, None, len(events), size)

    def record(self, record: Record) -> asyncio.Future[Sequence[Receipt]]:
        """Have something else written."""
        return self._wait_for((), record, 0, 0)

    def _wait_for(
        self, chunks: Sequence[Chunk], record: Record | None, events: int, size: int
    ) -> asyncio.Future[Sequence[Receipt]]:
        future: asyncio.Future[Sequence[Receipt]] = asyncio.get_running_loop().create_future()
        with self._changed:
            if self._closing:
                raise closed(self._path)
            self._waiting.append(_Call(future=future, chunks=chunks, record=record, events=events, bytes=size))
            self._changed.notify()
        return future

    def close(self) -> None:
        """Write what waits, then close; blocks until that is done. Closing again waits for the same end."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    # The thread

    def _run(self) -> None:
        while calls := self._next_group():
            self._settle(calls)
            self._keep_log_short(CHECKPOINT_PAGES)
        self._keep_log_short(1)  # short-lived processes clear away behind them, too
        self._disconnect()
        self._turn.close()

    def _next_group(self) -> list[_Call]:
        """The calls that wait, up to the size of a group; none when the writer is to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            group: list[_Call] = []
            events = size = 0
            while self._waiting:
                events += self._waiting[0].events
                size += self._waiting[0].bytes
                if group and (events > GROUP_EVENTS or size > GROUP_BYTES):
                    break
                group.append(self._waiting.popleft())
            return group

    def _settle(self, calls: Sequence[_Call]) -> None:
        """Write calls and answer them. Where the data is at fault, halve the group until the culprit is alone."""
        try:
            with driver_errors(self._path):
                receipts = self._write(calls)
        except Exception as error:  # whatever it is, somebody waits for an answer, and the thread must go on
            if self._connection and self._connection[0].in_transaction:  # not even rolling back was possible
                self._disconnect()
            if len(calls) > 1 and not (isinstance(error, StoreError) and error.kind is not Kind.DATA):
                middle = len(calls) // 2
                self._settle(calls[:middle])
                self._settle(calls[middle:])
            else:
                _answer([(call.future, error) for call in calls])
        else:
            _answer([(call.future, part) for call, part in zip(calls, receipts, strict=True)])

    def _write(self, calls: Sequence[_Call]) -> list[Sequence[Receipt]]:
        chunks = [chunk for call in calls for chunk in call.chunks]
        database, appending = self._connected()
        with self._turn.taken(), database.transaction("BEGIN IMMEDIATE"):
            self._turn.pass_on()
            head = appending.head()
            if head.schema != len(migrations()):
                raise wrong_version(self._path, head.schema)
            receipts = appending.append(chunks, head.next_event_key)
            for call in calls:
                if call.record is not None:
                    call.record(appending)
            appending.end()
        appending.committed()
        self._last_delta = appending.last_delta
        if not database.is_reached:
            self._disconnect()
            raise gone(self._path)
        self.epoch = appending.epoch
        self.epoch_at = monotonic()
        self._unmoved_pages += sum(call.events for call in calls) + _PAGES_PER_COMMIT
        answers = iter(receipts)
        return [tuple(next(answers) for _ in call.chunks) for call in calls]

    def _connected(self) -> tuple[Database, Appending]:
        """The connection; a new one where there is none, or where the path leads to another file by now."""
        if self._connection and not self._connection[0].is_current:
            self._disconnect()
        if self._connection is None:
            database = open_writer(self._path)
            self._connection = database, Appending(database, self._last_delta)
        return self._connection

    def _disconnect(self) -> None:
        if self._connection:
            discard(self._connection[0])
        self._connection = None

    def _keep_log_short(self, pages: int) -> None:
        """Move the log into the file when we wrote so many pages, and nobody waits for it; readers may hold it up."""
        if self._connection is None or self._unmoved_pages < pages:
            return
        self._unmoved_pages = 0
        database, _ = self._connection
        with suppress(StoreError), driver_errors(self._path):
            if database.checkpoint("PASSIVE") > LONGEST_LOG_PAGES:
                database.checkpoint("RESTART", wait_seconds=READERS_SECONDS)


def gone(path: Path) -> StoreError:
    """The error where the file was moved or deleted while it was written to."""
    message = f"the store {path.name} was moved, replaced or deleted while it was written to; send again"
    return StoreError(Kind.UNAVAILABLE, "store_replaced", message)


def closed(path: Path) -> StoreError:
    """The error for a call after `close`."""
    return StoreError(Kind.CLOSED, "store_closed", f"the store {path.name} was closed; open it again")


_Answer = tuple[asyncio.Future[Any], Any]


def _answer(answers: Sequence[_Answer]) -> None:
    """Wake up who waits, with one call for each event loop."""
    by_loop: defaultdict[asyncio.AbstractEventLoop, list[_Answer]] = defaultdict(list)
    for future, result in answers:
        by_loop[future.get_loop()].append((future, result))
    for loop, part in by_loop.items():
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_set_results, part)


def _set_results(answers: Sequence[_Answer]) -> None:
    for future, result in answers:
        if future.done():  # cancelled; what was written stays
            continue
        if isinstance(result, Exception):
            future.set_exception(_own(result))
        else:
            future.set_result(result)


def _own(error: Exception) -> Exception:
    """An error of its own for each who waits: raised in several tasks, one would collect all their tracebacks."""
    if not isinstance(error, StoreError):
        return error
    own = StoreError(error.kind, error.code, error.message)
    own.__cause__ = error.__cause__
    return own
