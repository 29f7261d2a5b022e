"""The self-check finds what does not agree, and says so in words."""

import asyncpg
import pytest

from adapters.postgres import comparing, open_store
from eventcore.dedup import member
from eventcore.strategies import a_chunk, a_death, an_event

HOUR_US = 3_600_000_000
A_CHANGE_US = 1_289_097_060_000_000  # 2010-11-07, 00:01 in St John's, when it became 23:01 again


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("DELETE FROM event_ledger WHERE event_id = (SELECT min(event_id::text)::uuid FROM event_ledger)", "books say"),
        ("DELETE FROM events WHERE user_key = 0", "in the ledger and stored 0 times"),
        ("INSERT INTO events SELECT * FROM events WHERE user_key = 0", "1 times in the ledger and stored 2 times"),
        ("UPDATE events SET event_id = gen_random_uuid() WHERE user_key = 1", "0 times in the ledger"),
        ("UPDATE events SET occurred_at = occurred_at + interval '1 microsecond'", "another instant"),
        ("DELETE FROM activity_delta WHERE type_key = 0", "there are 1 events of 1 users, activity says 0 of 0"),
        ("INSERT INTO activity_delta SELECT * FROM activity_delta", "activity says 2 of 1"),
        ("UPDATE activity_delta SET quarter = quarter + 1", "there are 1 events of 1 users, activity says 0 of 0; so"),
        ("UPDATE activity_delta SET users = '\\x00000005'", "activity says 1 of 1 others"),
        ("UPDATE ingestion_books SET received = received + 1", "received is not"),
        ("UPDATE ingestion_books SET accepted = accepted + 1, received = received + 1", "accepted is not"),
        ("DELETE FROM ingestion_books", "the books say 0 events"),
        ("DELETE FROM users WHERE user_key = 0", "keys were given to users"),
        ("UPDATE users SET user_key = 7 WHERE user_key = 1", "keys were given to users"),
        ("UPDATE projects SET users = users + 1", "keys were given to users"),
        ("UPDATE projects SET event_types = 0", "keys were given to event types"),
        ("DELETE FROM event_types WHERE type_key = 0", "without a name"),
        ("DELETE FROM users WHERE user_key = 1", "without a name"),
        ("DELETE FROM dead_events", "the books say 2 events are dead, there are 0 letters and 1 dropped ones"),
        ("UPDATE projects SET dropped = 0", "there are 1 letters and 0 dropped ones"),
        ("UPDATE ingestion_books SET dead = dead - 1, stored = stored + 1", "the books say 1 events are dead"),
        ("UPDATE dead_events SET event = substr(event, 2)", "does not hold the event"),
        ("UPDATE dead_events SET event = '\\x00'", "does not hold the event"),
        ("UPDATE dead_events SET fingerprint = event_id", "does not hold the event"),
    ],
)
async def test_finds_damage(url: str, damage: str, told: str) -> None:
    store = await open_store(url)
    await store.append([a_chunk(an_event(), an_event(event_id=2, user_id="grace", event_type="signup"))])
    letters = [a_death(an_event(event_id=number, user_id="a\0b")) for number in (4, 5)]
    await store.append([a_chunk(an_event(event_id=3, occurred_us=HOUR_US), project="other", queued=True)])
    await store.append([a_chunk(dead=letters)])
    await store.drop("default", [member(letters[0].event)])
    assert list(await store.verify()) == []
    connection = await asyncpg.connect(url)
    await connection.execute("SET standard_conforming_strings = on")
    await connection.execute(damage)
    await connection.close()

    found = await store.verify("default")
    assert any(told in sentence for sentence in found), found
    assert all(sentence.startswith("project default: ") for sentence in found)
    assert set(found) <= set(await store.verify())
    assert list(await store.verify("unheard-of")) == []
    await store.close()


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (
            "UPDATE users SET user_id = E'a\\tb'",
            "user key 0 has a name that no event can bring: user_id holds a control",
        ),
        ("UPDATE users SET user_id = '\\xff'::bytea", "user key 0 has a name that no event can bring: user_id is"),
        ("UPDATE event_types SET name = ''", "type key 0 has a name that no event can bring: event_type is empty"),
        ("UPDATE event_types SET name = '\\xc3'::bytea", "event_type is not UTF-8"),
    ],
)
async def test_names_that_no_event_can_bring(url: str, damage: str, told: str) -> None:
    """The server checks bytes where they become text, and a disk may change them later; a cast checks nothing."""
    store = await open_store(url)
    await store.append([a_chunk(an_event())])
    connection = await asyncpg.connect(url)
    async with connection.transaction():
        await connection.execute("CREATE CAST (bytea AS text) WITHOUT FUNCTION AS ASSIGNMENT")
        await connection.execute(damage)
        await connection.execute("DROP CAST (bytea AS text)")
    await connection.close()
    (sentence,) = await store.verify()
    assert sentence.startswith("project default: ")
    assert told in sentence
    await store.close()


