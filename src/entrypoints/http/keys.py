"""/keys: admins give, see and take the API keys of their own project.

Whoever gives a key gives a part of what their own has: no other project, no scope, no time and no origin beyond it. The
first key of all is made on the command line. Not here: who gets as far as this (`guards`), and what a key is
(`eventcore.keys`).
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from entrypoints.http import models
from entrypoints.http.exchange import exchange_of
from entrypoints.http.objects import Objects, parse_object
from entrypoints.http.parameters import NoRepeats, Parameters
from entrypoints.http.problems import HttpProblem
from entrypoints.keys import fresh_random, new_key_document, show_key
from eventcore import access
from eventcore.errors import EventcoreError, Kind
from eventcore.keys import (
    ApiKey,
    parse_days,
    parse_grace,
    parse_key_id,
    parse_label,
    parse_origins,
    parse_scopes,
)
from eventcore.limits import ECHO_CHARS
from eventcore.service import Eventcore

Problems = Mapping[int | str, dict[str, Any]]

_NEW: Final = 'send {"scopes": ["ingest"]}, and label, origins and expires_days as needed'
_ROTATION: Final = 'send nothing, or {"grace_seconds": 3600}'
_TYPES: Final[Mapping[str, tuple[type, str]]] = {
    "scopes": (list, "an array of strings"),
    "origins": (list, "an array of strings"),
    "label": (str, "a string"),
    "expires_days": (int, "a whole number"),
    "grace_seconds": (int, "a whole number"),
}
_KeyId = Annotated[str, Path(description="as the list shows it", examples=[models.EXAMPLE_KEY_ID])]


def make_router(*, body_timeout_seconds: float, found_none: Problems, bad_body: Problems) -> APIRouter:
    """The routes.

    Args:
        body_timeout_seconds: how long a client may take to send its body.
        found_none: describes the problem of an id without a key.
        bad_body: describes the problems of bodies.
    """
    router = APIRouter(prefix="/keys", tags=["keys"], dependencies=[NoRepeats])
    objects = Objects(body_timeout_seconds)

    @router.post(
        "", status_code=201, response_model=models.NewKey, responses={**bad_body}, openapi_extra=models.NEW_KEY_BODY
    )
    async def create(request: Request, asked: Annotated[Parameters, Query()]) -> Response:
        """Make a key; the answer is the only place where it is ever shown."""
        caller = _caller(request)
        members = _members(await objects.read(request), ("scopes", "label", "origins", "expires_days"), _NEW)
        core, now_us = _core(request), _core(request).now_us()
        days = members.get("expires_days")
        scopes = parse_scopes(members.get("scopes", ()))
        origins = parse_origins(members.get("origins", caller.origins))
        expires_us = caller.expires_us if days is None else parse_days(days, now_us)
        _check_gift(caller, scopes, origins, expires_us)
        text, key = await access.create(
            core.store,
            fresh_random(),
            project=asked.project,
            scopes=scopes,
            now_us=now_us,
            label=parse_label(members.get("label", "")),
            origins=origins,
            expires_us=expires_us,
        )
        return _given(request, text, key, now_us)

    @router.post(
        "/{key_id}/rotate",
        status_code=201,
        response_model=models.NewKey,
        responses={**bad_body, **found_none},
        openapi_extra=models.ROTATION_BODY,
    )
    async def rotate(request: Request, key_id: _KeyId, asked: Annotated[Parameters, Query()]) -> Response:
        """Make a key with the same settings; the old one ends now, or after `grace_seconds`."""
        caller = _caller(request)
        body = await objects.read(request) if _has_body(request) else b""
        members = _members(body, ("grace_seconds",), _ROTATION) if body.strip() else {}
        core, now_us = _core(request), _core(request).now_us()
        old = await _find(core, key_id, asked.project)
        _check_gift(caller, old.scopes, old.origins, old.expires_us)
        text, key = await access.rotate(
            core.store,
            old,
            fresh_random(),
            now_us=now_us,
            ends_us=parse_grace(members.get("grace_seconds", 0), now_us),
        )
        return _given(request, text, key, now_us)

    router.add_api_route("", list_keys, methods=["GET"], response_model=models.KeysAnswer)
    router.add_api_route(
        "/{key_id}/revoke", revoke, methods=["POST"], response_model=models.Key, responses={**found_none}
    )
    return router


async def list_keys(request: Request, asked: Annotated[Parameters, Query()]) -> Response:
    """The keys of the project in the order of making, those that have ended included; never their secrets."""
    core = _core(request)
    now_us = core.now_us()
    keys = [show_key(key, now_us) for key in await core.store.keys() if key.project == asked.project]
    return _json({"data": keys}, 200)


async def revoke(request: Request, key_id: _KeyId, asked: Annotated[Parameters, Query()]) -> Response:
    """End a key, for ever: within five seconds every process refuses it."""
    _caller(request)
    core = _core(request)
    now_us = core.now_us()
    key = await access.revoke(core.store, await _find(core, key_id, asked.project), now_us=now_us)
    request.app.state.access.forget()
    exchange_of(request.scope).notes["ended_key"] = key.prefix
    return _json(show_key(key, now_us), 200)


def _caller(request: Request) -> ApiKey:
    """The key that a request came with.

    Raises:
        HttpProblem: the server is open, because nobody made a key yet. Whoever makes the first one shuts all others
            out, so that is for those who can reach the store itself.
    """
    key = exchange_of(request.scope).key
    if key is None:
        raise HttpProblem(403, "no_key_yet", "make the first API key on the command line: `eventcore keys create`")
    return key


def _check_gift(caller: ApiKey, scopes: tuple[str, ...], origins: tuple[str, ...], expires_us: int | None) -> None:
    """Raise an `HttpProblem` unless everything that is given is the giver's own."""
    too_much = None
    if not set(scopes) <= set(caller.scopes):
        too_much = "scopes"
    elif caller.origins and (not origins or not set(origins) <= set(caller.origins)):
        too_much = "origins"
    elif caller.expires_us is not None and (expires_us is None or expires_us > caller.expires_us):
        too_much = "expires_days"
    if too_much is not None:
        raise HttpProblem(403, "more_than_own", f"a key gives no {too_much} that it has not got", field=too_much)


