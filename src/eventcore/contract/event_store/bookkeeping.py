"""The ingestion books: two equations that hold after every append."""

import pytest

from eventcore.contract.event_store.asking import DAY, DAY_US, MIDNIGHT_US, all_books, row_counts
from eventcore.contract.event_store.backend import StoreFixtures
from eventcore.events import Book, Counts, Receipt
from eventcore.ports import EventStore
from eventcore.strategies import AN_INSTANT_US, a_chunk, an_event


class Bookkeeping(StoreFixtures):
    """received = accepted + duplicates + conflicts + rejected, and accepted is the sum of what became of it."""

    async def test_new_events(self, store: EventStore) -> None:
        """They are accepted and stored."""
        await store.append([a_chunk(an_event(), an_event(event_id=2))])

        assert await all_books(store) == [Book(date=DAY, received=2, accepted=2, stored=2)]

    async def test_repeats_the_sender_hears_of(self, store: EventStore) -> None:
        """Without a queue they were never accepted."""
        await store.append([a_chunk(an_event(event_id=1), an_event(event_id=2))])
        await store.append([a_chunk(an_event(event_id=1), an_event(event_id=2, user_id="grace"), an_event(event_id=3))])

        assert await all_books(store) == [Book(date=DAY, received=5, accepted=3, stored=3, duplicates=1, conflicts=1)]

    async def test_repeats_found_behind_a_queue(self, store: EventStore) -> None:
        """The sender was told "accepted", so they count as that, and the store says what they were."""
        await store.append([a_chunk(an_event(event_id=1), an_event(event_id=2), queued=True)])
        await store.append(
            [a_chunk(an_event(event_id=1), an_event(event_id=2, user_id="grace"), an_event(event_id=3), queued=True)]
        )

        assert await all_books(store) == [
            Book(date=DAY, received=5, accepted=5, stored=3, duplicate_at_store=1, conflict_at_store=1)
        ]

    @pytest.mark.parametrize("queued", [False, True])
    async def test_counts_of_the_request(self, store: EventStore, queued: bool) -> None:
        """What never travelled on is entered as the request counted it, the same with a queue and without."""
        counts = Counts(duplicates=2, conflicts=3, rejected=4)
        loser = an_event(user_id="grace")
        await store.append([a_chunk(an_event(), conflicting=[loser], counts=counts, queued=queued)])

        assert await all_books(store) == [
            Book(date=DAY, received=10, accepted=1, stored=1, duplicates=2, conflicts=3, rejected=4)
        ]

    @pytest.mark.parametrize("queued", [False, True])
    async def test_a_chunk_with_nothing_but_counts(self, store: EventStore, queued: bool) -> None:
        """A request of which nothing is left is in the books all the same."""
        receipts = await store.append([a_chunk(counts=Counts(duplicates=1, rejected=2), queued=queued)])

        assert list(receipts) == [Receipt()]
        assert await all_books(store) == [Book(date=DAY, received=3, duplicates=1, rejected=2)]
        assert list(await store.verify()) == []

    async def test_an_empty_chunk_leaves_no_book(self, store: EventStore) -> None:
        """There is nothing to enter."""
        assert list(await store.append([a_chunk(), a_chunk(queued=True)])) == [Receipt(), Receipt()]

        assert await all_books(store) == []

    async def test_counts_and_repeats_add_up(self, store: EventStore) -> None:
        """The same column takes what the request counted and what the store found."""
        await store.append([a_chunk(an_event())])
        await store.append([a_chunk(an_event(), counts=Counts(duplicates=1, conflicts=1))])
        await store.append([a_chunk(an_event(user_id="grace"), counts=Counts(duplicates=1, conflicts=1))])

        assert await all_books(store) == [Book(date=DAY, received=7, accepted=1, stored=1, duplicates=3, conflicts=3)]

    async def test_a_known_chunk_changes_nothing(self, store: EventStore) -> None:
        """A queue delivers again: books, events and conflicts stay, and the receipt is empty."""
        await store.append([a_chunk(an_event(event_id=1))])
        chunk = a_chunk(
            an_event(event_id=1),
            an_event(event_id=2),
            conflicting=[an_event(event_id=2, user_id="grace")],
            counts=Counts(conflicts=1, rejected=1),
            queued=True,
        )
        first = await store.append([chunk])
        books = await all_books(store)
        again = await store.append([a_chunk(an_event(event_id=3)), chunk])

        assert (list(first), list(again)) == ([Receipt(duplicates=(0,))], [Receipt(), Receipt()])
        assert books == [
            Book(date=DAY, received=5, accepted=3, stored=2, duplicate_at_store=1, conflicts=1, rejected=1)
        ]
        assert await all_books(store) == [
            Book(date=DAY, received=6, accepted=4, stored=3, duplicate_at_store=1, conflicts=1, rejected=1)
        ]
        assert await row_counts(store) == {"events": 3, "users": 1, "conflicts": 1}
        assert list(await store.verify()) == []

    async def test_a_chunk_twice_in_one_call_is_known_the_second_time(self, store: EventStore) -> None:
        """A worker may fetch both deliveries together."""
        chunk = a_chunk(an_event(), counts=Counts(rejected=1), queued=True)
        receipts = await store.append([chunk, chunk])

        assert list(receipts) == [Receipt(), Receipt()]
        assert await all_books(store) == [Book(date=DAY, received=2, accepted=1, stored=1, rejected=1)]

    async def test_the_day_is_the_utc_day_of_receiving(self, store: EventStore) -> None:
        """Not of the event, and to the microsecond."""
        event = an_event(occurred_us=AN_INSTANT_US - 400 * DAY_US)
        await store.append(
            [
                a_chunk(event, received_us=MIDNIGHT_US - 1),
                a_chunk(event, received_us=MIDNIGHT_US),
                a_chunk(event, received_us=MIDNIGHT_US + DAY_US - 1),
                a_chunk(event, received_us=MIDNIGHT_US + DAY_US),
            ]
        )

        assert list(await store.books("default", "2026-02-01", "2026-04-01")) == [
            Book(date="2026-02-28", received=1, accepted=1, stored=1),
            Book(date="2026-03-01", received=2, duplicates=2),
            Book(date="2026-03-02", received=1, duplicates=1),
        ]

    async def test_books_of_a_range(self, store: EventStore) -> None:
        """Both ends are included, days are in order, and a day without any has none."""
        for day in (5, 1, 3):
            await store.append([a_chunk(counts=Counts(rejected=day), received_us=MIDNIGHT_US + day * DAY_US)])

        assert [book.date for book in await store.books("default", "2026-03-02", "2026-03-06")] == [
            "2026-03-02",
            "2026-03-04",
            "2026-03-06",
        ]
        assert [book.date for book in await store.books("default", "2026-03-03", "2026-03-05")] == ["2026-03-04"]
        assert [book.date for book in await store.books("default", "2026-03-04", "2026-03-04")] == ["2026-03-04"]
        assert list(await store.books("default", "2026-03-06", "2026-03-02")) == []
