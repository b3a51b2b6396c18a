"""Test the program with a read-only root and no temporary directory; only its state directory is writable.

Needs Linux, root, and `unshare`, `mount` and `setpriv` (Debian: mount, util-linux). Without them the tests are skipped,
except in CI, where they fail.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from recorded_counts import RecordedCounts
from servers import require_tool
from support import HOUR, KEY, MetricsPage, Program, running_braze, wait_until, workspace_yaml, write_file

pytestmark = pytest.mark.no_cover

# A single statement writes fewer rows than this, so each transaction has several statements.
EVENTS = [f"event {number}" for number in range(500)]


@pytest.fixture
def sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sequence[str]:
    """Return a command prefix that makes only the directory `state` writable."""
    command = (
        require_tool("unshare"),
        "--mount",
        str(Path(__file__).with_name("read_only.sh")),
        str(tmp_path / "state"),
    )
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)  # the coverage data could not be written
    (tmp_path / "state").mkdir()
    require_tool("mount")
    require_tool("setpriv")
    probe = "import tempfile; tempfile.TemporaryFile(dir='state')\ntry: tempfile.gettempdir()\n"
    probe += "except FileNotFoundError: print('read-only')"
    probe = probe.replace("'state'", repr(str(tmp_path / "state")))
    done = subprocess.run([*command, sys.executable, "-c", probe], capture_output=True, text=True, check=False)  # noqa: S603
    if done.stdout != "read-only\n":
        (pytest.fail if os.environ.get("CI") else pytest.skip)(
            f"the sandbox cannot be made: {done.stdout}{done.stderr}"
        )
    return command


@pytest.fixture
def braze() -> Iterator[tuple[RecordedCounts, str]]:
    """Run a simulated Braze with many events; yield its counts and its URL."""
    recorded = RecordedCounts(events=EVENTS)
    with running_braze(recorded) as (_, server):
        yield recorded, server.url


def test_many_counters_need_no_temporary_directory(
    braze: tuple[RecordedCounts, str], sandbox: Sequence[str], tmp_path: Path
) -> None:
    """Five hundred counters are written, and are still there after kill -9."""
    recorded, url = braze
    extra_yaml = (
        f"state_file: {tmp_path / 'state' / 'state.sqlite'}\nbudget: {{share: 1}}\nrefresh_interval: {{hour: 8s}}\n"
    )
    config = write_file(
        tmp_path / "config.yaml",
        workspace_yaml(url, "\n".join(f"{{event: {name}}}" for name in EVENTS), extra_yaml=extra_yaml),
    )
    this_hour = int(time.time()) // HOUR * HOUR

    def totals(page: MetricsPage) -> set[float]:
        assert page.value("braze_exporter_state_write_failures_total") == 0
        return set(page.values("braze_custom_events_total"))

    def set_counts(count: int) -> None:
        for name in EVENTS:
            recorded.set(name, this_hour, count)

    set_counts(5)
    with Program.start([f"--config.file={config}"], prefix=sandbox) as program:
        wait_until(
            lambda: len(program.scrape().values("braze_custom_events_total")) == len(EVENTS),
            "all queries have succeeded",
        )
        set_counts(30)
        wait_until(lambda: totals(program.scrape()) == {25}, "all are counted")
        program.stop(signal.SIGKILL)
    set_counts(31)
    with Program.start([f"--config.file={config}"], prefix=sandbox) as program:
        assert min(totals(program.scrape())) >= 25
        wait_until(lambda: totals(program.scrape()) == {26}, "what happened meanwhile is counted")


@pytest.mark.parametrize("command", ["check --live", "discover", "rules", "dashboard", "backfill"])
def test_no_command_needs_a_temporary_directory(
    braze: tuple[RecordedCounts, str], sandbox: Sequence[str], tmp_path: Path, command: str
) -> None:
    """Each command succeeds, and only `backfill` writes to its output file."""
    recorded, url = braze
    recorded.set("event 1", int(time.time()) // HOUR * HOUR, 5)
    output = tmp_path / "state" / "history.om"
    config = write_file(
        tmp_path / "config.yaml", workspace_yaml(url, "{event: event 1}").replace("segments:", "# none:")
    )
    arguments = [*command.split(), f"--config.file={config}"]
    if command == "backfill":
        end = int(time.time()) - 4 * HOUR
        labels = ("--label=job=braze", "--label=instance=exporter")
        arguments += [f"--start={end - 1_000 * HOUR}", f"--end={end}", *labels, f"--output={output}"]
    done = subprocess.run(  # noqa: S603 - our own program
        [*sandbox, sys.executable, "-m", "braze_exporter", *arguments],
        env={**os.environ, "BRAZE_API_KEY": KEY},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert output.exists() is (command == "backfill")
