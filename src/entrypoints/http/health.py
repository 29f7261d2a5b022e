"""GET /health…: can the process answer, and can it take in events?

Ready follows what ingestion needs: the API keys, and the store, or, where a queue lies between, the queue; then a store
that is away is only ``degraded``, as is a dedup cache that is, which nothing needs. Keys that were read once go on for
a while without the store.
"""

import asyncio
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from time import perf_counter
from typing import Any, Final

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from entrypoints.http import models
from eventcore.errors import EventcoreError
from eventcore.events import DEFAULT_PROJECT
from eventcore.service import Eventcore

router = APIRouter(prefix="/health", tags=["health"])

VERSION: Final = version("eventcore-analytics")
_PATIENCE_SECONDS: Final = 2.0
"""A dependency that takes longer is as good as away, and orchestrators stop waiting soon after."""

_CHECKS: Final[dict[int | str, dict[str, Any]]] = {
    503: {"model": models.Health, "description": "events are refused now"}
}


@router.get("", response_model=models.Health, responses=_CHECKS)
@router.get("/ready", response_model=models.Health, responses=_CHECKS)
async def ready(request: Request) -> Response:
    """Whether events can be taken in, with the state of each dependency; 503 when not."""
    core: Eventcore = request.app.state.eventcore
    store = await _check(core.store.epoch)
    queue = await _check(lambda: core.queue.pending(DEFAULT_PROJECT))
    cache = models.Check(status="ok" if core.cache.healthy else "unavailable", latency_ms=0.0, reason=None)
    keys = await _check(request.app.state.access.keyring)
    if "unavailable" in (queue.status, keys.status) or (store.status != "ok" and not core.queue.answers_first):
        status = "unavailable"
    else:
        status = "ok" if store.status == cache.status == "ok" else "degraded"
    checks = {"store": store, "queue": queue, "cache": cache, "keys": keys}
    health = models.Health(status=status, version=VERSION, checks=checks)
    return _json(health.model_dump(exclude_none=True), 503 if status == "unavailable" else 200)


@router.get("/live", response_model=models.Alive)
async def live() -> Response:
    """Whether the process answers at all; nothing else is looked at."""
    return _json({"status": "ok"}, 200)


async def _check(call: Callable[[], Awaitable[object]]) -> models.Check:
    began = perf_counter()
    status, reason = "ok", None
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await call()
    except EventcoreError as error:
        status, reason = "unavailable", error.message
    except TimeoutError:
        status, reason = "unavailable", f"no answer within {_PATIENCE_SECONDS:g} s"
    return models.Check(status=status, latency_ms=round((perf_counter() - began) * 1_000, 3), reason=reason)


def _json(document: dict[str, object], status: int) -> Response:
    return Response(msgspec.json.encode(document), status, {"Cache-Control": "no-store"}, "application/json")
