"""The command `check`: validates a configuration and prints the calls that it costs."""

import argparse
import sys
from collections.abc import Mapping

from braze_exporter.backfill.progress import count
from braze_exporter.commands import logs
from braze_exporter.commands.check_live import check_live
from braze_exporter.commands.context import read_plan, refuse_shared_state_file, surroundings
from braze_exporter.commands.exit_codes import FAILED, GOOD
from braze_exporter.config.document import shown
from braze_exporter.config.loading import Config, read
from braze_exporter.scheduler.plan import build
from braze_exporter.state import StoreError, UnreadableError, inspect_state_file
from braze_exporter.web.config_file import read as read_web


def check(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Validate a config, without a network and without its keys unless it is to be live."""
    config, plan = read_plan(options, environ)
    refuse_shared_state_file(config, options.web_config_file, environ)
    _check_state_file(config)
    wild = (
        f", and what {count(len(plan.wildcards), 'entry takes', 'entries take')} of Braze's lists"
        if plan.wildcards
        else ""
    )
    print(f"{options.config_file} is good: {count(len(plan.queries), 'query', 'queries')}{wild}")
    for cost in plan.loads:
        once = f", and {count(cost.once, 'call', 'calls')} once for baselines" if cost.once else ""
        print(
            f"{shown(cost.workspace)}: {count(cost.queries, 'query', 'queries')} in the {cost.pool.name} pool make "
            f"{cost.calls:,.0f} calls an hour{once}; "
            f"budget.share allows {cost.allowed:,.0f} of {cost.pool.per_hour:,.0f}"
        )
    if options.web_config_file:
        asked = " and ".join(read_web(options.web_config_file).protections)
        print(f"{options.web_config_file} is good: {asked or 'neither TLS nor passwords'}")
    return GOOD if not options.live or _live(options, environ) else FAILED


def _check_state_file(config: Config) -> None:
    """Raise `ConfigError` if `serve` would refuse what is at `state_file`; nothing is changed or made."""
    path = config.settings.state_file
    try:
        if path is not None:
            inspect_state_file(path)
    except UnreadableError as error:  # the user who serves may be another
        print(f"warning: {config.error([(('state_file',), str(error))])}", file=sys.stderr)
    except StoreError as error:
        raise config.error([(("state_file",), str(error))]) from None


def _live(options: argparse.Namespace, environ: Mapping[str, str]) -> bool:
    """Ask Braze for everything in a config, and return whether all is well."""
    logs.configure("error", "logfmt")  # what is not answered is told below, once
    config = read(options.config_file, environ)
    with surroundings(config, environ, options.on_stop) as around:
        return check_live(config, build(config), around)
