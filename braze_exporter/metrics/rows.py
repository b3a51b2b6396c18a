"""What is shown of one query: the lines of its gauges, written when something of it changes and kept until then."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

from braze_exporter.braze.buckets import bucket_end, bucket_starts, newest_settled
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
    """Return the gauge families of a noun, in the order of `GAUGE_HELP`."""
    return tuple(build_gauge(kind, metric_group, unit, measure) for measure in GAUGE_HELP)


def expiry_time(query_state: QueryState) -> float:
    """Return when the answer that is held becomes too old to be shown, on the monotonic clock."""
    response = query_state.response
    return float("inf") if response is None else response.received_monotonic + query_state.query.max_age


class BucketWindow(NamedTuple):
    """The points of a series, oldest first, and how many had settled, and had ended, when they were asked for."""

    points: tuple[Point, ...] = ()
    settled: int = 0
    ended: int = 0


class GaugeValues(NamedTuple):
    """The values of the gauges of a series; None is what is not shown."""

    latest: float | None = None
    settled: float | None = None
    baseline: float | None = None


_EMPTY_WINDOW = BucketWindow()
_NO_VALUES = GaugeValues()


@dataclass(slots=True)
class SeriesRow:
    """One series of a query, without its points: its finished labels, what is usual, and what its gauges show.

    The starts of the latest and the settled bucket are the last known ones; they outlive the answer they came from.
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
    """One series of a query, without its points, as the gauges show it, with what is held and where it comes from.

    `starts` are those of the latest and the settled bucket. `total` is what the counter shows, None if the series feeds
    none.
    """

    query_state: QueryState
    series: Series
    response: Response | None
    window: BucketWindow
    values: GaugeValues
    starts: tuple[int | None, int | None]
    total: float | None


class QueryRow:
    """The lines of one query, for each of its families. Not thread-safe."""

    def __init__(self, query_state: QueryState, before: "QueryRow | None" = None) -> None:
        """Begin with what is shown of the `query_state` as it is, and with what the row `before` had learned of it."""
        query = query_state.query
        self.query_state = query_state
        self.query = query
        self.gauges = tuple(
            family
            for metric_group in query.metric_groups
            for family in _gauge_families(query.kind, metric_group, query.unit)
        )
        self.series: dict[tuple[str, ...], SeriesRow] = {}
        # Which series has, or had, which labels.
        self.owners: dict[tuple[str, SeriesLabels], tuple[str, ...]] = before.owners if before is not None else {}
        self.lines: tuple[str, ...] = ()
        self.response: Response | None = None
        self.is_stale: bool = before is not None and before.is_stale
        self._labels = format_labels(query.labels)
        for metric_group in query.metric_groups:
            if not metric_group.series_labels:
                self._series_row(Series(metric_group, ()))
        for series_row in before.series.values() if before is not None else ():
            own_row = self._series_row(series_row.series)
            own_row.latest_start, own_row.settled_start = series_row.latest_start, series_row.settled_start
            if series_row.baseline is not None and series_row.baseline.query.baseline_weeks == query.baseline_weeks:
                own_row.baseline = series_row.baseline
                own_row.baseline.query = query
        self.render()

    def learn(self, response: Response, *, is_history: bool) -> None:
        """Take in what an answer, of the query or of its history, says of what is usual.

        The newest bucket of an answer that runs up to now has not settled, whatever the clocks say.
        """
        for series in response.series if self.query_state.query.baseline_weeks else ():
            series_row = self._series_row(series)
            if series_row.baseline is None:
                series_row.baseline = Baseline(self.query_state.query)
            series_row.baseline.learn(series.points if is_history else series.points[:-1], response.sent_at)

    def update_age(self, now: float) -> None:
        """Hide or show the values, as the age of the answer at `now` wants it."""
        is_stale = now >= expiry_time(self.query_state)
        if is_stale != self.is_stale:
            self.is_stale = is_stale
            self.render()

    def render(self) -> None:
        """Write the lines, for each family those of all series."""
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
        """Judge the series of an answer, and forget those of the one before.

        The series of a noun show values of one and the same bucket, for they are added up: what is gone, a variation or
        a step, would go on to show its last day for as long as answers reach back to it.
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
            newest, settled_point = known[-1] if known else None, newest_settled(known, query, response.sent_at)
            for series in series_of_group:
                if series.key and not series.points and series.identity not in self.series:
                    continue  # only nulls so far: whether it is a statistic is not known
                series_row = self._series_row(series)
                series_row.window = _bucket_window(series.points, query, response.sent_at, settled_point)
                if not self.is_stale:
                    series_row.values = _gauge_values(series_row, series.holes, newest, settled_point)

    def views(self, total: Callable[[Series], float | None]) -> Iterator[SeriesView]:
        """Yield what the lines show, series by series."""
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
        """Return what is shown of the series, which may have got other labels.

        If another one has ever had its name, it has its id behind that: else a counter would seem to jump to that of
        the newcomer.
        """
        labelled = series.without_buckets
        while (
            self.owners.setdefault((labelled.metric_group.name, labelled.labels), labelled.identity)
            != labelled.identity
        ):
            labelled = labelled.with_id
        series_row = self.series.get(labelled.identity)
        if series_row is None or series_row.series.labels != labelled.labels:
            labels = format_labels((*self.query_state.query.labels, *labelled.labels))
            series_row = (
                replace(series_row, series=labelled, labels=labels)
                if series_row is not None
                else SeriesRow(labelled, labels)
            )
            self.series[labelled.identity] = series_row
        return series_row


def _values_in_order(series_row: SeriesRow) -> tuple[float | None, ...]:
    """Return the values of the gauges that each series has, in the order of `GAUGE_HELP`."""
    latest, settled, baseline = series_row.values
    return latest, series_row.latest_start, settled, series_row.settled_start, baseline


def _format_lines(name: str, values: Iterable[tuple[str, float | None]]) -> str:
    return "".join([format_sample(name, labels, value) for labels, value in values if value is not None])


def _bucket_window(points: tuple[Point, ...], query: Query, sent_at: float, settled_point: int | None) -> BucketWindow:
    """Return the points of an answer that was asked for at `sent_at`, and how they stand.

    `settled_point` is the start of the newest settled bucket, None if none has settled.
    """
    settled = ended = len(points)
    while settled and (settled_point is None or points[settled - 1].start > settled_point):
        settled -= 1
    while ended and bucket_end(points[ended - 1].start, query.unit, query.zone) > sent_at:
        ended -= 1
    return BucketWindow(points, settled, ended)


def _gauge_values(
    series_row: SeriesRow, holes: Sequence[int], newest: int | None, settled_point: int | None
) -> GaugeValues:
    """Return the latest value, the settled one and what is usual for it, and note where their buckets start.

    Values are of the bucket that starts at `newest`, and of that at `settled_point`, or there are none. A hole has no
    start.
    """
    points, settled, _ = series_row.window
    latest = None
    if newest in holes:
        series_row.latest_start = None
    elif points:
        series_row.latest_start = points[-1].start
        latest = points[-1].value if points[-1].start == newest else None
    if settled_point in holes:
        series_row.settled_start = None
        return GaugeValues(latest)
    if not settled:
        return GaugeValues(latest)
    value, series_row.settled_start = points[settled - 1].value, points[settled - 1].start
    if settled_point != series_row.settled_start:
        return GaugeValues(latest)
    return GaugeValues(
        latest, value, series_row.baseline.median_for(settled_point) if series_row.baseline is not None else None
    )
