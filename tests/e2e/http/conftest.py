"""A real server: `serve` in a process of its own on a free port of 127.0.0.1, with its log in a file."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

COMMAND = [sys.executable, "-m", "entrypoints.http.serve"]


class Server:
    """A running server and what can be asked of it without HTTP."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self.log = process, log
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def wait_until_listening(self) -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.process.poll() is None:
            found = re.search(r'"url":"http://[^"]*:(\d+)"', self.log.read_text())
            if found:
                self.port = int(found[1])
                return
            time.sleep(0.02)
        raise AssertionError(f"the server does not listen: {self.log.read_text()}")

    def connect(self, timeout_seconds: float = 10.0) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=timeout_seconds)

    def talk(self, request: bytes) -> bytes:
        """Send bytes, and read until the server closes or, once it has begun to answer, is silent for a second.

        Where the request asks for the connection to be closed, silence means only that the server is slow.
        """
        with self.connect() as connection:
            connection.sendall(request)
            return read_all(connection, 20.0 if b"Connection: close" in request else 1.0)

    def forget_peak(self) -> None:
        """Begin to measure `peak_kib` anew."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def peak_kib(self) -> int:
        """The most memory that the process has had."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])

    def stop(self, number: int = signal.SIGTERM, timeout_seconds: float = 20.0) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(timeout_seconds)


def read_all(connection: socket.socket, silence_seconds: float = 1.0, first_seconds: float = 20.0) -> bytes:
    """What comes until the other side closes or says nothing more for a while.

    The first word may take longer: on a busy machine an answer comes late, and only what follows it may be nothing.
    """
    connection.settimeout(max(first_seconds, silence_seconds))
    found = b""
    try:
        while piece := connection.recv(65_536):
            connection.settimeout(silence_seconds)
            found += piece
    except (TimeoutError, ConnectionResetError):
        pass
    return found


def launch(folder: Path, name: str, **settings: Any) -> Server:
    """Start a server with settings, its log and its data in ``folder``; it does not listen yet."""
    log = folder / f"{name}.log"
    chosen = {"store_url": "memory://", "port": 0} | settings
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EVENTCORE_")}
    environment |= {f"EVENTCORE_{name.upper()}": str(value) for name, value in chosen.items()}
    with log.open("wb") as file:
        process = subprocess.Popen(
            COMMAND, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=file, env=environment, cwd=folder
        )
    return Server(process, log)


def end(server: Server) -> None:
    """Kill a server that still runs."""
    if server.process.poll() is None:
        server.process.kill()
    server.process.wait(10)
    assert server.process.stdout is not None
    server.process.stdout.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start a server with settings of its own; it is ended with the test."""
    servers: list[Server] = []

    def start_one(**settings: Any) -> Server:
        servers.append(launch(tmp_path, str(len(servers)), **settings))
        servers[-1].wait_until_listening()
        return servers[-1]

    yield start_one
    for server in servers:
        end(server)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that leave it as it was; at the end it must stop well and have no traceback in its log."""
    server = launch(tmp_path_factory.mktemp("server"), "shared", body_timeout_seconds=2)
    try:
        server.wait_until_listening()
        yield server
        assert server.stop() == 0
        assert "Traceback" not in server.log.read_text()
    finally:
        end(server)
