"""Rebuild the traps of the design one at a time, and see that the tests lose, double or miscount an event.

    python scripts/mutants.py            # all of them: some minutes
    python scripts/mutants.py fold 202   # those whose names hold one of these words
    python scripts/mutants.py --list

Each mutant is one bug, planted as exact replacements of text, in a copy of the project; nothing here is touched. It is
killed when every test that is named with it fails, and survives when one of them stays green. Before that all named
tests must be green without any bug. Exit code 1: a mutant survived; 2: nothing could be found out. Not a part of CI.

Trap 12 has no mutant: it loses time, not events, and on a busy machine not even that for certain; `eventcore bench
embedded` measures it.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SERVERS = Path(".pytest_cache/d/servers")
COPIED = ("src", "tests", "pyproject.toml")
MUTANT_SECONDS = 240
BASELINE_SECONDS = 900
REASON_CHARS = 120
TEST_SECONDS = 60
"""Above what any named test takes; a mutant that hangs costs no more than this for each."""

TRAPS = "tests/e2e/traps"
CONTRACT = "tests/contract/test_event_store.py::TestEventStore"


@dataclass(frozen=True, kw_only=True)
class Edit:
    file: str
    old: str
    new: str


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A bug.

    Attributes:
        name: what it does.
        trap: its number in the design; 0 for a planted bug that is none of the twelve.
        edits: how it is planted; each text is in its file exactly once.
        tests: which have to fail.
    """

    name: str
    trap: int
    edits: tuple[Edit, ...]
    tests: tuple[str, ...]


class CannotTell(Exception):
    """Nothing is known about any mutant."""


def _core(file: str, old: str, new: str) -> Edit:
    return Edit(file=f"src/eventcore/{file}", old=old, new=new)


def _adapter(file: str, old: str, new: str) -> Edit:
    return Edit(file=f"src/adapters/{file}", old=old, new=new)


_CLAIMED = (
    f"{TRAPS}/test_claims.py::test_a_failed_publish_leaves_no_claim",
    f"{TRAPS}/test_claims.py::test_an_api_killed_before_the_acknowledgement_leaves_no_claim",
)
_RETRY = f"{TRAPS}/test_commit.py::test_a_retry_with_another_time_is_stored_once"
_FOLDED = f"{TRAPS}/test_folding.py::test_what_is_folded_is_counted_once"
_LATE = f"{TRAPS}/test_folding.py::test_a_late_event_of_a_folded_day_is_counted"
_FOLD_DIES = f"{TRAPS}/test_folding.py::test_a_fold_that_dies_on_its_way_changes_nothing"
_FLAW = f"{TRAPS}/test_input.py::test_a_flaw_costs_its_own_event"

_SEND = """            await connection.js.publish(
                message.subject, message.body, timeout=UNBOUNDED_SECONDS, headers=dict(message.headers)
            )
"""
_PUT_IN_SQLITE = """DO UPDATE SET
    events = events + excluded.events,
    distinct_users = excluded.distinct_users,
    users = excluded.users
"""
_PUT_IN_POSTGRES = """DO UPDATE SET
    events = known.events + excluded.events,
    users = excluded.users,
    distinct_users = excluded.distinct_users
"""
_PERIODS = "for start, end in pairwise(starts)]\n        history ="
_WEEKS_BY_SECONDS = """for start, end in pairwise(starts)]
        if self.window == "week":
            week_us = 604_800_000_000
            first_us = days[0][0][0]
            periods = [((first_us + n * week_us, first_us + (n + 1) * week_us),) for n in range(len(periods))]
        history ="""

