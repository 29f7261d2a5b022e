"""Servers that are missing, come late or are killed, and processes in any order: everything comes back unaided.

EVENTCORE_TEST_OUTAGE_SECONDS is how long a server stays away, 8 unless told otherwise, 30 for the real thing;
EVENTCORE_TEST_SEED replays a schedule. The oracle is the sender's own book: LOST, DUP, PHANTOM and WRONG are all 0.
"""

import asyncio
import json
import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest

from tests.e2e.stack.asking import (
    ask,
    check_books,
    dau,
    pending,
    retention,
    top_events,
    totals,
    wait_until_stored,
)
from tests.e2e.stack.homes import Servers, ending
from tests.e2e.stack.loading import Load
from tests.e2e.stack.running import EVENTCORE, GRACE_SECONDS, LOCAL, Stack, environment, until
from tests.e2e.stack.sending import Event, Sender, an_event, request

OUTAGE_SECONDS = float(os.environ.get("EVENTCORE_TEST_OUTAGE_SECONDS", "8"))
SEED = int(os.environ.get("EVENTCORE_TEST_SEED", "20260101"))
LOOK_SECONDS = 0.5

QUESTIONS = (
    dau("2025-02-25", "2025-03-25", "Europe/Kyiv"),
    top_events("2025-02-25", "2025-03-25"),
    retention("2025-03-01", "day", 7, 10),
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


def a_batch(number: int, events: int = 40) -> list[Event]:
    """New events of about 300 users, on twenty days."""
    numbers = range(number * events + 1, (number + 1) * events + 1)
    days = [datetime(2025, 3, 1 + one % 20, one % 24, tzinfo=UTC) for one in numbers]
    return [an_event(one, f"user-{one % 300}", day) for one, day in zip(numbers, days, strict=True)]


def during_the_outage(look: Callable[[int], None], seconds: float = OUTAGE_SECONDS) -> None:
    """Look again and again, with a number that grows, and at least twice."""
    ends = time.monotonic() + seconds
    number = 0
    while number < 2 or time.monotonic() < ends:
        look(number)
        number += 1
        time.sleep(LOOK_SECONDS)


def refused(answer: httpx.Response) -> bool:
    """Whether it says: not now, try again."""
    return answer.status_code == 503 and int(answer.headers["Retry-After"]) > 0


def statistics_refused(stack: Stack) -> bool:
    return refused(LOCAL.get(f"{stack.url}/stats/top-events?from=2025-03-01&to=2025-03-02"))


def until_well(stack: Stack) -> None:
    """Wait until every process says that it is."""
    until(lambda: stack.api.document("/health/ready")["status"] == "ok", "the API is ready")
    for worker in stack.workers:
        until(lambda worker=worker: worker.status("/health/ready") == 200, "a worker is ready")  # type: ignore[misc]


def check_exact(stack: Stack, events: Sequence[Event]) -> None:
    """WRONG is 0, and the store agrees with itself."""
    for question in QUESTIONS:
        assert ask(stack.url, question.path, question.parameters)["data"] == question.expected(events)
    stack.verify()


def check_all(stack: Stack, sender: Sender) -> None:
    """Everything that was accepted is stored, once, and counted."""
    until_well(stack)
    wait_until_stored(stack.url, sender.books)
    check_books(stack.url, "default", sender.books["default"])
    check_exact(stack, sender.books["default"].events)
    sender.close()


def refused_until_keys_are_read(stack: Stack) -> Callable[[int], None]:
    """Nobody knows yet whether there are keys, so nobody gets in."""

    def look(number: int) -> None:
        assert refused(LOCAL.post(f"{stack.url}/events", **request(a_batch(number), "array")))
        assert stack.api.status("/health/ready") == 503
        assert stack.api.status("/health/live") == 200
        assert statistics_refused(stack)
        assert [worker.status("/health/ready") for worker in stack.workers] == [503]
        assert [worker.status("/health/live") for worker in stack.workers] == [200]

    return look


def test_postgresql_is_missing_at_the_start(own: Servers, stack: Stack) -> None:
    stack.migrate()
    own.postgres.stop()
    stack.start_workers()
    stack.start_api()
    during_the_outage(refused_until_keys_are_read(stack), OUTAGE_SECONDS / 2)
    own.postgres.start()
    until_well(stack)
    own.postgres.stop()
    until(lambda: stack.api.document("/health/ready")["status"] == "degraded", "the API knows that it is away")
    sender = Sender(stack.url)

    def look(number: int) -> None:
        assert sender.send(a_batch(number))["accepted"] == 40
        assert stack.api.status("/health/ready") == 200
        assert stack.api.document("/health/ready")["status"] == "degraded"
        assert statistics_refused(stack)

    during_the_outage(look)
    own.postgres.start()
    check_all(stack, sender)


def test_keys_that_were_read_take_events_in_while_postgresql_is_away(own: Servers, stack: Stack) -> None:
    stack.migrate()
    made = json.loads(stack.run("keys", "create", "--project", "shop", "--scope", "ingest,read", "--json").stdout)
    stack.start_workers()
    stack.start_api()
    until_well(stack)

    def post(number: int, key: str) -> httpx.Response:
        sent = request(a_batch(number), "array")
        sent["headers"] |= {"Authorization": f"Bearer {key}"}
        return LOCAL.post(f"{stack.url}/events", **sent)

    def stored() -> int:
        days = [(datetime.now(UTC) + timedelta(days=number)).date() for number in (-1, 1)]
        asked = f"{stack.url}/stats/ingestion?from={days[0]}&to={days[1]}"
        answer = LOCAL.get(asked, headers={"X-Api-Key": made["key"]})
        assert answer.status_code in (200, 503), answer.text
        return sum(day["stored"] for day in answer.json()["data"]) if answer.status_code == 200 else -1

    assert post(0, made["key"]).json()["accepted"] == 40
    own.postgres.stop()
    accepted = [0]

    def look(number: int) -> None:
        assert post(number + 1, made["key"]).json()["accepted"] == 40
        accepted[0] = number + 1
        assert post(number, "ec_live_abcdefgh_" + "a" * 32).status_code == 401
        assert LOCAL.post(f"{stack.url}/events", **request(a_batch(number), "array")).status_code == 401
        assert stored() == -1

    during_the_outage(look)
    own.postgres.start()
    until(lambda: stored() == 40 * (accepted[0] + 1), "all that was accepted is stored")
    stack.verify()


def test_nats_is_missing_at_the_start(own: Servers, stack: Stack) -> None:
    stack.migrate()
    own.nats.stop()
    stack.start_api()
    stack.start_workers()

    def look(number: int) -> None:
        assert refused(LOCAL.post(f"{stack.url}/events", **request(a_batch(number), "array")))
        assert stack.api.status("/health/ready") == 503
        assert stack.api.status("/health/live") == 200
        assert [worker.status("/health/ready") for worker in stack.workers] == [503]

    during_the_outage(look)
    own.nats.start()
    until_well(stack)
    sender = Sender(stack.url)
    for number in range(10):
        assert sender.send(a_batch(number))["accepted"] == 40
    check_all(stack, sender)


def test_redis_is_missing_at_the_start(own: Servers, stack: Stack) -> None:
    stack.migrate()
    own.redis.stop()
    stack.start_workers()
    stack.start_api()
    sender = Sender(stack.url)

    def look(number: int) -> None:
        assert sender.send(a_batch(number))["accepted"] == 40
        assert sender.send(a_batch(number))["duplicates"] == 0
        assert stack.api.status("/health/ready") == 200
        assert not statistics_refused(stack)
        assert [worker.status("/health/ready") for worker in stack.workers] == [200]

    during_the_outage(look)
    wait_until_stored(stack.url, sender.books)
    assert totals(stack.url)["duplicate_at_store"] == sender.books["default"].duplicates
    own.redis.start()
    until(lambda: sender.send(a_batch(0))["duplicates"] == 40, "the cache is asked again", look_seconds=LOOK_SECONDS)
    check_all(stack, sender)


def test_the_store_is_not_made_at_the_start(own: Servers, stack: Stack) -> None:
    stack.start_workers()
    stack.start_api()
    during_the_outage(refused_until_keys_are_read(stack), OUTAGE_SECONDS / 2)
    stack.migrate()
    until_well(stack)
    sender = Sender(stack.url)
    assert sender.send(a_batch(0))["accepted"] == 40
    check_all(stack, sender)


def test_without_a_queue_the_api_refuses_until_the_store_is_there(own: Servers, tmp_path: Path) -> None:
    own.postgres.stop()
    with ending(Stack(tmp_path, {"store_url": own.postgres.url})) as stack:
        stack.start_api()

        def look(number: int) -> None:
            assert refused(LOCAL.post(f"{stack.url}/events", **request(a_batch(number), "array")))
            assert statistics_refused(stack)
            assert stack.api.status("/health/ready") == 503
            assert stack.api.status("/health/live") == 200

        during_the_outage(look, OUTAGE_SECONDS / 4)
        own.postgres.start()
        during_the_outage(look, OUTAGE_SECONDS / 4)
        stack.migrate()
        until_well(stack)
        sender = Sender(stack.url)
        assert sender.send(a_batch(0))["accepted"] == 40
        check_all(stack, sender)


@pytest.mark.parametrize("seed", [SEED, SEED + 1])
def test_everything_starts_in_any_order(own: Servers, stack: Stack, seed: int) -> None:
    for server in (own.postgres, own.redis, own.nats):
        server.stop()
    migration: list[subprocess.Popen[bytes]] = []

    def migrate() -> None:
        command = [EVENTCORE, "migrate", "--wait", "120"]
        migration.append(subprocess.Popen(command, env=environment(stack.settings), cwd=stack.folder))

    starts = [
        own.postgres.start,
        own.redis.start,
        own.nats.start,
        stack.start_api,
        stack.start_workers,
        stack.start_workers,
        migrate,
    ]
    chance = random.Random(seed)
    chance.shuffle(starts)
    for start in starts:
        start()
        time.sleep(chance.random())
    assert migration[0].wait(60) == 0
    until_well(stack)
    sender = Sender(stack.url)
    for number in range(5):
        assert sender.send(a_batch(number))["accepted"] == 40
    check_all(stack, sender)


def test_servers_and_processes_are_killed_under_load(own: Servers, stack: Stack) -> None:
    stack.migrate()
    stack.start_workers(2)
    stack.start_api()
    loads = [Load(stack.url, SEED + number, number * 10**9 + 1) for number in range(2)]
    for load in loads:
        load.start()
    chance = random.Random(SEED)

    def killed(server: Any) -> Callable[[], None]:
        def kill_and_start() -> None:
            server.kill()
            time.sleep(chance.random())
            server.start()

        return kill_and_start

    def kill_api() -> None:
        stack.api.kill()
        stack.start_api()

    breaks = [
        *(killed(server) for server in (own.postgres, own.nats, own.redis)),
        kill_api,
        *(lambda number=number: stack.replace_worker(number) for number in range(2)),
    ]
    began = time.monotonic()
    rounds = 0
    while rounds == 0 or time.monotonic() - began < OUTAGE_SECONDS:
        chance.shuffle(breaks)
        for break_something in breaks:
            time.sleep(chance.random())
            break_something()
        rounds += 1
    for load in loads:
        load.finish()
    until_well(stack)
    until(lambda: pending(stack.url) == 0, "nothing is pending")
    sent = {event_id: event for load in loads for event_id, event in load.sent.items()}
    told = set().union(*(load.told for load in loads))
    assert sum(load.unknowns for load in loads) > 0
    assert len(sent) > 1_000
    assert zeros(own.postgres.url, sent.keys(), told) == {"LOST": 0, "DUP": 0, "PHANTOM": 0, "DEAD": 0}, f"seed {SEED}"
    assert totals(stack.url)["stored"] == len(sent)
    check_exact(stack, [*sent.values()])


def zeros(url: str, sent: set[str], told: set[str]) -> dict[str, int]:
    """What the tables themselves say."""

    async def read() -> tuple[list[str], int]:
        connection = await asyncpg.connect(url)
        rows = await connection.fetch("SELECT event_id::text FROM events")
        dead = await connection.fetchval("SELECT count(*) FROM dead_events")
        await connection.close()
        return [event_id for (event_id,) in rows], dead

    stored, dead = asyncio.run(read())
    return {
        "LOST": len(told - {*stored}),
        "DUP": sum(times - 1 for times in Counter(stored).values()),
        "PHANTOM": len({*stored} - sent),
        "DEAD": dead,
    }


def test_processes_that_are_told_to_stop_under_load_finish_what_they_began(own: Servers, stack: Stack) -> None:
    stack.migrate()
    stack.start_workers(2)
    stack.start_api()
    loads = [Load(stack.url, SEED + number, number * 10**9 + 1) for number in range(2)]
    for load in loads:
        load.start()
    time.sleep(1)
    for running in (*stack.workers, stack.api):
        assert running.stop() < GRACE_SECONDS
    stack.workers = []
    stack.start_api()
    stack.start_workers(2)
    time.sleep(0.5)
    for load in loads:
        load.finish()
    until_well(stack)
    until(lambda: pending(stack.url) == 0, "nothing is pending")
    sent = {event_id: event for load in loads for event_id, event in load.sent.items()}
    assert zeros(own.postgres.url, {*sent}, {*sent}) == {"LOST": 0, "DUP": 0, "PHANTOM": 0, "DEAD": 0}
    check_exact(stack, [*sent.values()])
