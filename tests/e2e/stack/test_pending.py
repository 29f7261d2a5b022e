"""While the worker is stopped, a statistic says how many events it does not see, and since when; then it sees them."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.e2e.stack.asking import ask, check_books, dau, retention, top_events, wait_until_stored
from tests.e2e.stack.homes import QUEUED, running
from tests.e2e.stack.running import Stack
from tests.e2e.stack.sending import Sender, batches_of, sample

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

QUESTIONS = (
    dau("2025-02-18", "2025-04-08", "Europe/Kyiv"),
    top_events("2025-02-18", "2025-04-08"),
    retention("2025-02-20", "week", 4, 5),
)


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with running(replace(QUEUED, workers=1), tmp_path) as stack:
        yield stack


def test_what_a_stopped_worker_leaves_is_pending_until_it_runs_again(stack: Stack) -> None:
    sender = Sender(stack.url)
    events = sample(12_000, users=900, seed=3)
    seen, first_unseen, more_unseen = events[:1_000], events[1_000:11_000], events[11_000:]
    sender.send(seen)
    wait_until_stored(stack.url, sender.books)
    stack.workers[0].stop()
    before = datetime.now(UTC)
    for batch in batches_of(first_unseen, 1_000):
        sender.send(batch)
    after_first = datetime.now(UTC)

    freshness = set()
    for number, batch in enumerate(batches_of(more_unseen, 200)):
        for question in QUESTIONS:
            document = ask(stack.url, question.path, question.parameters)
            assert document["data"] == question.expected(seen)
            assert document["meta"]["pending"] == 10_000 + 200 * number
            freshness.add(document["meta"]["data_as_of"])
        sender.send(batch)
    assert len(freshness) == 1
    stood_at = datetime.fromisoformat(freshness.pop())
    assert before <= stood_at <= after_first

    after_all = datetime.now(UTC)
    stack.start_workers()
    wait_until_stored(stack.url, sender.books)
    for question in QUESTIONS:
        document = ask(stack.url, question.path, question.parameters)
        assert document["data"] == question.expected(events)
        assert document["meta"]["pending"] == 0
        assert datetime.fromisoformat(document["meta"]["data_as_of"]) > after_all
    check_books(stack.url, "default", sender.books["default"])
    stack.verify()
    sender.close()
