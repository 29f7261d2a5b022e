"""The sender: batches of every form over HTTP, and a book of its own of what each event must have become.

It keeps for every project the first content of each id, so that whatever the stack answers can be compared with it.
"""

import gzip
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import httpx

from entrypoints.sample import SamplePlan, generate

Event = dict[str, Any]

FORMS = ("array", "object", "lines", "array gzipped", "lines gzipped")
ZONES = ("UTC", "Europe/Kyiv", "America/St_Johns", "Asia/Kathmandu", "Pacific/Chatham")
FIRST_DAY = date(2025, 2, 20)
DAYS = 45
"""Over the days on which the clocks of most of the zones change."""
NOT_EVENTS = (
    '{"event_id":"0192f0c1-2b3a-7c4d-8e5f-6a7b8c9d0e1f","user_id":"u","event_type":"t"}',
    '{"event_id":"0192f0c1","user_id":"u","event_type":"t","occurred_at":"2025-03-01T00:00:00Z"}',
    '{"event_id":"0192f0c1-2b3a-7c4d-8e5f-6a7b8c9d0e1f","user_id":"","event_type":"t","occurred_at":"2025-03-01T00:00:00Z"}',
    '{"event_id":"0192f0c1-2b3a-7c4d-8e5f-6a7b8c9d0e1f","user_id":"u","event_type":"t","occurred_at":"2025-03-01T00:00:00"}',
    '{"event_id":"0192f0c1-2b3a-7c4d-8e5f-6a7b8c9d0e1f","user_id":"u","event_type":"t","occurred_at":"2999-03-01T00:00:00Z"}',
    '{"event_id":"0192f0c1-2b3a-7c4d-8e5f-6a7b8c9d0e1f","user_id":"u","event_type":"t","occurred_at":"2025-03-01T00:00:00Z","properties":{"n":NaN}}',
    '{"event_id":"0192f0c1-2b3a-7c4d-8e5f-6a7b8c9d0e1f","user_id":"\\ud800","event_type":"t","occurred_at":"2025-03-01T00:00:00Z"}',
    '{"event_id":"0192f0c1-2b3a-7c4d-8e5f-6a7b8c9d0e1f","user_id":"u","event_type":"t","occurred_at":"2025-03-01T00:00:00Z","properties":{"a":1,"a":2}}',
)


@dataclass(kw_only=True, slots=True)
class Book:
    """What became of a project's events.

    Attributes:
        firsts: the first content of each id, in the order sent; what must be stored.
        received, duplicates, conflicts, rejected: what they must add up to, wherever it is found out.
        told: what the answers said, added up.
    """

    firsts: dict[str, Event] = field(default_factory=dict)
    received: int = 0
    duplicates: int = 0
    conflicts: int = 0
    rejected: int = 0
    told: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("accepted", "duplicates", "conflicts", "rejected"), 0)
    )

    @property
    def events(self) -> list[Event]:
        return list(self.firsts.values())

    def enter(self, sent: object) -> None:
        """Write down one event of a batch, or what is none."""
        self.received += 1
        if not isinstance(sent, dict):
            self.rejected += 1
            return
        first = self.firsts.get(sent["event_id"].lower())
        if first is None:
            self.firsts[sent["event_id"].lower()] = sent
        elif same(first, sent):
            self.duplicates += 1
        else:
            self.conflicts += 1


class Sender:
    """Sends batches to an API, and keeps a `Book` for each project.

    Args:
        url: of the API.
    """

    def __init__(self, url: str) -> None:
        self.books: dict[str, Book] = {}
        self._client = httpx.Client(base_url=url, timeout=60, trust_env=False, verify=False)
        self._sent = 0

    def send(self, entries: Sequence[object], project: str = "default") -> dict[str, Any]:
        """Send one batch, each in another form; texts among the entries are no events, and go as they are."""
        form = FORMS[self._sent % len(FORMS)]
        self._sent += 1
        answer = self._client.post("/events", params={"project": project}, **request(entries, form))
        assert answer.status_code == 202, answer.text
        said: dict[str, Any] = answer.json()
        book = self.books.setdefault(project, Book())
        for entry in entries:
            book.enter(entry)
        for name in book.told:
            book.told[name] += said[name]
        assert sum(said[name] for name in book.told) == len(entries)
        flawed = {index for index, entry in enumerate(entries) if not isinstance(entry, dict)}
        assert {error["index"] for error in said["errors"] if "conflict" not in error["code"]} == flawed
        return said

    def close(self) -> None:
        self._client.close()


def request(entries: Sequence[object], form: str) -> dict[str, Any]:
    """The body of a batch and its headers, as httpx takes them."""
    texts = [entry if isinstance(entry, str) else json.dumps(entry, ensure_ascii=False) for entry in entries]
    kind = "application/json"
    if "lines" in form:
        body, kind = "\n".join(texts), "application/x-ndjson"
    else:
        body = f"[{','.join(texts)}]"
    if form == "object":
        body = f'{{"events": {body}}}'
    content = body.encode()
    if "gzipped" not in form:
        return {"content": content, "headers": {"Content-Type": kind}}
    return {"content": gzip.compress(content, 1), "headers": {"Content-Type": kind, "Content-Encoding": "gzip"}}


