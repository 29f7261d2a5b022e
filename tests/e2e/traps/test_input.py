"""Trap 10: what passes a fast parser and must not be stored costs its own event only, all the way to the store."""

import json

import pytest

from tests.e2e.traps.homes import Urls, a_batch, a_core, an_event, an_id, booked, drain_all, send_until_told, stored

pytestmark = pytest.mark.e2e

FLAWS = {
    "control_character": b'{"a":"\\u0000"}',
    "duplicate_key": b'{"a":1,"a":2}',
    "number_range": b'{"a":1e400}',
    "invalid_utf8": b'{"a":"\xff"}',
    "too_deep": b'{"a":' * 500 + b"1" + b"}" * 500,
    "not_a_number": b'{"a":NaN}',
    "invalid_unicode": b'{"a":"\\ud800"}',
}


def flawed(number: int, properties: bytes) -> bytes:
    return json.dumps(an_event(number, properties=None)).encode().replace(b"null", properties)


@pytest.mark.parametrize("code", [*FLAWS, "all of them"])
async def test_a_flaw_costs_its_own_event(postgres_url: str, queue_url: str, code: str) -> None:
    """A batch of two hundred good events with one flaw, or all, in the middle; the good ones are stored and counted."""
    flaws = FLAWS if code == "all of them" else {code: FLAWS[code]}
    good = [json.dumps(an_event(number, properties={})).encode() for number in range(200)]
    bad = [flawed(900 + place, properties) for place, properties in enumerate(flaws.values())]
    body = b"[" + b",".join([*good[:100], *bad, *good[100:]]) + b"]"
    async with a_core(Urls(store=postgres_url, queue=queue_url)) as core:
        told = await core.ingest_body(body)
        await send_until_told(core, a_batch([500]))
        await drain_all(core.store, queue_url, silence_seconds=0.2)
        assert await stored(core, [*range(200), 500, *range(900, 910)]) == {*range(200), 500}
        assert (told.accepted, told.rejected) == (200, len(bad))
        assert [problem.code for problem in told.errors] == list(flaws)
        assert {problem.event_id for problem in told.errors} <= {an_id(900 + place) for place in range(10)} | {None}
        assert await booked(core) == {
            "received": 201 + len(bad),
            "accepted": 201,
            "rejected": len(bad),
            "stored": 201,
        }
