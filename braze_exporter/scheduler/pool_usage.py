"""The calls that a plan needs in each pool, and whether `budget.share` suffices for them. Pure functions."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from braze_exporter.braze.pools import LISTS_POOL, Pool
from braze_exporter.braze.query import Query
from braze_exporter.config.plurals import pluralize
from braze_exporter.config.schema import Settings
from braze_exporter.scheduler.history_ranges import count_chunks, history_bounds

# The history of baselines must be read within this many hours, with half of the calls that the queries leave of the
# share.
MAX_HISTORY_HOURS = 24


@dataclass(frozen=True, slots=True)
class PoolUsage:
    """The calls that the queries of a workspace make in a pool.

    `hourly_calls` is the number of calls per hour, and `allowed_hourly_calls` its maximum by `budget.share`.
    `startup_calls` is the number of additional calls after a start, for the history of baselines. `burst` is the number
    of calls that may be made at once: those of one refresh.
    """

    workspace: str
    pool: Pool
    query_count: int
    hourly_calls: float
    allowed_hourly_calls: float
    burst: int
    startup_calls: int = 0

    @property
    def is_within_budget(self) -> bool:
        """Whether `budget.share` of the pool suffices for all calls, startup calls included."""
        return not self.exceeds_share and not self.exceeds_history

    @property
    def exceeds_share(self) -> bool:
        """Whether the queries make more calls per hour than allowed. Smaller differences are rounding errors."""
        return round(self.hourly_calls - self.allowed_hourly_calls, 3) > 0

    @property
    def exceeds_history(self) -> bool:
        """Whether the queries leave too few calls for the history of baselines."""
        left = (self.allowed_hourly_calls - self.hourly_calls) / 2
        return self.startup_calls > min(self.allowed_hourly_calls, MAX_HISTORY_HOURS * left)


def compute_pool_usage(settings: Settings, queries: Sequence[Query]) -> Iterator[PoolUsage]:
    """Yield the usage of each pool by each workspace, with one call per refresh of a query."""
    groups: dict[tuple[str, Pool], list[Query]] = {}
    for query in queries:
        groups.setdefault((query.workspace, query.kind.pool), []).append(query)
    for (workspace, pool), group in groups.items():
        allowed_hourly_calls = pool.per_hour * settings.budget.share
        with_baseline = [query for query in group if query.baseline_weeks]
        startup_calls = sum(
            count_chunks(query, *history_bounds(query, now=0.0), query.kind.max_length) for query in with_baseline
        )
        burst = len(group)
        if pool is LISTS_POOL:  # its limit is too small for all queries of a plan at once
            burst = min(burst, max(1, math.floor(allowed_hourly_calls)))
        yield PoolUsage(workspace, pool, len(group), calls_per_hour(group), allowed_hourly_calls, burst, startup_calls)


def calls_per_hour(queries: Iterable[Query]) -> float:
    """Return the number of calls that the queries make per hour, if Prometheus scrapes often enough."""
    return sum(3_600 / query.refresh_seconds for query in queries)


def describe_excess(usage: PoolUsage, queries: Sequence[Query]) -> str | None:
    """Return why the calls of a plan with `queries` are not within the budget, and the fix, or None if they are."""
    if usage.exceeds_share:
        return _describe_overuse(usage, queries)
    return _describe_history(usage) if usage.exceeds_history else None


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
        f"set refresh_interval ≥ {format_rounded_up(min_refresh)} for {names}, or configure fewer queries"
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


def format_rounded_up(seconds: float) -> str:
    """Return a duration in the notation of the config, rounded up to seconds or minutes."""
    return f"{math.ceil(seconds)}s" if seconds < 60 else f"{math.ceil(seconds / 60)}m"  # noqa: PLR2004 - a minute
