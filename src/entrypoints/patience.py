"""A store and a queue whose servers may be away when a process starts: it starts all the same, and waits for them.

Until its server answers, every call of a waiting part raises a retryable `StoreError` that says what is missing, so
that HTTP answers 503 and a worker pauses. Once opened, a part copes with outages itself. What waiting cannot mend (a
URL that means nothing, a schema of another version) is raised at once; a user, password or database that the server
does not know is an error in the log, and tried again, for they may be made there. Not here: which parts there are
(`container`).
"""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from itertools import count
from typing import Final, Generic, Protocol, TypeVar

import structlog

from entrypoints.telemetry import LOGGER
from eventcore.activity import ActivityQuery, ActivitySnapshot
from eventcore.dimensions import Dimension
from eventcore.errors import EventcoreError, Kind, StoreError, unknown_freshness
from eventcore.events import Book, Chunk, DeadLetter, ImportRecord, Receipt, Replay, StoredEvent
from eventcore.keys import ApiKey
from eventcore.ports import Consumer, Delivery, EventStore, Pending, Queue, Rebuilt, StoreDescription

FIRST_PAUSE_SECONDS: Final = 0.25
LONGEST_PAUSE_SECONDS: Final = 5.0
_SAID_AGAIN_SECONDS: Final = 30.0


class _Closable(Protocol):
    async def close(self) -> None: ...


_Part = TypeVar("_Part", bound=_Closable)


def pause_seconds(attempt: int, longest_seconds: float = LONGEST_PAUSE_SECONDS) -> float:
    """How long to wait behind a failed attempt, counted from 1: each time twice as long, and never like another's."""
    doublings = min(attempt - 1, 30)  # far above every longest pause
    full = min(longest_seconds, FIRST_PAUSE_SECONDS * float(2**doublings))
    return full * random.uniform(0.5, 1)  # noqa: S311 (only to part those who wait)


