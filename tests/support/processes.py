"""One process of a server: its port, its folder, its beginning and its end.

Whatever is started or made here is known to `tests.support.reaper`, which clears it away when the test run dies. Not
for knowing one server from another: see `tests.support.servers`.
"""

import atexit
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NoReturn

from tests.support import reaper

HOST = "127.0.0.1"

START_SECONDS = 60.0  # ten times what the slowest one takes on two busy cores; below the time-out of a test
STOP_SECONDS = 20.0  # a fast shutdown writes a checkpoint first
LOOK_SECONDS = 0.02  # between two attempts to find out whether it answers
TAIL_LINES = 30  # of a log, in an error
SOCKET_FOLDER_BYTES = 60  # of the path to a folder for Unix sockets, whose own path must be shorter than 108 bytes


class Unavailable(Exception):
    """A server cannot be had on this machine; the message says what is missing and how to get it."""


class ServerFailed(Exception):
    """A server that can be had did not start, or did not stop; the message ends with its log."""


@dataclass(frozen=True, kw_only=True, slots=True)
class User:
    """Whom a program runs as."""

    uid: int
    gid: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """A server program.

    Attributes:
        path: the executable.
        software: its own words for name and version, and where it was found.
        user: whom it runs as, when that is not the user of the test run.
    """

    path: Path
    software: str
    user: User | None = None


class Server:
    """A server that answers at `url`. Only one that was started here has a pid and can be stopped.

    Attributes:
        name: as in ``EVENTCORE_REQUIRE``.
        url: for the adapters.
        software: which program in which version from where, for messages.
    """

    def __init__(self, *, name: str, url: str, software: str) -> None:
        self.name = name
        self.url = url
        self.software = software

    @property
    def pid(self) -> int | None:
        """The id of its first process; None when it does not run, or was not started here."""
        return None

    @property
    def log(self) -> Path:
        """The file that it writes its messages to."""
        self._not_ours()

    def start(self) -> None:
        """Start it again, and wait until it answers."""
        self._not_ours()

    def stop(self, number: int | None = None, wait_seconds: float = STOP_SECONDS) -> None:
        """Send the signal (each server has its own for an orderly end) and wait until it has ended."""
        self._not_ours()

    def kill(self) -> None:
        """End all its processes at once, as the kernel does when memory is out."""
        self._not_ours()

    def restart(self, number: int | None = None) -> None:
        """Stop it if it runs, and start it with the same data on the same port."""
        self._not_ours()

    def pause(self) -> None:
        """Freeze all its processes: connections stay open and nobody answers."""
        self._not_ours()

    def resume(self) -> None:
        """Let it go on after `pause`."""
        self._not_ours()

    def _not_ours(self) -> NoReturn:
        raise Unavailable(f"{self.software} was not started by the tests; those that stop one say own_process=True")


class OwnServer(Server):
    """A server process of ours.

    Attributes:
        port: its port on 127.0.0.1, ours until `close`, also while the server is down.
        folder: what the caller gave, or a temporary folder.
        data: the folder with its data.
        returncode: how its last process ended, as in `subprocess`; None while it runs.
    """

    def __init__(
        self,
        *,
        name: str,
        url: str,
        program: Program,
        arguments: list[str],
        port: "Port",
        folder: Path,
        data: Path,
        answers: Callable[[int], bool],
        stop_signal: int = signal.SIGTERM,
        start_seconds: float = START_SECONDS,
    ) -> None:
        super().__init__(name=name, url=url, software=program.software)
        self.folder = folder
        self.data = data
        self._program = program
        self._arguments = arguments
        self._port = port
        self._answers = answers
        self._stop_signal = stop_signal
        self._start_seconds = start_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False

    @property
    def port(self) -> int:
        return self._port.number

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    @property
    def returncode(self) -> int | None:
        return None if self._process is None else self._process.poll()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        if self.pid is not None:
            raise ServerFailed(f"{self.name} runs already (pid {self.pid})")
        self._paused = False
        self._port.release_for_server()
        with self.log.open("ab") as log:
            written_before = log.tell()
            self._process = _spawn([str(self._program.path), *self._arguments], log, self._program.user)
        tell_of_process(self._process.pid, self.data)
        deadline = time.monotonic() + self._start_seconds
        try:
            while not self._answers(self.port):
                if self._process.poll() is not None:
                    raise self._failed(f"ended with {self._process.returncode} instead of starting", written_before)
                if time.monotonic() > deadline:
                    raise self._failed(f"did not answer within {self._start_seconds:g} s", written_before)
                time.sleep(LOOK_SECONDS)
        except BaseException:
            self.kill()
            raise

    def stop(self, number: int | None = None, wait_seconds: float = STOP_SECONDS) -> None:
        process = self._process
        if process is None or process.poll() is not None:
            return
        number = self._stop_signal if number is None else number
        members = reaper.family(process.pid)
        process.send_signal(number)
        self.resume()  # a frozen process cannot end
        try:
            process.wait(wait_seconds)
            reaper.outlive(members)
        except subprocess.TimeoutExpired:
            self.kill()
            signal_name = signal.Signals(number).name
            raise self._failed(f"did not end within {wait_seconds:g} s of {signal_name}, and was killed") from None
        tell_of_end(process.pid)

    def kill(self) -> None:
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            reaper.kill_family(process.pid)
        process.wait(STOP_SECONDS)
        tell_of_end(process.pid)
        self._paused = False

    def restart(self, number: int | None = None) -> None:
        self.stop(number)
        self.start()

    def pause(self) -> None:
        if self.pid is None:
            raise ServerFailed(f"{self.name} does not run")
        self._paused = True
        reaper.freeze(self.pid)

    def resume(self) -> None:
        if self._paused and self.pid is not None:
            reaper.send(reaper.family(self.pid), signal.SIGCONT)
        self._paused = False

    def close(self) -> None:
        """End it, in order if it can, and give its port back."""
        try:
            self.stop()
        except BaseException:
            self.kill()
            raise
        finally:
            reaper.remove_shared_memory(self.data)
            self._port.close()

    def _failed(self, what: str, from_byte: int = 0) -> ServerFailed:
        with self.log.open("rb") as log:
            log.seek(from_byte)
            lines = log.read().decode(errors="replace").splitlines()
        tail = "\n".join(f"  {line}" for line in lines[-TAIL_LINES:]) or "  (nothing)"
        return ServerFailed(f"{self.name} ({self.software}) {what}; {self.log} says:\n{tail}")


