"""``eventcore dimensions``: properties whose questions are answered from precomputed activity; add, list, remove.

Not here: what a dimension is (`eventcore.dimensions`), and how one is built, which each store does.
"""

from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Final

import typer

from entrypoints.cli.exits import CommandError, Exit
from entrypoints.cli.maintenance import check_named, require_store
from entrypoints.cli.options import AnswerFormat, Json, Project, StoreUrl, choose_format
from entrypoints.cli.output import Format, number, print_document, print_rows, print_table, printable
from entrypoints.cli.progress import Steps
from entrypoints.cli.session import read_settings, wait_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from entrypoints.settings import Settings
    from eventcore.dimensions import Dimension

ADD_HELP: Final = (
    "Declare a property a dimension: questions about it are then answered from precomputed activity.\n\n"
    "Conditions on it, also together with conditions on event_type, and breakdowns by it read no raw events any more. "
    "Each event costs a little more to store. What is stored already is counted now; events are taken and answers are "
    "exact meanwhile. It may be stopped at any moment, and the same command goes on.\n\n"
    "It takes up to 1,000 values of at most 255 characters. One with more becomes full: questions about it read raw "
    "events again, until it is removed.\n\n"
    "Exit codes: 0 it is ready; 2 it has too many values, or there are too many dimensions."
)

app = typer.Typer(help="Dimensions: properties that are counted beforehand, as event types are.")

_Name = Annotated[str, typer.Argument(metavar="NAME", help="The property, e.g. country.", show_default=False)]


@app.command("add", help=ADD_HELP)
def add_command(
    name: _Name,
    project: Project = "default",
    store_url: StoreUrl = None,
    form: AnswerFormat = Format.TABLE,
    json: Json = False,
) -> None:
    """Declare a dimension."""
    form = choose_format(form, json)
    dimensions = wait_for(_add(name, project, read_settings(store_url=store_url)))
    _print(dimensions, form)


@app.command("list")
def list_command(
    project: Project = "default",
    store_url: StoreUrl = None,
    form: AnswerFormat = Format.TABLE,
    json: Json = False,
) -> None:
    """The dimensions of a project, and whether questions about them are answered from precomputed activity."""
    form = choose_format(form, json)
    _print(wait_for(_list(project, read_settings(store_url=store_url))), form)


@app.command("remove")
def remove_command(
    name: _Name,
    project: Project = "default",
    store_url: StoreUrl = None,
    form: AnswerFormat = Format.TABLE,
    json: Json = False,
) -> None:
    """Forget a dimension and what is counted of it; the events and every answer stay as they are."""
    form = choose_format(form, json)
    _print(wait_for(_remove(name, project, read_settings(store_url=store_url))), form)


async def _add(name: str, project: str, settings: "Settings") -> "Sequence[Dimension]":
    from entrypoints.container import open_eventcore
    from eventcore.answers import parse_dimension
    from eventcore.service import check_project

    check_project(project)
    name = parse_dimension(name)
    await require_store(settings)
    async with open_eventcore(_direct(settings)) as core:
        with Steps() as shown:
            async with aclosing(core.store.add_dimension(project, name)) as steps:
                async for step in steps:
                    shown.advance(printable(f"{step.project} {step.period}"), step.done, step.steps)
        return await core.store.dimensions(project)


async def _list(project: str, settings: "Settings") -> "Sequence[Dimension]":
    from entrypoints.container import open_eventcore

    await require_store(settings)
    async with open_eventcore(_direct(settings)) as core:
        await check_named(core.store, project)
        return await core.store.dimensions(project)


async def _remove(name: str, project: str, settings: "Settings") -> "Sequence[Dimension]":
    from entrypoints.container import open_eventcore

    await require_store(settings)
    async with open_eventcore(_direct(settings)) as core:
        await check_named(core.store, project)
        if not await core.store.remove_dimension(project, name):
            raise CommandError("the project has no dimension of this name", code=Exit.FAILURE)
        return await core.store.dimensions(project)


def _direct(settings: "Settings") -> "Settings":
    """The queue may be away; nothing is published."""
    return settings.model_copy(update={"queue_url": "inline://", "dedup_url": "memory://"})


_SAID: Final = {
    "building": "being built: questions read raw events; `eventcore dimensions add` goes on",
    "ready": "ready",
    "full": "full, too many values: questions read raw events",
}


def _print(dimensions: "Sequence[Dimension]", form: Format) -> None:
    rows = [{"name": one.name, "state": one.state, "values": one.values} for one in dimensions]
    if form is Format.JSON:
        print_document({"dimensions": rows})
    elif form is not Format.TABLE:
        print_rows(rows, form, names=("name", "state", "values"))
    elif dimensions:
        print_table(
            ("dimension", "state", "values"),
            [(one.name, _SAID[one.state], number(one.values)) for one in dimensions],
            left=2,
        )
    else:
        print("no dimensions: every question about a property reads raw events")
