"""What `SqliteStore.verify` finds in a file that does not agree with itself."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from adapters.sqlite import open_store
from adapters.sqlite.writer import Writer
from eventcore.calendar import QUARTER_US
from eventcore.events import Counts
from eventcore.strategies import AN_INSTANT_US, a_chunk, an_event, an_id

TWO = "0000-7000-8000-000000000002".replace("-", "")


@pytest.fixture(autouse=True)
def never_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Damage is planted into deltas here; `test_sqlite_folding` has that of the projection."""
    monkeypatch.setattr(Writer, "_fold_when_due", lambda self, due_events: None)


async def make_store(path: Path) -> None:
    store = await open_store(f"sqlite:///{path}")
    await store.append(
        [
            a_chunk(an_event(), an_event(event_id=2, user_id="grace", event_type="signup"), counts=Counts(rejected=1)),
            a_chunk(an_event(event_id=2), queued=True),
            a_chunk(an_event(occurred_us=AN_INSTANT_US + QUARTER_US), project="other"),
        ]
    )
    assert list(await store.verify()) == []
    await store.close()


def damage(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


async def differences(path: Path, project: str | None = None) -> list[str]:
    store = await open_store(f"sqlite:///{path}")
    found = list(await store.verify(project))
    await store.close()
    return found


@pytest.mark.parametrize(
    ("statement", "sentences"),
    [
        (
            "DELETE FROM event_ledger WHERE event_key = 2",
            [f"project default: event 018f0000{TWO} is stored, and the ledger does not hold it"],
        ),
        (
            "UPDATE event_ledger SET event_key = 1 WHERE event_key = 2",
            [
                f"project default: the ledger holds event 018f0000{TWO}, which is not stored",
                f"project default: event 018f0000{TWO} is stored, and the ledger does not hold it",
            ],
        ),
        (
            "DELETE FROM events WHERE event_key = 2",
            [
                f"project default: the ledger holds event 018f0000{TWO}, which is not stored",
                "project default: the books count 2 events as stored, and 1 are stored",
                "project default: activity has user key 1 with type key 1 in the quarter of an hour from "
                "2026-03-01T12:00Z on, and the events do not",
                "project default: activity counts 1 events with type key 1 in the quarter of an hour from "
                "2026-03-01T12:00Z on, and 0 are stored",
            ],
        ),
        (
            "UPDATE events SET user_key = 7 WHERE event_key = 1",
            [
                f"project default: event {an_id(1).hex()} has a user or a type that is not known",
                "project default: activity has user key 0 with type key 0 in the quarter of an hour from "
                "2026-03-01T12:00Z on, and the events do not",
                "project default: activity lacks user key 7 with type key 0 in the quarter of an hour from "
                "2026-03-01T12:00Z on, and the events do",
            ],
        ),
        (
            "UPDATE ingestion_books SET received = received + 1 WHERE rejected = 1",
            [
                "project default: in the book of 2026-03-01, received is 5, and accepted + duplicates + conflicts + "
                "rejected is 4"
            ],
        ),
        (
            "UPDATE ingestion_books SET stored = 3, conflict_at_store = 0 WHERE rejected = 1",
            ["project default: the books count 3 events as stored, and 2 are stored"],
        ),
        (
            "UPDATE ingestion_books SET conflict_at_store = 0 WHERE rejected = 1",
            [
                "project default: in the book of 2026-03-01, accepted is 3, and stored + duplicate_at_store + "
                "conflict_at_store + dead is 2"
            ],
        ),
        (
            "DELETE FROM activity_delta WHERE project_key = 2",
            [
                "project other: activity lacks user key 0 with type key 0 in the quarter of an hour from "
                "2026-03-01T12:15Z on, and the events do",
                "project other: activity counts 0 events with type key 0 in the quarter of an hour from "
                "2026-03-01T12:15Z on, and 1 are stored",
            ],
        ),
        (
            "INSERT INTO activity_delta (project_key, users, quarters, types) "
            "SELECT project_key, users, quarters, types FROM activity_delta WHERE project_key = 2",
            [
                "project other: activity counts 2 events with type key 0 in the quarter of an hour from "
                "2026-03-01T12:15Z on, and 1 are stored"
            ],
        ),
        (
            "UPDATE activity_delta SET users = x'' WHERE project_key = 2",
            [
                "project other: the columns of activity rows 1 to 2 differ in length",
                "project other: activity lacks user key 0 with type key 0 in the quarter of an hour from "
                "2026-03-01T12:15Z on, and the events do",
                "project other: activity counts 0 events with type key 0 in the quarter of an hour from "
                "2026-03-01T12:15Z on, and 1 are stored",
            ],
        ),
        (
            "UPDATE projects SET users = 3 WHERE name = 'default'",
            [
                "project default: user keys are not dense: 3 were given to users, 2 users are there, the highest key "
                "is 1"
            ],
        ),
        (
            "UPDATE projects SET event_types = 3 WHERE name = 'default'",
            [
                "project default: event type keys are not dense: 3 were given to types, 2 types are there, the highest "
                "key is 1"
            ],
        ),
    ],
    ids=[
        "ledger row lost",
        "ledger row points elsewhere",
        "event lost",
        "event of another user",
        "first equation",
        "books count what is not stored",
        "second equation",
        "activity lost",
        "activity twice",
        "activity cut short",
        "user keys",
        "type keys",
    ],
)
async def test_planted_damage_is_told(tmp_path: Path, statement: str, sentences: list[str]) -> None:
    path = tmp_path / "events.sqlite3"
    await make_store(path)
    damage(path, statement)
    assert await differences(path) == sentences


async def test_a_user_with_two_keys_is_told(tmp_path: Path) -> None:
    path = tmp_path / "events.sqlite3"
    await make_store(path)
    damage(path, "INSERT INTO users (project_key, user_id, user_key) VALUES (1, 'ghost', 5)")
    assert await differences(path) == [
        "project default: user keys are not dense: 2 were given to users, 3 users are there, the highest key is 5"
    ]


async def test_only_the_project_asked_for_is_compared(tmp_path: Path) -> None:
    path = tmp_path / "events.sqlite3"
    await make_store(path)
    damage(path, "DELETE FROM activity_delta WHERE project_key = 2")
    assert await differences(path, "default") == []
    assert len(await differences(path, "other")) == 2
    assert await differences(path, "nobody") == []


async def test_many_differences_of_a_kind_are_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "events.sqlite3"
    store = await open_store(f"sqlite:///{path}")
    await store.append([a_chunk(*(an_event(event_id=number) for number in range(50)))])
    await store.close()
    damage(path, "DELETE FROM event_ledger")
    found = await differences(path)
    assert len(found) == 21
    assert found[-1] == "there are more differences of this kind (events)"


async def test_a_damaged_page_is_told(tmp_path: Path) -> None:
    path = tmp_path / "events.sqlite3"
    store = await open_store(f"sqlite:///{path}")
    await store.append([a_chunk(*(an_event(event_id=number, user_id=f"user {number}") for number in range(500)))])
    await store.close()
    with closing(sqlite3.connect(path)) as connection:
        [page_bytes] = connection.execute("PRAGMA page_size").fetchone()
        [root] = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'users'").fetchone()
    content = bytearray(path.read_bytes())
    content[root * page_bytes - 64 : root * page_bytes] = bytes(64)
    path.write_bytes(content)
    found = await differences(path)
    assert found
    assert all(sentence.startswith("the file is damaged: ") for sentence in found)


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("UPDATE users SET user_id = CAST(x'ff' AS TEXT) WHERE user_key = 1", "user key 1 {}: user_id is not UTF-8"),
        (
            "UPDATE users SET user_id = 'a' || char(0) || 'b' WHERE user_key = 1",
            "user key 1 {}: user_id holds a control character; none is accepted",
        ),
        (
            "UPDATE event_types SET name = CAST(x'c3' AS TEXT) WHERE type_key = 1",
            "type key 1 {}: event_type is not UTF-8",
        ),
        (
            "UPDATE event_types SET name = '  ' WHERE type_key = 1",
            "type key 1 {}: event_type holds only white space",
        ),
    ],
)
async def test_names_that_no_event_can_bring(tmp_path: Path, statement: str, sentence: str) -> None:
    path = tmp_path / "events.sqlite3"
    await make_store(path)
    damage(path, statement)
    told = [f"project default: {sentence.format('has a name that no event can bring')}"]
    assert await differences(path) == told
    assert await differences(path, "default") == told
    assert await differences(path, "other") == []


async def test_many_names_that_no_event_can_bring_are_told_in_few_words(tmp_path: Path) -> None:
    path = tmp_path / "events.sqlite3"
    store = await open_store(f"sqlite:///{path}")
    await store.append([a_chunk(*(an_event(event_id=at, user_id=f"user {at}") for at in range(1, 101)))])
    await store.close()
    damage(path, "UPDATE users SET user_id = user_id || char(10)")
    found = await differences(path)
    assert len(found) == 21
    assert found[-1] == "there are more differences of this kind (user names)"
