"""Test each page of the real exporter against the simulated Braze, over weeks of virtual time.

A long run is started by hand and exits with 1 at the first wrong page: `python tests/test_accuracy.py --weeks 52`.
"""

import argparse
import logging
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
import response_faults
import transfer_faults
from accuracy_model import EventModel, ExpectedQuery, make_history_generator
from accuracy_run import COUNTER_QUERIES, DAYS_REFRESH_SECONDS, AccuracyRun
from braze_variants import HourFormat
from fault_injection import Fault
from support import HOUR

from braze_exporter.braze.kinds import Unit

pytestmark = pytest.mark.no_cover

DAY = 24 * HOUR
WEEK = 7 * DAY
SCRAPE_INTERVAL_SECONDS = 900
# Scrapes are not aligned. Some come in the second before a full hour, so that Braze responds in the next hour.
SCRAPE_DELAYS_SECONDS = (0, 0, 0, 1, 2, 45)

# The clocks of New York change at these times, and so the days have 25 and 23 hours.
AUTUMN = datetime(2026, 11, 1, 6, tzinfo=UTC).timestamp()
SPRING = datetime(2026, 3, 8, 7, tzinfo=UTC).timestamp()

FAULTS = (
    response_faults.status(503),
    transfer_faults.disconnect(),
    response_faults.status(500, "Internal Server Error"),
    transfer_faults.truncated(),
    transfer_faults.disconnect(reset=False),
    response_faults.html(),
    response_faults.status(401),
    response_faults.queued(),
    response_faults.no_content(),
    response_faults.no_data(),
    response_faults.status(403),
)


@dataclass(frozen=True)
class Incident:
    """A condition from `begin` to `end`, which `on` starts and `off` ends. If `is_disruptive`, queries may fail."""

    begin: float
    end: float
    on: Callable[[AccuracyRun], None]
    off: Callable[[AccuracyRun], None]
    is_disruptive: bool = True


def outage(begin: float, seconds: float, fault: Fault, event: str | None = None) -> Incident:
    """Return an outage of all requests, or of those for one event."""
    return Incident(
        begin,
        begin + seconds,
        lambda accuracy_run: accuracy_run.braze.inject(fault, event=event),
        lambda accuracy_run: accuracy_run.braze.clear_faults(),
    )


