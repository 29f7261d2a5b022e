"""The file of a SQLite store: how it is named, made, checked and migrated."""

import asyncio
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest

import adapters.sqlite.database
from adapters.sqlite import migrate, open_store
from adapters.sqlite.statements import migrations
from eventcore.errors import Kind, StoreError
from eventcore.strategies import a_chunk, an_event, an_id


def url_of(path: Path) -> str:
    return f"sqlite:///{path}"


async def make_store(path: Path) -> None:
    store = await open_store(url_of(path))
    await store.append([a_chunk(an_event())])
    await store.close()


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


async def refused(path: Path) -> StoreError:
    with pytest.raises(StoreError) as caught:
        await open_store(url_of(path))
    assert str(path.parent) not in caught.value.message
    return caught.value


# Names


async def test_a_relative_path_begins_in_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    await (await open_store("sqlite:///data/a%20b%3F.sqlite3")).close()
    assert [found.name for found in (tmp_path / "data").iterdir()] == ["a b?.sqlite3"]


async def test_the_file_stays_the_same_when_the_working_folder_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = await open_store("sqlite:///events.sqlite3")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    await store.append([a_chunk(an_event())])
    assert (await store.describe()).counts["default"]["events"] == 1
    await store.close()
    assert list((tmp_path / "elsewhere").iterdir()) == []


async def test_a_name_that_looks_like_a_uri_is_only_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    await (await open_store("sqlite:///file:x%3Fmode=memory")).close()
    assert [found.name for found in tmp_path.iterdir()] == ["file:x?mode=memory"]


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///",
        "sqlite://events.sqlite3",
        "sqlite://host/events.sqlite3",
        "sqlite:events.sqlite3",
        "sqlite:///:memory:",
        "sqlite:///%3Amemory%3A",
        "sqlite:///events.sqlite3?mode=ro",
        "sqlite:///events.sqlite3#1",
        "sqlite:///a%00b",
        "postgresql:///events",
    ],
)
async def test_a_url_without_a_file_is_refused(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreError) as caught:
        await open_store(url)
    assert (caught.value.kind, caught.value.code) == (Kind.INVALID, "invalid_url")
    assert list(tmp_path.iterdir()) == []


async def test_memory_is_pointed_to(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="memory://"):
        await open_store("sqlite:///:memory:")


# Making


async def test_missing_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "events.sqlite3"
    await make_store(path)
    assert path.is_file()


async def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    path = tmp_path / "events.sqlite3"
    path.touch()
    await make_store(path)
    assert await migrate(url_of(path), check=True) == (len(migrations()), len(migrations()))


async def test_a_folder_that_is_a_file_is_said_without_its_path(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    found = await refused(tmp_path / "data" / "events.sqlite3")
    assert (found.kind, found.code) == (Kind.UNAVAILABLE, "cannot_open")


async def test_looking_finds_out_where_no_file_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write everywhere, and only a few machines have a read-only disk, so the system's answers are made up."""
    path = tmp_path / "data" / "events.sqlite3"
    asked = os.statvfs(tmp_path)
    assert await migrate(url_of(path), check=True) == (0, len(migrations()))
    monkeypatch.setattr(os, "access", lambda folder, *_, **__: folder != tmp_path)
    with pytest.raises(StoreError, match="may not write in its folder") as caught:
        await migrate(url_of(path), check=True)
    assert (caught.value.kind, caught.value.code) == (Kind.UNAVAILABLE, "cannot_make")
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=asked.f_flag | os.ST_RDONLY))
    with pytest.raises(StoreError, match="read-only"):
        await migrate(url_of(path), check=True)
    assert list(tmp_path.iterdir()) == []


async def test_a_path_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "events.sqlite3").mkdir()
    found = await refused(tmp_path / "events.sqlite3")
    assert (found.kind, found.code) == (Kind.UNAVAILABLE, "cannot_open")


