"""The types of the JSON status response at `/`.

Times are seconds since the epoch. The page computes ages from `now`.
"""

from typing import TypedDict


class PointsData(TypedDict):
    """The points of a series, oldest first. If `starts` is null, they are consecutive hours from `first` on.

    The first `settled` points have settled. The first `ended` points had ended when the response was requested.
    """

    first: int
    starts: list[int] | None
    values: list[float]
    settled: int
    ended: int


class ErrorData(TypedDict):
    """Why the last fetch of a query failed. `failures` is the number of consecutive transient failures."""

    reason: str
    detail: str
    failures: int


class SeriesData(TypedDict):
    """One series of a query, as exported: the name of its metric group, and the labels that distinguish it."""

    metric_group: str
    labels: list[str]
    latest: float | None
    settled: float | None
    total: float | None


class QueryData(TypedDict):
    """A query with its exported values; null where a metric is absent.

    `tags` distinguish queries with the same name; each is a label and its text. The values are those of the series or
    sum that represents the query. `series` lists all series if the responses have several metric groups. `labels` are
    the labels of the query's samples. `app_id` and `segment_id` are Braze's ids. `metrics` are the names of its settled
    gauge and of its counter, if any. `next_at` is the earliest time of the next fetch, or null if the next scrape
    fetches the query.
    """

    workspace: str
    name: str
    tags: list[tuple[str, str]]
    labels: dict[str, str]
    series: list[SeriesData]
    unit: str
    app_id: str
    segment_id: str
    refresh: float
    settle: float
    max_age: float
    state: str
    message: str
    error: ErrorData | None
    last_success_at: float | None
    next_at: float | None
    in_flight: bool
    latest: float | None
    latest_start: int | None
    settled: float | None
    settled_start: int | None
    baseline: float | None
    baseline_weeks: int
    total: float | None
    metrics: list[str]
    points: PointsData | None


class PoolData(TypedDict):
    """A rate limit pool of a workspace, with the last values from Braze, or null if unknown.

    `reserve` is the number of calls that the exporter leaves to the company's sends. `planned` is the number of calls
    per hour of the plan, and `allowed` its maximum.
    """

    name: str
    limit: float
    remaining: float | None
    reset_at: float | None
    reserve: float
    planned: float
    allowed: float


class WorkspaceData(TypedDict):
    """A workspace with its health: the `level` is that of the first and most urgent of `messages`."""

    name: str
    url: str
    zone: str
    level: str
    messages: list[str]
    pools: list[PoolData]


class StateData(TypedDict):
    """A query status: its value in the metrics, its name and its urgency."""

    state: str
    name: str
    level: str


class StatusResponse(TypedDict):
    """The whole status. `states` begin with the most urgent one. `errors` are problems of the exporter itself."""

    version: str
    now: float
    scraped_at: float | None
    errors: list[str]
    states: list[StateData]
    workspaces: list[WorkspaceData]
    queries: list[QueryData]
