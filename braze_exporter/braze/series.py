"""Series of values by bucket, as parsed from a response."""

from dataclasses import dataclass
from typing import NamedTuple

from braze_exporter.braze.kinds import MetricGroup


class Point(NamedTuple):
    """The value of the bucket that starts at `start` (seconds since the epoch, UTC)."""

    start: int
    value: float


@dataclass(frozen=True, slots=True)
class Series:
    """One series of a response, which can have several.

    `metric_group` is the metric group of the values. `points` has one point per bucket, oldest first. `holes` are the
    starts of the buckets for which the response has no number, oldest first. `labels` are added to the labels of the
    query. `key` identifies the series among those of its metric group: by Braze's ids, or by a name where Braze gives
    no id. Both are empty if the metric group has only one series per query. `zone` is the name of the time zone in
    which hours without an offset were read, empty if all had one.
    """

    metric_group: MetricGroup
    points: tuple[Point, ...]
    labels: tuple[tuple[str, str], ...] = ()
    key: tuple[str, ...] = ()
    holes: tuple[int, ...] = ()
    zone: str = ""

    @property
    def identity(self) -> tuple[str, ...]:
        """The key that identifies the series among those of its query."""
        return (self.metric_group.name, *self.key)

    @property
    def newest_start(self) -> int | None:
        """The start of the newest bucket, including holes, or None if there is none."""
        return max((*self.holes[-1:], *(start for start, _ in self.points[-1:])), default=None)

    @property
    def has_counter(self) -> bool:
        """Whether the series has a counter. Counts of unique users cannot be summed."""
        return self.metric_group.is_additive and not dict(self.labels).get("stat", "").startswith("unique_")
