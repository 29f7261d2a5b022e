"""A connection to NATS that is made anew whenever it is lost, and the bounds on every call that uses it.

The driver's own reconnecting is switched off. It gives up for ever at most errors that a server can say (too many
connections, authentication timeout), hangs while it closes a connection whose other end is frozen, and may have two
tasks read from one connection. Here a lost connection is thrown away with all its state, the calls that wait for it end
at once, and a new one is made and settled before anybody gets it. While there is none, calls fail without waiting and
nothing is kept to be sent later: whoever got an error must not have an effect behind its back. Not here: what is asked.
"""

import asyncio
import logging
import random
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, Final

from nats import errors
from nats.aio.client import Client
from nats.aio.transport import TcpTransport

from adapters.nats.address import Address
from adapters.nats.failures import DRIVER_ERRORS, NOT_SETTLED, closed, disconnected, meaning
from eventcore.errors import Kind, StoreError

CONNECT_SECONDS: Final = 3.0
"""For all servers of the URL together, when the process starts; one that lives answers in milliseconds."""
LEAST_CONNECT_SECONDS: Final = 1.0
"""For each of them, however many there are."""
PING_SECONDS: Final = 5.0
"""How often a silent connection is tried; with the next one, how long an end that is frozen or gone goes unnoticed."""
PONG_SECONDS: Final = 5
GOODBYE_SECONDS: Final = 2
FIRST_PAUSE_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 2.0
UNBOUNDED_SECONDS: Final = 86_400
"""For the driver, whose bounds would come between: the ones here end a call when the connection is lost, too."""

_CREDENTIALS: Final = (b"BEGIN NATS USER JWT", b"BEGIN USER NKEY SEED")

_SEED: Final = re.compile(rb"SU[A-Z2-7]{56}")

_log = logging.getLogger("eventcore")


