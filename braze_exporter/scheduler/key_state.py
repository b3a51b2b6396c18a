"""Tracks whether Braze accepts an API key, for each endpoint.

Not thread-safe. Nothing here waits or reads a clock.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.lists import ListEndpoint
from braze_exporter.braze.pools import Endpoint
from braze_exporter.scheduler.circuit_breaker import BreakerCall, CircuitBreaker, Decision
from braze_exporter.state.tables import HoldRow, restore_error, save_error

# Seconds without calls to an endpoint after a 401 or 403. If all endpoints in use have rejected the key, the whole
# workspace makes no calls for this time.
AUTH_RETRY_SECONDS = 120.0
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

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BlockingFailure:
    """A failure that blocks calls, such as a 401 or 403, with the seconds until the next attempt."""

    error: BrazeError
    seconds: float


class _Verdict(Enum):
    """Whether an endpoint accepts the key, according to its last response that shows this.

    The values are those in the state file.
    """

    UNKNOWN = "unknown"
    ACCEPTED = "accepted"
    REJECTED = "refused"


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

    def record(self, error: BrazeError | None, call: BreakerCall, now: float) -> None:
        """Register the end of a call. If the breaker has been opened since the call began, its result is ignored."""
        reason = error.reason if error is not None else None
        is_current, is_rejected = self.is_current(call), reason in AUTH_REASONS
        succeeded = reason in _KEY_ACCEPTED_REASONS and not is_rejected
        self.release(call, succeeded=succeeded)
        if not is_current:
            return
        if reason is Reason.UNAUTHORIZED or reason in _KEY_ACCEPTED_REASONS:
            if self.verdict is not _Verdict.REJECTED:
                self.rejected_since = now
            self.verdict = _Verdict.REJECTED if reason is Reason.UNAUTHORIZED else _Verdict.ACCEPTED
            self.verdict_at = now
        if error is not None and is_rejected:
            self.error = error.without_traceback()
        if is_rejected or (call.is_probe and not succeeded and self.error is not None):
            self.open(now + AUTH_RETRY_SECONDS)
        elif call.is_probe:
            self.error = None

    def reset(self) -> None:
        """Forget the verdict on the key. After a rejection, the next call is a probe anyway."""
        self.error, self.verdict = None, _Verdict.UNKNOWN

    def restore(self, row: HoldRow, now: float, wall: float) -> None:
        """Continue with the state in `row`. `now` and `wall` are the current time by both clocks."""
        self.verdict, self.verdict_at, self.rejected_since = _Verdict(row.verdict), now, now
        self.error = restore_error(row.error)
        if self.error is not None:
            self.open(now + min((row.held_until or wall) - wall, AUTH_RETRY_SECONDS))


class KeyState:
    """Tracks whether Braze accepts one key, for each endpoint and for all `endpoints` in use.

    While no endpoint accepts the key, only one call is made at a time. Once all endpoints in use reject it, `error` is
    set, and only probes are made, to one endpoint after the other. Each key has its own `KeyState`, so a call with an
    older key changes only the state of that key.
    """

    def __init__(self) -> None:
        """Start with a key that has not been used yet, and without endpoints."""
        self.endpoints: Collection[Endpoint] = ()
        self.error: BrazeError | None = None
        self._circuits: dict[str, _AuthCircuitBreaker] = {}
        self._probe_in_flight: BreakerCall | None = None

    def restore(self, rows: Iterable[HoldRow], now: float, wall: float) -> None:
        """Continue with the state in `rows`. `now` and `wall` are the current time by both clocks."""
        for row in rows:
            circuit = _AuthCircuitBreaker()
            try:
                circuit.restore(row, now, wall)
            except (ValueError, TypeError) as error:
                fields = {"path": row.path, "reason": str(error)}
                _log.warning("Saved hold could not be read", extra={"fields": fields})
                continue
            self._circuits[row.path] = circuit

    def to_rows(self, url: str, key_digest: str, now: float, wall: float) -> list[HoldRow]:
        """Return the state as rows of the state file."""
        return [
            HoldRow(
                url,
                key_digest,
                path,
                circuit.verdict.value,
                None if circuit.error is None else wall + circuit.open_until - now,
                save_error(circuit.error),
            )
            for path, circuit in self._circuits.items()
            if circuit.verdict is not _Verdict.UNKNOWN
        ]

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

    def auth_failures(self, now: float) -> Mapping[str, BlockingFailure]:
        """Return the failures, keyed by the path of the endpoint."""
        return {
            path: BlockingFailure(circuit.error, max(0.0, circuit.open_until - now))
            for path, circuit in self._circuits.items()
            if circuit.error is not None
        }

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

    def acquire(self, endpoint: Endpoint) -> BreakerCall:
        """Register the start of a call that `decide` allowed. Others wait for it if no endpoint accepts the key."""
        circuit = self.circuit(endpoint)
        circuit.is_probe_wanted = False
        call = circuit.acquire()
        if not self.is_accepted:
            self._probe_in_flight = call
        return call

    def record(self, endpoint: Endpoint, error: BrazeError | None, call: BreakerCall, now: float) -> None:
        """Register the end of a call."""
        self._end_probe(call)
        circuit = self.circuit(endpoint)
        circuit.record(error, call, now)
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

    def abandon(self, endpoint: Endpoint, call: BreakerCall) -> None:
        """Register that an acquired call is made with another key instead."""
        self._end_probe(call)
        self.circuit(endpoint).release(call, succeeded=False)

    def _end_probe(self, call: BreakerCall) -> None:
        if self._probe_in_flight is call:
            self._probe_in_flight = None

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
