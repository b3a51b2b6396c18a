"""Run a backfill: fetch missing history within the budget, then write the output."""

import contextlib
import shlex
from collections.abc import Mapping
from math import ceil

from braze_exporter.backfill.command_context import CommandContext
from braze_exporter.backfill.lists import expand_plan, lists_with_use
from braze_exporter.backfill.openmetrics import ExportSummary, write_openmetrics
from braze_exporter.backfill.progress import Progress, format_rate
from braze_exporter.backfill.reader import Reader
from braze_exporter.backfill.request import BackfillError, BackfillRequest, first_sample_query, format_time
from braze_exporter.backfill.resume_file import ResumeFile
from braze_exporter.braze.errors import BrazeError
from braze_exporter.braze.pools import Endpoint
from braze_exporter.braze.query import Query
from braze_exporter.braze.transport import DEFAULT_TIMEOUTS, Timeouts
from braze_exporter.config.document import shorten, shorten_path
from braze_exporter.config.loading import Config
from braze_exporter.config.plurals import pluralize
from braze_exporter.config.values import format_rounded_up
from braze_exporter.scheduler.budgets import Budgets
from braze_exporter.scheduler.clients import open_clients
from braze_exporter.scheduler.key_state import AUTH_REASONS
from braze_exporter.scheduler.list_reader import ListReader
from braze_exporter.scheduler.plan import Plan
from braze_exporter.scheduler.pool_usage import PoolUsage

# The time between two updates of the progress.
_POLL_SECONDS = 0.2
_HOUR_SECONDS, _DAY_SECONDS = 3_600, 86_400
# The maximum number of list pages that are read in a burst, if the budget allows it. 100 pages have 25,000 events.
_MAX_LIST_PAGES = 100
# promtool reads the text once for each block. A block covers two hours by default. With this option, a year has 18
# blocks. Prometheus does not create blocks longer than a month either.
_BLOCK_OPTION = "--max-block-duration=720h"


def run_backfill(
    request: BackfillRequest, config: Config, plan: Plan, ctx: CommandContext, timeouts: Timeouts = DEFAULT_TIMEOUTS
) -> None:
    """Run `request` for the queries of `plan`, which is the plan of `config`, and print how to import the output.

    Raises `BackfillError` if the backfill cannot start or ends early. After an error or a signal, the fetched data is
    kept for the next run.
    """
    request.validate(plan, ctx.clock.wall())
    progress = Progress(ctx.err, ctx.clock.monotonic)
    with contextlib.closing(ResumeFile(request.resume_path, request.start, request.end)) as resume_file:
        # The circuit breakers of `Reader` limit the calls to a Braze that does not respond.
        budgets = Budgets(ctx.clock, is_reached=True)
        admissions = budgets.open_admissions(config)
        budgets.set_command_plan(config, plan, max_burst=_MAX_LIST_PAGES)
        clients = open_clients(config, admissions, ctx.session, ctx.clock, timeouts=timeouts)
        readers = {name: ListReader(client, ctx.sleep) for name, client in clients.items()}
        plan = expand_plan(plan, config.settings, readers, progress.print_line)

        def endpoints(name: str) -> list[Endpoint]:
            lists = (list_endpoint for workspace, list_endpoint, _ in lists_with_use(plan) if workspace == name)
            return [*plan.kinds_of(name), *lists]

        budgets.set_command_plan(config, plan, max_burst=config.settings.budget.concurrency, endpoints=endpoints)
        reader = Reader(request, resume_file, clients, plan.queries, ctx.clock)
        total = sum(len(request.chunks(query)) for query in plan.queries)
        missing = dict.fromkeys(plan.budget_usage, 0)
        for usage in missing:
            for query in plan.queries:
                if (plan.budget_owners[query.workspace], query.kind.pool) == (usage.workspace, usage.pool):
                    missing[usage] += len(resume_file.missing_chunks(request.chunks(query)))
        done = total - sum(missing.values())

        def describe_saved() -> str:
            calls = f"{done + reader.completed_count:,} of {pluralize(total, 'call', 'calls')}"
            if not resume_file.is_kept:
                return f"The responses to {calls} are lost"
            path = shorten_path(request.resume_path)
            return f"The responses to {calls} are saved in {path}; run the same command again to resume"

        def stop() -> str:
            resume_file.close()
            return describe_saved()

        ctx.on_stop(stop)
        _check_budget(missing)
        progress.print_line(_describe_plan(request, plan, missing, done))
        try:
            with contextlib.closing(reader):
                reader.start(config.settings.budget.concurrency)
                while not reader.wait(_POLL_SECONDS):
                    progress.update(done + reader.completed_count, total, reader.describe_pause())
            _check_rejected(reader.rejected)
            progress.print_line(
                f"{pluralize(total, 'call', 'calls')} completed, writing {shorten_path(request.output)}"
            )
            summary = write_openmetrics(request, plan, resume_file)
        except BackfillError as error:
            progress.clear()
            raise BackfillError(f"{error}. {describe_saved()}") from None
        ctx.on_stop(str)
        resume_file.remove()
    print(_import_instructions(request, summary, ctx.clock.wall()), file=ctx.out)


