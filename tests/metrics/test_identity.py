"""Test that no two series of a page have the same labels, whatever Braze and the config call things."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import response_faults
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from recorded_counts import RecordedCounts
from support import CURRENT_HOUR, VIP, ExporterRig, MetricsPage, running_exporter

from braze_exporter.exporter.exporter import Exporter
from braze_exporter.simulator.inventory import Campaign, Canvas, Inventory, Segment
from braze_exporter.state.state_file import open_state_file

IDS = ("aaaaaaaa-0000-0000-0000-000000000001", "aaaaaaaa-0000-0000-0000-00000000000b")
# Ids in both letter cases, ids that are names of other items, and equal names.
any_id = st.sampled_from([*IDS, *(item.upper() for item in IDS)])
any_name = st.sampled_from(
    ["Sale", "sale", "", " ", *IDS, f"Sale ({IDS[0]})", f"Sale ({IDS[1]})", "vip", "all", "\ud83d"]
)
any_part = st.fixed_dictionaries(
    {"sent": st.integers(0, 9)},
    optional={
        "variation_api_id": st.none() | st.just("") | any_id,
        "variation_name": st.none() | any_name,
        "unique_opens": st.integers(0, 9),
        "revenue": st.integers(-9, 9),
    },
)
any_messages = st.dictionaries(st.sampled_from(["email", "sms", "Sale"]), st.lists(any_part, max_size=3), max_size=2)
any_steps = st.dictionaries(
    st.just("") | any_id,
    st.fixed_dictionaries({"name": st.none() | any_name, "messages": any_messages}),
    max_size=3,
)
any_days = st.lists(st.tuples(any_messages, any_steps), min_size=1, max_size=3)
any_inventory = st.builds(
    Inventory,
    campaigns=st.lists(st.builds(Campaign, any_id, any_name), max_size=3).map(tuple),
    canvases=st.lists(st.builds(Canvas, any_id, any_name), max_size=3).map(tuple),
    segments=st.lists(st.builds(Segment, any_id | st.just(VIP), any_name), max_size=4).map(tuple),
)


def rows_of(days: list[tuple[dict[str, Any], dict[str, Any]]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the data of a campaign's response and of a Canvas's response with these days."""
    times = [f"2026-11-{23 - back}" for back in range(len(days))]
    campaign = [
        {"time": time, "conversions": 1, "messages": messages} for time, (messages, _) in zip(times, days, strict=True)
    ]
    stats = [
        {"time": time, "total_stats": {"entries": 1}, "step_stats": steps}
        for time, (_, steps) in zip(times, days, strict=True)
    ]
    return campaign, {"name": "x", "stats": stats}


@given(st.lists(any_id, max_size=2), st.lists(st.tuples(any_inventory, any_days), min_size=1, max_size=3))
@settings(max_examples=25)
def test_no_two_series_have_same_labels(
    configured: list[str], states: list[tuple[Inventory, list[tuple[dict[str, Any], dict[str, Any]]]]]
) -> None:
    """A page has no duplicate series, for any ids and names in Braze and the config."""
    entries = [{"campaign": item} for item in dict.fromkeys(item.lower() for item in configured)]
    sections = {
        "campaigns": [*entries, {"regex": ".*"}],
        "canvases": [{"regex": ".*"}],
        "segment_users": [{"segment": "vip"}, {"regex": ".*"}],
    }
    extra_yaml = "".join(f"    {name}: {json.dumps(value)}\n" for name, value in sections.items())
    events = RecordedCounts(events=["Sale", "sale", IDS[0]])
    with running_exporter("{regex: '.*'}", events, extra_yaml=extra_yaml, reads_lists=True) as exporter:
        for inventory, days in states:
            campaign, canvas = rows_of(days)
            exporter.braze.clear_faults()
            exporter.braze.inventory = inventory
            exporter.braze.inject(response_faults.data(campaign), path="/campaigns/data_series")
            exporter.braze.inject(response_faults.data(canvas), path="/canvas/data_series")
            for _ in range(3):
                exporter.clock.advance(3_600)
                exporter.refresh()
                exporter.read_lists()
                assert exporter.scrape().value("braze_up") == 1  # raises an error if two samples have the same labels
            list(parse_openmetrics(b"".join(exporter.exporter.render(openmetrics=True)).decode()))


SALE, WELCOME = IDS
CAMPAIGN_TOTAL = "braze_campaign_messages_total"


def scrape_with_lists(exporter: ExporterRig) -> MetricsPage:
    """Return the page after two reads of each list, since an item is removed by the second read without it."""
    for _ in range(2):
        exporter.clock.advance(3_600)
        exporter.refresh()
        exporter.read_lists()
    return exporter.scrape()


