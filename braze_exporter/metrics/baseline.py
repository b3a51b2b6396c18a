"""What is usual at an hour of the week: the settled buckets of the last weeks, and their median."""

from collections.abc import Iterable
from statistics import median

from braze_exporter.braze.buckets import WEEK_SECONDS, bucket_end, same_buckets_in_earlier_weeks
from braze_exporter.braze.query import Query
from braze_exporter.braze.series import Point


class Baseline:
    """The settled history of one series of a query. Not thread-safe."""

    def __init__(self, query: Query) -> None:
        """Look back over the `weeks` of `query`."""
        self.query = query
        self._values: dict[int, float] = {}

    def learn(self, points: Iterable[Point], requested_at: float) -> None:
        """Take in the points that had settled when their answer was asked for, and forget what is too old."""
        query = self.query
        for start, value in points:
            if bucket_end(start, query.unit, query.zone) + query.settle <= requested_at:
                self._values[start] = value
        # A week more than is looked at: the settled bucket can be some days old.
        oldest = requested_at - (query.baseline_weeks + 1) * WEEK_SECONDS
        for start in [start for start in self._values if start < oldest]:
            del self._values[start]

    def median_for(self, start: int) -> float | None:
        """Return what is usual for the bucket at `start`, or None if too little is known.

        It is the median of the same local hour and weekday (or weekday) in the last weeks, of those that are known: all
        but one, and at least two where it looks at two weeks or more.
        """
        weeks = self.query.baseline_weeks
        values = [self._values[at] for at in same_buckets_in_earlier_weeks(start, self.query) if at in self._values]
        return median(values) if len(values) >= (1 if weeks == 1 else max(2, weeks - 1)) else None
