"""``eventcore keys`` on a store, and keys towards a running server."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.cli.conftest import Ended
from tests.e2e.http.conftest import Server, end, launch

Command = Callable[..., Ended]


@pytest.fixture
def server(workplace: Path) -> Iterator[Server]:
    """On the same file as the commands."""
    running = launch(workplace, "server", store_url=f"sqlite:///{workplace}/store.sqlite3")
    try:
        running.wait_until_listening()
        yield running
    finally:
        end(running)


def create(eventcore: Command, *options: str) -> Any:
    made = eventcore("keys", "create", *options, "--format", "json")
    assert made.code == 0, made.err
    return made.json


def test_a_key_is_the_only_thing_on_stdout(eventcore: Command) -> None:
    made = eventcore("keys", "create", "--scope", "ingest,read")
    assert made.code == 0
    assert re.fullmatch(r"ec_live_[a-z2-7]{8}_[a-z2-7]{32}\n", made.out)
    assert "not shown again" in made.err
    assert made.out.strip() not in made.err


def test_create_list_revoke_rotate(eventcore: Command) -> None:
    first = create(
        eventcore, "--project", "shop", "--scope", "read,ingest", "--expires", "30", "--label", "the shop",
        "--origin", "https://shop.example", "--origin", "https://www.shop.example",
    )  # fmt: skip
    second = create(eventcore, "--scope", "admin", "--scope", "read")
    listed = eventcore("keys", "list", "--format", "json").json["data"]
    assert [{"key": made["key"], **key} for made, key in zip((first, second), listed, strict=True)] == [first, second]
    assert (first["project"], first["scopes"], first["label"]) == ("shop", ["ingest", "read"], "the shop")
    assert first["key"] not in eventcore("keys", "list").out
    assert [key["key_id"] for key in eventcore("keys", "list", "--project", "shop", "--json").json["data"]] == [
        first["key_id"]
    ]

    assert eventcore("keys", "revoke", first["key_id"]).code == 0
    rotated = eventcore("keys", "rotate", second["prefix"], "--grace", "3600", "--json").json
    assert (rotated["scopes"], rotated["project"]) == (second["scopes"], second["project"])
    states = {
        key["key_id"]: (key["status"], key["revoked_at"] is None)
        for key in eventcore("keys", "list", "--json").json["data"]
    }
    assert states == {
        first["key_id"]: ("revoked", False), second["key_id"]: ("active", False), rotated["key_id"]: ("active", True)
    }  # fmt: skip
    assert len(eventcore("keys", "list", "--format", "csv").out.splitlines()) == 4


@pytest.mark.parametrize(
    "arguments",
    [
        ("create",), ("create", "--scope", "write"), ("create", "--scope", ""), ("create", "--scope", "read", "--project", "A B"),
        ("create", "--scope", "read", "--origin", "shop.example"), ("create", "--scope", "read", "--expires", "0"),
        ("create", "--scope", "read", "--label", "\x1b"), ("revoke", "nobody"), ("rotate",), ("list", "--project", "A B"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_one_line_and_exit_2(eventcore: Command, arguments: tuple[str, ...]) -> None:
    ended = eventcore("keys", *arguments)
    assert (ended.code, ended.out, len(ended.err.splitlines())) == (2, "", 1)


def test_a_key_that_is_not_there_cannot_be_ended(eventcore: Command) -> None:
    create(eventcore, "--scope", "read")
    for command in ("revoke", "rotate"):
        ended = eventcore("keys", command, "abcdefgh")
        assert (ended.code, ended.out) == (2, "")
        assert "no key with this id" in ended.err


def test_commands_show_their_key_to_a_server(
    eventcore: Command, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("stats", "dau", "--from", "2026-01-01", "--to", "2026-01-02", "--url", server.url, "--project", "shop")
    key = create(eventcore, "--project", "shop", "--scope", "read")
    wait_for_status(server, 401)
    assert eventcore(*asked).code == 4
    monkeypatch.setenv("EVENTCORE_API_KEY", key["key"])
    assert eventcore(*asked).code == 0
    refused = eventcore("dead", "list", "--url", server.url, "--project", "shop")
    assert (refused.code, "scope admin" in refused.err) == (4, True)
    assert eventcore("dead", "list", "--url", server.url).code == 4  # another project
    monkeypatch.setenv("EVENTCORE_API_KEY", "hunter2")
    wrong = eventcore(*asked)
    assert (wrong.code, "hunter2" in wrong.err) == (2, False)


def test_a_key_closes_a_server_that_runs(eventcore: Command, server: Server) -> None:
    log = server.lines()
    assert [line["reach"] for line in log if line["event"] == "open"] == ["local"]
    assert httpx.get(f"{server.url}/metrics").status_code == 200
    create(eventcore, "--scope", "read")
    assert wait_for_status(server, 401) < 5


def wait_for_status(server: Server, status: int) -> float:
    began = time.monotonic()
    while httpx.get(f"{server.url}/metrics").status_code != status:
        assert time.monotonic() - began < 20
        time.sleep(0.1)
    return time.monotonic() - began
