"""The servers that tests start: they answer, they can be stopped in every way, and nothing of them is left behind."""

import asyncio
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path

import asyncpg
import nats.js.api
import pytest
import redis.asyncio

from tests.support import fixtures, processes, programs, reaper, servers, templates
from tests.support.servers import OwnServer, Server, ServerFailed, Unavailable

pytestmark = pytest.mark.e2e

Start = Callable[..., AbstractContextManager[Server]]


@pytest.fixture(autouse=True)
def no_given_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests are about servers of our own."""
    for variable in (*servers.URLS.values(), programs.FROM):
        monkeypatch.delenv(variable, raising=False)


def start(name: str) -> Start:
    """The function that starts a server, where this machine has what it needs."""
    if (lack := servers.missing(name)) is not None:
        servers.require(name, lack)
    quick: dict[str, Start] = {
        "postgres": lambda *folder, **options: servers.postgres(*folder, **({"fsync": False} | options)),
        "timescaledb": servers.timescaledb,
        "redis": servers.redis,
        "nats": servers.nats,
    }
    return quick[name]


@asynccontextmanager
async def connected(server: Server, **options: object) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(server.url, timeout=20, command_timeout=30, **options)
    try:
        yield connection
    finally:
        connection.terminate()


@asynccontextmanager
async def nats_client(server: Server) -> AsyncIterator[nats.NATS]:
    client = nats.NATS()
    try:
        await client.connect(server.url, allow_reconnect=False)
        yield client
    finally:
        await client.close()


async def store(server: Server) -> None:
    """Give the server something to keep."""
    match server.name:
        case "postgres" | "timescaledb":
            async with connected(server) as connection:
                await connection.execute("CREATE TABLE kept (word text)")
                await connection.execute("INSERT INTO kept VALUES ($1)", "kept")
        case "redis":
            async with redis.asyncio.from_url(server.url) as client:
                await client.set("word", "kept")
        case "nats":
            config = nats.js.api.StreamConfig(name="words", subjects=["words"], storage=nats.js.api.StorageType.FILE)
            async with nats_client(server) as client:
                await client.jetstream().add_stream(config)
                await client.jetstream().publish("words", b"kept")


async def stored(server: Server) -> list[str]:
    """What the server kept of it."""
    match server.name:
        case "postgres" | "timescaledb":
            async with connected(server) as connection:
                return [row["word"] for row in await connection.fetch("SELECT word FROM kept")]
        case "redis":
            async with redis.asyncio.from_url(server.url) as client:
                word = await client.get("word")
                return [] if word is None else [word.decode()]
    async with nats_client(server) as client:
        subscription = await client.jetstream().pull_subscribe("words", durable="reader", stream="words")
        messages = await subscription.fetch(1, timeout=20)
        for message in messages:
            await message.ack_sync()
    return [message.data.decode() for message in messages]


def refused(server: Server) -> bool:
    assert isinstance(server, OwnServer)
    with socket.socket() as client:
        client.settimeout(5)
        return client.connect_ex((processes.HOST, server.port)) == errno.ECONNREFUSED


def wait_until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "in vain"
        time.sleep(0.02)


every_server = pytest.mark.parametrize("name", list(servers.URLS))


# --- each of them answers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "first"),
    [
        *((name, first) for name in ("postgres", "redis", "nats") for first in ("path", "wheel")),
        ("timescaledb", "path"),
    ],
)
async def test_a_server_keeps_what_a_driver_gives_it(name: str, first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(programs.FROM, first)
    with start(name)() as server:
        await store(server)
        assert await stored(server) == ["kept"]


async def test_redis_takes_bounds_of_memory() -> None:
    with start("redis")(maxmemory="3mb", maxmemory_policy="allkeys-lru") as server:
        async with redis.asyncio.from_url(server.url) as client:
            for number in range(400):
                await client.set(f"key-{number}", b"x" * 10_000)
            assert 0 < await client.dbsize() < 300


async def test_nats_takes_bounds_and_settings() -> None:
    with start("nats")(max_payload_bytes=2000, settings={"jetstream": {"max_memory_store": 0}}) as server:
        memory = nats.js.api.StreamConfig(name="words", subjects=["words"], storage=nats.js.api.StorageType.MEMORY)
        async with nats_client(server) as client:
            with pytest.raises(nats.errors.MaxPayloadError):
                await client.publish("words", b"x" * 2001)
            with pytest.raises(nats.js.errors.ServerError, match="insufficient memory"):
                await client.jetstream().add_stream(memory)


async def test_postgres_takes_settings() -> None:
    with start("postgres")(max_connections=7, settings={"work_mem": "7MB"}) as server:
        async with connected(server) as connection:
            settings = {
                name: await connection.fetchval(f"SHOW {name}") for name in ("max_connections", "work_mem", "fsync")
            }
        assert settings == {"max_connections": "7", "work_mem": "7MB", "fsync": "off"}


async def test_postgres_waits_for_the_disk_unless_told_otherwise() -> None:
    with start("postgres")(fsync=True) as server:
        async with connected(server) as connection:
            assert await connection.fetchval("SHOW fsync") == "on"


def test_nats_waits_for_the_disk_unless_told_otherwise(tmp_path: Path) -> None:
    with start("nats")(tmp_path):
        assert '"sync_interval": "always"' in (tmp_path / "nats-server.conf").read_text()


# --- TimescaleDB in WebAssembly ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def timescale() -> Iterator[Server]:
    with start("timescaledb")() as server:
        yield server


@pytest.fixture
async def schema(timescale: Server, request: pytest.FixtureRequest) -> str:
    """Each test has its own."""
    async with connected(timescale) as connection:
        await connection.execute(f"CREATE SCHEMA {request.node.name}")
    return request.node.name


async def test_timescaledb_has_hypertables(timescale: Server, schema: str) -> None:
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [(begin + timedelta(hours=hour), f"user-{hour % 7}", "x" * 60) for hour in range(24 * 100)]
    async with connected(timescale, server_settings={"search_path": f"{schema},public"}) as connection:
        await connection.execute("CREATE TABLE events (at timestamptz NOT NULL, who text NOT NULL, what text)")
        await connection.execute("SELECT create_hypertable('events', by_range('at', INTERVAL '7 days'))")
        assert await connection.copy_records_to_table("events", schema_name=schema, records=rows) == "COPY 2400"
        await connection.execute(
            "ALTER TABLE events SET (timescaledb.compress, timescaledb.compress_segmentby = 'who')"
        )
        compressed = await connection.fetch("SELECT compress_chunk(c) FROM show_chunks('events') c LIMIT 3")
        weeks = await connection.fetch(
            "SELECT time_bucket('1 week', at) w, count(*) n FROM events GROUP BY 1 ORDER BY 1"
        )
        with pytest.raises(asyncpg.PostgresError, match="cannot create a unique index without the column"):
            await connection.execute("CREATE UNIQUE INDEX ON events (who)")
    assert len(compressed) == 3
    assert [sum(week["n"] for week in weeks), weeks[0]["w"]] == [2400, datetime(2025, 12, 29, tzinfo=UTC)]


@pytest.mark.parametrize("size", [65_000, 66_000, 3_000_000])
async def test_timescaledb_takes_a_message_that_comes_in_pieces(timescale: Server, size: int) -> None:
    async with connected(timescale) as connection:
        assert await connection.fetchval("SELECT length($1::text)", "x" * size) == size
        assert len(await connection.fetchval("SELECT repeat('x', $1)", size)) == size


async def test_timescaledb_serves_a_pool(timescale: Server, schema: str) -> None:
    settings = {"search_path": schema, "application_name": "a pool"}
    async with asyncpg.create_pool(timescale.url, min_size=4, max_size=4, server_settings=settings, timeout=20) as pool:
        await pool.execute("CREATE TABLE counted (n integer)")

        async def count(n: int) -> int:
            async with pool.acquire() as connection, connection.transaction():
                await connection.execute("INSERT INTO counted VALUES ($1)", n)
                await asyncio.sleep(0.001)
                return await connection.fetchval("SELECT count(*) FROM counted")

        seen = await asyncio.gather(*(count(n) for n in range(40)))  # a pool says RESET ALL after each use
        assert sorted(seen) == list(range(1, 41))


async def test_connections_to_timescaledb_have_their_own_statements_and_settings(
    timescale: Server, schema: str
) -> None:
    async with (
        connected(timescale, server_settings={"timezone": "Asia/Tokyo"}) as one,
        connected(timescale, server_settings={"options": "-c timezone=America/Lima"}, statement_cache_size=0) as other,
    ):
        first = [await one.prepare("SELECT 1, current_setting('timezone')"), await other.prepare("SELECT 2")]
        assert [tuple(await first[0].fetchrow()), await first[1].fetchval()] == [(1, "Asia/Tokyo"), 2]
        assert await other.fetchval("SHOW timezone") == "America/Lima"
        with pytest.raises(asyncpg.UndefinedTableError):
            await other.fetchval("SELECT * FROM nothing")
        assert [tuple(await first[0].fetchrow()), await other.fetchval("SELECT 3")] == [(1, "Asia/Tokyo"), 3]


async def test_a_connection_to_timescaledb_that_breaks_leaves_no_transaction(timescale: Server, schema: str) -> None:
    async with connected(timescale) as connection:
        await connection.execute(f"CREATE TABLE {schema}.half (n integer)")
        await connection.execute(f"BEGIN; INSERT INTO {schema}.half VALUES (1)")
    async with connected(timescale) as connection:
        assert await connection.fetchval(f"SELECT count(*) FROM {schema}.half") == 0


async def test_timescaledb_says_that_it_has_one_database_only(timescale: Server) -> None:
    with pytest.raises(asyncpg.InvalidCatalogNameError, match='there is only "postgres"'):
        await asyncpg.connect(timescale.url.replace("/postgres", "/another"), timeout=20)


async def test_timescaledb_ends_the_wait_for_an_open_transaction() -> None:
    with start("timescaledb")(wait_seconds=0.3) as server:
        async with connected(server) as holding, connected(server) as waiting:
            await holding.execute("BEGIN")
            for statement in (("SELECT 1",), ("SELECT $1::int", 1)) * 2:
                with pytest.raises(asyncpg.LockNotAvailableError, match="one at a time"):
                    await waiting.execute(*statement)
            await holding.execute("COMMIT")
            assert await waiting.fetchval("SELECT 1") == 1


# --- stopping them ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["postgres", "timescaledb", "nats"])
async def test_a_killed_server_comes_back_with_its_data_at_its_url(name: str, tmp_path: Path) -> None:
    with start(name)(tmp_path) as server:
        await store(server)
        url, pid = server.url, server.pid
        server.kill()
        assert [server.pid, refused(server)] == [None, True]
        server.restart()
        assert server.url == url
        assert server.pid not in (None, pid)
        assert await stored(server) == ["kept"]


@pytest.mark.parametrize("name", ["postgres", "timescaledb", "nats"])
async def test_a_folder_is_opened_again(name: str, tmp_path: Path) -> None:
    with start(name)(tmp_path) as server:
        await store(server)
    with start(name)(tmp_path) as server:
        assert await stored(server) == ["kept"]


@every_server
async def test_a_paused_server_keeps_connections_and_answers_nobody(name: str) -> None:
    with start(name)() as server:
        assert isinstance(server, OwnServer)
        await store(server)
        server.pause()
        with pytest.raises((TimeoutError, OSError, redis.exceptions.TimeoutError, nats.errors.Error)):
            await asyncio.wait_for(stored(server), 0.5)
        assert not refused(server)
        server.resume()
        assert await stored(server) == ["kept"]


async def test_a_paused_postgres_does_not_even_end_what_it_is_at(tmp_path: Path) -> None:
    with start("postgres")(tmp_path) as server:
        async with connected(server) as connection:
            running = asyncio.ensure_future(connection.fetchval("SELECT 1 FROM pg_sleep(0.3)"))
            await asyncio.sleep(0.1)
            server.pause()
            await asyncio.sleep(0.6)
            assert not running.done()
            server.resume()
            assert await running == 1


@every_server
def test_a_server_ends_in_order(name: str) -> None:
    with start(name)() as server:
        assert isinstance(server, OwnServer)
        server.stop()
        assert [server.pid, server.returncode, refused(server)] == [None, 0, True]
        server.stop()
        server.start()
        server.pause()
        server.stop()
        assert [server.pid, server.returncode] == [None, 0]


def test_a_server_ends_by_the_signal_that_was_asked_for() -> None:
    with start("nats")() as server:
        assert isinstance(server, OwnServer)
        server.stop(signal.SIGKILL)
        assert server.returncode == -signal.SIGKILL


async def test_a_server_that_does_not_end_is_killed_and_named() -> None:
    with start("postgres")() as server:
        async with connected(server):
            with pytest.raises(ServerFailed, match=r"postgres .* did not end within 0.5 s of SIGTERM, and was killed"):
                server.stop(signal.SIGTERM, wait_seconds=0.5)
        assert server.pid is None


# --- beside each other ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["postgres", "redis", "nats"])
async def test_servers_run_beside_each_other(name: str) -> None:
    with start(name)() as one, start(name)() as other:
        assert isinstance(one, OwnServer)
        assert isinstance(other, OwnServer)
        assert one.url != other.url
        assert one.folder != other.folder
        await store(one)
        one.stop()
        await store(other)
        assert await stored(other) == ["kept"]


def test_nobody_gets_the_port_of_a_server_that_is_down() -> None:
    with start("redis")() as server:
        assert isinstance(server, OwnServer)
        server.stop()
        with socket.socket() as thief, pytest.raises(OSError, match="in use"):
            thief.bind((processes.HOST, server.port))
        server.start()


@pytest.mark.parametrize("name", ["postgres", "redis"])
def test_there_is_one_shared_server(name: str) -> None:
    start(name)
    assert fixtures.shared(name) is fixtures.shared(name)
    assert fixtures.shared(name).pid is not None


# --- when it goes wrong -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("postgres", {"shared_buffers": "plenty"}, 'invalid value for parameter "shared_buffers": "plenty"'),
        ("redis", {"maxclients": "plenty"}, 'maxclients "plenty"'),
        ("nats", {"max_connections": "plenty"}, "nats-server.conf:10"),
    ],
)
def test_a_server_that_does_not_start_shows_its_log(name: str, settings: dict[str, str], says: str) -> None:
    with pytest.raises(ServerFailed) as failed, start(name)(settings=settings):
        pass
    assert f"{name} (" in str(failed.value)
    assert "instead of starting" in str(failed.value)
    assert says in str(failed.value)


def test_a_server_that_does_not_answer_in_time_is_ended(tmp_path: Path) -> None:
    with pytest.raises(ServerFailed, match="did not answer within 0 s"), start("postgres")(tmp_path, start_seconds=0):
        pass
    with start("postgres")(tmp_path) as server:
        assert server.pid is not None


INTERRUPTED = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.support import reaper, servers
with servers.redis() as redis, servers.postgres(fsync=False) as postgres:
    postgres.pause()
    pids = [pid for server in (redis, postgres) for pid in reaper.family(server.pid)]
    print(*pids, redis.folder, postgres.folder, flush=True)
    {end}
"""


