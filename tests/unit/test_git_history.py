"""The example that turns a git history into events: on real, tiny repositories, as a process of its own."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from uuid import UUID, uuid5

import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "git_history.py"
HEADER = "event_id,occurred_at,user_id,event_type,properties_json\n"
COMMITS = UUID("3225d951-d347-522f-90a5-cc30ea78987d")

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    """Return an environment in which no setting, identity or repository of this machine has effect."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return {
        **kept,
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CEILING_DIRECTORIES": str(tmp_path),
        **more,
    }


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A repository to be filled, each commit a minute after the one before."""

    path: Path
    tmp_path: Path
    commits: list[str] = field(default_factory=list)

    def git(self, *arguments: str, stdin: bytes = b"", variables: Mapping[str, str] | None = None) -> bytes:
        return subprocess.run(
            ["git", "-C", self.path, *arguments],
            env=environment(self.tmp_path, **(variables or {})),
            input=stdin,
            check=True,
            capture_output=True,
        ).stdout.strip()

    def commit(
        self,
        subject: str | bytes = "work",
        *,
        author: bytes = b"Ada <ada@example.org>",
        date: bytes | None = None,
        files: dict[str, bytes] | None = None,
        parents: list[str] | None = None,
        headers: bytes = b"",
        committed: int | None = None,
    ) -> str:
        """Write a commit object as it stands here, however odd; the branch then points to it."""
        for name, content in (files or {}).items():
            (self.path / name).write_bytes(content)
            self.git("add", "--", name)
        tree = self.git("write-tree")
        seconds = 1_767_600_000 + 60 * (len(self.commits) if committed is None else committed)
        if parents is None:
            parents = self.commits[-1:]
        lines = [
            b"tree " + tree,
            *(b"parent " + parent.encode() for parent in parents),
            b"author " + author + b" " + (date or b"%d +0200" % seconds),
            b"committer Bot <bot@example.org> %d +0000" % seconds,
        ]
        message = subject if isinstance(subject, bytes) else subject.encode()
        commit = b"\n".join(lines) + b"\n" + headers + b"\n" + message + b"\n"
        name = self.git("hash-object", "-t", "commit", "-w", "--stdin", "--literally", stdin=commit).decode()
        self.git("update-ref", "HEAD", name)
        self.commits.append(name)
        return name


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    path = tmp_path / "repository"
    path.mkdir()
    made = Repository(path=path, tmp_path=tmp_path)
    made.git("init", "--quiet", "--initial-branch=main")
    return made


@dataclass(frozen=True, kw_only=True)
class Exported:
    code: int
    text: str
    errors: str

    @property
    def rows(self) -> list[dict[str, str]]:
        return list(csv.DictReader(io.StringIO(self.text, newline=""), strict=True))

    def column(self, name: str) -> list[str]:
        return [row[name] for row in self.rows]

    @property
    def changes(self) -> list[dict[str, int]]:
        return [json.loads(text) for text in self.column("properties_json")]

    def holds(self, *commits: str) -> bool:
        """Whether these commits, and no others, are there in this order."""
        return self.column("event_id") == [str(uuid5(COMMITS, commit)) for commit in commits]


Export = Callable[..., Exported]


@pytest.fixture
def export(tmp_path: Path) -> Export:
    def run(*arguments: str | Path, cwd: Path = tmp_path, **variables: str) -> Exported:
        done = subprocess.run(
            [sys.executable, SCRIPT, *arguments],
            env=environment(tmp_path, **variables),
            cwd=cwd,
            capture_output=True,
            check=False,
        )
        return Exported(code=done.returncode, text=done.stdout.decode("ascii"), errors=done.stderr.decode())

    return run


def hashed(author: bytes) -> str:
    return sha256(author).hexdigest()[:16]


def test_a_commit_becomes_an_event(repository: Repository, export: Export) -> None:
    name = repository.commit(
        "feat(api)!: greet",
        author=b"Ada <ada@example.org>",
        date=b"1767612345 +0530",
        files={"a.txt": b"one\ntwo\n"},
    )

    exported = export(repository.path)

    assert exported == Exported(
        code=0,
        text=HEADER
        + f"{uuid5(COMMITS, name)},2026-01-05T16:55:45+05:30,"
        + f'{hashed(b"ada@example.org")},add,"{{""files"":1,""insertions"":2,""deletions"":0}}"\n',
        errors="",
    )


def test_the_same_commit_has_the_same_event_id_in_every_clone(
    repository: Repository, export: Export, tmp_path: Path
) -> None:
    repository.commit()
    repository.git("clone", "--quiet", "--bare", ".", str(tmp_path / "clone.git"))

    assert export(tmp_path / "clone.git") == export(repository.path)


def test_events_come_in_the_order_of_the_commits_parents_first(repository: Repository, export: Export) -> None:
    dates = [b"1767600300 +0000", b"1767600100 +0000", b"1767600200 +0000"]
    for date in dates:
        repository.commit(date=date)

    assert export(repository.path).column("occurred_at") == [
        "2026-01-05T08:05:00+00:00",
        "2026-01-05T08:01:40+00:00",
        "2026-01-05T08:03:20+00:00",
    ]


def test_parents_come_first_when_the_clocks_of_the_committers_disagreed(repository: Repository, export: Export) -> None:
    base = repository.commit(committed=80)
    new = repository.commit(parents=[base], committed=90)
    old = repository.commit(parents=[base], committed=10)
    merge = repository.commit(parents=[new, old], committed=100)

    assert export(repository.path).holds(base, old, new, merge)


def test_the_type_is_what_the_commit_did_to_most_of_its_files(repository: Repository, export: Export) -> None:
    def change(*removed: str, **files: bytes) -> None:
        if removed:
            repository.git("rm", "--quiet", "--", *removed)
        repository.commit("feat: is what its author calls it", files=files)

    change(a=b"1\n", b=b"2\n", c=b"3\n")
    change(a=b"1\n2\n")
    change("b", d=b"2\n")  # the same bytes under another name
    change("a", "d", e=b"9\n")
    change()
    change(c=b"4\n", f=b"5\n", g=b"6\n")
    change(c=b"5\n", h=b"7\n")  # as many are added as modified
    change("f", i=b"8\n")  # as many are added as deleted
    (repository.path / "h").unlink()
    (repository.path / "h").symlink_to("c")
    repository.git("add", "h")
    change()

    assert export(repository.path).column("event_type") == [
        "add", "modify", "rename", "delete", "empty", "add", "modify", "add", "modify",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "subject",
    [
        "feat: a",
        'Revert "feat: a"',
        "",
        b"fix\xe9: a",
        "fix: 1 file changed, 9 insertions(+)",
        "fix: a\n 3 files changed, 9 insertions(+)",
        "a\n\n:100644 100644 1 2 M\ta\n 3 files changed, 9 insertions(+)",
        'fix: "a", b\r',
    ],
)
def test_what_a_message_says_changes_nothing(repository: Repository, export: Export, subject: str | bytes) -> None:
    repository.commit(subject)

    exported = export(repository.path)

    assert exported.column("event_type") == ["empty"]
    assert exported.changes == [{"files": 0, "insertions": 0, "deletions": 0}]


def test_a_commit_with_several_parents_is_a_merge_whatever_it_is_called(repository: Repository, export: Export) -> None:
    first = repository.commit("first", files={"a": b"1\n"})
    second = repository.commit("second", parents=[first], files={"a": b"2\n"})
    third = repository.commit("third", parents=[first], files={"a": b"3\n"})
    repository.commit("feat: all", parents=[second, third], files={"a": b"4\n"})

    exported = export(repository.path)

    assert exported.column("event_type") == ["add", "modify", "modify", "merge"]
    assert exported.changes[-1] == {"files": 0, "insertions": 0, "deletions": 0}  # what it brings was counted before


def test_changes_are_counted_by_file_and_line(repository: Repository, export: Export) -> None:
    repository.commit(files={"a": b"1\n2\n3\n", "b": b"1\n"})
    repository.commit(files={"a": b"1\n3\n", "b": b"1\n2\n"})
    repository.commit(files={"a": b"1\n"})
    repository.commit()
    repository.commit(files={"image": b"\x00\xff" * 99})

    assert export(repository.path).changes == [
        {"files": 2, "insertions": 4, "deletions": 0},
        {"files": 2, "insertions": 1, "deletions": 1},
        {"files": 1, "insertions": 0, "deletions": 1},
        {"files": 0, "insertions": 0, "deletions": 0},
        {"files": 1, "insertions": 0, "deletions": 0},
    ]


def test_file_names_may_hold_anything(repository: Repository, export: Export) -> None:
    names = ("a\n 7 files changed, 7 insertions(+)\n", "\n:100644 100644 1 2 M\tb", "caf\udce9", '"')
    repository.commit(files=dict.fromkeys(names, b"1\n"))
    repository.git("config", "core.quotePath", "false")

    exported = export(repository.path)

    assert exported.changes == [{"files": 4, "insertions": 4, "deletions": 0}]
    assert exported.column("event_type") == ["add"]


@pytest.mark.parametrize(
    ("author", "hashed_text"),
    [
        (b"Ada <ada@example.org>", b"ada@example.org"),
        (b"Ada L. < ADA@Example.org >", b"ada@example.org"),
        (b"Ada <\xc3\x84DA@example.org>", b"\xc3\xa4da@example.org"),
        (b"Ad\xe9 <ad\xe9@example.org>", b"ad\xe9@example.org"),
        (b"Ad\xe9 <>", b"name:Ad\xe9"),
    ],
)
def test_the_user_is_a_hash_of_the_authors_address(
    repository: Repository, export: Export, author: bytes, hashed_text: bytes
) -> None:
    repository.commit(author=author)

    assert export(repository.path).column("user_id") == [hashed(hashed_text)]


def test_a_salt_goes_into_the_hash(repository: Repository, export: Export) -> None:
    repository.commit()

    exported = export("--salt", "pepper", repository.path)

    assert exported.column("user_id") == [hashed(b"pepperada@example.org")]


def test_addresses_that_mailmap_unites_are_one_user(repository: Repository, export: Export) -> None:
    repository.commit(author=b"Ada <ada@home.example>")
    repository.commit(files={".mailmap": b"Ada <ada@example.org> <ada@home.example>\n"})

    assert export(repository.path).column("user_id") == [hashed(b"ada@example.org")] * 2


@pytest.mark.parametrize(
    ("date", "occurred_at"),
    [
        (b"1767600000 +0200", "2026-01-05T10:00:00+02:00"),
        (b"1767600000 -0330", "2026-01-05T04:30:00-03:30"),
        (b"1767600000 +0000", "2026-01-05T08:00:00+00:00"),
        (b"1767600000 +2359", "2026-01-06T07:59:00+23:59"),
        (b"0 +0000", "1970-01-01T00:00:00+00:00"),
        (b"100 -0500", "1969-12-31T19:01:40-05:00"),  # the instant is in 1970
    ],
)
def test_the_authors_own_offset_is_kept(repository: Repository, export: Export, date: bytes, occurred_at: str) -> None:
    repository.commit(date=date)

    assert export(repository.path).column("occurred_at") == [occurred_at]


@pytest.mark.parametrize(
    "date",
    [
        b"-100 +0000",
        b"1767600000 +2400",
        b"1767600000 +0560",
        b"1767600000 -7700",
        b"1767600000 +051800",
        b"1767600000",
        b"yesterday +0000",
        b"300000000000 +0000",
        b"253402300799 +0200",
        b"99999999999999999 +0000",
    ],
)
def test_commits_without_a_usable_date_are_skipped_and_counted(
    repository: Repository, export: Export, date: bytes
) -> None:
    first = repository.commit()
    repository.commit(date=date)
    repository.commit(date=date)
    last = repository.commit()

    exported = export(repository.path)

    assert exported.code == 0
    assert exported.holds(first, last)
    assert exported.errors.startswith("git_history: skipped 2 commits ")
    assert exported.errors.count("\n") == 1


def test_a_message_in_another_encoding_is_read(repository: Repository, export: Export) -> None:
    commits = [
        repository.commit(b"caf\xe9", author=b"Ad\xe9 <>", headers=b"encoding ISO-8859-1\n"),
        repository.commit(b"caf\xe9", author="Adé <>".encode(), headers=b"encoding no-such-thing\n"),
    ]

    exported = export(repository.path)

    assert exported.holds(*commits)
    assert exported.column("user_id") == [hashed("name:Adé".encode())] * 2


def test_settings_of_the_user_and_the_repository_change_nothing(
    repository: Repository, export: Export, tmp_path: Path
) -> None:
    checker = tmp_path / "checker"
    checker.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    checker.chmod(0o755)
    signature = b"gpgsig -----BEGIN PGP SIGNATURE-----\n \n AAAA\n -----END PGP SIGNATURE-----\n"
    repository.commit(files={"a": b"c\ne\nd\ne\nd\ne\na\n", "b": b"1\n"})
    repository.commit(files={"a": b"d\nb\nd\nd\nb\nc\ne\n"}, headers=signature)
    repository.git("mv", "a", "c")
    repository.commit()
    (repository.path / "folder").mkdir()
    plain = export(repository.path)
    for name, value in {
        "log.showRoot": "false",
        "log.showSignature": "true",
        "log.date": "relative",
        "log.mailmap": "false",
        "gpg.program": str(checker),
        "diff.relative": "true",
        "diff.external": str(checker),
        "diff.algorithm": "patience",
        "diff.renames": "false",
        "color.ui": "always",
        "format.pretty": "full",
        "i18n.logOutputEncoding": "UTF-16",
    }.items():
        repository.git("config", name, value)

    assert plain.changes == [
        {"files": 2, "insertions": 8, "deletions": 0},
        {"files": 1, "insertions": 4, "deletions": 4},  # by patience it would be 5 and 5
        {"files": 1, "insertions": 0, "deletions": 0},
    ]
    assert plain.column("event_type") == ["add", "modify", "rename"]
    assert export(repository.path / "folder") == plain
    assert not (tmp_path / "ran").exists()


def test_the_variables_of_a_git_hook_do_not_lead_elsewhere(
    repository: Repository, export: Export, tmp_path: Path
) -> None:
    here = repository.commit()

    assert export(repository.path, GIT_DIR=str(tmp_path), GIT_WORK_TREE=str(tmp_path)).holds(here)


def test_without_an_argument_the_repository_is_here(repository: Repository, export: Export) -> None:
    here = repository.commit()

    assert export(cwd=repository.path).holds(here)


def test_a_path_is_no_option_and_no_shell_sees_it(repository: Repository, export: Export, tmp_path: Path) -> None:
    here = repository.commit()
    odd = tmp_path / "--help; touch x"
    repository.path.rename(odd)

    assert export("--", odd.name).holds(here)
    assert not (tmp_path / "x").exists()


def test_other_branches_are_left_out_unless_all_are_asked_for(repository: Repository, export: Export) -> None:
    identity = {
        f"GIT_{role}_{what}": "bot@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    first = repository.commit()
    other = repository.commit()
    repository.git("update-ref", "refs/heads/other", other)
    repository.git("update-ref", "refs/heads/main", first)
    repository.git("notes", "add", "-m", "docs: a note", first, variables=identity)

    assert export(repository.path).holds(first)
    assert export("--all", repository.path).holds(first, other)


@pytest.mark.parametrize("arguments", [[], ["--all"]])
@pytest.mark.parametrize("bare", [True, False])
def test_a_repository_without_a_commit_gives_the_header_alone(
    export: Export, repository: Repository, tmp_path: Path, arguments: list[str], bare: bool
) -> None:
    path = repository.path
    if bare:
        path = tmp_path / "bare.git"
        repository.git("init", "--quiet", "--bare", str(path))

    exported = export(*arguments, path)

    assert (exported.code, exported.text) == (0, HEADER)


def test_where_head_names_a_branch_without_a_commit_the_way_out_is_said(repository: Repository, export: Export) -> None:
    first = repository.commit()
    repository.git("symbolic-ref", "HEAD", "refs/heads/gone")

    exported = export(repository.path)

    assert (exported.code, exported.text) == (0, HEADER)
    assert exported.errors == (
        "git_history: no commit: the branch that HEAD names has none; --all takes every branch\n"
    )
    assert export("--all", repository.path).holds(first)


def test_what_is_not_a_repository_is_said_in_one_line(export: Export, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()

    for path in ("file", "folder", "nowhere"):
        exported = export(tmp_path / path)
        assert (exported.code, exported.text, exported.errors.count("\n")) == (2, "", 1)
        assert exported.errors.startswith("git_history: fatal: ")


def test_without_git_one_line_says_so(repository: Repository, export: Export, tmp_path: Path) -> None:
    exported = export(repository.path, PATH=str(tmp_path))

    assert exported == Exported(code=2, text="", errors="git_history: git is not installed\n")


def test_a_damaged_history_gives_what_was_readable_and_exit_code_1(repository: Repository, export: Export) -> None:
    for content in (b"1\n", b"2\n", b"3\n"):
        repository.commit(files={"a": content})
    whole = export(repository.path)
    tree = repository.git("rev-parse", "HEAD^{tree}").decode()
    (repository.path / ".git" / "objects" / tree[:2] / tree[2:]).unlink()

    exported = export(repository.path)

    assert (exported.code, exported.rows[:1]) == (1, whole.rows[:1])
    assert whole.text.startswith(exported.text)
    assert exported.errors.startswith("git_history: fatal: ")
    assert exported.errors.count("\n") == 1


def test_a_commit_after_which_git_fails_is_left_out_because_its_numbers_may_be_missing(
    export: Export, tmp_path: Path
) -> None:
    git = tmp_path / "bin" / "git"
    git.parent.mkdir()
    records = "".join(f"\\0{name}\\0\\0001767600000 +0000\\0a@b\\0a\\n" for name in ("first", "second"))
    git.write_text(
        f"#!/bin/sh\ncase \"$*\" in *rev-parse*) exit 0;; esac\nprintf '{records}'\necho 'fatal: broken' >&2\nexit 128\n"
    )
    git.chmod(0o755)

    exported = export(PATH=f"{git.parent}{os.pathsep}{os.environ['PATH']}")

    assert exported.holds("first")
    assert (exported.code, exported.errors) == (1, "git_history: fatal: broken\n")


def test_a_reader_that_stops_early_is_no_error(repository: Repository, tmp_path: Path) -> None:
    fill(repository, 3_000)
    writer = subprocess.Popen(
        [sys.executable, SCRIPT, repository.path],
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert writer.stdout is not None
    assert writer.stderr is not None

    line = writer.stdout.readline()
    writer.stdout.close()

    assert line == HEADER.encode()
    assert (writer.wait(timeout=30), writer.stderr.read()) == (0, b"")
    writer.stderr.close()


def fill(repository: Repository, commits: int) -> None:
    """Make many commits at once."""
    stream = b"".join(
        b"commit refs/heads/main\ncommitter Ada <ada@example.org> %d +0000\ndata 3\nfix\n" % (1_767_600_000 + number)
        for number in range(commits)
    )
    repository.git("fast-import", "--quiet", stdin=stream)
