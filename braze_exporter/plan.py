"""Config → the queries to ask, and the arithmetic of buckets: pure, and without a clock of its own."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from zoneinfo import ZoneInfo

from braze_exporter.catalog import CUSTOM_EVENTS, Point, Pool, Query, Unit
from braze_exporter.config import Config
from braze_exporter.config.loading import ConfiguredWorkspace, Entry

# Braze's page on the endpoint: `length` is from 1 to 100 units.
MAX_LENGTH = 100
# What every fetch asks for: enough to see late data of the last day, or of the last two weeks.
USUAL_LENGTH = {Unit.HOUR: 24, Unit.DAY: 14}
# A bucket in progress, and one that may be missing because Braze's clock is not ours.
_MARGIN = 2


@dataclass(frozen=True, slots=True)
class Load:
    """The calls an hour that a workspace's queries make of a pool, and how many of them its share allows."""

    workspace: str
    pool: Pool
    queries: int
    calls: float
    allowed: float


@dataclass(frozen=True, slots=True)
class Plan:
    """The queries of a config, in its order and without duplicates, and what they cost."""

    queries: tuple[Query, ...]
    loads: tuple[Load, ...]


def build(config: Config) -> Plan:
    """Return the plan of `config`; raise `ConfigError` if it cannot be carried out, with the setting to change."""
    problems: dict[tuple[str | int, ...], str] = {}
    queries: list[Query] = []
    for workspace in config.workspaces:
        for entries in workspace.entries.values():
            for entry in entries:
                found = list(_queries(config, workspace, entry))
                if found[0].length > MAX_LENGTH:
                    unit = found[0].unit
                    text = f"is too long for {unit}s: Braze tells {MAX_LENGTH} {unit}s at most, so at most"
                    problems[(*entry.path, "settle")] = f"{text} {MAX_LENGTH - _MARGIN}{unit[0]}"
                queries.extend(found)
    if len(queries) > config.settings.max_queries:
        text = f"is {config.settings.max_queries}, but the entries make {len(queries)} queries"
        problems["max_queries",] = f"{text}: raise it, or list fewer events, apps or segments"
    loads = tuple(_loads(config, queries))
    for load in loads:
        if load.calls > load.allowed:
            problems[_path_of(config, load.workspace)] = _over_share(load, queries)
    if problems:
        raise config.error(problems)
    return Plan(tuple(queries), loads)


def _queries(config: Config, workspace: ConfiguredWorkspace, entry: Entry) -> Iterator[Query]:
    settings, spec, entry_spec = config.settings, workspace.spec, entry.spec
    unit = entry_spec.unit
    refresh = entry_spec.refresh or settings.refresh.of(unit)
    settle = entry_spec.settle or settings.settle.of(unit)
    for app in entry_spec.apps:
        for segment in entry_spec.segments:
            app_id, segment_id = spec.apps.get(app, ""), spec.segments.get(segment, "")
            yield Query(
                workspace=spec.name,
                kind=CUSTOM_EVENTS,
                unit=unit,
                subject=entry_spec.event,
                app=app if app_id else "",
                app_id=app_id,
                segment=segment if segment_id else "",
                segment_id=segment_id,
                refresh=refresh,
                settle=settle,
                max_age=max(entry_spec.max_age or settings.max_age, 2 * refresh),
                length=max(USUAL_LENGTH[unit], math.ceil(settle / unit.seconds) + _MARGIN),
                zone=spec.timezone or ZoneInfo("UTC"),
            )


def _loads(config: Config, queries: Sequence[Query]) -> Iterator[Load]:
    """Yield what each workspace asks of each pool: a query is one call in each of its refreshes."""
    groups: dict[tuple[str, Pool], list[Query]] = {}
    for query in queries:
        groups.setdefault((query.workspace, query.kind.pool), []).append(query)
    for (workspace, pool), group in groups.items():
        allowed = pool.per_hour * config.settings.budget.share
        yield Load(workspace, pool, len(group), calls_per_hour(group), allowed)


def calls_per_hour(queries: Iterable[Query]) -> float:
    """Return how many calls an hour the queries make if someone scrapes all along."""
    return sum(3_600 / query.refresh for query in queries)


def _over_share(load: Load, queries: Sequence[Query]) -> str:
    """Say by how much a plan is over its share, and the refresh with which it fits."""
    mine = [query for query in queries if (query.workspace, query.kind.pool) == (load.workspace, load.pool)]
    slower = load.calls / load.allowed
    needs = ", ".join(
        f"{section} by the {unit} needs refresh ≥ {_minutes(shortest * slower)}"
        for (section, unit), shortest in sorted(_shortest_refresh(mine).items())
    )
    return (
        f"its {load.queries:,} queries would make {load.calls:,.0f} calls an hour, but budget.share allows "
        f"{load.allowed:,.0f} of the {load.pool.per_hour:,.0f} of the {load.pool.name} pool: {needs}, or fewer queries"
    )


def _shortest_refresh(queries: Iterable[Query]) -> dict[tuple[str, Unit], float]:
    found: dict[tuple[str, Unit], float] = {}
    for query in queries:
        key = (query.kind.section, query.unit)
        found[key] = min(found.get(key, math.inf), query.refresh)
    return found


def _minutes(seconds: float) -> str:
    """Return a duration as the config would say it, rounded up."""
    return f"{math.ceil(seconds)}s" if seconds < 60 else f"{math.ceil(seconds / 60)}m"  # noqa: PLR2004 - a minute


def _path_of(config: Config, name: str) -> tuple[str | int, ...]:
    return next(workspace.path for workspace in config.workspaces if workspace.spec.name == name)


def bucket_end(start: int, unit: Unit, zone: ZoneInfo) -> int:
    """Return the instant (seconds since the epoch) at which the bucket that begins at `start` ends.

    An hour is an hour. A day ends at the next local midnight in `zone`, 23, 24 or 25 hours later.
    """
    if unit is Unit.HOUR:
        return start + unit.seconds
    day = datetime.fromtimestamp(start, zone).date() + timedelta(days=1)
    return int(datetime.combine(day, time.min, zone).timestamp())


def settled(points: Sequence[Point], query: Query, sent_at: float) -> Point | None:
    """Return the newest point that was settled when its answer was asked for at `sent_at`, or None.

    A bucket is settled by a fetch that was sent `settle` or more after its end. The newest bucket of an answer that runs
    up to now is never settled, whatever the clocks say. `points` are sorted by their start.
    """
    for point in reversed(points[:-1]):
        if bucket_end(point.start, query.unit, query.zone) + query.settle <= sent_at:
            return point
    return None
