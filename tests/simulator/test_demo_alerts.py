"""Test that the demo's usual traffic fires no alert at any time of the week, and that a renamed event does.

Needs `promtool`, as `test_prometheus` does.
"""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from alert_scenarios import MINUTE, ExpectedAlert, SampleFunction, Scenario, series
from history import Release, scrape_history
from servers import require_tool
from support import Labels

from braze_exporter.simulator import demo_config
from braze_exporter.simulator.demo_config import ZONE

pytestmark = pytest.mark.no_cover

STEP = 30 * MINUTE
# A Friday; traffic peaks in the evening.
START = datetime(2026, 11, 20, 12, tzinfo=ZONE)
RELEASE = START + timedelta(days=2)
END = RELEASE + timedelta(hours=4)


def series_name(name: str, labels: Labels) -> str:
    """Return a series in promtool's notation."""
    return series(name, ",".join(f"{label}={json.dumps(value)}" for label, value in sorted(labels) if value))


def demo_samples() -> Mapping[str, SampleFunction]:
    """Return the demo exporter's samples over a weekend and a release that renames an event.

    Timestamps count from the start of the series, as promtool's clock does.
    """
    start = START.timestamp()
    result: dict[str, dict[float, float]] = {}
    for now, page in scrape_history(Release("app_opened", RELEASE.timestamp()), start, END.timestamp(), STEP):
        for (name, labels), value in page.samples.items():
            if name.startswith("braze_"):
                shift = start if name.endswith("_timestamp_seconds") else 0
                result.setdefault(series_name(name, labels), {})[now - start] = value - shift
    return {"process_start_time_seconds": lambda _now: 0.0, **{name: values.get for name, values in result.items()}}


def expected_alert(alert: str, sentence: str, **labels: str) -> ExpectedAlert:
    """Return an expected alert of the hourly event `app_opened`."""
    event = {"workspace": "demo", "kind": "custom_events", "unit": "hour", "event": "app_opened"}
    return ExpectedAlert(alert, sentence, {**event, "severity": "critical", **labels})


def test_demo_fires_no_alert_until_event_is_renamed(tmp_path: Path) -> None:
    """No alert fires in two days of usual traffic; after the release the expected ones do.

    The `drop` alerts of the app and of all apps fire once the hour has settled, then the `silent` alert of the app.
    """
    require_tool("promtool")
    ios = expected_alert(
        "BrazeEventDrop",
        "app_opened events from app ios in workspace demo are at 0% of the baseline.",
        braze_app="ios",
    )
    both = [
        expected_alert("BrazeEventDrop", f"app_opened events in workspace demo are at {share}% of the baseline.")
        for share in ("43.41", "41.05")
    ]
    silent = expected_alert(
        "BrazeEventSilent",
        "No app_opened events from app ios in workspace demo were counted for 1h or longer.",
        braze_app="ios",
    )
    released = int((RELEASE - START).total_seconds()) // MINUTE
    Scenario(
        demo_config.build_config("http://127.0.0.1"),
        demo_samples(),
        fires={released + 150: [ios, both[0]], released + 240: [ios, both[1], silent]},
        silent=range(0, released + 150, STEP // MINUTE),
        step=STEP // MINUTE,
    ).check(tmp_path)
