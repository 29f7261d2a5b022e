"""Does JetStream's duplicate window keep a message from being stored twice?

Asked with the same ``Nats-Msg-Id`` inside the window, with other content, after a clean restart, after SIGKILL, after a
purge, after a worker acknowledged the message in a work-queue stream, and when the window has passed.
"""

import time

from nats.js.api import RetentionPolicy

from experiments._report import Report
from experiments._servers import jetstream, make_stream, nats_server, send, stored

LONG_SECONDS = 120.0  # the server's default; the experiment is over long before
SHORT_SECONDS = 1.0


async def experiment(report: Report) -> None:
    with nats_server(report) as server:
        async with jetstream(server) as js:
            await make_stream(js, "Q", "q", retention=RetentionPolicy.WORK_QUEUE, duplicate_window=LONG_SECONDS)
            report.fact("an id for the first time", await send(js, "q", name="A"), "stored as message 1")
            report.fact("the same id again", await send(js, "q", name="A"), "a duplicate of message 1")
            report.fact("the same, other content", await send(js, "q", b"other", "A"), "a duplicate of message 1")
        server.restart()
        async with jetstream(server) as js:
            report.fact("after a clean restart", await send(js, "q", name="A"), "a duplicate of message 1")
        server.kill()
        server.start()
        async with jetstream(server) as js:
            report.fact("after SIGKILL", await send(js, "q", name="A"), "a duplicate of message 1")
            await js.purge_stream("Q")
            report.fact("after a purge", await send(js, "q", name="A"), "a duplicate of message 1")
            report.fact("what the stream holds then", await stored(js, "Q"), 0)
        server.restart()
        async with jetstream(server) as js:
            report.fact("after the purge and a restart", await send(js, "q", name="A"), "stored as message 2")
            worker = await js.pull_subscribe("q", durable="worker", stream="Q")
            for message in await worker.fetch(10, timeout=5):
                await message.ack_sync(timeout=5)
            report.fact("after a worker acknowledged it", await send(js, "q", name="A"), "a duplicate of message 2")
            report.fact("what the stream holds then", await stored(js, "Q"), 0)
        server.restart()
        async with jetstream(server) as js:
            report.fact("after that and a restart", await send(js, "q", name="A"), "stored as message 3")
            await make_stream(js, "S", "s", duplicate_window=SHORT_SECONDS)
            await send(js, "s", name="B")
            begun = time.monotonic()
            while (await send(js, "s", name="B")).startswith("a duplicate"):
                pass
            seconds = time.monotonic() - begun
            report.figure(
                f"a window of {SHORT_SECONDS:g} s, asked without pause, forgot the id after", f"{seconds:.2f} s"
            )
            report.fact("it forgot before the window had passed", seconds < 0.9 * SHORT_SECONDS, False)
