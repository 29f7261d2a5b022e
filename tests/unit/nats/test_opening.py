"""Opening a queue on NATS: what is made, what is refused and with which words, and who gets in."""

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import nats
import pytest

from adapters.nats import open_consumer, open_queue, stream
from eventcore.errors import Kind, StoreError
from eventcore.strategies import a_chunk, an_event
from tests.support import servers
from tests.support.processes import OwnServer, Port
from tests.support.servers import Server
from tests.unit.nats.conftest import OpenConsumer, OpenQueue, Store, a_name, consumer_of, stream_of
from tests.unit.nats.relay import relay_to
from tests.unit.redis.relay import a_certificate, missing_openssl

SECRET = "s3cr-t/p@ss"
SECRET_IN_URL = "s3cr-t%2Fp%40ss"
NS = 1_000_000_000

Open = Callable[[str], Awaitable[object]]


@pytest.fixture(params=["queue", "consumer"])
def open_end(request: pytest.FixtureRequest, queue_at: OpenQueue, consumer_at: OpenConsumer) -> Open:
    """Opens one of the two ends."""
    return queue_at if request.param == "queue" else consumer_at


async def refused(opening: Awaitable[object]) -> StoreError:
    with pytest.raises(StoreError) as caught:
        await opening
    return caught.value


# --- the stream and the consumer --------------------------------------------------------------------------------------


async def test_the_stream_is_made_so_that_it_loses_nothing(queue_at: OpenQueue, url: str, client: nats.NATS) -> None:
    await queue_at(url)
    config = (await client.jsm().stream_info(stream_of(url))).config
    assert config.subjects == [f"{stream_of(url).lower()}.*.*"]
    assert (config.storage, config.retention, config.discard) == ("file", "workqueue", "new")
    assert (config.max_age, config.max_msgs, config.max_msgs_per_subject, config.max_msg_size) == (0, -1, -1, -1)
    assert (config.max_bytes, config.num_replicas, config.duplicate_window) == (16 * 1024 * 1024, 1, 120)


async def test_the_consumer_is_made_so_that_it_gives_nothing_up(
    consumer_at: OpenConsumer, url: str, client: nats.NATS
) -> None:
    await consumer_at(f"{url}&max_ack_pending=123")
    config = (await client.jsm().consumer_info(stream_of(url), await consumer_of(client, url))).config
    assert (config.ack_policy, config.deliver_policy, config.replay_policy) == ("explicit", "all", "instant")
    assert (config.max_deliver, config.ack_wait, config.max_ack_pending) == (-1, 1, 123)
    assert (config.filter_subject, config.deliver_subject, config.backoff) == (None, None, None)


async def test_many_may_make_the_same_at_once(queue_at: OpenQueue, consumer_at: OpenConsumer, url: str) -> None:
    await asyncio.gather(*(queue_at(url) for _ in range(8)), *(consumer_at(url) for _ in range(8)))


async def test_many_may_make_another_at_once(queue_at: OpenQueue, url: str) -> None:
    """Whose is made is the one that all use."""
    bare = url.partition("?")[0]
    queues = await asyncio.gather(*(queue_at(f"{bare}?max_bytes={16_777_216 + each}") for each in range(8)))
    for queue in queues:
        await queue.publish([a_chunk(an_event())])
    assert (await queues[0].pending("default")).events == 8


async def test_the_room_is_what_the_server_has(queue_at: OpenQueue, tmp_path: Path) -> None:
    with (
        servers.needed("nats"),
        servers.nats(tmp_path, own_process=True, max_store_bytes=300 * 1024**2) as server,
    ):
        await queue_at(server.url)
        client = await nats.connect(server.url)
        assert (await client.jsm().stream_info("EVENTCORE")).config.max_bytes == 256 * 1024**2
        await client.close()


async def test_room_that_is_asked_for_is_given_or_refused(queue_at: OpenQueue, nats_server: Server) -> None:
    error = await refused(queue_at(f"{nats_server.url}/{a_name()}?max_bytes={2**50}"))
    assert (error.kind, error.code) == (Kind.FULL, "no_room")
    assert "max_file_store" in error.message


