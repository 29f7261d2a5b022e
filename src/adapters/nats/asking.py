"""Questions to JetStream's API: JSON there and back, as the server has it.

Not the driver's own classes: these drop what they do not know, and a setting that this code does not know is one that
must not be changed when a stream is updated. Not here: what is asked.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from nats.js.errors import APIError

from adapters.nats.link import UNBOUNDED_SECONDS, Connection

_API = "$JS.API"


async def ask(connection: Connection, subject: str, question: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The answer to one request, within the bound of the caller.

    Args:
        connection: where to.
        subject: of the request, without ``$JS.API.``.
        question: its body.

    Raises:
        APIError: the server's, with its number.
        nats.errors.Error: the driver's.
    """
    body = b"" if question is None else msgspec.json.encode(question)
    message = await connection.request(f"{_API}.{subject}", body, timeout=UNBOUNDED_SECONDS)
    answer: dict[str, Any] = msgspec.json.decode(message.data)
    if (error := answer.get("error")) is not None:
        raise APIError(error.get("code"), error.get("description"), error.get("err_code"))
    return answer
