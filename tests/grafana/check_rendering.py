"""Check what the dashboards show in Grafana's own rendering, in each situation.

Not part of the test suite:

    npm install --prefix tests/grafana --ignore-scripts --legacy-peer-deps
    pytest --no-cov -n 0 --timeout 3600 tests/grafana/check_rendering.py

Writes a picture of each first screen into the directory `DASHBOARD_PICTURES`, and those of the documents if it is
`docs/images`. Keeps the histories in the directory `DASHBOARD_HISTORIES`, because they take minutes.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from browser import chromium
from grafana.rendering import Renderer, running_harness
from grafana.situations import INSTANCE, SITUATIONS, collect, running_server

from braze_exporter.monitoring.dashboard import View, build_dashboard

GREY = "#8e8e8e"
# The first screens that the documents show, and their sizes.
DOCUMENTED = {("lost", View.BRAZE): "dashboard-braze", ("failing", View.EXPORTER): "dashboard-exporter"}
Cell = tuple[str, str]


@dataclass
class Shown:
    """What a dashboard shows: the panels, the titles of annotations, and console errors."""

    panels: list[dict[str, Any]]
    annotations: list[str]
    errors: list[str]

    def panel(self, title: str) -> dict[str, Any]:
        """Return the first panel with a title."""
        return next(panel for panel in self.panels if panel["title"] == title)

    def cell(self, title: str) -> Cell:
        """Return the text and the color of a panel with a single value."""
        ((cell,),) = self.panel(title)["rows"]
        return cell["text"], cell["color"]

    def table(self, title: str) -> list[dict[str, Cell]]:
        """Return the rows of a table: the text and the color of each cell by the title of its column."""
        header, *rows = self.panel(title)["rows"]
        titles = [cell["text"] for cell in header]
        return [{title: (cell["text"], cell["color"]) for title, cell in zip(titles, row, strict=True)} for row in rows]


Show = Callable[[str, View], Shown]


@pytest.fixture(scope="module")
def show(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Show]:
    """Return a function that renders a dashboard in a situation."""
    scratch = tmp_path_factory.mktemp("grafana")
    histories = Path(os.environ.get("DASHBOARD_HISTORIES") or scratch / "histories")
    pictures = os.environ.get("DASHBOARD_PICTURES")
    (scratch / "harness").mkdir()
    with running_harness(scratch / "harness") as url, chromium() as browser:
        renderer = Renderer(browser, scratch / "harness", url)

        def render(name: str, view: View) -> Shown:
            situation = SITUATIONS[name]
            directory = histories / ("everything" if situation.has_all_kinds else "usual")
            if not directory.exists():
                collect(directory, has_all_kinds=situation.has_all_kinds)
            dashboard = build_dashboard(view, situation.plan)
            with running_server(directory) as server:
                renderer.render(server, dashboard, situation.at, (1920, 9_000))
                shown = Shown(renderer.panels(), renderer.annotations(), browser.console_errors())
                if pictures:
                    screen = {"x": 0, "y": 0, "width": 1920, "height": 1080}
                    browser.picture(Path(pictures) / f"{name}-{view}.png", screen)
                if pictures and (name, view) in DOCUMENTED:
                    renderer.render(server, dashboard, situation.at, (1440, 810))
                    browser.picture(Path(pictures) / f"{DOCUMENTED[name, view]}.png")
            return shown

        yield render


@pytest.mark.parametrize("view", View)
@pytest.mark.parametrize("name", SITUATIONS)
def test_dashboard_is_true(show: Show, name: str, view: View) -> None:
    """Nothing fails, no panel shows Grafana's own names, and each situation shows what it is."""
    shown = show(name, view)
    assert shown.errors == []
    for panel in shown.panels:
        assert not panel["isError"], panel["title"]
        # Each panel without data says why.
        assert panel["text"].strip() != "No data" or name in {"new", "down"}, panel["title"]
        assert "Value" not in panel["text"], panel["title"]
        assert "{" not in panel["text"], panel["title"]
    CHECKS[view](name, shown)


