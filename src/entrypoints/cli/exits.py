"""How a command ends: the one table from kinds of error to exit codes, and one line on stderr that says why.

Not here: what is printed when a command goes well (`output`).
"""

import sys
from collections.abc import Mapping
from enum import IntEnum
from typing import Final

from eventcore.errors import EventcoreError, Kind


class Exit(IntEnum):
    """The exit codes of every command."""

    WELL = 0
    FAILURE = 1
    USAGE = 2
    PARTLY_DONE = 3
    NOT_ALLOWED = 4
    UNREACHABLE = 5
    INTERRUPTED = 130


EXITS: Final[Mapping[Kind, Exit]] = {
    Kind.INVALID: Exit.USAGE,
    Kind.TOO_LARGE: Exit.USAGE,
    Kind.UNSUPPORTED: Exit.USAGE,
    Kind.UNAVAILABLE: Exit.UNREACHABLE,
    Kind.FULL: Exit.FAILURE,
    Kind.TIMEOUT: Exit.UNREACHABLE,
    Kind.DATA: Exit.FAILURE,
    Kind.SCHEMA: Exit.FAILURE,
    Kind.CLOSED: Exit.FAILURE,
}
"""What each kind of error ends a command with; see also `exit_of`."""


class CommandError(Exception):
    """A command cannot go on; the message is one line with the way out.

    Attributes:
        code: what the process ends with.
    """

    def __init__(self, message: str, *, code: Exit = Exit.USAGE) -> None:
        super().__init__(message)
        self.code = code


def from_core(error: EventcoreError) -> CommandError:
    """An error of the core as the end of a command."""
    return CommandError(error.message, code=exit_of(error))


def exit_of(error: EventcoreError) -> Exit:
    """The exit code that an error of the core ends a command with."""
    return Exit.USAGE if error.is_misconfiguration else EXITS[error.kind]


def say(message: str) -> None:
    """Tell the person at the terminal something that is not the answer, on stderr."""
    print(message, file=sys.stderr, flush=True)
