"""Rules that somebody added to the tables: who breaks one becomes a dead letter that names it, and costs nobody else."""

import asyncio
import random
from collections import Counter

import asyncpg
import pytest

from adapters.postgres import migrate, open_store, rows, spreading, writer
from eventcore.dedup import member
from eventcore.errors import Kind, StoreError
from eventcore.events import Book, Chunk, Counts, Event, Receipt, Replay
from eventcore.ports import EventStore
from eventcore.storing import persist
from eventcore.strategies import AN_INSTANT_US, a_chunk, a_death, an_event

DAY = "2026-03-01"
NOW_US = AN_INSTANT_US + 1
WEEK_US = 7 * 86_400_000_000

AT_ONCE = "CREATE TRIGGER watch BEFORE INSERT ON events"
AT_COMMIT = "CREATE CONSTRAINT TRIGGER watch AFTER INSERT ON events DEFERRABLE INITIALLY DEFERRED"


def a_trigger(then: str, when: str = AT_ONCE) -> str:
    """On every event of mallory's."""
    return f"""
        CREATE FUNCTION no_mallory() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                IF EXISTS (SELECT FROM users WHERE user_key = NEW.user_key AND user_id LIKE 'mallory%') THEN
                    {then};
                END IF;
                RETURN NEW;
            END
        $$;
        {when} FOR EACH ROW EXECUTE FUNCTION no_mallory()
    """


END_TRIGGER = "DROP FUNCTION no_mallory CASCADE"
SAID = "(SQLSTATE P0001, function no_mallory)"

# How to begin, how to end, and what the reason ends with.
RULES = {
    "check on users": (
        "ALTER TABLE users ADD CONSTRAINT no_mallory CHECK (user_id NOT LIKE 'mallory%')",
        "ALTER TABLE users DROP CONSTRAINT no_mallory",
        "(SQLSTATE 23514, constraint no_mallory)",
    ),
    "check on events": (
        "ALTER TABLE events ADD CONSTRAINT no_secrets CHECK (properties NOT LIKE '%mallory%')",
        "ALTER TABLE events DROP CONSTRAINT no_secrets",
        "(SQLSTATE 23514, constraint no_secrets)",
    ),
    "raise": (a_trigger("RAISE 'mallory is not wanted'"), END_TRIGGER, SAID),
    "assert": (a_trigger("ASSERT false, 'mallory'"), END_TRIGGER, "(SQLSTATE P0004, function no_mallory)"),
    "raise with a name": (
        a_trigger("RAISE 'mallory' USING ERRCODE = '23514', CONSTRAINT = 'rule {7}'"),
        END_TRIGGER,
        "(SQLSTATE 23514, constraint rule {7})",
    ),
}
DEFERRED = (a_trigger("RAISE 'mallory'", AT_COMMIT), END_TRIGGER, SAID)


