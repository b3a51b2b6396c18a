"""The dashboard "Braze exporter": whether the exporter works, for those who run it. It is the same for all configs."""

import functools
from collections.abc import Iterator

from braze_exporter.braze.errors import Reason
from braze_exporter.braze.kinds import KINDS
from braze_exporter.braze.lists import LIST_ENDPOINTS
from braze_exporter.braze.pools import Endpoint
from braze_exporter.metrics import self_families as metrics
from braze_exporter.metrics.families import QUERY_LAST_SUCCESS, QUERY_MAX_AGE, QUERY_SETTLED_START, QUERY_UP, Family
from braze_exporter.metrics.promql import max_by
from braze_exporter.metrics.self_families import QueryStatus
from braze_exporter.monitoring.panels import GREY, Column, Json, Row, chart, numbers, stat, steps, table
from braze_exporter.monitoring.series_groups import select, union, with_label

_COLORS = {
    QueryStatus.UP: "green",
    QueryStatus.FAILED: "red",
    QueryStatus.DEFERRED: "orange",
    QueryStatus.STALE: "purple",
    QueryStatus.PENDING: GREY,
}
_COUNT, _SECONDS = numbers(unknown="-"), numbers("s", decimals=None, unknown="-")
_WARNINGS = numbers(thresholds=steps("text", (1, "orange")), unknown="-")
_ERRORS = numbers(thresholds=steps("text", (1, "red")), unknown="-")
_SUCCESS = numbers(values={"0": ("fail", "red"), "1": ("succeed", "green")})
_UP_RATIO = numbers("percentunit", decimals=1, thresholds=steps("red", (0.9, "orange"), (1, "green")))
_LIMIT_LEFT = numbers("percentunit", decimals=1, thresholds=steps("red", (0.2, "orange"), (0.4, "green")))
_IDENTITY = (Column("Workspace", "workspace"), Column("Kind", "kind"))
_select = functools.partial(select, variables=("workspace",))
# Requests are counted over at least four times this step, which is longer than the usual `refresh_interval`.
_rate_chart = functools.partial(chart, min_step="5m")


def exporter_rows() -> Iterator[Row]:
    """Yield the rows of the dashboard."""
    yield Row("", [*_tiles(), _workspaces(), *_limit_and_state_panels(), _failing(), _unlisted()])
    yield Row("Requests to Braze", [*_request_panels()])
    yield Row("Age of the data", [*_age_panels()])
    yield Row("Process", [*_process_panels()])


def _total_by(expr: str, *labels: str) -> str:
    """Return the sum of an expression by these labels."""
    return f"sum by ({', '.join(labels)}) ({expr})"


def _latest(family: Family, *matchers: str) -> str:
    """Return the current values of a gauge over all Prometheus targets."""
    return max_by(_select(family, *matchers), family.labels)


def _oldest_success() -> str:
    """Return the time since the oldest last success of a query, by workspace."""
    return f"time() - min by (workspace) ({_latest(QUERY_LAST_SUCCESS)} > 0)"


def _count(*states: QueryStatus) -> str:
    """Return the number of queries in one of the states by workspace, or of all queries."""
    matchers = [f'state=~"{"|".join(states)}"'] if states else []
    return _total_by(_latest(metrics.QUERIES, *matchers), "workspace")


def _rejections() -> str:
    """Return the requests with a rejected key, as long as the exporter can be scraped."""
    failed = _select(metrics.REQUESTS_FAILED, f'reason=~"{Reason.UNAUTHORIZED}|{Reason.FORBIDDEN}"')
    return f"{_total_by(f'increase({failed}[10m])', 'workspace')} and on (workspace) {_select(metrics.QUERIES)}"


def _limit_left(*labels: str) -> str:
    ratio = f"{_select(metrics.RATE_LIMIT_REMAINING)} / {_select(metrics.RATE_LIMIT)}"
    return f"min by ({', '.join(labels)}) ({ratio})"


