"""A check ends as an append would, and leaves nothing behind: that is how the event that a store refuses is found."""

import asyncio
from collections.abc import Awaitable, Mapping
from typing import Any

import msgspec
import pytest

from eventcore.contract.event_store.asking import (
    DAY,
    NO_EVENT_CAN_BE,
    a_busy_day,
    a_poison,
    a_query,
    all_books,
    ask_tallies,
    ask_types,
    find_events,
    kind_of,
    row_counts,
    tell_everything,
)
from eventcore.contract.event_store.backend import StoreFixtures
from eventcore.errors import Kind, StoreError
from eventcore.events import Book, Counts, Receipt
from eventcore.ports import EventStore
from eventcore.strategies import a_chunk, a_death, an_event, an_id


class Checking(StoreFixtures):
    """`EventStore.check`."""

    async def test_a_check_keeps_nothing(self, store: EventStore) -> None:
        """Whatever the chunk has: events, repeats, conflicts, letters, counts, an import, a project of its own."""
        busy_day = a_busy_day()
        await store.append(busy_day)
        before = await tell_everything(store, busy_day)
        chunk = a_chunk(
            an_event(event_id=1),
            an_event(event_id=2, user_id="a new user"),
            an_event(event_id=2_001, user_id="another new user", event_type="a new type"),
            conflicting=[an_event(event_id=2_001, user_id="x")],
            counts=Counts(duplicates=1, conflicts=1, rejected=1),
            dead=[a_death(an_event(event_id=2_002)), a_death(a_poison())],
            import_id=b"an import of its",
            queued=True,
        )
        in_a_project_of_its_own = msgspec.structs.replace(chunk, chunk_id=bytes(16), project="unheard-of")

        await store.check(chunk)
        await store.check(in_a_project_of_its_own)
        assert await tell_everything(store, busy_day) == before
        assert await store.find("default", [an_id(2_001), an_id(2_002)]) == {}
        assert list(await store.verify()) == []

    async def test_a_checked_chunk_is_not_known(self, store: EventStore) -> None:
        """It can be appended afterwards, with all that it has."""
        await store.append([a_chunk(an_event(event_id=1))])
        chunk = a_chunk(an_event(event_id=1), an_event(event_id=2), counts=Counts(rejected=1), queued=True)
        await store.check(chunk)
        await store.check(chunk)

        assert list(await store.append([chunk])) == [Receipt(duplicates=(0,))]
        assert await all_books(store) == [
            Book(date=DAY, received=4, accepted=3, stored=2, duplicate_at_store=1, rejected=1)
        ]

    @pytest.mark.parametrize("broken", NO_EVENT_CAN_BE.values(), ids=NO_EVENT_CAN_BE)
    @pytest.mark.parametrize("place", ["events", "conflicting", "dead"])
    async def test_a_check_ends_as_an_append_would(
        self, store: EventStore, broken: Mapping[str, Any], place: str
    ) -> None:
        """With the same kind of error, or well; and nothing is left of it."""
        poison = a_poison(**broken)
        chunk = {
            "events": a_chunk(an_event(event_id=2), poison),
            "conflicting": a_chunk(an_event(event_id=2), conflicting=[poison], counts=Counts(conflicts=1)),
            "dead": a_chunk(an_event(event_id=2), dead=[a_death(poison)]),
        }[place]
        checked = await kind_of(store.check(chunk))
        counts = (await store.describe()).counts

        assert (counts, await all_books(store), list(await store.verify())) == ({}, [], [])
        assert checked == await kind_of(store.append([chunk]))

    async def test_a_check_refuses_poison_as_data(self, store: EventStore) -> None:
        """With a reason that an operator can read, and that says nothing of the values."""
        with pytest.raises(StoreError) as caught:
            await store.check(a_chunk(an_event(event_id=2), a_poison(user_id="secret\0user")))

        assert (caught.value.kind, caught.value.retryable) == (Kind.DATA, False)
        assert caught.value.message
        assert "secret" not in caught.value.message

    async def test_a_check_passes_a_chunk_that_is_known(self, store: EventStore) -> None:
        """An append of it would change nothing and look at nothing."""
        chunk = a_chunk(an_event(), queued=True)
        await store.append([chunk])

        await store.check(msgspec.structs.replace(chunk, events=(a_poison(),)))

        assert await all_books(store) == [Book(date=DAY, received=1, accepted=1, stored=1)]

    async def test_a_check_forgets_its_users_and_types(self, store: EventStore) -> None:
        """What it made up for new names is void: nobody else's may be taken for them afterwards."""
        await store.check(a_chunk(an_event(event_id=1, user_id="grace", event_type="signup"), project="default"))
        await store.append([a_chunk(an_event(event_id=2, user_id="edsger", event_type="purchase"))])
        await store.append([a_chunk(an_event(event_id=1, user_id="grace", event_type="signup"))])

        assert await ask_types(store, a_query(split="event_type")) == [{"signup": (1, 1), "purchase": (1, 1)}]
        assert await ask_tallies(store, a_query()) == [(2, 2)]
        assert await row_counts(store) == {"events": 2, "users": 2, "conflicts": 0}
        assert list(await store.verify()) == []

    async def test_checks_do_no_harm_to_appends_beside_them(self, store: EventStore) -> None:
        """Many at once: what is checked is not kept, and what is appended is, whatever becomes of the checks."""
        sent = [an_event(event_id=number, user_id=f"user {number}") for number in range(100, 140)]
        checked = [an_event(event_id=number, user_id=f"user {number}") for number in range(200, 240)]
        calls: list[Awaitable[object]] = []
        for one, other in zip(sent, checked, strict=True):
            calls += [store.append([a_chunk(one)]), store.check(a_chunk(other)), store.check(a_chunk(a_poison(other)))]
        kinds = await asyncio.gather(*map(kind_of, calls))

        assert kinds == [None, None, Kind.DATA] * 40
        assert await find_events(store, sent + checked) == sent
        assert await all_books(store) == [Book(date=DAY, received=40, accepted=40, stored=40)]
        assert await ask_tallies(store, a_query()) == [(40, 40)]
        assert list(await store.verify()) == []
