"""Test end to end that every query of the dashboards returns data from a real Prometheus for every selection.

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
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import response_faults
import transfer_faults
from dashboards import panels
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
from wsgi_server import serve

from braze_exporter.braze.query import Query
from braze_exporter.config.loading import load_config
from braze_exporter.metrics.self_families import REVISION_DELAY
from braze_exporter.scheduler.plan import build_plan
from braze_exporter.simulator.inventory import Campaign, Canvas, Inventory

pytestmark = pytest.mark.no_cover

# Has quotes, regex characters, a newline and a four-byte letter, which Grafana has to pass to Prometheus unchanged.
ODD_NAME = 'sign "up" (a|b) \\d+ 🎉\nnow'
EVENTS = f"""
{{event: purchase, apps: [all, ios], segments: [all, vip], baseline: {{weeks: 1}}}}
{{event: purchase, unit: day, apps: [all, ios], baseline: {{weeks: 1}}}}
{{event: {json.dumps(ODD_NAME, ensure_ascii=False)}, baseline: {{weeks: 1}}}}
{{event: rare, unit: day}}
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
{event: misspelled}
"""
RISING = "purchase"
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
    """Holds the Prometheus server, the dashboards, the queries and the time to evaluate them at."""

    server: Prometheus
    boards: Mapping[str, Json]
    queries: tuple[Query, ...]
    at: float

    @property
    def targets(self) -> Iterator[tuple[Json, str]]:
        """Yield all queries of the dashboards with their panels, those of collapsed rows included."""
        for board in self.boards.values():
            for panel in panels(board):
                yield from ((panel, target["expr"]) for target in panel["targets"])

    @property
    def variables(self) -> dict[str, str]:
        """Return the query of each variable that lists label values."""
        items = self.boards["braze"]["templating"]["list"]
        return {item["name"]: item["query"] for item in items if item["type"] == "query"}

    def values(self, variable: str, choice: Mapping[str, Sequence[str]]) -> list[str]:
        """Return the values of a variable under the selection in the other variables."""
        match = re.fullmatch(r"label_values\((.+), (\w+)\)", self.variables[variable])
        assert match
        selector = match[1] if "{" in match[1] else f"{match[1]}{{}}"
        return self.server.label_values(match[2], interpolated(selector, choice))

    def query(self, expr: str, choice: Mapping[str, Sequence[str]]) -> dict[Labels, float]:
        """Return the instant vector of a query for a choice of variables, without NaN values."""
        vector = self.server.query(interpolated(expr, choice), self.at)
        return {labels: value for labels, value in vector.items() if not math.isnan(value)}

    def results(self, title: str, ref: str = "A", **choice: Sequence[str]) -> dict[Labels, float]:
        """Return the result of a query of a panel."""
        found = (panel for board in self.boards.values() for panel in panels(board) if panel["title"] == title)
        targets = {target["refId"]: target["expr"] for target in next(found)["targets"]}
        return self.query(targets[ref], choice)


def interpolated(text: str, choice: Mapping[str, Sequence[str]]) -> str:
    """Return a query as Grafana sends it. A variable that is missing or empty in `choice` means All."""

    def replace(match: re.Match[str]) -> str:
        values = choice.get(match[1], ())
        escaped = [re.sub(r"[\\^$.*+?()\[\]{}|]", r"\\\g<0>", value) for value in values]
        return "(?s:.+)" if not escaped else escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"

    return re.sub(r"\$\{(\w+):regex\}", replace, text).replace("$__rate_interval", "1m")


def history(page: MetricsPage, instance: str, end: float, days: int) -> Iterator[str]:
    """Yield samples of the series of `page` for the last `days`, one an hour, as OpenMetrics lines.

    Counters of Braze's data rise by `BEFORE` an hour, and by `RISE` or `FALL` times that in the last day. Histograms
    and other counters rise by one. All end at the value of the page. Timestamps keep their age, and other values stay
    the same. An alert fires.
    """
    alert = 'alertname="BrazeEventDrop",workspace="production",event="purchase",severity="critical"'
    yield f'ALERTS{{{alert},alertstate="firing"}} 1 {end}\n'
    yield f"ALERTS_FOR_STATE{{{alert}}} {end - HOUR} {end}\n"
    for (name, labels), value in sorted(page.samples.items(), key=lambda item: (item[0][0], sorted(item[0][1]))):
        if not name.startswith("braze_"):
            continue
        pairs = {**dict(labels), "job": "braze", "instance": instance}
        label_pairs = ",".join(
            f"{label}={json.dumps(text, ensure_ascii=False)}" for label, text in pairs.items() if text
        )
        is_own = name.startswith(("braze_api", "braze_exporter", REVISION_DELAY.name))
        is_count = name.endswith(("_total", "_bucket", "_count", "_sum"))
        last_day = BEFORE * (RISE if pairs.get("event") == RISING else FALL)
        for hour in range(days * 24, -1, -1):
            rise = hour if is_own else last_day * min(hour, 24) + BEFORE * max(hour - 24, 0)
            age = hour * HOUR if name.endswith("_timestamp_seconds") else rise if is_count else 0
            yield f"{name}{{{label_pairs}}} {value - age} {end - hour * HOUR}\n"
    yield "# EOF\n"


def zone_at_noon() -> ZoneInfo:
    """Return a time zone where it is about noon, so that no bucket changes at midnight during the test."""
    return ZoneInfo(f"Etc/GMT{time.gmtime().tm_hour - 12:+d}")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Run the exporter until it is healthy, then inject 503, disconnects and 429, and return the resulting state."""
    require_tool("prometheus")
    wait_until(lambda: time.time() % HOUR < HOUR - 40, "the current hour does not end during the test", 60)
    directory, shop, zone = tmp_path_factory.mktemp("dashboard"), SteadyTraffic(), zone_at_noon()
    braze = FaultInjectingBraze(key=KEY, traffic=shop, clock=time.time, zone=zone, apps=(IOS,), segments=(VIP,))
    braze.series_counts = steady_counts(shop.this_hour)
    braze.inventory = Inventory(campaigns=(CAMPAIGN,), canvases=(CANVAS,))
    with ExitStack() as stack:
        url = stack.enter_context(serve(braze)).url
        text = workspace_yaml(url, EVENTS) + OTHER_SECTIONS + workspace_item_yaml(url, STAGING, name="staging")
        text = text.replace(str(NEW_YORK), str(zone)) + "refresh_interval: {hour: 2s, day: 2s}\nbudget: {share: 0.5}\n"
        option = f"--config.file={write_file(directory / 'config.yaml', text)}"
        boards = {
            view: json.loads(run_program("dashboard", option, f"--view={view}").stdout)
            for view in ("braze", "exporter")
        }
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
        # The first request with a code starts a series. Its rate exists from the second scrape on.
        codes = "count(sum by (code) (rate(braze_api_requests_total{code=~'429|none'}[1m]))) == 2"
        problems = f"{codes} and sum(braze_api_requests_deferred_total) > 5"
        wait_until(lambda: bool(server.query(problems)), "requests are deferred after a 429")
        yield Scene(server, boards, queries, time.time())


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
    """Each variable lists the configured values of the selected workspaces."""
    assert {name: scene.values(name, {}) for name in scene.variables} == {
        "workspace": ["production", "staging"],
        "event": sorted(["purchase", ODD_NAME, "rare", "only_ios", "misspelled"]),
        "app": ["ios"],
        "campaign": [CAMPAIGN.name],
        "canvas": [CANVAS.name],
    }
    assert scene.values("event", {"workspace": ["staging"]}) == ["misspelled", "only_ios", "purchase"]
    assert scene.values("campaign", {"workspace": ["staging"]}) == []


