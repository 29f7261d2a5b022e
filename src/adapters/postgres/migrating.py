"""The schema: which version a database has, and how it gets the one that this code needs.

Migrations run one at a time and each in a transaction of its own, which waits for those that write. Where the server
has TimescaleDB, the first one makes ``events`` a hypertable; the options of the URL about its chunks and policies are
taken over each time. Not here: opening a store migrates nothing; only `migrate` does.
"""

from contextlib import suppress
from secrets import token_hex
from time import time_ns

from adapters.postgres.address import Address
from adapters.postgres.connections import READ_COMMITTED, Connections, Session
from adapters.postgres.statements import migrations
from eventcore.errors import Kind, StoreError

LOCK_SECONDS = 60
"""For transactions that write to end, and for another migration."""

PROJECTION_ZONE = "UTC"
"""Whose days a new store precomputes; questions in other zones are answered from quarters of an hour."""

_POLICIES = frozenset({"columnstore_days", "retention_days"})


async def bring_up_to_date(address: Address, *, check: bool) -> tuple[int, int]:
    """See `adapters.postgres.migrate`."""
    wanted = len(migrations())
    connections = Connections(address, most=1, settings={"lock_timeout": f"{LOCK_SECONDS}s"}, timeout_seconds=None)
    try:
        async with connections.lend() as session:
            check_encoding(session, address)
            found = await find_version(session)
            has_extension, version = await session.first("is_available")
        if not check:
            if found > wanted:
                raise _wrong_version(found, address)
            if address.options.timescaledb == "auto" and found == 0 and has_extension and version is None:
                await _make_extension(connections)
            async with connections.lend() as session:
                for number in range(found + 1, wanted + 1):
                    await _take_step(session, number, address)
                async with session.transaction(READ_COMMITTED):
                    await _set_policies(session, address, address.chosen)
    finally:
        await connections.close()
    return found, wanted


async def find_version(session: Session) -> int:
    """The schema version of the database, 0 where it has no store."""
    (is_there,) = await session.first("is_there")
    if not is_there:
        return 0
    found = await session.first("setting", key="schema_version")
    return 0 if found is None else int(found[0])


def check_encoding(session: Session, address: Address) -> None:
    """Go on only where every text has a place.

    Raises:
        StoreError: of kind ``unsupported``. In another encoding the server refuses texts, and they would be taken for
            data that can never be stored.
    """
    if session.encoding != "UTF8":
        raise StoreError(
            Kind.UNSUPPORTED,
            "not_utf8",
            f"the database at {address.shown} has the encoding {session.encoding}: name one that was created with "
            "ENCODING 'UTF8'",
        )


def check_version(found: int | str | None, address: Address) -> None:
    """Go on only with the version that this code was written for.

    Raises:
        StoreError: of kind ``schema``, with the command that helps.
    """
    if int(found or 0) != len(migrations()):
        raise _wrong_version(int(found or 0), address)


def _wrong_version(found: int, address: Address) -> StoreError:
    wanted = len(migrations())
    where = f"the database at {address.shown}"
    if found == 0:
        return StoreError(Kind.SCHEMA, "no_store", f"{where} has no eventcore store yet: run `eventcore migrate`")
    if found < wanted:
        return StoreError(
            Kind.SCHEMA,
            "schema_older",
            f"{where} has schema version {found}, this eventcore needs {wanted}: make a backup, then run "
            "`eventcore migrate`",
        )
    return StoreError(
        Kind.SCHEMA,
        "schema_newer",
        f"{where} has schema version {found}, this eventcore knows {wanted}: install the eventcore that wrote it or a "
        "newer one; `eventcore migrate --check` shows both versions",
    )


async def _make_extension(connections: Connections) -> None:
    # On a connection of its own, which the server ends where the extension is not preloaded. Whoever may not make it
    # goes without, as where it is not installed.
    with suppress(StoreError):
        async with connections.lend() as session:
            await session.run("make_extension")


async def _take_step(session: Session, number: int, address: Address) -> None:
    async with session.transaction(READ_COMMITTED):
        await session.run("lock_migrations")
        found = await find_version(session)
        if found >= number:  # another process was faster
            return
        if found:
            await session.run("lock_store")
        await session.execute(migrations()[number - 1])
        if number == 1:
            await session.run("put_setting", key="epoch", value=token_hex(16))
            await session.run("put_setting", key="created_us", value=str(time_ns() // 1_000))
            await session.run("put_setting", key="projection_zone", value=PROJECTION_ZONE)
            await _make_hypertable(session, address)
        await session.run("put_setting", key="schema_version", value=str(number))


async def _make_hypertable(session: Session, address: Address) -> None:
    _, version = await session.first("is_available")
    if address.options.timescaledb == "off" or version is None:
        return
    await session.run("widen_search_path")
    await session.run("make_hypertable", days=address.options.chunk_days)
    if (await session.first("has_columnstore"))[0]:
        await session.run("prepare_columnstore")
    await _set_policies(session, address, _POLICIES)


async def _set_policies(session: Session, address: Address, names: frozenset[str]) -> None:
    if await partition_us(session) is None:
        return
    await session.run("widen_search_path")
    if "chunk_days" in names:
        await session.run("set_partition", days=address.options.chunk_days)
    if not (await session.first("has_columnstore"))[0]:
        return
    for name, policy in (("columnstore_days", "columnstore"), ("retention_days", "retention")):
        if name in names:
            await session.run(f"end_{policy}")
            days = getattr(address.options, name)
            if days:
                await session.run(f"begin_{policy}", days=days)


async def partition_us(session: Session) -> int | None:
    """The width of the hypertable's chunks, None where events is a plain table."""
    _, version = await session.first("is_available")
    if version is None:
        return None
    found = await session.first("partition_us")
    return None if found is None else int(found[0])
