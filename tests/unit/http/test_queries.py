"""bad-input.md, "Queries": what has no answer is 422 and names the parameter; what has one is 200."""

import csv
import io
import re
from datetime import UTC, datetime

import httpx
import pytest

from tests.http_requests import JSON, an_event, as_bytes

RANGE = "from=2026-01-01&to=2026-01-31"
RANGED = ["dau", "active-users", "stickiness", "lifecycle", "event-counts", "top-events"]


async def refused(client: httpx.AsyncClient, url: str, field: str | None) -> dict:
    response = await client.get(url)
    assert response.status_code == 422, response.text
    assert response.headers["content-type"] == "application/problem+json"
    found = response.json()
    assert found.get("field") == field, found
    assert found["request_id"] == response.headers["x-request-id"]
    return found


@pytest.mark.parametrize("statistic", [*RANGED, "ingestion"])
@pytest.mark.parametrize(
    ("query", "field", "code"),
    [
        ("to=2026-01-31", "from", "missing_parameter"),
        ("from=2026-01-31", "to", "missing_parameter"),
        ("from=2026-01-31&to=2026-01-01", "from", "invalid_range"),
        ("from=2026-02-30&to=2026-03-01", "from", "invalid_date"),
        ("from=&to=2026-03-01", "from", "invalid_date"),
        ("from=2026-01-01&to=tomorrow", "to", "invalid_date"),
        ("from=2026-01-01T00:00:00Z&to=2026-01-02", "from", "invalid_date"),
        ("from=2010-01-01&to=2026-01-01", "to", "range_too_long"),
        (f"{RANGE}&project=No", "project", "invalid_project"),
        (f"{RANGE}&colour=red", "colour", "unknown_parameter"),
        (f"{RANGE}&from=2026-01-01", "from", "repeated_parameter"),
        (f"{RANGE}&project=a&project=b", "project", "repeated_parameter"),
    ],
)
async def test_ranges(client: httpx.AsyncClient, statistic: str, query: str, field: str, code: str) -> None:
    assert (await refused(client, f"/stats/{statistic}?{query}", field))["code"] == code


async def test_a_range_over_3660_days_names_the_limit(client: httpx.AsyncClient) -> None:
    found = await refused(client, "/stats/dau?from=2016-01-01&to=2026-01-08", "to")
    assert "3660" in found["message"]
    assert (await client.get("/stats/dau?from=2016-01-01&to=2026-01-07")).status_code == 200


@pytest.mark.parametrize("path", ["/stats/dau", "/stats/top-events", "/stats/retention", "/stats/ingestion"])
@pytest.mark.parametrize(("wrong", "right"), [("form", "from"), ("start-date", "start_date"), ("proyect", "project")])
async def test_an_unknown_parameter_is_answered_with_the_closest_name(
    client: httpx.AsyncClient, path: str, wrong: str, right: str
) -> None:
    has = {"from", "project"} if path != "/stats/retention" else {"start_date", "project"}
    found = await refused(client, f"{path}?{wrong}=2026-01-01", wrong)
    assert found["code"] == "unknown_parameter"
    assert (re.search(f"did you mean .*{right!r}", found["message"]) is not None) is (right in has)


@pytest.mark.parametrize("parameter", ["tz=UTC", "segment=event_type:a", "limit=3"])
async def test_the_books_have_no_zone_and_no_segments(client: httpx.AsyncClient, parameter: str) -> None:
    found = await refused(client, f"/stats/ingestion?{RANGE}&{parameter}", parameter.partition("=")[0])
    assert found["code"] == "unknown_parameter"


