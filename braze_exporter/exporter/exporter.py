"""Wires one running exporter."""

import logging
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import requests

from braze_exporter import __version__
from braze_exporter.braze.calls import CallEvent
from braze_exporter.braze.clock import Clock
from braze_exporter.braze.lists import ListEndpoint
from braze_exporter.braze.transport import DEFAULT_TIMEOUTS, Timeouts
from braze_exporter.config.loading import Config
from braze_exporter.config.schema import Budget, Workspace
from braze_exporter.metrics.collector import Collector
from braze_exporter.metrics.counters import Counters
from braze_exporter.metrics.self_metrics import SelfMetrics
from braze_exporter.metrics.series_view import SeriesView
from braze_exporter.scheduler.admission import Admission
from braze_exporter.scheduler.budgets import Budgets, WorkspaceKey
from braze_exporter.scheduler.clients import WorkspaceClient, open_clients
from braze_exporter.scheduler.list_read_state import ListReadState
from braze_exporter.scheduler.list_refresh import ListRefresher
from braze_exporter.scheduler.plan import Plan
from braze_exporter.scheduler.query_state import QueryState, Refresh
from braze_exporter.scheduler.saved_queries import SavedQueries
from braze_exporter.scheduler.scheduler import Scheduler
from braze_exporter.scheduler.selectors import expand_selectors, name_key, required_lists
from braze_exporter.state.state_file import StateFile
from braze_exporter.state.writer import MAX_WAIT_SECONDS, StateChanges, StateSource, StateWriter

_log = logging.getLogger(__name__)


def _default_jitter() -> float:
    return random.uniform(0.9, 1.1)  # noqa: S311 - spreads retries, is not a secret


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
    `active_workspaces`, `lists` and `remaining_history` (numbers of calls) are keyed by workspace name. If
    `are_counters_stalled`, the state file cannot be written, so that the counters do not rise. `self_metrics` and the
    admissions are not copied, so their values may change while they are read.
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


