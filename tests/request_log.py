"""A log of the requests to a simulated Braze, for tests."""

from collections import deque
from collections.abc import Iterable
from threading import Condition

from braze_exporter.simulator.request import Request

# Limits the memory of long runs.
MAX_REQUESTS = 50_000


class RequestLog:
    """The requests so far, and how many were in progress at once. Thread-safe."""

    def __init__(self) -> None:
        """Start with an empty log."""
        self._changed = Condition()
        self._requests: deque[Request] = deque(maxlen=MAX_REQUESTS)
        self._active = 0
        self._peak = 0

    def start(self, request: Request) -> None:
        """Record a request whose response begins."""
        with self._changed:
            self._requests.append(request)
            self._active += 1
            self._peak = max(self._peak, self._active)
            self._changed.notify_all()

    def finish(self) -> None:
        """Record that a response has ended, successfully or not."""
        with self._changed:
            self._active -= 1

    @property
    def requests(self) -> list[Request]:
        """The requests in the order of their arrival."""
        with self._changed:
            return list(self._requests)

    @property
    def peak(self) -> int:
        """The highest number of requests in progress at once."""
        with self._changed:
            return self._peak

    def reset(self) -> None:
        """Clear the log; the peak restarts at the number of requests in progress."""
        with self._changed:
            self._requests.clear()
            self._peak = self._active

    def wait_for(self, count: int, timeout: float) -> None:
        """Wait until `count` requests have arrived.

        Raises `TimeoutError` if they do not within `timeout` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._requests) >= count, timeout):
                raise TimeoutError(f"{len(self._requests)} requests after {timeout:g} s, expected {count}")


class LoggedBody:
    """The chunks of a long response. Logs the end of the response when the server calls `close()` (PEP 3333)."""

    def __init__(self, chunks: Iterable[bytes], request_log: RequestLog) -> None:
        """Wrap `chunks`, and log their end in `request_log`."""
        self._chunks = iter(chunks)
        self._request_log = request_log

    def __iter__(self) -> "LoggedBody":
        """Return itself, because it can be read only once."""
        return self

    def __next__(self) -> bytes:
        """Return the next chunk."""
        return next(self._chunks)

    def close(self) -> None:
        """Log the end of the response."""
        self._request_log.finish()
