"""Test that parsing is exact, accepts every format that Braze may use, and rejects ambiguous data."""

import itertools
import json
import math
from array import array
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random
from zoneinfo import ZoneInfo

import pytest
from braze_variants import DayFormat, HourFormat
from hypothesis import given
from hypothesis import strategies as st
from support import HOUR, NOW

from braze_exporter.braze import parsing
from braze_exporter.braze.buckets import bucket_end, bucket_number, bucket_start, min_requested_bucket_number
from braze_exporter.braze.calls import RateLimit
from braze_exporter.braze.columns import parse_column
from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.kinds import CUSTOM_EVENTS, MAX_LENGTH, Unit
from braze_exporter.braze.query import Query
from braze_exporter.braze.series import ABSENT, HOLE, Point, Series, SeriesHead, only_head, share_unchanged

ZONES = [
    ZoneInfo(name)
    for name in (
        "UTC",
        "America/New_York",
        "Europe/Paris",
        "Asia/Kolkata",
        "Asia/Kathmandu",
        "Australia/Lord_Howe",
        "Pacific/Chatham",
        "America/Sao_Paulo",
        "Antarctica/Troll",
    )
]
zones = st.sampled_from(ZONES)
# Later than any time in these tests.
LATER = datetime(2199, 12, 31, tzinfo=UTC).timestamp()
# A requested length that covers all rows of any test.
ANY_LENGTH = 10_000_000
instants = st.datetimes(datetime(2005, 1, 1), datetime(2060, 1, 1)).map(lambda d: d.replace(tzinfo=UTC))  # noqa: DTZ001


def query(unit: Unit = Unit.HOUR, zone: ZoneInfo = ZONES[0]) -> Query:
    """Return a query for purchases."""
    return Query("production", CUSTOM_EVENTS, unit, "purchase", zone=zone)


def body(rows: object) -> bytes:
    """Return the body of a successful response."""
    return json.dumps({"message": "success", "data": rows}).encode()


def points(content: bytes, query_: Query) -> tuple[Point, ...]:
    """Return the points of the only series."""
    (series,) = parsing.parse_series(query_, content, ANY_LENGTH, LATER, LATER)
    return series.points


@given(st.binary(max_size=300))
def test_any_bytes_are_parsed_or_rejected(content: bytes) -> None:
    """Any body yields points or a `BrazeError`."""
    try:
        parsing.parse_series(query(), content, ANY_LENGTH, LATER, LATER)
    except BrazeError as error:
        assert error.reason is Reason.INVALID_RESPONSE


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
valid_rows = st.fixed_dictionaries(
    {
        "time": st.sampled_from(["2026-11-22T23:00:00Z", "2026-11-23T00:00:00Z", "2026-11-23T05:00:00"]),
        "count": st.integers(-1, 5),
    }
)
rows = st.lists(valid_rows, max_size=4) | st.lists(
    st.fixed_dictionaries({}, optional={"time": anything, "count": anything}) | anything, max_size=4
)


@given(rows, st.sampled_from(Unit), zones)
def test_any_rows_are_parsed_or_rejected(data: list[object], unit: Unit, zone: ZoneInfo) -> None:
    """Any rows yield sorted points with one non-negative number per bucket, or a `BrazeError`."""
    try:
        parsed = points(body(data), query(unit, zone))
    except BrazeError as error:
        assert error.reason is Reason.INVALID_RESPONSE
    else:
        assert list(parsed) == sorted(parsed)
        assert len({point.start for point in parsed}) == len(parsed)
        assert all(0 <= point.value < float("inf") for point in parsed)


@given(instants, st.integers(2, 40), st.sampled_from(HourFormat), zones, st.sampled_from(["up", "down", "shuffled"]))
def test_hours_in_every_format_are_same_instants(
    moment: datetime, length: int, form: HourFormat, zone: ZoneInfo, order: str
) -> None:
    """A series of consecutive hours is parsed to the same instants in every format, timezone and order."""
    first = int(moment.timestamp()) // HOUR * HOUR
    starts = [first + number * HOUR for number in range(length)]
    if form is HourFormat.ZONELESS and order == "shuffled":
        form = HourFormat.LOCAL  # out of order, a repeated zone-less hour is ambiguous
    rows = [{"time": form.write(start, zone), "count": number} for number, start in enumerate(starts)]
    if order == "down":
        rows.reverse()
    elif order == "shuffled":
        Random(first).shuffle(rows)  # noqa: S311 - any order will do
    series_points = points(body(rows), query(Unit.HOUR, zone))
    assert series_points == tuple(Point(start, float(number)) for number, start in enumerate(starts))


