"""``eventcore stats``: the oracle's numbers in every format, straight from the store and through a server."""

import csv
import io
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from entrypoints.sample import SamplePlan, generate, write_csv
from tests.e2e.cli.conftest import SCRIPTS, Ended
from tests.oracles import statistics as oracle

Command = Callable[..., Ended]

pytestmark = pytest.mark.e2e

PLAN = SamplePlan(events=3_000, users=150, days=40, seed=5, start=date(2025, 3, 1), duplicates=0.05, late=0.1)
FIRST, LAST = date(2025, 3, 1), date(2025, 4, 9)
TZ = "America/St_Johns"


@pytest.fixture(scope="module")
def events() -> list[dict[str, Any]]:
    return [
        {
            "event_id": row.event_id,
            "user_id": row.user_id,
            "event_type": row.event_type,
            "occurred_at": row.occurred_at,
            "properties": json.loads(row.properties_json),
        }
        for row in generate(PLAN)
    ]


@pytest.fixture(scope="module")
def store_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("stats")
    with (folder / "sample.csv").open("w", newline="") as file:
        write_csv(PLAN, file)
    url = f"sqlite:///{folder}/store.sqlite3"
    subprocess.run(
        [SCRIPTS / "eventcore", "import", folder / "sample.csv", "--store-url", url], check=True, capture_output=True
    )
    return url


@pytest.fixture(autouse=True)
def use_the_store(workplace: Path, monkeypatch: pytest.MonkeyPatch, store_url: str) -> None:
    monkeypatch.setenv("EVENTCORE_STORE_URL", store_url)


