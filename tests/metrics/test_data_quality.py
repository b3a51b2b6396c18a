"""Test what responses reveal: late revisions, a wrong timezone, and a clock that differs from Braze's."""

import logging
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
import response_faults
from recorded_counts import RecordedCounts
from support import CURRENT_HOUR, HOUR, NEW_YORK, NOW, Clock, make_series, running_exporter

from braze_exporter.braze.buckets import bucket_number
from braze_exporter.braze.calls import Response
from braze_exporter.braze.kinds import CUSTOM_EVENTS, MAX_LENGTH, Unit
from braze_exporter.braze.query import Query
from braze_exporter.metrics.data_quality import is_timezone_mismatch, revision_delays
from braze_exporter.scheduler.repair import fetch_length

PURCHASES = Query("production", CUSTOM_EVENTS, Unit.HOUR, "purchase", refresh_seconds=300)
DAYS = Query("production", CUSTOM_EVENTS, Unit.DAY, "purchase", refresh_seconds=900, zone=NEW_YORK)


def make_response(sent_at: float, *points: tuple[int, float]) -> Response:
    """Return a response with one series."""
    return Response((make_series(CUSTOM_EVENTS.metric_group, *points),), sent_at, sent_at, 0.0)


def test_change_after_bucket_end_is_revision() -> None:
    """A change of a bucket that had ended before the previous fetch is a revision, measured from the bucket's end."""
    before = make_response(NOW, (CURRENT_HOUR - 2 * HOUR, 5.0), (CURRENT_HOUR - HOUR, 7.0), (CURRENT_HOUR, 1.0))
    now = make_response(NOW + 300, (CURRENT_HOUR - 2 * HOUR, 4.0), (CURRENT_HOUR - HOUR, 8.0), (CURRENT_HOUR, 3.0))
    since_the_hour = NOW + 300 - CURRENT_HOUR
    assert list(revision_delays(PURCHASES, before, now)) == [since_the_hour + HOUR, since_the_hour]


@pytest.mark.parametrize(("since_end", "expected"), [(-1, []), (0, [300])])
def test_growth_before_bucket_end_is_no_revision(since_end: int, expected: list[float]) -> None:
    """A change since a fetch before the bucket's end is not a revision, and one since a fetch at its end is."""
    end = CURRENT_HOUR + HOUR
    before = make_response(end + since_end, (CURRENT_HOUR, 5.0))
    now = make_response(end + since_end + 300, (CURRENT_HOUR, 9.0), (end, 0.0))
    assert list(revision_delays(PURCHASES, before, now)) == expected


def test_new_or_missing_bucket_is_no_revision() -> None:
    """A bucket that only one of two responses has is not a revision."""
    before, now = (
        make_response(NOW, (CURRENT_HOUR - HOUR, 5.0)),
        make_response(NOW + 300, (CURRENT_HOUR - 2 * HOUR, 5.0)),
    )
    assert list(revision_delays(PURCHASES, before, now)) == []


@pytest.mark.parametrize(("pause", "expected"), [(599, 1), (600, 0), (86_400, 0)])
def test_revision_after_pause_is_not_reported(pause: int, expected: int) -> None:
    """After a pause of two refresh intervals or more, the time of a change is unknown and not reported."""
    before, now = make_response(NOW, (CURRENT_HOUR - HOUR, 5.0)), make_response(NOW + pause, (CURRENT_HOUR - HOUR, 6.0))
    assert len(list(revision_delays(PURCHASES, before, now))) == expected


def test_revision_delay_is_exposed() -> None:
    """A late arrival is observed once with its delay; a fetch without a change is not observed."""
    recorded = RecordedCounts(events=["purchase"])
    recorded.set("purchase", CURRENT_HOUR - HOUR, 5)
    with running_exporter("{event: purchase}", recorded) as exporter:
        exporter.scrape()
        recorded.set("purchase", CURRENT_HOUR - HOUR, 6)
        exporter.clock.advance(300)
        exporter.scrape()
        exporter.clock.advance(300)
        page = exporter.scrape()
    assert page.value("braze_bucket_revision_delay_seconds_count") == 1
    assert page.value("braze_bucket_revision_delay_seconds_sum") == NOW + 300 - CURRENT_HOUR