async def test_the_log_is_used_and_every_commit_synced(tmp_path: Path) -> None:
    store = await open_store(url_of(tmp_path / "events.sqlite3"))
    described = await store.describe()
    await store.close()
    assert (described.settings["journal_mode"], described.settings["synchronous"]) == ("wal", "FULL")
    assert described.technology == f"sqlite {sqlite3.sqlite_version}"
    assert described.durable


async def test_a_file_system_without_the_log_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = adapters.sqlite.database.Database.pragma

    def no_wal(self: adapters.sqlite.database.Database, name: str) -> object:
        return "delete" if name == "journal_mode = WAL" else real(self, name)

    monkeypatch.setattr(adapters.sqlite.database.Database, "pragma", no_wal)
    found = await refused(tmp_path / "events.sqlite3")
    assert (found.kind, found.code) == (Kind.UNSUPPORTED, "no_wal")


async def test_who_makes_the_file_waits_for_who_makes_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two locks that cannot be had together SQLite does not wait, so we do."""
    real = adapters.sqlite.database.Database.pragma
    tries = []

    def busy_at_first(self: adapters.sqlite.database.Database, name: str) -> object:
        if name == "journal_mode = WAL":
            tries.append(name)
            if len(tries) < 3:
                error = sqlite3.OperationalError("database is locked")
                error.sqlite_errorcode = sqlite3.SQLITE_BUSY
                raise error
        return real(self, name)

    monkeypatch.setattr(adapters.sqlite.database.Database, "pragma", busy_at_first)
    await make_store(tmp_path / "events.sqlite3")
    assert len(tries) >= 3


def test_many_processes_may_make_the_file_at_once(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys\n"
        "from adapters.sqlite import open_store\n"
        "async def main():\n"
        "    store = await open_store(sys.argv[1])\n"
        "    print(await store.epoch())\n"
        "    await store.close()\n"
        "asyncio.run(main())\n"
    )
    url = url_of(tmp_path / "new" / "events.sqlite3")
    makers = [
        subprocess.Popen(
            [sys.executable, "-c", program, url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    answers = [maker.communicate(timeout=60) for maker in makers]
    assert [error for _, error in answers] == [""] * 4
    assert len({epoch for epoch, _ in answers}) == 1


# Checking


@pytest.mark.parametrize(("version", "code"), [("0", "schema_older"), ("99", "schema_newer")])
async def test_another_schema_version_is_refused_with_the_command(tmp_path: Path, version: str, code: str) -> None:
    path = tmp_path / "events.sqlite3"
    await make_store(path)
    change(path, f"UPDATE store SET value = '{version}' WHERE key = 'schema_version'")
    found = await refused(path)
    assert (found.kind, found.code) == (Kind.SCHEMA, code)
    assert "eventcore migrate" in found.message


async def test_an_open_store_stops_writing_when_its_schema_was_migrated(tmp_path: Path) -> None:
    path = tmp_path / "events.sqlite3"
    store = await open_store(url_of(path))
    change(path, "UPDATE store SET value = '99' WHERE key = 'schema_version'")
    with pytest.raises(StoreError) as caught:
        await store.append([a_chunk(an_event())])
    assert (caught.value.kind, caught.value.code) == (Kind.SCHEMA, "schema_newer")
    change(path, f"UPDATE store SET value = '{len(migrations())}' WHERE key = 'schema_version'")
    await store.append([a_chunk(an_event())])
    await store.close()


async def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "events.sqlite3"
    change(path, "CREATE TABLE events (id INTEGER)")
    before = path.read_bytes()
    found = await refused(path)
    assert (found.kind, found.code) == (Kind.SCHEMA, "not_a_store")
    assert "eventcore migrate" in found.message
    with pytest.raises(StoreError) as caught:
        await migrate(url_of(path))
    assert caught.value.code == "not_a_store"
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"no database at all, but long enough to be one" * 100,
        lambda content: b"",
        lambda content: content[:4096],
        lambda content: content[: len(content) // 2],
        lambda content: content[:100] + bytes(len(content) - 100),
    ],
    ids=["other text", "all pages lost but one", "first page only", "second half lost", "zeros"],
)
async def test_a_damaged_file_is_refused(tmp_path: Path, damage: object) -> None:
    path = tmp_path / "events.sqlite3"
    await make_store(path)
    assert callable(damage)
    path.write_bytes(damage(path.read_bytes()) or path.read_bytes()[:2048])
    found = await refused(path)
    assert (found.kind, found.code) == (Kind.SCHEMA, "damaged")
    assert "eventcore migrate" in found.message


@pytest.mark.parametrize("key", ["schema_version", "epoch"])
async def test_a_store_without_its_own_settings_is_damaged(tmp_path: Path, key: str) -> None:
    path = tmp_path / "events.sqlite3"
    await make_store(path)
    change(path, f"DELETE FROM store WHERE key = '{key}'")
    assert (await refused(path)).code == "damaged"


# Migrating


@pytest.fixture
def second_version(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Another migration, which the test may change."""
    script = ["CREATE TABLE later (x INTEGER);\n-- the last words\n"]
    real = migrations()
    for module in ("adapters.sqlite.database", "adapters.sqlite.writer"):
        monkeypatch.setattr(f"{module}.migrations", lambda: (*real, script[0]))
    return script


