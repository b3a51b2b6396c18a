"""The exporter's own metrics, which are rendered anew for each scrape."""

import platform
import threading
from collections.abc import Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from braze_exporter.catalog import Call, Family, Query, Reason

_OF_ENDPOINT = ("workspace", "endpoint")
_OF_POOL = ("workspace", "pool")

REQUESTS = Family(
    "braze_api_requests_total",
    "counter",
    "HTTP requests made to Braze; code is the status, or none without an answer.",
    (*_OF_ENDPOINT, "code"),
)
ERRORS = Family(
    "braze_api_errors_total",
    "counter",
    "Requests to Braze that were not answered, by reason.",
    (*_OF_ENDPOINT, "reason"),
)
DURATION = Family(
    "braze_api_request_duration_seconds", "histogram", "Time from a request to the whole of its answer.", _OF_ENDPOINT
)
DEFERRED = Family(
    "braze_api_requests_deferred_total",
    "counter",
    "Requests that were due and put off, for the budget, the reserve or a 429.",
    _OF_POOL,
)
QUOTA_LIMIT = Family("braze_api_quota_limit", "gauge", "Calls in a window of the pool, as Braze last said.", _OF_POOL)
QUOTA_REMAINING = Family(
    "braze_api_quota_remaining",
    "gauge",
    "Calls left in the pool's window, whoever makes them, as Braze last said.",
    _OF_POOL,
)
QUOTA_RESET = Family(
    "braze_api_quota_reset_timestamp_seconds", "gauge", "When the pool's window ends, as Braze last said.", _OF_POOL
)
SCRAPES_INCOMPLETE = Family(
    "braze_exporter_scrapes_incomplete_total",
    "counter",
    "Scrapes whose deadline came before the answer to every due query.",
    (),
)
STATE_WRITE_FAILURES = Family(
    "braze_exporter_state_write_failures_total",
    "counter",
    "Writes of the state file that failed; the counters stand still until one succeeds.",
    (),
)
REVISION_AGE = Family(
    "braze_revision_age_seconds",
    "histogram",
    "How long after its end a bucket still changed.",
    ("workspace", "kind"),
)
TIMEZONE_MISMATCH = Family(
    "braze_workspace_timezone_mismatch",
    "gauge",
    "Whether the newest day of an answer is yesterday or tomorrow in the workspace's timezone (1) or not (0).",
    ("workspace",),
)
RELOAD_SUCCESSFUL = Family(
    "braze_exporter_config_last_reload_successful",
    "gauge",
    "Whether the config could be used when it was last read (1) or not (0); then the one before goes on.",
    (),
)
RELOAD_SUCCESS_TIME = Family(
    "braze_exporter_config_last_reload_success_timestamp_seconds",
    "gauge",
    "When the config in use was read.",
    (),
)
BUILD_INFO = Family(
    "braze_exporter_build_info", "gauge", "The version that runs, always 1.", ("version", "python_version")
)

OWN: tuple[Family, ...] = (
    REQUESTS,
    ERRORS,
    DURATION,
    DEFERRED,
    QUOTA_LIMIT,
    QUOTA_REMAINING,
    QUOTA_RESET,
    REVISION_AGE,
    TIMEZONE_MISMATCH,
    SCRAPES_INCOMPLETE,
    STATE_WRITE_FAILURES,
    RELOAD_SUCCESSFUL,
    RELOAD_SUCCESS_TIME,
    BUILD_INFO,
)

# From a fast answer to the time-outs of the client, in seconds.
_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
# From the usual refresh to a few days: what `settle` may reasonably be.
_REVISION_BUCKETS = (600, 1_200, 1_800, 3_600, 7_200, 14_400, 28_800, 86_400, 172_800, 345_600)


