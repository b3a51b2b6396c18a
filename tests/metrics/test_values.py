"""Test which values of a query are exposed, and which are not."""

import json
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import response_faults
from braze_variants import DayFormat, HourFormat, UnknownEvent
from recorded_counts import RecordedCounts
from support import CURRENT_HOUR, HOUR, IOS, NEW_YORK, NOW, VIP, Clock, running_exporter

from braze_exporter.web.status_response import read_status_response

pytestmark = pytest.mark.no_cover

LATEST = "braze_custom_events_hourly_latest"
SETTLED = "braze_custom_events_hourly_settled"
LATEST_START = "braze_query_latest_bucket_start_timestamp_seconds"
SETTLED_START = "braze_query_settled_bucket_start_timestamp_seconds"
TOTAL = "braze_custom_events_total"
UP = "braze_query_up"
SUCCESS = "braze_query_last_success_timestamp_seconds"


def purchases(**extra: int) -> RecordedCounts:
    """Return purchases: 100 in each full hour, and 40 in the current one."""
    recorded = RecordedCounts(events=["purchase"])
    for back in range(48):
        recorded.set("purchase", CURRENT_HOUR - back * HOUR, 100 if back else 40)
    for name, value in extra.items():
        recorded.set("purchase", CURRENT_HOUR - int(name.removeprefix("back_")) * HOUR, value)
    return recorded


def test_latest_is_current_bucket_and_settled_complete_one() -> None:
    """At 12:20 with a `settle` of one hour, latest is the hour from 12:00, and settled is the hour from 10:00."""
    with running_exporter("{event: purchase}", purchases(back_1=91, back_2=92)) as exporter:
        page = exporter.scrape()
    assert (page.value(LATEST), page.value(LATEST_START)) == (40, CURRENT_HOUR)
    assert (page.value(SETTLED), page.value(SETTLED_START)) == (92, CURRENT_HOUR - 2 * HOUR)
    assert page.value(SUCCESS) == NOW


def test_bucket_settles_by_fetch_only() -> None:
    """A bucket fetched before it was settled does not become settled while fetches fail."""
    with running_exporter("{event: purchase, max_age: 1d}", purchases()) as exporter:
        exporter.scrape()
        exporter.braze.inject(response_faults.status(503))
        for _ in range(12):
            exporter.clock.advance(HOUR / 2)
            page = exporter.scrape()
            assert page.value(UP) == 0
            assert (page.value(SETTLED), page.value(SETTLED_START)) == (100, CURRENT_HOUR - 2 * HOUR)
            assert (page.value(LATEST), page.value(LATEST_START)) == (40, CURRENT_HOUR)
        exporter.braze.clear_faults()
        exporter.clock.advance(HOUR / 2)
        page = exporter.scrape()
    assert page.value(SETTLED_START) == CURRENT_HOUR + 4 * HOUR


def test_newest_bucket_is_never_settled() -> None:
    """Without a `Date` header and with a clock that is 2 hours ahead, Braze's current bucket is still not settled."""
    with running_exporter("{event: purchase}", purchases()) as exporter:
        exporter.braze.clock = lambda: exporter.clock.now - 2 * HOUR
        exporter.braze.inject(response_faults.with_headers({"Date": None}))
        page = exporter.scrape()
    newest = CURRENT_HOUR - 2 * HOUR
    assert page.value(LATEST_START) == newest
    assert page.value(SETTLED_START) == newest - HOUR


def test_settle_is_counted_from_request() -> None:
    """The hour from 11:00 is settled by a request at 13:00, and not one second earlier."""
    until_one = HOUR - NOW % HOUR
    with running_exporter("{event: purchase, refresh_interval: 1s}", purchases(back_1=91)) as exporter:
        exporter.clock.advance(until_one - 1)
        assert exporter.scrape().value(SETTLED_START) == CURRENT_HOUR - 2 * HOUR
        exporter.clock.advance(1)
        page = exporter.scrape()
    assert (page.value(SETTLED), page.value(SETTLED_START)) == (91, CURRENT_HOUR - HOUR)


