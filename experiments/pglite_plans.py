"""Why does a prepared statement not see late rows in a compressed chunk on the TimescaleDB in WebAssembly?

A plan made before is to be made anew when a chunk becomes partly compressed. Whether the server in WebAssembly notices
what its own transaction made invalid is asked without TimescaleDB too, and of a native PostgreSQL.
"""

import asyncpg

from experiments._report import Report
from experiments._servers import postgres_server, wasm_server

ROWS = 1_000


async def experiment(report: Report) -> None:
    with postgres_server(report, fsync=False) as server:
        report.fact(
            "the plan used behind a change of the catalog is the", await changed_function(server.url), "new one"
        )
    with wasm_server(report) as server:
        report.note("server: TimescaleDB in WebAssembly")
        report.fact(
            "the plan used behind a change of the catalog is the", await changed_function(server.url), "old one"
        )
        alone, followed = await late_rows(server.url)
        report.fact(f"of {ROWS + 1:,} rows, one of them late, a prepared count sees", alone, ROWS)
        report.fact("… when something else is changed behind the late row in its transaction", followed, ROWS + 1)


async def changed_function(url: str) -> str:
    """Whether a plan is kept when a function that is in it becomes strict."""
    connection = await asyncpg.connect(url, statement_cache_size=0)
    try:
        await connection.execute("CREATE FUNCTION answer(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 42'")
        await connection.execute("PREPARE ask AS SELECT answer(NULL)")
        before = await connection.fetchval("EXECUTE ask")
        # Not as one should: ALTER FUNCTION does more behind the change, and that is what hides the difference.
        await connection.execute("UPDATE pg_proc SET proisstrict = true WHERE proname = 'answer'")
        after = await connection.fetchval("EXECUTE ask")
    finally:
        await connection.close()
    assert before == 42
    return "old one" if after == 42 else "new one"


async def late_rows(url: str) -> list[int]:
    """What a prepared statement counts after a late row, stored in a transaction of its own and with another change."""
    connection = await asyncpg.connect(url, statement_cache_size=0)
    late = "INSERT INTO {} VALUES ('2026-02-01 12:30')"
    counts = []
    try:
        for name, statements in (("alone", [late]), ("followed", ["BEGIN", late, "CREATE TABLE other ()", "COMMIT"])):
            await connection.execute(f"CREATE TABLE {name} (occurred_at timestamptz NOT NULL)")
            await connection.fetch(f"SELECT create_hypertable('{name}', 'occurred_at')")
            await connection.execute(f"INSERT INTO {name} SELECT '2026-02-01' FROM generate_series(1, {ROWS})")
            await connection.execute(f"ALTER TABLE {name} SET (timescaledb.compress)")
            await connection.fetch(f"SELECT compress_chunk(chunk) FROM show_chunks('{name}') AS chunk")
            await connection.execute(f"PREPARE count_{name} AS SELECT count(*) FROM {name}")
            assert await connection.fetchval(f"EXECUTE count_{name}") == ROWS
            for statement in statements:
                await connection.execute(statement.format(name))
            counts.append(await connection.fetchval(f"EXECUTE count_{name}"))
            assert await connection.fetchval(f"SELECT count(*) FROM {name}") == ROWS + 1
    finally:
        await connection.close()
    return counts
