"""Who may call Braze for one workspace now: as the budget of the pool has it, and not while a refusal holds."""

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from braze_exporter.braze.calls import Permit, RateLimitInfo
from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.lists import ListEndpoint
from braze_exporter.braze.pools import Endpoint, Pool
from braze_exporter.scheduler.errors import CircuitOpen, Deferred
from braze_exporter.scheduler.rate_limiter import HOLD_SECONDS, CircuitBreaker, Decision, Pause, Probe, RateLimiter

# What is refused for the key: all of it (401), or a permission (401 or 403).
AUTH_REASONS = {Reason.UNAUTHORIZED, Reason.FORBIDDEN}
# Failures that show all the same that the key was taken.
_KEY_ACCEPTED = {
    None,
    Reason.BAD_REQUEST,
    Reason.FORBIDDEN,
    Reason.RATE_LIMITED,
    Reason.TOO_LARGE,
    Reason.TRUNCATED,
    Reason.INVALID_RESPONSE,
}
# Why no call is made with a key that all endpoints in use refuse.
KEY_REJECTED = (
    "401 Unauthorized: API key rejected "
    "(check that it is a REST API key of this workspace, and that url is its REST endpoint)"
)


@dataclass(frozen=True, slots=True)
class AuthFailure:
    """What Braze refuses, and in how many seconds that is tried again."""

    error: BrazeError
    seconds: float


@dataclass(frozen=True, slots=True)
class LimiterStatus:
    """What keeps the calls of a workspace now: its pools that rest, by name, and what is refused.

    `key_failure` is of the key, for all calls; `endpoint_failures` are by endpoint, and empty while there is that one.
    """

    pauses: Mapping[str, Pause]
    key_failure: AuthFailure | None
    endpoint_failures: Mapping[str, AuthFailure]


class _Verdict(Enum):
    """What the last response of an endpoint that says anything of the key said of it."""

    UNKNOWN = auto()
    ACCEPTED = auto()
    REJECTED = auto()


class _AuthCircuitBreaker(CircuitBreaker):
    """Keeps calls from an endpoint that refused one, until one of them alone is not refused."""

    def __init__(self) -> None:
        super().__init__(is_probe=False)
        self.error: BrazeError | None = None
        self.verdict = _Verdict.UNKNOWN
        self.verdict_at = float("-inf")
        self.refused_since = float("-inf")
        self.is_probe_wanted = False

    def record(self, error: BrazeError | None, probe: Probe, now: float) -> None:
        """Note how a call ended that passed here. One that passed before the last refusal says nothing new."""
        reason = error.reason if error is not None else None
        is_current, is_rejected = self.is_current(probe), reason in AUTH_REASONS
        succeeded = reason in _KEY_ACCEPTED and not is_rejected
        self.release(probe, succeeded=succeeded)
        if not is_current:
            return
        if reason is Reason.UNAUTHORIZED or reason in _KEY_ACCEPTED:
            if self.verdict is not _Verdict.REJECTED:
                self.refused_since = now
            self.verdict = _Verdict.REJECTED if reason is Reason.UNAUTHORIZED else _Verdict.ACCEPTED
            self.verdict_at = now
        if error is not None and is_rejected:
            self.error = error.without_traceback()
        if is_rejected or (probe.is_probe and not succeeded and self.error is not None):
            self.open(now + HOLD_SECONDS)
        elif probe.is_probe:
            self.error = None

    def reset(self) -> None:
        """Know nothing of the key, and let the next call go alone."""
        self.error, self.verdict = None, _Verdict.UNKNOWN
        self.open_until = float("-inf")
        self.require_probe()

    def auth_failure(self, now: float) -> AuthFailure | None:
        """Return what is refused, if it is."""
        return AuthFailure(self.error, max(0.0, self.open_until - now)) if self.error is not None else None


@dataclass(frozen=True, slots=True, eq=False)
class _AdmittedCall:
    """That a call was let go: how it passed the hold of its endpoint, and whether it goes alone or is a probe."""

    probe: Probe
    is_alone: bool
    is_probe: bool


