"""Reads the status of the exporter, as JSON-serializable data for the status page."""

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from braze_exporter.braze.kinds import CUSTOM_EVENTS, UTC
from braze_exporter.braze.query import Query
from braze_exporter.config.values import format_duration
from braze_exporter.exporter.exporter import ActiveWorkspace, Exporter, Snapshot
from braze_exporter.metrics.collector import query_status
from braze_exporter.metrics.families import build_counter, build_gauge
from braze_exporter.metrics.promql import select_series
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
from braze_exporter.web.status_messages import STATUS_LEVELS, TimeFormatter


def read_status_response(exporter: Exporter) -> dict[str, Any]:
    """Return the current status of `exporter`. Times are in seconds since the epoch. None means unknown or absent.

    `errors` are problems of the exporter itself. `queries` begin with the most urgent ones. Workspaces that are being
    added or removed are skipped. They have only views, or no views and no lists.
    """
    snapshot = exporter.snapshot()
    scraped_at = snapshot.scraped_at
    groups: dict[str, list[list[SeriesView]]] = {name: [] for name in snapshot.active_workspaces}
    for query_state, views in itertools.groupby(snapshot.views, key=lambda view: view.query_state):
        groups.get(query_state.query.workspace, []).append(list(views))
    response: dict[str, Any] = {
        "version": snapshot.version,
        "now": snapshot.now,
        "scraped_at": scraped_at,
        "errors": status_messages.exporter_messages(
            scrape_age=snapshot.now - scraped_at if scraped_at is not None else None,
            is_config_good=snapshot.self_metrics.read_values(RELOAD_SUCCESSFUL).get((), 1.0) > 0,
            are_counters_stalled=snapshot.are_counters_stalled,
        ),
        "workspaces": [],
        "queries": [],
    }
    for name, views_by_query in groups.items():
        _add_workspace(response, snapshot, name, views_by_query)
    urgencies = list(STATUS_LEVELS)
    response["queries"].sort(key=lambda query: urgencies.index(query["state"]))
    return response


def _add_workspace(
    response: dict[str, Any], snapshot: Snapshot, name: str, views_by_query: Sequence[Sequence[SeriesView]]
) -> None:
    """Add a workspace and its queries to the response. Each item of `views_by_query` has the series of one query."""
    workspace = snapshot.active_workspaces[name]
    zone = workspace.spec.timezone or UTC
    limiter_status = workspace.admission.status()

    def format_time_in(seconds: float) -> str:
        return status_messages.format_time(snapshot.now + seconds, zone, snapshot.now)

    states = [query_status(views[0].query_state, snapshot.monotonic) for views in views_by_query]
    list_messages = status_lists.list_messages(
        name,
        workspace.plan,
        snapshot.lists.get(name, ()),
        limiter_status,
        format_time_in,
        now=snapshot.monotonic,
        has_queries=bool(states),
    )
    if not states and not list_messages:
        return
    messages = status_messages.workspace_messages(
        Counter(states),
        limiter_status,
        {kind.path: kind.pool.name for kind in (views[0].query_state.query.kind for views in views_by_query)},
        format_time_in,
        list_messages=list_messages,
        remaining_history=snapshot.remaining_history.get(name, 0),
        mismatched_zone=str(zone) if snapshot.self_metrics.read_values(TIMEZONE_MISMATCH).get((name,)) else "",
    )
    response["workspaces"].append(
        {
            "name": name,
            "url": workspace.spec.rest_endpoint,
            "zone": str(zone),
            "level": messages[0][0],
            "messages": [text for _, text in messages],
            "pools": [_pool_data(usage, workspace, snapshot.self_metrics) for usage in workspace.plan.usage_of(name)],
        }
    )
    response["queries"] += [
        _query_data(views, state, limiter_status, snapshot, format_time_in)
        for views, state in zip(views_by_query, states, strict=True)
    ]


def _pool_data(usage: PoolUsage, workspace: ActiveWorkspace, self_metrics: SelfMetrics) -> dict[str, Any]:
    """Return the last values of a pool from Braze, the reserve, and the planned and the allowed calls per hour."""
    reported_limit, remaining, reset_at = (
        self_metrics.read_values(family).get((usage.workspace, usage.pool.name))
        for family in (RATE_LIMIT, RATE_LIMIT_REMAINING, RATE_LIMIT_RESET)
    )
    limit = reported_limit or float(usage.pool.limit)
    return {
        "name": usage.pool.name,
        "limit": limit,
        "remaining": remaining,
        "reset_at": reset_at,
        "reserve": workspace.budget.reserve * limit,
        "planned": usage.hourly_calls,
        "allowed": workspace.budget.share * limit * 3_600 / usage.pool.window_seconds,
    }


