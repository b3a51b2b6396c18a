"""Who may call Braze for one workspace now: as the budget of the pool has it, and not while a refusal holds."""

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from braze_exporter.braze.calls import Permit, Told
from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.lists import Listing
from braze_exporter.braze.pools import Endpoint, Pool
from braze_exporter.scheduler.errors import Held, Withheld
from braze_exporter.scheduler.rate_limiter import HOLD, Entered, Gate, Limiter, Passage, Rest

# What is refused for the key: all of it (401), or a permission (401 or 403).
REFUSALS = {Reason.UNAUTHORIZED, Reason.FORBIDDEN}
# Failures that show all the same that the key was taken.
_KEY_TAKEN = {
    None,
    Reason.BAD_REQUEST,
    Reason.FORBIDDEN,
    Reason.RATE_LIMITED,
    Reason.TOO_LARGE,
    Reason.TRUNCATED,
    Reason.BAD_ANSWER,
}
# Why no call is made with a key that all endpoints in use refuse.
REJECTED = (
    "401 Unauthorized: API key rejected "
    "(check that it is a REST API key of this workspace, and that url is its REST endpoint)"
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """What Braze refuses, and in how many seconds that is tried again."""

    error: BrazeError
    seconds: float


@dataclass(frozen=True, slots=True)
class Standing:
    """What keeps the calls of a workspace now: its pools that rest, by name, and what is refused.

    `refusal` is of the key, for all calls; `refusals` are by endpoint, and empty while there is that one.
    """

    rests: Mapping[str, Rest]
    refusal: Refusal | None
    refusals: Mapping[str, Refusal]


class _Verdict(Enum):
    """What the last response of an endpoint that says anything of the key said of it."""

    UNKNOWN = auto()
    ACCEPTED = auto()
    REFUSED = auto()


class _Hold(Gate):
    """Keeps calls from an endpoint that refused one, until one of them alone is not refused."""

    def __init__(self) -> None:
        super().__init__(on_trial=False)
        self.error: BrazeError | None = None
        self.verdict = _Verdict.UNKNOWN
        self.judged_at = float("-inf")
        self.refused_since = float("-inf")
        self.is_sought = False

    def note(self, error: BrazeError | None, entered: Entered, now: float) -> None:
        """Note how a call ended that passed here. One that passed before the last refusal says nothing new."""
        reason = error.reason if error is not None else None
        is_news, is_refused = self.is_news(entered), reason in REFUSALS
        passed = reason in _KEY_TAKEN and not is_refused
        self.leave(entered, passed=passed)
        if not is_news:
            return
        if reason is Reason.UNAUTHORIZED or reason in _KEY_TAKEN:
            if self.verdict is not _Verdict.REFUSED:
                self.refused_since = now
            self.verdict = _Verdict.REFUSED if reason is Reason.UNAUTHORIZED else _Verdict.ACCEPTED
            self.judged_at = now
        if error is not None and is_refused:
            self.error = error.bare()
        if is_refused or (entered.on_trial and not passed and self.error is not None):
            self.shut(now + HOLD)
        elif entered.on_trial:
            self.error = None

    def forget(self) -> None:
        """Know nothing of the key, and let the next call go alone."""
        self.error, self.verdict = None, _Verdict.UNKNOWN
        self.shut_until = float("-inf")
        self.require_trial()

    def refusal(self, now: float) -> Refusal | None:
        """Return what is refused, if it is."""
        return Refusal(self.error, max(0.0, self.shut_until - now)) if self.error is not None else None


@dataclass(frozen=True, slots=True, eq=False)
class _Passed:
    """That a call was let go: how it passed the hold of its endpoint, and whether it goes alone or is a probe."""

    entered: Entered
    is_alone: bool
    is_probe: bool


class _Key:
    """What Braze says of one key, at each endpoint and at all that are `in_use`.

    While no endpoint accepts it, calls go one alone after another. Once all in use refuse it, `error` holds them all,
    and they take turns to try it. A call with an older key is noted in the object of that key.
    """

    def __init__(self, in_use: Collection[Endpoint]) -> None:
        """Begin with a key of which nothing is known."""
        self.in_use = in_use
        self.error: BrazeError | None = None
        self._holds: dict[str, _Hold] = {}
        self._alone: _Passed | None = None

    def use(self, in_use: Collection[Endpoint]) -> None:
        """Judge the key by these endpoints from now on."""
        self.in_use = in_use
        self._judge()

    def hold(self, at: Endpoint) -> _Hold:
        """Return the hold of an endpoint."""
        return self._holds.setdefault(at.endpoint, _Hold())

    @property
    def is_accepted(self) -> bool:
        """Whether an endpoint in use accepts the key; if none is known to be in use, any."""
        holds = [self.hold(at) for at in self.in_use] or self._holds.values()
        return any(hold.verdict is _Verdict.ACCEPTED for hold in holds)

    @property
    def held_until(self) -> float:
        """Until when a key that all endpoints in use refuse is not tried."""
        return max(self.hold(at).shut_until for at in self.in_use)

    def refusals(self, now: float) -> Mapping[str, Refusal]:
        """Return what is refused, by the endpoint."""
        found = {endpoint: hold.refusal(now) for endpoint, hold in self._holds.items()}
        return {endpoint: refusal for endpoint, refusal in found.items() if refusal is not None}

    def passage(self, at: Endpoint, now: float, is_open: Callable[[Endpoint], bool]) -> Passage:
        """Return whether a call may pass; `is_open` tells whether the pool of an endpoint makes calls now."""
        hold = self.hold(at).passage(now)
        if hold is Passage.SHUT or (self.error is not None and now < self.held_until):
            return Passage.SHUT
        if self._alone is not None and not self.is_accepted:
            return Passage.BUSY
        if self.error is not None and self._turn(is_open) != at.endpoint:
            # A query has been taken for the turn by the same scrape; lists are read by themselves.
            return Passage.SHUT if isinstance(at, Listing) else Passage.BUSY
        return hold

    def enter(self, at: Endpoint) -> _Passed:
        """Let a call pass."""
        hold = self.hold(at)
        hold.is_sought = False
        entered = hold.enter()
        passed = _Passed(entered, not self.is_accepted, entered.on_trial and hold.error is not None)
        if passed.is_alone:
            self._alone = passed
        return passed

    def note(self, at: Endpoint, error: BrazeError | None, passed: _Passed, now: float) -> None:
        """Note how a call ended that passed here."""
        if self._alone is passed:
            self._alone = None
        hold = self.hold(at)
        hold.note(error, passed.entered, now)
        if self.error is not None and hold.verdict is _Verdict.ACCEPTED:
            # The others refused a key that was refused everywhere: that says nothing of a permission.
            for other in (self.hold(other) for other in self.in_use if other.endpoint != at.endpoint):
                other.forget()
        self._judge()
        if hold.verdict is _Verdict.REFUSED:
            # If the key was revoked, the others need not show that only when they are due.
            latest = min(hold.refused_since, now - HOLD)
            for other in map(self.hold, self.in_use):
                other.is_sought = other.verdict is _Verdict.ACCEPTED and other.judged_at <= latest

    def _judge(self) -> None:
        if not self.in_use or any(self.hold(at).verdict is not _Verdict.REFUSED for at in self.in_use):
            self.error = None
        elif self.error is None:
            self.error = BrazeError(Reason.UNAUTHORIZED, REJECTED)

    def _turn(self, is_open: Callable[[Endpoint], bool]) -> str | None:
        """Return the endpoint that tries a rejected key next: of queries, or where there are none, of a list.

        It is the one that was tried the longest ago, of those that can be.
        """
        able = [at for at in self.in_use if is_open(at)]
        able = [at for at in able if not isinstance(at, Listing)] or able
        return min(able, key=lambda at: self.hold(at).shut_until).endpoint if able else None


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
        self._limiters: dict[str, Limiter] = {}
        self._key = _Key(())

    def allow(self, bursts: Mapping[Pool, int], *, share: float, reserve: float) -> None:
        """Let go, of each pool, at most `share` of its limit and that burst, and nothing of its `reserve`.

        What was spent and learned stays so.
        """
        with self._lock:
            now = self._monotonic()
            for pool, burst in bursts.items():
                if pool.name in self._limiters:
                    self._limiters[pool.name].change(share=share, reserve=reserve, burst=burst, now=now)
                else:
                    limiter = Limiter(pool, share=share, reserve=reserve, burst=burst, now=now)
                    self._limiters[pool.name] = limiter

    def use(self, endpoints: Collection[Endpoint], *, is_same_key: bool = True) -> None:
        """Judge the key by these endpoints, which calls are made at from now on.

        Nothing is known of another key; what the same one was refused is tried no sooner for this.
        """
        with self._lock:
            if is_same_key:
                self._key.use(endpoints)
            else:
                self._key = _Key(endpoints)

    @property
    def is_key_accepted(self) -> bool:
        """Whether an endpoint in use accepts the key."""
        with self._lock:
            return self._key.is_accepted

    def refusal(self, at: Endpoint) -> BrazeError | None:
        """Return the error that holds all calls `at` an endpoint, if one does."""
        with self._lock:
            return self._key.error or self._key.hold(at).error

    def objection(self, at: Endpoint) -> Withheld | None:
        """Return why a call would not be made now, or None if it would, perhaps after another one."""
        with self._lock:
            return self._objection(self._passages(at, self._monotonic()), at)

    def is_sought(self, at: Endpoint) -> bool:
        """Return whether a call `at` an endpoint is wanted for what it will show of the key, though nothing is due."""
        with self._lock:
            if self._key.error is not None:
                return all(passage is Passage.OPEN for passage in self._passages(at, self._monotonic()))
            return self._key.hold(at).is_sought

    def standing(self) -> Standing:
        """Return what keeps calls now."""
        with self._lock:
            now, key = self._monotonic(), self._key
            rests = {name: limiter.rest(now) for name, limiter in self._limiters.items()}
            refusal = Refusal(key.error, max(0.0, key.held_until - now)) if key.error is not None else None
            return Standing(
                {name: rest for name, rest in rests.items() if rest is not None},
                refusal,
                key.refusals(now) if refusal is None else {},
            )

    def admit(self, at: Endpoint, *, spare: bool = False) -> Permit | Withheld | None:
        """Return leave to make one call, or why it is not to be made now, or None while another one goes alone.

        A `spare` call leaves half of what may be made at once to others.
        """
        with self._lock:
            now = self._monotonic()
            passages = self._passages(at, now, spare=spare)
            objection = self._objection(passages, at)
            if objection is not None:
                return objection
            if any(passage is not Passage.OPEN for passage in passages):
                return None
            key, limiter = self._key, self._limiters[at.pool.name]
            passed, entered = key.enter(at), limiter.enter(now)

        def begin() -> None:
            nonlocal key, passed
            if passed.is_probe and self._read_key():
                with self._lock:
                    key = self._key = _Key(self._key.in_use)
                    passed = key.enter(at)

        def end(error: BrazeError | None, told: Told) -> float | None:
            with self._lock:
                now = self._monotonic()
                key.note(at, error, passed, now)
                return limiter.leave(told, entered, now)

        return Permit(end, begin=begin)

    def _passages(self, at: Endpoint, now: float, *, spare: bool = False) -> tuple[Passage, Passage]:
        """Return whether a call may pass as far as the key is concerned, and its pool."""
        key = self._key.passage(at, now, lambda other: self._is_open(other, now))
        return key, self._limiters[at.pool.name].passage(now, spare=spare)

    def _is_open(self, at: Endpoint, now: float) -> bool:
        limiter = self._limiters.get(at.pool.name)
        return limiter is not None and limiter.passage(now) is not Passage.SHUT

    def _objection(self, passages: tuple[Passage, Passage], at: Endpoint) -> Withheld | None:
        key, pool = passages
        if key is Passage.SHUT:
            return Held(at.endpoint)
        return Withheld(at.pool.name) if pool is Passage.SHUT else None
