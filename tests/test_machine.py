"""A search for a sequence of events, faults and restarts after which a page is wrong.

It tries the same few sequences each time; `PROOF_EXAMPLES=2000 pytest tests/test_machine.py` tries as many new ones, of
more steps.
"""

import math
import os
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import response_faults
import transfer_faults
from accuracy_model import EVENTS, SOURCES, EventModel
from accuracy_run import DAYS_REFRESH, WATCHES, AccuracyRun
from fault_injection import Fault
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support import HOUR

from braze_exporter.simulator.times import HourFormat

MINUTE = 60
EXAMPLES = int(os.environ.get("ACCURACY_EXAMPLES", "0"))

# An ordinary Monday, and an hour or two before the clocks of New York change.
STARTS = [
    datetime(2026, 11, 23, 12, 20, tzinfo=UTC),
    datetime(2026, 11, 1, 4, 10, tzinfo=UTC),
    datetime(2026, 11, 1, 3, 59, 58, tzinfo=UTC),
    datetime(2026, 3, 8, 6, 40, tzinfo=UTC),
]
# Most pauses are short; some are long enough for answers to grow too old, and for Braze to forget.
PAUSES = st.one_of(
    st.integers(1, 59).map(lambda minutes: minutes * MINUTE),
    st.integers(1, 30).map(lambda hours: hours * HOUR),
    st.integers(31, 130).map(lambda hours: hours * HOUR),
)
# Which hour is meant: the one that runs, and some that are a day or more than a hundred hours old.
BACK = st.one_of(st.integers(0, 3), st.integers(4, 30), st.integers(31, 120))
# How long after a change a scrape follows, if one does.
SCRAPES = st.sampled_from([15 * MINUTE, HOUR, None])


def short(result: dict[str, Any]) -> None:
    """Leave the newest hours and days in an answer, whatever was asked for."""
    rows = result["data"]
    result["data"] = rows[-5:] if rows[0]["time"] < rows[-1]["time"] else rows[:5]


FAULTS = [
    response_faults.status(503),
    transfer_faults.disconnect(),
    response_faults.data([]),
    response_faults.edited(short),
    response_faults.status(401),
    transfer_faults.truncated(),
    response_faults.html(),
    response_faults.queued(),
    response_faults.no_data(),
    response_faults.rate_limited(),
    response_faults.rate_limited("absent"),
    transfer_faults.gzipped(),
]
# What may be wrong with the answers that a counter begins with.
FIRST = st.sampled_from([None, response_faults.data([]), response_faults.edited(short)])


