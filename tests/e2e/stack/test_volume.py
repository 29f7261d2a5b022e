"""Many events through the whole stack: HTTP, NATS, two workers, PostgreSQL; every one stored, every answer exact.

CDNOW is 69,659 real purchases, not part of the project: see `tests/e2e/test_real_data.py`. A million made-up events go
the same way, and their rates and memory are printed, with

    EVENTCORE_TEST_MILLION=1 python -m pytest -s tests/e2e/stack/test_volume.py -k million
"""

import csv
import gzip
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.stack.asking import Question, ask, dau, pending, retention, top_events, totals
from tests.e2e.stack.homes import Servers, ending
from tests.e2e.stack.running import Stack, until
from tests.e2e.stack.sending import Event, batches_of, request, sample

SHARED = Path(os.environ.get("EVENTCORE_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))
CDNOW = SHARED / "cdnow.csv.gz"
MILLION = 1_000_000
BATCH_EVENTS = 1_000
SENDERS = 2
DRAIN_SECONDS = 300.0

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """What sending and storing took.

    Attributes:
        told: what the answers said, added up.
        accept_seconds: from the first request to the last answer.
        store_seconds: from the first request until nothing was pending.
    """

    told: Counter[str]
    accept_seconds: float
    store_seconds: float


def send_all(url: str, bodies: Sequence[dict[str, Any]]) -> Run:
    """Send prepared requests over a few connections, each once, and wait until all their events are stored."""
    told: Counter[str] = Counter()
    waiting = iter(bodies)
    turn = threading.Lock()

    def send() -> None:
        with httpx.Client(base_url=url, timeout=60, trust_env=False, verify=False) as client:
            while True:
                with turn:
                    body = next(waiting, None)
                if body is None:
                    return
                answer = client.post("/events", **body)
                counts = answer.json() if answer.status_code == 202 else {f"status {answer.status_code}": 1}
                with turn:
                    told.update({name: count for name, count in counts.items() if name != "errors"})

    senders = [threading.Thread(target=send) for _ in range(SENDERS)]
    began = time.monotonic()
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    accepted = time.monotonic()
    until(lambda: pending(url) == 0, "nothing is pending", DRAIN_SECONDS)
    return Run(told=told, accept_seconds=accepted - began, store_seconds=time.monotonic() - began)


def bodies_of(events: Sequence[Event]) -> list[dict[str, Any]]:
    return [request(batch, "array") for batch in batches_of(events, BATCH_EVENTS)]


@contextmanager
def two_workers(stack: Stack) -> Iterator[Stack]:
    with ending(stack):
        stack.migrate()
        stack.start_workers(2)
        stack.start_api()
        yield stack


def check_books(stack: Stack, run: Run, events: int, repeats: int) -> None:
    """Stored is what was sent, once; who found a repeat out makes no difference."""
    assert {*run.told} <= {"accepted", "duplicates", "conflicts", "rejected"}, run.told
    until(lambda: totals(stack.url)["received"] >= events, "the books hold all that was received")
    books = totals(stack.url)
    assert {name: books[name] for name in run.told} == dict(run.told)
    assert (books["received"], books["stored"], books["dead"]) == (events, events - repeats, 0)
    assert books["duplicates"] + books["duplicate_at_store"] == repeats
    assert books["conflicts"] + books["conflict_at_store"] + books["rejected"] == 0


def check_answers(stack: Stack, questions: Sequence[Question], events: Sequence[Event]) -> None:
    for question in questions:
        assert ask(stack.url, question.path, question.parameters)["data"] == question.expected(events)
    stack.verify()


def cdnow() -> list[Event]:
    with gzip.open(CDNOW, "rt", newline="") as stream:
        return [
            {name: row[name] for name in ("event_id", "user_id", "event_type", "occurred_at")}
            | {"properties": json.loads(row["properties_json"])}
            for row in csv.DictReader(stream)
        ]


@pytest.mark.skipif(not CDNOW.exists(), reason="cdnow.csv.gz is missing: name its folder in EVENTCORE_SHARED_DATA")
@pytest.mark.timeout(300)
def test_cdnow_through_the_queue_is_stored_whole_and_answered_exactly(own: Servers, tmp_path: Path) -> None:
    events = cdnow()
    with two_workers(Stack(tmp_path, own.settings)) as stack:
        run = send_all(stack.url, bodies_of(events))
        assert run.told["accepted"] == 69_659
        check_books(stack, run, 69_659, 0)
        questions = (
            dau("1997-01-01", "1997-02-28"),
            dau("1998-06-01", "1998-07-05", "Pacific/Kiritimati"),
            top_events("1997-01-01", "1998-06-30", "America/Los_Angeles"),
            retention("1997-01-01", "month", 5, 4),
        )
        check_answers(stack, questions, events)
        (purchases,) = ask(stack.url, questions[2].path, questions[2].parameters)["data"]
        assert (purchases["count"], purchases["users"]) == (69_659, 23_570)


@pytest.mark.skipif(
    os.environ.get("EVENTCORE_TEST_MILLION") != "1", reason="takes minutes: set EVENTCORE_TEST_MILLION=1 to run it"
)
@pytest.mark.timeout(1_800)
def test_a_million_events_through_the_queue_are_stored_whole_and_answered_exactly(own: Servers, tmp_path: Path) -> None:
    events = sample(MILLION, users=50_000, seed=1, duplicates=0.01)
    repeats = MILLION - len({event["event_id"] for event in events})
    bodies = bodies_of(events)
    with two_workers(Stack(tmp_path, own.settings)) as stack:
        run = send_all(stack.url, bodies)
        memory = [running.peak_mib() for running in (stack.api, *stack.workers)]
        print(
            f"\naccepted {MILLION / run.accept_seconds:,.0f} events/s, stored {MILLION / run.store_seconds:,.0f} events/s;"
            f" peak memory of the API {memory[0]:.0f} MiB, of the workers {memory[1]:.0f} and {memory[2]:.0f} MiB"
        )
        check_books(stack, run, MILLION, repeats)
        questions = (
            dau("2025-03-01", "2025-03-14", "Europe/Kyiv"),
            top_events("2025-02-18", "2025-04-08"),
            retention("2025-02-20", "week", 3, 4),
        )
        check_answers(stack, questions, events)
