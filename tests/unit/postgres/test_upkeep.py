"""When a process folds: soon after much, a while after little, once more when it cannot know, and at the end."""

import asyncio
from collections.abc import Iterator

import pytest

import adapters.postgres.upkeep
from adapters.postgres.upkeep import FOLD_EVENTS, Upkeep
from eventcore.errors import Kind, StoreError


class Folds:
    """What a fold gives, call by call; then 0 for ever."""

    def __init__(self, *results: int | Exception) -> None:
        self._results: Iterator[int | Exception] = iter(results)
        self.calls = 0

    async def __call__(self, most_events: int) -> int:
        self.calls += 1
        result = next(self._results, 0)
        if isinstance(result, Exception):
            raise result
        return result

    async def until(self, calls: int) -> None:
        async with asyncio.timeout(5):
            while self.calls < calls:
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        assert self.calls == calls


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters.postgres.upkeep, "FOLD_SECONDS", 0.005)


async def test_much_is_folded_at_once_and_to_the_end() -> None:
    folds = Folds(FOLD_EVENTS, FOLD_EVENTS, 3)
    upkeep = Upkeep(folds)
    upkeep.appended(FOLD_EVENTS)
    await folds.until(3)
    await upkeep.close()
    assert folds.calls == 3


async def test_little_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    folds = Folds(1)
    upkeep = Upkeep(folds)
    upkeep.appended(1)
    await folds.until(0)
    await upkeep.close()
    assert folds.calls == 1  # at the end


async def test_little_is_folded_after_a_while(soon: None) -> None:
    folds = Folds(2)
    upkeep = Upkeep(folds)
    upkeep.appended(1)
    upkeep.appended(1)
    await folds.until(1)
    await upkeep.close()


async def test_when_somebody_else_folds_it_looks_once_more_and_no_more(soon: None) -> None:
    folds = Folds(0, 0)
    upkeep = Upkeep(folds)
    upkeep.appended(5)
    await folds.until(2)
    await upkeep.close()


async def test_a_failure_is_tried_again(soon: None, caplog: pytest.LogCaptureFixture) -> None:
    folds = Folds(StoreError(Kind.UNAVAILABLE, "away", "it is away"), 5)
    upkeep = Upkeep(folds)
    upkeep.appended(5)
    await folds.until(2)
    assert "it is away" in caplog.text
    await upkeep.close()


async def test_nothing_appended_folds_nothing(soon: None) -> None:
    folds = Folds()
    upkeep = Upkeep(folds)
    upkeep.appended(0)
    await folds.until(0)
    await upkeep.close()
    assert folds.calls == 0


async def test_closing_waits_for_no_fold_under_way() -> None:
    begun = asyncio.Event()

    async def endless(most_events: int) -> int:
        begun.set()
        await asyncio.Event().wait()
        raise AssertionError

    upkeep = Upkeep(endless)
    upkeep.appended(FOLD_EVENTS)
    await begun.wait()
    async with asyncio.timeout(2):
        await upkeep.close()
