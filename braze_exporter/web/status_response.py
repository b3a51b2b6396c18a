"""Builds the status of the exporter as JSON-serializable data for the status page."""

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from braze_exporter.braze.kinds import CUSTOM_EVENTS, SeriesKind, Unit
from braze_exporter.braze.metric_group import MetricGroup
from braze_exporter.braze.query import Query
from braze_exporter.braze.series import Series
from braze_exporter.exporter.exporter import Exporter
from braze_exporter.exporter.snapshot import ActiveWorkspace
from braze_exporter.metrics.collector import query_status
from braze_exporter.metrics.families import build_counter, build_gauge
from braze_exporter.metrics.rows import SeriesView
from braze_exporter.metrics.self_families import (
    RATE_LIMIT,
    RATE_LIMIT_REMAINING,
    RATE_LIMIT_RESET,
    RELOAD_SUCCESSFUL,
    TIMEZONE_MISMATCH,
    QueryStatus,
)
from braze_exporter.metrics.self_metrics import SelfMetrics
from braze_exporter.scheduler.admission import LimiterStatus
from braze_exporter.scheduler.list_refresh import ListState
from braze_exporter.scheduler.pool_usage import PoolUsage
from braze_exporter.web import status_lists, status_messages
from braze_exporter.web.status_headline import representative_view
from braze_exporter.web.status_types import PointsData, PoolData, QueryData, SeriesData, StatusResponse


@dataclass(frozen=True, slots=True)
class _Instant:
    """The time of the status, in seconds since the epoch (`now`) and of the monotonic clock (`monotonic`)."""

    now: float
    monotonic: float

    def time_formatter(self, zone: ZoneInfo) -> status_messages.TimeFormatter:
        """Return a function that formats the time that is a number of seconds from now, in `zone`."""
        return lambda seconds: status_messages.format_time(self.now + seconds, zone, self.now)


def read_status_response(exporter: Exporter) -> StatusResponse:
    """Return the current status of `exporter`."""
    snapshot = exporter.snapshot()
    return build_status_response(
        now=snapshot.now,
        monotonic=snapshot.monotonic,
        version=snapshot.version,
        scraped_at=snapshot.scraped_at,
        active_workspaces=snapshot.active_workspaces,
        views=snapshot.views,
        self_metrics=snapshot.self_metrics,
        lists=snapshot.lists,
        remaining_history=snapshot.remaining_history,
        are_counters_stalled=snapshot.are_counters_stalled,
    )


def build_status_response(
    *,
    now: float,
    monotonic: float,
    version: str,
    scraped_at: float | None,
    active_workspaces: Mapping[str, ActiveWorkspace],
    views: Sequence[SeriesView],
    self_metrics: SelfMetrics,
    lists: Mapping[str, Sequence[ListState]],
    remaining_history: Mapping[str, int],
    are_counters_stalled: bool,
) -> StatusResponse:
    """Return the status of the exporter. The arguments are the fields of `exporter.Snapshot`.

    Workspaces that are being added or removed are skipped. They have only views, or no views and no lists.
    """
    moment = _Instant(now, monotonic)
    mismatches = self_metrics.read_values(TIMEZONE_MISMATCH)
    rate_limits = [self_metrics.read_values(family) for family in (RATE_LIMIT, RATE_LIMIT_REMAINING, RATE_LIMIT_RESET)]
    response: StatusResponse = {
        "version": version,
        "now": now,
        "scraped_at": scraped_at,
        "errors": status_messages.exporter_messages(
            scrape_age=now - scraped_at if scraped_at is not None else None,
            is_config_good=self_metrics.read_values(RELOAD_SUCCESSFUL).get((), 1.0) > 0,
            are_counters_stalled=are_counters_stalled,
        ),
        "states": [
            {"state": state, "name": name, "level": level}
            for state, (name, level) in status_messages.STATUS_MESSAGES.items()
        ],
        "workspaces": [],
        "queries": [],
    }
    groups: dict[str, list[SeriesView]] = {name: [] for name in active_workspaces}
    for view in views:
        groups.get(view.query_state.query.workspace, []).append(view)
    for name, group in groups.items():
        workspace = active_workspaces[name]
        limiter_status, format_time = workspace.admission.status(), moment.time_formatter(workspace.zone)
        queries = [list(query_views) for _, query_views in itertools.groupby(group, key=lambda view: view.query_state)]
        states = [query_status(query_views[0].query_state, monotonic) for query_views in queries]
        list_messages = status_lists.list_messages(
            name, workspace.plan, lists.get(name, ()), limiter_status, format_time, has_queries=bool(queries)
        )
        if not queries and not list_messages:
            continue
        health = status_messages.workspace_health(
            Counter(states),
            limiter_status,
            {view.query_state.query.kind.path: view.query_state.query.kind.permission for view in group},
            format_time,
            list_messages=list_messages,
            remaining_history=remaining_history.get(name, 0),
            mismatched_zone=str(workspace.zone) if mismatches.get((name,)) else "",
        )
        response["workspaces"].append(
            {
                "name": name,
                "url": workspace.url,
                "zone": str(workspace.zone),
                "level": health.level,
                "messages": health.messages,
                "queries": len(queries),
                "pools": [
                    _pool_data(usage, workspace, [values.get((name, usage.pool.name)) for values in rate_limits])
                    for usage in workspace.pool_usage
                ],
            }
        )
        response["queries"] += [
            _query_data(query_views, state, limiter_status, moment, format_time)
            for query_views, state in zip(queries, states, strict=True)
        ]
    return response