@pytest.mark.parametrize(
    "limit", ["0", "-1", "1e3", "1000000000", "1001", "", "1.0", " 1", "1_0", "\uff11", "9" * 5_000]
)
async def test_limit(client: httpx.AsyncClient, limit: str) -> None:
    response = await client.get("/stats/top-events", params={"from": "2026-01-01", "to": "2026-01-02", "limit": limit})
    assert (response.status_code, response.json()["field"]) == (422, "limit")
    assert len(response.text) < 1_000


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("", "start_date"),
        ("start_date=2026-02-30", "start_date"),
        ("start_date=2026-01-01&windows=0", "windows"),
        ("start_date=2026-01-01&windows=1000", "windows"),
        ("start_date=2026-01-01&windows=x", "windows"),
        ("start_date=2026-01-01&cohorts=0", "cohorts"),
        ("start_date=2026-01-01&window=year", "window"),
        ("start_date=2026-01-01&week_start=friday", "week_start"),
        ("start_date=2026-01-01&cohort=last", "cohort"),
        ("start_date=2026-01-01&return=never", "return"),
        ("start_date=2026-01-01&cohort_event=", "cohort_event"),
        ("start_date=2026-01-01&return_event=" + "x" * 300, "return_event"),
        ("start_date=2026-01-01&from=2026-01-01", "from"),
        ("start_date=2026-01-01&return_=on", "return_"),
    ],
)
async def test_retention(client: httpx.AsyncClient, query: str, field: str) -> None:
    await refused(client, f"/stats/retention?{query}", field)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        (f"dau?{RANGE}&breakdown=country", "breakdown"),
        (f"dau?{RANGE}&breakdown=", "breakdown"),
        (f"dau?{RANGE}&breakdown=properties.", "breakdown"),
        (f"dau?{RANGE}&breakdown=event_type&groups=0", "groups"),
        (f"dau?{RANGE}&breakdown=event_type&groups=51", "groups"),
        (f"dau?{RANGE}&groups=many", "groups"),
        ("dau?from=2016-01-01&to=2026-01-07&breakdown=event_type", "breakdown"),
        ("retention?start_date=2026-01-01&windows=366&breakdown=event_type", "breakdown"),
        ("event-counts?from=2025-01-01&to=2026-01-01&interval=hour&breakdown=event_type&groups=50", "breakdown"),
        (f"dau?{RANGE}&format=xml", "format"),
        (f"ingestion?{RANGE}&format=xml", "format"),
        (f"ingestion?{RANGE}&breakdown=event_type", "breakdown"),
        (f"active-users?{RANGE}&window=7", "window"),
        (f"active-users?{RANGE}&window=2d", "window"),
        (f"stickiness?{RANGE}&window=7d", "window"),
        (f"lifecycle?{RANGE}&interval=hour", "interval"),
        (f"lifecycle?{RANGE}&week_start=friday", "week_start"),
        ("lifecycle?from=9998-12-01&to=9998-12-31&interval=week", "to"),
        ("lifecycle?from=2016-01-01&to=2026-01-07&interval=month", "to"),
        (f"event-counts?{RANGE}&interval=minute", "interval"),
        ("event-counts?from=2025-01-01&to=2026-01-02&interval=hour", "to"),
        (f"top-events?{RANGE}&by=share", "by"),
        ("retention?start_date=2026-01-01&brackets=1,3", "brackets"),
        ("retention?start_date=2026-01-01&brackets=0", "brackets"),
        ("retention?start_date=2026-01-01&brackets=0,3,2", "brackets"),
        ("retention?start_date=2026-01-01&brackets=0,1,", "brackets"),
        ("retention?start_date=2026-01-01&brackets=0,367", "brackets"),
        ("retention?start_date=2026-01-01&brackets=0,3&windows=2", "windows"),
    ],
)
async def test_what_has_no_answer_is_refused_by_name(client: httpx.AsyncClient, query: str, field: str) -> None:
    await refused(client, f"/stats/{query}", field)


