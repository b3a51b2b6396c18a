"""The budget of a pool, as pure arithmetic: what it grants in any span, and what it leaves to others."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from braze_exporter.braze.calls import RateLimitInfo
from braze_exporter.braze.pools import Pool
from braze_exporter.scheduler.rate_limiter import CircuitBreaker, Decision, Probe, RateLimiter

POOL = Pool("default", limit=3_600, window_seconds=3_600)


@dataclass
class Calls:
    """A limiter and the calls that it has granted, on a clock that the test moves."""

    limiter: RateLimiter
    now: float = 0.0
    granted: list[float] = field(default_factory=list)
    under_way: list[Probe] = field(default_factory=list)

    def enter(self) -> bool:
        """Make a call if that may be, and return whether it was made."""
        if self.limiter.decide(self.now) is not Decision.ALLOW:
            return False
        self.under_way.append(self.limiter.acquire(self.now))
        self.granted.append(self.now)
        return True

    def leave(self, info: RateLimitInfo | None = None) -> float | None:
        """End the call that has been under way longest."""
        return self.limiter.release(info or RateLimitInfo(has_response=True), self.under_way.pop(0), self.now)


def calls(*, share: float = 0.1, reserve: float = 0.2, burst: int = 5, tried: bool = True) -> Calls:
    """Return a limiter of a call a second, whose first call, which goes alone, is over and given back if `tried`."""
    made = Calls(RateLimiter(POOL, share=share, reserve=reserve, burst=burst, now=-1_000.0), now=-1_000.0)
    if tried:
        made.enter()
        made.leave()
    made.now, made.granted = 0.0, []
    return made


def test_limiter_grants_burst_then_share() -> None:
    """Five calls go at once, and then one every ten seconds, a tenth of Braze's one a second."""
    made = calls()
    assert [made.enter() for _ in range(6)] == [True] * 5 + [False]
    for second in range(1, 101):
        made.now = float(second)
        made.enter()
    assert made.granted == [0.0] * 5 + [10.0 * number for number in range(1, 11)]


def test_limiter_does_not_accumulate_beyond_burst() -> None:
    """After a day without a call no more than the burst goes."""
    made = calls()
    made.now = 86_400.0
    assert [made.enter() for _ in range(6)] == [True] * 5 + [False]


def test_limiter_uses_reported_limit() -> None:
    """A limit that shrank to a tenth makes it ten times slower; nonsense is no limit."""
    made = calls(burst=1)
    made.enter()
    made.leave(RateLimitInfo(limit=360))
    for info, at in ((None, 99.0), (0.0, 99.5)):
        made.now = at
        made.limiter.release(RateLimitInfo(limit=info), Probe(is_probe=False, generation=0), at)
        assert not made.enter()
    made.now = 100.0
    assert made.enter()


@pytest.mark.parametrize("under_way", [0, 3])
def test_limiter_leaves_reserve(under_way: int) -> None:
    """Of a limit of 3,600 with a fifth in reserve, the call that would leave less than 720 is not made."""
    made = calls(burst=100)
    for _ in range(under_way + 1):
        made.enter()
    assert made.leave(RateLimitInfo(limit=3_600, remaining=722 + under_way, resets_in=50)) is None
    assert made.enter()
    assert made.enter()
    assert not made.enter()
    made.now = 49.9
    assert not made.enter()
    made.now = 50.0
    assert made.enter()
    assert not made.enter()  # it goes alone


def test_reserve_counts_calls_of_others() -> None:
    """What others spend shows in the next answer, and stops it until the window ends, which is news once."""
    made = calls(burst=100)
    for _ in range(3):
        made.enter()
    assert made.leave(RateLimitInfo(limit=3_600, remaining=500, resets_in=50)) == 50
    assert made.leave(RateLimitInfo(limit=3_600, remaining=499, resets_in=50)) is None
    assert not made.enter()


