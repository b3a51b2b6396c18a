"""PromQL and number formats that the panels of the dashboard "Braze exporter" share."""

import functools

from braze_exporter.metrics.families import QUERY_LAST_SUCCESS, Family
from braze_exporter.metrics.promql import max_by
from braze_exporter.metrics.self_families import BUILD_INFO
from braze_exporter.monitoring.panels import Column, numbers, steps
from braze_exporter.monitoring.series_groups import select as select_series

BUILD = BUILD_INFO.name
COUNT, SECONDS = numbers(unknown="-"), numbers("s", decimals=None, unknown="-")
WARNINGS = numbers(thresholds=steps("text", (1, "orange")), unknown="-")
SUCCESS = numbers(values={"0": ("fail", "red"), "1": ("succeed", "green")})
IDENTITY = (Column("Workspace", "workspace"), Column("Kind", "kind"))

select = functools.partial(select_series, variables=("workspace",))


def sum_by(expr: str, *labels: str) -> str:
    """Return the sum of an expression by these labels."""
    return f"sum by ({', '.join(labels)}) ({expr})"


def latest(family: Family, *matchers: str) -> str:
    """Return the current values of a gauge over all Prometheus targets."""
    return max_by(select(family, *matchers), family.labels)


def oldest_success() -> str:
    """Return the time since the oldest last success of a query, by workspace."""
    return f"time() - min by (workspace) ({latest(QUERY_LAST_SUCCESS)} > 0)"
