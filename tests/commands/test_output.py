"""Test the output of commands if stdout or stderr is full or closed."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from backfills import backfill_arguments
from recorded_counts import RecordedCounts
from support import KEY, running_braze, workspace_yaml, write_file

PROBLEM = "stdout cannot be written ({}); redirect it to a file or a program that reads all of it"
COMMANDS = [
    "check",
    "check --live",
    "discover",
    "backfill",
    "dashboard",
    "rules",
    "schema",
    "--version",
    "check --help",
]
WITHOUT_CONFIG = {"schema", "--version", "demo"}
# The redirection of stdout, and the reason in the message.
REDIRECTIONS = {">/dev/full": "No space left on device", ">&-": "Bad file descriptor", "|": "Broken pipe"}


@pytest.fixture
def config(tmp_path: Path) -> Iterator[str]:
    """Run a simulated Braze and write a config."""
    with running_braze(RecordedCounts(events=["purchase"])) as (_, server):
        extra_yaml = "budget: {share: 1}\n"
        text = workspace_yaml(server.url, "{event: purchase}", extra_yaml=extra_yaml)
        yield write_file(tmp_path / "config.yaml", text)


def run_redirected(command: str, config: str, redirection: str, key: str = KEY) -> subprocess.CompletedProcess[str]:
    """Run a command with a redirection of the shell; `|` is a pipe whose reader has closed it."""
    arguments = [*command.split(), *([] if command in WITHOUT_CONFIG else [f"--config.file={config}"])]
    if command == "backfill":
        arguments = [*backfill_arguments(config, Path(config).with_name("h.om"), "2026-01-01", "2026-01-03")]
    if command == "demo":
        arguments.append("--web.listen-address=127.0.0.1:0")
    reader, writer = os.pipe()
    os.close(reader)
    shell = ["sh", "-c", f'exec "$@" {redirection.removeprefix("|")}', "sh", sys.executable, "-m", "braze_exporter"]
    try:
        return subprocess.run(  # noqa: S603 - our own program
            [*shell, *arguments],
            env={**os.environ, "BRAZE_API_KEY": key},
            stdout=writer if redirection == "|" else subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            timeout=30,
            check=False,
        )
    finally:
        os.close(writer)


@pytest.mark.parametrize(
    ("command", "redirection"),
    [
        *((command, ">/dev/full") for command in [*COMMANDS, "demo"]),
        *((command, redirection) for command in ("discover", "--version", "demo") for redirection in (">&-", "|")),
    ],
)
def test_unwritable_stdout_is_an_error(config: str, command: str, redirection: str) -> None:
    """A command whose output cannot be written exits with 1, and its last line says why."""
    done = run_redirected(command, config, redirection)
    assert done.returncode == 1
    *progress, problem = done.stderr.splitlines()
    assert problem == PROBLEM.format(REDIRECTIONS[redirection])
    assert bool(progress) is (command in {"discover", "backfill"})
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-", "<&- 2>&-"])
def test_unwritable_stderr_changes_nothing(config: str, redirection: str) -> None:
    """Without stderr, warnings are lost; the output and the exit code are the same."""
    expected = run_redirected("rules", config, "", key="")
    assert expected.stderr.startswith("warning: ")
    done = run_redirected("rules", config, redirection, key="")
    assert (done.returncode, done.stdout, done.stderr) == (0, expected.stdout, "")
