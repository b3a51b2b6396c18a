"""The state file: an SQLite database that one process at a time can open.

A process uses the database only while it holds a lock on `<state_file>.lock`, an empty file that is never deleted. It
opens the database once, since closing a second descriptor of a file drops all POSIX locks on it.
"""

import contextlib
import fcntl
import functools
import io
import json
import logging
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, count
from pathlib import Path
from typing import Any, NamedTuple

from braze_exporter.braze.kinds import Unit
from braze_exporter.braze.names import normalize_id
from braze_exporter.config.document import shorten

# The headers of SQLite's files (https://www.sqlite.org/fileformat2.html): the database, its rollback journal and its
# write-ahead log. The first bytes of the journal are 0 until it is synced.
_HEADER_BYTES = 100
_MAGIC_BYTES = b"SQLite format 3\0"
_VERSION_BYTES, _APPLICATION_ID_BYTES = slice(60, 64), slice(68, 72)
ROLLBACK_JOURNAL = (b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7", bytes(8))
WRITE_AHEAD_LOG = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
_SUFFIXES = ("-journal", "-wal", "-shm")


class ForeignFileError(Exception):
    """Raised if a file is not a database of the exporter. The message names the file and its type."""


def read_schema_version(path: Path, application_id: int, beside: Mapping[str, tuple[bytes, ...]]) -> int | None:
    """Return the schema version of the database at `path`, or None if the file is empty or missing.

    `application_id` is the SQLite application id that the database must have. `path` must have no symbolic links, since
    SQLite resolves them. `beside` maps the suffixes of the journal files that may exist beside the database to the
    first bytes that each may have. Raises `ForeignFileError` if the file or one of these is a file of another type, and
    `OSError` if one cannot be read.

    The function changes nothing and opens only regular files. Opening a FIFO would block, and opening a device may have
    side effects.
    """
    header = _read_header(path)
    for suffix in _SUFFIXES:
        neighbor = path.with_name(path.name + suffix)
        begin = _read_header(neighbor)
        if begin and not begin.startswith(beside.get(suffix, ())):
            raise ForeignFileError(f"{shorten(neighbor, 200)} is a file of another type")
    if not header:
        return None
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC_BYTES):
        raise ForeignFileError(f"{shorten(path, 200)} is a file of another type")
    if int.from_bytes(header[_APPLICATION_ID_BYTES]) != application_id:
        raise ForeignFileError(f"{shorten(path, 200)} is a database of another type")
    return int.from_bytes(header[_VERSION_BYTES], signed=True)


def _read_header(path: Path) -> bytes:
    """Return the first bytes of a regular file, or no bytes if it is missing.

    Raises `ForeignFileError` if it is not a regular file, and `OSError` if it cannot be read.
    """
    try:
        _check_regular(path, path.lstat().st_mode)
        with path.open("rb") as file:
            return file.read(_HEADER_BYTES)
    except FileNotFoundError:
        return b""


def _check_regular(path: Path, mode: int) -> None:
    """Raise `ForeignFileError` if the file with this `mode` is not a regular file."""
    if not stat.S_ISREG(mode):
        what = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
        raise ForeignFileError(f"{shorten(path, 200)} is {what}")


def connect(path: Path) -> sqlite3.Connection:
    """Open the database at `path`, or create it.

    The first transaction locks the file until the connection is closed. If another process has locked it, the
    transaction raises `sqlite3.OperationalError` at once. No directory for temporary files is needed.
    """
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA temp_store = MEMORY")
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    except BaseException:
        connection.close()
        raise
    return connection


# Written into the file, so that later versions can recognize and migrate it.
SCHEMA_VERSION = 2
# "Braz" in ASCII. It marks the file as a state file, so that the exporter never writes into another database.
APPLICATION_ID = 0x4272617A
# How long a second process waits for the lock, in seconds. During an update the new process starts while the old one
# ends.
LOCK_TIMEOUT_SECONDS = 30.0
# The interval between two attempts to lock the file, in seconds.
_LOCK_RETRY_SECONDS = 0.1
# The number of rows per statement. Larger statements are faster, since the thread waits for the GIL after each one.
# Older SQLite versions accept at most 999 values.
_ROWS_PER_STATEMENT = 120

# The name of the salt of the key digests in `file_properties`.
_SALT_PROPERTY = "key_salt"

