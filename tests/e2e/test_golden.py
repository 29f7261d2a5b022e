"""Golden tables: eventcore answers today what the oracle answered when they were written; see `tests.parity.golden`."""

import json
from pathlib import Path

import pytest

import eventcore
from eventcore.limits import Limits
from tests.oracles.answering import answer
from tests.parity.golden import CDNOW_REQUESTS, FOLDER, GOLDENS, SAMPLE_REQUESTS, Golden, cdnow_file
from tests.parity.questions import STATISTICS, Question
from tests.parity.worlds import DAY_US, EPOCH, MICROSECOND

pytestmark = pytest.mark.e2e

SAMPLE = GOLDENS[0]
WHERE = [
    pytest.param(
        golden,
        id=golden.name,
        marks=pytest.mark.skipif(
            golden.name == "cdnow" and not cdnow_file().exists(),
            reason="cdnow.csv.gz is missing: name its folder in EVENTCORE_SHARED_DATA",
        ),
    )
    for golden in GOLDENS
]


@pytest.mark.parametrize("store", ["memory", "sqlite"])
@pytest.mark.parametrize("golden", WHERE)
async def test_eventcore_answers_the_golden_tables(golden: Golden, store: str, tmp_path: Path) -> None:
    url = "memory://" if store == "memory" else f"sqlite:///{tmp_path}/store.sqlite3"
    limits = Limits(future_us=200 * DAY_US)  # the tables are seen from a moment before the last events
    wanted = golden.read()
    assert list(wanted) == list(golden.requests)
    async with await eventcore.open(url, limits=limits) as core:
        core._clock_us = lambda: (golden.now - EPOCH) // MICROSECOND
        events = golden.events()
        outcome = await core.ingest({**event, "properties": json.loads(event["properties"])} for event in events)
        assert outcome.accepted == len({event["event_id"] for event in events})
        for request, question in golden.questions:
            found = await core.ask_for(question.statistic, **question.for_library)
            assert found.data == wanted[request], request


def test_the_oracle_still_answers_them() -> None:
    """So that nobody mends a table by hand; of CDNOW it would take long."""
    events, wanted = SAMPLE.events(), SAMPLE.read()
    for request, question in SAMPLE.questions:
        assert answer(events, question.statistic, question.params, SAMPLE.now) == wanted[request], request


@pytest.mark.parametrize("requests", [SAMPLE_REQUESTS, CDNOW_REQUESTS], ids=["sample", "cdnow"])
def test_every_statistic_is_among_them_more_than_once(requests: tuple[str, ...]) -> None:
    asked = [Question.from_request(request).statistic for request in requests]
    assert all(asked.count(statistic) >= 2 for statistic in STATISTICS)


def test_they_are_small() -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) <= 100_000
