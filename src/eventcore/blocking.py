"""eventcore without ``await``, for notebooks and scripts.

The same `Eventcore` on an event loop in a thread of its own; each call waits for its answer. For servers use the
asynchronous form.
"""

import asyncio
import threading
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from datetime import date
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import UUID

from eventcore.answers import Answer, Question
from eventcore.dead_letters import Chosen, DeadPage, Dropped, Replayed
from eventcore.decoding import Decoded, Form
from eventcore.events import DEFAULT_PROJECT, Book, Outcome, StoredEvent
from eventcore.library import DEFAULT_STORE_URL
from eventcore.library import open as open_async
from eventcore.service import Day

_Result = TypeVar("_Result")


def open_blocking(store_url: str = DEFAULT_STORE_URL, **options: Any) -> "BlockingEventcore":
    """Open a store by its URL; options and errors as `eventcore.open` has them."""
    return BlockingEventcore(store_url, **options)


class BlockingEventcore:
    """The methods of `eventcore.service.Eventcore`, each waiting for its answer. Close it, or use it in ``with``."""

    def __init__(self, store_url: str = DEFAULT_STORE_URL, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="eventcore", daemon=True)
        self._thread.start()
        try:
            self._inner = self._wait(open_async(store_url, **options))
        except BaseException:
            self._stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def now_us(self) -> int:
        """See `Eventcore.now_us`."""
        return self._inner.now_us()

    def ingest_body(
        self,
        body: bytes,
        *,
        project: str = DEFAULT_PROJECT,
        form: Form = "json",
        strict: bool = False,
        dry_run: bool = False,
    ) -> Outcome:
        """See `Eventcore.ingest_body`."""
        return self._wait(self._inner.ingest_body(body, project=project, form=form, strict=strict, dry_run=dry_run))

    def ingest_decoded(
        self,
        decoded: Decoded,
        *,
        project: str = DEFAULT_PROJECT,
        strict: bool = False,
        dry_run: bool = False,
        import_id: bytes | None = None,
    ) -> Outcome:
        """See `Eventcore.ingest_decoded`."""
        return self._wait(
            self._inner.ingest_decoded(decoded, project=project, strict=strict, dry_run=dry_run, import_id=import_id)
        )

    def ingest(self, events: Iterable[Mapping[str, Any]], *, project: str = DEFAULT_PROJECT) -> Outcome:
        """See `Eventcore.ingest`."""
        return self._wait(self._inner.ingest(events, project=project))

    def find(self, event_id: str | UUID, *, project: str = DEFAULT_PROJECT) -> StoredEvent | None:
        """See `Eventcore.find`."""
        return self._wait(self._inner.find(event_id, project=project))

    def ask(self, question: Question, *, project: str = DEFAULT_PROJECT) -> Answer:
        """See `Eventcore.ask`."""
        return self._wait(self._inner.ask(question, project=project))

    def tag(self, question: Question, *, project: str = DEFAULT_PROJECT) -> str:
        """See `Eventcore.tag`."""
        return self._wait(self._inner.tag(question, project=project))

    def ask_for(self, name: str, *, project: str = DEFAULT_PROJECT, **parameters: Any) -> Answer:
        """See `Eventcore.ask_for`."""
        return self._wait(self._inner.ask_for(name, project=project, **parameters))

    def daily_active_users(self, from_: Day, to: Day, *, project: str = DEFAULT_PROJECT, **more: Any) -> Answer:
        """See `Eventcore.daily_active_users`."""
        return self._wait(self._inner.daily_active_users(from_, to, project=project, **more))

    def active_users(self, from_: Day, to: Day, *, project: str = DEFAULT_PROJECT, **more: Any) -> Answer:
        """See `Eventcore.active_users`."""
        return self._wait(self._inner.active_users(from_, to, project=project, **more))

    def stickiness(self, from_: Day, to: Day, *, project: str = DEFAULT_PROJECT, **more: Any) -> Answer:
        """See `Eventcore.stickiness`."""
        return self._wait(self._inner.stickiness(from_, to, project=project, **more))

    def lifecycle(self, from_: Day, to: Day, *, project: str = DEFAULT_PROJECT, **more: Any) -> Answer:
        """See `Eventcore.lifecycle`."""
        return self._wait(self._inner.lifecycle(from_, to, project=project, **more))

    def event_counts(self, from_: Day, to: Day, *, project: str = DEFAULT_PROJECT, **more: Any) -> Answer:
        """See `Eventcore.event_counts`."""
        return self._wait(self._inner.event_counts(from_, to, project=project, **more))

    def top_events(self, from_: Day, to: Day, *, project: str = DEFAULT_PROJECT, **more: Any) -> Answer:
        """See `Eventcore.top_events`."""
        return self._wait(self._inner.top_events(from_, to, project=project, **more))

    def retention(self, start_date: Day, *, project: str = DEFAULT_PROJECT, **more: Any) -> Answer:
        """See `Eventcore.retention`."""
        return self._wait(self._inner.retention(start_date, project=project, **more))

    def books(self, first: str | date, last: str | date, *, project: str = DEFAULT_PROJECT) -> Sequence[Book]:
        """See `Eventcore.books`."""
        return self._wait(self._inner.books(first, last, project=project))

    def dead_letters(
        self,
        *,
        project: str = DEFAULT_PROJECT,
        limit: int | str = 100,
        after: str = "",
        event_id: str | UUID | None = None,
    ) -> DeadPage:
        """See `Eventcore.dead_letters`."""
        return self._wait(self._inner.dead_letters(project=project, limit=limit, after=after, event_id=event_id))

    def replay_dead_letters(self, chosen: Chosen, *, project: str = DEFAULT_PROJECT) -> Replayed:
        """See `Eventcore.replay_dead_letters`."""
        return self._wait(self._inner.replay_dead_letters(chosen, project=project))

    def drop_dead_letters(self, chosen: Chosen, *, project: str = DEFAULT_PROJECT) -> Dropped:
        """See `Eventcore.drop_dead_letters`."""
        return self._wait(self._inner.drop_dead_letters(chosen, project=project))

    def close(self) -> None:
        """Close the store and end the thread; a second call does nothing."""
        if self._loop.is_closed():
            return
        try:
            self._wait(self._inner.close())
        finally:
            self._stop()

    def _wait(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
