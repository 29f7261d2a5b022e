"""bad-input.md, "HTTP", and what every answer has: problems, request ids, guards, health, metrics, log lines."""

import asyncio
import contextlib
import json
import re
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
import structlog
from fastapi import FastAPI

from entrypoints.http.app import create_app
from entrypoints.http.bodies import InFlight
from entrypoints.http.exchange import ClientGone
from entrypoints.http.guards import is_loopback_authority
from entrypoints.http.problems import STATUS, HttpProblem
from entrypoints.settings import Settings
from eventcore.errors import Kind, StoreError
from eventcore.service import Eventcore
from tests.http_requests import JSON, an_event, as_bytes

HEADERS = {"Content-Type": JSON}


@pytest.mark.parametrize(
    "path", ["/", "/nope", "/events/", "/events/a/b", "/stats", "/stats/", "/stats/wau", "//events"]
)
async def test_an_unknown_path_is_a_404_problem(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(f"http://127.0.0.1{path}")
    assert (response.status_code, response.json()["code"]) == (404, "not_found")
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/events", "POST"), ("PUT", "/events", "POST"), ("DELETE", "/events", "POST"),
        ("POST", "/stats/dau", "GET"), ("POST", "/health", "GET"), ("OPTIONS", "/metrics", "GET"),
        ("DELETE", "/events/0192f0c1-2b3a-7c4d-8e5f-6a7b8c9d0e1f", "GET"),
    ],
)  # fmt: skip
async def test_a_wrong_method_is_a_405_problem_with_allow(
    client: httpx.AsyncClient, method: str, path: str, allowed: str
) -> None:
    response = await client.request(method, path)
    assert (response.status_code, response.json()["code"]) == (405, "method_not_allowed")
    assert response.headers["allow"] == allowed


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:80", "127.0.0.1", "127.0.0.1:8000", "127.8.9.10:1", "[::1]", "[::1]:8000"],
)
def test_loopback_hosts(host: str) -> None:
    assert is_loopback_authority(host)


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", "0.0.0.0",
     "[::]", "::1", "localhost:8000@evil.example", "127.0.0.1 ", "2130706433", "0x7f.1", "127.1", "[::1", "localhost:x",
     "evil.example#localhost", "localhost.", "\uff4c\uff4fcalhost", "[::ffff:10.0.0.1]"],
)  # fmt: skip
def test_foreign_hosts(host: str) -> None:
    assert not is_loopback_authority(host)


@pytest.mark.parametrize("host", ["evil.example", "10.0.0.1:8000", ""])
@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/health/live"), ("POST", "/events"), ("GET", "/nope"), ("GET", "/docs")]
)
async def test_a_foreign_host_is_403_everywhere(client: httpx.AsyncClient, method: str, path: str, host: str) -> None:
    response = await client.request(method, path, headers={"Host": host})
    assert (response.status_code, response.json()["code"]) == (403, "foreign_host")
    assert "EVENTCORE_INSECURE" in response.json()["message"]


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:3000", 200), ("https://127.0.0.1", 200), ("http://[::1]:8000", 200),
        ("http://evil.example", 403), ("null", 403), ("", 403), ("http://localhost.evil.example", 403),
        ("file://localhost", 403), ("http://evil.example/http://localhost", 403),
    ],
)  # fmt: skip
async def test_origin_must_be_loopback_too(client: httpx.AsyncClient, origin: str, status: int) -> None:
    assert (await client.get("/health/live", headers={"Origin": origin})).status_code == status


async def test_insecure_lifts_the_guard(settings: Settings, core: Eventcore) -> None:
    app = create_app(settings.model_copy(update={"insecure": True}), core)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://stats.example") as client:
        assert (await client.get("/health/live", headers={"Origin": "https://shop.example"})).status_code == 200


