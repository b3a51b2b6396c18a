"""Converts the state of a list to and from the rows of the state file. Nothing here reads a clock.

Times in the state file are in seconds since the epoch, since a monotonic clock starts again with the machine.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from braze_exporter.braze.lists import ListEndpoint, ListItem
from braze_exporter.scheduler.budgets import WorkspaceKey
from braze_exporter.scheduler.key_state import AUTH_RETRY_SECONDS
from braze_exporter.scheduler.list_read_state import LIST_INTERVAL_SECONDS, ListReadState
from braze_exporter.scheduler.query_rows import DECODE_ERRORS, restore_error, save_error
from braze_exporter.scheduler.selectors import ListSnapshot
from braze_exporter.state.state_file import StateFile

_log = logging.getLogger(__name__)

# Workspace, url and path of a list.
SavedListKey = tuple[str, str, str]
# The row of the table `lists`, and that of `list_items` if there is one.
SavedList = tuple[Sequence[Any], Sequence[Any] | None]


def saved_list_key(read_state: ListReadState) -> SavedListKey:
    """Return the key of a list in the state file."""
    return (*read_state.workspace_key, read_state.list_endpoint.path)


def read_saved_lists(state_file: StateFile) -> Mapping[SavedListKey, SavedList]:
    """Return the lists in the state file. Raises `StateFileError` if the file cannot be read."""
    items = {row[:3]: row for row in state_file.read_table("list_items")}
    return {(row[0], row[1], row[2]): (row, items.get(row[:3])) for row in state_file.read_table("lists")}


def restore_list(
    workspace_key: WorkspaceKey, list_endpoint: ListEndpoint, saved: SavedList, now: float, wall: float
) -> ListReadState | None:
    """Return the state of a list as it was when it was saved, or None if its rows are damaged.

    `now` is by the monotonic clock, `wall` in seconds since the epoch. The list waits for at most its interval, also if
    the clock was set back.
    """
    (*_, read_at, next_at, failures, error, suspect_since), items = saved

    def to_monotonic(time: float) -> float:
        return now - max(0.0, wall - float(time))

    try:
        next_at = now + min(float(next_at) - wall, LIST_INTERVAL_SECONDS)
        read_state = ListReadState(workspace_key, list_endpoint, next_at, failures=int(failures))
        read_state.error, read_state.read_at, read_state.key_checked_at = restore_error(error), float(read_at), now
        if suspect_since is not None:
            read_state.suspect_since = to_monotonic(suspect_since)
        if items is not None:
            *_, calls, listed, missing_since = items
            listed_items = (
                ListItem(item_id, name, tuple(tags), *details) for item_id, name, tags, *details in json.loads(listed)
            )
            read_state.known = ListSnapshot(tuple(listed_items), int(calls))
            read_state.missing_since = {
                item_id: to_monotonic(time) for item_id, time in json.loads(missing_since).items()
            }
    except DECODE_ERRORS as failure:
        fields = {"workspace": workspace_key.workspace, "path": list_endpoint.path, "reason": str(failure)}
        _log.warning("Saved list could not be read", extra={"fields": fields})
        return None
    if read_state.is_rejected:  # the key may have changed
        read_state.next_at = min(read_state.next_at, now + AUTH_RETRY_SECONDS)
    return read_state


def list_row(read_state: ListReadState, offset: float) -> Sequence[object]:
    """Return the row of the table `lists`. `offset` is the difference between the wall clock and the monotonic one."""
    suspect_since = read_state.suspect_since
    return (
        *saved_list_key(read_state),
        read_state.read_at,
        read_state.next_at + offset,
        read_state.failures,
        save_error(read_state.error),
        suspect_since + offset if suspect_since is not None else None,
    )


def list_items_row(read_state: ListReadState, known: ListSnapshot, offset: float) -> Sequence[object]:
    """Return the row of the table `list_items` for the `known` items. `offset` is as for `list_row`."""
    items = [[item.id, item.name, item.tags, item.is_tracked] for item in known.items]
    missing_since = {item_id: time + offset for item_id, time in read_state.missing_since.items()}
    return (*saved_list_key(read_state), known.calls, json.dumps(items), json.dumps(missing_since))
