"""The file holds what Braze has counted: each bucket once, at its time, under the labels of the scrape."""

import itertools
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import response_faults
from backfills import SETTLED, TARGET, TOTAL, Backfill, one, prepared
from recorded_counts import Recorded
from support import (
    HOUR,
    IOS,
    NEW_YORK,
    VIP,
    Clock,
    Page,
    Rig,
    every_section,
    rig,
    simulated,
    until,
    workspace,
    workspace_item,
)

from braze_exporter.backfill.request import BackfillError, Wish, moment
from braze_exporter.braze.buckets import bucket_end
from braze_exporter.braze.query import Query
from braze_exporter.config.loading import load
from braze_exporter.metrics.families import gauge
from braze_exporter.scheduler.plan import build
from braze_exporter.simulator.application import UnknownEvent
from braze_exporter.simulator.inventory import Campaign, Canvas, World
from braze_exporter.simulator.message_rows import made_up
from braze_exporter.simulator.times import DayFormat, HourFormat

DAY = "braze_custom_events_daily_settled"


class Numbered(Recorded):
    """An event whose every hour has another count, so that no bucket can be taken for another."""

    def count(self, event: str, hour_start: int, now: float, app_id: str = "", segment_id: str = "") -> int:
        """Return the number of the hour, times what is filtered."""
        del now
        return hour_start // HOUR % 100_000 * (1 + (app_id == IOS) + 2 * (segment_id == VIP)) * (event in self.events)


class Figures(Recorded):
    """Another figure of each sort and in each hour, whenever it is asked for."""

    def count(self, event: str, hour_start: int, now: float, app_id: str = "", segment_id: str = "") -> int:
        """Return some hundreds or thousands."""
        del now
        return 500 + hour_start // HOUR % 997 + 100 * len(event) + 10 * len(app_id + segment_id)


CAMPAIGN = Campaign("d8b73da7-0b7c-fc72-1d80-2f6e9c41ab05", "Win-back", channels=("email",), variations=("A", "B"))
CANVAS = Canvas("4ffe74b7-ca90-4046-ae7f-68b1b337f6a6", "Onboarding", steps=(("Hello", "email"), ("Wait", "")))
EVERYTHING = every_section(CAMPAIGN.id, CANVAS.id, "mug")


def at(text: str) -> float:
    """Return the instant of a local time in New York, or of one with its offset."""
    found = datetime.fromisoformat(text)
    return (found if found.tzinfo else found.replace(tzinfo=NEW_YORK)).timestamp()


def test_each_hour_is_a_sample_at_its_end_and_the_time_to_settle(tmp_path: Path) -> None:
    """The gauge has an hour's count, the counter all up to it after a 0, from the start to before the end."""
    traffic = Numbered(events=["purchase"])
    with prepared(tmp_path, "{event: purchase, settle: 2h}", traffic, "2026-11-01", "2026-11-20T12:00:00Z") as asked:
        asked.run()
        found = asked.found
    first, last = at("2026-11-01T00:00"), at("2026-11-20T08:00+00:00")  # its sample comes at 11:00
    hours = range(int(first), int(last) + 1, HOUR)
    counts = [traffic.count("purchase", hour, 0.0) for hour in hours]
    stamps = [hour + 3.0 * HOUR for hour in hours]
    assert found[SETTLED, one(event="purchase")] == [*zip(stamps, counts, strict=True)]
    totals = [*itertools.accumulate(counts, initial=0)]
    assert found[TOTAL, one(event="purchase")] == [*zip([stamps[0] - HOUR, *stamps], totals, strict=True)]
    assert len(found) == 2


@pytest.mark.parametrize("written", DayFormat)
def test_days_are_those_of_the_workspace_through_summer_time(tmp_path: Path, written: DayFormat) -> None:
    """Each local day is a sample two hours after the midnight that ends it: days of 23, 24 and 25 hours."""
    traffic = Numbered(events=["purchase"])
    with prepared(tmp_path, "{event: purchase, unit: day}", traffic, "2025-10-01", "2026-11-20") as asked:
        asked.braze.day_format = written
        asked.run()
        found = asked.found[DAY, one(event="purchase")]
    days = [date(2025, 10, 1) + timedelta(days=number) for number in range(414)]
    assert days[-1] == date(2026, 11, 18)  # the sample of the 19th comes two hours after the end
    midnights = [datetime.combine(day, time.min, NEW_YORK).timestamp() for day in [*days, date(2026, 11, 19)]]
    lengths = {(after - before) / HOUR for before, after in itertools.pairwise(midnights)}
    assert lengths == {23.0, 24.0, 25.0}
    expected = [
        (after + 2 * HOUR, sum(traffic.count("purchase", hour, 0.0) for hour in range(int(before), int(after), HOUR)))
        for before, after in itertools.pairwise(midnights)
    ]
    assert found == expected


