"""The demo through simulated time: what its exporter shows when it is scraped for days."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import wait

from support import HOUR, Clock, Page, until

from braze_exporter import demo, transport
from braze_exporter.config import load
from braze_exporter.exporter import Exporter
from braze_exporter.plan import build


def scraped(traffic: demo.Counts, start: float, end: float, step: float) -> Iterator[tuple[float, Page]]:
    """Yield the pages of the demo's exporter from `start` to `end`, one each `step` seconds, and when each was scraped.

    It begins when the history of the baselines has been read, and Braze counts `traffic`.
    """
    clock = Clock(start - HOUR)
    braze = demo.shop(clock.wall)
    braze.traffic = traffic
    with demo.serve(braze) as server, contextlib.closing(transport.open_session(10)) as session:
        config = load(demo.config(server.url), "demo", {demo.KEY_VARIABLE: demo.KEY})
        plan = build(config)
        with contextlib.closing(Exporter(wall=clock.wall, monotonic=clock.monotonic)) as exporter:

            def page() -> Page:
                return Page(exporter.render(openmetrics=False).decode())

            def is_ready() -> bool:
                clock.advance(5)  # and the budget allows some more calls
                wait([exporter.refresh()])
                return page().text.count("_baseline{") == sum(query.weeks > 0 for query in plan.queries)

            exporter.use(config, plan, session)
            until(is_ready, "the history of the baselines is read")
            clock.advance(start - clock.now)
            while clock.now <= end:
                wait([exporter.refresh()])
                yield clock.now, page()
                clock.advance(step)
