"""Taking turns: two processes that write to one file without pause both get to write.

SQLite lets a waiting writer look again after 1 to 100 ms; another that begins anew right after each COMMIT is seen by
none of these looks, and the waiting one runs into its busy time. So who waits for the write lock holds an advisory
lock on the folder meanwhile, and who has just written must have that lock for a moment before writing again. Only
manners: nothing but fairness depends on it, and who cannot have it soon goes on without.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep

_LONGEST_WAIT_SECONDS = 1.0
_LOOK_SECONDS = 0.002


class Turn:
    """The lock on the folder of a store.

    Args:
        folder: where the file lies; opened, and nothing is written to it.
    """

    def __init__(self, folder: Path) -> None:
        self._descriptor = os.open(folder, os.O_RDONLY)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Wait for the turn, and give it up in the end, unless that was done before."""
        deadline = monotonic() + _LONGEST_WAIT_SECONDS
        while not self._try() and monotonic() < deadline:
            sleep(_LOOK_SECONDS)
        try:
            yield
        finally:
            self.pass_on()

    def _try(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without such locks
            return True
        return True

    def pass_on(self) -> None:
        """Let the next one wait for the write lock; does nothing without the turn."""
        with suppress(OSError):
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let go of the folder."""
        os.close(self._descriptor)
