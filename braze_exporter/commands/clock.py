"""The clock for ages and intervals."""

import time

_BOOT_CLOCK = getattr(time, "CLOCK_BOOTTIME", None)


def read_monotonic_clock() -> float:
    """Return the seconds of a clock that never jumps back.

    On Linux it advances while the machine is suspended, so that values older than `max_age` disappear afterwards.
    """
    return time.monotonic() if _BOOT_CLOCK is None else time.clock_gettime(_BOOT_CLOCK)