class Port:
    """A free port, ours as long as this object is open: nobody gets it while the server is down or being restarted.

    The socket that holds it never listens, so connecting is refused while the server is down, as it should be.
    """

    def __init__(self) -> None:
        self._holder = socket.socket()
        self._holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._holder.bind((HOST, 0))
        self.number: int = self._holder.getsockname()[1]

    def __enter__(self) -> "Port":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def release_for_server(self) -> None:
        """Let the server have it; Linux lets both have it, when both allow reuse and only one listens."""
        if sys.platform != "linux":
            self.close()

    def close(self) -> None:
        self._holder.close()


def _spawn(command: list[str], log: IO[bytes], user: User | None) -> subprocess.Popen[bytes]:
    """A process in a session of its own, which Ctrl-C in the terminal does not reach."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        cwd="/",
        env=_environment(),
        start_new_session=True,
        umask=0o077,
        **run_as(user),
    )


def run_tool(program: Program, arguments: list[str]) -> None:
    """Run a program that prepares something, to its end."""
    try:
        subprocess.run(
            [program.path, *arguments],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=START_SECONDS,
            cwd="/",
            env=_environment(),
            umask=0o077,
            **run_as(program.user),
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        said = (error.output or b"").decode(errors="replace").strip()
        raise ServerFailed(f"{program.path} ({program.software}) failed: {error}\n{said}") from error


def _environment() -> dict[str, str]:
    """The run's own, without what would turn a server's settings or language."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PG", "LC_", "NODE_", "PYTHON"))}
    return kept | {"LC_ALL": "C", "TZ": "UTC"}


_reaper: tuple[int, subprocess.Popen[bytes]] | None = None  # with the process that started it: a fork has its own


def tell_reaper(order: str) -> None:
    """Give an order to the reaper of this process, see there; the first one starts it."""
    global _reaper
    if _reaper is None or _reaper[0] != os.getpid():
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", reaper.__file__, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )
        _reaper = (os.getpid(), process)
        atexit.register(_end_reaper, os.getpid())
    pipe = _reaper[1].stdin
    assert pipe is not None
    pipe.write(os.fsencode(order) + b"\n")
    pipe.flush()


def tell_of_process(pid: int, folder: Path) -> None:
    """Have a process ended when the test run dies, with all its children; the folder is where its data lie."""
    tell_reaper(f"server {pid} {reaper.born(pid) or 0} {folder}")


def tell_of_end(pid: int) -> None:
    """A process that was told of has ended."""
    tell_reaper(f"ended {pid}")


def _end_reaper(pid: int) -> None:
    """At the end of the test process, so that nothing is left when the next command looks."""
    if _reaper is None or os.getpid() != pid:
        return
    tell_reaper("end")
    _reaper[1].wait(STOP_SECONDS)


@contextmanager
def folder_for(name: str, folder: Path | None) -> Iterator[Path]:
    """The caller's folder, or a temporary one that is removed."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield folder.resolve()
        return
    with temporary_folder(name) as temporary:
        temporary.chmod(0o711)  # as root: an unprivileged server has its own folder below
        yield temporary


@contextmanager
def temporary_folder(name: str, user: User | None = None, *, short: bool = False) -> Iterator[Path]:
    """A new folder, see `new_folder`, removed after use."""
    folder = new_folder(name, user, short=short)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def new_folder(name: str, user: User | None = None, *, short: bool = False) -> Path:
    """A new folder, removed at the latest when the test process has ended.

    Args:
        name: a part of its name.
        user: whom it belongs to; then every user may reach the place where it lies.
        short: for Unix sockets, whose paths must be shorter than 108 bytes.
    """
    places = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]
    place = next(
        (
            place
            for place in places
            if place.is_dir()
            and (user is None or reachable(place, user))
            and (not short or len(os.fsencode(place)) < SOCKET_FOLDER_BYTES)
        ),
        places[0],
    )
    folder = Path(tempfile.mkdtemp(prefix=f"eventcore-{name}-", dir=place))
    tell_reaper(f"folder {folder}")
    if user is not None:
        os.chown(folder, user.uid, user.gid)
    return folder


def reachable(folder: Path, user: User) -> bool:
    """Whether that user may go into the folder, going by modes alone."""

    def passes(place: Path) -> bool:
        status = place.stat()
        if status.st_uid == user.uid:
            return bool(status.st_mode & stat.S_IXUSR)
        return bool(status.st_mode & (stat.S_IXGRP if status.st_gid == user.gid else stat.S_IXOTH))

    return all(passes(place) for place in (folder, *folder.parents))


def run_as(user: User | None) -> dict[str, Any]:
    """The arguments of `subprocess` for it."""
    return {} if user is None else {"user": user.uid, "group": user.gid, "extra_groups": []}
