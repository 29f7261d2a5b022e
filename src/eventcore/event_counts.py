"""Event counts: how many events there were, by type or over time, and by how many different users.

Not here: users alone (`active_users`).
"""

from collections.abc import Sequence
from datetime import date
from itertools import pairwise
from typing import Any, ClassVar, Final, Literal, Self, get_args
from zoneinfo import ZoneInfo

import msgspec

from eventcore.activity import ActivityQuery, ActivitySnapshot, Tally
from eventcore.answers import (
    LIMITS,
    WEEK_STARTS,
    parse_choice,
    parse_count,
    parse_periods,
    parse_range,
    parse_segments,
    parse_zone,
)
from eventcore.calendar import (
    Span,
    WeekStart,
    Window,
    day_spans,
    days_between,
    hour_spans,
    merge,
    period_starts,
)
from eventcore.conditions import Selection
from eventcore.errors import InvalidQuestion

Rank = Literal["events", "users"]
"""Which number ranks types of event."""

Interval = Literal["hour"] | Window
"""The periods that events are counted in."""

RANKS: Final[tuple[Rank, ...]] = get_args(Rank)
INTERVALS: Final[tuple[Interval, ...]] = ("hour", *get_args(Window))


class TopEvents(msgspec.Struct, frozen=True, kw_only=True):
    """The most frequent types of event in a range of local dates, or those with the most users.

    Data: ``[{"event_type", "count", "users", "share"}]``, the highest number first, equal ones by code point of the
    name. ``share`` is the part in all events of the range that fulfil the filters, also those beyond ``limit``. Use
    `parse` to make one from parameters; the constructor checks nothing.

    Attributes:
        zone: whose local dates.
        first: first date.
        last: last date, included.
        limit: rows at most.
        by: which number ranks them.
        segments: conditions on the events that count.
    """

    name: ClassVar[str] = "top-events"
    definition: ClassVar[str] = (
        "count: events of that type in the range that fulfil all filters; users: the distinct user_id among them; "
        "share: count / all events of the range that fulfil all filters."
    )

    zone: ZoneInfo
    first: date
    last: date
    limit: int = 10
    by: Rank = "events"
    segments: Selection = Selection()

    @classmethod
    def parse(
        cls,
        *,
        from_: str | date | None = None,
        to: str | date | None = None,
        limit: int | str = 10,
        by: str = "events",
        tz: str | None = None,
        segment: Sequence[str] = (),
        reporting_zone: str = "UTC",
    ) -> Self:
        """Read the parameters of ``/stats/top-events``.

        Args:
            from_: ``from``, first local date; required, None raises.
            to: last local date, included; required, None raises.
            limit: rows at most.
            by: ``events`` or ``users``.
            tz: IANA name of the zone; None is the reporting zone.
            segment: conditions; see `eventcore.answers.parse_segments`.
            reporting_zone: the zone of statistics that name none.

        Raises:
            InvalidQuestion: a parameter has no answer; ``field`` names it.
        """
        first, last = parse_range(from_, to)
        return cls(
            zone=parse_zone(tz, reporting_zone),
            first=first,
            last=last,
            limit=parse_count("limit", limit, most=LIMITS.rows),
            by=parse_choice("by", by, RANKS),
            segments=parse_segments(segment),
        )

    @property
    def cells(self) -> int:
        """A row a type."""
        return self.limit

    def query(self, project: str) -> ActivityQuery:
        """One slot for the whole range, split by type: a user of two days is one user."""
        return ActivityQuery(
            project=project,
            slots=(merge(day_spans(self.zone, self.first, self.last)),),
            selections=(self.segments,),
            split="event_type",
        )

    def compute(self, snapshot: ActivitySnapshot, now_us: int) -> list[dict[str, Any]]:
        """The rows; ``now_us`` does not matter."""
        [activity] = snapshot.selections
        [whole] = activity.slots

        def rank(named: tuple[str, Tally]) -> tuple[int, str]:
            # Python compares texts by code point, which is the order that is promised.
            return (-named[1].events if self.by == "events" else -len(named[1].users), named[0])

        return [
            {
                "event_type": event_type,
                "count": tally.events,
                "users": len(tally.users),
                "share": tally.events / whole.events,
            }
            for event_type, tally in sorted(whole.parts.items(), key=rank)[: self.limit]
        ]


class EventCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Events over time: how many in each local hour, day, week or month, and by how many users.

    Data: ``[{"start", "count", "users"}]``, one row a period in order, zeros included. ``start`` is the first date of
    the period; of an hour the local time of its first instant with its offset (see `eventcore.calendar.hour_spans`).
    Use `parse` to make one from parameters; the constructor checks nothing.

    Attributes:
        zone: whose local dates.
        first: first date; of the first week or month.
        last: last date, included; of the last week or month.
        interval: the kind of period.
        week_start: the day a week begins with.
        segments: conditions on the events that count.
    """

    name: ClassVar[str] = "event-counts"

    zone: ZoneInfo
    first: date
    last: date
    interval: Interval = "day"
    week_start: WeekStart = "monday"
    segments: Selection = Selection()

    @classmethod
    def parse(
        cls,
        *,
        from_: str | date | None = None,
        to: str | date | None = None,
        interval: str = "day",
        week_start: str = "monday",
        tz: str | None = None,
        segment: Sequence[str] = (),
        reporting_zone: str = "UTC",
    ) -> Self:
        """Read the parameters of ``/stats/event-counts``.

        Args:
            from_: ``from``, a date in the first period; required, None raises.
            to: a date in the last period; required, None raises.
            interval: ``hour``, ``day``, ``week`` or ``month``.
            week_start: ``monday``, ``sunday`` or ``saturday``.
            tz: IANA name of the zone; None is the reporting zone.
            segment: conditions; see `eventcore.answers.parse_segments`.
            reporting_zone: the zone of statistics that name none.

        Raises:
            InvalidQuestion: a parameter has no answer; ``field`` names it.
        """
        kind = parse_choice("interval", interval, INTERVALS)
        week_starts = parse_choice("week_start", week_start, WEEK_STARTS)
        if kind == "hour":
            first, last = parse_range(from_, to)
            if days_between(first, last) > LIMITS.hour_range_days:
                message = f"hours are counted of at most {LIMITS.hour_range_days} days: ask for fewer, or for days"
                raise InvalidQuestion("to", "range_too_long", message)
        else:
            first, last = parse_periods(from_, to, kind, week_starts)
        return cls(
            zone=parse_zone(tz, reporting_zone),
            first=first,
            last=last,
            interval=kind,
            week_start=week_starts,
            segments=parse_segments(segment),
        )

    @property
    def definition(self) -> str:
        """What its numbers mean, in one sentence."""
        return (
            f"count: events in that local {self.interval} that fulfil all filters; users: the distinct user_id among "
            "them."
        )

    @property
    def cells(self) -> int:
        """A row a period."""
        return len(self._periods())

    def query(self, project: str) -> ActivityQuery:
        """One slot a period."""
        return ActivityQuery(
            project=project, slots=tuple(span for _, span in self._periods()), selections=(self.segments,)
        )

    def _periods(self) -> list[tuple[str, Span]]:
        """What each period is called, and its instants."""
        if self.interval == "hour":
            return hour_spans(self.zone, self.first, self.last)
        days = day_spans(self.zone, self.first, self.last)
        return [
            (start.isoformat(), merge(days[(start - self.first).days : (end - self.first).days]))
            for start, end in pairwise(period_starts(self.first, self.last, self.interval))
        ]

    def compute(self, snapshot: ActivitySnapshot, now_us: int) -> list[dict[str, Any]]:
        """The rows; ``now_us`` does not matter: periods to come are listed like any other."""
        [activity] = snapshot.selections
        return [
            {"start": start, "count": tally.events, "users": len(tally.users)}
            for (start, _), tally in zip(self._periods(), activity.slots, strict=True)
        ]