@pytest.mark.parametrize("written", HourFormat)
@pytest.mark.parametrize(("start", "end"), [("2026-10-25", "2026-11-09"), ("2026-03-01", "2026-03-15")])
def test_hours_are_whole_through_the_nights_that_change(
    tmp_path: Path, written: HourFormat, start: str, end: str
) -> None:
    """However Braze writes them, no hour of an autumn or a spring night is lost, doubled or taken for another."""
    traffic = Numbered(events=["purchase"])
    with prepared(tmp_path, "{event: purchase}", traffic, start, end) as asked:
        asked.braze.hour_format = written
        asked.run()
        found = asked.found[SETTLED, one(event="purchase")]
    hours = range(int(at(start)), int(at(end)) - 2 * HOUR, HOUR)
    assert found == [(hour + 2.0 * HOUR, traffic.count("purchase", hour, 0.0)) for hour in hours]


def test_each_app_and_segment_has_its_series_and_only_what_counts_a_counter(tmp_path: Path) -> None:
    """Filtered queries go to families of their own; segments have no counter; the finest unit feeds it."""
    events = "{event: purchase, apps: [all, ios], segments: [all, vip]}\n{event: purchase, unit: day, apps: [all, ios]}"
    traffic = Numbered(events=["purchase"])
    with prepared(tmp_path, events, traffic, "2026-11-01", "2026-11-05") as asked:
        asked.run()
        found = asked.found
    filtered = "braze_custom_events_filtered"
    event = "purchase"
    assert {key: len(series) for key, series in found.items()} == {
        (SETTLED, one(event=event)): 4 * 24 - 1,
        (TOTAL, one(event=event)): 4 * 24,
        (DAY, one(event=event)): 3,
        (f"{filtered}_hourly_settled", one(event=event, braze_app="ios")): 4 * 24 - 1,
        (f"{filtered}_hourly_settled", one(event=event, segment="vip")): 4 * 24 - 1,
        (f"{filtered}_hourly_settled", one(event=event, braze_app="ios", segment="vip")): 4 * 24 - 1,
        (f"{filtered}_total", one(event=event, braze_app="ios")): 4 * 24,
        (f"{filtered}_daily_settled", one(event=event, braze_app="ios")): 3,
    }
    hour = int(at("2026-11-01T00:00"))
    assert found[f"{filtered}_hourly_settled", one(event=event, braze_app="ios", segment="vip")][0] == (
        hour + 2.0 * HOUR,
        traffic.count(event, hour, 0.0, IOS, VIP),
    )


def leave_out(answer: dict[str, Any], written: str) -> None:
    """Take the row of a time out of an answer."""
    answer["data"] = [row for row in answer["data"] if row["time"] != written]


def test_history_is_of_the_same_series_as_the_scrape_for_every_kind(tmp_path: Path) -> None:
    """What a scrape shows as settled is in the history under the same names and labels, and each counter has one.

    Wildcards take the same of Braze's lists, and campaigns and Canvases have the names that Braze lists.
    """
    events, traffic = "{event: purchase}\n{match: 's.*'}", Numbered(events=["purchase", "signup"])
    with rig(events, traffic, rest=EVERYTHING, reads_lists=True) as live:
        live.braze.figures = Figures()
        live.braze.world = World(campaigns=(CAMPAIGN,), canvases=(CANVAS,))
        until(lambda: is_listed(scraped_a_minute_later(live)), "the lists are known, and what wildcards take of them")
        page = live.page()
        live.clock.advance(2 * 24 * HOUR)
        text = workspace(live.url, events, rest=EVERYTHING)
        wish = Wish(moment("2026-10-01"), moment("2026-11-24"), TARGET, tmp_path / "history.om")
        asked = Backfill(live.clock, live.braze, wish, text)
        asked.begin().end(step=120)  # of the lists Braze tells 1,000 an hour
        found = asked.found
    shown = {
        (name, frozenset((label, value) for label, value in (*labels, *TARGET) if value)): value
        for (name, labels), value in page.samples.items()
    }
    assert {key for key in shown if key[0].endswith(("_settled", "_total")) and not is_own(key[0])} == set(found)
    assert len({name for name, _ in found}) > 30
    assert ("braze_custom_events_total", one(event="signup")) in found
    settles = {
        gauge(query.kind, noun, query.unit, "settled").name: query for query in plan_of(text) for noun in query.nouns
    }
    for (name, labels), series in found.items():
        if query := settles.get(name):
            start = int(shown[f"{name}_bucket_start_timestamp_seconds", labels])
            stamp = bucket_end(start, query.unit, query.zone) + query.settle
            assert dict(series)[stamp] == shown[name, labels], name


