"""Test the rate limiter of a pool: how many calls it grants in any time span, and which it leaves to other clients."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from braze_exporter.braze.calls import RateLimitInfo
from braze_exporter.braze.pools import Pool
from braze_exporter.scheduler.circuit_breaker import BreakerCall, CircuitBreaker, Decision
from braze_exporter.scheduler.rate_limiter import Pause, PauseReason, PoolBudget, Priority, RateLimiter
from braze_exporter.state.tables import BudgetRow

POOL = Pool("default", limit=3_600, window_seconds=3_600)


@dataclass
class LimiterRig:
    """Holds a limiter and the calls it has granted, with a clock that the test sets."""

    limiter: RateLimiter
    now: float = 0.0
    granted: list[float] = field(default_factory=list)
    in_flight: list[BreakerCall] = field(default_factory=list)

    def acquire(self) -> bool:
        """Make a call if the limiter allows it, and return whether it was made."""
        if self.limiter.decide(self.now) is not Decision.ALLOW:
            return False
        self.in_flight.append(self.limiter.acquire(self.now))
        self.granted.append(self.now)
        return True

    def release(self, info: RateLimitInfo | None = None) -> float | None:
        """End the oldest call in flight."""
        return self.limiter.release(info or RateLimitInfo(is_accepted=True), self.in_flight.pop(0), self.now)


def make_rig(*, share: float = 0.1, reserve: float = 0.2, burst: int = 5, is_probed: bool = True) -> LimiterRig:
    """Return a limiter for a pool of one call a second.

    With `is_probed`, the first call, which probes alone, has already succeeded and its budget is refilled.
    """
    rig = LimiterRig(RateLimiter(POOL, PoolBudget(share, reserve, burst), now=-1_000.0), now=-1_000.0)
    if is_probed:
        rig.acquire()
        rig.release()
    rig.now, rig.granted = 0.0, []
    return rig


def test_limiter_grants_burst_then_share() -> None:
    """Five calls are granted at once, and then one every ten seconds, which is a tenth of Braze's one a second."""
    rig = make_rig()
    assert [rig.acquire() for _ in range(6)] == [True] * 5 + [False]
    for second in range(1, 101):
        rig.now = float(second)
        rig.acquire()
    assert rig.granted == [0.0] * 5 + [10.0 * number for number in range(1, 11)]


def test_limiter_does_not_accumulate_beyond_burst() -> None:
    """After a day without calls, no more than the burst is granted."""
    rig = make_rig()
    rig.now = 86_400.0
    assert [rig.acquire() for _ in range(6)] == [True] * 5 + [False]


def test_limiter_without_share_grants_burst_only() -> None:
    """A limiter with a share of 0, as in a backfill beside an exporter that needs all of it, grants only its burst."""
    rig = make_rig(share=0.0, burst=1, is_probed=False)
    assert rig.limiter.current_pause(rig.now) is None
    assert rig.acquire()
    rig.release()
    rig.now = 86_400.0
    assert not rig.acquire()
    assert rig.limiter.current_pause(rig.now) == Pause(PauseReason.BUDGET, float("inf"))


def test_limiter_uses_reported_limit() -> None:
    """A reported limit of a tenth slows the limiter to a tenth; an invalid limit is ignored."""
    rig = make_rig(burst=1)
    rig.acquire()
    rig.release(RateLimitInfo(limit=360))
    for info, at in ((None, 99.0), (0.0, 99.5)):
        rig.now = at
        rig.limiter.release(RateLimitInfo(limit=info), BreakerCall(is_probe=False, generation=0), at)
        assert not rig.acquire()
    rig.now = 100.0
    assert rig.acquire()
    rig.now = 150.0
    rig.release(RateLimitInfo(limit=3_600))  # for the past 50 s the previous limit applies
    assert not rig.acquire()
    rig.now = 155.0
    assert rig.acquire()


