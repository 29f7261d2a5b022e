"""Messages out of the stream, to workers: each to one at a time, again and again until it is acknowledged.

Workers ask for messages, the server never pushes. Not the driver's own ``fetch``: where the stream or the consumer is
gone, it says that there are no messages. What arrives for a fetch that has ended is kept for the next one. Not here:
what is done with messages (`eventcore.draining`), and the stream itself (`stream`).
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from time import monotonic
from typing import Any, Final

import msgspec
from nats.aio.msg import Msg
from nats.js.errors import APIError

from adapters.nats.address import Address, address_of
from adapters.nats.failures import CONSUMER_NOT_FOUND
from adapters.nats.link import Connection, Link
from adapters.nats.stream import settle_consumer, settle_stream
from eventcore.errors import StoreError
from eventcore.ports import Consumer, Delivery

_NS: Final = 1_000_000_000
_LEAST_WAIT_SECONDS: Final = 0.001
"""Less is no time at all, for the server."""
_NOBODY: Final = "503"
_ENDED: Final = frozenset({"404", "408"})
"""No messages; and none until the time was over."""


async def open_consumer(url: str) -> Consumer:
    """Open a worker's end of a queue on NATS; its stream and its consumer are made where they are not there.

    Args:
        url: see `adapters.nats.address`.

    Raises:
        StoreError: NATS does not answer (retryable), or the URL, the stream or the consumer cannot be used (kind
            ``invalid``).
    """
    address = address_of(url)
    consumer = NatsConsumer(address)
    await consumer.open()
    return consumer


@dataclass(frozen=True, slots=True, kw_only=True)
class NatsDelivery:
    """A `Delivery` of NATS.

    Attributes:
        body: see `Delivery.body`.
        name: the stream and the message's number in it.
        attempt: see `Delivery.attempt`.
    """

    body: bytes
    name: str
    attempt: int
    _reply: str
    _consumer: "NatsConsumer"

    async def ack(self) -> None:
        """See `Delivery.ack`; while the connection is lost, it is told to the next one."""
        await self._consumer.tell(self._reply, b"+ACK", keep=True)

    async def retry(self, delay_seconds: float) -> None:
        """See `Delivery.retry`."""
        delay = b" " + msgspec.json.encode({"delay": round(delay_seconds * _NS)}) if delay_seconds > 0 else b""
        await self._consumer.tell(self._reply, b"-NAK" + delay)

    async def extend(self) -> None:
        """See `Delivery.extend`."""
        await self._consumer.tell(self._reply, b"+WPI")


class NatsConsumer:
    """A `Consumer` of a stream of NATS; `open_consumer` makes it. Any number of tasks may fetch at the same time.

    Args:
        address: where the server is, and which stream.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._link = Link(address, self._settle)
        self._name = ""
        self._idle: list[_Inbox] = []
        self._strays: deque[tuple[float, Msg]] = deque()
        self._untold: deque[tuple[str, bytes]] = deque(maxlen=address.options.max_ack_pending)

    async def open(self) -> None:
        """Connect; see `open_consumer`."""
        await self._link.open()

    async def fetch(self, most: int, wait_seconds: float) -> Sequence[Delivery]:
        """See `Consumer.fetch`."""
        self._link.current()
        found = self._take_strays(most) or await self._pull(most, 0.0)
        if not found and wait_seconds >= _LEAST_WAIT_SECONDS:
            # One, however long it takes, so that nothing arrives for a fetch that has what it wanted; then the others.
            found = self._take_strays(most) or await self._pull(1, wait_seconds)
            if found and most > len(found):
                found += await self._pull_more(most - len(found), found)
        return [self._delivery(message) for message in found or self._take_strays(most)]

    async def tell(self, reply: str, words: bytes, *, keep: bool = False) -> None:
        """Tell the server what became of a message, without waiting for an answer.

        Args:
            reply: which message.
            words: what.
            keep: whether to tell it later when it cannot be told now.
        """
        try:
            await self._link.current().publish(reply, words)
        except Exception:  # without these words the message comes again, which changes nothing
            if keep:
                self._untold.append((reply, words))

    async def close(self) -> None:
        """See `Consumer.close`; what nobody has been given may go to another worker at once."""
        for _, message in self._strays:
            await self.tell(message.reply, b"-NAK")
        self._strays.clear()
        await self._link.close()

    async def _settle(self, connection: Connection) -> None:
        self._name = await settle_stream(connection, self._address)
        await settle_consumer(connection, self._address, self._name)
        while self._untold:
            await connection.publish(*self._untold[0])
            self._untold.popleft()

    def _keep(self, message: Msg) -> None:
        self._strays.append((monotonic(), message))

    def _take_strays(self, most: int) -> list[Msg]:
        """Those that this worker may still count as its own."""
        taken: list[Msg] = []
        fresh_seconds = monotonic() - self._address.options.ack_wait_seconds / 2
        while self._strays and len(taken) < most:
            came_seconds, message = self._strays.popleft()
            if came_seconds > fresh_seconds:
                taken.append(message)
        return taken

    async def _pull_more(self, most: int, found: list[Msg]) -> list[Msg]:
        try:
            return await self._pull(most, 0.0)
        except StoreError:
            return []  # what was found is not lost for that
        except BaseException:
            for message in found:
                self._keep(message)
            raise

    async def _pull(self, most: int, wait_seconds: float) -> list[Msg]:
        """One request to the server, and what it sends until that is fulfilled or over."""
        async with self._link.call(wait_seconds + self._address.options.timeout_seconds) as connection:
            inbox = await self._inbox(connection)
            found: list[Msg] = []
            try:
                await connection.publish(
                    f"$JS.API.CONSUMER.MSG.NEXT.{self._address.stream}.{self._name}",
                    msgspec.json.encode(_request(most, wait_seconds)),
                    reply=inbox.begin(),
                )
                while len(found) < most:
                    message = await inbox.arriving.get()
                    status = _status(message)
                    if status is None:
                        found.append(message)
                    elif status in _ENDED or found:
                        break
                    else:
                        # Gone, moving to another server, or not willing: it is looked at again.
                        said = None if status == _NOBODY else (message.headers or {}).get("Description")
                        raise APIError(description=said, err_code=CONSUMER_NOT_FOUND)
            except BaseException:
                for message in found:
                    self._keep(message)
                raise
            finally:
                inbox.end()
                self._idle.append(inbox)
            return found

    async def _inbox(self, connection: Connection) -> "_Inbox":
        """One that nobody uses: its messages do not say which request they answer."""
        while self._idle:
            inbox = self._idle.pop()
            if inbox.connection is connection:
                return inbox
        inbox = _Inbox(connection, self._keep)
        await inbox.open()
        return inbox

    def _delivery(self, message: Msg) -> NatsDelivery:
        about = message.metadata
        return NatsDelivery(
            body=message.data,
            name=f"{about.stream}:{about.sequence.stream}",
            attempt=about.num_delivered,
            _reply=message.reply,
            _consumer=self,
        )


