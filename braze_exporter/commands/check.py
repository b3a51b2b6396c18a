"""The command `check`: validates a config, and prints the calls per hour and the permissions that its queries need."""

import argparse
import re
import sys
from collections.abc import Iterator, Mapping

from braze_exporter.commands.exit_codes import FAILURE, SUCCESS
from braze_exporter.commands.plan import read_plan
from braze_exporter.config.document import KeyPath, shorten
from braze_exporter.config.loading import Config, load_config
from braze_exporter.config.plurals import pluralize
from braze_exporter.scheduler.plan import Plan, budget_owners, build_plan, raised_settings
from braze_exporter.scheduler.selectors import required_lists
from braze_exporter.state.errors import InaccessibleError, StateFileError
from braze_exporter.state.state_file import inspect_state_file

# Names of time zones that keep the same offset all year. Users may expect DST.
_FIXED_ZONE = re.compile(r"[EMH]ST|(?:Etc/)?GMT[+-]?[0-9]*")

# A list is read to its end: at least one page, and an empty one.
_MIN_CALLS_PER_LIST = 2


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Validate a config, print its queries, calls, permissions and raised settings, and return the exit code.

    Without `--live`, neither the network nor the API keys are used. With it, the command also fails if a finding is a
    problem.
    """
    config, plan = read_plan(options, environ)
    _check_state_file(config)
    selectors = f" and {pluralize(len(plan.selectors), 'selector', 'selectors')}" if plan.selectors else ""
    print(f"{options.config_file} is valid: {pluralize(len(plan.queries), 'query', 'queries')}{selectors}")
    for usage in plan.pool_usage:
        startup = (
            f", plus {pluralize(usage.startup_calls, 'call', 'calls')} once for baselines"
            if usage.startup_calls
            else ""
        )
        calls = pluralize(usage.hourly_calls, "call", "calls") if usage.hourly_calls >= 1 else "less than 1 call"
        print(
            f"{shorten(usage.workspace)}: {pluralize(usage.query_count, 'query needs', 'queries need')} "
            f"{calls} per hour in the {usage.pool.name} pool{startup}; "
            f"budget.share allows {usage.allowed_hourly_calls:,.0f} of {usage.pool.per_hour:,.0f}"
        )
    for name in (workspace.spec.name for workspace in config.workspaces):
        print(f"{shorten(name)}: {_describe_permissions(plan, name)}")
    for problem in config.make_error(
        [*_shared_keys(config), *_zones_without_dst(config), *_unread_lists(config, plan)]
    ).problems:
        print(f"warning: {problem.render(config.source)}", file=sys.stderr)
    for raised in raised_settings(config):
        print(raised.render(config.source))
    if options.web_config_file:
        from braze_exporter.web.config_file import read_web_config

        protections = " and ".join(read_web_config(options.web_config_file).protections)
        print(f"{options.web_config_file} is valid: {protections or 'neither TLS nor passwords'}")
    return SUCCESS if not options.live or _check_live(config, options, environ) else FAILURE


def _describe_permissions(plan: Plan, workspace: str) -> str:
    """Return which permissions the API key of a workspace needs for its queries, and which it may have for lists."""
    selectors = [selector for selector in plan.selectors if selector.workspace == workspace]
    kinds = [query.kind for query in plan.queries if query.workspace == workspace]
    kinds += [selector.kind for selector in selectors]
    selected = [selector.kind.list_endpoint for selector in selectors]
    required = dict.fromkeys(item.permission for item in (*kinds, *selected) if item is not None)
    lists = dict.fromkeys(item.permission for item in required_lists(plan).get(workspace, ()))
    text = f"the API key needs {'the permission' if len(required) == 1 else 'the permissions'} {', '.join(required)}"
    optional = ", ".join(permission for permission in lists if permission not in required)
    return f"{text}; optional, for names and for subjects that Braze does not list: {optional}" if optional else text


def _shared_keys(config: Config) -> Iterator[tuple[KeyPath, str]]:
    """Yield a problem for each workspace with the url and the source of the API key of an earlier one."""
    owners = budget_owners(config)
    for workspace in config.workspaces:
        first = owners[workspace.spec.name]
        if first != workspace.spec.name:
            text = f'has the same url and API key as "{shorten(first)}", so both share one budget; merge them'
            yield workspace.path, text


def _zones_without_dst(config: Config) -> Iterator[tuple[KeyPath, str]]:
    """Yield a problem for each time zone that is an abbreviation or an offset, except UTC."""
    for workspace in config.workspaces:
        zone = workspace.spec.timezone
        if zone is not None and _FIXED_ZONE.fullmatch(zone.key):
            text = f"{zone.key} has no DST; if the company's clock changes, set a name such as America/New_York"
            yield (*workspace.path, "timezone"), text


def _unread_lists(config: Config, plan: Plan) -> Iterator[tuple[KeyPath, str]]:
    """Yield a problem for each pool in which the queries leave too few calls to read its lists every hour."""
    paths = {workspace.spec.name: workspace.path for workspace in config.workspaces}
    for usage in plan.budget_usage:
        sharing = [name for name, owner in plan.budget_owners.items() if owner == usage.workspace]
        needed = [item for name in sharing for item in required_lists(plan).get(name, ())]
        lists = [item for item in needed if item.pool is usage.pool]
        left = usage.allowed_hourly_calls - usage.hourly_calls
        if left < _MIN_CALLS_PER_LIST * len(lists):
            names = " and ".join(dict.fromkeys(item.item_names[1] for item in lists))
            text = f"the queries leave {pluralize(left, 'call', 'calls')} per hour of budget.share in the"
            fix = "set a longer refresh_interval, or configure fewer queries"
            yield paths[usage.workspace], f"{text} {usage.pool.name} pool, too few to read the lists of {names}; {fix}"


def _check_state_file(config: Config) -> None:
    """Raise `ConfigError` if `serve` would refuse the file at `state_file`. Nothing is changed or created."""
    path = config.settings.state_file
    try:
        if path is not None:
            inspect_state_file(path)
    except InaccessibleError as error:  # `serve` may run as another user
        print(f"warning: {config.make_error([(('state_file',), str(error))])}", file=sys.stderr)
    except StateFileError as error:
        raise config.make_error([(("state_file",), str(error))]) from None


def _check_live(config: Config, options: argparse.Namespace, environ: Mapping[str, str]) -> bool:
    """Read the API keys, run all queries of `config` against Braze, and return whether there is no problem."""
    from braze_exporter.commands import logs
    from braze_exporter.commands.check_live import check_live
    from braze_exporter.commands.context import command_context

    logs.configure_logging("error", "logfmt")  # `check_live` prints each failure once
    config = load_config(config.text, config.source, environ)  # the file may be a pipe, which can be read only once
    with command_context(config, environ, options.on_stop) as ctx:
        return check_live(config, build_plan(config), ctx)
