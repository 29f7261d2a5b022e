"""``eventcore stats``: questions about the events, straight to the store or to a running server.

Parameters are read by the core, so a command and an HTTP request accept and refuse the same. Not here: what a
statistic means, and how tables are drawn (`output`).
"""

import sys
from collections.abc import Callable
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from entrypoints.cli.options import AnswerFormat, Json, Project, ServerUrl, StoreUrl, choose_format
from entrypoints.cli.output import Format, number, percentage, print_document, print_rows, print_table, printable
from entrypoints.cli.session import read_settings, wait_for
from entrypoints.rows import flat_rows

if TYPE_CHECKING:
    from entrypoints.settings import Settings
    from eventcore.service import Eventcore

DEFAULT_DAYS: Final = 30
"""The range of dates when none is asked for: this many, ending today."""

_MOST_NAMED: Final = 20  # projects

app = typer.Typer(help="Active users, top events, retention, and the books of ingestion.")

_From = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="DATE", help="First local date.", show_default=f"{DEFAULT_DAYS - 1} days before --to"
    ),
]
_To = Annotated[
    str | None, typer.Option("--to", metavar="DATE", help="Last local date, included.", show_default="today")
]
_Zone = Annotated[
    str | None,
    typer.Option("--tz", metavar="ZONE", help="Time zone, e.g. Europe/Kyiv.", show_default="the reporting zone"),
]
_Segments = Annotated[
    list[str] | None,
    typer.Option(
        "--segment",
        metavar="FIELD:VALUE",
        help="Only events with FIELD:VALUE, FIELD!=VALUE, 'FIELD in VALUE,VALUE' or 'FIELD exists'; FIELD is "
        "event_type or properties.NAME. Repeatable; all hold on the same event.",
    ),
]
_Breakdown = Annotated[
    str | None,
    typer.Option("--breakdown", metavar="FIELD", help="The same for each value of event_type or properties.NAME."),
]
_Groups = Annotated[str, typer.Option("--groups", metavar="N", help="How many values of a breakdown.")]
_WeekStart = Annotated[
    str, typer.Option("--week-start", metavar="monday|sunday|saturday", help="The day a week begins with.")
]


@app.command("dau")
def daily_active_users(
    from_: _From = None,
    to: _To = None,
    tz: _Zone = None,
    segment: _Segments = None,
    breakdown: _Breakdown = None,
    groups: _Groups = "10",
    project: Project = "default",
    url: ServerUrl = None,
    store_url: StoreUrl = None,
    form: AnswerFormat = Format.TABLE,
    json: Json = False,
) -> None:
    """Distinct users of each local date."""
    settings = read_settings(store_url=store_url)
    first, last = _range(from_, to, tz or settings.reporting_zone)
    asked = {"from": first, "to": last} | _common(tz, segment, breakdown, groups, project)
    _answer("dau", asked, url, settings, choose_format(form, json))


@app.command("active-users")
def active_users(
    from_: _From = None,
    to: _To = None,
    window: Annotated[str, typer.Option("--window", metavar="1d|7d|30d", help="How many dates.")] = "7d",
    tz: _Zone = None,
    segment: _Segments = None,
    breakdown: _Breakdown = None,
    groups: _Groups = "10",
    project: Project = "default",
    url: ServerUrl = None,
    store_url: StoreUrl = None,
    form: AnswerFormat = Format.TABLE,
    json: Json = False,
) -> None:
    """Distinct users of the 7 or 30 local dates that end with each date."""
    settings = read_settings(store_url=store_url)
    first, last = _range(from_, to, tz or settings.reporting_zone)
    asked = {"from": first, "to": last, "window": window} | _common(tz, segment, breakdown, groups, project)
    _answer("active-users", asked, url, settings, choose_format(form, json))


@app.command("stickiness")
def stickiness(
    from_: _From = None,
    to: _To = None,
    tz: _Zone = None,
    segment: _Segments = None,
    breakdown: _Breakdown = None,
    groups: _Groups = "10",
    project: Project = "default",
    url: ServerUrl = None,
    store_url: StoreUrl = None,
    form: AnswerFormat = Format.TABLE,
    json: Json = False,
) -> None:
    """Daily active users, those of 30 dates, and the one divided by the other."""
    settings = read_settings(store_url=store_url)
    first, last = _range(from_, to, tz or settings.reporting_zone)
    asked = {"from": first, "to": last} | _common(tz, segment, breakdown, groups, project)
    _answer("stickiness", asked, url, settings, choose_format(form, json))


