"""Runs experiments: ``python -m experiments`` lists them, ``python -m experiments NAME …`` or ``all`` runs them.

Exits with 0 when everything was seen as LEARNED.md states it, 1 when something was not, 77 when this machine lacks what
all of them need, 2 for an unknown name. Each runs in a process of its own.
"""

import ast
import importlib
import subprocess
import sys
from collections import Counter
from pathlib import Path

from experiments._report import AS_STATED, OTHERWISE, SKIPPED, run

FOLDER = Path(__file__).parent
NEEDS = ("asyncpg", "nats", "pytest")  # distributions that come with `make setup`


def names() -> list[str]:
    """All experiments."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))


def question(name: str) -> str:
    """The first line of an experiment's docstring; read, not imported, so that listing needs nothing installed."""
    docstring = ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]


def run_one(name: str) -> int:
    """Run an experiment in this process."""
    try:
        module = importlib.import_module(f"experiments.{name}")
    except ModuleNotFoundError as error:
        if error.name not in NEEDS:
            raise
        print(
            f"{name}\nskipped: {error.name} is not installed here; `make setup`, then .venv/bin/python -m experiments"
        )
        return SKIPPED
    return run(name, module.experiment)


def run_many(chosen: list[str]) -> int:
    """Run several, each in a process of its own; what one does to its memory or its clocks is not the next one's."""
    ends: Counter[int] = Counter()
    for name in chosen:
        code = subprocess.run([sys.executable, "-m", "experiments", name], check=False, cwd=FOLDER.parent).returncode
        ends[code if code in (AS_STATED, SKIPPED) else OTHERWISE] += 1
    print(f"{ends[AS_STATED]} as stated, {ends[OTHERWISE]} otherwise, {ends[SKIPPED]} skipped")
    if ends[OTHERWISE]:
        return OTHERWISE
    return AS_STATED if ends[AS_STATED] else SKIPPED


def main(arguments: list[str]) -> int:
    """Do what the command line says; returns the code to exit with."""
    known = names()
    if not arguments:
        print("python -m experiments NAME … | all\n")
        for name in known:
            print(f"  {name:<34} {question(name)}")
        return AS_STATED
    chosen = known if arguments == ["all"] else arguments
    if unknown := [name for name in chosen if name not in known]:
        print(f"no experiment is called {unknown[0]}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    return run_one(chosen[0]) if len(chosen) == 1 else run_many(chosen)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
