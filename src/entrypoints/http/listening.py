"""A socket and a server for an ASGI application: what the API and the worker's health port have in common.

Not here: what the application answers, and what is opened around it (`serve`, `entrypoints.worker`).
"""

import asyncio
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Sequence
from ipaddress import ip_address
from typing import Any, Final, NoReturn

import uvicorn

from entrypoints.http.protocol import bounded_http
from entrypoints.settings import Settings

EXIT_FAILURE: Final = 1
EXIT_USAGE: Final = 2

_SWITCH_SECONDS: Final = 0.0002
"""Python's sqlite3 gives the interpreter lock up at every row; with the usual 5 ms a writer thread beside a busy event
loop falls from 170,000 rows a second to some hundreds (DESIGN.md, trap 12)."""
_BACKLOG: Final = 2_048


def bind(settings: Settings, port: int, port_setting: str, *, keyless_reason: str = "") -> socket.socket:
    """Take an address to listen on.

    Args:
        settings: name the host.
        port: the port; 0 takes any free one.
        port_setting: how one chooses another port, for the message.
        keyless_reason: why it must be this machine's own unless the settings are ``insecure``: what is served there
            asks for no key. Empty for what does.

    Raises:
        SystemExit: it cannot be had, see `stop`.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            settings.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError:
        stop(
            EXIT_FAILURE,
            f"the host {settings.host} is not known; EVENTCORE_HOST (--host) names an address of this machine",
        )
    if keyless_reason and not settings.insecure and not _is_loopback(address):
        stop(EXIT_USAGE, f"refusing to listen on {settings.host}: {keyless_reason}")
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        stop(
            EXIT_FAILURE,
            f"cannot listen on {settings.host}:{port}: {(error.strerror or 'it failed').lower()}; choose "
            f"another port with {port_setting}",
        )
    return listener


def is_local(listener: socket.socket) -> bool:
    """Whether only this machine reaches a listener."""
    return _is_loopback(listener.getsockname())


def _is_loopback(address: tuple[Any, ...]) -> bool:
    return ip_address(str(address[0]).partition("%")[0]).is_loopback


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a process that serves, until `serve_app` returns because of SIGTERM or SIGINT."""
    sys.setswitchinterval(_SWITCH_SECONDS)
    # uvicorn raises the signal that stopped it once more when it is done; to stop on demand is success, not a death.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    loop_factory = uvicorn.Config("", log_config=None).get_loop_factory()  # uvloop where there is one
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(work)


async def serve_app(app: Any, settings: Settings, listener: socket.socket, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, and then until what is under way is answered.

    Args:
        app: an ASGI application, without a lifespan of its own.
        settings: its bounds on heads, connections and time.
        listener: where it listens, from `bind`.
        announce: called with its URL once it listens.
    """
    config = uvicorn.Config(
        app,
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
    await _Announcing(config, announce).serve(sockets=[listener])


class _Announcing(uvicorn.Server):
    """uvicorn that says where it listens once it does."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[str], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: Sequence[socket.socket] | None = None) -> None:
        await super().startup(sockets=list(sockets or ()))
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        self._announce(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")


def stop(code: int, reason: str) -> NoReturn:
    """End the process with a line on standard error."""
    sys.stderr.write(f"eventcore: {reason}\n")
    raise SystemExit(code)
