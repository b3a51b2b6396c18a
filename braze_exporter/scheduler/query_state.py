"""What is held of a query, and when it is asked next. Pure: the cache decides who may change what."""

from dataclasses import dataclass, field
from typing import Protocol

from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.query import Query
from braze_exporter.braze.series import TROUBLES, Series
from braze_exporter.scheduler.admission import AUTH_REASONS
from braze_exporter.scheduler.rate_limiter import HOLD_SECONDS
from braze_exporter.scheduler.repair import Repair

# A query is due a little before its time, so that a scrape interval equal to its refresh finds it due each time.
EARLY_FRACTION = 0.1
# What is fetched once, and was not answered, can wait for an hour.
HISTORY_RETRY_SECONDS = 3_600.0
# Beyond this a query does not wait longer for each failure, unless its refresh is longer.
MAX_BACKOFF_SECONDS = 900.0
_MAX_DOUBLINGS = 20


@dataclass(frozen=True, slots=True)
class Response:
    """The series of an answer, and when it was asked for and when it was here, in seconds since the epoch.

    `sent_at` is by Braze's clock if ours is ahead of it; `received_monotonic` is on the clock that never jumps. It
    `is_complete` if with it all has been read that repair needs, and `is_short` if it holds less than a usual one.
    """

    series: tuple[Series, ...]
    sent_at: float
    received_at: float
    received_monotonic: float
    is_complete: bool = True
    is_short: bool = False


@dataclass(frozen=True, slots=True)
class FetchResult:
    """What is held of a query that was asked: the newest answer, if there ever was one, and why the last fetch failed.

    `error` is None if the last fetch was answered.
    """

    response: Response | None
    error: BrazeError | None


class Waiter(Protocol):
    """Who waits for the end of fetches."""

    def finish_one(self) -> None:
        """Take note that one has ended."""


@dataclass(slots=True, eq=False)
class QueryState:
    """The state of one query, which only the cache changes.

    `planned_at` is when it came into the plan, in seconds since the epoch; `next_at` is on the monotonic clock.
    `result` is replaced whole, and None until the first try. `circuit_error` is why none of its sort is asked.
    `in_flight` means queued or under way, `is_deferred` that the query was due when it was last looked at, but
    withheld, `removed` that it is not in the plan any more. `failures` are those in a row that were Braze's trouble.
    `is_history` is for what is fetched once, after all else, and without anyone waiting.
    """

    query: Query
    planned_at: float
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
        """The endpoint that is asked."""
        return self.query.kind.path

    @property
    def response(self) -> Response | None:
        """The newest answer, if there ever was one."""
        return self.result.response if self.result is not None else None

    @property
    def error(self) -> BrazeError | None:
        """Why the query is not answered, or None if it is, or was not tried."""
        return self.circuit_error or (self.result.error if self.result is not None else None)

    @property
    def has_result(self) -> bool:
        """Whether it is known if the query is answered."""
        return self.result is not None or self.circuit_error is not None

    @property
    def due_at(self) -> float:
        """From when the query should be fetched, on the monotonic clock."""
        return self.next_at - EARLY_FRACTION * self.query.refresh

    def is_due(self, now: float) -> bool:
        """Return whether the query should be fetched at `now`, on the monotonic clock."""
        return now >= self.due_at

    def schedule(self, now: float, error: BrazeError | None, jitter: float) -> None:
        """Set the next time: one refresh after the last, so that the calls per hour are 3600 / refresh.

        After failures that are Braze's trouble it waits for longer each time, give or take the factor `jitter`; after a
        refusal of the key for as long as that holds; after a 429 it stays due.
        """
        refresh = self.query.refresh
        reason = error.reason if error is not None else None
        self.failures = self.failures + 1 if reason in TROUBLES else 0
        if reason in AUTH_REASONS:
            self.next_at = now + min(refresh, HOLD_SECONDS)
            return
        if reason is Reason.RATE_LIMITED:  # it was put off, and is due when its pool is asked again
            self.next_at = min(self.next_at, now)
            return
        if self.is_history:
            self.next_at = now + HISTORY_RETRY_SECONDS
            return
        if self.failures:
            self.next_at = now + backoff_seconds(refresh, self.failures, jitter)
            return
        self.next_at += refresh
        if self.is_due(now):  # it fell behind: nothing is caught up on
            self.next_at = now + refresh

    def update(self, query: Query, now: float) -> None:
        """Go on as another query that asks for the same: with other names, another refresh, or another key."""
        self.query = query
        error = self.result.error if self.result is not None else None
        if error is not None and error.reason in AUTH_REASONS:
            self.next_at = now
        elif not self.failures:
            self.next_at = min(self.next_at, now + query.refresh)


def backoff_seconds(refresh: float, failures: int, jitter: float) -> float:
    """Return how long a query waits after so many failures in a row, from 1, give or take `jitter`, in seconds."""
    doublings = min(failures - 1, _MAX_DOUBLINGS)
    return min(refresh * 2.0**doublings * jitter, max(MAX_BACKOFF_SECONDS, refresh))


def state_key(query: Query) -> tuple[object, ...]:
    """Return what must be the same of two queries, that what is held of one is true of the other.

    Names for labels may differ, and so may when it is fetched and how it is judged.
    """
    return (*query.identity, query.url, query.zone)