@given(instants, st.integers(1, 100), st.sampled_from(DayFormat), zones)
def test_days_are_consecutive(moment: datetime, length: int, form: DayFormat, zone: ZoneInfo) -> None:
    """Days are parsed as local midnights, and each day ends where the next begins."""
    last = moment.astimezone(zone).date()
    days = [last - timedelta(days=back) for back in reversed(range(length))]
    series_points = points(body([{"time": form.write(day, zone), "count": 1} for day in days]), query(Unit.DAY, zone))
    assert len(series_points) == length
    assert [datetime.fromtimestamp(point.start, zone).date() for point in series_points] == days
    for point, following in itertools.pairwise(series_points):
        assert bucket_end(point.start, Unit.DAY, zone) == following.start
        assert 22 * HOUR <= following.start - point.start <= 26 * HOUR


@pytest.mark.parametrize(
    ("written", "instant"),
    [
        ("2026-11-23T12:00:00Z", "2026-11-23T12:00:00+00:00"),
        ("2026-11-23T12:00:00.385+00:00", "2026-11-23T12:00:00+00:00"),
        ("2026-11-23T07:00:00-05:00", "2026-11-23T12:00:00+00:00"),
        ("2026-11-23T17:30:00+05:30", "2026-11-23T12:00:00+00:00"),
        ("2026-11-23T07:00:00", "2026-11-23T12:00:00+00:00"),
        ("2026-11-23 07:00", "2026-11-23T12:00:00+00:00"),
        ("2026-07-23T08:00:00", "2026-07-23T12:00:00+00:00"),
    ],
)
def test_hour_formats_are_parsed(written: str, instant: str) -> None:
    """An hour with an offset is that instant; without an offset it is local time in the workspace's timezone."""
    (point,) = points(body([{"time": written, "count": 5}]), query(Unit.HOUR, ZoneInfo("America/New_York")))
    assert point == Point(int(datetime.fromisoformat(instant).timestamp()), 5.0)


def test_hour_without_offset_and_timezone_is_utc() -> None:
    """If the config has no timezone, an hour without an offset is in UTC."""
    (point,) = points(body([{"time": "2026-11-23T12:00:00", "count": 5}]), query())
    assert point.start == int(datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp())


@given(instants, st.sampled_from(Unit), zones, st.integers(1, 30))
def test_buckets_are_consecutive(moment: datetime, unit: Unit, zone: ZoneInfo, length: int) -> None:
    """A bucket contains its instants and ends where the next begins, and a fetch requests the newest `length` ones."""
    instant = moment.timestamp()
    starts = [bucket_start(instant, unit, zone)]
    for _ in range(length):
        starts.append(bucket_start(starts[-1] - 1, unit, zone))
        assert bucket_end(starts[-1], unit, zone) == starts[-2]
    assert starts[0] <= instant < bucket_end(starts[0], unit, zone)
    assert all(start % HOUR == 0 for start in starts) or unit is Unit.DAY
    oldest = min_requested_bucket_number(query(unit, zone), instant, length)
    assert [bucket_number(start, unit, zone) >= oldest for start in starts] == [True] * length + [False]


