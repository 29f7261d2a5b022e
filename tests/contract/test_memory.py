"""What is the memory adapters' own, beside the contract: their URLs, what the cache is sure to keep, the self-check."""

from collections.abc import Callable

import msgspec
import pytest

from adapters.inline import open_queue
from adapters.memory import MemoryStore, open_dedup, open_store
from eventcore.dedup import member
from eventcore.errors import Kind, StoreError
from eventcore.strategies import a_chunk, a_death, an_event


@pytest.mark.parametrize("url", ["memory://", "memory:"])
async def test_each_open_is_another_store(url: str) -> None:
    one, other = await open_store(url), await open_store(url)
    await one.append([a_chunk(an_event())])
    assert (await other.describe()).counts == {}


@pytest.mark.parametrize(
    "url", ["memory://name", "memory:///path", "memory://?members=5", "memory://#", "sqlite://", ""]
)
async def test_a_store_url_says_nothing_more(url: str) -> None:
    with pytest.raises(StoreError) as caught:
        await open_store(url)
    assert (caught.value.kind, caught.value.code) == (Kind.INVALID, "invalid_url")


@pytest.mark.parametrize(
    "url",
    [
        "memory://name",
        "memory://?members=",
        "memory://?members=1",
        "memory://?members=0",
        "memory://?members=-5",
        "memory://?members=1e3",
        "memory://?members=٣٣",
        "memory://?members=5&members=6",
        "memory://?member=5",
        "memory://?members=10000000000",
        "redis://",
    ],
)
async def test_a_cache_url_says_how_many_members_or_nothing(url: str) -> None:
    with pytest.raises(StoreError) as caught:
        await open_dedup(url)
    assert (caught.value.kind, caught.value.code) == (Kind.INVALID, "invalid_url")


@pytest.mark.parametrize("url", ["inline://host", "inline://?a=b", "memory://", ""])
async def test_a_queue_url_says_nothing_more(url: str) -> None:
    with pytest.raises(StoreError) as caught:
        await open_queue(url, store=MemoryStore())
    assert (caught.value.kind, caught.value.code) == (Kind.INVALID, "invalid_url")


@pytest.mark.parametrize("members", [2, 3, 10, 101])
async def test_the_cache_keeps_the_latest_half(members: int) -> None:
    cache = await open_dedup(f"memory://?members={members}")
    marks = [number.to_bytes(4, "big") for number in range(10 * members)]
    for done, mark in enumerate(marks, start=1):
        await cache.mark("e:default", [mark])
        latest = marks[max(0, done - members // 2) : done]
        assert list(await cache.seen("e:default", latest)) == [True] * len(latest)
        assert sum(await cache.seen("e:default", marks)) <= members


async def test_a_mark_made_again_stays_longer() -> None:
    cache = await open_dedup("memory://?members=10")
    for number in range(100):
        await cache.mark("e:default", [b"again and again", number.to_bytes(4, "big")])
    assert list(await cache.seen("e:default", [b"again and again"])) == [True]


@pytest.mark.parametrize(
    "damage",
    [
        lambda project: project.events.popitem(),
        lambda project: project.user_keys.popitem(),
        lambda project: project.user_keys.update(nobody=9),
        lambda project: project.books.clear(),
        lambda project: project.books.update(
            {day: msgspec.structs.replace(b, received=9) for day, b in project.books.items()}
        ),
        lambda project: project.books.update(
            {day: msgspec.structs.replace(b, pending=9) for day, b in project.books.items()}
        ),
        lambda project: project.books.update(
            {day: msgspec.structs.replace(b, duplicate_at_store=1, dead=b.dead - 1) for day, b in project.books.items()}
        ),
        lambda project: project.dead.popitem(),
        lambda project: project.dead.update({bytes(32): next(iter(project.dead.values()))}),
        lambda project: setattr(project, "dropped", 0),
    ],
    ids=[
        "an event lost",
        "a key lost",
        "a key too many",
        "books lost",
        "received is wrong",
        "pending is wrong",
        "dead is wrong",
        "a letter lost",
        "a letter too many",
        "the dropped ones forgotten",
    ],
)
async def test_the_self_check_finds_damage(damage: Callable[[object], object]) -> None:
    store = MemoryStore()
    lost, dropped = an_event(event_id=3), an_event(event_id=4)
    await store.append(
        [a_chunk(an_event(), an_event(event_id=2, user_id="grace"), dead=[a_death(lost), a_death(dropped)])]
    )
    await store.drop("default", [member(dropped)])
    assert not await store.verify()
    damage(store._projects["default"])
    assert await store.verify()
    assert await store.verify("default")
    assert not await store.verify("other")
