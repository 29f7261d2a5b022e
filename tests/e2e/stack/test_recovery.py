"""A backup is restored, or the stream is purged: after `eventcore epoch --new` what is gone is taken and stored again."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from os import getpid
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import nats
import pytest

from tests.e2e.stack.homes import a_prefix, a_stream, ending, need
from tests.e2e.stack.running import LOCAL, Stack, until
from tests.e2e.stack.sending import Event, an_event, request
from tests.support.fixtures import shared

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

DATABASE = f"recovered_{getpid()}"
BACKUP = f"{DATABASE}_backup"


def execute(*statements: str) -> None:
    """Run statements in the server's own database; each alone, since databases are not made in transactions."""

    async def run() -> None:
        connection = await asyncpg.connect(shared("postgres").url)
        for statement in statements:
            await connection.execute(statement)
        await connection.close()

    asyncio.run(run())


@contextmanager
def a_database() -> Iterator[str]:
    """The URL of an empty database, of which a copy can be made and put in its place."""
    gone = [f"DROP DATABASE IF EXISTS {name} WITH (FORCE)" for name in (DATABASE, BACKUP)]
    execute(*gone, f"CREATE DATABASE {DATABASE}")
    yield urlunsplit(urlsplit(shared("postgres").url)._replace(path=f"/{DATABASE}"))
    execute(*gone)


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """API and worker, with a database, a stream and a cache of their own."""
    need("postgres", "redis", "nats")
    with a_database() as store_url, a_stream(shared("nats").url) as queue_url:
        settings = {"store_url": store_url, "queue_url": queue_url, "dedup_url": a_prefix(shared("redis").url)}
        with ending(Stack(tmp_path, settings)) as stack:
            stack.migrate()
            stack.start_workers()
            stack.start_api()
            yield stack


def some(first: int) -> list[Event]:
    numbers = range(first, first + 40)
    return [an_event(one, f"user-{one % 7}", datetime(2025, 3, 1 + one % 20, tzinfo=UTC)) for one in numbers]


def send(stack: Stack, events: Sequence[Event]) -> tuple[int, int]:
    """How many were accepted, and how many are duplicates."""
    answer = LOCAL.post(f"{stack.url}/events", **request(events, "array"))
    assert answer.status_code == 202, answer.text
    said = answer.json()
    return said["accepted"], said["duplicates"]


def stored(stack: Stack, events: Sequence[Event]) -> int:
    """How many of these events are stored."""
    found = [LOCAL.get(f"{stack.url}/events/{event['event_id']}").status_code for event in events]
    assert set(found) <= {200, 404}
    return found.count(200)


def stop_all(stack: Stack) -> None:
    for running in (stack.api, *stack.workers):
        running.stop()
    stack.workers.clear()


def begin_epoch(stack: Stack) -> None:
    done = stack.run("epoch", "--new")
    assert done.returncode == 0, done.stderr.decode()


def test_what_a_restored_backup_lacks_is_stored_when_it_is_sent_again(stack: Stack) -> None:
    kept, lost = some(1), some(1_001)
    assert send(stack, kept) == (40, 0)
    until(lambda: stored(stack, kept) == 40, "it is stored")
    stop_all(stack)  # a copy of a database needs it for itself
    execute(f"CREATE DATABASE {BACKUP} TEMPLATE {DATABASE}")
    stack.start_workers()
    stack.start_api()
    assert send(stack, lost) == (40, 0)
    until(lambda: stored(stack, lost) == 40, "it is stored")
    stop_all(stack)

    execute(f"DROP DATABASE {DATABASE}", f"CREATE DATABASE {DATABASE} TEMPLATE {BACKUP}")
    stack.start_workers()
    stack.start_api()
    assert (stored(stack, kept), stored(stack, lost)) == (40, 0)
    assert send(stack, lost) == (0, 40), "Redis has not remembered them, so nothing is shown here"
    stop_all(stack)

    begin_epoch(stack)
    stack.start_workers()
    stack.start_api()
    assert send(stack, lost) == (40, 0)
    until(lambda: stored(stack, lost) == 40, "it is stored again")
    assert send(stack, lost) == (0, 40)
    assert stored(stack, kept) == 40
    stop_all(stack)
    stack.verify()


def test_what_was_in_a_purged_stream_is_stored_when_it_is_sent_again(stack: Stack) -> None:
    kept, purged = some(1), some(1_001)
    assert send(stack, kept) == (40, 0)
    until(lambda: stored(stack, kept) == 40, "it is stored")
    stack.workers.pop().stop()
    assert send(stack, purged) == (40, 0)
    purge(str(stack.settings["queue_url"]))
    stack.start_workers()
    assert send(stack, purged) == (0, 40), "Redis has not remembered them, so nothing is shown here"
    assert stored(stack, purged) == 0

    begin_epoch(stack)
    # The API asks its store for the epoch now and then; it need not be stopped for a new one.
    until(lambda: send(stack, purged) == (40, 0), "the new epoch is known", 30)
    until(lambda: stored(stack, purged) == 40, "it is stored")
    assert stored(stack, kept) == 40
    stop_all(stack)
    stack.verify()


def purge(queue_url: str) -> None:
    """Empty the stream, as an operator does."""

    async def run() -> None:
        parts = urlsplit(queue_url)
        connection = await nats.connect(urlunsplit(parts._replace(path="", query="")))
        await connection.jetstream().purge_stream(parts.path.strip("/"))
        await connection.close()

    asyncio.run(run())
