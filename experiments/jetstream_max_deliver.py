"""What becomes of a message that was delivered `max_deliver` times and never acknowledged?"""

import asyncio

from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig, RetentionPolicy

from experiments._report import Report
from experiments._servers import SILENCE_SECONDS, fetched, jetstream, make_stream, nats_server, send, stored

ACK_WAIT_SECONDS = 0.2
DELIVERIES = 3


async def experiment(report: Report) -> None:
    with nats_server(report) as server:
        async with jetstream(server) as js:
            told: list[str] = []

            async def listen(message: Msg) -> None:
                told.append(message.subject)

            await js._nc.subscribe("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.>", cb=listen)
            await make_stream(js, "Q", "q", retention=RetentionPolicy.WORK_QUEUE)
            settings = ConsumerConfig(ack_wait=ACK_WAIT_SECONDS, max_deliver=DELIVERIES)
            worker = await js.pull_subscribe("q", durable="worker", stream="Q", config=settings)
            await send(js, "q")
            for number in range(1, DELIVERIES):
                report.fact(f"delivery {number}, not acknowledged", await fetched(worker), f"1 (delivery {number})")
            [last] = await worker.fetch(1, timeout=5)
            await last.nak()  # as a worker does whose database is down
            report.fact("put back the last time, it comes again", await fetched(worker, 1, SILENCE_SECONDS), "nothing")
            await asyncio.sleep(2 * ACK_WAIT_SECONDS)
            report.fact("and later", await fetched(worker, 1, SILENCE_SECONDS), "nothing")
            report.fact("the stream holds", await stored(js, "Q"), 1)
            state = await worker.consumer_info()
            seen = f"{state.num_pending} pending, {state.num_ack_pending} waiting for their ack"
            report.fact("the consumer says", seen, "0 pending, 0 waiting for their ack")
            report.fact(
                "an advisory that nobody need listen to", told, ["$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.Q.worker"]
            )
        server.restart()
        async with jetstream(server) as js:
            worker = await js.pull_subscribe("q", durable="worker", stream="Q")
            report.fact("after a restart it comes", await fetched(worker, 1, SILENCE_SECONDS), "nothing")
            unlimited = ConsumerConfig(
                durable_name="worker", filter_subject="q", ack_wait=ACK_WAIT_SECONDS, max_deliver=-1
            )
            await js.add_consumer("Q", unlimited)
            answer = await fetched(worker, 1, SILENCE_SECONDS)
            report.fact("after max_deliver was raised to unlimited it comes", answer, "nothing")
            await js.delete_consumer("Q", "worker")
            worker = await js.pull_subscribe("q", durable="worker", stream="Q", config=unlimited)
            report.fact("to a new consumer it comes", await fetched(worker), "1 (delivery 1)")
            came = [await fetched(worker) for _ in range(2 * DELIVERIES)]
            report.fact(
                "unlimited, twice as many deliveries later it comes", came[-1], f"1 (delivery {1 + 2 * DELIVERIES})"
            )
