"""Trap 11: what is left when the power fails behind an answer 202. SIGKILL cannot show it: the kernel lives on."""

import asyncio
import json
import sys
from pathlib import Path

import httpx
import pytest

from tests.e2e.test_durability import EVENTCORE, needs_ptrace, serving
from tests.e2e.traps import power_cut
from tests.e2e.traps.homes import Urls, a_batch, a_core, counted, stored

pytestmark = pytest.mark.e2e

POSTS = 6


@needs_ptrace
async def test_what_was_answered_is_there_when_the_power_comes_back(tmp_path: Path) -> None:
    """A disk that keeps nothing but what was synced, at the moment of the last answer."""
    trace = tmp_path / "trace.jsonl"
    await asyncio.to_thread(post_batches, tmp_path, trace)
    calls = [json.loads(line) for line in trace.read_text().splitlines()]
    *_, left = list(power_cut.survivors(calls))[:POSTS]

    found = tmp_path / "after"
    found.mkdir()
    for path, content in left.items():
        (found / Path(path).name).write_bytes(content)
    async with a_core(Urls(store=f"sqlite:///{found / 'events.sqlite3'}")) as core:
        assert await stored(core, range(10 * POSTS)) == set(range(10 * POSTS))
        assert await counted(core) == 10 * POSTS
        assert list(await core.store.verify()) == []


def post_batches(folder: Path, trace: Path) -> None:
    traced = [sys.executable, power_cut.__file__, str(trace), EVENTCORE, "serve", "--port", "0"]
    with serving(folder / "events.sqlite3", folder / "log", traced) as server, httpx.Client(timeout=30) as client:
        for number in range(POSTS):
            body = a_batch(range(10 * number, 10 * number + 10))
            answer = client.post(f"{server.url}/events", content=body, headers={"Content-Type": "application/json"})
            assert (answer.status_code, answer.json()["accepted"]) == (202, 10)