# SQLite stores the comments inside the statements too, so that `.schema` shows them. All times are in seconds since the
# epoch by the clock of the machine.
_TABLES = (
    """
    CREATE TABLE counters (
        -- The counter states.
        key TEXT PRIMARY KEY,        -- JSON list, see CounterKey
        unit TEXT NOT NULL,          -- 'hour' or 'day'
        total REAL NOT NULL,         -- see CounterState, also for the following columns
        withheld REAL NOT NULL,
        floor INTEGER NOT NULL,      -- number of a bucket
        requested_at REAL NOT NULL,
        zone TEXT NOT NULL,
        highest TEXT NOT NULL        -- JSON list of pairs: number of a bucket, value or null
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE names (
        -- The last known names of what Braze identifies by an id.
        workspace TEXT,
        url TEXT,
        kind TEXT,                   -- 'campaigns', 'variations', ...
        id TEXT,
        name TEXT NOT NULL,
        PRIMARY KEY (workspace, url, kind, id)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE queries (
        -- When each query is fetched next, and the times of its last response.
        id INTEGER PRIMARY KEY,
        key TEXT NOT NULL UNIQUE,    -- JSON list: the identity of the query, url, time zone
        added_at REAL NOT NULL,      -- when the query was added to the plan
        fetched_at REAL NOT NULL,    -- when the last fetch ended
        next_at REAL NOT NULL,       -- when the query is fetched next
        failures INTEGER NOT NULL,   -- number of consecutive transient failures
        error TEXT,                  -- JSON list: why the last fetch failed; null if it succeeded
        repair TEXT NOT NULL,        -- JSON object: which buckets the next fetch requests
        history TEXT NOT NULL,       -- JSON list of pairs: the ranges of the history for the baseline that are complete
        sent_at REAL,                -- when the last successful request was sent; null before the first
        received_at REAL,            -- when its response arrived
        latest_start INTEGER,        -- start of the latest bucket, the last known
        settled_start INTEGER        -- start of the settled bucket, the last known
    )
    """,
    """
    CREATE TABLE query_series (
        -- The series of each query, which seldom change.
        query INTEGER PRIMARY KEY,   -- queries.id
        series BLOB NOT NULL         -- compressed JSON list: metric group, key and labels of each series, and the start
                                     -- of its newest bucket if the last response does not have the series
    )
    """,
    """
    CREATE TABLE responses (
        -- The values of the last successful response of each query.
        query INTEGER PRIMARY KEY,   -- queries.id
        buckets BLOB NOT NULL        -- compressed: number of buckets, their starts, and a value for each series and
                                     -- bucket; NaN if it has no number, infinity if it is absent
    )
    """,
    """
    CREATE TABLE baselines (
        -- The settled values from which baselines are computed.
        query INTEGER,               -- queries.id
        period INTEGER,              -- number of a period of 168 buckets since the epoch
        buckets BLOB NOT NULL,       -- compressed JSON list: identity of each series, starts of buckets, values
        PRIMARY KEY (query, period)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE workspace_keys (
        -- The API key that each workspace used last. So a new key takes over the budget of the previous one.
        workspace TEXT,
        url TEXT,
        key_digest TEXT NOT NULL,    -- salted digest of the API key; the salt is in file_properties
        PRIMARY KEY (workspace, url)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE budgets (
        -- The budget of each pool, and until when it is stopped.
        url TEXT,
        key_digest TEXT,             -- see workspace_keys
        pool TEXT,                   -- name of the pool
        balance REAL NOT NULL,       -- number of calls in the token bucket at balance_at
        balance_at REAL NOT NULL,
        stopped_until REAL,          -- end of the stop after a 429 or at the reserve; null without one
        stop_reason TEXT,            -- why the pool is stopped
        stop_count INTEGER NOT NULL, -- number of consecutive 429, each of which doubles the stop
        rate_limit REAL,             -- the rate-limit headers of the last response; null if unknown
        remaining REAL,
        resets_at REAL,
        PRIMARY KEY (url, key_digest, pool)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE holds (
        -- What each endpoint responded to the API key, and until when it is not called.
        url TEXT,
        key_digest TEXT,             -- see workspace_keys
        path TEXT,                   -- path of the endpoint
        verdict TEXT NOT NULL,       -- 'accepted' or 'refused'; without a row it is unknown
        held_until REAL,             -- when the next call probes the endpoint; null if it is not held
        error TEXT,                  -- JSON object: the 401 or 403 that holds the endpoint; null if it is not held
        PRIMARY KEY (url, key_digest, path)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE lists (
        -- When each list of Braze was read, and when it is read next.
        workspace TEXT,
        url TEXT,
        path TEXT,                   -- path of the list endpoint
        read_at REAL NOT NULL,       -- when the list was last read to its end and used; 0 before the first time
        ended_at REAL NOT NULL,      -- when the last read ended
        next_at REAL NOT NULL,       -- when the list is read next
        failures INTEGER NOT NULL,   -- number of consecutive failures
        error TEXT,                  -- JSON list: why the last read failed; null if it succeeded
        suspect_since REAL,          -- time of the first read that lacked more than half of the items; null otherwise
        PRIMARY KEY (workspace, url, path)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE list_items (
        -- The items of each list.
        workspace TEXT,
        url TEXT,
        path TEXT,                   -- path of the list endpoint
        calls INTEGER NOT NULL,      -- number of calls of a read
        items TEXT NOT NULL,         -- JSON list: id, name, tags and further fields of each item, in the order of Braze
        missing_since TEXT NOT NULL, -- JSON object: time of the first read that lacked an item, by its id
        PRIMARY KEY (workspace, url, path)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE file_properties (
        -- Single values, such as the random salt of the digests.
        name TEXT PRIMARY KEY,
        value NOT NULL
    ) WITHOUT ROWID
    """,
)


