"""GET /stats/…: query parameters to a question of the core, its answer to JSON or CSV.

The models know the names of the parameters, and leave every value to the core's ``parse``, which says the same here as
on the command line. Not here: what a statistic means.
"""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from entrypoints.books import books_document
from entrypoints.http import models
from entrypoints.http.health import VERSION
from entrypoints.http.parameters import NoRepeats, Parameters
from entrypoints.http.problems import HttpProblem
from entrypoints.http.replies import core_of, json_reply
from entrypoints.rows import csv_text, flat_rows
from eventcore.answers import answer_json
from eventcore.statistics import parse_question

router = APIRouter(prefix="/stats", tags=["statistics"], dependencies=[NoRepeats])

_CSV = "text/csv"
_ANSWERS: dict[int | str, dict[str, Any]] = {200: {"content": {_CSV: {"schema": {"type": "string"}}}}}
_TAGGED = _ANSWERS | {304: {"description": "the data are those of the ETag in If-None-Match"}}


class _Formatted(Parameters):
    format: str | None = Field(
        None, description="json or csv; by the header Accept when left out, json by default", examples=["json"]
    )


class _Range(Parameters):
    from_: str = Field(alias="from", description="first date, YYYY-MM-DD", examples=["2026-01-01"])
    to: str = Field(description="last date, included", examples=["2026-01-31"])


class _Statistic(_Formatted):
    tz: str | None = Field(
        None, description="time zone by IANA name; the reporting zone when left out", examples=["Europe/Kyiv"]
    )
    segment: list[str] = Field(
        [],
        description="FIELD:VALUE, FIELD!=VALUE, FIELD in VALUE,VALUE or FIELD exists; FIELD is event_type or "
        "properties.NAME; repeatable, all hold on the same event",
        examples=[["event_type:purchase"]],
    )
    breakdown: str | None = Field(
        None, description="event_type or properties.NAME: the same for each of its values", examples=["event_type"]
    )
    groups: str = Field(
        "10", description="how many values of a breakdown, 1 to 50; others are one group", examples=["5"]
    )


class _Interval(_Range):
    interval: str = Field("day", description="day, week or month", examples=["week"])
    week_start: str = Field("monday", description="monday, sunday or saturday", examples=["monday"])


class _DailyActiveUsers(_Statistic, _Range):
    pass


class _ActiveUsers(_Statistic, _Range):
    window: str = Field("7d", description="1d, 7d or 30d", examples=["30d"])


class _Stickiness(_Statistic, _Range):
    pass


class _Lifecycle(_Statistic, _Interval):
    pass


class _EventCounts(_Statistic, _Interval):
    interval: str = Field("day", description="hour, day, week or month", examples=["hour"])


class _TopEvents(_Statistic, _Range):
    limit: str = Field("10", description="rows at most, 1 to 1000", examples=["10"])
    by: str = Field("events", description="events or users: the number that ranks them", examples=["users"])


class _Retention(_Statistic):
    start_date: str = Field(description="a date in the first cohort's period", examples=["2026-01-01"])
    windows: str | None = Field(
        None,
        description="windows after the cohort's own, 1 to 366; 3, or the last bracket, when left out",
        examples=["4"],
    )
    window: str = Field("day", description="day, week or month", examples=["week"])
    week_start: str = Field("monday", description="monday, sunday or saturday", examples=["monday"])
    cohorts: str | None = Field(None, description="how many cohorts; windows + 1 when left out", examples=["5"])
    cohort: str = Field(
        "first_ever", description="first_ever, first_in_range or recurring", examples=["first_in_range"]
    )
    return_: str = Field("on", alias="return", description="on or on_or_after", examples=["on"])
    cohort_event: str | None = Field(
        None, description="the type that puts a user into a cohort; any when left out", examples=["signup"]
    )
    return_event: str | None = Field(
        None, description="the type that counts as coming back; any when left out", examples=["purchase"]
    )
    brackets: str | None = Field(
        None, description="runs of windows, by their first ones, ascending from 0", examples=["0,1,3"]
    )


@router.get("/dau", response_model=models.DailyActiveUsersAnswer, responses=_TAGGED)
async def daily_active_users(request: Request, asked: Annotated[_DailyActiveUsers, Query()]) -> Response:
    """Distinct users of every local date of a range."""
    return await _answer(request, "dau", asked)


@router.get("/active-users", response_model=models.ActiveUsersAnswer, responses=_TAGGED)
async def active_users(request: Request, asked: Annotated[_ActiveUsers, Query()]) -> Response:
    """Distinct users of the 7 or 30 local dates that end with each date of a range."""
    return await _answer(request, "active-users", asked)


