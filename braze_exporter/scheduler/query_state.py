"""The state of a query: its last result, and when it is fetched next.

Not thread-safe: `Scheduler` changes states while it holds its lock, except `repair.request`, `repair.max_length` and
`history.is_reading`, which the thread of a fetch changes without it. Nothing here reads a clock.
"""

from concurrent.futures import Future
from dataclasses import dataclass, field

from braze_exporter.braze.calls import Response
from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.query import Query
from braze_exporter.scheduler.circuit_breaker import FIRST_START_RETRY_SECONDS, backoff_seconds
from braze_exporter.scheduler.history import History
from braze_exporter.scheduler.key_state import AUTH_REASONS, AUTH_RETRY_SECONDS
from braze_exporter.scheduler.repair import RequestPlanner

# A query is due this fraction of its refresh before its next time. So if the scrape interval equals the refresh, each
# scrape fetches the query, even if a scrape is slightly early.
EARLY_FRACTION = 0.1
# The maximum wait after failures, in seconds, unless the refresh is longer.
MAX_BACKOFF_SECONDS = 900.0


class Refresh(Future[None]):
    """The fetches that a scrape waits for. It is done when none of them is in flight.

    `due` is the number of due queries, including deferred ones. `fetched` of them have been fetched, and `pending` are
    in flight.
    """

    def __init__(self) -> None:
        """Start without queries."""
        super().__init__()
        self.set_running_or_notify_cancel()  # a running future cannot be canceled by a scrape that times out
        self.due = self.fetched = self.pending = 0


@dataclass(slots=True, eq=False)
class QueryState:
    """The state of one query. Only `Scheduler` changes it.

    `next_at` is when it is fetched next, in seconds of the monotonic clock. `response` is the last one with the newest
    buckets, or None before the first. `fetch_error` is why the last fetch failed, or None if it succeeded.
    `circuit_error` is the 401 or 403 that blocks all queries of the endpoint, or None. `in_flight` is true while the
    query is queued or being fetched. `is_deferred` is true if it was due but not fetched because of rate limiting.
    `is_removed` is true if it is no longer in the plan. `failures` is the number of consecutive transient failures.
    `history` is that of the baseline. `refreshes` wait for the fetch in flight. `repair` chooses the buckets that the
    next fetch requests.
    """

    query: Query
    next_at: float
    response: Response | None = None
    fetch_error: BrazeError | None = None
    circuit_error: BrazeError | None = None
    in_flight: bool = False
    is_deferred: bool = False
    is_removed: bool = False
    failures: int = 0
    history: History = field(default_factory=History)
    refreshes: list[Refresh] = field(default_factory=list)
    repair: RequestPlanner = field(default_factory=RequestPlanner)

    @property
    def error(self) -> BrazeError | None:
        """Why the query fails, or None if it succeeds or has not been fetched yet."""
        return self.circuit_error or self.fetch_error

    @property
    def has_result(self) -> bool:
        """Whether a fetch of the query has ended or its circuit is open, so that it is up or not up."""
        return self.response is not None or self.error is not None

    @property
    def due_at(self) -> float:
        """The time from which the query is due, in seconds of the monotonic clock."""
        return self.next_at - EARLY_FRACTION * self.query.refresh_seconds

    def is_due(self, now: float) -> bool:
        """Return whether the query is due at `now`, in seconds of the monotonic clock."""
        return now >= self.due_at

    def schedule(self, now: float, error: BrazeError | None, jitter: float, *, is_reached: bool = True) -> None:
        """Set when the query is fetched next, after a fetch that ended at `now` with `error`.

        Usually the next time is one refresh after the previous next time, so that the query makes 3600 / refresh calls
        per hour. After a probe that was not due it is one refresh after that. The wait doubles with each consecutive
        transient failure, and is multiplied by `jitter`. After a 401 or 403 the query waits for `AUTH_RETRY_SECONDS`,
        or for its refresh if that is shorter. After a 429, or if Braze has never responded and is not `is_reached`, the
        query stays due, and is fetched when calls are allowed again.
        """
        refresh = self.query.refresh_seconds
        reason = error.reason if error is not None else None
        self.failures = self.failures + 1 if error is not None and error.is_transient else 0
        if reason in AUTH_REASONS:
            self.next_at = now + min(refresh, AUTH_RETRY_SECONDS)
            return
        if self.failures and not is_reached:
            # After the other queries, in case only this one fails.
            self.failures, self.next_at = 0, now + FIRST_START_RETRY_SECONDS
            return
        if reason is Reason.RATE_LIMITED:
            self.next_at = min(self.next_at, now)
            return
        if self.failures:
            self.next_at = now + backoff_seconds(refresh, self.failures, max(MAX_BACKOFF_SECONDS, refresh), jitter)
            return
        was_due = self.is_due(now)
        self.next_at += refresh
        if not was_due or self.is_due(now):  # a probe came early, or missed fetches are skipped
            self.next_at = now + refresh

    def update(self, query: Query, now: float) -> None:
        """Replace the query by one with the same `identity`, for example after a reload.

        A query that failed with a 401 or 403 is due at once, since the key may have changed.
        """
        self.query = query
        if self.fetch_error is not None and self.fetch_error.reason in AUTH_REASONS:
            self.next_at = now
        elif not self.failures:
            self.next_at = min(self.next_at, now + query.refresh_seconds)
