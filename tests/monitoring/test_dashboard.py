"""The dashboard is what Grafana reads as it is, and asks for what the config has. `test_dashboard_data` asks for it."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docs
import pytest
from jsonschema import Draft7Validator
from support import run, workspace, workspace_item, write

from braze_exporter.braze.kinds import Noun
from braze_exporter.braze.query import Query
from braze_exporter.config.loading import load
from braze_exporter.metrics import self_metrics
from braze_exporter.metrics.families import GAUGES, OF_QUERY, counter, gauge
from braze_exporter.monitoring.dashboard import dashboard
from braze_exporter.scheduler.plan import Plan, build, has_counter
from braze_exporter.simulator import demo_config

URL = "https://rest.iad-01.braze.com"
SCHEMA = docs.ROOT.parent / "shared/grafana/dashboard.jsonschema.json"

NO_EVENTS = workspace(URL, "").replace("    custom_events:\n      - \n", "").replace("    custom_events:\n", "")
CONFIGS = {
    "least": workspace(URL, "{event: purchase}"),
    "days": workspace(URL, "{event: purchase, unit: day, baseline: {weeks: 4}}"),
    "filtered": workspace(URL, "{event: purchase, apps: [ios], segments: [all, vip]}"),
    "many": workspace(URL, "\n".join(f"{{event: event_{number}}}" for number in range(30))),
    "workspaces": workspace(URL, "{event: purchase, apps: [all, ios]}")
    + workspace_item(URL, "{event: signup, unit: day, segments: [all, vip]}", name="staging"),
    "users": NO_EVENTS + "    segment_users: [{segment: vip}]\n    monthly_active_users: [{apps: [ios]}]\n",
    "campaign": NO_EVENTS + "    campaigns: [{campaign: d8b73da7-0b7c-fc72-1d80-2f6e9c41ab05}]\n",
    "two kinds": workspace(URL, "{event: purchase}", rest="    sessions: [{apps: [all, ios]}]\n"),
    "example": (docs.ROOT / "config.example.yaml").read_text(encoding="utf-8"),
    "demo": demo_config.config("http://127.0.0.1:1"),
}

Json = dict[str, Any]


def plan_of(name: str) -> Plan:
    """Return the plan of one of the configs."""
    return build(load(CONFIGS[name], "config.yaml"))


def board(name: str) -> Json:
    """Return the dashboard of one of the configs, as JSON has it."""
    found: Json = json.loads(json.dumps(dashboard(plan_of(name), 0.2)))
    return found


def panels(found: Json) -> Iterator[Json]:
    """Yield all panels but the headings, those in folded rows too."""
    for panel in found["panels"]:
        yield from [panel] if panel["type"] != "row" else panel["panels"]


def queries(found: Json) -> Iterator[str]:
    """Yield every PromQL of a dashboard, that of its variables too."""
    yield from (target["expr"] for panel in panels(found) for target in panel["targets"])
    yield from (item["query"] for item in found["templating"]["list"] if item["type"] == "query")


def text(name: str) -> str:
    """Return all PromQL of the dashboard of one of the configs."""
    return "\n".join(queries(board(name)))


@pytest.fixture(scope="module")
def schema() -> Draft7Validator:
    """Return Grafana's own schema of a dashboard; it is too large to be kept here."""
    if not SCHEMA.exists():
        pytest.skip(f"{SCHEMA} is not there")
    return Draft7Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", CONFIGS)
def test_grafana_knows_everything_in_it(schema: Draft7Validator, name: str) -> None:
    """The JSON is as Grafana's schema wants it."""
    assert [f"{error.json_path}: {error.message[:200]}" for error in schema.iter_errors(board(name))] == []


def test_the_schema_would_find_a_mistake(schema: Draft7Validator) -> None:
    """A key that Grafana does not know, deep in a panel, is no good."""
    found = board("least")
    next(panels(found))["fieldConfig"]["defaults"]["colour"] = "red"
    assert not schema.is_valid(found)