@router.get("/stickiness", response_model=models.StickinessAnswer, responses=_TAGGED)
async def stickiness(request: Request, asked: Annotated[_Stickiness, Query()]) -> Response:
    """Daily active users, those of 30 dates, and the one divided by the other."""
    return await _answer(request, "stickiness", asked)


@router.get("/lifecycle", response_model=models.LifecycleAnswer, responses=_TAGGED)
async def lifecycle(request: Request, asked: Annotated[_Lifecycle, Query()]) -> Response:
    """New, returning, resurrected and dormant users of each day, week or month."""
    return await _answer(request, "lifecycle", asked)


@router.get("/event-counts", response_model=models.EventCountsAnswer, responses=_TAGGED)
async def event_counts(request: Request, asked: Annotated[_EventCounts, Query()]) -> Response:
    """Events and their users in each hour, day, week or month."""
    return await _answer(request, "event-counts", asked)


@router.get("/top-events", response_model=models.TopEventsAnswer, responses=_TAGGED)
async def top_events(request: Request, asked: Annotated[_TopEvents, Query()]) -> Response:
    """The most frequent types of event, or those with the most users, with their share."""
    return await _answer(request, "top-events", asked)


@router.get("/retention", response_model=models.RetentionAnswer, responses=_TAGGED)
async def retention(request: Request, asked: Annotated[_Retention, Query()]) -> Response:
    """The cohort matrix: who came back in which window."""
    return await _answer(request, "retention", asked)


class _Books(_Formatted, _Range):
    pass


@router.get("/ingestion", response_model=models.BooksAnswer, responses=_ANSWERS)
async def ingestion(request: Request, asked: Annotated[_Books, Query()]) -> Response:
    """The ingestion books: what was received on each UTC date, and what became of it."""
    form = _format(request, asked.format)
    document = await books_document(core_of(request), from_=asked.from_, to=asked.to, project=asked.project)
    return await _reply("ingestion", document, form)


async def _answer(request: Request, name: str, asked: _Statistic) -> Response:
    core = core_of(request)
    values = asked.model_dump()
    form = _format(request, values.pop("format"))
    project = values.pop("project")
    question = parse_question(name, reporting_zone=core.reporting_zone, **values)
    # Weak, because freshness is told in the same document and moves on (RFC 9110, section 8.8.1). Before the answer,
    # which may then only be newer than what it is called.
    tag = f'W/"{await core.tag(question, project=project)}-{VERSION}-{form}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache", "Vary": "Accept"}
    if _names(request.headers.get("if-none-match", ""), tag):
        return Response(status_code=304, headers=headers)
    reply = await _reply(name, answer_json(await core.ask(question, project=project)), form)
    reply.headers.update(headers)
    return reply


def _names(if_none_match: str, tag: str) -> bool:
    """Whether the tag is among those of If-None-Match, by weak comparison (RFC 9110, section 13.1.2)."""
    given = [entry.strip().removeprefix("W/") for entry in if_none_match.split(",")]
    return "*" in given or tag.removeprefix("W/") in given


def _format(request: Request, asked: str | None) -> str:
    if asked is None:
        return "csv" if _prefers_csv(request.headers.get("accept", "")) else "json"
    if asked not in ("json", "csv"):
        raise HttpProblem(422, "unknown_choice", "format is one of: json, csv", field="format")
    return asked


def _prefers_csv(accept: str) -> bool:
    """Whether CSV is asked for more than JSON (RFC 9110, section 12.5.1), or as much and named before it."""
    best = (0.0, False)
    for entry in accept.lower().split(","):
        media_type, *parameters = [part.strip() for part in entry.split(";")]
        weights = [parameter.removeprefix("q=") for parameter in parameters if parameter.startswith("q=")]
        try:
            weight = float(weights[0]) if weights else 1.0
        except ValueError:
            continue
        is_csv = media_type in (_CSV, "text/*")
        if (is_csv or media_type in ("application/json", "application/*", "*/*")) and weight > best[0]:
            best = (weight, is_csv)
    return best[1]


async def _reply(name: str, document: dict[str, Any], form: str) -> Response:
    if form == "json":
        reply = json_reply(document)
        reply.headers["Vary"] = "Accept"
        return reply
    meta = document["meta"]
    headers = {"Vary": "Accept", "X-Data-As-Of": meta["data_as_of"], "X-Pending": str(meta["pending"])}
    # In a thread: a large matrix is a hundred thousand rows, while which others could not be answered.
    text = await asyncio.to_thread(lambda: csv_text(*flat_rows(name, document["data"])))
    return Response(text, media_type=_CSV, headers=headers)
