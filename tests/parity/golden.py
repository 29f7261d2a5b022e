"""Golden tables: what is asked about the sample and about CDNOW, and where the oracle's answers to it are kept.

Written anew by ``python -m scripts.golden_tables``, from the oracle and never from eventcore. The sample is made of
nothing but its plan; CDNOW is no part of the project, see `cdnow_file`.
"""

import csv
import gzip
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from entrypoints.sample import SampleEvent, SamplePlan, generate
from tests.parity.questions import Question

FOLDER = Path(__file__).parents[1] / "golden"

# eventcore sample --events 5000 --users 400 --days 60 --seed 7 --start 2025-02-20 --duplicates 0.05 --late 0.1
PLAN = SamplePlan(events=5_000, users=400, days=60, seed=7, start=date(2025, 2, 20), duplicates=0.05, late=0.1)

SAMPLE_REQUESTS = (
    "/stats/dau?from=2025-02-18&to=2025-04-22",
    "/stats/dau?from=2025-03-01&to=2025-04-05&tz=Europe/Kyiv&segment=properties.country:UA",
    "/stats/dau?from=2025-03-28&to=2025-04-02&tz=Europe/Berlin&breakdown=properties.plan&groups=2",
    "/stats/active-users?from=2025-02-20&to=2025-04-05&tz=America/New_York",
    "/stats/active-users?from=2025-03-10&to=2025-04-05&window=30d&tz=Asia/Kathmandu"
    "&segment=event_type in purchase,add_to_cart",
    "/stats/active-users?from=2025-03-20&to=2025-03-27&window=1d&segment=properties.plan!=free",
    "/stats/stickiness?from=2025-03-08&to=2025-03-31&tz=America/St_Johns",
    "/stats/stickiness?from=2025-02-19&to=2025-03-05&tz=Australia/Lord_Howe&segment=properties.country exists",
    "/stats/lifecycle?from=2025-02-18&to=2025-04-19&tz=Europe/Berlin",
    "/stats/lifecycle?from=2025-02-20&to=2025-04-20&interval=week&week_start=sunday&tz=America/New_York",
    "/stats/lifecycle?from=2025-02-20&to=2025-05-01&interval=month&breakdown=properties.country&groups=3",
    "/stats/event-counts?from=2025-03-29&to=2025-03-30&interval=hour&tz=Europe/Berlin",
    "/stats/event-counts?from=2025-02-20&to=2025-04-20&interval=week&week_start=saturday&segment=event_type:page_view",
    "/stats/event-counts?from=2025-04-05&to=2025-04-06&interval=hour&tz=Australia/Lord_Howe",
    "/stats/top-events?from=2025-02-20&to=2025-04-20",
    "/stats/top-events?from=2025-03-01&to=2025-03-31&by=users&limit=3&tz=Asia/Kathmandu&segment=properties.plan:pro",
    "/stats/top-events?from=2025-03-01&to=2025-03-31&breakdown=properties.country&groups=4&tz=Europe/Kyiv",
    "/stats/retention?start_date=2025-03-30&windows=10&cohorts=14&tz=Europe/Kyiv",
    "/stats/retention?start_date=2025-02-20&window=week&windows=7&cohorts=9&week_start=sunday&return=on_or_after"
    "&return_event=purchase&tz=America/New_York",
    "/stats/retention?start_date=2025-03-20&cohorts=16&brackets=0,1,3,7,14,30&cohort=first_in_range"
    "&cohort_event=search&segment=properties.plan in free,pro",
)
CDNOW_REQUESTS = (
    "/stats/dau?from=1996-12-30&to=1997-03-31",
    "/stats/dau?from=1998-06-01&to=1998-07-02&tz=Pacific/Kiritimati&segment=properties.cds:1",
    "/stats/active-users?from=1997-02-01&to=1997-03-31&window=30d",
    "/stats/active-users?from=1997-12-20&to=1998-01-10&tz=America/Los_Angeles&segment=properties.cds!=1",
    "/stats/stickiness?from=1997-01-01&to=1997-02-28",
    "/stats/stickiness?from=1998-04-20&to=1998-05-10&tz=Asia/Kathmandu&segment=properties.cds in 2,3",
    "/stats/lifecycle?from=1997-01-01&to=1998-08-31&interval=month",
    "/stats/lifecycle?from=1997-01-01&to=1997-06-30&interval=week&week_start=sunday&tz=Pacific/Kiritimati",
    "/stats/event-counts?from=1997-01-01&to=1998-06-30&interval=month&breakdown=properties.cds&groups=2",
    "/stats/event-counts?from=1997-01-01&to=1998-06-30&interval=week",
    "/stats/top-events?from=1997-01-01&to=1998-06-30",
    "/stats/top-events?from=1997-01-01&to=1997-03-31&breakdown=properties.cds&groups=5",
    "/stats/retention?start_date=1997-01-01&window=month&windows=17&cohorts=3",
    "/stats/retention?start_date=1997-01-01&window=week&windows=10&cohorts=10&tz=America/Los_Angeles",
    "/stats/retention?start_date=1997-01-01&brackets=0,1,7,30,90&cohorts=15&return=on_or_after&segment=properties.cds:1",
)