def _query_data(
    views: Sequence[SeriesView],
    state: QueryStatus,
    limiter_status: LimiterStatus,
    snapshot: Snapshot,
    format_time_in: TimeFormatter,
) -> dict[str, Any]:
    """Return a query with its values and its state.

    `tags` distinguish queries with the same name. `metrics` are selectors for its settled gauge and its counter, if
    any. `next_at` is the earliest time of the next fetch, or None if the next scrape fetches the query.
    """
    query_state, response = views[0].query_state, views[0].response
    query, error = query_state.query, query_state.error
    pause = limiter_status.pauses.get(query.kind.pool.name)
    failure = limiter_status.failure or limiter_status.endpoint_failures.get(query.kind.path)
    due_in = query_state.due_at - snapshot.monotonic
    wait = max(0.0, due_in, *(block.seconds for block in (pause, failure) if block is not None))
    values = _representative_values(views)
    families = [build_gauge(query.kind, query.metric_group, query.unit, "settled")]
    if values["total"] is not None:
        families.append(build_counter(query.kind, query.metric_group))
    labels, stats = query.labels, query.metric_group.primary_stats
    return {
        "name": query.title or _metric_text(query),
        "tags": _tags(query, is_workspace_shown=len(snapshot.active_workspaces) > 1),
        "state": state,
        "level": STATUS_LEVELS[state],
        "message": status_messages.query_message(query_state, state, pause, format_time_in),
        "error": f"{error.reason}: {error.detail}" if error is not None else None,
        "last_success_at": response.received_at if response is not None else None,
        "next_at": snapshot.now + wait if wait > 0 else None,
        "in_flight": query_state.in_flight,
        **values,
        "unit": query.unit,
        "zone": str(query.zone),
        "metrics": [select_series(family, labels, stats) for family in families],
        "properties": _properties(query),
    }


def _representative_values(views: Sequence[SeriesView]) -> dict[str, Any]:
    """Return the values of the first metric group of a query, summed over the series of its `primary_stats` if any.

    The first `settled_count` of `values` have settled.
    """
    metric_group = views[0].query_state.query.metric_group
    stats = metric_group.primary_stats
    chosen = [
        view
        for view in views
        if view.series.head.metric_group is metric_group
        and (not stats or dict(view.series.head.labels).get("stat") in stats)
    ]
    series_with_values = [view.series for view in chosen if view.series.values]
    return {
        "latest": _sum(view.latest for view in chosen),
        "settled": _sum(view.settled for view in chosen),
        "baseline": chosen[0].baseline if len(chosen) == 1 else None,  # medians cannot be added up
        "total": _sum(view.total for view in chosen),
        "starts": series_with_values[0].starts if series_with_values else (),
        "values": [_sum(bucket) for bucket in zip(*(series.values for series in series_with_values), strict=True)],
        "settled_count": views[0].settled_count,
    }


def _sum(numbers: Iterable[float | None]) -> float | None:
    """Return the sum of the known finite numbers, or None if there is none."""
    known = [number for number in numbers if number is not None and math.isfinite(number)]
    return sum(known) if known else None


def _tags(query: Query, *, is_workspace_shown: bool) -> list[str]:
    tags = [query.unit.adverb]
    if query.title and query.kind is not CUSTOM_EVENTS:
        tags.append(_metric_text(query))
    return [tag for tag in (*tags, query.app, query.segment, query.workspace if is_workspace_shown else "") if tag]


def _metric_text(query: Query) -> str:
    """Return the name of the metric group that represents a query in words."""
    return query.metric_group.name.partition("_by_")[0].replace("_", " ")


def _properties(query: Query) -> dict[str, str]:
    """Return the settings of a query and Braze's ids of its filters."""
    return {
        **({"app": f"{query.app} ({query.app_id})"} if query.app_id else {}),
        **({"segment": f"{query.segment} ({query.segment_id})"} if query.segment_id else {}),
        "refresh_interval": format_duration(query.refresh_seconds),
        "settle": format_duration(query.settle_seconds),
        "max_age": format_duration(query.max_age_seconds),
    }
