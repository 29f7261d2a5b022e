"""What a queue on NATS publishes, and when it says so."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import nats
import pytest
from nats.js.api import RawStreamMsg

from adapters.nats import open_queue
from eventcore.chunks import CHUNK_BYTES, cut, encode_chunk
from eventcore.contract.queue import ScriptedStore
from eventcore.errors import Kind, StoreError
from eventcore.events import Counts, Receipt
from eventcore.ports import Pending
from eventcore.strategies import a_chunk, a_death, an_event
from tests.support import servers
from tests.support.servers import Server
from tests.unit.nats.conftest import OpenConsumer, OpenQueue, Store, stream_of
from tests.unit.nats.relay import relay_to


async def test_a_message_says_what_it_is(queue_at: OpenQueue, url: str, client: nats.NATS) -> None:
    queue = await queue_at(url)
    chunk = a_chunk(
        an_event(event_id=1),
        an_event(event_id=2),
        project="shop-1",
        conflicting=[an_event(event_id=3)],
        dead=[a_death(an_event(event_id=4))],
        chunk_id=bytes(range(16)),
    )
    await queue.publish([chunk])

    message = await the_last(client, url)
    assert message.subject == f"{stream_of(url).lower()}.shop-1.3"
    assert message.data == encode_chunk(chunk)
    assert message.headers == {
        "Nats-Msg-Id": "e1:000102030405060708090a0b0c0d0e0f",
        "Nats-Expected-Stream": stream_of(url),
        "Eventcore-Codec": "1",
        "Eventcore-Project": "shop-1",
        "Eventcore-Events": "3",
    }


async def test_the_epoch_is_left_out_when_the_store_does_not_tell_it(
    queue_at: OpenQueue, url: str, client: nats.NATS, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Away, hanging or broken: senders hardly wait, and do not wait again at every publish."""
    store, asked = Store(), 0

    async def away() -> str:
        raise StoreError(Kind.UNAVAILABLE, "away", "the store is away")

    async def hanging() -> str:
        await asyncio.sleep(60)
        return "e1"

    for number, epoch in enumerate((away, hanging, ScriptedStore().epoch), 1):

        async def counted(epoch: Callable[[], Awaitable[str]] = epoch) -> str:
            nonlocal asked
            asked += 1
            return await epoch()

        monkeypatch.setattr(store, "epoch", counted)
        queue = await queue_at(url, store)
        began_seconds = time.monotonic()
        await queue.publish([a_chunk(an_event())])
        await queue.publish([a_chunk(an_event())])
        assert time.monotonic() - began_seconds < 1
        assert asked == number
        message = await the_last(client, url)
        assert str((message.headers or {})["Nats-Msg-Id"]).startswith("-:")


async def test_the_same_chunk_twice_is_one_message(queue_at: OpenQueue, url: str) -> None:
    queue = await queue_at(url)
    chunk = a_chunk(an_event())
    for _ in range(3):
        assert list(await queue.publish([chunk])) == [Receipt()]
    assert (await queue.pending("default")).events == 1


async def test_the_same_events_again_are_stored_again_after_a_purge(
    queue_at: OpenQueue, consumer_at: OpenConsumer, url: str, client: nats.NATS
) -> None:
    """F36: a request that is sent again comes in chunks of its own; no window takes it for what is gone."""
    queue, consumer = await queue_at(url), await consumer_at(url)
    await queue.publish([a_chunk(an_event())])
    await client.jsm().purge_stream(stream_of(url))
    assert await queue.pending("default") == Pending()

    await queue.publish([a_chunk(an_event())])
    assert (await queue.pending("default")).events == 1
    assert len(await consumer.fetch(5, 1)) == 1


async def test_a_chunk_that_does_not_fit_is_refused_before_anything_is_sent(queue_at: OpenQueue, url: str) -> None:
    queue = await queue_at(url)
    large = a_chunk(an_event(properties='{"text":"' + "x" * 1_048_300 + '"}'))
    assert 1_048_500 < len(encode_chunk(large)) <= 1_048_576  # it would fit, but for the headers
    with pytest.raises(StoreError) as caught:
        await queue.publish([a_chunk(an_event()), large])
    assert (caught.value.kind, caught.value.code, caught.value.retryable) == (Kind.TOO_LARGE, "chunk_too_large", False)
    assert "max_payload is 1048576" in caught.value.message
    assert await queue.pending("default") == Pending()

    await queue.publish([a_chunk(an_event())])  # and the connection lives


