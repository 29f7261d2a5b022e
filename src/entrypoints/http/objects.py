"""Small JSON objects as bodies: read under limits, strictly, for routes that are told what to do.

Not here: batches of events (`bodies`, `eventcore.decoding`), and what the members mean.
"""

from typing import Any, Final

from starlette.requests import Request

from entrypoints.http.bodies import InFlight, form_of, is_gzipped, read_body
from entrypoints.http.problems import HttpProblem
from eventcore.errors import BodyError
from eventcore.strict_json import BYTE_ORDER_MARK, Flaw, first_flaw, read_element

BODY_BYTES: Final = 128 * 1024
"""Three times what a thousand ids of dead letters take, which is the most that one request may name."""

_IN_FLIGHT_BYTES: Final = 32 * BODY_BYTES
_MOST_DEPTH: Final = 32  # two are meant; deeper ones, up to here, are told what is wrong with them
_MOST_KEYS: Final = 100  # a handful is meant


class Objects:
    """Reads such bodies, and holds only so many bytes of them at once.

    Args:
        body_timeout_seconds: how long a client may take to send one.
    """

    def __init__(self, body_timeout_seconds: float) -> None:
        self._body_timeout_seconds = body_timeout_seconds
        self._in_flight = InFlight(_IN_FLIGHT_BYTES)

    async def read(self, request: Request) -> bytes:
        """The body of a request.

        Raises:
            HttpProblem: it is not JSON by its type, too large, or too slow.
        """
        if form_of(request.scope) != "json":
            raise HttpProblem(
                415,
                "unsupported_media_type",
                "send one Content-Type: application/json",
                field="Content-Type",
                headers={"Accept-Post": "application/json"},
            )
        gzipped = is_gzipped(request.scope)
        with self._in_flight.lease() as lease:
            return await read_body(
                request.scope,
                request.receive,
                lease,
                gzipped=gzipped,
                most_bytes=BODY_BYTES,
                timeout_seconds=self._body_timeout_seconds,
            )


def parse_object(body: bytes, form: str) -> dict[str, Any]:
    """The members of a JSON object.

    Args:
        body: what came.
        form: what should have come, for messages.

    Raises:
        BodyError: it is none, or names a member twice: which of two values is meant, nobody knows.
    """
    if not body.strip():
        raise BodyError("empty_body", f"the body is empty; {form}")
    document = read_element(body.removeprefix(BYTE_ORDER_MARK))
    flaw = (
        document if isinstance(document, Flaw) else first_flaw(document, most_depth=_MOST_DEPTH, most_keys=_MOST_KEYS)
    )
    if flaw is not None and flaw.code == "duplicate_key":
        raise BodyError("duplicate_key", f"{flaw.message}; {form}")
    if flaw is not None:
        raise BodyError("invalid_json", f"the body is not JSON that is read here; {form}")
    if not isinstance(document, dict):
        raise BodyError("not_an_object", f"the body is not a JSON object; {form}")
    return document
