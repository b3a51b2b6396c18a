"""The situations in which the dashboards are rendered: a Prometheus with simulated days of an exporter, and a time.

The exporter and the simulated Braze are real, their clock is not. The alerts are those that the rules give over these
days, since Prometheus does not evaluate rules over the past.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import response_faults
from history import Release
from servers import Prometheus, backfill, running_prometheus
from simulated_braze import FaultInjectingBraze, build_demo_braze_with_faults
from support import HOUR, Clock, Labels, MetricsPage, free_port, wait_until
from wsgi_server import serve

from braze_exporter.braze import transport
from braze_exporter.config.loading import Config, load_config
from braze_exporter.exporter.exporter import Exporter
from braze_exporter.monitoring.rule import RuleOptions
from braze_exporter.monitoring.rules import build_rules
from braze_exporter.scheduler.plan import Plan, build_plan
from braze_exporter.simulator import demo_config
from braze_exporter.simulator.demo_config import KEY, KEY_VARIABLE, ZONE
from braze_exporter.simulator.inventory import SHOP_INVENTORY, Campaign
from braze_exporter.simulator.traffic import SHOP_EVENTS, SHOP_SERIES, Traffic, TrafficShape

STEP = 300
DAY = 24 * HOUR
START = datetime(2026, 11, 2, tzinfo=UTC).timestamp()
# Before this time there is one scrape an hour, after it one every `STEP` seconds.
DENSE = START + 14 * DAY
FIRST_HOURS = START + 6 * HOUR
RELEASE = START + 16 * DAY + 15 * HOUR
FAULTS = START + 18 * DAY
DOWN = FAULTS + 8 * HOUR
INSTANCE = "braze-exporter:27293"
TARGET = {"job": "braze", "instance": INSTANCE}

Series = tuple[str, Labels]
Samples = dict[Series, list[tuple[float, float]]]


@dataclass(frozen=True)
class Situation:
    """A time in one of the two histories: the usual one, or the one of an exporter with all kinds of series."""

    at: float
    has_all_kinds: bool = False

    @property
    def plan(self) -> Plan:
        """The plan of the exporter."""
        return build_plan(build_config(has_all_kinds=self.has_all_kinds))


SITUATIONS = {
    "normal": Situation(START + 15 * DAY + 20 * HOUR + 2400),
    "lost": Situation(RELEASE + 27 * HOUR),
    "failing": Situation(FAULTS + 6 * HOUR),
    "new": Situation(FIRST_HOURS - HOUR / 2),
    "down": Situation(DOWN + 2 * HOUR),
    "everything": Situation(START + 8 * DAY + 4 * HOUR, has_all_kinds=True),
}

EUROPE = """\
  - name: europe
    url: {url}
    api_key_env: EUROPE_KEY
    timezone: Europe/Berlin
    apps: {{ios: 5f3a9c1e-7d42-4b86-9e0f-2c61d8a4b793}}
    custom_events:
      - {{event: app_opened, apps: [all, ios], baseline: {{weeks: 1}}, alerts: {{drop: 0.5}}}}
      - {{event: purchase_completed, alerts: {{silent: 2h}}}}
"""
EVERYTHING = """\
    purchases:
      - regex: ".*"
    segment_users:
      - regex: ".*"
    uninstalls: [{}]
    monthly_active_users: [{apps: [all, ios, android]}]
    canvases:
      - regex: ".*"
    campaigns:
      - regex: ".*"
"""
_MISSPELLED = "      - event: wishlist_aded\n"


def build_config(
    production: str = "https://rest.iad-01.braze.com",
    europe: str = "https://rest.fra-01.braze.eu",
    *,
    has_all_kinds: bool,
) -> Config:
    """Return the config of the exporter, for the URLs of its two workspaces."""
    text = demo_config.build_config(production).replace("name: demo", "name: production")
    text = text.partition("refresh_interval:")[0]
    events = "    custom_events:\n"
    text = text.replace(events, events + _MISSPELLED)
    if has_all_kinds:
        for section in ("purchases", "segment_users", "campaigns", "canvases"):
            text = _without_section(text, section)
        text += EVERYTHING
    text += EUROPE.format(url=europe) + "refresh_interval: {hour: 10m, day: 1h}\n"
    return load_config(text, "config.yaml", {KEY_VARIABLE: KEY, "EUROPE_KEY": KEY})


def _without_section(text: str, name: str) -> str:
    before, _, after = text.partition(f"    {name}:\n")
    lines = after.splitlines(keepends=True)
    end = next((at for at, line in enumerate(lines) if not line.startswith("      ")), len(lines))
    return before + "".join(lines[end:])


def make_braze(clock: Clock, *, has_all_kinds: bool) -> FaultInjectingBraze:
    """Return the demo's Braze, with 100 more campaigns if it has all kinds."""
    braze = build_demo_braze_with_faults(clock.wall)
    braze.traffic = Release("app_opened", RELEASE)
    if has_all_kinds:
        more = tuple(
            Campaign(
                str(uuid5(NAMESPACE_URL, f"campaign {number}")),
                f"{('Price drop', 'Reminder', 'Survey', 'Launch', 'Upsell')[number % 5]} {number + 1}",
                channels=(("email",), ("ios_push", "android_push"), ("sms",), ("in_app_message",))[number % 4],
            )
            for number in range(100)
        )
        braze.inventory = replace(SHOP_INVENTORY, campaigns=(*SHOP_INVENTORY.campaigns, *more))
        shapes = {f"campaigns/{item.id}": TrafficShape(5 + 7 * index, night_share=0) for index, item in enumerate(more)}
        braze.series_counts = Traffic(1, ZONE, {**SHOP_SERIES, **shapes})
    return braze


