"""/dead-events: what the store refused is listed whatever it holds, replayed and dropped; and how it gets there."""

import gzip
import json
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import httpx
import msgspec
import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from entrypoints.container import open_eventcore
from entrypoints.http import models
from entrypoints.http.app import create_app
from entrypoints.http.objects import BODY_BYTES
from entrypoints.settings import Settings
from eventcore.dead_letters import MOST_EVENT_IDS
from eventcore.dedup import member
from eventcore.events import Event
from eventcore.service import Eventcore
from eventcore.strategies import AN_INSTANT_US, a_chunk, a_death, an_event, an_id
from tests import http_requests
from tests.http_requests import JSON, as_bytes

HEADERS = {"Content-Type": JSON}


async def bury(core: Eventcore, *events: Event, project: str = "default", **more: Any) -> None:
    await core.store.append([a_chunk(dead=[a_death(event) for event in events], project=project, **more)])


def text_id(number: int) -> str:
    return str(UUID(bytes=an_id(number)))


async def act(client: httpx.AsyncClient, verb: str, body: Any, **parameters: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await client.post(f"/dead-events/{verb}", content=content, headers=HEADERS, params=parameters)


async def listed(client: httpx.AsyncClient, **parameters: Any) -> dict[str, Any]:
    response = await client.get("/dead-events", params=parameters)
    assert response.status_code == 200, response.text
    models.DeadEventsAnswer.model_validate_json(response.content, strict=True)
    answer: dict[str, Any] = response.json()
    return answer


# Looking


async def test_a_letter_is_shown_whole(client: httpx.AsyncClient, core: Eventcore) -> None:
    event = an_event(properties='{"b" : 12.50,\n "a":"\\u00e9", "n":18446744073709551615}')
    import_id = uuid4()
    death = a_death(event, reason="no", attempts=7, died_us=AN_INSTANT_US + 2_000_000)
    await core.store.append([a_chunk(dead=[death], received_us=AN_INSTANT_US + 1, import_id=import_id.bytes)])
    response = await client.get("/dead-events")
    assert response.headers["content-type"] == "application/json"
    assert response.json()["data"] == [
        {
            "event_id": text_id(1),
            "user_id": "ada",
            "event_type": "page_view",
            "occurred_at": "2026-03-01T12:00:00Z",
            "properties": {"b": 12.5, "a": "é", "n": 18446744073709551615},
            "received_at": "2026-03-01T12:00:00.000001Z",
            "import_id": str(import_id),
            "reason": "no",
            "attempts": 7,
            "died_at": "2026-03-01T12:00:02Z",
            "name": member(event).hex(),
        }
    ]
    assert '"properties":{"b":12.50,"a":"\\u00e9","n":18446744073709551615}' in response.text  # spelled as sent
    assert response.json()["meta"]["next"] is None


async def test_no_letters_are_an_empty_list(client: httpx.AsyncClient, core: Eventcore) -> None:
    await bury(core, an_event(), project="other")
    assert (await listed(client))["data"] == []
    assert len((await listed(client, project="other"))["data"]) == 1
    assert (await listed(client, project="unheard-of"))["data"] == []


async def test_pages_follow_one_another(client: httpx.AsyncClient, core: Eventcore) -> None:
    await bury(core, *[an_event(event_id=number) for number in range(25)])
    found: list[str] = []
    after, pages = "", 0
    while after is not None:
        page = await listed(client, limit=10, after=after)
        found += [letter["event_id"] for letter in page["data"]]
        after, pages = page["meta"]["next"], pages + 1
    assert found == [text_id(number) for number in range(25)]
    assert pages == 3


async def test_a_hundred_are_shown_unless_told_otherwise(client: httpx.AsyncClient, core: Eventcore) -> None:
    await bury(core, *[an_event(event_id=number) for number in range(150)])
    page = await listed(client)
    assert (len(page["data"]), page["meta"]["next"]) == (100, page["data"][-1]["name"])


async def test_one_id_has_a_letter_for_each_content(client: httpx.AsyncClient, core: Eventcore) -> None:
    await bury(core, an_event(user_id="ada"), an_event(user_id="grace"), an_event(event_id=2))
    response = await client.get(f"/dead-events/{text_id(1).upper()}")
    assert response.status_code == 200
    assert {letter["user_id"] for letter in response.json()["data"]} == {"ada", "grace"}


async def test_an_id_without_a_letter_is_404(client: httpx.AsyncClient, core: Eventcore) -> None:
    await bury(core, an_event())
    for path, project in ((text_id(2), "default"), (text_id(1), "other"), ("00", "default")):
        response = await client.get(f"/dead-events/{path}", params={"project": project})
        assert (response.status_code, response.json()["code"]) == (404, "dead_event_not_found")
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["request_id"] == response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/dead-events?limit=0", "limit"),
        ("/dead-events?limit=1001", "limit"),
        ("/dead-events?limit=1e1", "limit"),
        ("/dead-events?limit=", "limit"),
        ("/dead-events?after=x", "after"),
        ("/dead-events?after=" + "q" * 3_000, "after"),
        ("/dead-events?project=No", "project"),
        ("/dead-events?limt=1", "limt"),
        ("/dead-events?limit=1&limit=2", "limit"),
        ("/dead-events/nonsense", "event_id"),
        ("/dead-events/replay", "event_id"),
        ("/dead-events/'; DROP TABLE dead_events", "event_id"),
        (f"/dead-events/{text_id(1)}?after=x", "after"),
        (f"/dead-events/{text_id(1)}?project=", "project"),
    ],
)
async def test_a_question_without_an_answer_is_422(client: httpx.AsyncClient, path: str, field: str) -> None:
    response = await client.get(path)
    assert (response.status_code, response.json()["field"]) == (422, field)
    assert response.headers["content-type"] == "application/problem+json"
    assert "q" * 65 not in response.text


