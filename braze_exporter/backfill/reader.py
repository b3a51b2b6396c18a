"""Fetch history with several calls at once, retry failed calls, and save the responses to the resume file.

As in the exporter, each workspace has an `Admission` and a circuit breaker that pauses calls after failures.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice

from braze_exporter.backfill.request import BackfillError, BackfillRequest, format_time
from braze_exporter.backfill.resume_file import ResumeFile
from braze_exporter.braze.calls import CallEvent, Permit
from braze_exporter.braze.client import Client
from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.query import Query
from braze_exporter.config.document import shorten
from braze_exporter.scheduler.admission import Admission
from braze_exporter.scheduler.circuit_breaker import BreakerCall, CircuitBreaker, Decision
from braze_exporter.scheduler.errors import Deferred
from braze_exporter.scheduler.key_state import AUTH_REASONS
from braze_exporter.scheduler.repair import halve_length, split_chunk
from braze_exporter.scheduler.worker_pool import WorkerPool

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

# The workspace and the endpoint of a call.
_EndpointKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class WorkspacePause:
    """The reason why no calls are made for a workspace, and the end of the pause in monotonic seconds."""

    workspace: str
    reason: str
    until: float


@dataclass(slots=True, eq=False)
class _Job:
    """The next call for a chunk of the history of `query`, and the calls after it.

    `chunk` is the next call. If the chunk was split, `newer` holds the calls for its newer parts. The newest part is
    fetched last, because the resume file then counts the whole chunk as saved.
    """

    query: Query
    chunk: Query
    newer: tuple[Query, ...] = ()
    next_at: float = 0.0
    is_history: bool = False

    @property
    def path(self) -> str:
        """The path of the endpoint."""
        return self.query.kind.path


@dataclass(frozen=True, slots=True)
class _CallPermission:
    """The permission to make a call: the permit of the rate limiter and the probe of the circuit breaker."""

    permit: Permit
    probe: BreakerCall


class _BackfillClient:
    """The API client of a workspace, its circuit breaker, and its number of `failures` in a row."""

    def __init__(self, client: Client, admission: Admission) -> None:
        self.client = client
        self.admission = admission
        self.circuit_breaker = CircuitBreaker(is_probe_due=False)
        self.failures = 0


class Reader:
    """Makes the calls of a backfill in its own threads. Thread-safe.

    `response_count` is the number of successful calls. `rejected` maps each query that Braze rejects to its error. No
    more calls are made for these queries.
    """

    def __init__(
        self,
        request: BackfillRequest,
        resume_file: ResumeFile,
        *,
        wall: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        """Create a reader that makes no calls before `start`.

        `wall` returns seconds since the epoch, `monotonic` seconds of a monotonic clock.
        """
        self._request = request
        self._resume_file = resume_file
        self._wall = wall
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._clients: dict[str, _BackfillClient] = {}
        self._worker_pools: dict[str, WorkerPool[_Job, _CallPermission | Deferred]] = {}
        self._queries_by_endpoint: dict[_EndpointKey, list[Query]] = {}
        self._job_iterators: dict[_EndpointKey, Iterator[_Job]] = {}
        self._retries: dict[_EndpointKey, deque[_Job]] = {}
        self._pauses: dict[tuple[str, str], WorkspacePause] = {}
        self._max_chunk_lengths: dict[Query, int] = {}
        self._pending_jobs = 0
        self._has_ended = threading.Event()
        self._failure: Exception | None = None
        self.response_count = 0
        self.rejected: dict[Query, BrazeError] = {}

    def on_call(self, call: CallEvent) -> None:
        """Record the pause of a pool if `call` has caused one."""
        if call.pause_seconds is not None:
            until = self._monotonic() + call.pause_seconds
            is_rate_limited = call.reason is Reason.RATE_LIMITED
            reason = "429 Too Many Requests" if is_rate_limited else "only budget.reserve is left"
            with self._lock:
                self._pauses[call.workspace, call.pool] = WorkspacePause(call.workspace, reason, until)

    def start(
        self, clients: Mapping[str, tuple[Client, Admission]], queries: Iterable[Query], concurrency: int
    ) -> None:
        """Start to fetch the missing history of `queries`.

        `clients` has the client and the `Admission` of each workspace by its name. At most `concurrency` calls per
        workspace are made at once.
        """
        groups = self._queries_by_endpoint
        for query in queries:
            groups.setdefault((query.workspace, query.kind.path), []).append(query)
        self._job_iterators = {endpoint_key: self._missing_jobs(group) for endpoint_key, group in groups.items()}
        self._retries = {endpoint_key: deque() for endpoint_key in groups}
        first = {
            endpoint_key: [*islice(source, concurrency * _QUEUED_PER_CONNECTION)]
            for endpoint_key, source in self._job_iterators.items()
        }
        self._pending_jobs = sum(map(len, first.values()))
        self._clients = {workspace: _BackfillClient(*client) for workspace, client in clients.items()}
        self._worker_pools = {name: WorkerPool(name, concurrency, self._admit, self._run) for name in clients}
        for (workspace, _), jobs in first.items():
            self._worker_pools[workspace].add(jobs)
        if not self._pending_jobs:
            self._has_ended.set()

    def wait(self, seconds: float) -> bool:
        """Wait for the end of the backfill, for at most `seconds`, and return whether it has ended.

        Raises the exception that ended it, if any.
        """
        has_ended = self._has_ended.wait(seconds)
        if self._failure is not None:
            raise self._failure
        return has_ended

    def current_pause(self) -> WorkspacePause | None:
        """Return the current pause of a workspace, or None if only the budget limits the calls."""
        with self._lock:
            now = self._monotonic()
            return next((pause for pause in self._pauses.values() if now < pause.until), None)

    def close(self) -> None:
        """Make no more calls. Calls in flight end with the process."""
        for worker_pool in self._worker_pools.values():
            worker_pool.close()

    def _missing_jobs(self, queries: Iterable[Query]) -> Iterator[_Job]:
        """Yield the missing calls of the queries in turn, so that a failing query does not block the others."""
        turns = deque((query, iter(self._missing_ending_times(query))) for query in queries)
        while turns:
            query, endings = turns.popleft()
            ending_at = None if query in self.rejected else next(endings, None)
            if ending_at is not None:
                yield _Job(query, replace(query, ending_at=ending_at, length=query.kind.max_length))
                turns.append((query, endings))

    def _missing_ending_times(self, query: Query) -> list[int | None]:
        """Return `ending_at` of the missing calls, which needs a tenth of the memory of the calls."""
        return [chunk.ending_at for chunk in self._resume_file.missing_chunks(self._request.chunks(query))]

    def _admit(self, job: _Job) -> _CallPermission | Deferred | None:
        """Return the permission for a call, None if it must wait, or `Deferred` if Braze has rejected its query."""
        with self._lock:
            if job.query in self.rejected:
                return Deferred("query rejected")
            client = self._clients[job.query.workspace]
            if client.circuit_breaker.decide(self._monotonic()) is not Decision.ALLOW:
                return None
            permit = client.admission.admit(job.query.kind)
            return _CallPermission(permit, client.circuit_breaker.acquire()) if isinstance(permit, Permit) else None

    def _run(self, job: _Job, permission: _CallPermission | Deferred) -> None:
        """Make a call in a worker thread, and queue the next call."""
        try:
            next_job = self._next_job(
                job, is_retry=isinstance(permission, _CallPermission) and not self._fetch_chunk(job, permission)
            )
        except Exception as failure:  # noqa: BLE001 - `wait` raises it
            self._end(failure)
            return
        if next_job is not None:
            self._worker_pools[job.query.workspace].add([next_job])

    def _next_job(self, job: _Job, *, is_retry: bool) -> _Job | None:
        """Return the next call of the same workspace and endpoint, or None if there is none.

        If `is_retry` is set, `job` is queued again after all other calls. The backfill ends when no call is left or in
        flight.
        """
        endpoint_key = (job.query.workspace, job.path)
        with self._lock:
            if is_retry:
                self._retries[endpoint_key].append(job)
            next_job = next(self._job_iterators[endpoint_key], None)
            if next_job is None and self._retries[endpoint_key]:
                next_job = self._retries[endpoint_key].popleft()
            self._pending_jobs -= next_job is None
            if not self._pending_jobs:
                self._has_ended.set()
            return next_job

    def _end(self, failure: Exception) -> None:
        with self._lock:
            self._failure = self._failure or failure
            self._has_ended.set()

    def _fetch_chunk(self, job: _Job, permission: _CallPermission) -> bool:
        """Make a call, and return whether the job is done. Raises `BackfillError` if the backfill must end."""
        self._split_chunk(job)
        client, requested_at = self._clients[job.query.workspace], self._wall()
        error: BrazeError | None = None
        try:
            fetched = client.client.fetch(job.chunk, job.chunk.length, permission.permit)
        except BrazeError as failure:
            error = failure.without_traceback()
        else:
            self._check_clock(job.query, requested_at if fetched.responded_at is None else fetched.responded_at)
            self._resume_file.save(job.chunk, fetched.series)
        with self._lock:
            self._record(client, job.query, error, permission.probe)
            if error is None and job.newer:
                job.chunk, job.newer = job.newer[0], job.newer[1:]
                return False
            if error is not None and error.reason is Reason.TOO_LARGE and job.chunk.length > 1:
                self._max_chunk_lengths[job.query] = halve_length(job.chunk.length)
                return False
            if error is None:
                self.response_count += 1
            elif error.reason in AUTH_REASONS:  # the other queries of the endpoint would fail too
                self.rejected |= dict.fromkeys(self._queries_by_endpoint[job.query.workspace, job.path], error)
            elif error.reason in _PERMANENT_REASONS:
                self.rejected[job.query] = error
        return error is None or error.reason in _PERMANENT_REASONS | AUTH_REASONS

    def _split_chunk(self, job: _Job) -> None:
        """Split the chunk of a job if it is longer than the maximum length known for its query."""
        with self._lock:
            max_length = self._max_chunk_lengths.get(job.query, job.chunk.length)
        job.chunk, *newer = split_chunk(job.chunk, max_length)
        job.newer = (*newer, *job.newer)

    def _check_clock(self, query: Query, requested_at: float) -> None:
        """Raise `BackfillError` if, by Braze's clock, some of the requested buckets have not settled yet."""
        if requested_at < self._request.end.in_zone(query.zone):
            text = (
                f"Braze's clock shows {format_time(requested_at)}, which is before --end={self._request.end}; correct "
                "the clock of this machine"
            )
            raise BackfillError(f"{shorten(query.workspace)}: {text}")

    def _record(self, client: _BackfillClient, query: Query, error: BrazeError | None, probe: BreakerCall) -> None:
        """Record the result of a call, and pause the workspace after a new failure.

        Raises `BackfillError` after `MAX_FAILURES` failures in a row, or if Braze rejects the key.
        """
        workspace = shorten(query.workspace)
        is_current, is_failure = (
            client.circuit_breaker.is_current(probe),
            error is not None and error.reason not in _RESPONSE_REASONS,
        )
        client.circuit_breaker.release(probe, succeeded=not is_failure)
        failure = client.admission.status().key_failure
        if failure is not None:
            raise BackfillError(f"{workspace}: {failure.error.detail}")
        if not is_current:
            return
        if error is None or not is_failure:
            client.failures = 0
            return
        now, pause_seconds = self._monotonic(), min(INITIAL_PAUSE_SECONDS * 2**client.failures, MAX_PAUSE_SECONDS)
        client.failures += 1
        if client.failures == MAX_FAILURES:
            raise BackfillError(f"{workspace}: {MAX_FAILURES} attempts in a row failed: {error.detail}")
        client.circuit_breaker.open(now + pause_seconds)
        self._pauses[query.workspace, ""] = WorkspacePause(query.workspace, error.detail, now + pause_seconds)
