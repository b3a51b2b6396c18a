"""Test that the dashboards are valid for Grafana and query what the config has.

`test_dashboard_data` runs the queries, and `tests/grafana` renders the dashboards.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docs
import pytest
import yaml
from dashboards import panels
from jsonschema import Draft7Validator
from support import SELF_FAMILIES, run_program, workspace_item_yaml, workspace_yaml, write_file

from braze_exporter.braze.kinds import KINDS
from braze_exporter.config.loading import load_config
from braze_exporter.metrics.families import GAUGE_HELP, QUERY_FAMILIES, build_counter, build_gauge
from braze_exporter.metrics.self_families import RATE_LIMIT_RESET, RELOAD_SUCCESS_TIME
from braze_exporter.monitoring.dashboard import View, build_dashboard
from braze_exporter.scheduler.plan import build_plan
from braze_exporter.simulator import demo_config

URL = "https://rest.iad-01.braze.com"
SCHEMA = docs.ROOT.parent / "shared/grafana/dashboard.jsonschema.json"
LINT = docs.DASHBOARDS[View.BRAZE].with_name(".lint")

NO_EVENTS = workspace_yaml(URL, "").replace("    custom_events:\n      - \n", "").replace("    custom_events:\n", "")
CONFIGS = {
    "least": workspace_yaml(URL, "{event: purchase}"),
    "days": workspace_yaml(URL, "{event: purchase, unit: day, baseline: {weeks: 4}}"),
    "filtered": workspace_yaml(URL, "{event: purchase, apps: [ios], segments: [all, vip]}"),
    "workspaces": workspace_yaml(URL, "{event: purchase, apps: [all, ios]}")
    + workspace_item_yaml(URL, "{event: signup, unit: day, segments: [all, vip]}", name="staging"),
    "users": NO_EVENTS + "    segment_users: [{segment: vip}]\n    monthly_active_users: [{apps: [ios]}]\n",
    "campaign": NO_EVENTS + "    campaigns: [{campaign: d8b73da7-0b7c-fc72-1d80-2f6e9c41ab05}]\n",
    "example": (docs.ROOT / "config.example.yaml").read_text(encoding="utf-8"),
    "demo": demo_config.build_config("http://127.0.0.1:1"),
    "no config": "",
}
CASES = [*((View.BRAZE, name) for name in CONFIGS), (View.EXPORTER, "no config")]

Json = dict[str, Any]


def board(name: str, view: View = View.BRAZE) -> Json:
    """Return a dashboard for one of the configs, after a JSON round trip."""
    plan = build_plan(load_config(CONFIGS[name], "config.yaml")) if CONFIGS[name] else None
    result: Json = json.loads(json.dumps(build_dashboard(view, plan)))
    return result


def promql_of(name: str, view: View = View.BRAZE) -> str:
    """Return all PromQL of a dashboard, including that of its variables."""
    dashboard = board(name, view)
    exprs = [target["expr"] for panel in panels(dashboard) for target in panel["targets"]]
    return "\n".join([*exprs, *(item["query"] for item in dashboard["templating"]["list"])])


@pytest.fixture(scope="module")
def schema() -> Draft7Validator:
    """Return Grafana's own JSON schema of a dashboard, which is too large to keep in this repository."""
    if not SCHEMA.exists():
        pytest.skip(f"{SCHEMA} is not there")
    document = json.loads(SCHEMA.read_text(encoding="utf-8"))
    # In Grafana's source, these have any type.
    document["definitions"]["DynamicConfigValue"]["properties"]["value"] = {}
    document["definitions"]["MatcherConfig"]["properties"]["options"] = {}
    return Draft7Validator(document)


@pytest.mark.parametrize(("view", "name"), CASES)
def test_dashboard_matches_grafana_schema(schema: Draft7Validator, view: View, name: str) -> None:
    """The dashboard is valid under Grafana's schema, and a mistake in it is not."""
    dashboard = board(name, view)
    assert [f"{error.json_path}: {error.message[:200]}" for error in schema.iter_errors(dashboard)] == []
    next(panels(dashboard))["fieldConfig"]["defaults"]["colour"] = "red"
    assert not schema.is_valid(dashboard)


@pytest.mark.parametrize(("view", "name"), CASES)
def test_panels_have_unique_ids_and_fill_the_grid(view: View, name: str) -> None:
    """Panel ids are unique, and the panels fill the grid without overlaps, gaps or cells outside it."""
    dashboard = board(name, view)
    headings = [panel for panel in dashboard["panels"] if panel["type"] == "row"]
    assert set(Counter(panel["id"] for panel in [*headings, *panels(dashboard)]).values()) == {1}
    for group in [dashboard["panels"], *(heading["panels"] for heading in headings)]:
        cells = Counter(
            (place["x"] + x, place["y"] + y)
            for place in (panel["gridPos"] for panel in group)
            for x in range(place["w"])
            for y in range(place["h"])
        )
        assert set(cells.values()) <= {1}
        lines = Counter(y for _, y in cells)
        assert set(lines.values()) <= {24}
        assert not lines or max(lines) - min(lines) == len(lines) - 1
    assert {heading["collapsed"] for heading in headings} <= {name == "no config" and view is View.BRAZE}