@pytest.mark.parametrize("name", CONFIGS)
def test_it_can_be_provisioned_as_it_is(name: str) -> None:
    """It has a fixed uid, no id of a database and no inputs, and each panel asks the data source that is chosen."""
    found = board(name)
    assert (found["id"], found["uid"]) == (None, "braze-exporter")
    assert not [key for key in found if key.startswith("__")]
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    assert {"type": "datasource", "name": "datasource", "label": "Prometheus", "query": "prometheus"} in found[
        "templating"
    ]["list"]
    for panel in panels(found):
        assert [panel["datasource"], *(target["datasource"] for target in panel["targets"])] == [chosen] * (
            1 + len(panel["targets"])
        )
    assert all(item["datasource"] == chosen for item in found["templating"]["list"] if item["type"] == "query")


@pytest.mark.parametrize("name", CONFIGS)
def test_panels_have_numbers_and_places_of_their_own(name: str) -> None:
    """No two panels have the same id or the same cell of the screen, no cell is out of it, no line has a hole."""
    found = board(name)
    headings = [panel for panel in found["panels"] if panel["type"] == "row"]
    numbers = Counter(panel["id"] for panel in [*headings, *panels(found)])
    assert set(numbers.values()) == {1}
    for group in [found["panels"], *(heading["panels"] for heading in headings)]:
        cells = Counter(
            (place["x"] + x, place["y"] + y)
            for place in (panel["gridPos"] for panel in group)
            for x in range(place["w"])
            for y in range(place["h"])
        )
        assert set(cells.values()) <= {1}
        assert all(0 <= x < 24 for x, _ in cells)
        lines = Counter(y for _, y in cells)
        assert set(lines.values()) <= {24}
    assert all(heading["collapsed"] == bool(heading["panels"]) for heading in headings)
    open_rows = sorted(panel["gridPos"]["y"] for panel in found["panels"])
    assert open_rows[0] == 0


@pytest.mark.parametrize("name", CONFIGS)
def test_every_panel_says_what_it_means(name: str) -> None:
    """Each has a title, a description, a unit where it shows numbers, and queries with names of their own."""
    titles = Counter(panel["title"] for panel in panels(board(name)))
    assert set(titles.values()) == {1}
    for panel in panels(board(name)):
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert ("unit" in panel["fieldConfig"]["defaults"]) == (panel["type"] != "state-timeline")
        names = [target["refId"] for target in panel["targets"]]
        assert names == sorted(set(names))
        assert names
        assert all(target["instant"] != target["range"] for target in panel["targets"])


@pytest.mark.parametrize("name", CONFIGS)
def test_it_asks_for_what_the_config_has_and_for_nothing_else(name: str) -> None:
    """Every metric that is named is one of the plan's queries or of the exporter; every gauge of the plan is shown."""
    plan = plan_of(name)
    known, shown = set(), set()
    for query in plan.queries:
        for noun in query.nouns:
            gauges = {measure: gauge(query.kind, noun, query.unit, measure).name for measure in GAUGES}
            known |= {*gauges.values(), counter(query.kind, noun).name}
            shown |= {gauges[measure] for measure in _shown(query, noun)}
        if has_counter(query):
            shown.add(counter(query.kind, query.noun).name)
    itself = {family.name for family in (self_metrics.UP, self_metrics.QUERIES, *self_metrics.OWN)}
    itself |= {f"{family.name}_bucket" for family in self_metrics.OWN if family.type == "histogram"}
    named = set(re.findall(r"\bbraze_\w+", text(name))) - {"braze_app"}
    assert named <= known | itself
    assert shown <= named


def _shown(query: Query, noun: Noun) -> Iterator[str]:
    """Yield the gauges of a query that are of use: of what is in progress, only of what is not filtered."""
    yield "settled"
    if noun is not query.noun:
        return
    yield from ("settled_bucket_start_timestamp_seconds", *OF_QUERY)
    if noun is not query.kind.filtered:
        yield "latest"
        if noun.is_additive or not noun.labels:  # its growth is drawn
            yield "latest_bucket_start_timestamp_seconds"
    if query.weeks:
        yield "baseline"


