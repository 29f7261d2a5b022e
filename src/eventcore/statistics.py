"""Statistics over a range of local dates: daily active users and top events; and the list of all there are.

Each is a class: its parameters, how they are read, which activity it needs, and how the data follow from that. Users
are counted in unions of sets, never by adding counts up. Not here: cohorts (`retention`), and what is said about an
answer besides its data (`answers`).
"""

from collections.abc import Sequence
from datetime import date
from typing import Any, ClassVar, Self
from zoneinfo import ZoneInfo

import msgspec

from eventcore.activity import ActivityQuery, ActivitySnapshot
from eventcore.answers import LIMITS, parse_count, parse_range, parse_segments, parse_zone
from eventcore.calendar import day_spans, each_day, merge
from eventcore.conditions import Selection


class DailyActiveUsers(msgspec.Struct, frozen=True, kw_only=True):
    """Distinct users of every local date of a range.

    Data: ``[{"date", "users"}]``, one row a date in order, with 0 for dates without events, also for a date that the
    zone skipped. Use `parse` to make one from parameters; the constructor checks nothing.

    Attributes:
        zone: whose local dates.
        first: first date.
        last: last date, included.
        segments: conditions on the events that count.
    """

    name: ClassVar[str] = "dau"
    definition: ClassVar[str] = (
        "users: distinct user_id with at least one event on that local date that fulfils all filters."
    )

    zone: ZoneInfo
    first: date
    last: date
    segments: Selection = Selection()

    @classmethod
    def parse(
        cls,
        *,
        from_: str | date | None = None,
        to: str | date | None = None,
        tz: str | None = None,
        segment: Sequence[str] = (),
        reporting_zone: str = "UTC",
    ) -> Self:
        """Read the parameters of ``/stats/dau``.

        Args:
            from_: ``from``, first local date; required, None raises.
            to: last local date, included; required, None raises.
            tz: IANA name of the zone; None is the reporting zone.
            segment: conditions; see `eventcore.answers.parse_segments`.
            reporting_zone: the zone of statistics that name none.

        Raises:
            InvalidQuestion: a parameter has no answer; ``field`` names it.
        """
        first, last = parse_range(from_, to)
        return cls(zone=parse_zone(tz, reporting_zone), first=first, last=last, segments=parse_segments(segment))

    def query(self, project: str) -> ActivityQuery:
        """One slot a date."""
        return ActivityQuery(
            project=project,
            slots=tuple(day_spans(self.zone, self.first, self.last)),
            selections=(self.segments,),
        )

    def compute(self, snapshot: ActivitySnapshot, now_us: int) -> list[dict[str, Any]]:
        """The rows; ``now_us`` does not matter: dates to come are listed like any other."""
        [activity] = snapshot.selections
        return [
            {"date": day.isoformat(), "users": len(tally.users)}
            for day, tally in zip(each_day(self.first, self.last), activity.slots, strict=True)
        ]


class TopEvents(msgspec.Struct, frozen=True, kw_only=True):
    """The most frequent types of event in a range of local dates.

    Data: ``[{"event_type", "count", "users", "share"}]``, the highest count first, equal counts by code point of the
    name. ``share`` is the part in all events of the range that fulfil the filters, also those beyond ``limit``. Use
    `parse` to make one from parameters; the constructor checks nothing.

    Attributes:
        zone: whose local dates.
        first: first date.
        last: last date, included.
        limit: rows at most.
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
    segments: Selection = Selection()

    @classmethod
    def parse(
        cls,
        *,
        from_: str | date | None = None,
        to: str | date | None = None,
        limit: int | str = 10,
        tz: str | None = None,
        segment: Sequence[str] = (),
        reporting_zone: str = "UTC",
    ) -> Self:
        """Read the parameters of ``/stats/top-events``.

        Args:
            from_: ``from``, first local date; required, None raises.
            to: last local date, included; required, None raises.
            limit: rows at most.
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
            segments=parse_segments(segment),
        )

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
        # Python compares texts by code point, which is the order that is promised.
        ranked = sorted(whole.parts.items(), key=lambda named: (-named[1].events, named[0]))
        return [
            {
                "event_type": event_type,
                "count": tally.events,
                "users": len(tally.users),
                "share": tally.events / whole.events,
            }
            for event_type, tally in ranked[: self.limit]
        ]