MUTANTS = (
    # Trap 1
    Mutant(
        name="mark the cache before the publish",
        trap=1,
        edits=(
            _core(
                "ingestion.py",
                "    duplicates, conflicts = await publish(unseen, losers, counts)\n",
                "    if epoch is not None:\n        await cache.mark(namespace(epoch, project), members)\n"
                "    duplicates, conflicts = await publish(unseen, losers, counts)\n",
            ),
        ),
        tests=_CLAIMED,
    ),
    Mutant(
        name="SET NX as the decision: asking claims",
        trap=1,
        edits=(
            _adapter(
                "redis/seen.lua",
                "return ARGV[1] .. table.concat(answer)",
                "redis.call('SADD', KEYS[1], unpack(members))\nreturn ARGV[1] .. table.concat(answer)",
            ),
        ),
        tests=_CLAIMED,
    ),
    Mutant(
        name="an error of the cache means seen",
        trap=1,
        edits=(_adapter("redis/cache.py", "return [False] * len(members)", "return [True] * len(members)"),),
        tests=(f"{TRAPS}/test_claims.py::test_a_cache_that_does_not_answer_knows_nothing",),
    ),
    # Trap 2
    Mutant(
        name="mark ids without their content",
        trap=2,
        edits=(
            _core(
                "ingestion.py",
                "members = [member(decoded.events[position]) for position in firsts]",
                "members = [decoded.events[position].event_id for position in firsts]",
            ),
            _core(
                "ingestion.py",
                "[member(decoded.events[position]) for position in unseen",
                "[decoded.events[position].event_id for position in unseen",
            ),
        ),
        tests=(
            f"{TRAPS}/test_claims.py::test_changed_content_is_a_conflict_also_for_who_knows_the_id",
            "tests/unit/test_ingestion.py::test_a_cache_that_knows_an_event_does_not_know_its_other_content",
        ),
    ),
    Mutant(
        name="a mark outlives the epoch of the store",
        trap=2,
        edits=(_core("dedup.py", 'return f"{epoch}:{project}"', "return project"),),
        tests=(f"{TRAPS}/test_claims.py::test_a_dropped_letter_may_come_again",),
    ),
    Mutant(
        name="dropping dead letters begins no epoch",
        trap=2,
        edits=(
            _adapter(
                "postgres/appending.py",
                "        await self.begin_epoch()\n        return int(dropped[0])\n",
                "        return int(dropped[0])\n",
            ),
        ),
        tests=(f"{TRAPS}/test_claims.py::test_a_dropped_letter_may_come_again",),
    ),
    # Trap 3
    Mutant(
        name="unique by id and time",
        trap=3,
        edits=(
            _adapter(
                "postgres/migrations/0001_initial.sql",
                "    state smallint,\n    PRIMARY KEY (project_key, event_id)\n",
                "    state smallint,\n    PRIMARY KEY (project_key, event_id, occurred_us)\n",
            ),
            _adapter(
                "postgres/queries.sql",
                "    ON CONFLICT (project_key, event_id) DO NOTHING\n    RETURNING",
                "    ON CONFLICT (project_key, event_id, occurred_us) DO NOTHING\n    RETURNING",
            ),
        ),
        tests=(_RETRY, f"{CONTRACT}::test_the_same_id_on_another_day_adds_no_activity[timescaledb]"),
    ),
    Mutant(
        name="ON CONFLICT DO UPDATE (PostgreSQL)",
        trap=3,
        edits=(
            _adapter(
                "postgres/queries.sql",
                "    ON CONFLICT (project_key, event_id) DO NOTHING\n    RETURNING",
                "    ON CONFLICT (project_key, event_id) DO UPDATE SET state = NULL\n    RETURNING",
            ),
        ),
        tests=(_RETRY,),
    ),
    Mutant(
        name="ON CONFLICT DO UPDATE (SQLite)",
        trap=3,
        edits=(
            _adapter(
                "sqlite/queries.sql",
                "ON CONFLICT (project_key, event_id) DO NOTHING\n\n-- name: losers",
                "ON CONFLICT (project_key, event_id) DO UPDATE SET event_key = excluded.event_key\n\n-- name: losers",
            ),
        ),
        tests=(f"{CONTRACT}::test_the_same_id_on_another_day_adds_no_activity[sqlite]",),
    ),
    # Trap 4
    Mutant(
        name="discard=old",
        trap=4,
        edits=(
            _adapter("nats/stream.py", '"discard": "new",\n', '"discard": "old",\n'),
            _adapter("nats/stream.py", 'lambda value: value == "new", "new, or', 'lambda value: True, "new, or'),
        ),
        tests=(f"{TRAPS}/test_queue.py::test_a_full_stream_refuses_the_new_and_keeps_the_old",),
    ),
    Mutant(
        name="max_deliver=3",
        trap=4,
        edits=(
            _adapter("nats/stream.py", '"max_deliver": -1,\n', '"max_deliver": 3,\n'),
            _adapter("nats/stream.py", '("max_deliver", _unlimited,', '("max_deliver", lambda value: True,'),
        ),
        tests=(f"{TRAPS}/test_queue.py::test_an_outage_longer_than_any_number_of_deliveries_loses_nothing",),
    ),
    Mutant(
        name="what this version cannot read is acknowledged",
        trap=4,
        edits=(
            _core(
                "draining.py",
                "            await delivery.retry(STUCK_SECONDS)\n            troubles",
                "            await delivery.ack()\n            troubles",
            ),
        ),
        tests=(f"{TRAPS}/test_queue.py::test_a_chunk_of_a_newer_sender_waits_for_a_worker_that_can_read_it",),
    ),
    # Trap 5
    Mutant(
        name="202 when one chunk of several failed",
        trap=5,
        edits=(
            _adapter(
                "nats/queue.py",
                "        if errors:\n            # The one",
                "        if len(errors) == len(messages):\n            # The one",
            ),
        ),
        tests=(f"{TRAPS}/test_queue.py::test_one_refused_chunk_of_a_batch_is_a_refused_batch",),
    ),
    Mutant(
        name="a chunk that comes again is booked again",
        trap=5,
        edits=(
            _adapter(
                "postgres/appending.py",
                "            known |= {first_of[chunk_id] for chunk_id in first_of.keys() -"
                " {chunk_id for (chunk_id,) in new}}\n",
                "            assert new is not None\n",
            ),
        ),
        tests=(
            f"{TRAPS}/test_queue.py::test_a_redelivered_chunk_changes_no_book",
            f"{TRAPS}/test_commit.py::test_a_lost_answer_to_commit_is_stored_once_and_counted_once",
        ),
    ),
    Mutant(
        name="count an in-batch repeat twice",
        trap=5,
        edits=(
            _core(
                "dedup.py",
                "            duplicates.append(position)\n        else",
                "            duplicates.append(position)\n            firsts.append(position)\n        else",
            ),
        ),
        tests=(
            f"{TRAPS}/test_queue.py::test_a_redelivered_chunk_changes_no_book",
            "tests/unit/test_ingestion.py::test_a_batch_is_split_into_the_four_outcomes",
        ),
    ),
    # Trap 6
    Mutant(
        name="ids in random order",
        trap=6,
        edits=(
            _adapter(
                "postgres/appending.py",
                "claims = sorted(first_of)",
                "claims = sorted(first_of, key=lambda name: (name[:4], random()))",
            ),
            _adapter(
                "postgres/appending.py",
                "from secrets import token_hex\n",
                "from random import random\nfrom secrets import token_hex\n",
            ),
            _adapter("postgres/writer.py", "ATTEMPTS = 5\n", "ATTEMPTS = 1\n"),
        ),
        tests=(f"{TRAPS}/test_commit.py::test_writers_of_the_same_events_in_any_order_lose_none",),
    ),
    # Trap 7
    Mutant(
        name="any number of dates in one transaction",
        trap=7,
        edits=(_adapter("postgres/rows.py", "MOST_PARTITIONS = 100\n", "MOST_PARTITIONS = 1_000_000\n"),),
        tests=("tests/unit/postgres/test_writing.py::test_dates_over_decades_do_not_exhaust_the_locks",),
    ),
    # Trap 8
    Mutant(
        name="publish without waiting for the acknowledgement",
        trap=8,
        edits=(
            _adapter(
                "nats/queue.py",
                _SEND,
                "            await connection.publish(message.subject, message.body, headers=dict(message.headers))\n",
            ),
        ),
        tests=(
            f"{TRAPS}/test_queue.py::test_no_publish_lies_or_hangs_while_the_broker_dies",
            f"{TRAPS}/test_queue.py::test_a_full_stream_refuses_the_new_and_keeps_the_old",
        ),
    ),
    Mutant(
        name="publishes hang when the server dies",
        trap=8,
        edits=(
            _adapter(
                "nats/link.py",
                "            async with asyncio.timeout(timeout_seconds) as bound:\n",
                "            async with asyncio.timeout(None) as bound:\n",
            ),
            _adapter("nats/link.py", "                bound.reschedule(0)\n", "                pass\n"),
        ),
        tests=(f"{TRAPS}/test_queue.py::test_no_publish_lies_or_hangs_while_the_broker_dies",),
    ),
    Mutant(
        name="reconnecting gives up",
        trap=8,
        edits=(_adapter("nats/link.py", "for attempt in count(1):", "for attempt in range(1, 4):"),),
        tests=(f"{TRAPS}/test_queue.py::test_no_publish_lies_or_hangs_while_the_broker_dies",),
    ),
    # Trap 9
    Mutant(
        name="ack before COMMIT",
        trap=9,
        edits=(
            _core(
                "draining.py",
                "        try:\n            receipts, died = await persist(",
                "        for delivery, _ in group:\n            await delivery.ack()\n"
                "        try:\n            receipts, died = await persist(",
            ),
        ),
        tests=(
            f"{TRAPS}/test_commit.py::test_a_worker_killed_before_commit_loses_nothing",
            f"{TRAPS}/test_queue.py::test_an_outage_longer_than_any_number_of_deliveries_loses_nothing",
        ),
    ),
    # Trap 10
    Mutant(
        name="properties are not walked",
        trap=10,
        edits=(
            _core(
                "decoding.py",
                '        if text != b"{}":\n            _check_object',
                "        if 0:\n            _check_object",
            ),
        ),
        tests=tuple(f"{_FLAW}[{code}]" for code in ("control_character", "duplicate_key", "number_range", "too_deep")),
    ),
    Mutant(
        name="one flaw refuses its batch",
        trap=10,
        edits=(
            _core(
                "ingestion.py",
                "    if strict and (decoded.problems or repeats or losers):\n",
                "    if decoded.problems or (strict and (repeats or losers)):\n",
            ),
        ),
        tests=(f"{_FLAW}[invalid_utf8]", f"{_FLAW}[not_a_number]", f"{_FLAW}[all of them]"),
    ),
    # Trap 11
    Mutant(
        name="synchronous=OFF",
        trap=11,
        edits=(_adapter("sqlite/database.py", '"synchronous = FULL"', '"synchronous = OFF"'),),
        tests=(f"{TRAPS}/test_power.py::test_what_was_answered_is_there_when_the_power_comes_back",),
    ),
    # Bugs that none of the twelve is about
    Mutant(
        name="fold without deleting the folded delta (SQLite)",
        trap=0,
        edits=(
            _adapter(
                "sqlite/folding.py",
                '    database.run("delete_deltas", project_key=project_key, last_key=last_key)\n',
                "",
            ),
        ),
        tests=(f"{_FOLDED}[sqlite]",),
    ),
    Mutant(
        name="fold without deleting the folded delta (PostgreSQL)",
        trap=0,
        edits=(
            _adapter(
                "postgres/queries.sql",
                "    DELETE FROM activity_delta WHERE ctid",
                "    SELECT project_key, quarter, type_key, users FROM activity_delta WHERE ctid",
            ),
            _adapter(
                "postgres/queries.sql", "    ))\n    RETURNING project_key, quarter, type_key, users\n)", "    ))\n)"
            ),
        ),
        tests=(f"{_FOLDED}[postgres]",),
    ),
    Mutant(
        name="the delta goes in another transaction than the fold (SQLite)",
        trap=0,
        edits=(
            _adapter(
                "sqlite/folding.py",
                '    database.run("delete_deltas", project_key=project_key, last_key=last_key)\n',
                "",
            ),
            _adapter(
                "sqlite/folding.py",
                "    announce(database, project_key, [key for key, _ in changes])\n",
                "    announce(database, project_key, [key for key, _ in changes])\n"
                '    database.execute("COMMIT")\n    database.execute("BEGIN IMMEDIATE")\n'
                '    database.run("delete_deltas", project_key=project_key, last_key=last_key)\n',
            ),
        ),
        tests=(f"{_FOLD_DIES}[sqlite-DELETE ON activity_delta]",),
    ),
    Mutant(
        name="the delta goes in another transaction than the fold (PostgreSQL)",
        trap=0,
        edits=(
            _adapter(
                "postgres/folding.py",
                "        if not facts:\n",
                '        await session.execute("COMMIT")\n        await session.execute("BEGIN")\n'
                "        if not facts:\n",
            ),
        ),
        tests=(f"{_FOLD_DIES}[postgres-INSERT ON activity_bitmaps]",),
    ),
    Mutant(
        name="drop the late event whose day is folded (SQLite)",
        trap=0,
        edits=(_adapter("sqlite/queries.sql", _PUT_IN_SQLITE, "DO NOTHING\n"),),
        tests=(f"{_LATE}[sqlite]",),
    ),
    Mutant(
        name="drop the late event whose day is folded (PostgreSQL)",
        trap=0,
        edits=(_adapter("postgres/queries.sql", _PUT_IN_POSTGRES, "DO NOTHING\n"),),
        tests=(f"{_LATE}[postgres]",),
    ),
    Mutant(
        name="week by seconds instead of local dates",
        trap=0,
        edits=(_core("retention.py", _PERIODS, _WEEKS_BY_SECONDS),),
        tests=(f"{TRAPS}/test_weeks.py::test_a_week_in_which_clocks_change",),
    ),
    Mutant(
        name="a key is found by its id alone",
        trap=0,
        edits=(
            Edit(
                file="src/eventcore/keys.py",
                old="if key is None or not is_right:",
                new="if key is None:",
            ),
        ),
        tests=(
            "tests/unit/test_keys.py::test_the_right_id_with_another_secret_is_nobody",
            "tests/unit/http/test_keys.py::test_no_route_lets_in_who_shows_no_good_key",
        ),
    ),
    Mutant(
        name="a key reaches every project",
        trap=0,
        edits=(
            Edit(
                file="src/entrypoints/http/guards.py",
                old="if any(project != key.project for project in named):",
                new="if not key.project:",
            ),
        ),
        tests=(
            "tests/unit/http/test_keys.py::test_no_route_goes_beyond_a_key",
            "tests/unit/http/test_keys.py::test_projects_stay_apart_under_mixed_load",
        ),
    ),
    Mutant(
        name="without a project the default one is meant, whatever the key",
        trap=0,
        edits=(
            Edit(file="src/entrypoints/http/guards.py", old="    if not named:\n", new="    if not key.project:\n"),
        ),
        tests=(
            "tests/unit/http/test_keys.py::test_without_a_project_the_keys_own_is_meant",
            "tests/unit/http/test_keys.py::test_projects_stay_apart_under_mixed_load",
        ),
    ),
    Mutant(
        name="keys are read once and believed for ever",
        trap=0,
        edits=(
            Edit(
                file="src/eventcore/access.py",
                old="        return inf if self._keyring is None else self._elapsed_us() - self._read_us\n",
                new="        return inf if self._keyring is None else 0\n",
            ),
        ),
        tests=(
            "tests/unit/test_access.py::test_a_revocation_is_effective_within_five_seconds",
            "tests/e2e/http/test_keys.py::test_every_process_refuses_a_revoked_key_within_five_seconds",
        ),
    ),
    Mutant(
        name="the log has the whole key",
        trap=0,
        edits=(
            Edit(
                file="src/entrypoints/http/guards.py",
                old='        exchange_of(scope).notes["key"] = key.prefix\n',
                new='        exchange_of(scope).notes["key"] = shown.text\n',
            ),
        ),
        tests=(
            "tests/unit/http/test_keys.py::test_no_log_line_holds_a_key",
            "tests/e2e/http/test_keys.py::test_nothing_that_a_server_writes_holds_a_key",
        ),
    ),
    Mutant(
        name="a flood of unknown keys asks the store for each",
        trap=0,
        edits=(
            Edit(
                file="src/eventcore/access.py", old="UNKNOWN_US: Final = _SECOND_US // 2", new="UNKNOWN_US: Final = -1"
            ),
        ),
        tests=("tests/unit/test_access.py::test_a_flood_of_unknown_keys_asks_at_most_twice_a_second",),
    ),
    Mutant(
        name="a fact of a dimension counts for all types",
        trap=0,
        edits=(
            _core(
                "projection.py",
                "[users for type_key, users in found if type_key < COMBINATIONS_FROM]",
                "[users for type_key, users in found]",
            ),
        ),
        tests=(f"{CONTRACT}::test_all_types_are_types_only[sqlite]",),
    ),
    Mutant(
        name="a dimension is declared beside appends that do not know it (PostgreSQL)",
        trap=0,
        edits=(
            _adapter(
                "postgres/dimensions.py",
                "return f\"{READ_COMMITTED}; {statements()['share_dimensions'].sql}\"",
                "return READ_COMMITTED",
            ),
        ),
        tests=("tests/unit/postgres/test_dimensions.py::test_an_append_that_has_begun_is_waited_for",),
    ),
    Mutant(
        name="facts of a dimension that is gone are folded (SQLite)",
        trap=0,
        edits=(_adapter("sqlite/folding.py", "    if live.issuperset(", "    if True or live.issuperset("),),
        tests=("tests/unit/test_sqlite_dimensions.py::test_nothing_is_left_of_one_that_is_gone",),
    ),
    Mutant(
        name="a dimension is built with what waits to be folded (SQLite)",
        trap=0,
        edits=(
            _adapter(
                "sqlite/rebuilding.py",
                "    _leave_out_deltas(database, project_key, facts)\n    is_meant",
                "    is_meant",
            ),
        ),
        tests=(f"{CONTRACT}::test_one_that_was_left_is_begun_again[sqlite-0]",),
    ),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="only mutants whose names hold one of these")
    parser.add_argument("--list", action="store_true", help="only tell their names")
    asked = parser.parse_args()
    mutants = [one for one in MUTANTS if not asked.words or any(word in one.name for word in asked.words)]
    if asked.list:
        print(*(f"{mutant.trap:2} {mutant.name}" for mutant in mutants), sep="\n")
        return 0
    try:
        with a_copy() as copy:
            check_imports(copy)
            for mutant in mutants:
                with planted(copy, mutant):
                    pass  # said before the first of them takes its minutes
            check_without_bugs(copy, mutants)
            survivors = [mutant for mutant in mutants if not try_out(copy, mutant)]
    except CannotTell as error:
        print(f"mutants: {error}", file=sys.stderr)
        return 2
    print(f"{len(mutants) - len(survivors)} of {len(mutants)} killed")
    return 1 if survivors else 0