STRANGE: dict[str, dict[str, Any]] = {
    "short id": {"event_id": b"fifteen bytes.."},
    "long id": {"event_id": b"seventeen bytes.."},
    "no id": {"event_id": b""},
    "nil": {"event_id": bytes(16)},
    "NUL": {"user_id": "a\0b", "event_type": "\0"},
    "controls": {"user_id": "\x1b[31mred\x9b0m\u202e", "event_type": "\r\n\t\x7f"},
    "surrogates": {"user_id": "\ud800", "event_type": "a\udfffb", "properties": '{"a":"\ud800"}'},
    "year 10000": {"occurred_us": 253_402_300_800_000_000},
    "1969": {"occurred_us": -1},
    "before Christ": {"occurred_us": -(2**63)},
    "65 bits": {"occurred_us": 2**64},
    "not JSON": {"properties": "this is not JSON"},
    "cut short": {"properties": '{"a":'},
    "empty": {"properties": ""},
    "an array": {"properties": "[1]"},
    "a string": {"properties": '"{}"'},
    "NaN": {"properties": '{"a":NaN}'},
    "1e400": {"properties": '{"a":1e400}'},
    "an escaped surrogate": {"properties": '{"a":"\\ud800"}'},
    "two lines": {"properties": '{"a":\n1}'},
    "deep": {"properties": '{"a":' * 90_000 + "1" + "}" * 90_000},
    "rather deep": {"properties": '{"a":' * 700 + "1" + "}" * 700},
    "wide": {"properties": json.dumps({str(number): {} for number in range(200)})},
}


