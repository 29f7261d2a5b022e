"""Running the HTTP API: what is opened around it, and the first lines an operator sees.

Not here: the command line, which reads flags and calls `serve`; TLS, and what a key is.
"""

import asyncio
import os
import sys
import time
from typing import Final
from uuid import uuid4

import structlog

from entrypoints.container import open_eventcore, shown_url
from entrypoints.http.app import create_app, keyless_of
from entrypoints.http.docs import FIRST_KEY
from entrypoints.http.guards import Keyless
from entrypoints.http.listening import EXIT_FAILURE, EXIT_USAGE, bind, is_local, run, serve_app, stop
from entrypoints.keys import fresh_random
from entrypoints.settings import Settings, SettingsError, load_settings, unknown_names
from entrypoints.telemetry import LOGGER, configure_logs
from eventcore.access import Access, revoke
from eventcore.calendar import format_instant
from eventcore.errors import EventcoreError
from eventcore.events import DEFAULT_PROJECT
from eventcore.keys import SCOPES, ApiKey, make_key
from eventcore.service import Eventcore

_LOOK_SECONDS: Final = 1.0
"""Between two looks for the keys of a store that is away."""


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or SIGINT, then finish what is under way and return.

    Servers that the settings name may be away: then it waits for them, and answers 503 as long as it needs them.
    Nothing is printed on standard output.

    Raises:
        SystemExit: it cannot be served. Code 1: the port is taken, or a store cannot be opened and waiting cannot
            help. The reason and the way out are on standard error.
    """
    readable = configure_logs(level=settings.log_level, form=settings.log_format)
    for sentence in unknown_names(os.environ):
        structlog.get_logger(LOGGER).warning("unknown setting", setting=sentence)
    listener = bind(settings, settings.port, "EVENTCORE_PORT (--port)")

    async def work() -> None:
        async with open_eventcore(settings, wait=True) as eventcore:
            app = create_app(settings, eventcore, keyless=keyless_of(settings, local=is_local(listener)))
            access = app.state.access
            looking = asyncio.get_running_loop().create_task(_look_at_keys(access, eventcore, app.state.keyless))
            await asyncio.wait([looking], timeout=_LOOK_SECONDS)

            def announce(url: str) -> None:
                is_open = looking.done() and not looking.exception() and looking.result()
                _announce(url, settings, readable=readable, is_open=bool(is_open))

            try:
                await serve_app(app, settings, listener, announce)
            finally:
                looking.cancel()
                await asyncio.gather(looking, return_exceptions=True)
                await access.close()

    try:
        run(work())
    except EventcoreError as error:
        stop(EXIT_FAILURE, error.message)
    finally:
        listener.close()


async def _look_at_keys(access: Access, eventcore: Eventcore, keyless: Keyless) -> bool:
    """Say that the server is open, or make the first key, if there is none; as soon as the store answers.

    Returns:
        Whether it is open.
    """
    log = structlog.get_logger(LOGGER)
    made: tuple[str, ApiKey] | None = None
    while True:
        try:
            keyring = await access.keyring()
            if made is None and not keyring.is_empty:
                return False
            if keyless != "closed":
                log.warning("open", reason="no API key was made yet", reach=keyless, way_out=FIRST_KEY)
                return True
            made = made or make_key(
                fresh_random(), project=DEFAULT_PROJECT, scopes=SCOPES, now_us=eventcore.now_us(), label="first key"
            )
            await _give_first_key(eventcore, *made)
            access.forget()
            return False
        except EventcoreError as error:
            log.info("waiting for the API keys", reason=error.message)
        await asyncio.sleep(_LOOK_SECONDS)


async def _give_first_key(eventcore: Eventcore, text: str, key: ApiKey) -> None:
    """Keep a key that may do everything, and print it.

    Of several processes that start at once, those that see an older key end their own. Two in the same moments may
    both print one that stays; each is shown, so no key is there that nobody knows of.
    """
    await eventcore.store.put_key(key)
    if (await eventcore.store.keys())[0].key_id != key.key_id:
        await revoke(eventcore.store, key, now_us=eventcore.now_us())
        return
    # Not through the log, which is kept and sent elsewhere.
    sys.stderr.write(
        f"eventcore: there was no API key yet, so here is the first one, shown this once:\n  {text}\n"
        f"  It may do everything in the project {key.project}. `eventcore keys create` makes others, and "
        f"`eventcore keys revoke {key.key_id}` ends it.\n"
    )
    sys.stderr.flush()
    structlog.get_logger(LOGGER).warning("made the first API key", key=key.prefix, project=key.project)


def _announce(url: str, settings: Settings, *, readable: bool, is_open: bool) -> None:
    store = shown_url(settings.store_url)
    example = _example(url, is_open=is_open)
    if readable:
        sys.stderr.write(f"eventcore listens on {url}\n  events go to {store}\n  try it:\n{example}\n")
        sys.stderr.flush()
    else:
        structlog.get_logger(LOGGER).info("listening", url=url, store=store, example=example)


def _example(url: str, *, is_open: bool) -> str:
    now = format_instant(time.time_ns() // 1_000)
    event = f'[{{"event_id":"{uuid4()}","user_id":"ada","event_type":"signup","occurred_at":"{now}"}}]'
    key = "" if is_open else ' -H "Authorization: Bearer $EVENTCORE_API_KEY"'
    return f"curl {url}/events{key} -H 'Content-Type: application/json' -d '{event}'"


def main() -> None:
    """``python -m entrypoints.http.serve``: serve with the settings of the environment."""
    try:
        settings = load_settings()
    except SettingsError as error:
        stop(EXIT_USAGE, str(error))
    serve(settings)


if __name__ == "__main__":
    main()