def test_reordered_responses_restore_nothing() -> None:
    """Within a window the least that was told counts; a new window begins anew."""
    made = calls(burst=100)
    for _ in range(4):
        made.enter()
    made.leave(RateLimitInfo(limit=3_600, remaining=721, resets_in=50))
    made.leave(RateLimitInfo(limit=3_600, remaining=3_000, resets_in=51))
    assert not made.enter()
    made.now = 51.0
    assert made.enter()
    for _ in range(3):
        made.leave(RateLimitInfo(limit=3_600, remaining=3_599, resets_in=3_600))
    assert made.enter()


def test_reserve_without_reset_pauses_one_minute() -> None:
    """Where Braze does not tell when its window ends, it is asked again after a minute, by one call."""
    made = calls(burst=100)
    made.enter()
    assert made.leave(RateLimitInfo(limit=3_600, remaining=0)) == 60
    made.now = 60.0
    assert made.enter()
    assert not made.enter()


def test_rate_limit_without_reset_doubles_pause() -> None:
    """60 seconds, doubling to 15 minutes; refusals that were under way together count as one, and an answer ends it."""
    made = calls(burst=100)
    made.enter()
    made.enter()
    stops = [made.leave(RateLimitInfo(is_rate_limited=True))]
    assert made.leave(RateLimitInfo(is_rate_limited=True)) is None
    for _ in range(5):
        made.now += stops[-1] or 0.0
        assert made.enter()
        assert not made.enter()
        stops.append(made.leave(RateLimitInfo(is_rate_limited=True)))
    assert stops == [60, 120, 240, 480, 900, 900]
    made.now += 900
    assert made.enter()
    made.leave()
    made.enter()
    assert made.leave(RateLimitInfo(is_rate_limited=True)) == 60


@pytest.mark.parametrize(("resets_in", "stop"), [(1_200.0, 1_200), (-5.0, 60), (0.0, 60), (9_999.0, 60), (None, 60)])
def test_rate_limit_pauses_until_valid_reset(resets_in: float | None, stop: float) -> None:
    """A reset in the past or beyond the window is none."""
    made = calls()
    made.enter()
    assert made.leave(RateLimitInfo(remaining=0, resets_in=resets_in, is_rate_limited=True)) == stop


def test_first_call_is_probe() -> None:
    """Nothing is known of a pool at first, so the others wait for the end of one call, however it ends."""
    made = calls(tried=False)
    assert made.enter()
    assert made.limiter.decide(made.now) is Decision.WAIT
    made.leave()
    assert made.limiter.decide(made.now) is Decision.ALLOW


def test_changed_budget_keeps_spent_calls() -> None:
    """With a larger burst nothing is granted at once; with a smaller one no more than that is left."""
    made = calls(burst=5)
    for _ in range(5):
        made.enter()
    made.limiter.update(share=0.5, reserve=0.2, burst=50, now=0.0)
    assert not made.enter()
    made.now = 4.0
    assert [made.enter() for _ in range(3)] == [True, True, False]
    made.now = 1_000.0
    made.limiter.update(share=0.5, reserve=0.2, burst=1, now=1_000.0)
    assert [made.enter() for _ in range(2)] == [True, False]


def test_circuit_open_for_longer_stays_open() -> None:
    """A shorter shutting does not open it sooner, and a trial that was not passed is followed by another."""
    gate = CircuitBreaker(is_probe=False)
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
    """What a trial found out is not true of what came after it had begun."""
    gate = CircuitBreaker(is_probe=True)
    trial = gate.acquire()
    gate.open(50.0)
    gate.release(trial, succeeded=True)
    assert gate.acquire().is_probe


def test_late_response_of_previous_window_restores_nothing() -> None:
    """What was left a moment before the window ended says nothing of the one that has begun."""
    made = calls(burst=100)
    for _ in range(4):
        made.enter()
    made.leave(RateLimitInfo(limit=3_600, remaining=3_000, resets_in=5))
    made.now = 6.0
    made.leave(RateLimitInfo(limit=3_600, remaining=723, resets_in=3_594))
    made.leave(RateLimitInfo(limit=3_600, remaining=2_999, resets_in=4))
    assert made.enter()
    assert not made.enter()  # one is under way still: two more would leave 720


