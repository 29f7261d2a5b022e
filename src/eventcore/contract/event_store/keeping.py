"""Each event is kept once, exactly as it came, and the first content of an id stays."""

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from eventcore.calendar import to_instant
from eventcore.conditions import Selection
from eventcore.contract.event_store.asking import (
    DAY,
    DAY_US,
    MIDNIGHT_US,
    NO_EVENT_CAN_BE,
    WHOLE_DAY,
    a_poison,
    a_query,
    a_selection,
    all_books,
    ask_tallies,
    ask_types,
    find_events,
    row_counts,
)
from eventcore.contract.event_store.backend import StoreFixtures
from eventcore.contract.event_store.model import Seen, seen
from eventcore.errors import Kind, StoreError
from eventcore.events import Book, Counts, Receipt, StoredEvent
from eventcore.ports import EventStore
from eventcore.strategies import AN_INSTANT_US, HOSTILE_TEXTS, a_chunk, an_event, an_id


class Keeping(StoreFixtures):
    """Each event is kept once, exactly as it came, and the first content of an id stays."""

    async def test_is_an_event_store(self, store: EventStore) -> None:
        """It has every method of the port."""
        assert isinstance(store, EventStore)

    async def test_an_empty_store_holds_nothing(self, store: EventStore) -> None:
        """Every question has an answer, also before the first event, and asking leaves no trace."""
        assert await store.find("default", [an_id(1)]) == {}
        assert list(await store.books("default", "1970-01-01", "9999-12-31")) == []
        assert seen(await store.activity(a_query(history=True))) == Seen({(0, 0, None): 0}, Counter())
        assert list(await store.verify()) == []
        assert list(await store.verify("default")) == []
        assert (await store.describe()).counts == {}

    async def test_appending_nothing_does_nothing(self, store: EventStore) -> None:
        """No chunks, no receipts."""
        assert list(await store.append([])) == []

    async def test_an_event_is_found_as_it_came(self, store: EventStore) -> None:
        """With when it was received, and the import that brought it."""
        event = an_event(properties='{"b" : 1.0, "a":"\\u00e9"}')
        receipts = await store.append([a_chunk(event, received_us=AN_INSTANT_US + 1, import_id=bytes(range(16)))])

        assert list(receipts) == [Receipt()]
        assert await store.find("default", [event.event_id]) == {
            event.event_id: StoredEvent(event=event, received_us=AN_INSTANT_US + 1, import_id=bytes(range(16)))
        }

    async def test_hostile_texts_are_found_byte_for_byte(self, store: EventStore) -> None:
        """In the user, in the type, and in keys and values of the properties."""
        sent = [
            an_event(
                event_id=number,
                user_id=text,
                event_type=text[:100],
                properties=json.dumps({text: text, "list": [text]}, ensure_ascii=bool(number % 2)),
            )
            for number, text in enumerate(HOSTILE_TEXTS)
        ]
        await store.append([a_chunk(*sent)])

        assert await find_events(store, sent) == sent

    async def test_users_that_look_alike_are_different_users(self, store: EventStore) -> None:
        """Composed and decomposed, small and capital, with a space behind: byte for byte another is another."""
        users = list(dict.fromkeys((*HOSTILE_TEXTS, "ada", "ADA", "ada\u0301", "ada  ", "\uff11", "ss")))
        await store.append([a_chunk(*(an_event(event_id=number, user_id=user) for number, user in enumerate(users)))])

        assert await ask_tallies(store, a_query()) == [(len(users), len(users))]
        assert await row_counts(store) == {"events": len(users), "users": len(users), "conflicts": 0}

    async def test_types_that_look_alike_are_different_types(self, store: EventStore) -> None:
        """As users are."""
        types = list(dict.fromkeys(text[:100] for text in HOSTILE_TEXTS))
        await store.append(
            [a_chunk(*(an_event(event_id=number, event_type=name) for number, name in enumerate(types)))]
        )

        snapshot = await store.activity(a_query(split="event_type"))
        assert {name: tally.events for name, tally in snapshot.selections[0].slots[0].parts.items()} == dict.fromkeys(
            types, 1
        )

    async def test_the_longest_of_everything_fits(self, store: EventStore) -> None:
        """255 characters of four bytes each, 100 for a type, 200 KB of properties, the first and last instant."""
        sent = [
            an_event(
                event_id=b"\0" * 15 + b"\1",
                user_id="😀" * 255,
                event_type="😀" * 100,
                occurred_us=0,
                properties={"text": "x" * 200_000},
            ),
            an_event(
                event_id=b"\xff" * 15 + b"\xfe",
                occurred_us=to_instant(datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
                properties={f"key {number}": number for number in range(255)},
            ),
        ]
        await store.append([a_chunk(*sent)])

        assert await find_events(store, sent) == sent

    @pytest.mark.parametrize(
        "number", ["18446744073709551615", "-9223372036854775808", "9007199254740993", "1.10", "1e2", "-0.0", "5e-324"]
    )
    async def test_numbers_are_found_as_they_were_spelled(self, store: EventStore, number: str) -> None:
        """No number goes through a float on its way."""
        sent = [an_event(properties=f'{{"n":{number}}}')]
        await store.append([a_chunk(*sent)])

        assert await find_events(store, sent) == sent

    async def test_only_what_is_stored_is_found(self, store: EventStore) -> None:
        """Unknown ids and repeats in the question do no harm, nor does asking for nothing."""
        event = an_event()
        await store.append([a_chunk(event)])

        found = await store.find("default", [an_id(9), event.event_id, an_id(8), event.event_id])
        assert found.keys() == {event.event_id}
        assert await store.find("default", []) == {}

    async def test_a_repeat_is_a_duplicate(self, store: EventStore) -> None:
        """Sent again in another chunk: nothing changes but the books."""
        event = an_event()
        first = a_chunk(event)
        await store.append([first])
        receipts = await store.append([a_chunk(event, an_event(event_id=2), received_us=AN_INSTANT_US + 1)])

        assert list(receipts) == [Receipt(duplicates=(0,))]
        assert (await store.find("default", [event.event_id]))[event.event_id].received_us == first.received_us
        assert await row_counts(store) == {"events": 2, "users": 1, "conflicts": 0}

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ('{"a":1,"b":2}', '{"b":2,"a":1}'),
            ('{"a":1}', '{ "a" : 1 }'),
            ('{"a":1}', '{"a":1.0}'),
            ('{"a":100}', '{"a":1e2}'),
            ('{"a":0.1}', '{"a":1e-1}'),
            ('{"a":"é"}', '{"a":"\\u00e9"}'),
            ('{"é":1}', '{"\\u00e9":1}'),
            ('{"a":"/"}', '{"a":"\\/"}'),
            ('{"a":[{"b":1,"c":2}]}', '{"a":[{"c":2,"b":1}]}'),
            ("{}", "{ }"),
        ],
    )
    async def test_another_spelling_is_a_duplicate(self, store: EventStore, one: str, other: str) -> None:
        """Equal content means equal values; the spelling that came first stays."""
        first = an_event(properties=one)
        await store.append([a_chunk(first)])
        receipts = await store.append([a_chunk(an_event(properties=other))])

        assert list(receipts) == [Receipt(duplicates=(0,))]
        assert await find_events(store, [first]) == [first]
        assert await row_counts(store) == {"events": 1, "users": 1, "conflicts": 0}

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ('{"a":1}', '{"a":2}'),
            ('{"a":1}', '{"a":"1"}'),
            ('{"a":1}', '{"a":true}'),
            ('{"a":0}', '{"a":false}'),
            ('{"a":null}', "{}"),
            ('{"a":""}', '{"a":null}'),
            ('{"a":[1,2]}', '{"a":[2,1]}'),
            ('{"a":[]}', '{"a":{}}'),
            ('{"a":9007199254740992}', '{"a":9007199254740993}'),
            ('{"a":18446744073709551615}', '{"a":18446744073709551614}'),
            ('{"a":0.1}', '{"a":0.10000000000000001}'),
            ('{"a":"é"}', '{"a":"e\\u0301"}'),
            ('{"a":"x"}', '{"a":"x "}'),
            ('{"a":"x"}', '{"a":"X"}'),
            ('{"a":1}', '{"A":1}'),
        ],
    )
    async def test_other_properties_are_a_conflict(self, store: EventStore, one: str, other: str) -> None:
        """What JSON tells apart is other content; the first one stays, the other is kept for inspection."""
        first = an_event(properties=one)
        await store.append([a_chunk(first)])
        receipts = await store.append([a_chunk(an_event(properties=other))])

        assert list(receipts) == [Receipt(conflicts=(0,))]
        assert await find_events(store, [first]) == [first]
        assert await row_counts(store) == {"events": 1, "users": 1, "conflicts": 1}

    @pytest.mark.parametrize(
        "changes",
        [{"user_id": "Ada"}, {"event_type": "signup"}, {"occurred_us": AN_INSTANT_US + 1}],
        ids=lambda changes: next(iter(changes)),
    )
    async def test_another_user_type_or_instant_is_a_conflict(
        self, store: EventStore, changes: Mapping[str, Any]
    ) -> None:
        """And adds nothing to any statistic."""
        first = an_event()
        await store.append([a_chunk(first)])
        before = await store.activity(a_query(split="event_type"))
        receipts = await store.append([a_chunk(an_event(**changes))])

        assert list(receipts) == [Receipt(conflicts=(0,))]
        assert await find_events(store, [first]) == [first]
        assert await store.activity(a_query(split="event_type")) == before
        assert await row_counts(store) == {"events": 1, "users": 1, "conflicts": 1}

    async def test_the_same_id_on_another_day_adds_no_activity(self, store: EventStore) -> None:
        """A retry whose clock says another day is a conflict, not a second event."""
        await store.append([a_chunk(an_event())])
        await store.append([a_chunk(an_event(occurred_us=AN_INSTANT_US + DAY_US))])

        next_day = ((MIDNIGHT_US + DAY_US, MIDNIGHT_US + 2 * DAY_US),)
        assert await ask_tallies(store, a_query(WHOLE_DAY, next_day)) == [(1, 1), (0, 0)]

    async def test_each_content_of_a_conflict_is_kept_once(self, store: EventStore) -> None:
        """Unique on project, id and fingerprint, however often it is sent again."""
        await store.append([a_chunk(an_event())])
        for user in ("grace", "edsger", "grace", "grace"):
            await store.append([a_chunk(an_event(user_id=user))])

        assert await row_counts(store) == {"events": 1, "users": 1, "conflicts": 2}

    async def test_conflicts_inside_the_request_are_kept(self, store: EventStore) -> None:
        """They never stood among the events; the sender has been told of them already."""
        loser = an_event(user_id="grace")
        receipts = await store.append([a_chunk(an_event(), conflicting=[loser], counts=Counts(conflicts=1))])

        assert list(receipts) == [Receipt()]
        assert await find_events(store, [an_event()]) == [an_event()]
        assert await row_counts(store) == {"events": 1, "users": 1, "conflicts": 1}
        assert await ask_tallies(store, a_query()) == [(1, 1)]

    async def test_a_chunk_may_hold_nothing_but_conflicts(self, store: EventStore) -> None:
        """The cache knew the winner; the loser is kept all the same."""
        await store.append([a_chunk(conflicting=[an_event()], counts=Counts(duplicates=1, conflicts=1))])

        assert await store.find("default", [an_id(1)]) == {}
        assert await row_counts(store) == {"events": 0, "users": 0, "conflicts": 1}

    async def test_the_first_of_two_chunks_in_one_call_wins(self, store: EventStore) -> None:
        """Repeats between the chunks of a call are judged as if they came one after the other."""
        first = an_event(properties='{"a":1}')
        receipts = await store.append(
            [
                a_chunk(an_event(event_id=2), first),
                a_chunk(first, an_event(event_id=3)),
                a_chunk(an_event(event_id=4), an_event(properties='{"a":1.0}')),
                a_chunk(an_event(user_id="grace")),
            ]
        )

        assert list(receipts) == [
            Receipt(),
            Receipt(duplicates=(0,)),
            Receipt(duplicates=(1,)),
            Receipt(conflicts=(0,)),
        ]
        assert await find_events(store, [first]) == [first]
        assert await row_counts(store) == {"events": 4, "users": 1, "conflicts": 1}

    async def test_repeats_inside_a_chunk_do_no_harm(self, store: EventStore) -> None:
        """Chunks come without repeats; one that does not is judged event by event."""
        receipts = await store.append([a_chunk(an_event(), an_event(), an_event(user_id="grace"))])

        assert list(receipts) == [Receipt(duplicates=(1,), conflicts=(2,))]
        assert await row_counts(store) == {"events": 1, "users": 1, "conflicts": 1}

    async def test_projects_are_apart(self, store: EventStore) -> None:
        """The same id in two projects is two events, in one call and in two."""
        mine, theirs = an_event(), an_event(user_id="grace", event_type="signup")
        receipts = await store.append([a_chunk(mine, project="mine"), a_chunk(theirs, project="theirs")])

        assert list(receipts) == [Receipt(), Receipt()]
        assert [await find_events(store, [mine], project=name) for name in ("mine", "theirs", "default")] == [
            [mine],
            [theirs],
            [],
        ]
        assert await ask_types(store, a_query(project="mine", split="event_type")) == [{"page_view": (1, 1)}]
        assert await ask_types(store, a_query(project="theirs", split="event_type")) == [{"signup": (1, 1)}]
        assert await ask_types(store, a_query(split="event_type")) == [{}]
        assert list(await store.books("mine", DAY, DAY)) == [Book(date=DAY, received=1, accepted=1, stored=1)]
        assert list(await store.books("default", DAY, DAY)) == []

    async def test_many_ids_at_once(self, store: EventStore) -> None:
        """2,000 events of as many users in one call, and all of them found in one."""
        sent = [an_event(event_id=number, user_id=f"user {number}") for number in range(2_000)]
        await store.append([a_chunk(*sent[start : start + 500]) for start in range(0, 2_000, 500)])

        found = await store.find("default", [an_id(number) for number in range(4_000)])
        assert {event_id: stored.event for event_id, stored in found.items()} == {
            event.event_id: event for event in sent
        }
        assert await ask_tallies(store, a_query()) == [(2_000, 2_000)]

    async def test_more_at_once_than_any_page_holds(self, store: EventStore) -> None:
        """12,000 events in one call, asked for in one: whatever a store does in pieces, nothing is lost between."""
        sent = [
            an_event(
                event_id=number,
                user_id=f"user {number % 700}",
                event_type=f"type {number % 3}",
                occurred_us=MIDNIGHT_US + number,
                properties={"odd": number % 2 == 1},
            )
            for number in range(12_000)
        ]
        await store.append([a_chunk(*sent[start : start + 500]) for start in range(0, 12_000, 500)])

        selections = (Selection(), a_selection(event_type="type 1"), a_selection(**{"properties.odd": "true"}))
        of_quarters = await store.activity(a_query(selections=selections[:2]))
        of_events = await store.activity(a_query(selections=selections))
        off_the_quarter = await store.activity(a_query(((MIDNIGHT_US + 1, MIDNIGHT_US + 11_999),)))
        assert [one.slots[0].events for one in of_quarters.selections] == [12_000, 4_000]
        assert [one.slots[0].events for one in of_events.selections] == [12_000, 4_000, 6_000]
        assert [len(one.slots[0].users) for one in of_events.selections] == [700, 700, 350]
        assert off_the_quarter.selections[0].slots[0].events == 11_998
        assert await find_events(store, sent) == sent
        assert await all_books(store) == [Book(date=DAY, received=12_000, accepted=12_000, stored=12_000)]
        assert list(await store.verify()) == []

    async def test_many_small_appends_are_one_whole(self, store: EventStore) -> None:
        """300 appends of one event each, as a quiet service sends them."""
        for number in range(300):
            event = an_event(event_id=number, user_id=f"user {number % 7}", event_type=f"type {number % 5}")
            await store.append([a_chunk(event)])

        assert await ask_types(store, a_query(split="event_type")) == [{f"type {kind}": (7, 60) for kind in range(5)}]
        assert await ask_tallies(store, a_query()) == [(7, 300)]

    @pytest.mark.parametrize("broken", NO_EVENT_CAN_BE.values(), ids=NO_EVENT_CAN_BE)
    async def test_what_no_event_can_be_is_refused_whole(self, store: EventStore, broken: Mapping[str, Any]) -> None:
        """As data, which no retry mends: nothing of the call is stored, and calls at the same time are unharmed."""
        sent = [an_event(event_id=number, user_id=f"user {number}") for number in range(10, 40)]
        bad = a_poison(**broken)
        calls = [store.append([a_chunk(event)]) for event in sent]
        refused = store.append([a_chunk(an_event(event_id=2), an_event(event_id=3, user_id="grace")), a_chunk(bad)])
        results = await asyncio.gather(*calls[:15], refused, *calls[15:], return_exceptions=True)

        error = results.pop(15)
        assert isinstance(error, StoreError)
        assert (error.kind, error.retryable) == (Kind.DATA, False)
        assert not any(isinstance(result, BaseException) for result in results)
        assert await store.find("default", [bad.event_id, an_id(2), an_id(3)]) == {}
        assert await all_books(store) == [Book(date=DAY, received=30, accepted=30, stored=30)]

        await store.append([a_chunk(an_event(event_id=3, user_id="grace"), an_event(event_id=4))])
        assert await ask_tallies(store, a_query()) == [(32, 32)]
        assert list(await store.verify()) == []

    async def test_many_repeats_at_once(self, store: EventStore) -> None:
        """2,000 events of which every second is known: each receipt names its own."""
        sent = [an_event(event_id=number) for number in range(2_000)]
        await store.append([a_chunk(*sent[::2])])
        receipts = await store.append([a_chunk(*sent[start : start + 500]) for start in range(0, 2_000, 500)])

        assert list(receipts) == [Receipt(duplicates=tuple(range(0, 500, 2)))] * 4
        assert await row_counts(store) == {"events": 2_000, "users": 1, "conflicts": 0}