async def test_forwarded_headers_change_nothing(client: httpx.AsyncClient) -> None:
    headers = {"X-Forwarded-For": "1.2.3.4", "X-Forwarded-Host": "evil.example", "Forwarded": "host=evil.example"}
    response = await client.get("/docs", headers=headers)
    assert response.status_code == 200
    assert "evil.example" not in response.text


@pytest.mark.parametrize(
    ("sent", "echoed"),
    [
        ("abc-1.2_3", True),
        ("a" * 64, True),
        ("a" * 65, False),
        ("", False),
        ("a b", False),
        ("<script>", False),
        ("é", False),
    ],
)
async def test_a_sane_request_id_is_echoed_and_any_other_replaced(
    client: httpx.AsyncClient, sent: str, echoed: bool
) -> None:
    response = await client.get("/nope", headers=[(b"X-Request-ID", sent.encode("latin-1"))])
    found = response.headers["x-request-id"]
    assert (found == sent) is echoed
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", found)
    assert response.json()["request_id"] == found


async def test_two_request_ids_are_none(client: httpx.AsyncClient) -> None:
    response = await client.get("/health/live", headers=[("X-Request-ID", "a"), ("X-Request-ID", "b")])
    assert response.headers["x-request-id"] not in ("a", "b", "a, b")


# Errors of the store


class Failing:
    """Stands before a part and fails whatever is asked of it."""

    def __init__(self, part: Any, error: Exception, names: Sequence[str]) -> None:
        self._part, self._error, self._names = part, error, names

    def __getattr__(self, name: str) -> Any:
        if name not in self._names:
            return getattr(self._part, name)

        async def fail(*_: Any, **__: Any) -> Any:
            raise self._error

        return fail


def test_every_kind_of_error_has_a_status() -> None:
    assert set(STATUS) == set(Kind)
    assert {status for status in STATUS.values() if status >= 500} == {503}


@pytest.mark.parametrize("kind", [Kind.UNAVAILABLE, Kind.FULL, Kind.TIMEOUT, Kind.CLOSED])
async def test_a_store_that_fails_is_503_with_retry_after(
    client: httpx.AsyncClient, core: Eventcore, kind: Kind
) -> None:
    error = StoreError(kind, "store_away", "the store does not answer; send the same again")
    core.queue = Failing(core.queue, error, ["publish"])
    core.store = Failing(core.store, error, ["activity", "find", "books"])
    for response in (
        await client.post("/events", content=as_bytes([an_event()]), headers=HEADERS),
        await client.get("/stats/dau?from=2026-01-01&to=2026-01-02"),
        await client.get("/stats/ingestion?from=2026-01-01&to=2026-01-02"),
        await client.get("/events/0192f0c1-2b3a-7c4d-8e5f-6a7b8c9d0e1f"),
    ):
        assert (response.status_code, response.json()["code"]) == (503, "store_away")
        assert int(response.headers["retry-after"]) >= 1


async def test_what_nobody_foresaw_is_a_500_problem_that_tells_nothing(
    client: httpx.AsyncClient, core: Eventcore
) -> None:
    core.queue = Failing(core.queue, RuntimeError("SELECT secret FROM /var/lib"), ["publish"])
    with structlog.testing.capture_logs() as logs:
        response = await client.post("/events", content=as_bytes([an_event()]), headers=HEADERS)
    assert (response.status_code, response.json()["code"]) == (500, "internal_error")
    assert "secret" not in response.text
    assert "RuntimeError" not in response.text
    [failure] = [line for line in logs if line["event"] == "request failed"]
    assert failure["request_id"] == response.headers["x-request-id"]
    assert failure["exc_info"]


# Health


async def test_health_is_ok_with_each_dependency(client: httpx.AsyncClient) -> None:
    for path in ("/health", "/health/ready"):
        response = await client.get(path)
        assert response.status_code == 200
        found = response.json()
        assert found["status"] == "ok"
        assert {name: check["status"] for name, check in found["checks"].items()} == {
            "store": "ok",
            "queue": "ok",
            "cache": "ok",
            "keys": "ok",
        }
        assert all(check["latency_ms"] >= 0 for check in found["checks"].values())