async def test_a_lot_of_damage_is_told_in_few_words(url: str) -> None:
    store = await open_store(url)
    await store.append([a_chunk(*(an_event(event_id=number) for number in range(100)))])
    connection = await asyncpg.connect(url)
    await connection.execute("DELETE FROM events")
    await connection.close()

    found = await store.verify()
    assert len([sentence for sentence in found if "stored 0 times" in sentence]) == 20
    assert "there are more differences of this kind (ledger)" in found
    await store.close()


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("DELETE FROM activity_bitmaps", "there are 1 events of 1 users, activity says 0 of 0"),
        (
            "INSERT INTO activity_delta SELECT project_key, period * 96, type_key, '\\x00000000' FROM activity_bitmaps "
            "WHERE grain = 0 AND type_key = 1",
            "there are 0 events of 0 users, activity says 1 of 1",
        ),
        ("UPDATE activity_bitmaps SET type_key = 5 WHERE type_key = 1 AND grain = 0", "2026-03-01, type 5: "),
        ("UPDATE activity_bitmaps SET period = period + 1 WHERE grain = 0", "2026-03-02, type 0: "),
        ("UPDATE activity_bitmaps SET events = 7 WHERE grain = 0 AND type_key = 0", "and type 0 is not what"),
        (
            "DELETE FROM activity_bitmaps WHERE grain = 0 AND type_key = -1",
            "quarters of UTC day 20513 and all types is",
        ),
        ("UPDATE activity_bitmaps SET users = '\\x00' WHERE grain = 0 AND type_key = 0", "and type 0 cannot be read"),
        ("UPDATE activity_bitmaps SET users = '' WHERE grain = 1", "the row of day 20513 and all types cannot be read"),
        ("UPDATE activity_bitmaps SET users = '\\xff' WHERE grain = 2", "month 24314 and type 1 cannot be read"),
        ("UPDATE activity_bitmaps SET events = events + 1 WHERE grain = 1", "day 20513 and type 0 is not what"),
        ("UPDATE activity_bitmaps SET distinct_users = 9 WHERE grain = 2", "month 24314 and all types is not what"),
        (
            "UPDATE activity_bitmaps AS one SET users = other.users FROM activity_bitmaps AS other WHERE one.grain = 1 "
            "AND one.type_key = 0 AND other.grain = 1 AND other.type_key = 1",
            "day 20513 and type 0 is not what",
        ),
        ("DELETE FROM activity_bitmaps WHERE grain = 1", "day 20513 and type 1 is not what"),
        ("DELETE FROM activity_bitmaps WHERE grain = 2", "month 24314 and type 1 is not what"),
        ("UPDATE activity_bitmaps SET period = period + 9 WHERE grain = 1", "day 20522 and type 0 has no quarters"),
        ("UPDATE activity_bitmaps SET period = period - 9 WHERE grain = 2", "month 24305 and type 0 has no quarters"),
        ("UPDATE activity_bitmaps SET period = period + 9 WHERE grain = 2", "month 24323 and type 0 has no quarters"),
    ],
)
async def test_finds_damage_of_the_projection(url: str, damage: str, told: str) -> None:
    """Two days of two types are folded, in two projects, and one more waits."""
    store = await open_store(url)
    for project in ("default", "other"):
        events = [an_event(), an_event(event_id=2, user_id="grace", event_type="signup")]
        await store.append([a_chunk(*events, an_event(event_id=3, occurred_us=0), project=project)])
    await store.fold(100)
    await store.append([a_chunk(an_event(event_id=4), an_event(event_id=5, occurred_us=HOUR_US))])
    assert list(await store.verify()) == []
    connection = await asyncpg.connect(url)
    await connection.execute(damage)
    await connection.close()

    found = await store.verify("default")
    assert any(told in sentence for sentence in found), found
    assert all(sentence.startswith("project default: ") for sentence in found)
    assert set(found) <= set(await store.verify())
    assert list(await store.verify("unheard-of")) == []
    await store.close()


async def test_long_lists_are_compared_in_portions(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Days, months and projects that begin and end anywhere in a portion; an odd zone; folded and waiting."""
    monkeypatch.setattr(comparing, "_ROWS_AT_ONCE", 7)
    connection = await asyncpg.connect(url)
    await connection.execute("UPDATE store SET value = 'America/St_Johns' WHERE key = 'projection_zone'")
    await connection.close()
    store = await open_store(url)
    for turn, project in enumerate(("one", "two", "three")):
        events = [
            an_event(
                event_id=number,
                user_id=f"user {number % 11}",
                event_type=f"type {number % 3}",
                occurred_us=A_CHANGE_US + (number - 100) * (turn + 1) * 7 * HOUR_US,
            )
            for number in range(200)
        ]
        await store.append([a_chunk(*events[::2], project=project)])
        await store.append([a_chunk(*events[1::2], project=project)])
    assert list(await store.verify()) == []
    while await store.fold(100):
        assert list(await store.verify()) == []
    await store.close()
