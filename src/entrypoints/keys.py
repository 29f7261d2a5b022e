"""API keys as documents, the same for HTTP and for ``--format json``. Never a key's text but right after its making.

Not here: what a key may do (`eventcore.keys`), and who may see which (the routes, the commands).
"""

from secrets import token_bytes
from typing import Any

import msgspec

from eventcore.calendar import format_instant
from eventcore.keys import RANDOM_BYTES, ApiKey, why_refused


def fresh_random() -> bytes:
    """What a new key is made of, from the operating system's source for secrets."""
    return token_bytes(RANDOM_BYTES)


class ShownKey(msgspec.Struct, frozen=True, kw_only=True):
    """What may be shown of a key; times are RFC 3339 in UTC.

    Attributes:
        key_id: its name, for revoking and rotating.
        prefix: how the key itself begins.
        project: the only one it reaches.
        scopes: what it may do.
        label: what it is for.
        origins: the web pages that may use it; any when empty.
        status: ``active``, ``expired`` or ``revoked``.
        created_at: when it was made.
        expires_at: from when on it is refused, or None.
        revoked_at: from when on it is refused because somebody said so, or None; may lie ahead.
        last_used_at: when it was used last, give or take a minute, or None.
    """

    key_id: str
    prefix: str
    project: str
    scopes: tuple[str, ...]
    label: str
    origins: tuple[str, ...]
    status: str
    created_at: str
    expires_at: str | None
    revoked_at: str | None
    last_used_at: str | None


def show_key(key: ApiKey, now_us: int) -> ShownKey:
    """What may be shown of a key."""
    return ShownKey(
        key_id=key.key_id,
        prefix=key.prefix,
        project=key.project,
        scopes=key.scopes,
        label=key.label,
        origins=key.origins,
        status=why_refused(key, now_us) or "active",
        created_at=format_instant(key.created_us),
        expires_at=_instant(key.expires_us),
        revoked_at=_instant(key.revoked_us),
        last_used_at=_instant(key.last_used_us),
    )


def new_key_document(text: str, key: ApiKey, now_us: int) -> dict[str, Any]:
    """A key that was just made, with its text."""
    return {"key": text, **msgspec.structs.asdict(show_key(key, now_us))}


def _instant(instant_us: int | None) -> str | None:
    return None if instant_us is None else format_instant(instant_us)