def test_new_window_starts_with_known_limit() -> None:
    """Before the first answer of a window, no more goes than the limit leaves."""
    made = calls(burst=100, reserve=0.5)
    made.enter()
    made.leave(RateLimitInfo(limit=6, remaining=5, resets_in=10))
    made.now = 11.0
    assert [made.enter() for _ in range(4)] == [True, True, True, False]


def test_raised_limit_applies_at_once() -> None:
    """What is left under a new limit is what Braze says of it, and not what the old one left."""
    made = calls(burst=100)
    for _ in range(2):
        made.enter()
    made.leave(RateLimitInfo(limit=1_000, remaining=900, resets_in=3_000))
    made.leave(RateLimitInfo(limit=250_000, remaining=249_800, resets_in=3_000))
    assert made.enter()


def test_changed_reserve_applies_at_once() -> None:
    """A reserve that was lowered lets one call go at once, and the others after it; a 429 still holds."""
    made = calls(burst=100, reserve=0.5)
    made.enter()
    made.leave(RateLimitInfo(limit=3_600, remaining=1_500, resets_in=3_000))
    assert not made.enter()
    made.limiter.update(share=0.1, reserve=0.1, burst=100, now=0.0)
    assert made.enter()
    assert made.limiter.decide(0.0) is Decision.WAIT
    made.leave(RateLimitInfo(limit=3_600, remaining=1_499, resets_in=3_000))
    assert made.enter()
    made.leave(RateLimitInfo(is_rate_limited=True, resets_in=3_000))
    made.limiter.update(share=0.1, reserve=0.0, burst=100, now=0.0)
    assert not made.enter()


def test_failed_probe_is_followed_by_another() -> None:
    """While Braze is in trouble calls go one by one; the doubling of blind stops is not forgotten for it."""
    made = calls(burst=100, tried=False)
    for _ in range(3):
        assert made.enter()
        assert not made.enter()
        made.leave(RateLimitInfo())
    assert made.enter()
    assert made.leave(RateLimitInfo(is_rate_limited=True)) == 60
    made.now = 60.0
    made.enter()
    made.leave(RateLimitInfo())
    made.enter()
    assert made.leave(RateLimitInfo(is_rate_limited=True)) == 120


rate_limit_info = st.builds(
    RateLimitInfo,
    limit=st.just(3_600.0),
    remaining=st.one_of(st.none(), st.floats(0, 3_600)),
    resets_in=st.one_of(st.none(), st.floats(-10, 4_000)),
    is_rate_limited=st.booleans(),
    has_response=st.booleans(),
)
steps = st.lists(st.one_of(st.floats(0, 500), st.just("enter"), rate_limit_info), max_size=200)


def assert_pause_is_exact(made: Calls) -> None:
    """Hold it to that a limiter tells of a rest if and only if there is one, and its end."""
    pause = made.limiter.pause(made.now)
    assert (pause is not None) == (made.limiter.decide(made.now) is Decision.DENY)
    if pause is not None:
        assert made.limiter.decide(made.now + pause.seconds + 1e-3) is not Decision.DENY
        assert made.limiter.decide(made.now + pause.seconds - 1e-3) is Decision.DENY or pause.seconds < 1e-3


@given(steps, st.floats(0.01, 1), st.floats(0, 0.9), st.integers(1, 20))
def test_any_time_span_grants_at_most_share(
    made_of: list[float | str | RateLimitInfo], share: float, reserve: float, burst: int
) -> None:
    """Whatever happens, between any two calls there are at most the share of that span and one burst."""
    made = calls(share=share, reserve=reserve, burst=burst, tried=False)
    alone = 0
    for step in made_of:
        if isinstance(step, RateLimitInfo):
            if made.under_way:
                made.leave(step)
        elif isinstance(step, float):
            made.now += step
        elif made.enter():
            alone = max(alone, sum(entered.is_probe for entered in made.under_way))
        assert_pause_is_exact(made)
    assert alone <= 1
    for first, start in enumerate(made.granted):
        for last, end in enumerate(made.granted[first:], first):
            assert last - first + 1 <= burst + share * (end - start) + 1e-6
