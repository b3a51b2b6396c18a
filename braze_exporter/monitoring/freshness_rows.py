"""The dashboard row for the age of the values, and the panels at the top that show problems of the exporter."""

from collections.abc import Iterator, Sequence

from braze_exporter.braze.kinds import Unit
from braze_exporter.braze.query import Query
from braze_exporter.metrics.families import QUERY_LAST_SUCCESS, QUERY_SETTLED_START, QUERY_UP, Family
from braze_exporter.metrics.promql import max_by, quote
from braze_exporter.metrics.self_metrics import QUERIES, RATE_LIMIT, RATE_LIMIT_REMAINING, REQUESTS_FAILED, QueryStatus
from braze_exporter.monitoring.panel_groups import (
    is_id,
    legend_of,
    panel_groups,
    select_any,
    self_metric,
    variable_matcher,
)
from braze_exporter.monitoring.panels import Panel, Row, Target, chart, stat, steps, timeline
from braze_exporter.scheduler.plan import Plan

_MAX_SERIES = 20
_MIN_RESPONSE_AGE_SECONDS = 600.0


def check_panels(plan: Plan, reserve: float) -> Iterator[Panel]:
    """Yield the stat panels at the top of the dashboard.

    `reserve` is the fraction of a rate limit that the exporter leaves to the company's sends.
    """
    up = self_metric(QUERIES, f'state="{QueryStatus.UP}"')
    yield stat(
        "Queries up",
        "Share of queries with the state up: the last fetch succeeded, and the values are not stale. The panel Queries "
        "by state shows the others.",
        Target(
            f"sum(max by (workspace, kind, state) ({up}))\n  / sum(max by (workspace, kind, state) "
            f"({self_metric(QUERIES)}))"
        ),
        unit="percentunit",
        decimals=1,
        thresholds=steps("red", (0.9, "orange"), (1, "green")),
    )
    yield stat(
        "Rate limit remaining",
        "Smallest remaining share of Braze's rate limits. Your own requests count too. "
        f"At or below {reserve * 100:g}%, the exporter makes no requests.",
        Target(f"min(\n  {self_metric(RATE_LIMIT_REMAINING)}\n  / {self_metric(RATE_LIMIT)}\n)"),
        unit="percentunit",
        decimals=1,
        thresholds=steps("red", (reserve, "orange"), (reserve + (1 - reserve) / 4, "green")),
    )
    for unit, queries in _queries_by_unit(plan):
        yield stat(
            f"Oldest settled {unit}",
            f"Time since the start of the oldest {unit} that is exported as settled. Up to `settle` plus two {unit}s "
            f"is normal. More than `settle` plus three {unit}s indicates a problem.",
            Target(f"time() - min({_by_query(queries, QUERY_SETTLED_START)})"),
            unit="s",
            decimals=1,
            thresholds=steps("green", (_max_settled_age(queries), "red")),
        )
    yield stat(
        "Oldest success",
        "Longest time since the last successful fetch of a query. Queries that have never succeeded are excluded. "
        "Queries up shows whether there are any.",
        Target(f"time() - min({_selected(plan.queries, QUERY_LAST_SUCCESS)} > 0)"),
        unit="s",
        decimals=1,
        thresholds=steps("green", (_max_response_age(plan.queries), "red")),
    )
    yield stat(
        "Failed requests in 1 hour",
        "Requests to Braze that failed in the last hour. The panel Failed requests shows the reasons.",
        Target(f"sum(increase({self_metric(REQUESTS_FAILED)}[1h]))"),
        thresholds=steps("green", (0.5, "orange")),
    )


def freshness_row(plan: Plan) -> Row:
    """Return the row for the age of the values and for the queries that fail."""
    name = legend_of(plan, panel_groups(plan))
    ages = [
        chart(
            f"Age of the settled {unit}",
            f"Time since the start of the newest settled {unit}. It rises until the next {unit} settles. If it exceeds "
            "the line, Braze has no newer data, or fetches fail.",
            [Target(f"topk({_MAX_SERIES}, time() - {_by_query(queries, QUERY_SETTLED_START)})", name)],
            unit="s",
            interval="1m",
            limit=_max_settled_age(queries),
        )
        for unit, queries in _queries_by_unit(plan)
    ]
    since = [
        Target(f"topk({_MAX_SERIES}, time() - ({_by_query(queries, QUERY_LAST_SUCCESS)} > 0))", f"{name} {unit.adverb}")
        for unit, queries in _queries_by_unit(plan)
    ]
    failed = [
        Target(f"{_by_query(queries, QUERY_UP)} == 0", f"{name} {unit.adverb}")
        for unit, queries in _queries_by_unit(plan)
    ]
    responses = [
        chart(
            "Time since last success",
            "Time since the last successful fetch of each query. It usually falls to zero once per refresh interval.",
            since,
            unit="s",
            interval="1m",
            limit=_max_response_age(plan.queries),
        ),
        timeline(
            "Failed queries",
            "Queries whose last fetch failed. Empty if none failed.",
            failed,
            states={"0": {"text": "failed", "color": "red", "index": 0}},
        ),
    ]
    return Row("Freshness", (ages, responses))


def _queries_by_unit(plan: Plan) -> Iterator[tuple[Unit, Sequence[Query]]]:
    for unit in Unit:
        queries = [query for query in plan.queries if query.unit is unit]
        if queries:
            yield unit, queries


def _selected(queries: Sequence[Query], family: Family, *matchers: str) -> str:
    """Return the selector for all these queries in one of the `QUERY_FAMILIES`, limited to the selected values."""
    plain = dict.fromkeys(
        name for query in queries for name in ("workspace", *query.kind.metric_group.labels) if not is_id(name)
    )
    chosen = (
        variable_matcher(name, or_none=any(name not in dict(query.labels) for query in queries)) for name in plain
    )
    return select_any([family], *matchers, *chosen)


def _by_query(queries: Sequence[Query], family: Family) -> str:
    """Return the PromQL for these queries in one of the `QUERY_FAMILIES`: one series for each query.

    All queries must have the same unit.
    """
    labels = dict.fromkeys(name for query in queries for name, _ in query.labels)
    return max_by(_selected(queries, family, f"unit={quote(queries[0].unit)}"), ("kind", *labels))


def _max_settled_age(queries: Sequence[Query]) -> float:
    """Return the maximum normal age of the newest settled bucket in seconds: `settle` plus three units.

    The query alerts use the same age.
    """
    return max(query.settle_seconds + 3 * query.unit.seconds for query in queries)


def _max_response_age(queries: Sequence[Query]) -> float:
    """Return the maximum normal time since the last success, in seconds.

    It is three refresh intervals, but at least 10 minutes.
    """
    return max(_MIN_RESPONSE_AGE_SECONDS, 3 * max(query.refresh_seconds for query in queries))
