"""The counters: the highest value that Braze has reported for each bucket, and the sum of its increases.

Each response contains the whole value of a bucket again, and Braze may revise it. A counter must never fall, and must
count each occurrence once. If there is a state file, a total is exported only after it has been written there.
"""

import math
import threading
from array import array
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from itertools import chain

from braze_exporter.braze.kinds import MAX_LENGTH, Unit
from braze_exporter.braze.series import ABSENT, HOLE, newest_index
from braze_exporter.state.contents import counter_changes
from braze_exporter.state.counter_state import Counter, CounterKey, CounterState, NameKey, SeriesKey
from braze_exporter.state.state_file import StateFile
from braze_exporter.state.tables import TableChanges

# The key of a series, its values, and whether it is exported.
CounterColumn = tuple[SeriesKey, "array[float]", bool]

# After this time without an update, no response can contain the buckets of a counter, even daily ones.
_RETENTION_SECONDS = MAX_LENGTH * 24 * 3_600.0
# From this number of queries with unsaved counters on, these are written before the next scrape, which would otherwise
# wait for the write for 0.1 s to 0.2 s.
MAX_UNSAVED = 2_000


class Counters:
    """Turns the buckets of responses into totals that never fall, and keeps the names of ids. Thread-safe.

    The attribute `revision` increases whenever an exported total may have changed. The attribute `names` has the last
    known name of each id, which the state file keeps too.
    """

    def __init__(self, state_file: StateFile | None = None) -> None:
        """Start with the counters of `state_file`, or with none."""
        self._has_file = state_file is not None
        self._lock = threading.Lock()
        self._states: dict[CounterKey, CounterState] = state_file.read_counters() if state_file is not None else {}
        self.names: Mapping[NameKey, str] = state_file.read_names() if state_file is not None else {}
        self._changed_names: dict[NameKey, str] = {}
        # The queries whose state has changed, and whether their counters have changed too.
        self._changed: dict[CounterKey, bool] = {}
        self._removed: set[CounterKey] = set()
        # The totals that `take_changes` has returned since the last successful write.
        self._taken: dict[CounterKey, Sequence[tuple[Counter, float]]] = {}
        self._revisions: dict[CounterKey, int] = {}
        self.revision = 0

    def record(
        self,
        key: CounterKey,
        unit: Unit,
        numbers: Sequence[int],
        columns: Sequence[CounterColumn],
        *,
        requested_from: int,
        requested_at: float | None,
        is_complete: bool = True,
        unknown: Iterable[int] = (),
        new_from: int | None = None,
        zone: str = "",
    ) -> None:
        """Record the `columns` of a response to the query with this `key`.

        The columns have a value for each of the buckets with these `numbers`, which rise with time. The response was
        requested at `requested_at` (seconds since the epoch), for the buckets from `requested_from` on. If it
        `is_complete`, `requested_at` becomes the time of the last request, unless it is None, and buckets that a usual
        response does not have are forgotten.

        The first response of a series counts 0, and so does the first one after a change of the unit, of the minute at
        which hours begin, or of `zone`, the time zone in which hours without an offset were read. In later responses
        the rise of a bucket above its highest value is added, and a fall is not subtracted. The first value of a bucket
        that was a hole or `unknown` in the first response counts 0. Forgotten buckets do not count. In later responses
        `unknown` has no effect.

        If `new_from` is given, a new series counts its first response too, in the buckets from that number on. If a new
        series of a query with several is exported, its total stays 0 until `expose` and then `release`, since
        `increase()` would not see a rise before the first scrape.
        """
        with self._lock:
            state = self._states.get(key)
            has_other_zone = state is not None and zone and state.zone and zone != state.zone
            if state is None or state.unit is not unit or has_other_zone or _has_other_minutes(state, numbers):
                former = state.counters if state is not None else {}
                state = self._states[key] = CounterState(unit, requested_at or 0.0, zone)
            else:
                former = {}
                if requested_at is not None and is_complete:
                    state.requested_at = requested_at
                    self._changed.setdefault(key, False)
                state.zone = state.zone or zone
            is_new = any(series_key not in state.counters for series_key, *_ in columns)
            unknown = [*unknown] if is_new else []
            if is_complete and numbers:
                state.remove_before(min(requested_from, numbers[0]))
            state.add_buckets([*unknown, *numbers])
            known = {number: index for index, number in enumerate(numbers)}
            indexes = None if numbers == state.numbers else [known.get(number) for number in state.numbers]
            for series_key, values, is_exported in columns:
                counter = state.counters.get(series_key)
                if counter is None:
                    floor = requested_from if new_from is None else new_from
                    counter = Counter(floor, array("d", bytes(8 * len(state.numbers))), floor)
                    counter.is_unexposed = bool(series_key)
                    if series_key in former:
                        counter.total, counter.exported_total = (
                            former[series_key].total,
                            former[series_key].exported_total,
                        )
                    if new_from is None:
                        _start(counter, state, numbers, values, unknown)
                    state.add_counter(series_key, counter)
                    self._changed[key] = True
                counter.is_unexposed &= is_exported
                if counter.recorded is not values and _count(counter, state.numbers, values, indexes):
                    self._changed[key] = True

    def record_names(self, names: Mapping[NameKey, str]) -> None:
        """Store the current names of ids. The next write includes those that have changed."""
        with self._lock:
            changed = {key: name for key, name in names.items() if self.names.get(key) != name}
            self.names = {**self.names, **changed}
            self._changed_names |= changed

    def release(self, key: CounterKey) -> None:
        """Add what the new series of a query have counted to their totals, if these have been on a page as 0."""
        with self._lock:
            state = self._states.get(key)
            for counter in state.counters.values() if state is not None else ():
                if counter.withheld and not counter.is_unexposed:
                    counter.total, counter.withheld = counter.total + counter.withheld, 0.0
                    self._changed[key] = True

    def remove_unreachable(self, key: CounterKey, kept: Container[SeriesKey], oldest: int) -> None:
        """Remove the counters of series that are not in `kept` and have no bucket from number `oldest` on."""
        with self._lock:
            state = self._states.get(key)
            counters = state.counters if state is not None else {}
            for series_key in [each for each in counters if each not in kept and counters[each].newest < oldest]:
                self._states[key].remove_counter(series_key)
                self._changed[key] = True

    def remove_expired(self, kept: Collection[CounterKey]) -> None:
        """Remove counters that are not in `kept` and were not updated in the 100 days before the newest response.

        A counter that is added again later starts at 0. If `kept` is empty, nothing is removed.
        """
        with self._lock:
            times = {key: state.requested_at for key, state in self._states.items()}
            oldest = max(times.values(), default=0.0) - _RETENTION_SECONDS
            self._remove([key for key, time in times.items() if kept and key not in kept and time < oldest])

    def remove_replaced(self, kept: Collection[CounterKey]) -> None:
        """Remove counters that have the labels of a key in `kept`, but another url or other ids.

        Otherwise the total under these labels would jump if the config returned to the former url or ids.
        """
        with self._lock:
            labels = {_key_labels(key) for key in kept}
            self._remove([key for key in self._states if key not in kept and _key_labels(key) in labels])

    def _remove(self, keys: Iterable[CounterKey]) -> None:
        for key in keys:
            del self._states[key]
            self._revisions.pop(key, None)
            self._changed.pop(key, None)
            self._removed.add(key)

    def last_requested(self, key: CounterKey) -> float | None:
        """Return when the last complete response to a query was requested, in seconds since the epoch.

        Until there is one, return the time of the first response, or None if that was short or there is none.
        """
        with self._lock:
            state = self._states.get(key)
            return state.requested_at or None if state is not None else None

    def exported_revision(self, key: CounterKey) -> int:
        """Return a number that changes whenever an exported total of the query may have changed."""
        return self._revisions.get(key, -1)

    def total(self, key: CounterKey, series_key: SeriesKey = ()) -> float:
        """Return the exported total of a counter: its value at the last write, or 0 before its first response."""
        with self._lock:
            state = self._states.get(key)
            counter = state.counters.get(series_key) if state is not None else None
            return counter.exported_total if counter is not None else 0.0

    def expose(self, key: CounterKey, series_keys: Iterable[SeriesKey]) -> list[float]:
        """Return the exported totals of a query for the metrics page, and register that the page has them."""
        totals = []
        with self._lock:
            counters = self._states[key].counters if key in self._states else {}
            for series_key in series_keys:
                counter = counters.get(series_key)
                if counter is not None:
                    counter.is_unexposed = False
                totals.append(counter.exported_total if counter is not None else 0.0)
        return totals

    @property
    def has_changes(self) -> bool:
        """Whether `take_changes` would return changes. Does not wait for other threads."""
        return bool(self._changed or self._removed or self._changed_names)

    @property
    def has_many_unsaved(self) -> bool:
        """Whether the counters of so many queries changed that the next scrape would wait for the write."""
        return len(self._changed) >= MAX_UNSAVED

    def take_changes(self) -> TableChanges:
        """Return the rows of what has changed since the last call, or nothing if there is no state file."""
        with self._lock:
            recounted = [key for key, is_recounted in self._changed.items() if is_recounted]
            for key in recounted:
                self._taken[key] = [(counter, counter.total) for counter in self._states[key].counters.values()]
            rows = {key: self._states[key].to_row() for key in self._changed}
            packed = {key: self._states[key].pack_counters() for key in recounted if self._has_file}
            self._changed.clear()
            removed, self._removed = self._removed, set()
            names, self._changed_names = self._changed_names, {}
        changes = counter_changes(rows, packed, removed) | {("names", key): (*key, name) for key, name in names.items()}
        return changes if self._has_file else {}

    def export_written(self) -> None:
        """Export the totals that `take_changes` has returned. They have been written."""
        with self._lock:
            taken, self._taken = self._taken, {}
            self.revision += bool(taken)
            self._revisions |= dict.fromkeys(taken.keys() & self._states.keys(), self.revision)
            for counter, total in chain.from_iterable(taken.values()):
                counter.exported_total = total


