"""Scrapes the demo's exporter through days of simulated time."""

import contextlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import wait

import simulated_braze
from support import HOUR, Clock, Labels, MetricsPage, wait_until
from wsgi_server import serve

from braze_exporter.braze import transport
from braze_exporter.config.loading import load_config
from braze_exporter.exporter.exporter import Exporter
from braze_exporter.scheduler.plan import build_plan
from braze_exporter.simulator import demo_config
from braze_exporter.simulator.demo_config import KEY, KEY_VARIABLE, ZONE
from braze_exporter.simulator.traffic import SHOP_APPS, SHOP_EVENTS, Counts, Traffic


class Release:
    """The demo's traffic with a release of its iOS app that renames an event."""

    def __init__(self, event: str, at: float) -> None:
        """Rename `event` at `at`, the start of an hour as Unix time."""
        self._base = Traffic(1, ZONE, SHOP_EVENTS)
        self._app = SHOP_APPS["ios"]
        self._event = event
        self._at = at

    @property
    def events(self) -> Collection[str]:
        """The event names of the demo, without the new name."""
        return self._base.events

    def count(self, event: str, hour_start: int, now: float, app_id: str = "", segment_id: str = "") -> int:
        """Return the demo's count; from the release on, without the count of the iOS app."""
        counted = self._base.count(event, hour_start, now, app_id, segment_id)
        if event != self._event or hour_start < self._at or app_id not in ("", self._app):
            return counted
        return counted - self._base.count(event, hour_start, now, self._app, segment_id)


# The time of a scrape and its page.
ScrapedPage = tuple[float, MetricsPage]


def scrape_history(
    traffic: Counts, start: float, end: float, step: float, company_calls: Callable[[float], int] = lambda _now: 0
) -> Iterator[ScrapedPage]:
    """Yield the pages of the demo's exporter from `start` to `end`, one every `step` seconds.

    Braze counts `traffic`. Before each scrape, the company makes `company_calls(now)` calls of its own. The exporter
    reads the history for the baselines before the first page.
    """
    clock = Clock(start - HOUR)
    braze = simulated_braze.build_demo_braze_with_faults(clock.wall)
    braze.traffic = traffic
    with serve(braze) as server, contextlib.closing(transport.open_session(10)) as session:
        config = load_config(demo_config.build_config(server.url), "demo", {KEY_VARIABLE: KEY})
        plan = build_plan(config)
        with contextlib.closing(Exporter(clock=clock, reads_lists=False)) as exporter:

            def page() -> MetricsPage:
                exporter.save().result(10)
                return MetricsPage(b"".join(exporter.render(openmetrics=False)).decode())

            def is_ready() -> bool:
                clock.advance(5)  # lets the budget refill for some more calls
                wait([exporter.refresh()])
                return b"".join(exporter.render(openmetrics=False)).count(b"_baseline{") == sum(
                    query.baseline_weeks > 0 for query in plan.queries
                )

            exporter.apply_config(config, plan, session)
            wait_until(is_ready, "the history of the baselines is read")
            clock.advance(start - clock.now)
            while clock.now <= end:
                braze.spend_calls(company_calls(clock.now))
                wait([exporter.refresh()])
                yield clock.now, page()
                clock.advance(step)


def openmetrics(pages: Iterable[ScrapedPage]) -> Iterator[str]:
    """Yield the lines of all `braze_` samples as OpenMetrics, series by series, as promtool requires."""
    samples_by_series: dict[tuple[str, Labels], list[tuple[float, float]]] = {}
    for now, page in pages:
        for series, value in page.samples.items():
            if series[0].startswith("braze_"):
                samples_by_series.setdefault(series, []).append((now, value))
    for (name, labels), samples in sorted(samples_by_series.items(), key=lambda item: (item[0][0], sorted(item[0][1]))):
        label_pairs = ",".join(
            f"{label}={json.dumps(text, ensure_ascii=False)}" for label, text in sorted(labels) if text
        )
        yield from (f"{name}{{{label_pairs}}} {value} {now}\n" for now, value in samples)
    yield "# EOF\n"
