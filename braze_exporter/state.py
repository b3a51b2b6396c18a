"""The state file in SQLite, held by one process at a time."""

import contextlib
import json
import logging
import os
import sqlite3
import stat
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, count
from pathlib import Path

from braze_exporter.braze.kinds import Unit
from braze_exporter.config.document import shown

# https://www.sqlite.org/fileformat2.html: the file, its rollback journal, whose first bytes are 0 until it is synced,
# and its write-ahead log.
_LENGTH = 100
_MAGIC = b"SQLite format 3\0"
_VERSION, _APPLICATION = slice(60, 64), slice(68, 72)
ROLLBACK_JOURNAL = (b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7", bytes(8))
WRITE_AHEAD_LOG = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
_SUFFIXES = ("-journal", "-wal", "-shm")


class ForeignFileError(Exception):
    """A file is not a database of ours; the text says which, and what it is."""


def read_version(path: Path, application: int, beside: Mapping[str, tuple[bytes, ...]]) -> int | None:
    """Return the version of the database of `application` at `path`, or None if it is empty or not there.

    `path` has no links in it, as SQLite follows them. `beside` are the files that such a database may have, each by
    its suffix with the bytes that it may begin with. Raises `ForeignFileError` if the file or one of these is anything
    else, and OSError if one cannot be read. Nothing is changed, and nothing but regular files is opened: a FIFO would
    block, and a device may act.
    """
    header = _begin(path)
    for suffix in _SUFFIXES:
        neighbor = path.with_name(path.name + suffix)
        begin = _begin(neighbor)
        if begin and not begin.startswith(beside.get(suffix, ())):
            raise ForeignFileError(f"{shown(neighbor, 200)} is the file of something else")
    if not header:
        return None
    if len(header) < _LENGTH or not header.startswith(_MAGIC):
        raise ForeignFileError(f"{shown(path, 200)} is the file of something else")
    if int.from_bytes(header[_APPLICATION]) != application:
        raise ForeignFileError(f"{shown(path, 200)} is the database of something else")
    return int.from_bytes(header[_VERSION], signed=True)


def _begin(path: Path) -> bytes:
    """Return the first bytes of a regular file, or none if it is not there."""
    try:
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
            raise ForeignFileError(f"{shown(path, 200)} is {what}")
        with path.open("rb") as file:
            return file.read(_LENGTH)
    except FileNotFoundError:
        return b""


# Written into the file, so that a later version knows what it reads.
VERSION = 1
# "Braz": marks the file as ours, so that no other database is taken for one or written into.
APPLICATION = 0x4272617A
# How long a second process waits for the first to let go: a new one starts while the old one ends.
WAIT = 30.0
# SQLite waits in one piece, deaf to signals, so the wait is made of many.
_TRY = 0.1
_MARKS = "(?, ?, ?, ?, ?, ?)"
# Rows of one statement. After each the thread waits for its turn to go on, while others may be busy with answers. An
# older SQLite takes no more than 999 values.
_AT_ONCE = 150

Subject = tuple[str, ...]
Row = tuple[str, float, int, float, str]

_log = logging.getLogger(__name__)


class StoreError(Exception):
    """The state file cannot be used or written; the text says why."""


class UnreadableError(StoreError):
    """The state file may not be looked at by this user."""


class _DamagedError(StoreError):
    """What is in the file is not what a ledger wrote."""


@dataclass(slots=True)
class Account:
    """What has been counted of a subject, fed by series of one `unit`.

    Nothing counts in buckets before `floor`; `seen` is the most that was seen of each bucket, None where its first
    number is yet to come and counts nothing; `asked_at` is when the
    last answer that told something was asked for, or the first one, in seconds since the epoch.
    """

    unit: Unit
    total: float
    floor: int
    asked_at: float
    seen: dict[int, float | None] = field(default_factory=dict)

    def copy(self) -> "Account":
        """Return an account that does not change with this one."""
        return replace(self, seen=dict(self.seen))

    def frozen(self) -> Row:
        """Return the account as a row of the file, which does not change any more."""
        return (self.unit.value, self.total, self.floor, self.asked_at, json.dumps(list(self.seen.items())))

    @classmethod
    def thawed(cls, row: Row) -> "Account":
        """Return the account that a row holds; raise ValueError or TypeError if it holds none."""
        unit, total, floor, asked_at, seen = row
        return cls(Unit(unit), float(total), int(floor), float(asked_at), dict(json.loads(seen)))


class Store:
    """An open state file, which no other process can open. Not thread-safe."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Use a connection that holds the lock and has the table."""
        self._connection = connection

    def read(self) -> dict[Subject, Account]:
        """Return all accounts; raise `StoreError` if one cannot be read."""
        try:
            found = self._connection.execute("SELECT subject, unit, total, floor, asked_at, seen FROM accounts")
            return {tuple(json.loads(subject)): Account.thawed(row) for subject, *row in found}
        except (sqlite3.Error, ValueError, TypeError, LookupError) as error:
            is_damage = not isinstance(error, sqlite3.DatabaseError) or _is_damage(error)
            raise (_DamagedError if is_damage else StoreError)(f"it cannot be read: {error}") from error

    def write(self, rows: Mapping[Subject, Row], gone: Iterable[Subject] = ()) -> None:
        """Write rows and delete those that are gone, all or none, and durably; raise `StoreError` if that fails."""
        values: list[tuple[object, ...]] = [(json.dumps(subject), *row) for subject, row in rows.items()]
        try:
            with self._connection:
                self._connection.execute("BEGIN IMMEDIATE")
                subjects = ((json.dumps(subject),) for subject in gone)
                self._connection.executemany("DELETE FROM accounts WHERE subject = ?", subjects)
                for start in range(0, len(values), _AT_ONCE):
                    some = values[start : start + _AT_ONCE]
                    marks = ", ".join([_MARKS] * len(some))
                    statement = f"INSERT OR REPLACE INTO accounts VALUES {marks}"  # noqa: S608 - no word of anybody's
                    self._connection.execute(statement, [*chain(*some)])
        except sqlite3.Error as error:
            raise StoreError(str(error)) from error

    def close(self) -> None:
        """Let the file go."""
        self._connection.close()


def inspect_state_file(path: str) -> None:
    """Raise `StoreError` if what is at `path` is neither a state file nor empty, or if it cannot be looked at.

    Nothing is changed or made.
    """
    _inspect(Path(os.path.realpath(path)))


def open_store(path: str, wait: float = WAIT) -> Store:
    """Open the state file at `path`, or make it, and hold it.

    A damaged state file is moved aside and begun anew: the counters start at 0, which Prometheus understands. Raises
    `StoreError` if another process holds it for longer than `wait` seconds, or if it can be neither opened nor made,
    or is the file of something else or of a newer exporter; then it stays as it is.
    """
    real = Path(os.path.realpath(path))  # as SQLite follows links: what belongs to the file is beside the real one
    try:
        return _open(real, wait)
    except sqlite3.DatabaseError as error:
        if not _is_damage(error):  # locked, no such folder, no permission, no space
            raise StoreError(_explained(path, error)) from error
        reason = str(error)
    except _DamagedError as error:
        reason = str(error)
    aside = _free_name(f"{real}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    fields = {"file": path, "kept_as": aside, "reason": reason}
    _log.error("the state file is damaged: it is moved aside, and counters begin at 0", extra={"fields": fields})
    try:
        with contextlib.suppress(FileNotFoundError):
            Path(f"{real}-journal").rename(f"{aside}-journal")
        real.rename(aside)
        return _open(real, wait)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"{path} is damaged and cannot be replaced: {error}") from error


def _free_name(name: str) -> str:
    """Return `name`, with a number behind it if a file or its journal has that name."""
    names = chain([name], (f"{name}-{number}" for number in count(2)))
    return next(name for name in names if not (os.path.lexists(name) or os.path.lexists(f"{name}-journal")))


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Return whether an error is of what is in the file, not of the disk or a lock."""
    # An error of the SQL, which is right: the file lacks what it names, or has a format that no SQLite writes.
    return not isinstance(error, sqlite3.OperationalError) or error.sqlite_errorcode == sqlite3.SQLITE_ERROR


def _inspect(real: Path) -> None:
    shown_path, remedy = shown(real, 200), "choose another path for state_file"
    try:
        version = read_version(real, APPLICATION, {"-journal": ROLLBACK_JOURNAL})
    except ForeignFileError as error:
        raise StoreError(f"{error}: {remedy}, or move it away") from None
    except PermissionError as error:
        raise UnreadableError(
            f"{shown_path} cannot be read ({error.strerror}): make it readable, or {remedy}"
        ) from error
    except OSError as error:
        raise StoreError(f"{shown_path} cannot be read ({error.strerror}): {remedy}") from error
    if version is not None and version > VERSION:
        raise StoreError(
            f"{shown_path} was written by a newer exporter (version {version}, not {VERSION}): run that one"
        )


def _open(real: Path, wait: float) -> Store:
    """Open the file as soon as no other process holds it, at the latest after `wait` seconds."""
    for _ in range(round(wait / _TRY)):
        try:
            return _try_to_open(real)
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
    return _try_to_open(real)


def _try_to_open(real: Path) -> Store:
    _inspect(real)  # before the file is open: closing a file lets go of all locks that the process has on it
    connection = sqlite3.connect(real, timeout=_TRY, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA temp_store = MEMORY")  # there may be no folder for temporary files
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN EXCLUSIVE")  # in this mode the lock outlives the transaction
        _prepare(connection)
        connection.execute("COMMIT")
        store = Store(connection)
        store.read()
    except BaseException:
        connection.close()
        raise
    return store


def _prepare(connection: sqlite3.Connection) -> None:
    """Make the table in a new file; raise `_DamagedError` for one that is not as it was written."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if (application, version) == (0, 0):
        connection.execute(
            "CREATE TABLE accounts (subject TEXT PRIMARY KEY, unit TEXT NOT NULL, total REAL NOT NULL,"
            " floor INTEGER NOT NULL, asked_at REAL NOT NULL, seen TEXT NOT NULL) WITHOUT ROWID"
        )
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        return
    if version != VERSION:
        raise _DamagedError(f"its version is {version}, which no exporter has written")
    problems = [problem for (problem,) in connection.execute("PRAGMA quick_check")]
    if problems != ["ok"]:
        raise _DamagedError(f"its check fails: {problems[0]}")


def _explained(path: str, error: sqlite3.DatabaseError) -> str:
    path = shown(path, 200)
    if "locked" in str(error):
        return f"{path} is held by another exporter: run one for each state file, or wait until it has ended"
    return f"{path} cannot be used ({error}): choose another place by state_file, or make this one writable"
