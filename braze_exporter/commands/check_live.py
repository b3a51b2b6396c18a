"""Implement `check --live`: run all queries of a config once, as the exporter would, and report problems."""

from collections.abc import Iterable, Mapping
from concurrent.futures import wait
from contextlib import closing
from dataclasses import replace
from typing import TextIO

from braze_exporter.backfill.command_context import CommandContext
from braze_exporter.braze.errors import Reason
from braze_exporter.braze.lists import SEGMENT_LIST, ListEndpoint
from braze_exporter.commands.live_findings import Level, LiveResults, describe_findings
from braze_exporter.config.document import shorten
from braze_exporter.config.loading import Config
from braze_exporter.config.plurals import pluralize
from braze_exporter.exporter.exporter import Exporter
from braze_exporter.scheduler.budgets import Budgets
from braze_exporter.scheduler.clients import WorkspaceClient, open_clients
from braze_exporter.scheduler.list_reader import ListReader, ListResult
from braze_exporter.scheduler.plan import Plan
from braze_exporter.scheduler.query_state import QueryState
from braze_exporter.scheduler.selectors import ListSnapshot, ListSnapshots, expand_selectors, required_lists

# The maximum number of tries of shorter requests after oversized responses, one second apart.
_MAX_RETRIES = 60


def check_live(config: Config, plan: Plan, ctx: CommandContext) -> bool:
    """Fetch all queries of `plan`, print the findings, and return whether there is no problem.

    `plan` is the plan of `config`. The calls use the budget of a command, and at most that of one hour.
    """
    budgets = Budgets(ctx.clock)
    clients = open_clients(config, budgets.open_admissions(config), ctx.session, ctx.clock)
    budgets.set_command_plan(config, plan)
    lists = _read_lists(config, plan, clients, ctx)
    known: ListSnapshots = {
        (name, list_endpoint): ListSnapshot(result.items, calls=0)
        for name, results in lists.items()
        for list_endpoint, result in results.items()
        if not result.failure
    }
    plan = expand_selectors(plan, config.settings, known)
    # Baselines are not fetched, because they need many calls. Each query requests as many buckets as Braze allows.
    queries = tuple(replace(query, baseline_weeks=0, length=query.kind.max_length) for query in plan.queries)
    exporter = Exporter(clock=ctx.clock, reads_lists=False, budgets=budgets)
    findings: dict[tuple[Level, str], list[str]] = {}  # with the workspaces
    with closing(exporter):
        exporter.apply_config(config, replace(plan, queries=queries), ctx.session)
        _wait_for_queries(exporter, len(queries), ctx.err)
        malformed = {
            query_state: query_state.error
            for query_state in exporter.query_states
            if query_state.error is not None and query_state.error.reason is Reason.INVALID_RESPONSE
        }
        for _ in range(_MAX_RETRIES):
            if not _is_shorter_request_due(exporter.query_states, ctx.clock.monotonic()):
                break
            ctx.sleep(1.0)  # the rate limiter may allow more calls by then
            _wait_for_queries(exporter, len(queries), ctx.err)
        for workspace in config.workspaces:
            name = workspace.spec.name
            query_states = [query_state for query_state in exporter.query_states if query_state.query.workspace == name]
            unreachable = clients[name].admission.unreachable_error
            results = LiveResults(workspace, plan, query_states, lists[name], malformed, unreachable)
            for finding in describe_findings(results):
                findings.setdefault(finding, []).append(shorten(name))
    lines = [
        f"{', '.join(names)}: {level.value}{text}\n"
        for wanted in Level
        for (level, text), names in findings.items()
        if level is wanted
    ]
    problems, notes = (sum(found is level for found, _ in findings) for level in (Level.PROBLEM, Level.NOTE))
    lines.append(f"{pluralize(problems, 'problem', 'problems')}, {pluralize(notes, 'note', 'notes')}\n")
    ctx.out.write("".join(lines))  # in one write, so that a signal leaves no partial output
    return not problems


def _read_lists(
    config: Config, plan: Plan, clients: Mapping[str, WorkspaceClient], ctx: CommandContext
) -> Mapping[str, Mapping[ListEndpoint, ListResult]]:
    """Return the lists that the plan and the segments need, by workspace name and list."""
    needed, lists = required_lists(plan), {}
    for spec in (workspace.spec for workspace in config.workspaces):
        list_reader = ListReader(clients[spec.name], ctx.sleep)
        list_endpoints = dict.fromkeys((*needed.get(spec.name, ()), *([SEGMENT_LIST] if spec.segments else [])))
        lists[spec.name] = {
            list_endpoint: list_reader.read(list_endpoint, include_archived=False) for list_endpoint in list_endpoints
        }
    return lists


def _wait_for_queries(exporter: Exporter, count: int, err: TextIO) -> None:
    """Fetch due queries, wait until each is done or deferred, and show the progress on a terminal."""
    fetched = exporter.refresh()
    while not wait([fetched], 1.0).done:
        if err.isatty():
            done_count = sum(query_state.has_result for query_state in exporter.query_states)
            print(f"\r{done_count:,} of {count:,}", end="", file=err, flush=True)
    if err.isatty():
        print("\r", end="", file=err, flush=True)


def _is_shorter_request_due(query_states: Iterable[QueryState], now: float) -> bool:
    """Return whether a query whose response was oversized is due for a shorter request at `now`."""
    return any(
        query_state.error is not None and query_state.error.reason is Reason.TOO_LARGE and query_state.is_due(now)
        for query_state in query_states
    )