def scraped_a_minute_later(live: Rig) -> Page:
    """Return the next page; a list that could not be read goes on a minute later."""
    live.clock.advance(60)
    return live.scrape()


def is_listed(page: Page) -> bool:
    """Return whether what wildcards take and what campaigns and Canvases are called is on a page."""
    found = (
        page.of(SETTLED, event="signup"),
        page.of("braze_campaign_messages_daily_settled", campaign="Win-back"),
        page.of("braze_canvas_entries_daily_settled", canvas="Onboarding"),
    )
    return all(found)


def is_own(name: str) -> bool:
    """Return whether a metric is of the exporter itself."""
    return name.startswith(("braze_api_", "braze_exporter_", "process_"))


def plan_of(text: str) -> tuple[Query, ...]:
    """Return the queries of a config."""
    return build(load(text, "config.yaml")).queries


def test_a_date_is_that_of_each_workspace(tmp_path: Path) -> None:
    """Two companies, two clocks: a day begins and ends at the midnight of each, and each is asked for its own."""
    days, traffic, tokyo = "{event: purchase, unit: day}", Numbered(events=["purchase"]), ZoneInfo("Asia/Tokyo")
    with (
        prepared(tmp_path, days, traffic, "2026-11-01", "2026-11-04T12:00:00Z") as asked,
        simulated(traffic, asked.clock) as (braze, server),
    ):
        braze.zone = tokyo
        asked.config += workspace_item(server.url, days, name="tokyo").replace(str(NEW_YORK), str(tokyo))
        asked.run()
        found = asked.found
    assert len(braze.requests) == len(asked.braze.requests) == 1
    for name, zone in (("production", NEW_YORK), ("tokyo", tokyo)):
        labels = frozenset({**dict(one(event="purchase")), "workspace": name}.items())
        ends = [datetime(2026, 11, day, tzinfo=zone).timestamp() for day in (2, 3, 4)]
        assert [stamp for stamp, _ in found[DAY, labels]] == [end + 2 * HOUR for end in ends]


def test_refunds_let_no_counter_fall(tmp_path: Path) -> None:
    """The gauge has what Braze says; the counter stands still where that is negative, as the exporter's does."""
    rest = "    revenue:\n      - unit: day\n"
    figures = Recorded()
    refunds = {"2026-11-02": -500, "2026-11-03": 700}
    for day, cents in refunds.items():
        figures.set("revenue", int(at(day)), cents)
    with prepared(tmp_path, "{event: purchase}", Numbered(), "2026-11-01", "2026-11-06", rest=rest) as asked:
        asked.braze.figures = figures
        asked.run()
        found = asked.found
    labels = frozenset(pair for pair in one() if pair[0] != "event")
    assert [value for _, value in found["braze_revenue_daily_settled", labels]] == [0.0, -5.0, 7.0, 0.0]
    assert [value for _, value in found["braze_revenue_total", labels]] == [0.0, 0.0, 0.0, 7.0, 7.0]


def test_variations_of_one_name_are_two_series(tmp_path: Path) -> None:
    """The newest has the name, as in a scrape; one that had it before has its id too: promtool takes no twins."""
    rest = f"    campaigns:\n      - campaign: {CAMPAIGN.id}\n"

    def rename(answer: dict[str, Any]) -> None:
        for row in answer["data"]:
            for entry in row["messages"]["email"]:
                entry["variation_name"] = "Only"
            first, second = row["messages"]["email"]
            row["messages"]["email"] = [first] * (row["time"] < "2026-03") + [second] * (row["time"] >= "2026-08")

    with prepared(tmp_path, "{event: purchase}", Numbered(), "2026-01-01", "2026-11-06", rest=rest) as asked:
        asked.braze.world = World(campaigns=(CAMPAIGN,))
        asked.braze.figures = Figures()
        asked.braze.fail(response_faults.edited(rename), path="/campaigns/data_series")
        asked.run()
        found = asked.found
    sent = [
        dict(labels)["variation"] for name, labels in found if "messages_daily" in name and ("stat", "sent") in labels
    ]
    assert sorted(sent) == ["Only", f"Only ({made_up(CAMPAIGN.id, 'A')})"]


