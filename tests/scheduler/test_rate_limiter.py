"""The budget of a pool, as pure arithmetic: what it grants in any span, and what it leaves to others."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from braze_exporter.braze.calls import Told
from braze_exporter.braze.pools import Pool
from braze_exporter.scheduler.rate_limiter import Entered, Gate, Limiter, Passage

POOL = Pool("default", limit=3_600, window=3_600)


@dataclass
class Calls:
    """A limiter and the calls that it has granted, on a clock that the test moves."""

    limiter: Limiter
    now: float = 0.0
    granted: list[float] = field(default_factory=list)
    under_way: list[Entered] = field(default_factory=list)

    def enter(self) -> bool:
        """Make a call if that may be, and return whether it was made."""
        if self.limiter.passage(self.now) is not Passage.OPEN:
            return False
        self.under_way.append(self.limiter.enter(self.now))
        self.granted.append(self.now)
        return True

    def leave(self, told: Told | None = None) -> float | None:
        """End the call that has been under way longest."""
        return self.limiter.leave(told or Told(answered=True), self.under_way.pop(0), self.now)


def calls(*, share: float = 0.1, reserve: float = 0.2, burst: int = 5, tried: bool = True) -> Calls:
    """Return a limiter of a call a second, whose first call, which goes alone, is over and given back if `tried`."""
    made = Calls(Limiter(POOL, share=share, reserve=reserve, burst=burst, now=-1_000.0), now=-1_000.0)
    if tried:
        made.enter()
        made.leave()
    made.now, made.granted = 0.0, []
    return made


def test_a_burst_and_then_the_share() -> None:
    """Five calls go at once, and then one every ten seconds, a tenth of Braze's one a second."""
    made = calls()
    assert [made.enter() for _ in range(6)] == [True] * 5 + [False]
    for second in range(1, 101):
        made.now = float(second)
        made.enter()
    assert made.granted == [0.0] * 5 + [10.0 * number for number in range(1, 11)]


def test_what_was_not_used_is_not_saved_up() -> None:
    """After a day without a call no more than the burst goes."""
    made = calls()
    made.now = 86_400.0
    assert [made.enter() for _ in range(6)] == [True] * 5 + [False]


def test_a_limit_that_braze_tells_counts() -> None:
    """A limit that shrank to a tenth makes it ten times slower; nonsense is no limit."""
    made = calls(burst=1)
    made.enter()
    made.leave(Told(limit=360))
    for told, at in ((None, 99.0), (0.0, 99.5)):
        made.now = at
        made.limiter.leave(Told(limit=told), Entered(on_trial=False, shuts=0), at)
        assert not made.enter()
    made.now = 100.0
    assert made.enter()


@pytest.mark.parametrize("under_way", [0, 3])
def test_the_reserve_is_left_alone(under_way: int) -> None:
    """Of a limit of 3,600 with a fifth in reserve, the call that would leave less than 720 is not made."""
    made = calls(burst=100)
    for _ in range(under_way + 1):
        made.enter()
    assert made.leave(Told(limit=3_600, remaining=722 + under_way, resets_in=50)) is None
    assert made.enter()
    assert made.enter()
    assert not made.enter()
    made.now = 49.9
    assert not made.enter()
    made.now = 50.0
    assert made.enter()
    assert not made.enter()  # it goes alone


def test_the_reserve_counts_whoever_spent_it() -> None:
    """What others spend shows in the next answer, and stops it until the window ends, which is news once."""
    made = calls(burst=100)
    for _ in range(3):
        made.enter()
    assert made.leave(Told(limit=3_600, remaining=500, resets_in=50)) == 50
    assert made.leave(Told(limit=3_600, remaining=499, resets_in=50)) is None
    assert not made.enter()


def test_answers_that_come_in_another_order_give_nothing_back() -> None:
    """Within a window the least that was told counts; a new window begins anew."""
    made = calls(burst=100)
    for _ in range(4):
        made.enter()
    made.leave(Told(limit=3_600, remaining=721, resets_in=50))
    made.leave(Told(limit=3_600, remaining=3_000, resets_in=51))
    assert not made.enter()
    made.now = 51.0
    assert made.enter()
    for _ in range(3):
        made.leave(Told(limit=3_600, remaining=3_599, resets_in=3_600))
    assert made.enter()


