"""The lanes of a worker: each fetches messages, has them stored, and begins again, until it is told to stop.

Several lanes prepare and write at the same time; what becomes of a message is decided in `eventcore.draining`. While
the store is away nothing is fetched. Not here: the process around them (`run`), and what it tells (`health`).
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from entrypoints.patience import pause_seconds
from entrypoints.telemetry import LOGGER, WorkerMetrics
from eventcore.draining import GROUP_EVENTS, Drained, drain
from eventcore.errors import Kind, StoreError
from eventcore.ports import Consumer, Delivery, EventStore

FETCH_SECONDS: Final = 1.0
"""How long a lane waits for messages before it looks whether it shall stop."""
EXTEND_SECONDS: Final = 5.0
"""How often a lane says that it is still working on its messages; well within a queue's patience."""
LONGEST_RETRY_SECONDS: Final = 30.0
_FEWEST_MESSAGES: Final = 10
_MOST_MESSAGES: Final = 200
"""Messages of 256 KiB at most, so that a lane holds no more than about 50 MB of them."""


def _not_yet(what: str) -> StoreError:
    return StoreError(Kind.UNAVAILABLE, "starting", f"it has begun, and {what} yet; wait a moment")


@dataclass(slots=True)
class Progress:
    """How the lanes are doing, for readiness. A worker that has begun is not ready before it has fetched once.

    Attributes:
        store_error: why the last attempt to reach the store did not succeed; None when it did.
        queue_error: why the last attempt to fetch did not succeed; None when it did.
    """

    store_error: StoreError | None = field(default_factory=lambda: _not_yet("has not reached the store"))
    queue_error: StoreError | None = field(default_factory=lambda: _not_yet("has fetched nothing"))


class Lane:
    """One lane; `work` runs it.

    Args:
        store: where events go.
        consumer: where they come from.
        metrics: counts what it does.
        progress: gets how it is doing; shared by all lanes.
        stopping: set when it shall end.
    """

    def __init__(
        self,
        store: EventStore,
        consumer: Consumer,
        metrics: WorkerMetrics,
        progress: Progress,
        stopping: asyncio.Event,
    ) -> None:
        self._store = store
        self._consumer = consumer
        self._metrics = metrics
        self._progress = progress
        self._stopping = stopping
        self._events_per_message = float(GROUP_EVENTS) / _FEWEST_MESSAGES
        self._log = structlog.get_logger(LOGGER)

    async def work(self) -> None:
        """Fetch and store until told to stop; what was begun is finished first."""
        failures = 0
        while not self._stopping.is_set():
            if failures:
                await self._pause(pause_seconds(failures))
            try:
                went_well = await self._turn()
            except Exception:
                # A bug of ours must not end the work for good: what was fetched comes again.
                self._log.exception("a turn failed")
                went_well = False
            failures = 0 if went_well else failures + 1

    async def _turn(self) -> bool:
        """One fetch and what comes of it; False when the next one should wait a little."""
        try:
            await self._store.epoch()  # nothing is fetched that could not be stored
            self._progress.store_error = None
        except StoreError as error:
            self._note("store", error)
            return False
        try:
            deliveries = await self._consumer.fetch(self._most_messages(), FETCH_SECONDS)
            self._progress.queue_error = None
        except StoreError as error:
            self._note("queue", error)
            return False
        if not deliveries:
            return True
        began_seconds = time.monotonic()
        drained = await self._drain(deliveries)
        self._metrics.count(drained, time.monotonic() - began_seconds)
        self._events_per_message = max(1.0, drained.events / max(1, drained.messages))
        for trouble in drained.troubles:
            self._metrics.count_failure(trouble.error.code)
            self._log.warning(
                "events are delivered again",
                reason=trouble.error.message,
                code=trouble.error.code,
                attempt=trouble.attempt,
                messages=list(trouble.names[:3]),
                of=len(trouble.names),
            )
        if drained.dead:
            self._log.warning("dead letters: see `eventcore dead list`", events=drained.dead)
        return not drained.is_store_away

    async def _drain(self, deliveries: Sequence[Delivery]) -> Drained:
        extending = asyncio.get_running_loop().create_task(_extend(deliveries))
        try:
            return await drain(
                self._store,
                deliveries,
                now_us=time.time_ns() // 1_000,
                retry_seconds=lambda attempt: pause_seconds(attempt, LONGEST_RETRY_SECONDS),
            )
        finally:
            extending.cancel()
            await asyncio.gather(extending, return_exceptions=True)

    def _most_messages(self) -> int:
        """As many messages as fill a transaction, going by those of the last fetch."""
        return int(min(_MOST_MESSAGES, max(_FEWEST_MESSAGES, GROUP_EVENTS / self._events_per_message)))

    def _note(self, part: str, error: StoreError) -> None:
        known = self._progress.store_error if part == "store" else self._progress.queue_error
        if part == "store":
            self._progress.store_error = error
        else:
            self._progress.queue_error = error
        self._metrics.count_failure(error.code)
        if known is None or known.message != error.message:  # said once, not at every attempt
            self._log.warning(f"waiting for the {part}", reason=error.message, code=error.code)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return


async def _extend(deliveries: Sequence[Delivery]) -> None:
    while True:
        await asyncio.sleep(EXTEND_SECONDS)
        for delivery in deliveries:
            await delivery.extend()
