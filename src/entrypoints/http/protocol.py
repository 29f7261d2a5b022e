"""uvicorn's HTTP/1.1 protocol with the limits that it lacks.

They bound the size and the time of a request's head, and what a client may go on sending after its answer. httptools
has none of its own: a header that never ends would be collected for ever. Not here: limits on bodies, which the app
keeps (`bodies`).
"""

import asyncio
from os import urandom
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from entrypoints.http.problems import MEDIA_TYPE, HttpProblem, problem_body

LINGER_SECONDS = 2.0
"""How long the rest of a refused body is read and thrown away, so that the client gets to see the answer instead of a
reset; longer would be a way to keep the server busy."""


WITH_BODY = frozenset({b"POST", b"PUT", b"PATCH"})
"""Methods of requests that mean nothing without their body."""


class _HeadRefused(Exception):
    """The head is over a limit; stops the parser."""


class BoundedHttp(HttpToolsProtocol):
    """One connection; subclass it with the limits filled in, see `bounded_http`."""

    head_bytes: int
    head_fields: int
    head_timeout_seconds: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._running: RequestResponseCycle | None = None
        self._in_message = False
        self._in_head = False
        self._saw_body = False
        self._silent_bytes = 0
        self._fields = 0
        self._field_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None
        self._refusal = HttpProblem(400, "invalid_http", "this is not a well-formed HTTP/1.1 request")

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client came; it has to say something soon."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._stop_timers()
        self._drop_pipeline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what came, under the limits."""
        went_on = self._in_message
        self._saw_body = False
        super().data_received(data)
        if went_on and self._in_message and not self._saw_body and not self.transport.is_closing():
            # All of it belongs to one head, trailer or chunk extension that has not ended: no callback has shown it.
            self._silent_bytes += len(data)
            if self._silent_bytes > self.head_bytes:
                self._refuse(self._too_large())

    def on_message_begin(self) -> None:
        """A request's head begins."""
        super().on_message_begin()
        self._in_message = self._in_head = True
        self._silent_bytes = self._fields = self._field_bytes = 0
        if self._head_timer is None:
            self._await_head()

    def on_url(self, url: bytes) -> None:
        """A piece of the request's target."""
        super().on_url(url)
        self._count_field(0, len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer behind a chunked body; both count."""
        self._count_field(1, len(name) + len(value))
        if self._in_head:
            super().on_header(name, value)
            # The parser takes what follows such a head for another protocol, so a body would be lost without a word.
            if name.lower() == b"upgrade" and self.parser.get_method() in WITH_BODY:
                message = "only HTTP/1.1 is spoken here: send the request without the Upgrade header"
                self._refusal = HttpProblem(400, "upgrade_not_supported", message)
                raise _HeadRefused

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._in_head = False
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        super().on_headers_complete()
        if not self.pipeline:
            self._running = self.cycle

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._saw_body = True
        self._silent_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._in_message = False
        if self._linger_timer is not None:
            self._linger_timer.cancel()
            self._linger_timer = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """The answer is out; if the request still is not whole, its rest is thrown away for a while."""
        if self.pipeline:
            self._running = self.pipeline[-1][0]  # what uvicorn takes up next; its own `cycle` is the newest one
        super().on_response_complete()
        # Where requests are pipelined, what is not whole may be the next one, which nobody has refused.
        unread = self._in_message and not self._in_head and self.cycle.response_complete
        if unread and not self.transport.is_closing():
            self._linger_timer = self.loop.call_later(LINGER_SECONDS, self.transport.close)

    def send_400_response(self, msg: str) -> None:
        """Answer what the parser gave up on."""
        self._refuse(self._refusal)

    def _await_head(self) -> None:
        self._head_timer = self.loop.call_later(self.head_timeout_seconds, self._head_timed_out)

    def _head_timed_out(self) -> None:
        self._head_timer = None
        if self._in_head:
            self._refuse(HttpProblem(408, "head_timeout", "the request's head did not come in time"))
        else:
            self.transport.close()

    def _count_field(self, fields: int, count: int) -> None:
        self._fields += fields
        self._field_bytes += count
        if self._fields > self.head_fields or self._field_bytes > self.head_bytes:
            self._refusal = self._too_large()
            raise _HeadRefused

    def _too_large(self) -> HttpProblem:
        return HttpProblem(
            431,
            "head_too_large",
            f"a request's line and headers have at most {self.head_bytes} bytes and {self.head_fields} headers",
        )

    def _refuse(self, problem: HttpProblem) -> None:
        if self.transport.is_closing():
            return
        if self._may_answer():
            self.transport.write(self._answer(problem))
        # uvicorn's types hide that there is no cycle before the first request.
        if self.cycle is not None and not self.cycle.response_complete:  # type: ignore[redundant-expr]
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self._drop_pipeline()
        self.transport.close()

    def _drop_pipeline(self) -> None:
        """Nobody will have the answer of the request that is being answered, nor of those that wait behind it."""
        running = [] if self._running is None or self._running.response_complete else [self._running]
        for cycle in (*running, *(waiting for waiting, _ in self.pipeline)):
            cycle.disconnected = True
            cycle.message_event.set()
        self.pipeline.clear()

    def _may_answer(self) -> bool:
        """Whether an answer now would be taken for that of the request at fault and of no other."""
        if self.cycle is None or self.cycle.response_complete:  # type: ignore[redundant-expr]
            return True
        in_its_body = self._in_message and not self._in_head and not self.pipeline
        return in_its_body and not self.cycle.response_started

    def _answer(self, problem: HttpProblem) -> bytes:
        request_id = urandom(12).hex()
        body = problem_body(problem, request_id)
        lines = [
            STATUS_LINE[problem.status],
            *(name + b": " + value + b"\r\n" for name, value in self.server_state.default_headers),
            f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nx-request-id: {request_id}\r\n".encode(),
            b"connection: close\r\n\r\n",
            body,
        ]
        return b"".join(lines)

    def _stop_timers(self) -> None:
        for timer in (self._head_timer, self._linger_timer):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._linger_timer = None


def bounded_http(*, head_bytes: int, head_fields: int, head_timeout_seconds: float) -> type[BoundedHttp]:
    """The protocol class with these limits, for uvicorn's ``http``."""
    limits = {
        "head_bytes": head_bytes,
        "head_fields": head_fields,
        "head_timeout_seconds": head_timeout_seconds,
        "__doc__": "One connection, with its limits.",
    }
    return type("LimitedHttp", (BoundedHttp,), limits)
