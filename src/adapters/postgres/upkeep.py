"""Who folds when: the process that appends, in the background, soon after much has come or a while after little has.

With several processes each folds what it finds, one at a time. Not here: the fold itself (`folding`).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from eventcore.errors import StoreError

FOLD_EVENTS = 50_000
"""Events that this process appends until it folds: more slow down questions, fewer rewrite the same rows more often."""

FOLD_SECONDS = 30.0
"""How long after an append even one event is folded, so that those who ask in SQL see it."""

MOST_EVENTS = 500_000
"""Events of one fold, about; some 100 MB of memory while it lasts."""

LAST_SECONDS = 5.0
"""How long the last fold may take when a process ends; what it does not do waits for another process."""

_log = logging.getLogger("eventcore")


class Upkeep:
    """Folds after appends; belongs to one event loop.

    Args:
        fold: folds about so many events, and says how many it folded.
    """

    def __init__(self, fold: Callable[[int], Awaitable[int]]) -> None:
        self._fold = fold
        self._waiting_events = 0
        self._looks_again = False
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    def appended(self, events: int) -> None:
        """So many events are committed."""
        self._waiting_events += events
        if events and not self._closing and (self._task is None or self._task.done()):
            if self._waiting_events >= FOLD_EVENTS:
                self._begin()
            elif self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(FOLD_SECONDS, self._begin)

    async def close(self) -> None:
        """Fold once more, if there is anything to fold, but not for long."""
        self._closing = True
        self._stop_timer()
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._waiting_events:
            try:
                async with asyncio.timeout(LAST_SECONDS):
                    await self._fold(MOST_EVENTS)
            except (StoreError, TimeoutError):
                return

    def _begin(self) -> None:
        self._stop_timer()
        if not self._closing:
            self._task = asyncio.get_running_loop().create_task(self._work())

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _work(self) -> None:
        self._waiting_events = 0
        try:
            folded = total = await self._fold(MOST_EVENTS)
            while folded >= FOLD_EVENTS:
                folded = await self._fold(MOST_EVENTS)
        except StoreError as error:
            _log.warning("activity could not be folded: %s", error.message)
        else:
            # Nothing to fold: somebody else has done it, or was at it and had begun before our events were there.
            self._looks_again = not total and not self._looks_again
            if not self._looks_again:
                return
        if self._timer is None and not self._closing:
            self._timer = asyncio.get_running_loop().call_later(FOLD_SECONDS, self._begin)
