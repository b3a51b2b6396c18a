"""The commands that print something and end."""

import argparse
import json
import sys
from collections.abc import Mapping

from braze_exporter import backfill, logs
from braze_exporter.backfill.progress import count
from braze_exporter.cli.outcome import FAILED, GOOD, fail
from braze_exporter.cli.surroundings import refuse_shared_state_file, surroundings
from braze_exporter.config import Config, missing_keys, read, reference
from braze_exporter.config.document import shown
from braze_exporter.discover import discover as print_what_is_there
from braze_exporter.ledger import StoreError, UnreadableError, inspect_state_file
from braze_exporter.live import check_live
from braze_exporter.mixin import dashboard as grafana
from braze_exporter.mixin import rules as alerting
from braze_exporter.plan import Plan, build
from braze_exporter.web import read as read_web


def _planned(options: argparse.Namespace, environ: Mapping[str, str]) -> tuple[Config, Plan]:
    """Return a config and its plan without its keys, with a warning for each that is missing."""
    config = read(options.config_file)
    plan = build(config)
    for problem in missing_keys(config, environ):
        print(f"warning: {problem.render(config.source)}", file=sys.stderr)
    return config, plan


def check(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Validate a config, without a network and without its keys unless it is to be live."""
    config, plan = _planned(options, environ)
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


def discover(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Print what Braze has; the config may have nothing to ask for yet."""
    config = read(options.config_file, environ, may_ask_nothing=True)
    with surroundings(config, environ, options.on_stop) as around:
        has_found = print_what_is_there(config, around, archived=options.archived)
    return GOOD if has_found else FAILED


def dashboard(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Print the dashboard of a config, without a network and without its keys."""
    config, plan = _planned(options, environ)
    print(json.dumps(grafana.dashboard(plan, config.settings.budget.reserve), indent=2))
    return GOOD


def rules(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Print the alerting rules of a config, without a network and without its keys."""
    config, plan = _planned(options, environ)
    print(alerting.as_yaml(alerting.rules(plan, config.settings)), end="")
    return GOOD


def schema(_options: argparse.Namespace, _environ: Mapping[str, str]) -> int:
    """Print the JSON Schema of the config."""
    print(json.dumps(reference.schema(), indent=2))
    return GOOD


def write_history(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Write the history of the queries of a config, and print what is to be done with it."""
    config = read(options.config_file, environ)
    plan = build(config)
    try:
        wish = backfill.wish(options.start, options.end, options.labels, options.output)
        with surroundings(config, environ, options.on_stop) as around:
            backfill.backfill(wish, config, plan, around)
    except backfill.BackfillError as error:
        return fail(str(error))
    return GOOD
