"""Retention: cohorts of users by local date, and who of them came back in which window.

The words. A *period* is a local day, week or month. A *cohort* is the users who belong to one period; its *window k*
is the period k periods later, so that window 0 is the cohort's own. A *cell* says how many of a cohort came back in
one window. Everything is decided by local date, never by counting seconds. Not here: what other statistics share
(`answers`), and the arithmetic of dates (`calendar`).
"""

from collections.abc import Sequence
from datetime import date, timedelta
from itertools import pairwise
from typing import Any, ClassVar, Final, Literal, Self, get_args
from zoneinfo import ZoneInfo

import msgspec
from pyroaring import BitMap

from eventcore.activity import ActivityQuery, ActivitySnapshot, SelectionActivity
from eventcore.answers import (
    LIMITS,
    WEEK_STARTS,
    WINDOWS,
    parse_choice,
    parse_count,
    parse_day,
    parse_event_type,
    parse_segments,
    parse_zone,
)
from eventcore.calendar import (
    LATEST_DATE,
    WeekStart,
    Window,
    add_periods,
    day_spans,
    days_between,
    local_date,
    merge,
    overlap_before,
    period_start,
)
from eventcore.conditions import Selection, equals
from eventcore.errors import InvalidQuestion
from eventcore.limits import ECHO_CHARS

CohortRule = Literal["first_ever", "first_in_range", "recurring"]
"""Which period a user belongs to; see `Retention`."""

ReturnRule = Literal["on", "on_or_after"]
"""What counts as having come back in a window; see `Retention`."""

COHORT_RULES: Final[tuple[CohortRule, ...]] = get_args(CohortRule)
RETURN_RULES: Final[tuple[ReturnRule, ...]] = get_args(ReturnRule)

DEFAULT_WINDOWS: Final = 3

