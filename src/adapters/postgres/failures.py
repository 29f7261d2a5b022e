"""What the driver's and the server's errors mean, in one table by SQLSTATE; the only place that knows their classes.

The kind decides what becomes of events: ``data`` means that these values are at fault, so the worker isolates them;
everything else is the server's state, and sending again is right. What is not in the table counts as the latter: no
event is buried for an error that nobody thought of. Messages never hold SQL, values, paths or passwords; of a refusal
they name the rule, since this is all that is known about why an event died.
"""

import re
from typing import Any

import asyncpg

from adapters.postgres.address import Address
from eventcore.errors import Kind, StoreError
from eventcore.projection import BrokenRow

AGAIN = "conflicting_transactions"
"""The code of errors after which the same transaction may be tried at once."""

_Meaning = tuple[Kind, str, str]

_GONE: _Meaning = (Kind.UNAVAILABLE, "disconnected", "the connection to {where} was lost; send again")
_STARTING: _Meaning = (Kind.UNAVAILABLE, "not_ready", "{where} is starting or stopping; send again")
_DENIED: _Meaning = (
    Kind.UNAVAILABLE,
    "access_denied",
    "{where} refuses this user or password: correct them in the URL, or at the server",
)
_BUSY: _Meaning = (Kind.UNAVAILABLE, "overloaded", "{where} has no resources left for this; send again")
_READ_ONLY: _Meaning = (
    Kind.UNAVAILABLE,
    "read_only",
    "{where} takes no writes: wait for the failover to end, or name the primary in the URL",
)
_SLOW: _Meaning = (Kind.TIMEOUT, "too_slow", "{where} did not finish in time; send again")
_AGAIN: _Meaning = (Kind.UNAVAILABLE, AGAIN, "{where} had to choose between two transactions; send again")
_REFUSED: _Meaning = (Kind.DATA, "refused_data", "the store cannot hold one of these values")
_RULE: _Meaning = (Kind.DATA, "refused_data", "a rule of the database refuses this")
_OTHER_SCHEMA: _Meaning = (
    Kind.SCHEMA,
    "not_a_store",
    "the database at {where} has not the tables of an eventcore store, or others of the same names: give eventcore a "
    "database or a search_path of its own and run `eventcore migrate`",
)
_UNKNOWN: _Meaning = (Kind.UNAVAILABLE, "unavailable", "{where} could not do this; send again, and look at its log")
_UNREACHABLE: _Meaning = (
    Kind.UNAVAILABLE,
    "unreachable",
    "{where} cannot be reached: start it, or correct the URL",
)
_WRONG_URL: _Meaning = (Kind.INVALID, "invalid_url", "the driver cannot use this URL: look at its options and files")

# By SQLSTATE, or by its class, the first two characters.
_MEANINGS: dict[str, _Meaning] = {
    "08": _GONE,
    "0A": _UNKNOWN,
    "22": _REFUSED,
    "23": _RULE,
    "23505": _UNKNOWN,  # every key that callers bring is inserted ON CONFLICT: this is damage, or a bug of ours
    "25006": _READ_ONLY,
    "25P03": _SLOW,
    "25P04": _SLOW,
    "28": _DENIED,
    "3D000": (Kind.UNAVAILABLE, "no_database", "{where} has no database of this name: create it, or correct the URL"),
    "3F000": (Kind.INVALID, "no_schema", "the search_path of the URL names no schema at {where}: create it"),
    "40": _AGAIN,
    "40002": _RULE,
    "42": _OTHER_SCHEMA,
    "42501": (Kind.UNAVAILABLE, "not_allowed", "{where} does not allow this to the user: grant it, then send again"),
    "42704": _WRONG_URL,
    "53": _BUSY,
    "53100": (Kind.FULL, "disk_full", "there is no room left on the disk of {where}: make room, then send again"),
    "53200": (
        Kind.UNAVAILABLE,
        "overloaded",
        "{where} is out of memory or locks; if this stays so, raise max_locks_per_transaction",
    ),
    "54": _REFUSED,
    "55P03": _SLOW,
    "57": _STARTING,
    "57014": _SLOW,
    "P0001": _RULE,  # RAISE in somebody's trigger
    "P0004": _RULE,  # ASSERT in one
}

_DAMAGED: _Meaning = (
    Kind.UNAVAILABLE,
    "damaged",
    "a row of the precomputed activity at {where} cannot be read: `eventcore verify` tells which, and "
    "`eventcore rebuild` makes it anew",
)

_FUNCTION = re.compile(r"^PL/pgSQL function ([^(]+)\(", re.MULTILINE)

_FROM_THE_CLIENT: tuple[tuple[type[BaseException], _Meaning], ...] = (
    (asyncpg.exceptions._base.DataError, _REFUSED),
    (asyncpg.ClientConfigurationError, _WRONG_URL),
    (asyncpg.TargetServerAttributeNotMatched, _READ_ONLY),
    (TimeoutError, _SLOW),
    (OSError, _UNREACHABLE),
    (OverflowError, _REFUSED),
    (UnicodeError, _REFUSED),
    (asyncpg.InterfaceError, _GONE),
    (asyncpg.InternalClientError, _GONE),
    (BrokenRow, _DAMAGED),
)

DRIVER_ERRORS: tuple[type[BaseException], ...] = (
    asyncpg.PostgresError,
    *(error_class for error_class, _ in _FROM_THE_CLIENT),
)
"""Everything that the driver raises, and what is no row of the projection."""


def meaning(error: BaseException, address: Address) -> StoreError:
    """What one of `DRIVER_ERRORS` means."""
    kind, code, message = _meaning(error)
    return StoreError(kind, code, message.format(where=address.shown) + (_rule(error) if kind is Kind.DATA else ""))


def is_refusal(error: BaseException) -> bool:
    """Whether it says that values are at fault."""
    if isinstance(error, StoreError):
        return error.kind is Kind.DATA
    return isinstance(error, DRIVER_ERRORS) and _meaning(error)[0] is Kind.DATA


def _rule(error: Any) -> str:
    """Which rule refused the values, as far as the server says it; never the values."""
    if not isinstance(error, asyncpg.PostgresError):
        return ""
    rule = f"SQLSTATE {error.sqlstate}"
    if error.constraint_name:
        rule += f", constraint {error.constraint_name}"
    elif error.column_name:
        rule += f", column {error.column_name}"
    elif function := _FUNCTION.search(error.context or ""):
        rule += f", function {function[1]}"
    return f" ({rule})"


def _meaning(error: Any) -> _Meaning:
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        return _MEANINGS.get(state) or _MEANINGS.get(state[:2]) or _UNKNOWN
    return next(found for error_class, found in _FROM_THE_CLIENT if isinstance(error, error_class))


def closed(address: Address) -> StoreError:
    """The error for a call after `close`."""
    return StoreError(Kind.CLOSED, "store_closed", f"the store at {address.shown} was closed; open it again")
