"""Test the counts of the simulator's traffic."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_counts import RecordedCounts
from simulated_braze import FaultInjectingBraze

from braze_exporter.simulator.traffic import SHOP_APPS, SHOP_EVENTS, SHOP_SEGMENTS, Traffic, TrafficShape

HOUR = 3_600
MONDAY = datetime(2024, 10, 14, tzinfo=UTC)
NEW_YORK = ZoneInfo("America/New_York")
TRAFFIC = Traffic(7, NEW_YORK, SHOP_EVENTS)
IOS, ANDROID, VIP = SHOP_APPS["ios"], SHOP_APPS["android"], SHOP_SEGMENTS["vip"]

events = st.sampled_from(sorted(SHOP_EVENTS))
hours = st.integers(min_value=450_000, max_value=520_000).map(lambda number: number * HOUR)
ages = st.floats(min_value=-2 * HOUR, max_value=6 * HOUR)
apps = st.sampled_from(["", IOS, ANDROID])
segments = st.sampled_from(["", VIP])


@given(events, hours, st.lists(ages, min_size=2), apps, segments)
def test_count_never_falls(event: str, hour: int, ages: list[float], app: str, segment: str) -> None:
    """The count of an hour never falls."""
    seen = [TRAFFIC.count(event, hour, hour + age, app, segment) for age in sorted(ages)]
    assert seen == sorted(seen)


@given(events, hours, apps, segments)
def test_count_grows_from_zero_for_three_hours(event: str, hour: int, app: str, segment: str) -> None:
    """An hour counts 0 until it starts, and does not change later than two hours after its end."""
    assert TRAFFIC.count(event, hour, hour, app, segment) == 0
    assert TRAFFIC.count(event, hour, hour - 1, app, segment) == 0
    final = TRAFFIC.count(event, hour, hour + 3 * HOUR, app, segment)
    assert TRAFFIC.count(event, hour, hour + 3 * HOUR - 1, app, segment) <= final
    assert TRAFFIC.count(event, hour, hour + 1_000 * HOUR, app, segment) == final


@given(hours, ages, segments)
def test_count_is_sum_of_apps(hour: int, age: float, segment: str) -> None:
    """The count without a filter is the sum of the counts of all apps, if only apps send the event."""
    parts = [TRAFFIC.count("app_opened", hour, hour + age, app, segment) for app in (IOS, ANDROID)]
    assert TRAFFIC.count("app_opened", hour, hour + age, "", segment) == sum(parts)


@given(events, hours, ages)
def test_filtered_count_is_part_of_total(event: str, hour: int, age: float) -> None:
    """Neither all apps together nor a segment have more than the total count."""
    whole = TRAFFIC.count(event, hour, hour + age)
    assert sum(TRAFFIC.count(event, hour, hour + age, app) for app in (IOS, ANDROID)) <= whole
    assert TRAFFIC.count(event, hour, hour + age, "", VIP) <= whole


def test_counts_follow_shares() -> None:
    """Over a week, apps, servers and segments have their configured shares, to one percent."""
    week = [int(MONDAY.timestamp()) + n * HOUR for n in range(7 * 24)]

    def total(app: str = "", segment: str = "") -> int:
        return sum(TRAFFIC.count("product_viewed", hour, week[-1] + 9 * HOUR, app, segment) for hour in week)

    assert total(IOS) / total() == pytest.approx(0.44, abs=0.01)
    assert total(ANDROID) / total() == pytest.approx(0.31, abs=0.01)
    assert total(segment=VIP) / total() == pytest.approx(0.06, abs=0.01)
    assert total(IOS, VIP) / total(IOS) == pytest.approx(0.06, abs=0.01)


@pytest.mark.parametrize("late", [0.0, 0.05])
def test_some_occurrences_arrive_late(late: float) -> None:
    """When an hour ends, all but its late share has been counted."""
    traffic = Traffic(1, NEW_YORK, {"event": TrafficShape(1_000_000, late_share=late)})
    final = traffic.count("event", 0, 3 * HOUR)
    assert traffic.count("event", 0, HOUR) / final == pytest.approx(1 - late, abs=1e-5)
    assert traffic.count("event", 0, HOUR // 2) / final == pytest.approx((1 - late) / 2, abs=1e-5)


def test_small_counts_follow_shares() -> None:
    """A rare event follows its segment's share too, and half of its timely count arrives in the first half hour."""
    traffic = Traffic(1, NEW_YORK, {"event": TrafficShape(2, night_share=1, segments={"some": 0.25}, late_share=0)})
    hours = [n * HOUR for n in range(2_000)]
    final, part, half = (
        sum(traffic.count("event", hour, hour + age, "", segment) for hour in hours)
        for age, segment in ((3 * HOUR, ""), (3 * HOUR, "some"), (HOUR / 2, ""))
    )
    assert final / len(hours) == pytest.approx(2, abs=0.1)
    assert part / final == pytest.approx(0.25, abs=0.02)
    assert half / final == pytest.approx(0.5, abs=0.02)


def test_late_arrivals_slow_down() -> None:
    """Three quarters of late occurrences arrive in the first of the two late hours, and all by their end."""
    shape = TrafficShape(1, late_share=0.04)
    assert [shape.arrived_share(hours * HOUR) for hours in (-1, 0, 3, 4)] == [0, 0, 1, 1]
    assert shape.arrived_share(2 * HOUR) == pytest.approx(0.99)


