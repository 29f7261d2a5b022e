"""Parity: whatever was sent, and whatever happened to the store, every question is answered as the oracle answers it.

The oracle goes through the plain events one by one and imports nothing of eventcore. Each example is a project of its
own in one store. ``EVENTCORE_TEST_PARITY=2000`` asks for so many examples instead of those that CI has time for.
"""

import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from datetime import datetime
from itertools import count
from json import dumps, loads
from pathlib import Path
from typing import Any

import httpx
import pytest
import time_machine
from hypothesis import HealthCheck, Phase, example, given, note, settings
from hypothesis import strategies as st

import eventcore
from adapters.inline import open_queue
from adapters.memory import open_dedup
from entrypoints.cli.main import app, run
from entrypoints.container import open_eventcore
from entrypoints.http.app import create_app
from entrypoints.settings import Settings
from eventcore.contract import StoreBackend
from eventcore.errors import StoreError
from eventcore.limits import Limits
from eventcore.registry import STORES
from eventcore.service import Eventcore
from tests.contract.backends import rows
from tests.oracles.answering import answer
from tests.parity.example import A_NIGHT_IN_PIECES, EVENTS, NOW, QUESTIONS, as_json
from tests.parity.questions import Question, questions
from tests.parity.worlds import (
    DAY_US,
    EPOCH,
    MICROSECOND,
    Declare,
    Event,
    Fold,
    Step,
    World,
    as_body,
    as_mapping,
    worlds,
)

ROOT = Path(__file__).parents[2]
EXAMPLES = int(os.environ.get("EVENTCORE_TEST_PARITY", "0"))
SLOWER = ("postgres", "timescaledb")
SECONDS_AN_EXAMPLE = 2  # far above what one takes


def some(examples: int) -> Any:
    """Settings of so many examples, unless another number is asked for."""
    return settings(
        deadline=None,
        max_examples=EXAMPLES or examples,
        phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],  # Phase.explain takes minutes here
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,  # one store for all examples: each is a project of its own
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
        ],
    )


def stores(chosen: Callable[[str], bool]) -> Any:
    """Take the backends with these names, of all that there are."""
    taken = [row for row in rows(STORES) if chosen(row.name)]
    return pytest.mark.parametrize("store_backend", taken, ids=[row.name for row in taken], indirect=True)


# A failure may take five minutes, until Hypothesis has found its smallest example.
in_time = pytest.mark.timeout(max(600, EXAMPLES * SECONDS_AN_EXAMPLE))


class Running:
    """A store that outlives its restarts, and eventcore in front of it."""

    def __init__(self, backend: StoreBackend) -> None:
        self._backend = backend
        self._numbers = count(1)
        self.now = EPOCH

    async def open(self) -> None:
        store = await self._backend.open("here")
        self.core = Eventcore(
            store=store,
            cache=await open_dedup("memory://"),
            queue=await open_queue("inline://", store=store),
            clock_us=lambda: (self.now - EPOCH) // MICROSECOND,
            elapsed_us=lambda: 0,
            new_id=lambda: next(self._numbers).to_bytes(16, "big"),
            limits=Limits(future_us=200 * DAY_US),  # `now` may lie before all that was sent
        )

    async def reopen(self) -> None:
        if self._backend.durable:
            await self.core.close()
            await self.open()

    async def take(self, step: Step, project: str) -> None:
        if step.route == "body":
            outcome = await self.core.ingest_body(as_body(step.events), project=project)
        else:
            outcome = await self.core.ingest([as_mapping(event, step.route) for event in step.events], project=project)
        assert outcome.rejected == 0, outcome.errors
        for happening in step.then:
            if isinstance(happening, Fold):
                await self.core.store.fold(happening.most_events)
            elif isinstance(happening, Declare):
                await self._declare(project, happening.name)
            else:
                await self.reopen()

    async def _declare(self, project: str, name: str) -> None:
        try:
            async with aclosing(self.core.store.add_dimension(project, name)) as steps:
                async for _ in steps:
                    pass
        except StoreError as error:
            if error.code != "dimension_full":  # it has a value that is too long
                raise

    def a_project(self) -> str:
        return f"parity-{next(self._numbers)}"


@pytest.fixture
async def running(store_backend: StoreBackend) -> AsyncIterator[Running]:
    running = Running(store_backend)
    await running.open()
    yield running
    await running.core.close()


