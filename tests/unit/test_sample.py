"""The made-up events: the same bytes for the same plan, the counts that were asked for, and a shape like real data."""

import csv
import io
import json
import re
import tracemalloc
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from functools import cache
from hashlib import sha256
from itertools import islice
from typing import Any, NamedTuple
from uuid import RFC_4122, UUID

import pytest

from entrypoints.sample import SampleEvent, SamplePlan, generate, write_csv

START = date(2026, 1, 5)  # a Monday
HEADER = "event_id,occurred_at,user_id,event_type,properties_json"


def a_plan(**changes: Any) -> SamplePlan:
    return SamplePlan(**{"events": 2_000, "users": 200, "days": 14, "seed": 7, "start": START, **changes})


def csv_of(plan: SamplePlan) -> str:
    stream = io.StringIO(newline="")
    write_csv(plan, stream)
    return stream.getvalue()


def digest_of(plan: SamplePlan) -> str:
    return sha256(csv_of(plan).encode()).hexdigest()


class Seen(NamedTuple):
    event: SampleEvent
    at: datetime  # in UTC

    @property
    def day(self) -> int:
        return (self.at.date() - START).days


def look(rows: Sequence[SampleEvent]) -> list[Seen]:
    return [Seen(row, datetime.fromisoformat(row.occurred_at).astimezone(UTC)) for row in rows]


@cache
def twelve_weeks() -> list[Seen]:
    return look(list(generate(a_plan(events=60_000, users=3_000, days=84))))


def days_of_users(seen: Sequence[Seen]) -> dict[str, set[int]]:
    days = defaultdict(set)
    for one in seen:
        days[one.event.user_id].add(one.day)
    return days


# The same bytes, everywhere. Also run on CPython 3.12, 3.13 and 3.14 for WebAssembly (32 bits, another C library).


@pytest.mark.parametrize(
    ("changes", "digest"),
    [
        ({}, "2c191056815ec72ad2f1e568170343101ab2fd3242e72cbdd088e4b5e0158641"),
        (
            {"duplicates": 0.05, "late": 0.1, "event_types": 12, "id_version": 7},
            "62c3b8aefa4b0949a48112933ac8be6ff728c41ac40cd7a4f51c3d1c2a05aba4",
        ),
    ],
)
def test_a_plan_gives_these_bytes_on_every_machine(changes: dict[str, Any], digest: str) -> None:
    assert digest_of(a_plan(**changes)) == digest


@pytest.mark.parametrize("other", [8, -7, 7 + 2**32])
def test_another_seed_gives_other_users_and_other_ids(other: int) -> None:
    one, another = list(generate(a_plan())), list(generate(a_plan(seed=other)))

    assert not {row.user_id for row in one} & {row.user_id for row in another}
    assert not {row.event_id for row in one} & {row.event_id for row in another}


def test_the_users_and_their_signups_stay_when_only_the_number_of_events_changes() -> None:
    def signups(events: int) -> list[tuple[str, str, str]]:
        rows = generate(a_plan(events=events))
        return [(row.user_id, row.occurred_at, row.properties_json) for row in rows if row.event_type == "signup"]

    assert signups(2_000) == signups(5_000)


# The numbers that were asked for.


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"events": 1, "users": 1, "days": 1},
        {"events": 200},
        {"events": 300, "users": 1, "days": 1},
        {"events": 777, "users": 3, "days": 300},
        {"duplicates": 0.1},
        {"duplicates": 0.9},
        {"late": 1.0},
        {"late": 0.3, "duplicates": 0.3, "days": 1},
        {"event_types": 2},
        {"event_types": 500},
    ],
)
def test_rows_and_users_are_exactly_as_many_as_asked(changes: dict[str, Any]) -> None:
    plan = a_plan(**changes)
    rows = list(generate(plan))

    assert (len(rows), len({row.user_id for row in rows})) == (plan.events, plan.users)


