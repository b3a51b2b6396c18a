"""Renders the query results and the counters as the `/metrics` page."""

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence

from braze_exporter.braze.buckets import OFFSET_STEP_SECONDS, bucket_number, min_requested_bucket_number
from braze_exporter.braze.calls import Response
from braze_exporter.braze.kinds import Unit
from braze_exporter.braze.metric_group import MetricGroup
from braze_exporter.braze.query import Query
from braze_exporter.braze.series import Series, bucket_starts
from braze_exporter.metrics.counters import Counters
from braze_exporter.metrics.data_quality import is_timezone_mismatch, revision_delays
from braze_exporter.metrics.exposition import format_family, format_header
from braze_exporter.metrics.families import Family, build_counter
from braze_exporter.metrics.rows import QueryRow, expiry_time
from braze_exporter.metrics.self_families import QUERIES, UP, QueryStatus
from braze_exporter.metrics.self_metrics import SelfMetrics
from braze_exporter.metrics.series_view import SeriesView
from braze_exporter.scheduler.plan import counter_sources
from braze_exporter.scheduler.query_rows import SavedHead
from braze_exporter.scheduler.query_state import QueryState
from braze_exporter.scheduler.saved_queries import SavedQueries
from braze_exporter.scheduler.scheduler import Scheduler

# Larger parts of a page take more memory, smaller ones more time to compress.
_QUERIES_PER_PART = 32


def query_status(query_state: QueryState, now: float) -> QueryStatus:
    """Return the status of a query at `now`, on the monotonic clock."""
    if not query_state.has_result:
        return QueryStatus.PENDING
    if now >= expiry_time(query_state):
        return QueryStatus.STALE
    if query_state.is_deferred:
        return QueryStatus.DEFERRED
    return QueryStatus.FAILED if query_state.error else QueryStatus.UP