async def test_the_longest_ranges_are_answered(client: httpx.AsyncClient) -> None:
    hours = await client.get("/stats/event-counts?from=2025-01-01&to=2026-01-01&interval=hour&tz=Asia/Kathmandu")
    assert len(hours.json()["data"]) == 366 * 24
    weeks = await client.get("/stats/lifecycle?from=2016-01-04&to=2026-01-04&interval=week")
    assert len(weeks.json()["data"]) == 522
    groups = await client.get("/stats/retention?start_date=2026-01-01&windows=120&breakdown=event_type")
    assert groups.status_code == 200
    days = await client.get("/stats/stickiness?from=1969-12-31&to=1970-01-02")
    assert [row["mau"] for row in days.json()["data"]] == [0, 0, 0]


@pytest.mark.parametrize(
    ("accept", "query", "expected"),
    [
        ("text/csv", "", "text/csv; charset=utf-8"),
        ("text/csv, application/json", "", "text/csv; charset=utf-8"),
        ("application/json, text/csv", "", "application/json"),
        ("text/html, */*;q=0.8", "", "application/json"),
        ("text/csv;q=0", "", "application/json"),
        ("text/csv;q=0.5, application/json", "", "application/json"),
        ("application/json;q=0, text/csv", "", "text/csv; charset=utf-8"),
        ("text/csv;q=x", "", "application/json"),
        ("", "", "application/json"),
        ("text/csv", "&format=json", "application/json"),
        ("application/json", "&format=csv", "text/csv; charset=utf-8"),
    ],
)
@pytest.mark.parametrize("statistic", [*RANGED, "ingestion"])
async def test_the_answer_has_the_format_that_is_asked_for(
    client: httpx.AsyncClient, statistic: str, accept: str, query: str, expected: str
) -> None:
    response = await client.get(f"/stats/{statistic}?{RANGE}{query}", headers={"Accept": accept})
    assert (response.status_code, response.headers["content-type"]) == (200, expected)
    assert response.headers["vary"] == "Accept"


async def test_csv_quotes_whatever_ends_a_line(client: httpx.AsyncClient) -> None:
    for number, text in enumerate(("x\ry", "x\ny", 'x"y', "x,y", "x y")):
        events = [an_event(user_id=str(number), properties={"n": text})]
        await client.post("/events", content=as_bytes(events), headers={"Content-Type": JSON})
    found = await client.get("/stats/dau?from=2026-01-05&to=2026-01-05&format=csv&breakdown=properties.n")
    rows = list(csv.reader(io.StringIO(found.text, newline="")))
    assert [row[0] for row in rows[2:7]] == sorted(("x\ry", "x\ny", 'x"y', "x,y", "x y"))


async def test_csv_says_what_json_says(client: httpx.AsyncClient) -> None:
    events = [
        an_event(event_type='a,"b"', properties={"country": "UA"}),
        an_event(user_id="eve", event_type="login", properties={"country": "UA"}),
        an_event(user_id="eve", event_type="login"),
    ]
    await client.post("/events", content=as_bytes(events), headers={"Content-Type": JSON})
    query = "from=2026-01-05&to=2026-01-05&format=csv"
    found = await client.get(f"/stats/top-events?{query}")
    assert (
        found.text == 'event_type,count,users,share\nlogin,2,1,0.6666666666666666\n"a,""b""",1,1,0.3333333333333333\n'
    )
    assert found.headers["x-pending"] == "0"
    assert found.headers["x-data-as-of"].endswith("Z")
    found = await client.get(f"/stats/dau?{query}&breakdown=properties.country")
    assert found.text.splitlines() == [
        "group,kind,date,users",
        ",all,2026-01-05,2",
        "UA,value,2026-01-05,2",
        ",missing,2026-01-05,1",
        ",other,2026-01-05,0",
    ]
    found = await client.get("/stats/retention?start_date=2026-01-05&cohorts=1&windows=2&brackets=0,1&format=csv")
    assert found.text.splitlines()[:3] == [
        "cohort,size,window,to,users,rate,complete",
        "2026-01-05,2,0,0,2,1.0,true",
        "2026-01-05,2,1,2,0,0.0,true",
    ]
    empty = await client.get("/stats/top-events?from=2020-01-01&to=2020-01-02&format=csv")
    assert empty.text == "event_type,count,users,share\n"


