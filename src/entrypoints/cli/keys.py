"""``eventcore keys``: give, see, end and change API keys, straight on the store.

Whoever reaches the store may do everything, so nobody is asked for a key here. Not here: what a key is
(`eventcore.keys`), and how admins do the same over HTTP (`entrypoints.http.keys`).
"""

from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from entrypoints.cli.exits import say
from entrypoints.cli.options import AnswerFormat, Json, Project, StoreUrl, choose_format
from entrypoints.cli.output import Format, print_document, print_rows, print_table
from entrypoints.cli.session import read_settings, wait_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from entrypoints.keys import ShownKey
    from entrypoints.settings import Settings
    from eventcore.keys import ApiKey
    from eventcore.service import Eventcore

app = typer.Typer(
    help="API keys: each for one project, with scopes ingest, read and admin; shown once, kept as a hash."
)

_ONCE: Final = "Keep it well: it is not shown again. Servers that run know it within five seconds."
_KeyId = Annotated[str, typer.Argument(metavar="ID", help="As the list shows it.", show_default=False)]


@app.command("create")
def create_command(
    scope: Annotated[
        list[str],
        typer.Option("--scope", metavar="SCOPE,…", help="What it may do: ingest, read, admin.", show_default=False),
    ],
    project: Project = "default",
    expires: Annotated[
        int | None, typer.Option("--expires", metavar="DAYS", help="For how long.", show_default="for ever")
    ] = None,
    origin: Annotated[
        list[str] | None,
        typer.Option("--origin", metavar="URL", help="A web page that may use it; repeatable.", show_default="any"),
    ] = None,
    label: Annotated[str, typer.Option("--label", metavar="TEXT", help="What it is for.", show_default=False)] = "",
    store_url: StoreUrl = None,
    form: AnswerFormat = Format.TABLE,
    json: Json = False,
) -> None:
    """Make a key and show it, this once."""
    from eventcore.keys import parse_label, parse_origins, parse_scopes
    from eventcore.service import check_project

    check_project(project)
    scopes = parse_scopes(name for part in scope for name in part.split(","))
    origins, label = parse_origins(origin or ()), parse_label(label)
    settings = read_settings(store_url=store_url)

    async def create(core: "Eventcore") -> dict[str, Any]:
        from entrypoints.keys import fresh_random, new_key_document
        from eventcore import access
        from eventcore.keys import parse_days

        now_us = core.now_us()
        text, key = await access.create(
            core.store,
            fresh_random(),
            project=project,
            scopes=scopes,
            now_us=now_us,
            label=label,
            origins=origins,
            expires_us=None if expires is None else parse_days(expires, now_us),
        )
        return new_key_document(text, key, now_us)

    _print_new(wait_for(_with_store(settings, create, must_be_there=False)), choose_format(form, json))


@app.command("list")
def list_command(
    project: Annotated[
        str | None, typer.Option("--project", metavar="NAME", help="Only its keys.", show_default="all of them")
    ] = None,
    store_url: StoreUrl = None,
    form: AnswerFormat = Format.TABLE,
    json: Json = False,
) -> None:
    """All keys, those that have ended included; never their secrets."""
    from eventcore.service import check_project

    if project is not None:
        check_project(project)
    settings = read_settings(store_url=store_url)

    async def read(core: "Eventcore") -> "list[ShownKey]":
        from entrypoints.keys import show_key

        now_us = core.now_us()
        return [show_key(key, now_us) for key in await core.store.keys() if project in (None, key.project)]

    _print_list(wait_for(_with_store(settings, read)), choose_format(form, json))


@app.command("revoke")
def revoke_command(
    key_id: _KeyId,
    store_url: StoreUrl = None,
    form: AnswerFormat = Format.TABLE,
    json: Json = False,
) -> None:
    """End a key, for ever; servers that run refuse it within five seconds."""
    from eventcore.keys import parse_key_id

    key_id = parse_key_id(key_id)
    settings = read_settings(store_url=store_url)

    async def revoke(core: "Eventcore") -> "ShownKey":
        from entrypoints.keys import show_key
        from eventcore import access

        now_us = core.now_us()
        return show_key(await access.revoke(core.store, await access.find(core.store, key_id), now_us=now_us), now_us)

    ended = wait_for(_with_store(settings, revoke))
    form = choose_format(form, json)
    if form is Format.TABLE:
        print(f"{ended.prefix} is revoked")
    elif form is Format.JSON:
        print_document(ended)
    else:
        _print_list([ended], form)


@app.command("rotate")
def rotate_command(
    key_id: _KeyId,
    grace: Annotated[int, typer.Option("--grace", metavar="SECONDS", help="How long the old one stays good.")] = 0,
    store_url: StoreUrl = None,
    form: AnswerFormat = Format.TABLE,
    json: Json = False,
) -> None:
    """Make a key with the settings of another, which ends now or after some time."""
    from eventcore.keys import parse_key_id

    key_id = parse_key_id(key_id)
    settings = read_settings(store_url=store_url)

    async def rotate(core: "Eventcore") -> dict[str, Any]:
        from entrypoints.keys import fresh_random, new_key_document
        from eventcore import access
        from eventcore.keys import parse_grace

        now_us = core.now_us()
        ends_us = parse_grace(grace, now_us)
        old: ApiKey = await access.find(core.store, key_id)
        text, key = await access.rotate(core.store, old, fresh_random(), now_us=now_us, ends_us=ends_us)
        return new_key_document(text, key, now_us)

    _print_new(wait_for(_with_store(settings, rotate)), choose_format(form, json))


async def _with_store(settings: "Settings", work: Any, *, must_be_there: bool = True) -> Any:
    """Do something with the store alone: the queue and the cache may be away, and have nothing to do with keys."""
    from entrypoints.cli.maintenance import require_store
    from entrypoints.container import open_eventcore

    if must_be_there:
        await require_store(settings)
    direct = settings.model_copy(update={"queue_url": "inline://", "dedup_url": "memory://"})
    async with open_eventcore(direct) as core:
        return await work(core)


def _print_new(document: dict[str, Any], form: Format) -> None:
    if form is Format.JSON:
        print_document(document)
    elif form is Format.TABLE:
        print(document["key"])
        say(_ONCE)
    else:
        print_rows([_flat(document)], form)


def _print_list(keys: "Sequence[ShownKey]", form: Format) -> None:
    from msgspec.structs import asdict

    from entrypoints.keys import ShownKey

    if form is Format.JSON:
        print_document({"data": keys})
    elif form is not Format.TABLE:
        print_rows([_flat(asdict(key)) for key in keys], form, names=ShownKey.__struct_fields__)
    elif not keys:
        print("there are no keys")
    else:
        headers = (
            "id",
            "project",
            "scopes",
            "status",
            "label",
            "origins",
            "created",
            "expires",
            "revoked",
            "last used",
        )
        rows = [
            (
                key.key_id, key.project, ",".join(key.scopes), key.status, key.label, " ".join(key.origins),
                *(_second(at) for at in (key.created_at, key.expires_at, key.revoked_at, key.last_used_at)),
            )
            for key in keys
        ]  # fmt: skip
        print_table(headers, rows, left=len(headers))


def _flat(document: dict[str, Any]) -> dict[str, Any]:
    return document | {"scopes": ",".join(document["scopes"]), "origins": " ".join(document["origins"])}


def _second(instant: str | None) -> str:
    return "–" if instant is None else instant[:19] + "Z"
