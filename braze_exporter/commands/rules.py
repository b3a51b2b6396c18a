"""The command `rules`: prints the alerting rules of a config."""

import argparse
from collections.abc import Mapping

from braze_exporter.commands.exit_codes import SUCCESS
from braze_exporter.commands.plan import read_plan
from braze_exporter.monitoring import rules as alerting


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Print the alerting rules of a config. Neither the network nor the API keys are used."""
    config, plan = read_plan(options, environ)
    print(alerting.as_yaml(alerting.build_rules(plan, config.settings)), end="")
    return SUCCESS
