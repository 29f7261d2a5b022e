"""Traps 1 and 2: what a cache may say, when it may be told, and when it must have forgotten."""

import asyncio
from collections.abc import Iterable
from contextlib import suppress

import asyncpg
import httpx
import pytest

from eventcore.errors import StoreError
from tests.e2e.traps.conftest import Start
from tests.e2e.traps.homes import WAIT_SECONDS, Urls, a_batch, a_core, booked, drain_all, send_until_told, stored, until
from tests.support.servers import Server

pytestmark = pytest.mark.e2e


async def test_a_failed_publish_leaves_no_claim(
    postgres_url: str, redis_url: str, own_queue_url: str, own_nats: Server
) -> None:
    """Trap 1: whoever claims first answers "duplicate" to the retry of an event that is nowhere."""
    async with a_core(Urls(store=postgres_url, dedup=redis_url, queue=own_queue_url)) as core:
        assert await send_until_told(core, a_batch([1])) == (1, 0, 0, 0)
        await asyncio.to_thread(own_nats.kill)
        with pytest.raises(StoreError) as refused:
            await core.ingest_body(a_batch(range(10)))
        assert refused.value.retryable
        await asyncio.to_thread(own_nats.start)
        await send_until_told(core, a_batch(range(10)))
        await drain_all(core.store, own_queue_url)
        assert await stored(core, range(10)) == set(range(10))
        assert (await booked(core))["stored"] == 10


async def test_an_api_killed_before_the_acknowledgement_leaves_no_claim(
    postgres_url: str, redis_url: str, own_queue_url: str, own_nats: Server, start: Start
) -> None:
    """Trap 1, with real processes: the broker is frozen when the request comes, and both are killed."""
    urls = Urls(store=postgres_url, dedup=redis_url, queue=own_queue_url)
    api = await asyncio.to_thread(start, "serve", urls)
    async with httpx.AsyncClient(timeout=WAIT_SECONDS) as client:
        await until(lambda: post(client, api.url, [1]))
        own_nats.pause()
        asking = asyncio.create_task(post(client, api.url, range(10)))
        await asyncio.sleep(0.5)
        await asyncio.to_thread(api.kill)
        with suppress(httpx.HTTPError):
            assert not await asking
    await asyncio.to_thread(own_nats.kill)
    await asyncio.to_thread(own_nats.start)
    async with a_core(urls) as core:
        await send_until_told(core, a_batch(range(10)))
        await drain_all(core.store, own_queue_url)
        assert await stored(core, range(10)) == set(range(10))


async def test_a_cache_that_does_not_answer_knows_nothing(postgres_url: str, queue_url: str) -> None:
    """Trap 1: nobody listens at its address, so whatever it would be taken to say is made up."""
    async with a_core(Urls(store=postgres_url, dedup="redis://127.0.0.1:1", queue=queue_url)) as core:
        for _ in range(2):
            await send_until_told(core, a_batch(range(10)))
            await drain_all(core.store, queue_url)
            assert await stored(core, range(10)) == set(range(10))
        assert await booked(core) == {"received": 20, "accepted": 20, "stored": 10, "duplicate_at_store": 10}


async def post(client: httpx.AsyncClient, url: str, numbers: Iterable[int]) -> bool:
    """Whether these events were taken."""
    answer = await client.post(f"{url}/events", content=a_batch(numbers), headers={"Content-Type": "application/json"})
    return answer.status_code == 202


async def test_changed_content_is_a_conflict_also_for_who_knows_the_id(
    postgres_url: str, redis_url: str, queue_url: str
) -> None:
    """Trap 2: a mark of ids alone takes it for a duplicate, and nobody ever hears of the conflict."""
    async with a_core(Urls(store=postgres_url, dedup=redis_url, queue=queue_url)) as core:
        for body in (a_batch([1, 2]), a_batch([1, 2, 3]), a_batch([1, 2], user_id="another")):
            await send_until_told(core, body)
            await drain_all(core.store, queue_url, silence_seconds=0.2)
        assert await booked(core) == {
            "received": 7,
            "accepted": 5,
            "duplicates": 2,
            "stored": 3,
            "conflict_at_store": 2,
        }


async def test_a_dropped_letter_may_come_again(postgres_url: str, redis_url: str, queue_url: str) -> None:
    """Trap 2: a mark that outlives the epoch answers "duplicate" to an event that is in no table any more."""
    async with a_core(Urls(store=postgres_url, dedup=redis_url, queue=queue_url)) as core:
        server = await asyncpg.connect(postgres_url.partition("?")[0])
        schema = postgres_url.partition("search_path=")[2]
        await server.execute(f"ALTER TABLE {schema}.events ADD CONSTRAINT no_two CHECK (properties <> '{{\"n\": 2}}')")
        await send_until_told(core, a_batch([1, 2, 3]))
        await drain_all(core.store, queue_url)
        assert await stored(core, [1, 2, 3]) == {1, 3}

        await server.execute(f"ALTER TABLE {schema}.events DROP CONSTRAINT no_two")
        await server.close()
        epoch = await core.store.epoch()
        assert (await core.drop_dead_letters("all")).dropped == 1

        async def is_forgotten() -> bool:
            return await core.store.epoch() != epoch

        with suppress(TimeoutError):  # at most a second; where it never is, the event is lost, as is seen below
            await until(is_forgotten, 3.0)
        await send_until_told(core, a_batch([1, 2, 3]))
        await drain_all(core.store, queue_url)
        assert await stored(core, [1, 2, 3]) == {1, 2, 3}
