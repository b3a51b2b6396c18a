"""Fetch history with several calls at once, retry failed calls, and save the responses to the resume file.

As in the exporter, each workspace has an `Admission` and a circuit breaker that pauses calls after failures.
"""

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from itertools import islice

from braze_exporter.backfill.request import BackfillError, BackfillRequest, format_time
from braze_exporter.backfill.resume_file import ResumeFile
from braze_exporter.braze.client import Client
from braze_exporter.braze.clock import Clock
from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.query import Query
from braze_exporter.config.document import shorten
from braze_exporter.scheduler.admission import Admission, Deferred, Permit
from braze_exporter.scheduler.circuit_breaker import BreakerCall, CircuitBreaker, Decision, backoff_seconds
from braze_exporter.scheduler.clients import WorkspaceClient
from braze_exporter.scheduler.endpoints import EndpointKey
from braze_exporter.scheduler.key_state import AUTH_REASONS
from braze_exporter.scheduler.rate_limiter import PAUSE_TEXTS, PauseReason, Priority
from braze_exporter.scheduler.repair import first_start, halve_length
from braze_exporter.scheduler.worker_pool import Job, WorkerPool

# The pause of a workspace after a failure, in seconds. It doubles with each further failure in a row.
INITIAL_PAUSE_SECONDS = 1.0
MAX_PAUSE_SECONDS = 300.0
# The number of failures in a row that end the run. The pauses between them take about 18 minutes.
MAX_FAILURES = 12
# Errors that the query causes. A retry would fail too.
_PERMANENT_REASONS = {Reason.BAD_REQUEST, Reason.NOT_FOUND, Reason.INVALID_RESPONSE, Reason.TOO_LARGE}
# Errors that do not indicate an outage of Braze or the network.
_RESPONSE_REASONS = {*_PERMANENT_REASONS, *AUTH_REASONS, Reason.RATE_LIMITED}
# The number of jobs that are queued in memory per connection. A backfill can have millions.
_QUEUED_PER_CONNECTION = 2


@dataclass(slots=True, eq=False)
class _Chunk:
    """A chunk of the history of `query`, whose last bucket ends at `ending_at`.

    Its newest `remaining` buckets have not been fetched yet. `breaker_call` is what the circuit breaker returned for
    the next call.
    """

    query: Query
    ending_at: int
    remaining: int
    breaker_call: BreakerCall | None = None

    def next_call(self, max_length: int) -> Query:
        """Return the query for the oldest of the remaining buckets, at most `max_length`."""
        length, ending_at = min(self.remaining, max_length), self.ending_at
        if length < self.remaining:
            ending_at = first_start(ending_at, self.remaining - length, self.query) - 1
        return replace(self.query, length=length, ending_at=ending_at)


@dataclass(slots=True, eq=False)
class _Workspace:
    """A workspace: its API client, its circuit breaker, its number of `failures` in a row, and the last one."""

    client: Client
    admission: Admission
    circuit_breaker: CircuitBreaker = field(default_factory=lambda: CircuitBreaker(is_probe_due=False))
    failures: int = 0
    failure_detail: str = ""


