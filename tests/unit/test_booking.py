"""What a chunk and a replay add to the books: both equations hold, whatever happens."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from eventcore.booking import COLUMNS, entry, replay_entry
from eventcore.events import Book, Chunk, Counts, Receipt
from eventcore.strategies import a_chunk, a_death, an_event

NOTHING = dict.fromkeys(COLUMNS, 0)


def balanced(entries: dict[str, int]) -> bool:
    return (
        entries["received"] == entries["accepted"] + entries["duplicates"] + entries["conflicts"] + entries["rejected"]
        and entries["accepted"]
        == entries["stored"] + entries["duplicate_at_store"] + entries["conflict_at_store"] + entries["dead"]
    )


def a_full_chunk(*, queued: bool) -> Chunk:
    return a_chunk(
        *(an_event(event_id=number) for number in range(10)),
        conflicting=[an_event(event_id=1, user_id="grace")],
        counts=Counts(duplicates=20, conflicts=30, rejected=40),
        dead=[a_death(an_event(event_id=number)) for number in range(10, 15)],
        queued=queued,
    )


def test_the_columns_are_those_of_a_book_that_a_store_knows() -> None:
    assert set(COLUMNS) == set(Book.__struct_fields__) - {"date", "pending"}
    assert tuple(entry(a_chunk(), Receipt())) == COLUMNS
    assert tuple(replay_entry(0, Receipt())) == COLUMNS


@pytest.mark.parametrize("queued", [False, True])
def test_nothing_changes_nothing(queued: bool) -> None:
    assert entry(a_chunk(queued=queued), Receipt()) == NOTHING
    assert replay_entry(0, Receipt()) == NOTHING


def test_what_the_store_finds_before_the_answer_was_never_accepted() -> None:
    found = Receipt(duplicates=(0, 1, 2), conflicts=(4,))
    assert entry(a_full_chunk(queued=False), found, dead_again=2) == NOTHING | {
        "received": 105,
        "accepted": 11,
        "duplicates": 23,
        "conflicts": 31,
        "rejected": 40,
        "stored": 6,
        "duplicate_at_store": 2,
        "dead": 3,
    }


def test_what_the_store_finds_after_the_answer_is_booked_apart() -> None:
    found = Receipt(duplicates=(0, 1, 2), conflicts=(4,))
    assert entry(a_full_chunk(queued=True), found, dead_again=2) == NOTHING | {
        "received": 105,
        "accepted": 15,
        "duplicates": 20,
        "conflicts": 30,
        "rejected": 40,
        "stored": 6,
        "duplicate_at_store": 5,
        "conflict_at_store": 1,
        "dead": 3,
    }


def test_a_replay_moves_letters_and_changes_no_sum() -> None:
    assert replay_entry(9, Receipt(duplicates=(0, 3), conflicts=(1,))) == NOTHING | {
        "stored": 6,
        "duplicate_at_store": 2,
        "conflict_at_store": 1,
        "dead": -9,
    }


@st.composite
def appends(draw: DrawFn) -> tuple[Chunk, Receipt, int]:
    """A chunk, what a store found of it, and how many of its dead it had already."""
    numbers = range(draw(st.integers(0, 6)))
    outcomes = [draw(st.sampled_from(("stored", "duplicate", "conflict"))) for _ in numbers]
    deaths = draw(st.integers(0, 4))
    chunk = a_chunk(
        *(an_event(event_id=number) for number in numbers),
        counts=Counts(**{column: draw(st.integers(0, 5)) for column in ("duplicates", "conflicts", "rejected")}),
        dead=[a_death(an_event(event_id=number)) for number in range(10, 10 + deaths)],
        queued=draw(st.booleans()),
    )
    receipt = Receipt(
        duplicates=tuple(number for number in numbers if outcomes[number] == "duplicate"),
        conflicts=tuple(number for number in numbers if outcomes[number] == "conflict"),
    )
    return chunk, receipt, draw(st.integers(0, deaths))


@given(appended=appends(), data=st.data())
def test_both_equations_hold_whatever_happens(appended: tuple[Chunk, Receipt, int], data: st.DataObject) -> None:
    chunk, receipt, dead_again = appended
    entries = entry(chunk, receipt, dead_again=dead_again)
    assert balanced(entries)
    assert min(entries.values()) >= 0
    letters = data.draw(st.integers(0, entries["dead"]))
    duplicates = data.draw(st.integers(0, letters))
    conflicts = data.draw(st.integers(0, letters - duplicates))
    replayed = replay_entry(
        letters,
        Receipt(duplicates=tuple(range(duplicates)), conflicts=tuple(range(duplicates, duplicates + conflicts))),
    )
    after = {column: entries[column] + replayed[column] for column in COLUMNS}
    assert balanced(after)
    assert min(after.values()) >= 0
    assert after["received"] == entries["received"]


@given(appended=appends())
def test_every_event_is_in_the_books_once(appended: tuple[Chunk, Receipt, int]) -> None:
    """A queue between changes only the columns that repeats are in, never how many events there are."""
    chunk, receipt, dead_again = appended
    entries = entry(chunk, receipt, dead_again=dead_again)
    counts = chunk.counts
    assert entries["received"] == (
        len(chunk.events) + len(chunk.dead) + counts.duplicates + counts.conflicts + counts.rejected
    )
    other_way = entry(msgspec.structs.replace(chunk, queued=not chunk.queued), receipt, dead_again=dead_again)
    unlike = {column for column in COLUMNS if entries[column] != other_way[column]}
    assert unlike <= {"accepted", "duplicates", "conflicts", "duplicate_at_store", "conflict_at_store"}
