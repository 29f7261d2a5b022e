"""What the server's errors mean: who may try again, and for whom nothing helps."""

import asyncpg
import pytest

from adapters.postgres.address import address_of
from adapters.postgres.failures import AGAIN, DRIVER_ERRORS, is_refusal, meaning
from eventcore.errors import Kind, StoreError

ADDRESS = address_of("postgresql://user:secret@db.example/events")
SAID = "INSERT INTO events VALUES ('secret'); /var/lib/postgresql"


def a_server_error(state: str, **fields: str) -> BaseException:
    return asyncpg.PostgresError.new({"C": state, "S": "ERROR", "M": SAID, "D": SAID, **fields})


@pytest.mark.parametrize(
    ("state", "kind"),
    [
        ("08006", Kind.UNAVAILABLE),
        ("0A000", Kind.UNAVAILABLE),
        ("22003", Kind.DATA),
        ("22021", Kind.DATA),
        ("22P05", Kind.DATA),
        ("23502", Kind.DATA),
        ("23505", Kind.UNAVAILABLE),
        ("23514", Kind.DATA),
        ("25006", Kind.UNAVAILABLE),
        ("25P03", Kind.TIMEOUT),
        ("28000", Kind.UNAVAILABLE),
        ("28P01", Kind.UNAVAILABLE),
        ("3D000", Kind.UNAVAILABLE),
        ("40001", Kind.UNAVAILABLE),
        ("40P01", Kind.UNAVAILABLE),
        ("42501", Kind.UNAVAILABLE),
        ("42703", Kind.SCHEMA),
        ("42P01", Kind.SCHEMA),
        ("42P07", Kind.SCHEMA),
        ("53000", Kind.UNAVAILABLE),
        ("53100", Kind.FULL),
        ("53200", Kind.UNAVAILABLE),
        ("53300", Kind.UNAVAILABLE),
        ("54000", Kind.DATA),
        ("55P03", Kind.TIMEOUT),
        ("57014", Kind.TIMEOUT),
        ("57P01", Kind.UNAVAILABLE),
        ("57P02", Kind.UNAVAILABLE),
        ("57P03", Kind.UNAVAILABLE),
        ("P0001", Kind.DATA),
        ("P0002", Kind.UNAVAILABLE),
        ("P0004", Kind.DATA),
        ("58030", Kind.UNAVAILABLE),
        ("XX001", Kind.UNAVAILABLE),
        ("TS001", Kind.UNAVAILABLE),
        ("ZZZZZ", Kind.UNAVAILABLE),
    ],
)
def test_by_sqlstate(state: str, kind: Kind) -> None:
    error = a_server_error(state)
    assert isinstance(error, DRIVER_ERRORS)
    found = meaning(error, ADDRESS)
    assert found.kind == kind
    assert found.code.isidentifier()
    for hidden in ("secret", "INSERT", "/var"):
        assert hidden not in found.message
    assert (state in found.message) == (kind is Kind.DATA)


@pytest.mark.parametrize(
    ("state", "fields", "told"),
    [
        ("23514", {"n": "no_mallory", "t": "users"}, "(SQLSTATE 23514, constraint no_mallory)"),
        ("23502", {"c": "country", "t": "events"}, "(SQLSTATE 23502, column country)"),
        ("P0001", {"n": "no_mallory"}, "(SQLSTATE P0001, constraint no_mallory)"),
        ("P0001", {"W": "PL/pgSQL function refuse() line 1 at RAISE"}, "(SQLSTATE P0001, function refuse)"),
        (
            "P0001",
            {"W": f'SQL statement "{SAID}"\nPL/pgSQL function public."Re fuse"(integer,text) line 9 at PERFORM'},
            '(SQLSTATE P0001, function public."Re fuse")',
        ),
        ("P0001", {"W": SAID}, "(SQLSTATE P0001)"),
        ("23514", {"n": "{odd}"}, "(SQLSTATE 23514, constraint {odd})"),
    ],
)
def test_a_refusal_names_the_rule(state: str, fields: dict[str, str], told: str) -> None:
    """It becomes the reason on a dead letter; the values and the statement stay out of it."""
    message = meaning(a_server_error(state, **fields), ADDRESS).message
    assert message.endswith(told)
    for hidden in ("secret", "INSERT", "/var"):
        assert hidden not in message


def test_only_values_are_a_refusal() -> None:
    assert is_refusal(a_server_error("23514"))
    assert is_refusal(UnicodeEncodeError("utf-8", SAID, 0, 1, SAID))
    assert is_refusal(StoreError(Kind.DATA, "refused_data", "an event id has 16 bytes"))
    assert not is_refusal(a_server_error("57P01"))
    assert not is_refusal(TimeoutError())
    assert not is_refusal(KeyError("x"))
    assert not is_refusal(StoreError(Kind.SCHEMA, "schema_newer", "newer"))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TimeoutError(), Kind.TIMEOUT),
        (ConnectionRefusedError(111, SAID), Kind.UNAVAILABLE),
        (ConnectionResetError(104, SAID), Kind.UNAVAILABLE),
        (OSError(28, SAID), Kind.UNAVAILABLE),
        (asyncpg.InterfaceError(SAID), Kind.UNAVAILABLE),
        (asyncpg.InternalClientError(SAID), Kind.UNAVAILABLE),
        (asyncpg.TargetServerAttributeNotMatched(SAID), Kind.UNAVAILABLE),
        (asyncpg.ClientConfigurationError(SAID), Kind.INVALID),
        (asyncpg.exceptions._base.DataError(SAID), Kind.DATA),
        (OverflowError(SAID), Kind.DATA),
        (UnicodeEncodeError("utf-8", SAID, 0, 1, SAID), Kind.DATA),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_by_class(error: Exception, kind: Kind) -> None:
    assert isinstance(error, DRIVER_ERRORS)
    found = meaning(error, ADDRESS)
    assert found.kind == kind
    assert "secret" not in found.message


@pytest.mark.parametrize("state", ["40001", "40P01"])
def test_what_is_tried_again_at_once(state: str) -> None:
    assert meaning(a_server_error(state), ADDRESS).code == AGAIN


def test_a_bug_of_ours_is_not_the_servers() -> None:
    assert not isinstance(KeyError("x"), DRIVER_ERRORS)
    assert not isinstance(TypeError("x"), DRIVER_ERRORS)
