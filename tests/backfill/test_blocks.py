"""Test a backfill end to end: promtool creates blocks from the file, and a real Prometheus serves Braze's counts.

The same Prometheus scrapes the exporter, so backfilled and scraped samples must form one series. Needs the tools
`prometheus` and `promtool`, as `test_prometheus` does.
"""

import itertools
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from datetime import time as clock_time
from pathlib import Path

import pytest
from backfills import backfill_arguments
from servers import Labels, Prometheus, require_tool, running_prometheus
from support import (
    HOUR,
    IOS,
    KEY,
    NEW_YORK,
    Program,
    run_program,
    running_braze,
    wait_until,
    workspace_yaml,
    write_file,
)

from braze_exporter.config.loading import load_config
from braze_exporter.monitoring.series_groups import series_groups
from braze_exporter.scheduler.plan import build_plan
from braze_exporter.simulator.traffic import Counts, Traffic, TrafficShape

pytestmark = pytest.mark.no_cover

ODD_NAME = 'sign "up" (a|b) \\d+ 🎉'
EVENTS = """
{event: purchase, apps: [all, ios]}
{event: purchase, unit: day}
{event: 'sign "up" (a|b) \\d+ 🎉'}
{event: rare, unit: day}
"""
HOURLY, DAILY = "braze_custom_events_hourly_settled", "braze_custom_events_daily_settled"
TOTAL, BY_APP = "braze_custom_events_total", "braze_custom_events_by_app"
# A year of days includes both days on which DST changes.
DAYS, MIDNIGHT = 370, clock_time()


