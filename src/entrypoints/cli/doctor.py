"""``eventcore doctor``: what runs here, whether it is well, and if not, the way out.

It only looks: no store is made, no event is written. Not here: whether the numbers are right (``eventcore verify``).
"""

import os
import platform
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import typer

from entrypoints.cli.exits import CommandError, Exit
from entrypoints.cli.maintenance import no_store
from entrypoints.cli.options import AnswerFormat, Json, StoreUrl, choose_format
from entrypoints.cli.output import Format, print_document, print_rows, print_table
from entrypoints.cli.session import find_schema, wait_for
from eventcore.errors import EventcoreError

PACKAGES: Final = ("eventcore-analytics", "msgspec", "pyroaring", "typer", "fastapi", "uvicorn", "pydantic", "tzdata")
DRIVERS: Final = ("asyncpg", "redis", "nats-py")
_EARLIEST_YEAR: Final = 2025  # this was written then; a clock that shows less is wrong
_CLOCK_SECONDS: Final = 0.05
_MOST_DRIFT_SECONDS: Final = 0.5


class _Report:
    """Findings in the order in which they were made."""

    def __init__(self) -> None:
        self.findings: list[dict[str, Any]] = []

    def well(self, name: str, value: Any) -> None:
        self.findings.append({"name": name, "ok": True, "value": str(value)})

    def wrong(self, name: str, value: Any) -> None:
        """``value`` says what is wrong and names the way out."""
        self.findings.append({"name": name, "ok": False, "value": str(value)})

    @property
    def is_well(self) -> bool:
        return all(finding["ok"] for finding in self.findings)


def doctor_command(store_url: StoreUrl = None, form: AnswerFormat = Format.TABLE, json: Json = False) -> None:
    """Look at versions, settings, clock, time zones and the store; exit 1 if something is wrong."""
    report = _Report()
    _look_at_versions(report)
    _look_at_clock(report)
    _look_at_zones(report)
    settings = _look_at_settings(report, store_url)
    if settings is not None:
        wait_for(_look_at_store(report, settings))
    form = choose_format(form, json)
    if form is Format.JSON:
        print_document({"ok": report.is_well, "findings": report.findings})
    elif form is Format.TABLE:
        rows = [("" if f["ok"] else "WRONG", f["name"], f["value"]) for f in report.findings]
        print_table(("", "what", "found"), rows, left=3)
    else:
        print_rows(report.findings, form)
    raise typer.Exit(Exit.WELL if report.is_well else Exit.FAILURE)


def _look_at_versions(report: _Report) -> None:
    report.well("python", f"{platform.python_implementation()} {platform.python_version()} on {platform.platform()}")
    for name in PACKAGES:
        try:
            report.well(name, version(name))
        except PackageNotFoundError:
            report.wrong(name, "not installed; pip install 'eventcore-analytics[server]'")
    for name in DRIVERS:
        try:
            report.well(name, version(name))
        except PackageNotFoundError:
            report.well(name, "not installed; only for the servers it speaks to")


def _look_at_clock(report: _Report) -> None:
    now = datetime.now(UTC)
    if now.year < _EARLIEST_YEAR:
        report.wrong("clock", f"{now:%Y-%m-%dT%H:%M:%SZ} is in the past; set the clock, or events are in the future")
    else:
        report.well("clock", f"{now:%Y-%m-%dT%H:%M:%SZ}, local time zone {now.astimezone().tzname()}")
    wall, steady = time.time(), time.monotonic()
    time.sleep(_CLOCK_SECONDS)
    drift = (time.time() - wall) - (time.monotonic() - steady)
    if abs(drift) > _MOST_DRIFT_SECONDS:
        report.wrong("clock drift", f"the clock was set by {drift:+.1f} s just now; let NTP slew it")
    else:
        report.well("clock drift", f"{drift * 1000:+.1f} ms in {_CLOCK_SECONDS * 1000:.0f} ms")


def _look_at_zones(report: _Report) -> None:
    import zoneinfo

    names = zoneinfo.available_timezones()
    if "Europe/Kyiv" not in names:
        report.wrong("time zones", "the time zone database is missing or older than 2022; pip install -U tzdata")
    else:
        source = next((path for path in zoneinfo.TZPATH if os.path.isdir(path)), "the package tzdata")  # noqa: PTH112
        report.well("time zones", f"{len(names)} in {source}")


def _look_at_settings(report: _Report, store_url: str | None) -> Any:
    from entrypoints.cli.session import check_settings
    from entrypoints.settings import unknown_names

    for sentence in unknown_names(os.environ):
        report.wrong("settings", sentence)
    try:
        settings = check_settings(store_url=store_url)
    except CommandError as error:
        report.wrong("settings", str(error).replace("\n", " "))
        return None
    report.well("reporting zone", settings.reporting_zone)
    return settings


async def _look_at_store(report: _Report, settings: Any) -> None:
    from entrypoints.container import open_eventcore, shown_url

    report.well("store url", shown_url(settings.store_url))
    try:
        schema = await find_schema(settings.store_url)
        if schema is not None:
            found, wanted = schema
            if found == 0:
                report.well("store", no_store(settings))
                return
            if found != wanted:
                way_out = "run `eventcore migrate`" if found < wanted else "install the newer eventcore again"
                report.wrong("schema", f"{found}, wanted is {wanted}; {way_out}")
                return
        async with open_eventcore(settings) as core:
            description = await core.store.describe()
            if core.queue.answers_first:
                waiting = [(await core.queue.pending(project)).events for project in description.counts]
                report.well("queue", f"{shown_url(settings.queue_url)}, {sum(waiting):,} events pending")
    except EventcoreError as error:
        report.wrong("servers", error.message)
        return
    report.well("store", f"{description.technology}, schema {description.schema}, epoch {description.epoch}")
    if description.durable:
        report.well("durability", "what is accepted survives a crash of the machine")
    elif description.technology == "memory":
        report.well("durability", "not durable: gone when the process ends")
    else:
        off = ", ".join(f"{name} is {value}" for name, value in description.settings.items() if value == "off")
        report.wrong("durability", f"what is accepted may be lost when the machine crashes: {off}; switch it on")
    for name, value in description.settings.items():
        report.well(f"store {name}", value)
    for project, counts in description.counts.items():
        report.well(f"project {project}", ", ".join(f"{count:,} {table}" for table, count in counts.items()))