def sent_by_id(page: MetricsPage) -> dict[str, float]:
    """Return the counters of sent messages by the id of the campaign."""
    return {
        dict(labels)["campaign_id"]: value
        for (name, labels), value in page.samples.items()
        if name == CAMPAIGN_TOTAL and ("stat", "sent") in labels
    }


@pytest.mark.parametrize(
    "after",
    [
        Inventory(campaigns=(Campaign(SALE, "Welcome"), Campaign(WELCOME, "Sale"))),
        Inventory(campaigns=(Campaign(WELCOME, "Sale"),)),
    ],
    ids=["names exchanged", "name of an archived campaign"],
)
def test_campaign_with_name_of_another_keeps_its_counter(after: Inventory) -> None:
    """A campaign that takes the name of another shows its own total under its own id."""
    before = Inventory(campaigns=(Campaign(SALE, "Sale"), Campaign(WELCOME, "Welcome")))
    entries = f"    campaigns: [{{campaign: {SALE}}}, {{campaign: {WELCOME}}}]\n"
    recorded = RecordedCounts()
    with running_exporter("{event: purchase}", RecordedCounts(), extra_yaml=entries, reads_lists=True) as exporter:
        exporter.braze.series_counts = recorded
        exporter.braze.inventory = before
        exporter.scrape()
        recorded.set(f"campaigns/{SALE}", CURRENT_HOUR, 9_000)
        recorded.set(f"campaigns/{WELCOME}", CURRENT_HOUR, 7)
        first = scrape_with_lists(exporter)
        exporter.braze.inventory = after
        second = scrape_with_lists(exporter)
    assert sent_by_id(first) == sent_by_id(second) == {SALE: 9_000, WELCOME: 7}
    assert first.value("braze_query_up", campaign_id=WELCOME, campaign="Welcome") == 1
    assert second.value("braze_query_up", campaign_id=WELCOME, campaign="Sale") == 1


def test_names_survive_restart(tmp_path: Path) -> None:
    """After a restart, a campaign has its last name before the list is read, and its counter continues."""
    entries = f"    campaigns: [{{campaign: {SALE}}}]\n"
    recorded = RecordedCounts()
    labels = []
    with running_exporter("{event: purchase}", RecordedCounts(), extra_yaml=entries) as rig:
        rig.braze.series_counts = recorded
        rig.braze.inventory = Inventory(campaigns=(Campaign(SALE, "Sale"),))
        for reads_lists in (True, False):
            with restarted(rig, entries, tmp_path / "state.sqlite", reads_lists=reads_lists) as exporter:
                scrape_with_lists(exporter)
                recorded.set(f"campaigns/{SALE}", CURRENT_HOUR, 9_000)
                page = scrape_with_lists(exporter)
            labels.append(page.value(CAMPAIGN_TOTAL, campaign_id=SALE, campaign="Sale", stat="sent"))
    assert labels == [9_000, 9_000]


def test_variations_that_exchange_names_across_restart_keep_their_counters(tmp_path: Path) -> None:
    """If two variations exchange their names while the exporter is down, each id keeps its total."""
    entries = f"    campaigns: [{{campaign: {SALE}}}]\n"
    totals = []
    with running_exporter("{event: purchase}", RecordedCounts(), extra_yaml=entries) as rig:
        rig.braze.inventory = Inventory(campaigns=(Campaign(SALE, "Sale"),))
        for names, sent in ((("A", "B"), (100, 3)), (("A", "B"), (9_100, 3)), (("B", "A"), (9_100, 3))):
            messages = [
                {"variation_api_id": part, "variation_name": name, "sent": count}
                for part, name, count in zip(IDS, names, sent, strict=True)
            ]
            rig.braze.clear_faults()
            data = response_faults.data([{"time": "2026-11-23", "messages": {"email": messages}}])
            rig.braze.inject(data, path="/campaigns/data_series")
            with restarted(rig, entries, tmp_path / "state.sqlite") as exporter:
                scrape_with_lists(exporter)  # a series that was 0 before the restart rises after it was 0 on a page
                page = scrape_with_lists(exporter)
            totals.append(
                [
                    page.value(CAMPAIGN_TOTAL, variation_id=part, variation=name)
                    for part, name in zip(IDS, names, strict=True)
                ]
            )
    assert totals == [[0, 0], [9_000, 0], [9_000, 0]]


@contextlib.contextmanager
def restarted(
    rig: ExporterRig, extra_yaml: str, state_file: Path, *, reads_lists: bool = False
) -> Iterator[ExporterRig]:
    """Run another exporter with a state file against the simulated Braze of `rig`."""
    clock, session = rig.clock, rig.session
    with (
        contextlib.closing(open_state_file(str(state_file))) as store,
        contextlib.closing(Exporter(store, clock=clock, reads_lists=reads_lists)) as exporter,
    ):
        other = ExporterRig(clock, rig.braze, exporter, rig.server, session)
        other.apply_config("{event: purchase}", extra_yaml=extra_yaml)
        yield other