@pytest.mark.parametrize("strange", STRANGE.values(), ids=STRANGE)
async def test_a_letter_is_shown_whatever_it_holds(
    client: httpx.AsyncClient, core: Eventcore, strange: dict[str, Any]
) -> None:
    event = msgspec.structs.replace(an_event(event_id=5), **strange)
    await bury(core, event, an_event(event_id=6))
    page = await listed(client)
    shown = next(letter for letter in page["data"] if letter["name"] == member(event).hex())
    assert len(page["data"]) == 2
    if shown["event_id"]:
        found = await client.get(f"/dead-events/{shown['event_id']}")
        assert found.json()["data"] == [shown]
        assert (await act(client, "drop", {"event_ids": [shown["event_id"]]})).json() == {"dropped": 1, "missing": 0}
    else:
        assert (await act(client, "drop", {"all": True})).json() == {"dropped": 2, "missing": 0}


async def test_what_json_cannot_say_is_told_from_what_it_can(client: httpx.AsyncClient, core: Eventcore) -> None:
    names = ("short id", "surrogates", "year 10000", "not JSON", "a string", "rather deep", "wide")
    for number, name in enumerate(names):
        await bury(core, msgspec.structs.replace(an_event(event_id=number, user_id=name), **STRANGE[name]))
    data = (await listed(client))["data"]
    found = {letter["user_id"]: letter for letter in data}
    assert found["short id"]["event_id"] == b"fifteen bytes..".hex()
    assert found["\\ud800"]["event_type"] == "a\\udfffb"
    assert found["\\ud800"]["properties"] == '{"a":"\\ud800"}'
    assert found["year 10000"]["occurred_at"] == "253402300800000000 microseconds since 1970"
    assert found["not JSON"]["properties"] == "this is not JSON"
    assert found["a string"]["properties"] == '"{}"'
    assert found["rather deep"]["properties"] == STRANGE["rather deep"]["properties"]
    assert found["wide"]["properties"] == json.loads(STRANGE["wide"]["properties"])


# Replaying and dropping


async def test_replaying_some_and_all(client: httpx.AsyncClient, core: Eventcore) -> None:
    await bury(core, *[an_event(event_id=number) for number in range(1, 6)], an_event(event_id=6, user_id="a\0b"))
    response = await act(client, "replay", {"event_ids": [text_id(2), text_id(99), text_id(2)]})
    assert response.status_code == 200
    models.ReplayAnswer.model_validate_json(response.content, strict=True)
    assert response.json() == {"stored": 1, "duplicates": 0, "conflicts": 0, "refused": 0, "missing": 1}
    assert (await client.get(f"/events/{text_id(2)}")).status_code == 200
    assert (await act(client, "replay", {"all": True})).json() == {
        "stored": 4,
        "duplicates": 0,
        "conflicts": 0,
        "refused": 1,
        "missing": 0,
    }
    assert [letter["user_id"] for letter in (await listed(client))["data"]] == ["a\0b"]


