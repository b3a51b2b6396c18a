"""Test the dashboard's PromQL with promtool, in situations that are hard to produce with a running exporter.

Needs `promtool`, as `test_prometheus` does.
"""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from servers import require_tool
from support import workspace_yaml, write_file

from braze_exporter.config.loading import load_config
from braze_exporter.monitoring.dashboard import build_dashboard
from braze_exporter.scheduler.plan import build_plan

EVENTS = "{event: purchase, apps: [all, ios], baseline: {weeks: 4}}"
LABELS = 'workspace="production", event="purchase"'
IOS = f'{LABELS}, braze_app="ios"'
# The config has several kinds, so the results carry the label `kind`.
CHANGED = f'{{kind="custom_events", {LABELS}}}'

Series = tuple[str, str]


CAMPAIGNS = "    campaigns: [{tag: cart}]\n"


def expression(title: str) -> str:
    """Return the first query of a panel, with All selected in every variable."""
    text = workspace_yaml("https://rest.iad-01.braze.com", EVENTS, extra_yaml=CAMPAIGNS)
    dashboard = build_dashboard(build_plan(load_config(text, "config.yaml")), 0.2)
    panel = next(panel for panel in dashboard["panels"] if panel["title"] == title)
    expr = str(panel["targets"][0]["expr"])
    for variable in dashboard["templating"]["list"][1:]:
        expr = expr.replace(f"${{{variable['name']}:regex}}", variable["allValue"])
    return expr


@pytest.fixture
def check_panel(tmp_path: Path) -> "PanelChecker":
    """Return a `PanelChecker` that checks queries with promtool."""
    return PanelChecker(tmp_path)


