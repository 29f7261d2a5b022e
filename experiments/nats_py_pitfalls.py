"""Where does nats-py surprise: asynchronous publishing, reconnecting, buffers, and a server that does not answer?"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import nats
from nats.aio.client import Client as NATS
from nats.errors import Error
from nats.js import JetStreamContext

from experiments._report import Report
from experiments._servers import ANSWER_SECONDS, jetstream, make_stream, nats_server, stored
from tests.support.servers import OwnServer

AWAY_SECONDS = 0.5
FOR_EVER: dict[str, Any] = {"allow_reconnect": True, "max_reconnect_attempts": -1, "reconnect_time_wait": 0.05}
TOO_LARGE = b"x" * 2_000_000  # the server takes 1 MiB


async def experiment(report: Report) -> None:
    with nats_server(report) as server:
        report.note(f"client: nats-py {nats.aio.client.__version__}")
        async with jetstream(server) as js:
            await make_stream(js, "Q", "q")
        await leaking_window(report, server)
        await hanging_futures(report, server)
        await attempts(report, server)
        await buffered(report, server)
        await silent_server(report, server)


async def leaking_window(report: Report, server: OwnServer) -> None:
    """`publish_async` takes a place in its window first, and does not give it back when it fails."""
    async with jetstream(server) as js:
        narrow = js._nc.jetstream(publish_async_max_pending=2)
        for _ in range(2):
            refused = await end(narrow.publish_async("q", TOO_LARGE))
        report.fact("publish_async of a message that is too large", refused, "MaxPayloadError")
        after = await end(narrow.publish_async("q", b"", wait_stall=0.3))
        report.fact("… after two of them, with a window of two, a small one", after, "TooManyStalledMsgsError")
        report.fact("… publishes that it takes for pending", narrow.publish_async_pending(), 2)


async def hanging_futures(report: Report, server: OwnServer) -> None:
    """The server dies before it answers."""
    async with jetstream(server, **FOR_EVER) as js:
        server.pause()
        future = await js.publish_async("q")
        await asyncio.sleep(0.1)
        server.kill()
        await until(lambda client: not client.is_connected, js)
        server.start()
        await until(lambda client: client.is_connected, js)
        report.fact("after the server was killed and came back, publish", await end(js.publish("q", timeout=5)), "done")
        await asyncio.sleep(AWAY_SECONDS)
        report.fact("… the future of a publish_async from before is done", future.done(), False)
        future.cancel()


async def attempts(report: Report, server: OwnServer) -> None:
    """The number of attempts to reconnect is finite unless told otherwise."""
    report.fact("max_reconnect_attempts is by default", nats.aio.client.DEFAULT_MAX_RECONNECT_ATTEMPTS, 60)
    for most, stated in ((3, "ConnectionClosedError"), (-1, "done")):
        async with jetstream(server, **(FOR_EVER | {"max_reconnect_attempts": most})) as js:
            server.kill()
            await until(lambda client: client.is_closed, js, AWAY_SECONDS if most < 0 else ANSWER_SECONDS)
            server.start()
            await until(lambda client: client.is_connected or client.is_closed, js)
            seen = await end(js.publish("q", timeout=5))
            report.fact(f"max_reconnect_attempts {most}: publish after the server was away", seen, stated)


async def buffered(report: Report, server: OwnServer) -> None:
    """While there is no connection a publish is kept, and sent when its caller has long given up."""
    default = nats.aio.client.DEFAULT_PENDING_SIZE
    for size, stated, kept in ((default, "TimeoutError", 1), (0, "OutboundBufferLimitError", 0)):
        async with jetstream(server, **FOR_EVER, pending_size=size) as js:
            await js.purge_stream("Q")
            server.kill()
            await until(lambda client: not client.is_connected, js)
            seen = await end(js.publish("q", timeout=0.3))
            report.fact(f"pending_size {size:,}: publish without a server", seen, stated)
            server.start()
            await until(lambda client: client.is_connected, js)
            await asyncio.sleep(AWAY_SECONDS)
            report.fact("… messages in the stream when it is back", await stored(js, "Q"), kept)


async def silent_server(report: Report, server: OwnServer) -> None:
    """The server is frozen: the connection stays open, and only PINGs can tell."""
    report.fact("ping_interval is by default, in seconds", nats.aio.client.DEFAULT_PING_INTERVAL, 120)
    for options, wait_seconds, stated in (({}, 1.5, "TimeoutError"), ({"ping_interval": 0.2}, ANSWER_SECONDS, "done")):
        lost = asyncio.Event()

        async def notice(lost: asyncio.Event = lost) -> None:
            lost.set()

        async with jetstream(server, **FOR_EVER, disconnected_cb=notice, **options) as js:
            server.pause()
            begun = time.monotonic()
            seen = await end(asyncio.wait_for(lost.wait(), wait_seconds))
            seconds = time.monotonic() - begun
            interval = f"ping_interval {options['ping_interval']}" if options else "without a word"
            report.fact(f"{interval}: a frozen server is noticed", seen, stated)
            report.figure("… waited for", f"{seconds:.1f} s")
            server.resume()
            await until(lambda client: client.is_connected, js)


async def until(condition: Callable[[NATS], bool], js: JetStreamContext, seconds: float = ANSWER_SECONDS) -> None:
    """Wait until this is so of the client, or the time has passed."""
    deadline = time.monotonic() + seconds
    while not condition(js._nc) and time.monotonic() < deadline:
        await asyncio.sleep(0.02)


async def end(call: Awaitable[object]) -> str:
    """How a call ends."""
    try:
        await call
    except (Error, TimeoutError) as error:
        return type(error).__name__
    return "done"
