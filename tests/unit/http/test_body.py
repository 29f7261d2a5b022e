"""bad-input.md, "Body": what is no batch of events is refused whole; what is one loses at most its bad events."""

import gzip
import json
import zlib

import httpx
import pytest

from entrypoints.http.bodies import inflate
from entrypoints.http.problems import HttpProblem
from tests.http_requests import JSON, NDJSON, an_event, as_bytes, raw_event

LIMIT = 10 * 1024 * 1024


async def post(client: httpx.AsyncClient, body: bytes, content_type: str | None = JSON, **headers: str):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if content_type is not None:
        named["Content-Type"] = content_type
    return await client.post("/events", content=body, headers=named)


def assert_problem(response: httpx.Response, status: int, code: str) -> dict:
    found = response.json()
    assert (response.status_code, found["code"]) == (status, code), response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert found["status"] == status
    assert found["type"] == "about:blank"
    assert found["title"]
    assert found["message"] == found["detail"]
    assert found["request_id"] == response.headers["x-request-id"]
    return found


def assert_kept(response: httpx.Response, accepted: int, codes: list[str]) -> list[dict]:
    found = response.json()
    assert response.status_code == 202, response.text
    assert (found["accepted"], [problem["code"] for problem in found["errors"]]) == (accepted, codes)
    return found["errors"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "empty_body"),
        (b" \n", "empty_body"),
        (b"[]", "empty_batch"),
        (b'{"events": []}', "empty_batch"),
        (b"null", "not_a_batch"),
        (b'"x"', "not_a_batch"),
        (b"1", "not_a_batch"),
        (b"true", "not_a_batch"),
        (b'{"event_id": "x"}', "not_a_batch"),
        (as_bytes([an_event()]) + b"x", "invalid_json"),
        (as_bytes([an_event()]) + b"[]", "invalid_json"),
        (b"[{}}", "invalid_json"),
        ("[]".encode("utf-16"), "invalid_utf8"),
        ("[]".encode("utf-16-le"), "invalid_utf8"),
        (b"[\xff]", "invalid_utf8"),
        (b"[1, \xc3\x28]", "invalid_utf8"),
        (b'{"events": [], "events": []}', "duplicate_key"),
    ],
)
async def test_a_body_that_is_no_batch_is_400(client: httpx.AsyncClient, body: bytes, code: str) -> None:
    assert_problem(await post(client, body), 400, code)


async def test_truncated_json_is_400_with_the_byte_offset(client: httpx.AsyncClient) -> None:
    body = as_bytes([an_event(), an_event()])[:-40]
    assert assert_problem(await post(client, body), 400, "invalid_json")["offset"] == len(body)


async def test_a_byte_order_mark_is_accepted(client: httpx.AsyncClient) -> None:
    assert_kept(await post(client, b"\xef\xbb\xbf" + as_bytes([an_event()])), 1, [])


@pytest.mark.parametrize("form", ["array", "object"])
async def test_an_array_and_an_object_with_events_are_both_batches(client: httpx.AsyncClient, form: str) -> None:
    events = [an_event(), an_event()]
    assert_kept(await post(client, as_bytes(events if form == "array" else {"events": events})), 2, [])


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (raw_event('"properties": {"city": "K')[:-1] + b'\xff"}}', "invalid_utf8"),
        (raw_event('"properties": {"x": NaN}', properties=...), "not_a_number"),
        (raw_event('"properties": {"x": Infinity}', properties=...), "not_a_number"),
        (raw_event('"properties": {"x": -Infinity}', properties=...), "not_a_number"),
        (raw_event('"properties": {"a": 1, "a": 2}', properties=...), "duplicate_key"),
        (raw_event('"user_id": "eve"'), "duplicate_key"),
        (raw_event('"properties": {"x": "\\ud800"}', properties=...), "invalid_unicode"),
    ],
)
async def test_a_flaw_that_breaks_a_fast_parser_costs_its_own_event_only(
    client: httpx.AsyncClient, bad: bytes, code: str
) -> None:
    body = b"[" + as_bytes(an_event()) + b"," + bad + b"," + as_bytes(an_event()) + b"]"
    [problem] = assert_kept(await post(client, body), 2, [code])
    assert problem["index"] == 1


