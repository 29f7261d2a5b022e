"""``eventcore dead``: accepted events that the store refused; look at them, store them after all, drop them.

Straight on the store or through a running server, with the same parameters and the same answers. Not here: how one is
shown (`entrypoints.dead`), and what happens to it (`eventcore.dead_letters`).
"""

import sys
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import typer

from entrypoints.cli.exits import CommandError, Exit, say
from entrypoints.cli.options import AnswerFormat, Json, Project, ServerUrl, StoreUrl, choose_format
from entrypoints.cli.output import Format, number, print_document, print_rows, print_table, printable
from entrypoints.cli.session import read_settings, wait_for

if TYPE_CHECKING:
    import msgspec

    from entrypoints.dead import DeadDocument, ShownLetter
    from entrypoints.settings import Settings
    from eventcore.dead_letters import Chosen, Dropped, Replayed

_LONG_SECONDS: Final = 3_600.0
"""How long a server may take to replay or drop: 100,000 letters take seconds, and minutes if all are refused again."""

REPLAY_HELP: Final = (
    "Store dead letters after all, when the cause is mended.\n\n"
    "What the store still refuses stays a dead letter, and the others are stored. Stopping it does no harm: what is "
    "stored by then is stored, and the same command goes on.\n\n"
    "Exit codes: 0 all are stored; 3 some were refused again, or have no dead letter."
)
DROP_HELP: Final = (
    "Delete dead letters for ever; the books keep counting them as dead.\n\n"
    "Their events may be sent again, mended or not, and must not be taken for duplicates of what is gone. So dropping "
    "begins a new epoch of the store: every cache forgets what it knew to be stored. That costs a little speed for a "
    "while and nothing else, as the store itself knows every stored event.\n\n"
    "Exit codes: 0 all are gone; 3 some have no dead letter; 1 you were asked and said no."
)

app = typer.Typer(help="Dead letters: accepted events that the store refused, each kept whole with the reason.")

_Answer = TypeVar("_Answer")
_EventId = Annotated[str, typer.Argument(metavar="EVENT_ID", help="As the list shows it.", show_default=False)]
_EventIds = Annotated[
    list[str] | None, typer.Argument(metavar="EVENT_ID", help="As the list shows them.", show_default=False)
]
_All = Annotated[bool, typer.Option("--all", help="All of the project, instead of those named.")]
_Limit = Annotated[str, typer.Option("--limit", metavar="N", help="Letters at most.")]
_After = Annotated[
    str, typer.Option("--after", metavar="NAME", help="Go on behind this one; the list says it.", show_default=False)
]


@app.command("list")
def list_command(
    limit: _Limit = "100",
    after: _After = "",
    project: Project = "default",
    url: ServerUrl = None,
    store_url: StoreUrl = None,
    form: AnswerFormat = Format.TABLE,
    json: Json = False,
) -> None:
    """The dead letters of a project, in the order of their names."""
    form = choose_format(form, json)
    document = _read(None, limit, after, project, url, store_url)
    _print_document(document, form)
    _say_more(document, form)


@app.command("show")
def show_command(
    event_id: _EventId,
    limit: _Limit = "100",
    after: _After = "",
    project: Project = "default",
    url: ServerUrl = None,
    store_url: StoreUrl = None,
    form: AnswerFormat = Format.TABLE,
    json: Json = False,
) -> None:
    """The dead letters of one event, whole: one for each content that it was sent with."""
    from eventcore.dead_letters import parse_dead_id

    parse_dead_id(event_id)
    form = choose_format(form, json)
    document = _read(event_id, limit, after, project, url, store_url)
    if form is Format.TABLE:
        _print_letters(document.data)
    else:
        _print_document(document, form)
    _say_more(document, form)


@app.command("replay", help=REPLAY_HELP)
def replay_command(
    event_ids: _EventIds = None,
    all_: _All = False,
    project: Project = "default",
    url: ServerUrl = None,
    store_url: StoreUrl = None,
    form: AnswerFormat = Format.TABLE,
    json: Json = False,
) -> None:
    """Store dead letters after all."""
    from eventcore.dead_letters import Replayed

    chosen = _chosen(event_ids, all_)
    if url is None:
        settings = read_settings(store_url=store_url)
        done = wait_for(_replay(settings, chosen, project))
    else:
        done = _command_server(url, "/dead-events/replay", project, chosen, Replayed)
    sentence = (
        f"{number(done.stored)} stored, {number(done.duplicates)} duplicates, {number(done.conflicts)} conflicts, "
        f"{number(done.refused)} refused again, {number(done.missing)} missing"
    )
    _print_outcome(done, sentence, choose_format(form, json))
    raise typer.Exit(Exit.PARTLY_DONE if done.refused or done.missing else Exit.WELL)


@app.command("drop", help=DROP_HELP)
def drop_command(
    event_ids: _EventIds = None,
    all_: _All = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; needed where nobody can be asked.")] = False,
    project: Project = "default",
    url: ServerUrl = None,
    store_url: StoreUrl = None,
    form: AnswerFormat = Format.TABLE,
    json: Json = False,
) -> None:
    """Delete dead letters for ever."""
    from eventcore.dead_letters import Dropped

    chosen = _chosen(event_ids, all_)
    if not yes:
        _confirm(chosen, project)
    if url is None:
        settings = read_settings(store_url=store_url)
        done = wait_for(_drop(settings, chosen, project))
    else:
        done = _command_server(url, "/dead-events/drop", project, chosen, Dropped)
    sentence = f"{number(done.dropped)} dropped, {number(done.missing)} missing"
    _print_outcome(done, sentence, choose_format(form, json))
    raise typer.Exit(Exit.PARTLY_DONE if done.missing else Exit.WELL)


