"""Test the `backfill` command as a user runs it: interruption, resuming, and messages that say what to do."""

import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from math import ceil
from pathlib import Path

import pytest
import transfer_faults
from backfills import SETTLED, backfill_arguments, samples, start_program, unfiltered_labels
from recorded_counts import RecordedCounts
from simulated_braze import FaultInjectingBraze
from support import KEY, run_program, running_braze, workspace_yaml, write_file
from wsgi_server import Server

# Command-line values: a span of several months up to yesterday, which takes `CALLS` calls.
YESTERDAY = datetime.fromtimestamp(time.time() - 86_400, UTC).replace(hour=12, minute=0, second=0, microsecond=0)
START, END = ((YESTERDAY - timedelta(hours=back)).isoformat() for back in (4_000, 0))
CALLS = 41


@pytest.fixture
def braze() -> Iterator[tuple[FaultInjectingBraze, Server]]:
    """Run a simulated Braze with an event whose counts are all zero."""
    with running_braze(RecordedCounts(events=["purchase"])) as running:
        yield running


@pytest.fixture
def command(braze: tuple[FaultInjectingBraze, Server], tmp_path: Path) -> tuple[str, ...]:
    """Return the command line of a backfill whose budget does not slow it down."""
    config = workspace_yaml(braze[1].url, "{event: purchase}", extra_yaml="budget: {share: 1, reserve: 0}\n")
    return (*backfill_arguments(write_file(tmp_path / "config.yaml", config), tmp_path / "history.om", START, END),)


def endings(braze: FaultInjectingBraze) -> list[str]:
    """Return the `ending_at` parameter of each request that Braze received."""
    return [request.params["ending_at"] for request in braze.requests]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_backfill_after_interrupt_resumes(
    braze: tuple[FaultInjectingBraze, Server], command: tuple[str, ...], tmp_path: Path, how: signal.Signals
) -> None:
    """An interrupted backfill exits with one line, and the next run fetches only the missing chunks."""
    output = tmp_path / "history.om"
    braze[0].inject(transfer_faults.delay(0.01), times=15)
    braze[0].inject(transfer_faults.hold())
    with start_program(*command) as process:
        braze[0].wait_for(25)  # ten of them have no response
        process.send_signal(how)
        _, message = process.communicate(timeout=15)  # shorter than the 30 s after which a request to Braze times out
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[how]
    assert not output.exists()
    if how is not signal.SIGKILL:
        assert message.splitlines()[-1] == (
            f"braze-exporter: stopped by {how.name} before it finished. "
            f"The responses to 15 of {CALLS} calls are saved in {output}.partial; run the same command again to resume"
        )
        assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "history.om.partial"]
    assert "Traceback" not in message
    first = endings(braze[0])
    braze[0].clear_faults()
    braze[0].reset()
    done = run_program(*command, BRAZE_API_KEY=KEY)
    assert done.returncode == 0, done.stderr
    second = endings(braze[0])
    assert len(set(first) | set(second)) == CALLS
    assert len(second) == len(set(second)) == CALLS - 15
    text = output.read_text(encoding="utf-8")
    assert len(samples(text)[SETTLED, unfiltered_labels(event="purchase")]) == 4_000 - 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "history.om"]


def with_key() -> dict[str, str]:
    """Return the environment with the API key."""
    return {**os.environ, "BRAZE_API_KEY": KEY}


