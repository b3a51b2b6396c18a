"""The deadline of an exchange: the end of the time for one request and its response."""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

_remaining: ContextVar[Callable[[], float]] = ContextVar("remaining")


@contextlib.contextmanager
def deadline_in(seconds: float, monotonic: Callable[[], float]) -> Iterator[None]:
    """Limit the exchange in the block to `seconds` of the clock `monotonic`."""
    end = monotonic() + seconds
    token = _remaining.set(lambda: end - monotonic())
    try:
        yield
    finally:
        _remaining.reset(token)


def remaining_seconds() -> float:
    """Return the seconds until the deadline of the current exchange. Raises `TimeoutError` after it."""
    seconds = _remaining.get()()
    if seconds <= 0:
        raise TimeoutError("deadline of the exchange has passed")
    return seconds
