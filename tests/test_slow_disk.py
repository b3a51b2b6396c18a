"""Test that a disk that does not respond delays neither scrapes nor a reload nor the end of the program."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from recorded_counts import RecordedCounts
from stalling_disk import StallingDisk
from support import HOUR, IOS, Program, running_braze, wait_until, workspace_yaml, write_file

from braze_exporter.state.writer import MAX_WAIT_SECONDS

TOTAL = "braze_custom_events_total"


@dataclass
class SlowDisk:
    """A program whose state file is on a disk that can stall, and a simulated Braze with one event."""

    recorded: RecordedCounts
    disk: StallingDisk
    config: Path
    yaml: str

    def start(self) -> Program:
        """Start the program."""
        return Program.start([f"--config.file={self.config}", "--web.enable-lifecycle"], self.disk.environment)

    def set_count(self, count: int) -> None:
        """Set the count of the current hour."""
        self.recorded.set("purchase", int(time.time()) // HOUR * HOUR, count)


@pytest.fixture
def slow_disk(tmp_path: Path) -> Iterator[SlowDisk]:
    """Run a simulated Braze, and write the config of a program whose state file is on the disk."""
    recorded = RecordedCounts(events=["purchase"])
    with running_braze(recorded) as (_, server):
        extra_yaml = f"state_file: {tmp_path / 'state'}\nbudget: {{share: 0.5}}\n"
        text = workspace_yaml(server.url, "{event: purchase, refresh_interval: 1s}", extra_yaml=extra_yaml)
        config = Path(write_file(tmp_path / "config.yaml", text))
        yield SlowDisk(recorded, StallingDisk(tmp_path), config, text)


def wait_for_total(program: Program, total: float) -> None:
    """Wait until a scrape shows `total`."""
    wait_until(lambda: program.scrape().value(TOTAL) == total, f"the total is {total}")


def timed_scrape(program: Program) -> tuple[float, float | None]:
    """Return the seconds that a scrape with a timeout of two seconds takes, and its total."""
    started_at = time.monotonic()
    total = program.scrape(2).value(TOTAL)
    return time.monotonic() - started_at, total


@pytest.mark.alone
def test_stalled_disk_delays_no_scrape(slow_disk: SlowDisk) -> None:
    """While a write hangs, scrapes end in time with the last durable totals."""
    with slow_disk.start() as program:
        wait_for_total(program, 0)
        slow_disk.set_count(40)
        wait_for_total(program, 40)
        slow_disk.disk.stall(600)
        slow_disk.set_count(60)
        wait_until(lambda: timed_scrape(program)[0] > 1, "a scrape waits for the disk")
        for _ in range(2):  # disk time does not count as rendering time, so the second one waits as long
            with ThreadPoolExecutor(3) as pool:
                results = list(pool.map(timed_scrape, [program] * 3))
            assert {total for _, total in results} == {40}
            assert all(1 < seconds < 2 for seconds, _ in results), results
        page = program.scrape(2)
        assert page.value("braze_query_up") == 1
        assert page.value("braze_exporter_scrapes_incomplete_total") == 0
        program.stop(signal.SIGKILL)


@pytest.mark.no_cover
def test_stalled_disk_delays_neither_reload_nor_end_nor_start(slow_disk: SlowDisk) -> None:
    """While a write hangs, a reload, SIGTERM and a start take seconds. After a restart, the write counts once."""
    with slow_disk.start() as program:
        wait_for_total(program, 0)
        slow_disk.disk.stall(600)
        slow_disk.set_count(60)
        wait_until(lambda: timed_scrape(program)[0] > 1, "a scrape waits for the disk")
        assert program.is_responding("/-/ready")
        assert program.is_responding("/")
        campaigns = f"    campaigns: [{{campaign: {IOS}}}]\nstate_file:"
        write_file(slow_disk.config, slow_disk.yaml.replace("state_file:", campaigns))
        started_at = time.monotonic()
        assert program.get("/-/reload", method="POST").status == 200
        assert time.monotonic() - started_at < MAX_WAIT_SECONDS + 2
        assert program.scrape(2).value("braze_queries", kind="campaigns", state="pending") is not None
        assert program.stop() < MAX_WAIT_SECONDS + 2
    assert program.process.returncode == 0
    assert 'level=ERROR msg="State file could not be written before the end" timeout=3s' in program.output
    assert "Traceback" not in program.output
    write_file(slow_disk.config, slow_disk.yaml)
    with slow_disk.start() as program:
        assert program.scrape(2).value(TOTAL) == 0
        program.stop(signal.SIGKILL)
    slow_disk.disk.stall(0)
    with slow_disk.start() as program:
        wait_for_total(program, 60)


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
