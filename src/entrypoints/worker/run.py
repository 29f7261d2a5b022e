"""Running a worker: its lanes, its port, and how it ends.

Not here: the command line, which reads flags and calls `run_worker`.
"""

import asyncio
import os
from collections.abc import Sequence
from typing import Final

import structlog

from entrypoints.container import open_worker_parts, shown_url
from entrypoints.http.listening import EXIT_FAILURE, bind, run, serve_app, stop
from entrypoints.settings import Settings, unknown_names
from entrypoints.telemetry import LOGGER, WorkerMetrics, configure_logs
from entrypoints.worker.health import create_app
from entrypoints.worker.lanes import Lane, Progress
from eventcore.errors import EventcoreError

_NO_KEYS: Final = (
    "a worker's health and metrics need no API key. Listen on 127.0.0.1, or, in a network that you trust, set "
    "EVENTCORE_INSECURE=true (--insecure)."
)


def run_worker(settings: Settings) -> None:
    """Work until SIGTERM or SIGINT, then finish and acknowledge what was begun, and return.

    Raises:
        SystemExit: it cannot begin. Code 2: its port would be open to others and ``insecure`` is not set; code 1: the
            port is taken, there is no queue to work on, or a part cannot be opened and waiting cannot help.
    """
    configure_logs(level=settings.log_level, form=settings.log_format)
    for sentence in unknown_names(os.environ):
        structlog.get_logger(LOGGER).warning("unknown setting", setting=sentence)
    listener = bind(settings, settings.worker_port, "EVENTCORE_WORKER_PORT (--port)", keyless_reason=_NO_KEYS)

    def announce(url: str) -> None:
        structlog.get_logger(LOGGER).info(
            "working",
            queue=shown_url(settings.queue_url),
            store=shown_url(settings.store_url),
            health=f"{url}/health",
            lanes=settings.worker_lanes,
        )

    async def work() -> None:
        metrics = WorkerMetrics()
        progress = Progress()
        stopping = asyncio.Event()
        async with open_worker_parts(settings) as (store, consumer):
            lanes = [
                asyncio.get_running_loop().create_task(Lane(store, consumer, metrics, progress, stopping).work())
                for _ in range(settings.worker_lanes)
            ]
            try:
                await serve_app(create_app(progress, metrics), settings, listener, announce)
            finally:
                stopping.set()
                await _end(lanes, settings.grace_seconds)

    try:
        run(work())
    except EventcoreError as error:
        stop(EXIT_FAILURE, error.message)
    finally:
        listener.close()


async def _end(lanes: Sequence[asyncio.Task[None]], grace_seconds: float) -> None:
    """Let lanes finish what they began; what hangs for longer is delivered again to another worker."""
    _, late = await asyncio.wait(lanes, timeout=grace_seconds)
    for lane in late:
        lane.cancel()
    await asyncio.gather(*lanes, return_exceptions=True)