@pytest.mark.parametrize("under_way", [0, 3])
def test_limiter_leaves_reserve(under_way: int) -> None:
    """With a limit of 3,600 and a reserve of a fifth, a call that would leave less than 720 is not granted."""
    rig = make_rig(burst=100)
    for _ in range(under_way + 1):
        rig.acquire()
    assert rig.release(RateLimitInfo(limit=3_600, remaining=722 + under_way, resets_in=50)) is None
    assert rig.acquire()
    assert rig.limiter.current_pause(rig.now) is None
    assert rig.acquire()
    assert not rig.acquire()
    assert rig.limiter.current_pause(rig.now) == Pause(PauseReason.RESERVE, 50.0)
    rig.now = 49.9
    assert not rig.acquire()
    rig.now = 50.0
    assert rig.acquire()
    assert not rig.acquire()  # the first call after the reset probes alone


def test_reserve_counts_calls_of_others() -> None:
    """Calls of others show in the next response and stop the limiter until the reset; the stop is reported once."""
    rig = make_rig(burst=100)
    for _ in range(3):
        rig.acquire()
    assert rig.release(RateLimitInfo(limit=3_600, remaining=500, resets_in=50)) == 50
    assert rig.release(RateLimitInfo(limit=3_600, remaining=499, resets_in=50)) is None
    assert not rig.acquire()


def test_reordered_responses_restore_nothing() -> None:
    """Within a window the lowest reported remaining value and the earliest reset apply; a new window replaces it."""
    rig = make_rig(burst=100)
    for _ in range(4):
        rig.acquire()
    rig.release(RateLimitInfo(limit=3_600, remaining=721, resets_in=50))
    rig.release(RateLimitInfo(limit=3_600, remaining=3_000, resets_in=51))
    assert not rig.acquire()
    rig.now = 50.0
    assert rig.acquire()
    for _ in range(3):
        rig.release(RateLimitInfo(limit=3_600, remaining=3_599, resets_in=3_600))
    assert rig.acquire()


@pytest.mark.parametrize(("resets_in", "is_new"), [(160, False), (161, True)])
def test_later_reset_is_new_window(resets_in: float, is_new: bool) -> None:  # noqa: FBT001 - a case
    """A reset that is later by more than a minute is that of a new window, even if the known one has not ended."""
    rig = make_rig(burst=100)
    for _ in range(2):
        rig.acquire()
    rig.release(RateLimitInfo(limit=3_600, remaining=700, resets_in=100))
    rig.release(RateLimitInfo(limit=3_600, remaining=3_000, resets_in=resets_in))
    assert rig.acquire() == is_new


def test_reserve_without_reset_pauses_one_minute() -> None:
    """If the reserve is reached without a known reset, one call probes after a minute."""
    rig = make_rig(burst=100)
    rig.acquire()
    assert rig.release(RateLimitInfo(limit=3_600, remaining=0)) == 60
    rig.now = 60.0
    assert rig.acquire()
    assert not rig.acquire()


def test_rate_limit_without_reset_doubles_pause() -> None:
    """The pause starts at 60 s, doubles up to 15 minutes and ends with a success; concurrent 429s count once."""
    rig = make_rig(burst=100)
    rig.acquire()
    rig.acquire()
    stops = [rig.release(RateLimitInfo(is_rate_limited=True))]
    assert rig.release(RateLimitInfo(is_rate_limited=True)) is None
    for _ in range(5):
        rig.now += stops[-1] or 0.0
        assert rig.acquire()
        assert not rig.acquire()
        stops.append(rig.release(RateLimitInfo(is_rate_limited=True)))
    assert stops == [60, 120, 240, 480, 900, 900]
    rig.now += 900
    assert rig.acquire()
    rig.release()
    rig.acquire()
    assert rig.release(RateLimitInfo(is_rate_limited=True)) == 60


