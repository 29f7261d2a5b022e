"""How events lie in the tables, as far as writers and readers must agree on it, and stored events read back whole.

Not here: the rows that a transaction adds (`appending`).
"""

import sys
from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from adapters.postgres.connections import Session
from eventcore.events import Event, StoredEvent

ID_BYTES = 16
"""Of event ids, chunk ids and import ids: UUIDs."""

PROJECT_BYTES = 4

MOST_PARTITIONS = 100
"""Chunks of the hypertable that one transaction may touch. Each takes up to about ten locks, more when it is made, and
a server has 6,400 for all its transactions unless told otherwise (64 for each of 100 connections)."""

_AT_ONCE = 500
"""Events in one answer of the server: with 256 KiB each 128 MiB."""


def name_of(project_key: int, event_id: bytes) -> bytes:
    """Project and id in one; sorts as the primary key of the ledger does."""
    return project_key.to_bytes(PROJECT_BYTES, "big") + event_id


def pack(user_keys: Sequence[int]) -> bytes:
    """Keys as ``activity_delta.users`` holds them."""
    packed = array("i", user_keys)
    if sys.byteorder == "little":
        packed.byteswap()
    return packed.tobytes()


def unpack(packed: bytes) -> "array[int]":
    """What `pack` packed, or ``int4send`` on the server; unsigned, as bitmaps take it."""
    user_keys = array("I", packed)
    if sys.byteorder == "little":
        user_keys.byteswap()
    return user_keys


class Listed(NamedTuple):
    """What the ledger says of an id.

    Attributes:
        occurred_us: the instant of the event that has it.
        fingerprint: of its content.
    """

    occurred_us: int
    fingerprint: bytes


async def look_up(session: Session, names: Collection[bytes]) -> dict[bytes, Listed]:
    """What the ledger says of these, by `name_of`; those that it does not have are left out."""
    rows = await session.rows(
        "ledger",
        project_keys=[int.from_bytes(name[:PROJECT_BYTES], "big") for name in names],
        event_ids=[name[PROJECT_BYTES:] for name in names],
    )
    return {
        name_of(project_key, event_id): Listed(occurred_us, fingerprint)
        for project_key, event_id, occurred_us, fingerprint in rows
    }


async def read_events(
    session: Session, listed: Mapping[bytes, Listed], partition_us: int | None
) -> dict[bytes, StoredEvent]:
    """The events that the ledger lists so, by `name_of`; those whose raw rows have expired are left out."""
    found: dict[bytes, StoredEvent] = {}
    for names in _few_partitions(listed, partition_us):
        instants = [listed[name].occurred_us for name in names]
        rows = await session.rows(
            "stored_events",
            project_keys=[int.from_bytes(name[:PROJECT_BYTES], "big") for name in names],
            instants=instants,
            event_ids=[name[PROJECT_BYTES:] for name in names],
            first=instants[0],
            last=instants[-1],
        )
        for project_key, event_id, user_id, event_type, occurred_us, properties, received_us, import_id in rows:
            name = name_of(project_key, event_id)
            event = Event(event_id, user_id, event_type, occurred_us, properties, listed[name].fingerprint)
            found[name] = StoredEvent(event=event, received_us=received_us, import_id=import_id)
    return found


def _few_partitions(listed: Mapping[bytes, Listed], partition_us: int | None) -> Iterator[list[bytes]]:
    """Names in the order of their instants, in runs that are short and lie in few chunks of the hypertable."""
    names = sorted(listed, key=lambda name: listed[name].occurred_us)
    start = 0
    for position, name in enumerate(names):
        first_us, last_us = listed[names[start]].occurred_us, listed[name].occurred_us
        is_far = partition_us is not None and last_us // partition_us - first_us // partition_us >= MOST_PARTITIONS
        if is_far or position - start == _AT_ONCE:
            yield names[start:position]
            start = position
    if names:
        yield names[start:]
