"""Opening and migrating: who is let in, what is refused, and what the message says."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator

import asyncpg
import pytest

from adapters.postgres import migrate, open_store
from adapters.postgres.statements import migrations
from eventcore.errors import Kind, StoreError
from eventcore.strategies import a_chunk, an_event, an_id
from tests.support import servers
from tests.support.processes import OwnServer

WANTED = len(migrations())
EVENTCORE_MIGRATE = "run `eventcore migrate`"


async def run(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(statement)
    await connection.close()


async def refused(url: str) -> StoreError:
    with pytest.raises(StoreError) as caught:
        await open_store(url)
    return caught.value


# Schemas


async def test_an_empty_database_is_refused(empty_url: str) -> None:
    error = await refused(empty_url)
    assert (error.kind, error.code) == (Kind.SCHEMA, "no_store")
    assert EVENTCORE_MIGRATE in error.message


async def test_migrating_makes_a_store_once(empty_url: str) -> None:
    assert await migrate(empty_url) == (0, WANTED)
    store = await open_store(empty_url)
    await store.append([a_chunk(an_event())])
    epoch = await store.epoch()
    await store.close()

    assert await migrate(empty_url) == (WANTED, WANTED)
    store = await open_store(empty_url)
    assert (await store.find("default", [an_id(1)])).keys() == {an_id(1)}
    assert await store.epoch() == epoch
    assert (await store.describe()).schema == WANTED
    await store.close()


async def test_checking_changes_nothing(empty_url: str) -> None:
    assert await migrate(empty_url, check=True) == (0, WANTED)
    assert (await refused(empty_url)).code == "no_store"
    await migrate(empty_url)
    assert await migrate(empty_url, check=True) == (WANTED, WANTED)


@pytest.mark.parametrize(
    ("version", "code", "help_text"),
    [(0, "no_store", EVENTCORE_MIGRATE), (WANTED + 1, "schema_newer", "install the eventcore that wrote it")],
)
async def test_another_schema_version_is_refused(url: str, version: int, code: str, help_text: str) -> None:
    await run(url, f"UPDATE store SET value = '{version}' WHERE key = 'schema_version'")
    error = await refused(url)
    assert (error.kind, error.code, error.retryable) == (Kind.SCHEMA, code, False)
    assert help_text in error.message
    assert await migrate(url, check=True) == (version, WANTED)


async def test_an_older_schema_is_refused_and_migrated(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    newer = (*migrations(), "ALTER TABLE store ADD COLUMN note text;")
    monkeypatch.setattr("adapters.postgres.migrating.migrations", lambda: newer)
    error = await refused(url)
    assert (error.kind, error.code) == (Kind.SCHEMA, "schema_older")
    assert EVENTCORE_MIGRATE in error.message
    assert await migrate(url) == (WANTED, WANTED + 1)
    await (await open_store(url)).close()


async def test_a_newer_schema_is_never_migrated(url: str) -> None:
    await run(url, "UPDATE store SET value = '999' WHERE key = 'schema_version'")
    with pytest.raises(StoreError) as caught:
        await migrate(url)
    assert (caught.value.kind, caught.value.code) == (Kind.SCHEMA, "schema_newer")


async def test_an_open_store_stops_when_the_schema_changes(url: str) -> None:
    store = await open_store(url)
    await store.append([a_chunk(an_event())])
    await run(url, "UPDATE store SET value = '999' WHERE key = 'schema_version'")
    with pytest.raises(StoreError) as caught:
        await store.append([a_chunk(an_event(event_id=2))])
    assert caught.value.kind is Kind.SCHEMA
    assert await store.find("default", [an_id(2)]) == {}
    await store.close()


async def test_a_migration_waits_for_transactions_that_write(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    newer = (*migrations(), "ALTER TABLE store ADD COLUMN note text;")
    monkeypatch.setattr("adapters.postgres.migrating.migrations", lambda: newer)
    connection = await asyncpg.connect(url)
    writing = connection.transaction()
    await writing.start()
    await connection.fetch("SELECT * FROM store")  # as every append begins
    migrating = asyncio.create_task(migrate(url))
    await asyncio.wait([migrating], timeout=0.5)
    assert not migrating.done()
    await writing.commit()
    assert await migrating == (WANTED, WANTED + 1)
    await connection.close()


async def test_a_failed_migration_leaves_nothing(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = (*migrations(), "CREATE TABLE half (); SELECT 1 / 0;")
    monkeypatch.setattr("adapters.postgres.migrating.migrations", lambda: broken)
    with pytest.raises(StoreError):
        await migrate(empty_url)
    monkeypatch.undo()
    assert await migrate(empty_url, check=True) == (WANTED, WANTED)
    await run(empty_url, "CREATE TABLE half ()")


async def test_tables_of_others_are_left_alone(empty_url: str) -> None:
    await run(empty_url, "CREATE TABLE users (name text); INSERT INTO users VALUES ('ada')")
    with pytest.raises(StoreError) as caught:
        await migrate(empty_url)
    assert (caught.value.kind, caught.value.code) == (Kind.SCHEMA, "not_a_store")
    assert await migrate(empty_url, check=True) == (0, WANTED)
    await run(empty_url, "DELETE FROM users")


async def test_a_table_that_only_has_the_name_is_no_store(empty_url: str) -> None:
    await run(empty_url, "CREATE TABLE store (goods text)")
    error = await refused(empty_url)
    assert (error.kind, error.code) == (Kind.SCHEMA, "not_a_store")


async def test_a_schema_that_does_not_exist(empty_url: str) -> None:
    with pytest.raises(StoreError) as caught:
        await migrate(empty_url.partition("?")[0] + "?search_path=nowhere")
    assert (caught.value.kind, caught.value.code) == (Kind.INVALID, "no_schema")


async def test_a_setting_that_does_not_exist(empty_url: str) -> None:
    error = await refused(f"{empty_url}&no_such_setting=1")
    assert (error.kind, error.code) == (Kind.INVALID, "invalid_url")


async def test_a_database_that_does_not_exist(empty_url: str) -> None:
    error = await refused(empty_url.replace("/postgres?", "/nowhere?"))
    assert (error.kind, error.code, error.retryable) == (Kind.UNAVAILABLE, "no_database", True)


async def test_a_database_that_cannot_hold_every_text(empty_url: str) -> None:
    await run(empty_url, "CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    latin_url = empty_url.replace("/postgres?", "/latin?")
    try:
        for use in (open_store, migrate):
            with pytest.raises(StoreError) as caught:
                await use(latin_url)
            assert (caught.value.kind, caught.value.code) == (Kind.UNSUPPORTED, "not_utf8")
    finally:
        await run(empty_url, "DROP DATABASE latin WITH (FORCE)")


MIGRATE = """
import asyncio, sys
from adapters.postgres import migrate
print(asyncio.run(migrate(sys.argv[1])))
"""


def test_processes_migrate_one_after_the_other(empty_url: str) -> None:
    """Whoever comes second finds it done; both succeed."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", MIGRATE, empty_url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    told = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], told
    assert asyncio.run(migrate(empty_url)) == (WANTED, WANTED)
    assert asyncio.run(epochs_of(empty_url)) == 1


