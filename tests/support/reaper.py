"""Ends what a test run started, however the run itself ends.

Run as a program (``python -I -S reaper.py PID``) it waits, as a child of the test run, until the run is gone: by its
end, by Ctrl-C, by SIGKILL. Then it kills the servers that are still there and removes the temporary folders. It takes
one order a line on standard input: ``server PID BORN DATA``, ``ended PID``, ``folder PATH``, ``end``. Imported, it
tells which processes belong to a server. Not for an orderly end: `tests.support.servers` stops each server itself.

Standard library only: it runs without site-packages. A process is known by its id and its time of birth, so one that
got the id later is never hit.
"""

import ctypes
import os
import select
import shutil
import signal
import sys
import time
from pathlib import Path

GONE_SECONDS = 5.0  # for the children of a process that has ended to follow it
LOOK_SECONDS = 1.0  # the pipe's end is noticed at once, unless a forked child of the test run holds it open


def born(pid: int) -> int | None:
    """When a process began, in the kernel's own count; None when there is none, or only its exit status is left."""
    if not Path("/proc/self/stat").exists():  # no procfs: the id must do
        return 0 if _is_there(pid) else None
    status = _status(pid)
    return None if status is None or status[0] in "ZX" else int(status[19])


def family(pid: int) -> dict[int, int]:
    """A process and its descendants, parents first, each with its time of birth."""
    begun = born(pid)
    if begun is None:
        return {}
    found = {pid: begun}
    parents = _parents()
    grown = True
    while grown:
        grown = False
        for child, parent in parents.items():
            if parent in found and child not in found and (begun := born(child)) is not None:
                found[child] = begun
                grown = True
    return found


def send(processes: dict[int, int], number: int) -> None:
    """Send a signal to each process that is still the same one."""
    for pid, begun in processes.items():
        if born(pid) == begun:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue


def freeze(pid: int) -> dict[int, int]:
    """Stop a process and all its descendants where they are, and tell which they were."""
    begun = born(pid)
    if begun is None:
        return {}
    send({pid: begun}, signal.SIGSTOP)  # now it starts no more of them
    members = family(pid)
    send(members, signal.SIGSTOP)
    return members


def kill_family(pid: int, wait_seconds: float = GONE_SECONDS) -> None:
    """End a process and all its descendants at once: none of them goes on working for a moment."""
    members = freeze(pid)
    send(members, signal.SIGKILL)
    outlive(members, wait_seconds)


def outlive(processes: dict[int, int], wait_seconds: float = GONE_SECONDS) -> None:
    """Wait until they are gone, and kill those that are not."""
    deadline = time.monotonic() + wait_seconds
    while any(born(pid) == begun for pid, begun in processes.items()):
        if time.monotonic() > deadline:
            send(processes, signal.SIGKILL)
            return
        time.sleep(0.005)


def remove_shared_memory(data: Path) -> None:
    """Remove what a killed PostgreSQL leaves in the kernel, unless it is started again on its data."""
    try:
        identifiers = (data / "postmaster.pid").read_text().splitlines()[6].split()
    except (OSError, IndexError):
        return
    if sys.platform == "linux" and len(identifiers) == 2:
        ctypes.CDLL(None).shmctl(int(identifiers[1]), 0, None)  # IPC_RMID


def _status(pid: int) -> list[str] | None:
    """The fields of ``/proc/PID/stat`` after the name, which may hold blanks and brackets."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def _parents() -> dict[int, int]:
    """The parent of every process."""
    if not Path("/proc/self/stat").exists():
        return {}
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]
    return {pid: int(status[1]) for pid in pids if (status := _status(pid)) is not None}


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    run = int(sys.argv[1])
    servers: dict[int, tuple[int, Path]] = {}
    folders: list[str] = []
    unread = b""
    ended = False
    while not ended:
        going_on = os.getppid() == run
        if not select.select([0], [], [], LOOK_SECONDS if going_on else 0)[0]:
            if going_on:
                continue
            break  # only after its last order
        received = os.read(0, 65536)
        if not received:
            break
        *lines, unread = (unread + received).split(b"\n")
        for line in lines:
            order, _, rest = os.fsdecode(line).partition(" ")
            if order == "server":
                pid_text, time_of_birth, data_folder = rest.split(" ", 2)
                servers[int(pid_text)] = int(time_of_birth), Path(data_folder)
            elif order == "ended":
                servers.pop(int(rest), None)
            elif order == "folder":
                folders.append(rest)
            elif order == "end":
                ended = True
    for pid, (begun, data) in servers.items():
        if born(pid) == begun:
            kill_family(pid)
        remove_shared_memory(data)
    for folder in reversed(folders):
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _main()
