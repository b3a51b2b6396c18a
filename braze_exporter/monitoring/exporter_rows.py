"""The dashboard rows for the calls to Braze and for the exporter itself."""

from collections.abc import Iterator

from braze_exporter.braze.kinds import Unit
from braze_exporter.metrics.families import Family
from braze_exporter.metrics.self_metrics import (
    BUILD_INFO,
    DEFERRED,
    DURATION,
    QUERIES,
    RATE_LIMIT,
    RATE_LIMIT_REMAINING,
    RELOAD_SUCCESSFUL,
    REQUESTS,
    REQUESTS_FAILED,
    REVISION_DELAY,
    SCRAPES_INCOMPLETE,
    STATE_WRITE_FAILURES,
    TIMEZONE_MISMATCH,
    QueryStatus,
)
from braze_exporter.monitoring.panel_groups import legend, self_metric, styled_target
from braze_exporter.monitoring.panels import Panel, Row, Target, chart, stat, steps
from braze_exporter.scheduler.plan import Plan

_MINUTE = 60.0
_RECENT = "$__rate_interval"

_COLORS = {
    QueryStatus.UP: "green",
    QueryStatus.FAILED: "red",
    QueryStatus.DEFERRED: "orange",
    QueryStatus.STALE: "purple",
    QueryStatus.PENDING: "#8e8e8e",
}
_PROBLEMS = {SCRAPES_INCOMPLETE: ("incomplete scrapes", "orange"), STATE_WRITE_FAILURES: ("failed writes", "red")}


def api_row(plan: Plan, reserve: float) -> Row:
    """Return the row for the calls to Braze and the rate limit.

    `reserve` is the fraction of the rate limit that the exporter leaves to the company's sends.
    """
    # Each interval must include a call, or the response time would have no data.
    often = f"{round(max(min(query.refresh for query in plan.queries), _MINUTE))}s"
    code, reason, pool = (legend(plan, [label]) for label in ("code", "reason", "pool"))
    calls = [
        chart(
            "Calls to Braze",
            "Calls a minute by the status of the answer; none is a call without an answer.",
            [Target(f"sum by (workspace, code) (rate({self_metric(REQUESTS)}[{_RECENT}])) * 60", code)],
            unit="reqpm",
            interval=often,
            style="stacked",
        ),
        chart(
            "Errors",
            "Calls that were not answered, by reason. Empty if all is well.",
            [Target(f"sum by (workspace, reason) (increase({self_metric(REQUESTS_FAILED)}[{_RECENT}])) > 0", reason)],
            unit="short",
            interval=often,
            style="bars",
        ),
        chart(
            "Time to an answer",
            "From a call to the whole of its answer: so many of a hundred took no longer.",
            list(_quantiles(plan, DURATION, _RECENT, (0.5, 0.95, 0.99))),
            unit="s",
            interval=often,
        ),
    ]
    left, limit = (f"max by (workspace, pool) ({self_metric(family)})" for family in (RATE_LIMIT_REMAINING, RATE_LIMIT))
    budget = [
        chart(
            "Rate limit",
            "The share that Braze says is left of its rate limit in this window, whoever used it. At the line, which "
            "is the reserve, the exporter makes no more calls until the window ends.",
            [Target(f"{left}\n  / {limit}", pool)],
            unit="percentunit",
            interval="1m",
            limit=reserve,
        ),
        chart(
            "Calls put off",
            "Calls that were due and not made, for the budget, the reserve or a 429. They are made later; the last "
            "values stay until they are too old.",
            [Target(f"sum by (workspace, pool) (increase({self_metric(DEFERRED)}[{_RECENT}]))", pool)],
            unit="short",
            interval=often,
            style="bars",
        ),
        chart(
            "Queries by state",
            "pending was never tried, stale is too old to be shown, deferred is put off, failed was not answered.",
            [styled_target(plan, _in_state(state), state.value, color) for state, color in _COLORS.items()],
            unit="short",
            interval="1m",
            style="stacked",
        ),
    ]
    return Row("Braze's API", (calls, budget))


def exporter_row(plan: Plan) -> Row:
    """Return the row for revision delays and for the exporter itself."""
    charts = [
        chart(
            "How late Braze revises",
            "How long after its end a bucket still changed, in the 24 hours before: so many of a hundred changes came "
            "within that. Set `settle` by it; the line is the longest of the config.",
            list(_quantiles(plan, REVISION_DELAY, "24h", (0.5, 0.9, 0.99))),
            unit="s",
            interval="30m",
            limit=max(query.settle for query in plan.queries),
        ),
        chart(
            "Trouble of the exporter",
            "Scrapes whose deadline came before every due answer, and writes of the state file that failed, while "
            "which the counters stand still.",
            [
                styled_target(plan, f"sum(increase({self_metric(family)}[{_RECENT}]))", words, color)
                for family, (words, color) in _PROBLEMS.items()
            ],
            unit="short",
            interval="1m",
            style="bars",
        ),
    ]
    return Row("The exporter", (charts, list(_exporter_panels(plan))))


def _exporter_panels(plan: Plan) -> Iterator[Panel]:
    yield stat(
        "Last reload",
        "Whether the config could be used when it was last read. If not, the one before goes on; the log says why.",
        Target(f"min({self_metric(RELOAD_SUCCESSFUL)})"),
        thresholds=steps("red", (1, "green")),
        words={"1": "good", "0": "failed"},
    )
    if any(query.unit is Unit.DAY for query in plan.queries):
        yield stat(
            "Time zone",
            "Whether the days of a workspace begin when those of its `timezone` do. Not judged around midnight.",
            Target(f"max({self_metric(TIMEZONE_MISMATCH)})"),
            thresholds=steps("green", (1, "red")),
            words={"0": "as in Braze", "1": "not that of Braze"},
        )
    yield stat(
        "Version",
        "The version that runs, and how many of it: one exporter for a workspace.",
        Target(f"sum by (version) ({self_metric(BUILD_INFO)})", "{{version}}"),
        thresholds=steps("text"),
    )


def _in_state(state: QueryStatus) -> str:
    queries = self_metric(QUERIES, f'state="{state}"')
    return f"sum(max by (workspace, kind) ({queries}))"


def _quantiles(plan: Plan, family: Family, span: str, shares: tuple[float, ...]) -> Iterator[Target]:
    buckets = self_metric(family).replace(family.name, f"{family.name}_bucket", 1)
    for share in shares:
        expr = f"histogram_quantile({share:g}, sum by (workspace, le) (rate({buckets}[{span}])))"
        yield Target(expr, legend(plan, [], f"{share * 100:g} %"))
