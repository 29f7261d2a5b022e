"""``eventcore import`` and ``import_events``: anybody's CSV into a store.

The options and what they are for; what happens is in `import_run`.
"""

from pathlib import Path
from typing import Annotated, Final

import typer

from entrypoints.cli.options import AnswerFormat, Json, Project, StoreUrl, choose_format
from entrypoints.cli.output import Format

HELP: Final = (
    "Import events from CSV files, plain or gzip; - is standard input.\n\n"
    "The first line names the columns, in any order: event_id, occurred_at, user_id, event_type, and properties_json, "
    "which may be absent or empty. --delimiter says what separates them if it is no comma. Importing the same file "
    "again adds nothing: its rows count as duplicates. An import that was stopped is continued by the same command.\n\n"
    "A bad row is named with its line and costs only itself. Exit codes: 0 all rows are in; 3 some rows were rejected, "
    "or conflict with what is stored; 1 the import failed, or --strict found a bad row; 2 it could not begin.\n\n"
    "Without a column of ids, or with --ignore event_id where it holds no UUIDs, each row gets one made from its "
    "content and from how many equal rows come before it: the same file again adds nothing, and two equal rows of a "
    "file stay two events, unless 200,000 other rows or more lie between them."
)


def import_command(
    paths: Annotated[list[str], typer.Argument(metavar="PATH", help="Files, or - for standard input.")],
    project: Project = "default",
    strict: Annotated[
        bool, typer.Option("--strict", help="Check every row first; one bad row, and nothing is stored.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Store nothing; show the first rows and the counts it would give.")
    ] = False,
    errors: Annotated[
        Path | None,
        typer.Option("--errors", metavar="FILE", help="Keep each row that was not taken, with the reason in front."),
    ] = None,
    map_: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="FIELD=COLUMN,…", help="Columns that have other names: user_id=uid,…"),
    ] = None,
    default: Annotated[
        list[str] | None,
        typer.Option("--default", metavar="FIELD=VALUE", help="For an absent column or an empty cell. Repeatable."),
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option("--ignore", metavar="COLUMN", help="Leave a column out. Repeatable.")
    ] = None,
    properties_from_rest: Annotated[
        bool, typer.Option("--properties-from-rest", help="Make text properties of all other columns.")
    ] = False,
    delimiter: Annotated[
        str, typer.Option("--delimiter", metavar="CHAR", help="What separates fields: one character, or tab.")
    ] = ",",
    time_format: Annotated[
        str | None,
        typer.Option("--time-format", metavar="FORMAT", help="unix, unix_ms, or as strptime: '%d.%m.%Y %H:%M'."),
    ] = None,
    tz: Annotated[
        str | None, typer.Option("--tz", metavar="ZONE", help="Whose local times they are, if they have no offset.")
    ] = None,
    store_url: StoreUrl = None,
    form: AnswerFormat = Format.TABLE,
    json: Json = False,
) -> None:
    """Import events from CSV files."""
    from entrypoints.cli.import_run import column_options, run_import

    exit_code = run_import(
        paths,
        column_options(map_ or [], default or [], ignore or [], properties_from_rest, time_format, tz, delimiter),
        project=project,
        strict=strict,
        dry_run=dry_run,
        errors=errors,
        store_url=store_url,
        form=choose_format(form, json),
    )
    raise typer.Exit(exit_code)
