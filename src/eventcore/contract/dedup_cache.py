"""What every `eventcore.ports.DedupCache` must do: it may forget, it must never invent, and it never raises.

How to use it is in `eventcore.contract`.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventcore.ports import DedupCache

_ROOM = 50
"""Members that a cache with a bound is asked to hold in the test of its bound."""

# A cache that joins namespace and member without care takes some of these for each other.
_NAMESPACES = st.sampled_from(("a", "ab", "a:b", "a:", ":", "", "e1:default", "e2:default", "e1:default2", "é", "a\0b"))
_MEMBERS = st.one_of(
    st.sampled_from((b"", b"a", b"b", b"ab", b"b:", b":b", b"\0", b"b\0", b"1", bytes(32), b"\xff" * 32)),
    st.binary(max_size=40),
)
_CALLS = st.lists(st.tuples(_NAMESPACES, st.lists(_MEMBERS, max_size=6)), max_size=8)


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheBackend:
    """How to open a cache, and what it can do.

    Attributes:
        name: for the reasons of skips.
        open: opens an empty cache.
        open_bounded: opens an empty cache that holds at most this many members; None where its bound is not a number of
            members, e.g. one of time.
    """

    name: str
    open: Callable[[], Awaitable[DedupCache]]
    open_bounded: Callable[[int], Awaitable[DedupCache]] | None = None


class DedupCacheContract:
    """Subclass it and give it a fixture ``backend``, a `CacheBackend`."""

    pytestmark = pytest.mark.asyncio

    @pytest_asyncio.fixture
    async def cache(self, backend: CacheBackend) -> AsyncIterator[DedupCache]:
        """An empty cache, closed after the test."""
        cache = await backend.open()
        yield cache
        await cache.close()

    @pytest_asyncio.fixture
    async def small_cache(self, backend: CacheBackend) -> AsyncIterator[DedupCache]:
        """An empty cache for at most `_ROOM` members."""
        if backend.open_bounded is None:
            pytest.skip(f"{backend.name} is not bounded by a number of members")
        cache = await backend.open_bounded(_ROOM)
        yield cache
        await cache.close()

    async def test_is_a_dedup_cache(self, cache: DedupCache) -> None:
        """It has every method of the port."""
        assert isinstance(cache, DedupCache)

    async def test_nothing_is_seen_at_first(self, cache: DedupCache) -> None:
        """An empty cache has seen nothing."""
        assert list(await cache.seen("e:default", [b"one", b"two"])) == [False, False]

    async def test_marked_members_are_seen(self, cache: DedupCache) -> None:
        """It answers for each member, in the order asked."""
        await cache.mark("e:default", [b"one", b"three"])

        assert list(await cache.seen("e:default", [b"three", b"two", b"one"])) == [True, False, True]

    async def test_asking_marks_nothing(self, cache: DedupCache) -> None:
        """A lookup claims nothing: an id asked for and never marked stays unseen."""
        await cache.seen("e:default", [b"one"])

        assert list(await cache.seen("e:default", [b"one"])) == [False]

    async def test_namespaces_are_apart(self, cache: DedupCache) -> None:
        """What one epoch or project has marked is unseen in another."""
        await cache.mark("e1:default", [b"one"])

        assert list(await cache.seen("e2:default", [b"one"])) == [False]
        assert list(await cache.seen("e1:other", [b"one"])) == [False]

    async def test_a_member_may_come_twice_in_a_call(self, cache: DedupCache) -> None:
        """Each place in the question gets its own answer."""
        await cache.mark("e:default", [b"one", b"one"])

        assert list(await cache.seen("e:default", [b"one", b"two", b"one", b"two"])) == [True, False, True, False]

    async def test_empty_calls_do_nothing(self, cache: DedupCache) -> None:
        """No members, no answers, no error."""
        await cache.mark("e:default", [])

        assert list(await cache.seen("e:default", [])) == []

    async def test_takes_a_whole_batch_at_once(self, cache: DedupCache) -> None:
        """2,000 members, the most that one request has, half of them known."""
        members = [number.to_bytes(32, "big") for number in range(2_000)]
        await cache.mark("e:default", members[::2])

        assert list(await cache.seen("e:default", members)) == [True, False] * 1_000

    async def test_many_tasks_may_use_it_at_once(self, cache: DedupCache) -> None:
        """Marks from concurrent tasks do not get into each other's way."""
        groups = [[bytes([group, number]) for number in range(50)] for group in range(20)]

        await asyncio.gather(*(cache.mark(f"e:{group}", members) for group, members in enumerate(groups)))

        answers = await asyncio.gather(*(cache.seen(f"e:{group}", members) for group, members in enumerate(groups)))
        assert [list(answer) for answer in answers] == [[True] * 50] * 20

    @given(marked=_CALLS, asked=_CALLS)
    @settings(
        deadline=None,
        max_examples=50,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
    )
    async def test_never_invents(
        self, backend: CacheBackend, marked: list[tuple[str, list[bytes]]], asked: list[tuple[str, list[bytes]]]
    ) -> None:
        """Whatever is marked, only that is ever seen, byte for byte in its own namespace."""
        cache = await backend.open()
        for namespace, members in marked:
            await cache.mark(namespace, members)
        known = {(namespace, member) for namespace, members in marked for member in members}

        answers = [
            (namespace, member)
            for namespace, members in asked
            for member, seen in zip(members, await cache.seen(namespace, members), strict=True)
            if seen
        ]
        await cache.close()

        assert set(answers) - known == set()

    async def test_is_bounded(self, small_cache: DedupCache) -> None:
        """Ten times as many marks as it may hold leave no more than it may hold, over all namespaces."""
        for number in range(_ROOM * 10):
            await small_cache.mark(f"e:{number % 3}", [number.to_bytes(32, "big")])

        members = [number.to_bytes(32, "big") for number in range(_ROOM * 10)]
        answers = [await small_cache.seen(f"e:{namespace}", members) for namespace in range(3)]
        assert sum(map(sum, answers)) <= _ROOM

    async def test_one_call_larger_than_the_bound_is_no_exception(self, small_cache: DedupCache) -> None:
        """A single huge call is bounded too."""
        members = [number.to_bytes(32, "big") for number in range(_ROOM * 10)]
        await small_cache.mark("e:default", members)

        assert sum(await small_cache.seen("e:default", members)) <= _ROOM

    async def test_a_full_cache_still_takes_marks(self, small_cache: DedupCache) -> None:
        """Forgetting makes room for what comes."""
        await small_cache.mark("e:default", [number.to_bytes(32, "big") for number in range(_ROOM * 10)])
        await small_cache.mark("e:default", [b"the latest"])

        assert list(await small_cache.seen("e:default", [b"the latest"])) == [True]

    async def test_never_raises_when_closed(self, cache: DedupCache) -> None:
        """A closed cache is a cache that has forgotten; closing again does nothing."""
        await cache.mark("e:default", [b"one"])
        await cache.close()
        await cache.close()

        await cache.mark("e:default", [b"two"])
        assert list(await cache.seen("e:default", [b"three", b"four"])) == [False, False]
