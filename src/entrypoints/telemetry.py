"""What a process tells its operator: logs with structlog, metrics with prometheus_client.

Logs go to standard error: JSON lines, or readable text on a terminal. No bodies, no user ids, no keys. Metrics live in
a registry of their own, one per app, with bounded label sets. Not here: what is logged and counted when, which the
entrypoints decide.
"""

import logging
import sys
from collections import Counter as Tally
from collections.abc import Callable
from typing import Any, Literal

import msgspec
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.process_collector import ProcessCollector

from eventcore.draining import Drained
from eventcore.events import Outcome

LogFormat = Literal["auto", "json", "console"]
LOGGER = "eventcore"

_METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})
_REQUEST_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


def configure_logs(*, level: str = "info", form: LogFormat = "auto") -> bool:
    """Set up logging for this process, standard library loggers included.

    Args:
        level: the least that is logged.
        form: ``auto`` is ``console`` on a terminal and ``json`` elsewhere.

    Returns:
        Whether people read the log, rather than programs.
    """
    readable = form == "console" or (form == "auto" and sys.stderr.isatty())
    least = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderers: list[Any]
    if readable:
        # Its usual tracebacks show local variables, which hold headers with keys, and bodies.
        plain = structlog.dev.plain_traceback
        renderers = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]
    else:
        renderers = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_to_json)]
    structlog.configure(
        processors=[*shared, *renderers],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(least, logging.WARNING))
    return readable


def _to_json(entry: Any, **_: Any) -> str:
    return msgspec.json.encode(entry, enc_hook=repr).decode()


class Metrics:
    """The metrics of one app, documented where they are declared; `exposition` writes them out."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._received = Counter(
            "events_received_total",
            "Events sent to POST /events in batches that could be read.",
            registry=self.registry,
        )
        self._ingested = Counter(
            "events_ingested_total", "Events accepted: new, and durable when answered.", registry=self.registry
        )
        self._duplicates = Counter(
            "events_duplicate_total", "Events that were there already, with equal content.", registry=self.registry
        )
        self._failed = Counter(
            "events_failed_total", "Events rejected or in conflict, by code.", ["reason"], registry=self.registry
        )
        self._ingestion_seconds = Histogram(
            "ingestion_duration_seconds",
            "Time from a batch's last byte to its durability.",
            registry=self.registry,
            buckets=_REQUEST_SECONDS,
        )
        self._requests = Counter(
            "api_requests_total",
            "Requests by method, route template and status.",
            ["method", "endpoint", "status_code"],
            registry=self.registry,
        )
        self._request_seconds = Histogram(
            "api_request_duration_seconds",
            "Time from a request's head to the end of its answer.",
            ["method", "endpoint"],
            registry=self.registry,
            buckets=_REQUEST_SECONDS,
        )

        self._cache = Gauge(
            "dedup_cache_up",
            "Whether the cache of known events works, as far as is known; without it everything is slower, not wrong.",
            registry=self.registry,
        )

    def watch_cache(self, is_healthy: Callable[[], bool]) -> None:
        """Ask for the state of the dedup cache whenever metrics are read."""
        self._cache.set_function(lambda: float(is_healthy()))

    def count_batch(self, outcome: Outcome, seconds: float) -> None:
        """Count what became of a batch that was not a dry run."""
        self._received.inc(outcome.accepted + outcome.duplicates + outcome.conflicts + outcome.rejected)
        self._ingested.inc(outcome.accepted)
        self._duplicates.inc(outcome.duplicates)
        for reason, events in Tally(problem.code for problem in outcome.errors).items():
            self._failed.labels(reason).inc(events)
        self._ingestion_seconds.observe(seconds)

    def count_request(self, method: str, endpoint: str, status: int, seconds: float) -> None:
        """Count an answered request; ``endpoint`` is a route template, so the set of labels is bounded."""
        method = method if method in _METHODS else "other"
        self._requests.labels(method, endpoint, str(status)).inc()
        self._request_seconds.labels(method, endpoint).observe(seconds)

    def exposition(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)


class WorkerMetrics:
    """The metrics of a worker."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._messages = Counter(
            "worker_messages_total", "Messages taken from the queue and acknowledged.", registry=self.registry
        )
        self._events = Counter(
            "worker_events_total",
            "Events of these messages: new in the store, there already, in conflict, or dead letters.",
            ["result"],
            registry=self.registry,
        )
        self._failures = Counter(
            "worker_failures_total",
            "Attempts to fetch or to store that failed, by code.",
            ["code"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "worker_store_duration_seconds",
            "Time from fetching messages to their acknowledgement.",
            registry=self.registry,
            buckets=_REQUEST_SECONDS,
        )
        for result in ("stored", "duplicate", "conflict", "dead"):
            self._events.labels(result)

    def count(self, drained: Drained, seconds: float) -> None:
        """Count what became of the messages of one fetch."""
        self._messages.inc(drained.messages)
        self._events.labels("duplicate").inc(drained.duplicates)
        self._events.labels("conflict").inc(drained.conflicts)
        self._events.labels("dead").inc(drained.dead)
        self._events.labels("stored").inc(drained.stored)
        self._seconds.observe(seconds)

    def count_failure(self, code: str) -> None:
        """Count an attempt that failed; codes are ours, so the set of labels is bounded."""
        self._failures.labels(code).inc()

    def exposition(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self.registry)
