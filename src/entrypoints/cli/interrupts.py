"""Ctrl-C: the first one lets a command end what it began and say what was done, a second one ends it at once.

Ending at once is safe: what is stored was committed, and what was not never happened. Not here: what an import says
behind the first one (`import_run`), and processes that serve, which have their own way (`entrypoints.http.listening`).
"""

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from types import FrameType
from typing import Any, Final, TypeVar

from entrypoints.cli.exits import Exit

SAFE_AGAIN: Final = "what it did until then stays done, and the same command again is safe"
"""True of every command, whenever it was interrupted."""

_SHOW_CURSOR: Final = "\x1b[?25h"

_Result = TypeVar("_Result")


class _Interrupts:
    """What SIGINT does in this process, and the work that it ends."""

    def __init__(self) -> None:
        self.work: asyncio.Task[Any] | None = None
        self.came = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.came:
            _end_at_once()
        self.came = True
        if self.work is None:
            raise KeyboardInterrupt
        # From within a signal handler nothing else wakes a loop that waits.
        self.work.get_loop().call_soon_threadsafe(_cancel, self.work)


_interrupts: Final = _Interrupts()


def heed_interrupts() -> None:
    """From now on Ctrl-C is what this module says; where it is ignored, as in a job of a shell, it stays so."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupts)


def run_interruptible(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Run asynchronous work to its end; Ctrl-C cancels it, then raises `KeyboardInterrupt`."""
    try:
        return asyncio.run(_known(work))
    except asyncio.CancelledError:
        if _interrupts.came:
            raise KeyboardInterrupt from None
        raise


async def _known(work: Coroutine[Any, Any, _Result]) -> _Result:
    _interrupts.work = asyncio.current_task()
    try:
        return await work
    finally:
        _interrupts.work = None


def _cancel(work: asyncio.Task[Any]) -> None:
    # Drivers leave futures behind when they are cancelled, whose errors are nobody's any more.
    work.get_loop().set_exception_handler(lambda *_: None)
    work.cancel()


def _end_at_once() -> None:
    cursor = _SHOW_CURSOR if sys.stderr.isatty() else ""  # a progress bar hides it
    # Past the buffers, whose locks the interrupted code may hold.
    os.write(2, f"{cursor}eventcore: interrupted again, so it ends at once; {SAFE_AGAIN}\n".encode())
    os._exit(Exit.INTERRUPTED)