@pytest.mark.parametrize("year", [1999, 2000, 2199, 2200])
def test_year_out_of_range_is_rejected(year: int) -> None:
    """Years before 2000 and from 2200 on are errors."""
    content = body([{"time": f"{year}-07-01", "count": 5}])
    if 2000 <= year < 2200:
        assert points(content, query(Unit.DAY))[0].start == datetime(year, 7, 1, tzinfo=UTC).timestamp()
    else:
        with pytest.raises(BrazeError, match="a time is out of range"):
            points(content, query(Unit.DAY))


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([0, 2.5, None], [0, 2.5, HOLE]),
        ([2**53, 2**53, 1], [2**53, 2**53, 1]),
        ([2**53 + 2, 1], "too large"),
        ([-(2**53) - 2], "too large"),
        ([-(2**53), 5], [-(2**53), 5]),
        ([10**400], "not a number"),
        ([math.nan], "not a number"),
        ([True], "not a number"),
        (["5"], "not a number"),
    ],
)
def test_numbers_are_exact_or_rejected(numbers: list[object], expected: list[float] | str) -> None:
    """A value is a number that floating point holds exactly, or null; only revenue may be negative."""
    if isinstance(expected, str):
        with pytest.raises(BrazeError, match=f"revenue is {expected}"):
            parse_column(numbers, "revenue", can_be_negative=True)
        return
    assert repr([*parse_column(numbers, "revenue", can_be_negative=True)]) == repr([*map(float, expected)])
    if min(expected) < 0:
        with pytest.raises(BrazeError, match="sent is not a non-negative number"):
            parse_column(numbers, "sent", can_be_negative=False)


@pytest.mark.parametrize("written", ["2026-11-23", "2026-11-23T00:00:00Z", "2026-11-23T23:59:59-11:00"])
def test_day_with_time_uses_written_date(written: str) -> None:
    """A day begins at local midnight of the written date, whatever time and offset the row has."""
    zone = ZoneInfo("Asia/Kathmandu")
    (point,) = points(body([{"time": written, "count": 5}]), query(Unit.DAY, zone))
    assert point.start == int(datetime(2026, 11, 23, tzinfo=zone).timestamp())


def test_repeated_dst_hour_is_two_passes() -> None:
    """Two equal zone-less hours on the night when DST ends are the first and the second pass."""
    zone = ZoneInfo("America/New_York")
    written = ["2026-11-01T00:00:00", "2026-11-01T01:00:00", "2026-11-01T01:00:00", "2026-11-01T02:00:00"]
    rows = [{"time": text, "count": number} for number, text in enumerate(written)]
    parsed = points(body(rows), query(Unit.HOUR, zone))
    midnight = int(datetime(2026, 11, 1, 4, tzinfo=UTC).timestamp())
    assert parsed == tuple(Point(midnight + number * HOUR, float(number)) for number in range(4))
    assert points(body(rows[::-1]), query(Unit.HOUR, zone)) == parsed
    assert points(body(rows[2:]), query(Unit.HOUR, zone)) == parsed[2:]
    assert points(body(rows[:2]), query(Unit.HOUR, zone)) == parsed[:2]


@pytest.mark.parametrize(
    ("zone", "end_of_dst"), [("Antarctica/Troll", "2026-10-25T01:00Z"), ("Australia/Lord_Howe", "2026-04-04T15:00Z")]
)
def test_zoneless_hours_of_unusual_dst_changes_are_in_order(zone: str, end_of_dst: str) -> None:
    """If DST repeats two hours, or half an hour, every part of the night has the same zone-less hours as UTC."""
    end = int(datetime.fromisoformat(end_of_dst).timestamp())
    starts = [end + number * HOUR for number in range(-4, 5)]
    rows = [{"time": HourFormat.ZONELESS.write(start, ZoneInfo(zone)), "count": 1} for start in starts]
    for first, last in itertools.combinations(range(10), 2):
        if last - first >= 4:
            parsed = points(body(rows[first:last]), query(Unit.HOUR, ZoneInfo(zone)))
            assert [point.start for point in parsed] == starts[first:last]


def test_repeated_hour_outside_dst_is_rejected() -> None:
    """A repeated hour on any day without a DST change is an error."""
    rows = [{"time": "2026-11-02T01:00:00", "count": number} for number in range(2)]
    with pytest.raises(
        BrazeError, match=r"invalid_response: malformed response: bucket 2026-11-02T06:00Z has two different values"
    ):
        points(body(rows), query(Unit.HOUR, ZoneInfo("America/New_York")))


