"""Keeps the budgets and the key states of all workspaces, also in the state file.

Workspaces with the same url and key share both.
"""

import hashlib
import math
import secrets
import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Self

from braze_exporter.braze.calls import RateLimit
from braze_exporter.braze.clock import Clock
from braze_exporter.braze.lists import ListEndpoint
from braze_exporter.braze.pools import Endpoint, Pool
from braze_exporter.config.loading import Config
from braze_exporter.config.schema import Workspace
from braze_exporter.config.secrets import ApiKey
from braze_exporter.scheduler.admission import Admission, KeyBudget
from braze_exporter.scheduler.circuit_breaker import StartCircuitBreaker
from braze_exporter.scheduler.key_state import KeyState
from braze_exporter.scheduler.plan import Plan
from braze_exporter.scheduler.pool_usage import command_budgets, exporter_budgets
from braze_exporter.scheduler.rate_limiter import PoolBudget, RateLimiter
from braze_exporter.state.contents import budget_changes
from braze_exporter.state.state_file import StateFile
from braze_exporter.state.tables import BudgetRecords, BudgetRow, HoldRow, TableChanges
from braze_exporter.state.writer import MAX_WAIT_SECONDS, WRITE_INTERVAL_SECONDS


class WorkspaceKey(NamedTuple):
    """The key of a workspace's state: its name and the url of its REST endpoint."""

    workspace: str
    url: str

    @classmethod
    def of(cls, spec: Workspace) -> Self:
        """Return the key of a configured workspace."""
        return cls(spec.name, spec.rest_endpoint)


@dataclass(frozen=True, slots=True)
class Demand:
    """What a workspace needs: the budget of each pool, and the endpoints in use."""

    budgets: Mapping[Pool, PoolBudget]
    endpoints: Collection[Endpoint] = ()


# The url and the digest of the key.
_BudgetKey = tuple[str, str]


