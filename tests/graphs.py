"""Graphs of the demo for the documents, drawn by Prometheus from the exporter's pages over some simulated days.

In these days an iOS release renames the event `app_opened`. A large campaign of the company uses most of the rate
limit of an hour.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlencode

from browser import Browser
from history import Release, openmetrics, scrape_history
from servers import Prometheus, backfill, running_prometheus
from support import HOUR, free_port, wait_until, write_file

from braze_exporter.simulator.demo_config import ZONE

STEP = 240
START = datetime(2026, 11, 14, tzinfo=UTC)
CAMPAIGN = datetime(2026, 11, 17, 15, tzinfo=UTC)
RELEASE = datetime(2026, 11, 19, 15, tzinfo=UTC)
END = datetime(2026, 11, 20, tzinfo=UTC)
RENAMED = "app_opened"
# The rectangle from the axis labels to the end of the legend.
_GRAPH_RECTANGLE_SCRIPT = """
const [axis, graph, legend] = [".y_axis", ".graph svg", ".legend"].map(
  (name) => document.querySelector(name).getBoundingClientRect());
const [x, y] = [axis.left, graph.top - 10];
return {x, y, width: graph.right + 10 - x, height: legend.bottom - y};
"""


@dataclass(frozen=True)
class Graph:
    """A graph of an expression over a number of hours until `end`."""

    expr: str
    hours: int
    end: datetime


GRAPHS = {
    "hours": Graph(
        f'{{__name__=~"braze_custom_events_hourly_(latest|settled|baseline)", event="{RENAMED}"}}',
        24,
        datetime(2026, 11, 18, 22, tzinfo=UTC),
    ),
    "release": Graph("braze_custom_events_by_app_hourly_settled / braze_custom_events_by_app_hourly_baseline", 12, END),
    "reported": Graph("increase(braze_custom_events_total[24h])", 4 * 24, END),
    "limit": Graph("braze_api_rate_limit_remaining / braze_api_rate_limit", 8, datetime(2026, 11, 17, 19, tzinfo=UTC)),
}


def company_calls(now: float) -> int:
    """Return the company's own calls between two scrapes: more by day, and many for half an hour from `CAMPAIGN`."""
    usual_share = 0.3 + 0.15 * (datetime.fromtimestamp(now, ZONE).hour in range(9, 22))
    is_campaign = 0 <= now - CAMPAIGN.timestamp() < HOUR / 2
    return round(250_000 * (usual_share / HOUR + is_campaign * 0.8 / (HOUR / 2)) * STEP)


@contextmanager
def prometheus_with_history(directory: Path) -> Iterator[Prometheus]:
    """Run a Prometheus whose storage contains the simulated days."""
    directory.mkdir()
    pages = scrape_history(
        Release(RENAMED, RELEASE.timestamp()), START.timestamp(), END.timestamp(), STEP, company_calls=company_calls
    )
    backfill(write_file(directory / "history.txt", "".join(openmetrics(pages))), directory / "data")
    with running_prometheus(directory, free_port()) as server:

        def has_history() -> bool:
            with suppress(OSError):
                return bool(server.query("braze_up", END.timestamp()))
            return False

        wait_until(has_history, "Prometheus has the history")
        yield server


def draw(browser: Browser, server: Prometheus, graph: Graph, path: Path) -> None:
    """Write a screenshot of a graph and its legend, as drawn by Prometheus."""
    browser.inspect((1_000, 1_000))
    chosen = {
        "g0.expr": graph.expr,
        "g0.tab": 0,
        "g0.range_input": f"{graph.hours}h",
        "g0.end_input": f"{graph.end:%Y-%m-%d %H:%M:%S}",
        "g0.step_input": max(STEP, graph.hours * HOUR // 720),
    }
    browser.open(f"http://127.0.0.1:{server.port}/classic/graph?{urlencode(chosen)}")
    browser.wait("document.querySelector('.legend .line')")
    browser.picture(path, browser.run(_GRAPH_RECTANGLE_SCRIPT))
