"""The server stack of docker-compose.yml, without Docker: its commands, environments and health checks on real servers.

The wheel is built from what the Dockerfile copies, and installed beside the packages of requirements/runtime.txt, and no
others. What compose would fill in is filled in; then host names and ports give way to those of the test's servers, on
127.0.0.1. NATS reads deploy/nats.conf itself, Redis runs its own command line, PostgreSQL has the settings of its own.
Not shown: images, volumes, limits and networks. See docs/deploy.md.
"""

import csv
import io
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, date, datetime, timedelta
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
import yaml
from packaging.requirements import Requirement

from tests.oracles import statistics as oracle
from tests.support import servers
from tests.support.processes import HOST, OwnServer, Port, Program
from tests.support.programs import find_nats, find_postgres, find_redis

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
SERVICES: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")

# Letters and digits, as .env.example asks for, and such that a careless reader takes them for numbers.
SECRETS = {"POSTGRES_PASSWORD": "1234567", "REDIS_PASSWORD": "1e10", "NATS_PASSWORD": "12345"}

EVENTS = 3_000
FIRST, LAST, ZONE = date(2025, 1, 1), date(2025, 1, 11), "Europe/Kyiv"  # ten UTC days; the last ends on the eleventh
WAIT_SECONDS = 45.0
LOOK_SECONDS = 0.1


def interpolated(value: Any) -> Any:
    """A value of the compose file as compose hands it on."""
    if isinstance(value, list):
        return [interpolated(item) for item in value]
    if isinstance(value, dict):
        return {key: interpolated(item) for key, item in value.items()}
    if not isinstance(value, str):
        return value
    return re.sub(r"\$(?:\$|\{(\w+)(?::\?[^}]*)?\})", lambda found: SECRETS[found[1]] if found[1] else "$", value)


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def wait_until(well: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not well():
        assert time.monotonic() < deadline, f"not within {WAIT_SECONDS:g} s: {what}"
        time.sleep(LOOK_SECONDS)


# --- the image ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `eventcore` and `python`, as /opt/eventcore/bin of the image."""
    folder = tmp_path_factory.mktemp("image")
    wheel = build_wheel(build_context(folder / "context"), folder / "dist")
    venv.create(folder / "opt", with_pip=False, symlinks=True)
    python = folder / "opt" / "bin" / "python"
    site = Path(
        subprocess.check_output([python, "-c", "import sysconfig as s; print(s.get_path('purelib'))"], text=True)[:-1]
    )
    link_locked_packages(site)
    pip("--python", python, "install", "--no-compile", "--no-deps", wheel)
    packages = ("eventcore", "adapters", "entrypoints")
    for package in packages:
        assert (site / package / "__init__.py").is_file()
    found = subprocess.check_output(
        [
            python,
            "-I",
            "-c",
            f"import {', '.join(packages)}; print({', '.join(f'{name}.__file__' for name in packages)})",
        ],
        text=True,
        cwd=folder,
    )
    assert all(path.startswith(f"{site}{os.sep}") for path in found.split()), found
    return python.parent


def build_context(context: Path) -> Path:
    """A folder with what the Dockerfile copies into its first stage, and nothing else."""
    for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE):
        *sources, target = line.split()
        for source in sources:
            place = context / target / (Path(source).name if target.endswith("/") else "")
            place.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / source, place)
    return context


def build_wheel(context: Path, dist: Path) -> Path:
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", dist, context)
    (wheel,) = dist.glob("*.whl")
    return wheel


def pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--no-input", "--disable-pip-version-check", *arguments]
    done = subprocess.run(
        command, env={**os.environ, "PIP_NO_INDEX": "1"}, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr


def link_locked_packages(site: Path) -> None:
    """What requirements/runtime.txt would install, from the environment of the tests."""
    lock = (ROOT / "requirements" / "runtime.txt").read_text(encoding="utf-8")
    for line in re.findall(r"^(\S+==.*?) *\\?$", lock, re.MULTILINE):
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        found = metadata.distribution(requirement.name)
        assert requirement.specifier.contains(found.version), f"{line}, but {found.version} is installed here"
        for name in {file.parts[0] for file in found.files or ()} - {"..", "__pycache__"}:
            if not (site / name).exists():
                (site / name).symlink_to(Path(str(found.locate_file(name))))


# --- its servers ----------------------------------------------------------------------------------------------------


class Places:
    """Where the servers of the compose file really are.

    Attributes:
        replaced: a text of the compose file → what stands for it here.
    """

    def __init__(self, **replaced: str) -> None:
        self.replaced = replaced

    def __call__(self, text: str) -> str:
        for stated, real in self.replaced.items():
            text = text.replace(stated, real)
        return text


@contextmanager
def postgres() -> Iterator[dict[str, str]]:
    """PostgreSQL with the settings, the role, the password and the database of the compose file."""
    service = interpolated(SERVICES["timescaledb"])
    words = service["command"]
    settings = dict(word.split("=", 1) for flag, word in pairwise(words) if flag == "-c")
    with servers.needed("postgres"), servers.postgres(own_process=True, settings=settings) as server:
        assert isinstance(server, OwnServer)
        # Who has no password does not get in; the tests' own servers trust everybody.
        rules = "host all postgres 127.0.0.1/32 trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
        (server.data / "pg_hba.conf").write_text(rules, encoding="utf-8")
        environment = service["environment"]
        user, database = environment["POSTGRES_USER"], environment["POSTGRES_DB"]
        run_sql(
            server.url,
            f"CREATE ROLE {user} LOGIN PASSWORD '{environment['POSTGRES_PASSWORD']}'",
            f"CREATE DATABASE {database} OWNER {user}",
            "SELECT pg_reload_conf()",
        )
        ready = interpolated(service["healthcheck"]["test"])[1:]
        pg_isready = find_postgres().path.with_name(ready[0])
        if pg_isready.exists():
            subprocess.run([pg_isready, *ready[1:], "--port", str(server.port)], check=True, timeout=10)
        yield {"timescaledb:5432": f"{HOST}:{server.port}"}


@contextmanager
def timescaledb() -> Iterator[dict[str, str]]:
    """TimescaleDB in WebAssembly, which has one database and knows no passwords."""
    with servers.needed("timescaledb"), servers.timescaledb(own_process=True) as server:
        real = urlsplit(server.url)
        stated = urlsplit(interpolated(SERVICES["api"]["environment"]["EVENTCORE_STORE_URL"]))
        yield {f"{stated.netloc}{stated.path}": f"{real.netloc}{real.path}"}


def run_sql(url: str, *statements: str) -> None:
    import asyncio

    async def run() -> None:
        connection = await asyncpg.connect(url)
        for statement in statements:
            await connection.execute(statement)
        await connection.close()

    asyncio.run(run())


@contextmanager
def redis(folder: Path) -> Iterator[dict[str, str]]:
    """Redis as its command line says, with a port and an address added."""
    service = interpolated(SERVICES["redis"])
    shell, flag, line = service["command"]
    with servers.needed("redis"), Port() as port:
        found = find_redis()
        (folder / "bin").mkdir()
        (folder / "bin" / "redis-server").symlink_to(found.path)  # it may be Valkey
        environment = {**service["environment"], "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
        kind, check = service["healthcheck"]["test"]
        assert kind == "CMD-SHELL"
        check = check.replace("redis-cli", f"redis-cli -h {HOST} -p {port.number}")
        client = found.path.with_name("redis-cli")
        if client.exists():
            (folder / "bin" / "redis-cli").symlink_to(client)
        server = own_server(
            "redis",
            folder,
            port,
            environment,
            [shell, flag, f"{line} --bind {HOST} --port {port.number} --dir {shlex.quote(str(folder))}"],
            lambda _: (
                subprocess.run([shell, flag, check], env=environment, check=False).returncode == 0
                if client.exists()
                else redis_says(port.number, "PING") == "+PONG"
            ),
        )
        yield from lend(server, {"redis:6379": f"{HOST}:{port.number}"})


def redis_says(port: int, command: str) -> str:
    """Its answer to a command; the first one to be heard is that the password is right."""
    try:
        with socket.create_connection((HOST, port), timeout=5) as connection, connection.makefile("rw") as lines:
            lines.write(f"AUTH {SECRETS['REDIS_PASSWORD']}\r\n{command}\r\n")
            lines.flush()
            return lines.readline().strip() if lines.readline().strip() == "+OK" else ""
    except OSError:
        return ""


@contextmanager
def nats(folder: Path) -> Iterator[dict[str, str]]:
    """NATS with deploy/nats.conf; only its folder, its address and its ports are others."""
    service = interpolated(SERVICES["nats"])
    with servers.needed("nats"), Port() as port, Port() as monitor:
        configuration = (ROOT / "deploy" / "nats.conf").read_text(encoding="utf-8")
        for stated, real in {
            "port: 4222": f'listen: "{HOST}:{port.number}"',
            "127.0.0.1:8222": f"{HOST}:{monitor.number}",
            "store_dir: /data": f'store_dir: "{folder / "data"}"',
        }.items():
            assert configuration.count(stated) == 1
            configuration = configuration.replace(stated, real)
        (folder / "nats.conf").write_text(configuration, encoding="utf-8")
        (url,) = (word for word in service["healthcheck"]["test"] if word.startswith("http://"))
        url = url.replace("8222", str(monitor.number))
        server = own_server(
            "nats",
            folder,
            port,
            service["environment"],
            [
                str(find_nats().path),
                *(str(folder / "nats.conf") if "/" in word else word for word in service["command"]),
            ],
            lambda _: status_of(url) == 200,
        )
        yield from lend(server, {"nats:4222": f"{HOST}:{port.number}"})


def own_server(
    name: str,
    folder: Path,
    port: Port,
    environment: dict[str, str],
    command: Sequence[str],
    answers: Callable[[int], bool],
) -> OwnServer:
    """A server of the compose file, with the environment that stands there."""
    variables = [f"{variable}={shlex.quote(value)}" for variable, value in environment.items()]
    line = f"export {' '.join(variables)}; exec {shlex.join(command)}"
    return OwnServer(
        name=name,
        url="",
        program=Program(path=Path("/bin/sh"), software=shlex.join(command)),
        arguments=["-c", line],
        port=port,
        folder=folder,
        data=folder,
        answers=answers,
    )


def lend(server: OwnServer, replaced: dict[str, str]) -> Iterator[dict[str, str]]:
    try:
        server.start()
        yield replaced
    finally:
        server.close()


# --- its processes --------------------------------------------------------------------------------------------------


class Container:
    """What would run in a container: a service's command in its environment, in an empty folder.

    Args:
        name: of the service.
        programs: the folder of `eventcore`.
        folder: empty; a log is kept beside it.
        places: where the servers are.
        ports: the port that the compose file states → the one here.
    """

    def __init__(self, name: str, programs: Path, folder: Path, places: Places, ports: dict[int, int]) -> None:
        self.service = interpolated(SERVICES[name])
        self.folder = folder / name
        self.folder.mkdir()
        self.log = folder / f"{name}.log"
        self.ports = ports
        stated = {key: places(value) for key, value in self.service["environment"].items()}
        self.environment = {
            "PATH": f"{programs}:/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            **stated,
            "EVENTCORE_HOST": HOST,
            "EVENTCORE_PORT": str(ports.get(8000, 0)),
            "EVENTCORE_WORKER_PORT": str(ports.get(8001, 0)),
        }
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Another command in there, as `docker compose exec` would."""
        return subprocess.run(
            command,
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def command(self) -> list[str]:
        (entrypoint,) = re.findall(r"^ENTRYPOINT (.+)$", DOCKERFILE, re.MULTILINE)
        return [*json.loads(entrypoint), *self.service["command"]]

    def start(self) -> None:
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.command(),
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def healthy(self) -> bool:
        """What the health check of the compose file says; a process that has ended fails the test."""
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        kind, *test = self.service["healthcheck"]["test"]
        assert kind == "CMD"
        for stated, real in self.ports.items():
            test = [word.replace(str(stated), str(real)) for word in test]
        return self.run(*test).returncode == 0

    def stop(self) -> int:
        """Its exit code after SIGTERM, within the time that the compose file gives it."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(seconds(self.service["stop_grace_period"]))

    def end(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)


class Stack:
    """The processes of the compose file around one set of servers."""

    def __init__(self, programs: Path, folder: Path, places: Places, api_port: int, worker_port: int) -> None:
        self.migrate = Container("migrate", programs, folder, places, {})
        self.api = Container("api", programs, folder, places, {8000: api_port})
        self.worker = Container("worker", programs, folder, places, {8001: worker_port})
        self.api_url = f"http://{HOST}:{api_port}"
        self.worker_url = f"http://{HOST}:{worker_port}"
        self.redis_port = int(places.replaced["redis:6379"].rpartition(":")[2])

    def up(self) -> None:
        """Start in the order of `depends_on`, and wait until all are healthy."""
        for said in ("made a store", "nothing to do"):  # it runs at every start of the stack
            migrated = self.migrate.run(*self.migrate.command())
            assert migrated.returncode == 0, migrated.stderr
            assert said in migrated.stdout
        self.worker.start()
        self.api.start()
        for container in (self.api, self.worker):
            wait_until(container.healthy, f"{container.log.name}: {container.log.read_text()}")

    def pending(self) -> int:
        return int(get(f"{self.api_url}/stats/dau?from={FIRST}&to={LAST}")["meta"]["pending"])

    def booked(self, *columns: str) -> int:
        today = datetime.now(UTC).date()
        books = get(f"{self.api_url}/stats/ingestion?from={today - timedelta(days=1)}&to={today}")["data"]
        return sum(book[column] for book in books for column in columns)


@pytest.fixture(params=[postgres, timescaledb], ids=["postgres", "timescaledb"])
def stack(request: pytest.FixtureRequest, programs: Path, tmp_path: Path) -> Iterator[Stack]:
    """The whole stack, up and healthy."""
    with ExitStack() as ends:
        folders = [tmp_path / "redis", tmp_path / "nats", tmp_path / "containers"]
        for folder in folders:
            folder.mkdir()
        places = Places(
            **ends.enter_context(request.param()),
            **ends.enter_context(redis(folders[0])),
            **ends.enter_context(nats(folders[1])),
        )
        api_port, worker_port = ends.enter_context(Port()), ends.enter_context(Port())
        stack = Stack(programs, folders[2], places, api_port.number, worker_port.number)
        for container in (stack.api, stack.worker):
            ends.callback(container.end)
        stack.up()
        yield stack


def status_of(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.loads(answer.read())


def post(url: str, events: Sequence[dict[str, Any]]) -> dict[str, Any]:
    request = urllib.request.Request(
        url, data=json.dumps(events).encode(), headers={"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 202
        document: dict[str, Any] = json.loads(answer.read())
        return document


def metric(url: str, line: str) -> float:
    """A sample of a /metrics page."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as answer:
        samples = dict(text.rsplit(" ", 1) for text in answer.read().decode().splitlines() if not text.startswith("#"))
    return float(samples[line])


def sample_events(container: Container) -> list[dict[str, Any]]:
    made = container.run("eventcore", "sample", "--events", str(EVENTS), "--days", "10", "--start", str(FIRST))
    assert made.returncode == 0, made.stderr
    return [
        {
            "properties" if key == "properties_json" else key: json.loads(value) if key == "properties_json" else value
            for key, value in row.items()
        }
        for row in csv.DictReader(io.StringIO(made.stdout))
    ]


# --- tests ----------------------------------------------------------------------------------------------------------


def test_the_stack_counts_every_event_once_and_ends_well(stack: Stack) -> None:
    events = sample_events(stack.api)
    batches = [events[first : first + 1_000] for first in range(0, EVENTS, 1_000)]
    none = {"accepted": 0, "duplicates": 0, "conflicts": 0, "rejected": 0, "errors": []}

    first = [post(f"{stack.api_url}/events", batch) for batch in batches]
    assert first == [none | {"accepted": len(batch)} for batch in batches]
    wait_until(lambda: stack.pending() == 0, "all events are stored")
    again = [post(f"{stack.api_url}/events", batch) for batch in batches]
    # What the cache does not tell in time is accepted, and the store finds out.
    assert [answer["accepted"] + answer["duplicates"] for answer in again] == [len(batch) for batch in batches]
    assert any(answer["duplicates"] for answer in again)
    wait_until(lambda: stack.booked("duplicates", "duplicate_at_store") == EVENTS, "all repeats are booked")
    assert stack.booked("stored") == EVENTS

    asked = f"from={FIRST}&to={LAST}&tz={ZONE}"
    assert get(f"{stack.api_url}/stats/dau?{asked}")["data"] == oracle.dau(events, first=FIRST, last=LAST, tz=ZONE)
    assert get(f"{stack.api_url}/stats/top-events?{asked}&limit=3")["data"] == oracle.top_events(
        events, first=FIRST, last=LAST, tz=ZONE, limit=3
    )
    assert redis_says(stack.redis_port, "DBSIZE") != ":0"
    assert metric(stack.api_url, "events_ingested_total") == sum(answer["accepted"] for answer in first + again)
    assert metric(stack.worker_url, 'worker_events_total{result="stored"}') == EVENTS
    verified = stack.api.run("eventcore", "verify")
    assert (verified.returncode, verified.stdout) == (0, "all books balance\n"), verified.stderr

    assert [stack.api.stop(), stack.worker.stop()] == [0, 0]
    for container in (stack.api, stack.worker):
        lines = [json.loads(line) for line in container.log.read_text().splitlines()]  # EVENTCORE_LOG_FORMAT: json
        assert [line for line in lines if line["level"] not in ("info", "warning") or "unknown" in line["event"]] == []
        assert not any(f":{secret}@" in container.log.read_text() for secret in SECRETS.values())
        assert [*container.folder.iterdir()] == []  # its root file system is read-only


@pytest.mark.parametrize("stack", [postgres], indirect=True, ids=["postgres"])
def test_the_commands_of_make_work_in_the_container_of_the_api(stack: Stack) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    commands = {
        target: shlex.split(line)
        for target, line in re.findall(
            r"^([a-z-]+):.*\n\tdocker compose exec (?:-T )?api (.+)$", makefile, re.MULTILINE
        )
    }
    assert {*commands} == {"health", "import-sample"}

    health = stack.api.run(*(word.replace(":8000", f":{stack.api.ports[8000]}") for word in commands["health"]))
    assert json.loads(health.stdout)["status"] == "ok", health.stderr
    imported = stack.api.run(*(word.replace("--events 100000", "--events 2000") for word in commands["import-sample"]))
    assert "2,000 accepted" in imported.stdout, imported.stderr


@pytest.mark.parametrize("password", ["12345", "12k", "1e10", "true", "0x1f", "a1b2c3"])
def test_nats_takes_every_password_that_is_letters_and_digits(
    password: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SECRETS, "NATS_PASSWORD", password)
    with nats(tmp_path) as replaced:
        host, _, port = replaced["nats:4222"].partition(":")
        login = json.dumps({"user": "eventcore", "pass": password, "verbose": True})
        with socket.create_connection((host, int(port)), timeout=5) as connection, connection.makefile("rw") as lines:
            lines.readline()
            lines.write(f"CONNECT {login}\r\n")
            lines.flush()
            assert lines.readline().strip() == "+OK"


def test_a_small_team_needs_nothing_but_a_database(programs: Path, tmp_path: Path) -> None:
    with postgres() as replaced, Port() as port:
        alone = Container("api", programs, tmp_path, Places(**replaced), {8000: port.number})
        for setting in ("EVENTCORE_DEDUP_URL", "EVENTCORE_QUEUE_URL"):
            del alone.environment[setting]
        assert alone.run("eventcore", "migrate").returncode == 0
        alone.start()
        try:
            wait_until(alone.healthy, "the API is healthy")
            events = sample_events(alone)[:100]
            answers = [post(f"http://{HOST}:{port.number}/events", events) for _ in range(2)]
            assert [(answer["accepted"], answer["duplicates"]) for answer in answers] == [(100, 0), (0, 100)]
            assert alone.stop() == 0
        finally:
            alone.end()


def test_what_the_image_compiles_at_its_end_can_be_imported(programs: Path, tmp_path: Path) -> None:
    commands = re.findall(r'(?<=[ \n])python (-c "import [^"]+")', DOCKERFILE)

    assert commands
    for command in commands:
        done = subprocess.run([programs / "python", *shlex.split(command)], cwd=tmp_path, timeout=60, check=False)
        assert done.returncode == 0
