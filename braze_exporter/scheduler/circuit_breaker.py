"""The backoff after failures, and the circuit breaker, which denies calls after a failure and then allows a probe.

Not thread-safe. Nothing here waits or reads a clock: the current time is passed in, in seconds of the monotonic clock.
"""

from dataclasses import dataclass
from enum import Enum, auto

from braze_exporter.braze.errors import BrazeError, Reason

# Seconds after a failure until the next call while Braze has never responded. They double with each failure, up to the
# maximum.
FIRST_START_RETRY_SECONDS = 5.0
MAX_START_RETRY_SECONDS = 60.0
# More doublings would exceed the maximum of any wait.
_MAX_DOUBLINGS = 30
# The failures without a response.
_UNREACHABLE_REASONS = {Reason.TIMEOUT, Reason.CONNECTION, Reason.DNS, Reason.TLS, Reason.PROXY}


def backoff_seconds(initial: float, failures: int, maximum: float, jitter: float = 1.0) -> float:
    """Return how many seconds to wait after `failures` consecutive failures, at most `maximum`.

    The wait is `initial` seconds after the first failure, and doubles with each further one. `jitter` is a factor near
    1, so that calls which fail together are not repeated together.
    """
    return min(initial * 2.0 ** min(failures - 1, _MAX_DOUBLINGS) * jitter, maximum)


class Decision(Enum):
    """Whether a call may be made: now (`ALLOW`), after the running probe has ended (`WAIT`), or not (`DENY`)."""

    ALLOW = auto()
    WAIT = auto()
    DENY = auto()


@dataclass(frozen=True, slots=True)
class BreakerCall:
    """A call that a circuit breaker allowed.

    `is_probe` is true if no other call may be made until this one has ended. `generation` is the number of times that
    `require_probe` had been called before.
    """

    is_probe: bool
    generation: int


class CircuitBreaker:
    """Allows calls while closed, denies all calls while open, and then allows one call as a probe.

    Other calls wait until the probe has ended. If it succeeds, the breaker is closed.
    """

    def __init__(self, *, is_probe_due: bool) -> None:
        """Start closed; the first call is a probe if `is_probe_due` is true."""
        self.open_until = float("-inf")
        self._generation = 0
        self._is_probe_due = is_probe_due
        self._is_probe_running = False

    def decide(self, now: float) -> Decision:
        """Return whether a call may be made at `now`."""
        if now < self.open_until:
            return Decision.DENY
        return Decision.WAIT if self._is_probe_running else Decision.ALLOW

    def acquire(self) -> BreakerCall:
        """Register the start of a call that `decide` allowed."""
        self._is_probe_running = self._is_probe_due
        return BreakerCall(self._is_probe_due, self._generation)

    def is_current(self, call: BreakerCall) -> bool:
        """Return whether no probe has been required since the call began. Otherwise its result is outdated."""
        return call.generation == self._generation

    def release(self, call: BreakerCall, *, succeeded: bool) -> None:
        """Register the end of a call.

        A probe that `succeeded` closes the breaker, unless it was opened again meanwhile.
        """
        if call.is_probe:
            self._is_probe_running = False
            self._is_probe_due = not (succeeded and self.is_current(call))

    def open(self, until: float) -> None:
        """Deny all calls until `until`, then allow one probe. If the breaker is open for longer, that time is kept."""
        self.open_until = max(self.open_until, until)
        self.require_probe()

    def require_probe(self) -> None:
        """Make the next call a probe. The results of running calls no longer count."""
        self._generation += 1
        self._is_probe_due = True


class StartCircuitBreaker(CircuitBreaker):
    """Denies all calls but one probe at a time until Braze has responded for the first time.

    After each failure the next probe waits longer. `error` is the last failure, or None once Braze has responded.
    """

    def __init__(self, *, is_reached: bool) -> None:
        """Start closed if `is_reached` is true; otherwise the first call is a probe."""
        super().__init__(is_probe_due=not is_reached)
        self.is_reached = is_reached
        self.error: BrazeError | None = None
        self._failures = 0

    def record(self, error: BrazeError | None, call: BreakerCall, now: float) -> None:
        """Register the end of a call."""
        self.is_reached = self.is_reached or error is None or error.reason not in _UNREACHABLE_REASONS
        self.release(call, succeeded=self.is_reached)
        self.error = error.without_traceback() if error is not None and not self.is_reached else None
        if not self.is_reached:
            self._failures += 1
            self.open(now + backoff_seconds(FIRST_START_RETRY_SECONDS, self._failures, MAX_START_RETRY_SECONDS))
