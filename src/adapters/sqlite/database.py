"""The file: its URL, how it is opened, checked and migrated, and what its driver's errors mean.

Everything here blocks; threads are the business of `writer` and `reader`. Not here: what is written and read.
"""

import errno
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from time import monotonic, sleep, time_ns
from typing import Any
from urllib.parse import unquote

import msgspec

from adapters.sqlite.statements import migrations, repeated, split, statements
from eventcore.errors import Kind, StoreError
from eventcore.projection import BrokenRow

APPLICATION_ID = 0x65766E74
"""``evnt``: marks a file as ours where SQLite keeps such marks."""

DAMAGED = "damaged"
"""The code of the error for a file that is no store or is broken."""

PAGE_BYTES = 4_096
"""With 8 KiB, writing is 6 % faster up to 2 million events, but the log takes twice the bytes from there on."""

BUSY_SECONDS = 5.0
"""How long a lock of another process is waited for."""

WRITER_CACHE_KIB = 64 * 1024
"""More does not help writing: a group walks over the whole ledger, which no cache of a fair size holds."""

READER_CACHE_KIB = 8 * 1024
LOG_FILE_BYTES = 256 * 1024 * 1024
"""To what the log is cut when it begins anew; cutting what is needed again soon costs 6 %."""

_REPEATS = (2_000, 400, 80, 16, 4, 1)
"""Rows of one INSERT: each length is a statement of its own that SQLite compiles once. 2,000 rows of ten values stay
below 32,766 variables, the default bound of SQLite."""

_LOOK_AGAIN_SECONDS = 0.01
_STEPS_BETWEEN_LOOKS = 100_000  # of SQLite's machine: about a millisecond
_PREFIX = "sqlite:///"
_URL_HELP = "write sqlite:///relative/path or sqlite:////absolute/path"


def file_of(url: str) -> Path:
    """The file that a URL names, as an absolute path.

    Raises:
        StoreError: the URL names no file.
    """
    name = unquote(url.removeprefix(_PREFIX))
    if not url.startswith(_PREFIX) or "\0" in name or "?" in url or "#" in url:
        raise _invalid(f"this is not the URL of a file; {_URL_HELP} (in it, ? is %3F and # is %23)")
    if name in ("", ":memory:"):
        raise _invalid(f"a SQLite store is a file; {_URL_HELP}, or memory:// for one that is gone at the end")
    return Path(name).absolute()


def _invalid(message: str) -> StoreError:
    return StoreError(Kind.INVALID, "invalid_url", message)