class BudgetRow(NamedTuple):
    """A row of the table `budgets`."""

    url: str
    key_digest: str
    pool: str
    balance: float
    balance_at: float
    stopped_until: float | None
    stop_reason: str | None
    stop_count: int
    rate_limit: float | None
    remaining: float | None
    resets_at: float | None


class HoldRow(NamedTuple):
    """A row of the table `holds`."""

    url: str
    key_digest: str
    path: str
    verdict: str
    held_until: float | None
    error: str | None


@dataclass(frozen=True, slots=True)
class BudgetRecords:
    """What the state file keeps about budgets and API keys.

    `salt` is that of the digests. `key_digests` has the digest of the key that each workspace used last, by name and
    url.
    """

    salt: str
    key_digests: Mapping[tuple[str, str], str]
    budgets: Sequence[BudgetRow] = ()
    holds: Sequence[HoldRow] = ()


# Workspace, url, kind, subject, alias and id of the app, alias and id of the segment, then the key of the series if a
# query has several. Aliases are the names in the config. The subject is Braze's id, or else its name. Ids of hex digits
# and dashes are in lower case. What is not applicable is empty.
CounterKey = tuple[str, ...]
# Workspace, url, kind and id.
NameKey = tuple[str, str, str, str]
# The row to write for each table and key, or None to delete the rows whose key begins with this one. A key has the
# values of the first columns of its table.
TableChanges = Mapping[tuple[str, tuple[object, ...]], Sequence[object] | None]
# The columns of the keys of the tables in `TableChanges`.
_KEY_COLUMNS = {
    "queries": ("id",),
    "query_series": ("query",),
    "responses": ("query",),
    "baselines": ("query", "period"),
    "lists": ("workspace", "url", "path"),
    "list_items": ("workspace", "url", "path"),
}
# The columns of a counter state in the order of its fields. `highest` is JSON.
Row = tuple[str, float, float, int, float, str, str]

_log = logging.getLogger(__name__)


class StateFileError(Exception):
    """Raised if the state file cannot be used or written. The message states the reason."""


class InaccessibleError(StateFileError):
    """Raised if the user of the process may not read or write the state file, or if its directory is missing."""


class _DamagedError(StateFileError):
    """Raised if the content of the state file is damaged."""


class Aliases(NamedTuple):
    """The aliases of the config for apps and segments, each by workspace name, url and Braze's id."""

    apps: Mapping[tuple[str, str, str], str]
    segments: Mapping[tuple[str, str, str], str]


NO_ALIASES = Aliases(apps={}, segments={})


@dataclass(slots=True)
class CounterState:
    """The state of one counter, fed by series of one `unit`.

    `total` is the value of the counter. Buckets before `floor` are not counted. `highest` holds the highest value of
    each bucket. It is None for a bucket without a number yet, whose first number is not counted. `requested_at` is the
    time of the request for the newest response with values, in seconds since the epoch. If no response had values, it
    is that of the first response. `withheld` is an amount that was counted but is not exported yet. `zone` is the name
    of the time zone for hours that Braze sent without a zone, empty if it is not known.
    """

    unit: Unit
    total: float
    floor: int
    requested_at: float
    highest: dict[int, float | None] = field(default_factory=dict)
    withheld: float = 0.0
    zone: str = ""

    def copy(self) -> "CounterState":
        """Return an independent copy."""
        return replace(self, highest=dict(self.highest))

    def to_row(self) -> Row:
        """Return the state as an immutable row of the state file."""
        highest = json.dumps(list(self.highest.items()))
        return (self.unit.value, self.total, self.withheld, self.floor, self.requested_at, self.zone, highest)

    @classmethod
    def from_row(cls, row: Row) -> "CounterState":
        """Return the state that a row holds. Raises `ValueError` or `TypeError` if the row is invalid."""
        unit, total, withheld, floor, requested_at, zone, highest = row
        return cls(
            Unit(unit),
            float(total),
            int(floor),
            float(requested_at),
            {int(bucket): None if value is None else float(value) for bucket, value in json.loads(highest)},
            float(withheld),
            str(zone),
        )


