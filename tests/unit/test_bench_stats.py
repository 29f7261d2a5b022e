"""``eventcore bench stats`` and ``bench mixed``: the SQL they compare with, what they refuse, and what they verify."""

import asyncio
import json
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from adapters.sqlite.writer import Writer
from entrypoints import bench_mixed, bench_stats
from entrypoints.bench_load import LoadReport
from entrypoints.bench_mixed import MixedPlan, measure_mixed, mixed_summary
from entrypoints.bench_processes import NotVerified
from entrypoints.bench_questions import LAST, fixed_shift_us, questions
from entrypoints.bench_rivals import Rival, load_duckdb, make_database, open_duckdb, open_rows
from entrypoints.bench_stats import StatsPlan, flat_rows, measure_stats, summary
from entrypoints.bench_stores import Unfit, withhold_folds, write_rows
from entrypoints.sample import SamplePlan, generate
from eventcore.library import open as open_eventcore
from eventcore.registry import MIGRATIONS, find_adapter
from tests.support.servers import needed, shared

ZONE = "Asia/Kathmandu"
NAMES = [asked.name for asked in questions(ZONE)]


@pytest.fixture(scope="module")
def sample() -> SamplePlan:
    """Older than what is asked about, with more types than a breakdown has groups."""
    return SamplePlan(
        events=4_000, users=300, days=120, seed=2, start=LAST - timedelta(days=119), event_types=14, id_version=4
    )


async def _fill(url: str, sample: SamplePlan) -> None:
    async with await open_eventcore(url) as core:
        rows = [row._asdict() for row in generate(sample)]
        bodies = [{name: row[name] for name in ("event_id", "occurred_at", "user_id", "event_type")} for row in rows]
        for body, row in zip(bodies, rows, strict=True):
            body["properties"] = json.loads(row["properties_json"])
        assert (await core.ingest(bodies)).accepted == sample.events


@pytest.fixture(params=["sqlite", "postgresql"])
async def store_url(request: pytest.FixtureRequest, tmp_path: Path, sample: SamplePlan) -> str:
    url = f"sqlite:///{tmp_path / 'store.sqlite3'}"
    if request.param == "postgresql":
        with needed("postgres"):
            server = shared("postgres")
        url = await _in_thread(lambda: make_database(server.url, f"bench_{tmp_path.name}"[:60].lower()))
        await find_adapter(MIGRATIONS, url)(url)
    await _fill(url, sample)
    return url


async def _in_thread(work: Callable[[], Any]) -> Any:
    return await asyncio.to_thread(work)


async def test_sql_on_the_raw_rows_says_what_the_core_says(store_url: str) -> None:
    async with await open_eventcore(store_url) as core:
        expected = {one.name: (await core.ask_for(one.statistic, **one.arguments)).data for one in questions(ZONE)}
    assert await _in_thread(lambda: _in_sql(store_url)) == expected
    assert any(group["kind"] == "other" and sum(row["users"] for row in group["data"]) for group in _groups(expected))


def _groups(answers: dict[str, Any]) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = answers["dau by type"]["groups"]
    return groups


def _in_sql(url: str) -> dict[str, Any]:
    with open_rows(url, ZONE) as rows:
        return _all_answers(rows)


def _all_answers(rival: Rival) -> dict[str, Any]:
    return {one.name: one.in_sql(rival.run) for one in questions(ZONE)}


async def test_duckdb_says_what_the_core_says(tmp_path: Path, sample: SamplePlan) -> None:
    pytest.importorskip("duckdb")
    write_rows(tmp_path / "rows.csv", generate(sample))
    load_duckdb(tmp_path / "events.duckdb", [tmp_path / "rows.csv"], sample.events)
    await _fill("sqlite:///" + str(tmp_path / "store.sqlite3"), sample)
    with open_duckdb(tmp_path / "events.duckdb", ZONE) as duck:
        found = _all_answers(duck)
    assert found == await _in_thread(lambda: _in_sql("sqlite:///" + str(tmp_path / "store.sqlite3")))


def test_a_zone_whose_clocks_change_is_none_that_sqlite_knows() -> None:
    assert fixed_shift_us(ZONE, LAST, LAST) == 20_700_000_000
    assert fixed_shift_us("Europe/Berlin", LAST - timedelta(days=9), LAST) is None


