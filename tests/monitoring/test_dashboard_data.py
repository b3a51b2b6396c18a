"""Test end to end that every dashboard query returns data from a real Prometheus for every selection.

Prometheus holds fifteen days of the exporter's series, one sample an hour. It then scrapes the exporter while Braze
fails. The tests replace variables in queries as Grafana's source code does.

Needs `prometheus` and `promtool`, as `test_prometheus` does.
"""

import json
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import response_faults
import transfer_faults
from recorded_counts import RecordedCounts
from servers import Labels, Prometheus, backfill, require_tool, running_prometheus
from simulated_braze import FaultInjectingBraze
from support import (
    HOUR,
    IOS,
    KEY,
    NEW_YORK,
    VIP,
    MetricsPage,
    Program,
    run_program,
    wait_until,
    workspace_item_yaml,
    workspace_yaml,
    write_file,
)

from braze_exporter.braze.kinds import Unit
from braze_exporter.braze.query import Query
from braze_exporter.config.loading import load_config
from braze_exporter.metrics.families import GAUGE_HELP, QUERY_FAMILIES, build_counter, build_gauge
from braze_exporter.metrics.self_metrics import QUERIES, REVISION_DELAY, SELF_METRICS, TIMEZONE_MISMATCH, UP
from braze_exporter.scheduler.plan import build_plan, can_feed_counter
from braze_exporter.simulator.inventory import Campaign, Canvas, Inventory
from braze_exporter.simulator.server import serve

pytestmark = pytest.mark.no_cover

# Has quotes, regex characters and a four-byte letter, which Grafana has to pass to Prometheus unchanged.
ODD_NAME = r'sign "up" (a|b) \d+ 🎉'
EVENTS = """
{event: purchase, apps: [all, ios], segments: [all, vip], baseline: {weeks: 1}}
{event: purchase, unit: day, apps: [all, ios], baseline: {weeks: 1}}
{event: 'sign "up" (a|b) \\d+ 🎉', baseline: {weeks: 1}}
{event: rare, unit: day}
"""
CAMPAIGN = Campaign("d8b73da7-0b7c-fc72-1d80-2f6e9c41ab05", "Win-back", channels=("email", "in_app_message"))
CANVAS = Canvas("4ffe74b7-ca90-4046-ae7f-68b1b337f6a6", "Onboarding")
OTHER_SECTIONS = f"""\
    sessions: [{{apps: [all, ios], baseline: {{weeks: 1}}}}]
    purchases: [{{}}, {{product: Mug}}]
    revenue: [{{unit: day}}]
    segment_users: [{{segment: vip}}]
    new_users: [{{apps: [all, ios]}}]
    uninstalls: [{{}}]
    daily_active_users: [{{}}]
    monthly_active_users: [{{}}]
    campaigns: [{{campaign: {CAMPAIGN.id}}}]
    canvases: [{{canvas: {CANVAS.id}}}]
"""
STAGING = """
{event: purchase}
{event: only_ios, apps: [ios]}
"""
RISING = "purchase"
CHANNELS = {
    "campaign_messages": ("email", "in_app_message"),
    "campaign_message_revenue_dollars": ("email", "in_app_message"),
    "canvas_messages": ("email", "ios_push"),
    "canvas_message_revenue_dollars": ("email", "ios_push"),
}
# Groups of variables whose labels occur together in some series.
COMBINED_LABELS = (
    ("workspace", "event", "app", "segment"),
    ("workspace", "app", "product", "campaign", "canvas", "channel"),
)
EXPORTER_METRICS = {family.name for family in (UP, QUERIES, *SELF_METRICS)}
# The occurrences per hour in the history, and the factors by which they change for the last day.
BEFORE, RISE, FALL = 100, 2.0, 0.5

Json = dict[str, Any]


class SteadyTraffic(RecordedCounts):
    """Simulated traffic with the same counts in each hour, and fewer for an app or a segment."""

    def __init__(self) -> None:
        super().__init__(events=["purchase", ODD_NAME, "rare", "only_ios"])
        self.this_hour = int(time.time()) // HOUR * HOUR
        for back in range(-2, 26 * 24):
            for event in self.events:
                self.set(event, self.this_hour - back * HOUR, 100)
                self.set(event, self.this_hour - back * HOUR, 40, IOS)
                self.set(event, self.this_hour - back * HOUR, 25, "", VIP)
                self.set(event, self.this_hour - back * HOUR, 10, IOS, VIP)


