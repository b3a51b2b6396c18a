"""The budget of one pool of one workspace, and the gates that calls pass: open, shut, or passed by one alone. Pure.

Nothing here takes a lock or waits; `admission` does, and asks with the time of its own clock.
"""

from dataclasses import dataclass
from enum import Enum, auto

from braze_exporter.braze.calls import RateLimitInfo
from braze_exporter.braze.pools import Pool

# How long a refusal (401 or 403) holds its endpoint, or the workspace once all endpoints have refused the key.
HOLD_SECONDS = 120.0
# How long a pool rests after a 429 that does not say until when; it doubles with each that follows, up to the most.
DEFAULT_STOP_SECONDS = 60.0
MAX_STOP_SECONDS = 900.0
# Braze's windows are aligned to the clock, so a reset is at most one window away; clocks differ a little.
_CLOCK_SKEW_SECONDS = 60.0
# Answers of one window name the same reset, give or take this part of it: some of them come late.
_RESET_TOLERANCE = 1 / 60
# A whole call, less what sums of fractions lose.
_ONE_CALL = 1 - 1e-9


class Decision(Enum):
    """Whether a call may go: at once, after the one that goes alone has ended, or not now."""

    ALLOW = auto()
    WAIT = auto()
    DENY = auto()


@dataclass(frozen=True, slots=True)
class Probe:
    """That a call has passed a gate: whether on trial, and how often the gate had been shut before."""

    is_probe: bool
    generation: int


class CircuitBreaker:
    """Lets calls pass; or none until a time, and then one alone, on trial, until it has ended."""

    def __init__(self, *, is_probe: bool) -> None:
        """Begin open, or with a call `is_probe`."""
        self.open_until = float("-inf")
        self._generation = 0
        self._is_probe_due = is_probe
        self._is_probe_running = False

    def decide(self, now: float) -> Decision:
        """Return whether a call may pass at `now`."""
        if now < self.open_until:
            return Decision.DENY
        return Decision.WAIT if self._is_probe_running else Decision.ALLOW

    def acquire(self) -> Probe:
        """Let a call pass."""
        self._is_probe_running = self._is_probe_due
        return Probe(self._is_probe_due, self._generation)

    def is_current(self, probe: Probe) -> bool:
        """Return whether the gate has not been shut since a call passed: else it tells of what is known."""
        return probe.generation == self._generation

    def release(self, probe: Probe, *, succeeded: bool) -> None:
        """Note the end of a call: a trial that was `succeeded` lets all others go, unless it was shut meanwhile."""
        if probe.is_probe:
            self._is_probe_running = False
            self._is_probe_due = not (succeeded and self.is_current(probe))

    def open(self, until: float) -> None:
        """Let none pass until then, and one alone after that. What is shut for longer stays so."""
        self.open_until = max(self.open_until, until)
        self.require_probe()

    def require_probe(self) -> None:
        """Let the next call pass alone, whatever those that have passed will tell."""
        self._generation += 1
        self._is_probe_due = True


class PauseReason(Enum):
    """Why a pool rests: for a 429, for the reserve, or because the budget is spent."""

    RATE_LIMITED = auto()
    RESERVE = auto()
    BUDGET = auto()


@dataclass(frozen=True, slots=True)
class Pause:
    """That a pool makes no calls now, why, and for how many seconds."""

    reason: PauseReason
    seconds: float


