"""The dashboard "Braze exporter": whether the exporter works, for those who run it. It is the same for all configs."""

from collections.abc import Iterator

from braze_exporter.braze.errors import Reason
from braze_exporter.braze.kinds import KINDS
from braze_exporter.braze.lists import LIST_ENDPOINTS
from braze_exporter.braze.pools import Endpoint
from braze_exporter.metrics import self_families as metrics
from braze_exporter.metrics.families import QUERY_LAST_SUCCESS, QUERY_MAX_AGE, QUERY_UP
from braze_exporter.metrics.promql import max_by
from braze_exporter.metrics.self_families import QueryStatus
from braze_exporter.monitoring.exporter_details import (
    BUILD,
    COUNT,
    IDENTITY,
    SECONDS,
    SUCCESS,
    WARNINGS,
    detail_rows,
    latest,
    oldest_success,
    select,
    total_by,
)
from braze_exporter.monitoring.panels import GREY, Column, Json, Row, chart, numbers, stat, steps, table
from braze_exporter.monitoring.series_groups import union, with_label

_COLORS = {
    QueryStatus.UP: "green",
    QueryStatus.FAILED: "red",
    QueryStatus.DEFERRED: "orange",
    QueryStatus.STALE: "purple",
    QueryStatus.PENDING: GREY,
}
_ERRORS = numbers(thresholds=steps("text", (1, "red")), unknown="-")
_UP_RATIO = numbers("percentunit", decimals=1, thresholds=steps("red", (0.9, "orange"), (1, "green")))
_LIMIT_LEFT = numbers("percentunit", decimals=1, thresholds=steps("red", (0.2, "orange"), (0.4, "green")))


def exporter_rows() -> Iterator[Row]:
    """Yield the rows of the dashboard."""
    yield Row("", [*_tiles(), _workspaces(), *_limit_panels(), _states_panel(), _failing(), _unlisted()])
    yield from detail_rows()


def _count(*states: QueryStatus) -> str:
    """Return the number of queries in one of the states by workspace, or of all queries."""
    matchers = [f'state=~"{"|".join(states)}"'] if states else []
    return total_by(latest(metrics.QUERIES, *matchers), "workspace")


def _rejections() -> str:
    """Return the requests with a rejected key, as long as the exporter can be scraped."""
    failed = select(metrics.REQUESTS_FAILED, f'reason=~"{Reason.UNAUTHORIZED}|{Reason.FORBIDDEN}"')
    return f"{total_by(f'increase({failed}[10m])', 'workspace')} and on (workspace) {select(metrics.QUERIES)}"


def _limit_left(*labels: str) -> str:
    ratio = f"{select(metrics.RATE_LIMIT_REMAINING)} / {select(metrics.RATE_LIMIT)}"
    return f"min by ({', '.join(labels)}) ({ratio})"


def _tiles() -> Iterator[Json]:
    failed_writes = f"increase({metrics.STATE_WRITE_FAILURES.name}[15m]) > bool 0"
    reload = metrics.RELOAD_SUCCESSFUL.name
    list_problems = f"{latest(metrics.QUERY_UNLISTED)} or {latest(metrics.DISCOVERY_SKIPPED)}"
    for title, description, expr, field in (
        (
            "Exporter",
            "Whether Prometheus can scrape the exporter. Unknown if it scraped none in the last day.",
            f"min(up and on (job, instance) last_over_time({BUILD}[1d]))",
            numbers(values={"0": ("down", "red"), "1": ("up", "green")}),
        ),
        (
            "Fetches",
            "Whether the last fetch of at least one query succeeded, in each workspace.",
            f"min({select(metrics.UP)})",
            SUCCESS,
        ),
        (
            "API key",
            "Whether Braze answered requests with 401 or 403 in the last 10 minutes. The log names the permission.",
            f"sum({_rejections()}) > bool 0",
            numbers(values={"0": ("accepted", "green"), "1": ("rejected", "red")}),
        ),
        (
            "Queries up",
            "Share of the queries whose last fetch succeeded and whose values are not stale.",
            f"sum({_count(QueryStatus.UP)}) / sum({_count()})",
            _UP_RATIO,
        ),
        (
            "Stale queries",
            "Queries whose values are older than `max_age`, so that they are no longer exported.",
            f"sum({_count(QueryStatus.STALE)})",
            numbers(thresholds=steps("green", (1, "red"))),
        ),
        (
            "Rate limit left",
            "Smallest share of Braze's rate limits that is left in the window, after all requests of your company.",
            f"min({_limit_left('workspace')})",
            _LIMIT_LEFT,
        ),
        (
            "List problems",
            "Names and ids of the config that Braze does not list, and matching items without a query.",
            f"sum({list_problems}) or 0 * count({select(metrics.QUERIES)})",
            numbers(thresholds=steps("green", (1, "orange"))),
        ),
        (
            "Config, state",
            "Whether the last reload of the config and all writes of the state file in the last 15 minutes succeeded.",
            f"max(({reload} == bool 0) + ({failed_writes})) > bool 0",
            numbers(values={"0": ("good", "green"), "1": ("failing", "red")}),
        ),
    ):
        yield stat(title, description, expr, field)


