"""Builds the plan of a config: its queries, the calls that they need, and the chunks of their history.

Pure functions.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from braze_exporter.braze.buckets import WEEK_SECONDS, bucket_end, bucket_start
from braze_exporter.braze.kinds import KINDS, SEGMENT_USERS, UTC, SeriesKind, Unit
from braze_exporter.braze.pools import LISTS_POOL, Pool
from braze_exporter.braze.query import Query
from braze_exporter.config.document import KeyPath, Problem
from braze_exporter.config.loading import Config, LocatedEntry
from braze_exporter.config.plurals import pluralize
from braze_exporter.config.schema import Alerts, Entry, Settings, Workspace
from braze_exporter.config.values import format_duration

# How many fetches in a row may be missed without being a sign of a failure.
MAX_MISSED_REFRESHES = 3
# The history of baselines must be read within this many hours, with half of the calls that the queries leave of the
# share.
MAX_HISTORY_HOURS = 24
# The minimum number of buckets that a usual fetch requests: one day of hours, or two weeks of days, for late data.
DEFAULT_LENGTH = {Unit.HOUR: 24, Unit.DAY: 14}
# The bucket in progress, the bucket in which `settle` begins, and one more in case Braze's clock is ahead.
_MARGIN_BUCKETS = 3
_KINDS_BY_SECTION = {kind.section: kind for kind in KINDS}


@dataclass(frozen=True, slots=True)
class PoolUsage:
    """The calls that the queries of a workspace make in a pool.

    `hourly_calls` is the number of calls per hour, and `allowed_hourly_calls` its maximum by `budget.share`.
    `startup_calls` is the number of additional calls after a start, for the history of baselines. `burst` is the number
    of calls that may be made at once: those of one refresh, and one more for each query with a baseline.
    """

    workspace: str
    pool: Pool
    query_count: int
    hourly_calls: float
    allowed_hourly_calls: float
    burst: int
    startup_calls: int = 0


@dataclass(frozen=True, slots=True)
class Selector:
    """An entry with `regex` or `tag`, and templates for the queries of each item that it selects.

    The subject of the templates is the entry's regex or tag. The queries have the name of the item instead.
    """

    entry: Entry
    queries: tuple[Query, ...]

    @property
    def workspace(self) -> str:
        """The name of the workspace."""
        return self.queries[0].workspace

    @property
    def kind(self) -> SeriesKind:
        """The kind of the queries."""
        return self.queries[0].kind


@dataclass(frozen=True, slots=True)
class SelectionResult:
    """The number of items in the list of a kind, how many of them selectors match, and how many of these are skipped.

    Items are skipped because of `max_queries` or the budget.
    """

    workspace: str
    kind: SeriesKind
    listed_count: int
    matched_count: int
    skipped_count: int


@dataclass(frozen=True, slots=True)
class ConfiguredSubject:
    """A subject that the config names or identifies by an id, as written there, and whether Braze lists it.

    `subject` is the name or the id that is written in the config. If it is not listed, `suggestions` are the nearest
    listed names.
    """

    workspace: str
    kind: SeriesKind
    subject: str
    is_listed: bool
    suggestions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """The queries of a config, the calls that they need, and the alerts that some of them have.

    `queries` are in the order of the config and without duplicates. `selectors` are the entries with `regex` or `tag`.
    Once lists have been read, `selectors.expand_selectors` adds their queries, `selection_results` and
    `configured_subjects`.
    """

    queries: tuple[Query, ...]
    pool_usage: tuple[PoolUsage, ...]
    alerts: tuple[tuple[Query, Alerts], ...] = ()
    selectors: tuple[Selector, ...] = ()
    selection_results: tuple[SelectionResult, ...] = ()
    configured_subjects: tuple[ConfiguredSubject, ...] = ()


def build_plan(config: Config) -> Plan:
    """Return the plan of `config`, with the queries of the entries that name their subject.

    The queries of selectors are added later by `selectors.expand_selectors`. Raises `ConfigError` if the plan exceeds
    `max_queries` or the budget, or if a `settle` or `refresh_interval` is too long or a `silent` too short. The error
    names the setting to change.
    """
    settings, problems = config.settings, []
    entries = [
        (workspace.spec, _KINDS_BY_SECTION[section], entry)
        for workspace in config.workspaces
        for section, group in workspace.entries.items()
        for entry in group
    ]
    for _, kind, entry in entries:
        unit, max_length = entry.spec.query_spec.unit, kind.max_length
        if _query_length(unit, _settle_seconds(settings, kind, entry.spec)) > max_length:
            text = f"is too long; Braze returns at most {max_length} {unit}s, so the maximum is"
            path = (*entry.path, "settle") if entry.spec.settle else ("settle", unit)
            problems.append((path, f"{text} {max_length - _MARGIN_BUCKETS}{unit[0]}"))
            continue
        newest = newest_length(unit, _settle_seconds(settings, kind, entry.spec))
        limit = (max_length - newest + 1) * unit.seconds
        if _refresh_seconds(settings, kind, entry.spec) >= limit:
            text = f"is too long; Braze returns at most {max_length} {unit}s, so counts would be lost; set less than"
            path = (*entry.path, "refresh_interval") if entry.spec.refresh_interval else ("refresh_interval", unit)
            problems.append((path, f"{text} {format_duration(limit)}"))
    selector_entries, entries = [
        [planned_entry for planned_entry in entries if planned_entry[2].spec.is_selector is is_selector]
        for is_selector in (True, False)
    ]
    count = sum(len(entry.spec.query_spec.apps) * len(entry.spec.query_spec.segments) for *_, entry in entries)
    if count > settings.max_queries:  # stop here, since building millions of queries would take too long
        text = f"is {settings.max_queries:,}, but the entries need {count:,} queries"
        problems.append((("max_queries",), f"{text}; raise it, or configure fewer entries, apps or segments"))
        raise config.make_error(problems)
    planned = [
        (query, entry)
        for workspace, kind, entry in entries
        for query in _build_queries(settings, workspace, kind, entry.spec)
    ]
    queries = tuple(query for query, _ in planned)
    selector_templates = [
        (tuple(_build_queries(settings, workspace, kind, entry.spec)), entry)
        for workspace, kind, entry in selector_entries
    ]
    pool_usages = tuple(compute_pool_usage(settings, queries))
    paths = {workspace.spec.name: workspace.path for workspace in config.workspaces}
    problems += [
        (paths[usage.workspace], _describe_overuse(usage, queries)) for usage in pool_usages if _exceeds_share(usage)
    ]
    problems += [(paths[usage.workspace], _describe_history(usage)) for usage in pool_usages if _exceeds_history(usage)]
    problems += _check_silences(
        [*planned, *((query, entry) for templates, entry in selector_templates for query in templates)]
    )
    if problems:
        raise config.make_error(problems)
    alerts = tuple((query, entry.spec.alerts) for query, entry in planned if entry.spec.alerts is not None)
    selectors = tuple(Selector(entry.spec, templates) for templates, entry in selector_templates)
    return Plan(queries, pool_usages, alerts, selectors)


def raised_settings(config: Config) -> list[Problem]:
    """Return each duration in the file that is shorter than its minimum, with the value that is used instead.

    The result is in the order of the file. Durations that the file does not set are not reported.
    """
    raised = {
        (path, text)
        for workspace in config.workspaces
        for section, group in workspace.entries.items()
        for entry in group
        for path, text in _raised_durations(config.settings, _KINDS_BY_SECTION[section], entry)
        if path in config.document.lines
    }
    return list(config.make_error(raised).problems)


def _raised_durations(settings: Settings, kind: SeriesKind, entry: LocatedEntry) -> Iterator[tuple[KeyPath, str]]:
    """Yield the path of each duration of `entry` that is raised, and the value that is used instead."""
    spec, unit = entry.spec, entry.spec.query_spec.unit
    refresh, settle = _refresh_seconds(settings, kind, spec), _settle_seconds(settings, kind, spec)
    if refresh > (spec.refresh_interval or settings.refresh_interval.for_unit(unit)):
        path = (*entry.path, "refresh_interval") if spec.refresh_interval else ("refresh_interval", unit.value)
        yield path, f"is raised to {format_duration(refresh)} for {kind.section}, the minimum"
    if settle > (spec.settle or settings.settle.for_unit(unit)):
        path = (*entry.path, "settle") if spec.settle else ("settle", unit.value)
        yield path, f"is raised to {format_duration(settle)} for {kind.section}, the minimum"
    max_age = _max_age_seconds(settings, spec, refresh)
    if max_age > (spec.max_age or settings.max_age):
        path = (*entry.path, "max_age") if spec.max_age else ("max_age",)
        yield path, f"is raised to {format_duration(max_age)} for {kind.section}, twice the refresh_interval"


def is_within_budget(usage: PoolUsage) -> bool:
    """Return whether `budget.share` of the pool suffices for all calls in `usage`, startup calls included."""
    return not _exceeds_share(usage) and not _exceeds_history(usage)


def _refresh_seconds(settings: Settings, kind: SeriesKind, entry: Entry) -> float:
    interval = entry.refresh_interval or settings.refresh_interval.for_unit(entry.query_spec.unit)
    return max(interval, kind.min_refresh_seconds)


def _max_age_seconds(settings: Settings, entry: Entry, refresh: float) -> float:
    return max(entry.max_age or settings.max_age, 2 * refresh)


def _settle_seconds(settings: Settings, kind: SeriesKind, entry: Entry) -> float:
    return max(entry.settle or settings.settle.for_unit(entry.query_spec.unit), kind.min_settle_seconds)


def newest_length(unit: Unit, settle: float) -> int:
    """Return the number of newest buckets among which at least one has settled, `settle` being in seconds."""
    return math.ceil(settle / unit.seconds) + _MARGIN_BUCKETS


def _query_length(unit: Unit, settle: float) -> int:
    return max(DEFAULT_LENGTH[unit], newest_length(unit, settle))


def _build_queries(settings: Settings, workspace: Workspace, kind: SeriesKind, entry: Entry) -> Iterator[Query]:
    query_spec = entry.query_spec
    refresh = _refresh_seconds(settings, kind, entry)
    settle = _settle_seconds(settings, kind, entry)
    subject_id = query_spec.subject if kind.is_identified_by_id and not entry.is_selector else ""
    if kind is SEGMENT_USERS and not entry.is_selector:
        subject_id = workspace.segments[query_spec.subject]
    for app, segment in product(query_spec.apps, query_spec.segments):
        app_id, segment_id = workspace.apps.get(app, ""), workspace.segments.get(segment, "")
        yield Query(
            workspace=workspace.name,
            kind=kind,
            unit=query_spec.unit,
            subject="" if subject_id and kind.is_identified_by_id else query_spec.subject,
            subject_id=subject_id,
            url=workspace.rest_endpoint,
            app=app if app_id else "",
            app_id=app_id,
            segment=segment if segment_id else "",
            segment_id=segment_id,
            refresh_seconds=refresh,
            settle_seconds=settle,
            max_age_seconds=_max_age_seconds(settings, entry, refresh),
            length=_query_length(query_spec.unit, settle),
            zone=workspace.timezone or UTC,
            baseline_weeks=entry.baseline.weeks if entry.baseline is not None else 0,
            channels=query_spec.channels,
            stats=query_spec.stats,
        )


def can_feed_counter(query: Query) -> bool:
    """Return whether `query` can feed a counter.

    It feeds that counter unless another query does so with a finer unit.
    """
    return query.has_counter and any(metric_group.is_additive for metric_group in query.metric_groups)


def counter_sources(queries: Iterable[Query]) -> dict[tuple[str, ...], Query]:
    """Return the query that feeds each counter, by `Query.counter_key`.

    Each subject and app has one counter, fed by the query with the finest unit. Values that are not additive have no
    counter.
    """
    finest: dict[tuple[str, ...], Query] = {}
    for query in queries:
        if not can_feed_counter(query):
            continue
        if query.unit.seconds <= finest.setdefault(query.counter_key, query).unit.seconds:
            finest[query.counter_key] = query
    return finest


def _check_silences(planned: Sequence[tuple[Query, LocatedEntry]]) -> Iterator[tuple[KeyPath, str]]:
    """Yield a problem for each `silent` that is too short.

    Otherwise missed fetches, or values that Braze computes once a day, would make the alert fire.
    """
    fed = counter_sources(query for query, _ in planned)
    for query, entry in planned:
        silent = entry.spec.alerts.silent if entry.spec.alerts is not None else None
        if silent is None or not can_feed_counter(query):
            continue
        least = MAX_MISSED_REFRESHES * fed[query.counter_key].refresh_seconds
        if silent < least:
            text = f"is shorter than {MAX_MISSED_REFRESHES} refresh intervals of the query that feeds the counter"
            fix = f"set it to at least {_format_rounded_up(least)}, or shorten refresh_interval"
            yield (*entry.path, "alerts", "silent"), f"{text}; {fix}"
        elif query.kind.min_settle_seconds and silent < 2 * query.unit.seconds:
            text = f"is too short; {query.kind.section} are computed once a day, so the minimum is 2d"
            yield (*entry.path, "alerts", "silent"), text


def compute_pool_usage(settings: Settings, queries: Sequence[Query]) -> Iterator[PoolUsage]:
    """Yield the usage of each pool by each workspace, with one call per refresh of a query."""
    groups: dict[tuple[str, Pool], list[Query]] = {}
    for query in queries:
        groups.setdefault((query.workspace, query.kind.pool), []).append(query)
    for (workspace, pool), group in groups.items():
        allowed_hourly_calls, startup_calls = (
            pool.per_hour * settings.budget.share,
            sum(
                count_chunks(query, *history_bounds(query, now=0.0), query.kind.max_length)
                for query in group
                if query.baseline_weeks
            ),
        )
        burst = len(group) + sum(query.baseline_weeks > 0 for query in group)
        if pool is LISTS_POOL:  # its limit is too small for all queries of a plan at once
            burst = max(1, math.floor(allowed_hourly_calls))
        yield PoolUsage(workspace, pool, len(group), calls_per_hour(group), allowed_hourly_calls, burst, startup_calls)


def calls_per_hour(queries: Iterable[Query]) -> float:
    """Return the number of calls that the queries make per hour, if Prometheus scrapes often enough."""
    return sum(3_600 / query.refresh_seconds for query in queries)


def _exceeds_share(usage: PoolUsage) -> bool:
    return round(usage.hourly_calls - usage.allowed_hourly_calls, 3) > 0  # smaller differences are rounding errors


def _describe_overuse(usage: PoolUsage, queries: Sequence[Query]) -> str:
    """Return the problem of a plan that exceeds `budget.share`, with the shortest `refresh_interval` that fits."""
    queries_of_pool = [
        query for query in queries if (query.workspace, query.kind.pool) == (usage.workspace, usage.pool)
    ]
    min_refresh = _min_refresh_seconds(
        sorted(query.refresh_seconds for query in queries_of_pool), usage.allowed_hourly_calls
    )
    affected = sorted(
        {(query.kind.section, query.unit) for query in queries_of_pool if query.refresh_seconds < min_refresh}
    )
    names = " and ".join(f"{unit.adverb} {section}" for section, unit in affected)
    return (
        f"{pluralize(usage.query_count, 'query needs', 'queries need')} "
        f"{pluralize(math.ceil(usage.hourly_calls), 'call', 'calls')} per hour, but budget.share allows "
        f"{math.floor(usage.allowed_hourly_calls):,} "
        f"of {usage.pool.per_hour:,.0f} in the {usage.pool.name} pool; "
        f"set refresh_interval ≥ {_format_rounded_up(min_refresh)} for {names}, or configure fewer queries"
    )


def _exceeds_history(usage: PoolUsage) -> bool:
    return not _exceeds_share(usage) and usage.startup_calls > min(
        usage.allowed_hourly_calls, MAX_HISTORY_HOURS * (usage.allowed_hourly_calls - usage.hourly_calls) / 2
    )


def _describe_history(usage: PoolUsage) -> str:
    return (
        f"baselines need {pluralize(usage.startup_calls, 'call', 'calls')} after a start, but the queries leave "
        f"{math.floor(usage.allowed_hourly_calls - usage.hourly_calls):,} of the "
        f"{pluralize(math.floor(usage.allowed_hourly_calls), 'call', 'calls')} per hour "
        f"that budget.share allows in the {usage.pool.name} pool, and history may use half of them; "
        "configure fewer weeks, fewer baselines or a longer refresh_interval"
    )


def _min_refresh_seconds(refreshes: Sequence[float], allowed: float) -> float:
    """Return the shortest refresh, in seconds, with which the queries make no more than `allowed` calls per hour.

    Shorter values in `refreshes` must be raised to the result. `refreshes` must be sorted in ascending order and make
    more calls than `allowed`.
    """
    number = len(refreshes)
    while (refresh := number * 3_600 / allowed) < refreshes[number - 1]:
        number -= 1  # the longest refresh need not be raised, and the shorter ones share the remaining calls
        allowed -= 3_600 / refreshes[number]
    return refresh


def _format_rounded_up(seconds: float) -> str:
    """Return a duration in the notation of the config, rounded up to seconds or minutes."""
    return f"{math.ceil(seconds)}s" if seconds < 60 else f"{math.ceil(seconds / 60)}m"  # noqa: PLR2004 - a minute


def fetch_length(query: Query, since: float | None, now: float) -> int:
    """Return how many buckets a fetch at `now` requests, if the last response was requested at `since`.

    `since` and `now` are in seconds since the epoch. The result is the usual length plus the number of units that have
    passed since then, up to Braze's maximum. So no bucket is missed after an outage.
    """
    missed = 0 if since is None else max(0, int((now - since) // query.unit.seconds))
    return min(query.length + missed, query.kind.max_length)


def history_bounds(query: Query, now: float) -> tuple[float, float]:
    """Return the oldest and the newest time of the history for the baseline of `query` at `now`.

    The history covers the weeks of the baseline plus `settle`, and ends where the buckets of a usual fetch begin.
    """
    unit = query.unit.seconds
    oldest = now - query.baseline_weeks * WEEK_SECONDS - query.settle_seconds - _MARGIN_BUCKETS * unit
    return oldest, now - (query.length - _MARGIN_BUCKETS) * unit


def count_chunks(query: Query, oldest: float, newest: float, length: int) -> int:
    """Return the number of queries that `build_chunks` would return."""
    return math.ceil((newest - oldest) / _chunk_step(query, length))


def build_chunks(query: Query, oldest: float, newest: float, length: int) -> tuple[Query, ...]:
    """Return the queries that read the buckets from `oldest` to the one that contains `newest`, one call each.

    Each call reads `length` buckets. The newest chunk comes first. Each one ends at the last second of a bucket. If it
    has several buckets, it overlaps the next chunk by one, since days differ in length.
    """
    step = _chunk_step(query, length)
    count = count_chunks(query, oldest, newest, length)
    return tuple(
        replace(query, ending_at=_last_second(newest - number * step, query), length=length) for number in range(count)
    )


def _chunk_step(query: Query, length: int) -> float:
    """Return the seconds from the end of a chunk to that of the next one."""
    return max(1, length - 1) * query.unit.seconds


def _last_second(instant: float, query: Query) -> int:
    """Return the last second of the bucket that contains `instant`."""
    return bucket_end(bucket_start(instant, query.unit, query.zone), query.unit, query.zone) - 1