async def test_the_largest_message_that_fits_is_taken(queue_at: OpenQueue, url: str) -> None:
    """Headers count for the server; one byte less than it refuses is taken."""
    queue = await queue_at(url)

    async def is_taken(size: int) -> bool:
        try:
            await queue.publish([a_chunk(an_event(properties="x" * size))])
        except StoreError as error:
            if error.code != "chunk_too_large":
                raise
            return False
        return True

    fits, too_large, taken = 1_047_000, 1_048_576, 0
    while too_large - fits > 1:
        middle = (fits + too_large) // 2
        if await is_taken(middle):
            fits, taken = middle, taken + 1
        else:
            too_large = middle
    assert fits > 1_048_000
    assert (await queue.pending("default")).events == taken


async def test_what_a_batch_is_cut_into_fits(queue_at: OpenQueue, url: str) -> None:
    """Sizes are counted in characters, of which each may take four bytes."""
    queue = await queue_at(url)
    events = [an_event(event_id=number, properties='{"t":"' + "😀" * 9_000 + '"}') for number in range(100)]
    chunks = [a_chunk(*run) for run in cut(events)]
    assert max(len(encode_chunk(chunk)) for chunk in chunks) > 3.8 * CHUNK_BYTES
    await queue.publish(chunks)
    assert (await queue.pending("default")).events == 100


async def test_a_project_that_is_none_is_refused(queue_at: OpenQueue, url: str) -> None:
    """It would be another subject."""
    queue = await queue_at(url)
    for project in ("a.b", "*", ">", "", "A"):
        with pytest.raises(StoreError) as caught:
            await queue.publish([a_chunk(an_event(), project=project)])
        assert caught.value.kind is Kind.DATA
        assert await queue.pending(project) == Pending()


async def test_a_full_stream_takes_nothing_new_and_loses_nothing_old(
    queue_at: OpenQueue, consumer_at: OpenConsumer, url: str
) -> None:
    """F15: and once workers have made room, it goes on."""
    bare = url.partition("?")[0]
    queue, consumer = await queue_at(f"{bare}?max_bytes=1048576"), await consumer_at(bare)
    taken: list[bytes] = []

    async def fill() -> None:
        for number in range(100):
            chunk = a_chunk(an_event(event_id=number, properties='{"t":"' + "x" * 100_000 + '"}'), queued=True)
            await queue.publish([chunk])
            taken.append(encode_chunk(chunk))

    with pytest.raises(StoreError) as caught:
        await fill()
    assert (caught.value.kind, caught.value.code, caught.value.retryable) == (Kind.FULL, "stream_full", True)
    assert "max_bytes" in caught.value.message
    assert (await queue.pending("default")).events == len(taken) == 10

    deliveries = await consumer.fetch(100, 1)
    assert [delivery.body for delivery in deliveries] == taken
    for delivery in deliveries:
        await delivery.ack()
    while (await queue.pending("default")).events:
        await asyncio.sleep(0.01)
    await queue.publish([a_chunk(an_event())])


async def test_one_chunk_that_failed_fails_the_call(queue_at: OpenQueue, url: str) -> None:
    """Whatever became of the others; and when it says so, they have all ended."""
    queue = await queue_at(f"{url.partition('?')[0]}?max_bytes=1048576")
    chunks = [a_chunk(an_event(event_id=each, properties='{"t":"' + "x" * 100_000 + '"}')) for each in range(30)]
    with pytest.raises(StoreError) as caught:
        await queue.publish(chunks)
    assert caught.value.kind is Kind.FULL
    before = await queue.pending("default")
    await asyncio.sleep(0.2)
    assert await queue.pending("default") == before
    assert before.events == 10


async def test_the_disk_of_the_server_is_full(queue_at: OpenQueue, tmp_path: Path) -> None:
    """As far as it may use it."""
    with servers.needed("nats"), servers.nats(tmp_path, own_process=True, max_store_bytes=5_000_000) as server:
        client = await nats.connect(server.url)
        await client.jetstream().add_stream(
            name="EVENTCORE", subjects=["eventcore.*.*"], retention="workqueue", discard="new", max_bytes=-1
        )
        await client.close()
        queue = await queue_at(server.url)
        chunks = [a_chunk(an_event(event_id=each, properties="x" * 200_000)) for each in range(100)]
        with pytest.raises(StoreError) as caught:
            await queue.publish(chunks)
        assert (caught.value.kind, caught.value.retryable) == (Kind.FULL, True)