def test_single_dst_hour_is_first_pass_unless_next_follows() -> None:
    """A response with holes does not change the meaning of an hour when its range moves."""
    zone = ZoneInfo("America/New_York")
    rows = [{"time": f"{text}:00:00", "count": 1} for text in ("2026-10-31T23", "2026-11-01T01", "2026-11-01T05")]
    parsed = points(body(rows), query(Unit.HOUR, zone))
    assert points(body(rows[1:]), query(Unit.HOUR, zone)) == parsed[1:]


def test_days_with_dst_change_are_not_hours() -> None:
    """Days instead of hours are an error, also if one of them has 23 hours."""
    rows = [{"time": f"2026-03-{day}", "count": 1} for day in ("07T05:00:00Z", "08T05:00:00Z", "09T04:00:00Z")]
    with pytest.raises(BrazeError, match="the rows are days instead of hours"):
        points(body(rows), query(Unit.HOUR, ZoneInfo("America/New_York")))


@pytest.mark.parametrize("written", ["2026-11-23T12:20:00Z", "2026-11-23T12:00:01Z", "2026-11-23T07:30:00"])
def test_hour_off_the_hour_is_rejected(written: str) -> None:
    """An hour that does not begin on the hour is an error."""
    with pytest.raises(BrazeError, match="a time is not on the hour"):
        points(body([{"time": written, "count": 5}]), query(Unit.HOUR, ZoneInfo("America/New_York")))


@pytest.mark.parametrize("written", ["2026-11-23T12:30:00Z", "2026-11-23T18:00:00+05:30", "2026-11-23T12:00:00Z"])
def test_hour_of_half_hour_zone_is_accepted(written: str) -> None:
    """In a timezone with a half-hour offset, an hour may begin on the local hour or on the UTC hour."""
    (point,) = points(body([{"time": written, "count": 5}]), query(Unit.HOUR, ZoneInfo("Asia/Kolkata")))
    assert point.start == int(datetime.fromisoformat(written).timestamp())


@pytest.mark.parametrize(
    ("unit", "ahead", "is_rejected"),
    [
        (Unit.HOUR, 0, False),
        (Unit.HOUR, 300, False),
        (Unit.HOUR, 301, True),
        (Unit.DAY, 24 * HOUR, False),
        (Unit.DAY, 48 * HOUR, True),
    ],
)
def test_future_bucket_is_rejected(unit: Unit, ahead: int, is_rejected: bool) -> None:  # noqa: FBT001
    """An hour may begin five minutes ahead of either clock, and a day may be tomorrow, as clocks and zones differ."""
    noon = datetime(2026, 11, 23, 12, tzinfo=UTC)
    time = noon.isoformat() if unit is Unit.HOUR else (noon + timedelta(seconds=ahead)).date().isoformat()
    latest = noon.timestamp() - (ahead if unit is Unit.HOUR else 0)
    content = body([{"time": time, "count": 5}])
    if is_rejected:
        with pytest.raises(BrazeError, match="a time is in the future"):
            parsing.parse_series(query(unit), content, 1, latest - HOUR, latest)
    else:
        assert parsing.parse_series(query(unit), content, 1, latest - HOUR, latest)[0].points[0].value == 5


@pytest.mark.parametrize(
    ("unit", "back", "is_rejected"),
    [(Unit.HOUR, 25, False), (Unit.HOUR, 26, True), (Unit.DAY, 25, False), (Unit.DAY, 26, True)],
)
@pytest.mark.parametrize("is_history", [False, True])
def test_row_older_than_requested_range_is_rejected(
    unit: Unit, back: int, *, is_rejected: bool, is_history: bool
) -> None:
    """A response may begin two buckets early, as Braze does not document whether the end is included."""
    noon = datetime(2026, 11, 23, 12, tzinfo=UTC)
    time = noon - timedelta(**{f"{unit}s": back})
    content = body([{"time": time.isoformat() if unit is Unit.HOUR else time.date().isoformat(), "count": 5}])
    requested, clock = query(unit), noon.timestamp()
    if is_history:
        requested, clock = replace(requested, ending_at=int(clock)), LATER
    if is_rejected:
        with pytest.raises(BrazeError, match="a row is older than the requested buckets"):
            parsing.parse_series(requested, content, 24, clock, clock + HOUR)
    else:
        assert parsing.parse_series(requested, content, 24, clock, clock + HOUR)[0].points[0].value == 5


