"""What is read one statement at a time: events by their ids, books, the epoch, and what the store says of itself.

Not here: activity (`counting`) and the checks of `verifying`.
"""

from collections.abc import Mapping, Sequence
from datetime import date

from adapters.postgres.connections import Session
from adapters.postgres.rows import ID_BYTES, PROJECT_BYTES, look_up, name_of, read_events
from eventcore.events import Book, StoredEvent
from eventcore.ports import StoreDescription

_DAY_US = 86_400_000_000


async def find(
    session: Session, project: str, event_ids: Sequence[bytes], partition_us: int | None
) -> dict[bytes, StoredEvent]:
    """See `EventStore.find`."""
    rows = await session.rows("find_projects", names=[project])
    names = [
        name_of(project_key, event_id)
        for _, project_key in rows
        for event_id in dict.fromkeys(event_ids)
        if len(event_id) == ID_BYTES
    ]
    if not names:
        return {}
    found = await read_events(session, await look_up(session, names), partition_us)
    return {name[PROJECT_BYTES:]: stored for name, stored in found.items()}


async def books(session: Session, project: str, first: str, last: str) -> tuple[Book, ...]:
    """See `EventStore.books`."""
    rows = await session.rows("books", project=project, first=date.fromisoformat(first), last=date.fromisoformat(last))
    return tuple(Book(**row) for row in rows)


async def epoch(session: Session) -> str:
    """See `EventStore.epoch`."""
    return str((await session.first("setting", key="epoch"))[0])


async def version(session: Session, project: str) -> str:
    """See `EventStore.version`."""
    found = await session.first("version", project=project)
    return "nothing" if found is None else repr(tuple(found))


async def describe(session: Session, partition_us: int | None) -> StoreDescription:
    """See `EventStore.describe`; on a connection that writes, because what it was told about durability counts."""
    _, extension = await session.first("is_available")
    settings = dict(await session.rows("durability"))
    settings["events"] = "a plain table" if partition_us is None else "a hypertable"
    if partition_us is not None:
        settings["chunk_days"] = f"{partition_us / _DAY_US:g}"
        settings |= {name: str(days) for name, days in (await policies(session)).items()}
    rows = await session.rows("counts")
    (version,) = await session.first("setting", key="schema_version")
    return StoreDescription(
        technology=f"postgresql {session.server_version} "
        + ("without TimescaleDB" if extension is None else f"with TimescaleDB {extension}"),
        schema=int(version),
        epoch=await epoch(session),
        durable="off" not in (settings["synchronous_commit"], settings["fsync"]),
        settings=settings,
        counts={row["name"]: {table: count for table, count in row.items() if table != "name"} for row in rows},
    )


async def policies(session: Session) -> Mapping[str, int]:
    """What the database does with old events, by the name of the URL's option; days."""
    names = {"policy_compression": "columnstore_days", "policy_retention": "retention_days"}
    return {names[name]: int(days) for name, days in await session.rows("policies")}
