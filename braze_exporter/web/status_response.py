"""Builds the status of the exporter as JSON-serializable data for the status page."""

import functools
import itertools
from collections import Counter
from collections.abc import Sequence

from braze_exporter.braze.kinds import CUSTOM_EVENTS, SeriesKind, Unit
from braze_exporter.braze.metric_group import MetricGroup
from braze_exporter.braze.query import Query
from braze_exporter.braze.series import Series
from braze_exporter.exporter.exporter import Exporter
from braze_exporter.exporter.snapshot import ActiveWorkspace, Snapshot
from braze_exporter.metrics.collector import query_status
from braze_exporter.metrics.families import build_counter, build_gauge
from braze_exporter.metrics.self_families import (
    RATE_LIMIT,
    RATE_LIMIT_REMAINING,
    RATE_LIMIT_RESET,
    RELOAD_SUCCESSFUL,
    TIMEZONE_MISMATCH,
    QueryStatus,
)
from braze_exporter.metrics.self_metrics import SelfMetrics
from braze_exporter.metrics.series_view import SeriesView
from braze_exporter.scheduler.admission import LimiterStatus
from braze_exporter.scheduler.pool_usage import PoolUsage
from braze_exporter.web import status_lists, status_messages
from braze_exporter.web.status_headline import representative_view
from braze_exporter.web.status_types import PointsData, PoolData, QueryData, SeriesData, StatusResponse


def read_status_response(exporter: Exporter) -> StatusResponse:
    """Return the current status of `exporter`.

    Workspaces that are being added or removed are skipped. They have only views, or no views and no lists.
    """
    snapshot = exporter.snapshot()
    scraped_at = snapshot.scraped_at
    response: StatusResponse = {
        "version": snapshot.version,
        "now": snapshot.now,
        "scraped_at": scraped_at,
        "errors": status_messages.exporter_messages(
            scrape_age=snapshot.now - scraped_at if scraped_at is not None else None,
            is_config_good=snapshot.self_metrics.read_values(RELOAD_SUCCESSFUL).get((), 1.0) > 0,
            are_counters_stalled=snapshot.are_counters_stalled,
        ),
        "states": [
            {"state": state, "name": name, "level": level}
            for state, (name, level) in status_messages.STATUS_MESSAGES.items()
        ],
        "workspaces": [],
        "queries": [],
    }
    groups: dict[str, list[list[SeriesView]]] = {name: [] for name in snapshot.active_workspaces}
    for query_state, views in itertools.groupby(snapshot.views, key=lambda view: view.query_state):
        groups.get(query_state.query.workspace, []).append(list(views))
    for name, queries in groups.items():
        _add_workspace(response, snapshot, name, queries)
    return response


def _add_workspace(
    response: StatusResponse, snapshot: Snapshot, name: str, queries: Sequence[Sequence[SeriesView]]
) -> None:
    """Add a workspace and its queries to the response. Each item of `queries` has the series of one query."""
    workspace = snapshot.active_workspaces[name]
    zone = workspace.zone
    limiter_status = workspace.admission.status()

    def format_time_in(seconds: float) -> str:
        return status_messages.format_time(snapshot.now + seconds, zone, snapshot.now)

    states = [query_status(views[0].query_state, snapshot.monotonic) for views in queries]
    list_messages = status_lists.list_messages(
        name,
        workspace.plan,
        snapshot.lists.get(name, ()),
        limiter_status,
        format_time_in,
        now=snapshot.monotonic,
        has_queries=bool(queries),
    )
    if not queries and not list_messages:
        return
    kinds = [views[0].query_state.query.kind for views in queries]
    health = status_messages.workspace_health(
        Counter(states),
        limiter_status,
        {kind.path: kind.permission for kind in kinds},
        format_time_in,
        list_messages=list_messages,
        remaining_history=snapshot.remaining_history.get(name, 0),
        mismatched_zone=str(zone) if snapshot.self_metrics.read_values(TIMEZONE_MISMATCH).get((name,)) else "",
    )
    response["workspaces"].append(
        {
            "name": name,
            "url": workspace.url,
            "zone": str(zone),
            "level": health.level,
            "messages": health.messages,
            "pools": [_pool_data(usage, workspace, snapshot.self_metrics, name) for usage in workspace.pool_usage],
        }
    )
    response["queries"] += [
        _query_data(views, state, limiter_status, snapshot, format_time_in)
        for views, state in zip(queries, states, strict=True)
    ]