def test_a_reserve_without_a_reset_stops_for_a_minute() -> None:
    """Where Braze does not tell when its window ends, it is asked again after a minute, by one call."""
    made = calls(burst=100)
    made.enter()
    assert made.leave(Told(limit=3_600, remaining=0)) == 60
    made.now = 60.0
    assert made.enter()
    assert not made.enter()


def test_refusals_without_a_reset_stop_for_longer_each_time() -> None:
    """60 seconds, doubling to 15 minutes; refusals that were under way together count as one, and an answer ends it."""
    made = calls(burst=100)
    made.enter()
    made.enter()
    stops = [made.leave(Told(refused=True))]
    assert made.leave(Told(refused=True)) is None
    for _ in range(5):
        made.now += stops[-1] or 0.0
        assert made.enter()
        assert not made.enter()
        stops.append(made.leave(Told(refused=True)))
    assert stops == [60, 120, 240, 480, 900, 900]
    made.now += 900
    assert made.enter()
    made.leave()
    made.enter()
    assert made.leave(Told(refused=True)) == 60


@pytest.mark.parametrize(("resets_in", "stop"), [(1_200.0, 1_200), (-5.0, 60), (0.0, 60), (9_999.0, 60), (None, 60)])
def test_a_refusal_stops_until_the_reset_if_it_is_one(resets_in: float | None, stop: float) -> None:
    """A reset in the past or beyond the window is none."""
    made = calls()
    made.enter()
    assert made.leave(Told(remaining=0, resets_in=resets_in, refused=True)) == stop


def test_the_first_call_goes_alone() -> None:
    """Nothing is known of a pool at first, so the others wait for the end of one call, however it ends."""
    made = calls(tried=False)
    assert made.enter()
    assert made.limiter.passage(made.now) is Passage.BUSY
    made.leave()
    assert made.limiter.passage(made.now) is Passage.OPEN


def test_another_budget_takes_nothing_back() -> None:
    """With a larger burst nothing is granted at once; with a smaller one no more than that is left."""
    made = calls(burst=5)
    for _ in range(5):
        made.enter()
    made.limiter.change(share=0.5, reserve=0.2, burst=50, now=0.0)
    assert not made.enter()
    made.now = 4.0
    assert [made.enter() for _ in range(3)] == [True, True, False]
    made.now = 1_000.0
    made.limiter.change(share=0.5, reserve=0.2, burst=1, now=1_000.0)
    assert [made.enter() for _ in range(2)] == [True, False]


def test_a_gate_that_is_shut_for_long_stays_so() -> None:
    """A shorter shutting does not open it sooner, and a trial that was not passed is followed by another."""
    gate = Gate(on_trial=False)
    gate.shut(100.0)
    gate.shut(50.0)
    assert gate.passage(99.0) is Passage.SHUT
    first = gate.enter()
    assert first.on_trial
    assert gate.passage(100.0) is Passage.BUSY
    gate.leave(first, passed=False)
    second = gate.enter()
    assert second.on_trial
    gate.leave(second, passed=True)
    assert not gate.enter().on_trial


def test_a_gate_that_is_shut_during_a_trial_wants_another_one() -> None:
    """What a trial found out is not true of what came after it had begun."""
    gate = Gate(on_trial=True)
    trial = gate.enter()
    gate.shut(50.0)
    gate.leave(trial, passed=True)
    assert gate.enter().on_trial


def test_a_late_answer_of_the_window_before_gives_nothing_back() -> None:
    """What was left a moment before the window ended says nothing of the one that has begun."""
    made = calls(burst=100)
    for _ in range(4):
        made.enter()
    made.leave(Told(limit=3_600, remaining=3_000, resets_in=5))
    made.now = 6.0
    made.leave(Told(limit=3_600, remaining=723, resets_in=3_594))
    made.leave(Told(limit=3_600, remaining=2_999, resets_in=4))
    assert made.enter()
    assert not made.enter()  # one is under way still: two more would leave 720