@contextmanager
def a_copy() -> Iterator[Path]:
    """A copy of the project that shares nothing but the prepared data folders of test servers."""
    with tempfile.TemporaryDirectory(prefix="eventcore-mutants-") as folder:
        copy = Path(folder)
        copy.chmod(0o755)
        for name in COPIED:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / name, copy)
        if (ROOT / SERVERS).is_dir():
            (copy / SERVERS).parent.mkdir(parents=True)
            (copy / SERVERS).symlink_to(ROOT / SERVERS)
        yield copy


def environment(copy: Path) -> dict[str, str]:
    """With the copy's packages before the installed ones, in all processes that the tests start, too."""
    return os.environ | {
        "PYTHONPATH": str(copy / "src"),
        "PYTHONDONTWRITEBYTECODE": "1",  # compiled files are told apart by their second, in which there may be two bugs
        "EVENTCORE_REQUIRE": "postgres,timescaledb,redis,nats",
        "COLUMNS": "240",
    }


def check_imports(copy: Path) -> None:
    program = (
        "import adapters, entrypoints, eventcore as e; print(*(p.__path__[0] for p in (adapters, entrypoints, e)))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], cwd=copy, env=environment(copy), capture_output=True, text=True, check=True
    ).stdout.split()
    if not all(Path(path).resolve().is_relative_to(copy.resolve()) for path in found):
        raise CannotTell(f"the tests would not import the copy, but {', '.join(found)}")