def test_stale_values_disappear_and_timestamps_stay() -> None:
    """After `max_age` the value gauges disappear; the counter, bucket starts and last success stay."""
    with running_exporter("{event: purchase, max_age: 30m}", purchases()) as exporter:
        exporter.scrape()
        exporter.braze.inject(response_faults.status(503))
        exporter.clock.advance(30 * 60 - 1)
        page = exporter.scrape()
        assert page.value(LATEST) == 40
        assert page.value("braze_queries", state="failed") == 1
        exporter.clock.advance(1)
        page = exporter.scrape()
        assert page.values(LATEST) == []
        assert page.values(SETTLED) == []
        assert page.value(LATEST_START) == CURRENT_HOUR
        assert page.value(SETTLED_START) == CURRENT_HOUR - 2 * HOUR
        assert page.value(SUCCESS) == NOW
        assert page.value(TOTAL) == 0
        assert page.value(UP) == 0
        assert page.value("braze_up") == 0
        assert page.value("braze_queries", state="stale") == 1
        exporter.braze.clear_faults()
        exporter.clock.advance(300)
        page = exporter.scrape()
    assert page.value(LATEST) is not None
    assert page.value("braze_up") == 1


def test_empty_response_removes_values_and_keeps_timestamps() -> None:
    """After an empty response the query is up without values, and the last bucket starts stay."""
    with running_exporter("{event: purchase}", purchases()) as exporter:
        exporter.scrape()
        exporter.braze.inject(response_faults.data([]))
        exporter.clock.advance(300)
        page = exporter.scrape()
    assert page.value(UP) == 1
    assert page.values(LATEST) == page.values(SETTLED) == []
    assert page.value(LATEST_START) == CURRENT_HOUR
    assert page.value(SETTLED_START) == CURRENT_HOUR - 2 * HOUR


def test_zero_count_is_exposed_as_zero() -> None:
    """An hour without events has the value 0."""
    with running_exporter("{event: purchase}", purchases(back_0=0, back_2=0)) as exporter:
        page = exporter.scrape()
    assert page.value(LATEST) == 0
    assert page.value(SETTLED) == 0


def test_counter_counts_after_first_response() -> None:
    """The first response counts 0, later rises and late arrivals count once, and a fall is not subtracted."""
    recorded = purchases()
    with running_exporter("{event: purchase}", recorded) as exporter:
        assert exporter.scrape().value(TOTAL) == 0
        steps = [({0: 45}, 5), ({0: 45}, 5), ({0: 60, 3: 104}, 24), ({3: 90}, 24), ({3: 104}, 24), ({3: 105}, 25)]
        for changes, expected in steps:
            for back, value in changes.items():
                recorded.set("purchase", CURRENT_HOUR - back * HOUR, value)
            exporter.clock.advance(300)
            assert exporter.scrape().value(TOTAL) == expected


@pytest.mark.parametrize(("empty", "expected"), [(1, 100 + 40), (4 * 12, 5 * 100 + 40)])
def test_counter_after_empty_responses_counts_what_had_not_settled(empty: int, expected: int) -> None:
    """After empty first responses, only values of hours that had not settled at the first one count."""
    recorded = purchases()
    for hour in range(1, 5):
        recorded.set("purchase", CURRENT_HOUR + hour * HOUR, 100 if hour < 4 else 40)
    if empty > 1:
        recorded.set("purchase", CURRENT_HOUR, 100)
    with running_exporter("{event: purchase}", recorded) as exporter:
        exporter.braze.inject(response_faults.data([]), times=empty)
        for _ in range(empty):
            assert exporter.scrape().value(TOTAL) == 0
            exporter.clock.advance(300)
        assert exporter.scrape().value(TOTAL) == expected
        recorded.set("purchase", CURRENT_HOUR - 5 * HOUR, 107)
        exporter.clock.advance(300)
        assert exporter.scrape().value(TOTAL) == expected + 7


def test_counter_uses_finest_unit() -> None:
    """An event with hourly and daily queries has one counter, which counts once."""
    recorded = purchases()
    with running_exporter("{event: purchase, unit: day}\n{event: purchase}", recorded) as exporter:
        exporter.scrape()
        recorded.set("purchase", CURRENT_HOUR, 50)
        exporter.clock.advance(900)
        page = exporter.scrape()
    assert page.value(TOTAL, event="purchase") == 10


