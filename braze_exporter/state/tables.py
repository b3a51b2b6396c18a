"""The tables of the state file, and their rows."""

import contextlib
import functools
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from braze_exporter.braze.errors import BrazeError, Reason

# The number of values per statement. Larger statements are faster, since the thread waits for the GIL after each one.
# Older SQLite versions accept at most 999 values.
_VALUES_PER_STATEMENT = 999

# The name of the salt of the key digests in `file_properties`.
SALT_PROPERTY = "key_salt"

# SQLite stores the comments inside the statements too, so that `.schema` shows them. All times are in seconds since the
# epoch by the clock of the machine.
TABLES = (
    """
    CREATE TABLE counters (
        -- The counters of each query; see CounterState.
        key TEXT PRIMARY KEY,        -- JSON list, see CounterKey
        unit TEXT NOT NULL,          -- 'hour' or 'day'
        requested_at REAL NOT NULL,
        zone TEXT NOT NULL
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE counter_buckets (
        -- The totals and the highest values of the counters, which change less often.
        key TEXT PRIMARY KEY,        -- see counters
        packed BLOB NOT NULL         -- compressed: number of bytes of the keys, number of buckets, their numbers, keys
                                     -- of the series as JSON list; for each of them total, withheld amount, floor,
                                     -- newest bucket, and the highest value of each bucket
    )
    """,
    """
    CREATE TABLE names (
        -- The last known names of what Braze identifies by an id.
        workspace TEXT,
        url TEXT,
        kind TEXT,                   -- 'campaigns' or 'canvases'
        id TEXT,
        name TEXT NOT NULL,
        PRIMARY KEY (workspace, url, kind, id)
    ) WITHOUT ROWID
    """,
    """
    CREATE TABLE queries (
        -- When each query is fetched next, and the times of its last response.
        id INTEGER PRIMARY KEY,      -- digest of the key
        key TEXT NOT NULL,           -- JSON list: the identity of the query
        fetched_at REAL NOT NULL,    -- when the row was last changed
        next_at REAL NOT NULL,       -- when the query is fetched next
        failures INTEGER NOT NULL,   -- number of consecutive transient failures
        error TEXT,                  -- JSON list: why the last fetch failed; null if it succeeded
        repair TEXT NOT NULL,        -- JSON object: which buckets the next fetch requests
        history TEXT NOT NULL,       -- JSON list: `channels`, `stats`, and the ranges of history read for them
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
        buckets BLOB NOT NULL,       -- compressed JSON list: key of each series, starts of buckets, values
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
        stop_count INTEGER NOT NULL, -- number of consecutive 429 without a reset time; each doubles the stop
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
        error TEXT,                  -- JSON list: the 401 or 403 that holds the endpoint; null if it is not held
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


# The row to write for each table and key, or None to delete the rows whose key begins with this one. A key has the
# values of the first columns of its table, and a row those of all columns.
TableChanges = dict[tuple[str, tuple[object, ...]], Sequence[object] | None]


@functools.cache
def columns() -> Mapping[str, Mapping[str, type]]:
    """Return the columns of each table, with the type of their values. A file of a later version may have more."""
    types = {"TEXT": str, "REAL": float, "INTEGER": int, "BLOB": bytes, "": object}
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        for statement in TABLES:
            connection.execute(statement)
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        select = "SELECT name, type FROM pragma_table_info(?) ORDER BY cid"
        return {table: {name: types[of] for name, of in connection.execute(select, (table,))} for (table,) in tables}


def select_rows(connection: sqlite3.Connection, table: str) -> sqlite3.Cursor:
    """Return the rows of a table, with the values in the order of `columns`."""
    return connection.execute(f"SELECT {', '.join(columns()[table])} FROM {table}")  # noqa: S608 - contains no input


def select_typed_rows(connection: sqlite3.Connection, table: str) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of a table. Raises `TypeError` if a value is neither null nor of the type of its column."""
    types = [(of, type(None)) for of in columns()[table].values()]
    for row in select_rows(connection, table):
        if not all(map(isinstance, row, types)):
            raise TypeError(f"a value in the table {table} has the wrong type")
        yield row


def insert_rows(connection: sqlite3.Connection, table: str, rows: Sequence[Sequence[object]]) -> None:
    """Insert rows into a table, or replace those with the same key. The values are in the order of `columns`."""
    names = columns()[table]
    size = _VALUES_PER_STATEMENT // len(names)
    for start in range(0, len(rows), size):
        batch = rows[start : start + size]
        values = ", ".join([f"({', '.join('?' * len(names))})"] * len(batch))
        statement = f"INSERT OR REPLACE INTO {table} ({', '.join(names)}) VALUES {values}"  # noqa: S608 - no input
        connection.execute(statement, [*chain(*batch)])


def apply_changes(connection: sqlite3.Connection, changes: TableChanges) -> None:
    """Delete and then insert rows."""
    rows: dict[str, list[Sequence[object]]] = {}
    for (table, key), row in changes.items():
        if row is not None:
            rows.setdefault(table, []).append(row)
            continue
        condition = " AND ".join(f"{name} = ?" for name in [*columns()[table]][: len(key)]) or "TRUE"
        connection.execute(f"DELETE FROM {table} WHERE {condition}", key)  # noqa: S608 - contains no input
    for table, inserted in rows.items():
        insert_rows(connection, table, inserted)


def merge_changes(earlier: TableChanges, later: TableChanges) -> TableChanges:
    """Return the changes that have the effect of `earlier` and then `later`."""
    deleted = {key for key, row in later.items() if row is None}
    kept = {
        (table, key): row
        for (table, key), row in earlier.items()
        if not any((table, key[:length]) in deleted for length in range(len(key)))
    }
    return {**kept, **later}


def save_error(error: BrazeError | None) -> str | None:
    """Return an error as JSON, or None if there is none."""
    return json.dumps([error.reason, error.detail, error.is_transient]) if error is not None else None


def restore_error(text: str | None) -> BrazeError | None:
    """Return the error that `save_error` saved. Raises `ValueError` or `TypeError` if the text is damaged."""
    if text is None:
        return None
    reason, detail, is_transient = json.loads(text)
    return BrazeError(Reason(reason), str(detail), is_transient=bool(is_transient))
