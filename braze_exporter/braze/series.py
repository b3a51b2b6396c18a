"""Series of values by bucket, as parsed from a response."""

import math
import operator
from array import array
from collections.abc import Sequence
from typing import NamedTuple

from braze_exporter.braze.metric_group import MetricGroup

# The values of a bucket without a number, and of a bucket that a series does not have. Values of Braze are finite.
HOLE, ABSENT = math.nan, math.inf


class Point(NamedTuple):
    """The value of the bucket that starts at `start` (seconds since the epoch, UTC)."""

    start: int
    value: float


class Series(NamedTuple):
    """One series of a response, which can have several.

    `metric_group` is the metric group of the values. `labels` are added to the labels of the query. `key` has the name
    of the metric group, and identifies the series by Braze's ids, or by a name where Braze gives no id. Both are empty
    if the metric group has only one series per query.

    `starts` are the starts of the buckets of the response, oldest first, in seconds since the epoch. All series of a
    response share them. `values` has a value for each of them: a finite number, `HOLE` or `ABSENT`. It is never
    modified. `zone` is the name of the time zone in which hours without an offset were read, empty if all had one.
    """

    metric_group: MetricGroup
    labels: tuple[tuple[str, str], ...] = ()
    key: tuple[str, ...] = ()
    starts: tuple[int, ...] = ()
    values: "array[float]" = array("d")
    zone: str = ""

    @property
    def identity(self) -> tuple[str, ...]:
        """The key that identifies the series among those of its query."""
        return self.key or (self.metric_group.name,)

    @property
    def points(self) -> tuple[Point, ...]:
        """The buckets with a number, oldest first."""
        pairs = zip(self.starts, self.values, strict=True)
        return tuple(Point(start, value) for start, value in pairs if math.isfinite(value))

    @property
    def holes(self) -> tuple[int, ...]:
        """The starts of the buckets without a number, oldest first."""
        return tuple(start for start, value in zip(self.starts, self.values, strict=True) if math.isnan(value))

    @property
    def newest_start(self) -> int | None:
        """The start of the newest bucket, including holes, or None if there is none."""
        index = newest_index(self.values)
        return self.starts[index] if index is not None else None

    def without_buckets(self) -> "Series":
        """Return the series without its values."""
        return Series(self.metric_group, self.labels, self.key) if self.values else self

    @property
    def has_counter(self) -> bool:
        """Whether the series has a counter. Counts of unique users cannot be summed."""
        return self.metric_group.is_additive and not dict(self.labels).get("stat", "").startswith("unique_")


def newest_index(values: "array[float]") -> int | None:
    """Return the index of the newest bucket that a series has, including holes, or None if it has none."""
    for index in range(len(values) - 1, -1, -1):
        if values[index] != ABSENT:
            return index
    return None


def bucket_starts(series_list: Sequence[Series]) -> tuple[int, ...]:
    """Return the starts of all buckets of a response, including holes, oldest first."""
    return series_list[0].starts if series_list else ()


def share_unchanged(series_list: tuple[Series, ...], previous: tuple[Series, ...]) -> tuple[Series, ...]:
    """Return equal series that share their unchanged parts with those of the response `previous`.

    What has not changed is the same object: a series, their starts, or all series.
    """
    starts = bucket_starts(previous)
    if starts != bucket_starts(series_list):
        starts = bucket_starts(series_list)
    pairs = zip(series_list, previous, strict=False)
    shared = tuple([_share(series, old, starts) for series, old in pairs])
    if len(series_list) == len(previous) and all(map(operator.is_, shared, previous)):
        return previous
    return shared + series_list[len(shared) :]


def _share(series: Series, old: Series, starts: tuple[int, ...]) -> Series:
    if series[:3] != old[:3]:  # another metric group, key or label
        return series
    is_same = starts is old.starts and series.zone == old.zone and series.values.tobytes() == old.values.tobytes()
    return old if is_same else Series(old.metric_group, old.labels, old.key, starts, series.values, series.zone)