def steady_counts(this_hour: int) -> RecordedCounts:
    """Return counts of all kinds except custom events, the same in each hour."""
    result = RecordedCounts()
    names = ["sessions", "purchases", "purchases/Mug", "revenue", "new_users", "uninstalls", "daily_active_users"]
    for name in [
        *names,
        "monthly_active_users",
        f"campaigns/{CAMPAIGN.id}",
        f"canvases/{CANVAS.id}",
        f"segments/{VIP}",
    ]:
        for back in range(-2, 26 * 24):
            result.set(name, this_hour - back * HOUR, 100)
            result.set(name, this_hour - back * HOUR, 40, IOS)
    return result


@dataclass
class Scene:
    """Holds the Prometheus server, the dashboard, the queries and the time to evaluate them at."""

    server: Prometheus
    board: Json
    queries: tuple[Query, ...]
    at: float

    @property
    def panels(self) -> list[Json]:
        """Return all panels except row headings, collapsed ones included."""
        return [
            panel
            for outer in self.board["panels"]
            for panel in ([outer] if outer["type"] != "row" else outer["panels"])
        ]

    @property
    def variables(self) -> dict[str, str]:
        """Return the query of each variable that lists label values, each variable after those it depends on."""
        return {item["name"]: item["query"] for item in self.board["templating"]["list"] if item["type"] == "query"}

    def values(self, variable: str, choice: Mapping[str, Sequence[str]]) -> list[str]:
        """Return the values of a variable under the selection in the variables before it."""
        match = re.fullmatch(r"label_values\((.+), (\w+)\)", self.variables[variable])
        assert match
        return self.server.label_values(match[2], interpolated(match[1], choice))

    def choices(self, expr: str, repeat: str = "") -> Iterator[dict[str, Sequence[str]]]:
        """Yield the selections to test for a query: All, each value of each variable in it, and two events.

        A repeated chart is tested for each value of the variable `repeat`. For variables whose labels never occur
        together, all combinations are tested with All in the other variables.
        """
        texts = expr + self.variables.get(repeat, "")
        names = [name for name in self.variables if f"${{{name}:regex}}" in texts and name != repeat]
        for group in COMBINED_LABELS:
            offers = [self.variable_choices[name] if name in group else [()] for name in names]
            for values in product(*offers):
                choice = dict(zip(names, values, strict=True))
                yield from (
                    ({**choice, repeat: (value,)} for value in self.values(repeat, choice)) if repeat else [choice]
                )

    @cached_property
    def variable_choices(self) -> Mapping[str, Sequence[Sequence[str]]]:
        """Return the selections to test for each variable: All, each value, and two events."""
        choices = {name: [(), *((value,) for value in self.values(name, {}))] for name in self.variables}
        choices["event"].append(("purchase", ODD_NAME))
        return choices

    def query(self, expr: str, choice: Mapping[str, Sequence[str]]) -> dict[Labels, float]:
        """Return the instant vector of a query for a choice of variables, without NaN values."""
        vector = self.server.query(interpolated(expr, choice), self.at)
        return {labels: value for labels, value in vector.items() if not math.isnan(value)}

    def panel(self, title: str) -> Json:
        """Return a panel by its title."""
        result: Json = next(panel for panel in self.panels if panel["title"] == title)
        return result


def interpolated(text: str, choice: Mapping[str, Sequence[str]]) -> str:
    """Return a query as Grafana sends it. A variable that is missing or empty in `choice` means All."""

    def replace(match: re.Match[str]) -> str:
        values = choice.get(match[1], ())
        escaped = [re.sub(r"[\\^$.*+?()\[\]{}|]", r"\\\g<0>", value) for value in values]
        return ".+" if not escaped else escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"

    return re.sub(r"\$\{(\w+):regex\}", replace, text).replace("$__rate_interval", "1m")


def is_configured(expr: str, queries: Sequence[Query]) -> bool:
    """Return whether the config has all series of at least one part of a query, for one subject."""
    return any(_is_configured(part, queries) for part in re.split(r"\n  or\n", expr))


