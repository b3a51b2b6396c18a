"""The form of the facts that the page at `/` shows, as JSON has them.

Times are seconds since the epoch; how long ago that was is for the reader to say, by `now`.
"""

from typing import TypedDict


class PointsData(TypedDict):
    """The points held, oldest first, in two lists; without `starts` they are the hours from `first` on.

    The first `settled` of them have settled, and the first `ended` had ended when they were asked for.
    """

    first: int
    starts: list[int] | None
    values: list[float]
    settled: int
    ended: int


class ErrorData(TypedDict):
    """Why a query is not answered, and how many failures in a row were Braze's trouble."""

    reason: str
    detail: str
    failures: int


class SeriesData(TypedDict):
    """One of the series of a query, with what the metrics show: its noun, and the labels that tell it from others."""

    noun: str
    labels: list[str]
    latest: float | None
    settled: float | None
    total: float | None


class QueryData(TypedDict):
    """A query, with the values that the metrics show; null is what is not shown.

    `tags` tell it from others of its name, each with what it is. If its answers have several `series`, the values are
    those of the sum that stands for it. `labels` are those of its samples; `app_id` and `segment_id` are Braze's.
    `metrics` are the names of its settled gauge and of its counter, if it has one. `next_at` is when it may be asked,
    null if the next scrape asks.
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
    words: str
    error: ErrorData | None
    answered_at: float | None
    next_at: float | None
    busy: bool
    latest: float | None
    latest_start: int | None
    settled: float | None
    settled_start: int | None
    baseline: float | None
    weeks: int
    total: float | None
    metrics: list[str]
    points: PointsData | None


class PoolData(TypedDict):
    """A pool of a workspace: what Braze last said, null where it did not, and the calls an hour planned and allowed.

    `reserve` is the number of calls that are left to others.
    """

    name: str
    limit: float
    remaining: float | None
    reset_at: float | None
    reserve: float
    planned: float
    allowed: float


class WorkspaceData(TypedDict):
    """A workspace, with its health: how urgent that is, and the sentences that say why."""

    name: str
    url: str
    zone: str
    level: str
    sentences: list[str]
    queries: int
    pools: list[PoolData]


class StateData(TypedDict):
    """A state that a query can be in: as the metrics have it, what it is called, and how urgent it is."""

    state: str
    name: str
    level: str


class StatusResponse(TypedDict):
    """Everything. `states` begin with the most urgent one; `troubles` are of the exporter itself."""

    version: str
    now: float
    scraped_at: float | None
    troubles: list[str]
    states: list[StateData]
    workspaces: list[WorkspaceData]
    queries: list[QueryData]
