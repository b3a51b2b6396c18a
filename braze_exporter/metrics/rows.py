"""The exported series of one query: the lines of its gauges, cached until something changes."""

import copy
import functools
import math
import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from braze_exporter.braze.buckets import bucket_number, newest_settled_start
from braze_exporter.braze.calls import Response
from braze_exporter.braze.errors import BrazeError
from braze_exporter.braze.kinds import SeriesKind, Unit
from braze_exporter.braze.metric_group import MetricGroup
from braze_exporter.braze.series import ABSENT, Series, SeriesHead, bucket_starts, only_head
from braze_exporter.metrics.baseline import BaselineHistory
from braze_exporter.metrics.counters import Counters
from braze_exporter.metrics.exposition import format_labels, format_samples
from braze_exporter.metrics.families import GAUGE_HELP, QUERY_FAMILIES, Family, build_gauge
from braze_exporter.metrics.series_view import SeriesView
from braze_exporter.scheduler.query_rows import BaselineValues, SavedHead
from braze_exporter.scheduler.query_state import QueryState
from braze_exporter.scheduler.saved_queries import RestoredSeries
from braze_exporter.state.counter_state import SeriesKey


@functools.cache
def _gauge_families(kind: SeriesKind, metric_group: MetricGroup, unit: Unit) -> tuple[Family, ...]:
    """Return the gauge families of a metric group, in the order of `GAUGE_HELP`."""
    return tuple(build_gauge(kind, metric_group, unit, measure) for measure in GAUGE_HELP)


def expiry_time(query_state: QueryState) -> float:
    """Return when the last response becomes stale, in seconds of the monotonic clock, or infinity without one."""
    response = query_state.response
    return float("inf") if response is None else response.received_monotonic + query_state.query.max_age_seconds


