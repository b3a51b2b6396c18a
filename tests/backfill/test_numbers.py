"""Test that the backfill file holds Braze's counts: each bucket once, at its time, with the labels of the scrape."""

import itertools
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import response_faults
from backfills import SETTLED, TARGET, TOTAL, BackfillRig, prepared_backfill, unfiltered_labels
from braze_variants import DayFormat, HourFormat, UnknownEvent
from recorded_counts import RecordedCounts
from support import (
    HOUR,
    IOS,
    NEW_YORK,
    VIP,
    Clock,
    ExporterRig,
    MetricsPage,
    all_sections_yaml,
    running_braze,
    running_exporter,
    wait_until,
    workspace_item_yaml,
    workspace_yaml,
)

from braze_exporter.backfill.request import BackfillError, BackfillRequest, parse_time
from braze_exporter.braze.buckets import bucket_end
from braze_exporter.braze.query import Query
from braze_exporter.config.loading import load_config
from braze_exporter.metrics.families import build_gauge
from braze_exporter.scheduler.plan import build_plan
from braze_exporter.simulator.inventory import Campaign, Canvas, Inventory
from braze_exporter.simulator.message_rows import make_id

pytestmark = pytest.mark.no_cover

DAILY_SETTLED = "braze_custom_events_daily_settled"


class HourNumberCounts(RecordedCounts):
    """An event with a different count in every hour, so that a test detects swapped buckets."""

    def count(self, event: str, hour_start: int, now: float, app_id: str = "", segment_id: str = "") -> int:
        """Return the number of the hour, multiplied by a factor that depends on the filters."""
        del now
        return hour_start // HOUR % 100_000 * (1 + (app_id == IOS) + 2 * (segment_id == VIP)) * (event in self.events)


class TimeIndependentCounts(RecordedCounts):
    """Counts that differ by series and hour but do not depend on the time of the request."""

    def count(self, event: str, hour_start: int, now: float, app_id: str = "", segment_id: str = "") -> int:
        """Return a count from 500 to a few thousand."""
        del now
        return 500 + hour_start // HOUR % 997 + 100 * len(event) + 10 * len(app_id + segment_id)


CAMPAIGN = Campaign("d8b73da7-0b7c-fc72-1d80-2f6e9c41ab05", "Win-back", channels=("email",), variations=("A", "B"))
CANVAS = Canvas("4ffe74b7-ca90-4046-ae7f-68b1b337f6a6", "Onboarding", steps=(("Hello", "email"), ("Wait", "")))
EVERYTHING = all_sections_yaml(CAMPAIGN.id, CANVAS.id, "mug")


def unix_time(text: str) -> float:
    """Return the Unix time of an ISO time; a time without an offset is in New York."""
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=NEW_YORK)).timestamp()


def test_hourly_sample_is_at_bucket_end_plus_settle(tmp_path: Path) -> None:
    """Each hour's count is a gauge sample `settle` after the hour's end; the counter is the running sum from 0."""
    traffic = HourNumberCounts(events=["purchase"])
    with prepared_backfill(
        tmp_path, "{event: purchase, settle: 2h}", traffic, "2026-11-01", "2026-11-20T12:00:00Z"
    ) as backfill:
        backfill.run()
        samples = backfill.output_samples
    first, last = unix_time("2026-11-01T00:00"), unix_time("2026-11-20T08:00+00:00")  # its sample is at 11:00
    hours = range(int(first), int(last) + 1, HOUR)
    counts = [traffic.count("purchase", hour, 0.0) for hour in hours]
    stamps = [hour + 3.0 * HOUR for hour in hours]
    assert samples[SETTLED, unfiltered_labels(event="purchase")] == [*zip(stamps, counts, strict=True)]
    totals = [*itertools.accumulate(counts, initial=0)]
    assert samples[TOTAL, unfiltered_labels(event="purchase")] == [
        *zip([stamps[0] - HOUR, *stamps], totals, strict=True)
    ]
    assert len(samples) == 2


