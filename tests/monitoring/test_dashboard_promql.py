"""Test the dashboards' PromQL with promtool, in situations that are hard to produce with a running exporter.

Needs `promtool`, as `test_prometheus` does.
"""

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from dashboards import panels
from servers import require_tool
from support import workspace_yaml, write_file

from braze_exporter.config.loading import load_config
from braze_exporter.monitoring.dashboard import View, build_dashboard
from braze_exporter.scheduler.plan import build_plan

CONFIG = workspace_yaml(
    "https://rest.iad-01.braze.com",
    "{event: purchase, apps: [all, ios], baseline: {weeks: 4}}",
    extra_yaml="    campaigns: [{tag: cart}]\n",
)
LABELS = 'workspace="production", event="purchase"'
KIND = '{kind="Custom events", workspace="production"}'
CHANGED = f'{{kind="Custom events", {LABELS}, subject="purchase"}}'
TOTALS, FELL, ROSE = "What Braze reported", "Fell most", "Rose most"

Series = tuple[str, str]


def expression(title: str, ref: str, view: View) -> str:
    """Return a query of a panel, with All selected in every variable."""
    dashboard = build_dashboard(view, build_plan(load_config(CONFIG, "config.yaml")))
    panel = next(panel for panel in panels(dashboard) if panel["title"] == title)
    expr = next(str(target["expr"]) for target in panel["targets"] if target["refId"] == ref)
    for variable in dashboard["templating"]["list"][1:]:
        expr = expr.replace(f"${{{variable['name']}:regex}}", variable["allValue"])
    return expr


