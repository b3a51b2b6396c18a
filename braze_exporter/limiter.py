"""The budget of one pool of one workspace, and the gates that calls pass: open, shut, or passed by one alone. Pure.

Nothing here takes a lock or waits; `admission` does, and asks with the time of its own clock.
"""

from dataclasses import dataclass
from enum import Enum, auto

from braze_exporter.catalog import Pool

# How long a refusal holds: of the key (401) for the workspace, of a permission (403) for the endpoint.
HOLD = 120.0
# How long a pool rests after a 429 that does not say until when; it doubles with each that follows, up to the most.
BLIND_STOP = 60.0
LONGEST_BLIND_STOP = 900.0
# Braze's windows are aligned to the clock, so a reset is at most one window away; clocks differ a little.
_CLOCK_SKEW = 60.0
# Answers that were under way together name the same reset, give or take the rounding of their clocks.
_SAME_WINDOW = 2.0
# A whole call, less what sums of fractions lose.
_ONE = 1 - 1e-9


class Passage(Enum):
    """Whether a call may go: at once, after the one that goes alone has ended, or not now."""

    OPEN = auto()
    BUSY = auto()
    SHUT = auto()


class Gate:
    """Lets calls pass; or none until a time, and then one alone, on trial, until it has ended."""

    def __init__(self, *, on_trial: bool) -> None:
        """Begin open, or with a call `on_trial`."""
        self.shut_until = float("-inf")
        self._is_trial_due = on_trial
        self._is_trial_running = False

    def passage(self, now: float) -> Passage:
        """Return whether a call may pass at `now`."""
        if now < self.shut_until:
            return Passage.SHUT
        return Passage.BUSY if self._is_trial_running else Passage.OPEN

    def enter(self) -> bool:
        """Let a call pass, and return whether it is on trial."""
        self._is_trial_running = self._is_trial_due
        return self._is_trial_running

    def leave(self, *, on_trial: bool, passed: bool) -> None:
        """Note the end of a call: a trial that was `passed` lets all others go."""
        if on_trial:
            self._is_trial_running = False
            self._is_trial_due = not passed

    def shut(self, until: float) -> None:
        """Let none pass until then, and one alone after that. What is shut for longer stays so."""
        self.shut_until = max(self.shut_until, until)
        self._is_trial_due = True


@dataclass(frozen=True, slots=True)
class Told:
    """What an answer told of its pool: its limit, what is left of it, and in how many seconds its window ends.

    None is what it did not tell. `refused` is for an answer that there were too many calls (429).
    """

    limit: float | None = None
    remaining: float | None = None
    resets_in: float | None = None
    refused: bool = False


class Limiter:
    """Grants calls of one pool: at most `share` of its limit, and a burst; none that would touch the reserve.

    A token bucket, which learns Braze's limit from the answers. In any span of time it grants at most `share` times the
    limit of that span, plus `burst`. It stops when what is left of the limit, whoever spent it, comes down to the
    reserve, until Braze's window ends; and after a 429 likewise. Until a first call has ended, and after each stop, one
    call goes alone.
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
        self._under_way = 0
        self._blind_stops = 0
        self._gate = Gate(on_trial=True)
        self._told_until = float("-inf")

    def change(self, *, share: float, reserve: float, burst: int, now: float) -> None:
        """Go on with another budget; what was learned and spent stays so."""
        self._fill(now)
        self._share, self._reserve, self._burst = share, reserve, float(burst)
        self._tokens = min(self._tokens, self._burst)

    def passage(self, now: float) -> Passage:
        """Return whether a call may be made at `now`."""
        return self._gate.passage(now) if self._tokens_at(now) >= _ONE else Passage.SHUT

    def enter(self, now: float) -> bool:
        """Grant a call that may be made, and return whether it goes alone."""
        self._fill(now)
        self._tokens -= 1
        self._under_way += 1
        self._left = self._left - 1 if now < self._resets_at else float("inf")
        on_trial = self._gate.enter()
        self._guard_reserve()
        return on_trial

    def leave(self, told: Told, *, on_trial: bool, now: float) -> float | None:
        """Note the end of a call and what it told; return for how many seconds the pool rests, if that is news."""
        self._under_way -= 1
        was_shut = self._gate.passage(now) is Passage.SHUT
        self._gate.leave(on_trial=on_trial, passed=True)
        readable = told.resets_in is not None and 0 < told.resets_in <= self._pool.window + _CLOCK_SKEW
        resets_in = told.resets_in if readable else None
        self._learn(told, resets_in, now)
        if not told.refused:
            self._blind_stops = 0
            self._guard_reserve()
        elif resets_in is not None:
            self._gate.shut(now + resets_in)
        elif not was_shut:  # of those that were under way together only the first tells something new
            self._gate.shut(now + min(BLIND_STOP * 2**self._blind_stops, LONGEST_BLIND_STOP))
            self._blind_stops += 1
        until, told_until = self._gate.shut_until, self._told_until
        self._told_until = max(until, told_until)
        return until - now if until > max(now, told_until + _SAME_WINDOW) else None

    def _tokens_at(self, now: float) -> float:
        rate = self._share * self._limit / self._pool.window
        return min(self._burst, self._tokens + rate * max(0.0, now - self._filled_at))

    def _fill(self, now: float) -> None:
        self._tokens, self._filled_at = self._tokens_at(now), now

    def _learn(self, told: Told, resets_in: float | None, now: float) -> None:
        self._fill(now)
        if told.limit is not None and told.limit >= 1:
            self._limit = told.limit
        if told.remaining is None:
            return
        resets_at = now + (BLIND_STOP if resets_in is None else resets_in)
        left = told.remaining - self._under_way
        # Answers come in another order than calls, but within a window there is less and less left.
        is_same_window = now < self._resets_at and resets_at <= self._resets_at + _SAME_WINDOW
        self._left = min(self._left, left) if is_same_window else left
        self._resets_at = resets_at

    def _guard_reserve(self) -> None:
        if self._left <= self._reserve * self._limit:
            self._gate.shut(self._resets_at)
