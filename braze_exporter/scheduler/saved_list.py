"""Converts what the state file keeps of a list to and from its rows. Nothing here reads a clock."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from braze_exporter.braze.errors import BrazeError
from braze_exporter.braze.lists import ListItem
from braze_exporter.scheduler.saved_query import DECODE_ERRORS, restore_error, save_error
from braze_exporter.scheduler.selectors import ListSnapshot
from braze_exporter.state.state_file import StateFile

_log = logging.getLogger(__name__)

# Workspace, url and path of a list.
SavedListKey = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class SavedList:
    """A list in the state file. `missing_since` is by the id of the item. Times are in seconds since the epoch."""

    read_at: float
    ended_at: float
    next_at: float
    failures: int
    error: BrazeError | None
    suspect_since: float | None
    known: ListSnapshot | None = None
    missing_since: Mapping[str, float] | None = None

    def times_row(self, key: SavedListKey) -> tuple[object, ...]:
        """Return the row of the table `lists`."""
        error = save_error(self.error)
        return (*key, self.read_at, self.ended_at, self.next_at, self.failures, error, self.suspect_since)

    def items_row(self, key: SavedListKey) -> tuple[object, ...] | None:
        """Return the row of the table `list_items`, or None if the list was never read."""
        if self.known is None:
            return None
        items = [[item.id, item.name, item.tags, item.is_tracked, item.last_edited] for item in self.known.items]
        return (*key, self.known.calls, json.dumps(items), json.dumps(self.missing_since or {}))


def read_saved_lists(state_file: StateFile) -> dict[SavedListKey, SavedList]:
    """Return the lists in the state file. Those that are damaged are left out.

    Raises `StateFileError` if the file cannot be read.
    """
    items = {tuple(row[:3]): row[3:] for row in state_file.read_table("list_items")}
    result: dict[SavedListKey, SavedList] = {}
    for workspace, url, path, *columns in state_file.read_table("lists"):
        key = (workspace, url, path)
        try:
            result[key] = _restore(columns, items.get(key))
        except DECODE_ERRORS as error:
            fields = {"workspace": workspace, "path": path, "reason": str(error)}
            _log.warning("Saved list could not be read", extra={"fields": fields})
    return result


def _restore(columns: Sequence[Any], items: Sequence[Any] | None) -> SavedList:
    read_at, ended_at, next_at, failures, error, suspect_since = columns
    times = (float(read_at), float(ended_at), float(next_at), int(failures), restore_error(error), suspect_since)
    if items is None:
        return SavedList(*times)
    calls, listed, missing_since = items
    known = ListSnapshot(
        tuple(ListItem(item_id, name, tuple(tags), *details) for item_id, name, tags, *details in json.loads(listed)),
        int(calls),
    )
    return SavedList(*times, known, json.loads(missing_since))
