"""Active users: how many different users there were on a date, or on the dates up to it.

Users are counted in unions of sets, never by adding counts up. Not here: what became of them (`lifecycle`,
`retention`).
"""

from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from itertools import accumulate
from operator import or_
from typing import Any, ClassVar, Final, Self
from zoneinfo import ZoneInfo

import msgspec
from pyroaring import BitMap

from eventcore.activity import ActivityQuery, ActivitySnapshot
from eventcore.answers import parse_choice, parse_range, parse_segments, parse_zone
from eventcore.calendar import day_spans, days_between, each_day
from eventcore.conditions import Selection

WINDOW_DAYS: Final = {"1d": 1, "7d": 7, "30d": 30}
"""The windows of rolling active users, in local dates."""

_MONTH_DAYS: Final = WINDOW_DAYS["30d"]


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

    @property
    def cells(self) -> int:
        """A row a date."""
        return days_between(self.first, self.last)

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


class ActiveUsers(msgspec.Struct, frozen=True, kw_only=True):
    """Distinct users of the local dates that end with each date of a range: of 7 dates weekly, of 30 monthly ones.

    Data: ``[{"date", "users"}]``, one row a date in order. Dates that the zone skipped are dates like others. Use
    `parse` to make one from parameters; the constructor checks nothing.

    Attributes:
        zone: whose local dates.
        first: first date.
        last: last date, included.
        days: how many dates are looked at for each, itself included.
        segments: conditions on the events that count.
    """

    name: ClassVar[str] = "active-users"

    zone: ZoneInfo
    first: date
    last: date
    days: int = WINDOW_DAYS["7d"]
    segments: Selection = Selection()

    @classmethod
    def parse(
        cls,
        *,
        from_: str | date | None = None,
        to: str | date | None = None,
        window: str = "7d",
        tz: str | None = None,
        segment: Sequence[str] = (),
        reporting_zone: str = "UTC",
    ) -> Self:
        """Read the parameters of ``/stats/active-users``.

        Args:
            from_: ``from``, first local date; required, None raises.
            to: last local date, included; required, None raises.
            window: ``1d``, ``7d`` or ``30d``.
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
            days=WINDOW_DAYS[parse_choice("window", window, list(WINDOW_DAYS))],
            segments=parse_segments(segment),
        )

    @property
    def definition(self) -> str:
        """What its numbers mean, in one sentence."""
        return (
            f"users: distinct user_id with at least one event on that local date or the {self.days - 1} before it that "
            "fulfils all filters."
        )

    @property
    def cells(self) -> int:
        """A row a date."""
        return days_between(self.first, self.last)

    def query(self, project: str) -> ActivityQuery:
        """One slot a date, those before the first one in front."""
        return _rolling_query(self, project, self.days)

    def compute(self, snapshot: ActivitySnapshot, now_us: int) -> list[dict[str, Any]]:
        """The rows; ``now_us`` does not matter."""
        [activity] = snapshot.selections
        counts = _rolling_counts([tally.users for tally in activity.slots], self.days)
        return [
            {"date": day.isoformat(), "users": users}
            for day, users in zip(each_day(self.first, self.last), counts, strict=True)
        ]


class Stickiness(msgspec.Struct, frozen=True, kw_only=True):
    """How many of the users of a month come on a day: daily active users by those of the 30 dates that end with it.

    Data: ``[{"date", "dau", "mau", "stickiness"}]``, one row a date in order; ``stickiness`` is dau / mau, null where
    mau is 0. Use `parse` to make one from parameters; the constructor checks nothing.

    Attributes:
        zone: whose local dates.
        first: first date.
        last: last date, included.
        segments: conditions on the events that count.
    """

    name: ClassVar[str] = "stickiness"
    definition: ClassVar[str] = (
        "dau: distinct user_id with at least one event on that local date that fulfils all filters; mau: the same for "
        "the 30 local dates that end with it; stickiness: dau / mau."
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
        """Read the parameters of ``/stats/stickiness``; arguments and errors as those of `DailyActiveUsers.parse`."""
        first, last = parse_range(from_, to)
        return cls(zone=parse_zone(tz, reporting_zone), first=first, last=last, segments=parse_segments(segment))

    @property
    def cells(self) -> int:
        """A row a date."""
        return days_between(self.first, self.last)

    def query(self, project: str) -> ActivityQuery:
        """One slot a date, the 29 before the first one in front."""
        return _rolling_query(self, project, _MONTH_DAYS)

    def compute(self, snapshot: ActivitySnapshot, now_us: int) -> list[dict[str, Any]]:
        """The rows; ``now_us`` does not matter."""
        [activity] = snapshot.selections
        users = [tally.users for tally in activity.slots]
        rows = []
        for number, (day, mau) in enumerate(
            zip(each_day(self.first, self.last), _rolling_counts(users, _MONTH_DAYS), strict=True)
        ):
            dau = len(users[number + _MONTH_DAYS - 1])
            rows.append({"date": day.isoformat(), "dau": dau, "mau": mau, "stickiness": dau / mau if mau else None})
        return rows


def _rolling_query(question: ActiveUsers | Stickiness, project: str, days: int) -> ActivityQuery:
    return ActivityQuery(
        project=project,
        slots=tuple(day_spans(question.zone, question.first - timedelta(days=days - 1), question.last)),
        selections=(question.segments,),
        lead=days - 1,
    )


def _rolling_counts(users: Sequence[BitMap], days: int) -> Iterator[int]:
    """How many there are in each run of so many neighbours.

    Each run lies in two blocks of that length, or is one: what it has of the first is a union from its end back, what
    it has of the second one from its beginning on. So all runs together cost two unions a day, however long they are.
    """
    blocks = [users[start : start + days] for start in range(0, len(users), days)]
    ends = [list(accumulate(reversed(block), or_))[::-1] for block in blocks]
    beginnings = [list(accumulate(block, or_)) for block in blocks]
    for start in range(len(users) - days + 1):
        block, place = divmod(start, days)
        if place == 0:
            yield len(ends[block][0])
        else:
            yield ends[block][place].union_cardinality(beginnings[block + 1][place - 1])