def test_late_rate_limit_stops_nothing() -> None:
    """A 429 without a reset for a call that began before the pause has no effect after the pause."""
    rig = make_rig(burst=100)
    rig.acquire()
    rig.acquire()
    assert rig.release(RateLimitInfo(is_rate_limited=True)) == 60
    rig.now = 60.0
    rig.acquire()
    rig.limiter.release(RateLimitInfo(is_accepted=True), rig.in_flight.pop(), rig.now)
    assert rig.release(RateLimitInfo(is_rate_limited=True)) is None
    assert [rig.acquire() for _ in range(2)] == [True, True]


@pytest.mark.parametrize(
    ("resets_in", "stop"), [(1_200.0, 1_200), (1.0, 1), (-5.0, 60), (0.0, 60), (9_999.0, 60), (None, 60)]
)
def test_rate_limit_pauses_until_valid_reset(resets_in: float | None, stop: float) -> None:
    """A reset in the past or beyond the window is ignored."""
    rig = make_rig()
    rig.acquire()
    assert rig.release(RateLimitInfo(resets_in=resets_in, is_rate_limited=True)) == stop


def test_first_call_is_probe() -> None:
    """The first call of a pool probes alone, and the others wait until it ends, whatever its result."""
    rig = make_rig(is_probed=False)
    assert rig.acquire()
    assert rig.limiter.decide(rig.now) is Decision.WAIT
    rig.release()
    assert rig.limiter.decide(rig.now) is Decision.ALLOW


def test_changed_budget_keeps_spent_calls() -> None:
    """A larger share or burst grants nothing for the time before it, and a smaller burst caps what is left."""
    rig = make_rig(burst=5)
    for _ in range(5):
        rig.acquire()
    rig.now = 10.0
    rig.limiter.set_budget(PoolBudget(0.5, 0.2, 50), now=10.0)
    assert [rig.acquire() for _ in range(2)] == [True, False]
    rig.now = 14.0
    assert [rig.acquire() for _ in range(3)] == [True, True, False]
    rig.now = 1_000.0
    for burst in (1, 50):
        rig.limiter.set_budget(PoolBudget(0.5, 0.2, burst), now=1_000.0)
    assert [rig.acquire() for _ in range(2)] == [True, False]


def test_budgets_of_one_key_add_up() -> None:
    """Workspaces with one key get the bursts and the needs of all, within the smallest share."""
    total = PoolBudget(0.5, 0.2, 5, 0.125, 2) + PoolBudget(0.25, 0.2, 7, 0.0625, 3)
    assert total == PoolBudget(0.25, 0.2, 12, 0.1875, 5)


@pytest.mark.parametrize(
    ("stop", "window"),
    [
        ((None, None, 0), (None, None)),
        ((None, None, 2), (300.0, 1_400.0)),
        ((1_500.0, "rate_limited", 3), (300.0, 1_400.0)),
        ((1_500.0, "rate_limited", 1), (10.0, 1_400.0)),
        ((1_400.0, "reserve", 0), (10.0, 1_400.0)),
    ],
)
def test_limiter_continues_with_saved_state(
    stop: tuple[float | None, str | None, int], window: tuple[float | None, float | None]
) -> None:
    """A restored limiter has the balance, the stop, the limit and the window that were saved."""
    row = BudgetRow("url", "digest", "default", 3.0, 1_000.0, *stop, 360.0, *window)
    rig = make_rig()
    rig.limiter.restore(row, now=0.0, wall=1_000.0)
    assert rig.limiter.to_row("url", "digest", now=0.0, wall=1_000.0) == row


def test_restored_limiter_grants_no_history_at_once() -> None:
    """A restart grants no burst of calls for history, only their share of the time since."""
    budget = PoolBudget(0.1, 0.2, 5, history_burst=5)
    row = RateLimiter(POOL, budget, now=0.0).to_row("", "", now=0.0, wall=0.0)
    limiter = RateLimiter(POOL, budget, now=0.0)
    limiter.restore(row, now=0.0, wall=0.0)
    assert limiter.decide(0.0) is Decision.ALLOW
    assert limiter.decide(19.0, Priority.HISTORY) is Decision.DENY
    assert limiter.decide(20.0, Priority.HISTORY) is Decision.ALLOW