def test_every_panel_has_data_with_all_selected(scene: Scene) -> None:
    """With All selected, each query of each panel returns data while much is failing, also without a config."""
    no_data = [(panel["title"], expr) for panel, expr in scene.targets if not scene.query(expr, {})]
    # No write failed, and the config has no selectors.
    assert {title for title, _ in no_data} == {"Incomplete scrapes and failed writes", "Lists and selectors"}
    anything = Scene(scene.server, {"braze": json.loads(run_program("dashboard").stdout)}, scene.queries, scene.at)
    assert anything.variables == scene.variables
    configured = {panel["title"] for panel, _ in scene.targets}
    titles = {panel["title"] for panel, _ in anything.targets}
    assert titles > {panel["title"] for panel in panels(scene.boards["braze"])}
    # The config has baselines for some queries only.
    empty = [
        (panel["title"], expr)
        for panel, expr in anything.targets
        if panel["title"] in configured and "_baseline{" not in expr and not scene.query(expr, {})
    ]
    assert empty == []


def test_selection_limits_every_panel(scene: Scene) -> None:
    """Each value of each variable limits each query to it, and gives the same series as All does for that value."""
    names = {"app": "braze_app"}
    checked = 0
    for panel, expr in scene.targets:
        for name in scene.variables:
            label = names.get(name, name)
            if f"${{{name}:regex}}" not in expr or panel["title"] == "Firing alerts":
                continue
            everything = scene.query(expr, {})
            for value in scene.values(name, {}):
                found = scene.query(expr, {name: [value]})
                if not re.search("(top|bottom)k", expr) and any(label in dict(labels) for labels in everything):
                    expected = {labels for labels in everything if dict(labels).get(label, value) == value}
                    assert found.keys() == expected, (panel["title"], name, value)
                checked += 1
    assert checked > 300


