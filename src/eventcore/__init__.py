"""eventcore: event analytics that you own, exact and in milliseconds.

Send events, keep each one exactly once, ask for active users, top events and retention::

    async with await eventcore.open("sqlite:///events.sqlite3") as core:
        await core.ingest([{"event_id": …, "user_id": …, "event_type": …, "occurred_at": …}])
        answer = await core.daily_active_users("2026-01-01", "2026-01-31", tz="Europe/Kyiv")

`open_blocking` gives the same without ``await``. This package does no I/O of its own: adapters do, and are found by
the scheme of a URL.
"""

from eventcore.answers import Answer
from eventcore.blocking import BlockingEventcore, open_blocking
from eventcore.errors import BodyError, EventcoreError, InvalidQuestion, StoreError
from eventcore.events import Outcome, Problem
from eventcore.library import open
from eventcore.limits import Limits
from eventcore.service import Eventcore
from eventcore.statistics import (
    ActiveUsers,
    DailyActiveUsers,
    EventCounts,
    Lifecycle,
    Retention,
    Stickiness,
    TopEvents,
    parse_question,
)

__all__ = [
    "ActiveUsers",
    "Answer",
    "BlockingEventcore",
    "BodyError",
    "DailyActiveUsers",
    "EventCounts",
    "Eventcore",
    "EventcoreError",
    "InvalidQuestion",
    "Lifecycle",
    "Limits",
    "Outcome",
    "Problem",
    "Retention",
    "Stickiness",
    "StoreError",
    "TopEvents",
    "open",
    "open_blocking",
    "parse_question",
]
