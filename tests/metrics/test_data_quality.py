"""What answers say about Braze itself, and about our clock: said once, and only where it is sure."""

import logging
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
import response_faults
from recorded_counts import Recorded
from support import HOUR, NEW_YORK, NOW, THIS_HOUR, Clock, rig

from braze_exporter.braze.buckets import bucket_number
from braze_exporter.braze.kinds import CUSTOM_EVENTS, MAX_LENGTH, Unit
from braze_exporter.braze.query import Query
from braze_exporter.braze.series import Point, Series
from braze_exporter.metrics.data_quality import revision_ages, timezone_mismatch
from braze_exporter.scheduler.plan import length
from braze_exporter.scheduler.query_state import Answer

PURCHASES = Query("production", CUSTOM_EVENTS, Unit.HOUR, "purchase", refresh=300)
DAYS = Query("production", CUSTOM_EVENTS, Unit.DAY, "purchase", refresh=900, zone=NEW_YORK)


def answer(sent_at: float, *points: tuple[int, float]) -> Answer:
    """Return an answer with one series."""
    return Answer((Series(CUSTOM_EVENTS.noun, tuple(Point(*point) for point in points)),), sent_at, sent_at, 0.0)


def test_a_change_after_the_end_is_a_revision() -> None:
    """Up or down, of a bucket that had ended when it was asked for before: its age is counted from its end."""
    before = answer(NOW, (THIS_HOUR - 2 * HOUR, 5.0), (THIS_HOUR - HOUR, 7.0), (THIS_HOUR, 1.0))
    now = answer(NOW + 300, (THIS_HOUR - 2 * HOUR, 4.0), (THIS_HOUR - HOUR, 8.0), (THIS_HOUR, 3.0))
    since_the_hour = NOW + 300 - THIS_HOUR
    assert list(revision_ages(PURCHASES, before, now)) == [since_the_hour + HOUR, since_the_hour]


def test_growth_until_the_end_is_no_revision() -> None:
    """What changed from before its end to after it may have changed before it."""
    end = THIS_HOUR + HOUR
    before, now = answer(end - 10, (THIS_HOUR, 5.0)), answer(end + 290, (THIS_HOUR, 9.0), (end, 0.0))
    assert list(revision_ages(PURCHASES, before, now)) == []


def test_a_bucket_that_is_new_or_gone_is_no_revision() -> None:
    """Only what was told twice can be compared."""
    before, now = answer(NOW, (THIS_HOUR - HOUR, 5.0)), answer(NOW + 300, (THIS_HOUR - 2 * HOUR, 5.0))
    assert list(revision_ages(PURCHASES, before, now)) == []


@pytest.mark.parametrize(("pause", "expected"), [(599, 1), (600, 0), (86_400, 0)])
def test_after_a_pause_nothing_is_said(pause: int, expected: int) -> None:
    """Two refreshes or more later nobody knows when it changed."""
    before, now = answer(NOW, (THIS_HOUR - HOUR, 5.0)), answer(NOW + pause, (THIS_HOUR - HOUR, 6.0))
    assert len(list(revision_ages(PURCHASES, before, now))) == expected


def test_revisions_reach_the_page() -> None:
    """A late arrival is one observation, with its age; a second fetch without a change is none."""
    recorded = Recorded(events=["purchase"])
    recorded.set("purchase", THIS_HOUR - HOUR, 5)
    with rig("{event: purchase}", recorded) as exporter:
        exporter.scrape()
        recorded.set("purchase", THIS_HOUR - HOUR, 6)
        exporter.clock.advance(300)
        exporter.scrape()
        exporter.clock.advance(300)
        page = exporter.scrape()
    assert page.value("braze_revision_age_seconds_count") == 1
    assert page.value("braze_revision_age_seconds_sum") == NOW + 300 - THIS_HOUR


def local(day: int, hour: int, minute: int = 0) -> datetime:
    """Return a local time in November."""
    return datetime(2026, 11, day, hour, minute, tzinfo=NEW_YORK)


@pytest.mark.parametrize(
    ("asked", "newest", "expected"),
    [
        (local(23, 12), local(23, 0), False),
        (local(23, 12), local(22, 0), True),
        (local(23, 12), local(24, 0), True),
        (local(23, 12), local(20, 0), None),
        (local(23, 0, 20), local(22, 0), None),
        (local(23, 23, 40), local(24, 0), None),
        (local(23, 0, 31), local(22, 0), True),
    ],
)
def test_the_newest_day_tells_the_zone(asked: datetime, newest: datetime, expected: bool | None) -> None:  # noqa: FBT001
    """Yesterday or tomorrow is a wrong zone, today the right one; near midnight, or days behind, nothing is said."""
    found = answer(asked.timestamp(), (int(newest.timestamp()), 1.0))
    assert timezone_mismatch(DAYS, found) is expected


def test_hours_and_empty_answers_tell_nothing_of_the_zone() -> None:
    """Only days show where they begin."""
    assert timezone_mismatch(PURCHASES, answer(NOW, (THIS_HOUR - 24 * HOUR, 1.0))) is None
    assert timezone_mismatch(DAYS, answer(NOW)) is None


@pytest.mark.parametrize(("zone", "expected"), [("America/New_York", 0), ("Pacific/Auckland", 1)])
def test_a_wrong_timezone_reaches_the_page(zone: str, expected: float) -> None:
    """With Braze's days in another zone than the config says, the workspace is marked."""
    with rig("{event: purchase, unit: day}", Recorded(events=["purchase"])) as exporter:
        exporter.braze.zone = ZoneInfo(zone)
        page = exporter.scrape()
    assert page.value("braze_workspace_timezone_mismatch") == expected