@pytest.mark.parametrize("written", DayFormat)
def test_daily_samples_follow_workspace_timezone_through_dst(tmp_path: Path, written: DayFormat) -> None:
    """Each local day has a sample two hours after its final midnight, also if the day has 23 or 25 hours."""
    traffic = HourNumberCounts(events=["purchase"])
    with prepared_backfill(tmp_path, "{event: purchase, unit: day}", traffic, "2025-10-01", "2026-11-20") as backfill:
        backfill.braze.day_format = written
        assert "No samples for" not in backfill.run()
        samples = backfill.output_samples[DAILY_SETTLED, unfiltered_labels(event="purchase")]
    days = [date(2025, 10, 1) + timedelta(days=number) for number in range(414)]
    assert days[-1] == date(2026, 11, 18)  # the sample of the 19th would be two hours after its end
    midnights = [datetime.combine(day, time.min, NEW_YORK).timestamp() for day in [*days, date(2026, 11, 19)]]
    lengths = {(after - before) / HOUR for before, after in itertools.pairwise(midnights)}
    assert lengths == {23.0, 24.0, 25.0}
    expected = [
        (after + 2 * HOUR, sum(traffic.count("purchase", hour, 0.0) for hour in range(int(before), int(after), HOUR)))
        for before, after in itertools.pairwise(midnights)
    ]
    assert samples == expected


@pytest.mark.parametrize("written", HourFormat)
@pytest.mark.parametrize(("start", "end"), [("2026-10-25", "2026-11-09"), ("2026-03-01", "2026-03-15")])
def test_hourly_samples_are_complete_through_dst_changes(
    tmp_path: Path, written: HourFormat, start: str, end: str
) -> None:
    """No hour of a DST change is lost, doubled or swapped, whatever time format Braze uses."""
    traffic = HourNumberCounts(events=["purchase"])
    with prepared_backfill(tmp_path, "{event: purchase}", traffic, start, end) as backfill:
        backfill.braze.hour_format = written
        backfill.run()
        samples = backfill.output_samples[SETTLED, unfiltered_labels(event="purchase")]
    hours = range(int(unix_time(start)), int(unix_time(end)) - 2 * HOUR, HOUR)
    assert samples == [(hour + 2.0 * HOUR, traffic.count("purchase", hour, 0.0)) for hour in hours]


def test_filtered_queries_have_series_and_additive_ones_counters(tmp_path: Path) -> None:
    """Filtered queries have their own families, and those without a segment have counters."""
    events = "{event: purchase, apps: [all, ios], segments: [all, vip]}\n{event: purchase, unit: day, apps: [all, ios]}"
    traffic = HourNumberCounts(events=["purchase"])
    with prepared_backfill(tmp_path, events, traffic, "2026-11-01", "2026-11-05") as backfill:
        backfill.run()
        samples = backfill.output_samples
    parts = "braze_custom_events_by"
    event = "purchase"
    assert {key: len(series) for key, series in samples.items()} == {
        (SETTLED, unfiltered_labels(event=event)): 4 * 24 - 1,
        (TOTAL, unfiltered_labels(event=event)): 4 * 24,
        (DAILY_SETTLED, unfiltered_labels(event=event)): 3,
        (f"{parts}_app_hourly_settled", unfiltered_labels(event=event, braze_app="ios")): 4 * 24 - 1,
        (f"{parts}_segment_hourly_settled", unfiltered_labels(event=event, segment="vip")): 4 * 24 - 1,
        (f"{parts}_app_segment_hourly_settled", unfiltered_labels(event=event, braze_app="ios", segment="vip")): 4 * 24
        - 1,
        (f"{parts}_app_total", unfiltered_labels(event=event, braze_app="ios")): 4 * 24,
        (f"{parts}_app_daily_settled", unfiltered_labels(event=event, braze_app="ios")): 3,
    }
    hour = int(unix_time("2026-11-01T00:00"))
    assert samples[
        f"{parts}_app_segment_hourly_settled", unfiltered_labels(event=event, braze_app="ios", segment="vip")
    ][0] == (
        hour + 2.0 * HOUR,
        traffic.count(event, hour, 0.0, IOS, VIP),
    )


