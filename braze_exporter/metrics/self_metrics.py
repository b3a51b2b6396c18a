"""Updates and renders the exporter's own metrics."""

import platform
import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from braze_exporter.braze.calls import CallEvent, RateLimit
from braze_exporter.braze.errors import Reason
from braze_exporter.braze.kinds import SeriesKind
from braze_exporter.braze.lists import ListEndpoint
from braze_exporter.braze.pools import Endpoint
from braze_exporter.braze.query import Query
from braze_exporter.metrics.exposition import format_family, format_header
from braze_exporter.metrics.families import Family
from braze_exporter.metrics.self_families import (
    BUDGET_RESERVE,
    BUILD_INFO,
    DEFERRED,
    DISCOVERY_ITEMS,
    DISCOVERY_MATCHED,
    DISCOVERY_SKIPPED,
    DURATION,
    LIST_LAST_SUCCESS,
    LIST_SUSPECT,
    QUERY_UNLISTED,
    RATE_LIMIT,
    RATE_LIMIT_REMAINING,
    RATE_LIMIT_RESET,
    RELOAD_SUCCESS_TIME,
    RELOAD_SUCCESSFUL,
    REQUESTS,
    REQUESTS_FAILED,
    REVISION_DELAY,
    SCRAPES_INCOMPLETE,
    STATE_WRITE_FAILURES,
    TIMEZONE_MISMATCH,
)
from braze_exporter.scheduler.list_read_state import ListReadState
from braze_exporter.scheduler.plan import Plan, Selector

# From fast responses to the timeouts of the client, in seconds.
_DURATION_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
# From the usual refresh interval to a few days, the reasonable range of `settle`.
_REVISION_BUCKETS = (600, 1_200, 1_800, 3_600, 7_200, 14_400, 28_800, 86_400, 172_800, 345_600)

M = TypeVar("M", Counter, Gauge, Histogram)


class _Registry(CollectorRegistry):
    """A registry whose pages contain only families with samples."""

    def collect(self) -> Iterable[Metric]:
        """Yield the families that have samples."""
        return (metric for metric in super().collect() if metric.samples)


