"""The FastAPI application: routes, errors and the frame, around one open eventcore.

Not here: the server that runs it (`serve`), and the limits that only a server can keep, on heads and connections
(`protocol`).
"""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import PlainTextResponse, Response

from entrypoints.container import open_eventcore
from entrypoints.http import dead, docs, events, health, keys, models, stats
from entrypoints.http.frame import Frame
from entrypoints.http.guards import Guard, Keyless, is_loopback, need_of
from entrypoints.http.ingest import Ingest
from entrypoints.http.parameters import IngestParameters
from entrypoints.http.problems import ANSWERED, MEDIA_TYPE, answer_error
from entrypoints.settings import Settings
from entrypoints.telemetry import Metrics
from eventcore.access import Access
from eventcore.service import Eventcore

_DESCRIPTION = (
    "Self-hosted event analytics: every event kept exactly once, statistics exact. 202 means durable. After 408, 503, "
    "a timeout or a cut connection send the same events again: it is always safe."
)
_PROBLEM = {"content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}}}


def _problems(**meanings: str) -> dict[int | str, dict[str, Any]]:
    return {status.removeprefix("_"): {**_PROBLEM, "description": text} for status, text in meanings.items()}


_COMMON = _problems(
    _401="an API key is needed, and none that is good was sent",
    _403="not with this key: another project, a missing scope, a foreign Origin; or, without keys, a foreign Host",
    _422="a parameter has no answer",
    _503="send the same again",
)


_NO_STATISTICS = _problems(
    _503="the store does not answer, or the queue, without which nobody can say how fresh the numbers are; ask again"
)

_BAD_BODY = _problems(
    _400="the body is no JSON object",
    _408="the body did not come in time; send the same again",
    _413="a limit on size or number",
    _415="not a Content-Type or Content-Encoding that is accepted",
    _422="a member of the body or a parameter has no meaning",
)


def create_app(settings: Settings, eventcore: Eventcore | None = None, *, keyless: Keyless | None = None) -> FastAPI:
    """Build the application; nothing is opened yet.

    Args:
        settings: how it behaves.
        eventcore: an open one, which stays its opener's to close. Without it the application opens what the settings
            name when it starts, and closes it when it stops.
        keyless: what is let in as long as the store has no API key; by the host and ``insecure`` when not said.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if eventcore is not None:
            yield
            return
        async with open_eventcore(settings) as app.state.eventcore:
            yield
            await access.close()

    app = FastAPI(
        title="eventcore",
        version=health.VERSION,
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json" if settings.docs else None,
        redirect_slashes=False,
        responses=_COMMON,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.eventcore = eventcore
    app.state.keyless = keyless or keyless_of(settings, local=is_loopback(settings.host))
    app.state.access = access = Access(
        lambda: app.state.eventcore.store,
        clock_us=lambda: time.time_ns() // 1_000,
        elapsed_us=lambda: time.monotonic_ns() // 1_000,
        stale_seconds=settings.keys_stale_seconds,
    )
    metrics = Metrics()
    metrics.watch_cache(lambda: app.state.eventcore is not None and app.state.eventcore.cache.healthy)
    app.add_middleware(Frame, metrics=metrics, guard=Guard(access, app.state.keyless))
    for error in ANSWERED:
        app.add_exception_handler(error, answer_error)
    _add_ingest(app, settings, metrics)
    _add_metrics(app, metrics)
    app.include_router(events.router)
    app.include_router(
        dead.make_router(
            body_timeout_seconds=settings.body_timeout_seconds,
            found_none=_problems(_404="there is no dead letter of this id"),
            bad_body=_BAD_BODY,
        )
    )
    app.include_router(
        keys.make_router(
            body_timeout_seconds=settings.body_timeout_seconds,
            found_none=_problems(_404="this project has no key with this id"),
            bad_body=_BAD_BODY,
        )
    )
    app.include_router(stats.router, responses=_NO_STATISTICS)
    app.include_router(health.router)
    if settings.docs:
        app.include_router(docs.router)
    _complete(app)
    return app


def keyless_of(settings: Settings, *, local: bool) -> Keyless:
    """What is let in as long as there is no key.

    Args:
        settings: say whether they are ``insecure``.
        local: whether only this machine reaches the server.
    """
    if settings.insecure:
        return "open"
    return "local" if local else "closed"


def _add_ingest(app: FastAPI, settings: Settings, metrics: Metrics) -> None:
    async def ingest(asked: Annotated[IngestParameters, Query()]) -> None:
        """Take in a batch: valid events are kept, the others are named one by one. `Content-Encoding: gzip` works."""

    app.add_api_route(
        "/events",
        ingest,
        methods=["POST"],
        status_code=202,
        tags=["events"],
        response_model=models.BatchAnswer,
        responses={
            200: {"model": models.BatchAnswer, "description": "what would happen (dry_run)"},
            **_problems(
                _400="the body is no batch of events",
                _408="the body did not come in time; send the same again",
                _413="a limit on size or number",
                _415="not a Content-Type or Content-Encoding that is accepted",
                _422="no event was kept (with the members of the 202 answer), or a parameter has no answer",
            ),
        },
        openapi_extra={"requestBody": {"required": True, "content": models.BATCH_CONTENT}},
    )
    # The route above describes; this is what runs. FastAPI's own way to a function costs more than the whole batch.
    route = app.router.routes[-1]
    assert isinstance(route, APIRoute)
    route.app = Ingest(
        metrics=metrics,
        in_flight_bytes=settings.in_flight_bytes,
        body_timeout_seconds=settings.body_timeout_seconds,
    )


_SCHEMES: dict[str, Any] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "an API key"},
    "header": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
    "basic": {"type": "http", "scheme": "basic", "description": "an API key as user name, any password"},
}


def _complete(app: FastAPI) -> None:
    """Describe what the frame does: problems, and which routes need a key with which scope."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        document["components"]["schemas"]["ProblemDetails"] = models.ProblemDetails.model_json_schema()
        document["components"]["securitySchemes"] = _SCHEMES
        for path, method, operation in docs.operations(document):
            need = need_of(path, method.upper())
            if need is None:
                operation["responses"].pop("401", None)  # FastAPI keeps the document that it has generated
            else:
                operation["security"] = [{scheme: [need]} for scheme in _SCHEMES]
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _add_metrics(app: FastAPI, metrics: Metrics) -> None:
    @app.get("/metrics", tags=["health"], response_class=PlainTextResponse)
    async def exposition(request: Request) -> Response:
        """Metrics in Prometheus' text format."""
        return Response(metrics.exposition(), media_type=CONTENT_TYPE_LATEST)
