"""The URL of a queue on NATS: where, who, which stream, and what of it may be shown.

    nats://user:password@host:4222,other:4222/STREAM?replicas=3
    tls://token@host/STREAM?tls_ca=/etc/ssl/nats-ca.pem

A user without a password is a token. The stream is EVENTCORE where none is named. With ``tls://`` or any option that
begins with ``tls_`` nothing secret is sent to a server that does not encrypt. Name every server of a cluster: others
are not discovered. The fields of `Options` are the options. Not here: connecting.
"""

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, unquote

import msgspec

from eventcore.errors import Kind, StoreError

DEFAULT_PORT = 4222
DEFAULT_STREAM = "EVENTCORE"

# Python's own urlsplit refuses several hosts with an IPv6 address among them, in some versions.
_URL = re.compile(
    r"(?P<scheme>\w+)://(?P<netloc>[^/?#]*)(?P<path>[^?#]*)(?:\?(?P<query>[^#]*))?(?P<fragment>#.*)?",
    re.ASCII | re.DOTALL,
)
_HOST = re.compile(r"(?P<name>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?")
_STREAM = re.compile(r"[A-Za-z0-9_-]{1,100}")
_PREFIX = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a URL may say after ``?``.

    Attributes:
        prefix: what the subjects of the messages begin with; the name of the stream in small letters when empty.
        replicas: servers of a cluster that keep each message.
        max_bytes: room of the stream; senders are told to wait when it is used up. None takes 8 GiB, or as much as the
            server has left.
        ack_wait_seconds: how long a worker may be silent about a message before another one gets it.
        max_ack_pending: messages that all workers together may have in hand.
        in_flight: messages that one process sends at the same time.
        timeout_seconds: for one call.
        creds_file: a file of credentials, as the tool ``nsc`` makes them; needs the package ``nkeys``.
        nkey_file: a file with the seed of an nkey; needs the package ``nkeys``.
        tls_ca: a file with the certificates to trust, instead of the system's.
        tls_cert: a file with the certificate to show to the server.
        tls_key: a file with its key, where that is another one.
    """

    prefix: str = ""
    replicas: int = 1
    max_bytes: int | None = None
    ack_wait_seconds: float = 30.0
    max_ack_pending: int = 10_000
    in_flight: int = 64
    timeout_seconds: float = 5.0
    creds_file: str = ""
    nkey_file: str = ""
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""


_LEAST_AND_MOST = {
    "replicas": (1, 5),
    "max_bytes": (1024 * 1024, 2**60),
    "ack_wait_seconds": (1, 3_600),
    "max_ack_pending": (1, 1_000_000),
    "in_flight": (1, 10_000),
    "timeout_seconds": (0.1, 600),
}


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """A URL, taken apart.

    Attributes:
        hosts: names with ports.
        user, password: to show to the server; None when the URL names none.
        token: instead of these two.
        encrypted: whether a server that does not encrypt is refused.
        stream: the name of the stream.
        options: the rest.
        chosen: the names of the options that the URL names.
        shown: hosts and ports, for people.
    """

    hosts: tuple[str, ...]
    user: str | None
    password: str | None
    token: str | None
    encrypted: bool
    stream: str
    options: Options
    chosen: frozenset[str]
    shown: str

    @property
    def prefix(self) -> str:
        """What subjects begin with."""
        return self.options.prefix or self.stream.lower()


def address_of(url: str) -> Address:
    """Take a URL apart.

    Raises:
        StoreError: kind ``invalid``; the message holds nothing of the URL but names of options.
    """
    parts = _URL.fullmatch(url)
    if parts is None:
        raise _invalid("this is not a URL; write nats://user:password@host:port/STREAM")
    login, _, hosts = parts["netloc"].rpartition("@")
    # Where a password ends too early, what is left of it would be taken for a host, and be shown.
    if parts["fragment"] or "@" in login or ("@" not in parts["netloc"] and "@" in url):
        raise _invalid("in a user or a password, write @ as %40, / as %2F, ? as %3F, # as %23 and : as %3A")
    user, colon, password = login.partition(":")
    given = _given(parts["query"] or "")
    options = _options(given)
    found = _hosts(hosts)
    return Address(
        hosts=found,
        user=unquote(user) if colon else None,
        password=unquote(password) if colon else None,
        token=unquote(user) if user and not colon else None,
        encrypted=parts["scheme"] == "tls" or any((options.tls_ca, options.tls_cert, options.tls_key)),
        stream=_stream(parts["path"]),
        options=options,
        chosen=frozenset(given),
        shown=", ".join(found),
    )


def _hosts(text: str) -> tuple[str, ...]:
    hosts = []
    for part in (text or "127.0.0.1").split(","):
        found = _HOST.fullmatch(part)
        if found is None or not 0 < int(found["port"] or DEFAULT_PORT) < 65_536:
            raise _invalid("a host of the URL is none; write them as host:port, with commas between")
        hosts.append(f"{found['name']}:{found['port'] or DEFAULT_PORT}")
    return tuple(hosts)


def _stream(path: str) -> str:
    name = path.removeprefix("/") or DEFAULT_STREAM
    if _STREAM.fullmatch(name) is None:
        raise _invalid("the path of the URL is the name of the stream: at most 100 letters, digits, - and _")
    return name


def _given(query: str) -> Mapping[str, str]:
    try:
        return dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError as error:
        raise _invalid("after the ? of the URL stand options: name=value, with & between") from error


def _options(given: Mapping[str, str]) -> Options:
    if unknown := sorted(given.keys() - {*Options.__struct_fields__}):
        raise _invalid(f"there is no option {unknown[0][:64]!r}; there are {', '.join(Options.__struct_fields__)}")
    try:
        options = msgspec.convert(given, Options, strict=False)
    except msgspec.ValidationError as error:
        raise _invalid(f"an option of the URL is not a number where one is needed: {error}") from error
    for name, (least, most) in _LEAST_AND_MOST.items():
        value = getattr(options, name)
        if value is not None and not least <= value <= most:
            raise _invalid(f"{name} must lie between {least} and {most}")
    if options.prefix and _PREFIX.fullmatch(options.prefix) is None:
        raise _invalid("prefix is made of letters, digits, - and _, with dots between")
    if options.tls_key and not options.tls_cert:
        raise _invalid("tls_key is the key of tls_cert: name both, or neither")
    return options


def _invalid(message: str) -> StoreError:
    return StoreError(Kind.INVALID, "invalid_url", message)