def test_nothing_is_there_that_would_stay_empty() -> None:
    """Without days, baselines, apps and segments there are neither panels nor variables for them."""
    least = board("least")
    assert [item["name"] for item in least["templating"]["list"]] == [
        "datasource",
        "workspace",
        "event",
        "event_hourly",
    ]
    assert "_daily_" not in text("least")
    assert "baseline" not in text("least")
    assert "_filtered{" not in text("least")
    assert not [panel for panel in panels(least) if re.search(r"\bday\b|usual|app|segment|zone", panel["title"])]
    days = board("days")
    assert "_hourly_" not in text("days")
    assert {"Settled day against usual", "Time zone"} <= {panel["title"] for panel in panels(days)}


def test_apps_and_segments_are_chosen_where_there_are_some() -> None:
    """Each has a variable; what is filtered by one of them is not mixed with what is filtered by both."""
    variables = [item["name"] for item in board("example")["templating"]["list"]]
    assert variables == [
        "datasource",
        "workspace",
        "event",
        "app",
        "segment",
        "campaign",
        "canvas",
        "channel",
        "event_hourly",
        "event_daily",
        "campaign_daily",
        "canvas_daily",
    ]
    assert [item["name"] for item in board("users")["templating"]["list"]] == [
        "datasource",
        "workspace",
        "segment",
        "app",
    ]
    by_app = next(panel for panel in panels(board("example")) if panel["title"] == "Custom events by app, settled hour")
    assert 'braze_app=~`${app:regex}`, segment=""' in by_app["targets"][0]["expr"]
    assert len(by_app["targets"]) == 2
    alone = next(panel for panel in panels(board("filtered")) if panel["title"] == "Custom events by app, settled hour")
    assert len(alone["targets"]) == 1  # there is no total beside it


def test_every_choice_may_be_everything_or_several() -> None:
    """All variables of labels begin with All, which is one short pattern, however many values there are."""
    for item in board("example")["templating"]["list"][1:]:
        assert (item["multi"], item["includeAll"], item["allValue"]) == (True, True, ".+")
        assert item["current"]["value"] == ["$__all"]
        assert (item.get("hide") == 2) == item["name"].endswith(("_hourly", "_daily"))


@pytest.mark.parametrize(("name", "folded"), [("least", False), ("many", True)])
def test_charts_of_each_event_are_folded_away_if_they_are_many(name: str, *, folded: bool) -> None:
    """With a few events each has a chart in sight, with many one can unfold them."""
    found = board(name)
    row = next(panel for panel in found["panels"] if panel["title"] == "Each event by the hour")
    assert row["collapsed"] is folded
    assert [panel["repeat"] for panel in row["panels"]] == ["event_hourly"] * folded
    assert [panel["repeat"] for panel in panels(found) if "repeat" in panel] == ["event_hourly"]


def test_each_kind_has_a_row_and_many_are_folded() -> None:
    """What has a number for each day and no more shares a row; with more than three rows the first is in sight."""

    def rows(name: str) -> dict[str, bool]:
        found = {row["title"]: row["collapsed"] for row in board(name)["panels"] if row["type"] == "row"}
        return {title: found[title] for title in list(found)[:-3]}  # the last three are of the exporter

    assert rows("campaign") == {"Rising and falling": False, "Campaigns": False, "Each campaign by the day": False}
    assert rows("two kinds") == dict.fromkeys(
        ["Rising and falling", "Custom events", "Each event by the hour", "Sessions"], False
    )
    assert rows("users") == {"Segment users": False, "Users": False}
    assert rows("example") == {
        "Rising and falling": False,
        "Custom events": False,
        "Each event by the hour": False,
        "Each event by the day": False,
        **dict.fromkeys(["Sessions", "Purchases", "Revenue", "Segment users"], True),
        **dict.fromkeys(["Campaigns", "Each campaign by the day", "Canvases", "Each canvas by the day"], True),
        "Users": True,
    }


