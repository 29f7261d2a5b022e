"""The steps of ingestion: what is answered, what is stored, and in which order."""

import asyncio
import itertools
import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from math import inf, nan
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from adapters.inline import open_queue
from adapters.memory import open_dedup, open_store
from eventcore.errors import EventcoreError, InvalidQuestion, Kind, StoreError
from eventcore.events import Chunk, Outcome, Receipt
from eventcore.ports import EventStore, Pending
from eventcore.service import Eventcore

NOW_US = 1_772_366_400_000_000


def an_id(number: int) -> str:
    return str(UUID(int=number))


def an_event(number: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "event_id": an_id(number),
        "user_id": "u1",
        "event_type": "purchase",
        "occurred_at": "2026-02-28T12:00:00Z",
    } | changes


class BrokenQueue:
    """Takes what it is told to take, then fails for a while; a stand-in for a broker that comes and goes."""

    def __init__(self, store: EventStore) -> None:
        self.store = store
        self.failures = 0
        self.answers_first = False

    async def publish(self, chunks: Sequence[Chunk]) -> Sequence[Receipt]:
        if self.failures:
            self.failures -= 1
            raise StoreError(Kind.UNAVAILABLE, "queue_unavailable", "the queue does not answer; send again")
        return await self.store.append(chunks)

    async def pending(self, project: str) -> Pending:
        return Pending()

    async def close(self) -> None:
        pass


async def a_core(queue: BrokenQueue | None = None) -> Eventcore:
    store = queue.store if queue else await open_store("memory://")
    ids = itertools.count(1)
    return Eventcore(
        store=store,
        cache=await open_dedup("memory://"),
        queue=queue or await open_queue("inline://", store=store),
        clock_us=lambda: NOW_US,
        elapsed_us=lambda: 0,
        new_id=lambda: UUID(int=next(ids)).bytes,
    )


def body(*events: Any) -> bytes:
    return json.dumps(events).encode()


def counts(outcome: Outcome) -> tuple[int, int, int, int]:
    return outcome.accepted, outcome.duplicates, outcome.conflicts, outcome.rejected


async def booked(core: Eventcore) -> tuple[int, ...]:
    [book] = await core.books("2026-03-01", "2026-03-01")
    return book.received, book.accepted, book.duplicates, book.conflicts, book.rejected, book.stored


async def test_a_batch_is_split_into_the_four_outcomes() -> None:
    core = await a_core()
    outcome = await core.ingest_body(
        body(
            an_event(1),
            an_event(1),
            an_event(1, user_id="other"),
            an_event(2, user_id=""),
            an_event(3),
            an_event(3, properties={}),
        )
    )
    assert counts(outcome) == (2, 2, 1, 1)
    assert [(problem.index, problem.code, problem.event_id) for problem in outcome.errors] == [
        (2, "conflict_in_batch", an_id(1)),
        (3, "empty", an_id(2)),
    ]
    assert await booked(core) == (6, 2, 2, 1, 1, 2)
    assert not await core.store.verify()


async def test_a_resend_is_all_duplicates_and_stores_nothing() -> None:
    core = await a_core()
    batch = body(*(an_event(number) for number in range(1, 1_201)))
    assert counts(await core.ingest_body(batch)) == (1_200, 0, 0, 0)
    assert counts(await core.ingest_body(batch)) == (0, 1_200, 0, 0)
    assert await booked(core) == (2_400, 1_200, 1_200, 0, 0, 1_200)


async def test_a_resend_with_another_time_is_a_conflict_and_the_first_stays() -> None:
    core = await a_core()
    await core.ingest_body(body(an_event(1)))
    outcome = await core.ingest_body(body(an_event(2), an_event(1, occurred_at="2026-02-28T12:00:01Z")))
    assert counts(outcome) == (1, 0, 1, 0)
    assert [(problem.index, problem.code) for problem in outcome.errors] == [(1, "conflict")]
    found = await core.find(an_id(1))
    assert found is not None
    assert found.event.occurred_us == 1_772_280_000_000_000
    again = await core.ingest_body(body(an_event(1, occurred_at="2026-02-28T12:00:01Z")))
    assert counts(again) == (0, 0, 1, 0)


