"""What an experiment prints, and how it ends: as stated (0), otherwise (1), or not possible on this machine (77).

Not for starting servers: see `experiments._servers`.
"""

import asyncio
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

AS_STATED, OTHERWISE, SKIPPED = 0, 1, 77  # 77 is what test harnesses take for "skipped"

LIMIT_SECONDS = 20.0  # for what an experiment does with its servers; starting them may take longer the first time


class NotHere(Exception):
    """This machine lacks something; the message says what, and how to get it."""


class Report:
    """Prints one line for each observation, and remembers those that LEARNED.md states otherwise."""

    def __init__(self) -> None:
        self.facts = 0
        self.differences: list[str] = []
        self.limit: asyncio.Timeout | None = None

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """What happens in here, such as starting a server, is not counted against the experiment's time."""
        begun = time.monotonic()
        yield
        if self.limit is not None and (until := self.limit.when()) is not None:
            self.limit.reschedule(until + time.monotonic() - begun)

    def note(self, text: str) -> None:
        """What a reader should know: the server's version, or what could not be seen here."""
        print(f"  {text}", flush=True)

    def figure(self, what: str, value: str) -> None:
        """A number of this machine and this run; nothing is asserted about it."""
        print(f"  {what}: {value} (measured here)", flush=True)

    def fact(self, what: str, saw: object, stated: object) -> None:
        """An observation that LEARNED.md states; the experiment fails at its end when something else was seen."""
        self.facts += 1
        if saw == stated:
            print(f"  {what}: {saw}", flush=True)
        else:
            print(f"  {what}: {saw}   <-- LEARNED.md states: {stated}", flush=True)
            self.differences.append(f"{what}: stated was {stated!r}, seen was {saw!r}")


Experiment = Callable[[Report], Awaitable[None]]


def run(name: str, experiment: Experiment) -> int:
    """Run an experiment to its end; returns the code to exit with."""
    print(f"{name}", flush=True)
    report = Report()

    async def limited() -> None:
        async with asyncio.timeout(LIMIT_SECONDS) as report.limit:
            await experiment(report)

    try:
        asyncio.run(limited())
    except NotHere as lack:
        print(f"skipped: {lack}", flush=True)
        return SKIPPED
    except Exception as error:
        # The facts so far are printed; what broke it is the next line, and the way there is for those who mend it.
        traceback.print_exc()
        what = f"took longer than {LIMIT_SECONDS:g} s" if isinstance(error, TimeoutError) else "broke off"
        print(f"failed: {name} {what} after {report.facts} facts: {error!r}", file=sys.stderr, flush=True)
        return OTHERWISE
    if report.differences:
        for difference in report.differences:
            print(f"failed: {difference}", file=sys.stderr, flush=True)
        return OTHERWISE
    print(f"as stated: all {report.facts} facts", flush=True)
    return AS_STATED
