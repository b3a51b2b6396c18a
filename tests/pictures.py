"""Takes the screenshots of the documents: `python tests/pictures.py [DIRECTORY]`. This takes some minutes.

They show the status page, light and dark: of the demo, and of an exporter with many kinds of failures, see `scene`.
Others show graphs drawn by Prometheus, see `graphs`.
"""

import argparse
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import graphs
import response_faults
import simulated_braze
from braze_variants import UnknownEvent
from browser import Browser, chromium
from support import Program, wait_until, write_file
from wsgi_server import serve

from braze_exporter.simulator import demo_config
from braze_exporter.simulator.demo_config import KEY, KEY_VARIABLE

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs/images"
# The maximum size of a screenshot, so that the repository stays small.
MAX_BYTES = 150_000
_OPEN_FIRST_QUERY_SCRIPT = "document.querySelector('#rows summary').click()"
# The rectangle from the top of the screen to below an element, or to the end of the screen.
_TOP_RECTANGLE_SCRIPT = """
const { bottom } = document.querySelector(arguments[0]).getBoundingClientRect();
return { x: 0, y: 0, width: innerWidth, height: Math.min(bottom + 8, innerHeight) };
"""


def _workspace(name: str, url: str, key: str, *events: str) -> str:
    lines = "".join(f"      - event: {event}\n" for event in events)
    return f"""\
  - name: {name}
    url: {url}
    api_key_env: {key}
    timezone: Europe/Berlin
    custom_events:
{lines}"""


@contextmanager
def scene(directory: Path) -> Iterator[Program]:
    """Run the exporter until all queries of the demo succeed and some of them fail after that.

    One event gets a 503, another a 400. The second workspace is at the reserve of its rate limit, and one of its events
    has no data. The third workspace has the wrong key.
    """
    with ExitStack() as stack:
        production, europe, staging = (
            simulated_braze.build_demo_braze_with_faults(time.time, UnknownEvent.EMPTY) for _ in range(3)
        )
        urls = [stack.enter_context(serve(braze)).url for braze in (production, europe, staging)]
        text = demo_config.build_config(urls[0]).replace("name: demo", "name: production")
        text = text.replace("hour: 15s, day: 1m", "hour: 4s, day: 30s")
        workspaces, interval_key, remainder = text.partition("refresh_interval:")
        workspaces += _workspace("europe", urls[1], KEY_VARIABLE, "app_opened", "purchase_completed", "wishlist")
        workspaces += _workspace("staging", urls[2], "STAGING_KEY", "app_opened")
        remainder += "budget: {share: 0.5}\n"  # enough for the history of the baselines
        config = write_file(directory / "config.yaml", f"{workspaces}{interval_key}{remainder}")
        keys = {KEY_VARIABLE: KEY, "STAGING_KEY": "the-key-of-another-workspace"}
        program = stack.enter_context(Program.start([f"--config.file={config}"], keys))
        wait_until(lambda: _has_history(program), "the history is fetched")
        production.inject(response_faults.status(503, "Service Unavailable"), event="added_to_cart")
        production.inject(response_faults.status(400, "event must be a string"), event="newsletter_signup")
        europe.spend_calls(205_000)
        wait_until(lambda: _count_states(program) == (3, 3, 1), "the problems are shown")
        yield program


def _has_history(program: Program) -> bool:
    """Return whether the history for the baselines has been read."""
    program.scrape()
    return "Fetching history for baselines" not in program.get("/", {"Accept": "application/json"}).text


def _count_states(program: Program) -> tuple[float | None, ...]:
    """Return how many queries are deferred in `europe`, and how many fail in `production` and in `staging`."""
    page = program.scrape()
    states = {"europe": "deferred", "production": "failed", "staging": "failed"}
    return tuple(
        page.value("braze_queries", workspace=workspace, state=state, kind="custom_events")
        for workspace, state in states.items()
    )


def names() -> list[str]:
    """Return the names of all screenshots."""
    pages = [f"{name}-{light}.png" for name in ("demo", "failures", "phone") for light in ("light", "dark")]
    # `tests/grafana/check_rendering.py` takes those of the dashboards.
    return [*pages, *(f"{name}.png" for name in (*graphs.GRAPHS, "dashboard-braze", "dashboard-exporter"))]


def _take_picture(  # noqa: PLR0917 - calls read well in this order
    browser: Browser, program: Program, path: Path, size: str | tuple[int, int], last: str = "html", script: str = ""
) -> None:
    """Write light and dark screenshots of the status page after a script, down to the first `last` element."""
    for light in ("light", "dark"):
        browser.inspect(size, dark=light == "dark")
        program.scrape()
        browser.open(f"http://127.0.0.1:{program.port}/")
        browser.wait("statusData !== undefined")
        browser.run(script)
        time.sleep(0.3)  # until animations have ended
        clip = browser.run(_TOP_RECTANGLE_SCRIPT, last)
        browser.picture(path.with_name(f"{path.name}-{light}.png"), clip)


def main() -> None:
    """Take all screenshots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", nargs="?", type=Path, default=PICTURES)
    directory = parser.parse_args().directory
    directory.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as scratch, chromium() as browser:
        with Program.start(["demo"]) as program:
            wait_until(lambda: _has_history(program), "the history is fetched")
            _take_picture(
                browser, program, directory / "demo", (1_100, 1_000), ".content code", _OPEN_FIRST_QUERY_SCRIPT
            )
        with scene(Path(scratch)) as program:
            _take_picture(browser, program, directory / "failures", (1_440, 900), "#rows > :nth-child(4)")
            _take_picture(browser, program, directory / "phone", "phone")
        with graphs.prometheus_with_history(Path(scratch) / "prometheus") as server:
            for name, graph in graphs.GRAPHS.items():
                graphs.draw(browser, server, graph, directory / f"{name}.png")
    print(*sorted(f"{path.stat().st_size:7} {path}" for path in directory.iterdir()), sep="\n")


if __name__ == "__main__":
    main()