def _tiles() -> Iterator[Json]:
    failed_writes = f"increase({metrics.STATE_WRITE_FAILURES.name}[15m]) > bool 0"
    list_problems = f"{_latest(metrics.QUERY_UNLISTED)} or {_latest(metrics.DISCOVERY_SKIPPED)}"
    yield stat(
        "Exporter",
        "Whether Prometheus can scrape the exporter. Unknown if it scraped none in the last day.",
        f"min(up and on (job, instance) last_over_time({metrics.BUILD_INFO.name}[1d]))",
        numbers(values={"0": ("down", "red"), "1": ("up", "green")}),
    )
    yield stat(
        "Fetches",
        "Whether the last fetch of at least one query succeeded, in each workspace.",
        f"min({_select(metrics.UP)})",
        _SUCCESS,
    )
    yield stat(
        "API key",
        "Whether Braze answered requests with 401 or 403 in the last 10 minutes. The log names the permission.",
        f"sum({_rejections()}) > bool 0",
        numbers(values={"0": ("accepted", "green"), "1": ("rejected", "red")}),
    )
    yield stat(
        "Queries up",
        "Share of the queries whose last fetch succeeded and whose values are not stale.",
        f"sum({_count(QueryStatus.UP)}) / sum({_count()})",
        _UP_RATIO,
    )
    yield stat(
        "Stale queries",
        "Queries whose values are older than `max_age`, so that they are no longer exported.",
        f"sum({_count(QueryStatus.STALE)})",
        numbers(thresholds=steps("green", (1, "red"))),
    )
    yield stat(
        "Rate limit left",
        "Smallest share of Braze's rate limits that is left in the window, after all requests of your company.",
        f"min({_limit_left('workspace')})",
        _LIMIT_LEFT,
    )
    yield stat(
        "List problems",
        "Names and ids of the config that Braze does not list, and matching items without a query.",
        f"sum({list_problems}) or 0 * count({_select(metrics.QUERIES)})",
        numbers(thresholds=steps("green", (1, "orange"))),
    )
    yield stat(
        "Config, state",
        "Whether the last reload of the config and all writes of the state file in the last 15 minutes succeeded.",
        f"max(({metrics.RELOAD_SUCCESSFUL.name} == bool 0) + ({failed_writes})) > bool 0",
        numbers(values={"0": ("good", "green"), "1": ("failing", "red")}),
    )


def _workspaces() -> Json:
    zone = numbers(values={"0": ("as in Braze", "green"), "1": ("differs", "red")}, unknown="-")
    columns = [
        ("Fetches", _select(metrics.UP), _SUCCESS),
        ("Rejected in 10 min", _rejections(), _ERRORS),
        ("Queries", _count(), _COUNT),
        ("Queries up", f"{_count(QueryStatus.UP)} / {_count()}", _UP_RATIO),
        ("Failed or stale", _count(QueryStatus.FAILED, QueryStatus.STALE), _ERRORS),
        ("Deferred", _count(QueryStatus.DEFERRED), _WARNINGS),
        ("Oldest success", _oldest_success(), _SECONDS),
        ("Rate limit left", _limit_left("workspace"), _LIMIT_LEFT),
        ("Time zone", _latest(metrics.TIMEZONE_MISMATCH), zone),
    ]
    return table(
        "Workspaces",
        "The state of each workspace. The time zone is checked with daily queries: whether Braze's days are those of "
        "`timezone`.",
        [
            Column("Workspace", "workspace"),
            *(Column(title, expr=max_by(expr, ("workspace",)), field=field) for title, expr, field in columns),
        ],
        height=5,
    )


