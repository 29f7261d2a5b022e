"""The options that several commands share, each declared once."""

from typing import Annotated

import typer

from entrypoints.cli.output import Format
from eventcore.library import DEFAULT_STORE_URL

Project = Annotated[str, typer.Option("--project", help="Whose events.", metavar="NAME")]
StoreUrl = Annotated[
    str | None,
    typer.Option(
        "--store-url",
        help="Where events are kept; over EVENTCORE_STORE_URL.",
        metavar="URL",
        show_default=DEFAULT_STORE_URL,
    ),
]
ServerUrl = Annotated[
    str | None,
    typer.Option("--url", metavar="http://…", help="Ask this server instead of the store.", show_default=False),
]
AnswerFormat = Annotated[Format, typer.Option("--format", help="How the answer is printed.")]
Json = Annotated[bool, typer.Option("--json", help="The same as --format json.")]


def choose_format(form: Format, json: bool) -> Format:
    """The format that ``--format`` and ``--json`` mean together."""
    return Format.JSON if json else form
