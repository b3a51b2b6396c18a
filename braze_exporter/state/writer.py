"""Collects what has changed in the parts of the exporter, and writes it to the state file in one thread.

So a slow disk delays neither scrapes nor fetches.
"""

import contextlib
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol

from braze_exporter.state.errors import StateFileError
from braze_exporter.state.state_file import StateFile
from braze_exporter.state.tables import TableChanges, merge_changes

# The time between two writes while there are changes that no scrape writes.
WRITE_INTERVAL_SECONDS = 5.0
# Seconds after which a write that has not ended counts as failed, and the interval at which it counts again.
SLOW_WRITE_SECONDS = 10.0
SLOW_WRITE_REPEAT_SECONDS = 60.0
# How long a start, a reload and the end of the program wait for a write, in seconds. The grace period of Kubernetes is
# 30 s.
MAX_WAIT_SECONDS = 3.0

_log = logging.getLogger(__name__)


class StateSource(Protocol):
    """A part of the exporter whose state is kept in the state file. Thread-safe."""

    @property
    def has_changes(self) -> bool:
        """Whether `take_changes` would return changes. Does not wait for other threads."""

    def take_changes(self) -> TableChanges:
        """Return what has changed since the last call."""


class StateChanges:
    """What has changed since the last successful write of the state file."""

    def __init__(
        self, state_file: StateFile | None, sources: Sequence[StateSource], on_written: Callable[[], None]
    ) -> None:
        """Collect the changes of `sources`, in this order.

        `on_written` is called after each successful write. Without a state file nothing is written.
        """
        self._state_file = state_file
        self._sources = sources
        self._on_written = on_written
        self._unwritten: TableChanges = {}

    @property
    def has_changes(self) -> bool:
        """Whether there is something to write. Does not wait for other threads."""
        return bool(self._unwritten) or any(source.has_changes for source in self._sources)

    def write(self) -> None:
        """Write all changes in one durable transaction. At most one thread may write at a time.

        Raises `StateFileError` if that fails. The next call then writes them too.
        """
        for source in self._sources:
            self._unwritten = merge_changes(self._unwritten, source.take_changes())
        if self._unwritten and self._state_file is not None:
            self._state_file.write(self._unwritten)
        self._unwritten = {}
        self._on_written()


class StateWriter:
    """Writes the changes in its thread on request, and every `WRITE_INTERVAL_SECONDS`. Thread-safe.

    The attribute `is_stalled` is true while the last write failed, or runs for so long that it counts as failed.
    """

    def __init__(
        self, changes: StateChanges, *, on_failure: Callable[[], None], monotonic: Callable[[], float]
    ) -> None:
        """Start the thread. It ends after `close` or with the process.

        `on_failure` is called for each failure. `monotonic` returns seconds of a monotonic clock.
        """
        self._changes = changes
        self._on_failure = on_failure
        self._monotonic = monotonic
        self._requests: queue.SimpleQueue[Future[bool] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()  # of the next five attributes
        self.is_stalled = False
        self._logged_reason = ""
        self._is_closed = False
        self._started_at: float | None = None  # of the current write
        self._slow_count = 0  # how often the current write has counted as failed
        self._thread = threading.Thread(target=self._work, name="state file", daemon=True)
        self._thread.start()

    def request(self) -> Future[bool]:
        """Request a write of all changes, and return a future with the result whether all changes are written.

        Does not block, and requests nothing if all changes have been written, or after `close`.
        """
        self._count_slow_write()
        future: Future[bool] = Future()
        future.set_running_or_notify_cancel()  # a running future cannot be canceled by a scrape that stops waiting
        has_changes = self._changes.has_changes  # before the next line, because a write takes the changes
        with self._lock:
            if not self._is_closed and (has_changes or self._started_at is not None):
                self._requests.put(future)
                return future
        future.set_result(not has_changes)
        return future

    def close(self, timeout: float) -> bool:
        """Write the remaining changes and end the thread. Return whether that took at most `timeout` seconds."""
        with self._lock:
            self._is_closed = True
            self._requests.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _work(self) -> None:
        requests: list[Future[bool] | None] = []
        while None not in requests:
            requests = []
            with contextlib.suppress(queue.Empty):
                requests.append(self._requests.get(timeout=WRITE_INTERVAL_SECONDS))
                while True:
                    requests.append(self._requests.get_nowait())
            is_written = self._write_once() if requests or self._changes.has_changes else True
            for future in requests:
                if future is not None:
                    future.set_result(is_written)

    def _write_once(self) -> bool:
        """Write all changes, and return whether that succeeded."""
        with self._lock:
            self._started_at, self._slow_count = self._monotonic(), 0
        error: Exception | None = None
        try:
            self._changes.write()
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
        return error is None

    def _count_slow_write(self) -> None:
        """Count the current write as failed if it has taken so long. This is called often while scrapes arrive."""
        with self._lock:
            seconds = self._monotonic() - self._started_at if self._started_at is not None else 0.0
            count = int((seconds - SLOW_WRITE_SECONDS) // SLOW_WRITE_REPEAT_SECONDS) + 1
            for _ in range(self._slow_count, count):
                self._record_failure(f"the disk has not responded for {SLOW_WRITE_SECONDS:g}s")
            self._slow_count = max(count, self._slow_count)

    def _record_failure(self, reason: str) -> None:
        """Count a failure, and log its reason if it is another than before. The caller holds the lock."""
        self._on_failure()
        if not self.is_stalled or reason != self._logged_reason:
            self.is_stalled, self._logged_reason = True, reason
            _log.error(
                "State file could not be written, counters are not updated", extra={"fields": {"reason": reason}}
            )