async def test_a_cache_that_is_away_degrades_and_is_seen_in_the_metrics(
    client: httpx.AsyncClient, core: Eventcore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "dedup_cache_up 1.0" in (await client.get("/metrics")).text
    monkeypatch.setattr(type(core.cache), "healthy", False)
    response = await client.get("/health/ready")
    assert (response.status_code, response.json()["status"]) == (200, "degraded")
    assert response.json()["checks"]["cache"]["status"] == "unavailable"
    assert "dedup_cache_up 0.0" in (await client.get("/metrics")).text


async def test_ready_is_503_and_live_200_when_the_store_is_away(client: httpx.AsyncClient, core: Eventcore) -> None:
    core.store = Failing(core.store, StoreError(Kind.UNAVAILABLE, "away", "away"), ["epoch"])
    response = await client.get("/health/ready")
    assert (response.status_code, response.json()["status"]) == (503, "unavailable")
    assert (await client.get("/health/live")).status_code == 200


async def test_ready_is_degraded_when_a_queue_lies_before_a_store_that_is_away(
    client: httpx.AsyncClient, core: Eventcore
) -> None:
    class Answering(Failing):
        answers_first = True

    error = StoreError(Kind.UNAVAILABLE, "away", "away")
    core.store = Failing(core.store, error, ["epoch"])
    core.queue = Answering(core.queue, error, [])
    response = await client.get("/health/ready")
    assert (response.status_code, response.json()["status"]) == (200, "degraded")
    core.queue = Answering(core.queue, error, ["pending"])
    assert (await client.get("/health/ready")).status_code == 503


# Metrics and logs


def samples(text: str) -> dict[str, float]:
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if not line.startswith("#")
    }


async def test_metrics_count_events_and_requests(client: httpx.AsyncClient) -> None:
    event = an_event()
    body = as_bytes([event, event, event | {"user_id": "eve"}, an_event(user_id=""), 7])
    await client.post("/events", content=body, headers=HEADERS)
    await client.post("/events?dry_run=true", content=body, headers=HEADERS)
    await client.get("/events/0192f0c1-2b3a-7c4d-8e5f-6a7b8c9d0e1f")
    await client.get("/a/path/of/an/attacker")
    await client.request("BREW", "/events")
    response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    found = samples(response.text)
    expected = {
        "events_received_total": 5.0,
        "events_ingested_total": 1.0,
        "events_duplicate_total": 1.0,
        'events_failed_total{reason="conflict_in_batch"}': 1.0,
        'events_failed_total{reason="empty"}': 1.0,
        'events_failed_total{reason="not_an_object"}': 1.0,
        "ingestion_duration_seconds_count": 1.0,
        'api_requests_total{endpoint="/events",method="POST",status_code="202"}': 1.0,
        'api_requests_total{endpoint="/events",method="POST",status_code="200"}': 1.0,
        'api_requests_total{endpoint="/events",method="other",status_code="405"}': 1.0,
        'api_requests_total{endpoint="/events/{event_id}",method="GET",status_code="404"}': 1.0,
        'api_requests_total{endpoint="unmatched",method="GET",status_code="404"}': 1.0,
        'api_request_duration_seconds_count{endpoint="/events",method="POST"}': 2.0,
    }
    assert {name: found.get(name) for name in expected} == expected
    assert "attacker" not in response.text


async def test_each_app_has_metrics_of_its_own(client: httpx.AsyncClient, settings: Settings, core: Eventcore) -> None:
    await client.post("/events", content=as_bytes([an_event()]), headers=HEADERS)
    other = httpx.ASGITransport(create_app(settings, core))
    async with httpx.AsyncClient(transport=other, base_url="http://localhost") as second:
        assert samples((await second.get("/metrics")).text)["events_received_total"] == 0


