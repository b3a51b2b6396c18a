"""The state of an exporter at one moment, for the status page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from braze_exporter.config.schema import Budget, Workspace
from braze_exporter.metrics.self_metrics import SelfMetrics
from braze_exporter.metrics.series_view import SeriesView
from braze_exporter.scheduler.admission import Admission
from braze_exporter.scheduler.list_read_state import ListReadState
from braze_exporter.scheduler.plan import Plan


@dataclass(frozen=True, slots=True)
class ActiveWorkspace:
    """A workspace of the current config, with its budget, the plan of all workspaces, and its `Admission`."""

    spec: Workspace
    budget: Budget
    plan: Plan
    admission: Admission


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
