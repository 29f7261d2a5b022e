"""Breakdown: one question, answered for the whole and for groups of events with the same value of a field.

The groups are the values with the most events in the range of the question; then, of a property, the events without it;
then all others. Each group is answered as if there were no other events, from the same snapshot: first `ranking`, and
with the values that `ranked` finds the query that `broken_down` makes. Not here: reading a field's name (`answers`).
"""

from collections.abc import Callable
from datetime import date
from typing import Any, Final
from zoneinfo import ZoneInfo

import msgspec

from eventcore.activity import ActivityQuery, ActivitySnapshot, Breakdown
from eventcore.answers import LIMITS, Data, Question, parse_count, parse_event_field
from eventcore.calendar import merge
from eventcore.conditions import Condition, Selection
from eventcore.errors import InvalidQuestion

DEFAULT_GROUPS: Final = 10

_OTHER_PARTS: Final = 3  # beside groups of one value: all events, those without one, and all others


class BrokenDown(msgspec.Struct, frozen=True):
    """A question with a breakdown.

    Data: ``{"all": D, "groups": [{"group", "kind", "data": D}]}``, D being the data of the question. ``kind`` is
    ``value``, and ``group`` the value as text; or ``missing``, for events without the property; or ``other``, for all
    the rest; of these two ``group`` is null, and they are listed also when they are empty.

    Attributes:
        question: what is asked of each group.
        field: ``event_type`` or ``properties.NAME``.
        groups: how many values become groups, at most.
    """

    question: Question
    field: str
    groups: int = DEFAULT_GROUPS

    @property
    def name(self) -> str:
        """That of the question."""
        return self.question.name

    @property
    def definition(self) -> str:
        """What its numbers mean."""
        return (
            f"{self.question.definition} Each group is computed from its own events alone; groups are the "
            f"{self.groups} values with the most events from the first date to the last."
        )

    @property
    def zone(self) -> ZoneInfo:
        """That of the question."""
        return self.question.zone

    @property
    def first(self) -> date:
        """That of the question."""
        return self.question.first

    @property
    def last(self) -> date:
        """That of the question."""
        return self.question.last

    @property
    def segments(self) -> Selection:
        """Those of the question."""
        return self.question.segments

    @property
    def cells(self) -> int:
        """Those of the question for each group."""
        return self.question.cells * (self.groups + _OTHER_PARTS)

    def query(self, project: str) -> ActivityQuery:
        """The question's own, for each group."""
        return msgspec.structs.replace(
            self.question.query(project), breakdown=Breakdown(field=self.field, groups=self.groups)
        )

    def compute(self, snapshot: ActivitySnapshot, now_us: int) -> Data:
        """The data of the whole and of each group."""
        kinds: list[tuple[str | None, str]] = [(value, "value") for value in snapshot.groups]
        if self.field != "event_type":
            kinds.append((None, "missing"))
        kinds.append((None, "other"))
        width = len(snapshot.selections) // (1 + len(kinds))
        whole, *parts = [
            self.question.compute(
                msgspec.structs.replace(snapshot, selections=snapshot.selections[start : start + width]), now_us
            )
            for start in range(0, len(snapshot.selections), width)
        ]
        groups: list[dict[str, Any]] = [
            {"group": value, "kind": kind, "data": data} for (value, kind), data in zip(kinds, parts, strict=True)
        ]
        return {"all": whole, "groups": groups}


def break_down(question: Question, *, breakdown: str | None = None, groups: str | int = DEFAULT_GROUPS) -> Question:
    """The question, with a breakdown if one is asked for.

    Args:
        question: what is asked.
        breakdown: ``event_type`` or ``properties.NAME``; None for none.
        groups: how many values become groups, at most.

    Raises:
        InvalidQuestion: a parameter has no answer; ``field`` names it.
    """
    number = parse_count("groups", groups, most=LIMITS.groups)
    if breakdown is None:
        return question
    broken_down = BrokenDown(question, parse_event_field("breakdown", breakdown), number)
    query = question.query("any")
    tallies = len(query.slots) * len(query.selections) * (number + _OTHER_PARTS)
    if broken_down.cells > LIMITS.group_cells or tallies > LIMITS.group_tallies:
        raise InvalidQuestion(
            "breakdown",
            "answer_too_large",
            "too many groups of too many numbers: ask for fewer groups, dates or windows",
        )
    return broken_down


def answer_in_parts(query: ActivityQuery, tally: Callable[[ActivityQuery], ActivitySnapshot]) -> ActivitySnapshot:
    """Answer a query that may have a breakdown.

    Args:
        query: the question.
        tally: answers one without, always from the same snapshot of the data.
    """
    if query.breakdown is None:
        return tally(query)
    groups = ranked(tally(ranking(query, query.breakdown)), query.breakdown)
    return msgspec.structs.replace(tally(broken_down(query, query.breakdown, groups)), groups=groups)


def ranking(query: ActivityQuery, breakdown: Breakdown) -> ActivityQuery:
    """What has to be known to choose the groups of a query."""
    return ActivityQuery(
        project=query.project,
        slots=(merge(query.slots[query.lead :]),),
        selections=query.selections[:1],
        split=breakdown.field,
    )


def ranked(snapshot: ActivitySnapshot, breakdown: Breakdown) -> tuple[str, ...]:
    """The values with the most events, most first, equal ones by code point.

    Args:
        snapshot: what answers `ranking`.
        breakdown: of the query.
    """
    [activity] = snapshot.selections
    [tally] = activity.slots
    best = sorted(tally.parts.items(), key=lambda named: (-named[1].events, named[0]))
    return tuple(value for value, _ in best[: breakdown.groups])


def broken_down(query: ActivityQuery, breakdown: Breakdown, values: tuple[str, ...]) -> ActivityQuery:
    """The query without a breakdown that answers one, given the values of its groups."""
    field = breakdown.field
    conditions = [Condition(field, (value,), "is") for value in values]
    if field != "event_type":
        conditions.append(Condition(field, (), "missing"))
    conditions.append(Condition(field, values, "is not"))
    groups = [selection.and_also(condition) for condition in conditions for selection in query.selections]
    return msgspec.structs.replace(query, selections=(*query.selections, *groups), breakdown=None)