class StateFile:
    """An open state file, locked against other processes. Writes are thread-safe.

    If the file is deleted, the next write fails. The write after that creates it again from the open database, so that
    nothing is lost. If the file is replaced by another one, writes fail and do not change that one. A restart uses it.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, lock: io.FileIO) -> None:
        """Use the `connection` to the file at `path`, which has no symbolic links, and its locked file `lock`."""
        self._path = path
        self._connection = connection
        self._lock = lock
        self._status = path.lstat()
        self._is_deleted = False
        self._transaction_lock = threading.Lock()

    def read(self) -> dict[CounterKey, CounterState]:
        """Return all counter states. Raises `StateFileError` if one cannot be read."""
        return _read_counters(self._connection)

    def read_names(self) -> dict[NameKey, str]:
        """Return the last known names. Raises `StateFileError` if they cannot be read."""
        return _read_names(self._connection)

    def write(
        self,
        rows: Mapping[CounterKey, Row],
        removed: Iterable[CounterKey] = (),
        names: Mapping[NameKey, str] | None = None,
        changes: TableChanges | None = None,
    ) -> None:
        """Write counter states, `names` and `changes`, and delete the counter states in `removed`.

        All is written in one durable transaction. Names that are not in `names` are kept.

        Raises `StateFileError` if that fails.
        """
        with self._transaction() as connection:
            connection.executemany("DELETE FROM counters WHERE key = ?", ((json.dumps(key),) for key in removed))
            _insert(connection, "counters", [(json.dumps(key), *row) for key, row in rows.items()])
            _insert(connection, "names", [(*key, name) for key, name in (names or {}).items()])
            _apply_changes(connection, changes or {})

    def read_budgets(self) -> BudgetRecords | None:
        """Return the budgets and holds, or None if none were written. Raises `StateFileError` if they are invalid."""
        return _read_budgets(self._connection)

    def write_budgets(self, records: BudgetRecords) -> None:
        """Replace the budgets and holds in one durable transaction. Raises `StateFileError` if that fails."""
        with self._transaction() as connection:
            for table in ("workspace_keys", "budgets", "holds"):
                connection.execute(f"DELETE FROM {table}")  # noqa: S608 - contains no input
            _insert(connection, "file_properties", [(_SALT_PROPERTY, records.salt)])
            _insert(connection, "workspace_keys", [(*key, digest) for key, digest in records.key_digests.items()])
            _insert(connection, "budgets", records.budgets)
            _insert(connection, "holds", records.holds)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Yield the connection for one durable transaction. Raises `StateFileError` if it fails."""
        with self._transaction_lock:
            self._check_file()
            try:
                with self._connection:
                    self._connection.execute("BEGIN IMMEDIATE")
                    yield self._connection
            except sqlite3.Error as error:
                raise StateFileError(str(error)) from error

    def read_table(self, table: str) -> list[tuple[Any, ...]]:
        """Return the rows of one of the tables in `TableChanges`. Raises `StateFileError` if they cannot be read."""
        try:
            return self._connection.execute(f"SELECT {_columns(table)} FROM {table}").fetchall()  # noqa: S608 - contains no input
        except sqlite3.Error as error:
            raise StateFileError(f"cannot be read: {error}") from error

    def close(self) -> None:
        """Close the file and release its lock."""
        with (
            self._transaction_lock,
            contextlib.closing(self._lock),
            contextlib.closing(self._connection),
            contextlib.suppress(OSError, sqlite3.Error),
        ):
            if not os.path.samestat(self._path.lstat(), self._status):
                self._keep_journal()

    def _check_file(self) -> None:
        """Check before a write that the open file is still at its path, and create it again if it was deleted before.

        Raises `StateFileError` if the file was just deleted, was replaced or cannot be created again.
        """
        shown_path = shorten(self._path, 200)
        try:
            status = self._path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            if not self._is_deleted:
                self._is_deleted = True
                raise StateFileError(f"{shown_path} was deleted; the next write creates it again") from None
            self._create_again()
        except OSError as error:
            raise StateFileError(f"{shown_path} cannot be read ({error.strerror})") from error
        else:
            if not os.path.samestat(status, self._status):
                raise StateFileError(
                    f"{shown_path} was replaced by another file; restart the exporter to use that file, or delete it"
                )
        self._is_deleted = False

    def _create_again(self) -> None:
        """Create the deleted file again, and use it from now on. Raises `StateFileError` if that is not possible."""
        shown_path = shorten(self._path, 200)
        self._renew_lock()
        try:
            with self._path.open("xb") as file:  # fails if the path is in use again
                status = os.fstat(file.fileno())
        except OSError as error:
            raise StateFileError(f"{shown_path} cannot be created again ({error.strerror})") from error
        try:
            connection = connect(self._path)
            try:
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("PRAGMA cache_spill = OFF")  # so that the header is written before other pages
                self._connection.backup(connection)
                connection.execute("BEGIN EXCLUSIVE")
                connection.execute("COMMIT")
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as error:
            with contextlib.suppress(OSError):
                if os.path.samestat(self._path.lstat(), status):
                    self._path.unlink()
            raise StateFileError(f"{shown_path} cannot be created again ({error})") from error
        with contextlib.suppress(sqlite3.Error):
            self._keep_journal()
        self._connection.close()
        self._connection, self._status = connection, status

    def _renew_lock(self) -> None:
        """Lock the file at the path of the lock file again, if it was deleted too. Raises `StateFileError`."""
        lock = _lock_path(self._path)
        with contextlib.suppress(OSError):
            if os.path.samestat(lock.lstat(), os.fstat(self._lock.fileno())):
                return
        new_lock = _lock_file(self._path, _Deadline(self._path, 0))
        self._lock.close()
        self._lock = new_lock

    def _keep_journal(self) -> None:
        """Let `close` delete no journal, since a file at its path may belong to another database."""
        self._connection.execute("PRAGMA journal_mode = PERSIST")


