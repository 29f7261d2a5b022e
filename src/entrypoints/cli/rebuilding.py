"""``eventcore rebuild``: the precomputed activity made anew from the events, or for another time zone.

Not here: what is made anew, and why it may be stopped at any moment (`eventcore.rebuilding`).
"""

from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Final

import typer

from entrypoints.cli.exits import CommandError, Exit, say
from entrypoints.cli.maintenance import check_named, require_store
from entrypoints.cli.options import AnswerFormat, Json, StoreUrl, choose_format
from entrypoints.cli.output import Format, number, print_document, print_rows, print_table, printable
from entrypoints.cli.progress import Steps
from entrypoints.cli.session import read_settings, wait_for

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from entrypoints.settings import Settings
    from eventcore.ports import EventStore, Rebuilt

HELP: Final = (
    "Make the precomputed activity anew from the events, or for another time zone.\n\n"
    "Statistics come from days and months that are counted beforehand. This counts them again and mends what is wrong; "
    "`eventcore verify` tells whether anything is. Events are taken and answers are exact meanwhile. It may be stopped "
    "at any moment and run again, and several may run at once.\n\n"
    "With --zone, the days and months of another time zone take the place of those there are, when all are made. "
    "Answers stay the same in every zone; those in this one come faster.\n\n"
    "Days whose events are gone, because a retention policy drops them, stay as they are.\n\n"
    "Exit codes: 0 all is right now, as far as there are events; 3 something cannot be mended."
)


@dataclass(slots=True)
class _Summary:
    """What was done to one project.

    Attributes:
        project: its name.
        periods: days and months that were looked at.
        events: events that were counted.
        changed_rows: rows that were wrong, lacking or too many.
        left: why some periods stay as they are: the reason, and which they are.
    """

    project: str
    periods: int = 0
    events: int = 0
    changed_rows: int = 0
    left: dict[str, list[str]] = field(default_factory=dict)

    def add(self, step: "Rebuilt") -> None:
        self.periods += 1
        self.events += step.events
        self.changed_rows += step.rows
        if step.left:
            self.left.setdefault(step.left, []).append(step.period)


def rebuild_command(
    project: Annotated[
        str | None, typer.Option("--project", metavar="NAME", help="Only this one.", show_default="all of them")
    ] = None,
    zone: Annotated[
        str | None,
        typer.Option(
            "--zone", metavar="ZONE", help="Go over to this time zone, e.g. Europe/Kyiv.", show_default="as it is"
        ),
    ] = None,
    store_url: StoreUrl = None,
    form: AnswerFormat = Format.TABLE,
    json: Json = False,
) -> None:
    """Make the precomputed activity anew."""
    form = choose_format(form, json)
    if project is not None and zone is not None:
        raise CommandError("--zone concerns all projects: leave --project out")
    summaries = wait_for(_rebuild(project, zone, read_settings(store_url=store_url)))
    _print(summaries, form)
    for summary in summaries:
        for reason, periods in summary.left.items():
            say(f"project {printable(summary.project)}: {_left(periods)}: {reason}")
    raise typer.Exit(Exit.PARTLY_DONE if any(map(_is_damaged, summaries)) else Exit.WELL)


async def _rebuild(project: str | None, zone: str | None, settings: "Settings") -> list[_Summary]:
    from entrypoints.container import open_eventcore

    await require_store(settings)
    # The queue may be away; nothing is published.
    direct = settings.model_copy(update={"queue_url": "inline://", "dedup_url": "memory://"})
    async with open_eventcore(direct) as core:
        await check_named(core.store, project)
        return await _follow(_steps(core.store, project, zone))


def _steps(store: "EventStore", project: str | None, zone: str | None) -> "AsyncGenerator[Rebuilt, None]":
    return store.rebuild(project) if zone is None else store.rebuild_in_zone(zone)


async def _follow(steps: "AsyncGenerator[Rebuilt, None]") -> list[_Summary]:
    """Go through all steps, and tell the terminal how far it is."""
    summaries: dict[str, _Summary] = {}
    with Steps() as shown:
        async with aclosing(steps):
            async for step in steps:
                shown.advance(printable(f"{step.project} {step.period}"), step.done, step.steps)
                summaries.setdefault(step.project, _Summary(step.project)).add(step)
    return list(summaries.values())


def _print(summaries: list[_Summary], form: Format) -> None:
    if form is Format.JSON:
        print_document({"projects": [asdict(summary) for summary in summaries]})
    elif form is not Format.TABLE:
        names = ("project", "periods", "events", "changed_rows")
        print_rows([{name: getattr(one, name) for name in names} for one in summaries], form, names=names)
    elif summaries:
        print_table(
            ("project", "periods", "events", "changed rows"),
            [(one.project, number(one.periods), number(one.events), number(one.changed_rows)) for one in summaries],
        )
    else:
        print("nothing to rebuild: the store has no events, or keeps no precomputed activity")


def _left(periods: list[str]) -> str:
    if len(periods) == 1:
        return f"{periods[0]} stays as it is"
    return f"{len(periods)} periods from {periods[0]} to {periods[-1]} stay as they are"


def _is_damaged(summary: _Summary) -> bool:
    from eventcore.rebuilding import UNREADABLE

    return UNREADABLE in summary.left