def _pool_data(usage: PoolUsage, workspace: ActiveWorkspace, self_metrics: SelfMetrics, name: str) -> PoolData:
    reported_limit, remaining, reset_at = (
        self_metrics.read_values(family).get((name, usage.pool.name))
        for family in (RATE_LIMIT, RATE_LIMIT_REMAINING, RATE_LIMIT_RESET)
    )
    limit = reported_limit or float(usage.pool.limit)
    return {
        "name": usage.pool.name,
        "limit": limit,
        "remaining": remaining,
        "reset_at": reset_at,
        "reserve": workspace.reserve * limit,
        "planned": usage.hourly_calls,
        "allowed": workspace.share * limit * 3_600 / usage.pool.window_seconds,
    }


def _query_data(
    views: Sequence[SeriesView],
    status: QueryStatus,
    limiter_status: LimiterStatus,
    snapshot: Snapshot,
    format_time_in: status_messages.TimeFormatter,
) -> QueryData:
    view = representative_view(views)
    query_state, response = view.query_state, view.response
    query, error = query_state.query, query_state.error
    pause = limiter_status.pauses.get(query.kind.pool.name)
    failure = limiter_status.key_failure or limiter_status.endpoint_failures.get(query.kind.path)
    wait = max(
        query_state.due_at - snapshot.monotonic,
        *(block.seconds for block in (pause, failure) if block is not None),
        0.0,
    )
    return {
        "workspace": query.workspace,
        "name": query.title or _group_text(view.series.head.metric_group),
        "tags": _tags(query, view.series),
        "labels": dict((*query.labels, *view.series.head.labels)),
        "series": [_series_data(item) for item in views] if len(query.metric_groups) > 1 else [],
        "unit": query.unit,
        "app_id": query.app_id,
        "segment_id": query.segment_id,
        "refresh": query.refresh_seconds,
        "settle": query.settle_seconds,
        "max_age": query.max_age_seconds,
        "state": status,
        "message": status_messages.query_message(query_state, status, pause, format_time_in),
        "error": {"reason": error.reason, "detail": error.detail, "failures": query_state.failures} if error else None,
        "last_success_at": response.received_at if response is not None else None,
        "next_at": snapshot.now + wait if wait > 0 else None,
        "in_flight": query_state.in_flight,
        "latest": view.latest,
        "latest_start": view.bucket_starts[0],
        "settled": view.settled,
        "settled_start": view.bucket_starts[1],
        "baseline": view.baseline,
        "baseline_weeks": query.baseline_weeks,
        "total": view.total,
        "metrics": _metric_names(
            query.kind, view.series.head.metric_group, query.unit, has_counter=view.total is not None
        ),
        "points": _points_data(view, query.unit) if response is not None else None,
    }


def _series_data(view: SeriesView) -> SeriesData:
    return {
        "metric_group": _group_text(view.series.head.metric_group),
        "labels": _short_labels(view.series),
        "latest": view.latest,
        "settled": view.settled,
        "total": view.total,
    }


def _short_labels(series: Series) -> list[str]:
    """Return the label values of a series for people, with ids only where the name is unknown."""
    values = dict(series.head.labels)
    return [
        value
        for name, value in series.head.labels
        if value and not (name.endswith("_id") and values[name.removesuffix("_id")])
    ]


def _tags(query: Query, series: Series) -> list[tuple[str, str]]:
    tags = [("unit", query.unit.adverb)]
    if query.title and query.kind is not CUSTOM_EVENTS:
        tags.append(("metric", _group_text(series.head.metric_group)))
    labels = (*query.labels, *series.head.labels)
    skipped = {"workspace", query.kind.subject_label, query.kind.subject_parameter}
    return tags + [(name.removeprefix("braze_"), value) for name, value in labels if value and name not in skipped]


def _group_text(metric_group: MetricGroup) -> str:
    """Return the name of a metric group in words."""
    return metric_group.name.partition("_by_")[0].replace("_", " ")


@functools.cache
def _metric_names(kind: SeriesKind, metric_group: MetricGroup, unit: Unit, *, has_counter: bool) -> list[str]:
    names = [build_gauge(kind, metric_group, unit, "settled").name]
    return [*names, build_counter(kind, metric_group).name] if has_counter else names


def _points_data(view: SeriesView, unit: Unit) -> PointsData:
    points = view.series.points
    first = points[0].start if points else 0
    # Hourly buckets start on the hour and are unique. So if their number matches the range, none is missing.
    is_whole = unit is Unit.HOUR and bool(points) and points[-1].start - first == (len(points) - 1) * 3_600
    return {
        "first": first,
        "starts": None if is_whole else [point.start for point in points],
        "values": [int(value) if value.is_integer() else value for _, value in points],  # shorter than with a .0
        "settled": view.settled_count,
        "ended": view.ended_count,
    }