async def test_what_the_url_names_is_changed(
    queue_at: OpenQueue, consumer_at: OpenConsumer, url: str, client: nats.NATS, caplog: pytest.LogCaptureFixture
) -> None:
    bare = url.partition("?")[0]
    queue = await queue_at(f"{bare}?max_bytes=20000000")
    await consumer_at(f"{bare}?ack_wait_seconds=1&max_ack_pending=5")
    await queue.publish([a_chunk(an_event())])

    await consumer_at(f"{bare}?max_bytes=30000000&ack_wait_seconds=2&max_ack_pending=6")
    info = await client.jsm().stream_info(stream_of(url))
    assert (info.config.max_bytes, info.state.messages) == (30_000_000, 1)
    config = (await client.jsm().consumer_info(stream_of(url), await consumer_of(client, url))).config
    assert (config.ack_wait, config.max_ack_pending, config.max_deliver) == (2, 6, -1)
    assert [each.getMessage() for each in caplog.records if "changed" in each.getMessage()]

    await consumer_at(bare)
    assert (await client.jsm().stream_info(stream_of(url))).config.max_bytes == 30_000_000
    assert (await client.jsm().consumer_info(stream_of(url), await consumer_of(client, url))).config.ack_wait == 2


SAFE = {"storage": "file", "retention": "workqueue", "discard": "new", "max_bytes": 4_000_000}


@pytest.mark.parametrize(
    ("setting", "config"),
    [
        ("storage", {"storage": "memory"}),
        ("retention", {"retention": "limits"}),
        ("retention", {"retention": "interest"}),
        ("discard", {"discard": "old"}),
        ("max_age", {"max_age": 3600 * NS}),
        ("max_msgs", {"max_msgs": 1_000_000}),
        ("max_msgs_per_subject", {"max_msgs_per_subject": 1_000_000}),
        ("max_msgs_per_subject", {"max_msgs_per_subject": 1_000_000, "discard_new_per_subject": True}),
        ("max_msg_size", {"max_msg_size": 100_000}),
        ("no_ack", {"no_ack": True}),
        ("sealed", {"sealed": True}),
        ("mirror", {"mirror": {"name": "OTHER"}}),
        ("sources", {"sources": [{"name": "OTHER"}]}),
        ("subject_transform", {"subject_transform": {"src": "x.*.*", "dest": "y.{{wildcard(1)}}.{{wildcard(2)}}"}}),
        ("persist_mode", {"persist_mode": "async"}),
        ("subjects", {"subjects": []}),
    ],
)
async def test_a_stream_that_would_lose_events_is_refused_by_name(
    open_end: Open, url: str, client: nats.NATS, setting: str, config: dict[str, Any]
) -> None:
    name = stream_of(url)
    config = {"name": name, "subjects": [f"{name.lower()}.*.*"]} | SAFE | config
    config["subjects"] = config["subjects"] or [f"{name}.*.*"]
    if "mirror" in config:
        del config["subjects"]
    sealed = config.pop("sealed", None)
    made = await an_operator_says(client, f"STREAM.CREATE.{name}", config)
    if setting not in made["config"]:
        pytest.skip(f"this NATS has no {setting} yet")
    if sealed:
        await an_operator_says(client, f"STREAM.UPDATE.{name}", config | {"sealed": True})

    error = await refused(open_end(url))
    assert (error.kind, error.code, error.field) == (Kind.INVALID, "unsafe_queue", setting)
    assert f"the stream {name} on NATS at 127.0.0.1:" in error.message
    assert f" has {setting}=" in error.message
    assert "it has to be" in error.message


async def test_a_stream_that_an_operator_made_safely_is_used(queue_at: OpenQueue, url: str, client: nats.NATS) -> None:
    name = stream_of(url)
    config = SAFE | {"name": name, "subjects": [f"{name.lower()}.*.*"], "max_bytes": -1, "compression": "s2"}
    await an_operator_says(client, f"STREAM.CREATE.{name}", config | {"allow_direct": True, "max_msg_size": 600_000})
    queue = await queue_at(url.partition("?")[0])
    await queue.publish([a_chunk(an_event())])
    assert (await queue.pending("default")).events == 1


