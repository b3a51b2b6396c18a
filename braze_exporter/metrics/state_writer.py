"""Writes the state file in one thread, so that a slow disk delays neither scrapes nor fetches."""

import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future

from braze_exporter.state.errors import StateFileError

# Seconds after which a write that has not ended counts as failed, and the interval at which it counts again.
SLOW_WRITE_SECONDS = 10.0
SLOW_WRITE_REPEAT_SECONDS = 60.0

_log = logging.getLogger(__name__)


class StateWriter:
    """Calls `write` in its thread on request. Thread-safe.

    The attribute `is_stalled` is true while the last write failed, or runs for so long that it counts as failed.
    """

    def __init__(
        self,
        write: Callable[[], None],
        has_changes: Callable[[], bool],
        *,
        on_failure: Callable[[], None],
        monotonic: Callable[[], float],
    ) -> None:
        """Start the thread. It ends after `close` or with the process.

        `write` writes all changes, and raises `StateFileError` if that fails. `has_changes` returns whether there are
        any. `on_failure` is called for each failure. `monotonic` returns seconds of a monotonic clock.
        """
        self._write = write
        self._has_changes = has_changes
        self._on_failure = on_failure
        self._monotonic = monotonic
        self.is_stalled = False
        self._requests: queue.SimpleQueue[Future[None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # of the next two attributes
        self._started_at: float | None = None  # of the current write
        self._slow_count = 0  # how often the current write has counted as failed
        self._thread = threading.Thread(target=self._work, name="state file", daemon=True)
        self._thread.start()

    def request(self) -> Future[None]:
        """Request a write of all changes, and return a future that is done after it, also if it failed.

        Does not block, and requests nothing if all changes have been written.
        """
        self._count_slow_write()
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()  # a running future cannot be canceled by a scrape that stops waiting
        if self._has_changes() or self._started_at is not None:  # in this order, because a write takes the changes
            self._requests.put(future)
        else:
            future.set_result(None)
        return future

    def close(self, timeout: float) -> bool:
        """Write the remaining changes and end the thread. Return whether that took at most `timeout` seconds."""
        self._requests.put(Future())  # `has_changes` does not include lists, which are written with other changes
        self._requests.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _work(self) -> None:
        requests: list[Future[None] | None] = []
        while None not in requests:
            requests = [self._requests.get()]
            with contextlib.suppress(queue.Empty):
                while True:
                    requests.append(self._requests.get_nowait())
            if requests != [None]:
                self._write_once()
            for future in requests:
                if future is not None:
                    future.set_result(None)

    def _write_once(self) -> None:
        with self._lock:
            self._started_at, self._slow_count = self._monotonic(), 0
        error: Exception | None = None
        try:
            self._write()
        except StateFileError as failure:
            error = failure
        except Exception as failure:  # noqa: BLE001 - the thread must survive, and waiting scrapes must be released
            _log.exception("Internal error during a write of the state file")
            error = failure
        self._count_slow_write()
        with self._lock:
            self._started_at = None
        if error is not None:
            self._record_failure(str(error))
        elif self.is_stalled:
            self.is_stalled = False
            _log.info("State file written again")

    def _count_slow_write(self) -> None:
        """Count the current write as failed if it has taken so long. This is called often while scrapes arrive."""
        with self._lock:
            seconds = self._monotonic() - self._started_at if self._started_at is not None else 0.0
            count = int((seconds - SLOW_WRITE_SECONDS) // SLOW_WRITE_REPEAT_SECONDS) + 1
            added, self._slow_count = max(0, count - self._slow_count), max(count, self._slow_count)
        for _ in range(added):
            self._record_failure(f"the disk has not responded for {SLOW_WRITE_SECONDS:g}s")

    def _record_failure(self, reason: str) -> None:
        self._on_failure()
        if not self.is_stalled:
            self.is_stalled = True
            _log.error(
                "State file could not be written, counters are not updated", extra={"fields": {"reason": reason}}
            )