def _is_configured(expr: str, queries: Sequence[Query]) -> bool:
    wanted = []
    for name, inside in re.findall(r"(\w*)\{((?:[^{}`\"]|`[^`]*`|\"[^\"]*\")*)\}", expr):
        matchers = {
            label: quoted or (plain if sign == "=~" else re.escape(plain))
            for label, sign, quoted, plain in re.findall(r"(\w+)(=~|=)(?:`([^`]*)`|\"([^\"]*)\")", inside)
        }
        wanted.append({"__name__": name, **matchers})
    groups: dict[tuple[object, ...], list[Query]] = {}
    for query in queries:
        groups.setdefault((query.kind, query.subject if query.kind.metric_group.labels else ""), []).append(query)
    return any(
        all(any(_matches(query, matchers) for query in group) for matchers in wanted) for group in groups.values()
    )


def _matches(query: Query, matchers: Mapping[str, str]) -> bool:
    """Return whether a query has a matching series. For the exporter's own metrics only the workspace is compared."""
    name = matchers["__name__"]
    if name.removesuffix("_bucket") in EXPORTER_METRICS:
        if name == TIMEZONE_MISMATCH.name and query.unit is not Unit.DAY:
            return False
        return bool(re.fullmatch(matchers.get("workspace", ".*"), query.workspace))
    if name in {family.name for family in QUERY_FAMILIES}:
        labels = dict(query.query_labels)
        return all(re.fullmatch(text, labels[label]) for label, text in matchers.items() if label != "__name__")
    for metric_group in query.metric_groups:
        names = [
            build_gauge(query.kind, metric_group, query.unit, measure).name
            for measure in GAUGE_HELP
            if measure != "baseline" or query.baseline_weeks
        ]
        names += (
            [build_counter(query.kind, metric_group).name]
            if can_feed_counter(query) and metric_group.is_additive
            else []
        )
        channels = CHANNELS[metric_group.name] if metric_group.series_labels else ("",)
        label_sets = [
            {**dict(query.labels), "channel": channel, "stat": "sent" if channel else ""} for channel in channels
        ]
        if any(re.fullmatch(name, candidate) for candidate in names) and any(
            all(re.fullmatch(text, labels.get(label, "")) for label, text in matchers.items() if label != "__name__")
            for labels in label_sets
        ):
            return True
    return False


def history(page: MetricsPage, instance: str, end: float, days: int) -> Iterator[str]:
    """Yield samples of the series of `page` for the last `days`, one an hour, as OpenMetrics lines.

    Counters of Braze's data rise by `BEFORE` an hour, and by `RISE` or `FALL` times that in the last day. Histograms
    and other counters rise by one. Timestamps keep their age, and other values stay the same.
    """
    for (name, labels), value in sorted(page.samples.items(), key=lambda item: (item[0][0], sorted(item[0][1]))):
        if not name.startswith("braze_"):
            continue
        pairs = {**dict(labels), "job": "braze", "instance": instance}
        label_pairs = ",".join(
            f"{label}={json.dumps(text, ensure_ascii=False)}" for label, text in pairs.items() if text
        )
        total = 0.0
        for hour in range(days * 24, -1, -1):
            rise = 1.0
            if not name.startswith(("braze_api", "braze_exporter", REVISION_DELAY.name)):
                rise = BEFORE * (1 if hour >= 24 else RISE if pairs.get("event") == RISING else FALL)
            total += rise
            is_count = name.endswith(("_total", "_bucket", "_count", "_sum"))
            was = total if is_count else value - hour * HOUR if name.endswith("_timestamp_seconds") else value
            yield f"{name}{{{label_pairs}}} {was} {end - hour * HOUR}\n"
    yield "# EOF\n"


