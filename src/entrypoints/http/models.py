"""The shapes of requests and answers, for the OpenAPI document: their descriptions and the examples, which all work.

Nothing is validated or serialised with these models while serving; the core does that. A test holds them against real
answers. Not here: query parameters (`parameters`, `stats`).
"""

from typing import Any, Final, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from eventcore.dead_letters import MOST_EVENT_IDS
from eventcore.keys import LABEL_CHARS, MOST_DAYS, MOST_GRACE_SECONDS, MOST_ORIGINS, SCOPES

Data = TypeVar("Data")

EXAMPLE_ID: Final = "0192f0c1-2b3a-7c4d-8e5f-6a7b8c9d0e1f"
EXAMPLE_DEAD_ID: Final = "0192f0c1-2b3a-7c4d-8e5f-6a7b8c9d0eff"
EXAMPLE_KEY_ID: Final = "abcdefgh"
EXAMPLE_EVENT: Final[dict[str, Any]] = {
    "event_id": EXAMPLE_ID,
    "user_id": "ada",
    "event_type": "purchase",
    "occurred_at": "2026-01-05T09:30:00.125+02:00",
    "properties": {"amount": 12.5, "country": "UA"},
}
_OTHER_EVENT: Final[dict[str, Any]] = {
    "event_id": "0192f0c1-2b3a-7c4d-8e5f-6a7b8c9d0e20",
    "user_id": "grace",
    "event_type": "signup",
    "occurred_at": "2026-01-05T10:00:00Z",
}


class Model(BaseModel):
    """A JSON object with the members named and no others."""

    model_config = ConfigDict(extra="forbid")


class Event(Model):
    """One event as it is sent."""

    event_id: str = Field(
        description="a UUID in canonical form, unique in its project for ever; version 7 is stored fastest",
        examples=[EXAMPLE_ID],
    )
    user_id: str = Field(description="1 to 255 characters, kept byte-exact", examples=["ada"])
    event_type: str = Field(description="1 to 100 characters", examples=["purchase"])
    occurred_at: str = Field(
        description="RFC 3339 with an offset and at most 6 digits of a second", examples=["2026-01-05T09:30:00Z"]
    )
    properties: dict[str, Any] = Field({}, description="any JSON object of at most 8 levels; kept as sent")


class EventProblem(Model):
    """What is wrong with one event of a batch."""

    index: int = Field(description="its position in the batch, from 0")
    event_id: str | None = Field(description="the id as sent, at most 64 characters of it")
    code: str = Field(description="a stable name, e.g. missing_field")
    field: str | None = Field(description="the member at fault, e.g. properties.amount")
    message: str = Field(description="what is wrong and what is accepted")


class BatchAnswer(Model):
    """What became of a batch: received = accepted + duplicates + conflicts + rejected."""

    accepted: int = Field(description="new, and on durable storage")
    duplicates: int = Field(description="there already, with equal content")
    conflicts: int = Field(description="the id is there already with other content, which stays")
    rejected: int = Field(description="not valid")
    errors: list[EventProblem] = Field(description="one for each event rejected or in conflict, in order")


class StoredEvent(Event):
    """An event as it is stored."""

    received_at: str = Field(description="when the request that brought it was received, RFC 3339 in UTC")
    import_id: str | None = Field(description="the import that it came from")


