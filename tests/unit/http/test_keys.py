"""Keys over HTTP: every route with every wrong key, projects that stay apart, and what admins may give."""

import asyncio
import base64
import json
import random
import re
import time
from collections.abc import AsyncIterator, Iterator
from functools import cache
from typing import Any
from uuid import UUID

import httpx
import msgspec
import pytest
import structlog
from fastapi import FastAPI
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from starlette.routing import Match, Route

from entrypoints.container import open_eventcore
from entrypoints.http import models
from entrypoints.http.app import create_app
from entrypoints.http.guards import need_of
from entrypoints.settings import Settings
from eventcore import access
from eventcore.errors import Kind, StoreError
from eventcore.keys import RANDOM_BYTES, SCOPES, ApiKey, make_key
from eventcore.service import Eventcore
from eventcore.strategies import a_chunk, a_death
from eventcore.strategies import an_event as a_core_event
from tests.http_requests import JSON, an_event, as_bytes

PUBLIC = {"/health", "/health/live", "/health/ready", "/docs", "/openapi.json"}
NEEDS = {
    ("POST", "/events"): "ingest",
    ("GET", "/events/{event_id}"): "read",
    ("GET", "/metrics"): "read",
    ("GET", "/dead-events"): "admin",
    ("GET", "/dead-events/{event_id}"): "admin",
    ("POST", "/dead-events/replay"): "admin",
    ("POST", "/dead-events/drop"): "admin",
    ("GET", "/keys"): "admin",
    ("POST", "/keys"): "admin",
    ("POST", "/keys/{key_id}/revoke"): "admin",
    ("POST", "/keys/{key_id}/rotate"): "admin",
} | {
    ("GET", f"/stats/{name}"): "read"
    for name in ("dau", "active-users", "stickiness", "lifecycle", "event-counts", "top-events", "retention", "ingestion")
}  # fmt: skip
QUERIES = {"/stats/retention": "start_date=2026-01-05"}
THEIRS = "theirs-zqxj"
"""Stands in everything that belongs to the project `shop`, and must never be seen by anybody of `default`."""
THEIR_ID = "0192f0c1-2b3a-7c4d-8e5f-6a7b8c9d0e99"

no_deadline = hypothesis_settings(deadline=None)
_numbers = iter(range(1, 1_000_000))


