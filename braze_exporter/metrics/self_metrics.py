"""The exporter's own metrics: their families, and what counts them.

`QUERIES` and `UP` sum up the queries and are filled by the collector; `OWN` are counted as things happen.
"""

import platform
import threading
from collections.abc import Mapping, Sequence
from enum import StrEnum

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from braze_exporter.braze.calls import Call
from braze_exporter.braze.errors import Reason
from braze_exporter.braze.kinds import Kind
from braze_exporter.braze.lists import Listing
from braze_exporter.braze.pools import Endpoint
from braze_exporter.braze.query import Query
from braze_exporter.metrics.exposition import header, labels_text, sample
from braze_exporter.metrics.families import Family
from braze_exporter.scheduler.plan import Plan, Wildcard

UP = Family(
    "braze_up", "gauge", "Whether any query's last fetch was answered (1), or none of those tried (0).", ("workspace",)
)
QUERIES = Family(
    "braze_exporter_queries", "gauge", "Queries of the plan by their state.", ("workspace", "kind", "state")
)


class State(StrEnum):
    """How a query stands, which is the label `state`; of several that apply, the first."""

    PENDING = "pending"
    STALE = "stale"
    DEFERRED = "deferred"
    FAILED = "failed"
    UP = "up"


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
_OF_KIND = ("workspace", "kind")
DISCOVERY_FOUND = Family(
    "braze_discovery_found", "gauge", "What Braze lists of a kind that the config has wildcards for.", _OF_KIND
)
DISCOVERY_MATCHED = Family("braze_discovery_matched", "gauge", "What of it the wildcards take.", _OF_KIND)
DISCOVERY_LEFT_OUT = Family(
    "braze_discovery_left_out",
    "gauge",
    "What the wildcards take, and is not asked for: for max_queries or the budget.",
    _OF_KIND,
)
LIST_READ = Family(
    "braze_discovery_list_last_success_timestamp_seconds",
    "gauge",
    "When a list of Braze's was last read to its end; 0 until the first time.",
    ("workspace", "list"),
)
QUERY_UNLISTED = Family(
    "braze_query_unlisted",
    "gauge",
    "Whether Braze's list lacks a subject that the config names (1) or has it (0).",
    (*_OF_KIND, "subject"),
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
    DISCOVERY_FOUND,
    DISCOVERY_MATCHED,
    DISCOVERY_LEFT_OUT,
    LIST_READ,
    QUERY_UNLISTED,
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
        """Begin at 0. `kinds` are those of the plan, by workspace, wildcards that nothing is known of included."""
        self.kinds: tuple[tuple[str, Kind], ...] = ()
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
        self._discovery = tuple(map(self._gauge, (DISCOVERY_FOUND, DISCOVERY_MATCHED, DISCOVERY_LEFT_OUT)))
        self._list_read = self._gauge(LIST_READ)
        self._told: set[tuple[Gauge, tuple[str, ...]]] = set()
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
        # One for each subject of the config, so they are written when they change, and not with each page.
        self._unlisted = self._unlisted_pages({})

    def expect(self, plan: Plan, lists: Mapping[str, Sequence[Listing]]) -> None:
        """Begin at 0 for every endpoint, pool and reason that can be met, and forget workspaces that went.

        That is for the kinds of `plan`, and for the `lists` that are read, by the name of the workspace.
        """
        asked: Sequence[Query | Wildcard] = [*plan.queries, *plan.wildcards]
        self.kinds = tuple(dict.fromkeys((one.workspace, one.kind) for one in asked))
        with self._lock:
            known = {workspace for workspace, _ in self.kinds}
            gone, self._workspaces = self._workspaces - known, known
            for name in gone:
                for metric in self._of_workspaces:
                    metric.remove_by_labels({"workspace": name})
        for workspace, kind in self.kinds:
            self._revision_age.labels(workspace, kind.section)
        endpoints: list[tuple[str, Endpoint]] = [*self.kinds]
        endpoints += [(workspace, listing) for workspace, found in lists.items() for listing in found]
        for workspace, at in endpoints:
            self._duration.labels(workspace, at.endpoint)
            self._deferred.labels(workspace, at.pool.name)
            for reason in Reason:
                self._errors.labels(workspace, at.endpoint, reason)

    def forget_timezones(self) -> None:
        """Say nothing of time zones until the next day is judged: they may have changed, or there are no days."""
        self._timezone_mismatch.clear()

    def note_lists(self, plan: Plan, read: Mapping[tuple[str, Listing], float]) -> None:
        """Show what lists tell of the wildcards of `plan`, and of the subjects that the config names.

        `read` are the lists in use, by workspace, and when each was read, in seconds since the epoch, 0 for never.
        """
        values: dict[tuple[Gauge, tuple[str, ...]], float] = {}
        for found in plan.discovered:
            counts = (found.found, found.matched, found.left_out)
            for gauge, count in zip(self._discovery, counts, strict=True):
                values[gauge, (found.workspace, found.kind.section)] = float(count)
        for (workspace, listing), at in read.items():
            values[self._list_read, (workspace, listing.key)] = at
        for gauge, labels in self._told - {*values}:
            gauge.remove(*labels)
        for (gauge, labels), value in values.items():
            gauge.labels(*labels).set(value)
        self._told = {*values}
        self._unlisted = self._unlisted_pages(
            {(named.workspace, named.kind.section, named.subject): float(not named.is_listed) for named in plan.named}
        )

    @staticmethod
    def _unlisted_pages(values: Mapping[tuple[str, ...], float]) -> Mapping[bool, bytes]:
        """Return what is shown of the subjects of the config, in the text format and in OpenMetrics (True)."""
        family = QUERY_UNLISTED
        lines = "".join(
            sample(family.name, labels_text(zip(family.labels, labels, strict=True)), value)
            for labels, value in values.items()
        )
        return {which: (header(family, openmetrics=which) + lines).encode() for which in (False, True)}

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

    def count_deferred(self, workspace: str, at: Endpoint) -> None:
        """Count a request that was due and put off."""
        self._deferred.labels(workspace, at.pool.name).inc()

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

    def values(self, family: Family) -> dict[tuple[str, ...], float]:
        """Return what is shown of one of the families that are not histograms, by the values of its labels."""
        found = self._registry.restricted_registry([family.name]).collect()
        samples = (sample for metric in found for sample in metric.samples)
        return {tuple(sample.labels[label] for label in family.labels): sample.value for sample in samples}

    def render(self, *, openmetrics: bool) -> bytes:
        """Return the metrics in the text format, or in OpenMetrics with its end."""
        return self._unlisted[openmetrics] + (
            generate_openmetrics(self._registry) if openmetrics else generate_latest(self._registry)
        )