async def test_2000_events_are_accepted(client: httpx.AsyncClient) -> None:
    assert_kept(await post(client, as_bytes([an_event() for _ in range(2_000)])), 2_000, [])


async def test_2001_events_are_413_naming_the_limit(client: httpx.AsyncClient) -> None:
    body = as_bytes([an_event() for _ in range(2_001)])
    assert "2000" in assert_problem(await post(client, body), 413, "batch_too_large")["message"]


async def test_a_body_declared_over_the_limit_is_413_before_it_is_read(client: httpx.AsyncClient) -> None:
    read = []

    async def pieces():
        read.append(1)
        yield b" " * 65_536

    response = await client.post(
        "/events", content=pieces(), headers={"Content-Type": JSON, "Content-Length": str(LIMIT + 1)}
    )
    assert str(LIMIT) in assert_problem(response, 413, "body_too_large")["message"]
    assert not read


async def test_a_chunked_body_over_the_limit_is_413_before_it_is_read_whole(client: httpx.AsyncClient) -> None:
    read_bytes = 0

    async def pieces():
        nonlocal read_bytes
        for _ in range(10_000):
            read_bytes += 65_536
            yield b" " * 65_536

    response = await client.post("/events", content=pieces(), headers={"Content-Type": JSON})
    assert_problem(response, 413, "body_too_large")
    assert read_bytes <= LIMIT + 2 * 65_536


async def test_a_body_of_exactly_the_limit_is_read(client: httpx.AsyncClient) -> None:
    assert_kept(await post(client, as_bytes([an_event()]).ljust(LIMIT)), 1, [])


async def test_a_chunked_body_is_accepted(client: httpx.AsyncClient) -> None:
    body = as_bytes([an_event(), an_event()])

    async def pieces():
        for start in range(0, len(body), 7):
            yield body[start : start + 7]

    assert_kept(await client.post("/events", content=pieces(), headers={"Content-Type": JSON}), 2, [])


# gzip


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "x-gzip"])
async def test_gzip_is_accepted(client: httpx.AsyncClient, coding: str) -> None:
    body = gzip.compress(as_bytes([an_event()]))
    assert_kept(await post(client, body, Content_Encoding=coding), 1, [])


async def test_a_large_gzip_is_accepted(client: httpx.AsyncClient) -> None:
    body = gzip.compress(as_bytes([an_event() for _ in range(2_000)]))
    assert len(body) > 16 * 1024
    assert_kept(await post(client, body, Content_Encoding="gzip"), 2_000, [])


async def test_gzip_of_several_members_is_accepted(client: httpx.AsyncClient) -> None:
    body = as_bytes([an_event()])
    members = gzip.compress(body[:20]) + gzip.compress(b"") + gzip.compress(body[20:])
    assert_kept(await post(client, members, Content_Encoding="gzip"), 1, [])


async def test_a_gzip_that_unfolds_over_the_limit_is_413(client: httpx.AsyncClient) -> None:
    assert_problem(
        await post(client, gzip.compress(b" " * (LIMIT + 1)), Content_Encoding="gzip"), 413, "body_too_large"
    )


def damaged(body: bytes, position: int) -> bytes:
    return body[:position] + bytes([body[position] ^ 0xFF]) + body[position:][1:]


WHOLE = gzip.compress(as_bytes([an_event() for _ in range(30)]))