@pytest.mark.parametrize("end", ["time.sleep(600)", "os._exit(3)", "os.fork() or time.sleep(600); os._exit(3)"])
def test_servers_end_when_the_test_run_does(end: str) -> None:
    start("postgres")
    start("redis")
    command = [sys.executable, "-c", INTERRUPTED.replace("{end}", end), str(templates.ROOT)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as run:
        assert run.stdout is not None
        *pids, redis_folder, postgres_folder = run.stdout.readline().split()
        began = {int(pid): reaper.born(int(pid)) for pid in pids}
        assert len(pids) > 3
        if end.startswith("time"):
            run.kill()
        run.wait(20)
        wait_until(lambda: not any(reaper.born(pid) == begun for pid, begun in began.items()))
        wait_until(lambda: not Path(redis_folder).exists() and not Path(postgres_folder).exists())
        os.killpg(run.pid, signal.SIGKILL) if "fork" in end else None


def test_a_process_that_got_the_id_later_is_not_hit() -> None:
    with subprocess.Popen(["sleep", "600"]) as sleeper:
        begun = reaper.born(sleeper.pid)
        assert begun is not None
        reaper.send({sleeper.pid: begun - 1}, signal.SIGKILL)
        time.sleep(0.1)
        assert sleeper.poll() is None
        reaper.kill_family(sleeper.pid)
        assert sleeper.wait(10) == -signal.SIGKILL


# --- what a machine lacks ---------------------------------------------------------------------------------------------


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing on PATH, no wheel, nothing installed before."""

    def no_files(distribution: str) -> None:
        raise metadata.PackageNotFoundError(distribution)

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(metadata, "files", no_files)
    monkeypatch.setattr(programs, "DEBIAN_POSTGRES", tmp_path)
    monkeypatch.setattr(templates, "cache_folder", lambda: tmp_path)


@every_server
@pytest.mark.usefixtures("bare_machine")
def test_what_is_missing_is_said_with_the_ways_to_get_it(name: str) -> None:
    lack = servers.missing(name)
    assert lack is not None
    assert "on PATH" in lack
    assert f"set {servers.URLS[name]}" in lack


@pytest.mark.usefixtures("bare_machine")
def test_what_is_missing_skips_or_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "_running", {})
    monkeypatch.setattr(servers, "_failed", {})
    monkeypatch.setenv(servers.REQUIRE, "postgres,nats")
    with pytest.raises(pytest.skip.Exception, match=r"redis: Redis 6\.2 or newer is neither"):
        fixtures.shared("redis")
    monkeypatch.setenv(servers.REQUIRE, "postgres, redis")
    with pytest.raises(pytest.fail.Exception, match=r"EVENTCORE_REQUIRE names redis, but Redis 6\.2 or newer"):
        fixtures.shared("redis")


@pytest.mark.usefixtures("bare_machine")
def test_what_is_too_old_is_passed_by(tmp_path: Path) -> None:
    program = tmp_path / "nats-server"
    program.write_text("#!/bin/sh\necho nats-server: v2.9.25\n")
    program.chmod(0o755)
    lack = servers.missing("nats")
    assert lack is not None
    assert "nats-server 2.10 or newer" in lack


@pytest.mark.usefixtures("bare_machine")
def test_an_installation_that_fails_shows_why(tmp_path: Path) -> None:
    for name, says in {"node": "echo v20.1.0", "npm": "echo no such registry; exit 7"}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{says}\n")
        (tmp_path / name).chmod(0o755)
    with pytest.raises(Unavailable, match=r"(?s)npm ci --ignore-scripts.*no such registry"), servers.timescaledb():
        pass
    assert not list(tmp_path.glob("npm-*[!d]"))


@every_server
def test_a_given_server_is_used_and_never_stopped(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(servers.URLS[name], "somewhere://else")
    assert servers.missing(name) is None
    with getattr(servers, name)() as server:
        assert (server.url, server.pid) == ("somewhere://else", None)
        for act in (server.stop, server.kill, server.start, server.restart, server.pause, server.resume):
            with pytest.raises(Unavailable, match=f"unset {servers.URLS[name]}|{servers.URLS[name]} was not started"):
                act()


def test_tests_that_stop_a_server_have_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    start("redis")
    monkeypatch.setenv(servers.URLS["redis"], "redis://somewhere.else")
    with servers.redis(own_process=True) as server:
        server.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")
def test_as_root_postgres_runs_as_somebody_else_whatever_the_folders(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with start("postgres")(tmp_path) as server:
        assert Path(f"/proc/{server.pid}").stat().st_uid != 0
        assert Path(f"/proc/{server.pid}").stat().st_uid == (tmp_path / "data").stat().st_uid
        assert server.log.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")
def test_as_root_a_program_out_of_reach_is_copied(tmp_path: Path) -> None:
    program = tmp_path / "package" / "install" / "bin" / "postgres"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\ncat ${0%/bin/*}/../../package.libs/said\n")
    program.chmod(0o755)
    (tmp_path / "package.libs").mkdir()
    (tmp_path / "package.libs" / "said").write_text("somebody else")
    tmp_path.chmod(0o700)
    user = programs.unprivileged()
    copied = programs.executable_for(user, program)
    assert copied != program
    assert subprocess.run([copied], capture_output=True, text=True, check=True, user=user.uid).stdout == "somebody else"
