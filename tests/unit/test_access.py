"""The list of keys in a process: how fresh it is, what it costs, and what it does while the store is away."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import pytest

from adapters.memory import MemoryStore
from eventcore import access
from eventcore.access import Access
from eventcore.errors import EventcoreError, Kind, StoreError
from eventcore.keys import ApiKey, Refused, make_key

NOW_US = 1_700_000_000_000_000
SECOND_US = 1_000_000


class Store(MemoryStore):
    """Counts questions, and is away or slow when told so."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.touched: list[Mapping[str, int]] = []
        self.error: StoreError | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def keys(self) -> Sequence[ApiKey]:
        self.asked += 1
        found = await super().keys()
        await self.gate.wait()
        if self.error:
            raise self.error
        return found

    async def touch_keys(self, used: Mapping[str, int]) -> None:
        if self.error:
            raise self.error
        self.touched.append(used)
        await super().touch_keys(used)

    def go_away(self) -> None:
        self.error = StoreError(Kind.UNAVAILABLE, "store_away", "away")


class Clock:
    def __init__(self) -> None:
        self.us = 5 * SECOND_US

    def __call__(self) -> int:
        return self.us

    def wait(self, seconds: float) -> None:
        self.us += round(seconds * SECOND_US)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def keys(store: Store, clock: Clock) -> Access:
    return Access(lambda: store, clock_us=lambda: NOW_US + clock.us, elapsed_us=clock, stale_seconds=900)


def a_key(number: int = 0, **changes: Any) -> tuple[str, ApiKey]:
    return make_key(
        number.to_bytes(25, "little"), **({"project": "default", "scopes": ("read",), "now_us": NOW_US} | changes)
    )


async def given(store: Store, number: int = 0, **changes: Any) -> tuple[str, ApiKey]:
    text, key = a_key(number, **changes)
    await store.put_key(key)
    return text, key


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_requests_at_once_ask_once(store: Store, keys: Access, clock: Clock) -> None:
    text, key = await given(store)
    for round_ in range(1, 4):
        assert await asyncio.gather(*(keys.find(text) for _ in range(500))) == [key] * 500
        assert store.asked == round_
        clock.wait(3.1)


async def test_a_busy_process_asks_every_two_seconds_and_nobody_waits(store: Store, keys: Access, clock: Clock) -> None:
    text, key = await given(store)
    for _ in range(1_000):
        assert await keys.find(text) == key
        clock.wait(0.1)
        await settle()
    assert 30 <= store.asked <= 51
    store.gate.clear()
    clock.wait(2.5 - 0.1 * 20)
    async with asyncio.timeout(1):
        assert await keys.find(text) == key


@pytest.mark.parametrize("idle_seconds", [0, 1, 2.5, 2.9, 100, 10_000])
async def test_a_revocation_is_effective_within_five_seconds(
    store: Store, keys: Access, clock: Clock, idle_seconds: float
) -> None:
    text, key = await given(store)
    assert await keys.find(text) == key
    await access.revoke(store, key, now_us=NOW_US)
    clock.wait(idle_seconds)
    await keys.find(text)
    clock.wait(5 - access.PATIENCE_SECONDS + 0.001)
    assert await keys.find(text) == Refused(reason="revoked", prefix=key.prefix)


async def test_a_key_expires_without_a_question(store: Store, keys: Access, clock: Clock) -> None:
    text, key = await given(store, expires_us=NOW_US + 6 * SECOND_US)
    assert await keys.find(text) == key
    clock.wait(1)
    assert await keys.find(text) == Refused(reason="expired", prefix=key.prefix)
    assert store.asked == 1


async def test_a_flood_of_unknown_keys_asks_at_most_twice_a_second(store: Store, keys: Access, clock: Clock) -> None:
    text, key = await given(store)
    for number in range(1, 10_001):
        assert isinstance(await keys.find(a_key(number)[0]), Refused)
        clock.wait(0.000_3)
    assert store.asked <= 8
    assert await keys.find(text) == key


async def test_a_flood_that_is_malformed_asks_nothing(store: Store, keys: Access) -> None:
    await keys.keyring()
    for _ in range(1_000):
        assert await keys.find("password123") == Refused(reason="malformed")
    assert store.asked == 1


async def test_a_key_that_was_just_made_is_known_soon(store: Store, keys: Access, clock: Clock) -> None:
    await keys.keyring()
    text, key = await given(store)
    clock.wait(0.6)
    assert await keys.find(text) == key


async def test_what_was_changed_through_this_process_counts_at_once(store: Store, keys: Access) -> None:
    text, key = await given(store)
    store.gate.clear()
    waiting = asyncio.ensure_future(keys.find(text))
    await settle()  # the list is read, and the key is good in it
    await access.revoke(store, key, now_us=NOW_US)
    keys.forget()
    store.gate.set()
    await waiting
    assert await keys.find(text) == Refused(reason="revoked", prefix=key.prefix)


async def test_away_from_the_start_nobody_is_known(store: Store, keys: Access, clock: Clock) -> None:
    text, key = await given(store)
    store.go_away()
    for _ in range(100):
        with pytest.raises(StoreError) as refused:
            await keys.find(text)
        assert (refused.value.code, refused.value.retryable) == ("keys_unavailable", True)
    assert store.asked == 1
    store.error = None
    clock.wait(1.1)
    await settle()
    with pytest.raises(StoreError):
        await keys.find(text)  # begins to look again, without waiting
    await settle()
    assert await keys.find(text) == key


