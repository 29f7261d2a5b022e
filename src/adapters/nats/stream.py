"""The stream and its consumer: what they must be like, made where they are not, refused where they would lose events.

A stream keeps every message on disk until a worker has acknowledged it, whatever its age and number, and takes nothing
new when it is full. A consumer delivers a message again and again until that. Whatever else an operator sets is left
alone; what the URL names is changed to that. Not here: publishing and fetching.
"""

import logging
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from nats.js.errors import APIError

from adapters.nats.address import Address
from adapters.nats.asking import ask
from adapters.nats.failures import CONSUMER_NOT_FOUND, NO_ROOM, STREAM_EXISTS, STREAM_NOT_FOUND
from adapters.nats.link import Connection
from eventcore.chunks import CHUNK_BYTES
from eventcore.errors import Kind, StoreError
from eventcore.limits import ECHO_CHARS

NEEDED_PAYLOAD_BYTES: Final = 2 * CHUNK_BYTES
"""Twice an event of the largest size that is accepted: it goes alone, so it always fits."""
MOST_STREAM_BYTES: Final = 8 * 1024**3
"""A day of 1,000 events a second, at some 100 bytes each."""
_LEAST_STREAM_BYTES: Final = 64 * 1024**2
_DUPLICATE_WINDOW_SECONDS: Final = 120
_NS: Final = 1_000_000_000

_log = logging.getLogger("eventcore")

_Rule = tuple[str, Callable[[Any], bool], str]


def _none(value: Any) -> bool:
    return not value


def _unlimited(value: Any) -> bool:
    return value is None or value <= 0


# The setting, whether a value of it is safe, and what it has to be.
_STREAM_RULES: tuple[_Rule, ...] = (
    ("storage", lambda value: value == "file", "file, or a restart of NATS forgets accepted events"),
    ("retention", lambda value: value == "workqueue", "workqueue, or messages go, or stay, for other reasons"),
    ("discard", lambda value: value == "new", "new, or a full stream deletes accepted events"),
    ("max_age", _unlimited, "0, or accepted events are deleted for their age"),
    ("max_msgs", _unlimited, "-1, or a number of messages decides when the stream is full"),
    ("max_msgs_per_subject", _unlimited, "-1, or a number of messages decides when the stream is full"),
    (
        "max_msg_size",
        lambda value: _unlimited(value) or value >= NEEDED_PAYLOAD_BYTES,
        f"-1, or at least {NEEDED_PAYLOAD_BYTES}, or large events are never taken",
    ),
    ("no_ack", _none, "false, or nobody knows what was kept"),
    ("sealed", _none, "false, or nothing is taken"),
    ("mirror", _none, "absent, or nothing is taken"),
    ("sources", _none, "absent, or there are messages that eventcore did not write"),
    ("subject_transform", _none, "absent, or the subjects of messages do not tell whose they are"),
    ("persist_mode", lambda value: value in (None, "", "default"), "default, or NATS acknowledges before it writes"),
)

_CONSUMER_RULES: tuple[_Rule, ...] = (
    ("ack_policy", lambda value: value == "explicit", "explicit, or messages count as done that are not"),
    ("max_deliver", _unlimited, "-1, or a long outage of the store leaves events in the queue for ever"),
    ("deliver_policy", lambda value: value == "all", "all, or older messages stay in the queue for ever"),
    ("deliver_subject", _none, "absent, since workers fetch"),
    ("filter_subject", _none, "absent, or the other messages stay in the queue for ever"),
    ("filter_subjects", _none, "absent, or the other messages stay in the queue for ever"),
    ("headers_only", _none, "false, or workers get no events"),
    ("backoff", _none, "absent, or it takes the place of ack_wait"),
    ("replay_policy", lambda value: value == "instant", "instant, or messages come as slowly as they were written"),
    ("ack_wait", lambda value: value >= _NS, f"at least 1 s ({_NS}), or messages come again while they are worked on"),
)


async def settle_stream(connection: Connection, address: Address) -> str:
    """Make the stream of the URL, or check it.

    Returns:
        The name of its consumer, the one that all workers share: a work queue can have no second one. The moment at
        which the stream was made is part of it. An acknowledgement names a message by the consumer and a number; a late
        one must not mean a message of another stream, that was made under the same name. (Large first numbers would do
        as well, but NATS before 2.11.1 empties a stream with ``first_seq`` when it is restarted.)

    Raises:
        StoreError: it must not be used as it is, or the server takes too small messages; kind ``invalid``.
        nats.errors.Error: the driver's.
    """
    if connection.max_payload < NEEDED_PAYLOAD_BYTES:
        raise StoreError(
            Kind.INVALID,
            "max_payload",
            f"max_payload of NATS at {address.shown} is {connection.max_payload}: an event may need up to "
            f"{NEEDED_PAYLOAD_BYTES} bytes; set it to that or more (1MB is its default)",
        )
    found = await _found(connection, f"STREAM.INFO.{address.stream}", STREAM_NOT_FOUND)
    if found is None:
        found = await _make_stream(connection, address)
    stream = found["config"]
    subjects = [_subjects(address)]
    rules = (*_STREAM_RULES, ("subjects", lambda value: value == subjects, f"{subjects}, as prefix in the URL says"))
    _check(rules, stream, f"the stream {address.stream} on NATS at {address.shown}", "nats stream edit")
    wanted = {"max_bytes": address.options.max_bytes, "num_replicas": address.options.replicas}
    chosen = {"num_replicas" if name == "replicas" else name for name in address.chosen}
    if changed := _changed(stream, wanted, chosen):
        await ask(connection, f"STREAM.UPDATE.{address.stream}", stream | changed)
        _log.warning("changed the stream %s on NATS at %s: %s", address.stream, address.shown, changed)
    return "workers-" + re.sub(r"\D", "", found["created"])


