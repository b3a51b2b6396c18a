"""The rate limiter of one pool of an API key.

Not thread-safe. Nothing here waits or reads a clock: `admission` holds a lock and passes the current time, in seconds
of the monotonic clock.
"""

from dataclasses import dataclass, replace
from enum import Enum, IntEnum, auto

from braze_exporter.braze.calls import RateLimit, RateLimitInfo
from braze_exporter.braze.pools import LISTS_POOL, Pool
from braze_exporter.scheduler.circuit_breaker import BreakerCall, CircuitBreaker, Decision, backoff_seconds
from braze_exporter.state.tables import BudgetRow

# Seconds for which a pool pauses after a 429 without a reset time. The pause doubles with each consecutive 429, up to
# the maximum. A window whose reset time is unknown is assumed to end after the default pause.
DEFAULT_PAUSE_SECONDS = 60.0
MAX_REPEATED_PAUSE_SECONDS = 900.0
# Braze's windows are aligned to the clock, so a reset is at most one window away. This is the tolerance for clocks that
# differ.
_CLOCK_SKEW_SECONDS = 60.0
# All responses of one window give the same reset. If responses are delayed, it can differ by this fraction of the
# window.
_RESET_TOLERANCE_FRACTION = 1 / 60
# One call, minus a tolerance for floating-point rounding.
_ONE_CALL = 1 - 1e-9


class Priority(IntEnum):
    """What a call is for, the most urgent first.

    Calls for lists leave half of the burst of a pool to queries. Calls for history have a budget of their own too.
    """

    QUERY = auto()
    LIST = auto()
    HISTORY = auto()


class PauseReason(Enum):
    """Why a pool makes no calls: after a 429, to keep the reserve, or because the budget is used up.

    The state file has the values of the first two.
    """

    RATE_LIMITED = "rate_limited"
    RESERVE = "reserve"
    BUDGET = "budget"


# The reasons in messages.
PAUSE_TEXTS = {
    PauseReason.RATE_LIMITED: "429 Too Many Requests",
    PauseReason.RESERVE: "only budget.reserve is left",
    PauseReason.BUDGET: "budget.share is used up",
}


@dataclass(frozen=True, slots=True)
class Pause:
    """A pause in the calls of a pool: its reason and the remaining seconds, infinite if the share is 0."""

    reason: PauseReason
    seconds: float


@dataclass(frozen=True, slots=True)
class PoolBudget:
    """The budget of a pool.

    `share` and `reserve` are fractions of the limit, and `burst` is the number of calls that may be made at once.
    `planned_share` is the fraction that the queries need. Calls for history may use half of what they leave of the
    share, and `history_burst` of them may be made at once. The other half is for commands that run beside the exporter.
    """

    share: float
    reserve: float
    burst: int
    planned_share: float = 0.0
    history_burst: int = 0

    @property
    def history_share(self) -> float:
        """The fraction of the limit that calls for history may use."""
        return max(0.0, self.share - self.planned_share) / 2

    def __add__(self, other: "PoolBudget") -> "PoolBudget":
        """Return the budget for the calls of both. The smaller share applies."""
        return replace(
            self,
            share=min(self.share, other.share),
            burst=self.burst + other.burst,
            planned_share=self.planned_share + other.planned_share,
            history_burst=self.history_burst + other.history_burst,
        )


class _TokenBucket:
    """A number of calls that may be made. It grows at a rate, up to a capacity. Both are passed in."""

    def __init__(self, tokens: float, now: float) -> None:
        self._tokens = tokens
        self._filled_at = now

    def tokens_at(self, now: float, rate: float, capacity: float) -> float:
        """Return the number of calls at `now`."""
        return min(capacity, self._tokens + rate * max(0.0, now - self._filled_at))

    def refill(self, now: float, rate: float, capacity: float, *, taken: float) -> None:
        """Store the number of calls at `now`, less those `taken`."""
        self._tokens, self._filled_at = self.tokens_at(now, rate, capacity) - taken, now


