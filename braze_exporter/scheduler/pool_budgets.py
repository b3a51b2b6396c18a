"""Computes the budget of each pool from a plan, for the exporter and for commands beside it.

Pure functions.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from braze_exporter.braze.lists import LIST_ENDPOINTS, ListEndpoint
from braze_exporter.braze.pools import LISTS_POOL, Pool
from braze_exporter.config.schema import Settings
from braze_exporter.scheduler.pool_usage import PoolUsage
from braze_exporter.scheduler.rate_limiter import PoolBudget

# The number of pages that a list is assumed to have until it has been read. 100 pages have 25,000 events.
UNKNOWN_LIST_PAGES = 100
# A scrape makes the calls for history that have become available since the one before, usually a minute ago at most.
_SCRAPES_PER_HOUR = 60


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

    They allow `command_calls_per_hour` of each pool, and at most `max_burst` calls or those of an hour in one burst.
    """
    planned = {usage.pool: usage.hourly_calls for usage in usages}
    pools = dict.fromkeys([*planned, *(list_endpoint.pool for list_endpoint in LIST_ENDPOINTS)])
    calls = {pool: command_calls_per_hour(pool, settings, planned.get(pool, 0.0)) for pool in pools}
    return {
        pool: PoolBudget(hourly / pool.per_hour, settings.budget.reserve, max(1, int(min(max_burst, hourly))))
        for pool, hourly in calls.items()
    }


def command_calls_per_hour(pool: Pool, settings: Settings, planned_hourly_calls: float) -> float:
    """Return the calls per hour that a command may make: half of what the plan leaves of the share.

    In the pool of the lists it is half of the share. The exporter reads history with the other half.
    """
    allowed = pool.per_hour * settings.budget.share
    return (allowed if pool is LISTS_POOL else max(0.0, allowed - planned_hourly_calls)) / 2
