"""The URL of a store: what is the driver's, what is ours, and what of it may be shown.

Whatever libpq and asyncpg understand goes to the driver: several hosts, ``sslmode`` and its kin, ``passfile``,
``target_session_attrs``. Other options become settings of the server (``search_path``, ``synchronous_commit``), apart
from ours, which are the fields of `Options`. Not here: connecting.
"""

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import msgspec

from eventcore.errors import Kind, StoreError

DEFAULT_PORT = 5432

_SHOWN_HOST = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a URL may say to us, after ``?``.

    Attributes:
        writers: connections that write at the same time. More of them help a server with many processors; on two,
            the second one uses the time that the first waits for the disk.
        readers: connections that read at the same time.
        timeout_seconds: for one statement; a call may take a few of them.
        timescaledb: ``auto`` uses the extension where the server has it, ``off`` never makes a hypertable.
        chunk_days: days in one chunk of the hypertable. Taken by `migrate`, as the next two are.
        columnstore_days: age at which chunks are compressed; 0 never does.
        retention_days: age at which raw events are dropped; 0 keeps them for ever.
    """

    writers: int = 2
    readers: int = 4
    timeout_seconds: float = 30.0
    timescaledb: str = "auto"
    chunk_days: int = 7
    columnstore_days: int = 30
    retention_days: int = 0


_LEAST_AND_MOST = {
    "writers": (1, 100),
    "readers": (1, 100),
    "timeout_seconds": (0.1, 3_600),
    "chunk_days": (1, 3_660),
    "columnstore_days": (0, 36_600),
    "retention_days": (0, 36_600),
}


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """A URL, taken apart.

    Attributes:
        dsn: for the driver; may hold a password.
        shown: hosts and ports, for people.
        given: the names of the options that go to the driver or the server.
        options: ours.
        chosen: the names of those of ours that the URL names.
    """

    dsn: str
    shown: str
    given: frozenset[str]
    options: Options
    chosen: frozenset[str]


def address_of(url: str) -> Address:
    """Take a URL apart.

    Raises:
        StoreError: kind ``invalid``; the message holds nothing of the URL but names of options.
    """
    try:
        parts = urlsplit(url)
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError as error:
        raise _invalid("this is not a URL; write postgresql://user:password@host:port/database") from error
    user, _, hosts = parts.netloc.rpartition("@")
    # Where a password ends too early, what is left of it would be taken for a host, and be shown.
    if parts.fragment or "@" in user or ("@" not in parts.netloc and "@" in url):
        raise _invalid("in a user or a password, write @ as %40, / as %2F, ? as %3F, # as %23 and : as %3A")
    given = {key: value for key, value in pairs if key not in Options.__struct_fields__}
    own = {key: value for key, value in pairs if key in Options.__struct_fields__}
    query = urlencode(given, quote_via=quote)
    return Address(
        dsn=urlunsplit((parts.scheme, parts.netloc, parts.path, query, "")),
        shown=_shown(hosts or given.get("host", "")),
        given=frozenset(given),
        options=_options(own),
        chosen=frozenset(own),
    )


def _shown(hosts: str) -> str:
    shown = []
    for host in hosts.split(",") if hosts else ():
        found = _SHOWN_HOST.fullmatch(host)
        if found is None:
            return "the server of this URL"  # a folder of sockets, or nothing that can be a host
        shown.append(f"{found[1]}:{found[2] or DEFAULT_PORT}")
    return ", ".join(shown) or "the local server"


def _options(own: Mapping[str, str]) -> Options:
    try:
        options = msgspec.convert(own, Options, strict=False)
    except msgspec.ValidationError as error:
        raise _invalid(f"an option of the URL is not a number where one is needed: {error}") from error
    for name, (least, most) in _LEAST_AND_MOST.items():
        if not least <= getattr(options, name) <= most:
            raise _invalid(f"{name} must lie between {least} and {most}")
    if options.timescaledb not in ("auto", "off"):
        raise _invalid("timescaledb is auto or off")
    return options


def _invalid(message: str) -> StoreError:
    return StoreError(Kind.INVALID, "invalid_url", message)
