"""Test that `ResumeFile` keeps fetched data, is used by one process at a time, and never overwrites another file."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from support import NEW_YORK, copy_during_transaction, make_series

from braze_exporter.backfill.request import BackfillError, TimeArgument
from braze_exporter.backfill.resume_file import ResumeFile
from braze_exporter.braze.kinds import CAMPAIGNS, CUSTOM_EVENTS, UTC, Unit
from braze_exporter.braze.query import Query
from braze_exporter.braze.series import Point, SeriesHead, only_head

START, END = TimeArgument(0.0), TimeArgument(1e6)
QUERY = Query("production", CUSTOM_EVENTS, Unit.HOUR, "purchase", zone=NEW_YORK, ending_at=7_199)


def opened(path: Path) -> ResumeFile:
    """Open a resume file."""
    return ResumeFile(path, START, END)


def test_saved_chunks_are_read_back(tmp_path: Path) -> None:
    """Saved series are read back with their points in order, and `missing` returns the calls without a response."""
    messages, conversions = CAMPAIGNS.metric_groups[:2]
    campaign = replace(QUERY, kind=CAMPAIGNS, unit=Unit.DAY)
    older = replace(campaign, ending_at=3_599)
    sent, other = (messages.name, "v1", "email", "sent"), (messages.name, "v2", "email", "sent")
    with closing(opened(tmp_path / "x")) as resume_file:
        resume_file.save(
            campaign,
            [
                make_series(messages, (3_600, 2.5), labels=(("variation", "new name"),), key=sent),
                make_series(messages, (3_600, 7.0), labels=(("variation", "b"),), key=other),
                make_series(conversions, (3_600, 9.0)),
            ],
            is_complete=True,
        )
        resume_file.save(
            older,
            [make_series(messages, (0, 1.0), (3_600, 3.0), labels=(("variation", "old name"),), key=sent)],
            is_complete=True,
        )
        resume_file.save(replace(older, workspace="other"), [], is_complete=True)
    with closing(opened(tmp_path / "x")) as resume_file:
        points_by_series = [
            (head, [*resume_file.read_points(number)]) for number, head in resume_file.read_series(campaign)
        ]
        assert points_by_series == [
            (SeriesHead(messages, (("variation", "new name"),), sent), [Point(0, 1.0), Point(3_600, 3.0)]),
            (SeriesHead(messages, (("variation", "b"),), other), [Point(3_600, 7.0)]),
            (only_head(conversions), [Point(3_600, 9.0)]),
        ]
        assert resume_file.missing_chunks([campaign, older, replace(campaign, ending_at=1)]) == [
            replace(campaign, ending_at=1)
        ]
        assert resume_file.read_series(replace(campaign, workspace="other")) == []
        resume_file.remove()
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    "other",
    [
        {"workspace": "staging"},
        {"unit": Unit.DAY},
        {"subject": "signup"},
        {"app_id": "a"},
        {"segment_id": "a"},
        {"url": "https://rest.iad-02.braze.com"},
        {"zone": UTC},
    ],
)
def test_chunks_of_changed_query_are_missing(tmp_path: Path, other: dict[str, object]) -> None:
    """Data of one query is not used for another; changed names and intervals make no difference."""
    with closing(opened(tmp_path / "x")) as resume_file:
        resume_file.save(QUERY, [make_series(CUSTOM_EVENTS.metric_group, (0, 1.0))], is_complete=True)
        changed = replace(QUERY, **other)  # type: ignore[arg-type] # the parametrized values have the right types
        assert resume_file.missing_chunks([changed]) == [changed]
        assert resume_file.read_series(changed) == []
        assert (
            resume_file.missing_chunks([replace(QUERY, app="ios", refresh_seconds=1.0, settle_seconds=1.0, length=1)])
            == []
        )


def test_points_are_read_in_batches(tmp_path: Path) -> None:
    """Points that span several read batches are returned in order."""
    points = tuple(Point(hour * 3_600, float(hour)) for hour in range(2_500))
    with closing(opened(tmp_path / "x")) as resume_file:
        resume_file.save(QUERY, [make_series(CUSTOM_EVENTS.metric_group, *points[::-1])], is_complete=True)
        assert tuple(resume_file.read_points(resume_file.read_series(QUERY)[0][0])) == points


# The tables of the resume files of schema 1.
SCHEMA_1 = """
CREATE TABLE span (start TEXT NOT NULL, end TEXT NOT NULL);
CREATE TABLE queries (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE);
CREATE TABLE pieces (query INTEGER, ending_at INTEGER, PRIMARY KEY (query, ending_at)) WITHOUT ROWID;
CREATE TABLE series (id INTEGER PRIMARY KEY, query INTEGER, noun TEXT, key TEXT, labels TEXT NOT NULL,
    told_at INTEGER NOT NULL, UNIQUE (query, noun, key));