async def test_migrating_makes_a_new_file(tmp_path: Path) -> None:
    url = url_of(tmp_path / "events.sqlite3")
    assert await migrate(url, check=True) == (0, len(migrations()))
    assert list(tmp_path.iterdir()) == []
    assert await migrate(url) == (0, len(migrations()))
    assert await migrate(url) == (len(migrations()), len(migrations()))
    await (await open_store(url)).close()


async def test_checking_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "events.sqlite3"
    await make_store(path)
    change(path, "UPDATE store SET value = '99' WHERE key = 'schema_version'")
    assert await migrate(url_of(path), check=True) == (99, len(migrations()))
    with pytest.raises(StoreError) as caught:
        await migrate(url_of(path))
    assert caught.value.code == "schema_newer"


async def test_an_older_store_is_migrated_and_keeps_what_it_has(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = tmp_path / "events.sqlite3"
    await make_store(path)
    request.getfixturevalue("second_version")
    found = len(migrations())
    assert (await refused(path)).code == "schema_older"
    assert await migrate(url_of(path), check=True) == (found, found + 1)
    assert (await refused(path)).code == "schema_older"
    assert await migrate(url_of(path)) == (found, found + 1)
    store = await open_store(url_of(path))
    assert list(await store.find("default", [an_id(1)])) == [an_id(1)]
    await store.append([a_chunk(an_event(event_id=2))])
    await store.close()


async def test_a_migration_that_fails_changes_nothing(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = tmp_path / "events.sqlite3"
    await make_store(path)
    request.getfixturevalue("second_version")[0] = "CREATE TABLE later (x INTEGER);\nDROP TABLE missing;\n"
    with pytest.raises(StoreError):
        await migrate(url_of(path))
    assert await migrate(url_of(path), check=True) == (len(migrations()), len(migrations()) + 1)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT * FROM sqlite_schema WHERE name = 'later'").fetchall() == []


async def test_two_migrations_at_once_do_it_once(tmp_path: Path) -> None:
    url = url_of(tmp_path / "events.sqlite3")
    found = await asyncio.gather(*(migrate(url) for _ in range(4)))
    assert sorted(found) == [(0, len(migrations())), *[(len(migrations()), len(migrations()))] * 3]


def test_every_table_of_the_schema_is_strict() -> None:
    script = "".join(migrations())
    assert len(re.findall(r"\) STRICT\b", script)) == len(re.findall(r"^CREATE TABLE", script, re.MULTILINE)) > 0
