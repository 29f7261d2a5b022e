"""Settings: everything an operator can choose, read from the environment and checked before anything opens.

Each setting is an environment variable ``EVENTCORE_`` plus its name in capitals; a file ``.env`` in the working
directory may hold them too, and the environment wins. Not here: what is accepted as an event (`eventcore.limits`, which
`Settings.limits` fills), and the parameters of single commands.
"""

import difflib
from collections.abc import Iterable
from typing import Any, Final, Literal

from dotenv import dotenv_values
from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from eventcore.calendar import UnknownZone, find_zone
from eventcore.library import DEFAULT_STORE_URL
from eventcore.limits import Limits

PREFIX = "EVENTCORE_"
ENV_FILE: Final = ".env"
"""The file in the working directory that may hold settings."""
_DEFAULTS = Limits()
_NOT_SETTINGS = ("EVENTCORE_TEST_", "EVENTCORE_REQUIRE")
_KIB = 1024
_MIB = 1024 * _KIB


class SettingsError(Exception):
    """Settings that cannot be used.

    Attributes:
        problems: one line for each, naming the variable, never its value.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("these settings cannot be used:\n" + "\n".join(f"  {problem}" for problem in problems))
        self.problems = problems


class Settings(BaseSettings):
    """The settings of a process; make them with `load_settings`, which explains what is wrong."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=ENV_FILE, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    store_url: str = Field(
        DEFAULT_STORE_URL,
        description="where events are kept: sqlite:///FILE, postgresql://…, memory://",
        repr=False,
        min_length=1,
    )
    store_read_url: str | None = Field(
        None, description="where statistics are read, for instance a replica; the store itself when unset", repr=False
    )
    dedup_url: str = Field(
        "memory://", description="the cache of known events: memory://, redis://…", repr=False, min_length=1
    )
    queue_url: str = Field(
        "inline://", description="how events reach the store: inline://, nats://…", repr=False, min_length=1
    )
    reporting_zone: str = Field("UTC", description="the time zone (IANA name) of statistics that name none")
    statistics_seconds: float = Field(
        30.0, description="how long one statistic may take; then 503 with advice", ge=0.1, le=3_600
    )

    host: str = Field("127.0.0.1", description="the address to listen on", min_length=1)
    port: int = Field(8000, description="the port to listen on; 0 takes any free one", ge=0, le=65_535)
    insecure: bool = Field(
        False, description="take any request, with any Host and Origin, as long as there is no API key"
    )
    keys_stale_seconds: float = Field(
        900.0,
        description="how long API keys are believed while the store is away; then 503",
        ge=5,
        le=30 * 86_400,
    )
    api_key: str | None = Field(None, description="the API key that commands send with --url", repr=False)
    docs: bool = Field(True, description="serve /docs and /openapi.json")

    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="the least that is logged")
    log_format: Literal["auto", "json", "console"] = Field(
        "auto", description="json lines or readable text; auto is readable on a terminal only"
    )

    batch_events: int = Field(_DEFAULTS.batch_events, description="events of one batch, at most", ge=1, le=100_000)
    body_bytes: int = Field(
        _DEFAULTS.body_bytes, description="bytes of one body, at most, decompressed", ge=16 * _KIB, le=256 * _MIB
    )
    event_bytes: int = Field(_DEFAULTS.event_bytes, description="bytes of one event, at most", ge=8 * _KIB, le=8 * _MIB)
    future_hours: int = Field(
        _DEFAULTS.future_us // 3_600_000_000,
        description="how many hours an event may lie after the server's clock",
        ge=0,
        le=24 * 366,
    )
    body_timeout_seconds: float = Field(
        30.0, description="time for a client to send a whole body; then 408", gt=0, le=3_600
    )
    head_timeout_seconds: float = Field(
        10.0, description="time for a client to send a request's head; then the connection closes", gt=0, le=3_600
    )
    idle_timeout_seconds: int = Field(
        20, description="time that a connection may stay open between requests", ge=1, le=3_600
    )
    head_bytes: int = Field(
        32 * _KIB, description="bytes of a request's line and headers, at most; then 431", ge=4 * _KIB, le=_MIB
    )
    head_fields: int = Field(100, description="headers of a request, at most; then 431", ge=10, le=10_000)
    in_flight_bytes: int = Field(
        64 * _MIB, description="bytes of all bodies held at once, at most; then 503", ge=_MIB, le=64 * 1024 * _MIB
    )
    grace_seconds: int = Field(
        10, description="time that requests under way have to finish after SIGTERM", ge=1, le=3_600
    )

    worker_port: int = Field(
        8001, description="the port of a worker's health and metrics; 0 takes any free one", ge=0, le=65_535
    )
    worker_lanes: int = Field(
        2, description="transactions that a worker prepares and writes at the same time", ge=1, le=64
    )

    @field_validator("reporting_zone")
    @classmethod
    def _zone_exists(cls, name: str) -> str:
        try:
            find_zone(name)
        except UnknownZone as error:
            raise ValueError(str(error)) from error
        return name

    @model_validator(mode="after")
    def _limits_fit(self) -> "Settings":
        if self.event_bytes > self.body_bytes:
            raise ValueError(f"{PREFIX}EVENT_BYTES is larger than {PREFIX}BODY_BYTES; no such event could be sent")
        if self.in_flight_bytes < 2 * self.body_bytes:
            raise ValueError(
                f"{PREFIX}IN_FLIGHT_BYTES is less than twice {PREFIX}BODY_BYTES; a compressed body would not fit"
            )
        return self

    @property
    def limits(self) -> Limits:
        """What is accepted as a batch and as an event."""
        return Limits(
            batch_events=self.batch_events,
            body_bytes=self.body_bytes,
            event_bytes=self.event_bytes,
            future_us=self.future_hours * 3_600_000_000,
        )


def load_settings(**chosen: Any) -> Settings:
    """Read the settings; ``chosen`` (from a command's flags) wins over the environment.

    Raises:
        SettingsError: some cannot be used; all of them are named.
    """
    try:
        return Settings(**chosen)
    except ValidationError as error:
        raise SettingsError([_line(found["loc"], found["msg"]) for found in error.errors()]) from None


def _line(path: tuple[int | str, ...], message: str) -> str:
    message = message.removeprefix("Value error, ")
    return f"{PREFIX}{str(path[0]).upper()}: {message}" if path else message


def unknown_names(names: Iterable[str]) -> list[str]:
    """A sentence for each name that looks like a setting and is none.

    Args:
        names: those of the environment; the names in `ENV_FILE` are looked at as well.
    """
    known = [PREFIX + name.upper() for name in Settings.model_fields]
    places = dict.fromkeys(dotenv_values(ENV_FILE, interpolate=False), f" (in {ENV_FILE})")
    places |= dict.fromkeys(names, "")
    found = []
    for name, place in sorted(places.items()):
        if name.startswith(PREFIX) and name not in known and not name.startswith(_NOT_SETTINGS):
            close = difflib.get_close_matches(name, known, n=1)
            found.append(f"{name}{place} is not a setting" + (f"; did you mean {close[0]}?" if close else ""))
    return found
