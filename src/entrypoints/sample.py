"""Made-up events that look like a real product's, the same bytes from the same plan on every machine.

For demos, benches and tests: `generate` yields events, `write_csv` writes the CSV that `eventcore import`
reads. Not a load generator (it sends nothing), and not a model of any particular product.

The same bytes everywhere: the only random calls are `Random.random()` and `Random.getrandbits()`, whose
sequences Python keeps from version to version; the arithmetic is integers and the four float operations
that IEEE 754 rounds exactly. No `sum()` of floats (its result changed in Python 3.12), no `exp`, `log` or
`pow` (the last digit differs between C libraries), no time-zone database (it is updated), no `hash()`.
Whoever changes what a plan gives changes the golden digests in the tests, knowingly.

How it comes about: users sign up on every day, fewer at weekends. A user is alive for some days after that,
a few for ever, most not for long; while alive, users make visits in proportion to their weight, which has a
heavy tail; a visit is a short row of events. One day (UTC) is made at a time, sorted by time of arrival,
and only then written out, so memory holds the users, one day of events, and those that are late.
"""

from __future__ import annotations

import csv
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from hashlib import sha256
from itertools import accumulate, islice, pairwise
from random import Random
from typing import Literal, NamedTuple, TextIO

MAX_EVENTS = 1_000_000_000
"""More than one machine is meant for; a slip of the keyboard should not fill the disk."""
MAX_USERS = 20_000_000
"""About 15 bytes of state each: 300 MB."""
MAX_DAYS = 3_660
"""Ten years, the longest range a statistic can be asked for."""
MAX_EVENT_TYPES = 10_000
"""The kinds that a project may have."""

_DAY_MS = 86_400_000
_QUARTER_MS = 900_000
_UNIX_EPOCH = date(1970, 1, 1)

# What the made-up product looks like.

_SIGNUP = 0
_PURCHASE = 4
_NAMED_TYPES = ("signup", "page_view", "search", "add_to_cart", "purchase", "share")
_TYPE_WEIGHTS = (0, 5_200_000, 1_800_000, 900_000, 300_000, 400_000)  # signup is not drawn: one a user
_FEATURE_WEIGHT = 2_000_000  # of feature_NN: this, divided by NN

_PLANS = ("free", "pro", "team")
_PLAN_WEIGHTS = (78, 17, 5)

# Country, its offset from UTC in minutes, its share of the users. No rule of summer time is applied.
_COUNTRIES = (
    ("US", -300, 26),
    ("BR", -180, 10),
    ("GB", 0, 9),
    ("DE", 60, 14),
    ("UA", 120, 12),
    ("IN", 330, 14),
    ("NP", 345, 2),
    ("JP", 540, 8),
    ("AU", 600, 5),
)

_WEEK = (100, 104, 103, 101, 94, 58, 55)  # from Monday
_NIGHT_AND_MORNING = (10, 6, 4, 3, 3, 5, 12, 26, 44, 58, 64, 66)  # the hours of local time, from midnight
_AFTERNOON_AND_EVENING = (62, 64, 66, 64, 62, 63, 68, 78, 84, 74, 48, 24)
_HOURS = _NIGHT_AND_MORNING + _AFTERNOON_AND_EVENING

_LOYAL_SHARE = 0.08  # of the users never leave
_HALF_LIFE_DAYS = 5.0  # half of the others have left by then, two thirds in twice the time: a hyperbola
_TAIL = 0.005  # a user's weight is 1 / (uniform + this): the first percent has a fifth of the weight

_VISIT_LENGTHS = (1, 1, 1, 1, 2, 2, 2, 3, 3, 4, 4, 5, 6, 8, 10, 14)  # one of these 16, drawn with four bits
_PAUSE_MS = 1_000  # at least, between two events of a visit,
_PAUSE_SPREAD_MS = 240_000  # and at most this longer
_FIRST_VISITS_MS = 4 * 3_600_000  # after the signup begin all visits of that day
_SIGNUP_MARGIN_MS = 60_000  # no signup in the last minute of a day: what follows it has to fit

_LATE_MS = 6 * 3_600_000  # a late event is at least so late,
_LATE_SPREAD_MS = 7 * _DAY_MS  # and at most this more

_REMEMBERED = 8_192  # rows, of which one is repeated
_REMEMBERED_BITS = 13
_CSV_ROWS = 4_096  # handed to the CSV writer at once