async def _find(core: Eventcore, key_id: str, project: str) -> ApiKey:
    try:
        return await access.find(core.store, parse_key_id(key_id), project=project)
    except EventcoreError as error:
        if error.kind is not Kind.INVALID:
            raise
        raise HttpProblem(404, "key_not_found", "this project has no key with this id", field="key_id") from error


def _members(body: bytes, known: tuple[str, ...], form: str) -> dict[str, Any]:
    """The members of a body; those that are null are as good as absent."""
    members = {name: value for name, value in parse_object(body, form).items() if value is not None}
    for name, value in members.items():
        if name not in known:
            shown = name[:ECHO_CHARS]
            raise EventcoreError(Kind.INVALID, "unknown_field", f"{shown!r} is not known here; {form}", field=shown)
        kind, meant = _TYPES[name]
        # Not isinstance: true and false are no numbers here.
        if type(value) is not kind or (isinstance(value, list) and not all(isinstance(one, str) for one in value)):
            raise EventcoreError(Kind.INVALID, "wrong_type", f"{name} is {meant}", field=name)
    return members


def _has_body(request: Request) -> bool:
    return request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers


def _given(request: Request, text: str, key: ApiKey, now_us: int) -> Response:
    request.app.state.access.forget()
    exchange_of(request.scope).notes["new_key"] = key.prefix
    return _json(new_key_document(text, key, now_us), 201)


def _core(request: Request) -> Eventcore:
    core: Eventcore = request.app.state.eventcore
    return core


def _json(document: Any, status: int) -> Response:
    # A key must not lie in anybody's cache.
    return Response(msgspec.json.encode(document), status, {"Cache-Control": "no-store"}, "application/json")
