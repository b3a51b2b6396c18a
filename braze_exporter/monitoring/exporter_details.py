"""The rows of the dashboard "Braze exporter" below the first screen: requests, age of the data, and processes."""

import functools
from collections.abc import Iterator

from braze_exporter.metrics import self_families as metrics
from braze_exporter.metrics.families import QUERY_LAST_SUCCESS, QUERY_SETTLED_START, Family
from braze_exporter.metrics.promql import max_by
from braze_exporter.metrics.self_families import BUILD_INFO
from braze_exporter.monitoring.panels import Column, Json, Row, chart, numbers, steps, table
from braze_exporter.monitoring.series_groups import select as select_on_dashboard

# Requests are counted over at least four times this, which is longer than the usual `refresh_interval`.
_MIN_STEP = "5m"
_RATE = "$__rate_interval"
# These the rows of the first screen use too.
BUILD = BUILD_INFO.name
COUNT, SECONDS = numbers(unknown="-"), numbers("s", decimals=None, unknown="-")
WARNINGS = numbers(thresholds=steps("text", (1, "orange")), unknown="-")
SUCCESS = numbers(values={"0": ("fail", "red"), "1": ("succeed", "green")})
IDENTITY = (Column("Workspace", "workspace"), Column("Kind", "kind"))

select = functools.partial(select_on_dashboard, variables=("workspace",))


def total_by(expr: str, *labels: str) -> str:
    """Return the sum of an expression by these labels."""
    return f"sum by ({', '.join(labels)}) ({expr})"


def latest(family: Family, *matchers: str) -> str:
    """Return the current values of a gauge over all Prometheus targets."""
    return max_by(select(family, *matchers), family.labels)


def oldest_success() -> str:
    """Return the time since the oldest last success of a query, by workspace."""
    return f"time() - min by (workspace) ({latest(QUERY_LAST_SUCCESS)} > 0)"


def detail_rows() -> Iterator[Row]:
    """Yield the rows below the first screen."""
    yield Row("Requests to Braze", [*_request_panels()])
    yield Row("Age of the data", [*_age_panels()])
    yield Row("Process", [*_process_panels()])


def _request_panels() -> Iterator[Json]:
    def by(function: str, family: Family, label: str) -> str:
        return total_by(f"{function}({select(family)}[{_RATE}])", "workspace", label)

    buckets = total_by(f"rate({select(metrics.DURATION, suffix='_bucket')}[{_RATE}])", "workspace", "le")
    for title, description, legends, options in (
        (
            "Request duration",
            "Percentiles of the time from a request to its complete response.",
            {f"histogram_quantile({share}, {buckets})": f"p{share * 100:g}" for share in (0.5, 0.95, 0.99)},
            {"unit": "s"},
        ),
        (
            "Failed requests",
            "Requests to Braze that failed, by reason. They are retried.",
            {f"{by('increase', metrics.REQUESTS_FAILED, 'reason')} > 0": "{{reason}}"},
            {"style": "bars", "no_value": "No request failed."},
        ),
        (
            "Requests to Braze",
            "Requests per minute by status code. The code is none for requests without a response.",
            {f"{by('rate', metrics.REQUESTS, 'code')} * 60": "{{code}}"},
            {"unit": "reqpm", "style": "stacked"},
        ),
        (
            "Deferred requests",
            "Requests that were due but deferred because of the budget, the reserve or a 429. They are made later.",
            {f"{by('increase', metrics.DEFERRED, 'pool')} > 0": "{{pool}}"},
            {"style": "bars", "no_value": "No request was deferred."},
        ),
    ):
        named = {expr: f"{{{{workspace}}}} {legend}" for expr, legend in legends.items()}
        yield chart(title, description, named, min_step=_MIN_STEP, **options)  # type: ignore[arg-type]


def _age_panels() -> Iterator[Json]:
    since_settled = f"time() - min by (workspace, kind, unit) ({latest(QUERY_SETTLED_START)})"
    yield chart(
        "Oldest settled bucket",
        "Time since the start of the oldest bucket that is exported as settled. It rises until the next bucket "
        "settles, normally up to `settle` and two buckets.",
        {since_settled: "{{workspace}} {{kind}} {{unit}}"},
        unit="s",
    )
    yield chart(
        "Oldest success",
        "Longest time since the last successful fetch of a query, by workspace.",
        {oldest_success(): "{{workspace}}"},
        unit="s",
    )
    buckets = total_by(f"rate({select(metrics.REVISION_DELAY, suffix='_bucket')}[24h])", "workspace", "kind", "le")
    yield chart(
        "Revision delay",
        "95th percentile of the time from the end of a bucket to a later change of its value, over 24 hours. If it is "
        "longer than `settle`, raise `settle`.",
        {f"histogram_quantile(0.95, {buckets})": "{{workspace}} {{kind}}"},
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
        yield chart(title, description, {per_target: "{{instance}}"}, unit=unit, min_step="1m")
    counters = {"incomplete scrapes": metrics.SCRAPES_INCOMPLETE, "failed writes": metrics.STATE_WRITE_FAILURES}
    yield chart(
        "Incomplete scrapes and failed writes",
        "Scrapes that reached their deadline before all due queries were fetched, and failed writes of the state file. "
        "After a failed write, counters do not increase until a write succeeds.",
        {f"increase({family.name}[{_RATE}]) > 0": f"{{{{instance}}}} {name}" for name, family in counters.items()},
        style="bars",
        min_step=_MIN_STEP,
        width=24,
        no_value="No scrape was incomplete, and no write failed.",
    )
