"""Renders the Helm chart with the Helm library of the package helm-python-sdk."""

import importlib
import os
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from docs import CHART

Tree = dict[str, Any]


def require_module(name: str) -> ModuleType:
    """Return a module. If it is not installed, skip the test, or fail it in CI."""
    if os.environ.get("CI"):
        return importlib.import_module(name)
    module: ModuleType = pytest.importorskip(name)
    return module


def example_values() -> Tree:
    """Return the config that the comments of values.yaml show."""
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    (block,) = re.findall(r"^config: \{\}\n((?:#.*\n)+)", text, re.MULTILINE)
    return {"config": yaml.safe_load(re.sub("^#", "", block, flags=re.MULTILINE))}


def render(values: Tree, release: str = "braze-exporter", chart: Path = CHART) -> list[Tree]:
    """Return the resources of a release with the example's config and further values."""
    with require_module("helm_python.chart").Chart.load(chart) as loaded:
        texts = loaded.render(values={**example_values(), **values}, name=release)
    return [each for name, text in texts.items() if name.endswith(".yaml") for each in yaml.safe_load_all(text) if each]


def resource(kind: str, values: Tree | None = None) -> Tree:
    """Return the only resource of a kind, with the Prometheus operator."""
    resources = render({"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}, **(values or {})})
    (result,) = (each for each in resources if each["kind"] == kind)
    return result
