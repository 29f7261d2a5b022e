"""A few connections to one server, and calls that take no longer than they may.

The driver's connections are used, not its client nor its pool: there a call costs 28 µs instead of 82, nothing
is ever sent twice, and giving a connection back cannot be interrupted. Whatever goes wrong during a call, its being
cancelled included, ends the connection, since its reply may still come and would be taken for the next call's. Not
here: what is asked, and what an error means.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from math import inf
from typing import Any

from redis.asyncio import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from adapters.redis.address import Address

Command = tuple[str | bytes | int, ...]

_TURNS = 3
"""Of the event loop, between the end of a call's time and its failure: when other tasks held up the loop, the reply may
lie there unread, and is read in one of them."""


class AllBusy(Exception):
    """Every connection was in use by other calls for most of the time that this one had."""


class Mixed(Exception):
    """A reply that is not one to what was asked."""


class Connections:
    """At most ``options.connections`` of them, opened when needed, each serving one call at a time.

    Args:
        address: of the server.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        self._free = asyncio.Semaphore(address.options.connections)
        self._idle: list[Connection] = []
        self._closed = False

    async def exchange(self, commands: Sequence[Command], token: bytes) -> list[bytes]:
        """Send commands together and read a reply for each.

        Args:
            commands: each is to be answered with bytes that begin with ``token``.
            token: nobody else's.

        Returns:
            The replies, without the token.

        Raises:
            AllBusy: no connection was free in time, or so late that the server had less than half of it.
            TimeoutError: the time is over.
            ResponseError: the server refuses one of the commands.
            RedisError: the server cannot be reached, refuses us, or the connection broke.
            Mixed: a reply is one to something else.
        """
        seconds = self._address.options.timeout_ms / 1_000
        elapsed = asyncio.get_running_loop().time
        asked_at = inf
        try:
            async with _at_most(seconds), self._free:
                asked_at = elapsed()
                replies = await self._exchange(commands, token)
        except Exception as error:
            if isinstance(error, TimeoutError) and elapsed() - asked_at < seconds / 2:
                raise AllBusy from error
            await self._let_go()  # what broke one connection broke the others, most likely
            raise
        answers: list[bytes] = []
        for reply in replies:
            if isinstance(reply, ResponseError):
                raise reply
            answers.append(reply)
        return answers

    async def _exchange(self, commands: Sequence[Command], token: bytes) -> list[bytes | ResponseError]:
        connection = self._idle.pop() if self._idle else self._new()
        try:
            await connection.send_packed_command(connection.pack_commands(commands), check_health=False)
            replies = [await _reply(connection, token) for _ in commands]
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        self._idle.append(connection)
        if self._closed:
            await self._let_go()
        return replies

    async def close(self) -> None:
        """Let go of all connections; one that is in use follows when its call has ended."""
        self._closed = True
        idle, self._idle = self._idle, []
        for connection in idle:
            with suppress(TimeoutError):  # over TLS a server that hangs does not say goodbye
                await asyncio.wait_for(connection.disconnect(), self._address.options.timeout_ms / 1_000)

    async def _let_go(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.disconnect(nowait=True)

    def _new(self) -> Connection:
        address = self._address
        settings: dict[str, Any] = {
            "host": address.host,
            "port": address.port,
            "db": address.database,
            "username": address.user,
            "password": address.password,
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": None,  # one clock, that of the whole call
            "socket_connect_timeout": None,
            "socket_keepalive": True,
        }
        if address.tls is None:
            return Connection(**settings)
        connection = SSLConnection(**settings)
        connection.ssl_context.context = address.tls  # the driver would read the system's certificates each time
        return connection


async def _reply(connection: Connection, token: bytes) -> bytes | ResponseError:
    try:
        reply = await connection.read_response()
    except ResponseError as error:
        return error
    if not isinstance(reply, bytes) or not reply.startswith(token):
        raise Mixed
    return reply[len(token) :]


@asynccontextmanager
async def _at_most(seconds: float) -> AsyncIterator[None]:
    """Like `asyncio.timeout`, but a reply that arrived in time is in time, however late the loop comes to read it."""
    loop = asyncio.get_running_loop()
    timer: asyncio.Handle

    def wait(turns: int) -> None:
        nonlocal timer
        if turns:
            timer = loop.call_soon(wait, turns - 1)
        else:
            bound.reschedule(loop.time())

    async with asyncio.timeout(None) as bound:
        timer = loop.call_later(seconds, wait, _TURNS)
        try:
            yield
        finally:
            timer.cancel()
