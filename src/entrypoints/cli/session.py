"""From a command's options to an open eventcore.

Everything heavy is imported when it is needed, so that ``eventcore --version`` starts fast. Not here: which adapters
there are, and what settings mean (`entrypoints.container`, `entrypoints.settings`).
"""

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from entrypoints.cli.exits import CommandError

if TYPE_CHECKING:
    from entrypoints.settings import Settings

_Result = TypeVar("_Result")


def read_settings(**chosen: Any) -> "Settings":
    """The settings of this process; options that were given win over the environment.

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
    return asyncio.run(work)


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
