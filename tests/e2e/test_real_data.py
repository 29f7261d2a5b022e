"""Real and lifelike data from a file to an answer, compared to the last user with the oracle.

CDNOW is 69,659 real purchases (Fader and Hardie). It is not part of the project: put `cdnow.csv.gz` into a folder and
name that in EVENTCORE_SHARED_DATA, or keep it in `../shared/data` beside the checkout.
"""

import csv
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

import eventcore
from entrypoints.sample import SamplePlan, generate
from tests.oracles import statistics as oracle

EVENTCORE = str(Path(sys.executable).with_name("eventcore"))
SHARED = Path(os.environ.get("EVENTCORE_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
CDNOW = SHARED / "cdnow.csv.gz"
HEADER = ["event_id", "occurred_at", "user_id", "event_type", "properties_json"]
ZONES = [
    "UTC",
    "Europe/Kyiv",
    "America/New_York",
    "America/St_Johns",
    "America/Santiago",
    "Asia/Kathmandu",
    "Asia/Tehran",
    "Australia/Lord_Howe",
    "Pacific/Chatham",
    "Pacific/Kiritimati",
]
FIRST, LAST = date(2025, 3, 1), date(2025, 4, 30)
NOW = datetime(2025, 5, 4, 13, tzinfo=UTC)

pytestmark = pytest.mark.e2e

needs_cdnow = pytest.mark.skipif(
    not CDNOW.exists(), reason="cdnow.csv.gz is missing: name its folder in EVENTCORE_SHARED_DATA"
)


def run(store: Path, *arguments: str) -> Any:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EVENTCORE_")}
    done = subprocess.run(
        [EVENTCORE, *arguments, "--format", "json"],
        env=kept | {"EVENTCORE_STORE_URL": f"sqlite:///{store}"},
        capture_output=True,
        check=True,
        timeout=120,
    )
    return json.loads(done.stdout)


def read_csv(lines: Iterator[str]) -> list[dict[str, Any]]:
    return [
        {name: row[name] for name in HEADER[:4]} | {"properties": json.loads(row["properties_json"])}
        for row in csv.DictReader(lines)
    ]


@pytest.fixture(scope="module")
def cdnow_events() -> list[dict[str, Any]]:
    with gzip.open(CDNOW, "rt", newline="") as stream:
        return read_csv(stream)


@pytest.fixture(scope="module")
def cdnow_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cdnow") / "events.sqlite3"


@needs_cdnow
def test_cdnow_is_stored_once_whatever_is_repeated(cdnow_store: Path, cdnow_events: list[dict[str, Any]]) -> None:
    first = run(cdnow_store, "import", str(CDNOW))
    assert first == {"rows": 69_659, "accepted": 69_659, "duplicates": 0, "conflicts": 0, "rejected": 0}
    before = run(cdnow_store, "stats", "top-events", "--from", "1997-01-01", "--to", "1998-06-30")["data"]
    again = run(cdnow_store, "import", str(CDNOW))
    assert again == {"rows": 69_659, "accepted": 0, "duplicates": 69_659, "conflicts": 0, "rejected": 0}
    after = run(cdnow_store, "stats", "top-events", "--from", "1997-01-01", "--to", "1998-06-30")["data"]
    assert before == after
    assert after == oracle.top_events(cdnow_events, first=date(1997, 1, 1), last=date(1998, 6, 30), tz="UTC")
    assert (after[0]["count"], after[0]["users"]) == (69_659, 23_570)


@needs_cdnow
@pytest.mark.parametrize("tz", ["UTC", "America/Los_Angeles", "Pacific/Kiritimati"])
def test_cdnow_daily_active_users_equal_the_oracle(
    cdnow_store: Path, cdnow_events: list[dict[str, Any]], tz: str
) -> None:
    run(cdnow_store, "import", str(CDNOW))
    found = run(cdnow_store, "stats", "dau", "--from", "1996-12-25", "--to", "1998-07-05", "--tz", tz)
    assert found["data"] == oracle.dau(cdnow_events, first=date(1996, 12, 25), last=date(1998, 7, 5), tz=tz)
    assert sum(row["users"] for row in found["data"]) > 60_000


@needs_cdnow
@pytest.mark.parametrize(
    ("window", "windows", "cohorts"), [("day", 15, 90), ("week", 12, 12), ("month", 17, 3), ("month", 5, 18)]
)
def test_cdnow_retention_equals_the_oracle(
    cdnow_store: Path, cdnow_events: list[dict[str, Any]], window: str, windows: int, cohorts: int
) -> None:
    run(cdnow_store, "import", str(CDNOW))
    options = ["--start-date", "1997-01-01", "--window", window, "--windows", str(windows), "--cohorts", str(cohorts)]
    found = run(cdnow_store, "stats", "retention", *options)["data"]
    expected = oracle.retention(
        cdnow_events,
        start_date=date(1997, 1, 1),
        window=window,
        windows=windows,
        cohorts=cohorts,
        tz="UTC",
        now=datetime.now(UTC),
    )
    assert found == expected
    assert sum(cohort["size"] for cohort in found["cohorts"]) > 20_000


def lifelike_rows() -> list[list[str]]:
    """A sample of six types, and pairs of events on both sides of local midnights around every change of clocks."""
    plan = SamplePlan(events=6_000, users=700, days=75, seed=11, start=date(2025, 2, 20), duplicates=0.05, late=0.1)
    rows = [list(event) for event in generate(plan)]
    number = 0
    for zone in ZONES:
        for day in range(-3, 66):
            midnight = datetime(2025, 3, 1, tzinfo=ZoneInfo(zone)) + timedelta(days=day)
            for shift in (timedelta(microseconds=-1), timedelta(0), timedelta(hours=1), timedelta(hours=-1)):
                number += 1
                rows.append(
                    [
                        str(UUID(int=(number << 80) | (4 << 76) | (8 << 60))),
                        (midnight.astimezone(UTC) + shift).isoformat(),
                        f"night-{number % 37}",
                        ("page_view", "purchase", "search")[number % 3],
                        json.dumps({"country": ("UA", "NP", "CL")[number % 3], "n": number % 4}),
                    ]
                )
    return rows


@pytest.fixture(scope="module")
def lifelike(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("lifelike")
    with (folder / "sample.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([HEADER, *lifelike_rows()])
    summary = run(folder / "events.sqlite3", "import", str(folder / "sample.csv"))
    assert summary["rejected"] == summary["conflicts"] == 0
    with (folder / "sample.csv").open(newline="") as stream:
        events = read_csv(stream)
    assert len({event["event_type"] for event in events}) >= 5
    return folder / "events.sqlite3", events


@pytest.mark.timeout(300)
@pytest.mark.parametrize("tz", ZONES)
async def test_every_statistic_equals_the_oracle_in_ten_zones(
    lifelike: tuple[Path, list[dict[str, Any]]], tz: str
) -> None:
    store, events = lifelike
    now_us = int(NOW.timestamp()) * 1_000_000
    async with await eventcore.open(f"sqlite:///{store}") as core:
        core._clock_us = lambda: now_us
        for segment in ([], ["event_type:purchase"], ["properties.country:UA", "event_type=page_view"]):
            dau = await core.daily_active_users(str(FIRST), str(LAST), tz=tz, segment=segment)
            assert dau.data == oracle.dau(events, first=FIRST, last=LAST, tz=tz, segments=segment)
            top = await core.top_events(str(FIRST), str(LAST), tz=tz, segment=segment)
            assert top.data == oracle.top_events(events, first=FIRST, last=LAST, tz=tz, segments=segment)
        for window, windows, cohort, returns, cohort_event, return_event in (
            ("day", 15, "first_ever", "on", None, None),
            ("day", 5, "recurring", "on_or_after", "search", "purchase"),
            ("week", 7, "first_ever", "on_or_after", None, "purchase"),
            ("week", 3, "first_in_range", "on", "page_view", None),
            ("month", 2, "first_ever", "on", "purchase", None),
        ):
            found = await core.retention(
                "2025-03-05",
                window=window,
                windows=windows,
                cohort=cohort,
                return_=returns,
                cohort_event=cohort_event,
                return_event=return_event,
                tz=tz,
                week_start="sunday",
            )
            assert found.data == oracle.retention(
                events,
                start_date=date(2025, 3, 5),
                window=window,
                windows=windows,
                cohort=cohort,
                return_mode=returns,
                cohort_event=cohort_event,
                return_event=return_event,
                tz=tz,
                week_start="sunday",
                now=NOW,
            )
