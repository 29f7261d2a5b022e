"""POST /events: from a request to the core and back, as plain ASGI, because this is the route that must be fast.

The answer's status says what the sender has to do: 202 nothing, 408 and 503 send the same again, any other 4xx mend
it first. Not here: reading the body (`bodies`), what happens to events (`eventcore.ingestion`).
"""

import asyncio
from time import perf_counter
from typing import Final

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from entrypoints.http.bodies import InFlight, form_of, is_gzipped, read_body
from entrypoints.http.exchange import Exchange, exchange_of
from entrypoints.http.parameters import IngestParameters, read_ingest_parameters
from entrypoints.http.problems import HttpProblem
from entrypoints.telemetry import Metrics
from eventcore.decoding import Form, decode
from eventcore.events import Outcome
from eventcore.service import Eventcore, check_project

_DECODE_HERE_BYTES: Final = 512 * 1024
"""Larger bodies are decoded in a thread: 10 MiB take 130 ms, and seconds when made to be slow, which no other request
should wait for. A usual batch takes 3 ms, and threads would only make it slower."""
_DECODERS: Final = 2
"""Bodies decoded in threads at once; what they unfold to in memory is several times their size."""

_encode: Final = msgspec.json.Encoder().encode


class Ingest:
    """The ASGI endpoint; see the module.

    Args:
        metrics: where batches are counted.
        in_flight_bytes: bytes of all bodies held at once.
        body_timeout_seconds: how long a client may take to send its body.
    """

    def __init__(self, *, metrics: Metrics, in_flight_bytes: int, body_timeout_seconds: float) -> None:
        self._metrics = metrics
        self._in_flight = InFlight(in_flight_bytes)
        self._body_timeout_seconds = body_timeout_seconds
        self._decoders = asyncio.Semaphore(_DECODERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; refusals are raised."""
        core: Eventcore = scope["app"].state.eventcore
        exchange = exchange_of(scope)
        asked = read_ingest_parameters(scope["query_string"])
        check_project(asked.project)
        form = form_of(scope)
        gzipped = is_gzipped(scope)
        with self._in_flight.lease() as lease:
            body = await read_body(
                scope,
                receive,
                lease,
                gzipped=gzipped,
                most_bytes=core.limits.body_bytes,
                timeout_seconds=self._body_timeout_seconds,
            )
            exchange.notes["body_bytes"] = len(body)
            began = perf_counter()
            outcome = await self._take_in(core, body, form, asked)
        if not asked.dry_run:
            self._metrics.count_batch(outcome, perf_counter() - began)
        _note(exchange, asked, outcome)
        if outcome.rejected and not (outcome.accepted or outcome.duplicates or outcome.conflicts):
            raise _nothing_kept(outcome, strict=asked.strict)
        status = 200 if asked.dry_run else 202
        await Response(_encode(outcome), status, media_type="application/json")(scope, receive, send)

    async def _take_in(self, core: Eventcore, body: bytes, form: Form, asked: IngestParameters) -> Outcome:
        if len(body) <= _DECODE_HERE_BYTES:
            return await core.ingest_body(
                body, project=asked.project, form=form, strict=asked.strict, dry_run=asked.dry_run
            )
        async with self._decoders:
            decoded = await asyncio.to_thread(decode, body, now_us=core.now_us(), form=form, limits=core.limits)
        return await core.ingest_decoded(decoded, project=asked.project, strict=asked.strict, dry_run=asked.dry_run)


def _note(exchange: Exchange, asked: IngestParameters, outcome: Outcome) -> None:
    exchange.notes.update(
        project=asked.project,
        accepted=outcome.accepted,
        duplicates=outcome.duplicates,
        conflicts=outcome.conflicts,
        rejected=outcome.rejected,
    )
    if asked.dry_run:
        exchange.notes["dry_run"] = True


def _nothing_kept(outcome: Outcome, *, strict: bool) -> HttpProblem:
    code, message = "no_valid_event", "no event of this batch is valid; errors says what is wrong with each"
    if strict:
        code = "strict_refused"
        message = "strict keeps nothing of a batch with a flaw; errors says what to mend, then send all of it again"
    return HttpProblem(422, code, message, extra=msgspec.to_builtins(outcome))