def local_time(day: int, hour: int, minute: int = 0) -> datetime:
    """Return a local time in November 2026."""
    return datetime(2026, 11, day, hour, minute, tzinfo=NEW_YORK)


@pytest.mark.parametrize(
    ("requested", "newest", "expected"),
    [
        (local_time(23, 12), local_time(23, 0), False),
        (local_time(23, 12), local_time(22, 0), True),
        (local_time(23, 12), local_time(24, 0), True),
        (local_time(23, 12), local_time(20, 0), None),
        (local_time(23, 0, 20), local_time(22, 0), None),
        (local_time(23, 23, 40), local_time(24, 0), None),
        (local_time(23, 0, 31), local_time(22, 0), True),
    ],
)
def test_newest_day_shows_timezone_mismatch(requested: datetime, newest: datetime, expected: bool | None) -> None:  # noqa: FBT001
    """If the newest day is yesterday or tomorrow, the timezone is wrong; near midnight this is unknown."""
    response = make_response(requested.timestamp(), (int(newest.timestamp()), 1.0))
    assert is_timezone_mismatch(DAYS, response) is expected


def test_hours_and_empty_responses_show_no_timezone() -> None:
    """Hourly and empty responses give no information about the timezone."""
    assert is_timezone_mismatch(PURCHASES, make_response(NOW, (CURRENT_HOUR - 24 * HOUR, 1.0))) is None
    assert is_timezone_mismatch(DAYS, make_response(NOW)) is None


@pytest.mark.parametrize(("zone", "expected"), [("America/New_York", 0), ("Pacific/Auckland", 1)])
def test_timezone_mismatch_is_exposed(zone: str, expected: float) -> None:
    """If Braze's days are in another timezone than the configured one, the workspace is marked."""
    with running_exporter("{event: purchase, unit: day}", RecordedCounts(events=["purchase"])) as exporter:
        exporter.braze.zone = ZoneInfo(zone)
        page = exporter.scrape()
    assert page.value("braze_workspace_timezone_mismatch") == expected


@pytest.mark.parametrize("sparse", ["purchase", "signup"])
def test_response_without_current_day_shows_no_timezone_mismatch(sparse: str) -> None:
    """An event without a row for the current day does not make the timezone wrong while another event has one."""
    events = "{event: purchase, unit: day}\n{event: signup, unit: day}"
    with running_exporter(events, RecordedCounts(events=["purchase", "signup"])) as exporter:
        exporter.scrape()
        exporter.braze.inject(response_faults.edited(lambda document: document["data"].pop()), event=sparse)
        for _ in range(4):
            exporter.clock.advance(900)
            assert exporter.scrape().value("braze_workspace_timezone_mismatch") == 0
        exporter.braze.inject(response_faults.edited(lambda document: document["data"].pop()))
        exporter.clock.advance(900)
        assert exporter.scrape().value("braze_workspace_timezone_mismatch") == 1


@pytest.mark.parametrize(("status", "expected"), [(200, 0), (503, 1)])
def test_current_day_of_rarely_fetched_query_counts_until_its_fetches_fail(status: int, expected: float) -> None:
    """The current day in a response counts until two later fetches of its query should have succeeded."""
    events = "{event: purchase, unit: day, refresh_interval: 1h}\n{event: signup, unit: day}"
    with running_exporter(events, RecordedCounts(events=["purchase", "signup"])) as exporter:
        exporter.braze.inject(response_faults.edited(lambda document: document["data"].pop()), event="signup")
        exporter.scrape()
        if status != 200:
            exporter.braze.inject(response_faults.status(status), event="purchase")
        for _ in range(8):
            exporter.clock.advance(900)
            exporter.apply_config(events)  # the responses from before a reload count too
            assert exporter.page().value("braze_workspace_timezone_mismatch") == 0
            assert exporter.scrape().value("braze_workspace_timezone_mismatch") == 0
        exporter.clock.advance(900)
        assert exporter.scrape().value("braze_workspace_timezone_mismatch") == expected


