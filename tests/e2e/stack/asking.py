"""What is asked of a stack, and what it must answer: the oracle's own numbers, from the sender's own book."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from tests.e2e.stack.running import LOCAL, QUIET_SECONDS, until
from tests.e2e.stack.sending import Book, Event
from tests.oracles import statistics as oracle

Parameters = Mapping[str, str | Sequence[str]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Question:
    """A statistic, and how the oracle works it out from events."""

    path: str
    parameters: Parameters
    expected: Callable[[Sequence[Event]], Any]


def dau(first: str, last: str, tz: str = "UTC", *segments: str) -> Question:
    return Question(
        path="/stats/dau",
        parameters={"from": first, "to": last, "tz": tz, "segment": segments},
        expected=lambda events: oracle.dau(events, first=_day(first), last=_day(last), tz=tz, segments=segments),
    )


def top_events(first: str, last: str, tz: str = "UTC", *segments: str, limit: int = 10) -> Question:
    return Question(
        path="/stats/top-events",
        parameters={"from": first, "to": last, "tz": tz, "segment": segments, "limit": str(limit)},
        expected=lambda events: oracle.top_events(
            events, first=_day(first), last=_day(last), tz=tz, limit=limit, segments=segments
        ),
    )


def retention(
    start_date: str,
    window: str,
    windows: int,
    cohorts: int,
    tz: str = "UTC",
    *segments: str,
    cohort: str = "first_ever",
    returns: str = "on",
    week_start: str = "monday",
    cohort_event: str | None = None,
    return_event: str | None = None,
) -> Question:
    events_asked = {"cohort_event": cohort_event, "return_event": return_event}
    return Question(
        path="/stats/retention",
        parameters={
            "start_date": start_date,
            "window": window,
            "windows": str(windows),
            "cohorts": str(cohorts),
            "tz": tz,
            "segment": segments,
            "cohort": cohort,
            "return": returns,
            "week_start": week_start,
            **{name: chosen for name, chosen in events_asked.items() if chosen is not None},
        },
        expected=lambda events: oracle.retention(
            events,
            start_date=_day(start_date),
            window=window,  # type: ignore[arg-type]
            windows=windows,
            cohorts=cohorts,
            cohort=cohort,  # type: ignore[arg-type]
            return_mode=returns,  # type: ignore[arg-type]
            week_start=week_start,
            tz=tz,
            segments=segments,
            now=datetime.now(UTC),
            **events_asked,
        ),
    )


def _day(text: str) -> date:
    return date.fromisoformat(text)


def ask(url: str, path: str, parameters: Parameters, project: str = "default") -> dict[str, Any]:
    """The whole document."""
    answer = LOCAL.get(url + path, params={**parameters, "project": project})
    assert answer.status_code == 200, f"{path} {parameters}: {answer.text}"
    document: dict[str, Any] = answer.json()
    return document


def pending(url: str, project: str = "default") -> int:
    """The events that are accepted and not stored yet, as a statistic says it."""
    question = dau("2025-01-01", "2025-01-01")
    return int(ask(url, question.path, question.parameters, project)["meta"]["pending"])


def totals(url: str, project: str = "default") -> dict[str, int]:
    """The books of yesterday, today and tomorrow, added up; both equations hold on every day."""
    today = datetime.now(UTC).date()
    days_asked = {"from": str(today - timedelta(days=1)), "to": str(today + timedelta(days=1))}
    days = ask(url, "/stats/ingestion", days_asked, project)["data"]
    added = dict.fromkeys((name for name in days[0] if name != "date"), 0)
    for day in days:
        assert day["received"] == day["accepted"] + day["duplicates"] + day["conflicts"] + day["rejected"], day
        settled = day["stored"] + day["duplicate_at_store"] + day["conflict_at_store"] + day["dead"]
        assert day["accepted"] == settled + day["pending"], day
        for name in added:
            added[name] += day[name]
    return added


def wait_until_stored(url: str, books: Mapping[str, Book], seconds: float = QUIET_SECONDS) -> None:
    """Wait until nothing is pending, and what was refused or known before is in the books, too."""
    for project, book in books.items():
        until(lambda project=project: pending(url, project) == 0, f"pending of {project} is 0", seconds)  # type: ignore[misc]
        until(
            lambda project=project, book=book: totals(url, project)["received"] >= book.received,  # type: ignore[misc]
            f"the books of {project} hold all that was received",
            seconds,
        )


def check_books(url: str, project: str, book: Book) -> None:
    """The stack's books say what the sender's say; who found a repeat out, cache or store, makes no difference."""
    found = totals(url, project)
    assert {name: found[name] for name in book.told} == book.told
    assert {
        "received": found["received"],
        "stored": found["stored"],
        "duplicates": found["duplicates"] + found["duplicate_at_store"],
        "conflicts": found["conflicts"] + found["conflict_at_store"],
        "rejected": found["rejected"],
        "dead": found["dead"],
    } == {
        "received": book.received,
        "stored": len(book.firsts),
        "duplicates": book.duplicates,
        "conflicts": book.conflicts,
        "rejected": book.rejected,
        "dead": 0,
    }
