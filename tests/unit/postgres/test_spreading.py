"""Chunks over too many dates for one transaction are cut the same way each time, and nothing is lost or changed."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from adapters.postgres.rows import MOST_PARTITIONS
from adapters.postgres.spreading import Piece, partitions_of, spread
from eventcore.events import Chunk, Counts
from eventcore.strategies import a_chunk, a_death, an_event

WEEK_US = 7 * 86_400_000_000


def a_chunk_over(*weeks: int, queued: bool = True) -> Chunk:
    """One event in each of these weeks."""
    return a_chunk(
        *(an_event(event_id=number, occurred_us=week * WEEK_US) for number, week in enumerate(weeks)),
        conflicting=[an_event(event_id=1, user_id="x")],
        counts=Counts(conflicts=1, rejected=2),
        queued=queued,
        import_id=bytes(16),
        dead=[a_death(an_event(event_id=2, user_id="y"))],
    )


chunks = st.lists(st.lists(st.integers(0, 3_000), max_size=500).map(lambda weeks: a_chunk_over(*weeks)), max_size=4)


@given(chunks)
def test_no_transaction_touches_too_much(sent: list[Chunk]) -> None:
    for pieces in spread(sent, WEEK_US):
        touched = set().union(*(partitions_of(piece.chunk, WEEK_US) for piece in pieces))
        assert len(touched) <= MOST_PARTITIONS


@given(chunks)
def test_pieces_put_together_are_the_chunks(sent: list[Chunk]) -> None:
    pieces = [piece for transaction in spread(sent, WEEK_US) for piece in transaction]
    for origin, chunk in enumerate(sent):
        own = [piece for piece in pieces if piece.origin == origin]
        parts = [piece.chunk for piece in own]
        assert tuple(event for part in parts for event in part.events) == chunk.events
        assert [chunk.events[piece.start : piece.start + len(piece.chunk.events)] for piece in own] == [
            part.events for part in parts
        ]
        assert [part.counts for part in parts] == [chunk.counts, *[Counts()] * (len(parts) - 1)]
        assert [part.conflicting for part in parts] == [chunk.conflicting, *[()] * (len(parts) - 1)]
        assert [part.dead for part in parts] == [*[()] * (len(parts) - 1), chunk.dead]
        assert parts[-1].chunk_id == chunk.chunk_id
        assert len({part.chunk_id for part in parts}) == len(parts)
        same = {"events": (), "conflicting": (), "counts": Counts(), "chunk_id": b"", "dead": ()}
        assert {msgspec.structs.replace(part, **same) for part in parts} == {msgspec.structs.replace(chunk, **same)}


def test_the_cuts_depend_on_nothing_but_the_chunk() -> None:
    chunk = a_chunk_over(*range(250))
    alone = [pieces[0].chunk for pieces in spread([chunk], WEEK_US)]
    behind = [piece.chunk for pieces in spread([a_chunk_over(5), chunk], WEEK_US) for piece in pieces if piece.origin]
    assert len(alone) == 3
    assert alone == behind


def test_what_fits_stays_whole() -> None:
    sent = [a_chunk_over(*range(60)), a_chunk_over(*range(40, 100)), a_chunk_over(7)]
    assert list(spread(sent, WEEK_US)) == [[Piece(chunk, origin, 0) for origin, chunk in enumerate(sent)]]
