"""One request and its answer, as the frame around the app and the routes inside it both see it."""

from typing import Any

import msgspec
from starlette.types import Scope

from eventcore.keys import ApiKey

_KEY = "eventcore.exchange"


class Exchange(msgspec.Struct, kw_only=True):
    """What is known about a request while it is answered.

    Attributes:
        request_id: the client's, or one made here.
        notes: what the log line says besides; routes add to it.
        key: the API key that let it in, None where none is needed.
    """

    request_id: str
    notes: dict[str, Any] = {}
    key: ApiKey | None = None


class ClientGone(Exception):
    """The client closed the connection before its request was whole; there is nobody to answer."""


def open_exchange(scope: Scope, request_id: str) -> Exchange:
    """Begin the exchange of this request."""
    exchange = Exchange(request_id=request_id)
    scope[_KEY] = exchange
    return exchange


def exchange_of(scope: Scope) -> Exchange:
    """The exchange that the frame began."""
    exchange: Exchange = scope[_KEY]
    return exchange


def header_values(scope: Scope, name: bytes) -> list[str]:
    """All values of a header, in order; ``name`` in lower case. Bytes beyond ASCII stay apart, as Latin-1."""
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]