class Instruments:
    """What the exporter counts of itself."""

    def __init__(self, version: str) -> None:
        """Begin at 0."""
        disable_created_metrics()
        self._registry = CollectorRegistry()
        self._requests = self._counter(REQUESTS)
        self._errors = self._counter(ERRORS)
        self._duration = Histogram(
            DURATION.name, DURATION.help, DURATION.labels, buckets=_BUCKETS, registry=self._registry
        )
        self._deferred = self._counter(DEFERRED)
        self._quota_limit = self._gauge(QUOTA_LIMIT)
        self._quota_remaining = self._gauge(QUOTA_REMAINING)
        self._quota_reset = self._gauge(QUOTA_RESET)
        self._revision_age = Histogram(
            REVISION_AGE.name,
            REVISION_AGE.help,
            REVISION_AGE.labels,
            buckets=_REVISION_BUCKETS,
            registry=self._registry,
        )
        self._timezone_mismatch = self._gauge(TIMEZONE_MISMATCH)
        self._of_workspaces = (
            self._requests,
            self._errors,
            self._duration,
            self._deferred,
            self._quota_limit,
            self._quota_remaining,
            self._quota_reset,
            self._revision_age,
            self._timezone_mismatch,
        )
        self._scrapes_incomplete = self._counter(SCRAPES_INCOMPLETE)
        self._state_write_failures = self._counter(STATE_WRITE_FAILURES)
        self._reload_successful = self._gauge(RELOAD_SUCCESSFUL)
        self._reload_success_time = self._gauge(RELOAD_SUCCESS_TIME)
        self._gauge(BUILD_INFO).labels(version, platform.python_version()).set(1)
        ProcessCollector(registry=self._registry)
        self._lock = threading.Lock()
        self._workspaces: set[str] = set()

    def expect(self, queries: Sequence[Query]) -> None:
        """Begin at 0 for every endpoint, pool and reason that the queries can meet, and forget workspaces that went."""
        with self._lock:
            gone = self._workspaces - {query.workspace for query in queries}
            self._workspaces = {query.workspace for query in queries}
            for name in gone:
                for metric in self._of_workspaces:
                    metric.remove_by_labels({"workspace": name})
        self._timezone_mismatch.clear()  # until the next day is judged: zones may have changed, or there are no days
        for workspace, kind in dict.fromkeys((query.workspace, query.kind) for query in queries):
            self._revision_age.labels(workspace, kind.section)
            self._duration.labels(workspace, kind.endpoint)
            self._deferred.labels(workspace, kind.pool.name)
            for reason in Reason:
                self._errors.labels(workspace, kind.endpoint, reason)

    def _counter(self, family: Family) -> Counter:
        return Counter(family.name, family.help, family.labels, registry=self._registry)

    def _gauge(self, family: Family) -> Gauge:
        return Gauge(family.name, family.help, family.labels, registry=self._registry)

    def count_call(self, call: Call) -> None:
        """Count a call, and note what it told of its pool, if its workspace is still in the plan."""
        with self._lock:
            if call.workspace in self._workspaces:
                self._count(call)

    def _count(self, call: Call) -> None:
        code = "none" if call.code is None else str(call.code)
        self._requests.labels(call.workspace, call.endpoint, code).inc()
        self._duration.labels(call.workspace, call.endpoint).observe(call.seconds)
        if call.reason is not None:
            self._errors.labels(call.workspace, call.endpoint, call.reason).inc()
        for metric, value in (
            (self._quota_limit, call.quota.limit),
            (self._quota_remaining, call.quota.remaining),
            (self._quota_reset, call.quota.reset),
        ):
            if value is not None:
                metric.labels(call.workspace, call.pool).set(value)

    def count_deferred(self, query: Query) -> None:
        """Count a request that was due and put off."""
        self._deferred.labels(query.workspace, query.kind.pool.name).inc()

    def note_reload(self, at: float | None) -> None:
        """Note when a config came into use, in seconds since the epoch, or None for one that cannot be used."""
        self._reload_successful.set(float(at is not None))
        if at is not None:
            self._reload_success_time.set(at)

    def count_incomplete_scrape(self) -> None:
        """Count a scrape that did not wait for everything."""
        self._scrapes_incomplete.inc()

    def count_state_write_failure(self) -> None:
        """Count a write of the state file that failed."""
        self._state_write_failures.inc()

    def observe_revision(self, query: Query, age: float) -> None:
        """Note that a bucket of `query` has changed `age` seconds after its end."""
        self._revision_age.labels(query.workspace, query.kind.section).observe(age)

    def note_timezone(self, query: Query, *, mismatch: bool) -> None:
        """Note whether the days of the workspace's answers are those of its configured zone."""
        self._timezone_mismatch.labels(query.workspace).set(float(mismatch))

    def render(self, *, openmetrics: bool) -> bytes:
        """Return the metrics in the text format, or in OpenMetrics with its end."""
        return generate_openmetrics(self._registry) if openmetrics else generate_latest(self._registry)
