"""Renders dashboards with Grafana's own front-end libraries in Chromium. See `harness.jsx`."""

import functools
import json
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from browser import Browser
from servers import Prometheus, require_tool
from support import write_file

HERE = Path(__file__).parent
_PAGE = """<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,">
<link rel="stylesheet" href="harness.css">
<style>html, body {{ background: {background}; margin: 0 }} #root {{ padding: 8px 16px }}</style>
<div id="root"></div><script>window.scene = {scene}</script><script src="harness.js"></script>
"""


# Where Grafana's libraries expect the files of its server, and where npm puts them.
_PUBLIC = {
    "public/build": "@grafana/ui/dist/public",
    **{
        f"public/fonts/inter/Inter-{weight}.woff2": "@fontsource-variable/inter/files/inter-latin-wght-normal.woff2"
        for weight in ("Regular", "Medium")
    },
    "public/fonts/roboto/RobotoMono-Regular.woff2": "@fontsource/roboto-mono/files/roboto-mono-latin-400-normal.woff2",
}


@contextmanager
def running_harness(directory: Path) -> Iterator[str]:
    """Bundle the harness into `directory`, serve it, and yield its URL.

    Needs the packages that `npm install` puts into `node_modules`.
    """
    subprocess.run([require_tool("node"), str(HERE / "build.mjs"), str(directory / "harness.js")], check=True)  # noqa: S603
    for name, source in _PUBLIC.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).unlink(missing_ok=True)
        (directory / name).symlink_to(HERE / "node_modules" / source)
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Files, directory=str(directory))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class _Files(SimpleHTTPRequestHandler):
    def translate_path(self, path: str) -> str:
        """Return the path of a file. Icons that npm's package lacks are another icon."""
        found = Path(super().translate_path(path))
        return str(found if found.exists() or found.suffix != ".svg" else found.with_name("apps.svg"))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Suppress the request log."""


@dataclass(frozen=True)
class Renderer:
    """A browser that renders dashboards with the data of a Prometheus, and the directory and the URL of the harness."""

    browser: Browser
    directory: Path
    url: str

    def render(
        self,
        server: Prometheus,
        dashboard: Mapping[str, Any],
        at: float,
        size: tuple[int, int] = (1920, 1080),
        *,
        dark: bool = True,
    ) -> None:
        """Open a dashboard as it is at the Unix time `at`, and wait until all its queries are answered."""
        scene = {
            "dashboard": dashboard,
            "prometheus": f"http://127.0.0.1:{server.port}",
            "from": (at - 2 * 86_400) * 1000,
            "to": at * 1000,
            "dark": dark,
        }
        background = "#111217" if dark else "#f4f5f5"
        page = _PAGE.format(background=background, scene=json.dumps(scene).replace("</", "<\\/"))
        write_file(self.directory / "page.html", page)
        self.browser.inspect(size, dark=dark)
        self.browser.open(f"{self.url}/page.html")
        self.browser.wait("document.querySelector('[data-viz-panel-key]') && window.isIdle()", 60)
        idle = "(window.idleSince = window.isIdle() ? window.idleSince ?? Date.now() : undefined) < Date.now() - 1500"
        self.browser.wait(idle, 120)

    def panels(self) -> list[dict[str, Any]]:
        """Return what each panel shows, see `readPanels` in `harness.jsx`."""
        result: list[dict[str, Any]] = self.browser.run("return window.readPanels()")
        return result

    def annotations(self) -> list[str]:
        """Return the titles of the annotations."""
        layer = "window.sceneObject.state.$data.state.layers[0].state.data.series[0]"
        result: list[str] = self.browser.run(f"return {layer}.fields.find(({{ name }}) => name === 'title').values")
        return result
