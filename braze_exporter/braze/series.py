"""Series of values by bucket, as parsed from a response."""

from dataclasses import dataclass, replace
from typing import NamedTuple

from braze_exporter.braze.kinds import MetricGroup

# The labels of a series that are not the name of a variation or step.
_LABELS_WITHOUT_NAMES = ("channel", "stat")


class Point(NamedTuple):
    """The value of the bucket that starts at `start` (seconds since the epoch, UTC)."""

    start: int
    value: float


@dataclass(frozen=True, slots=True)
class Series:
    """One series of a response, which can have several.

    `metric_group` is the metric group of the values. `points` has one point per bucket, oldest first. `holes` are the
    starts of the buckets for which the response has no number, oldest first. `labels` are added to the labels of the
    query. `key` identifies the series by Braze's ids. Both are empty if the metric group has only one series per query.
    """

    metric_group: MetricGroup
    points: tuple[Point, ...]
    labels: tuple[tuple[str, str], ...] = ()
    key: tuple[str, ...] = ()
    holes: tuple[int, ...] = ()

    @property
    def without_buckets(self) -> "Series":
        """The series without points and holes."""
        return replace(self, points=(), holes=())

    @property
    def identity(self) -> tuple[str, ...]:
        """The key that identifies the series among those of its query."""
        return (self.metric_group.name, *self.key)

    @property
    def with_id(self) -> "Series":
        """The series with the id of its variation or step appended to the name, for names that are not unique."""
        labels = tuple(
            (name, value if name in _LABELS_WITHOUT_NAMES else f"{value} ({self.key[0]})")
            for name, value in self.labels
        )
        return replace(self, labels=labels)

    @property
    def has_counter(self) -> bool:
        """Whether the series has a counter.

        Counts of unique users cannot be summed, and a series with an empty id cannot be identified in later responses.
        """
        is_unique = dict(self.labels).get("stat", "").startswith("unique_")
        return self.metric_group.is_additive and "" not in self.key and not is_unique