def test_filtered_queries_have_own_families() -> None:
    """Filtered queries have their own families, so that a sum counts nothing twice; segments have no counter."""
    recorded = purchases()
    recorded.set("purchase", CURRENT_HOUR, 30, IOS)
    recorded.set("purchase", CURRENT_HOUR, 4, "", VIP)
    recorded.set("purchase", CURRENT_HOUR, 3, IOS, VIP)
    with running_exporter("{event: purchase, apps: [all, ios], segments: [all, vip]}", recorded) as exporter:
        page = exporter.scrape()
    assert page.values(LATEST) == [40]
    assert page.values("braze_custom_events_by_app_hourly_latest") == [30]
    assert page.values("braze_custom_events_by_segment_hourly_latest") == [4]
    assert page.value("braze_custom_events_by_app_segment_hourly_latest", braze_app="ios", segment="vip") == 3
    counters = {name for name, _ in page.samples if name.startswith("braze_custom_events") and name.endswith("_total")}
    assert counters == {"braze_custom_events_total", "braze_custom_events_by_app_total"}


@pytest.mark.parametrize("newest_first", [False, True])
@pytest.mark.parametrize("hour_format", HourFormat)
def test_every_hour_format_gives_same_values(hour_format: HourFormat, *, newest_first: bool) -> None:
    """The values are the same for every format and order of hours."""
    with running_exporter("{event: purchase}", purchases(back_2=92)) as exporter:
        exporter.braze.hour_format = hour_format
        exporter.braze.newest_first = newest_first
        page = exporter.scrape()
    assert (page.value(LATEST), page.value(LATEST_START)) == (40, CURRENT_HOUR)
    assert (page.value(SETTLED), page.value(SETTLED_START)) == (92, CURRENT_HOUR - 2 * HOUR)


AUTUMN = [datetime(2026, 11, 1, 4, 10, tzinfo=ZoneInfo("UTC")) + timedelta(hours=hours) for hours in range(30)]


@pytest.mark.parametrize("hour_format", HourFormat)
@pytest.mark.parametrize("moment", AUTUMN, ids=lambda moment: moment.strftime("%dT%H"))
def test_repeated_dst_hour_is_two_buckets(moment: datetime, hour_format: HourFormat) -> None:
    """On the night when DST ends, and a day later, the newest hours are correct."""
    clock = Clock(moment.timestamp())
    hour = int(moment.timestamp()) // HOUR * HOUR
    recorded = RecordedCounts(events=["purchase"])
    for back in range(30):
        recorded.set("purchase", hour - back * HOUR, back + 1)
    with running_exporter("{event: purchase}", recorded, clock=clock) as exporter:
        exporter.braze.hour_format = hour_format
        page = exporter.scrape()
        exporter.clock.advance(300)
        again = exporter.scrape()
    assert (page.value(LATEST), page.value(LATEST_START)) == (1, hour)
    assert (page.value(SETTLED), page.value(SETTLED_START)) == (3, hour - 2 * HOUR)
    assert again.value(TOTAL) == 0


@pytest.mark.parametrize("day_format", DayFormat)
@pytest.mark.parametrize(
    ("day", "hours"),
    [((2026, 11, 1), 25), ((2026, 3, 8), 23), ((2026, 11, 20), 24)],
    ids=["25 hours", "23 hours", "24 hours"],
)
def test_day_settles_after_its_end(day: tuple[int, int, int], hours: int, day_format: DayFormat) -> None:
    """A day lasts from local midnight to the next one, 23, 24 or 25 hours, and settles after that."""
    start = int(datetime(*day, tzinfo=NEW_YORK).timestamp())
    recorded = RecordedCounts(events=["purchase"])
    for hour in range(-48, 48):
        recorded.set("purchase", start + hour * HOUR, 1)
    clock = Clock(start + hours * HOUR + 2 * HOUR - 1)
    name = "braze_custom_events_daily_settled"
    with running_exporter("{event: purchase, unit: day, refresh_interval: 1s}", recorded, clock=clock) as exporter:
        exporter.braze.day_format = day_format
        before = exporter.scrape()
        exporter.clock.advance(1)
        after = exporter.scrape()
    assert before.value(SETTLED_START) < start  # type: ignore[operator] # it is a number
    assert after.value(SETTLED_START) == start
    assert after.value(name) == hours


