"""Writing beside others, and while the server is in trouble: each event once, whatever happens."""

import asyncio
import json
import random
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import count
from time import monotonic

import asyncpg
import pytest

from adapters.postgres import migrate, open_store
from adapters.postgres.appending import Appending
from eventcore.errors import Kind, StoreError
from eventcore.events import Book, Chunk, Receipt
from eventcore.ports import EventStore
from eventcore.strategies import AN_INSTANT_US, a_chunk, an_event, an_id
from tests.support import servers
from tests.support.processes import OwnServer

DAY = "2026-03-01"


async def books_of(store: EventStore) -> list[Book]:
    return list(await store.books("default", "1970-01-01", "9999-12-31"))


async def user_keys(url: str) -> list[int]:
    connection = await asyncpg.connect(url)
    rows = await connection.fetch("SELECT user_key FROM users ORDER BY user_key")
    await connection.close()
    return [key for (key,) in rows]


# Beside others

OVERLAPPING = """
import asyncio, json, logging, random, sys
from adapters.postgres import open_store
from eventcore.strategies import a_chunk, an_event

logging.basicConfig(level=logging.WARNING)
url, seed = sys.argv[1], int(sys.argv[2])
choose = random.Random(seed)
chunk_ids = iter(range(seed * 10**6, 2**62))

def some_events():
    numbers = choose.sample(range(3_000), 300)
    return [
        an_event(event_id=number, user_id=f"user {number % 700}", event_type=f"type {number % 13}") for number in numbers
    ]

async def write(store):
    stored = 0
    for _ in range(10):
        chunks = [
            a_chunk(
                *some_events(),
                chunk_id=next(chunk_ids).to_bytes(16, "big"),
                project=choose.choice(["one", "two", "three"]),
                queued=choose.random() < 0.5,
            )
            for _ in range(3)
        ]
        receipts = await store.append(chunks)
        stored += sum(
            len(chunk.events) - len(receipt.duplicates) - len(receipt.conflicts)
            for chunk, receipt in zip(chunks, receipts)
        )
    return stored

async def main():
    stores = [await open_store(url) for _ in range(2)]
    stored = await asyncio.gather(*(write(stores[turn % 2]) for turn in range(4)))
    for store in stores:
        await store.close()
    print(json.dumps(sum(stored)))

asyncio.run(main())
"""


async def test_processes_that_write_the_same_store_it_once(url: str) -> None:
    """Two processes of two stores and four tasks each, over three projects: no deadlock shows, no key is burned."""
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", OVERLAPPING, url, str(seed), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for seed in (1, 2)
    ]
    told = [await asyncio.wait_for(process.communicate(), 90) for process in processes]
    assert [(process.returncode, errors) for process, (_, errors) in zip(processes, told, strict=True)] == [
        (0, b"")
    ] * 2

    store = await open_store(url)
    counts = (await store.describe()).counts
    assert sum(json.loads(out) for out, _ in told) == sum(project["events"] for project in counts.values())
    assert {name: (found["users"], found["event_types"]) for name, found in counts.items()} == dict.fromkeys(
        ("one", "two", "three"), (700, 13)
    )
    assert list(await store.verify()) == []
    await store.close()


async def test_new_users_that_two_bring_at_once_get_one_key(url: str, store: EventStore) -> None:
    """Two stores write at the same time, with the same users, whom nobody has seen before."""
    beside = await open_store(url)
    event_ids = count()
    for turn in range(20):
        users = [f"user {turn} {number}" for number in range(200)]
        both = [[an_event(event_id=next(event_ids), user_id=user) for user in users] for _ in range(2)]
        await asyncio.gather(*(one.append([a_chunk(*own)]) for one, own in zip((store, beside), both, strict=True)))
    assert await user_keys(url) == list(range(4_000))
    assert list(await store.verify()) == []
    await beside.close()


async def test_keys_are_dense_after_failures(url: str, store: EventStore) -> None:
    """What was rolled back leaves no gap, and nobody remembers it."""
    for number in range(0, 20, 2):
        await store.append([a_chunk(an_event(event_id=number, user_id=f"user {number}"))])
        with pytest.raises(StoreError):
            await store.append(
                [a_chunk(an_event(event_id=100, user_id=f"lost {number}"), an_event(event_id=101, properties="\0"))]
            )
    assert await user_keys(url) == list(range(10))
    await store.append([a_chunk(*(an_event(event_id=200 + number, user_id=f"lost {number}") for number in range(20)))])
    assert await user_keys(url) == list(range(30))
    assert list(await store.verify()) == []


