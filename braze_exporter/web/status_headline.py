"""Selects the series that represents a query on the status page, or computes it as a sum."""

from collections.abc import Sequence
from dataclasses import replace

from braze_exporter.braze.series import Point, Series
from braze_exporter.metrics.rows import BucketWindow, GaugeValues, SeriesView


def representative_view(views: Sequence[SeriesView]) -> SeriesView:
    """Return the view that represents a query on the status page.

    It is of the first metric group. If that has several series, it is the sum of those of its `primary_stats`.
    """
    metric_group = views[0].query_state.query.metric_group
    views_of_group = [view for view in views if view.series.metric_group is metric_group]
    chosen = [
        view for view in views_of_group if not metric_group.primary_stats or _stat(view) in metric_group.primary_stats
    ]
    if len(chosen) == 1 and not metric_group.series_labels:
        return chosen[0]
    if not chosen:
        return replace(
            views[0],
            series=Series(metric_group),
            window=BucketWindow(),
            values=GaugeValues(),
            bucket_starts=(None, None),
            total=None,
        )
    longest = max(chosen, key=lambda view: len(view.window.points))
    sums: dict[int, float] = {}
    for view in chosen:
        for start, value in view.window.points:
            sums[start] = sums.get(start, 0.0) + value
    window = longest.window._replace(points=tuple(Point(start, sums[start]) for start, _ in longest.window.points))
    return replace(
        longest,
        series=Series(metric_group, (("stat", " + ".join(dict.fromkeys(_stat(view) for view in chosen))),)),
        window=window,
        values=_sum_values(window, longest.values),
        total=_sum_totals([view.total for view in chosen]),
    )


def _stat(view: SeriesView) -> str:
    return dict(view.series.labels).get("stat", "")


def _sum_values(window: BucketWindow, values: GaugeValues) -> GaugeValues:
    """Return the latest and settled values of the summed points. A value that is absent in `values` is absent.

    There is no baseline, since medians cannot be added up.
    """
    latest = window.points[-1].value if values.latest is not None else None
    return GaugeValues(latest, window.points[window.settled_count - 1].value if values.settled is not None else None)


def _sum_totals(totals: Sequence[float | None]) -> float | None:
    known = [total for total in totals if total is not None]
    return sum(known) if known else None
