"""Builds the plan of a config: its queries and the calls that they need.

Pure functions.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

from braze_exporter.braze.kinds import SEGMENT_USERS, UTC, SeriesKind
from braze_exporter.braze.query import Query
from braze_exporter.config.document import KeyPath, Problem, echo_value
from braze_exporter.config.loading import Config, LocatedEntry
from braze_exporter.config.schema import Alerts, Entry, Settings, Workspace
from braze_exporter.config.values import format_duration, format_rounded_up
from braze_exporter.scheduler.pool_usage import PoolUsage, compute_pool_usage, describe_excess, with_budget_owners
from braze_exporter.scheduler.repair import MARGIN_BUCKETS, newest_length, query_length

# How many fetches in a row may be missed without being a sign of a failure.
MAX_MISSED_REFRESHES = 3


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

    Items are skipped because of `max_queries` or the budget. `mismatches` say which selectors match no item, and why.
    """

    workspace: str
    kind: SeriesKind
    listed_count: int
    matched_count: int
    skipped_count: int
    mismatches: tuple[str, ...] = ()


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
    `budget_owners` is as returned by the function with this name, and `budget_usage` is the usage of all workspaces
    that share a budget, under its owner. Once lists have been read, `selectors.expand_selectors` adds their queries,
    `selection_results` and `configured_subjects`.
    """

    queries: tuple[Query, ...]
    pool_usage: tuple[PoolUsage, ...]
    alerts: tuple[tuple[Query, Alerts], ...] = ()
    selectors: tuple[Selector, ...] = ()
    budget_owners: Mapping[str, str] = field(default_factory=dict)
    budget_usage: tuple[PoolUsage, ...] = ()
    selection_results: tuple[SelectionResult, ...] = ()
    configured_subjects: tuple[ConfiguredSubject, ...] = ()

    def usage_of(self, workspace: str) -> tuple[PoolUsage, ...]:
        """Return the usage of each pool by a workspace."""
        return tuple(usage for usage in self.pool_usage if usage.workspace == workspace)

    def budget_usage_of(self, workspace: str) -> tuple[PoolUsage, ...]:
        """Return the usage of each pool by all workspaces that share the budget of a workspace."""
        return tuple(usage for usage in self.budget_usage if usage.workspace == self.budget_owners[workspace])

    def kinds_of(self, workspace: str) -> tuple[SeriesKind, ...]:
        """Return the kinds of the queries of a workspace, whose endpoints they call."""
        return tuple(dict.fromkeys(query.kind for query in self.queries if query.workspace == workspace))


def build_plan(config: Config) -> Plan:
    """Return the plan of `config`, with the queries of the entries that name their subject.

    The queries of selectors are added later by `selectors.expand_selectors`. Raises `ConfigError` if the plan exceeds
    `max_queries` or the budget, or if a `settle` or `refresh_interval` is too long or a `silent` too short. The error
    names the setting to change.
    """
    settings, problems = config.settings, []
    entries = [(workspace.spec, entry) for workspace in config.workspaces for entry in workspace.entries]
    for _, entry in entries:
        unit, max_length = entry.spec.query_spec.unit, entry.kind.max_length
        newest = newest_length(unit, _settle_seconds(settings, entry))
        if newest > max_length:
            text = f"is too long; Braze returns at most {max_length} {unit}s, so the maximum is"
            problems.append((_setting_path(entry, "settle"), f"{text} {max_length - MARGIN_BUCKETS}{unit[0]}"))
            continue
        limit = (max_length - newest + 1) * unit.seconds
        if _refresh_seconds(settings, entry) >= limit:
            text = f"is too long; Braze returns at most {max_length} {unit}s, so counts would be lost; set less than"
            problems.append((_setting_path(entry, "refresh_interval"), f"{text} {format_duration(limit)}"))
    selector_entries, entries = [
        [planned_entry for planned_entry in entries if planned_entry[1].spec.is_selector is is_selector]
        for is_selector in (True, False)
    ]
    count = sum(len(entry.spec.query_spec.apps) * len(entry.spec.query_spec.segments) for _, entry in entries)
    if count > settings.max_queries:  # stop here, since building millions of queries would take too long
        text = f"is {settings.max_queries:,}, but the entries need {count:,} queries"
        problems.append((("max_queries",), f"{text}; raise it, or configure fewer entries, apps or segments"))
        raise config.make_error(problems)
    planned = [(query, entry) for workspace, entry in entries for query in _build_queries(settings, workspace, entry)]
    queries = tuple(query for query, _ in planned)
    selector_templates = [
        (tuple(_build_queries(settings, workspace, entry)), entry) for workspace, entry in selector_entries
    ]
    pool_usages, owners = tuple(compute_pool_usage(settings, queries)), budget_owners(config)
    owned = with_budget_owners(queries, owners)
    budget_usages = tuple(compute_pool_usage(settings, owned))
    problems += _check_budgets(config, budget_usages, owned, owners)
    problems += _check_silences(
        [*planned, *((query, entry) for templates, entry in selector_templates for query in templates)]
    )
    if problems:
        raise config.make_error(problems)
    alerts = tuple((query, entry.spec.alerts) for query, entry in planned if entry.spec.alerts is not None)
    selectors = tuple(Selector(entry.spec, templates) for templates, entry in selector_templates)
    return Plan(queries, pool_usages, alerts, selectors, owners, budget_usages)


def budget_owners(config: Config) -> dict[str, str]:
    """Return the first workspace with the same url and API key, and so the same budget, by workspace.

    Keys that were not read are the same if they have the same source.
    """
    first: dict[tuple[str, object], str] = {}
    owners = {}
    for spec in (workspace.spec for workspace in config.workspaces):
        key = config.keys.get(spec.name)
        source = key.reveal() if key is not None else (spec.api_key_file, spec.api_key_env)
        owners[spec.name] = first.setdefault((spec.rest_endpoint, source), spec.name)
    return owners


def _check_budgets(
    config: Config, usages: Iterable[PoolUsage], owned: Sequence[Query], owners: Mapping[str, str]
) -> Iterator[tuple[KeyPath, str]]:
    """Yield a problem for each budget that is too small for the queries of its workspaces."""
    paths = {workspace.spec.name: workspace.path for workspace in config.workspaces}
    for usage in usages:
        excess = describe_excess(usage, owned)
        others = [name for name, owner in owners.items() if name != owner == usage.workspace]
        names = " and ".join(f'"{echo_value(name)}"' for name in others)
        if excess is not None:
            yield paths[usage.workspace], f"with {names} (same url and API key), {excess}" if others else excess


def raised_settings(config: Config) -> list[Problem]:
    """Return each duration in the file that is shorter than its minimum, with the value that is used instead.

    The result is in the order of the file. Durations that the file does not set are not reported.
    """
    raised = {
        (path, text)
        for workspace in config.workspaces
        for entry in workspace.entries
        for path, text in _raised_durations(config.settings, entry)
        if config.document.has_value(path)
    }
    return list(config.make_error(raised).problems)


def _raised_durations(settings: Settings, entry: LocatedEntry) -> Iterator[tuple[KeyPath, str]]:
    """Yield the path of each duration of `entry` that is raised, and the value that is used instead."""
    spec, unit, section = entry.spec, entry.spec.query_spec.unit, entry.kind.section
    refresh, settle = _refresh_seconds(settings, entry), _settle_seconds(settings, entry)
    if refresh > (spec.refresh_interval or settings.refresh_interval.for_unit(unit)):
        text = f"is raised to {format_duration(refresh)} for {section}, the minimum"
        yield _setting_path(entry, "refresh_interval"), text
    if settle > (spec.settle or settings.settle.for_unit(unit)):
        yield _setting_path(entry, "settle"), f"is raised to {format_duration(settle)} for {section}, the minimum"
    max_age = _max_age_seconds(settings, spec, refresh)
    if max_age > (spec.max_age or settings.max_age):
        path = (*entry.path, "max_age") if spec.max_age else ("max_age",)
        yield path, f"is raised to {format_duration(max_age)} for {section}, twice the refresh_interval"


def _setting_path(entry: LocatedEntry, name: str) -> KeyPath:
    """Return the path of a duration by unit: that in the entry, or that of all entries if it has none."""
    return (*entry.path, name) if getattr(entry.spec, name) else (name, entry.spec.query_spec.unit.value)


def _refresh_seconds(settings: Settings, entry: LocatedEntry) -> float:
    interval = entry.spec.refresh_interval or settings.refresh_interval.for_unit(entry.spec.query_spec.unit)
    return max(interval, entry.kind.min_refresh_seconds)


def _max_age_seconds(settings: Settings, entry: Entry, refresh: float) -> float:
    return max(entry.max_age or settings.max_age, 2 * refresh)


def _settle_seconds(settings: Settings, entry: LocatedEntry) -> float:
    settle = entry.spec.settle or settings.settle.for_unit(entry.spec.query_spec.unit)
    return max(settle, entry.kind.min_settle_seconds)


def _build_queries(settings: Settings, workspace: Workspace, located: LocatedEntry) -> Iterator[Query]:
    kind, entry, query_spec = located.kind, located.spec, located.spec.query_spec
    refresh, settle = _refresh_seconds(settings, located), _settle_seconds(settings, located)
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
            length=min(query_length(query_spec.unit, settle), kind.max_length),
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
            fix = f"set it to at least {format_rounded_up(least)}, or shorten refresh_interval"
            yield (*entry.path, "alerts", "silent"), f"{text}; {fix}"
        elif query.kind.min_settle_seconds and silent < 2 * query.unit.seconds:
            text = f"is too short; {query.kind.section} are computed once a day, so the minimum is 2d"
            yield (*entry.path, "alerts", "silent"), text
