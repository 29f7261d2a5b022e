"""A week is seven local dates, not 604,800 seconds: who comes back near its end belongs to the week of the date."""

from pathlib import Path

import pytest

from tests.e2e.traps.homes import Urls, a_batch, a_core, send_until_told

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize(
    ("monday", "begin", "back", "users"),
    [
        pytest.param("2025-03-24", "2025-03-26T12:00:00+01:00", "2025-03-31T00:30:00+02:00", [0, 2], id="167 hours"),
        pytest.param("2025-10-20", "2025-10-22T12:00:00+02:00", "2025-10-26T23:30:00+01:00", [2, 0], id="169 hours"),
    ],
)
async def test_a_week_in_which_clocks_change(
    tmp_path: Path, monday: str, begin: str, back: str, users: list[int]
) -> None:
    """Three users begin in it, and two of them come back half an hour from its end."""
    async with a_core(Urls(store=f"sqlite:///{tmp_path / 'events.sqlite3'}")) as core:
        for number, user in enumerate("abc"):
            await send_until_told(core, a_batch([number], user_id=user, occurred_at=begin, event_type="begin"))
        for number, user in enumerate("ab", 10):
            await send_until_told(core, a_batch([number], user_id=user, occurred_at=back, event_type="return"))
        events = {"cohort_event": "begin", "return_event": "return"}
        answer = await core.retention(monday, window="week", windows=1, cohorts=1, tz="Europe/Berlin", **events)
        [cohort] = answer.data["cohorts"]
        assert (cohort["size"], [cell["users"] for cell in cohort["cells"]]) == (3, users)
