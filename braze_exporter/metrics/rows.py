"""The exported series of one query: the lines of its gauges, cached until something changes."""

import functools
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from braze_exporter.braze.buckets import bucket_end, bucket_number, newest_settled_start
from braze_exporter.braze.kinds import MetricGroup, SeriesKind, Unit
from braze_exporter.braze.query import Query
from braze_exporter.braze.series import Point, Series, bucket_starts
from braze_exporter.metrics.baseline import Baseline
from braze_exporter.metrics.exposition import format_labels, format_sample
from braze_exporter.metrics.families import GAUGE_HELP, QUERY_FAMILIES, Family, build_gauge
from braze_exporter.metrics.saved_state import RestoredSeries
from braze_exporter.scheduler.query_state import QueryState, Response


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

    `series` has no points. `newest_start` is the start of its newest bucket that any response had, or None.
    """

    series: Series
    labels: str
    baseline: Baseline | None = None
    window: BucketWindow = _EMPTY_WINDOW
    values: GaugeValues = _NO_VALUES
    newest_start: int | None = None


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
    """The rendered lines of one query, one string for each family in `families`. Not thread-safe.

    `latest_start` and `settled_start` are the last known starts of these buckets, which all series share. None if that
    bucket has no number.
    """

    def __init__(
        self,
        query_state: QueryState,
        previous: "QueryRow | None" = None,
        restored: RestoredSeries | None = None,
    ) -> None:
        """Render `query_state`, and keep the series, bucket starts and baselines of the row `previous`.

        `restored` has these if the query was restored from the state file.
        """
        query = query_state.query
        self.query_state = query_state
        self.query = query
        self.families = (
            *QUERY_FAMILIES,
            *(
                family
                for metric_group in query.metric_groups
                for family in _gauge_families(query.kind, metric_group, query.unit)
            ),
        )
        self.series: dict[tuple[str, ...], SeriesRow] = {}
        self.latest_start: int | None = previous.latest_start if previous is not None else None
        self.settled_start: int | None = previous.settled_start if previous is not None else None
        self.lines: tuple[str, ...] = ()
        self.response: Response | None = None
        self.is_stale: bool = previous is not None and previous.is_stale
        self._labels = format_labels(query.query_labels)
        for metric_group in query.metric_groups:
            if not metric_group.series_labels:
                self._series_row(Series(metric_group))
        for previous_row in previous.series.values() if previous is not None else ():
            if not query.selects(previous_row.series.labels):
                continue
            series_row = self._series_row(previous_row.series)
            series_row.newest_start = previous_row.newest_start
            baseline = previous_row.baseline
            if baseline is not None and baseline.query.baseline_weeks == query.baseline_weeks:
                baseline.query = query
                series_row.baseline = baseline
        if restored is not None:
            self._restore(restored)
        self.render()

    def _restore(self, restored: RestoredSeries) -> None:
        self.latest_start, self.settled_start = restored.starts
        for head, newest_start in restored.heads:
            if self.query.selects(head.labels):
                series_row = self._series_row(head)
                series_row.newest_start = newest_start
                if head.identity in restored.baselines and self.query.baseline_weeks:
                    series_row.baseline = Baseline(self.query)
                    series_row.baseline.restore(restored.baselines[head.identity])

    @property
    def heads(self) -> tuple[tuple[Series, int | None], ...]:
        """Each series without its points, and the start of its newest bucket."""
        return tuple((series_row.series, series_row.newest_start) for series_row in self.series.values())

    def add_to_baselines(self, response: Response, *, is_history: bool) -> set[int]:
        """Add the settled points of a response to the baselines, and return the periods that have changed.

        `is_history` is true for a response with older buckets only. In any other response the newest bucket is skipped,
        since it has not settled, even if the clocks differ.
        """
        query = self.query_state.query
        changed: set[int] = set()
        for series in response.series if query.baseline_weeks else ():
            if not series.points or not query.selects(series.labels):
                continue
            series_row = self._series_row(series)
            if series_row.baseline is None:
                series_row.baseline = Baseline(query)
            points = series.points if is_history else series.points[:-1]
            changed |= series_row.baseline.add(points, response.sent_at)
        return changed

    def baseline_values(self, periods: Collection[int]) -> dict[int, dict[tuple[str, ...], dict[int, float]]]:
        """Return the values of the baselines in each of `periods`, by identity of the series."""
        result: dict[int, dict[tuple[str, ...], dict[int, float]]] = {period: {} for period in periods}
        for identity, series_row in self.series.items():
            if series_row.baseline is not None:
                for period, values in series_row.baseline.values_by_period(periods).items():
                    if values:
                        result[period][identity] = values
        return result

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
        lines = [
            _format_lines(family.name, [(self._labels, value)])
            for family, value in zip(
                QUERY_FAMILIES,
                (
                    (0.0 if query_state.error else 1.0) if query_state.has_result else None,
                    response.received_at if response is not None else 0.0,
                    self.latest_start,
                    self.settled_start,
                    query.max_age_seconds,
                ),
                strict=True,
            )
        ]
        for metric_group in query.metric_groups:
            series_rows = [
                series_row for series_row in self.series.values() if series_row.series.metric_group is metric_group
            ]
            lines += (
                _format_lines(family.name, [(series_row.labels, series_row.values[at]) for series_row in series_rows])
                for at, family in enumerate(_gauge_families(query.kind, metric_group, query.unit))
            )
        self.lines = tuple(lines)

    def _apply_response(self, response: Response | None) -> None:
        """Set the bucket windows and gauge values from a response, and drop those of the previous one.

        All series show the same buckets, because dashboards and alerts add up their values. A series without a value in
        such a bucket is absent, for example a removed variation.
        """
        self.response = response
        for series_row in self.series.values():
            series_row.window, series_row.values = _EMPTY_WINDOW, _NO_VALUES
        if response is None:
            return
        query = self.query_state.query
        known = bucket_starts(response.series)
        newest_start = known[-1] if known else None
        settled_start = newest_settled_start(known, query, response.sent_at)
        for series in response.series:
            if series.key and not series.points and series.identity not in self.series:
                continue  # it has had only nulls so far, so it may not be a statistic
            if not query.selects(series.labels):
                continue
            series_row = self._series_row(series)
            series_row.window = _bucket_window(series.points, query, response.sent_at, settled_start)
            if not self.is_stale:
                series_row.values = _gauge_values(series_row, newest_start, settled_start)
        numbered = {start for series in response.series for start, _ in series.points}
        if newest_start is not None:
            self.latest_start = newest_start if newest_start in numbered else None
        if settled_start is not None:
            self.settled_start = settled_start if settled_start in numbered else None

    def views(self, total: Callable[[Series], float | None]) -> Iterator[SeriesView]:
        """Yield a view of each series with the values that the lines show.

        `total` returns the exported counter value of a series, or None.
        """
        for series_row in self.series.values():
            yield SeriesView(
                self.query_state,
                series_row.series,
                self.response,
                series_row.window,
                series_row.values,
                (self.latest_start, self.settled_start),
                total(series_row.series),
            )

    def remove_unreachable_series(self, oldest: int) -> None:
        """Remove the series without a bucket from number `oldest` on (see `bucket_number`).

        A series that is the only one of its metric group stays, since it belongs to the query.
        """
        query = self.query
        for identity, series_row in [*self.series.items()]:
            start = series_row.newest_start
            if series_row.series.key and start is not None and bucket_number(start, query.unit, query.zone) < oldest:
                del self.series[identity]

    def _series_row(self, series: Series) -> SeriesRow:
        """Return the row of the series, with new labels if they have changed, and with its newest bucket."""
        series_row = self.series.get(series.identity)
        if series_row is None or series_row.series.labels != series.labels:
            without_buckets = Series(series.metric_group, series.labels, series.key)
            labels = format_labels((*self.query_state.query.labels, *series.labels))
            series_row = (
                replace(series_row, series=without_buckets, labels=labels)
                if series_row is not None
                else SeriesRow(without_buckets, labels)
            )
            self.series[series.identity] = series_row
        start = series.newest_start
        if start is not None:
            series_row.newest_start = max(start, series_row.newest_start or start)
        return series_row


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


def _gauge_values(series_row: SeriesRow, newest_start: int | None, settled_start: int | None) -> GaugeValues:
    """Return the latest, settled and baseline values of a series, from the buckets with these starts.

    A value is None if the series has no number for its bucket.
    """
    points, settled_count, _ = series_row.window
    latest = points[-1].value if points and points[-1].start == newest_start else None
    if not settled_count or points[settled_count - 1].start != settled_start:
        return GaugeValues(latest)
    baseline = series_row.baseline.median_for(settled_start) if series_row.baseline is not None else None
    return GaugeValues(latest, points[settled_count - 1].value, baseline)