@app.command("lifecycle")
def lifecycle(
    from_: _From = None,
    to: _To = None,
    interval: Annotated[str, typer.Option("--interval", metavar="day|week|month", help="The kind of period.")] = "day",
    week_start: _WeekStart = "monday",
    tz: _Zone = None,
    segment: _Segments = None,
    breakdown: _Breakdown = None,
    groups: _Groups = "10",
    project: Project = "default",
    url: ServerUrl = None,
    store_url: StoreUrl = None,
    form: AnswerFormat = Format.TABLE,
    json: Json = False,
) -> None:
    """New, returning, resurrected and dormant users of each day, week or month."""
    settings = read_settings(store_url=store_url)
    first, last = _range(from_, to, tz or settings.reporting_zone)
    asked = {"from": first, "to": last, "interval": interval, "week_start": week_start} | _common(
        tz, segment, breakdown, groups, project
    )
    _answer("lifecycle", asked, url, settings, choose_format(form, json))


@app.command("event-counts")
def event_counts(
    from_: _From = None,
    to: _To = None,
    interval: Annotated[
        str, typer.Option("--interval", metavar="hour|day|week|month", help="The kind of period.")
    ] = "day",
    week_start: _WeekStart = "monday",
    tz: _Zone = None,
    segment: _Segments = None,
    breakdown: _Breakdown = None,
    groups: _Groups = "10",
    project: Project = "default",
    url: ServerUrl = None,
    store_url: StoreUrl = None,
    form: AnswerFormat = Format.TABLE,
    json: Json = False,
) -> None:
    """Events and their users in each hour, day, week or month."""
    settings = read_settings(store_url=store_url)
    first, last = _range(from_, to, tz or settings.reporting_zone)
    asked = {"from": first, "to": last, "interval": interval, "week_start": week_start} | _common(
        tz, segment, breakdown, groups, project
    )
    _answer("event-counts", asked, url, settings, choose_format(form, json))


@app.command("top-events")
def top_events(
    from_: _From = None,
    to: _To = None,
    limit: Annotated[str, typer.Option("--limit", metavar="N", help="Rows at most.")] = "10",
    by: Annotated[str, typer.Option("--by", metavar="events|users", help="The number that ranks them.")] = "events",
    tz: _Zone = None,
    segment: _Segments = None,
    breakdown: _Breakdown = None,
    groups: _Groups = "10",
    project: Project = "default",
    url: ServerUrl = None,
    store_url: StoreUrl = None,
    form: AnswerFormat = Format.TABLE,
    json: Json = False,
) -> None:
    """The most frequent types of event, or those with the most users, with their share."""
    settings = read_settings(store_url=store_url)
    first, last = _range(from_, to, tz or settings.reporting_zone)
    asked = {"from": first, "to": last, "limit": limit, "by": by} | _common(tz, segment, breakdown, groups, project)
    _answer("top-events", asked, url, settings, choose_format(form, json))


@app.command("retention")
def retention(
    start_date: Annotated[
        str | None,
        typer.Option(
            "--start-date",
            metavar="DATE",
            help="A date in the first cohort's period.",
            show_default="so that the last cohort is today's",
        ),
    ] = None,
    windows: Annotated[
        str | None,
        typer.Option(
            "--windows",
            metavar="N",
            help="Windows after the cohort's own.",
            show_default="3, or the last of --brackets",
        ),
    ] = None,
    window: Annotated[str, typer.Option("--window", metavar="day|week|month", help="The kind of window.")] = "day",
    cohorts: Annotated[
        str | None, typer.Option("--cohorts", metavar="N", help="How many cohorts.", show_default="windows + 1")
    ] = None,
    cohort: Annotated[
        str,
        typer.Option("--cohort", metavar="first_ever|first_in_range|recurring", help="Which cohort a user belongs to."),
    ] = "first_ever",
    return_: Annotated[
        str, typer.Option("--return", metavar="on|on_or_after", help="When a user counts as having come back.")
    ] = "on",
    cohort_event: Annotated[
        str | None, typer.Option("--cohort-event", metavar="TYPE", help="Makes a user member.", show_default="any")
    ] = None,
    return_event: Annotated[
        str | None, typer.Option("--return-event", metavar="TYPE", help="Counts as return.", show_default="any")
    ] = None,
    brackets: Annotated[
        str | None,
        typer.Option("--brackets", metavar="0,N,…", help="Runs of windows, by their first ones.", show_default="none"),
    ] = None,
    week_start: _WeekStart = "monday",
    tz: _Zone = None,
    segment: _Segments = None,
    breakdown: _Breakdown = None,
    groups: _Groups = "10",
    project: Project = "default",
    url: ServerUrl = None,
    store_url: StoreUrl = None,
    form: AnswerFormat = Format.TABLE,
    json: Json = False,
) -> None:
    """The cohort matrix: who came back in which window."""
    settings = read_settings(store_url=store_url)
    asked = {
        "start_date": start_date,
        "windows": windows,
        "window": window,
        "cohorts": cohorts,
        "cohort": cohort,
        "return": return_,
        "cohort_event": cohort_event,
        "return_event": return_event,
        "brackets": brackets,
        "week_start": week_start,
        **_common(tz, segment, breakdown, groups, project),
    }
    if start_date is None:
        asked["start_date"] = _first_cohort(asked, tz or settings.reporting_zone)
    _answer("retention", asked, url, settings, choose_format(form, json))


