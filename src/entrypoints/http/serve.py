"""Running the HTTP API: what is opened around it, and the first lines an operator sees.

Not here: the command line, which reads flags and calls `serve`; TLS and API keys.
"""

import os
import sys
import time
from uuid import uuid4

import structlog

from entrypoints.container import open_eventcore, shown_url
from entrypoints.http.app import create_app
from entrypoints.http.listening import EXIT_FAILURE, EXIT_USAGE, bind, run, serve_app, stop
from entrypoints.settings import Settings, SettingsError, load_settings, unknown_names
from entrypoints.telemetry import LOGGER, configure_logs
from eventcore.calendar import format_instant
from eventcore.errors import EventcoreError


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is under way and return.

    Servers that the settings name may be away: then it waits for them, and answers 503 as long as it needs them.
    Nothing is printed on standard output.

    Raises:
        SystemExit: it cannot be served. Code 2: the address is not this machine's own and ``insecure`` is not set;
            code 1: the port is taken, or a store cannot be opened and waiting cannot help. The reason and the way out
            are on standard error.
    """
    readable = configure_logs(level=settings.log_level, form=settings.log_format)
    for sentence in unknown_names(os.environ):
        structlog.get_logger(LOGGER).warning("unknown setting", setting=sentence)
    listener = bind(settings, settings.port, "EVENTCORE_PORT (--port)")

    async def work() -> None:
        async with open_eventcore(settings, wait=True) as eventcore:
            await serve_app(
                create_app(settings, eventcore), settings, listener, lambda url: _announce(url, settings, readable)
            )

    try:
        run(work())
    except EventcoreError as error:
        stop(EXIT_FAILURE, error.message)
    finally:
        listener.close()


def _announce(url: str, settings: Settings, readable: bool) -> None:
    store = shown_url(settings.store_url)
    example = _example(url)
    if readable:
        sys.stderr.write(f"eventcore listens on {url}\n  events go to {store}\n  try it:\n{example}\n")
        sys.stderr.flush()
    else:
        structlog.get_logger(LOGGER).info("listening", url=url, store=store, example=example)


def _example(url: str) -> str:
    now = format_instant(time.time_ns() // 1_000)
    event = f'[{{"event_id":"{uuid4()}","user_id":"ada","event_type":"signup","occurred_at":"{now}"}}]'
    return f"curl {url}/events -H 'Content-Type: application/json' -d '{event}'"


def main() -> None:
    """``python -m entrypoints.http.serve``: serve with the settings of the environment."""
    try:
        settings = load_settings()
    except SettingsError as error:
        stop(EXIT_USAGE, str(error))
    serve(settings)


if __name__ == "__main__":
    main()
