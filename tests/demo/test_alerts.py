"""The alerts of the demo: its own traffic raises none, by day, by night and at the weekend; an event that stops does.

Needs `promtool`, as `test_prometheus` does.
"""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

from history import scraped
from servers import tool
from stories import MINUTE, Fired, Story, Told, series
from support import HOUR, Labels

from braze_exporter import demo

STEP = 20 * MINUTE
# A Friday; the shop is busiest in the evening.
START = datetime(2026, 11, 20, 12, tzinfo=demo.ZONE)
STOPS = START + timedelta(days=3)
END = STOPS + timedelta(hours=5)


def stopping(event: str, since: float, until: float) -> demo.Recorded:
    """Return the traffic of the demo, in which an event does not happen any more from `since` on."""
    traffic = demo.Recorded(demo.DEMO.traffic(seed=1, zone=demo.ZONE))
    for hour in range(int(since), int(until) + HOUR, HOUR):
        for app_id in ("", *demo.DEMO.apps.values()):
            traffic.set(event, hour, 0, app_id)
    return traffic


def named(name: str, labels: Labels) -> str:
    """Return a series as promtool takes it."""
    return series(name, ",".join(f"{label}={json.dumps(value)}" for label, value in sorted(labels) if value))


def told() -> Mapping[str, Told]:
    """Return what the exporter of the demo shows through a weekend, at the end of which the app is not opened any more.

    The times that it tells count from its start, as promtool's clock does.
    """
    start = START.timestamp()
    found: dict[str, dict[float, float]] = {}
    for now, page in scraped(stopping("app_opened", STOPS.timestamp(), END.timestamp()), start, END.timestamp(), STEP):
        for (name, labels), value in page.samples.items():
            if name.startswith("braze_"):
                shift = start if name.endswith("_timestamp_seconds") else 0
                found.setdefault(named(name, labels), {})[now - start] = value - shift
    return {"process_start_time_seconds": lambda _now: 0.0, **{name: values.get for name, values in found.items()}}


def fired(alert: str, summary: str, **labels: str) -> Fired:
    """Return an alert of the app being opened, by the hour."""
    always = {"workspace": "production", "event": "app_opened", "unit": "hour", "severity": "critical"}
    return Fired(alert, summary, {**always, **labels})


def test_the_demo_raises_no_alert_until_an_event_stops(tmp_path: Path) -> None:
    """Not one in three days; then the fall, when the first hour without has settled, and the silence, of all apps."""
    tool("promtool")
    apps = {"": {}, " from ios": {"braze_app": "ios"}, " from android": {"braze_app": "android"}}
    dropped = [
        fired("BrazeEventDrop", f"app_opened{words} in production is at 0% of what is usual.", **labels)
        for words, labels in apps.items()
    ]
    silent = [
        fired("BrazeEventSilent", f"No app_opened{words} in production was counted for 1h or longer.", **labels)
        for words, labels in apps.items()
    ]
    stops = int((STOPS - START).total_seconds()) // MINUTE
    Story(
        demo.config("http://127.0.0.1"),
        told(),
        fires={stops + 160: dropped, stops + 260: [*dropped, *silent]},
        quiet=range(0, stops + 120, STEP // MINUTE),
        step=STEP // MINUTE,
    ).judge(tmp_path)
