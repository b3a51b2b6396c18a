"""The command `discover`: prints a config with all items of Braze's lists."""

import argparse
from collections.abc import Mapping

from braze_exporter.backfill.command_context import CommandContext
from braze_exporter.braze.lists import LIST_ENDPOINTS, ListEndpoint
from braze_exporter.commands.config_rendering import render_config
from braze_exporter.commands.context import command_context
from braze_exporter.commands.discovery import EXCEEDS_LIMITS, find_skip_reasons
from braze_exporter.commands.exit_codes import FAILURE, SUCCESS
from braze_exporter.config.document import shorten
from braze_exporter.config.loading import Config, read_config
from braze_exporter.config.plurals import pluralize
from braze_exporter.scheduler.budgets import Budgets
from braze_exporter.scheduler.clients import open_clients
from braze_exporter.scheduler.list_reader import ListReader, ListResult
from braze_exporter.scheduler.plan import build_plan


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Print a config with all items of Braze's lists. The workspaces in the config file may have no entries yet."""
    config = read_config(options.config_file, environ, allow_empty=True)
    with command_context(config, environ, options.on_stop) as ctx:
        has_result = print_config(config, ctx, include_archived=options.archived, is_snippet=options.snippet)
    return SUCCESS if has_result else FAILURE


def print_config(config: Config, ctx: CommandContext, *, include_archived: bool, is_snippet: bool) -> bool:
    """Print `config` with an entry for each further item of Braze's lists, archived items commented out.

    If `is_snippet` is true, only the sections are printed. The calls use the budget of a command. Returns whether at
    least one item was listed or one list was read completely.
    """
    results: dict[str, dict[ListEndpoint, ListResult]] = {}
    budgets = Budgets(ctx.clock)
    clients = open_clients(config, budgets.open_admissions(config), ctx.session, ctx.clock)
    budgets.set_command_plan(config, build_plan(config), endpoints=lambda _workspace: LIST_ENDPOINTS)
    for spec in (workspace.spec for workspace in config.workspaces):
        reader = ListReader(clients[spec.name], ctx.sleep)
        lists = results[spec.name] = {}
        for list_endpoint in LIST_ENDPOINTS:
            lists[list_endpoint] = reader.read(list_endpoint, include_archived=include_archived)
            text = _describe_result(list_endpoint, lists[list_endpoint])
            print(f"{shorten(spec.name)}: {text}", file=ctx.err, flush=True)
        failure = reader.workspace.admission.status().key_failure
        if failure is not None:  # a single list does not show whether the key or a permission is the cause
            print(f"{shorten(spec.name)}: {failure.error.detail}", file=ctx.err, flush=True)
            results[spec.name] = {key: ListResult((), failure=failure.error.detail) for key in lists}
    skip_reasons = find_skip_reasons(config, results)
    exceeding_count = list(skip_reasons.values()).count(EXCEEDS_LIMITS)
    if exceeding_count:
        count = pluralize(exceeding_count, "item", "items")
        print(f"warning: commented out {count} beyond max_queries or budget.share", file=ctx.err, flush=True)
    lines = render_config(config, results, skip_reasons, is_snippet=is_snippet)
    ctx.out.write("".join(f"{line}\n" for line in lines))  # in one write, so that a signal leaves no partial output
    return any(result.items or not result.failure for lists in results.values() for result in lists.values())


def _describe_result(list_endpoint: ListEndpoint, result: ListResult) -> str:
    count = f"{len(result.items):,} {list_endpoint.item_names[len(result.items) != 1]}"
    count += f" and {len(result.archived_items):,} archived" if result.archived_items else ""
    return f"{count} (incomplete): {result.failure}" if result.failure else count
