"""Runs a real Prometheus that scrapes the exporter, and a real Alertmanager."""

import json
import os
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import free_port, wait_until, write_file

Labels = frozenset[tuple[str, str]]


def require_tool(name: str) -> str:
    """Return the path of a program. Without it, skip the test, or fail it in CI."""
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None and os.environ.get("CI"):
        pytest.fail(f"{name} is not installed, and in CI its tests are not skipped")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus server."""

    port: int

    def query(self, expression: str, at: float | None = None) -> dict[Labels, float]:
        """Return the instant vector of an expression, now or at the Unix time `at`, without the target's labels."""
        results = self.request("query", query=expression, **({"time": str(at)} if at is not None else {}))["result"]
        return {_labels(sample["metric"]): float(sample["value"][1]) for sample in results}

    def query_range(self, expression: str, start: float, end: float, step: float) -> dict[Labels, list[float]]:
        """Return the existing values of an expression from `start` to `end`, one every `step` seconds."""
        span = {"start": str(start), "end": str(end), "step": str(step)}
        results = self.request("query_range", query=expression, **span)["result"]
        return {_labels(series["metric"]): [float(value) for _, value in series["values"]] for series in results}

    def label_values(self, label: str, selector: str) -> list[str]:
        """Return the values of a label among the series of a selector."""
        result: list[str] = self.request(f"label/{label}/values", **{"match[]": selector})
        return result

    def request(self, what: str, **parameters: str) -> Any:  # noqa: ANN401 - each API path has its own data type
        """Return the data of a response of the HTTP API."""
        data = urllib.parse.urlencode(parameters).encode()
        url = f"http://127.0.0.1:{self.port}/api/v1/{what}"
        if what.startswith("label/"):  # this path does not support POST
            url, data = f"{url}?{data.decode()}", b""
        with urllib.request.urlopen(url, data or None, timeout=10) as response:  # noqa: S310 - our own server
            return json.load(response)["data"]

    def is_responding(self) -> bool:
        """Return whether it has scraped the exporter at least three times."""
        with suppress(OSError):
            return sum(self.query("count_over_time(up[10m])").values()) >= 3
        return False


def _labels(metric: Mapping[str, str]) -> Labels:
    return frozenset((name, value) for name, value in metric.items() if name not in {"__name__", "job", "instance"})


@contextmanager
def running_process(*command: str) -> Iterator[None]:
    """Run a program in the background during the block."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:  # noqa: S603
        try:
            yield
        finally:
            process.terminate()


@contextmanager
def running_prometheus(
    directory: Path,
    target: int,
    jobs: Mapping[str, Mapping[str, object]] | None = None,
    rules: str = "",
    *,
    alertmanager: int | None = None,
    flags: Sequence[str] = (),
) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes the port `target` each second, with one job for each item of `jobs`.

    `jobs` maps job names to further scrape settings (default: one job `braze`). The storage is in `directory` and keeps
    existing data. `rules` is the text of a rule file, evaluated each second. `alertmanager` is the port of an
    Alertmanager that receives the alerts. `flags` are further command line arguments.
    """
    directory.mkdir(exist_ok=True)
    targets = {"static_configs": [{"targets": [f"127.0.0.1:{target}"]}]}
    scrape_configs = [{"job_name": name, **targets, **more} for name, more in (jobs or {"braze": {}}).items()]
    seconds = dict.fromkeys(("scrape_interval", "scrape_timeout", "evaluation_interval"), "1s")
    prometheus_config: dict[str, Any] = {"global": seconds, "scrape_configs": scrape_configs}
    if rules:
        prometheus_config["rule_files"] = [write_file(directory / "rules.yml", rules)]
    if alertmanager is not None:
        receiver = {"static_configs": [{"targets": [f"127.0.0.1:{alertmanager}"]}]}
        prometheus_config["alerting"] = {"alertmanagers": [receiver]}
    config = write_file(directory / "prometheus.yml", json.dumps(prometheus_config))
    subprocess.run([require_tool("promtool"), "check", "config", config], check=True, capture_output=True)  # noqa: S603
    port = free_port()
    with running_process(
        require_tool("prometheus"),
        f"--config.file={config}",
        f"--web.listen-address=127.0.0.1:{port}",
        f"--storage.tsdb.path={directory / 'data'}",
        "--log.level=error",
        *flags,
    ):
        yield Prometheus(port)


def backfill(path: str, data: Path) -> None:
    """Write an OpenMetrics file to the storage of a Prometheus that is not running; few large blocks make this fast."""
    command = [require_tool("promtool"), "tsdb", "create-blocks-from", "--max-block-duration=720h", "openmetrics"]
    subprocess.run([*command, path, str(data)], check=True, capture_output=True)  # noqa: S603


@contextmanager
def running_alertmanager(directory: Path, config: str) -> Iterator[int]:
    """Run an Alertmanager with a config and its data in `directory`, and yield its port once it is ready."""
    directory.mkdir(exist_ok=True)
    port = free_port()

    def is_ready() -> bool:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=10):
            return True
        return False

    with running_process(
        require_tool("prometheus-alertmanager"),
        f"--config.file={write_file(directory / 'alertmanager.yml', config)}",
        f"--web.listen-address=127.0.0.1:{port}",
        f"--storage.path={directory / 'data'}",
        "--cluster.listen-address=",
    ):
        wait_until(is_ready, "Alertmanager is ready")
        yield port
