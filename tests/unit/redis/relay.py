"""A relay between a client and a Redis server, which can lose, hold up, repeat and count what passes.

It runs in the loop of its test. With ``tls=True`` it speaks TLS to clients, since not every Redis program can.
"""

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

SCRIPT = b"\r\nEVAL\r\n"
READ_BYTES = 65_536


class Relay:
    """What passes, and what becomes of it.

    Attributes:
        port: to connect to, on 127.0.0.1.
        connections: how many were made.
        scripts: how many scripts were sent to the server.
        lose_replies: to scripts: the server has run them, then the connection is cut.
        delay_seconds: before a reply to a script goes on.
        repeat_replies: to scripts: each goes on twice.
    """

    def __init__(self, server_url: str) -> None:
        parts = urlsplit(server_url)
        self._host, self._server_port = parts.hostname, parts.port or 6379
        self._running: set[asyncio.Task[None]] = set()
        self.port = 0
        self.connections = 0
        self.scripts = 0
        self.lose_replies = False
        self.delay_seconds = 0.0
        self.repeat_replies = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        self.connections += 1
        upstream = None
        try:
            upstream_reader, upstream = await asyncio.open_connection(self._host, self._server_port)
            await self._pass_on(reader, writer, upstream_reader, upstream)
        except (OSError, asyncio.CancelledError):
            pass  # the streams of the standard library report a handler that was cancelled as an error
        finally:
            self._running.discard(task)
            for end in (writer, upstream):
                if end is not None:
                    end.close()
                    with suppress(OSError, asyncio.CancelledError):
                        await end.wait_closed()

    async def _pass_on(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        upstream_reader: asyncio.StreamReader,
        upstream: asyncio.StreamWriter,
    ) -> None:
        asked = False

        async def forth() -> None:
            nonlocal asked
            while data := await reader.read(READ_BYTES):
                self.scripts += data.count(SCRIPT)
                asked = asked or SCRIPT in data
                upstream.write(data)
                await upstream.drain()

        async def back() -> None:
            while data := await upstream_reader.read(READ_BYTES):
                if asked and self.lose_replies:
                    return
                if asked and self.delay_seconds:
                    await asyncio.sleep(self.delay_seconds)
                writer.write(data * 2 if asked and self.repeat_replies else data)
                await writer.drain()

        ways = [asyncio.create_task(way()) for way in (forth, back)]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    @property
    def open_connections(self) -> int:
        return len(self._running)

    async def end(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)


@asynccontextmanager
async def relay_to(server_url: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[Relay]:
    """A relay in front of the server."""
    relay = Relay(server_url)
    listener = await asyncio.start_server(relay.serve, "127.0.0.1", 0, ssl=tls)
    relay.port = listener.sockets[0].getsockname()[1]
    try:
        yield relay
    finally:
        listener.close()
        await relay.end()
        await listener.wait_closed()


def missing_openssl() -> str | None:
    """What this machine lacks to make certificates."""
    if shutil.which("openssl") is None:
        return "openssl is not on PATH, which makes the certificates of tests; install it, e.g. apt-get install openssl"
    return None


def a_certificate(folder: Path, name: str = "localhost") -> tuple[Path, Path]:
    """A certificate of its own authority for that name, and its key."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    names = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    subprocess.run(
        ["openssl", *words, *names, "-out", certificate, "-keyout", key], check=True, capture_output=True, timeout=30
    )
    return certificate, key


def server_side(certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS of a server that has this certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return context
