"""End to end: every query of the dashboard is run against a real Prometheus, for every choice, and returns data.

Prometheus holds fifteen days of the exporter's series, one sample an hour, and then scrapes the program in trouble.
What Grafana does to a query is done here as its sources do it. Needs `prometheus` and `promtool`, as `test_prometheus`.
"""

import json
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from servers import Labels, Prometheus, backfill, prometheus, tool
from support import HOUR, IOS, KEY, NEW_YORK, VIP, Page, Program, run, until, workspace, workspace_item, write

from braze_exporter import demo
from braze_exporter.catalog import GAUGES, Query, Unit, counter, gauge
from braze_exporter.config import load
from braze_exporter.own import TIMEZONE_MISMATCH
from braze_exporter.plan import build

# Quotes, what a regular expression is made of, and a letter of four bytes: Grafana has to bring it to Prometheus whole.
ODD = r'sign "up" (a|b) \d+ 🎉'
EVENTS = """
{event: purchase, apps: [all, ios], segments: [all, vip], baseline: {weeks: 1}}
{event: purchase, unit: day, apps: [all, ios], baseline: {weeks: 1}}
{event: 'sign "up" (a|b) \\d+ 🎉', baseline: {weeks: 1}}
{event: rare, unit: day}
"""
STAGING = """
{event: purchase}
{event: only_ios, apps: [ios]}
"""
RISING = "purchase"
# In the history, what happens in an hour, and by how much that changed a day ago.
BEFORE, RISE, FALL = 100, 2.0, 0.5

Json = dict[str, Any]


class Shop(demo.Recorded):
    """The same in each hour, but for apps and segments."""

    def __init__(self) -> None:
        super().__init__(events=["purchase", ODD, "rare", "only_ios"])
        self.this_hour = int(time.time()) // HOUR * HOUR
        for back in range(-2, 26 * 24):
            for event in self.events:
                self.set(event, self.this_hour - back * HOUR, 100)
                self.set(event, self.this_hour - back * HOUR, 40, IOS)
                self.set(event, self.this_hour - back * HOUR, 25, "", VIP)
                self.set(event, self.this_hour - back * HOUR, 10, IOS, VIP)


@dataclass(frozen=True)
class Scene:
    """What there is to look at, and when it was like that."""

    server: Prometheus
    board: Json
    queries: tuple[Query, ...]
    at: float

    @property
    def panels(self) -> list[Json]:
        """All panels but the headings."""
        return [panel for panel in self.board["panels"] if panel["type"] != "row"]

    @property
    def variables(self) -> dict[str, str]:
        """The variables that list values of labels, each with its query, those first that others depend on."""
        return {item["name"]: item["query"] for item in self.board["templating"]["list"] if item["type"] == "query"}

    def values(self, variable: str, choice: Mapping[str, Sequence[str]]) -> list[str]:
        """Return what a variable lists under a choice in those before it."""
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", self.variables[variable])
        assert found
        return self.server.label_values(found[2], interpolated(found[1], choice))

    def choices(self) -> Iterator[dict[str, Sequence[str]]]:
        """Yield everything that can be chosen: All or one of each variable in sight, and two events."""
        names = [name for name in self.variables if not name.startswith("event_")]
        listed = [self.values(name, {}) for name in names]
        offers = [[(), *((value,) for value in values)] for values in listed]
        offers[names.index("event")].append(("purchase", ODD))
        for values in product(*offers):
            yield dict(zip(names, values, strict=True))

    def ask(self, expr: str, choice: Mapping[str, Sequence[str]]) -> dict[Labels, float]:
        """Return what Prometheus says to a query under a choice, without what is not a number."""
        found = self.server.query(interpolated(expr, choice), self.at)
        return {labels: value for labels, value in found.items() if not math.isnan(value)}

    def panel(self, title: str) -> Json:
        """Return a panel by its title."""
        found: Json = next(panel for panel in self.panels if panel["title"] == title)
        return found


def interpolated(text: str, choice: Mapping[str, Sequence[str]]) -> str:
    """Return a query as Grafana would send it. What is not in `choice`, or empty there, is All."""

    def replace(found: re.Match[str]) -> str:
        values = choice.get(found[1], ())
        escaped = [re.sub(r"[\\^$.*+?()\[\]{}|]", r"\\\g<0>", value) for value in values]
        return ".+" if not escaped else escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"

    return re.sub(r"\$\{(\w+):regex\}", replace, text).replace("$__rate_interval", "1m")


