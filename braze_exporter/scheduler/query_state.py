"""The state of a query: its last result, and when it is fetched next. Pure; `Scheduler` guards it with its lock."""

from dataclasses import dataclass, field
from typing import Protocol

from braze_exporter.braze.errors import TRANSIENT_REASONS, BrazeError, Reason
from braze_exporter.braze.query import Query
from braze_exporter.braze.series import Series
from braze_exporter.scheduler.admission import AUTH_REASONS
from braze_exporter.scheduler.rate_limiter import AUTH_RETRY_SECONDS
from braze_exporter.scheduler.repair import Repair

# A query is due this fraction of its refresh before its next time. So it is due at each scrape even if the scrape
# interval equals the refresh.
EARLY_FRACTION = 0.1
# How long until a failed fetch of history is tried again, in seconds.
HISTORY_RETRY_SECONDS = 3_600.0
# The longest wait after failures, in seconds, unless the refresh is longer.
MAX_BACKOFF_SECONDS = 900.0
_MAX_DOUBLINGS = 20


@dataclass(frozen=True, slots=True)
class Response:
    """Holds the series of a response, with the times of its request and its arrival.

    `sent_at` and `received_at` are in seconds since the epoch. `sent_at` is by Braze's clock if the exporter's clock is
    ahead of it. `received_monotonic` is in monotonic seconds. `is_complete` is true if the repair has now read all the
    buckets that it needs. `is_short` is true if the request was shorter than a usual one.
    """

    series: tuple[Series, ...]
    sent_at: float
    received_at: float
    received_monotonic: float
    is_complete: bool = True
    is_short: bool = False


@dataclass(frozen=True, slots=True)
class FetchResult:
    """Represents the result of the last fetch of a query.

    `response` is the newest response, or None before the first. `error` is why the last fetch failed, or None if it
    succeeded.
    """

    response: Response | None
    error: BrazeError | None


class Waiter(Protocol):
    """Waits for the end of fetches."""

    def finish_one(self) -> None:
        """Register that one of the fetches has ended."""


@dataclass(slots=True, eq=False)
class QueryState:
    """The state of one query. Only `Scheduler` changes it.

    `added_at` is when the query was added to the plan, in seconds since the epoch. `next_at` is when it is fetched
    next, in monotonic seconds. `result` is None before the end of the first fetch, and replaced as a whole.
    `circuit_error` is the error for which no query of its endpoint is fetched, or None. `in_flight` is true while the
    query is queued or being fetched. `is_deferred` is true if it was due but not fetched because of rate limiting.
    `removed` is true if it is no longer in the plan. `failures` counts the latest failures in a row that were faults of
    Braze or the network. `is_history` marks a chunk of history: it is fetched once, at the lowest priority, and no
    scrape waits for it.
    """

    query: Query
    added_at: float
    next_at: float
    result: FetchResult | None = None
    circuit_error: BrazeError | None = None
    in_flight: bool = False
    is_deferred: bool = False
    removed: bool = False
    failures: int = 0
    is_history: bool = False
    waiters: list["Waiter"] = field(default_factory=list)
    repair: Repair = field(default_factory=Repair)

    @property
    def path(self) -> str:
        """The path of the endpoint."""
        return self.query.kind.path

    @property
    def response(self) -> Response | None:
        """The newest response, or None before the first."""
        return self.result.response if self.result is not None else None

    @property
    def error(self) -> BrazeError | None:
        """Why the query fails, or None if it succeeds or was not fetched yet."""
        return self.circuit_error or (self.result.error if self.result is not None else None)

    @property
    def has_result(self) -> bool:
        """Whether the query has succeeded or failed yet."""
        return self.result is not None or self.circuit_error is not None

    @property
    def due_at(self) -> float:
        """The time from which the query is due, in monotonic seconds."""
        return self.next_at - EARLY_FRACTION * self.query.refresh

    def is_due(self, now: float) -> bool:
        """Return whether the query is due at `now`, in monotonic seconds."""
        return now >= self.due_at

    def schedule(self, now: float, error: BrazeError | None, jitter: float) -> None:
        """Set when the query is fetched next, after a fetch that ended at `now` with `error`.

        Usually the next time is one refresh after the previous next time, so that the query makes 3600 / refresh calls
        an hour. After faults of Braze or the network the wait doubles each time and is multiplied by `jitter`. After a
        rejection of the key the query waits for `AUTH_RETRY_SECONDS` or its refresh, if that is shorter. After a 429
        the query stays due.
        """
        refresh = self.query.refresh
        reason = error.reason if error is not None else None
        self.failures = self.failures + 1 if reason in TRANSIENT_REASONS else 0
        if reason in AUTH_REASONS:
            self.next_at = now + min(refresh, AUTH_RETRY_SECONDS)
            return
        if reason is Reason.RATE_LIMITED:  # it stays due, and is fetched when the pool allows calls again
            self.next_at = min(self.next_at, now)
            return
        if self.is_history:
            self.next_at = now + HISTORY_RETRY_SECONDS
            return
        if self.failures:
            self.next_at = now + backoff_seconds(refresh, self.failures, jitter)
            return
        self.next_at += refresh
        if self.is_due(now):  # it fell behind, and missed fetches are not made up for
            self.next_at = now + refresh

    def update(self, query: Query, now: float) -> None:
        """Replace the query by one with the same `state_key`, for example after a reload.

        Names, refresh and API key may differ. A query whose key was rejected is due at once.
        """
        self.query = query
        error = self.result.error if self.result is not None else None
        if error is not None and error.reason in AUTH_REASONS:
            self.next_at = now
        elif not self.failures:
            self.next_at = min(self.next_at, now + query.refresh)


def backoff_seconds(refresh: float, failures: int, jitter: float) -> float:
    """Return how long a query waits after `failures` failures in a row, in seconds. `jitter` is a factor near 1."""
    doublings = min(failures - 1, _MAX_DOUBLINGS)
    return min(refresh * 2.0**doublings * jitter, max(MAX_BACKOFF_SECONDS, refresh))


def state_key(query: Query) -> tuple[object, ...]:
    """Return the key under which the state of a query is kept.

    Queries with the same key can share their state. Their label names, `refresh`, `settle` and `max_age` may differ.
    """
    return (*query.identity, query.url, query.zone)
