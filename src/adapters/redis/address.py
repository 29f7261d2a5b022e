"""The URL of a cache: which server, who we are to it, and our options.

Not here: connecting. Nothing of a URL but the names of its options ever gets into a message.
"""

import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import msgspec

from eventcore.errors import Kind, StoreError

DEFAULT_PORT = 6379

_TLS_SCHEME = "rediss"
_BEGINNINGS = ("redis://", f"{_TLS_SCHEME}://")
_HOST = re.compile(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")
_DATABASE = re.compile(r"(?:/([0-9]{0,5}))?")
_PREFIX = re.compile(r"[A-Za-z0-9._:-]{1,64}")  # without the braces around what follows it in a key
_OPTION = re.compile(r"[a-z_]{1,32}")
_PASSWORD_BYTES = 4_096


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What a URL may say, after ``?``.

    Attributes:
        timeout_ms: what one call may take, connecting included. A call to a server nearby takes one or two; what a
            sender waits longer than a tenth of a second for is worth less than what the cache spares.
        ttl_seconds: how long a mark is remembered at least; at most it is twice that and a tenth. Senders repeat
            themselves within minutes of a timeout or a 503; one who does so after more than the default of six hours
            costs a publish, and is found out by the ledger. At 1,000 events a second six hours are 1.7 GB, and up to
            3.4 GB before the older half is forgotten.
        connections: how many are open at the most; one serves thousands of calls a second.
        prefix: what every key begins with, for a server that others use too.
        password_file: a file with the password, instead of the URL; read when the cache is opened.
        ca_file: certificates (PEM) to trust instead of the system's; this and the next two with ``rediss://`` only.
        cert_file: our own certificate (PEM), for a server that wants one.
        key_file: its key, where ``cert_file`` does not hold it.
    """

    timeout_ms: int = 75
    ttl_seconds: int = 21_600
    connections: int = 8
    prefix: str = "eventcore"
    password_file: str = ""
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""


_LEAST_AND_MOST = {
    "timeout_ms": (1, 10_000),
    "ttl_seconds": (1, 2_592_000),  # thirty days
    "connections": (1, 100),
}


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """A URL, taken apart.

    Attributes:
        host: name or address of the server.
        port: its port.
        database: its number.
        user: who we are; None for the server's default user.
        password: ours; None where the server wants none.
        tls: how the server proves who it is; None without TLS.
        options: ours.
    """

    host: str
    port: int
    database: int
    user: str | None
    password: str | None
    tls: ssl.SSLContext | None
    options: Options

    def __repr__(self) -> str:
        return f"<Address {self.host}:{self.port}/{self.database}>"


def address_of(url: str) -> Address:
    """Take a URL apart, and read the files that it names.

    Raises:
        StoreError: kind ``invalid``.
    """
    try:
        parts = urlsplit(url)
        port = DEFAULT_PORT if parts.port is None else parts.port
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise _not_a_url() from None  # the cause shows a part of the URL
    user, _, host = parts.netloc.rpartition("@")
    # Where a password ends too early, what is left of it would be taken for an option, and be shown.
    if parts.fragment or "@" in user or ("@" not in parts.netloc and "@" in url):
        raise _invalid("in a user or a password, write @ as %40, / as %2F, ? as %3F, # as %23 and : as %3A")
    database = _DATABASE.fullmatch(parts.path)
    is_host = not host or _HOST.fullmatch(parts.hostname or "") is not None
    if not url.startswith(_BEGINNINGS) or database is None or port == 0 or not is_host:
        raise _not_a_url()
    options = _options(pairs, tls=parts.scheme == _TLS_SCHEME)
    return Address(
        host=parts.hostname or "localhost",
        port=port,
        database=int(database[1] or 0),
        user=unquote(parts.username) if parts.username else None,
        password=_password(unquote(parts.password) if parts.password else None, options, bool(parts.username)),
        tls=_tls(options) if parts.scheme == _TLS_SCHEME else None,
        options=options,
    )


def _options(pairs: list[tuple[str, str]], *, tls: bool) -> Options:
    given = dict(pairs)
    for name in given:
        if name not in Options.__struct_fields__:
            named = name if _OPTION.fullmatch(name) else "one of its options"
            raise _invalid(f"the cache has no {named}; it takes {', '.join(Options.__struct_fields__)}")
    if len(given) < len(pairs):
        raise _invalid("an option of the URL is given twice")
    if not tls and given.keys() & {"ca_file", "cert_file", "key_file"}:
        raise _invalid("ca_file, cert_file and key_file are for rediss:// only")
    return _checked(given)


def _checked(given: Mapping[str, str]) -> Options:
    try:
        options = msgspec.convert(given, Options, strict=False)
    except msgspec.ValidationError as error:
        raise _invalid(f"an option of the URL is not a number where one is needed: {error}") from error
    for name, (least, most) in _LEAST_AND_MOST.items():
        if not least <= getattr(options, name) <= most:
            raise _invalid(f"{name} must lie between {least} and {most}")
    if _PREFIX.fullmatch(options.prefix) is None:
        raise _invalid("prefix is 1 to 64 of the characters A-Z a-z 0-9 . _ : -")
    if options.key_file and not options.cert_file:
        raise _invalid("key_file goes with cert_file")
    return options


def _password(given: str | None, options: Options, has_user: bool) -> str | None:
    if given is not None and options.password_file:
        raise _invalid("give the password in the URL or in password_file, not in both")
    if options.password_file:
        given = _read_password(options.password_file)
    if has_user and given is None:
        raise _invalid("a user needs a password: redis://user:password@host, redis://:password@host or password_file")
    return given


def _read_password(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            text = file.read(_PASSWORD_BYTES).decode()
    except (OSError, ValueError) as error:
        raise _invalid("the password_file of the URL cannot be read") from error
    password = text.rstrip("\r\n")  # what an editor or `echo` leaves behind
    if not password:
        raise _invalid("the password_file of the URL is empty")
    return password


def _tls(options: Options) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.ca_file or None)
        if options.cert_file:
            context.load_cert_chain(options.cert_file, options.key_file or None, password=_no_password)
    except (OSError, ValueError) as error:
        raise _invalid(
            "ca_file, cert_file or key_file of the URL cannot be read, or is not what it should be"
        ) from error
    return context


def _no_password() -> str:
    """Without this OpenSSL would ask for the password of a key at the terminal."""
    return ""


def _not_a_url() -> StoreError:
    return _invalid("this is no URL of a cache; write redis://user:password@host:port/database, or rediss:// for TLS")


def _invalid(message: str) -> StoreError:
    return StoreError(Kind.INVALID, "invalid_url", message)
