"""Refreshes Braze's lists in the background, about once an hour while Prometheus scrapes.

The result of the last complete read is used until the next complete read. An item is removed by a read at least an hour
after the first read without it, since pages shift while they are read and a wrong removal is hard to undo. A read
without more than half of the items changes nothing unless another one an hour later agrees. Scrapes do not wait for
lists.
"""

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.lists import ListEndpoint, ListItem
from braze_exporter.scheduler.admission import WorkspaceKey
from braze_exporter.scheduler.errors import CircuitOpen, Deferred
from braze_exporter.scheduler.key_state import AUTH_REASONS, AUTH_RETRY_SECONDS
from braze_exporter.scheduler.list_pager import Admitter, ListPager, PageFetcher, ProbeInFlight
from braze_exporter.scheduler.saved_list import SavedList, SavedListKey
from braze_exporter.scheduler.selectors import ListSnapshot, ListSnapshots
from braze_exporter.state import TableChanges

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
# How often the thread checks whether a probe has ended, so that it can fetch the next page, in seconds.
_POLL_SECONDS = 0.1

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkspaceLists:
    """The lists of one workspace that are read, and the components that fetch them.

    `is_same_key` is true if the API key has not changed with the config. `reread_key` reads the key again. If the key
    has changed, it calls `ListRefresher.retry_rejected` and returns true.
    """

    list_endpoints: Sequence[ListEndpoint]
    page_fetcher: PageFetcher
    admission: Admitter
    is_same_key: bool
    reread_key: Callable[[], bool]


@dataclass(frozen=True, slots=True)
class ListState:
    """The state of a list for metrics and the status page.

    `read_at` is when the list was last read to its end, in seconds since the epoch, or 0 if it never was. `error` is
    why the last read failed, or None. `due_in_seconds` is the time until the list is due. The first scrape after that
    starts the read. `is_suspect` is true if the last complete read lacked so many items that it was not used.
    """

    list_endpoint: ListEndpoint
    read_at: float
    error: BrazeError | None
    due_in_seconds: float
    is_suspect: bool


@dataclass(slots=True, eq=False)
class _ListReadState:
    """The state of a list in `ListRefresher`.

    `known` is the result of the last complete read that was used, or None. `missing_since` has the items in it that the
    last read did not list, by id, with the time of the first read without them. `suspect_since` is the time of the
    first read since which all have been suspect, or None. `next_at` is when the list is due. These times are in seconds
    of the monotonic clock. `pager` holds an unfinished read. `in_flight` is true while the list is queued or being
    read. `failures` is the number of consecutive failures. `error` is why the last read failed, or None. `read_at` is
    when the list was last read to its end and used, in seconds since the epoch, or 0 if it never was. `key_checked_at`
    is when the last read ended or, while the list is rejected, when the key was last read again. `is_key_changed` is
    true if the key has changed during the read.
    """

    workspace_key: WorkspaceKey
    list_endpoint: ListEndpoint
    next_at: float
    known: ListSnapshot | None = None
    missing_since: Mapping[str, float] = field(default_factory=dict)
    suspect_since: float | None = None
    pager: ListPager | None = None
    in_flight: bool = False
    failures: int = 0
    error: BrazeError | None = None
    read_at: float = 0.0
    key_checked_at: float = 0.0
    is_key_changed: bool = False


