"""Holds the state of every query, and fetches the due queries at each scrape.

Queries are fetched only when Prometheus scrapes. A query is fetched about once per `refresh_interval`, however often
Prometheus scrapes, and at most once at a time. Each workspace has a bounded number of connections. A scrape that times
out does not cancel its fetches; the next scrape returns their results.
"""

import contextlib
import logging
import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from braze_exporter.braze.calls import Response
from braze_exporter.braze.client import Client
from braze_exporter.braze.clock import Clock
from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.kinds import SeriesKind
from braze_exporter.braze.query import Query
from braze_exporter.braze.series import bucket_starts
from braze_exporter.scheduler.admission import Admission, CircuitOpen, Deferred, Permit
from braze_exporter.scheduler.clients import WorkspaceClient, try_fetch
from braze_exporter.scheduler.endpoints import EndpointKey, QueryEndpoints, endpoint_key
from braze_exporter.scheduler.fetch_log import FetchLog
from braze_exporter.scheduler.history import History
from braze_exporter.scheduler.key_state import AUTH_REASONS
from braze_exporter.scheduler.query_state import QueryState, Refresh
from braze_exporter.scheduler.rate_limiter import Priority
from braze_exporter.scheduler.repair import fetch_length
from braze_exporter.scheduler.worker_pool import Job, WorkerPools

# The number of calls for history that a scrape starts at an endpoint, since the state file is written between scrapes.
MAX_HISTORY_CALLS = 500
# The failures after which the rate limiter or a circuit breaker delays all calls to the endpoint.
_SHARED_REASONS = {Reason.RATE_LIMITED, *AUTH_REASONS}

_log = logging.getLogger(__name__)


