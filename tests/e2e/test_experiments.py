"""Every experiment of LEARNED.md: it shows what is stated there, it is named there, and it can be run by its name."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import servers

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments"
EXPERIMENTS = sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))
SERVERS = {
    "jetstream": "nats",
    "nats": "nats",
    "pglite": "timescaledb",
    "postgres": "postgres",
    "timescaledb": "timescaledb",
}
LIMIT_SECONDS = 110.0  # an experiment takes 20 at most; the first one to need TimescaleDB may have to install it
SKIPPED = 77

pytestmark = pytest.mark.e2e


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "experiments", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_what_is_stated_is_seen(name: str) -> None:
    ended = run(name)
    if ended.returncode == SKIPPED:
        servers.require(SERVERS[name.partition("_")[0]], re.findall("^skipped: (.*)", ended.stdout, re.MULTILINE)[-1])
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert re.search(r"^as stated: all \d+ facts$", ended.stdout, re.MULTILINE)


def test_learned_names_every_experiment() -> None:
    named = re.findall(r"python -m experiments (\w+)", (ROOT / "LEARNED.md").read_text(encoding="utf-8"))
    assert set(EXPERIMENTS) <= set(named) <= {*EXPERIMENTS, "all"}


def test_without_a_name_it_lists_the_questions() -> None:
    ended = run()
    assert ended.returncode == 0
    assert [line.split()[0] for line in ended.stdout.splitlines()[2:]] == EXPERIMENTS
    assert all(line.rstrip().endswith("?") for line in ended.stdout.splitlines()[2:])


def test_an_unknown_name_is_told_from_a_failure() -> None:
    ended = run("jetstream_no_such")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "jetstream_work_queue" in ended.stderr


def test_what_the_machine_lacks_is_said_and_counted() -> None:
    """Without node on PATH there is no TimescaleDB; the word comes from the experiment, and so does how to get it."""
    nowhere = dict.fromkeys(servers.URLS.values(), "") | {"PATH": "/nonexistent"}
    ended = run("timescaledb_unique_rule", "timescaledb_chunk_locks", **nowhere)
    assert ended.returncode == SKIPPED, ended.stdout + ended.stderr
    assert ended.stdout.count("skipped: node 20 or newer is not on PATH") == 2
    assert "apt-get" in ended.stdout
    assert ended.stdout.endswith("0 as stated, 0 otherwise, 2 skipped\n")


def test_another_observation_is_a_failure(tmp_path: Path) -> None:
    """The planted difference: without it, nobody knows that an experiment can fail."""
    program = (
        "import sys\n"
        "from experiments._report import run\n"
        "async def experiment(report):\n"
        "    report.fact('one and one', 1 + 1, 2)\n"
        "    report.fact('two and two', 2 + 2, 5)\n"
        "sys.exit(run('sums', experiment))\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stdout.splitlines() == ["sums", "  one and one: 2", "  two and two: 4   <-- LEARNED.md states: 5"]
    assert ended.stderr == "failed: two and two: stated was 5, seen was 4\n"
