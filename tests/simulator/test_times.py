"""Test how the simulator divides and formats time."""

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from braze_variants import DayFormat, HourFormat
from hypothesis import given
from hypothesis import strategies as st

from braze_exporter.simulator.times import days_until, hours_of, hours_until, parse_time

HOUR = 3_600
NEW_YORK = ZoneInfo("America/New_York")
ONE_PM = 1_728_910_800  # 2024-10-14T13:00:00Z


@pytest.mark.parametrize(
    ("form", "text"),
    [
        (HourFormat.OFFSET, "2024-10-14T13:00:00+00:00"),
        (HourFormat.ZULU, "2024-10-14T13:00:00Z"),
        (HourFormat.LOCAL, "2024-10-14T09:00:00-04:00"),
        (HourFormat.FRACTIONAL, "2024-10-14T13:00:00.000+00:00"),
        (HourFormat.ZONELESS, "2024-10-14T09:00:00"),
    ],
)
def test_hour_formats_are_written(form: HourFormat, text: str) -> None:
    """Each format writes the same hour in its own way."""
    assert form.write(ONE_PM, NEW_YORK) == text


def test_zoneless_dst_hour_is_written_twice() -> None:
    """Without an offset, the two hours when DST ends have the same text."""
    first = int(datetime(2024, 11, 3, 1, tzinfo=NEW_YORK).timestamp())
    assert [HourFormat.ZONELESS.write(first + n * HOUR, NEW_YORK) for n in range(3)] == [
        "2024-11-03T01:00:00",
        "2024-11-03T01:00:00",
        "2024-11-03T02:00:00",
    ]


@pytest.mark.parametrize(
    ("form", "day", "text"),
    [
        (DayFormat.DATE, date(2022, 12, 8), "2022-12-08"),
        (DayFormat.MIDNIGHT, date(2022, 12, 8), "2022-12-08T00:00:00-05:00"),
        (DayFormat.MIDNIGHT, date(2022, 7, 8), "2022-07-08T00:00:00-04:00"),
    ],
)
def test_day_formats_are_written(form: DayFormat, day: date, text: str) -> None:
    """A day is written as its date, or as its local midnight with the offset of that day."""
    assert form.write(day, NEW_YORK) == text


@pytest.mark.parametrize(
    ("zone", "day", "length"),
    [
        ("America/New_York", date(2024, 3, 10), 23),
        ("America/New_York", date(2024, 11, 3), 25),
        ("America/New_York", date(2024, 7, 1), 24),
        ("Asia/Kathmandu", date(2024, 3, 10), 24),
        ("Australia/Lord_Howe", date(2024, 10, 6), 23),
        ("Australia/Lord_Howe", date(2024, 4, 7), 25),
        ("Asia/Beirut", date(2024, 3, 31), 23),
        ("UTC", date(2024, 3, 10), 24),
    ],
)
def test_day_has_its_hours(zone: str, day: date, length: int) -> None:
    """A day has 23, 24 or 25 hours, also where DST changes by half an hour or at midnight."""
    assert len(hours_of(day, ZoneInfo(zone))) == length


@given(
    st.sampled_from(["America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "Africa/Casablanca"]).map(ZoneInfo),
    st.dates(date(2015, 1, 1), date(2030, 1, 1)),
)
def test_every_hour_belongs_to_one_day(zone: ZoneInfo, day: date) -> None:
    """A day consists of whole UTC hours that start on its date, and the next day follows without a gap."""
    starts = hours_of(day, zone)
    assert {datetime.fromtimestamp(hour, zone).date() for hour in starts} == {day}
    assert starts.start % HOUR == 0
    assert hours_of(day + timedelta(days=1), zone).start == starts.stop


def test_last_bucket_is_current_at_end() -> None:
    """A series ends with the bucket that contains its end, including the first instant of the bucket."""
    assert hours_until(ONE_PM + 3_599.9, 2) == [ONE_PM - HOUR, ONE_PM]
    assert hours_until(ONE_PM, 1) == [ONE_PM]
    assert hours_until(ONE_PM - 0.1, 1) == [ONE_PM - HOUR]
    midnight = datetime(2024, 10, 14, tzinfo=NEW_YORK).timestamp()
    assert days_until(midnight, 2, NEW_YORK) == [date(2024, 10, 13), date(2024, 10, 14)]
    assert days_until(midnight - 0.1, 1, NEW_YORK) == [date(2024, 10, 13)]


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2024-10-14T13:00:00Z", ONE_PM),
        ("2024-10-14T13:00:00+00:00", ONE_PM),
        ("2024-10-14T09:00:00-04:00", ONE_PM),
        ("2024-10-14T13:00:00.500+00:00", ONE_PM + 0.5),
        ("2024-10-14T09:00:00", ONE_PM),
        ("2024-10-14", ONE_PM - 9 * HOUR),
    ],
)
def test_times_are_parsed(text: str, moment: float) -> None:
    """A time is parsed with its offset or as local time, and a date as its local midnight."""
    assert parse_time(text, NEW_YORK) == moment


@pytest.mark.parametrize(
    "text",
    ["", "now", "14/10/2024", "2024-10-14T13:00:00 00:00", "2014-12-10T23:59:59-5:00", "1728910800", "0001-01-01"],
)
def test_invalid_times_are_rejected(text: str) -> None:
    """A text that is not ISO 8601, a time before the epoch, and an offset whose plus became a space are rejected."""
    with pytest.raises(ValueError, match=r"."):
        parse_time(text, NEW_YORK)
