"""The processes of a benchmark: our own command, started on a store, waited for and asked; and the folders they use.

Not here: what is measured (`entrypoints.bench`, `bench_stats`, `bench_mixed`).
"""

import http.client
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

# Linux counts the memory of the process that started another into that one's ru_maxrss; VmHWM is its own alone.
_MAIN: Final = """
import atexit, pathlib
status = pathlib.Path("/proc/self/status")
if status.exists():
    atexit.register(lambda: pathlib.Path("status").write_bytes(status.read_bytes()))
from entrypoints.cli.start import main
main()
"""
_WITHOUT_FOLDS: Final = """
from entrypoints.bench_stores import withhold_folds
withheld = withhold_folds()
withheld.__enter__()
"""
_START_SECONDS: Final = 30.0


class NotVerified(Exception):
    """The store does not hold what was sent, or an answer is wrong; no figure of this run is worth anything."""


def require(so: bool, message: str) -> None:
    """Raise `NotVerified` unless it is so."""
    if not so:
        raise NotVerified(message)


@contextmanager
def new_folder(parent: Path) -> Iterator[Path]:
    """A folder that is deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix="eventcore-bench-", dir=parent) as name:
        yield Path(name).resolve()


@contextmanager
def start(
    folder: Path,
    store_url: str,
    *arguments: str,
    folds: bool = True,
    settings: Mapping[str, str] | None = None,
) -> Iterator["subprocess.Popen[bytes]"]:
    """A process of our own command, killed when the block fails.

    Args:
        folder: where it runs, and where its stderr is kept.
        store_url: its store.
        arguments: the command.
        folds: whether it folds, as it always does outside of benchmarks.
        settings: more of them; those of the environment do not reach it.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EVENTCORE_")}
    environment |= {"EVENTCORE_STORE_URL": store_url, **(settings or {})}
    with (folder / "stderr").open("wb") as log:
        process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-c", _MAIN if folds else _WITHOUT_FOLDS + _MAIN, *arguments],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    try:
        yield process
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        assert process.stdout is not None
        process.stdout.close()


def wait(process: "subprocess.Popen[bytes]") -> tuple[bytes, Any]:
    """The output of a process and what it used, once it has ended well."""
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    require(process.returncode == 0, f"the measured process ended with exit code {process.returncode}")
    return output, usage


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(server: "subprocess.Popen[bytes]", port: int) -> None:
    """Wait until a server listens."""
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until:
        require(server.poll() is None, f"the server ended with exit code {server.returncode} before it listened")
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.05)
    raise NotVerified(f"the server does not listen after {_START_SECONDS:.0f} s")


class Client:
    """Asks a server of ours over one kept connection.

    Args:
        port: where it listens.
        timeout_seconds: for one answer.
    """

    def __init__(self, port: int, timeout_seconds: float = 3_600) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_seconds)

    def get(self, path: str) -> bytes:
        """The body of an answer that has to be 200."""
        try:
            self._connection.request("GET", path)
            answer = self._connection.getresponse()
        except (http.client.RemoteDisconnected, BrokenPipeError):  # it was idle for too long
            self._connection.close()
            self._connection.request("GET", path)
            answer = self._connection.getresponse()
        body = answer.read()
        require(answer.status == 200, f"GET {path.partition('?')[0]} is answered with {answer.status}: {body[:200]!r}")
        return body

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


@contextmanager
def serve(folder: Path, store_url: str, *, folds: bool = True, port: int | None = None) -> Iterator[int]:
    """The port of a server that is ready and has answered nothing else; statistics may take an hour there.

    Args:
        folder: where it runs.
        store_url: its store.
        folds: see `start`.
        port: where it listens; None for any.
    """
    port = free_port() if port is None else port
    settings = {"EVENTCORE_STATISTICS_SECONDS": "3600", "EVENTCORE_LOG_LEVEL": "warning"}
    with start(folder, store_url, "serve", "--port", str(port), folds=folds, settings=settings) as server:
        wait_for_port(server, port)
        client = Client(port, timeout_seconds=_START_SECONDS)
        client.get("/health/ready")
        client.close()
        yield port
        server.terminate()
        wait(server)
