"""Decides whether a call to Braze may be made for a workspace now.

The decision depends on the rate limiter of the pool, and on whether Braze accepts the API key at the endpoint.
"""

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from braze_exporter.braze.calls import Permit, RateLimitInfo
from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.lists import ListEndpoint
from braze_exporter.braze.pools import Endpoint, Pool
from braze_exporter.scheduler.errors import CircuitOpen, Deferred
from braze_exporter.scheduler.rate_limiter import (
    AUTH_RETRY_SECONDS,
    BreakerCall,
    CircuitBreaker,
    Decision,
    Pause,
    RateLimiter,
)

# The failures caused by the key: the key is rejected (401), or lacks a permission (401 or 403).
AUTH_REASONS = {Reason.UNAUTHORIZED, Reason.FORBIDDEN}
# The results that show that Braze accepted the key. None means success.
_KEY_ACCEPTED_REASONS = {
    None,
    Reason.BAD_REQUEST,
    Reason.FORBIDDEN,
    Reason.RATE_LIMITED,
    Reason.TOO_LARGE,
    Reason.TRUNCATED,
    Reason.INVALID_RESPONSE,
}
# The error of a key that all endpoints in use reject.
KEY_REJECTED_DETAIL = (
    "401 Unauthorized: API key rejected "
    "(check that it is a REST API key of this workspace, and that url is its REST endpoint)"
)


@dataclass(frozen=True, slots=True)
class AuthFailure:
    """A 401 or 403, with the seconds until the next attempt."""

    error: BrazeError
    seconds: float


@dataclass(frozen=True, slots=True)
class LimiterStatus:
    """What prevents calls of a workspace now.

    `pauses` are keyed by the name of the pool, `endpoint_failures` by the path of the endpoint. If all endpoints in use
    reject the key, `key_failure` is set and `endpoint_failures` is empty.
    """

    pauses: Mapping[str, Pause]
    key_failure: AuthFailure | None
    endpoint_failures: Mapping[str, AuthFailure]


class _Verdict(Enum):
    """Whether an endpoint accepts the key, according to its last response that shows this."""

    UNKNOWN = auto()
    ACCEPTED = auto()
    REJECTED = auto()


class _AuthCircuitBreaker(CircuitBreaker):
    """Denies calls to an endpoint after a 401 or 403, until a probe succeeds.

    `verdict` is whether the endpoint accepts the key, and `verdict_at` the time of the response that showed it.
    `rejected_since` is the time of the first of the latest consecutive 401s. Times are in seconds of the monotonic
    clock. `is_probe_wanted` is true if the endpoint must be called to test the key, even if nothing is due.
    """

    def __init__(self) -> None:
        super().__init__(is_probe_due=False)
        self.error: BrazeError | None = None
        self.verdict = _Verdict.UNKNOWN
        self.verdict_at = float("-inf")
        self.rejected_since = float("-inf")
        self.is_probe_wanted = False

    def record(self, error: BrazeError | None, probe: BreakerCall, now: float) -> None:
        """Register the end of a call. If the breaker has been opened since the call began, its result is ignored."""
        reason = error.reason if error is not None else None
        is_current, is_rejected = self.is_current(probe), reason in AUTH_REASONS
        succeeded = reason in _KEY_ACCEPTED_REASONS and not is_rejected
        self.release(probe, succeeded=succeeded)
        if not is_current:
            return
        if reason is Reason.UNAUTHORIZED or reason in _KEY_ACCEPTED_REASONS:
            if self.verdict is not _Verdict.REJECTED:
                self.rejected_since = now
            self.verdict = _Verdict.REJECTED if reason is Reason.UNAUTHORIZED else _Verdict.ACCEPTED
            self.verdict_at = now
        if error is not None and is_rejected:
            self.error = error.without_traceback()
        if is_rejected or (probe.is_probe and not succeeded and self.error is not None):
            self.open(now + AUTH_RETRY_SECONDS)
        elif probe.is_probe:
            self.error = None

    def reset(self) -> None:
        """Forget the verdict on the key, close the breaker, and make the next call a probe."""
        self.error, self.verdict = None, _Verdict.UNKNOWN
        self.open_until = float("-inf")
        self.require_probe()

    def auth_failure(self, now: float) -> AuthFailure | None:
        """Return the failure that opened the breaker, or None if it is closed."""
        return AuthFailure(self.error, max(0.0, self.open_until - now)) if self.error is not None else None


@dataclass(frozen=True, slots=True, eq=False)
class _KeyCall:
    """A call that `_KeyState` allowed.

    `probe` is the result of `acquire` of the endpoint's circuit breaker. If `is_exclusive`, other calls with the key
    wait for the end of this one. `is_probe` is true if the call tests a key that the endpoint rejected.
    """

    probe: BreakerCall
    is_exclusive: bool
    is_probe: bool