class _KeyState:
    """What Braze says of one key, at each endpoint and at all that are `endpoints`.

    While no endpoint accepts it, calls go one alone after another. Once all in use refuse it, `error` holds them all,
    and they take turns to try it. A call with an older key is noted in the object of that key.
    """

    def __init__(self, endpoints: Collection[Endpoint]) -> None:
        """Begin with a key of which nothing is known."""
        self.endpoints = endpoints
        self.error: BrazeError | None = None
        self._circuits: dict[str, _AuthCircuitBreaker] = {}
        self._probe_in_flight: _AdmittedCall | None = None

    def set_endpoints(self, endpoints: Collection[Endpoint]) -> None:
        """Judge the key by these endpoints from now on."""
        self.endpoints = endpoints
        self._update_error()

    def circuit(self, endpoint: Endpoint) -> _AuthCircuitBreaker:
        """Return the hold of an endpoint."""
        return self._circuits.setdefault(endpoint.path, _AuthCircuitBreaker())

    @property
    def is_accepted(self) -> bool:
        """Whether an endpoint in use accepts the key; if none is known to be in use, any."""
        holds = [self.circuit(at) for at in self.endpoints] or self._circuits.values()
        return any(circuit.verdict is _Verdict.ACCEPTED for circuit in holds)

    @property
    def open_until(self) -> float:
        """Until when a key that all endpoints in use refuse is not tried."""
        return max(self.circuit(at).open_until for at in self.endpoints)

    def auth_failures(self, now: float) -> Mapping[str, AuthFailure]:
        """Return what is refused, by the endpoint."""
        result = {endpoint: circuit.auth_failure(now) for endpoint, circuit in self._circuits.items()}
        return {endpoint: failure for endpoint, failure in result.items() if failure is not None}

    def decide(self, endpoint: Endpoint, now: float, is_open: Callable[[Endpoint], bool]) -> Decision:
        """Return whether a call may pass; `is_open` tells whether the pool of an endpoint makes calls now."""
        decision = self.circuit(endpoint).decide(now)
        if decision is Decision.DENY or (self.error is not None and now < self.open_until):
            return Decision.DENY
        if self._probe_in_flight is not None and not self.is_accepted:
            return Decision.WAIT
        if self.error is not None and self._next_probe(is_open) != endpoint.path:
            # A query has been taken for the turn by the same scrape; lists are read by themselves.
            return Decision.DENY if isinstance(endpoint, ListEndpoint) else Decision.WAIT
        return decision

    def acquire(self, endpoint: Endpoint) -> _AdmittedCall:
        """Let a call pass."""
        circuit = self.circuit(endpoint)
        circuit.is_probe_wanted = False
        probe = circuit.acquire()
        call = _AdmittedCall(probe, not self.is_accepted, probe.is_probe and circuit.error is not None)
        if call.is_alone:
            self._probe_in_flight = call
        return call

    def record(self, endpoint: Endpoint, error: BrazeError | None, call: _AdmittedCall, now: float) -> None:
        """Note how a call ended that passed here."""
        if self._probe_in_flight is call:
            self._probe_in_flight = None
        circuit = self.circuit(endpoint)
        circuit.record(error, call.probe, now)
        if self.error is not None and circuit.verdict is _Verdict.ACCEPTED:
            # The others refused a key that was refused everywhere: that says nothing of a permission.
            for other in (self.circuit(other) for other in self.endpoints if other.path != endpoint.path):
                other.reset()
        self._update_error()
        if circuit.verdict is _Verdict.REJECTED:
            # If the key was revoked, the others need not show that only when they are due.
            latest = min(circuit.refused_since, now - HOLD_SECONDS)
            for other in map(self.circuit, self.endpoints):
                other.is_probe_wanted = other.verdict is _Verdict.ACCEPTED and other.verdict_at <= latest

    def _update_error(self) -> None:
        if not self.endpoints or any(self.circuit(at).verdict is not _Verdict.REJECTED for at in self.endpoints):
            self.error = None
        elif self.error is None:
            self.error = BrazeError(Reason.UNAUTHORIZED, KEY_REJECTED)

    def _next_probe(self, is_open: Callable[[Endpoint], bool]) -> str | None:
        """Return the endpoint that tries a rejected key next: of queries, or where there are none, of a list.

        It is the one that was tried the longest ago, of those that can be.
        """
        able = [at for at in self.endpoints if is_open(at)]
        able = [at for at in able if not isinstance(at, ListEndpoint)] or able
        return min(able, key=lambda at: self.circuit(at).open_until).path if able else None


