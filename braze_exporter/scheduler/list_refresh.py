"""Refreshes Braze's lists in the background, about once an hour while Prometheus scrapes.

The result of the last complete read is used until the next complete read. Scrapes do not wait for lists.
"""

import copy
import threading
from collections.abc import Callable, Mapping, Sequence

from braze_exporter.braze.clock import Clock
from braze_exporter.braze.errors import BrazeError
from braze_exporter.braze.lists import ListEndpoint
from braze_exporter.scheduler.admission import CircuitOpen, Deferred, Permit
from braze_exporter.scheduler.budgets import WorkspaceKey
from braze_exporter.scheduler.clients import WorkspaceClient
from braze_exporter.scheduler.list_read_state import RETRY_SECONDS, ListReadState, SavedList
from braze_exporter.scheduler.list_reader import ListPager
from braze_exporter.scheduler.pool_usage import UNKNOWN_LIST_PAGES
from braze_exporter.scheduler.rate_limiter import Priority
from braze_exporter.scheduler.selectors import ListSnapshots
from braze_exporter.scheduler.worker_pool import Job
from braze_exporter.state.state_file import StateFile
from braze_exporter.state.tables import TableChanges


class ListRefresher:
    """Queues the pages of due lists, one at a time for each list. Thread-safe."""

    def __init__(
        self,
        *,
        clock: Clock,
        jitter: Callable[[], float],
        submit: Callable[[str, Job], bool],
        on_end: Callable[[], None],
        on_deferred: Callable[[str, ListEndpoint], None] = lambda _workspace, _list_endpoint: None,
        state_file: StateFile | None = None,
    ) -> None:
        """Start without lists.

        `jitter` returns a factor for the wait after failures. `submit` queues a job of a workspace, and returns whether
        it did. `on_end` is called after each read that succeeded or failed. `on_deferred` is called with the workspace
        and the list when a due list is deferred because of rate limiting. The lists in `state_file` are restored when
        they are set.
        """
        self._clock = clock
        self._jitter = jitter
        self._submit = submit
        self._on_end = on_end
        self._on_deferred = on_deferred
        self._saved: dict[tuple[str, ...], SavedList] = {}
        if state_file is not None:
            items = {row[:3]: row for row in state_file.read_table("list_items")}
            self._saved = {row[:3]: (row, items.get(row[:3])) for row in state_file.read_table("lists")}
        self._lock = threading.Lock()  # of the attributes below and the states of the lists
        self._unsaved: set[tuple[str, ...]] = set()
        self._lists: dict[tuple[str, ...], ListReadState] = {}

    def set_lists(
        self, lists: Mapping[WorkspaceKey, Sequence[ListEndpoint]], clients: Mapping[str, WorkspaceClient]
    ) -> None:
        """Set the lists to read and the clients that fetch them, and drop all other lists.

        All lists are due at once, except restored ones, and those for which Braze rejected the key if it has not
        changed.
        """
        with self._lock:
            now, before, self._lists = self._clock.monotonic(), self._lists, {}
            for read_state in before.values():
                read_state.pager = None
            for workspace_key, list_endpoint in ((key, item) for key, items in lists.items() for item in items):
                row_key, client = (*workspace_key, list_endpoint.path), clients[workspace_key.workspace]
                read_state = before.get(row_key) or ListReadState(workspace_key, list_endpoint, client, next_at=now)
                read_state.client = client
                if row_key in self._saved:
                    read_state.restore(self._saved[row_key], now, self._clock.wall())
                elif not read_state.is_rejected:
                    read_state.next_at = now
                self._lists[row_key] = read_state
            self._unsaved |= before.keys() - self._lists.keys() | self._saved.keys()
            self._saved = {}

    @property
    def has_changes(self) -> bool:
        """Whether lists have changed since `take_changes`. Does not wait for other threads."""
        return bool(self._unsaved)

    def take_changes(self) -> TableChanges:
        """Return the rows of the lists that have changed since the last call."""
        with self._lock:
            offset = self._clock.wall() - self._clock.monotonic()
            rows: TableChanges = {}
            for key in self._unsaved:
                read_state = self._lists.get(key)
                gone: TableChanges = {("lists", key): None, ("list_items", key): None}
                rows |= read_state.to_rows(offset) if read_state is not None else gone
            self._unsaved.clear()
            return rows

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
                and not (read_state.is_rejected and read_state.client.admission.is_key_accepted)
            }

    def page_counts(self) -> Mapping[str, Mapping[ListEndpoint, int]]:
        """Return the number of pages that the budget must allow for each list, by the name of the workspace."""
        counts: dict[str, dict[ListEndpoint, int]] = {}
        with self._lock:
            for read_state in self._lists.values():
                # Twice, since a list is read again soon if an item is missing.
                pages = 2 * read_state.known.calls if read_state.known is not None else UNKNOWN_LIST_PAGES
                counts.setdefault(read_state.workspace_key.workspace, {})[read_state.list_endpoint] = pages
        return counts

    def states(self) -> Mapping[str, Sequence[ListReadState]]:
        """Return copies of the states of the lists, by the name of the workspace."""
        states: dict[str, list[ListReadState]] = {}
        with self._lock:
            for read_state in self._lists.values():
                states.setdefault(read_state.workspace_key.workspace, []).append(copy.copy(read_state))
        return states

    def refresh(self) -> None:
        """Queue the next page of each list that is due, and a check of the key for lists that have been rejected."""
        jobs: list[tuple[ListReadState, Job]] = []
        with self._lock:
            now = self._clock.monotonic()
            for read_state in self._lists.values():
                if read_state.in_flight or not (read_state.is_due(now) or read_state.is_key_check_due(now)):
                    continue
                job = self._start_read(read_state, now) if read_state.is_due(now) else self._key_job(read_state, now)
                read_state.in_flight = True
                jobs.append((read_state, job))
        for read_state, job in jobs:
            self._queue(read_state, job)

    def _queue(self, read_state: ListReadState, job: Job) -> None:
        """Queue a job. If a reload is adding or has removed the workspace, the list is free for a later one."""
        if not self._submit(read_state.workspace_key.workspace, job):
            self._free(read_state)

    def _free(self, read_state: ListReadState) -> None:
        with self._lock:
            read_state.in_flight = False

    def _key_job(self, read_state: ListReadState, now: float) -> Job:
        """Return a job without a call that reads the key again. If the key has changed, the list is due."""
        read_state.key_checked_at = now

        def run(_admitted: Permit | Deferred) -> None:
            try:
                read_state.client.admission.reread_key()
            finally:
                self._free(read_state)

        return Job(read_state.list_endpoint.path, Priority.LIST, now, Deferred, run)

    def _start_read(self, read_state: ListReadState, now: float) -> Job:
        """Return the job for the page with which a read starts, or for the one before which it was deferred."""
        read_state.next_at = now + RETRY_SECONDS  # overwritten if the read ends
        read_state.key_state = read_state.client.admission.key_state
        read_state.pager = read_state.pager or ListPager(read_state.list_endpoint)
        return self._page_job(read_state, read_state.pager)

    def _page_job(self, read_state: ListReadState, pager: ListPager) -> Job:
        """Return the job for the next page of a list. It queues another one for the page after it."""
        list_endpoint, client = read_state.list_endpoint, read_state.client

        def admit() -> Permit | Deferred | None:
            if read_state.pager is not pager:  # a reload has removed the list, or it must be read from the start
                return Deferred()
            return client.admission.admit(list_endpoint, Priority.LIST)

        def run(admitted: Permit | Deferred) -> None:
            has_ended = True
            try:
                has_ended = self._read_page(read_state, pager, admitted)
            finally:
                if has_ended:
                    self._free(read_state)
            if not has_ended:
                self._queue(read_state, self._page_job(read_state, pager))

        # The list whose last read ended first comes first, since the budget may be too small for all lists.
        return Job(list_endpoint.path, Priority.LIST, read_state.key_checked_at, admit, run)

    def _read_page(self, read_state: ListReadState, pager: ListPager, admitted: Permit | Deferred) -> bool:
        """Read a page, and return whether the read has ended."""
        if isinstance(admitted, Deferred):
            with self._lock:
                # A rejected key does not count as deferred.
                if read_state.pager is pager and not isinstance(admitted, CircuitOpen):
                    self._on_deferred(read_state.workspace_key.workspace, read_state.list_endpoint)
            return True
        error, has_ended = None, True
        try:
            has_ended = pager.read_page(read_state.client.client, admitted.end)
        except BrazeError as failure:
            error = failure.without_traceback()
        with self._lock:
            if read_state.pager is not pager:
                return True
            if not has_ended:
                return False
            now, read_state.pager = self._clock.monotonic(), None
            read_state.schedule(error, now, self._jitter())
            self._unsaved.add(read_state.row_key)
            if error is None:
                read_state.use_if_plausible(pager.items, pager.pages_read + 1, now, self._clock.wall())
        self._on_end()
        return True
