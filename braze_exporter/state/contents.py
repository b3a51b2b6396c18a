"""Reads the counters, names and budgets of the state file, and writes the counters."""

import contextlib
import json
import sqlite3
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from braze_exporter.braze.kinds import Unit
from braze_exporter.state.counter_state import CounterKey, CounterState, NameKey
from braze_exporter.state.errors import DamagedError, StateFileError
from braze_exporter.state.tables import SALT_PROPERTY, BudgetRecords, BudgetRow, HoldRow, columns, insert


def read_counters(connection: sqlite3.Connection) -> dict[CounterKey, CounterState]:
    """Return all counter states. Raises `StateFileError` if one cannot be read."""
    with _reading():
        rows = connection.execute(f"SELECT {columns('counters')} FROM counters")  # noqa: S608 - contains no input
        states = {
            tuple(json.loads(key)): CounterState(Unit(unit), float(requested_at), str(zone))
            for key, unit, requested_at, zone in rows
        }
        for key, packed in connection.execute(f"SELECT {columns('counter_buckets')} FROM counter_buckets"):  # noqa: S608
            states[tuple(json.loads(key))].unpack_counters(zlib.decompress(packed))
        return states


def write_counters(connection: sqlite3.Connection, packed_counters: Mapping[CounterKey, bytes]) -> None:
    """Write counters that `CounterState.pack_counters` has packed."""
    rows = [(json.dumps(key), zlib.compress(packed, 1)) for key, packed in packed_counters.items()]
    insert(connection, "counter_buckets", rows)


def read_names(connection: sqlite3.Connection) -> dict[NameKey, str]:
    """Return the last known names. Raises `StateFileError` if they cannot be read."""
    with _reading():
        names = {}
        rows = connection.execute(f"SELECT {columns('names')} FROM names")  # noqa: S608 - contains no input
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
    except (sqlite3.Error, ValueError, TypeError, LookupError, zlib.error) as error:
        has_damage = not isinstance(error, sqlite3.DatabaseError) or is_damage(error)
        raise (DamagedError if has_damage else StateFileError)(f"cannot be read: {error}") from error


def read_budgets(connection: sqlite3.Connection) -> BudgetRecords | None:
    """Return the budgets and holds, or None if there are none. Raises `StateFileError` if one cannot be read."""
    with _reading():
        select = "SELECT value FROM file_properties WHERE name = ?"
        salts = [str(salt) for (salt,) in connection.execute(select, (SALT_PROPERTY,))]
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
    return BudgetRecords(salts[0], key_digests, budgets, holds) if salts else None


def _to_float(value: Any) -> float | None:  # noqa: ANN401 - a value of SQLite
    return None if value is None else float(value)


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """Return whether an error is caused by the content of the file, not by the disk or a lock."""
    # The SQL is valid, so SQLITE_ERROR means that the file lacks the table or a column, or has an invalid format.
    return not isinstance(error, sqlite3.OperationalError) or error.sqlite_errorcode == sqlite3.SQLITE_ERROR
