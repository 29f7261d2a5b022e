"""Chunks: how a batch is cut for the queue, and the bytes that cross it.

The first byte of a message is the codec's version. A reader that meets a version it does not know leaves the message
alone for a newer reader: it is never a reason to drop or bury events.
"""

from collections.abc import Iterator, Sequence

import msgspec

from eventcore.errors import EventcoreError, Kind
from eventcore.events import Chunk, Event

CODEC_VERSION = 1
CHUNK_EVENTS = 500
"""One message per event is slow; 500 of usual size keep a message far below a broker's usual limit of 1 MiB."""
CHUNK_BYTES = 256 * 1024

_EVENT_OVERHEAD_BYTES = 64
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Chunk)


class UnknownCodec(EventcoreError):
    """A chunk written by a newer version of the codec; keep it for a reader that knows it."""

    def __init__(self, version: int) -> None:
        super().__init__(
            Kind.UNSUPPORTED,
            "unknown_codec",
            f"this chunk has codec version {version}, known is {CODEC_VERSION}; upgrade this process to read it",
        )


class BrokenChunk(EventcoreError):
    """Bytes that are not a chunk."""

    def __init__(self) -> None:
        super().__init__(Kind.DATA, "broken_chunk", "these bytes are not a chunk of events")


def cut(events: Sequence[Event]) -> Iterator[tuple[Event, ...]]:
    """Cut events into runs of at most `CHUNK_EVENTS` and about `CHUNK_BYTES`; a larger event goes alone."""
    start = 0
    size = 0
    for position, event in enumerate(events):
        own = len(event.properties) + len(event.user_id) + len(event.event_type) + _EVENT_OVERHEAD_BYTES
        if position > start and (position - start == CHUNK_EVENTS or size + own > CHUNK_BYTES):
            yield tuple(events[start:position])
            start, size = position, 0
        size += own
    if start < len(events):
        yield tuple(events[start:])


def encode_chunk(chunk: Chunk) -> bytes:
    """The bytes of a chunk, version first."""
    return bytes([CODEC_VERSION]) + _encoder.encode(chunk)


def decode_chunk(message: bytes) -> Chunk:
    """Read what `encode_chunk` wrote.

    Raises:
        UnknownCodec: the version is not ours.
        BrokenChunk: the bytes are damaged.
    """
    if not message:
        raise BrokenChunk
    if message[0] != CODEC_VERSION:
        raise UnknownCodec(message[0])
    try:
        return _decoder.decode(memoryview(message)[1:])
    except (msgspec.MsgspecError, ValueError) as error:  # a text that is not UTF-8 is a ValueError
        raise BrokenChunk from error