class ListRefresher:
    """Reads the due lists in a separate thread. Thread-safe."""

    def __init__(
        self,
        *,
        wall: Callable[[], float],
        monotonic: Callable[[], float],
        jitter: Callable[[], float],
        on_end: Callable[[], None],
        on_deferred: Callable[[str, ListEndpoint], None] = lambda _workspace, _list_endpoint: None,
        saved_lists: Mapping[SavedListKey, SavedList] = MappingProxyType({}),
    ) -> None:
        """Start without lists.

        `wall` returns seconds since the epoch, and `monotonic` seconds of a monotonic clock. `jitter` returns a factor
        for the wait after failures. The thread calls `on_end` after each read that succeeded or failed. It calls
        `on_deferred` with the workspace and the list when a due list is deferred because of rate limiting. Lists in
        `saved_lists` are restored when they are set.
        """
        self._wall = wall
        self._monotonic = monotonic
        self._jitter = jitter
        self._on_end = on_end
        self._on_deferred = on_deferred
        self._saved_lists = saved_lists
        self._unsaved: set[SavedListKey] = set()
        self._saved_items: dict[SavedListKey, tuple[Sequence[ListItem], Mapping[str, float]]] = {}
        self._changed = threading.Condition()
        self._lists: dict[tuple[WorkspaceKey, ListEndpoint], _ListReadState] = {}
        self._workspace_lists: Mapping[WorkspaceKey, WorkspaceLists] = {}
        self._due: deque[_ListReadState] = deque()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def set_lists(self, lists_by_workspace: Mapping[WorkspaceKey, WorkspaceLists]) -> None:
        """Set the lists to read, and drop all others.

        All lists are due at once, except restored ones, and those for which Braze rejected the key if it has not
        changed.
        """
        with self._changed:
            now = self._monotonic()
            keys = [
                (workspace_key, list_endpoint)
                for workspace_key, workspace_lists in lists_by_workspace.items()
                for list_endpoint in workspace_lists.list_endpoints
            ]
            removed = {_saved_key(read_state) for key, read_state in self._lists.items() if key not in keys}
            self._unsaved |= removed | self._saved_lists.keys()
            restored = {key: self._restore(*key) for key in keys if key not in self._lists}
            self._saved_lists = {}
            self._lists = {
                key: self._lists.get(key) or restored[key] or _ListReadState(*key, next_at=now) for key in keys
            }
            self._workspace_lists = lists_by_workspace
            for key, read_state in self._lists.items():
                read_state.pager = None
                if restored.get(key) is not None:
                    continue
                if not (lists_by_workspace[read_state.workspace_key].is_same_key and _is_rejected(read_state)):
                    read_state.next_at = now

    def _restore(self, workspace_key: WorkspaceKey, list_endpoint: ListEndpoint) -> _ListReadState | None:
        """Return the state that a list had before a restart, or None.

        If the clock was set back, the list waits for at most its interval.
        """
        saved = self._saved_lists.get((*workspace_key, list_endpoint.path))
        if saved is None:
            return None
        now, wall = self._monotonic(), self._wall()
        wait = min(saved.next_at - wall, LIST_INTERVAL_SECONDS if saved.ended_at > wall else math.inf)
        read_state = _ListReadState(workspace_key, list_endpoint, now + wait, saved.known, failures=saved.failures)
        read_state.error, read_state.read_at = saved.error, saved.read_at
        # The key may have changed, so a rejected list is tried again after two minutes.
        if _is_rejected(read_state):
            read_state.next_at = min(read_state.next_at, now + AUTH_RETRY_SECONDS)
        read_state.key_checked_at = now
        read_state.missing_since = {
            item_id: now - max(0.0, wall - since) for item_id, since in (saved.missing_since or {}).items()
        }
        if saved.suspect_since is not None:
            read_state.suspect_since = now - max(0.0, wall - saved.suspect_since)
        if saved.known is not None:
            self._saved_items[_saved_key(read_state)] = (saved.known.items, read_state.missing_since)
        return read_state

    def take_changes(self) -> TableChanges:
        """Return the rows of the state file that have changed since the last call."""
        with self._changed:
            states = {_saved_key(read_state): read_state for read_state in self._lists.values()}
            offset = self._wall() - self._monotonic()
            rows: dict[tuple[str, tuple[object, ...]], Sequence[object] | None] = {}
            for key in self._unsaved:
                read_state = states.get(key)
                if read_state is None:
                    rows["lists", key] = rows["list_items", key] = None
                    self._saved_items.pop(key, None)
                    continue
                saved = _save(read_state, offset)
                rows["lists", key] = saved.times_row(key)
                items = (saved.known.items if saved.known is not None else (), read_state.missing_since)
                if items != self._saved_items.get(key, ((), {})):
                    rows["list_items", key] = saved.items_row(key)
                    self._saved_items[key] = items
            self._unsaved.clear()
            return rows

    def retry_rejected(self, workspace_key: WorkspaceKey) -> None:
        """Make the rejected lists of a workspace due at once, since its key has changed."""
        with self._changed:
            for read_state in self._lists.values():
                if read_state.workspace_key == workspace_key:
                    read_state.is_key_changed = True
                    if _is_rejected(read_state):
                        read_state.next_at = self._monotonic()

    def known_lists(self) -> ListSnapshots:
        """Return the result of the last complete read of each list. Lists that were never read are omitted."""
        with self._changed:
            lists = self._lists.values()
            return {
                (read_state.workspace_key.workspace, read_state.list_endpoint): read_state.known
                for read_state in lists
                if read_state.known is not None
            }

    def pending_lists(self) -> set[tuple[str, ListEndpoint]]:
        """Return the lists that have not been read yet but may be, as pairs of the workspace name and the list.

        A list that was rejected with a 401 or 403 is omitted if another endpoint accepts the key.
        """
        with self._changed:
            return {
                (read_state.workspace_key.workspace, read_state.list_endpoint)
                for read_state in self._lists.values()
                if read_state.known is None
                and not (
                    _is_rejected(read_state)
                    and self._workspace_lists[read_state.workspace_key].admission.is_key_accepted
                )
            }

    def states(self) -> Mapping[str, Sequence[ListState]]:
        """Return the states of the lists, keyed by the name of the workspace."""
        states: dict[str, list[ListState]] = {}
        with self._changed:
            now = self._monotonic()
            for read_state in self._lists.values():
                list_state = ListState(
                    read_state.list_endpoint,
                    read_state.read_at,
                    read_state.error,
                    max(0.0, read_state.next_at - now),
                    is_suspect=read_state.suspect_since is not None,
                )
                states.setdefault(read_state.workspace_key.workspace, []).append(list_state)
        return states

    def refresh(self) -> None:
        """Queue the lists that are due, and start the thread if there are any."""
        with self._changed:
            if self._is_closed:
                return
            now = self._monotonic()
            for read_state in self._lists.values():
                is_due = (
                    read_state.next_at <= now
                    or _is_key_check_due(read_state, now)
                    or self._workspace_lists[read_state.workspace_key].admission.is_probe_wanted(
                        read_state.list_endpoint
                    )
                )
                if is_due and not read_state.in_flight:
                    read_state.in_flight = True
                    self._due.append(read_state)
            if self._due and self._thread is None:
                self._thread = threading.Thread(target=self._work, name="lists", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def close(self) -> None:
        """Stop reading. A page in flight ends by itself or with the process."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _work(self) -> None:
        while (read_state := self._take_due()) is not None:
            try:
                if self._read(read_state):
                    self._on_end()
            except Exception:  # noqa: BLE001 - the thread must survive for the other lists
                _log.exception("Internal error while reading a list", extra={"fields": _log_fields(read_state)})
            with self._changed:
                read_state.in_flight = False

    def _take_due(self) -> _ListReadState | None:
        """Wait for a queued list and return it, or None if the thread must end."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._due)
            if self._is_closed:
                return None
            return self._due.popleft()

    def _read(self, read_state: _ListReadState) -> bool:
        """Read the remaining pages of a list, and return whether the read ended, with success or failure."""
        if not self._is_key_worth_trying(read_state):
            return False
        with self._changed:
            wanted = self._workspace_lists.get(read_state.workspace_key)
            if wanted is None or self._is_removed(read_state):
                return False
            read_state.next_at = self._monotonic() + RETRY_SECONDS  # overwritten if the read ends
            read_state.is_key_changed = False
            pager = read_state.pager = read_state.pager or ListPager(
                read_state.list_endpoint, wanted.page_fetcher, wanted.admission
            )
        error: BrazeError | None = None
        listed_items: tuple[ListItem, ...] | None = None
        try:
            listed_items = self._read_pages(pager)
        except Deferred as deferred:
            with self._changed:
                # A rejected key does not count as deferred.
                if not (isinstance(deferred, CircuitOpen) or self._is_removed(read_state)):
                    self._on_deferred(read_state.workspace_key.workspace, read_state.list_endpoint)
            return False
        except BrazeError as failure:
            error = failure.without_traceback()
        with self._changed:
            if read_state.pager is not pager:
                return False  # the config was reloaded, so the list must be read from the start
            read_state.pager = None
            self._schedule(read_state, error)
            if listed_items is None:
                return True
            self._use_if_plausible(read_state, listed_items, calls=pager.pages_read + 1)
            return True

    def _is_key_worth_trying(self, read_state: _ListReadState) -> bool:
        """Return false for a rejected list that is queued only to check for a new key, if the key is still the same."""
        with self._changed:
            now = self._monotonic()
            wanted = self._workspace_lists.get(read_state.workspace_key)
            if wanted is None or read_state.next_at <= now or not _is_key_check_due(read_state, now):
                return True
            read_state.key_checked_at = now
        return wanted.reread_key()

    def _use_if_plausible(self, read_state: _ListReadState, listed_items: Sequence[ListItem], calls: int) -> None:
        """Update the known items of a list after a complete read of `calls` calls, unless the read is suspect."""
        now, known = self._monotonic(), read_state.known.items if read_state.known is not None else ()
        listed_ids = {item.id for item in listed_items}
        missing = [item for item in known if item.id not in listed_ids]
        suspect_since = read_state.suspect_since
        if len(known) >= MIN_SUSPECT_ITEMS and len(missing) > len(known) / 2:
            if suspect_since is None:
                counts = {"items": len(listed_items), "missing": len(missing)}
                _log.warning(
                    "List is suspect, keeping the previous one", extra={"fields": _log_fields(read_state) | counts}
                )
                read_state.suspect_since, read_state.next_at = now, now + RECHECK_SECONDS
                return
            if now < suspect_since + REMOVAL_SECONDS:
                read_state.next_at = min(read_state.next_at, suspect_since + REMOVAL_SECONDS)
                return
        elif suspect_since is not None:
            _log.info("List is no longer suspect", extra={"fields": _log_fields(read_state)})
            suspect_since = None
        first_missing_at = now if suspect_since is None else suspect_since
        missing_since = {item.id: read_state.missing_since.get(item.id, first_missing_at) for item in missing}
        kept = [item for item in missing if now < missing_since[item.id] + REMOVAL_SECONDS]
        if len(kept) < len(missing):
            read_state.next_at = now + RECHECK_SECONDS
        snapshot = ListSnapshot((*listed_items, *kept), calls)
        if read_state.known is not None and known == snapshot.items:
            snapshot = replace(snapshot, suggestions=read_state.known.suggestions)
        read_state.known, read_state.read_at, read_state.suspect_since = snapshot, self._wall(), None
        read_state.missing_since = {item.id: missing_since[item.id] for item in kept}

    def _is_removed(self, read_state: _ListReadState) -> bool:
        """Return whether a reload has removed a list, because the config no longer needs it."""
        return self._lists.get((read_state.workspace_key, read_state.list_endpoint)) is not read_state

    def _read_pages(self, pager: ListPager) -> tuple[ListItem, ...]:
        """Read the remaining pages. Waits only while a probe is in flight."""
        while True:
            try:
                return pager.read()
            except ProbeInFlight:
                with self._changed:
                    if self._changed.wait_for(lambda: self._is_closed, _POLL_SECONDS):
                        raise

    def _schedule(self, read_state: _ListReadState, error: BrazeError | None) -> None:
        """Set when a list is read next.

        Logs if the list begins to fail, fails for another reason, or recovers.
        """
        reason = error.reason if error is not None else None
        read_state.failures = read_state.failures + 1 if error is not None else 0
        wait = LIST_INTERVAL_SECONDS
        if reason is Reason.FORBIDDEN:
            wait = FORBIDDEN_RETRY_SECONDS
        elif error is not None:
            wait = min(RETRY_SECONDS * 2.0 ** (read_state.failures - 1), LIST_INTERVAL_SECONDS) * self._jitter()
        self._unsaved.add(_saved_key(read_state))
        now = read_state.key_checked_at = self._monotonic()
        read_state.next_at = now if reason in AUTH_REASONS and read_state.is_key_changed else now + wait
        before, read_state.error = read_state.error, error
        if reason is (before.reason if before is not None else None):
            return
        if error is not None:
            detail = {"reason": error.reason, "detail": error.detail}
            _log.warning("List could not be read", extra={"fields": _log_fields(read_state) | detail})
        else:
            _log.info("List read again", extra={"fields": _log_fields(read_state)})


def _is_rejected(read_state: _ListReadState) -> bool:
    return read_state.error is not None and read_state.error.reason in AUTH_REASONS


def _is_key_check_due(read_state: _ListReadState, now: float) -> bool:
    """Return whether the key of a rejected list must be read again, since it may have been rotated."""
    return _is_rejected(read_state) and now >= read_state.key_checked_at + AUTH_RETRY_SECONDS


def _saved_key(read_state: _ListReadState) -> SavedListKey:
    return (*read_state.workspace_key, read_state.list_endpoint.path)


def _save(read_state: _ListReadState, offset: float) -> SavedList:
    """Return a list for the state file. `offset` is the difference between the wall clock and the monotonic one."""
    suspect_since = read_state.suspect_since
    return SavedList(
        read_state.read_at,
        read_state.key_checked_at + offset,
        read_state.next_at + offset,
        read_state.failures,
        read_state.error,
        suspect_since + offset if suspect_since is not None else None,
        read_state.known,
        {item_id: since + offset for item_id, since in read_state.missing_since.items()},
    )


def _log_fields(read_state: _ListReadState) -> dict[str, object]:
    return {"workspace": read_state.workspace_key.workspace, "list": read_state.list_endpoint.item_names[1]}
