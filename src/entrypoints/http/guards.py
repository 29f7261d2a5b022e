"""What is refused before a route sees it: requests without a key that may do what they ask for.

This is the one place that decides: which scope a route needs, which key was shown, and whose data are meant. As long as
the store has no key at all, a server on loopback is open, and refuses only what a foreign web page could have caused:
a page of another site may point its own name at 127.0.0.1 (DNS rebinding) and then read and write here as if it were
us, but its requests carry its name in ``Host`` and ``Origin``. Not here: how keys are read and compared
(`eventcore.access`, `eventcore.keys`), and rate limits.
"""

import re
from base64 import b64decode
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Final, Literal, NamedTuple
from urllib.parse import parse_qsl

from starlette.types import Scope as AsgiScope

from entrypoints.http.exchange import exchange_of, header_values
from entrypoints.http.problems import HttpProblem
from eventcore.access import Access
from eventcore.errors import StoreError
from eventcore.keys import ApiKey, Refused, Scope, as_origin, shown_prefix

Keyless = Literal["open", "local", "closed"]
"""What is let in as long as the store has no key at all: everything, what comes from this machine, or nothing."""

Need = Scope | Literal["any"] | None
"""The scope that a request needs; ``any`` for a good key whatever its scopes, None for no key."""

_PUBLIC: Final = frozenset({"/health", "/health/live", "/health/ready", "/docs", "/openapi.json"})
_NEEDS: Final[Mapping[str, Scope]] = {
    "events": "read",
    "stats": "read",
    "metrics": "read",
    "dead-events": "admin",
    "keys": "admin",
}
"""By the first part of the path."""

