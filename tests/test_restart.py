"""Test that a restart with a state file goes unnoticed: the same page at once, and only the calls that are due."""

import contextlib
import http.client
import itertools
import json
import signal
import sqlite3
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import response_faults
from recorded_counts import RecordedCounts
from simulated_braze import FaultInjectingBraze
from support import (
    CURRENT_HOUR,
    HOUR,
    IOS,
    KEY,
    NEW_YORK,
    Clock,
    ExporterRig,
    MetricsPage,
    Program,
    all_sections_yaml,
    running_braze,
    series_requests,
    workspace_yaml,
    write_file,
)
from wsgi_server import Server

from braze_exporter.braze.transport import open_session
from braze_exporter.config.loading import load_config
from braze_exporter.exporter.exporter import Exporter
from braze_exporter.scheduler.plan import build_plan
from braze_exporter.simulator.inventory import SHOP_INVENTORY
from braze_exporter.simulator.traffic import SHOP_SERIES, Counts, Traffic, TrafficShape
from braze_exporter.state.state_file import open_state_file
from braze_exporter.web.status_response import read_status_response

CART_REMINDER, ABANDONED_CART = "c88ddaf1-385c-4415-8360-bb0a64f5ffd8", "907e197e-e85f-41b9-aa82-b505a4abcccd"
LATEST, UP = "braze_custom_events_hourly_latest", "braze_query_up"
LATEST_START, TOTAL = "braze_query_latest_bucket_start_timestamp_seconds", "braze_custom_events_total"
LAST_SUCCESS = "braze_query_last_success_timestamp_seconds"
# The metrics of the process, which start again.
PROCESS_METRICS = ("braze_api_", "braze_bucket_revision", "braze_exporter_", "process_")


class Restarts:
    """An exporter with a state file that can be restarted, against one simulated Braze."""

    def __init__(self, clock: Clock, server: Server, braze: FaultInjectingBraze, path: Path) -> None:
        self.clock = clock
        self.server = server
        self.braze = braze
        self.path = path

    @contextlib.contextmanager
    def start(self, events: str, *, extra_yaml: str = "", sections: str = "") -> Iterator[ExporterRig]:
        """Run the exporter until it is stopped without a last write, as by kill -9."""
        text = workspace_yaml(self.server.url, events, extra_yaml=sections + extra_yaml)
        config = load_config(text, "config.yaml", {"BRAZE_API_KEY": KEY})
        with (
            contextlib.closing(open_session(10)) as session,
            contextlib.closing(open_state_file(str(self.path))) as state_file,
            contextlib.closing(Exporter(state_file, clock=self.clock, jitter=lambda: 1.0)) as exporter,
        ):
            exporter.apply_config(config, build_plan(config), session)
            yield ExporterRig(self.clock, self.braze, exporter, self.server, session)
        self.clock.elapsed = 7.0  # the monotonic clock of a machine that has just started
        self.braze.reset()


def two_events() -> Traffic:
    """Return simulated traffic with two events."""
    shape = TrafficShape(500, apps={IOS: 0.5})
    return Traffic(1, NEW_YORK, {"purchase": shape, "signup": shape})


@contextlib.contextmanager
def restarts(path: Path, traffic: Counts | None = None) -> Iterator[Restarts]:
    """Run a simulated Braze for an exporter that is restarted."""
    clock = Clock()
    with running_braze(traffic or two_events(), clock) as (braze, server):
        braze.inventory = SHOP_INVENTORY
        braze.series_counts = Traffic(1, NEW_YORK, SHOP_SERIES)
        yield Restarts(clock, server, braze, path / "state.sqlite")


def of_queries(page: MetricsPage) -> dict[Any, float]:
    """Return the samples of a page, without those of the process."""
    return {key: value for key, value in page.samples.items() if not key[0].startswith(PROCESS_METRICS)}


def settle(exporter: ExporterRig) -> MetricsPage:
    """Scrape until lists and history are read and nothing is due, and return the page."""
    for _ in range(60):
        exporter.scrape()
        exporter.read_lists()
        exporter.wait_for_history()
        exporter.clock.advance(10)
    assert exporter.wait_for_history()
    return exporter.scrape()


