"""The budget of one pool of one workspace, and the gates that calls pass: open, shut, or passed by one alone. Pure.

Nothing here takes a lock or waits; `admission` does, and asks with the time of its own clock.
"""

from dataclasses import dataclass
from enum import Enum, auto

from braze_exporter.braze.calls import Told
from braze_exporter.braze.pools import Pool

# How long a refusal (401 or 403) holds its endpoint, or the workspace once all endpoints have refused the key.
HOLD = 120.0
# How long a pool rests after a 429 that does not say until when; it doubles with each that follows, up to the most.
BLIND_STOP = 60.0
LONGEST_BLIND_STOP = 900.0
# Braze's windows are aligned to the clock, so a reset is at most one window away; clocks differ a little.
_CLOCK_SKEW = 60.0
# Answers of one window name the same reset, give or take this part of it: some of them come late.
_SAME_WINDOW = 1 / 60
# A whole call, less what sums of fractions lose.
_ONE = 1 - 1e-9


class Passage(Enum):
    """Whether a call may go: at once, after the one that goes alone has ended, or not now."""

    OPEN = auto()
    BUSY = auto()
    SHUT = auto()


@dataclass(frozen=True, slots=True)
class Entered:
    """That a call has passed a gate: whether on trial, and how often the gate had been shut before."""

    on_trial: bool
    shuts: int


class Gate:
    """Lets calls pass; or none until a time, and then one alone, on trial, until it has ended."""

    def __init__(self, *, on_trial: bool) -> None:
        """Begin open, or with a call `on_trial`."""
        self.shut_until = float("-inf")
        self._shuts = 0
        self._is_trial_due = on_trial
        self._is_trial_running = False

    def passage(self, now: float) -> Passage:
        """Return whether a call may pass at `now`."""
        if now < self.shut_until:
            return Passage.SHUT
        return Passage.BUSY if self._is_trial_running else Passage.OPEN

    def enter(self) -> Entered:
        """Let a call pass."""
        self._is_trial_running = self._is_trial_due
        return Entered(self._is_trial_due, self._shuts)

    def is_news(self, entered: Entered) -> bool:
        """Return whether the gate has not been shut since a call passed: else it tells of what is known."""
        return entered.shuts == self._shuts

    def leave(self, entered: Entered, *, passed: bool) -> None:
        """Note the end of a call: a trial that was `passed` lets all others go, unless it was shut meanwhile."""
        if entered.on_trial:
            self._is_trial_running = False
            self._is_trial_due = not (passed and self.is_news(entered))

    def shut(self, until: float) -> None:
        """Let none pass until then, and one alone after that. What is shut for longer stays so."""
        self.shut_until = max(self.shut_until, until)
        self.require_trial()

    def require_trial(self) -> None:
        """Let the next call pass alone, whatever those that have passed will tell."""
        self._shuts += 1
        self._is_trial_due = True


class Cause(Enum):
    """Why a pool rests: for a 429, for the reserve, or because the budget is spent."""

    RATE_LIMITED = auto()
    RESERVE = auto()
    BUDGET = auto()


@dataclass(frozen=True, slots=True)
class Rest:
    """That a pool makes no calls now, why, and for how many seconds."""

    cause: Cause
    seconds: float