# An event, until it is written, is one integer, so that a day of them is small and sorts fast. From the top:
# time of arrival (ms from the start), how much of that is delay (ms), the user, the type.
_TYPE_BITS = 14
_USER_BITS = 26
_DELAY_BITS = 30
_USER_SHIFT = _TYPE_BITS
_DELAY_SHIFT = _USER_SHIFT + _USER_BITS
_ARRIVAL_SHIFT = _DELAY_SHIFT + _DELAY_BITS
_TYPE_MASK = (1 << _TYPE_BITS) - 1
_USER_MASK = (1 << _USER_BITS) - 1
_DELAY_MASK = (1 << _DELAY_BITS) - 1

_UUID_FREE = (1 << 128) - 1 - (0xF << 76) - (0x3 << 62)  # all but the version and the variant
_UUID_VARIANT = 0x2 << 62
_UUID_TAIL = (1 << 80) - 1  # all but the time of version 7

# A user's id shows number × step + a start of the seed's own, in 40 bits. The step is odd: no id comes twice.
_NUMBER_BITS = 40
_NUMBER_MASK = (1 << _NUMBER_BITS) - 1
_NUMBER_STEP = 0x9E_3779_B97F


class SampleEvent(NamedTuple):
    """One row: the fields, and their order, of the CSV that `eventcore import` reads."""

    event_id: str
    occurred_at: str
    user_id: str
    event_type: str
    properties_json: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplePlan:
    """What to make. A plan that can't be carried out raises ValueError, beginning with the field's name.

    Attributes:
        events: Rows to write, exactly, duplicates included.
        users: Users, exactly. Each signs up in a row of its own, so there can't be more of them than rows
            that are no duplicates.
        days: Days, from `start` on. Nothing happens outside of [start, start + days) in UTC.
        seed: Any integer. Another seed gives other users and other events.
        start: The first day.
        duplicates: Share of the rows that repeat an earlier row exactly, from 0 to below 1. Some come soon
            after it, as from a client that tries again, some long after.
        late: Share of the events that come hours to a week after their time, from 0 to 1; those that would
            come after the last day come at the end. All other events come in order of time.
        event_types: Kinds of events, signup among them; those after the sixth are feature_07, feature_08, …
        id_version: Version of the UUIDs: 4 (random) or 7 (beginning with the event's time).
    """

    events: int
    users: int
    days: int
    seed: int
    start: date
    duplicates: float = 0.0
    late: float = 0.0
    event_types: int = 6
    id_version: Literal[4, 7] = 4

    def __post_init__(self) -> None:
        for field, value, least, most in (
            ("events", self.events, 1, MAX_EVENTS),
            ("users", self.users, 1, MAX_USERS),
            ("days", self.days, 1, MAX_DAYS),
            ("event_types", self.event_types, 2, MAX_EVENT_TYPES),
        ):
            if not least <= value <= most:
                raise ValueError(f"{field}: {value} is not from {least} to {most}")
        if not 0 <= self.duplicates < 1:  # refuses NaN, too
            raise ValueError(f"duplicates: {self.duplicates} is not from 0 to below 1")
        if not 0 <= self.late <= 1:
            raise ValueError(f"late: {self.late} is not from 0 to 1")
        if self.id_version not in (4, 7):
            raise ValueError(f"id_version: {self.id_version} is neither 4 nor 7")
        if self.start < _UNIX_EPOCH:
            raise ValueError(f"start: {self.start} is before {_UNIX_EPOCH}")
        if self.start > date.max - timedelta(days=self.days):  # a day to spare: local time may be ahead of UTC
            raise ValueError(f"start: {self.days} days from {self.start} on do not end before the year 10000")
        originals = self.events - _count_duplicates(self)
        if self.users > originals:
            raise ValueError(
                f"users: {self.users} do not fit, each signs up in a row: "
                f"{originals} of {self.events} rows are no duplicates"
            )


def generate(plan: SamplePlan) -> Iterator[SampleEvent]:
    """Yield exactly `plan.events` rows, the duplicates among them included.

    Args:
        plan: What to make.

    Returns:
        The rows in the order in which they arrive: by time, but for the late ones and the duplicates.
    """
    duplicates = _count_duplicates(plan)
    originals = _originals(plan, plan.events - duplicates)
    return _with_duplicates(originals, plan, duplicates) if duplicates else originals