def remove_row(response: dict[str, Any], written: str) -> None:
    """Remove the row of a time from a response."""
    response["data"] = [row for row in response["data"] if row["time"] != written]


def test_backfilled_series_equal_scraped_series_for_every_kind(tmp_path: Path) -> None:
    """Settled values and counters of a scrape appear in the backfill with the same names and labels.

    Selectors expand from the same lists, and campaigns and Canvases have the names from Braze's lists.
    """
    events, traffic = "{event: purchase}\n{regex: 's.*'}", HourNumberCounts(events=["purchase", "signup"])
    with running_exporter(events, traffic, extra_yaml=EVERYTHING, reads_lists=True) as live:
        live.braze.series_counts = TimeIndependentCounts()
        live.braze.inventory = Inventory(campaigns=(CAMPAIGN,), canvases=(CANVAS,))
        wait_until(lambda: is_listed(scraped_a_minute_later(live)), "the lists are read and the selectors are expanded")
        page = live.page()
        live.clock.advance(2 * 24 * HOUR)
        text = workspace_yaml(live.url, events, extra_yaml=EVERYTHING)
        request = BackfillRequest(parse_time("2026-10-01"), parse_time("2026-11-24"), TARGET, tmp_path / "history.om")
        rig = BackfillRig(live.clock, live.braze, request, text)
        rig.begin().end(step=120)  # the simulated Braze allows 1,000 list requests an hour
        samples = rig.output_samples
    exposed = {
        (name, frozenset((label, value) for label, value in (*labels, *TARGET) if value)): value
        for (name, labels), value in page.samples.items()
    }
    assert {
        key for key in exposed if key[0].endswith(("_settled", "_total")) and not is_exporter_metric(key[0])
    } == set(samples)
    assert len({name for name, _ in samples}) > 30
    assert ("braze_custom_events_total", unfiltered_labels(event="signup")) in samples
    settles = {
        build_gauge(query.kind, metric_group, query.unit, "settled").name: query
        for query in plan_of(text)
        for metric_group in query.metric_groups
    }
    for (name, labels), series in samples.items():
        if query := settles.get(name):
            wanted = {("kind", query.kind.section), ("unit", query.unit.value)}
            starts = {
                value
                for (exposed_name, exposed_labels), value in exposed.items()
                if exposed_name == "braze_query_settled_bucket_start_timestamp_seconds" and wanted <= exposed_labels
            }
            (start,) = map(int, starts)
            stamp = bucket_end(start, query.unit, query.zone) + query.settle_seconds
            assert dict(series)[stamp] == exposed[name, labels], name


def scraped_a_minute_later(live: ExporterRig) -> MetricsPage:
    """Advance the clock by a minute, so that a failed list is retried, and return the next metrics page."""
    live.clock.advance(60)
    return live.scrape()


def is_listed(page: MetricsPage) -> bool:
    """Return whether a page has the series of the selectors and the names of campaigns and Canvases."""
    result = (
        page.values(SETTLED, event="signup"),
        page.values("braze_campaign_messages_daily_settled", campaign="Win-back"),
        page.values("braze_canvas_entries_daily_settled", canvas="Onboarding"),
    )
    return all(result)


def is_exporter_metric(name: str) -> bool:
    """Return whether a metric describes the exporter itself."""
    return name.startswith(("braze_api_", "braze_exporter_", "process_"))


def plan_of(text: str) -> tuple[Query, ...]:
    """Return the queries of a config."""
    return build_plan(load_config(text, "config.yaml")).queries


def test_date_argument_is_in_workspace_timezone(tmp_path: Path) -> None:
    """A date argument means midnight in each workspace's timezone, and each Braze receives one request."""
    days, traffic, tokyo = "{event: purchase, unit: day}", HourNumberCounts(events=["purchase"]), ZoneInfo("Asia/Tokyo")
    with (
        prepared_backfill(tmp_path, days, traffic, "2026-11-01", "2026-11-04T12:00:00Z") as backfill,
        running_braze(traffic, backfill.clock) as (braze, server),
    ):
        braze.zone = tokyo
        backfill.config += workspace_item_yaml(server.url, days, name="tokyo").replace(str(NEW_YORK), str(tokyo))
        backfill.run()
        samples = backfill.output_samples
    assert len(braze.requests) == len(backfill.braze.requests) == 1
    for name, zone in (("production", NEW_YORK), ("tokyo", tokyo)):
        labels = frozenset({**dict(unfiltered_labels(event="purchase")), "workspace": name}.items())
        ends = [datetime(2026, 11, day, tzinfo=zone).timestamp() for day in (2, 3, 4)]
        assert [stamp for stamp, _ in samples[DAILY_SETTLED, labels]] == [end + 2 * HOUR for end in ends]


