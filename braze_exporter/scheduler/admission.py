"""Decides which calls to Braze may be made now.

The decision depends on the rate limiter of the pool, and on whether Braze accepts the API key at the endpoint.
Workspaces with the same url and key share both.
"""

import hashlib
import secrets
import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple

from braze_exporter.braze.calls import Permit, RateLimitInfo
from braze_exporter.braze.errors import BrazeError
from braze_exporter.braze.pools import Endpoint, Pool
from braze_exporter.scheduler.circuit_breaker import Decision, StartCircuitBreaker
from braze_exporter.scheduler.errors import CircuitOpen, Deferred
from braze_exporter.scheduler.key_state import AUTH_REASONS, AuthFailure, KeyState
from braze_exporter.scheduler.priority import Priority
from braze_exporter.scheduler.rate_limiter import Pause, PoolBudget, RateLimiter
from braze_exporter.state.contents import budget_changes
from braze_exporter.state.state_file import StateFile
from braze_exporter.state.tables import BudgetRecords, BudgetRow, HoldRow, TableChanges
from braze_exporter.state.writer import WRITE_INTERVAL_SECONDS


class WorkspaceKey(NamedTuple):
    """The key of a workspace's state: its name and the url of its REST endpoint."""

    workspace: str
    url: str


@dataclass(frozen=True, slots=True)
class LimiterStatus:
    """What prevents calls of a workspace now.

    `pauses` are keyed by the name of the pool, `endpoint_failures` by the path of the endpoint. If all endpoints in use
    reject the key, `key_failure` is set and `endpoint_failures` is empty.
    """

    pauses: Mapping[str, Pause]
    key_failure: AuthFailure | None
    endpoint_failures: Mapping[str, AuthFailure]


@dataclass(frozen=True, slots=True)
class Demand:
    """What a workspace needs: the budget of each pool, and the endpoints in use."""

    budgets: Mapping[Pool, PoolBudget]
    endpoints: Collection[Endpoint] = ()


@dataclass(slots=True, eq=False)
class _Budget:
    """The rate limiters of one url and key, by the name of the pool, and whether Braze has ever responded.

    `rows` are the limiters of the state file that have not been used yet.
    """

    start: StartCircuitBreaker
    limiters: dict[str, RateLimiter] = field(default_factory=dict)
    rows: dict[str, BudgetRow] = field(default_factory=dict)


# The url and the digest of the key.
_BudgetKey = tuple[str, str]


class Admission:
    """Decides which calls of one workspace may be made, and lets no other call run during a probe. Thread-safe."""

    def __init__(self, budgets: "Budgets", reread_key: Callable[[], bool]) -> None:
        """Create the admission of a workspace of `budgets`, which sets its budget and its key."""
        self._budgets = budgets
        self._lock = budgets.lock
        self._reread_key = reread_key
        self.budget = budgets.make_budget()
        self.key = KeyState(())

    @property
    def is_reached(self) -> bool:
        """Whether Braze has ever responded to this process."""
        with self._lock:
            return self.budget.start.is_reached

    @property
    def unreachable_error(self) -> BrazeError | None:
        """The last failure if Braze has never responded, or None."""
        with self._lock:
            return self.budget.start.error

    @property
    def is_key_accepted(self) -> bool:
        """Whether an endpoint in use accepts the key."""
        with self._lock:
            return self.key.is_accepted

    def open_circuit_error(self, endpoint: Endpoint) -> BrazeError | None:
        """Return the 401 or 403 that blocks calls to `endpoint`, or to all endpoints, or None."""
        with self._lock:
            return self.key.error or self.key.circuit(endpoint).error

    def deny_reason(self, endpoint: Endpoint) -> Deferred | None:
        """Return why a call is not allowed now, or None if it is allowed, even if it must wait for a running probe."""
        with self._lock:
            return self._deny_reason(self._decisions(endpoint, self._budgets.monotonic()), endpoint)

    def is_probe_wanted(self, endpoint: Endpoint) -> bool:
        """Return whether a call to `endpoint` is needed to test the key, even if nothing is due."""
        with self._lock:
            if self.key.error is not None:
                decisions = self._decisions(endpoint, self._budgets.monotonic())
                return all(decision is Decision.ALLOW for decision in decisions)
            return self.key.circuit(endpoint).is_probe_wanted

    def status(self) -> LimiterStatus:
        """Return what prevents calls now."""
        with self._lock:
            now, key = self._budgets.monotonic(), self.key
            pauses = {name: limiter.current_pause(now) for name, limiter in self.budget.limiters.items()}
            auth_failure = AuthFailure(key.error, max(0.0, key.open_until - now)) if key.error is not None else None
            return LimiterStatus(
                {name: pause for name, pause in pauses.items() if pause is not None},
                auth_failure,
                key.auth_failures(now) if auth_failure is None else {},
            )

    def admit(self, endpoint: Endpoint, priority: Priority = Priority.QUERY) -> Permit | Deferred | None:
        """Return a permit for one call, a `Deferred` if it may not be made now, or None while a probe is in flight."""
        with self._lock:
            now = self._budgets.monotonic()
            decisions = self._decisions(endpoint, now, priority)
            deny_reason = self._deny_reason(decisions, endpoint)
            if deny_reason is not None:
                return deny_reason
            if any(decision is not Decision.ALLOW for decision in decisions):
                return None
            key, limiter, start = self.key, self.budget.limiters[endpoint.pool.name], self.budget.start
            key_call, pool_probe = key.acquire(endpoint), limiter.acquire(now, priority)
            start_call = start.acquire()
            self._budgets.record_call()

        def begin() -> None:
            nonlocal key, key_call
            if key_call.is_probe and self._reread_key():
                with self._lock:
                    key = self.key
                    key_call = key.acquire(endpoint)

        def end(error: BrazeError | None, feedback: RateLimitInfo) -> float | None:
            with self._lock:
                now = self._budgets.monotonic()
                key.record(endpoint, error, key_call, now)
                start.record(error, start_call, now)
                pause_seconds = limiter.release(feedback, pool_probe, now)
                is_refused = error is not None and error.reason in AUTH_REASONS
                self._budgets.record_call(is_stopped=is_refused or pause_seconds is not None)
                return pause_seconds

        return Permit(end, begin=begin)

    def _decisions(
        self, endpoint: Endpoint, now: float, priority: Priority = Priority.QUERY
    ) -> tuple[Decision, Decision, Decision]:
        """Return the decisions for the key, for the pool, and for a Braze that has never responded."""
        if self._budgets.is_closed:
            return Decision.DENY, Decision.DENY, Decision.DENY
        key = self.key.decide(endpoint, now, lambda other: self._is_open(other, now))
        limiter = self.budget.limiters[endpoint.pool.name]
        pool = limiter.decide(now, priority)
        return key, pool, self.budget.start.decide(now)

    def _is_open(self, endpoint: Endpoint, now: float) -> bool:
        limiter = self.budget.limiters.get(endpoint.pool.name)
        return limiter is not None and limiter.decide(now) is not Decision.DENY

    def _deny_reason(self, decisions: tuple[Decision, Decision, Decision], endpoint: Endpoint) -> Deferred | None:
        key, pool, start = decisions
        if Decision.DENY in (key, start):
            return CircuitOpen(endpoint.path)
        return Deferred(endpoint.pool.name) if pool is Decision.DENY else None


