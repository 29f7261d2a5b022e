"""Asking a running server over HTTP, and what its answers mean for a command.

Not here: what is asked, and how the answer is printed (`stats`).
"""

from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import msgspec

from entrypoints.cli.exits import CommandError, Exit
from entrypoints.cli.output import printable
from eventcore.limits import ECHO_CHARS

TIMEOUT_SECONDS: Final = 60.0
"""Longer than any statistic takes; a server that hangs is as good as not reachable."""

_EXITS: Final = {
    HTTPStatus.BAD_REQUEST: Exit.USAGE,
    HTTPStatus.UNAUTHORIZED: Exit.NOT_ALLOWED,
    HTTPStatus.FORBIDDEN: Exit.NOT_ALLOWED,
    HTTPStatus.UNPROCESSABLE_ENTITY: Exit.USAGE,
    HTTPStatus.BAD_GATEWAY: Exit.UNREACHABLE,
    HTTPStatus.SERVICE_UNAVAILABLE: Exit.UNREACHABLE,
    HTTPStatus.GATEWAY_TIMEOUT: Exit.UNREACHABLE,
}
"""What a status ends the command with; any other one is a failure."""


def ask_server(url: str, path: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """GET a document from a server.

    Args:
        url: where the server is, as it announces itself.
        path: the route.
        parameters: the query; None leaves a parameter out.

    Raises:
        CommandError: the URL is none, the server is not reachable or refuses, or its answer is not one of ours.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise CommandError("--url: give the server's address, like http://127.0.0.1:8000")
    query = {name: value for name, value in parameters.items() if value is not None}
    try:
        answer = httpx.get(url.rstrip("/") + path, params=query, timeout=TIMEOUT_SECONDS)
    except httpx.TimeoutException as error:
        message = f"the server at {parts.hostname} does not answer within {TIMEOUT_SECONDS:.0f} seconds"
        raise CommandError(message, code=Exit.UNREACHABLE) from error
    except (httpx.TransportError, httpx.InvalidURL) as error:
        message = f"no server is reachable at {parts.scheme}://{printable(parts.netloc.rpartition('@')[2])}"
        raise CommandError(f"{message}; `eventcore serve` starts one", code=Exit.UNREACHABLE) from error
    if answer.status_code != HTTPStatus.OK:
        raise _refused(answer)
    try:
        document = msgspec.json.decode(answer.content)
        if isinstance(document, dict) and "data" in document:
            return document
    except msgspec.DecodeError:
        pass
    raise CommandError("what answers at --url is not eventcore", code=Exit.FAILURE)


def _refused(answer: httpx.Response) -> CommandError:
    try:
        problem = msgspec.json.decode(answer.content)
        message = printable(str(problem["message"]))
    except (msgspec.DecodeError, KeyError, TypeError):
        message = f"what answers at --url is not eventcore: {answer.reason_phrase[:ECHO_CHARS]}"
    code = _EXITS.get(HTTPStatus(answer.status_code), Exit.FAILURE) if answer.status_code < 600 else Exit.FAILURE
    return CommandError(f"{answer.status_code}: {message}", code=code)
