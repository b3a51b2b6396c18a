"""Test that a bucket without a number is a hole, and that a bad response hides no newer bucket."""

import contextlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import response_faults
import transfer_faults
from fault_injection import Exchange, Fault
from recorded_counts import RecordedCounts
from simulated_braze import FaultInjectingBraze
from support import (
    CURRENT_HOUR,
    HOUR,
    KEY,
    NEW_YORK,
    NOW,
    Clock,
    ExporterRig,
    MetricsPage,
    running_braze,
    running_exporter,
    workspace_yaml,
)
from wsgi_server import Server

from braze_exporter.braze.transport import open_session
from braze_exporter.config.loading import load_config
from braze_exporter.exporter.exporter import Exporter
from braze_exporter.scheduler.plan import build_plan
from braze_exporter.simulator.inventory import Campaign, Canvas, Inventory
from braze_exporter.simulator.reply import Reply
from braze_exporter.state.state_file import open_state_file

LATEST = "braze_custom_events_hourly_latest"
SETTLED = "braze_custom_events_hourly_settled"
LATEST_START = "braze_query_latest_bucket_start_timestamp_seconds"
SETTLED_START = "braze_query_settled_bucket_start_timestamp_seconds"
TOTAL = "braze_custom_events_total"
UP = "braze_query_up"
FAILED = "braze_api_requests_failed_total"
USUAL_LENGTH = "24"  # the hours that a usual fetch requests
SHORT_LENGTH = "4"  # one hour of `settle` and three more


def hours() -> RecordedCounts:
    """Return purchases: 40 in the current hour, and 101, 102 and so on in those before it."""
    recorded = RecordedCounts(events=["purchase"])
    for back in range(120):
        recorded.set("purchase", CURRENT_HOUR - back * HOUR, 100 + back if back else 40)
    return recorded


def replace_counts(*back: int, value: object = None) -> Fault:
    """Return a fault that replaces the counts of the hours that are `back` hours before the current one."""
    starts = {CURRENT_HOUR - hour * HOUR for hour in back}

    def change(document: dict[str, Any]) -> None:
        for row in document["data"]:
            if datetime.fromisoformat(row["time"]).timestamp() in starts:
                row["count"] = value

    return response_faults.edited(change)


def take_requested_lengths(exporter: ExporterRig) -> list[str]:
    """Return the lengths requested since the last call, and clear the recorded requests."""
    requested = [request.params["length"] for request in exporter.braze.requests]
    exporter.braze.reset()
    return requested


def scrape_repeatedly(exporter: ExporterRig, times: int = 1, seconds: float = 300) -> MetricsPage:
    """Advance the clock and scrape, as often as given, and return the last page."""
    for _ in range(times):
        exporter.clock.advance(seconds)
        exporter.refresh()
    return exporter.page()


@pytest.mark.parametrize(
    ("back", "latest", "settled"),
    [(0, None, 102), (1, 40, 102), (2, 40, None), (3, 40, 102), (23, 40, 102)],
)
@pytest.mark.parametrize("is_missing", [False, True])
def test_hole_hides_only_its_bucket(
    back: int, latest: float | None, settled: float | None, *, is_missing: bool
) -> None:
    """A response with a hole succeeds; only the value and the start of the hole are absent."""

    def drop(document: dict[str, Any]) -> None:
        for row in document["data"]:
            if row["count"] is None:
                del row["count"]

    fault = replace_counts(back)
    with running_exporter("{event: purchase}", hours()) as exporter:
        exporter.braze.inject(
            (lambda exchange: response_faults.edited(drop)(_replied(exchange, fault))) if is_missing else fault
        )
        page = exporter.scrape()
        assert (page.value(UP), page.values(FAILED, reason="invalid_response")) == (1, [0])
        assert (page.value(LATEST), page.value(SETTLED)) == (latest, settled)
        assert page.value(LATEST_START) == (None if latest is None else CURRENT_HOUR)
        assert page.value(SETTLED_START) == (None if settled is None else CURRENT_HOUR - 2 * HOUR)
        scrape_repeatedly(exporter, 3)
        assert take_requested_lengths(exporter) == [USUAL_LENGTH] * 4


def _replied(exchange: Exchange, fault: Fault) -> Exchange:
    """Return the exchange with the reply of `fault`."""
    return Exchange(exchange.request, fault(exchange), exchange.wait, exchange.wait_until_cleared)


