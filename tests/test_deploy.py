"""Test the files in `deploy/` with linters and with the exporter's own code, and run some of them.

Needs `systemd-analyze`, `prometheus`, `promtool`, `prometheus-alertmanager`, `amtool` and `shellcheck` (Debian: systemd
with procps, prometheus, prometheus-alertmanager, shellcheck), and `helm-python-sdk`, `check-jsonschema` and `yamllint`
(PyPI). A test is skipped without its tool, except in CI, where it fails.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import docs
import pytest
import yaml
from helm_chart import resource
from servers import require_tool, running_alertmanager, running_process
from support import Program, free_port, wait_until, write_file

from braze_exporter.braze.kinds import KINDS
from braze_exporter.braze.lists import LIST_ENDPOINTS
from braze_exporter.commands import arguments as cli
from braze_exporter.monitoring.dashboard import View

pytestmark = pytest.mark.no_cover

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "systemd/braze-exporter.service"
COMPOSE = DEPLOY / "compose"
PORT = int(cli.DEFAULT_ADDRESS.rpartition(":")[2])
PROGRAM = Path(sys.executable).with_name("braze-exporter")

Tree = dict[str, Any]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run a tool and return its result."""
    return subprocess.run(  # noqa: S603
        [require_tool(command[0]), *command[1:]], capture_output=True, text=True, check=False
    )


def trees(path: Path) -> list[Tree]:
    """Return the documents of a YAML file."""
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def tree(path: Path) -> Tree:
    """Return the only document of a YAML file."""
    (document_,) = trees(path)
    return document_


# YAML and shell


def test_deploy_files_pass_yamllint() -> None:
    """The linter yamllint reports nothing; the generated rules are left to promtool, templates to Helm."""
    rules = "{document-start: disable, line-length: {max: 120}, comments: {min-spaces-from-content: 1}}"
    ignored = f"[{docs.RULES.name}, {docs.CHART_RULES.name}, templates/]"
    config = f"{{extends: default, ignore: {ignored}, rules: {rules}}}"
    done = run("yamllint", "--strict", "--config-data", config, str(DEPLOY))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("script", [".ci/run", "tests/image.sh", "tests/read_only.sh"])
def test_scripts_pass_shellcheck(script: str) -> None:
    """The linter shellcheck reports nothing about the shell scripts."""
    done = run("shellcheck", str(ROOT / script))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# systemd


def settings(name: str) -> list[str]:
    """Return all values that the unit gives to the setting `name`."""
    return re.findall(rf"^{name}=(.*)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE)


def test_unit_passes_systemd_analyze(tmp_path: Path) -> None:
    """`systemd-analyze verify` reports nothing once the path of the program is replaced by the one installed here."""
    program = shlex.split(settings("ExecStart")[0])[0]
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text(encoding="utf-8").replace(f"={program} ", f"={PROGRAM} "), encoding="utf-8")
    assert str(PROGRAM) in copy.read_text(encoding="utf-8")
    done = run("systemd-analyze", "verify", "--recursive-errors=no", str(copy))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_unit_exposure_is_low() -> None:
    """Systemd rates the unit 1.2 of 10, because it needs the network, and /proc for the process metrics."""
    done = run("systemd-analyze", "security", "--offline=yes", "--threshold=12", "--no-pager", str(UNIT))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Overall exposure level" in done.stdout


def test_unit_starts_installed_program() -> None:
    """The unit and the commands at its head agree on the paths of program, config and state, and on the user."""
    head = UNIT.read_text(encoding="utf-8").partition("[Unit]")[0]
    program, *arguments = shlex.split(settings("ExecStart")[0])
    environment = PurePosixPath(program).parent.parent
    config = cli.build_parser().parse_args(arguments).config_file
    (user,) = settings("User")
    assert settings("Group") == [user]
    assert f"python3 -m venv {environment} && {environment}/bin/pip install '.[bcrypt]'" in head
    assert f"install -m 640 -g {user} config.example.yaml {config}\n" in head
    assert re.search(rf"^#   useradd .* {user}$", head, re.MULTILINE)
    (key,) = re.findall(r"api_key_file: (\S+)`", head)
    assert f"install -m 640 -g {user} /dev/stdin {key} " in head
    (state,) = settings("StateDirectory")
    assert tree(ROOT / "config.example.yaml")["state_file"].startswith(f"/var/lib/{state}/")


