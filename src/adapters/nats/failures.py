"""What the driver's and the server's errors mean, in one table; the only place that knows their classes and numbers.

Nothing that a broker says is ever a reason to give up events: whatever is not in the table is its state, and sending
again is right. Messages never hold subjects, passwords, tokens or paths.
"""

import ssl

from nats import errors
from nats.js.errors import APIError, NoStreamResponseError

from adapters.nats.address import Address
from eventcore.errors import Kind, StoreError
from eventcore.limits import ECHO_CHARS

NOT_SETTLED = frozenset({"no_stream", "no_consumer", "other_stream", "too_slow"})
"""Codes of errors that may mean: what was made or checked when the connection was opened is not there any more. NATS
before 2.11 is silent where there is no consumer."""

STREAM_NOT_FOUND = 10059
CONSUMER_NOT_FOUND = 10014
MESSAGE_NOT_FOUND = 10037
STREAM_EXISTS = 10058
"""With another configuration; with the same one there is no error."""
NO_ROOM = frozenset({10002, 10023, 10028, 10047, 10122})
"""Limits of the account, of the server's memory or disk, and of the account's streams."""

_STORE_FAILED = 10077
"""The stream could not keep the message; only the text says why."""

_Meaning = tuple[Kind, str, str]

_GONE: _Meaning = (Kind.UNAVAILABLE, "disconnected", "the connection to NATS at {where} was lost; send again")
_UNREACHABLE: _Meaning = (
    Kind.UNAVAILABLE,
    "unreachable",
    "NATS at {where} cannot be reached: start it, or correct the URL",
)
_DENIED: _Meaning = (
    Kind.UNAVAILABLE,
    "access_denied",
    "NATS at {where} does not let this user in: correct the user, password, token or key of the URL, or give NATS time",
)
_NOT_ALLOWED: _Meaning = (
    Kind.UNAVAILABLE,
    "not_allowed",
    "NATS at {where} does not allow this user what eventcore needs (subjects of {stream}, $JS.API.>, $JS.ACK.>, "
    "_INBOX.>): grant it",
)
_PLAIN: _Meaning = (
    Kind.UNAVAILABLE,
    "not_encrypted",
    "NATS at {where} does not encrypt, and the URL asks for it: configure TLS there, or write nats:// without tls_",
)
_TLS: _Meaning = (
    Kind.UNAVAILABLE,
    "tls_failed",
    "NATS at {where} and this process do not trust each other: look at tls_ca, tls_cert and its names",
)
_SLOW: _Meaning = (Kind.TIMEOUT, "too_slow", "NATS at {where} did not answer in time; send again")
_BUSY: _Meaning = (Kind.UNAVAILABLE, "overloaded", "NATS at {where} has too much to do; send again")
_NO_JETSTREAM: _Meaning = (
    Kind.UNAVAILABLE,
    "no_jetstream",
    "NATS at {where} has no JetStream, or not yet: start it with JetStream enabled for this user's account, and look "
    "at its log",
)
_ELECTING: _Meaning = (Kind.UNAVAILABLE, "not_ready", "the cluster of NATS at {where} has no leader yet; send again")
_NO_STREAM: _Meaning = (
    Kind.UNAVAILABLE,
    "no_stream",
    "the stream {stream} does not answer on NATS at {where}: it is made again at the next attempt; send again",
)
_OTHER_STREAM: _Meaning = (
    Kind.UNAVAILABLE,
    "other_stream",
    "another stream than {stream} takes the subjects {prefix}.> on NATS at {where}: delete it, or name another prefix",
)
_NO_CONSUMER: _Meaning = (
    Kind.UNAVAILABLE,
    "no_consumer",
    "the stream {stream} on NATS at {where} gives no messages: its consumer is looked for or made at the next attempt",
)
_FULL: _Meaning = (
    Kind.FULL,
    "stream_full",
    "the stream {stream} on NATS at {where} is full: let workers empty it, or raise its max_bytes; then send again",
)
_DISK_FULL: _Meaning = (
    Kind.FULL,
    "disk_full",
    "NATS at {where} has no room left on its disk: make room, then send again",
)
_NO_ROOM: _Meaning = (
    Kind.FULL,
    "no_room",
    "NATS at {where} has no room for this: raise max_file_store there or the limits of the account, or lower max_bytes",
)
_TOO_LARGE: _Meaning = (
    Kind.TOO_LARGE,
    "chunk_too_large",
    "these events are too large for one message of NATS at {where}: send fewer in a batch, or raise max_payload there",
)
_UNKNOWN: _Meaning = (
    Kind.UNAVAILABLE,
    "unavailable",
    "NATS at {where} could not do this; send again, and look at its log",
)