def assert_same(found: Any, sent: list[Event], question: Question, now: datetime) -> None:
    """Equal, and of equal types: 1 is not 1.0 here."""
    expected = answer(sent, question.statistic, question.params, now)
    if dumps(found, sort_keys=True) != dumps(expected, sort_keys=True):
        note(f"{question}")
        note(f"events: {dumps(sent, indent=1, ensure_ascii=False)}")
    assert found == expected
    assert dumps(found, sort_keys=True) == dumps(expected, sort_keys=True)


async def check(running: Running, world: World, asked: list[Question]) -> None:
    """Ask one question after each batch, and all of them at the end."""
    project = running.a_project()
    running.now = world.now
    sent: list[Event] = []

    async def ask(question: Question) -> None:
        found = await running.core.ask_for(question.statistic, project=project, **question.for_library)
        assert_same(found.data, sent, question, world.now)

    for number, step in enumerate(world.steps):
        await running.take(step, project)
        sent += step.sent
        await ask(asked[number % len(asked)])
    for question in asked:
        await ask(question)


_WORLDS_AND_QUESTIONS = worlds().flatmap(lambda world: st.tuples(st.just(world), questions(world)))


@in_time
@stores(lambda name: name not in SLOWER)
@given(_WORLDS_AND_QUESTIONS)
@example(A_NIGHT_IN_PIECES)
@some(50)
async def test_every_question_is_answered_as_the_oracle_does(
    running: Running, asked: tuple[World, list[Question]]
) -> None:
    await check(running, *asked)


@in_time
@stores(lambda name: name == "postgres")
@given(_WORLDS_AND_QUESTIONS)
@example(A_NIGHT_IN_PIECES)
@some(15)
async def test_postgres_answers_every_question_as_the_oracle_does(
    running: Running, asked: tuple[World, list[Question]]
) -> None:
    await check(running, *asked)


@in_time
@stores(lambda name: name == "timescaledb")
@given(_WORLDS_AND_QUESTIONS)
@example(A_NIGHT_IN_PIECES)
@some(6)
async def test_timescaledb_answers_every_question_as_the_oracle_does(
    running: Running, asked: tuple[World, list[Question]]
) -> None:
    await check(running, *asked)


async def test_the_last_of_several_values_may_end_with_a_comma() -> None:
    question = Question.from_request(r"/stats/dau?from=2026-03-17&to=2026-03-31&segment=properties.p in x\,")
    async with await eventcore.open("memory://") as core:
        await core.ingest(EVENTS)
        found = await core.ask_for(question.statistic, **question.for_library)
    assert_same(found.data, EVENTS, question, NOW)


async def test_http_answers_as_the_oracle_does() -> None:
    chosen = Settings(_env_file=None, store_url="memory://")
    async with open_eventcore(chosen) as core:
        core._clock_us = lambda: (NOW - EPOCH) // MICROSECOND
        transport = httpx.ASGITransport(create_app(chosen, core))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
            headers = {"content-type": "application/json"}
            sent = await client.post("/events", content=as_json(), headers=headers)
            assert (sent.status_code, sent.json()["accepted"]) == (202, len(EVENTS))
            for question in QUESTIONS:
                path, query = question.for_http
                response = await client.get(path, params=query)
                assert response.status_code == 200, response.text
                assert_same(response.json()["data"], EVENTS, question, NOW)


def test_the_command_line_answers_as_the_oracle_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    url = f"sqlite:///{tmp_path}/store.sqlite3"
    for name in os.environ:
        if name.startswith("EVENTCORE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("EVENTCORE_STORE_URL", url)
    with time_machine.travel(NOW), eventcore.open_blocking(url) as core:
        assert core.ingest(EVENTS).accepted == len(EVENTS)
    for question in QUESTIONS:
        capfd.readouterr()
        with time_machine.travel(NOW):
            code = run(app, question.for_cli)
        out, err = capfd.readouterr()
        assert code == 0, err
        assert_same(loads(out)["data"], EVENTS, question, NOW)


def test_the_oracle_imports_nothing_of_the_project() -> None:
    """Else it could be wrong in the same way."""
    script = "import sys, tests.oracles.answering; print({name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "'tests'" in done.stdout
    assert not re.findall("eventcore|adapters|entrypoints|pyroaring|msgspec", done.stdout)
