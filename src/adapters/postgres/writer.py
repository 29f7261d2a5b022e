"""The tasks that write: each takes calls that wait, writes them in one transaction, and answers each.

One COMMIT is one wait for the disk, so what many small calls share costs each of them little. A transaction that fails
because of the data is split until only the culprit fails; one that the server sacrificed to another is tried again; any
other failure goes to the callers, whose sending again is safe. Not here: what is written (`appending`).
"""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import TypeVar

import msgspec

from adapters.postgres.address import Address
from adapters.postgres.appending import Appending
from adapters.postgres.connections import COMMIT, REHEARSED, Connections, Session, gather
from adapters.postgres.dimensions import appending, declaring
from adapters.postgres.failures import AGAIN, closed
from adapters.postgres.keys import Known
from adapters.postgres.migrating import check_version
from adapters.postgres.rows import MOST_PARTITIONS
from adapters.postgres.spreading import Piece, partitions_of, spread
from eventcore.errors import Kind, StoreError
from eventcore.events import Chunk, Counts, Receipt

GROUP_EVENTS = 5_000
GROUP_BYTES = 16 * 1024 * 1024
ATTEMPTS = 5

_LONGEST_PAUSE_SECONDS = 0.1

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """One call that waits for an answer.

    Attributes:
        future: gets the receipts, or the error.
        chunks: to be appended.
        events: how many events the chunks bring, those that lost inside the request and the dead included.
        partitions: the chunks of the hypertable that they touch.
        since_seconds: when it came.
    """

    future: "asyncio.Future[Sequence[Receipt]]"
    chunks: Sequence[Chunk]
    events: int
    partitions: set[int]
    since_seconds: float


