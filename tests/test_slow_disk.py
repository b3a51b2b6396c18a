"""Test that a disk that does not respond delays neither scrapes nor a reload nor the end of the program."""

import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from recorded_counts import RecordedCounts
from stalling_disk import StallingDisk
from support import HOUR, IOS, Program, running_braze, wait_until, workspace_yaml, write_file

from braze_exporter.state.writer import MAX_WAIT_SECONDS

TOTAL = "braze_custom_events_total"


@pytest.mark.alone
@pytest.mark.no_cover
def test_stalled_disk_delays_neither_scrapes_nor_reload_nor_end(tmp_path: Path) -> None:
    """While a write hangs, scrapes end in time with the last durable totals, and a reload and SIGTERM take seconds.

    So does a start. After a restart, the interrupted write counts once.
    """
    recorded, disk = RecordedCounts(events=["purchase"]), StallingDisk(tmp_path)
    this_hour = int(time.time()) // HOUR * HOUR
    with running_braze(recorded) as (_, server):
        extra_yaml = f"state_file: {tmp_path / 'state'}\nbudget: {{share: 0.5}}\n"
        workspace = workspace_yaml(server.url, "{event: purchase, refresh_interval: 1s}")
        config = write_file(tmp_path / "config.yaml", workspace + extra_yaml)
        arguments = [f"--config.file={config}", "--web.enable-lifecycle"]

        def wait_for_total(total: float) -> None:
            wait_until(lambda: program.scrape().value(TOTAL) == total, f"the total is {total}")

        def timed_scrape(_number: int) -> tuple[float, float | None]:
            started_at = time.monotonic()
            total = program.scrape(2).value(TOTAL)
            return time.monotonic() - started_at, total

        with Program.start(arguments, disk.environment) as program:
            wait_for_total(0)
            recorded.set("purchase", this_hour, 40)
            wait_for_total(40)
            disk.stall(600)
            recorded.set("purchase", this_hour, 60)
            wait_until(lambda: timed_scrape(0)[0] > 1, "a scrape waits for the disk")
            for _ in range(2):  # disk time does not count as rendering time, so the second one waits as long
                with ThreadPoolExecutor(3) as pool:
                    results = list(pool.map(timed_scrape, range(3)))
                assert {total for _, total in results} == {40}
                assert all(1 < seconds < 2 for seconds, _ in results), results
            page = program.scrape(2)
            assert page.value("braze_query_up") == 1
            assert page.value("braze_exporter_scrapes_incomplete_total") == 0
            assert program.is_responding("/-/ready")
            assert program.is_responding("/")
            write_file(tmp_path / "config.yaml", f"{workspace}    campaigns: [{{campaign: {IOS}}}]\n{extra_yaml}")
            started_at = time.monotonic()
            assert program.get("/-/reload", method="POST").status == 200
            assert time.monotonic() - started_at < MAX_WAIT_SECONDS + 2
            assert program.scrape(2).value("braze_queries", kind="campaigns", state="pending") is not None
            assert program.stop() < MAX_WAIT_SECONDS + 2
        assert program.process.returncode == 0
        assert 'level=ERROR msg="State file could not be written before the end" timeout=3s' in program.output
        assert "Traceback" not in program.output
        write_file(tmp_path / "config.yaml", workspace + extra_yaml)
        with Program.start(arguments, disk.environment) as program:
            assert program.scrape(2).value(TOTAL) == 40
            program.stop(signal.SIGKILL)
        disk.stall(0)
        with Program.start(arguments, disk.environment) as program:
            wait_for_total(60)


@pytest.mark.no_cover
def test_end_writes_what_no_scrape_has_written(tmp_path: Path) -> None:
    """SIGTERM writes the counters of fetches that ended after the last scrape."""
    recorded = RecordedCounts(events=["purchase"])
    this_hour = int(time.time()) // HOUR * HOUR
    with running_braze(recorded) as (braze, server):
        text = workspace_yaml(
            server.url, "{event: purchase, refresh_interval: 1s}", extra_yaml=f"state_file: {tmp_path / 'state'}\n"
        )
        arguments = [f"--config.file={write_file(tmp_path / 'config.yaml', text)}", "--timeout-offset=60"]
        with Program.start(arguments) as program:
            program.scrape(0)  # does not wait for its fetch
            wait_until(lambda: len(braze.requests) > 0, "the query is fetched")
            time.sleep(0.3)
            program.stop()
        recorded.set("purchase", this_hour, 40)
        with Program.start(arguments) as program:
            wait_until(lambda: program.scrape().value(TOTAL) == 40, "the first response was before the restart")
