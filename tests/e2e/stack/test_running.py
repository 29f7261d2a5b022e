"""The processes of a stack end with the test run, however that ends."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.stack.running import Running, until
from tests.support import reaper

pytestmark = pytest.mark.e2e

RUN = """
import pathlib, sys, time
from tests.e2e.stack.running import Running
from tests.support import reaper
folder = pathlib.Path(sys.argv[1])
running = Running("serve", folder / "api.log", {"store_url": "memory://", "port": 0})
print(running.process.pid, reaper.born(running.process.pid), flush=True)
time.sleep(600)
"""


def test_a_process_ends_when_the_test_run_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", RUN, str(tmp_path)], stdout=subprocess.PIPE) as run:
        assert run.stdout is not None
        pid, begun = map(int, run.stdout.readline().split())
        try:
            assert reaper.born(pid) == begun
        finally:
            run.kill()
    try:
        until(lambda: reaper.born(pid) != begun, "the process of the stack is gone", 20)
    finally:
        reaper.send({pid: begun}, 9)


def test_that_it_listens_is_no_warning(tmp_path: Path) -> None:
    running = Running("serve", tmp_path / "log", {"store_url": "memory://", "port": 0})
    try:
        running.wait_until_up()
        lines = [json.loads(line) for line in running.said().splitlines()]
        # That anybody on this machine is let in is worth a warning; that it listens is not.
        assert sorted((line["event"], line["level"]) for line in lines) == [("listening", "info"), ("open", "warning")]
        running.stop()
    finally:
        running.kill()