def test_clock_difference_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A clock difference of more than a minute is logged once, and its end is logged once."""
    caplog.set_level(logging.INFO, logger="braze_exporter")
    with running_exporter("{event: a}\n{event: b}", RecordedCounts(events=["a", "b"])) as exporter:
        for offset in (60, 61, 61, -300, 0, 0):
            exporter.braze.clock = lambda offset=offset: exporter.clock.now + offset  # type: ignore[misc] # bound now
            exporter.scrape()
            exporter.clock.advance(300)
    assert [entry.getMessage() for entry in caplog.records] == [
        "Clock differs from Braze's",
        "Clock agrees with Braze's again",
    ]
    assert caplog.records[0].__dict__["fields"] == {"workspace": "production", "braze_ahead_seconds": 61}


@pytest.mark.parametrize("ahead", [65 * 60, 5 * HOUR])
def test_fast_clock_settles_nothing_early(ahead: int) -> None:
    """If the local clock is ahead, buckets still settle by Braze's clock."""
    recorded = RecordedCounts(events=["purchase"])
    with running_exporter("{event: purchase}", recorded, clock=Clock(NOW + ahead)) as exporter:
        exporter.braze.clock = lambda: exporter.clock.now - ahead
        page = exporter.scrape()
    assert page.value("braze_query_settled_bucket_start_timestamp_seconds") == CURRENT_HOUR - 2 * HOUR


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
def test_fetch_reaches_back_past_last_success(unit: Unit, since: int | None, expected: int) -> None:
    """A fetch requests the usual length plus the time since the last success, up to Braze's maximum."""
    query = Query("p", CUSTOM_EVENTS, unit, "purchase", length=24 if unit is Unit.HOUR else 14)
    assert fetch_length(query, None if since is None else NOW - since, NOW) == expected


@pytest.mark.parametrize("hours", [1, 30, 76, 95])
def test_counter_after_outage_is_exact(hours: int) -> None:
    """After an outage of Braze or Prometheus of up to four days, everything is counted."""
    recorded = RecordedCounts(events=["purchase"])
    for hour in range(-100, 120):
        recorded.set("purchase", CURRENT_HOUR + hour * HOUR, 100)
    with running_exporter("{event: purchase}", recorded) as exporter:
        exporter.scrape()
        exporter.braze.inject(response_faults.status(503))
        exporter.clock.advance(300)
        exporter.scrape()
        exporter.clock.advance(hours * HOUR - 300)
        exporter.braze.clear_faults()
        page = exporter.scrape()
    assert page.value("braze_custom_events_total") == 100 * hours


def test_late_arrival_before_outage_is_counted() -> None:
    """A late arrival during an outage, for an hour before it, is counted after the outage."""
    recorded = RecordedCounts(events=["purchase"])
    with running_exporter("{event: purchase}", recorded) as exporter:
        exporter.scrape()
        exporter.braze.inject(response_faults.status(503))
        exporter.clock.advance(40 * HOUR)
        exporter.scrape()
        recorded.set("purchase", CURRENT_HOUR - 20 * HOUR, 7)
        exporter.braze.clear_faults()
        exporter.clock.advance(300)
        assert exporter.scrape().value("braze_custom_events_total") == 7


def test_changed_timezone_keeps_daily_buckets() -> None:
    """A daily bucket is identified by its date, so another timezone does not change it."""
    day = datetime(2026, 11, 23)  # noqa: DTZ001 - gets a timezone below
    numbers = {
        bucket_number(day.replace(tzinfo=zone).timestamp(), Unit.DAY, zone)
        for zone in (ZoneInfo("UTC"), NEW_YORK, ZoneInfo("Asia/Kathmandu"))
    }
    assert len(numbers) == 1
    following = (day + timedelta(days=1)).replace(tzinfo=UTC)
    assert bucket_number(following.timestamp(), Unit.DAY, ZoneInfo("UTC")) == numbers.pop() + 1


def test_empty_responses_lose_no_counts() -> None:
    """After empty responses, the next fetch reaches back to the last response with data."""
    recorded = RecordedCounts(events=["purchase"])
    with running_exporter("{event: purchase}", recorded) as exporter:
        exporter.scrape()
        exporter.braze.inject(response_faults.data([]))
        for hour in range(1, 31):
            exporter.clock.advance(HOUR)
            recorded.set("purchase", CURRENT_HOUR + hour * HOUR, 1)
            exporter.scrape()
        exporter.braze.clear_faults()
        exporter.clock.advance(300)
        page = exporter.scrape()
    assert page.value("braze_custom_events_total") == 30
