"""The load of `entrypoints.bench`: a process that sends prepared requests over kept connections and reads the answers.

It does no work between two requests but find the end of the answer, so that it is not what is measured; ``null_app``
shows its ceiling. What is not answered, or with 503, is *unknown* and sent again. Run as
``python -m entrypoints.bench_load REQUESTS PORT CLIENTS``; not for anything else.
"""

import asyncio
import mmap
import statistics
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

REQUEST_LENGTH: Final = struct.Struct("<I")
"""Stands before each request in the file."""

_SEND_AGAIN: Final = (408, 429, 503)
_TRIES: Final = 20
_PAUSE_SECONDS: Final = 0.2


class LoadReport(msgspec.Struct, kw_only=True):
    """What the load generator saw.

    Attributes:
        seconds: from the first byte sent to the last answer.
        accepted: sum of what the answers say.
        duplicates: the same; more than 0 only where something was sent again.
        sent_again: requests that were.
        median_ms: of a request.
        slow_ms: the 99th percentile of a request.
        spans: when each request was first sent and when it was answered at last, by the clock on the wall, in seconds.
    """

    seconds: float
    accepted: int
    duplicates: int
    sent_again: int
    median_ms: float
    slow_ms: float
    spans: list[tuple[float, float]]


async def send_all(path: Path, port: int, clients: int) -> LoadReport:
    """Send every request of the file once, and again where its outcome is unknown."""
    times_ms: list[float] = []
    answers: list[bytes] = []
    spans: dict[int, tuple[float, float]] = {}
    sent_again = 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        requests = enumerate(_requests(content))

        async def client() -> None:
            nonlocal sent_again
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for number, request in requests:
                sent_at, began = time.time(), time.perf_counter()
                status, answer = 503, b""
                for _ in range(_TRIES):
                    try:
                        writer.write(request)
                        status, answer = await _read_answer(reader)
                    except (OSError, EOFError):
                        writer.close()
                        reader, writer = await asyncio.open_connection("127.0.0.1", port)
                        status, answer = 503, b""
                    if status not in _SEND_AGAIN:
                        break
                    sent_again += 1
                    await asyncio.sleep(_PAUSE_SECONDS)
                if status != 202:
                    raise RuntimeError(f"{status}: {answer[:200]!r}")
                times_ms.append((time.perf_counter() - began) * 1_000)
                answers.append(answer)
                spans[number] = sent_at, time.time()
            writer.close()

        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(clients):
                group.create_task(client())
        seconds = time.perf_counter() - began
    counts = [msgspec.json.decode(answer) for answer in answers]
    times_ms.sort()
    return LoadReport(
        seconds=seconds,
        accepted=sum(count["accepted"] for count in counts),
        duplicates=sum(count["duplicates"] for count in counts),
        sent_again=sent_again,
        median_ms=round(statistics.median(times_ms), 1),
        slow_ms=round(times_ms[int(len(times_ms) * 0.99)], 1),
        spans=[spans[number] for number in range(len(spans))],
    )


def _requests(content: mmap.mmap) -> Iterator[bytes]:
    start = 0
    while start < len(content):
        (length,) = REQUEST_LENGTH.unpack_from(content, start)
        start += REQUEST_LENGTH.size
        yield content[start : start + length]
        start += length


async def _read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await reader.readuntil(b"\r\n\r\n")
    fields = head.lower().partition(b"\r\ncontent-length:")[2]
    return int(head[9:12]), await reader.readexactly(int(fields.partition(b"\r\n")[0]))


async def null_app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """An ASGI app that reads a body and accepts nothing: what is left is HTTP and the load generator."""
    more = True
    while more:
        more = (await receive()).get("more_body", False)
    body = b'{"accepted":0,"duplicates":0}'
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 202, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def main() -> None:
    """Send the requests that the command line names, and print the report as JSON."""
    path, port, clients = sys.argv[1:]
    report = asyncio.run(send_all(Path(path), int(port), int(clients)))
    sys.stdout.write(msgspec.json.encode(report).decode() + "\n")


if __name__ == "__main__":
    main()
