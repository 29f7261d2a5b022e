"""The ingestion books as a document, the same for HTTP and for ``--format json``.

Not here: keeping the books, which the stores do.
"""

from typing import Any

import msgspec

from eventcore.answers import parse_range
from eventcore.calendar import each_day
from eventcore.events import DEFAULT_PROJECT, Book
from eventcore.service import Eventcore

DEFINITION = (
    "per UTC date on which events were received: received = accepted + duplicates + conflicts + rejected, and "
    "accepted = stored + duplicate_at_store + conflict_at_store + pending + dead."
)


async def books_document(
    core: Eventcore, *, from_: str | None, to: str | None, project: str = DEFAULT_PROJECT
) -> dict[str, Any]:
    """Read the books of a range of UTC dates, inclusive: ``{"data": [one object a date], "meta": …}``.

    Raises:
        InvalidQuestion: ``from`` or ``to`` is no date, or the range is none.
        StoreError: the store does not answer.
    """
    first, last = parse_range(from_, to)
    found = {book.date: book for book in await core.books(first.isoformat(), last.isoformat(), project=project)}
    days = [day.isoformat() for day in each_day(first, last)]
    return {
        "data": [msgspec.to_builtins(found.get(day) or Book(date=day)) for day in days],
        "meta": {"definition": DEFINITION, "timezone": "UTC", "from": first.isoformat(), "to": last.isoformat()},
    }