class Exporter:
    """A running exporter: fetches the due queries of a plan at each scrape and renders the metrics."""

    def __init__(
        self,
        state_file: StateFile | None = None,
        *,
        clock: Clock,
        jitter: Callable[[], float] = _default_jitter,
        timeouts: Timeouts = DEFAULT_TIMEOUTS,
        reads_lists: bool = True,
        budgets: Budgets | None = None,
        revision: str = "unknown",
    ) -> None:
        """Start without a plan. Counters and budgets are kept in `state_file`, or only in memory if it is None.

        `jitter` returns a factor for the wait after failures. If `reads_lists` is false, Braze's lists are not read and
        the plan has no queries of selectors. A command passes its `budgets`, which are limited to the part for
        commands. `revision` is the Git commit of the build. The attribute `plan` is the current plan.
        """
        self._clock = clock
        self._timeouts = timeouts
        self._self_metrics = SelfMetrics(__version__, revision)
        self._state_file = state_file
        saved_queries = SavedQueries(state_file, clock) if state_file is not None else None
        self._counters = Counters(state_file)
        self._is_command = budgets is not None
        self._budgets = budgets or Budgets(clock, state_file)
        self._scheduler = Scheduler(
            clock=clock,
            jitter=jitter,
            on_deferred=self._self_metrics.count_deferred,
            restore=saved_queries.restore if saved_queries is not None else lambda _query: None,
            last_requested=lambda query: self._counters.last_requested(query.counter_key),
        )
        self._collector = Collector(
            self._scheduler,
            self._counters,
            self._self_metrics,
            monotonic=clock.monotonic,
            request_save=self._save_early,
            saved_queries=saved_queries,
        )
        self._reads_lists = reads_lists
        self._list_refresher = ListRefresher(
            clock=clock,
            jitter=jitter,
            submit=self._scheduler.add_job,
            on_end=self._apply_lists,
            on_deferred=self._self_metrics.count_deferred,
            state_file=state_file,
        )
        # The counters come last, so that a restart shows no response that its counters lack.
        sources: list[StateSource] = [self._counters]
        if saved_queries is not None:
            sources = [saved_queries, self._list_refresher, self._budgets, self._counters]
        self._writer = StateWriter(
            StateChanges(state_file, sources, on_written=self._counters.export_written),
            on_failure=self._self_metrics.count_state_write_failure,
            monotonic=clock.monotonic,
        )
        if state_file is not None:
            self._budgets.start_saving(self._writer.request)
        self._config_lock = threading.Lock()  # of the config, the plan and the clients
        # Set by `apply_config`.
        self._config: Config
        self._base_plan: Plan  # of the config, before the lists are read
        self._clients: Mapping[str, WorkspaceClient]
        self._lists: Mapping[str, Sequence[ListEndpoint]] = {}
        self.plan = Plan((), ())
        self._active_workspaces: Mapping[str, ActiveWorkspace] = {}
        self._scraped_at: float | None = None

    def apply_config(self, config: Config, plan: Plan, session: requests.Session) -> None:
        """Use `config` and its `plan` from now on, and send requests over `session`.

        Unchanged queries, budgets and counters keep their state. Fetches in flight still use the previous config. The
        queries of selectors are added once Braze's lists have been read.
        """
        with self._config_lock:
            admissions = self._budgets.open_admissions(config)
            self._clients = open_clients(
                config, admissions, session, self._clock, on_call=self._on_call, timeouts=self._timeouts
            )
            specs = [workspace.spec for workspace in config.workspaces]
            self._config, self._base_plan = config, plan
            self._lists = required_lists(plan) if self._reads_lists else {}
            lists = {WorkspaceKey.of(spec): self._lists.get(spec.name, ()) for spec in specs}
            self._list_refresher.set_lists(lists, self._clients)
            self._self_metrics.clear_timezones()
            self._apply_plan(self._expand_plan())
            self._self_metrics.record_reserve(config.settings.budget.reserve)
            self._self_metrics.record_reload(loaded_at=self._clock.wall())

    def _apply_lists(self) -> None:
        """Update the plan from the current lists.

        A list call can open or close a circuit, so the circuit errors of the queries are updated too.
        """
        with self._config_lock:
            plan = self._expand_plan()
            self._record_lists(plan)
            if plan != self.plan:
                self._apply_plan(plan)
            else:
                self._set_budgets(plan)  # the lists may have other numbers of pages
            self._scheduler.update_circuits()

    def _expand_plan(self) -> Plan:
        """Return the plan of the config, with the queries that its selectors have for the current lists."""
        current = {query.identity for query in self.plan.queries}
        known, pending = self._list_refresher.known_lists(), self._list_refresher.pending_lists()
        plan = expand_selectors(
            self._base_plan,
            self._config.settings,
            known,
            current=current,
            pending=pending,
            last_names=self._counters.names,
        )
        self._counters.record_names(
            {
                name_key(query): query.subject
                for query in plan.queries
                if query.kind.is_identified_by_id and query.subject
            }
        )
        return plan

    def _set_budgets(self, plan: Plan) -> None:
        """Set the budgets and the endpoints in use for `plan` and the lists."""
        if self._is_command:
            self._budgets.set_command_plan(self._config, plan, endpoints=plan.kinds_of)
        else:
            self._budgets.set_plan(self._config, plan, self._list_refresher.page_counts())

    def _apply_plan(self, plan: Plan) -> None:
        """Use `plan` from now on."""
        budget = self._config.settings.budget
        self._set_budgets(plan)
        self._self_metrics.initialize(plan, self._lists, self._budgets.rate_limits())
        self._record_lists(plan)
        self._scheduler.fetch_log.log_lists(plan)
        self._scheduler.set_queries(plan.queries, self._clients, budget.concurrency)
        self._active_workspaces = {
            spec.name: ActiveWorkspace(spec, budget, plan, self._clients[spec.name].admission)
            for spec in (workspace.spec for workspace in self._config.workspaces)
        }
        self.plan = plan

    def _record_lists(self, plan: Plan) -> None:
        self._self_metrics.record_lists(plan, self._list_refresher.states())

    def record_failed_reload(self) -> None:
        """Record that a configuration reload failed."""
        self._self_metrics.record_reload(loaded_at=None)

    def refresh(self) -> Refresh:
        """Start a fetch of every due query, and return a future that is done when no fetch is in flight.

        Due lists are read after that, so that queries come first and a rejected key is not tried twice.
        """
        self._scraped_at = self._clock.wall()
        fetched = self._scheduler.refresh()
        fetched.add_done_callback(lambda _fetched: self._list_refresher.refresh())
        return fetched

    def save(self) -> Future[bool]:
        """Start a write of the state file, and return a future that is done after it.

        If there is no state file, the future is done when the new totals are exported. It cannot be canceled.
        """
        return self._writer.request()

    def _save_early(self) -> None:
        if not self._writer.is_stalled:
            self._writer.request()

    def render(self, *, openmetrics: bool) -> Iterator[bytes]:
        """Yield the metrics in the text format 0.0.4, or in OpenMetrics 1.0.0 if `openmetrics` is true, in parts.

        The counters have the totals of the last write that succeeded.
        """
        return self._collector.render(openmetrics=openmetrics)

    @property
    def query_states(self) -> tuple[QueryState, ...]:
        """The states of the queries of the plan."""
        return self._scheduler.query_states

    def snapshot(self) -> Snapshot:
        """Return the state of the exporter with the values that `/metrics` exports. Makes no request to Braze."""
        active_workspaces = self._active_workspaces
        return Snapshot(
            now=self._clock.wall(),
            monotonic=self._clock.monotonic(),
            version=__version__,
            scraped_at=self._scraped_at,
            active_workspaces=active_workspaces,
            views=self._collector.views(),
            self_metrics=self._self_metrics,
            lists=self._list_refresher.states(),
            remaining_history=self._scheduler.remaining_history(),
            are_counters_stalled=self._writer.is_stalled,
        )

    def count_incomplete_scrape(self) -> None:
        """Count a scrape whose deadline passed before all its fetches ended."""
        self._self_metrics.count_incomplete_scrape()

    def stop_fetching(self) -> None:
        """Stop fetching and resolve the futures of scrapes that wait for fetches."""
        self._scheduler.close()
        self._budgets.close()

    def close(self) -> None:
        """Stop fetching, write the state file a last time, and close it.

        If the disk does not respond within `MAX_WAIT_SECONDS`, the file stays open until the process ends. SQLite
        then undoes the write when the file is opened again.
        """
        self.stop_fetching()
        if not self._writer.close(MAX_WAIT_SECONDS):
            fields = {"timeout": f"{MAX_WAIT_SECONDS:g}s"}
            _log.error("State file could not be written before the end", extra={"fields": fields})
        elif self._state_file is not None:
            self._state_file.close()

    def _on_call(self, call: CallEvent) -> None:
        self._self_metrics.count_call(call)
        self._scheduler.fetch_log.log_call(call)
