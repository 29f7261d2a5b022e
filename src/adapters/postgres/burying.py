"""Dead letters: how accepted events that the store refuses get into their table, are looked at, and leave it again.

They are refused for their values, so these are kept as bytes, which hold anything. Not here: who decides that an event
is dead (`eventcore.storing`), and what becomes of one that leaves (`appending`).
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import msgspec

from adapters.postgres.connections import Session
from eventcore.dedup import member
from eventcore.errors import Kind, StoreError
from eventcore.events import Chunk, DeadLetter, Death, Event

_AT_ONCE = 500
"""Letters in one answer of the server: with 256 KiB each 128 MiB."""

_Name = tuple[int, bytes, bytes]
"""Project key, id and fingerprint."""

_encode_parts = msgspec.msgpack.Encoder().encode
_decode_parts = msgspec.msgpack.Decoder(tuple[bytes, bytes, bytes, bytes, bytes, bytes]).decode


async def bury(session: Session, chunks: Sequence[Chunk], project_keys: Sequence[int]) -> list[int]:
    """Keep the dead of chunks; of a letter that is there already, only the last attempt is new.

    Args:
        session: in a transaction.
        chunks: the chunks.
        project_keys: for each chunk, whose it is.

    Returns:
        For each chunk, how many of its dead were letters before, or came twice.
    """
    letters: dict[_Name, tuple[int, Death]] = {}
    again = [0] * len(chunks)
    for position, (chunk, project_key) in enumerate(zip(chunks, project_keys, strict=True)):
        for death in chunk.dead:
            name = (project_key, death.event.event_id, death.event.fingerprint)
            origin, _ = letters.get(name, (position, None))
            again[position] += name in letters
            letters[name] = (origin, death)
    if letters:
        for name in await _insert(session, chunks, letters):
            again[letters[name][0]] += 1
    return again


async def _insert(
    session: Session, chunks: Sequence[Chunk], letters: Mapping[_Name, tuple[int, Death]]
) -> Sequence[_Name]:
    """Write letters, each with the position of the chunk that it came with; tells those that were there before."""
    names = sorted(letters)
    origins = [chunks[letters[name][0]] for name in names]
    deaths = [letters[name][1] for name in names]
    rows = await session.rows(
        "insert_letters",
        project_keys=[project_key for project_key, _, _ in names],
        event_ids=[event_id for _, event_id, _ in names],
        fingerprints=[fingerprint for _, _, fingerprint in names],
        received_at=[chunk.received_us for chunk in origins],
        died_at=[death.died_us for death in deaths],
        import_ids=[chunk.import_id for chunk in origins],
        attempts=[death.attempts for death in deaths],
        reasons=[death.reason for death in deaths],
        events=[_pack(death.event) for death in deaths],
    )
    return [(project_key, event_id, fingerprint) for project_key, event_id, fingerprint, is_new in rows if not is_new]


async def dead_letters(
    session: Session, project: str, *, limit: int, after: bytes, event_ids: Sequence[bytes] | None
) -> tuple[DeadLetter, ...]:
    """See `EventStore.dead_letters`."""
    rows = await session.rows("dead_letters", project=project, most=limit, after=after, event_ids=event_ids)
    return tuple(map(_letter, rows))


async def dig_up(session: Session, project: str, names: Sequence[bytes]) -> list[DeadLetter]:
    """Take letters out of the table; in the order in which their events were received."""
    letters = map(_letter, await session.rows("take_letters", project=project, names=names))
    return sorted(letters, key=lambda letter: (letter.received_us, letter.import_id or b"", member(letter.event)))


async def broken(session: Session, project: str | None) -> AsyncIterator[tuple[str, bytes]]:
    """The project and the name of each letter that does not hold the event it is named after.

    Args:
        session: in a transaction.
        project: whose letters; None for all.
    """
    async for rows in session.scan("letters", rows=_AT_ONCE, project=project):
        for name, event_id, fingerprint, packed in rows:
            try:
                event = _unpack(packed)
            except StoreError:
                event = None
            if event is None or (event.event_id, event.fingerprint) != (event_id, fingerprint):
                yield name, event_id + fingerprint


def _letter(row: Any) -> DeadLetter:
    return DeadLetter(
        event=_unpack(row["event"]),
        received_us=row["received_at"],
        import_id=row["import_id"],
        reason=row["reason"],
        attempts=row["attempts"],
        died_us=row["died_at"],
    )


def _pack(event: Event) -> bytes:
    """Texts as bytes, because half a character is no text."""
    texts = (event.user_id, event.event_type, str(event.occurred_us), event.properties)
    return _encode_parts([event.event_id, event.fingerprint, *(text.encode(errors="surrogatepass") for text in texts)])


def _unpack(packed: bytes) -> Event:
    try:
        event_id, fingerprint, *parts = _decode_parts(packed)
        user_id, event_type, occurred_us, properties = [part.decode(errors="surrogatepass") for part in parts]
        return Event(event_id, user_id, event_type, int(occurred_us), properties, fingerprint)
    except (msgspec.MsgspecError, ValueError) as error:
        raise StoreError(
            Kind.UNAVAILABLE, "damaged", "a dead letter is damaged: `eventcore verify` tells which; restore a backup"
        ) from error
