"""Which key each project, user and event type has: what has been committed, remembered within bounds.

A key never changes and is never taken back as long as the epoch is the same, so what is remembered here stays true,
whoever else writes to the store. Not here: giving out new keys, which happens inside a transaction (`appending`).
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

from eventcore.conditions import properties_reader

KNOWN_USERS = 200_000
"""About 200 bytes each, so 40 MB."""
KNOWN_TYPES = 20_000
KNOWN_PROJECTS = 10_000
KNOWN_COMBINATIONS = 20_000
ANYWHERE = 0
"""In place of a project's key, for the names of the projects themselves."""


_Name = TypeVar("_Name", bound=Hashable)

Found = tuple[int, bytes | None]
"""The type of an event, and the value of a property as it stands there."""


class Declared(NamedTuple):
    """A dimension."""

    dimension_key: int
    name: str


class KnownKeys(Generic[_Name]):
    """Keys of names, per project; forgets the half that was not used lately when there are too many.

    Args:
        most: how many are remembered at most.
    """

    def __init__(self, most: int) -> None:
        self._half = most // 2
        self._young: dict[int, dict[_Name, int]] = {}
        self._old: dict[int, dict[_Name, int]] = {}
        self._young_count = 0

    def find(self, project_key: int, names: Sequence[_Name]) -> list[int | None]:
        """For each name its key, None where it is not known."""
        keys = list(map(self._young.get(project_key, {}).get, names))
        old = self._old.get(project_key)
        if old and None in keys:
            unused = {name: old[name] for name, key in zip(names, keys, strict=True) if key is None and name in old}
            keys = [unused.get(name) if key is None else key for name, key in zip(names, keys, strict=True)]
            self.remember(project_key, unused)
        return keys

    def remember(self, project_key: int, keys: Mapping[_Name, int]) -> None:
        """Remember committed keys."""
        young = self._young.setdefault(project_key, {})
        before = len(young)
        young |= keys
        self._young_count += len(young) - before
        if self._young_count > self._half:
            self._old, self._young, self._young_count = self._young, {}, 0


class Known:
    """All that one process remembers of one epoch of a store.

    Args:
        epoch: the store's.
    """

    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self.projects: KnownKeys[str] = KnownKeys(KNOWN_PROJECTS)
        self.types: KnownKeys[str] = KnownKeys(KNOWN_TYPES)
        self.users: KnownKeys[str] = KnownKeys(KNOWN_USERS)
        self.combinations: KnownKeys[Found] = KnownKeys(KNOWN_COMBINATIONS)
        self.dimensions: Mapping[int, Sequence[Declared]] = {}
        self.dimensions_mark: str | None = None
        self._readers: dict[tuple[str, ...], Callable[[str], tuple[bytes | None, ...]]] = {}

    def learn_dimensions(self, mark: str | None, found: Mapping[int, Sequence[Declared]]) -> None:
        """The list of dimensions with this mark: those of each project whose facts are written."""
        self.dimensions = found
        self.dimensions_mark = mark
        self._readers = {}

    def reader(self, names: tuple[str, ...]) -> Callable[[str], tuple[bytes | None, ...]]:
        """What takes the values of these properties out of an event's."""
        found = self._readers.get(names)
        if found is None:
            found = self._readers[names] = properties_reader(names)
        return found
