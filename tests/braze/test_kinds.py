"""Test every kind of series that Braze offers, from the simulated Braze to the metrics page."""

import json
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import response_faults
from fault_injection import Exchange, Fault
from hypothesis import given
from hypothesis import strategies as st
from recorded_counts import RecordedCounts
from support import (
    CURRENT_HOUR,
    HOUR,
    IOS,
    NEW_YORK,
    NOW,
    VIP,
    Clock,
    ExporterRig,
    MetricsPage,
    all_sections_yaml,
    running_exporter,
)

from braze_exporter.braze import parsing
from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.kinds import CAMPAIGNS, CANVASES, KINDS, SeriesKind, Unit
from braze_exporter.braze.query import Query
from braze_exporter.simulator.inventory import Campaign, Canvas, Inventory
from braze_exporter.simulator.message_rows import make_id
from braze_exporter.simulator.reply import Reply
from braze_exporter.web.status_response import read_status_response

CAMPAIGN = Campaign("d8b73da7-0b7c-fc72-1d80-2f6e9c41ab05", "Win-back", channels=("email", "ios_push"))
CANVAS = Canvas("4ffe74b7-ca90-4046-ae7f-68b1b337f6a6", "Onboarding", steps=(("Hello", "email"), ("Wait", "")))
TODAY = int(datetime(2026, 11, 23, tzinfo=NEW_YORK).timestamp())
YESTERDAY, DAY = TODAY - 24 * HOUR, 24 * HOUR
MUG = "Mug “Largo”, 0.3 l"

MESSAGES_TOTAL = "braze_campaign_messages_total"

EVERYTHING = all_sections_yaml(CAMPAIGN.id, CANVAS.id, MUG)


@contextmanager
def run_every_kind(
    sections: str = EVERYTHING, clock: Clock | None = None
) -> Iterator[tuple[ExporterRig, RecordedCounts]]:
    """Run the exporter with all config sections against a simulated Braze whose counts the test sets."""
    figures = RecordedCounts()
    with running_exporter(
        "{event: purchase}", RecordedCounts(events=["purchase"]), extra_yaml=sections, clock=clock
    ) as exporter:
        exporter.braze.series_counts = figures
        exporter.braze.inventory = Inventory(campaigns=(CAMPAIGN,), canvases=(CANVAS,))
        yield exporter, figures


def samples_by_labels(page: MetricsPage, name: str) -> dict[frozenset[tuple[str, str]], float]:
    """Return all samples of a metric by their labels, without the workspace."""
    return {
        frozenset(pair for pair in labels if pair[0] != "workspace"): value
        for (sample_name, labels), value in page.samples.items()
        if sample_name == name
    }


def label_set(**labels: str) -> frozenset[tuple[str, str]]:
    """Return labels as a dictionary key."""
    return frozenset(labels.items())


def test_every_kind_exposes_braze_counts() -> None:
    """Each gauge shows the count of the simulated Braze under its own name and labels."""
    with run_every_kind() as (exporter, figures):
        for name, value in {"sessions": 50, "purchases": 7, f"purchases/{MUG}": 3}.items():
            figures.set(name, CURRENT_HOUR - 2 * HOUR, value)
        figures.set("sessions", CURRENT_HOUR - 2 * HOUR, 20, IOS)
        figures.set("sessions", CURRENT_HOUR - 2 * HOUR, 9, "", VIP)
        figures.set("sessions", CURRENT_HOUR - 2 * HOUR, 4, IOS, VIP)
        figures.set(f"purchases/{MUG}", CURRENT_HOUR - 2 * HOUR, 2, IOS)
        for name, value in {
            f"revenue/{MUG}": 12_345,
            f"segments/{VIP}": 8_000,
            "new_users": 31,
            "uninstalls": 6,
            "daily_active_users": 900,
            "monthly_active_users": 15_000,
            f"campaigns/{CAMPAIGN.id}": 1_000,
            f"canvases/{CANVAS.id}": 200,
        }.items():
            figures.set(name, YESTERDAY, value)
        figures.set("new_users", YESTERDAY, 11, IOS)
        page = exporter.scrape()
    assert page.values("braze_up") == [1]
    of_campaign, of_canvas = {"campaign_id": CAMPAIGN.id, "campaign": ""}, {"canvas_id": CANVAS.id, "canvas": ""}
    settled = {
        "sessions_hourly": {label_set(): 50},
        "sessions_by_app_hourly": {label_set(braze_app="ios"): 20},
        "sessions_by_segment_hourly": {label_set(segment="vip"): 9},
        "sessions_by_app_segment_hourly": {label_set(braze_app="ios", segment="vip"): 4},
        "sessions_daily": {label_set(): 0},
        "purchases_hourly": {label_set(): 7},
        "purchases_by_product_hourly": {label_set(product=MUG): 3},
        "purchases_by_app_product_hourly": {label_set(product=MUG, braze_app="ios"): 2},
        "revenue_by_product_daily": {label_set(product=MUG): 123.45},
        "segment_users_daily": {label_set(segment="vip"): 8_000},
        "new_users_daily": {label_set(): 31},
        "new_users_by_app_daily": {label_set(braze_app="ios"): 11},
        "daily_active_users_daily": {label_set(): 900},
        "campaign_conversions_daily": {label_set(**of_campaign): 30},
        "campaign_revenue_dollars_daily": {label_set(**of_campaign): 1_485},
        "campaign_unique_recipients_daily": {label_set(**of_campaign): 980},
        "canvas_entries_daily": {label_set(**of_canvas): 200},
        "canvas_conversions_daily": {label_set(**of_canvas): 6},
        "canvas_revenue_dollars_daily": {label_set(**of_canvas): 297},
    }
    exposed = {metric_group: samples_by_labels(page, f"braze_{metric_group}_settled") for metric_group in settled}
    assert exposed == settled
    sent = {
        dict(labels)["channel"]: value
        for labels, value in samples_by_labels(page, "braze_campaign_messages_daily_settled").items()
        if ("stat", "sent") in labels
    }
    assert sent == {"email": 1_000, "ios_push": 1_000}
    variation_id = make_id(CAMPAIGN.id, "")
    opened = label_set(**of_campaign, channel="email", variation_id=variation_id, variation="", stat="unique_opens")
    assert samples_by_labels(page, "braze_campaign_messages_daily_settled")[opened] == 330
    (clicks,) = page.values("braze_canvas_messages_daily_settled", step="Hello", channel="email", stat="clicks")
    assert clicks == 12


