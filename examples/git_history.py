"""Turn the history of a git repository into events: one per commit, as the CSV that `eventcore import` reads.

    .venv/bin/python examples/git_history.py . | .venv/bin/eventcore import -

and the retention of eventcore's statistics is that of the contributors. The type of an event is what its commit did:
merge (several parents), empty (no file changed), and else what it did to most of its files: modify, add, delete or
rename; of several that are even, the first in this order. A file counts as renamed when its content stayed the same
byte for byte, so that the answer does not hang on a guess. A contributor is a hash of the author's
e-mail address (the one that .mailmap names), so no address gets into the data; but who knows an address can
compute its hash, unless you give a --salt.

It needs git and Python's standard library. Commits come parents first, one at a time: git keeps the list of them,
this program keeps one.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from typing import TextIO

HEADER = ("event_id", "occurred_at", "user_id", "event_type", "properties_json")

COMMITS = uuid.uuid5(uuid.NAMESPACE_URL, "https://git-scm.com/docs/git-commit")
"""The namespace of the event ids: a commit is the same event, whichever clone it comes from."""

CHANGES = {"M": "modify", "T": "modify", "A": "add", "D": "delete", "R": "rename"}
"""What git's letters mean, in the order in which they win when they are even. T is a file that became a link."""

# A line of each commit. The date is the raw one, not %aI: for that, git ends the whole run at a date that is
# before 1970 in its own offset, and it writes the offsets that do not exist as if they did.
RECORD = "%x00%H%x00%P%x00%ad%x00%aE%x00%aN"
RAW_DATE = re.compile(rb"(\d+) ([+-])(\d\d)(\d\d)")
RAW_CHANGE = re.compile(rb":\d+ \d+ \S+ \S+ ([A-Z])\d*\t")
SHORTSTAT = re.compile(rb" (\d+) files? changed(?:, (\d+) insertions?\(\+\))?(?:, (\d+) deletions?\(-\))?\n")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# Nothing in the user's or the repository's settings may change what comes out.
LOG_OPTIONS = (
    "--date-order",
    "--reverse",
    "--encoding=UTF-8",
    "--date=raw",
    f"--format={RECORD}",
    "--raw",  # its lines begin with what happened; the file names behind may hold anything, but no line end
    "--shortstat",
    "--diff-algorithm=myers",
    "--no-relative",
    "--find-renames=100%",
    "--no-show-signature",
)
HEAD_ONLY = ("HEAD",)
ALL_BRANCHES = ("--exclude=refs/notes/*", "--exclude=refs/stash", "--all")

# Set around a git hook; they would name another repository than the one asked for.
HOOK_VARIABLES = frozenset({"GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY"})

