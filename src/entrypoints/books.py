"""The ingestion books as a document, the same for HTTP and for ``--format json``.

Not here: keeping the books, which the stores do.
"""

from time import perf_counter
from typing import Any

import msgspec

from eventcore.answers import parse_range
from eventcore.calendar import each_day, format_instant, to_datetime
from eventcore.events import DEFAULT_PROJECT, Book
from eventcore.service import Eventcore, check_project

DEFINITION = (
    "per UTC date on which events were received: received = accepted + duplicates + conflicts + rejected, and "
    "accepted = stored + duplicate_at_store + conflict_at_store + pending + dead. What is pending stands on the date "
    "on which the oldest of it was received."
)


async def books_document(
    core: Eventcore, *, from_: str | None, to: str | None, project: str = DEFAULT_PROJECT
) -> dict[str, Any]:
    """Read the books of a range of UTC dates, inclusive: ``{"data": [one object a date], "meta": …}``.

    Raises:
        InvalidQuestion: ``from`` or ``to`` is no date, or the range is none.
        StoreError: the store does not answer.
    """
    began = perf_counter()
    first, last = parse_range(from_, to)
    check_project(project)
    now_us = core.now_us()
    # Before the books: what is stored between the two is shown twice for a moment, rather than not at all.
    pending = await core.queue.pending(project)
    found = {book.date: book for book in await core.books(first.isoformat(), last.isoformat(), project=project)}
    books = [found.get(day.isoformat()) or Book(date=day.isoformat()) for day in each_day(first, last)]
    as_of_us = now_us if pending.since_us is None else min(now_us, pending.since_us)
    waiting_since = to_datetime(as_of_us).date().isoformat()
    return {
        "data": [
            msgspec.to_builtins(_with_pending(book, pending.events) if book.date == waiting_since else book)
            for book in books
        ],
        "meta": {
            "definition": DEFINITION,
            "timezone": "UTC",
            "from": first.isoformat(),
            "to": last.isoformat(),
            "filters": [],
            "data_as_of": format_instant(as_of_us),
            "pending": pending.events,
            "exact": True,
            "computed_from": "books",
            "took_ms": round((perf_counter() - began) * 1_000, 3),
        },
    }


def _with_pending(book: Book, events: int) -> Book:
    return msgspec.structs.replace(
        book, received=book.received + events, accepted=book.accepted + events, pending=events
    )
