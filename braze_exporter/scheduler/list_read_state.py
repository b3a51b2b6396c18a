"""The state of one of Braze's lists: its items, when it is read next, and its rows in the state file.

An item is removed by a read at least an hour after the first read without it, since pages shift while they are read and
a wrong removal is hard to undo. A read without more than half of the items changes nothing unless another one an hour
later agrees. Not thread-safe. Nothing here reads a clock.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.lists import ListEndpoint, ListItem
from braze_exporter.scheduler.budgets import WorkspaceKey
from braze_exporter.scheduler.circuit_breaker import backoff_seconds
from braze_exporter.scheduler.clients import WorkspaceClient
from braze_exporter.scheduler.key_state import AUTH_REASONS, AUTH_RETRY_SECONDS, KeyState
from braze_exporter.scheduler.list_reader import ListPager
from braze_exporter.scheduler.query_rows import DECODE_ERRORS
from braze_exporter.scheduler.selectors import ListSnapshot
from braze_exporter.state.tables import TableChanges, restore_error, save_error

# The interval between reads of a list, in seconds.
LIST_INTERVAL_SECONDS = 3_600.0
# Seconds until the read of a deferred list continues, or a failed one is read again. The wait doubles with each
# consecutive failure, up to `LIST_INTERVAL_SECONDS`.
RETRY_SECONDS = 60.0
# Seconds until a list is read again after a 403. The permissions of a key cannot be changed, but the IP addresses that
# it allows can.
FORBIDDEN_RETRY_SECONDS = 86_400.0
# An item is removed by a read at least this time after the first read without it. A suspect list counts if a read at
# least this time later is suspect too.
REMOVAL_SECONDS = 3_600.0
# Seconds until the read after a removal, or after the first suspect read.
RECHECK_SECONDS = 300.0
# A list with at least this number of items is suspect if a read lacks more than half of them.
MIN_SUSPECT_ITEMS = 10

# The row of a list in the table `lists`, and that in `list_items` if there is one.
SavedList = tuple[Sequence[Any], Sequence[Any] | None]

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class ListReadState:
    """The state of a list. Only `ListRefresher` changes it.

    `client` fetches it. `known` is the result of the last complete read that was used, or None. `missing_since` has the
    items in it that the last read did not list, by id, with the time of the first read without them. `suspect_since` is
    the time of the first read since which all have been suspect, or None. `next_at` is when the list is due. These
    times are in seconds of the monotonic clock. `pager` holds an unfinished read. `in_flight` is true while the list is
    queued or being read. `failures` is the number of consecutive failures. `error` is why the last read failed, or
    None. `read_at` is when the list was last read to its end and used, in seconds since the epoch, or 0 if it never
    was. `key_state` is that of the key of the last read. `key_checked_at` is when the last read ended or, while the
    list is rejected, when the key was last read again.
    """

    workspace_key: WorkspaceKey
    list_endpoint: ListEndpoint
    client: WorkspaceClient
    next_at: float
    known: ListSnapshot | None = None
    missing_since: Mapping[str, float] = field(default_factory=dict)
    suspect_since: float | None = None
    pager: ListPager | None = None
    in_flight: bool = False
    failures: int = 0
    error: BrazeError | None = None
    read_at: float = 0.0
    key_state: KeyState | None = None
    key_checked_at: float = 0.0

    @property
    def is_rejected(self) -> bool:
        """Whether the last read failed because of the key."""
        return self.error is not None and self.error.reason in AUTH_REASONS

    @property
    def is_suspect(self) -> bool:
        """Whether the last complete read lacked so many items that it was not used."""
        return self.suspect_since is not None

    def is_due(self, now: float) -> bool:
        """Return whether the list must be read, also to test the key, or because another key was rejected."""
        admission = self.client.admission
        is_key_new = self.is_rejected and self.key_state is not admission.key_state
        return is_key_new or now >= self.next_at or admission.is_probe_wanted(self.list_endpoint)

    def is_key_check_due(self, now: float) -> bool:
        """Return whether the key of a rejected list must be read again, since it may have been rotated."""
        return self.is_rejected and now >= self.key_checked_at + AUTH_RETRY_SECONDS

    @property
    def log_fields(self) -> dict[str, object]:
        """The fields that identify the list in the log."""
        return {"workspace": self.workspace_key.workspace, "list": self.list_endpoint.item_names[1]}

    def schedule(self, error: BrazeError | None, now: float, jitter: float) -> None:
        """Set when the list is read next, after a read that ended at `now` with `error`.

        Logs if the list begins to fail, fails for another reason, or recovers.
        """
        reason = error.reason if error is not None else None
        self.failures = self.failures + 1 if error is not None else 0
        wait = LIST_INTERVAL_SECONDS
        if reason is Reason.FORBIDDEN:
            wait = FORBIDDEN_RETRY_SECONDS
        elif error is not None:
            wait = backoff_seconds(RETRY_SECONDS, self.failures, LIST_INTERVAL_SECONDS, jitter)
        self.key_checked_at, self.next_at = now, now + wait
        before, self.error = self.error, error
        if reason is (before.reason if before is not None else None):
            return
        if error is not None:
            detail = {"reason": error.reason, "detail": error.detail}
            _log.warning("List could not be read", extra={"fields": self.log_fields | detail})
        else:
            _log.info("List read again", extra={"fields": self.log_fields})

    def use_if_plausible(self, listed_items: Sequence[ListItem], calls: int, now: float, wall: float) -> None:
        """Update the known items after a complete read of `calls` calls that ended now, unless the read is suspect.

        `now` is by the monotonic clock, `wall` in seconds since the epoch.
        """
        known = self.known.items if self.known is not None else ()
        listed_ids = {item.id for item in listed_items}
        missing = [item for item in known if item.id not in listed_ids]
        suspect_since = self.suspect_since
        if len(known) >= MIN_SUSPECT_ITEMS and len(missing) > len(known) / 2:
            if suspect_since is None:
                counts = {"items": len(listed_items), "missing": len(missing)}
                _log.warning("List is suspect, keeping the previous one", extra={"fields": self.log_fields | counts})
                self.suspect_since, self.next_at = now, now + RECHECK_SECONDS
                return
            if now < suspect_since + REMOVAL_SECONDS:
                self.next_at = min(self.next_at, suspect_since + REMOVAL_SECONDS)
                return
        elif suspect_since is not None:
            _log.info("List is no longer suspect", extra={"fields": self.log_fields})
            suspect_since = None
        first_missing_at = now if suspect_since is None else suspect_since
        missing_since = {item.id: self.missing_since.get(item.id, first_missing_at) for item in missing}
        kept = [item for item in missing if now < missing_since[item.id] + REMOVAL_SECONDS]
        if len(kept) < len(missing):
            self.next_at = now + RECHECK_SECONDS
        snapshot = ListSnapshot((*listed_items, *kept), calls)
        self.known, self.read_at, self.suspect_since = snapshot, wall, None
        self.missing_since = {item.id: missing_since[item.id] for item in kept}

    @property
    def row_key(self) -> tuple[str, str, str]:
        """The key of the list in the state file: workspace, url and path."""
        return (*self.workspace_key, self.list_endpoint.path)

    def to_rows(self, offset: float) -> TableChanges:
        """Return the rows for the state file. `offset` is the difference between the wall clock and the monotonic one.

        Times in the state file are in seconds since the epoch, since a monotonic clock starts again with the machine.
        """
        rows: TableChanges = {}
        rows["lists", self.row_key] = (
            *self.row_key,
            self.read_at,
            self.next_at + offset,
            self.failures,
            save_error(self.error),
            self.suspect_since + offset if self.suspect_since is not None else None,
        )
        if self.known is not None:
            items = [[item.id, item.name, item.tags, item.is_tracked] for item in self.known.items]
            missing_since = {item_id: time + offset for item_id, time in self.missing_since.items()}
            row = (*self.row_key, self.known.calls, json.dumps(items), json.dumps(missing_since))
            rows["list_items", self.row_key] = row
        return rows

    def restore(self, saved: SavedList, now: float, wall: float) -> None:
        """Continue with the state in `saved`, unless its rows are damaged.

        `now` is by the monotonic clock, `wall` in seconds since the epoch. The list waits for at most its interval,
        even if the clock was set back. A rejected list does not wait long, since the key may have changed.
        """
        (*_, read_at, next_at, failures, error_text, suspect_since), items = saved

        def to_monotonic(time: float) -> float:
            return now - max(0.0, wall - float(time))

        try:
            error, wait = restore_error(error_text), min(float(next_at) - wall, LIST_INTERVAL_SECONDS)
            failures, read_at = int(failures), float(read_at)
            suspect_since = to_monotonic(suspect_since) if suspect_since is not None else None
            known, missing_since = None, {}
            if items is not None:
                *_, calls, listed, missing = items
                rows = json.loads(listed)
                listed_items = tuple(ListItem(item_id, name, tuple(tags), *more) for item_id, name, tags, *more in rows)
                known = ListSnapshot(listed_items, int(calls))
                missing_since = {item_id: to_monotonic(time) for item_id, time in json.loads(missing).items()}
        except DECODE_ERRORS as failure:
            fields = self.log_fields | {"reason": str(failure)}
            _log.warning("Saved list could not be read", extra={"fields": fields})
            return
        self.known, self.missing_since, self.suspect_since = known, missing_since, suspect_since
        self.failures, self.error, self.read_at = failures, error, read_at
        self.key_state, self.key_checked_at = self.client.admission.key_state, now
        self.next_at = now + (min(wait, AUTH_RETRY_SECONDS) if self.is_rejected else wait)
