"""Running the HTTP API: the socket, uvicorn, signals, and the first lines an operator sees.

Not here: the command line, which reads flags and calls `serve`; TLS and API keys.
"""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Final, NoReturn
from uuid import uuid4

import structlog
import uvicorn

from entrypoints.container import open_eventcore, shown_url
from entrypoints.http.app import create_app
from entrypoints.http.protocol import bounded_http
from entrypoints.settings import Settings, SettingsError, load_settings, unknown_names
from entrypoints.telemetry import LOGGER, configure_logs
from eventcore.calendar import format_instant
from eventcore.errors import EventcoreError

EXIT_FAILURE: Final = 1
EXIT_USAGE: Final = 2

_SWITCH_SECONDS: Final = 0.0002
"""Python's sqlite3 gives the interpreter lock up at every row; with the usual 5 ms a writer thread beside a busy event
loop falls from 170,000 rows a second to some hundreds (DESIGN.md, trap 12)."""
_BACKLOG: Final = 2_048


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is under way and return.

    Nothing is printed on standard output.

    Raises:
        SystemExit: it cannot be served. Code 2: the address is not this machine's own and ``insecure`` is not set;
            code 1: the port is taken, or a store cannot be opened. The reason and the way out are on standard error.
    """
    readable = configure_logs(level=settings.log_level, form=settings.log_format)
    for sentence in unknown_names(os.environ):
        structlog.get_logger(LOGGER).warning("unknown setting", setting=sentence)
    listener = _bind(settings)
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        _run(settings, listener, readable=readable)
    except EventcoreError as error:
        _stop(EXIT_FAILURE, f"{error.message}")
    finally:
        listener.close()


def _bind(settings: Settings) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError:
        _stop(
            EXIT_FAILURE,
            f"the host {settings.host} is not known; EVENTCORE_HOST (--host) names an address of this machine",
        )
    if not ip_address(str(address[0]).partition("%")[0]).is_loopback and not settings.insecure:
        _stop(
            EXIT_USAGE,
            f"refusing to listen on {settings.host}: there are no API keys, so anybody who reaches it could read and "
            "write everything. Listen on 127.0.0.1 behind a proxy that asks for a password, or, in a network that you "
            "trust, set EVENTCORE_INSECURE=true (--insecure).",
        )
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        _stop(
            EXIT_FAILURE,
            f"cannot listen on {settings.host}:{settings.port}: {(error.strerror or 'it failed').lower()}; choose "
            "another port with EVENTCORE_PORT (--port)",
        )
    return listener


def _run(settings: Settings, listener: socket.socket, *, readable: bool) -> None:
    # uvicorn raises the signal that stopped it once more when it is done; to stop on demand is success, not a death.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)

    async def run() -> None:
        async with open_eventcore(settings) as eventcore:
            config = uvicorn.Config(
                create_app(settings, eventcore),
                http=bounded_http(
                    head_bytes=settings.head_bytes,
                    head_fields=settings.head_fields,
                    head_timeout_seconds=settings.head_timeout_seconds,
                ),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=_BACKLOG,
                timeout_keep_alive=settings.idle_timeout_seconds,
                timeout_graceful_shutdown=settings.grace_seconds,
            )
            await _Announcing(config, settings, readable=readable).serve(sockets=[listener])

    loop_factory = uvicorn.Config("", log_config=None).get_loop_factory()  # uvloop where there is one
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(run())


class _Announcing(uvicorn.Server):
    """uvicorn that says where it listens once it does."""

    def __init__(self, config: uvicorn.Config, settings: Settings, *, readable: bool) -> None:
        super().__init__(config)
        self._settings = settings
        self._readable = readable

    async def startup(self, sockets: Sequence[socket.socket] | None = None) -> None:
        await super().startup(sockets=list(sockets or ()))
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        store = shown_url(self._settings.store_url)
        example = _example(url)
        if self._readable:
            sys.stderr.write(f"eventcore listens on {url}\n  events go to {store}\n  try it:\n{example}\n")
            sys.stderr.flush()
        else:
            structlog.get_logger(LOGGER).warning("listening", url=url, store=store, example=example)


def _example(url: str) -> str:
    now = format_instant(time.time_ns() // 1_000)
    event = f'[{{"event_id":"{uuid4()}","user_id":"ada","event_type":"signup","occurred_at":"{now}"}}]'
    return f"curl {url}/events -H 'Content-Type: application/json' -d '{event}'"


def _stop(code: int, reason: str) -> NoReturn:
    sys.stderr.write(f"eventcore: {reason}\n")
    raise SystemExit(code)


def main() -> None:
    """``python -m entrypoints.http.serve``: serve with the settings of the environment."""
    try:
        settings = load_settings()
    except SettingsError as error:
        _stop(EXIT_USAGE, str(error))
    serve(settings)


if __name__ == "__main__":
    main()
