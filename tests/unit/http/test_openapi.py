"""The OpenAPI document and /docs: every route is there, and every example works as it stands."""

import json
import re
import shlex
from html import unescape
from typing import Any
from uuid import UUID

import httpx
import msgspec
import pytest
from fastapi import FastAPI

from entrypoints.http import models
from entrypoints.http.app import create_app
from entrypoints.http.docs import example_url, operations
from entrypoints.settings import Settings
from eventcore.keys import SCOPES, make_key
from eventcore.service import Eventcore
from eventcore.strategies import a_chunk, a_death, an_event

ANSWERS = {
    "/events": models.BatchAnswer,
    "/events/{event_id}": models.StoredEvent,
    "/stats/dau": models.DailyActiveUsersAnswer,
    "/stats/active-users": models.ActiveUsersAnswer,
    "/stats/stickiness": models.StickinessAnswer,
    "/stats/lifecycle": models.LifecycleAnswer,
    "/stats/event-counts": models.EventCountsAnswer,
    "/stats/top-events": models.TopEventsAnswer,
    "/stats/retention": models.RetentionAnswer,
    "/stats/ingestion": models.BooksAnswer,
    "/dead-events": models.DeadEventsAnswer,
    "/dead-events/{event_id}": models.DeadEventsAnswer,
    "/keys": models.KeysAnswer,
    "/health": models.Health,
    "/health/ready": models.Health,
    "/health/live": models.Alive,
}

KEY_COMMANDS = ["/keys", "/keys/{key_id}/revoke", "/keys/{key_id}/rotate"]
COMMANDS = {"/dead-events/replay": models.ReplayAnswer, "/dead-events/drop": models.DropAnswer}


async def bury_the_example(core: Eventcore) -> None:
    event = an_event(event_id=UUID(models.EXAMPLE_DEAD_ID).bytes)
    await core.store.append([a_chunk(dead=[a_death(event)])])


def posts(document: dict[str, Any], path: str = "/events") -> list[tuple[str, str, Any]]:
    content = document["paths"][path]["post"]["requestBody"]["content"]
    return [
        (media_type, name, example["value"])
        for media_type, described in content.items()
        for name, example in described["examples"].items()
    ]


def as_sent(value: Any) -> bytes:
    return (value if isinstance(value, str) else json.dumps(value)).encode()


def test_every_route_is_described(app: FastAPI) -> None:
    described = {(method, path) for path, method, _ in operations(app.openapi())}
    gets = {("get", path) for path in [*ANSWERS, "/metrics"] if path != "/events"}
    assert described == gets | {("post", path) for path in ["/events", *COMMANDS, *KEY_COMMANDS]}


def test_every_route_says_which_scope_it_needs(app: FastAPI) -> None:
    scopes = {
        (method, path): {scope for way in operation.get("security", ()) for names in way.values() for scope in names}
        for path, method, operation in operations(app.openapi())
    }
    public = {("get", path) for path in ("/health", "/health/live", "/health/ready")}
    assert {route for route, needed in scopes.items() if not needed} == public
    assert scopes["post", "/events"] == {"ingest"}
    assert scopes["get", "/events/{event_id}"] == scopes["get", "/stats/dau"] == {"read"}
    assert scopes["post", "/dead-events/drop"] == scopes["post", "/keys"] == {"admin"}


async def test_every_example_of_a_body_is_accepted(client: httpx.AsyncClient, app: FastAPI) -> None:
    examples = posts(app.openapi())
    assert len(examples) >= 4
    for media_type, name, value in examples:
        response = await client.post("/events", content=as_sent(value), headers={"Content-Type": media_type})
        assert response.status_code == 202, (name, response.text)
        answer = models.BatchAnswer.model_validate_json(response.content, strict=True)
        assert answer.rejected == (1 if "bad" in name else 0)


@pytest.mark.parametrize("path", COMMANDS)
async def test_every_example_of_a_command_works(
    client: httpx.AsyncClient, app: FastAPI, core: Eventcore, path: str
) -> None:
    examples = posts(app.openapi(), path)
    assert len(examples) >= 2
    for media_type, name, value in examples:
        await bury_the_example(core)
        response = await client.post(path, content=as_sent(value), headers={"Content-Type": media_type})
        assert response.status_code == 200, (name, response.text)
        answer = COMMANDS[path].model_validate_json(response.content, strict=True)
        assert answer.missing == 0
        assert (await client.get("/dead-events")).json()["data"] == []


async def test_every_other_operation_works_with_its_examples(
    client: httpx.AsyncClient, app: FastAPI, core: Eventcore
) -> None:
    await bury_the_example(core)
    for media_type, _, value in posts(app.openapi()):
        await client.post("/events", content=as_sent(value), headers={"Content-Type": media_type})
    for path, method, operation in operations(app.openapi()):
        if method == "get":
            response = await client.get(example_url(path, operation))
            assert response.status_code == 200, (path, response.text)
            if path in ANSWERS:
                ANSWERS[path].model_validate_json(response.content, strict=True)