class Database:
    """A connection that runs statements by name; used by one thread at a time.

    Args:
        path: the file.
        cache_kib: memory for its pages.
        make: whether to make the file where there is none.
    """

    def __init__(self, path: Path, *, cache_kib: int, make: bool = False) -> None:
        self._path = path
        self._connection = sqlite3.connect(
            f"{path.as_uri()}?mode={'rwc' if make else 'rw'}",
            uri=True,
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            self.pragma("synchronous = FULL")  # each COMMIT waits for the disk: that is what 202 promises
            self.pragma("wal_autocheckpoint = 0")  # the writer's business, when nobody waits for an answer
            self.pragma(f"journal_size_limit = {LOG_FILE_BYTES}")
            self.pragma(f"cache_size = -{cache_kib}")
            self.pragma("trusted_schema = OFF")
            self._file = _identity(path)
            self._log: tuple[int, int] | None = None
            self.check_time: Callable[[], None] = _no_deadline
            self.deadline: float | None = None
        except BaseException:
            self._connection.close()
            raise

    @property
    def is_current(self) -> bool:
        """Whether the path still leads to the file that was opened; what is written to a deleted file is lost."""
        try:
            return _identity(self._path) == self._file
        except OSError:
            return False

    @property
    def is_reached(self) -> bool:
        """Whether what was just committed is in the file and the log that the path leads to."""
        try:
            log = _identity(self._path.with_name(self._path.name + "-wal"))
        except OSError:
            return False
        known, self._log = self._log or log, log
        return log == known and self.is_current

    def first(self, name: str, /, **values: Any) -> Any:
        """The first row of a statement, None when there is none."""
        return self._connection.execute(statements()[name], values).fetchone()

    def all(self, name: str, /, **values: Any) -> list[Any]:
        """All rows of a statement, one step each: for few rows, or where speed does not matter."""
        return self._connection.execute(statements()[name], values).fetchall()

    def run(self, name: str, /, **values: Any) -> int:
        """Run a statement that changes rows; says how many."""
        return self._connection.execute(statements()[name], values).rowcount

    def insert(self, name: str, columns: Sequence[Sequence[Any]]) -> None:
        """Run a one-row INSERT for many rows, given as columns, in few statements."""
        width = len(columns)
        rows = len(columns[0]) if columns else 0
        begin = 0
        for repeats in _REPEATS:
            while rows - begin >= repeats:
                values: list[Any] = [None] * (repeats * width)
                for at, column in enumerate(columns):
                    values[at::width] = column[begin : begin + repeats]
                self._connection.execute(repeated(name, repeats), values)
                begin += repeats

    def pragma(self, name: str) -> Any:
        """The value of a pragma."""
        row = self._connection.execute(f"PRAGMA {name}").fetchone()
        return row[0] if row else None

    def teach(self, name: str, arguments: int, function: Callable[..., Any]) -> None:
        """Let statements of this connection call a function that gives the same for the same arguments."""
        self._connection.create_function(name, arguments, function, deterministic=True)

    @contextmanager
    def transaction(self, begin: str, *, end: str = "COMMIT") -> Iterator[None]:
        """Begin, then end, or roll back when the body raises."""
        self._connection.execute(begin)
        try:
            yield
            self._connection.execute(end)
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Undo what the body does to the file, whether it raises or not; the transaction around it goes on."""
        self._connection.execute("SAVEPOINT undone")
        try:
            yield
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK TO undone")
                self._connection.execute("RELEASE undone")

    def interrupt(self) -> None:
        """End the statement that runs in another thread, if one does, with an error there."""
        self._connection.interrupt()

    @contextmanager
    def until(self, deadline: float, error: StoreError) -> Iterator[None]:
        """Raise the error in a statement of the body, or in `check_time`, once the monotonic clock is past this."""

        def check_time() -> None:
            if monotonic() > deadline:
                raise error

        self.check_time = check_time
        self.deadline = deadline
        self._connection.set_progress_handler(lambda: monotonic() > deadline, _STEPS_BETWEEN_LOOKS)
        try:
            yield
        except sqlite3.OperationalError as interrupted:
            if interrupted.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
                raise error from interrupted
            raise
        finally:
            self._connection.set_progress_handler(None, 0)
            self.check_time = _no_deadline
            self.deadline = None

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open.

        After `transaction` only when not even rolling back was possible; inside it not when an error ended it.
        """
        return self._connection.in_transaction

    def checkpoint(self, mode: str, *, wait_seconds: float = 0) -> int:
        """Move pages from the log into the file; says how many pages the log holds.

        Args:
            mode: of SQLite: PASSIVE waits for nobody; RESTART for readers too, and writers wait for it.
            wait_seconds: how long to wait for them at most.
        """
        self.pragma(f"busy_timeout = {wait_seconds * 1_000:.0f}")
        try:
            _, log_pages, _ = self._connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        finally:
            self.pragma(f"busy_timeout = {BUSY_SECONDS * 1_000:.0f}")
        return int(log_pages)

    def execute(self, sql: str) -> sqlite3.Cursor:
        """Run a statement that has no name: a step of a migration or of a check."""
        return self._connection.execute(sql)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _no_deadline() -> None:
    """There is as much time as it takes."""


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def open_writer(path: Path, *, make: bool = False) -> Database:
    """A connection that may write."""
    return Database(path, cache_kib=WRITER_CACHE_KIB, make=make)


def open_reader(path: Path) -> Database:
    """A connection that cannot write."""
    database = Database(path, cache_kib=READER_CACHE_KIB)
    database.pragma("query_only = ON")
    return database


def prepare(path: Path) -> None:
    """Create the file with its folders and schema, or check that it is a store of our schema version.

    Raises:
        StoreError: of kind schema when it is none, with the command that helps.
    """
    with driver_errors(path):
        _make_folder(path.parent)
        database = open_writer(path, make=True)
        try:
            if _is_new(database):
                _migrate(database)
            found = _found_version(database, path)
            if found != len(migrations()):
                raise wrong_version(path, found)
            _use_wal(database)
        finally:
            database.close()


def migrate_file(path: Path, *, check: bool) -> tuple[int, int]:
    """Bring a file to our schema version, or only look.

    Returns:
        The version found, 0 for a new file, and the version wanted.

    Raises:
        StoreError: of kind schema when the file is no store, or newer than this code; unavailable when there is none,
            and none can be made.
    """
    wanted = len(migrations())
    with driver_errors(path):
        if check and not path.exists():
            _require_place(path)
            return 0, wanted
        _make_folder(path.parent)
        database = open_writer(path, make=True)
        try:
            found = 0 if _is_new(database) else _found_version(database, path)
            if not check:
                if found > wanted:
                    raise wrong_version(path, found)
                found = _migrate(database)
            return found, wanted
        finally:
            database.close()


def wrong_version(path: Path, found: int) -> StoreError:
    """The error for a file whose schema is older or newer than this code."""
    wanted = len(migrations())
    if found < wanted:
        return StoreError(
            Kind.SCHEMA,
            "schema_older",
            f"{path.name} has schema version {found}, this eventcore needs {wanted}: stop what uses the file, copy it, "
            "then run `eventcore migrate`",
        )
    return StoreError(
        Kind.SCHEMA,
        "schema_newer",
        f"{path.name} has schema version {found}, this eventcore knows {wanted}: install the eventcore that wrote it "
        "or a newer one; `eventcore migrate --check` shows both versions",
    )


def _require_place(path: Path) -> None:
    """Find out, without a trace, whether a file can be made; what the disk has room for is not known before."""
    above = next(one for one in path.parents if one.exists())
    if not above.is_dir():
        reason = "what should be its folder is a file"
    elif os.statvfs(above).f_flag & os.ST_RDONLY:
        reason = "its file system is read-only"
    elif not os.access(above, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        reason = "this user may not write in its folder"
    else:
        return
    raise StoreError(
        Kind.UNAVAILABLE, "cannot_make", f"{path.name} cannot be made: {reason}; change that, or name another file"
    )


def _make_folder(folder: Path) -> None:
    # A new folder is only durable when the folder above it is; SQLite sees to the files in it.
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for created in missing:
        above = os.open(created.parent, os.O_RDONLY)
        try:
            os.fsync(above)
        finally:
            os.close(above)


def _is_new(database: Database) -> bool:
    return bool(database.pragma("application_id") == 0 and database.first("tables")[0] == 0)


def _found_version(database: Database, path: Path) -> int:
    if database.pragma("application_id") != APPLICATION_ID:
        raise StoreError(
            Kind.SCHEMA,
            "not_a_store",
            f"{path.name} is a SQLite file, but not an eventcore store: name another file, and run `eventcore migrate` "
            "to make a store there",
        )
    row = database.first("setting", key="schema_version")
    _, epoch, *_ = database.first("head", known_delta=0)  # touches the tables that everything else needs
    if row is None or not row[0].isdigit() or epoch is None:
        raise Damaged
    return int(row[0])


def _use_wal(database: Database) -> None:
    # Two that make the same file at once may each hold what the other needs; SQLite then does not wait but says so.
    deadline = monotonic() + BUSY_SECONDS
    found = None
    while found is None:
        try:
            found = database.pragma("journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or monotonic() > deadline:
                raise
            sleep(_LOOK_AGAIN_SECONDS)
    if found != "wal":
        raise StoreError(
            Kind.UNSUPPORTED,
            "no_wal",
            f"SQLite cannot use its write-ahead log here (journal_mode stays {found}): put the store on a local disk",
        )


def _migrate(database: Database) -> int:
    # The page size is fixed when the first page is written, which switching to the log does.
    database.pragma(f"page_size = {PAGE_BYTES}")
    _use_wal(database)
    with database.transaction("BEGIN EXCLUSIVE"):
        # Looked at again: another process may have been faster.
        found = 0 if _is_new(database) else int(database.first("setting", key="schema_version")[0])
        for script in migrations()[found:]:
            for statement in split(script):
                database.execute(statement)
        if found == 0:
            database.pragma(f"application_id = {APPLICATION_ID}")
            database.run("put_setting", key="epoch", value=token_hex(16))
            database.run("put_setting", key="created_us", value=str(time_ns() // 1_000))
            database.run("put_setting", key="projection_zone", value="UTC")
        database.run("put_setting", key="schema_version", value=str(max(found, len(migrations()))))
    return found


# What goes wrong

_UNAVAILABLE = {
    sqlite3.SQLITE_BUSY: ("locked", f"is locked by another process for more than {BUSY_SECONDS:g} s; send again"),
    sqlite3.SQLITE_LOCKED: ("locked", "is locked; send again"),
    sqlite3.SQLITE_READONLY: ("read_only", "cannot be written: look at its permissions and those of its folder"),
    sqlite3.SQLITE_CANTOPEN: ("cannot_open", "cannot be opened: look at its permissions and those of its folder"),
    sqlite3.SQLITE_PERM: ("cannot_open", "cannot be opened: look at its permissions and those of its folder"),
    sqlite3.SQLITE_IOERR: ("io_error", "cannot be read or written: look at the disk; send again"),
}
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR})
_REFUSED = frozenset({sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_RANGE})
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


class Damaged(Exception):
    """What was read cannot have been written by us."""


@contextmanager
def driver_errors(path: Path) -> Iterator[None]:
    """Turn what the driver and the file system raise into `StoreError`; nothing else lets a driver's error out."""
    try:
        yield
    except (Damaged, BrokenRow, msgspec.MsgspecError, sqlite3.Error, OSError, OverflowError, UnicodeError) as error:
        raise _translated(error, path) from error


def _translated(error: Exception, path: Path) -> StoreError:
    if isinstance(error, BrokenRow):
        return StoreError(
            Kind.SCHEMA,
            DAMAGED,
            f"the precomputed activity of {path.name} is damaged: `eventcore verify` tells where, "
            "`eventcore rebuild` makes it anew",
        )
    if isinstance(error, Damaged | msgspec.MsgspecError):
        return _damaged(path)
    if isinstance(error, OSError):
        if error.errno in _NO_ROOM:
            return _full(path)
        return StoreError(Kind.UNAVAILABLE, "cannot_open", f"{path.name} cannot be opened: {error.strerror}")
    extended = getattr(error, "sqlite_errorcode", None)
    if extended is None:
        return StoreError(Kind.DATA, "refused_data", "the store cannot hold one of these values")
    code = extended & 0xFF
    # A full disk also shows when the index of the log grows, and there only as an input/output error.
    if code == sqlite3.SQLITE_FULL or extended == sqlite3.SQLITE_IOERR_SHMSIZE:
        return _full(path)
    if code in _REFUSED:
        return StoreError(Kind.DATA, "refused_data", "the store cannot hold one of these values")
    if code in _DAMAGED:
        return _damaged(path)
    name, message = _UNAVAILABLE.get(code, ("unavailable", "does not answer; send again"))
    return StoreError(Kind.UNAVAILABLE, name, f"{path.name} {message}")


def _damaged(path: Path) -> StoreError:
    return StoreError(
        Kind.SCHEMA,
        DAMAGED,
        f"{path.name} is not an eventcore store, or it is damaged: restore it from a backup, or name another file and "
        "run `eventcore migrate` to make a store there",
    )


def _full(path: Path) -> StoreError:
    return StoreError(Kind.FULL, "disk_full", f"there is no room left for {path.name}: make room, then send again")


def discard(database: Database) -> None:
    """Close a connection that may be broken."""
    with suppress(sqlite3.Error):
        database.close()