class _KeyState:
    """Tracks whether Braze accepts one key, for each endpoint and for all `endpoints` in use.

    While no endpoint accepts the key, only one call is made at a time. Once all endpoints in use reject it, `error` is
    set, and only probes are made, to one endpoint after the other. Each key has its own `_KeyState`, so a call with an
    older key changes only the state of that key.
    """

    def __init__(self, endpoints: Collection[Endpoint]) -> None:
        """Start with a key that has not been used yet."""
        self.endpoints = endpoints
        self.error: BrazeError | None = None
        self._circuits: dict[str, _AuthCircuitBreaker] = {}
        self._probe_in_flight: _KeyCall | None = None

    def set_endpoints(self, endpoints: Collection[Endpoint]) -> None:
        """Set the endpoints in use."""
        self.endpoints = endpoints
        self._update_error()

    def circuit(self, endpoint: Endpoint) -> _AuthCircuitBreaker:
        """Return the circuit breaker of an endpoint."""
        return self._circuits.setdefault(endpoint.path, _AuthCircuitBreaker())

    @property
    def is_accepted(self) -> bool:
        """Whether an endpoint in use accepts the key. If no endpoints are set, all that were called count."""
        circuits = [self.circuit(endpoint) for endpoint in self.endpoints] or self._circuits.values()
        return any(circuit.verdict is _Verdict.ACCEPTED for circuit in circuits)

    @property
    def open_until(self) -> float:
        """The time until which no call is made with a key that all endpoints in use reject."""
        return max(self.circuit(endpoint).open_until for endpoint in self.endpoints)

    def auth_failures(self, now: float) -> Mapping[str, AuthFailure]:
        """Return the failures, keyed by the path of the endpoint."""
        result = {path: circuit.auth_failure(now) for path, circuit in self._circuits.items()}
        return {path: failure for path, failure in result.items() if failure is not None}

    def decide(self, endpoint: Endpoint, now: float, is_open: Callable[[Endpoint], bool]) -> Decision:
        """Return whether a call may be made. `is_open` returns whether the pool of an endpoint allows calls now."""
        decision = self.circuit(endpoint).decide(now)
        if decision is Decision.DENY or (self.error is not None and now < self.open_until):
            return Decision.DENY
        if self._probe_in_flight is not None and not self.is_accepted:
            return Decision.WAIT
        if self.error is not None and self._next_probe(is_open) != endpoint.path:
            # A query can wait, since the same scrape also queues the query that probes. A list cannot, since lists are
            # read when no query is queued.
            return Decision.DENY if isinstance(endpoint, ListEndpoint) else Decision.WAIT
        return decision

    def acquire(self, endpoint: Endpoint) -> _KeyCall:
        """Register the start of a call that `decide` allowed."""
        circuit = self.circuit(endpoint)
        circuit.is_probe_wanted = False
        probe = circuit.acquire()
        call = _KeyCall(probe, not self.is_accepted, probe.is_probe and circuit.error is not None)
        if call.is_exclusive:
            self._probe_in_flight = call
        return call

    def record(self, endpoint: Endpoint, error: BrazeError | None, call: _KeyCall, now: float) -> None:
        """Register the end of a call."""
        if self._probe_in_flight is call:
            self._probe_in_flight = None
        circuit = self.circuit(endpoint)
        circuit.record(error, call.probe, now)
        if self.error is not None and circuit.verdict is _Verdict.ACCEPTED:
            # The other endpoints rejected the key when all did, so their rejections do not show a missing permission.
            for other in (self.circuit(other) for other in self.endpoints if other.path != endpoint.path):
                other.reset()
        self._update_error()
        if circuit.verdict is _Verdict.REJECTED:
            # The key may have been revoked, so test it at the other endpoints before their next queries are due.
            outdated_at = min(circuit.rejected_since, now - AUTH_RETRY_SECONDS)
            for other in map(self.circuit, self.endpoints):
                other.is_probe_wanted = other.verdict is _Verdict.ACCEPTED and other.verdict_at <= outdated_at

    def _update_error(self) -> None:
        verdicts = {self.circuit(endpoint).verdict for endpoint in self.endpoints}
        if verdicts != {_Verdict.REJECTED}:
            self.error = None
        elif self.error is None:
            self.error = BrazeError(Reason.UNAUTHORIZED, KEY_REJECTED_DETAIL)

    def _next_probe(self, is_open: Callable[[Endpoint], bool]) -> str | None:
        """Return the path of the endpoint at which a rejected key is tested next, or None if no pool allows calls.

        It is the endpoint whose last attempt is the oldest. A list endpoint is chosen only if no query endpoint can be.
        """
        able = [endpoint for endpoint in self.endpoints if is_open(endpoint)]
        able = [endpoint for endpoint in able if not isinstance(endpoint, ListEndpoint)] or able
        return min(able, key=lambda endpoint: self.circuit(endpoint).open_until).path if able else None


