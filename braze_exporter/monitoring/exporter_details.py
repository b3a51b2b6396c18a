"""The rows of the dashboard "Braze exporter" below the first screen: requests, age of the data, and processes."""

from collections.abc import Iterator

from braze_exporter.metrics import self_families as metrics
from braze_exporter.metrics.families import QUERY_SETTLED_START, Family
from braze_exporter.metrics.promql import max_by
from braze_exporter.monitoring.exporter_expr import (
    BUILD,
    COUNT,
    IDENTITY,
    SECONDS,
    SUCCESS,
    WARNINGS,
    latest,
    oldest_success,
    select,
    sum_by,
)
from braze_exporter.monitoring.panels import Column, Json, Row, Target, chart, table

# Requests are counted over at least four times this, which is longer than the usual `refresh_interval`.
_INTERVAL = "5m"
_RATE = "$__rate_interval"


def detail_rows() -> Iterator[Row]:
    """Yield the rows below the first screen."""
    yield Row("Requests to Braze", [*_request_panels()])
    yield Row("Age of the data", [*_age_panels()])
    yield Row("Process", [*_process_panels()])


def _request_panels() -> Iterator[Json]:
    def by(function: str, family: Family, label: str) -> str:
        return sum_by(f"{function}({select(family)}[{_RATE}])", "workspace", label)

    buckets = sum_by(f"rate({select(metrics.DURATION, suffix='_bucket')}[{_RATE}])", "workspace", "le")
    for title, description, exprs, options in (
        (
            "Request duration",
            "Percentiles of the time from a request to its complete response.",
            {f"p{share * 100:g}": f"histogram_quantile({share}, {buckets})" for share in (0.5, 0.95, 0.99)},
            {"unit": "s"},
        ),
        (
            "Failed requests",
            "Requests to Braze that failed, by reason. They are retried.",
            {"{{reason}}": f"{by('increase', metrics.REQUESTS_FAILED, 'reason')} > 0"},
            {"style": "bars", "no_value": "No request failed."},
        ),
        (
            "Requests to Braze",
            "Requests per minute by status code. The code is none for requests without a response.",
            {"{{code}}": f"{by('rate', metrics.REQUESTS, 'code')} * 60"},
            {"unit": "reqpm", "style": "stacked"},
        ),
        (
            "Deferred requests",
            "Requests that were due but deferred because of the budget, the reserve or a 429. They are made later.",
            {"{{pool}}": f"{by('increase', metrics.DEFERRED, 'pool')} > 0"},
            {"style": "bars", "no_value": "No request was deferred."},
        ),
    ):
        targets = [Target(expr, f"{{{{workspace}}}} {name}", _INTERVAL) for name, expr in exprs.items()]
        yield chart(title, description, targets, **options)  # type: ignore[arg-type]


def _age_panels() -> Iterator[Json]:
    yield chart(
        "Oldest settled bucket",
        "Time since the start of the oldest bucket that is exported as settled. It rises until the next bucket "
        "settles, normally up to `settle` and two buckets.",
        [
            Target(
                f"time() - min by (workspace, kind, unit) ({latest(QUERY_SETTLED_START)})",
                "{{workspace}} {{kind}} {{unit}}",
            )
        ],
        unit="s",
    )
    yield chart(
        "Oldest success",
        "Longest time since the last successful fetch of a query, by workspace.",
        [Target(oldest_success(), "{{workspace}}")],
        unit="s",
    )
    buckets = sum_by(f"rate({select(metrics.REVISION_DELAY, suffix='_bucket')}[24h])", "workspace", "kind", "le")
    yield chart(
        "Revision delay",
        "95th percentile of the time from the end of a bucket to a later change of its value, over 24 hours. If it is "
        "longer than `settle`, raise `settle`.",
        [Target(f"histogram_quantile(0.95, {buckets})", "{{workspace}} {{kind}}")],
        unit="s",
        interval="30m",
    )
    age = f"time() - ({latest(metrics.LIST_LAST_SUCCESS)} > 0)"
    yield table(
        "Lists and selectors",
        "Items in Braze's lists, those that selectors match, and the time since the last complete read of each list.",
        [
            *IDENTITY,
            Column("Items", expr=latest(metrics.DISCOVERY_ITEMS), field=COUNT),
            Column("Matched", expr=latest(metrics.DISCOVERY_MATCHED), field=COUNT),
            Column("Skipped", expr=latest(metrics.DISCOVERY_SKIPPED), field=WARNINGS),
            Column("Last read", expr=f'label_replace({age}, "kind", "list of $1", "list", "(.*)")', field=SECONDS),
        ],
        width=12,
        no_value="No list is read, or the exporter is down.",
    )


def _process_panels() -> Iterator[Json]:
    build = max_by(f"last_over_time({BUILD}[1d])", ("job", "instance", "version", "python_version"))
    yield table(
        "Exporters",
        "The exporters that Prometheus scraped in the last day. Each workspace must have exactly one. Click on an "
        "instance to open its status page.",
        [
            Column("Job", "job"),
            Column("Instance", "instance", link="http://${__value.raw}/"),
            Column("Version", "version"),
            Column("Python", "python_version"),
            Column("Scrapes", expr=f"up * on (job, instance) group_right () {build}", field=SUCCESS),
        ],
        width=12,
        no_value="No exporter was scraped in the last day.",
    )
    for title, description, expr, unit in (
        ("Scrape duration", "Duration of the scrapes by Prometheus.", "scrape_duration_seconds", "s"),
        ("Memory", "Resident memory of the exporter.", "process_resident_memory_bytes", "bytes"),
        ("CPU", "CPU time of the exporter, in cores.", f"rate(process_cpu_seconds_total[{_RATE}])", "short"),
    ):
        per_target = f"{expr} and on (job, instance) {BUILD}"
        yield chart(title, description, [Target(per_target, "{{instance}}", "1m")], unit=unit)
    counters = {"incomplete scrapes": metrics.SCRAPES_INCOMPLETE, "failed writes": metrics.STATE_WRITE_FAILURES}
    yield chart(
        "Incomplete scrapes and failed writes",
        "Scrapes that reached their deadline before all due queries were fetched, and failed writes of the state file. "
        "After a failed write, counters do not increase until a write succeeds.",
        [
            Target(f"increase({family.name}[{_RATE}]) > 0", f"{{{{instance}}}} {name}", _INTERVAL)
            for name, family in counters.items()
        ],
        style="bars",
        width=24,
        no_value="No scrape was incomplete, and no write failed.",
    )