def broken_rules(dashboard: Json) -> Iterator[tuple[str, str]]:
    """Yield the rules of Grafana's dashboard-linter that a dashboard breaks, each with the title of a panel or empty.

    The queries are checked by a real Prometheus, see `test_dashboard_data`.
    """
    variables = {item["name"]: item for item in dashboard["templating"]["list"]}
    source, *others = variables.values()
    checks = {
        "template-datasource-rule": [source["name"], source["query"], source["label"]]
        == ["datasource", "prometheus", "Data source"],
        "template-job-rule": "job" in variables,
        "template-instance-rule": "instance" in variables,
        "template-on-time-change-reload-rule": all(item["refresh"] == 2 for item in others),
        "uneditable-dashboard": not dashboard["editable"],
    }
    yield from ((rule, "") for rule, is_kept in checks.items() if not is_kept)
    for panel in panels(dashboard):
        exprs = [target["expr"] for target in panel["targets"]]
        checks = {
            "panel-datasource-rule": panel["datasource"]["uid"] == "${datasource}",
            "panel-title-description-rule": bool(panel["title"] and panel["description"]),
            "panel-units-rule": bool(panel["fieldConfig"]["defaults"]["unit"]),
            "panel-no-targets-rule": bool(exprs),
            "target-rate-interval-rule": not re.search(r"rate\([^\[\]]+\[(?!\$__rate_interval\])", "\n".join(exprs)),
            "target-counter-agg-rule": not re.search(r"_total(?!\{|\w|\[)", "\n".join(exprs)),
        }
        yield from ((rule, panel["title"]) for rule, is_kept in checks.items() if not is_kept)
        for label in ("job", "instance"):
            if not all(f"{label}=~" in expr for expr in exprs):
                yield f"target-{label}-rule", ""


@pytest.mark.parametrize("name", ["no config", "demo"])
def test_dashboards_break_only_rules_that_lint_file_excludes(name: str) -> None:
    """The rules of dashboard-linter hold, except those in the file `.lint`, which has a reason for each."""
    exclusions = yaml.safe_load(LINT.read_text(encoding="utf-8"))["exclusions"]
    assert all(rule["reason"].endswith(".") for rule in exclusions.values())
    excluded = {
        (name, entry.get("panel", "")) for name, rule in exclusions.items() for entry in rule.get("entries", [{}])
    }
    broken = {found for view in View for found in broken_rules(board(name, view))}
    assert broken == excluded


@pytest.mark.parametrize(("view", "name"), CASES)
def test_every_panel_has_a_description(view: View, name: str) -> None:
    """Panels have unique titles, a sentence as description, and unique query names; missing values have a color."""
    dashboard = board(name, view)
    for panel in panels(dashboard):
        assert panel["title"]
        assert panel["description"].endswith(".")
        names = [target["refId"] for target in panel["targets"]]
        assert names == sorted(set(names))
        assert all(target["instant"] != target["range"] for target in panel["targets"])
        if panel["type"] != "timeseries":  # without this mapping, a missing value has the color of 0
            assert panel["fieldConfig"]["defaults"]["mappings"][-1]["options"]["match"] == "null+nan"


def test_dashboards_show_every_metric() -> None:
    """The dashboards for all kinds query every family of the exporter, and no other.

    Excluded are those of message revenue, which Braze reports only for several variations, and two timestamps.
    """
    named = set(re.findall(r"\bbraze_\w+", promql_of("no config") + promql_of("no config", View.EXPORTER)))
    own = {
        family.name + ("_bucket" if family.type == "histogram" else "")
        for family in SELF_FAMILIES
        if family not in {RATE_LIMIT_RESET, RELOAD_SUCCESS_TIME}
    }
    shown, known = set(own), own | {family.name for family in QUERY_FAMILIES} | {"braze_app", "braze_exporter"}
    for kind in KINDS:
        for metric_group in (*kind.metric_groups, *kind.partial_groups):
            for unit in kind.units:
                known |= {build_gauge(kind, metric_group, unit, measure).name for measure in GAUGE_HELP}
                if not metric_group.series_labels or metric_group.primary_stats:
                    shown.add(build_gauge(kind, metric_group, unit, "settled").name)
            known.add(build_counter(kind, metric_group).name)
    assert named <= known
    assert shown <= named


