"""A config is changed under way: what stays goes on, what is bad changes nothing, and both are told."""

import itertools
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
from zoneinfo import ZoneInfo

import psutil
import pytest
import response_faults
import transfer_faults
from recorded_counts import Recorded
from simulated_braze import FaultInjectingBraze
from support import (
    HOUR,
    IOS,
    KEY,
    NOW,
    THIS_HOUR,
    Page,
    Program,
    Rig,
    free_port,
    rig,
    series_requests,
    simulated,
    until,
    workspace,
    write,
)

from braze_exporter.scheduler.rate_limiter import HOLD
from braze_exporter.state import open_store

BASELINE = "braze_custom_events_hourly_baseline"
LATEST = "braze_custom_events_hourly_latest"
LAST_SUCCESS = "braze_custom_events_hourly_last_success_timestamp_seconds"
SUCCESSFUL = "braze_exporter_config_last_reload_successful"
SUCCESS_TIME = "braze_exporter_config_last_reload_success_timestamp_seconds"


def shop() -> Recorded:
    """Return a made-up shop with some purchases in each hour."""
    recorded = Recorded(events=["purchase", "signup"])
    for back in range(200):
        for app in ("", IOS):
            recorded.set("purchase", THIS_HOUR - back * HOUR, 10 + back, app)
    return recorded


def asked(exporter: Rig) -> list[str | None]:
    """Return the events that were asked for."""
    return [request.event for request in exporter.braze.requests]


def test_what_stays_is_not_asked_again_and_what_is_new_is() -> None:
    """A query that stays keeps its reading and its next time; one that goes leaves nothing behind."""
    with rig("{event: purchase}\n{event: quiet}", shop()) as exporter:
        exporter.scrape()
        exporter.clock.advance(60)
        exporter.use("{event: signup}\n{event: purchase}")
        page = exporter.scrape()
        assert sorted(map(str, asked(exporter))) == ["purchase", "quiet", "signup"]
        assert page.value(LATEST, event="purchase") == 10
        assert page.value(LAST_SUCCESS, event="purchase") == NOW
        assert page.value(LAST_SUCCESS, event="signup") == NOW + 60
        assert page.of(LAST_SUCCESS, event="quiet") == []
        assert page.of("braze_custom_events_total", event="quiet") == []
        exporter.clock.advance(240)
        exporter.scrape()
        assert asked(exporter)[3:] == ["purchase"]


def test_counters_go_on_under_new_names() -> None:
    """A name for the labels may change, and so may the order; what was counted stays, and late data is still seen."""
    recorded = shop()
    with rig("{event: purchase, apps: [ios, all]}", recorded) as exporter:
        exporter.begin()
        recorded.set("purchase", THIS_HOUR, 15, IOS)
        recorded.set("purchase", THIS_HOUR, 17)
        exporter.scrape()
        exporter.use("{event: purchase, apps: [all, ios]}", ios="iphone")
        page = exporter.page()
        assert page.value("braze_custom_events_filtered_total", braze_app="iphone") == 5
        assert page.value("braze_custom_events_filtered_hourly_latest", braze_app="iphone") == 15
        assert page.of("braze_custom_events_filtered_total", braze_app="ios") == []
        assert page.value("braze_custom_events_total") == 7
        recorded.set("purchase", THIS_HOUR - HOUR, 111)
        exporter.clock.advance(300)
        assert exporter.scrape().value("braze_custom_events_total") == 107


def test_a_shorter_refresh_counts_at_once_and_a_longer_one_from_the_next_call() -> None:
    """After a reload nothing waits for longer than its new refresh."""
    with rig("{event: purchase, refresh: 1h}\n{event: signup, refresh: 1m}", shop()) as exporter:
        exporter.scrape()
        exporter.braze.reset()
        exporter.use("{event: purchase, refresh: 1m}\n{event: signup, refresh: 1h}")
        for _ in range(10):
            exporter.clock.advance(60)
            exporter.scrape()
        assert asked(exporter).count("purchase") == 10
        assert asked(exporter).count("signup") == 1


def test_settling_and_ages_are_judged_by_the_new_settings() -> None:
    """What is held is shown as the new `settle` and `max_age` have it, without a call."""
    with rig("{event: purchase}", shop()) as exporter:
        exporter.scrape()
        settled = "braze_custom_events_hourly_settled"
        assert exporter.page().value(settled) == 12
        exporter.use("{event: purchase}", rest="settle: {hour: 10m}\n")
        assert exporter.page().value(settled) == 11
        exporter.clock.advance(1_200)
        exporter.use("{event: purchase, max_age: 15m}")
        assert exporter.page().of(settled) == []
        exporter.use("{event: purchase}")
        assert exporter.page().value(settled) == 12
        assert len(exporter.braze.requests) == 1