@pytest.mark.parametrize(
    ("setting", "config"),
    [
        ("max_deliver", {"max_deliver": 3}),
        ("deliver_subject", {"deliver_subject": "somewhere"}),
        ("filter_subject", {"filter_subject": "{prefix}.shop.*"}),
        ("filter_subjects", {"filter_subjects": ["{prefix}.shop.*", "{prefix}.default.*"]}),
        ("headers_only", {"headers_only": True}),
        ("backoff", {"backoff": [NS, 2 * NS], "max_deliver": 5}),
        ("replay_policy", {"replay_policy": "original"}),
        ("ack_wait", {"ack_wait": NS // 10}),
    ],
)
async def test_a_consumer_that_would_lose_events_is_refused_by_name(
    queue_at: OpenQueue, consumer_at: OpenConsumer, url: str, client: nats.NATS, setting: str, config: dict[str, Any]
) -> None:
    await queue_at(url)
    prefix = stream_of(url).lower()
    for key, value in config.items():
        if key.startswith("filter"):
            config = {
                key: value.format(prefix=prefix) if isinstance(value, str) else [v.format(prefix=prefix) for v in value]
            }
    name = await consumer_of(client, url)
    safe = {"durable_name": name, "ack_policy": "explicit", "deliver_policy": "all", "max_deliver": -1}
    body = {"stream_name": stream_of(url), "config": safe | {"replay_policy": "instant"} | config}
    await an_operator_says(client, f"CONSUMER.DURABLE.CREATE.{stream_of(url)}.{name}", body)

    error = await refused(consumer_at(url))
    expected = "max_deliver" if setting == "backoff" else setting
    assert (error.kind, error.code, error.field) == (Kind.INVALID, "unsafe_queue", expected)
    assert f"the consumer {name} of the stream {stream_of(url)}" in error.message


def test_every_rule_has_a_test() -> None:
    """A rule that no stream breaks may be wrong. Of a work queue the server itself refuses the last two consumers."""
    stream_rules = {name for name, _, _ in stream._STREAM_RULES} | {"subjects"}
    consumer_rules = {name for name, _, _ in stream._CONSUMER_RULES}
    marks = {
        function: {case[0] for mark in function.pytestmark for case in mark.args[1]}
        for function in (
            test_a_stream_that_would_lose_events_is_refused_by_name,
            test_a_consumer_that_would_lose_events_is_refused_by_name,
        )
    }
    tested_streams, tested_consumers = marks.values()
    assert tested_streams == stream_rules
    assert tested_consumers == consumer_rules - {"ack_policy", "deliver_policy"}


async def test_a_consumer_of_somebody_else_is_refused(
    queue_at: OpenQueue, consumer_at: OpenConsumer, url: str, client: nats.NATS
) -> None:
    """It would take messages away."""
    await queue_at(url)
    body = {"stream_name": stream_of(url), "config": {"durable_name": "thief", "ack_policy": "explicit"}}
    await an_operator_says(client, f"CONSUMER.DURABLE.CREATE.{stream_of(url)}.thief", body)
    error = await refused(consumer_at(url))
    assert (error.kind, error.code) == (Kind.INVALID, "other_consumer")


async def test_subjects_of_another_stream_are_refused(queue_at: OpenQueue, url: str) -> None:
    await queue_at(url)
    error = await refused(queue_at(f"{url.replace(stream_of(url), a_name())}&prefix={stream_of(url).lower()}"))
    assert (error.kind, error.code) == (Kind.INVALID, "subjects_taken")
    assert f"{stream_of(url).lower()}.>" in error.message


async def test_replicas_of_a_server_that_is_alone_are_refused(queue_at: OpenQueue, url: str) -> None:
    error = await refused(queue_at(f"{url}&replicas=3"))
    assert (error.kind, error.code) == (Kind.INVALID, "no_peers")


async def test_a_server_that_takes_too_little_is_refused(open_end: Open, tmp_path: Path) -> None:
    with servers.needed("nats"), servers.nats(tmp_path, own_process=True, max_payload_bytes=500_000) as server:
        error = await refused(open_end(server.url))
    assert (error.kind, error.code) == (Kind.INVALID, "max_payload")
    assert "is 500000: an event may need up to 524288 bytes" in error.message


async def test_a_server_without_jetstream_is_named(open_end: Open) -> None:
    with servers.needed("nats"), servers.nats(own_process=True, settings=TWO_ACCOUNTS) as server:
        error = await refused(open_end(server.url.replace("//", "//plain:plain@")))
    assert (error.kind, error.code) == (Kind.UNAVAILABLE, "no_jetstream")


TWO_ACCOUNTS = {
    "accounts": {
        "EVENTS": {"jetstream": "enabled", "users": [{"user": "ada", "password": "ada"}]},
        "PLAIN": {"users": [{"user": "plain", "password": "plain"}]},
    }
}


async def an_operator_says(client: nats.NATS, subject: str, body: object) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(
        (await client.request(f"$JS.API.{subject}", json.dumps(body).encode(), timeout=5)).data
    )
    assert "error" not in answer, answer
    return answer


# --- whether it can be reached ----------------------------------------------------------------------------------------


async def test_a_server_that_is_down_is_named_at_once(open_end: Open) -> None:
    with Port() as port, Port() as other:
        began_seconds = time.monotonic()
        error = await refused(open_end(f"nats://ada:{SECRET_IN_URL}@127.0.0.1:{port.number},127.0.0.1:{other.number}"))
    assert (error.kind, error.code) == (Kind.UNAVAILABLE, "unreachable")
    assert f"127.0.0.1:{port.number}, 127.0.0.1:{other.number}" in error.message
    assert SECRET not in error.message
    assert time.monotonic() - began_seconds < 1


async def test_a_name_that_nobody_has_is_unreachable(open_end: Open) -> None:
    assert (await refused(open_end("nats://nobody.invalid"))).code == "unreachable"


async def test_a_server_that_is_frozen_is_given_up(open_end: Open, own_server: OwnServer) -> None:
    own_server.pause()
    began_seconds = time.monotonic()
    error = await refused(open_end(own_server.url))
    assert (error.kind, error.code) == (Kind.UNAVAILABLE, "unreachable")
    assert time.monotonic() - began_seconds < 3.5
    own_server.resume()


async def test_what_is_no_nats_is_given_up(open_end: Open) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    error = await refused(open_end(f"nats://127.0.0.1:{port}"))
    assert error.kind is Kind.UNAVAILABLE
    listener.close()
    await listener.wait_closed()


async def test_the_next_server_is_taken_when_one_is_down(queue_at: OpenQueue, url: str) -> None:
    with Port() as port:
        for _ in range(5):
            queue = await queue_at(url.replace("//", f"//127.0.0.1:{port.number},"))
            await queue.publish([a_chunk(an_event())])


async def test_an_opening_that_is_given_up_leaves_nothing(own_server: OwnServer) -> None:
    own_server.pause()
    opening = asyncio.create_task(open_queue(own_server.url, store=Store()))
    await asyncio.sleep(0.2)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    own_server.resume()


# --- who gets in ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("authorization", "good", "bad"),
    [
        ({"user": "ada", "password": SECRET}, f"ada:{SECRET_IN_URL}", "ada:wr0ng"),
        ({"user": "ada", "password": SECRET}, f"ada:{SECRET_IN_URL}", "wr0ng"),
        ({"token": SECRET}, SECRET_IN_URL, "wr0ng"),
    ],
    ids=["password", "a token for a password", "token"],
)
async def test_who_the_url_names_gets_in(
    open_end: Open, authorization: dict[str, str], good: str, bad: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with servers.needed("nats"), servers.nats(own_process=True, settings={"authorization": authorization}) as server:
        await open_end(server.url.replace("//", f"//{good}@"))
        for url in (server.url.replace("//", f"//{bad}@"), server.url):
            began_seconds = time.monotonic()
            error = await refused(open_end(url))
            assert (error.kind, error.code) == (Kind.UNAVAILABLE, "access_denied")
            assert "wr0ng" not in error.message
            assert time.monotonic() - began_seconds < 2
    assert SECRET not in caplog.text
    assert "wr0ng" not in caplog.text


async def test_a_user_who_may_not_is_told_so(queue_at: OpenQueue, consumer_at: OpenConsumer) -> None:
    """Opening, publishing and fetching each say it, instead of that the server is slow."""
    everything = {"user": "ada", "password": "ada"}
    nothing = {"user": "eve", "password": "eve", "permissions": {"publish": ["nowhere"], "subscribe": ["_INBOX.>"]}}
    reader = {"user": "bob", "password": "bob", "permissions": {"publish": ["$JS.API.>"], "subscribe": ["_INBOX.>"]}}
    settings = {"authorization": {"users": [everything, nothing, reader]}}
    with servers.needed("nats"), servers.nats(own_process=True, settings=settings) as server:

        def url_for(user: str) -> str:
            return server.url.replace("//", f"//{user}:{user}@") + "?timeout_seconds=0.5"

        for opening in (queue_at(url_for("eve")), consumer_at(url_for("eve"))):
            error = await refused(opening)
            assert (error.kind, error.code) == (Kind.UNAVAILABLE, "not_allowed")
        await queue_at(url_for("ada"))
        queue = await queue_at(url_for("bob"))
        error = await refused(queue.publish([a_chunk(an_event())]))
        assert (error.kind, error.code) == (Kind.UNAVAILABLE, "not_allowed")
        assert (await queue.pending("default")).events == 0


@pytest.mark.parametrize("option", ["creds_file", "nkey_file"])
async def test_keys_that_cannot_be_used_are_refused(
    open_end: Open, url: str, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    broken.write_text("nothing of the kind")
    monkeypatch.setattr("adapters.nats.link.find_spec", lambda name: None)
    assert "nats-py[nkeys]" in (await refused(open_end(f"{url}&{option}={broken}"))).message
    monkeypatch.setattr("adapters.nats.link.find_spec", lambda name: object())
    for file in (broken, tmp_path / "absent", tmp_path):
        error = await refused(open_end(f"{url}&{option}={file}"))
        assert (error.kind, error.code) == (Kind.INVALID, "invalid_key")
        assert str(tmp_path) not in error.message


# --- TLS --------------------------------------------------------------------------------------------------------------

needs_openssl = pytest.mark.skipif(missing_openssl() is not None, reason=str(missing_openssl()))


def tls_settings(certificate: Path, key: Path, **others: object) -> dict[str, object]:
    return {"tls": {"cert_file": str(certificate), "key_file": str(key), **others}}


@needs_openssl
async def test_only_a_server_with_the_right_certificate_is_talked_to(open_end: Open, tmp_path: Path) -> None:
    certificate, key = a_certificate(tmp_path)
    another, _ = a_certificate(tmp_path, "another")
    settings = tls_settings(certificate, key) | {"authorization": {"user": "ada", "password": SECRET}}
    with servers.needed("nats"), servers.nats(own_process=True, settings=settings) as server:
        port = server.url.rpartition(":")[2]
        url = f"tls://ada:{SECRET_IN_URL}@localhost:{port}"
        await open_end(f"{url}?tls_ca={certificate}")
        await open_end(f"{url.replace('tls', 'nats', 1)}?tls_ca={certificate}")
        for wrong in (
            f"{url}?tls_ca={another}",
            url,
            url.replace("tls", "nats", 1),
            f"{url.replace('localhost', '127.0.0.1')}?tls_ca={certificate}",
        ):
            began_seconds = time.monotonic()
            error = await refused(open_end(wrong))
            assert time.monotonic() - began_seconds < 1
            assert (error.kind, error.code) == (Kind.UNAVAILABLE, "tls_failed")


@needs_openssl
async def test_a_server_may_ask_for_a_certificate(open_end: Open, tmp_path: Path) -> None:
    certificate, key = a_certificate(tmp_path)
    settings = tls_settings(certificate, key, verify=True, ca_file=str(certificate))
    with servers.needed("nats"), servers.nats(own_process=True, settings=settings) as server:
        url = f"tls://localhost:{server.url.rpartition(':')[2]}?tls_ca={certificate}"
        await open_end(f"{url}&tls_cert={certificate}&tls_key={key}")
        assert (await refused(open_end(url))).kind is Kind.UNAVAILABLE


@needs_openssl
@pytest.mark.parametrize("asking", ["tls://{}", "nats://{}?tls_ca={}"])
async def test_nothing_secret_goes_to_a_server_that_does_not_encrypt(
    open_end: Open, own_server: OwnServer, tmp_path: Path, asking: str
) -> None:
    certificate, _ = a_certificate(tmp_path)
    async with relay_to(own_server.url) as relay:
        url = asking.format(f"ada:{SECRET_IN_URL}@localhost:{relay.port}", certificate)
        error = await refused(open_end(url))
        assert (error.kind, error.code) == (Kind.UNAVAILABLE, "not_encrypted")
        assert relay.said == b""


@pytest.mark.parametrize("options", ["tls_ca={0}", "tls_ca={0}/absent", "tls_cert={0}/absent"])
async def test_files_that_are_none_are_refused(open_end: Open, url: str, options: str, tmp_path: Path) -> None:
    error = await refused(open_end(f"{url}&{options.format(tmp_path)}"))
    assert (error.kind, error.code) == (Kind.INVALID, "invalid_tls")
    assert str(tmp_path) not in error.message


async def test_closing_leaves_nothing(url: str) -> None:
    """That is what the fixture `nothing_is_left` looks for."""
    for _ in range(3):
        queue, consumer = await open_queue(url, store=Store()), await open_consumer(url)
        await queue.publish([a_chunk(an_event())])
        await consumer.fetch(1, 1)
        await asyncio.gather(queue.close(), consumer.close())
        await asyncio.gather(queue.close(), consumer.close())