def test_a_bucket_that_braze_leaves_out_stays_out(tmp_path: Path) -> None:
    """Nothing is filled in and nothing is a zero: a missing hour has no sample, and the counter no step."""
    traffic = Numbered(events=["purchase"])
    gap = int(at("2026-11-02T10:00+00:00"))
    written = HourFormat.OFFSET.write(gap, NEW_YORK)
    with prepared(tmp_path, "{event: purchase}", traffic, "2026-11-01", "2026-11-05") as asked:
        asked.braze.fail(response_faults.edited(lambda answer: leave_out(answer, written)))
        advice = asked.run()
        found = asked.found
    assert gap + 2.0 * HOUR not in dict(found[SETTLED, one(event="purchase")])
    assert len(found[SETTLED, one(event="purchase")]) == 4 * 24 - 2
    totals = dict(found[TOTAL, one(event="purchase")])
    assert gap + 2.0 * HOUR not in totals
    after = traffic.count("purchase", gap + HOUR, 0.0)
    assert totals[gap + 3.0 * HOUR] - totals[gap + 1.0 * HOUR] == after
    assert "# Braze left out 1 bucket between others: they have no samples." in advice


def test_an_event_of_which_braze_tells_nothing_has_no_samples(tmp_path: Path) -> None:
    """An empty answer is an answer: no zero is made of it, and what else there is is written."""
    with prepared(
        tmp_path, "{event: purchase}\n{event: nobody}", Numbered(events=["purchase"]), "2026-11-01", "2026-11-05"
    ) as asked:
        asked.braze.unknown_event = UnknownEvent.EMPTY
        advice = asked.run()
        found = asked.found
    assert {dict(labels)["event"] for _, labels in found} == {"purchase"}
    assert "# Of 1 query Braze told nothing: they have no samples." in advice


def test_nothing_at_all_is_no_file(tmp_path: Path) -> None:
    """Where Braze told no bucket of any query, that is said."""
    with prepared(tmp_path, "{event: nobody}", Numbered(events=["purchase"]), "2026-11-01", "2026-11-05") as asked:
        asked.braze.unknown_event = UnknownEvent.EMPTY
        with pytest.raises(BackfillError, match="Braze has told no bucket of any query in that time: there is nothing"):
            asked.run()
        assert not asked.wish.output.exists()


def test_zeros_are_values(tmp_path: Path) -> None:
    """What Braze says of the time before an event existed is what it says."""
    with prepared(tmp_path, "{event: quiet}", Recorded(events=["quiet"]), "2026-11-01", "2026-11-02") as asked:
        asked.run()
        found = asked.found
    assert {value for _, value in found[SETTLED, one(event="quiet")]} == {0.0}
    assert {value for _, value in found[TOTAL, one(event="quiet")]} == {0.0}


def test_names_come_whole_into_the_file(tmp_path: Path) -> None:
    """Quotes, backslashes and letters of four bytes in an event's name are escaped as Prometheus reads them."""
    name = 'sign "up" (a|b) \\d+ 🎉'
    with prepared(tmp_path, f"{{event: '{name}'}}", Numbered(events=[name]), "2026-11-01", "2026-11-02") as asked:
        asked.run()
        assert (SETTLED, one(event=name)) in asked.found


def test_nothing_is_written_that_has_not_settled_by_brazes_clock(tmp_path: Path) -> None:
    """Where our clock is ahead of Braze's by more than the three hours, it is refused and not guessed."""
    clock = Clock(at("2026-11-20T12:00+00:00"))
    with prepared(
        tmp_path, "{event: purchase}", Numbered(events=["purchase"]), "2026-11-01", "2026-11-20T09:00:00Z", clock=clock
    ) as asked:
        asked.braze.clock = lambda: clock.now - 4 * HOUR
        with pytest.raises(
            BackfillError,
            match=r"production: to Braze it is 2026-11-20T08:00:.*Z, before --end=2026-11-20T09:00:00Z: set the clock",
        ):
            asked.run()
        assert not asked.wish.output.exists()
        asked.braze.clock = clock.wall
        asked.run()
        assert asked.found[SETTLED, one(event="purchase")][-1][0] == at("2026-11-20T08:00+00:00")


def test_the_last_sample_comes_before_the_end(tmp_path: Path) -> None:
    """A sample at the very end is that of the scrape: it is not written twice."""
    end = int(at("2026-11-20T08:00+00:00"))
    for shift, newest in ((0, end - HOUR), (1, end)):
        folder = tmp_path / str(shift)
        folder.mkdir()
        with prepared(
            folder, "{event: purchase}", Numbered(events=["purchase"]), "2026-11-01", str(end + shift)
        ) as asked:
            asked.run()
            assert asked.found[SETTLED, one(event="purchase")][-1][0] == newest
