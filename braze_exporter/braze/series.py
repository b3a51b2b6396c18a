"""Series of values by bucket, as parsed from a response."""

import functools
import math
import operator
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from braze_exporter.braze.metric_group import MetricGroup

# The values of a bucket without a number, and of a bucket that a series does not have. Values of Braze are finite.
HOLE, ABSENT = math.nan, math.inf


class Point(NamedTuple):
    """The value of the bucket that starts at `start` (seconds since the epoch, UTC)."""

    start: int
    value: float


@dataclass(slots=True)
class SeriesHead:
    """What identifies a series. It is never modified, and responses with the same series share it.

    `metric_group` is the metric group of the values. `labels` are added to the labels of the query. `key` identifies
    the series among those of its query: the name of the metric group, then Braze's ids, or a name where Braze gives no
    id. It has only the name if the metric group has only one series per query. `has_counter` is whether the series has
    a counter. Counts of unique users cannot be summed.
    """

    metric_group: MetricGroup
    labels: tuple[tuple[str, str], ...]
    key: tuple[str, ...]
    has_counter: bool = field(init=False, compare=False)

    def __post_init__(self) -> None:
        """Set `has_counter`."""
        is_unique = dict(self.labels).get("stat", "").startswith("unique_")
        self.has_counter = self.metric_group.is_additive and not is_unique

    @property
    def is_only(self) -> bool:
        """Whether the metric group has only one series per query."""
        return len(self.key) == 1


@functools.cache
def only_head(metric_group: MetricGroup) -> SeriesHead:
    """Return the head of the only series of a metric group."""
    return SeriesHead(metric_group, (), (metric_group.name,))


class Series(NamedTuple):
    """One series of a response, which can have several. `head` identifies it.

    `starts` are the starts of the buckets of the response, oldest first, in seconds since the epoch. All series of a
    response share them. `values` has a value for each of them: a finite number, `HOLE` or `ABSENT`. It is never
    modified. `zone` is the name of the time zone in which hours without an offset were read, empty if all had one.
    """

    head: SeriesHead
    starts: tuple[int, ...] = ()
    values: "array[float]" = array("d")
    zone: str = ""

    @property
    def points(self) -> tuple[Point, ...]:
        """The buckets with a number, oldest first."""
        pairs = zip(self.starts, self.values, strict=True)
        return tuple(Point(start, value) for start, value in pairs if math.isfinite(value))

    @property
    def newest_start(self) -> int | None:
        """The start of the newest bucket, including holes, or None if there is none."""
        index = newest_index(self.values)
        return self.starts[index] if index is not None else None


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
    head, own_starts, values, zone = series
    old_head, old_starts, old_values, old_zone = old
    if head is not old_head and head != old_head:
        return series
    if starts is old_starts and zone == old_zone and values.tobytes() == old_values.tobytes():
        return old
    is_shared = head is old_head and own_starts is starts  # as almost always
    return series if is_shared else Series(old_head, starts, values, zone)
