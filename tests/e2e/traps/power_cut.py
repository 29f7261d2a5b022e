"""Runs a command under ptrace(2) and writes down everything that a loss of power would decide about.

As `tests.support.syscalls`, on which it builds, but with the bytes: what was written where into which file of the
store, what was cut off, what was synced, and when an answer 202 went out. `survivors` makes of that the files that a
machine would find when its power had failed at that moment, if its disk kept nothing but what it had to.

    python tests/e2e/traps/power_cut.py TRACE.jsonl COMMAND [ARGUMENT …]
"""

import base64
import json
import struct
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

from tests.support import syscalls

WRITE_AT = {"x86_64": 18, "aarch64": 68}
TRUNCATE = {"x86_64": 77, "aarch64": 46}
ANSWER = b"HTTP/1.1 202"


def note(task: int, info: bytes, begun: dict[int, dict[str, Any]], stream: Any) -> None:
    """Remember a call that begins; write down one that returned well."""
    if info[0] == syscalls.ENTRY:
        number, *arguments = struct.unpack_from("<7Q", info, 24)
        call = call_of(task, number, arguments)
        if call is not None:
            begun[task] = call
    elif info[0] == syscalls.EXIT and task in begun:
        call = begun.pop(task)
        if struct.unpack_from("<q", info, 24)[0] >= 0:
            stream.write(json.dumps(call) + "\n")
            stream.flush()


def call_of(task: int, number: int, arguments: list[int]) -> dict[str, Any] | None:
    machine = syscalls.os.uname().machine
    kind = "cut" if number == TRUNCATE[machine] else syscalls.CALLS.get(number)
    if kind is None:
        return None
    try:
        path = str(Path(f"/proc/{task}/fd/{arguments[0]}").readlink())
        if path.endswith((".sqlite3", ".sqlite3-wal")):
            if kind == "sync":
                return {"call": "sync", "path": path}
            if kind == "cut":
                return {"call": "cut", "path": path, "at": arguments[1]}
            data = base64.b64encode(syscalls.read_memory(task, arguments[1], arguments[2])).decode()
            if number == WRITE_AT[machine]:
                return {"call": "write", "path": path, "at": arguments[3], "data": data}
            return {"call": "write", "path": path, "at": position(task, arguments[0]), "data": data}
        if kind not in ("sync", "cut") and syscalls.written_head(task, kind, tuple(arguments)).startswith(ANSWER):
            return {"call": "answer"}
    except OSError:
        pass
    return None


def position(task: int, descriptor: int) -> int:
    """Where a write without a place of its own goes."""
    return int(Path(f"/proc/{task}/fdinfo/{descriptor}").read_text().split()[1])


def survivors(calls: Iterable[dict[str, Any]]) -> Iterator[dict[str, bytes]]:
    """For each answer, what was synced of each file when it went out."""
    written: defaultdict[str, bytearray] = defaultdict(bytearray)
    synced: dict[str, bytes] = {}
    for call in calls:
        match call["call"]:
            case "write":
                data, at, file = base64.b64decode(call["data"]), call["at"], written[call["path"]]
                file.extend(bytes(max(0, at + len(data) - len(file))))
                file[at : at + len(data)] = data
            case "cut":
                file = written[call["path"]]
                file.extend(bytes(max(0, call["at"] - len(file))))
                del file[call["at"] :]
            case "sync":
                synced[call["path"]] = bytes(written[call["path"]])
            case _:
                yield dict(synced)


if __name__ == "__main__":
    syscalls.note = note  # type: ignore[assignment]
    sys.exit(syscalls.trace(sys.argv[2:], Path(sys.argv[1])))
