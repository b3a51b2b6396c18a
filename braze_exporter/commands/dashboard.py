"""The command `dashboard`: prints the Grafana dashboard for a config, or for all kinds."""

import argparse
import json
from collections.abc import Mapping

from braze_exporter.commands.exit_codes import SUCCESS
from braze_exporter.commands.plan import read_plan
from braze_exporter.config.schema import Budget
from braze_exporter.monitoring import dashboard as grafana
from braze_exporter.monitoring.generic_plan import build_generic_plan


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Print the dashboard. Neither the network nor the API keys are used."""
    if options.config_file is None:
        dashboard = grafana.build_dashboard(build_generic_plan(), Budget().reserve)
    else:
        config, plan = read_plan(options, environ)
        dashboard = grafana.build_dashboard(plan, config.settings.budget.reserve)
    print(json.dumps(dashboard, indent=2))
    return SUCCESS
