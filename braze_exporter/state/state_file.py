"""Opens, reads and writes the state file."""

import contextlib
import io
import logging
import os
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any, TypeVar

from braze_exporter.config.document import shorten_path
from braze_exporter.state.contents import is_damage, read_budgets, read_counters, read_names
from braze_exporter.state.counter_state import CounterKey, CounterState, NameKey
from braze_exporter.state.database import (
    ROLLBACK_JOURNAL,
    check_owner,
    connect,
    create_tables,
    open_database,
    read_schema_version,
    transaction,
)
from braze_exporter.state.errors import DamagedError, ForeignFileError, InaccessibleError, StateFileError
from braze_exporter.state.lock_file import Deadline, check_lock_file, describe_lock, lock_file, lock_path
from braze_exporter.state.migration import NO_ALIASES, Aliases, migrate_counters
from braze_exporter.state.tables import TABLES, BudgetRecords, TableChanges, apply_changes, columns, select_rows

# Written into the file, so that later versions can recognize and migrate it.
SCHEMA_VERSION = 2
# "Braz" in ASCII. It marks the file as a state file, so that the exporter never writes into another database.
APPLICATION_ID = 0x4272617A
# How long a second process waits for the lock, in seconds. During an update the new process starts while the old one
# ends.
LOCK_TIMEOUT_SECONDS = 30.0

_T = TypeVar("_T")
# The results of the functions that read the file, until they are used.
_Contents = dict[Callable[[sqlite3.Connection], Any], Any]

_log = logging.getLogger(__name__)


