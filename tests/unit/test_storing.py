"""Storing whatever chunks hold: a refused event costs only itself, and nothing else is ever buried."""

from collections.abc import Callable, Sequence
from math import ceil, log2
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from adapters.memory import MemoryStore
from eventcore.contract.event_store.model import Model
from eventcore.dedup import member
from eventcore.errors import Kind, StoreError
from eventcore.events import Book, Chunk, Counts, DeadLetter, Event, Receipt
from eventcore.ports import EventStore
from eventcore.storing import persist
from eventcore.strategies import AN_INSTANT_US, a_chunk, a_death, an_event, an_id, with_other_content

NOW_US = AN_INSTANT_US + 5_000_000
DAY = "2026-03-01"
DAY_US = 86_400_000_000
REFUSAL = "the store cannot hold one of these values"
OTHER_KINDS = [kind for kind in Kind if kind is not Kind.DATA]


class Watched(MemoryStore):
    """A store in memory that can do more wrong than values bring about.

    Attributes:
        calls: what it was asked to append or check, in order: the name of the method and the chunks.
        rule: says of the chunks of each of them whether they are refused; it raises if so.
        failures: what the calls of these numbers raise, from 1 on.
    """

    def __init__(self, rule: Callable[[Sequence[Chunk]], None] = lambda chunks: None) -> None:
        super().__init__()
        self.calls: list[tuple[str, Sequence[Chunk]]] = []
        self.rule = rule
        self.failures: dict[int, StoreError] = {}

    async def append(self, chunks: Sequence[Chunk]) -> Sequence[Receipt]:
        self._called("append", chunks)
        return await super().append(chunks)

    async def check(self, chunk: Chunk) -> None:
        self._called("check", [chunk])
        await super().check(chunk)

    def _called(self, name: str, chunks: Sequence[Chunk]) -> None:
        self.calls.append((name, chunks))
        if (error := self.failures.get(len(self.calls))) is not None:
            raise error
        self.rule(chunks)


def refused(reason: str = "somebody's rule says no") -> StoreError:
    return StoreError(Kind.DATA, "refused_data", reason)


def poison(number: int) -> Event:
    return msgspec.structs.replace(an_event(event_id=number), user_id=f"\0{number}")


def a_mixed_chunk(*poisons: int, events: int = 500, **others: Any) -> Chunk:
    """A chunk of so many events, with ids from 1 on; those at the positions named are poison."""
    return a_chunk(
        *(poison(index + 1) if index in poisons else an_event(event_id=index + 1) for index in range(events)), **others
    )


def a_letter(event: Event, *, reason: str = REFUSAL, attempts: int = 1) -> DeadLetter:
    return DeadLetter(event=event, received_us=AN_INSTANT_US, reason=reason, attempts=attempts, died_us=NOW_US)


async def letters(store: EventStore) -> list[DeadLetter]:
    return list(await store.dead_letters("default", limit=10_000))


async def books(store: EventStore) -> list[Book]:
    return list(await store.books("default", "1970-01-01", "9999-12-31"))


async def stored(store: EventStore, *numbers: int) -> list[int]:
    found = await store.find("default", [an_id(number) for number in numbers])
    return [number for number in numbers if an_id(number) in found]


async def state(store: EventStore) -> tuple[object, ...]:
    return (await store.describe()).counts, await letters(store), await books(store)


async def test_what_the_store_takes_costs_one_call() -> None:
    store = Watched()
    await store.append([a_chunk(an_event(event_id=1))])
    store.calls.clear()
    chunks = [a_chunk(an_event(event_id=2), an_event(event_id=1)), a_chunk(an_event(event_id=3))]
    receipts, dead = await persist(store, chunks, now_us=NOW_US)
    assert (list(receipts), dead) == ([Receipt(duplicates=(1,)), Receipt()], 0)
    assert store.calls == [("append", chunks)]


async def test_nothing_is_stored_in_no_time() -> None:
    receipts, dead = await persist(MemoryStore(), [], now_us=NOW_US)
    assert (list(receipts), dead) == ([], 0)


