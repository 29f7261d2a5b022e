"""Dimensions in the tables: their list, and the keys of combinations, which are given out in any transaction.

Every transaction that appends holds a lock that it shares with its like, from before it reads anything; who declares or
removes a dimension holds it alone. So each event that is not seen by whoever builds a dimension is written by a
transaction that knows it. A mark that changes with the list tells writers whether they know the list. Not here:
building one from events (`rebuilding`), and what a combination is (`eventcore.dimensions`).
"""

from collections.abc import Callable, Mapping, Sequence, Set
from secrets import token_hex
from typing import NamedTuple

from adapters.postgres.connections import READ_COMMITTED, Session
from adapters.postgres.keys import Declared, Found, Known, KnownKeys
from adapters.postgres.statements import statements
from eventcore.dimensions import MOST_DIMENSIONS, Combination, Dimension, canonical, has_room, too_many_dimensions
from eventcore.events import Event

_KNOWN_BYTES = 400
"""Of a value whose combination is remembered; arrays may be much longer."""

Learn = Callable[[KnownKeys[Found], int, Mapping[Found, int]], None]


def appending() -> str:
    """How a transaction begins that appends: the lock in the same message, but a statement of its own.

    Its snapshot would otherwise be older than the lock, and lack what was declared while it waited.
    """
    return f"{READ_COMMITTED}; {statements()['share_dimensions'].sql}"


def declaring() -> str:
    """How a transaction begins that changes the list."""
    return f"{READ_COMMITTED}; {statements()['lock_dimensions'].sql}"


class Combining:
    """Gives events the keys of their combinations, in the transaction that its caller holds.

    Args:
        session: in a transaction.
        known: what is remembered of this store.
        mark: of the list of dimensions, as the transaction found it.
    """

    def __init__(self, session: Session, known: Known, mark: str | None) -> None:
        self._session = session
        self._known = known
        self._mark = mark
        self._full: list[Declared] = []

    async def declared(self, project_key: int) -> Sequence[Declared]:
        """The dimensions of a project whose facts are written."""
        if self._known.dimensions_mark != self._mark:
            found: dict[int, list[Declared]] = {}
            for owner, *declared in await self._session.rows("live_dimensions"):
                found.setdefault(owner, []).append(Declared(*declared))
            self._known.learn_dimensions(self._mark, found)
        return [one for one in self._known.dimensions.get(project_key, ()) if one not in self._full]

    async def keys(
        self, project_key: int, types: Sequence[int], events: Sequence[Event], learn: Learn
    ) -> list[Sequence[int]]:
        """For each dimension of a project, the key of the combination of each event.

        Args:
            project_key: whose events.
            types: the key of the type of each.
            events: they.
            learn: is told keys that may be remembered once they are committed.
        """
        declared = await self.declared(project_key)
        if not declared:
            return []
        read = self._known.reader(tuple([dimension.name for dimension in declared]))
        # Events are many and alike: what is looked at is each text of properties with each type, once.
        kinds = list(zip(types, [event.properties for event in events], strict=True))
        raws = {kind: read(kind[1]) for kind in set(kinds)}
        columns: list[Sequence[int]] = []
        for place, dimension in enumerate(declared):
            wanted = {kind: (kind[0], values[place]) for kind, values in raws.items()}
            found = await self._keys_of(project_key, dimension, list(set(wanted.values())), learn)
            if found is not None:
                of_kinds = {kind: found[one] for kind, one in wanted.items()}
                columns.append([of_kinds[kind] for kind in kinds])
        return columns

    async def _keys_of(
        self, project_key: int, dimension: Declared, wanted: Sequence[Found], learn: Learn
    ) -> Mapping[Found, int] | None:
        known = self._known.combinations.find(dimension.dimension_key, wanted)
        keys = {one: key for one, key in zip(wanted, known, strict=True) if key is not None}
        texts = {one: canonical(one[1]) for one in wanted if one not in keys}
        if not texts:
            return keys
        found = await self.find_or_give(project_key, dimension, {(one[0], text) for one, text in texts.items()})
        if found is None:
            return None
        new = {one: found[one[0], text or ""] for one, text in texts.items()}
        learn(
            self._known.combinations,
            dimension.dimension_key,
            {one: key for one, key in new.items() if len(one[1] or b"") <= _KNOWN_BYTES},
        )
        return keys | new

    async def find_or_give(
        self, project_key: int, dimension: Declared, wanted: Set[tuple[int, str | None]]
    ) -> dict[tuple[int, str], int] | None:
        """The keys of these combinations of type and canonical value; those that are new are made.

        Only the holder of the project's lock can know that they are.

        Returns:
            None when the dimension cannot take them, and is full when `tell_full` has said so.
        """
        pairs = sorted({(type_key, value) for type_key, value in wanted if value is not None})
        found: dict[tuple[int, str], int] = {}
        new = pairs
        for locked in (False, True):
            if locked:
                await self._session.run("lock_keys", project_key=project_key)
            for type_key, value, key in await self._session.rows(
                "find_combinations", dimension_key=dimension.dimension_key, **_columns(new)
            ):
                found[type_key, value] = key
            new = [pair for pair in new if pair not in found]
            if not new:
                break
        is_too_much = len(pairs) < len(wanted)
        if new and not is_too_much:
            count, values = await self._session.first("values", dimension_key=dimension.dimension_key)
            is_too_much = not has_room({*values, *(value for _, value in new)}, count + len(new))
        if is_too_much:
            self._full.append(dimension)
            return None
        if new:
            for type_key, value, key in await self._session.rows(
                "insert_combinations",
                project_key=project_key,
                dimension_key=dimension.dimension_key,
                **_columns(new),
            ):
                found[type_key, value] = key
        return found

    async def tell_full(self) -> None:
        """Write down which dimensions this transaction found full; last, because every other writer waits for it."""
        if self._full:
            await self._session.run("fill", dimension_keys=sorted({one.dimension_key for one in self._full}))
            await change_list(self._session)


