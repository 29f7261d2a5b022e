"""API keys as they lie in their table. Not here: what they mean (`eventcore.keys`), and the keys of names (`keys`)."""

from collections.abc import Mapping

import msgspec

from adapters.postgres.connections import Session
from eventcore.keys import ApiKey, id_taken


async def read_keys(session: Session) -> tuple[ApiKey, ...]:
    """See `EventStore.keys`."""
    return tuple(msgspec.convert(dict(row), ApiKey) for row in await session.rows("api_keys"))


async def put_key(session: Session, key: ApiKey) -> None:
    """See `EventStore.put_key`; in a transaction."""
    if await session.first("put_api_key", **msgspec.structs.asdict(key)) is None:
        raise id_taken()


async def touch_keys(session: Session, used: Mapping[str, int]) -> None:
    """See `EventStore.touch_keys`; in a transaction."""
    key_ids = sorted(used)
    await session.run("touch_api_keys", key_ids=key_ids, used_at=[used[key_id] for key_id in key_ids])
