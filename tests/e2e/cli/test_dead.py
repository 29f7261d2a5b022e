"""``eventcore dead``: list, show, replay and drop, on the file itself and through a server."""

import asyncio
import csv
import io
import json
import os
import pty
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from threading import Thread
from typing import Any
from uuid import UUID

import msgspec
import pytest

import eventcore as library
from eventcore.events import Event
from eventcore.strategies import a_chunk, a_death, an_event, an_id
from tests.e2e.cli.conftest import SCRIPTS, Ended

Command = Callable[..., Ended]

pytestmark = pytest.mark.e2e

IDS = [str(UUID(bytes=an_id(number))) for number in range(1, 6)]
MALLORYS = IDS[1::2]
ROWS = "".join(
    f'{event_id},2026-01-31T09:30:00Z,{"mallory" if event_id in MALLORYS else "ada"},visit,"{{""n"":12.50}}"\n'
    for event_id in IDS
)


def alter(statement: str) -> None:
    with closing(sqlite3.connect("store.sqlite3", timeout=30)) as database:
        database.execute(statement)
        database.commit()


def mend() -> None:
    alter("DROP TRIGGER no_mallory")


@pytest.fixture
def dead(eventcore: Command, workplace: Path) -> list[str]:
    """Two of five imported events are dead, because the table of events got a rule of its own; gives their ids."""
    eventcore("migrate")
    alter(
        "CREATE TRIGGER no_mallory BEFORE INSERT ON events "
        "WHEN NEW.user_key = (SELECT user_key FROM users WHERE user_id = 'mallory') "
        "BEGIN SELECT RAISE(ABORT, 'mallory may not come in'); END"
    )
    Path("rows.csv").write_text("event_id,occurred_at,user_id,event_type,properties_json\n" + ROWS)
    assert eventcore("import", "rows.csv", "--json").json["accepted"] == 5
    return MALLORYS


def bury(*events: Event, project: str = "default") -> None:
    async def append() -> None:
        async with await library.open(f"sqlite:///{Path.cwd()}/store.sqlite3") as core:
            await core.store.append([a_chunk(dead=[a_death(event) for event in events], project=project)])

    asyncio.run(append())