_AUTHORITY = re.compile(
    r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[^\[\]:@/?#]+))(?::[0-9]{0,5})?", re.ASCII | re.IGNORECASE
)
_ORIGIN = re.compile(r"https?://(?P<authority>[^/?#]+)", re.IGNORECASE)
_UNKNOWN: Final = HttpProblem(
    503,
    "keys_unavailable",
    "the store does not answer, so it is not known which API keys are good; send the same again",
)
_AMBIGUOUS: Final = HttpProblem(400, "ambiguous_key", "two different API keys came with this request; send one")


class Guard:
    """Decides on requests; see the module.

    Args:
        access: the keys.
        keyless: what is let in as long as there are none.
    """

    def __init__(self, access: Access, keyless: Keyless) -> None:
        self._access = access
        self._keyless = keyless

    async def __call__(self, scope: AsgiScope) -> HttpProblem | None:
        """The problem of a request that must not reach the app, or None.

        Where a key is shown and good, the exchange knows it, and a request that names no project means the key's.
        """
        need = need_of(_route_path(scope), scope["method"])
        if need is None:
            return await self._let_look(scope)
        try:
            keyring = await self._access.keyring()
            if keyring.is_empty:
                return self._let_in_without(scope)
            shown = _shown(scope)
            if isinstance(shown, HttpProblem):
                return shown
            key = await self._access.find(shown.text)
        except StoreError:
            return _UNKNOWN
        if isinstance(key, Refused):
            exchange_of(scope).notes.update({"refused": key.reason} | ({"key": key.prefix} if key.prefix else {}))
            return _unauthorized(shown=True)
        exchange_of(scope).notes["key"] = key.prefix
        problem = _lacking(key, need) or _foreign_page(scope, key, by_basic=shown.by_basic) or _bind(scope, key)
        if problem is None:
            exchange_of(scope).key = key
            self._access.note_use(key)
        return problem

    async def _let_look(self, scope: AsgiScope) -> HttpProblem | None:
        """What needs no key is for everybody, but on an open server for this machine alone, like the rest of it."""
        if self._keyless != "local":
            return None
        keyring = await self._access.peek()
        return refuse_foreign(scope) if keyring is not None and keyring.is_empty else None

    def _let_in_without(self, scope: AsgiScope) -> HttpProblem | None:
        if self._keyless == "open":
            return None
        return refuse_foreign(scope) if self._keyless == "local" else _unauthorized(shown=False)


def need_of(path: str, method: str) -> Need:
    """What a request needs; what is not listed needs a key, so that a route that nobody thought of is not open."""
    path = path.rstrip("\n")  # the router's patterns end with $, which lets one newline follow
    if path in _PUBLIC:
        return None
    if path == "/events" and method == "POST":
        return "ingest"
    return _NEEDS.get(path.split("/")[1] if path.startswith("/") else "", "any")


def _route_path(scope: AsgiScope) -> str:
    """The path that routes see, also where the app is mounted below another one."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path.removeprefix(root) if root and path.startswith(root + "/") else path


class _Shown(NamedTuple):
    text: str
    by_basic: bool


def _shown(scope: AsgiScope) -> _Shown | HttpProblem:
    """The key that a request shows.

    What does not look like one counts only where nothing does: a proxy in front may ask for a password of its own,
    which stands where a key may stand.
    """
    texts = {_Shown(value.strip(), by_basic=False) for value in header_values(scope, b"x-api-key")}
    for value in header_values(scope, b"authorization"):
        scheme, _, credentials = value.strip().partition(" ")
        if scheme.lower() == "bearer":
            texts.add(_Shown(credentials.strip(), by_basic=False))
        elif scheme.lower() == "basic":
            texts.add(_Shown(_user_of(credentials), by_basic=True))
    if not texts:
        return _unauthorized(shown=False)
    texts = {shown for shown in texts if shown_prefix(shown.text)} or texts
    if len({shown.text for shown in texts}) > 1:
        return _AMBIGUOUS
    return min(texts, key=lambda shown: shown.by_basic)


def _user_of(credentials: str) -> str:
    try:
        return b64decode(credentials.strip(), validate=True).decode("latin-1").partition(":")[0]
    except ValueError:
        return ""


def _unauthorized(*, shown: bool) -> HttpProblem:
    """One answer for every key that is not let in: which of them were good once is nobody's business."""
    if shown:
        code, message = "invalid_key", "this API key is not known, or not good any more"
    else:
        code, message = "missing_key", "an API key is needed: send it as Authorization: Bearer ec_live_…, or X-Api-Key"
    challenge = 'Bearer realm="eventcore"' + (', error="invalid_token"' if shown else "")
    return HttpProblem(401, code, message, headers={"WWW-Authenticate": challenge})


def _lacking(key: ApiKey, need: Need) -> HttpProblem | None:
    if need in (None, "any", *key.scopes):
        return None
    return HttpProblem(403, "missing_scope", f"this needs a key with the scope {need}; yours has not got it")


def _foreign_page(scope: AsgiScope, key: ApiKey, *, by_basic: bool) -> HttpProblem | None:
    """Refuse pages that the key is not for.

    A browser remembers a user name and sends it along with requests that other sites cause; so a key that comes this
    way and names no origins is good on our own pages only.
    """
    for value in header_values(scope, b"origin"):
        origin = as_origin(value)
        if origin in key.origins or (not key.origins and not by_basic):
            continue
        if not key.origins and origin is not None and [origin.partition("://")[2]] == header_values(scope, b"host"):
            continue
        return HttpProblem(403, "foreign_origin", "this API key is not for pages of this Origin", field="Origin")
    return None


def _bind(scope: AsgiScope, key: ApiKey) -> HttpProblem | None:
    """Hold a request to the project of its key: every other one is refused, and none means this one, on every route."""
    query: bytes = scope["query_string"]
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True) if query else []
    named = [value for name, value in pairs if name == "project"]
    if any(project != key.project for project in named):
        return HttpProblem(403, "other_project", "this API key is for another project", field="project")
    if not named:
        scope["query_string"] = b"&".join(filter(None, (query, b"project=" + key.project.encode())))
    return None


# While there are no keys


def refuse_foreign(scope: AsgiScope) -> HttpProblem | None:
    """The problem of a request whose ``Host`` or ``Origin`` is not loopback; None for all others."""
    hosts = header_values(scope, b"host")
    if len(hosts) != 1 or not is_loopback_authority(hosts[0]):
        return _refusal("Host")
    for origin in header_values(scope, b"origin"):
        parts = _ORIGIN.fullmatch(origin)
        if parts is None or not is_loopback_authority(parts["authority"]):
            return _refusal("Origin")
    return None


def _refusal(header: str) -> HttpProblem:
    return HttpProblem(
        403,
        "foreign_" + header.lower(),
        f"without API keys the header {header} must name this machine: localhost, 127.0.0.1 or [::1]; make a key with "
        "`eventcore keys create`, or, in a network that you trust, set EVENTCORE_INSECURE=true",
        field=header,
    )


def is_loopback_authority(authority: str) -> bool:
    """Whether ``host`` or ``host:port`` names this machine."""
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None:
        return False
    return is_loopback(parts["v6"] or parts["name"])


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only mean this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
