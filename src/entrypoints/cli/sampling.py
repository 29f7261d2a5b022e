"""``eventcore sample``: made-up events as CSV on stdout."""

import signal
import sys
from datetime import datetime
from typing import Annotated, Literal

import typer

from entrypoints.cli.exits import CommandError


def sample_command(
    events: Annotated[int, typer.Option("--events", metavar="N", help="Rows, duplicates included.")] = 10_000,
    users: Annotated[
        int | None,
        typer.Option("--users", metavar="N", help="Users.", show_default="a tenth of the events, at most 5,000"),
    ] = None,
    days: Annotated[int, typer.Option("--days", metavar="N", help="Days.")] = 30,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="The same seed gives the same bytes.")] = 1,
    start: Annotated[
        datetime, typer.Option("--start", metavar="DATE", formats=["%Y-%m-%d"], help="First day, in UTC.")
    ] = datetime(2025, 1, 1),  # noqa: DTZ001 - a date; Typer has none
    duplicates: Annotated[
        float, typer.Option("--duplicates", metavar="SHARE", help="Share of rows that repeat an earlier one.")
    ] = 0.0,
    late: Annotated[
        float, typer.Option("--late", metavar="SHARE", help="Share of events that arrive hours or days late.")
    ] = 0.0,
    event_types: Annotated[int, typer.Option("--event-types", metavar="N", help="Types of event.")] = 6,
    ids: Annotated[str, typer.Option("--ids", metavar="v4|v7", help="Random ids, or ids in the order of time.")] = "v4",
) -> None:
    """Print made-up events as CSV, the same from the same options everywhere: weekdays, heavy users, retention."""
    from entrypoints.sample import SamplePlan, write_csv

    try:
        plan = SamplePlan(
            events=events,
            users=max(1, min(5_000, events // 10)) if users is None else users,
            days=days,
            seed=seed,
            start=start.date(),
            duplicates=duplicates,
            late=late,
            event_types=event_types,
            id_version=id_version(ids),
        )
    except ValueError as error:
        raise CommandError(f"--{str(error).replace('_', '-', 1)}") from error
    # Whoever reads may stop early, as `head` does; then this ends at once and says nothing.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.stdout.reconfigure(encoding="utf-8", newline="")  # type: ignore[union-attr]
    write_csv(plan, sys.stdout)


def id_version(ids: str) -> Literal[4, 7]:
    """The UUID version that ``v4`` or ``v7`` means.

    Raises:
        CommandError: it is neither.
    """
    if ids == "v4":
        return 4
    if ids == "v7":
        return 7
    raise CommandError("--ids is v4 or v7")
