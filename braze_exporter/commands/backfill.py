"""The command `backfill`: writes the history of the queries of a config."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from braze_exporter.backfill.request import BackfillError, UsageError, build_request
from braze_exporter.backfill.run import run_backfill
from braze_exporter.commands.context import command_context
from braze_exporter.commands.exit_codes import FAILURE, SUCCESS, WRONG_USAGE, fail
from braze_exporter.config.loading import read_config
from braze_exporter.scheduler.plan import build_plan


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Write the history of the queries of a config, print how to import it, and return the exit code."""
    config = read_config(options.config_file, environ)
    plan = build_plan(config)
    try:
        backfill_request = build_request(options.start, options.end, options.labels, Path(options.output))
        with command_context(config, environ, options.on_stop) as ctx:
            run_backfill(backfill_request, config, plan, ctx)
    except BackfillError as error:
        return fail(str(error), WRONG_USAGE if isinstance(error, UsageError) else FAILURE)
    return SUCCESS