def shop() -> RecordedCounts:
    """Return an event with a count in each of the last hours."""
    recorded = RecordedCounts()
    for hour in range(60 * 24):
        recorded.set("purchase", CURRENT_HOUR - hour * HOUR, 100 + hour % 7)
    return recorded


SECTIONS = all_sections_yaml(CART_REMINDER, ABANDONED_CART, "Grinder") + "      - tag: lifecycle\n"


def list_times(exporter: ExporterRig) -> list[tuple[float, float]]:
    """Return when each list was read, and in how many seconds it is read again."""
    snapshot = exporter.exporter.snapshot()
    return [(item.read_at, item.next_at - snapshot.monotonic) for items in snapshot.lists.values() for item in items]


def test_restart_shows_same_page_without_calls(tmp_path: Path) -> None:
    """After a restart the page is the same at once, with all kinds, selectors, names and baselines, without a call."""
    events = (
        "{event: purchase, baseline: {weeks: 2}}\n{event: purchase, unit: day, baseline: {weeks: 2}}\n{regex: '.*'}"
    )
    extra_yaml = "refresh_interval: {hour: 1h, day: 2h}\nmax_age: 4h\n"
    with restarts(tmp_path) as world:
        with world.start(events, extra_yaml=extra_yaml, sections=SECTIONS) as exporter:
            before = settle(exporter)
            lists = list_times(exporter)
        assert len(before.values(UP)) > 20
        assert len(before.values("braze_custom_events_hourly_baseline")) == 1
        with world.start(events, extra_yaml=extra_yaml, sections=SECTIONS) as exporter:
            assert of_queries(exporter.page()) == of_queries(before)
            assert list_times(exporter) == lists
            page = exporter.scrape()
            exporter.read_lists()
            assert exporter.wait_for_history()
            assert of_queries(page) == of_queries(before)
            assert exporter.braze.requests == []


def test_only_due_queries_are_fetched_after_restart(tmp_path: Path) -> None:
    """A query is fetched at the time at which it would have been without the restart."""
    events, both = "{event: purchase}\n{event: signup, refresh_interval: 10m}", ["purchase", "signup"]
    with restarts(tmp_path) as world:
        with world.start(events) as exporter:
            exporter.scrape()
            exporter.read_lists()
            exporter.page()
        for seconds, expected in ((100, []), (160, []), (20, ["purchase"]), (250, []), (50, both)):
            world.clock.advance(seconds)
            with world.start(events) as exporter:
                exporter.scrape()
                assert sorted(str(request.event) for request in series_requests(world.braze)) == expected


def test_failures_and_their_wait_are_kept(tmp_path: Path) -> None:
    """A failing query stays down after a restart, keeps its last values and waits as long as without the restart."""
    with restarts(tmp_path, shop()) as world:
        with world.start("{event: purchase}") as exporter:
            first = exporter.scrape()
            exporter.read_lists()
            world.braze.inject(response_faults.status(503), path="/events/data_series")
            for seconds in (300, 300):
                world.clock.advance(seconds)
                exporter.scrape()
            world.clock.advance(600)
            before = exporter.scrape()
        assert (before.value(UP), before.value(LATEST)) == (0, first.value(LATEST))
        world.clock.advance(800)
        with world.start("{event: purchase}") as exporter:
            page = exporter.scrape()
            assert of_queries(page) == of_queries(before)
            assert (page.value("braze_up"), page.value("braze_queries", state="failed")) == (0, 1)
            assert world.braze.requests == []
            for seconds, calls in ((100, 1), (500, 1), (400, 2)):  # the wait of 15 minutes goes on
                world.clock.advance(seconds)
                exporter.scrape()
                assert len(world.braze.requests) == calls


