"""What can be put into a subject, and asked for by it, instead of making one more stream?

Here the subject of a message is ``events.PROJECT.COUNT``: how many events of a project are still in the work-queue
stream can then be asked for without reading a message.
"""

from typing import Any

from nats.errors import Error
from nats.js import JetStreamContext
from nats.js.api import ConsumerConfig, RetentionPolicy
from nats.js.errors import APIError

from experiments._report import Report
from experiments._servers import jetstream, make_stream, nats_server, refusal, send, stored

SENT = [("shop", 500), ("blog", 3), ("shop", 500), ("shop", 7)]
MANY = 100_010  # the server tells at most 100,000 subjects at once


async def experiment(report: Report) -> None:
    with nats_server(report, sync_always=False) as server:
        async with jetstream(server) as js:
            await make_stream(js, "EVENTS", "events.>", retention=RetentionPolicy.WORK_QUEUE)
            for project, count in SENT:
                await send(js, f"events.{project}.{count}")
            report.fact(
                "messages by subject",
                await by_subject(js, "events.>"),
                {"events.blog.3": 1, "events.shop.500": 2, "events.shop.7": 1},
            )
            report.fact("events of a project", await pending(js, "shop"), 1_007)
            report.fact("without a filter the subjects are", (await js.stream_info("EVENTS")).state.subjects, None)
            oldest = await js.get_msg("EVENTS", seq=1, subject="events.blog.>", next=True)
            report.fact(
                "the oldest message of another project",
                f"{oldest.subject}, number {oldest.seq}",
                "events.blog.3, number 2",
            )
            assert oldest.time is not None
            report.fact("… its time has a zone", oldest.time.tzinfo is not None, True)

            worker = await js.pull_subscribe(
                "events.>", durable="worker", stream="EVENTS", config=ConsumerConfig(ack_wait=60)
            )
            [first] = await worker.fetch(1, timeout=5)
            report.fact("one delivered, not acknowledged, events of the project", await pending(js, "shop"), 1_007)
            await first.ack_sync(timeout=5)
            report.fact("… acknowledged", await pending(js, "shop"), 507)
            await js.purge_stream("EVENTS", subject="events.shop.>")
            report.fact(
                "one project purged, messages by subject", await by_subject(js, "events.>"), {"events.blog.3": 1}
            )
            report.fact(
                "… the oldest of that project", await oldest_of(js, "shop"), "refused: 404, 10037, no message found"
            )

            report.fact(
                "a stream of a part of the subjects",
                await made(js, "SHOP", "events.shop.*"),
                "refused: 400, 10065, subjects overlap with an existing stream",
            )
            report.fact("a subject of no stream", await sent(js, "other.shop.1"), "NoStreamResponseError")
            report.fact("a subject with a space", await sent(js, "events.my shop.1"), "BadSubjectError")
            report.fact("a subject with a star in it", await sent(js, "events.*.1"), "stored")
            report.fact("… is of the project shop", "events.*.1" in await by_subject(js, "events.shop.>"), False)

            await make_stream(js, "MANY", "many.>")
            for number in range(MANY):
                # Stored in the order of sending, so one acknowledgement is enough for those before it.
                await (js.publish if number % 2_000 == 0 or number == MANY - 1 else js._nc.publish)(f"many.{number}")
            report.fact("messages, each with a subject of its own", await stored(js, "MANY"), MANY)
            subjects = (await js.stream_info("MANY", subjects_filter="many.>")).state.subjects
            report.fact(
                "… subjects that nats-py tells, without a word that there are more", len(subjects or {}), 100_000
            )


async def by_subject(js: JetStreamContext, subject: str) -> dict[str, int]:
    """How many messages of the stream each subject has."""
    return dict(sorted(((await js.stream_info("EVENTS", subjects_filter=subject)).state.subjects or {}).items()))


async def pending(js: JetStreamContext, project: str) -> int:
    """How many events of a project are in the stream."""
    subjects = await by_subject(js, f"events.{project}.*")
    return sum(int(subject.rpartition(".")[2]) * messages for subject, messages in subjects.items())


async def oldest_of(js: JetStreamContext, project: str) -> str:
    try:
        return f"number {(await js.get_msg('EVENTS', seq=1, subject=f'events.{project}.*', next=True)).seq}"
    except APIError as error:
        return refusal(error)


async def made(js: JetStreamContext, name: str, subject: str, **config: Any) -> str:
    """What the server says to a new stream."""
    try:
        await make_stream(js, name, subject, **config)
    except APIError as error:
        return refusal(error)
    return "made"


async def sent(js: JetStreamContext, subject: str) -> str:
    """How sending ends."""
    try:
        await js.publish(subject, timeout=5)
    except Error as error:
        return type(error).__name__
    return "stored"