class Declaration(NamedTuple):
    """A dimension that is there.

    Attributes:
        project_key: whose.
        dimension: which.
        state: its.
    """

    project_key: int
    dimension: Declared
    state: str


async def declare(session: Session, project_key: int, name: str) -> Declaration:
    """Declare a dimension unless it is there; its caller has the lock of the list for itself.

    Raises:
        StoreError: there are too many.
    """
    found = await session.first("dimension", project_key=project_key, name=name)
    if found is None:
        (count,) = await session.first("count_dimensions", project_key=project_key)
        if count >= MOST_DIMENSIONS:
            raise too_many_dimensions()
        found = await session.first("insert_dimension", project_key=project_key, name=name)
        await change_list(session)
    return Declaration(project_key, Declared(found[0], name), found[1])


async def remove(session: Session, project: str, name: str) -> bool:
    """Forget a dimension; whether there was one. Its caller has the lock of the list for itself."""
    if await session.first("delete_dimension", project=project, name=name) is None:
        return False
    await change_list(session)
    return True


async def change_list(session: Session) -> None:
    """The list is another one from here on, for all writers."""
    await session.run("put_setting", key="dimensions", value=token_hex(16))


async def clear(session: Session) -> None:
    """Delete the rows of combinations that are dead; who folds calls it, with the lock of the fold.

    Facts of theirs that wait are left out when they are folded.
    """
    dead = [key for (key,) in await session.rows("dead_dimensions")]
    if dead:
        await session.run("delete_dead_rows", dimension_keys=dead)
        await session.run("delete_dead_combinations", dimension_keys=dead)


async def list_dimensions(session: Session, project: str) -> tuple[Dimension, ...]:
    """See `EventStore.dimensions`."""
    rows = await session.rows("dimensions", project=project)
    return tuple(Dimension(name=name, state=state, values=values) for name, state, values in rows)


async def ready(session: Session, project_key: int) -> dict[str, Declared]:
    """The dimensions of a project that answer questions, by the field, ``properties.NAME``."""
    rows = await session.rows("ready", project_key=project_key)
    return {f"properties.{name}": Declared(key, name) for key, name in rows}


async def combinations_of(session: Session, dimension: Declared) -> list[Combination]:
    """All combinations of a dimension."""
    rows = await session.rows("combinations", dimension_key=dimension.dimension_key)
    return [Combination(*row) for row in rows]


def _columns(pairs: Sequence[tuple[int, str]]) -> dict[str, list[int] | list[str]]:
    return {"type_keys": [type_key for type_key, _ in pairs], "values": [value for _, value in pairs]}
