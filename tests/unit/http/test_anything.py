"""No input whatsoever ends in a 500 or in an exception: generated bodies, headers and queries."""

import asyncio
import json
from collections.abc import Callable, Iterator

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entrypoints.container import open_eventcore
from entrypoints.http.app import create_app
from entrypoints.settings import Settings
from tests.http_requests import JSON, NDJSON, an_event, as_bytes

EVENT_ID = "0192f0c1-2b3a-7c4d-8e5f-6a7b8c9d0e1f"
VALID = as_bytes([an_event(event_id=EVENT_ID, properties={"a": [1.5, {"b": "\u00e9"}], "c": None}), an_event()])

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
members = st.sampled_from(["event_id", "user_id", "event_type", "occurred_at", "properties", "x"])
near_events = st.builds(lambda name, value: an_event(**{name: value}), members, anything)


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    body = bytearray(VALID)
    for _ in range(draw(st.integers(1, 4))):
        position = draw(st.integers(0, len(body) - 1))
        body[position : position + draw(st.integers(0, 3))] = draw(
            st.binary(max_size=3)
            | st.sampled_from([b'"', b"\\", b"\\u", b"{", b"]", b"NaN", b"1e999", b"\x00", b"\xff"])
        )
    return bytes(body)


bodies = st.one_of(
    st.binary(max_size=64),
    damaged(),
    st.lists(near_events | anything, max_size=4).map(lambda events: json.dumps(events).encode()),
    anything.map(lambda value: json.dumps(value).encode()),
)
words = st.text(max_size=12) | st.sampled_from(["2026-01-01", "2026-01-31", "UTC", "event_type:a", "day", "1", "on"])
names = st.text(max_size=8) | st.sampled_from(
    [
        "from",
        "to",
        "tz",
        "segment",
        "limit",
        "project",
        "start_date",
        "windows",
        "window",
        "cohort",
        "return",
        "cohorts",
    ]
)
paths = st.sampled_from(
    ["/events/" + EVENT_ID, "/stats/dau", "/stats/top-events", "/stats/retention", "/stats/ingestion"]
)


Answer = Callable[..., httpx.Response]


@pytest.fixture(scope="module")
def answer() -> Iterator[Answer]:
    """Sends one request to an application that lives as long as the module; whatever it raises fails the test."""
    chosen = Settings(_env_file=None, store_url="memory://")
    with asyncio.Runner() as runner:
        opening = open_eventcore(chosen)
        transport = httpx.ASGITransport(create_app(chosen, runner.run(opening.__aenter__())))
        client = httpx.AsyncClient(transport=transport, base_url="http://localhost")
        yield lambda method, url, **request: runner.run(client.request(method, url, **request))
        runner.run(client.aclose())
        runner.run(opening.__aexit__(None, None, None))


def check(response: httpx.Response, allowed: set[int]) -> None:
    assert response.status_code in allowed, response.text
    document = json.loads(response.content.decode("utf-8"))
    if response.status_code >= 400:
        assert response.headers["content-type"] == "application/problem+json"
        assert document["code"]
        assert document["request_id"]


@settings(deadline=None, max_examples=150)
@given(bodies, st.sampled_from([JSON, NDJSON]), st.sampled_from([None, "gzip"]))
def test_any_body(answer: Answer, body: bytes, content_type: str, coding: str | None) -> None:
    headers = {"Content-Type": content_type} | ({"Content-Encoding": coding} if coding else {})
    check(answer("POST", "/events", content=body, headers=headers), {202, 400, 422})


@settings(deadline=None, max_examples=150)
@given(paths, st.lists(st.tuples(names, words), max_size=5))
def test_any_query(answer: Answer, path: str, pairs: list[tuple[str, str]]) -> None:
    check(answer("GET", path, params=pairs), {200, 404, 422})


@settings(deadline=None, max_examples=50)
@given(
    st.binary(max_size=30),
    st.sampled_from([b"content-type", b"content-encoding", b"content-length", b"host", b"origin"]),
)
def test_any_header(answer: Answer, value: bytes, name: bytes) -> None:
    headers = [(b"content-type", JSON.encode()), (name, value)]
    check(answer("POST", "/events", content=VALID, headers=headers), {202, 403, 413, 415, 400})


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=40))
def test_any_query_string_of_raw_bytes(answer: Answer, raw: bytes) -> None:
    quoted = "".join(f"%{byte:02x}" if byte % 3 else chr(byte % 26 + 97) for byte in raw)
    check(answer("GET", f"/stats/dau?{quoted}"), {422})
    check(answer("POST", f"/events?{quoted}", content=VALID, headers={"Content-Type": JSON}), {202, 422})