def _pool_data(usage: PoolUsage, used: ActiveWorkspace, rate_limit: Sequence[float | None]) -> PoolData:
    reported_limit, remaining, reset_at = rate_limit
    limit = reported_limit or float(usage.pool.limit)
    return {
        "name": usage.pool.name,
        "limit": limit,
        "remaining": remaining,
        "reset_at": reset_at,
        "reserve": used.reserve * limit,
        "planned": usage.hourly_calls,
        "allowed": used.share * limit * 3_600 / usage.pool.window_seconds,
    }


def _query_data(
    views: Sequence[SeriesView],
    status: QueryStatus,
    limiter_status: LimiterStatus,
    moment: _Instant,
    format_time_in: Callable[[float], str],
) -> QueryData:
    view = representative_view(views)
    query_state, query, response, error = (
        view.query_state,
        view.query_state.query,
        view.response,
        view.query_state.error,
    )
    pause = limiter_status.pauses.get(query.kind.pool.name)
    failure = limiter_status.key_failure or limiter_status.endpoint_failures.get(query.kind.path)
    wait = max(
        query_state.due_at - moment.monotonic, *(block.seconds for block in (pause, failure) if block is not None), 0.0
    )
    return {
        "workspace": query.workspace,
        "name": query.title or _group_text(view.series.metric_group),
        "tags": _tags(query, view.series),
        "labels": dict((*query.labels, *view.series.labels)),
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
        "next_at": moment.now + wait if wait > 0 else None,
        "in_flight": query_state.in_flight,
        "latest": view.latest,
        "latest_start": view.bucket_starts[0],
        "settled": view.settled,
        "settled_start": view.bucket_starts[1],
        "baseline": view.baseline,
        "baseline_weeks": query.baseline_weeks,
        "total": view.total,
        "metrics": _metric_names(query.kind, view.series.metric_group, query.unit, has_counter=view.total is not None),
        "points": _points_data(view, query.unit) if response is not None else None,
    }


def _series_data(view: SeriesView) -> SeriesData:
    return {
        "metric_group": _group_text(view.series.metric_group),
        "labels": _short_labels(view.series),
        "latest": view.latest,
        "settled": view.settled,
        "total": view.total,
    }


def _short_labels(series: Series) -> list[str]:
    """Return the label values of a series for people, with ids only where the name is unknown."""
    values = dict(series.labels)
    return [
        value
        for name, value in series.labels
        if value and not (name.endswith("_id") and values[name.removesuffix("_id")])
    ]


def _tags(query: Query, series: Series) -> list[tuple[str, str]]:
    tags = [("unit", query.unit.adverb)]
    if query.title and query.kind is not CUSTOM_EVENTS:
        tags.append(("metric", _group_text(series.metric_group)))
    labels = (*query.labels, *series.labels)
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