CREATE TABLE points (series INTEGER, start INTEGER, value REAL, PRIMARY KEY (series, start)) WITHOUT ROWID;
"""


@pytest.mark.parametrize("version", [1, 4])
def test_resume_file_of_other_version_is_refused(tmp_path: Path, version: int) -> None:
    """A resume file of an older or newer version is refused and left unchanged."""
    if version > 1:
        opened(tmp_path / "x").close()
    with closing(sqlite3.connect(tmp_path / "x")) as connection:
        if version == 1:
            connection.executescript(SCHEMA_1)
            connection.execute("PRAGMA application_id = 0x42727A68")
        connection.execute("INSERT INTO points VALUES (1, 2, 3)")
        connection.execute(f"PRAGMA user_version = {version}")
        connection.commit()
    failure = "x was created by another version of the exporter; resume with that version, or remove the file"
    with pytest.raises(BackfillError, match=failure):
        opened(tmp_path / "x")
    with closing(sqlite3.connect(tmp_path / "x")) as connection:
        assert connection.execute("SELECT * FROM points").fetchall() == [(1, 2, 3)]
        assert connection.execute("PRAGMA user_version").fetchone() == (version,)


@pytest.mark.parametrize("is_killed", [False, True])
@pytest.mark.parametrize("application", [0, 1])
def test_foreign_database_is_refused(tmp_path: Path, application: int, *, is_killed: bool) -> None:
    """A foreign database is refused and stays unchanged; its unfinished transaction is not rolled back."""
    whole, path = tmp_path / "whole", tmp_path / "x"
    with closing(sqlite3.connect(whole)) as connection:
        connection.execute(f"PRAGMA application_id = {application}")
        connection.execute("CREATE TABLE orders AS SELECT randomblob(50000) AS x")
    copy_during_transaction(whole, "INSERT INTO orders SELECT randomblob(50000)", path)
    if not is_killed:
        whole.replace(path)
        path.with_name("x-journal").unlink()
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(BackfillError, match="x is a database of another type; choose another --output"):
        opened(path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def other_users_file(path: Path) -> None:
    """Create an empty file of another user in a directory like /tmp."""
    if os.geteuid():
        pytest.skip("only root can create files of other users")
    path.touch()
    os.chown(path, 12_345, -1)
    path.parent.chmod(0o1777)


@pytest.mark.parametrize("name", ["x", "x-journal", "x-wal"])
@pytest.mark.parametrize(
    ("plant", "problem"),
    [
        (lambda path: path.write_bytes(b"precious"), "is a file of another type"),
        (lambda path: path.symlink_to("precious"), "is not a regular file"),
        (lambda path: path.symlink_to("missing"), "is not a regular file"),
        (lambda path: path.hardlink_to(path.with_name("empty")), "has another hard link"),
        (os.mkfifo, "is not a regular file"),
        (Path.mkdir, "is a directory"),
        (other_users_file, "belongs to another user"),
    ],
    ids=["file", "link", "link-to-missing", "hard-link", "fifo", "directory", "other-user"],
)
def test_planted_file_is_refused(tmp_path: Path, name: str, plant: Callable[[Path], object], problem: str) -> None:
    """A file that no backfill created is refused and left unchanged. Links are not followed, FIFOs not opened."""
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "empty").touch()
    plant(tmp_path / name)
    before = {path.name: path.lstat() for path in tmp_path.iterdir()}
    with pytest.raises(BackfillError, match=f"{name} {problem}; choose another --output, or move the file"):
        opened(tmp_path / "x")
    assert {path.name: path.lstat() for path in tmp_path.iterdir()} == before


def test_damaged_resume_file_is_refused(tmp_path: Path) -> None:
    """A damaged resume file is refused and left unchanged."""
    opened(tmp_path / "x").close()
    damaged = (tmp_path / "x").read_bytes()[:100] + b"\xff" * 5_000
    (tmp_path / "x").write_bytes(damaged)
    with pytest.raises(BackfillError, match=r"x is damaged \(.*\); remove the file"):
        opened(tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == damaged


BEGINNER = """
import os, signal, sqlite3, sys
from pathlib import Path
from braze_exporter.backfill.request import TimeArgument
from braze_exporter.backfill.resume_file import ResumeFile
class Killed(sqlite3.Connection):
    left = int(sys.argv[2])
    def execute(self, *arguments):
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1
        return super().execute(*arguments)
