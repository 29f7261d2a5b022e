"""The statistics that there are, by the names of their routes and commands.

Each is a class: its parameters, how they are read, which activity it needs, and how the data follow from that. A new
one is one more class here, a route and a command. Not here: what is said about an answer besides its data (`answers`).
"""

from collections.abc import Mapping
from typing import Any, Final

from eventcore.active_users import ActiveUsers, DailyActiveUsers, Stickiness
from eventcore.answers import Question
from eventcore.breakdown import DEFAULT_GROUPS, break_down
from eventcore.event_counts import EventCounts, TopEvents
from eventcore.lifecycle import Lifecycle
from eventcore.retention import Retention

__all__ = [
    "STATISTICS",
    "ActiveUsers",
    "DailyActiveUsers",
    "EventCounts",
    "Lifecycle",
    "Retention",
    "Stickiness",
    "TopEvents",
    "parse_question",
]

STATISTICS: Final[Mapping[str, Any]] = {
    statistic.name: statistic
    for statistic in (DailyActiveUsers, ActiveUsers, Stickiness, Lifecycle, EventCounts, TopEvents, Retention)
}


def parse_question(
    name: str, *, breakdown: str | None = None, groups: int | str = DEFAULT_GROUPS, **parameters: Any
) -> Question:
    """The question that a statistic's name and parameters make.

    Args:
        name: of `STATISTICS`.
        breakdown: the field to break down by, None for none.
        groups: how many values become groups.
        parameters: as the statistic's ``parse`` takes them.

    Raises:
        InvalidQuestion: a parameter has no answer; ``field`` names it.
    """
    return break_down(STATISTICS[name].parse(**parameters), breakdown=breakdown, groups=groups)