@pytest.fixture
def server(workplace: Path, dead: list[str]) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with subprocess.Popen(
        [SCRIPTS / "eventcore", "serve", "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            for _ in range(200):
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    assert process.poll() is None, "the server did not start"
                    time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


def ids_left(eventcore: Command) -> list[str]:
    return [letter["event_id"] for letter in eventcore("dead", "list", "--json").json["data"]]


# Looking


def test_the_list_is_a_table_for_people(eventcore: Command, dead: list[str]) -> None:
    ended = eventcore("dead", "list")
    lines = ended.out.splitlines()
    assert (ended.code, ended.err, len(lines)) == (0, "", 3)
    assert lines[0].split("  ")[0] == "event id"
    assert [line.split()[:4] for line in lines[1:]] == [
        [event_id, "mallory", "visit", "2026-01-31T09:30:00Z"] for event_id in dead
    ]


def test_no_dead_letters_are_said(eventcore: Command) -> None:
    eventcore("migrate")
    assert eventcore("dead", "list") == Ended(0, "there are no dead letters\n", "")
    assert eventcore("dead", "list", "--format", "jsonl") == Ended(0, "", "")
    header = "event_id,user_id,event_type,occurred_at,properties,received_at,import_id,reason,attempts,died_at,name\n"
    assert eventcore("dead", "list", "--format", "csv") == Ended(0, header, "")
    assert eventcore("dead", "list", "--json").json["data"] == []


def test_programs_get_json_lines_and_csv(eventcore: Command, dead: list[str]) -> None:
    document = eventcore("dead", "list", "--json").json
    lines = eventcore("dead", "list", "--format", "jsonl").out.splitlines()
    assert [json.loads(line) for line in lines] == document["data"]
    assert '"properties":{"n":12.50}' in lines[0]
    rows = list(csv.DictReader(io.StringIO(eventcore("dead", "list", "--format", "csv").out)))
    assert [row["event_id"] for row in rows] == dead
    assert [row["properties"] for row in rows] == ['{"n":12.50}'] * 2


def test_the_list_says_how_to_go_on(eventcore: Command, dead: list[str]) -> None:
    first = eventcore("dead", "list", "--limit", "1", "--format", "csv")
    assert first.out.splitlines()[1].split(",")[0] == dead[0]
    option, name = first.err.split()[-2:]
    second = eventcore("dead", "list", "--limit", "1", option, name)
    assert (second.out.splitlines()[1].split()[0], second.err) == (dead[1], "")
    whole = eventcore("dead", "list", "--limit", "1", "--json")
    assert (whole.json["meta"]["next"], whole.err) == (name, "")


def test_show_tells_everything_of_one_event(eventcore: Command, dead: list[str]) -> None:
    ended = eventcore("dead", "show", dead[0])
    values = dict(line.split("  ", 1) for line in ended.out.splitlines()[1:])
    assert ended.code == 0
    assert values["event id"].strip() == dead[0]
    assert values["properties"].strip() == '{"n":12.50}'
    assert values["attempts"].strip() == "1"
    assert eventcore("dead", "show", dead[0].upper(), "--json").json["data"][0]["event_id"] == dead[0]


def test_show_of_an_event_that_is_not_dead_is_exit_1(eventcore: Command, dead: list[str]) -> None:
    for arguments in ((IDS[0],), (dead[0], "--project", "other")):
        ended = eventcore("dead", "show", *arguments)
        assert (ended.code, ended.out, ended.err.count("\n")) == (1, "", 1)


STRANGE = [
    msgspec.structs.replace(an_event(event_id=10), event_id=b"fifteen bytes.."),
    msgspec.structs.replace(an_event(event_id=11), user_id="\x1b[31mred\x9b0m\u202e", event_type="a\0b\r\nc"),
    msgspec.structs.replace(an_event(event_id=12), user_id="\ud800", properties='{"a":\n"\ud800"}'),
    msgspec.structs.replace(an_event(event_id=13), properties="no\x1bJSON", occurred_us=2**64),
]


@pytest.mark.parametrize("form", ["table", "json", "jsonl", "csv"])
def test_strange_letters_are_shown_and_steer_no_terminal(eventcore: Command, form: str) -> None:
    bury(*STRANGE)
    ended = eventcore("dead", "list", "--format", form)
    assert (ended.code, ended.err) == (0, "")
    shown = [b"fifteen bytes..".hex(), *(str(UUID(bytes=an_id(number))) for number in (11, 12, 13))]
    assert [event_id for event_id in shown if event_id not in ended.out] == []
    if form in ("table", "json"):
        assert "\x1b" not in ended.out
    for event_id in shown:
        ended = eventcore("dead", "show", event_id)
        assert ended.code == 0
        assert ended.out.replace("\n", "").isprintable()
        if form == "json":
            assert eventcore("dead", "drop", event_id, "--yes").code == 0


@pytest.mark.parametrize("form", ["table", "json", "jsonl", "csv"])
def test_on_a_terminal_nothing_is_raw(workplace: Path, form: str) -> None:
    bury(STRANGE[1])
    shown = on_a_terminal("dead", "list", "--format", form)[1].decode()
    escape = "\\u001b" if form.startswith("json") else "\\x1b"
    assert f"{escape}[31mred" in shown.replace("\r\n", "").replace(" ", "")
    assert [char for char in ("\x1b[31m", "\x9b", "\u202e", "\0") if char in shown] == []


# Replaying


def test_what_is_refused_again_is_exit_3_and_what_is_mended_exit_0(eventcore: Command, dead: list[str]) -> None:
    ended = eventcore("dead", "replay", "--all")
    assert (ended.code, ended.err) == (3, "")
    assert ended.out == "0 stored, 0 duplicates, 0 conflicts, 2 refused again, 0 missing\n"
    assert ids_left(eventcore) == dead
    mend()
    ended = eventcore("dead", "replay", dead[0])
    assert ended == Ended(0, "1 stored, 0 duplicates, 0 conflicts, 0 refused again, 0 missing\n", "")
    ended = eventcore("dead", "replay", *dead, "--json")
    assert (ended.code, ended.json) == (
        3,
        {"stored": 1, "duplicates": 0, "conflicts": 0, "refused": 0, "missing": 1},
    )
    assert eventcore("dead", "replay", "--all").code == 0
    assert eventcore("verify").code == 0
    [row] = eventcore("stats", "top-events", "--from", "2026-01-31", "--to", "2026-01-31", "--json").json["data"]
    assert (row["count"], row["users"]) == (5, 2)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("jsonl", '{"stored":0,"duplicates":0,"conflicts":0,"refused":2,"missing":0}\n'),
        ("csv", "stored,duplicates,conflicts,refused,missing\n0,0,0,2,0\n"),
    ],
)
def test_an_outcome_has_every_format(eventcore: Command, dead: list[str], form: str, expected: str) -> None:
    assert eventcore("dead", "replay", "--all", "--format", form) == Ended(3, expected, "")


