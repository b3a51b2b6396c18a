"""Store fetched history until the output is written: an SQLite file that one process uses at a time.

Queries are identified by Braze's ids. If the config changes between two runs, the data of queries that it still has is
reused.
"""

import contextlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from braze_exporter.backfill.request import BackfillError, TimeArgument
from braze_exporter.braze.query import Query
from braze_exporter.braze.series import Point, Series, SeriesHead
from braze_exporter.config.document import shorten_path
from braze_exporter.state.database import (
    ROLLBACK_JOURNAL,
    WRITE_AHEAD_LOG,
    create_tables,
    open_database,
    read_schema_version,
    transaction,
)
from braze_exporter.state.errors import ForeignFileError

# Stored in the file, so that later versions recognize its format.
SCHEMA_VERSION = 3
# "Brzh" in ASCII. It identifies resume files, so that no other database is read or written.
APPLICATION_ID = 0x42727A68
# The number of points that are read from the file at once.
_FETCH_ROWS = 1_000

_TABLES = (
    # The time range that the command was given.
    "CREATE TABLE time_range (start TEXT NOT NULL, end TEXT NOT NULL)",
    "CREATE TABLE queries (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE)",
    # The chunks of each query whose responses are stored. A chunk is identified by its `ending_at`.
    "CREATE TABLE chunks (query INTEGER, ending_at INTEGER, PRIMARY KEY (query, ending_at)) WITHOUT ROWID",
    # The series of each query. The labels are those of the newest chunk that has the series.
    (
        "CREATE TABLE series (id INTEGER PRIMARY KEY, query INTEGER, key TEXT, labels TEXT NOT NULL,"
        " newest_chunk INTEGER NOT NULL, UNIQUE (query, key))"
    ),
    "CREATE TABLE points (series INTEGER, start INTEGER, value REAL, PRIMARY KEY (series, start)) WITHOUT ROWID",
)
# A series has the labels of its newest response, as in the exporter.
_UPSERT_SERIES = (
    "INSERT INTO series (query, key, labels, newest_chunk) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (query, key) DO UPDATE SET labels = excluded.labels,"
    " newest_chunk = excluded.newest_chunk WHERE excluded.newest_chunk > newest_chunk"
)


