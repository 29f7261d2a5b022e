"""What becomes of a message in a work-queue stream: acknowledged, forgotten, put back, given up?

Two workers share one durable consumer, whose `ack_wait` is one second.
"""

import asyncio
import time

from nats.errors import Error
from nats.js.api import ConsumerConfig, RetentionPolicy
from nats.js.errors import APIError

from experiments._report import Report
from experiments._servers import Worker, fetched, jetstream, make_stream, nats_server, refusal, send, stored

ACK_WAIT_SECONDS = 1.0
DELAY_SECONDS = 2.0
MESSAGES = 100


async def experiment(report: Report) -> None:
    with nats_server(report, sync_always=False) as server:
        async with jetstream(server) as js:
            await make_stream(js, "Q", "q", retention=RetentionPolicy.WORK_QUEUE)
            settings = ConsumerConfig(ack_wait=ACK_WAIT_SECONDS, max_deliver=-1)
            one = await js.pull_subscribe("q", durable="worker", stream="Q", config=settings)
            two = await js.pull_subscribe("q", durable="worker", stream="Q")

            for _ in range(4):
                await send(js, "q")
            acked, forgotten, delayed, ended = await one.fetch(4, timeout=5)
            begun = time.monotonic()
            report.fact("delivered and not acknowledged, the stream holds", await stored(js, "Q"), 4)
            report.fact("meanwhile the other worker gets", await fetched(two, 4, 0.1), "nothing")
            await acked.ack_sync(timeout=5)
            report.fact("one acknowledged, the stream holds", await stored(js, "Q"), 3)
            await delayed.nak(delay=DELAY_SECONDS)
            await ended.term()
            await js._nc.flush()
            report.fact("one ended with term, the stream holds", await stored(js, "Q"), 2)

            report.fact("not acknowledged, it comes again", await fetched(two), "2 (delivery 2)")
            seconds = time.monotonic() - begun
            report.figure(f"with ack_wait {ACK_WAIT_SECONDS:g} s, after", f"{seconds:.2f} s")
            report.fact("… which is before ack_wait", seconds < 0.9 * ACK_WAIT_SECONDS, False)
            await forgotten.ack_sync(timeout=5)  # late, and by the worker that lost it: see jetstream_lost_acks
            report.fact("put back with nak and a delay, it comes again", await fetched(two), "3 (delivery 2)")
            seconds = time.monotonic() - begun
            report.figure(f"with a delay of {DELAY_SECONDS:g} s, after", f"{seconds:.2f} s")
            report.fact("… which is before the delay", seconds < 0.9 * DELAY_SECONDS, False)
            await js.purge_stream("Q")

            await send(js, "q")
            [extended] = await one.fetch(1, timeout=5)
            for _ in range(6):
                await asyncio.sleep(ACK_WAIT_SECONDS / 4)
                await extended.in_progress()
            report.fact(
                "told again and again that it is worked on, for longer than ack_wait, another gets",
                await fetched(two, 1, 0.1),
                "nothing",
            )
            await extended.ack_sync(timeout=5)

            for _ in range(MESSAGES):
                await send(js, "q")
            shares = await asyncio.gather(drain(one), drain(two))
            report.figure("two workers shared the messages as", f"{len(shares[0])} and {len(shares[1])}")
            both = len(set(shares[0]) & set(shares[1]))
            report.fact(f"of {MESSAGES} messages two workers got", len(set(shares[0]) | set(shares[1])), MESSAGES)
            report.fact("of them both", both, 0)
            report.fact("the stream holds then", await stored(js, "Q"), 0)
            try:
                await js.add_consumer("Q", ConsumerConfig(durable_name="other", filter_subject="q"))
                answer = "made"
            except APIError as error:
                answer = refusal(error)
            stated = "refused: 400, 10100, filtered consumer not unique on workqueue stream"
            report.fact("a second consumer of the same subject", answer, stated)


async def drain(worker: Worker) -> list[int]:
    """All that this worker gets, until there is no more."""
    got: list[int] = []
    while True:
        try:
            messages = await worker.fetch(5, timeout=0.3)
        except (TimeoutError, Error):
            return got
        for message in messages:
            await message.ack_sync(timeout=5)
        got += [message.metadata.sequence.stream for message in messages]
