"""GET /events/{event_id}: was it stored, and as what?"""

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from entrypoints.http import models
from entrypoints.http.parameters import NoRepeats, Parameters
from entrypoints.http.problems import HttpProblem
from entrypoints.http.replies import core_of, json_reply
from eventcore.calendar import format_instant
from eventcore.events import StoredEvent
from eventcore.ingestion import event_id_text

router = APIRouter(tags=["events"], dependencies=[NoRepeats])


@router.get("/events/{event_id}", response_model=models.StoredEvent)
async def find(
    request: Request,
    event_id: Annotated[str, Path(description="a UUID in canonical form", examples=[models.EXAMPLE_ID])],
    asked: Annotated[Parameters, Query()],
) -> Response:
    """The stored event with this id, or 404."""
    stored = await core_of(request).find(event_id, project=asked.project)
    if stored is None:
        raise HttpProblem(404, "event_not_found", "no event with this id is stored in this project", field="event_id")
    return json_reply(_document(stored))


def _document(stored: StoredEvent) -> dict[str, Any]:
    event = stored.event
    return {
        "event_id": event_id_text(event.event_id),
        "user_id": event.user_id,
        "event_type": event.event_type,
        "occurred_at": format_instant(event.occurred_us),
        # The text as received: through floats, 0.1 and 18446744073709551615 would come back as something else.
        "properties": msgspec.Raw(event.properties.encode()),
        "received_at": format_instant(stored.received_us),
        "import_id": None if stored.import_id is None else event_id_text(stored.import_id),
    }