@dataclass(slots=True)
class SeriesRow:
    """One series of a query, with its formatted labels and its baseline.

    `series` is that of the last response, without buckets if the response lacks it. `newest_start` is the start of its
    newest bucket that any response had, or None.
    """

    series: Series
    labels: str
    baseline: BaselineHistory | None = None
    newest_start: int | None = None

    def record_newest(self, start: int | None) -> None:
        """Record the start of the newest bucket in a response, or None if the response has no bucket of the series."""
        if start is not None and (self.newest_start is None or start > self.newest_start):
            self.newest_start = start


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
        self._rows_by_group: dict[MetricGroup, list[SeriesRow]] = {group: [] for group in query.metric_groups}
        # The rows of those series of the last response that have one.
        self._listed: list[SeriesRow] = []
        self.latest_start: int | None = previous.latest_start if previous is not None else None
        self.settled_start: int | None = previous.settled_start if previous is not None else None
        self.lines: tuple[bytes, ...] = ()
        self._gauge_lines: tuple[bytes, ...] = ()
        # What the lines of the gauges show: the series of the response, the start of the settled bucket, and whether
        # the values are stale. None if the lines must be rendered again.
        self._shown: tuple[tuple[Series, ...], int | None, bool] | None = None
        self._circuit_error: BrazeError | None = None
        self.oldest_reachable: int | None = None
        self.is_stale: bool = previous is not None and previous.is_stale
        self._labels = query.labels
        self._query_labels = format_labels(query.query_labels)
        self._counter_key = query.counter_key
        self._counter_lines: dict[MetricGroup, bytes] = {}
        self._counter_revision = -1  # of the totals in these lines
        for metric_group in query.metric_groups:
            if not metric_group.series_labels:
                self._find_or_add(only_head(metric_group))
        for previous_row in previous.series.values() if previous is not None else ():
            if not query.selects(previous_row.series.head.labels):
                continue
            series_row = self._find_or_add(previous_row.series.head)
            series_row.newest_start = previous_row.newest_start
            baseline = previous_row.baseline
            if baseline is not None and query.baseline_weeks:
                baseline.query = query
                series_row.baseline = baseline
        if restored is not None:
            self._restore(restored)
        self.render()

    def _restore(self, restored: RestoredSeries) -> None:
        self.latest_start, self.settled_start = restored.starts
        for head, newest_start in restored.heads:
            if self.query.selects(head.labels):
                series_row = self._find_or_add(head)
                series_row.newest_start = newest_start
                if head.key in restored.baselines and self.query.baseline_weeks:
                    series_row.baseline = BaselineHistory(self.query)
                    series_row.baseline.restore(*restored.baselines[head.key])

    @property
    def heads(self) -> tuple[SavedHead, ...]:
        """Each series, and the start of its newest bucket."""
        return tuple([(series_row.series.head, series_row.newest_start) for series_row in self.series.values()])

    def add_to_baselines(self, response: Response, *, is_history: bool) -> set[int]:
        """Add the settled points of a response to the baselines, and return the periods that have changed.

        `is_history` is true for a response with older buckets only. In any other response the newest bucket is skipped,
        since it has not settled, even if the clocks differ.
        """
        query = self.query_state.query
        changed: set[int] = set()
        for series in response.series if query.baseline_weeks else ():
            if not series.points or not query.selects(series.head.labels):
                continue
            series_row = self._find_or_add(series.head)
            series_row.record_newest(series.newest_start)
            if series_row.baseline is None:
                series_row.baseline = BaselineHistory(query)
            points = [point for point in series.points if is_history or point.start < series.starts[-1]]
            changed |= series_row.baseline.add(points, response.sent_at)
        if changed:
            self._shown = None
        return changed

    def baseline_values(self, periods: Iterable[int]) -> dict[int, BaselineValues]:
        """Return the values of the baselines in each of `periods`."""
        baselines = {key: row.baseline for key, row in self.series.items() if row.baseline is not None}
        values = {
            period: {key: baseline.values_of_period(period) for key, baseline in baselines.items()}
            for period in periods
        }
        return {period: {key: columns for key, columns in of.items() if columns[0]} for period, of in values.items()}

    def update(self, now: float) -> None:
        """Render again if the values have become stale or fresh at `now` (monotonic), or if the circuit has changed."""
        is_stale = now >= expiry_time(self.query_state)
        if is_stale != self.is_stale or self._circuit_error is not self.query_state.circuit_error:
            self.is_stale = is_stale
            self.render()

    def render(self) -> None:
        """Render the lines of all families from the current query state, those of gauges only if they have changed."""
        query_state, response = self.query_state, self.query_state.response
        self._circuit_error = query_state.circuit_error
        series_list = response.series if response is not None else ()
        shown = (series_list, self._newest_settled_start(), self.is_stale)
        if self._shown is None or self._shown[0] is not series_list or self._shown != shown:
            self._shown = shown
            self._set_series(series_list)
            self._gauge_lines = tuple(self._render_gauges())
            self._counter_lines.clear()
        values = (
            (0.0 if query_state.error else 1.0) if query_state.has_result else None,
            response.received_at if response is not None else 0.0,
            self.latest_start,
            self.settled_start,
            self.query.max_age_seconds,
        )
        query_lines = (
            _format_lines(family, [(self._query_labels, value)])
            for family, value in zip(QUERY_FAMILIES, values, strict=True)
        )
        self.lines = (*query_lines, *self._gauge_lines)

    def _newest_settled_start(self) -> int | None:
        response = self.query_state.response
        if response is None:
            return None
        return newest_settled_start(bucket_starts(response.series), self.query_state.query, response.sent_at)

    def _set_series(self, series_list: tuple[Series, ...]) -> None:
        """Set the series of the rows from a response, and the starts of the latest and the settled bucket."""
        selected = [series for series in series_list if self.query.selects(series.head.labels)]
        heads = [series.head for series in selected]
        if len(heads) != len(self._listed) or any(map(operator.is_not, heads, self._listed_heads)):
            selected = [series for series in selected if self._has_row(series)]
            self._list_rows([series.head for series in selected])
        starts, settled = bucket_starts(series_list), self._settled_index
        for series_row, series in zip(self._listed, selected, strict=True):
            series_row.series = series
            series_row.record_newest(starts[-1] if starts and series.values[-1] != ABSENT else series.newest_start)
        if starts:
            self.latest_start = starts[-1] if _has_number(series_list, -1) else None
        if settled is not None:
            self.settled_start = starts[settled] if _has_number(series_list, settled) else None

    @property
    def _listed_heads(self) -> Iterator[SeriesHead]:
        return (series_row.series.head for series_row in self._listed)

    def _has_row(self, series: Series) -> bool:
        """Return whether a series has a row or gets one. One that has had only nulls may not be a statistic."""
        return series.head.is_only or series.head.key in self.series or any(map(math.isfinite, series.values))

    def _list_rows(self, heads: Iterable[SeriesHead]) -> None:
        """Set the rows of the series of a response. The other rows have no series."""
        self._listed = [self._find_or_add(head) for head in heads]
        listed = {series_row.series.head.key for series_row in self._listed}
        for key, series_row in self.series.items():
            if key not in listed:
                series_row.series = Series(series_row.series.head)

    @property
    def _settled_index(self) -> int | None:
        """The index of the settled bucket in the series of the response, or None if it has none."""
        if self._shown is None or self._shown[1] is None:
            return None
        return bucket_starts(self._shown[0]).index(self._shown[1])

    def _render_gauges(self) -> Iterator[bytes]:
        """Yield the lines of each gauge family."""
        query, settled = self.query, self._settled_index
        for metric_group in query.metric_groups:
            rows = self._rows_by_group[metric_group]
            labels = [row.labels for row in rows]
            columns = zip(*[self._gauge_values(row, settled) for row in rows], strict=True)
            for family in _gauge_families(query.kind, metric_group, query.unit):
                yield _format_lines(family, zip(labels, next(columns, ()), strict=False))

    def series_key(self, series: Series) -> SeriesKey:
        """Return the key of the counter of a series."""
        return series.head.key if len(self.query.metric_groups) > 1 else ()

    def render_counter(self, family: Family, metric_group: MetricGroup, counters: Counters) -> bytes:
        """Return the lines of a counter family with the totals of the last save, rendered only if they have changed."""
        revision = counters.exported_revision(self._counter_key)
        if revision != self._counter_revision:
            self._counter_lines, self._counter_revision = {}, revision
        if metric_group not in self._counter_lines:
            rows = [row for row in self._rows_by_group[metric_group] if row.series.head.has_counter]
            totals = counters.expose(self._counter_key, [self.series_key(row.series) for row in rows])
            lines = _format_lines(family, zip([row.labels for row in rows], totals, strict=True))
            self._counter_lines[metric_group] = lines
        return self._counter_lines[metric_group]

    def _gauge_values(
        self, series_row: SeriesRow, settled_index: int | None
    ) -> tuple[float | None, float | None, float | None]:
        """Return the latest, settled and baseline values of a series, None where a gauge is absent.

        All series show the same buckets, because dashboards and alerts add up their values. A series without a value in
        such a bucket is absent, for example a removed variation.
        """
        series, baseline = series_row.series, series_row.baseline
        if self.is_stale or not series.values:
            return None, None, None
        latest = series.values[-1] if math.isfinite(series.values[-1]) else None
        if settled_index is None or not math.isfinite(series.values[settled_index]):
            return latest, None, None
        median = baseline.median_for(series.starts[settled_index]) if baseline is not None else None
        return latest, series.values[settled_index], median

    def views(self, total: Callable[[Series], float | None]) -> Iterator[SeriesView]:
        """Yield a view of each series with the values that the lines show.

        `total` returns the exported counter value of a series, or None.
        """
        query_state, settled = copy.copy(self.query_state), self._settled_index
        for series_row in self.series.values():
            yield SeriesView(
                query_state,
                series_row.series,
                query_state.response,
                settled + 1 if settled is not None else 0,
                *self._gauge_values(series_row, settled),
                total(series_row.series),
            )

    def remove_unreachable_series(self, oldest: int) -> None:
        """Remove the series without a bucket from number `oldest` on (see `bucket_number`).

        `oldest_reachable` is then `oldest`. A series that is the only one of its metric group stays, since it belongs
        to the query.
        """
        query, self.oldest_reachable = self.query, oldest
        for key, series_row in [*self.series.items()]:
            head, start = series_row.series.head, series_row.newest_start
            if not head.is_only and start is not None and bucket_number(start, query.unit, query.zone) < oldest:
                del self.series[key]
                self._rows_by_group[head.metric_group].remove(series_row)
                self._counter_lines.clear()

    def _find_or_add(self, head: SeriesHead) -> SeriesRow:
        """Return the row of a series, with its current labels."""
        series_row = self.series.get(head.key)
        if series_row is None:
            series_row = self.series[head.key] = SeriesRow(Series(head), self._format_labels(head))
            self._rows_by_group[head.metric_group].append(series_row)
        elif series_row.series.head != head:
            series_row.series, series_row.labels = Series(head), self._format_labels(head)
        return series_row

    def _format_labels(self, head: SeriesHead) -> str:
        return format_labels((*self._labels, *head.labels))


def _format_lines(family: Family, values: Iterable[tuple[str, float | None]]) -> bytes:
    lines = format_samples(family.name, [(labels, value) for labels, value in values if value is not None])
    return lines.encode(errors="replace")  # a name may contain lone surrogates


def _has_number(series_list: Iterable[Series], index: int) -> bool:
    """Return whether any of the series has a number in the bucket at `index`."""
    return any(math.isfinite(series.values[index]) for series in series_list)