@pytest.mark.parametrize(("seconds", "is_shown"), [(HOUR - 1, True), (HOUR, False), (-1, False), (-30 * 86_400, False)])
def test_values_past_max_age_are_absent_after_restart(tmp_path: Path, seconds: float, *, is_shown: bool) -> None:
    """Values are shown until `max_age`, by the wall clock, and not if it was set back; the next scrape fetches them."""
    with restarts(tmp_path, shop()) as world:
        with world.start("{event: purchase}") as exporter:
            before = exporter.scrape()
            exporter.read_lists()
            exporter.page()
        assert before.value(LATEST) is not None
        world.clock.now += seconds
        world.braze.inject(response_faults.status(503), path="/events/data_series")
        with world.start("{event: purchase}") as exporter:
            page = exporter.page()
            assert page.value(LATEST) == (before.value(LATEST) if is_shown else None)
            assert page.value("braze_queries", state="stale") == (not is_shown)
            for name in (LATEST_START, TOTAL, LAST_SUCCESS):
                assert page.value(name) == before.value(name)
            assert json.dumps(read_status_response(exporter.exporter))
            if seconds < 0:
                world.braze.clear_faults()
                world.clock.advance(1)  # the budget of the first refresh is spent
                assert exporter.scrape().value(LATEST) is not None


@pytest.mark.parametrize("seconds", [-86_400, -3_000, 0, 3_000, 86_400])
@pytest.mark.parametrize("failures", [0, 3])
def test_clock_jump_delays_no_fetch(tmp_path: Path, seconds: float, failures: int) -> None:
    """If the clock jumps during a restart, a query is fetched within one refresh, or within its wait after failures.

    A failing query is not fetched at once if the clock was set back.
    """
    with restarts(tmp_path, shop()) as world:
        with world.start("{event: purchase}") as exporter:
            exporter.scrape()
            for _ in range(failures):
                world.braze.inject(response_faults.status(503), path="/events/data_series", times=1)
                world.clock.advance(900)
                exporter.scrape()
            exporter.page()
        world.clock.now += seconds
        with world.start("{event: purchase}") as exporter:
            if failures and seconds <= 0:
                world.clock.advance(1)  # the budget of the first refresh is spent
                exporter.scrape()
                assert not series_requests(world.braze)
            world.clock.advance(900 if failures and seconds >= 0 else 300)
            exporter.scrape()
            assert [request.event for request in series_requests(world.braze)] == ["purchase"]


def test_deselected_stats_are_absent_after_restart(tmp_path: Path) -> None:
    """If the config selects fewer stats of a campaign after a restart, the page shows only these at once."""

    def campaign(stats: str) -> str:
        return f"    campaigns: [{{campaign: {CART_REMINDER}, stats: [{stats}]}}]\n"

    def shown_stats(page: MetricsPage) -> set[str | None]:
        return {dict(labels).get("stat") for name, labels in page.samples if "campaign_messages" in name}

    with restarts(tmp_path) as world:
        with world.start("{event: purchase}", sections=campaign("sent, bounces")) as exporter:
            exporter.scrape()
            assert shown_stats(exporter.page()) == {"sent", "bounces"}
        with world.start("{event: purchase}", sections=campaign("sent")) as exporter:
            assert shown_stats(exporter.page()) == {"sent"}


def test_what_config_no_longer_has_is_dropped(tmp_path: Path) -> None:
    """Queries and lists that the config no longer has are removed from the state file, also by a reload.

    If a later reload has them again, they are saved again.
    """
    both = "{event: purchase, baseline: {weeks: 1}}\n{event: signup, baseline: {weeks: 1}}"
    sections = f"    campaigns:\n      - campaign: {CART_REMINDER}\n"

    def rows(table: str) -> int:
        with contextlib.closing(sqlite3.connect(world.path)) as connection:
            return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608 - a name

    tables = ("queries", "query_series", "responses", "lists", "list_items")
    with restarts(tmp_path) as world:
        with world.start(both, sections=sections) as exporter:
            settle(exporter)
            for extra_yaml in ("", sections):
                exporter.apply_config(both, extra_yaml=extra_yaml)
                settle(exporter)
                exporter.page()
        assert [rows(table) for table in tables] == [3, 3, 3, 2, 2]
        assert rows("baselines") >= 4
        with world.start(both) as exporter:
            exporter.page()
            exporter.apply_config("{event: purchase}")
            exporter.page()
        assert [rows(table) for table in tables] == [1, 1, 1, 1, 1]
        with world.start(both) as exporter:
            exporter.page()
            assert len(exporter.page().values(LATEST)) == 1
        with world.start("{event: signup, unit: day}") as exporter:
            exporter.page()
        assert [rows(table) for table in tables] == [0, 0, 0, 1, 1]
        assert rows("baselines") == 0