class Connection(Client):
    """The driver's client, for one server and one connection; never used again when that is lost.

    Args:
        encrypted: whether to hold back what is secret from a server that does not encrypt.
    """

    def __init__(self, *, encrypted: bool) -> None:
        super().__init__()
        self._encrypted = encrypted
        self.lost = asyncio.Event()
        self.js = self.jetstream()

    async def answers(self, seconds: int) -> bool:
        """Whether the server answers within this time; no as soon as the connection is lost."""
        ways = [asyncio.create_task(self.rtt(seconds)), asyncio.create_task(self.lost.wait())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            return not self.lost.is_set() and ways[0].exception() is None
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    def _connect_command(self) -> bytes:
        # The driver encrypts when the server asks for it, and says user and password to any that does not.
        if self._encrypted and not self._server_info.get("tls_required"):
            raise errors.SecureConnWantedError
        return super()._connect_command()

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        # The driver would first wait until a frozen server has taken what was written and has said goodbye.
        self.lost.set()
        self._pending = []
        self._pending_data_size = 0
        transport, self._transport = self._transport, None
        if isinstance(transport, TcpTransport) and transport._io_writer is not None:
            transport._io_writer.transport.abort()
        await super()._close(status, do_cbs)


class Link:
    """Keeps a `Connection`.

    Args:
        address: where to.
        settle: makes or checks, on a new connection, what calls rely on; also after it was found missing.
    """

    def __init__(self, address: Address, settle: Callable[[Connection], Awaitable[None]]) -> None:
        self._address = address
        self._settle = settle
        self._settling = asyncio.Lock()
        self._settled = True
        self._connection: Connection | None = None
        self._reason = disconnected(address)
        self._denied: Exception | None = None
        self._bounds: set[asyncio.Timeout] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._closed = False

    async def open(self) -> None:
        """Connect for the first time.

        Raises:
            StoreError: it cannot be done now; or, kind ``invalid``, what is there must not be used.
        """
        self._connection = await self._connect()
        self._keeper = asyncio.get_running_loop().create_task(self._keep(self._connection))

    @asynccontextmanager
    async def call(self, timeout_seconds: float) -> AsyncIterator[Connection]:
        """The connection for one call, which ends when the time is over or the connection is lost.

        Raises:
            StoreError: there is no connection, or whatever the body's use of it raised.
        """
        connection = self.current()
        try:
            async with asyncio.timeout(timeout_seconds) as bound:
                self._bounds.add(bound)
                try:
                    await self._settle_again(connection)
                    yield connection
                finally:
                    self._bounds.discard(bound)
        except StoreError as error:
            self._note(error)
            raise
        except Exception as error:
            if not isinstance(error, DRIVER_ERRORS) and not connection.lost.is_set():
                raise
            meant = self._meaning(error, connection)
            self._note(meant)
            raise meant from error

    def current(self) -> Connection:
        """The connection as it is now.

        Raises:
            StoreError: there is none, or no more.
        """
        if self._closed:
            raise closed(self._address)
        if self._connection is None:
            raise StoreError(self._reason.kind, self._reason.code, self._reason.message) from self._reason
        return self._connection

    async def close(self) -> None:
        """Say goodbye to a server that listens; calls under way end. Closing again does nothing."""
        if self._closed:
            return
        self._closed = True
        if self._connection is not None:
            # What was written without waiting for an answer reaches the server.
            await self._connection.answers(GOODBYE_SECONDS)
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        await self._drop(self._connection)

    async def _keep(self, connection: Connection) -> None:
        while True:
            await _lost(connection)
            self._reason = disconnected(self._address)
            await self._drop(connection)
            _log.warning("the connection to NATS at %s is lost; connecting again", self._address.shown)
            connection = await self._reconnect()
            self._connection = connection
            _log.warning("NATS at %s is back", self._address.shown)

    async def _reconnect(self) -> Connection:
        for attempt in count(1):
            full_seconds = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * float(2 ** min(attempt - 1, 10)))
            # Processes that lost the same server do not come back at the same moment.
            await asyncio.sleep(full_seconds * random.uniform(0.5, 1))  # noqa: S311 (only to part those who wait)
            try:
                return await self._connect()
            except StoreError as error:
                self._reason = error if error.retryable else _as_outage(error)
        raise AssertionError  # `count` does not end

    async def _drop(self, connection: Connection | None) -> None:
        """Throw the connection away, and end the calls that wait for it."""
        self._connection = None
        for bound in self._bounds:
            if not bound.expired():
                bound.reschedule(0)
        if connection is not None:
            await _end(connection)

    async def _connect(self) -> Connection:
        """A new connection to one of the servers, settled."""
        hosts = random.sample(self._address.hosts, len(self._address.hosts))
        seconds = max(LEAST_CONNECT_SECONDS, CONNECT_SECONDS / len(hosts))
        failed = disconnected(self._address)
        for host in hosts:
            try:
                return await self._connect_to(host, seconds)
            except StoreError as error:
                failed = error
                if not error.retryable:
                    break
        raise failed

    async def _connect_to(self, host: str, seconds: float) -> Connection:
        connection = Connection(encrypted=self._address.encrypted)
        connected = False

        async def hear(error: Exception) -> None:
            if not connected and not connection.lost.is_set():
                raise error  # or the driver would try again for ever
            if "permissions violation" in str(error).lower():
                self._denied = error

        try:
            self._denied = None
            try:
                async with asyncio.timeout(seconds):
                    await connection.connect(**self._arguments(host), error_cb=hear)
                    connected = True
            except TimeoutError as error:
                raise meaning(ConnectionError(), self._address) from error
            async with asyncio.timeout(self._address.options.timeout_seconds):
                await self._settle(connection)
            self._settled = True
        except StoreError:
            await _end(connection)
            raise
        except Exception as error:
            meant = self._meaning(error, connection)
            await _end(connection)
            raise meant from error
        except BaseException:
            await _end(connection)
            raise
        return connection

    def _arguments(self, host: str) -> dict[str, Any]:
        address = self._address
        return {
            "servers": [f"nats://{host}"],
            "name": "eventcore",
            "user": address.user,
            "password": address.password,
            "token": address.token,
            **_keys(address),
            "tls": _tls(address),
            "allow_reconnect": False,
            "max_reconnect_attempts": -1,
            "pending_size": 0,
            "connect_timeout": UNBOUNDED_SECONDS,
            "ping_interval": UNBOUNDED_SECONDS,  # `_lost` does it
        }

    async def _settle_again(self, connection: Connection) -> None:
        if self._settled:
            return
        async with self._settling:
            if not self._settled:
                try:
                    await self._settle(connection)
                except StoreError as error:
                    if error.retryable:
                        raise
                    raise _as_outage(error) from error
                self._settled = True

    def _meaning(self, error: Exception, connection: Connection) -> StoreError:
        if self._closed:
            return closed(self._address)
        if self._denied is not None and isinstance(error, TimeoutError):
            denied, self._denied = self._denied, None
            return meaning(denied, self._address)
        if connection.lost.is_set() and isinstance(error, TimeoutError):
            return disconnected(self._address)
        return meaning(error, self._address)

    def _note(self, error: StoreError) -> None:
        if error.code in NOT_SETTLED:
            self._settled = False