async def run(url: str, statement: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(url)
    try:
        found: list[asyncpg.Record] = await connection.fetch(statement)
        return found
    finally:
        await connection.close()


async def execute(url: str, script: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(script)
    await connection.close()


async def books_of(store: EventStore) -> list[Book]:
    return list(await store.books("default", "1970-01-01", "9999-12-31"))


async def letters_of(store: EventStore) -> list[tuple[Event, str]]:
    return [(letter.event, letter.reason) for letter in await store.dead_letters("default", limit=10_000)]


def from_mallory(number: int, **others: int) -> Event:
    return an_event(event_id=number, user_id=f"mallory {number}", properties={"of": "mallory"}, **others)


def is_good(event: Event) -> bool:
    return not event.user_id.startswith("mallory")


async def buries_mallory_alone(url: str, rule: tuple[str, str, str]) -> None:
    begin, end, told = rule
    store = await open_store(url)
    await store.append([a_chunk(an_event(event_id=1_000))])
    await execute(url, begin)
    sent = [
        from_mallory(number) if number in (0, 7, 8, 59) else an_event(event_id=number, user_id=f"user {number % 9}")
        for number in range(60)
    ]
    chunks = [a_chunk(*sent[start : start + 20], queued=True) for start in (0, 20, 40)]
    receipts, dead = await persist(store, chunks, now_us=NOW_US)

    bad = [event for event in sent if not is_good(event)]
    assert (list(receipts), dead) == ([Receipt()] * 3, 4)
    assert await letters_of(store) == [(event, f"a rule of the database refuses this {told}") for event in bad]
    assert await books_of(store) == [Book(date=DAY, received=61, accepted=61, stored=57, dead=4)]
    assert [key for (key,) in await run(url, "SELECT user_key FROM users ORDER BY user_key")] == list(range(10))
    assert list(await store.append(chunks)) == [Receipt()] * 3
    with pytest.raises(StoreError) as caught:
        await store.replay("default", [member(event) for event in bad])
    assert (caught.value.kind, "mallory " in caught.value.message) == (Kind.DATA, False)
    assert await books_of(store) == [Book(date=DAY, received=61, accepted=61, stored=57, dead=4)]
    assert list(await store.verify()) == []

    await execute(url, end)
    assert await store.replay("default", [member(event) for event in bad]) == Replay(stored=4)
    assert await books_of(store) == [Book(date=DAY, received=61, accepted=61, stored=61)]
    assert len(await store.find("default", [event.event_id for event in sent])) == 60
    assert list(await store.verify()) == []
    await store.close()


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
async def test_a_rule_buries_whom_it_refuses_and_nobody_else(either_url: str, rule: tuple[str, str, str]) -> None:
    """Also where events are a hypertable, whose chunks inherit the rule."""
    await buries_mallory_alone(either_url, rule)


async def test_a_rule_that_looks_only_at_commit(url: str) -> None:
    """A check asks it before it gives up what it has written."""
    await buries_mallory_alone(url, DEFERRED)


async def test_a_chunk_of_nothing_but_refused_events(url: str, store: EventStore) -> None:
    """Every one dies, none of them costs a connection, and the books know them."""
    await execute(url, RULES["check on users"][0])
    backends = "SELECT pid FROM pg_stat_activity WHERE application_name = 'eventcore' ORDER BY pid"
    await store.epoch()
    before = await run(url, backends)
    receipts, dead = await persist(store, [a_chunk(*map(from_mallory, range(200)))], now_us=NOW_US)

    assert (list(receipts), dead) == ([Receipt()], 200)
    assert await run(url, backends) == before
    assert await books_of(store) == [Book(date=DAY, received=200, accepted=200, dead=200)]
    assert list(await store.verify()) == []


async def test_what_is_no_rule_buries_nothing(url: str, store: EventStore) -> None:
    """A trigger that is broken is the database's trouble, however long it lasts."""
    await execute(url, a_trigger("PERFORM 1 FROM nowhere"))
    with pytest.raises(StoreError) as caught:
        await persist(store, [a_chunk(an_event(), from_mallory(2))], now_us=NOW_US)
    assert caught.value.kind is not Kind.DATA
    assert await books_of(store) == []
    await execute(url, END_TRIGGER)
    await persist(store, [a_chunk(an_event(), from_mallory(2))], now_us=NOW_US)
    assert await books_of(store) == [Book(date=DAY, received=2, accepted=2, stored=2)]


async def test_a_check_takes_no_key(url: str, store: EventStore) -> None:
    """Neither does it leave one to anybody who asks later, nor a gap."""
    checked = [f"checked {number}" for number in range(9)]
    for number in range(5):
        await store.append([a_chunk(an_event(event_id=number, user_id=f"user {number}"))])
        await store.check(a_chunk(*(an_event(event_id=100 + at, user_id=user) for at, user in enumerate(checked))))
    await store.append([a_chunk(*(an_event(event_id=200 + at, user_id=user) for at, user in enumerate(checked)))])

    found = await run(url, "SELECT user_key, user_id FROM users ORDER BY user_key")
    assert [tuple(row) for row in found] == list(enumerate([*(f"user {number}" for number in range(5)), *checked]))
    assert list(await store.verify()) == []


# Beside others


@pytest.fixture
def no_second_try(monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction that the server ends because of a deadlock is an error at once."""
    monkeypatch.setattr(writer, "ATTEMPTS", 1)


@pytest.mark.usefixtures("no_second_try")
async def test_everything_at_once_makes_no_deadlock(url: str) -> None:
    """Appends with and without dead, checks, replays and drops of the same few letters, over twelve connections."""
    stores = [await open_store(f"{url}&writers=4") for _ in range(3)]
    choose = random.Random(20261123)
    projects = ["one", "two"]

    def some_events() -> list[Event]:
        return [
            an_event(event_id=number, user_id=f"user {number % 40}", event_type=f"type {number % 7}")
            for number in choose.sample(range(120), 12)
        ]

    def a_busy_chunk() -> Chunk:
        return a_chunk(
            *some_events(),
            project=choose.choice(projects),
            queued=choose.random() < 0.5,
            dead=[a_death(event) for event in some_events()],
            counts=Counts(rejected=1),
            import_id=choose.choice([None, bytes(16), bytes(range(16))]),
        )

    async def keep_on(turn: int) -> Counter[str]:
        store = stores[turn % 3]
        done: Counter[str] = Counter()
        for _ in range(25):
            project = choose.choice(projects)
            names = [member(event) for event in some_events()]
            match choose.choice(("append", "append", "append", "check", "replay", "drop")):
                case "append":
                    await store.append([a_busy_chunk(), a_busy_chunk()])
                case "check":
                    await store.check(a_busy_chunk())
                case "replay":
                    replayed = await store.replay(project, names)
                    done["replayed"] += replayed.stored + replayed.duplicates
                case "drop":
                    done["dropped"] += await store.drop(project, names)
        return done

    done = sum(await asyncio.gather(*map(keep_on, range(12))), Counter[str]())
    assert min(done["replayed"], done["dropped"]) > 50
    books = [book for project in projects for book in await stores[0].books(project, DAY, DAY)]
    counts = (await stores[0].describe()).counts
    assert sum(book.dead for book in books) == done["dropped"] + sum(count["dead"] for count in counts.values())
    assert list(await stores[0].verify()) == []
    for store in stores:
        await store.close()


async def test_a_letter_that_is_being_dropped_is_buried_again(url: str, store: EventStore) -> None:
    """Whoever buries it waits for the end of who drops it: it is there afterwards, and booked."""
    await store.append([a_chunk(dead=[a_death(an_event())])])
    other = await asyncpg.connect(url)
    dropping = other.transaction()
    await dropping.start()
    await other.execute("DELETE FROM dead_events; UPDATE projects SET dropped = 1")
    burying = asyncio.create_task(store.append([a_chunk(dead=[a_death(an_event(), attempts=3)])]))
    await asyncio.wait([burying], timeout=0.3)
    assert not burying.done()
    await dropping.commit()
    await other.close()
    await burying

    assert [letter.attempts for letter in await store.dead_letters("default", limit=9)] == [3]
    assert await books_of(store) == [Book(date=DAY, received=2, accepted=2, dead=2)]
    assert list(await store.verify()) == []


async def test_letters_are_dropped_only_with_a_new_epoch(url: str, store: EventStore) -> None:
    """A cache that went on knowing a dropped event would answer "duplicate" to it for ever."""
    await store.append([a_chunk(dead=[a_death(an_event())])])
    epoch = await store.epoch()
    await execute(url, "ALTER TABLE store ADD CONSTRAINT fixed CHECK (key <> 'epoch') NOT VALID")
    with pytest.raises(StoreError):
        await store.drop("default", [member(an_event())])
    assert len(await letters_of(store)) == 1
    assert list(await store.verify()) == []

    await execute(url, "ALTER TABLE store DROP CONSTRAINT fixed")
    assert await store.drop("default", [member(an_event())]) == 1
    assert await store.epoch() != epoch
    assert await books_of(store) == [Book(date=DAY, received=1, accepted=1, dead=1)]


async def test_a_damaged_letter_is_an_error_that_names_the_way_out(url: str, store: EventStore) -> None:
    await store.append([a_chunk(dead=[a_death(an_event())])])
    await execute(url, "UPDATE dead_events SET event = substr(event, 2)")
    for call in (store.dead_letters("default", limit=9), store.replay("default", [member(an_event())])):
        with pytest.raises(StoreError, match="eventcore verify"):
            await call
    assert await store.drop("default", [member(an_event())]) == 1


# Over many dates


@pytest.mark.parametrize("queued", [True, False])
async def test_poison_in_a_chunk_over_many_dates(
    timescale_url: str, queued: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Earlier pieces of it are stored when the poison is found, and still it is buried."""
    for module in (rows, spreading, writer):
        monkeypatch.setattr(module, "MOST_PARTITIONS", 10)
    await migrate(timescale_url)
    store = await open_store(timescale_url)
    await execute(timescale_url, RULES["check on users"][0])
    sent = [
        from_mallory(week, occurred_us=week * WEEK_US)
        if week == 25
        else an_event(event_id=week, occurred_us=week * WEEK_US)
        for week in range(45)
    ]
    chunk = a_chunk(*sent, queued=queued)
    receipts, dead = await persist(store, [chunk], now_us=NOW_US)

    assert dead == 1
    assert [event for event, _ in await letters_of(store)] == [sent[25]]
    assert len(await store.find("default", [event.event_id for event in sent])) == 44
    assert list(await store.verify()) == []
    if queued:
        assert list(receipts) == [Receipt()]
        for rule in RULES["check on users"][1::-1]:
            await execute(timescale_url, rule)
            await store.check(chunk)
            assert list(await store.append([chunk])) == [Receipt()]
            assert await books_of(store) == [Book(date=DAY, received=45, accepted=45, stored=44, dead=1)]
    await store.close()
