"""What can go wrong, in the words of the core.

An error says three things: its *kind* (what an entrypoint turns into a status or an exit code), whether sending
the same again can help, and a message that names the way out. Adapters translate their driver's errors into
`StoreError` in one place; the core never sees a driver's class. Not here: HTTP statuses and exit codes, which
belong to the entrypoints.
"""

from enum import StrEnum


class Kind(StrEnum):
    """What an error is about, apart from whether it may be retried."""

    INVALID = "invalid"
    """The caller sent something that can never be accepted."""
    TOO_LARGE = "too_large"
    """The caller sent more than a limit allows."""
    UNSUPPORTED = "unsupported"
    """The caller asked for a form or a URL scheme that nobody here speaks."""
    UNAVAILABLE = "unavailable"
    """A server or file does not answer now; the outcome of the call is unknown."""
    FULL = "full"
    """There is no room: a disk, a stream or a queue at its bound."""
    TIMEOUT = "timeout"
    """A bound on time ran out; the outcome of the call is unknown."""
    DATA = "data"
    """The store refuses these values and always will."""
    SCHEMA = "schema"
    """The store's schema is older or newer than this code, or the file is not a store."""
    CLOSED = "closed"
    """The store was closed before the call could finish."""


RETRYABLE = frozenset({Kind.UNAVAILABLE, Kind.FULL, Kind.TIMEOUT, Kind.CLOSED})
"""Kinds for which sending the same again is right; event ids make it safe."""


MISCONFIGURED = frozenset({"access_denied", "no_database"})
"""Codes of errors whose kind is ``unavailable``, and that time alone seldom mends: somebody has to correct the URL,
or what it names. A process that serves keeps trying, since that may happen while it runs; a command ends."""


class EventcoreError(Exception):
    """The root of every error that eventcore raises on purpose.

    Attributes:
        kind: what it is about.
        code: a stable lower-case name for programs, e.g. ``batch_too_large``.
        message: one sentence or two for people, with the way out. Never holds a secret, SQL or a path of the host.
        field: the name of the offending parameter or member, where there is one.
    """

    def __init__(self, kind: Kind, code: str, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.code = code
        self.message = message
        self.field = field

    @property
    def retryable(self) -> bool:
        """Whether sending the same again can succeed."""
        return self.kind in RETRYABLE

    @property
    def is_misconfiguration(self) -> bool:
        """Whether it is up to somebody to correct what this process was told, rather than to time."""
        return self.code in MISCONFIGURED


class BodyError(EventcoreError):
    """A body that is not a batch of events at all: nothing of it was kept.

    Attributes:
        offset: the byte at which reading failed, where known.
    """

    def __init__(self, code: str, message: str, *, kind: Kind = Kind.INVALID, offset: int | None = None) -> None:
        super().__init__(kind, code, message)
        self.offset = offset


class InvalidQuestion(EventcoreError):
    """A question with a parameter that has no answer; ``field`` names the parameter."""

    def __init__(self, field: str, code: str, message: str) -> None:
        super().__init__(Kind.INVALID, code, message, field=field)


class StoreError(EventcoreError):
    """A store, cache or queue could not do what was asked. ``raise … from`` keeps the driver's error."""


def too_slow(seconds: float) -> StoreError:
    """The error for a question that takes longer than it may."""
    return StoreError(
        Kind.TIMEOUT,
        "question_too_slow",
        f"the question took longer than {seconds:g} seconds: ask for fewer days, or without conditions on properties, "
        "which have raw events read unless they are dimensions (`eventcore dimensions add`); "
        "EVENTCORE_STATISTICS_SECONDS allows more",
    )


def unknown_freshness(error: StoreError) -> StoreError:
    """The error of a queue that cannot tell what is pending, with what this means to who asks for a statistic."""
    told = "as long as the queue does not answer, nobody can say how fresh the numbers are"
    return StoreError(error.kind, error.code, f"{error.message}; {told}")