@pytest.mark.parametrize(
    ("start", "level"),
    [
        (MONDAY.replace(hour=20), 100.0),
        (MONDAY.replace(hour=8), 10.0),
        (MONDAY.replace(hour=14), 55.0),
        (MONDAY.replace(hour=20) + timedelta(days=5), 50.0),
        (MONDAY.replace(hour=20) + timedelta(days=6), 50.0),
    ],
)
def test_expected_count_follows_day_and_week(start: datetime, level: float) -> None:
    """The expected count varies between the peak and the night, and is scaled on weekends."""
    assert TrafficShape(100, peak_hour=20, night_share=0.1, weekend_factor=0.5).expected_count(start) == pytest.approx(
        level
    )


def test_traffic_follows_timezone() -> None:
    """The busiest hour is the peak hour in the configured time zone."""
    for name in ("UTC", "America/New_York", "Asia/Tokyo"):
        zone = ZoneInfo(name)
        traffic = Traffic(1, zone, {"event": TrafficShape(1_000_000, peak_hour=9, night_share=0)})
        day = [MONDAY + timedelta(hours=n) for n in range(24)]
        busiest = max(day, key=lambda start: traffic.count("event", int(start.timestamp()), 2e9))
        assert busiest.astimezone(zone).hour in (8, 9, 10)


def test_same_seed_gives_same_counts() -> None:
    """Counts depend only on the seed."""
    day = [int(MONDAY.timestamp()) + n * HOUR for n in range(24)]
    first, second, other = (
        [Traffic(seed, NEW_YORK, SHOP_EVENTS).count("app_opened", hour, 2e9) for hour in day] for seed in (7, 7, 8)
    )
    assert first == second
    assert first != other


def test_unknown_names_are_never_counted() -> None:
    """An unknown event, app or segment counts 0."""
    hour = int(MONDAY.timestamp())
    assert TRAFFIC.count("App_Opened", hour, 2e9) == 0
    assert TRAFFIC.count("App_Opened", hour, hour + 60) == 0
    assert TRAFFIC.count("app_opened", hour, 2e9, "other") == 0
    assert TRAFFIC.count("app_opened", hour, 2e9, "", "other") == 0


def test_demo_traffic_is_plausible() -> None:
    """The demo has six events, a narrowing funnel, UUIDs as ids, and a rare event that occurs only by day."""
    assert len(SHOP_EVENTS) == 6
    assert all(UUID(text) for text in (*SHOP_APPS.values(), *SHOP_SEGMENTS.values()))
    midnight = int(datetime(2024, 10, 14, tzinfo=NEW_YORK).timestamp())
    day = [midnight + n * HOUR for n in range(24)]
    funnel = [
        sum(TRAFFIC.count(event, hour, 2e9) for hour in day)
        for event in ("product_viewed", "added_to_cart", "checkout_started", "purchase_completed", "newsletter_signup")
    ]
    assert funnel == sorted(funnel, reverse=True)
    signups = [TRAFFIC.count("newsletter_signup", hour, 2e9) for hour in day]
    assert 0 in signups[:5]
    assert all(signups[9:15])


def test_recorded_counts_return_set_values() -> None:
    """A set count holds at any time, may be changed in either direction, and is separate for each filter."""
    traffic = RecordedCounts(events=["quiet"])
    traffic.set("event", 0, 9)
    traffic.set("event", 0, 4, app_id="app")
    traffic.set("event", 0, 3, app_id="app", segment_id="segment")
    assert [traffic.count("event", 0, now) for now in (-1, 0, 1e9)] == [9, 9, 9]
    assert traffic.count("event", 0, 0, "app") == 4
    assert traffic.count("event", 0, 0, "app", "segment") == 3
    assert traffic.count("event", 0, 0, "", "segment") == 0
    assert traffic.count("quiet", 0, 0) == 0
    traffic.set("event", 0, 2)
    assert traffic.count("event", 0, 0) == 2
    assert traffic.events == {"event", "quiet"}


def test_recorded_counts_override_base() -> None:
    """Counts that were not set come from the base, and the events of both exist."""
    hour = int(MONDAY.timestamp())
    traffic = RecordedCounts(TRAFFIC)
    traffic.set("app_opened", hour, 0)
    traffic.set("new", hour, 1)
    assert traffic.count("app_opened", hour, 2e9) == 0
    assert traffic.count("app_opened", hour + HOUR, 2e9) == TRAFFIC.count("app_opened", hour + HOUR, 2e9)
    assert traffic.events == {*SHOP_EVENTS, "new"}


@settings(max_examples=25)
@given(
    zone=st.sampled_from(["America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "Europe/Berlin"]).map(ZoneInfo),
    day=st.one_of(
        st.sampled_from([date(2024, 3, 10), date(2024, 11, 3), date(2024, 4, 7), date(2024, 10, 6)]),
        st.dates(date(2024, 1, 1), date(2024, 12, 31)),
    ),
    clock=st.integers(min_value=0, max_value=86_399),
)
def test_day_is_sum_of_hours(call: Callable[..., Any], zone: ZoneInfo, day: date, clock: int) -> None:
    """A day counts the sum of the hours that start in it, whether finished or not, and across DST changes."""
    now = datetime(day.year, day.month, day.day, tzinfo=zone).timestamp() + clock
    braze = FaultInjectingBraze(key="k", traffic=Traffic(3, zone, SHOP_EVENTS), clock=lambda: now, zone=zone)
    days = call(braze, event="added_to_cart", length=2)["data"]
    sums = {row["time"]: 0 for row in days}
    for row in call(braze, event="added_to_cart", length=60, unit="hour")["data"]:
        local = datetime.fromisoformat(row["time"]).astimezone(zone).date().isoformat()
        if local in sums:
            sums[local] += row["count"]
    assert sums == {row["time"]: row["count"] for row in days}
    assert list(sums)[-1] == datetime.fromtimestamp(now, zone).date().isoformat()
