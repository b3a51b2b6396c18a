"""Braze's rate limit: a number of calls per fixed window."""

from collections.abc import Mapping
from threading import Lock

LIMIT_HEADER, REMAINING_HEADER, RESET_HEADER = "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset"

# In every recorded 401 the three headers are empty strings, since without a valid key there is no workspace.
EMPTY_HEADERS: Mapping[str, str] = {LIMIT_HEADER: "", REMAINING_HEADER: "", RESET_HEADER: ""}


class RateLimitCounter:
    """Counts the calls of one pool in fixed windows aligned to the clock. Thread-safe.

    In Braze's recorded responses the reset is the next full hour (or minute) in epoch seconds. The window does not
    slide.
    """

    def __init__(self, limit: int, window_seconds: int) -> None:
        """Allow `limit` calls per window of `window_seconds` seconds. `limit` may be changed at any time."""
        self.limit = limit
        self._window_seconds = window_seconds
        self._current = 0
        self._used = 0
        self._lock = Lock()

    def count_calls(self, now: float, calls: int = 1) -> tuple[bool, dict[str, str]]:
        """Count `calls` in the window of `now`; return whether they are within the limit, and the headers."""
        window = int(now // self._window_seconds)
        with self._lock:
            if window != self._current:
                self._current, self._used = window, 0
            self._used += calls
            left = self.limit - self._used
        reset = (window + 1) * self._window_seconds
        return left >= 0, {LIMIT_HEADER: str(self.limit), REMAINING_HEADER: str(max(0, left)), RESET_HEADER: str(reset)}