def _say_more(document: "DeadDocument", form: Format) -> None:
    if document.meta.next is not None and form is not Format.JSON:
        say(f"there are more: --after {document.meta.next}")


def _chosen(event_ids: list[str] | None, all_: bool) -> "Chosen":
    from eventcore.dead_letters import parse_chosen

    if all_ and event_ids:
        raise CommandError("--all means all; name no events beside it")
    if not all_ and not event_ids:
        raise CommandError("name the events, or say --all")
    chosen: Chosen = event_ids or "all"
    parse_chosen(chosen)  # before anybody is asked whether it is meant
    return chosen


def _confirm(chosen: "Chosen", project: str) -> None:
    if not sys.stdin.isatty():
        raise CommandError("what is dropped is gone for ever, and nobody can be asked here; --yes means it")
    which = "all dead letters" if chosen == "all" else f"the dead letters of {len(list(chosen))} events"
    print(f"Drop {which} of the project {printable(project)} for ever? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise CommandError("nothing is dropped", code=Exit.FAILURE)


# On the store


def _read(
    event_id: str | None, limit: str, after: str, project: str, url: str | None, store_url: str | None
) -> "DeadDocument":
    if url is None:
        return wait_for(_read_store(read_settings(store_url=store_url), event_id, limit, after, project))
    from urllib.parse import quote

    from entrypoints.dead import DeadDocument

    path = "/dead-events" if event_id is None else f"/dead-events/{quote(event_id, safe='')}"
    return _ask_server(url, path, {"limit": limit, "after": after, "project": project}, DeadDocument)


async def _read_store(
    settings: "Settings", event_id: str | None, limit: str, after: str, project: str
) -> "DeadDocument":
    from entrypoints.cli.maintenance import require_store
    from entrypoints.container import open_eventcore
    from entrypoints.dead import dead_document

    await require_store(settings)
    async with open_eventcore(settings) as core:
        document = await dead_document(core, limit=limit, after=after, event_id=event_id, project=project)
    if event_id is not None and not document.data and not after:
        raise CommandError("this project has no dead letter of this id", code=Exit.FAILURE)
    return document


async def _replay(settings: "Settings", chosen: "Chosen", project: str) -> "Replayed":
    from entrypoints.cli.maintenance import require_store
    from entrypoints.container import open_eventcore

    await require_store(settings)
    async with open_eventcore(settings) as core:
        return await core.replay_dead_letters(chosen, project=project)


async def _drop(settings: "Settings", chosen: "Chosen", project: str) -> "Dropped":
    from entrypoints.cli.maintenance import require_store
    from entrypoints.container import open_eventcore

    await require_store(settings)
    async with open_eventcore(settings) as core:
        return await core.drop_dead_letters(chosen, project=project)


# Through a server


def _command_server(url: str, path: str, project: str, chosen: "Chosen", answer: type[_Answer]) -> _Answer:
    body = {"all": True} if chosen == "all" else {"event_ids": list(chosen)}
    return _ask_server(url, path, {"project": project}, answer, body)


def _ask_server(
    url: str, path: str, parameters: dict[str, str], answer: type[_Answer], body: dict[str, Any] | None = None
) -> _Answer:
    """GET an answer of this type from a server, or with a body POST for it.

    Raises:
        CommandError: the URL is none, the server is not reachable or refuses, or its answer is not one of ours.
    """
    import msgspec

    from entrypoints.cli.client import TIMEOUT_SECONDS, not_ours, request_server

    wait_seconds = TIMEOUT_SECONDS if body is None else _LONG_SECONDS
    answered = request_server(url, path, parameters, body=body, wait_seconds=wait_seconds)
    try:
        return msgspec.json.decode(answered, type=answer)
    except (msgspec.DecodeError, RecursionError) as error:
        raise not_ours() from error


# Printing


def _print_document(document: "DeadDocument", form: Format) -> None:
    if form is Format.JSON:
        print_document(document)
    elif form is Format.TABLE:
        _print_list(document.data)
    else:
        from entrypoints.dead import ShownLetter

        rows = [_row(letter, form) for letter in document.data]
        print_rows(rows, form, names=ShownLetter.__struct_fields__)


def _row(letter: "ShownLetter", form: Format) -> dict[str, Any]:
    from msgspec.structs import asdict

    row = asdict(letter)
    if form is Format.CSV:
        row["properties"] = _text(letter.properties)
    return row


def _print_list(letters: "tuple[ShownLetter, ...]") -> None:
    if not letters:
        print("there are no dead letters")
        return
    headers = ("event id", "user", "event type", "occurred at", "reason", "attempts")
    rows = [
        (one.event_id, one.user_id, one.event_type, one.occurred_at, one.reason, number(one.attempts))
        for one in letters
    ]
    print_table(headers, rows, left=len(headers) - 1)


def _print_letters(letters: "tuple[ShownLetter, ...]") -> None:
    from msgspec.structs import asdict

    for place, letter in enumerate(letters):
        if place:
            print()
        values = asdict(letter) | {"properties": _text(letter.properties), "import_id": letter.import_id or "–"}
        rows = [(name.replace("_", " "), str(value)) for name, value in values.items()]
        print_table(("what", "value"), rows, left=2)


def _text(properties: "msgspec.Raw") -> str:
    return bytes(properties).decode()


def _print_outcome(done: "Replayed | Dropped", sentence: str, form: Format) -> None:
    if form is Format.JSON:
        print_document(done)
    elif form is Format.TABLE:
        print(sentence)
    else:
        from msgspec.structs import asdict

        print_rows([asdict(done)], form)
