"""/dead-events: accepted events that the store refused; look at them, store them after all, drop them.

Not here: how one is shown (`entrypoints.dead`), and what happens to it (`eventcore.dead_letters`).
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Path, Query
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from entrypoints.dead import dead_document
from entrypoints.http import models
from entrypoints.http.exchange import exchange_of
from entrypoints.http.objects import Objects, parse_object
from entrypoints.http.parameters import NoRepeats, Parameters
from entrypoints.http.problems import HttpProblem
from entrypoints.http.replies import core_of, json_reply
from eventcore.dead_letters import MOST_LIMIT, Chosen
from eventcore.errors import EventcoreError, Kind
from eventcore.limits import ECHO_CHARS

_FORM: Final = 'send {"event_ids": ["…"]} or {"all": true}'

Problems = Mapping[int | str, dict[str, Any]]


class _Page(Parameters):
    limit: str = Field("100", description=f"letters at most, 1 to {MOST_LIMIT}", examples=["10"])
    after: str = Field("", description="go on behind this one: next of the page before", examples=[""])


def make_router(*, body_timeout_seconds: float, found_none: Problems, bad_body: Problems) -> APIRouter:
    """The routes.

    Args:
        body_timeout_seconds: how long a client may take to send its body.
        found_none: describes the problem of an id without a letter.
        bad_body: describes the problems of bodies.
    """
    router = APIRouter(prefix="/dead-events", tags=["dead events"], dependencies=[NoRepeats])
    objects = Objects(body_timeout_seconds)

    @router.post("/replay", response_model=models.ReplayAnswer, responses={**bad_body}, openapi_extra=_CHOICE)
    async def replay(request: Request, asked: Annotated[Parameters, Query()]) -> Response:
        """Store dead letters after all; one that the store still refuses stays, and its neighbours are stored."""
        chosen = parse_body(await objects.read(request))
        return _done(request, asked, await core_of(request).replay_dead_letters(chosen, project=asked.project))

    @router.post("/drop", response_model=models.DropAnswer, responses={**bad_body}, openapi_extra=_CHOICE)
    async def drop(request: Request, asked: Annotated[Parameters, Query()]) -> Response:
        """Delete dead letters for ever. Caches forget what they knew of the store, so the events may be sent again."""
        chosen = parse_body(await objects.read(request))
        return _done(request, asked, await core_of(request).drop_dead_letters(chosen, project=asked.project))

    router.add_api_route("", list_letters, methods=["GET"], response_model=models.DeadEventsAnswer)
    router.add_api_route(
        "/{event_id}",
        show_letters,
        methods=["GET"],
        response_model=models.DeadEventsAnswer,
        responses={**found_none},
    )
    return router


async def list_letters(request: Request, asked: Annotated[_Page, Query()]) -> Response:
    """Accepted events that the store refused, each whole and with the reason; a page of them."""
    document = await dead_document(core_of(request), limit=asked.limit, after=asked.after, project=asked.project)
    return json_reply(document)


async def show_letters(
    request: Request,
    event_id: Annotated[str, Path(description="as the list shows it", examples=[models.EXAMPLE_DEAD_ID])],
    asked: Annotated[_Page, Query()],
) -> Response:
    """The dead letters of one id, one for each content that it was sent with, or 404."""
    document = await dead_document(
        core_of(request), limit=asked.limit, after=asked.after, event_id=event_id, project=asked.project
    )
    if not document.data and not asked.after:
        raise HttpProblem(404, "dead_event_not_found", "this project has no dead letter of this id", field="event_id")
    return json_reply(document)


def parse_body(body: bytes) -> Chosen:
    """Read which letters are meant: ``{"event_ids": [...]}`` or ``{"all": true}``.

    Raises:
        BodyError: it is no JSON object.
        EventcoreError: a member is missing, unknown, or has a value that it cannot have.
    """
    document = parse_object(body, _FORM)
    for name in document:
        if name not in ("event_ids", "all"):
            shown = name[:ECHO_CHARS]
            raise EventcoreError(Kind.INVALID, "unknown_field", f"{shown!r} is not known here; {_FORM}", field=shown)
    if len(document) != 1:
        code = "ambiguous" if document else "missing_field"
        raise EventcoreError(Kind.INVALID, code, f"exactly one of event_ids and all is needed; {_FORM}")
    [(name, value)] = document.items()
    if name == "all" and value is True:
        return "all"
    if name == "event_ids" and isinstance(value, list) and all(isinstance(one, str) for one in value):
        return value
    accepted = "true; to choose, name event_ids instead" if name == "all" else "an array of strings"
    raise EventcoreError(Kind.INVALID, "wrong_type", f"{name} is {accepted}", field=name)


_CHOICE: Final[dict[str, Any]] = {
    "requestBody": {"required": True, "content": {"application/json": models.CHOICE_CONTENT}}
}


def _done(request: Request, asked: Parameters, outcome: Any) -> Response:
    counts = msgspec.to_builtins(outcome)
    exchange_of(request.scope).notes.update(project=asked.project, **counts)
    return json_reply(counts)
