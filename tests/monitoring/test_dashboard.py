"""Test that the dashboard is valid for Grafana and queries what the config has.

`test_dashboard_data` runs the queries.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docs
import pytest
from jsonschema import Draft7Validator
from support import run_program, workspace_item_yaml, workspace_yaml, write_file

from braze_exporter.braze.kinds import KINDS, MetricGroup
from braze_exporter.braze.query import Query
from braze_exporter.config.loading import load_config
from braze_exporter.metrics import self_metrics
from braze_exporter.metrics.families import (
    GAUGE_HELP,
    QUERY_FAMILIES,
    QUERY_LAST_SUCCESS,
    QUERY_LATEST_START,
    QUERY_SETTLED_START,
    QUERY_UP,
    build_counter,
    build_gauge,
)
from braze_exporter.monitoring.dashboard import build_dashboard
from braze_exporter.monitoring.generic_plan import build_generic_plan
from braze_exporter.scheduler.plan import Plan, build_plan, can_feed_counter
from braze_exporter.simulator import demo_config

URL = "https://rest.iad-01.braze.com"
SCHEMA = docs.ROOT.parent / "shared/grafana/dashboard.jsonschema.json"

NO_EVENTS = workspace_yaml(URL, "").replace("    custom_events:\n      - \n", "").replace("    custom_events:\n", "")
CONFIGS = {
    "least": workspace_yaml(URL, "{event: purchase}"),
    "days": workspace_yaml(URL, "{event: purchase, unit: day, baseline: {weeks: 4}}"),
    "filtered": workspace_yaml(URL, "{event: purchase, apps: [ios], segments: [all, vip]}"),
    "many": workspace_yaml(URL, "\n".join(f"{{event: event_{number}}}" for number in range(30))),
    "workspaces": workspace_yaml(URL, "{event: purchase, apps: [all, ios]}")
    + workspace_item_yaml(URL, "{event: signup, unit: day, segments: [all, vip]}", name="staging"),
    "users": NO_EVENTS + "    segment_users: [{segment: vip}]\n    monthly_active_users: [{apps: [ios]}]\n",
    "campaign": NO_EVENTS + "    campaigns: [{campaign: d8b73da7-0b7c-fc72-1d80-2f6e9c41ab05}]\n",
    "two kinds": workspace_yaml(URL, "{event: purchase}", extra_yaml="    sessions: [{apps: [all, ios]}]\n"),
    "example": (docs.ROOT / "config.example.yaml").read_text(encoding="utf-8"),
    "demo": demo_config.build_config("http://127.0.0.1:1"),
    "no config": "",
}

Json = dict[str, Any]


def plan_of(name: str) -> Plan:
    """Return the plan of one of the configs, or the plan for any config."""
    if not CONFIGS[name]:
        return build_generic_plan()
    return build_plan(load_config(CONFIGS[name], "config.yaml"))


def board(name: str) -> Json:
    """Return the dashboard of one of the configs, after a JSON round trip."""
    result: Json = json.loads(json.dumps(build_dashboard(plan_of(name), 0.2)))
    return result


def panels(dashboard: Json) -> Iterator[Json]:
    """Yield all panels except row headings, including those in collapsed rows."""
    for panel in dashboard["panels"]:
        yield from [panel] if panel["type"] != "row" else panel["panels"]


def queries(board_: Json) -> Iterator[str]:
    """Yield every PromQL query of a dashboard, including those of its variables."""
    yield from (target["expr"] for panel in panels(board_) for target in panel["targets"])
    yield from (item["query"] for item in board_["templating"]["list"] if item["type"] == "query")


def promql_of(name: str) -> str:
    """Return all PromQL of the dashboard of one of the configs."""
    return "\n".join(queries(board(name)))


@pytest.fixture(scope="module")
def schema() -> Draft7Validator:
    """Return Grafana's own JSON schema of a dashboard, which is too large to keep in this repository."""
    if not SCHEMA.exists():
        pytest.skip(f"{SCHEMA} is not there")
    return Draft7Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", CONFIGS)
def test_dashboard_matches_grafana_schema(schema: Draft7Validator, name: str) -> None:
    """The dashboard is valid under Grafana's schema."""
    assert [f"{error.json_path}: {error.message[:200]}" for error in schema.iter_errors(board(name))] == []


def test_grafana_schema_rejects_mistakes(schema: Draft7Validator) -> None:
    """Grafana's schema rejects an unknown key deep inside a panel."""
    dashboard = board("least")
    next(panels(dashboard))["fieldConfig"]["defaults"]["colour"] = "red"
    assert not schema.is_valid(dashboard)