def test_hole_of_first_response_counts_from_its_first_number() -> None:
    """The first number after a hole in the first response counts 0, and later rises count."""
    recorded = hours()
    with running_exporter("{event: purchase}", recorded) as exporter:
        exporter.braze.inject(replace_counts(0, 5), times=1)
        assert exporter.scrape().value(TOTAL) == 0
        assert scrape_repeatedly(exporter).value(TOTAL) == 0
        recorded.set("purchase", CURRENT_HOUR, 47)
        recorded.set("purchase", CURRENT_HOUR - 5 * HOUR, 106)
        assert scrape_repeatedly(exporter).value(TOTAL) == 7 + 1


def test_later_hole_keeps_counter() -> None:
    """A hole in a later response does not change the counter, and later rises count once."""
    recorded = hours()
    with running_exporter("{event: purchase}", recorded) as exporter:
        exporter.scrape()
        exporter.braze.inject(replace_counts(0, 3, -1))
        assert scrape_repeatedly(exporter).value(TOTAL) == 0
        recorded.set("purchase", CURRENT_HOUR, 45)
        recorded.set("purchase", CURRENT_HOUR + HOUR, 9)
        exporter.clock.advance(HOUR)
        assert exporter.scrape().value(TOTAL) == 0
        exporter.braze.clear_faults()
        assert scrape_repeatedly(exporter).value(TOTAL) == 5 + 9


def test_response_of_holes_only_is_success_without_values() -> None:
    """A response of holes only succeeds without values and bucket starts, and later fetches have the usual length."""
    with running_exporter("{event: purchase}", hours()) as exporter:
        exporter.braze.inject(replace_counts(*range(-4, 30)))
        page = exporter.scrape()
        exporter.clock.advance(3 * HOUR)
        exporter.scrape()
        assert take_requested_lengths(exporter) == [USUAL_LENGTH, str(24 + 3)]  # three hours without a fetch
        page = scrape_repeatedly(exporter)
        assert take_requested_lengths(exporter) == [USUAL_LENGTH]
    assert page.value(UP) == 1
    assert [page.values(name) for name in (LATEST, SETTLED, LATEST_START, SETTLED_START)] == [[], [], [], []]
    assert page.value(TOTAL) == 0


@contextlib.contextmanager
def running_with_state(
    clock: Clock, braze: FaultInjectingBraze, server: Server, state_file: Path
) -> Iterator[ExporterRig]:
    """Run the exporter with a state file."""
    config = load_config(workspace_yaml(server.url, "{event: purchase}"), "config.yaml", {"BRAZE_API_KEY": KEY})
    with (
        contextlib.closing(open_session(10)) as session,
        contextlib.closing(open_state_file(str(state_file))) as store,
        contextlib.closing(Exporter(store, clock=clock, reads_lists=False)) as exporter,
    ):
        exporter.apply_config(config, build_plan(config), session)
        yield ExporterRig(clock, braze, exporter, server, session)


def test_hole_stays_unknown_after_restart(tmp_path: Path) -> None:
    """The state file records which buckets of the first response were holes."""
    clock, path = Clock(), tmp_path / "state.sqlite"
    with running_braze(hours(), clock) as (braze, server):
        braze.inject(replace_counts(0, 5), times=1)
        totals = []
        for _ in range(2):
            with running_with_state(clock, braze, server, path) as exporter:
                totals.append(exporter.scrape().value(TOTAL))
            clock.advance(300)
    assert totals == [0, 0]


def test_restart_during_repair_fetches_from_last_complete_response(tmp_path: Path) -> None:
    """Short responses do not complete a repair; after a restart the missed hours are fetched and counted."""
    recorded, clock, path = hours(), Clock(), tmp_path / "state.sqlite"
    with running_braze(recorded, clock) as (braze, server):
        with running_with_state(clock, braze, server, path) as exporter:
            exporter.scrape()
            braze.inject(replace_counts(1, value=-1))
            clock.advance(30 * HOUR)
            assert scrape_repeatedly(exporter, 2).value(UP) == 1
        recorded.set("purchase", CURRENT_HOUR - 2 * HOUR, 109)
        braze.clear_faults()
        braze.reset()
        clock.advance(1)  # a restart adds no calls to the budget
        with running_with_state(clock, braze, server, path) as exporter:
            assert scrape_repeatedly(exporter, 2).value(TOTAL) == 7
            assert str(24 + 30) in take_requested_lengths(exporter)


