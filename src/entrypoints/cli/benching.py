"""``eventcore bench``: what this machine does; a figure is printed only when the store holds what was sent."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from entrypoints.cli.exits import CommandError, Exit, say
from entrypoints.cli.options import AnswerFormat, Json, choose_format
from entrypoints.cli.output import Format, print_document, print_rows, print_table
from entrypoints.cli.sampling import id_version

if TYPE_CHECKING:
    from collections.abc import Callable

    from entrypoints.bench import Plan, Run

app = typer.Typer(help="Measure this machine on fresh SQLite files; every run is verified.")

_Events = Annotated[int, typer.Option("--events", metavar="N", min=1, help="Events, all different.")]
_Ids = Annotated[str, typer.Option("--ids", metavar="v4|v7", help="Random ids, or ids in the order of time.")]
_Runs = Annotated[int, typer.Option("--runs", metavar="N", min=1, help="Runs, each on a file of its own.")]
_Folder = Annotated[
    Path, typer.Option("--folder", exists=True, file_okay=False, help="Where the files are made; its disk counts.")
]


@app.command("import")
def bench_import(
    events: _Events = 1_000_000,
    ids: _Ids = "v4",
    runs: _Runs = 3,
    folder: _Folder = Path(),
    form: AnswerFormat = Format.TABLE,
    json: Json = False,
) -> None:
    """`eventcore import` of a CSV file, the start of the process included."""
    from entrypoints.bench import Plan, measure_import

    plan = Plan(events=events, id_version=id_version(ids), runs=runs, folder=folder)
    _measure(plan, measure_import, choose_format(form, json))


@app.command("embedded")
def bench_embedded(
    events: _Events = 200_000,
    batch: Annotated[int, typer.Option("--batch", metavar="N", min=1, max=2_000, help="Events in a request.")] = 1_000,
    clients: Annotated[int, typer.Option("--clients", metavar="N", min=1, max=500, help="Connections.")] = 8,
    ids: _Ids = "v4",
    runs: _Runs = 3,
    ceiling: Annotated[
        bool, typer.Option("--ceiling", help="Also measure the load generator against a server that does nothing.")
    ] = False,
    folder: _Folder = Path(),
    form: AnswerFormat = Format.TABLE,
    json: Json = False,
) -> None:
    """`eventcore serve` taking in batches over HTTP from several clients at once."""
    from entrypoints.bench import Plan, measure_ceiling, measure_embedded

    plan = Plan(events=events, batch=batch, clients=clients, id_version=id_version(ids), runs=runs, folder=folder)
    more = {"ceiling_events_per_second": round(measure_ceiling(plan))} if ceiling else {}
    _measure(plan, measure_embedded, choose_format(form, json), more)


def _measure(
    plan: "Plan", measure: "Callable[[Plan], list[Run]]", form: Format, more: dict[str, Any] | None = None
) -> None:
    from entrypoints.bench import NotVerified, summary

    say(f"{plan.events:,} events with {plan.runs} run(s), verified each; this takes a while")
    try:
        runs = measure(plan)
    except NotVerified as error:
        raise CommandError(f"not verified, so no figure: {error}", code=Exit.FAILURE) from error
    except ValueError as error:  # a plan that cannot be carried out
        raise CommandError(f"--{error}") from error
    document = summary(plan, runs) | (more or {})
    if form is Format.JSON:
        print_document(document)
    elif form is Format.TABLE:
        _print(document)
    else:
        print_rows(document["runs"], form)


def _print(document: dict[str, Any]) -> None:
    names = [name for name, value in document["runs"][0].items() if value is not None]
    rows = [[str(number), *(f"{run[name]:,}" for name in names)] for number, run in enumerate(document["runs"], 1)]
    print_table(("run", *(name.replace("_", " ") for name in names)), rows)
    low, high = document["min_events_per_second"], document["max_events_per_second"]
    print(f"verified; median {document['median_events_per_second']:,.0f} events/s, from {low:,} to {high:,}")
    if "ceiling_events_per_second" in document:
        print(f"the load generator alone reaches {document['ceiling_events_per_second']:,} events/s")
