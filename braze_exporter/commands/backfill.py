"""The command `backfill`: writes the history of a configuration's queries."""

import argparse
from collections.abc import Mapping

from braze_exporter.backfill import request, run
from braze_exporter.backfill.request import BackfillError
from braze_exporter.commands.context import surroundings
from braze_exporter.commands.exit_codes import GOOD, fail
from braze_exporter.config.loading import read
from braze_exporter.scheduler.plan import build


def write_history(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Write the history of the queries of a config, and print what is to be done with it."""
    config = read(options.config_file, environ)
    plan = build(config)
    try:
        wish = request.wish(options.start, options.end, options.labels, options.output)
        with surroundings(config, environ, options.on_stop) as around:
            run.backfill(wish, config, plan, around)
    except BackfillError as error:
        return fail(str(error))
    return GOOD