def test_hole_of_campaign_hides_one_value() -> None:
    """A statistic that is null has no value on that day; the other statistics keep theirs."""

    def change(document: dict[str, Any]) -> None:
        newest = document["data"][-1]
        newest["messages"]["email"][0]["opens"] = None
        newest["conversions"] = None

    with campaign() as exporter:
        exporter.braze.inject(response_faults.edited(change), path="/campaigns/data_series", times=1)
        first = exporter.scrape()
        exporter.clock.advance(900)
        second = exporter.scrape()
    name = "braze_campaign_messages_daily_latest"
    assert first.value("braze_query_up", kind="campaigns") == 1
    assert (first.value(name, stat="sent"), first.values(name, stat="opens")) == (1_000, [])
    assert first.values("braze_campaign_conversions_daily_latest") == []
    assert first.value("braze_campaign_revenue_dollars_daily_latest") is not None
    assert (second.value(name, stat="opens"), second.value("braze_campaign_conversions_daily_latest")) == (410, 30)
    assert second.value("braze_campaign_messages_total", stat="opens") == 0
    assert second.value("braze_campaign_conversions_total") == 0


def test_fast_clock_does_not_shorten_repair() -> None:
    """The last success is stored by Braze's clock, so correcting a fast local clock does not shorten a repair."""
    with running_exporter("{event: purchase}", hours()) as exporter:
        clock = exporter.clock
        clock.now += 30 * HOUR
        exporter.braze.clock = lambda: NOW
        exporter.scrape()
        clock.now = NOW
        exporter.braze.clock = clock.wall
        take_requested_lengths(exporter)
        clock.advance(30 * HOUR)
        exporter.scrape()
        assert take_requested_lengths(exporter) == [str(24 + 30)]


MALFORMED: dict[str, Callable[[dict[str, Any]], object]] = {
    "negative": lambda row: row.update(count=-1),
    "text": lambda row: row.update(count="7"),
    "NaN": lambda row: row.update(count=math.nan),
    "bad time": lambda row: row.update(time="noon"),
    "date alone": lambda row: row.update(time=row["time"][:10]),
    "older than requested": lambda row: row.update(time=_hour(CURRENT_HOUR - 27 * HOUR)),
    "ahead": lambda row: row.update(time=_hour(CURRENT_HOUR + HOUR)),
}


