"""Dead letters: how they lie in the file, and the statements that find, keep and take them.

An event is kept as one value, whatever is in it: half a character, a NUL or an id of 15 bytes too. Not here: the books,
and what becomes of a letter that is replayed (`appending`).
"""

from collections.abc import Iterator, Sequence
from sys import maxsize

import msgspec

from adapters.sqlite.database import Damaged, Database
from eventcore.dedup import member
from eventcore.events import Chunk, DeadLetter, Death, Event

_AT_ONCE = 250
"""Letters in one answer of SQLite: with 256 KiB each, in two digits a byte, 128 MiB, far below its bound of 1 GB."""

_Row = tuple[str, str, int, str, str, int, int]
_Slices = dict[str, bytes | str | None]

_encode_parts = msgspec.msgpack.Encoder().encode
_decode_parts = msgspec.msgpack.Decoder(tuple[bytes, bytes, bytes, bytes, bytes, bytes]).decode
_decode_rows = msgspec.json.Decoder(list[_Row]).decode
_decode_positions = msgspec.json.Decoder(list[int]).decode


def known(database: Database, project_key: int, names: Sequence[bytes]) -> set[bytes]:
    """Those of the names that are dead letters."""
    (positions,) = database.first("known_dead", project_key=project_key, **_slices(names))
    return {names[at] for at in _decode_positions(positions)}


def keep(
    database: Database, project_key: int, deaths: Sequence[tuple[Death, Chunk]], import_keys: Sequence[int | None]
) -> None:
    """Write dead letters; those that are there already take over what is said of the last attempt.

    Args:
        database: the writer's connection.
        project_key: whose.
        deaths: the letters, each with the chunk that brought it.
        import_keys: the key of the import of each, or None.
    """
    columns = (
        [project_key] * len(deaths),
        [death.event.event_id for death, _ in deaths],
        [death.event.fingerprint for death, _ in deaths],
        [_pack(death.event) for death, _ in deaths],
        [chunk.received_us for _, chunk in deaths],
        import_keys,
        [death.reason for death, _ in deaths],
        [death.attempts for death, _ in deaths],
        [death.died_us for death, _ in deaths],
    )
    database.insert("insert_dead", columns)


def take(database: Database, project_key: int, names: Sequence[bytes]) -> list[DeadLetter]:
    """Delete the dead letters of these names, and give them back in the order of the names."""
    wanted = list(dict.fromkeys(names))
    taken: list[DeadLetter] = []
    for begin in range(0, len(wanted), _AT_ONCE):
        part = _slices(wanted[begin : begin + _AT_ONCE])
        (rows,) = database.first("dead_named", project_key=project_key, **part)
        taken += map(_letter, _decode_rows(rows))
    delete(database, project_key, wanted)
    return taken


def delete(database: Database, project_key: int, names: Sequence[bytes]) -> int:
    """Delete the dead letters of these names; says how many there were."""
    return database.run("delete_dead", project_key=project_key, **_slices(names))


def read_after(
    database: Database, project_key: int, after: bytes, limit: int, event_ids: Sequence[bytes] | None
) -> list[DeadLetter]:
    """See `EventStore.dead_letters`."""
    return [_letter(row) for row in _rows_after(database, project_key, after, limit, event_ids)]


def broken(database: Database, project_key: int) -> Iterator[bytes]:
    """The names of dead letters that do not hold the event they are named after."""
    for row in _rows_after(database, project_key, b"", maxsize, None):
        try:
            _letter(row)
        except Damaged:
            yield bytes.fromhex(row[0])


def _rows_after(
    database: Database, project_key: int, after: bytes, limit: int, event_ids: Sequence[bytes] | None
) -> Iterator[_Row]:
    wanted: _Slices = {"joined": None, "slices": None} if event_ids is None else _slices(event_ids)
    while limit > 0:
        window = min(limit, _AT_ONCE)
        (found,) = database.first("dead_after", project_key=project_key, after=after, rows=window, **wanted)
        rows = _decode_rows(found)
        yield from rows
        if len(rows) < window:
            return
        after = bytes.fromhex(rows[-1][0])
        limit -= window


def _letter(row: _Row) -> DeadLetter:
    name, packed, received_us, import_id, reason, attempts, died_us = row
    event = _unpack(bytes.fromhex(packed))
    if member(event) != bytes.fromhex(name):
        raise Damaged
    return DeadLetter(
        event=event,
        received_us=received_us,
        import_id=bytes.fromhex(import_id) or None,
        reason=reason,
        attempts=attempts,
        died_us=died_us,
    )


def _pack(event: Event) -> bytes:
    texts = (event.user_id, event.event_type, str(event.occurred_us), event.properties)
    parts = [text.encode(errors="surrogatepass") for text in texts]
    return _encode_parts([event.event_id, event.fingerprint, *parts])


def _unpack(packed: bytes) -> Event:
    try:
        event_id, digest, *parts = _decode_parts(packed)
        user_id, event_type, occurred_us, properties = [part.decode(errors="surrogatepass") for part in parts]
        return Event(event_id, user_id, event_type, int(occurred_us), properties, digest)
    except (msgspec.MsgspecError, ValueError) as error:
        raise Damaged from error


def _slices(values: Sequence[bytes]) -> _Slices:
    """Values of any length as parameters of a statement, which cuts ``joined`` by ``slices``."""
    slices = []
    start = 1
    for value in values:
        slices.append((start, len(value)))
        start += len(value)
    return {"joined": b"".join(values), "slices": msgspec.json.encode(slices).decode()}
