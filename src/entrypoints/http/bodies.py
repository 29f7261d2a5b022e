"""Reading a request's body under limits: of size, of time, of all bodies together, and of what a gzip unfolds to.

Nothing is read that is known to be refused, and at no moment is more held than the limits say. Not here: what the bytes
mean (`eventcore.decoding`).
"""

import asyncio
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from starlette.types import Receive, Scope

from entrypoints.http.exchange import ClientGone, header_values
from entrypoints.http.problems import HttpProblem
from eventcore.decoding import Form

FORMS: Final[dict[str, Form]] = {
    "application/json": "json",
    "application/x-ndjson": "ndjson",
    "application/ndjson": "ndjson",
    "application/jsonl": "ndjson",
}
"""The media types that are accepted. JSON lines have no registered one; these three are what senders use."""

CODINGS: Final = "gzip, identity"

_CHARSET = re.compile(r';[ \t]*charset[ \t]*=[ \t]*(?:"([^"]*)"|([^ \t;]*))', re.IGNORECASE)
_DIGITS = re.compile(r"[0-9]{1,18}", re.ASCII)

_INFLATE_HERE_BYTES: Final = 16 * 1024
"""Compressed bodies up to this are inflated on the event loop: at gzip's usual 5 to 10 times that takes some 0.3 ms,
and at most 10 ms (a bomb); a hop to a thread costs 0.1 ms and more."""
_FEED_BYTES: Final = 64 * 1024
_MOST_MEMBERS: Final = 1_000
"""Members of one gzip body. A block compressor writes one for each 64 KiB, so 160 in the largest body; half a million
empty ones would cost minutes."""


class InFlight:
    """A bound on the bytes of all bodies that are held at once, so that load ends in 503 and not in lost memory.

    Args:
        most_bytes: the bound.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._held_bytes = 0

    @contextmanager
    def lease(self) -> Iterator["Lease"]:
        """Room for one body, empty at first; given back at the end."""
        lease = Lease(self)
        try:
            yield lease
        finally:
            self._held_bytes -= lease.held_bytes

    def take(self, count: int, *, keep: bool) -> None:
        """Take ``count`` bytes more, or with ``keep`` false only look whether there is room.

        Raises:
            HttpProblem: there is none; 503.
        """
        if self._held_bytes + count > self._most_bytes:
            raise HttpProblem(503, "overloaded", "too many bodies are being read at once; send the same again, later")
        if keep:
            self._held_bytes += count


class Lease:
    """One body's part of an `InFlight`."""

    def __init__(self, owner: InFlight) -> None:
        self._owner = owner
        self.held_bytes = 0

    def expect(self, count: int) -> None:
        """Refuse early when ``count`` bytes would not fit now."""
        self._owner.take(count, keep=False)

    def grow(self, count: int) -> None:
        """Hold ``count`` bytes more."""
        self._owner.take(count, keep=True)
        self.held_bytes += count


def form_of(scope: Scope) -> Form:
    """The form that ``Content-Type`` names.

    Raises:
        HttpProblem: it is missing, is none that is accepted, or says a charset other than UTF-8; 415.
    """
    values = header_values(scope, b"content-type")
    value = values[0] if len(values) == 1 else ""
    charset = _CHARSET.search(value)
    if charset and (charset[1] or charset[2] or "").lower() not in ("utf-8", "utf8"):
        raise HttpProblem(
            415, "unsupported_charset", "JSON is UTF-8; send it so and leave the charset out", field="Content-Type"
        )
    form = FORMS.get(value.partition(";")[0].strip(" \t").lower())
    if form is None:
        accepted = ", ".join(FORMS)
        raise HttpProblem(
            415,
            "unsupported_media_type",
            f"send one Content-Type of: {accepted}",
            field="Content-Type",
            headers={"Accept-Post": accepted},
        )
    return form


