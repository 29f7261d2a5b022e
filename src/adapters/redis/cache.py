"""Marks in Redis: sets, one for each namespace and window of time.

Time is cut into windows of ``ttl_seconds``. A mark goes into the set of the window it is made in; a lookup asks that
set and the one of the window before, so a mark is found for at least one window's length and at most for two. An older
set is unlinked by the next mark, and expires by itself where none comes. Time is the wall clock of this process: where
it jumps, or differs from another's, marks are forgotten, never invented.

A key is ``prefix:{namespace}:window``; the braces keep the keys of one call on one node of a cluster. A member is kept
whole, 32 bytes, so no digest can take one for another; one of any other length, which events do not have, is kept as a
digest of 256 bits.

A lookup and a mark are one script each (EVAL: one round trip, all or nothing), and members cross the wire joined. Both
for batches of 1,000, on two busy cores: 231,000 members a second and 0.4 ms of this process's time for a batch, against
85,000 and 5.3 ms for a pipeline of SMISMEMBER and SADD through the driver's client, with the same work for the server.
A script's reply begins with a token of its call, so no call can take another's reply for its own.

Not here: connections (`connections`), and when not to try at all (`circuit`).
"""

from collections.abc import Callable, Sequence
from functools import cache
from hashlib import blake2b
from importlib.resources import files
from secrets import token_bytes
from time import time
from typing import Literal

from redis.exceptions import AuthenticationError, MovedError, ResponseError

from adapters.redis.address import Options, address_of
from adapters.redis.circuit import Circuit
from adapters.redis.connections import AllBusy, Command, Connections, Mixed
from eventcore.ports import DedupCache

_MEMBER_BYTES = 32  # of `eventcore.dedup.member`
_MEMBERS_AT_ONCE = 2_000
"""In one script: a whole batch, which takes a server a millisecond; Lua cannot take apart more than about 7,000."""
_TOKEN_BYTES = 8
_SEEN = ord("1")
_REFUSAL_CHARACTERS = 100
_STAYS_WINDOWS = 2.1
"""From the beginning of its window, how long a set may stay where nobody unlinks it. Above two, so that marks in the
window after the next one come first: expiring blocks the server, 0.2 seconds for each million."""

_Call = Literal["seen", "mark"]


async def open_dedup(url: str) -> DedupCache:
    """Make a cache on a Redis server, which may be away: connecting is left to the first call.

    Args:
        url: see `adapters.redis.address`.

    Raises:
        StoreError: the URL says what it must not, or names a file that cannot be read; kind ``invalid``.
    """
    address = address_of(url)
    return RedisCache(Connections(address), address.options)


