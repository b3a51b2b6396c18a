"""The wait before the next attempt after failures."""

# More doublings would exceed the maximum of any wait.
_MAX_DOUBLINGS = 30


def backoff_seconds(initial: float, failures: int, maximum: float, jitter: float = 1.0) -> float:
    """Return how many seconds to wait after `failures` consecutive failures, at most `maximum`.

    The wait is `initial` seconds after the first failure, and doubles with each further one. `jitter` is a factor near
    1, so that calls which fail together are not repeated together.
    """
    return min(initial * 2.0 ** min(failures - 1, _MAX_DOUBLINGS) * jitter, maximum)