def inspect_state_file(path: str) -> None:
    """Check that `path` is a state file, empty or missing, without changing or creating anything.

    Raises `InaccessibleError` if the user of the process may not read or write it, or if its directory is missing.
    Raises `StateFileError` if it or its lock file is a file of another type, or if it was written by a newer version of
    the exporter.
    """
    real = Path(os.path.realpath(path))
    _inspect(real)
    if not real.parent.is_dir():
        raise InaccessibleError(f"{shorten(real.parent, 200)} does not exist; create the directory")
    for each in (real.parent, real, _lock_path(real)):
        if each.exists() and not os.access(each, os.W_OK):
            raise InaccessibleError(f"{shorten(each, 200)} is not writable; make it writable for the exporter's user")


def open_state_file(path: str, wait: float = LOCK_TIMEOUT_SECONDS, aliases: Aliases = NO_ALIASES) -> StateFile:
    """Open the state file at `path`, or create it, and lock it against other processes.

    A file of schema 1 is migrated in one transaction. `aliases` contains the names that its counters get for the ids of
    apps and segments. A damaged state file is renamed and replaced by a new one. The counters then start at 0, which
    Prometheus treats as a counter reset.

    Raises `StateFileError` if another process locks the file for longer than `wait` seconds, or if it can be neither
    opened nor created. A file of another type or of a newer version of the exporter is refused too. In all these cases
    the file is not changed.
    """
    real = Path(os.path.realpath(path))  # SQLite resolves symbolic links, and puts its other files beside the real file
    _inspect(real)  # before the lock file is created
    deadline = _Deadline(real, wait)
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(_lock_file(real, deadline))
        connection = stack.enter_context(contextlib.closing(_open_or_replace(path, real, deadline, aliases)))
        try:
            state_file = StateFile(real, connection, lock)
        except OSError as error:  # deleted since it was opened
            raise StateFileError(f"{shorten(path, 200)} cannot be used ({error.strerror}); try again") from error
        stack.pop_all()
        return state_file


