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
from braze_exporter.config.document import shorten

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


def read_schema_version(path: Path, application: int, beside: Mapping[str, tuple[bytes, ...]]) -> int | None:
    """Return the version of the database of `application` at `path`, or None if it is empty or not there.

    `path` has no links in it, as SQLite follows them. `beside` are the files that such a database may have, each by
    its suffix with the bytes that it may begin with. Raises `ForeignFileError` if the file or one of these is anything
    else, and OSError if one cannot be read. Nothing is changed, and nothing but regular files is opened: a FIFO would
    block, and a device may act.
    """
    header = _read_header(path)
    for suffix in _SUFFIXES:
        neighbor = path.with_name(path.name + suffix)
        begin = _read_header(neighbor)
        if begin and not begin.startswith(beside.get(suffix, ())):
            raise ForeignFileError(f"{shorten(neighbor, 200)} is the file of something else")
    if not header:
        return None
    if len(header) < _LENGTH or not header.startswith(_MAGIC):
        raise ForeignFileError(f"{shorten(path, 200)} is the file of something else")
    if int.from_bytes(header[_APPLICATION]) != application:
        raise ForeignFileError(f"{shorten(path, 200)} is the database of something else")
    return int.from_bytes(header[_VERSION], signed=True)


def _read_header(path: Path) -> bytes:
    """Return the first bytes of a regular file, or none if it is not there."""
    try:
        mode = path.lstat().st_mode
        if not stat.S_ISREG(mode):
            what = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
            raise ForeignFileError(f"{shorten(path, 200)} is {what}")
        with path.open("rb") as file:
            return file.read(_LENGTH)
    except FileNotFoundError:
        return b""


# Written into the file, so that a later version knows what it reads.
SCHEMA_VERSION = 1
# "Braz": marks the file as ours, so that no other database is taken for one or written into.
APPLICATION_ID = 0x4272617A
# How long a second process waits for the first to let go: a new one starts while the old one ends.
LOCK_TIMEOUT_SECONDS = 30.0
# SQLite waits in one piece, deaf to signals, so the wait is made of many.
_LOCK_RETRY_SECONDS = 0.1
_ROW_PLACEHOLDERS = "(?, ?, ?, ?, ?, ?)"
# Rows of one statement. After each the thread waits for its turn to go on, while others may be busy with answers. An
# older SQLite takes no more than 999 values.
_ROWS_PER_STATEMENT = 150

CounterKey = tuple[str, ...]
Row = tuple[str, float, int, float, str]

_log = logging.getLogger(__name__)


class StateFileError(Exception):
    """The state file cannot be used or written; the text says why."""


class UnreadableError(StateFileError):
    """The state file may not be looked at by this user."""


class _DamagedError(StateFileError):
    """What is in the file is not what a ledger wrote."""


@dataclass(slots=True)
class CounterState:
    """What has been counted of a subject, fed by series of one `unit`.

    Nothing counts in buckets before `floor`; `highest` is the most that was seen of each bucket, None where its first
    number is yet to come and counts nothing; `requested_at` is when the
    last answer that told something was asked for, or the first one, in seconds since the epoch.
    """

    unit: Unit
    total: float
    floor: int
    requested_at: float
    highest: dict[int, float | None] = field(default_factory=dict)

    def copy(self) -> "CounterState":
        """Return an account that does not change with this one."""
        return replace(self, highest=dict(self.highest))

    def to_row(self) -> Row:
        """Return the account as a row of the file, which does not change any more."""
        return (self.unit.value, self.total, self.floor, self.requested_at, json.dumps(list(self.highest.items())))

    @classmethod
    def from_row(cls, row: Row) -> "CounterState":
        """Return the account that a row holds; raise ValueError or TypeError if it holds none."""
        unit, total, floor, requested_at, highest = row
        return cls(Unit(unit), float(total), int(floor), float(requested_at), dict(json.loads(highest)))


class StateFile:
    """An open state file, which no other process can open. Not thread-safe."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Use a connection that holds the lock and has the table."""
        self._connection = connection

    def read(self) -> dict[CounterKey, CounterState]:
        """Return all accounts; raise `StateFileError` if one cannot be read."""
        try:
            rows = self._connection.execute("SELECT subject, unit, total, floor, asked_at, seen FROM accounts")
            return {tuple(json.loads(subject)): CounterState.from_row(row) for subject, *row in rows}
        except (sqlite3.Error, ValueError, TypeError, LookupError) as error:
            is_damage = not isinstance(error, sqlite3.DatabaseError) or _is_damage(error)
            raise (_DamagedError if is_damage else StateFileError)(f"it cannot be read: {error}") from error

    def write(self, rows: Mapping[CounterKey, Row], removed: Iterable[CounterKey] = ()) -> None:
        """Write rows and delete those that are gone, all or none, and durably; raise `StateFileError` if that fails."""
        values: list[tuple[object, ...]] = [(json.dumps(subject), *row) for subject, row in rows.items()]
        try:
            with self._connection:
                self._connection.execute("BEGIN IMMEDIATE")
                subjects = ((json.dumps(subject),) for subject in removed)
                self._connection.executemany("DELETE FROM accounts WHERE subject = ?", subjects)
                for start in range(0, len(values), _ROWS_PER_STATEMENT):
                    batch = values[start : start + _ROWS_PER_STATEMENT]
                    placeholders = ", ".join([_ROW_PLACEHOLDERS] * len(batch))
                    statement = f"INSERT OR REPLACE INTO accounts VALUES {placeholders}"  # noqa: S608 - no word of anybody's
                    self._connection.execute(statement, [*chain(*batch)])
        except sqlite3.Error as error:
            raise StateFileError(str(error)) from error

    def close(self) -> None:
        """Let the file go."""
        self._connection.close()