async def test_dropping_some_and_all(client: httpx.AsyncClient, core: Eventcore) -> None:
    await bury(core, *[an_event(event_id=number) for number in range(1, 6)])
    await bury(core, an_event(event_id=1), project="other")
    response = await act(client, "drop", {"event_ids": [text_id(2), text_id(99)]})
    models.DropAnswer.model_validate_json(response.content, strict=True)
    assert (response.status_code, response.json()) == (200, {"dropped": 1, "missing": 1})
    assert (await act(client, "drop", {"all": True})).json() == {"dropped": 4, "missing": 0}
    assert (await listed(client))["data"] == []
    assert len((await listed(client, project="other"))["data"]) == 1
    assert (await client.get(f"/events/{text_id(2)}")).status_code == 404


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "empty_body"),
        (b" \n", 400, "empty_body"),
        (b"{", 400, "invalid_json"),
        (b'{"all":tru', 400, "invalid_json"),
        (b'{"all":true}}', 400, "invalid_json"),
        (b'{"all":true,}', 400, "invalid_json"),
        (b"\xff", 400, "invalid_json"),
        (b'{"event_ids":["\xff"]}', 400, "invalid_json"),
        (b'{"event_ids":["\\ud800"]}', 400, "invalid_json"),
        ('{"all":true}'.encode("utf-16"), 400, "invalid_json"),
        (b"[" * 50_000, 400, "invalid_json"),
        (b"null", 400, "not_an_object"),
        (b"[]", 400, "not_an_object"),
        (b'["all"]', 400, "not_an_object"),
        (b'"all"', 400, "not_an_object"),
        (b"true", 400, "not_an_object"),
        (b"{}", 422, "missing_field"),
        (b'{"all":false}', 422, "wrong_type"),
        (b'{"all":1}', 422, "wrong_type"),
        (b'{"all":"true"}', 422, "wrong_type"),
        (b'{"all":null}', 422, "wrong_type"),
        (b'{"event_ids":null}', 422, "wrong_type"),
        (b'{"event_ids":"all"}', 422, "wrong_type"),
        (b'{"event_ids":{}}', 422, "wrong_type"),
        (b'{"event_ids":[1]}', 422, "wrong_type"),
        (b'{"event_ids":[["x"]]}', 422, "wrong_type"),
        (b'{"event_ids":[]}', 422, "no_event_ids"),
        (b'{"event_ids":["all"]}', 422, "invalid_event_id"),
        (b'{"event_ids":[""]}', 422, "invalid_event_id"),
        (b'{"event_ids":["' + b"q" * 3_000 + b'"]}', 422, "invalid_event_id"),
        (b'{"event_ids":["%s"],"all":true}' % text_id(1).encode(), 422, "ambiguous"),
        (b'{"all":true,"project":"default"}', 422, "unknown_field"),
        (b'{"ALL":true}', 422, "unknown_field"),
        (b'{"all":false,"all":true}', 400, "duplicate_key"),
        (b'{"all":true,"all":true}', 400, "duplicate_key"),
        (b'{"event_ids":["%s"],"\\u0065vent_ids":[]}' % text_id(1).encode(), 400, "duplicate_key"),
        (b'{"event_ids":[{"a":1,"a":2}]}', 400, "duplicate_key"),
        (b'{"all":NaN}', 400, "invalid_json"),
        (b'{"' + b"q" * 3_000 + b'":true}', 422, "unknown_field"),
        (as_bytes({"event_ids": [text_id(1)] * (MOST_EVENT_IDS + 1)}), 413, "too_many_event_ids"),
        (b'{"all":true' + b" " * BODY_BYTES + b"}", 413, "body_too_large"),
    ],
)
@pytest.mark.parametrize("verb", ["replay", "drop"])
async def test_a_body_that_does_not_say_what_is_meant_changes_nothing(
    client: httpx.AsyncClient, core: Eventcore, verb: str, body: bytes, status: int, code: str
) -> None:
    await bury(core, an_event())
    response = await act(client, verb, body)
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert "q" * 65 not in response.text
    assert len((await listed(client))["data"]) == 1


async def test_as_many_ids_as_may_be_named_fit_into_a_body(client: httpx.AsyncClient, core: Eventcore) -> None:
    body = json.dumps({"event_ids": [text_id(number) for number in range(MOST_EVENT_IDS)]}, indent=8).encode()
    await bury(core, an_event(event_id=MOST_EVENT_IDS - 1))
    for coding in ("identity", "gzip"):
        content = gzip.compress(body) if coding == "gzip" else body
        headers = HEADERS | {"Content-Encoding": coding}
        response = await client.post("/dead-events/replay", content=content, headers=headers)
        assert response.status_code == 200, response.text
    assert response.json()["missing"] == MOST_EVENT_IDS