@dataclass(frozen=True, slots=True)
class Golden:
    """Events, what is asked about them, and when."""

    name: str
    events: Callable[[], list[dict[str, Any]]]
    requests: tuple[str, ...]
    now: datetime

    @property
    def file(self) -> Path:
        """Where the answers are kept."""
        return FOLDER / f"{self.name}.json"

    def read(self) -> dict[str, Any]:
        """The answers, by request."""
        found: dict[str, Any] = json.loads(self.file.read_text(encoding="utf-8"))
        return found

    def write(self, answers: Mapping[str, Any]) -> None:
        """Keep answers, a row a line."""
        parts = [f"{json.dumps(request)}: {_in_lines(data)}" for request, data in answers.items()]
        self.file.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")

    @property
    def questions(self) -> list[tuple[str, Question]]:
        """The requests, and what they ask."""
        return [(request, Question.from_request(request)) for request in self.requests]


def _in_lines(data: Any) -> str:
    """JSON in which each row of a statistic has a line."""
    if isinstance(data, list):
        return "[\n" + ",\n".join(_in_lines(row) if "data" in row else _in_line(row) for row in data) + "]"
    members = [
        f"{json.dumps(name)}:{_in_lines(value) if _has_rows(value) else _in_line(value)}"
        for name, value in data.items()
    ]
    return "{" + ",".join(members) + "}"


def _has_rows(value: Any) -> bool:
    return isinstance(value, list | dict) and bool(value)


def _in_line(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def sample_events() -> list[dict[str, Any]]:
    """The sample, its repeats among it."""
    return [_from_row(row._asdict()) for row in generate(PLAN)]


def cdnow_file() -> Path:
    """69,659 real purchases (Fader and Hardie), where there are any.

    Put ``cdnow.csv.gz`` into a folder and name that in EVENTCORE_SHARED_DATA, or keep it in ``../shared/data`` beside
    the checkout.
    """
    beside = Path(__file__).parents[3] / "shared" / "data"
    return Path(os.environ.get("EVENTCORE_SHARED_DATA", beside)) / "cdnow.csv.gz"


def cdnow_events() -> list[dict[str, Any]]:
    """The purchases of `cdnow_file`."""
    with gzip.open(cdnow_file(), "rt", encoding="utf-8", newline="") as lines:
        return rows_of(lines)


def rows_of(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The events of a CSV that `eventcore import` takes, as the oracle takes them."""
    return [_from_row(row) for row in csv.DictReader(lines)]


def _from_row(row: Mapping[str, str]) -> dict[str, Any]:
    event: dict[str, Any] = {name: row[name] for name in SampleEvent._fields if name != "properties_json"}
    return event | {"properties": row["properties_json"]}


GOLDENS = (
    Golden("sample", sample_events, SAMPLE_REQUESTS, datetime(2025, 4, 14, 21, 30, tzinfo=UTC)),
    Golden("cdnow", cdnow_events, CDNOW_REQUESTS, datetime(1998, 6, 17, tzinfo=UTC)),
)