@pytest.mark.parametrize("name", CONFIGS)
def test_dashboard_is_provisionable(name: str) -> None:
    """The dashboard has a fixed uid, no database id and no inputs, and each panel uses the selected data source."""
    board_ = board(name)
    assert (board_["id"], board_["uid"]) == (None, "braze-exporter")
    assert not [key for key in board_ if key.startswith("__")]
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    assert {"type": "datasource", "name": "datasource", "label": "Prometheus", "query": "prometheus"} in board_[
        "templating"
    ]["list"]
    for panel in panels(board_):
        assert [panel["datasource"], *(target["datasource"] for target in panel["targets"])] == [chosen] * (
            1 + len(panel["targets"])
        )
    assert all(item["datasource"] == chosen for item in board_["templating"]["list"] if item["type"] == "query")


@pytest.mark.parametrize("name", CONFIGS)
def test_panels_have_unique_ids_and_positions(name: str) -> None:
    """Panel ids are unique, and the panels fill the grid without overlaps, gaps or cells outside it."""
    dashboard = board(name)
    headings = [panel for panel in dashboard["panels"] if panel["type"] == "row"]
    numbers = Counter(panel["id"] for panel in [*headings, *panels(dashboard)])
    assert set(numbers.values()) == {1}
    for group in [dashboard["panels"], *(heading["panels"] for heading in headings)]:
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
    open_rows = sorted(panel["gridPos"]["y"] for panel in dashboard["panels"])
    assert open_rows[0] == 0


@pytest.mark.parametrize("name", CONFIGS)
def test_every_panel_has_a_description(name: str) -> None:
    """Each panel has a title, a description, a unit where it shows numbers, and unique query names."""
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
def test_dashboard_queries_configured_metrics_only(name: str) -> None:
    """All metrics in the dashboard belong to the plan's queries or to the exporter, and every useful gauge is shown."""
    plan = plan_of(name)
    known, expected_gauges = {family.name for family in QUERY_FAMILIES}, {QUERY_LAST_SUCCESS.name, QUERY_UP.name}
    if any(query.metric_group.is_additive and not query.kind.part_labels for query in plan.queries):
        expected_gauges.add(QUERY_LATEST_START.name)
    expected_gauges.add(QUERY_SETTLED_START.name)
    for query in plan.queries:
        for metric_group in query.metric_groups:
            gauges = {
                measure: build_gauge(query.kind, metric_group, query.unit, measure).name for measure in GAUGE_HELP
            }
            known |= {*gauges.values(), build_counter(query.kind, metric_group).name}
            expected_gauges |= {gauges[measure] for measure in _shown(query, metric_group)}
        if can_feed_counter(query):
            expected_gauges.add(build_counter(query.kind, query.metric_group).name)
    itself = {family.name for family in (self_metrics.UP, self_metrics.QUERIES, *self_metrics.SELF_METRICS)}
    itself |= {f"{family.name}_bucket" for family in self_metrics.SELF_METRICS if family.type == "histogram"}
    named = set(re.findall(r"\bbraze_\w+", promql_of(name))) - {"braze_app"}
    assert named <= known | itself
    assert expected_gauges <= named


def _shown(query: Query, metric_group: MetricGroup) -> Iterator[str]:
    """Yield the gauges of a query that a dashboard shows; buckets in progress only for unfiltered queries."""
    if metric_group.series_labels and not metric_group.primary_stats:  # the revenue of messages
        return
    yield "settled"
    if metric_group is not query.metric_group:
        return
    if metric_group in query.kind.metric_groups:
        yield "latest"
    if query.baseline_weeks:
        yield "baseline"


def test_dashboard_has_no_empty_panels() -> None:
    """Without daily queries, baselines, apps and segments there are no panels and variables for them."""
    least = board("least")
    assert [item["name"] for item in least["templating"]["list"]] == [
        "datasource",
        "workspace",
        "event",
        "event_hourly",
    ]
    assert "_daily_" not in promql_of("least")
    assert "baseline" not in promql_of("least")
    assert "_by_" not in promql_of("least")
    assert not [panel for panel in panels(least) if re.search(r"\bday\b|baseline|app|segment|zone", panel["title"])]
    days = board("days")
    assert "_hourly_" not in promql_of("days")
    assert {"Settled day compared with baseline", "Time zone"} <= {panel["title"] for panel in panels(days)}


