"""How events lie in the file, as far as writer and readers must agree on it, and stored events read back whole."""

import sys
from array import array
from collections.abc import Iterator, Sequence

import msgspec

from adapters.sqlite.database import Database
from eventcore.events import Event, StoredEvent

ID_BYTES = 16
"""Of event ids, chunk ids and import ids: UUIDs."""

_AT_ONCE = 500
"""Events in one answer of SQLite: with 256 KiB each 128 MiB, far below its bound of 1 GB for one value."""

_StoredRow = tuple[int, str, str, str, int, str, str, int, str]

_decode_stored = msgspec.json.Decoder(list[_StoredRow]).decode
_decode_fingerprints = msgspec.json.Decoder(list[tuple[int, str]]).decode


def pack(numbers: Sequence[int]) -> bytes:
    """Numbers of 32 bits as `activity_delta` holds them, little-endian."""
    packed = array("I", numbers)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def unpack(packed: bytes) -> Sequence[int]:
    """What `pack` packed; bytes behind the last whole number are ignored."""
    numbers = array("I", packed[: len(packed) - len(packed) % 4])
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def stored_events(database: Database, event_keys: Sequence[int]) -> Iterator[tuple[int, StoredEvent]]:
    """The events with these keys, each with its key."""
    for begin in range(0, len(event_keys), _AT_ONCE):
        wanted = msgspec.json.encode(event_keys[begin : begin + _AT_ONCE]).decode()
        (rows,) = database.first("stored_events", event_keys=wanted)
        for (
            key,
            event_id,
            user_id,
            event_type,
            occurred_us,
            properties,
            digest,
            received_us,
            import_id,
        ) in _decode_stored(rows):
            event = Event(
                event_id=bytes.fromhex(event_id),
                user_id=user_id,
                event_type=event_type,
                occurred_us=occurred_us,
                properties=properties,
                fingerprint=bytes.fromhex(digest),
            )
            yield key, StoredEvent(event=event, received_us=received_us, import_id=bytes.fromhex(import_id) or None)


def fingerprints(database: Database, event_keys: Sequence[int]) -> dict[int, bytes]:
    """The fingerprints of the events with these keys."""
    (rows,) = database.first("fingerprints", event_keys=msgspec.json.encode(event_keys).decode())
    return {key: bytes.fromhex(digest) for key, digest in _decode_fingerprints(rows)}