@pytest.mark.parametrize("verb", ["replay", "drop"])
@pytest.mark.parametrize(
    ("headers", "parameters", "status"),
    [
        ({"Content-Type": "text/plain"}, "", 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, "", 415),
        ({"Content-Type": "application/json; charset=latin-1"}, "", 415),
        ({"Content-Type": "application/x-ndjson"}, "", 415),
        ({"Content-Type": "application/jsonl"}, "", 415),
        ({}, "", 415),
        ({"Content-Type": JSON, "Content-Encoding": "br"}, "", 415),
        ({"Content-Type": JSON, "Origin": "http://evil.example"}, "", 403),
        ({"Content-Type": JSON, "Host": "evil.example"}, "", 403),
        (HEADERS, "?project=No", 422),
        (HEADERS, "?all=true", 422),
        (HEADERS, "?project=default&project=other", 422),
    ],
)
async def test_a_request_that_is_not_meant_changes_nothing(
    client: httpx.AsyncClient, core: Eventcore, verb: str, headers: dict[str, str], parameters: str, status: int
) -> None:
    await bury(core, an_event())
    response = await client.post(f"/dead-events/{verb}{parameters}", content=b'{"all":true}', headers=headers)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert len((await listed(client))["data"]) == 1


async def test_looking_by_the_wrong_method_is_405(client: httpx.AsyncClient) -> None:
    assert (await client.delete("/dead-events")).status_code == 405
    assert (await client.post(f"/dead-events/{text_id(1)}", content=b"{}", headers=HEADERS)).status_code == 405


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
members = st.dictionaries(
    st.sampled_from(["event_ids", "all", "x"]),
    anything | st.lists(st.sampled_from([text_id(1), text_id(2), "00"]), max_size=4) | st.just(True),
)
bodies = st.binary(max_size=40) | (members | anything).map(lambda value: json.dumps(value).encode())


@examples(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=bodies, verb=st.sampled_from(["replay", "drop"]))
async def test_no_body_ends_in_a_500(client: httpx.AsyncClient, body: bytes, verb: str) -> None:
    assert (await act(client, verb, body)).status_code in {200, 400, 413, 422}


@examples(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pairs=st.lists(
        st.tuples(st.sampled_from(["limit", "after", "project", "x"]), st.text(max_size=8) | st.just("1")), max_size=3
    ),
    path=st.sampled_from(["", "/" + text_id(1), "/00"]) | st.text(max_size=20).map(lambda text: "/" + text),
)
async def test_no_question_ends_in_a_500(client: httpx.AsyncClient, pairs: list[tuple[str, str]], path: str) -> None:
    response = await client.get("/dead-events" + quote(path), params=pairs)
    assert response.status_code in {200, 404, 422}


# From POST /events to a dead letter, on SQLite


@pytest.fixture
async def embedded(tmp_path: Path) -> AsyncIterator[tuple[httpx.AsyncClient, Eventcore, Path]]:
    """The application on a file, whose table of events has got a rule of its own: it takes nothing of mallory's."""
    path = tmp_path / "store.sqlite3"
    settings = Settings(_env_file=None, store_url=f"sqlite:///{path}")
    async with open_eventcore(settings) as core:
        run(
            path,
            "CREATE TRIGGER no_mallory BEFORE INSERT ON events "
            "WHEN NEW.user_key = (SELECT user_key FROM users WHERE user_id = 'mallory') "
            "BEGIN SELECT RAISE(ABORT, 'mallory may not come in'); END",
        )
        app: FastAPI = create_app(settings, core)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1:8000") as client:
            yield client, core, path


def run(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path, timeout=30)) as database:
        database.execute(statement)
        database.commit()


async def send(client: httpx.AsyncClient, *events: dict[str, Any]) -> dict[str, Any]:
    response = await client.post("/events", content=as_bytes(list(events)), headers=HEADERS)
    assert response.status_code == 202, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def the_book(client: httpx.AsyncClient, core: Eventcore) -> dict[str, int]:
    now = datetime.fromtimestamp(core.now_us() / 1e6, UTC)
    first, last = [(now + timedelta(days=days)).date().isoformat() for days in (-1, 1)]  # midnight may come any time
    books = (await client.get("/stats/ingestion", params={"from": first, "to": last})).json()["data"]
    total = Counter[str]()
    for book in books:
        total.update({name: value for name, value in book.items() if name != "date"})
    return {name: value for name, value in total.items() if value}