def _limit_and_state_panels() -> Iterator[Json]:
    yield chart(
        "Rate limit left",
        "Share of Braze's rate limits that is left in the window, after all requests of your company. At or below the "
        "reserve, the exporter makes no requests until the window ends.",
        {
            _limit_left("workspace", "pool"): "{{workspace}} {{pool}}",
            f"max({metrics.BUDGET_RESERVE.name})": "reserve",
        },
        unit="percentunit",
        decimals=1,
        width=8,
        colors={"reserve": "red"},
    )
    endpoints: list[Endpoint] = [*KINDS, *LIST_ENDPOINTS]
    legends = {}
    for pool in dict.fromkeys(endpoint.pool for endpoint in endpoints):
        paths = "|".join(dict.fromkeys(endpoint.path for endpoint in endpoints if endpoint.pool == pool))
        requests = _select(metrics.REQUESTS, f'path=~"{paths}"')
        used = f"{_total_by(f'increase({requests}[1h])', 'workspace')} / {3_600 / pool.window_seconds:g}"
        limit = _latest(metrics.RATE_LIMIT, f'pool="{pool.name}"')
        legends[f"{used} / on (workspace) group_right () {limit}"] = "{{workspace}} {{pool}}"
    yield chart(
        "Rate limit used by this exporter",
        "Share of Braze's rate limits that the exporter uses, on average over an hour. At most `budget.share`. Your "
        "other clients use the rest.",
        legends,
        unit="percentunit",
        decimals=2,
        width=8,
    )
    yield chart(
        "Queries by state",
        "Queries are pending before their first fetch, stale if their values are older than `max_age`, deferred if "
        "rate limiting delays them, or failed if the last fetch failed.",
        {f"sum({_count(state)})": state.value for state in _COLORS},
        style="stacked",
        width=8,
        colors={state.value: color for state, color in _COLORS.items()},
    )


def _failing() -> Json:
    failed = f"{_latest(QUERY_UP)} == 0"
    exprs = f"time() - ({_latest(QUERY_LAST_SUCCESS)} > 0 and {failed})", f"{_latest(QUERY_MAX_AGE)} and {failed}"
    names = ", ".join(f'"{label}"' for label in ("event", "product", "campaign", "canvas", "segment", "braze_app"))
    since, max_age = (f'label_join({expr}, "subject", " ", {names})' for expr in exprs)
    return table(
        "Failing queries",
        "Queries whose last fetch failed, and the time since the last success. Their values disappear at the maximum "
        "age. The status page shows Braze's error message.",
        [
            *_IDENTITY,
            Column("Unit", "unit", width=70),
            Column("Subject", "subject"),
            Column("Last success", expr=since, field=numbers("s", decimals=None, unknown="never"), width=120),
            Column("Maximum age", expr=max_age, field=_SECONDS, width=120),
        ],
        width=12,
        no_value="No query is failing, or the exporter is down.",
        sort=("Last success", True),
    )


def _unlisted() -> Json:
    lists = f'label_replace({_latest(metrics.LIST_SUSPECT)} == 1, "kind", "$1", "list", "(.*)")'
    problems = {
        "not in Braze's list": f"{_latest(metrics.QUERY_UNLISTED)} == 1",
        "matching items without a query": f"{_latest(metrics.DISCOVERY_SKIPPED)} > 0",
        "list has lost most of its items": lists,
    }
    count = union(with_label(expr, "problem", problem) for problem, expr in problems.items())
    return table(
        "Unlisted and skipped",
        "Names and ids of the config that Braze does not list, items that selectors match and that have no query "
        "because of `max_queries` or the budget, and lists that have lost most of their items.",
        [
            *_IDENTITY,
            Column("Problem", "problem"),
            Column("Subject", "subject"),
            Column("Count", expr=count, field=_COUNT, width=90),
        ],
        width=12,
        no_value="Everything is listed, or the exporter is down.",
    )


def _request_panels() -> Iterator[Json]:
    def by(function: str, family: Family, label: str) -> str:
        return _total_by(f"{function}({_select(family)}[$__rate_interval])", "workspace", label)

    rates = _total_by(f"rate({_select(metrics.DURATION, suffix='_bucket')}[$__rate_interval])", "workspace", "le")
    yield _rate_chart(
        "Request duration",
        "Percentiles of the time from a request to its complete response.",
        {f"histogram_quantile({share}, {rates})": f"{{{{workspace}}}} p{share * 100:g}" for share in (0.5, 0.95, 0.99)},
        unit="s",
    )
    yield _rate_chart(
        "Failed requests",
        "Requests to Braze that failed, by reason. They are retried.",
        {f"{by('increase', metrics.REQUESTS_FAILED, 'reason')} > 0": "{{workspace}} {{reason}}"},
        style="bars",
        no_value="No request failed.",
    )
    yield _rate_chart(
        "Requests to Braze",
        "Requests per minute by status code. The code is none for requests without a response.",
        {f"{by('rate', metrics.REQUESTS, 'code')} * 60": "{{workspace}} {{code}}"},
        unit="reqpm",
        style="stacked",
    )
    yield _rate_chart(
        "Deferred requests",
        "Requests that were due but deferred because of the budget, the reserve or a 429. They are made later.",
        {f"{by('increase', metrics.DEFERRED, 'pool')} > 0": "{{workspace}} {{pool}}"},
        style="bars",
        no_value="No request was deferred.",
    )


