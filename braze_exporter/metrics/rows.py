"""The exported series of one query: the lines of its gauges, cached until something changes."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

from braze_exporter.braze.buckets import bucket_end, bucket_starts, newest_settled_start
from braze_exporter.braze.kinds import MetricGroup, SeriesKind, Unit
from braze_exporter.braze.query import Query
from braze_exporter.braze.series import Point, Series
from braze_exporter.metrics.baseline import Baseline
from braze_exporter.metrics.exposition import format_labels, format_sample
from braze_exporter.metrics.families import GAUGE_HELP, Family, build_gauge
from braze_exporter.scheduler.query_state import QueryState, Response

SeriesLabels: TypeAlias = tuple[tuple[str, str], ...]


@functools.cache
def _gauge_families(kind: SeriesKind, metric_group: MetricGroup, unit: Unit) -> tuple[Family, ...]:
    """Return the gauge families of a metric group, in the order of `GAUGE_HELP`."""
    return tuple(build_gauge(kind, metric_group, unit, measure) for measure in GAUGE_HELP)


def expiry_time(query_state: QueryState) -> float:
    """Return when the last response becomes stale, in seconds of the monotonic clock, or infinity without one."""
    response = query_state.response
    return float("inf") if response is None else response.received_monotonic + query_state.query.max_age_seconds


class BucketWindow(NamedTuple):
    """The points of a series, oldest first.

    `settled_count` and `ended_count` are how many of them had settled and ended when the response was requested.
    """

    points: tuple[Point, ...] = ()
    settled_count: int = 0
    ended_count: int = 0


class GaugeValues(NamedTuple):
    """The values of the gauges of a series; None where a gauge is absent."""

    latest: float | None = None
    settled: float | None = None
    baseline: float | None = None


_EMPTY_WINDOW = BucketWindow()
_NO_VALUES = GaugeValues()


@dataclass(slots=True)
class SeriesRow:
    """One series of a query: its formatted labels, its baseline and the values of its gauges.

    `series` has no points. `latest_start` and `settled_start` are the last known starts of these buckets. They are kept
    if a later response does not contain the series.
    """

    series: Series
    labels: str
    baseline: Baseline | None = None
    window: BucketWindow = _EMPTY_WINDOW
    values: GaugeValues = _NO_VALUES
    latest_start: int | None = None
    settled_start: int | None = None


@dataclass(frozen=True, slots=True)
class SeriesView:
    """One series of a query with its exported values, its points and the last response of the query.

    `series` has no points; `window` has them. `bucket_starts` are the starts of the latest and the settled bucket.
    `total` is the exported value of the counter, or None if the series has no counter.
    """

    query_state: QueryState
    series: Series
    response: Response | None
    window: BucketWindow
    values: GaugeValues
    bucket_starts: tuple[int | None, int | None]
    total: float | None


class QueryRow:
    """The rendered lines of one query, one string for each family in `gauges`. Not thread-safe."""

    def __init__(self, query_state: QueryState, previous: "QueryRow | None" = None) -> None:
        """Render `query_state`, and keep the labels, bucket starts and baselines of the row `previous`."""
        query = query_state.query
        self.query_state = query_state
        self.query = query
        self.gauges = tuple(
            family
            for metric_group in query.metric_groups
            for family in _gauge_families(query.kind, metric_group, query.unit)
        )
        self.series: dict[tuple[str, ...], SeriesRow] = {}
        # The identity of the series that has or had these labels.
        self.identities_by_labels: dict[tuple[str, SeriesLabels], tuple[str, ...]] = (
            previous.identities_by_labels if previous is not None else {}
        )
        self.lines: tuple[str, ...] = ()
        self.response: Response | None = None
        self.is_stale: bool = previous is not None and previous.is_stale
        self._labels = format_labels(query.labels)
        for metric_group in query.metric_groups:
            if not metric_group.series_labels:
                self._series_row(Series(metric_group, ()))
        for previous_row in previous.series.values() if previous is not None else ():
            series_row = self._series_row(previous_row.series)
            series_row.latest_start, series_row.settled_start = previous_row.latest_start, previous_row.settled_start
            baseline = previous_row.baseline
            if baseline is not None and baseline.query.baseline_weeks == query.baseline_weeks:
                baseline.query = query
                series_row.baseline = baseline
        self.render()

    def add_to_baselines(self, response: Response, *, is_history: bool) -> None:
        """Add the settled points of a response to the baselines.

        `is_history` is true for a response with older buckets only. In any other response the newest bucket is skipped,
        since it has not settled, even if the clocks differ.
        """
        for series in response.series if self.query_state.query.baseline_weeks else ():
            series_row = self._series_row(series)
            if series_row.baseline is None:
                series_row.baseline = Baseline(self.query_state.query)
            series_row.baseline.add(series.points if is_history else series.points[:-1], response.sent_at)

    def update_age(self, now: float) -> None:
        """Render again if the values have become stale, or are no longer stale, at `now` on the monotonic clock."""
        is_stale = now >= expiry_time(self.query_state)
        if is_stale != self.is_stale:
            self.is_stale = is_stale
            self.render()

    def render(self) -> None:
        """Render the lines of all families from the current query state."""
        query_state, query, response = self.query_state, self.query_state.query, self.query_state.response
        self._apply_response(response)
        up = (0.0 if query_state.error else 1.0) if query_state.has_result else None
        last_success = response.received_at if response is not None else 0.0
        lines: list[str] = []
        for metric_group in query.metric_groups:
            series_rows = [
                series_row for series_row in self.series.values() if series_row.series.metric_group is metric_group
            ]
            *names, up_name, last_success_name = [
                family.name for family in _gauge_families(query.kind, metric_group, query.unit)
            ]
            lines += (
                _format_lines(
                    name, [(series_row.labels, _values_in_order(series_row)[at]) for series_row in series_rows]
                )
                for at, name in enumerate(names)
            )
            lines += (
                _format_lines(up_name, [(self._labels, up)]),
                _format_lines(last_success_name, [(self._labels, last_success)]),
            )
        self.lines = tuple(lines)

    def _apply_response(self, response: Response | None) -> None:
        """Set the bucket windows and gauge values from a response, and drop those of the previous one.

        All series of a metric group show the same bucket, because dashboards and alerts add up their values. A removed
        variation or step has no value in that bucket, so it is absent.
        """
        self.response = response
        for series_row in self.series.values():
            series_row.window, series_row.values = _EMPTY_WINDOW, _NO_VALUES
        if response is None:
            return
        query = self.query_state.query
        for metric_group in query.metric_groups:
            series_of_group = [series for series in response.series if series.metric_group is metric_group]
            known = bucket_starts(series_of_group)
            newest_start, settled_start = (
                known[-1] if known else None,
                newest_settled_start(known, query, response.sent_at),
            )
            for series in series_of_group:
                if series.key and not series.points and series.identity not in self.series:
                    continue  # it has had only nulls so far, so it may not be a statistic
                series_row = self._series_row(series)
                series_row.window = _bucket_window(series.points, query, response.sent_at, settled_start)
                if not self.is_stale:
                    series_row.values = _gauge_values(series_row, series.holes, newest_start, settled_start)

    def views(self, total: Callable[[Series], float | None]) -> Iterator[SeriesView]:
        """Yield a view of each series with the values that the lines show.

        `total` returns the exported counter value of a series, or None.
        """
        for series_row in self.series.values():
            starts = series_row.latest_start, series_row.settled_start
            yield SeriesView(
                self.query_state,
                series_row.series,
                self.response,
                series_row.window,
                series_row.values,
                starts,
                total(series_row.series),
            )

    def _series_row(self, series: Series) -> SeriesRow:
        """Return the row of the series, with new labels if they have changed.

        If another series has ever had the same labels, the id is appended to the name. Otherwise a counter would seem
        to jump to the value of the new series.
        """
        labeled = series.without_buckets
        while (
            self.identities_by_labels.setdefault((labeled.metric_group.name, labeled.labels), labeled.identity)
            != labeled.identity
        ):
            labeled = labeled.with_id
        series_row = self.series.get(labeled.identity)
        if series_row is None or series_row.series.labels != labeled.labels:
            labels = format_labels((*self.query_state.query.labels, *labeled.labels))
            series_row = (
                replace(series_row, series=labeled, labels=labels)
                if series_row is not None
                else SeriesRow(labeled, labels)
            )
            self.series[labeled.identity] = series_row
        return series_row


def _values_in_order(series_row: SeriesRow) -> tuple[float | None, ...]:
    """Return the values of the gauges of a series, in the order of `GAUGE_HELP` without `QUERY_GAUGES`."""
    latest, settled, baseline = series_row.values
    return latest, series_row.latest_start, settled, series_row.settled_start, baseline


def _format_lines(name: str, values: Iterable[tuple[str, float | None]]) -> str:
    return "".join([format_sample(name, labels, value) for labels, value in values if value is not None])


def _bucket_window(points: tuple[Point, ...], query: Query, sent_at: float, settled_start: int | None) -> BucketWindow:
    """Return the points of a response that was requested at `sent_at`, with the numbers of settled and ended buckets.

    `settled_start` is the start of the newest settled bucket, or None if none has settled.
    """
    settled = ended = len(points)
    while settled and (settled_start is None or points[settled - 1].start > settled_start):
        settled -= 1
    while ended and bucket_end(points[ended - 1].start, query.unit, query.zone) > sent_at:
        ended -= 1
    return BucketWindow(points, settled, ended)


def _gauge_values(
    series_row: SeriesRow, holes: Sequence[int], newest_start: int | None, settled_start: int | None
) -> GaugeValues:
    """Return the latest, settled and baseline values, and store the starts of their buckets in `series_row`.

    The latest value must be of the bucket at `newest_start`, and the settled value of the one at `settled_start`. If
    that bucket is a hole, the stored start becomes None.
    """
    points, settled, _ = series_row.window
    latest = None
    if newest_start in holes:
        series_row.latest_start = None
    elif points:
        series_row.latest_start = points[-1].start
        latest = points[-1].value if points[-1].start == newest_start else None
    if settled_start in holes:
        series_row.settled_start = None
        return GaugeValues(latest)
    if not settled:
        return GaugeValues(latest)
    value, series_row.settled_start = points[settled - 1].value, points[settled - 1].start
    if settled_start != series_row.settled_start:
        return GaugeValues(latest)
    return GaugeValues(
        latest, value, series_row.baseline.median_for(settled_start) if series_row.baseline is not None else None
    )