@pytest.mark.parametrize("queued", [False, True])
@pytest.mark.parametrize("at", [0, 1, 249, 250, 333, 498, 499])
async def test_one_poison_among_500_costs_only_itself(at: int, queued: bool) -> None:
    store = MemoryStore()
    chunk = a_mixed_chunk(at, queued=queued)
    receipts, dead = await persist(store, [chunk], now_us=NOW_US, attempts=3)
    assert (list(receipts), dead) == ([Receipt()], 1)
    assert await letters(store) == [a_letter(chunk.events[at], attempts=3)]
    assert len(await stored(store, *range(1, 501))) == 499
    assert await books(store) == [Book(date=DAY, received=500, accepted=500, stored=499, dead=1)]
    assert not await store.verify()


@pytest.mark.parametrize(
    ("at", "duplicates", "conflicts"),
    [
        ((5,), (0, 4, 6, 9), (1, 7)),
        ((0, 1, 2), (3, 9), (4, 8)),
        ((9,), (8,), (0,)),
        ((0, 9), (1, 8), (2, 7)),
        ((1, 3, 5, 7, 9), (0, 4), (2, 8)),
    ],
)
async def test_receipts_name_the_positions_that_the_sender_knows(
    at: tuple[int, ...], duplicates: tuple[int, ...], conflicts: tuple[int, ...]
) -> None:
    store = MemoryStore()
    chunk = a_mixed_chunk(*at, events=10)
    await store.append(
        [
            a_chunk(
                *(chunk.events[one] for one in duplicates),
                *(with_other_content(chunk.events[one]) for one in conflicts),
            )
        ]
    )
    receipts, dead = await persist(store, [chunk], now_us=NOW_US)
    assert (list(receipts), dead) == ([Receipt(duplicates=duplicates, conflicts=conflicts)], len(at))
    assert [letter.event for letter in await letters(store)] == [chunk.events[one] for one in at]
    assert not await store.verify()


async def test_a_chunk_of_nothing_but_poison_is_all_letters() -> None:
    store = MemoryStore()
    chunk = a_mixed_chunk(*range(20), events=20, queued=True, counts=Counts(duplicates=2, rejected=1))
    receipts, dead = await persist(store, [chunk], now_us=NOW_US)
    assert (list(receipts), dead) == ([Receipt()], 20)
    assert await letters(store) == [a_letter(event) for event in chunk.events]
    assert await books(store) == [Book(date=DAY, received=23, accepted=20, duplicates=2, rejected=1, dead=20)]
    assert not await store.verify()


@pytest.mark.parametrize("at", [(), (1,)])
async def test_poison_among_the_conflicting_is_a_letter_too(at: tuple[int, ...]) -> None:
    """It was told to be a conflict; the book of the request says once what it is, and both equations hold."""
    store = MemoryStore()
    chunk = a_mixed_chunk(
        *at,
        events=3,
        conflicting=[
            an_event(event_id=1, user_id="grace"),
            poison(2),
            an_event(event_id=3, user_id="grace"),
            poison(9),
        ],
        counts=Counts(duplicates=1, conflicts=5, rejected=1),
    )
    receipts, dead = await persist(store, [chunk], now_us=NOW_US)
    assert (list(receipts), dead) == ([Receipt()], 2 + len(at))
    # The poison at position 1 is the very event that is among the conflicting.
    assert await letters(store) == [a_letter(poison(2)), a_letter(poison(9))]
    assert (await store.describe()).counts["default"]["conflicts"] == 2
    assert await books(store) == [
        Book(
            date=DAY,
            received=10,
            accepted=5,
            duplicates=1,
            conflicts=3,
            rejected=1,
            stored=3 - len(at),
            dead=2,
            duplicate_at_store=len(at),
        )
    ]
    assert not await store.verify()


async def test_a_loser_is_checked_as_the_loser_it_is() -> None:
    """A rule for stored events is not one for kept conflicts, nor the other way round."""
    no_event, no_conflict = an_event(event_id=8), an_event(event_id=9)

    def rule(chunks: Sequence[Chunk]) -> None:
        if any(no_event in chunk.events or no_conflict in chunk.conflicting for chunk in chunks):
            raise refused()

    store = Watched(rule)
    chunk = a_chunk(no_conflict, poison(1), conflicting=[no_event], counts=Counts(conflicts=1))
    other = a_chunk(an_event(event_id=2), conflicting=[no_conflict, no_event], counts=Counts(conflicts=2))
    receipts, dead = await persist(store, [chunk, other], now_us=NOW_US)
    assert (list(receipts), dead) == ([Receipt(), Receipt()], 2)
    assert [letter.event for letter in await letters(store)] == [poison(1), no_conflict]
    assert await stored(store, 2, 8, 9) == [2, 9]
    assert (await store.describe()).counts["default"]["conflicts"] == 1
    assert not await store.verify()


