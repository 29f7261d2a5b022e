"""``eventcore``: all commands, and how each of them ends.

Commands import what they need when they run, so that the first word comes fast. Not here: what a command does, and
Ctrl-C where the command says nothing of it (`start`).
"""

import os
import sys
from typing import Annotated

import typer

from entrypoints.cli import (
    benching,
    dead,
    dimensions,
    doctor,
    importing,
    keys,
    maintenance,
    rebuilding,
    sampling,
    serving,
    stats,
    working,
)
from entrypoints.cli.exits import CommandError, Exit, exit_of, say
from eventcore.errors import EventcoreError

DISTRIBUTION = "eventcore-analytics"

app = typer.Typer(
    name="eventcore",
    help="Event analytics that you own: every event kept exactly once, every answer exact.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
import_app = typer.Typer(name="import_events", pretty_exceptions_enable=False, add_completion=False)

app.command("serve")(serving.serve_command)
app.command("worker")(working.worker_command)
app.command("import", help=importing.HELP)(importing.import_command)
app.add_typer(stats.app, name="stats")
app.add_typer(dead.app, name="dead")
app.add_typer(keys.app, name="keys")
app.add_typer(benching.app, name="bench")
app.command("sample")(sampling.sample_command)
app.command("doctor")(doctor.doctor_command)
app.command("verify")(maintenance.verify_command)
app.add_typer(dimensions.app, name="dimensions")
app.command("rebuild", help=rebuilding.HELP)(rebuilding.rebuild_command)
app.command("migrate")(maintenance.migrate_command)
app.command("epoch")(maintenance.epoch_command)
import_app.command(help=importing.HELP)(importing.import_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"eventcore {version(DISTRIBUTION)}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


def run(commands: typer.Typer, arguments: list[str]) -> int:
    """Run a command line.

    Returns:
        The exit code. Whatever went wrong is said in one line on stderr.

    Raises:
        KeyboardInterrupt: Ctrl-C ended it, and the command had nothing to say about that.
    """
    name = commands.info.name
    try:
        code = commands(arguments, prog_name=name, standalone_mode=False)
        sys.stdout.flush()
    except typer.exceptions.TyperException as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else name
        say(f"{path}: {error.format_message()} Try {path} --help")
        return Exit.USAGE
    except CommandError as error:
        say(f"{name}: {error}")
        return error.code
    except EventcoreError as error:
        say(f"{name}: {error.message}")
        return exit_of(error)
    except OSError as error:
        # What Python would still flush at exit must not complain once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # whoever read the answer has gone
            return Exit.WELL
        say(f"{name}: the answer cannot be written: {(error.strerror or 'it failed').lower()}")
        return Exit.FAILURE
    if code == Exit.INTERRUPTED:  # Typer's answer to a Ctrl-C of which nobody below has said anything
        raise KeyboardInterrupt
    return code if isinstance(code, int) else Exit.WELL