async def test_a_request_is_one_log_line_without_bodies_and_users(client: httpx.AsyncClient) -> None:
    body = as_bytes([an_event(user_id="a-secret-user"), an_event(user_id="")])
    with structlog.testing.capture_logs() as logs:
        response = await client.post("/events?project=shop", content=body, headers=HEADERS)
    [line] = logs
    assert line.pop("duration_ms") > 0
    assert line == {
        "event": "request", "log_level": "info", "request_id": response.headers["x-request-id"], "method": "POST",
        "endpoint": "/events", "status": 202, "body_bytes": len(body), "sent_bytes": len(response.content),
        "project": "shop", "accepted": 1, "duplicates": 0, "conflicts": 0, "rejected": 1,
    }  # fmt: skip


async def test_a_refused_request_is_one_log_line_with_its_code(client: httpx.AsyncClient) -> None:
    with structlog.testing.capture_logs() as logs:
        await client.post("/events", content=b"[", headers=HEADERS)
    [line] = logs
    assert (line["status"], line["code"]) == (400, "invalid_json")


# Bodies that do not come, clients that go


async def call(app: FastAPI, receive: Any, *headers: tuple[bytes, bytes]) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/events", "raw_path": b"/events", "query_string": b"", "scheme": "http",
        "http_version": "1.1", "root_path": "", "client": ("127.0.0.1", 5), "server": ("127.0.0.1", 8000),
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json"), *headers],
    }  # fmt: skip
    await app(scope, receive, send)
    return sent


async def test_a_body_that_does_not_come_is_408_and_closes_the_connection(app: FastAPI) -> None:
    pieces = iter([{"type": "http.request", "body": b"[", "more_body": True}])

    async def receive() -> Any:
        for piece in pieces:
            return piece
        await asyncio.sleep(60)

    start, body = await asyncio.wait_for(call(app, receive, (b"content-length", b"9")), 5)
    assert (start["status"], json.loads(body["body"])["code"]) == (408, "body_timeout")
    assert (b"connection", b"close") in start["headers"]


async def test_a_client_that_goes_is_one_log_line_and_nothing_is_stored(app: FastAPI, core: Eventcore) -> None:
    event = an_event()
    pieces = iter(
        [{"type": "http.request", "body": as_bytes([event])[:-1], "more_body": True}, {"type": "http.disconnect"}]
    )

    async def receive() -> Any:
        return next(pieces)

    with structlog.testing.capture_logs() as logs:
        assert await call(app, receive) == []
    assert [(line["event"], line["status"]) for line in logs] == [("request", 499)]
    assert await core.find(event["event_id"]) is None


def test_bodies_in_flight_are_bounded_and_given_back() -> None:
    bodies = InFlight(100)
    with bodies.lease() as one:
        one.grow(60)
        with bodies.lease() as other:
            other.grow(40)
            for more in (lambda: other.grow(1), lambda: one.expect(1)):
                with pytest.raises(HttpProblem) as refused:
                    more()
                assert (refused.value.status, refused.value.code) == (503, "overloaded")
        one.grow(40)
    with contextlib.suppress(ClientGone), bodies.lease() as third:
        third.grow(100)
        raise ClientGone
    with bodies.lease() as last:
        last.grow(100)


async def test_too_many_bytes_in_flight_are_503_at_once(settings: Settings, core: Eventcore) -> None:
    small = settings.model_copy(update={"in_flight_bytes": 1_000})
    app = create_app(small, core)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        response = await client.post("/events", content=as_bytes([an_event()] * 20), headers=HEADERS)
        assert (response.status_code, response.json()["code"]) == (503, "overloaded")
        assert int(response.headers["retry-after"]) >= 1
        assert (await client.post("/events", content=as_bytes([an_event()]), headers=HEADERS)).status_code == 202
