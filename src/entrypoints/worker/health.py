"""What a worker answers on its port: GET /health, /health/live, /health/ready and /metrics.

Ready means that it can take events from the queue and store them: it asked both, and both answered. Not here: the
worker's work (`lanes`).
"""

from typing import Final

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from entrypoints.http.health import VERSION
from entrypoints.telemetry import WorkerMetrics
from entrypoints.worker.lanes import Progress
from eventcore.errors import StoreError

_NO_STORE: Final = {"Cache-Control": "no-store"}


def create_app(progress: Progress, metrics: WorkerMetrics) -> Starlette:
    """The application of a worker's port.

    Args:
        progress: how its lanes are doing.
        metrics: what they have counted.
    """

    async def ready(request: Request) -> Response:
        checks = {"store": _check(progress.store_error), "queue": _check(progress.queue_error)}
        well = progress.store_error is None and progress.queue_error is None
        document: dict[str, object] = {"status": "ok" if well else "unavailable", "version": VERSION, "checks": checks}
        return _json(document, 200 if well else 503)

    async def live(request: Request) -> Response:
        return _json({"status": "ok"}, 200)

    async def exposition(request: Request) -> Response:
        return Response(metrics.exposition(), media_type=CONTENT_TYPE_LATEST)

    return Starlette(
        routes=[
            Route("/health", ready),
            Route("/health/ready", ready),
            Route("/health/live", live),
            Route("/metrics", exposition),
        ]
    )


def _check(error: StoreError | None) -> dict[str, str]:
    return {"status": "ok"} if error is None else {"status": "unavailable", "reason": error.message}


def _json(document: dict[str, object], status: int) -> Response:
    return Response(msgspec.json.encode(document), status, _NO_STORE, "application/json")