def test_importing_again_beside_a_dead_letter_is_harmless(eventcore: Command, dead: list[str]) -> None:
    assert eventcore("import", "rows.csv", "--json").json == {
        "rows": 5,
        "accepted": 2,
        "duplicates": 3,
        "conflicts": 0,
        "rejected": 0,
    }
    assert ids_left(eventcore) == dead
    assert eventcore("verify").code == 0


# Dropping


def test_dropping_needs_a_yes_where_nobody_can_be_asked(shell: Command, eventcore: Command, dead: list[str]) -> None:
    ended = shell("dead", "drop", "--all", stdin=b"y\n")
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert "--yes" in ended.err
    assert ids_left(eventcore) == dead


def test_dropping_is_for_ever_and_the_events_may_come_again(eventcore: Command, dead: list[str]) -> None:
    ended = eventcore("dead", "drop", dead[0], IDS[0], "--yes")
    assert ended == Ended(3, "1 dropped, 1 missing\n", "")
    assert ids_left(eventcore) == dead[1:]
    assert eventcore("dead", "drop", "--all", "-y", "--json").json == {"dropped": 1, "missing": 0}
    mend()
    assert eventcore("import", "rows.csv", "--json").json["accepted"] == 2
    assert eventcore("verify").code == 0


def test_the_help_says_why_there_is_a_new_epoch(eventcore: Command) -> None:
    told = " ".join(eventcore("dead", "drop", "--help").out.split())
    assert "new epoch" in told
    assert "sent again" in told


