"""What a store says of itself: counts, epoch, imports, and that everything in it agrees."""

import msgspec

from eventcore.contract.event_store.asking import a_busy_day, a_query, an_import
from eventcore.contract.event_store.backend import StoreBackend, StoreFixtures
from eventcore.events import Outcome, Problem
from eventcore.ports import EventStore
from eventcore.strategies import AN_INSTANT_US, a_chunk, an_event, an_id


class Describing(StoreFixtures):
    """What a store says of itself."""

    async def test_describes_itself(self, store: EventStore, backend: StoreBackend) -> None:
        """With the epoch that it also tells by itself, and what the backend is known for."""
        described = await store.describe()

        assert described.technology
        assert described.schema >= 1
        assert (described.epoch, described.durable) == (await store.epoch(), backend.durable)

    async def test_counts_rows_by_project(self, store: EventStore) -> None:
        """Events, users, conflicts and imports."""
        await store.append([a_chunk(an_event(), an_event(event_id=2), an_event(event_id=3, user_id="grace"))])
        await store.append([a_chunk(an_event(user_id="grace")), a_chunk(an_event(), project="other")])
        await store.record_import("other", an_import())

        counts = (await store.describe()).counts
        tables = ("events", "users", "conflicts", "imports")
        assert {project: [counts[project].get(table, 0) for table in tables] for project in counts} == {
            "default": [3, 2, 1, 0],
            "other": [1, 1, 0, 1],
        }

    async def test_an_import_is_recorded_once(self, store: EventStore) -> None:
        """When it ends, its record takes the place of the one from when it began."""
        begun = an_import()
        await store.record_import("default", begun)
        problem = Problem(index=7, event_id=None, code="wrong_type", field="user_id", message="send a string")
        outcome = Outcome(accepted=1, duplicates=2, conflicts=3, rejected=1, errors=(problem,))
        ended = msgspec.structs.replace(begun, finished_us=AN_INSTANT_US + 1, outcome=outcome)
        await store.record_import("default", ended)
        await store.record_import("default", msgspec.structs.replace(begun, import_id=b"another import.."))

        assert (await store.describe()).counts["default"]["imports"] == 2
        assert list(await store.verify()) == []

    async def test_an_import_counts_from_its_first_event(self, store: EventStore) -> None:
        """Also when its record never came, because the importer was killed."""
        record = an_import()
        await store.append([a_chunk(an_event(), import_id=record.import_id)])
        before = (await store.describe()).counts["default"]["imports"]
        await store.record_import("default", record)

        assert (before, (await store.describe()).counts["default"]["imports"]) == (1, 1)

    async def test_the_epoch_stays(self, store: EventStore) -> None:
        """Nothing that is appended changes it."""
        epoch = await store.epoch()
        await store.append([a_chunk(an_event())])
        await store.append([a_chunk(an_event(user_id="grace"))])

        assert epoch
        assert await store.epoch() == epoch

    async def test_a_new_epoch_can_be_begun(self, store: EventStore) -> None:
        """Nothing else changes, and what comes again is still known."""
        chunk = a_chunk(an_event(), an_event(event_id=2, user_id="grace"))
        await store.append([chunk])
        old = (await store.describe()).epoch
        new = await store.begin_epoch()

        assert new != old
        assert (await store.describe()).epoch == new
        (receipt,) = await store.append([a_chunk(*chunk.events)])
        assert receipt.duplicates == (0, 1)
        await store.append([a_chunk(an_event(event_id=3, user_id="grace"))])
        assert (await store.describe()).counts["default"]["users"] == 2
        assert list(await store.verify()) == []

    async def test_every_store_has_its_own_epoch(self, store: EventStore, elsewhere: EventStore) -> None:
        """What is marked as stored in one is not stored in another."""
        assert await store.epoch() != await elsewhere.epoch()

    async def test_stores_are_apart(self, store: EventStore, elsewhere: EventStore) -> None:
        """What is appended here is not there."""
        await store.append([a_chunk(an_event())])

        assert await elsewhere.find("default", [an_id(1)]) == {}

    async def test_verifies_clean_after_all_sorts_of_things(self, store: EventStore) -> None:
        """Repeats, conflicts, queued chunks, several projects and days: everything agrees with everything."""
        for chunk in a_busy_day():
            await store.append([chunk])
            await store.activity(a_query())

        assert list(await store.verify()) == []
        assert [list(await store.verify(project)) for project in ("default", "other", "unheard-of")] == [[], [], []]
