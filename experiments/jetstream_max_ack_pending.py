"""When do messages stop coming because too many wait for their acknowledgement?"""

import asyncio

from nats.js.api import ConsumerConfig, RetentionPolicy

from experiments._report import Report
from experiments._servers import SILENCE_SECONDS, fetched, jetstream, make_stream, nats_server, send

MOST = 3
MANY = 1_200  # more than the server's default of 1,000


async def experiment(report: Report) -> None:
    with nats_server(report, sync_always=False) as server:
        async with jetstream(server) as js:
            await make_stream(js, "Q", "q", retention=RetentionPolicy.WORK_QUEUE)
            settings = ConsumerConfig(ack_wait=60, max_ack_pending=MOST)
            one = await js.pull_subscribe("q", durable="worker", stream="Q", config=settings)
            two = await js.pull_subscribe("q", durable="worker", stream="Q")
            for _ in range(8):
                await send(js, "q")
            first = await one.fetch(8, timeout=SILENCE_SECONDS)
            report.fact(f"of 8 messages one worker gets with max_ack_pending {MOST}", len(first), MOST)
            report.fact(
                "another worker on the same consumer then gets", await fetched(two, 1, SILENCE_SECONDS), "nothing"
            )
            await first[0].ack_sync(timeout=5)
            report.fact("one acknowledged, the other worker gets", await fetched(two, 8, 1), "4 (delivery 1)")
            await first[1].nak(delay=30)
            await first[2].nak(delay=30)
            await js._nc.flush()
            report.fact(
                "two put back with a delay of 30 s, the next is", await fetched(two, 8, SILENCE_SECONDS), "nothing"
            )
            state = await one.consumer_info()
            seen = f"{state.num_ack_pending} waiting for their ack, {state.num_pending} not delivered"
            report.fact("the consumer says", seen, f"{MOST} waiting for their ack, 4 not delivered")

            await make_stream(js, "R", "r", retention=RetentionPolicy.WORK_QUEUE)
            await asyncio.gather(*(js.publish("r") for _ in range(MANY)))
            worker = await js.pull_subscribe("r", durable="worker", stream="R", config=ConsumerConfig(ack_wait=60))
            report.fact(
                "without a word max_ack_pending is", (await worker.consumer_info()).config.max_ack_pending, 1_000
            )
            got = 0
            while (answer := await fetched(worker, 300, SILENCE_SECONDS)) != "nothing":
                got += answer.count(",") + 1
            report.fact(f"of {MANY:,} messages a worker that never acknowledges gets", got, 1_000)