def test_counter_with_refunds_never_falls(tmp_path: Path) -> None:
    """The gauge shows the negative value that Braze returns, and the counter keeps its value, as in the exporter."""
    extra_yaml = "    revenue:\n      - unit: day\n"
    figures = RecordedCounts()
    refunds = {"2026-11-02": -500, "2026-11-03": 700}
    for day, cents in refunds.items():
        figures.set("revenue", int(unix_time(day)), cents)
    with prepared_backfill(
        tmp_path, "{event: purchase}", HourNumberCounts(), "2026-11-01", "2026-11-06", extra_yaml=extra_yaml
    ) as backfill:
        backfill.braze.series_counts = figures
        backfill.run()
        samples = backfill.output_samples
    labels = frozenset(pair for pair in unfiltered_labels() if pair[0] != "event")
    assert [value for _, value in samples["braze_revenue_daily_settled", labels]] == [0.0, -5.0, 7.0, 0.0]
    assert [value for _, value in samples["braze_revenue_total", labels]] == [0.0, 0.0, 0.0, 7.0, 7.0]


def test_variations_with_same_name_are_two_series(tmp_path: Path) -> None:
    """Two variations with the same name are two series, by their ids."""
    extra_yaml = f"    campaigns:\n      - campaign: {CAMPAIGN.id}\n"

    def rename(response: dict[str, Any]) -> None:
        for row in response["data"]:
            for entry in row["messages"]["email"]:
                entry["variation_name"] = "Only"
            first, second = row["messages"]["email"]
            row["messages"]["email"] = [first] * (row["time"] < "2026-03") + [second] * (row["time"] >= "2026-08")

    with prepared_backfill(
        tmp_path, "{event: purchase}", HourNumberCounts(), "2026-01-01", "2026-11-06", extra_yaml=extra_yaml
    ) as backfill:
        backfill.braze.inventory = Inventory(campaigns=(CAMPAIGN,))
        backfill.braze.series_counts = TimeIndependentCounts()
        backfill.braze.inject(response_faults.edited(rename), path="/campaigns/data_series")
        backfill.run()
        samples = backfill.output_samples
    sent = {
        (dict(labels)["variation_id"], dict(labels)["variation"])
        for name, labels in samples
        if "messages_daily" in name and ("stat", "sent") in labels
    }
    assert sent == {(make_id(CAMPAIGN.id, name), "Only") for name in ("A", "B")}


def test_missing_bucket_has_no_sample(tmp_path: Path) -> None:
    """A missing hour has no sample and does not change the counter."""
    traffic = HourNumberCounts(events=["purchase"])
    gap = int(unix_time("2026-11-02T10:00+00:00"))
    written = HourFormat.OFFSET.write(gap, NEW_YORK)
    with prepared_backfill(tmp_path, "{event: purchase}", traffic, "2026-11-01", "2026-11-05") as backfill:
        backfill.braze.inject(response_faults.edited(lambda response: remove_row(response, written)))
        advice = backfill.run()
        output = backfill.output_samples
    assert gap + 2.0 * HOUR not in dict(output[SETTLED, unfiltered_labels(event="purchase")])
    assert len(output[SETTLED, unfiltered_labels(event="purchase")]) == 4 * 24 - 2
    totals = dict(output[TOTAL, unfiltered_labels(event="purchase")])
    assert gap + 2.0 * HOUR not in totals
    after = traffic.count("purchase", gap + HOUR, 0.0)
    assert totals[gap + 3.0 * HOUR] - totals[gap + 1.0 * HOUR] == after
    assert "# No samples for 1 bucket between others, because Braze returned no values." in advice