async def test_a_conflict_far_into_the_batch_is_named_by_its_own_index() -> None:
    core = await a_core()
    await core.ingest_body(body(an_event(1_700)))
    events = [an_event(number) for number in range(1, 2_001)]
    events[1_699]["user_id"] = "other"
    events[3] = {"bad": 1}
    outcome = await core.ingest_body(body(*events))
    assert counts(outcome) == (1_998, 0, 1, 1)
    assert [(problem.index, problem.code) for problem in outcome.errors] == [(3, "unknown_field"), (1_699, "conflict")]


async def test_a_failed_publish_marks_nothing() -> None:
    """Claiming an id before it is durable would answer the resend with "duplicate" and lose the event."""
    queue = BrokenQueue(await open_store("memory://"))
    core = await a_core(queue)
    queue.failures = 1
    with pytest.raises(StoreError) as raised:
        await core.ingest_body(body(an_event(1)))
    assert raised.value.retryable
    assert counts(await core.ingest_body(body(an_event(1)))) == (1, 0, 0, 0)
    assert await core.find(an_id(1)) is not None


async def test_a_cache_that_knows_an_event_does_not_know_its_other_content() -> None:
    core = await a_core()
    await core.ingest_body(body(an_event(1)))
    assert counts(await core.ingest_body(body(an_event(1, user_id="other")))) == (0, 0, 1, 0)


async def test_projects_do_not_see_each_other() -> None:
    core = await a_core()
    assert counts(await core.ingest_body(body(an_event(1)), project="one")) == (1, 0, 0, 0)
    assert counts(await core.ingest_body(body(an_event(1, user_id="x")), project="two")) == (1, 0, 0, 0)
    assert await core.find(an_id(1)) is None
    found = await core.find(an_id(1), project="two")
    assert found is not None
    assert found.event.user_id == "x"


@pytest.mark.parametrize("project", ["", "A", "-a", "a b", "a" * 64, "ü", "../x", "a\n"])
async def test_a_name_that_is_no_project_is_refused(project: str) -> None:
    core = await a_core()
    with pytest.raises(EventcoreError) as raised:
        await core.ingest_body(body(an_event(1)), project=project)
    assert (raised.value.code, raised.value.field) == ("invalid_project", "project")


@pytest.mark.parametrize(
    ("spoiler", "code"),
    [
        ({"bad": 1}, "unknown_field"),
        (an_event(1), "duplicate_in_batch"),
        (an_event(1, user_id="other"), "conflict_in_batch"),
    ],
)
async def test_strict_keeps_nothing_of_a_batch_with_a_flaw(spoiler: dict[str, Any], code: str) -> None:
    core = await a_core()
    outcome = await core.ingest_body(body(an_event(1), an_event(2), spoiler), strict=True)
    assert counts(outcome) == (0, 0, 0, 3)
    assert [(problem.index, problem.code) for problem in outcome.errors] == [(2, code)]
    assert await core.find(an_id(1)) is None
    assert await booked(core) == (3, 0, 0, 0, 3, 0)
    assert counts(await core.ingest_body(body(an_event(1), an_event(2)), strict=True)) == (2, 0, 0, 0)


@pytest.mark.parametrize("strict", [True, False])
async def test_a_dry_run_says_what_would_happen_and_does_nothing(strict: bool) -> None:
    core = await a_core()
    await core.ingest_body(body(an_event(1), an_event(2)))
    before = await core.books("2026-03-01", "2026-03-01")
    batch = body(an_event(1), an_event(2, user_id="other"), an_event(3), *([] if strict else [{"bad": 1}]))
    told = await core.ingest_body(batch, strict=strict, dry_run=True)
    assert await core.books("2026-03-01", "2026-03-01") == before
    assert await core.find(an_id(3)) is None
    assert await core.ingest_body(batch, strict=strict) == told


async def test_mappings_of_any_number_are_ingested_in_batches() -> None:
    core = await a_core()
    outcome = await core.ingest(an_event(number) if number != 2_500 else {"bad": 1} for number in range(1, 4_002))
    assert counts(outcome) == (4_000, 0, 0, 1)
    assert [problem.index for problem in outcome.errors] == [2_499]


async def test_large_mappings_are_ingested_in_smaller_batches() -> None:
    core = await a_core()
    events = [an_event(number, properties={"text": "x" * 200_000}) for number in range(1, 121)]
    assert counts(await core.ingest(events)) == (120, 0, 0, 0)


