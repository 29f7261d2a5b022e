"""Random questions: every statistic with any of its parameters, as HTTP has them.

Not here: the worlds that they are about (`worlds`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qsl

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from tests.parity.worlds import SPELLINGS, ZONES, World, text_of

STATISTICS = ("dau", "active-users", "stickiness", "lifecycle", "event-counts", "top-events", "retention")

QUESTIONS_EACH = 3

_PYTHON_NAMES = {"from": "from_", "return": "return_"}
_WEEK_STARTS = st.sampled_from(("monday", "sunday", "saturday"))


@dataclass(frozen=True, slots=True)
class Question:
    """A statistic and its parameters by their names in HTTP, all of them texts; ``segment`` is a list of texts."""

    statistic: str
    params: Mapping[str, Any]

    @classmethod
    def from_request(cls, request: str) -> "Question":
        """The question of a request, as ``GET /stats/dau?from=2026-01-01&to=2026-01-31``."""
        path, _, query = request.removeprefix("GET ").partition("?")
        params: dict[str, Any] = {"segment": []}
        for name, value in parse_qsl(query, keep_blank_values=True, strict_parsing=True):
            if name == "segment":
                params["segment"].append(value)
            elif name in params:
                raise ValueError(f"{name} stands there twice: {request}")
            else:
                params[name] = value
        return cls(path.removeprefix("/stats/"), params)

    @property
    def for_library(self) -> dict[str, Any]:
        """The parameters by their names in Python."""
        return {_PYTHON_NAMES.get(name, name): value for name, value in self.params.items()}

    @property
    def for_http(self) -> tuple[str, list[tuple[str, str]]]:
        """The path, and the query as pairs."""
        return f"/stats/{self.statistic}", self._pairs()

    @property
    def for_cli(self) -> list[str]:
        """The arguments of the command."""
        options = [f"--{name.replace('_', '-')}={value}" for name, value in self._pairs()]
        return ["stats", self.statistic, *options, "--format", "json"]

    def _pairs(self) -> list[tuple[str, str]]:
        return [
            (name, text)
            for name, value in self.params.items()
            for text in (value if isinstance(value, list) else [value])
        ]


@st.composite
def questions(draw: DrawFn, world: World) -> list[Question]:
    """A few questions about each statistic, in any order.

    Several, because five of six examples of Hypothesis are copies of the one before with little changed.
    """
    order = draw(st.permutations(STATISTICS * QUESTIONS_EACH))
    return [Question(statistic, draw(_params(world, statistic))) for statistic in order]


@st.composite
def _params(draw: DrawFn, world: World, statistic: str) -> dict[str, Any]:
    params: dict[str, Any] = {}

    def maybe(name: str, values: st.SearchStrategy[str]) -> None:
        if draw(st.booleans()):
            params[name] = draw(values)

    if statistic == "retention":
        params |= draw(_retention(world))
    else:
        if statistic in ("lifecycle", "event-counts"):
            hours = ("hour", "hour") if statistic == "event-counts" else ()
            maybe("interval", st.sampled_from(("day", "week", "month", *hours)))
            maybe("week_start", _WEEK_STARTS)
        params |= draw(_range(world, most_days=3 if params.get("interval") == "hour" else 70))
        if statistic == "active-users":
            maybe("window", st.sampled_from(("1d", "7d", "30d")))
        if statistic == "top-events":
            maybe("limit", st.sampled_from(("1", "2", "3", "50")))
            maybe("by", st.sampled_from(("events", "users")))

    tz = draw(st.sampled_from((None, world.place.tz, world.place.tz, world.place.tz, *ZONES[1:3])))
    if tz is not None:
        params["tz"] = tz
    params["segment"] = draw(st.one_of(st.just([]), st.lists(_segments(world), max_size=2)))
    if draw(st.integers(0, 2)) == 0:
        params["breakdown"] = draw(_fields(world))
        maybe("groups", st.sampled_from(("1", "2", "3", "50")))
    return params


@st.composite
def _range(draw: DrawFn, world: World, most_days: int) -> dict[str, str]:
    near = st.integers(-3, 1)
    offsets = near if most_days < 10 else st.one_of(near, near, st.integers(-40, 40))
    first = world.place.day + timedelta(days=draw(offsets))
    last = first + timedelta(days=draw(st.one_of(st.integers(0, min(5, most_days)), st.integers(0, most_days))))
    return {"from": first.isoformat(), "to": last.isoformat()}


@st.composite
def _retention(draw: DrawFn, world: World) -> dict[str, str]:
    params = {"window": draw(st.sampled_from(("day", "day", "week", "month")))}
    near, far = {"day": ((-3, -1), (-36, 5)), "week": ((-24, 0), (-40, 10)), "month": ((-40, 0), (-70, 10))}[
        params["window"]
    ]
    offset = draw(st.one_of(st.integers(*near), st.integers(*near), st.integers(*far)))
    params["start_date"] = (world.place.day + timedelta(days=offset)).isoformat()

    def maybe(name: str, values: st.SearchStrategy[Any]) -> None:
        if draw(st.booleans()):
            params[name] = str(draw(values))

    maybe("week_start", _WEEK_STARTS)
    maybe("cohorts", st.integers(1, 7))
    maybe("cohort", st.sampled_from(("first_ever", "first_in_range", "recurring")))
    maybe("return", st.sampled_from(("on", "on_or_after")))
    for name in ("cohort_event", "return_event"):
        event_type = draw(st.sampled_from((*(None,) * 8, *world.types, *world.types, "nobody does this")))
        if event_type is not None:
            params[name] = event_type
    if draw(st.integers(0, 2)) == 0:
        starts = sorted(draw(st.sets(st.integers(1, 9), min_size=1, max_size=4)))
        params["brackets"] = ",".join(str(start) for start in (0, *starts))
        maybe("windows", st.integers(starts[-1], starts[-1] + 3))
    else:
        maybe("windows", st.integers(1, 8))
    return params


def _fields(world: World) -> st.SearchStrategy[str]:
    first, *others = (f"properties.{name}" for name in world.names)
    return st.sampled_from(("event_type", first, "event_type", first, *others))


@st.composite
def _segments(draw: DrawFn, world: World) -> str:
    """A condition, of which something may be true; with every operator, in both its spellings."""
    field = draw(_fields(world))
    by_type = field == "event_type"
    there: Sequence[str] = world.types if by_type else [text_of(value) for value in world.values]
    values = st.sampled_from((*there, *there, *(("nobody does this",) if by_type else SPELLINGS)))
    operator = draw(st.sampled_from((":", "=", "!=", "!:", " in ", " in ", " exists")))
    if operator == " exists":
        return f"{field} exists"
    if operator != " in ":
        return f"{field}{operator}{draw(values)}"
    wanted = draw(st.lists(values, min_size=1, max_size=4))
    if by_type or draw(st.booleans()):
        wanted = [value.replace("\\", "\\\\").replace(",", "\\,") for value in wanted]
    return f"{field} in {','.join(wanted)}"
