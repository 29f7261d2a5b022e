"""The container: opens in order, closes in reverse, and closes what was opened when the next part fails."""

import asyncio
from typing import Any

import pytest

import entrypoints.container
from entrypoints.container import open_eventcore, shown_url
from entrypoints.settings import Settings
from eventcore.errors import EventcoreError, Kind, StoreError


class Part:
    def __init__(self, name: str, seen: list[str]) -> None:
        self._name, self._seen = name, seen
        seen.append(f"open {name}")

    async def close(self) -> None:
        self._seen.append(f"close {self._name}")


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Adapters that write down what happens to them; the scheme ``broken`` cannot be opened."""
    seen: list[str] = []

    def find_adapter(group: str, url: str) -> Any:
        async def open_part(url: str, **_: Any) -> Part:
            if url.startswith("broken"):
                raise StoreError(Kind.UNAVAILABLE, "refused", "the server refuses the connection; start it")
            return Part(group.rpartition(".")[2], seen)

        return open_part

    monkeypatch.setattr(entrypoints.container, "find_adapter", find_adapter)
    return seen


def settings(**chosen: str) -> Settings:
    return Settings(_env_file=None, store_url="memory://", **chosen)


async def test_parts_close_in_reverse(seen: list[str]) -> None:
    async with open_eventcore(settings()):
        opened = list(seen)
    assert sorted(opened) == ["open dedup", "open queues", "open stores"]
    assert opened.index("open stores") < opened.index("open queues")
    closed = seen[3:]
    assert sorted(closed) == ["close dedup", "close queues", "close stores"]
    assert closed.index("close queues") < closed.index("close stores")


async def test_what_was_opened_is_closed_when_the_next_part_fails(seen: list[str]) -> None:
    with pytest.raises(EventcoreError) as refused:
        async with open_eventcore(settings(queue_url="broken://u:hunter2@q.example:4222/x?p=hunter2")):
            raise AssertionError("it must not open")
    assert refused.value.message == (
        "EVENTCORE_QUEUE_URL is broken://q.example:4222/x: the server refuses the connection; start it"
    )
    assert refused.value.kind is Kind.UNAVAILABLE
    assert "close stores" in seen


async def test_parts_are_closed_when_their_user_fails(seen: list[str]) -> None:
    with pytest.raises(ZeroDivisionError):
        async with open_eventcore(settings()):
            raise ZeroDivisionError
    assert "close stores" in seen


async def test_whoever_is_cancelled_while_a_part_opens_leaves_nothing_open(
    seen: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = asyncio.Event()

    def find_adapter(group: str, url: str) -> Any:
        async def open_part(url: str, **_: Any) -> Part:
            await gate.wait()
            return Part(group.rpartition(".")[2], seen)

        return open_part

    monkeypatch.setattr(entrypoints.container, "find_adapter", find_adapter)

    async def use() -> None:
        async with open_eventcore(settings()):
            raise AssertionError("it must not be used")

    task = asyncio.create_task(use())
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.sleep(0.01)
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(seen[3:]) == [line.replace("open", "close") for line in sorted(seen[:3])]


async def test_limits_and_zone_reach_the_core() -> None:
    async with open_eventcore(settings(batch_events="7", reporting_zone="Europe/Kyiv")) as core:
        assert (core.limits.batch_events, core.reporting_zone) == (7, "Europe/Kyiv")


def test_a_password_with_a_bare_slash_is_not_shown() -> None:
    for url in ("postgresql://u:12/zqxj@h/d", "postgresql://u:p?zqxj@h/d", "postgresql://u:p#zqxj@h/d"):
        assert "zqxj" not in shown_url(url)
        assert "12" not in shown_url(url)