@pytest.fixture(scope="module")
def server(store_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with subprocess.Popen(
        [SCRIPTS / "eventcore", "serve", "--port", str(port), "--store-url", store_url],
        cwd=tmp_path_factory.mktemp("server"),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, "the server did not start"
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
        process.terminate()
        out, _ = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, b"")


RANGE = ("--from", FIRST.isoformat(), "--to", LAST.isoformat())


def test_daily_active_users_are_the_oracles(eventcore: Command, events: list[dict[str, Any]]) -> None:
    ended = eventcore("stats", "dau", *RANGE, "--tz", TZ, "--segment", "properties.country=UA", "--json")
    expected = oracle.dau(events, first=FIRST, last=LAST, tz=TZ, segments=["properties.country=UA"])
    assert (ended.code, ended.json["data"]) == (0, expected)
    assert ended.json["meta"]["timezone"] == TZ
    assert sum(row["users"] for row in expected) > 0


def test_top_events_are_the_oracles(eventcore: Command, events: list[dict[str, Any]]) -> None:
    ended = eventcore("stats", "top-events", *RANGE, "--tz", TZ, "--limit", "3", "--json")
    assert ended.json["data"] == oracle.top_events(events, first=FIRST, last=LAST, tz=TZ, limit=3)


def test_retention_is_the_oracles(eventcore: Command, events: list[dict[str, Any]]) -> None:
    options = ["--window", "week", "--windows", "3", "--cohorts", "5", "--week-start", "sunday", "--tz", TZ]
    options += [
        "--cohort",
        "recurring",
        "--return",
        "on_or_after",
        "--cohort-event",
        "search",
        "--return-event",
        "purchase",
    ]
    ended = eventcore("stats", "retention", "--start-date", "2025-03-05", *options, "--json")
    assert ended.json["data"] == oracle.retention(
        events,
        start_date=date(2025, 3, 5),
        windows=3,
        window="week",
        week_start="sunday",
        cohorts=5,
        cohort="recurring",
        return_mode="on_or_after",
        cohort_event="search",
        return_event="purchase",
        tz=TZ,
        now=datetime.now(UTC),
    )


QUESTIONS = [
    ("dau", *RANGE, "--tz", TZ),
    ("top-events", *RANGE, "--segment", "event_type:purchase", "--segment", "properties.plan:pro"),
    ("retention", "--start-date", "2025-03-05", "--window", "week", "--return", "on_or_after"),
    ("ingestion", *RANGE),
]


@pytest.mark.parametrize("question", QUESTIONS, ids=[question[0] for question in QUESTIONS])
def test_a_server_gives_the_same_document_as_the_store(
    eventcore: Command, server: str, question: tuple[str, ...]
) -> None:
    direct = eventcore("stats", *question, "--json").json
    served = eventcore("stats", *question, "--json", "--url", server)
    assert served.code == 0
    assert served.json["data"] == direct["data"]
    changing = ("took_ms", "data_as_of")
    assert {k: v for k, v in served.json["meta"].items() if k not in changing} == {
        k: v for k, v in direct["meta"].items() if k not in changing
    }
    for form in ("table", "jsonl", "csv"):
        assert (
            eventcore("stats", *question, "--format", form, "--url", server).out
            == eventcore("stats", *question, "--format", form).out
        )


def test_jsonl_and_csv_hold_the_rows(eventcore: Command, events: list[dict[str, Any]]) -> None:
    expected = oracle.top_events(events, first=FIRST, last=LAST, tz="UTC")
    lines = eventcore("stats", "top-events", *RANGE, "--format", "jsonl").out.splitlines()
    assert [json.loads(line) for line in lines] == expected
    rows = list(csv.DictReader(io.StringIO(eventcore("stats", "top-events", *RANGE, "--format", "csv").out)))
    assert rows == [{name: str(value) for name, value in row.items()} for row in expected]


def test_retention_as_csv_has_a_row_for_each_cell(eventcore: Command, events: list[dict[str, Any]]) -> None:
    ended = eventcore("stats", "retention", "--start-date", "2025-03-05", "--windows", "2", "--format", "csv")
    expected = oracle.retention(events, start_date=date(2025, 3, 5), windows=2, tz="UTC", now=datetime.now(UTC))
    rows = list(csv.DictReader(io.StringIO(ended.out)))
    cells = [
        (cohort["start"], str(cell["window"]), str(cell["users"]))
        for cohort in expected["cohorts"]
        for cell in cohort["cells"]
        if cell is not None
    ]
    cells += [("overall", str(cell["window"]), str(cell["users"])) for cell in expected["overall"]]
    assert [(row["cohort"], row["window"], row["users"]) for row in rows] == cells


def test_a_cohort_that_has_not_begun_is_a_row_of_the_csv(eventcore: Command, events: list[dict[str, Any]]) -> None:
    ended = eventcore("stats", "retention", "--start-date", "2125-03-05", "--windows", "1", "--format", "csv")
    assert ended.out.splitlines() == [
        "cohort,size,window,users,rate,complete",
        "2125-03-05,0,0,,,false",
        "2125-03-05,0,1,,,false",
        "2125-03-06,0,0,,,false",
        "2125-03-06,0,1,,,false",
        "overall,0,0,0,,false",
        "overall,0,1,0,,false",
    ]


def test_no_rows_still_have_a_header(eventcore: Command, events: list[dict[str, Any]]) -> None:
    ended = eventcore("stats", "top-events", "--from", "2001-01-01", "--to", "2001-01-02", "--format", "csv")
    assert ended.out == "event_type,count,users,share\n"


def test_tables_are_plain_text_without_a_terminal(eventcore: Command) -> None:
    ended = eventcore("stats", "dau", "--from", "2025-03-01", "--to", "2025-03-02")
    lines = ended.out.splitlines()
    assert lines[0].split() == ["date", "users"]
    assert [line.split()[0] for line in lines[1:]] == ["2025-03-01", "2025-03-02"]
    assert "\x1b" not in ended.out
    assert ended.err == ""


def test_the_retention_table_shows_percentages_and_the_overall_row(eventcore: Command) -> None:
    ended = eventcore("stats", "retention", "--start-date", "2025-03-03", "--window", "week", "--windows", "2")
    lines = [line.split() for line in ended.out.splitlines()]
    assert lines[0] == ["cohort", "users", "0", "1", "2"]
    assert [line[0] for line in lines[1:]] == ["2025-03-03", "2025-03-10", "2025-03-17", "overall"]
    assert all(line[2:4] == ["100.0", "%"] for line in lines[1:])


def test_windows_that_run_or_have_not_begun_are_marked(eventcore: Command) -> None:
    today = datetime.now(UTC).date()
    Path("now.csv").write_text(
        f"user_id,event_type,occurred_at,event_id\nada,visit,{today}T00:00:00Z,0192f0c1-2b3a-7c4d-8e5f-6a7b8c9d0e1f\n"
    )
    assert eventcore("import", "now.csv", "--project", "today").code == 0
    ended = eventcore("stats", "retention", "--windows", "1", "--project", "today")
    assert [line.split() for line in ended.out.splitlines()][2] == [today.isoformat(), "1", "100.0", "%*"]
    assert "not over yet" in ended.err


def test_dates_default_to_the_last_30_days_of_the_zone(eventcore: Command) -> None:
    rows = eventcore("stats", "dau", "--tz", "Pacific/Kiritimati", "--json").json["data"]
    assert len(rows) == 30
    rows = eventcore("stats", "dau", "--to", "2025-03-30", "--json").json["data"]
    assert (len(rows), rows[0]["date"], rows[-1]["date"]) == (30, "2025-03-01", "2025-03-30")


@pytest.mark.parametrize(
    ("question", "field"),
    [
        (["dau", "--from", "2025-02-30", "--to", "2025-03-01"], "from"),
        (["dau", "--from", "2025-03-02", "--to", "2025-03-01"], "from"),
        (["dau", "--tz", "Mars/Base"], "time zone"),
        (["dau", "--segment", "nonsense"], "segment"),
        (["dau", "--project", "No Such"], "project"),
        (["top-events", "--limit", "1e3"], "limit"),
        (["retention", "--window", "year"], "window"),
        (["retention", "--windows", "0"], "windows"),
        (["retention", "--start-date", "x"], "start_date"),
        (["ingestion", "--to", "x"], "to"),
        (["dau", "--format", "xml"], "xml"),
        (["dau", "--form", "x"], "--form"),
        (["dau", "--url", "ftp://x"], "--url"),
        (["dau", "--url", "http://["], "--url"),
        (["nothing"], "nothing"),
    ],
)
def test_a_question_without_an_answer_is_one_line_and_exit_2(
    eventcore: Command, question: list[str], field: str
) -> None:
    ended = eventcore("stats", *question)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert field in ended.err


def test_a_question_that_the_server_refuses_is_one_line_and_exit_2(eventcore: Command, server: str) -> None:
    ended = eventcore("stats", "dau", "--from", "2025-02-30", "--to", "2025-03-01", "--url", server)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert "from" in ended.err


def test_no_server_is_exit_5(eventcore: Command) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ended = eventcore("stats", "dau", "--url", f"http://127.0.0.1:{port}")
    assert (ended.code, ended.out, ended.err.count("\n")) == (5, "", 1)


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (403, b'{"message":"this key may not read"}', 4),
        (401, b'{"message":"send a key"}', 4),
        (503, b'{"message":"the store does not answer"}', 5),
        (502, b"<html>", 5),
        (500, b"", 1),
        (200, b"<html>hello", 1),
        (200, b"[]", 1),
        (302, b"", 1),
    ],
)
def test_what_a_server_says_decides_the_exit_code(eventcore: Command, status: int, body: bytes, code: int) -> None:
    class Answering(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answering) as fake:
        thread = Thread(target=fake.handle_request)
        thread.start()
        ended = eventcore("stats", "dau", "--url", f"http://127.0.0.1:{fake.server_port}")
        thread.join()
    assert (ended.code, ended.out, ended.err.count("\n")) == (code, "", 1)
    if b"message" in body:
        assert json.loads(body)["message"] in ended.err


