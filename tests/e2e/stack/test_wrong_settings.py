"""A user, a password or a database that the server does not know: nothing but a correction helps, and that is said."""

import json
import time
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import pytest

from tests.e2e.stack.homes import ending, need
from tests.e2e.stack.running import LOCAL, Running, Stack, until
from tests.support.fixtures import shared

pytestmark = pytest.mark.e2e

ROWS = "user_id,event_type,occurred_at\nada,visit,2026-01-31T09:30:00Z\n"


@pytest.fixture(params=["user", "database"])
def wrong(request: pytest.FixtureRequest) -> tuple[str, str]:
    """The URL of a store whose server is there, and what is said of it."""
    need("postgres")
    right = urlsplit(shared("postgres").url)
    if request.param == "user":
        url = urlunsplit(right._replace(netloc=f"stranger:secret@{right.hostname}:{right.port}"))
        return url, "refuses this user or password: correct them in the URL, or at the server"
    return urlunsplit(right._replace(path="/nowhere")), "has no database of this name: create it, or correct the URL"


@pytest.mark.parametrize(
    "command", [["migrate"], ["migrate", "--wait", "60"], ["stats", "dau"], ["import", "rows.csv"], ["doctor"]]
)
def test_a_command_ends_at_once(tmp_path: Path, wrong: tuple[str, str], command: list[str]) -> None:
    url, told = wrong
    (tmp_path / "rows.csv").write_text(ROWS)
    with ending(Stack(tmp_path, {"store_url": url})) as stack:
        began = time.monotonic()
        done = stack.run(*command)
    assert time.monotonic() - began < 30  # usually one; --wait would take sixty
    assert done.returncode == (1 if command == ["doctor"] else 2)
    said = (done.stdout + done.stderr).decode()
    assert told in said
    assert "secret" not in said
    assert "the same command again" not in said


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_a_process_that_serves_says_it_at_every_attempt(tmp_path: Path, wrong: tuple[str, str], command: str) -> None:
    url, told = wrong
    settings = {"store_url": url, "port": 0, "worker_port": 0}
    if command == "worker":
        need("nats")
        settings["queue_url"] = f"{shared('nats').url}/WRONG_SETTINGS?max_bytes=1048576"
    running = Running(command, tmp_path / "log", settings)
    try:
        running.wait_until_up()
        until(lambda: running.said().count("cannot open the store") >= 3, "it is said again", 30)
        lines = [line for line in running.said().splitlines() if "cannot open the store" in line]
        assert {json.loads(line)["level"] for line in lines} == {"error"}
        assert all(told in line and "secret" not in line for line in lines)
        answer = LOCAL.get(f"{running.url}/health/ready")
        assert answer.status_code == 503
        assert answer.json()["checks"]["store"]["status"] == "unavailable"
        assert told in answer.json()["checks"]["store"]["reason"]
        running.stop()
    finally:
        running.kill()
