"""Real servers for tests: PostgreSQL, TimescaleDB, Redis and NATS, each a process of its own, without root or Docker.

Four context managers, `postgres`, `timescaledb`, `redis` and `nats`, start one server on 127.0.0.1, wait until it
answers, and end it. `shared(name)` starts one for the whole test process, at the first call. `missing(name)` tells what
a machine lacks, `require(name, reason)` skips a test for that reason, or fails it where ``EVENTCORE_REQUIRE`` names the
server. What is taken, in this order:

1. the server at ``EVENTCORE_TEST_POSTGRES_URL``, ``…_TIMESCALE_URL``, ``…_REDIS_URL`` or ``…_NATS_URL``;
2. a program on PATH (for PostgreSQL also in Debian's own folders), when it is new enough;
3. one that a wheel of the dependency group ``servers`` brings, or for TimescaleDB the npm package in ``timescale/``.

``EVENTCORE_TEST_SERVERS_FROM=wheel`` turns 2 and 3 round: the pinned versions, whatever the machine has.

Each server has its own port, held for as long as the object lives, and its own folder, so any number of them run beside
each other, also under pytest-xdist. `tests.support.reaper` ends them when the test run dies. As root, PostgreSQL runs as
an unprivileged user, for it refuses root. Not for production, and not for speed: what is measured on these is said to be.
"""

import atexit
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

from tests.support.processes import (
    HOST,
    START_SECONDS,
    OwnServer,
    Port,
    Server,
    ServerFailed,
    Unavailable,
    folder_for,
    run_tool,
    temporary_folder,
)
from tests.support.programs import URLS, find_nats, find_node, find_postgres, find_redis
from tests.support.templates import TIMESCALE, copy_template, postgres_data, require_npm, timescale_modules

__all__ = [
    "REQUIRE",
    "URLS",
    "OwnServer",
    "Server",
    "ServerFailed",
    "Unavailable",
    "end_shared",
    "missing",
    "nats",
    "needed",
    "postgres",
    "redis",
    "require",
    "shared",
    "timescaledb",
]

REQUIRE = "EVENTCORE_REQUIRE"
"""Environment variable: names of servers, with commas between, whose tests must not be skipped."""

WAIT_SECONDS = 20.0  # above what a transaction of a test takes, below the time-out of a test
ANSWER_SECONDS = 5.0  # for one attempt to find out whether a server answers


@contextmanager
def postgres(
    folder: Path | None = None,
    *,
    own_process: bool = False,
    fsync: bool = True,
    max_connections: int = 50,
    settings: Mapping[str, str] | None = None,
    start_seconds: float = START_SECONDS,
) -> Iterator[Server]:
    """A PostgreSQL server with an empty database; ``fsync=False`` for tests that do not ask what a crash leaves.

    Args:
        folder: where it keeps data and log; one that held a server of ours before is opened again. As root the data may
            lie elsewhere, with a link to them, since they belong to an unprivileged user.
        own_process: also where ``EVENTCORE_TEST_POSTGRES_URL`` is set, for tests that stop the server.
        fsync: whether it waits for the disk.
        max_connections: of all clients together.
        settings: more of them, as in postgresql.conf.
        start_seconds: how long it may take to answer.
    """
    if not own_process and (server := _given("postgres")) is not None:
        yield server
        return
    program = find_postgres()
    with (
        folder_for("postgres", folder) as folder,
        temporary_folder("pg", program.user, short=True) as sockets,
        Port() as port,
    ):
        sockets.chmod(0o711)
        data = postgres_data(program, folder)
        options = {
            "listen_addresses": HOST,
            "port": str(port.number),
            "unix_socket_directories": str(sockets),
            "fsync": "on" if fsync else "off",
            "max_connections": str(max_connections),
            "timezone": "UTC",
            "dynamic_shared_memory_type": "mmap",  # in the data folder: a kill leaves nothing in /dev/shm
            **(settings or {}),
        }
        server = OwnServer(
            name="postgres",
            url=f"postgresql://postgres@{HOST}:{port.number}/postgres",
            program=program,
            arguments=["-D", str(data), *(word for item in options.items() for word in ("-c", "=".join(item)))],
            port=port,
            folder=folder,
            data=data,
            answers=_postgres_answers,
            stop_signal=signal.SIGINT,  # SIGTERM waits for the clients to go
            start_seconds=start_seconds,
        )
        yield from _run(server)


