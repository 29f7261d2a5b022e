"""Ctrl-C at any moment of a command: the first says what was done and how to go on, a second ends it at once."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.cli.conftest import SCRIPTS, Ended

pytestmark = pytest.mark.e2e

Process = subprocess.Popen[bytes]

SAFE = "what it did until then stays done, and the same command again is safe"
ROWS = "event_id,user_id,event_type,occurred_at\n"


@contextmanager
def command(*arguments: str, script: str = "eventcore", **environment: str) -> Iterator[Process]:
    """A command that runs until it is interrupted."""
    with subprocess.Popen(
        [SCRIPTS / script, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | environment,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def interrupt(process: Process) -> Ended:
    """Ctrl-C, and how it ended. That takes a fraction of a second; the limit is for machines that are busy otherwise."""
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    return Ended(process.returncode, out.decode(), err.decode())


def wait_until(holds: Callable[[], bool], process: Process) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)


@contextmanager
def silent_server() -> Iterator[tuple[str, socket.socket]]:
    """The URL of a store at a server that takes connections and says nothing, and where they come."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)
        yield f"postgresql://ada:secret@127.0.0.1:{listener.getsockname()[1]}/events", listener


@pytest.mark.parametrize("script", ["eventcore", "import_events"])
def test_ctrl_c_while_the_commands_are_loaded(workplace: Path, script: str) -> None:
    modules = workplace / "modules"
    modules.mkdir()
    (modules / "typer.py").write_text("import pathlib, time\npathlib.Path('loading').touch()\ntime.sleep(60)\n")
    with command("rows.csv", script=script, PYTHONPATH=str(modules)) as process:
        wait_until((workplace / "loading").exists, process)
        assert interrupt(process) == Ended(130, "", f"{script}: interrupted; {SAFE}\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["import", "rows.csv"],
            "0 new rows are known to be stored, and the same command again goes on: what is stored counts as duplicate",
        ),
        (["import", "--dry-run", "rows.csv"], "nothing is stored"),
        (["stats", "dau"], SAFE),
        (["migrate"], SAFE),
        (["doctor"], SAFE),
    ],
)
def test_ctrl_c_while_the_store_is_being_opened(workplace: Path, arguments: list[str], said: str) -> None:
    (workplace / "rows.csv").write_text(ROWS)
    with silent_server() as (url, listener), command(*arguments, EVENTCORE_STORE_URL=url) as process:
        connection, _ = listener.accept()
        with connection:
            ended = interrupt(process)
    assert (ended.code, ended.out) == (130, "")
    assert ended.err.splitlines()[-1] == f"eventcore: interrupted; {said}"
    assert "Traceback" not in ended.err


def test_a_second_ctrl_c_ends_at_once(workplace: Path) -> None:
    """The first one waits until what is half open can be closed, which takes some seconds where nobody answers."""
    (workplace / "rows.csv").write_text(ROWS)
    with silent_server() as (url, listener), command("import", "rows.csv", EVENTCORE_STORE_URL=url) as process:
        connection, _ = listener.accept()
        with connection:
            process.send_signal(signal.SIGINT)
            time.sleep(0.5)  # two at the same moment are one for the kernel
            assert process.poll() is None
            began = time.monotonic()
            ended = interrupt(process)
            assert time.monotonic() - began < 2
    assert (ended.code, ended.out) == (130, "")
    assert ended.err.splitlines()[-1] == f"eventcore: interrupted again, so it ends at once; {SAFE}"
    assert "Traceback" not in ended.err
