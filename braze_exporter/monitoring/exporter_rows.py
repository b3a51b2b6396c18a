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

_MINUTE_SECONDS = 60.0
_RATE_INTERVAL = "$__rate_interval"

_COLORS = {
    QueryStatus.UP: "green",
    QueryStatus.FAILED: "red",
    QueryStatus.DEFERRED: "orange",
    QueryStatus.STALE: "purple",
    QueryStatus.PENDING: "#8e8e8e",
}
_ERRORS = {SCRAPES_INCOMPLETE: ("incomplete scrapes", "orange"), STATE_WRITE_FAILURES: ("failed writes", "red")}


def api_row(plan: Plan, reserve: float) -> Row:
    """Return the row for the calls to Braze and the rate limit.

    `reserve` is the fraction of the rate limit that the exporter leaves to the company's sends.
    """
    # Each interval must include a request. Otherwise the request duration would have no data.
    min_interval = f"{round(max(min(query.refresh_seconds for query in plan.queries), _MINUTE_SECONDS))}s"
    code, reason, pool = (legend(plan, [label]) for label in ("code", "reason", "pool"))
    calls = [
        chart(
            "Requests to Braze",
            "Requests per minute by status code. The code is none for requests without a response.",
            [Target(f"sum by (workspace, code) (rate({self_metric(REQUESTS)}[{_RATE_INTERVAL}])) * 60", code)],
            unit="reqpm",
            interval=min_interval,
            style="stacked",
        ),
        chart(
            "Failed requests",
            "Requests to Braze that failed, by reason. Empty if none failed.",
            [
                Target(
                    f"sum by (workspace, reason) (increase({self_metric(REQUESTS_FAILED)}[{_RATE_INTERVAL}])) > 0",
                    reason,
                )
            ],
            unit="short",
            interval=min_interval,
            style="bars",
        ),
        chart(
            "Request duration",
            "Percentiles of the time from a request to its complete response.",
            list(_quantiles(plan, DURATION, _RATE_INTERVAL, (0.5, 0.95, 0.99))),
            unit="s",
            interval=min_interval,
        ),
    ]
    remaining, limit = (
        f"max by (workspace, pool) ({self_metric(family)})" for family in (RATE_LIMIT_REMAINING, RATE_LIMIT)
    )
    budget = [
        chart(
            "Rate limit remaining by pool",
            "Share of Braze's rate limit that remains in the current window, after all requests of your company. The "
            "line is the reserve. At or below it, the exporter pauses its requests until the window ends.",
            [Target(f"{remaining}\n  / {limit}", pool)],
            unit="percentunit",
            interval="1m",
            limit=reserve,
        ),
        chart(
            "Deferred requests",
            "Requests that were due but deferred because of the budget, the reserve or a 429. They are made later. "
            "Until then, the exporter exports the last values, up to `max_age`.",
            [Target(f"sum by (workspace, pool) (increase({self_metric(DEFERRED)}[{_RATE_INTERVAL}]))", pool)],
            unit="short",
            interval=min_interval,
            style="bars",
        ),
        chart(
            "Queries by state",
            "Queries are pending before their first fetch, stale if their values are older than `max_age`, deferred if "
            "rate limiting delays them, or failed if the last fetch failed.",
            [styled_target(plan, _in_state(state), state.value, color) for state, color in _COLORS.items()],
            unit="short",
            interval="1m",
            style="stacked",
        ),
    ]
    return Row("Braze API", (calls, budget))


def exporter_row(plan: Plan) -> Row:
    """Return the row for revision delays and for the exporter itself."""
    charts = [
        chart(
            "Revision delay",
            "Percentiles of the time from the end of a bucket to a later change of its value, over 24 hours. The line "
            "is the longest `settle` of the config. If values are often above it, raise `settle`.",
            list(_quantiles(plan, REVISION_DELAY, "24h", (0.5, 0.9, 0.99))),
            unit="s",
            interval="30m",
            limit=max(query.settle_seconds for query in plan.queries),
        ),
        chart(
            "Exporter errors",
            "Scrapes that reached their deadline before all due queries were fetched, and failed writes of the state "
            "file. After a failed write, counters do not increase until a write succeeds.",
            [
                styled_target(plan, f"sum(increase({self_metric(family)}[{_RATE_INTERVAL}]))", name, color)
                for family, (name, color) in _ERRORS.items()
            ],
            unit="short",
            interval="1m",
            style="bars",
        ),
    ]
    return Row("Exporter", (charts, list(_exporter_panels(plan))))


def _exporter_panels(plan: Plan) -> Iterator[Panel]:
    yield stat(
        "Last config reload",
        "Whether the last config reload succeeded. If it failed, the exporter keeps the previous config, and the log "
        "lists the problems.",
        Target(f"min({self_metric(RELOAD_SUCCESSFUL)})"),
        thresholds=steps("red", (1, "green")),
        value_texts={"1": "succeeded", "0": "failed"},
    )
    if any(query.unit is Unit.DAY for query in plan.queries):
        yield stat(
            "Time zone",
            "Whether the days in Braze's responses match the `timezone` of their workspace. Not checked around "
            "midnight.",
            Target(f"max({self_metric(TIMEZONE_MISMATCH)})"),
            thresholds=steps("green", (1, "red")),
            value_texts={"0": "matches Braze", "1": "differs from Braze"},
        )
    yield stat(
        "Version",
        "Running exporters by version. Each workspace must have exactly one exporter.",
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
        yield Target(expr, legend(plan, [], f"p{share * 100:g}"))
