"""Worlds that are the same in every run.

One to ask about through HTTP and the command line: `EVENTS` and `QUESTIONS`, two weeks around the night of 2026-03-29,
in which clocks in Berlin go on, seen from the day after it. And `A_NIGHT_IN_PIECES`, which chance finds too seldom.
"""

from datetime import UTC, date, datetime, timedelta
from json import dumps
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from tests.parity.questions import Question
from tests.parity.worlds import Fold, Place, Step, World

NOW = datetime(2026, 3, 30, 20, tzinfo=UTC)

_USERS = ("ada", "é", "e\u0301", "ada ", "null", "😀" * 20, "'; DROP TABLE events; --")
_TYPES = ("view", "view", "signup", "view", "order", "a,b\\", "View")
_VALUES: tuple[Any, ...] = (1, "1", 1.0, None, True, "a,b", "a\\b", [1], {"p": 1}, "", 0.5)


def _events() -> list[dict[str, Any]]:
    midnights = [datetime(2026, 3, 17 + day, tzinfo=ZoneInfo("Europe/Berlin")) for day in range(15)]
    steps = (timedelta(microseconds=-1), timedelta(0), timedelta(hours=1), timedelta(hours=9, minutes=30))
    moments = [midnight.astimezone(UTC) + step for midnight in midnights for step in steps]
    return [
        {
            "event_id": str(UUID(int=(number * 7919 % 101 << 80) | (4 << 76) | (8 << 60) | number)),
            "user_id": _USERS[number * number % 11 % len(_USERS)],
            "event_type": _TYPES[number % len(_TYPES)],
            "occurred_at": moment.isoformat(),
            "properties": {} if number % 5 == 0 else {"p": _VALUES[number % len(_VALUES)], "b.c": number % 3},
        }
        for number, moment in enumerate(moments)
    ]


EVENTS = _events()

QUESTIONS = [
    Question.from_request(request)
    for request in (
        "/stats/dau?from=2026-03-25&to=2026-03-31",
        "/stats/dau?from=2026-03-27&to=2026-04-02&tz=Europe/Berlin&segment=properties.p:1&segment=event_type!=order",
        "/stats/active-users?from=2026-03-20&to=2026-03-31&window=30d&tz=America/St_Johns&segment=properties.p exists",
        "/stats/active-users?from=2026-03-28&to=2026-03-31&breakdown=properties.p&groups=3&tz=Europe/Berlin",
        "/stats/stickiness?from=2026-03-28&to=2026-03-31&tz=Asia/Kathmandu&segment=properties.p!:null",
        "/stats/lifecycle?from=2026-03-20&to=2026-04-01&tz=Europe/Berlin",
        "/stats/lifecycle?from=2026-03-29&to=2026-04-05&interval=week&week_start=sunday&breakdown=event_type&groups=2",
        "/stats/event-counts?from=2026-03-29&to=2026-03-29&interval=hour&tz=Europe/Berlin",
        r"/stats/event-counts?from=2026-02-28&to=2026-03-29&interval=month&segment=properties.p in a\,b,1,a\\b",
        "/stats/top-events?from=2026-03-17&to=2026-03-31&by=users&limit=3&segment=event_type in view,order,View",
        "/stats/top-events?from=2026-03-17&to=2026-03-31&breakdown=properties.b.c&groups=1&tz=Australia/Lord_Howe",
        "/stats/retention?start_date=2026-03-24&windows=6&cohorts=7&tz=Europe/Berlin&cohort=recurring",
        "/stats/retention?start_date=2026-03-20&window=week&week_start=saturday&brackets=0,1,3&windows=4&cohorts=2"
        "&cohort=first_in_range&return=on_or_after&cohort_event=view&return_event=order&tz=Europe/Berlin",
        "/stats/retention?start_date=2026-03-17&windows=2&breakdown=properties.p&groups=2&segment=properties.b.c!=0",
    )
]


def as_json() -> bytes:
    """The events as the body of a request."""
    return dumps(EVENTS).encode()


def _a_night_in_pieces() -> tuple[World, list[Question]]:
    """Dates that lie in two pieces each: in St. John's, 2010-11-06 goes on after 2010-11-07 has begun."""
    events = [
        {
            "event_id": f"00000000-0000-4000-8000-00000000000{number}",
            "user_id": user_id,
            "event_type": "view",
            "occurred_at": occurred_at,
            "properties": '{"p": 1}',
        }
        for number, (user_id, occurred_at) in enumerate(
            (
                ("ada", "2010-11-07T02:30:30Z"),  # on the 7th,
                ("ada", "2010-11-07T03:00:00Z"),  # on the 6th,
                ("ada", "2010-11-07T03:30:00Z"),  # and on the 7th again
                ("bob", "2010-11-07T02:30:59.999999Z"),
                ("cyd", "2010-11-07T02:31:00Z"),
            )
        )
    ]
    return (
        World(
            place=Place("America/St_Johns", date(2010, 11, 7)),
            now=datetime(2010, 11, 7, 3, tzinfo=UTC),
            types=["view"],
            names=["p"],
            values=["1"],
            steps=[Step("mappings", events[:2], (Fold(1_000_000),)), Step("body", events[2:], ())],
        ),
        [
            Question.from_request(f"{request}&tz=America/St_Johns{more}")
            for request in (
                "/stats/lifecycle?from=2010-11-07&to=2010-11-08",
                "/stats/lifecycle?from=2010-11-07&to=2010-11-07&interval=week&week_start=sunday",
                "/stats/retention?start_date=2010-11-07&windows=1",
                "/stats/retention?start_date=2010-11-06&windows=1&cohort=first_in_range",
                "/stats/event-counts?from=2010-11-06&to=2010-11-07&interval=hour",
            )
            for more in ("", "&segment=properties.p:1", "&breakdown=event_type")
        ],
    )


A_NIGHT_IN_PIECES = _a_night_in_pieces()