def new_key(**changes: Any) -> tuple[str, ApiKey]:
    number = next(_numbers)
    some = random.Random(number).randbytes(RANDOM_BYTES)
    return make_key(some, **({"project": "default", "scopes": SCOPES, "now_us": time.time_ns() // 1_000} | changes))


async def give(core: Eventcore, *, revoked_us: int | None = None, **changes: Any) -> str:
    text, key = new_key(**changes)
    await core.store.put_key(msgspec.structs.replace(key, revoked_us=revoked_us))
    return text


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


def routes(app: FastAPI) -> list[Route]:
    """All routes, those of included routers too, which FastAPI keeps apart."""
    found: list[Any] = list(app.routes)
    for one in found:
        found += getattr(getattr(one, "original_router", None), "routes", ())
    return [one for one in found if isinstance(one, Route)]


def the_request(method: str, path: str, project: str | None = None) -> tuple[str, str, dict[str, Any]]:
    """A request that works with a good key."""
    url = path.replace("{event_id}", THEIR_ID).replace("{key_id}", "abcdefgh")
    query = [QUERIES.get(path, "from=2026-01-01&to=2026-01-31")] if path.startswith("/stats") else []
    query += [f"project={project}"] if project else []
    more: dict[str, Any] = {}
    if method == "POST":
        body: Any = {"/events": [an_event()], "/keys": {"scopes": ["read"]}}.get(path, {"all": True})
        if "{key_id}" not in path:
            more = {"content": as_bytes(body), "headers": {"Content-Type": JSON}}
    return method, url + ("?" + "&".join(query) if query else ""), more


async def ask(client: httpx.AsyncClient, request: tuple[str, str, dict[str, Any]], headers: Any = ()) -> httpx.Response:
    method, url, more = request
    sent = [*dict(more.get("headers", {})).items(), *(headers.items() if isinstance(headers, dict) else headers)]
    return await client.request(method, url, content=more.get("content"), headers=sent)


@pytest.fixture(autouse=True)
def keys_are_known_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that was made less than half a second ago may be unknown; here they come faster than that."""
    monkeypatch.setattr(access, "UNKNOWN_US", -1)


@pytest.fixture
async def both(core: Eventcore) -> Eventcore:
    """Two projects with events, dead letters and keys; all of `shop` is marked."""
    shop = a_core_event(event_id=UUID(THEIR_ID).bytes, user_id=THEIRS, event_type=THEIRS)
    dead = a_core_event(event_id=7, user_id=THEIRS, event_type=THEIRS)
    await core.store.append([a_chunk(shop, dead=[a_death(dead)], project="shop"), a_chunk(a_core_event())])
    await give(core, project="shop", label=THEIRS)
    _, key = new_key(project="shop", label=THEIRS)
    await core.store.put_key(msgspec.structs.replace(key, key_id="abcdefgh"))
    return core


async def everything(core: Eventcore) -> Any:
    store: Any = core.store
    return msgspec.json.encode(
        {
            name: (
                sorted(project.events), sorted(project.dead), sorted(project.conflicts), sorted(project.user_keys),
                project.books, project.dropped,
            )
            for name, project in store._projects.items()
        },
        enc_hook=repr,
    ), [msgspec.structs.replace(key, last_used_us=None) for key in await core.store.keys()]  # fmt: skip


# Every route


def test_every_route_is_listed_here(app: FastAPI) -> None:
    found = {(method, route.path) for route in routes(app) for method in route.methods or ()}
    assert {route for route in found if route[0] != "HEAD"} == set(NEEDS) | {("GET", path) for path in PUBLIC}
    assert {route: need_of(route[1], route[0]) for route in NEEDS} == NEEDS
    assert [need_of(path, "GET") for path in PUBLIC] == [None] * len(PUBLIC)


@cache
def an_app() -> FastAPI:
    return create_app(Settings(_env_file=None, store_url="memory://"))


@no_deadline
@given(
    st.sampled_from([*NEEDS, *(("GET", path) for path in PUBLIC)]),
    st.text(max_size=3),
    st.text(max_size=3),
    st.sampled_from(["GET", "POST", "HEAD", "DELETE"]),
)
def test_the_guard_and_the_router_read_paths_alike(
    route: tuple[str, str], before: str, behind: str, method: str
) -> None:
    """Whatever the router takes for a route needs what this route needs."""
    app = an_app()
    for path in (before + route[1] + behind, re.sub(r"\{\w+\}", behind or "x", route[1]) + before, route[1] + "\n"):
        scope = {"type": "http", "method": method, "path": path, "root_path": "", "headers": []}
        for found in routes(app):
            if found.matches(scope)[0] is Match.FULL:
                need = NEEDS.get((method, found.path)) if found.path not in PUBLIC else None
                assert need_of(path, method) in (need, "any"), (path, found.path)
                assert need is None or need_of(path, method) == need, (path, found.path)


def wrong_keys() -> Iterator[tuple[str, dict[str, Any]]]:
    yield "unknown", {}
    yield "revoked", {"revoked_us": 1}
    yield "expired", {"expires_us": 2}
    for scope in SCOPES:
        yield f"only {scope}", {"scopes": (scope,)}
        yield f"all but {scope}", {"scopes": tuple(one for one in SCOPES if one != scope)}
    yield "other project", {"project": "shop"}


async def wrong_headers(core: Eventcore, name: str, settings: dict[str, Any]) -> list[dict[str, str]]:
    text = new_key()[0] if name == "unknown" else await give(core, **settings)
    basic = base64.b64encode(f"{text}:".encode()).decode()
    return [bearer(text), {"X-Api-Key": text}, {"Authorization": f"basic {basic}"}]


@pytest.mark.parametrize(("method", "path"), NEEDS)
async def test_no_route_lets_in_who_shows_no_good_key(
    client: httpx.AsyncClient, both: Eventcore, method: str, path: str
) -> None:
    good = await give(both)
    shown: list[dict[str, str]] = [
        {}, {"Authorization": ""}, bearer(""), bearer("null"), bearer(good[:-1]), bearer(good[:17] + "a" * 32),
        bearer(good.upper()), {"Authorization": good}, {"Authorization": f"Digest {good}"}, {"X-Api-Key": good[8:]},
        {"Authorization": "Basic !"}, {"Authorization": f"Basic {good}"}, {"Cookie": f"key={good}"},
        {"Authorization": "Basic " + base64.b64encode(f"x:{good}".encode()).decode()},
    ]  # fmt: skip
    for name, settings in list(wrong_keys())[:3]:
        shown += await wrong_headers(both, name, settings)
    before = await everything(both)
    for headers in shown:
        for project in (None, "default", "shop"):
            response = await ask(client, the_request(method, path, project), headers)
            assert (response.status_code, response.headers["www-authenticate"][:6]) == (401, "Bearer"), headers
            assert response.json()["code"] in ("missing_key", "invalid_key")
            assert THEIRS not in response.text
            assert good not in response.text
    for url in (f"?key={good}", f"?api_key={good}", f"?access_token={good}"):
        assert (await client.request(method, path + url)).status_code == 401
    assert await everything(both) == before


@pytest.mark.parametrize(("method", "path"), NEEDS)
async def test_no_route_goes_beyond_a_key(client: httpx.AsyncClient, both: Eventcore, method: str, path: str) -> None:
    """Neither beyond its scopes nor beyond its project; what is within them works."""
    for name, settings in list(wrong_keys())[3:-1]:
        if NEEDS[method, path] in settings["scopes"]:
            continue
        before = None
        for headers in await wrong_headers(both, name, settings):
            before = before or await everything(both)
            response = await ask(client, the_request(method, path), headers)
            assert (response.status_code, response.json()["code"]) == (403, "missing_scope")
            assert await everything(both) == before
    good = await give(both)
    before = await everything(both)
    for project in ("shop", "", "default ", "DEFAULT", "default&project=shop", "default%00", "*"):
        response = await ask(client, the_request(method, path, project or "%20"), bearer(good))
        assert (response.status_code, response.json()["code"]) == (403, "other_project"), project
        assert THEIRS not in response.text
    for query in ("pr%6Fject=shop", "a=1&project=shop", "project=default&p%72oject=shop", "project", "project="):
        url = the_request(method, path)[1]
        response = await ask(client, (method, url + ("&" if "?" in url else "?") + query, {}), bearer(good))
        assert (response.status_code, response.json()["code"]) == (403, "other_project"), query
    assert await everything(both) == before
    for project in (None, "default"):
        response = await ask(client, the_request(method, path, project), bearer(good))
        assert response.status_code in (200, 201, 202, 404), response.text
        if response.status_code == 404:
            assert "_id}" in path
        assert THEIRS not in response.text.replace(f'type="{THEIRS}"', "")
    shop = (await everything(both))[0]
    assert json.loads(shop)["shop"] == json.loads(before[0])["shop"]


async def test_without_a_project_the_keys_own_is_meant(client: httpx.AsyncClient, both: Eventcore) -> None:
    shop = await give(both, project="shop")
    event = an_event(user_id="shopper")
    assert (
        await ask(
            client, ("POST", "/events", {"content": as_bytes([event]), "headers": {"Content-Type": JSON}}), bearer(shop)
        )
    ).status_code == 202
    assert (await client.get(f"/events/{event['event_id']}", headers=bearer(shop))).status_code == 200
    assert (await client.get(f"/events/{event['event_id']}?project=shop", headers=bearer(shop))).status_code == 200
    assert (await client.get(f"/events/{event['event_id']}", headers=bearer(await give(both)))).status_code == 404
    assert await both.find(event["event_id"], project="default") is None
    assert THEIRS in (await client.get("/dead-events", headers=bearer(shop))).text
    assert THEIRS in (await client.get("/stats/top-events?from=2026-01-01&to=2026-12-31", headers=bearer(shop))).text


async def test_public_routes_ask_for_nothing(client: httpx.AsyncClient, both: Eventcore) -> None:
    for path in PUBLIC:
        response = await client.get(path, headers={"Host": "stats.example", "Origin": "https://shop.example"})
        assert response.status_code == 200
        assert THEIRS not in response.text
    assert "An API key is needed" in (await client.get("/docs")).text


async def test_what_is_not_there_is_so_for_those_with_a_key(client: httpx.AsyncClient, both: Eventcore) -> None:
    assert (await client.get("/nope")).status_code == 401
    assert (await client.get("/nope", headers=bearer(await give(both, scopes=("ingest",))))).status_code == 404
    assert (await client.put("/events", headers=bearer(await give(both)))).status_code == 405


async def test_projects_stay_apart_under_mixed_load(client: httpx.AsyncClient, core: Eventcore) -> None:
    """Random requests with random keys of two projects, many at once: each sees its own, writes its own, or is refused."""
    rng = random.Random(6)
    keys: list[tuple[str, str, tuple[str, ...], bool]] = []
    for project in ("one", "two"):
        for scopes in (("ingest",), ("read",), ("admin",), SCOPES):
            keys.append((await give(core, project=project, scopes=scopes), project, scopes, True))
        for ended in ({"revoked_us": 1}, {"expires_us": 1}):
            keys.append((await give(core, project=project, **ended), project, SCOPES, False))
    keys.append((new_key()[0], "one", SCOPES, False))
    sent: dict[str, set[str]] = {"one": set(), "two": set()}

    async def one_request() -> None:
        text, own, scopes, is_good = rng.choice(keys)
        method, path = rng.choice(list(NEEDS))
        if "rotate" in path or "revoke" in path:
            return
        asked = rng.choice((None, "one", "two"))
        method, url, more = the_request(method, path, asked)
        event = an_event(user_id=f"user of {own}", event_type=f"type of {own}")
        if path == "/events":
            more["content"] = as_bytes([event])
        if path == "/keys" and method == "POST":
            more["content"] = as_bytes({"scopes": ["read"], "label": f"label of {own}"})
        other = "two" if own == "one" else "one"
        response = await ask(client, (method, url, more), bearer(text))
        if not is_good:
            assert response.status_code == 401
        elif asked == other or NEEDS[method, path] not in scopes:
            assert response.status_code == 403
        elif response.status_code == 403:
            assert (method, path, response.json()["code"]) == ("POST", "/keys", "more_than_own")
        else:
            assert response.status_code in (200, 201, 202, 404), response.text
            if path == "/events":
                sent[own].add(event["event_id"])
        if path != "/metrics":
            assert f"of {other}" not in response.text

    for _ in range(20):
        await asyncio.gather(*(one_request() for _ in range(40)))
    store: Any = core.store
    for project, ids in sent.items():
        assert ids
        assert {UUID(bytes=event_id) for event_id in store._projects[project].events} == set(map(UUID, ids))
        assert set(store._projects[project].user_keys) == {f"user of {project}"}
        assert {key.project for key in await store.keys() if key.label == f"label of {project}"} <= {project}
    assert set(store._projects) == {"one", "two"}


# Which key was shown


async def test_a_key_may_come_in_three_ways(client: httpx.AsyncClient, core: Eventcore) -> None:
    text = await give(core)
    basic = [base64.b64encode(f"{text}{rest}".encode()).decode() for rest in (":", "", ":password")]
    for headers in (
        {"Authorization": f"Bearer {text}"}, {"authorization": f"bEaReR   {text} "}, {"X-API-KEY": text},
        *({"Authorization": f"Basic {one}"} for one in basic),
        [("Authorization", f"Bearer {text}"), ("X-Api-Key", text)], [("X-Api-Key", text), ("X-Api-Key", text)],
    ):  # fmt: skip
        assert (await client.get("/metrics", headers=headers)).status_code == 200, headers


async def test_two_different_keys_are_refused(client: httpx.AsyncClient, core: Eventcore) -> None:
    one, other, stranger = await give(core), await give(core, project="shop"), new_key()[0]
    for second in (other, stranger):
        for headers in (
            [("Authorization", f"Bearer {one}"), ("X-Api-Key", second)],
            [("Authorization", f"Bearer {one}"), ("Authorization", f"Bearer {second}")],
            [("X-Api-Key", one), ("X-Api-Key", second)],
        ):
            response = await client.get("/metrics", headers=headers)
            assert (response.status_code, response.json()["code"]) == (400, "ambiguous_key")


async def test_the_password_of_a_proxy_is_no_key(client: httpx.AsyncClient, core: Eventcore) -> None:
    basic = base64.b64encode(b"operator:secret").decode()
    headers = {"Authorization": f"Basic {basic}", "X-Api-Key": await give(core)}
    assert (await client.get("/metrics", headers=headers)).status_code == 200


# Origins


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://shop.example", 200), ("HTTPS://SHOP.EXAMPLE", 200), (None, 200), ("https://evil.example", 403),
        ("http://shop.example", 403), ("https://shop.example:8443", 403), ("null", 403), ("", 403),
        ("https://shop.example.evil.example", 403),
    ],
)  # fmt: skip
async def test_a_key_is_good_on_its_own_pages(
    client: httpx.AsyncClient, core: Eventcore, origin: str | None, status: int
) -> None:
    text = await give(core, origins=("https://shop.example",))
    headers = bearer(text) | ({} if origin is None else {"Origin": origin})
    assert (await client.get("/metrics", headers=headers)).status_code == status


async def test_a_key_without_origins_is_good_on_any_page_unless_the_browser_sent_it_by_itself(
    client: httpx.AsyncClient, core: Eventcore
) -> None:
    text = await give(core)
    basic = {"Authorization": "Basic " + base64.b64encode(f"{text}:".encode()).decode()}
    foreign, own = {"Origin": "https://evil.example"}, {"Origin": "http://127.0.0.1:8000"}
    assert (await client.get("/metrics", headers=bearer(text) | foreign)).status_code == 200
    assert (await client.get("/metrics", headers=basic | foreign)).status_code == 403
    assert (await client.get("/metrics", headers=basic | own)).status_code == 200


# Without keys


@pytest.fixture
async def clients(core: Eventcore, settings: Settings) -> AsyncIterator[Any]:
    opened = []

    def make(**changes: Any) -> httpx.AsyncClient:
        app = create_app(settings.model_copy(update=changes), core)
        opened.append(httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://stats.example"))
        return opened[-1]

    yield make
    for client in opened:
        await client.aclose()


async def test_where_others_can_reach_it_an_empty_store_lets_nobody_in(clients: Any) -> None:
    client = clients(host="0.0.0.0")
    for method, path in NEEDS:
        assert (await ask(client, the_request(method, path))).status_code == 401
    assert (await client.get("/health/live")).status_code == 200


async def test_insecure_means_something_only_while_there_is_no_key(clients: Any, core: Eventcore) -> None:
    client = clients(insecure=True, host="0.0.0.0")
    assert (await client.get("/metrics", headers={"Origin": "https://evil.example"})).status_code == 200
    text = await give(core, scopes=("ingest",))
    client = clients(insecure=True, host="0.0.0.0")
    assert (await client.get("/metrics")).status_code == 401
    assert (await client.get("/metrics", headers=bearer(text))).status_code == 403


async def test_ending_the_last_key_opens_nothing(client: httpx.AsyncClient, core: Eventcore) -> None:
    await give(core, revoked_us=1)
    assert (await client.get("/metrics")).status_code == 401


async def test_the_page_says_that_the_server_is_open(client: httpx.AsyncClient) -> None:
    assert "This server is open" in (await client.get("/docs")).text


async def test_nobody_makes_the_first_key_over_http(client: httpx.AsyncClient, core: Eventcore) -> None:
    response = await ask(client, the_request("POST", "/keys"))
    assert (response.status_code, response.json()["code"]) == (403, "no_key_yet")
    assert list(await core.store.keys()) == []
    assert (await client.get("/keys")).json() == {"data": []}


# The store is away


class Away:
    """A store whose list of keys cannot be had."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.asked = 0
        self.is_away = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def keys(self) -> Any:
        self.asked += 1
        if self.is_away:
            raise StoreError(Kind.UNAVAILABLE, "store_away", "away")
        return await self._store.keys()


async def test_while_it_was_never_read_nobody_gets_in(client: httpx.AsyncClient, core: Eventcore) -> None:
    """Also not on an open server: nobody knows whether it is one."""
    core.store = Away(core.store)  # type: ignore[assignment]
    for method, path in NEEDS:
        for headers in ({}, bearer(new_key()[0])):
            response = await ask(client, the_request(method, path), headers)
            assert (response.status_code, response.json()["code"]) == (503, "keys_unavailable")
            assert int(response.headers["retry-after"]) >= 1
    assert (await client.get("/health/live")).status_code == 200
    assert core.store.asked <= 3


async def test_a_flood_of_unknown_keys_asks_the_store_hardly_ever(
    client: httpx.AsyncClient, core: Eventcore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "UNKNOWN_US", 500_000)
    good = await give(core)
    away = Away(core.store)
    away.is_away = False
    core.store = away  # type: ignore[assignment]
    began = time.monotonic()
    for _ in range(100):
        found = await asyncio.gather(*(client.get("/metrics", headers=bearer(new_key()[0])) for _ in range(100)))
        assert {response.status_code for response in found} == {401}
    seconds = time.monotonic() - began
    assert away.asked <= 2 + seconds / 0.5
    assert (await client.get("/metrics", headers=bearer(good))).status_code == 200


# Nothing tells a key


async def test_no_log_line_holds_a_key(client: httpx.AsyncClient, both: Eventcore, app: FastAPI) -> None:
    texts = [await give(both), await give(both, revoked_us=1), new_key()[0], await give(both, scopes=("ingest",))]
    with structlog.testing.capture_logs() as logs:
        for text in texts:
            for method, path in NEEDS:
                response = await ask(client, the_request(method, path), bearer(text))
                if response.status_code == 201:
                    texts.append(response.json()["key"])
                await client.request(
                    method, f"/nope/{text}?{text}={text}", headers={"X-Api-Key": text, "X-Request-ID": text}
                )
            metrics = await client.get("/metrics", headers=bearer(texts[0]))
            assert all(text[17:] not in metrics.text for text in texts)
    written = repr(logs)
    assert len(texts) > 4
    for text in texts:
        assert text[17:] not in written
    assert {line.get("key") for line in logs if line["event"] == "request"} >= {text[:16] for text in texts[:4]}
    assert {line.get("refused") for line in logs} >= {"revoked", "unknown"}


# Admins


async def test_a_key_that_an_admin_gives_works_and_is_shown_once(client: httpx.AsyncClient, core: Eventcore) -> None:
    admin = await give(core, project="shop")
    body = {
        "scopes": ["read", "ingest"],
        "label": "for Éva",
        "origins": ["https://Shop.example:443"],
        "expires_days": 30,
    }
    response = await client.post("/keys", json=body, headers=bearer(admin))
    assert response.status_code == 201
    assert response.headers["cache-control"] == "no-store"
    made = models.NewKey.model_validate_json(response.content, strict=True)
    assert (made.project, made.scopes, made.label, made.origins, made.status) == (
        "shop", ["ingest", "read"], "for Éva", ["https://shop.example"], "active"
    )  # fmt: skip
    assert (await client.get("/metrics", headers=bearer(made.key))).status_code == 200
    assert (await client.get("/keys", headers=bearer(made.key))).status_code == 403
    listed = await client.get("/keys", headers=bearer(admin))
    assert made.key[17:] not in listed.text
    models.KeysAnswer.model_validate_json(listed.content, strict=True)
    assert [key["prefix"] for key in listed.json()["data"]] == [admin[:16], made.prefix]


async def test_an_admin_gives_nothing_that_it_has_not_got(client: httpx.AsyncClient, core: Eventcore) -> None:
    now_us = time.time_ns() // 1_000
    admin = await give(
        core, scopes=("read", "admin"), origins=("https://a.example",), expires_us=now_us + 10 * 86_400_000_000
    )
    own = {"scopes": ["read", "admin"], "origins": ["https://a.example"], "expires_days": 9}
    for changes, field in (
        ({"scopes": ["ingest"]}, "scopes"), ({"scopes": list(SCOPES)}, "scopes"), ({"origins": []}, "origins"),
        ({"origins": ["https://a.example", "https://b.example"]}, "origins"), ({"expires_days": 11}, "expires_days"),
    ):  # fmt: skip
        response = await client.post("/keys", json=own | changes, headers=bearer(admin))
        assert (response.status_code, response.json()["code"], response.json()["field"]) == (
            403,
            "more_than_own",
            field,
        )
    response = await client.post("/keys", json={"scopes": ["read"]}, headers=bearer(admin))
    assert (response.json()["origins"], response.json()["expires_at"] is None) == (["https://a.example"], False)
    stronger = await give(core)
    response = await client.post(f"/keys/{stronger[8:16]}/rotate", headers=bearer(admin))
    assert (response.status_code, response.json()["code"]) == (403, "more_than_own")
    assert len(await core.store.keys()) == 3


async def test_rotating_ends_the_old_key_now_or_after_the_grace(client: httpx.AsyncClient, core: Eventcore) -> None:
    admin, first, second = await give(core), await give(core), await give(core)
    now = await client.post(f"/keys/{first[8:16]}/rotate", headers=bearer(admin))
    later = await client.post(f"/keys/{second[8:16]}/rotate", json={"grace_seconds": 3600}, headers=bearer(admin))
    assert (now.status_code, later.status_code) == (201, 201)
    good = {
        text: (await client.get("/metrics", headers=bearer(text))).status_code
        for text in (first, second, now.json()["key"], later.json()["key"])
    }
    assert list(good.values()) == [401, 200, 200, 200]
    again = await client.post(f"/keys/{first[8:16]}/rotate", headers=bearer(admin))
    assert (again.status_code, again.json()["code"]) == (422, "key_has_ended")


async def test_revoking_counts_at_once_in_the_process_that_did_it(client: httpx.AsyncClient, core: Eventcore) -> None:
    admin, text = await give(core), await give(core)
    assert (await client.get("/metrics", headers=bearer(text))).status_code == 200
    response = await client.post(f"/keys/{text[:16]}/revoke", headers=bearer(admin))
    assert (response.status_code, response.json()["status"]) == (200, "revoked")
    assert (await client.get("/metrics", headers=bearer(text))).status_code == 401


async def test_keys_of_other_projects_are_not_there(client: httpx.AsyncClient, both: Eventcore) -> None:
    admin = await give(both)
    for path in ("/keys/abcdefgh/revoke", "/keys/abcdefgh/rotate", "/keys/zzzzzzzz/revoke", "/keys/%20/rotate"):
        response = await client.post(path, headers=bearer(admin))
        assert (response.status_code, response.json()["code"]) == (404, "key_not_found")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "empty_body"), (b"[]", "not_an_object"), (b"{", "invalid_json"), (b"{}", "invalid_scope"),
        (b'{"scopes":["read"],"scopes":["admin"]}', "duplicate_key"), (b'{"scopes":"read"}', "wrong_type"),
        (b'{"scopes":[1]}', "wrong_type"), (b'{"scopes":["write"]}', "invalid_scope"), (b'{"scopes":[]}', "invalid_scope"),
        (b'{"scopes":["read"],"project":"shop"}', "unknown_field"), (b'{"scopes":["read"],"expires_days":true}', "wrong_type"),
        (b'{"scopes":["read"],"expires_days":0}', "invalid_expires_days"), (b'{"scopes":["read"],"expires_days":1.5}', "wrong_type"),
        (b'{"scopes":["read"],"label":"\\u0007"}', "invalid_label"), (b'{"scopes":["read"],"origins":["*"]}', "invalid_origin"),
        (b'{"scopes":["read"],"key":"ec_live_mine"}', "unknown_field"),
    ],
)  # fmt: skip
async def test_bodies_that_mean_nothing_make_no_key(
    client: httpx.AsyncClient, core: Eventcore, body: bytes, code: str
) -> None:
    admin = await give(core)
    response = await client.post("/keys", content=body, headers=bearer(admin) | {"Content-Type": JSON})
    assert (response.status_code // 100, response.json()["code"]) == (4, code)
    assert len(await core.store.keys()) == 1


async def test_the_use_of_a_key_is_noted(settings: Settings, tmp_path: Any) -> None:
    chosen = settings.model_copy(update={"store_url": f"sqlite:///{tmp_path / 'keys.sqlite3'}"})
    async with open_eventcore(chosen) as core:
        text, app = await give(core), create_app(chosen, core)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
            assert (await client.get("/metrics", headers=bearer(text))).status_code == 200
        await app.state.access.close()
        [key] = await core.store.keys()
        assert key.last_used_us is not None