_DAY: Final = timedelta(days=1)


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """The matrix of cohorts and windows, and a row that pools it.

    Data: ``{"cohorts": [{"start", "size", "cells": [{"window", "users", "rate", "complete"} or null, …]}],
    "overall": [{"window", "users", "size", "rate"}]}``. Each cohort has a cell for windows 0 to ``windows``: null
    where the window has not begun, ``complete`` false while it runs. ``rate`` is users / size, null where the size
    is 0. The overall row adds up users and sizes of the complete cells of each window.

    A user belongs to

    * ``first_ever``: the period that holds the earliest local date on which they have a cohort event, in all data;
      a later question with a wider range puts nobody elsewhere. By local date, not by instant: they differ only where
      clocks went back over midnight, and a later instant has the earlier date (America/St_Johns until 2010).
    * ``first_in_range``: the same, looking at the cohorts' periods only.
    * ``recurring``: every period with a cohort event of theirs.

    A user has come back

    * ``on``: in window k, with a return event in it;
    * ``on_or_after``: in window k, with a return event in it or in any later one, up to the last window asked.

    With ``brackets`` the cells are runs of windows: each begins with its number and ends before the next one, the last
    one with ``windows``; a user has come back in a bracket who has in any window of it. A cell then also says ``to``,
    its last window; it is null where its first window has not begun, and complete when its last one is.

    Return events count anywhere in window 0, also before the cohort event. A window has begun, or is complete, by
    its dates and the local date of now. Use `parse` to make one from parameters; the constructor checks nothing.

    Attributes:
        zone: whose local dates.
        first: first date of the first cohort's period.
        windows: the last window, counted from 0.
        window: the kind of period.
        week_start: the day a week begins with.
        cohorts: how many cohorts.
        cohort: which period a user belongs to.
        return_: what counts as having come back.
        cohort_event: the type of event that puts a user into a cohort, None for any.
        return_event: the type of event that counts as coming back, None for any.
        brackets: the first window of each bracket, ascending from 0; empty for a cell a window.
        segments: conditions on cohort and return events alike.
    """

    name: ClassVar[str] = "retention"

    zone: ZoneInfo
    first: date
    windows: int
    window: Window
    week_start: WeekStart
    cohorts: int
    cohort: CohortRule
    return_: ReturnRule
    cohort_event: str | None = None
    return_event: str | None = None
    brackets: tuple[int, ...] = ()
    segments: Selection = Selection()

    @classmethod
    def parse(
        cls,
        *,
        start_date: str | date | None = None,
        windows: int | str | None = None,
        window: str = "day",
        week_start: str = "monday",
        cohorts: int | str | None = None,
        cohort: str = "first_ever",
        return_: str = "on",
        cohort_event: str | None = None,
        return_event: str | None = None,
        brackets: str | Sequence[int] | None = None,
        tz: str | None = None,
        segment: Sequence[str] = (),
        reporting_zone: str = "UTC",
    ) -> Self:
        """Read the parameters of ``/stats/retention``.

        Args:
            start_date: a date in the first cohort's period; required, None raises.
            windows: windows after the cohort's own; None is 3, or with ``brackets`` the last of them.
            window: ``day``, ``week`` or ``month``.
            week_start: ``monday``, ``sunday`` or ``saturday``.
            cohorts: how many cohorts; None is one more than ``windows``.
            cohort: ``first_ever``, ``first_in_range`` or ``recurring``.
            return_: ``return``, ``on`` or ``on_or_after``.
            cohort_event: a type of event; None is any.
            return_event: a type of event; None is any.
            brackets: window numbers ascending from 0, as ``0,1,3,7``; None for a cell a window.
            tz: IANA name of the zone; None is the reporting zone.
            segment: conditions; see `eventcore.answers.parse_segments`.
            reporting_zone: the zone of statistics that name none.

        Raises:
            InvalidQuestion: a parameter has no answer; ``field`` names it.
        """
        day = parse_day("start_date", start_date)
        kind = parse_choice("window", window, WINDOWS)
        week_starts = parse_choice("week_start", week_start, WEEK_STARTS)
        starts = () if brackets is None else _parse_brackets(brackets)
        if windows is None:
            windows = starts[-1] if starts else DEFAULT_WINDOWS
        last_window = parse_count("windows", windows, most=LIMITS.windows)
        if starts and last_window < starts[-1]:
            message = f"windows is at least {starts[-1]}, the last of the brackets"
            raise InvalidQuestion("windows", "invalid_number", message)
        question = cls(
            zone=parse_zone(tz, reporting_zone),
            first=period_start(day, kind, week_starts),
            windows=last_window,
            window=kind,
            week_start=week_starts,
            cohorts=last_window + 1 if cohorts is None else parse_count("cohorts", cohorts, most=LIMITS.cohorts),
            cohort=parse_choice("cohort", cohort, COHORT_RULES),
            return_=parse_choice("return", return_, RETURN_RULES),
            cohort_event=None if cohort_event is None else parse_event_type("cohort_event", cohort_event),
            return_event=None if return_event is None else parse_event_type("return_event", return_event),
            brackets=starts,
            segments=parse_segments(segment),
        )
        question._check_range()
        return question

    def _check_range(self) -> None:
        too_late = f"the last window ends after {LATEST_DATE}: begin earlier, or ask for fewer cohorts or windows"
        try:
            last = self.last
        except ValueError as error:
            raise InvalidQuestion("start_date", "range_too_late", too_late) from error
        if last > LATEST_DATE:
            raise InvalidQuestion("start_date", "range_too_late", too_late)
        if days_between(self.first, last) > LIMITS.range_days:
            raise InvalidQuestion(
                "windows",
                "range_too_long",
                f"cohorts + windows may span at most {LIMITS.range_days} days: ask for fewer, or for shorter windows",
            )

    @property
    def last(self) -> date:
        """Last date of the last cohort's last window."""
        return add_periods(self.first, self.window, self._periods) - _DAY

    @property
    def _periods(self) -> int:
        """How many periods the cohorts and their windows lie in."""
        return self.cohorts + self.windows

    @property
    def definition(self) -> str:
        """What its numbers mean, in one sentence."""
        cohort_event, return_event = _event_words(self.cohort_event), _event_words(self.return_event)
        members = {
            "first_ever": f"whose first {cohort_event} of all time lies",
            "first_in_range": f"whose first {cohort_event} in the range of the cohorts lies",
            "recurring": f"with at least one {cohort_event}",
        }[self.cohort]
        period = f"week (from {self.week_start})" if self.window == "week" else self.window
        later = " or in any later window asked" if self.return_ == "on_or_after" else ""
        return (
            f"A cohort is the users {members} in its {period}; window k counts those of them with at least one "
            f"{return_event} in the {self.window} k {self.window}s later{later}; rate is users / size, and overall "
            "pools the complete cells; an event matches when it fulfils all filters."
        )

    @property
    def cells(self) -> int:
        """A cell for each window or bracket of each cohort."""
        return self.cohorts * len(self._cells())

    def query(self, project: str) -> ActivityQuery:
        """One slot a period; with history one more in front where dates overlap there."""
        starts = self._starts()
        days = day_spans(self.zone, self.first, self.last)
        periods = [merge(days[(start - self.first).days : (end - self.first).days]) for start, end in pairwise(starts)]
        history = self.cohort == "first_ever"
        early = overlap_before(self.zone, self.first) if history else ()
        selections = (_narrowed(self.segments, self.cohort_event), _narrowed(self.segments, self.return_event))
        return ActivityQuery(
            project=project,
            slots=(*early, *periods),
            selections=tuple(dict.fromkeys(selections)),  # one where they are equal: read once
            history=history,
            lead=len(early),
        )

    def _starts(self) -> list[date]:
        """The first date of each period, and of the one that would come next."""
        return [add_periods(self.first, self.window, number) for number in range(self._periods + 1)]

    def compute(self, snapshot: ActivitySnapshot, now_us: int) -> dict[str, Any]:
        """The matrix; ``now_us`` decides which windows have begun and which are complete."""
        starts = self._starts()
        today = local_date(now_us, self.zone)
        returned = [tally.users for tally in snapshot.selections[-1].slots[-self._periods :]]
        rows = []
        for number, members in enumerate(self._members(snapshot.selections[0])):
            counts = self._count_returned(members, returned[number : number + self.windows + 1])
            cells: list[dict[str, Any] | None] = [
                name
                | {
                    "users": users,
                    "rate": _rate(users, len(members)),
                    "complete": starts[number + name.get("to", name["window"]) + 1] <= today,
                }
                if starts[number + name["window"]] <= today
                else None
                for name, users in zip(self._cells(), counts, strict=True)
            ]
            rows.append({"start": starts[number].isoformat(), "size": len(members), "cells": cells})
        return {"cohorts": rows, "overall": [name | _pool(rows, place) for place, name in enumerate(self._cells())]}

    def _cells(self) -> list[dict[str, int]]:
        """What each cell of a cohort is called: its window, and the last one of a bracket."""
        if not self.brackets:
            return [{"window": window} for window in range(self.windows + 1)]
        return [{"window": first, "to": after - 1} for first, after in pairwise((*self.brackets, self.windows + 1))]

    def _members(self, activity: SelectionActivity) -> list[BitMap]:
        """The users of each cohort."""
        early, periods = activity.slots[: -self._periods], activity.slots[-self._periods :]
        active = [tally.users for tally in periods[: self.cohorts]]
        if self.cohort == "recurring":
            return active
        seen = BitMap(activity.before)  # empty unless history was asked for, as is `early`
        for tally in early:
            seen |= tally.users
        cohorts = []
        for users in active:
            cohorts.append(users - seen)
            seen |= users
        return cohorts

    def _count_returned(self, members: BitMap, returned: Sequence[BitMap]) -> list[int]:
        """How many members came back in each window or bracket, given who was active in each window."""
        if self.brackets:
            returned = [
                BitMap.union(*returned[first:after]) for first, after in pairwise((*self.brackets, self.windows + 1))
            ]
        if self.return_ == "on":
            return [members.intersection_cardinality(users) for users in returned]
        # From the last window back, striking out who came: what is left shrinks, and with it the work.
        counts = []
        missing = BitMap(members)
        for users in reversed(returned):
            missing -= users
            counts.append(len(members) - len(missing))
        return counts[::-1]


