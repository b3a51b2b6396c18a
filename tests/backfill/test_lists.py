"""What Braze lists decides what series there are and what they are called; without it nothing is made up."""

from pathlib import Path

import pytest
import response_faults
from backfills import TOTAL, one, prepared
from recorded_counts import Recorded

from braze_exporter.backfill.request import BackfillError
from braze_exporter.simulator.inventory import Campaign, World

CAMPAIGN = Campaign("d8b73da7-0b7c-fc72-1d80-2f6e9c41ab05", "Win-back")
SPAN = ("2026-11-01", "2026-11-05")
EVENTS = ("purchase", "signup", "other")


def test_wildcards_take_of_the_list(tmp_path: Path) -> None:
    """All that match, by one list, and what the config names is asked for once."""
    events = "{event: purchase}\n{match: 'purchase|signup'}"
    with prepared(tmp_path, events, Recorded(events=EVENTS), *SPAN) as asked:
        asked.run()
        found = {labels for name, labels in asked.found if name == TOTAL}
        series = [request for request in asked.braze.requests if request.path == "/events/data_series"]
    assert found == {one(event="purchase"), one(event="signup")}
    assert len(series) == 2


@pytest.mark.parametrize("events", ["{event: purchase}\n{match: 'sig.*'}", "{match: '.*'}"])
def test_without_the_list_of_a_wildcard_nothing_is_read(tmp_path: Path, events: str) -> None:
    """It is refused with the reason, and nothing is asked of any series; when the list is there it goes on."""
    with prepared(tmp_path, events, Recorded(events=EVENTS), *SPAN) as asked:
        asked.braze.fail(response_faults.status(403), path="/events/list")
        with pytest.raises(
            BackfillError,
            match=r"^production: the list of events cannot be read: HTTP 403: the key needs the permission events\.list"
            r".*: without it the series would have other names than those of a scrape$",
        ):
            asked.run()
        assert {request.path for request in asked.braze.requests} == {"/events/list"}
        asked.braze.heal()
        asked.braze.heal(path="/events/list")
        asked.run()
        assert len(asked.found) > 1


def test_campaigns_have_their_identifiers_where_the_list_is_forbidden(tmp_path: Path) -> None:
    """So has an exporter with that key; it is said."""
    rest = f"    campaigns:\n      - campaign: {CAMPAIGN.id}\n"
    with prepared(tmp_path, "{event: purchase}", Recorded(events=EVENTS), *SPAN, rest=rest) as asked:
        asked.braze.world = World(campaigns=(CAMPAIGN,))
        asked.braze.fail(response_faults.status(403), path="/campaigns/list")
        asked.run()
        names = {value for _, labels in asked.found for label, value in labels if label == "campaign"}
    assert names == {CAMPAIGN.id}
    assert "production: the list of campaigns cannot be read: HTTP 403: the key needs" in asked.said


def test_a_list_in_trouble_is_asked_for_again(tmp_path: Path) -> None:
    """Twice, and then it is refused: ids in place of names would be other series than those of the scrape."""
    rest = f"    campaigns:\n      - campaign: {CAMPAIGN.id}\n"
    with prepared(tmp_path, "{event: purchase}", Recorded(events=EVENTS), *SPAN, rest=rest) as asked:
        asked.braze.world = World(campaigns=(CAMPAIGN,))
        asked.braze.fail(response_faults.status(503), path="/campaigns/list", times=3)
        with pytest.raises(BackfillError, match="the list of campaigns cannot be read: HTTP 503"):
            asked.run()
        asked.braze.fail(response_faults.status(503), path="/campaigns/list", times=2)
        asked.run()
        names = {value for _, labels in asked.found for label, value in labels if label == "campaign"}
    assert names == {"Win-back"}