def test_late_computed_kinds_settle_later() -> None:
    """Yesterday's uninstalls and monthly active users are exposed as latest but not yet as settled."""
    with run_every_kind() as (exporter, figures):
        figures.set("uninstalls", YESTERDAY, 6)
        figures.set("uninstalls", YESTERDAY - DAY, 5)
        figures.set("monthly_active_users", YESTERDAY, 15_000)
        page = exporter.scrape()
        assert page.value("braze_uninstalls_daily_settled") == 5
        # At 12:20 UTC today's value has just been computed.
        start = page.value("braze_query_latest_bucket_start_timestamp_seconds", kind="monthly_active_users")
        assert start == TODAY
        exporter.clock.advance(DAY)
        page = exporter.scrape()
        assert page.value("braze_uninstalls_daily_settled") == 6
        assert page.value("braze_monthly_active_users_daily_settled") == 15_000


def test_each_kind_sends_documented_parameters() -> None:
    """Each kind sends the documented path and parameters, including the length."""
    with run_every_kind() as (exporter, _):
        exporter.scrape()
        requested = {
            (request.path, tuple(sorted((key, value) for key, value in request.params.items() if key != "ending_at")))
            for request in exporter.braze.requests
        }
        (canvas,) = [request for request in exporter.braze.requests if request.path == "/canvas/data_series"]
    assert requested == {
        ("/events/data_series", (("event", "purchase"), ("length", "24"), ("unit", "hour"))),
        ("/sessions/data_series", (("length", "24"), ("unit", "hour"))),
        ("/sessions/data_series", (("length", "24"), ("segment_id", VIP), ("unit", "hour"))),
        ("/sessions/data_series", (("app_id", IOS), ("length", "24"), ("unit", "hour"))),
        ("/sessions/data_series", (("app_id", IOS), ("length", "24"), ("segment_id", VIP), ("unit", "hour"))),
        ("/sessions/data_series", (("length", "14"), ("unit", "day"))),
        ("/purchases/quantity_series", (("length", "24"), ("unit", "hour"))),
        ("/purchases/quantity_series", (("length", "24"), ("product", MUG), ("unit", "hour"))),
        ("/purchases/quantity_series", (("app_id", IOS), ("length", "24"), ("product", MUG), ("unit", "hour"))),
        ("/purchases/revenue_series", (("length", "14"), ("unit", "day"))),
        ("/purchases/revenue_series", (("length", "14"), ("product", MUG), ("unit", "day"))),
        ("/segments/data_series", (("length", "14"), ("segment_id", VIP))),
        ("/kpi/new_users/data_series", (("length", "14"),)),
        ("/kpi/new_users/data_series", (("app_id", IOS), ("length", "14"))),
        ("/kpi/uninstalls/data_series", (("length", "14"),)),
        ("/kpi/dau/data_series", (("length", "14"),)),
        ("/kpi/mau/data_series", (("length", "14"),)),
        ("/campaigns/data_series", (("campaign_id", CAMPAIGN.id), ("length", "14"))),
        ("/canvas/data_series", (("canvas_id", CANVAS.id), ("include_step_breakdown", "true"), ("length", "13"))),
    }
    assert canvas.params["ending_at"] == datetime.fromtimestamp(NOW - 60, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def test_each_kind_has_documented_pool_and_value_field() -> None:
    """Pools and value fields are those of Braze's pages. The simulator would hide a mistake, as it has the same."""
    assert {kind.path: (kind.pool.name, kind.value_field) for kind in KINDS} == {
        "/events/data_series": ("default", "count"),
        "/sessions/data_series": ("default", "sessions"),
        "/purchases/quantity_series": ("lists", "purchase_quantity"),
        "/purchases/revenue_series": ("lists", "revenue"),
        "/segments/data_series": ("default", "size"),
        "/kpi/new_users/data_series": ("default", "new_users"),
        "/kpi/uninstalls/data_series": ("default", "uninstalls"),
        "/kpi/dau/data_series": ("default", "dau"),
        "/kpi/mau/data_series": ("default", "mau"),
        "/campaigns/data_series": ("campaigns", ""),
        "/canvas/data_series": ("default", ""),
    }


def test_canvas_request_length_is_limited() -> None:
    """After an outage of weeks, a Canvas query requests 13 days and a campaign query requests all missed days."""
    with run_every_kind() as (exporter, _):
        exporter.scrape()
        exporter.braze.reset()
        exporter.clock.advance(30 * DAY)
        exporter.scrape()
        lengths = {request.path: request.params["length"] for request in exporter.braze.requests}
    assert (lengths["/canvas/data_series"], lengths["/campaigns/data_series"]) == ("13", "44")


def test_plan_accounts_for_every_pool() -> None:
    """Purchases use the pool of the lists, campaigns their own pool, and all other kinds the default pool."""
    with run_every_kind() as (exporter, _):
        page = exporter.scrape()
    limits = {dict(labels)["pool"]: value for labels, value in samples_by_labels(page, "braze_api_rate_limit").items()}
    assert limits == {"default": 250_000, "lists": 1_000, "campaigns": 50_000}
    left = {
        dict(labels)["pool"]: value
        for labels, value in samples_by_labels(page, "braze_api_rate_limit_remaining").items()
    }
    assert 1_000 - 5 <= left["lists"] < 1_000  # the value of the response that arrived last
    assert left["campaigns"] == 50_000 - 1


def test_missing_permission_is_named() -> None:
    """Each kind needs its own permission, and a missing one does not hold the other kinds."""
    with run_every_kind() as (exporter, _):
        exporter.braze.permissions = {kind.permission for kind in KINDS} - {"kpi.mau.data_series"}
        page = exporter.scrape()
        (mau,) = [
            query
            for query in read_status_response(exporter.exporter)["queries"]
            if query["name"] == "monthly active users"
        ]
    assert mau["message"] == "failed: 403 Forbidden: the key lacks the permission kpi.mau.data_series"
    assert page.value("braze_query_up", kind="monthly_active_users") == 0
    assert page.value("braze_query_up", kind="daily_active_users") == 1


def test_only_additive_kinds_have_counters() -> None:
    """Kinds that count occurrences have a counter; segment sizes, active users and unique users have none."""
    with run_every_kind() as (exporter, figures):
        exporter.scrape()
        figures.set("new_users", TODAY, 5)
        figures.set(f"segments/{VIP}", TODAY, 5)
        figures.set("daily_active_users", TODAY, 5)
        figures.set(f"campaigns/{CAMPAIGN.id}", TODAY, 1_000)
        exporter.clock.advance(900)
        page = exporter.scrape()
    names = {name for name, _ in page.samples if name.startswith("braze_") and name.endswith("_total")}
    assert {name for name in names if not name.startswith(("braze_api_", "braze_exporter_"))} == {
        "braze_custom_events_total",
        "braze_sessions_total",
        "braze_sessions_by_app_total",
        "braze_purchases_total",
        "braze_purchases_by_product_total",
        "braze_purchases_by_app_product_total",
        "braze_revenue_total",
        "braze_revenue_by_product_total",
        "braze_new_users_total",
        "braze_new_users_by_app_total",
        "braze_uninstalls_total",
        MESSAGES_TOTAL,
        "braze_campaign_conversions_total",
        "braze_campaign_revenue_dollars_total",
        "braze_canvas_entries_total",
        "braze_canvas_conversions_total",
        "braze_canvas_revenue_dollars_total",
        "braze_canvas_messages_total",
    }
    assert page.value("braze_new_users_total") == 5
    counted = {dict(labels)["stat"]: value for labels, value in samples_by_labels(page, MESSAGES_TOTAL).items()}
    assert (counted["sent"], counted["opens"]) == (1_000, 410)
    assert not any(stat.startswith("unique_") for stat in counted)


def edited(change: Callable[[dict[str, Any]], None]) -> Fault:
    """Return a fault that changes each row of a campaign."""

    def change_all(body: dict[str, Any]) -> None:
        for row in body["data"]:
            change(row)

    return response_faults.edited(change_all)


def test_new_channel_starts_at_zero() -> None:
    """A channel that appears later is exposed as 0 until the next fetch, so that `increase()` sees its first values."""
    with run_every_kind(f"    campaigns:\n      - campaign: {CAMPAIGN.id}\n") as (exporter, figures):
        figures.set(f"campaigns/{CAMPAIGN.id}", TODAY, 100)
        first = exporter.scrape()
        assert {*samples_by_labels(first, MESSAGES_TOTAL).values()} == {0}
        exporter.braze.inventory = Inventory(campaigns=(replace(CAMPAIGN, channels=("email", "ios_push", "sms")),))
        sent = []
        for more in (0, 0, 20):
            figures.set(f"campaigns/{CAMPAIGN.id}", TODAY, 100 + more)
            exporter.clock.advance(900)
            page = exporter.scrape()
            sent.append([page.value(MESSAGES_TOTAL, channel=name, stat="sent") for name in ("email", "sms")])
    assert sent == [[0, 0], [0, 100], [20, 120]]


def test_new_channel_that_was_on_no_page_starts_at_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """A channel that a scrape without a page has fetched is 0 on the next page, even if its counter is saved before."""
    monkeypatch.setattr("braze_exporter.metrics.counters.MAX_UNSAVED", 1)
    with run_every_kind(f"    campaigns:\n      - campaign: {CAMPAIGN.id}\n") as (exporter, figures):
        exporter.scrape()
        exporter.braze.inventory = Inventory(campaigns=(replace(CAMPAIGN, channels=("email", "ios_push", "sms")),))
        figures.set(f"campaigns/{CAMPAIGN.id}", TODAY, 100)
        exporter.clock.advance(900)
        exporter.refresh()
        totals = []
        for _ in range(2):
            exporter.clock.advance(900)
            totals.append(exporter.scrape().value(MESSAGES_TOTAL, channel="sms", stat="sent"))
    assert totals == [0, 100]


@pytest.mark.parametrize(("hours", "total"), [(17, 1_000), (20, 0)], ids=["yesterday not settled", "settled"])
def test_new_channel_counts_buckets_that_had_not_settled(hours: int, total: float) -> None:
    """The first values of a new channel count in yesterday too, if it had not settled at the previous response."""
    with run_every_kind(f"    campaigns:\n      - campaign: {CAMPAIGN.id}\n") as (exporter, figures):
        exporter.scrape()
        exporter.clock.advance(hours * HOUR)
        exporter.scrape()
        exporter.braze.inventory = Inventory(campaigns=(replace(CAMPAIGN, channels=("email", "ios_push", "sms")),))
        figures.set(f"campaigns/{CAMPAIGN.id}", TODAY, 1_000)
        totals = []
        for _ in range(2):
            exporter.clock.advance(900)
            totals.append(exporter.scrape().value(MESSAGES_TOTAL, channel="sms", stat="sent"))
    assert totals == [0, total]


def test_renamed_variation_keeps_its_counter() -> None:
    """A counter is keyed by Braze's id: a new name changes the label, and the value is kept."""
    named = replace(CAMPAIGN, variations=("A", "B"), channels=("email",))
    with run_every_kind(f"    campaigns:\n      - campaign: {CAMPAIGN.id}\n") as (exporter, figures):
        exporter.braze.inventory = Inventory(campaigns=(named,))
        exporter.scrape()
        figures.set(f"campaigns/{CAMPAIGN.id}", TODAY, 100)
        exporter.clock.advance(900)
        assert exporter.scrape().value(MESSAGES_TOTAL, variation="A", stat="sent") == 50

        def rename(row: dict[str, Any]) -> None:
            row["messages"]["email"][0]["variation_name"] = "The first"

        exporter.braze.inject(edited(rename), path="/campaigns/data_series")
        figures.set(f"campaigns/{CAMPAIGN.id}", TODAY, 120)
        exporter.clock.advance(900)
        page = exporter.scrape()
    assert page.value(MESSAGES_TOTAL, variation="The first", stat="sent") == 60
    assert page.values(MESSAGES_TOTAL, variation="A") == []
    assert page.values("braze_campaign_messages_daily_latest", variation="A") == []


@pytest.mark.parametrize(
    ("since", "latest", "settled"),
    [
        (TODAY, {"email": 30}, {"email": 1_000, "ios_push": 1_000}),
        (YESTERDAY, {"email": 30}, {"email": 1_000}),
        (TODAY + DAY, {"email": 30, "ios_push": 30}, {"email": 1_000, "ios_push": 1_000}),
    ],
)
def test_series_of_response_show_same_bucket(since: int, latest: dict[str, int], settled: dict[str, int]) -> None:
    """A day without a channel has no value for it, neither as latest nor as settled."""

    def stop(row: dict[str, Any]) -> None:
        if row["time"] >= datetime.fromtimestamp(since, NEW_YORK).date().isoformat():
            row["messages"]["ios_push"] = []

    with run_every_kind(f"    campaigns:\n      - campaign: {CAMPAIGN.id}\n") as (exporter, figures):
        for day, sent in ((YESTERDAY - DAY, 900), (YESTERDAY, 1_000), (TODAY, 30)):
            figures.set(f"campaigns/{CAMPAIGN.id}", day, sent)
        exporter.braze.inject(edited(stop), path="/campaigns/data_series")
        page = exporter.scrape()
    for measure, expected in (("latest", latest), ("settled", settled)):
        exposed = samples_by_labels(page, f"braze_campaign_messages_daily_{measure}").items()
        assert {dict(labels)["channel"]: value for labels, value in exposed if ("stat", "sent") in labels} == expected
    assert page.value("braze_query_latest_bucket_start_timestamp_seconds", kind="campaigns") == TODAY
    assert page.value("braze_query_settled_bucket_start_timestamp_seconds", kind="campaigns") == YESTERDAY


def test_variations_that_exchange_names_keep_their_counters() -> None:
    """A counter belongs to the id of a variation: no label set jumps to the total of another variation."""
    named = replace(CAMPAIGN, variations=("A", "B"), channels=("email",))
    first, second = make_id(CAMPAIGN.id, "A"), make_id(CAMPAIGN.id, "B")

    def swap(row: dict[str, Any]) -> None:
        one, other = row["messages"]["email"]
        one["variation_name"], other["variation_name"] = "B", "A"
        one["sent"] += 900

    with run_every_kind(f"    campaigns:\n      - campaign: {CAMPAIGN.id}\n") as (exporter, figures):
        figures.set(f"campaigns/{CAMPAIGN.id}", TODAY, 100)
        exporter.braze.inventory = Inventory(campaigns=(named,))
        before = exporter.scrape()
        exporter.braze.inject(edited(swap), path="/campaigns/data_series")
        exporter.clock.advance(900)
        after = exporter.scrape()
    assert before.value(MESSAGES_TOTAL, variation_id=first, variation="A", stat="sent") == 0
    assert after.values(MESSAGES_TOTAL, variation_id=first, stat="sent") == [14 * 900]
    assert after.value(MESSAGES_TOTAL, variation_id=second, variation="A", stat="sent") == 0
    assert after.values(MESSAGES_TOTAL, variation_id=first, variation="A") == []


def test_variations_without_id_are_series_of_their_own() -> None:
    """Entries with a name and no id, as Braze documents them for multivariate campaigns, have series and counters."""

    def remove_ids(row: dict[str, Any]) -> None:
        for entry in row["messages"]["email"]:
            del entry["variation_api_id"]

    named = replace(CAMPAIGN, variations=("A", "B"), channels=("email",))
    with run_every_kind(f"    campaigns:\n      - campaign: {CAMPAIGN.id}\n") as (exporter, figures):
        exporter.braze.inventory = Inventory(campaigns=(named,))
        exporter.braze.inject(edited(remove_ids), path="/campaigns/data_series")
        exporter.scrape()
        figures.set(f"campaigns/{CAMPAIGN.id}", TODAY, 100)
        exporter.clock.advance(900)
        page = exporter.scrape()
    assert page.value("braze_campaign_messages_daily_latest", variation_id="", variation="A", stat="sent") == 50
    assert page.value(MESSAGES_TOTAL, variation_id="", variation="A", stat="sent") == 50
    assert page.value(MESSAGES_TOTAL, variation_id="", variation="B", stat="sent") == 50


def test_channel_that_a_reload_adds_shows_its_total_at_once() -> None:
    """A channel that a reload adds to `channels` shows what was counted before, so that it is no increase."""
    entry = f"    campaigns:\n      - {{campaign: {CAMPAIGN.id}, channels: [email]}}\n"
    with run_every_kind(entry) as (exporter, figures):
        exporter.scrape()
        exporter.braze.inventory = Inventory(campaigns=(replace(CAMPAIGN, channels=("email", "sms")),))
        for sent in (100, 300):
            figures.set(f"campaigns/{CAMPAIGN.id}", TODAY, sent)
            exporter.clock.advance(900)
            assert exporter.scrape().values(MESSAGES_TOTAL, channel="sms") == []
        exporter.apply_config("{event: purchase}", extra_yaml=entry.replace("[email]", "[email, sms]"))
        pages = [exporter.page()]
        figures.set(f"campaigns/{CAMPAIGN.id}", TODAY, 307)
        for _ in range(2):
            exporter.clock.advance(900)
            pages.append(exporter.scrape())
    assert [page.value(MESSAGES_TOTAL, channel="sms", stat="sent") for page in pages] == [300, 307, 307]


def test_channels_and_stats_limit_exported_series() -> None:
    """Only the channels and statistics of the entry are exported, and the other values of the campaign."""
    entry = f"campaign: {CAMPAIGN.id}, channels: [email], stats: [sent, opens]"
    with run_every_kind(f"    campaigns:\n      - {{{entry}}}\n") as (exporter, figures):
        figures.set(f"campaigns/{CAMPAIGN.id}", TODAY, 100)
        page = exporter.scrape()
        selected = {
            (dict(labels)["channel"], dict(labels)["stat"]) for labels in samples_by_labels(page, MESSAGES_TOTAL)
        }
        assert selected == {("email", "sent"), ("email", "opens")}
        assert page.values("braze_campaign_message_revenue_dollars_total") == []
        assert page.values("braze_campaign_conversions_daily_latest") == [3]
        assert len(page.values("braze_campaign_messages_daily_latest")) == 2
        figures.set(f"campaigns/{CAMPAIGN.id}", TODAY, 150)
        exporter.clock.advance(900)
        exporter.refresh()
        exporter.apply_config("{event: purchase}", extra_yaml=f"    campaigns:\n      - campaign: {CAMPAIGN.id}\n")
        page = exporter.page()
    assert page.value(MESSAGES_TOTAL, channel="ios_push", stat="sent") == 50  # counted since the first response
    assert page.value("braze_campaign_messages_daily_latest", channel="ios_push", stat="sent") == 150


def test_messages_that_ended_are_absent() -> None:
    """A campaign whose `messages` are empty since five days has no message statistics, and its other values stay."""
    stopped = datetime.fromtimestamp(TODAY - 5 * DAY, NEW_YORK).date().isoformat()

    def stop(row: dict[str, Any]) -> None:
        if row["time"] >= stopped:
            row["messages"] = {}

    with run_every_kind(f"    campaigns:\n      - campaign: {CAMPAIGN.id}\n") as (exporter, figures):
        for back in range(14):
            figures.set(f"campaigns/{CAMPAIGN.id}", TODAY - back * DAY, 100)
        exporter.braze.inject(edited(stop), path="/campaigns/data_series")
        page = exporter.scrape()
    assert page.values("braze_campaign_messages_daily_latest") == []
    assert page.values("braze_campaign_messages_daily_settled") == []
    assert page.values("braze_campaign_conversions_daily_settled") == [3]
    assert page.value("braze_query_settled_bucket_start_timestamp_seconds", kind="campaigns") == YESTERDAY


def test_series_of_baseline_history_is_dropped_too() -> None:
    """A variation that only a baseline's history has is dropped after 100 days. A field of nulls is no statistic."""
    last = datetime.fromtimestamp(TODAY - 20 * DAY, NEW_YORK).date().isoformat()

    def add(row: dict[str, Any]) -> None:
        row["messages"]["email"][0]["note"] = None
        if row["time"] <= last:
            row["messages"]["email"].append({"variation_api_id": "old", "sent": 1})

    sections = f"    campaigns:\n      - campaign: {CAMPAIGN.id}\n        baseline: {{weeks: 4}}\n"
    with run_every_kind(sections) as (exporter, _):
        exporter.braze.inject(edited(add), path="/campaigns/data_series")
        totals = []
        for days in (0, 0, 79, 2):
            exporter.clock.advance(900 + days * DAY)
            exporter.scrape()
            exporter.wait_for_history()
            totals.append(exporter.page().values(MESSAGES_TOTAL, variation_id="old"))
            assert exporter.page().values(MESSAGES_TOTAL, stat="note") == []
    assert totals == [[0], [0], [0], []]


def test_total_of_canvas_stays_during_empty_responses() -> None:
    """The entries of a Canvas keep their total, however long its responses are empty; its steps are dropped."""
    with run_every_kind(f"    canvases:\n      - canvas: {CANVAS.id}\n") as (exporter, figures):
        exporter.scrape()
        figures.set(f"canvases/{CANVAS.id}", TODAY, 100)
        exporter.clock.advance(900)
        counted = exporter.scrape().value("braze_canvas_entries_total")
        exporter.braze.inject(response_faults.data({"name": CANVAS.name, "stats": []}), path="/canvas/data_series")
        totals = []
        for days in (13, 3, 1, 1):
            exporter.clock.advance(days * DAY)
            totals.append(exporter.scrape().value("braze_canvas_entries_total"))
        assert exporter.page().values("braze_canvas_messages_total") == []
        exporter.braze.clear_faults()
        figures.set(f"canvases/{CANVAS.id}", TODAY + 18 * DAY, 100)
        exporter.clock.advance(900)
        page = exporter.scrape()
    assert counted == 100
    assert totals == [100] * 4
    assert page.value("braze_canvas_entries_total") == 200


def test_variation_is_forgotten_when_braze_no_longer_returns_it() -> None:
    """A variation that no response reaches back to leaves the page after 100 days, and restarts at 0 if it returns."""
    named = replace(CAMPAIGN, variations=("A", "B"), channels=("email",))
    remaining = replace(named, variations=("A",))
    with run_every_kind(f"    campaigns:\n      - campaign: {CAMPAIGN.id}\n") as (exporter, figures):
        figures.set(f"campaigns/{CAMPAIGN.id}", TODAY, 100)
        exporter.braze.inventory = Inventory(campaigns=(named,))
        exporter.scrape()
        figures.set(f"campaigns/{CAMPAIGN.id}", TODAY, 120)
        shown = []
        for days, campaign in ((1, named), (1, remaining), (98, remaining), (2, remaining), (1, named)):
            exporter.braze.inventory = Inventory(campaigns=(campaign,))
            exporter.clock.advance(days * DAY)
            page = exporter.scrape()
            shown.append([page.values(MESSAGES_TOTAL, variation=name, stat="sent") for name in ("A", "B")])
    assert shown == [[[10], [10]], [[70], [10]], [[70], [10]], [[70], []], [[70], [0]]]


def parse_values(kind: SeriesKind, data: object) -> dict[tuple[str, tuple[tuple[str, str], ...]], list[float]]:
    """Return the values of each series of a response, by metric group and labels."""
    query = Query("p", kind, Unit.DAY, "x", subject_id="x")
    bodies = [json.dumps({"message": "success", "data": data, "padding": " " * size}) for size in (0, 2**19)]
    result, from_large_body = (parsing.parse_series(query, body.encode(), 2_000, NOW, NOW) for body in bodies)
    assert repr(result) == repr(from_large_body)
    return {
        (series.head.metric_group.name, series.head.labels): [value for _, value in series.points]
        for series in result
        if series.points or series.head.is_only
    }


# Abridged from a recorded response.
RECORDED = {
    "time": "2022-09-01",
    "messages": {
        "email": [
            {
                "variation_api_id": "3e22f4a1-0000-4000-8000-000000000001",
                "sent": 7,
                "opens": 2,
                "machine_open": 1,
                "unique_opens": 2,
                "delivered": 7,
                "bounces": 0,
                "reported_spam": 0,
            }
        ],
        "sms": [],
    },
    "unique_recipients": 7,
    "conversions": 0,
    "revenue": 0.0,
}


def test_recorded_row_is_parsed() -> None:
    """All fields of a recorded row are parsed, and no others."""
    result = parse_values(CAMPAIGNS, [RECORDED])
    stats = {
        dict(labels)["stat"]: values
        for (metric_group, labels), values in result.items()
        if metric_group == "campaign_messages"
    }
    assert stats == {
        "sent": [7],
        "opens": [2],
        "machine_open": [1],
        "unique_opens": [2],
        "delivered": [7],
        "bounces": [0],
        "reported_spam": [0],
    }
    assert result["campaign_unique_recipients", ()] == [7]
    assert result["campaign_conversions", ()] == [0]


@pytest.mark.parametrize("kind", [CAMPAIGNS, CANVASES])
def test_large_body_is_parsed_in_six_times_its_size(kind: SeriesKind) -> None:
    """The body, its parsed content and the series together take at most six times the size of the body."""
    parts = [f"4f0d6a3e-0000-4c1b-9d3e-{number:012}" for number in range(600)]
    stats = {f"statistic_{number}": 1_000 + number for number in range(11)}
    row: dict[str, object] = {
        "messages": {"email": [{"variation_api_id": part, "variation_name": part, **stats} for part in parts]},
        "step_stats": {part: {"name": part, "messages": {"email": [stats]}} for part in parts},
    }
    del row["step_stats" if kind is CAMPAIGNS else "messages"]
    rows = [{"time": f"2026-11-{day}", **row} for day in range(10, 23)]
    data = rows if kind is CAMPAIGNS else {"stats": rows}
    body = json.dumps({"message": "success", "data": data}, separators=(",", ":")).encode()
    tracemalloc.start()
    series = parsing.parse_series(Query("p", kind, Unit.DAY, "x", subject_id="x"), body, 14, NOW, NOW)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(series) == len(parts) * len(stats) + 3
    assert peak + len(body) < 6 * len(body)


def variation(**fields: object) -> dict[str, object]:
    """Return an entry of a channel."""
    return {"variation_api_id": "v1", "sent": 1, **fields}


def test_unknown_fields_are_ignored() -> None:
    """Control groups, missing names, unknown fields, nulls and duplicate entries are accepted."""
    messages = {
        "email": [
            variation(variation_name="A"),
            variation(variation_api_id="v2", variation_name="A", sent=2),
            {"variation_api_id": "v3", "variation_name": "Control", "enrolled": 5, "conversions": None},
            "nonsense",
        ],
        "pigeon_post": [variation(feathers=3, note="text", flying=True)],
        "sms": None,
        "banners": {},
        "webhook": [variation(unique_clicks=2), variation(sent=4, unique_clicks=3)],
    }
    parsed = parse_values(CAMPAIGNS, [{"time": "2026-11-20", "messages": messages}, {"time": "2026-11-21"}])
    labels = {
        tuple(value for _, value in pairs): values
        for (metric_group, pairs), values in parsed.items()
        if metric_group == "campaign_messages"
    }
    assert labels == {
        ("email", "v1", "A", "sent"): [1],
        ("email", "v2", "A", "sent"): [2],
        ("email", "v3", "Control", "enrolled"): [5],
        ("pigeon_post", "v1", "A", "sent"): [1],
        ("pigeon_post", "v1", "A", "feathers"): [3],
        ("webhook", "v1", "A", "sent"): [5],
    }
    assert parsed["campaign_conversions", ()] == []


def test_lone_surrogates_do_not_break_page() -> None:
    """Names with lone surrogates, such as a truncated emoji, do not prevent rendering the page."""
    with run_every_kind(f"    campaigns:\n      - campaign: {CAMPAIGN.id}\n") as (exporter, _):

        def cut(exchange: Exchange) -> Reply:
            document = json.loads(exchange.reply.body)  # type: ignore[arg-type] # the body is bytes
            for row in document["data"]:
                row["messages"]["email"][0] |= {"variation_name": "Sale \ud83d", "stat \udc00": 3}
            return replace(exchange.reply, headers={}, body=json.dumps(document).encode())

        exporter.braze.inject(cut, path="/campaigns/data_series")
        page = exporter.scrape()
        [*exporter.exporter.render(openmetrics=True)]
        json.dumps(read_status_response(exporter.exporter))
    assert page.value("braze_campaign_messages_daily_latest", variation="Sale \ufffd", stat="stat \ufffd") == 3


@pytest.mark.parametrize("name", [None, 5, ["A"], {"text": "A"}])
def test_name_that_is_no_text_is_no_statistic(name: object) -> None:
    """A null is a hole if other rows have a number in that field; otherwise the field is not a statistic."""
    messages = [{"variation_api_id": "a", "variation_name": name, "sent": sent} for sent in (3, None)]
    rows = [{"time": f"2026-11-2{day}", "messages": {"email": [entry]}} for day, entry in enumerate(messages)]
    body = json.dumps({"message": "success", "data": rows}).encode()
    result = parsing.parse_series(Query("p", CAMPAIGNS, Unit.DAY, "x", subject_id="x"), body, 14, NOW, NOW)
    (series,) = [item for item in result if not item.head.is_only]
    assert series.head.key == ("campaign_messages", "a", "", "email", "sent")
    assert repr([*series.values]) == "[3.0, nan]"


@pytest.mark.parametrize(("ahead", "earlier"), [(600, 660), (0, 60), (-600, 60)])
def test_canvas_request_ends_before_both_clocks(ahead: int, earlier: int) -> None:
    """After the first response, requests end a minute before the local time, or before Braze's if that is earlier."""
    with run_every_kind(f"    canvases:\n      - canvas: {CANVAS.id}\n") as (exporter, _):
        real = exporter.clock.wall
        exporter.braze.clock = lambda: real() - ahead
        exporter.scrape()
        exporter.clock.advance(900)
        page = exporter.scrape()
        ending_at = [request.params["ending_at"] for request in exporter.braze.requests if "canvas" in request.path]
    assert datetime.fromisoformat(ending_at[-1]).timestamp() == NOW + 900 - earlier
    assert page.value("braze_query_up", kind="canvases") == 1


def test_duration_of_call_is_no_clock_difference() -> None:
    """After a response that took 20 seconds, the next request ends a minute before the local time as usual."""
    with run_every_kind(f"    canvases:\n      - canvas: {CANVAS.id}\n") as (exporter, _):

        def delay(exchange: Exchange) -> Reply:
            exporter.clock.advance(20)
            return exchange.reply

        exporter.braze.inject(delay, path="/canvas/data_series", times=1)
        exporter.scrape()
        exporter.clock.advance(900)
        exporter.scrape()
        ending_at = [request.params["ending_at"] for request in exporter.braze.requests if "canvas" in request.path]
    assert datetime.fromisoformat(ending_at[-1]).timestamp() == exporter.clock.now - 60


def test_steps_with_same_name_are_series_of_their_own() -> None:
    """Steps are identified by their ids, and a Canvas without steps has its totals."""
    steps = {
        "s1": {"name": "Hello", "messages": {"email": [{"sent": 3}]}},
        "s2": {"name": "Hello", "messages": {"email": [{"sent": 2}], "sms": []}},
        "s3": {"name": None, "messages": {"sms": [{"sent": 1}]}},
        "s4": None,
    }
    rows = [{"time": "2026-11-20", "total_stats": {"entries": 9, "revenue": -1.5}, "step_stats": steps}]
    parsed = parse_values(CANVASES, {"name": "Onboarding", "stats": rows})
    assert {
        tuple(value for _, value in labels): values for (metric_group, labels), values in parsed.items() if labels
    } == {
        ("s1", "Hello", "email", "sent"): [3],
        ("s2", "Hello", "email", "sent"): [2],
        ("s3", "", "sms", "sent"): [1],
    }
    assert (parsed["canvas_entries", ()], parsed["canvas_revenue_dollars", ()]) == ([9], [-1.5])
    assert parse_values(CANVASES, {"stats": []}) == {
        (metric_group.name, ()): [] for metric_group in CANVASES.metric_groups if not metric_group.series_labels
    }


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        (CAMPAIGNS, None, "data is not a list"),
        (CAMPAIGNS, [7], "a row is not an object"),
        (CAMPAIGNS, [{"conversions": 1}], "a row has no time"),
        (CAMPAIGNS, [{"time": "yesterday"}], "a time is not in ISO 8601"),
        (CAMPAIGNS, [{"time": "2026-11-20", "conversions": "4"}], "conversions is not a non-negative number"),
        (CAMPAIGNS, [{"time": "2026-11-20", "conversions": -4}], "conversions is not a non-negative number"),
        (CAMPAIGNS, [{"time": "2026-11-20", "revenue": True}], "revenue is not a number"),
        (
            CAMPAIGNS,
            [{"time": "2026-11-20", "messages": {"email": [{"sent": -1}]}}],
            "sent is not a non-negative number",
        ),
        (
            CAMPAIGNS,
            [{"time": "2026-11-20", "conversions": 1}, {"time": "2026-11-20", "conversions": 2}],
            "bucket 2026-11-20T00:00Z has two different values",
        ),
        (CANVASES, [], "data is not a list"),
        (CANVASES, {"name": "x"}, "data is not a list"),
    ],
)
def test_unreadable_response_is_an_error(kind: SeriesKind, data: object, message: str) -> None:
    """An invalid value in a response is an error of the query with a message, never a zero."""
    with pytest.raises(BrazeError) as raised:
        parse_values(kind, data)
    assert (raised.value.reason, raised.value.detail) == (Reason.INVALID_RESPONSE, f"malformed response: {message}")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 10**20) | st.floats() | st.text(max_size=5) | st.just("2026-11-20"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "time",
                    "messages",
                    "email",
                    "sent",
                    "stats",
                    "step_stats",
                    "total_stats",
                    "name",
                    "variation_api_id",
                    "x",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=25,
)