class Collector:
    """Renders the `/metrics` page. Thread-safe. No content of a response makes rendering raise."""

    def __init__(
        self,
        scheduler: Scheduler,
        counters: Counters,
        self_metrics: SelfMetrics,
        *,
        monotonic: Callable[[], float],
        request_save: Callable[[], object],
        saved_queries: SavedQueries | None = None,
    ) -> None:
        """Export the queries of `scheduler`, and record their results in `counters` and `saved_queries` from now on.

        `request_save` is called when so many counters changed that the next scrape would wait for their write.
        """
        self._scheduler = scheduler
        self._counters = counters
        self._self_metrics = self_metrics
        self._monotonic = monotonic
        self._request_save = request_save
        self._saved_queries = saved_queries
        self._lock = threading.Lock()  # of the attributes below
        self._rows_by_families: list[tuple[tuple[Family, ...], list[QueryRow]]] = []
        self._rows: dict[tuple[str, ...], QueryRow] = {}
        self._counter_families: list[tuple[Family, MetricGroup, list[QueryRow]]] = []
        self._counter_sources: set[QueryState] = set()
        self._revision = (-1, -1)
        self._valid_until = float("-inf")
        self._sections: Sequence[tuple[Family, Sequence[bytes]]] = ()
        scheduler.on_queries, scheduler.on_fetched = self.set_queries, self.record
        scheduler.on_history = self.record_history

    def render(self, *, openmetrics: bool) -> Iterator[bytes]:
        """Yield all metrics in the text format 0.0.4, or in OpenMetrics 1.0.0, in parts. Writes no file."""
        for family, lines in self._update_sections():
            yield format_header(family, openmetrics=openmetrics).encode()
            for at in range(0, len(lines), _QUERIES_PER_PART):
                yield b"".join(lines[at : at + _QUERIES_PER_PART])
        yield self._self_metrics.render(openmetrics=openmetrics)

    def _update_sections(self) -> Sequence[tuple[Family, Sequence[bytes]]]:
        """Return the lines of each family that depends on query results, updated only if something changed."""
        with self._lock:
            now = self._monotonic()
            revision = (self._scheduler.revision, self._counters.revision)
            if not self._sections or self._revision != revision or now >= self._valid_until:
                self._revision = revision
                for row in self._rows.values():
                    row.update(now)
                self._valid_until = min(
                    (expiry_time(row.query_state) for row in self._rows.values() if not row.is_stale),
                    default=float("inf"),
                )
                self._sections = [(family, lines) for family, lines in self._render_families(now) if any(lines)]
            return self._sections

    def views(self) -> list[SeriesView]:
        """Return the exported values of each series, in the order of the plan. Starts no fetch."""
        with self._lock:
            now = self._monotonic()
            for row in self._rows.values():
                row.update(now)
            return [view for row in self._rows.values() for view in row.views(self._total_of(row))]

    def _total_of(self, row: QueryRow) -> Callable[[Series], float | None]:
        key, has_counter = row.query.counter_key, row.query_state in self._counter_sources
        return lambda series: (
            self._counters.total(key, row.series_key(series)) if has_counter and series.head.has_counter else None
        )

    def set_queries(self, query_states: Sequence[QueryState]) -> None:
        """Export these queries from now on. Queries that were exported before keep their values."""
        with self._lock:
            rows = {query_state.query.identity: self._find_or_create_row(query_state) for query_state in query_states}
            self._rows = rows
            self._rows_by_families = _group_rows(rows.values())
            self._counter_families = _group_counters(rows.values())
            self._counter_sources = {row.query_state for *_, source in self._counter_families for row in source}
        counter_keys = {query_state.query.counter_key for query_state in query_states}
        self._counters.remove_replaced(counter_keys)
        self._counters.remove_expired(counter_keys)
        if self._saved_queries is not None:
            self._saved_queries.set_queries(query_state.query for query_state in query_states)

    def _find_or_create_row(self, query_state: QueryState) -> QueryRow:
        """Return the row of `query_state`: the existing one if its query is the same, else a new one."""
        row = self._rows.get(query_state.query.identity)
        if row is not None and row.query_state is query_state and row.query == query_state.query:
            if query_state.response is not None:  # a reload has cleared the mismatch
                self._update_timezone(query_state.query, query_state.response)
            return row
        restored = self._saved_queries.take_series(query_state) if self._saved_queries is not None else None
        if query_state.response is not None and restored is not None:
            self._update_timezone(query_state.query, query_state.response)
        return QueryRow(query_state, row, restored)

    def record(self, query_state: QueryState, response: Response | None, previous: Response | None) -> None:
        """Record the end of a fetch of a query, and save the query.

        `response` is None if the fetch failed. If it is not the newest response of the query, it has older buckets,
        which no gauge shows. `previous` is the newest response before it.
        """
        query = query_state.query
        newest = response if response is query_state.response else None
        if newest is not None:
            for delay in revision_delays(query, previous, newest) if previous is not None else ():
                self._self_metrics.observe_revision(query, delay)
            self._update_timezone(query, newest)
        if response is not None and query_state in self._counter_sources:
            self._record_in_counters(query, response)
        with self._lock:
            row = self._rows[query.identity]
            if response is not None:
                self._add_to_baselines(row, response, is_history=newest is None)
            self._render_row(row)
            if newest is not None and len(row.query.metric_groups) > 1:
                self._remove_unreachable_series(row, newest)
            is_changed = newest is not None and (previous is None or newest.series is not previous.series)
            self._save(row, row.heads if is_changed else None)
        if self._counters.has_many_unsaved:
            self._request_save()

    def record_history(self, query_state: QueryState, response: Response) -> None:
        """Add a response for history to the baselines, and save the query."""
        with self._lock:
            row = self._rows[query_state.query.identity]
            self._add_to_baselines(row, response, is_history=True)
            self._render_row(row)
            self._save(row, None)

    def _render_row(self, row: QueryRow) -> None:
        self._sections = ()  # which would keep the lines of all rows that are about to change
        row.render()

    def _save(self, row: QueryRow, heads: tuple[SavedHead, ...] | None) -> None:
        """Save the query of a row, and its series if `heads` has them."""
        if self._saved_queries is not None:
            self._saved_queries.record_query(row.query_state, (row.latest_start, row.settled_start), heads)

    def _add_to_baselines(self, row: QueryRow, response: Response, *, is_history: bool) -> None:
        periods = row.add_to_baselines(response, is_history=is_history)
        if periods and self._saved_queries is not None:
            self._saved_queries.record_baselines(row.query, row.baseline_values(periods))

    def _remove_unreachable_series(self, row: QueryRow, response: Response) -> None:
        """Forget the series whose newest bucket is so old that Braze no longer returns it."""
        query = row.query
        oldest = bucket_number(response.sent_at, query.unit, query.zone) - query.kind.max_length
        if oldest == row.oldest_reachable:
            return
        row.remove_unreachable_series(oldest)
        kept = {row.series_key(series_row.series) for series_row in row.series.values()}
        self._counters.remove_unreachable(query.counter_key, kept, oldest)

    def _update_timezone(self, query: Query, response: Response) -> None:
        mismatch = is_timezone_mismatch(query, response)
        if mismatch is not None:
            self._self_metrics.record_timezone(query, response.received_monotonic, is_mismatch=mismatch)

    def _record_in_counters(self, query: Query, response: Response) -> None:
        """Record the buckets of a response in the counters.

        If the query has several metric groups, the counter state under the key of the query has the time of the last
        request. The first values of a series that appears later count too, in the buckets that had not settled at that
        time.
        """
        has_several = len(query.metric_groups) > 1
        oldest = min_requested_bucket_number(query, response.sent_at, query.length)
        last = self._counters.last_requested(query.counter_key) if has_several else None
        new_from = bucket_number(last - query.settle_seconds, query.unit, query.zone) if last is not None else None
        self._counters.release(query.counter_key)
        starts = bucket_starts(response.series)
        self._counters.record(
            query.counter_key,
            query.unit,
            tuple(bucket_number(start, query.unit, query.zone) for start in starts),
            [
                (series.head.key if has_several else (), series.values, query.selects(series.head.labels))
                for series in response.series
                if series.head.has_counter
            ],
            requested_from=oldest,
            requested_at=None if response.is_short else response.sent_at,
            is_complete=response.is_complete,
            unknown=_missing_buckets(query, response, oldest),
            new_from=new_from,
            zone=response.series[0].zone if response.series else "",
        )

    def _render_families(self, now: float) -> Iterator[tuple[Family, Sequence[bytes]]]:
        """Yield each family with its lines."""
        lines_by_family: dict[Family, list[bytes]] = {}
        for families, rows in self._rows_by_families:
            for index, family in enumerate(families):
                lines_by_family.setdefault(family, []).extend([row.lines[index] for row in rows])
        yield from lines_by_family.items()
        for family, metric_group, rows in self._counter_families:
            yield family, [row.render_counter(family, metric_group, self._counters) for row in rows]
        for family, lines in self._summary_families(now):
            yield family, [lines.encode()]

    def _summary_families(self, now: float) -> Iterator[tuple[Family, str]]:
        """Yield the families that summarize the queries: `UP` and `QUERIES`."""
        kinds = [(workspace, kind.section) for workspace, kind in self._self_metrics.kinds]
        counts = {(workspace, kind, state): 0 for workspace, kind in kinds for state in QueryStatus}
        is_up: dict[str, bool] = {}
        for query_state in self._scheduler.query_states:
            workspace, kind = query_state.query.workspace, query_state.query.kind.section
            key = (workspace, kind, query_status(query_state, now))
            if key not in counts:  # a reload is about to remove the query
                continue
            counts[key] += 1
            if query_state.has_result:
                is_up[workspace] = is_up.get(workspace, False) or query_state.error is None
        yield UP, format_family(UP, (((workspace,), float(up)) for workspace, up in is_up.items()))
        yield QUERIES, format_family(QUERIES, counts.items())