def inspect_state_file(path: str) -> None:
    """Raise `StateFileError` if what is at `path` is neither a state file nor empty, or if it cannot be looked at.

    Nothing is changed or made.
    """
    _inspect(Path(os.path.realpath(path)))


def open_state_file(path: str, wait: float = LOCK_TIMEOUT_SECONDS) -> StateFile:
    """Open the state file at `path`, or make it, and hold it.

    A damaged state file is moved aside and begun anew: the counters start at 0, which Prometheus understands. Raises
    `StateFileError` if another process holds it for longer than `wait` seconds, or if it can be neither opened nor
    made, or is the file of something else or of a newer exporter; then it stays as it is.
    """
    real = Path(os.path.realpath(path))  # as SQLite follows links: what belongs to the file is beside the real one
    try:
        return _open(real, wait)
    except sqlite3.DatabaseError as error:
        if not _is_damage(error):  # locked, no such folder, no permission, no space
            raise StateFileError(_describe_error(path, error)) from error
        reason = str(error)
    except _DamagedError as error:
        reason = str(error)
    damaged_path = _free_name(f"{real}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    fields = {"file": path, "kept_as": damaged_path, "reason": reason}
    _log.error("the state file is damaged: it is moved aside, and counters begin at 0", extra={"fields": fields})
    try:
        with contextlib.suppress(FileNotFoundError):
            Path(f"{real}-journal").rename(f"{damaged_path}-journal")
        real.rename(damaged_path)
        return _open(real, wait)
    except (OSError, sqlite3.Error) as error:
        raise StateFileError(f"{path} is damaged and cannot be replaced: {error}") from error


def _free_name(name: str) -> str:
    """Return `name`, with a number behind it if a file or its journal has that name."""
    names = chain([name], (f"{name}-{number}" for number in count(2)))
    return next(name for name in names if not (os.path.lexists(name) or os.path.lexists(f"{name}-journal")))


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Return whether an error is of what is in the file, not of the disk or a lock."""
    # An error of the SQL, which is right: the file lacks what it names, or has a format that no SQLite writes.
    return not isinstance(error, sqlite3.OperationalError) or error.sqlite_errorcode == sqlite3.SQLITE_ERROR


def _inspect(real: Path) -> None:
    shown_path, remedy = shorten(real, 200), "choose another path for state_file"
    try:
        version = read_schema_version(real, APPLICATION_ID, {"-journal": ROLLBACK_JOURNAL})
    except ForeignFileError as error:
        raise StateFileError(f"{error}: {remedy}, or move it away") from None
    except PermissionError as error:
        raise UnreadableError(
            f"{shown_path} cannot be read ({error.strerror}): make it readable, or {remedy}"
        ) from error
    except OSError as error:
        raise StateFileError(f"{shown_path} cannot be read ({error.strerror}): {remedy}") from error
    if version is not None and version > SCHEMA_VERSION:
        raise StateFileError(
            f"{shown_path} was written by a newer exporter (version {version}, not {SCHEMA_VERSION}): run that one"
        )


def _open(real: Path, wait: float) -> StateFile:
    """Open the file as soon as no other process holds it, at the latest after `wait` seconds."""
    for _ in range(round(wait / _LOCK_RETRY_SECONDS)):
        try:
            return _try_to_open(real)
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
    return _try_to_open(real)


def _try_to_open(real: Path) -> StateFile:
    _inspect(real)  # before the file is open: closing a file lets go of all locks that the process has on it
    connection = sqlite3.connect(real, timeout=_LOCK_RETRY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA temp_store = MEMORY")  # there may be no folder for temporary files
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN EXCLUSIVE")  # in this mode the lock outlives the transaction
        _prepare(connection)
        connection.execute("COMMIT")
        state_file = StateFile(connection)
        state_file.read()
    except BaseException:
        connection.close()
        raise
    return state_file


def _prepare(connection: sqlite3.Connection) -> None:
    """Make the table in a new file; raise `_DamagedError` for one that is not as it was written."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if (application, version) == (0, 0):
        connection.execute(
            "CREATE TABLE accounts (subject TEXT PRIMARY KEY, unit TEXT NOT NULL, total REAL NOT NULL,"
            " floor INTEGER NOT NULL, asked_at REAL NOT NULL, seen TEXT NOT NULL) WITHOUT ROWID"
        )
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        return
    if version != SCHEMA_VERSION:
        raise _DamagedError(f"its version is {version}, which no exporter has written")
    problems = [problem for (problem,) in connection.execute("PRAGMA quick_check")]
    if problems != ["ok"]:
        raise _DamagedError(f"its check fails: {problems[0]}")


def _describe_error(path: str, error: sqlite3.DatabaseError) -> str:
    path = shorten(path, 200)
    if "locked" in str(error):
        return f"{path} is held by another exporter: run one for each state file, or wait until it has ended"
    return f"{path} cannot be used ({error}): choose another place by state_file, or make this one writable"
