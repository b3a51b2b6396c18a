"""Test that a reload keeps unchanged queries, that an invalid config changes nothing, and that both are reported."""

import contextlib
import gc
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psutil
import pytest
import requests
import response_faults
import transfer_faults
from recorded_counts import RecordedCounts
from simulated_braze import FaultInjectingBraze
from support import (
    CURRENT_HOUR,
    HOUR,
    IOS,
    KEY,
    MAX_STOP_SECONDS,
    NOW,
    VIP,
    ExporterRig,
    MetricsPage,
    Program,
    free_port,
    running_braze,
    running_exporter,
    series_requests,
    wait_until,
    workspace_item_yaml,
    workspace_yaml,
    write_file,
)

from braze_exporter.config.loading import Config, load_config
from braze_exporter.exporter.exporter import Exporter
from braze_exporter.exporter.reload import Reloader
from braze_exporter.scheduler.key_state import AUTH_RETRY_SECONDS
from braze_exporter.state.state_file import open_state_file

BASELINE = "braze_custom_events_hourly_baseline"
LATEST = "braze_custom_events_hourly_latest"
LAST_SUCCESS = "braze_query_last_success_timestamp_seconds"
SUCCESSFUL = "braze_exporter_config_last_reload_successful"
SUCCESS_TIME = "braze_exporter_config_last_reload_success_timestamp_seconds"


def shop() -> RecordedCounts:
    """Return counts with some purchases in each hour."""
    recorded = RecordedCounts(events=["purchase", "signup"])
    for back in range(200):
        for app in ("", IOS):
            recorded.set("purchase", CURRENT_HOUR - back * HOUR, 10 + back, app)
    return recorded


def requested_events(exporter: ExporterRig) -> list[str | None]:
    """Return the events of all requests so far."""
    return [request.event for request in exporter.braze.requests]


def test_reload_fetches_new_queries_only() -> None:
    """A query that stays keeps its values and its next time; the metrics of a removed query disappear."""
    with running_exporter("{event: purchase}\n{event: quiet}", shop()) as exporter:
        exporter.scrape()
        exporter.clock.advance(60)
        exporter.apply_config("{event: signup}\n{event: purchase}")
        page = exporter.scrape()
        assert sorted(map(str, requested_events(exporter))) == ["purchase", "quiet", "signup"]
        assert page.value(LATEST, event="purchase") == 10
        assert page.value(LAST_SUCCESS, event="purchase") == NOW
        assert page.value(LAST_SUCCESS, event="signup") == NOW + 60
        assert page.values(LAST_SUCCESS, event="quiet") == []
        assert page.values("braze_custom_events_total", event="quiet") == []
        exporter.clock.advance(240)
        exporter.scrape()
        assert requested_events(exporter)[3:] == ["purchase"]


def test_reload_with_new_names_keeps_other_counters() -> None:
    """A new name of an app has a counter that starts at 0; the other counters go on, and late data is still counted."""
    recorded = shop()
    with running_exporter("{event: purchase, apps: [ios, all]}", recorded) as exporter:
        exporter.skip_first_scrape()
        recorded.set("purchase", CURRENT_HOUR, 15, IOS)
        recorded.set("purchase", CURRENT_HOUR, 17)
        exporter.scrape()
        exporter.apply_config("{event: purchase, apps: [all, ios]}", ios="iphone")
        page = exporter.page()
        assert page.value("braze_custom_events_by_app_total", braze_app="iphone") == 0
        assert page.value("braze_custom_events_by_app_hourly_latest", braze_app="iphone") == 15
        assert page.values("braze_custom_events_by_app_total", braze_app="ios") == []
        assert page.value("braze_custom_events_total") == 7
        recorded.set("purchase", CURRENT_HOUR - HOUR, 111)
        exporter.clock.advance(300)
        assert exporter.scrape().value("braze_custom_events_total") == 107


