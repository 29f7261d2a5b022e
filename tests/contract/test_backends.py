"""The table of backends: nothing is left out of it, and nothing is skipped in silence."""

import dataclasses
import os
from importlib.metadata import entry_points

import pytest

from eventcore.registry import CONSUMERS, DEDUP_CACHES, QUEUES, STORES
from tests.contract.backends import BACKENDS, Backend, need, rows
from tests.support.servers import REQUIRE, URLS


def registered(port: str) -> set[str]:
    """The schemes under which eventcore's own adapters are registered for a port."""
    return {entry.name for entry in entry_points(group=port) if entry.module.startswith("adapters.")}


@pytest.mark.parametrize("port", [STORES, DEDUP_CACHES, QUEUES, CONSUMERS])
def test_every_registered_adapter_is_in_the_table(port: str) -> None:
    assert registered(port) == {backend.scheme for backend in rows(port)}


def test_names_are_unique_for_each_port() -> None:
    named = [(backend.port, backend.name) for backend in BACKENDS]
    assert sorted(set(named)) == sorted(named)


def test_every_required_name_is_known() -> None:
    """A misspelled name would require nothing."""
    required = {name.strip() for name in os.environ.get(REQUIRE, "").split(",")} - {""}
    assert required - {backend.name for backend in BACKENDS} - URLS.keys() == set()


def test_what_is_missing_skips_and_says_how_to_get_it(a_backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(REQUIRE, "another")
    with pytest.raises(pytest.skip.Exception, match="somedb: no server; install it with apt"):
        need(a_backend)


def test_what_is_missing_fails_where_it_is_required(a_backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(REQUIRE, "another, somedb")
    with pytest.raises(pytest.fail.Exception, match="names somedb, but no server; install it with apt"):
        need(a_backend)


@pytest.mark.parametrize("names", ["", "somedb"])
def test_what_is_there_is_never_skipped(a_backend: Backend, names: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(REQUIRE, names)
    assert need(dataclasses.replace(a_backend, missing=lambda: None)) is None


@pytest.fixture
def a_backend() -> Backend:
    """A backend whose server is not there."""
    return dataclasses.replace(BACKENDS[0], name="somedb", missing=lambda: "no server; install it with apt")
