"""What does a full stream do: delete what nobody has read, or refuse what is new?

Asked for `max_msgs`, `max_bytes`, `max_msgs_per_subject`, the age, and the server's own bound on disk space.
"""

import asyncio
from typing import Any

from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, RetentionPolicy
from nats.js.errors import APIError

from experiments._report import Report
from experiments._servers import fetched, jetstream, make_stream, nats_server, refusal, send

BODY = b"x" * 300
STORE_BYTES = 1_000_000
LARGE = b"x" * 300_000
FULL = "refused: 503, 10077, maximum messages exceeded"
NEW: dict[str, Any] = {"discard": DiscardPolicy.NEW}


async def experiment(report: Report) -> None:
    with nats_server(report, sync_always=False, max_store_bytes=STORE_BYTES) as server:
        async with jetstream(server) as js:
            answer, kept = await fill(js, "A", "aaaaa", max_msgs=3, retention=RetentionPolicy.WORK_QUEUE)
            policy = (await js.stream_info("A")).config.discard
            report.fact("without a word a stream discards what is", policy, "old")
            report.fact("old, max_msgs 3, none read: the fifth message is", answer, "stored as message 5")
            report.fact("… the stream holds", kept, "messages 3 to 5")
            worker = await js.pull_subscribe("a", durable="worker", stream="A")
            got = await fetched(worker, 5)
            report.fact("… a worker gets", got, "3 (delivery 1), 4 (delivery 1), 5 (delivery 1)")
            answer, kept = await fill(js, "B", "bbbbb", max_bytes=1_000)
            report.fact("old, max_bytes 1,000: the fifth message of 300 is", answer, "stored as message 5")
            report.fact("… the stream holds", kept, "messages 3 to 5")

            answer, kept = await fill(js, "C", "cccc", max_msgs=3, retention=RetentionPolicy.WORK_QUEUE, **NEW)
            report.fact("new, max_msgs 3: the fourth message is", answer, FULL)
            report.fact("… the stream holds", kept, "messages 1 to 3")
            answer = await send(js, "c", name="refused once")
            worker = await js.pull_subscribe("c", durable="worker", stream="C")
            for message in await worker.fetch(1, timeout=5):
                await message.ack_sync(timeout=5)
            report.fact("… one more, with an id", answer, FULL)
            answer = await send(js, "c", name="refused once")
            report.fact("… the same id again, when there is room", answer, "stored as message 4")
            answer, _ = await fill(js, "D", "dddd", max_bytes=1_000, **NEW)
            report.fact("new, max_bytes 1,000: the fourth message of 300 is", answer, FULL.replace("messages", "bytes"))

            per_subject = "refused: 503, 10077, maximum messages per subject exceeded"
            answer, kept = await fill(js, "E", "eee", max_msgs_per_subject=2, **NEW)
            report.fact("new, max_msgs_per_subject 2: the third of a subject is", answer, "stored as message 3")
            report.fact("… the stream holds", kept, "messages 2 to 3")
            answer, kept = await fill(js, "F", "fff", max_msgs_per_subject=2, discard_new_per_subject=True, **NEW)
            report.fact("… with discard_new_per_subject it is", answer, per_subject)
            report.fact("… the stream holds", kept, "messages 1 to 2")

            _, kept = await fill(js, "G", "ggg", max_age=0.3, duplicate_window=0.3, **NEW)
            report.fact("new, max_age 0.3 s: the stream holds", kept, "messages 1 to 3")
            await asyncio.sleep(1)
            report.fact("… a second later", await held(js, "G"), "nothing")
            for name in "ABCDEFG":
                await js.delete_stream(name)

            answer, kept = await fill(js, "H", "hhhhh", LARGE, **NEW)
            stated = "refused: 503, 10023, insufficient resources"
            report.fact("new, without a bound, the server has 1 MB: the fifth message of 300 kB is", answer, stated)
            report.fact("… the stream holds", kept, "messages 1 to 4")
            try:
                await make_stream(js, "I", "i", max_bytes=2 * STORE_BYTES, **NEW)
                answer = "made"
            except APIError as error:
                answer = refusal(error)
            stated = "refused: 500, 10047, insufficient storage resources available"
            report.fact("a stream with max_bytes above what the server has is", answer, stated)


async def fill(js: JetStreamContext, name: str, subjects: str, body: bytes = BODY, **config: Any) -> tuple[str, str]:
    """Make a stream and send a message to each subject, a letter each; the last answer, and what the stream holds."""
    await make_stream(js, name, name.lower(), **config)
    answer = ""
    for subject in subjects:
        answer = await send(js, subject, body)
    return answer, await held(js, name)


async def held(js: JetStreamContext, name: str) -> str:
    """Which messages are in the stream."""
    state = (await js.stream_info(name)).state
    return f"messages {state.first_seq} to {state.last_seq}" if state.messages else "nothing"