def test_exchanged_ids_of_apps_restart_counters() -> None:
    """If two apps exchange their ids in the config, no counter jumps to the total of the other app."""
    recorded, events = shop(), "{event: purchase, apps: [ios, android]}"
    apps, android = f"{{ios: {IOS}}}", VIP
    with running_exporter("{event: purchase}", recorded) as exporter:
        exporter.apply_config(events, **{apps: f"{{ios: {IOS}, android: {android}}}"})
        exporter.skip_first_scrape()
        recorded.set("purchase", CURRENT_HOUR, 9_010, IOS)
        before = exporter.scrape()
        exporter.apply_config(events, **{apps: f"{{ios: {android}, android: {IOS}}}"})
        exporter.clock.advance(300)
        after = exporter.scrape()
    total, latest = "braze_custom_events_by_app_total", "braze_custom_events_by_app_hourly_latest"
    assert [before.value(total, braze_app=app) for app in ("ios", "android")] == [9_000, 0]
    assert [after.value(total, braze_app=app) for app in ("ios", "android")] == [0, 0]
    assert after.value(latest, braze_app="android") == 9_010


@pytest.mark.parametrize("is_restarted", [False, True])
def test_counter_restarts_when_its_app_gets_former_id_again(tmp_path: Path, *, is_restarted: bool) -> None:
    """If an app in the config gets another id and then its former one, its counter restarts at 0 each time."""
    recorded, count, totals = shop(), 10, []
    with running_exporter("{event: purchase}", recorded) as exporter, contextlib.ExitStack() as stack:
        clock = exporter.clock
        for app_id in (IOS, VIP, IOS):
            if is_restarted:
                stack.close()
                state_file = stack.enter_context(contextlib.closing(open_state_file(str(tmp_path / "state"))))
                exporter.exporter = Exporter(state_file, clock=clock, reads_lists=False)
                stack.enter_context(contextlib.closing(exporter.exporter))
            exporter.apply_config("{event: purchase, apps: [ios]}", **{IOS: app_id})
            for _ in range(2):
                count += 9_000
                recorded.set("purchase", CURRENT_HOUR, count, IOS)
                clock.advance(300)
                totals.append(exporter.scrape().value("braze_custom_events_by_app_total", braze_app="ios"))
    assert totals == [0, 9_000, 0, 0, 0, 9_000]


def test_changed_refresh_applies_to_next_fetch() -> None:
    """After a reload no query waits longer than its new refresh interval."""
    with running_exporter(
        "{event: purchase, refresh_interval: 1h}\n{event: signup, refresh_interval: 1m}", shop()
    ) as exporter:
        exporter.scrape()
        exporter.braze.reset()
        exporter.apply_config("{event: purchase, refresh_interval: 1m}\n{event: signup, refresh_interval: 1h}")
        for _ in range(10):
            exporter.clock.advance(60)
            exporter.scrape()
        assert requested_events(exporter).count("purchase") == 10
        assert requested_events(exporter).count("signup") == 1


def test_changed_settle_and_max_age_apply_at_once() -> None:
    """New `settle` and `max_age` apply at once to the current response, without a call."""
    with running_exporter("{event: purchase}", shop()) as exporter:
        exporter.scrape()
        settled = "braze_custom_events_hourly_settled"
        assert exporter.page().value(settled) == 12
        exporter.apply_config("{event: purchase}", extra_yaml="settle: {hour: 10m}\n")
        assert exporter.page().value(settled) == 11
        exporter.clock.advance(1_200)
        exporter.apply_config("{event: purchase, max_age: 15m}")
        assert exporter.page().values(settled) == []
        exporter.apply_config("{event: purchase}")
        assert exporter.page().value(settled) == 12
        assert len(exporter.braze.requests) == 1


def test_changed_zone_or_unit_is_new_query() -> None:
    """A query with another time zone or unit is fetched again, and its counter continues."""
    recorded = shop()
    with running_exporter("{event: purchase}", recorded) as exporter:
        exporter.skip_first_scrape()
        recorded.set("purchase", CURRENT_HOUR, 15)
        exporter.scrape()
        exporter.apply_config("{event: purchase}", **{"America/New_York": "Europe/Berlin"})
        page = exporter.page()
        assert page.values(LATEST) == []
        assert page.value("braze_custom_events_total") == 5
        exporter.clock.advance(1)  # its share of the budget must refill
        assert exporter.scrape().value(LATEST) == 15
        assert len(exporter.braze.requests) == 2