# Compose


def services() -> dict[str, Tree]:
    """Return the services of the compose file."""
    result: dict[str, Tree] = tree(COMPOSE / "compose.yaml")["services"]
    return result


@pytest.mark.parametrize("file", ["compose.yaml", "compose.braze.yaml"])
def test_compose_files_match_specification(file: str) -> None:
    """The compose files match the schema of the Compose specification."""
    done = run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE / file))
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_mounts_exist() -> None:
    """Each mounted file and directory of the repository exists, and the image is built from the repository root."""
    sources = [volume.split(":")[0] for service in services().values() for volume in service.get("volumes", [])]
    paths = [source for source in sources if source.startswith(".")]
    assert len(paths) >= 5
    assert [path for path in paths if not (COMPOSE / path).is_dir()] == []
    assert {source for source in sources if source not in paths} <= tree(COMPOSE / "compose.yaml")["volumes"].keys()
    assert (COMPOSE / services()["braze-exporter"]["build"]).resolve() == ROOT


def test_compose_ports_are_on_loopback() -> None:
    """All ports are published on loopback only, because Grafana's password is admin and Prometheus has none."""
    ports = [port for service in services().values() for port in service["ports"]]
    assert f"127.0.0.1:{PORT}:{PORT}" in ports
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_third_party_images_have_versions() -> None:
    """Third-party images have exact versions, so that the example does not change by itself."""
    images = {name: service["image"] for name, service in services().items() if "build" not in service}
    assert len(images) == 3
    assert [image for image in images.values() if not re.fullmatch(r"[\w/-]+:v?\d+\.\d+\.\d+", image)] == []


def test_compose_exporter_has_no_privileges() -> None:
    """The exporter's container has a read-only root, no capabilities and no new privileges."""
    exporter = services()["braze-exporter"]
    assert exporter["read_only"] is True
    assert exporter["cap_drop"] == ["ALL"]
    assert exporter["security_opt"] == ["no-new-privileges:true"]


def test_compose_services_resolve_each_other() -> None:
    """Each address in the configs is a service and its published port."""
    prometheus = tree(COMPOSE / "prometheus/prometheus.yml")
    (source,) = tree(COMPOSE / "grafana/datasources/prometheus.yaml")["datasources"]
    targets = {
        *(
            target
            for job in prometheus["scrape_configs"]
            for each in job["static_configs"]
            for target in each["targets"]
        ),
        *(
            target
            for manager in prometheus["alerting"]["alertmanagers"]
            for each in manager["static_configs"]
            for target in each["targets"]
        ),
        source["url"].removeprefix("http://"),
    }
    published = {f"{name}:{port.split(':')[-1]}" for name, service in services().items() for port in service["ports"]}
    assert targets == published - {"grafana:3000"}


def test_grafana_provisioning_paths_exist() -> None:
    """The data source has the uid that the dashboards use, and the provider reads the mounted directory."""
    (source,) = tree(COMPOSE / "grafana/datasources/prometheus.yaml")["datasources"]
    (provider,) = tree(COMPOSE / "grafana/providers/files.yaml")["providers"]
    assert source["uid"] == "prometheus"
    mounted = [volume.split(":")[:2] for volume in services()["grafana"]["volumes"]]
    assert ["./grafana/dashboards", provider["options"]["path"]] in mounted


def test_compose_with_real_braze_uses_mounted_config() -> None:
    """The command is valid, and config and key come from a mounted directory that git ignores."""
    override = tree(COMPOSE / "compose.braze.yaml")["services"]
    assert override.keys() <= services().keys()
    options = cli.build_parser().parse_args(override["braze-exporter"]["command"])
    mounts = dict(volume.split(":")[1::-1] for volume in override["braze-exporter"]["volumes"])
    directory = mounts[str(PurePosixPath(options.config_file).parent)]
    assert f"{directory.removeprefix('./')}/" in (COMPOSE / ".gitignore").read_text(encoding="utf-8").splitlines()
    head = (COMPOSE / "compose.braze.yaml").read_text(encoding="utf-8").partition("services:")[0]
    for setting in ("api_key_file", "state_file"):
        (path,) = re.findall(rf"{setting}: (\S+)", head)
        assert str(PurePosixPath(path).parent) in mounts
    demo = cli.build_parser().parse_args(services()["braze-exporter"]["command"])
    assert demo.web_addresses == [cli.DEFAULT_ADDRESS]
    printed = dict(re.findall(r"exec -T braze-exporter \\\n# +(braze-exporter .+) > (\S+)\n", head))
    assert {ROOT / path for path in printed.values()} == {docs.RULES, docs.DASHBOARDS[View.BRAZE]}
    for command in printed:  # they run in the directory of the config
        assert cli.build_parser().parse_args(command.split()[1:]).config_file == PurePosixPath(options.config_file).name