class Budgets:
    """The budgets and the key states of all workspaces, kept in the state file. Thread-safe."""

    def __init__(
        self,
        *,
        wall: Callable[[], float],
        monotonic: Callable[[], float],
        state_file: StateFile | None = None,
        is_reached: bool = False,
    ) -> None:
        """Start with the budgets in `state_file`, which `start_saving` must take out of it.

        `wall` returns seconds since the epoch, `monotonic` seconds of a monotonic clock. If `is_reached` is false,
        calls are made one at a time until Braze has responded.
        """
        self._is_reached = is_reached
        self._wall = wall
        self.monotonic = monotonic
        self.lock = threading.Lock()
        self._admissions: dict[WorkspaceKey, Admission] = {}
        self._demands: Mapping[WorkspaceKey, Demand] = {}
        records = state_file.read_budgets() if state_file is not None else None
        records = records or BudgetRecords(secrets.token_hex(), {})
        self._salt = records.salt
        self._key_digests = {WorkspaceKey(*key): digest for key, digest in records.key_digests.items()}
        self._budgets: dict[_BudgetKey, _Budget] = {}
        self._keys: dict[_BudgetKey, KeyState] = {}
        self._restore(records)
        self.is_closed = False
        self._request_write: Callable[[], Future[bool]] | None = None
        self._is_changed = False
        self._called_at = monotonic()
        self._are_balances_saved = False

    def start_saving(self, request_write: Callable[[], Future[bool]]) -> None:
        """Take the balances out of the state file, and use none if that fails.

        `request_write` requests a write of the state file. Its future has the result whether everything was written.
        """
        with self.lock:
            self.record_call()
        self._request_write = request_write
        if not request_write().result():
            for budget in self._budgets.values():
                budget.rows = {pool: row._replace(balance=0.0) for pool, row in budget.rows.items()}

    def make_budget(self) -> _Budget:
        """Return a budget without limiters."""
        return _Budget(StartCircuitBreaker(is_reached=self._is_reached))

    def _restore(self, records: BudgetRecords) -> None:
        now, wall = self.monotonic(), self._wall()
        for row in records.budgets:
            budget = self._budgets.setdefault((row.url, row.key_digest), self.make_budget())
            budget.rows[row.pool] = row
        holds: dict[_BudgetKey, list[HoldRow]] = {}
        for hold in records.holds:
            holds.setdefault((hold.url, hold.key_digest), []).append(hold)
        for budget_key, rows in holds.items():
            key = self._keys[budget_key] = KeyState(())
            key.restore(rows, now, wall)

    def open_admissions(
        self, keys: Mapping[WorkspaceKey, str], reread_key: Callable[[WorkspaceKey], bool] = lambda _key: False
    ) -> Mapping[WorkspaceKey, Admission]:
        """Return the admission of each workspace, for its API key.

        `set_demands` must be called before the first call. `reread_key` is called before a rejected key is tested. It
        reads the key again, calls `change_key` if it has changed, and returns whether it has.
        """

        def make_reread(workspace_key: WorkspaceKey) -> Callable[[], bool]:
            return lambda: reread_key(workspace_key)

        with self.lock:
            for workspace_key, key in keys.items():
                if workspace_key not in self._admissions:
                    self._admissions[workspace_key] = Admission(self, make_reread(workspace_key))
                self._change_key(workspace_key, key)
            return {workspace_key: self._admissions[workspace_key] for workspace_key in keys}

    def change_key(self, workspace_key: WorkspaceKey, key: str) -> None:
        """Use another API key for a workspace. It takes over the budget of the previous one."""
        with self.lock:
            self._change_key(workspace_key, key)
            self._combine_demands()

    def _change_key(self, workspace_key: WorkspaceKey, key: str) -> None:
        digest = hashlib.sha256(f"{self._salt}:{key}".encode()).hexdigest()
        url, before = workspace_key.url, self._key_digests.get(workspace_key)
        self._key_digests[workspace_key] = digest
        if (url, digest) not in self._budgets:
            budget = self._budgets.get((url, before)) if before is not None else None
            self._budgets[url, digest] = budget or self.make_budget()
            others = (other for key, other in self._key_digests.items() if key.url == url)
            if before is not None and before not in others:
                self._budgets.pop((url, before), None)
        admission = self._admissions[workspace_key]
        admission.budget = self._budgets[url, digest]
        admission.key = self._keys.setdefault((url, digest), KeyState(()))

    def set_demands(self, demands: Mapping[WorkspaceKey, Demand]) -> None:
        """Set what each workspace needs. Workspaces with the same url and key get the sum.

        The limits that Braze has reported and the calls made so far still count.
        """
        with self.lock:
            self._demands = demands
            has_new = self._combine_demands()
            if has_new:
                self.record_call()
        if has_new and self._request_write is not None:  # before the first call
            self._request_write().result()

    def _combine_demands(self) -> bool:
        """Apply the demands, and return whether a pool is new."""
        now, has_new = self.monotonic(), False
        totals: dict[_Budget, dict[Pool, PoolBudget]] = {}
        endpoints: dict[KeyState, dict[str, Endpoint]] = {}
        for workspace_key, demand in self._demands.items():
            admission = self._admissions[workspace_key]
            pools = totals.setdefault(admission.budget, {})
            for pool, pool_budget in demand.budgets.items():
                pools[pool] = pools[pool] + pool_budget if pool in pools else pool_budget
            in_use = endpoints.setdefault(admission.key, {})
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
                    limiter.restore(row, now, self._wall())
                has_new = True
        for key, used in endpoints.items():
            key.set_endpoints(tuple(used.values()))
        return has_new

    def record_call(self, *, is_stopped: bool = False) -> None:
        """Take the balances out of the state file for a call, and write a stop at once."""
        self._is_changed, self._called_at = True, self.monotonic()
        if self._request_write is not None and (is_stopped or self._are_balances_saved):
            self._are_balances_saved = False
            self._request_write()

    def close(self) -> None:
        """Allow no more calls. The next write of the state file has the balances."""
        with self.lock:
            self.is_closed = True

    @property
    def _is_idle(self) -> bool:
        """Whether no call has been made for so long that the state file may have the balances."""
        return self.is_closed or self.monotonic() - self._called_at >= WRITE_INTERVAL_SECONDS

    @property
    def has_changes(self) -> bool:
        """Whether `take_changes` would return changes. Does not wait for other threads."""
        return self._is_changed or (self._is_idle and not self._are_balances_saved)

    def take_changes(self) -> TableChanges:
        """Return all budgets and holds for the state file if they have changed since the last call.

        While calls are made, the balances are 0, so that a process that is killed adds no calls.
        """
        with self.lock:
            if not self.has_changes:
                return {}
            self._is_changed, self._are_balances_saved = False, self._is_idle
            now, wall = self.monotonic(), self._wall()
            budgets: list[BudgetRow] = []
            holds: list[HoldRow] = []
            for (url, digest), budget in self._budgets.items():
                budgets += (row._replace(url=url, key_digest=digest) for row in budget.rows.values())
                budgets += (limiter.to_row(url, digest, now, wall) for limiter in budget.limiters.values())
                key = self._keys.get((url, digest))
                holds += key.to_rows(url, digest, now, wall) if key is not None else ()
            if not self._are_balances_saved:
                budgets = [row._replace(balance=0.0, balance_at=wall) for row in budgets]
            key_digests = {(key.workspace, key.url): digest for key, digest in self._key_digests.items()}
            return budget_changes(BudgetRecords(self._salt, key_digests, budgets, holds))
