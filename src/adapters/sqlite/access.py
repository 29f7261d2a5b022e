"""API keys as they lie in their table. Not here: what they mean (`eventcore.keys`), and the keys of names (`keys`)."""

from collections.abc import Mapping

import msgspec

from adapters.sqlite.database import Database
from eventcore.keys import ApiKey, Scope, id_taken

_decode_scopes = msgspec.json.Decoder(tuple[Scope, ...]).decode
_decode_origins = msgspec.json.Decoder(tuple[str, ...]).decode


def read_keys(database: Database) -> tuple[ApiKey, ...]:
    """See `EventStore.keys`."""
    return tuple(
        ApiKey(
            key_id=key_id,
            digest=digest,
            project=project,
            scopes=_decode_scopes(scopes),
            label=label,
            origins=_decode_origins(origins),
            created_us=created_us,
            expires_us=expires_us,
            revoked_us=revoked_us,
            last_used_us=last_used_us,
        )
        for (
            key_id, digest, project, scopes, label, origins, created_us, expires_us, revoked_us, last_used_us
        ) in database.all("api_keys")
    )  # fmt: skip


def put_key(database: Database, key: ApiKey) -> None:
    """See `EventStore.put_key`; in a transaction."""
    values = msgspec.structs.asdict(key) | {
        "scopes": msgspec.json.encode(key.scopes).decode(),
        "origins": msgspec.json.encode(key.origins).decode(),
    }
    if database.run("put_api_key", **values) == 0:
        raise id_taken()


def touch_keys(database: Database, used: Mapping[str, int]) -> None:
    """See `EventStore.touch_keys`; in a transaction."""
    database.run("touch_api_keys", used=msgspec.json.encode(used).decode())
