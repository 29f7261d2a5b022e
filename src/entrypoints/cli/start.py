"""The two console scripts. Ctrl-C is heeded from the first moment on, also while the commands are being loaded.

Not here: the commands, and how they end (`main`).
"""

import os
import sys
from pathlib import Path

from entrypoints.cli.exits import Exit, say
from entrypoints.cli.interrupts import SAFE_AGAIN, heed_interrupts


def main() -> None:
    """The console script ``eventcore``."""
    sys.exit(_run("eventcore"))


def import_events() -> None:
    """The console script ``import_events``: ``eventcore import`` under a name of its own."""
    sys.exit(_run("import_events"))


def _run(name: str) -> int:
    heed_interrupts()
    if sys.stdout is None:  # it was closed by whoever started this, who wants no answer
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - open as long as the process
    try:
        from entrypoints.cli.main import app, import_app, run

        return run(app if name == "eventcore" else import_app, sys.argv[1:])
    except KeyboardInterrupt:
        say(f"{name}: interrupted; {SAFE_AGAIN}")
        return Exit.INTERRUPTED