def test_a_campaign_shows_what_it_sent_and_what_came_of_it() -> None:
    """Messages by channel and what became of them, conversions, revenue, recipients; all judged by what was sent."""
    found = {panel["title"]: panel["targets"][0] for panel in panels(board("campaign"))}
    titles = [title for title in found if title.startswith(("Messages", "Campaign"))]
    assert titles == [
        "Messages sent, settled day",
        "Messages sent, day in progress",
        "Campaign messages by channel, settled day",
        "Campaign messages: what came of them, settled day",
        "Campaign conversions, settled day",
        "Campaign revenue, settled day",
        "Campaign unique recipients, settled day",
        "Messages sent, reported in 24 hours",
        "Messages sent, reported in 7 days",
    ]
    for title in (*titles[:3], *titles[-2:], "Fell most in 24 h", "Rose most in 24 h"):
        assert found[title]["expr"].count('stat=~"sent|impressions"') == found[title]["expr"].count("braze_"), title
    assert found[titles[2]]["legendFormat"] == "{{channel}}"
    assert found[titles[3]]["legendFormat"] == "{{channel}} {{stat}}"


def test_several_workspaces_are_told_apart() -> None:
    """With one workspace no legend names it; with two each does that has more than the exporter as a whole."""
    assert "{{workspace}}" not in json.dumps(board("example"))
    each = next(panel for panel in panels(board("workspaces")) if panel.get("repeat") == "event_hourly")
    assert [target["legendFormat"] for target in each["targets"]] == [
        "{{workspace}} settled",
        "{{workspace}} in progress",
    ]
    drawn = [override["matcher"]["options"]["names"] for override in each["fieldConfig"]["overrides"]]
    assert drawn[0] == ["production settled", "staging settled"]


def test_lines_are_where_the_config_has_them() -> None:
    """What is too old, what is unanswered too long and the reserve follow from the settings."""
    slow = load(workspace(URL, "{event: purchase, settle: 2h, refresh: 15m}"), "config.yaml")
    found = {panel["title"]: panel for panel in panels(dashboard(build(slow), 0.35))}
    assert found["Age of the settled hour"]["fieldConfig"]["defaults"]["thresholds"]["steps"][1]["value"] == 5 * 3_600
    assert found["Since the last answer"]["fieldConfig"]["defaults"]["thresholds"]["steps"][1]["value"] == 45 * 60
    assert found["How late Braze revises"]["fieldConfig"]["defaults"]["thresholds"]["steps"][1]["value"] == 2 * 3_600
    assert found["Rate limit"]["fieldConfig"]["defaults"]["thresholds"]["steps"][1]["value"] == 0.35
    assert found["Rate limit left"]["fieldConfig"]["defaults"]["thresholds"]["steps"][1]["value"] == 0.35
    assert found["Calls to Braze"]["interval"] == "900s"


def test_the_names_of_the_catalog_are_the_only_ones() -> None:
    """No module of the mixin spells the name of a metric."""
    for path in sorted((docs.ROOT / "braze_exporter/monitoring").glob("*.py")):
        assert re.findall(r"braze_(?!exporter|app)\w+", path.read_text(encoding="utf-8")) == [], path.name


def test_the_command_prints_it_without_key_and_state(tmp_path: Path) -> None:
    """`braze-exporter dashboard` needs no key and touches no state; the same config gives the same bytes."""
    state = tmp_path / "state.sqlite"
    config = workspace(URL, "{event: purchase, apps: [all, ios]}\n{event: signup}", rest=f"state_file: {state}\n")
    option = f"--config.file={write(tmp_path / 'config.yaml', config)}"
    first, second = (run("dashboard", option, PYTHONHASHSEED=seed) for seed in ("1", "2"))
    assert (first.returncode, second.returncode) == (0, 0)
    assert "BRAZE_API_KEY" in first.stderr
    assert first.stderr.startswith("warning: ")
    assert first.stdout == second.stdout
    assert json.loads(first.stdout)["uid"] == "braze-exporter"
    assert first.stdout.isascii()
    assert not state.exists()


def test_a_bad_config_gives_no_dashboard(tmp_path: Path) -> None:
    """What is wrong is said in a line, with exit code 1; wrong usage has 2."""
    bad = run("dashboard", f"--config.file={write(tmp_path / 'config.yaml', workspace(URL, '{evnt: purchase}'))}")
    assert (bad.returncode, bad.stdout) == (1, "")
    assert "evnt" in bad.stderr
    missing = run("dashboard", f"--config.file={tmp_path / 'none.yaml'}")
    assert (missing.returncode, missing.stdout, missing.stderr.count("\n")) == (1, "", 1)
    assert run("dashboard", "--config=x").returncode == 2
