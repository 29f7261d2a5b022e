"""What README.md and QUICKSTART.md show is run, so it is true."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PYTHON_BLOCKS = [
    (name, number, block)
    for name in ("README.md", "QUICKSTART.md")
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), re.DOTALL))
]

pytestmark = pytest.mark.e2e


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EVENTCORE_")}
    return kept | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"} | more


def shell(folder: Path, script: str, **more: str) -> str:
    done = subprocess.run(
        ["sh", "-eu", "-c", script], cwd=folder, env=environment(**more), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def server(tmp_path: Path):
    """`eventcore serve` as the documents start it, except for the port."""
    log = tmp_path / "serve.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [BIN / "eventcore", "serve", "--port", "0"],
            cwd=tmp_path,
            env=environment(EVENTCORE_LOG_FORMAT="json"),
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
        )
    try:
        deadline = time.monotonic() + 30
        while not (found := re.search(r'"url":\s*"(http://127\.0\.0\.1:\d+)"', log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        yield found[1]
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@pytest.mark.parametrize(("name", "number", "block"), PYTHON_BLOCKS, ids=[f"{n}-{i}" for n, i, _ in PYTHON_BLOCKS])
def test_python_in_the_documents_runs(name: str, number: int, block: str, tmp_path: Path, server: str) -> None:
    script = tmp_path / "snippet.py"
    script.write_text(block.replace("http://127.0.0.1:8000", server))
    done = subprocess.run(
        [sys.executable, "-W", "error", script],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    if "print(answer.data)" in block:
        assert done.stdout.strip() == str(
            [
                {"date": "2026-01-30", "users": 0},
                {"date": "2026-01-31", "users": 1},
                {"date": "2026-02-01", "users": 0},
            ]
        )


def test_curl_in_the_readme_works(tmp_path: Path, server: str) -> None:
    [block] = [
        part for part in re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL) if "curl" in part
    ]
    told = shell(tmp_path, block.replace("http://127.0.0.1:8000", server).replace("curl ", "curl -sS "))
    assert '"accepted":1' in told
    assert '{"date":"2026-01-31","users":1}' in told


def test_the_transcript_in_the_readme_is_what_the_commands_print(tmp_path: Path) -> None:
    """The sample is the demo's; what goes to stderr (the rate) is not in the transcript."""
    demo = (ROOT / "scripts" / "demo").read_text()
    sample = re.search(r'eventcore" (sample --events) "\$events" (.*?) --start "\$first_day"', demo)
    day = re.search(r"first_day=(\S+)", demo)
    shell(tmp_path, f"eventcore {sample[1]} 50000 {sample[2]} --start {day[1]} > sample.csv")
    [transcript] = re.findall(r"```console\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    for part in transcript.strip().split("\n\n"):
        command, _, printed = part.partition("\n")
        found = shell(tmp_path, command.removeprefix("$ ") + " 2>&1")
        assert [line.rstrip() for line in found.splitlines() if " rows/s" not in line] == [
            line.rstrip() for line in printed.splitlines()
        ]


def test_the_quickstarts_own_csv_goes_in(tmp_path: Path) -> None:
    text = (ROOT / "QUICKSTART.md").read_text()
    [data] = re.findall(r"```csv\n(.*?)```", text, re.DOTALL)
    (tmp_path / "orders.csv").write_text(data)
    [command] = [block for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) if "--dry-run" in block]
    assert "2 accepted" in shell(tmp_path, command + " 2>&1")
    stored = command.replace("--dry-run", "")
    assert "2 accepted" in shell(tmp_path, stored + " 2>&1")
    assert "2 duplicates" in shell(tmp_path, stored + " 2>&1")


def test_the_git_history_line_in_the_readme_works(tmp_path: Path) -> None:
    [block] = [
        part
        for part in re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
        if "git_history" in part
    ]
    repository = tmp_path / "repository"
    shell(
        tmp_path,
        "git init -q repository && cd repository && git -c user.name=A -c user.email=a@example.org "
        "commit -q --allow-empty -m first",
        GIT_CONFIG_GLOBAL=os.devnull,
    )
    script = block.replace(" . ", f" {shlex.quote(str(repository))} ").replace(
        "examples/", f"{shlex.quote(str(ROOT))}/examples/"
    )
    # Only what stands in .venv/bin is there for sure: Debian has no `python`.
    assert re.findall(r"\S*python\S* ", script) == [".venv/bin/python "]
    table = shell(tmp_path, script.replace(".venv/bin/", ""))
    cohorts = re.findall(r"^\d{4}-\d\d-01 +(\d+)", table, re.MULTILINE)
    assert cohorts.count("1") == 1, table
    assert len(cohorts) == 4


def test_every_file_that_a_document_links_to_exists() -> None:
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
