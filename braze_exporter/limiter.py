"""A budget of one pool of calls, that grants or withholds them."""

import threading
from collections.abc import Callable

from braze_exporter.catalog import Pool

# How long a pool rests after a 429 that does not say until when.
DEFAULT_STOP = 60.0
# Braze's windows are aligned to the clock, so a reset is at most one window away; clocks differ a little.
_CLOCK_SKEW = 60.0


class Limiter:
    """Grants calls of one `pool` of one workspace until Braze says that there are too many. Thread-safe."""

    def __init__(self, pool: Pool, monotonic: Callable[[], float]) -> None:
        """Begin with all calls granted. `monotonic` tells seconds that never jump."""
        self._pool = pool
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._stopped_until = float("-inf")

    def grants(self) -> bool:
        """Return whether a call may be made now."""
        with self._lock:
            return self._monotonic() >= self._stopped_until

    def stop(self, seconds: float | None) -> None:
        """Withhold all calls for `seconds`, or for a minute if that is None, past or beyond the pool's window.

        A stop never shortens one that is under way.
        """
        readable = seconds is not None and 0 < seconds <= self._pool.window + _CLOCK_SKEW
        with self._lock:
            until = self._monotonic() + (seconds if readable and seconds is not None else DEFAULT_STOP)
            self._stopped_until = max(self._stopped_until, until)
