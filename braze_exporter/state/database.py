"""Opens SQLite databases of the exporter, and recognizes them by their header."""

import contextlib
import os
import sqlite3
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from braze_exporter.config.document import shorten_path
from braze_exporter.state.errors import ForeignFileError

# The headers of SQLite's files (https://www.sqlite.org/fileformat2.html): the database, its rollback journal and its
# write-ahead log. The first bytes of the journal are 0 until it is synced.
_HEADER_BYTES = 100
_MAGIC_BYTES = b"SQLite format 3\0"
_VERSION_BYTES, _APPLICATION_ID_BYTES = slice(60, 64), slice(68, 72)
ROLLBACK_JOURNAL = (b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7", bytes(8))
WRITE_AHEAD_LOG = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
_SUFFIXES = ("-journal", "-wal", "-shm")


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
            raise ForeignFileError(f"{shorten_path(neighbor)} is a file of another type")
    if not header:
        return None
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC_BYTES):
        raise ForeignFileError(f"{shorten_path(path)} is a file of another type")
    if int.from_bytes(header[_APPLICATION_ID_BYTES]) != application_id:
        raise ForeignFileError(f"{shorten_path(path)} is a database of another type")
    return int.from_bytes(header[_VERSION_BYTES], signed=True)


def _read_header(path: Path) -> bytes:
    """Return the first bytes of a regular file, or no bytes if it is missing.

    Raises `ForeignFileError` if it is not a regular file or may belong to another program or user, and `OSError` if it
    cannot be read.
    """
    try:
        status = path.lstat()
        check_regular(path, status.st_mode)
        check_owner(path)
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except FileNotFoundError:
        return b""
    if status.st_nlink > 1 and not header.startswith(_MAGIC_BYTES):
        raise ForeignFileError(f"{shorten_path(path)} has another hard link")
    return header


def check_regular(path: Path, mode: int) -> None:
    """Raise `ForeignFileError` if the file with this `mode` is not a regular file."""
    if not stat.S_ISREG(mode):
        what = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
        raise ForeignFileError(f"{shorten_path(path)} is {what}")


def check_owner(path: Path) -> None:
    """Raise `ForeignFileError` if another user may have planted the file or link at `path`, which may be missing.

    In directories such as /tmp, it must belong to the user of the process or to the owner of the directory. Linux has
    the same rule for new files and links, but not on every machine (`fs.protected_regular`, `fs.protected_symlinks`).
    """
    with contextlib.suppress(FileNotFoundError):
        owner, directory = path.lstat().st_uid, path.parent.stat()
        is_shared = directory.st_mode & stat.S_ISVTX and directory.st_mode & stat.S_IWOTH
        if is_shared and owner not in {os.geteuid(), directory.st_uid}:
            raise ForeignFileError(f"{shorten_path(path)} belongs to another user")


def connect(path: Path) -> sqlite3.Connection:
    """Open the database at `path`, or create it. Each transaction is durable. A link to a missing file is an error.

    The first transaction locks the file until the connection is closed. If another process has locked it, the
    transaction raises `sqlite3.OperationalError` at once. No directory for temporary files is needed.
    """
    with contextlib.suppress(OSError):  # SQLite reports why the file cannot be created
        path.touch(0o644, exist_ok=False)  # SQLite would follow a link that was created since the path was checked
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        for pragma in ("temp_store = MEMORY", "locking_mode = EXCLUSIVE", "synchronous = FULL"):
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    return connection


def open_database(path: Path, prepare: Callable[[sqlite3.Connection, int], None]) -> sqlite3.Connection:
    """Open the database at `path`, or create it, and lock it as `connect` does.

    `prepare` is called in the first transaction with the schema version, which is 0 for a new database. If it raises an
    exception, the database is closed and not changed.
    """
    connection = connect(path)
    try:
        with transaction(connection, "EXCLUSIVE"):
            prepare(connection, *connection.execute("PRAGMA user_version").fetchone())
    except BaseException:
        connection.close()
        raise
    return connection


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection, lock: str = "IMMEDIATE") -> Iterator[None]:
    """Commit at the end of the block, or roll back if it raises an exception."""
    with connection:
        connection.execute(f"BEGIN {lock}")
        yield


def create_tables(connection: sqlite3.Connection, application_id: int, version: int, tables: Iterable[str]) -> None:
    """Create the tables of a new database or of a new version of the schema, by the SQL statements `tables`.

    The application id and the schema version become part of the header, so that `read_schema_version` recognizes it.
    """
    for statement in (*tables, f"PRAGMA application_id = {application_id}", f"PRAGMA user_version = {version}"):
        connection.execute(statement)
