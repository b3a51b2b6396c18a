"""The baseline of a series: the median of the same local bucket in the last weeks."""

from collections.abc import Iterable
from statistics import median

from braze_exporter.braze.buckets import WEEK_SECONDS, bucket_end, same_buckets_in_earlier_weeks
from braze_exporter.braze.query import Query
from braze_exporter.braze.series import Point


class Baseline:
    """The settled history of one series of a query. Not thread-safe."""

    def __init__(self, query: Query) -> None:
        """Start without history, for the last `baseline_weeks` of `query`."""
        self.query = query
        self._values: dict[int, float] = {}

    def add(self, points: Iterable[Point], requested_at: float) -> None:
        """Store the points that had settled at `requested_at`, and drop values that are too old.

        `requested_at` is when the response with the points was requested, in seconds since the epoch.
        """
        query = self.query
        for start, value in points:
            if bucket_end(start, query.unit, query.zone) + query.settle_seconds <= requested_at:
                self._values[start] = value
        # One week more than the median needs, since the settled bucket can be several days old.
        oldest = requested_at - (query.baseline_weeks + 1) * WEEK_SECONDS
        for start in [start for start in self._values if start < oldest]:
            del self._values[start]

    def median_for(self, start: int) -> float | None:
        """Return the baseline of the bucket at `start`, or None if too few values are known.

        It is the median of the same local weekday and hour (or weekday) in the last `baseline_weeks` weeks. At least
        `max(2, baseline_weeks - 1)` values must be known, or 1 if `baseline_weeks` is 1.
        """
        weeks = self.query.baseline_weeks
        values = [self._values[at] for at in same_buckets_in_earlier_weeks(start, self.query) if at in self._values]
        return median(values) if len(values) >= (1 if weeks == 1 else max(2, weeks - 1)) else None
