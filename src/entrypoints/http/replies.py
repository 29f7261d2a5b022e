"""What routes answer with, and whom they ask.

Not here: problems (`problems`), and the shapes of answers (`models`).
"""

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from eventcore.service import Eventcore


def core_of(request: Request) -> Eventcore:
    """The open eventcore of the application."""
    core: Eventcore = request.app.state.eventcore
    return core


def json_reply(document: Any) -> Response:
    """200 with a document as JSON."""
    return Response(msgspec.json.encode(document), media_type="application/json")