class RateLimiter:
    """Limits the calls of one pool to `share` of Braze's limit plus a burst, and keeps the reserve.

    It is a token bucket that uses the limit in Braze's rate-limit headers. In any period it allows at most `share`
    times the limit of that period, plus `burst` calls. When the remaining calls fall to the reserve, it pauses until
    Braze's window ends, even if other clients of the company used them. It also pauses after a 429. At the start and
    after each pause, the first call is a probe: no other call is made until Braze has responded.
    """

    def __init__(self, pool: Pool, budget: PoolBudget, now: float) -> None:
        """Start with all calls of the burst available, but none for history."""
        self._pool = pool
        self._budget = budget
        self._limit = float(pool.limit)
        self._bucket = _TokenBucket(budget.burst, now)
        self._history_bucket = _TokenBucket(0.0, now)
        self._remaining = float("inf")
        self._resets_at = now
        self._is_window_estimated = True  # also that of the state file: the clock may have been wrong
        self._in_flight = 0
        self._consecutive_rate_limits = 0
        self._circuit_breaker = CircuitBreaker(is_probe_due=True)
        self._reported_until = float("-inf")

    def restore(self, row: BudgetRow, now: float, wall: float) -> None:
        """Continue with the state in `row`. `now` and `wall` are the current time by both clocks."""
        self._limit = row.rate_limit if row.rate_limit is not None and row.rate_limit >= 1 else self._limit
        self._bucket = _TokenBucket(row.balance, now - max(0.0, wall - row.balance_at))
        self._consecutive_rate_limits = row.stop_count
        stop_seconds = min((row.stopped_until or wall) - wall, self._max_pause_seconds)
        if row.stop_reason == PauseReason.RATE_LIMITED.value and stop_seconds > 0:
            self._circuit_breaker.open(now + stop_seconds)
        resets_in = self._valid_reset((row.resets_at or wall) - wall)
        if row.remaining is not None and resets_in is not None:
            self._remaining, self._resets_at = row.remaining, now + resets_in

    def rate_limit(self, now: float, wall: float) -> RateLimit:
        """Return the limit, the remaining calls and the reset of Braze's current window, without values if unknown."""
        if self._remaining == float("inf") or now >= self._resets_at:
            return RateLimit()
        return RateLimit(self._limit, max(0.0, self._remaining), wall + self._resets_at - now)

    def to_row(self, url: str, key_digest: str, now: float, wall: float) -> BudgetRow:
        """Return the state as a row of the state file."""
        is_rate_limited = self._circuit_breaker.open_until > now
        reason = PauseReason.RATE_LIMITED if is_rate_limited else PauseReason.RESERVE
        until = self._circuit_breaker.open_until if is_rate_limited else self._paused_until(now)
        is_known = self._remaining < float("inf")
        return BudgetRow(
            url,
            key_digest,
            self._pool.name,
            balance=self._tokens_at(now),
            balance_at=wall,
            stopped_until=wall + until - now if until > now else None,
            stop_reason=reason.value if until > now else None,
            stop_count=self._consecutive_rate_limits,
            rate_limit=self._limit,
            remaining=self._remaining if is_known else None,
            resets_at=wall + self._resets_at - now if is_known else None,
        )

    def set_budget(self, budget: PoolBudget, now: float) -> None:
        """Change the budget. The limit that Braze has reported and the calls made so far still count."""
        self._refill(now)
        self._budget = budget

    def decide(self, now: float, priority: Priority = Priority.QUERY) -> Decision:
        """Return whether a call of this `priority` may be made at `now`."""
        leaves_half = priority is Priority.LIST and self._pool is not LISTS_POOL
        reserved_tokens = self._budget.burst // 2 if leaves_half else 0.0
        if self._tokens_at(now) - reserved_tokens < _ONE_CALL or self._is_reserve_reached(now):
            return Decision.DENY
        if priority is Priority.HISTORY and self._history_tokens_at(now) < _ONE_CALL:
            return Decision.DENY
        return self._circuit_breaker.decide(now)

    def current_pause(self, now: float) -> Pause | None:
        """Return the pause at `now`, or None if a call may be made. Of several pauses it is the longest."""
        seconds = {
            PauseReason.RATE_LIMITED: self._circuit_breaker.open_until - now,
            PauseReason.RESERVE: self._resets_at - now if self._is_reserve_reached(now) else 0.0,
            PauseReason.BUDGET: self._seconds_until_call(now),
        }
        reason = max(seconds, key=seconds.__getitem__)
        return Pause(reason, seconds[reason]) if seconds[reason] > 0 else None

    def acquire(self, now: float, priority: Priority = Priority.QUERY) -> BreakerCall:
        """Register the start of a call that `decide` allowed."""
        self._refill(now, taken=1, taken_for_history=int(priority is Priority.HISTORY))
        self._in_flight += 1
        self._start_window(now)
        self._remaining -= 1
        call = self._circuit_breaker.acquire()
        self._check_reserve(now)
        return call

    def release(self, info: RateLimitInfo, call: BreakerCall, now: float) -> float | None:
        """Register the end of a call, with the rate-limit information of its response.

        Return the seconds of the pause if a new one begins, otherwise None.
        """
        self._in_flight -= 1
        is_current = self._circuit_breaker.is_current(call)
        self._circuit_breaker.release(call, succeeded=info.is_accepted or info.remaining is not None)
        self._apply_info(info, now)
        if info.is_rate_limited:
            self._pause_after_rate_limit(info, now, is_current=is_current)
        elif info.is_accepted and is_current:
            self._consecutive_rate_limits = 0
        until, reported_until = self._paused_until(now), self._reported_until
        self._reported_until = max(until, reported_until)
        return until - now if reported_until <= now < until else None

    @property
    def _reset_tolerance_seconds(self) -> float:
        return self._pool.window_seconds * _RESET_TOLERANCE_FRACTION

    @property
    def _max_pause_seconds(self) -> float:
        return self._pool.window_seconds + _CLOCK_SKEW_SECONDS

    @property
    def _calls_per_second(self) -> float:
        """The rate of the share. It is 0 for a backfill if the exporter needs the whole share."""
        return self._budget.share * self._limit / self._pool.window_seconds

    @property
    def _history_calls_per_second(self) -> float:
        return self._budget.history_share * self._limit / self._pool.window_seconds

    def _seconds_until_call(self, now: float) -> float:
        """Return the seconds until the share allows a call, infinite if it never does."""
        missing = _ONE_CALL - self._tokens_at(now)
        if missing <= 0:
            return 0.0
        return missing / self._calls_per_second if self._calls_per_second else float("inf")

    def _tokens_at(self, now: float) -> float:
        return self._bucket.tokens_at(now, self._calls_per_second, self._budget.burst)

    def _history_tokens_at(self, now: float) -> float:
        return self._history_bucket.tokens_at(now, self._history_calls_per_second, self._budget.history_burst)

    def _refill(self, now: float, *, taken: int = 0, taken_for_history: int = 0) -> None:
        self._bucket.refill(now, self._calls_per_second, self._budget.burst, taken=taken)
        history = self._history_calls_per_second, self._budget.history_burst
        self._history_bucket.refill(now, *history, taken=taken_for_history)

    def _start_window(self, now: float) -> None:
        """If the last known window has ended, estimate the current one: the full limit and the usual length."""
        if now >= self._resets_at and self._remaining < float("inf"):
            windows = (now - self._resets_at) // self._pool.window_seconds + 1
            self._remaining, self._resets_at = self._limit, self._resets_at + windows * self._pool.window_seconds
            self._is_window_estimated = True

    def _apply_info(self, info: RateLimitInfo, now: float) -> None:
        self._refill(now)
        is_other_limit = info.limit is not None and info.limit >= 1 and info.limit != self._limit
        if is_other_limit and info.limit is not None:
            self._limit = info.limit
        if info.remaining is None:
            return
        self._start_window(now)
        resets_in = self._valid_reset(info.resets_in) or DEFAULT_PAUSE_SECONDS
        resets_at, is_window_known = now + resets_in, now < self._resets_at
        left = info.remaining - self._in_flight
        is_sooner = is_window_known and resets_at < self._resets_at - self._reset_tolerance_seconds
        has_more = not self._is_window_estimated and left >= self._remaining
        if is_sooner and (resets_in < self._reset_tolerance_seconds or has_more):
            return  # a delayed response of the previous window
        self._is_window_estimated = False
        if is_window_known and abs(resets_at - self._resets_at) <= self._reset_tolerance_seconds:
            # Responses arrive in any order, but the remaining calls only fall within a window.
            left = left if is_other_limit else min(self._remaining, left)
            resets_at = min(self._resets_at, resets_at)
        self._remaining, self._resets_at = left, resets_at
        self._check_reserve(now)

    def _valid_reset(self, seconds: float | None) -> float | None:
        return seconds if seconds is not None and 0 < seconds <= self._max_pause_seconds else None

    def _pause_after_rate_limit(self, info: RateLimitInfo, now: float, *, is_current: bool) -> None:
        """Pause the pool after a 429: until the reset or for `retry_after`, whichever is longer.

        Without a valid reset, the pause also doubles with each consecutive 429, but only once if several calls in
        flight get one.
        """
        seconds = self._valid_reset(info.resets_in)
        if seconds is None and is_current:
            self._consecutive_rate_limits += 1
            seconds = backoff_seconds(DEFAULT_PAUSE_SECONDS, self._consecutive_rate_limits, MAX_REPEATED_PAUSE_SECONDS)
        seconds = min(max(seconds or 0.0, info.retry_after or 0.0), self._max_pause_seconds)
        if seconds > 0:
            self._circuit_breaker.open(now + seconds)

    def _is_reserve_reached(self, now: float) -> bool:
        return now < self._resets_at and self._remaining <= self._budget.reserve * self._limit

    def _check_reserve(self, now: float) -> None:
        if self._is_reserve_reached(now):
            self._circuit_breaker.require_probe()

    def _paused_until(self, now: float) -> float:
        reserve_until = self._resets_at if self._is_reserve_reached(now) else float("-inf")
        return max(self._circuit_breaker.open_until, reserve_until)
