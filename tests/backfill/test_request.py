"""Test that backfill arguments are parsed or refused with one line of advice, and that calls cover the whole span."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from backfills import TARGET
from hypothesis import example, given
from hypothesis import strategies as st
from support import HOUR, NEW_YORK, NOW, workspace_yaml

from braze_exporter.backfill.request import BackfillError, BackfillRequest, build_request, parse_label, parse_time
from braze_exporter.braze.buckets import bucket_end, bucket_start
from braze_exporter.braze.kinds import CUSTOM_EVENTS, MAX_LENGTH, Unit
from braze_exporter.braze.query import Query
from braze_exporter.config.loading import load_config
from braze_exporter.scheduler.plan import Plan, build_plan

# Unusual timezones: offsets of half and quarter hours, a DST shift of half an hour, a skipped day.
ZONES = ["UTC", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe", "Pacific/Apia", "America/Havana"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-31", datetime(2026, 1, 31, tzinfo=NEW_YORK)),
        ("2026-01-31T12:00:00Z", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("2026-01-31T12:00:00.5+05:45", datetime(2026, 1, 31, 6, 15, 0, 500_000, tzinfo=UTC)),
        ("2026-01-31 12:00-05:00", datetime(2026, 1, 31, 17, tzinfo=UTC)),
        ("1769860800", datetime(2026, 1, 31, 12, tzinfo=UTC)),
        ("1769860800.25", datetime(2026, 1, 31, 12, 0, 0, 250_000, tzinfo=UTC)),
    ],
)
def test_time_argument_is_date_instant_or_unix_seconds(text: str, expected: datetime) -> None:
    """Dates, instants and Unix seconds are accepted, and the result prints as a text that parses to the same value."""
    moment = parse_time(text)
    assert moment.in_zone(NEW_YORK) == expected.timestamp()
    assert parse_time(str(moment)) == moment


@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "2026-02-30", "2026-01-31T12:00:00", "31.01.2026", "20260131", "99", "1999-12-31", "-1", "nan"],
)
def test_invalid_time_argument_is_refused(text: str) -> None:
    """Nonexistent dates, times without an offset and times before Braze existed are refused."""
    with pytest.raises(ValueError, match=r"^invalid time .*; expected (a date|the year 2000 or later)"):
        parse_time(text)


@pytest.mark.parametrize(
    ("text", "expected"), [("job=braze", ("job", "braze")), ("a=b=c", ("a", "b=c")), ("pod=", ("pod", ""))]
)
def test_label_argument_is_name_and_value(text: str, expected: tuple[str, str]) -> None:
    """A label argument is split at its first equals sign."""
    assert parse_label(text) == expected


@pytest.mark.parametrize("text", ["", "job", "=braze", "jöb=braze", "1st=x", "a-b=x", "__name__=x", "job=\udce9"])
def test_invalid_label_argument_is_refused(text: str) -> None:
    """A label name or value that Prometheus would reject is refused."""
    with pytest.raises(ValueError, match=r"^invalid label .*; expected name=value|is not valid UTF-8"):
        parse_label(text)


def plan(events: str = "{event: purchase}") -> Plan:
    """Return the plan of a config."""
    return build_plan(load_config(workspace_yaml("https://rest.iad-01.braze.com", events), "config.yaml"))


def backfill_request(directory: Path, **changes: str) -> BackfillRequest:
    """Return a valid `BackfillRequest` with changes."""
    start, end = (
        parse_time(changes.get(name, default)) for name, default in (("start", "2026-01-01"), ("end", "2026-11-20"))
    )
    return BackfillRequest(start, end, TARGET, directory / changes.get("output", "history.om"))


def test_valid_request_is_accepted(tmp_path: Path) -> None:
    """A valid request passes, also with an end exactly three hours before now."""
    backfill_request(tmp_path).validate(plan(), NOW)
    backfill_request(tmp_path, end=str(NOW - 3 * HOUR)).validate(plan(), NOW)


@pytest.mark.parametrize(
    ("changes", "failure"),
    [
        ({"start": "2026-11-20"}, r"--start=2026-11-20 is not before --end=2026-11-20$"),
        ({"start": "2026-12-01"}, r"--start=2026-12-01 is not before --end=2026-11-20$"),
        ({"end": "2027-01-01"}, r"--end=2027-01-01 is in the future, or within .* set 2026-11-23T09:20:00Z or earlier"),
        (
            {"end": str(int(NOW) - 3 * HOUR + 1)},
            r"--end=2026-11-23T09:20:01Z is in the future, or within the last three",
        ),
        (
            {"start": "2026-11-19T22:00:00-05:00"},
            r"no bucket starts, ends and settles between --start=.*; set a longer",
        ),
        (
            {"output": "nowhere/history.om"},
            r"--output=.*/nowhere/history.om: directory .*/nowhere does not exist; create it",
        ),
        ({"output": "there"}, r"--output=.*/there already exists; choose another path, or remove the file"),
        ({"output": "."}, r"already exists"),
    ],
)
def test_invalid_request_is_refused(tmp_path: Path, changes: dict[str, str], failure: str) -> None:
    """Each invalid request is refused in one line with advice, and an existing file is left unchanged."""
    (tmp_path / "there").write_text("precious")
    with pytest.raises(BackfillError, match=failure) as error:
        backfill_request(tmp_path, **changes).validate(plan(), NOW)
    assert "\n" not in str(error.value)
    assert (tmp_path / "there").read_text() == "precious"


@pytest.mark.parametrize(
    ("labels", "failure"),
    [
        (
            [("job", "braze")],
            "--label instance=… is required. .* in the same series. .* no such label, set --label instance=$",
        ),
        ([("instance", "x")], "--label job=… is required"),
        ([*TARGET, ("event", "x")], "--label event is a label of the exported series; remove it"),
        ([*TARGET, ("workspace", "x")], "--label workspace is a label of the exported series"),
        ([*TARGET, ("job", "other")], "duplicate --label job; set each label once"),
    ],
)
def test_conflicting_or_missing_labels_are_refused(tmp_path: Path, labels: list[tuple[str, str]], failure: str) -> None:
    """The labels of the scrape target are required, and labels that the series already have are refused."""
    with pytest.raises(BackfillError, match=failure):
        replace(backfill_request(tmp_path), labels=tuple(labels)).validate(plan(), NOW)
    replace(backfill_request(tmp_path), labels=(*TARGET, ("pod", ""))).validate(plan(), NOW)


def test_missing_end_error_names_query(tmp_path: Path) -> None:
    """If `--end` is missing, the error shows a query for a metric that only scrapes produce, with the given labels."""
    with pytest.raises(BackfillError) as error:
        build_request(parse_time("2026-01-01"), None, [("job", 'a"b')], tmp_path / "history.om")
    assert r'timestamp(braze_exporter_build_info{job="a\"b"})[1y:1m]' in str(error.value)


@given(
    st.datetimes(datetime(2009, 1, 1), datetime(2030, 1, 1)),  # noqa: DTZ001 - gets a timezone below
    st.integers(1, 250),
    st.sampled_from(Unit),
    st.sampled_from(ZONES),
    st.sampled_from([1.0, 3_600.0, 7_200.0, 5_400.5, 40 * 86_400.0]),
)
@example(datetime(2009, 1, 1, 0, 30, 1), 1, Unit.HOUR, "UTC", 5_400.5)  # noqa: DTZ001 - as above
def test_chunks_cover_every_bucket_and_end_in_the_past(
    first: datetime, days: int, unit: Unit, name: str, settle: float
) -> None:
    """Each requested bucket is among the newest 100 of some call, and each call ends before the end of the span."""
    zone = ZoneInfo(name)
    start = first.replace(microsecond=0, tzinfo=zone)
    wanted = BackfillRequest(
        parse_time(start.isoformat()),
        parse_time((start + timedelta(days=days, hours=7)).isoformat()),
        TARGET,
        Path("x"),
    )
    query = Query("production", CUSTOM_EVENTS, unit, "purchase", zone=zone, settle_seconds=settle)
    calls = wanted.chunks(query)
    covered: set[int] = set()
    for call in calls:
        assert call.length == MAX_LENGTH
        assert call.ending_at is not None
        assert call.ending_at < wanted.end.in_zone(zone) - settle
        covered.update(_newest(call.ending_at, unit, zone))
    started = bucket_start(wanted.start.in_zone(zone), unit, zone)
    while started < wanted.end.in_zone(zone):
        ended = bucket_end(started, unit, zone)
        if started >= wanted.start.in_zone(zone) and ended + settle < wanted.end.in_zone(zone):
            assert started in covered
        started = ended
    hours = (wanted.end.in_zone(zone) - wanted.start.in_zone(zone)) / unit.seconds
    assert len(calls) <= hours // (MAX_LENGTH - 1) + 1


def _newest(ending_at: int, unit: Unit, zone: ZoneInfo) -> set[int]:
    """Return the 100 newest buckets that Braze returns for an `ending_at`."""
    if unit is Unit.HOUR:
        last = ending_at // HOUR * HOUR
        return {last - back * HOUR for back in range(MAX_LENGTH)}
    day = datetime.fromtimestamp(ending_at, zone).date()
    days = (day - timedelta(days=back) for back in range(MAX_LENGTH))
    return {int(datetime.combine(date_, datetime.min.time(), zone).timestamp()) for date_ in days}