def test_fetch_in_flight_during_reload_is_kept() -> None:
    """A fetch that started before the reload is used after it and not repeated; removed queries are dropped."""
    events = "\n".join(f"{{event: purchase, apps: [{app}]}}" for app in ("all", "ios")) + "\n{event: signup}"
    with running_exporter(events, shop()) as exporter, ThreadPoolExecutor(2) as pool:
        exporter.skip_first_scrape()
        exporter.braze.inject(transfer_faults.hold())
        page = pool.submit(exporter.scrape)
        exporter.braze.wait_for(3)
        exporter.apply_config("{event: purchase}\n{event: new}", extra_yaml="budget: {concurrency: 2}\n")
        exporter.clock.advance(1)
        second = pool.submit(exporter.scrape)
        exporter.braze.wait_for(4)
        exporter.braze.clear_faults()
        assert page.result().value(LAST_SUCCESS, event="purchase") == NOW + 301
        assert second.result().value("braze_queries", state="up") == 2
        assert len(exporter.braze.requests) == 4
        assert second.result().values("braze_custom_events_by_app_total") == []


def test_queued_query_removed_by_reload_is_neither_fetched_nor_deferred() -> None:
    """A queued query that a reload removes is neither fetched nor counted as deferred."""
    extra_yaml = "budget: {concurrency: 1}\n"
    with running_exporter(
        "{event: signup}\n{event: purchase}\n{event: quiet}", shop(), extra_yaml=extra_yaml
    ) as exporter:
        exporter.skip_first_scrape()
        exporter.braze.inject(transfer_faults.hold())
        waiting = exporter.exporter.refresh()
        exporter.braze.wait_for(1)
        exporter.apply_config("{event: signup}", extra_yaml=extra_yaml)
        exporter.braze.clear_faults()
        waiting.result(5)
        exporter.clock.advance(300)
        page = exporter.scrape()  # its only connection has handled the removed queries before
        assert requested_events(exporter) == ["signup", "signup"]
        assert page.value("braze_api_requests_deferred_total", pool="default") == 0


def test_open_circuit_of_removed_query_is_probed_by_another() -> None:
    """If a reload removes the query that got a 401, another query that is not due probes the key."""
    with running_exporter(
        "{event: purchase, refresh_interval: 1m}\n{event: signup, refresh_interval: 1h}", shop()
    ) as exporter:
        exporter.skip_first_scrape()
        exporter.braze.inject(response_faults.status(401), times=1)
        assert exporter.scrape().value("braze_up") == 0
        exporter.apply_config("{event: signup, refresh_interval: 1h}")
        exporter.clock.advance(AUTH_RETRY_SECONDS)
        assert exporter.scrape().value("braze_up") == 1
        assert requested_events(exporter) == ["purchase", "signup"]


def read_history(exporter: ExporterRig) -> float:
    """Scrape until the baseline is there, and return it."""

    def is_read() -> bool:
        exporter.clock.advance(10)
        return exporter.scrape().value(BASELINE) is not None

    wait_until(is_read, "the history is read")
    return exporter.page().values(BASELINE)[0]


def test_reload_keeps_no_references() -> None:
    """After a reload nothing of the previous config stays in memory, even if no garbage is collected."""
    with running_exporter("{event: purchase}", RecordedCounts(events=["purchase"]), reads_lists=True) as exporter:
        exporter.scrape()
        exporter.read_lists()
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                exporter.apply_config("{event: purchase}")
                exporter.scrape()
                exporter.read_lists()
            assert gc.collect() == 0
        finally:
            gc.enable()


def test_reload_reads_history_once() -> None:
    """A baseline that does not change needs no call; one with more `weeks` needs some."""
    with running_exporter("{event: purchase, baseline: {weeks: 1}}", shop()) as exporter:

        def history() -> int:
            return sum("ending_at" in request.params for request in exporter.braze.requests)

        baseline = read_history(exporter)
        chunks = history()
        exporter.apply_config("{event: signup}\n{event: purchase, baseline: {weeks: 1}, refresh_interval: 10m}")
        assert exporter.page().value(BASELINE) == baseline
        for _ in range(20):
            exporter.clock.advance(10)
            exporter.scrape()
        assert history() <= max(chunks, 2)
        exporter.apply_config("{event: purchase, baseline: {weeks: 2}}")
        assert exporter.page().values(BASELINE) == []
        read_history(exporter)
        assert history() > 2


def test_pending_history_of_removed_query_is_dropped() -> None:
    """The remaining history of a removed query, or of one with other `weeks`, is not fetched."""
    with running_exporter(
        "{event: purchase, baseline: {weeks: 8}}\n{event: signup, baseline: {weeks: 8}}", shop()
    ) as exporter:
        exporter.scrape()
        exporter.apply_config("{event: purchase, baseline: {weeks: 1}}")
        read_history(exporter)
        for _ in range(5):
            exporter.clock.advance(10)
            exporter.scrape()
        chunks = [request for request in exporter.braze.requests if "ending_at" in request.params]
        assert len(chunks) <= 2 + 2  # the scrape before the change had fetched up to two
        assert requested_events(exporter).count("signup") <= 1 + 2