@pytest.mark.parametrize(
    "body",
    [
        *(WHOLE[:-cut] for cut in (1, 4, 8, 9, 100)),
        WHOLE[:1],
        damaged(WHOLE, len(WHOLE) - 8),  # CRC
        damaged(WHOLE, len(WHOLE) - 1),  # length
        damaged(WHOLE, 40),
        WHOLE + b"x",
        WHOLE + b"\0",
        WHOLE + b"trailing garbage",
        WHOLE + WHOLE[:-1],
        as_bytes([an_event()]),
        zlib.compress(as_bytes([an_event()])),
        gzip.compress(b"") * 1_002,
    ],
)
async def test_a_broken_gzip_is_400(client: httpx.AsyncClient, body: bytes) -> None:
    assert_problem(await post(client, body, Content_Encoding="gzip"), 400, "invalid_gzip")


async def test_an_empty_body_called_gzip_is_an_empty_body(client: httpx.AsyncClient) -> None:
    assert_problem(await post(client, b"", Content_Encoding="gzip"), 400, "empty_body")


@pytest.mark.parametrize("size", [1, 65_535, 65_536, 65_537, 300_000])
def test_inflating_gives_back_what_was_compressed_up_to_the_very_limit(size: int) -> None:
    plain = bytes(index * index % 251 for index in range(size))
    half = size // 2
    compressed = gzip.compress(plain[:half]) + gzip.compress(plain[half:])
    assert inflate(compressed, most_bytes=size) == plain
    with pytest.raises(HttpProblem) as refused:
        inflate(compressed, most_bytes=size - 1)
    assert refused.value.status == 413


@pytest.mark.parametrize("coding", ["br", "deflate", "zstd", "gzip, gzip", "identity, gzip", "gzip,"])
async def test_other_codings_are_415_with_the_accepted_list(client: httpx.AsyncClient, coding: str) -> None:
    response = await post(client, as_bytes([an_event()]), Content_Encoding=coding)
    assert "gzip" in assert_problem(response, 415, "unsupported_encoding")["message"]
    assert response.headers["accept-encoding"] == "gzip, identity"


async def test_identity_is_no_coding(client: httpx.AsyncClient) -> None:
    assert_kept(await post(client, as_bytes([an_event()]), Content_Encoding="identity"), 1, [])


# Content types


@pytest.mark.parametrize(
    "content_type", [None, "", "text/plain", "application/x-www-form-urlencoded", "text/json", "*/*"]
)
async def test_other_content_types_are_415_with_the_accepted_list(
    client: httpx.AsyncClient, content_type: str | None
) -> None:
    response = await post(client, as_bytes([an_event()]), content_type)
    assert JSON in assert_problem(response, 415, "unsupported_media_type")["message"]


@pytest.mark.parametrize("charset", ["latin-1", "iso-8859-1", "utf-16", '"windows-1252"', ""])
async def test_other_charsets_are_415(client: httpx.AsyncClient, charset: str) -> None:
    response = await post(client, "[\xe9]".encode("latin-1"), f"{JSON}; charset={charset}")
    assert_problem(response, 415, "unsupported_charset")


@pytest.mark.parametrize(
    "content_type", [f"{JSON}; charset=utf-8", f'{JSON};charset="UTF-8"', "Application/JSON ; a=b"]
)
async def test_utf8_may_be_said_aloud(client: httpx.AsyncClient, content_type: str) -> None:
    assert_kept(await post(client, as_bytes([an_event()]), content_type), 1, [])


# Nesting


@pytest.mark.parametrize(
    "brackets", [b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000, b"[" * 1_048_576, b'{"a":' * 100_000]
)
async def test_deep_nesting_is_400(client: httpx.AsyncClient, brackets: bytes) -> None:
    response = await post(client, brackets)
    assert response.status_code == 400
    assert response.json()["code"] in ("too_deep", "not_a_batch")


# JSON lines


@pytest.mark.parametrize("content_type", [NDJSON, "application/ndjson", "application/jsonl"])
async def test_json_lines_with_a_blank_last_line_are_accepted(client: httpx.AsyncClient, content_type: str) -> None:
    body = as_bytes(an_event()) + b"\r\n" + as_bytes(an_event()) + b"\n\n"
    assert_kept(await post(client, body, content_type), 2, [])