def test_missing_and_suspect_items_are_known_after_restart(tmp_path: Path) -> None:
    """The hour before items are removed goes on through a restart, and so does the hour of a suspect list."""
    names = [f"e{number}" for number in range(10)]
    events, suspect = "{regex: 'e.*', refresh_interval: 6h}", "braze_discovery_list_suspect"
    with restarts(tmp_path, RecordedCounts(events=names)) as world:

        def read(minutes: float, *listed: str) -> tuple[int, float | None]:
            world.braze.traffic = RecordedCounts(events=listed)
            world.clock.advance(60 * minutes)
            with world.start(events) as exporter:
                exporter.scrape()
                exporter.read_lists()
                page = exporter.scrape()
            return len(page.values(UP)), page.value(suspect)

        assert read(0, *names) == (10, 0)
        assert read(59, *names[1:]) == (10, 0)
        assert read(1, *names[1:]) == (10, 0)
        assert read(59, *names[1:]) == (10, 0)
        assert read(1, *names[2:]) == (9, 0)
        assert read(5, *names[2:]) == (9, 0)
        assert read(60, *names[2:]) == (8, 0)
    with restarts(tmp_path / "..", RecordedCounts(events=names)) as world:
        world.path = tmp_path / "other"
        assert read(0, *names) == (10, 0)
        assert read(60) == (10, 1)
        assert read(30) == (10, 1)
        assert read(29) == (10, 1)
        assert read(1) == (0, 0)


def test_part_of_history_is_not_read_again(tmp_path: Path) -> None:
    """After a restart only the missing pieces of history are read, and the baseline is complete with them."""
    events = "{event: purchase, baseline: {weeks: 4}}"

    def history() -> int:
        return sum("ending_at" in request.params for request in world.braze.requests)

    with restarts(tmp_path, shop()) as world:
        with world.start(events) as exporter:
            for _ in range(2):
                exporter.scrape()
                exporter.wait_for_history()
                world.clock.advance(1)
            exporter.page()
            first = history()
        assert 1 <= first < 7
        with world.start(events) as exporter:
            settle(exporter)
            assert history() == 7 - first
            before = settle(exporter)
            assert before.value("braze_custom_events_hourly_baseline") is not None
        with world.start(events) as exporter:
            assert of_queries(exporter.page()) == of_queries(before)
            assert history() == 0


def test_newly_selected_series_get_baseline(tmp_path: Path) -> None:
    """If the config selects more channels or stats of a campaign, by a reload or a restart, their history is read."""

    def campaigns(selection: str) -> str:
        return f"    campaigns: [{{campaign: {CART_REMINDER}, baseline: {{weeks: 8}}, {selection}}}]\n"

    def read(exporter: ExporterRig) -> tuple[int, set[tuple[str, str]]]:
        page = settle(exporter)
        shown = [dict(labels) for name, labels in page.samples if name == "braze_campaign_messages_daily_baseline"]
        names = {(labels["channel"], labels["stat"]) for labels in shown}
        return sum("ending_at" in request.params for request in world.braze.requests), names

    events, sent = "{event: purchase}", ("ios_push", "sent")
    with restarts(tmp_path) as world:
        with world.start(events, sections=campaigns("channels: [ios_push], stats: [sent]")) as exporter:
            assert read(exporter) == (1, {sent})
            exporter.apply_config(events, extra_yaml=campaigns("stats: [sent]"))
            assert read(exporter) == (2, {sent, ("android_push", "sent")})
        with world.start(events, sections=campaigns("stats: [sent]")) as exporter:
            assert read(exporter) == (0, {sent, ("android_push", "sent")})
        with world.start(events, sections=campaigns("channels: [ios_push], stats: [sent, bounces]")) as exporter:
            assert read(exporter) == (1, {sent, ("ios_push", "bounces")})


