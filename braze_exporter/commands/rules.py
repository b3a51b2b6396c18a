"""The command `rules`: prints the alerting rules for a config, or the built-in ones for any config."""

import argparse
from collections.abc import Mapping

from braze_exporter.commands.exit_codes import SUCCESS
from braze_exporter.commands.plan import read_plan
from braze_exporter.monitoring import rules as alerting
from braze_exporter.monitoring.rule import RuleOptions


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Print the alerting rules. Neither the network nor the API keys are used."""
    rule_options = RuleOptions(options.runbook_url or "", options.dashboard_url or "", options.job or "")
    if options.config_file is None:
        rules = alerting.build_builtin_rules(rule_options)
    else:
        config, plan = read_plan(options, environ)
        rules = alerting.build_rules(plan, config.settings, rule_options)
    print(alerting.as_yaml(alerting.wrap_rules(rules) if options.format == "prometheusrule" else rules), end="")
    return SUCCESS