DONE, GIT_FAILED, NOT_USABLE, INTERRUPTED = 0, 1, 2, 130  # exit codes


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """What is read of one commit, still as bytes: a history holds every encoding there is."""

    commit_id: bytes
    parents: int
    raw_date: bytes
    email: bytes
    name: bytes
    letters: str = ""
    files: int = 0
    insertions: int = 0
    deletions: int = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the events of one repository to standard output.

    Args:
        arguments: As on the command line, without the program's name; default: those of this process.

    Returns:
        The exit code: 0, or 1 when git failed on the way, 2 when there is no repository, 130 after Ctrl-C.
    """
    options = read_arguments(arguments)
    try:
        return export(options.repository, ALL_BRANCHES if options.all else HEAD_ONLY, options.salt, sys.stdout)
    except BrokenPipeError:  # the reader, say `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains when it closes it
        return DONE
    except KeyboardInterrupt:
        return INTERRUPTED


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Write one event per commit of a git repository, as the CSV that `eventcore import -` reads.",
        epilog="exit codes: 0 done (also without any commit), 1 git failed on the way, 2 not a repository",
    )
    parser.add_argument(
        "repository",
        nargs="?",
        default=".",
        help="a work tree, a folder in it, or a bare repository (default: here)",
    )
    parser.add_argument(
        "--all", action="store_true", help="all branches and tags (default: what HEAD has in its history)"
    )
    parser.add_argument(
        "--salt",
        default="",
        help="hashed with each e-mail address, so that nobody else can compute a contributor's hash; keep to one "
        "salt, because the same commits under another one are conflicts",
    )
    return parser.parse_args(arguments)


def export(repository: str, revisions: Sequence[str], salt: str, out: TextIO) -> int:
    """Write header and events.

    Args:
        repository: Path of the repository.
        revisions: Whose history, as arguments of `git log`.
        salt: Goes into the hash of every contributor.
        out: Where to.

    Returns:
        The exit code.
    """
    environment = {name: value for name, value in os.environ.items() if name not in HOOK_VARIABLES}
    environment["LC_ALL"] = "C"
    git = ["git", "-c", "log.showRoot=true", "-C", repository]
    try:
        head = subprocess.run(  # noqa: S603 - no shell, and git takes what follows -C for nothing but a path
            [*git, "rev-parse", "--verify", "--quiet", "HEAD"], env=environment, capture_output=True, check=False
        )
    except FileNotFoundError:
        say("git is not installed")
        return NOT_USABLE
    if head.returncode not in (0, 1):
        say(complaint(head.stderr))
        return NOT_USABLE

    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEADER)
    if head.returncode == 1 and revisions == HEAD_ONLY:
        out.flush()
        say("no commit: the branch that HEAD names has none; --all takes every branch")
        return DONE
    with tempfile.TemporaryFile() as errors:
        log = subprocess.Popen(  # noqa: S603 - as above
            [*git, "log", *LOG_OPTIONS, *revisions, "--"], env=environment, stdout=subprocess.PIPE, stderr=errors
        )
        assert log.stdout is not None
        skipped = 0
        try:
            # The last commit is complete when git says that it has come to its end, the others when the next begins.
            for commit in read_commits(log.stdout, is_complete=lambda: log.wait() == 0):
                row = describe(commit, salt)
                if row is None:
                    skipped += 1
                else:
                    writer.writerow(row)
            out.flush()
        except BaseException:
            log.kill()
            raise
        finally:
            log.stdout.close()
            log.wait()
        if skipped:
            say(f"skipped {skipped} commits whose date is missing, before 1970 or in an offset that does not exist")
        if log.returncode:
            errors.seek(0)
            say(complaint(errors.read()))
            return GIT_FAILED
    return DONE


def read_commits(lines: Iterable[bytes], *, is_complete: Callable[[], bool]) -> Iterator[Commit]:
    """Read the output of `git log`: for each commit a line that begins with NUL, then its --raw and --shortstat if any.

    Args:
        lines: The output.
        is_complete: Asked at the end of the output: whether that is all there is. If not, the last commit may be
            without its numbers, and is left out.

    Yields:
        The commits, in the same order.
    """
    commit = None
    letters: list[str] = []
    for line in lines:
        if line.startswith(b"\0"):
            if commit:
                yield commit
            letters.clear()
            _, commit_id, parents, raw_date, email, name = line.rstrip(b"\n").split(b"\0", 5)
            commit = Commit(
                commit_id=commit_id,
                parents=len(parents.split()),
                raw_date=raw_date,
                email=email,
                name=name,
            )
        elif commit and (change := RAW_CHANGE.match(line)):
            letters.append(change[1].decode())
        elif commit and (counts := SHORTSTAT.fullmatch(line)):
            files, insertions, deletions = (int(count or 0) for count in counts.groups())
            commit = replace(commit, letters="".join(letters), files=files, insertions=insertions, deletions=deletions)
    if commit and is_complete():
        yield commit


def describe(commit: Commit, salt: str) -> tuple[str, str, str, str, str] | None:
    """Return the row of a commit, or None if there is no telling when it was made."""
    occurred_at = read_date(commit.raw_date)
    if occurred_at is None:
        return None
    changes = {"files": commit.files, "insertions": commit.insertions, "deletions": commit.deletions}
    return (
        str(uuid.uuid5(COMMITS, commit.commit_id.decode())),
        occurred_at,
        hash_author(commit, salt),
        name_change(commit),
        json.dumps(changes, separators=(",", ":")),
    )


def read_date(raw_date: bytes) -> str | None:
    """Return git's raw date (seconds since 1970, offset) as RFC 3339 in that offset, or None if it is unusable."""
    found = RAW_DATE.fullmatch(raw_date)
    if found is None:  # git leaves out a date that it can't read, and seconds below 0
        return None
    seconds, hours, minutes = int(found[1]), int(found[3]), int(found[4])
    if hours > 23 or minutes > 59:
        return None
    offset = timedelta(hours=hours, minutes=minutes)
    try:
        instant = EPOCH + timedelta(seconds=seconds)
        return instant.astimezone(timezone(-offset if found[2] == b"-" else offset)).isoformat()
    except OverflowError:  # after the year 9999
        return None


def hash_author(commit: Commit, salt: str) -> str:
    """Return 16 hex digits for the author: of the e-mail address, or of the name where there is no address."""
    address = commit.email.decode(errors="surrogateescape").strip().lower()
    author = address.encode(errors="surrogateescape") or b"name:" + commit.name
    return hashlib.sha256(salt.encode(errors="surrogateescape") + author).hexdigest()[:16]


def name_change(commit: Commit) -> str:
    """Return the type of the event: what the commit did to most of its files; merge and empty where it did nothing."""
    if commit.parents > 1:
        return "merge"
    kinds = Counter(dict.fromkeys(CHANGES.values(), 0))
    kinds.update(CHANGES[letter] for letter in commit.letters if letter in CHANGES)
    kind, count = kinds.most_common(1)[0]  # of even ones the first, in the order of CHANGES
    return kind if count else "empty"


def complaint(git_stderr: bytes) -> str:
    """Return the line in which git says what is wrong."""
    lines = git_stderr.decode(errors="replace").splitlines()
    return next((line for line in lines if line.startswith("fatal: ")), lines[0] if lines else "git failed")


def say(message: str) -> None:
    """Write a line to standard error."""
    sys.stderr.write(f"git_history: {message}\n")


if __name__ == "__main__":
    sys.exit(main())