async def _lost(connection: Connection) -> None:
    """Wait until a connection does not answer any more."""
    while True:
        with suppress(TimeoutError):
            async with asyncio.timeout(PING_SECONDS):
                await connection.lost.wait()
        if not await connection.answers(PONG_SECONDS):
            return


async def _end(connection: Connection) -> None:
    """Close a connection; whatever the driver makes of that, it is not used again."""
    with suppress(Exception):
        async with asyncio.timeout(GOODBYE_SECONDS):
            await connection.close()


def _as_outage(error: StoreError) -> StoreError:
    """An error of settling, for callers who know nothing of it: for them the queue is away until somebody mends it."""
    return StoreError(Kind.UNAVAILABLE, error.code, error.message)


def _keys(address: Address) -> dict[str, str]:
    """Files to sign in with.

    Raises:
        StoreError: one of them is none, or the package that signs is not installed; kind ``invalid``.
    """
    options = address.options
    if not options.creds_file and not options.nkey_file:
        return {}
    if find_spec("nkeys") is None:
        raise StoreError(
            Kind.INVALID, "no_nkeys", "creds_file and nkey_file need the package nkeys: install nats-py[nkeys]"
        )
    try:
        # The driver looks for these lines in a file of credentials until it finds them, or for ever.
        if options.creds_file and not all(mark in Path(options.creds_file).read_bytes() for mark in _CREDENTIALS):
            raise ValueError
        if options.nkey_file and _SEED.fullmatch(Path(options.nkey_file).read_bytes().strip()) is None:
            raise ValueError
    except (OSError, ValueError) as error:
        raise StoreError(
            Kind.INVALID, "invalid_key", "creds_file or nkey_file of the URL is not a readable file of its kind"
        ) from error
    return {"user_credentials": options.creds_file} if options.creds_file else {"nkeys_seed": options.nkey_file}


def _tls(address: Address) -> ssl.SSLContext | None:
    """How to encrypt; None leaves it to the server, with the system's certificates.

    Raises:
        StoreError: a file of the URL is none, or not what it is said to be; kind ``invalid``.
    """
    if not address.encrypted:
        return None
    options = address.options
    try:
        context = ssl.create_default_context(cafile=options.tls_ca or None)
        if options.tls_cert:
            context.load_cert_chain(options.tls_cert, options.tls_key or None)
    except (OSError, ValueError) as error:
        raise StoreError(
            Kind.INVALID, "invalid_tls", "tls_ca, tls_cert or tls_key of the URL is not a readable file of PEM"
        ) from error
    return context
