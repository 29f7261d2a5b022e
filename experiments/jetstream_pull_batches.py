"""What does a pull consumer give: how many of a batch, when, and how does it say that there is nothing?"""

import asyncio
import contextlib
import time
from collections import Counter

import nats.errors
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, RetentionPolicy

from experiments._report import Report
from experiments._servers import Worker, jetstream, make_stream, nats_server, send

FIRST = 3
MESSAGES = 2_000
BATCHES = (1, 10, 100, 500)
SEARCH_SECONDS = 8.0


async def experiment(report: Report) -> None:
    with nats_server(report, sync_always=False) as server:
        async with jetstream(server) as js:
            await make_stream(js, "Q", "q", retention=RetentionPolicy.WORK_QUEUE)
            settings = ConsumerConfig(ack_wait=60, max_ack_pending=10_000)
            worker = await js.pull_subscribe("q", durable="worker", stream="Q", config=settings)
            await partial(report, js, worker)
            await cancelled(report, js, worker)
            await nothing(report, worker)
            await speed(report, js)


async def partial(report: Report, js: JetStreamContext, worker: Worker) -> None:
    """Ask for more than there is."""
    for _ in range(FIRST):
        await send(js, "q")
    begun = time.monotonic()
    got = len(await worker.fetch(10, timeout=5))
    report.fact(f"of 10 asked for, {FIRST} are there: fetch gives", got, FIRST)
    report.fact("… and waits for the others", time.monotonic() - begun > 4, False)

    async def later() -> None:
        await asyncio.sleep(0.3)
        for _ in range(FIRST):
            await send(js, "q")

    sending = asyncio.create_task(later())
    begun = time.monotonic()
    messages = await worker.fetch(10, timeout=5)
    seconds = time.monotonic() - begun
    await sending
    report.figure(f"nothing there, {FIRST} come 0.3 s later: fetch gives", f"{len(messages)} after {seconds:.2f} s")
    report.fact("… it gives what came first, and does not wait for the batch or the time-out", 0.2 < seconds < 4, True)
    while len(messages) < FIRST:
        messages += await worker.fetch(10, timeout=5)
    for message in messages:
        await message.ack_sync(timeout=5)


async def cancelled(report: Report, js: JetStreamContext, worker: Worker) -> None:
    """Give up a fetch: the server does not know."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(worker.fetch(2, timeout=30), 0.2)
    report.fact(
        "a fetch of 30 s given up after 0.2 s, requests open at the server",
        (await worker.consumer_info()).num_waiting,
        1,
    )
    before = (await worker.consumer_info()).num_ack_pending
    await send(js, "q")
    await asyncio.sleep(0.2)
    after = (await worker.consumer_info()).num_ack_pending
    report.fact("… a message that comes then is delivered, though nobody fetches", after - before, 1)
    [message] = await worker.fetch(1, timeout=5)
    report.fact("… the next fetch finds it in the client, as delivery", message.metadata.num_delivered, 1)


async def nothing(report: Report, worker: Worker) -> None:
    """Fetch from an empty stream until all three answers were seen."""
    ends: Counter[str] = Counter()
    begun = time.monotonic()
    while len(ends) < 3 and time.monotonic() - begun < SEARCH_SECONDS:
        ends.update(await asyncio.gather(*(end_of_fetch(worker) for _ in range(1 + len(ends) % 5))))
    report.figure(
        "nothing there: fetch ended with", ", ".join(f"{end} {times}×" for end, times in sorted(ends.items()))
    )
    stated = ["an empty list", "nats.errors.TimeoutError", "the builtin TimeoutError"]
    report.fact("… in one of these ways", sorted(ends), stated)
    report.fact(
        "nats.errors.TimeoutError is one of the builtin kind", issubclass(nats.errors.TimeoutError, TimeoutError), True
    )


async def end_of_fetch(worker: Worker) -> str:
    try:
        return "messages" if await worker.fetch(10, timeout=0.02) else "an empty list"
    except nats.errors.TimeoutError:
        return "nats.errors.TimeoutError"
    except TimeoutError:
        return "the builtin TimeoutError"


async def speed(report: Report, js: JetStreamContext) -> None:
    """Fetch many small messages in batches."""
    await make_stream(js, "R", "r")
    await asyncio.gather(*(js.publish("r", b"x" * 200) for _ in range(MESSAGES)))
    rates = {}
    for batch in BATCHES:
        settings = ConsumerConfig(ack_wait=60, max_ack_pending=10_000)
        worker = await js.pull_subscribe("r", durable=f"batch-{batch}", stream="R", config=settings)
        begun, got = time.monotonic(), 0
        while got < MESSAGES:
            got += len(await worker.fetch(min(batch, MESSAGES - got), timeout=5))
        rates[batch] = got / (time.monotonic() - begun)
        await worker.unsubscribe()
    text = ", ".join(f"{batch}: {rate:,.0f}" for batch, rate in rates.items())
    report.figure("messages a second by size of batch", text)
    report.fact("batches of 100 are more than twice as fast as single messages", rates[100] > 2 * rates[1], True)