class Scheduler:
    """Holds the states of all queries and fetches the due ones at each scrape. Thread-safe."""

    def __init__(
        self,
        *,
        clock: Clock,
        jitter: Callable[[], float],
        on_deferred: Callable[[str, SeriesKind], None] = lambda _workspace, _kind: None,
        restore: Callable[[Query], QueryState | None] = lambda _query: None,
        last_requested: Callable[[Query], float | None] = lambda _query: None,
    ) -> None:
        """Start without queries.

        `jitter` returns a factor for the wait after failures. `on_deferred` is called with the workspace and the kind
        of each query that is deferred. `restore` returns the state that a new query had before a restart, or None.
        `last_requested` returns when the last complete response that the counter of a query has was requested, in
        seconds since the epoch, or None.

        The attribute `revision` increases with each change of a query state. `on_queries` is called with all query
        states after each change of the plan. `on_fetched` is called after each fetch with the query state, its response
        or None if the fetch failed, and the newest response before it. `on_history` is called with the query state and
        the response after each successful call for history.
        """
        self._clock = clock
        self._jitter = jitter
        self._on_deferred = on_deferred
        self._restore = restore
        self._last_requested = last_requested
        self._clients: Mapping[str, WorkspaceClient] = {}
        self.on_queries: Callable[[Sequence[QueryState]], None] = lambda _query_states: None
        self.on_fetched: Callable[[QueryState, Response | None, Response | None], None] = lambda *_: None
        self.on_history: Callable[[QueryState, Response], None] = lambda *_: None
        self.fetch_log = FetchLog()
        self._lock = threading.Lock()  # of the attributes below and the query states
        self.revision = 0
        self.query_states: tuple[QueryState, ...] = ()
        self._incomplete: dict[QueryState, None] = {}  # those whose history may have missing chunks
        self._history_calls: Counter[EndpointKey] = Counter()  # since the last scrape
        self._endpoints = QueryEndpoints((), self._admission)
        self._worker_pools = WorkerPools()
        self._refresh = Refresh()
        self._refresh.set_result(None)
        self._finished: list[Refresh] = []  # those that are done when the lock is released
        self._is_closed = False

    @contextlib.contextmanager
    def _locking(self) -> Iterator[None]:
        """Hold the lock, and resolve finished refreshes after it. Their callbacks may take any lock."""
        finished: list[Refresh] = []
        try:
            with self._lock:
                try:
                    yield
                finally:
                    finished, self._finished = self._finished, []
        finally:
            for refresh in finished:
                refresh.set_result(None)

    def set_queries(self, queries: Sequence[Query], clients: Mapping[str, WorkspaceClient], concurrency: int) -> None:
        """Replace the queries. `clients` fetch them, at most `concurrency` at once per workspace.

        Queries with the same `identity` as before keep their state.
        """
        with self._locking():
            self._worker_pools.open(clients, concurrency)
            self._clients = clients
            known = {query_state.query.identity: query_state for query_state in self.query_states}
            self.query_states = tuple(self._make_state(query, known.pop(query.identity, None)) for query in queries)
            for query_state in known.values():
                query_state.is_removed = True
                self._end_refreshes(query_state)
            self._incomplete = {state: None for state in self.query_states if state.query.baseline_weeks}
            self._endpoints = QueryEndpoints(self.query_states, self._admission)
            self.on_queries(self.query_states)
            self.fetch_log.drop_removed(self.query_states)
            self.revision += 1
            self._update_circuits()

    def _make_state(self, query: Query, query_state: QueryState | None) -> QueryState:
        """Update `query_state` for `query`, or create it if it is None."""
        now = self._clock.monotonic()
        query_state = query_state or self._restore(query) or QueryState(query, next_at=now)
        before = query_state.query
        if not query.baseline_weeks or (before.channels, before.stats) != (query.channels, query.stats):
            query_state.history = History()  # the baselines of other series are not known
        query_state.history.next_at = -math.inf
        query_state.update(query, now)
        return query_state

    def refresh(self) -> Refresh:
        """Queue a fetch of every due query, and return a future that is done when no fetch is in flight.

        Deferred queries do not delay the future. It cannot be canceled.
        """
        with self._locking():
            if self._is_closed:
                return self._refresh
            deny_reasons = self._endpoints.deny_reasons()
            due = self._take_due(self._clock.monotonic(), deny_reasons)
            added = [query_state for query_state in due if query_state.in_flight]
            jobs = [self._make_job(item, Priority.QUERY, item.next_at, partial(self._run, item)) for item in added]
            self._worker_pools.add([*jobs, *self._history_jobs(deny_reasons)])
            if added or not self._refresh.pending:  # otherwise the current refresh already covers these fetches
                self._refresh = Refresh()
                for query_state in self.query_states:
                    if query_state.in_flight:
                        self._refresh.pending += 1
                        query_state.refreshes.append(self._refresh)
                self._refresh.due = self._refresh.pending + len(due) - len(added)
                if not self._refresh.pending:
                    self._finished.append(self._refresh)
            return self._refresh

    def _take_due(self, now: float, deny_reasons: Mapping[EndpointKey, Deferred | None]) -> list[QueryState]:
        """Return the due queries, and one for each endpoint to probe, which counts as due too.

        Each is marked as in flight, or as deferred if it may not be fetched now.
        """
        due = [state for state in self.query_states if not state.in_flight and state.is_due(now)]
        due += self._endpoints.queries_to_probe({endpoint_key(query_state) for query_state in due})
        for query_state in due:
            deny_reason = deny_reasons[endpoint_key(query_state)]
            query_state.in_flight = deny_reason is None
            if deny_reason is not None:
                self._set_deferred(query_state, deny_reason)
        return due

    def update_circuits(self) -> None:
        """Update the circuit errors of all queries after a call that is not for a query, such as for a list."""
        with self._lock:
            self._update_circuits()

    def remaining_history(self) -> Mapping[str, int]:
        """Return the number of calls for history that remain, by workspace."""
        with self._lock:
            now, calls = self._clock.wall(), Counter[str]()
            for state in self._incomplete:
                calls[state.query.workspace] += state.history.count_calls(state.query, now)
            return +calls

    def close(self) -> None:
        """Stop fetching and resolve all futures. Fetches in flight end by themselves or with the process."""
        with self._locking():
            self._is_closed = True
            self._worker_pools.close()
            for query_state in self.query_states:
                self._release(query_state)

    def add_job(self, workspace: str, job: Job) -> bool:
        """Queue a job that is not for a query, and return whether the workspace has threads that may run it."""
        with self._lock:
            return self._worker_pools.add([(workspace, job)])

    def _admission(self, query: Query) -> Admission:
        return self._clients[query.workspace].admission

    def _make_job(
        self, query_state: QueryState, priority: Priority, next_at: float, run: Callable[[Permit | Deferred], None]
    ) -> tuple[str, Job]:
        """Return the workspace of a query and a job that calls `run`."""
        admit = partial(self._admit, query_state, priority)
        return query_state.query.workspace, Job(query_state.query.kind.path, priority, next_at, admit, run)

    def _admit(self, query_state: QueryState, priority: Priority) -> Permit | Deferred | None:
        client = self._clients.get(query_state.query.workspace)
        if query_state.is_removed or client is None:  # the workspace may just have been removed by a reload
            return Deferred()
        return client.admission.admit(query_state.query.kind, priority)

    def _history_jobs(self, deny_reasons: Mapping[EndpointKey, Deferred | None]) -> Iterator[tuple[str, Job]]:
        """Yield a job for the history of each query that misses some, if calls to its endpoint are allowed."""
        now = self._clock.monotonic()
        self._history_calls.clear()
        for query_state in list(self._incomplete):
            history, deny_reason = query_state.history, deny_reasons[endpoint_key(query_state)]
            if not history.is_reading and now >= history.next_at and deny_reason is None:
                yield from self._next_history_job(query_state)

    def _next_history_job(self, query_state: QueryState) -> Iterator[tuple[str, Job]]:
        """Yield the job for the next chunk of the history of a query, if one is due.

        Yields nothing if the endpoint has had its `MAX_HISTORY_CALLS`. Drops a query whose history is complete.
        """
        history, key, now = query_state.history, endpoint_key(query_state), self._clock.monotonic()
        chunk = None
        if self._history_calls[key] < MAX_HISTORY_CALLS:
            chunk = history.next_chunk(query_state.query, self._clock.wall(), now)
            if chunk is None and history.next_at <= now:  # it is complete
                self._incomplete.pop(query_state, None)
        history.is_reading = chunk is not None
        if chunk is not None:
            self._history_calls[key] += 1
            run = partial(self._run_history, query_state, history, chunk)
            yield self._make_job(query_state, Priority.HISTORY, now, run)

    def _run_history(
        self, query_state: QueryState, history: History, chunk: Query, admitted: Permit | Deferred
    ) -> None:
        """Fetch a chunk of history in a thread of a `WorkerPool`, and queue the next one.

        If the chunk was not admitted, a later scrape queues it again.
        """
        if isinstance(admitted, Deferred):
            history.is_reading = False
            return
        response, error = try_fetch(
            self._clients, chunk, lambda client: client.fetch(chunk, chunk.length, admitted.end)
        )
        with self._locking():
            self._update_circuits()
            if query_state.is_removed or query_state.history is not history:  # by a reload
                return
            is_reached = self._admission(query_state.query).is_reached
            if response is not None:
                history.record_chunk(chunk, response.sent_at, self._clock.monotonic())
                self._notify(query_state, lambda: self.on_history(query_state, response))
                self.fetch_log.log_history(chunk, None)
            elif error is not None and is_reached and error.reason not in _SHARED_REASONS:
                self.fetch_log.log_history(chunk, error)
                history.record_failure(chunk, error, self._clock.wall(), self._clock.monotonic())
            self._worker_pools.add(self._next_history_job(query_state))

    def _fetch(self, query_state: QueryState, client: Client, permit: Permit) -> Response:
        """Fetch the buckets of a query that are new or may have changed. Raises `BrazeError` if the fetch fails."""
        query, completed_at, now = query_state.query, query_state.repair.completed_at, self._clock.wall()
        since = completed_at if completed_at is not None else self._last_requested(query)
        request = query_state.repair.next_request(query, fetch_length(query, since, now), now)
        query = replace(query, ending_at=request.ending_at)
        return client.fetch(query, request.length, permit.end, query_state.response)

    def _run(self, query_state: QueryState, admitted: Permit | Deferred) -> None:
        """Fetch a query in a thread of its `WorkerPool`, or defer it if it was not admitted."""
        if isinstance(admitted, Deferred):
            with self._locking():
                if not query_state.is_removed:
                    self._set_deferred(query_state, admitted)
                self._release(query_state)
            return
        response, error = try_fetch(
            self._clients, query_state.query, lambda client: self._fetch(query_state, client, admitted)
        )
        with self._locking():
            if not query_state.is_removed:
                self._set_deferred(query_state, None)
                self._update_circuits()  # first, so that the log shows what this fetch revealed about the key
                self._store_result(query_state, response, error)
            for refresh in query_state.refreshes:
                refresh.fetched += 1
            self._release(query_state)

    def _store_result(self, query_state: QueryState, response: Response | None, error: BrazeError | None) -> None:
        """Store the result of a fetch, log it and report it."""
        query, repair, now = query_state.query, query_state.repair, self._clock.monotonic()
        query_state.schedule(now, error, self._jitter(), is_reached=self._admission(query).is_reached)
        previous = query_state.response
        if error is not None:
            if not repair.tolerates(error):
                query_state.fetch_error = error
            if repair.record_failure(query, error):  # a shorter request may succeed
                query_state.next_at = min(query_state.next_at, now)
        elif response is not None:
            oldest = next(iter(bucket_starts(response.series)), None)
            response = replace(response, is_complete=repair.record_success(query, response.sent_at, oldest))
            request = repair.request
            if request is None or request.ending_at is None:
                query_state.response, query_state.fetch_error = response, None
            if request is not None and query.baseline_weeks:
                query_state.history.record_response(query, request.length, request.ending_at, response.sent_at)
                if query_state.history.count_calls(query, self._clock.wall()):
                    self._incomplete[query_state] = None
        self._notify(query_state, lambda: self.on_fetched(query_state, response, previous))
        self.fetch_log.log_query(query_state)

    def _notify(self, query_state: QueryState, notify: Callable[[], None]) -> None:
        try:
            notify()
        except Exception:  # noqa: BLE001 - the thread must survive, and waiting scrapes must be released
            fields = dict(query_state.query.labels)
            _log.exception("Internal error while processing a fetch result", extra={"fields": fields})
        self.revision += 1  # last, so that the change has been processed when the revision shows it

    def _update_circuits(self) -> None:
        for query_state in self._endpoints.update_circuits():
            self.fetch_log.log_query(query_state)
            self.revision += 1

    def _set_deferred(self, query_state: QueryState, deny_reason: Deferred | None) -> None:
        is_deferred = deny_reason is not None and not isinstance(deny_reason, CircuitOpen)
        if query_state.is_deferred != is_deferred:
            query_state.is_deferred = is_deferred
            self.revision += 1
            if is_deferred:
                self._on_deferred(query_state.query.workspace, query_state.query.kind)

    def _release(self, query_state: QueryState) -> None:
        query_state.in_flight = False
        self._end_refreshes(query_state)

    def _end_refreshes(self, query_state: QueryState) -> None:
        ended, query_state.refreshes = query_state.refreshes, []
        for refresh in ended:
            refresh.pending -= 1
            if not refresh.pending:
                self._finished.append(refresh)