@pytest.mark.parametrize(
    ("variant", "up", "values"),
    [
        (UnknownEvent.ZEROS, 1, [0]),
        (UnknownEvent.EMPTY, 1, []),
        (UnknownEvent.NO_DATA, 0, []),
        (UnknownEvent.REJECTED, 0, []),
    ],
)
def test_unknown_event_exposes_what_braze_reports(variant: UnknownEvent, up: int, values: list[float]) -> None:
    """For an event that Braze does not know, only values that Braze returned are exposed."""
    with running_exporter("{event: nothing}\n{event: purchase}", purchases()) as exporter:
        exporter.braze.unknown_event = variant
        page = exporter.scrape()
    assert page.value(UP, event="nothing") == up
    assert page.values(LATEST, event="nothing") == values
    assert page.value(LATEST, event="purchase") == 40


def test_event_names_are_sent_and_shown_unchanged() -> None:
    """Event names with spaces, slashes, quotes, emoji and different case are sent and exposed unchanged."""
    names = ["Login", "login", "a b/c&d+e=f?g#h%20", 'say "hi"', "back\\slash", "günstig 🎉", "line\nfeed"]
    recorded = RecordedCounts(events=names)
    for number, name in enumerate(names):
        recorded.set(name, CURRENT_HOUR, number + 1)
    quoted = "\n".join("{event: " + _yaml(name) + "}" for name in names)
    with running_exporter(quoted, recorded) as exporter:
        page = exporter.scrape()
    assert [page.value(LATEST, event=name) for name in names] == list(range(1, len(names) + 1))


def _yaml(name: str) -> str:
    escaped = name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def test_daily_rows_are_not_hours() -> None:
    """An hourly query that is answered with days fails, and neither values nor counters show the counts of days."""
    with running_exporter("{event: purchase, settle: 40h}", purchases()) as exporter:  # requests more than a day
        exporter.scrape()

        def answer_with_days(document: dict[str, Any]) -> None:
            midnight = CURRENT_HOUR // (24 * HOUR) * 24 * HOUR
            times = (midnight - 24 * HOUR, midnight)
            document["data"] = [{"time": HourFormat.ZULU.write(time, NEW_YORK), "count": 2_400} for time in times]

        exporter.braze.inject(response_faults.edited(answer_with_days))
        exporter.clock.advance(300)
        page = exporter.scrape()
    assert page.value(UP) == 0
    assert page.value("braze_api_requests_failed_total", path="/events/data_series", reason="invalid_response") == 1
    assert (page.value(LATEST), page.value(SETTLED), page.value(TOTAL)) == (40, 100, 0)


@pytest.mark.parametrize("count", [1e308, 2**53 + 2])
def test_count_too_large_to_be_exact_is_malformed(count: float) -> None:
    """A count that floating point cannot hold exactly is malformed, and the status page still works."""
    with running_exporter("{event: purchase}", purchases()) as exporter:
        exporter.braze.inject(response_faults.count(count))
        page = exporter.scrape()
        json.dumps(read_status_response(exporter.exporter), allow_nan=False)
    assert page.value(UP) == 0
    assert page.values(LATEST) == []


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "Asia/Kathmandu"])
def test_hours_of_zones_with_minutes_need_no_timezone(zone: str) -> None:
    """Hours that begin at half past or a quarter to are accepted as UTC times, although `timezone` is unknown."""
    offset = int(datetime(2026, 11, 23, tzinfo=ZoneInfo(zone)).utcoffset().total_seconds()) % HOUR  # type: ignore[union-attr]
    recorded = RecordedCounts(events=["purchase"])
    with running_exporter("{event: purchase}", recorded) as exporter:
        exporter.apply_config("{event: purchase}", **{"    timezone: America/New_York\n": ""})
        shifted = CURRENT_HOUR - offset
        counts = {shifted: 40, shifted - HOUR: 100, shifted - 2 * HOUR: 101}

        def shift(document: dict[str, Any]) -> None:
            document["data"] = [
                {"time": HourFormat.ZULU.write(time, NEW_YORK), "count": count} for time, count in counts.items()
            ]

        exporter.braze.inject(response_faults.edited(shift))
        first = exporter.scrape()
        counts[shifted] = 55
        exporter.clock.advance(300)
        second = exporter.scrape()
    assert (first.value(UP), first.value(LATEST), first.value(LATEST_START)) == (1, 40, shifted)
    assert (second.value(LATEST), second.value(TOTAL)) == (55, 15)


