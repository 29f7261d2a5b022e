"""API keys: their text, what they allow, and which one a request has shown.

A key is ``ec_live_<id>_<secret>``: the id is public and finds the key, the secret is 160 random bits. Only the SHA-256
of the whole text is kept. A slow hash is for passwords, which can be guessed; nobody guesses 160 bits (ADR 26). Not
here: where keys are kept (`eventcore.ports`), how fresh a process's list of them is (`eventcore.access`), and which
route needs what.
"""

import re
from base64 import b32encode
from collections.abc import Iterable, Sequence
from hashlib import sha256
from hmac import compare_digest
from typing import Final, Literal, get_args

import msgspec

from eventcore.errors import EventcoreError, Kind, StoreError
from eventcore.limits import ECHO_CHARS

Scope = Literal["ingest", "read", "admin"]
"""``ingest`` sends events, ``read`` asks, ``admin`` sees and mends dead letters and gives keys; none holds another."""

SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)

PREFIX: Final = "ec_live_"
"""How every key begins, so that people and secret scanners know one when they see it."""

ID_BYTES: Final = 5
SECRET_BYTES: Final = 20
RANDOM_BYTES: Final = ID_BYTES + SECRET_BYTES
"""What `make_key` needs: multiples of five, which base32 writes without padding."""

LABEL_CHARS: Final = 100
MOST_ORIGINS: Final = 20
MOST_DAYS: Final = 36_500
MOST_GRACE_SECONDS: Final = 30 * 86_400
"""A grace is for changing a secret in every place that has it; a month is a long deployment."""

