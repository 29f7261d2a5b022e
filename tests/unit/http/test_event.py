"""bad-input.md, "Event" to "properties", over HTTP: each bad event is an item, and nothing valid beside it is lost."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.http_requests import JSON, an_event, as_bytes, raw_event

ID = "0192f0c1-2b3a-7c4d-8e5f-6a7b8c9d0e1f"
PROJECT_HEADERS = {"Content-Type": JSON}


async def item_of(client: httpx.AsyncClient, bad: Any) -> dict[str, Any]:
    """Send a bad event between two good ones; the good ones must be kept."""
    raw = bad if isinstance(bad, bytes) else as_bytes(bad)
    good = [an_event(), an_event()]
    body = b"[" + b",".join([as_bytes(good[0]), raw, as_bytes(good[1])]) + b"]"
    response = await client.post("/events", content=body, headers=PROJECT_HEADERS)
    assert response.status_code == 202, response.text
    answer = response.json()
    assert (answer["accepted"], answer["rejected"]) == (2, 1), answer
    for event in good:
        assert (await client.get(f"/events/{event['event_id']}")).status_code == 200
    [problem] = answer["errors"]
    assert problem["index"] == 1
    return problem


async def kept(client: httpx.AsyncClient, event: dict[str, Any] | bytes, event_id: str | None = None) -> dict[str, Any]:
    """Send a good event and give back what is stored."""
    raw = event if isinstance(event, bytes) else json.dumps(event).encode()
    response = await client.post("/events", content=b"[" + raw + b"]", headers=PROJECT_HEADERS)
    assert response.json()["accepted"] == 1, response.text
    found = await client.get(f"/events/{event_id or json.loads(raw)['event_id']}")
    assert found.status_code == 200
    return found.json()


def is_code(problem: dict[str, Any], code: str, field: str | None) -> bool:
    return (problem["code"], problem["field"]) == (code, field)


@pytest.mark.parametrize("value", [1, "x", None, True, [], [an_event()]])
async def test_not_an_object(client: httpx.AsyncClient, value: Any) -> None:
    assert is_code(await item_of(client, value), "not_an_object", None)


@pytest.mark.parametrize("field", ["event_id", "user_id", "event_type", "occurred_at"])
async def test_missing_field(client: httpx.AsyncClient, field: str) -> None:
    assert is_code(await item_of(client, an_event(**{field: ...})), "missing_field", field)


async def test_unknown_field_with_the_close_spelling(client: httpx.AsyncClient) -> None:
    problem = await item_of(client, an_event(propertys={}))
    assert is_code(problem, "unknown_field", "propertys")
    assert "'properties'" in problem["message"]


@pytest.mark.parametrize("field", ["event_id", "user_id", "event_type", "occurred_at"])
@pytest.mark.parametrize("value", [None, 1, 1.5, True, [], {}])
async def test_wrong_type(client: httpx.AsyncClient, field: str, value: Any) -> None:
    assert is_code(await item_of(client, an_event(**{field: value})), "wrong_type", field)


@pytest.mark.parametrize("value", [None, [], "x", 1, True])
async def test_properties_of_the_wrong_type(client: httpx.AsyncClient, value: Any) -> None:
    assert is_code(await item_of(client, an_event(properties=value)), "wrong_type", "properties")


async def test_properties_may_be_left_out(client: httpx.AsyncClient) -> None:
    assert (await kept(client, an_event(properties=...)))["properties"] == {}


# event_id


@pytest.mark.parametrize(
    "event_id",
    [
        "x", "", ID[:-1], ID + "0", f"{{{ID}}}", f"urn:uuid:{ID}", ID.replace("-", ""), f" {ID}", f"{ID} ", f"{ID}\n",
        ID.replace("0", "\uff10"), "00000000-0000-0000-0000-000000000000", "ffffffff-ffff-ffff-ffff-ffffffffffff",
        "FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF", ID.replace("0", "g"), ID[:8] + ID[9:] + "0",
    ],
)  # fmt: skip
async def test_invalid_event_id(client: httpx.AsyncClient, event_id: str) -> None:
    assert is_code(await item_of(client, an_event(event_id=event_id)), "invalid_event_id", "event_id")


async def test_an_upper_case_id_is_the_same_id(client: httpx.AsyncClient) -> None:
    event = an_event(event_id=ID.upper())
    assert (await kept(client, event, ID))["event_id"] == ID
    again = await client.post("/events", content=as_bytes([event | {"event_id": ID}]), headers=PROJECT_HEADERS)
    assert again.json()["duplicates"] == 1


async def test_the_same_id_twice_in_a_batch(client: httpx.AsyncClient) -> None:
    event = an_event()
    body = [event, event, event | {"user_id": "eve"}, event | {"properties": {"plan": "pro"}}]
    answer = (await client.post("/events", content=as_bytes(body), headers=PROJECT_HEADERS)).json()
    assert {name: answer[name] for name in ("accepted", "duplicates", "conflicts", "rejected")} == {
        "accepted": 1, "duplicates": 2, "conflicts": 1, "rejected": 0,
    }  # fmt: skip
    assert [(problem["index"], problem["code"]) for problem in answer["errors"]] == [(2, "conflict_in_batch")]
    assert (await client.get(f"/events/{event['event_id']}")).json()["user_id"] == "ada"


async def test_the_same_id_with_other_content_later_is_a_conflict(client: httpx.AsyncClient) -> None:
    event = an_event()
    await kept(client, event)
    body = as_bytes([event | {"occurred_at": "2026-01-06T00:00:00Z"}])
    answer = (await client.post("/events", content=body, headers=PROJECT_HEADERS)).json()
    assert (answer["conflicts"], answer["errors"][0]["code"]) == (1, "conflict")
    assert (await client.get(f"/events/{event['event_id']}")).json()["occurred_at"] == "2026-01-05T09:30:00Z"


async def test_the_same_id_in_another_project_is_another_event(client: httpx.AsyncClient) -> None:
    event = an_event()
    await kept(client, event)
    answer = await client.post("/events?project=other", content=as_bytes([event]), headers=PROJECT_HEADERS)
    assert answer.json()["accepted"] == 1
    assert (await client.get(f"/events/{event['event_id']}?project=third")).status_code == 404


# user_id, event_type


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("user_id", "", "empty"),
        ("event_type", "", "empty"),
        ("user_id", "x" * 256, "too_long"),
        ("event_type", "x" * 101, "too_long"),
        ("user_id", "   ", "blank"),
        ("event_type", "\u3000", "blank"),
        ("user_id", "a\x01", "control_character"),
        ("user_id", "a\nb", "control_character"),
        ("event_type", "a\x00b", "control_character"),
        ("user_id", "a\x00b", "control_character"),
    ],
)
async def test_bad_texts(client: httpx.AsyncClient, field: str, value: str, code: str) -> None:
    assert is_code(await item_of(client, json.dumps(an_event(**{field: value})).encode()), code, field)


@pytest.mark.parametrize("field", ["user_id", "event_type", "event_id", "occurred_at"])
@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\udc00\ud800"])
async def test_a_lone_surrogate(client: httpx.AsyncClient, field: str, text: str) -> None:
    problem = await item_of(client, json.dumps(an_event(**{field: text})).encode())
    assert is_code(problem, "invalid_unicode", field)


@pytest.mark.parametrize(
    "text",
    [
        "x" * 255, "\U0001f600" * 255, "  ada ", "\u202eada", "a\u200bb", "e\u0301", "\u00e9", "'; DROP TABLE events;--",
        "%s%d%n", "{{7*7}}", "../../etc/passwd", "<script>alert(1)</script>", "\ufeffada", "\\", '"', "\U0010ffff",
    ],
)  # fmt: skip
async def test_odd_but_valid_texts_are_kept_exact(client: httpx.AsyncClient, text: str) -> None:
    assert (await kept(client, an_event(user_id=text)))["user_id"] == text
    if len(text) <= 100:
        assert (await kept(client, an_event(event_type=text)))["event_type"] == text


async def test_composed_and_decomposed_names_are_two_users(client: httpx.AsyncClient) -> None:
    for user in ("\u00e9", "e\u0301", "\u00e9"):
        await kept(client, an_event(user_id=user))
    found = await client.get("/stats/dau?from=2026-01-05&to=2026-01-05")
    assert found.json()["data"] == [{"date": "2026-01-05", "users": 2}]


# occurred_at


@pytest.mark.parametrize(
    "stamp",
    [
        "", "now", "2026-13-01T00:00:00Z", "2026-02-30T00:00:00Z", "2026-02-29T00:00:00Z", "2026-01-01T24:00:00Z",
        "2026-01-01T23:59:60Z", "2026-01-01T00:00:00", "2026-01-01T00:00:00+25:00", "26-01-01T00:00:00Z",
        "0000-01-01T00:00:00Z", "10000-01-01T00:00:00Z", "2026-01-01", "2026-01-01 00:00:00Z", " 2026-01-01T00:00:00Z",
        "2026-01-01T00:00:00Zx", "2026-W01-1T00:00:00Z", "2026-001T00:00:00Z", "2026-01-01T00:00:00.123456789Z",
        "2026-01-01T00:00:00.Z", "2026-01-01T00:00Z", "20260101T000000Z", "2026-01-01T00:00:00+0000",
        "2026-01-01T00:00:00,5Z", "\uff12\uff10\uff12\uff16-01-01T00:00:00Z", "1767225600",
    ],
)  # fmt: skip
async def test_invalid_timestamp_says_what_is_accepted(client: httpx.AsyncClient, stamp: str) -> None:
    problem = await item_of(client, an_event(occurred_at=stamp))
    assert is_code(problem, "invalid_timestamp", "occurred_at")
    assert "RFC 3339" in problem["message"]


@pytest.mark.parametrize(
    ("stamp", "stored"),
    [
        ("2026-01-01t00:00:00z", "2026-01-01T00:00:00Z"),
        ("2026-01-01T00:00:00-00:00", "2026-01-01T00:00:00Z"),
        ("2026-01-01T02:00:00.1+02:00", "2026-01-01T00:00:00.1"),
        ("2026-01-01T00:00:00.123456Z", "2026-01-01T00:00:00.123456Z"),
        ("2024-02-29T23:59:59.999999Z", "2024-02-29T23:59:59.999999Z"),
        ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z"),
    ],
)
async def test_valid_timestamps(client: httpx.AsyncClient, stamp: str, stored: str) -> None:
    found = (await kept(client, an_event(occurred_at=stamp)))["occurred_at"]
    assert found.startswith(stored)
    assert found.endswith("Z")


@pytest.mark.parametrize("stamp", ["1969-12-31T23:59:59.999999Z", "0001-01-01T00:00:00Z", "1970-01-01T00:00:00+00:01"])
async def test_too_old(client: httpx.AsyncClient, stamp: str) -> None:
    assert is_code(await item_of(client, an_event(occurred_at=stamp)), "too_old", "occurred_at")


async def test_in_the_future_says_the_servers_time(client: httpx.AsyncClient) -> None:
    now = datetime.now(UTC)
    problem = await item_of(client, an_event(occurred_at=(now + timedelta(hours=24, seconds=30)).isoformat()))
    assert is_code(problem, "in_the_future", "occurred_at")
    assert now.strftime("%Y-%m-%dT%H:") in problem["message"]
    await kept(client, an_event(occurred_at=(now + timedelta(hours=23, minutes=59)).isoformat()))


@pytest.mark.parametrize(
    ("stamp", "zone", "day"),
    [
        ("2024-02-29T23:59:59.999999Z", "UTC", "2024-02-29"),
        ("2025-10-26T00:30:00Z", "Europe/Berlin", "2025-10-26"),  # 02:30 for the first time
        ("2025-10-26T01:30:00Z", "Europe/Berlin", "2025-10-26"),  # and for the second
        ("2025-10-26T02:30:00+02:00", "America/New_York", "2025-10-25"),
        ("2026-01-05T23:59:59.999999+00:00", "Asia/Kathmandu", "2026-01-06"),
    ],
)
async def test_an_event_counts_on_the_right_local_day(
    client: httpx.AsyncClient, stamp: str, zone: str, day: str
) -> None:
    await kept(client, an_event(occurred_at=stamp))
    found = await client.get("/stats/dau", params={"from": day, "to": day, "tz": zone})
    assert found.json()["data"] == [{"date": day, "users": 1}]


# properties


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


async def test_eight_levels_are_accepted_and_nine_are_not(client: httpx.AsyncClient) -> None:
    await kept(client, an_event(properties=nested(8)))
    problem = await item_of(client, an_event(properties=nested(9)))
    assert problem["code"] == "too_deep"
    assert "8" in problem["message"]


async def test_255_keys_are_accepted_and_256_are_not(client: httpx.AsyncClient) -> None:
    await kept(client, an_event(properties={str(number): 1 for number in range(255)}))
    problem = await item_of(client, an_event(properties={str(number): 1 for number in range(256)}))
    assert problem["code"] == "too_many_keys"
    assert "255" in problem["message"]


async def test_an_event_over_256_kib_is_an_item_naming_the_limit(client: httpx.AsyncClient) -> None:
    await kept(client, an_event(properties={"text": "x" * 250_000}))
    problem = await item_of(client, an_event(properties={"text": "x" * 262_144}))
    assert problem["code"] == "event_too_large"
    assert "262144" in problem["message"]


@pytest.mark.parametrize(
    "number",
    ["0", "-0", "1.0", "0.1", "1e2", "12.50", "18446744073709551615", "-9223372036854775808", "9007199254740993",
     "0.30000000000000004", "1E-5", "123456789012345678.125"],
)  # fmt: skip
async def test_numbers_come_back_as_they_were_sent(client: httpx.AsyncClient, number: str) -> None:
    event_id = str(uuid4())
    await kept(client, raw_event(f'"properties": {{"n":{number}}}', properties=..., event_id=event_id))
    found = await client.get(f"/events/{event_id}")
    assert f'"properties":{{"n":{number}}}' in found.text


@pytest.mark.parametrize(
    "number", ["18446744073709551616", "-9223372036854775809", "1" * 500, "1e400", "-1e400", "1e-400"]
)
async def test_numbers_out_of_range_are_never_rounded(client: httpx.AsyncClient, number: str) -> None:
    problem = await item_of(client, raw_event(f'"properties": {{"n":{number}}}', properties=...))
    assert is_code(problem, "number_range", "properties.n")


@pytest.mark.parametrize("key", ["", "a.b", "$set", "\u0301", "a b", "__proto__", "\U0001f600"])
async def test_odd_keys_are_kept_exact(client: httpx.AsyncClient, key: str) -> None:
    assert (await kept(client, an_event(properties={key: key})))["properties"] == {key: key}


@pytest.mark.parametrize("properties", [{"a\0": 1}, {"a": "\0"}, {"a": ["\0"]}, {"a": {"\0": 1}}])
async def test_nul_in_properties(client: httpx.AsyncClient, properties: dict[str, Any]) -> None:
    problem = await item_of(client, json.dumps(an_event(properties=properties)).encode())
    assert problem["code"] == "control_character"


async def test_no_answer_repeats_more_than_64_characters(client: httpx.AsyncClient) -> None:
    long = "q" * 3_000
    for bad in (
        an_event(event_id=long), an_event(user_id=long), an_event(**{long: 1}), an_event(occurred_at=long),
        an_event(properties={long: {long: float("1e300")}, "n": 10**40}),
    ):  # fmt: skip
        problem = await item_of(client, bad)
        assert "q" * 65 not in json.dumps(problem)