@contextmanager
def timescaledb(
    folder: Path | None = None,
    *,
    own_process: bool = False,
    wait_seconds: float = WAIT_SECONDS,
    start_seconds: float = START_SECONDS,
) -> Iterator[Server]:
    """PostgreSQL 17 with TimescaleDB in WebAssembly; see `timescale/bridge.mjs` for what it is and what it cannot show.

    Args:
        folder: where it keeps data and log; one that held a server of ours before is opened again.
        own_process: also where ``EVENTCORE_TEST_TIMESCALE_URL`` is set, for tests that stop the server.
        wait_seconds: how long a statement waits while another connection's transaction is open, then it fails.
        start_seconds: how long it may take to answer.
    """
    if not own_process and (server := _given("timescaledb")) is not None:
        yield server
        return
    program = find_node()
    modules = timescale_modules()
    with folder_for("timescaledb", folder) as folder, Port() as port:
        bridge = [str(TIMESCALE / "bridge.mjs"), str(modules)]
        data = folder / "data"
        if not data.exists():
            made_from = [(TIMESCALE / name).read_bytes() for name in ("package-lock.json", "bridge.mjs")]
            copy_template("timescaledb", made_from, data, lambda path: run_tool(program, [*bridge, str(path)]))
        server = OwnServer(
            name="timescaledb",
            url=f"postgresql://postgres@{HOST}:{port.number}/postgres",
            program=program,
            arguments=[*bridge, str(data), str(port.number), str(round(wait_seconds * 1000))],
            port=port,
            folder=folder,
            data=data,
            answers=_postgres_answers,
            start_seconds=start_seconds,
        )
        yield from _run(server)


@contextmanager
def redis(
    folder: Path | None = None,
    *,
    own_process: bool = False,
    maxmemory: str = "64mb",
    maxmemory_policy: str = "noeviction",
    settings: Mapping[str, str] | None = None,
    start_seconds: float = START_SECONDS,
) -> Iterator[Server]:
    """A Redis server, or Valkey where no wheel has Redis, that forgets everything when it ends.

    Args:
        folder: where it keeps its log.
        own_process: also where ``EVENTCORE_TEST_REDIS_URL`` is set, for tests that stop the server.
        maxmemory: how much it may hold.
        maxmemory_policy: what it does beyond that.
        settings: more of them, as in redis.conf.
        start_seconds: how long it may take to answer.
    """
    if not own_process and (server := _given("redis")) is not None:
        yield server
        return
    program = find_redis()
    with folder_for("redis", folder) as folder, Port() as port:
        data = folder / "data"
        data.mkdir(exist_ok=True)
        options = {
            "bind": HOST,
            "port": str(port.number),
            "dir": str(data),
            "daemonize": "no",
            "save": "",
            "appendonly": "no",
            "maxmemory": maxmemory,
            "maxmemory-policy": maxmemory_policy,
            **(settings or {}),
        }
        server = OwnServer(
            name="redis",
            url=f"redis://{HOST}:{port.number}/0",
            program=program,
            arguments=[word for key, value in options.items() for word in (f"--{key}", value)],
            port=port,
            folder=folder,
            data=data,
            answers=_redis_answers,
            start_seconds=start_seconds,
        )
        yield from _run(server)


@contextmanager
def nats(
    folder: Path | None = None,
    *,
    own_process: bool = False,
    sync_always: bool = True,
    max_payload_bytes: int = 1024 * 1024,
    max_store_bytes: int = 1024 * 1024 * 1024,
    settings: Mapping[str, object] | None = None,
    start_seconds: float = START_SECONDS,
) -> Iterator[Server]:
    """A NATS server with JetStream on files.

    Args:
        folder: where it keeps configuration, streams and log; one that held a server of ours before is opened again.
        own_process: also where ``EVENTCORE_TEST_NATS_URL`` is set, for tests that stop the server.
        sync_always: whether it waits for the disk before it acknowledges.
        max_payload_bytes: of one message.
        max_store_bytes: of all streams together.
        settings: more of them, as in nats-server.conf; ``jetstream`` is merged.
        start_seconds: how long it may take to answer.
    """
    if not own_process and (server := _given("nats")) is not None:
        yield server
        return
    program = find_nats()
    with folder_for("nats", folder) as folder, Port() as port:
        data = folder / "data"
        given = dict(settings or {})
        jetstream: dict[str, object] = {"store_dir": str(data), "max_file_store": max_store_bytes}
        if sync_always:
            jetstream["sync_interval"] = "always"
        configuration = {
            "listen": f"{HOST}:{port.number}",
            "server_name": f"eventcore-test-{port.number}",
            "max_payload": max_payload_bytes,
            "jetstream": jetstream | dict(given.pop("jetstream", {})),  # type: ignore[call-overload]
            **given,
        }
        file = folder / "nats-server.conf"
        file.write_text(json.dumps(configuration, indent=2), encoding="utf-8")
        server = OwnServer(
            name="nats",
            url=f"nats://{HOST}:{port.number}",
            program=program,
            arguments=["--config", str(file)],
            port=port,
            folder=folder,
            data=data,
            answers=_nats_answers,
            start_seconds=start_seconds,
        )
        yield from _run(server)


