"""The command `dashboard`: prints the Grafana dashboard of a config."""

import argparse
import json
from collections.abc import Mapping

from braze_exporter.commands.exit_codes import SUCCESS
from braze_exporter.commands.plan import read_plan
from braze_exporter.monitoring import dashboard as grafana


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Print the dashboard of a config. Neither the network nor the API keys are used."""
    config, plan = read_plan(options, environ)
    print(json.dumps(grafana.build_dashboard(plan, config.settings.budget.reserve), indent=2))
    return SUCCESS
