"""The counters: what Braze has reported of each bucket, and the sum of what was new in it.

Braze tells totals of buckets, again and again, and revises them. A counter may only rise, by each occurrence once. With
a state file, what is shown of a counter is always in the file first.
"""

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping

from braze_exporter.braze.kinds import MAX_LENGTH, Unit
from braze_exporter.state import CounterKey, CounterState, StateFile, StateFileError

# As many buckets as Braze can tell in one answer; what is older never counts.
MAX_BUCKETS = MAX_LENGTH
# Seconds after which no answer can tell any more of a bucket that is held, of days not either.
_RETENTION_SECONDS = MAX_LENGTH * 24 * 3_600.0
# Counters that have changed and are not written: the next page would wait for a tenth of a second, or two.
MAX_UNSAVED = 2_000

_log = logging.getLogger(__name__)


class Counters:
    """Turns the buckets of answers into totals that never fall. Thread-safe.

    `revision` changes whenever a total that may be shown does.
    A subject is what a counter is of, in Braze's own ids: the names of labels may change, and the counter goes on.
    """

    def __init__(self, store: StateFile | None = None, on_write_failure: Callable[[], None] = lambda: None) -> None:
        """Begin with what is in `store`, or with nothing; `on_write_failure` is told of each write that failed."""
        self._store = store
        self._on_write_failure = on_write_failure
        self._lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._states: dict[CounterKey, CounterState] = store.read() if store is not None else {}
        self._changed: set[CounterKey] = set()
        self._removed: set[CounterKey] = set()
        self._saved_totals = {subject: counter_state.total for subject, counter_state in self._states.items()}
        self._is_failing = False
        self._is_closing = False
        self.revision = 0

    def record(
        self,
        key: CounterKey,
        unit: Unit,
        buckets: Iterable[tuple[int, float]],
        requested_from: int,
        requested_at: float | None,
        *,
        is_complete: bool = True,
        unknown: Iterable[int] = (),
        new_from: int | None = None,
    ) -> None:
        """Take in the buckets of an answer, each as a number that rises by time, and its value.

        The answer was asked for at `requested_at`, for buckets from `requested_from` on. `requested_at` is None where
        another account tells that, and moves only by an answer that `is_complete`. The first one of a subject, or of
        another unit than before, is the ground that later ones rise from and counts nothing; nor does the first number
        of a bucket that was `unknown` then. After that a rise of a bucket is added, a fall is not subtracted, and a
        later rise counts only above the most that was seen. Buckets older than the oldest that is held do not count.
        With `new_from` a subject that is new has risen from nothing in the buckets from that one on.
        """
        values, holes = dict(buckets), list(unknown)
        with self._lock:
            state = self._states.get(key)
            if state is None and new_from is not None:
                state = self._states[key] = CounterState(unit, 0.0, new_from, requested_at or 0.0)
                self._changed.add(key)
            if state is None or state.unit is not unit:
                total = state.total if state is not None else 0.0
                initial: dict[int, float | None] = dict.fromkeys(holes)
                initial |= {bucket: max(value, 0.0) for bucket, value in values.items()}  # as if it had risen to that
                self._states[key] = CounterState(
                    unit, total, min(initial, default=requested_from), requested_at or 0.0, initial
                )
                self._changed.add(key)
                return
            if requested_at is not None and is_complete:
                state.requested_at = requested_at
                self._changed.add(key)
            if self._add(state, values):
                self._changed.add(key)

    @staticmethod
    def _add(state: CounterState, values: Mapping[int, float]) -> bool:
        """Add to an account what is new in its buckets, and return whether anything was."""
        has_changed = False
        for bucket, value in values.items():
            before = state.highest.get(bucket, 0.0)
            if before is None:
                state.highest[bucket] = max(value, 0.0)
                has_changed = True
                continue
            rise = value - before
            if bucket >= state.floor and rise > 0:
                state.total += rise
                state.highest[bucket] = value
                has_changed = True
        for bucket in sorted(state.highest)[:-MAX_BUCKETS]:
            del state.highest[bucket]
        if len(state.highest) == MAX_BUCKETS:
            state.floor = min(state.highest)
        return has_changed

    def remove_others(self, kept: Collection[CounterKey]) -> None:
        """Forget what is not `kept` and was not told of in the hundred days before the newest answer.

        The subjects that are asked for are of one length, and those of their series begin with them. What comes back
        begins at 0. While nothing is asked for, nothing is forgotten.
        """
        width = len(next(iter(kept), ()))
        with self._lock:
            states = self._states
            oldest = max((state.requested_at for state in states.values()), default=0.0) - _RETENTION_SECONDS
            others = [key for key in states if width and key[:width] not in kept]
            removed = [key for key in others if states.get(key[:width], states[key]).requested_at < oldest]
            for key in removed:
                del states[key]
                self._saved_totals.pop(key, None)
            self._changed.difference_update(removed)
            self._removed.update(removed)

    def last_requested(self, key: CounterKey) -> float | None:
        """Return when the last answer that told of a subject was asked for, in seconds since the epoch, or None.

        If none has told anything yet, it is when the first was asked for, None if that was a short one.
        """
        with self._lock:
            state = self._states.get(key)
            return state.requested_at or None if state is not None else None

    def total(self, key: CounterKey) -> float:
        """Return what may be shown of a counter: 0 before its first answer, then what `save` has made durable."""
        with self._lock:
            return self._saved_totals.get(key, 0.0)

    @property
    def is_stalled(self) -> bool:
        """Whether the last write failed, so that no total that is shown rises."""
        return self._is_failing

    def save(self) -> None:
        """Write what has changed, and let it be shown. If it cannot be written, the totals stand still until it can."""
        with self._write_lock:
            self._save()

    def save_if_many(self) -> None:
        """Save if so much has changed that the next page would wait for it, unless that is done already, or fails."""
        with self._lock:
            are_many = len(self._changed) >= MAX_UNSAVED
        if are_many and self._write_lock.acquire(blocking=False):
            try:
                if not (self._is_failing or self._is_closing):
                    self._save()
            finally:
                self._write_lock.release()

    def close(self) -> None:
        """Save what changes for those alone who ask for it: with the last of them the store may be closed."""
        with self._write_lock:
            self._is_closing = True

    def _save(self) -> None:
        with self._lock:
            changed = {key: self._states[key].copy() for key in self._changed}
            self._changed.clear()
            removed, self._removed = self._removed, set()
        if not changed and not removed:
            return
        try:
            if self._store is not None:
                self._store.write({key: state.to_row() for key, state in changed.items()}, removed)
        except StateFileError as error:
            self._record_failure(error)
            with self._lock:
                self._changed |= changed.keys() & self._states.keys()
                self._removed |= removed
            return
        if self._is_failing:
            self._is_failing = False
            _log.info("the state file is written again")
        with self._lock:
            keys = changed.keys() & self._states.keys()
            self._saved_totals.update({key: changed[key].total for key in keys})
            self.revision += 1

    def _record_failure(self, error: StateFileError) -> None:
        self._on_write_failure()
        if not self._is_failing:
            self._is_failing = True
            _log.error("the state file cannot be written: counters stand still", extra={"fields": {"reason": error}})
