"""The baseline of a series: the median of the same local bucket in the last weeks."""

import bisect
from array import array
from collections.abc import Iterable
from statistics import median

from braze_exporter.braze.buckets import WEEK_SECONDS, bucket_end, same_buckets_in_earlier_weeks
from braze_exporter.braze.query import Query

_BUCKETS_PER_PERIOD = 168


class Baseline:
    """The settled history of one series of a query. Not thread-safe."""

    def __init__(self, query: Query) -> None:
        """Start without history, for the last `baseline_weeks` of `query`."""
        self.query = query
        self._starts = array("I")  # in ascending order; they fit until 2106
        self._values = array("d")

    def add(self, points: Iterable[tuple[int, float]], requested_at: float) -> set[int]:
        """Store the points that had settled at `requested_at`, and drop values that are too old.

        `requested_at` is when the response with the points was requested, in seconds since the epoch. Return the
        periods (see `values_of_period`) with new or changed values, and those whose last values were dropped.
        """
        query = self.query
        changed = {
            self._period(start)
            for start, value in points
            if bucket_end(start, query.unit, query.zone) + query.settle_seconds <= requested_at
            and self._store(start, value)
        }
        # One week more than the median needs, since the settled bucket can be several days old.
        first = bisect.bisect_left(self._starts, requested_at - (query.baseline_weeks + 1) * WEEK_SECONDS)
        if first:
            dropped = set(map(self._period, self._starts[:first]))
            del self._starts[:first], self._values[:first]
            changed |= dropped - set(map(self._period, self._starts[:1]))
        return changed

    def restore(self, starts: Iterable[int], values: Iterable[float]) -> None:
        """Use the values from the state file."""
        points = sorted(zip(starts, values, strict=True))
        self._starts = array("I", [start for start, _ in points])
        self._values = array("d", [value for _, value in points])

    def _store(self, start: int, value: float) -> bool:
        """Store the value of a bucket, and return whether it is new."""
        index = bisect.bisect_left(self._starts, start)
        if index == len(self._starts) or self._starts[index] != start:
            self._starts.insert(index, start)
            self._values.insert(index, value)
            return True
        is_new = self._values[index] != value
        self._values[index] = value
        return is_new

    def values_of_period(self, period: int) -> "tuple[array[int], array[float]]":
        """Return the starts and the values of the buckets in a period.

        A period has 168 buckets, counted from the epoch. An hour changes the values of one or two periods only.
        """
        limits = (number * _BUCKETS_PER_PERIOD * self.query.unit.seconds for number in (period, period + 1))
        of_period = slice(*(bisect.bisect_left(self._starts, limit) for limit in limits))
        return self._starts[of_period], self._values[of_period]

    def _period(self, start: int) -> int:
        return start // (_BUCKETS_PER_PERIOD * self.query.unit.seconds)

    def median_for(self, start: int) -> float | None:
        """Return the baseline of the bucket at `start`, or None if too few values are known.

        It is the median of the same local weekday and hour (or weekday) in the last `baseline_weeks` weeks. At least
        `max(2, baseline_weeks - 1)` values must be known, or 1 if `baseline_weeks` is 1.
        """
        weeks, values = self.query.baseline_weeks, []
        for earlier in same_buckets_in_earlier_weeks(start, self.query):
            index = bisect.bisect_left(self._starts, earlier)
            if self._starts[index : index + 1] == array("I", [earlier]):
                values.append(self._values[index])
        return median(values) if len(values) >= (1 if weeks == 1 else max(2, weeks - 1)) else None