class Opening(Generic[_Part]):
    """Opens a part, again and again if need be.

    Args:
        name: of the part, for the log: ``store`` or ``queue``.
        open_part: opens it.
    """

    def __init__(self, name: str, open_part: Callable[[], Awaitable[_Part]]) -> None:
        self._name = name
        self._open_part = open_part
        self._part: _Part | None = None
        self._reason: EventcoreError | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def begin(self) -> None:
        """Try once, and go on trying in the background where that can help.

        Raises:
            EventcoreError: it cannot.
        """
        try:
            self._part = await self._open_part()
        except EventcoreError as error:
            if not can_wait(error):
                raise
            self._note(error)
            self._task = asyncio.get_running_loop().create_task(self._go_on())

    def part(self) -> _Part:
        """The part.

        Raises:
            StoreError: it is not open yet (kind ``unavailable``), cannot be opened, or is closed.
        """
        if self._closed:
            raise StoreError(Kind.CLOSED, f"{self._name}_closed", f"the {self._name} is closed; open it again")
        if self._part is None:
            assert self._reason is not None
            raise StoreError(Kind.UNAVAILABLE, self._reason.code, self._reason.message) from self._reason
        return self._part

    @property
    def opened(self) -> _Part | None:
        """The part, None as long as it is not open."""
        return self._part

    async def close(self) -> None:
        """Stop trying, or close what is open; closing again does nothing."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        if self._part is not None:
            part, self._part = self._part, None
            await part.close()

    async def _go_on(self) -> None:
        loop = asyncio.get_running_loop()
        said_at = loop.time()
        for attempt in count(1):
            await asyncio.sleep(pause_seconds(attempt))
            try:
                self._part = await self._open_part()
            except EventcoreError as error:
                # Even what waiting cannot mend: the process is alive and says so, and somebody may mend it meanwhile.
                is_new = str(error) != str(self._reason)
                if is_new or error.is_misconfiguration or loop.time() - said_at >= _SAID_AGAIN_SECONDS:
                    self._note(error)
                    said_at = loop.time()
                continue
            structlog.get_logger(LOGGER).info(f"{self._name} is open")
            return

    def _note(self, error: EventcoreError) -> None:
        self._reason = error
        log = structlog.get_logger(LOGGER)
        if error.is_misconfiguration:  # said at every attempt, for nothing goes on until somebody has read it
            log.error(f"cannot open the {self._name}", reason=error.message, code=error.code)
        else:
            log.warning(f"waiting for the {self._name}", reason=error.message, code=error.code)


def can_wait(error: EventcoreError) -> bool:
    """Whether waiting can mend what kept a part from opening."""
    return error.retryable or error.code == "no_store"


class WaitingStore:
    """An `EventStore` behind an `Opening`."""

    def __init__(self, opening: Opening[EventStore]) -> None:
        self._opening = opening

    async def append(self, chunks: Sequence[Chunk]) -> Sequence[Receipt]:
        """See `EventStore.append`; so for all that follow."""
        return await self._opening.part().append(chunks)

    async def check(self, chunk: Chunk) -> None:
        """See `EventStore`."""
        await self._opening.part().check(chunk)

    async def dead_letters(
        self, project: str, *, limit: int, after: bytes = b"", event_ids: Sequence[bytes] | None = None
    ) -> Sequence[DeadLetter]:
        """See `EventStore`."""
        return await self._opening.part().dead_letters(project, limit=limit, after=after, event_ids=event_ids)

    async def replay(self, project: str, names: Sequence[bytes]) -> Replay:
        """See `EventStore`."""
        return await self._opening.part().replay(project, names)

    async def drop(self, project: str, names: Sequence[bytes]) -> int:
        """See `EventStore`."""
        return await self._opening.part().drop(project, names)

    async def find(self, project: str, event_ids: Sequence[bytes]) -> Mapping[bytes, StoredEvent]:
        """See `EventStore`."""
        return await self._opening.part().find(project, event_ids)

    async def activity(self, query: ActivityQuery) -> ActivitySnapshot:
        """See `EventStore`."""
        return await self._opening.part().activity(query)

    async def version(self, project: str) -> str:
        """See `EventStore`."""
        return await self._opening.part().version(project)

    async def fold(self, most_events: int) -> int:
        """See `EventStore`."""
        return await self._opening.part().fold(most_events)

    def rebuild(self, project: str | None = None) -> AsyncGenerator[Rebuilt, None]:
        """See `EventStore`."""
        return self._opening.part().rebuild(project)

    def rebuild_in_zone(self, zone: str) -> AsyncGenerator[Rebuilt, None]:
        """See `EventStore`."""
        return self._opening.part().rebuild_in_zone(zone)

    async def dimensions(self, project: str) -> Sequence[Dimension]:
        """See `EventStore`."""
        return await self._opening.part().dimensions(project)

    def add_dimension(self, project: str, name: str) -> AsyncGenerator[Rebuilt, None]:
        """See `EventStore`."""
        return self._opening.part().add_dimension(project, name)

    async def remove_dimension(self, project: str, name: str) -> bool:
        """See `EventStore`."""
        return await self._opening.part().remove_dimension(project, name)

    async def books(self, project: str, first: str, last: str) -> Sequence[Book]:
        """See `EventStore`."""
        return await self._opening.part().books(project, first, last)

    async def record_import(self, project: str, record: ImportRecord) -> None:
        """See `EventStore`."""
        await self._opening.part().record_import(project, record)

    async def epoch(self) -> str:
        """See `EventStore`."""
        return await self._opening.part().epoch()

    async def begin_epoch(self) -> str:
        """See `EventStore`."""
        return await self._opening.part().begin_epoch()

    async def keys(self) -> Sequence[ApiKey]:
        """See `EventStore`."""
        return await self._opening.part().keys()

    async def put_key(self, key: ApiKey) -> None:
        """See `EventStore`."""
        await self._opening.part().put_key(key)

    async def touch_keys(self, used: Mapping[str, int]) -> None:
        """See `EventStore`."""
        await self._opening.part().touch_keys(used)

    async def describe(self) -> StoreDescription:
        """See `EventStore`."""
        return await self._opening.part().describe()

    async def verify(self, project: str | None = None) -> Sequence[str]:
        """See `EventStore`."""
        return await self._opening.part().verify(project)

    async def close(self) -> None:
        """See `EventStore`; also stops waiting."""
        await self._opening.close()


class WaitingQueue:
    """A `Queue` behind an `Opening`."""

    def __init__(self, opening: Opening[Queue]) -> None:
        self._opening = opening

    async def publish(self, chunks: Sequence[Chunk]) -> Sequence[Receipt]:
        """See `Queue.publish`."""
        return await self._opening.part().publish(chunks)

    async def pending(self, project: str) -> Pending:
        """See `Queue.pending`."""
        try:
            queue = self._opening.part()
        except StoreError as error:
            raise unknown_freshness(error) from error
        return await queue.pending(project)

    @property
    def answers_first(self) -> bool:
        """See `Queue.answers_first`; what one waits for is a server between the sender and the store."""
        opened = self._opening.opened
        return opened is None or opened.answers_first

    async def close(self) -> None:
        """See `Queue.close`; also stops waiting."""
        await self._opening.close()


class WaitingConsumer:
    """A `Consumer` behind an `Opening`."""

    def __init__(self, opening: Opening[Consumer]) -> None:
        self._opening = opening

    async def fetch(self, most: int, wait_seconds: float) -> Sequence[Delivery]:
        """See `Consumer.fetch`."""
        return await self._opening.part().fetch(most, wait_seconds)

    async def close(self) -> None:
        """See `Consumer.close`; also stops waiting."""
        await self._opening.close()
