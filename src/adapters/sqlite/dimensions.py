"""Dimensions in the file: their list, and the keys of combinations, which are given out in the writer's transactions.

Every transaction of a writer reads a mark that changes with the list, so an event is written with the dimensions that
its project has at that moment, whoever declared them. Not here: building one from events (`rebuilding`), and what a
combination is (`eventcore.dimensions`).
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from secrets import token_hex
from typing import NamedTuple

import msgspec

from adapters.sqlite.database import Database
from adapters.sqlite.keys import KnownKeys
from adapters.sqlite.reader import project_key
from eventcore.conditions import properties_reader
from eventcore.dimensions import (
    MOST_DIMENSIONS,
    MOST_VALUES,
    NO_VALUE,
    Combination,
    Dimension,
    canonical,
    has_room,
    too_many_dimensions,
)
from eventcore.events import Event
from eventcore.projection import COMBINATIONS_FROM

_KNOWN_COMBINATIONS = 20_000
_KNOWN_BYTES = 400
"""Of a value whose combination is remembered: 8 MB of them together, and arrays may be much longer."""

TOO_MUCH = "?"
"""What the function ``value_of`` gives in SQL for a value that a dimension does not take; JSON has no such text."""

_decode_pairs = msgspec.json.Decoder(list[tuple[int, int]]).decode
_decode_combinations = msgspec.json.Decoder(list[Combination]).decode

Found = tuple[int, bytes | None]
"""The type of an event, and the value of a property as it stands there."""


Learn = Callable[[KnownKeys[Found], int, Mapping[Found, int]], None]
"""Is told which keys may be remembered once they are committed; with the key of their dimension."""


class Declared(NamedTuple):
    """A dimension whose facts are written."""

    dimension_key: int
    name: str


class Combining:
    """Gives events the keys of their combinations, in the transaction that its caller holds.

    Attributes:
        mark: of the list of dimensions, as the transaction found it.
        known: keys that are committed, by the dimension's key.

    Args:
        database: the writer's connection.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._declared: dict[int, list[Declared]] = {}
        self._readers: dict[int, Callable[[str], tuple[bytes | None, ...]]] = {}
        self._loaded_mark: str | None = None
        self.mark: str | None = None
        self.known: KnownKeys[Found] = KnownKeys(_KNOWN_COMBINATIONS)

    def forget_list(self) -> None:
        """Read the list anew when it is needed next: something was undone."""
        self._loaded_mark = None

    def declared(self, project_key: int) -> Sequence[Declared]:
        """The dimensions of a project whose facts are written."""
        if self._loaded_mark is None or self._loaded_mark != self.mark:
            self._declared, self._readers = {}, {}
            for owner, *declared in self._database.all("live_dimensions"):
                self._declared.setdefault(owner, []).append(Declared(*declared))
            self._loaded_mark = self.mark
        return self._declared.get(project_key, ())

    def keys(
        self,
        project_key: int,
        types: Sequence[int],
        events: Sequence[Event],
        learn: Learn,
    ) -> list[Sequence[int]]:
        """For each dimension of a project, the key of the combination of each event.

        Args:
            project_key: whose events.
            types: the key of the type of each.
            events: they.
            learn: is told keys that may be remembered once they are committed.
        """
        declared = self.declared(project_key)
        if not declared:
            return []
        read = self._readers.get(project_key)
        if read is None:
            read = self._readers[project_key] = properties_reader([dimension.name for dimension in declared])
        # Events are many and alike: what is looked at is each text of properties with each type, once.
        kinds = list(zip(types, [event.properties for event in events], strict=True))
        raws = {kind: read(kind[1]) for kind in set(kinds)}
        columns: list[Sequence[int]] = []
        for place, dimension in enumerate(list(declared)):
            wanted = {kind: (kind[0], values[place]) for kind, values in raws.items()}
            found = self._keys_of(project_key, dimension, set(wanted.values()), learn)
            if found is not None:
                of_kinds = {kind: found[one] for kind, one in wanted.items()}
                columns.append([of_kinds[kind] for kind in kinds])
        return columns

    def _keys_of(
        self, project_key: int, dimension: Declared, wanted: Set[Found], learn: Learn
    ) -> Mapping[Found, int] | None:
        known = self.known.of(dimension.dimension_key)
        unknown = {one for one in wanted if one not in known}
        if not unknown:
            return known
        texts = {one: canonical(one[1]) for one in unknown}
        found = self.find_or_give(project_key, dimension, {(one[0], text) for one, text in texts.items()})
        if found is None:
            return None
        keys = {one: found[one[0], text or ""] for one, text in texts.items()}
        learn(
            self.known, dimension.dimension_key, {one: keys[one] for one in keys if len(one[1] or b"") <= _KNOWN_BYTES}
        )
        return keys | {one: known[one] for one in wanted - unknown}

    def find_or_give(
        self, project_key: int, dimension: Declared, wanted: Set[tuple[int, str | None]]
    ) -> dict[tuple[int, str], int] | None:
        """The keys of these combinations of type and canonical value; those that are new are made.

        Returns:
            None when the dimension cannot take them, and is full from now on.
        """
        pairs = sorted({(type_key, value) for type_key, value in wanted if value is not None})
        if len(pairs) < len(wanted):
            self._fill(dimension)
            return None
        (positions,) = self._database.first(
            "find_combinations", dimension_key=dimension.dimension_key, wanted=_json(pairs)
        )
        found = {pairs[at]: key for at, key in _decode_pairs(positions)}
        new = [pair for pair in pairs if pair not in found]
        if new:
            count, values = self._database.first("values", dimension_key=dimension.dimension_key)
            if not has_room({*msgspec.json.decode(values), *(value for _, value in new)}, count + len(new)):
                self._fill(dimension)
                return None
            (end,) = self._database.first("give_combinations_keys", project_key=project_key, given=len(new))
            first_key = COMBINATIONS_FROM + end - len(new)
            self._database.run(
                "insert_combinations",
                project_key=project_key,
                dimension_key=dimension.dimension_key,
                first_key=first_key,
                wanted=_json(new),
            )
            found |= {pair: first_key + at for at, pair in enumerate(new)}
        return found

    def _fill(self, dimension: Declared) -> None:
        self._database.run("set_state", dimension_key=dimension.dimension_key, found="", state="full")
        self.change_list()

    def change_list(self) -> None:
        """The list is another one from here on, for all writers."""
        self.mark = token_hex(16)
        self._database.run("put_setting", key="dimensions", value=self.mark)

    def is_live(self, project_key: int, dimension: Declared) -> bool:
        """Whether facts of a dimension are written."""
        return dimension in self.declared(project_key)

    def declare(self, project_key: int, name: str) -> tuple[Declared, str]:
        """Declare a dimension unless it is there; gives its state.

        Raises:
            StoreError: there are too many.
        """
        clear(self._database)
        found = self._database.first("dimension", project_key=project_key, name=name)
        if found is None:
            (count,) = self._database.first("count_dimensions", project_key=project_key)
            if count >= MOST_DIMENSIONS:
                raise too_many_dimensions()
            self._database.run("insert_dimension", project_key=project_key, name=name)
            self.change_list()
            found = self._database.first("dimension", project_key=project_key, name=name)
        return Declared(found[0], name), found[1]

    def finish(self, dimension: Declared) -> None:
        """A dimension is built, if it is not full or gone meanwhile."""
        self._database.run("set_state", dimension_key=dimension.dimension_key, found="building", state="ready")

    def state(self, dimension: Declared) -> str | None:
        """What became of a dimension, None when it is gone."""
        found = self._database.first("state", dimension_key=dimension.dimension_key)
        return None if found is None else str(found[0])

    def remove(self, project_key: int, name: str) -> bool:
        """Forget a dimension and all that is kept of it; whether there was one."""
        if not self._database.run("delete_dimension", project_key=project_key, name=name):
            return False
        self.change_list()
        clear(self._database)
        return True


