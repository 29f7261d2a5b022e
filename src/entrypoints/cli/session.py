"""From a command's options to an open eventcore.

Everything heavy is imported when it is needed, so that ``eventcore --version`` starts fast. Not here: which adapters
there are, and what settings mean (`entrypoints.container`, `entrypoints.settings`).
"""

import asyncio
import os
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from threading import Thread
from typing import TYPE_CHECKING, Any, Final, TypeVar

from entrypoints.cli.exits import CommandError, say
from entrypoints.cli.interrupts import run_interruptible

if TYPE_CHECKING:
    from entrypoints.settings import Settings

_Result = TypeVar("_Result")

_LOOK_SECONDS: Final = 0.2
"""A signal in the very moment in which the loop begins to wait does not wake it; it is noticed after this long."""


def read_settings(**chosen: Any) -> "Settings":
    """The settings of this process; options that were given win over the environment.

    Each name that looks like a setting and is none is said on stderr, because a typo would otherwise be answered from
    another store than the one that was meant.

    Raises:
        CommandError: some settings cannot be used.
    """
    from entrypoints.settings import unknown_names

    settings = check_settings(**chosen)
    if "host" not in chosen:  # what listens has a log, and writes them there when it starts
        for sentence in unknown_names(os.environ):
            say(sentence)
    return settings


def check_settings(**chosen: Any) -> "Settings":
    """As `read_settings`, but names that are no settings are not looked for.

    Raises:
        CommandError: some settings cannot be used.
    """
    from entrypoints.settings import SettingsError, load_settings

    try:
        return load_settings(**{name: value for name, value in chosen.items() if value is not None})
    except SettingsError as error:
        raise CommandError(str(error)) from error


def wait_for(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Run asynchronous work to its end; Ctrl-C cancels it, then raises `KeyboardInterrupt`."""
    return run_interruptible(work)


async def apart(work: Callable[[], _Result]) -> _Result:
    """Run work that may block for ever, as reading a pipe may, where Ctrl-C need not wait for it: in a thread.

    Whoever is cancelled while waiting here leaves the thread behind, and the process ends without it. What the thread
    works on stays its own, and must not even be closed.
    """
    loop = asyncio.get_running_loop()
    outcome: Future[_Result] = Future()
    ended = asyncio.Event()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)
        with suppress(RuntimeError):  # the loop is closed: this was left behind
            loop.call_soon_threadsafe(ended.set)

    Thread(target=run, daemon=True).start()
    while not outcome.done():
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_SECONDS):
                await ended.wait()
    return outcome.result()


async def find_schema(store_url: str) -> tuple[int, int] | None:
    """The schema that a store has (0 when there is no store yet) and the one wanted; None if it has no schema at all.

    Changes nothing and makes no file.
    """
    from importlib.metadata import entry_points

    from eventcore.registry import MIGRATIONS, STORES, find_adapter

    find_adapter(STORES, store_url)  # says what is wrong with a URL that nothing speaks
    if store_url.partition(":")[0] not in entry_points(group=MIGRATIONS).names:
        return None
    found, wanted = await find_adapter(MIGRATIONS, store_url)(store_url, check=True)
    return found, wanted