def test_another_zone_or_unit_is_another_query() -> None:
    """What was read in another time zone, or by another unit, is asked for anew; the counter goes on."""
    recorded = shop()
    with rig("{event: purchase}", recorded) as exporter:
        exporter.begin()
        recorded.set("purchase", THIS_HOUR, 15)
        exporter.scrape()
        exporter.use("{event: purchase}", **{"America/New_York": "Europe/Berlin"})
        page = exporter.page()
        assert page.of(LATEST) == []
        assert page.value("braze_custom_events_total") == 5
        exporter.clock.advance(1)  # its share of the budget has to grow
        assert exporter.scrape().value(LATEST) == 15
        assert len(exporter.braze.requests) == 2


def test_a_fetch_under_way_is_neither_lost_nor_doubled() -> None:
    """What was asked before the reload is answered after it, and nothing is asked twice; what went is let go."""
    events = "\n".join(f"{{event: purchase, apps: [{app}]}}" for app in ("all", "ios")) + "\n{event: signup}"
    with rig(events, shop()) as exporter, ThreadPoolExecutor(2) as pool:
        exporter.begin()
        exporter.braze.fail(transfer_faults.hold())
        page = pool.submit(exporter.scrape)
        exporter.braze.wait_for(3)
        exporter.use("{event: purchase}\n{event: new}", rest="budget: {concurrency: 2}\n")
        exporter.clock.advance(1)
        second = pool.submit(exporter.scrape)
        exporter.braze.wait_for(4)
        exporter.braze.heal()
        assert page.result().value(LAST_SUCCESS, event="purchase") == NOW + 301
        assert second.result().value("braze_exporter_queries", state="up") == 2
        assert len(exporter.braze.requests) == 4
        assert second.result().of("braze_custom_events_filtered_total") == []


def test_what_is_queued_and_goes_is_not_asked() -> None:
    """A query that had its turn still before it when it went costs no call."""
    rest = "budget: {concurrency: 1}\n"
    with rig("{event: signup}\n{event: purchase}\n{event: quiet}", shop(), rest=rest) as exporter:
        exporter.begin()
        exporter.braze.fail(transfer_faults.hold())
        waiting = exporter.exporter.refresh()
        exporter.braze.wait_for(1)
        exporter.use("{event: signup}", rest=rest)
        exporter.braze.heal()
        waiting.result(5)
        exporter.clock.advance(300)
        exporter.scrape()
        assert asked(exporter) == ["signup", "signup"]


def test_a_refusal_of_a_query_that_went_is_looked_into_by_another() -> None:
    """When the refused query is gone, one that is not due finds out that the key is good."""
    with rig("{event: purchase, refresh: 1m}\n{event: signup, refresh: 1h}", shop()) as exporter:
        exporter.begin()
        exporter.braze.fail(response_faults.status(401), times=1)
        assert exporter.scrape().value("braze_up") == 0
        exporter.use("{event: signup, refresh: 1h}")
        exporter.clock.advance(HOLD)
        assert exporter.scrape().value("braze_up") == 1
        assert asked(exporter) == ["purchase", "signup"]


def read_history(exporter: Rig) -> float:
    """Scrape until the baseline is there, and return it."""

    def is_read() -> bool:
        exporter.clock.advance(10)
        return exporter.scrape().value(BASELINE) is not None

    until(is_read, "the history is read")
    return exporter.page().of(BASELINE)[0]


def test_the_history_of_a_baseline_is_read_once() -> None:
    """A baseline that stays needs no call; one that looks back over other weeks is read anew."""
    with rig("{event: purchase, baseline: {weeks: 1}}", shop()) as exporter:

        def history() -> int:
            return sum("ending_at" in request.params for request in exporter.braze.requests)

        baseline = read_history(exporter)
        pieces = history()
        exporter.use("{event: signup}\n{event: purchase, baseline: {weeks: 1}, refresh: 10m}")
        assert exporter.page().value(BASELINE) == baseline
        for _ in range(20):
            exporter.clock.advance(10)
            exporter.scrape()
        assert history() <= max(pieces, 2)
        exporter.use("{event: purchase, baseline: {weeks: 2}}")
        assert exporter.page().of(BASELINE) == []
        read_history(exporter)
        assert history() > 2