async def test_an_answer_that_is_known_is_not_sent_again(client: httpx.AsyncClient) -> None:
    url = "/stats/dau?from=2026-01-05&to=2026-01-06"
    await client.post("/events", content=as_bytes([an_event()]), headers={"Content-Type": JSON})
    first = await client.get(url)
    tag = first.headers["etag"]
    assert (tag[:3], first.headers["cache-control"]) == ('W/"', "private, no-cache")
    for known in (tag, tag.removeprefix("W/"), f'"other", {tag}', "*"):
        same = await client.get(url, headers={"If-None-Match": known})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    for other in ("&tz=Europe/Kyiv", "&format=csv", "&segment=event_type:x", "&breakdown=event_type", "&project=other"):
        fresh = await client.get(url + other, headers={"If-None-Match": tag})
        assert (fresh.status_code, fresh.headers["etag"] != tag) == (200, True)
    refused = await client.get(url + "&tz=Mars/Base", headers={"If-None-Match": "*"})
    assert refused.status_code == 422
    await client.post("/events", content=as_bytes([an_event(user_id="eve")]), headers={"Content-Type": JSON})
    changed = await client.get(url, headers={"If-None-Match": tag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != tag
    assert changed.json()["data"] != first.json()["data"]


async def test_an_unknown_window_is_answered_with_the_list(client: httpx.AsyncClient) -> None:
    found = await refused(client, "/stats/retention?start_date=2026-01-01&window=year", "window")
    assert "day, week, month" in found["message"]


@pytest.mark.parametrize("tz", ["Mars/Base", "../../etc/passwd", "", "utc+1", "europe/berlin", "UTC\0", "x" * 5_000])
@pytest.mark.parametrize("query", [f"dau?{RANGE}", f"top-events?{RANGE}", "retention?start_date=2026-01-01"])
async def test_unknown_zones(client: httpx.AsyncClient, query: str, tz: str) -> None:
    response = await client.get(f"/stats/{query}&" + str(httpx.QueryParams({"tz": tz})))
    assert (response.status_code, response.json()["field"]) == (422, "tz")
    assert "x" * 65 not in response.text


@pytest.mark.parametrize(
    "segments",
    [["country"], [""], ["user_id:ada"], ["properties.:UA"], ["event_type:"], ["event_type"], ["properties.a:\0"],
     ["properties.a:" + "x" * 300], [f"properties.a:{number}" for number in range(50)]],
)  # fmt: skip
@pytest.mark.parametrize("query", [f"dau?{RANGE}", f"top-events?{RANGE}", "retention?start_date=2026-01-01"])
async def test_malformed_segments(client: httpx.AsyncClient, query: str, segments: list[str]) -> None:
    more = "&".join(str(httpx.QueryParams({"segment": segment})) for segment in segments)
    await refused(client, f"/stats/{query}&{more}", "segment")


async def test_a_segment_that_matches_nothing_gives_zeros(client: httpx.AsyncClient) -> None:
    await client.post("/events", content=as_bytes([an_event()]), headers={"Content-Type": JSON})
    found = await client.get("/stats/dau?from=2026-01-05&to=2026-01-06&segment=event_type:nothing")
    assert found.json()["data"] == [{"date": "2026-01-05", "users": 0}, {"date": "2026-01-06", "users": 0}]
    assert (await client.get(f"/stats/top-events?{RANGE}&segment=properties.plan:none")).json()["data"] == []


async def test_segments_may_be_repeated_and_all_hold_on_the_same_event(client: httpx.AsyncClient) -> None:
    events = [
        an_event(event_type="purchase", properties={"country": "UA"}),
        an_event(user_id="eve", event_type="purchase", properties={"country": "DE"}),
        an_event(user_id="eve", event_type="login", properties={"country": "UA"}),
    ]
    await client.post("/events", content=as_bytes(events), headers={"Content-Type": JSON})
    found = await client.get(
        "/stats/dau?from=2026-01-05&to=2026-01-05&segment=event_type:purchase&segment=properties.country=UA"
    )
    assert found.json()["data"] == [{"date": "2026-01-05", "users": 1}]
    assert found.json()["meta"]["filters"] == ["event_type:purchase", "properties.country:UA"]


async def test_a_statistic_says_what_has_to_be_known_about_it(client: httpx.AsyncClient) -> None:
    meta = (await client.get(f"/stats/dau?{RANGE}&tz=Europe/Kyiv")).json()["meta"]
    assert list(meta) == [
        "definition", "timezone", "from", "to", "filters", "data_as_of", "pending", "exact", "computed_from", "took_ms",
    ]  # fmt: skip
    assert (meta["timezone"], meta["from"], meta["to"]) == ("Europe/Kyiv", "2026-01-01", "2026-01-31")


async def test_projects_are_apart(client: httpx.AsyncClient) -> None:
    await client.post("/events?project=shop", content=as_bytes([an_event()]), headers={"Content-Type": JSON})
    day = "from=2026-01-05&to=2026-01-05"
    for statistic, data in (("dau", [{"date": "2026-01-05", "users": 0}]), ("top-events", [])):
        assert (await client.get(f"/stats/{statistic}?{day}")).json()["data"] == data
        assert (await client.get(f"/stats/{statistic}?{day}&project=shop")).json()["data"] != data


async def test_the_books_list_every_utc_date_and_balance(client: httpx.AsyncClient) -> None:
    before = datetime.now(UTC).date()
    event = an_event()
    body = as_bytes([event, event, an_event(user_id=""), event | {"user_id": "eve"}])
    await client.post("/events", content=body, headers={"Content-Type": JSON})
    found = (await client.get(f"/stats/ingestion?from={before.replace(day=1)}&to={datetime.now(UTC).date()}")).json()
    assert found["data"][0]["date"] == str(before.replace(day=1))
    assert len(found["data"]) >= before.day
    totals = {name: sum(day[name] for day in found["data"]) for name in found["data"][0] if name != "date"}
    assert totals == {
        "received": 4, "accepted": 1, "duplicates": 1, "conflicts": 1, "rejected": 1, "stored": 1,
        "duplicate_at_store": 0, "conflict_at_store": 0, "dead": 0, "pending": 0,
    }  # fmt: skip
    assert list(found["meta"]) == [
        "definition", "timezone", "from", "to", "filters", "data_as_of", "pending", "exact", "computed_from", "took_ms"
    ]  # fmt: skip


@pytest.mark.parametrize("event_id", ["x", "0192f0c1-2b3a-7c4d-8e5f-6a7b8c9d0e1", "%00", "{0192f0c1}", "a" * 3_000])
async def test_an_event_id_that_is_none_is_422(client: httpx.AsyncClient, event_id: str) -> None:
    found = await refused(client, f"/events/{event_id}", "event_id")
    assert found["code"] == "invalid_event_id"
    assert len(str(found)) < 1_000


async def test_an_event_that_is_not_stored_is_404(client: httpx.AsyncClient) -> None:
    response = await client.get("/events/0192f0c1-2b3a-7c4d-8e5f-6a7b8c9d0e1f")
    assert (response.status_code, response.json()["code"]) == (404, "event_not_found")


@pytest.mark.parametrize("path", ["/events/0192f0c1-2b3a-7c4d-8e5f-6a7b8c9d0e1f"])
async def test_find_refuses_unknown_parameters_too(client: httpx.AsyncClient, path: str) -> None:
    await refused(client, f"{path}?projekt=a", "projekt")
