"""The simulated Braze of `demo`, and the config of the exporter for it."""

from collections.abc import Callable
from zoneinfo import ZoneInfo

from braze_exporter.simulator.application import SimulatedBraze
from braze_exporter.simulator.inventory import SHOP_INVENTORY, Campaign, Canvas
from braze_exporter.simulator.traffic import SHOP_APPS, SHOP_EVENTS, SHOP_SEGMENTS, SHOP_SERIES, Traffic

# Not a secret: only the simulated Braze accepts this key.
KEY = "0d1e2f30-demo-demo-demo-5a6b7c8d9eaf"
KEY_VARIABLE = "BRAZE_API_KEY"
ZONE = ZoneInfo("America/New_York")


def build_demo_braze(clock: Callable[[], float]) -> SimulatedBraze:
    """Return the simulated Braze of the demo: an online shop with data for every endpoint."""
    return SimulatedBraze(
        key=KEY,
        traffic=Traffic(1, ZONE, SHOP_EVENTS),
        series_counts=Traffic(1, ZONE, SHOP_SERIES),
        inventory=SHOP_INVENTORY,
        apps=SHOP_APPS.values(),
        segments=SHOP_SEGMENTS.values(),
        clock=clock,
        zone=ZONE,
    )


def build_config(url: str) -> str:
    """Return the YAML of a config for the simulated Braze at `url`, with the API key in the variable `KEY_VARIABLE`."""
    apps = "".join(f"\n      {name}: {app_id}" for name, app_id in SHOP_APPS.items())
    segments = "".join(f"\n      {name}: {segment_id}" for name, segment_id in SHOP_SEGMENTS.items())
    return f"""\
workspaces:
  - name: demo
    url: {url}
    api_key_env: {KEY_VARIABLE}
    timezone: {ZONE}
    apps:{apps}
    segments:{segments}
    custom_events:
      - event: app_opened
        apps: [all, ios, android]
        baseline: {{weeks: 4}}
        alerts: {{silent: 1h, drop: 0.5, severity: critical}}
      - event: product_viewed
      - event: added_to_cart
        segments: [all, vip]
      - event: checkout_started
        apps: [all, ios, android]
      - event: purchase_completed
        apps: [all, ios, android]
        segments: [all, vip]
        alerts: {{silent: 2h, severity: critical, labels: {{team: shop}}}}
      - event: newsletter_signup
        baseline: {{weeks: 4}}
        alerts: {{silent: 12h}}
      - event: app_opened
        unit: day
        alerts: {{above: 150000}}
      - event: purchase_completed
        unit: day
        apps: [all, ios, android]
        alerts: {{below: 1000, labels: {{team: shop}}}}
    sessions:
      - apps: [all, ios, android]
    purchases:
      - unit: hour
      - product: Gift card
    revenue:
      - unit: day
    segment_users:
      - segment: vip
    new_users:
      - apps: [all]
    daily_active_users:
      - apps: [all, ios, android]
    campaigns:
{_entries("campaign", SHOP_INVENTORY.campaigns[0], SHOP_INVENTORY.campaigns[2])}
    canvases:
{_entries("canvas", SHOP_INVENTORY.canvases[1])}
refresh_interval: {{hour: 15s, day: 1m}}
"""


def _entries(key: str, *named: Campaign | Canvas) -> str:
    return "\n".join(f"      - {key}: {item.id}  # {item.name}" for item in named)