class Reader:
    """Makes the calls of a backfill in its own threads. Thread-safe.

    `completed_count` is the number of chunks that were fetched completely. `rejected` maps each query that Braze
    rejects to its error. No more calls are made for these queries.
    """

    def __init__(
        self,
        request: BackfillRequest,
        resume_file: ResumeFile,
        clients: Mapping[str, WorkspaceClient],
        queries: Iterable[Query],
        clock: Clock,
    ) -> None:
        """Create a reader of `queries` that makes no calls before `start`.

        `clients` has the client of each workspace by its name.
        """
        self._request = request
        self._resume_file = resume_file
        self._clock = clock
        self._lock = threading.Lock()
        self._workspaces = {name: _Workspace(client.client, client.admission) for name, client in clients.items()}
        self._worker_pools: dict[str, WorkerPool] = {}
        self._queries_by_endpoint: dict[EndpointKey, list[Query]] = {}
        for query in queries:
            self._queries_by_endpoint.setdefault((query.workspace, query.kind.path), []).append(query)
        self._chunk_iterators = {key: self._missing_chunks(group) for key, group in self._queries_by_endpoint.items()}
        self._retries: dict[EndpointKey, deque[_Chunk]] = {key: deque() for key in self._queries_by_endpoint}
        self._max_lengths: dict[Query, int] = {}  # after oversized responses
        self._pending_chunks = 0
        self._has_ended = threading.Event()
        self._failure: Exception | None = None
        self.completed_count = 0
        self.rejected: dict[Query, BrazeError] = {}

    def start(self, concurrency: int) -> None:
        """Start to fetch the missing history. At most `concurrency` calls per workspace are made at once."""
        first = {
            endpoint_key: [*islice(source, concurrency * _QUEUED_PER_CONNECTION)]
            for endpoint_key, source in self._chunk_iterators.items()
        }
        self._pending_chunks = sum(map(len, first.values()))
        self._worker_pools = {name: WorkerPool(name, concurrency) for name in self._workspaces}
        for (workspace, _), chunks in first.items():
            self._worker_pools[workspace].add([self._make_job(chunk) for chunk in chunks])
        if not self._pending_chunks:
            self._has_ended.set()

    def wait(self, seconds: float) -> bool:
        """Wait for the end of the backfill, for at most `seconds`, and return whether it has ended.

        Raises the exception that ended it, if any.
        """
        has_ended = self._has_ended.wait(seconds)
        if self._failure is not None:
            raise self._failure
        return has_ended

    def describe_pause(self) -> str:
        """Return why and until when a workspace is paused, or an empty text if only the budget limits the calls."""
        with self._lock:
            for name, workspace in self._workspaces.items():
                pauses = [(workspace.failure_detail, workspace.circuit_breaker.open_until - self._clock.monotonic())]
                pauses += [
                    (PAUSE_TEXTS[pause.reason], pause.seconds)
                    for pause in workspace.admission.status().pauses.values()
                    if pause.reason is not PauseReason.BUDGET
                ]
                for reason, seconds in pauses:
                    if seconds > 0:
                        until = datetime.fromtimestamp(self._clock.wall() + seconds, UTC)
                        return f"{shorten(name)} paused until {until:%H:%M:%S} UTC: {reason}"
        return ""

    def close(self) -> None:
        """Make no more calls. Calls in flight end with the process."""
        for worker_pool in self._worker_pools.values():
            worker_pool.close()

    def _missing_chunks(self, queries: Iterable[Query]) -> Iterator[_Chunk]:
        """Yield the missing calls of the queries in turn, so that a failing query does not block the others."""
        turns = deque((query, iter(self._missing_ending_times(query))) for query in queries)
        while turns:
            query, endings = turns.popleft()
            ending_at = None if query in self.rejected else next(endings, None)
            if ending_at is not None:
                yield _Chunk(query, ending_at, query.kind.max_length)
                turns.append((query, endings))

    def _missing_ending_times(self, query: Query) -> list[int | None]:
        """Return `ending_at` of the missing calls, which needs a tenth of the memory of the calls."""
        return [chunk.ending_at for chunk in self._resume_file.missing_chunks(self._request.chunks(query))]

    def _make_job(self, chunk: _Chunk) -> Job:
        return Job(chunk.query.kind.path, Priority.QUERY, 0.0, partial(self._admit, chunk), partial(self._run, chunk))

    def _admit(self, chunk: _Chunk) -> Permit | Deferred | None:
        """Return the permit for a call, None if it must wait, or `Deferred` if Braze has rejected its query."""
        with self._lock:
            if chunk.query in self.rejected:
                return Deferred()
            workspace = self._workspaces[chunk.query.workspace]
            if workspace.circuit_breaker.decide(self._clock.monotonic()) is not Decision.ALLOW:
                return None
            permit = workspace.admission.admit(chunk.query.kind)
            if not isinstance(permit, Permit):
                return None
            chunk.breaker_call = workspace.circuit_breaker.acquire()
            return permit

    def _run(self, chunk: _Chunk, admitted: Permit | Deferred) -> None:
        """Make a call in a worker thread, and queue the next call."""
        if isinstance(admitted, Deferred) and chunk.query not in self.rejected:
            # Without the chunk, the output would have a gap.
            self._end(RuntimeError("internal error before a call"))
            return
        try:
            is_retry = isinstance(admitted, Permit) and not self._fetch_chunk(chunk, admitted)
            next_chunk = self._next_chunk(chunk, is_retry=is_retry)
        except Exception as failure:  # noqa: BLE001 - `wait` raises it
            self._end(failure)
            return
        if next_chunk is not None:
            self._worker_pools[chunk.query.workspace].add([self._make_job(next_chunk)])

    def _next_chunk(self, chunk: _Chunk, *, is_retry: bool) -> _Chunk | None:
        """Return the next chunk of the same workspace and endpoint, or None if there is none.

        If `is_retry` is set, `chunk` is queued again after all others. The backfill ends when no chunk is left or in
        flight.
        """
        endpoint_key = (chunk.query.workspace, chunk.query.kind.path)
        with self._lock:
            if is_retry:
                self._retries[endpoint_key].append(chunk)
            next_chunk = next(self._chunk_iterators[endpoint_key], None)
            if next_chunk is None and self._retries[endpoint_key]:
                next_chunk = self._retries[endpoint_key].popleft()
            self._pending_chunks -= next_chunk is None
            if not self._pending_chunks:
                self._has_ended.set()
            return next_chunk

    def _end(self, failure: Exception) -> None:
        with self._lock:
            self._failure = self._failure or failure
            self._has_ended.set()

    def _fetch_chunk(self, chunk: _Chunk, permit: Permit) -> bool:
        """Make a call, and return whether the chunk is done. Raises `BackfillError` if the backfill must end."""
        workspace = self._workspaces[chunk.query.workspace]
        with self._lock:
            call = chunk.next_call(self._max_lengths.get(chunk.query, chunk.remaining))
        error: BrazeError | None = None
        try:
            response = workspace.client.fetch(call, call.length, permit.end)
        except BrazeError as failure:
            error = failure.without_traceback()
        else:
            self._check_clock(chunk.query, response.sent_at)
            self._resume_file.save(call, response.series, is_complete=call.length == chunk.remaining)
        with self._lock:
            self._record(workspace, chunk, error)
            if error is None:
                chunk.remaining -= call.length
                self.completed_count += not chunk.remaining
                return not chunk.remaining
            if error.reason is Reason.TOO_LARGE and call.length > 1:
                self._max_lengths[chunk.query] = halve_length(call.length)
                return False
            if error.reason in AUTH_REASONS:  # the other queries of the endpoint would fail too
                self.rejected |= dict.fromkeys(
                    self._queries_by_endpoint[chunk.query.workspace, chunk.query.kind.path], error
                )
            elif error.reason in _PERMANENT_REASONS:
                self.rejected[chunk.query] = error
        return error.reason in _PERMANENT_REASONS | AUTH_REASONS

    def _check_clock(self, query: Query, requested_at: float) -> None:
        """Raise `BackfillError` if, by Braze's clock, some of the requested buckets have not settled yet."""
        if requested_at < self._request.end.in_zone(query.zone):
            text = (
                f"Braze's clock shows {format_time(requested_at)}, which is before --end={self._request.end}; correct "
                "the clock of this machine"
            )
            raise BackfillError(f"{shorten(query.workspace)}: {text}")

    def _record(self, workspace: _Workspace, chunk: _Chunk, error: BrazeError | None) -> None:
        """Record the result of a call, and pause the workspace after a new failure.

        Raises `BackfillError` after `MAX_FAILURES` failures in a row, or if Braze rejects the key.
        """
        name, breaker_call = chunk.query.workspace, chunk.breaker_call
        is_failure = error is not None and error.reason not in _RESPONSE_REASONS
        is_current = breaker_call is not None and workspace.circuit_breaker.is_current(breaker_call)
        if breaker_call is not None:
            workspace.circuit_breaker.release(breaker_call, succeeded=not is_failure)
        failure = workspace.admission.status().key_failure
        if failure is not None:
            raise BackfillError(f"{shorten(name)}: {failure.error.detail}")
        if not is_current:
            return
        if error is None or not is_failure:
            workspace.failures = 0
            return
        workspace.failures += 1
        pause_seconds = backoff_seconds(INITIAL_PAUSE_SECONDS, workspace.failures, MAX_PAUSE_SECONDS)
        workspace.circuit_breaker.open(self._clock.monotonic() + pause_seconds)
        workspace.failure_detail = error.detail
        if workspace.failures == MAX_FAILURES:
            raise BackfillError(f"{shorten(name)}: {MAX_FAILURES} attempts in a row failed: {error.detail}")
