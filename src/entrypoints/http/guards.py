"""What is refused before a route sees it, while there are no API keys: requests a foreign web page could have caused.

A page of another site may point its own name at 127.0.0.1 (DNS rebinding) and then read and write here as
if it were us; its requests carry its name in ``Host`` and ``Origin``. So both must be loopback. Not here: keys and rate
limits.
"""

import re
from ipaddress import ip_address

from starlette.types import Scope

from entrypoints.http.exchange import header_values
from entrypoints.http.problems import HttpProblem

_AUTHORITY = re.compile(
    r"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[^\[\]:@/?#]+))(?::[0-9]{0,5})?", re.ASCII | re.IGNORECASE
)
_ORIGIN = re.compile(r"https?://(?P<authority>[^/?#]+)", re.IGNORECASE)


def refuse_foreign(scope: Scope) -> HttpProblem | None:
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
        f"without API keys the header {header} must name this machine: localhost, 127.0.0.1 or [::1]; the operator can "
        "lift this with EVENTCORE_INSECURE=true",
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