class Writer:
    """Writes over some connections, a group of calls on each.

    Args:
        connections: those that write.
        address: of the store.
        partition_us: the width of the hypertable's chunks, None where events is a plain table.
    """

    def __init__(self, connections: Connections, address: Address, partition_us: int | None) -> None:
        self._connections = connections
        self._address = address
        self._partition_us = partition_us
        self._known = Known("")
        self._waiting: deque[_Call] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    async def append(self, chunks: Sequence[Chunk]) -> Sequence[Receipt]:
        """Have chunks written; returns when they are durable."""
        if self._closing:
            raise closed(self._address)
        if not chunks:
            return ()
        partitions: set[int] = set()
        if self._partition_us is not None:
            partitions = partitions.union(*(partitions_of(chunk, self._partition_us) for chunk in chunks))
        call = _Call(
            future=asyncio.get_running_loop().create_future(),
            chunks=chunks,
            events=sum([len(chunk.events) + len(chunk.conflicting) + len(chunk.dead) for chunk in chunks]),
            partitions=partitions,
            since_seconds=monotonic(),
        )
        self._waiting.append(call)
        if len(self._tasks) < self._address.options.writers:
            self._tasks.add(asyncio.get_running_loop().create_task(self._work()))
        return await call.future

    async def check(self, chunk: Chunk) -> None:
        """Write a chunk and keep nothing of it."""
        if self._closing:
            raise closed(self._address)
        if self._partition_us is None or len(partitions_of(chunk, self._partition_us)) <= MOST_PARTITIONS:
            await self._commit(partial(Appending.append, chunks=[chunk]), end=REHEARSED)
            return
        for pieces in await self._spread([chunk]):
            await self._commit(partial(Appending.append, chunks=[piece.chunk for piece in pieces]), end=REHEARSED)

    async def write(self, write: Callable[[Appending], Awaitable[_T]]) -> _T:
        """Have something else written, in a transaction of its own."""
        if self._closing:
            raise closed(self._address)
        return await self._commit(write)

    async def declare(self, write: Callable[[Appending], Awaitable[_T]]) -> _T:
        """The same for a change of the list of dimensions: while nobody appends."""
        if self._closing:
            raise closed(self._address)
        return await self._commit(write, begin=declaring())

    async def close(self) -> None:
        """Write what waits; calls that come later are refused."""
        self._closing = True
        await gather(self._tasks)

    async def _work(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            while group := self._next_group():
                await self._settle(group)
        finally:
            # At once, not when the task is seen to be done: the next call must find that nobody works.
            self._tasks.discard(task)

    def _next_group(self) -> list[_Call]:
        """The calls that wait, up to the size of a group; none when there are none."""
        group: list[_Call] = []
        events = size = 0
        partitions: set[int] = set()
        while self._waiting and events < GROUP_EVENTS and size < GROUP_BYTES:
            call = self._waiting[0]
            if group and (events + call.events > GROUP_EVENTS or len(partitions | call.partitions) > MOST_PARTITIONS):
                break
            self._waiting.popleft()
            if monotonic() - call.since_seconds > self._address.options.timeout_seconds:
                _answer(call, StoreError(Kind.TIMEOUT, "too_slow", f"{self._address.shown} is too slow; send again"))
                continue
            group.append(call)
            events += call.events
            size += _bytes(call)
            partitions |= call.partitions
        return group

    async def _settle(self, calls: Sequence[_Call]) -> None:
        """Write calls and answer them. Where the data is at fault, halve the group until the culprit is alone."""
        try:
            receipts = await self._write(calls)
        except BaseException as error:  # whatever it is, somebody waits for an answer
            if len(calls) > 1 and isinstance(error, StoreError) and error.kind is Kind.DATA:
                middle = len(calls) // 2
                await self._settle(calls[:middle])
                await self._settle(calls[middle:])
                return
            for call in calls:
                _answer(call, error if isinstance(error, Exception) else closed(self._address))
            if not isinstance(error, Exception):
                raise
        else:
            for call, part in zip(calls, receipts, strict=True):
                _answer(call, part)

    async def _write(self, calls: Sequence[_Call]) -> list[Sequence[Receipt]]:
        if len(calls[0].partitions) > MOST_PARTITIONS:
            return [await self._write_spread(call.chunks) for call in calls]
        chunks = [chunk for call in calls for chunk in call.chunks]
        answers = iter(await self._commit(partial(Appending.append, chunks=chunks)))
        return [tuple(next(answers) for _ in call.chunks) for call in calls]

    async def _write_spread(self, chunks: Sequence[Chunk]) -> Sequence[Receipt]:
        """One transaction after the other; what an error leaves undone is done when the same is sent again."""
        found: list[tuple[list[int], list[int]]] = [([], []) for _ in chunks]
        for pieces in await self._spread(chunks):
            receipts = await self._commit(partial(Appending.append, chunks=[piece.chunk for piece in pieces]))
            for piece, receipt in zip(pieces, receipts, strict=True):
                duplicates, conflicts = found[piece.origin]
                duplicates += [piece.start + index for index in receipt.duplicates]
                conflicts += [piece.start + index for index in receipt.conflicts]
        return tuple(
            Receipt(duplicates=tuple(duplicates), conflicts=tuple(conflicts)) for duplicates, conflicts in found
        )

    async def _spread(self, chunks: Sequence[Chunk]) -> Iterable[list[Piece]]:
        """Chunks as pieces. One that is known as a whole is left empty: it may have been stored with other cuts."""
        assert self._partition_us is not None
        chunk_ids = [chunk.chunk_id for chunk in chunks if chunk.queued]
        known = await self._commit(partial(Appending.known, chunk_ids=chunk_ids))
        return spread(
            [chunk if not chunk.queued or chunk.chunk_id not in known else _emptied(chunk) for chunk in chunks],
            self._partition_us,
        )

    async def _commit(self, write: Callable[[Appending], Awaitable[_T]], *, begin: str = "", end: str = COMMIT) -> _T:
        """Write in one transaction; try again where the server gave way to another."""
        for _ in range(ATTEMPTS - 1):
            try:
                return await self._commit_once(write, begin or appending(), end)
            except StoreError as error:
                if error.code != AGAIN:
                    raise
            await asyncio.sleep(random.uniform(0, _LONGEST_PAUSE_SECONDS))  # noqa: S311 (only to part them)
        return await self._commit_once(write, begin or appending(), end)

    async def _commit_once(self, write: Callable[[Appending], Awaitable[_T]], begin: str, end: str) -> _T:
        async with self._connections.lend() as session, session.transaction(begin, end=end):
            work = await self._begin(session)
            answer = await write(work)
        if end == COMMIT:
            work.committed()
        return answer

    async def _begin(self, session: Session) -> Appending:
        """Look whether the store is still the one that is known, and its list of dimensions."""
        version, epoch, mark = await session.first("head")
        check_version(version, self._address)
        if epoch != self._known.epoch:  # another store, as far as keys are concerned
            self._known = Known(epoch)
        return Appending(session, self._known, self._partition_us, mark)


def _emptied(chunk: Chunk) -> Chunk:
    return msgspec.structs.replace(chunk, events=(), conflicting=(), counts=Counts(), dead=())


def _bytes(call: _Call) -> int:
    """How large a call is, about; not for one that fills a group by itself, where only the time would be lost."""
    if call.events >= GROUP_EVENTS:
        return 0
    return sum([len(event.properties) for chunk in call.chunks for event in chunk.events])


def _answer(call: _Call, answer: Sequence[Receipt] | Exception) -> None:
    if call.future.done():  # cancelled; what was written stays
        return
    if isinstance(answer, Exception):
        call.future.set_exception(answer)
    else:
        call.future.set_result(answer)
