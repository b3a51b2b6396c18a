"""Read the plan of a config without its API keys."""

import argparse
import os
import sys
from collections.abc import Mapping

from braze_exporter.config.document import KeyPath, Problem
from braze_exporter.config.loading import Config, read_config
from braze_exporter.config.secrets import describe_key_file, describe_unset_variable
from braze_exporter.scheduler.plan import Plan, build_plan


def read_plan(options: argparse.Namespace, environ: Mapping[str, str]) -> tuple[Config, Plan]:
    """Return the config and its plan. Prints a warning for each missing API key, but reads none."""
    config = read_config(options.config_file)
    plan = build_plan(config)
    for problem in find_missing_keys(config, environ):
        print(f"warning: {problem.render(config.source)}", file=sys.stderr)
    return config, plan


def find_missing_keys(config: Config, environ: Mapping[str, str]) -> tuple[Problem, ...]:
    """Return a problem for each workspace whose key file or variable is missing. The keys are not read."""
    problems: list[tuple[KeyPath, str]] = []
    for workspace in config.workspaces:
        file, variable = workspace.spec.api_key_file, workspace.spec.api_key_env
        # `Path.is_file` raises if the permission for the folder is missing, or if the name is too long.
        if file and not os.path.isfile(file):  # noqa: PTH113
            problems.append(((*workspace.path, "api_key_file"), describe_key_file("no such file", file)))
        if variable and not environ.get(variable):
            problems.append(((*workspace.path, "api_key_env"), describe_unset_variable(variable)))
    return config.make_error(problems).problems