def _utc(instant: float) -> str:
    return datetime.fromtimestamp(instant, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _hour(start: float) -> str:
    return datetime.fromtimestamp(start, NEW_YORK).isoformat()


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_bucket_hides_no_newer_bucket(name: str) -> None:
    """After a malformed response every second fetch requests only the newest buckets; failed repairs are counted."""

    def change(document: dict[str, Any]) -> None:
        if len(document["data"]) > int(SHORT_LENGTH):
            MALFORMED[name](document["data"][-int(SHORT_LENGTH) - 1])

    recorded = hours()
    with running_exporter("{event: purchase}", recorded) as exporter:
        exporter.scrape()
        exporter.braze.inject(response_faults.edited(change))
        take_requested_lengths(exporter)
        failed = scrape_repeatedly(exporter)
        assert (failed.value(UP), failed.value(FAILED, reason="invalid_response")) == (0, 1)
        page = scrape_repeatedly(
            exporter, seconds=15
        )  # the next scrape fetches the newest buckets without waiting for `refresh_interval`
        assert (page.value(UP), page.value(LATEST), page.value(SETTLED)) == (1, 40, 102)
        recorded.set("purchase", CURRENT_HOUR, 43)
        recorded.set("purchase", CURRENT_HOUR - 10 * HOUR, 115)  # a late arrival that short fetches do not reach
        for repairs in (2, 3, 4):
            page = scrape_repeatedly(exporter)
            assert (page.value(UP), page.value(FAILED, reason="invalid_response")) == (1, repairs)
            page = scrape_repeatedly(exporter)
            assert (page.value(UP), page.value(LATEST), page.value(TOTAL)) == (1, 43, 3)
        assert take_requested_lengths(exporter) == [USUAL_LENGTH, SHORT_LENGTH] * 4
        exporter.braze.clear_faults()
        assert scrape_repeatedly(exporter, 2).value(TOTAL) == 3 + 5
        assert take_requested_lengths(exporter) == [USUAL_LENGTH, USUAL_LENGTH]


def test_malformed_bucket_hides_nothing_for_days() -> None:
    """A permanently malformed hour never hides the newest hours, even after days."""
    recorded = hours()
    with running_exporter("{event: purchase}", recorded) as exporter:
        exporter.scrape()
        exporter.braze.inject(replace_counts(1, value=-3))
        for hour in range(1, 120):
            exporter.clock.advance(HOUR - 600)
            recorded.set("purchase", CURRENT_HOUR + hour * HOUR, 1)
            page = scrape_repeatedly(exporter, 2)  # a repair and a short fetch, in either order
            if hour > 4:  # until then it is one of the newest hours
                assert (page.value(UP), page.value(LATEST_START)) == (1, CURRENT_HOUR + hour * HOUR), hour
                assert page.value(TOTAL) == hour
        assert take_requested_lengths(exporter)[-4:] == [USUAL_LENGTH] * 4


def test_short_first_response_keeps_counter_floor_of_repair() -> None:
    """Buckets that a short first response does not reach are unknown, and count 0 in the first full response."""
    recorded = hours()
    with running_exporter("{event: purchase}", recorded) as exporter:
        exporter.braze.inject(replace_counts(9, value=-1))
        exporter.scrape()
        recorded.set("purchase", CURRENT_HOUR, 50)
        assert scrape_repeatedly(exporter, seconds=15).value(TOTAL) == 0
        recorded.set("purchase", CURRENT_HOUR, 51)
        exporter.braze.clear_faults()
        assert scrape_repeatedly(exporter).value(TOTAL) == 1
        recorded.set("purchase", CURRENT_HOUR - 9 * HOUR, 110)
        assert scrape_repeatedly(exporter).value(TOTAL) == 1 + 1


@pytest.mark.parametrize("minutes", [4, 6])
def test_hour_slightly_ahead_is_accepted(minutes: int) -> None:
    """An hour may begin up to 5 minutes ahead of both clocks; otherwise the response is malformed."""
    clock = Clock(CURRENT_HOUR + HOUR - minutes * 60)
    recorded = hours()
    recorded.set("purchase", CURRENT_HOUR + HOUR, 2)
    ahead = response_faults.edited(
        lambda content: content["data"].append({"time": _hour(CURRENT_HOUR + HOUR), "count": 2})
    )
    with running_exporter("{event: purchase}", recorded, clock=clock) as exporter:
        exporter.braze.inject(ahead)
        page = exporter.scrape()
    assert (page.value(UP), page.value(LATEST)) == ((1, 2) if minutes == 4 else (0, None))


@pytest.mark.parametrize(("ahead", "up"), [(1, 1), (2, 0)])
def test_tomorrow_is_accepted_and_day_after_is_malformed(ahead: int, up: float) -> None:
    """Tomorrow's day is accepted and reported as a timezone mismatch; the day after tomorrow is malformed."""
    day = (datetime.fromtimestamp(NOW, NEW_YORK) + timedelta(days=ahead)).date().isoformat()
    with running_exporter("{event: purchase, unit: day}", hours()) as exporter:
        exporter.braze.inject(response_faults.edited(lambda content: content["data"].append({"time": day, "count": 1})))
        page = exporter.scrape()
    assert page.value("braze_query_up") == up
    assert page.values("braze_workspace_timezone_mismatch") == ([1] if up else [])


MEBIBYTE = 1024 * 1024


def padded(bytes_of: Callable[[int], int]) -> Fault:
    """Return a fault that pads the correct response to a size that depends on its number of rows."""

    def fault(exchange: Exchange) -> Reply:
        content = exchange.reply.read()
        document = json.loads(content)
        rows = document["data"] if isinstance(document["data"], list) else document["data"]["stats"]
        headers = {name: text for name, text in exchange.reply.headers.items() if name != "Content-Length"}
        return Reply(200, headers, content.ljust(bytes_of(len(rows))))

    return fault


def test_response_of_8_mib_is_read() -> None:
    """A body of 8 MiB after decompression is accepted, and a larger one fails."""
    with running_exporter("{event: purchase}", hours()) as exporter:
        exporter.braze.inject(padded(lambda _rows: 8 * MEBIBYTE))
        assert exporter.scrape().value(LATEST) == 40
        exporter.braze.inject(padded(lambda _rows: 8 * MEBIBYTE + 1))
        page = scrape_repeatedly(exporter)
    assert (page.value(UP), page.value(FAILED, reason="too_large")) == (0, 1)


def test_oversized_response_is_requested_in_chunks() -> None:
    """After an oversized response the gap is fetched in shorter chunks, newest first, and each hour counts once."""
    recorded = hours()
    with running_exporter("{event: purchase}", recorded) as exporter:
        exporter.scrape()
        take_requested_lengths(exporter)
        exporter.clock.advance(72 * HOUR)
        for hour in range(1, 73):
            recorded.set("purchase", CURRENT_HOUR + hour * HOUR, 10)
        exporter.braze.inject(padded(lambda rows: rows * 8 * MEBIBYTE // 60))
        page = exporter.scrape()
        assert (page.value(UP), page.value(FAILED, reason="too_large")) == (0, 1)
        page = scrape_repeatedly(exporter, seconds=15)
        assert (page.value(UP), page.value(LATEST), page.value(TOTAL)) == (1, 10, 4 * 10)
        page = scrape_repeatedly(exporter)
        assert page.value(TOTAL) == 48 * 10
        page = scrape_repeatedly(exporter, 2)
        older = exporter.braze.requests[-1].params
        assert older["ending_at"] == _utc(CURRENT_HOUR + (72 - 47) * HOUR - 1)  # the second before the newest 48 hours
        assert take_requested_lengths(exporter) == ["96", "4", "48", "4", "48"]
        assert (page.value(TOTAL), page.value(FAILED, reason="too_large")) == (72 * 10, 1)
        assert page.value(LATEST_START) == CURRENT_HOUR + 72 * HOUR  # although the older chunk was fetched last
        scrape_repeatedly(exporter, 2)
        assert take_requested_lengths(exporter) == [USUAL_LENGTH, USUAL_LENGTH]
        exporter.clock.advance(72 * HOUR)
        exporter.scrape()
        assert take_requested_lengths(exporter) == ["48"]  # the working length is remembered


@pytest.mark.parametrize("ahead", [0, 120, 5 * HOUR, -5 * HOUR])
@pytest.mark.parametrize("is_first_empty", [False, True])
def test_chunks_of_repair_leave_no_gap(ahead: int, *, is_first_empty: bool) -> None:
    """Each hour of an outage counts once, whichever clock is ahead, also with an empty response in between.

    No request is longer than the last one that was not oversized.
    """
    clock, recorded = Clock(CURRENT_HOUR + HOUR - 375), hours()
    with running_exporter("{event: purchase}", recorded, clock=clock) as exporter:
        exporter.braze.clock = lambda: clock.now + ahead
        exporter.scrape()
        start = int(clock.now + ahead) // HOUR * HOUR
        clock.advance(72 * HOUR)
        for hour in range(1, 73):
            recorded.set("purchase", start + hour * HOUR, 10)
        exporter.braze.inject(padded(lambda rows: rows * 8 * MEBIBYTE // 30))
        exporter.refresh()
        scrape_repeatedly(exporter, seconds=15)
        if is_first_empty:
            exporter.braze.inject(response_faults.data([]), times=1)
        assert scrape_repeatedly(exporter, 20).value(TOTAL) == 720
        lengths = {int(length) for length in take_requested_lengths(exporter)}
        assert max(lengths - {max(lengths), max(lengths) // 2}) == max(lengths) // 4


def test_values_after_oversized_responses_are_complete() -> None:
    """While even short responses are oversized, the query is down; afterwards all values are shown and counted."""
    recorded = hours()
    with running_exporter("{event: purchase}", recorded) as exporter:
        exporter.scrape()
        exporter.braze.inject(transfer_faults.huge(9 * MEBIBYTE))
        scrape_repeatedly(exporter)
        assert scrape_repeatedly(exporter, seconds=15).value(UP) == 0
        assert scrape_repeatedly(exporter).value(UP) == 0
        exporter.braze.clear_faults()
        recorded.set("purchase", CURRENT_HOUR - 20 * HOUR, 125)
        page = scrape_repeatedly(exporter, 15)
        assert (page.value(UP), page.value(SETTLED) is not None, page.value(TOTAL)) == (1, True, 5)
        assert {*take_requested_lengths(exporter)} <= {USUAL_LENGTH, "12", "6", "5", SHORT_LENGTH, "2"}
        exporter.clock.advance(7 * 86_400)
        scrape_repeatedly(exporter, 6)
        assert max(map(int, take_requested_lengths(exporter))) >= int(
            USUAL_LENGTH
        )  # a week later the usual length is tried again


def test_failed_repair_still_fetches_newest_buckets() -> None:
    """If a repair fails with 503, short fetches continue in between."""
    with running_exporter("{event: purchase}", hours()) as exporter:
        exporter.scrape()
        exporter.braze.inject(replace_counts(9, value=-1))
        scrape_repeatedly(exporter)
        scrape_repeatedly(exporter, seconds=15)
        exporter.braze.inject(
            lambda exchange: (
                exchange.reply
                if exchange.request.params["length"] == SHORT_LENGTH
                else response_faults.status(503)(exchange)
            )
        )
        for _ in range(20):
            page = scrape_repeatedly(exporter)
            this_hour = int(exporter.clock.now) // HOUR * HOUR
            assert (page.value(UP), page.value(LATEST_START)) in [(1, this_hour), (1, this_hour - HOUR)]
        exporter.braze.clear_faults()
        scrape_repeatedly(exporter, 4)
        assert take_requested_lengths(exporter)[-1] == USUAL_LENGTH


def test_failed_older_chunk_is_followed_by_newest_buckets() -> None:
    """After an older chunk fails, the newest buckets are fetched first."""
    recorded = hours()
    with running_exporter("{event: purchase}", recorded) as exporter:
        exporter.scrape()
        exporter.clock.advance(72 * HOUR)
        exporter.braze.inject(padded(lambda rows: rows * 8 * MEBIBYTE // 60))
        exporter.refresh()
        scrape_repeatedly(exporter, seconds=15)
        scrape_repeatedly(exporter, 2)
        exporter.braze.inject(response_faults.status(503), times=1)
        assert scrape_repeatedly(exporter).value(UP) == 1
        assert scrape_repeatedly(exporter).value(UP) == 1


@pytest.mark.parametrize("fetches", [1, 3])
def test_malformed_response_is_retried_at_once_at_most_hourly(fetches: int) -> None:
    """After a malformed response, a query is due again immediately, at most once an hour.

    One of so many `fetches` is malformed. With 3, a complete repair follows each time.
    """
    with running_exporter("{event: purchase}", hours()) as exporter:
        for _ in range(24 // fetches):
            exporter.braze.inject(replace_counts(9, value=-1), times=1)
            scrape_repeatedly(exporter, 4 * fetches, seconds=75)
        assert len(exporter.braze.requests) <= 24 + 3


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Kolkata"])
def test_short_empty_first_response_counts_nothing(zone: str) -> None:
    """After a short, empty first response, the hours it does not reach and the current hour count 0."""
    with running_exporter("{event: purchase}", hours(), clock=Clock(NOW + 11)) as exporter:
        exporter.apply_config("{event: purchase}", **{"America/New_York": zone})
        exporter.braze.inject(replace_counts(9, value=-1), times=1)
        exporter.refresh()
        exporter.braze.inject(response_faults.data([]), times=1)
        scrape_repeatedly(exporter, seconds=15)
        assert scrape_repeatedly(exporter).value(TOTAL) == 0


CAMPAIGN = "0c38a773-8e62-4f0c-9e0f-1a2b3c4d5e6f"


def edited_email(change: Callable[[dict[str, Any]], object], *, in_all: bool = False) -> Fault:
    """Return a fault that changes the newest row of a campaign, or all rows."""

    def apply(document: dict[str, Any]) -> None:
        for row in document["data"] if in_all else document["data"][-1:]:
            change(row)

    return response_faults.edited(apply)


@contextlib.contextmanager
def campaign() -> Iterator[ExporterRig]:
    """Run the exporter for a campaign that has sent 1,000 emails today."""
    with running_exporter(
        "{event: purchase}", hours(), extra_yaml=f"    campaigns: [{{campaign: {CAMPAIGN}}}]\n"
    ) as exporter:
        exporter.braze.inventory = Inventory(campaigns=(Campaign(CAMPAIGN, "Welcome", channels=("email",)),))
        figures = RecordedCounts()
        figures.set(f"campaigns/{CAMPAIGN}", CURRENT_HOUR, 1_000)
        exporter.braze.series_counts = figures
        yield exporter


@pytest.mark.parametrize(
    "fault",
    [
        edited_email(lambda row: row["messages"]["email"][0].update(sent=None), in_all=True),
        edited_email(lambda row: row["messages"]["email"][0].pop("sent")),
        edited_email(lambda row: row["messages"].update(email=None)),
        edited_email(lambda row: row.update(messages=None)),
        edited_email(lambda row: row.pop("messages")),
        edited_email(lambda row: row["messages"]["email"].append({"variation_api_id": None, "sent": None})),
    ],
)
def test_first_number_after_campaign_hole_counts_zero(fault: Fault) -> None:
    """A null at any level is a hole, and the first number of that day counts 0."""
    with campaign() as exporter:
        exporter.braze.inject(fault, path="/campaigns/data_series", times=1)
        page = exporter.scrape()
        assert page.value("braze_query_up", kind="campaigns") == 1
        for _ in range(2):  # the second page has what a new series has counted before
            exporter.clock.advance(900)
            page = exporter.scrape()
        assert {*page.values("braze_campaign_messages_total")} == {0}


@pytest.mark.parametrize("value", ["1000", True, [7]])
def test_campaign_statistic_that_is_no_number_is_malformed(value: object) -> None:
    """A value that is not a number is malformed if other days have a number in that field."""
    with campaign() as exporter:
        fault = edited_email(lambda row: row["messages"]["email"][0].update(sent=value))
        exporter.braze.inject(fault, path="/campaigns/data_series")
        page = exporter.scrape()
    assert page.value("braze_query_up", kind="campaigns") == 0
    assert page.values("braze_campaign_messages_daily_latest") == []


def test_late_rises_of_variation_count_after_short_first_response() -> None:
    """A variation missing from a short first response counts its later rises."""

    def add_opens(document: dict[str, Any]) -> None:
        if len(document["data"]) > 6:
            document["data"][-7]["messages"]["email"][0] |= {"variation_api_id": "old", "sent": 9, "opens": opens}

    def make_malformed(document: dict[str, Any]) -> None:
        add_opens(document)
        document["data"][0]["unique_recipients"] = -1

    opens = 3
    with campaign() as exporter:
        exporter.braze.inject(response_faults.edited(make_malformed), path="/campaigns/data_series", times=1)
        exporter.braze.inject(response_faults.edited(add_opens), path="/campaigns/data_series")
        exporter.scrape()
        scrape_repeatedly(exporter, seconds=15)
        scrape_repeatedly(exporter, seconds=900)
        opens = 8
        page = scrape_repeatedly(exporter, 2, seconds=900)
    assert page.value("braze_campaign_messages_total", variation_id="old", stat="opens") == 5


def test_large_campaign_response_after_outage_is_read() -> None:
    """A campaign response of more than 1 MiB, for 45 days after an outage, succeeds."""
    with campaign() as exporter:
        exporter.scrape()
        exporter.clock.advance(31 * 86_400)
        exporter.braze.inject(padded(lambda rows: rows * 24_000), path="/campaigns/data_series")
        exporter.braze.reset()
        page = exporter.scrape()
        requested = [request for request in exporter.braze.requests if request.path == "/campaigns/data_series"]
    assert [request.params["length"] for request in requested] == ["45"]
    assert page.value("braze_query_up", kind="campaigns") == 1
    assert page.value("braze_campaign_messages_daily_latest", stat="sent") == 0


def test_older_chunks_of_repair_are_used_for_baseline() -> None:
    """Hours of an outage that were fetched in chunks are used for the baselines a week later."""
    recorded = hours()
    with running_exporter("{event: purchase, baseline: {weeks: 1}}", recorded) as exporter:
        exporter.scrape()
        while not exporter.wait_for_history():
            scrape_repeatedly(exporter)
        exporter.clock.advance(72 * HOUR)
        for hour in range(1, 73):
            recorded.set("purchase", CURRENT_HOUR + hour * HOUR, 10)
        exporter.braze.inject(padded(lambda rows: rows * 8 * MEBIBYTE // 60))
        exporter.refresh()
        scrape_repeatedly(exporter, 6)
        exporter.braze.clear_faults()
        missing = []
        for hour in range(168, 168 + 72, 4):
            exporter.clock.now = NOW + hour * HOUR
            exporter.clock.elapsed = exporter.clock.now - NOW
            # An older chunk and the newest buckets, in either order.
            if scrape_repeatedly(exporter, 2).value("braze_custom_events_hourly_baseline") is None:
                missing.append(hour)
    assert missing == []


def test_settled_bucket_before_holes_is_used_for_baseline() -> None:
    """A settled bucket is used for the baseline a week later, even if all newer ones are holes for 33 hours."""
    with running_exporter("{event: purchase, baseline: {weeks: 1}}", hours()) as exporter:
        exporter.braze.inject(replace_counts(*range(-30, 3)))
        exporter.scrape()
        scrape_repeatedly(exporter, 10, 15 * HOUR)
        page = scrape_repeatedly(exporter, 1, 17 * HOUR)
        assert page.value(SETTLED_START) == CURRENT_HOUR + 165 * HOUR
        assert page.value("braze_custom_events_hourly_baseline") == 103


def test_oversized_baseline_history_is_read_in_halves() -> None:
    """History that is too large is fetched in shorter chunks, and the baseline is exposed."""
    recorded = RecordedCounts(events=["purchase"])
    for back in range(31 * 24):
        recorded.set("purchase", CURRENT_HOUR - back * HOUR, 100)
    with running_exporter("{event: purchase, baseline: {weeks: 4}}", recorded) as exporter:
        exporter.braze.inject(padded(lambda rows: rows * 8 * MEBIBYTE // 40))
        page = exporter.scrape()
        for _ in range(30):
            if exporter.wait_for_history():
                break
            page = scrape_repeatedly(exporter)
        page = scrape_repeatedly(exporter)
    assert page.value("braze_custom_events_hourly_baseline") == 100


def test_oversized_buckets_of_baseline_history_are_given_up(caplog: pytest.LogCaptureFixture) -> None:
    """Single buckets of the history that are too large are given up and logged once per query."""
    recorded = RecordedCounts(events=["purchase"])
    for back in range(17 * 24):
        recorded.set("purchase", CURRENT_HOUR - back * HOUR, 100)
    oversized = [datetime.fromtimestamp(CURRENT_HOUR - back * HOUR, UTC).strftime("%Y-%m-%dT%H") for back in (200, 210)]

    def pad_oversized(exchange: Exchange) -> Reply:
        text = exchange.reply.read()
        size = 8 * MEBIBYTE + 1 if any(time in text.decode() for time in oversized) else len(text)
        return padded(lambda _rows: size)(replace(exchange, reply=replace(exchange.reply, body=text)))

    with running_exporter("{event: purchase, baseline: {weeks: 2}}", recorded) as exporter:
        exporter.braze.inject(pad_oversized)
        exporter.scrape()
        for _ in range(400):
            if exporter.wait_for_history():
                break
            scrape_repeatedly(exporter, seconds=10)
        assert exporter.wait_for_history()
        page = scrape_repeatedly(exporter)
    assert page.value("braze_custom_events_hourly_baseline") == 100
    message = "History response too large, baseline is incomplete"
    given_up = [record.__dict__["fields"] for record in caplog.records if record.getMessage() == message]
    assert [fields["event"] for fields in given_up] == ["purchase"]


def test_canvas_with_200_steps_is_read() -> None:
    """The response for a Canvas with 200 steps and three channels, of several MiB, succeeds."""
    canvas = "1d49b884-9f73-4a1d-8f10-2b3c4d5e6f70"
    steps = tuple((f"Step {number} of the welcome series", "email") for number in range(200))

    def add_channels(document: dict[str, Any]) -> None:
        for row in document["data"]["stats"]:
            for step in row["step_stats"].values():
                push = [{"sent": 1, "direct_opens": 1, "total_opens": 1, "bounces": 0, "body_clicks": 0}]
                step["messages"] |= {"ios_push": push, "android_push": push}

    with running_exporter(
        "{event: purchase}", hours(), extra_yaml=f"    canvases: [{{canvas: {canvas}}}]\n"
    ) as exporter:
        exporter.braze.inventory = Inventory(canvases=(Canvas(canvas, "Welcome", steps=steps),))
        exporter.braze.inject(response_faults.edited(add_channels), path="/canvas/data_series")
        page = exporter.scrape(60)
    assert page.value("braze_query_up", kind="canvases") == 1
    assert len(page.values("braze_canvas_messages_daily_latest", channel="ios_push", stat="sent")) == 200
