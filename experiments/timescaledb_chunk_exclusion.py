"""Which conditions spare TimescaleDB the reading of chunks?

``EXPLAIN (ANALYZE)`` tells which chunks were read, and whether the others were left out by the planner, when the query
started, or only while it ran.
"""

import json
from typing import Any

import asyncpg

from experiments._report import Report
from experiments._servers import timescaledb

DAYS = 20
START = "2026-02-01"
RANGE = "occurred_at >= '2026-02-03' AND occurred_at < '2026-02-05'"


async def experiment(report: Report) -> None:
    async with timescaledb(report) as connection:
        await connection.execute("CREATE TABLE events (event_id int NOT NULL, occurred_at timestamptz NOT NULL)")
        await connection.fetch(
            "SELECT create_hypertable('events', 'occurred_at', chunk_time_interval => interval '1 day')"
        )
        await connection.execute(
            f"INSERT INTO events SELECT hour, timestamptz '{START}' + hour * interval '1 hour' "
            f"FROM generate_series(0, {DAYS * 24 - 1}) AS hour"
        )
        chunks = await connection.fetchval("SELECT count(*) FROM show_chunks('events')")
        report.fact("chunks", chunks, DAYS)
        for condition, stated in (
            ("true", "20 read"),
            (RANGE, "2 read, 18 left out by the planner"),
            ("event_id = 77", "20 read"),
            ("occurred_at::date = '2026-02-03'", "20 read"),
            ("date_trunc('day', occurred_at AT TIME ZONE 'Europe/Kyiv') = '2026-02-03'", "20 read"),
            ("time_bucket('1 day', occurred_at) = '2026-02-03'", "20 read"),
            ("occurred_at >= (SELECT timestamptz '2026-02-19')", "2 read, 18 left out while it ran"),
        ):
            report.fact(
                f"WHERE {condition}",
                await chunks_of(connection, f"SELECT count(*) FROM events WHERE {condition}"),
                stated,
            )

        await connection.execute(
            "PREPARE ask (timestamptz, timestamptz) AS "
            "SELECT count(*) FROM events WHERE occurred_at >= $1 AND occurred_at < $2"
        )
        execute = "EXECUTE ask ('2026-02-03', '2026-02-05')"
        for mode, stated in (
            ("force_custom_plan", "2 read, 18 left out by the planner"),
            ("force_generic_plan", "2 read, 18 left out at the start"),
        ):
            await connection.execute(f"SET plan_cache_mode = {mode}")
            report.fact(f"the range as parameters, {mode}", await chunks_of(connection, execute), stated)
        await connection.execute("DEALLOCATE ask; RESET plan_cache_mode")


async def chunks_of(connection: asyncpg.Connection, sql: str) -> str:
    """How many chunks were read, and when the others were left out."""
    [plan] = json.loads(await connection.fetchval(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {sql}"))
    shown: set[str] = set()
    read: set[str] = set()
    at_start = 0

    def walk(node: dict[str, Any]) -> None:
        nonlocal at_start
        at_start += node.get("Chunks excluded during startup", 0)
        name = str(node.get("Relation Name", ""))
        if name.startswith("_hyper"):
            shown.add(name)
            if node["Actual Loops"]:
                read.add(name)
        for child in node.get("Plans", ()):
            walk(child)

    walk(plan["Plan"])
    if len(read) == DAYS:
        return f"{DAYS} read"
    left_out = {
        "by the planner": DAYS - len(shown) - at_start,
        "at the start": at_start,
        "while it ran": len(shown - read),
    }
    return f"{len(read)} read, " + ", ".join(f"{chunks} left out {when}" for when, chunks in left_out.items() if chunks)