@pytest.mark.parametrize("value", [object(), b"bytes", Decimal("1.5"), timedelta(days=1), {1}])
async def test_a_mapping_that_json_cannot_hold_is_refused_not_changed(value: Any) -> None:
    core = await a_core()
    with pytest.raises(EventcoreError) as raised:
        await core.ingest([an_event(1, properties={"x": value})])
    assert raised.value.code == "not_json"


@pytest.mark.parametrize(
    ("value", "code"),
    [(nan, "not_a_number"), (inf, "not_a_number"), (-inf, "not_a_number"), ("\ud800", "invalid_unicode")],
)
async def test_what_json_should_not_hold_costs_only_its_own_mapping(value: Any, code: str) -> None:
    core = await a_core()
    outcome = await core.ingest([an_event(1), an_event(2, properties={"x": [value]}), an_event(3)])
    assert counts(outcome) == (2, 0, 0, 1)
    assert [(problem.index, problem.code) for problem in outcome.errors] == [(1, code)]


async def test_objects_of_python_mean_the_same_as_their_texts() -> None:
    core = await a_core()
    monrovia = datetime(1971, 6, 1, tzinfo=ZoneInfo("Africa/Monrovia"))  # its offset has seconds: -00:44:30
    outcome = await core.ingest([an_event(1, event_id=UUID(an_id(1)), occurred_at=monrovia)])
    assert counts(outcome) == (1, 0, 0, 0)
    answer = await core.daily_active_users("1971-05-31", "1971-06-01", tz="Africa/Monrovia")
    assert answer.data == [{"date": "1971-05-31", "users": 0}, {"date": "1971-06-01", "users": 1}]


async def test_a_datetime_without_a_zone_is_no_instant() -> None:
    core = await a_core()
    outcome = await core.ingest([an_event(1, occurred_at=datetime(2026, 1, 1))])
    assert [problem.code for problem in outcome.errors] == ["invalid_timestamp"]


async def test_a_store_that_became_another_one_is_noticed_before_anything_is_called_a_duplicate() -> None:
    core = await a_core()
    await core.ingest_body(body(an_event(1)))
    other = await open_store("memory://")
    old_epoch = await core.store.epoch()
    true_epoch, asked = other.epoch, []

    async def epoch_that_is_believed_too_long() -> str:
        asked.append(1)
        return old_epoch if len(asked) == 1 else await true_epoch()

    other.epoch = epoch_that_is_believed_too_long  # type: ignore[method-assign]
    core.store = other
    core.queue = await open_queue("inline://", store=other)
    sent = [an_event(1), an_event(2), an_event(1), an_event(2, user_id="other"), {"event_id": "no"}]
    assert counts(await core.ingest_body(body(*sent))) == (2, 1, 1, 1)
    assert await core.find(an_id(1)) is not None
    (book,) = await other.books("default", "1970-01-01", "9999-12-31")
    assert (book.received, book.accepted, book.duplicates, book.conflicts, book.rejected) == (5, 2, 1, 1, 1)


class AnsweringFirst:
    """A queue that takes all, and whose events no store has seen yet."""

    answers_first = True

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []

    async def publish(self, chunks: Sequence[Chunk]) -> Sequence[Receipt]:
        self.chunks += chunks
        return [Receipt()] * len(chunks)

    async def pending(self, project: str) -> Pending:
        return Pending()

    async def close(self) -> None:
        return


async def test_behind_a_queue_a_store_that_is_away_or_hangs_costs_no_event_and_marks_nothing() -> None:
    core = await a_core()
    core.queue = queue = AnsweringFirst()
    known = await core.store.epoch()

    async def away() -> str:
        raise StoreError(Kind.UNAVAILABLE, "away", "start it")

    async def hanging() -> str:
        await asyncio.Event().wait()
        raise AssertionError

    async def there() -> str:
        return known

    for epoch, seen in ((there, 0), (there, 1), (away, 0), (hanging, 0), (there, 1)):
        core.store.epoch = epoch  # type: ignore[method-assign]
        async with asyncio.timeout(5):
            outcome = await core.ingest_body(body(an_event(1)))
        assert counts(outcome) == (1 - seen, seen, 0, 0)
    assert sum(len(chunk.events) for chunk in queue.chunks) == 3


@pytest.mark.parametrize("days", [("2026-3-1", "2026-03-02"), ("nonsense", "2026-03-02"), ("2026-03-02", "2026-03-01")])
async def test_books_of_no_range_are_refused(days: tuple[str, str]) -> None:
    core = await a_core()
    with pytest.raises(InvalidQuestion):
        await core.books(*days)
