"""The state of the exporter as plain data that JSON can hold: what the page at `/` shows."""

import functools
import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from braze_exporter.braze.kinds import CUSTOM_EVENTS, Kind, Noun, Unit
from braze_exporter.braze.query import Query
from braze_exporter.braze.series import Series
from braze_exporter.exporter import Exporter, InUse
from braze_exporter.metrics.collector import state_of
from braze_exporter.metrics.families import counter, gauge
from braze_exporter.metrics.rows import Held, View
from braze_exporter.metrics.self_metrics import (
    QUOTA_LIMIT,
    QUOTA_REMAINING,
    QUOTA_RESET,
    RELOAD_SUCCESSFUL,
    TIMEZONE_MISMATCH,
    Instruments,
    State,
)
from braze_exporter.scheduler.admission import Standing
from braze_exporter.scheduler.list_refresh import ListState
from braze_exporter.scheduler.plan import Load
from braze_exporter.web import status_lists, status_messages
from braze_exporter.web.status_headline import headline
from braze_exporter.web.status_types import Facts, PointsFacts, PoolFacts, QueryFacts, SeriesFacts

# Without a scrape for so long it is said that nobody scrapes: Prometheus does so every minute or so.
_QUIET = 300.0


@dataclass(frozen=True, slots=True)
class _Moment:
    """When the facts are told: in seconds since the epoch, and on the clock that never jumps."""

    now: float
    monotonic: float

    def when(self, zone: ZoneInfo) -> status_messages.When:
        """Return what tells the time in so many seconds."""
        return lambda seconds: status_messages.clock(self.now + seconds, zone, self.now)


def status_response(exporter: Exporter) -> Facts:
    """Return the state of an exporter as the page shows it."""
    snapshot = exporter.snapshot()
    return facts(
        now=snapshot.now,
        monotonic=snapshot.monotonic,
        version=snapshot.version,
        scraped_at=snapshot.scraped_at,
        in_use=snapshot.in_use,
        views=snapshot.views,
        instruments=snapshot.instruments,
        lists=snapshot.lists,
        history_left=snapshot.history_left,
        counters_stand_still=snapshot.counters_stand_still,
    )


def facts(
    *,
    now: float,
    monotonic: float,
    version: str,
    scraped_at: float | None,
    in_use: Mapping[str, InUse],
    views: Sequence[View],
    instruments: Instruments,
    lists: Mapping[str, Sequence[ListState]],
    history_left: Mapping[str, int],
    counters_stand_still: bool,
) -> Facts:
    """Return the facts at `now`, which is `monotonic` on the clock that never jumps.

    `in_use`, `lists` and `history_left` are by the name of the workspace. Of workspaces that are just coming or going
    nothing is told.
    """
    moment = _Moment(now, monotonic)
    mismatches = instruments.values(TIMEZONE_MISMATCH)
    quotas = [instruments.values(family) for family in (QUOTA_LIMIT, QUOTA_REMAINING, QUOTA_RESET)]
    found: Facts = {
        "version": version,
        "now": now,
        "scraped_at": scraped_at,
        "troubles": status_messages.of_exporter(
            is_scraped=scraped_at is not None and now - scraped_at < _QUIET,
            is_config_good=instruments.values(RELOAD_SUCCESSFUL).get((), 1.0) > 0,
            counters_stand_still=counters_stand_still,
        ),
        "states": [
            {"state": state, "name": name, "level": level} for state, (name, level) in status_messages.STATES.items()
        ],
        "workspaces": [],
        "queries": [],
    }
    groups: dict[str, list[View]] = {name: [] for name in in_use}
    for view in views:
        groups.get(view.entry.query.workspace, []).append(view)
    for name, group in groups.items():
        used = in_use[name]
        standing, when = used.admission.standing(), moment.when(used.zone)
        queries = [list(of_query) for _, of_query in itertools.groupby(group, key=lambda view: view.entry)]
        states = [state_of(of_query[0].entry, monotonic) for of_query in queries]
        health = status_messages.of_workspace(
            Counter(states),
            standing,
            {view.entry.endpoint: view.entry.query.kind.permission for view in group},
            when,
            more=status_lists.of_lists(name, used.plan, lists.get(name, ()), standing, when, has_queries=bool(queries)),
            history_left=history_left.get(name, 0),
            other_zone=str(used.zone) if mismatches.get((name,)) else "",
        )
        found["workspaces"].append(
            {
                "name": name,
                "url": used.url,
                "zone": str(used.zone),
                "level": health.level,
                "sentences": health.sentences,
                "queries": len(queries),
                "pools": [
                    _pool(load, used, [told.get((name, load.pool.name)) for told in quotas]) for load in used.loads
                ],
            }
        )
        found["queries"] += [
            _query(of_query, state, standing, moment, when) for of_query, state in zip(queries, states, strict=True)
        ]
    return found


