"""``eventcore migrate`` and ``eventcore verify``: the store's schema, and whether its books balance."""

import asyncio
import time
from itertools import count
from typing import TYPE_CHECKING, Annotated

import typer

from entrypoints.cli.exits import CommandError, Exit
from entrypoints.cli.options import AnswerFormat, Json, StoreUrl, choose_format
from entrypoints.cli.output import Format, print_document, print_rows, printable
from entrypoints.cli.session import find_schema, read_settings, wait_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from entrypoints.settings import Settings
    from eventcore.ports import EventStore


def migrate_command(
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit 1 when there is something to do.")
    ] = False,
    wait: Annotated[
        int, typer.Option("--wait", metavar="SECONDS", min=0, help="How long to wait for a server that is away.")
    ] = 0,
    store_url: StoreUrl = None,
) -> None:
    """Bring the store's schema up to date; a store that is not there is made."""
    settings = read_settings(store_url=store_url)
    schema = wait_for(_find_schema_in_time(settings.store_url, wait))
    if schema is None:
        print("this store has no schema; nothing to do")
        return
    found, wanted = schema
    if found > wanted:
        message = f"the store has schema {found}, this eventcore knows up to {wanted}; install the newer version again"
        raise CommandError(message, code=Exit.FAILURE)
    if found == wanted:
        print(f"the store has schema {wanted}, as it should; nothing to do")
        return
    if check:
        behind = f"the store has schema {found}, wanted is {wanted}; run `eventcore migrate`"
        print(no_store(settings) if found == 0 else behind)
        raise typer.Exit(Exit.FAILURE)
    wait_for(_migrate(settings))
    print(f"made a store with schema {wanted}" if found == 0 else f"brought the store from schema {found} to {wanted}")


async def _find_schema_in_time(store_url: str, wait_seconds: float) -> tuple[int, int] | None:
    """As `find_schema`, but a server may take some time to come."""
    from entrypoints.patience import pause_seconds
    from eventcore.errors import EventcoreError

    until = time.monotonic() + wait_seconds
    for attempt in count(1):
        try:
            return await find_schema(store_url)
        except EventcoreError as error:
            left = until - time.monotonic()
            if not error.retryable or error.is_misconfiguration or left <= 0:
                raise
            await asyncio.sleep(min(left, pause_seconds(attempt)))
    raise AssertionError  # an endless count has no end


async def _migrate(settings: "Settings") -> None:
    from eventcore.registry import MIGRATIONS, find_adapter

    await find_adapter(MIGRATIONS, settings.store_url)(settings.store_url)


def verify_command(
    project: Annotated[
        str | None, typer.Option("--project", metavar="NAME", help="Only this one.", show_default="all of them")
    ] = None,
    store_url: StoreUrl = None,
    form: AnswerFormat = Format.TABLE,
    json: Json = False,
) -> None:
    """Compare books, ledger, events and activity; exit 1 if anything differs."""
    form = choose_format(form, json)
    differences = wait_for(_verify(project, read_settings(store_url=store_url)))
    if form is Format.JSON:
        print_document({"balanced": not differences, "differences": differences})
    elif form is Format.TABLE:
        print("\n".join(map(printable, differences)) or "all books balance")
    else:
        print_rows([{"difference": sentence} for sentence in differences], form)
    raise typer.Exit(Exit.FAILURE if differences else Exit.WELL)


async def _verify(project: str | None, settings: "Settings") -> "Sequence[str]":
    from entrypoints.container import open_eventcore

    await require_store(settings)
    async with open_eventcore(settings) as core:
        await check_named(core.store, project)
        return await core.store.verify(project)


async def check_named(store: "EventStore", project: str | None) -> None:
    """Refuse to go on with a project that the store does not have.

    Raises:
        CommandError: it does not.
        EventcoreError: no project can have this name.
    """
    from eventcore.service import check_project

    if project is not None:
        check_project(project)
        if project not in (await store.describe()).counts:
            raise CommandError("the store has no project of this name", code=Exit.FAILURE)


def epoch_command(
    new: Annotated[bool, typer.Option("--new", help="Begin a new one.")] = False,
    store_url: StoreUrl = None,
) -> None:
    """Show the store's epoch, or begin a new one: after restoring a backup, or purging the queue.

    Caches and queues remember events by the epoch. What was accepted and is gone since would be taken for a duplicate
    when it is sent again; in a new epoch it is not.
    """
    print(wait_for(_epoch(new, read_settings(store_url=store_url))))


async def _epoch(new: bool, settings: "Settings") -> str:
    from entrypoints.container import open_eventcore

    await require_store(settings)
    # The queue and the cache may be what was lost.
    direct = settings.model_copy(update={"queue_url": "inline://", "dedup_url": "memory://"})
    async with open_eventcore(direct) as core:
        return await core.store.begin_epoch() if new else (await core.store.describe()).epoch


def no_store(settings: "Settings") -> str:
    """Where a store was looked for in vain, and the ways out."""
    from entrypoints.container import shown_url

    return (
        f"there is no store yet at {shown_url(settings.store_url)}; `eventcore migrate` makes one, and --store-url or "
        "EVENTCORE_STORE_URL names another one"
    )


async def require_store(settings: "Settings") -> None:
    """Refuse to go on where there is no store, rather than to make an empty one.

    Raises:
        CommandError: there is none.
    """
    schema = await find_schema(settings.store_url)
    if schema is not None and schema[0] == 0:
        raise CommandError(no_store(settings), code=Exit.FAILURE)