def is_gzipped(scope: Scope) -> bool:
    """Whether ``Content-Encoding`` says gzip rather than nothing.

    Raises:
        HttpProblem: it says something else, or several codings; 415.
    """
    values = [value.strip(" \t").lower() for value in header_values(scope, b"content-encoding")]
    if values in ([], [""], ["identity"]):
        return False
    if values in (["gzip"], ["x-gzip"]):
        return True
    raise HttpProblem(
        415,
        "unsupported_encoding",
        f"one Content-Encoding is accepted, of: {CODINGS}",
        field="Content-Encoding",
        headers={"Accept-Encoding": CODINGS},
    )


async def read_body(
    scope: Scope, receive: Receive, lease: Lease, *, gzipped: bool, most_bytes: int, timeout_seconds: float
) -> bytes:
    """Read the whole body, decompressed.

    Args:
        scope: the request.
        receive: gives its pieces.
        lease: room for them.
        gzipped: whether they are compressed.
        most_bytes: the limit, compressed and decompressed.
        timeout_seconds: how long the client may take.

    Raises:
        HttpProblem: a limit was reached, or the compression is broken.
        ClientGone: the connection was cut before the end.
    """
    declared = header_values(scope, b"content-length")
    if declared and _DIGITS.fullmatch(declared[0]):
        if int(declared[0]) > most_bytes:
            raise _too_large(most_bytes)
        lease.expect(int(declared[0]))
    try:
        async with asyncio.timeout(timeout_seconds):
            body = await _collect(receive, lease, most_bytes)
    except TimeoutError as error:
        raise HttpProblem(
            408,
            "body_timeout",
            f"the body was not whole after {timeout_seconds:g} seconds; send the same again",
            headers={"Connection": "close"},
        ) from error
    if not gzipped:
        return body
    if len(body) <= _INFLATE_HERE_BYTES:
        inflated = inflate(body, most_bytes=most_bytes)
    else:
        lease.expect(most_bytes)
        inflated = await asyncio.to_thread(inflate, body, most_bytes=most_bytes)
    lease.grow(len(inflated))
    return inflated


async def _collect(receive: Receive, lease: Lease, most_bytes: int) -> bytes:
    pieces: list[bytes] = []
    size = 0
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        piece = message.get("body", b"")
        more = message.get("more_body", False)
        size += len(piece)
        if size > most_bytes:
            raise _too_large(most_bytes)
        lease.grow(len(piece))
        pieces.append(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def inflate(compressed: bytes, *, most_bytes: int) -> bytes:
    """Decompress gzip (RFC 1952), of one member or several, into at most ``most_bytes``.

    Raises:
        HttpProblem: it unfolds to more, 413; or it is cut short, damaged, or followed by something else, 400.
    """
    pieces: list[bytes] = []
    size = members = position = 0
    member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    while position < len(compressed):
        if member.eof:
            members += 1
            member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        if members > _MOST_MEMBERS:
            raise _bad_gzip(f"has more than {_MOST_MEMBERS} members")
        fed = compressed[position : position + _FEED_BYTES]
        try:
            piece = member.decompress(fed, most_bytes + 1 - size)
        except zlib.error as error:
            raise _bad_gzip("is damaged or followed by something else") from error
        size += len(piece)
        if size > most_bytes:
            raise _too_large(most_bytes)
        pieces.append(piece)
        # What unfolded stayed under the bound just asked for, so zlib left nothing back but what follows a member.
        position += len(fed) - len(member.unused_data)
    if compressed and not member.eof:
        raise _bad_gzip("ends too early")
    return b"".join(pieces)


def _bad_gzip(what: str) -> HttpProblem:
    return HttpProblem(400, "invalid_gzip", f"the gzip body {what}; compress it anew and send it whole")


def _too_large(most_bytes: int) -> HttpProblem:
    return HttpProblem(
        413,
        "body_too_large",
        f"a body holds at most {most_bytes} bytes, decompressed; send the events in several requests",
    )