def _pool(load: Load, used: InUse, quota: Sequence[float | None]) -> PoolFacts:
    told, remaining, reset_at = quota
    limit = told or float(load.pool.limit)
    return {
        "name": load.pool.name,
        "limit": limit,
        "remaining": remaining,
        "reset_at": reset_at,
        "reserve": used.reserve * limit,
        "planned": load.calls,
        "allowed": used.share * limit * 3_600 / load.pool.window,
    }


def _query(
    views: Sequence[View], state: State, standing: Standing, moment: _Moment, when: Callable[[float], str]
) -> QueryFacts:
    view = headline(views)
    entry, query, answer, error = view.entry, view.entry.query, view.answer, view.entry.error
    rest = standing.rests.get(query.kind.pool.name)
    refusal = standing.refusal or standing.refusals.get(query.kind.endpoint)
    wait = max(entry.due_at - moment.monotonic, *(kept.seconds for kept in (rest, refusal) if kept is not None), 0.0)
    return {
        "workspace": query.workspace,
        "name": query.subject or _spoken(view.series.noun),
        "tags": _tags(query, view.series),
        "labels": dict((*query.labels, *view.series.labels)),
        "series": [_series(one) for one in views] if len(query.nouns) > 1 else [],
        "unit": query.unit,
        "app_id": query.app_id,
        "segment_id": query.segment_id,
        "refresh": query.refresh,
        "settle": query.settle,
        "max_age": query.max_age,
        "state": state,
        "words": status_messages.of_query(entry, state, rest, when),
        "error": {"reason": error.reason, "detail": error.detail, "failures": entry.failures} if error else None,
        "answered_at": answer.received_at if answer is not None else None,
        "next_at": moment.now + wait if wait > 0 else None,
        "busy": entry.busy,
        "latest": view.values.latest,
        "latest_start": view.starts[0],
        "settled": view.values.settled,
        "settled_start": view.starts[1],
        "baseline": view.values.baseline,
        "weeks": query.weeks,
        "total": view.total,
        "metrics": _metrics(query.kind, view.series.noun, query.unit, counted=view.total is not None),
        "points": _points(view.held, query.unit) if answer is not None else None,
    }


def _series(view: View) -> SeriesFacts:
    return {
        "noun": _spoken(view.series.noun),
        "labels": [value for _, value in view.series.labels],
        "latest": view.values.latest,
        "settled": view.values.settled,
        "total": view.total,
    }


def _tags(query: Query, series: Series) -> list[tuple[str, str]]:
    found = [("unit", query.unit.adverb)]
    if query.subject and query.kind is not CUSTOM_EVENTS:
        found.append(("count", _spoken(series.noun)))
    beside = (*query.labels, *series.labels)
    skipped = {"workspace", query.kind.subject, ""}
    return found + [(name.removeprefix("braze_"), value) for name, value in beside if value and name not in skipped]


def _spoken(noun: Noun) -> str:
    """Return a noun as people say it."""
    return noun.name.removesuffix("_filtered").replace("_", " ")


@functools.cache
def _metrics(kind: Kind, noun: Noun, unit: Unit, *, counted: bool) -> list[str]:
    names = [gauge(kind, noun, unit, "settled").name]
    return [*names, counter(kind, noun).name] if counted else names


def _points(held: Held, unit: Unit) -> PointsFacts:
    points = held.points
    first = points[0].start if points else 0
    # Hours are whole ones, and no two are the same: if so many fit between the first and the last, none is missing.
    is_whole = unit is Unit.HOUR and bool(points) and points[-1].start - first == (len(points) - 1) * 3_600
    return {
        "first": first,
        "starts": None if is_whole else [point.start for point in points],
        "values": [int(value) if value.is_integer() else value for _, value in points],  # shorter than with a .0
        "settled": held.settled,
        "ended": held.ended,
    }