class Budgets:
    """The budgets and the key states of all workspaces, kept in the state file. Thread-safe."""

    def __init__(self, clock: Clock, state_file: StateFile | None = None, *, is_reached: bool = False) -> None:
        """Start with the budgets in `state_file`, which `start_saving` must take out of it.

        If `is_reached` is false, calls are made one at a time until Braze has responded.
        """
        self._is_reached = is_reached
        self._clock = clock
        self._lock = threading.Lock()
        self._admissions: dict[WorkspaceKey, Admission] = {}
        self._demands: Mapping[WorkspaceKey, Demand] = {}
        records = state_file.read_budgets() if state_file is not None else None
        records = records or BudgetRecords(secrets.token_hex(), {})
        self._salt = records.salt
        self._key_digests = {WorkspaceKey(*key): digest for key, digest in records.key_digests.items()}
        self._budgets: dict[_BudgetKey, KeyBudget] = {}
        self._key_states: dict[_BudgetKey, KeyState] = {}
        self._restore(records)
        self._is_closed = False
        self._request_write: Callable[[], Future[bool]] | None = None
        self._is_changed = False
        self._called_at = clock.monotonic()
        self._are_balances_saved = False

    def start_saving(self, request_write: Callable[[], Future[bool]]) -> None:
        """Take the balances out of the state file, and use none if that fails or the disk does not respond.

        `request_write` requests a write of the state file. Its future has the result whether everything was written.
        """
        with self._lock:
            self._record_change()
        self._request_write = request_write
        if not _wait_for_write(request_write()):
            wall = self._clock.wall()
            for budget in self._budgets.values():
                rows = budget.rows.items()
                budget.rows = {pool: row._replace(balance=0.0, balance_at=wall) for pool, row in rows}

    def _make_budget(self) -> KeyBudget:
        """Return a budget without limiters."""
        return KeyBudget(StartCircuitBreaker(is_reached=self._is_reached))

    def _restore(self, records: BudgetRecords) -> None:
        now, wall = self._clock.monotonic(), self._clock.wall()
        for row in records.budgets:
            budget = self._budgets.setdefault((row.url, row.key_digest), self._make_budget())
            budget.rows[row.pool] = row
        holds: dict[_BudgetKey, list[HoldRow]] = {}
        for hold in records.holds:
            holds.setdefault((hold.url, hold.key_digest), []).append(hold)
        for budget_key, rows in holds.items():
            key_state = self._key_states[budget_key] = KeyState()
            key_state.restore(rows, now, wall)

    def open_admissions(self, config: Config) -> Mapping[str, Admission]:
        """Return the admission of each workspace of `config` by its name, with its API key.

        A workspace with the same name and url as before keeps its admission. `set_demands` must be called before the
        first call.
        """
        opened: dict[str, Admission] = {}
        with self._lock:
            for spec in (workspace.spec for workspace in config.workspaces):
                workspace_key, secret = WorkspaceKey.of(spec), config.keys[spec.name]
                admission = self._admissions.get(workspace_key)
                if admission is None:
                    admission = self._admissions[workspace_key] = Admission(
                        ApiKey(spec.name, secret, spec.api_key_file),
                        partial(self._reread_key, workspace_key),
                        lock=self._lock,
                        clock=self._clock,
                        on_change=self._record_change,
                        on_stop=self._write,
                    )
                admission.api_key.replace(secret, spec.api_key_file)
                self._change_key(workspace_key, admission)
                opened[spec.name] = admission
            self._combine_demands()
        return opened

    def _reread_key(self, workspace_key: WorkspaceKey) -> bool:
        """Read the key file of a workspace again, and return whether the key has changed.

        The key files of other workspaces with the same key are read too, since only one workspace probes at a time.
        """
        with self._lock:
            key_state = self._admissions[workspace_key].key_state
            in_use = {name: self._admissions[name] for name in self._demands}
        sharing = {name: admission for name, admission in in_use.items() if admission.key_state is key_state}
        changed = [name for name, admission in sharing.items() if admission.api_key.reread()]
        with self._lock:
            for name in changed:
                self._change_key(name, in_use[name])
            if changed:
                self._combine_demands()
        return workspace_key in changed

    def _change_key(self, workspace_key: WorkspaceKey, admission: Admission) -> None:
        """Use the current API key of a workspace.

        A new key takes over the budget of the previous one. A key that no workspace uses any more is forgotten.
        """
        digest = hashlib.sha256(f"{self._salt}:{admission.api_key.reveal()}".encode()).hexdigest()
        url, before = workspace_key.url, self._key_digests.get(workspace_key)
        if (url, digest) not in self._budgets:
            budget = self._budgets.get((url, before)) if before is not None else None
            self._budgets[url, digest] = budget or self._make_budget()
        if before != digest:
            self._key_digests[workspace_key] = digest
            others = (other for key, other in self._key_digests.items() if key.url == url)
            if before is not None and before not in others:
                self._budgets.pop((url, before), None)
            self._is_changed = True
            self._write()
        admission.budget = self._budgets[url, digest]
        admission.key_state = self._key_states.setdefault((url, digest), KeyState())

    def set_demands(self, demands: Mapping[WorkspaceKey, Demand]) -> None:
        """Set what each workspace needs. Workspaces with the same url and key get the sum.

        The limits that Braze has reported and the calls made so far still count.
        """
        with self._lock:
            self._demands = demands
            has_new = self._combine_demands()
            if has_new:
                self._record_change()
        if has_new and self._request_write is not None:
            _wait_for_write(self._request_write())  # before the first call

    def set_plan(self, config: Config, plan: Plan, list_pages: Mapping[str, Mapping[ListEndpoint, int]]) -> None:
        """Set the budgets of an exporter that uses `plan`, the plan of `config`.

        `list_pages` has the number of pages of each list in use, by workspace name.
        """
        demands: dict[WorkspaceKey, Demand] = {}
        for spec in (workspace.spec for workspace in config.workspaces):
            pages = list_pages.get(spec.name, {})
            budgets = exporter_budgets(plan.usage_of(spec.name), config.settings, pages)
            demands[WorkspaceKey.of(spec)] = Demand(budgets, (*plan.kinds_of(spec.name), *pages))
        self.set_demands(demands)

    def set_command_plan(
        self,
        config: Config,
        plan: Plan,
        *,
        max_burst: float = math.inf,
        endpoints: Callable[[str], Collection[Endpoint]] = lambda _workspace: (),
    ) -> None:
        """Set the budgets of a command beside an exporter that uses `plan`, the plan of `config`.

        They allow at most `max_burst` calls in a burst. `endpoints` returns the endpoints in use of a workspace.
        """
        demands: dict[WorkspaceKey, Demand] = {}
        for spec in (workspace.spec for workspace in config.workspaces):
            budgets = command_budgets(plan.budget_usage_of(spec.name), config.settings, max_burst)
            demands[WorkspaceKey.of(spec)] = Demand(budgets, endpoints(spec.name))
        self.set_demands(demands)

    def rate_limits(self) -> dict[tuple[str, str], RateLimit]:
        """Return the current rate limits by the names of workspace and pool, also those from the state file."""
        with self._lock:
            now, wall = self._clock.monotonic(), self._clock.wall()
            return {
                (key.workspace, pool): limiter.rate_limit(now, wall)
                for key in self._demands
                for pool, limiter in self._admissions[key].budget.limiters.items()
            }

    def _combine_demands(self) -> bool:
        """Apply the demands, and return whether a pool is new."""
        now, has_new = self._clock.monotonic(), False
        totals: dict[KeyBudget, dict[Pool, PoolBudget]] = {}
        endpoints: dict[KeyState, dict[str, Endpoint]] = {}
        for workspace_key, demand in self._demands.items():
            admission = self._admissions[workspace_key]
            pools = totals.setdefault(admission.budget, {})
            for pool, pool_budget in demand.budgets.items():
                pools[pool] = pools[pool] + pool_budget if pool in pools else pool_budget
            in_use = endpoints.setdefault(admission.key_state, {})
            in_use |= {endpoint.path: endpoint for endpoint in demand.endpoints}
        for budget, pools in totals.items():
            for pool, pool_budget in pools.items():
                limiter = budget.limiters.get(pool.name)
                if limiter is not None:
                    limiter.set_budget(pool_budget, now)
                    continue
                limiter = budget.limiters[pool.name] = RateLimiter(pool, pool_budget, now)
                row = budget.rows.pop(pool.name, None)
                if row is not None:
                    limiter.restore(row, now, self._clock.wall())
                has_new = True
        for key_state, used in endpoints.items():
            key_state.set_endpoints(tuple(used.values()))
        return has_new

    def _record_change(self) -> None:
        """Save a change of a budget, and take the balances out of the state file, since calls may follow."""
        self._is_changed, self._called_at = True, self._clock.monotonic()
        if self._are_balances_saved:
            self._write()

    def _write(self) -> None:
        """Request a write of the state file at once."""
        self._are_balances_saved = False
        if self._request_write is not None:
            self._request_write()

    def close(self) -> None:
        """Allow no more calls. The next write of the state file has the balances."""
        with self._lock:
            self._is_closed = True
            for admission in self._admissions.values():
                admission.is_closed = True

    @property
    def _is_idle(self) -> bool:
        """Whether no call has been made for so long that the state file may have the balances."""
        return self._is_closed or self._clock.monotonic() - self._called_at >= WRITE_INTERVAL_SECONDS

    @property
    def has_changes(self) -> bool:
        """Whether `take_changes` would return changes. Does not wait for other threads."""
        return self._is_changed or (self._is_idle and not self._are_balances_saved)

    def take_changes(self) -> TableChanges:
        """Return all budgets and holds for the state file if they have changed since the last call.

        While calls are made, the balances are 0, so that a process that is killed adds no calls.
        """
        with self._lock:
            if not self.has_changes:
                return {}
            self._is_changed, self._are_balances_saved = False, self._is_idle
            now, wall = self._clock.monotonic(), self._clock.wall()
            budgets: list[BudgetRow] = []
            holds: list[HoldRow] = []
            for (url, digest), budget in self._budgets.items():
                budgets += (row._replace(url=url, key_digest=digest) for row in budget.rows.values())
                budgets += (limiter.to_row(url, digest, now, wall) for limiter in budget.limiters.values())
                key_state = self._key_states.get((url, digest))
                holds += key_state.to_rows(url, digest, now, wall) if key_state is not None else ()
            if not self._are_balances_saved:
                budgets = [row._replace(balance=0.0, balance_at=wall) for row in budgets]
            key_digests = {(key.workspace, key.url): digest for key, digest in self._key_digests.items()}
            return budget_changes(BudgetRecords(self._salt, key_digests, budgets, holds))


def _wait_for_write(write: Future[bool]) -> bool:
    """Return whether a write succeeded. A disk that does not respond is a failure after `MAX_WAIT_SECONDS`."""
    try:
        return write.result(MAX_WAIT_SECONDS)
    except TimeoutError:
        return False
