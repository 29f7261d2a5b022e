"""Who may come in: the list of a store's keys as a process holds it, and how keys are given, revoked and rotated.

The list is read whole and held in memory, so that a request asks the store nothing, and neither does a key that
nobody knows: a flood of them costs two questions a second. Not here: what a key is (`eventcore.keys`), and which route
needs which scope (the entrypoints).
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from math import inf
from typing import Final

import msgspec

from eventcore.errors import EventcoreError, Kind, StoreError
from eventcore.keys import ApiKey, Keyring, Refused, Scope, make_key, why_refused
from eventcore.ports import EventStore

_SECOND_US: Final = 1_000_000
FRESH_US: Final = 2 * _SECOND_US
"""Up to this age a list is used as it is; from then on the next request has it read again, in the background."""
SERVED_US: Final = 3 * _SECOND_US
"""From this age on requests wait for the new list. With `PATIENCE_SECONDS` a revocation is effective within five."""
UNKNOWN_US: Final = _SECOND_US // 2
"""A key that is not in a list of this age may just have been made, so the list is read again before it is refused."""
PATIENCE_SECONDS: Final = 2.0
"""How long a request waits for a list; a store that takes longer counts as away."""
PAUSE_US: Final = _SECOND_US
"""Between attempts to read the list from a store that is away."""
USE_US: Final = 60 * _SECOND_US
"""How often the use of one key is written down, at most, by one process."""
GATHER_SECONDS: Final = 1.0
"""How long uses of several keys are gathered for one transaction."""


class Access:
    """The keys of a store, as fresh as a revocation needs; see the module.

    Args:
        store: gives the store, which may be opened after this.
        clock_us: the time, in microseconds since the epoch.
        elapsed_us: a clock that never goes back, in microseconds.
        stale_seconds: how old the list may become while the store is away.
    """

    def __init__(
        self,
        store: Callable[[], EventStore],
        *,
        clock_us: Callable[[], int],
        elapsed_us: Callable[[], int],
        stale_seconds: float,
    ) -> None:
        self._store = store
        self._clock_us = clock_us
        self._elapsed_us = elapsed_us
        self._stale_us = stale_seconds * _SECOND_US
        self._keyring: Keyring | None = None
        self._read_us = 0
        self._changes = 0
        self._failed = False
        self._again_us = 0
        self._reading: asyncio.Task[None] | None = None
        self._uses: dict[str, int] = {}
        self._noted_us: dict[str, int] = {}
        self._writing: asyncio.Task[None] | None = None

    async def find(self, text: str) -> ApiKey | Refused:
        """The key with this text, if it is let in.

        Raises:
            StoreError: as `keyring`.
        """
        found = (await self.keyring()).find(text, self._clock_us())
        if isinstance(found, Refused) and found.reason == "unknown":
            found = (await self.keyring(oldest_us=UNKNOWN_US)).find(text, self._clock_us())
        return found

    async def keyring(self, *, oldest_us: int = SERVED_US) -> Keyring:
        """All keys.

        Args:
            oldest_us: how old the list may be, as long as the store answers.

        Raises:
            StoreError: of kind ``unavailable``; the list was never read, or too long ago.
        """
        for _ in range(2):  # what one waited for may have begun before somebody changed a key
            age_us = self._age_us()
            if age_us > min(FRESH_US, oldest_us):
                await self._renew(wait=age_us > oldest_us)
        # While the store is away nobody can make a first key, so a list without any does not age.
        if self._keyring is None or not (self._keyring.is_empty or self._age_us() <= max(SERVED_US, self._stale_us)):
            raise StoreError(
                Kind.UNAVAILABLE,
                "keys_unavailable",
                "the store does not answer, so nobody knows which API keys are good; send the same again",
            )
        return self._keyring

    async def peek(self) -> Keyring | None:
        """The list of any age, for what needs no key; None when it was never read and cannot be. Hardly ever waits."""
        if self._age_us() > FRESH_US:
            await self._renew(wait=self._keyring is None)
        return self._keyring

    def forget(self) -> None:
        """Somebody changed the keys through this process: the next request waits for the new list."""
        self._changes += 1
        self._read_us = self._elapsed_us() - SERVED_US - 1

    def note_use(self, key: ApiKey) -> None:
        """Remember that a key was used; it is written down in the background, once a minute at most."""
        now_us = self._elapsed_us()
        noted_us = self._noted_us.get(key.key_id)
        if noted_us is not None and now_us - noted_us < USE_US:
            return
        self._noted_us[key.key_id] = now_us
        self._uses[key.key_id] = self._clock_us()
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write_uses())

    async def close(self) -> None:
        """Write down what was used, unless the store is away, and stop reading."""
        tasks = [task for task in (self._reading, self._writing) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._flush()

    def _age_us(self) -> float:
        return inf if self._keyring is None else self._elapsed_us() - self._read_us

    async def _renew(self, *, wait: bool) -> None:
        """Have the list read, by one reader for all who wait; who must wait does so unless the store is away."""
        if self._reading is None or self._reading.done():
            if self._failed and self._elapsed_us() < self._again_us:
                return
            self._reading = asyncio.get_running_loop().create_task(self._read())
        if wait and not self._failed:
            _, late = await asyncio.wait({self._reading}, timeout=PATIENCE_SECONDS)
            if late:
                self._failed = True  # until it has ended; others need not find out as slowly

    async def _read(self) -> None:
        changes = self._changes
        began_us = self._elapsed_us()
        try:
            keyring = Keyring(await self._store().keys())
        except EventcoreError:
            self._failed = True
            self._again_us = self._elapsed_us() + PAUSE_US
            return
        self._keyring = keyring
        self._failed = False
        # What changed while it was read may be missing.
        self._read_us = began_us if changes == self._changes else began_us - SERVED_US - 1

    async def _write_uses(self) -> None:
        while self._uses:
            await asyncio.sleep(GATHER_SECONDS)
            await self._flush()

    async def _flush(self) -> None:
        uses, self._uses = self._uses, {}
        if not uses:
            return
        try:
            await self._store().touch_keys(uses)
        except EventcoreError:  # nobody's request fails for it; the next use is written down again
            for key_id in uses:
                self._noted_us.pop(key_id, None)


# Giving and taking keys


async def create(
    store: EventStore,
    random_bytes: bytes,
    *,
    project: str,
    scopes: Sequence[Scope],
    now_us: int,
    label: str = "",
    origins: Sequence[str] = (),
    expires_us: int | None = None,
) -> tuple[str, ApiKey]:
    """Make a key and keep it; what the arguments must be says `eventcore.keys`.

    Returns:
        Its text, which nobody can have again, and what is kept.

    Raises:
        StoreError: the store does not answer; a key that nobody has seen may be there.
    """
    text, key = make_key(
        random_bytes,
        project=project,
        scopes=scopes,
        now_us=now_us,
        label=label,
        origins=origins,
        expires_us=expires_us,
    )
    await store.put_key(key)
    return text, key


async def find(store: EventStore, key_id: str, *, project: str | None = None) -> ApiKey:
    """The key with this id.

    Args:
        store: where.
        key_id: its id.
        project: whose it must be, None for anybody's.

    Raises:
        EventcoreError: there is none.
    """
    for key in await store.keys():
        if key.key_id == key_id and project in (None, key.project):
            return key
    raise EventcoreError(Kind.INVALID, "key_not_found", "there is no key with this id", field="key_id")


async def revoke(store: EventStore, key: ApiKey, *, now_us: int) -> ApiKey:
    """End a key now; of one that has ended, nothing changes."""
    return await _end(store, key, now_us)


async def rotate(
    store: EventStore, key: ApiKey, random_bytes: bytes, *, now_us: int, ends_us: int
) -> tuple[str, ApiKey]:
    """Make a key with the settings of another, which ends at ``ends_us``.

    The new one is kept first: whatever fails, somebody has a key that works.

    Raises:
        EventcoreError: the old one has ended, so nobody would be missing it.
    """
    reason = why_refused(key, now_us)
    if reason is not None:
        message = f"this key is {reason} already; create another one"
        raise EventcoreError(Kind.INVALID, "key_has_ended", message, field="key_id")
    text, fresh = await create(
        store,
        random_bytes,
        project=key.project,
        scopes=key.scopes,
        now_us=now_us,
        label=key.label,
        origins=key.origins,
        expires_us=key.expires_us,
    )
    await _end(store, key, ends_us)
    return text, fresh


async def _end(store: EventStore, key: ApiKey, ends_us: int) -> ApiKey:
    ended = msgspec.structs.replace(key, revoked_us=ends_us if key.revoked_us is None else min(ends_us, key.revoked_us))
    await store.put_key(ended)
    return ended