class Limiter:
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
        self._left = float("inf")
        self._resets_at = now
        self._is_guess = False
        self._under_way = 0
        self._blind_stops = 0
        self._gate = Gate(on_trial=True)
        self._told_until = float("-inf")

    def change(self, *, share: float, reserve: float, burst: int, now: float) -> None:
        """Go on with another budget; what was learned and spent stays so."""
        self._fill(now)
        self._share, self._reserve, self._burst = share, reserve, float(burst)
        self._tokens = min(self._tokens, self._burst)

    def passage(self, now: float, *, spare: bool = False) -> Passage:
        """Return whether a call may be made at `now`; a `spare` one leaves half of the burst to others."""
        kept = self._burst // 2 if spare else 0.0
        if self._tokens_at(now) - kept < _ONE or self._is_reserve_reached(now):
            return Passage.SHUT
        return self._gate.passage(now)

    def rest(self, now: float) -> Rest | None:
        """Return why no call may be made at `now`, by what lasts longest, or None if one may."""
        rate = self._share * self._limit / self._pool.window
        seconds = {
            Cause.RATE_LIMITED: self._gate.shut_until - now,
            Cause.RESERVE: self._resets_at - now if self._is_reserve_reached(now) else 0.0,
            Cause.BUDGET: (_ONE - self._tokens_at(now)) / rate,
        }
        cause = max(seconds, key=seconds.__getitem__)
        return Rest(cause, seconds[cause]) if seconds[cause] > 0 else None

    def enter(self, now: float) -> Entered:
        """Grant a call that may be made."""
        self._fill(now)
        self._tokens -= 1
        self._under_way += 1
        self._roll(now)
        self._left -= 1
        entered = self._gate.enter()
        self._note_reserve(now)
        return entered

    def leave(self, told: Told, entered: Entered, now: float) -> float | None:
        """Note the end of a call and what it told; return for how many seconds the pool rests, if that is news."""
        self._under_way -= 1
        is_news = self._gate.is_news(entered)
        self._gate.leave(entered, passed=told.answered or told.remaining is not None)
        self._learn(told, now)
        if told.refused:
            self._stop(told, now, is_news=is_news)
        elif told.answered and is_news:
            self._blind_stops = 0
        until, told_until = self._rests_until(now), self._told_until
        self._told_until = max(until, told_until)
        return until - now if told_until <= now < until else None

    @property
    def _tolerance(self) -> float:
        return self._pool.window * _SAME_WINDOW

    def _tokens_at(self, now: float) -> float:
        rate = self._share * self._limit / self._pool.window
        return min(self._burst, self._tokens + rate * max(0.0, now - self._filled_at))

    def _fill(self, now: float) -> None:
        self._tokens, self._filled_at = self._tokens_at(now), now

    def _roll(self, now: float) -> None:
        """Begin another window with all of the limit, if it is known when one began."""
        if now >= self._resets_at and self._left < float("inf"):
            windows = (now - self._resets_at) // self._pool.window + 1
            self._left, self._resets_at = self._limit, self._resets_at + windows * self._pool.window
            self._is_guess = True

    def _learn(self, told: Told, now: float) -> None:
        self._fill(now)
        is_other_limit = told.limit is not None and told.limit >= 1 and told.limit != self._limit
        if is_other_limit and told.limit is not None:
            self._limit = told.limit
        if told.remaining is None:
            return
        self._roll(now)
        resets_in = self._readable(told.resets_in) or BLIND_STOP
        resets_at, known = now + resets_in, now < self._resets_at
        is_sooner = known and resets_at < self._resets_at - self._tolerance
        if is_sooner and (resets_in < self._tolerance or not self._is_guess):
            return  # a late answer, of the window before
        self._is_guess = False
        left = told.remaining - self._under_way
        if known and abs(resets_at - self._resets_at) <= self._tolerance:
            # Answers come in another order than calls, but within a window there is less and less left.
            left = left if is_other_limit else min(self._left, left)
            resets_at = min(self._resets_at, resets_at)
        self._left, self._resets_at = left, resets_at
        self._note_reserve(now)

    def _readable(self, seconds: float | None) -> float | None:
        return seconds if seconds is not None and 0 < seconds <= self._pool.window + _CLOCK_SKEW else None

    def _stop(self, told: Told, now: float, *, is_news: bool) -> None:
        """Shut after a 429."""
        seconds = self._readable(told.resets_in) or self._readable(told.retry_after)
        if seconds is not None:
            self._gate.shut(now + seconds)
        elif is_news:  # of those that were under way together only the first tells something new
            self._gate.shut(now + min(BLIND_STOP * 2**self._blind_stops, LONGEST_BLIND_STOP))
            self._blind_stops += 1

    def _is_reserve_reached(self, now: float) -> bool:
        return now < self._resets_at and self._left <= self._reserve * self._limit

    def _note_reserve(self, now: float) -> None:
        if self._is_reserve_reached(now):
            self._gate.require_trial()

    def _rests_until(self, now: float) -> float:
        reserve_until = self._resets_at if self._is_reserve_reached(now) else float("-inf")
        return max(self._gate.shut_until, reserve_until)
