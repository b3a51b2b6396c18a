"""Series of counts by bucket, as Braze reports them."""

from dataclasses import dataclass, replace
from typing import NamedTuple

from braze_exporter.braze.errors import Reason
from braze_exporter.braze.kinds import MetricGroup

# Of the labels that a series adds, those that are not the name of its part.
_LABELS_WITHOUT_NAMES = ("channel", "stat")


class Point(NamedTuple):
    """A count and the bucket it belongs to, which starts at `start` (seconds since the epoch, UTC)."""

    start: int
    value: float


@dataclass(frozen=True, slots=True)
class Series:
    """The points of one series of an answer, oldest first, one for each bucket, and the noun that they are of.

    `holes` are the starts of the buckets that the response has without a number, oldest first. `labels` are what this
    series adds to the labels of its query, and `key` what tells it apart in Braze's own ids; both are empty where the
    noun has only one. An answer can hold several series.
    """

    metric_group: MetricGroup
    points: tuple[Point, ...]
    labels: tuple[tuple[str, str], ...] = ()
    key: tuple[str, ...] = ()
    holes: tuple[int, ...] = ()

    @property
    def without_buckets(self) -> "Series":
        """The series itself: its noun, its labels and its key."""
        return replace(self, points=(), holes=())

    @property
    def identity(self) -> tuple[str, ...]:
        """What tells the series apart from others of the query."""
        return (self.metric_group.name, *self.key)

    @property
    def with_id(self) -> "Series":
        """The series with the id of its part behind the name of that, for one that another part is called by too."""
        labels = tuple(
            (name, value if name in _LABELS_WITHOUT_NAMES else f"{value} ({self.key[0]})")
            for name, value in self.labels
        )
        return replace(self, labels=labels)

    @property
    def has_counter(self) -> bool:
        """Whether its points add up to a counter: those of unique users do not, nor what has no id to be known by."""
        is_unique = dict(self.labels).get("stat", "").startswith("unique_")
        return self.metric_group.is_additive and "" not in self.key and not is_unique


# Failures of Braze, or of the way to it: requests that are repeated soon make them worse.
TROUBLES = {
    Reason.SERVER_ERROR,
    Reason.TIMEOUT,
    Reason.CONNECTION,
    Reason.DNS,
    Reason.TLS,
    Reason.TRUNCATED,
    Reason.QUEUED,
}
