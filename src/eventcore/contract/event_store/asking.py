"""What the tests of a store ask with, and what they compare."""

from collections.abc import Awaitable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import count
from typing import Any

import msgspec

from eventcore.activity import ActivityQuery
from eventcore.calendar import Span, to_instant
from eventcore.conditions import Selection, equals
from eventcore.contract.event_store.model import Model
from eventcore.dedup import member
from eventcore.errors import Kind, StoreError
from eventcore.events import Book, Chunk, Counts, DeadLetter, Event, ImportRecord
from eventcore.ports import EventStore
from eventcore.strategies import AN_INSTANT_US, a_chunk, a_death, an_event

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
MIDNIGHT_US = AN_INSTANT_US - 12 * HOUR_US
"""The beginning of 2026-03-01 in UTC."""
DAY = "2026-03-01"
"""The day in the books on which `a_chunk` is received."""
WHOLE_DAY: Span = ((MIDNIGHT_US, MIDNIGHT_US + DAY_US),)
NO_EVENT_CAN_BE: Mapping[str, Mapping[str, Any]] = {
    "id": {"event_id": b"fifteen bytes.."},
    "user": {"user_id": "a\0b"},
    "type": {"event_type": "a\0b"},
    "surrogate user": {"user_id": "\ud800"},
    "surrogate type": {"event_type": "\udfff"},
    "surrogate": {"properties": '{"a":"\ud800"}'},
    "1969": {"occurred_us": -1},
    "year 10000": {"occurred_us": to_instant(datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)) + 1},
    "65 bits": {"occurred_us": 2**63},
}
"""What decoding never lets through and every store refuses, by a name for it: what to change in a good event."""

_project_numbers = count(1)


def a_query(
    *spans: Span,
    project: str = "default",
    slots: tuple[Span, ...] | None = None,
    selections: tuple[Selection, ...] = (Selection(),),
    split: str | None = None,
    history: bool = False,
) -> ActivityQuery:
    """About the day on which everything happens, unless other spans are named."""
    if slots is None:
        slots = spans or (WHOLE_DAY,)
    return ActivityQuery(project=project, slots=slots, selections=selections, split=split, history=history)


def a_selection(**conditions: str) -> Selection:
    """Fields and the values they must have."""
    return Selection(tuple(equals(field, value) for field, value in conditions.items()))


def events_at(*offsets_us: int, user_id: str | None = None) -> list[Event]:
    """An event at each of these distances from midnight, each by a user of its own unless one is named."""
    return [
        an_event(
            event_id=2**40 + offset_us, user_id=user_id or f"user at {offset_us}", occurred_us=MIDNIGHT_US + offset_us
        )
        for offset_us in offsets_us
    ]


def a_poison(event: Event | None = None, **changes: Any) -> Event:
    """An event that every store refuses, otherwise like the one given; with a NUL in its user unless changes are."""
    return msgspec.structs.replace(event or an_event(), **(changes or {"user_id": "a\0b"}))


def a_burial(*events: Event, **others: Any) -> Chunk:
    """A chunk of nothing but dead letters."""
    return a_chunk(dead=[a_death(event) for event in events], **others)


def names_of(*events: Event) -> list[bytes]:
    """The names of these events as dead letters."""
    return [member(event) for event in events]


def letters_of(chunk: Chunk) -> list[DeadLetter]:
    """What a store that has never seen any of them makes of the dead of a chunk."""
    return [
        DeadLetter(
            event=death.event,
            received_us=chunk.received_us,
            import_id=chunk.import_id,
            reason=death.reason,
            attempts=death.attempts,
            died_us=death.died_us,
        )
        for death in sorted(chunk.dead, key=lambda death: member(death.event))
    ]


def an_import() -> ImportRecord:
    """An import that has begun and not ended."""
    return ImportRecord(import_id=b"sixteen bytes of", source="ä file.csv", started_us=AN_INSTANT_US)