def _run(server: OwnServer) -> Iterator[Server]:
    """Start it, lend it, end it."""
    try:
        server.start()
        yield server
    finally:
        server.close()


_SHARED: dict[str, Callable[[], AbstractContextManager[Server]]] = {
    "postgres": lambda: postgres(max_connections=100),
    "timescaledb": timescaledb,
    "redis": redis,
    "nats": nats,
}
_running: dict[str, Server] = {}
_failed: dict[str, Exception] = {}  # what does not start once is not tried again for every test
_ends = ExitStack()


def shared(name: str) -> Server:
    """The server of that name which all tests of this process share; started at the first call, ended by `end_shared`.

    Tests use a database, a key prefix or a stream of their own in it, and do not stop it.
    """
    if name in _failed:
        raise _failed[name]
    if name not in _running:
        try:
            _running[name] = _ends.enter_context(_SHARED[name]())
        except (Unavailable, ServerFailed) as error:
            _failed[name] = error
            raise
        atexit.register(_end_shared_of, os.getpid())
    return _running[name]


def end_shared() -> None:
    """End the servers that `shared` started; the end of the process does so too."""
    _running.clear()
    _ends.close()


def _end_shared_of(pid: int) -> None:
    if os.getpid() == pid:  # not in a fork
        end_shared()


def missing(name: str) -> str | None:
    """What this machine lacks to run a server, and how to get it; None when it lacks nothing."""
    find = {"postgres": find_postgres, "timescaledb": find_node, "redis": find_redis, "nats": find_nats}[name]
    if _given(name) is not None:
        return None
    try:
        find()
        if name == "timescaledb":
            require_npm()
    except Unavailable as error:
        return str(error)
    return None


def require(name: str, reason: str) -> NoReturn:
    """Skip the running test for that reason, or fail it where ``EVENTCORE_REQUIRE`` names the server."""
    if name in {word.strip() for word in os.environ.get(REQUIRE, "").split(",")}:
        pytest.fail(f"{REQUIRE} names {name}, but {reason}", pytrace=False)
    pytest.skip(f"{name}: {reason}")


@contextmanager
def needed(name: str) -> Iterator[None]:
    """Skip or fail the running test, see `require`, where the server that the block asks for cannot be had."""
    try:
        yield
    except Unavailable as error:
        require(name, str(error))


def _given(name: str) -> Server | None:
    """The server whose URL the environment names."""
    url = os.environ.get(URLS[name], "").strip()
    return Server(name=name, url=url, software=f"the server of {URLS[name]}") if url else None


def _postgres_answers(port: int) -> bool:
    """Whether it lets us in; while it starts or recovers it answers with an error."""
    words = b"user\0postgres\0database\0postgres\0\0"
    startup = (len(words) + 8).to_bytes(4, "big") + (196608).to_bytes(4, "big") + words
    return _ask(port, startup, 1, goodbye=b"X\0\0\0\4") == b"R"


def _redis_answers(port: int) -> bool:
    return _ask(port, b"PING\r\n", 5) == b"+PONG"


def _nats_answers(port: int) -> bool:
    """It introduces itself to everyone."""
    return b'"jetstream":true' in _ask(port, b"", 4096)


def _ask(port: int, question: bytes, answer_bytes: int, goodbye: bytes = b"") -> bytes:
    """What the server says first; nothing when it does not."""
    try:
        with socket.create_connection((HOST, port), timeout=ANSWER_SECONDS) as connection:
            connection.sendall(question)
            answer = connection.recv(answer_bytes)
            connection.sendall(goodbye)
            return answer
    except OSError:
        return b""