class ResumeFile:
    """An open resume file. Thread-safe.

    All methods except `close` raise `BackfillError` if the file can no longer be used.
    """

    def __init__(self, path: Path, start: TimeArgument, end: TimeArgument) -> None:
        """Open or create the file at `path` for the time range from `start` to `end`.

        Raises `BackfillError` if the file has another time range, is no resume file, is damaged, is in use or cannot be
        created.
        """
        # SQLite resolves links too. A link at `path` itself is refused.
        self._path = Path(os.path.realpath(path.parent)) / path.name
        self._lock = threading.Lock()
        self._check_type()
        with self._translate_errors():
            self._connection = open_database(self._path, partial(self._prepare, (str(start), str(end))))
            # A power failure may lose the last responses, which are then fetched again. A killed process loses nothing.
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._status = self._path.lstat()

    def missing_chunks(self, chunks: Sequence[Query]) -> list[Query]:
        """Return the chunks whose responses are not stored. All `chunks` must be of one query."""
        if not chunks:
            return []
        with self._translate_errors():
            select = "SELECT ending_at FROM chunks JOIN queries ON id = query WHERE key = ?"
            saved = {ending_at for (ending_at,) in self._connection.execute(select, (_query_key(chunks[0]),))}
        return [chunk for chunk in chunks if chunk.ending_at not in saved]

    def save(self, chunk: Query, series_list: Sequence[Series], *, is_complete: bool) -> None:
        """Store the series of a response in one transaction. They are kept if the process is killed afterwards.

        If `is_complete` is false, they are a part of a chunk, which is still missing.
        """
        if not self.is_kept:
            raise BackfillError(f"{shorten_path(self._path)} was deleted or replaced")
        connection = self._connection
        with self._translate_errors(), transaction(connection):
            key = (_query_key(chunk),)
            connection.execute("INSERT OR IGNORE INTO queries (key) VALUES (?)", key)
            (query,) = connection.execute("SELECT id FROM queries WHERE key = ?", key).fetchone()
            for series in series_list:
                identity = (query, json.dumps(series.head.key))
                connection.execute(_UPSERT_SERIES, (*identity, json.dumps(series.head.labels), chunk.ending_at))
                select = "SELECT id FROM series WHERE query = ? AND key = ?"
                (number,) = connection.execute(select, identity).fetchone()
                rows = ((number, start, value) for start, value in series.points)
                connection.executemany("INSERT OR REPLACE INTO points VALUES (?, ?, ?)", rows)
            if is_complete:
                connection.execute("INSERT OR IGNORE INTO chunks VALUES (?, ?)", (query, chunk.ending_at))

    def read_series(self, query: Query) -> list[tuple[int, SeriesHead]]:
        """Return the stored series of a query, each with its number for `read_points`.

        Series of newer responses come first.
        """
        metric_groups = {metric_group.name: metric_group for metric_group in query.metric_groups}
        with self._translate_errors():
            select = (
                "SELECT series.id, series.key, labels FROM series JOIN queries ON queries.id = query"
                " WHERE queries.key = ? ORDER BY newest_chunk DESC, series.id"
            )
            rows = self._connection.execute(select, (_query_key(query),)).fetchall()
        keys = [(number, tuple(json.loads(key)), json.loads(labels)) for number, key, labels in rows]
        return [
            (number, SeriesHead(metric_groups[key[0]], tuple(map(tuple, labels)), key)) for number, key, labels in keys
        ]

    def read_points(self, number: int) -> Iterator[Point]:
        """Yield the points of the series with this `number`, the oldest first, one per bucket."""
        with self._translate_errors():
            select = "SELECT start, value FROM points WHERE series = ? ORDER BY start"
            cursor = self._connection.execute(select, (number,))
        while True:
            with self._translate_errors():
                rows = cursor.fetchmany(_FETCH_ROWS)
            if not rows:
                return
            yield from (Point(start, value) for start, value in rows)

    @property
    def is_kept(self) -> bool:
        """Whether the file is still at its path, so that the next run can use it."""
        with contextlib.suppress(OSError):
            return os.path.samestat(self._path.lstat(), self._status)
        return False

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def remove(self) -> None:
        """Close and delete the file, unless it was deleted or replaced by another file since it was opened."""
        self.close()
        if self.is_kept:
            with self._translate_errors():
                self._path.unlink()

    def _check_type(self) -> None:
        """Raise `BackfillError` if the file exists and is not a resume file."""
        remedy = "choose another --output"
        try:
            read_schema_version(self._path, APPLICATION_ID, {"-journal": ROLLBACK_JOURNAL, "-wal": WRITE_AHEAD_LOG})
        except ForeignFileError as error:
            raise BackfillError(f"{error}; {remedy}, or move the file") from None
        except OSError as error:
            raise BackfillError(f"{shorten_path(self._path)} cannot be read ({error.strerror}); {remedy}") from None

    def _prepare(self, time_range: tuple[str, str], connection: sqlite3.Connection, version: int) -> None:
        """Create the tables if the file is new.

        Raises `BackfillError` if the file has another version, or responses for another time range.
        """
        path, execute = shorten_path(self._path), connection.execute
        if not version:
            create_tables(connection, APPLICATION_ID, SCHEMA_VERSION, _TABLES)
            execute("INSERT INTO time_range VALUES (?, ?)", time_range)
        elif version != SCHEMA_VERSION:
            text = (
                f"{path} was created by another version of the exporter; resume with that version, or remove the file"
            )
            raise BackfillError(text)
        elif execute("SELECT 1 FROM chunks").fetchone() is None:
            execute("UPDATE time_range SET start = ?, end = ?", time_range)
        elif (started := execute("SELECT start, end FROM time_range").fetchone()) != time_range:
            raise BackfillError(
                f"{path} was created with --start={started[0]} --end={started[1]}; set the same values to resume, or "
                "remove the file"
            )

    @contextlib.contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Hold the lock, and raise errors of the file as `BackfillError`."""
        path = shorten_path(self._path)
        with self._lock:
            try:
                yield
            except sqlite3.OperationalError as error:  # a problem of the disk or a lock, not of the content
                if "locked" in str(error):
                    raise BackfillError(f"{path} is locked by another backfill; wait until it has finished") from None
                raise BackfillError(f"{path} cannot be used ({error}); free disk space, or make it writable") from None
            except sqlite3.ProgrammingError:  # another thread has closed the file
                raise BackfillError(f"{path} is closed") from None
            except sqlite3.DatabaseError as error:
                raise BackfillError(f"{path} is damaged ({error}); remove the file") from None
            except OSError as error:
                raise BackfillError(f"{path} cannot be removed ({error.strerror}); remove the file") from None


def _query_key(query: Query) -> str:
    """Return the key that identifies the history of a query in the file."""
    return json.dumps(query.identity)