def _start(
    counter: Counter, state: CounterState, numbers: Sequence[int], values: "array[float]", unknown: Sequence[int]
) -> None:
    """Set the highest values of a new counter to those of its first response, so that these count 0."""
    if numbers and numbers == state.numbers and min(values) >= 0 and math.isfinite(sum(values)):  # as almost always
        counter.floor, counter.highest = numbers[0], values
        return
    initial = dict.fromkeys(unknown, HOLE)
    for number, value in zip(numbers, values, strict=True):
        if value != ABSENT:
            initial[number] = max(value, 0.0)  # rises start at 0
    counter.floor = min(initial, default=counter.floor)
    counter.highest = array("d", [initial.get(number, 0.0) for number in state.numbers])


def _count(
    counter: Counter, numbers: Sequence[int], values: "array[float]", indexes: Sequence[int | None] | None
) -> bool:
    """Add the increases in `values` to a counter, and return whether it has changed.

    `numbers` are those of the buckets of the counter. `indexes` are the indexes of their values, None if they are the
    same.
    """
    counter.recorded = values
    if indexes is not None:
        values = array("d", [ABSENT if index is None else values[index] for index in indexes])
    newest = newest_index(values)
    counter.newest = counter.newest if newest is None else max(counter.newest, numbers[newest])
    # Bytes are compared, since that takes a fifth of the time that numbers take.
    new, old = values.tobytes(), counter.highest.tobytes()
    if new == old:
        return False
    total, highest = counter.total, counter.highest[:]
    # Usually only the newest buckets differ.
    size = 2 * values.itemsize
    first = len(values) - 2 if new[:-size] == old[:-size] else 0
    for index in range(max(first, 0), len(values)):
        value, before = values[index], highest[index]
        if value <= before:
            continue
        if before < value < ABSENT and numbers[index] >= counter.floor:
            total += value - before
            highest[index] = value
        elif math.isnan(before) and math.isfinite(value):
            highest[index] = max(value, 0.0)
    current = highest.tobytes()
    if current == old:
        return False
    if counter.is_unexposed:
        counter.withheld += total - counter.total
    else:
        counter.total = total
    counter.highest = values if current == new else highest
    return True


def _has_other_minutes(state: CounterState, numbers: Iterable[int]) -> bool:
    """Return whether hours begin at other minutes than those of `state`, so that they overlap with these.

    In a zone with half an hour of DST, responses have both for a while.
    """
    known, new = ({number % state.unit.seconds for number in each} for each in (state.numbers, numbers))
    return state.unit is Unit.HOUR and bool(known and new) and known.isdisjoint(new)


def _key_labels(key: CounterKey) -> CounterKey:
    """Return the parts of a key that are labels of the query: workspace, kind, subject, and the aliases."""
    workspace, _, kind, subject, app, _, segment, _ = key
    return workspace, kind, subject, app, segment
