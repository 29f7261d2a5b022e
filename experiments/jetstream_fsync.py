"""Is a message on the disk when JetStream acknowledges it?

SIGKILL cannot tell, because the kernel keeps what a killed process wrote; so the system calls of the server are traced
(with ptrace, on Linux) and put in order: message written, file synced, acknowledgement sent. The rates are those of
this machine; its disk decides what a sync costs.
"""

import asyncio
import json
import time
from pathlib import Path

from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, RetentionPolicy

from experiments._report import Report
from experiments._servers import jetstream, make_stream, nats_server, send, stored, traced_nats_server
from tests.support.processes import temporary_folder

MESSAGES = 20
AT_ONCE = 32
KILLED = 200
SETTLE_SECONDS = 0.3  # without a new call in the trace
LOOK_SECONDS = 0.05
RATE_SECONDS = 0.5
EVENT = b"x" * 200
CHUNK = b"x" * 100_000  # 500 events of 200 bytes

Calls = list[dict[str, str]]


async def experiment(report: Report) -> None:
    with temporary_folder("trace") as folder:
        for sync_always in (True, False):
            await traced(report, folder / f"{sync_always}.jsonl", sync_always)
    await killed(report)
    await rates(report)


async def traced(report: Report, trace: Path, sync_always: bool) -> None:
    """Send messages and acknowledge them, and read in the trace what the server did before each answer."""

    async def calls() -> Calls:
        """Those that matter, so far; the tracer may write one down when the client has its answer already."""
        found, settled = relevant(trace), 0.0
        while settled < SETTLE_SECONDS:
            await asyncio.sleep(LOOK_SECONDS)
            before, found = len(found), relevant(trace)
            settled = settled + LOOK_SECONDS if len(found) == before else 0.0
        return found

    with traced_nats_server(report, trace, sync_always=sync_always) as server:
        async with jetstream(server) as js:
            await make_stream(js, "Q", "q", retention=RetentionPolicy.WORK_QUEUE)
            begun = len(await calls())
            for _ in range(MESSAGES):
                await send(js, "q")
            published = (await calls())[begun:]
            worker = await js.pull_subscribe("q", durable="worker", stream="Q", config=ConsumerConfig(ack_wait=60))
            messages = await worker.fetch(MESSAGES, timeout=5)
            begun = len(await calls())
            for message in messages:
                await message.ack_sync(timeout=5)
            acknowledged = (await calls())[begun:]
            begun += len(acknowledged)
            await asyncio.gather(*(send(js, "q") for _ in range(AT_ONCE)))
            at_once = (await calls())[begun:]
    stated = MESSAGES if sync_always else 0
    report.fact(f"of {MESSAGES} messages, synced before their acknowledgement", synced_answers(published), stated)
    what = f"of {len(messages)} acknowledgements of a worker, synced before ack_sync was answered"
    report.fact(what, synced_answers(acknowledged), stated)
    syncs = sum(of_stream(call) and call["call"] == "sync" for call in at_once)
    report.fact(f"syncs for {AT_ONCE} messages sent at once", syncs, AT_ONCE if sync_always else 0)


def relevant(trace: Path) -> Calls:
    """The calls that concern files with messages, and the answers."""
    lines = trace.read_text(encoding="utf-8").splitlines(keepends=True)
    calls = [json.loads(line) for line in lines if line.endswith("\n")]
    return [call for call in calls if of_stream(call) or call["head"].startswith("MSG ")]


def of_stream(call: dict[str, str]) -> bool:
    return call["path"].endswith(".blk")


def synced_answers(calls: Calls) -> int:
    """How many answers were sent when what they are about had been written and synced.

    The first answer is about the first write, and so on. An answer may be in the trace behind the next message's write,
    because the trace has calls in the order in which they returned.
    """
    writes = [at for at, call in enumerate(calls) if of_stream(call) and call["call"] == "write"]
    syncs = [at for at, call in enumerate(calls) if of_stream(call) and call["call"] == "sync"]
    answers = [at for at, call in enumerate(calls) if not of_stream(call)]
    return sum(any(write < sync < answer for sync in syncs) for write, answer in zip(writes, answers, strict=True))


async def killed(report: Report) -> None:
    """What SIGKILL has to say about it."""
    with nats_server(report, sync_always=False) as server:
        async with jetstream(server) as js:
            await make_stream(js, "Q", "q")
            for _ in range(KILLED):
                await send(js, "q")
            server.kill()
        server.start()
        async with jetstream(server) as js:
            lost = KILLED - await stored(js, "Q")
    report.fact(f"SIGKILL behind {KILLED} acknowledgements, messages lost", lost, 0)


async def rates(report: Report) -> None:
    """What a sync for each message costs."""
    kinds = {
        "200 bytes, one at a time": (1, EVENT),
        f"200 bytes, {AT_ONCE} at a time": (AT_ONCE, EVENT),
        "100 kB, 8 at a time": (8, CHUNK),
    }
    seen: dict[str, list[float]] = {kind: [] for kind in kinds}
    for sync_always in (True, False):
        with nats_server(report, sync_always=sync_always) as server:
            async with jetstream(server) as js:
                await make_stream(js, "Q", "q")
                for kind, (at_once, body) in kinds.items():
                    seen[kind].append(await rate(js, at_once, body))
    for kind, (always, default) in seen.items():
        report.figure(
            f"messages of {kind}", f"{always:,.0f}/s synced, {default:,.0f}/s not, 1 : {default / always:.1f}"
        )


async def rate(js: JetStreamContext, at_once: int, body: bytes) -> float:
    """Acknowledged messages a second, so many on the way at a time."""
    sent = 0
    begun = time.monotonic()

    async def sender() -> None:
        nonlocal sent
        while time.monotonic() < begun + RATE_SECONDS:
            await js.publish("q", body, timeout=5)
            sent += 1

    await asyncio.gather(*(sender() for _ in range(at_once)))
    return sent / (time.monotonic() - begun)
