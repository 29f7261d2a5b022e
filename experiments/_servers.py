"""The servers that experiments look at: real ones of their own, started without root by `tests.support.servers`.

Not for what is asked of them. What a machine lacks ends an experiment with `NotHere`. A TimescaleDB given by URL is
used instead of the one in WebAssembly; NATS and PostgreSQL always are our own, because experiments kill them.
"""

import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import nats
from nats.js import JetStreamContext
from nats.js.api import StorageType, StreamConfig

from experiments._report import NotHere, Report
from tests.support import servers, syscalls
from tests.support.processes import HOST, Port, Program, temporary_folder
from tests.support.programs import URLS, find_nats
from tests.support.servers import OwnServer, Server, Unavailable

ANSWER_SECONDS = 10.0  # for what is expected, on a busy machine
SILENCE_SECONDS = 0.3  # for what is not

Worker = JetStreamContext.PullSubscription


# --- NATS -------------------------------------------------------------------------------------------------------------


@contextmanager
def nats_server(report: Report, **options: Any) -> Iterator[OwnServer]:
    """A nats-server with JetStream on files; options as in `tests.support.servers.nats`."""
    with _started(report, servers.nats(own_process=True, **options)) as server:
        report.note(f"server: {_version(server)}, sync_interval {_sync(options.get('sync_always', True))}")
        yield server


@contextmanager
def traced_nats_server(report: Report, trace: Path, *, sync_always: bool) -> Iterator[OwnServer]:
    """A nats-server whose writes, syncs and answers are written down in `trace`, see `tests.support.syscalls`."""
    if sys.platform != "linux" or not syscalls.CALLS:
        raise NotHere("system calls are traced with ptrace of Linux on x86_64 or aarch64; run it there")
    with _started(report, _traced(trace, sync_always)) as server:
        report.note(f"server: {_version(server)}, sync_interval {_sync(sync_always)}, its system calls traced")
        yield server


@contextmanager
def _traced(trace: Path, sync_always: bool) -> Iterator[OwnServer]:
    with temporary_folder("nats-traced") as folder, Port() as port:
        program = find_nats()
        store: dict[str, object] = {"store_dir": str(folder / "data")}
        if sync_always:
            store["sync_interval"] = "always"
        file = folder / "nats-server.conf"
        file.write_text(json.dumps({"listen": f"{HOST}:{port.number}", "jetstream": store}), encoding="utf-8")
        server = OwnServer(
            name="nats",
            url=f"nats://{HOST}:{port.number}",
            program=Program(path=Path(sys.executable), software=program.software),
            arguments=[syscalls.__file__, str(trace), str(program.path), "--config", str(file)],
            port=port,
            folder=folder,
            data=folder / "data",
            answers=servers._nats_answers,
        )
        try:
            server.start()
            yield server
        finally:
            server.close()


def _sync(always: bool) -> str:
    return "always" if always else "not set (2 minutes)"


def kill(server: OwnServer) -> None:
    """SIGKILL without a moment's delay; the way of the tests looks for the server's children first."""
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    server.kill()


@asynccontextmanager
async def jetstream(server: Server, **options: Any) -> AsyncIterator[JetStreamContext]:
    """JetStream on a connection of its own, which does not outlive the server unless `options` say so."""
    settings = {"allow_reconnect": False, "error_cb": say_nothing, "connect_timeout": ANSWER_SECONDS}
    client = await nats.connect(server.url, **(settings | options))
    try:
        yield client.jetstream(timeout=ANSWER_SECONDS)
    finally:
        await client.close()


async def say_nothing(error: Exception) -> None:
    """For nats-py: what an experiment does to its own server is no news."""


async def make_stream(js: JetStreamContext, name: str, subject: str, **config: Any) -> None:
    """A stream on files; fields as in `nats.js.api.StreamConfig`."""
    await js.add_stream(StreamConfig(name=name, subjects=[subject], storage=StorageType.FILE, **config))


async def send(js: JetStreamContext, subject: str, body: bytes = b"content", name: str | None = None) -> str:
    """Send a message, under an id if it has one; what the server says, in words."""
    try:
        ack = await js.publish(subject, body, headers=None if name is None else {"Nats-Msg-Id": name})
    except nats.js.errors.APIError as error:
        return refusal(error)
    return f"a duplicate of message {ack.seq}" if ack.duplicate else f"stored as message {ack.seq}"