def zone_at_noon() -> ZoneInfo:
    """Return a time zone where it is about noon, so that no bucket changes at midnight during the test."""
    return ZoneInfo(f"Etc/GMT{time.gmtime().tm_hour - 12:+d}")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Run the exporter until it is healthy, then inject 503, disconnects and 429, and return the resulting state."""
    require_tool("prometheus")
    directory, shop, zone = tmp_path_factory.mktemp("dashboard"), SteadyTraffic(), zone_at_noon()
    braze = FaultInjectingBraze(key=KEY, traffic=shop, clock=time.time, zone=zone, apps=(IOS,), segments=(VIP,))
    braze.series_counts = steady_counts(shop.this_hour)
    braze.inventory = Inventory(campaigns=(CAMPAIGN,), canvases=(CANVAS,))
    with ExitStack() as stack:
        url = stack.enter_context(serve(braze)).url
        text = workspace_yaml(url, EVENTS) + OTHER_SECTIONS + workspace_item_yaml(url, STAGING, name="staging")
        text = text.replace(str(NEW_YORK), str(zone)) + "refresh_interval: {hour: 2s, day: 2s}\nbudget: {share: 0.5}\n"
        option = f"--config.file={write_file(directory / 'config.yaml', text)}"
        board = json.loads(run_program("dashboard", option).stdout)
        queries = tuple(with_listed_name(query) for query in build_plan(load_config(text, "config.yaml")).queries)
        program = stack.enter_context(Program.start([option]))
        wait_until(lambda: is_healthy(program.scrape(), queries), "all queries are up and all baselines exist")
        wait_until(lambda: has_revised(program.scrape(), shop), "Braze has revised an hour")
        lines = history(program.scrape(), f"127.0.0.1:{program.port}", int(time.time()) - 60, days=15)
        (directory / "prometheus").mkdir()
        backfill(write_file(directory / "history.txt", "".join(lines)), directory / "prometheus/data")
        server = stack.enter_context(running_prometheus(directory / "prometheus", program.port))
        wait_until(server.is_responding, "Prometheus has scraped", 60)
        braze.inject(response_faults.status(503))
        up = "sum(braze_query_up)"
        wait_until(lambda: server.query(up) == {frozenset(): count_slow_queries(queries)}, "all queries fail")
        braze.inject(transfer_faults.disconnect(), times=3)
        braze.inject(response_faults.rate_limited())
        problems = "sum(braze_api_requests_total{code='429'}) > 0 and sum(braze_api_requests_deferred_total) > 5"
        wait_until(lambda: bool(server.query(problems)), "requests are deferred after a 429")
        yield Scene(server, board, queries, time.time())


def with_listed_name(query: Query) -> Query:
    """Return a query with the name that Braze's list has for its subject."""
    names = {CAMPAIGN.id: CAMPAIGN.name, CANVAS.id: CANVAS.name}
    return replace(query, subject=names.get(query.subject_id, query.subject))


def count_slow_queries(queries: Sequence[Query]) -> float:
    """Return how many queries are fetched too rarely to fail during the test."""
    return sum(query.kind.min_refresh_seconds > 0 for query in queries)


def is_healthy(page: MetricsPage, queries: Sequence[Query]) -> bool:
    """Return whether all queries are up, all baselines exist, and campaigns and Canvases have their names."""
    names = {dict(labels).get(kind) for (_, labels) in page.samples for kind in ("campaign", "canvas")}
    if not {CAMPAIGN.name, CANVAS.name} <= names:
        return False
    ups = page.values("braze_query_up")
    baseline = [name for name, _ in page.samples if name.endswith("_baseline")]
    return ups == [1.0] * len(queries) and len(baseline) == sum(query.baseline_weeks > 0 for query in queries)


def has_revised(page: MetricsPage, shop: SteadyTraffic) -> bool:
    """Return whether the exporter has counted a revised hour; also revise one more hour."""
    hour = shop.this_hour - 5 * HOUR
    shop.set("purchase", hour, shop.count("purchase", hour, 0) + 1)
    return sum(page.values(f"{REVISION_DELAY.name}_count")) > 0


def test_variables_list_configured_values(scene: Scene) -> None:
    """Each variable lists the configured values under the current selection, by unit where it has a unit."""
    assert {name: scene.values(name, {}) for name in scene.variables} == {
        "workspace": ["production", "staging"],
        "event": sorted(["purchase", ODD_NAME, "rare", "only_ios"]),
        "app": ["ios"],
        "segment": ["vip"],
        "product": ["Mug"],
        "campaign": [CAMPAIGN.name],
        "canvas": [CANVAS.name],
        "channel": ["email", "in_app_message", "ios_push"],
        "event_hourly": sorted(["purchase", ODD_NAME]),
        "event_daily": ["purchase", "rare"],
        "campaign_daily": [CAMPAIGN.name],
        "canvas_daily": [CANVAS.name],
    }
    assert scene.values("event", {"workspace": ["staging"]}) == ["only_ios", "purchase"]
    assert scene.values("campaign", {"workspace": ["staging"]}) == []
    assert scene.values("event_hourly", {"event": [ODD_NAME, "rare"]}) == [ODD_NAME]


