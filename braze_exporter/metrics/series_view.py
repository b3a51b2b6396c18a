"""What the status page shows of a series."""

from dataclasses import dataclass

from braze_exporter.braze.calls import Response
from braze_exporter.braze.series import Series
from braze_exporter.scheduler.query_state import QueryState


@dataclass(frozen=True, slots=True)
class SeriesView:
    """One series of a query with the last response of the query. All series of a query share a copy of its state.

    The first `settled_count` buckets of the series had settled when the response was requested. `latest`, `settled` and
    `baseline` are the values of the gauges, None where a gauge is absent. `total` is the exported value of the counter,
    or None if the series has no counter.
    """

    query_state: QueryState
    series: Series
    response: Response | None
    settled_count: int
    latest: float | None
    settled: float | None
    baseline: float | None
    total: float | None