class ProblemDetails(BaseModel):
    """An error (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="about:blank")
    title: str = Field(description="the phrase of the status")
    status: int = Field(description="the status")
    detail: str = Field(description="the same as message")
    code: str = Field(description="a stable name, e.g. body_too_large")
    message: str = Field(description="what is wrong, and the way out")
    request_id: str = Field(description="also in the header X-Request-ID and in the log")
    field: str | None = Field(None, description="the parameter or header at fault, where there is one")


class Meta(Model):
    """What has to be known about an answer."""

    definition: str = Field(description="what the numbers mean")
    timezone: str = Field(description="whose local dates they are")
    from_: str = Field(alias="from", description="first date")
    to: str = Field(description="last date, included")
    filters: list[str] = Field(description="the segments; all hold on the same event")
    data_as_of: str = Field(description="all events accepted until then are in")
    pending: int = Field(description="events accepted and not stored yet")
    exact: bool = Field(description="always true")
    computed_from: str = Field(description="activity (precomputed) or events (raw rows)")
    took_ms: float = Field(description="milliseconds")


class DayUsers(Model):
    """Distinct users of one local date."""

    date: str
    users: int


class Group(Model, Generic[Data]):
    """The events with one value of the field that was broken down by."""

    group: str | None = Field(description="the value as text; null for the two other kinds")
    kind: Literal["value", "missing", "other"] = Field(
        description="missing: events without the property; other: all that is in no other group"
    )
    data: Data


class Groups(Model, Generic[Data]):
    """The answer of a breakdown: for all events, and for each group of them."""

    all: Data
    groups: list[Group[Data]]


class Answer(Model, Generic[Data]):
    """A statistic; with a breakdown, the same for groups of events."""

    data: Data | Groups[Data]
    meta: Meta


class DailyActiveUsersAnswer(Answer[list[DayUsers]]):
    """Every date of the range, zeros included."""


class ActiveUsersAnswer(Answer[list[DayUsers]]):
    """Every date of the range, zeros included."""


class DayStickiness(Model):
    """How many of the users of 30 dates came on the last of them."""

    date: str
    dau: int
    mau: int
    stickiness: float | None = Field(description="dau / mau; null where mau is 0")


class StickinessAnswer(Answer[list[DayStickiness]]):
    """Every date of the range."""


class PeriodLifecycle(Model):
    """The users of one period, and those who stayed away."""

    start: str = Field(description="first date")
    new: int
    returning: int = Field(description="there in the period before, too")
    resurrected: int = Field(description="there earlier, but not in the period before")
    dormant: int | None = Field(description="there in the period before only; null until the period begins")
    complete: bool = Field(description="false until the period is over")


class LifecycleAnswer(Answer[list[PeriodLifecycle]]):
    """Every period of the range."""


class PeriodCount(Model):
    """The events of one period."""

    start: str = Field(description="first date; of an hour its local time with the offset")
    count: int
    users: int


class EventCountsAnswer(Answer[list[PeriodCount]]):
    """Every period of the range, zeros included."""


class TypeCount(Model):
    """One type of event in the range."""

    event_type: str
    count: int
    users: int
    share: float = Field(description="count / all events of the range")


class TopEventsAnswer(Answer[list[TypeCount]]):
    """The most frequent types; equal counts by code point of the name."""


class Cell(Model):
    """Who of one cohort came back in one window."""

    window: int
    to: int | None = Field(None, description="the last window of a bracket; only where brackets were asked for")
    users: int
    rate: float | None = Field(description="users / size; null for an empty cohort")
    complete: bool = Field(description="false while the window runs")


class Cohort(Model):
    """The users of one period and their windows; null for a window that has not begun."""

    start: str
    size: int
    cells: list[Cell | None]


class PooledCell(Model):
    """The complete cells of one window, all cohorts together."""

    window: int
    to: int | None = Field(None, description="the last window of a bracket; only where brackets were asked for")
    users: int
    size: int
    rate: float | None


class RetentionMatrix(Model):
    """Cohorts and the row that pools them."""

    cohorts: list[Cohort]
    overall: list[PooledCell]


class RetentionAnswer(Answer[RetentionMatrix]):
    """The cohort matrix."""


class BookOfDay(Model):
    """The ingestion books of one UTC date."""

    date: str
    received: int
    accepted: int
    duplicates: int
    conflicts: int
    rejected: int
    stored: int
    duplicate_at_store: int
    conflict_at_store: int
    dead: int
    pending: int


class BooksMeta(Model):
    """What has to be known about the books."""

    definition: str
    timezone: str
    from_: str = Field(alias="from")
    to: str
    filters: list[str]
    data_as_of: str
    pending: int
    exact: bool
    computed_from: str
    took_ms: float


class BooksAnswer(Model):
    """Every UTC date of the range, zeros included."""

    data: list[BookOfDay]
    meta: BooksMeta


class DeadEvent(Model):
    """An accepted event that the store refused, as far as JSON can say what it holds."""

    event_id: str = Field(description="a UUID; hexadecimal digits of an id that is none")
    user_id: str = Field(description="as sent")
    event_type: str = Field(description="as sent")
    occurred_at: str = Field(description="RFC 3339 in UTC; outside the years 1 to 9999 microseconds since 1970")
    properties: dict[str, Any] | str = Field(description="the object as sent; as a string what is no JSON object")
    received_at: str = Field(description="when the request that brought it was received, RFC 3339 in UTC")
    import_id: str | None = Field(description="the import that it came from")
    reason: str = Field(description="why the store refused it, at the last attempt to take it in")
    attempts: int = Field(description="how often that was tried")
    died_at: str = Field(description="when it was given up, RFC 3339 in UTC")
    name: str = Field(description="unique in the project; after goes on behind it")


class DeadMeta(Model):
    """What has to be known about a page of dead letters."""

    definition: str
    next: str | None = Field(description="give it as after for the next page; null when this is the last one")


class DeadEventsAnswer(Model):
    """Dead letters, in the order of their names."""

    data: list[DeadEvent]
    meta: DeadMeta


class ReplayAnswer(Model):
    """What became of dead letters that were replayed."""

    stored: int = Field(description="stored now")
    duplicates: int = Field(description="stored already, with equal content")
    conflicts: int = Field(description="the id is stored already with other content, which stays")
    refused: int = Field(description="the store refuses them still; they stay dead letters")
    missing: int = Field(description="ids without a dead letter, and letters that went while this ran")


class DropAnswer(Model):
    """What became of dead letters that were dropped."""

    dropped: int = Field(description="gone for ever")
    missing: int = Field(description="ids without a dead letter, and letters that went while this ran")


class Key(Model):
    """An API key without its secret."""

    key_id: str = Field(description="its name, for revoking and rotating", examples=[EXAMPLE_KEY_ID])
    prefix: str = Field(description="how the key itself begins")
    project: str = Field(description="the only project that it reaches")
    scopes: list[Literal["ingest", "read", "admin"]] = Field(description="what it may do")
    label: str = Field(description="what it is for")
    origins: list[str] = Field(description="the web pages that may use it; any when empty")
    status: Literal["active", "expired", "revoked"]
    created_at: str
    expires_at: str | None = Field(description="from when on it is refused")
    revoked_at: str | None = Field(description="from when on it is refused because somebody said so; may lie ahead")
    last_used_at: str | None = Field(description="when it was used last, give or take a minute")


class NewKey(Key):
    """An API key with its secret, which is never shown again."""

    key: str = Field(description="send it as Authorization: Bearer, or X-Api-Key")


class KeysAnswer(Model):
    """The API keys of a project, in the order of making."""

    data: list[Key]


class Check(Model):
    """One dependency."""

    status: str = Field(description="ok or unavailable")
    latency_ms: float
    reason: str | None = Field(None, description="why it is unavailable, and the way out, where that is known")


class Health(Model):
    """How the service is."""

    status: str = Field(description="ok, degraded (statistics are away) or unavailable (events are refused)")
    version: str
    checks: dict[str, Check]


class Alive(Model):
    """The process answers."""

    status: str


CHOICE_CONTENT: Final[dict[str, Any]] = {
    "schema": {
        "oneOf": [
            {
                "type": "object",
                "properties": {
                    "event_ids": {
                        "type": "array",
                        "items": {"type": "string"},
                        "minItems": 1,
                        "maxItems": MOST_EVENT_IDS,
                    }
                },
                "required": ["event_ids"],
                "additionalProperties": False,
            },
            {
                "type": "object",
                "properties": {"all": {"const": True}},
                "required": ["all"],
                "additionalProperties": False,
            },
        ]
    },
    "examples": {
        "some": {"summary": "the dead letters of these events", "value": {"event_ids": [EXAMPLE_DEAD_ID]}},
        "all": {"summary": "all of the project", "value": {"all": True}},
    },
}

NEW_KEY_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "scopes": {"type": "array", "items": {"enum": list(SCOPES)}, "minItems": 1},
                        "label": {"type": ["string", "null"], "maxLength": LABEL_CHARS},
                        "origins": {"type": ["array", "null"], "items": {"type": "string"}, "maxItems": MOST_ORIGINS},
                        "expires_days": {"type": ["integer", "null"], "minimum": 1, "maximum": MOST_DAYS},
                    },
                    "required": ["scopes"],
                    "additionalProperties": False,
                },
                "examples": {
                    "sender": {"summary": "for a server that sends events", "value": {"scopes": ["ingest"]}},
                    "page": {
                        "summary": "for the pages of a shop, for a year",
                        "value": {
                            "scopes": ["ingest"],
                            "label": "shop",
                            "origins": ["https://shop.example"],
                            "expires_days": 365,
                        },
                    },
                },
            }
        },
    }
}

ROTATION_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": False,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "grace_seconds": {"type": ["integer", "null"], "minimum": 0, "maximum": MOST_GRACE_SECONDS}
                    },
                    "additionalProperties": False,
                },
                "examples": {
                    "grace": {"summary": "the old one works for an hour more", "value": {"grace_seconds": 3600}}
                },
            }
        },
    }
}

BATCH_SCHEMA: Final[dict[str, Any]] = {
    "oneOf": [
        {"type": "array", "items": Event.model_json_schema(), "minItems": 1},
        {
            "type": "object",
            "properties": {"events": {"type": "array", "items": Event.model_json_schema(), "minItems": 1}},
            "required": ["events"],
            "additionalProperties": False,
        },
    ]
}

BATCH_CONTENT: Final[dict[str, Any]] = {
    "application/json": {
        "schema": BATCH_SCHEMA,
        "examples": {
            "array": {"summary": "an array of events", "value": [EXAMPLE_EVENT, _OTHER_EVENT]},
            "object": {"summary": "an object with events", "value": {"events": [EXAMPLE_EVENT]}},
            "one bad event": {
                "summary": "the good one is kept, the other is named in errors",
                "value": [EXAMPLE_EVENT, {**_OTHER_EVENT, "occurred_at": "yesterday"}],
            },
        },
    },
    "application/x-ndjson": {
        "schema": {"type": "string", "description": "one event a line"},
        "examples": {
            "lines": {
                "summary": "one event a line",
                "value": '{"event_id":"0192f0c1-2b3a-7c4d-8e5f-6a7b8c9d0e21","user_id":"ada","event_type":"login",'
                '"occurred_at":"2026-01-06T08:00:00Z"}\n',
            }
        },
    },
}