async def test_giving_way_to_another_transaction_is_not_seen(url: str, store: EventStore) -> None:
    """The server sacrifices ours in a deadlock with somebody who does not sort: it is tried again."""
    await store.append([a_chunk(an_event(event_id=9))])
    other = await asyncpg.connect(url)
    await other.execute("SET deadlock_timeout = '60s'")  # so that it is ours that notices
    claim = "INSERT INTO event_ledger VALUES (0, 1, $1, '')"
    unsorted = other.transaction()
    await unsorted.start()
    await other.execute(claim, an_id(2).hex())
    appending = asyncio.create_task(store.append([a_chunk(an_event(event_id=1), an_event(event_id=2))]))
    await waits_for_a_lock(url)
    await other.execute(claim, an_id(1).hex())
    await unsorted.rollback()
    await other.close()

    assert list(await appending) == [Receipt()]
    assert list(await store.verify()) == []


async def waits_for_a_lock(url: str) -> None:
    connection = await asyncpg.connect(url)
    while not await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
        await asyncio.sleep(0.01)
    await connection.close()


async def test_the_culprit_fails_alone(store: EventStore) -> None:
    """Calls that share a transaction do not share its fate."""
    first = asyncio.create_task(store.append([a_chunk(an_event(event_id=500))]))
    calls = [
        store.append([a_chunk(an_event(event_id=number, user_id=f"user\0{number}" if number % 20 == 7 else "ada"))])
        for number in range(100)
    ]
    results = await asyncio.gather(*calls, return_exceptions=True)
    await first

    failed = [number for number, result in enumerate(results) if isinstance(result, BaseException)]
    assert failed == [7, 27, 47, 67, 87]
    assert {result.kind for result in results if isinstance(result, StoreError)} == {Kind.DATA}
    assert await books_of(store) == [Book(date=DAY, received=96, accepted=96, stored=96)]


async def test_one_writer_does_not_fall_asleep(url: str) -> None:
    """Calls one after the other, each sent as soon as the one before is answered."""
    store = await open_store(f"{url}&writers=1")
    async with asyncio.timeout(30):
        for number in range(50):
            await store.append([a_chunk(an_event(event_id=number))])
    await store.close()


WEEK_US = 7 * 86_400_000_000


