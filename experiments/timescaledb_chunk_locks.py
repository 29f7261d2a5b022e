"""How many locks does a transaction hold that writes to, makes or reads many chunks?

The server has one table of locks for everybody; what happens when it is full, `postgres_lock_table` shows.
"""

import asyncpg

from experiments._report import Report
from experiments._servers import timescaledb

CHUNKS = (1, 10, 100)


async def experiment(report: Report) -> None:
    async with timescaledb(report) as connection:
        size = await connection.fetchval(
            "SELECT current_setting('max_locks_per_transaction')::int * (current_setting('max_connections')::int"
            " + current_setting('max_prepared_transactions')::int)"
        )
        report.figure("locks that the settings make room for", f"{size:,}")
        await connection.execute("CREATE TABLE events (event_id int NOT NULL, occurred_at timestamptz NOT NULL)")
        await connection.fetch(
            "SELECT create_hypertable('events', 'occurred_at', chunk_time_interval => interval '1 day')"
        )
        for days in CHUNKS:
            insert = (
                "INSERT INTO events SELECT day, timestamptz '2026-01-01' + day * interval '1 day' "
                f"FROM generate_series(0, {days - 1}) AS day"
            )
            before = await connection.fetchval("SELECT count(*) FROM show_chunks('events')")
            _, total = await locks(connection, insert)
            report.figure(f"an insert that makes {days - before} chunks holds locks", str(total))
            held, total = await locks(connection, insert)
            report.fact(f"an insert into {days} existing chunks holds locks on chunks", held, days)
            report.figure("… locks in all", str(total))
        for what, condition, stated in (
            ("a count without a range", "true", CHUNKS[-1]),
            ("a count over two days", "occurred_at >= '2026-01-03' AND occurred_at < '2026-01-05'", 2),
        ):
            held, total = await locks(connection, f"SELECT count(*) FROM events WHERE {condition}")
            report.fact(f"{what} holds locks on chunks", held, stated)
            report.figure("… locks in all, with those on indexes", str(total))


async def locks(connection: asyncpg.Connection, sql: str) -> tuple[int, int]:
    """Run a statement in a transaction; how many chunks it holds locks on, and its rows in pg_locks."""
    async with connection.transaction():
        await connection.execute(sql)
        held = await connection.fetchrow(
            "SELECT count(DISTINCT relation) FILTER (WHERE relation IN (SELECT show_chunks('events'))), count(*) "
            "FROM pg_locks WHERE coalesce(pid, 0) = pg_backend_pid()"  # in WebAssembly the pid is 0 or null
        )
    return held[0], held[1]