class RateLimiter:
    """Grants calls of one pool: at most `share` of its limit, and a burst; none that would touch the reserve.

    A token bucket, which learns Braze's limit from the answers. In any span of time it grants at most `share` times the
    limit of that span, plus `burst`. It stops when what is left of the limit, whoever spent it, comes down to the
    reserve, until Braze's window ends; and after a 429 likewise. At first, and after each stop, one call goes alone,
    until one is answered.
    """

    def __init__(self, pool: Pool, *, share: float, reserve: float, burst: int, now: float) -> None:
        """Begin with `burst` calls to grant. `share` and `reserve` are fractions of the limit."""
        self._pool = pool
        self._share = share
        self._reserve = reserve
        self._burst = float(burst)
        self._limit = float(pool.limit)
        self._tokens = float(burst)
        self._filled_at = now
        self._remaining = float("inf")
        self._resets_at = now
        self._is_window_estimated = False
        self._in_flight = 0
        self._consecutive_stops = 0
        self._circuit_breaker = CircuitBreaker(is_probe=True)
        self._reported_until = float("-inf")

    def update(self, *, share: float, reserve: float, burst: int, now: float) -> None:
        """Go on with another budget; what was learned and spent stays so."""
        self._refill(now)
        self._share, self._reserve, self._burst = share, reserve, float(burst)
        self._tokens = min(self._tokens, self._burst)

    def decide(self, now: float, *, low_priority: bool = False) -> Decision:
        """Return whether a call may be made at `now`; a `low_priority` one leaves half of the burst to others."""
        kept = self._burst // 2 if low_priority else 0.0
        if self._tokens_at(now) - kept < _ONE_CALL or self._is_reserve_reached(now):
            return Decision.DENY
        return self._circuit_breaker.decide(now)

    def pause(self, now: float) -> Pause | None:
        """Return why no call may be made at `now`, by what lasts longest, or None if one may."""
        rate = self._share * self._limit / self._pool.window_seconds
        seconds = {
            PauseReason.RATE_LIMITED: self._circuit_breaker.open_until - now,
            PauseReason.RESERVE: self._resets_at - now if self._is_reserve_reached(now) else 0.0,
            PauseReason.BUDGET: (_ONE_CALL - self._tokens_at(now)) / rate,
        }
        reason = max(seconds, key=seconds.__getitem__)
        return Pause(reason, seconds[reason]) if seconds[reason] > 0 else None

    def acquire(self, now: float) -> Probe:
        """Grant a call that may be made."""
        self._refill(now)
        self._tokens -= 1
        self._in_flight += 1
        self._start_window(now)
        self._remaining -= 1
        probe = self._circuit_breaker.acquire()
        self._check_reserve(now)
        return probe

    def release(self, info: RateLimitInfo, probe: Probe, now: float) -> float | None:
        """Note the end of a call and what it told; return for how many seconds the pool rests, if that is news."""
        self._in_flight -= 1
        is_current = self._circuit_breaker.is_current(probe)
        self._circuit_breaker.release(probe, succeeded=info.has_response or info.remaining is not None)
        self._update(info, now)
        if info.is_rate_limited:
            self._stop(info, now, is_current=is_current)
        elif info.has_response and is_current:
            self._consecutive_stops = 0
        until, reported_until = self._paused_until(now), self._reported_until
        self._reported_until = max(until, reported_until)
        return until - now if reported_until <= now < until else None

    @property
    def _tolerance(self) -> float:
        return self._pool.window_seconds * _RESET_TOLERANCE

    def _tokens_at(self, now: float) -> float:
        rate = self._share * self._limit / self._pool.window_seconds
        return min(self._burst, self._tokens + rate * max(0.0, now - self._filled_at))

    def _refill(self, now: float) -> None:
        self._tokens, self._filled_at = self._tokens_at(now), now

    def _start_window(self, now: float) -> None:
        """Begin another window with all of the limit, if it is known when one began."""
        if now >= self._resets_at and self._remaining < float("inf"):
            windows = (now - self._resets_at) // self._pool.window_seconds + 1
            self._remaining, self._resets_at = self._limit, self._resets_at + windows * self._pool.window_seconds
            self._is_window_estimated = True

    def _update(self, info: RateLimitInfo, now: float) -> None:
        self._refill(now)
        is_other_limit = info.limit is not None and info.limit >= 1 and info.limit != self._limit
        if is_other_limit and info.limit is not None:
            self._limit = info.limit
        if info.remaining is None:
            return
        self._start_window(now)
        resets_in = self._valid_reset(info.resets_in) or DEFAULT_STOP_SECONDS
        resets_at, known = now + resets_in, now < self._resets_at
        is_sooner = known and resets_at < self._resets_at - self._tolerance
        if is_sooner and (resets_in < self._tolerance or not self._is_window_estimated):
            return  # a late answer, of the window before
        self._is_window_estimated = False
        left = info.remaining - self._in_flight
        if known and abs(resets_at - self._resets_at) <= self._tolerance:
            # Answers come in another order than calls, but within a window there is less and less left.
            left = left if is_other_limit else min(self._remaining, left)
            resets_at = min(self._resets_at, resets_at)
        self._remaining, self._resets_at = left, resets_at
        self._check_reserve(now)

    def _valid_reset(self, seconds: float | None) -> float | None:
        return (
            seconds if seconds is not None and 0 < seconds <= self._pool.window_seconds + _CLOCK_SKEW_SECONDS else None
        )

    def _stop(self, info: RateLimitInfo, now: float, *, is_current: bool) -> None:
        """Shut after a 429."""
        seconds = self._valid_reset(info.resets_in) or self._valid_reset(info.retry_after)
        if seconds is not None:
            self._circuit_breaker.open(now + seconds)
        elif is_current:  # of those that were under way together only the first tells something new
            self._circuit_breaker.open(now + min(DEFAULT_STOP_SECONDS * 2**self._consecutive_stops, MAX_STOP_SECONDS))
            self._consecutive_stops += 1

    def _is_reserve_reached(self, now: float) -> bool:
        return now < self._resets_at and self._remaining <= self._reserve * self._limit

    def _check_reserve(self, now: float) -> None:
        if self._is_reserve_reached(now):
            self._circuit_breaker.require_probe()

    def _paused_until(self, now: float) -> float:
        reserve_until = self._resets_at if self._is_reserve_reached(now) else float("-inf")
        return max(self._circuit_breaker.open_until, reserve_until)
