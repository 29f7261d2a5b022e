"""Activity, exact to the microsecond: slots, types, selections, history, snapshots."""

from datetime import UTC, date, datetime
from itertools import permutations

import msgspec
import pytest
from pyroaring import BitMap

from eventcore.calendar import QUARTER_US, Span, day_spans, find_zone, to_instant
from eventcore.conditions import Selection, equals
from eventcore.contract.event_store.asking import (
    DAY,
    DAY_US,
    HOUR_US,
    MIDNIGHT_US,
    WHOLE_DAY,
    a_query,
    a_selection,
    ask_tallies,
    ask_types,
    events_at,
    kind_of,
    model_of,
    names_of,
)
from eventcore.contract.event_store.backend import StoreFixtures
from eventcore.contract.event_store.model import Seen, seen
from eventcore.errors import Kind
from eventcore.events import Book
from eventcore.ports import EventStore
from eventcore.strategies import AN_INSTANT_US, HOSTILE_KEYS, HOSTILE_TEXTS, a_chunk, a_death, an_event, an_id


class Answering(StoreFixtures):
    """Activity, exact to the microsecond."""

    async def test_bounds_are_half_open(self, store: EventStore) -> None:
        """The first instant of a slot belongs to it, the first one after it does not."""
        await store.append([a_chunk(*events_at(-1, 0, DAY_US - 1, DAY_US))])

        assert await ask_tallies(store, a_query(WHOLE_DAY)) == [(2, 2)]

    async def test_slots_side_by_side_share_no_event(self, store: EventStore) -> None:
        """Neither twice nor left out."""
        await store.append([a_chunk(*events_at(-1, 0, HOUR_US - 1, HOUR_US, 2 * HOUR_US - 1, 2 * HOUR_US))])

        slots = [((MIDNIGHT_US + hour * HOUR_US, MIDNIGHT_US + (hour + 1) * HOUR_US),) for hour in (0, 1, 2)]
        assert await ask_tallies(store, a_query(*slots)) == [(2, 2), (2, 2), (1, 1)]

    async def test_a_user_counts_once_in_a_slot(self, store: EventStore) -> None:
        """Users are distinct, events are all counted."""
        times = [hour * HOUR_US for hour in range(24)]
        await store.append([a_chunk(*events_at(*times, user_id="ada"))])

        assert await ask_tallies(store, a_query()) == [(1, 24)]

    async def test_a_slot_may_be_empty(self, store: EventStore) -> None:
        """A date that the zone skipped has no instants: its tally is zero, its neighbours are exact."""
        await store.append([a_chunk(*events_at(0, DAY_US))])

        next_day: Span = ((MIDNIGHT_US + DAY_US, MIDNIGHT_US + 2 * DAY_US),)
        assert await ask_tallies(store, a_query((), WHOLE_DAY, (), next_day, ())) == [
            (0, 0),
            (1, 1),
            (0, 0),
            (1, 1),
            (0, 0),
        ]
        assert await ask_tallies(store, a_query((), ())) == [(0, 0), (0, 0)]
        assert await ask_tallies(store, a_query(slots=())) == []

    async def test_a_slot_may_have_two_intervals(self, store: EventStore) -> None:
        """One local date, interrupted by a part of another."""
        await store.append([a_chunk(*events_at(*(hour * HOUR_US for hour in range(6))))])

        outer: Span = ((MIDNIGHT_US, MIDNIGHT_US + HOUR_US), (MIDNIGHT_US + 2 * HOUR_US, MIDNIGHT_US + 4 * HOUR_US))
        inner: Span = (
            (MIDNIGHT_US + HOUR_US, MIDNIGHT_US + 2 * HOUR_US),
            (MIDNIGHT_US + 4 * HOUR_US, MIDNIGHT_US + 5 * HOUR_US),
        )
        assert await ask_tallies(store, a_query(outer, inner)) == [(3, 3), (2, 2)]

    async def test_a_slot_may_lie_off_the_quarter_hour(self, store: EventStore) -> None:
        """It is exact all the same, to the microsecond."""
        start_us, end_us = 60_000_001, HOUR_US + 7
        await store.append([a_chunk(*events_at(0, start_us - 1, start_us, end_us - 1, end_us, 2 * HOUR_US))])

        snapshot = await store.activity(a_query(((MIDNIGHT_US + start_us, MIDNIGHT_US + end_us),)))
        assert [(len(tally.users), tally.events) for tally in snapshot.selections[0].slots] == [(2, 2)]
        assert snapshot.computed_from == "events"

    async def test_one_slot_off_the_quarter_leaves_its_neighbours_exact(self, store: EventStore) -> None:
        """St John's, the night when clocks went back at 00:01: two dates of two intervals each, off the quarter."""
        slots = day_spans(find_zone("America/St_Johns"), date(2010, 11, 5), date(2010, 11, 8))
        assert [len(span) for span in slots] == [1, 2, 2, 1]
        bounds = [bound for span in slots for interval in span for bound in interval]
        instants = sorted({bound + step for bound in bounds for step in (-1, 0)})
        sent = [
            an_event(event_id=number, user_id=f"user {number}", occurred_us=at) for number, at in enumerate(instants)
        ]
        await store.append([a_chunk(*sent)])

        model = model_of([a_chunk(*sent)])
        query = a_query(*slots, history=True, split="event_type")
        assert seen(await store.activity(query)) == model.activity(query)

    async def test_the_last_quarter_of_time_is_reachable(self, store: EventStore) -> None:
        """The first day there is and one far ahead: no bound of the store's own lies between."""
        last_us = to_instant(datetime(9998, 12, 31, tzinfo=UTC))
        await store.append(
            [a_chunk(an_event(event_id=1, occurred_us=0), an_event(event_id=2, occurred_us=last_us - 1))]
        )

        slots: list[Span] = [((0, DAY_US),), ((last_us - DAY_US, last_us),)]
        assert await ask_tallies(store, a_query(*slots)) == [(1, 1), (1, 1)]
        assert await ask_tallies(store, a_query(((-DAY_US, last_us),))) == [(1, 2)]

    async def test_history_is_who_came_before(self, store: EventStore) -> None:
        """Before the first instant of the first slot that is not empty; the instant itself is not before."""
        await store.append(
            [
                a_chunk(
                    an_event(event_id=1, user_id="long before", occurred_us=0),
                    an_event(event_id=2, user_id="just before", occurred_us=MIDNIGHT_US - 1),
                    an_event(event_id=3, user_id="at", occurred_us=MIDNIGHT_US),
                    an_event(event_id=4, user_id="after", occurred_us=MIDNIGHT_US + DAY_US),
                    an_event(event_id=5, user_id="long before", occurred_us=MIDNIGHT_US),
                )
            ]
        )

        snapshot = await store.activity(a_query((), WHOLE_DAY, history=True))
        [part] = snapshot.selections
        assert len(part.before) == 2
        assert len(part.before & part.slots[1].users) == 1
        assert (len(part.slots[1].users), part.slots[1].events) == (2, 2)

    async def test_between_two_slots_is_neither_slot_nor_history(self, store: EventStore) -> None:
        """A gap in the question is a gap in the answer."""
        await store.append([a_chunk(*events_at(0, 5 * HOUR_US, 10 * HOUR_US))])

        slots: list[Span] = [
            ((MIDNIGHT_US, MIDNIGHT_US + HOUR_US),),
            ((MIDNIGHT_US + 10 * HOUR_US, MIDNIGHT_US + 11 * HOUR_US),),
        ]
        [part] = (await store.activity(a_query(*slots, history=True))).selections
        assert [len(tally.users) for tally in part.slots] == [1, 1]
        assert len(part.before) == 0

    async def test_only_what_was_asked_is_answered(self, store: EventStore) -> None:
        """No types and no history where nobody asked for them."""
        await store.append([a_chunk(*events_at(-1, 0))])

        [part] = (await store.activity(a_query())).selections
        assert (part.slots[0].parts, part.before) == ({}, BitMap())

    async def test_types_split_a_tally(self, store: EventStore) -> None:
        """Each type has its own users and events; a user of two types is one user of the whole."""
        await store.append(
            [
                a_chunk(
                    an_event(event_id=1, user_id="ada", event_type="signup"),
                    an_event(event_id=2, user_id="ada", event_type="purchase"),
                    an_event(event_id=3, user_id="ada", event_type="purchase"),
                    an_event(event_id=4, user_id="grace", event_type="purchase"),
                    an_event(event_id=5, user_id="grace", event_type="late", occurred_us=AN_INSTANT_US + DAY_US),
                )
            ]
        )

        assert await ask_tallies(store, a_query()) == [(2, 4)]
        assert await ask_types(store, a_query(split="event_type")) == [{"signup": (1, 1), "purchase": (2, 3)}]

    async def test_types_that_come_later_are_told_apart(self, store: EventStore) -> None:
        """A new type after an answer is a type of its own in the next answer."""
        for number, event_type in enumerate(("b", "a", "c")):
            await store.append([a_chunk(an_event(event_id=number, event_type=event_type))])
            await store.activity(a_query(split="event_type"))

        assert await ask_types(store, a_query(split="event_type")) == [{"a": (1, 1), "b": (1, 1), "c": (1, 1)}]
        assert await ask_tallies(store, a_query(selections=(a_selection(event_type="a"),))) == [(1, 1)]

    async def test_a_selection_of_one_type(self, store: EventStore) -> None:
        """Slots and history count events of that type only; conditions that exclude each other select none."""
        await store.append(
            [
                a_chunk(
                    an_event(event_id=1, user_id="ada", event_type="signup", occurred_us=0),
                    an_event(event_id=2, user_id="grace", event_type="purchase", occurred_us=0),
                    an_event(event_id=3, user_id="ada", event_type="purchase"),
                    an_event(event_id=4, user_id="grace", event_type="purchase"),
                    an_event(event_id=5, user_id="edsger", event_type="signup"),
                )
            ]
        )

        selections = (
            a_selection(event_type="purchase"),
            Selection(),
            a_selection(event_type="nobody does this"),
            Selection((equals("event_type", "purchase"), equals("event_type", "signup"))),
        )
        snapshot = await store.activity(a_query(selections=selections, history=True))
        assert [(len(part.slots[0].users), part.slots[0].events, len(part.before)) for part in snapshot.selections] == [
            (2, 2, 1),
            (3, 3, 2),
            (0, 0, 0),
            (0, 0, 0),
        ]

    @pytest.mark.parametrize(
        ("properties", "key", "value", "selected"),
        [
            ('{"a":"x"}', "a", "x", 1),
            ('{"a":"x"}', "a", "X", 0),
            ('{"a":"x"}', "a", "x ", 0),
            ('{"a":"x"}', "b", "x", 0),
            ('{"a":"\\u00e9"}', "a", "é", 1),
            ('{"a":"e\\u0301"}', "a", "é", 0),
            ('{"a":""}', "a", "", 1),
            ("{}", "a", "", 0),
            ("{}", "a", "null", 0),
            ('{"a":null}', "a", "null", 1),
            ('{"a":"null"}', "a", "null", 1),
            ('{"a":null}', "a", "", 0),
            ('{"a":true}', "a", "true", 1),
            ('{"a":true}', "a", "True", 0),
            ('{"a":true}', "a", "1", 0),
            ('{"a":false}', "a", "false", 1),
            ('{"a":false}', "a", "0", 0),
            ('{"a":1}', "a", "1", 1),
            ('{"a":1}', "a", "1.0", 1),
            ('{"a":1.0}', "a", "1", 1),
            ('{"a":1e2}', "a", "100", 1),
            ('{"a":"1"}', "a", "1", 1),
            ('{"a":"1"}', "a", "1.0", 0),
            ('{"a":1}', "a", "true", 0),
            ('{"a":1}', "a", "one", 0),
            ('{"a":1}', "a", "", 0),
            ('{"a":1}', "a", "NaN", 0),
            ('{"a":9007199254740993}', "a", "9007199254740992", 0),
            ('{"a":9007199254740993}', "a", "9007199254740993", 1),
            ('{"a":0.1}', "a", "0.10", 1),
            ('{"a":0}', "a", "-0", 1),
            ('{"a":-0.0}', "a", "0", 1),
            ('{"a":1}', "a", " 1", 0),
            ('{"a":1}', "a", "01", 0),
            ('{"a":1}', "a", "+1", 0),
            ('{"a":1}', "a", "\u0661", 0),
            ('{"a":1}', "a", "1e99999999999999999999", 0),
            ('{"a":1E+2}', "a", "1.0e2", 1),
            ('{"\\u0061":"\\u0078"}', "a", "x", 1),
            ('{"a":"\\"\\\\"}', "a", '"\\', 1),
            ('{"a":"x\\ny"}', "a", "x\ny", 1),
            ('{"a":[1]}', "a", "1", 0),
            ('{"a":["x"]}', "a", "x", 0),
            ('{"a":{"b":"x"}}', "a.b", "x", 0),
            ('{"a.b":"x"}', "a.b", "x", 1),
            ('{"a":{"b":"x"}}', "a", "x", 0),
            ('{"":"x"}', "", "x", 1),
        ],
    )
    async def test_a_selection_by_a_property(
        self, store: EventStore, properties: str, key: str, value: str, selected: int
    ) -> None:
        """Strings as they are, numbers as numbers, true, false and null as these words; a missing key is nothing."""
        await store.append([a_chunk(an_event(properties=properties), an_event(event_id=2, user_id="grace"))])

        query = a_query(selections=(Selection((equals(f"properties.{key}", value),)),), split="event_type")
        snapshot = await store.activity(query)
        assert [(len(tally.users), tally.events) for tally in snapshot.selections[0].slots] == [(selected, selected)]
        assert snapshot.computed_from == "events"

    async def test_hostile_keys_select_only_their_own(self, store: EventStore) -> None:
        """A key is a key, whatever a path language would make of its dots, quotes and dollars."""
        await store.append(
            [
                a_chunk(
                    *(
                        an_event(event_id=number, user_id=f"user {number}", properties={key: "x", "nested": {key: "y"}})
                        for number, key in enumerate(HOSTILE_KEYS)
                    )
                )
            ]
        )

        selections = tuple(Selection((equals(f"properties.{key}", "x"),)) for key in HOSTILE_KEYS)
        snapshot = await store.activity(a_query(selections=selections))
        assert [part.slots[0].events for part in snapshot.selections] == [1] * len(HOSTILE_KEYS)
        users = BitMap()
        for part in snapshot.selections:
            users |= part.slots[0].users
        assert len(users) == len(HOSTILE_KEYS)

    async def test_hostile_values_select_only_their_own(self, store: EventStore) -> None:
        """The same for values, and for types."""
        texts = list(dict.fromkeys(text[:100] for text in HOSTILE_TEXTS))
        await store.append(
            [
                a_chunk(
                    *(
                        an_event(event_id=number, event_type=text, properties={"text": text})
                        for number, text in enumerate(texts)
                    )
                )
            ]
        )

        by_value = tuple(Selection((equals("properties.text", text),)) for text in texts)
        by_type = tuple(Selection((equals("event_type", text),)) for text in texts)
        values = await store.activity(a_query(selections=by_value))
        types = await store.activity(a_query(selections=by_type))
        assert [part.slots[0].events for part in values.selections] == [1] * len(texts)
        assert [part.slots[0].events for part in types.selections] == [1] * len(texts)

    async def test_all_conditions_hold_on_the_same_event(self, store: EventStore) -> None:
        """A user who did each on different events is not selected."""
        await store.append(
            [
                a_chunk(
                    an_event(event_id=1, user_id="ada", event_type="purchase", properties={"country": "DE"}),
                    an_event(event_id=2, user_id="ada", event_type="page_view", properties={"country": "UA"}),
                    an_event(event_id=3, user_id="grace", event_type="purchase", properties={"country": "UA", "n": 1}),
                    an_event(event_id=4, user_id="grace", event_type="purchase", properties={"country": "UA", "n": 2}),
                )
            ]
        )

        country = equals("properties.country", "UA")
        purchase = equals("event_type", "purchase")
        selections = (
            Selection((purchase, country)),
            Selection((country, equals("properties.n", "1.0"), purchase)),
            Selection((country, equals("properties.country", "DE"))),
        )
        assert await ask_tallies(store, a_query(selections=selections)) == [(1, 2), (1, 1), (0, 0)]

    async def test_history_of_a_property(self, store: EventStore) -> None:
        """Who had a selected event before, not just any."""
        await store.append(
            [
                a_chunk(
                    an_event(event_id=1, user_id="ada", occurred_us=0, properties={"paid": True}),
                    an_event(event_id=2, user_id="grace", occurred_us=0, properties={"paid": False}),
                    an_event(event_id=3, user_id="grace", properties={"paid": True}),
                )
            ]
        )

        query = a_query(selections=(Selection((equals("properties.paid", "true"),)),), history=True)
        [part] = (await store.activity(query)).selections
        assert (len(part.before), len(part.slots[0].users), len(part.before & part.slots[0].users)) == (1, 1, 0)

    async def test_a_key_is_the_same_user_in_every_answer(self, store: EventStore) -> None:
        """Across slots, selections and questions, and however many events come between."""
        await store.append([a_chunk(*events_at(0, user_id="ada"), *events_at(1, user_id="grace"))])
        [first] = (await store.activity(a_query(selections=(a_selection(event_type="page_view"),)))).selections
        await store.append([a_chunk(*events_at(*range(DAY_US, DAY_US + 50)))])
        await store.append([a_chunk(*events_at(2 * DAY_US, user_id="ada"))])

        third_day: Span = ((MIDNIGHT_US + 2 * DAY_US, MIDNIGHT_US + 3 * DAY_US),)
        [second] = (await store.activity(a_query(third_day))).selections
        assert len(first.slots[0].users & second.slots[0].users) == 1
        assert len(first.slots[0].users | second.slots[0].users) == 2

    async def test_says_what_it_computed_from(self, precomputing: EventStore) -> None:
        """Days, quarters and types are precomputed; a property or a slot off the quarter hour is not."""
        quarter: Span = ((MIDNIGHT_US + QUARTER_US, MIDNIGHT_US + 2 * QUARTER_US),)
        purchases = (a_selection(event_type="purchase"),)
        paid = (a_selection(**{"properties.paid": "true"}),)
        queries = [
            a_query(),
            a_query(quarter, history=True, split="event_type"),
            a_query(selections=purchases),
            a_query(selections=paid),
            a_query(selections=(*purchases, *paid)),
            a_query(((MIDNIGHT_US, MIDNIGHT_US + 1),)),
        ]

        assert [(await precomputing.activity(query)).computed_from for query in queries] == [
            "activity",
            "activity",
            "activity",
            "events",
            "events",
            "events",
        ]

    async def test_late_events_in_any_order_give_the_same_answer(self, store: EventStore) -> None:
        """Events of three days, asked for after each append, in every order of arrival."""
        query = a_query(*(((MIDNIGHT_US + day * DAY_US, MIDNIGHT_US + (day + 1) * DAY_US),) for day in range(3)))
        days = [events_at(day * DAY_US, day * DAY_US + 1, user_id="ada") for day in range(3)]
        answers = []
        for number, order in enumerate(permutations(range(3))):
            project = f"order-{number}"
            for day in order:
                await store.append([a_chunk(*days[day], project=project)])
                await store.activity(msgspec.structs.replace(query, project=project))
            answers.append(await ask_tallies(store, msgspec.structs.replace(query, project=project)))

        assert answers == [[(1, 2), (1, 2), (1, 2)]] * 6

    async def test_a_version_stays_only_as_long_as_answers_do(self, store: EventStore) -> None:
        """What is stored makes another version of its project, by whatever way it comes."""
        poison = an_event(event_id=9, user_id="barbara")
        versions = [await store.version("default")]
        for chunk in (
            a_chunk(an_event(event_id=1)),
            a_chunk(an_event(event_id=2, occurred_us=MIDNIGHT_US - 400 * DAY_US)),
            a_chunk(*events_at(0, DAY_US), queued=True),
            a_chunk(an_event(event_id=3, user_id="grace"), dead=[a_death(poison)]),
        ):
            await store.append([chunk])
            versions.append(await store.version("default"))
        await store.replay("default", names_of(poison))
        versions.append(await store.version("default"))
        await store.begin_epoch()
        versions.append(await store.version("default"))
        assert len(set(versions)) == len(versions) == 7

        again = await store.version("default")
        await store.append([a_chunk(an_event(event_id=1), project="other")])
        assert await store.version("default") == again == versions[-1]
        assert await store.version("other") != await store.version("nobody's")

    async def test_a_question_may_not_take_longer_than_it_says(self, store: EventStore) -> None:
        """Where a store can be interrupted, it gives up in time, and answers the next question."""
        await store.append([a_chunk(*events_at(*range(500)))])
        slow = a_query(selections=(Selection((equals("properties.a", "b"),)),))
        assert await kind_of(store.activity(msgspec.structs.replace(slow, seconds=1e-9))) in (Kind.TIMEOUT, None)
        assert await ask_tallies(store, msgspec.structs.replace(slow, seconds=60.0)) == [(0, 0)]

    async def test_an_answer_does_not_change_afterwards(self, store: EventStore) -> None:
        """What was read is a snapshot, whatever is appended later."""
        await store.append([a_chunk(an_event())])
        query = a_query(split="event_type", history=True)
        snapshot = await store.activity(query)
        found = await store.find("default", [an_id(1), an_id(2)])
        books = await store.books("default", DAY, DAY)
        described = await store.describe()
        read = seen(snapshot)
        await store.append([a_chunk(*events_at(-1, 0, 1), an_event(event_id=2, user_id="grace"))])

        assert seen(snapshot) == read == Seen({(0, 0, None): 1, (0, 0, "page_view"): 1}, read.users)
        assert found.keys() == {an_id(1)}
        assert list(books) == [Book(date=DAY, received=1, accepted=1, stored=1)]
        assert described.counts["default"]["events"] == 1

    async def test_what_is_done_to_an_answer_does_not_reach_the_store(self, store: EventStore) -> None:
        """Bitmaps can be changed; those of an answer belong to who asked."""
        await store.append([a_chunk(*events_at(-1, 0, 1))])
        query = a_query(split="event_type", history=True)
        first = await store.activity(query)
        read = seen(first)
        [part] = first.selections
        part.before.clear()
        part.slots[0].users.add(4_000_000_000)
        part.slots[0].parts["page_view"].users.clear()

        assert seen(await store.activity(query)) == read
