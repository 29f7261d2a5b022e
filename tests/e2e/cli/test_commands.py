"""The other commands: version, help, sample, doctor, migrate, verify, serve, bench."""

import csv
import io
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from entrypoints import bench, bench_stats
from entrypoints.bench_processes import NotVerified
from tests.e2e.cli.conftest import SCRIPTS, Ended

Command = Callable[..., Ended]

pytestmark = pytest.mark.e2e


def test_version_comes_fast_and_imports_no_server(shell: Command) -> None:
    times = []
    for _ in range(3):
        began = time.perf_counter()
        ended = shell("--version")
        times.append(time.perf_counter() - began)
        assert (ended.code, ended.err) == (0, "")
        assert ended.out.startswith("eventcore ")
    assert statistics.median(times) < 3  # usually 0.15 s; a loaded machine must not fail this
    code = "import sys, entrypoints.cli.main as m; m.run(m.app, ['--version']); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout.split()
    assert not {"fastapi", "pydantic", "uvicorn", "rich", "httpx", "sqlite3"} & set(modules)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["stats", "--help"], ["import", "-h"], ["bench", "--help"]])
def test_help_is_an_answer(eventcore: Command, arguments: list[str]) -> None:
    ended = eventcore(*arguments)
    assert (ended.code, ended.err) == (0, "")
    assert "Usage" in ended.out


def test_all_commands_are_listed(eventcore: Command) -> None:
    listed = eventcore("--help").out
    names = ["serve", "import", "stats", "sample", "doctor", "migrate", "verify", "rebuild", "dimensions", "bench"]
    assert [name for name in names if name not in listed] == []


def test_shell_completion_knows_the_commands() -> None:
    environment = os.environ | {
        "_EVENTCORE_COMPLETE": "complete_bash",
        "COMP_WORDS": "eventcore st",
        "COMP_CWORD": "1",
    }
    done = subprocess.run([SCRIPTS / "eventcore"], env=environment, capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "stats"


def test_sample_is_the_same_each_time_and_can_be_imported(shell: Command, eventcore: Command) -> None:
    options = ["--events", "500", "--users", "40", "--days", "10", "--seed", "3", "--start", "2025-02-01"]
    options += ["--duplicates", "0.1", "--late", "0.2", "--event-types", "8", "--ids", "v7"]
    once = shell("sample", *options)
    assert (once.code, once.err) == (0, "")
    assert once.out == shell("sample", *options).out
    assert len(list(csv.DictReader(io.StringIO(once.out)))) == 500
    Path("sample.csv").write_text(once.out)
    assert eventcore("import", "sample.csv", "--json").json == {
        "rows": 500,
        "accepted": 450,
        "duplicates": 50,
        "conflicts": 0,
        "rejected": 0,
    }


@pytest.mark.parametrize(
    "options", [["--events", "0"], ["--users", "9", "--events", "3"], ["--ids", "v5"], ["--start", "x"]]
)
def test_a_sample_that_cannot_be_made_is_one_line_and_exit_2(eventcore: Command, options: list[str]) -> None:
    ended = eventcore("sample", *options)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)


