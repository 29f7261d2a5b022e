"""The server as a process: what only real sockets and real signals show (failures.md F3–F6, bad-input.md "HTTP")."""

import gzip
import json
import os
import pty
import re
import shlex
import signal
import socket
import statistics
import subprocess
import threading
import time
import zlib
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.e2e.http.conftest import COMMAND, Server, read_all
from tests.http_requests import JSON, an_event, as_bytes, raw_post

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]
Start = Callable[..., Server]
HEADERS = {"Content-Type": JSON}


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


def problem_of(answer: bytes) -> dict[str, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head, answer
    return json.loads(body)


def stored(server: Server, event: dict[str, Any]) -> bool:
    return httpx.get(f"{server.url}/events/{event['event_id']}").status_code == 200


def requests_in_log(server: Server, at_least: int) -> list[dict[str, Any]]:
    deadline = time.monotonic() + 5
    while True:
        found = [line for line in server.lines() if line["event"] == "request"]
        if len(found) >= at_least or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


# Starting and stopping


def test_it_says_where_it_listens_with_a_command_that_works_and_prints_nothing(start: Start) -> None:
    server = start(store_url="sqlite:///data/events.sqlite3")
    [line] = [line for line in server.lines() if line["event"] == "listening"]
    assert line["url"] == server.url
    assert line["store"].startswith("sqlite://")
    words = shlex.split(line["example"])
    assert words[0] == "curl"
    response = httpx.post(words[1], headers=HEADERS, content=words[words.index("-d") + 1])
    assert (response.status_code, response.json()["accepted"]) == (202, 1)
    assert "server" not in response.headers
    assert server.stop() == 0
    assert server.process.stdout is not None
    assert server.process.stdout.read() == b""


def test_what_was_accepted_is_there_after_a_restart(start: Start) -> None:
    url = "sqlite:///data/events.sqlite3"
    event = an_event()
    first = start(store_url=url)
    assert httpx.post(f"{first.url}/events", json=[event]).json()["accepted"] == 1
    assert first.stop() == 0
    second = start(store_url=url)
    assert stored(second, event)
    assert httpx.post(f"{second.url}/events", json=[event]).json()["duplicates"] == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_success(start: Start, number: int) -> None:
    server = start()
    with server.connect() as idle:
        began = time.monotonic()
        assert server.stop(number) == 0
        assert time.monotonic() - began < 5
        assert read_all(idle) == b""
    assert "Traceback" not in server.log.read_text()


def test_a_request_under_way_is_answered_after_sigterm_and_new_ones_are_refused(start: Start) -> None:
    server = start(grace_seconds=10)
    event = an_event()
    request = raw_post(as_bytes([event]))
    with server.connect() as connection:
        connection.sendall(request[:-10])
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        with pytest.raises(OSError, match="refused"):
            server.connect()
        connection.sendall(request[-10:])
        answer = read_all(connection)
    assert status_of(answer) == 202
    assert b"connection: close" in answer
    assert server.process.wait(10) == 0


def test_a_body_that_never_comes_does_not_hold_it_up_for_longer_than_the_grace_time(start: Start) -> None:
    server = start(grace_seconds=1)
    with server.connect() as connection:
        connection.sendall(raw_post(as_bytes([an_event()]))[:-10])
        time.sleep(0.3)
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 4
        answer = read_all(connection)
    assert (status_of(answer), problem_of(answer)["code"]) == (503, "stopping")
    assert "Traceback" not in server.log.read_text()


def run(**settings: Any) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EVENTCORE_")}
    environment |= {f"EVENTCORE_{name.upper()}": str(value) for name, value in settings.items()}
    return subprocess.run(COMMAND, capture_output=True, text=True, timeout=30, env=environment)


def test_insecure_lets_it_listen_anywhere(start: Start) -> None:
    server = start(host="0.0.0.0", insecure="true")
    assert httpx.get(f"{server.url}/health/live", headers={"Host": "stats.example"}).status_code == 200


def test_a_port_that_is_taken_is_one_line_and_exit_1(start: Start) -> None:
    server = start()
    ended = run(store_url="memory://", port=server.port)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert len(ended.stderr.splitlines()) == 1
    assert "EVENTCORE_PORT" in ended.stderr


def test_bad_settings_are_one_list_and_exit_2() -> None:
    ended = run(port="x", body_bytes="-1", reporting_zone="Mars/Base", queue_url="")
    assert (ended.returncode, ended.stdout) == (2, "")
    for name in ("PORT", "BODY_BYTES", "REPORTING_ZONE", "QUEUE_URL"):
        assert f"EVENTCORE_{name}" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_store_that_cannot_be_opened_is_named_without_its_password() -> None:
    ended = run(store_url="nosuch://user:hunter2@db.example:5/events?token=hunter2", port=0)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "nosuch://db.example:5/events" in ended.stderr
    assert "hunter2" not in ended.stderr
    assert "Traceback" not in ended.stderr


def test_it_is_readable_on_a_terminal() -> None:
    controller, terminal = pty.openpty()
    environment = os.environ | {"EVENTCORE_STORE_URL": "memory://", "EVENTCORE_PORT": "0", "TERM": "dumb"}
    process = subprocess.Popen(
        COMMAND, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=terminal, env=environment
    )
    try:
        text = ""
        while "curl" not in text:
            text += os.read(controller, 4_096).decode()
        assert re.search(r"eventcore listens on http://127\.0\.0\.1:\d+", text)
        assert "memory://" in text
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=10)
        os.close(controller)
        os.close(terminal)