def scrape(clock: Clock, end: float, *, has_all_kinds: bool) -> Iterator[tuple[float, MetricsPage]]:
    """Yield the pages of an exporter of two workspaces from `START` to `end`: hourly, then every `STEP` seconds."""
    production, europe = make_braze(clock, has_all_kinds=has_all_kinds), make_braze(clock, has_all_kinds=False)
    europe.traffic = Traffic(2, ZONE, SHOP_EVENTS)
    with ExitStack() as stack:
        urls = [stack.enter_context(serve(braze)).url for braze in (production, europe)]
        session = stack.enter_context(contextlib.closing(transport.open_session(10)))
        exporter = stack.enter_context(contextlib.closing(Exporter(clock=clock)))
        config = build_config(*urls, has_all_kinds=has_all_kinds)
        exporter.apply_config(config, build_plan(config), session)
        is_faulty = False
        while clock.now <= end:
            if clock.now >= FAULTS and not is_faulty:
                production.inject(response_faults.status(503), event="added_to_cart")
                europe.inject(response_faults.status(401))
                is_faulty = True
            production.spend_calls(round(250_000 * 0.3 * STEP / HOUR))
            for _ in range(2):  # the queries of lists that the first refresh has read are due in the second
                wait([exporter.refresh()])
            exporter.save().result(10)
            yield clock.now, MetricsPage(b"".join(exporter.render(openmetrics=False)).decode())
            is_dense = clock.now >= (end - HOUR if has_all_kinds else DENSE)
            is_new = clock.now < FIRST_HOURS and not has_all_kinds
            clock.advance(STEP if is_dense or is_new else HOUR)


def collect(directory: Path, *, has_all_kinds: bool) -> None:
    """Write the storage of a Prometheus that scraped the exporter, and that evaluated its rules.

    At `DOWN`, the exporter stops. This takes some minutes.
    """
    directory.mkdir(parents=True)
    end = SITUATIONS["everything"].at if has_all_kinds else DOWN
    samples: Samples = {}
    clock = Clock(START)
    target: dict[Series, float] = {("up", frozenset()): 1.0, ("scrape_duration_seconds", frozenset()): 0.4}
    for now, page in scrape(clock, end, has_all_kinds=has_all_kinds):
        for series, value in [*page.samples.items(), *target.items()]:
            samples.setdefault(series, []).append((now, value))
    while not has_all_kinds and clock.now <= SITUATIONS["down"].at:
        samples["up", frozenset()].append((clock.now, 0.0))
        clock.advance(STEP)
    write(directory, "scrapes", samples, TARGET)
    config = build_config(has_all_kinds=has_all_kinds)
    with running_server(directory) as server:
        groups = build_rules(build_plan(config), config.settings, RuleOptions(job="braze"))["groups"]
        write(directory, "alerts", evaluate(server, groups, end - HOUR if has_all_kinds else DENSE, clock.now), {})


def write(directory: Path, name: str, samples: Samples, labels: Mapping[str, str]) -> None:
    """Add samples to the storage of a Prometheus that is not running or reads new blocks soon."""
    path = directory / f"{name}.txt"
    with path.open("w", encoding="utf-8") as file:
        for (metric, series), values in sorted(samples.items(), key=lambda item: (item[0][0], sorted(item[0][1]))):
            pairs = {**labels, **dict(series)}
            text = ",".join(
                f"{label}={json.dumps(value, ensure_ascii=False)}" for label, value in sorted(pairs.items()) if value
            )
            file.writelines(f"{metric}{{{text}}} {value} {now}\n" for now, value in values)
        file.write("# EOF\n")
    backfill(str(path), directory / "data")
    path.unlink()


def evaluate(server: Prometheus, groups: Iterable[Mapping[str, Any]], start: float, end: float) -> Samples:
    """Return the series `ALERTS` and `ALERTS_FOR_STATE` that the rules give from `start` to `end`."""
    result: Samples = {}
    span = {"start": str(start), "end": str(end), "step": str(STEP)}
    for rule in (rule for group in groups for rule in group["rules"]):
        waits = int(rule["for"][:-1]) * {"m": 60, "h": HOUR}[rule["for"][-1]]
        for series in server.request("query_range", query=rule["expr"], **span)["result"]:
            labels = {**series["metric"], **rule["labels"], "alertname": rule["alert"]}
            labels.pop("__name__", None)
            began = previous = 0.0
            for now, _ in series["values"]:
                began = began if now - previous <= STEP else now
                previous = now
                state = "firing" if now - began >= waits else "pending"
                alert = frozenset({**labels, "alertstate": state}.items())
                result.setdefault(("ALERTS", alert), []).append((now, 1.0))
                result.setdefault(("ALERTS_FOR_STATE", frozenset(labels.items())), []).append((now, began))
    return result


@contextmanager
def running_server(directory: Path) -> Iterator[Prometheus]:
    """Run a Prometheus on the storage in `directory`."""
    jobs = {"nothing": {"scrape_interval": "1d"}}
    with running_prometheus(directory, free_port(), jobs, flags=["--storage.tsdb.retention.time=10y"]) as server:

        def is_ready() -> bool:
            with suppress(OSError):
                return bool(server.query("braze_up", START + HOUR))
            return False

        wait_until(is_ready, "Prometheus has the history")
        yield server
