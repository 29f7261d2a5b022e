"""Reading query strings: no name that is not known, none twice, each as the core reads it.

Routes of FastAPI use models that inherit `Parameters`, whose unknown names FastAPI refuses; `refuse_repeats` stands
beside them, because a framework silently takes the last of two. Not here: what values mean, which the core's ``parse``
decides.
"""

from typing import Any
from urllib.parse import parse_qsl

from fastapi import Depends
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request

from entrypoints.http.problems import HttpProblem, unknown_parameter
from eventcore.events import DEFAULT_PROJECT
from eventcore.limits import ECHO_CHARS

REPEATABLE = frozenset({"segment"})


class Parameters(BaseModel):
    """The query parameters that every route has; unknown ones are refused."""

    model_config = ConfigDict(extra="forbid")

    project: str = Field(DEFAULT_PROJECT, description="whose events", examples=[DEFAULT_PROJECT])


class IngestParameters(Parameters):
    """The query parameters of POST /events."""

    strict: bool = Field(False, description="keep nothing unless every event is valid and appears once")
    dry_run: bool = Field(False, description="say what would happen, and store nothing; answered with 200")


def read_ingest_parameters(query: bytes) -> IngestParameters:
    """Read the query string of POST /events, without the framework.

    Raises:
        HttpProblem: a name is unknown or repeated, or a flag is neither ``true`` nor ``false``; 422.
    """
    if not query:
        return _NO_PARAMETERS
    pairs = _pairs(query)
    _refuse_repeats(pairs)
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name not in IngestParameters.model_fields:
            raise unknown_parameter(name, IngestParameters.model_fields)
        if name != "project" and value not in ("true", "false"):
            raise HttpProblem(422, "invalid_parameter", f"{name} is true or false", field=name)
        values[name] = value if name == "project" else value == "true"
    return IngestParameters(**values)


_NO_PARAMETERS = IngestParameters.model_validate({})


def refuse_repeats(request: Request) -> None:
    """Refuse a query parameter that is given twice, unless it may be repeated.

    Raises:
        HttpProblem: one is; 422.
    """
    _refuse_repeats(_pairs(request.scope["query_string"]))


NoRepeats = Depends(refuse_repeats)
"""The dependency of every route that takes query parameters."""


def _pairs(query: bytes) -> list[tuple[str, str]]:
    return parse_qsl(query.decode("latin-1"), keep_blank_values=True)


def _refuse_repeats(pairs: list[tuple[str, str]]) -> None:
    seen: set[str] = set()
    for name, _ in pairs:
        if name in seen and name not in REPEATABLE:
            shown = name[:ECHO_CHARS]
            raise HttpProblem(422, "repeated_parameter", f"{shown!r} is given twice; give it once", field=shown)
        seen.add(name)