def _open_or_replace(path: str, real: Path, deadline: "_Deadline", aliases: Aliases) -> sqlite3.Connection:
    """Open or create the database, and replace it by a new one if it is damaged. Raises `StateFileError`."""
    try:
        return _open(real, deadline, aliases)
    except sqlite3.DatabaseError as error:
        if not _is_damage(error):  # locked, no such folder, no permission, no space
            raise StateFileError(_describe_error(path, error)) from error
        reason = str(error)
    except _DamagedError as error:
        reason = str(error)
    damaged_path = _free_name(f"{real}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    fields = {"file": path, "kept_as": damaged_path, "reason": reason}
    _log.error("State file is damaged, moving it aside and resetting counters", extra={"fields": fields})
    try:
        with contextlib.suppress(FileNotFoundError):
            Path(f"{real}-journal").rename(f"{damaged_path}-journal")
        real.rename(damaged_path)
        return _open(real, deadline, aliases)
    except (OSError, sqlite3.Error) as error:
        raise StateFileError(f"{path} is damaged and cannot be replaced: {error}") from error


def _free_name(name: str) -> str:
    """Return `name`, with a number appended if a file or a journal of that name exists."""
    names = chain([name], (f"{name}-{number}" for number in count(2)))
    return next(name for name in names if not (os.path.lexists(name) or os.path.lexists(f"{name}-journal")))


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Return whether an error is caused by the content of the file, not by the disk or a lock."""
    # The SQL is valid, so SQLITE_ERROR means that the file lacks the table or a column, or has an invalid format.
    return not isinstance(error, sqlite3.OperationalError) or error.sqlite_errorcode == sqlite3.SQLITE_ERROR


def _inspect(real: Path) -> None:
    shown_path, remedy = shorten(real, 200), "choose another path for state_file"
    try:
        version = read_schema_version(real, APPLICATION_ID, {"-journal": ROLLBACK_JOURNAL})
        with contextlib.suppress(FileNotFoundError):
            _check_lock_file(_lock_path(real), _lock_path(real).lstat())
    except ForeignFileError as error:
        raise StateFileError(f"{error}; {remedy}, or move the file") from None
    except PermissionError as error:
        raise InaccessibleError(
            f"{shown_path} cannot be read ({error.strerror}); make it readable, or {remedy}"
        ) from error
    except OSError as error:
        raise StateFileError(f"{shown_path} cannot be read ({error.strerror}); {remedy}") from error
    if version is not None and version > SCHEMA_VERSION:
        raise StateFileError(
            f"{shown_path} was written by a newer version of the exporter (schema version {version}, supported: "
            f"{SCHEMA_VERSION}); run that version"
        )


class _Deadline:
    """The end of the wait for another process that has locked the file at `path`, `seconds` from now."""

    def __init__(self, path: Path, seconds: float) -> None:
        self._path = path
        self._seconds = seconds
        self._ends_at = time.monotonic() + seconds
        self._is_logged = False

    def wait(self) -> bool:
        """Wait a moment and return true, or return false after the deadline. The first wait is logged.

        Waits are short, since the system may deliver a signal to another thread, which does not end a sleep.
        """
        if time.monotonic() >= self._ends_at:
            return False
        if not self._is_logged:
            self._is_logged = True
            fields = {"file": str(self._path), "timeout": f"{self._seconds:g}s"}
            _log.warning("State file is locked by another exporter, waiting", extra={"fields": fields})
        time.sleep(_LOCK_RETRY_SECONDS)
        return True


def _lock_path(real: Path) -> Path:
    return real.with_name(f"{real.name}.lock")


def _lock_file(real: Path, deadline: _Deadline) -> io.FileIO:
    """Lock the lock file of the state file at `real`, and return it. Closing it releases the lock.

    Raises `StateFileError` if another process holds the lock until `deadline`, or if the file cannot be locked. A file
    system without locks is refused, since two exporters could then write the state file.
    """
    path, remedy = _lock_path(real), "choose another path for state_file"
    while True:
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(_open_lock_file(real, path))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(path.lstat(), os.fstat(file.fileno())):
                    stack.pop_all()
                    return file
            except FileNotFoundError:  # deleted since it was opened
                continue
            except BlockingIOError:
                if not deadline.wait():
                    raise StateFileError(_describe_lock(str(real))) from None
            except OSError as error:
                shown_path = shorten(path, 200)
                text = f"{shown_path} cannot be locked ({error.strerror}); {remedy}, on a file system with locks"
                raise StateFileError(text) from error


def _open_lock_file(real: Path, path: Path) -> io.FileIO:
    """Open the lock file at `path`, or create it. Raises `StateFileError`."""
    remedy = "choose another path for state_file"
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        with contextlib.suppress(FileNotFoundError):  # before opening, which may have side effects on a device
            _check_lock_file(path, path.lstat())
        file = io.FileIO(path, "r+", opener=lambda name, _flags: os.open(name, flags, 0o600))
        with contextlib.ExitStack() as stack:
            stack.enter_context(file)
            _check_lock_file(path, os.fstat(file.fileno()))
            stack.pop_all()
    except ForeignFileError as error:
        raise StateFileError(f"{error}; {remedy}, or move the file") from None
    except OSError as error:
        shown_path = shorten(path if os.path.lexists(path) else real, 200)
        raise StateFileError(
            f"{shown_path} cannot be used ({error.strerror}); {remedy}, or make this one writable"
        ) from error
    return file


def _check_lock_file(path: Path, status: os.stat_result) -> None:
    """Raise `ForeignFileError` if the file with this `status` is not a lock file, which is regular and empty."""
    _check_regular(path, status.st_mode)
    if status.st_size:
        raise ForeignFileError(f"{shorten(path, 200)} is a file of another type")


def _open(real: Path, deadline: _Deadline, aliases: Aliases) -> sqlite3.Connection:
    """Open the database, and wait while another process locks it.

    Raises `sqlite3.OperationalError` if it is still locked after `deadline`.
    """
    while True:
        try:
            return _try_to_open(real, aliases)
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or not deadline.wait():
                raise


def _try_to_open(real: Path, aliases: Aliases) -> sqlite3.Connection:
    _inspect(real)  # before opening, since closing any descriptor of a file drops all POSIX locks on it
    connection = connect(real)
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN EXCLUSIVE")
        _prepare(connection, aliases)
        _read_counters(connection)
        _read_names(connection)
        for table in _KEY_COLUMNS:
            connection.execute(f"SELECT {_columns(table)} FROM {table} LIMIT 0")  # noqa: S608 - contains no input
        _read_budgets(connection)
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, aliases: Aliases) -> None:
    """Create the tables in a new file, and migrate a file of schema 1.

    Raises `_DamagedError` if an existing file fails the integrity check or cannot be migrated.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    is_new = (application, version) == (0, 0)
    if not is_new:
        if version not in (1, SCHEMA_VERSION):
            raise _DamagedError(f"invalid schema version: {version}")
        problems = [problem for (problem,) in connection.execute("PRAGMA quick_check")]
        if problems != ["ok"]:
            raise _DamagedError(f"integrity check failed: {problems[0]}")
    if version == SCHEMA_VERSION:
        return
    for table in _TABLES:
        connection.execute(table)
    if not is_new:
        _migrate_counters(connection, aliases)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _read_counters(connection: sqlite3.Connection) -> dict[CounterKey, CounterState]:
    """Return all counter states. Raises `StateFileError` if one cannot be read."""
    with _reading():
        rows = connection.execute(f"SELECT {_columns('counters')} FROM counters")  # noqa: S608 - contains no input
        return {tuple(json.loads(key)): CounterState.from_row(row) for key, *row in rows}


def _read_names(connection: sqlite3.Connection) -> dict[NameKey, str]:
    """Return the last known names. Raises `StateFileError` if they cannot be read."""
    with _reading():
        names = {}
        rows = connection.execute(f"SELECT {_columns('names')} FROM names")  # noqa: S608 - contains no input
        for workspace, url, kind, item_id, name in rows:
            if not isinstance(name, str):
                raise TypeError("a name is not text")
            names[workspace, url, kind, item_id] = name
        return names


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    """Raise `StateFileError` instead of an error of the database or of its content."""
    try:
        yield
    except (sqlite3.Error, ValueError, TypeError, LookupError) as error:
        is_damage = not isinstance(error, sqlite3.DatabaseError) or _is_damage(error)
        raise (_DamagedError if is_damage else StateFileError)(f"cannot be read: {error}") from error


@functools.cache
def _columns(table: str) -> str:
    """Return the names of the columns of a table. A file of a later version may have further ones."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        for statement in _TABLES:
            connection.execute(statement)
        columns = connection.execute("SELECT name FROM pragma_table_info(?) ORDER BY cid", (table,))
        return ", ".join(name for (name,) in columns)


def _read_budgets(connection: sqlite3.Connection) -> BudgetRecords | None:
    """Return the budgets and holds, or None if there are none. Raises `StateFileError` if one cannot be read."""
    try:
        select = "SELECT value FROM file_properties WHERE name = ?"
        salts = [str(salt) for (salt,) in connection.execute(select, (_SALT_PROPERTY,))]
        key_digests = {
            (str(workspace), str(url)): str(digest)
            for workspace, url, digest in connection.execute("SELECT workspace, url, key_digest FROM workspace_keys")
        }
        select = f"SELECT {', '.join(BudgetRow._fields)} FROM budgets"  # noqa: S608 - contains no input
        budgets = [
            BudgetRow(
                url,
                digest,
                pool,
                float(balance),
                float(at),
                _to_float(until),
                reason,
                int(count),
                *map(_to_float, told),
            )
            for url, digest, pool, balance, at, until, reason, count, *told in connection.execute(select)
        ]
        select = f"SELECT {', '.join(HoldRow._fields)} FROM holds"  # noqa: S608 - contains no input
        holds = [
            HoldRow(url, digest, path, verdict, _to_float(until), error)
            for url, digest, path, verdict, until, error in connection.execute(select)
        ]
    except (sqlite3.Error, ValueError, TypeError) as error:
        is_damage = not isinstance(error, sqlite3.DatabaseError) or _is_damage(error)
        raise (_DamagedError if is_damage else StateFileError)(f"cannot be read: {error}") from error
    return BudgetRecords(salts[0], key_digests, budgets, holds) if salts else None


def _to_float(value: Any) -> float | None:  # noqa: ANN401 - a value of SQLite
    return None if value is None else float(value)


def _insert(connection: sqlite3.Connection, table: str, rows: Sequence[Sequence[object]]) -> None:
    """Insert rows into a table, or replace those with the same key. The values are in the order of `_columns`."""
    for start in range(0, len(rows), _ROWS_PER_STATEMENT):
        batch = rows[start : start + _ROWS_PER_STATEMENT]
        placeholders = ", ".join([f"({', '.join('?' * len(batch[0]))})"] * len(batch))
        statement = f"INSERT OR REPLACE INTO {table} ({_columns(table)}) VALUES {placeholders}"  # noqa: S608 - no input
        connection.execute(statement, [*chain(*batch)])


def _apply_changes(connection: sqlite3.Connection, changes: TableChanges) -> None:
    for (table, key), row in changes.items():
        if row is None:
            condition = " AND ".join(f"{column} = ?" for column in _KEY_COLUMNS[table][: len(key)])
            connection.execute(f"DELETE FROM {table} WHERE {condition}", key)  # noqa: S608 - contains no input
    for table in _KEY_COLUMNS:
        _insert(connection, table, [row for (name, _), row in changes.items() if name == table and row is not None])


def _describe_error(path: str, error: sqlite3.DatabaseError) -> str:
    if "locked" in str(error):
        return _describe_lock(path)
    remedy = "choose another path for state_file, or make this one writable"
    return f"{shorten(path, 200)} cannot be used ({error}); {remedy}"


def _describe_lock(path: str) -> str:
    remedy = "use one state file per exporter, or wait until it has stopped"
    return f"{shorten(path, 200)} is locked by another exporter; {remedy}"


# The metric groups of schema 1 that have another name now, and those whose statistic `revenue` has its own group now.
_RENAMED_GROUPS = {"campaign_revenue": "campaign_revenue_dollars", "canvas_revenue": "canvas_revenue_dollars"}
_MESSAGE_REVENUE_GROUPS = {
    "campaign_messages": "campaign_message_revenue_dollars",
    "canvas_messages": "canvas_message_revenue_dollars",
}
# The kinds whose subjects had ids in the keys of schema 1.
_KINDS_WITH_IDS = ("campaigns", "canvases")


def _migrate_counters(connection: sqlite3.Connection, aliases: Aliases) -> None:
    """Move the counters of schema 1 into the tables of schema 2.

    If ids differ only in case, the counter with the newest request is kept. Raises `_DamagedError` if a counter is
    invalid.
    """
    select = "SELECT subject, unit, total, 0.0, floor, asked_at, '', seen FROM accounts ORDER BY asked_at"
    lower_case_aliases = Aliases(
        *(
            {(workspace, url, normalize_id(of_id)): name for (workspace, url, of_id), name in names.items()}
            for names in aliases
        )
    )
    try:
        rows = {
            _migrate_key(json.loads(key), lower_case_aliases): CounterState.from_row(row).to_row()
            for key, *row in connection.execute(select)
        }
    except (ValueError, TypeError, LookupError) as error:
        raise _DamagedError(f"cannot be read: {error}") from error
    _insert(connection, "counters", [(json.dumps(key), *row) for key, row in rows.items()])
    connection.execute("DROP TABLE accounts")


def _migrate_key(key: Sequence[str], aliases: Aliases) -> CounterKey:
    """Return the key of schema 2 for a key of schema 1. Raises `ValueError` or `TypeError` if the key is invalid."""
    workspace, url, kind, subject, app, segment, *series = key
    app_id, segment_id = normalize_id(app), normalize_id(segment)
    return (
        workspace,
        url,
        kind,
        normalize_id(subject) if kind in _KINDS_WITH_IDS else subject,
        aliases.apps.get((workspace, url, app_id), ""),
        app_id,
        aliases.segments.get((workspace, url, segment_id), ""),
        segment_id,
        *_migrate_series(series),
    )


def _migrate_series(series: Sequence[str]) -> Sequence[str]:
    """Return the key of a series in schema 2. The name of a part, which identifies only parts without an id, is empty.

    In schema 1, only parts with an id had counters.
    """
    match series:
        case [("campaign_messages" | "canvas_messages") as group, part, channel, "revenue"]:
            return (_MESSAGE_REVENUE_GROUPS[group], normalize_id(part), "", channel)
        case [("campaign_messages" | "canvas_messages") as group, part, channel, statistic]:
            return (group, normalize_id(part), "", channel, statistic)
        case [group, *rest]:
            return (_RENAMED_GROUPS.get(group, group), *rest)
        case _:
            return ()