class StateFile:
    """An open state file, locked against other processes. One thread at a time may use it.

    If the file is deleted, the next write fails. The write after that creates it again from the open database, so that
    nothing is lost. If the file is truncated or replaced by another one, writes fail and do not change it. A restart
    uses it.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, contents: _Contents, lock: io.FileIO) -> None:
        """Use the `connection` to the file at `path`, which has no symbolic links, and its locked file `lock`."""
        self._path = path
        self._connection = connection
        self._contents = contents
        self._lock = lock
        self._status = path.lstat()
        self._is_deleted = False

    def read_counters(self) -> dict[CounterKey, CounterState]:
        """Return all counter states. Raises `StateFileError` if one cannot be read."""
        return self._read(read_counters)

    def read_names(self) -> dict[NameKey, str]:
        """Return the last known names. Raises `StateFileError` if they cannot be read."""
        return self._read(read_names)

    def read_budgets(self) -> BudgetRecords | None:
        """Return the budgets and holds, or None if none were written. Raises `StateFileError` if they are invalid."""
        return self._read(read_budgets)

    def _read(self, read: Callable[[sqlite3.Connection], _T]) -> _T:
        """Return the result of `read`.

        The first call returns what was read when the file was opened, unless the file has been written since.
        """
        result: _T = self._contents.pop(read) if read in self._contents else read(self._connection)
        return result

    def read_table(self, table: str) -> list[tuple[Any, ...]]:
        """Return the rows of a table. Raises `StateFileError` if they cannot be read."""
        try:
            return [*select_rows(self._connection, table)]
        except sqlite3.Error as error:
            raise StateFileError(f"cannot be read: {error}") from error

    def write(self, changes: TableChanges) -> None:
        """Write `changes` in one durable transaction. Raises `StateFileError` if that fails."""
        self._check_file()
        self._contents.clear()
        try:
            with transaction(self._connection):
                apply_changes(self._connection, changes)
        except sqlite3.Error as error:
            raise StateFileError(str(error)) from error

    def close(self) -> None:
        """Close the file and release its lock."""
        with (
            contextlib.closing(self._lock),
            contextlib.closing(self._connection),
            contextlib.suppress(OSError, sqlite3.Error),
        ):
            if not os.path.samestat(self._path.lstat(), self._status):
                self._keep_journal()

    def _check_file(self) -> None:
        """Check before a write that the open file is still at its path, and create it again if it was deleted before.

        Raises `StateFileError` if the file was just deleted, was replaced or truncated, or cannot be created again.
        """
        shown_path = shorten_path(self._path)
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
            if status.st_size < self._status.st_size:  # SQLite would write only the pages that change
                raise StateFileError(f"{shown_path} was truncated by another program; restart the exporter")
            self._status = status
        self._is_deleted = False

    def _create_again(self) -> None:
        """Create the deleted file again, and use it from now on. Raises `StateFileError` if that is not possible."""
        shown_path = shorten_path(self._path)
        self._renew_lock()
        try:
            with self._path.open("xb") as file:  # fails if the path is in use again
                status = os.fstat(file.fileno())
        except OSError as error:
            raise StateFileError(f"{shown_path} cannot be created again ({error.strerror})") from error
        try:
            connection = connect(self._path)
            try:
                connection.execute("PRAGMA cache_spill = OFF")  # so that the header is written before other pages
                self._connection.backup(connection)
                with transaction(connection, "EXCLUSIVE"):  # locks the file
                    pass
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
        lock = lock_path(self._path)
        with contextlib.suppress(OSError):
            if os.path.samestat(lock.lstat(), os.fstat(self._lock.fileno())):
                return
        new_lock = lock_file(self._path, Deadline(self._path, 0))
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
    _inspect(real, Path(path))
    if not real.parent.is_dir():
        raise InaccessibleError(f"{shorten_path(real.parent)} does not exist; create the directory")
    for each in (real.parent, real, lock_path(real)):
        if each.exists() and not os.access(each, os.W_OK):
            raise InaccessibleError(f"{shorten_path(each)} is not writable; make it writable for the exporter's user")


def open_state_file(path: str, wait: float = LOCK_TIMEOUT_SECONDS, aliases: Aliases = NO_ALIASES) -> StateFile:
    """Open the state file at `path`, or create it, and lock it against other processes.

    A file of schema 1 is migrated in one transaction. `aliases` contains the names that its counters get for the ids of
    apps and segments. A damaged state file is renamed and replaced by a new one. The counters then start at 0, which
    Prometheus treats as a counter reset.

    Raises `StateFileError` if another process locks the file for longer than `wait` seconds, or if it can be neither
    opened nor created. A file of another type or of a newer version of the exporter is refused too. In all these cases
    the file is not changed.
    """
    inspect_state_file(path)  # before the lock file is created
    real = Path(os.path.realpath(path))  # SQLite resolves symbolic links, and puts its other files beside the real file
    deadline = Deadline(real, wait)
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(lock_file(real, deadline))
        connection, contents = _open_or_replace(path, real, deadline, aliases)
        stack.enter_context(contextlib.closing(connection))
        try:
            state_file = StateFile(real, connection, contents, lock)
        except OSError as error:  # deleted since it was opened
            raise StateFileError(f"{shorten_path(path)} cannot be used ({error.strerror}); try again") from error
        stack.pop_all()
        return state_file


def _open_or_replace(
    path: str, real: Path, deadline: Deadline, aliases: Aliases
) -> tuple[sqlite3.Connection, _Contents]:
    """Open or create the database, and replace it by a new one if it is damaged. Raises `StateFileError`."""
    try:
        return _open(real, deadline, aliases)
    except sqlite3.DatabaseError as error:
        if not is_damage(error):  # locked, no such folder, no permission, no space
            raise StateFileError(_describe_error(path, error)) from error
        reason = str(error)
    except DamagedError as error:
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


def _inspect(real: Path, path: Path) -> None:
    shown_path, remedy = shorten_path(real), "choose another path for state_file"
    try:
        check_owner(path)  # may be a link to `real`
        version = read_schema_version(real, APPLICATION_ID, {"-journal": ROLLBACK_JOURNAL})
        with contextlib.suppress(FileNotFoundError):
            check_lock_file(lock_path(real), lock_path(real).lstat())
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


def _open(real: Path, deadline: Deadline, aliases: Aliases) -> tuple[sqlite3.Connection, _Contents]:
    """Open and read the database, and wait while another process locks it.

    Raises `sqlite3.OperationalError` if it is still locked after `deadline`.
    """
    while True:
        try:
            _inspect(real, real)  # before opening, since closing any descriptor of a file drops all POSIX locks on it
            contents: _Contents = {}
            return open_database(real, partial(_prepare, aliases=aliases, contents=contents)), contents
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or not deadline.wait():
                raise


def _prepare(connection: sqlite3.Connection, version: int, aliases: Aliases, contents: _Contents) -> None:
    """Create the tables in a new file, migrate a file of schema 1, and check that everything can be read.

    `contents` is an empty dict. It gets the results of the functions that read the file.

    Raises `DamagedError` if an existing file fails a check or cannot be migrated.
    """
    if version:
        if version not in (1, SCHEMA_VERSION):
            raise DamagedError(f"invalid schema version: {version}")
        problems = [problem for (problem,) in connection.execute("PRAGMA quick_check")]
        if problems != ["ok"]:
            raise DamagedError(f"integrity check failed: {problems[0]}")
    if version != SCHEMA_VERSION:
        create_tables(connection, APPLICATION_ID, SCHEMA_VERSION, TABLES)
    if version == 1:
        migrate_counters(connection, aliases)
    for read in (read_counters, read_names, read_budgets):
        contents[read] = read(connection)
    for table in columns():
        next(select_rows(connection, table), None)


def _describe_error(path: str, error: sqlite3.DatabaseError) -> str:
    if "locked" in str(error):
        return describe_lock(path)
    remedy = "choose another path for state_file, or make this one writable"
    return f"{shorten_path(path)} cannot be used ({error}); {remedy}"
