"""Decides which calls to Braze may be made now.

The decision depends on the rate limiter of the pool, and on whether Braze accepts the API key at the endpoint.
Workspaces with the same url and key share both.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from braze_exporter.braze.calls import EndOfCall, RateLimitInfo
from braze_exporter.braze.clock import Clock
from braze_exporter.braze.errors import BrazeError
from braze_exporter.braze.pools import Endpoint
from braze_exporter.config.secrets import ApiKey
from braze_exporter.scheduler.circuit_breaker import Decision, StartCircuitBreaker
from braze_exporter.scheduler.key_state import AUTH_REASONS, BlockingFailure, KeyState
from braze_exporter.scheduler.rate_limiter import Pause, Priority, RateLimiter
from braze_exporter.state.tables import BudgetRow


class Deferred:
    """A call is not made now, because the rate limiter of its pool does not allow one, or it is no longer needed."""


class CircuitOpen(Deferred):
    """A call is not made now, because Braze rejected the key or never responded, or because the exporter stops."""


@dataclass(frozen=True, slots=True)
class LimiterStatus:
    """What prevents calls of a workspace now.

    `pauses` are keyed by the name of the pool, `endpoint_failures` by the path of the endpoint. If all endpoints in use
    reject the key, `key_failure` is set and `endpoint_failures` is empty. If Braze has never responded, `start_failure`
    is the last failure.
    """

    pauses: Mapping[str, Pause]
    key_failure: BlockingFailure | None
    endpoint_failures: Mapping[str, BlockingFailure]
    start_failure: BlockingFailure | None

    @property
    def failure(self) -> BlockingFailure | None:
        """The failure that blocks all calls of the workspace, or None."""
        return self.start_failure or self.key_failure


@dataclass(slots=True, eq=False)
class KeyBudget:
    """The rate limiters of one url and key, by the name of the pool, and whether Braze has ever responded.

    `rows` are the limiters of the state file that have not been used yet.
    """

    start: StartCircuitBreaker
    limiters: dict[str, RateLimiter] = field(default_factory=dict)
    rows: dict[str, BudgetRow] = field(default_factory=dict)


class Permit:
    """Permission to make one call to Braze.

    `begin` must be called before the request is sent, and `end` when the call has ended, since other calls may wait.
    """

    def __init__(self, begin: Callable[[], None], end: EndOfCall) -> None:
        """Create a permit with these functions. `end` is called once."""
        self.begin = begin
        self._end = end
        self._has_ended = False

    def end(self, error: BrazeError | None, info: RateLimitInfo) -> float | None:
        """Report the outcome of the call. Further calls of this method do nothing.

        Returns the length of the pause in seconds if the call paused its pool, otherwise None.
        """
        if self._has_ended:
            return None
        self._has_ended = True
        return self._end(error, info)


class Admission:
    """Decides which calls of one workspace may be made, and lets no other call run during a probe. Thread-safe."""

    def __init__(
        self,
        api_key: ApiKey,
        reread_key: Callable[[], bool],
        *,
        lock: threading.Lock,
        clock: Clock,
        on_change: Callable[[], None],
        on_stop: Callable[[], None],
    ) -> None:
        """Create the admission of a workspace of `Budgets`, which sets the attributes `budget` and `key_state`.

        `reread_key` reads the file of `api_key` again, and returns whether the key has changed. It must be called
        before a rejected key is tested. `lock` is that of `Budgets`. `on_change` is called when a call begins or ends,
        and `on_stop` if calls must stop after it.
        """
        self.api_key = api_key
        self.budget: KeyBudget
        self.key_state: KeyState
        self.is_closed = False
        self.reread_key = reread_key
        self._lock = lock
        self._clock = clock
        self._on_change = on_change
        self._on_stop = on_stop

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
            return self.key_state.is_accepted

    def open_circuit_error(self, endpoint: Endpoint) -> BrazeError | None:
        """Return the 401 or 403 that blocks calls to `endpoint`, or to all endpoints, or None."""
        with self._lock:
            return self.key_state.error or self.key_state.circuit(endpoint).error

    def deny_reason(self, endpoint: Endpoint) -> Deferred | None:
        """Return why a call is not allowed now, or None if it is allowed, even if it must wait for a running probe."""
        with self._lock:
            return self._check(endpoint, self._clock.monotonic())[0]

    def is_probe_wanted(self, endpoint: Endpoint) -> bool:
        """Return whether a call to `endpoint` is needed to test the key, even if nothing is due."""
        with self._lock:
            if self.key_state.error is not None:
                return self._check(endpoint, self._clock.monotonic()) == (None, False)
            return self.key_state.circuit(endpoint).is_probe_wanted

    def status(self) -> LimiterStatus:
        """Return what prevents calls now."""
        with self._lock:
            now, key_state, start = self._clock.monotonic(), self.key_state, self.budget.start
            pauses = {name: limiter.current_pause(now) for name, limiter in self.budget.limiters.items()}
            key_failure = start_failure = None
            if key_state.error is not None:
                key_failure = BlockingFailure(key_state.error, max(0.0, key_state.open_until - now))
            if start.error is not None:
                start_failure = BlockingFailure(start.error, max(0.0, start.open_until - now))
            return LimiterStatus(
                {name: pause for name, pause in pauses.items() if pause is not None},
                key_failure,
                key_state.auth_failures(now) if key_failure is None else {},
                start_failure,
            )

    def admit(self, endpoint: Endpoint, priority: Priority = Priority.QUERY) -> Permit | Deferred | None:
        """Return a permit for one call, a `Deferred` if it may not be made now, or None while a probe is in flight."""
        with self._lock:
            now = self._clock.monotonic()
            deny_reason, must_wait = self._check(endpoint, now, priority)
            if deny_reason is not None or must_wait:
                return deny_reason
            key_state, limiter, start = self.key_state, self.budget.limiters[endpoint.pool.name], self.budget.start
            key_call, pool_call = key_state.acquire(endpoint), limiter.acquire(now, priority)
            start_call = start.acquire()
            self._on_change()

        def begin() -> None:
            nonlocal key_state, key_call
            if key_call.is_probe and self.reread_key():
                with self._lock:
                    key_state.abandon(endpoint, key_call)
                    key_state = self.key_state
                    key_call = key_state.acquire(endpoint)

        def end(error: BrazeError | None, info: RateLimitInfo) -> float | None:
            with self._lock:
                now = self._clock.monotonic()
                key_state.record(endpoint, error, key_call, now)
                start.record(error, start_call, now)
                pause_seconds = limiter.release(info, pool_call, now)
                is_refused = error is not None and error.reason in AUTH_REASONS
                self._on_change()
                if is_refused or pause_seconds is not None:
                    self._on_stop()
                return pause_seconds

        return Permit(begin, end)

    def _check(
        self, endpoint: Endpoint, now: float, priority: Priority = Priority.QUERY
    ) -> tuple[Deferred | None, bool]:
        """Return why a call is not allowed, or None, and whether it must wait for a probe."""
        key = self.key_state.decide(endpoint, now, lambda other: self._is_open(other, now))
        start = self.budget.start.decide(now)
        if self.is_closed or Decision.DENY in (key, start):
            return CircuitOpen(), False
        limiter = self.budget.limiters.get(endpoint.pool.name)
        pool = limiter.decide(now, priority) if limiter is not None else Decision.WAIT  # a reload is about to add it
        if pool is Decision.DENY:
            return Deferred(), False
        return None, Decision.WAIT in (key, start, pool)

    def _is_open(self, endpoint: Endpoint, now: float) -> bool:
        limiter = self.budget.limiters.get(endpoint.pool.name)
        return limiter is not None and limiter.decide(now) is not Decision.DENY
