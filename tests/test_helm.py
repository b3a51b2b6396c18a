"""Test the Helm chart: lint it, render it, and compare the resources with Kubernetes's schemas and with the code.

Needs `helm-python-sdk` and `kubernetes-validate` (PyPI). The tests are skipped without them, except in CI.
"""

import json
import re
import subprocess
from pathlib import Path, PurePosixPath

import docs
import pytest
import yaml
from docs import CHART
from helm_chart import Tree, example_values, render, require_module, resource
from servers import require_tool

from braze_exporter import __version__
from braze_exporter.commands import arguments as cli
from braze_exporter.config.loading import load_config
from braze_exporter.scheduler.plan import build_plan

pytestmark = pytest.mark.no_cover

PORT = int(cli.DEFAULT_ADDRESS.rpartition(":")[2])
DOCKERFILE = (docs.ROOT / "Dockerfile").read_text(encoding="utf-8")
# Everything that is off by default.
FULL: Tree = {
    "imagePullSecrets": [{"name": "registry"}],
    "state": {"storageClass": "ssd"},
    "web": {"existingSecret": "braze-web", "scheme": "HTTPS"},
    "serviceMonitor": {
        "enabled": True,
        "labels": {"release": "prometheus"},
        "tlsConfig": {"ca": {"secret": {"name": "braze-web", "key": "ca.pem"}}},
        "basicAuth": {
            "username": {"name": "scraper", "key": "user"},
            "password": {"name": "scraper", "key": "password"},
        },
    },
    "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
    "dashboards": {"enabled": True, "files": {"braze": '{"title": "{{ no template }}"}'}},
    "extraArgs": ["--log.format=json"],
    "env": [{"name": "HTTPS_PROXY", "value": "http://proxy.example.com:3128"}],
    "podAnnotations": {"example.com/team": "growth"},
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "dedicated", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
}


def pod(values: Tree | None = None) -> Tree:
    """Return the pod template of the Deployment."""
    template: Tree = resource("Deployment", values)["spec"]["template"]
    return template


def container(values: Tree | None = None) -> Tree:
    """Return the only container of the pod."""
    (result,) = pod(values)["spec"]["containers"]
    assert isinstance(result, dict)
    return result


def volume_at(path: str) -> Tree:
    """Return the volume that is mounted, without a subPath, at the directory of `path`."""
    (mount,) = (each for each in container()["volumeMounts"] if each["mountPath"] == str(PurePosixPath(path).parent))
    assert "subPath" not in mount  # Kubernetes does not update a subPath mount
    (result,) = (each for each in pod()["spec"]["volumes"] if each["name"] == mount["name"])
    assert isinstance(result, dict)
    return result


@pytest.mark.parametrize("values", [{}, FULL], ids=["defaults", "everything"])
def test_chart_matches_kubernetes_schema(values: Tree) -> None:
    """Helm's linter has no complaint, and all resources have kinds and fields that Kubernetes knows."""
    messages = require_module("helm_python.chart").lint(CHART, {**example_values(), **values})["messages"]
    assert [each["error"] for each in messages] == ["icon is recommended"]
    validation = require_module("kubernetes_validate")
    unknown = set()
    for each in render(values):
        try:
            validation.validate(each, "1.33", strict=True)
        except validation.SchemaNotFoundError:
            unknown.add(each["kind"])
    assert unknown == ({"ServiceMonitor", "PrometheusRule"} if values else set())


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"config": {}}, "config.*workspaces"),
        ({"replicas": 2}, "replicas"),
        ({"web": {"scheme": "https"}}, "web.scheme|web/scheme"),
        ({"dashboards": {"enabled": True}}, "dashboards.files is empty"),
        ({"networkPolicy": {"from": []}}, "networkPolicy.from"),
        ({"networkPolicy": {"from": None}}, "networkPolicy.*from"),
    ],
    ids=["no-config", "unknown-value", "wrong-choice", "no-dashboard", "no-peer", "null-peers"],
)
def test_chart_refuses_invalid_values(values: Tree, error: str) -> None:
    """Unknown values, wrong values and a missing config are errors that name the value.

    An empty list of peers is one of them: in Kubernetes it would allow all peers.
    """
    with pytest.raises(Exception, match=f"(?s){error}"):
        render(values)


def test_documented_values_are_valid() -> None:
    """The values that the chart's README shows render a valid config and a ServiceMonitor."""
    (values,) = (block for block in map(yaml.safe_load, docs.code_blocks("yaml")) if block.get("config"))
    kinds = {each["kind"]: each for each in render(values)}
    assert "ServiceMonitor" in kinds
    assert build_plan(load_config(kinds["ConfigMap"]["data"]["config.yaml"], "config.yaml")).queries


def test_chart_runs_one_pod() -> None:
    """At most one pod runs, even during an update, and a changed config restarts it."""
    assert resource("Deployment")["spec"]["replicas"] == 1
    assert resource("Deployment")["spec"]["strategy"] == {"type": "Recreate"}
    changed = example_values()
    changed["config"]["max_queries"] = 1
    assert pod()["metadata"] != pod(changed)["metadata"]


def test_pod_has_no_privileges() -> None:
    """The pod runs as the image's user, with a read-only root and without capabilities or a service account token."""
    (user,) = re.findall(r"^USER (\d+):\1$", DOCKERFILE, re.MULTILINE)
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