def test_history_that_is_still_to_be_read_is_forgotten_with_its_query() -> None:
    """Of a query that went, or that looks back over other weeks, no further piece of the old history is asked for."""
    with rig("{event: purchase, baseline: {weeks: 8}}\n{event: signup, baseline: {weeks: 8}}", shop()) as exporter:
        exporter.scrape()
        exporter.use("{event: purchase, baseline: {weeks: 1}}")
        read_history(exporter)
        pieces = [request for request in exporter.braze.requests if "ending_at" in request.params]
        assert len(pieces) <= 2 + 2  # a scrape before the change had asked for up to two
        assert asked(exporter).count("signup") <= 1 + 2


def test_a_workspace_that_goes_takes_its_metrics_with_it() -> None:
    """Neither its own metrics nor its errors and quotas stay."""
    with rig("{event: purchase}", shop()) as exporter:
        exporter.scrape()
        exporter.use("{event: purchase}", production="staging")
        page = exporter.scrape()
    assert page.value("braze_up", workspace="staging") == 1
    assert page.value("braze_api_quota_limit", workspace="staging") == 250_000
    assert {dict(labels).get("workspace", "staging") for _, labels in page.samples} == {"staging"}


def test_a_call_under_way_leaves_no_metric_of_a_workspace_that_went() -> None:
    """What is answered after the workspace went is not counted for it, and nobody waits for it."""
    with rig("{event: purchase}", shop()) as exporter, ThreadPoolExecutor(1) as pool:
        exporter.begin()
        exporter.braze.fail(transfer_faults.hold())
        page = pool.submit(exporter.scrape)
        exporter.braze.wait_for(1)
        exporter.use("{event: purchase}", production="staging")
        page.result(5)
        assert exporter.exporter.refresh() is not None
        exporter.braze.heal()
        exporter.clock.advance(1)
        page = pool.submit(exporter.scrape)
        names = {dict(labels).get("workspace", "staging") for _, labels in page.result().samples}
    assert names == {"staging"}


def test_a_wrong_zone_is_not_told_of_days_that_went() -> None:
    """The mismatch is of answers under the config that is used."""
    with rig("{event: purchase, unit: day}\n{event: signup}", shop()) as exporter:
        exporter.braze.zone = ZoneInfo("Pacific/Kiritimati")
        assert exporter.scrape().value("braze_workspace_timezone_mismatch") == 1
        exporter.use("{event: signup}")
        assert exporter.scrape().of("braze_workspace_timezone_mismatch") == []


@dataclass
class Reloadable:
    """A running program, and the files that it reads."""

    program: Program
    braze: FaultInjectingBraze
    config: Path
    key: Path
    url: str

    def write(self, events: str, rest: str = "") -> None:
        """Write the config, with the key in its file."""
        text = workspace(self.url, events, rest=rest).replace("api_key_env: BRAZE_API_KEY", f"api_key_file: {self.key}")
        write(self.config, text)

    def reload(self) -> tuple[int, str]:
        """Ask for a reload, and return the status and the text."""
        answer = self.program.get("/-/reload", method="POST")
        return answer.status, answer.text

    def scrape_until(self, **states: int) -> Page:
        """Scrape until so many queries are in these states: what is new waits for its share of the budget."""
        pages: list[Page] = []

        def is_so() -> bool:
            pages.append(self.program.scrape())
            return all(
                pages[-1].value("braze_exporter_queries", state=state) == count for state, count in states.items()
            )

        until(is_so, f"the queries are {states}")
        return pages[-1]


@pytest.fixture
def reloadable(tmp_path: Path) -> Iterator[Reloadable]:
    """Run the program with one event."""
    with simulated(Recorded(events=["purchase", "signup"])) as (braze, server):
        key = tmp_path / "key"
        write(key, KEY)
        found = Reloadable(None, braze, tmp_path / "config.yaml", key, server.url)  # type: ignore[arg-type] # set below
        found.write("{event: purchase}")
        with Program.start([f"--config.file={found.config}", "--web.enable-lifecycle"]) as program:
            found.program = program
            yield found


