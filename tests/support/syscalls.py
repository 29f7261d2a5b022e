"""Runs a command under ptrace(2) and writes down which files it wrote and synced and which answers it sent.

SIGKILL cannot show durability: the kernel keeps what a killed process wrote, synced or not. The order of system calls
can. Linux only, on any architecture whose kernel has PTRACE_GET_SYSCALL_INFO (5.3); needs no root, because it traces
its own child. Used as a program, so that the tracer has a process, and so a wait queue, of its own:

    python tests/support/syscalls.py TRACE.jsonl COMMAND [ARGUMENT …]

Each line of the trace is ``{"call": "write"|"sync", "path": …, "head": first bytes of what was written}``, in the order
in which the calls returned. SIGTERM is passed on to the command.
"""

import ctypes
import json
import os
import signal
import struct
import sys
from pathlib import Path
from typing import Any

TRACEME, CONT_SYSCALL, SETOPTIONS, GET_EVENT_MESSAGE, GET_SYSCALL_INFO = 0, 24, 0x4200, 0x4201, 0x420E
OPTIONS = 1 | 2 | 4 | 8 | 16 | 0x100000  # sysgood, fork, vfork, clone, exec, exit with the tracer
WALL = 0x40000000
ENTRY, EXIT = 1, 2

# Numbers of the calls that matter, by machine; a call that writes has the file descriptor first.
X86_64 = {1: "write", 18: "write", 20: "writev", 46: "sendmsg", 44: "write", 74: "sync", 75: "sync"}
AARCH64 = {64: "write", 68: "write", 66: "writev", 211: "sendmsg", 206: "write", 82: "sync", 83: "sync"}
CALLS = {"x86_64": X86_64, "aarch64": AARCH64}.get(os.uname().machine, {})

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long


def ptrace(request: int, task: int, address: int = 0, data: Any = None) -> int:
    result = libc.ptrace(request, task, address, data)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(result)


def read_memory(task: int, address: int, length: int) -> bytes:
    with Path(f"/proc/{task}/mem").open("rb", buffering=0) as memory:
        memory.seek(address)
        return memory.read(length)


def written_head(task: int, kind: str, arguments: tuple[int, ...]) -> bytes:
    """The first bytes of what a call writes."""
    address, length = arguments[1], arguments[2]
    if kind == "sendmsg":  # struct msghdr: name, name length, vectors, …
        address = struct.unpack_from("<Q", read_memory(task, address, 24), 16)[0]
        kind = "writev"
    if kind == "writev":  # struct iovec: base, length
        address, length = struct.unpack("<QQ", read_memory(task, address, 16))
    return read_memory(task, address, min(length, 16))


def trace(command: list[str], out: Path) -> int:
    child = os.fork()
    if child == 0:
        ptrace(TRACEME, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        os.execvp(command[0], command)
    os.waitpid(child, 0)
    ptrace(SETOPTIONS, child, 0, OPTIONS)
    signal.signal(signal.SIGTERM, lambda number, frame: os.kill(child, number))
    ptrace(CONT_SYSCALL, child)
    begun: dict[int, tuple[str, str, bytes]] = {}
    info = ctypes.create_string_buffer(88)
    with out.open("w") as stream:
        while True:
            try:
                task, status = os.waitpid(-1, WALL)
            except ChildProcessError:
                return 0
            if not os.WIFSTOPPED(status):
                if task == child:
                    return os.waitstatus_to_exitcode(status)
                continue
            passed_on = 0
            number = os.WSTOPSIG(status)
            try:
                if number == signal.SIGTRAP | 0x80:
                    ptrace(GET_SYSCALL_INFO, task, len(info), ctypes.cast(info, ctypes.c_void_p))
                    note(task, info.raw, begun, stream)
                elif status >> 16 == 0 and number not in (signal.SIGSTOP, signal.SIGTRAP):
                    passed_on = number
                ptrace(CONT_SYSCALL, task, 0, passed_on)
            except ProcessLookupError:
                continue


def note(task: int, info: bytes, begun: dict[int, tuple[str, str, bytes]], stream: Any) -> None:
    """Remember a call that begins; write down one that returned well."""
    if info[0] == ENTRY:
        number, *arguments = struct.unpack_from("<7Q", info, 24)
        kind = CALLS.get(number)
        if kind is not None:
            try:
                path = str(Path(f"/proc/{task}/fd/{arguments[0]}").readlink())
                head = b"" if kind == "sync" else written_head(task, kind, tuple(arguments))
            except OSError:
                return
            begun[task] = ("sync" if kind == "sync" else "write", path, head)
    elif info[0] == EXIT and task in begun:
        call, path, head = begun.pop(task)
        result = struct.unpack_from("<q", info, 24)[0]
        if result >= 0:
            stream.write(json.dumps({"call": call, "path": path, "head": head.decode("latin-1")}) + "\n")
            stream.flush()


if __name__ == "__main__":
    sys.exit(trace(sys.argv[2:], Path(sys.argv[1])))