def refusal(error: nats.js.errors.APIError) -> str:
    """An error of the server, in words."""
    return f"refused: {error.code}, {error.err_code}, {error.description}"


async def stored(js: JetStreamContext, stream: str) -> int:
    """How many messages the stream holds."""
    return (await js.stream_info(stream)).state.messages


async def fetched(worker: Worker, most: int = 1, wait_seconds: float = ANSWER_SECONDS) -> str:
    """Fetch, and tell which messages came and for which time, in words; wait less for what should not come."""
    try:
        messages = await worker.fetch(most, timeout=wait_seconds)
    except TimeoutError:
        return "nothing"
    came = [f"{one.metadata.sequence.stream} (delivery {one.metadata.num_delivered})" for one in messages]
    return ", ".join(came) or "nothing"


# --- PostgreSQL and TimescaleDB ---------------------------------------------------------------------------------------


@contextmanager
def postgres_server(report: Report, **options: Any) -> Iterator[OwnServer]:
    """A native PostgreSQL; options as in `tests.support.servers.postgres`."""
    with _started(report, servers.postgres(own_process=True, **options)) as server:
        report.note(f"server: {_version(server)}")
        yield server


@asynccontextmanager
async def timescaledb(report: Report) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database with TimescaleDB, in a schema of its own, which is gone afterwards.

    A server of ``EVENTCORE_TEST_TIMESCALE_URL`` is taken, or that of ``EVENTCORE_TEST_POSTGRES_URL`` where it has the
    extension; otherwise the one in WebAssembly. The driver keeps no plans: see `experiments.pglite_plans`.
    """
    url = os.environ.get(URLS["timescaledb"], "").strip() or await _postgres_with_extension()
    if url:
        async with _schema(url, report) as connection:
            yield connection
        return
    with wasm_server(report) as server:
        async with _schema(server.url, report) as connection:
            report.note("in WebAssembly, with one backend: speed and concurrency are unmeasured here")
            yield connection


@contextmanager
def wasm_server(report: Report) -> Iterator[OwnServer]:
    """TimescaleDB in WebAssembly, whatever other server is given."""
    with _started(report, servers.timescaledb(own_process=True)) as server:
        yield server


async def _postgres_with_extension() -> str:
    url = os.environ.get(URLS["postgres"], "").strip()
    if not url:
        return ""
    connection = await asyncpg.connect(url, timeout=ANSWER_SECONDS)
    try:
        has = await connection.fetchval("SELECT count(*) FROM pg_available_extensions WHERE name = 'timescaledb'")
    finally:
        await connection.close()
    return url if has else ""


@asynccontextmanager
async def _schema(url: str, report: Report) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url, timeout=ANSWER_SECONDS, statement_cache_size=0)
    name = f"experiment_{os.getpid()}"
    try:
        await connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
        version, place = await connection.fetchrow(
            "SELECT extversion, extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'timescaledb'"
        )
        server = await connection.fetchval("SHOW server_version")
        report.note(f"server: TimescaleDB {version} on PostgreSQL {server}")
        await connection.execute(f"CREATE SCHEMA {name}; SET search_path = {name}, {place}; SET timezone = 'UTC'")
        try:
            yield connection
        finally:
            await connection.execute(f"DROP SCHEMA {name} CASCADE")
    finally:
        await connection.close()


async def attempted(connection: asyncpg.Connection, sql: str) -> str:
    """What the server says to a statement: its tag, or its error, in words."""
    try:
        return str(await connection.execute(sql))
    except asyncpg.PostgresError as error:
        return f"refused: {error.sqlstate}, {error.args[0]}"


# --- both -------------------------------------------------------------------------------------------------------------


@contextmanager
def _started(report: Report, start: AbstractContextManager[Server]) -> Iterator[OwnServer]:
    with ExitStack() as stack:
        try:
            with report.uncounted():
                server = stack.enter_context(start)
        except Unavailable as error:
            raise NotHere(str(error)) from error
        assert isinstance(server, OwnServer)
        yield server


def _version(server: Server) -> str:
    return server.software.partition(", ")[0]
