"""Test which queries a plan has, what they cost, and where buckets begin, end and settle."""

import math
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import HOUR, IOS, NEW_YORK, NOW, VIP, build_test_config

from braze_exporter.braze.buckets import bucket_end, newest_settled_start
from braze_exporter.braze.kinds import CUSTOM_EVENTS, Unit
from braze_exporter.braze.pools import DEFAULT_POOL
from braze_exporter.braze.query import Query
from braze_exporter.config.document import ConfigError
from braze_exporter.scheduler.plan import Plan, build_plan
from braze_exporter.scheduler.pool_usage import PoolUsage, calls_per_hour

DAY = 24 * HOUR
ZONES = [
    ZoneInfo(name)
    for name in (
        "America/New_York",
        "Asia/Kathmandu",
        "Australia/Lord_Howe",
        "America/Sao_Paulo",
        "Asia/Beirut",
        "Africa/Cairo",
        "Pacific/Apia",
        "UTC",
    )
]
zones = st.sampled_from(ZONES)
dates = st.dates(date(2000, 1, 1), date(2100, 12, 31))


def plan(*events: Mapping[str, Any], **settings: Any) -> Plan:  # noqa: ANN401 - any config value
    """Return the plan of a config with one workspace."""
    return build_plan(build_test_config({"custom_events": events}, **settings))


def test_query_has_all_settings_of_entry() -> None:
    """An entry becomes one query for each app and segment, in order, with its names, ids, times and zone."""
    plan_ = plan(
        {
            "event": "purchase",
            "apps": ["ios", "all"],
            "segments": ["all", "vip"],
            "unit": "day",
            "baseline": {"weeks": 3},
        }
    )
    expected = Query(
        workspace="production",
        kind=CUSTOM_EVENTS,
        unit=Unit.DAY,
        subject="purchase",
        refresh_seconds=900,
        settle_seconds=7_200,
        max_age_seconds=3_600,
        length=14,
        zone=NEW_YORK,
        baseline_weeks=3,
        url="https://rest.iad-01.braze.com",
    )
    ios, vip = {"app": "ios", "app_id": IOS}, {"segment": "vip", "segment_id": VIP}
    assert [query.labels for query in plan_.queries] == [
        (("workspace", "production"), ("event", "purchase"), ("braze_app", "ios")),
        (("workspace", "production"), ("event", "purchase"), ("braze_app", "ios"), ("segment", "vip")),
        (("workspace", "production"), ("event", "purchase")),
        (("workspace", "production"), ("event", "purchase"), ("segment", "vip")),
    ]
    assert plan_.queries == tuple(
        Query(**{name: getattr(expected, name) for name in Query.__slots__} | more)
        for more in (ios, ios | vip, {}, vip)
    )
    assert plan_.pool_usage == (
        PoolUsage(
            "production",
            DEFAULT_POOL,
            query_count=4,
            hourly_calls=16.0,
            allowed_hourly_calls=25_000.0,
            burst=4,
            startup_calls=4,
        ),
    )


def test_calls_per_hour_are_summed() -> None:
    """The calls per hour of a plan are the sum of one call per refresh interval of each query."""
    assert (
        calls_per_hour(
            plan({"event": "a"}, {"event": "b", "unit": "day"}, {"event": "c", "refresh_interval": "2h"}).queries
        )
        == 16.5
    )
    assert calls_per_hour([]) == 0


@given(st.sampled_from(Unit), st.integers(1, 100 * DAY))
def test_fetch_length_includes_settled_bucket(unit: Unit, settle: int) -> None:
    """A fetch is long enough to include a settled bucket, or the config is refused with the largest `settle`."""
    entry = {"event": "a", "unit": unit, "settle": f"{settle}s"}
    try:
        (query,) = plan(entry).queries
    except ConfigError as error:
        assert settle > 97 * unit.seconds
        assert f"the maximum is 97{unit[0]}" in str(error)
        assert plan(entry | {"settle": f"97{unit[0]}"}).queries[0].length == 100
        return
    assert settle <= 97 * unit.seconds
    assert query.length >= {Unit.HOUR: 24, Unit.DAY: 14}[unit]
    if unit is Unit.HOUR:  # days differ in length; a margin covers that
        newest = int(NOW) // HOUR * HOUR
        starts = [newest - n * HOUR for n in reversed(range(query.length))]
        assert newest_settled_start(starts, query, NOW) is not None