def test_reported_window_replaces_restored_one() -> None:
    """If the clock was ahead when the window was saved, the first response after a restart corrects it."""
    rig = make_rig(burst=100)
    rig.acquire()
    rig.release(RateLimitInfo(limit=3_600, remaining=3_000, resets_in=1_000))
    row = rig.limiter.to_row("", "", now=0.0, wall=1_800.0)
    rig = make_rig(burst=100, is_probed=False)
    rig.now = 0.0
    rig.limiter.restore(row, now=0.0, wall=0.0)
    rig.acquire()
    assert rig.release(RateLimitInfo(limit=3_600, remaining=500, resets_in=1_000)) == 1_000


def test_circuit_open_for_longer_stays_open() -> None:
    """Opening a circuit for a shorter time does not shorten the wait, and a failed probe is followed by another."""
    gate = CircuitBreaker(is_probe_due=False)
    gate.open(100.0)
    gate.open(50.0)
    assert gate.decide(99.0) is Decision.DENY
    first = gate.acquire()
    assert first.is_probe
    assert gate.decide(100.0) is Decision.WAIT
    gate.release(first, succeeded=False)
    second = gate.acquire()
    assert second.is_probe
    gate.release(second, succeeded=True)
    assert not gate.acquire().is_probe


def test_circuit_opened_during_probe_requires_another() -> None:
    """A probe that began before the circuit was opened again does not close it."""
    gate = CircuitBreaker(is_probe_due=True)
    trial = gate.acquire()
    gate.open(50.0)
    gate.release(trial, succeeded=True)
    assert gate.acquire().is_probe


def test_late_response_of_previous_window_restores_nothing() -> None:
    """A late response of the previous window does not change the remaining calls of the current one."""
    rig = make_rig(burst=100)
    for _ in range(4):
        rig.acquire()
    rig.release(RateLimitInfo(limit=3_600, remaining=3_000, resets_in=5))
    rig.now = 6.0
    rig.release(RateLimitInfo(limit=3_600, remaining=723, resets_in=3_594))
    rig.release(RateLimitInfo(limit=3_600, remaining=2_999, resets_in=4))
    assert rig.acquire()
    assert not rig.acquire()  # one call is still in flight: two more would leave 720
    rig = make_rig(burst=100)
    for _ in range(2):
        rig.acquire()
    rig.release(RateLimitInfo(limit=3_600, remaining=3_000, resets_in=5))
    rig.now = 6.0  # no response of the current window yet
    assert rig.release(RateLimitInfo(limit=3_600, remaining=100, resets_in=4)) is None


@pytest.mark.parametrize(("remaining", "shown"), [(100, 98), (1, 0)])
def test_calls_in_flight_are_not_shown_as_remaining(remaining: float, shown: float) -> None:
    """The remaining calls that the exporter shows do not include those in flight, and are never negative."""
    rig = make_rig()
    for _ in range(3):
        rig.acquire()
    rig.release(RateLimitInfo(limit=3_600, remaining=remaining, resets_in=60))
    headers = rig.limiter.rate_limit(rig.now, 1e9)
    assert (headers.limit, headers.remaining, headers.reset) == (3_600, shown, 1e9 + 60)


def test_new_window_starts_with_known_limit() -> None:
    """Before the first response of a window, the limiter grants no more than the known limit leaves."""
    rig = make_rig(burst=100, reserve=0.5)
    rig.acquire()
    rig.release(RateLimitInfo(limit=6, remaining=5, resets_in=10))
    rig.now = 10.0
    assert [rig.acquire() for _ in range(4)] == [True, True, True, False]
    rig.now = 3_610.0  # the end of the window, whose length is estimated
    assert rig.acquire()
    assert rig.release(RateLimitInfo(limit=6, remaining=0, resets_in=100)) == 100  # the estimate was wrong


