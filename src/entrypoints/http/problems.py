"""Errors over HTTP: every one an RFC 9457 problem with ``code``, ``message`` and ``request_id`` beside its members.

The one table from the core's kinds of error to statuses is `STATUS`. Nothing here repeats what was sent, beyond the
64 characters that the core allows itself. Not here: which error happens when.
"""

import difflib
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any, Final

import msgspec
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from entrypoints.http.exchange import exchange_of
from eventcore.errors import BodyError, EventcoreError, Kind
from eventcore.limits import ECHO_CHARS

STATUS: Final[Mapping[Kind, int]] = {
    Kind.INVALID: 422,
    Kind.TOO_LARGE: 413,
    Kind.UNSUPPORTED: 415,
    Kind.UNAVAILABLE: 503,
    Kind.FULL: 503,
    Kind.TIMEOUT: 503,
    Kind.DATA: 422,
    Kind.SCHEMA: 503,
    Kind.CLOSED: 503,
}
"""What each kind of error is answered with; a body that is no batch at all is 400 instead of 422."""

RETRY_SECONDS: Final = 1
"""Sent as Retry-After with every 503: a full queue or a busy store is usually over by then."""

MEDIA_TYPE: Final = "application/problem+json"

_FRAMEWORK_CODES: Final = {404: "not_found", 405: "method_not_allowed"}
_FRAMEWORK_MESSAGES: Final = {
    404: "there is nothing at this path; GET /docs, where it is switched on, lists what there is",
    405: "this path does not take this method; the header Allow lists those it does",
}


class HttpProblem(Exception):
    """A request that HTTP itself refuses, before or beside the core.

    Attributes:
        status: the status code.
        code: a stable lower-case name.
        message: what is wrong, and the way out.
        field: the parameter or header at fault, where there is one.
        headers: further headers of the answer.
        extra: further members of the problem.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.field = field
        self.headers = dict(headers or {})
        self.extra = dict(extra or {})


def problem_body(problem: HttpProblem, request_id: str) -> bytes:
    """The JSON of a problem."""
    members: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.message,
        "code": problem.code,
        "message": problem.message,
        "request_id": request_id,
    }
    if problem.field is not None:
        members["field"] = problem.field
    return msgspec.json.encode(members | problem.extra)


def problem_response(problem: HttpProblem, request_id: str) -> Response:
    """The answer to a request that ends as this problem."""
    headers = dict(problem.headers)
    if problem.status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers.setdefault("Retry-After", str(RETRY_SECONDS))
    return Response(problem_body(problem, request_id), problem.status, headers, media_type=MEDIA_TYPE)


def from_core(error: EventcoreError) -> HttpProblem:
    """Turn an error of the core into a problem."""
    status = STATUS[error.kind]
    extra: dict[str, Any] = {}
    if isinstance(error, BodyError):
        if error.kind is Kind.INVALID:
            status = 400
        if error.offset is not None:
            extra["offset"] = error.offset
    return HttpProblem(status, error.code, error.message, field=error.field, extra=extra)


def _from_framework(error: HTTPException) -> HttpProblem:
    code = _FRAMEWORK_CODES.get(error.status_code, "http_error")
    message = _FRAMEWORK_MESSAGES.get(error.status_code, HTTPStatus(error.status_code).phrase)
    return HttpProblem(error.status_code, code, message, headers=error.headers)


def _from_validation(error: RequestValidationError, known: Iterable[str]) -> HttpProblem:
    # A misspelled name is both unknown and missing; the unknown one says more.
    found = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    name = str(found["loc"][-1])
    if found["type"] == "extra_forbidden":
        return unknown_parameter(name, known)
    if found["type"] == "missing":
        return HttpProblem(422, "missing_parameter", f"the parameter {name} is missing", field=name)
    return HttpProblem(422, "invalid_parameter", f"{name}: {found['msg']}", field=name[:ECHO_CHARS])


def unknown_parameter(name: str, known: Iterable[str]) -> HttpProblem:
    """The problem of a query parameter that nobody knows; names the closest ones that are known."""
    names = list(known)
    shown = name[:ECHO_CHARS]
    close = difflib.get_close_matches(shown, names, n=2)
    way_out = f"did you mean {' or '.join(map(repr, close))}?" if close else f"known are {', '.join(names)}"
    return HttpProblem(422, "unknown_parameter", f"{shown!r} is not a parameter here; {way_out}", field=shown)


def _known_parameters(request: Request) -> list[str]:
    path = getattr(request.scope.get("route"), "path", "")
    operation = request.app.openapi()["paths"].get(path, {}).get(request.method.lower(), {})
    return [parameter["name"] for parameter in operation.get("parameters", ()) if parameter["in"] == "query"]


def answer_error(request: Request, error: Exception) -> Response:
    """Answer any error that has a place in the contract; what has none is raised on."""
    problem = _problem_of(request, error)
    exchange = exchange_of(request.scope)
    exchange.notes["code"] = problem.code
    return problem_response(problem, exchange.request_id)


def _problem_of(request: Request, error: Exception) -> HttpProblem:
    if isinstance(error, HttpProblem):
        return error
    if isinstance(error, EventcoreError):
        return from_core(error)
    if isinstance(error, RequestValidationError):
        return _from_validation(error, _known_parameters(request))
    if isinstance(error, HTTPException):
        return _from_framework(error)
    raise error


ANSWERED: Final = (HttpProblem, EventcoreError, RequestValidationError, HTTPException)
"""The errors that `answer_error` answers."""
