"""What is in `deploy/`: right by its linters, right by the exporter's own words, and run for real where that can be.

Needs `systemd-analyze` (Debian: systemd, with procps). A test is skipped without its tool, except in CI, where that is
a failure.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml

from braze_exporter import cli

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "systemd/braze-exporter.service"
PROGRAM = Path(sys.executable).with_name("braze-exporter")

Tree = dict[str, Any]


def tool(name: str) -> str:
    """Return the path of a program, or skip the test; in CI a missing one is a failure."""
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None and os.environ.get("CI"):
        pytest.fail(f"{name} is not installed, and in CI its tests are not skipped")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a tool to its end."""
    return subprocess.run(  # noqa: S603
        [tool(command[0]), *command[1:]], capture_output=True, text=True, check=False
    )


def tree(path: Path) -> Tree:
    """Return the one document of a YAML file."""
    found: Tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    return found


# systemd


def settings(name: str) -> list[str]:
    """Return what the unit sets `name` to, each time."""
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE)


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say, once the program is where it is installed here."""
    program = shlex.split(settings("ExecStart")[0])[0]
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text(encoding="utf-8").replace(f"={program} ", f"={PROGRAM} "), encoding="utf-8")
    assert str(PROGRAM) in copy.read_text(encoding="utf-8")
    done = run("systemd-analyze", "verify", "--recursive-errors=no", str(copy))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_unit_is_exposed_no_more_than_it_must_be() -> None:
    """By systemd's own measure from 0 to 10 it is at 1.2: the network is left, and /proc for the process metrics."""
    done = run("systemd-analyze", "security", "--offline=yes", "--threshold=12", "--no-pager", str(UNIT))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Overall exposure level" in done.stdout


def test_the_unit_starts_what_its_installation_puts_there() -> None:
    """Program, config, user and unit are at the same places in the unit and in the commands at its head."""
    head = UNIT.read_text(encoding="utf-8").partition("[Unit]")[0]
    program, *arguments = shlex.split(settings("ExecStart")[0])
    environment = PurePosixPath(program).parent.parent
    config = cli.parser().parse_args(arguments).config_file
    (user,) = settings("User")
    assert settings("Group") == [user]
    assert f"python3 -m venv {environment} && {environment}/bin/pip install ." in head
    assert f"install -m 640 -g {user} config.example.yaml {config}\n" in head
    assert re.search(rf"^#   useradd .* {user}$", head, re.MULTILINE)
    (key,) = re.findall(r"api_key_file: (\S+)`", head)
    assert f"install -m 640 -g {user} /dev/stdin {key} " in head
    (state,) = settings("StateDirectory")
    assert tree(ROOT / "config.example.yaml")["state_file"].startswith(f"/var/lib/{state}/")