@pytest.mark.parametrize("at", [(), (0,), (0, 4)])
async def test_what_no_event_causes_by_itself_is_raised_and_buries_nothing(at: tuple[int, ...]) -> None:
    """Here two events that cannot be together; a poison beside them changes nothing about it."""

    def rule(chunks: Sequence[Chunk]) -> None:
        ids = {event.event_id for chunk in chunks for event in chunk.events}
        if {an_id(2), an_id(4)} <= ids:
            raise refused("these two exclude each other")

    store = Watched(rule)
    with pytest.raises(StoreError, match="exclude each other"):
        await persist(store, [a_mixed_chunk(*at, events=6, queued=True)], now_us=NOW_US)
    assert await state(store) == ({}, [], [])


@pytest.mark.parametrize(
    "chunk", [a_mixed_chunk(1, events=4, received_us=-1), a_chunk(counts=Counts(rejected=1), received_us=-1)]
)
async def test_a_chunk_that_is_wrong_as_a_whole_is_raised_and_buries_nothing(chunk: Chunk) -> None:
    store = MemoryStore()
    with pytest.raises(StoreError) as raised:
        await persist(store, [chunk], now_us=NOW_US)
    assert raised.value.kind is Kind.DATA
    assert await state(store) == ({}, [], [])


@pytest.mark.parametrize("kind", OTHER_KINDS)
async def test_an_error_of_any_other_kind_buries_nothing(kind: Kind) -> None:
    """Neither at once nor at any call of the search, nor at its end: the same again goes on as if nothing had been."""
    searching = Watched()
    await persist(searching, [a_mixed_chunk(3, 4, events=8, queued=True)], now_us=NOW_US)
    assert len(searching.calls) > 5
    for number in range(1, len(searching.calls) + 1):
        store = Watched()
        store.failures = {number: StoreError(kind, "away", "not now")}
        chunk = a_mixed_chunk(3, 4, events=8, queued=True)
        with pytest.raises(StoreError) as raised:
            await persist(store, [chunk], now_us=NOW_US)
        assert raised.value.kind is kind
        assert await state(store) == ({}, [], [])
        receipts, dead = await persist(store, [chunk], now_us=NOW_US)
        assert (list(receipts), dead) == ([Receipt()], 2)


def chunks_with_poison(*at: int) -> list[Chunk]:
    """Eight queued chunks of five events, with ids from 0 to 39; those of these numbers have poison in the middle."""
    return [
        a_chunk(
            an_event(event_id=5 * number),
            an_event(event_id=5 * number + 1),
            poison(5 * number + 2) if number in at else an_event(event_id=5 * number + 2),
            an_event(event_id=5 * number + 3),
            an_event(event_id=5 * number + 4),
            queued=True,
        )
        for number in range(8)
    ]


async def test_an_error_in_the_middle_is_mended_by_doing_the_same_again() -> None:
    """Whichever call it was: what was stored before it is known then, so no book counts it twice."""
    searching = Watched()
    await persist(searching, chunks_with_poison(1, 4, 5), now_us=NOW_US)
    assert len(searching.calls) > 20
    for number in range(1, len(searching.calls) + 1):
        store = Watched()
        store.failures = {number: StoreError(Kind.UNAVAILABLE, "away", "not now")}
        chunks = chunks_with_poison(1, 4, 5)
        with pytest.raises(StoreError, match="not now"):
            await persist(store, chunks, now_us=NOW_US)
        receipts, _ = await persist(store, chunks, now_us=NOW_US)
        assert list(receipts) == [Receipt()] * 8
        assert await books(store) == [Book(date=DAY, received=40, accepted=40, stored=37, dead=3)]
        assert [letter.event for letter in await letters(store)] == [poison(7), poison(22), poison(27)]
        assert not await store.verify()


