"""The exporter's own metrics, which are rendered anew for each scrape."""

import platform
import threading
from collections.abc import Mapping, Sequence

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

from braze_exporter.catalog import Call, Endpoint, Family, Kind, Listing, Query, Reason
from braze_exporter.collector.exposition import header, labels_text, sample
from braze_exporter.own import (
    BUILD_INFO,
    DEFERRED,
    DISCOVERY_FOUND,
    DISCOVERY_LEFT_OUT,
    DISCOVERY_MATCHED,
    DURATION,
    ERRORS,
    LIST_READ,
    QUERY_UNLISTED,
    QUOTA_LIMIT,
    QUOTA_REMAINING,
    QUOTA_RESET,
    RELOAD_SUCCESS_TIME,
    RELOAD_SUCCESSFUL,
    REQUESTS,
    REVISION_AGE,
    SCRAPES_INCOMPLETE,
    STATE_WRITE_FAILURES,
    TIMEZONE_MISMATCH,
)
from braze_exporter.plan import Plan, Wildcard

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
