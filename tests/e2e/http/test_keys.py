"""Keys in real processes: the first one, what several processes know of each other, and what is in the logs."""

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from eventcore.registry import MIGRATIONS, find_adapter
from tests.e2e.http.conftest import Server
from tests.e2e.stack.homes import a_schema, need
from tests.http_requests import JSON, an_event, as_bytes
from tests.support.fixtures import shared

Start = Callable[..., Server]
EVENTCORE = str(Path(sys.executable).with_name("eventcore"))
KEY = re.compile(r"ec_live_[a-z2-7]{8}_[a-z2-7]{32}")


@contextmanager
def in_a_file(folder: Path) -> Iterator[str]:
    yield f"sqlite:///{folder / 'events.sqlite3'}"


@contextmanager
def in_postgres(folder: Path) -> Iterator[str]:
    need("postgres")
    with a_schema(shared("postgres").url) as url:
        asyncio.run(find_adapter(MIGRATIONS, url)(url))
        yield url


@pytest.fixture(params=[in_a_file, in_postgres], ids=["sqlite", "postgres"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with request.param(tmp_path) as url:
        yield url


def keys(store_url: str, *arguments: str) -> Any:
    done = subprocess.run(
        [EVENTCORE, "keys", *arguments, "--store-url", store_url, "--format", "json"],
        capture_output=True, timeout=60, check=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return json.loads(done.stdout)


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


def status(server: Server, text: str) -> int:
    return httpx.get(f"{server.url}/metrics", headers=bearer(text)).status_code


def seconds_until(server: Server, text: str, wanted: int) -> float:
    began = time.monotonic()
    while status(server, text) != wanted:
        assert time.monotonic() - began < 20
        time.sleep(0.05)
    return time.monotonic() - began


def test_every_process_refuses_a_revoked_key_within_five_seconds(start: Start, store_url: str) -> None:
    """Whoever revokes it: a command, or an admin through another process."""
    admin = keys(store_url, "create", "--scope", "read,admin")["key"]
    texts = [keys(store_url, "create", "--scope", "read") for _ in range(2)]
    one, other = start(store_url=store_url), start(store_url=store_url)
    for made in texts:
        assert [status(server, made["key"]) for server in (one, other)] == [200, 200]
    keys(store_url, "revoke", texts[0]["key_id"])
    assert max(seconds_until(server, texts[0]["key"], 401) for server in (one, other)) < 5
    assert status(other, texts[1]["key"]) == 200
    done = httpx.post(f"{one.url}/keys/{texts[1]['key_id']}/revoke", headers=bearer(admin))
    assert done.status_code == 200
    assert status(one, texts[1]["key"]) == 401
    assert seconds_until(other, texts[1]["key"], 401) < 5


def test_a_key_of_one_process_opens_the_other(start: Start, store_url: str) -> None:
    admin = keys(store_url, "create", "--scope", "ingest,read,admin")["key"]
    one, other = start(store_url=store_url), start(store_url=store_url)
    assert [status(server, admin) for server in (one, other)] == [200, 200]
    made = httpx.post(f"{one.url}/keys", json={"scopes": ["read"]}, headers=bearer(admin)).json()["key"]
    assert status(one, made) == 200
    assert seconds_until(other, made, 200) < 5


def test_the_first_key_is_printed_once_where_others_can_reach_the_server(start: Start, store_url: str) -> None:
    server = start(host="0.0.0.0", store_url=store_url)
    [text] = KEY.findall(server.log.read_text())
    assert httpx.get(f"{server.url}/metrics", headers={"Host": "stats.example"}).status_code == 401
    event = an_event()
    sent = httpx.post(
        f"{server.url}/events",
        content=as_bytes([event]),
        headers=bearer(text) | {"Content-Type": JSON, "Host": "a.example"},
    )
    assert sent.status_code == 202
    assert httpx.get(f"{server.url}/keys", headers=bearer(text)).json()["data"][0]["scopes"] == [
        "ingest",
        "read",
        "admin",
    ]
    in_the_log = [line for line in server.log.read_text().splitlines() if line.startswith("{")]
    assert any('"made the first API key"' in line for line in in_the_log)
    assert not KEY.search("\n".join(in_the_log))
    server.stop()
    again = start(host="0.0.0.0", store_url=store_url)
    assert not KEY.search(again.log.read_text())
    assert status(again, text) == 200


def test_nothing_that_a_server_writes_holds_a_key(start: Start, store_url: str) -> None:
    """Good ones and wrong ones, in every place where one may stand."""
    made = [keys(store_url, "create", "--scope", scope)["key"] for scope in ("ingest", "ingest,read,admin")]
    server = start(store_url=store_url, log_level="debug")
    stranger = "ec_live_abcdefgh_" + "z" * 32
    texts = [*made, stranger]
    with httpx.Client(base_url=server.url) as client:
        for text in tuple(texts):
            for headers in (bearer(text), {"X-Api-Key": text}, {"Cookie": text}, {"Authorization": text}):
                client.get("/metrics", headers=headers)
                client.post("/events", content=as_bytes([an_event()]), headers=headers | {"Content-Type": JSON})
                client.get(f"/events/{text}?project={text}", headers=headers)
                client.get(f"/nope/{text}?{text}", headers=headers)
            client.get("/metrics", auth=(text, ""))
            new = client.post("/keys", json={"scopes": ["read"], "label": "x"}, headers=bearer(text))
            if new.status_code == 201:
                texts.append(new.json()["key"])
        server.talk(f"GET /metrics HTTP/1.1\r\nAuthorization: Bearer {stranger}\r\nbroken\r\n\r\n".encode())
    assert len(texts) == len(made) + 2
    assert server.stop() == 0
    written = server.log.read_text()
    for text in texts:
        assert text[17:] not in written
        assert text[:16] in written