connect = sqlite3.connect
sqlite3.connect = lambda *arguments, **more: connect(*arguments, factory=Killed, **more)
ResumeFile(Path(sys.argv[1]), TimeArgument(0.0), TimeArgument(1e6))
"""


def test_half_created_resume_file_is_created_again(tmp_path: Path) -> None:
    """If the process is killed at any point of the creation, the next process can use the file."""
    # Coverage measurement would use a database, too.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COV")}
    for statements in range(30):
        path = tmp_path / str(statements)
        killed = subprocess.run(  # noqa: S603
            [sys.executable, "-c", BEGINNER, str(path), str(statements)], env=environment, check=False
        )
        with closing(opened(path)) as resume_file:
            assert resume_file.missing_chunks([QUERY]) == [QUERY]
        if killed.returncode == 0:
            break
    assert 5 < statements < 29


def test_resume_file_in_use_is_refused(tmp_path: Path) -> None:
    """A resume file is locked from opening to closing."""
    with closing(opened(tmp_path / "x")), pytest.raises(BackfillError, match="is locked by another backfill"):
        opened(tmp_path / "x")
    opened(tmp_path / "x").close()


def test_unwritable_resume_file_is_refused(tmp_path: Path) -> None:
    """A resume file in a missing directory, or at the path of a directory, is refused."""
    with pytest.raises(BackfillError, match=r"cannot be used \(unable to open database file\); free disk space"):
        opened(tmp_path / "nowhere" / "x")
    with pytest.raises(BackfillError, match=r"is a directory; choose another --output"):
        opened(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(BackfillError, match=r"x cannot be read \(Not a directory\); choose another --output"):
        opened(tmp_path / "file" / "x")


@pytest.mark.parametrize("is_replaced", [False, True])
def test_file_of_another_program_is_not_removed(tmp_path: Path, *, is_replaced: bool) -> None:
    """If the resume file was deleted or replaced while it was open, `remove` succeeds and deletes nothing else."""
    resume_file = opened(tmp_path / "x")
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "x").unlink()
    if is_replaced:
        (tmp_path / "precious").rename(tmp_path / "x")
    resume_file.remove()
    assert (tmp_path / ("x" if is_replaced else "precious")).read_bytes() == b"precious"


def test_save_after_close_fails(tmp_path: Path) -> None:
    """A response that arrives after `close` is refused instead of partly written."""
    resume_file = opened(tmp_path / "x")
    resume_file.close()
    with pytest.raises(BackfillError, match="is closed"):
        resume_file.save(QUERY, [], is_complete=True)


def test_empty_resume_file_accepts_another_span(tmp_path: Path) -> None:
    """An empty resume file accepts another span; after the first response the span is fixed."""
    opened(tmp_path / "x").close()
    with closing(ResumeFile(tmp_path / "x", START, TimeArgument(2e6))) as resume_file:
        resume_file.save(QUERY, [], is_complete=True)
    with pytest.raises(
        BackfillError, match="x was created with --start=1970-01-01T00:00:00Z --end=1970-01-24T03:33:20Z"
    ):
        opened(tmp_path / "x")