@pytest.mark.parametrize("with_poison", [(0,), (7,), (2, 3), (0, 4, 7), tuple(range(8))])
async def test_a_chunk_with_poison_costs_the_chunks_beside_it_nothing(with_poison: tuple[int, ...]) -> None:
    """Each chunk has its own receipt, in order, and those without poison are stored as they came."""
    store = MemoryStore()
    known = a_chunk(*(an_event(event_id=5 * number + 4) for number in range(8)), received_us=AN_INSTANT_US - DAY_US)
    await store.append([known])
    chunks = chunks_with_poison(*with_poison)
    receipts, dead = await persist(store, chunks, now_us=NOW_US)
    assert (list(receipts), dead) == ([Receipt(duplicates=(4,))] * 8, len(with_poison))
    assert [letter.event for letter in await letters(store)] == [poison(5 * number + 2) for number in with_poison]
    assert (await books(store))[-1] == Book(
        date=DAY, received=40, accepted=40, stored=32 - dead, duplicate_at_store=8, dead=dead
    )
    assert not await store.verify()


async def test_a_poison_is_buried_in_the_transaction_of_its_neighbours() -> None:
    """Otherwise a crash between the two would lose one, or book it twice."""
    store = Watched()
    chunk = a_mixed_chunk(1, events=4, queued=True, counts=Counts(rejected=2), import_id=bytes(16))
    await persist(store, [chunk], now_us=NOW_US, attempts=2)
    events = (chunk.events[0], *chunk.events[2:])
    death = a_death(chunk.events[1], reason=REFUSAL, attempts=2, died_us=NOW_US)
    assert [call for call in store.calls if call[0] == "append"] == [
        ("append", [chunk]),
        ("append", [msgspec.structs.replace(chunk, events=events, dead=(death,))]),
    ]


async def test_the_reason_is_that_of_the_event_alone() -> None:
    """Not that of the chunk, in which another event may be refused for something else."""
    reasons = {an_id(2): "it is too blue", an_id(5): "it is too late"}

    def rule(chunks: Sequence[Chunk]) -> None:
        for chunk in chunks:
            for event in chunk.events:
                if event.event_id in reasons:
                    raise refused(reasons[event.event_id])

    store = Watched(rule)
    await persist(store, [a_mixed_chunk(events=6)], now_us=NOW_US)
    assert [(letter.event.event_id, letter.reason) for letter in await letters(store)] == list(reasons.items())


async def test_a_buried_chunk_that_comes_again_changes_nothing() -> None:
    store = Watched()
    chunk = a_mixed_chunk(3, events=9, queued=True)
    await persist(store, [chunk], now_us=NOW_US)
    before = await state(store)
    store.calls.clear()
    receipts, dead = await persist(store, [chunk], now_us=NOW_US + 1, attempts=2)
    assert (list(receipts), dead) == ([Receipt()], 0)
    assert len(store.calls) == 1
    assert await state(store) == before


@pytest.mark.parametrize("at_call", range(2, 9))
async def test_two_workers_with_the_same_poison_bury_it_once(at_call: int) -> None:
    """Whenever the other one is done first: before, in the middle or at the end of the search."""
    store = Watched()
    chunk = a_mixed_chunk(3, events=8, queued=True)
    buried = msgspec.structs.replace(
        chunk, events=(*chunk.events[:3], *chunk.events[4:]), dead=(a_death(chunk.events[3], died_us=NOW_US - 1),)
    )
    append, check = MemoryStore.append, store.check

    async def checking(one: Chunk) -> None:
        if len(store.calls) == at_call - 1:
            await append(store, [buried])
        await check(one)

    store.check = checking  # type: ignore[method-assign]
    receipts, _ = await persist(store, [chunk], now_us=NOW_US)
    assert list(receipts) == [Receipt()]
    assert [letter.died_us for letter in await letters(store)] == [NOW_US - 1]
    assert await books(store) == [Book(date=DAY, received=8, accepted=8, stored=7, dead=1)]
    assert not await store.verify()


