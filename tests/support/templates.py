"""What takes long to make is made once and kept for later runs: fresh data folders, and the npm packages.

Not for what is in them at run time: each server has a copy.
"""

import fcntl
import functools
import hashlib
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.processes import Program, Unavailable, User, new_folder, reachable, run_tool, temporary_folder
from tests.support.programs import URLS

ROOT = Path(__file__).parents[2]
TIMESCALE = Path(__file__).parent / "timescale"

INSTALL_SECONDS = 90.0  # 23 MB from the registry; below the time-out of a test


def postgres_data(program: Program, folder: Path) -> Path:
    """The data folder below the caller's, made from a template if it is new."""
    data = folder / "data"
    if data.exists():
        return data.resolve()
    if program.user is not None and not reachable(folder, program.user):
        elsewhere = new_folder("postgres", program.user) / "data"
        data.symlink_to(elsewhere)
        data = elsewhere
    options = [
        "--username=postgres",
        "--auth=trust",
        "--encoding=UTF8",
        "--no-locale",
        "--no-sync",
        "--no-instructions",
    ]
    initdb = Program(path=program.path.with_name("initdb"), software=program.software, user=program.user)

    def make(path: Path) -> None:
        with temporary_folder("initdb", program.user) as workshop:
            run_tool(initdb, ["-D", str(workshop / "data"), *options])
            shutil.move(workshop / "data", path)

    copy_template("postgres", [program.software.encode(), *map(str.encode, options)], data, make)
    give(data, program.user)
    return data


def copy_template(name: str, made_from: list[bytes], data: Path, make: Callable[[Path], None]) -> None:
    """Copy a fresh data folder, which is made once and kept for later runs: making one takes seconds."""
    digest = hashlib.sha256(b"\0".join(made_from)).hexdigest()[:12]
    with _cache() as cache:
        template = cache / f"{name}-{digest}"
        if not template.exists():
            unfinished = cache / f"{name}-{digest}.unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            make(unfinished)
            unfinished.rename(template)
    shutil.copytree(template, data)


def timescale_modules() -> Path:
    """The folder of the npm packages; installed at the first need, exactly as locked and without their scripts."""
    require_npm()
    modules = installed_modules()
    with _cache():
        if modules.exists():
            return modules
        unfinished = modules.parent.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        for name in ("package.json", "package-lock.json"):
            shutil.copy(TIMESCALE / name, unfinished)
        command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=1"]
        home = Path("~").expanduser()
        if not os.access(home, os.W_OK):  # as of the user nobody, where npm cannot keep what it downloads
            command.append(f"--cache={unfinished / 'downloads'}")
        try:
            subprocess.run(
                command,
                cwd=unfinished,
                check=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=INSTALL_SECONDS,
            )
        except (OSError, subprocess.SubprocessError) as error:
            said = (getattr(error, "output", None) or b"").decode(errors="replace").strip()
            raise Unavailable(
                f"`{' '.join(command)}` in {TIMESCALE} failed, which brings TimescaleDB in WebAssembly; with access to the npm "
                f"registry it works, or set {URLS['timescaledb']}: {error}\n{said}"
            ) from error
        shutil.rmtree(unfinished / "downloads", ignore_errors=True)
        unfinished.rename(modules.parent)
    return modules


def require_npm() -> None:
    """Complain where the packages are not installed and cannot be."""
    if not installed_modules().exists() and shutil.which("npm") is None:
        raise Unavailable(
            "npm is not on PATH, which installs TimescaleDB in WebAssembly; install it, for example with `apt-get install "
            f"npm`, or set {URLS['timescaledb']}"
        )


def installed_modules() -> Path:
    lock = hashlib.sha256((TIMESCALE / "package-lock.json").read_bytes()).hexdigest()[:12]
    return cache_folder() / f"npm-{lock}" / "node_modules"


@contextmanager
def _cache() -> Iterator[Path]:
    """The folder of what outlives a test run, for one process at a time."""
    folder = cache_folder()
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


@functools.cache
def cache_folder() -> Path:
    """In the project, where `make clean` finds it; where that may not be written to, the user's own in /tmp."""
    uid = os.geteuid()
    for folder in (ROOT / ".pytest_cache" / "d" / "servers", Path(tempfile.gettempdir()) / f"eventcore-servers-{uid}"):
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            continue
        status = folder.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == uid and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise Unavailable(f"neither {ROOT} nor {tempfile.gettempdir()} can be written to, where data folders are prepared")


def give(path: Path, user: User | None) -> None:
    """Give a folder and all in it to the user."""
    if user is None:
        return
    os.chown(path, user.uid, user.gid)
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            os.chown(os.path.join(folder, name), user.uid, user.gid, follow_symlinks=False)  # noqa: PTH118