async def test_an_event_that_the_store_refuses_costs_only_itself(
    embedded: tuple[httpx.AsyncClient, Eventcore, Path],
) -> None:
    client, core, path = embedded
    good = [http_requests.an_event(user_id=f"user {number}") for number in range(7)]
    bad = http_requests.an_event(user_id="mallory", properties={"n": 0.1})
    answer = await send(client, *good[:3], bad, *good[3:])
    assert answer == {"accepted": 8, "duplicates": 0, "conflicts": 0, "rejected": 0, "errors": []}

    for event in good:
        assert (await client.get(f"/events/{event['event_id']}")).status_code == 200
    assert (await client.get(f"/events/{bad['event_id']}")).status_code == 404
    [letter] = (await listed(client))["data"]
    for name in ("event_id", "user_id", "event_type", "occurred_at", "properties"):
        assert letter[name] == bad[name]
    assert letter["reason"]
    assert "mallory" not in letter["reason"]
    assert await the_book(client, core) == {"received": 8, "accepted": 8, "stored": 7, "dead": 1}
    assert list(await core.store.verify()) == []

    # The sender does not know, and sends the same again: to this process, and to another one, whose cache is empty.
    again = await send(client, bad, good[0])
    assert (again["accepted"] + again["duplicates"], again["conflicts"], again["rejected"]) == (2, 0, 0)
    async with open_eventcore(Settings(_env_file=None, store_url=f"sqlite:///{path}")) as other:
        assert (await other.ingest_body(as_bytes([bad]))).accepted == 1
    assert len((await listed(client))["data"]) == 1
    book = await the_book(client, core)
    assert (book["received"], book["stored"], book["dead"]) == (11, 7, 1)
    assert list(await core.store.verify()) == []

    assert (await act(client, "replay", {"all": True})).json()["refused"] == 1
    run(path, "DROP TRIGGER no_mallory")
    assert (await act(client, "replay", {"event_ids": [bad["event_id"]]})).json()["stored"] == 1
    assert (await client.get(f"/events/{bad['event_id']}")).json()["properties"] == {"n": 0.1}
    assert (await listed(client))["data"] == []
    assert (await send(client, bad))["duplicates"] == 1
    book = await the_book(client, core)
    assert (book["stored"], book.get("dead", 0)) == (8, 0)
    assert list(await core.store.verify()) == []


async def test_a_dropped_event_may_be_sent_again(embedded: tuple[httpx.AsyncClient, Eventcore, Path]) -> None:
    client, core, path = embedded
    bad = http_requests.an_event(user_id="mallory")
    await send(client, bad, http_requests.an_event())
    assert (await act(client, "drop", {"event_ids": [bad["event_id"]]})).json() == {"dropped": 1, "missing": 0}
    run(path, "DROP TRIGGER no_mallory")
    assert (await send(client, bad))["accepted"] == 1
    assert (await client.get(f"/events/{bad['event_id']}")).status_code == 200
    assert await the_book(client, core) == {"received": 3, "accepted": 3, "stored": 2, "dead": 1}
    assert list(await core.store.verify()) == []


async def test_a_batch_of_refused_events_is_buried_whole(embedded: tuple[httpx.AsyncClient, Eventcore, Path]) -> None:
    client, core, _ = embedded
    bad = [http_requests.an_event(user_id="mallory") for _ in range(600)]
    assert (await send(client, *bad))["accepted"] == 600
    assert len((await listed(client, limit=1000))["data"]) == 600
    assert await the_book(client, core) == {"received": 600, "accepted": 600, "dead": 600}


async def test_a_store_that_is_away_is_503(client: httpx.AsyncClient, core: Eventcore) -> None:
    await core.store.close()
    for response in (
        await client.get("/dead-events"),
        await client.get(f"/dead-events/{text_id(1)}"),
        await act(client, "replay", {"all": True}),
        await act(client, "drop", {"event_ids": [text_id(1)]}),
    ):
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