def test_raised_limit_applies_at_once() -> None:
    """When the reported limit rises, the remaining calls reported with it apply at once."""
    rig = make_rig(burst=100)
    for _ in range(2):
        rig.acquire()
    rig.release(RateLimitInfo(limit=1_000, remaining=900, resets_in=3_000))
    rig.release(RateLimitInfo(limit=250_000, remaining=249_800, resets_in=3_000))
    assert rig.acquire()


def test_changed_reserve_applies_at_once() -> None:
    """A lower reserve allows one probe at once and the other calls after it, but not after a 429."""
    rig = make_rig(burst=100, reserve=0.5)
    rig.acquire()
    rig.release(RateLimitInfo(limit=3_600, remaining=1_500, resets_in=3_000))
    assert not rig.acquire()
    rig.limiter.set_budget(PoolBudget(0.1, 0.1, 100), now=0.0)
    assert rig.acquire()
    assert rig.limiter.decide(0.0) is Decision.WAIT
    rig.release(RateLimitInfo(limit=3_600, remaining=1_499, resets_in=3_000))
    assert rig.acquire()
    rig.release(RateLimitInfo(is_rate_limited=True, resets_in=3_000))
    rig.limiter.set_budget(PoolBudget(0.1, 0.0, 100), now=0.0)
    assert not rig.acquire()


def test_failed_probe_is_followed_by_another() -> None:
    """While probes fail, calls are made one at a time, and the doubling of pauses is not reset."""
    rig = make_rig(burst=100, is_probed=False)
    for _ in range(3):
        assert rig.acquire()
        assert not rig.acquire()
        rig.release(RateLimitInfo())
    assert rig.acquire()
    assert rig.release(RateLimitInfo(is_rate_limited=True)) == 60
    rig.now = 60.0
    rig.acquire()
    rig.release(RateLimitInfo())
    rig.acquire()
    assert rig.release(RateLimitInfo(is_rate_limited=True)) == 120


rate_limit_info = st.builds(
    RateLimitInfo,
    limit=st.just(3_600.0),
    remaining=st.one_of(st.none(), st.floats(0, 3_600)),
    resets_in=st.one_of(st.none(), st.floats(-10, 4_000)),
    is_rate_limited=st.booleans(),
    is_accepted=st.booleans(),
)
steps = st.lists(st.one_of(st.floats(0, 500), st.just("enter"), rate_limit_info), max_size=200)


def assert_pause_is_exact(rig: LimiterRig) -> None:
    """Assert that the limiter reports a pause, with its exact end, if and only if it denies calls."""
    pause = rig.limiter.current_pause(rig.now)
    assert (pause is not None) == (rig.limiter.decide(rig.now) is Decision.DENY)
    if pause is not None:
        assert rig.limiter.decide(rig.now + pause.seconds + 1e-3) is not Decision.DENY
        assert rig.limiter.decide(rig.now + pause.seconds - 1e-3) is Decision.DENY or pause.seconds < 1e-3


@given(steps, st.floats(0.01, 1), st.floats(0, 0.9), st.integers(1, 20))
def test_any_time_span_grants_at_most_share(
    made_of: list[float | str | RateLimitInfo], share: float, reserve: float, burst: int
) -> None:
    """In any time span the limiter grants at most its share of the span and one burst."""
    rig = make_rig(share=share, reserve=reserve, burst=burst, is_probed=False)
    alone = 0
    for step in made_of:
        if isinstance(step, RateLimitInfo):
            if rig.in_flight:
                rig.release(step)
        elif isinstance(step, float):
            rig.now += step
        elif rig.acquire():
            alone = max(alone, sum(entered.is_probe for entered in rig.in_flight))
        assert_pause_is_exact(rig)
    assert alone <= 1
    for first, start in enumerate(rig.granted):
        for last, end in enumerate(rig.granted[first:], first):
            assert last - first + 1 <= burst + share * (end - start) + 1e-6
