"""Who may call Braze for one workspace now: as the budget of the pool has it, and not while a refusal holds."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from braze_exporter.catalog import BrazeError, Held, Kind, Pool, Reason, Withheld
from braze_exporter.limiter import HOLD, Gate, Limiter, Passage, Told

# Failures that show all the same that the key was taken.
_KEY_TAKEN = {None, Reason.BAD_REQUEST, Reason.FORBIDDEN, Reason.RATE_LIMITED, Reason.BAD_ANSWER}


class _Hold(Gate):
    """Keeps calls from what was refused, until one of them alone is not."""

    def __init__(self, refusal: Reason) -> None:
        super().__init__(on_trial=False)
        self._refusal = refusal
        self.error: BrazeError | None = None

    def note(self, error: BrazeError | None, *, on_trial: bool, now: float) -> None:
        """Note how a call ended that passed here."""
        reason = error.reason if error is not None else None
        passed = reason in _KEY_TAKEN and reason is not self._refusal
        self.leave(on_trial=on_trial, passed=passed)
        if error is not None and reason is self._refusal:
            self.error = error.bare()
        if reason is self._refusal or (on_trial and not passed):
            self.shut(now + HOLD)
        elif on_trial:
            self.error = None


@dataclass(frozen=True, slots=True)
class Permit:
    """Leave to make one call, and which of the gates that it passed it is the trial of."""

    tries_workspace: bool
    tries_endpoint: bool
    tries_pool: bool


class Admission:
    """Lets the calls of one workspace go, one alone first where something must be tried. Thread-safe."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        """Begin without a budget. `monotonic` tells seconds that never jump."""
        self._monotonic = monotonic
        self._changed = threading.Condition()
        self._limiters: dict[str, Limiter] = {}
        self._workspace = _Hold(Reason.UNAUTHORIZED)
        self._endpoints: dict[str, _Hold] = {}

    def allow(self, bursts: Mapping[Pool, int], *, share: float, reserve: float) -> None:
        """Let go, of each pool, at most `share` of its limit and that burst, and nothing of its `reserve`.

        What was spent and learned stays so. A refusal is tried again at once: the key may be another one.
        """
        with self._changed:
            now = self._monotonic()
            for pool, burst in bursts.items():
                if pool.name in self._limiters:
                    self._limiters[pool.name].change(share=share, reserve=reserve, burst=burst, now=now)
                else:
                    limiter = Limiter(pool, share=share, reserve=reserve, burst=burst, now=now)
                    self._limiters[pool.name] = limiter
            for hold in (self._workspace, *self._endpoints.values()):
                hold.shut_until = now

    def refusal(self, kind: Kind) -> BrazeError | None:
        """Return the error that holds all queries of `kind`, if one does."""
        with self._changed:
            return self._workspace.error or self._endpoint(kind).error

    def objection(self, kind: Kind) -> Withheld | None:
        """Return why a call for `kind` would not be made now, or None if it would, perhaps after another one."""
        with self._changed:
            return self._objection(kind, self._monotonic())

    def enter(self, kind: Kind) -> Permit:
        """Return leave to make one call, which must end with `leave`; wait while a call goes alone.

        Raises `Withheld`, or `Held` if a refusal holds.
        """
        with self._changed:
            while True:
                now = self._monotonic()
                objection = self._objection(kind, now)
                if objection is not None:
                    raise objection
                if all(passage is Passage.OPEN for passage in self._passages(kind, now)):
                    return Permit(
                        tries_workspace=self._workspace.enter(),
                        tries_endpoint=self._endpoint(kind).enter(),
                        tries_pool=self._limiters[kind.pool.name].enter(now),
                    )
                self._changed.wait()

    def leave(self, permit: Permit, kind: Kind, error: BrazeError | None, told: Told) -> float | None:
        """Note how a call ended; return for how many seconds its pool rests now, if that is news."""
        with self._changed:
            now = self._monotonic()
            self._workspace.note(error, on_trial=permit.tries_workspace, now=now)
            self._endpoint(kind).note(error, on_trial=permit.tries_endpoint, now=now)
            rests = self._limiters[kind.pool.name].leave(told, on_trial=permit.tries_pool, now=now)
            self._changed.notify_all()
            return rests

    def _endpoint(self, kind: Kind) -> _Hold:
        return self._endpoints.setdefault(kind.endpoint, _Hold(Reason.FORBIDDEN))

    def _passages(self, kind: Kind, now: float) -> tuple[Passage, Passage, Passage]:
        limiter = self._limiters[kind.pool.name]
        return self._workspace.passage(now), self._endpoint(kind).passage(now), limiter.passage(now)

    def _objection(self, kind: Kind, now: float) -> Withheld | None:
        workspace, endpoint, pool = self._passages(kind, now)
        if Passage.SHUT in (workspace, endpoint):
            return Held(kind.endpoint)
        return Withheld(kind.pool.name) if pool is Passage.SHUT else None
