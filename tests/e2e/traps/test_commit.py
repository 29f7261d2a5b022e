"""Traps 3, 6, 7 and 9: what one COMMIT holds, whether its answer comes or not, whatever the dates and the order."""

import asyncio
import json
import random

import asyncpg
import pytest

from eventcore.errors import StoreError
from tests.e2e.traps.conftest import Start
from tests.e2e.traps.homes import (
    DAY,
    Urls,
    a_batch,
    a_consumer,
    a_core,
    an_event,
    booked,
    counted,
    drain_all,
    drain_once,
    send_until_told,
    stored,
    until,
)
from tests.unit.postgres.test_writing import a_proxy

pytestmark = pytest.mark.e2e

# Trap 3


async def test_a_retry_with_another_time_is_stored_once(postgres_url: str) -> None:
    """Weeks apart, so that a hypertable would keep them in two chunks, of which none sees the other's keys."""
    async with a_core(Urls(store=postgres_url)) as core:
        await send_until_told(core, a_batch(range(20)))
        await send_until_told(core, a_batch(range(20), occurred_at="2026-01-01T12:00:00Z"))
        assert await counted(core) == 20
        assert await booked(core) == {"received": 40, "accepted": 20, "conflicts": 20, "stored": 20}
        days = (await core.daily_active_users("2026-01-01", DAY)).data
        assert [row["date"] for row in days if row["users"]] == [DAY]


# Trap 6


async def test_writers_of_the_same_events_in_any_order_lose_none(postgres_url: str) -> None:
    """Each round, four writers bring a thousand new events at once, each in an order of its own, and a hundred more."""
    choose = random.Random(20261123)
    rounds = range(0, 8 * 1_400, 1_400)
    async with a_core(Urls(store=postgres_url)) as one, a_core(Urls(store=postgres_url)) as other:
        told: list[object] = []
        for start in rounds:
            bodies = []
            for own in range(start + 1_000, start + 1_400, 100):
                numbers = [*range(start, start + 1_000), *range(own, own + 100)]
                choose.shuffle(numbers)
                bodies.append(a_batch(numbers, properties={}))
            writers = [core.ingest_body(body) for core, body in zip((one, one, other, other), bodies, strict=True)]
            told += await asyncio.gather(*writers, return_exceptions=True)
        sent = set(range(8 * 1_400))
        assert await stored(one, sent) == sent
        assert [error for error in told if isinstance(error, BaseException)] == []
        duplicates = 3 * 1_000 * len(rounds)
        assert await booked(one) == {
            "received": len(sent) + duplicates,
            "accepted": len(sent),
            "duplicates": duplicates,
            "stored": len(sent),
        }
        assert await counted(one) == len(sent)
        assert list(await one.store.verify()) == []


# Trap 7


async def test_a_batch_over_fifty_years_is_stored(postgres_url: str) -> None:
    """One event in each month from 1974 to 2023, in one request; with a hypertable, see tests/unit/postgres."""
    events = [
        an_event(number, occurred_at=f"{1974 + number // 12}-{number % 12 + 1:02}-15T12:00:00Z")
        for number in range(600)
    ]
    async with a_core(Urls(store=postgres_url)) as core:
        body = json.dumps(events).encode()
        assert await send_until_told(core, body) == (600, 0, 0, 0)
        assert await send_until_told(core, body) == (0, 600, 0, 0)
        assert await stored(core, range(600)) == set(range(600))
        assert await counted(core) == 48
        assert (await booked(core))["stored"] == 600


# Trap 9, and when to acknowledge


async def test_a_lost_answer_to_commit_is_stored_once_and_counted_once(postgres_url: str, queue_url: str) -> None:
    """The worker does not know what became of its transaction, so the messages come again."""
    async with (
        a_proxy(postgres_url, cut_behind=b"COMMIT\0") as (proxied, cuts),
        a_core(Urls(store=postgres_url, queue=queue_url)) as api,
        a_core(Urls(store=proxied)) as worker,
        a_consumer(queue_url) as consumer,
    ):
        await send_until_told(api, a_batch(range(700), properties={}))
        while not cuts:
            await drain_once(worker.store, await consumer.fetch(50, 2.0))
        await drain_all(worker.store, queue_url)
        assert await booked(api) == {"received": 700, "accepted": 700, "stored": 700}
        assert await counted(api) == 700
        assert await stored(api, range(700)) == set(range(700))


async def test_a_lost_answer_to_commit_is_unknown_to_the_sender_too(postgres_url: str) -> None:
    """Without a queue: whoever hears nothing sends again, and hears that it was stored."""
    async with a_proxy(postgres_url, cut_behind=b"COMMIT\0") as (proxied, cuts), a_core(Urls(store=proxied)) as core:
        with pytest.raises(StoreError) as unknown:
            await core.ingest_body(a_batch(range(100)))
        assert unknown.value.retryable
        assert cuts
        assert await send_until_told(core, a_batch(range(100))) == (0, 100, 0, 0)
        assert await counted(core) == 100


async def test_a_worker_killed_before_commit_loses_nothing(postgres_url: str, queue_url: str, start: Start) -> None:
    """A real worker, held up in its transaction by a lock on the books; whatever it acknowledged before is lost."""
    urls = Urls(store=postgres_url, queue=queue_url)
    async with a_core(urls) as core:
        await send_until_told(core, a_batch([0]))
        await drain_all(core.store, queue_url, silence_seconds=0.2)
        locking = await asyncpg.connect(postgres_url)
        async with locking.transaction():
            await locking.execute("LOCK TABLE ingestion_books")
            await send_until_told(core, a_batch(range(1, 300), properties={}))
            worker = await asyncio.to_thread(start, "worker", urls)
            await until(lambda: locking.fetchval("SELECT count(*) > 0 FROM pg_locks WHERE NOT granted"))
            await asyncio.to_thread(worker.kill)
        await locking.close()
        await drain_all(core.store, queue_url, silence_seconds=2.0)
        assert await stored(core, range(300)) == set(range(300))
        assert await booked(core) == {"received": 300, "accepted": 300, "stored": 300}
