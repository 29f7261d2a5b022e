"""API keys: kept whole, ended for ever, and theirs alone."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from eventcore.contract.event_store.asking import DAY_US
from eventcore.contract.event_store.backend import StoreFixtures
from eventcore.errors import Kind, StoreError
from eventcore.keys import SCOPES, ApiKey
from eventcore.ports import EventStore
from eventcore.strategies import AN_INSTANT_US, a_chunk, an_event


def an_api_key(key_id: str = "abcdefgh", **changes: Any) -> ApiKey:
    """A key that may read, made at `AN_INSTANT_US`; ``changes`` replace its values."""
    key = ApiKey(
        key_id=key_id,
        digest=key_id.encode().ljust(32, b"\0"),
        project="default",
        scopes=("read",),
        created_us=AN_INSTANT_US,
    )
    return msgspec.structs.replace(key, **changes)


class Admitting(StoreFixtures):
    """What `eventcore.access` builds on."""

    async def test_there_is_no_key_at_first(self, store: EventStore) -> None:
        """Nor does an event make one."""
        await store.append([a_chunk(an_event())])

        assert list(await store.keys()) == []

    async def test_a_key_is_kept_whole(self, store: EventStore) -> None:
        """Every value comes back as it was, those that are not there as well."""
        bare = an_api_key("aaaaaaaa", digest=bytes(range(224, 256)))
        full = an_api_key(
            "bbbbbbbb",
            project="shop",
            scopes=SCOPES,
            label='Éva\'s laptop 🦊, "quoted", 50 % {a,b}',
            origins=("https://shop.example", "http://[::1]:3000"),
            created_us=AN_INSTANT_US + 1,
            expires_us=AN_INSTANT_US + 2,
            revoked_us=AN_INSTANT_US + 3,
            last_used_us=AN_INSTANT_US + 4,
        )
        await store.put_key(full)
        await store.put_key(bare)

        assert list(await store.keys()) == [bare, full]

    async def test_keys_come_in_the_order_of_making(self, store: EventStore) -> None:
        """Those of one instant by their ids, of all projects together."""
        keys = [
            an_api_key("cccccccc", created_us=AN_INSTANT_US - DAY_US),
            an_api_key("aaaaaaaa", project="shop"),
            an_api_key("bbbbbbbb"),
        ]
        for key in reversed(keys):
            await store.put_key(key)

        assert list(await store.keys()) == keys

    async def test_a_key_makes_no_project(self, store: EventStore) -> None:
        """It may be there long before the first event."""
        await store.put_key(an_api_key(project="not-yet"))

        assert "not-yet" not in (await store.describe()).counts
        assert list(await store.verify()) == []

    async def test_the_earliest_end_counts(self, store: EventStore) -> None:
        """Whoever comes late with an older picture of the key takes no revocation back."""
        key = an_api_key()
        ends: list[int | None] = [None, 300, None, 100, 200, None]
        found = []
        for revoked_us in ends:
            await store.put_key(msgspec.structs.replace(key, revoked_us=revoked_us))
            found.append((await store.keys())[0].revoked_us)

        assert found == [None, 300, 300, 100, 100, 100]

    async def test_nothing_but_its_end_can_change(self, store: EventStore) -> None:
        """A key cannot be given more than it was made with."""
        key = an_api_key(last_used_us=7)
        await store.put_key(key)
        await store.put_key(
            msgspec.structs.replace(
                key, project="shop", scopes=SCOPES, label="other", expires_us=1, created_us=2, last_used_us=3
            )
        )

        assert list(await store.keys()) == [key]

    async def test_an_id_belongs_to_one_key(self, store: EventStore) -> None:
        """Another one with it is refused, and does not end the first either."""
        key = an_api_key()
        await store.put_key(key)
        with pytest.raises(StoreError) as refused:
            await store.put_key(an_api_key(digest=bytes(32), revoked_us=1))

        assert refused.value.kind is Kind.DATA
        assert list(await store.keys()) == [key]

    async def test_the_latest_use_counts(self, store: EventStore) -> None:
        """Several processes tell of their uses in any order; keys that nobody knows are passed over."""
        await store.put_key(an_api_key("aaaaaaaa"))
        await store.put_key(an_api_key("bbbbbbbb"))
        await store.touch_keys({})
        await store.touch_keys({"aaaaaaaa": AN_INSTANT_US + 5, "zzzzzzzz": AN_INSTANT_US})
        await store.touch_keys({"bbbbbbbb": AN_INSTANT_US + 1, "aaaaaaaa": AN_INSTANT_US + 3})

        assert list(await store.keys()) == [
            an_api_key("aaaaaaaa", last_used_us=AN_INSTANT_US + 5),
            an_api_key("bbbbbbbb", last_used_us=AN_INSTANT_US + 1),
        ]

    async def test_a_use_changes_no_end(self, store: EventStore) -> None:
        """And an end no use."""
        await store.put_key(an_api_key(revoked_us=AN_INSTANT_US))
        await store.touch_keys({"abcdefgh": AN_INSTANT_US + 1})
        await store.put_key(an_api_key(revoked_us=AN_INSTANT_US - 1))

        assert list(await store.keys()) == [an_api_key(revoked_us=AN_INSTANT_US - 1, last_used_us=AN_INSTANT_US + 1)]

    async def test_many_at_once(self, store: EventStore) -> None:
        """Puts and touches of the same keys beside each other, and beside events."""
        keys = [an_api_key(f"aaaaaa{first}{second}") for first in "abcdef" for second in "abcdef"]
        uses = {key.key_id: AN_INSTANT_US + number for number, key in enumerate(keys)}
        await asyncio.gather(*map(store.put_key, keys))
        await asyncio.gather(
            *(store.touch_keys(dict(sorted(uses.items(), reverse=bool(turn % 2)))) for turn in range(8)),
            store.append([a_chunk(an_event())]),
            *(store.put_key(msgspec.structs.replace(key, revoked_us=AN_INSTANT_US)) for key in keys),
        )

        assert list(await store.keys()) == [
            msgspec.structs.replace(key, revoked_us=AN_INSTANT_US, last_used_us=uses[key.key_id]) for key in keys
        ]

    async def test_keys_are_there_after_reopening(
        self, store: EventStore, reopen: Callable[[], Awaitable[EventStore]]
    ) -> None:
        """As they were."""
        keys = [an_api_key("aaaaaaaa", label="one"), an_api_key("bbbbbbbb", revoked_us=AN_INSTANT_US)]
        for key in keys:
            await store.put_key(key)
        reopened = await reopen()

        assert list(await reopened.keys()) == keys

    async def test_another_process_sees_a_change_at_once(self, store: EventStore, beside: EventStore) -> None:
        """A revocation that was answered is in every list that is read from then on."""
        for turn in range(20):
            key = an_api_key(f"aaaaaaa{'abcdefghijklmnopqrst'[turn]}")
            await store.put_key(key)
            assert key in await beside.keys()
            await beside.put_key(msgspec.structs.replace(key, revoked_us=AN_INSTANT_US))
            assert msgspec.structs.replace(key, revoked_us=AN_INSTANT_US) in await store.keys()

    async def test_stores_have_their_own_keys(self, store: EventStore, elsewhere: EventStore) -> None:
        """A key of one opens no other."""
        await store.put_key(an_api_key())

        assert list(await elsewhere.keys()) == []