async def test_a_slow_way_costs_time_but_not_one_after_the_other(
    queue_at: OpenQueue, consumer_at: OpenConsumer, url: str, nats_server: Server
) -> None:
    """F17: half a second there and half a second back, for all chunks of a call at once."""
    async with relay_to(nats_server.url) as relay:
        slow = url.replace(nats_server.url, relay.url)
        queue, consumer = await queue_at(slow), await consumer_at(slow)
        relay.delay_seconds = 0.5
        began_seconds = time.monotonic()
        calls = [[a_chunk(an_event(event_id=10 * call + each)) for each in range(10)] for call in range(5)]
        await asyncio.gather(*(queue.publish(call) for call in calls))
        assert 1 <= time.monotonic() - began_seconds < 3
        assert (await queue.pending("default")).events == 50
        deliveries = await consumer.fetch(100, 5)
        assert len(deliveries) == 50
        for delivery in deliveries:
            await delivery.ack()
        async with asyncio.timeout(5):
            while (await queue.pending("default")).events:
                pass
        relay.delay_seconds = 0


async def test_no_more_than_so_many_are_on_their_way(queue_at: OpenQueue, url: str, nats_server: Server) -> None:
    async with relay_to(nats_server.url) as relay:
        queue = await queue_at(f"{url.replace(nats_server.url, relay.url)}&in_flight=3&timeout_seconds=0.5")
        relay.lose_answers = True
        publishing = asyncio.create_task(_publish(queue, 20))
        await asyncio.sleep(0.3)
        assert relay.said.count(b"HPUB ") == 3
        with pytest.raises(StoreError) as caught:
            await publishing
        assert caught.value.kind is Kind.TIMEOUT
        # Who waited for a turn has waited long enough; in the moment in which all end, some may still get one.
        assert relay.said.count(b"HPUB ") <= 6


async def test_a_call_that_is_given_up_leaves_nothing(url: str, nats_server: Server) -> None:
    """No task, and no turn that is never given back."""
    async with relay_to(nats_server.url) as relay:
        queue = await open_queue(f"{url.replace(nats_server.url, relay.url)}&in_flight=2", store=Store())
        relay.lose_answers = True
        for _ in range(3):
            publishing = asyncio.create_task(_publish(queue, 10))
            await asyncio.sleep(0.05)
            publishing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await publishing
        assert [each.get_name() for each in asyncio.all_tasks() if "_send" in str(each)] == []
        relay.lose_answers = False
        await _publish(queue, 10)
        await queue.close()


async def test_who_asks_at_the_same_time_shares_an_answer(queue_at: OpenQueue, url: str, nats_server: Server) -> None:
    """Many statistics at once do not cost the broker as many questions."""
    async with relay_to(nats_server.url) as relay:
        queue = await queue_at(url.replace(nats_server.url, relay.url))
        await queue.publish([a_chunk(an_event(), counts=Counts(duplicates=1))])
        relay.delay_seconds = 0.02
        before = relay.said.count(b"STREAM.INFO")
        found = await asyncio.gather(*(queue.pending("default") for _ in range(100)))
        assert {each.events for each in found} == {1}
        assert relay.said.count(b"STREAM.INFO") - before == 2


async def test_numbers_of_events_add_up_over_many_messages(
    queue_at: OpenQueue, url: str, client: nats.NATS, nats_server: Server
) -> None:
    """Each number of events is a subject of its own, and each project has some of them."""
    queue = await queue_at(url)
    sizes = [number % 60 for number in range(300)]
    await queue.publish(
        [a_chunk(*(an_event(event_id=each) for each in range(size)), project=f"p{size % 2}") for size in sizes]
    )
    assert [(await queue.pending(project)).events for project in ("p0", "p1", "p")] == [
        sum(size for size in sizes if not size % 2),
        sum(size for size in sizes if size % 2),
        0,
    ]


async def test_pending_is_since_the_oldest_of_that_project(queue_at: OpenQueue, url: str) -> None:
    """Another project's message that nobody can store holds up nobody else's freshness."""
    queue = await queue_at(url)
    await queue.publish([a_chunk(an_event(), project="stuck")])
    await asyncio.sleep(0.1)
    began_us = time.time_ns() // 1_000
    await queue.publish([a_chunk(an_event(), project="shop")])
    stuck, shop = await queue.pending("stuck"), await queue.pending("shop")
    assert stuck.since_us is not None
    assert shop.since_us is not None
    assert stuck.since_us < began_us <= shop.since_us


async def the_last(client: nats.NATS, url: str) -> RawStreamMsg:
    info = await client.jsm().stream_info(stream_of(url))
    return await client.jsm().get_msg(stream_of(url), seq=info.state.last_seq)


async def _publish(queue: object, chunks: int) -> None:
    await queue.publish([a_chunk(an_event(event_id=each)) for each in range(chunks)])  # type: ignore[attr-defined]
