"""Writes budgets to the state file while calls are made."""

import logging
import threading
from collections.abc import Callable
from typing import Protocol

from braze_exporter.state.errors import StateFileError
from braze_exporter.state.state_file import StateFile
from braze_exporter.state.tables import BudgetRecords

# The time between two writes while calls are made.
WRITE_INTERVAL_SECONDS = 5.0
# How long `close` waits for a write in progress.
_CLOSE_TIMEOUT_SECONDS = 0.5

_log = logging.getLogger(__name__)


class RecordsSource(Protocol):
    """Returns what is to be written."""

    def __call__(self, *, with_balances: bool) -> BudgetRecords:
        """Return the current records, with balances of 0 if `with_balances` is false."""


class BudgetWriter:
    """Writes the budgets to the state file in its own thread. Thread-safe.

    While calls are made, the file holds no balances, so that a process that is killed adds no calls. The balances are
    written once no call has been made for `WRITE_INTERVAL_SECONDS`, and by `close`.
    """

    def __init__(self, state_file: StateFile, records: RecordsSource, on_failure: Callable[[], None]) -> None:
        """Create a writer that writes only by `write` before `start`. `on_failure` is called after a failed write."""
        self._state_file = state_file
        self._records = records
        self._on_failure = on_failure
        self._write_lock = threading.Lock()
        self._changed = threading.Condition()
        self._is_requested = False
        self._is_urgent = False
        self._is_closed = False
        self._is_failing = False
        self._thread = threading.Thread(target=self._work, name="budgets", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def request(self, *, at_once: bool) -> None:
        """Write the budgets within `WRITE_INTERVAL_SECONDS`, or at once."""
        with self._changed:
            self._is_requested = True
            self._is_urgent |= at_once
            self._changed.notify_all()

    def close(self) -> None:
        """Write the budgets with their balances, and end the thread."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._thread.join(_CLOSE_TIMEOUT_SECONDS)

    def write(self, *, with_balances: bool) -> bool:
        """Write the budgets now, and return whether that succeeded."""
        with self._write_lock:
            try:
                self._state_file.write_budgets(self._records(with_balances=with_balances))
            except StateFileError as error:
                self._on_failure()
                if not self._is_failing:
                    _log.error("Budgets could not be written to the state file", extra={"fields": {"reason": error}})
                self._is_failing = True
                return False
            self._is_failing = False
            return True

    def _work(self) -> None:
        has_balances = False  # of the file
        while True:
            with self._changed:
                if has_balances:
                    self._changed.wait_for(lambda: self._is_closed or self._is_requested)
                else:
                    self._changed.wait_for(lambda: self._is_closed or self._is_urgent, WRITE_INTERVAL_SECONDS)
                has_calls = self._is_requested
                self._is_requested = self._is_urgent = False
                if self._is_closed:
                    break
            has_balances = self.write(with_balances=not has_calls) and not has_calls
        self.write(with_balances=True)