@pytest.mark.parametrize("written", ["2026-11-23", "20261123", "2026-W48-1"])
def test_date_alone_as_hour_is_rejected(written: str) -> None:
    """A date without a time is an error in an hourly response, as its count would cover 24 hours."""
    with pytest.raises(BrazeError, match="a row has a date instead of an hour"):
        points(body([{"time": written, "count": 5}]), query())
    assert points(body([{"time": written, "count": 5}]), query(Unit.DAY))[0].value == 5


@pytest.mark.parametrize(
    ("values", "points", "newest"),
    [
        ([2, HOLE, ABSENT], [(0, 2)], HOUR),
        ([HOLE, 0, 3], [(HOUR, 0), (2 * HOUR, 3)], 2 * HOUR),
        ([ABSENT] * 3, [], None),
    ],
)
def test_holes_are_buckets_without_points(
    values: list[float], points: list[tuple[int, float]], newest: int | None
) -> None:
    """The points of a series are its numbers, and its newest bucket may be a hole."""
    series = Series(only_head(CUSTOM_EVENTS.metric_group), (0, HOUR, 2 * HOUR), array("d", values))
    assert ([*series.points], series.newest_start) == (points, newest)


def test_unchanged_parts_of_response_are_same_objects() -> None:
    """A response equals the parsed one, and shares with the previous one each equal series, or its starts and head."""

    def make_response(draw: Random) -> tuple[Series, ...]:
        starts = tuple(range(0, draw.choice((1, 2)) * HOUR, HOUR))
        zone = draw.choice(("", "", "", "Asia/Tokyo"))
        return tuple(
            Series(
                SeriesHead(CUSTOM_EVENTS.metric_group, (), (draw.choice("aaaab"), str(number))),
                starts,
                array("d", [draw.choice((0.0, 1.0, HOLE))] * len(starts)),
                zone,
            )
            for number in range(draw.randrange(3))
        )

    for seed in range(500):
        draw = Random(seed)  # noqa: S311 - does not need to be secure
        previous, parsed = make_response(draw), make_response(draw)
        shared = share_unchanged(parsed, previous)
        assert repr(shared) == repr(parsed)
        assert (shared is previous) == (repr(parsed) == repr(previous))
        for series, old in zip(shared, previous, strict=False):
            assert (series is old) == (repr(series) == repr(old))
            if series.head == old.head:
                assert series.head is old.head
                assert (series.starts is old.starts) == (series.starts == old.starts)


@pytest.mark.parametrize("first", [None, 5])
def test_hole_and_number_of_same_bucket_is_number(first: int | None) -> None:
    """A null and a number for the same bucket are read as the number."""
    rows = [{"time": "2026-11-23T12:00:00Z", "count": count} for count in (first, 5 if first is None else None)]
    (series,) = parsing.parse_series(query(), body(rows), 24, NOW, NOW)
    assert [*series.values] == [5]