def test_damaged_rows_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A query or a list that cannot be restored is read again, with a line in the log, and the others are kept."""
    events = "{event: purchase}\n{event: signup}"
    with restarts(tmp_path) as world:
        with world.start(events) as exporter:
            before = settle(exporter)
        uneven = zlib.compress(b"[[[], [1], []]]")  # a start without a value
        for damage in (
            "UPDATE responses SET buckets = 'x' WHERE query = (SELECT min(id) FROM queries)",
            f"INSERT INTO baselines SELECT min(id), 0, x'{uneven.hex()}' FROM queries",  # noqa: S608 - contains no input
        ):
            with contextlib.closing(sqlite3.connect(world.path)) as connection, connection:
                connection.execute(damage)
                connection.execute("UPDATE list_items SET items = '[[1]]'")
            with world.start(events) as exporter:
                page = exporter.page()
                assert len(page.values(LATEST)) == 1
                assert of_queries(settle(exporter)).keys() == of_queries(before).keys()
        messages = [record.message for record in caplog.records if record.message.startswith("Saved")]
        assert messages == ["Saved list could not be read", "Saved query could not be read"] * 2


def test_killed_exporter_shows_durable_state(tmp_path: Path) -> None:
    """After kill -9 at any moment, the page has values at least as new as the last write, and totals not below them."""
    recorded = RecordedCounts(events=["purchase"])
    state = tmp_path / "state.sqlite"
    extra_yaml = f"refresh_interval: {{hour: 1s}}\nbudget: {{share: 1}}\nstate_file: {state}\n"
    with running_braze(recorded) as (_, server):
        text = workspace_yaml(server.url, "{event: purchase}", extra_yaml=extra_yaml)
        config = write_file(tmp_path / "config.yaml", text)
        last: dict[str, float] = {}
        counts = itertools.count()
        for round_ in range(6):
            now = int(time.time()) // HOUR * HOUR
            with Program.start([f"--config.file={config}"]) as program:
                restored = program.scrape()
                for name, value in last.items():
                    assert (restored.value(name) or 0) >= value, name
                if round_:
                    assert restored.value(LATEST) is not None
                killer = threading.Timer(0.3 * round_, lambda: program.process.send_signal(signal.SIGKILL))
                killer.start()
                with contextlib.suppress(OSError, http.client.HTTPException):
                    while True:
                        recorded.set("purchase", now, next(counts))
                        page = program.scrape()
                        last = {name: page.value(name) or 0.0 for name in (TOTAL, LAST_SUCCESS)}
                killer.join()
            with contextlib.closing(sqlite3.connect(state)) as connection:
                (received_at,) = connection.execute("SELECT received_at FROM queries").fetchone()
            assert received_at >= last.get(LAST_SUCCESS, 0) - 1e-3
    assert last[TOTAL] > 0


def test_without_state_file_nothing_is_kept(tmp_path: Path) -> None:
    """Without a state file a restart fetches all queries again."""
    with restarts(tmp_path) as world:
        for _ in range(2):
            config = load_config(workspace_yaml(world.server.url, "{event: purchase}"), "c", {"BRAZE_API_KEY": KEY})
            with (
                contextlib.closing(open_session(10)) as session,
                contextlib.closing(Exporter(clock=world.clock)) as exporter,
            ):
                exporter.apply_config(config, build_plan(config), session)
                assert MetricsPage(b"".join(exporter.render(openmetrics=False)).decode()).values(UP) == []
                exporter.refresh().result(10)
                assert len(series_requests(world.braze)) == 1
            world.braze.reset()


def make_newest_unknown(document: dict[str, Any]) -> None:
    """Replace the newest value of a response by a null."""
    document["data"][-1]["count"] = None


def make_settled_unknown(document: dict[str, Any]) -> None:
    """Replace all but the newest value of a response by nulls."""
    for row in document["data"][:-1]:
        row["count"] = None


def drop_rows(document: dict[str, Any]) -> None:
    """Remove all buckets of a response."""
    document["data"] = []


@pytest.mark.parametrize("edit", [make_newest_unknown, make_settled_unknown, drop_rows])
def test_holes_and_known_starts_are_kept(tmp_path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """A bucket without a number stays absent after a restart, and so do the starts before an empty response."""
    with restarts(tmp_path, shop()) as world:
        with world.start("{event: purchase}") as exporter:
            exporter.scrape()
            exporter.read_lists()
            world.braze.inject(response_faults.edited(edit), path="/events/data_series")
            world.clock.advance(300)
            before = exporter.scrape()
        with world.start("{event: purchase}") as exporter:
            assert of_queries(exporter.page()) == of_queries(before)


def test_repair_goes_on_after_restart(tmp_path: Path) -> None:
    """After a malformed response, the requests after a restart are those that the exporter would have made without."""

    def make_malformed(document: dict[str, Any]) -> None:
        if len(document["data"]) > 10:
            document["data"][0]["count"] = -1

    def lengths(*, is_restarted: bool) -> list[str]:
        with restarts(tmp_path / f"{is_restarted}", shop()) as world, contextlib.ExitStack() as stack:
            exporter = stack.enter_context(world.start("{event: purchase}"))
            exporter.scrape()
            exporter.read_lists()
            world.braze.inject(response_faults.edited(make_malformed), path="/events/data_series")
            for _ in range(4):
                world.clock.advance(300)
                exporter.scrape()
            if is_restarted:
                stack.close()
                exporter = stack.enter_context(world.start("{event: purchase}"))
            world.braze.reset()
            for _ in range(5):
                world.clock.advance(300)
                assert exporter.scrape().value(UP) == 1
            return [request.params["length"] for request in series_requests(world.braze)]

    for name in ("True", "False"):
        (tmp_path / name).mkdir()
    assert lengths(is_restarted=True) == lengths(is_restarted=False)
    assert len(set(lengths(is_restarted=True))) == 2


def list_requests(world: Restarts) -> int:
    """Return the number of requests for lists."""
    return len(world.braze.requests) - len(series_requests(world.braze))


def test_forbidden_list_is_tried_two_minutes_after_restart(tmp_path: Path) -> None:
    """A list that the key may not read is not read at the start, but after two minutes, since the key may be new."""
    with restarts(tmp_path, shop()) as world:
        world.braze.permissions = {"events.data_series"}
        with world.start("{event: purchase}") as exporter:
            exporter.scrape()
            exporter.read_lists()
            exporter.page()
        world.braze.permissions = {"events.data_series", "events.list"}
        with world.start("{event: purchase}") as exporter:
            (state,) = exporter.exporter.snapshot().lists["production"]
            assert state.error is not None
            for seconds, calls in ((0, 0), (119, 0), (1, 2)):
                world.clock.advance(seconds)
                exporter.scrape()
                exporter.read_lists()
                assert list_requests(world) == calls


@pytest.mark.parametrize("seconds", [-10 * 86_400, -1_800])
def test_clock_set_back_delays_no_list(tmp_path: Path, seconds: float) -> None:
    """If the clock was set back during a restart, a list is read within its interval."""
    with restarts(tmp_path, shop()) as world:
        with world.start("{event: purchase}") as exporter:
            exporter.scrape()
            exporter.read_lists()
            exporter.page()
        world.clock.now += seconds
        with world.start("{event: purchase}") as exporter:
            world.clock.advance(3_600)
            exporter.scrape()
            exporter.read_lists()
            assert list_requests(world) == 2


def test_old_values_of_baselines_are_deleted(tmp_path: Path) -> None:
    """The state file keeps no values that are older than the baseline needs."""
    with restarts(tmp_path) as world:
        with world.start("{event: purchase, baseline: {weeks: 1}}") as exporter:
            settle(exporter)
            for _ in range(40):
                world.clock.advance(86_400)
                exporter.scrape()
        with contextlib.closing(sqlite3.connect(world.path)) as connection:
            periods = [period for (period,) in connection.execute("SELECT period FROM baselines")]
        assert min(periods) >= (world.clock.now - 3 * 7 * 86_400) // (7 * 86_400)
        assert len(periods) <= 4


def drop_messages(document: dict[str, Any]) -> None:
    """Remove the message statistics of a campaign."""
    for row in document["data"]:
        row["messages"] = {}


def drop_conversions(document: dict[str, Any]) -> None:
    """Replace the conversions of a campaign by nulls."""
    for row in document["data"]:
        row["conversions"] = None


def test_failed_write_is_made_up_for(tmp_path: Path) -> None:
    """What a failed write should have saved is part of the next one, also of a query and a list fetched since."""
    events = "{event: purchase, baseline: {weeks: 1}}\n{regex: '.*'}"
    with restarts(tmp_path) as world:
        with world.start(events) as exporter:
            exporter.page()
            world.path.unlink()
            exporter.scrape()
            exporter.read_lists()
            assert exporter.page().value("braze_exporter_state_write_failures_total") == 1
            before = settle(exporter)
        with world.start(events) as exporter:
            assert of_queries(exporter.page()) == of_queries(before)
            assert exporter.wait_for_history()


def test_unwritten_changes_of_removed_query_are_dropped(tmp_path: Path) -> None:
    """A query that a reload removes before its first write leaves no rows. It comes back as a new one and is saved."""
    both = "{event: purchase, baseline: {weeks: 1}}\n{event: signup, baseline: {weeks: 1}}"
    with restarts(tmp_path) as world:
        with world.start(both) as exporter:
            exporter.refresh()
            exporter.wait_for_history()
            exporter.apply_config("{event: purchase}")
            exporter.page()
        with contextlib.closing(sqlite3.connect(world.path)) as connection:
            for table, column in (("queries", "id"), ("responses", "query"), ("baselines", "query")):
                found = connection.execute(f"SELECT DISTINCT {column} FROM {table}").fetchall()  # noqa: S608
                assert found == connection.execute("SELECT id FROM queries").fetchall(), table
                assert len(found) == 1
        with world.start(both) as exporter:
            assert len(exporter.page().values(LATEST)) == 1
            world.clock.advance(1)  # the budget of the first refresh is spent
            assert len(exporter.scrape().values(LATEST)) == 2
            for events in ("{event: purchase}", both):
                exporter.apply_config(events)
                exporter.page()
            world.clock.advance(HOUR)
            assert len(exporter.scrape().values(LATEST)) == 2
        with world.start(both) as exporter:
            assert len(exporter.page().values(LATEST)) == 2


def test_names_of_variations_are_kept(tmp_path: Path) -> None:
    """Series of a campaign that Braze no longer returns keep their counters and names through a restart.

    Those that never had a number have no baseline.
    """
    sections = f"    campaigns:\n      - {{campaign: {CART_REMINDER}, baseline: {{weeks: 1}}}}\n"
    with restarts(tmp_path) as world:
        with world.start("{event: purchase}", sections=sections) as exporter:
            world.braze.inject(response_faults.edited(drop_conversions), path="/campaigns/data_series")
            first = settle(exporter)
            world.braze.clear_faults()
            world.braze.inject(response_faults.edited(drop_messages), path="/campaigns/data_series")
            world.clock.advance(900)
            before = exporter.scrape()
        totals = "braze_campaign_messages_total"
        assert len(before.values(totals)) == len(first.values(totals)) > 1
        assert len(before.values("braze_campaign_messages_daily_latest")) == 0
        with world.start("{event: purchase}", sections=sections) as exporter:
            assert of_queries(exporter.page()) == of_queries(before)
            world.clock.advance(101 * 86_400)
            assert exporter.scrape().values(totals) == []  # no response reaches back to them
