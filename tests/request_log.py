"""The requests to a simulated Braze, for tests to look at."""

from collections import deque
from collections.abc import Iterable
from threading import Condition

from braze_exporter.simulator.request import Request

# The demo runs for days; its memory is to stay small.
MAX_REQUESTS = 50_000


class RequestLog:
    """The requests so far and how many were being answered at once. Thread-safe."""

    def __init__(self) -> None:
        """Begin with an empty page."""
        self._changed = Condition()
        self._requests: deque[Request] = deque(maxlen=MAX_REQUESTS)
        self._active = 0
        self._peak = 0

    def start(self, request: Request) -> None:
        """Note a request whose answer begins."""
        with self._changed:
            self._requests.append(request)
            self._active += 1
            self._peak = max(self._peak, self._active)
            self._changed.notify_all()

    def finish(self) -> None:
        """Note that an answer has ended, whatever way."""
        with self._changed:
            self._active -= 1

    @property
    def requests(self) -> list[Request]:
        """The requests in the order in which they came."""
        with self._changed:
            return list(self._requests)

    @property
    def peak(self) -> int:
        """The most requests that were being answered at once."""
        with self._changed:
            return self._peak

    def reset(self) -> None:
        """Forget the requests so far; the peak starts at what is being answered now."""
        with self._changed:
            self._requests.clear()
            self._peak = self._active

    def wait_for(self, count: int, timeout: float) -> None:
        """Return as soon as `count` requests have come; TimeoutError if they do not."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._requests) >= count, timeout):
                raise TimeoutError(f"{len(self._requests)} requests after {timeout:g} s, expected {count}")


class LoggedBody:
    """The chunks of a long answer, which ends in the logbook when the server closes them (PEP 3333)."""

    def __init__(self, chunks: Iterable[bytes], request_log: RequestLog) -> None:
        """Keep both."""
        self._chunks = iter(chunks)
        self._request_log = request_log

    def __iter__(self) -> "LoggedBody":
        """Be read once."""
        return self

    def __next__(self) -> bytes:
        """Return the next chunk."""
        return next(self._chunks)

    def close(self) -> None:
        """Note the end of the answer."""
        self._request_log.finish()