class RedisCache:
    """A `DedupCache` on a Redis server; `open_dedup` makes it.

    A call that Redis does not answer comes to nothing, see `trouble` and the two counts. A readiness check may ask for
    any one member, and look at `healthy` then.

    Args:
        connections: to the server.
        options: of the URL.
        clock: the time, in seconds since the epoch.
        circuit: keeps calls from a server that is away.
    """

    def __init__(
        self,
        connections: Connections,
        options: Options,
        *,
        clock: Callable[[], float] = time,
        circuit: Circuit | None = None,
    ) -> None:
        self._connections = connections
        self._options = options
        self._clock = clock
        self._circuit = circuit or Circuit()
        self._closed = False
        self._away: str | None = None
        self._refused: dict[_Call, str] = {}
        self._failures: dict[_Call, int] = {"seen": 0, "mark": 0}

    @property
    def healthy(self) -> bool:
        """Whether, as far as is known, both lookups and marks work; true before the first call."""
        return self.trouble is None

    @property
    def trouble(self) -> str | None:
        """What is wrong, in a sentence for people that holds nothing of the URL; None when nothing is."""
        return self._away or next(iter(self._refused.values()), None)

    @property
    def seen_failures(self) -> int:
        """How many lookups got no answer from Redis, those that were not sent because it was away included."""
        return self._failures["seen"]

    @property
    def mark_failures(self) -> int:
        """How many calls of `mark` were not known to be done, those that were not sent included."""
        return self._failures["mark"]

    async def seen(self, namespace: str, members: Sequence[bytes]) -> Sequence[bool]:
        """See `DedupCache.seen`; it takes no longer than ``timeout_ms``."""
        window = self._window(self._clock())
        keys = [self._key(namespace, window), self._key(namespace, window - 1)]
        answer = await self._call("seen", keys, members)
        if answer is None:
            return [False] * len(members)
        return [flag == _SEEN for flag in answer]

    async def mark(self, namespace: str, members: Sequence[bytes]) -> None:
        """See `DedupCache.mark`; it takes no longer than ``timeout_ms``."""
        now = self._clock()
        window = self._window(now)
        stays_seconds = (window + _STAYS_WINDOWS) * self._options.ttl_seconds - now
        keys = [self._key(namespace, window), self._key(namespace, window - 2)]
        await self._call("mark", keys, members, round(stays_seconds * 1_000))

    async def close(self) -> None:
        """Let go of the connections; what is marked stays. Closing again does nothing."""
        self._closed = True
        await self._connections.close()

    def _window(self, now: float) -> int:
        return int(now // self._options.ttl_seconds)

    def _key(self, namespace: str, window: int) -> bytes:
        return f"{self._options.prefix}:{{{namespace}}}:{window}".encode(errors="surrogatepass")

    async def _call(self, call: _Call, keys: Sequence[bytes], members: Sequence[bytes], *more: int) -> bytes | None:
        """The reply without its token; None for whatever can go wrong."""
        if self._closed or not members:
            return None
        if not self._circuit.lets_through():
            self._failures[call] += 1
            return None
        try:
            answer = await self._ask(call, keys, members, more)
        except Exception as error:
            self._note(call, error)
            return None
        self._circuit.succeeded()
        self._away = None
        self._refused.pop(call, None)
        return answer

    async def _ask(self, call: _Call, keys: Sequence[bytes], members: Sequence[bytes], more: Sequence[int]) -> bytes:
        token = token_bytes(_TOKEN_BYTES)
        commands: list[Command] = [
            ("EVAL", _script(call), len(keys), *keys, token, _MEMBER_BYTES, part, *more) for part in _joined(members)
        ]
        answer = b"".join(await self._connections.exchange(commands, token))
        if call == "seen" and (len(answer) != len(members) or answer.strip(b"01")):
            raise Mixed
        return answer

    def _note(self, call: _Call, error: Exception) -> None:
        self._failures[call] += 1
        if isinstance(error, ResponseError):
            self._circuit.succeeded()  # it is there, and took no time to refuse
            self._away = None
            self._refused[call] = self._sentence(error)
            return
        if isinstance(error, AllBusy):  # which says nothing of the server
            self._away = self._away or self._sentence(error)
            return
        self._circuit.failed(late=isinstance(error, TimeoutError))
        self._away = self._sentence(error)

    def _sentence(self, error: Exception) -> str:
        match error:
            case AllBusy():
                return f"all {self._options.connections} connections to Redis were busy; the URL may allow more"
            case TimeoutError():
                return f"Redis did not answer within {self._options.timeout_ms} ms"
            case AuthenticationError():
                return "Redis refuses the user or the password of the URL"
            case MovedError():
                return "this is one node of a Redis Cluster; name a server or a proxy that has all keys"
            case ResponseError():
                return f"Redis refuses: {str(error)[:_REFUSAL_CHARACTERS]}"
            case Mixed():
                return "what answers is not Redis, or mixes up its replies"
            case _:
                return "Redis cannot be reached"


def _joined(members: Sequence[bytes]) -> list[bytes]:
    kept = [
        member if len(member) == _MEMBER_BYTES else blake2b(member, digest_size=_MEMBER_BYTES).digest()
        for member in members
    ]
    return [b"".join(kept[start : start + _MEMBERS_AT_ONCE]) for start in range(0, len(kept), _MEMBERS_AT_ONCE)]


@cache
def _script(call: _Call) -> str:
    lines = (files(__package__) / f"{call}.lua").read_text(encoding="utf-8").splitlines()
    return "\n".join(line for line in lines if not line.startswith("--"))
