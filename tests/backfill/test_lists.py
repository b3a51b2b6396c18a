"""Test that Braze's lists determine the series and names of a backfill, and that a missing list ends it."""

from pathlib import Path

import pytest
import response_faults
from backfills import TOTAL, prepared_backfill, unfiltered_labels
from recorded_counts import RecordedCounts

from braze_exporter.backfill.request import BackfillError
from braze_exporter.simulator.inventory import Campaign, Inventory

CAMPAIGN = Campaign("d8b73da7-0b7c-fc72-1d80-2f6e9c41ab05", "Win-back")
SPAN = ("2026-11-01", "2026-11-05")
EVENTS = ("purchase", "signup", "other")


def test_selectors_expand_from_list(tmp_path: Path) -> None:
    """A selector expands to all matching items of one list, and an event that is also configured is fetched once."""
    events = "{event: purchase}\n{regex: 'purchase|signup'}"
    with prepared_backfill(tmp_path, events, RecordedCounts(events=EVENTS), *SPAN) as rig:
        rig.run()
        label_sets = {labels for name, labels in rig.output_samples if name == TOTAL}
        series = [request for request in rig.braze.requests if request.path == "/events/data_series"]
    assert label_sets == {unfiltered_labels(event="purchase"), unfiltered_labels(event="signup")}
    assert len(series) == 2


@pytest.mark.parametrize("events", ["{event: purchase}\n{regex: 'sig.*'}", "{regex: '.*'}"])
def test_selector_without_list_ends_backfill(tmp_path: Path, events: str) -> None:
    """A failed list ends the backfill with the reason before any series request; a later run succeeds."""
    with prepared_backfill(tmp_path, events, RecordedCounts(events=EVENTS), *SPAN) as rig:
        rig.braze.inject(response_faults.status(403), path="/events/list")
        with pytest.raises(
            BackfillError,
            match=r"^production: the list of events could not be read: 403 Forbidden: the key lacks the permission "
            r"events\.list.*; without this list, series would have other names than in a scrape$",
        ):
            rig.run()
        assert {request.path for request in rig.braze.requests} == {"/events/list"}
        rig.braze.clear_faults()
        rig.braze.clear_faults(path="/events/list")
        rig.run()
        assert len(rig.output_samples) > 1


def test_campaigns_with_forbidden_list_have_no_names(tmp_path: Path) -> None:
    """If the campaigns list is forbidden, campaigns have no names, as in the exporter, and a message says so."""
    extra_yaml = f"    campaigns:\n      - campaign: {CAMPAIGN.id}\n"
    with prepared_backfill(
        tmp_path, "{event: purchase}", RecordedCounts(events=EVENTS), *SPAN, extra_yaml=extra_yaml
    ) as rig:
        rig.braze.inventory = Inventory(campaigns=(CAMPAIGN,))
        rig.braze.inject(response_faults.status(403), path="/campaigns/list")
        rig.run()
        labels = {pair for _, labels in rig.output_samples for pair in labels if pair[0].startswith("campaign")}
    assert labels == {("campaign_id", CAMPAIGN.id)}
    assert "production: the list of campaigns could not be read: 403 Forbidden: the key lacks" in rig.progress_text


def test_list_after_server_error_is_fetched_again(tmp_path: Path) -> None:
    """A list is retried after two server errors; a third ends the backfill, as ids would not match the scrape."""
    extra_yaml = f"    campaigns:\n      - campaign: {CAMPAIGN.id}\n"
    with prepared_backfill(
        tmp_path, "{event: purchase}", RecordedCounts(events=EVENTS), *SPAN, extra_yaml=extra_yaml
    ) as rig:
        rig.braze.inventory = Inventory(campaigns=(CAMPAIGN,))
        rig.braze.inject(response_faults.status(503), path="/campaigns/list", times=3)
        with pytest.raises(BackfillError, match="the list of campaigns could not be read: 503 Service Unavailable"):
            rig.run()
        rig.braze.inject(response_faults.status(503), path="/campaigns/list", times=2)
        rig.run()
        names = {value for _, labels in rig.output_samples for label, value in labels if label == "campaign"}
    assert names == {"Win-back"}
