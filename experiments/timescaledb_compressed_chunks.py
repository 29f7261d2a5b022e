"""What happens to a late row whose chunk is compressed, with and without a unique constraint?

Rows lie in the row store of the chunk or, compressed by the thousand, in its columnstore; a chunk with both is partial.
"""

import asyncpg

from experiments._report import Report
from experiments._servers import attempted, timescaledb

ROWS = 3_000
LATE = 500
TAKEN = "(5, '2026-02-01 05:00', 'other')"  # event 5 is there with another text


async def experiment(report: Report) -> None:
    async with timescaledb(report) as connection:
        await connection.execute(
            "CREATE TABLE events"
            " (event_id int NOT NULL, occurred_at timestamptz NOT NULL, text text, UNIQUE (event_id, occurred_at))"
        )
        await connection.fetch(
            "SELECT create_hypertable('events', 'occurred_at', chunk_time_interval => interval '1 day')"
        )
        await connection.execute(
            "INSERT INTO events SELECT n, timestamptz '2026-02-01' + (n % 24) * interval '1 hour', 'first' "
            f"FROM generate_series(1, {ROWS}) AS n"
        )
        await connection.execute(
            "ALTER TABLE events SET (timescaledb.compress, timescaledb.compress_segmentby = '',"
            " timescaledb.compress_orderby = 'occurred_at, event_id')"
        )
        await compress(connection)
        report.fact(
            "compressed, the chunk", await chunk(connection), "is COMPRESSED, 0 rows in the row store, 3000 in all"
        )

        late = f"INSERT INTO events SELECT 10000 + n, '2026-02-01 12:30', 'late' FROM generate_series(1, {LATE}) AS n"
        report.fact(f"{LATE} late rows", await attempted(connection, late), f"INSERT 0 {LATE}")
        partial = "is COMPRESSED and PARTIAL, 500 rows in the row store, 3500 in all"
        report.fact("then the chunk", await chunk(connection), partial)
        answer = await attempted(connection, f"INSERT INTO events VALUES {TAKEN}")
        report.fact(
            "an id and time that are in the columnstore", answer.partition(" value")[0], "refused: 23505, duplicate key"
        )
        nothing = f"INSERT INTO events VALUES {TAKEN} ON CONFLICT DO NOTHING"
        report.fact("… ON CONFLICT DO NOTHING", await attempted(connection, nothing), "INSERT 0 0")
        report.fact("then the chunk", await chunk(connection), partial)
        answer = await attempted(
            connection, f"INSERT INTO events VALUES {TAKEN.replace('05:00', '05:01')} ON CONFLICT DO NOTHING"
        )
        report.fact("the id with another time, ON CONFLICT DO NOTHING", answer, "INSERT 0 1")
        update = (
            f"INSERT INTO events VALUES {TAKEN} ON CONFLICT (event_id, occurred_at) DO UPDATE SET text = excluded.text"
        )
        report.fact(
            "ON CONFLICT DO UPDATE of one row in the columnstore", await attempted(connection, update), "INSERT 0 1"
        )
        stated = "is COMPRESSED and PARTIAL, 1501 rows in the row store, 3501 in all"
        report.fact("then the chunk", await chunk(connection), stated)

        await compress(connection)
        stated = "is COMPRESSED, 0 rows in the row store, 3501 in all"
        report.fact("compressed again, the chunk", await chunk(connection), stated)
        async with connection.transaction():
            await connection.execute("SET LOCAL timescaledb.max_tuples_decompressed_per_dml_transaction = 100")
            try:
                async with connection.transaction():
                    answer = await connection.execute(update)
            except asyncpg.PostgresError as error:
                answer = f"refused: {error.sqlstate}, {error.args[0]}"
        stated = "refused: 53400, tuple decompression limit exceeded by operation"
        report.fact("DO UPDATE of one row, where 100 rows may be decompressed", answer, stated)


async def compress(connection: asyncpg.Connection) -> None:
    await connection.fetch("SELECT compress_chunk(chunk) FROM show_chunks('events') AS chunk")


async def chunk(connection: asyncpg.Connection) -> str:
    """The state of the only chunk, and where its rows are."""
    name, states = await connection.fetchrow(
        "SELECT chunk::text, _timescaledb_functions.chunk_status_text(chunk) FROM show_chunks('events') AS chunk"
    )
    loose = await connection.fetchval(f"SELECT count(*) FROM ONLY {name}")
    total = await connection.fetchval("SELECT count(*) FROM events")
    return f"is {' and '.join(sorted(states))}, {loose} rows in the row store, {total} in all"