class _Inbox:
    """Where the server sends what one request at a time asks for.

    Args:
        connection: to the server.
        keep: takes messages that come while there is no request.
    """

    def __init__(self, connection: Connection, keep: Callable[[Msg], None]) -> None:
        self.connection = connection
        self.arriving: asyncio.Queue[Msg] = asyncio.Queue()
        self._keep = keep
        self._subject = connection.new_inbox()
        self._numbers = count(1)
        self._reply = ""

    async def open(self) -> None:
        await self.connection.subscribe(
            f"{self._subject}.*", cb=self._hear, pending_msgs_limit=0, pending_bytes_limit=0
        )

    def begin(self) -> str:
        """Where the answers to a new request go."""
        self._reply = f"{self._subject}.{next(self._numbers)}"
        return self._reply

    def end(self) -> None:
        self._reply = ""
        while not self.arriving.empty():
            if _status(message := self.arriving.get_nowait()) is None:
                self._keep(message)

    async def _hear(self, message: Msg) -> None:
        if _status(message) is None:
            self.arriving.put_nowait(message) if self._reply else self._keep(message)
        elif message.subject == self._reply:  # not of a request before
            self.arriving.put_nowait(message)


def _request(most: int, wait_seconds: float) -> dict[str, Any]:
    if not wait_seconds:
        return {"batch": most, "no_wait": True}
    return {"batch": most, "expires": round(wait_seconds * _NS)}


def _status(message: Msg) -> str | None:
    """What the server has to say instead of sending a message; None for a message."""
    return (message.headers or {}).get("Status")