REFRESHES = st.lists(st.tuples(st.integers(1, 100_000), st.sampled_from(Unit), st.booleans()), min_size=1, max_size=40)
ADVICE = re.compile(r"set refresh_interval ≥ (\d+)([sm]) for (.+), or configure fewer queries")
UNIT_OF = {"hourly custom_events": "hour", "daily custom_events": "day"}


@given(REFRESHES, st.sampled_from([0.001, 0.003, 0.0015]), st.integers(1, 60), st.integers(1, 60))
@example([(1, Unit.HOUR, True)] + [(13, Unit.HOUR, False)] * 3, 0.001, 20, 20)
@example([(7 * 60, Unit.HOUR, True)] * 30, 0.001, 1, 1)
def test_advised_refresh_is_smallest_that_fits(
    requested: list[tuple[int, Unit, bool]], share: float, hour: int, day: int
) -> None:
    """A plan over its share is refused, and the refresh in the message is the smallest that passes."""

    def attempt(floors: Mapping[str, int]) -> None:
        events = [
            {"event": f"e{number}", "unit": unit}
            | ({"refresh_interval": f"{max(seconds, floors[unit])}s"} if own else {})
            for number, (seconds, unit, own) in enumerate(requested)
        ]
        refresh_interval = {"hour": f"{max(hour, floors['hour'])}s", "day": f"{max(day, floors['day'])}s"}
        plan(*events, refresh_interval=refresh_interval, budget={"share": share})

    calls = sum(3_600 / (seconds if own else {"hour": hour, "day": day}[unit]) for seconds, unit, own in requested)
    if calls <= 250_000 * share:
        attempt({"hour": 0, "day": 0})
        return
    with pytest.raises(ConfigError) as raised:
        attempt({"hour": 0, "day": 0})
    error_text = str(raised.value)
    verb = "needs" if len(requested) == 1 else "need"
    text = f"{verb} {math.ceil(calls - 1e-9):,} calls per hour, but budget.share allows {250_000 * share:,.0f} of"
    assert text in error_text
    ((number, measure, named),) = ADVICE.findall(error_text)
    advised = {UNIT_OF[group]: int(number) * (60 if measure == "m" else 1) for group in named.split(" and ")}
    attempt({"hour": 0, "day": 0} | advised)
    step = 60 if max(advised.values()) >= 60 else 1
    with pytest.raises(ConfigError):
        attempt({"hour": 0, "day": 0} | {unit: seconds - step for unit, seconds in advised.items()})


def starts_of_days(zone: ZoneInfo, day: date) -> int:
    """Return the first second whose local date is `day` or later, computed independently of the plan."""
    low = int(datetime.combine(day, time.min, UTC).timestamp()) - 2 * DAY
    high = low + 4 * DAY
    while high - low > 1:
        middle = (low + high) // 2
        if datetime.fromtimestamp(middle, zone).date() >= day:
            high = middle
        else:
            low = middle
    return high


@given(zones, dates)
@example(ZoneInfo("Pacific/Apia"), date(2011, 12, 29))
@example(ZoneInfo("Pacific/Apia"), date(2011, 12, 31))
@example(ZoneInfo("America/Sao_Paulo"), date(2018, 11, 3))  # the next midnight does not exist
@example(ZoneInfo("America/Sao_Paulo"), date(2018, 11, 4))
@example(ZoneInfo("America/Sao_Paulo"), date(2018, 2, 17))  # an hour that occurs twice, just before midnight
@example(ZoneInfo("Asia/Beirut"), date(2022, 3, 26))
@example(ZoneInfo("Africa/Cairo"), date(2010, 8, 10))
@example(ZoneInfo("Africa/Cairo"), date(2023, 4, 27))
@example(ZoneInfo("Australia/Lord_Howe"), date(2024, 4, 7))  # a shift of half an hour
def test_day_ends_where_next_begins(zone: ZoneInfo, day: date) -> None:
    """A day of 23 to 25 hours ends at the first instant of a later date: at midnight, unless DST skips midnight."""
    start = starts_of_days(zone, day)
    started = datetime.fromtimestamp(start, zone).date()
    end = bucket_end(start, Unit.DAY, zone)
    assert end == starts_of_days(zone, started + timedelta(days=1))
    assert 23 * HOUR <= end - start <= 25 * HOUR
    assert datetime.fromtimestamp(end - 1, zone).date() == started
    after = datetime.fromtimestamp(end, zone)
    skipped = timedelta(days=1) if (zone.key, started) == ("Pacific/Apia", date(2011, 12, 29)) else timedelta()
    assert after.date() == started + timedelta(days=1) + skipped
    midnight = datetime.combine(after.date(), time.min, zone)
    exists = midnight.astimezone(UTC).astimezone(zone).replace(fold=0) == midnight
    assert after.time() == (time.min if exists else time(1))


