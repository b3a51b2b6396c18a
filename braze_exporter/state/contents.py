"""Converts counters, names and budgets from and to the rows of the state file."""

import contextlib
import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping

from braze_exporter.braze.kinds import Unit
from braze_exporter.state.counter_state import CounterKey, CounterRow, CounterState, NameKey
from braze_exporter.state.errors import DamagedError, StateFileError
from braze_exporter.state.tables import (
    SALT_PROPERTY,
    BudgetRecords,
    BudgetRow,
    HoldRow,
    TableChanges,
    select_rows,
    select_typed_rows,
)


def read_counters(connection: sqlite3.Connection) -> dict[CounterKey, CounterState]:
    """Return all counter states. Raises `StateFileError` if one cannot be read."""
    with _reading():
        states = {
            _parse_key(key): CounterState(Unit(unit), requested_at, zone)
            for key, unit, requested_at, zone in select_typed_rows(connection, "counters")
        }
        for key, packed in select_typed_rows(connection, "counter_buckets"):
            states[_parse_key(key)].unpack_counters(zlib.decompress(packed))
        return states


def _parse_key(text: str) -> CounterKey:
    """Return the key of a counter. Raises `ValueError` or `TypeError` if it is invalid."""
    workspace, url, kind, subject, app, app_id, segment, segment_id = map(str, json.loads(text))
    return workspace, url, kind, subject, app, app_id, segment, segment_id


def counter_changes(
    rows: Mapping[CounterKey, CounterRow],
    packed_counters: Mapping[CounterKey, bytes],
    removed: Iterable[CounterKey] = (),
) -> TableChanges:
    """Return the changes for counter states, from `CounterState.to_row` and `pack_counters`, and for those removed."""
    changes: TableChanges = {
        (table, (json.dumps(key),)): None for table in ("counters", "counter_buckets") for key in removed
    }
    for key, row in rows.items():
        changes["counters", (json.dumps(key),)] = (json.dumps(key), *row)
    for key, packed in packed_counters.items():
        changes["counter_buckets", (json.dumps(key),)] = (json.dumps(key), zlib.compress(packed, 1))
    return changes


def read_names(connection: sqlite3.Connection) -> dict[NameKey, str]:
    """Return the last known names. Raises `StateFileError` if they cannot be read."""
    with _reading():
        rows = select_typed_rows(connection, "names")
        return {(workspace, url, kind, item_id): name for workspace, url, kind, item_id, name in rows}


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
        digests = select_typed_rows(connection, "workspace_keys")
        key_digests = {(workspace, url): digest for workspace, url, digest in digests}
        budgets = [BudgetRow(*row) for row in select_typed_rows(connection, "budgets")]
        holds = [HoldRow(*row) for row in select_typed_rows(connection, "holds")]
        salt = dict(select_rows(connection, "file_properties")).get(SALT_PROPERTY)
    return BudgetRecords(str(salt), key_digests, budgets, holds) if salt is not None else None


def budget_changes(records: BudgetRecords) -> TableChanges:
    """Return the changes that replace all budgets and holds by `records`."""
    rows: TableChanges = {(table, ()): None for table in ("workspace_keys", "budgets", "holds")}
    rows["file_properties", (SALT_PROPERTY,)] = (SALT_PROPERTY, records.salt)
    rows |= {("workspace_keys", key): (*key, digest) for key, digest in records.key_digests.items()}
    rows |= {("budgets", row[:3]): row for row in records.budgets}
    return rows | {("holds", row[:3]): row for row in records.holds}


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """Return whether an error is caused by the content of the file, not by the disk or a lock."""
    # The SQL is valid, so SQLITE_ERROR means that the file lacks the table or a column, or has an invalid format.
    return not isinstance(error, sqlite3.OperationalError) or error.sqlite_errorcode == sqlite3.SQLITE_ERROR
