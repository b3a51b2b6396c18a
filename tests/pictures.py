"""Takes pictures of the page at `/`: `python tests/pictures.py DIRECTORY`, in three sizes, light and dark.

They show the simulated Braze of the demo, with troubles of all sorts: see `scene`.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from browser import SIZES, chromium
from support import Program, until, write

from braze_exporter import demo
from braze_exporter.demo import faults

# What the page shows: the top, an opened query that is answered, and one that is not.
VIEWS = {
    "top": "",
    "open": "document.querySelector('#rows .row:has(.good):has(.usual) .name').click()",
    "failing": "document.querySelector('#rows .row:has(.bad):has(.spark) .name').click()",
}
_SCROLL = "document.querySelector('.name[aria-expanded=true]')?.closest('tr').scrollIntoView()"


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
def scene(directory: Path, *, troubles: bool = True) -> Iterator[Program]:
    """Run the exporter: all of the demo is answered, and then, with `troubles`, some of it is not any more.

    One event meets a 503, one a 400; a second workspace has come down to the reserve of its rate limit, and has an
    event without data; a third has the wrong key.
    """
    with ExitStack() as stack:
        production, europe, staging = (demo.shop(time.time, demo.UnknownEvent.EMPTY) for _ in range(3))
        urls = [stack.enter_context(demo.serve(braze)).url for braze in (production, europe, staging)]
        text = demo.config(urls[0]).replace("hour: 15s, day: 1m", "hour: 4s, day: 30s")
        workspaces, refresh, rest = text.partition("refresh:")
        workspaces += _workspace("europe", urls[1], demo.KEY_VARIABLE, "app_opened", "purchase_completed", "wishlist")
        if troubles:
            workspaces += _workspace("staging", urls[2], "STAGING_KEY", "app_opened", "purchase_completed")
        config = write(directory / "config.yaml", f"{workspaces}{refresh}{rest}")
        keys = {demo.KEY_VARIABLE: demo.KEY, "STAGING_KEY": "the-key-of-another-workspace"}
        program = stack.enter_context(Program.start([f"--config.file={config}"], keys))
        until(lambda: len(program.scrape().of("braze_custom_events_hourly_baseline")) == 2, "history is read")
        if troubles:
            production.fail(faults.status(503, "Service Unavailable"), event="added_to_cart")
            production.fail(faults.status(400, "event must be a string"), event="newsletter_signup")
            europe.spend(205_000)
            until(lambda: _stand(program) == (3, 3), "the troubles have begun")
        yield program


def _stand(program: Program) -> tuple[float | None, float | None]:
    """Return how many queries wait in Europe, and how many fail in production."""
    page = program.scrape()
    events = {"kind": "custom_events"}
    waiting = page.value("braze_exporter_queries", workspace="europe", state="deferred", **events)
    return waiting, page.value("braze_exporter_queries", workspace="production", state="failed", **events)


def main() -> None:
    """Take the pictures."""
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as scratch, scene(Path(scratch)) as program, chromium() as browser:
        for size in SIZES:
            for dark in (False, True):
                browser.look(size, dark=dark)
                for name, script in VIEWS.items():
                    program.scrape()
                    browser.open(f"http://127.0.0.1:{program.port}/")
                    browser.run(f"{script}; {_SCROLL}")
                    time.sleep(0.3)  # until what moves has come to rest
                    browser.picture(directory / f"{name}-{size}-{'dark' if dark else 'light'}.png")


if __name__ == "__main__":
    main()
