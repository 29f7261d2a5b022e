"""A relay between a client and a NATS server, which can hold up, lose, add and cut what passes.

It runs in the loop of its test.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

ACK = re.compile(rb"PUB \$JS\.ACK\.\S+ +4\r\n\+ACK\r\n")
NO_MORE = re.compile(rb"HMSG \S+ \S+ \d+ \d+\r\nNATS/1\.0 40[48][^\r]*\r\n(?:[^\r]+\r\n)*\r\n\r\n")
READ_BYTES = 65_536


class Relay:
    """What passes, and what becomes of it.

    Attributes:
        port: to connect to, on 127.0.0.1.
        said: everything that clients sent.
        delay_seconds: before anything goes on, in both directions; what follows does not wait for what went before.
        lose_acks: of workers; how many were lost is `lost_acks`.
        lose_ends: that there are no more messages, clients do not hear.
        lose_answers: nothing of the server reaches clients any more.
        refuse: nobody gets through.
    """

    def __init__(self, server_url: str) -> None:
        self._port = urlsplit(server_url).port
        self._lines: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self.port = 0
        self.said = b""
        self.delay_seconds = 0.0
        self.lose_acks = False
        self.lost_acks = 0
        self.lose_ends = False
        self.lose_answers = False
        self.refuse = False

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def cut(self) -> None:
        """End all connections, without a word."""
        for writer in self._lines.values():
            writer.transport.abort()

    def say(self, words: bytes) -> None:
        """Tell all clients something that the server did not say."""
        for writer in self._lines.values():
            writer.write(words)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuse:
            writer.transport.abort()
            return
        task = asyncio.current_task()
        assert task is not None
        self._lines[task] = writer
        upstream = None
        ways: list[asyncio.Task[None]] = []
        try:
            upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", self._port)
            ways = [
                asyncio.create_task(self._pass_on(reader, upstream, forth=True)),
                asyncio.create_task(self._pass_on(upstream_reader, writer, forth=False)),
            ]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            pass
        finally:
            self._lines.pop(task)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for end in (writer, upstream):
                if end is not None:
                    end.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, forth: bool) -> None:
        late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        clock = asyncio.get_running_loop().time

        async def deliver() -> None:
            while True:
                due_seconds, data = await late.get()
                await asyncio.sleep(max(0.0, due_seconds - clock()))
                writer.write(data)
                with suppress(OSError):
                    await writer.drain()

        delivering = asyncio.create_task(deliver())
        try:
            while data := await reader.read(READ_BYTES):
                late.put_nowait((clock() + self.delay_seconds, self._seen(data, forth)))
        except OSError:
            pass
        finally:
            delivering.cancel()
            await asyncio.gather(delivering, return_exceptions=True)

    def _seen(self, data: bytes, forth: bool) -> bytes:
        if not forth:
            data = NO_MORE.sub(b"", data) if self.lose_ends else data
            return b"" if self.lose_answers else data
        self.said += data
        if self.lose_acks:
            data, lost = ACK.subn(b"", data)
            self.lost_acks += lost
        return data

    async def end(self) -> None:
        self.refuse = True
        tasks = list(self._lines)
        self.cut()
        await asyncio.gather(*tasks)


@asynccontextmanager
async def relay_to(server_url: str) -> AsyncIterator[Relay]:
    """A relay in front of the server."""
    relay = Relay(server_url)
    listener = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    relay.port = listener.sockets[0].getsockname()[1]
    try:
        yield relay
    finally:
        listener.close()
        await relay.end()
        await listener.wait_closed()
