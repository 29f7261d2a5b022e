"""One open eventcore: ingest, ask, find; what the library, the HTTP API and the command line all speak to.

It joins the ports to the functions of the core and keeps no state of its own. Time and randomness come in as
arguments of the constructor. Not here: how the parts are chosen and opened (`library`, or a process's container).
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from itertools import islice
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import msgspec

from eventcore import dead_letters, ingestion
from eventcore.answers import Answer, Question, answer, answer_tag, parse_range
from eventcore.calendar import format_instant, to_instant
from eventcore.dead_letters import Chosen, DeadPage, Dropped, Replayed
from eventcore.decoding import Decoded, Form, decode, is_event_id
from eventcore.errors import EventcoreError, Kind
from eventcore.events import DEFAULT_PROJECT, Book, Outcome, StoredEvent, is_project_name
from eventcore.limits import Limits
from eventcore.ports import DedupCache, EventStore, Queue
from eventcore.statistics import parse_question

Day = str | date
"""A local date, as ``YYYY-MM-DD`` or as a date."""


class Eventcore:
    """Events in, exact answers out, for any number of projects. Close it, or use it in ``async with``.

    Args:
        store: where events are kept.
        cache: what is known to be stored.
        queue: how events reach the store.
        clock_us: the time, in microseconds since the epoch.
        elapsed_us: a clock that never goes back, for durations, in microseconds.
        new_id: gives 16 random bytes.
        limits: what is accepted.
        reporting_zone: the time zone of statistics that name none.
        statistics_seconds: how long the store may take for one statistic, None for as long as it does.
    """

    def __init__(
        self,
        *,
        store: EventStore,
        cache: DedupCache,
        queue: Queue,
        clock_us: Callable[[], int],
        elapsed_us: Callable[[], int],
        new_id: Callable[[], bytes],
        limits: Limits = Limits(),
        reporting_zone: str = "UTC",
        statistics_seconds: float | None = None,
    ) -> None:
        self.store = store
        self.cache = cache
        self.queue = queue
        self.limits = limits
        self.reporting_zone = reporting_zone
        self.statistics_seconds = statistics_seconds
        self._clock_us = clock_us
        self._elapsed_us = elapsed_us
        self.new_id = new_id

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def now_us(self) -> int:
        """The time now, in microseconds since the epoch."""
        return self._clock_us()

    async def ingest_body(
        self,
        body: bytes,
        *,
        project: str = DEFAULT_PROJECT,
        form: Form = "json",
        strict: bool = False,
        dry_run: bool = False,
    ) -> Outcome:
        """Take in one batch as bytes; see `eventcore.decoding.decode` and `eventcore.ingestion.accept`.

        Raises:
            BodyError: the body is not a batch.
            StoreError: not durable, or not known to be; send the same again.
        """
        decoded = decode(body, now_us=self.now_us(), form=form, limits=self.limits)
        return await self.ingest_decoded(decoded, project=project, strict=strict, dry_run=dry_run)

    async def ingest_decoded(
        self,
        decoded: Decoded,
        *,
        project: str = DEFAULT_PROJECT,
        strict: bool = False,
        dry_run: bool = False,
        import_id: bytes | None = None,
    ) -> Outcome:
        """Take in a batch that is decoded already."""
        check_project(project)
        if dry_run:
            refused = ingestion.refusal(decoded) if strict else None
            return refused or await ingestion.preview(decoded, project=project, store=self.store)
        return await ingestion.accept(
            decoded,
            project=project,
            store=self.store,
            cache=self.cache,
            queue=self.queue,
            now_us=self.now_us(),
            new_id=self.new_id,
            strict=strict,
            import_id=import_id,
        )

    async def ingest(self, events: Iterable[Mapping[str, Any]], *, project: str = DEFAULT_PROJECT) -> Outcome:
        """Take in any number of events given as mappings, in batches; aware datetimes and UUIDs may stay objects.

        Returns:
            The totals; ``index`` of each error counts from the first event given.

        Raises:
            StoreError: some batch is not durable; giving all the events again is safe.
        """
        total = Outcome(accepted=0, duplicates=0, conflicts=0, rejected=0)
        rest = iter(events)
        done = 0
        while batch := list(islice(rest, self.limits.batch_events)):
            outcome = await self._ingest_mappings(batch, project)
            total = add_outcomes(total, outcome, offset=done)
            done += len(batch)
        return total

    async def _ingest_mappings(self, batch: Sequence[Mapping[str, Any]], project: str) -> Outcome:
        body = encode_events(batch)
        if len(body) > self.limits.body_bytes and len(batch) > 1:
            middle = len(batch) // 2
            first = await self._ingest_mappings(batch[:middle], project)
            return add_outcomes(first, await self._ingest_mappings(batch[middle:], project), offset=middle)
        return await self.ingest_body(body, project=project)

    async def find(self, event_id: str | UUID, *, project: str = DEFAULT_PROJECT) -> StoredEvent | None:
        """The stored event with this id, or None.

        Raises:
            EventcoreError: ``event_id`` is not a UUID in canonical form.
        """
        check_project(project)
        key = parse_event_id(str(event_id))
        return (await self.store.find(project, [key])).get(key)

    async def ask(self, question: Question, *, project: str = DEFAULT_PROJECT) -> Answer:
        """Answer a question from one snapshot of the data."""
        check_project(project)
        began_us = self._elapsed_us()
        return await answer(
            question,
            project=project,
            store=self.store,
            queue=self.queue,
            now_us=self.now_us(),
            elapsed_ms=lambda: (self._elapsed_us() - began_us) / 1_000,
            seconds=self.statistics_seconds,
        )

    async def tag(self, question: Question, *, project: str = DEFAULT_PROJECT) -> str:
        """A name for the data of a question's answer, which stays the same as long as they do; see `answer_tag`.

        Raises:
            StoreError: the store does not answer.
        """
        check_project(project)
        version = await self.store.version(project)
        return answer_tag(question, project=project, version=version, now_us=self.now_us())

    async def ask_for(self, name: str, *, project: str = DEFAULT_PROJECT, **parameters: Any) -> Answer:
        """Answer the statistic with this name, e.g. ``top-events``.

        Args:
            name: of `eventcore.statistics.STATISTICS`.
            project: whose events.
            parameters: as the statistic's ``parse`` takes them; ``breakdown`` and ``groups`` as `parse_question` does.

        Raises:
            InvalidQuestion: a parameter has no answer; ``field`` names it.
            StoreError: the store or the queue does not answer.
        """
        question = parse_question(name, **{"reporting_zone": self.reporting_zone} | parameters)
        return await self.ask(question, project=project)

    async def daily_active_users(self, from_: Day, to: Day, *, project: str = DEFAULT_PROJECT, **more: Any) -> Answer:
        """Distinct users of each local day; ``more`` as `ask_for` takes it."""
        return await self.ask_for("dau", project=project, from_=from_, to=to, **more)

    async def active_users(self, from_: Day, to: Day, *, project: str = DEFAULT_PROJECT, **more: Any) -> Answer:
        """Distinct users of the 7 or 30 local days that end with each; ``more`` as `ask_for` takes it."""
        return await self.ask_for("active-users", project=project, from_=from_, to=to, **more)

    async def stickiness(self, from_: Day, to: Day, *, project: str = DEFAULT_PROJECT, **more: Any) -> Answer:
        """Daily by monthly active users; ``more`` as `ask_for` takes it."""
        return await self.ask_for("stickiness", project=project, from_=from_, to=to, **more)

    async def lifecycle(self, from_: Day, to: Day, *, project: str = DEFAULT_PROJECT, **more: Any) -> Answer:
        """New, returning, resurrected and dormant users; ``more`` as `ask_for` takes it."""
        return await self.ask_for("lifecycle", project=project, from_=from_, to=to, **more)

    async def event_counts(self, from_: Day, to: Day, *, project: str = DEFAULT_PROJECT, **more: Any) -> Answer:
        """Events over time; ``more`` as `ask_for` takes it."""
        return await self.ask_for("event-counts", project=project, from_=from_, to=to, **more)

    async def top_events(self, from_: Day, to: Day, *, project: str = DEFAULT_PROJECT, **more: Any) -> Answer:
        """The most frequent event types; ``more`` as `ask_for` takes it."""
        return await self.ask_for("top-events", project=project, from_=from_, to=to, **more)

    async def retention(self, start_date: Day, *, project: str = DEFAULT_PROJECT, **more: Any) -> Answer:
        """The cohort matrix; ``more`` as `ask_for` takes it."""
        return await self.ask_for("retention", project=project, start_date=start_date, **more)

    async def books(self, first: str | date, last: str | date, *, project: str = DEFAULT_PROJECT) -> Sequence[Book]:
        """The ingestion books of the UTC days ``first`` to ``last``, inclusive; days without any are left out.

        Raises:
            InvalidQuestion: one of them is no date, or they are the wrong way round.
        """
        check_project(project)
        days = parse_range(first, last)
        return await self.store.books(project, days[0].isoformat(), days[1].isoformat())

    async def dead_letters(
        self,
        *,
        project: str = DEFAULT_PROJECT,
        limit: int | str = 100,
        after: str = "",
        event_id: str | UUID | None = None,
    ) -> DeadPage:
        """Accepted events that the store refused, each whole and with the reason; a page of them.

        Args:
            project: whose.
            limit: how many, 1 to 1,000; a page of very large events ends earlier.
            after: what the page before gave as ``next``; empty for the first one.
            event_id: only letters of the event with this id, one for each content that it was sent with.

        Raises:
            EventcoreError: an argument is none that could be meant.
            StoreError: the store does not answer.
        """
        check_project(project)
        return await dead_letters.read_page(
            self.store,
            project,
            limit=dead_letters.parse_limit(limit),
            after=dead_letters.parse_after(after),
            event_ids=None if event_id is None else [dead_letters.parse_dead_id(event_id)],
        )

    async def replay_dead_letters(self, chosen: Chosen, *, project: str = DEFAULT_PROJECT) -> Replayed:
        """Store dead letters after all, when what the store refused them for is mended.

        What is still refused stays a dead letter, and its neighbours are stored.

        Args:
            chosen: the ids of at most 1,000 events, or ``"all"``.
            project: whose.

        Raises:
            EventcoreError: an id is none, or there are too many or none.
            StoreError: the store failed in the middle; doing the same again is safe, and goes on.
        """
        check_project(project)
        return await dead_letters.replay(self.store, project, dead_letters.parse_chosen(chosen))

    async def drop_dead_letters(self, chosen: Chosen, *, project: str = DEFAULT_PROJECT) -> Dropped:
        """Delete dead letters for ever; arguments and errors as those of `replay_dead_letters`.

        The books keep them as ``dead``. The store begins a new epoch: every dedup cache forgets what it knew, because
        the events of the dropped letters may be sent again, and must not be taken for stored then.
        """
        check_project(project)
        return await dead_letters.drop(self.store, project, dead_letters.parse_chosen(chosen))

    async def close(self) -> None:
        """Close the queue, the cache and the store, in this order."""
        await self.queue.close()
        await self.cache.close()
        await self.store.close()


def encode_events(events: Sequence[Mapping[str, Any]]) -> bytes:
    """Events given as mappings, as a body that says exactly the same.

    What JSON cannot say but a sender could write all the same (``NaN``, a lone surrogate) is written too, so that the
    decoder refuses it, at the cost of its own event. Datetimes go as UTC, because an offset may have seconds.

    Raises:
        EventcoreError: an event holds an object of a type that JSON does not have.
    """
    try:
        return json.dumps(events, default=_plain, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise EventcoreError(Kind.INVALID, "not_json", f"an event cannot be written as JSON: {error}") from error


def _plain(value: object) -> Any:
    if isinstance(value, datetime):
        # A naive one is no instant; without an offset, the decoder refuses it and says so.
        return value.isoformat() if value.tzinfo is None else format_instant(to_instant(value))
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} is none of the types that JSON has")


def check_project(project: str) -> None:
    """Raise an `EventcoreError` that names the rule unless ``project`` may name a project."""
    if not is_project_name(project):
        raise EventcoreError(
            Kind.INVALID,
            "invalid_project",
            "a project's name has 1 to 63 of a-z, 0-9, - and _, and begins with a letter or digit",
            field="project",
        )


def parse_event_id(text: str) -> bytes:
    """The 16 bytes of a UUID in canonical form; raises `EventcoreError` with code ``invalid_event_id`` otherwise."""
    if not is_event_id(text):
        raise EventcoreError(
            Kind.INVALID, "invalid_event_id", "an event id is a UUID of 36 characters with dashes", field="event_id"
        )
    return bytes.fromhex(text.replace("-", ""))


def add_outcomes(one: Outcome, other: Outcome, *, offset: int) -> Outcome:
    """The totals of two batches; the second one's errors are moved ``offset`` positions on."""
    return Outcome(
        accepted=one.accepted + other.accepted,
        duplicates=one.duplicates + other.duplicates,
        conflicts=one.conflicts + other.conflicts,
        rejected=one.rejected + other.rejected,
        errors=one.errors
        + tuple(msgspec.structs.replace(problem, index=problem.index + offset) for problem in other.errors),
    )