def test_second_backfill_of_same_output_is_refused(
    braze: tuple[FaultInjectingBraze, Server], command: tuple[str, ...], tmp_path: Path
) -> None:
    """A second backfill to the same output is refused and does not disturb the first."""
    braze[0].inject(transfer_faults.hold())
    with start_program(*command) as process:
        braze[0].wait_for(1)
        done = run_program(*command, BRAZE_API_KEY=KEY)
        assert done.returncode == 1
        assert (
            done.stderr == f"{tmp_path}/history.om.partial is locked by another backfill; wait until it has finished\n"
        )
        braze[0].clear_faults()
        process.communicate(timeout=20)
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("name", "is_link"),
    [
        ("history.om.partial", False),
        ("history.om.partial", True),
        ("history.om.partial-text", False),
        ("history.om", True),
    ],
)
def test_foreign_file_at_output_is_refused(
    braze: tuple[FaultInjectingBraze, Server],
    command: tuple[str, ...],
    tmp_path: Path,
    name: str,
    *,
    is_link: bool,
) -> None:
    """A file or link that no backfill created is refused and left unchanged, and no request is sent to Braze."""
    if is_link:
        (tmp_path / name).symlink_to("missing")
    else:
        (tmp_path / name).write_bytes(b"precious")
    done = run_program(*command, BRAZE_API_KEY=KEY)
    assert done.returncode == 1
    problem = "not a regular file" if is_link else "a file of another type"
    assert done.stderr == (
        f"--output={tmp_path / name} already exists; choose another path, or remove the file\n"
        if name == "history.om"
        else f"{tmp_path / name} is {problem}; choose another --output, or move the file\n"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", name]
    assert is_link or (tmp_path / name).read_bytes() == b"precious"
    assert braze[0].requests == []


def test_output_created_meanwhile_is_kept(
    braze: tuple[FaultInjectingBraze, Server], command: tuple[str, ...], tmp_path: Path
) -> None:
    """An output file that another program creates during the backfill is not replaced, and the fetched data is kept."""
    output = tmp_path / "history.om"
    braze[0].inject(transfer_faults.hold())
    with start_program(*command) as process:
        braze[0].wait_for(1)
        output.write_bytes(b"precious")
        (tmp_path / "history.om.partial-text").symlink_to("history.om")
        braze[0].clear_faults()
        _, message = process.communicate(timeout=30)
    assert process.returncode == 1
    created = f"{output} was created by another program during the backfill; move the file. "
    saved = f"The responses to {CALLS} of {CALLS} calls are saved"
    assert message.splitlines()[-1].startswith(f"{created}{saved}")
    assert output.read_bytes() == b"precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "history.om", "history.om.partial"]


def test_deleted_directory_ends_backfill(
    braze: tuple[FaultInjectingBraze, Server], command: tuple[str, ...], tmp_path: Path
) -> None:
    """If the directory of the output is deleted, the backfill ends with a line that says that nothing is saved."""
    directory = tmp_path / "deleted"
    directory.mkdir()
    braze[0].inject(transfer_faults.delay(0.01), times=15)
    braze[0].inject(transfer_faults.hold())
    with start_program(*command, f"--output={directory}/history.om") as process:
        braze[0].wait_for(25)
        shutil.rmtree(directory)
        braze[0].clear_faults()
        _, message = process.communicate(timeout=30)
    assert process.returncode == 1
    assert re.fullmatch(
        rf"{directory}/history\.om\.partial was deleted or replaced\. "
        rf"The responses to \d+ of {CALLS} calls are lost",
        message.splitlines()[-1],
    )
    assert not directory.exists()


def test_backfill_prints_instructions(command: tuple[str, ...], tmp_path: Path) -> None:
    """The output is a shell script: comments, and the promtool command, which needs the variable `DATA`."""
    started = datetime.now(UTC)
    done = run_program(*command, BRAZE_API_KEY=KEY)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if not line.startswith("# ")] == [
        f'promtool tsdb create-blocks-from openmetrics --max-block-duration=720h {tmp_path}/history.om "${{DATA:?}}"'
    ]
    oldest = datetime.fromisoformat(START) + timedelta(hours=2)  # the end of the first hour, plus `settle`
    newest = datetime.fromisoformat(END) - timedelta(hours=1)
    times = f"from {oldest:%Y-%m-%dT%H:%M:%SZ} to {newest:%Y-%m-%dT%H:%M:%SZ}"
    assert lines[0].endswith(f"/history.om contains 7,997 samples of 2 series, {times}.")
    (days,) = re.findall(r"--storage\.tsdb\.retention\.time=(\d+)d or more", done.stdout)
    assert int(days) in {ceil((now - oldest) / timedelta(days=1)) + 1 for now in (started, datetime.now(UTC))}
    assert lines[-1] == (
        '# min(min_over_time(timestamp(braze_exporter_build_info{job="braze", instance="exporter:27293"})[1y:1m])) - 60'
    )
    script = subprocess.run(["sh", "-c", done.stdout], capture_output=True, text=True, check=False)  # noqa: S603, S607
    assert script.returncode != 0
    assert "DATA" in script.stderr
    again = run_program(*command, BRAZE_API_KEY=KEY)
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr == f"--output={tmp_path}/history.om already exists; choose another path, or remove the file\n"