def test_sample_is_quiet_when_its_reader_goes() -> None:
    with subprocess.Popen(
        [SCRIPTS / "eventcore", "sample", "--events", "100000"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""


def test_doctor_is_well_without_a_store_and_makes_none(eventcore: Command) -> None:
    ended = eventcore("doctor", "--json")
    assert (ended.code, ended.json["ok"]) == (0, True)
    found = {finding["name"]: finding["value"] for finding in ended.json["findings"]}
    assert "no store yet" in found["store"]
    assert found["msgspec"]
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("command", [["doctor"], ["migrate", "--check"], ["import", "--dry-run", "rows.csv"]])
def test_a_store_that_cannot_be_made_is_not_one_that_is_only_missing(
    eventcore: Command, workplace: Path, command: list[str]
) -> None:
    Path("rows.csv").write_text("user_id,event_type,occurred_at\n")
    Path("data").touch()
    ended = eventcore(*command, "--store-url", f"sqlite:///{workplace}/data/store.sqlite3")
    assert ended.code == (1 if command == ["doctor"] else 5)
    assert "store.sqlite3 cannot be made: what should be its folder is a file" in ended.out + ended.err


def test_doctor_tells_of_the_store(eventcore: Command) -> None:
    Path("rows.csv").write_text(
        "user_id,event_type,occurred_at\nada,visit,2026-01-31T09:30:00Z\nbob,visit,2026-01-31T09:30:00Z\n"
    )
    eventcore("import", "rows.csv", "--project", "shop")
    found = {finding["name"]: finding["value"] for finding in eventcore("doctor", "--json").json["findings"]}
    assert found["project shop"].startswith("2 events, 2 users")
    assert found["store synchronous"] == "FULL"
    assert found["store"].startswith("sqlite ")
    assert eventcore("doctor").out.splitlines()[1].split()[0] == "python"


def test_doctor_names_what_is_wrong_and_the_way_out(eventcore: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTCORE_STOR_URL", "memory://")
    ended = eventcore("doctor")
    assert ended.code == 1
    assert "did you mean EVENTCORE_STORE_URL" in ended.out
    monkeypatch.delenv("EVENTCORE_STOR_URL")
    monkeypatch.setenv("EVENTCORE_REPORTING_ZONE", "Mars/Base")
    assert eventcore("doctor").code == 1
    monkeypatch.delenv("EVENTCORE_REPORTING_ZONE")
    Path("store.sqlite3").write_text("no database, but text of some length " * 40)
    ended = eventcore("doctor", "--json")
    assert (ended.code, ended.json["ok"]) == (1, False)


def test_doctor_notices_a_name_in_the_file_and_says_it_once(eventcore: Command) -> None:
    Path(".env").write_text("EVENTCORE_STORE_ULR=memory://\n")
    ended = eventcore("doctor")
    assert (ended.code, ended.err) == (1, "")
    assert ended.out.count("EVENTCORE_STORE_ULR (in .env) is not a setting") == 1


def test_every_command_says_which_names_are_no_settings(eventcore: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    eventcore("migrate")
    monkeypatch.setenv("EVENTCORE_STORE_ULR", "memory://")
    Path(".env").write_text("EVENTCORE_REPORTNG_ZONE=UTC\n")
    for arguments in (["stats", "dau"], ["verify"], ["epoch"], ["dead", "list"], ["migrate"]):
        ended = eventcore(*arguments)
        assert ended.code == 0
        assert "EVENTCORE_STORE_ULR is not a setting; did you mean EVENTCORE_STORE_URL?\n" in ended.err
        assert "EVENTCORE_REPORTNG_ZONE (in .env) is not a setting; did you mean" in ended.err


def test_a_server_says_a_wrong_name_once_in_its_log(workplace: Path) -> None:
    with subprocess.Popen(
        [SCRIPTS / "eventcore", "serve", "--port", "0"],
        env=os.environ | {"EVENTCORE_STORE_ULR": "memory://", "EVENTCORE_LOG_FORMAT": "json"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(json.loads(line))
            if lines[-1]["event"] == "listening":
                process.terminate()
    assert [line["event"] for line in lines].count("unknown setting") == 1


def test_where_no_store_is_the_place_and_the_ways_out_are_named(eventcore: Command, workplace: Path) -> None:
    for arguments in (["stats", "dau"], ["verify"], ["epoch"], ["migrate", "--check"], ["doctor"]):
        ended = eventcore(*arguments)
        said = ended.out + ended.err
        assert f"sqlite:///{workplace}/store.sqlite3" in said
        assert "eventcore migrate" in said
        assert "--store-url or EVENTCORE_STORE_URL" in said


def test_migrate_makes_a_store_once(eventcore: Command) -> None:
    ended = eventcore("migrate", "--check")
    assert (ended.code, Path("store.sqlite3").exists()) == (1, False)
    assert "no store yet" in ended.out
    assert eventcore("migrate").code == 0
    assert Path("store.sqlite3").exists()
    for arguments in (["migrate"], ["migrate", "--check"]):
        ended = eventcore(*arguments)
        assert (ended.code, ended.err) == (0, "")
        assert "nothing to do" in ended.out


def test_verify_finds_what_does_not_balance(eventcore: Command) -> None:
    import sqlite3

    Path("rows.csv").write_text(
        "user_id,event_type,occurred_at\nada,visit,2026-01-31T09:30:00Z\nbob,visit,2026-01-31T09:30:00Z\n"
    )
    eventcore("import", "rows.csv")
    assert eventcore("verify", "--json").json == {"balanced": True, "differences": []}
    database = sqlite3.connect("store.sqlite3")
    database.execute("DELETE FROM events WHERE rowid = (SELECT min(rowid) FROM events)")
    database.commit()
    database.close()
    ended = eventcore("verify")
    assert (ended.code, ended.err) == (1, "")
    assert ended.out.strip()
    assert eventcore("verify", "--json").json["balanced"] is False
    ended = eventcore("verify", "--project", "other")
    assert (ended.code, ended.out) == (1, "")
    assert "no project of this name" in ended.err


def test_rebuild_mends_what_verify_finds(eventcore: Command) -> None:
    import sqlite3

    Path("rows.csv").write_text(
        "user_id,event_type,occurred_at\nada,visit,2026-01-31T09:30:00Z\nbob,visit,2026-01-31T23:30:00Z\n"
    )
    eventcore("import", "rows.csv")
    eventcore("import", "--project", "other", "rows.csv")
    asked = ("stats", "dau", "--from", "2026-01-31", "--to", "2026-02-01", "--tz", "Europe/Kyiv", "--json")
    answer = eventcore(*asked).json["data"]
    with closing(sqlite3.connect("store.sqlite3")) as database, database:
        database.execute("UPDATE activity_bitmaps SET users = x'0102' WHERE grain < 2")
    assert eventcore("verify").code == 1
    ended = eventcore(*asked)
    assert (ended.code, ended.out) == (1, "")
    assert "eventcore rebuild" in ended.err
    ended = eventcore("rebuild", "--project", "other", "--json")
    assert (ended.code, ended.err) == (0, "")
    assert ended.json == {"projects": [{"project": "other", "periods": 2, "events": 2, "changed_rows": 4, "left": {}}]}
    ended = eventcore("rebuild")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == [
        "project  periods  events  changed rows",
        "default        2       2             4",
        "other          2       2             0",
    ]
    assert eventcore("verify").out == "all books balance\n"
    assert eventcore(*asked).json["data"] == answer
    ended = eventcore("rebuild", "--zone", "Europe/Kyiv", "--format", "csv")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == "project,periods,events,changed_rows\ndefault,2,0,8\nother,2,0,8\n"
    assert eventcore(*asked).json["data"] == answer
    assert eventcore("verify").out == "all books balance\n"


def test_rebuild_says_what_it_cannot_do(eventcore: Command) -> None:
    ended = eventcore("rebuild")
    assert (ended.code, ended.out) == (1, "")
    assert not Path("store.sqlite3").exists()
    eventcore("migrate")
    ended = eventcore("rebuild", "--project", "other")
    assert (ended.code, ended.out) == (1, "")
    assert "no project of this name" in ended.err
    for arguments, reason in (
        (("--zone", "Europe/Nowhere"), "unknown time zone"),
        (("--zone", "UTC", "--project", "default"), "leave --project out"),
    ):
        ended = eventcore("rebuild", *arguments)
        assert (ended.code, ended.out) == (2, "")
        assert reason in ended.err
    for url in ("memory://", "sqlite:///store.sqlite3"):
        ended = eventcore("rebuild", "--store-url", url)
        assert (ended.code, ended.err) == (0, "")
        assert ended.out.startswith("nothing to rebuild: ")
        assert eventcore("rebuild", "--store-url", url, "--json").json == {"projects": []}


def test_rebuild_says_what_it_leaves(eventcore: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from adapters.sqlite.store import SqliteStore
    from eventcore.ports import Rebuilt
    from eventcore.rebuilding import GONE, UNREADABLE

    async def steps(self: SqliteStore, project: str | None) -> AsyncIterator[Rebuilt]:
        for number, (period, left) in enumerate(found):
            yield Rebuilt(project="shop", period=period, done=number + 1, steps=len(found), left=left)

    monkeypatch.setattr(SqliteStore, "rebuild", steps)
    eventcore("migrate")
    found = [("2026-03-01", GONE), ("2026-03-02", GONE), ("2026-03-03", ""), ("2026-03", "")]
    ended = eventcore("rebuild")
    assert ended.code == 0
    assert ended.err == (
        "project shop: 2 periods from 2026-03-01 to 2026-03-02 stay as they are: events are gone or about to expire, "
        "and what is counted of them is all that is left\n"
    )
    found = [("2026-03", UNREADABLE)]
    ended = eventcore("rebuild", "--json")
    assert ended.code == 3
    assert ended.json["projects"][0]["left"] == {UNREADABLE: ["2026-03"]}
    assert "2026-03 stays as it is: " in ended.err


def test_verify_of_no_store_is_said(eventcore: Command) -> None:
    ended = eventcore("verify")
    assert (ended.code, ended.out) == (1, "")
    assert not Path("store.sqlite3").exists()


def test_a_worker_refuses_another_address_than_loopback(shell: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its port asks for no key, unlike that of the API."""
    monkeypatch.setenv("EVENTCORE_QUEUE_URL", "nats://127.0.0.1:9")
    ended = shell("worker", "--host", "0.0.0.0", "--port", "0")
    assert (ended.code, ended.out) == (2, "")
    assert "--insecure" in ended.err


def test_flags_win_over_the_environment_and_the_environment_over_the_file(workplace: Path) -> None:
    ports = []
    for _ in range(3):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            ports.append(probe.getsockname()[1])
    flag, environment, file = ports
    (workplace / ".env").write_text(f"EVENTCORE_PORT={file}\n")

    def listens_on(port: int, *arguments: str, **settings: str) -> bool:
        with subprocess.Popen(
            [SCRIPTS / "eventcore", "serve", *arguments],
            env=os.environ | settings,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                for _ in range(200):
                    try:
                        socket.create_connection(("127.0.0.1", port), timeout=1).close()
                        return True
                    except OSError:
                        assert process.poll() is None
                        time.sleep(0.1)
                return False
            finally:
                process.terminate()

    assert listens_on(file)
    assert listens_on(environment, EVENTCORE_PORT=str(environment))
    assert listens_on(flag, "--port", str(flag), EVENTCORE_PORT=str(environment))


@pytest.mark.parametrize("kind", ["import", "embedded"])
def test_bench_verifies_and_prints_rates(shell: Command, kind: str) -> None:
    options = ["--batch", "500", "--clients", "3"] if kind == "embedded" else []
    ended = shell("bench", kind, "--events", "3000", "--runs", "1", "--ids", "v7", *options, "--json")
    assert ended.code == 0, ended.err
    assert ended.json["verified"] is True
    assert ended.json["events"] == 3_000
    (measured,) = ended.json["runs"]
    assert 100 < measured["events_per_second"] < 1_000_000
    assert measured["peak_mib"] > 20
    assert measured["bytes_per_event"] > 50
    assert [path for path in Path().iterdir() if "bench" in path.name] == []


@pytest.mark.parametrize("measure", [bench.measure_import, bench.measure_embedded])
def test_bench_gives_no_figure_when_the_store_holds_something_else(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, measure: Callable[[bench.Plan], list[bench.Run]]
) -> None:
    wrong = bench.Expected(events=300, user_days=7)
    monkeypatch.setattr(bench, "_expect", lambda plan: wrong)
    with pytest.raises(NotVerified, match="daily active users"):
        measure(bench.Plan(events=300, batch=100, clients=2, runs=1, folder=workplace))


def test_bench_says_not_verified_and_exits_1(eventcore: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(plan: bench.Plan) -> list[bench.Run]:
        raise NotVerified("one event is missing")

    monkeypatch.setattr(bench, "measure_import", fail)
    ended = eventcore("bench", "import", "--events", "10")
    assert (ended.code, ended.out) == (1, "")
    assert "one event is missing" in ended.err


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["stats", "--store", "mysql"], "sqlite or postgresql"),
        (["stats", "--url", "postgresql://localhost/x"], "--store postgresql"),
        (["stats", "--zone", "Mars/Base"], "--zone"),
        (["stats", "--unfolded", "10"], "--unfolded"),
        (["mixed", "--store", "mysql"], "sqlite or postgresql"),
    ],
)
def test_bench_of_statistics_says_what_is_wrong_with_an_option(
    eventcore: Command, options: list[str], complaint: str
) -> None:
    ended = eventcore("bench", *options, "--events", "10")
    assert (ended.code, ended.out) == (2, "")
    assert complaint in ended.err


def test_bench_of_statistics_prints_a_table_and_rows(eventcore: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    timing = bench_stats.Timing(asked=3, least_ms=1.0, median_ms=2.0, p95_ms=30.5)
    measured = bench_stats.Measured(
        question="dau", computed_from="activity", answers=9, http_cold=timing, http_warm=timing, http_in_turn=None,
        direct=timing, sql=replace(timing, median_ms=250.0), duckdb=None,
    )  # fmt: skip
    report = bench_stats.StatsReport(
        questions=[measured], technologies=["sqlite 3"], import_events_per_second=None, projection_bytes=50,
        waiting_events=0, waiting_rows=0, load={"end": 0.5},
    )  # fmt: skip
    monkeypatch.setattr(bench_stats, "measure_stats", lambda plan, say: report)
    table = eventcore("bench", "stats", "--events", "10").out
    assert "2.00 (30.50)" in table
    assert "125 ×" in table
    assert "5.0 bytes an event" in table
    [row] = csv.DictReader(io.StringIO(eventcore("bench", "stats", "--events", "10", "--format", "csv").out))
    assert (row["question"], row["sql_median_ms"], row["sql_ratio"], row["equal"]) == ("dau", "250.0", "125.0", "true")


def test_json_for_programs_is_one_line(eventcore: Command) -> None:
    out = eventcore("doctor", "--json").out
    assert out.count("\n") == 1
    assert json.loads(out)["ok"] is True


def test_a_new_epoch_is_begun_on_demand_only(eventcore: Command) -> None:
    assert eventcore("epoch").code == 1
    eventcore("migrate")
    first = eventcore("epoch").out
    assert eventcore("epoch").out == first
    second = eventcore("epoch", "--new").out
    assert second != first
    assert eventcore("epoch").out == second
    assert eventcore("verify").code == 0


def test_dimensions_are_added_listed_and_removed(eventcore: Command) -> None:
    Path("rows.csv").write_text(
        "user_id,event_type,occurred_at,country\nada,visit,2026-01-31T09:30:00Z,UA\nbob,visit,2026-01-31T23:30:00Z,PL\n"
    )
    eventcore("import", "rows.csv", "--properties-from-rest")
    asked = (
        "stats",
        "dau",
        "--from",
        "2026-01-31",
        "--to",
        "2026-02-01",
        "--segment",
        "properties.country:UA",
        "--json",
    )
    raw = eventcore(*asked).json
    assert raw["meta"]["computed_from"] == "events"
    ended = eventcore("dimensions", "list")
    assert (ended.code, ended.out) == (0, "no dimensions: every question about a property reads raw events\n")
    ended = eventcore("dimensions", "add", "country")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == "dimension  state  values\ncountry    ready       2\n"
    answer = eventcore(*asked).json
    assert (answer["data"], answer["meta"]["computed_from"]) == (raw["data"], "activity")
    eventcore("import", "rows.csv", "--ignore", "country", "--project", "other")
    assert eventcore("dimensions", "list", "--project", "other", "--json").json == {"dimensions": []}
    assert eventcore("dimensions", "list", "--format", "csv").out == "name,state,values\ncountry,ready,2\n"
    assert eventcore("rebuild", "--format", "jsonl").code == 0
    assert eventcore("verify").out == "all books balance\n"
    assert eventcore("dimensions", "remove", "country", "--json").json == {"dimensions": []}
    answer = eventcore(*asked).json
    assert (answer["data"], answer["meta"]["computed_from"]) == (raw["data"], "events")


def test_dimensions_say_what_they_cannot_do(eventcore: Command) -> None:
    ended = eventcore("dimensions", "add", "country")
    assert (ended.code, ended.out) == (1, "")
    assert not Path("store.sqlite3").exists()
    Path("rows.csv").write_text(
        "user_id,event_type,occurred_at,session\n"
        + "".join(f"ada,visit,2026-01-31T09:30:00Z,session {number}\n" for number in range(1_001))
    )
    eventcore("import", "rows.csv", "--properties-from-rest")
    for arguments, code, reason in (
        (("add", "session"), 2, "more than 1,000 values"),
        (("add", ""), 2, "one key of the properties"),
        (("add", "x" * 256), 2, "at most 255 characters"),
        (("add", "a", "--project", "No"), 2, "a project's name"),
        (("list", "--project", "other"), 1, "no project of this name"),
        (("remove", "country"), 1, "no dimension of this name"),
    ):
        ended = eventcore("dimensions", *arguments)
        assert (ended.code, ended.out) == (code, "")
        assert reason in ended.err
    assert "full, too many values: questions read raw events" in eventcore("dimensions", "list").out
    assert eventcore("dimensions", "remove", "session").code == 0