def _age_panels() -> Iterator[Json]:
    since_settled = f"time() - min by (workspace, kind, unit) ({_latest(QUERY_SETTLED_START)})"
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
        {_oldest_success(): "{{workspace}}"},
        unit="s",
    )
    buckets = _total_by(f"rate({_select(metrics.REVISION_DELAY, suffix='_bucket')}[24h])", "workspace", "kind", "le")
    yield chart(
        "Revision delay",
        "95th percentile of the time from the end of a bucket to a later change of its value, over 24 hours. If it is "
        "longer than `settle`, raise `settle`.",
        {f"histogram_quantile(0.95, {buckets})": "{{workspace}} {{kind}}"},
        unit="s",
        interval="30m",
    )
    age = f"time() - ({_latest(metrics.LIST_LAST_SUCCESS)} > 0)"
    yield table(
        "Lists and selectors",
        "Items in Braze's lists, those that selectors match, and the time since the last complete read of each list.",
        [
            *_IDENTITY,
            Column("Items", expr=_latest(metrics.DISCOVERY_ITEMS), field=_COUNT),
            Column("Matched", expr=_latest(metrics.DISCOVERY_MATCHED), field=_COUNT),
            Column("Skipped", expr=_latest(metrics.DISCOVERY_SKIPPED), field=_WARNINGS),
            Column("Last read", expr=f'label_replace({age}, "kind", "list of $1", "list", "(.*)")', field=_SECONDS),
        ],
        width=12,
        no_value="No list is read, or the exporter is down.",
    )


def _process_panels() -> Iterator[Json]:
    build = max_by(f"last_over_time({metrics.BUILD_INFO.name}[1d])", ("job", "instance", "version", "python_version"))
    yield table(
        "Exporters",
        "The exporters that Prometheus scraped in the last day. Each workspace must have exactly one. Click on an "
        "instance to open its status page.",
        [
            Column("Job", "job"),
            Column("Instance", "instance", link="http://${__value.raw}/"),
            Column("Version", "version"),
            Column("Python", "python_version"),
            Column("Scrapes", expr=f"up * on (job, instance) group_right () {build}", field=_SUCCESS),
        ],
        width=12,
        no_value="No exporter was scraped in the last day.",
    )
    for title, description, expr, unit in (
        ("Scrape duration", "Duration of the scrapes by Prometheus.", "scrape_duration_seconds", "s"),
        ("Memory", "Resident memory of the exporter.", "process_resident_memory_bytes", "bytes"),
        ("CPU", "CPU time of the exporter, in cores.", "rate(process_cpu_seconds_total[$__rate_interval])", "short"),
    ):
        per_target = f"{expr} and on (job, instance) {metrics.BUILD_INFO.name}"
        yield chart(title, description, {per_target: "{{instance}}"}, unit=unit, min_step="1m")
    counters = {"incomplete scrapes": metrics.SCRAPES_INCOMPLETE, "failed writes": metrics.STATE_WRITE_FAILURES}
    yield _rate_chart(
        "Incomplete scrapes and failed writes",
        "Scrapes that reached their deadline before all due queries were fetched, and failed writes of the state file. "
        "After a failed write, counters do not increase until a write succeeds.",
        {
            f"increase({family.name}[$__rate_interval]) > 0": f"{{{{instance}}}} {name}"
            for name, family in counters.items()
        },
        style="bars",
        width=24,
        no_value="No scrape was incomplete, and no write failed.",
    )