async def test_dates_over_decades_do_not_exhaust_the_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table in weekly parts, as a hypertable is, on a server whose table of locks is smaller than 600 of them."""
    settings = {"max_locks_per_transaction": "10"}
    with (
        servers.needed("postgres"),
        servers.postgres(own_process=True, fsync=False, max_connections=20, settings=settings) as server,
    ):
        await migrate(server.url)
        connection = await asyncpg.connect(server.url)
        await connection.execute(
            "ALTER TABLE events RENAME TO model;"
            "CREATE TABLE events (LIKE model) PARTITION BY RANGE (occurred_at);"
            "CREATE INDEX ON events (project_key, occurred_at, event_id)"
        )
        for week in range(600):
            await connection.execute(
                f"CREATE TABLE week_{week} PARTITION OF events FOR VALUES"
                f" FROM (to_timestamp({week * 604_800})) TO (to_timestamp({(week + 1) * 604_800}))"
            )
        await connection.close()

        async def partition_us(session: object) -> int:
            return WEEK_US

        monkeypatch.setattr("adapters.postgres.store.partition_us", partition_us)
        store = await open_store(server.url)
        sent = [an_event(event_id=week, occurred_us=week * WEEK_US) for week in range(600)]
        assert list(await store.append([a_chunk(*sent[:300]), a_chunk(*sent[300:])])) == [Receipt()] * 2
        assert len(await store.find("default", [event.event_id for event in sent])) == 600
        assert await books_of(store) == [Book(date=DAY, received=600, accepted=600, stored=600)]
        await store.close()


# A server in trouble


async def test_a_server_that_takes_no_writes(url: str) -> None:
    store = await open_store(f"{url}&default_transaction_read_only=on")
    with pytest.raises(StoreError) as caught:
        await store.append([a_chunk(an_event())])
    assert (caught.value.kind, caught.value.code, caught.value.retryable) == (Kind.UNAVAILABLE, "read_only", True)
    await store.close()


async def test_a_statement_that_takes_too_long(url: str) -> None:
    store = await open_store(f"{url}&timeout_seconds=0.5")
    await store.append([a_chunk(an_event(event_id=1))])
    other = await asyncpg.connect(url)
    begun = monotonic()
    async with other.transaction():
        await other.execute("LOCK TABLE event_ledger, ingestion_books")
        for call in (
            lambda: store.append([a_chunk(an_event(event_id=2))]),
            lambda: store.books("default", DAY, DAY),
        ):
            with pytest.raises(StoreError) as caught:
                await call()
            assert (caught.value.kind, caught.value.retryable) == (Kind.TIMEOUT, True)
    assert monotonic() - begun < 5
    await store.append([a_chunk(an_event(event_id=2))])
    assert await books_of(store) == [Book(date=DAY, received=2, accepted=2, stored=2)]
    await other.close()
    await store.close()


async def test_a_lost_answer_to_commit_is_unknown(url: str) -> None:
    """The proxy cuts behind the COMMIT: the caller hears that it may be stored or not, and sends again."""
    chunk = a_chunk(an_event(), queued=True)
    async with a_proxy(url, cut_behind=b"COMMIT\0") as (proxied, cuts):
        store = await open_store(proxied)
        with pytest.raises(StoreError) as caught:
            await store.append([chunk])
        assert (caught.value.kind, caught.value.retryable) == (Kind.UNAVAILABLE, True)
        assert cuts == [True]
        assert list(await store.append([chunk])) == [Receipt()]
        await store.close()

    store = await open_store(url)
    assert await books_of(store) == [Book(date=DAY, received=1, accepted=1, stored=1)]
    assert list(await store.verify()) == []
    await store.close()


@asynccontextmanager
async def a_proxy(url: str, *, cut_behind: bytes) -> AsyncIterator[tuple[str, list[bool]]]:
    """A way to the server that passes these bytes on once, and then answers no more on that connection."""
    host, _, port = url.partition("@")[2].partition("/")[0].partition(":")
    cuts: list[bool] = []
    tasks: set[asyncio.Task[None]] = set()

    async def serve(client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        server, ask = await asyncio.open_connection(host, int(port))

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, watched: bool) -> None:
            try:
                while data := await source.read(65_536):
                    if watched and not cuts and cut_behind in data:
                        cuts.append(True)
                        answer.close()
                        ask.write(data)
                        await ask.drain()
                        await asyncio.sleep(0.5)  # the server finishes
                        break
                    sink.write(data)
                    await sink.drain()
            except OSError:
                pass
            finally:
                sink.close()

        await asyncio.gather(pump(client, ask, watched=True), pump(server, answer, watched=False))

    def accept(client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(serve(client, answer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    listening = await asyncio.start_server(accept, "127.0.0.1")
    proxy_port = listening.sockets[0].getsockname()[1]
    try:
        yield url.replace(f"@{host}:{port}", f"@127.0.0.1:{proxy_port}"), cuts
    finally:
        listening.close()
        await asyncio.gather(*tasks)


@pytest.fixture(scope="module")
def own_server() -> Iterator[OwnServer]:
    """A server with fsync that a test may stop."""
    with servers.needed("postgres"), servers.postgres(own_process=True) as server:
        assert isinstance(server, OwnServer)
        yield server


async def test_a_restart_in_mid_load_loses_nothing(own_server: OwnServer) -> None:
    """Stopped at once, twice, and started again: what was answered is stored, and all goes on unaided."""
    await migrate(own_server.url)
    store = await open_store(own_server.url)
    choose = random.Random(20261123)
    sent: list[Chunk] = []
    errors: list[StoreError] = []
    restarted = asyncio.Event()

    async def keep_sending() -> None:
        """As a worker does: the same chunk again until it has a receipt."""
        while not restarted.is_set():
            numbers = choose.sample(range(4_000), 100)
            chunk = a_chunk(
                *(an_event(event_id=number, user_id=f"user {number % 97}") for number in numbers), queued=True
            )
            sent.append(chunk)
            while True:
                try:
                    await store.append([chunk])
                    break
                except StoreError as error:
                    errors.append(error)
                    await asyncio.sleep(0.05)

    tasks = [asyncio.create_task(keep_sending()) for _ in range(4)]
    for _ in range(2):
        await asyncio.sleep(0.3)
        await asyncio.to_thread(own_server.restart, signal.SIGQUIT)
    await asyncio.sleep(0.3)
    restarted.set()
    await asyncio.wait_for(asyncio.gather(*tasks), 60)

    distinct = {event.event_id for chunk in sent for event in chunk.events}
    assert errors
    assert all(error.retryable for error in errors)
    assert (await store.describe()).counts["default"]["events"] == len(distinct)
    assert len(await store.find("default", list(distinct))) == len(distinct)
    total = 100 * len(sent)
    assert await books_of(store) == [
        Book(date=DAY, received=total, accepted=total, stored=len(distinct), duplicate_at_store=total - len(distinct))
    ]
    assert await user_keys(own_server.url) == list(range(97))
    assert list(await store.verify()) == []
    assert (await store.describe()).durable
    await store.close()


async def test_a_server_that_hangs(own_server: OwnServer) -> None:
    """Frozen with its connections open: every call ends with an error in time, and works when the server does again."""
    await migrate(own_server.url)
    store = await open_store(f"{own_server.url}?timeout_seconds=0.5&readers=1")
    await store.append([a_chunk(an_event(), project="hang")])
    await store.find("hang", [an_id(1)])
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: store.append([a_chunk(an_event(event_id=2), project="hang")]),
        lambda: store.find("hang", [an_id(1)]),
        lambda: store.find("hang", [an_id(2)]),
        store.describe,
    ]
    begun = monotonic()
    await asyncio.to_thread(own_server.pause)
    try:
        results = await asyncio.gather(*(call() for call in calls), return_exceptions=True)
    finally:
        own_server.resume()
    assert monotonic() - begun < 20
    assert [isinstance(result, StoreError) and result.retryable for result in results] == [True] * 4

    await store.append([a_chunk(an_event(event_id=2), project="hang")])
    assert len(await store.find("hang", [an_id(1), an_id(2)])) == 2
    await store.close()


async def test_a_server_that_is_away_for_a_while(own_server: OwnServer) -> None:
    """An open store needs no help when it comes back; meanwhile errors name the server."""
    await migrate(own_server.url)
    store = await open_store(own_server.url)
    await store.append([a_chunk(an_event(), project="away")])
    await asyncio.to_thread(own_server.stop, signal.SIGQUIT)
    try:
        for call in (
            lambda: store.append([a_chunk(an_event(event_id=2), project="away")]),
            lambda: store.find("away", [an_id(1)]),
            store.describe,
        ):
            with pytest.raises(StoreError) as caught:
                await call()
            assert (caught.value.kind, caught.value.retryable) == (Kind.UNAVAILABLE, True)
            assert f"127.0.0.1:{own_server.port}" in caught.value.message
    finally:
        await asyncio.to_thread(own_server.start)
    await store.append([a_chunk(an_event(event_id=2), project="away")])
    assert len(await store.find("away", [an_id(1), an_id(2)])) == 2
    await store.close()


async def test_the_epoch_is_asked_once_a_second(own_server: OwnServer) -> None:
    """Also when the answer is an error: a burst of requests does not become a burst of attempts."""
    await migrate(own_server.url)
    store = await open_store(own_server.url)
    epoch = await store.epoch()
    assert await asyncio.gather(*(store.epoch() for _ in range(100))) == [epoch] * 100
    await asyncio.to_thread(own_server.stop, signal.SIGQUIT)
    try:
        await asyncio.sleep(1.0)
        results = await asyncio.gather(*(store.epoch() for _ in range(100)), return_exceptions=True)
        assert len({id(result) for result in results}) == 1
        assert isinstance(results[0], StoreError)
    finally:
        await asyncio.to_thread(own_server.start)
    await asyncio.sleep(1.0)
    assert await store.epoch() == epoch
    await store.close()


async def test_closing_waits_for_what_has_begun(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = await open_store(url)
    append = Appending.append

    async def slow_append(self: Appending, chunks: list[Chunk]) -> list[Receipt]:
        await asyncio.sleep(0.2)
        return await append(self, chunks)

    monkeypatch.setattr(Appending, "append", slow_append)
    calls = [asyncio.create_task(store.append([a_chunk(an_event(event_id=number))])) for number in range(6)]
    await asyncio.sleep(0.05)
    await asyncio.gather(store.close(), store.close())
    assert [list(await call) for call in calls] == [[Receipt()]] * 6
    with pytest.raises(StoreError) as caught:
        await store.append([a_chunk(an_event(event_id=9, occurred_us=AN_INSTANT_US))])
    assert caught.value.kind is Kind.CLOSED