def _narrowed(segments: Selection, event_type: str | None) -> Selection:
    """The segments, and on the same event this type; each condition once, so that equal selections are equal."""
    if event_type is None:
        return segments
    return segments.and_also(equals("event_type", event_type))


def _event_words(event_type: str | None) -> str:
    if event_type is None:
        return "matching event"
    echo = event_type[:ECHO_CHARS] + ("…" if len(event_type) > ECHO_CHARS else "")
    return f"matching {echo!r} event"


def _rate(users: int, size: int) -> float | None:
    return users / size if size else None


def _pool(rows: Sequence[dict[str, Any]], place: int) -> dict[str, Any]:
    """Users and sizes of the complete cells of one window: large cohorts weigh more, running ones nothing."""
    complete = [row for row in rows if row["cells"][place] is not None and row["cells"][place]["complete"]]
    users = sum(row["cells"][place]["users"] for row in complete)
    size = sum(row["size"] for row in complete)
    return {"users": users, "size": size, "rate": _rate(users, size)}


def _parse_brackets(given: str | Sequence[int]) -> tuple[int, ...]:
    texts = given.split(",") if isinstance(given, str) else [str(number) for number in given]
    if texts[0] == "0" and len(texts) > 1:
        starts = (0, *(parse_count("brackets", text, most=LIMITS.windows) for text in texts[1:] if text != "0"))
        if len(starts) == len(texts) and all(one < other for one, other in pairwise(starts)):
            return starts
    raise InvalidQuestion(
        "brackets", "invalid_brackets", "brackets are window numbers that ascend from 0, such as 0,1,3,7,14,30"
    )
