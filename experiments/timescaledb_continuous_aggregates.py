"""Does a continuous aggregate know of late events, and can it count users?

Three days with 24 events of 10 users each; then one late event of an 11th user on the first day, and one on the third.
The same view is made twice, with real-time aggregation and without.
"""

import asyncpg

from experiments._report import Report
from experiments._servers import attempted, timescaledb

VIEWS = {"materialized": True, "realtime": False}


async def experiment(report: Report) -> None:
    async with timescaledb(report) as connection:
        await connection.execute("CREATE TABLE events (user_key int NOT NULL, occurred_at timestamptz NOT NULL)")
        await connection.fetch(
            "SELECT create_hypertable('events', 'occurred_at', chunk_time_interval => interval '1 day')"
        )
        await connection.execute(
            "INSERT INTO events SELECT hour % 10, timestamptz '2026-02-01' + hour * interval '1 hour' "
            "FROM generate_series(0, 71) AS hour"
        )
        for name, materialized_only in VIEWS.items():
            await connection.execute(view(name, f", timescaledb.materialized_only = {materialized_only}"))
        await connection.execute(view("plain"))
        default = await connection.fetchval(
            "SELECT materialized_only FROM timescaledb_information.continuous_aggregates"
            " WHERE view_name = 'plain' AND view_schema = current_schema()"
        )
        report.fact("without a word, real-time aggregation is on", not default, False)
        await check(report, connection, "never refreshed", "nothing", "24/10 24/10 24/10")
        for name in VIEWS:
            await refresh(connection, name, None, "2026-02-03")
        await check(report, connection, "refreshed up to the third day", "24/10 24/10", "24/10 24/10 24/10")
        await connection.execute("INSERT INTO events VALUES (99, '2026-02-01 10:30'), (99, '2026-02-03 10:30')")
        await check(
            report, connection, "a late event on the first day and one on the third", "24/10 24/10", "24/10 24/10 25/11"
        )
        for name in VIEWS:
            await refresh(connection, name, "2026-02-02", "2026-02-04")
        await check(report, connection, "refreshed from the second day on", "24/10 24/10 25/11", "24/10 24/10 25/11")
        for name in VIEWS:
            await refresh(connection, name, "2026-02-01", "2026-02-02")
        await check(report, connection, "the first day refreshed", "25/11 24/10 25/11", "25/11 24/10 25/11")

        summed = await connection.fetchval("SELECT sum(users)::int FROM materialized")
        exact = await connection.fetchval("SELECT count(DISTINCT user_key) FROM events")
        report.fact(
            "users of three days, summed up from the aggregate and counted", f"{summed} and {exact}", "32 and 11"
        )
        local = view("local").replace("occurred_at)", "occurred_at AT TIME ZONE 'Europe/Kyiv')")
        stated = "refused: 0A000, time bucket function must reference the primary hypertable dimension column"
        report.fact("a view by local days, AT TIME ZONE", await attempted(connection, local), stated)
        local = view("local").replace("occurred_at)", "occurred_at, 'Europe/Kyiv')")
        report.fact("a view by the days of one zone", await attempted(connection, local), "CREATE MATERIALIZED VIEW")
        async with connection.transaction():
            try:
                async with connection.transaction():
                    await refresh(connection, "materialized", None, None)
                answer = "done"
            except asyncpg.PostgresError as error:
                answer = f"refused: {error.sqlstate}"
        report.fact("a refresh in the transaction that stores events", answer, "refused: 25001")

        await connection.fetch("SELECT drop_chunks('events', older_than => timestamptz '2026-02-02')")
        await check(report, connection, "the first day's rows dropped", "25/11 24/10 25/11", "25/11 24/10 25/11")
        await connection.execute("INSERT INTO events VALUES (5, '2026-02-01 11:30')")
        for name in VIEWS:
            await refresh(connection, name, "2026-02-01", "2026-02-02")
        await check(report, connection, "then a late event on it, and a refresh", "1/1 24/10 25/11", "1/1 24/10 25/11")


def view(name: str, options: str = "") -> str:
    """Events and users a day."""
    return (
        f"CREATE MATERIALIZED VIEW {name} WITH (timescaledb.continuous{options}) AS "
        "SELECT time_bucket('1 day', occurred_at) AS day, count(*) AS events, count(DISTINCT user_key) AS users "
        "FROM events GROUP BY 1 WITH NO DATA"
    )


async def refresh(connection: asyncpg.Connection, name: str, start: str | None, end: str | None) -> None:
    bounds = ", ".join("NULL" if bound is None else f"timestamptz '{bound}'" for bound in (start, end))
    await connection.execute(f"CALL refresh_continuous_aggregate('{name}', {bounds})")


async def check(report: Report, connection: asyncpg.Connection, what: str, materialized: str, realtime: str) -> None:
    """Compare what both views say of each day: events/users."""
    for name, stated in (("materialized", materialized), ("realtime", realtime)):
        rows = await connection.fetch(f"SELECT events, users FROM {name} ORDER BY day")
        seen = " ".join(f"{row['events']}/{row['users']}" for row in rows) or "nothing"
        report.fact(f"{what}, {name} only" if name == "materialized" else "… with real-time aggregation", seen, stated)
