"""GET /stats/…: query parameters to a question of the core, its answer to JSON.

The models know the names of the parameters, and leave every value to the core's ``parse``, which says the same here as
on the command line. Not here: what a statistic means.
"""

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Query
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from entrypoints.books import books_document
from entrypoints.http import models
from entrypoints.http.parameters import NoRepeats, Parameters
from eventcore.answers import Question, answer_json
from eventcore.retention import Retention
from eventcore.service import Eventcore
from eventcore.statistics import DailyActiveUsers, TopEvents

router = APIRouter(prefix="/stats", tags=["statistics"], dependencies=[NoRepeats])


class _Range(Parameters):
    from_: str = Field(alias="from", description="first date, YYYY-MM-DD", examples=["2026-01-01"])
    to: str = Field(description="last date, included", examples=["2026-01-31"])


class _Zoned(Parameters):
    tz: str | None = Field(
        None, description="time zone by IANA name; the reporting zone when left out", examples=["Europe/Kyiv"]
    )
    segment: list[str] = Field(
        [],
        description="event_type:VALUE or properties.NAME:VALUE; repeatable, all hold on the same event",
        examples=[["event_type:purchase"]],
    )


class _DailyActiveUsers(_Zoned, _Range):
    pass


class _TopEvents(_Zoned, _Range):
    limit: str = Field("10", description="rows at most, 1 to 1000", examples=["10"])


class _Retention(_Zoned):
    start_date: str = Field(description="a date in the first cohort's period", examples=["2026-01-01"])
    windows: str = Field("3", description="windows after the cohort's own, 1 to 366", examples=["4"])
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


@router.get("/dau", response_model=models.DailyActiveUsersAnswer)
async def daily_active_users(request: Request, asked: Annotated[_DailyActiveUsers, Query()]) -> Response:
    """Distinct users of every local date of a range."""
    return await _answer(request, DailyActiveUsers, asked)


@router.get("/top-events", response_model=models.TopEventsAnswer)
async def top_events(request: Request, asked: Annotated[_TopEvents, Query()]) -> Response:
    """The most frequent types of event, with their users and share."""
    return await _answer(request, TopEvents, asked)


@router.get("/retention", response_model=models.RetentionAnswer)
async def retention(request: Request, asked: Annotated[_Retention, Query()]) -> Response:
    """The cohort matrix: who came back in which window."""
    return await _answer(request, Retention, asked)


@router.get("/ingestion", response_model=models.BooksAnswer)
async def ingestion(request: Request, asked: Annotated[_Range, Query()]) -> Response:
    """The ingestion books: what was received on each UTC date, and what became of it."""
    document = await books_document(_core(request), from_=asked.from_, to=asked.to, project=asked.project)
    return _json(document)


async def _answer(request: Request, statistic: Any, asked: Parameters) -> Response:
    core = _core(request)
    values = asked.model_dump()
    project = values.pop("project")
    question: Question = statistic.parse(**values, reporting_zone=core.reporting_zone)
    return _json(answer_json(await core.ask(question, project=project)))


def _core(request: Request) -> Eventcore:
    core: Eventcore = request.app.state.eventcore
    return core


def _json(document: dict[str, Any]) -> Response:
    return Response(msgspec.json.encode(document), media_type="application/json")