def test_no_store_is_said_and_none_is_made(eventcore: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTCORE_STORE_URL", "sqlite:///nowhere/store.sqlite3")
    ended = eventcore("stats", "dau")
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, "", 1)
    assert not Path("nowhere").exists()


@pytest.mark.parametrize("statistic", ["dau", "top-events", "retention", "ingestion"])
def test_a_project_that_is_not_there_is_said_beside_the_zeros(
    eventcore: Command, workplace: Path, monkeypatch: pytest.MonkeyPatch, statistic: str
) -> None:
    monkeypatch.setenv("EVENTCORE_STORE_URL", f"sqlite:///{workplace}/two.sqlite3")
    Path("rows.csv").write_text("user_id,event_type,occurred_at\nada,visit,2026-01-31T09:30:00Z\n")
    for project in ("shop", "default"):
        eventcore("import", "rows.csv", "--project", project)
    ended = eventcore("stats", statistic, "--project", "nope", "--json")
    assert (ended.code, ended.err) == (0, "the store has no project nope; known are default, shop\n")
    assert "data" in ended.json
    assert eventcore("stats", statistic, "--project", "shop", "--json").err == ""


def test_a_store_without_any_project_says_so(eventcore: Command, workplace: Path) -> None:
    url = f"sqlite:///{workplace}/new.sqlite3"
    eventcore("migrate", "--store-url", url)
    ended = eventcore("stats", "dau", "--store-url", url)
    assert (ended.code, ended.err) == (0, "the store has no project default; it has none yet\n")


def test_on_a_terminal_tables_are_drawn_and_no_color_is_kept(store_url: str) -> None:
    script = "import os, pty, sys\nstatus = pty.spawn(sys.argv[1:])\nsys.exit(os.waitstatus_to_exitcode(status))\n"
    command = [
        sys.executable,
        "-c",
        script,
        str(SCRIPTS / "eventcore"),
        "stats",
        "dau",
        *RANGE,
        "--store-url",
        store_url,
    ]
    import os

    environment = {**os.environ, "TERM": "xterm-256color"}
    drawn = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=True).stdout
    plain = subprocess.run(
        command, env={**environment, "NO_COLOR": "1"}, stdin=subprocess.DEVNULL, capture_output=True, check=True
    ).stdout
    assert "─".encode() in drawn
    assert b"\x1b[1" in drawn
    assert "─".encode() in plain
    assert b"\x1b[3" not in plain
