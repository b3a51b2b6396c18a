"""Test alert delivery end to end with real components.

The tests run the simulator, the exporter, and a Prometheus with the rules that the exporter prints. An Alertmanager
runs with the config of `deploy/`, and a local server receives its webhooks.

Needs `prometheus`, `promtool` and `prometheus-alertmanager` (Debian: prometheus, prometheus-alertmanager).
Skipped without them, except in CI, where their absence is a failure.
"""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from servers import running_alertmanager, running_prometheus
from support import HOUR, Program, run_program, running_braze, wait_until, workspace_yaml, write_file

pytestmark = pytest.mark.no_cover

ROOT = Path(__file__).parents[2]
# In order: three events whose alerts must page, two events that keep occurring, one event silent for less than its
# hour, and one event without alerts.
EVENTS = """
{event: checkout_started, alerts: {silent: 10s, for: 3s, severity: page, labels: {team: growth}}}
{event: purchase_completed, alerts: {silent: 10s, for: 3s, severity: page, labels: {team: growth}}}
{event: refund_requested, alerts: {silent: 10s, for: 3s, severity: page, labels: {team: growth}}}
{event: app_opened, apps: [all, ios], baseline: {weeks: 1}, alerts: {silent: 10s, drop: 0.5, below: 10, for: 3s}}
{event: signup, unit: day, baseline: {weeks: 1}, alerts: {silent: 10s, drop: 0.5, above: 100000, for: 3s}}
{event: newsletter_signup, alerts: {silent: 1h, below: 10, for: 3s}}
{event: login}
"""
PAGED_EVENTS = {"checkout_started", "purchase_completed", "refund_requested"}
SILENCED_EVENTS = {*PAGED_EVENTS, "newsletter_signup", "login"}
TOTALS = "{__name__=~'braze_custom_events_(by_app_)?total'}"
PAGE = {
    "alertname": "BrazeEventSilent",
    "workspace": "production",
    "kind": "custom_events",
    "unit": "hour",
    "severity": "page",
    "team": "growth",
}


class GrowingTraffic:
    """Simulated traffic that adds one occurrence each time an event is fetched, unless the event is in `silent`.

    All these occurrences belong to the hour in which the object was created. Every earlier hour has 1,000 of each
    event. A later hour that begins during the test has none.
    """

    events = frozenset({"app_opened", "signup", *SILENCED_EVENTS})

    def __init__(self) -> None:
        self.silent: set[str] = set()
        self.last: dict[str, float] = {}
        self._hour = int(time.time()) // HOUR * HOUR
        self._growth: Counter[str] = Counter()

    def count(self, event: str, hour_start: int, now: float, app_id: str = "", segment_id: str = "") -> int:  # noqa: ARG002
        """Return the count of an event in an hour; it is the same for every app."""
        if hour_start != self._hour:
            return 1_000 if hour_start < self._hour else 0
        if event not in self.silent:
            self._growth[event] += 1
            self.last[event] = now
        return self._growth[event]


@dataclass
class Pager:
    """Holds all notifications that Alertmanager has sent, repetitions included."""

    url: str
    notifications: list[dict[str, Any]] = field(default_factory=list)

    @property
    def alerts(self) -> list[dict[str, Any]]:
        """The alerts of the last notification."""
        return self.notifications[-1]["alerts"] if self.notifications else []


@contextmanager
def pager() -> Iterator[Pager]:
    """Run a server that receives webhooks."""

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """Record a notification."""
            pager_.notifications.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Suppress the request log."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiver) as server:
        pager_ = Pager(f"http://127.0.0.1:{server.server_port}/")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield pager_
        finally:
            server.shutdown()
            thread.join()


def alertmanager_config(url: str) -> str:
    """Return the Alertmanager config of `deploy/` with a webhook receiver at `url` and notifications within 1 s."""
    settings = yaml.safe_load((ROOT / "deploy/compose/alertmanager/alertmanager.yml").read_text(encoding="utf-8"))
    settings["route"] |= {"group_wait": "0s", "group_interval": "1s"}
    (receiver,) = settings["receivers"]
    receiver["webhook_configs"] = [{"url": url}]
    return str(yaml.safe_dump(settings))


def test_silent_events_are_paged_together_and_resolved(tmp_path: Path) -> None:
    """Silent events are notified as one group with one headline, later as resolved; no other event is notified."""
    shop = GrowingTraffic()
    extra_yaml = (
        f"refresh_interval: {{hour: 1s, day: 1s}}\nbudget: {{share: 0.5}}\nstate_file: {tmp_path / 'state.sqlite'}\n"
    )
    with ExitStack() as stack:
        received = stack.enter_context(pager())
        manager = stack.enter_context(
            running_alertmanager(tmp_path / "alertmanager", alertmanager_config(received.url))
        )
        _, braze = stack.enter_context(running_braze(shop))
        config = workspace_yaml(braze.url, EVENTS, extra_yaml=extra_yaml)
        option = f"--config.file={write_file(tmp_path / 'config.yaml', config)}"
        program = stack.enter_context(Program.start([option]))
        rules = run_program("rules", option, "--runbook-url=https://runbooks.example.com/").stdout
        server = stack.enter_context(
            running_prometheus(tmp_path / "prometheus", program.port, rules=rules, alertmanager=manager)
        )

        def are_increasing() -> bool:
            with suppress(OSError):
                rising = server.query(f"{TOTALS} > {TOTALS} offset 14s")
                return {dict(labels)["event"] for labels in rising} == shop.events
            return False

        wait_until(are_increasing, "each event keeps occurring for longer than a silent alert takes to fire", 60)
        assert received.alerts == []

        shop.silent |= SILENCED_EVENTS
        wait_until(lambda: len(received.alerts) == 3, "the alerts are sent", 60)
        group = received.notifications[-1]
        assert (group["status"], group["commonLabels"]) == ("firing", PAGE)
        assert group["groupLabels"] == {name: PAGE[name] for name in ("alertname", "workspace")}
        assert group["commonAnnotations"] == {
            "summary": "No custom events counted.",
            "runbook_url": "https://runbooks.example.com/silent",
        }
        pages = {alert["labels"].pop("event"): alert for alert in group["alerts"]}
        assert [(page["status"], page["labels"]) for page in pages.values()] == [("firing", PAGE)] * 3
        for event in PAGED_EVENTS:
            assert pages[event]["annotations"]["description"] == (
                f"No {event} events in workspace production were counted for 10s or longer. Fetches succeed, but the "
                "counter does not increase. Check recent changes and releases of the source of the event. Campaigns "
                "triggered by it send nothing."
            )
            # The timestamp of a sample is the start of its scrape, at most a second before the response of Braze.
            assert datetime.fromisoformat(pages[event]["startsAt"]).timestamp() >= shop.last[event] + 10 + 3 - 1

        shop.silent.clear()
        wait_until(lambda: received.notifications[-1]["status"] == "resolved", "the alerts are resolved", 60)
        assert all(each["groupLabels"]["alertname"] == PAGE["alertname"] for each in received.notifications)
        fired = server.query("max_over_time(ALERTS{alertstate='firing'}[10m])")
        expected = [{**PAGE, "event": event, "alertstate": "firing"} for event in PAGED_EVENTS]
        assert fired == {frozenset(labels.items()): 1 for labels in expected}