def same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two events with the same id have equal content by value."""
    return value(one) == value(other)


def value(event: Mapping[str, Any]) -> tuple[object, ...]:
    instant = datetime.fromisoformat(event["occurred_at"]).astimezone(UTC)
    return event["user_id"], event["event_type"], instant, event["properties"]


def an_event(number: int, user_id: str, occurred_at: datetime, **more: Any) -> Event:
    return {
        "event_id": str(UUID(int=(number << 80) | (4 << 76) | (8 << 60) | number)),
        "user_id": user_id,
        "event_type": ("page_view", "search", "purchase")[number % 3],
        "occurred_at": occurred_at.isoformat(),
        "properties": {"country": ("UA", "NP", "CL")[number % 3], "n": number % 4},
    } | more


def sample(events: int, *, users: int, seed: int, duplicates: float = 0.0, late: float = 0.1) -> list[Event]:
    """What a product sends, in order of arrival."""
    plan = SamplePlan(
        events=events, users=users, days=DAYS, seed=seed, start=FIRST_DAY, duplicates=duplicates, late=late
    )
    return [
        {
            "event_id": row.event_id,
            "user_id": row.user_id,
            "event_type": row.event_type,
            "occurred_at": row.occurred_at,
            "properties": json.loads(row.properties_json),
        }
        for row in generate(plan)
    ]


def midnights() -> list[Event]:
    """Events on both sides of every local midnight of every zone."""
    events = []
    for zone in ZONES:
        for day in range(-1, DAYS + 1):
            midnight = datetime(FIRST_DAY.year, FIRST_DAY.month, FIRST_DAY.day, tzinfo=ZoneInfo(zone))
            midnight += timedelta(days=day)
            for shift in (timedelta(microseconds=-1), timedelta(0), timedelta(minutes=1)):
                instant = midnight.astimezone(UTC) + shift
                events.append(an_event(len(events) + 1, f"night-{len(events) % 37}", instant))
    return events


def batches_of(entries: Sequence[object], size: int) -> Iterator[Sequence[object]]:
    for start in range(0, len(entries), size):
        yield entries[start : start + size]


def first_batches(seed: int = 7) -> Iterator[tuple[str, list[object]]]:
    """Projects and batches with repeats within and across them, losers within them, and what is no event at all.

    No id comes with other content in another batch: behind a queue nobody could say which of them was first.
    """
    chance = random.Random(seed)
    default = sample(3_000, users=300, seed=seed, duplicates=0.05) + midnights()
    shop = sample(600, users=80, seed=seed + 1, duplicates=0.1)
    shop += [event | {"user_id": f"shop-{event['user_id']}"} for event in default[:200]]
    for project, events in (("default", default), ("shop", shop)):
        for events_of_batch in batches_of(events, 700):
            batch: list[object] = list(events_of_batch)
            batch += chance.sample(events_of_batch, 5)
            loser = an_event(chance.getrandbits(40) + 10**6, "in-batch", datetime(2025, 3, 9, 12, tzinfo=UTC))
            batch += [loser, loser | {"event_type": "search2"}, loser | {"user_id": "another"}]
            for text in chance.sample(NOT_EVENTS, 6):
                batch.insert(chance.randrange(len(batch)), text)
            yield project, batch


def later_batches(firsts: Mapping[str, Event], seed: int = 7) -> Iterator[list[object]]:
    """Once the first ones are stored: repeats of them in other spellings, other contents, and very late events."""
    chance = random.Random(seed)
    known = list(firsts.values())
    yield chance.sample(known, 400)
    yield [respelled(event) for event in chance.sample(known, 300)]
    yield [event | {"user_id": "somebody else"} for event in chance.sample(known, 50)] + chance.sample(known, 50)
    yield [event | {"occurred_at": "2025-03-02T00:00:00+00:00"} for event in chance.sample(known, 40)]
    old = datetime(1999, 12, 31, 23, 30, tzinfo=UTC)
    yield [an_event(10**5 + number, known[number]["user_id"], old + timedelta(hours=number)) for number in range(200)]


def respelled(event: Event) -> Event:
    """The same values, written in another way."""
    instant = datetime.fromisoformat(event["occurred_at"]).astimezone(ZoneInfo("Asia/Kathmandu"))
    properties = {key: float(item) if type(item) is int else item for key, item in event["properties"].items()}
    return {
        "properties": dict(reversed(properties.items())),
        "occurred_at": instant.isoformat(),
        "event_id": event["event_id"].upper(),
        "event_type": event["event_type"],
        "user_id": event["user_id"],
    }
