"""The clocks of the machine."""

import time

_BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", None)


class Clock:
    """Reads the clocks of the machine, both in seconds. Tests replace it."""

    def wall(self) -> float:
        """Return the time since the epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Return the time of a clock that never jumps back, for ages and intervals.

        On Linux it advances while the machine is suspended, so that values older than `max_age` disappear afterwards.
        """
        return time.monotonic() if _BOOT_CLOCK is None else time.clock_gettime(_BOOT_CLOCK)