def test_chart_config_is_valid_and_mounted() -> None:
    """The config is mounted where the image reads it, and the key and the state file where the config names them."""
    options = cli.build_parser().parse_args(container()["args"])
    path = PurePosixPath(options.config_file)
    assert volume_at(str(path))["configMap"]["name"] == resource("ConfigMap")["metadata"]["name"]
    config = load_config(resource("ConfigMap")["data"][path.name], path.name)
    assert build_plan(config).queries
    claim = resource("PersistentVolumeClaim")["metadata"]["name"]
    assert config.settings.state_file is not None
    assert volume_at(config.settings.state_file)["persistentVolumeClaim"]["claimName"] == claim
    (workspace,) = config.workspaces
    assert workspace.spec.api_key_file is not None
    secret = volume_at(workspace.spec.api_key_file)["secret"]["secretName"]
    name = PurePosixPath(workspace.spec.api_key_file).name
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    assert f"kubectl create secret generic {secret} --from-file={name}=" in text


def test_chart_without_state_file_has_no_volume() -> None:
    """Without a state file in the config, there is no volume for it. An existing claim is used instead of a new one."""
    values = example_values()
    del values["config"]["state_file"]
    assert "PersistentVolumeClaim" not in {each["kind"] for each in render(values)}
    assert {volume["name"] for volume in pod(values)["spec"]["volumes"]} == {"config", "keys"}
    existing = {"state": {"existingClaim": "braze-state"}}
    assert "PersistentVolumeClaim" not in {each["kind"] for each in render(existing)}
    assert {"claimName": "braze-state"} in [
        each.get("persistentVolumeClaim") for each in pod(existing)["spec"]["volumes"]
    ]


def test_chart_without_secret_has_no_volume_for_keys() -> None:
    """Without a Secret, for a config with `api_key_env`, there is no volume for the keys."""
    spec = pod({"apiKeys": {"existingSecret": ""}})["spec"]
    mounts = spec["containers"][0]["volumeMounts"]
    assert [each["name"] for each in spec["volumes"]] == [each["name"] for each in mounts] == ["config", "state"]


def test_chart_passes_flags_variables_and_web_config() -> None:
    """The flags are those of `serve`, and the web configuration is mounted where its flag says."""
    options = cli.build_parser().parse_args(container(FULL)["args"])
    assert options.log_format == "json"
    (mount,) = (each for each in container(FULL)["volumeMounts"] if each["name"] == "web")
    assert str(PurePosixPath(options.web_config_file).parent) == mount["mountPath"]
    assert container(FULL)["env"] == FULL["env"]
    assert container(FULL)["livenessProbe"]["httpGet"]["scheme"] == "HTTPS"
    assert resource("ServiceMonitor", FULL)["spec"]["endpoints"][0]["scheme"] == "https"
    assert "httpGet" not in container({"web": {"tcpProbes": True}})["readinessProbe"]


def test_chart_selectors_and_ports_match() -> None:
    """All selectors match the existing labels, and all ports lead to the default port."""
    labels = pod()["metadata"]["labels"].items()
    service, policy = resource("Service"), resource("NetworkPolicy")["spec"]
    monitor = resource("ServiceMonitor")["spec"]
    assert resource("Deployment")["spec"]["selector"]["matchLabels"].items() <= labels
    assert service["spec"]["selector"].items() <= labels
    assert policy["podSelector"]["matchLabels"].items() <= labels
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (current,) = container()["ports"]
    assert current["containerPort"] == PORT
    (port,) = service["spec"]["ports"]
    assert (port["port"], port["targetPort"]) == (PORT, current["name"])
    assert [rule["ports"] for rule in policy["ingress"]] == [[{"port": current["name"]}]]
    assert [endpoint["port"] for endpoint in monitor["endpoints"]] == [port["name"]]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container()[probe]["httpGet"]["port"] == current["name"]


def test_chart_has_rules_and_dashboards(tmp_path: Path) -> None:
    """The chart has the built-in rules or given ones, and the given dashboards, without touching their templates.

    With a ServiceMonitor, `BrazeExporterDown` is for the exporter of the chart.
    """
    builtin = (CHART / "files/rules.yml").read_text(encoding="utf-8")
    assert resource("PrometheusRule", {"serviceMonitor": {"enabled": False}})["spec"] == yaml.safe_load(builtin)
    # Another exporter may be up, so this one is identified by the labels that the operator gives to its target.
    own = 'absent(braze_queries{job="braze-exporter", namespace="default"})'
    rules = resource("PrometheusRule")["spec"]
    assert rules == yaml.safe_load(builtin.replace("absent(braze_queries)", own))
    written = tmp_path / "rules.yml"
    written.write_text(yaml.safe_dump(rules), encoding="utf-8")
    done = subprocess.run(  # noqa: S603
        [require_tool("promtool"), "check", "rules", str(written)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    given = {"enabled": True, "rules": "groups: []"}
    assert resource("PrometheusRule", {"prometheusRule": given})["spec"] == {"groups": []}
    (dashboards,) = (each for each in render(FULL) if each["metadata"]["name"].endswith("-dashboards"))
    assert dashboards["data"] == {"braze.json": FULL["dashboards"]["files"]["braze"]}
    assert dashboards["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_chart_has_current_version() -> None:
    """The versions of the chart and of the image are the current version of the exporter."""
    metadata = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert (metadata["version"], metadata["appVersion"]) == (__version__, __version__)
    assert container()["image"].endswith(f"/braze-exporter:{__version__}")


def test_chart_schema_has_every_value() -> None:
    """The schema describes exactly the values of values.yaml, each of their keys, and what a parent chart may set."""
    assert render({"enabled": True, "global": {"team": "growth"}}) == render({})
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    assert schema["properties"].keys() - {"enabled", "global"} == values.keys()
    for name, value in values.items():
        keys = schema["properties"][name].get("properties")
        assert keys is None or keys.keys() == value.keys(), name