def limit_spent(begin: float) -> Incident:
    """Return an incident: the company's own calls use up the rate limit of the hour."""
    return Incident(
        begin,
        (begin // HOUR + 1) * HOUR,
        lambda accuracy_run: accuracy_run.braze.spend_calls(accuracy_run.braze.limit),
        lambda _run: None,
    )


def restart(begin: float, seconds: float, how: str, *, keep: bool) -> Incident:
    """Return a stop of the exporter, which is started again after `seconds`.

    Before it is killed, it shows responses that the state file does not have.
    """

    def off(accuracy_run: AccuracyRun) -> None:
        if accuracy_run.is_running:
            if how == "killed":
                accuracy_run.fetch_due()
                accuracy_run.check_page(writes=False)
            accuracy_run.stop(how=how, keep=keep)

    def on(accuracy_run: AccuracyRun) -> None:
        if not accuracy_run.is_running:
            accuracy_run.start()

    return Incident(begin, begin + seconds, off, on)


def scrape_gap(begin: float, seconds: float) -> Incident:
    """Return a time without scrapes."""
    return Incident(
        begin,
        begin + seconds,
        lambda accuracy_run: setattr(accuracy_run, "is_scraped", False),
        lambda accuracy_run: setattr(accuracy_run, "is_scraped", True),
    )


def slow_responses(begin: float, seconds: float) -> Incident:
    """Return a time in which each response takes five seconds."""
    return Incident(
        begin,
        begin + seconds,
        lambda accuracy_run: setattr(accuracy_run.connection, "latency", 5.0),
        lambda accuracy_run: setattr(accuracy_run.connection, "latency", 0.0),
        is_disruptive=False,
    )


def format_change(begin: float, seconds: float, hour_format: HourFormat, *, newest_first: bool) -> Incident:
    """Return a change of the format in which Braze writes hours."""

    def change(accuracy_run: AccuracyRun) -> None:
        accuracy_run.braze.hour_format, accuracy_run.braze.newest_first = hour_format, newest_first

    return Incident(begin, begin + seconds, change, lambda _run: None, is_disruptive=False)


def incidents(seed: int, start: float, end: float, *, keep: bool, empty: bool) -> Iterator[Incident]:
    """Yield incidents one after another, each type once before any type repeats, all ended before `end`.

    An outage or a pause lasts at most a day: Braze responds with at most 100 hours, and a later response must still
    contain changes that are up to a day late. If `empty`, some incidents are an hour of empty responses.
    """
    draw = Random(seed)  # noqa: S311 - does not need to be secure
    lengths = (0.2 * HOUR, 0.9 * HOUR, 2.3 * HOUR, 7 * HOUR, 20 * HOUR)
    number, at = 0, start + 6 * HOUR

    def incident_makers() -> list[Callable[[float], Incident]]:
        fault = FAULTS[number % len(FAULTS)]
        again = FAULTS[(number + 1) % len(FAULTS)]
        return [
            lambda at: outage(at, draw.choice(lengths), fault),
            lambda at: outage(at, draw.choice(lengths), again),
            lambda at: outage(
                at, draw.choice(lengths), response_faults.status(503), draw.choice(["purchase", "signup"])
            ),
            lambda at: outage(
                at, draw.choice([0.5, 4]) * HOUR, response_faults.rate_limited(draw.choice(["absent", "garbled"]))
            ),
            limit_spent,
            lambda at: restart(at, draw.choice([0, *lengths]), "ended", keep=keep),
            lambda at: restart(at, draw.choice([0, *lengths]), "killed", keep=keep),
            lambda at: scrape_gap(at, draw.choice(lengths)),
            lambda at: slow_responses(at, 8 * HOUR),
            lambda at: outage(at, 5 * HOUR, transfer_faults.gzipped()),
            *([lambda at: outage(at, HOUR, response_faults.data([]))] if empty else []),
        ]

    while at < end:
        makers = incident_makers()
        draw.shuffle(makers)
        for make_incident in makers:
            incident = make_incident(at)
            at = incident.end + draw.choice([0.3, 3, 5, 9, 15]) * HOUR
            if incident.end < end:
                yield incident
        number += 2
    for begin in range(int(start), int(end), 31 * HOUR):
        yield format_change(begin, 0, draw.choice(list(HourFormat)), newest_first=draw.random() < 0.3)


def run(
    accuracy_run: AccuracyRun, start: float, end: float, script: list[Incident], progress: Callable[[float], None]
) -> None:
    """Scrape every 15 minutes through all incidents, and check that fetches succeed outside of them."""
    actions = sorted(
        [(incident.begin, number, incident.on) for number, incident in enumerate(script)]
        + [(incident.end, number, incident.off) for number, incident in enumerate(script)],
        key=lambda action: action[:2],
    )
    problems = [incident for incident in script if incident.is_disruptive]
    jitter = Random(len(script))  # noqa: S311 - does not need to be secure
    for tick in range(int(start), int(end), SCRAPE_INTERVAL_SECONDS):
        moment = tick + jitter.choice(SCRAPE_DELAYS_SECONDS)
        while actions and actions[0][0] <= moment:
            at, _, act = actions.pop(0)
            accuracy_run.clock.advance(max(0.0, at - accuracy_run.clock.now))
            act(accuracy_run)
        accuracy_run.clock.advance(max(0.0, moment - accuracy_run.clock.now))
        progress(moment)
        if not accuracy_run.is_running or not accuracy_run.is_scraped:
            continue
        accuracy_run.scrape()
        if not any(problem.begin <= moment and problem.end > moment - 2 * DAYS_REFRESH_SECONDS for problem in problems):
            for query in COUNTER_QUERIES:
                assert accuracy_run.is_up(query), f"{query} is down, long after any incident"
                assert accuracy_run.age(query) < (HOUR if query.unit is Unit.HOUR else DAYS_REFRESH_SECONDS + HOUR)


def expected_growth(accuracy_run: AccuracyRun, query: ExpectedQuery, *, length: int = 100) -> int:
    """Return the growth of a counter, by the event model, since the exporter last lost its state."""
    history = accuracy_run.counter_histories[query][-1]
    return accuracy_run.model.reported(query, history.times, history.oldest, length=length)


def report_nothing(_moment: float) -> None:
    """Report no progress."""


def test_every_page_over_four_weeks_and_dst_end_is_accurate(tmp_path: Path) -> None:
    """Through many incidents, all 2,688 pages are correct, and each counter ends at what Braze reported."""
    start, end = AUTUMN - 2 * WEEK - 1, AUTUMN + 2 * WEEK - 1
    script = [
        *incidents(1, start, AUTUMN - DAY, keep=True, empty=True),
        # The night of the change: hours without an offset, an outage across both passes of one o'clock, and a power
        # cut.
        format_change(AUTUMN - DAY, 0, HourFormat.ZONELESS, newest_first=False),
        outage(AUTUMN - 0.7 * HOUR, HOUR, response_faults.status(503)),
        restart(AUTUMN + 0.6 * HOUR, 0.3 * HOUR, "killed", keep=True),
        format_change(AUTUMN + DAY, 0, HourFormat.ZONELESS, newest_first=True),
        *incidents(2, AUTUMN + DAY, AUTUMN + 8 * DAY, keep=True, empty=True),
        outage(AUTUMN + 8 * DAY, 3.9 * DAY, transfer_faults.disconnect()),
        restart(AUTUMN + 12.1 * DAY, 1.4 * DAY, "killed", keep=True),
    ]
    with AccuracyRun(EventModel(make_history_generator(1, revisions=True)), start, tmp_path) as accuracy_run:
        run(accuracy_run, start, end, script, report_nothing)
        for query in COUNTER_QUERIES:
            (history,) = accuracy_run.counter_histories[query]
            assert history.last_total == expected_growth(accuracy_run, query) > 10_000
            assert max(after - before for before, after in pairwise(history.times)) > 3.8 * DAY
        assert {"200", "429", "500", "503", "none"} <= accuracy_run.calls.keys()
        assert accuracy_run.restarts.keys() == {"ended, state kept", "killed, state kept"}
        assert accuracy_run.lost_responses > 5


def test_every_event_is_counted_across_dst_start(tmp_path: Path) -> None:
    """If Braze revises nothing, a counter with state ends at the number of occurrences up to the last response."""
    start, end = SPRING - 3 * DAY - 1, SPRING + 4 * DAY - 1
    script = [
        *incidents(3, start, end - 6 * HOUR, keep=True, empty=True),
        format_change(SPRING - DAY, 0, HourFormat.ZONELESS, newest_first=False),
    ]
    with AccuracyRun(EventModel(make_history_generator(2, revisions=False)), start, tmp_path) as accuracy_run:
        run(accuracy_run, start, end, script, report_nothing)
        for query in COUNTER_QUERIES:
            (history,) = accuracy_run.counter_histories[query]
            assert history.last_total == expected_growth(accuracy_run, query)
            assert (
                history.last_total == accuracy_run.model.occurrences(query, history.times[0], history.times[-1]) > 1_000
            )


def test_counts_during_downtime_without_state_are_missing() -> None:
    """Without state, a counter misses only the occurrences between the last response before a restart and the next."""
    start, end = AUTUMN - 3 * DAY - 1, AUTUMN + 4 * DAY - 1
    script = list(incidents(4, start, end - 6 * HOUR, keep=False, empty=False))
    with AccuracyRun(EventModel(make_history_generator(3, revisions=False)), start, None) as accuracy_run:
        run(accuracy_run, start, end, script, report_nothing)
        for query in COUNTER_QUERIES:
            histories = accuracy_run.counter_histories[query]
            assert len(histories) > 2
            occurred = accuracy_run.model.occurrences(query, histories[0].times[0], histories[-1].times[-1])
            while_down = [
                accuracy_run.model.occurrences(query, before.times[-1], after.times[0])
                for before, after in pairwise(histories)
            ]
            assert sum(history.last_total for history in histories) == occurred - sum(while_down)
            print(f"{query.event} {query.unit} {query.app_id}: {occurred} occurrences, {while_down} during downtimes")


def main() -> int:
    """Run the accuracy test for the given number of weeks, print the counts, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weeks", type=int, default=52)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", type=datetime.fromisoformat, default=datetime(2026, 10, 4, 23, 59, 59, tzinfo=UTC))
    options = parser.parse_args()
    logging.disable(logging.ERROR)  # all injected faults would be logged
    start = options.start.timestamp()
    end = start + options.weeks * WEEK
    script: list[Incident] = []
    for month in range(int(start), int(end), int(4 * WEEK)):
        long_outage_at = month + 3.4 * WEEK
        script += incidents(
            1_000 * options.seed + int(month - start) // WEEK,
            month,
            min(long_outage_at, end - DAY),
            keep=True,
            empty=True,
        )
        if long_outage_at + 4 * DAY < end:
            script.append(outage(long_outage_at, 3.9 * DAY, response_faults.status(503)))
    shown = 0

    def progress(moment: float) -> None:
        nonlocal shown
        weeks = int((moment - start) // WEEK)
        if weeks > shown:
            shown = weeks
            print(f"week {weeks} of {options.weeks}", file=sys.stderr, flush=True)

    with (
        tempfile.TemporaryDirectory() as directory,
        AccuracyRun(
            EventModel(make_history_generator(options.seed, revisions=True)), start, Path(directory)
        ) as accuracy_run,
    ):
        run(accuracy_run, start, end, script, progress)
        print(
            f"{accuracy_run.scrapes} pages, all correct; calls by status {accuracy_run.calls}; restarts "
            f"{accuracy_run.restarts}"
        )
        is_equal = True
        for query in COUNTER_QUERIES:
            counted, reported = (
                accuracy_run.counter_histories[query][-1].last_total,
                expected_growth(accuracy_run, query),
            )
            unreported = expected_growth(accuracy_run, query, length=10**6) - reported
            is_equal &= counted == reported
            name = f"{query.event} per {query.unit}{', of an app' if query.app_id else ''}"
            print(f"{name}: counted {counted:g}, reported {reported}, {unreported} more outside the 100 newest buckets")
    return 0 if is_equal else 1


if __name__ == "__main__":
    sys.exit(main())
