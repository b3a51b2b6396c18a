"""Test the baseline: the median of the same local bucket in earlier weeks, absent if too few are known."""

import itertools
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from statistics import median
from zoneinfo import ZoneInfo

import pytest
import response_faults
import transfer_faults
from fault_injection import Exchange
from hypothesis import given
from hypothesis import strategies as st
from recorded_counts import RecordedCounts
from support import (
    CURRENT_HOUR,
    HOUR,
    NEW_YORK,
    NOW,
    Clock,
    ExporterRig,
    MetricsPage,
    is_reading_history,
    running_exporter,
    wait_until,
)

from braze_exporter.braze.buckets import midnight, same_buckets_in_earlier_weeks
from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.kinds import CUSTOM_EVENTS, MAX_LENGTH, Unit
from braze_exporter.braze.query import Query
from braze_exporter.braze.series import Point
from braze_exporter.metrics.baseline import BaselineHistory
from braze_exporter.scheduler.history import (
    History,
    HistoryRange,
    chunk_range,
    history_bounds,
    merge_ranges,
    missing_ranges,
    response_range,
)
from braze_exporter.simulator.reply import Reply

WEEK_SECONDS = 7 * 24 * HOUR
BASELINE = "braze_custom_events_hourly_baseline"


def query(unit: Unit = Unit.HOUR, weeks: int = 4, zone: ZoneInfo = NEW_YORK) -> Query:
    """Return a query with a baseline."""
    length = 24 if unit is Unit.HOUR else 14
    return Query("production", CUSTOM_EVENTS, unit, "purchase", baseline_weeks=weeks, zone=zone, length=length)


def unix_time(year: int, month: int, day: int, hour: int = 0, *, fold: int = 0) -> int:
    """Return the Unix time of a local time in New York."""
    return int(datetime(year, month, day, hour, tzinfo=NEW_YORK, fold=fold).timestamp())


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        # Across the end of DST, the same local hour is one UTC hour later.
        (unix_time(2026, 11, 3, 10), [unix_time(2026, 10, 27, 10), unix_time(2026, 10, 20, 10)]),
        # The hour that a spring night skips has no value for later weeks.
        (unix_time(2026, 3, 15, 2), [unix_time(2026, 3, 1, 2)]),
        # An hour that occurs twice is compared with the same pass, or with the only one of other weeks.
        (unix_time(2026, 11, 1, 1, fold=0), [unix_time(2026, 10, 25, 1), unix_time(2026, 10, 18, 1)]),
        (unix_time(2026, 11, 1, 1, fold=1), [unix_time(2026, 10, 25, 1), unix_time(2026, 10, 18, 1)]),
        (unix_time(2026, 11, 8, 1), [unix_time(2026, 11, 1, 1, fold=0), unix_time(2026, 10, 25, 1)]),
    ],
)
def test_same_local_hour_in_earlier_weeks_is_found(start: int, expected: list[int]) -> None:
    """Earlier weeks are counted in local time, through DST changes."""
    assert same_buckets_in_earlier_weeks(start, query(weeks=2)) == expected


