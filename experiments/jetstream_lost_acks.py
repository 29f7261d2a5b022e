"""Is an acknowledgement of a worker kept: when the server is killed, after a reconnect, after `ack_wait`?

A worker that sent its acknowledgements is done; here the server is killed right afterwards, and it is counted how many
of the messages it still has to deliver. The server syncs everything (`sync_interval: always`).
"""

import asyncio
from typing import Literal

from nats.errors import Error
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, RetentionPolicy

from experiments._report import Report
from experiments._servers import Worker, fetched, jetstream, kill, make_stream, nats_server, send, stored
from tests.support.servers import OwnServer

MESSAGES = 100
ROUNDS = 3
ACK_WAIT_SECONDS = 0.5

How = Literal["ack", "ack_sync"]


async def experiment(report: Report) -> None:
    with nats_server(report) as server:
        await killed(report, server, RetentionPolicy.WORK_QUEUE, "ack_sync", 0, "none")
        await killed(report, server, RetentionPolicy.WORK_QUEUE, "ack", 0, "some")
        await killed(report, server, RetentionPolicy.LIMITS, "ack_sync", 0, "some")
        await killed(report, server, RetentionPolicy.LIMITS, "ack_sync", 1, "none")
        await reconnected(report, server)
        await late(report, server)


async def killed(
    report: Report, server: OwnServer, retention: RetentionPolicy, how: How, wait_seconds: float, stated: str
) -> None:
    """Acknowledge everything, kill the server, and count what it would deliver again."""
    again = 0
    for _ in range(ROUNDS):
        async with jetstream(server) as js:
            worker = await with_messages(js, retention, MESSAGES, ack_wait=60)
            messages = []
            while len(messages) < MESSAGES:
                messages += await worker.fetch(MESSAGES - len(messages), timeout=5)
            for message in messages:
                await (message.ack_sync(timeout=5) if how == "ack_sync" else message.ack())
            if how == "ack":
                await js._nc.flush()  # the server answered to a PING sent behind the acknowledgements: it has them
            await asyncio.sleep(wait_seconds)
            kill(server)
        server.start()
        async with jetstream(server) as js:
            state = await js.consumer_info("Q", "worker")
            again += state.num_pending + state.num_ack_pending
            await js.delete_stream("Q")
    kind = {"ack": "sent with ack", "ack_sync": "confirmed by ack_sync"}[how]
    when = f"after {wait_seconds:g} s" if wait_seconds else "at once"
    report.fact(
        f"{retention.value}, {kind}, SIGKILL {when}: acknowledgements lost", "some" if again else "none", stated
    )
    report.figure("… how many", f"{again} of {ROUNDS * MESSAGES}")


async def reconnected(report: Report, server: OwnServer) -> None:
    """Acknowledge on the same connection after the server was away, and while it is."""
    back = asyncio.Event()

    async def notice() -> None:
        back.set()

    async with jetstream(
        server, allow_reconnect=True, max_reconnect_attempts=-1, reconnect_time_wait=0.05, reconnected_cb=notice
    ) as js:
        worker = await with_messages(js, RetentionPolicy.WORK_QUEUE, 3, ack_wait=1)
        first, second, third = await worker.fetch(3, timeout=5)
        server.restart()
        await back.wait()
        await first.ack_sync(timeout=5)
        report.fact(
            "of 3 messages, one acknowledged after a restart and a reconnect, the stream holds",
            await stored(js, "Q"),
            2,
        )
        back.clear()
        server.kill()
        server.start()
        await back.wait()
        await second.ack_sync(timeout=5)
        report.fact("another one after SIGKILL and a reconnect, it holds", await stored(js, "Q"), 1)
        back.clear()
        server.kill()
        await third.ack()  # the client has not noticed yet; nothing complains
        server.start()
        await back.wait()
        await js._nc.flush()
        report.fact("the last one sent into the dead connection without an error, it holds", await stored(js, "Q"), 1)
        report.fact("and what comes again is", await fetched(worker), "3 (delivery 2)")
        await js.delete_stream("Q")


async def late(report: Report, server: OwnServer) -> None:
    """Acknowledge when the message has been given to another worker."""
    async with jetstream(server) as js:
        one = await with_messages(js, RetentionPolicy.WORK_QUEUE, 1, ack_wait=ACK_WAIT_SECONDS)
        two = await js.pull_subscribe("q", durable="worker", stream="Q")
        [slow] = await one.fetch(1, timeout=5)
        [again] = await two.fetch(1, timeout=5)
        report.fact("after ack_wait another worker has delivery", again.metadata.num_delivered, 2)
        await slow.ack_sync(timeout=5)
        report.fact("the slow worker acknowledges all the same, the stream holds", await stored(js, "Q"), 0)
        try:
            await again.ack_sync(timeout=1)
            answer = "confirmed"
        except (TimeoutError, Error) as error:
            answer = type(error).__name__
        report.fact("the other worker's ack_sync of the same message is", answer, "confirmed")
        report.fact("what comes again is", await fetched(one, 1, 2 * ACK_WAIT_SECONDS), "nothing")


async def with_messages(js: JetStreamContext, retention: RetentionPolicy, count: int, ack_wait: float) -> Worker:
    """A worker on a new stream with so many messages."""
    await make_stream(js, "Q", "q", retention=retention)
    await asyncio.gather(*(send(js, "q") for _ in range(count)))
    settings = ConsumerConfig(ack_wait=ack_wait, max_deliver=-1)
    return await js.pull_subscribe("q", durable="worker", stream="Q", config=settings)