@pytest.mark.parametrize(
    ("changes", "code", "failure"),
    [
        ({"--start": "yesterday"}, 2, 'argument --start: invalid time "yesterday"; expected a date'),
        ({"--label": "job"}, 2, 'argument --label: invalid label "job"; expected name=value'),
        ({"--end": ""}, 2, "--end=… is required. Set it to the time of the first sample"),
        ({"--label": "job=other"}, 2, "--label instance=… is required. Set all target labels as in Prometheus"),
        ({"--output": "/nowhere/x"}, 1, "directory /nowhere does not exist; create it"),
    ],
)
def test_user_mistake_is_one_error_line(
    braze: tuple[FaultInjectingBraze, Server],
    command: tuple[str, ...],
    changes: dict[str, str],
    code: int,
    failure: str,
) -> None:
    """Wrong usage exits with 2 and an impossible request with 1, and no request is sent to Braze."""
    kept = [argument for argument in command if argument.partition("=")[0] not in changes]
    done = run_program(*kept, *(f"{name}={value}" for name, value in changes.items() if value), BRAZE_API_KEY=KEY)
    assert done.returncode == code
    assert failure in done.stderr.splitlines()[-1]
    assert done.stdout == ""
    assert braze[0].requests == []


def test_progress_on_terminal_is_a_bar(braze: tuple[FaultInjectingBraze, Server], command: tuple[str, ...]) -> None:
    """On a terminal, a progress bar shows rate and remaining time in one line; the final messages stay readable."""
    braze[0].inject(transfer_faults.delay(0.25))
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 60))
    process = subprocess.Popen(  # noqa: S603 - runs our own program
        [sys.executable, "-m", "braze_exporter", *command], stdout=subprocess.PIPE, stderr=theirs, env=with_key()
    )
    os.close(theirs)
    seen = b""
    with suppress(OSError):  # the end of the terminal output
        while chunk := os.read(ours, 65_536):
            seen += chunk
    os.close(ours)
    process.communicate(timeout=10)
    text = seen.decode()
    assert process.returncode == 0
    bars = re.findall(r"\r\[(#*)\.*\] (\d+) of 41 calls", text)
    assert len(bars) > 3
    assert [int(done) for _, done in bars] == sorted(int(done) for _, done in bars)
    assert len(bars[-1][0]) > len(bars[0][0])
    assert re.search(r"\] \d+ of 41 calls, [\d.]+ calls/s, \d+s left\x1b\[K", text)
    assert max(map(len, re.findall(r"\r(\[[^\r\x1b]*)\x1b\[K", text))) < 60
    assert text.startswith("\r\x1b[K1 query from ")
    assert "\x1b[K41 calls completed, writing " in text


@pytest.mark.parametrize(
    ("blocks", "failure"),
    [
        (200, r"\.partial cannot be used \(.*\); free disk space.* responses to \d+ of 41 calls are saved"),
        (8_000, r" cannot be written \(File too large\); free disk space.* responses to 41 of 41 calls are saved"),
    ],
)
def test_full_disk_keeps_fetched_buckets(command: tuple[str, ...], tmp_path: Path, blocks: int, failure: str) -> None:
    """A full disk leaves no partial output, keeps the fetched data, and the next run resumes."""
    command = (*command, f"--label=long={'x' * 1_000}")
    shell = ["sh", "-c", f'ulimit -f {blocks} && exec "$@"', "sh", sys.executable, "-m", "braze_exporter", *command]
    # Coverage measurement would write files too.
    environ = {name: value for name, value in with_key().items() if not name.startswith("COV")}
    done = subprocess.run(shell, capture_output=True, text=True, timeout=30, check=False, env=environ)  # noqa: S603
    assert done.returncode == 1
    assert re.search(rf"^{tmp_path}/history\.om{failure}", done.stderr.splitlines()[-1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "history.om.partial"]
    done = run_program(*command, BRAZE_API_KEY=KEY)
    assert done.returncode == 0
    (labels, *_) = (labels for _, labels in samples((tmp_path / "history.om").read_text(encoding="utf-8")))
    assert dict(labels)["long"] == "x" * 1_000