def test_a_new_window_begins_with_the_known_limit() -> None:
    """Before the first answer of a window, no more goes than the limit leaves."""
    made = calls(burst=100, reserve=0.5)
    made.enter()
    made.leave(Told(limit=6, remaining=5, resets_in=10))
    made.now = 11.0
    assert [made.enter() for _ in range(4)] == [True, True, True, False]


def test_a_limit_that_grows_within_a_window_counts_at_once() -> None:
    """What is left under a new limit is what Braze says of it, and not what the old one left."""
    made = calls(burst=100)
    for _ in range(2):
        made.enter()
    made.leave(Told(limit=1_000, remaining=900, resets_in=3_000))
    made.leave(Told(limit=250_000, remaining=249_800, resets_in=3_000))
    assert made.enter()


def test_another_reserve_counts_at_once() -> None:
    """A reserve that was lowered lets one call go at once, and the others after it; a 429 still holds."""
    made = calls(burst=100, reserve=0.5)
    made.enter()
    made.leave(Told(limit=3_600, remaining=1_500, resets_in=3_000))
    assert not made.enter()
    made.limiter.change(share=0.1, reserve=0.1, burst=100, now=0.0)
    assert made.enter()
    assert made.limiter.passage(0.0) is Passage.BUSY
    made.leave(Told(limit=3_600, remaining=1_499, resets_in=3_000))
    assert made.enter()
    made.leave(Told(refused=True, resets_in=3_000))
    made.limiter.change(share=0.1, reserve=0.0, burst=100, now=0.0)
    assert not made.enter()


def test_a_trial_that_is_not_answered_is_followed_by_another() -> None:
    """While Braze is in trouble calls go one by one; the doubling of blind stops is not forgotten for it."""
    made = calls(burst=100, tried=False)
    for _ in range(3):
        assert made.enter()
        assert not made.enter()
        made.leave(Told())
    assert made.enter()
    assert made.leave(Told(refused=True)) == 60
    made.now = 60.0
    made.enter()
    made.leave(Told())
    made.enter()
    assert made.leave(Told(refused=True)) == 120


told = st.builds(
    Told,
    limit=st.just(3_600.0),
    remaining=st.one_of(st.none(), st.floats(0, 3_600)),
    resets_in=st.one_of(st.none(), st.floats(-10, 4_000)),
    refused=st.booleans(),
    answered=st.booleans(),
)
steps = st.lists(st.one_of(st.floats(0, 500), st.just("enter"), told), max_size=200)


def assert_rest_is_true(made: Calls) -> None:
    """Hold it to that a limiter tells of a rest if and only if there is one, and its end."""
    rest = made.limiter.rest(made.now)
    assert (rest is not None) == (made.limiter.passage(made.now) is Passage.SHUT)
    if rest is not None:
        assert made.limiter.passage(made.now + rest.seconds + 1e-3) is not Passage.SHUT
        assert made.limiter.passage(made.now + rest.seconds - 1e-3) is Passage.SHUT or rest.seconds < 1e-3


@given(steps, st.floats(0.01, 1), st.floats(0, 0.9), st.integers(1, 20))
def test_no_span_holds_more_than_its_share(
    made_of: list[float | str | Told], share: float, reserve: float, burst: int
) -> None:
    """Whatever happens, between any two calls there are at most the share of that span and one burst."""
    made = calls(share=share, reserve=reserve, burst=burst, tried=False)
    alone = 0
    for step in made_of:
        if isinstance(step, Told):
            if made.under_way:
                made.leave(step)
        elif isinstance(step, float):
            made.now += step
        elif made.enter():
            alone = max(alone, sum(entered.on_trial for entered in made.under_way))
        assert_rest_is_true(made)
    assert alone <= 1
    for first, start in enumerate(made.granted):
        for last, end in enumerate(made.granted[first:], first):
            assert last - first + 1 <= burst + share * (end - start) + 1e-6