def test_dashboard_has_only_what_the_config_has() -> None:
    """Without daily queries, baselines, apps and segments there are no panels and variables for them."""
    names = [item["name"] for item in board("least")["templating"]["list"]]
    assert names == ["datasource", "workspace", "event"]
    for text in ("_daily_latest", "_by_", "sessions"):
        assert text not in promql_of("least")
    assert "Custom events, settled hour vs usual" not in {panel["title"] for panel in panels(board("least"))}
    days = {panel["title"]: panel for panel in panels(board("days"))}
    assert {"Custom events, daily", "Custom events, settled day", "Custom events, settled day vs usual"} <= days.keys()
    assert days["Custom events, settled day"]["timeFrom"] == "28d"
    rows = [panel["title"] for panel in board("example")["panels"] if panel["type"] == "row"]
    kinds = ["Custom events", "Sessions", "Purchases", "Revenue", "Segment users", "Campaigns", "Canvases", "Users"]
    assert rows == kinds
    assert [item["name"] for item in board("example")["templating"]["list"]][2:] == [
        "event",
        "app",
        "campaign",
        "canvas",
    ]
    users = [panel["title"] for panel in board("users")["panels"] if panel["type"] == "row"]
    assert users == ["Segment users", "Users"]


def test_variables_allow_all_and_several() -> None:
    """All variables default to All, which is one short regex however many values there are."""
    for item in board("example")["templating"]["list"][1:]:
        # All includes a campaign without a known name.
        all_value = "(?s:.*)" if item["name"] in {"campaign", "canvas"} else "(?s:.+)"
        assert (item["multi"], item["includeAll"], item["allValue"]) == (True, True, all_value)
        assert item["current"]["value"] == ["$__all"]


@pytest.mark.parametrize(("name", "is_named"), [("example", False), ("workspaces", True), ("no config", True)])
def test_workspace_is_named_if_there_may_be_several(name: str, *, is_named: bool) -> None:
    """Legends and columns name the workspace only if there may be several."""
    dashboard = board(name)
    legends = {target["legendFormat"] for panel in panels(dashboard) for target in panel["targets"]} - {"__auto"}
    assert {"{{workspace}}" in legend for legend in legends} == {is_named}
    columns = [panel["transformations"][-1]["options"] for panel in panels(dashboard) if panel["type"] == "table"]
    shown = {"workspace" in each["renameByName"] for each in columns if "channel" not in str(each)}
    assert shown == {is_named}


def test_monitoring_modules_spell_no_metric_name() -> None:
    """No module in `monitoring` contains a metric name."""
    for path in sorted((docs.ROOT / "braze_exporter/monitoring").glob("*.py")):
        assert re.findall(r"braze_(?!exporter|app|dashboard)\w+", path.read_text(encoding="utf-8")) == [], path.name


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
    assert first.stdout.isascii()
    assert not state.exists()


def test_dashboard_flags_choose_view_uid_title_and_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `--config.file`, a config.yaml is not read. The flags choose the view, the uid, the title and inputs."""
    write_file(tmp_path / "config.yaml", "workspaces: []")
    monkeypatch.chdir(tmp_path)
    done = run_program("dashboard")
    assert (done.returncode, done.stderr) == (0, "")
    dashboard = json.loads(done.stdout)
    assert dashboard == board("no config")
    assert (dashboard["id"], dashboard["uid"], dashboard["title"]) == (None, "braze", "Braze")
    assert dashboard["templating"]["list"][0]["current"] == {"text": "default", "value": "default"}
    assert not [key for key in dashboard if key.startswith("__")]
    other = json.loads(run_program("dashboard", "--view=exporter", "--for=import", "--uid=eu-1", "--title=EU").stdout)
    assert (other["uid"], other["title"]) == ("eu-1", "EU")
    assert [each["name"] for each in other["__inputs"]] == ["DS_PROMETHEUS"]
    assert other["templating"]["list"][0]["current"]["value"] == "${DS_PROMETHEUS}"
    used = {panel["type"] for view in View for panel in panels(board("no config", view))}
    assert {each["id"] for each in other["__requires"] if each["type"] == "panel"} == used
    # Both dashboards have the tag by which they link to each other.
    assert other["links"][0]["tags"] == other["tags"] == dashboard["tags"]


def test_invalid_config_prints_no_dashboard(tmp_path: Path) -> None:
    """An invalid config or a missing file is an error with exit code 1; wrong usage has exit code 2."""
    bad = run_program(
        "dashboard", f"--config.file={write_file(tmp_path / 'config.yaml', workspace_yaml(URL, '{evnt: purchase}'))}"
    )
    assert (bad.returncode, bad.stdout) == (1, "")
    assert "evnt" in bad.stderr
    missing = run_program("dashboard", f"--config.file={tmp_path / 'none.yaml'}")
    assert (missing.returncode, missing.stdout, missing.stderr.count("\n")) == (1, "", 1)
    for wrong in ("--config=x", "--view=other", "--uid=a b", "--uid=", "--title="):
        assert run_program("dashboard", wrong).returncode == 2