def test_a_request_reloads(reloadable: Reloadable) -> None:
    """A good file is used at once, and the metrics and the log say so."""
    before = reloadable.program.scrape()
    assert before.value(SUCCESSFUL) == 1
    assert time.time() - 60 < (before.value(SUCCESS_TIME) or 0) < time.time()
    reloadable.write("{event: signup}\n{event: purchase}")
    assert reloadable.reload() == (200, "Reloaded.\n")
    page = reloadable.scrape_until(up=2)
    assert page.value(LAST_SUCCESS, event="purchase") == before.value(LAST_SUCCESS, event="purchase")
    assert page.value(SUCCESSFUL) == 1
    assert (page.value(SUCCESS_TIME) or 0) > (before.value(SUCCESS_TIME) or 0)
    assert [request.event for request in series_requests(reloadable.braze)] == ["purchase", "signup"]
    assert 'msg="config reloaded" queries=2 added=1 removed=0' in reloadable.program.output
    assert "2 queries" in reloadable.program.get("/").text


def test_a_bad_file_is_answered_with_its_problems_and_changes_nothing(reloadable: Reloadable) -> None:
    """The old config goes on, every problem is said at once, and a good file puts it right."""
    before = reloadable.program.scrape()
    reloadable.write("{event: purchase, unit: week}\n{name: signup}")
    status, text = reloadable.reload()
    assert status == 400
    assert text == (
        f'{reloadable.config}:9: workspaces[0].custom_events[0].unit: must be hour or day, not "week"\n'
        f"{reloadable.config}:10: workspaces[0].custom_events[1].event: is required: add it, or match with a pattern "
        "for names\n"
        f"{reloadable.config}:10: workspaces[0].custom_events[1].name: unknown key: here are "
        "known event, unit, apps, segments, match, refresh, settle, max_age, baseline, alerts\n"
    )
    page = reloadable.program.scrape()
    assert page.value(SUCCESSFUL) == 0
    assert page.value(SUCCESS_TIME) == before.value(SUCCESS_TIME)
    assert page.value(LAST_SUCCESS) == before.value(LAST_SUCCESS)
    assert 'msg="the config cannot be used: the one before goes on"' in reloadable.program.output
    assert reloadable.program.output.count('msg="problem of the config"') == 3
    reloadable.write("{event: purchase}")
    assert reloadable.reload()[0] == 200
    assert reloadable.program.scrape().value(SUCCESSFUL) == 1


@pytest.mark.parametrize(
    ("rest", "problem"),
    [
        ("max_queries: 1\n", "max_queries: is 1, but the entries make 2 queries: raise it, or ask for less"),
        ("refresh: {hour: 1s}\nbudget: {share: 0.001}\n", "custom_events by the hour needs refresh ≥ 29s"),
        ("state_file: /tmp/state\n", "state_file: cannot change while the exporter runs: restart it, or put the old"),
    ],
)
def test_what_cannot_be_carried_out_is_refused(reloadable: Reloadable, rest: str, problem: str) -> None:
    """A file that is well-formed and asks for what cannot be had is as bad as one that is not."""
    reloadable.write("{event: purchase}\n{event: signup}", rest)
    status, text = reloadable.reload()
    assert status == 400
    assert problem in text
    assert text.count("\n") == 1
    assert reloadable.program.scrape().value(SUCCESSFUL) == 0
    assert [request.event for request in series_requests(reloadable.braze)] == ["purchase"]


def test_a_missing_file_is_a_bad_file(reloadable: Reloadable) -> None:
    """A file that went is named, and the config that was read goes on."""
    reloadable.config.unlink()
    status, text = reloadable.reload()
    expected = f"{reloadable.config}: cannot be read (No such file or directory): give the config file by --config.file"
    assert (status, text) == (400, expected + "\n")
    assert reloadable.program.scrape().value("braze_up") == 1


def test_a_key_is_rotated_without_a_restart(reloadable: Reloadable) -> None:
    """After a reload the new key is used at once, though the old one was refused a moment ago."""
    reloadable.program.scrape()
    reloadable.braze.key = "another-key"
    reloadable.write("{event: purchase}\n{event: signup}")
    assert reloadable.reload()[0] == 200
    page = reloadable.scrape_until(up=0)
    assert page.of("braze_custom_events_hourly_up") == [0, 0]
    write(reloadable.key, "another-key\n")
    assert reloadable.reload()[0] == 200
    page = reloadable.scrape_until(up=2)
    assert page.value("braze_up") == 1
    assert [key for key, _ in itertools.groupby(request.key for request in reloadable.braze.requests)] == [
        KEY,
        "another-key",
    ]
    write(reloadable.key, "")
    assert reloadable.reload() == (
        400,
        f"{reloadable.config}:4: workspaces[0].api_key_file: the file is empty: write the REST API key into it\n",
    )


