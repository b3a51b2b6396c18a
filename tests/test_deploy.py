"""What is in `deploy/`: right by its linters, right by the exporter's own words, and run for real where that can be.

Needs `systemd-analyze` (Debian: systemd, with procps), and `kubernetes-validate` and `yamllint` (PyPI). A test is
skipped without its tool, except in CI, where that is a failure.
"""

import json
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

from braze_exporter import __version__, cli
from braze_exporter.config import load
from braze_exporter.plan import build

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "systemd/braze-exporter.service"
MANIFEST = DEPLOY / "kubernetes/braze-exporter.yaml"
MONITOR = DEPLOY / "kubernetes/servicemonitor.yaml"
PORT = int(cli.DEFAULT_ADDRESS.rpartition(":")[2])
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


def trees(path: Path) -> list[Tree]:
    """Return the documents of a YAML file."""
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def tree(path: Path) -> Tree:
    """Return the one document of a YAML file."""
    (found,) = trees(path)
    return found


# YAML


def test_yamllint_finds_nothing() -> None:
    """No key stands twice, nothing is indented by chance."""
    rules = "{document-start: disable, line-length: {max: 120}, comments: {min-spaces-from-content: 1}}"
    done = run("yamllint", "--strict", "--config-data", f"{{extends: default, rules: {rules}}}", str(DEPLOY))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


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


# Kubernetes


def resource(kind: str) -> Tree:
    """Return the one resource of that kind."""
    (found,) = (each for each in [*trees(MANIFEST), *trees(MONITOR)] if each["kind"] == kind)
    return found


def pod() -> Tree:
    """Return the template of the pod."""
    template: Tree = resource("Deployment")["spec"]["template"]
    return template


def container() -> Tree:
    """Return the one container of the pod."""
    (found,) = pod()["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def volume_at(path: str) -> Tree:
    """Return the volume that is mounted, as a whole, at the directory of `path`."""
    (mount,) = (each for each in container()["volumeMounts"] if each["mountPath"] == str(PurePosixPath(path).parent))
    assert "subPath" not in mount  # it would never be updated
    (found,) = (each for each in pod()["spec"]["volumes"] if each["name"] == mount["name"])
    assert isinstance(found, dict)
    return found


def test_kubernetes_knows_every_field_of_the_manifest() -> None:
    """All resources are of kinds that Kubernetes has, with fields that these have."""
    done = run("kubernetes-validate", "--strict", str(MANIFEST))
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(re.findall("^INFO .* passed", done.stdout + done.stderr, re.MULTILINE)) == len(trees(MANIFEST))


def test_there_is_never_more_than_one_pod() -> None:
    """Not even while a new version takes over."""
    assert resource("Deployment")["spec"]["replicas"] == 1
    assert resource("Deployment")["spec"]["strategy"] == {"type": "Recreate"}


def test_the_pod_has_no_rights() -> None:
    """It is the image's user, on a read-only file system, without capabilities and without a token."""
    (user,) = re.findall(r"^USER (\d+):\1$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    spec = pod()["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": int(user),
        "runAsGroup": int(user),
        "fsGroup": int(user),
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_the_config_in_the_manifest_is_good_and_everything_is_where_it_says() -> None:
    """The image finds the config, the config the key and the state file, and the key has the name that it is given."""
    command = re.findall(r"^CMD (.*)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)[-1]
    path = PurePosixPath(cli.parser().parse_args(json.loads(command)).config_file)
    assert volume_at(str(path))["configMap"]["name"] == resource("ConfigMap")["metadata"]["name"]
    config = load(resource("ConfigMap")["data"][path.name], path.name)
    assert build(config).queries
    claim = resource("PersistentVolumeClaim")["metadata"]["name"]
    assert config.settings.state_file is not None
    assert volume_at(config.settings.state_file)["persistentVolumeClaim"]["claimName"] == claim
    (workspace,) = config.workspaces
    assert workspace.spec.api_key_file is not None
    secret = volume_at(workspace.spec.api_key_file)["secret"]["secretName"]
    name = PurePosixPath(workspace.spec.api_key_file).name
    head = MANIFEST.read_text(encoding="utf-8").partition("apiVersion")[0]
    assert f"kubectl create secret generic {secret} --from-file={name}=" in head


def test_selectors_and_ports_meet() -> None:
    """Deployment, service, network policy and monitor select what is there, and lead to the port that is served."""
    labels = pod()["metadata"]["labels"].items()
    service = resource("Service")
    policy = resource("NetworkPolicy")["spec"]
    assert resource("Deployment")["spec"]["selector"]["matchLabels"].items() <= labels
    assert service["spec"]["selector"].items() <= labels
    assert policy["podSelector"]["matchLabels"].items() <= labels
    assert (
        resource("ServiceMonitor")["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    )
    (served,) = container()["ports"]
    assert served["containerPort"] == PORT
    (port,) = service["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (PORT, served["name"])
    assert [rule["ports"] for rule in policy["ingress"]] == [[{"port": served["name"]}]]
    assert [endpoint["port"] for endpoint in resource("ServiceMonitor")["spec"]["endpoints"]] == [port["name"]]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container()[probe]["httpGet"]["port"] == served["name"]


def test_the_manifest_runs_this_version() -> None:
    """The tag of the image is the version of the exporter, and not one that moves."""
    assert container()["image"].endswith(f"/braze-exporter:{__version__}")