def _missing_buckets(query: Query, response: Response, oldest: int) -> Iterable[int]:
    """Return the bucket numbers from `oldest` on whose values a response does not tell, though Braze may have them.

    These are the buckets before those of a short response, all if it is empty. Of any other empty response, they are
    the buckets that had settled, in case Braze has only failed to return them.
    """
    starts = bucket_starts(response.series)
    if starts and not response.is_short:
        return ()
    unit, zone = query.unit, query.zone
    step = unit.seconds if unit is Unit.HOUR else 1
    if starts:
        return range(bucket_number(starts[0], unit, zone) - step, oldest - 1, -step)
    settle_seconds, settling = (0.0, 0) if response.is_short else (query.settle_seconds, step)
    newest = bucket_number(response.sent_at - settle_seconds, unit, zone) - settling
    if unit is Unit.HOUR:  # it is unknown at which minute Braze's hours begin
        step = OFFSET_STEP_SECONDS
        newest -= newest % step
    return range(newest, oldest - 1, -step)


def _group_rows(rows: Iterable[QueryRow]) -> list[tuple[tuple[Family, ...], list[QueryRow]]]:
    """Return the rows, grouped by their families."""
    groups: dict[tuple[Family, ...], list[QueryRow]] = {}
    for row in rows:
        groups.setdefault(row.families, []).append(row)
    return list(groups.items())


def _group_counters(rows: Iterable[QueryRow]) -> list[tuple[Family, MetricGroup, list[QueryRow]]]:
    """Return each counter family with its metric group and its rows."""
    rows_by_query = {row.query_state.query: row for row in rows}
    counters: dict[str, tuple[Family, MetricGroup, list[QueryRow]]] = {}
    for query in counter_sources(rows_by_query).values():
        for metric_group in query.metric_groups:
            if metric_group.is_additive:
                family = build_counter(query.kind, metric_group)
                counters.setdefault(family.name, (family, metric_group, []))[-1].append(rows_by_query[query])
    return list(counters.values())