async def test_one_bad_line_costs_its_own_event_only(client: httpx.AsyncClient) -> None:
    body = as_bytes(an_event()) + b"\n{nonsense\n" + as_bytes(an_event())
    [problem] = assert_kept(await post(client, body, NDJSON), 2, ["invalid_json"])
    assert problem["index"] == 1


# Nothing kept


async def test_a_batch_without_a_valid_event_is_422_and_names_each(client: httpx.AsyncClient) -> None:
    response = await post(client, as_bytes([an_event(user_id=""), 7]))
    found = assert_problem(response, 422, "no_valid_event")
    assert {name: found[name] for name in ("accepted", "duplicates", "conflicts", "rejected")} == {
        "accepted": 0, "duplicates": 0, "conflicts": 0, "rejected": 2,
    }  # fmt: skip
    assert [(problem["index"], problem["code"]) for problem in found["errors"]] == [(0, "empty"), (1, "not_an_object")]


async def test_strict_keeps_nothing_of_a_batch_with_a_flaw(client: httpx.AsyncClient) -> None:
    good = an_event()
    response = await client.post(
        "/events?strict=true", content=as_bytes([good, an_event(user_id="")]), headers={"Content-Type": JSON}
    )
    found = assert_problem(response, 422, "strict_refused")
    assert (found["rejected"], len(found["errors"])) == (2, 1)
    assert (await client.get(f"/events/{good['event_id']}")).status_code == 404


async def test_a_dry_run_says_what_would_happen_and_stores_nothing(client: httpx.AsyncClient) -> None:
    body = as_bytes([event := an_event(), an_event(user_id=""), event])
    response = await client.post("/events?dry_run=true", content=body, headers={"Content-Type": JSON})
    assert response.status_code == 200
    answer = response.json()
    assert (answer["accepted"], answer["duplicates"], answer["rejected"]) == (1, 1, 1)
    assert (await client.get(f"/events/{event['event_id']}")).status_code == 404
    assert (await client.post("/events", content=body, headers={"Content-Type": JSON})).json() == answer


@pytest.mark.parametrize(
    ("query", "code", "field"),
    [
        ("strict=yes", "invalid_parameter", "strict"),
        ("strict=", "invalid_parameter", "strict"),
        ("dry_run=1", "invalid_parameter", "dry_run"),
        ("strict=true&strict=true", "repeated_parameter", "strict"),
        ("dryrun=true", "unknown_parameter", "dryrun"),
        ("project=A", "invalid_project", "project"),
        ("project=", "invalid_project", "project"),
    ],
)
async def test_parameters_that_have_no_meaning_are_422(
    client: httpx.AsyncClient, query: str, code: str, field: str
) -> None:
    response = await client.post(f"/events?{query}", content=as_bytes([an_event()]), headers={"Content-Type": JSON})
    assert assert_problem(response, 422, code)["field"] == field


async def test_an_unknown_parameter_is_answered_with_the_closest_name(client: httpx.AsyncClient) -> None:
    response = await client.post("/events?dryrun=true", content=b"[]", headers={"Content-Type": JSON})
    assert "'dry_run'" in response.json()["message"]


async def test_events_of_an_answer_stand_in_the_order_of_the_contract(client: httpx.AsyncClient) -> None:
    response = await post(client, as_bytes([an_event(), an_event(colour=1)]))
    assert list(response.json()) == ["accepted", "duplicates", "conflicts", "rejected", "errors"]
    assert list(response.json()["errors"][0]) == ["index", "event_id", "code", "field", "message"]


async def test_a_body_with_bad_bytes_in_a_string_shows_text_only(client: httpx.AsyncClient) -> None:
    response = await post(client, b'[{"\\ud800": 1}]')
    json.loads(response.content.decode("utf-8"))
    assert response.status_code == 422