async def test_a_store_that_is_mended_in_the_meantime_buries_nothing() -> None:
    """The rule went away between the append and the search: no event is to blame, and all are stored."""
    store = Watched()
    store.failures = {1: refused()}
    receipts, dead = await persist(store, [a_mixed_chunk(events=8)], now_us=NOW_US)
    assert (list(receipts), dead) == ([Receipt()], 0)
    assert await books(store) == [Book(date=DAY, received=8, accepted=8, stored=8)]


@pytest.mark.parametrize("poisons", [1, 2, 5, 20, 500])
async def test_the_search_is_short(poisons: int) -> None:
    """Halving takes about twice the depth for each poison, and never more than twice the events."""
    store = Watched()
    step = 500 // poisons
    await persist(store, [a_mixed_chunk(*range(0, 500, step))], now_us=NOW_US)
    checks = [call for call, _ in store.calls].count("check")
    assert checks <= min(2 * poisons * ceil(log2(500)) + 1, 2 * 500)
    assert [call for call, _ in store.calls].count("append") == 2


async def test_the_search_among_chunks_is_short() -> None:
    store = Watched()
    chunks = [a_chunk(poison(at) if at == 37 else an_event(event_id=at)) for at in range(64)]
    await persist(store, chunks, now_us=NOW_US)
    assert len(store.calls) <= 2 * 6 + 1 + 2


POOL = [an_event(event_id=number, user_id=user) for number in range(8) for user in ("ada", "grace")]
POISONS = [msgspec.structs.replace(event, event_type="a\0b") for event in POOL[::3]]


@st.composite
def batches(draw: DrawFn) -> list[Chunk]:
    """Chunks as they come from requests: no repeats among the events, losers counted; some of them come again."""
    anything = st.sampled_from([*POOL, *POISONS])
    chunks = []
    for _ in range(draw(st.integers(1, 6))):
        events = draw(st.lists(anything, max_size=8, unique_by=lambda event: event.event_id))
        conflicting = draw(st.lists(anything, max_size=3, unique_by=member))
        chunks.append(
            a_chunk(
                *events,
                conflicting=conflicting,
                queued=draw(st.booleans()),
                counts=Counts(
                    duplicates=draw(st.integers(0, 2)),
                    conflicts=len(conflicting) + draw(st.integers(0, 2)),
                    rejected=draw(st.integers(1, 2)),
                ),
            )
        )
    queued = [chunk for chunk in chunks if chunk.queued]
    return chunks + (draw(st.lists(st.sampled_from(queued), max_size=2)) if queued else [])


def is_poison(event: Event) -> bool:
    return "\0" in event.event_type


def expect(model: Model, chunk: Chunk) -> Receipt:
    """What becomes of one chunk, said without any search: the good ones go in, the others are dead."""
    kept = [position for position, event in enumerate(chunk.events) if not is_poison(event)]
    losers = [event for event in chunk.conflicting if not is_poison(event)]
    dead = [event for event in (*chunk.events, *chunk.conflicting) if is_poison(event)]
    receipt = model.append(
        msgspec.structs.replace(
            chunk,
            events=tuple(chunk.events[position] for position in kept),
            conflicting=tuple(losers),
            counts=msgspec.structs.replace(
                chunk.counts, conflicts=chunk.counts.conflicts - len(chunk.conflicting) + len(losers)
            ),
            dead=tuple(a_death(event, reason=REFUSAL, attempts=2, died_us=NOW_US) for event in dead),
        )
    )
    return Receipt(
        duplicates=tuple(kept[position] for position in receipt.duplicates),
        conflicts=tuple(kept[position] for position in receipt.conflicts),
    )


@given(calls=st.lists(batches(), min_size=1, max_size=3))
async def test_whatever_comes_agrees_with_the_model(calls: list[list[Chunk]]) -> None:
    store, model = MemoryStore(), Model()
    for chunks in calls:
        receipts, _ = await persist(store, chunks, now_us=NOW_US, attempts=2)
        assert list(receipts) == [expect(model, chunk) for chunk in chunks]
    assert await letters(store) == model.letters("default")
    assert await store.find("default", [event.event_id for event in POOL]) == model.found("default")
    assert await books(store) == model.books("default")
    assert (await store.describe()).counts.get("default", {}) == model.counts("default") | {
        "imports": 0,
        "dead": len(model.letters("default")),
    }
    assert not await store.verify()
