"""Asking a running server over HTTP, and what its answers mean for a command.

Not here: what is asked, and how the answer is printed (`stats`).
"""

from contextlib import suppress
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

import httpx
import msgspec

from entrypoints.cli.exits import CommandError, Exit
from entrypoints.cli.output import printable
from entrypoints.cli.session import check_settings
from eventcore.keys import shown_prefix
from eventcore.limits import ECHO_CHARS

TIMEOUT_SECONDS: Final = 60.0
"""Longer than any statistic takes; a server that hangs is as good as not reachable."""

_EXITS: Final = {
    HTTPStatus.BAD_REQUEST: Exit.USAGE,
    HTTPStatus.UNAUTHORIZED: Exit.NOT_ALLOWED,
    HTTPStatus.FORBIDDEN: Exit.NOT_ALLOWED,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: Exit.USAGE,
    HTTPStatus.UNPROCESSABLE_ENTITY: Exit.USAGE,
    HTTPStatus.BAD_GATEWAY: Exit.UNREACHABLE,
    HTTPStatus.SERVICE_UNAVAILABLE: Exit.UNREACHABLE,
    HTTPStatus.GATEWAY_TIMEOUT: Exit.UNREACHABLE,
}
"""What a status ends the command with; any other one is a failure."""


def ask_server(url: str, path: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """GET a document from a server; arguments and errors as those of `request_server`.

    Raises:
        CommandError: also when its answer is not one of ours.
    """
    try:
        document = msgspec.json.decode(request_server(url, path, parameters))
        if isinstance(document, dict) and "data" in document:
            return document
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    raise not_ours()


def request_server(
    url: str,
    path: str,
    parameters: dict[str, Any],
    *,
    body: dict[str, Any] | None = None,
    wait_seconds: float = TIMEOUT_SECONDS,
) -> bytes:
    """What a server answers, JSON if it is one of ours.

    Args:
        url: where the server is, as it announces itself.
        path: the route.
        parameters: the query; None leaves a parameter out.
        body: what to POST; without one it is a GET.
        wait_seconds: how long the server may take to answer.

    Raises:
        CommandError: the URL is none, or the server is not reachable or refuses. Where it asks for a key, it is that
            of the settings, ``EVENTCORE_API_KEY``.
    """
    parts = _server_address(url)
    query = {name: value for name, value in parameters.items() if value is not None}
    timeout = httpx.Timeout(TIMEOUT_SECONDS, read=wait_seconds)
    method = "GET" if body is None else "POST"
    try:
        answer = httpx.request(
            method, url.rstrip("/") + path, params=query, json=body, timeout=timeout, headers=_credentials()
        )
    except httpx.TimeoutException as error:
        message = f"the server at {parts.hostname} does not answer within {wait_seconds:.0f} seconds"
        raise CommandError(message, code=Exit.UNREACHABLE) from error
    except (httpx.RemoteProtocolError, httpx.DecodingError) as error:
        raise not_ours() from error
    except (httpx.TransportError, httpx.InvalidURL) as error:
        message = f"no server is reachable at {parts.scheme}://{printable(parts.netloc.rpartition('@')[2])}"
        raise CommandError(f"{message}; `eventcore serve` starts one", code=Exit.UNREACHABLE) from error
    if answer.status_code != HTTPStatus.OK:
        raise _refused(answer)
    return answer.content


def _credentials() -> dict[str, str]:
    """The header with the key of the settings, none without one."""
    key = check_settings().api_key
    if not key:
        return {}
    if shown_prefix(key.strip()) is None:
        raise CommandError("EVENTCORE_API_KEY is not an API key; one looks like ec_live_…")
    return {"Authorization": f"Bearer {key.strip()}"}


def not_ours() -> CommandError:
    """The error of an answer that eventcore does not give."""
    return CommandError("what answers at --url is not eventcore", code=Exit.FAILURE)


def _server_address(url: str) -> SplitResult:
    with suppress(ValueError):  # an open bracket
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and not parts.query and not parts.fragment:
            return parts
    raise CommandError("--url: give the server's address, like http://127.0.0.1:8000")


def _refused(answer: httpx.Response) -> CommandError:
    try:
        problem = msgspec.json.decode(answer.content)
        message = printable(str(problem["message"]))
    except (msgspec.DecodeError, KeyError, TypeError):
        message = f"what answers at --url is not eventcore: {answer.reason_phrase[:ECHO_CHARS]}"
    code = _EXITS.get(HTTPStatus(answer.status_code), Exit.FAILURE) if answer.status_code < 600 else Exit.FAILURE
    return CommandError(f"{answer.status_code}: {message}", code=code)
