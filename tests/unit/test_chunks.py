"""The chunk codec and how a batch is cut."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventcore.chunks import CHUNK_BYTES, CHUNK_EVENTS, BrokenChunk, UnknownCodec, cut, decode_chunk, encode_chunk
from eventcore.events import Chunk, Counts, Event


def an_event(number: int = 0, properties: str = "{}") -> Event:
    return Event(UUID(int=number + 1).bytes, "ü😀", "t", -5, properties, bytes(16))


def test_a_chunk_comes_back_as_it_went() -> None:
    chunk = Chunk(
        chunk_id=b"c" * 16,
        project="p",
        received_us=2**62,
        queued=True,
        events=(an_event(1), an_event(2, '{"n":18446744073709551615}')),
        conflicting=(an_event(3),),
        counts=Counts(duplicates=1, conflicts=2, rejected=3),
        import_id=b"i" * 16,
    )
    assert decode_chunk(encode_chunk(chunk)) == chunk


def test_an_empty_message_is_broken() -> None:
    with pytest.raises(BrokenChunk):
        decode_chunk(b"")


def test_another_version_is_unknown_not_broken() -> None:
    message = encode_chunk(Chunk(chunk_id=b"c" * 16, project="p", received_us=0))
    with pytest.raises(UnknownCodec, match="version 9"):
        decode_chunk(b"\x09" + message[1:])


@given(st.binary(max_size=40))
def test_no_bytes_break_the_reader(noise: bytes) -> None:
    message = encode_chunk(Chunk(chunk_id=b"c" * 16, project="p", received_us=0, events=(an_event(),)))
    for damaged in (b"\x01" + noise, message[: len(noise)], message[: 20 + len(noise)] + noise):
        try:
            found = decode_chunk(damaged)
        except (BrokenChunk, UnknownCodec):
            continue
        assert isinstance(found, Chunk)


def test_a_cut_keeps_every_event_in_order_and_no_chunk_is_too_large() -> None:
    events = [an_event(number, "x" * (number % 7) * 2_000) for number in range(1_700)]
    runs = list(cut(events))
    assert [event for run in runs for event in run] == events
    assert all(len(run) <= CHUNK_EVENTS for run in runs)
    assert all(sum(len(event.properties) for event in run) <= CHUNK_BYTES for run in runs)
    assert len(runs) < 60


def test_a_huge_event_goes_alone() -> None:
    events = [an_event(1), an_event(2, "x" * (CHUNK_BYTES + 1)), an_event(3)]
    assert [len(run) for run in cut(events)] == [1, 1, 1]


def test_nothing_is_cut_into_nothing() -> None:
    assert list(cut([])) == []
