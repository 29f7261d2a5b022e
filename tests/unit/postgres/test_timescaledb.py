"""With TimescaleDB: a hypertable and its policies, dates spread over decades, late rows in compressed chunks.

The server is the real extension in WebAssembly, with one backend: nothing here shows speed or concurrency.
"""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest

from adapters.postgres import migrate, open_store, rows, spreading, writer
from adapters.postgres.appending import Appending
from eventcore.activity import ActivityQuery
from eventcore.errors import Kind, StoreError
from eventcore.events import Book, Chunk, Counts, Event, Receipt
from eventcore.ports import EventStore
from eventcore.strategies import a_chunk, an_event, an_id

DAY = "2026-03-01"
WEEK_US = 7 * 86_400_000_000


@pytest.fixture
async def url(timescale_url: str) -> str:
    await migrate(timescale_url)
    return timescale_url


@pytest.fixture
async def store(url: str) -> AsyncIterator[EventStore]:
    store = await open_store(url)
    yield store
    await store.close()


@pytest.fixture
def few_partitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction touches ten chunks at most, so that few events are enough to need several."""
    for module in (rows, spreading, writer):
        monkeypatch.setattr(module, "MOST_PARTITIONS", 10)


def in_weeks(count: int, first_id: int = 0, user: str = "user") -> list[Event]:
    """An event in each of so many weeks."""
    return [
        an_event(event_id=first_id + week, user_id=f"{user} {week % 7}", occurred_us=week * WEEK_US)
        for week in range(count)
    ]


async def books_of(store: EventStore) -> list[Book]:
    return list(await store.books("default", "1970-01-01", "9999-12-31"))


async def settings_of(url: str) -> dict[str, str]:
    store = await open_store(url)
    described = await store.describe()
    await store.close()
    assert "with TimescaleDB" in described.technology
    return {name: value for name, value in described.settings.items() if name == "events" or name.endswith("_days")}


async def test_events_are_a_hypertable(url: str) -> None:
    assert await settings_of(url) == {"events": "a hypertable", "chunk_days": "7", "columnstore_days": "30"}


async def test_options_are_taken_over_when_they_are_named(url: str) -> None:
    await migrate(f"{url}&chunk_days=14&retention_days=365&columnstore_days=0")
    chosen = {"events": "a hypertable", "chunk_days": "14", "retention_days": "365"}
    assert await settings_of(url) == chosen
    await migrate(url)
    assert await settings_of(url) == chosen
    await migrate(f"{url}&retention_days=0&columnstore_days=10")
    assert await settings_of(url) == {"events": "a hypertable", "chunk_days": "14", "columnstore_days": "10"}


async def test_a_batch_over_fifty_years(store: EventStore) -> None:
    """Stored, in several transactions, found, counted, and known when it is delivered again."""
    sent = in_weeks(50 * 52)
    chunks = [a_chunk(*sent[start : start + 500 : 7], queued=True) for start in range(0, len(sent), 500)]
    assert list(await store.append(chunks)) == [Receipt()] * len(chunks)
    assert list(await store.append(chunks)) == [Receipt()] * len(chunks)

    stored = [event for chunk in chunks for event in chunk.events]
    found = await store.find("default", [event.event_id for event in sent])
    assert {event_id: one.event for event_id, one in found.items()} == {event.event_id: event for event in stored}
    total = len(stored)
    assert await books_of(store) == [Book(date=DAY, received=total, accepted=total, stored=total)]
    whole = ((0, len(sent) * WEEK_US),)
    [part] = (await store.activity(ActivityQuery(project="default", slots=(whole,)))).selections
    assert part.slots[0].events == total
    assert list(await store.verify()) == []


@pytest.mark.usefixtures("few_partitions")
async def test_receipts_of_a_chunk_in_pieces(store: EventStore) -> None:
    """Positions are those of the whole chunk."""
    first = in_weeks(35)
    await store.append([a_chunk(*first[::5])])
    changed = [
        an_event(event_id=n, user_id="x", occurred_us=n * WEEK_US) if n % 10 == 3 else first[n] for n in range(35)
    ]
    await store.append([a_chunk(first[3], first[23])])
    receipts = await store.append([a_chunk(an_event(event_id=99)), a_chunk(*changed, *changed[:4])])

    assert list(receipts) == [
        Receipt(),
        Receipt(duplicates=(*range(0, 35, 5), 35, 36, 37), conflicts=(3, 23, 38)),
    ]
    assert list(await store.verify()) == []


@pytest.mark.usefixtures("few_partitions")
async def test_a_chunk_interrupted_between_its_pieces(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is stored already is known when the chunk comes again: no book counts it twice."""
    chunk = a_chunk(
        *in_weeks(45), conflicting=[an_event(event_id=1, user_id="x")], counts=Counts(conflicts=1), queued=True
    )
    append = Appending.append
    calls: list[Chunk] = []

    async def failing_append(self: Appending, chunks: list[Chunk]) -> list[Receipt]:
        receipts = await append(self, chunks)
        calls.extend(chunks)
        if len(calls) in (3, 6):
            raise StoreError(Kind.UNAVAILABLE, "test", "the server is gone")
        return receipts

    monkeypatch.setattr(Appending, "append", failing_append)
    for _ in range(2):
        with pytest.raises(StoreError):
            await store.append([chunk])
    assert list(await store.append([chunk])) == [Receipt()]
    assert list(await store.append([chunk])) == [Receipt()]

    assert await books_of(store) == [Book(date=DAY, received=46, accepted=45, stored=45, conflicts=1)]
    assert list(await store.verify()) == []