class AccuracyMachine(RuleBasedStateMachine):
    """Every step is one that happens to an exporter in its life; every page is judged."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.world = EventModel()
        self.drive: AccuracyRun
        # The hours that were changed, the newest change last.
        self.changed: list[tuple[str, int, str]] = []

    @initialize(start=st.sampled_from(STARTS), first=FIRST, past=st.booleans())
    def begin(self, start: datetime, first: Fault | None, *, past: bool) -> None:
        """Start the exporter, with or without a past of the events, and have the first answers."""
        now = start.timestamp()
        if past:
            for event in EVENTS:
                for back in range(1, 130):
                    hour = (int(now) // HOUR - back) * HOUR
                    self.world.add_occurrences(event, hour, hour, 3 + back % 5, SOURCES[back % 2])
        self.drive = AccuracyRun(self.world, now, Path(self.directory.name))
        self.first_answers(first)

    def first_answers(self, fault: Fault | None) -> None:
        """Scrape for the first time, with a fault in each answer of this scrape."""
        if fault is not None:
            self.drive.braze.inject(fault, times=len(WATCHES))
            self.drive.scrape()
            self.drive.braze.clear_faults()

    def change(self, event: str, hour: int, source: str, change: Callable[[int], int]) -> None:
        """Let Braze change its count of an hour, a second after all that was before."""
        self.drive.clock.advance(1)
        now = self.drive.clock.now
        self.world.add_occurrences(event, hour, now, change(self.world.count(event, hour, now, source)), source)
        self.changed.append((event, hour, source))

    def scrape_after(self, seconds: float | None) -> None:
        """Let time pass, and scrape; or do not."""
        if seconds is not None:
            self.drive.clock.advance(seconds)
            self.drive.scrape()

    @rule(seconds=PAUSES)
    def wait(self, seconds: float) -> None:
        """Let time pass without a scrape."""
        self.drive.clock.advance(seconds)

    @rule(seconds=PAUSES)
    def scrape(self, seconds: float) -> None:
        """Let time pass, and scrape."""
        self.scrape_after(seconds)

    @rule(after=st.integers(-3, 1))
    def scrape_at_the_full_hour(self, after: int) -> None:
        """Scrape some seconds before or after the next hour begins."""
        self.scrape_after(-self.drive.clock.now % HOUR + HOUR + after)

    @rule(
        event=st.sampled_from(EVENTS),
        back=BACK,
        source=st.sampled_from(SOURCES),
        count=st.integers(1, 20),
        then=SCRAPES,
    )
    def add_occurrences(self, event: str, back: int, source: str, count: int, then: float | None) -> None:
        """Let Braze learn of events, in time or late."""
        self.change(event, (int(self.drive.clock.now) // HOUR - back) * HOUR, source, lambda _count: count)
        self.scrape_after(then)

    @rule(which=st.integers(0, 3), share=st.integers(1, 4), again=st.integers(0, 3), then=SCRAPES)
    @precondition(lambda self: self.changed)
    def revise(self, which: int, share: int, again: int, then: float | None) -> None:
        """Let Braze take back a part of an hour, or all of it; then it may find a part of that again, or more."""
        event, hour, source = self.changed[-1 - which % len(self.changed)]
        self.change(event, hour, source, lambda count: -math.ceil(count * share / 4))
        self.scrape_after(then)
        if again:
            self.change(event, hour, source, lambda _count: again)
            self.scrape_after(then)

    @rule(fault=st.sampled_from(FAULTS), event=st.sampled_from([None, *EVENTS]), then=SCRAPES, lasts=st.booleans())
    def inject_fault(self, fault: Fault, event: str | None, then: float | None, *, lasts: bool) -> None:
        """Let Braze answer wrongly or not at all, for a while or until it heals."""
        self.drive.braze.inject(fault, event=event)
        self.scrape_after(then)
        if not lasts:
            self.drive.braze.clear_faults()

    @rule()
    def clear_faults(self) -> None:
        """Let Braze answer as it should again."""
        self.drive.braze.clear_faults()

    @rule()
    def spend_the_limit(self) -> None:
        """Let the company's own sends use up the calls of this hour."""
        self.drive.braze.spend_calls(self.drive.braze.limit)

    @rule(is_full=st.booleans(), then=SCRAPES)
    def fill_the_disk(self, *, is_full: bool, then: float | None) -> None:
        """Let nothing be written to the state file, or let it be again."""
        if is_full:
            self.drive.fill_disk()
        else:
            self.drive.empty_disk()
        self.scrape_after(then)

    @rule(latency=st.sampled_from([0.0, 4.0]))
    def change_interval(self, latency: float) -> None:
        """Let answers take some seconds, or none."""
        self.drive.wire.latency = latency

    @rule(hour_format=st.sampled_from(HourFormat), newest_first=st.booleans())
    def change_format(self, hour_format: HourFormat, *, newest_first: bool) -> None:
        """Let Braze write its hours in another way."""
        self.drive.braze.hour_format, self.drive.braze.newest_first = hour_format, newest_first

    @rule()
    def ask(self) -> None:
        """Scrape, and be gone before the page is there."""
        self.drive.ask()

    @rule(seconds=st.one_of(st.just(0), PAUSES), how=st.sampled_from(["ended", "killed"]))
    def restart(self, seconds: float, how: str) -> None:
        """End the exporter, or have it killed, and start it again with its state."""
        self.drive.stop(how=how)
        self.drive.clock.advance(seconds)
        self.drive.start()

    @rule(first=FIRST)
    def delete_state(self, first: Fault | None) -> None:
        """Start the exporter anew, without its state."""
        self.drive.stop(keep=False)
        self.drive.start()
        self.first_answers(first)

    @invariant()
    def page_is_accurate(self) -> None:
        """Look at the page only if nothing is to be lost: to look is to write."""
        if self.drive.can_check_page:
            self.drive.check_page()

    def teardown(self) -> None:
        """End with some hours without faults, after which everything is answered."""
        try:
            if hasattr(self, "drive"):
                with self.drive:
                    self.recover()
        finally:
            self.directory.cleanup()

    def recover(self) -> None:
        """See everything answered, and every page right, some time after the last fault."""
        self.drive.braze.clear_faults()
        self.drive.empty_disk()
        self.drive.clock.advance(HOUR)
        for _ in range(5):
            self.drive.clock.advance(HOUR)
            self.drive.scrape()
        for watch in WATCHES:
            assert self.drive.is_up(watch)
            assert self.drive.age(watch) <= DAYS_REFRESH


# To make a failing sequence short takes minutes.
pytestmark = pytest.mark.timeout(0 if EXAMPLES else 600)

TestAccuracy = AccuracyMachine.TestCase
TestAccuracy.settings = settings(
    max_examples=EXAMPLES or 40,
    stateful_step_count=50 if EXAMPLES else 30,
    derandomize=not EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