def test_app_and_segment_variables_exist_where_configured() -> None:
    """Apps and segments have variables, and series with one filter are not mixed with series with both."""
    variables = [item["name"] for item in board("example")["templating"]["list"]]
    assert variables == [
        "datasource",
        "workspace",
        "event",
        "app",
        "segment",
        "product",
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
    assert by_app["targets"][0]["expr"].startswith(
        "max by (workspace, event, braze_app) (last_over_time(braze_custom_events_by_app_hourly_settled{"
    )
    assert len(by_app["targets"]) == 2
    alone = next(panel for panel in panels(board("filtered")) if panel["title"] == "Custom events by app, settled hour")
    assert len(alone["targets"]) == 1  # the config has no unfiltered query to compare with


def test_variables_allow_all_and_several() -> None:
    """All label variables default to All, which is one short regex however many values there are."""
    for item in board("example")["templating"]["list"][1:]:
        # All includes a campaign without a known name.
        all_value = ".*" if item["name"].startswith(("campaign", "canvas")) else ".+"
        assert (item["multi"], item["includeAll"], item["allValue"]) == (True, True, all_value)
        assert item["current"]["value"] == ["$__all"]
        assert (item.get("hide") == 2) == item["name"].endswith(("_hourly", "_daily"))


@pytest.mark.parametrize(("name", "folded"), [("least", False), ("many", True)])
def test_many_event_charts_are_collapsed(name: str, *, folded: bool) -> None:
    """Charts for each event are expanded for few events and collapsed for many."""
    dashboard = board(name)
    row = next(panel for panel in dashboard["panels"] if panel["title"] == "Hourly by event")
    assert row["collapsed"] is folded
    assert [panel["repeat"] for panel in row["panels"]] == ["event_hourly"] * folded
    assert [panel["repeat"] for panel in panels(dashboard) if "repeat" in panel] == ["event_hourly"]


def test_each_kind_has_a_row_and_many_are_collapsed() -> None:
    """Kinds with a single daily value share a row; with more than three rows all but the first kind are collapsed."""

    def rows(name: str) -> dict[str, bool]:
        is_collapsed = {row["title"]: row["collapsed"] for row in board(name)["panels"] if row["type"] == "row"}
        # The last three rows are about the exporter.
        return {title: is_collapsed[title] for title in list(is_collapsed)[:-3]}

    assert rows("campaign") == {"Largest changes": False, "Campaigns": False, "Daily by campaign": False}
    assert rows("two kinds") == dict.fromkeys(
        ["Largest changes", "Custom events", "Hourly by event", "Sessions"], False
    )
    assert rows("users") == {"Segment users": False, "Users": False}
    assert rows("example") == {
        "Largest changes": False,
        "Custom events": False,
        "Hourly by event": False,
        "Daily by event": False,
        **dict.fromkeys(["Sessions", "Purchases", "Revenue", "Segment users"], True),
        **dict.fromkeys(["Campaigns", "Daily by campaign", "Canvases", "Daily by canvas"], True),
        "Users": True,
    }


def test_campaign_row_shows_messages_and_outcomes() -> None:
    """The campaign row shows messages, outcomes, conversions, revenue and recipients; changes compare sent messages."""
    targets = {panel["title"]: panel["targets"][0] for panel in panels(board("campaign"))}
    titles = [title for title in targets if title.startswith(("Messages", "Campaign"))]
    assert titles == [
        "Messages sent, settled day",
        "Messages sent, day in progress",
        "Campaign messages by channel, settled day",
        "Campaign messages, outcomes, settled day",
        "Campaign conversions, settled day",
        "Campaign revenue, settled day",
        "Campaign unique recipients, settled day",
        "Messages sent, reported in 24 hours",
        "Messages sent, reported in 7 days",
    ]
    for title in (*titles[:3], *titles[-2:], "Largest decreases in 24 hours", "Largest increases in 24 hours"):
        assert targets[title]["expr"].count('stat=~"sent|impressions"') == targets[title]["expr"].count("braze_"), title
    assert targets[titles[0]]["expr"].startswith("sum by (workspace, campaign_id, campaign) (")
    assert targets[titles[0]]["legendFormat"] == "{{campaign}}"
    assert targets[titles[2]]["legendFormat"] == "{{channel}}"
    assert targets[titles[3]]["legendFormat"] == "{{channel}} {{stat}}"


def test_several_workspaces_are_distinguished() -> None:
    """Legends name the workspace only if there are several workspaces."""
    assert "{{workspace}}" not in json.dumps(board("example"))
    each = next(panel for panel in panels(board("workspaces")) if panel.get("repeat") == "event_hourly")
    assert [target["legendFormat"] for target in each["targets"]] == [
        "{{workspace}} settled",
        "{{workspace}} in progress",
    ]
    drawn = [override["matcher"]["options"]["names"] for override in each["fieldConfig"]["overrides"]]
    assert drawn[0] == ["production settled", "staging settled"]


def test_workspaces_are_distinguished_without_config() -> None:
    """Without a config, legends name the workspace, and Grafana chooses the colors, since the names are unknown."""
    each = next(panel for panel in panels(board("no config")) if panel.get("repeat") == "event_hourly")
    assert [target["legendFormat"] for target in each["targets"]] == [
        "{{workspace}} settled",
        "{{workspace}} in progress",
        "{{workspace}} baseline",
    ]
    assert each["fieldConfig"]["overrides"] == []
    states = next(panel for panel in panels(board("no config")) if panel["title"] == "Queries by state")
    assert len(states["fieldConfig"]["overrides"]) == 5


def test_thresholds_follow_config() -> None:
    """The thresholds for bucket age, success age and the reserve follow the settings."""
    slow = load_config(workspace_yaml(URL, "{event: purchase, settle: 2h, refresh_interval: 15m}"), "config.yaml")
    panels_by_title = {panel["title"]: panel for panel in panels(build_dashboard(build_plan(slow), 0.35))}
    assert (
        panels_by_title["Age of the settled hour"]["fieldConfig"]["defaults"]["thresholds"]["steps"][1]["value"]
        == 5 * 3_600
    )
    assert (
        panels_by_title["Time since last success"]["fieldConfig"]["defaults"]["thresholds"]["steps"][1]["value"]
        == 45 * 60
    )
    assert panels_by_title["Revision delay"]["fieldConfig"]["defaults"]["thresholds"]["steps"][1]["value"] == 2 * 3_600
    assert (
        panels_by_title["Rate limit remaining by pool"]["fieldConfig"]["defaults"]["thresholds"]["steps"][1]["value"]
        == 0.35
    )
    assert panels_by_title["Rate limit remaining"]["fieldConfig"]["defaults"]["thresholds"]["steps"][1]["value"] == 0.35
    assert panels_by_title["Requests to Braze"]["interval"] == "900s"


def test_monitoring_modules_spell_no_metric_name() -> None:
    """No module in `monitoring` contains a metric name."""
    for path in sorted((docs.ROOT / "braze_exporter/monitoring").glob("*.py")):
        assert re.findall(r"braze_(?!exporter|app)\w+", path.read_text(encoding="utf-8")) == [], path.name


def test_dashboard_command_needs_no_key_and_no_state(tmp_path: Path) -> None:
    """`braze-exporter dashboard` needs no key, touches no state file and prints the same bytes for the same config."""
    state = tmp_path / "state.sqlite"
    config = workspace_yaml(
        URL, "{event: purchase, apps: [all, ios]}\n{event: signup}", extra_yaml=f"state_file: {state}\n"
    )
    option = f"--config.file={write_file(tmp_path / 'config.yaml', config)}"
    first, second = (run_program("dashboard", option, PYTHONHASHSEED=seed) for seed in ("1", "2"))
    assert (first.returncode, second.returncode) == (0, 0)
    assert "BRAZE_API_KEY" in first.stderr
    assert first.stderr.startswith("warning: ")
    assert first.stdout == second.stdout
    assert json.loads(first.stdout)["uid"] == "braze-exporter"
    assert first.stdout.isascii()
    assert not state.exists()


def test_dashboard_without_config_reads_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `--config.file`, `dashboard` prints panels for every kind and unit; a config.yaml is not read."""
    write_file(tmp_path / "config.yaml", "workspaces: []")
    monkeypatch.chdir(tmp_path)
    done = run_program("dashboard")
    assert (done.returncode, done.stderr) == (0, "")
    dashboard = json.loads(done.stdout)
    assert dashboard == board("no config")
    promql = "\n".join(queries(dashboard))
    for kind in KINDS:
        for unit in kind.units:
            for metric_group in (*kind.metric_groups, *kind.partial_groups):
                is_shown = not metric_group.series_labels or bool(metric_group.primary_stats)
                assert (build_gauge(kind, metric_group, unit, "settled").name + "{" in promql) is is_shown
    refused = run_program("dashboard", "--config.file=config.yaml")
    assert (refused.returncode, refused.stdout) == (1, "")


def test_invalid_config_prints_no_dashboard(tmp_path: Path) -> None:
    """An invalid config or a missing file is an error with exit code 1; wrong usage has exit code 2."""
    bad = run_program(
        "dashboard", f"--config.file={write_file(tmp_path / 'config.yaml', workspace_yaml(URL, '{evnt: purchase}'))}"
    )
    assert (bad.returncode, bad.stdout) == (1, "")
    assert "evnt" in bad.stderr
    missing = run_program("dashboard", f"--config.file={tmp_path / 'none.yaml'}")
    assert (missing.returncode, missing.stdout, missing.stderr.count("\n")) == (1, "", 1)
    assert run_program("dashboard", "--config=x").returncode == 2
