"""Search for a sequence of events, faults and restarts after which a page is wrong.

By default it tries the same few sequences each time. `ACCURACY_EXAMPLES=2000 pytest tests/test_machine.py` tries that
many new sequences, with more steps.
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
from accuracy_run import DAYS_REFRESH_SECONDS, QUERIES, AccuracyRun
from braze_variants import HourFormat
from fault_injection import Fault
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support import HOUR

MINUTE = 60
EXAMPLES = int(os.environ.get("ACCURACY_EXAMPLES", "0"))

# An ordinary Monday, and times shortly before the clocks of New York change.
STARTS = [
    datetime(2026, 11, 23, 12, 20, tzinfo=UTC),
    datetime(2026, 11, 1, 4, 10, tzinfo=UTC),
    datetime(2026, 11, 1, 3, 59, 58, tzinfo=UTC),
    datetime(2026, 3, 8, 6, 40, tzinfo=UTC),
]
# Most pauses are short. Some are long enough to make values stale, or to exceed the history that Braze returns.
PAUSES = st.one_of(
    st.integers(1, 59).map(lambda minutes: minutes * MINUTE),
    st.integers(1, 30).map(lambda hours: hours * HOUR),
    st.integers(31, 130).map(lambda hours: hours * HOUR),
)
# The age of an hour: the current one, recent ones, and some more than a hundred hours old.
HOURS_BACK = st.one_of(st.integers(0, 3), st.integers(4, 30), st.integers(31, 120))
# The time from a change to the next scrape, or None for no scrape.
SCRAPE_DELAYS = st.sampled_from([15 * MINUTE, HOUR, None])


def keep_newest_rows(content: dict[str, Any]) -> None:
    """Leave only the newest five hours or days in a response."""
    rows = content["data"]
    content["data"] = rows[-5:] if rows[0]["time"] < rows[-1]["time"] else rows[:5]


FAULTS = [
    response_faults.status(503),
    transfer_faults.disconnect(),
    response_faults.data([]),
    response_faults.edited(keep_newest_rows),
    response_faults.status(401),
    transfer_faults.truncated(),
    response_faults.html(),
    response_faults.queued(),
    response_faults.no_data(),
    response_faults.rate_limited(),
    response_faults.rate_limited("absent"),
    transfer_faults.gzipped(),
]
# Faults in the first responses of a counter.
FIRST_RESPONSE_FAULTS = st.sampled_from([None, response_faults.data([]), response_faults.edited(keep_newest_rows)])


class AccuracyMachine(RuleBasedStateMachine):
    """The rules are events in the life of an exporter. Each page is checked."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.model = EventModel()
        self.accuracy_run: AccuracyRun
        # The changed hours, with the newest change last.
        self.changed: list[tuple[str, int, str]] = []

    @initialize(start=st.sampled_from(STARTS), first=FIRST_RESPONSE_FAULTS, past=st.booleans())
    def begin(self, start: datetime, first: Fault | None, *, past: bool) -> None:
        """Start the exporter, with or without earlier occurrences, and do the first scrape."""
        now = start.timestamp()
        if past:
            for event in EVENTS:
                for back in range(1, 130):
                    hour = (int(now) // HOUR - back) * HOUR
                    self.model.add_occurrences(event, hour, hour, 3 + back % 5, SOURCES[back % 2])
        self.accuracy_run = AccuracyRun(self.model, now, Path(self.directory.name))
        self.scrape_with_fault(first)

    def scrape_with_fault(self, fault: Fault | None) -> None:
        """Do the first scrape with a fault in each of its responses, or do nothing without a fault."""
        if fault is not None:
            self.accuracy_run.braze.inject(fault, times=len(QUERIES))
            self.accuracy_run.scrape()
            self.accuracy_run.braze.clear_faults()

    def change_count(self, event: str, hour: int, source: str, change: Callable[[int], int]) -> None:
        """Change Braze's count of an hour, one second after all earlier steps."""
        self.accuracy_run.clock.advance(1)
        now = self.accuracy_run.clock.now
        self.model.add_occurrences(event, hour, now, change(self.model.count(event, hour, now, source)), source)
        self.changed.append((event, hour, source))

    def scrape_after(self, seconds: float | None) -> None:
        """Advance the clock and scrape, unless `seconds` is None."""
        if seconds is not None:
            self.accuracy_run.clock.advance(seconds)
            self.accuracy_run.scrape()

    @rule(seconds=PAUSES)
    def wait(self, seconds: float) -> None:
        """Advance the clock without a scrape."""
        self.accuracy_run.clock.advance(seconds)

    @rule(seconds=PAUSES)
    def scrape(self, seconds: float) -> None:
        """Advance the clock and scrape."""
        self.scrape_after(seconds)

    @rule(after=st.integers(-3, 1))
    def scrape_at_the_full_hour(self, after: int) -> None:
        """Scrape some seconds before or after the next hour begins."""
        self.scrape_after(-self.accuracy_run.clock.now % HOUR + HOUR + after)

    @rule(
        event=st.sampled_from(EVENTS),
        back=HOURS_BACK,
        source=st.sampled_from(SOURCES),
        count=st.integers(1, 20),
        delay=SCRAPE_DELAYS,
    )
    def add_occurrences(self, event: str, back: int, source: str, count: int, delay: float | None) -> None:
        """Add occurrences to Braze's counts, in time or late."""
        self.change_count(event, (int(self.accuracy_run.clock.now) // HOUR - back) * HOUR, source, lambda _count: count)
        self.scrape_after(delay)

    @rule(which=st.integers(0, 3), share=st.integers(1, 4), again=st.integers(0, 3), delay=SCRAPE_DELAYS)
    @precondition(lambda self: self.changed)
    def revise(self, which: int, share: int, again: int, delay: float | None) -> None:
        """Let Braze remove a part or all of an hour's count, and possibly add some again."""
        event, hour, source = self.changed[-1 - which % len(self.changed)]
        self.change_count(event, hour, source, lambda count: -math.ceil(count * share / 4))
        self.scrape_after(delay)
        if again:
            self.change_count(event, hour, source, lambda _count: again)
            self.scrape_after(delay)

    @rule(
        fault=st.sampled_from(FAULTS), event=st.sampled_from([None, *EVENTS]), delay=SCRAPE_DELAYS, lasts=st.booleans()
    )
    def inject_fault(self, fault: Fault, event: str | None, delay: float | None, *, lasts: bool) -> None:
        """Inject a fault, for one scrape or until the faults are cleared."""
        self.accuracy_run.braze.inject(fault, event=event)
        self.scrape_after(delay)
        if not lasts:
            self.accuracy_run.braze.clear_faults()

    @rule()
    def clear_faults(self) -> None:
        """Remove all faults."""
        self.accuracy_run.braze.clear_faults()

    @rule()
    def spend_the_limit(self) -> None:
        """Use up the rate limit of this hour with the company's own calls."""
        self.accuracy_run.braze.spend_calls(self.accuracy_run.braze.limit)

    @rule(is_full=st.booleans(), delay=SCRAPE_DELAYS)
    def fill_the_disk(self, *, is_full: bool, delay: float | None) -> None:
        """Make writes to the state file fail, or succeed again."""
        if is_full:
            self.accuracy_run.fill_disk()
        else:
            self.accuracy_run.free_disk()
        self.scrape_after(delay)

    @rule(latency=st.sampled_from([0.0, 4.0]))
    def change_latency(self, latency: float) -> None:
        """Let each response take some seconds, or no time."""
        self.accuracy_run.connection.latency = latency

    @rule(hour_format=st.sampled_from(HourFormat), newest_first=st.booleans())
    def change_format(self, hour_format: HourFormat, *, newest_first: bool) -> None:
        """Let Braze write its hours in another format."""
        self.accuracy_run.braze.hour_format, self.accuracy_run.braze.newest_first = hour_format, newest_first

    @rule()
    def disconnect_before_render(self) -> None:
        """Scrape and disconnect before the page is rendered."""
        self.accuracy_run.fetch_due()

    @rule(seconds=st.one_of(st.just(0), PAUSES), how=st.sampled_from(["ended", "killed"]))
    def restart(self, seconds: float, how: str) -> None:
        """Stop or kill the exporter, and start it again with its state."""
        self.accuracy_run.stop(how=how)
        self.accuracy_run.clock.advance(seconds)
        self.accuracy_run.start()

    @rule(first=FIRST_RESPONSE_FAULTS)
    def delete_state(self, first: Fault | None) -> None:
        """Start the exporter again without its state."""
        self.accuracy_run.stop(keep=False)
        self.accuracy_run.start()
        self.scrape_with_fault(first)

    @invariant()
    def page_is_accurate(self) -> None:
        """Check the page, but only if rendering it does not write pending responses."""
        if self.accuracy_run.can_check_page:
            self.accuracy_run.check_page()

    def teardown(self) -> None:
        """End with some hours without faults, after which all queries must succeed."""
        try:
            if hasattr(self, "accuracy_run"):
                with self.accuracy_run:
                    self.recover()
        finally:
            self.directory.cleanup()

    def recover(self) -> None:
        """Check that all queries succeed, and that all pages are correct, some time after the last fault."""
        self.accuracy_run.braze.clear_faults()
        self.accuracy_run.free_disk()
        self.accuracy_run.clock.advance(HOUR)
        for _ in range(5):
            self.accuracy_run.clock.advance(HOUR)
            self.accuracy_run.scrape()
        for query in QUERIES:
            assert self.accuracy_run.is_up(query)
            assert self.accuracy_run.age(query) <= DAYS_REFRESH_SECONDS


# Shrinking a failing sequence takes minutes.
pytestmark = [pytest.mark.timeout(0 if EXAMPLES else 600), pytest.mark.no_cover]

TestAccuracy = AccuracyMachine.TestCase
TestAccuracy.settings = settings(
    max_examples=EXAMPLES or 40,
    stateful_step_count=50 if EXAMPLES else 30,
    derandomize=not EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
