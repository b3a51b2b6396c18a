"""Refreshes Braze's lists in the background, about once an hour while Prometheus scrapes.

The result of the last complete read is used until the next complete read. Scrapes do not wait for lists.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from braze_exporter.braze.calls import Permit
from braze_exporter.braze.clock import Clock
from braze_exporter.braze.errors import BrazeError
from braze_exporter.braze.lists import ListEndpoint
from braze_exporter.scheduler.budgets import WorkspaceKey
from braze_exporter.scheduler.clients import WorkspaceClient
from braze_exporter.scheduler.errors import CircuitOpen, Deferred
from braze_exporter.scheduler.list_pager import ListPager
from braze_exporter.scheduler.list_read_state import RETRY_SECONDS, ListReadState
from braze_exporter.scheduler.list_rows import (
    SavedList,
    SavedListKey,
    list_items_row,
    list_row,
    restore_list,
    saved_list_key,
)
from braze_exporter.scheduler.priority import Priority
from braze_exporter.scheduler.selectors import ListSnapshots
from braze_exporter.scheduler.worker_pool import Job
from braze_exporter.state.tables import TableChanges

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkspaceLists:
    """The lists of one workspace that are read, and the client that fetches them.

    `is_same_key` is true if the API key has not changed with the config. `reread_key` reads the key again, and calls
    `ListRefresher.retry_rejected` if it has changed.
    """

    list_endpoints: Sequence[ListEndpoint]
    client: WorkspaceClient
    is_same_key: bool
    reread_key: Callable[[], object]


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


class ListRefresher:
    """Queues the pages of due lists, one at a time for each list. Thread-safe."""

    def __init__(
        self,
        *,
        clock: Clock,
        jitter: Callable[[], float],
        submit: Callable[[str, Sequence[Job]], None],
        on_end: Callable[[], None],
        on_deferred: Callable[[str, ListEndpoint], None] = lambda _workspace, _list_endpoint: None,
        saved_lists: Mapping[SavedListKey, SavedList] = MappingProxyType({}),
    ) -> None:
        """Start without lists.

        `jitter` returns a factor for the wait after failures. `submit` queues jobs of a workspace. `on_end` is called
        after each read that succeeded or failed. `on_deferred` is called with the workspace and the list when a due
        list is deferred because of rate limiting. Lists in `saved_lists` are restored when they are set.
        """
        self._clock = clock
        self._jitter = jitter
        self._submit = submit
        self._on_end = on_end
        self._on_deferred = on_deferred
        self._saved_lists = saved_lists
        self._unsaved: set[SavedListKey] = set()
        self._lock = threading.Lock()
        self._lists: dict[tuple[WorkspaceKey, ListEndpoint], ListReadState] = {}
        self._workspace_lists: Mapping[WorkspaceKey, WorkspaceLists] = {}

    def set_lists(self, lists_by_workspace: Mapping[WorkspaceKey, WorkspaceLists]) -> None:
        """Set the lists to read, and drop all others.

        All lists are due at once, except restored ones, and those for which Braze rejected the key if it has not
        changed.
        """
        with self._lock:
            now = self._clock.monotonic()
            for read_state in self._lists.values():
                read_state.pager = None
            keys = [
                (workspace_key, list_endpoint)
                for workspace_key, workspace_lists in lists_by_workspace.items()
                for list_endpoint in workspace_lists.list_endpoints
            ]
            removed = {saved_list_key(read_state) for key, read_state in self._lists.items() if key not in keys}
            self._unsaved |= removed | self._saved_lists.keys()
            restored = {key: self._restore(*key) for key in keys if key not in self._lists}
            self._saved_lists = {}
            self._lists = {
                key: self._lists.get(key) or restored[key] or ListReadState(*key, next_at=now) for key in keys
            }
            self._workspace_lists = lists_by_workspace
            for key, read_state in self._lists.items():
                if restored.get(key) is not None:
                    continue
                if not (lists_by_workspace[read_state.workspace_key].is_same_key and read_state.is_rejected):
                    read_state.next_at = now

    def _restore(self, workspace_key: WorkspaceKey, list_endpoint: ListEndpoint) -> ListReadState | None:
        """Return the state that a list had before a restart, or None."""
        saved = self._saved_lists.get((*workspace_key, list_endpoint.path))
        if saved is None:
            return None
        return restore_list(workspace_key, list_endpoint, saved, self._clock.monotonic(), self._clock.wall())

    @property
    def has_changes(self) -> bool:
        """Whether lists have changed since `take_changes`. Does not wait for other threads."""
        return bool(self._unsaved)

    def take_changes(self) -> TableChanges:
        """Return the rows of the lists that have changed since the last call."""
        with self._lock:
            states = {saved_list_key(read_state): read_state for read_state in self._lists.values()}
            offset = self._clock.wall() - self._clock.monotonic()
            rows: TableChanges = {}
            for key in self._unsaved:
                read_state = states.get(key)
                if read_state is None:
                    rows["lists", key] = rows["list_items", key] = None
                    continue
                rows["lists", key] = list_row(read_state, offset)
                if read_state.known is not None:
                    rows["list_items", key] = list_items_row(read_state, read_state.known, offset)
            self._unsaved.clear()
            return rows

    def retry_rejected(self, workspace_key: WorkspaceKey) -> None:
        """Make the rejected lists of a workspace due at once, since its key has changed."""
        with self._lock:
            for read_state in self._lists.values():
                if read_state.workspace_key == workspace_key:
                    read_state.is_key_changed = True
                    if read_state.is_rejected:
                        read_state.next_at = self._clock.monotonic()

    def known_lists(self) -> ListSnapshots:
        """Return the result of the last complete read of each list. Lists that were never read are omitted."""
        with self._lock:
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
        with self._lock:
            return {
                (read_state.workspace_key.workspace, read_state.list_endpoint)
                for read_state in self._lists.values()
                if read_state.known is None
                and not (
                    read_state.is_rejected
                    and self._workspace_lists[read_state.workspace_key].client.admission.is_key_accepted
                )
            }

    def states(self) -> Mapping[str, Sequence[ListState]]:
        """Return the states of the lists, keyed by the name of the workspace."""
        states: dict[str, list[ListState]] = {}
        with self._lock:
            now = self._clock.monotonic()
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
        """Queue the next page of each list that is due."""
        jobs: list[tuple[str, Job]] = []
        with self._lock:
            now = self._clock.monotonic()
            for read_state in self._lists.values():
                if read_state.in_flight:
                    continue
                wanted = self._workspace_lists[read_state.workspace_key]
                if read_state.next_at <= now or wanted.client.admission.is_probe_wanted(read_state.list_endpoint):
                    job = self._start_read(read_state, wanted)
                elif read_state.is_key_check_due(now):
                    read_state.key_checked_at = now
                    job = self._make_job(read_state, _admit_without_call, partial(_reread_key, wanted))
                else:
                    continue
                read_state.in_flight = True
                jobs.append((read_state.workspace_key.workspace, job))
        for workspace, job in jobs:
            self._submit(workspace, [job])

    def _start_read(self, read_state: ListReadState, wanted: WorkspaceLists) -> Job:
        """Return the job for the next page of a list: the first one, or the one before which it was deferred."""
        read_state.next_at = self._clock.monotonic() + RETRY_SECONDS  # overwritten if the read ends
        read_state.is_key_changed = False
        read_state.pager = read_state.pager or ListPager(read_state.list_endpoint)
        return self._make_page_job(read_state, read_state.pager, wanted.client)

    def _make_page_job(self, read_state: ListReadState, pager: ListPager, client: WorkspaceClient) -> Job:
        def admit() -> Permit | Deferred | None:
            if read_state.pager is not pager:  # a reload has removed the list, or it must be read from the start
                return Deferred("removed")
            return client.admission.admit(read_state.list_endpoint, Priority.LIST)

        return self._make_job(read_state, admit, partial(self._read_page, read_state, pager, client))

    def _make_job(
        self,
        read_state: ListReadState,
        admit: Callable[[], Permit | Deferred | None],
        step: Callable[[Permit | Deferred], Job | None],
    ) -> Job:
        """Return a job that runs `step` and queues the job that it returns. If that is None, the read has ended."""

        def run(admitted: Permit | Deferred) -> None:
            next_job: Job | None = None
            try:
                next_job = step(admitted)
            finally:
                if next_job is None:
                    read_state.in_flight = False
            if next_job is not None:
                self._submit(read_state.workspace_key.workspace, [next_job])

        return Job(read_state.list_endpoint.path, Priority.LIST, read_state.next_at, admit, run)

    def _read_page(
        self, read_state: ListReadState, pager: ListPager, client: WorkspaceClient, admitted: Permit | Deferred
    ) -> Job | None:
        """Read a page, and return the job for the next one."""
        if isinstance(admitted, Deferred):
            with self._lock:
                # A rejected key does not count as deferred.
                if read_state.pager is pager and not isinstance(admitted, CircuitOpen):
                    self._on_deferred(read_state.workspace_key.workspace, read_state.list_endpoint)
            return None
        error, has_ended = None, True
        try:
            has_ended = pager.read_page(client.client, admitted)
        except BrazeError as failure:
            error = failure.without_traceback()
        with self._lock:
            if read_state.pager is not pager:
                return None
            if not has_ended:
                return self._make_page_job(read_state, pager, client)
            now, read_state.pager = self._clock.monotonic(), None
            read_state.schedule(error, now, self._jitter())
            self._unsaved.add(saved_list_key(read_state))
            if error is None:
                read_state.use_if_plausible(pager.items, pager.pages_read + 1, now, self._clock.wall())
        self._on_end()
        return None


def _reread_key(wanted: WorkspaceLists, _admitted: Permit | Deferred) -> None:
    """Read the key of a rejected list again. If it has changed, the list is due at once."""
    wanted.reread_key()


def _admit_without_call() -> Permit:
    """Return a permit for a job that makes no call."""
    return Permit(lambda _error, _rate_limit: None)