def check_braze(name: str, shown: Shown) -> None:
    """Check the dashboard "Braze"."""
    alerts = {(row["Alert"][0], row["Subject"][0]) for row in _rows(shown, "Firing alerts")}
    assert alerts >= ALERTS[name]
    totals = {(row["Kind"][0], row["Workspace"][0]): row for row in _rows(shown, "What Braze reported")}
    if name == "down":
        assert (totals, alerts) == ({}, ALERTS[name])
        assert "No data: the exporter is down" in shown.panel("What Braze reported")["text"]
        return
    assert len(totals) == (11 if name == "everything" else 9)
    events, europe = totals["Custom events", "production"], totals["Custom events", "europe"]
    if name == "new":
        assert {events[column] for column in list(events)[2:]} == {("-", GREY)}
        return
    count, _ = events["24 hours"]
    assert 150_000 < int(count.replace(",", "")) < 250_000
    if name in {"normal", "everything"}:
        for row in totals.values():  # no color without a reason
            assert {color for _, color in row.values()} <= {"text", GREY}, row
        assert {row["Kind"][0] for row in _rows(shown, "Fell most")} != set()
    if name in {"lost", "failing"}:
        assert "BrazeEventDrop" in shown.annotations
        worst, second, *others = _rows(shown, "Fell most")
        worst_texts = [worst[column][0] for column in ("Subject", "App", "24 hours", "vs a week before")]
        assert worst_texts == ["app_opened", "ios", "0", "0%"]
        assert second["vs a week before"][0] in {"42%", "43%", "44%"}
        if name == "failing":  # stale queries are unknown, and did not fall
            stale = [row for row in others if row["Workspace"][0] == "europe" or row["Subject"][0] == "added_to_cart"]
            assert stale == []
    if name == "failing":
        assert {europe[column] for column in list(europe)[2:]} == {("-", GREY)}
    event = shown.panel("Custom events, hourly")["rows"][1][0]
    assert event["link"].endswith(f"&var-workspace=$__all&var-event={event['text']}")
    if name == "everything":
        campaigns = _rows(shown, "Campaigns, newest settled day")
        assert len(campaigns) == 107
        sent = [int(row["Sent"][0].replace(",", "")) for row in campaigns if row["Sent"][0] != "-"]
        assert sent == sorted(sent, reverse=True)
        assert all(row["Revenue"][0].startswith("$") for row in campaigns)


ALERTS: Mapping[str, set[tuple[str, str]]] = {
    "normal": {("BrazeQueryUnlisted", "wishlist_aded")},
    "lost": {("BrazeEventDrop", "app_opened"), ("BrazeEventDrop", "app_opened ios")},
    "failing": {("BrazeQueryStale", "added_to_cart"), ("BrazeAPIKeyRejected", "-")},
    "new": set(),
    "down": {("BrazeExporterDown", INSTANCE)},
    "everything": {("BrazeQueryUnlisted", "wishlist_aded")},
}
TILES = (
    "Fetches",
    "API key",
    "Queries up",
    "Stale queries",
    "Rate limit left",
    "List problems",
    "Config, state",
)


def check_exporter(name: str, shown: Shown) -> None:
    """Check the dashboard "Braze exporter"."""
    if name == "down":
        assert shown.cell("Exporter") == ("down", "red")
        assert {shown.cell(title) for title in TILES} == {("unknown", GREY)}
        return
    assert shown.cell("Exporter") == ("up", "green")
    assert shown.cell("List problems") == ("1", "orange")
    assert shown.cell("Config, state") == ("good", "green")
    workspaces = {row["Workspace"][0]: row for row in _rows(shown, "Workspaces")}
    assert workspaces["production"]["Fetches"] == ("succeed", "green")
    assert [row["Subject"][0] for row in _rows(shown, "Unlisted and skipped")] == ["wishlist_aded"]
    failing = {(row["Workspace"][0], row["Subject"][0]) for row in _rows(shown, "Failing queries")}
    if name == "failing":
        assert shown.cell("Fetches") == ("fail", "red")
        assert shown.cell("API key") == ("rejected", "red")
        assert shown.cell("Queries up") == ("86.8%", "red")
        assert shown.cell("Stale queries") == ("5", "red")
        assert workspaces["europe"]["Fetches"] == ("fail", "red")
        assert workspaces["europe"]["Queries up"] == ("0.0%", "red")
        assert failing == {
            ("production", "added_to_cart"),
            ("production", "added_to_cart vip"),
            ("europe", "app_opened"),
            ("europe", "app_opened ios"),
            ("europe", "purchase_completed"),
        }
        return
    good = [("succeed", "green"), ("accepted", "green"), ("100.0%", "green"), ("0", "green")]
    assert [shown.cell(title) for title in TILES[:4]] == good
    assert shown.cell("Rate limit left")[1] == "green"
    assert failing == set()


CHECKS = {View.BRAZE: check_braze, View.EXPORTER: check_exporter}


def _rows(shown: Shown, title: str) -> list[dict[str, Cell]]:
    """Return the rows of a table, or nothing if it shows a text."""
    return shown.table(title) if len(shown.panel(title)["rows"]) > 1 else []