@pytest.mark.parametrize("bound", [20, 100])
async def test_a_chunk_interrupted_by_an_upgrade(
    store: EventStore, bound: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the cuts are others when it comes again, nothing of it is taken for known that is not stored."""
    chunk = a_chunk(*in_weeks(45), queued=True)
    append = Appending.append

    async def failing_append(self: Appending, chunks: list[Chunk]) -> list[Receipt]:
        if chunks[0].events[0].event_id == an_id(20):
            raise StoreError(Kind.UNAVAILABLE, "test", "the server is gone")
        return await append(self, chunks)

    with monkeypatch.context() as patch:
        for module in (rows, spreading, writer):
            patch.setattr(module, "MOST_PARTITIONS", 10)
        patch.setattr(Appending, "append", failing_append)
        with pytest.raises(StoreError):
            await store.append([chunk])
    for module in (rows, spreading, writer):
        monkeypatch.setattr(module, "MOST_PARTITIONS", bound)
    assert list(await store.append([chunk])) == [Receipt(duplicates=tuple(range(20)))]
    assert len(await store.find("default", [event.event_id for event in chunk.events])) == 45
    assert list(await store.verify()) == []


@pytest.mark.usefixtures("few_partitions")
async def test_calls_share_a_transaction_only_within_the_bound(store: EventStore) -> None:
    calls = [store.append([a_chunk(*in_weeks(8, first_id=1_000 * turn)[turn:])]) for turn in range(8)]
    assert [list(receipts) for receipts in await asyncio.gather(*calls)] == [[Receipt()]] * 8
    assert list(await store.verify()) == []


async def test_late_events_in_compressed_chunks(url: str, store: EventStore) -> None:
    """They are stored, compared and counted as any other."""
    sent = in_weeks(20)
    await store.append([a_chunk(*sent)])
    connection = await asyncpg.connect(url)
    await connection.execute("SELECT set_config('search_path', current_schema() || ', public', false)")
    compressed = await connection.fetch("SELECT compress_chunk(c) FROM show_chunks('events') AS c")
    await connection.close()
    assert len(compressed) == 20

    late = in_weeks(20, first_id=100, user="late")
    respelled = an_event(event_id=3, user_id="user 3", occurred_us=3 * WEEK_US, properties="{ }")
    other = an_event(event_id=4, user_id="x", occurred_us=4 * WEEK_US)
    receipts = await store.append([a_chunk(*late), a_chunk(sent[2], respelled, other)])
    assert list(receipts) == [Receipt(), Receipt(duplicates=(0, 1), conflicts=(2,))]
    found = await store.find("default", [event.event_id for event in sent + late])
    assert [found[event.event_id].event for event in sent + late] == sent + late
    assert list(await store.verify()) == []


async def test_expired_events(url: str, store: EventStore) -> None:
    """Their ids stay taken and their activity stays; what can no longer be compared by value is a conflict."""
    old = in_weeks(3)
    await store.append([a_chunk(*old)])
    connection = await asyncpg.connect(url)
    await connection.execute("SELECT set_config('search_path', current_schema() || ', public', false)")
    await connection.execute("SELECT drop_chunks('events', older_than => '1971-01-01'::timestamptz)")
    await connection.close()
    respelled = an_event(event_id=1, user_id="user 1", occurred_us=WEEK_US, properties="{ }")
    receipts = await store.append([a_chunk(old[0], respelled)])

    assert list(receipts) == [Receipt(duplicates=(0,), conflicts=(1,))]
    assert await store.find("default", [an_id(0)]) == {}
    [part] = (await store.activity(ActivityQuery(project="default", slots=(((0, 3 * WEEK_US),),)))).selections
    assert (len(part.slots[0].users), part.slots[0].events) == (3, 3)
    assert any("stored 0 times" in sentence for sentence in await store.verify())
    await migrate(f"{url}&retention_days=365")
    assert list(await store.verify()) == []