def a_busy_day() -> list[Chunk]:
    """Chunks with everything that can happen to one."""
    queued = a_chunk(an_event(event_id=1), an_event(event_id=5, user_id="grace"), queued=True)
    return [
        a_chunk(an_event(event_id=1), an_event(event_id=2, user_id="grace", event_type="signup")),
        queued,
        a_chunk(an_event(event_id=1, user_id="edsger"), counts=Counts(duplicates=1, rejected=2)),
        a_chunk(*events_at(-DAY_US, 0, 3 * DAY_US), received_us=AN_INSTANT_US + DAY_US, import_id=bytes(range(16))),
        queued,
        a_chunk(an_event(event_id=1, user_id="grace"), project="other", queued=True),
        a_chunk(an_event(event_id=7), conflicting=[an_event(event_id=7, user_id="x")], counts=Counts(conflicts=1)),
        a_chunk(*(an_event(event_id=number, user_id=f"user {number}") for number in range(100, 300))),
        a_chunk(
            an_event(event_id=8),
            dead=[a_death(a_poison(an_event(event_id=9))), a_death(an_event(event_id=1, user_id="barbara"))],
            import_id=b"sixteen bytes of",
            queued=True,
        ),
    ]


def a_project() -> str:
    """A name that no test has used yet: an example of a property test has a store of its own in it."""
    return f"example-{next(_project_numbers)}"


def model_of(chunks: Sequence[Chunk]) -> Model:
    """The naive model after these chunks."""
    model = Model()
    for chunk in chunks:
        model.append(chunk)
    return model


async def find_events(store: EventStore, sent: Sequence[Event], project: str = "default") -> list[Event]:
    """What is stored under the ids of these events, in their order."""
    found = await store.find(project, [event.event_id for event in sent])
    return [found[event.event_id].event for event in sent if event.event_id in found]


async def all_books(store: EventStore) -> list[Book]:
    """The books of every day of the project ``default``."""
    return list(await store.books("default", "1970-01-01", "9999-12-31"))


async def row_counts(store: EventStore, project: str = "default") -> dict[str, int]:
    """How many events, users and kept conflicts the store says it has."""
    counts = (await store.describe()).counts.get(project, {})
    return {table: counts.get(table, 0) for table in ("events", "users", "conflicts")}


async def all_letters(store: EventStore, project: str = "default") -> list[DeadLetter]:
    """The dead letters of a project, as far as a test has any."""
    return list(await store.dead_letters(project, limit=10_000))


async def count_dead(store: EventStore, project: str = "default") -> int:
    """How many dead letters the store says it has."""
    return (await store.describe()).counts[project]["dead"]


async def ask_tallies(store: EventStore, query: ActivityQuery) -> list[tuple[int, int]]:
    """Users and events of every slot, one selection after the other."""
    snapshot = await store.activity(query)
    return [(len(tally.users), tally.events) for part in snapshot.selections for tally in part.slots]


async def ask_types(store: EventStore, query: ActivityQuery) -> list[dict[str, tuple[int, int]]]:
    """Users and events by type, for every slot of the first selection."""
    snapshot = await store.activity(query)
    return [
        {name: (len(part.users), part.events) for name, part in tally.parts.items()}
        for tally in snapshot.selections[0].slots
    ]


async def kind_of(call: Awaitable[object]) -> Kind | None:
    """The kind of error that a call ends with; None when it ends well."""
    try:
        await call
    except StoreError as error:
        return error.kind
    return None


async def tell_everything(store: EventStore, chunks: Sequence[Chunk]) -> list[object]:
    """All that a store can tell of these chunks."""
    days: list[Span] = [((MIDNIGHT_US + day * DAY_US, MIDNIGHT_US + (day + 1) * DAY_US),) for day in range(5)]
    ids = list({event.event_id for chunk in chunks for event in chunk.events})
    projects = ("default", "other")
    selections = (Selection(), a_selection(event_type="signup"))
    queries = [
        a_query(*days, project=project, selections=selections, split="event_type", history=True) for project in projects
    ]
    return [
        await store.epoch(),
        (await store.describe()).counts,
        [await store.find(project, ids) for project in projects],
        [list(await store.books(project, "1970-01-01", "9999-12-31")) for project in projects],
        [await all_letters(store, project) for project in projects],
        [await store.activity(query) for query in queries],
    ]
