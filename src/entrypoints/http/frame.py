"""The frame around every request: its id, the guard, one log line, its metrics, and the last net for errors.

Plain ASGI, because it runs for every request. Not here: problems that routes know about (`problems`).
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from os import urandom
from time import perf_counter

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from entrypoints.http.exchange import ClientGone, Exchange, header_values, open_exchange
from entrypoints.http.problems import HttpProblem, problem_response
from entrypoints.telemetry import LOGGER, Metrics
from eventcore.keys import PREFIX

CLIENT_GONE_STATUS = 499
"""What logs and metrics show for a request that was cut; nobody receives it. nginx uses the same number."""

_SANE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)
_STOPPING = HttpProblem(503, "stopping", "the server is stopping; send the same again", headers={"Connection": "close"})
_INTERNAL = HttpProblem(
    500, "internal_error", "something went wrong here; the log has it under this request_id. Sending again is safe"
)


class Frame:
    """ASGI middleware; see the module.

    Args:
        app: what it surrounds.
        metrics: where requests are counted.
        guard: gives the problem of a request that must not reach the app, or None.
    """

    def __init__(
        self, app: ASGIApp, *, metrics: Metrics, guard: Callable[[Scope], Awaitable[HttpProblem | None]]
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._guard = guard
        self._log = structlog.get_logger(LOGGER)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = perf_counter()
        exchange = open_exchange(scope, _request_id(scope))
        id_header = (b"x-request-id", exchange.request_id.encode())
        status = 0
        sent_bytes = 0

        async def send_noting(message: Message) -> None:
            nonlocal status, sent_bytes
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), id_header]
            else:
                sent_bytes += len(message.get("body", b""))
            await send(message)

        async def refuse(problem: HttpProblem) -> None:
            if status:
                return  # half an answer is out; the server says so in its log and cuts the connection
            exchange.notes["code"] = problem.code
            await problem_response(problem, exchange.request_id)(scope, receive, send_noting)

        try:
            refusal = await self._guard(scope)
            if refusal is not None:
                await refuse(refusal)
            else:
                await self._app(scope, receive, send_noting)
        except ClientGone:
            status = CLIENT_GONE_STATUS
        except asyncio.CancelledError:
            # The server cancels what has not ended when the grace time is over. This task is the request's own and
            # ends here, so nobody waits for the cancellation to go on.
            await refuse(_STOPPING)
        except Exception:
            self._log.exception("request failed", request_id=exchange.request_id)
            await refuse(_INTERNAL)
        finally:
            self._note(scope, exchange, status, sent_bytes, perf_counter() - began)

    def _note(self, scope: Scope, exchange: Exchange, status: int, sent_bytes: int, seconds: float) -> None:
        endpoint = getattr(scope.get("route"), "path", "unmatched")
        self._metrics.count_request(scope["method"], endpoint, status, seconds)
        self._log.info(
            "request",
            request_id=exchange.request_id,
            method=scope["method"],
            endpoint=endpoint,
            status=status,
            sent_bytes=sent_bytes,
            duration_ms=round(seconds * 1_000, 3),
            **exchange.notes,
        )


def _request_id(scope: Scope) -> str:
    sent = header_values(scope, b"x-request-id")
    # It is logged, and whoever sends a key in the wrong header must not find it there.
    is_sane = len(sent) == 1 and _SANE_ID.fullmatch(sent[0]) and PREFIX not in sent[0]
    return sent[0] if is_sane else urandom(12).hex()