def test_every_panel_has_data_with_all_selected(scene: Scene) -> None:
    """With All selected, each query of each panel returns data while much is failing."""
    empty = [(panel["title"], expr) for panel, expr in _targets(scene.panels) if not scene.query(expr, {})]
    assert empty == []


def test_dashboard_without_config_shows_all_data(scene: Scene) -> None:
    """Each query of the dashboard for any config is valid, and returns data in all panels that the config has."""
    anything = Scene(scene.server, json.loads(run_program("dashboard").stdout), scene.queries, scene.at)
    has_data = {(panel["title"], expr): bool(scene.query(expr, {})) for panel, expr in _targets(anything.panels)}
    configured = {panel["title"] for panel in scene.panels}
    assert {title for title, _ in has_data} > configured
    # The config has baselines for some queries only.
    empty = [(title, expr) for (title, expr), is_there in has_data.items() if title in configured and not is_there]
    assert [(title, expr) for title, expr in empty if "_baseline{" not in expr] == []
    names = {name: anything.values(name, {}) for name in anything.variables}
    assert names == {name: scene.values(name, {}) for name in names}


def test_every_panel_has_data_for_any_selection(scene: Scene) -> None:
    """For each selection, a query returns data if and only if the config has its series."""
    responded: dict[str, bool] = {}
    for panel, expr in _targets(scene.panels):
        for choice in scene.choices(expr, panel.get("repeat", "")):
            text = interpolated(expr, choice)
            if text in responded:
                continue
            responded[text] = bool(scene.query(text, {}))
            is_there = is_configured(text, scene.queries)
            if panel["title"] == "Largest increases in 24 hours":
                is_there = not choice["event"] or RISING in choice["event"]
            if panel["title"] == "Largest decreases in 24 hours":  # all other events; staging has none with data
                is_there = choice["workspace"] != ("staging",)
            assert responded[text] == is_there, (panel["title"], choice, text)
    assert len(responded) > 500


def _targets(panels: Sequence[Json]) -> Iterator[tuple[Json, str]]:
    for panel in panels:
        for target in panel["targets"]:
            yield panel, target["expr"]