def write_csv(plan: SamplePlan, stream: TextIO) -> int:
    """Write a header and the rows of `generate` as CSV, with LF at the end of each line.

    Args:
        plan: What to make.
        stream: Where to. Open a file with `newline=""`, else some systems change the line ends.

    Returns:
        The number of rows written, the header not counted: `plan.events`.
    """
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(SampleEvent._fields)
    rows = generate(plan)
    written = 0
    while block := list(islice(rows, _CSV_ROWS)):
        writer.writerows(block)
        written += len(block)
    return written


def _count_duplicates(plan: SamplePlan) -> int:
    return round(plan.events * plan.duplicates)


def _random(plan: SamplePlan, purpose: str) -> Random:
    """Return a sequence of its own for each purpose: the users stay the same when only the events change."""
    digest = sha256(f"eventcore sample {purpose} {plan.seed}".encode()).digest()
    return Random(int.from_bytes(digest, "big"))  # noqa: S311 - made-up data, not a secret


def _with_duplicates(originals: Iterator[SampleEvent], plan: SamplePlan, duplicates: int) -> Iterator[SampleEvent]:
    """Put exactly so many repeats among the originals, at random places.

    What is remembered is overwritten at random, so most repeats are of the last thousands of rows, some of
    much older ones.
    """
    source = _random(plan, "duplicates")
    random, getrandbits = source.random, source.getrandbits
    remembered: list[SampleEvent] = []
    for rows_left in range(plan.events, 0, -1):
        if remembered and random() * rows_left < duplicates:
            duplicates -= 1
            yield remembered[int(random() * len(remembered))]
            continue
        row = next(originals)
        if len(remembered) < _REMEMBERED:
            remembered.append(row)
        else:
            remembered[getrandbits(_REMEMBERED_BITS)] = row
        yield row