class PanelChecker:
    """Checks the results of dashboard queries with promtool."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __call__(
        self, title: str, at: str, series: Sequence[Series], expected: Sequence[tuple[str, float]], then: str = ""
    ) -> None:
        """Assert the result of a panel's first query at a time, for series with a sample every half hour.

        `then` is PromQL that is appended to the query, such as a comparison.
        """
        test = {
            "interval": "30m",
            "input_series": [{"series": name, "values": values} for name, values in series],
            "promql_expr_test": [
                {
                    "expr": f"{expression(title)} {then}",
                    "eval_time": at,
                    "exp_samples": [{"labels": labels, "value": value} for labels, value in expected],
                }
            ],
        }
        path = write_file(self._directory / "test.yaml", json.dumps({"rule_files": [], "tests": [test]}))
        command = [require_tool("promtool"), "test", "rules", path]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        assert done.returncode == 0, done.stdout + done.stderr


def total(values: str, instance: str = "a") -> Series:
    """Return the event's counter with samples in promtool's notation."""
    return f'braze_custom_events_total{{{LABELS}, job="braze", instance="{instance}"}}', values


def gauge(labels: str, unit_and_measure: str, values: str) -> Series:
    """Return a gauge of the event, unfiltered or filtered by app."""
    metric_group = "custom_events" if labels == LABELS else "custom_events_by_app"
    return f'braze_{metric_group}_{unit_and_measure}{{{labels}, job="braze", instance="a"}}', values


def query_gauge(labels: str, measure: str, values: str) -> Series:
    """Return a gauge of the hourly query of the event, such as the time of its last success."""
    return f'braze_query_{measure}{{kind="custom_events", unit="hour", {labels}, job="braze", instance="a"}}', values


def test_change_is_relative_to_same_day_of_last_week(check_panel: PanelChecker) -> None:
    """The last day is compared with the same day a week ago: half of it is a decrease, twice an increase."""
    check_panel("Largest decreases in 24 hours", "240h", [total("0+25x431 10787.5+12.5x48")], [(CHANGED, -0.5)])
    check_panel("Largest increases in 24 hours", "240h", [total("0+25x431 10787.5+12.5x48")], [])
    check_panel("Largest increases in 24 hours", "240h", [total("0+25x431 10825+50x48")], [(CHANGED, 1.0)])


def test_counter_younger_than_eight_days_is_not_compared(check_panel: PanelChecker) -> None:
    """A counter younger than eight days is not compared, since an incomplete day a week ago exaggerates increases."""
    check_panel("Largest increases in 24 hours", "180h", [total("0+25x400")], [])
    check_panel("Largest decreases in 24 hours", "180h", [total("0+25x400")], [])


def test_rare_events_are_not_compared(check_panel: PanelChecker) -> None:
    """Events with fewer than ten occurrences a day are excluded, even if they triple."""
    check_panel("Largest increases in 24 hours", "240h", [total("0+0.1875x431 81+0.6x48")], [])


def test_changed_instance_is_no_decrease(check_panel: PanelChecker) -> None:
    """A new instance, as after each release in Kubernetes, is no decrease: the counts of both instances are added."""
    moved = [total("0+25x455 _x24", "a"), total("_x455 0+25x24", "b")]
    # The result is less than 1,200: the increase between the last scrape of one instance and the first of the other is
    # unknown.
    check_panel("Custom events, reported in 24 hours", "240h10m", moved, [(f"{{{LABELS}}}", 1)], then="> bool 1150")


@pytest.mark.parametrize(
    ("ios", "everything", "share"), [("3600x4", "3600x4", [0.25]), ("3600x4", "7200x4", []), ("7200x4", "3600x4", [])]
)
def test_share_uses_same_hour(check_panel: PanelChecker, ios: str, everything: str, share: list[float]) -> None:
    """There is no share while the settled hours of two queries differ."""
    series = [
        gauge(IOS, "hourly_settled", "25x4"),
        gauge(LABELS, "hourly_settled", "100x4"),
        query_gauge(IOS, "settled_bucket_start_timestamp_seconds", ios),
        query_gauge(LABELS, "settled_bucket_start_timestamp_seconds", everything),
    ]
    title = "Custom events by app, share of total, settled hour"
    check_panel(title, "2h", series, [(f"{{{IOS}}}", value) for value in share])


def test_settled_hour_without_baseline_is_not_compared(check_panel: PanelChecker) -> None:
    """A settled hour is compared only with a current baseline, and not with one of less than ten."""
    settled = gauge(LABELS, "hourly_settled", "50x4")
    title = "Settled hour compared with baseline"
    check_panel(title, "2h", [settled, gauge(LABELS, "hourly_baseline", "100x4")], [(CHANGED, -0.5)])
    check_panel(title, "2h", [settled, gauge(LABELS, "hourly_baseline", "100x2 stale")], [])
    check_panel(title, "2h", [settled, gauge(LABELS, "hourly_baseline", "9x4")], [])


def test_query_without_success_has_no_age(check_panel: PanelChecker) -> None:
    """A query that has never succeeded does not count for the oldest success."""
    series = [
        query_gauge(LABELS, "last_success_timestamp_seconds", "7000x4"),
        query_gauge(IOS, "last_success_timestamp_seconds", "0x4"),
    ]
    check_panel("Oldest success", "2h", series, [("{}", 200.0)])


def test_campaigns_of_one_name_are_distinguished(check_panel: PanelChecker) -> None:
    """Campaigns with the same name, or without a known name, have a bar each; their variations are summed."""
    sent = 'channel="email", variation="A", stat="sent", job="braze", instance="a"'

    def settled(labels: str, variation: str, values: str) -> Series:
        family = "braze_campaign_messages_daily_settled"
        return f'{family}{{workspace="production", {labels}, variation_id="{variation}", {sent}}}', values

    same = [f'campaign_id="{ident}", campaign="Win-back"' for ident in ("1", "2")]
    unnamed = 'campaign_id="3"'
    check_panel(
        "Messages sent, settled day",
        "2h",
        [*(settled(labels, "a", "10x4") for labels in (*same, unnamed)), settled(same[0], "b", "5x4")],
        [
            (f'{{workspace="production", {labels}}}', value)
            for labels, value in ((same[0], 15.0), (same[1], 10.0), (unnamed, 10.0))
        ],
    )
