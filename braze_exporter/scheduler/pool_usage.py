"""The calls that a plan needs in each pool, whether `budget.share` allows them, and the budgets. Pure functions."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from braze_exporter.braze.lists import LIST_ENDPOINTS, ListEndpoint
from braze_exporter.braze.pools import LISTS_POOL, Pool
from braze_exporter.braze.query import Query
from braze_exporter.config.plurals import pluralize
from braze_exporter.config.schema import Settings
from braze_exporter.config.values import format_rounded_up
from braze_exporter.scheduler.history import History
from braze_exporter.scheduler.rate_limiter import PoolBudget

# The history of baselines must be read within this many hours, with half of the calls that the queries leave of the
# share.
MAX_HISTORY_HOURS = 24
# The number of pages that a list is assumed to have until it has been read. 100 pages have 25,000 events.
UNKNOWN_LIST_PAGES = 100
# A scrape makes the calls for history that have become available since the one before, usually a minute ago at most.
_SCRAPES_PER_HOUR = 60


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
        """Whether the history of baselines needs too many calls."""
        return self.startup_calls > self.max_startup_calls

    @property
    def max_startup_calls(self) -> float:
        """The maximum of `startup_calls`: those of the share in an hour, or half of what the queries leave in a day."""
        left = (self.allowed_hourly_calls - self.hourly_calls) / 2
        return min(self.allowed_hourly_calls, MAX_HISTORY_HOURS * left)

    @property
    def command_hourly_calls(self) -> float:
        """The calls per hour that a command may make: half of what the queries leave of the share.

        In the pool of the lists it is half of the share. The exporter reads history with the other half.
        """
        planned = 0.0 if self.pool is LISTS_POOL else self.hourly_calls
        return max(0.0, self.allowed_hourly_calls - planned) / 2

    def select(self, queries: Iterable[Query]) -> list[Query]:
        """Return the queries of the workspace whose calls are in the pool."""
        return [query for query in queries if (query.workspace, query.kind.pool) == (self.workspace, self.pool)]


def compute_pool_usage(settings: Settings, queries: Sequence[Query]) -> Iterator[PoolUsage]:
    """Yield the usage of each pool by each workspace, with one call per refresh of a query."""
    groups: dict[tuple[str, Pool], list[Query]] = {}
    for query in queries:
        groups.setdefault((query.workspace, query.kind.pool), []).append(query)
    for (workspace, pool), group in groups.items():
        allowed_hourly_calls = pool.per_hour * settings.budget.share
        with_baseline = [query for query in group if query.baseline_weeks]
        startup_calls = sum(History().count_calls(query, now=0.0) for query in with_baseline)
        burst = len(group)
        if pool is LISTS_POOL:  # its limit is too small for all queries of a plan at once
            burst = min(burst, max(1, math.floor(allowed_hourly_calls)))
        yield PoolUsage(workspace, pool, len(group), calls_per_hour(group), allowed_hourly_calls, burst, startup_calls)


def with_budget_owners(queries: Iterable[Query], owners: Mapping[str, str]) -> list[Query]:
    """Return `queries`, each with the workspace that `owners` gives for its own. These share one budget."""
    return [
        query if owners[query.workspace] == query.workspace else replace(query, workspace=owners[query.workspace])
        for query in queries
    ]


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
    queries_of_pool = usage.select(queries)
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
    longer_refresh = ", or a longer refresh_interval" if usage.startup_calls <= usage.allowed_hourly_calls else ""
    return (
        f"baselines need {pluralize(usage.startup_calls, 'call', 'calls')} after a start, but budget.share allows "
        f"at most {math.floor(usage.max_startup_calls):,} for them in the {usage.pool.name} pool beside the queries; "
        f"configure fewer weeks or fewer baselines{longer_refresh}"
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


def exporter_budgets(
    usages: Iterable[PoolUsage], settings: Settings, list_pages: Mapping[ListEndpoint, int]
) -> dict[Pool, PoolBudget]:
    """Return the budgets of the exporter for the pools of one workspace.

    They allow the share of each pool, and in one burst one refresh, the history that a minute allows, and the pages of
    the lists. `list_pages` is the number of pages of each list in use.
    """
    share, reserve = settings.budget.share, settings.budget.reserve
    budgets: dict[Pool, PoolBudget] = {}
    for usage in usages:
        left = usage.allowed_hourly_calls - usage.hourly_calls
        history_burst = min(usage.burst, 1 + int(left / 2 / _SCRAPES_PER_HOUR)) if usage.startup_calls else 0
        planned_share = usage.hourly_calls / usage.pool.per_hour
        burst = usage.burst + history_burst  # so that calls for history defer no query
        budgets[usage.pool] = PoolBudget(share, reserve, burst, planned_share, history_burst)
    for list_endpoint, pages in list_pages.items():
        pool = list_endpoint.pool
        budget = budgets.get(pool, PoolBudget(share, reserve, burst=0))
        max_burst = max(1, math.floor(pool.per_hour * share))
        budgets[pool] = replace(budget, burst=max(budget.burst, min(budget.burst + pages, max_burst)))
    return budgets


def command_budgets(
    usages: Iterable[PoolUsage], settings: Settings, max_burst: float = math.inf
) -> dict[Pool, PoolBudget]:
    """Return the budgets of a command for the pools of one workspace, beside an exporter with the same config.

    They allow `command_hourly_calls` of each pool, and at most `max_burst` calls or those of an hour in one burst.
    """
    pools_of_lists = {list_endpoint.pool for list_endpoint in LIST_ENDPOINTS}
    calls = {pool: pool.per_hour * settings.budget.share / 2 for pool in pools_of_lists}
    calls |= {usage.pool: usage.command_hourly_calls for usage in usages}
    return {
        pool: PoolBudget(hourly / pool.per_hour, settings.budget.reserve, max(1, int(min(max_burst, hourly))))
        for pool, hourly in calls.items()
    }
