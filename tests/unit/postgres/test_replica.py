"""Reading from a replica: exact for what it has, and honest about how far that goes."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from adapters.postgres import migrate, open_store
from eventcore.activity import ActivityQuery
from eventcore.ports import EventStore
from eventcore.strategies import AN_INSTANT_US, a_chunk, an_event
from tests.support import servers
from tests.support.processes import OwnServer, Program, run_tool
from tests.support.programs import find_postgres

pytestmark = pytest.mark.e2e


class Pair:
    """A primary and a replica that can be held back."""

    def __init__(self, primary: str, replica: str) -> None:
        self.primary, self.replica = primary, replica

    async def on_replica(self, sql: str) -> object:
        connection = await asyncpg.connect(self.replica)
        try:
            return await connection.fetchval(sql)
        finally:
            await connection.close()

    async def until_replayed(self) -> None:
        connection = await asyncpg.connect(self.primary)
        wanted = await connection.fetchval("SELECT pg_current_wal_lsn()::text")
        await connection.close()
        async with asyncio.timeout(20):
            while not await self.on_replica(f"SELECT pg_last_wal_replay_lsn() >= '{wanted}'"):
                await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with servers.needed("postgres"):
        program = find_postgres()
    folder = tmp_path_factory.mktemp("pair")
    with (
        servers.postgres(folder / "primary", own_process=True) as primary,
        servers.postgres(folder / "replica", own_process=True) as replica,
    ):
        assert isinstance(replica, OwnServer)
        replica.stop()
        copy_of(program, primary.url, Path(replica.data))
        replica.start()
        yield Pair(primary.url, replica.url)


def copy_of(program: Program, url: str, data: Path) -> None:
    """Put a copy of a running server, that follows it, into a folder of an unprivileged user's."""
    for entry in data.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    tool = Program(path=program.path.with_name("pg_basebackup"), software=program.software, user=program.user)
    run_tool(tool, ["-d", url, "-D", str(data), "-R", "-X", "stream", "-c", "fast"])


@pytest.fixture
async def store(pair: Pair) -> AsyncIterator[EventStore]:
    await migrate(pair.primary)
    await pair.until_replayed()
    store = await open_store(pair.primary, read_url=pair.replica)
    yield store
    await store.close()


def query() -> ActivityQuery:
    day = AN_INSTANT_US - AN_INSTANT_US % 86_400_000_000
    return ActivityQuery(project="default", slots=(((day, day + 86_400_000_000),),))


async def test_a_replica_that_is_behind_says_so(store: EventStore, pair: Pair) -> None:
    await store.append([a_chunk(an_event(event_id=1))])
    await pair.until_replayed()
    before = await store.activity(query())
    assert before.selections[0].slots[0].events == 1
    assert before.as_of_us is not None
    await pair.on_replica("SELECT pg_wal_replay_pause()")
    await store.append([a_chunk(an_event(event_id=2))])
    held = await store.activity(query())
    assert (held.selections[0].slots[0].events, held.as_of_us) == (1, before.as_of_us)
    await pair.on_replica("SELECT pg_wal_replay_resume()")
    await pair.until_replayed()
    after = await store.activity(query())
    assert after.selections[0].slots[0].events == 2
    assert after.as_of_us is not None
    assert after.as_of_us > before.as_of_us


async def test_the_store_itself_is_never_behind(pair: Pair) -> None:
    await migrate(pair.primary)
    store = await open_store(pair.primary)
    assert (await store.activity(query())).as_of_us is None
    await store.close()