def _workspaces() -> Json:
    zone = numbers(values={"0": ("as in Braze", "green"), "1": ("differs", "red")}, unknown="-")
    columns = [
        ("Fetches", select(metrics.UP), SUCCESS),
        ("Rejected in 10 min", _rejections(), _ERRORS),
        ("Queries", _count(), COUNT),
        ("Queries up", f"{_count(QueryStatus.UP)} / {_count()}", _UP_RATIO),
        ("Failed or stale", _count(QueryStatus.FAILED, QueryStatus.STALE), _ERRORS),
        ("Deferred", _count(QueryStatus.DEFERRED), WARNINGS),
        ("Oldest success", oldest_success(), SECONDS),
        ("Rate limit left", _limit_left("workspace"), _LIMIT_LEFT),
        ("Time zone", latest(metrics.TIMEZONE_MISMATCH), zone),
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


def _limit_panels() -> Iterator[Json]:
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
        requests = select(metrics.REQUESTS, f'path=~"{paths}"')
        used = f"{total_by(f'increase({requests}[1h])', 'workspace')} / {3_600 / pool.window_seconds:g}"
        limit = latest(metrics.RATE_LIMIT, f'pool="{pool.name}"')
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


def _states_panel() -> Json:
    return chart(
        "Queries by state",
        "Queries are pending before their first fetch, stale if their values are older than `max_age`, deferred if "
        "rate limiting delays them, or failed if the last fetch failed.",
        {f"sum({_count(state)})": state.value for state in _COLORS},
        style="stacked",
        width=8,
        colors={state.value: color for state, color in _COLORS.items()},
    )


def _failing() -> Json:
    subject = ", ".join(f'"{label}"' for label in ("event", "product", "campaign", "canvas", "segment", "braze_app"))

    def named(expr: str) -> str:
        return f'label_join({expr}, "subject", " ", {subject})'

    failed = f"{latest(QUERY_UP)} == 0"
    since = named(f"time() - ({latest(QUERY_LAST_SUCCESS)} > 0 and {failed})")
    max_age = named(f"{latest(QUERY_MAX_AGE)} and {failed}")
    return table(
        "Failing queries",
        "Queries whose last fetch failed, and the time since the last success. Their values disappear at the maximum "
        "age. The status page shows Braze's error message.",
        [
            *IDENTITY,
            Column("Unit", "unit", width=70),
            Column("Subject", "subject"),
            Column("Last success", expr=since, field=numbers("s", decimals=None, unknown="never"), width=120),
            Column("Maximum age", expr=max_age, field=SECONDS, width=120),
        ],
        width=12,
        no_value="No query is failing, or the exporter is down.",
        sort=("Last success", True),
    )


def _unlisted() -> Json:
    lists = f'label_replace({latest(metrics.LIST_SUSPECT)} == 1, "kind", "$1", "list", "(.*)")'
    problems = {
        "not in Braze's list": f"{latest(metrics.QUERY_UNLISTED)} == 1",
        "matching items without a query": f"{latest(metrics.DISCOVERY_SKIPPED)} > 0",
        "list has lost most of its items": lists,
    }
    count = union(with_label(expr, "problem", problem) for problem, expr in problems.items())
    return table(
        "Unlisted and skipped",
        "Names and ids of the config that Braze does not list, items that selectors match and that have no query "
        "because of `max_queries` or the budget, and lists that have lost most of their items.",
        [
            *IDENTITY,
            Column("Problem", "problem"),
            Column("Subject", "subject"),
            Column("Count", expr=count, field=COUNT, width=90),
        ],
        width=12,
        no_value="Everything is listed, or the exporter is down.",
    )