async def test_every_example_of_a_query_parameter_works(client: httpx.AsyncClient, app: FastAPI) -> None:
    tried = 0
    for path, method, operation in operations(app.openapi()):
        if not path.startswith("/stats"):
            continue
        assert method == "get"
        for parameter in operation["parameters"]:
            [example] = parameter["schema"].get("examples") or parameter["examples"]
            values = example if isinstance(example, list) else [example]
            url = example_url(path, operation)
            if not parameter.get("required"):
                url += "".join(f"&{parameter['name']}={value}" for value in values)
            response = await client.get(url)
            assert response.status_code == 200, (url, response.text)
            tried += 1
    assert tried >= 75


async def test_real_problems_have_the_shape_that_is_described(client: httpx.AsyncClient, app: FastAPI) -> None:
    described = app.openapi()["components"]["schemas"]["ProblemDetails"]
    for response in (await client.get("/nope"), await client.get("/stats/dau"), await client.post("/events")):
        problem = response.json()
        assert set(described["required"]) <= set(problem)
        models.ProblemDetails.model_validate(problem, strict=True)


def test_every_error_that_is_described_is_a_problem(app: FastAPI) -> None:
    for path, _, operation in operations(app.openapi()):
        for status, response in operation["responses"].items():
            if int(status) >= 400 and "/health" not in path:
                assert list(response["content"]) == ["application/problem+json"], (path, status)


async def test_the_document_is_served_and_the_page_needs_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    assert (await client.get("/openapi.json")).json()["openapi"].startswith("3.1")
    page = (await client.get("/docs")).text
    assert "<script" not in page
    assert not re.findall(r"(?:src|href)=[\"']?(?:https?:)?//", page)


@pytest.mark.parametrize("with_a_key", [False, True])
async def test_every_command_on_the_page_works(client: httpx.AsyncClient, core: Eventcore, with_a_key: bool) -> None:
    text = ""
    if with_a_key:
        text, key = make_key(bytes(25), project="default", scopes=SCOPES, now_us=1)
        await core.store.put_key(key)
    page = (await client.get("/docs")).text
    commands = [
        line
        for block in re.findall(r"<pre>(.*?)</pre>", page, re.DOTALL)
        for line in re.split(r"\n(?=curl|#)", unescape(block))
        if line.startswith("curl")
        and (with_a_key or ("-X POST" not in line and "/keys " not in line and "/rotate" not in line))
    ]
    assert len(commands) >= (22 if with_a_key else 17)
    for number, command in enumerate(sorted(commands, key=lambda line: "--data-binary" not in line)):
        words = shlex.split(command.replace("$EVENTCORE_API_KEY", text))
        await bury_the_example(core)
        await bring_the_example_key(core, number)
        headers = dict(words[at + 1].split(": ", 1) for at, word in enumerate(words) if word == "-H")
        url = words[1].replace(models.EXAMPLE_KEY_ID, example_key_id(number))
        if "--data-binary" in words or "POST" in words:
            content = words[words.index("--data-binary") + 1].encode() if "--data-binary" in words else b""
            response = await client.post(url, content=content, headers=headers)
            made = 201 if "/keys" in url else 202
            assert response.status_code == (200 if "/dead-events/" in url or "revoke" in url else made), command
        else:
            assert (await client.get(url, headers=headers)).status_code == 200, command


def example_key_id(number: int) -> str:
    """Ids of the form that the documentation shows, each used up by one command."""
    return f"abcdef{'abcdefghij'[number // 10]}{'abcdefghij'[number % 10]}"


async def bring_the_example_key(core: Eventcore, number: int) -> None:
    if await core.store.keys():
        _, key = make_key(bytes(24) + bytes([number + 1]), project="default", scopes=("read",), now_us=2)
        await core.store.put_key(msgspec.structs.replace(key, key_id=example_key_id(number)))


async def test_docs_can_be_switched_off(settings: Settings, core: Eventcore) -> None:
    app = create_app(settings.model_copy(update={"docs": False}), core)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        for path in ("/docs", "/openapi.json", "/redoc"):
            assert (await client.get(path)).status_code == 404
        wrong = await client.get("/stats/dau?form=2026-01-01")
        assert "'from'" in wrong.json()["message"]


@pytest.mark.parametrize("path", ["/docs", "/openapi.json"])
async def test_a_page_never_repeats_a_script(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path + "?<script>alert(1)</script>")
    assert "alert(1)" not in response.text


@pytest.mark.parametrize("path", [path for path in ANSWERS if path.startswith("/stats/")])
async def test_it_is_said_that_statistics_need_the_queue(client: httpx.AsyncClient, path: str) -> None:
    document = (await client.get("/openapi.json")).json()
    assert "how fresh the numbers are" in document["paths"][path]["get"]["responses"]["503"]["description"]