@given(zones, st.integers(946_684_800, 4_133_980_799))
def test_hour_has_3600_seconds(zone: ZoneInfo, start: int) -> None:
    """An hour ends 3,600 seconds after its start, whatever DST does."""
    assert bucket_end(start, Unit.HOUR, zone) == start + HOUR


@pytest.mark.parametrize(
    ("name", "day", "hours"),
    [
        ("America/New_York", date(2026, 3, 8), 23),
        ("America/New_York", date(2026, 11, 1), 25),
        ("America/New_York", date(2026, 11, 23), 24),
        ("Australia/Lord_Howe", date(2024, 4, 7), 24.5),
        ("Australia/Lord_Howe", date(2024, 10, 6), 23.5),
        ("America/Sao_Paulo", date(2018, 2, 17), 25),
        ("America/Sao_Paulo", date(2018, 11, 4), 23),
        ("Africa/Cairo", date(2023, 4, 28), 23),
        ("Pacific/Apia", date(2011, 12, 29), 24),
    ],
)
def test_dst_days_have_23_or_25_hours(name: str, day: date, hours: float) -> None:
    """A day on which DST changes has its true length."""
    zone = ZoneInfo(name)
    start = starts_of_days(zone, day)
    assert (bucket_end(start, Unit.DAY, zone) - start) / HOUR == hours


@st.composite
def bucket_starts(draw: st.DrawFn) -> tuple[list[int], Query]:
    """Generate the starts of consecutive buckets, some of them missing, and their query."""
    unit, zone = draw(st.sampled_from(Unit)), draw(zones)
    start = starts_of_days(zone, draw(dates)) + (draw(st.integers(0, 30)) * HOUR if unit is Unit.HOUR else 0)
    starts = []
    for kept in draw(st.lists(st.booleans(), max_size=12)):
        if kept:
            starts.append(start)
        start = bucket_end(start, unit, zone)
    settle = draw(st.integers(1, 5 * unit.seconds))
    return starts, Query("production", CUSTOM_EVENTS, unit, "purchase", settle_seconds=settle, zone=zone)


@given(bucket_starts(), st.integers(-20, 20), st.integers(-2, 2), st.integers(0, 3 * DAY))
def test_settled_is_newest_bucket_past_settle(
    response: tuple[list[int], Query], units: int, seconds: int, later: int
) -> None:
    """The settled bucket is the newest one, except the last, that ended at least `settle` before the request."""
    starts, query = response
    base = starts[-1] if starts else NOW
    sent_at = base + query.settle_seconds + units * query.unit.seconds + seconds
    settled_start = newest_settled_start(starts, query, sent_at)
    ripe = {start for start in starts if sent_at - bucket_end(start, query.unit, query.zone) >= query.settle_seconds}
    assert settled_start == max(ripe - {*starts[-1:]}, default=None)
    afterwards = newest_settled_start(starts, query, sent_at + later)
    assert settled_start is None or (afterwards is not None and afterwards >= settled_start)


def test_settle_is_exact_to_the_second() -> None:
    """An hour settles exactly `settle` after its end; the newest or only bucket never settles."""
    query = Query("production", CUSTOM_EVENTS, Unit.HOUR, "purchase", settle_seconds=60)
    noon, item, two = 12 * HOUR, 13 * HOUR, 14 * HOUR
    assert newest_settled_start([noon, item, two], query, 13 * HOUR + 59.9) is None
    assert newest_settled_start([noon, item, two], query, 13 * HOUR + 60) == noon
    assert newest_settled_start([noon, item, two], query, 14 * HOUR + 59.9) == noon
    assert newest_settled_start([noon, item, two], query, 14 * HOUR + 60) == item
    assert newest_settled_start([noon, item, two], query, 99 * HOUR) == item
    assert newest_settled_start([noon], query, 99 * HOUR) is None
    assert newest_settled_start([], query, 99 * HOUR) is None