# Exporter, Prometheus and Alertmanager together


@dataclass(frozen=True)
class Chain:
    """A running exporter, Prometheus and Alertmanager with the configs of `deploy/`."""

    program: Program
    prometheus: int
    alertmanager: int

    def query(self, expression: str) -> list[Tree]:
        """Return the labels of the samples of an expression."""
        reply = _get(self.prometheus, f"/api/v1/query?query={urllib.parse.quote(expression)}")
        return [series["metric"] for series in reply["data"]["result"]]


def _get(port: int, path: str) -> Any:  # noqa: ANN401 - JSON
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
        return json.load(response)


def _monitored() -> Tree:
    """Return the scrape job that the Prometheus Operator makes of the ServiceMonitor.

    The target labels of the operator come first, then the relabelings of the ServiceMonitor.
    """
    (endpoint,) = resource("ServiceMonitor")["spec"]["endpoints"]
    names = {"targetLabel": "target_label"}
    return {
        "job_name": "monitor",
        "relabel_configs": [
            {"target_label": "endpoint", "replacement": endpoint["port"]},
            {"target_label": "pod", "replacement": "braze-exporter-5d4f8c7b9-x2x7k"},
            *({names.get(name, name): value for name, value in rule.items()} for rule in endpoint["relabelings"]),
        ],
    }


