"""The baseline of a series: the median of the same local bucket in the last weeks."""

import bisect
import functools
from array import array
from collections import defaultdict
from collections.abc import Iterable
from statistics import median

from braze_exporter.braze.buckets import bucket_end, oldest_baseline_time, same_buckets_in_earlier_weeks
from braze_exporter.braze.query import Query

_BUCKETS_PER_PERIOD = 168


class BaselineHistory:
    """The settled history of one series of a query. Not thread-safe.

    It is stored in periods of 168 buckets, counted from the epoch. An hour changes one or two periods only.
    """

    def __init__(self, query: Query) -> None:
        """Start without history, for the last `baseline_weeks` of `query`."""
        self.query = query
        # The starts of the buckets of each period in ascending order, and their values.
        self._periods: dict[int, tuple[tuple[int, ...], array[float]]] = {}

    def add(self, points: Iterable[tuple[int, float]], requested_at: float) -> set[int]:
        """Store the points that had settled at `requested_at`, and drop periods that are too old.

        `requested_at` is when the response with the points was requested, in seconds since the epoch. Return the
        periods that have changed, dropped ones included.
        """
        query = self.query
        changed = self._store(
            (start, value)
            for start, value in points
            if bucket_end(start, query.unit, query.zone) + query.settle_seconds <= requested_at
        )
        oldest = self._period(int(oldest_baseline_time(query, requested_at)))
        dropped = {period for period in self._periods if period < oldest}
        for period in dropped:
            del self._periods[period]
        return changed | dropped

    def restore(self, starts: Iterable[int], values: Iterable[float]) -> None:
        """Use the values from the state file."""
        self._store(zip(starts, values, strict=True))

    def _store(self, points: Iterable[tuple[int, float]]) -> set[int]:
        """Store the values of buckets, and return the periods that have changed."""
        changed: defaultdict[int, dict[int, float]] = defaultdict(dict)
        for start, value in points:
            if self._value(start) != value:
                changed[self._period(start)][start] = value
        for period, values in changed.items():
            merged = dict(sorted((dict(zip(*self.values_of_period(period), strict=True)) | values).items()))
            self._periods[period] = (_intern(tuple(merged)), array("d", merged.values()))
        return {*changed}

    def _value(self, start: int) -> float | None:
        """Return the value of a bucket, or None if it is not known."""
        starts, values = self.values_of_period(self._period(start))
        index = bisect.bisect_left(starts, start)
        return values[index] if starts[index : index + 1] == (start,) else None

    def values_of_period(self, period: int) -> "tuple[tuple[int, ...], array[float]]":
        """Return the starts and the values of the buckets in a period."""
        return self._periods.get(period, ((), array("d")))

    def _period(self, start: int) -> int:
        return start // (_BUCKETS_PER_PERIOD * self.query.unit.seconds)

    def median_for(self, start: int) -> float | None:
        """Return the baseline of the bucket at `start`, or None if too few values are known.

        It is the median of the same local weekday and hour (or weekday) in the last `baseline_weeks` weeks. At least
        `max(2, baseline_weeks - 1)` values must be known, or 1 if `baseline_weeks` is 1.
        """
        weeks = self.query.baseline_weeks
        known = [self._value(earlier) for earlier in same_buckets_in_earlier_weeks(start, self.query)]
        values = [value for value in known if value is not None]
        return median(values) if len(values) >= (1 if weeks == 1 else max(2, weeks - 1)) else None


@functools.lru_cache(maxsize=256)  # the baselines of all queries have the same buckets
def _intern(starts: tuple[int, ...]) -> tuple[int, ...]:
    return starts
