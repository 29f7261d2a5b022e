"""Raw events asked in SQL, in the store itself and in DuckDB: what the projection is compared with.

Speaks to drivers directly, past the adapters: that is its purpose, and nothing else here may do so. Each engine gets
what helps it within reason: memory for sorting, all cores, a column store of its own for DuckDB. Not here: the
questions (`bench_questions`).
"""

import asyncio
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

import asyncpg

from entrypoints.bench_processes import require
from entrypoints.bench_questions import FIRST, LAST, Rows, fixed_shift_us, statements

_CACHE_KIB: Final = 512 * 1024
_WORK_MEMORY: Final = "256MB"
_MICROSECOND: Final = 1_000_000


class Rival(Protocol):
    """An engine that answers the statements of bench_questions.sql.

    Attributes:
        technology: what it is, with its version.
        knows_zone: whether it can tell the days of the other zone.
    """

    technology: str
    knows_zone: bool

    def run(self, statement: str, **values: Any) -> Rows:
        """The rows of a statement."""
        ...


class SqliteRows:
    """The file of a store, read with SQL of our own; it knows a zone only where its clocks do not change."""

    def __init__(self, connection: sqlite3.Connection, zone: str) -> None:
        shift_us = fixed_shift_us(zone, FIRST, LAST)
        self.knows_zone = shift_us is not None
        self.technology = f"sqlite {sqlite3.sqlite_version}"
        self._connection = connection
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        connection.execute("PRAGMA temp_store = memory")
        connection.executescript(statements()["views_sqlite"].format(shift_us=shift_us or 0))

    def run(self, statement: str, **values: Any) -> Rows:
        """See `Rival.run`."""
        written = {name: _microseconds(value) for name, value in values.items()}
        return self._connection.execute(statements()[statement].format(**written)).fetchall()

    def projection_bytes(self) -> int:
        """What the projection takes on disk."""
        try:
            return int(self.run("projection_bytes_sqlite")[0][0])
        except sqlite3.OperationalError:  # no dbstat
            return int(self.run("projection_lengths_sqlite")[0][0] or 0)

    def waiting(self) -> tuple[int, int]:
        """Events that are not folded, and rows that hold them."""
        events, rows = self.run("waiting_sqlite")[0]
        return int(events), int(rows)


class PostgresRows:
    """The tables of a store, read with SQL of our own."""

    knows_zone = True

    def __init__(self, runner: asyncio.Runner, connection: Any, zone: str) -> None:
        self.technology = f"postgresql {'.'.join(map(str, connection.get_server_version()[:2]))}"
        self._runner = runner
        self._connection = connection
        runner.run(connection.execute(statements()["views_postgresql"].format(zone=zone)))

    def run(self, statement: str, **values: Any) -> Rows:
        """See `Rival.run`."""
        written = {name: _timestamp(value, "TIMESTAMPTZ") for name, value in values.items()}
        sql = statements()[statement].format(**written)
        rows: Rows = self._runner.run(self._connection.fetch(sql))
        return rows

    def projection_bytes(self) -> int:
        """What the projection takes on disk."""
        return int(self.run("projection_bytes_postgresql")[0][0])

    def waiting(self) -> tuple[int, int]:
        """Events that are not folded, and rows that hold them."""
        events, rows = self.run("waiting_postgresql")[0]
        return int(events), int(rows)


StoreRows = SqliteRows | PostgresRows


class DuckRows:
    """A DuckDB file with the same events."""

    knows_zone = True

    def __init__(self, connection: Any, zone: str) -> None:
        self.technology = f"duckdb {connection.execute('SELECT version()').fetchone()[0]}"
        self._connection = connection
        connection.execute(statements()["views_duckdb"].format(zone=zone))

    def run(self, statement: str, **values: Any) -> Rows:
        """See `Rival.run`."""
        written = {name: _timestamp(value, "TIMESTAMP") for name, value in values.items()}
        rows: Rows = self._connection.execute(statements()[statement].format(**written)).fetchall()
        return rows


@contextmanager
def open_rows(store_url: str, zone: str) -> Iterator[StoreRows]:
    """The raw rows of a store."""
    if store_url.startswith("sqlite:"):
        path = Path(store_url.removeprefix("sqlite:///"))
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
            yield SqliteRows(connection, zone)
        return
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(store_url, server_settings={"work_mem": _WORK_MEMORY}))
        try:
            yield PostgresRows(runner, connection, zone)
        finally:
            runner.run(connection.close())


@contextmanager
def open_duckdb(path: Path, zone: str) -> Iterator[DuckRows]:
    """A file that `load_duckdb` has made."""
    import duckdb

    with closing(duckdb.connect(str(path), read_only=True)) as connection:
        yield DuckRows(connection, zone)


def has_duckdb() -> bool:
    """Whether the extra ``bench`` is installed."""
    try:
        import duckdb  # noqa: F401
    except ImportError:
        return False
    return True


def load_duckdb(path: Path, files: Sequence[Path], events: int) -> None:
    """Make a DuckDB file of the generator's CSV files."""
    import duckdb

    with closing(duckdb.connect(str(path))) as connection:
        connection.execute(statements()["load_duckdb"].format(files=[str(file) for file in files]))
        found = connection.execute("SELECT count(*) FROM events").fetchone()
        require(found == (events,), f"DuckDB has read {found} rows of {events:,}")


def tidy(store_url: str) -> None:
    """Let the planner know the tables, as it does after a while by itself; PostgreSQL only."""
    if not store_url.startswith("sqlite:"):
        _execute(store_url, "VACUUM ANALYZE")


def make_database(server_url: str, name: str) -> str:
    """Make an empty database on a PostgreSQL server, in the place of one of the same name, and give its URL."""
    _execute(server_url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
    _execute(server_url, f'CREATE DATABASE "{name}"')
    before, _, options = server_url.partition("?")
    return f"{before.rpartition('/')[0]}/{name}" + (f"?{options}" if options else "")


def drop_database(server_url: str, name: str) -> None:
    """Delete a database, whoever is connected."""
    _execute(server_url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def _execute(url: str, sql: str) -> None:
    async def execute() -> None:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(sql)
        finally:
            await connection.close()

    asyncio.run(execute())


def _microseconds(value: Any) -> Any:
    if isinstance(value, datetime):
        return round(value.timestamp()) * _MICROSECOND
    return value


def _timestamp(value: Any, kind: str) -> Any:
    if isinstance(value, datetime):
        suffix = "+00" if kind == "TIMESTAMPTZ" else ""
        return f"{kind} '{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}{suffix}'"
    return value
