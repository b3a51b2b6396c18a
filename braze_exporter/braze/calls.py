"""One call to Braze: the permit to make it, what its rate-limit headers said, and how it ended."""

from collections.abc import Callable
from dataclasses import dataclass

from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.series import Series


@dataclass(frozen=True, slots=True)
class FetchedSeries:
    """What a call brought: the series, and when Braze answered by its own clock, or None if it did not tell."""

    series: tuple[Series, ...]
    responded_at: float | None


@dataclass(frozen=True, slots=True)
class RateLimitHeaders:
    """What Braze's rate-limit headers said; None where a header was absent, empty or not a number.

    `reset` is in seconds since the epoch.
    """

    limit: float | None = None
    remaining: float | None = None
    reset: float | None = None


@dataclass(frozen=True, slots=True)
class CallEvent:
    """One HTTP call as it went.

    `status` is the status, or None without one; `reason` is None if it was answered. `clock_offset` is by how many
    seconds Braze's clock is ahead of ours, or None if it did not tell. `pause_seconds` is for how many seconds its pool
    makes no more calls, if this call brought that about.
    """

    workspace: str
    path: str
    pool: str
    status: int | None
    reason: Reason | None
    seconds: float
    rate_limit: RateLimitHeaders
    clock_offset: float | None = None
    pause_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class RateLimitInfo:
    """What a call told of its pool: its limit, what is left of it, and in how many seconds its window ends.

    None is what it did not tell. `is_rate_limited` is for an answer that there were too many calls (429), and
    `retry_after` the seconds that came with it; `has_response` is for any other answer of Braze's that is not of its
    own trouble.
    """

    limit: float | None = None
    remaining: float | None = None
    resets_in: float | None = None
    retry_after: float | None = None
    is_rate_limited: bool = False
    has_response: bool = False


class Permit:
    """Leave to make one call, which must `end`: others may wait for it."""

    def __init__(
        self,
        end: Callable[[BrazeError | None, RateLimitInfo], float | None],
        *,
        begin: Callable[[], None] = lambda: None,
    ) -> None:
        """Pass on how the call ended to `end`; `begin` is called before it is sent."""
        self.begin = begin
        self._end = end
        self._has_ended = False

    def end(self, error: BrazeError | None, info: RateLimitInfo) -> float | None:
        """Note how the call ended, once; return for how many seconds its pool rests now, if that is news."""
        if self._has_ended:
            return None
        self._has_ended = True
        return self._end(error, info)
