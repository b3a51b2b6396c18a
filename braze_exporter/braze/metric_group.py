"""A group of metrics that share a noun in their names."""

import functools
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, eq=False)
class MetricGroup:
    """A group of metrics that share a plural noun in their names, for example `custom_events`.

    `help_prefix` is the start of the help of its metrics. `labels` are the labels of a query besides `workspace`;
    `series_labels` are the labels that each series of a response adds. In alerts and overviews, the sum of the series
    whose `stat` is in `primary_stats` represents the group. Only groups with `is_additive` have a counter: counts of
    active users cannot be summed over days, since a user can be active on several days. `can_be_negative` is true if
    values can be negative.

    All series of a group are parts of the same sort, and have the same unit of measure, so that they can be summed.
    """

    name: str
    help_prefix: str
    labels: tuple[str, ...] = ()
    series_labels: tuple[str, ...] = ()
    primary_stats: tuple[str, ...] = ()
    is_additive: bool = True
    can_be_negative: bool = False


@functools.cache
def partial_group(metric_group: MetricGroup, labels: tuple[str, ...]) -> MetricGroup:
    """Return the metric group of the parts of `metric_group` for the `labels` of an app, a product or a segment."""
    words = [label.removeprefix("braze_") for label in labels]
    return replace(
        metric_group,
        name=f"{metric_group.name}_by_{'_'.join(words)}",
        help_prefix=f"{metric_group.help_prefix} by {' and '.join(words)}",
        labels=(*metric_group.labels, *labels),
        # Braze does not document whether values of a segment count occurrences or users.
        is_additive=metric_group.is_additive and "segment" not in labels,
    )
