"""How far a command is: a bar on stderr, where stderr is a terminal."""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Bar:
    """A progress bar by bytes read; on anything but a terminal it shows nothing. Use it in ``with``."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._began = 0.0

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

            self._progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TaskProgressColumn(),
                TextColumn("{task.fields[rows]:,} rows, {task.fields[rate]:,.0f}/s"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def begin(self, name: str, size: int | None) -> None:
        """The next file begins; its size is in bytes, None when nobody knows."""
        if self._progress is None:
            return
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(name, total=size, rows=0, rate=0.0)
        self._began = time.monotonic()

    def advance(self, bytes_read: int, rows: int) -> None:
        """So many bytes of the file are read, and so many rows of it are done."""
        if self._progress is None or self._task is None:
            return
        rate = rows / max(time.monotonic() - self._began, 1e-3)
        self._progress.update(self._task, completed=bytes_read, rows=rows, rate=rate)


class Steps:
    """A progress bar by steps done; on anything but a terminal it shows nothing. Use it in ``with``."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._progress.add_task("reading events", total=None)
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def advance(self, name: str, done: int, steps: int) -> None:
        """The step of this name is done, and with it so many of so many."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=name, completed=done, total=steps)