@app.command("ingestion")
def ingestion(
    from_: _From = None,
    to: _To = None,
    project: Project = "default",
    url: ServerUrl = None,
    store_url: StoreUrl = None,
    form: AnswerFormat = Format.TABLE,
    json: Json = False,
) -> None:
    """The books: what was received on each UTC date, and what became of it."""
    settings = read_settings(store_url=store_url)
    first, last = _range(from_, to, "UTC")
    asked = {"from": first, "to": last, "project": project}
    _answer("ingestion", asked, url, settings, choose_format(form, json))


def _common(
    tz: str | None, segment: list[str] | None, breakdown: str | None, groups: str, project: str
) -> dict[str, Any]:
    """The parameters that every statistic has."""
    return {"tz": tz, "segment": segment or [], "breakdown": breakdown, "groups": groups, "project": project}


def _range(from_: str | None, to: str | None, zone: str) -> tuple[str, str]:
    """The dates to ask for: what was given as it is, what was not from today's local date."""
    from eventcore.answers import parse_day

    last = _today(zone).isoformat() if to is None else to
    if from_ is None:
        from_ = (parse_day("to", last) - timedelta(days=DEFAULT_DAYS - 1)).isoformat()
    return from_, last


def _today(zone: str) -> date:
    from eventcore.answers import parse_zone

    return datetime.now(parse_zone(zone, zone)).date()


def _first_cohort(asked: dict[str, Any], zone: str) -> str:
    """The start of as many cohorts as are asked for, the last one being that of today."""
    from eventcore.calendar import add_periods
    from eventcore.retention import Retention

    given = {name: asked[name] for name in ("windows", "window", "cohorts", "week_start", "brackets")}
    question = Retention.parse(start_date=_today(zone), **given)  # also refuses what has no answer
    return add_periods(question.first, question.window, 1 - question.cohorts).isoformat()


def _answer(name: str, asked: dict[str, Any], url: str | None, settings: "Settings", form: Format) -> None:
    if url is None:
        document = wait_for(_ask_store(name, asked, settings))
    else:
        from entrypoints.cli.client import ask_server

        document = ask_server(url, f"/stats/{name}", asked)
    if url is None:
        _print(name, document, form)
        return
    try:
        _print(name, document, form)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        from entrypoints.cli.client import not_ours

        raise not_ours() from error


def _print(name: str, document: dict[str, Any], form: Format) -> None:
    if form is Format.JSON:
        print_document(document)
    elif form is Format.TABLE:
        _print_tables(name, document["data"])
    else:
        columns, rows = flat_rows(name, document["data"])
        print_rows(rows, form, names=columns)


def _print_tables(name: str, data: Any) -> None:
    if not isinstance(data, dict) or "all" not in data:
        _TABLES[name](data)
        return
    parts = [("all events", data["all"])]
    parts += [
        (group["group"] if group["kind"] == "value" else f"({group['kind']})", group["data"])
        for group in data["groups"]
    ]
    for place, (title, part) in enumerate(parts):
        sys.stdout.write("\n" * (place > 0) + printable(title) + "\n")
        _TABLES[name](part)


