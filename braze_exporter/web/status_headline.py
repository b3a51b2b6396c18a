"""Selects the series that represents a query on the status page, or computes it as a sum."""

import math
from array import array
from collections.abc import Sequence
from dataclasses import replace

from braze_exporter.braze.series import Series, SeriesHead, only_head
from braze_exporter.metrics.series_view import SeriesView


def representative_view(views: Sequence[SeriesView]) -> SeriesView:
    """Return the view that represents a query on the status page.

    It is of the first metric group. If that has several series, it is the sum of those of its `primary_stats`.
    """
    metric_group = views[0].query_state.query.metric_group
    views_of_group = [view for view in views if view.series.head.metric_group is metric_group]
    chosen = [
        view for view in views_of_group if not metric_group.primary_stats or _stat(view) in metric_group.primary_stats
    ]
    if len(chosen) == 1 and not metric_group.series_labels:
        return chosen[0]
    if not chosen:
        return replace(
            views[0],
            series=Series(only_head(metric_group)),
            settled_count=0,
            ended_count=0,
            latest=None,
            settled=None,
            baseline=None,
            bucket_starts=(None, None),
            total=None,
        )
    longest = max(chosen, key=lambda view: sum(map(math.isfinite, view.series.values)))
    columns = [view.series.values for view in chosen if view.series.values]
    values = [
        sum(filter(math.isfinite, of_bucket)) if math.isfinite(value) else value
        for value, *of_bucket in zip(longest.series.values, *columns, strict=True)
    ]
    label = ("stat", " + ".join(dict.fromkeys(_stat(view) for view in chosen)))
    series = Series(SeriesHead(metric_group, (label,), (metric_group.name,)), longest.series.starts, array("d", values))
    points = series.points
    return replace(
        longest,
        series=series,
        # A value that is absent in `longest` is absent.
        latest=points[-1].value if longest.latest is not None else None,
        settled=points[longest.settled_count - 1].value if longest.settled is not None else None,
        baseline=None,  # medians cannot be added up
        total=_sum_totals([view.total for view in chosen]),
    )


def _stat(view: SeriesView) -> str:
    return dict(view.series.head.labels).get("stat", "")


def _sum_totals(totals: Sequence[float | None]) -> float | None:
    known = [total for total in totals if total is not None]
    return sum(known) if known else None