class Admission:
    """Lets the calls of one workspace go, one alone first where something must be tried. Thread-safe."""

    def __init__(self, monotonic: Callable[[], float], read_key: Callable[[], bool] = lambda: False) -> None:
        """Begin without a budget.

        `monotonic` tells seconds that never jump. `read_key` is called before a call that tries again what was refused,
        and returns whether the key is another one now.
        """
        self._monotonic = monotonic
        self._read_key = read_key
        self._lock = threading.Lock()
        self._limiters: dict[str, RateLimiter] = {}
        self._key = _KeyState(())

    def set_budget(self, bursts: Mapping[Pool, int], *, share: float, reserve: float) -> None:
        """Let go, of each pool, at most `share` of its limit and that burst, and nothing of its `reserve`.

        What was spent and learned stays so.
        """
        with self._lock:
            now = self._monotonic()
            for pool, burst in bursts.items():
                if pool.name in self._limiters:
                    self._limiters[pool.name].update(share=share, reserve=reserve, burst=burst, now=now)
                else:
                    limiter = RateLimiter(pool, share=share, reserve=reserve, burst=burst, now=now)
                    self._limiters[pool.name] = limiter

    def set_endpoints(self, endpoints: Collection[Endpoint], *, is_same_key: bool = True) -> None:
        """Judge the key by these endpoints, which calls are made at from now on.

        Nothing is known of another key; what the same one was refused is tried no sooner for this.
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
        """Return the error that holds all calls `endpoint` an endpoint, if one does."""
        with self._lock:
            return self._key.error or self._key.circuit(endpoint).error

    def deny_reason(self, endpoint: Endpoint) -> Deferred | None:
        """Return why a call would not be made now, or None if it would, perhaps after another one."""
        with self._lock:
            return self._deny_reason(self._decisions(endpoint, self._monotonic()), endpoint)

    def is_probe_wanted(self, endpoint: Endpoint) -> bool:
        """Return whether a call to `endpoint` is wanted to test the key, though nothing is due."""
        with self._lock:
            if self._key.error is not None:
                return all(decision is Decision.ALLOW for decision in self._decisions(endpoint, self._monotonic()))
            return self._key.circuit(endpoint).is_probe_wanted

    def status(self) -> LimiterStatus:
        """Return what keeps calls now."""
        with self._lock:
            now, key = self._monotonic(), self._key
            pauses = {name: limiter.pause(now) for name, limiter in self._limiters.items()}
            auth_failure = AuthFailure(key.error, max(0.0, key.open_until - now)) if key.error is not None else None
            return LimiterStatus(
                {name: pause for name, pause in pauses.items() if pause is not None},
                auth_failure,
                key.auth_failures(now) if auth_failure is None else {},
            )

    def admit(self, endpoint: Endpoint, *, low_priority: bool = False) -> Permit | Deferred | None:
        """Return leave to make one call, or why it is not to be made now, or None while another one goes alone.

        A `low_priority` call leaves half of what may be made at once to others.
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
            passed, probe = key.acquire(endpoint), limiter.acquire(now)

        def begin() -> None:
            nonlocal key, passed
            if passed.is_probe and self._read_key():
                with self._lock:
                    key = self._key = _KeyState(self._key.endpoints)
                    passed = key.acquire(endpoint)

        def end(error: BrazeError | None, info: RateLimitInfo) -> float | None:
            with self._lock:
                now = self._monotonic()
                key.record(endpoint, error, passed, now)
                return limiter.release(info, probe, now)

        return Permit(end, begin=begin)

    def _decisions(self, endpoint: Endpoint, now: float, *, low_priority: bool = False) -> tuple[Decision, Decision]:
        """Return whether a call may pass as far as the key is concerned, and its pool."""
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