def test_points_are_limited_to_max_length() -> None:
    """Only the newest 100 rows of a response are kept."""
    data = [{"time": f"{year}-01-{day:02}", "count": year} for year in range(2001, 2199) for day in range(1, 29)]
    parsed = points(body(data), query(Unit.DAY))
    assert len(parsed) == MAX_LENGTH
    assert parsed[-1].value == 2198


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (
            {"X-RateLimit-Limit": "250000", "X-RateLimit-Remaining": "249999", "X-RateLimit-Reset": "1592427600"},
            RateLimit(250_000.0, 249_999.0, 1_592_427_600.0),
        ),
        ({"X-RateLimit-Limit": "", "X-RateLimit-Remaining": "", "X-RateLimit-Reset": ""}, RateLimit()),
        ({}, RateLimit()),
        ({"X-RateLimit-Reset": "30"}, RateLimit(reset=1_592_424_030.0)),
        (
            {"X-RateLimit-Limit": "many", "X-RateLimit-Remaining": "-1", "X-RateLimit-Reset": "inf"},
            RateLimit(remaining=0.0, invalid_remaining="-1"),
        ),
        ({"X-RateLimit-Remaining": "5, 5"}, RateLimit(remaining=5.0)),
        ({"X-RateLimit-Remaining": "5, 6"}, RateLimit(remaining=0.0, invalid_remaining="5, 6")),
        ({"X-RateLimit-Reset": "1592427600000"}, RateLimit()),
        ({"X-RateLimit-Reset": "86400"}, RateLimit(reset=1_592_510_400.0)),
        ({"X-RateLimit-Reset": "86401"}, RateLimit()),
        ({"X-RateLimit-Reset": "1592337600"}, RateLimit(reset=1_592_337_600.0)),
        ({"X-RateLimit-Reset": "1592337599"}, RateLimit()),
        ({"X-RateLimit-Limit": "0"}, RateLimit()),
        ({"X-RateLimit-Limit": "1"}, RateLimit(1.0)),
        ({"X-RateLimit-Limit": "1000000000"}, RateLimit(1e9)),
        ({"X-RateLimit-Limit": "1000000001"}, RateLimit()),
    ],
)
def test_rate_limit_headers_are_parsed(headers: dict[str, str], expected: RateLimit) -> None:
    """Numbers are parsed, relative resets become timestamps, and an invalid number of remaining calls is 0."""
    assert parsing.parse_rate_limit(headers, now=1_592_424_000.0) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Retry-After": "30"}, 30),
        ({"Retry-After": "0"}, 0),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "1000000030"}, 30),
        ({"Retry-After": "999999999"}, 999_999_999),
        ({"Retry-After": "Sun, 09 Sep 2001 01:47:40 GMT"}, 60),
        ({"Retry-After": "Sun, 09 Sep 2001 01:46:39 GMT"}, None),
        ({"Retry-After": "30", "X-RateLimit-Retry-After": "40"}, 40),
        ({"Retry-After": "Sun, 09 Sep 2001 01:47:40 GMT", "X-RateLimit-Retry-After": "40"}, 60),
        ({"Retry-After": "later"}, None),
        ({}, None),
    ],
)
def test_longest_wait_of_retry_headers_is_used(headers: dict[str, str], expected: float | None) -> None:
    """A wait is a number of seconds, a time since the epoch or a date; times in the past are no waits."""
    assert parsing.parse_retry_after(headers, now=1_000_000_000.0) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Date": "Mon, 23 Nov 2026 12:20:00 GMT"}, datetime(2026, 11, 23, 12, 20, tzinfo=UTC).timestamp()),
        ({"Date": "Mon, 23 Nov 2026 12:20:00 -0000"}, datetime(2026, 11, 23, 12, 20, tzinfo=UTC).timestamp()),
        ({"Date": "today"}, None),
        ({"Date": ""}, None),
        ({}, None),
    ],
)
def test_date_header_is_parsed(headers: dict[str, str], expected: float | None) -> None:
    """The `Date` header gives Braze's clock; if it is missing or invalid, the clock is unknown."""
    assert parsing.parse_date(headers) == expected


def test_every_status_has_a_reason() -> None:
    """Only the statuses 200 and 201 have no failure reason."""
    expected = {
        status: Reason.SERVER_ERROR if 500 <= status < 600 else Reason.UNEXPECTED_STATUS for status in range(100, 1_000)
    }
    reasons = {status: parsing.reason_for_status(status) for status in range(100, 1_000)}
    assert reasons == expected | {
        200: None,
        201: None,
        400: Reason.BAD_REQUEST,
        401: Reason.UNAUTHORIZED,
        403: Reason.FORBIDDEN,
        404: Reason.NOT_FOUND,
        429: Reason.RATE_LIMITED,
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [(b'{"message":"no"}', "no"), (b'{"message":7}', ""), (b"[]", ""), (b"<html>", ""), (b"[" * 100_000, "")],
)
def test_error_message_is_read(content: bytes, message: str) -> None:
    """The message of an error response is shown if it is text, whatever the rest of the body is."""
    assert parsing.read_message(content) == message