def test_sighup_reloads(reloadable: Reloadable) -> None:
    """The signal does what the request does; a bad file is in the log and in the metrics."""
    reloadable.write("{event: signup}\n{event: purchase}")
    os.kill(reloadable.program.process.pid, signal.SIGHUP)
    until(lambda: "config reloaded" in reloadable.program.output, "it is reloaded")
    reloadable.scrape_until(up=2)
    reloadable.write("{event: 7}")
    os.kill(reloadable.program.process.pid, signal.SIGHUP)
    until(lambda: "problem of the config" in reloadable.program.output, "it is refused")
    assert reloadable.program.scrape().value(SUCCESSFUL) == 0
    assert reloadable.program.stop() < 2
    assert reloadable.program.process.returncode == 0
    assert "Traceback" not in reloadable.program.output


def test_a_flood_of_signals_and_scrapes_loses_nothing(reloadable: Reloadable) -> None:
    """With reloads and scrapes at once every scrape is whole, and nothing is asked more than once in its refresh."""
    reloadable.write("{event: signup}\n{event: purchase}")

    def scrape(_: int) -> Page:
        return reloadable.program.scrape()

    with ThreadPoolExecutor(4) as pool:
        pages = pool.map(scrape, range(60))
        for _ in range(30):
            os.kill(reloadable.program.process.pid, signal.SIGHUP)
        assert all(page.value("braze_up") == 1 for page in pages)
    reloadable.scrape_until(up=2)
    assert sorted(str(request.event) for request in series_requests(reloadable.braze)) == ["purchase", "signup"]
    assert "Traceback" not in reloadable.program.output


def test_a_file_that_cannot_be_read_to_its_end_keeps_nothing_from_ending(reloadable: Reloadable) -> None:
    """With a config on a disk that stands still, scrapes are answered, and a signal ends it at once."""
    reloadable.config.unlink()
    os.mkfifo(reloadable.config)
    for _ in range(3):
        os.kill(reloadable.program.process.pid, signal.SIGHUP)
    with socket.create_connection(("127.0.0.1", reloadable.program.port)) as client:
        client.sendall(b"POST /-/reload HTTP/1.1\r\nHost: x\r\n\r\n")
        assert reloadable.program.scrape().value("braze_up") == 1
        assert reloadable.program.stop() < 2
    assert reloadable.program.process.returncode == 0


def test_a_signal_at_the_start_is_not_lost(tmp_path: Path) -> None:
    """SIGHUP while the state file is waited for ends nothing, and has the newest config read once it can be."""
    with simulated(Recorded(events=["purchase", "signup"])) as (_, server):
        state, config = tmp_path / "state.sqlite", tmp_path / "config.yaml"
        write(config, workspace(server.url, "{event: purchase}", rest=f"state_file: {state}\n"))
        holder = open_store(str(state))
        command = [sys.executable, "-m", "braze_exporter", f"--config.file={config}"]
        port = free_port()
        command.append(f"--web.listen-address=127.0.0.1:{port}")
        with subprocess.Popen(  # noqa: S603 - our own program
            command, env={**os.environ, "BRAZE_API_KEY": KEY}, stderr=subprocess.DEVNULL
        ) as process:
            waiting = psutil.Process(process.pid)
            until(lambda: any(found.path == str(state) for found in waiting.open_files()), "it waits for the file")
            write(config, workspace(server.url, "{event: purchase}\n{event: signup}", rest=f"state_file: {state}\n"))
            process.send_signal(signal.SIGHUP)
            holder.close()
            program = Program(process, port)  # type: ignore[arg-type] # its output is not read
            until(lambda: program.answers("/-/ready"), "it is ready")
            until(lambda: program.scrape().value("braze_exporter_queries", state="up") == 2, "it has read the new one")
            process.terminate()
            assert process.wait(5) == 0


def test_who_may_reload(reloadable: Reloadable, tmp_path: Path) -> None:
    """Only POST does, and only with the flag; without it the answer says how."""
    for method in ("GET", "HEAD", "PUT"):
        answer = reloadable.program.get("/-/reload", method=method)
        assert (answer.status, answer.headers["allow"]) == (405, "POST")
    with Program.start([f"--config.file={reloadable.config}"]) as program:
        answer = program.get("/-/reload", method="POST")
        assert answer.status == 403
        assert "--web.enable-lifecycle" in answer.text
        assert program.get("/-/reload").status == 405
    assert "config reloaded" not in reloadable.program.output + program.output
    assert tmp_path.is_dir()