@given(
    st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1)),  # noqa: DTZ001 - gets a timezone below
    st.sampled_from(["UTC", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe"]).map(ZoneInfo),
    st.integers(1, 8),
)
def test_earlier_buckets_have_same_weekday_and_time(moment: datetime, zone: ZoneInfo, weeks: int) -> None:
    """Each earlier bucket has the same local weekday and time, a whole number of weeks before."""
    start = int(moment.replace(minute=0, second=0, microsecond=0, tzinfo=UTC).timestamp())
    local_start = datetime.fromtimestamp(start, zone).replace(tzinfo=None)
    moments = [
        datetime.fromtimestamp(at, zone).replace(tzinfo=None)
        for at in same_buckets_in_earlier_weeks(start, query(weeks=weeks, zone=zone))
    ]
    assert set(moments) <= {local_start - timedelta(weeks=week) for week in range(1, weeks + 1)}
    assert len(moments) >= weeks - 1  # a DST change skips the hour in at most one of a few weeks


@pytest.mark.parametrize(
    ("weeks", "known", "expected"),
    [
        (1, [7], 7),
        (1, [None], None),
        (2, [3, 9], 6),
        (2, [3, None], None),
        (3, [3, None, 9], 6),
        (3, [3, None, None], None),
        (4, [1, 100, 5, 9], 7),
        (4, [1, None, 5, 9], 5),
        (4, [1, None, None, 9], None),
        (4, [0, 0, 0, 0], 0),
    ],
)
def test_baseline_is_median_of_known_weeks(weeks: int, known: list[int | None], expected: float | None) -> None:
    """The baseline needs all weeks but one, and at least two if several are configured; otherwise it is absent."""
    query_ = query(weeks=weeks)
    baseline = BaselineHistory(query_)
    for start, value in zip(same_buckets_in_earlier_weeks(CURRENT_HOUR, query_), known, strict=True):
        baseline.add([] if value is None else [Point(start, float(value))], NOW)
    assert baseline.median_for(CURRENT_HOUR) == expected


def test_unsettled_buckets_are_not_learned() -> None:
    """A bucket that was only fetched before it settled is not part of the baseline."""
    query_ = query(weeks=1)
    start = same_buckets_in_earlier_weeks(CURRENT_HOUR, query_)[0]
    baseline = BaselineHistory(query_)
    baseline.add([Point(start, 5.0)], start + HOUR + query_.settle_seconds - 1)
    assert baseline.median_for(CURRENT_HOUR) is None
    baseline.add([Point(start, 6.0)], start + HOUR + query_.settle_seconds)
    assert baseline.median_for(CURRENT_HOUR) == 6.0


def test_old_buckets_are_removed() -> None:
    """Only the periods that the configured weeks and one more week touch are kept in memory."""
    query_ = query(weeks=2)
    baseline = BaselineHistory(query_)
    for hour in range(0, 20 * WEEK_SECONDS, HOUR):
        baseline.add([Point(hour, 1.0)], hour + HOUR + query_.settle_seconds)
    hours = sum(len(baseline.values_of_period(period)[0]) for period in range(30))
    assert 3 * WEEK_SECONDS // HOUR <= hours <= 4 * WEEK_SECONDS // HOUR


@pytest.mark.parametrize(
    ("unit", "weeks"), [(Unit.HOUR, 1), (Unit.HOUR, 4), (Unit.HOUR, 52), (Unit.DAY, 2), (Unit.DAY, 4), (Unit.DAY, 52)]
)
def test_history_is_fetched_without_gaps(unit: Unit, weeks: int) -> None:
    """The chunks of the history adjoin each other, overlap the usual fetches, and cover all weeks."""
    query_, history = query(unit, weeks), History()
    chunks: list[Query] = []
    assert history.count_calls(query_, NOW) <= weeks * WEEK_SECONDS / (MAX_LENGTH * unit.seconds) + 1
    for left in range(history.count_calls(query_, NOW), 0, -1):
        assert history.count_calls(query_, NOW) == left
        chunk = history.next_chunk(query_, NOW, 0.0)
        assert chunk is not None
        history.record_response(chunk, chunk.length, chunk.ending_at, NOW)
        chunks.append(chunk)
    assert history.next_chunk(query_, NOW, 0.0) is None
    reach = [chunk_range(chunk) for chunk in chunks]
    assert reach[0][1] > NOW - query_.length * unit.seconds
    assert all(newer[0] <= older[1] + 1 for newer, older in itertools.pairwise(reach))
    assert all(start % 3_600 == (end + 1) % 3_600 == 0 for start, end in reach)
    # A chunk of days is an hour shorter or longer if DST begins or ends in it.
    assert all(abs(end + 1 - start - MAX_LENGTH * unit.seconds) <= HOUR * (unit is Unit.DAY) for start, end in reach)
    assert reach[-1][0] <= NOW - weeks * WEEK_SECONDS - query_.settle_seconds - unit.seconds


@pytest.mark.parametrize(("unit", "weeks"), [(Unit.HOUR, 4), (Unit.DAY, 52)])
def test_each_bucket_of_oversized_history_is_requested_once(unit: Unit, weeks: int) -> None:
    """After oversized responses single buckets are requested, each once, also the days on which DST begins or ends."""
    query_, history = query(unit, weeks), History()
    ends: list[int | None] = []
    while (chunk := history.next_chunk(query_, NOW, 0.0)) is not None:
        if chunk.length > 1:
            history.record_failure(chunk, BrazeError(Reason.TOO_LARGE, "too large"), NOW, 0.0)
        else:
            ends.append(chunk.ending_at)
            history.record_chunk(chunk, NOW, 0.0)
    assert len({*ends}) == len(ends)
    assert len(ends) == pytest.approx(weeks * WEEK_SECONDS / unit.seconds, abs=2 * MAX_LENGTH)


def test_gap_of_one_bucket_is_missing() -> None:
    """History with a gap that is as long as a bucket is not complete."""
    query_, middle = query(), NOW - WEEK_SECONDS
    oldest, newest = history_bounds(query_, NOW)
    for gap, missing in ((HOUR, [(middle, middle + HOUR)]), (HOUR - 1, [])):
        assert missing_ranges(query_, [(oldest, middle), (middle + gap, newest)], NOW) == missing


def hours_in(ranges: Iterable[HistoryRange]) -> set[int]:
    """Return the starts of the hours of two weeks that `ranges` contain."""
    hours = range(CURRENT_HOUR - 2 * WEEK_SECONDS + HOUR, CURRENT_HOUR + 2 * HOUR, HOUR)
    return {hour for start, end in ranges for hour in hours if start <= end and start // HOUR * HOUR <= hour <= end}


def test_missing_history_is_all_that_is_not_known() -> None:
    """What is known and what is missing are the history up to the newest known part, and overlap only at their ends."""
    query_ = query(weeks=1)
    for seed in range(200):
        draw = Random(seed)  # noqa: S311 - does not need to be secure
        now = NOW + draw.choice((0, 0.5, 1_200, 2_400))
        starts = [now - draw.randrange(14 * 24) * HOUR - draw.choice((0, 1, 1_800)) for _ in range(draw.randrange(5))]
        ranges = [(start, start + draw.choice((-1, 0, HOUR, HOUR - 1, 9 * HOUR, 99 * HOUR))) for start in starts]
        merged = merge_ranges(ranges, query_, now)
        assert hours_in(merged) == hours_in(ranges)
        assert all(newer[0] - older[1] >= HOUR for older, newer in itertools.pairwise(merged))
        missing, (oldest, newest) = missing_ranges(query_, ranges, now), history_bounds(query_, now)
        newest = max(oldest, min([newest, *[end for _, end in merged[-1:]]]))
        assert missing == sorted(missing, reverse=True)
        assert hours_in([(oldest + HOUR, newest)]) <= hours_in(missing) | hours_in(ranges)
        unknown = newest - oldest - sum(max(0, min(end, newest) - max(start, oldest)) for start, end in merged)
        assert unknown - HOUR * len(merged) <= sum(end - start for start, end in missing) <= unknown


@pytest.mark.parametrize("settle", [0, HOUR, 90 * 60])
@pytest.mark.parametrize("seconds", [0, 1, 1_800, 3_599])
def test_range_of_response_has_its_settled_buckets(settle: int, seconds: int) -> None:
    """The range of a response has the requested buckets that had settled."""
    query_, sent_at = replace(query(), settle_seconds=settle), CURRENT_HOUR + seconds
    settled = {hour for hour in range(0, -10 * HOUR, -HOUR) if hour + HOUR + settle <= seconds}
    usual = hours_in([response_range(query_, 10, None, sent_at)])
    assert usual == {CURRENT_HOUR + hour for hour in settled}
    for back in (0, 3):
        ending_at = CURRENT_HOUR + HOUR - 1 - back * HOUR
        history = hours_in([response_range(query_, 5, ending_at, sent_at)])
        assert history == {CURRENT_HOUR + hour for hour in settled if -back * HOUR >= hour > -(back + 5) * HOUR}


def shop(now: float = NOW) -> RecordedCounts:
    """Return six weeks of counts: 1,000 per week back plus the hour of the week."""
    recorded = RecordedCounts(events=["purchase"])
    for back in range(6 * WEEK_SECONDS // HOUR):
        start = int(now) // HOUR * HOUR - back * HOUR
        week = int((now - start) // WEEK_SECONDS)
        hour = datetime.fromtimestamp(start, NEW_YORK)
        recorded.set("purchase", start, 1_000 * week + 24 * hour.weekday() + hour.hour)
    return recorded


def test_baseline_is_exposed_after_history() -> None:
    """The median of four weeks is exposed for the settled bucket after seven history calls, each made once."""
    recorded = shop()
    with running_exporter("{event: purchase, baseline: {weeks: 4}}", recorded) as exporter:
        exporter.scrape()
        while not exporter.wait_for_history():
            exporter.clock.advance(1)
            exporter.scrape()
        page = exporter.page()
        start = page.value("braze_query_settled_bucket_start_timestamp_seconds")
        assert start is not None
        query_ = Query("p", CUSTOM_EVENTS, Unit.HOUR, "purchase", baseline_weeks=4, zone=NEW_YORK)
        weeks = same_buckets_in_earlier_weeks(int(start), query_)
        assert page.value(BASELINE) == median(recorded.count("purchase", at, 0) for at in weeks)
        for _ in range(12):
            exporter.clock.advance(300)
            exporter.scrape()
        assert len(exporter.braze.requests) == 1 + 7 + 12
        ends = [request.params.get("ending_at") for request in exporter.braze.requests]
        assert len({end for end in ends if end}) == 7


def assert_no_history_is_requested_for_a_day(exporter: ExporterRig) -> None:
    """Check that the history stays complete, and that none of it is requested again."""
    requested = history_requests(exporter)
    for _ in range(24):
        exporter.clock.advance(HOUR)
        exporter.scrape()
        assert exporter.wait_for_history()
    assert history_requests(exporter) == requested


@pytest.mark.parametrize("settle", ["19h", "20h", "30h", "97h"])
def test_history_is_completed_once_with_long_settle(settle: str) -> None:
    """The history includes the week before a settled bucket that is days old, and each part of it is read once."""
    recorded = shop(NOW + 86_400)
    with running_exporter(f"{{event: purchase, settle: {settle}, baseline: {{weeks: 1}}}}", recorded) as exporter:
        page = complete_history(exporter)
        assert page.value(BASELINE) == expected_baseline(recorded, page, weeks=1)
        assert_no_history_is_requested_for_a_day(exporter)


def test_history_is_completed_once_with_long_refresh() -> None:
    """History that takes hours to read is read once. The next usual fetch requests what has settled meanwhile."""
    entry = "{event: purchase, settle: 30h, refresh_interval: 40h, baseline: {weeks: 4}}"
    with running_exporter(entry, shop(NOW + 2 * 86_400)) as exporter:
        for _ in range(48):
            exporter.scrape()
            exporter.wait_for_history()
            exporter.clock.advance(HOUR)
        assert exporter.wait_for_history()
        assert history_requests(exporter) == 7


@pytest.mark.parametrize("settle", ["4d", "5d", "30d"])
def test_daily_history_is_completed_once_with_long_settle(settle: str) -> None:
    """History that is days older than a week more than the baseline is read once and kept."""
    entry = f"{{event: purchase, unit: day, settle: {settle}, baseline: {{weeks: 1}}}}"
    with running_exporter(entry, shop()) as exporter:
        exporter.scrape()
        exporter.wait_for_history()  # its first call is deferred
        for _ in range(100):
            exporter.clock.advance(86_400)
            exporter.scrape()
            assert exporter.wait_for_history()
            assert exporter.page().value("braze_custom_events_daily_baseline") is not None
        assert history_requests(exporter) <= 1


def test_scrape_does_not_wait_for_history() -> None:
    """A scrape fetches its queries and returns values without a baseline while calls for history do not end."""
    with running_exporter(
        "{event: purchase, baseline: {weeks: 4}}\n{event: signup, baseline: {weeks: 4}}",
        shop(),
        extra_yaml="budget: {concurrency: 2}\n",
    ) as exporter:

        def slow(exchange: Exchange) -> Reply:
            return transfer_faults.hold()(exchange) if "ending_at" in exchange.request.params else exchange.reply

        exporter.braze.inject(slow)
        for _ in range(3):
            page = exporter.scrape()
            assert len(page.values("braze_custom_events_hourly_settled")) == 2
            assert page.values("braze_query_last_success_timestamp_seconds") == [exporter.clock.now] * 2
            assert page.values(BASELINE) == []
            assert page.value("braze_queries", state="up") == 2
            exporter.clock.advance(300)
        wait_until(lambda: history_requests(exporter) == 1, "one call for history is in flight")
        exporter.braze.clear_faults()


def test_failed_history_is_fetched_again(caplog: pytest.LogCaptureFixture) -> None:
    """After each failed call the next one waits twice as long. A failed chunk is fetched again after an hour."""
    with running_exporter("{event: purchase, baseline: {weeks: 4}}", shop()) as exporter:

        def refuse(exchange: Exchange) -> Reply:
            return response_faults.status(503)(exchange) if "ending_at" in exchange.request.params else exchange.reply

        exporter.braze.inject(refuse)
        started_at = exporter.clock.now
        for _ in range(66):
            exporter.scrape()
            exporter.wait_for_history()
            exporter.clock.advance(60)
        requests = [request for request in exporter.braze.requests if "ending_at" in request.params]
        assert [request.time - started_at for request in requests] == [60 * 2**number for number in range(7)]
        assert len({request.params["ending_at"] for request in requests[:6]}) == 6
        assert [record.getMessage() for record in caplog.records].count("History could not be read") == 3
        assert exporter.page().values(BASELINE) == []
        exporter.braze.clear_faults()
        page = complete_history(exporter)
        assert page.value(BASELINE) == expected_baseline(shop(), page)


def test_history_is_deferred_while_queries_are_deferred() -> None:
    """While due queries exceed the budget, no history is fetched."""
    events = "\n".join(f"{{event: purchase, apps: [{app}], baseline: {{weeks: 4}}}}" for app in ("all", "ios"))
    with running_exporter(
        events, shop(), extra_yaml="refresh_interval: {hour: 1m}\nbudget: {share: 0.5}\n"
    ) as exporter:
        exporter.braze.limit = 120  # half of it is one call a minute

        def scrape() -> None:
            exporter.scrape()
            exporter.wait_for_history()
            exporter.clock.advance(60)

        scrape()
        scrape()
        exporter.braze.reset()
        for _ in range(20):
            scrape()
        assert 15 <= len(exporter.braze.requests) <= 22
        assert not any("ending_at" in request.params for request in exporter.braze.requests)


def test_daily_baseline_uses_same_weekday() -> None:
    """The daily baseline is the median of the same weekday, also across the end of DST, with one history call."""
    now = datetime(2026, 11, 10, 17, 0, tzinfo=UTC).timestamp()
    recorded = shop(now)
    with running_exporter("{event: purchase, unit: day, baseline: {weeks: 3}}", recorded, clock=Clock(now)) as exporter:
        page = complete_history(exporter)
        assert history_requests(exporter) == 1
    days = [unix_time(2026, 11, 2), unix_time(2026, 10, 26), unix_time(2026, 10, 19)]
    sums = [sum(recorded.count("purchase", day + hour * HOUR, 0) for hour in range(24)) for day in days]
    assert page.value("braze_query_settled_bucket_start_timestamp_seconds") == unix_time(2026, 11, 9)
    assert page.value("braze_custom_events_daily_baseline") == median(sums)


@pytest.mark.parametrize(
    ("zone", "weekday_of_change"),
    [
        ("Africa/Cairo", datetime(2026, 4, 24)),  # noqa: DTZ001 - a local date
        ("America/Santiago", datetime(2026, 9, 6)),  # noqa: DTZ001 - a local date
        ("America/Havana", datetime(2026, 3, 8)),  # noqa: DTZ001 - a local date
        ("Asia/Beirut", datetime(2026, 3, 29)),  # noqa: DTZ001 - a local date
    ],
)
@pytest.mark.parametrize("weeks_later", [0, 1])
def test_daily_baseline_exists_if_a_day_starts_at_one(zone: str, weekday_of_change: datetime, weeks_later: int) -> None:
    """A day is compared with the same weekday, also if DST skips the midnight of one of them."""
    day = weekday_of_change.date() + timedelta(weeks=weeks_later)
    local = ZoneInfo(zone)
    expected = [midnight(day - timedelta(weeks=week), local) for week in (1, 2)]
    assert {datetime.fromtimestamp(midnight(weekday_of_change.date(), local), local).hour} == {1}
    assert same_buckets_in_earlier_weeks(midnight(day, local), query(Unit.DAY, 2, local)) == expected


def history_requests(exporter: ExporterRig) -> int:
    """Return the number of requests for history."""
    return sum("ending_at" in request.params for request in exporter.braze.requests)


def complete_history(exporter: ExporterRig) -> MetricsPage:
    """Scrape every 5 minutes until no history is missing, and return the last page."""
    while True:
        exporter.clock.advance(300)
        exporter.scrape()
        if exporter.wait_for_history():
            return exporter.page()


@pytest.mark.parametrize("behind", [timedelta(days=30), timedelta(days=300), timedelta(days=-30)], ids=str)
def test_baseline_recovers_from_wrong_clock_at_start(behind: timedelta) -> None:
    """If the clock was wrong at the start, the history is completed after it has been corrected."""
    clock, offset = Clock(NOW - behind.total_seconds()), [behind.total_seconds()]
    with running_exporter("{event: purchase, baseline: {weeks: 4}}", shop(), clock=clock) as exporter:
        exporter.braze.clock = lambda: clock.now + offset[0]
        for _ in range(10):
            exporter.scrape()
            exporter.wait_for_history()
            exporter.clock.advance(300)
        clock.now, offset[0] = clock.now + offset[0], 0.0
        complete_history(exporter)
        page = complete_history(exporter)
        assert page.value(BASELINE) == expected_baseline(shop(), page)
        assert_no_history_is_requested_for_a_day(exporter)


def expected_baseline(recorded: RecordedCounts, page: MetricsPage, weeks: int = 4) -> float:
    """Return the median of the last weeks for the settled bucket of a page."""
    start = page.value("braze_query_settled_bucket_start_timestamp_seconds")
    assert start is not None
    query_ = Query("p", CUSTOM_EVENTS, Unit.HOUR, "purchase", baseline_weeks=weeks, zone=NEW_YORK)
    return median(recorded.count("purchase", at, 0) for at in same_buckets_in_earlier_weeks(int(start), query_))


def test_newest_bucket_is_not_learned_if_clock_is_ahead() -> None:
    """Without a `Date` header and with a clock that is 2 hours ahead, no baseline has a partial count."""
    partial_count, clock = 1, Clock()

    def undated(exchange: Exchange) -> Reply:
        if "ending_at" not in exchange.request.params and clock.now == NOW:
            exchange = replace(exchange, reply=response_faults.count(partial_count)(exchange))
        return response_faults.with_headers({"Date": None})(exchange)

    with running_exporter("{event: purchase, baseline: {weeks: 1}}", shop(NOW + WEEK_SECONDS), clock=clock) as exporter:
        exporter.braze.clock = lambda: clock.now - 2 * HOUR
        exporter.braze.inject(undated)
        assert exporter.scrape().value("braze_custom_events_hourly_latest") == partial_count
        exporter.wait_for_history()
        exporter.clock.advance(WEEK_SECONDS + HOUR)
        page = exporter.scrape()
        assert (
            page.value("braze_query_settled_bucket_start_timestamp_seconds") == CURRENT_HOUR - 2 * HOUR + WEEK_SECONDS
        )
        assert page.value(BASELINE) in {None, expected_baseline(shop(), page, weeks=1)}


def test_baseline_recovers_after_three_weeks_without_scrape() -> None:
    """After 21 days without a scrape the gap in the history is fetched, and only the gap."""
    now = NOW + 21 * 86_400
    recorded, clock = shop(now), Clock()
    with running_exporter("{event: purchase, baseline: {weeks: 4}}", recorded, clock=clock) as exporter:
        complete_history(exporter)
        assert history_requests(exporter) == 7
        exporter.clock.advance(now - clock.now)
        exporter.scrape()
        page = complete_history(exporter)
        assert page.value(BASELINE) == expected_baseline(recorded, page)
        assert history_requests(exporter) == 7 + 5  # 17 days in pieces of about four


def test_empty_history_is_complete() -> None:
    """A piece of history without buckets is not requested again."""

    def drop_rows(exchange: Exchange) -> Reply:
        if "ending_at" not in exchange.request.params:
            return exchange.reply
        return response_faults.edited(lambda document: document.update(data=[]))(exchange)

    with running_exporter("{event: purchase, baseline: {weeks: 4}}", shop()) as exporter:
        exporter.braze.inject(drop_rows)
        for _ in range(50):
            complete_history(exporter)
        page = exporter.page()
        assert history_requests(exporter) == 7
        assert page.values(BASELINE) == []
        assert page.value("braze_query_up") == 1


def test_reload_with_other_weeks_reads_missing_history_only() -> None:
    """After a reload with more weeks, only the history before the known one is read. Fewer weeks need no call."""
    with running_exporter("{event: purchase, baseline: {weeks: 1}}", shop()) as exporter:
        complete_history(exporter)
        assert history_requests(exporter) == 2
        for weeks, calls in ((4, 5), (2, 0)):
            requested = history_requests(exporter)
            exporter.apply_config(f"{{event: purchase, baseline: {{weeks: {weeks}}}}}")
            page = complete_history(exporter)
            assert history_requests(exporter) == requested + calls
            assert page.value(BASELINE) == expected_baseline(shop(), page, weeks)


def test_history_is_read_one_call_of_a_query_at_a_time() -> None:
    """A reload of queries with a year of history plans no call for it. Scrapes plan one call for each query."""
    events = "\n".join(f"{{event: event {number:02}, baseline: {{weeks: 52}}}}" for number in range(20))
    recorded = RecordedCounts(events=[f"event {number:02}" for number in range(20)])
    with running_exporter("{event: purchase}", recorded) as exporter:
        exporter.scrape()
        sessions = "    sessions: [{baseline: {weeks: 1}}]\n"
        exporter.apply_config(events, **{"    custom_events:": f"{sessions}    custom_events:"})
        calls_of_query = 88
        assert exporter.exporter.snapshot().remaining_history["production"] == 20 * calls_of_query + 2
        assert not is_reading_history(exporter.exporter)
        exporter.clock.advance(300)  # the budget of so many queries must accrue first
        exporter.braze.inject(transfer_faults.hold())
        for _ in range(3):
            exporter.exporter.refresh()
            assert sum(query_state.history.is_reading for query_state in exporter.exporter.query_states) == 21
        exporter.braze.clear_faults()