def test_removed_workspace_loses_its_metrics() -> None:
    """A removed workspace leaves no metrics, failure counts or rate limits."""
    with running_exporter("{event: purchase}", shop()) as exporter:
        exporter.scrape()
        exporter.apply_config("{event: purchase}", production="staging")
        exporter.clock.advance(1)  # another name for the same key has no calls of its own
        page = exporter.scrape()
    assert page.value("braze_up", workspace="staging") == 1
    assert page.value("braze_api_rate_limit", workspace="staging") == 250_000
    assert {dict(labels).get("workspace", "staging") for _, labels in page.samples} == {"staging"}


def test_scrape_between_steps_of_reload_brings_no_removed_workspace_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetches and pages between two steps of a reload that removes a workspace succeed, and leave no metric of it."""
    with running_exporter("{event: purchase}", shop(), extra_yaml="budget: {share: 0.5}\n") as exporter:
        scheduler = exporter.exporter._scheduler  # noqa: SLF001 - scrapes between two steps of a reload
        set_queries = scheduler.set_queries

        def scrape_before(*arguments: Any) -> None:  # noqa: ANN401
            exporter.clock.advance(300)
            assert exporter.scrape().value("braze_query_up", workspace="production") == 1
            set_queries(*arguments)

        exporter.scrape()
        monkeypatch.setattr(scheduler, "set_queries", scrape_before)
        calls = len(exporter.braze.requests)
        exporter.apply_config("{event: purchase}", production="staging")
        assert len(exporter.braze.requests) == calls + 1
        page = exporter.scrape()
        assert {dict(labels).get("workspace", "staging") for _, labels in page.samples} == {"staging"}


def test_call_in_flight_adds_no_metric_of_removed_workspace() -> None:
    """A call that completes after its workspace was removed is not counted, and no scrape waits for it."""
    with running_exporter("{event: purchase}", shop()) as exporter, ThreadPoolExecutor(1) as pool:
        exporter.skip_first_scrape()
        exporter.braze.inject(transfer_faults.hold())
        page = pool.submit(exporter.scrape)
        exporter.braze.wait_for(1)
        exporter.apply_config("{event: purchase}", production="staging")
        page.result(5)
        assert exporter.exporter.refresh() is not None
        exporter.braze.clear_faults()
        exporter.clock.advance(1)
        page = pool.submit(exporter.scrape)
        names = {dict(labels).get("workspace", "staging") for _, labels in page.result().samples}
    assert names == {"staging"}


def test_late_event_adds_no_metric_of_removed_workspace() -> None:
    """What happens to a query of a removed workspace before the scheduler drops the query adds no metric."""
    with running_exporter("{event: purchase, unit: day}", shop()) as exporter:
        exporter.scrape()
        (removed,) = exporter.exporter.plan.queries
        exporter.apply_config("{event: purchase, unit: day}", production="staging")
        metrics = exporter.exporter._self_metrics  # noqa: SLF001 - no request can be timed so exactly
        metrics.count_deferred(removed.workspace, removed.kind)
        metrics.observe_revision(removed, 600.0)
        metrics.record_timezone(removed, 0.0, is_mismatch=True)
        page = exporter.page()
    assert {dict(labels).get("workspace", "staging") for _, labels in page.samples} == {"staging"}


def test_timezone_mismatch_of_removed_days_is_cleared() -> None:
    """The mismatch is removed with the daily queries that caused it."""
    with running_exporter("{event: purchase, unit: day}\n{event: signup}", shop()) as exporter:
        exporter.braze.zone = ZoneInfo("Pacific/Kiritimati")
        assert exporter.scrape().value("braze_workspace_timezone_mismatch") == 1
        exporter.apply_config("{event: signup}")
        assert exporter.scrape().values("braze_workspace_timezone_mismatch") == []


@dataclass
class Reloadable:
    """A running program and the files that it reads."""

    program: Program
    braze: FaultInjectingBraze
    config: Path
    key: Path
    url: str

    def write(self, events: str, extra_yaml: str = "") -> None:
        """Write the config, with the key in a file."""
        text = workspace_yaml(self.url, events, extra_yaml=extra_yaml).replace(
            "api_key_env: BRAZE_API_KEY", f"api_key_file: {self.key}"
        )
        write_file(self.config, text)

    def reload(self, method: str = "POST") -> tuple[int, str]:
        """Send a reload request, and return its status and text."""
        response = self.program.get("/-/reload", method=method)
        return response.status, response.text

    def scrape_until(self, **states: int) -> MetricsPage:
        """Scrape until so many queries are in these states; new queries wait for their share of the budget."""
        pages: list[MetricsPage] = []

        def has_states() -> bool:
            pages.append(self.program.scrape())
            return all(pages[-1].value("braze_queries", state=state) == count for state, count in states.items())

        wait_until(has_states, f"the queries are {states}")
        return pages[-1]


@pytest.fixture
def reloadable(tmp_path: Path) -> Iterator[Reloadable]:
    """Run the program with one event."""
    with running_braze(RecordedCounts(events=["purchase", "signup"])) as (braze, server):
        key = tmp_path / "key"
        write_file(key, KEY)
        reloadable_ = Reloadable(None, braze, tmp_path / "config.yaml", key, server.url)  # type: ignore[arg-type] # set below
        reloadable_.write("{event: purchase}")
        with Program.start([f"--config.file={reloadable_.config}", "--web.enable-lifecycle"]) as program:
            reloadable_.program = program
            yield reloadable_


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_reload_request_reloads(reloadable: Reloadable, method: str) -> None:
    """A valid config is used at once, and the metrics and the log report it."""
    before = reloadable.program.scrape()
    assert before.value(SUCCESSFUL) == 1
    assert time.time() - 60 < (before.value(SUCCESS_TIME) or 0) < time.time()
    reloadable.write("{event: signup}\n{event: purchase}")
    assert reloadable.reload(method) == (200, "Configuration reloaded.\n")
    page = reloadable.scrape_until(up=2)
    assert page.value(LAST_SUCCESS, event="purchase") == before.value(LAST_SUCCESS, event="purchase")
    assert page.value(SUCCESSFUL) == 1
    assert (page.value(SUCCESS_TIME) or 0) > (before.value(SUCCESS_TIME) or 0)
    assert [request.event for request in series_requests(reloadable.braze)] == ["purchase", "signup"]
    status = json.loads(reloadable.program.get("/", {"Accept": "application/json"}).text)
    assert len(status["queries"]) == 2
    reloadable.program.stop()
    assert 'msg="Completed loading of configuration file" queries=2 added=1 removed=0' in reloadable.program.output


def test_reserve_follows_successful_reloads_only(reloadable: Reloadable) -> None:
    """`braze_exporter_budget_reserve_ratio` is `budget.reserve` of the config in use."""
    reserve = "braze_exporter_budget_reserve_ratio"
    assert reloadable.program.scrape().value(reserve) == 0.2
    reloadable.write("{event: purchase}", "budget: {reserve: 0.35}\n")
    assert reloadable.reload()[0] == 200
    assert reloadable.program.scrape().value(reserve) == 0.35
    reloadable.write("{event: purchase}", "budget: {reserve: 0.5, share: 7}\n")
    assert reloadable.reload()[0] == 500
    assert reloadable.program.scrape().value(reserve) == 0.35


def test_invalid_config_reload_returns_problems_and_changes_nothing(reloadable: Reloadable) -> None:
    """The previous config stays in use, all problems are reported at once, and a valid config can be loaded later."""
    before = reloadable.program.scrape()
    reloadable.write("{event: purchase, unit: week}\n{name: signup}")
    status, text = reloadable.reload()
    assert status == 500
    assert text == (
        "failed to reload config: "
        f'{reloadable.config}:9: workspaces[0].custom_events[0].unit: must be hour or day, not "week"\n'
        f"{reloadable.config}:10: workspaces[0].custom_events[1].event: is required unless regex is set\n"
        f"{reloadable.config}:10: workspaces[0].custom_events[1].name: unknown key; "
        "known keys: event, unit, apps, segments, regex, refresh_interval, settle, max_age, baseline, alerts\n"
    )
    page = reloadable.program.scrape()
    assert page.value(SUCCESSFUL) == 0
    assert page.value(SUCCESS_TIME) == before.value(SUCCESS_TIME)
    assert page.value(LAST_SUCCESS) == before.value(LAST_SUCCESS)
    reloadable.write("{event: purchase}")
    assert reloadable.reload()[0] == 200
    assert reloadable.program.scrape().value(SUCCESSFUL) == 1
    reloadable.program.stop()
    assert 'msg="Configuration reload failed, keeping the previous one"' in reloadable.program.output
    assert reloadable.program.output.count('msg="Configuration problem"') == 3


@pytest.mark.parametrize(
    ("extra_yaml", "problem"),
    [
        ("max_queries: 1\n", "max_queries: is 1, but the entries need 2 queries; raise it, or configure fewer"),
        (
            "refresh_interval: {hour: 1s}\nbudget: {share: 0.001}\n",
            "set refresh_interval ≥ 29s for hourly custom_events",
        ),
        ("state_file: /tmp/state\n", "state_file: cannot be changed by a reload; restart the exporter or restore"),
    ],
)
def test_unfeasible_plan_reload_is_refused(reloadable: Reloadable, extra_yaml: str, problem: str) -> None:
    """A well-formed config that cannot be used is refused like an invalid one."""
    reloadable.write("{event: purchase}\n{event: signup}", extra_yaml)
    status, text = reloadable.reload()
    assert status == 500
    assert problem in text
    assert text.count("\n") == 1
    assert reloadable.program.scrape().value(SUCCESSFUL) == 0
    assert [request.event for request in series_requests(reloadable.braze)] == ["purchase"]


def test_missing_file_reload_is_refused(reloadable: Reloadable) -> None:
    """The error names the missing file, and the previous config stays in use."""
    reloadable.config.unlink()
    status, text = reloadable.reload()
    remedy = "set --config.file to the path of the config file"
    expected = f"{reloadable.config}: cannot be read (No such file or directory); {remedy}\n"
    assert (status, text) == (500, f"failed to reload config: {expected}")
    assert reloadable.program.scrape().value("braze_up") == 1


def test_key_rotation_needs_no_restart(reloadable: Reloadable) -> None:
    """After a reload a new key is used at once, even if the old one was rejected just before."""
    reloadable.program.scrape()
    reloadable.braze.key = "another-key"
    reloadable.write("{event: purchase}\n{event: signup}")
    assert reloadable.reload()[0] == 200
    page = reloadable.scrape_until(up=0)
    assert page.values("braze_query_up") == [0, 0]
    write_file(reloadable.key, "another-key\n")
    assert reloadable.reload()[0] == 200
    page = reloadable.scrape_until(up=2)
    assert page.value("braze_up") == 1
    assert [key for key, _ in itertools.groupby(request.key for request in reloadable.braze.requests)] == [
        KEY,
        "another-key",
    ]
    write_file(reloadable.key, "")
    problem = f"{reloadable.config}:4: workspaces[0].api_key_file: the file is empty; write the REST API key into it\n"
    assert reloadable.reload() == (500, f"failed to reload config: {problem}")


@pytest.mark.alone
def test_sighup_reloads_config(reloadable: Reloadable) -> None:
    """SIGHUP reloads like the request does; an invalid config is reported in the log and in the metrics."""
    reloadable.write("{event: signup}\n{event: purchase}")
    os.kill(reloadable.program.process.pid, signal.SIGHUP)
    wait_until(lambda: "Completed loading of configuration file" in reloadable.program.output, "it is reloaded")
    reloadable.scrape_until(up=2)
    reloadable.write("{event: 7}")
    os.kill(reloadable.program.process.pid, signal.SIGHUP)
    wait_until(lambda: "Configuration problem" in reloadable.program.output, "it is refused")
    assert reloadable.program.scrape().value(SUCCESSFUL) == 0
    assert reloadable.program.stop() < MAX_STOP_SECONDS
    assert reloadable.program.process.returncode == 0
    assert "Traceback" not in reloadable.program.output


def test_many_signals_and_scrapes_lose_nothing(reloadable: Reloadable) -> None:
    """With simultaneous reloads and scrapes, each scrape is complete and no query is fetched more often than usual."""
    reloadable.write("{event: signup}\n{event: purchase}")

    def scrape(_: int) -> MetricsPage:
        return reloadable.program.scrape()

    with ThreadPoolExecutor(4) as pool:
        pages = pool.map(scrape, range(60))
        for _ in range(30):
            os.kill(reloadable.program.process.pid, signal.SIGHUP)
        assert all(page.value("braze_up") == 1 for page in pages)
    reloadable.scrape_until(up=2)
    assert sorted(str(request.event) for request in series_requests(reloadable.braze)) == ["purchase", "signup"]
    reloadable.program.stop()
    assert "Traceback" not in reloadable.program.output


@pytest.mark.alone
def test_blocked_config_read_does_not_delay_exit(reloadable: Reloadable) -> None:
    """While the config cannot be read, scrapes succeed, and a signal ends the program at once."""
    reloadable.config.unlink()
    os.mkfifo(reloadable.config)
    for _ in range(3):
        os.kill(reloadable.program.process.pid, signal.SIGHUP)
    with socket.create_connection(("127.0.0.1", reloadable.program.port)) as client:
        client.sendall(b"POST /-/reload HTTP/1.1\r\nHost: x\r\n\r\n")
        assert reloadable.program.scrape().value("braze_up") == 1
        assert reloadable.program.stop() < MAX_STOP_SECONDS
    assert reloadable.program.process.returncode == 0


@pytest.mark.no_cover
def test_reload_that_cannot_be_applied_keeps_previous_config(reloadable: Reloadable) -> None:
    """If the process may start no further threads, a reload that needs some fails and is logged.

    The previous config stays in use, and the next reload succeeds.
    """
    program = reloadable.program
    reloadable.scrape_until(up=1)
    process = psutil.Process(program.process.pid)
    unlimited = process.rlimit(psutil.RLIMIT_AS)
    reloadable.write("{event: purchase}\n{event: signup}", "budget: {concurrency: 100}\n")
    process.rlimit(psutil.RLIMIT_AS, (process.memory_info().vms + 100_000_000, unlimited[1]))
    assert reloadable.reload()[0] == 500
    process.rlimit(psutil.RLIMIT_AS, unlimited)
    page = program.scrape()
    assert page.value("braze_exporter_config_last_reload_successful") == 0
    assert page.values("braze_query_up") == [1]
    wait_until(lambda: process.num_threads() < 40, "the threads of the new config have ended")
    assert reloadable.reload()[0] == 200
    reloadable.scrape_until(up=2)
    assert program.scrape().value("braze_exporter_config_last_reload_successful") == 1
    program.stop()
    assert "Internal error while applying the configuration, keeping the previous one" in program.output
    assert "can't start new thread" in program.output


def test_session_of_failed_reload_is_closed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """If applying a config fails, its session is closed, and the previous one is not."""
    with running_exporter("{event: purchase}", shop()) as rig:
        config = load_config(workspace_yaml(rig.url, "{event: purchase}"), "config.yaml", {"BRAZE_API_KEY": KEY})
        sessions: list[RecordingSession] = []

        def open_session(_config: Config) -> RecordingSession:
            sessions.append(RecordingSession())
            return sessions[-1]

        reloader = Reloader(rig.exporter, config, lambda: config, open_session)
        set_queries = rig.exporter._scheduler.set_queries  # noqa: SLF001
        # The second reload fails to restore the config too.
        failures: list[Exception | None] = [RuntimeError("can't start new thread"), None, *[MemoryError()] * 2]

        def fail_once(*arguments: Any) -> None:  # noqa: ANN401
            if failures and (failure := failures.pop(0)) is not None:
                raise failure
            set_queries(*arguments)

        monkeypatch.setattr(rig.exporter._scheduler, "set_queries", fail_once)  # noqa: SLF001
        for error in (RuntimeError, MemoryError):
            with pytest.raises(error):
                reloader.reload().result(10)
            page = rig.scrape()
            assert page.value("braze_query_up") == 1
            assert page.value("braze_exporter_config_last_reload_successful") == 0
        assert [session.is_closed for session in sessions] == [False, True, True]
        reloader.reload().result(10)
        assert [session.is_closed for session in sessions] == [True, True, True, False]
    caplog.clear()


def test_scrape_during_reload_stops_no_list(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """If the fetches of a scrape end while a reload adds lists, also of a new workspace, these are read afterwards."""
    with running_exporter("{event: purchase}", shop(), reads_lists=True) as rig:
        expand = rig.exporter._expand_plan  # noqa: SLF001 - the moment between the new lists and the new plan

        def scrape_and_expand() -> Any:  # noqa: ANN401
            rig.exporter._list_refresher.refresh()  # noqa: SLF001
            return expand()

        monkeypatch.setattr(rig.exporter, "_expand_plan", scrape_and_expand)
        staging = workspace_item_yaml(rig.url, "{regex: '.*'}", name="staging")
        sections = f"    campaigns: [{{regex: '.*'}}]\n{staging}"
        rig.apply_config("{regex: '.*'}", extra_yaml=sections)
        monkeypatch.undo()
        for _ in range(3):
            rig.clock.advance(60)
            rig.scrape()
            rig.read_lists()
        read_at = rig.page().values("braze_discovery_list_last_success_timestamp_seconds")
        assert len(read_at) == 3
        assert min(read_at) > 0
        assert len(rig.scrape().values("braze_query_up", workspace="staging", kind="custom_events")) > 0
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


class RecordingSession(requests.Session):
    """A session that knows whether it was closed."""

    is_closed = False

    def close(self) -> None:
        """Close the session."""
        self.is_closed = True
        super().close()


def test_signal_at_start_is_not_lost(tmp_path: Path) -> None:
    """A SIGHUP while the program waits for the state file does not end it, and the newest config is used afterwards."""
    with running_braze(RecordedCounts(events=["purchase", "signup"])) as (_, server):
        state, config = tmp_path / "state.sqlite", tmp_path / "config.yaml"
        write_file(config, workspace_yaml(server.url, "{event: purchase}", extra_yaml=f"state_file: {state}\n"))
        holder = open_state_file(str(state))
        command = [sys.executable, "-m", "braze_exporter", f"--config.file={config}"]
        port = free_port()
        command.append(f"--web.listen-address=127.0.0.1:{port}")
        with subprocess.Popen(  # noqa: S603 - our own program
            command, env={**os.environ, "BRAZE_API_KEY": KEY}, stderr=subprocess.DEVNULL
        ) as process:
            waiting = psutil.Process(process.pid)
            wait_until(
                lambda: any(opened.path == f"{state}.lock" for opened in waiting.open_files()), "it waits for the file"
            )
            write_file(
                config,
                workspace_yaml(server.url, "{event: purchase}\n{event: signup}", extra_yaml=f"state_file: {state}\n"),
            )
            process.send_signal(signal.SIGHUP)
            holder.close()
            program = Program(process, port)
            wait_until(lambda: program.is_responding("/-/ready"), "it is ready")
            wait_until(lambda: program.scrape().value("braze_queries", state="up") == 2, "it has read the new one")
            process.terminate()
            assert process.wait(5) == 0


def test_reload_with_other_method_is_refused(reloadable: Reloadable) -> None:
    """Methods other than POST and PUT get 405 with the methods that are allowed, and reload nothing."""
    for method in ("GET", "HEAD", "DELETE", "PATCH", "OPTIONS"):
        response = reloadable.program.get("/-/reload", method=method)
        assert (response.status, response.headers["allow"]) == (405, "POST, PUT")
    assert reloadable.reload()[0] == 200  # after any other reload
    reloadable.program.stop()
    assert reloadable.program.output.count("Completed loading of configuration file") == 1


def test_reload_by_page_of_another_site_is_refused(reloadable: Reloadable) -> None:
    """A reload that a browser requests for a page of another origin gets 403; pages of the exporter may reload."""
    program = reloadable.program
    own = f"http://127.0.0.1:{program.port}"
    for headers, status in (
        ({"Sec-Fetch-Site": "cross-site", "Origin": own}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "https://example.com"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1"}, 403),
        ({"Origin": own}, 200),
        ({"Sec-Fetch-Site": "same-origin", "Origin": "https://proxy.example.com"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
    ):
        before = program.output.count("Completed loading of configuration file")
        assert program.get("/-/reload", headers, method="POST").status == status
        wait_until(
            lambda before=before, status=status: (  # type: ignore[misc]
                program.output.count("Completed loading of configuration file") == before + (status == 200)
            ),
            "the reload is logged",
        )


def test_reload_without_lifecycle_flag_is_refused(reloadable: Reloadable) -> None:
    """Without `--web.enable-lifecycle`, a reload request gets Prometheus's 403, which names the flag."""
    with Program.start([f"--config.file={reloadable.config}"]) as program:
        for method in ("POST", "PUT"):
            response = program.get("/-/reload", method=method)
            assert response.status == 403
            assert response.text.startswith("Lifecycle API is not enabled.")
            assert "--web.enable-lifecycle" in response.text
        assert program.get("/-/reload").status == 405
        program.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "Completed loading of configuration file" in program.output, "it is reloaded")
    assert program.output.count("Completed loading of configuration file") == 1