def test_backfilled_data_is_drawn_without_gaps(scene: Scene) -> None:
    """A gauge with one sample an hour has a value at each step of its chart for the last two days."""
    charts = [(panel, expr) for panel, expr in scene.targets if panel["type"] == "timeseries"]
    drawn = [(panel, expr) for panel, expr in charts if "last_over_time" in expr]
    assert len(drawn) > 10
    for panel, expr in drawn:
        step = {"5m": 300, "1h": 3_600}[panel["interval"]]
        values_by_labels = scene.server.query_range(interpolated(expr, {}), scene.at - 48 * HOUR, scene.at, step)
        assert values_by_labels, panel["title"]
        assert {len(values) for values in values_by_labels.values()} == {48 * HOUR // step + 1}, panel["title"]


def test_panel_values_equal_history(scene: Scene) -> None:
    """The panels show the reported counts of a day and a week, and the changes of the history."""
    kind = ("kind", "Custom events")

    def key(event: str, *more: tuple[str, str], workspace: str = "production") -> Labels:
        return frozenset({("workspace", workspace), ("event", event), ("subject", event), *more})

    hourly = {ref: scene.results("Custom events, hourly", ref) for ref in "ABCDEF"}
    assert hourly["E"][key(RISING)] == pytest.approx(24 * BEFORE * RISE, rel=0.05)
    assert hourly["F"][key(RISING)] == pytest.approx(RISE, rel=0.05)
    assert hourly["E"][key(ODD_NAME)] == pytest.approx(24 * BEFORE * FALL, rel=0.05)
    assert hourly["A"][key(RISING)] == hourly["B"][key(RISING)] == 100
    assert hourly["C"][key(RISING)] == 1
    week = scene.results("What Braze reported", "C", event=[RISING], workspace=["production"])
    production = frozenset({("workspace", "production"), kind})
    assert week[production] == pytest.approx(24 * BEFORE * (6 + RISE), rel=0.05)
    rose, fell = scene.results("Rose most", "B"), scene.results("Fell most", "B")
    ios = ("braze_app", "ios")
    assert rose.keys() == {
        key(RISING, kind),
        key(RISING, kind, ios),
        key(RISING, kind, workspace="staging"),
    }
    assert rose[key(RISING, kind)] == pytest.approx(RISE, rel=0.05)
    assert len(fell) == 10  # at most
    assert [*fell.values()] == pytest.approx([FALL] * 10, rel=0.05)
    odd = scene.results("Fell most", "B", event=[ODD_NAME])
    assert odd[key(ODD_NAME, kind)] == pytest.approx(FALL, rel=0.05)
    assert scene.results("Fell most", "A", event=[ODD_NAME]).keys() == odd.keys()


def test_messages_are_shown_by_channel_with_outcomes(scene: Scene) -> None:
    """Campaigns and Canvases have their messages, outcomes and revenue, and messages by channel."""

    def rendered(title: str, ref: str, *labels: str) -> dict[tuple[str, ...], float]:
        vector = scene.results(title, ref)
        return {tuple(dict(key)[label] for label in labels): value for key, value in vector.items()}

    table = "Campaigns, newest settled day"
    each = {ref: rendered(table, ref, "subject") for ref in "ABCDEFG"}
    assert each["A"] == {(CAMPAIGN.name,): 2_400 + 1_920}
    assert each["B"] == {(CAMPAIGN.name,): int(2_400 * 0.985)}
    assert each["C"] == {(CAMPAIGN.name,): 983 + 0}
    assert each["E"] == {(CAMPAIGN.name,): 72}
    assert each["F"] == {(CAMPAIGN.name,): 72 * 49.5}
    by_channel = rendered("Campaigns: messages by channel, settled day", "A", "channel")
    assert by_channel == {("email",): 2_400, ("in_app_message",): 1_920}
    outcomes = rendered("Campaigns: outcomes by channel, newest settled day", "A", "channel", "stat")
    assert outcomes["email", "opens"] == 983
    assert outcomes["in_app_message", "clicks"] == 480
    assert "unique_opens" not in {stat for _, stat in outcomes}
    assert rendered("Canvases, newest settled day", "E", "subject") == {(CANVAS.name,): 2_400}


def test_failures_are_visible(scene: Scene) -> None:
    """Panels show failed requests by reason and by status, deferred requests, failing and unlisted queries."""
    assert {dict(labels)["subject"] for labels in scene.results("Firing alerts")} == {"purchase"}
    for board in scene.boards.values():
        (annotations,) = board["annotations"]["list"]
        assert {dict(labels)["alertname"] for labels in scene.query(annotations["expr"], {})} == {"BrazeEventDrop"}
    reasons = scene.results("Failed requests")
    assert {dict(labels)["reason"] for labels in reasons} >= {"server_error", "connection", "rate_limited"}
    assert {dict(labels)["code"] for labels in scene.results("Requests to Braze")} >= {"200", "503", "429", "none"}
    assert max(scene.results("Deferred requests").values()) > 0
    slow = count_slow_queries(scene.queries)
    assert len(scene.results("Failing queries")) == len(scene.queries) - slow
    assert scene.results("Queries up") == {frozenset(): slow / len(scene.queries)}
    assert scene.results("Rate limit left") == {frozenset(): 0.0}
    assert scene.results("Exporter") == {frozenset(): 1}
    assert scene.results("API key") == scene.results("Stale queries") == {frozenset(): 0}
    assert scene.results("Config, state") == {frozenset(): 0}
    problems = {(dict(each)["subject"], dict(each)["problem"]) for each in scene.results("Unlisted and skipped")}
    assert problems == {(name, "not in Braze's list") for name in ("misspelled", "Mug")}
    assert scene.results("List problems") == {frozenset(): 2}
