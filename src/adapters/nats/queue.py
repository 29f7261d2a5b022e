"""Chunks into the stream, each a message that the broker has acknowledged before its sender is answered.

The subject of a message ends with its project and its number of events. Since the stream keeps exactly what no worker
has acknowledged, the messages left under a project's subjects tell how many of its events are pending; there are no
counters that could drift. Not here: what happens to messages (`consumer`), and the stream itself (`stream`).
"""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from time import monotonic
from typing import Final

import msgspec
from nats.js.errors import APIError

from adapters.nats.address import Address, address_of
from adapters.nats.asking import ask
from adapters.nats.failures import MESSAGE_NOT_FOUND, too_large
from adapters.nats.link import UNBOUNDED_SECONDS, Connection, Link
from adapters.nats.stream import settle_stream
from eventcore.calendar import to_instant
from eventcore.chunks import CODEC_VERSION, encode_chunk
from eventcore.errors import Kind, StoreError, unknown_freshness
from eventcore.events import Chunk, Receipt, is_project_name
from eventcore.ports import EventStore, Pending, Queue

EPOCH_WAIT_SECONDS: Final = 0.1
"""The epoch only spares repeats: a store that is away must not hold up senders."""
EPOCH_KEPT_SECONDS: Final = 1.0
"""As old as a store's own answer may be."""
_PROJECTS: Final = 1_000
"""Whose last answer is kept to be shared by those who ask at the same time."""


async def open_queue(url: str, *, store: EventStore) -> Queue:
    """Open the sender's end of a queue on NATS; its stream is made where it is not there.

    Args:
        url: see `adapters.nats.address`.
        store: asked for its epoch; it may be away, and stays its opener's to close.

    Raises:
        StoreError: NATS does not answer (retryable), or the URL or the stream cannot be used (kind ``invalid``).
    """
    address = address_of(url)

    async def settle(connection: Connection) -> None:
        await settle_stream(connection, address)

    link = Link(address, settle)
    await link.open()
    return NatsQueue(link, address, store)


class _Message(msgspec.Struct, frozen=True, kw_only=True):
    subject: str
    headers: dict[str, str]
    body: bytes

    def size_bytes(self) -> int:
        """With headers, as the server counts it."""
        lines = sum(len(name) + len(value) + 4 for name, value in self.headers.items())
        return len(b"NATS/1.0\r\n\r\n") + lines + len(self.body)


class _Look(msgspec.Struct, frozen=True, kw_only=True):
    began_seconds: float
    pending: Pending


class NatsQueue:
    """A `Queue` whose messages lie in a stream of NATS; `open_queue` makes it.

    Args:
        link: to the server.
        address: where that is, and which stream.
        store: asked for its epoch.
    """

    def __init__(self, link: Link, address: Address, store: EventStore) -> None:
        self._link = link
        self._address = address
        self._store = store
        self._turns = asyncio.Semaphore(address.options.in_flight)
        self._epoch = "-"
        self._epoch_until_seconds = 0.0
        self._looks: dict[str, _Look] = {}
        self._looking: dict[str, asyncio.Lock] = {}

    async def publish(self, chunks: Sequence[Chunk]) -> Sequence[Receipt]:
        """See `Queue.publish`; receipts are empty.

        Raises:
            StoreError: kind ``full`` when the stream is, ``too_large`` when a chunk does not fit a message (then
                nothing was sent), otherwise ``timeout`` or ``unavailable``. All others have ended when it is raised.
        """
        most_bytes = self._link.current().max_payload
        epoch = await self._current_epoch()
        messages = [self._message(chunk, epoch, most_bytes) for chunk in chunks]
        outcomes = await asyncio.gather(*(self._send(message) for message in messages), return_exceptions=True)
        errors = [outcome for outcome in outcomes if outcome is not None]
        if errors:
            # The one that says most: what cannot help is told before what can.
            raise min(errors, key=lambda error: isinstance(error, StoreError) and error.retryable)
        return [Receipt()] * len(chunks)

    async def pending(self, project: str) -> Pending:
        """See `Queue.pending`; as it is at a moment after the call began."""
        try:
            return await self._pending(project)
        except StoreError as error:
            raise unknown_freshness(error) from error

    async def _pending(self, project: str) -> Pending:
        asked_seconds = monotonic()
        turn = self._looking.setdefault(project, asyncio.Lock())
        async with self._link.call(self._address.options.timeout_seconds) as connection, turn:
            look = self._looks.get(project)
            # Who waited while another looked may share what the next one sees, if that began to look after they asked.
            if look is None or look.began_seconds < asked_seconds:
                look = _Look(began_seconds=monotonic(), pending=await self._look(connection, project))
                if len(self._looks) >= _PROJECTS:
                    self._looks.clear()
                    self._looking.clear()
                self._looks[project] = look
        return look.pending

    @property
    def answers_first(self) -> bool:
        """The sender is answered when the broker has the events on disk."""
        return True

    async def close(self) -> None:
        """See `Queue.close`."""
        await self._link.close()

    def _message(self, chunk: Chunk, epoch: str, most_bytes: int) -> _Message:
        if not is_project_name(chunk.project):
            raise StoreError(Kind.DATA, "invalid_project", "this is not the name of a project")
        events = len(chunk.events) + len(chunk.dead)
        message = _Message(
            subject=f"{self._address.prefix}.{chunk.project}.{events}",
            headers={
                "Nats-Msg-Id": f"{epoch}:{chunk.chunk_id.hex()}",
                "Nats-Expected-Stream": self._address.stream,
                "Eventcore-Codec": str(CODEC_VERSION),
                "Eventcore-Project": chunk.project,
                "Eventcore-Events": str(events),
            },
            body=encode_chunk(chunk),
        )
        # The server would hang up on all that is under way.
        if (size_bytes := message.size_bytes()) > most_bytes:
            raise too_large(self._address, size_bytes, most_bytes)
        return message

    async def _send(self, message: _Message) -> None:
        async with self._link.call(self._address.options.timeout_seconds) as connection, self._turns:
            await connection.js.publish(
                message.subject, message.body, timeout=UNBOUNDED_SECONDS, headers=dict(message.headers)
            )

    async def _current_epoch(self) -> str:
        if monotonic() >= self._epoch_until_seconds:
            self._epoch_until_seconds = monotonic() + EPOCH_KEPT_SECONDS
            try:
                async with asyncio.timeout(EPOCH_WAIT_SECONDS):
                    self._epoch = await self._store.epoch()
            except Exception:  # whatever it is, it must not cost an event
                self._epoch = "-"
        return self._epoch

    async def _look(self, connection: Connection, project: str) -> Pending:
        if not is_project_name(project):
            return Pending()
        stream, subjects = self._address.stream, f"{self._address.prefix}.{project}.*"
        # At most some 500 subjects, one for each number of events that a chunk can have: never a second page.
        info = await ask(connection, f"STREAM.INFO.{stream}", {"subjects_filter": subjects})
        counts: dict[str, int] = info["state"].get("subjects") or {}
        events = sum(int(subject.rpartition(".")[2]) * count for subject, count in counts.items())
        if not events:
            return Pending()
        first = {"seq": info["state"]["first_seq"], "next_by_subj": subjects}
        try:
            oldest = (await ask(connection, f"STREAM.MSG.GET.{stream}", first))["message"]
        except APIError as error:
            if error.err_code == MESSAGE_NOT_FOUND:  # acknowledged between the two
                return Pending()
            raise
        return Pending(events=events, since_us=to_instant(datetime.fromisoformat(oldest["time"])))