_BY_NUMBER: dict[int, _Meaning] = {
    10005: (Kind.INVALID, "no_peers", "NATS at {where} has not as many servers as replicas in the URL: lower it"),
    10074: (Kind.INVALID, "no_peers", "NATS at {where} is no cluster: leave replicas out of the URL"),
    10008: _ELECTING,
    10009: _ELECTING,
    10039: _NO_JETSTREAM,
    10076: _NO_JETSTREAM,
    10054: _TOO_LARGE,
    10060: _OTHER_STREAM,
    10065: (
        Kind.INVALID,
        "subjects_taken",
        "another stream takes the subjects {prefix}.> on NATS at {where}: name that stream, or another prefix",
    ),
    10099: (
        Kind.INVALID,
        "other_consumer",
        "the stream {stream} on NATS at {where} has a consumer that takes messages away from eventcore's: delete it",
    ),
    10167: _BUSY,
    CONSUMER_NOT_FOUND: _NO_CONSUMER,
    STREAM_NOT_FOUND: _NO_STREAM,
    **dict.fromkeys(NO_ROOM, _NO_ROOM),
}
_BY_NUMBER[10100] = _BY_NUMBER[10099]

_BY_CLASS: tuple[tuple[type[BaseException], _Meaning], ...] = (
    (NoStreamResponseError, _NO_STREAM),
    (errors.NoRespondersError, _NO_JETSTREAM),
    (errors.MaxPayloadError, _TOO_LARGE),
    (errors.AuthorizationError, _DENIED),
    (errors.SecureConnWantedError, _PLAIN),
    (errors.OutboundBufferLimitError, _GONE),
    (errors.ConnectionClosedError, _GONE),
    (errors.StaleConnectionError, _GONE),
    (TimeoutError, _SLOW),
    (ssl.SSLError, _TLS),
    (OSError, _UNREACHABLE),
)

# What the server says before it hangs up reaches us as text alone.
_BY_TEXT: tuple[tuple[str, _Meaning], ...] = (
    ("permissions violation", _NOT_ALLOWED),
    ("authorization", _DENIED),
    ("authentication", _DENIED),
    ("maximum connections", _BUSY),
    ("maximum payload", _TOO_LARGE),
    ("tls", _TLS),
)

DRIVER_ERRORS: tuple[type[BaseException], ...] = (errors.Error, TimeoutError, OSError)
"""Everything that the driver raises on purpose."""


def meaning(error: BaseException, address: Address) -> StoreError:
    """What an error of the driver means; one that it does not raise on purpose is a broken connection too."""
    kind, code, message = found = _meaning(error)
    made = _made(address, kind, code, message)
    if isinstance(error, APIError) and error.description and found in (_UNKNOWN, _NO_CONSUMER):
        return StoreError(kind, code, f"{made.message} ({error.description[:ECHO_CHARS]})")
    return made


def disconnected(address: Address) -> StoreError:
    """The error for a call whose connection was lost under way."""
    return _made(address, *_GONE)


def closed(address: Address) -> StoreError:
    """The error for a call after `close`."""
    return _made(address, Kind.CLOSED, "queue_closed", "the queue on NATS at {where} was closed; open it again")


def too_large(address: Address, size_bytes: int, most_bytes: int) -> StoreError:
    """The error for a message that the server would not take."""
    kind, code, message = _TOO_LARGE
    return _made(address, kind, code, f"{message} ({size_bytes} bytes, max_payload is {most_bytes})")


def _made(address: Address, kind: Kind, code: str, message: str) -> StoreError:
    return StoreError(kind, code, message.format(where=address.shown, stream=address.stream, prefix=address.prefix))


def _meaning(error: BaseException) -> _Meaning:
    if isinstance(error, APIError):
        return _of_the_server(error)
    for error_class, found in _BY_CLASS:
        if isinstance(error, error_class):
            return found
    text = str(error).lower()
    return next((found for words, found in _BY_TEXT if words in text), _UNKNOWN)


def _of_the_server(error: APIError) -> _Meaning:
    if error.err_code != _STORE_FAILED:
        return _BY_NUMBER.get(error.err_code or 0, _UNKNOWN)
    text = (error.description or "").lower()
    if "no space left" in text:
        return _DISK_FULL
    return _FULL if "maximum" in text else _UNKNOWN