def test_a_clock_that_is_off_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """More than a minute off Braze's clock is a warning, its end a word, and what is within is silent."""
    caplog.set_level(logging.INFO, logger="braze_exporter")
    with rig("{event: a}\n{event: b}", Recorded(events=["a", "b"])) as exporter:
        for offset in (60, 61, 61, -300, 0, 0):
            exporter.braze.clock = lambda offset=offset: exporter.clock.now + offset  # type: ignore[misc] # bound now
            exporter.scrape()
            exporter.clock.advance(300)
    assert [entry.getMessage() for entry in caplog.records] == [
        "our clock and Braze's differ: buckets settle too early or late",
        "our clock and Braze's agree again",
    ]
    assert caplog.records[0].__dict__["fields"] == {"workspace": "production", "braze_is_ahead_by_seconds": 61}


@pytest.mark.parametrize("ahead", [65 * 60, 5 * HOUR])
def test_with_our_clock_ahead_nothing_settles_too_early(ahead: int) -> None:
    """Braze's clock rules: what ended a quarter of an hour ago is not settled because our clock is wrong."""
    recorded = Recorded(events=["purchase"])
    with rig("{event: purchase}", recorded, clock=Clock(NOW + ahead)) as exporter:
        exporter.braze.clock = lambda: exporter.clock.now - ahead
        page = exporter.scrape()
    assert page.value("braze_custom_events_hourly_settled_bucket_start_timestamp_seconds") == THIS_HOUR - 2 * HOUR


@pytest.mark.parametrize(
    ("unit", "since", "expected"),
    [
        (Unit.HOUR, None, 24),
        (Unit.HOUR, 300, 24),
        (Unit.HOUR, 3_599, 24),
        (Unit.HOUR, 3_600, 25),
        (Unit.HOUR, 30 * HOUR, 54),
        (Unit.HOUR, 76 * HOUR, 100),
        (Unit.HOUR, 1_000 * HOUR, MAX_LENGTH),
        (Unit.HOUR, -50 * HOUR, 24),
        (Unit.DAY, 3 * 24 * HOUR, 17),
        (Unit.DAY, 500 * 24 * HOUR, MAX_LENGTH),
    ],
)
def test_a_fetch_reaches_back_past_the_last_answer(unit: Unit, since: int | None, expected: int) -> None:
    """The usual length, and what has passed since the last answer, up to what Braze can tell."""
    asked = Query("p", CUSTOM_EVENTS, unit, "purchase", length=24 if unit is Unit.HOUR else 14)
    assert length(asked, None if since is None else NOW - since, NOW) == expected


@pytest.mark.parametrize("hours", [1, 30, 76, 95])
def test_after_an_outage_the_counter_is_exact(hours: int) -> None:
    """Whether Braze or Prometheus was away, for up to four days everything that happened is counted."""
    recorded = Recorded(events=["purchase"])
    for hour in range(-100, 120):
        recorded.set("purchase", THIS_HOUR + hour * HOUR, 100)
    with rig("{event: purchase}", recorded) as exporter:
        exporter.scrape()
        exporter.braze.fail(response_faults.status(503))
        exporter.clock.advance(300)
        exporter.scrape()
        exporter.clock.advance(hours * HOUR - 300)
        exporter.braze.heal()
        page = exporter.scrape()
    assert page.value("braze_custom_events_total") == 100 * hours


def test_a_late_arrival_of_the_day_before_an_outage_is_counted() -> None:
    """What came late during an outage, for an hour before it, is within reach when Braze answers again."""
    recorded = Recorded(events=["purchase"])
    with rig("{event: purchase}", recorded) as exporter:
        exporter.scrape()
        exporter.braze.fail(response_faults.status(503))
        exporter.clock.advance(40 * HOUR)
        exporter.scrape()
        recorded.set("purchase", THIS_HOUR - 20 * HOUR, 7)
        exporter.braze.heal()
        exporter.clock.advance(300)
        assert exporter.scrape().value("braze_custom_events_total") == 7


def test_days_keep_their_place_when_the_zone_is_corrected() -> None:
    """A day is known by its date: with another zone in the config its bucket is the same."""
    day = datetime(2026, 11, 23)  # noqa: DTZ001 - made aware below
    numbers = {
        bucket_number(day.replace(tzinfo=zone).timestamp(), Unit.DAY, zone)
        for zone in (ZoneInfo("UTC"), NEW_YORK, ZoneInfo("Asia/Kathmandu"))
    }
    assert len(numbers) == 1
    following = (day + timedelta(days=1)).replace(tzinfo=UTC)
    assert bucket_number(following.timestamp(), Unit.DAY, ZoneInfo("UTC")) == numbers.pop() + 1


def test_an_outage_of_empty_answers_loses_nothing() -> None:
    """However long Braze answers without data, the next fetch reaches back to the last answer that told something."""
    recorded = Recorded(events=["purchase"])
    with rig("{event: purchase}", recorded) as exporter:
        exporter.scrape()
        exporter.braze.fail(response_faults.data([]))
        for hour in range(1, 31):
            exporter.clock.advance(HOUR)
            recorded.set("purchase", THIS_HOUR + hour * HOUR, 1)
            exporter.scrape()
        exporter.braze.heal()
        exporter.clock.advance(300)
        page = exporter.scrape()
    assert page.value("braze_custom_events_total") == 30
