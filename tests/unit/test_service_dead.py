"""Dead letters through the service: pages, replays that isolate what is still refused, and drops; all of it bounded."""

from collections.abc import AsyncIterator, Sequence
from itertools import count
from typing import Any, cast
from uuid import UUID

import msgspec
import pytest

from adapters.inline import open_queue
from adapters.memory import open_dedup, open_store
from eventcore import dead_letters, open_blocking
from eventcore.dead_letters import AT_ONCE, MOST_EVENT_IDS, PAGE_CHARS, Dropped, Replayed, dead_id_text, parse_dead_id
from eventcore.dedup import member
from eventcore.errors import EventcoreError, InvalidQuestion, Kind, StoreError
from eventcore.events import Book, DeadLetter, Event, Replay
from eventcore.ports import EventStore
from eventcore.service import Eventcore
from eventcore.strategies import AN_INSTANT_US, a_chunk, a_death, an_event, an_id, with_other_content

DAY = "2026-03-01"


class Watched:
    """A store in memory that refuses to replay the users it is told to, and writes down what is asked of it."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self.refused_users: set[str] = set()
        self.read: list[int] = []
        self.replayed: list[int] = []
        self.dropped: list[int] = []
        self.failure: StoreError | None = None
        self.lose: int = 0

    async def dead_letters(self, project: str, *, limit: int, **more: Any) -> Sequence[DeadLetter]:
        self.read.append(limit)
        return await self._store.dead_letters(project, limit=limit, **more)

    async def replay(self, project: str, names: Sequence[bytes]) -> Replay:
        self.replayed.append(len(names))
        if self.failure is not None and len(self.replayed) > 1:
            raise self.failure
        letters = await self._store.dead_letters(project, limit=100_000)
        users = {letter.event.user_id for letter in letters if member(letter.event) in set(names)}
        if users & self.refused_users:
            raise StoreError(Kind.DATA, "refused_data", "the store refuses this")
        if self.lose:  # somebody else is faster
            await self._store.drop(project, names[: self.lose])
        return await self._store.replay(project, names)

    async def drop(self, project: str, names: Sequence[bytes]) -> int:
        self.dropped.append(len(names))
        if self.lose:
            await self._store.replay(project, names[: self.lose])
        return await self._store.drop(project, names)

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


@pytest.fixture
async def store() -> AsyncIterator[Watched]:
    opened = await open_store()
    yield Watched(opened)
    await opened.close()


@pytest.fixture
async def core(store: Watched) -> Eventcore:
    # The queue is given the store in memory itself: what is sent is none of the asking that is counted.
    numbers = count(1)
    return Eventcore(
        store=cast(EventStore, store),
        cache=await open_dedup(),
        queue=await open_queue(store=store._store),
        clock_us=lambda: AN_INSTANT_US,
        elapsed_us=lambda: 0,
        new_id=lambda: next(numbers).to_bytes(16, "big"),
    )


async def bury(core: Eventcore, *events: Event, project: str = "default") -> None:
    await core.store.append([a_chunk(dead=[a_death(event) for event in events], project=project)])


def some_events(number: int, first: int = 1) -> list[Event]:
    return [an_event(event_id=first + place, user_id=f"user {place}") for place in range(number)]


def text_id(number: int) -> str:
    return str(UUID(bytes=an_id(number)))


async def left(core: Eventcore) -> list[Event]:
    return [letter.event for letter in (await core.dead_letters(limit=1000)).letters]


async def the_book(core: Eventcore) -> Book:
    [book] = await core.books(DAY, DAY)
    return book


# Pages


async def test_pages_follow_one_another_without_gap_or_repeat(core: Eventcore) -> None:
    events = some_events(257)
    await bury(core, *reversed(events))
    for limit in (1, 7, AT_ONCE, AT_ONCE + 1, 256, 257, 1000):
        found: list[Event] = []
        after = ""
        pages = 0
        while True:
            page = await core.dead_letters(limit=limit, after=after)
            found += [letter.event for letter in page.letters]
            pages += 1
            if page.next is None:
                break
            assert len(page.letters) == limit
            after = page.next
        assert found == events
        assert pages == -(-len(events) // limit), limit  # the last page says that it is the last


async def test_an_empty_project_has_one_empty_page(core: Eventcore) -> None:
    await bury(core, an_event(), project="other")
    page = await core.dead_letters()
    assert (page.letters, page.next) == ((), None)


async def test_a_page_of_the_largest_events_ends_early(core: Eventcore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "PAGE_CHARS", 1_000)
    events = [an_event(event_id=number, properties={"text": "x" * 400}) for number in range(5)]
    await bury(core, *events)
    page = await core.dead_letters()
    assert [letter.event for letter in page.letters] == events[:2]
    assert page.next is not None
    rest = await core.dead_letters(after=page.next)
    assert [letter.event for letter in rest.letters] == events[2:4]


async def test_one_event_larger_than_a_page_is_shown_all_the_same(
    core: Eventcore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "PAGE_CHARS", 10)
    await bury(core, *[an_event(event_id=number, properties={"text": "x" * 400}) for number in range(2)])
    page = await core.dead_letters()
    assert (len(page.letters), page.next is None) == (1, False)
    assert len((await core.dead_letters(after=page.next or "")).letters) == 1


def test_a_page_is_far_below_the_memory_that_a_process_may_have() -> None:
    assert PAGE_CHARS + AT_ONCE * 256 * 1024 < 50 * 1024 * 1024


async def test_the_letters_of_one_event_are_those_of_all_its_contents(core: Eventcore) -> None:
    one, other = an_event(event_id=1), with_other_content(an_event(event_id=1))
    await bury(core, one, other, an_event(event_id=2))
    found = (await core.dead_letters(event_id=text_id(1).upper())).letters
    assert sorted(member(letter.event) for letter in found) == sorted(map(member, (one, other)))
    assert (await core.dead_letters(event_id=UUID(bytes=an_id(3)))).letters == ()


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": "1001"}, "limit"),
        ({"limit": "1e2"}, "limit"),
        ({"limit": True}, "limit"),
        ({"after": "abc"}, "after"),
        ({"after": "zz"}, "after"),
        ({"after": " 00"}, "after"),
        ({"after": "00\n"}, "after"),
        ({"after": "\uff10\uff10"}, "after"),
        ({"event_id": "x"}, "event_id"),
        ({"event_id": ""}, "event_id"),
        ({"event_id": "0192f0c12b3a7c4d8e5f6a7b8c9d0e1f"}, "event_id"),
        ({"project": "No"}, "project"),
    ],
)
async def test_what_cannot_be_meant_is_refused(core: Eventcore, arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(EventcoreError) as caught:
        await core.dead_letters(**arguments)
    assert (caught.value.kind, caught.value.field) == (Kind.INVALID, field)
    assert isinstance(caught.value, InvalidQuestion) or field in ("event_id", "project")


@pytest.mark.parametrize(
    "event_id", [an_id(1), bytes(16), b"\xff" * 16, b"fifteen bytes..", b"seventeen bytes..", b"\0"]
)
def test_the_id_that_is_shown_can_be_given_back(event_id: bytes) -> None:
    assert parse_dead_id(dead_id_text(event_id)) == event_id


async def test_without_await_it_is_the_same() -> None:
    with open_blocking("memory://") as core:
        assert core.dead_letters(limit=7).letters == ()
        assert core.replay_dead_letters("all").stored == 0
        assert core.drop_dead_letters(text_id(1)) == Dropped(dropped=0, missing=1)


# Replaying


async def test_replaying_all_stores_all(core: Eventcore, store: Watched) -> None:
    events = some_events(250)
    await bury(core, *events)
    assert await core.replay_dead_letters("all") == Replayed(
        stored=250, duplicates=0, conflicts=0, refused=0, missing=0
    )
    assert await left(core) == []
    assert await the_book(core) == Book(date=DAY, received=250, accepted=250, stored=250)
    assert store.replayed == [AT_ONCE, AT_ONCE, 50]
    assert list(await core.store.verify()) == []


async def test_what_is_refused_stays_and_its_neighbours_are_stored(core: Eventcore, store: Watched) -> None:
    events = some_events(230)
    await bury(core, *events)
    bad = {0, 17, 99, 100, 101, 229}
    store.refused_users = {f"user {place}" for place in bad}
    assert await core.replay_dead_letters("all") == Replayed(
        stored=224, duplicates=0, conflicts=0, refused=6, missing=0
    )
    assert await left(core) == [events[place] for place in sorted(bad)]
    assert await the_book(core) == Book(date=DAY, received=230, accepted=230, stored=224, dead=6)
    assert list(await core.store.verify()) == []
    store.refused_users = set()
    assert (await core.replay_dead_letters("all")).stored == 6


async def test_when_all_are_refused_again_the_replay_ends_and_nothing_is_lost(core: Eventcore, store: Watched) -> None:
    events = some_events(130)
    await bury(core, *events)
    store.refused_users = {event.user_id for event in events}
    assert await core.replay_dead_letters("all") == Replayed(
        stored=0, duplicates=0, conflicts=0, refused=130, missing=0
    )
    assert await left(core) == events
    assert len(store.replayed) <= 2 * len(events)


async def test_a_replay_says_what_was_stored_before(core: Eventcore) -> None:
    events = some_events(3)
    await core.store.append([a_chunk(events[0], with_other_content(events[1]))])
    await bury(core, *events)
    assert await core.replay_dead_letters("all") == Replayed(stored=1, duplicates=1, conflicts=1, refused=0, missing=0)
    assert await left(core) == []


async def test_only_the_events_that_are_named_are_replayed(core: Eventcore) -> None:
    events = some_events(300)
    await bury(core, *events)
    chosen = [text_id(number) for number in (3, 250, 3, 9_999, 4)]
    assert await core.replay_dead_letters([*chosen, UUID(bytes=an_id(5))]) == Replayed(
        stored=4, duplicates=0, conflicts=0, refused=0, missing=1
    )
    assert await left(core) == [event for event in events if event.event_id not in map(an_id, (3, 4, 5, 250))]


async def test_one_id_may_be_given_alone(core: Eventcore) -> None:
    await bury(core, *some_events(3))
    assert (await core.replay_dead_letters(text_id(2))).stored == 1


async def test_an_id_that_is_no_uuid_can_be_named(core: Eventcore) -> None:
    broken = msgspec.structs.replace(an_event(), event_id=b"fifteen bytes..")
    await bury(core, broken, an_event(event_id=2))
    [shown] = [dead_id_text(event.event_id) for event in await left(core) if event != an_event(event_id=2)]
    assert (await core.replay_dead_letters([shown])).refused == 1  # the store in memory holds no such id
    assert await core.drop_dead_letters([shown]) == Dropped(dropped=1, missing=0)
    assert await left(core) == [an_event(event_id=2)]


async def test_a_replay_of_another_project_touches_nothing(core: Eventcore) -> None:
    await bury(core, *some_events(2))
    assert await core.replay_dead_letters("all", project="other") == Replayed(
        stored=0, duplicates=0, conflicts=0, refused=0, missing=0
    )
    assert (await core.replay_dead_letters([text_id(1)], project="other")).missing == 1
    assert len(await left(core)) == 2


@pytest.mark.parametrize("kind", [Kind.UNAVAILABLE, Kind.FULL, Kind.TIMEOUT, Kind.CLOSED])
async def test_a_store_that_goes_away_ends_the_replay_and_the_next_one_goes_on(
    core: Eventcore, store: Watched, kind: Kind
) -> None:
    await bury(core, *some_events(250))
    store.failure = StoreError(kind, "away", "the store is away")
    with pytest.raises(StoreError) as caught:
        await core.replay_dead_letters("all")
    assert caught.value is store.failure
    assert len(store.replayed) == 2, "a store that is away is not asked again and again"
    store.failure = None
    assert (await core.replay_dead_letters("all")).stored == 150
    assert await the_book(core) == Book(date=DAY, received=250, accepted=250, stored=250)


async def test_letters_that_somebody_else_took_are_missing(core: Eventcore, store: Watched) -> None:
    await bury(core, *some_events(5))
    store.lose = 2
    assert await core.replay_dead_letters("all") == Replayed(stored=3, duplicates=0, conflicts=0, refused=0, missing=2)


async def test_a_long_replay_holds_and_asks_for_a_bounded_number(core: Eventcore, store: Watched) -> None:
    for first in range(0, 3_000, 500):
        await bury(core, *some_events(500, first))
    store.refused_users = {"user 7"}
    assert (await core.replay_dead_letters("all")).refused == 6
    assert max(store.read) <= AT_ONCE
    assert max(store.replayed) <= AT_ONCE


@pytest.mark.parametrize(
    ("chosen", "kind", "code"),
    [
        ([], Kind.INVALID, "no_event_ids"),
        ("", Kind.INVALID, "invalid_event_id"),
        ("ALL", Kind.INVALID, "invalid_event_id"),
        ([""], Kind.INVALID, "invalid_event_id"),
        (["0192f0c1-2b3a-7c4d-8e5f-6a7b8c9d0e1"], Kind.INVALID, "invalid_event_id"),
        (["'; DROP TABLE"], Kind.INVALID, "invalid_event_id"),
        ([text_id(1)] * (MOST_EVENT_IDS + 1), Kind.TOO_LARGE, "too_many_event_ids"),
    ],
)
async def test_a_choice_that_cannot_be_meant_changes_nothing(
    core: Eventcore, chosen: Any, kind: Kind, code: str
) -> None:
    await bury(core, *some_events(2))
    epoch = await core.store.epoch()
    for act in (core.replay_dead_letters, core.drop_dead_letters):
        with pytest.raises(EventcoreError) as caught:
            await act(chosen)
        assert (caught.value.kind, caught.value.code, caught.value.field) == (kind, code, "event_ids")
        with pytest.raises(EventcoreError, match="project"):
            await act("all", project="No")
    assert len(await left(core)) == 2
    assert await core.store.epoch() == epoch


# Dropping


async def test_dropping_deletes_and_the_books_keep_the_dead(core: Eventcore, store: Watched) -> None:
    events = some_events(250)
    await bury(core, *events)
    assert await core.drop_dead_letters([text_id(1), text_id(999)]) == Dropped(dropped=1, missing=1)
    assert await left(core) == events[1:]
    assert await core.drop_dead_letters("all") == Dropped(dropped=249, missing=0)
    assert await left(core) == []
    assert await the_book(core) == Book(date=DAY, received=250, accepted=250, dead=250)
    assert max(store.dropped) <= AT_ONCE
    assert list(await core.store.verify()) == []


async def test_letters_that_somebody_else_took_are_missing_from_a_drop(core: Eventcore, store: Watched) -> None:
    await bury(core, *some_events(5))
    store.lose = 1
    assert await core.drop_dead_letters("all") == Dropped(dropped=4, missing=1)


async def test_a_dropped_event_that_is_sent_again_is_accepted(core: Eventcore) -> None:
    """And before it is dropped it is a duplicate, which is harmless: it is kept."""
    sent = {"event_id": text_id(1), "user_id": "ada", "event_type": "x", "occurred_at": "2026-02-28T12:00:00Z"}

    class Refusing:
        def __init__(self, inner: Any) -> None:
            self._inner = inner

        async def append(self, chunks: Sequence[Any]) -> Any:
            if any(chunk.events for chunk in chunks):
                raise StoreError(Kind.DATA, "refused_data", "a trigger refuses this")
            return await self._inner.append(chunks)

        async def check(self, chunk: Any) -> None:
            raise StoreError(Kind.DATA, "refused_data", "a trigger refuses this")

        def __getattr__(self, name: str) -> object:
            return getattr(self._inner, name)

    willing = core.store
    core.store = Refusing(willing)  # type: ignore[assignment]
    core.queue = await open_queue(store=core.store)
    assert (await core.ingest([sent])).accepted == 1
    assert (await core.ingest([sent])).duplicates == 1
    assert [letter.reason for letter in (await core.dead_letters()).letters] == ["a trigger refuses this"]
    core.store, core.queue = willing, await open_queue(store=willing)
    assert (await core.ingest([sent])).duplicates == 1
    assert await core.drop_dead_letters(text_id(1)) == Dropped(dropped=1, missing=0)
    assert (await core.ingest([sent])).accepted == 1
    assert await core.find(text_id(1)) is not None
    assert list(await core.store.verify()) == []