def test_counter_after_empty_response_counts_hours_of_zone_with_minutes() -> None:
    """After an empty first response, an hour that begins at half past counts unless it had settled at that time."""
    start = CURRENT_HOUR - HOUR // 2
    rows = [(start - back * HOUR, 100 + back) for back in (3, 2, 1, 0)]
    data = [{"time": HourFormat.ZULU.write(time, NEW_YORK), "count": count} for time, count in rows]
    with running_exporter("{event: purchase}", RecordedCounts(), clock=Clock(start + 1_200)) as exporter:
        exporter.braze.inject(response_faults.data([]), times=1)
        exporter.scrape()
        exporter.braze.inject(response_faults.data(data))
        exporter.clock.advance(300)
        assert exporter.scrape().value(TOTAL) == 100 + 101


def test_corrected_timezone_of_zoneless_hours_counts_nothing_twice() -> None:
    """If `timezone` is corrected while Braze sends hours without offset, the counter starts from the new hours."""
    recorded = RecordedCounts(events=["purchase"])
    for back in range(48):
        recorded.set("purchase", CURRENT_HOUR - back * HOUR, 100 + back)
    with running_exporter("{event: purchase}", recorded) as exporter:
        exporter.braze.hour_format = HourFormat.ZONELESS
        exporter.apply_config("{event: purchase}", **{"America/New_York": "America/Halifax"})
        exporter.scrape()
        exporter.clock.advance(300)
        before = exporter.scrape()
        exporter.apply_config("{event: purchase}")
        exporter.clock.advance(300)
        corrected = exporter.scrape()
        recorded.set("purchase", CURRENT_HOUR, 107)
        exporter.clock.advance(300)
        after = exporter.scrape()
    assert [page.value(TOTAL) for page in (before, corrected, after)] == [0, 0, 7]


def test_hours_that_start_at_another_minute_count_nothing_twice() -> None:
    """If hours begin at another minute, as after a change of the company's time zone, only later rises count."""
    counts = {0: 40, 1: 100, 2: 101}
    newest = CURRENT_HOUR

    def replace(document: dict[str, Any]) -> None:
        starts = {newest - back * HOUR: count for back, count in counts.items()}
        document["data"] = [
            {"time": HourFormat.ZULU.write(start, NEW_YORK), "count": count} for start, count in starts.items()
        ]

    with running_exporter("{event: purchase}", RecordedCounts(events=["purchase"])) as exporter:
        exporter.braze.inject(response_faults.edited(replace))
        totals = []
        for minute, counts[0] in ((0, 40), (0, 45), (-30, 50), (-30, 53), (0, 60), (0, 61)):
            newest = CURRENT_HOUR + minute * 60
            totals.append(exporter.scrape().value(TOTAL))
            exporter.clock.advance(300)
    assert totals == [0, 5, 5, 8, 8, 9]


def test_repeated_body_is_rejected_once_its_rows_are_too_old() -> None:
    """A body that does not change is a success only while its rows are in the requested range."""
    rows = [{"time": HourFormat.ZULU.write(CURRENT_HOUR - back * HOUR, NEW_YORK), "count": 5} for back in range(24)]
    with running_exporter("{event: purchase}", RecordedCounts(events=["purchase"])) as exporter:
        exporter.braze.inject(response_faults.edited(lambda document: document.update(data=rows)))
        pages = [exporter.scrape()]
        for hours in (1, 3, 5):  # each fetch requests the hours since the last success too
            exporter.clock.advance(hours * HOUR)
            pages.append(exporter.scrape())
    assert [page.value("braze_query_up") for page in pages] == [1, 1, 1, 0]
    assert pages[1].value(SETTLED, event="purchase") == 5