def test_event_without_data_has_no_samples(tmp_path: Path) -> None:
    """An empty response produces no samples, and the other queries are written."""
    with prepared_backfill(
        tmp_path,
        "{event: purchase}\n{event: unknown}",
        HourNumberCounts(events=["purchase"]),
        "2026-11-01",
        "2026-11-05",
    ) as backfill:
        backfill.braze.unknown_event = UnknownEvent.EMPTY
        advice = backfill.run()
        output = backfill.output_samples
    assert {dict(labels)["event"] for _, labels in output} == {"purchase"}
    assert "# No samples for 1 query, because Braze returned no data." in advice


def test_backfill_without_data_writes_no_file(tmp_path: Path) -> None:
    """If Braze returns no bucket for any query, the command reports it and writes no file."""
    with prepared_backfill(
        tmp_path, "{event: unknown}", HourNumberCounts(events=["purchase"]), "2026-11-01", "2026-11-05"
    ) as backfill:
        backfill.braze.unknown_event = UnknownEvent.EMPTY
        with pytest.raises(
            BackfillError, match="nothing to write, because Braze returned no buckets of any query in this"
        ):
            backfill.run()
        assert not backfill.request.output.exists()


def test_zero_counts_are_samples(tmp_path: Path) -> None:
    """A count of zero is a sample, also for hours before the event existed."""
    with prepared_backfill(
        tmp_path, "{event: quiet}", RecordedCounts(events=["quiet"]), "2026-11-01", "2026-11-02"
    ) as backfill:
        backfill.run()
        samples = backfill.output_samples
    assert {value for _, value in samples[SETTLED, unfiltered_labels(event="quiet")]} == {0.0}
    assert {value for _, value in samples[TOTAL, unfiltered_labels(event="quiet")]} == {0.0}


def test_names_are_escaped_in_output(tmp_path: Path) -> None:
    """Quotes, backslashes and four-byte characters in an event name are escaped in the Prometheus format."""
    name = 'sign "up" (a|b) \\d+ 🎉'
    with prepared_backfill(
        tmp_path, f"{{event: '{name}'}}", HourNumberCounts(events=[name]), "2026-11-01", "2026-11-02"
    ) as backfill:
        backfill.run()
        assert (SETTLED, unfiltered_labels(event=name)) in backfill.output_samples


def test_unsettled_buckets_by_braze_clock_are_refused(tmp_path: Path) -> None:
    """If `--end` is in the future by Braze's clock, the backfill is refused, but not if it is the current time."""
    clock = Clock(unix_time("2026-11-20T12:00+00:00"))
    with prepared_backfill(
        tmp_path,
        "{event: purchase}",
        HourNumberCounts(events=["purchase"]),
        "2026-11-01",
        "2026-11-20T09:00:00Z",
        clock=clock,
    ) as rig:
        rig.braze.clock = lambda: clock.now - 4 * HOUR
        with pytest.raises(
            BackfillError,
            match=r"production: Braze's clock shows 2026-11-20T08:00:.*Z, which is before --end=2026-11-20T09:00:00Z; "
            r"correct the clock",
        ):
            rig.run()
        assert not rig.request.output.exists()
        rig.braze.clock = lambda: unix_time("2026-11-20T09:00+00:00")
        rig.run()
        assert rig.output_samples[SETTLED, unfiltered_labels(event="purchase")][-1][0] == unix_time(
            "2026-11-20T08:00+00:00"
        )


def test_last_sample_is_before_end(tmp_path: Path) -> None:
    """No sample is at or after `--end`, where the scraped samples begin."""
    end = int(unix_time("2026-11-20T08:00+00:00"))
    for shift, newest in ((0, end - HOUR), (1, end)):
        directory = tmp_path / str(shift)
        directory.mkdir()
        with prepared_backfill(
            directory, "{event: purchase}", HourNumberCounts(events=["purchase"]), "2026-11-01", str(end + shift)
        ) as backfill:
            backfill.run()
            assert backfill.output_samples[SETTLED, unfiltered_labels(event="purchase")][-1][0] == newest