async def test_while_the_store_is_away_the_last_list_serves_for_its_time(
    store: Store, keys: Access, clock: Clock
) -> None:
    text, key = await given(store)
    assert await keys.find(text) == key
    store.go_away()
    for _ in range(899):
        clock.wait(1)
        assert await keys.find(text) == key
        await settle()
    assert isinstance(await keys.find(a_key(7)[0]), Refused)
    clock.wait(1.1)
    with pytest.raises(StoreError):
        await keys.find(text)
    store.error = None
    clock.wait(1.1)
    with pytest.raises(StoreError):
        await keys.find(text)
    await settle()
    assert await keys.find(text) == key


async def test_a_list_without_keys_serves_as_long_as_the_store_is_away(
    store: Store, keys: Access, clock: Clock
) -> None:
    assert (await keys.keyring()).is_empty
    store.go_away()
    for _ in range(10):
        clock.wait(900)
        assert (await keys.keyring()).is_empty
        await settle()


async def test_a_store_that_hangs_is_waited_for_once(
    store: Store, keys: Access, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "PATIENCE_SECONDS", 0.05)
    text, key = await given(store)
    assert await keys.find(text) == key
    store.gate.clear()
    clock.wait(10)
    began = asyncio.get_running_loop().time()
    for _ in range(200):
        assert await keys.find(text) == key
    assert asyncio.get_running_loop().time() - began < 2
    assert store.asked == 2
    await access.revoke(store, key, now_us=NOW_US)
    store.gate.set()
    await settle()
    clock.wait(4)
    assert await keys.find(text) == Refused(reason="revoked", prefix=key.prefix)


async def test_who_gives_up_waiting_takes_nobody_along(store: Store, keys: Access) -> None:
    text, key = await given(store)
    store.gate.clear()
    first, second = (asyncio.ensure_future(keys.find(text)) for _ in range(2))
    await settle()
    first.cancel()
    store.gate.set()
    assert await second == key


async def test_peek_gives_the_last_list_at_any_age(store: Store, keys: Access, clock: Clock) -> None:
    store.go_away()
    assert await keys.peek() is None
    store.error = None
    clock.wait(1.1)
    await keys.peek()
    await settle()
    store.gate.clear()
    clock.wait(10_000)
    async with asyncio.timeout(1):
        keyring = await keys.peek()
    assert keyring is not None
    assert keyring.is_empty


async def test_uses_are_written_in_one_go_and_once_a_minute(
    store: Store, keys: Access, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "GATHER_SECONDS", 0.01)
    made = [await given(store, number) for number in range(5)]
    for _ in range(59):
        for _, key in made:
            keys.note_use(key)
        clock.wait(1)
        await settle()
    await asyncio.sleep(0.05)
    assert [sorted(used) for used in store.touched] == [sorted(key.key_id for _, key in made)]
    clock.wait(1)
    keys.note_use(made[0][1])
    await keys.close()
    assert [len(used) for used in store.touched] == [5, 1]
    assert (await store.keys())[0].last_used_us is not None


async def test_a_use_that_cannot_be_written_fails_nobody(
    store: Store, keys: Access, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "GATHER_SECONDS", 0.01)
    _, key = await given(store)
    store.go_away()
    keys.note_use(key)
    await asyncio.sleep(0.05)
    store.error = None
    keys.note_use(key)
    await keys.close()
    assert [list(used) for used in store.touched] == [[key.key_id]]


# Giving and taking


async def test_rotation_keeps_the_settings(store: Store) -> None:
    _, old = await given(store, label="x", origins=("https://a",), expires_us=NOW_US + 99, project="shop")
    text, new = await access.rotate(store, old, b"r" * 25, now_us=NOW_US + 1, ends_us=NOW_US + 10)
    assert msgspec.structs.replace(new, key_id=old.key_id, digest=old.digest, created_us=old.created_us) == old
    assert text.startswith(new.prefix)
    assert [key.revoked_us for key in await store.keys()] == [NOW_US + 10, None]


async def test_a_grace_takes_no_revocation_back(store: Store) -> None:
    _, old = await given(store)
    old = await access.revoke(store, old, now_us=NOW_US + 5)
    _, _ = await access.rotate(store, old, b"r" * 25, now_us=NOW_US + 1, ends_us=NOW_US + 10)
    assert (await access.find(store, old.key_id)).revoked_us == NOW_US + 5


async def test_a_key_that_has_ended_cannot_be_rotated(store: Store) -> None:
    _, old = await given(store)
    old = await access.revoke(store, old, now_us=NOW_US)
    with pytest.raises(EventcoreError) as refused:
        await access.rotate(store, old, b"r" * 25, now_us=NOW_US, ends_us=NOW_US)
    assert refused.value.code == "key_has_ended"
    assert len(await store.keys()) == 1


async def test_a_key_of_another_project_is_not_there(store: Store) -> None:
    _, key = await given(store, project="shop")
    assert await access.find(store, key.key_id, project="shop") == key
    with pytest.raises(EventcoreError) as refused:
        await access.find(store, key.key_id, project="default")
    assert refused.value.code == "key_not_found"
