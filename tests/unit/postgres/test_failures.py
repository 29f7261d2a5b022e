"""What the server's errors mean: who may try again, and for whom nothing helps."""

import asyncpg
import pytest

from adapters.postgres.address import address_of
from adapters.postgres.failures import AGAIN, DRIVER_ERRORS, meaning
from eventcore.errors import Kind

ADDRESS = address_of("postgresql://user:secret@db.example/events")
SAID = "INSERT INTO events VALUES ('secret'); /var/lib/postgresql"


def a_server_error(state: str) -> BaseException:
    return asyncpg.PostgresError.new({"C": state, "S": "ERROR", "M": SAID})


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
    for hidden in ("secret", "INSERT", "/var", state):
        assert hidden not in found.message


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
