"""docs/definitions.md: every example in it is asked of the events in it, and must be the whole truth.

An example is a request in an HTML comment, as ``<!-- example: GET /stats/dau?from=…&to=… -->``, and the block of JSON
that follows it: the ``data`` of the answer. The events are the one block of CSV, taken in by ``eventcore import``.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from entrypoints.cli.main import app, run
from entrypoints.container import open_eventcore
from entrypoints.http.app import create_app
from entrypoints.settings import Settings
from tests.oracles.answering import answer
from tests.parity.golden import rows_of
from tests.parity.questions import STATISTICS, Question
from tests.parity.worlds import EPOCH

DOCUMENT = (Path(__file__).parents[2] / "docs" / "definitions.md").read_text(encoding="utf-8")
MARK = "<!-- example:"
EXAMPLES = re.findall(r"<!-- example: GET (\S.*?) -->\n```json\n(.*?)```", DOCUMENT, re.DOTALL)
EVENTS = re.findall(r"```csv\n(.*?)```", DOCUMENT, re.DOTALL)

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def store_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A store that has taken in the events of the document."""
    folder = tmp_path_factory.mktemp("definitions")
    [events] = EVENTS
    (folder / "events.csv").write_text(events, encoding="utf-8")
    url = f"sqlite:///{folder}/store.sqlite3"
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("EVENTCORE_"):
                patch.delenv(name)
        patch.setenv("EVENTCORE_STORE_URL", url)
        assert run(app, ["import", str(folder / "events.csv"), "--format", "json"]) == 0
        yield url


@pytest.mark.parametrize(("request_", "shown"), EXAMPLES, ids=[request for request, _ in EXAMPLES])
async def test_an_example_is_what_is_answered(store_url: str, request_: str, shown: str) -> None:
    settings = Settings(_env_file=None, store_url=store_url)
    async with open_eventcore(settings) as core:
        transport = httpx.ASGITransport(create_app(settings, core))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
            path, query = Question.from_request(request_).for_http
            response = await client.get(path, params=query)
    assert response.status_code == 200, response.text
    found: Any = response.json()["data"]
    assert found == json.loads(shown)
    # 1 is not 1.0 in a document that shows what is sent.
    assert json.dumps(found, sort_keys=True) == json.dumps(json.loads(shown), sort_keys=True)


@pytest.mark.parametrize(("request_", "shown"), EXAMPLES, ids=[request for request, _ in EXAMPLES])
def test_an_example_is_what_the_oracle_answers(request_: str, shown: str) -> None:
    [events] = EVENTS
    question = Question.from_request(request_)
    long_after = EPOCH.replace(year=2026)
    expected = answer(rows_of(events.splitlines()), question.statistic, question.params, long_after)
    assert expected == json.loads(shown)


def test_no_example_is_overlooked() -> None:
    assert len(EXAMPLES) == DOCUMENT.count(MARK)
    assert {Question.from_request(request).statistic for request, _ in EXAMPLES} == set(STATISTICS)
    blocks = len(re.findall(r"^```json$", DOCUMENT, re.MULTILINE))
    assert blocks == len(EXAMPLES), "a block of JSON without a request before it is checked by nothing"
