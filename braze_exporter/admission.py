"""Who may call Braze for one workspace now: as the budget of the pool has it, and not while a refusal holds."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from braze_exporter.catalog import BrazeError, Endpoint, Held, Pool, Reason, Withheld
from braze_exporter.limiter import HOLD, Entered, Gate, Limiter, Passage, Rest, Told

# Failures that show all the same that the key was taken.
_KEY_TAKEN = {None, Reason.BAD_REQUEST, Reason.FORBIDDEN, Reason.RATE_LIMITED, Reason.BAD_ANSWER}


@dataclass(frozen=True, slots=True)
class Refusal:
    """What Braze refuses, and in how many seconds that is tried again."""

    error: BrazeError
    seconds: float


@dataclass(frozen=True, slots=True)
class Standing:
    """What keeps the calls of a workspace now: its pools that rest, by name, and what is refused.

    `refusal` is of the key, for all calls; `refusals` are by endpoint.
    """

    rests: Mapping[str, Rest]
    refusal: Refusal | None
    refusals: Mapping[str, Refusal]


class _Hold(Gate):
    """Keeps calls from what was refused, until one of them alone is not."""

    def __init__(self, refusal: Reason) -> None:
        super().__init__(on_trial=False)
        self._refusal = refusal
        self.error: BrazeError | None = None

    def note(self, error: BrazeError | None, entered: Entered, now: float) -> None:
        """Note how a call ended that passed here. One that passed before the last refusal says nothing new."""
        reason = error.reason if error is not None else None
        is_news, is_refused = self.is_news(entered), reason is self._refusal
        passed = reason in _KEY_TAKEN and not is_refused
        self.leave(entered, passed=passed)
        if not is_news:
            return
        if error is not None and is_refused:
            self.error = error.bare()
        if is_refused or (entered.on_trial and not passed):
            self.shut(now + HOLD)
        elif entered.on_trial:
            self.error = None

    def refusal(self, now: float) -> Refusal | None:
        """Return what is refused, if it is."""
        return Refusal(self.error, max(0.0, self.shut_until - now)) if self.error is not None else None

    def try_again(self) -> None:
        """Have a refusal tried at once: the key may be another one, and calls under way tell nothing of that."""
        self.shut_until = float("-inf")
        self.require_trial(due=self.error is not None)


class Permit:
    """Leave to make one call, which must `end`: others may wait for it."""

    def __init__(self, end: Callable[[BrazeError | None, Told], float | None]) -> None:
        """Pass on how the call ended to `end`."""
        self._end = end
        self._has_ended = False

    def end(self, error: BrazeError | None, told: Told) -> float | None:
        """Note how the call ended, once; return for how many seconds its pool rests now, if that is news."""
        if self._has_ended:
            return None
        self._has_ended = True
        return self._end(error, told)


class Admission:
    """Lets the calls of one workspace go, one alone first where something must be tried. Thread-safe."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        """Begin without a budget. `monotonic` tells seconds that never jump."""
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._limiters: dict[str, Limiter] = {}
        self._workspace = _Hold(Reason.UNAUTHORIZED)
        self._endpoints: dict[str, _Hold] = {}

    def allow(self, bursts: Mapping[Pool, int], *, share: float, reserve: float, is_same_key: bool = False) -> None:
        """Let go, of each pool, at most `share` of its limit and that burst, and nothing of its `reserve`.

        What was spent and learned stays so. A refusal is tried again at once, unless the key is the same.
        """
        with self._lock:
            now = self._monotonic()
            for pool, burst in bursts.items():
                if pool.name in self._limiters:
                    self._limiters[pool.name].change(share=share, reserve=reserve, burst=burst, now=now)
                else:
                    limiter = Limiter(pool, share=share, reserve=reserve, burst=burst, now=now)
                    self._limiters[pool.name] = limiter
            for hold in () if is_same_key else (self._workspace, *self._endpoints.values()):
                hold.try_again()

    def refusal(self, at: Endpoint) -> BrazeError | None:
        """Return the error that holds all calls `at` an endpoint, if one does."""
        with self._lock:
            return self._workspace.error or self._endpoint(at).error

    def objection(self, at: Endpoint) -> Withheld | None:
        """Return why a call would not be made now, or None if it would, perhaps after another one."""
        with self._lock:
            return self._objection(at, self._monotonic())

    def standing(self) -> Standing:
        """Return what keeps calls now."""
        with self._lock:
            now = self._monotonic()
            rests = {name: limiter.rest(now) for name, limiter in self._limiters.items()}
            refusals = {endpoint: hold.refusal(now) for endpoint, hold in self._endpoints.items()}
            return Standing(
                {name: rest for name, rest in rests.items() if rest is not None},
                self._workspace.refusal(now),
                {endpoint: refusal for endpoint, refusal in refusals.items() if refusal is not None},
            )

    def admit(self, at: Endpoint, *, spare: bool = False) -> Permit | Withheld | None:
        """Return leave to make one call, or why it is not to be made now, or None while another one goes alone.

        A `spare` call leaves half of what may be made at once to others.
        """
        with self._lock:
            now = self._monotonic()
            objection = self._objection(at, now, spare=spare)
            if objection is not None:
                return objection
            if any(passage is not Passage.OPEN for passage in self._passages(at, now, spare=spare)):
                return None
            workspace, endpoint, limiter = self._workspace, self._endpoint(at), self._limiters[at.pool.name]
            entered = workspace.enter(), endpoint.enter(), limiter.enter(now)

            def end(error: BrazeError | None, told: Told) -> float | None:
                with self._lock:
                    now = self._monotonic()
                    workspace.note(error, entered[0], now)
                    endpoint.note(error, entered[1], now)
                    return limiter.leave(told, entered[2], now)

            return Permit(end)

    def _endpoint(self, at: Endpoint) -> _Hold:
        return self._endpoints.setdefault(at.endpoint, _Hold(Reason.FORBIDDEN))

    def _passages(self, at: Endpoint, now: float, *, spare: bool = False) -> tuple[Passage, Passage, Passage]:
        limiter = self._limiters[at.pool.name]
        return self._workspace.passage(now), self._endpoint(at).passage(now), limiter.passage(now, spare=spare)

    def _objection(self, at: Endpoint, now: float, *, spare: bool = False) -> Withheld | None:
        workspace, endpoint, pool = self._passages(at, now, spare=spare)
        if Passage.SHUT in (workspace, endpoint):
            return Held(at.endpoint)
        return Withheld(at.pool.name) if pool is Passage.SHUT else None