@dataclass(frozen=True)
class Scene:
    """Holds Braze's counts, the Prometheus server with the backfilled blocks, and the span of the backfill."""

    traffic: Counts
    server: Prometheus
    start: float
    end: float
    instructions: str
    config: str

    @property
    def fetched_at(self) -> float:
        """Return the approximate time of the fetches, in Unix seconds; by then, all hours were final."""
        return self.end + 3 * HOUR

    def raw(self, metric: str) -> dict[Labels, list[tuple[float, float]]]:
        """Return all samples of a metric up to the end of the span, as Prometheus stores them."""
        data = self.server.request("query", query=f"{metric}[{2 * DAYS}d]", time=str(self.end))
        return {
            frozenset((name, value) for name, value in series["metric"].items() if name != "__name__"): [
                (float(stamp), float(value)) for stamp, value in series["values"]
            ]
            for series in data["result"]
        }

    def hours(self, event: str, app_id: str = "") -> list[tuple[float, float]]:
        """Return the expected time and count of each hour of the span."""
        starts = range(int(self.start), int(self.end), HOUR)
        return [
            (start + 2.0 * HOUR, float(self.traffic.count(event, start, self.fetched_at, app_id)))
            for start in starts
            if start + 2 * HOUR < self.end
        ]

    def days(self, event: str) -> list[tuple[float, float]]:
        """Return the expected time and count of each local day of the span."""
        first = datetime.fromtimestamp(self.start, NEW_YORK).date()
        return [
            (after + 2.0 * HOUR, count) for _, after, count in self._days(event, first) if after + 2 * HOUR < self.end
        ]

    def _days(self, event: str, first: date) -> Iterator[tuple[float, float, float]]:
        for back in range(DAYS + 1):
            started, ended = (
                datetime.combine(first + timedelta(days=back + more), MIDNIGHT, NEW_YORK).timestamp() for more in (0, 1)
            )
            hours = range(int(started), int(ended), HOUR)
            yield started, ended, float(sum(self.traffic.count(event, hour, self.fetched_at) for hour in hours))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Backfill a year, create blocks with the printed command, and let Prometheus scrape the exporter afterwards."""
    require_tool("promtool")
    directory = tmp_path_factory.mktemp("blocks")
    shapes = {"purchase": TrafficShape(400, apps={IOS: 0.4}), ODD_NAME: TrafficShape(50), "rare": TrafficShape(0.02)}
    traffic = Traffic(7, NEW_YORK, shapes)
    today = datetime.now(NEW_YORK).date()
    start = datetime.combine(today - timedelta(days=DAYS), MIDNIGHT, NEW_YORK).timestamp()
    end = time.time() // HOUR * HOUR - 4 * HOUR + 600
    with ExitStack() as stack:
        _, server = stack.enter_context(running_braze(traffic))
        text = workspace_yaml(server.url, EVENTS, extra_yaml="budget: {share: 1, reserve: 0}\n")
        config = write_file(directory / "config.yaml", text)
        live = stack.enter_context(Program.start([f"--config.file={config}"]))
        labels = ("--label=job=braze", f"--label=instance=127.0.0.1:{live.port}")
        command = backfill_arguments(config, directory / "a year.om", f"{today - timedelta(days=DAYS)}", str(end))
        done = run_program(*(part for part in command if not part.startswith("--label")), *labels, BRAZE_API_KEY=KEY)
        assert done.returncode == 0, done.stderr
        script = ["sh", "-ec", done.stdout]
        environment = {"DATA": str(directory / "server" / "data"), "PATH": str(Path(require_tool("promtool")).parent)}
        subprocess.run(script, env=environment, check=True, capture_output=True)  # noqa: S603
        retention = done.stdout.partition("--storage.tsdb.retention.time=")[2].partition(" ")[0]
        flags = [f"--storage.tsdb.retention.time={retention}"]
        running = stack.enter_context(running_prometheus(directory / "server", live.port, flags=flags))
        wait_until(running.is_responding, "Prometheus has scraped", 60)
        yield Scene(traffic, running, start, end, done.stdout, text)


def series_labels(scene: Scene, **labels: str) -> Mapping[str, str]:
    """Return the labels of a series, including those of the scrape target."""
    target = next(iter(scene.server.request("series", **{"match[]": "up"})))
    return {"workspace": "production", "job": "braze", "instance": target["instance"], **labels}


def test_backfilled_samples_equal_braze_counts(scene: Scene) -> None:
    """Each hour and day of the year has exactly one sample with its count, unfiltered and by app."""
    purchase, odd, rare = (
        frozenset(series_labels(scene, event=event).items()) for event in ("purchase", ODD_NAME, "rare")
    )
    ios = frozenset(series_labels(scene, event="purchase", braze_app="ios").items())
    assert scene.raw(HOURLY) == {purchase: scene.hours("purchase"), odd: scene.hours(ODD_NAME)}
    assert scene.raw(f"{BY_APP}_hourly_settled") == {ios: scene.hours("purchase", IOS)}
    days = {purchase: scene.days("purchase"), rare: scene.days("rare")}
    assert scene.raw(DAILY) == days
    assert len(days[rare]) >= DAYS - 1
    assert {after - before for (before, _), (after, _) in itertools.pairwise(days[rare])} == {
        23.0 * HOUR,
        24.0 * HOUR,
        25.0 * HOUR,
    }
    totals = scene.raw(TOTAL)
    assert set(totals) == {purchase, odd, rare}
    for labels, samples in (
        (purchase, scene.hours("purchase")),
        (odd, scene.hours(ODD_NAME)),
        (rare, scene.days("rare")),
    ):
        counted = [*itertools.accumulate((value for _, value in samples), initial=0.0)]
        assert [value for _, value in totals[labels]] == counted
        assert [stamp for stamp, _ in totals[labels]][1:] == [stamp for stamp, _ in samples]
        assert totals[labels][0] == (scene.start + (HOUR if labels is not rare else 2 * HOUR), 0.0)


def test_backfilled_counters_rise_by_daily_counts(scene: Scene) -> None:
    """`increase` over a day, evaluated when the day settles, equals the count of that day."""
    purchase = frozenset(series_labels(scene, event="purchase").items())
    days = scene.raw(DAILY)[purchase]
    assert len(days) > DAYS - 2
    for (before, _), (after, value) in list(itertools.pairwise(days))[::7]:
        # The counter includes the day's last hour one hour before the gauge has the day. Both ends get a minute of
        # slack.
        span, moment = int(after - before) + 60, after - HOUR + 30
        increases = scene.server.query(f'increase({TOTAL}{{event="purchase"}}[{span}s])', moment)
        assert list(increases.values()) == [pytest.approx(value, rel=0.001)]


def test_scraped_samples_continue_backfilled_series(scene: Scene) -> None:
    """Backfilled and scraped series have the same labels, and the scraped counter starts with a reset."""
    for metric in (HOURLY, DAILY, TOTAL, f"{BY_APP}_hourly_settled", f"{BY_APP}_total"):
        both = scene.server.request("series", **{"match[]": metric})
        old = scene.server.request("series", **{"match[]": metric, "end": str(scene.end)})
        live = scene.server.query(metric)
        assert len(both) == len(old) == len(live) > 0, metric
    now = time.time()
    hours = scene.hours("purchase")[-24:]
    [rise] = scene.server.query(
        f'increase({TOTAL}{{event="purchase"}}[{int(now - hours[0][0]) + HOUR // 2}s])', now
    ).values()
    assert rise <= 1.1 * sum(value for _, value in hours)


def test_printed_query_finds_first_sample(scene: Scene) -> None:
    """The printed query returns a time up to two minutes before the first scrape, despite the backfilled samples."""
    query = scene.instructions.splitlines()[-1].removeprefix("# ")
    [first_time] = scene.server.query(query, time.time() + 61).values()  # the query evaluates full minutes
    scraped = scene.server.request("query", query="braze_exporter_build_info[1h]")["result"][0]["values"]
    first = float(scraped[0][0])
    assert first - 120 < first_time <= first


def test_dashboards_show_backfilled_history_without_gaps(scene: Scene) -> None:
    """The dashboard queries return a value every half hour for two weeks, for hourly and daily data."""
    config = load_config(scene.config, "config.yaml", {"BRAZE_API_KEY": KEY})
    started = scene.start + 30 * 24 * HOUR
    for group in series_groups(build_plan(config)):
        expr = re.sub(r"\$\{\w+:regex\}", ".+", group.gauge("settled"))
        values_by_labels = scene.server.query_range(expr, started, started + 14 * 24 * HOUR, 1_800)
        assert values_by_labels
        assert {len(values) for values in values_by_labels.values()} == {14 * 48 + 1}
