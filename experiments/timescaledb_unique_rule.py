"""Can a hypertable partitioned by time promise that an event id is stored once?"""

from experiments._report import Report
from experiments._servers import attempted, timescaledb

NO_INDEX = 'refused: TS103, cannot create a unique index without the column "occurred_at" (used in partitioning)'


async def experiment(report: Report) -> None:
    async with timescaledb(report) as connection:
        await connection.execute("CREATE TABLE events (event_id int NOT NULL, occurred_at timestamptz NOT NULL)")
        await connection.fetch(
            "SELECT create_hypertable('events', 'occurred_at', chunk_time_interval => interval '1 day')"
        )
        answer = await attempted(connection, "ALTER TABLE events ADD UNIQUE (event_id)")
        report.fact("UNIQUE (event_id)", answer, NO_INDEX)
        await connection.execute("CREATE TABLE keyed (event_id int PRIMARY KEY, occurred_at timestamptz NOT NULL)")
        answer = await attempted(connection, "SELECT create_hypertable('keyed', 'occurred_at')")
        report.fact("create_hypertable of a table with PRIMARY KEY (event_id)", answer, NO_INDEX)
        answer = await attempted(connection, "ALTER TABLE events ADD UNIQUE (event_id, occurred_at)")
        report.fact("UNIQUE (event_id, occurred_at)", answer, "ALTER TABLE")

        insert = "INSERT INTO events VALUES (1, '{}') ON CONFLICT DO NOTHING"
        for what, instant, stated in (
            ("an event", "2026-01-01 12:00", "INSERT 0 1"),
            ("the same again", "2026-01-01 12:00", "INSERT 0 0"),
            ("its id a microsecond later, in the same chunk", "2026-01-01 12:00:00.000001", "INSERT 0 1"),
            ("its id a day later, in another chunk", "2026-01-02 12:00", "INSERT 0 1"),
        ):
            report.fact(what, await attempted(connection, insert.format(instant)), stated)
        rows = await connection.fetchval("SELECT count(*) FROM events WHERE event_id = 1")
        report.fact("rows with that id", rows, 3)

        await connection.execute("CREATE TABLE ledger (event_id int PRIMARY KEY, occurred_at timestamptz NOT NULL)")
        ledger = insert.replace("events", "ledger")
        report.fact(
            "a plain table with the id as its key takes it",
            await attempted(connection, ledger.format("2026-01-01")),
            "INSERT 0 1",
        )
        report.fact("… and with another time", await attempted(connection, ledger.format("2026-01-02")), "INSERT 0 0")