def _originals(plan: SamplePlan, events: int) -> Iterator[SampleEvent]:
    users = _sign_up(plan, events)
    describe = _describer(plan, users)
    for keys in _arrivals(plan, users):
        yield from map(describe, keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Users:
    """Every user, numbered by day of signup and, within that day, from the one that stays longest on."""

    first_of_day: Sequence[int]  # the first user of each day, and behind them the number of users
    stays: array[int]  # days after the signup on which the user is still alive
    weight_up_to: array[int]  # of all users up to this one
    signup_ms: array[int]  # time of day, UTC
    traits: array[int]  # place in _TRAITS
    visit_events: Sequence[int]  # of each day


class _Traits(NamedTuple):
    """What does not change about a user, shared by all users that have it in common."""

    country: int
    plan: int
    sends_offset: bool


_TRAITS = [
    _Traits(country, plan, sends_offset)
    for country in range(len(_COUNTRIES))
    for plan in range(len(_PLANS))
    for sends_offset in (False, True)
]


def _sign_up(plan: SamplePlan, events: int) -> _Users:
    random = _random(plan, "users").random
    weekdays = _weekdays(plan)
    clocks = _clocks()
    countries = list(accumulate(share for _, _, share in _COUNTRIES))
    plans = list(accumulate(_PLAN_WEIGHTS))

    stays, weight_up_to, signup_ms, traits = array("H"), array("q"), array("i"), array("B")
    weight_sum = 0
    alive = [0] * (plan.days + 1)  # the weight that comes, less the weight that goes, on each day
    cohorts = _allot(plan.users, [_WEEK[weekday] for weekday in weekdays])
    for day, size in enumerate(cohorts):
        cohort = []
        for _ in range(size):
            stay = plan.days - 1 - day
            if random() >= _LOYAL_SHARE:
                chance = random()
                stay = min(stay, int(_HALF_LIFE_DAYS * chance / (1.0 - chance)))
            weight = int(1_000_000.0 / (random() + _TAIL))
            country = bisect_right(countries, int(random() * countries[-1]))
            tier = bisect_right(plans, int(random() * plans[-1]))
            trait = (country * len(_PLANS) + tier) * 2 + (random() < 0.5)
            moment = min(_time_of_day(clocks[weekdays[day]][country], random), _DAY_MS - _SIGNUP_MARGIN_MS)
            cohort.append((-stay, weight, moment, trait))
            alive[day] += weight
            alive[day + stay + 1] -= weight
        for negative_stay, weight, moment, trait in sorted(cohort):
            weight_sum += weight
            stays.append(-negative_stay)
            weight_up_to.append(weight_sum)
            signup_ms.append(moment)
            traits.append(trait)

    activity = [_WEEK[weekday] * weight for weekday, weight in zip(weekdays, accumulate(alive), strict=False)]
    return _Users(
        first_of_day=list(accumulate(cohorts, initial=0)),
        stays=stays,
        weight_up_to=weight_up_to,
        signup_ms=signup_ms,
        traits=traits,
        visit_events=_allot(events - plan.users, activity),
    )


def _weekdays(plan: SamplePlan) -> list[int]:
    return [(plan.start.weekday() + day) % 7 for day in range(plan.days)]


def _allot(total: int, weights: Sequence[int]) -> list[int]:
    """Divide a total by weight into whole numbers that add up to it."""
    reached = list(accumulate(weights, initial=0))
    bounds = [total * weight // reached[-1] for weight in reached]
    return [after - before for before, after in pairwise(bounds)]


def _clocks() -> list[list[list[int]]]:
    """Return the weights, added up, of a UTC day's 96 quarters of an hour: [day of the week][country]."""
    return [[_clock(weekday, offset) for _, offset, _ in _COUNTRIES] for weekday in range(7)]


def _clock(weekday: int, offset_minutes: int) -> list[int]:
    weights = []
    for quarter in range(96):
        days_ahead, local_minute = divmod(quarter * 15 + offset_minutes, 1_440)
        weights.append(_WEEK[(weekday + days_ahead) % 7] * _HOURS[local_minute // 60])
    return list(accumulate(weights))


def _time_of_day(clock: Sequence[int], random: Callable[[], float]) -> int:
    quarter = bisect_right(clock, int(random() * clock[-1]))
    return quarter * _QUARTER_MS + int(random() * _QUARTER_MS)


def _arrivals(plan: SamplePlan, users: _Users) -> Iterator[list[int]]:
    """Yield each day's arrivals in order, and once more those after the last day."""
    random = _random(plan, "late").random
    coming: dict[int, list[int]] = {}
    for day, happened in enumerate(_happenings(plan, users)):
        today = coming.pop(day, [])
        if plan.late:
            for key in happened:
                if random() >= plan.late:
                    today.append(key)
                    continue
                delay = _LATE_MS + int(random() * _LATE_SPREAD_MS)
                late_key = key + (delay << _ARRIVAL_SHIFT | delay << _DELAY_SHIFT)
                arrival_day = min((late_key >> _ARRIVAL_SHIFT) // _DAY_MS, plan.days)
                (today if arrival_day == day else coming.setdefault(arrival_day, [])).append(late_key)
        else:
            today = happened
        today.sort()
        yield today
    yield sorted(coming.pop(plan.days, []))


def _happenings(plan: SamplePlan, users: _Users) -> Iterator[list[int]]:
    """Yield what happens on each day, in no order."""
    source = _random(plan, "events")
    random, getrandbits = source.random, source.getrandbits
    clocks = _clocks()
    weekdays = _weekdays(plan)
    types = list(accumulate(_type_weights(plan.event_types)))
    types_total = types[-1]
    for day, (weights, to_user_weight) in enumerate(_alive(plan, users)):
        midnight = day * _DAY_MS
        clock = clocks[weekdays[day]]
        happened = [
            (midnight + users.signup_ms[user]) << _ARRIVAL_SHIFT | user << _USER_SHIFT | _SIGNUP
            for user in range(users.first_of_day[day], users.first_of_day[day + 1])
        ]
        left = users.visit_events[day]
        while left:
            drawn = int(random() * weights[-1])
            cohort = bisect_right(weights, drawn)
            first, end = users.first_of_day[cohort], users.first_of_day[cohort + 1]
            user = bisect_right(users.weight_up_to, drawn + to_user_weight[cohort], first, end)
            if cohort == day:  # after the signup, and soon
                moment = users.signup_ms[user] + 1
                moment += int(random() * random() * min(_FIRST_VISITS_MS, _DAY_MS - moment))
            else:
                moment = _time_of_day(clock[_TRAITS[users.traits[user]].country], random)
            who = user << _USER_SHIFT
            for _ in range(min(left, _VISIT_LENGTHS[getrandbits(4)])):
                what = bisect_right(types, int(random() * types_total))
                happened.append((midnight + moment) << _ARRIVAL_SHIFT | who | what)
                left -= 1
                moment += _PAUSE_MS + int(random() * random() * _PAUSE_SPREAD_MS)
                if moment >= _DAY_MS:
                    break
        yield happened


def _type_weights(event_types: int) -> list[int]:
    features = (_FEATURE_WEIGHT // number for number in range(len(_TYPE_WEIGHTS) + 1, event_types + 1))
    return [*_TYPE_WEIGHTS[:event_types], *features]


def _alive(plan: SamplePlan, users: _Users) -> Iterator[tuple[list[int], list[int]]]:
    """Yield, for each day, the weight of the living users of each day of signup.

    The weights are added up, so that a number drawn below the last one falls to a day of signup; that day's
    entry in the second list, added to the number, makes it a weight as in `weight_up_to`. The users of a day
    are in the order of their stay, so the living come first.
    """
    weight_up_to, first_of_day, stays = users.weight_up_to, users.first_of_day, users.stays
    before = [weight_up_to[first - 1] if first else 0 for first in first_of_day]
    ends = list(first_of_day[1:])  # behind the last living user of each day of signup
    for day in range(plan.days):
        weights, to_user_weight, total = [], [], 0
        for cohort in range(day + 1):
            first, end, age = first_of_day[cohort], ends[cohort], day - cohort
            while end > first and stays[end - 1] < age:
                end -= 1
            ends[cohort] = end
            to_user_weight.append(before[cohort] - total)
            if end > first:
                total += weight_up_to[end - 1] - before[cohort]
            weights.append(total)
        yield weights, to_user_weight


def _describer(plan: SamplePlan, users: _Users) -> Callable[[int], SampleEvent]:
    """Return the function that turns the integer of an event into a row."""
    source = _random(plan, "rows")
    random, getrandbits = source.random, source.getrandbits
    first_number = _random(plan, "user numbers").getrandbits(_NUMBER_BITS)
    unix_start_ms = (plan.start - _UNIX_EPOCH).days * _DAY_MS
    uuid_fixed = plan.id_version << 76 | _UUID_VARIANT
    time_ordered = plan.id_version == 7
    names = _type_names(plan.event_types)
    dates = [(plan.start + timedelta(days=day)).isoformat() for day in range(-1, plan.days + 1)]  # local ones, too
    minutes = [f"{minute // 60:02d}:{minute % 60:02d}" for minute in range(1_440)]
    looks = [_look(traits) for traits in _TRAITS]
    user_traits = users.traits

    def describe(key: int) -> SampleEvent:
        what = key & _TYPE_MASK
        user = key >> _USER_SHIFT & _USER_MASK
        moment = (key >> _ARRIVAL_SHIFT) - (key >> _DELAY_SHIFT & _DELAY_MASK)
        local_shift_ms, offset, properties = looks[user_traits[user]]
        bits = getrandbits(128) & _UUID_FREE | uuid_fixed
        if time_ordered:
            bits = bits & _UUID_TAIL | (unix_start_ms + moment) << 80
        digits = f"{bits:032x}"
        day, time_ms = divmod(moment + local_shift_ms, _DAY_MS)
        seconds, ms = divmod(time_ms, 1_000)
        if what == _PURCHASE:
            cents = 499 + int(random() * random() * random() * 40_000)
            properties = f'{properties[:-1]},"amount":{cents // 100}.{cents % 100:02d}}}'
        return SampleEvent(
            f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}",
            f"{dates[day]}T{minutes[seconds // 60]}:{seconds % 60:02d}.{ms:03d}{offset}",
            f"u{user * _NUMBER_STEP + first_number & _NUMBER_MASK:010x}",
            names[what],
            properties,
        )

    return describe


def _type_names(event_types: int) -> list[str]:
    features = (f"feature_{number:02d}" for number in range(len(_NAMED_TYPES) + 1, event_types + 1))
    return [*_NAMED_TYPES[:event_types], *features]


def _look(traits: _Traits) -> tuple[int, str, str]:
    """Return how far local time is from the day before the start (ms), the offset's text, the properties."""
    country, offset_minutes, _ = _COUNTRIES[traits.country]
    properties = f'{{"country":"{country}","plan":"{_PLANS[traits.plan]}"}}'
    if not traits.sends_offset:
        return _DAY_MS, "Z", properties
    sign = "-" if offset_minutes < 0 else "+"
    hours, minutes = divmod(abs(offset_minutes), 60)
    return _DAY_MS + offset_minutes * 60_000, f"{sign}{hours:02d}:{minutes:02d}", properties
