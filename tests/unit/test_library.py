"""eventcore as a library: with and without ``await`` the same methods, and nothing left open when opening fails."""

import inspect
import json
from typing import Any
from uuid import uuid4

import pytest

from eventcore import library, open_blocking
from eventcore.blocking import BlockingEventcore
from eventcore.decoding import decode
from eventcore.errors import EventcoreError, Kind
from eventcore.limits import Limits
from eventcore.registry import DEDUP_CACHES, QUEUES, STORES
from eventcore.service import Eventcore
from eventcore.statistics import DailyActiveUsers


def methods(kind: type) -> dict[str, list[tuple[str, object, object]]]:
    """The public methods of a class, each with its parameters: name, kind, default."""
    return {
        name: [(one.name, one.kind, one.default) for one in inspect.signature(method).parameters.values()]
        for name, method in inspect.getmembers(kind, inspect.isfunction)
        if not name.startswith("_")
    }


def test_without_await_there_are_the_same_methods_with_the_same_parameters() -> None:
    assert methods(BlockingEventcore) == methods(Eventcore)


def test_without_await_each_method_hands_on_what_it_is_given() -> None:
    event = {
        "event_id": str(uuid4()), "user_id": "ada", "event_type": "visit",
        "occurred_at": "2026-01-31T09:30:00Z", "properties": {},
    }  # fmt: skip
    line = json.dumps(event).encode()
    with open_blocking("memory://") as core:
        assert core.now_us() > 0
        assert core.ingest_body(line, project="shop", form="ndjson", dry_run=True).accepted == 1
        assert core.ingest_body(line + b"\n{}", project="shop", form="ndjson", strict=True).rejected == 2
        decoded = decode(line, now_us=core.now_us(), form="ndjson", limits=Limits())
        assert core.ingest_decoded(decoded, project="shop", dry_run=True).accepted == 1
        import_id = bytes(range(16))
        assert core.ingest_decoded(decoded, project="shop", import_id=import_id).accepted == 1
        found = core.find(event["event_id"], project="shop")
        assert found is not None
        assert found.import_id == import_id
        question = DailyActiveUsers.parse(from_="2026-01-31", to="2026-01-31", reporting_zone="UTC")
        assert core.ask(question, project="shop").data == [{"date": "2026-01-31", "users": 1}]
        assert core.ask(question).data == [{"date": "2026-01-31", "users": 0}]


@pytest.mark.parametrize(("failing", "left"), [(DEDUP_CACHES, [STORES]), (QUEUES, [DEDUP_CACHES, STORES])])
async def test_when_a_part_cannot_be_opened_those_before_it_are_closed_in_reverse(
    monkeypatch: pytest.MonkeyPatch, failing: str, left: list[str]
) -> None:
    closed: list[str] = []

    class Part:
        def __init__(self, group: str) -> None:
            self.group = group

        async def close(self) -> None:
            closed.append(self.group)

    def find(group: str, url: str) -> Any:
        async def open_part(url: str, **parts: Any) -> Part:
            if group == failing:
                raise EventcoreError(Kind.UNAVAILABLE, "away", "it is away")
            return Part(group)

        return open_part

    monkeypatch.setattr(library, "find_adapter", find)
    with pytest.raises(EventcoreError, match="away"):
        await library.open("memory://")
    assert closed == left
