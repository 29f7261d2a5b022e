"""The self-check finds what does not agree, and says so in words."""

import asyncpg
import pytest

from adapters.postgres import open_store
from eventcore.strategies import a_chunk, an_event

HOUR_US = 3_600_000_000


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("DELETE FROM event_ledger WHERE event_id = (SELECT min(event_id::text)::uuid FROM event_ledger)", "books say"),
        ("DELETE FROM events WHERE user_key = 0", "in the ledger and stored 0 times"),
        ("INSERT INTO events SELECT * FROM events WHERE user_key = 0", "1 times in the ledger and stored 2 times"),
        ("UPDATE events SET event_id = gen_random_uuid() WHERE user_key = 1", "0 times in the ledger"),
        ("UPDATE events SET occurred_at = occurred_at + interval '1 microsecond'", "another instant"),
        ("DELETE FROM activity_delta WHERE type_key = 0", "activity says 0"),
        ("INSERT INTO activity_delta SELECT * FROM activity_delta", "activity says 2"),
        ("UPDATE activity_delta SET quarter = quarter + 1", "has 0 events in the quarter"),
        ("UPDATE activity_delta SET users = '\\x00000005'", "user 5"),
        ("UPDATE ingestion_books SET received = received + 1", "received is not"),
        ("UPDATE ingestion_books SET accepted = accepted + 1, received = received + 1", "accepted is not"),
        ("DELETE FROM ingestion_books", "the books say 0 events"),
        ("DELETE FROM users WHERE user_key = 0", "keys were given to users"),
        ("UPDATE users SET user_key = 7 WHERE user_key = 1", "keys were given to users"),
        ("UPDATE projects SET users = users + 1", "keys were given to users"),
        ("UPDATE projects SET event_types = 0", "keys were given to event types"),
        ("DELETE FROM event_types WHERE type_key = 0", "without a name"),
        ("DELETE FROM users WHERE user_key = 1", "without a name"),
    ],
)
async def test_finds_damage(url: str, damage: str, told: str) -> None:
    store = await open_store(url)
    await store.append([a_chunk(an_event(), an_event(event_id=2, user_id="grace", event_type="signup"))])
    await store.append([a_chunk(an_event(event_id=3, occurred_us=HOUR_US), project="other", queued=True)])
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