async def epochs_of(url: str) -> int:
    connection = await asyncpg.connect(url)
    found: int = await connection.fetchval("SELECT count(*) FROM store WHERE key = 'epoch'")
    await connection.close()
    return found


# What a store says


async def test_durability_is_the_servers(url: str) -> None:
    store = await open_store(f"{url}&synchronous_commit=off")
    described = await store.describe()
    assert (described.durable, described.settings["synchronous_commit"]) == (False, "off")
    assert described.technology.startswith("postgresql ")
    await store.close()


async def test_the_extension_can_be_left_out(timescale_url: str) -> None:
    await migrate(f"{timescale_url}&timescaledb=off")
    store = await open_store(timescale_url)
    assert (await store.describe()).settings["events"] == "a plain table"
    await store.append([a_chunk(an_event())])
    assert list(await store.verify()) == []
    await store.close()


async def test_readers_may_go_elsewhere(url: str) -> None:
    store = await open_store(url, read_url=f"{url}&application_name=reader&readers=1")
    await store.append([a_chunk(an_event())])
    assert (await store.find("default", [an_id(1)])).keys() == {an_id(1)}
    connection = await asyncpg.connect(url)
    names = await connection.fetch(
        "SELECT application_name FROM pg_stat_activity WHERE application_name IN ('reader', 'eventcore')"
    )
    assert {name for (name,) in names} == {"reader", "eventcore"}
    await connection.close()
    await store.close()


# Passwords


@pytest.fixture(scope="module")
def strict_server() -> Iterator[OwnServer]:
    """A server that asks the user ``app`` for a password."""
    with servers.needed("postgres"), servers.postgres(own_process=True, fsync=False) as server:
        assert isinstance(server, OwnServer)
        rules = server.data / "pg_hba.conf"
        rules.write_text("host all app 127.0.0.1/32 scram-sha-256\n" + rules.read_text())
        server.restart()
        asyncio.run(run(server.url, "CREATE USER app PASSWORD 'right-zqxj'; GRANT CREATE ON SCHEMA public TO app"))
        yield server


@pytest.mark.parametrize("password", [":wrong-zqxj", ""])
async def test_a_wrong_password_is_not_shown(strict_server: OwnServer, password: str) -> None:
    error = await refused(f"postgresql://app{password}@127.0.0.1:{strict_server.port}/postgres")
    assert (error.kind, error.retryable) == (Kind.UNAVAILABLE, True)
    assert f"127.0.0.1:{strict_server.port}" in error.message
    assert "zqxj" not in error.message


async def test_the_right_password_is_enough(strict_server: OwnServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without special rights can have a store; the password may come from the environment, as libpq has it."""
    url = f"postgresql://app:right-zqxj@127.0.0.1:{strict_server.port}/postgres"
    assert await migrate(url) == (0, WANTED)
    monkeypatch.setenv("PGPASSWORD", "right-zqxj")
    store = await open_store(url.replace(":right-zqxj", ""))
    await store.append([a_chunk(an_event())])
    assert list(await store.verify()) == []
    await store.close()