def on_a_terminal(*arguments: str, typed: bytes = b"", interrupt: bool = False) -> tuple[int, bytes]:
    """Run a command whose streams are a terminal on which somebody types; gives its exit code and what is shown."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "dumb", "COLUMNS": "400"}
    process = subprocess.Popen(
        [SCRIPTS / "eventcore", *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environment,
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    shown = bytearray()

    def read() -> None:
        while True:
            try:
                piece = os.read(ours, 4_096)
            except OSError:  # the last one with the terminal open has gone
                return
            shown.extend(piece)

    reader = Thread(target=read)
    reader.start()
    try:
        if typed or interrupt:
            while b"[y/N]" not in shown:
                assert process.poll() is None, bytes(shown)
                time.sleep(0.02)
        if typed:
            os.write(ours, typed)
        if interrupt:
            process.send_signal(signal.SIGINT)
        code = process.wait(60)
        reader.join(60)
    finally:
        process.kill()
        os.close(ours)
    return code, bytes(shown)


@pytest.mark.parametrize(
    ("typed", "code", "is_dropped"),
    [(b"y\n", 0, True), (b"YES\n", 0, True), (b"n\n", 1, False), (b"\n", 1, False), (b"\x04", 1, False)],
)
def test_on_a_terminal_dropping_is_asked_for(
    eventcore: Command, dead: list[str], typed: bytes, code: int, is_dropped: bool
) -> None:
    ended, shown = on_a_terminal("dead", "drop", "--all", typed=typed)
    assert ended == code, shown
    assert b"project default" in shown
    assert ids_left(eventcore) == ([] if is_dropped else dead)


def test_ctrl_c_at_the_question_drops_nothing(eventcore: Command, dead: list[str]) -> None:
    code, shown = on_a_terminal("dead", "drop", "--all", interrupt=True)
    assert code == 130
    assert b"Traceback" not in shown
    assert ids_left(eventcore) == dead


# What cannot be meant


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["replay"], "--all"),
        (["drop", "--yes"], "--all"),
        (["replay", "--all", IDS[1]], "--all"),
        (["drop", "--yes", "--all", IDS[1]], "--all"),
        (["replay", "nonsense"], "event id"),
        (["drop", "nonsense"], "event id"),
        (["show", "nonsense"], "event id"),
        (["show", "../events"], "event id"),
        (["show", ""], "event id"),
        (["show"], "EVENT_ID"),
        (["list", "--limit", "0"], "limit"),
        (["list", "--after", "x"], "after"),
        (["list", "--project", "No"], "project"),
        (["replay", "--all", "--project", "No"], "project"),
        (["list", "--format", "xml"], "xml"),
        (["list", "--url", "ftp://127.0.0.1"], "--url"),
        (["list", "--url", "http://["], "--url"),
        (["bury"], "bury"),
        (["replay", *[IDS[1]] * 1_001], "1000"),
    ],
)
def test_what_cannot_be_meant_is_one_line_and_exit_2(
    eventcore: Command, dead: list[str], arguments: list[str], named: str
) -> None:
    ended = eventcore("dead", *arguments)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert named in ended.err
    assert ids_left(eventcore) == dead


@pytest.mark.parametrize("arguments", [["list"], ["show", IDS[1]], ["replay", "--all"], ["drop", "--all", "--yes"]])
def test_no_store_is_said_and_none_is_made(eventcore: Command, arguments: list[str]) -> None:
    ended = eventcore("dead", *arguments)
    assert (ended.code, ended.out, ended.err.count("\n")) == (1, "", 1)
    assert list(Path().iterdir()) == []


# Through a server


def test_a_server_is_asked_the_same_and_answers_the_same(eventcore: Command, dead: list[str], server: str) -> None:
    for question in (["list"], ["list", "--limit", "1"], ["show", dead[0]]):
        for form in ("table", "json", "jsonl", "csv"):
            direct = eventcore("dead", *question, "--format", form)
            assert direct.code == 0
            assert eventcore("dead", *question, "--format", form, "--url", server) == direct

    refused = eventcore("dead", "replay", "--all", "--url", server)
    assert refused == Ended(3, "0 stored, 0 duplicates, 0 conflicts, 2 refused again, 0 missing\n", "")
    mend()
    assert eventcore("dead", "replay", dead[0], "--url", server + "/").code == 0
    assert eventcore("dead", "drop", dead[1], IDS[0], "--yes", "--url", server, "--json") == Ended(
        3, '{"dropped":1,"missing":1}\n', ""
    )
    assert eventcore("dead", "list", "--url", server).out == "there are no dead letters\n"

    gone = eventcore("dead", "show", dead[0], "--url", server)
    assert (gone.code, gone.out, gone.err.count("\n")) == (1, "", 1)
    refused = eventcore("dead", "list", "--limit", "0", "--url", server)
    assert (refused.code, refused.out, refused.err.count("\n")) == (2, "", 1)


def test_strange_letters_come_through_a_server(eventcore: Command, server: str) -> None:
    bury(*STRANGE, project="strange")
    for form in ("table", "json", "jsonl", "csv"):
        direct = eventcore("dead", "list", "--project", "strange", "--format", form)
        assert direct.code == 0
        assert eventcore("dead", "list", "--project", "strange", "--format", form, "--url", server) == direct


def test_no_server_is_exit_5(eventcore: Command) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        for arguments in (["list"], ["show", IDS[1]], ["replay", "--all"], ["drop", "--all", "--yes"]):
            ended = eventcore("dead", *arguments, "--url", url)
            assert (ended.code, ended.out, ended.err.count("\n")) == (5, "", 1)


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (403, b'{"message":"this key may not replay"}', 4),
        (503, b'{"message":"the store does not answer"}', 5),
        (500, b"", 1),
        (200, b"<html>hello", 1),
        (200, b'{"stored":1}', 1),
        (302, b"", 1),
    ],
)
def test_what_a_server_says_decides_the_exit_code(eventcore: Command, status: int, body: bytes, code: int) -> None:
    asked: list[bytes] = []

    def answer(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            asked.append(connection.recv(65_536))
            connection.sendall(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = Thread(target=answer, args=[listener])
        thread.start()
        ended = eventcore("dead", "replay", "--all", "--url", f"http://127.0.0.1:{listener.getsockname()[1]}")
        thread.join()
    assert (ended.code, ended.out, ended.err.count("\n")) == (code, "", 1)
    assert asked[0].startswith(b"POST /dead-events/replay?project=default HTTP/1.1")
    if b"message" in body:
        message: Any = json.loads(body)["message"]
        assert message in ended.err
