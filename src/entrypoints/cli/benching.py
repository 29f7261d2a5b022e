"""``eventcore bench``: what this machine does; a figure is printed only when the store holds what was sent.

And, of statistics, only when all ways of asking gave the same answer.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from entrypoints.cli.exits import CommandError, Exit, say
from entrypoints.cli.options import AnswerFormat, Json, choose_format
from entrypoints.cli.output import Format, print_document, print_rows, print_table
from entrypoints.cli.sampling import id_version

if TYPE_CHECKING:
    from collections.abc import Callable

    from entrypoints.bench import Plan, Run
    from entrypoints.bench_stores import StoreKind

_Result = TypeVar("_Result")

app = typer.Typer(help="Measure this machine on fresh stores; every run is verified.")

_Events = Annotated[int, typer.Option("--events", metavar="N", min=1, help="Events, all different.")]
_Ids = Annotated[str, typer.Option("--ids", metavar="v4|v7", help="Random ids, or ids in the order of time.")]
_Runs = Annotated[int, typer.Option("--runs", metavar="N", min=1, help="Runs, each on a file of its own.")]
_Store = Annotated[str, typer.Option("--store", metavar="sqlite|postgresql", help="Which store.")]
_Url = Annotated[
    str | None, typer.Option("--url", metavar="URL", help="An empty database of PostgreSQL, to be filled.")
]
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


@app.command("stats")
def bench_stats(
    events: _Events = 1_000_000,
    store: _Store = "sqlite",
    url: _Url = None,
    days: Annotated[int, typer.Option("--days", metavar="N", min=1, help="Days of history.")] = 90,
    event_types: Annotated[int, typer.Option("--event-types", metavar="N", help="Types of event.")] = 6,
    unfolded: Annotated[
        int, typer.Option("--unfolded", metavar="N", min=0, help="Events that wait to be folded, the last ones.")
    ] = 0,
    zone: Annotated[str, typer.Option("--zone", help="The other time zone.")] = "Asia/Kathmandu",
    ids: _Ids = "v4",
    runs: Annotated[int, typer.Option("--runs", metavar="N", min=1, help="Fresh servers for each cold question.")] = 3,
    properties: Annotated[
        bool,
        typer.Option("--properties/--no-properties", help="Ask about properties too, which reads raw rows: slow."),
    ] = True,
    keep: Annotated[
        Path | None,
        typer.Option("--keep", file_okay=False, help="Keep the loaded store here, and use one that is here already."),
    ] = None,
    folder: _Folder = Path(),
    form: AnswerFormat = Format.TABLE,
    json: Json = False,
) -> None:
    """Each statistic over HTTP, cold and warm, and in process; against SQL on the raw rows, and DuckDB.

    The store is loaded with `eventcore import`. For PostgreSQL a server is started where its program is found, and ends
    with the command; --url names an empty database instead. DuckDB comes with the extra "bench".
    """
    from entrypoints.bench_stats import StatsPlan, flat_rows, measure_stats, summary
    from eventcore.calendar import UnknownZone, find_zone

    try:
        find_zone(zone)
    except UnknownZone as error:
        raise CommandError(f"--zone: {error}") from error
    plan = StatsPlan(
        events=events,
        store=_store_kind(store, url),
        url=url,
        days=days,
        event_types=event_types,
        waiting=unfolded,
        zone=zone,
        runs=runs,
        id_version=id_version(ids),
        properties=properties,
        folder=folder,
        keep=keep,
    )
    document = summary(plan, _verified(lambda: measure_stats(plan, say)))
    chosen = choose_format(form, json)
    if chosen is Format.JSON:
        print_document(document)
    elif chosen is Format.TABLE:
        _print_stats(document)
    else:
        print_rows(flat_rows(document), chosen)


@app.command("mixed")
def bench_mixed(
    events: _Events = 1_000_000,
    store: _Store = "sqlite",
    url: Annotated[
        str | None,
        typer.Option("--url", metavar="URL", help="A PostgreSQL server on which databases may be made and deleted."),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", metavar="N", min=1, max=2_000, help="Events in a request.")] = 1_000,
    clients: Annotated[int, typer.Option("--clients", metavar="N", min=1, max=500, help="Connections.")] = 8,
    rate: Annotated[float, typer.Option("--rate", metavar="N", min=0.1, max=1_000, help="Questions a second.")] = 10.0,
    ids: _Ids = "v4",
    runs: Annotated[int, typer.Option("--runs", metavar="N", min=1, help="Pairs of runs.")] = 3,
    folder: _Folder = Path(),
    form: AnswerFormat = Format.TABLE,
    json: Json = False,
) -> None:
    """Statistics while events stream in at full speed, and what ingestion loses to them; every answer is checked."""
    from entrypoints.bench_mixed import MixedPlan, measure_mixed, mixed_summary

    plan = MixedPlan(
        events=events,
        store=_store_kind(store, url),
        url=url,
        batch=batch,
        clients=clients,
        rate=rate,
        id_version=id_version(ids),
        runs=runs,
        folder=folder,
    )
    document = mixed_summary(plan, _verified(lambda: measure_mixed(plan, say)))
    chosen = choose_format(form, json)
    if chosen is Format.JSON:
        print_document(document)
    elif chosen is Format.TABLE:
        _print_mixed(document)
    else:
        plain = [{name: value for name, value in run.items() if name != "p95_ms_of"} for run in document["runs"]]
        print_rows(plain, chosen)


def _measure(
    plan: "Plan", measure: "Callable[[Plan], list[Run]]", form: Format, more: dict[str, Any] | None = None
) -> None:
    from entrypoints.bench import summary

    say(f"{plan.events:,} events with {plan.runs} run(s), verified each; this takes a while")
    runs = _verified(lambda: measure(plan))
    document = summary(plan, runs) | (more or {})
    if form is Format.JSON:
        print_document(document)
    elif form is Format.TABLE:
        _print(document)
    else:
        print_rows(document["runs"], form)


def _verified(measure: "Callable[[], _Result]") -> "_Result":
    """What is measured, or why there is no figure."""
    from entrypoints.bench_processes import NotVerified
    from entrypoints.bench_stores import NoServer, Unfit

    try:
        return measure()
    except NotVerified as error:
        raise CommandError(f"not verified, so no figure: {error}", code=Exit.FAILURE) from error
    except (NoServer, Unfit) as error:
        raise CommandError(str(error)) from error
    except ValueError as error:  # a plan that cannot be carried out
        name, colon, reason = str(error).partition(":")
        raise CommandError(f"--{name.replace('_', '-')}{colon}{reason}") from error


def _store_kind(store: str, url: str | None) -> "StoreKind":
    if store not in ("sqlite", "postgresql"):
        raise CommandError("--store is sqlite or postgresql")
    if url is not None and (store == "sqlite" or not url.startswith(("postgresql:", "postgres:"))):
        raise CommandError("--url is postgresql://…, and goes with --store postgresql")
    return "sqlite" if store == "sqlite" else "postgresql"


def _print(document: dict[str, Any]) -> None:
    names = [name for name, value in document["runs"][0].items() if value is not None]
    rows = [[str(number), *(f"{run[name]:,}" for name in names)] for number, run in enumerate(document["runs"], 1)]
    print_table(("run", *(name.replace("_", " ") for name in names)), rows)
    low, high = document["min_events_per_second"], document["max_events_per_second"]
    print(f"verified; median {document['median_events_per_second']:,.0f} events/s, from {low:,} to {high:,}")
    if "ceiling_events_per_second" in document:
        print(f"the load generator alone reaches {document['ceiling_events_per_second']:,} events/s")


def _print_stats(document: dict[str, Any]) -> None:
    ways = ("http_cold", "http_warm", "http_in_turn", "direct", "sql", "duckdb")
    headers = ("question", *(way.replace("_", " ") for way in ways), "sql ratio", "duckdb ratio", "equal")
    rows = [
        [
            question["question"],
            *(_milliseconds(question[way]) for way in ways),
            *(_times(question[f"{way}_ratio"]) for way in ("sql", "duckdb")),
            "yes",
        ]
        for question in document["questions"]
    ]
    print_table(headers, rows)
    print(
        "milliseconds: median (95th percentile); ratios: to http warm; equal: all answers, compared to the last digit"
    )
    rate = document["import_events_per_second"]
    print(
        f"{document['events']:,} events, {document['days']} days, {document['event_types']:,} types, "
        f"{document['waiting_events']:,} events not folded in {document['waiting_rows']:,} rows; the projection takes "
        f"{document['projection_bytes_per_event']} bytes an event"
        + ("" if rate is None else f"; imported at {rate:,} events/s")
    )
    load = ", ".join(f"{name} {load}" for name, load in document["load"].items())
    print(f"{', '.join(document['technologies'])}; {document['cores']} cores; load at {load}")


def _milliseconds(timing: dict[str, Any] | None) -> str:
    if timing is None:
        return "–"
    digits = 2 if timing["median_ms"] < 10 else 1 if timing["median_ms"] < 100 else 0
    return f"{timing['median_ms']:,.{digits}f} ({timing['p95_ms']:,.{digits}f})"


def _times(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:,.0f} ×" if ratio >= 10 else f"{ratio:,.1f} ×"


def _print_mixed(document: dict[str, Any]) -> None:
    names = [name for name in document["runs"][0] if name != "p95_ms_of"]
    rows = [[str(number), *(f"{run[name]:,}" for name in names)] for number, run in enumerate(document["runs"], 1)]
    print_table(("pair", *(name.replace("_", " ") for name in names)), rows)
    print(
        f"every answer checked; median {document['median_alone_events_per_second']:,.0f} events/s alone and "
        f"{document['median_asked_events_per_second']:,.0f} beside {document['questions_per_second']:g} questions a "
        f"second: {document['median_lost'] * 100:.1f} % lost; p95 of the answers {document['median_p95_ms']} ms"
    )
    for name in document["runs"][0]["p95_ms_of"]:
        found = [f"{run['p95_ms_of'].get(name, 0):,}" for run in document["runs"]]
        print(f"  {name}: p95 {', '.join(found)} ms")