class PanelChecker:
    """Checks the results of dashboard queries with promtool."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __call__(
        self,
        at: str,
        series: Sequence[Series],
        expected: Mapping[tuple[str, str], Sequence[tuple[str, float]]],
        view: View = View.BRAZE,
        interval: str = "30m",
    ) -> None:
        """Assert the results of queries at a time, for series with a sample at each `interval`.

        `expected` maps titles of panels and refIds to samples.
        """
        test = {
            "interval": interval,
            "input_series": [{"series": name, "values": values} for name, values in series],
            "promql_expr_test": [
                {
                    "expr": expression(*panel, view),
                    "eval_time": at,
                    "exp_samples": [{"labels": labels, "value": value} for labels, value in samples],
                }
                for panel, samples in expected.items()
            ],
        }
        path = write_file(self._directory / "test.yaml", json.dumps({"rule_files": [], "tests": [test]}))
        command = [require_tool("promtool"), "test", "rules", path]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def check(tmp_path: Path) -> PanelChecker:
    """Return a `PanelChecker` that checks queries with promtool."""
    return PanelChecker(tmp_path)


def total(values: str, instance: str = "a") -> Series:
    """Return the event's counter with samples in promtool's notation."""
    return f'braze_custom_events_total{{{LABELS}, job="braze", instance="{instance}"}}', values


def settled(values: str = "5x1000") -> Series:
    """Return the settled value of the event, which exists while its query is not stale."""
    return f'braze_custom_events_hourly_settled{{{LABELS}, job="braze", instance="a"}}', values


def messages(labels: str, variation: str, values: str, measure: str = "daily_settled", name: str = "A") -> Series:
    """Return the sent messages of a campaign with these `labels`, of the variation with this id and `name`."""
    sent = f'variation_id="{variation}", variation="{name}", channel="email", stat="sent", job="braze", instance="a"'
    return f'braze_campaign_messages_{measure}{{workspace="production", {labels}, {sent}}}', values


def test_change_is_relative_to_same_day_of_last_week(check: PanelChecker) -> None:
    """The last day and week are compared with those before: half of the day is a decrease, twice an increase."""
    half, twice = total("0+25x431 10787.5+12.5x48"), total("0+25x431 10825+50x48")
    check("240h", [half, settled()], {(FELL, "B"): [(CHANGED, 0.5)], (FELL, "A"): [(CHANGED, 600)], (ROSE, "B"): []})
    check("240h", [twice, settled()], {(FELL, "B"): [], (ROSE, "B"): [(CHANGED, 2)], (ROSE, "A"): [(CHANGED, 2400)]})
    week = total("0+25x671 16787.5+12.5x48")
    expected = {"A": 600.0, "B": 0.5, "C": 7787.5, "D": 7787.5 / 8400}
    # Messages and campaigns have no series at all here.
    check("360h", [week, settled()], {(TOTALS, ref): [(KIND, value)] for ref, value in expected.items()})


@pytest.mark.parametrize(
    ("at", "counter", "week"),
    [
        ("180h", total("0+25x400"), 8400),  # younger than eight days
        ("240h", total("0+0.125x431 54+0.25x48"), 48),  # rare
        ("240h", total("0+25x460 0+25x20"), None),  # reset
        ("10h", total("0+25x400"), None),  # younger than a day
    ],
)
def test_counter_that_cannot_be_compared_has_no_ratio(
    check: PanelChecker, at: str, counter: Series, week: float | None
) -> None:
    """Counters that are young, rare or were reset are not compared. Without a day of history there is no total."""
    empty: Mapping[tuple[str, str], Sequence[tuple[str, float]]] = {
        (FELL, "B"): [],
        (ROSE, "B"): [],
        (TOTALS, "B"): [],
        (TOTALS, "D"): [],
    }
    check(at, [counter, settled()], {**empty, (TOTALS, "C"): [] if week is None else [(KIND, week)]})


def test_changed_instance_is_no_decrease(check: PanelChecker) -> None:
    """A new instance, as after each release in Kubernetes, continues the counter of the state file."""
    moved = [total("0+25x455 _x24", "a"), total("_x455 11375+25x25", "b"), settled()]
    check("240h", moved, {(TOTALS, "A"): [(KIND, 1200)], (FELL, "B"): [], (ROSE, "B"): []})


def test_stale_query_is_unknown_and_did_not_fall(check: PanelChecker) -> None:
    """The counter of a query that fails does not increase. Once its values are stale, its total is unknown."""
    failing = [total("0+25x460 11500+0x20"), settled("5x460 stale")]
    check("240h", failing, {(FELL, "B"): [], (TOTALS, "A"): [], (TOTALS, "B"): [], (TOTALS, "C"): []})


def test_settled_hour_is_compared_with_current_baseline_only(check: PanelChecker) -> None:
    """A settled hour is compared only with a current baseline, and not with one of less than ten."""
    title, name = "Custom events, hourly", "braze_custom_events_hourly_baseline"
    labels = f'{{{LABELS}, subject="purchase"}}'
    for values, expected in (("100x4", [(labels, 0.5)]), ("100x2 stale", []), ("9x4", [])):
        baseline = (f'{name}{{{LABELS}, job="braze", instance="a"}}', values)
        check("2h", [settled("50x4"), baseline], {(title, "C"): expected})


def test_campaigns_of_one_name_are_distinguished(check: PanelChecker) -> None:
    """Campaigns with the same name, or without a known name, have a row each; their variations are summed."""
    same = [f'campaign_id="{ident}", campaign="Win-back"' for ident in ("1", "2")]
    unnamed = 'campaign_id="3"'
    check(
        "2h",
        [*(messages(labels, "a", "10x4") for labels in (*same, unnamed)), messages(same[0], "b", "5x4")],
        {
            ("Campaigns, newest settled day", "A"): [
                (f'{{workspace="production", {labels}, subject="{subject}"}}', value)
                for labels, subject, value in (
                    (same[0], "Win-back", 15.0),
                    (same[1], "Win-back", 10.0),
                    (unnamed, "3", 10.0),
                )
            ]
        },
    )
    # A campaign is renamed, and a variation is added: it starts at 0.
    renamed = [messages(unnamed, "a", "10x9 stale"), messages(same[0].replace("1", "3"), "a", "_x10 10x5")]
    by_channel = ("Campaigns: messages by channel, settled day", "A")
    check("6h", renamed, {by_channel: [('{workspace="production", channel="email"}', 10.0)]})
    counters = [messages(same[0], "a", "0+5x100", "total"), messages(same[0], "b", "_x90 0+3x10", "total")]
    kind = '{kind="Messages sent", workspace="production"}'
    fresh = [messages(same[0], variation, "1x100") for variation in "ab"]
    check("50h", [*counters, *fresh], {(TOTALS, "A"): [(kind, 48 * 5 + 30.0)]})


def test_renamed_campaign_continues_its_counter(check: PanelChecker) -> None:
    """A new name of a campaign or of a variation continues the counter, except of a variation without an id."""
    old, new = ('campaign_id="1", campaign="Old"', 'campaign_id="1", campaign="New"')
    counters = [
        messages(old, "a", "0+5x80 stale", "total"),
        messages(new, "a", "_x81 405+5x20", "total", "B"),
        *(messages(new, "", "0+7x100", "total", name) for name in "CD"),
    ]
    fresh = [messages(old, "a", "1x80 stale"), messages(new, "a", "_x81 1x20", name="B")]
    kind = '{kind="Messages sent", workspace="production"}'
    check("50h", [*counters, *fresh], {(TOTALS, "A"): [(kind, 48 * (5 + 7 + 7.0))]})
    by_channel = ("Campaigns: messages by channel, settled day", "A")
    check("42h", fresh, {by_channel: [('{workspace="production", channel="email"}', 1.0)]})


def test_query_without_success_has_no_age(check: PanelChecker) -> None:
    """A query that has never succeeded does not count for the oldest success; it fails since ever."""

    def query(app: str, measure: str, values: str) -> Series:
        labels = f'kind="custom_events", unit="hour", {LABELS}, braze_app="{app}", job="braze", instance="a"'
        return f"braze_query_{measure}{{{labels}}}", values

    series = [
        query("", "last_success_timestamp_seconds", "7000x4"),
        query("ios", "last_success_timestamp_seconds", "0x4"),
        query("", "up", "1x4"),
        query("ios", "up", "0x4"),
        query("ios", "max_age_seconds", "3600x4"),
    ]
    failing = f'{{kind="custom_events", unit="hour", {LABELS}, braze_app="ios", subject="purchase     ios"}}'
    expected: Mapping[tuple[str, str], Sequence[tuple[str, float]]] = {
        ("Workspaces", "G"): [('{workspace="production"}', 200)],
        ("Failing queries", "A"): [],
        ("Failing queries", "B"): [(failing, 3600)],
    }
    check("2h", series, expected, View.EXPORTER)


@pytest.mark.parametrize(
    ("reload", "writes", "is_failing"),
    [("1x8", "0x8", [0]), ("0x8", "0x8", [1]), ("1x8", "0x6 3 3", [1]), ("1x6 stale", "0x6 stale", [])],
)
def test_config_and_state_tile_shows_either_failure(
    check: PanelChecker, reload: str, writes: str, is_failing: list[float]
) -> None:
    """The tile shows a failed reload and a failed write of the state file, and nothing while the exporter is down."""
    target = '{job="braze", instance="a"}'
    series = [
        (f"braze_exporter_config_last_reload_successful{target}", reload),
        (f"braze_exporter_state_write_failures_total{target}", writes),
    ]
    samples = [("{}", value) for value in is_failing]
    check("35m", series, {("Config, state", "A"): samples}, View.EXPORTER, interval="5m")