def is_configured(expr: str, queries: Sequence[Query]) -> bool:
    """Return whether the config has what a query asks for: for some subject, each of its series."""
    wanted = []
    for name, inside in re.findall(r"(\w*)\{((?:[^{}`\"]|`[^`]*`|\"[^\"]*\")*)\}", expr):
        matchers = {
            label: quoted or (plain if sign == "=~" else re.escape(plain))
            for label, sign, quoted, plain in re.findall(r"(\w+)(=~|=)(?:`([^`]*)`|\"([^\"]*)\")", inside)
        }
        wanted.append({"__name__": name, **matchers})
    return any(
        all(any(_matches(query, matchers) for query in queries if query.subject == subject) for matchers in wanted)
        for subject in {query.subject for query in queries}
    )


def _matches(query: Query, matchers: Mapping[str, str]) -> bool:
    """Return whether a query has a series like that; of the exporter's own only the workspace is looked at."""
    labels, of = dict(query.labels), (query.kind, query.noun)
    names = [gauge(*of, query.unit, measure).name for measure in GAUGES if measure != "baseline" or query.weeks]
    names += [counter(*of).name] if not query.segment_id else []
    if not matchers["__name__"].startswith("braze_custom_events"):
        if matchers["__name__"] == TIMEZONE_MISMATCH.name and query.unit is not Unit.DAY:
            return False
        return bool(re.fullmatch(matchers.get("workspace", ".*"), query.workspace))
    return any(re.fullmatch(matchers["__name__"], name) for name in names) and all(
        re.fullmatch(pattern, labels.get(label, "")) for label, pattern in matchers.items() if label != "__name__"
    )


def history(page: Page, instance: str, end: float, days: int) -> Iterator[str]:
    """Yield what Prometheus would have kept of the series of `page`, one sample an hour, as OpenMetrics.

    Counters of events rise by `BEFORE` an hour, and by more or less of it in the last day; histograms and other
    counters rise by one; what is a time is as long ago as it is now; all else stays as it is.
    """
    for (name, labels), value in sorted(page.samples.items(), key=lambda item: (item[0][0], sorted(item[0][1]))):
        if not name.startswith("braze_"):
            continue
        pairs = {**dict(labels), "job": "braze", "instance": instance}
        shown = ",".join(f"{label}={json.dumps(text, ensure_ascii=False)}" for label, text in pairs.items() if text)
        total = 0.0
        for hour in range(days * 24, -1, -1):
            rise = 1.0
            if name.startswith("braze_custom_events"):
                rise = BEFORE * (1 if hour >= 24 else RISE if pairs["event"] == RISING else FALL)
            total += rise
            is_count = name.endswith(("_total", "_bucket", "_count", "_sum"))
            was = total if is_count else value - hour * HOUR if name.endswith("_timestamp_seconds") else value
            yield f"{name}{{{shown}}} {was} {end - hour * HOUR}\n"
    yield "# EOF\n"


