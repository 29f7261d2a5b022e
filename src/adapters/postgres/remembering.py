"""What questions to one store remember for each other: rows of the projection, as of one of its versions.

Each question reads in a snapshot of its own, so two questions at the same time may see two versions. What is remembered
belongs to one of them; a question that sees an older one reads all that it needs, and leaves nothing behind. Not here:
reading rows (`counting`), and how much is kept (`eventcore.bitmaps`).
"""

import sys
from collections.abc import Iterable, Sequence
from threading import Lock
from typing import NamedTuple, cast

from eventcore.activity import Tallying
from eventcore.bitmaps import KEPT_BYTES, Kept, Period, Plan, Portion
from eventcore.projection import ANY_TYPE, Key


class Version(NamedTuple):
    """Which state a project's projection is in.

    Attributes:
        epoch: of the store.
        fold: the number of the newest fold, 0 where there was none.
        mark: what tells that fold from others of the same number, which a restored backup may bring; empty for none.
    """

    epoch: str
    fold: int
    mark: bytes


class Changed(NamedTuple):
    """What one fold has changed.

    Attributes:
        fold: its number.
        mark: see `Version`.
        periods: those whose rows are different since.
    """

    fold: int
    mark: bytes
    periods: Sequence[Period]


class Recall:
    """What one question, or a portion of it, needs, and what of it was read for it.

    Args:
        project_key: of its project.
        version: that its snapshot sees.
        folds: some of the newest folds that its snapshot sees, in order and without a gap.
        plan: which rows it needs.
        portion: of the plan.
    """

    def __init__(
        self, project_key: int, version: Version, folds: Sequence[Changed], plan: Plan, portion: Portion
    ) -> None:
        self.project_key = project_key
        self.version = version
        self.folds = folds
        self.plan = plan
        self.portion = portion
        self._read: list[Period] = []
        self._rows: list[tuple[int, int, int, int, bytes]] = []

    def take(self, periods: Iterable[Period], rows: Iterable[tuple[int, int, int, int, bytes]]) -> None:
        """Periods were read, and held these rows: grain, period, type, events, packed users."""
        self._read += periods
        self._rows += rows

    def tally(self, kept: Kept, tallying: Tallying) -> Sequence[Period]:
        """Count the rows that were read and those that are kept, if these are all.

        Returns:
            The periods that must be read first; none when all is counted.
        """
        lacking = set(kept.missing(self.project_key, self.portion.periods, self.plan.wanted)).difference(self._read)
        if not lacking:
            found = kept.take(self.project_key, self.portion.periods, self.plan.wanted, self._read, self._rows)
            self.plan.tally(found, self.portion, tallying)
            kept.shrink()
        return sorted(lacking)


class Memory:
    """Rows of all projects of one store; safe for any number of threads.

    Args:
        most_bytes: how much of them.
    """

    def __init__(self, most_bytes: int = KEPT_BYTES) -> None:
        self._kept = Kept(most_bytes)
        self._lock = Lock()

    def version(self, project_key: int) -> Version | None:
        """Which version of a project is remembered just now, None when none is; it may be another one at once."""
        return cast(Version | None, self._kept.version(project_key))

    def tally(self, recall: Recall, tallying: Tallying) -> Sequence[Period]:
        """As `Recall.tally`, from what is remembered; takes a while, so call it in a thread."""
        with self._lock:
            if not self._reaches(recall):
                return recall.tally(Kept(sys.maxsize), tallying)
            try:
                return recall.tally(self._kept, tallying)
            except BaseException:  # rows that were taken over by half must not be found by the next question
                self._kept.advance(recall.project_key, None, None)
                raise

    def _reaches(self, recall: Recall) -> bool:
        """Bring what is remembered to the version that a question sees, unless that is an older one."""
        known = self.version(recall.project_key)
        if known is not None and known.epoch == recall.version.epoch and known.fold > recall.version.fold:
            return False
        self._kept.advance(recall.project_key, recall.version, _changes(known, recall))
        return True


def _changes(known: Version | None, recall: Recall) -> list[Key] | None:
    """The rows that differ between a version and that of a question; None when that cannot be known."""
    if known is None or known.epoch != recall.version.epoch:
        return None
    later = [changed for changed in recall.folds if changed.fold > known.fold]
    is_followed = any(changed[:2] == known[1:] for changed in recall.folds)
    # Before its first fold a projection has no rows, so whatever came later tells all.
    is_new = known.fold == 0 and bool(later) and later[0].fold == 1
    if not is_followed and not is_new:
        return None
    return [Key(grain, period, ANY_TYPE) for changed in later for grain, period in changed.periods]
