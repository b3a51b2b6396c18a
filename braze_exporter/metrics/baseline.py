"""The baseline of a series: the median of the same local bucket in the last weeks."""

from collections.abc import Iterable, Mapping
from statistics import median

from braze_exporter.braze.buckets import WEEK_SECONDS, bucket_end, same_buckets_in_earlier_weeks
from braze_exporter.braze.query import Query
from braze_exporter.braze.series import Point

_BUCKETS_PER_PERIOD = 168


class Baseline:
    """The settled history of one series of a query. Not thread-safe."""

    def __init__(self, query: Query) -> None:
        """Start without history, for the last `baseline_weeks` of `query`."""
        self.query = query
        self._values: dict[int, float] = {}
        self._periods: set[int] = set()

    def add(self, points: Iterable[Point], requested_at: float) -> set[int]:
        """Store the points that had settled at `requested_at`, and drop values that are too old.

        `requested_at` is when the response with the points was requested, in seconds since the epoch. Return the
        periods (see `values_by_period`) with new or changed values, and those whose last values were dropped.
        """
        query, changed = self.query, set()
        for start, value in points:
            if bucket_end(start, query.unit, query.zone) + query.settle_seconds <= requested_at:
                if self._values.get(start) != value:
                    changed.add(self._period(start))
                self._values[start] = value
        # One week more than the median needs, since the settled bucket can be several days old.
        oldest = requested_at - (query.baseline_weeks + 1) * WEEK_SECONDS
        too_old = [start for start in self._values if start < oldest]
        for start in too_old:
            del self._values[start]
        kept = set(map(self._period, self._values)) if too_old else self._periods | changed
        changed |= self._periods - kept
        self._periods = kept
        return changed

    def restore(self, values: Mapping[int, float]) -> None:
        """Add values from the state file."""
        self._values |= values
        self._periods |= set(map(self._period, values))

    def values_by_period(self, periods: Iterable[int]) -> dict[int, dict[int, float]]:
        """Return the values in each of `periods`, by the start of the bucket.

        A period has 168 buckets, counted from the epoch. An hour changes the values of one or two periods only.
        """
        result: dict[int, dict[int, float]] = {period: {} for period in periods}
        for start, value in self._values.items():
            period = self._period(start)
            if period in result:
                result[period][start] = value
        return result

    def _period(self, start: float) -> int:
        return int(start // (_BUCKETS_PER_PERIOD * self.query.unit.seconds))

    def median_for(self, start: int) -> float | None:
        """Return the baseline of the bucket at `start`, or None if too few values are known.

        It is the median of the same local weekday and hour (or weekday) in the last `baseline_weeks` weeks. At least
        `max(2, baseline_weeks - 1)` values must be known, or 1 if `baseline_weeks` is 1.
        """
        weeks = self.query.baseline_weeks
        values = [self._values[at] for at in same_buckets_in_earlier_weeks(start, self.query) if at in self._values]
        return median(values) if len(values) >= (1 if weeks == 1 else max(2, weeks - 1)) else None