def check_without_bugs(copy: Path, mutants: Sequence[Mutant]) -> None:
    tests = list(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
    code, output = run_tests(copy, tests, BASELINE_SECONDS)
    if code != 0:
        raise CannotTell(f"without any bug these tests are not green:\n{output[-3_000:]}")
    print(f"without a bug: {output.strip().splitlines()[-1]}", flush=True)


def try_out(copy: Path, mutant: Mutant) -> bool:
    """Run the tests of a mutant, and tell in one line what came of it: whether it was killed."""
    begun = time.monotonic()
    with planted(copy, mutant):
        code, output = run_tests(copy, mutant.tests, MUTANT_SECONDS)
    failed = dict(re.findall(r"^FAILED (\S.*?)(?: - (.*))?$", output, re.MULTILINE))
    green = [test for test in mutant.tests if not any(name == test or name.startswith(f"{test}[") for name in failed)]
    if code is None:
        verdict = f"SURVIVED: its tests did not end within {MUTANT_SECONDS} s"
    elif green:
        verdict = f"SURVIVED: {', '.join(map(short, green))} did not fail (exit code {code} of pytest)"
    else:
        verdict = "killed by " + "; ".join(
            f"{short(name)} ({reason[:REASON_CHARS]})" for name, reason in failed.items()
        )
    print(f"[{mutant.trap or '-':>2}] {mutant.name}: {verdict} [{time.monotonic() - begun:.0f} s]", flush=True)
    return code is not None and not green


@contextmanager
def planted(copy: Path, mutant: Mutant) -> Iterator[None]:
    """The bug is in the copy as long as the block runs."""
    originals = {edit.file: (copy / edit.file).read_text(encoding="utf-8") for edit in mutant.edits}
    try:
        for edit in mutant.edits:
            plant(copy / edit.file, edit, mutant)
        yield
    finally:
        for file, text in originals.items():
            (copy / file).write_text(text, encoding="utf-8")


def plant(file: Path, edit: Edit, mutant: Mutant) -> None:
    text = file.read_text(encoding="utf-8")
    if (times := text.count(edit.old)) != 1:
        raise CannotTell(f"'{mutant.name}' cannot be planted: this is {times} times in {edit.file}:\n{edit.old}")
    text = text.replace(edit.old, edit.new)
    if file.suffix == ".py":
        compile(text, file, "exec")  # what cannot be imported would fail every test, and show nothing
    file.write_text(text, encoding="utf-8")


def run_tests(copy: Path, tests: Sequence[str], seconds: float) -> tuple[int | None, str]:
    """The exit code, None when the time was over, and the output."""
    command = [sys.executable, "-m", "pytest", "-q", "--tb=no", f"--timeout={TEST_SECONDS}", *tests]
    process = subprocess.Popen(
        command,
        cwd=copy,
        env=environment(copy),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output = process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return None, process.communicate()[0]
    return process.returncode, output


def short(test: str) -> str:
    return test.rpartition("::")[2]


if __name__ == "__main__":
    sys.exit(main())
