"""Lifecycle: of the users of each period, who is new, who came back, and who stayed away.

Not here: how cohorts come back over time (`retention`).
"""

from collections.abc import Sequence
from datetime import date
from itertools import pairwise
from typing import Any, ClassVar, Self
from zoneinfo import ZoneInfo

import msgspec
from pyroaring import BitMap

from eventcore.activity import ActivityQuery, ActivitySnapshot
from eventcore.answers import WEEK_STARTS, WINDOWS, parse_choice, parse_periods, parse_segments, parse_zone
from eventcore.calendar import (
    WeekStart,
    Window,
    add_periods,
    day_spans,
    local_date,
    merge,
    overlap_before,
    period_starts,
)
from eventcore.conditions import Selection


class Lifecycle(msgspec.Struct, frozen=True, kw_only=True):
    """New, returning, resurrected and dormant users of each local day, week or month.

    Data: ``[{"start", "new", "returning", "resurrected", "dormant", "complete"}]``, one row a period in order. A user
    with an event in the period is

    * ``new``: the period holds the earliest local date on which they have one, in all data;
    * ``returning``: they have one in the period right before it, too;
    * ``resurrected``: neither: they were there before, but not in the period before.

    ``dormant`` are those with an event in the period before and none in this one; it is null where the period has not
    begun. ``complete`` is false until a period is over by the local date of now. Use `parse` to make one from
    parameters; the constructor checks nothing.

    Attributes:
        zone: whose local dates.
        first: first date of the first period.
        last: last date of the last period.
        interval: the kind of period.
        week_start: the day a week begins with.
        segments: conditions on the events that count.
    """

    name: ClassVar[str] = "lifecycle"

    zone: ZoneInfo
    first: date
    last: date
    interval: Window = "day"
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
        """Read the parameters of ``/stats/lifecycle``.

        Args:
            from_: ``from``, a date in the first period; required, None raises.
            to: a date in the last period; required, None raises.
            interval: ``day``, ``week`` or ``month``.
            week_start: ``monday``, ``sunday`` or ``saturday``.
            tz: IANA name of the zone; None is the reporting zone.
            segment: conditions; see `eventcore.answers.parse_segments`.
            reporting_zone: the zone of statistics that name none.

        Raises:
            InvalidQuestion: a parameter has no answer; ``field`` names it.
        """
        kind = parse_choice("interval", interval, WINDOWS)
        week_starts = parse_choice("week_start", week_start, WEEK_STARTS)
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
            f"Of the users with an event in that local {self.interval} that fulfils all filters: new have no earlier "
            f"one, returning have one in the {self.interval} before, resurrected are the others; dormant have one in "
            f"the {self.interval} before and none in this."
        )

    @property
    def cells(self) -> int:
        """A row a period."""
        return len(period_starts(self.first, self.last, self.interval)) - 1

    def query(self, project: str) -> ActivityQuery:
        """One slot a period and one for the period before them; in front of it one more where dates overlap there."""
        before = add_periods(self.first, self.interval, -1)
        days = day_spans(self.zone, before, self.last)
        periods = [
            merge(days[(start - before).days : (end - before).days])
            for start, end in pairwise(period_starts(before, self.last, self.interval))
        ]
        early = overlap_before(self.zone, before)
        return ActivityQuery(
            project=project,
            slots=(*early, *periods),
            selections=(self.segments,),
            history=True,
            lead=len(early) + 1,
        )

    def compute(self, snapshot: ActivitySnapshot, now_us: int) -> list[dict[str, Any]]:
        """The rows; ``now_us`` decides which periods have begun and which are complete."""
        [activity] = snapshot.selections
        today = local_date(now_us, self.zone)
        starts = period_starts(self.first, self.last, self.interval)
        users = [tally.users for tally in activity.slots]
        lead = len(users) - len(starts) + 1
        previous = users[lead - 1]
        seen = BitMap.union(activity.before, *users[:lead])
        rows = []
        for (start, end), active in zip(pairwise(starts), users[lead:], strict=True):
            new = len(active) - active.intersection_cardinality(seen)
            returning = active.intersection_cardinality(previous)
            rows.append(
                {
                    "start": start.isoformat(),
                    "new": new,
                    "returning": returning,
                    "resurrected": len(active) - new - returning,
                    "dormant": previous.difference_cardinality(active) if start <= today else None,
                    "complete": end <= today,
                }
            )
            seen |= active
            previous = active
        return rows