async def _ask_store(name: str, asked: dict[str, Any], settings: "Settings") -> dict[str, Any]:
    from entrypoints.books import books_document
    from entrypoints.cli.maintenance import require_store
    from entrypoints.container import open_eventcore
    from eventcore.answers import answer_json
    from eventcore.statistics import parse_question

    values = {{"from": "from_", "return": "return_"}.get(key, key): value for key, value in asked.items()}
    project = values.pop("project")
    await require_store(settings)  # in the wrong folder, zeros would look like an answer
    if name == "ingestion":
        async with open_eventcore(settings) as core:
            document = await books_document(core, project=project, **values)
            await _note_unknown_project(core, project)
            return document
    question = parse_question(name, reporting_zone=settings.reporting_zone, **values)
    async with open_eventcore(settings) as core:
        answered = await core.ask(question, project=project)
        await _note_unknown_project(core, project)
        return answer_json(answered)


async def _note_unknown_project(core: "Eventcore", project: str) -> None:
    """Say so if the store has nothing of a project: a typo in its name must not look like a quiet month."""
    # Every event that ever came is in the books, which are short; what a store describes has to be counted first.
    if await core.store.books(project, date.min.isoformat(), date.max.isoformat()):
        return
    known = sorted((await core.store.describe()).counts)
    if project not in known:
        from entrypoints.cli.exits import say

        names = ", ".join(known[:_MOST_NAMED]) + (
            f" and {len(known) - _MOST_NAMED:,} more" * (len(known) > _MOST_NAMED)
        )
        say(f"the store has no project {project}; " + (f"known are {names}" if known else "it has none yet"))


def _print_users(data: list[dict[str, Any]]) -> None:
    print_table(("date", "users"), [(row["date"], number(row["users"])) for row in data])


def _print_stickiness(data: list[dict[str, Any]]) -> None:
    rows = [(row["date"], number(row["dau"]), number(row["mau"]), percentage(row["stickiness"])) for row in data]
    print_table(("date", "dau", "mau", "stickiness"), rows)


def _print_lifecycle(data: list[dict[str, Any]]) -> None:
    """A star marks a period that is not over yet."""
    names = ("new", "returning", "resurrected", "dormant")
    rows = [
        (
            row["start"] + ("" if row["complete"] else "*"),
            *("–" if row[name] is None else number(row[name]) for name in names),
        )
        for row in data
    ]
    print_table(("start", *names), rows)
    if not all(row["complete"] for row in data):
        from entrypoints.cli.exits import say

        say("* the period is not over yet")


def _print_event_counts(data: list[dict[str, Any]]) -> None:
    rows = [(row["start"], number(row["count"]), number(row["users"])) for row in data]
    print_table(("start", "count", "users"), rows)


def _print_top_events(data: list[dict[str, Any]]) -> None:
    rows = [(row["event_type"], number(row["count"]), number(row["users"]), percentage(row["share"])) for row in data]
    print_table(("event type", "count", "users", "share"), rows)


def _print_retention(data: dict[str, Any]) -> None:
    """The grid; a star marks a window that is not over yet, a blank one that has not begun."""
    overall = data["overall"]
    rows = [
        [cohort["start"], number(cohort["size"]), *(_cell(cell) for cell in cohort["cells"])]
        for cohort in data["cohorts"]
    ]
    rows.append(["overall", number(sum(c["size"] for c in data["cohorts"])), *(percentage(c["rate"]) for c in overall)])
    print_table(("cohort", "users", *(_window(cell) for cell in overall)), rows)
    if any(cell is not None and not cell["complete"] for cohort in data["cohorts"] for cell in cohort["cells"]):
        from entrypoints.cli.exits import say

        say("* the window is not over yet; overall leaves it out")


def _window(cell: dict[str, Any]) -> str:
    """What a column is called: a window, or a bracket from its first window to its last."""
    first, last = cell["window"], cell.get("to", cell["window"])
    return str(first) if first == last else f"{first}–{last}"


def _cell(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return ""
    return percentage(cell["rate"]) + ("" if cell["complete"] else "*")


def _print_books(data: list[dict[str, Any]]) -> None:
    names = [name for name in data[0] if name != "date"]
    rows = [(row["date"], *(number(row[name]) for name in names)) for row in data]
    print_table(("date", *(name.replace("_", " ") for name in names)), rows)


_TABLES: Final[dict[str, Callable[[Any], None]]] = {
    "dau": _print_users,
    "active-users": _print_users,
    "stickiness": _print_stickiness,
    "lifecycle": _print_lifecycle,
    "event-counts": _print_event_counts,
    "top-events": _print_top_events,
    "retention": _print_retention,
    "ingestion": _print_books,
}
