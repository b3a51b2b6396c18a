"""The counters: the highest value that Braze has reported for each bucket, and the sum of its increases.

Each response contains the whole value of a bucket again, and Braze may revise it. A counter must never fall, and must
count each occurrence once. If there is a state file, a total is exported only after it has been written there.
"""

import threading
from collections.abc import Collection, Container, Iterable, Mapping

from braze_exporter.braze.kinds import MAX_LENGTH, Unit
from braze_exporter.braze.query import QUERY_KEY_LENGTH
from braze_exporter.metrics.saved_state import SavedState
from braze_exporter.state.counter_state import CounterKey, CounterState, NameKey
from braze_exporter.state.state_file import StateFile

# The maximum number of buckets in a response. Older buckets never count.
MAX_BUCKETS = MAX_LENGTH
# After this time without an update, no response can contain the buckets of a counter, even daily ones.
_RETENTION_SECONDS = MAX_LENGTH * 24 * 3_600.0
# From this number of unsaved counters on, they are written before the next scrape, which would otherwise wait for the
# write for 0.1 s to 0.2 s.
MAX_UNSAVED = 2_000


class Counters:
    """Turns the buckets of responses into totals that never fall, and keeps the names of ids. Thread-safe.

    The key of a counter is that of its query (see `Query.counter_key`). If a query has several series, the key of each
    one continues with the identity of the series. The attribute `revision` increases whenever an exported total may
    have changed. The attribute `names` has the last known name of each id, which the state file keeps too.
    """

    def __init__(self, state_file: StateFile | None = None, saved_state: SavedState | None = None) -> None:
        """Start with the counters of `state_file`, or with none. Each write includes the changes of `saved_state`."""
        self._state_file = state_file
        self._saved_state = saved_state
        self._lock = threading.Lock()
        self._states: dict[CounterKey, CounterState] = state_file.read() if state_file is not None else {}
        self.names: Mapping[NameKey, str] = state_file.read_names() if state_file is not None else {}
        self._changed_names: dict[NameKey, str] = {}
        self._series_keys: dict[CounterKey, set[CounterKey]] = {}
        for key in self._states:
            self._index(key)
        # The series whose total was on no page yet. After a restart, those that may not have been.
        self._unexposed = {
            key for key, state in self._states.items() if len(key) > QUERY_KEY_LENGTH and not state.total
        }
        self._changed: set[CounterKey] = set()
        self._removed: set[CounterKey] = set()
        self._saved_totals = {key: counter_state.total for key, counter_state in self._states.items()}
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
        zone: str = "",
        is_exported: bool = True,
    ) -> None:
        """Record the `buckets` of a response, as pairs of bucket number and value.

        Bucket numbers rise with time. The response was requested at `requested_at` (seconds since the epoch), for the
        buckets from `requested_from` on. If it `is_complete`, `requested_at` becomes the time of the last request.
        `requested_at` is None if the counter state of the query keeps that time.

        The first response of a key counts 0, and so does the first one after a change of the unit or of `zone`, the
        time zone in which hours without an offset were read. In later responses the rise of a bucket above its highest
        value is added, and a fall is not subtracted. The first value of a bucket that was `unknown` in the first
        response counts 0. Buckets older than the oldest stored one do not count.

        If `new_from` is given, a new key counts its first response too, in the buckets from that number on. If a new
        series `is_exported`, its total stays 0 until `expose` and then `release`, since `increase()` would not see a
        rise before the first scrape.
        """
        values, holes = dict(buckets), list(unknown)
        with self._lock:
            state = self._states.get(key)
            if not is_exported:
                self._unexposed.discard(key)
            elif state is None and len(key) > QUERY_KEY_LENGTH:
                self._unexposed.add(key)
            if state is None and new_from is not None:
                state = self._add_state(key, CounterState(unit, 0.0, new_from, requested_at or 0.0))
            has_other_zone = state is not None and zone and state.zone and zone != state.zone
            if state is None or state.unit is not unit or has_other_zone:
                total = state.total if state is not None else 0.0
                initial: dict[int, float | None] = dict.fromkeys(holes)
                initial |= {bucket: max(value, 0.0) for bucket, value in values.items()}  # rises start at 0
                self._add_state(
                    key,
                    CounterState(
                        unit, total, min(initial, default=requested_from), requested_at or 0.0, initial, zone=zone
                    ),
                )
                return
            if requested_at is not None and is_complete:
                state.requested_at = requested_at
                self._changed.add(key)
            if zone and not state.zone:
                state.zone = zone
                self._changed.add(key)
            total = state.total
            if self._add_increases(state, values):
                self._changed.add(key)
            if key in self._unexposed:
                state.total, state.withheld = total, state.withheld + state.total - total

    def _add_state(self, key: CounterKey, state: CounterState) -> CounterState:
        self._states[key] = state
        self._changed.add(key)
        self._index(key)
        return state

    def _index(self, key: CounterKey) -> None:
        if len(key) > QUERY_KEY_LENGTH:
            self._series_keys.setdefault(key[:QUERY_KEY_LENGTH], set()).add(key)

    def record_names(self, names: Mapping[NameKey, str]) -> None:
        """Store the current names of ids. The next `save` writes those that have changed."""
        with self._lock:
            changed = {key: name for key, name in names.items() if self.names.get(key) != name}
            self.names = {**self.names, **changed}
            self._changed_names |= changed

    def release(self, query_key: CounterKey) -> None:
        """Add what the new series of a query have counted to their totals, if these have been on a page as 0."""
        with self._lock:
            for key in self._series_keys.get(query_key, ()):
                state = self._states[key]
                if state.withheld and key not in self._unexposed:
                    state.total, state.withheld = state.total + state.withheld, 0.0
                    self._changed.add(key)

    def remove_unreachable(self, query_key: CounterKey, kept: Container[CounterKey], oldest: int) -> None:
        """Remove the counters of series that are not in `kept` and have no bucket from number `oldest` on."""
        with self._lock:
            keys = self._series_keys.get(query_key, ())
            self._remove(
                [
                    key
                    for key in keys
                    if key not in kept and max(self._states[key].highest, default=self._states[key].floor) < oldest
                ]
            )

    @staticmethod
    def _add_increases(state: CounterState, values: Mapping[int, float]) -> bool:
        """Add the increases in these buckets to a counter state, and return whether the state changed."""
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

    def remove_expired(self, kept: Collection[CounterKey]) -> None:
        """Remove counters that are not in `kept` and were not updated in the 100 days before the newest response.

        `kept` contains the keys of queries. A counter that is added again later starts at 0. If `kept` is empty,
        nothing is removed.
        """
        with self._lock:
            states = self._states
            oldest = max((state.requested_at for state in states.values()), default=0.0) - _RETENTION_SECONDS
            others = [key for key in states if kept and key[:QUERY_KEY_LENGTH] not in kept]
            self._remove(
                [key for key in others if states.get(key[:QUERY_KEY_LENGTH], states[key]).requested_at < oldest]
            )

    def remove_replaced(self, kept: Collection[CounterKey]) -> None:
        """Remove counters that have the labels of a key in `kept`, but another url or other ids.

        `kept` contains the keys of queries. Otherwise the total under these labels would jump if the config returned to
        the former url or ids.
        """
        with self._lock:
            labels = {_key_labels(key) for key in kept}
            self._remove(
                [key for key in self._states if key[:QUERY_KEY_LENGTH] not in kept and _key_labels(key) in labels]
            )

    def _remove(self, keys: Iterable[CounterKey]) -> None:
        for key in keys:
            del self._states[key]
            self._saved_totals.pop(key, None)
            self._unexposed.discard(key)
            self._series_keys.get(key[:QUERY_KEY_LENGTH], set()).discard(key)
            self._changed.discard(key)
            self._removed.add(key)

    def last_requested(self, key: CounterKey) -> float | None:
        """Return when the last complete response of a key was requested, in seconds since the epoch.

        Until there is one, return the time of the first response, or None if that was short or there is none.
        """
        with self._lock:
            state = self._states.get(key)
            return state.requested_at or None if state is not None else None

    def total(self, key: CounterKey) -> float:
        """Return the exported total of a counter: its value at the last `save`, or 0 before its first response."""
        return self._saved_totals.get(key, 0.0)

    def expose(self, key: CounterKey) -> float:
        """Return the exported total of a counter for the metrics page, and register that the page has it."""
        with self._lock:
            self._unexposed.discard(key)
            return self._saved_totals.get(key, 0.0)

    @property
    def has_unsaved(self) -> bool:
        """Whether there are changes that `save` has to write. Does not wait for other threads."""
        has_saved_state_changes = self._saved_state is not None and self._saved_state.has_changes
        return bool(self._changed or self._removed or self._changed_names) or has_saved_state_changes

    @property
    def has_many_unsaved(self) -> bool:
        """Whether so many counters changed that the next scrape would wait for the write."""
        return len(self._changed) >= MAX_UNSAVED

    def save(self) -> None:
        """Write the changed counters and export their new totals. At most one thread may save at a time.

        Raises `StateFileError` if the write fails. The exported totals then stay the same until a write succeeds.
        """
        # Before the counters are copied, so that a restart shows no response that its counters lack.
        changes = self._saved_state.collect() if self._saved_state is not None else {}
        with self._lock:
            changed = {key: self._states[key].copy() for key in self._changed}
            self._changed.clear()
            removed, self._removed = self._removed, set()
            names, self._changed_names = self._changed_names, {}
        if not changed and not removed and not names and not changes:
            return
        try:
            if self._state_file is not None:
                self._state_file.write({key: state.to_row() for key, state in changed.items()}, removed, names, changes)
        except BaseException:
            with self._lock:
                self._changed |= changed.keys() & self._states.keys()
                self._removed |= removed
                self._changed_names = names | self._changed_names
            raise
        if self._saved_state is not None:
            self._saved_state.confirm()
        with self._lock:
            keys = changed.keys() & self._states.keys()
            self._saved_totals.update({key: changed[key].total for key in keys})
            self.revision += 1


def _key_labels(key: CounterKey) -> CounterKey:
    """Return the parts of a key that are labels of the query: workspace, kind, subject, and the aliases."""
    return key[:1] + key[2:5] + key[6:7]