async def settle_consumer(connection: Connection, address: Address, name: str) -> None:
    """Make the consumer of the stream, or check it.

    Args:
        connection: to the server.
        address: which stream.
        name: of the consumer.

    Raises:
        StoreError: it must not be used as it is; kind ``invalid``.
        nats.errors.Error: the driver's.
    """
    options = address.options
    wanted = {"ack_wait": round(options.ack_wait_seconds * _NS), "max_ack_pending": options.max_ack_pending}
    found = await _found(connection, f"CONSUMER.INFO.{address.stream}.{name}", CONSUMER_NOT_FOUND)
    if found is None:
        await _put_consumer(
            connection,
            address,
            {
                "durable_name": name,
                "name": name,
                "description": "workers of eventcore",
                "ack_policy": "explicit",
                "deliver_policy": "all",
                "max_deliver": -1,
                "replay_policy": "instant",
                **wanted,
            },
        )
        return
    consumer = found["config"]
    where = f"the consumer {name} of the stream {address.stream} on NATS at {address.shown}"
    _check(_CONSUMER_RULES, consumer, where, "nats consumer edit")
    chosen = {"ack_wait" if name == "ack_wait_seconds" else name for name in address.chosen}
    if changed := _changed(consumer, wanted, chosen):
        await _put_consumer(connection, address, consumer | changed)
        _log.warning("changed %s: %s", where, changed)


async def _found(connection: Connection, subject: str, absent: int) -> dict[str, Any] | None:
    """What is there, as the server has it; None when it is not."""
    try:
        return await ask(connection, subject)
    except APIError as error:
        if error.err_code == absent:
            return None
        raise


async def _make_stream(connection: Connection, address: Address) -> dict[str, Any]:
    options = address.options
    config: dict[str, Any] = {
        "name": address.stream,
        "description": "accepted events on their way to the store of eventcore",
        "subjects": [_subjects(address)],
        "storage": "file",
        "retention": "workqueue",
        "discard": "new",
        "max_bytes": options.max_bytes or MOST_STREAM_BYTES,
        "max_msgs": -1,
        "max_age": 0,
        "max_msgs_per_subject": -1,
        "max_msg_size": -1,
        "num_replicas": options.replicas,
        "duplicate_window": _DUPLICATE_WINDOW_SECONDS * _NS,
    }
    while True:
        try:
            made = await ask(connection, f"STREAM.CREATE.{address.stream}", config)
        except APIError as error:
            if error.err_code == STREAM_EXISTS:  # since a moment ago, by another process with another URL
                there = await _found(connection, f"STREAM.INFO.{address.stream}", STREAM_NOT_FOUND)
                if there is not None:
                    return there
            smaller = config["max_bytes"] // 2
            if error.err_code not in NO_ROOM or options.max_bytes is not None or smaller < _LEAST_STREAM_BYTES:
                raise
            config["max_bytes"] = smaller
            continue
        _log.warning(
            "made the stream %s on NATS at %s with max_bytes=%d", address.stream, address.shown, config["max_bytes"]
        )
        return made


async def _put_consumer(connection: Connection, address: Address, config: Mapping[str, Any]) -> None:
    await ask(
        connection,
        f"CONSUMER.CREATE.{address.stream}.{config['name']}",
        {"stream_name": address.stream, "config": dict(config)},
    )


def _subjects(address: Address) -> str:
    """All of the stream's: prefix, project, number of events."""
    return f"{address.prefix}.*.*"


def _check(rules: tuple[_Rule, ...], config: Mapping[str, Any], where: str, tool: str) -> None:
    for name, is_safe, needed in rules:
        if not is_safe(config.get(name)):
            raise StoreError(
                Kind.INVALID,
                "unsafe_queue",
                f"{where} has {name}={str(config.get(name))[:ECHO_CHARS]}; it has to be {needed}. Change it "
                f"(`{tool}`), or name another stream in the URL",
                field=name,
            )


def _changed(config: Mapping[str, Any], wanted: Mapping[str, Any], chosen: set[str]) -> dict[str, Any]:
    """What the URL names and is not so."""
    return {name: value for name, value in wanted.items() if name in chosen and config.get(name) != value}