def test_backfilled_data_is_drawn_without_gaps(scene: Scene) -> None:
    """A gauge with one sample an hour has a value at each step of its chart for the last two days."""
    charts = [(panel, expr) for panel, expr in _targets(scene.panels) if panel["type"] == "timeseries"]
    drawn = [(panel, expr) for panel, expr in charts if "last_over_time" in expr and "end()" not in expr]
    assert len(drawn) > 10
    for panel, expr in drawn:
        step = {"5m": 300, "30m": 1_800}[panel["interval"]]
        values_by_labels = scene.server.query_range(interpolated(expr, {}), scene.at - 48 * HOUR, scene.at, step)
        assert values_by_labels, panel["title"]
        assert {len(values) for values in values_by_labels.values()} == {48 * HOUR // step + 1}, panel["title"]


def test_only_newest_current_bucket_is_drawn(scene: Scene) -> None:
    """A two-day chart shows only the newest bucket in progress; earlier buckets appear with their settled values."""
    for title, step, most in (("${event_hourly}", 300, 12), ("${event_daily}", 1_800, 48)):
        growth = interpolated(scene.panel(title)["targets"][1]["expr"], {})
        values_by_labels = scene.server.query_range(growth, scene.at - 48 * HOUR, scene.at, step)
        assert values_by_labels
        assert {1 <= len(values) <= most for values in values_by_labels.values()} == {True}


def test_panel_values_equal_history(scene: Scene) -> None:
    """The panels show the reported counts of a day and a week, and the changes and shares of the history."""
    purchase = frozenset({"workspace": "production", "event": "purchase"}.items())
    odd = frozenset({"workspace": "production", "event": ODD_NAME}.items())
    day, week, _ = (
        scene.query(scene.panel(title)["targets"][0]["expr"], {})
        for title in (
            "Custom events, reported in 24 hours",
            "Custom events, reported in 7 days",
            "Custom events, rolling 24 hours",
        )
    )
    assert day[purchase] == pytest.approx(24 * BEFORE * RISE, rel=0.05)
    assert day[odd] == pytest.approx(24 * BEFORE * FALL, rel=0.05)
    assert week[purchase] == pytest.approx(24 * BEFORE * (6 + RISE), rel=0.05)
    rose = scene.query(scene.panel("Largest increases in 24 hours")["targets"][0]["expr"], {})
    fell = scene.query(scene.panel("Largest decreases in 24 hours")["targets"][0]["expr"], {})
    events = ("kind", "custom_events")
    assert rose.keys() == {purchase | {events}} | {
        frozenset({"workspace": "staging", "event": RISING, "kind": "custom_events"}.items())
    }
    assert {(item["kind"], item.get("event", "")) for item in map(dict, fell)} == {
        ("custom_events", ODD_NAME),
        ("custom_events", "rare"),
        *(
            (kind, "")
            for kind in ("sessions", "purchases", "revenue", "new_users", "uninstalls", "campaigns", "canvases")
        ),
    }
    assert rose[purchase | {events}] == pytest.approx(RISE - 1, abs=0.1)
    assert fell[odd | {events}] == pytest.approx(FALL - 1, abs=0.1)
    baseline = scene.query(scene.panel("Settled hour compared with baseline")["targets"][0]["expr"], {})
    assert baseline[odd | {events}] == 0.0
    share = scene.query(
        scene.panel("Custom events by app, share of total, settled hour")["targets"][0]["expr"], {"event": ["purchase"]}
    )
    assert set(share.values()) == {0.4}
    assert {dict(labels)["braze_app"] for labels in share} == {"ios"}


def test_messages_are_shown_by_channel_with_outcomes(scene: Scene) -> None:
    """Campaign and Canvas messages are shown by channel and step, and their outcomes as shares of the messages sent."""

    def rendered(title: str, choice: Mapping[str, Sequence[str]], *labels: str) -> dict[tuple[str, ...], float]:
        vector = scene.query(scene.panel(title)["targets"][0]["expr"], choice)
        return {tuple(dict(key)[label] for label in labels): value for key, value in vector.items()}

    assert rendered("Messages sent, settled day", {}, "campaign") == {(CAMPAIGN.name,): 2_400 + 1_920}
    by_channel = "Campaign messages by channel, settled day"
    assert rendered(by_channel, {}, "channel") == {("email",): 2_400, ("in_app_message",): 1_920}
    assert rendered(by_channel, {"channel": ["email"]}, "channel") == {("email",): 2_400}
    outcomes = rendered("Campaign messages, outcomes, settled day", {}, "channel", "stat")
    assert outcomes["email", "opens"] == 983 / 2_400
    assert outcomes["in_app_message", "clicks"] == 480 / 1_920
    assert not {"sent", "impressions", "unique_opens"} & {stat for _, stat in outcomes}
    assert rendered("Canvas messages by step and channel, settled day", {}, "step", "channel") == {
        ("Welcome", "email"): 2_400,
        ("Reminder", "ios_push"): 600,
    }


def test_failures_are_visible(scene: Scene) -> None:
    """Panels show failed requests by reason and by status, deferred requests and failed queries."""
    reasons = scene.query(scene.panel("Failed requests")["targets"][0]["expr"], {})
    assert {dict(labels)["reason"] for labels in reasons} >= {"server_error", "connection", "rate_limited"}
    codes = scene.query(scene.panel("Requests to Braze")["targets"][0]["expr"], {})
    assert {dict(labels)["code"] for labels in codes} >= {"200", "503", "429", "none"}
    assert max(scene.query(scene.panel("Deferred requests")["targets"][0]["expr"], {}).values()) > 0
    failed = [scene.query(target["expr"], {}) for target in scene.panel("Failed queries")["targets"]]
    assert sum(map(len, failed)) == len(scene.queries) - count_slow_queries(scene.queries)
    assert scene.query(scene.panel("Queries up")["targets"][0]["expr"], {}) == {
        frozenset(): count_slow_queries(scene.queries) / len(scene.queries)
    }
    assert scene.query(scene.panel("Rate limit remaining")["targets"][0]["expr"], {}) == {frozenset(): 0.0}
    assert scene.query(scene.panel("Time zone")["targets"][0]["expr"], {}) == {frozenset(): 0.0}