def midday() -> ZoneInfo:
    """Return a zone where it is about noon, so that nothing is unclear around midnight."""
    return ZoneInfo(f"Etc/GMT{time.gmtime().tm_hour - 12:+d}")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Let the exporter run well, then let Braze answer 503, break connections and send 429, and look at that moment."""
    tool("prometheus")
    directory, shop, zone = tmp_path_factory.mktemp("dashboard"), Shop(), midday()
    braze = demo.SimulatedBraze(key=KEY, traffic=shop, clock=time.time, zone=zone, apps=(IOS,), segments=(VIP,))
    with ExitStack() as stack:
        url = stack.enter_context(demo.serve(braze)).url
        text = workspace(url, EVENTS) + workspace_item(url, STAGING, name="staging")
        text = text.replace(str(NEW_YORK), str(zone)) + "refresh: {hour: 2s, day: 2s}\nbudget: {share: 0.5}\n"
        option = f"--config.file={write(directory / 'config.yaml', text)}"
        board = json.loads(run("dashboard", option).stdout)
        queries = build(load(text, "config.yaml")).queries
        program = stack.enter_context(Program.start([option]))
        until(lambda: is_well(program.scrape(), queries), "all queries are answered, and what is usual is known")
        until(lambda: has_revised(program.scrape(), shop), "Braze has revised an hour")
        lines = history(program.scrape(), f"127.0.0.1:{program.port}", int(time.time()) - 60, days=15)
        (directory / "prometheus").mkdir()
        backfill(write(directory / "history.txt", "".join(lines)), directory / "prometheus/data")
        server = stack.enter_context(prometheus(directory / "prometheus", program.port))
        until(server.answers, "Prometheus has scraped", 60)
        braze.fail(demo.faults.status(503))
        until(lambda: server.query('sum({__name__=~"braze_.+ly_up"})') == {frozenset(): 0.0}, "nothing is answered")
        braze.fail(demo.faults.disconnect(), times=3)
        braze.fail(demo.faults.rate_limited())
        troubles = "sum(braze_api_requests_total{code='429'}) > 0 and sum(braze_api_requests_deferred_total) > 5"
        until(lambda: bool(server.query(troubles)), "calls are put off after a 429")
        yield Scene(server, board, queries, time.time())


def is_well(page: Page, queries: Sequence[Query]) -> bool:
    """Return whether all queries are up, and all baselines are there."""
    ups = [value for (name, _), value in page.samples.items() if name.endswith("ly_up")]
    usual = [name for name, _ in page.samples if name.endswith("_baseline")]
    return ups == [1.0] * len(queries) and len(usual) == sum(query.weeks > 0 for query in queries)


def has_revised(page: Page, shop: Shop) -> bool:
    """Return whether the exporter has seen an hour change after its end, and change one."""
    hour = shop.this_hour - 5 * HOUR
    shop.set("purchase", hour, shop.count("purchase", hour, 0) + 1)
    return sum(page.of("braze_revision_age_seconds_count")) > 0


def test_the_variables_list_what_is_configured(scene: Scene) -> None:
    """Workspaces, events, apps and segments by what is chosen before, and the subjects of each unit."""
    assert list(scene.variables) == ["workspace", "event", "app", "segment", "event_hourly", "event_daily"]
    listed = {name: scene.values(name, {}) for name in scene.variables}
    assert listed == {
        "workspace": ["production", "staging"],
        "event": sorted(["purchase", ODD, "rare", "only_ios"]),
        "app": ["ios"],
        "segment": ["vip"],
        "event_hourly": sorted(["purchase", ODD]),
        "event_daily": ["purchase", "rare"],
    }
    assert scene.values("event", {"workspace": ["staging"]}) == ["only_ios", "purchase"]
    assert scene.values("app", {"event": ["rare"]}) == []
    assert scene.values("event_hourly", {"event": [ODD, "rare"]}) == [ODD]


def test_every_panel_has_data_with_everything_chosen(scene: Scene) -> None:
    """Each query of each panel returns numbers in a moment when much is wrong."""
    empty = [(panel["title"], expr) for panel, expr in _targets(scene.panels) if not scene.ask(expr, {})]
    assert empty == []


def test_every_panel_has_the_data_that_any_choice_can_have(scene: Scene) -> None:
    """For each choice a query returns numbers if, and only if, the config has the series it asks for."""
    choices = list(scene.choices())
    assert len(choices) == 3 * 6 * 2 * 2
    answered: dict[str, bool] = {}
    for choice in choices:
        changed = []
        for panel, expr in _targets(scene.panels):
            repeat = panel.get("repeat", "")
            for value in scene.values(repeat, choice) if repeat else [""]:
                text = interpolated(expr, {**choice, repeat: (value,)})
                if text not in answered:
                    answered[text] = bool(scene.ask(text, {}))
                is_there = is_configured(text, scene.queries)
                if panel["title"] in {"Fell most in 24 h", "Rose most in 24 h"}:
                    changed.append((answered[text], is_there))
                else:
                    assert answered[text] == is_there, (panel["title"], choice, text)
        assert any(found for found, _ in changed) == any(is_there for _, is_there in changed), choice
    assert len(answered) > 300


def _targets(panels: Sequence[Json]) -> Iterator[tuple[Json, str]]:
    for panel in panels:
        for target in panel["targets"]:
            yield panel, target["expr"]


def test_what_was_backfilled_is_drawn_without_gaps(scene: Scene) -> None:
    """A gauge with a sample an hour has a value at each point of its chart, from two days ago until now."""
    charts = [(panel, expr) for panel, expr in _targets(scene.panels) if panel["type"] == "timeseries"]
    drawn = [(panel, expr) for panel, expr in charts if "last_over_time" in expr and "end()" not in expr]
    assert len(drawn) > 10
    for panel, expr in drawn:
        step = {"5m": 300, "30m": 1_800}[panel["interval"]]
        found = scene.server.query_range(interpolated(expr, {}), scene.at - 48 * HOUR, scene.at, step)
        assert found, panel["title"]
        assert {len(values) for values in found.values()} == {48 * HOUR // step + 1}, panel["title"]


def test_of_the_buckets_in_progress_only_the_newest_is_drawn(scene: Scene) -> None:
    """Its growth ends a chart of two days; those before it are seen as they settled."""
    for title, step, most in (("${event_hourly}", 300, 12), ("${event_daily}", 1_800, 48)):
        growth = interpolated(scene.panel(title)["targets"][1]["expr"], {})
        found = scene.server.query_range(growth, scene.at - 48 * HOUR, scene.at, step)
        assert found
        assert {1 <= len(values) <= most for values in found.values()} == {True}


def test_the_numbers_are_those_of_the_history(scene: Scene) -> None:
    """What Braze reported in a day and a week, what rose and fell by how much, and what is what share of it."""
    purchase = frozenset({"workspace": "production", "event": "purchase"}.items())
    odd = frozenset({"workspace": "production", "event": ODD}.items())
    day, week, _ = (
        scene.ask(scene.panel(title)["targets"][0]["expr"], {})
        for title in ("Reported in 24 hours", "Reported in 7 days", "Reported in the 24 h before")
    )
    assert day[purchase] == pytest.approx(24 * BEFORE * RISE, rel=0.05)
    assert day[odd] == pytest.approx(24 * BEFORE * FALL, rel=0.05)
    assert week[purchase] == pytest.approx(24 * BEFORE * (6 + RISE), rel=0.05)
    rose = scene.ask(scene.panel("Rose most in 24 h")["targets"][0]["expr"], {})
    fell = scene.ask(scene.panel("Fell most in 24 h")["targets"][0]["expr"], {})
    assert {dict(labels)["event"] for labels in rose} == {RISING}
    assert {dict(labels)["event"] for labels in fell} == {ODD, "rare"}
    assert rose[purchase] == pytest.approx(RISE - 1, abs=0.1)
    assert fell[odd] == pytest.approx(FALL - 1, abs=0.1)
    usual = scene.ask(scene.panel("Settled hour against usual")["targets"][0]["expr"], {})
    assert usual[odd] == 0.0
    share = scene.ask(scene.panel("Share of all by app, settled hour")["targets"][0]["expr"], {"event": ["purchase"]})
    assert set(share.values()) == {0.4}
    assert {dict(labels)["braze_app"] for labels in share} == {"ios"}


def test_what_is_wrong_is_seen(scene: Scene) -> None:
    """The errors are there by reason and by status, with the calls that were put off and the queries not answered."""
    errors = scene.ask(scene.panel("Errors")["targets"][0]["expr"], {})
    assert {dict(labels)["reason"] for labels in errors} >= {"server_error", "connection", "rate_limited"}
    calls = scene.ask(scene.panel("Calls to Braze")["targets"][0]["expr"], {})
    assert {dict(labels)["code"] for labels in calls} >= {"200", "503", "429", "none"}
    assert max(scene.ask(scene.panel("Calls put off")["targets"][0]["expr"], {}).values()) > 0
    unanswered = [scene.ask(target["expr"], {}) for target in scene.panel("Not answered")["targets"]]
    assert sum(map(len, unanswered)) == len(scene.queries)
    assert scene.ask(scene.panel("Queries up")["targets"][0]["expr"], {}) == {frozenset(): 0.0}
    assert scene.ask(scene.panel("Rate limit left")["targets"][0]["expr"], {}) == {frozenset(): 0.0}
    assert scene.ask(scene.panel("Time zone")["targets"][0]["expr"], {}) == {frozenset(): 0.0}