def test_every_log_line_is_json_and_malformed_requests_leave_no_traceback(start: Start) -> None:
    server = start()
    server.talk(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    server.talk(b"GET / HTTP/9.9\r\n\r\n")
    server.talk(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
    httpx.get(f"{server.url}/nope")
    server.stop()
    assert len(server.lines()) >= 3
    assert "Traceback" not in server.log.read_text()


# Bodies


def test_a_slow_body_is_408_and_others_are_served_meanwhile(start: Start) -> None:
    server = start(body_timeout_seconds=1.5)
    slow_answers: list[bytes] = []

    def drip() -> None:
        with server.connect() as connection:
            connection.sendall(raw_post(b"", "Content-Length: 1000", length=False))
            connection.settimeout(0.1)
            try:
                for _ in range(100):
                    connection.sendall(b" ")
                    time.sleep(0.05)
                    try:
                        slow_answers.append(connection.recv(65_536) + read_all(connection))
                        return
                    except TimeoutError:
                        continue
            except OSError as error:
                slow_answers.append(repr(error).encode())

    dripping = threading.Thread(target=drip)
    dripping.start()
    with httpx.Client(base_url=server.url) as client:
        for _ in range(20):
            began = time.monotonic()
            assert client.post("/events", json=[an_event()]).status_code == 202
            assert time.monotonic() - began < 1
            time.sleep(0.03)
    dripping.join(10)
    assert [status_of(answer) for answer in slow_answers] == [408]
    assert problem_of(slow_answers[0])["code"] == "body_timeout"


def test_a_content_length_larger_than_the_body_is_408(start: Start) -> None:
    server = start(body_timeout_seconds=0.5)
    event = an_event()
    body = as_bytes([event])
    answer = server.talk(raw_post(body, f"Content-Length: {len(body) + 1}", length=False))
    assert (status_of(answer), problem_of(answer)["code"]) == (408, "body_timeout")
    assert not stored(server, event)


def test_a_client_that_cuts_in_mid_body_leaves_one_line_and_nothing_else(start: Start) -> None:
    server = start()
    events = [an_event() for _ in range(3)]
    body = as_bytes(events)
    for reset in (False, True):
        connection = server.connect()
        connection.sendall(raw_post(body)[:-5])
        time.sleep(0.2)
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        connection.close()
    lines = requests_in_log(server, 2)
    assert [line["status"] for line in lines] == [499, 499]
    assert not any(stored(server, event) for event in events)
    assert "Traceback" not in server.log.read_text()
    assert [line for line in server.lines() if line["level"] == "error"] == []


@pytest.mark.parametrize(
    "headers",
    [
        ["Content-Length: -1"],
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: 5x"],
        ["Content-Length: 0x5"],
        ["Content-Length: 99999999999999999999999"],
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked, gzip"],
        ["Bad Header: x", "Content-Length: 2"],
        ["X: a\0b", "Content-Length: 2"],
    ],
)
def test_a_head_that_could_mean_two_things_is_400(server: Server, headers: list[str]) -> None:
    answer = server.talk(raw_post(b"[]", *headers, length=False))
    assert status_of(answer) == 400
    assert problem_of(answer)["code"] == "invalid_http"
    assert len(re.findall(rb"HTTP/1\.1 [0-9]", answer)) == 1


def test_a_chunked_body_is_accepted_and_its_trailers_change_nothing(server: Server) -> None:
    body = as_bytes([an_event()])
    chunks = b"".join(b"%x;ext=1\r\n%s\r\n" % (len(piece), piece) for piece in (body[:7], body[7:]))
    request = raw_post(b"", "Transfer-Encoding: chunked", "Connection: close", length=False)
    answer = server.talk(request + chunks + b"0\r\nHost: evil.example\r\nX-Request-ID: evil\r\n\r\n")
    assert status_of(answer) == 202
    assert b"evil" not in answer


def test_a_chunk_that_is_none_is_400(server: Server) -> None:
    answer = server.talk(raw_post(b"", "Transfer-Encoding: chunked", length=False) + b"zz\r\n[]\r\n0\r\n\r\n")
    assert (status_of(answer), problem_of(answer)["code"]) == (400, "invalid_http")
    assert httpx.get(f"{server.url}/health/live").status_code == 200
    assert "Traceback" not in server.log.read_text()


def test_a_body_over_the_limit_is_413_and_the_sender_gets_to_see_it(server: Server) -> None:
    piece = b"%x\r\n%s\r\n" % (65_536, b" " * 65_536)
    for head in (
        raw_post(b"", "Transfer-Encoding: chunked", length=False),
        raw_post(b"", f"Content-Length: {40 * 1024 * 1024}", length=False),
    ):
        with server.connect() as connection:
            connection.sendall(head)
            sent = 0
            try:
                for _ in range(400):
                    connection.sendall(piece)
                    sent += len(piece)
            except OSError:
                pass
            answer = read_all(connection)
        assert (status_of(answer), problem_of(answer)["code"]) == (413, "body_too_large"), sent


def test_a_refused_body_is_not_read_for_ever(server: Server) -> None:
    sent = 0
    with server.connect() as connection:
        connection.sendall(raw_post(b"", "Content-Length: 99999999999", length=False))
        began = time.monotonic()
        try:
            while time.monotonic() - began < 10:
                sent += connection.send(b" " * 4_096)
                time.sleep(0.01)
        except OSError:
            pass
        assert time.monotonic() - began < 8, sent


def test_a_sender_that_asks_first_is_told_413_before_it_sends(server: Server) -> None:
    answer = server.talk(raw_post(b"", "Expect: 100-continue", "Content-Length: 99999999", length=False))
    assert status_of(answer) == 413
    body = as_bytes([an_event()])
    answer = server.talk(raw_post(body, "Expect: 100-continue", "Connection: close"))
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202 ")


def bomb(unfolded_mib: int) -> bytes:
    """A gzip member of so many MiB of spaces, made in no time: the same flushed block again and again."""
    packer = zlib.compressobj(9, wbits=31)
    head = packer.compress(b" ") + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(b" " * 2**20) + packer.flush(zlib.Z_FULL_FLUSH)
    return head + block * unfolded_mib + packer.flush()


def test_a_gzip_bomb_of_5_gb_is_413_within_the_memory_bound(server: Server) -> None:
    body = bomb(5_120)
    assert len(body) < 10 * 1024 * 1024
    unpacker = zlib.decompressobj(wbits=31)
    assert unpacker.decompress(body, 2**20) == b" " * 2**20
    with httpx.Client(base_url=server.url, headers=HEADERS) as client:
        assert client.post("/events", content=gzip.compress(as_bytes([an_event()])), headers={"Content-Encoding": "gzip"}).status_code == 202  # fmt: skip
        server.forget_peak()
        before = server.peak_kib()
        for _ in range(3):
            response = client.post("/events", content=body, headers={"Content-Encoding": "gzip"})
            assert (response.status_code, response.json()["code"]) == (413, "body_too_large")
        grown = server.peak_kib() - before
    assert grown < 60 * 1024, f"{grown} KiB"


@pytest.mark.parametrize("piece", [b"1,", b"NaN,", b"[],"])
def test_one_event_of_megabytes_is_refused_within_the_memory_bound(server: Server, piece: bytes) -> None:
    inside = piece * (4 * 1024 * 1024 // len(piece)) + b"1"
    large = as_bytes(an_event(properties="?")).replace(b'"?"', b'{"a":[' + inside + b"]}")
    good = an_event()
    with httpx.Client(base_url=server.url, headers=HEADERS, timeout=40) as client:
        client.get("/health/live")
        server.forget_peak()
        before = server.peak_kib()
        for batch in (b"[" + as_bytes(good) + b"," + large + b"]", b"[" + as_bytes(good) + b",[" + inside + b"]]"):
            answer = client.post("/events", content=batch).json()
            [problem] = answer["errors"]
            assert (problem["index"], answer["rejected"]) == (1, 1)
            assert problem["code"] in ("event_too_large", "not_an_object")
        grown = server.peak_kib() - before
    assert grown < 60 * 1024, f"{grown} KiB"
    assert stored(server, good)


# Heads


@pytest.mark.parametrize(
    "lines",
    [
        [b"X-Large: " + b"x" * 65_536],
        [b"X-%d: y" % number for number in range(1_000)],
        [b"X" * 65_536 + b": y"],
        [b"Cookie: " + b"a=b; " * 8_000],
    ],
    ids=["64 KiB value", "1,000 headers", "64 KiB name", "cookie"],
)
def test_a_head_over_the_limit_is_431(server: Server, lines: list[bytes]) -> None:
    answer = server.talk(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n" + b"\r\n".join(lines) + b"\r\n\r\n")
    assert (status_of(answer), problem_of(answer)["code"]) == (431, "head_too_large")
    assert "Traceback" not in server.log.read_text()


def test_a_target_over_the_limit_is_431(server: Server) -> None:
    answer = server.talk(b"GET /" + b"a" * 65_536 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert status_of(answer) == 431


def test_a_head_within_the_limit_is_answered(server: Server) -> None:
    lines = [b"X-%d: %s" % (number, b"y" * 300) for number in range(90)]
    answer = server.talk(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n" + b"\r\n".join(lines) + b"\r\n\r\n")
    assert status_of(answer) == 200


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Endless: ", b"x" * 65_536),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"X: y\r\n" * 10_000),
        (b"GET /", b"a" * 65_536),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n", b"x" * 65_536),
        (raw_post(b"", "Transfer-Encoding: chunked", length=False) + b"2\r\n[]\r\n0\r\n", b"X: y\r\n" * 10_000),
        (raw_post(b"", "Transfer-Encoding: chunked", length=False) + b"2\r\n[]\r\n0\r\nX: ", b"x" * 65_536),
        (raw_post(b"", "Transfer-Encoding: chunked", length=False) + b"2;", b"x" * 65_536),
    ],
    ids=["value", "headers", "target", "name", "trailers", "trailer", "chunk extension"],
)
def test_an_endless_head_or_trailer_is_cut_and_eats_no_memory(server: Server, head: bytes, piece: bytes) -> None:
    httpx.get(f"{server.url}/health/live")
    server.forget_peak()
    before = server.peak_kib()
    sent = 0
    with server.connect() as connection:
        try:
            connection.sendall(head)
            while sent < 200 * 1024 * 1024:
                connection.sendall(piece)
                sent += len(piece)
        except OSError:
            pass
    assert server.peak_kib() - before < 20 * 1024
    assert sent < 200 * 1024 * 1024, "it was read for ever"
    assert httpx.get(f"{server.url}/health/live").status_code == 200
    assert "Traceback" not in server.log.read_text()


def test_a_large_body_and_the_next_head_in_one_piece_are_two_requests(server: Server) -> None:
    first = raw_post(as_bytes([an_event() for _ in range(1_500)]))
    answer = server.talk(first + raw_post(as_bytes([an_event()]), "Connection: close"))
    assert [int(status) for status in re.findall(rb"HTTP/1.1 (\d+)", answer)] == [202, 202]
    assert re.findall(rb'"accepted":(\d+)', answer) == [b"1500", b"1"]


def test_garbage_behind_a_request_is_never_taken_for_its_answer(server: Server) -> None:
    event = an_event()
    answer = server.talk(raw_post(as_bytes([event])) + b"\x00garbage\r\n\r\n")
    statuses = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+)", answer)]
    assert statuses in ([], [202], [202, 400]), answer


def test_a_slow_second_request_behind_a_pipelined_first_is_answered(start: Start) -> None:
    server = start()
    second = raw_post(as_bytes([an_event()]), "Connection: close")
    with server.connect() as connection:
        connection.sendall(raw_post(as_bytes([an_event()])) + second[:-10])
        time.sleep(2.5)
        connection.sendall(second[-10:])
        answer = read_all(connection)
    assert [int(status) for status in re.findall(rb"HTTP/1\.1 (\d+)", answer)] == [202, 202]


# Connections


def test_a_slow_head_is_cut(start: Start) -> None:
    server = start(head_timeout_seconds=0.5)
    with server.connect() as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: loc")
        answer = read_all(connection, 3)
    assert (status_of(answer), problem_of(answer)["code"]) == (408, "head_timeout")


def test_a_connection_that_says_nothing_is_closed_also_between_requests(start: Start) -> None:
    server = start(head_timeout_seconds=0.5, idle_timeout_seconds=1)
    with server.connect() as silent:
        began = time.monotonic()
        assert read_all(silent, 5) == b""
        assert time.monotonic() - began < 3
    with server.connect() as idle:
        idle.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        began = time.monotonic()
        assert status_of(read_all(idle, 5)) == 200
        assert 0.5 < time.monotonic() - began < 3


def test_500_idle_connections_do_not_stop_the_service(start: Start) -> None:
    server = start(head_timeout_seconds=600, idle_timeout_seconds=600)  # nobody is let go during the test
    idle = [server.connect() for _ in range(500)]
    times = []
    try:
        with httpx.Client(base_url=server.url, timeout=30) as client:
            for _ in range(20):
                began = time.monotonic()
                assert client.post("/events", json=[an_event()]).status_code == 202
                times.append(time.monotonic() - began)
        # One answer may be late because the machine is busy; idle connections would hold up all of them.
        assert statistics.median(times) < 1
        for connection in idle:
            connection.setblocking(False)
            with pytest.raises(BlockingIOError):  # still open, with nothing to read
                connection.recv(1)
    finally:
        for connection in idle:
            connection.close()


def test_a_batch_that_is_slow_to_read_does_not_stop_others(server: Server) -> None:
    ints = b"1," * 1_000_000 + b"1"
    hostile = as_bytes([an_event(properties={"a": "?"})]).replace(b'"?"', b"[" + ints + b"]")
    answers: list[httpx.Response] = []
    with httpx.Client(base_url=server.url, timeout=40) as client:
        client.get("/health/live")
        posting = threading.Thread(
            target=lambda: answers.append(
                httpx.post(f"{server.url}/events", content=hostile, headers=HEADERS, timeout=40)
            )
        )
        posting.start()
        slowest = 0.0
        while posting.is_alive():
            began = time.monotonic()
            assert client.get("/health/live").status_code == 200
            slowest = max(slowest, time.monotonic() - began)
        posting.join()
    assert answers[0].status_code == 422
    assert slowest < 0.5


def test_an_upgrade_does_not_lose_a_body(start: Callable[..., Server]) -> None:
    server = start()
    body = b"[]"
    answer = server.talk(
        b"POST /events HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"upgrade_not_supported" in answer


def test_clients_that_leave_their_pipelined_requests_leave_no_traceback(start: Callable[..., Server]) -> None:
    server = start()
    request = b"GET /stats/dau?from=2026-01-01&to=2026-03-01 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for end in (b"", b"garbage\r\n\r\n"):
        for _ in range(20):
            with server.connect() as connection:
                connection.sendall(request * 5 + end)
    assert server.talk(request.replace(b"Host", b"Connection: close\r\nHost")).startswith(b"HTTP/1.1 200")
    assert server.stop() == 0
    assert "Traceback" not in server.log.read_text()