class SelfMetrics:
    """Updates and renders the exporter's own metrics."""

    def __init__(self, version: str, revision: str) -> None:
        """Start all counters at 0. `version` is that of the exporter, `revision` the Git commit of its build.

        The attribute `kinds` contains the workspaces and kinds of the plan, including those of selectors whose list has
        not been read yet.
        """
        self.kinds: tuple[tuple[str, SeriesKind], ...] = ()
        disable_created_metrics()
        self._registry = _Registry()
        self._workspace_metrics: list[Counter | Gauge | Histogram] = []
        self._requests = self._make(Counter, REQUESTS)
        self._requests_failed = self._make(Counter, REQUESTS_FAILED)
        self._duration = self._make(Histogram, DURATION, buckets=_DURATION_BUCKETS)
        self._deferred = self._make(Counter, DEFERRED)
        self._rate_limit = self._make(Gauge, RATE_LIMIT)
        self._rate_limit_remaining = self._make(Gauge, RATE_LIMIT_REMAINING)
        self._rate_limit_reset = self._make(Gauge, RATE_LIMIT_RESET)
        self._revision_delay = self._make(Histogram, REVISION_DELAY, buckets=_REVISION_BUCKETS)
        self._timezone_mismatch = self._make(Gauge, TIMEZONE_MISMATCH)
        self._discovery = tuple(
            self._make(Gauge, family) for family in (DISCOVERY_ITEMS, DISCOVERY_MATCHED, DISCOVERY_SKIPPED)
        )
        self._list_read, self._list_suspect = self._make(Gauge, LIST_LAST_SUCCESS), self._make(Gauge, LIST_SUSPECT)
        self._shown_labels: set[tuple[Gauge, tuple[str, ...]]] = set()
        self._scrapes_incomplete = self._make(Counter, SCRAPES_INCOMPLETE)
        self._state_write_failures = self._make(Counter, STATE_WRITE_FAILURES)
        self._reload_successful = self._make(Gauge, RELOAD_SUCCESSFUL)
        self._reload_success_time = self._make(Gauge, RELOAD_SUCCESS_TIME)
        self._budget_reserve = self._make(Gauge, BUDGET_RESERVE)
        self._make(Gauge, BUILD_INFO).labels(version, revision, platform.python_version()).set(1)
        ProcessCollector(registry=self._registry)
        self._lock = threading.Lock()  # of `_workspaces`, so that removed workspaces get no series
        self._workspaces: set[str] = set()
        # By workspace, the queries whose newest response had the current day, and until when that counts (monotonic).
        self._timezone_matches: dict[str, dict[tuple[object, ...], float]] = {}
        # Rendered when the lists change instead of at each scrape, since there is a sample for each configured subject.
        self._unlisted = self._render_unlisted({})

    def initialize(
        self,
        plan: Plan,
        lists: Mapping[str, Sequence[ListEndpoint]],
        rate_limits: Mapping[tuple[str, str], RateLimit],
    ) -> None:
        """Create the series of all endpoints, pools and reasons, and remove those of removed workspaces.

        The endpoints are those of the kinds in `plan` and of `lists`, the lists to read by workspace name. New
        workspaces start with their `rate_limits`, by the names of workspace and pool, since no calls are made at the
        reserve.
        """
        queries: Sequence[Query | Selector] = [*plan.queries, *plan.selectors]
        self.kinds = tuple(dict.fromkeys((query.workspace, query.kind) for query in queries))
        with self._lock:
            known = {workspace for workspace, _ in self.kinds}
            before, self._workspaces = self._workspaces, known
            for name in before - known:
                for metric in self._workspace_metrics:
                    metric.remove_by_labels({"workspace": name})
            for (name, pool), rate_limit in rate_limits.items():
                if name in known - before:
                    self._record_rate_limit(name, pool, rate_limit)
        for workspace, kind in self.kinds:
            self._revision_delay.labels(workspace, kind.section)
        endpoints: list[tuple[str, Endpoint]] = [*self.kinds]
        endpoints += [
            (workspace, list_endpoint)
            for workspace, list_endpoints in lists.items()
            for list_endpoint in list_endpoints
        ]
        for workspace, endpoint in endpoints:
            self._duration.labels(workspace, endpoint.path)
            self._deferred.labels(workspace, endpoint.pool.name)
            for reason in Reason:
                self._requests_failed.labels(workspace, endpoint.path, reason)

    def clear_timezones(self) -> None:
        """Remove the results of time zone checks until the next check.

        After a reload the time zones may have changed, or there may be no daily queries.
        """
        self._timezone_mismatch.clear()
        self._timezone_matches.clear()

    def record_lists(self, plan: Plan, lists: Mapping[str, Sequence[ListReadState]]) -> None:
        """Set the metrics of the selectors of `plan`, of the subjects that the config names, and of the lists in use.

        `lists` has the states of the lists by workspace name.
        """
        values: dict[tuple[Gauge, tuple[str, ...]], float] = {}
        for selection in plan.selection_results:
            counts = (selection.listed_count, selection.matched_count, selection.skipped_count)
            for gauge, count in zip(self._discovery, counts, strict=True):
                values[gauge, (selection.workspace, selection.kind.section)] = float(count)
        required = {(selector.workspace, selector.kind.list_endpoint) for selector in plan.selectors}
        for workspace, list_states in lists.items():
            for list_state in list_states:
                list_labels = (workspace, list_state.list_endpoint.response_key)
                if list_state.read_at or (workspace, list_state.list_endpoint) in required:
                    values[self._list_read, list_labels] = list_state.read_at
                values[self._list_suspect, list_labels] = float(list_state.is_suspect)
        for gauge, labels in self._shown_labels - {*values}:
            gauge.remove(*labels)
        for (gauge, labels), value in values.items():
            gauge.labels(*labels).set(value)
        self._shown_labels = {*values}
        self._unlisted = self._render_unlisted(
            {
                (subject.workspace, subject.kind.section, subject.subject): float(not subject.is_listed)
                for subject in plan.configured_subjects
            }
        )

    @staticmethod
    def _render_unlisted(values: Mapping[tuple[str, ...], float]) -> Mapping[bool, bytes]:
        """Return the lines of `QUERY_UNLISTED` in the text format (key False) and in OpenMetrics (key True).

        Without values there are no lines.
        """
        if not values:
            return {False: b"", True: b""}
        lines = format_family(QUERY_UNLISTED, values.items())
        return {
            openmetrics: (format_header(QUERY_UNLISTED, openmetrics=openmetrics) + lines).encode()
            for openmetrics in (False, True)
        }

    def _make(self, metric_type: type[M], family: Family, **options: Any) -> M:  # noqa: ANN401 - those of the type
        """Return the metric of a family, and register it. `_workspace_metrics` has those of a workspace."""
        metric = metric_type(family.name, family.help, family.labels, registry=self._registry, **options)
        if "workspace" in family.labels:
            self._workspace_metrics.append(metric)
        return metric

    def count_call(self, call: CallEvent) -> None:
        """Count a call and record the rate limit of its response, if its workspace is still in the plan."""
        with self._lock:
            if call.workspace not in self._workspaces:
                return
            code = "none" if call.status is None else str(call.status)
            self._requests.labels(call.workspace, call.path, code).inc()
            self._duration.labels(call.workspace, call.path).observe(call.seconds)
            if call.reason is not None:
                self._requests_failed.labels(call.workspace, call.path, call.reason).inc()
            self._record_rate_limit(call.workspace, call.pool, call.rate_limit)

    def _record_rate_limit(self, workspace: str, pool: str, rate_limit: RateLimit) -> None:
        for metric, value in (
            (self._rate_limit, rate_limit.limit),
            (self._rate_limit_remaining, rate_limit.remaining),
            (self._rate_limit_reset, rate_limit.reset),
        ):
            if value is not None:
                metric.labels(workspace, pool).set(value)

    def count_deferred(self, workspace: str, endpoint: Endpoint) -> None:
        """Count a request that was due but deferred, if its workspace is still in the plan."""
        with self._lock:
            if workspace in self._workspaces:
                self._deferred.labels(workspace, endpoint.pool.name).inc()

    def record_reload(self, loaded_at: float | None) -> None:
        """Record a configuration reload: its time in seconds since the epoch, or None if it failed."""
        self._reload_successful.set(float(loaded_at is not None))
        if loaded_at is not None:
            self._reload_success_time.set(loaded_at)

    def record_reserve(self, reserve: float) -> None:
        """Set the fraction of the rate limits that the config in use leaves to other clients."""
        self._budget_reserve.set(reserve)

    def count_incomplete_scrape(self) -> None:
        """Count a scrape that reached its deadline before all due queries were fetched."""
        self._scrapes_incomplete.inc()

    def count_state_write_failure(self) -> None:
        """Count a write of the state file that failed."""
        self._state_write_failures.inc()

    def observe_revision(self, query: Query, delay: float) -> None:
        """Record that a bucket of `query` changed `delay` seconds after its end, if its workspace is in the plan."""
        with self._lock:
            if query.workspace in self._workspaces:
                self._revision_delay.labels(query.workspace, query.kind.section).observe(delay)

    def record_timezone(self, query: Query, now: float, *, is_mismatch: bool) -> None:
        """Record whether the newest day of a response at `now` (monotonic) differs from that in the configured zone.

        A newest day that matches counts for two refreshes of its query, since the response to another query may lack
        the day, if nothing has happened yet. Does nothing if the workspace is no longer in the plan.
        """
        with self._lock:
            if query.workspace not in self._workspaces:
                return
            matches = self._timezone_matches.setdefault(query.workspace, {})
            if is_mismatch:
                matches.pop(query.identity, None)
            else:
                matches[query.identity] = now + 2 * query.refresh_seconds
            is_mismatch = all(now > match_end for match_end in matches.values())
            self._timezone_mismatch.labels(query.workspace).set(float(is_mismatch))

    def read_values(self, family: Family) -> dict[tuple[str, ...], float]:
        """Return the exported values of a family that is not a histogram, by its label values."""
        metrics = self._registry.restricted_registry([family.name]).collect()
        samples = (sample for metric in metrics for sample in metric.samples)
        return {tuple(sample.labels[label] for label in family.labels): sample.value for sample in samples}

    def render(self, *, openmetrics: bool) -> bytes:
        """Return the metrics in the text format, or in OpenMetrics with its `# EOF` line."""
        return self._unlisted[openmetrics] + (
            generate_openmetrics(self._registry) if openmetrics else generate_latest(self._registry)
        )