def test_write_csv_says_how_many_rows_it_wrote() -> None:
    stream = io.StringIO(newline="")

    written = write_csv(a_plan(events=9_000, duplicates=0.01), stream)

    assert written == 9_000 == stream.getvalue().count("\n") - 1


def test_without_duplicates_no_event_id_comes_twice() -> None:
    assert len({one.event.event_id for one in twelve_weeks()}) == 60_000


@pytest.mark.parametrize("duplicates", [0.02, 0.5])
def test_duplicates_are_this_share_of_the_rows_and_repeat_an_earlier_row_exactly(duplicates: float) -> None:
    rows = list(generate(a_plan(events=20_000, duplicates=duplicates)))

    originals = {row.event_id: row for row in reversed(rows)}
    assert len(rows) - len(originals) == round(20_000 * duplicates)
    assert all(row == originals[row.event_id] for row in rows)


def test_duplicates_are_of_many_different_rows() -> None:
    counts = Counter(row.event_id for row in generate(a_plan(events=20_000, duplicates=0.02)))

    assert sum(count > 1 for count in counts.values()) > 0.9 * 400


def test_some_duplicates_come_soon_after_the_row_and_some_long_after() -> None:
    rows = list(generate(a_plan(events=40_000, duplicates=0.05)))

    first_place: dict[str, int] = {}
    distances = []
    for place, row in enumerate(rows):
        first = first_place.setdefault(row.event_id, place)
        if first != place and place > 20_000:
            distances.append(place - first)
    assert min(distances) < 200
    assert max(distances) > 15_000


def test_what_is_not_late_comes_in_order_of_time() -> None:
    times = [one.at for one in twelve_weeks()]

    assert times == sorted(times)


def test_late_events_are_this_share_and_come_hours_to_days_after_events_of_a_later_time() -> None:
    behind = []
    newest = datetime.min.replace(tzinfo=UTC)
    for one in look(list(generate(a_plan(events=60_000, users=3_000, days=84, late=0.1)))):
        newest = max(newest, one.at)
        if one.at < newest:
            behind.append(newest - one.at)

    assert 0.09 < len(behind) / 60_000 < 0.11
    long_behind = [delay for delay in behind if delay >= timedelta(hours=6)]
    assert len(long_behind) > 0.95 * len(behind)  # those of the last day have no time left to be so late
    assert timedelta(days=6) < max(behind) <= timedelta(days=7, hours=6)


