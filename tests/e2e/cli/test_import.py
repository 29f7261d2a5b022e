"""``eventcore import``: every line of the CSV part of the bad-input catalogue, and what an import promises."""

import csv
import fcntl
import gzip
import io
import json
import os
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO
from uuid import UUID, uuid5

import pytest

from entrypoints.csv_reader import BATCH_ROWS
from tests.e2e.cli.conftest import SCRIPTS, Ended

Command = Callable[..., Ended]

pytestmark = pytest.mark.e2e

SPACE = UUID(int=3 << 64)
COLUMNS = ("event_id", "occurred_at", "user_id", "event_type", "properties_json")
SHARED = Path(os.environ.get("EVENTCORE_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))
CDNOW = SHARED / "cdnow.csv.gz"


def an_id(number: int) -> str:
    return str(uuid5(SPACE, str(number)))


def a_row(number: int, **cells: str) -> dict[str, str]:
    return {
        "event_id": an_id(number),
        "occurred_at": "2026-01-31T09:30:00Z",
        "user_id": f"u{number}",
        "event_type": "visit",
        "properties_json": '{"plan":"pro"}',
    } | cells


def a_csv(rows: Sequence[dict[str, str]], columns: Sequence[str] = COLUMNS) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([row[name] for name in columns] for row in rows)
    return text.getvalue()


def write(name: str, content: str | bytes) -> Path:
    path = Path(name)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def counts(rows: int, accepted: int = 0, duplicates: int = 0, conflicts: int = 0, rejected: int = 0) -> dict[str, int]:
    found = {"accepted": accepted, "duplicates": duplicates, "conflicts": conflicts, "rejected": rejected}
    assert rows == sum(found.values())
    return {"rows": rows} | found


def stored_events(eventcore: Command) -> int:
    """How many events the store counts, by its own statistics; the books must balance."""
    assert eventcore("verify").out == "all books balance\n"
    top = eventcore("stats", "top-events", "--from", "2026-01-01", "--to", "2026-12-31", "--json").json
    return sum(row["count"] for row in top["data"])


# The catalogue


@pytest.mark.parametrize("path", ["missing.csv", ".", "forbidden.csv", "missing/folder.csv", "rows.csv/x"])
def test_what_cannot_be_read_is_one_line_and_exit_2(shell: Command, path: str) -> None:
    write("rows.csv", a_csv([a_row(1)]))
    write("forbidden.csv", "").chmod(0)
    if path == "forbidden.csv" and os.access(path, os.R_OK):
        pytest.skip("root may read everything")
    ended = shell("import", "rows.csv", path)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert path in ended.err
    assert not Path("store.sqlite3").exists()


@pytest.mark.parametrize(
    ("header", "named"),
    [
        ("event_id,occurred_at,user_id", "event_type"),
        ("event_id,occurred_at,user_id,event_type,country", "country"),
        ("event_id,occurred_at,user_id,user_id,event_type", "user_id"),
        (",".join(a_row(1).values()), "first line"),
        ('event_id,"occurred_at', "header"),
    ],
)
def test_a_header_problem_is_one_line_that_says_which_column(eventcore: Command, header: str, named: str) -> None:
    write("rows.csv", f"{header}\n")
    ended = eventcore("import", "rows.csv")
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert named in ended.err
    assert "rows.csv" in ended.err


def test_headers_of_all_files_are_checked_before_anything_is_stored(eventcore: Command) -> None:
    write("good.csv", a_csv([a_row(1)]))
    write("bad.csv", "event_id\n")
    assert eventcore("import", "good.csv", "bad.csv").code == 2
    assert not Path("store.sqlite3").exists()


def test_columns_in_another_order_bom_crlf_and_quoted_newlines_are_accepted(eventcore: Command) -> None:
    rows = [a_row(1, properties_json='{\n"a":\n1}'), a_row(2)]
    text = a_csv(rows, COLUMNS[::-1]).replace("\n", "\r\n")
    write("rows.csv", b"\xef\xbb\xbf" + text.encode())
    ended = eventcore("import", "rows.csv", "--json")
    assert (ended.code, ended.json) == (0, counts(2, accepted=2))


BAD_ROWS = [
    (f"{an_id(900)},2026-01-31T09:30:00Z,u\n", "too_few_fields"),
    (f"{an_id(900)},2026-01-31T09:30:00Z,u,visit,{{}},more\n", "too_many_fields"),
    (f'{an_id(900)},2026-01-31T09:30:00Z,"u,visit,{{}}\n', "quote"),
    (f'{an_id(900)},2026-01-31T09:30:00Z,"u"x,visit,{{}}\n', "broken_quote"),
    (f"{an_id(900)},2026-01-31T09:30:00Z,u,visit,{{bad\n", "invalid_json"),
    (f"{an_id(900)},2026-01-31T09:30:00Z,u,visit,[]\n", "wrong_type"),
    (f"{an_id(900)},2026-01-31T09:30:00,u,visit,{{}}\n", "invalid_timestamp"),
    (f"{an_id(900)}x,2026-01-31T09:30:00Z,u,visit,{{}}\n", "invalid_event_id"),
    (f"{an_id(900)},2026-01-31T09:30:00Z,,visit,{{}}\n", "empty"),
    (f"{an_id(900)},2026-01-31T09:30:00Z,u\udcff,visit,{{}}\n", "invalid_utf8"),
]


@pytest.mark.parametrize(
    ("bad", "code"), BAD_ROWS, ids=[code + str(number) for number, (_, code) in enumerate(BAD_ROWS)]
)
def test_a_bad_row_is_named_with_its_line_and_the_rest_is_imported(eventcore: Command, bad: str, code: str) -> None:
    lines = a_csv([a_row(number) for number in range(5)]).splitlines(keepends=True)
    lines.insert(3, bad)
    write("rows.csv", "".join(lines).encode(errors="surrogateescape"))
    ended = eventcore("import", "rows.csv", "--json")
    assert (ended.code, ended.json) == (3, counts(6, accepted=5, rejected=1))
    assert "rows.csv: line 4:" in ended.err
    assert code in ended.err
    assert stored_events(eventcore) == 5


@pytest.mark.parametrize(
    ("bad", "code"), BAD_ROWS, ids=[code + str(number) for number, (_, code) in enumerate(BAD_ROWS)]
)
def test_strict_stops_before_anything_is_stored(eventcore: Command, bad: str, code: str) -> None:
    write("rows.csv", (a_csv([a_row(number) for number in range(5)]) + bad).encode(errors="surrogateescape"))
    ended = eventcore("import", "rows.csv", "--strict", "--json")
    assert (ended.code, ended.json) == (1, counts(6, rejected=6))
    assert "line 7:" in ended.err
    assert stored_events(eventcore) == 0


def test_strict_takes_a_good_file_and_standard_input(eventcore: Command, shell: Command) -> None:
    write("rows.csv", a_csv([a_row(1), a_row(1)]))
    assert eventcore("import", "rows.csv", "--strict", "--json").json == counts(2, accepted=1, duplicates=1)
    piped = a_csv([a_row(number) for number in range(3)]).encode()
    ended = shell("import", "-", "--strict", "--json", stdin=piped)
    assert (ended.code, ended.json) == (0, counts(3, accepted=2, duplicates=1))
    ended = shell("import", "-", "--strict", "--json", stdin=piped + b"bad\n")
    assert (ended.code, ended.json) == (1, counts(4, rejected=4))
    assert stored_events(eventcore) == 3


@pytest.mark.parametrize("content", ["", "\n", a_csv([])])
def test_an_empty_file_or_a_header_alone_is_0_rows(eventcore: Command, content: str) -> None:
    write("rows.csv", content)
    ended = eventcore("import", "rows.csv", "--json")
    assert (ended.code, ended.json) == (0, counts(0))


def test_gz_cut_short_keeps_what_was_readable_and_says_so(eventcore: Command) -> None:
    whole = gzip.compress(a_csv([a_row(number) for number in range(500)]).encode())
    write("rows.csv.gz", whole[: len(whole) // 2])
    ended = eventcore("import", "rows.csv.gz", "--json")
    assert ended.code == 1
    assert "rows.csv.gz: the gzip data ends too early" in ended.err
    accepted = ended.json["accepted"]
    assert 50 < accepted < 400
    assert ended.json == counts(accepted, accepted=accepted)
    assert stored_events(eventcore) == accepted
    write("rows.csv.gz", whole)
    again = eventcore("import", "rows.csv.gz", "--json")
    assert (again.code, again.json) == (0, counts(500, accepted=500 - accepted, duplicates=accepted))


def test_gz_cut_short_with_strict_stores_nothing(eventcore: Command) -> None:
    write("rows.csv.gz", gzip.compress(a_csv([a_row(number) for number in range(500)]).encode())[:-20])
    assert eventcore("import", "rows.csv.gz", "--strict").code == 1
    assert stored_events(eventcore) == 0


def test_standard_input_plain_or_gzip(shell: Command) -> None:
    content = a_csv([a_row(1), a_row(2)]).encode()
    ended = shell("import", "-", "--json", stdin=content)
    assert (ended.code, ended.json) == (0, counts(2, accepted=2))
    ended = shell("import", "-", "--json", stdin=gzip.compress(content), script="eventcore")
    assert (ended.code, ended.json) == (0, counts(2, duplicates=2))


def test_import_events_is_the_same_command(shell: Command) -> None:
    write("rows.csv", a_csv([a_row(1)]))
    ended = shell("rows.csv", "--json", script="import_events")
    assert (ended.code, ended.json) == (0, counts(1, accepted=1))


def test_a_named_pipe_can_be_imported(workplace: Path) -> None:
    os.mkfifo("pipe.csv")
    with subprocess.Popen([SCRIPTS / "eventcore", "import", "pipe.csv", "--json"], stdout=subprocess.PIPE) as process:
        Path("pipe.csv").write_text(a_csv([a_row(1), a_row(2)]))
        out, _ = process.communicate(timeout=60)
    assert (process.returncode, json.loads(out)) == (0, counts(2, accepted=2))


def test_the_same_file_twice_is_all_duplicates_and_exit_0(eventcore: Command) -> None:
    write("rows.csv", a_csv([a_row(number) for number in range(30)]))
    assert eventcore("import", "rows.csv", "--json").json == counts(30, accepted=30)
    ended = eventcore("import", "rows.csv", "--json")
    assert (ended.code, ended.json) == (0, counts(30, duplicates=30))


@pytest.mark.skipif(not CDNOW.exists(), reason="cdnow.csv.gz is missing: name its folder in EVENTCORE_SHARED_DATA")
def test_cdnow_twice(shell: Command) -> None:
    ended = shell("import", CDNOW, "--json")
    assert (ended.code, ended.json) == (0, counts(69_659, accepted=69_659))
    ended = shell("import", CDNOW, "--json")
    assert (ended.code, ended.json) == (0, counts(69_659, duplicates=69_659))
    assert shell("verify").out == "all books balance\n"


# What else an import promises


def test_of_two_rows_with_one_id_the_first_is_kept_also_far_apart(
    eventcore: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("entrypoints.csv_reader.BATCH_ROWS", 2)  # so that they are in batches under way together
    rows = [row for number in range(40) for row in (a_row(number, user_id="first"), a_row(number + 1, user_id="late"))]
    write("rows.csv", a_csv(rows))
    ended = eventcore("import", "rows.csv", "--json")
    assert (ended.code, ended.json) == (3, counts(80, accepted=41, conflicts=39))
    users = eventcore("stats", "dau", "--from", "2026-01-31", "--to", "2026-01-31", "--json").json["data"]
    assert users == [{"date": "2026-01-31", "users": 2}]
    assert "line 4: conflict" in ended.err


def test_the_first_bad_rows_are_named_and_all_are_kept_in_the_errors_file(eventcore: Command) -> None:
    rows = [a_row(number, user_id="" if number % 2 else f"u{number}") for number in range(100)]
    write("rows.csv", a_csv(rows))
    ended = eventcore("import", "rows.csv", "--errors", "bad.csv", "--json")
    assert (ended.code, ended.json) == (3, counts(100, accepted=50, rejected=50))
    assert ended.err.count("rows.csv: line ") == 20
    assert "30 more" in ended.err
    kept = list(csv.DictReader(Path("bad.csv").read_text().splitlines()))
    assert [row["_line"] for row in kept] == [str(number + 2) for number in range(1, 100, 2)]
    assert {row["_code"] for row in kept} == {"empty"}
    assert [row["event_id"] for row in kept] == [an_id(number) for number in range(1, 100, 2)]


def test_the_errors_file_is_mended_and_imported_again(eventcore: Command) -> None:
    content = a_csv([a_row(1, user_id=""), a_row(2), a_row(3, properties_json='{"a":"b"')])
    content += "".join(bad for bad, _ in BAD_ROWS)
    write("rows.csv", content.encode(errors="surrogateescape"))
    first = eventcore("import", "rows.csv", "--errors", "bad.csv", "--json")
    assert (first.code, first.json) == (3, counts(13, accepted=1, rejected=12))

    # Not mended, every row is bad for the same reason, and its file looks the same but for the line numbers.
    second = eventcore("import", "bad.csv", "--errors", "still.csv", "--json")
    assert (second.code, second.json) == (3, counts(12, rejected=12))
    once, again = (Path(name).read_bytes().splitlines() for name in ("bad.csv", "still.csv"))
    assert [line.partition(b",")[2] for line in once] == [line.partition(b",")[2] for line in again]

    mended = (
        Path("bad.csv").read_bytes().replace(b',,visit,"{""plan', b',ada,visit,"{""plan').replace(b'""b"""', b'""b""}"')
    )
    write("bad.csv", mended)
    third = eventcore("import", "bad.csv", "--json")
    assert (third.code, third.json) == (3, counts(12, accepted=2, rejected=10))


def test_the_errors_file_may_not_be_an_imported_one(eventcore: Command) -> None:
    content = a_csv([a_row(1)])
    write("rows.csv", content)
    Path("link.csv").symlink_to("rows.csv")
    assert eventcore("import", "rows.csv", "--errors", "link.csv").code == 2
    assert Path("rows.csv").read_text() == content


def test_the_errors_file_holds_rows_of_one_header(eventcore: Command) -> None:
    write("one.csv", a_csv([a_row(1)]))
    write("two.csv", a_csv([a_row(2)], COLUMNS[::-1]))
    ended = eventcore("import", "one.csv", "two.csv", "--errors", "bad.csv")
    assert (ended.code, ended.out) == (2, "")
    assert not Path("store.sqlite3").exists()


def test_several_files_give_one_summary(eventcore: Command) -> None:
    write("one.csv", a_csv([a_row(1), a_row(2)]))
    write("two.csv.gz", gzip.compress(a_csv([a_row(2), a_row(3, user_id="")]).encode()))
    ended = eventcore("import", "one.csv", "two.csv.gz", "--json")
    assert (ended.code, ended.json) == (3, counts(4, accepted=2, duplicates=1, rejected=1))
    assert "two.csv.gz: line 3:" in ended.err


def test_a_dry_run_tells_the_counts_and_stores_nothing(eventcore: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("entrypoints.csv_reader.BATCH_ROWS", 3)
    write("before.csv", a_csv([a_row(1), a_row(2)]))
    rows = [
        a_row(1),
        a_row(2, user_id="other"),
        *(a_row(number) for number in range(3, 9)),
        a_row(3),
        a_row(4, user_id="x"),
    ]
    write("rows.csv", a_csv([*rows, a_row(10, user_id="")]))

    ended = eventcore("import", "rows.csv", "--dry-run", "--json")
    expected = counts(11, accepted=8, duplicates=1, conflicts=1, rejected=1)
    assert ended.code == 3
    assert {name: ended.json[name] for name in expected} == expected
    assert not Path("store.sqlite3").exists()

    eventcore("import", "before.csv")
    before = Path("store.sqlite3").read_bytes()
    dry = eventcore("import", "rows.csv", "--dry-run", "--json")
    expected = counts(11, accepted=6, duplicates=2, conflicts=2, rejected=1)
    assert dry.code == 3
    assert {name: dry.json[name] for name in expected} == expected
    assert dry.json["first_rows"][0] == a_row(1, occurred_at="2026-01-31T09:30:00Z") | {
        "occurred_at": dry.json["first_rows"][0]["occurred_at"]
    }
    assert Path("store.sqlite3").read_bytes() == before

    wet = eventcore("import", "rows.csv", "--json")
    assert (wet.code, wet.json) == (3, expected)


def test_a_dry_run_shows_the_first_rows_to_people(eventcore: Command) -> None:
    write("rows.csv", a_csv([a_row(number, user_id="\u202eada") for number in range(9)]))
    ended = eventcore("import", "rows.csv", "--dry-run")
    assert ended.code == 0
    assert ended.out.count("\\u202eada") == 5  # what came from outside cannot steer the terminal
    assert "9 rows: would be 9 accepted" in ended.out


def test_anybodys_csv(eventcore: Command) -> None:
    write("rows.csv", "uid,when,country\nada,31.01.2026 09:30,UA\nbob,31.01.2026 23:30,\nada,31.01.2026 09:30,UA\n")
    options = [
        "--map",
        "user_id=uid,occurred_at=when",
        "--default",
        "event_type=visit",
        "--time-format",
        "%d.%m.%Y %H:%M",
        "--tz",
        "Europe/Kyiv",
        "--properties-from-rest",
    ]
    ended = eventcore("import", "rows.csv", *options, "--json")
    assert (ended.code, ended.json) == (0, counts(3, accepted=3))
    assert "no column event_id" in ended.err
    assert eventcore("import", "rows.csv", *options, "--json").json == counts(3, duplicates=3)
    ask = ["stats", "top-events", "--from", "2026-01-31", "--to", "2026-01-31", "--tz", "Europe/Kyiv", "--json"]
    assert eventcore(*ask, "--segment", "properties.country:UA").json["data"] == [
        {"event_type": "visit", "count": 2, "users": 1, "share": 1.0}
    ]


@pytest.mark.parametrize(
    "options",
    [
        ["--map", "user=uid"],
        ["--map", "user_id"],
        ["--delimiter", ""],
        ["--delimiter", ";;"],
        ["--delimiter", '"'],
        ["--delimiter", "e"],
        ["--default", "event_id=x"],
        ["--time-format", "%d.%m.%Y"],
        ["--time-format", "%Q", "--tz", "UTC"],
        ["--tz", "UTC"],
        ["--time-format", "%d.%m.%Y", "--tz", "Mars/Base"],
        ["--project", "No Such"],
        ["--errors", "no/such/folder.csv"],
        ["-", "-"],
    ],
)
def test_options_that_make_no_sense_are_one_line_and_exit_2(eventcore: Command, options: list[str]) -> None:
    write("rows.csv", a_csv([a_row(1)]))
    ended = eventcore("import", "rows.csv", *options)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert not Path("store.sqlite3").exists()


def test_a_misspelt_field_of_map_is_answered_with_the_one_that_is_meant(eventcore: Command) -> None:
    write("rows.csv", a_csv([a_row(1)]))
    assert "did you mean occurred_at?" in eventcore("import", "rows.csv", "--map", "occured_at=Date").err


@pytest.mark.parametrize(("option", "mark"), [(";", ";"), ("tab", "\t"), ("|", "|")])
def test_another_delimiter_is_hinted_at_and_taken_also_with_errors(eventcore: Command, option: str, mark: str) -> None:
    lines = [["Date", "Customer ID", "Amount (EUR)"], ["2026-01-31T09:30:00Z", "ada", '"1,50"'], ["x", "bob", "2"]]
    write("rows.csv", "".join(mark.join(line) + "\n" for line in lines))
    meant = ["--map", "occurred_at=Date,user_id=Customer ID", "--default", "event_type=order", "--properties-from-rest"]
    refused = eventcore("import", "rows.csv", *meant)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "--delimiter tab" in refused.err if option == "tab" else f"--delimiter '{option}'" in refused.err
    command = ["import", "rows.csv", *meant, "--delimiter", option, "--errors", "bad.csv"]
    for expected in (counts(2, accepted=1, rejected=1), counts(2, duplicates=1, rejected=1)):
        ended = eventcore(*command, "--json")
        assert (ended.code, ended.json) == (3, expected)
    bad = list(csv.reader(Path("bad.csv").read_text().splitlines(), delimiter=mark))
    assert bad[0] == ["_line", "_code", "_field", "_message", *lines[0]]
    assert (bad[1][:2], bad[1][4:]) == (["3", "invalid_timestamp"], ["x", "bob", "2"])
    write("mended.csv", Path("bad.csv").read_text().replace(f"{mark}x{mark}", f"{mark}never{mark}"))
    command = ["import", "mended.csv", *meant, "--delimiter", option, "--errors", "still.csv"]
    assert eventcore(*command, "--json").json == counts(1, rejected=1)
    again = list(csv.reader(Path("still.csv").read_text().splitlines(), delimiter=mark))
    assert (again[0], again[1][4:]) == (bad[0], ["never", "bob", "2"])


def test_a_file_whose_ids_are_none_goes_in_by_the_way_that_is_named(eventcore: Command) -> None:
    write("rows.csv", a_csv([a_row(number, event_id=str(number)) for number in (1, 2, 3)]))
    refused = eventcore("import", "rows.csv", "--json")
    assert (refused.code, refused.json) == (3, counts(3, rejected=3))
    assert "--ignore event_id" in refused.err
    assert eventcore("import", "rows.csv", "--ignore", "event_id", "--json").json == counts(3, accepted=3)
    again = eventcore("import", "rows.csv", "--ignore", "event_id", "--json")
    assert again.json == counts(3, duplicates=3)
    assert "--ignore event_id; ids are made" in again.err
    assert stored_events(eventcore) == 3


def test_one_row_is_said_as_one(eventcore: Command) -> None:
    write("rows.csv", a_csv([a_row(1)]))
    ended = eventcore("import", "rows.csv")
    assert ended.out == "1 row: 1 accepted, 0 duplicates, 0 conflicts, 0 rejected\n"
    assert ended.err.startswith("1 row in ")
    assert eventcore("import", "rows.csv").out == "1 row: 0 accepted, 1 duplicate, 0 conflicts, 0 rejected\n"


def test_the_same_command_again_is_advised_only_where_it_helps(
    eventcore: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("rows.csv", a_csv([a_row(1)]))
    assert "goes on" not in eventcore("import", "rows.csv", "--project", "No Such").err
    write("store.sqlite3", "this is not a database, it is a text of more than one hundred bytes " * 20)
    assert "goes on" not in eventcore("import", "rows.csv").err
    monkeypatch.setenv("EVENTCORE_STORE_URL", "postgresql://127.0.0.1:1/nobody")
    away = eventcore("import", "rows.csv")
    assert away.code == 5
    assert "0 new rows are known to be stored, and the same command again goes on" in away.err


def test_projects_are_apart(eventcore: Command) -> None:
    write("rows.csv", a_csv([a_row(1)]))
    assert eventcore("import", "rows.csv", "--project", "shop", "--json").json == counts(1, accepted=1)
    assert eventcore("import", "rows.csv", "--json").json == counts(1, accepted=1)


def test_the_summary_for_people_is_the_only_thing_on_stdout(shell: Command) -> None:
    write("rows.csv", a_csv([a_row(1), a_row(2, user_id="")]))
    ended = shell("import", "rows.csv")
    assert ended.out == "2 rows: 1 accepted, 0 duplicates, 0 conflicts, 1 rejected\n"
    assert "line 3" in ended.err


def test_a_store_that_is_none_is_one_line(shell: Command) -> None:
    write("store.sqlite3", "this is not a database, it is a text of more than one hundred bytes " * 20)
    write("rows.csv", a_csv([a_row(1)]))
    ended = shell("import", "rows.csv")
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, "", 1)
    assert "Traceback" not in ended.err


def test_an_unknown_kind_of_store_is_usage(eventcore: Command) -> None:
    write("rows.csv", a_csv([a_row(1)]))
    ended = eventcore("import", "rows.csv", "--store-url", "nosuch://secret@host/x")
    assert (ended.code, ended.err.count("\n")) == (2, 1)
    assert "secret" not in ended.err


# Stopped in the middle


@pytest.fixture
def many_rows(workplace: Path) -> int:
    rows = 60_000
    lines = (f"{an_id(number)},2026-01-31T09:30:00Z,u{number % 977},visit\n" for number in range(rows))
    write("many.csv", "event_id,occurred_at,user_id,event_type\n" + "".join(lines))
    return rows


def grown(path: Path, size: int, process: "subprocess.Popen[bytes]") -> bool:
    """Whether the file got so large before the process ended; waits for either."""
    while process.poll() is None:
        if path.exists() and path.stat().st_size >= size:
            return True
        time.sleep(0.002)
    return False


@contextmanager
def importing(path: str, *options: str) -> "Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]":
    """``eventcore import`` of standard input or of a named pipe, and the end to write to, open until the block ends."""
    command = [SCRIPTS / "eventcore", "import", path, *options]
    if path != "-":
        os.mkfifo(path)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        try:
            with process.stdin if path == "-" else Path(path).open("wb") as pipe:
                yield process, pipe
        finally:
            process.kill()


def write_and_wait(process: "subprocess.Popen[bytes]", pipe: IO[bytes], content: bytes) -> None:
    """Write to a pipe, then wait until the process has read all of it: what it reads next is silence."""
    pipe.write(content)
    pipe.flush()
    unread = bytearray(4)
    while fcntl.ioctl(pipe, termios.FIONREAD, unread) == 0 and int.from_bytes(unread, sys.byteorder):
        assert process.poll() is None
        time.sleep(0.002)


def interrupt(process: "subprocess.Popen[bytes]") -> Ended:
    """Ctrl-C, once. It takes a fraction of a second; the limit is for machines that are busy otherwise."""
    process.send_signal(signal.SIGINT)
    code = process.wait(timeout=10)
    assert process.stdout is not None
    assert process.stderr is not None
    return Ended(code, process.stdout.read().decode(), process.stderr.read().decode())


def known_rows(ended: Ended) -> int:
    """How many new rows an interrupted import says are stored, in its only line."""
    assert (ended.code, ended.out, ended.err.count("\n")) == (130, "", 1)
    begin, end = "eventcore: interrupted; ", " new rows are known to be stored, and the same command again goes on"
    assert ended.err.startswith(begin)
    assert end in ended.err
    return int(ended.err[len(begin) : ended.err.index(end)].replace(",", ""))


@pytest.mark.parametrize("path", ["-", "pipe.csv"])
def test_ctrl_c_ends_with_130_and_the_same_command_goes_on(
    shell: Command, many_rows: int, workplace: Path, path: str
) -> None:
    """The pipe stays open and says nothing more."""
    lines = Path("many.csv").read_bytes().splitlines(keepends=True)[:45_000]
    with importing(path) as (process, pipe):
        write_and_wait(process, pipe, b"".join(lines))
        known = known_rows(interrupt(process))
    assert known == 4 * BATCH_ROWS  # what was under way is finished and counted
    assert not Path("store.sqlite3-wal").exists()  # the store was closed
    assert shell("verify").out == "all books balance\n"
    ended = shell("import", "many.csv", "--json")
    assert ended.code == 0
    assert ended.json == counts(many_rows, accepted=many_rows - known, duplicates=known)
    assert shell("verify").out == "all books balance\n"


@pytest.mark.parametrize("rows", [5_000, 25_000, 45_000])
def test_ctrl_c_while_rows_come_counts_exactly_what_is_stored(shell: Command, many_rows: int, rows: int) -> None:
    lines = Path("many.csv").read_bytes().splitlines(keepends=True)
    with importing("-") as (process, pipe):
        pipe.write(b"".join(lines[:rows]))
        pipe.flush()
        known = known_rows(interrupt(process))
    assert known in range(0, rows, BATCH_ROWS)
    assert shell("import", "many.csv", "--json").json == counts(many_rows, accepted=many_rows - known, duplicates=known)
    assert shell("verify").out == "all books balance\n"


@pytest.mark.parametrize(("path", "begun"), [("-", "event_id,occ"), ("pipe.csv", ""), ("pipe.csv", "event_id,occ")])
def test_ctrl_c_before_the_header(workplace: Path, path: str, begun: str) -> None:
    with importing(path) as (process, pipe):
        write_and_wait(process, pipe, begun.encode())
        assert known_rows(interrupt(process)) == 0
    assert not Path("store.sqlite3").exists()


@pytest.mark.parametrize("path", ["-", "pipe.csv"])
def test_ctrl_c_while_strict_collects_the_rows(many_rows: int, path: str) -> None:
    with importing(path, "--strict") as (process, pipe):
        write_and_wait(process, pipe, Path("many.csv").read_bytes())
        assert known_rows(interrupt(process)) == 0
    assert not Path("store.sqlite3").exists()


@pytest.mark.parametrize("path", ["-", "pipe.csv"])
def test_ctrl_c_in_a_dry_run(many_rows: int, workplace: Path, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    folder = workplace / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    lines = Path("many.csv").read_bytes().splitlines(keepends=True)
    with importing(path, "--dry-run") as (process, pipe):
        write_and_wait(process, pipe, b"".join(lines[:1_000]))
        while not list(folder.glob("*/rehearsal.sqlite3")):
            assert process.poll() is None
            time.sleep(0.002)
        write_and_wait(process, pipe, b"".join(lines[1_000:5_000]))
        assert interrupt(process) == Ended(130, "", "eventcore: interrupted; nothing is stored\n")
    assert not list(folder.iterdir())
    assert not Path("store.sqlite3").exists()


@pytest.mark.parametrize("size", [60_000, 1_500_000])
def test_sigkill_and_the_same_command_again_ends_with_every_row_once(
    shell: Command, many_rows: int, workplace: Path, size: int
) -> None:
    with subprocess.Popen([SCRIPTS / "eventcore", "import", "many.csv"], stdout=subprocess.DEVNULL) as process:
        assert grown(workplace / "store.sqlite3-wal", size, process)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    ended = shell("import", "many.csv", "--json")
    assert ended.code == 0
    assert ended.json["accepted"] + ended.json["duplicates"] == many_rows
    assert ended.json["accepted"] > 0
    assert shell("verify").out == "all books balance\n"
    top = shell("stats", "top-events", "--from", "2026-01-31", "--to", "2026-01-31", "--json").json["data"]
    assert [(row["count"], row["users"]) for row in top] == [(many_rows, 977)]


def test_errors_never_writes_over_something_else(eventcore: Command) -> None:
    Path("rows.csv").write_text("user_id,event_type,occurred_at\nada,visit,2026-01-31T09:30:00Z\n,visit,x\n")
    eventcore("import", "rows.csv")
    before = Path("store.sqlite3").read_bytes()
    ended = eventcore("import", "rows.csv", "--errors", "store.sqlite3")
    assert ended.code == 2
    assert "something else" in ended.err
    assert Path("store.sqlite3").read_bytes() == before
    for _ in range(2):
        assert eventcore("import", "rows.csv", "--errors", "bad.csv").code == 3
    assert Path("bad.csv").read_text().startswith("_line,_code,")


def test_errors_that_cannot_be_written_end_the_import_in_one_line(eventcore: Command) -> None:
    Path("rows.csv").write_text("user_id,event_type,occurred_at\nada,visit,2026-01-31T09:30:00Z\n,visit,x\n")
    ended = eventcore("import", "rows.csv", "--errors", "/dev/full")
    assert ended.code == 1
    assert "Traceback" not in ended.err
    assert "cannot write /dev/full" in ended.err