def _check_budget(missing: Mapping[PoolUsage, int]) -> None:
    for usage, calls in missing.items():
        if calls and usage.command_hourly_calls < 1:
            raise BackfillError(
                f"{shorten(usage.workspace)}: the exporter needs {usage.hourly_calls:,.0f} of the "
                f"{pluralize(usage.allowed_hourly_calls, 'call', 'calls')} per hour that budget.share allows in the "
                f"{usage.pool.name} pool, and a backfill may use half of the others; raise budget.share for the "
                "backfill, or configure fewer queries"
            )


def _describe_plan(request: BackfillRequest, plan: Plan, missing: Mapping[PoolUsage, int], done: int) -> str:
    """Return a text with the number of calls to make and about how long they take."""
    calls = sum(missing.values())
    text = f"{pluralize(len(plan.queries), 'query', 'queries')} from {request.start} to {request.end}: "
    text += f"{pluralize(calls, 'call', 'calls')} to make" + (f", {done:,} already completed" if done else "")
    if not calls:
        return text
    slowest = max(filter(missing.get, missing), key=lambda usage: missing[usage] / usage.command_hourly_calls)
    seconds = missing[slowest] * _HOUR_SECONDS / slowest.command_hourly_calls
    text += (
        f". At {format_rate(slowest.command_hourly_calls / _HOUR_SECONDS)}, half of what the exporter leaves of "
        f"budget.share, they take about {format_rounded_up(seconds)}"
    )
    return text + (
        ". Fewer queries, a later --start or a larger budget.share take less time" if seconds > _DAY_SECONDS else ""
    )


def _check_rejected(rejected: Mapping[Query, BrazeError]) -> None:
    """Raise `BackfillError` if Braze has rejected queries, because the output would be incomplete.

    The message names one query for each error of the key, and one for all other errors.
    """
    if rejected:
        examples: dict[str, Query] = {}
        for query, error in rejected.items():
            examples.setdefault(error.detail if error.reason in AUTH_REASONS else "", query)
        named = [f"{_describe_query(query)}: {rejected[query].detail}" for query in examples.values()]
        raise BackfillError(
            f"Braze rejected {pluralize(len(rejected), 'query', 'queries')}, such as {'; '.join(named)}. "
            "Fix the config, or remove these queries from it"
        )


def _describe_query(query: Query) -> str:
    labels = ", ".join(f"{name}={shorten(value)}" for name, value in query.labels if value)
    return f"{labels} ({query.unit.adverb})"


def _import_instructions(request: BackfillRequest, summary: ExportSummary, now: float) -> str:
    """Return a shell script that imports the output, with comments."""
    output = str(request.output) if not str(request.output).startswith("-") else f"./{request.output}"
    days = ceil((now - summary.oldest) / _DAY_SECONDS) + 1
    samples, series = pluralize(summary.samples, "sample", "samples"), pluralize(summary.series, "series", "series")
    lines = [
        (
            f"{shorten_path(output)} contains {samples} of {series}, from {format_time(summary.oldest)} to "
            f"{format_time(summary.newest)}."
        )
    ]
    if summary.empty_queries:
        lines.append(
            f"No samples for {pluralize(summary.empty_queries, 'query', 'queries')}, because Braze returned no data."
        )
    if summary.gaps:
        lines.append(
            f"No samples for {pluralize(summary.gaps, 'bucket', 'buckets')} between others, because Braze returned no "
            "values."
        )
    lines += [
        f"Prometheus needs --storage.tsdb.retention.time={days}d or more to keep these samples. The default is 15d.",
        "Run this command as the user of the Prometheus process, with DATA set to Prometheus's --storage.tsdb.path.",
        "Prometheus loads the new blocks soon afterwards.",
    ]
    command = f'promtool tsdb create-blocks-from openmetrics {_BLOCK_OPTION} {shlex.quote(output)} "${{DATA:?}}"'
    remainder = ["The first sample that Prometheus scraped from the exporter must be newer. PromQL query for its time:"]
    remainder.append(first_sample_query(request.labels))
    return "\n".join([*(f"# {line}" for line in lines), command, *(f"# {line}" for line in remainder)])