@contextmanager
def running_chain(directory: Path) -> Iterator[Chain]:
    """Run the chain with the addresses of this machine and with intervals of seconds instead of minutes."""
    shutil.copytree(COMPOSE / "prometheus", directory / "prometheus")
    config = directory / "prometheus/prometheus.yml"
    rules = directory / "prometheus/rules" / docs.RULES.name
    rules.write_text(rules.read_text(encoding="utf-8").replace("for: 5m", "for: 1s"), encoding="utf-8")
    command = services()["braze-exporter"]["command"]
    prometheus = free_port()
    receivers = (COMPOSE / "alertmanager/alertmanager.yml").read_text(encoding="utf-8")
    with ExitStack() as stack:
        manager = stack.enter_context(running_alertmanager(directory / "alertmanager", receivers))
        program = stack.enter_context(Program.start(command))
        settings = tree(config)
        settings["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        settings["scrape_configs"].append({**settings["scrape_configs"][0], **_monitored()})
        text = yaml.safe_dump(settings)
        text = text.replace("braze-exporter:27293", f"127.0.0.1:{program.port}")
        text = text.replace("alertmanager:9093", f"127.0.0.1:{manager}")
        write_file(config, text)
        stack.enter_context(
            running_process(
                require_tool("prometheus"),
                f"--config.file={config}",
                f"--web.listen-address=127.0.0.1:{prometheus}",
                f"--storage.tsdb.path={directory / 'data'}",
            )
        )
        started = Chain(program, prometheus, manager)

        def scraped() -> bool:
            with suppress(OSError):
                return len(started.query("up == 1")) == 2
            return False

        wait_until(scraped, "Prometheus has scraped the exporter", 60)
        yield started


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """Run a chain for all tests that leave it running."""
    with running_chain(tmp_path_factory.mktemp("chain")) as started:
        yield started


def test_prometheus_files_pass_promtool_and_amtool() -> None:
    """The configs of Prometheus and Alertmanager and the rules are valid."""
    done = run("promtool", "check", "config", str(COMPOSE / "prometheus/prometheus.yml"))
    assert done.returncode == 0, done.stdout + done.stderr
    count = docs.RULES.read_text(encoding="utf-8").count("- alert: ")
    assert f" {count} rules found" in done.stdout
    done = run("amtool", "check-config", str(COMPOSE / "alertmanager/alertmanager.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_documented_prometheus_configs_pass_promtool(tmp_path: Path) -> None:
    """The parts of prometheus.yml in the documents are valid together."""
    blocks = [yaml.safe_load(block) for block in docs.code_blocks("yaml")]
    jobs = [job for block in blocks for job in block.get("scrape_configs", [])]
    config = {
        "scrape_configs": [{**job, "job_name": str(number)} for number, job in enumerate(jobs)],
        "rule_files": [path for block in blocks for path in block.get("rule_files", [])],
    }
    assert all(config.values())
    path = write_file(tmp_path / "prometheus.yml", yaml.safe_dump(config))
    done = run("promtool", "check", "config", "--syntax-only", str(path))
    assert done.returncode == 0, done.stdout + done.stderr


def test_alertmanager_groups_and_inhibits_as_documented() -> None:
    """The grouping and the inhibit rules in the Alertmanager config are those in the documents."""
    (block,) = (block for block in docs.code_blocks("yaml") if "inhibit_rules:" in block)
    documented, config = yaml.safe_load(block), tree(COMPOSE / "alertmanager/alertmanager.yml")
    assert config["inhibit_rules"] == documented["inhibit_rules"]
    assert config["route"]["group_by"] == documented["route"]["group_by"]


@pytest.mark.parametrize(("cause", "state"), [("BrazeFetchesFailing", "suppressed"), ("BrazeAPIKeyRejected", "active")])
def test_alerts_of_queries_are_muted_only_if_all_fetches_fail(tmp_path: Path, cause: str, state: str) -> None:
    """A key that lacks the permission for one kind mutes no alerts of the other kinds."""
    config = (COMPOSE / "alertmanager/alertmanager.yml").read_text(encoding="utf-8")
    with running_alertmanager(tmp_path, config) as port:
        for name in (cause, "BrazeEventDrop"):
            url = f"--alertmanager.url=http://127.0.0.1:{port}"
            done = run("amtool", url, "alert", "add", name, "workspace=production")
            assert done.returncode == 0, done.stderr

        def states() -> dict[str, str]:
            return {each["labels"]["alertname"]: each["status"]["state"] for each in _get(port, "/api/v2/alerts")}

        wait_until(lambda: states() == {cause: "active", "BrazeEventDrop": state}, "Alertmanager has both alerts")


def test_prometheus_has_demo_metrics(chain: Chain) -> None:
    """Prometheus has scraped the demo under both jobs, and `braze_up` is 1."""
    assert {labels["job"] for labels in chain.query("up == 1")} == {"braze", "monitor"}
    settled = 'braze_custom_events_hourly_settled{job="braze"} > 0 and on () braze_up{job="braze"} == 1'
    wait_until(lambda: bool(chain.query(settled)), "a scrape has waited for Braze")


def test_kubernetes_probes_succeed(chain: Chain) -> None:
    """Each path that a probe requests returns 200."""
    (container,) = resource("Deployment")["spec"]["template"]["spec"]["containers"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert chain.program.get(container[probe]["httpGet"]["path"]).status == 200


def test_operator_relabeling_keeps_series_of_new_pod(chain: Chain) -> None:
    """The operator's target labels neither replace the exporter's labels nor change when the pod is replaced."""
    series = chain.query('braze_api_requests_total{job="monitor"}')
    assert series
    for labels in series:
        assert labels.keys() == {"__name__", "job", "instance", "endpoint", "workspace", "path", "code"}
        assert labels["path"] in {
            *(kind.path for kind in KINDS),
            *(list_endpoint.path for list_endpoint in LIST_ENDPOINTS),
        }
        assert labels["instance"] == "braze-exporter"


def test_missing_exporter_alerts_in_alertmanager(tmp_path: Path) -> None:
    """When the exporter stops, Alertmanager receives `BrazeExporterDown`."""
    with running_chain(tmp_path) as chain:

        def names() -> set[str]:
            return {alert["labels"]["alertname"] for alert in _get(chain.alertmanager, "/api/v2/alerts")}

        def is_quiet() -> bool:
            return not chain.query("ALERTS") and not names()

        wait_until(is_quiet, "alerts from before the first scrape are resolved")
        chain.program.stop()
        wait_until(lambda: names() == {"BrazeExporterDown"}, "Alertmanager has the alert")
