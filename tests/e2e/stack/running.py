"""The processes of a stack as an operator runs them: API, workers and commands, each real, each with its log in a file.

Not here: the servers beside them (`tests.support.servers`), and what is sent and asked (`sending`, `asking`).
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx

from tests.support.processes import HOST, Port, tell_of_end, tell_of_process

EVENTCORE = str(Path(sys.executable).with_name("eventcore"))
START_SECONDS = 40.0
"""Ten times what a process takes on two busy cores, with a server that does not answer."""
GRACE_SECONDS = 10
QUIET_SECONDS = 60.0

Settings = Mapping[str, object]

LOCAL = httpx.Client(
    timeout=30,
    trust_env=False,
    verify=False,  # or it would read the system's certificates, for nothing
    limits=httpx.Limits(max_keepalive_connections=0),  # whoever answered last may have been killed since
)
"""For questions; senders have clients of their own."""


def until(holds: Callable[[], bool], what: str, seconds: float = QUIET_SECONDS, look_seconds: float = 0.05) -> None:
    """Wait until something holds, or fail."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(look_seconds)


def environment(settings: Settings) -> dict[str, str]:
    """The run's own, with these settings and no others."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EVENTCORE_")}
    chosen = {"log_format": "json", "grace_seconds": GRACE_SECONDS, **settings}
    return kept | {f"EVENTCORE_{name.upper()}": str(value) for name, value in chosen.items()}


class Running:
    """One long-running command; started with it, and ended by its own pid.

    Attributes:
        log: what it says.
        url: where it answers, from `wait_until_up` on.
    """

    def __init__(self, command: str, log: Path, settings: Settings) -> None:
        self.log = log
        self.url = ""
        self._began_byte = log.stat().st_size if log.exists() else 0
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                [EVENTCORE, command],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=environment(settings),
                cwd=log.parent,
            )
        tell_of_process(self.process.pid, log.parent)

    def wait_until_up(self) -> None:
        """Wait until it says where it answers."""
        until(lambda: self._announced() or self.process.poll() is not None, f"{self.log} tells a URL", START_SECONDS)
        assert self._announced(), self.said()[-3_000:]

    def said(self) -> str:
        """What it has written to its log, this process alone."""
        return self.log.read_bytes()[self._began_byte :].decode()

    def status(self, path: str) -> int:
        """The status with which it answers a GET."""
        return LOCAL.get(self.url + path).status_code

    def document(self, path: str) -> Any:
        """What it answers a GET with."""
        return LOCAL.get(self.url + path).json()

    def peak_mib(self) -> float:
        """The most memory that it has had."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) / 1024

    def stop(self) -> float:
        """End it as an operator does; returns how many seconds it took."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(GRACE_SECONDS + 5) == 0, self.said()[-3_000:]
        tell_of_end(self.process.pid)
        return time.monotonic() - began

    def kill(self) -> None:
        """End it as the kernel does when memory is out."""
        self.process.kill()
        self.process.wait(10)
        tell_of_end(self.process.pid)

    def _announced(self) -> bool:
        found = re.search(r'"(?:url|health)":\s*"(http://127\.0\.0\.1:\d+)', self.said())
        self.url = found[1] if found else ""
        return found is not None


class Stack:
    """API and workers with the same settings, in any number and order.

    Args:
        folder: for logs, and for what a process keeps beside itself.
        settings: of all processes.
    """

    def __init__(self, folder: Path, settings: Settings) -> None:
        self.folder = folder
        self.settings = settings
        self.workers: list[Running] = []
        self.ever: list[Running] = []
        self._api: Running | None = None
        self._port = Port()

    @property
    def api(self) -> Running:
        assert self._api is not None, "no API was started"
        return self._api

    @property
    def url(self) -> str:
        """Of the API, the same whenever it is started."""
        return f"http://{HOST}:{self._port.number}"

    def start_api(self) -> Running:
        """Start the API, and wait until it answers."""
        self._port.release_for_server()
        self._api = self._start("serve", "api", {"port": self._port.number})
        self._api.wait_until_up()
        return self._api

    def start_workers(self, count: int = 1) -> None:
        """Start workers beside those that run, and wait until they answer."""
        started = [
            self._start("worker", f"worker-{len(self.workers) + number}", {"worker_port": 0}) for number in range(count)
        ]
        self.workers += started
        for worker in started:
            worker.wait_until_up()

    def replace_worker(self, number: int) -> None:
        """Kill a worker and start another in its place."""
        self.workers[number].kill()
        self.workers[number] = self._start("worker", f"worker-{number}", {"worker_port": 0})
        self.workers[number].wait_until_up()

    def run(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """Run a command to its end."""
        return subprocess.run(
            [EVENTCORE, *arguments],
            env=environment(self.settings),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=120,
        )

    def migrate(self, *options: str) -> None:
        """Make the store, as an operator does."""
        done = self.run("migrate", *options)
        assert done.returncode == 0, done.stderr.decode()

    def verify(self) -> None:
        """Books, ledger, events and activity agree."""
        done = self.run("verify", "--format", "json")
        assert done.stdout, done.stderr.decode()
        assert json.loads(done.stdout) == {"balanced": True, "differences": []}, done.stderr.decode()

    def stop(self) -> None:
        """Every process that still runs ends in time with 0, and none has ever written a traceback."""
        for running in self.ever:
            if running.process.poll() is None:
                running.stop()
        for log in {running.log for running in self.ever}:
            assert "Traceback" not in log.read_text(), f"{log}: {log.read_text()[-5_000:]}"

    def close(self) -> None:
        """End what is left, whatever happened before."""
        for running in self.ever:
            if running.process.poll() is None:
                running.kill()
        self._port.close()

    def _start(self, command: str, name: str, more: Settings) -> Running:
        running = Running(command, self.folder / f"{name}.log", {**self.settings, **more})
        self.ever.append(running)
        return running
