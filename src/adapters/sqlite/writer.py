"""The one thread that writes: it takes all calls that wait, writes them in one transaction, and answers each.

One COMMIT is one wait for the disk, so what is shared by many calls costs each of them little. A transaction that
fails because of the data is split until only the culprit fails. Not here: what is written (`appending`).
"""

import asyncio
import logging
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

from adapters.sqlite.appending import Appending
from adapters.sqlite.database import DAMAGED, Database, discard, driver_errors, open_writer, wrong_version
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

FOLD_EVENTS = 50_000
"""Events that wait to be folded until that is done in a quiet moment. Fewer would rewrite the same rows more often, and
unpacking so many takes a new process 50 ms."""

MOST_UNFOLDED_EVENTS = 500_000
"""The same when there is no quiet moment: then those who send wait for the fold, half a second or two."""

MOST_FOLDED_EVENTS = 200_000
"""Events of one fold: each takes some 150 bytes until it ends."""

FOLD_SECONDS = 30.0
"""How long after a fold even one event is folded, so that those who ask in SQL see it."""

_log = logging.getLogger("eventcore")

_EVENTS_PER_FOLDED_PAGE = 50
_PAGES_PER_COMMIT = 10
_EVENT_BYTES = 100

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """One call that waits for an answer.

    Attributes:
        future: gets the answer, or the error.
        chunks: to be appended; the answer is their receipts.
        work: what to do instead, in the same transaction, after all chunks; the answer is what it returns.
        events: how many events this brings.
        bytes: how large they are, about.
        keeps: whether there is anything to commit when it is done.
    """

    future: asyncio.Future[Any]
    chunks: Sequence[Chunk] = ()
    work: Callable[[Appending], Any] | None = None
    events: int
    bytes: int
    keeps: bool = True


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
        self._unfolded_events: int | None = None
        self._folded_at = monotonic()
        self._last_delta: tuple[int, int] | None = None
        self.epoch = ""
        self.epoch_at = -inf
        self._waiting: deque[_Call] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._ended = False
        self._thread = threading.Thread(target=self._run, name="eventcore-sqlite-writer", daemon=True)
        self._thread.start()

    def append(self, chunks: Sequence[Chunk]) -> asyncio.Future[Sequence[Receipt]]:
        """Have chunks written; the future has the receipts when they are durable."""
        events, size = _size_of(chunks)
        return self._wait_for(_Call(future=_future(), chunks=chunks, events=events, bytes=size))

    def check(self, chunk: Chunk) -> asyncio.Future[None]:
        """Have a chunk written and taken back; the future has None, or the error of the chunk's data."""
        events, size = _size_of([chunk])

        def work(appending: Appending) -> StoreError | None:
            return self._refusal(appending, chunk)

        return self._wait_for(_Call(future=_future(), work=work, events=events, bytes=size, keeps=False))

    def write(self, work: Callable[[Appending], _T], *, events: int = 0) -> asyncio.Future[_T]:
        """Have something else done, which brings about so many events; the future has what it returns."""
        return self._wait_for(_Call(future=_future(), work=work, events=events, bytes=_EVENT_BYTES * events))

    def _wait_for(self, call: _Call) -> asyncio.Future[Any]:
        with self._changed:
            if self._closing:
                raise closed(self._path)
            self._waiting.append(call)
            self._changed.notify()
        return call.future

    def close(self) -> None:
        """Write what waits, then close; blocks until that is done. Closing again waits for the same end."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    # The thread

    def _run(self) -> None:
        try:
            while self._is_needed():
                calls = self._next_group()
                if calls:
                    self._settle(calls)
                self._fold_when_due(FOLD_EVENTS if monotonic() - self._folded_at < FOLD_SECONDS else 1)
                self._keep_log_short(CHECKPOINT_PAGES)
            self._fold_when_due(1)
            self._keep_log_short(1)  # short-lived processes clear away behind them, too
        finally:
            # Whatever ended the thread, nobody may wait for it in vain.
            with self._changed:
                self._closing = self._ended = True
                left = list(self._waiting)
                self._waiting.clear()
            _answer([(call.future, closed(self._path)) for call in left])
            self._disconnect()
            self._turn.close()

    @property
    def has_ended(self) -> bool:
        """Whether nothing is written any more."""
        return self._ended

    def _is_needed(self) -> bool:
        """Wait for calls, or until what waits has to be folded; False when the writer is to end."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._waiting or self._closing, timeout=FOLD_SECONDS if self._unfolded_events else None
            )
            return bool(self._waiting) or not self._closing

    def _next_group(self) -> list[_Call]:
        """The calls that wait, up to the size of a group."""
        with self._changed:
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
                answers = self._write(calls)
        except Exception as error:  # whatever it is, somebody waits for an answer, and the thread must go on
            if self._connection and self._connection[0].in_transaction:  # not even rolling back was possible
                self._disconnect()
            if len(calls) > 1 and _may_be_one_calls_fault(error):
                middle = len(calls) // 2
                self._settle(calls[:middle])
                self._settle(calls[middle:])
            else:
                _answer([(call.future, error) for call in calls])
        else:
            _answer([(call.future, answer) for call, answer in zip(calls, answers, strict=True)])

    def _write(self, calls: Sequence[_Call]) -> list[Any]:
        chunks = [chunk for call in calls for chunk in call.chunks]
        keeps = any(call.keeps for call in calls)
        with self._transaction(keeps=keeps) as appending:
            receipts = iter(appending.append(chunks))
            answers = [
                call.work(appending) if call.work else tuple(islice(receipts, len(call.chunks))) for call in calls
            ]
        if keeps:
            events = sum(call.events for call in calls)
            self._unmoved_pages += events + _PAGES_PER_COMMIT
            if self._unfolded_events is not None:
                self._unfolded_events += events
        return answers

    @contextmanager
    def _transaction(self, *, keeps: bool = True) -> Iterator[Appending]:
        """One transaction of the writer; what `keeps` is durable, and seen to be, when this ends."""
        database, appending = self._connected()
        with self._turn.taken(), database.transaction("BEGIN IMMEDIATE", end="COMMIT" if keeps else "ROLLBACK"):
            self._turn.pass_on()
            schema = appending.head()
            if schema != len(migrations()):
                raise wrong_version(self._path, schema)
            yield appending
            appending.end()
        if not keeps:
            return
        appending.committed()
        self._last_delta = appending.last_delta
        if not database.is_reached:
            self._disconnect()
            raise gone(self._path)
        self.epoch = appending.epoch
        self.epoch_at = monotonic()

    def _fold_when_due(self, due_events: int) -> None:
        """Fold when so much waits and no call does, or when much more waits; nobody waits for that."""
        if self._connection is None:
            return
        try:
            with driver_errors(self._path):
                self._fold(self._connection[1], due_events)
        except StoreError as error:
            _log.warning("activity could not be folded: %s", error.message)
        except Exception:  # folding changes no answer: whatever went wrong, what is sent must be taken
            _log.exception("activity of %s could not be folded", self._path.name)

    def _fold(self, appending: Appending, due_events: int) -> None:
        if self._unfolded_events is None:
            self._unfolded_events = appending.waiting_events()
        if self._unfolded_events < due_events:
            return
        self._folded_at = monotonic()
        while self._unfolded_events >= (MOST_UNFOLDED_EVENTS if self._waiting else due_events):
            self._unfolded_events = 0  # what cannot be folded is tried again when as much has come
            with self._transaction() as appending:
                folded = appending.fold(MOST_FOLDED_EVENTS)
                left = appending.waiting_events()
            self._unfolded_events = left
            self._unmoved_pages += folded // _EVENTS_PER_FOLDED_PAGE + _PAGES_PER_COMMIT
            if not folded:
                return

    def _refusal(self, appending: Appending, chunk: Chunk) -> StoreError | None:
        """The error with which an append of this chunk would fail because of its data; nothing is kept of it."""
        try:
            with driver_errors(self._path), appending.undone():
                appending.append([chunk])
        except StoreError as error:
            # A rule in the tables may end the whole transaction; then its group must begin anew without this call.
            if error.kind is not Kind.DATA or not appending.in_transaction:
                raise
            return error
        return None

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


def _may_be_one_calls_fault(error: Exception) -> bool:
    """Whether the other calls of a transaction may do without the one that failed; a full disk fails them all."""
    return not isinstance(error, StoreError) or error.kind is Kind.DATA or error.code == DAMAGED


def _future() -> asyncio.Future[Any]:
    return asyncio.get_running_loop().create_future()


def _size_of(chunks: Sequence[Chunk]) -> tuple[int, int]:
    """How many events chunks bring, those that lost or died included, and how large they are, about, in bytes."""
    events = [event for chunk in chunks for event in (*chunk.events, *chunk.conflicting)]
    events += [death.event for chunk in chunks for death in chunk.dead]
    return len(events), sum([len(event.properties) for event in events]) + _EVENT_BYTES * len(events)


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
