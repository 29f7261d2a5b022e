"""Running the command line: as real processes where exit, streams or signals matter, else in this process."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from entrypoints.cli.main import app, run

SCRIPTS = Path(sys.executable).parent


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture(autouse=True)
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder and an environment without settings but the store's."""
    for name in list(os.environ):
        if name.startswith("EVENTCORE_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVENTCORE_STORE_URL", f"sqlite:///{tmp_path}/store.sqlite3")
    return tmp_path


@pytest.fixture
def eventcore(capfd: pytest.CaptureFixture[str], workplace: Path) -> Callable[..., Ended]:
    """Run a command line in this process."""

    def command(*arguments: object) -> Ended:
        capfd.readouterr()
        code = run(app, [str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Ended(int(code), out, err)

    return command


@pytest.fixture
def shell(workplace: Path) -> Callable[..., Ended]:
    """Run a console script as a process of its own."""

    def command(*arguments: object, stdin: bytes = b"", script: str = "eventcore") -> Ended:
        done = subprocess.run(
            [SCRIPTS / script, *map(str, arguments)], input=stdin, capture_output=True, check=False, timeout=100
        )
        return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())

    return command
