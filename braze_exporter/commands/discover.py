"""The command `discover`: prints all items of Braze's lists as configuration."""

import argparse
from collections.abc import Mapping

from braze_exporter.backfill.context import CommandContext
from braze_exporter.braze.lists import LIST_ENDPOINTS, ListEndpoint
from braze_exporter.commands import config_rendering
from braze_exporter.commands.context import command_context, open_lister
from braze_exporter.commands.exit_codes import FAILURE, SUCCESS
from braze_exporter.config.document import shorten
from braze_exporter.config.loading import Config, read_config
from braze_exporter.scheduler.list_reader import ListResult


def discover(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    """Print Braze's lists as config. The workspaces of the given config need no entries yet."""
    config = read_config(options.config_file, environ, allow_empty=True)
    with command_context(config, environ, options.on_stop) as ctx:
        has_found = print_lists(config, ctx, archived=options.archived)
    return SUCCESS if has_found else FAILURE


_HEAD = """\
# What Braze has, as config to paste: take what you want to watch. What is in the config already, and what cannot be
# asked for, is commented out. By `braze-exporter discover`.
workspaces:"""


def print_lists(config: Config, ctx: CommandContext, *, archived: bool) -> bool:
    """Print Braze's lists as config, with archived items if `archived` is set.

    Returns whether at least one item was listed or one list was read completely.
    """
    results: list[dict[ListEndpoint, ListResult]] = []
    for spec in (workspace.spec for workspace in config.workspaces):
        reader = open_lister(config, spec, ctx)
        reader.admission.set_endpoints(LIST_ENDPOINTS)
        result: dict[ListEndpoint, ListResult] = {}
        for list_endpoint in LIST_ENDPOINTS:
            result[list_endpoint] = reader.read(list_endpoint, archived=archived)
            print(
                f"{shorten(spec.name)}: {_describe_result(list_endpoint, result[list_endpoint])}",
                file=ctx.err,
                flush=True,
            )
        failure = reader.admission.status().key_failure
        if failure is not None:  # a single list does not show whether the key or a permission is the cause
            print(f"{shorten(spec.name)}: {failure.error.detail}", file=ctx.err, flush=True)
            result = {list_endpoint: ListResult((), failure=failure.error.detail) for list_endpoint in result}
        results.append(result)
    for workspace, result in zip(config.workspaces, results, strict=True):
        count, most = config_rendering.count_entries(workspace, result), config.settings.max_queries
        if count > most:
            text = f"{count:,} entries, more than max_queries, which is {most:,}: take what you watch of them"
            print(f"warning: {shorten(workspace.spec.name)}: {text}", file=ctx.err, flush=True)
    lines = [_HEAD]
    for workspace, result in zip(config.workspaces, results, strict=True):
        lines += config_rendering.render_config(workspace, config.settings, result)
    ctx.out.write("".join(f"{line}\n" for line in lines))  # in one write, so that a signal leaves no partial output
    return any(result.items or not result.failure for lists in results for result in lists.values())


def _describe_result(list_endpoint: ListEndpoint, result: ListResult) -> str:
    count = f"{len(result.items):,} {list_endpoint.item_names[len(result.items) != 1]}"
    count += f" and {len(result.archived_items):,} archived" if result.archived_items else ""
    return f"{count}, and then: {result.failure}" if result.failure else count