@given(st.sampled_from(KINDS), json_values)
def test_any_response_is_parsed_or_rejected(kind: SeriesKind, data: object) -> None:
    """Any JSON response is parsed or is an error of the query."""
    try:
        values = parse_values(kind, data)
    except BrazeError as error:
        assert error.reason is Reason.INVALID_RESPONSE
    else:
        assert len({metric_group for metric_group, _ in values}) <= len(kind.metric_groups)


def test_kind_without_current_day_shows_no_timezone() -> None:
    """If the newest day of active users is yesterday, Braze may not have computed today's, whatever its zone is."""
    with run_every_kind("    daily_active_users: [{apps: [all]}]\n") as (exporter, _):
        fault = response_faults.edited(lambda content: content["data"].pop())
        exporter.braze.inject(fault, path="/kpi/dau/data_series")
        page = exporter.scrape()
    start = page.value("braze_query_latest_bucket_start_timestamp_seconds", kind="daily_active_users")
    assert start == YESTERDAY
    assert page.values("braze_workspace_timezone_mismatch") == []


def test_canvas_at_midnight_has_yesterday_as_latest() -> None:
    """A Canvas request after midnight ends a minute ago, so that its newest day is yesterday."""
    clock = Clock(TODAY + 30)
    sections = f"    canvases:\n      - canvas: {CANVAS.id}\n"
    with run_every_kind(sections, clock) as (exporter, _):
        page = exporter.scrape()
        start = page.value("braze_query_latest_bucket_start_timestamp_seconds", kind="canvases")
        assert page.value("braze_query_up", kind="canvases") == 1
    assert start == YESTERDAY
