"""What happens to a transaction that needs more locks than the server has room for?

On a native PostgreSQL with plain partitions, which take one lock each like the chunks of a hypertable, and with a small
table of locks so that few partitions are enough.
"""

import asyncpg

from experiments._report import Report
from experiments._servers import attempted, postgres_server

PARTITIONS = 700
FITS = 100
SETTINGS = {"max_locks_per_transaction": "10", "max_prepared_transactions": "0", "max_wal_senders": "0"}


async def experiment(report: Report) -> None:
    with postgres_server(report, fsync=False, max_connections=10, settings=SETTINGS) as server:
        connection = await asyncpg.connect(server.url)
        try:
            await connection.execute("CREATE TABLE events (event_id int, day int NOT NULL) PARTITION BY LIST (day)")
            for first in range(0, PARTITIONS, 50):
                await connection.execute(
                    ";".join(
                        f"CREATE TABLE events_{day} PARTITION OF events FOR VALUES IN ({day})"
                        for day in range(first, first + 50)
                    )
                )
            full = "refused: 53200, out of shared memory"
            report.fact(
                f"an insert into {FITS} partitions", await attempted(connection, insert(0, FITS)), f"INSERT 0 {FITS}"
            )
            for time in ("first", "second", "third"):
                answer = await attempted(connection, insert(0, PARTITIONS))
                report.fact(f"an insert into {PARTITIONS} partitions, the {time} time", answer, full)
            answers = [await attempted(connection, insert(first, FITS)) for first in range(0, PARTITIONS, FITS)]
            report.fact(f"the same rows in transactions of {FITS}", sorted(set(answers)), [f"INSERT 0 {FITS}"])
            report.fact("a count of all rows", await attempted(connection, "SELECT count(*) FROM events"), full)
            report.fact(
                "a count over 10 partitions",
                await attempted(connection, "SELECT count(*) FROM events WHERE day < 10"),
                "SELECT 1",
            )
            report.figure(f"largest insert that fits, of {PARTITIONS} partitions", str(await largest(connection)))
        finally:
            await connection.close()


def insert(first: int, count: int) -> str:
    """A row for each of so many partitions."""
    return f"INSERT INTO events SELECT day, day FROM generate_series({first}, {first + count - 1}) AS day"


async def largest(connection: asyncpg.Connection) -> int:
    low, high = FITS, PARTITIONS
    while high - low > 1:
        middle = (low + high) // 2
        fits = (await attempted(connection, insert(0, middle))).startswith("INSERT")
        low, high = (middle, high) if fits else (low, middle)
    return low
