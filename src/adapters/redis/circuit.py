"""Whether a call may go to a server that has failed before.

Not here: what a failure is, which the cache decides.
"""

from collections.abc import Callable
from time import monotonic

FAILURES = 3
"""As many in a row, and the server counts as away. Each cost its caller next to nothing; one or two are a restart."""
OPEN_SECONDS = 1.0
"""How long nobody asks then; a server that is back is found out as soon as that."""


class Circuit:
    """Closed while calls go through, open while the server counts as away.

    While it is open one call a second goes through all the same, to find out; its success closes the circuit.

    Args:
        elapsed: a clock that never goes back, in seconds.
    """

    def __init__(self, elapsed: Callable[[], float] = monotonic) -> None:
        self._elapsed = elapsed
        self._failures = 0
        self._ask_at: float | None = None

    def lets_through(self) -> bool:
        """Whether to make a call now. The one that is to find out is let through once."""
        if self._ask_at is None:
            return True
        now = self._elapsed()
        if now < self._ask_at:
            return False
        self._ask_at = now + OPEN_SECONDS
        return True

    def succeeded(self) -> None:
        """The server answered."""
        self._failures = 0
        self._ask_at = None

    def failed(self, *, late: bool) -> None:
        """It did not.

        Args:
            late: the call took all the time it had. Then one is enough: each further one would cost as much.
        """
        self._failures += 1
        if late or self._failures >= FAILURES or self._ask_at is not None:
            self._ask_at = self._elapsed() + OPEN_SECONDS
