"""Connections: opened when needed, lent to one call at a time, and kept when the call went well.

A call whose values were refused went well in this sense; after any other error a connection is thrown away, so an
outage of the server needs no repair here: the next call opens anew. Also here is `Session`, which runs statements by
name. Not here: what is written and read.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg

from adapters.postgres.address import Address
from adapters.postgres.failures import DRIVER_ERRORS, closed, is_refusal, meaning
from adapters.postgres.statements import statements

CONNECT_SECONDS = 5.0
"""A server that answers at all does so in milliseconds; waiting longer helps nobody who waits for us."""

END_SECONDS = 3.0
"""For saying goodbye, and for a cancelled statement to end, before the connection is cut."""

GRACE_SECONDS = 5.0
"""The server's own limit comes first, because it leaves nothing behind; the client's is for servers that hang."""

_PG_EPOCH_US = 946_684_800_000_000  # 2000-01-01, from which PostgreSQL counts

READ_COMMITTED = "BEGIN ISOLATION LEVEL READ COMMITTED"
"""Each statement sees what others have committed before it; says nothing about writing, so a server that is read-only
by default stays so."""

COMMIT = "COMMIT"
ROLLBACK = "ROLLBACK"

REHEARSED = f"SET CONSTRAINTS ALL IMMEDIATE; {ROLLBACK}"
"""An end that keeps nothing, but raises what a COMMIT would: what it is said to look at last, it looks at now."""

SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
"""All statements see one moment."""

# Instants and ids go in and out as the core has them: integers of microseconds, and bytes.
_INSTANTS: dict[str, Any] = {
    "encoder": lambda instant_us: (instant_us - _PG_EPOCH_US,),
    "decoder": lambda found: found[0] + _PG_EPOCH_US,
    "format": "tuple",
}
_IDS: dict[str, Any] = {"encoder": bytes, "decoder": bytes, "format": "binary"}


class Session:
    """A connection that runs statements by name; used by one task at a time.

    Args:
        connection: the driver's.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def rows(self, name: str, /, **values: Any) -> Sequence[Any]:
        """All rows of a statement."""
        statement = statements()[name]
        found: Sequence[Any] = await self._connection.fetch(
            statement.sql, *[values[parameter] for parameter in statement.parameters]
        )
        return found

    async def first(self, name: str, /, **values: Any) -> Any:
        """The first row of a statement, None when there is none."""
        return next(iter(await self.rows(name, **values)), None)

    async def run(self, name: str, /, **values: Any) -> None:
        """Run a statement whose rows do not matter."""
        await self.rows(name, **values)

    async def scan(self, name: str, /, rows: int, **values: Any) -> AsyncIterator[Sequence[Any]]:
        """The rows of a statement, so many at once; in a transaction only."""
        statement = statements()[name]
        cursor = await self._connection.cursor(
            statement.sql, *[values[parameter] for parameter in statement.parameters]
        )
        while found := await cursor.fetch(rows):
            yield found

    async def copy(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Append rows to a table, which COPY does at a fraction of what INSERT costs."""
        await self._connection.copy_records_to_table(table, records=rows, columns=columns)

    async def execute(self, script: str) -> None:
        """Run statements that have no name: a migration, or the bounds of a transaction."""
        await self._connection.execute(script)

    @asynccontextmanager
    async def transaction(self, begin: str, *, end: str = COMMIT) -> AsyncIterator[None]:
        """Begin, then end. When the body raises, whoever lent the connection ends it, and the server rolls back."""
        await self.execute(begin)
        yield
        await self.execute(end)

    @property
    def encoding(self) -> str:
        """How the database keeps texts."""
        return str(self._connection.get_settings().server_encoding)

    @property
    def server_version(self) -> str:
        """As the server said it when the connection was opened."""
        return str(self._connection.get_settings().server_version).partition(" ")[0]


class Connections:
    """At most so many connections, kept as long as they work.

    Args:
        address: where to.
        most: how many.
        settings: of the server, for each of its sessions; what the URL says comes first.
        timeout_seconds: for one statement, None for those that may take long.
    """

    def __init__(
        self, address: Address, *, most: int, settings: Mapping[str, str], timeout_seconds: float | None
    ) -> None:
        self._address = address
        self._timeout_seconds = timeout_seconds
        self._settings = {
            "application_name": "eventcore",
            # Plans for the very arrays and instants of a call: their sizes differ, and TimescaleDB leaves chunks out
            # only of plans whose instants it knows.
            "plan_cache_mode": "force_custom_plan",
            "jit": "off",
            # A client that froze, or whose machine is gone, must not keep its locks.
            "idle_in_transaction_session_timeout": "30s",
            "statement_timeout": "0" if timeout_seconds is None else f"{round(timeout_seconds * 1_000)}ms",
            **settings,
        }
        self._turns = asyncio.Semaphore(most)
        self._most = most
        self._idle: list[Any] = []
        self._ending: set[asyncio.Task[None]] = set()
        self._closing = False

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[Session]:
        """A connection for one call; what its driver raises becomes a `StoreError`.

        Raises:
            StoreError: as `failures` says.
        """
        if self._closing:
            raise closed(self._address)
        connection = None
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._turns.acquire()
            try:
                connection = self._take_idle() or await self._open()
                try:
                    yield Session(connection)
                except Exception as error:
                    if is_refusal(error):
                        await self._take_back(connection)
                        connection = None
                    raise
                self._idle.append(connection)
                connection = None
            finally:
                if connection is not None:
                    self._end(connection)
                self._turns.release()
        except DRIVER_ERRORS as error:
            raise meaning(error, self._address) from error

    async def _take_back(self, connection: Any) -> None:
        """Where values were refused only the transaction has to end; a new connection would cost several times more."""
        await connection.execute(ROLLBACK)
        self._idle.append(connection)

    def _take_idle(self) -> Any:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        return None

    async def _open(self) -> Any:
        connection = await asyncpg.connect(
            self._address.dsn,
            timeout=CONNECT_SECONDS,
            command_timeout=None if self._timeout_seconds is None else self._timeout_seconds + GRACE_SECONDS,
            max_cached_statement_lifetime=0,
            server_settings={name: value for name, value in self._settings.items() if name not in self._address.given},
        )
        try:
            await connection.set_type_codec("timestamptz", schema="pg_catalog", **_INSTANTS)
            await connection.set_type_codec("uuid", schema="pg_catalog", **_IDS)
        except BaseException:
            self._end(connection)
            raise
        return connection

    def _end(self, connection: Any) -> None:
        """Say goodbye in the background: the caller has its error already, or is being cancelled."""
        task = asyncio.get_running_loop().create_task(_end(connection))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """Wait for the calls that have begun, but not for ever, then end all connections."""
        self._closing = True
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timeout_seconds):
                for _ in range(self._most):
                    await self._turns.acquire()
        for connection in self._idle:
            self._end(connection)
        self._idle = []
        await gather(self._ending)


async def _end(connection: Any) -> None:
    with suppress(*DRIVER_ERRORS):
        await connection.close(timeout=END_SECONDS)


async def gather(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Wait until all of them have ended, however they end."""
    await asyncio.gather(*tasks, return_exceptions=True)
