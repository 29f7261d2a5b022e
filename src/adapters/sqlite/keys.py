"""Which key each project, user and event type has: what is committed, remembered within bounds.

A key never changes and is never taken back while the store has its epoch, so what is remembered stays true whoever else
writes to the file. Not here: giving out new keys, which happens inside a transaction (`appending`).
"""

from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

_Name = TypeVar("_Name", bound=Hashable)


class KnownKeys(Generic[_Name]):
    """Keys of names, per project. When there would be too many, all are forgotten: asking again is cheap.

    Args:
        most: how many are remembered at most.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.forget()

    def forget(self) -> None:
        """Forget all of them."""
        self._keys: dict[int, dict[_Name, int]] = {}
        self._count = 0

    def of(self, project_key: int) -> Mapping[_Name, int]:
        """The names of a project whose keys are known."""
        return self._keys.get(project_key, {})

    def remember(self, project_key: int, keys: Mapping[_Name, int]) -> None:
        """Remember keys that were not known; they must be committed."""
        self._count += len(keys)
        if self._count > self._most:
            self.forget()
            self._count = len(keys)
        self._keys.setdefault(project_key, {}).update(keys)