def teach_values(database: Database) -> None:
    """Let statements call ``value_of(properties, name)``: the canonical value of a property, or `TOO_MUCH`."""
    readers: dict[str, Callable[[str], tuple[bytes | None, ...]]] = {}
    texts: defaultdict[str, dict[bytes | None, str]] = defaultdict(dict)
    values: defaultdict[str, set[str]] = defaultdict(set)

    def value_of_property(properties: str, name: str) -> str:
        if name not in readers:
            readers[name] = properties_reader([name])
        [raw] = readers[name](properties)
        text = texts[name].get(raw)
        if text is None:
            text = canonical(raw) or (NO_VALUE if raw is None else TOO_MUCH)
            if len(values[name]) > MOST_VALUES + 1 and text not in values[name]:
                return TOO_MUCH
            values[name].add(text)
            if len(texts[name]) < _KNOWN_COMBINATIONS and len(raw or b"") <= _KNOWN_BYTES:
                texts[name][raw] = text
        return text

    database.teach("value_of", 2, value_of_property)


def clear(database: Database) -> None:
    """Delete the rows of combinations that are dead; facts of theirs that wait are left out when they are folded."""
    (is_any,) = database.first("has_dead_combinations")
    if is_any:
        database.run("delete_dead_rows")
        database.run("delete_dead_combinations")


def live_combinations(database: Database, key: int) -> frozenset[int]:
    """The combinations of a project whose facts count."""
    (keys,) = database.first("live_combinations", project_key=key)
    return frozenset(msgspec.json.decode(keys))


def list_dimensions(database: Database, project: str) -> tuple[Dimension, ...]:
    """See `EventStore.dimensions`."""
    found = database.all("dimensions", project_key=project_key(database, project))
    return tuple(Dimension(name=name, state=state, values=values) for name, state, values in found)


def ready(database: Database, key: int | None) -> dict[str, int]:
    """The dimensions of a project that answer questions, by the field, ``properties.NAME``: their keys."""
    return {f"properties.{name}": dimension_key for name, dimension_key in database.all("ready", project_key=key)}


def combinations_of(database: Database, dimension_key: int) -> list[Combination]:
    """All combinations of a dimension."""
    (found,) = database.first("combinations", dimension_key=dimension_key)
    return _decode_combinations(found)


def _json(pairs: Sequence[tuple[int, str]]) -> str:
    return msgspec.json.encode(pairs).decode()