def test_lateness_changes_the_order_alone() -> None:
    def happened(late: float) -> Counter[tuple[str, str, str]]:
        rows = generate(a_plan(late=late))
        return Counter((row.user_id, row.occurred_at, row.event_type) for row in rows)

    assert happened(0.0) == happened(0.5)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"events": 0}, "events"),
        ({"events": 1_000_000_001}, "events"),
        ({"users": 0}, "users"),
        ({"users": 20_000_001}, "users"),
        ({"users": 2_001}, "users"),
        ({"users": 1_900, "duplicates": 0.1}, "users"),
        ({"days": 0}, "days"),
        ({"days": 3_661}, "days"),
        ({"duplicates": -0.1}, "duplicates"),
        ({"duplicates": 1.0}, "duplicates"),
        ({"duplicates": float("nan")}, "duplicates"),
        ({"late": -0.1}, "late"),
        ({"late": 1.1}, "late"),
        ({"late": float("nan")}, "late"),
        ({"event_types": 1}, "event_types"),
        ({"event_types": 10_001}, "event_types"),
        ({"id_version": 1}, "id_version"),
        ({"start": date(1969, 12, 31)}, "start"),
        ({"start": date(9999, 12, 20)}, "start"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused_by_the_name_of_its_field(
    changes: dict[str, Any], field: str
) -> None:
    with pytest.raises(ValueError, match=rf"^{field}: "):
        a_plan(**{"users": 2_000 if "duplicates" not in changes else 1, **changes})


def test_the_signups_may_take_every_row_that_is_no_duplicate() -> None:
    rows = list(generate(a_plan(users=1_800, duplicates=0.1)))

    assert {row.event_type for row in rows} == {"signup"}


# Every row is one that the importer takes.


@pytest.mark.parametrize("id_version", [4, 7])
def test_every_row_is_a_valid_event(id_version: int) -> None:
    plan = a_plan(events=5_000, duplicates=0.02, late=0.05, event_types=9, id_version=id_version)
    header, *lines = csv_of(plan).splitlines()

    assert header == HEADER
    for row in csv.reader(lines, strict=True):
        event_id, occurred_at, user_id, event_type, properties_json = row
        assert str(UUID(event_id)) == event_id
        assert (UUID(event_id).version, UUID(event_id).variant) == (id_version, RFC_4122)
        assert datetime.fromisoformat(occurred_at).tzinfo is not None
        assert user_id.isascii()
        assert user_id.isalnum()
        assert event_type in {"signup", "page_view", "search", "add_to_cart", "purchase", "share"} | {
            "feature_07",
            "feature_08",
            "feature_09",
        }
        properties = json.loads(properties_json)
        assert set(properties) == {"country", "plan"} | ({"amount"} if event_type == "purchase" else set())
        if event_type == "purchase":
            assert re.search(r'"amount":[1-9]\d*\.\d\d}$', properties_json)


def test_version_7_ids_begin_with_the_time_of_the_event() -> None:
    for one in look(list(generate(a_plan(id_version=7, late=0.2)))):
        assert UUID(one.event.event_id).int >> 80 == round(one.at.timestamp() * 1_000)


@pytest.mark.parametrize("start", [START, date(1970, 1, 1), date(9999, 12, 17)])
@pytest.mark.parametrize("days", [1, 14])
def test_nothing_happens_outside_of_the_days_in_utc(start: date, days: int) -> None:
    first = datetime(start.year, start.month, start.day, tzinfo=UTC)
    last = first + timedelta(days=days, microseconds=-1)

    for one in look(list(generate(a_plan(start=start, days=days, late=0.1)))):
        assert first <= one.at <= last


def test_some_times_are_in_utc_and_some_in_the_offset_of_the_users_country() -> None:
    offsets = defaultdict(set)
    with_z = 0
    for one in twelve_weeks():
        if one.event.occurred_at.endswith("Z"):
            with_z += 1
        else:
            offsets[json.loads(one.event.properties_json)["country"]].add(one.event.occurred_at[-6:])

    assert 0.25 < with_z / 60_000 < 0.75
    assert offsets == {
        "US": {"-05:00"},
        "BR": {"-03:00"},
        "GB": {"+00:00"},
        "DE": {"+01:00"},
        "UA": {"+02:00"},
        "IN": {"+05:30"},
        "NP": {"+05:45"},
        "JP": {"+09:00"},
        "AU": {"+10:00"},
    }


def test_a_user_has_one_country_one_plan_and_one_way_to_write_the_time() -> None:
    looks = defaultdict(set)
    for one in twelve_weeks():
        properties = json.loads(one.event.properties_json)
        written = "Z" if one.event.occurred_at.endswith("Z") else one.event.occurred_at[-6:]
        looks[one.event.user_id].add((properties["country"], properties["plan"], written))

    assert all(len(of_user) == 1 for of_user in looks.values())


# The shape of real data.


def test_the_first_event_of_every_user_is_the_only_signup() -> None:
    kinds = defaultdict(list)
    for one in sorted(twelve_weeks(), key=lambda one: one.at):
        kinds[one.event.user_id].append(one.event.event_type)

    assert all(of_user[0] == "signup" and of_user.count("signup") == 1 for of_user in kinds.values())


def test_by_default_there_are_six_types_of_very_different_frequency() -> None:
    counts = Counter(one.event.event_type for one in twelve_weeks())

    assert set(counts) == {"signup", "page_view", "search", "add_to_cart", "purchase", "share"}
    assert counts["page_view"] > 2 * counts["search"] > 3 * counts["add_to_cart"] > 5 * counts["purchase"]


def test_types_after_the_sixth_are_numbered_features() -> None:
    kinds = {row.event_type for row in generate(a_plan(events=20_000, event_types=110))}

    assert len(kinds) == 110
    assert {"feature_07", "feature_99", "feature_100", "feature_110"} <= kinds


def test_weekends_are_quieter_than_the_days_around_them() -> None:
    per_weekday = Counter(one.at.weekday() for one in twelve_weeks())
    signups = Counter(one.at.weekday() for one in twelve_weeks() if one.event.event_type == "signup")

    for counts in (per_weekday, signups):
        assert max(counts[5], counts[6]) < 0.75 * min(counts[day] for day in range(5))


def test_the_weekend_begins_and_ends_by_the_clock_of_the_users_country() -> None:
    # On Saturday from 0 to 5 in UTC it is Friday evening in the USA; on Monday, Sunday evening.
    hours = Counter(
        (one.at.weekday(), one.at.hour < 5) for one in twelve_weeks() if '"US"' in one.event.properties_json
    )

    def share_of_night(weekday: int) -> float:
        return hours[weekday, True] / (hours[weekday, True] + hours[weekday, False])

    assert share_of_night(5) > 1.5 * share_of_night(0)


@pytest.mark.parametrize("country", ["US", "IN", "JP"])
def test_people_sleep_by_the_clock_of_their_own_country(country: str) -> None:
    hours = Counter(
        int(one.event.occurred_at[11:13])
        for one in twelve_weeks()
        if f'"{country}"' in one.event.properties_json and not one.event.occurred_at.endswith("Z")
    )

    assert sum(hours[hour] for hour in range(1, 6)) < 0.15 * sum(hours[hour] for hour in range(17, 22))


def test_few_users_make_most_of_the_events() -> None:
    counts = sorted(Counter(one.event.user_id for one in twelve_weeks()).values(), reverse=True)

    assert sum(counts[:30]) > 0.2 * 60_000  # the first percent
    assert sum(counts[:300]) > 0.5 * 60_000
    assert counts[0] < 0.05 * 60_000  # but no single one
    assert counts[1_500] <= 5  # the user in the middle


def test_users_sign_up_on_every_day() -> None:
    signups = Counter(one.day for one in twelve_weeks() if one.event.event_type == "signup")

    assert set(signups) == set(range(84))
    assert max(signups.values()) < 0.03 * 3_000


@pytest.mark.parametrize("ages", [(1, 2, 7, 30), (0, 7, 14, 28, 56)])
def test_daily_retention_falls_with_age_and_does_not_end(ages: Sequence[int]) -> None:
    users = [days for days in days_of_users(twelve_weeks()).values() if min(days) <= 83 - max(ages)]
    rates = [sum(min(days) + age in days for days in users) / len(users) for age in ages]

    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 1.5 * rates[-1] > 0


def test_each_cohort_of_three_weeks_is_retained_like_the_others() -> None:
    rates = []
    for first in (0, 21, 42):
        users = [days for days in days_of_users(twelve_weeks()).values() if first <= min(days) < first + 21]
        rates.append(sum(bool(days & set(range(min(days) + 7, min(days) + 14))) for days in users) / len(users))

    assert min(rates) > 0.1
    assert max(rates) < 1.5 * min(rates)


# What it costs.


def test_memory_does_not_grow_with_the_number_of_days() -> None:
    def peak_bytes(days: int) -> int:
        plan = a_plan(events=400 * days, users=100, days=days, late=0.05)
        tracemalloc.start()
        for _ in generate(plan):
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    assert peak_bytes(60) < 1.5 * peak_bytes(15)


def test_the_first_rows_come_before_the_rest_is_made() -> None:
    largest = a_plan(events=1_000_000_000, users=1_000, days=3_660)

    assert len(list(islice(generate(largest), 10))) == 10
