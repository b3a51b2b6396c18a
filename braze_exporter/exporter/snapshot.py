"""The state of an exporter at one moment, for the status page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from braze_exporter.metrics.self_metrics import SelfMetrics
from braze_exporter.metrics.series_view import SeriesView
from braze_exporter.scheduler.admission import Admission
from braze_exporter.scheduler.list_read_state import ListReadState
from braze_exporter.scheduler.plan import Plan
from braze_exporter.scheduler.pool_usage import PoolUsage


@dataclass(frozen=True, slots=True)
class ActiveWorkspace:
    """A workspace of the current config, with its budget and the `Admission` of its calls.

    `share` and `reserve` are fractions of Braze's rate limits. `pool_usage` is that of this workspace; `plan` is the
    plan of all workspaces.
    """

    url: str
    zone: ZoneInfo
    share: float
    reserve: float
    pool_usage: tuple[PoolUsage, ...]
    admission: Admission
    plan: Plan


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of an exporter at one moment, for the status page.

    `now` and `monotonic` are that moment, in seconds since the epoch and in seconds of the monotonic clock.
    `scraped_at` is the time of the last scrape in seconds since the epoch, or None before the first.
    `active_workspaces`, `lists` and `remaining_history` (numbers of chunks) are keyed by workspace name. If
    `are_counters_stalled`, the state file cannot be written, so that the counters do not rise.
    """

    now: float
    monotonic: float
    version: str
    scraped_at: float | None
    active_workspaces: Mapping[str, ActiveWorkspace]
    views: Sequence[SeriesView]
    self_metrics: SelfMetrics
    lists: Mapping[str, Sequence[ListReadState]]
    remaining_history: Mapping[str, int]
    are_counters_stalled: bool