class Admission:
    """Decides which calls of one workspace may be made, and lets no other call run during a probe. Thread-safe."""

    def __init__(self, monotonic: Callable[[], float], reread_key: Callable[[], bool] = lambda: False) -> None:
        """Start without a budget; `set_budget` must be called before the first call.

        `monotonic` returns seconds of a monotonic clock. `reread_key` is called before a rejected key is tested. It
        reads the key again, and returns whether the key has changed.
        """
        self._monotonic = monotonic
        self._reread_key = reread_key
        self._lock = threading.Lock()
        self._limiters: dict[str, RateLimiter] = {}
        self._key = _KeyState(())

    def set_budget(self, bursts: Mapping[Pool, int], *, share: float, reserve: float) -> None:
        """Set the budget of each pool: the `share` of its limit, its burst, and the `reserve`.

        `share` and `reserve` are fractions of the limit. The limits that Braze has reported and the calls made so far
        still count.
        """
        with self._lock:
            now = self._monotonic()
            for pool, burst in bursts.items():
                if pool.name in self._limiters:
                    self._limiters[pool.name].set_budget(share=share, reserve=reserve, burst=burst, now=now)
                else:
                    limiter = RateLimiter(pool, share=share, reserve=reserve, burst=burst, now=now)
                    self._limiters[pool.name] = limiter

    def set_endpoints(self, endpoints: Collection[Endpoint], *, is_same_key: bool = True) -> None:
        """Set the endpoints in use.

        If the key has changed, all circuits are closed and all endpoints are tested again.
        """
        with self._lock:
            if is_same_key:
                self._key.set_endpoints(endpoints)
            else:
                self._key = _KeyState(endpoints)

    @property
    def is_key_accepted(self) -> bool:
        """Whether an endpoint in use accepts the key."""
        with self._lock:
            return self._key.is_accepted

    def open_circuit_error(self, endpoint: Endpoint) -> BrazeError | None:
        """Return the 401 or 403 that blocks calls to `endpoint`, or to all endpoints, or None."""
        with self._lock:
            return self._key.error or self._key.circuit(endpoint).error

    def deny_reason(self, endpoint: Endpoint) -> Deferred | None:
        """Return why a call is not allowed now, or None if it is allowed, even if it must wait for a running probe."""
        with self._lock:
            return self._deny_reason(self._decisions(endpoint, self._monotonic()), endpoint)

    def is_probe_wanted(self, endpoint: Endpoint) -> bool:
        """Return whether a call to `endpoint` is needed to test the key, even if nothing is due."""
        with self._lock:
            if self._key.error is not None:
                return all(decision is Decision.ALLOW for decision in self._decisions(endpoint, self._monotonic()))
            return self._key.circuit(endpoint).is_probe_wanted

    def status(self) -> LimiterStatus:
        """Return what prevents calls now."""
        with self._lock:
            now, key = self._monotonic(), self._key
            pauses = {name: limiter.current_pause(now) for name, limiter in self._limiters.items()}
            auth_failure = AuthFailure(key.error, max(0.0, key.open_until - now)) if key.error is not None else None
            return LimiterStatus(
                {name: pause for name, pause in pauses.items() if pause is not None},
                auth_failure,
                key.auth_failures(now) if auth_failure is None else {},
            )

    def admit(self, endpoint: Endpoint, *, low_priority: bool = False) -> Permit | Deferred | None:
        """Return a permit for one call, a `Deferred` if it may not be made now, or None while a probe is in flight.

        A `low_priority` call leaves half of the burst to other calls.
        """
        with self._lock:
            now = self._monotonic()
            decisions = self._decisions(endpoint, now, low_priority=low_priority)
            deny_reason = self._deny_reason(decisions, endpoint)
            if deny_reason is not None:
                return deny_reason
            if any(decision is not Decision.ALLOW for decision in decisions):
                return None
            key, limiter = self._key, self._limiters[endpoint.pool.name]
            key_call, pool_probe = key.acquire(endpoint), limiter.acquire(now)

        def begin() -> None:
            nonlocal key, key_call
            if key_call.is_probe and self._reread_key():
                with self._lock:
                    key = self._key = _KeyState(self._key.endpoints)
                    key_call = key.acquire(endpoint)

        def end(error: BrazeError | None, feedback: RateLimitInfo) -> float | None:
            with self._lock:
                now = self._monotonic()
                key.record(endpoint, error, key_call, now)
                return limiter.release(feedback, pool_probe, now)

        return Permit(end, begin=begin)

    def _decisions(self, endpoint: Endpoint, now: float, *, low_priority: bool = False) -> tuple[Decision, Decision]:
        """Return the decisions for the key and for the pool."""
        key = self._key.decide(endpoint, now, lambda other: self._is_open(other, now))
        return key, self._limiters[endpoint.pool.name].decide(now, low_priority=low_priority)

    def _is_open(self, endpoint: Endpoint, now: float) -> bool:
        limiter = self._limiters.get(endpoint.pool.name)
        return limiter is not None and limiter.decide(now) is not Decision.DENY

    def _deny_reason(self, decisions: tuple[Decision, Decision], endpoint: Endpoint) -> Deferred | None:
        key, pool = decisions
        if key is Decision.DENY:
            return CircuitOpen(endpoint.path)
        return Deferred(endpoint.pool.name) if pool is Decision.DENY else None