_KEY: Final = re.compile(r"ec_live_([a-z2-7]{8})_[a-z2-7]{32}", re.ASCII)
_ID: Final = re.compile(r"(?:ec_live_)?([a-z2-7]{8})(?:_[a-z2-7]{32})?", re.ASCII)
_ORIGIN: Final = re.compile(r"https?://(?:[a-z0-9_.-]{1,253}|\[[0-9a-f:.]{2,45}\])(?::[0-9]{1,5})?", re.ASCII)
_DEFAULT_PORT: Final = re.compile(r"^(http://.*):80$|^(https://.*):443$")
_NO_DIGEST: Final = bytes(32)


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a key; never its text.

    Attributes:
        key_id: the 8 characters behind ``ec_live_``; unique in a store.
        digest: SHA-256 of the whole text.
        project: the only one it reaches.
        scopes: what it may do, in the order of `SCOPES`.
        label: what it is for, in its maker's words.
        origins: the web pages that may use it; empty for any.
        created_us: when it was made.
        expires_us: from when on it is refused, None for never.
        revoked_us: from when on it is refused because somebody said so; may lie ahead, after a rotation with grace.
        last_used_us: when it was last used, give or take a minute; None for never.
    """

    key_id: str
    digest: bytes
    project: str
    scopes: tuple[Scope, ...]
    label: str = ""
    origins: tuple[str, ...] = ()
    created_us: int
    expires_us: int | None = None
    revoked_us: int | None = None
    last_used_us: int | None = None

    @property
    def prefix(self) -> str:
        """The part of it that anybody may see."""
        return PREFIX + self.key_id


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """Why a text is no key that is let in; for the log, never for the sender.

    Attributes:
        reason: why.
        prefix: what may be shown of the text, None where it does not look like a key at all.
    """

    reason: Literal["malformed", "unknown", "expired", "revoked"]
    prefix: str | None = None


def make_key(
    random_bytes: bytes,
    *,
    project: str,
    scopes: Sequence[Scope],
    now_us: int,
    label: str = "",
    origins: Sequence[str] = (),
    expires_us: int | None = None,
) -> tuple[str, ApiKey]:
    """A new key: its text, to be shown once, and what is kept of it.

    Args:
        random_bytes: `RANDOM_BYTES` of them, from a source fit for secrets.
        project: as all that follow see `ApiKey`; the ``parse_`` functions here read what people write.
        scopes: what it may do.
        now_us: the time.
        label: what it is for.
        origins: the web pages that may use it.
        expires_us: from when on it is refused.
    """
    assert len(random_bytes) == RANDOM_BYTES, "a short secret can be guessed"
    key_id, secret = _base32(random_bytes[:ID_BYTES]), _base32(random_bytes[ID_BYTES:])
    text = f"{PREFIX}{key_id}_{secret}"
    return text, ApiKey(
        key_id=key_id,
        digest=_digest(text),
        project=project,
        scopes=tuple(scope for scope in SCOPES if scope in scopes),
        label=label,
        origins=tuple(origins),
        created_us=now_us,
        expires_us=expires_us,
    )


def _base32(some: bytes) -> str:
    return b32encode(some).decode().lower()


def _digest(text: str) -> bytes:
    return sha256(text.encode()).digest()


def shown_prefix(text: str) -> str | None:
    """What may be shown of a text that looks like a key; None for any other text."""
    found = _KEY.fullmatch(text)
    return None if found is None else PREFIX + found[1]


def why_refused(key: ApiKey, now_us: int) -> Literal["expired", "revoked"] | None:
    """Why a key of ours is not let in at this time; None when it is."""
    if key.revoked_us is not None and now_us >= key.revoked_us:
        return "revoked"
    if key.expires_us is not None and now_us >= key.expires_us:
        return "expired"
    return None


class Keyring:
    """All keys of a store, as they were at one moment.

    Args:
        keys: them.
    """

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None:
        self._keys = {key.key_id: key for key in keys}

    @property
    def is_empty(self) -> bool:
        """Whether no key was ever made; revoked and expired ones count, so revoking the last one opens nothing."""
        return not self._keys

    def find(self, text: str, now_us: int) -> ApiKey | Refused:
        """The key with this text, if it is let in at this time.

        The digests are compared in constant time, and the state of a key is looked at only for who knows its secret.
        """
        found = _KEY.fullmatch(text)
        if found is None:
            return Refused(reason="malformed")
        key = self._keys.get(found[1])
        is_right = compare_digest(_digest(text), _NO_DIGEST if key is None else key.digest)
        if key is None or not is_right:
            return Refused(reason="unknown", prefix=PREFIX + found[1])
        reason = why_refused(key, now_us)
        return key if reason is None else Refused(reason=reason, prefix=key.prefix)


def id_taken() -> StoreError:
    """What a store raises for a key whose id another one has, once in 2^40 tries for each key that is there."""
    return StoreError(Kind.DATA, "key_id_taken", "another key has this id; make a new one")


# Reading what people write


def parse_key_id(text: str) -> str:
    """The id in an id, a prefix or a whole key.

    Raises:
        EventcoreError: there is none.
    """
    found = _ID.fullmatch(text.strip())
    if found is None:
        # What was given may be a mistyped key: it is not repeated.
        raise EventcoreError(
            Kind.INVALID,
            "invalid_key_id",
            f"a key's id has 8 characters of a-z and 2-7, alone or behind {PREFIX}; the list of keys shows it",
            field="key_id",
        )
    return found[1]


def parse_scopes(names: Iterable[str]) -> tuple[Scope, ...]:
    """Scopes by their names, each once, in the order of `SCOPES`.

    Raises:
        EventcoreError: a name is none of a scope, or there is none.
    """
    wanted = [name.strip() for name in names]
    for name in wanted:
        if name not in SCOPES:
            message = f"{name[:ECHO_CHARS]!r} is no scope; there are {', '.join(SCOPES)}"
            raise EventcoreError(Kind.INVALID, "invalid_scope", message, field="scopes")
    if not wanted:
        message = f"name at least one scope of {', '.join(SCOPES)}"
        raise EventcoreError(Kind.INVALID, "invalid_scope", message, field="scopes")
    return tuple(scope for scope in SCOPES if scope in wanted)


def parse_origins(origins: Iterable[str]) -> tuple[str, ...]:
    """Origins of web pages as browsers write them, each once.

    Raises:
        EventcoreError: one is none, or there are too many.
    """
    found = tuple(dict.fromkeys(map(_parse_origin, origins)))
    if len(found) > MOST_ORIGINS:
        message = f"a key has at most {MOST_ORIGINS} origins"
        raise EventcoreError(Kind.TOO_LARGE, "too_many_origins", message, field="origins")
    return found


def _parse_origin(origin: str) -> str:
    found = as_origin(origin)
    if found is None:
        raise EventcoreError(
            Kind.INVALID,
            "invalid_origin",
            f"{origin[:ECHO_CHARS]!r} is no origin; write it as browsers do: https://shop.example, without a path",
            field="origins",
        )
    return found


def as_origin(text: str) -> str | None:
    """An origin as browsers write it: in lower case, without the port that goes without saying; None for other text."""
    origin = text.strip().lower()
    if _ORIGIN.fullmatch(origin) is None:
        return None
    found = _DEFAULT_PORT.match(origin)
    return origin if found is None else found[1] or found[2]


def parse_label(label: str) -> str:
    """What a key is for.

    Raises:
        EventcoreError: it is too long, or holds what no terminal should see.
    """
    if len(label) > LABEL_CHARS or not label.isprintable():
        message = f"a label has at most {LABEL_CHARS} characters, all of them printable"
        raise EventcoreError(Kind.INVALID, "invalid_label", message, field="label")
    return label


def parse_days(days: int, now_us: int) -> int:
    """When a key expires that is to be good for so many days.

    Raises:
        EventcoreError: there are none, or too many to mean anything.
    """
    return now_us + _within("expires_days", days, 1, MOST_DAYS) * 86_400_000_000


def parse_grace(seconds: int, now_us: int) -> int:
    """When a rotated key ends that is to be good for so many seconds more.

    Raises:
        EventcoreError: the number is negative, or longer than any change takes.
    """
    return now_us + _within("grace_seconds", seconds, 0, MOST_GRACE_SECONDS) * 1_000_000


def _within(name: str, number: int, least: int, most: int) -> int:
    if not least <= number <= most:
        message = f"{name} is a whole number from {least} to {most:,}"
        raise EventcoreError(Kind.INVALID, f"invalid_{name}", message, field=name)
    return number