@pytest.fixture
def few_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each cold question starts a process."""
    chosen = [one for one in questions(ZONE) if one.name in ("dau, other zone", "top events", "dau with a property")]
    monkeypatch.setattr(bench_stats, "questions", lambda zone: chosen)


A_PLAN = StatsPlan(events=3_000, runs=1)


@pytest.mark.e2e
@pytest.mark.usefixtures("few_questions")
def test_all_ways_are_timed_and_equal_and_events_stay_unfolded(tmp_path: Path) -> None:
    plan = replace(A_PLAN, waiting=700, folder=tmp_path)
    document = summary(plan, measure_stats(plan))
    assert [question["question"] for question in document["questions"]] == [
        "dau, other zone",
        "top events",
        "dau with a property",
    ]
    assert {question["computed_from"] for question in document["questions"]} == {"activity", "events"}
    assert document["waiting_events"] == 700
    assert document["projection_bytes_per_event"] > 1
    row = flat_rows(document)[1]
    assert row["http_cold_asked"] == 1
    assert min(row[f"{way}_median_ms"] for way in ("http_cold", "http_warm", "http_in_turn", "direct", "sql")) > 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.e2e
@pytest.mark.usefixtures("few_questions")
def test_a_kept_store_is_used_again_and_for_no_other_sample(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    plan = replace(A_PLAN, keep=kept, folder=tmp_path)
    first = measure_stats(plan)
    assert measure_stats(plan).import_events_per_second == first.import_events_per_second
    with pytest.raises(Unfit, match="another sample"):
        measure_stats(replace(plan, events=2_000))
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "letter.txt").write_text("mine")
    with pytest.raises(Unfit, match="something else"):
        measure_stats(replace(plan, keep=tmp_path / "else"))


@pytest.mark.e2e
def test_a_different_answer_gives_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [dau, *_] = questions(ZONE)
    wrong = replace(dau, in_sql=lambda run: [{"date": "2025-01-01", "users": 1}])
    monkeypatch.setattr(bench_stats, "questions", lambda zone: [wrong])
    with pytest.raises(NotVerified, match="dau: sqlite"):
        measure_stats(replace(A_PLAN, folder=tmp_path))


def test_more_unfolded_events_than_events_are_no_plan() -> None:
    with pytest.raises(ValueError, match="unfolded"):
        measure_stats(replace(A_PLAN, waiting=3_000))


async def test_withheld_folds_leave_the_delta_also_at_the_end(tmp_path: Path, sample: SamplePlan) -> None:
    path = tmp_path / "store.sqlite3"
    with withhold_folds():
        await _fill(f"sqlite:///{path}", sample)
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT sum(length(users)) / 4 FROM activity_delta").fetchone() == (sample.events,)
        assert connection.execute("SELECT count(*) FROM activity_bitmaps").fetchone() == (0,)
    connection.close()
    assert Writer._fold_when_due.__module__ == "adapters.sqlite.writer"


@pytest.mark.e2e
def test_mixed_checks_each_answer_while_events_stream_in(tmp_path: Path) -> None:
    plan = MixedPlan(events=20_000, batch=200, clients=2, rate=50, runs=1, folder=tmp_path)
    document = mixed_summary(plan, measure_mixed(plan))
    [run] = document["runs"]
    assert run["answers"] > 0
    assert run["asked_events_per_second"] > 100
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def streamed() -> tuple[LoadReport, list[bench_mixed._Request]]:
    """Two requests of a hundred events: one acknowledged at 2.0, one sent at 3.0."""
    plan = MixedPlan(events=200, batch=100)
    spans = [(1.0, 2.0), (3.0, 4.0)]
    report = LoadReport(seconds=3, accepted=200, duplicates=0, sent_again=0, median_ms=1, slow_ms=1, spans=spans)
    return report, list(bench_mixed._requests(plan))


@pytest.mark.parametrize(
    ("as_of", "came_at", "requests", "complaint"),
    [
        (2.5, 2.6, 1, None),
        (2.5, 3.5, 1, None),  # the second one is under way: both are right
        (2.5, 3.5, 2, None),
        (2.5, 2.6, 0, "acknowledged before its data_as_of"),
        (2.5, 2.6, 2, "were sent"),
        (4.5, 4.6, 1, "acknowledged before its data_as_of"),
    ],
)
def test_an_answer_has_what_was_acknowledged_and_nothing_that_was_not_sent(
    streamed: tuple[LoadReport, list[bench_mixed._Request]],
    as_of: float,
    came_at: float,
    requests: int,
    complaint: str | None,
) -> None:
    report, sent = streamed
    events = sum((one.days for one in sent[:requests]), start=type(sent[0].days)())
    data = [{"start": day, "count": events[day], "users": 0} for one in sent for day in one.days]
    for row in data:
        row["users"] = len({user for one in sent[:requests] for day, user in one.users if day == row["start"]})
    answer = bench_mixed._Answer(name="event counts, days", data=data, as_of=as_of, came_at=came_at, took_ms=1)
    if complaint is None:
        bench_mixed._check([answer], report, sent)
        return
    with pytest.raises(NotVerified, match=complaint):
        bench_mixed._check([answer], report, sent)
