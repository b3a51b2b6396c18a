"""The command `dashboard`: prints a Grafana dashboard for a config, or for all kinds."""

import argparse
import json
from collections.abc import Mapping

from braze_exporter.commands.exit_codes import SUCCESS
from braze_exporter.commands.plan import read_plan
from braze_exporter.monitoring.dashboard import View, build_dashboard


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Print the dashboard. Neither the network nor the API keys are used."""
    plan = None if options.config_file is None else read_plan(options, environ)[1]
    dashboard = build_dashboard(
        View(options.view),
        plan,
        uid=options.uid or "",
        title=options.title or "",
        is_for_import=options.target == "import",
    )
    print(json.dumps(dashboard, indent=2))
    return SUCCESS
