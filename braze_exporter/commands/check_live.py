"""Implement `check --live`: run all queries of a config once, as the exporter would, and report problems."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import wait
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TextIO

from braze_exporter.backfill.context import CommandContext
from braze_exporter.braze import time_zones
from braze_exporter.braze.buckets import bucket_end
from braze_exporter.braze.client import describe_unauthorized
from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.kinds import INSTANCES, Unit
from braze_exporter.braze.lists import SEGMENT_LIST, ListEndpoint
from braze_exporter.braze.query import Query
from braze_exporter.braze.series import bucket_starts
from braze_exporter.commands.context import open_list_reader
from braze_exporter.config.document import shorten
from braze_exporter.config.loading import Config, ConfiguredWorkspace
from braze_exporter.config.plurals import pluralize
from braze_exporter.exporter.exporter import Exporter
from braze_exporter.metrics.data_quality import is_timezone_mismatch
from braze_exporter.scheduler.clients import CommandBudgets
from braze_exporter.scheduler.key_state import KEY_REJECTED_DETAIL
from braze_exporter.scheduler.list_reader import ListResult
from braze_exporter.scheduler.plan import ConfiguredSubject, Plan, SelectionResult
from braze_exporter.scheduler.query_state import QueryState
from braze_exporter.scheduler.selectors import ListSnapshot, ListSnapshots, expand_selectors, required_lists

# The maximum number of tries of shorter requests after oversized responses, one second apart.
_MAX_RETRIES = 60
# The maximum number of queries that a finding names.
_MAX_NAMED = 3


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence about a workspace, and whether it is a problem that the user should fix."""

    text: str
    is_problem: bool = True


def check_live(config: Config, plan: Plan, ctx: CommandContext) -> bool:
    """Fetch all queries of `plan`, print the findings, and return whether there is no problem.

    `plan` is the plan of `config`. The calls use the budget of a command, and at most that of one hour.
    """
    command = CommandBudgets(config, wall=ctx.wall, monotonic=ctx.monotonic)
    command.set_plan(plan)
    lists = _read_lists(config, plan, command, ctx)
    known: ListSnapshots = {
        key: ListSnapshot(result.items, calls=0) for key, result in lists.items() if not result.failure
    }
    plan = expand_selectors(plan, config.settings, known)
    # Baselines are not fetched, because they need many calls. Each query requests as many buckets as Braze allows.
    queries = tuple(replace(query, baseline_weeks=0, length=query.kind.max_length) for query in plan.queries)
    exporter = Exporter(wall=ctx.wall, monotonic=ctx.monotonic, reads_lists=False, budgets=command.budgets)
    problems, lines = 0, []
    with closing(exporter):
        exporter.apply_config(config, replace(plan, queries=queries), ctx.session)
        _wait_for_queries(exporter, len(queries), ctx.err)
        malformed = {
            query_state: query_state.error
            for query_state in exporter.query_states
            if query_state.error is not None and query_state.error.reason is Reason.INVALID_RESPONSE
        }
        for _ in range(_MAX_RETRIES):
            if not _is_shorter_request_due(exporter.query_states, ctx.monotonic()):
                break
            ctx.sleep(1.0)  # the rate limiter may allow more calls by then
            _wait_for_queries(exporter, len(queries), ctx.err)
        for workspace in config.workspaces:
            name = workspace.spec.name
            query_states = [query_state for query_state in exporter.query_states if query_state.query.workspace == name]
            lists_of_workspace = {
                list_endpoint: result for (owner, list_endpoint), result in lists.items() if owner == name
            }
            for finding in _findings(workspace, plan, query_states, lists_of_workspace, malformed):
                problems += finding.is_problem
                prefix = "problem: " if finding.is_problem else ""
                lines.append(f"{shorten(name)}: {prefix}{finding.text}\n")
    ctx.out.write("".join(lines))  # in one write, so that a signal leaves no partial output
    return not problems


def _read_lists(
    config: Config, plan: Plan, command: CommandBudgets, ctx: CommandContext
) -> dict[tuple[str, ListEndpoint], ListResult]:
    """Return the lists that the plan and the segments need, by workspace name and list."""
    lists: dict[tuple[str, ListEndpoint], ListResult] = {}
    list_endpoints = required_lists(plan)
    for spec in (workspace.spec for workspace in config.workspaces):
        list_reader = open_list_reader(config, spec, command.admissions, ctx)
        for list_endpoint in dict.fromkeys(
            [*list_endpoints.get(spec.name, ()), *([SEGMENT_LIST] if spec.segments else [])]
        ):
            lists[spec.name, list_endpoint] = list_reader.read(list_endpoint, include_archived=False)
    return lists


def _wait_for_queries(exporter: Exporter, count: int, err: TextIO) -> None:
    """Fetch due queries, wait until each is done or deferred, and show the progress on a terminal."""
    fetched = exporter.refresh()
    while not wait([fetched], 1.0).done:
        if err.isatty():
            print(
                f"\r{sum(query_state.has_result for query_state in exporter.query_states):,} of {count:,}",
                end="",
                file=err,
                flush=True,
            )
    if err.isatty():
        print("\r", end="", file=err, flush=True)


def _is_shorter_request_due(query_states: Iterable[QueryState], now: float) -> bool:
    """Return whether a query whose response was oversized is due for a shorter request at `now`."""
    return any(
        query_state.error is not None and query_state.error.reason is Reason.TOO_LARGE and query_state.is_due(now)
        for query_state in query_states
    )


def _findings(
    workspace: ConfiguredWorkspace,
    plan: Plan,
    query_states: Sequence[QueryState],
    lists: Mapping[ListEndpoint, ListResult],
    malformed: Mapping[QueryState, BrazeError],
) -> Iterator[Finding]:
    failed = {
        *malformed,
        *(query_state for query_state in query_states if query_state.error is not None or query_state.response is None),
    }
    succeeded = [query_state for query_state in query_states if query_state not in failed]
    text = f"{len(succeeded):,} of {pluralize(len(query_states), 'query', 'queries')} succeeded"
    yield Finding(text, is_problem=False)
    is_key_rejected = _is_key_rejected(query_states, lists)
    errors = {query_state: malformed.get(query_state, query_state.error) for query_state in query_states}
    yield from _failure_findings(workspace, errors, is_key_rejected=is_key_rejected)
    for list_endpoint, result in lists.items():
        if result.failure and not is_key_rejected:
            is_needed = any(
                selector.kind.list_endpoint is list_endpoint
                for selector in plan.selectors
                if selector.workspace == workspace.spec.name
            )
            what = "selectors could not be expanded" if is_needed else "configured subjects were not checked"
            yield Finding(
                f"the list of {list_endpoint.item_names[1]} could not be read, so {what}: {result.failure}", is_needed
            )
    yield from _unlisted_findings(
        subject for subject in plan.configured_subjects if subject.workspace == workspace.spec.name
    )
    yield from _selection_findings(
        result for result in plan.selection_results if result.workspace == workspace.spec.name
    )
    yield from _segment_findings(workspace, lists.get(SEGMENT_LIST))
    yield from _no_data_findings(succeeded)
    yield from _time_zone_findings(workspace, succeeded)
    yield from _delay_findings(succeeded)


def _is_key_rejected(query_states: Iterable[QueryState], lists: Mapping[ListEndpoint, ListResult]) -> bool:
    """Return whether Braze rejects the key at all endpoints, including those of the lists."""
    return any(
        query_state.error is not None and query_state.error.detail == KEY_REJECTED_DETAIL
        for query_state in query_states
    ) and all(result.failure == describe_unauthorized(list_endpoint) for list_endpoint, result in lists.items())


def _failure_findings(
    workspace: ConfiguredWorkspace, errors: Mapping[QueryState, BrazeError | None], *, is_key_rejected: bool
) -> Iterator[Finding]:
    """Yield one finding for each reason for which queries failed or were deferred."""
    groups: dict[str, list[Query]] = {}
    for query_state, error in errors.items():
        if error is not None and error.reason is Reason.UNAUTHORIZED:
            detail = describe_unauthorized(query_state.query.kind)
            if is_key_rejected:
                url = workspace.spec.rest_endpoint
                instance = next((f" ({name})" for name, known in INSTANCES.items() if known == url), "")
                detail = (
                    f"{KEY_REJECTED_DETAIL}. Each API key belongs to one instance; this key may belong to another "
                    f"instance than {url}{instance}"
                )
            groups.setdefault(detail, []).append(query_state.query)
        elif error is not None:
            groups.setdefault(error.detail, []).append(query_state.query)
        elif not query_state.has_result:
            text = "deferred, because the budget or Braze's rate limit allows no more calls now"
            groups.setdefault(text, []).append(query_state.query)
    for detail, queries in groups.items():
        more = len(queries) - _MAX_NAMED
        named = ", ".join(map(_describe_query, queries[:_MAX_NAMED])) + (f" and {more:,} more" if more > 0 else "")
        yield Finding(f"{named}: {detail}")


def _unlisted_findings(subjects: Iterable[ConfiguredSubject]) -> Iterator[Finding]:
    """Yield a finding for each subject that the config names and Braze does not list."""
    for item in subjects:
        if item.is_listed or item.kind.list_endpoint is None:
            continue
        what = f'{item.kind.list_endpoint.item_names[0]} "{shorten(item.subject)}" is missing from Braze\'s list'
        if item.kind.is_identified_by_id:
            yield Finding(f"{what}; it may be archived, or belong to another workspace")
        else:
            names = ", ".join(f'"{shorten(name)}"' for name in item.suggestions)
            hint = f" (did you mean {names}?)" if names else ""
            yield Finding(f"{what}{hint}; names are case-sensitive")


def _selection_findings(results: Iterable[SelectionResult]) -> Iterator[Finding]:
    """Yield a finding for each section with selectors: how many listed items they match, and how many are skipped."""
    for item in results:
        text = (
            f"{item.kind.section}: selectors match {item.matched_count:,} of {item.listed_count:,} items in "
            "Braze's list"
        )
        if item.skipped_count:
            text += f", {item.skipped_count:,} skipped; raise max_queries or budget.share, or match fewer items"
        yield Finding(text, is_problem=item.skipped_count > 0 or not item.matched_count)


def _segment_findings(workspace: ConfiguredWorkspace, result: ListResult | None) -> Iterator[Finding]:
    """Yield a finding for each segment that has no series, because Braze does not list or track it."""
    if result is None or result.failure:
        return
    rows = {row.id.lower(): row for row in result.items}
    for name, braze_id in workspace.spec.segments.items():
        row = rows.get(braze_id.lower())
        if row is None:
            yield Finding(
                f'the id of segment "{shorten(name)}" is missing from Braze\'s list; it may be archived, or belong to '
                "another workspace"
            )
        elif not row.is_tracked:
            yield Finding(
                f'segment "{shorten(name)}" ("{shorten(row.name)}" in Braze) has no series; enable its analytics '
                "tracking in Braze"
            )


def _no_data_findings(succeeded: Iterable[QueryState]) -> Iterator[Finding]:
    """Yield a finding for each query whose response has no data, no numbers or only zeros."""
    for query_state in succeeded:
        points = (
            [point for series in query_state.response.series for point in series.points]
            if query_state.response is not None
            else []
        )
        if not points and bucket_starts(query_state.response.series if query_state.response is not None else ()):
            yield Finding(f"{_describe_query(query_state.query)}: no bucket of the response has a number")
        elif not points:
            is_name = query_state.query.subject and not query_state.query.subject_id
            hint = (
                "check the spelling of the name"
                if is_name
                else "the subject may be new, or nothing may have been counted yet"
            )
            yield Finding(f"{_describe_query(query_state.query)}: the response has no data; {hint}")
        elif not any(value for _, value in points):
            text = (
                f"{_describe_query(query_state.query)}: all values of the last {len(points)} "
                f"{query_state.query.unit}s are 0"
            )
            yield Finding(text, is_problem=False)


def _time_zone_findings(workspace: ConfiguredWorkspace, succeeded: Sequence[QueryState]) -> Iterator[Finding]:
    """Yield a finding if the responses confirm or contradict the time zone of the workspace."""
    zone = workspace.spec.timezone
    if zone is None:
        return
    remedy = "set timezone to the company's time zone in Braze"
    fits = [fit for fit in _matching_zones(succeeded) if fit]
    common = [name for name in fits[0] if all(name in fit for fit in fits)] if fits else []
    if zone.key in common:
        yield Finding(f"timezone {zone.key} is correct: hourly values add up to daily values", is_problem=False)
    elif common:
        matching = ", ".join(common[:_MAX_NAMED])
        yield Finding(
            f"timezone {zone.key} is wrong, because hourly values add up to daily values in {matching}; {remedy}"
        )
    else:
        for query_state in succeeded:
            if query_state.response is not None and is_timezone_mismatch(query_state.query, query_state.response):
                newest = datetime.fromtimestamp(bucket_starts(query_state.response.series)[-1], zone).date()
                yield Finding(
                    f"{_describe_query(query_state.query)}: the newest day is {newest}, which is not today in "
                    f"{zone.key}; {remedy}"
                )
                return


def _matching_zones(succeeded: Iterable[QueryState]) -> Iterator[Sequence[str]]:
    """Yield, for each pair of an hourly and a daily query, the time zones in which the hours add up to the days."""
    pairs: dict[tuple[str, ...], dict[Unit, QueryState]] = {}
    for query_state in succeeded:
        pairs.setdefault(query_state.query.counter_key, {})[query_state.query.unit] = query_state
    for pair in pairs.values():
        if len(pair) == len(Unit):
            hours, days = _values_by_start(pair[Unit.HOUR]), _values_by_start(pair[Unit.DAY])
            zone, response = pair[Unit.DAY].query.zone, pair[Unit.HOUR].response
            dated = {datetime.fromtimestamp(start, zone).date(): value for start, value in days.items()}
            yield time_zones.find_matching_zones(dated, hours, response.sent_at if response is not None else 0.0)


def _delay_findings(succeeded: Iterable[QueryState]) -> Iterator[Finding]:
    """Yield a finding with the age of the newest hour with a count. A single response shows no more about a delay."""
    hourly = [
        query_state
        for query_state in succeeded
        if query_state.query.unit is Unit.HOUR and any(_values_by_start(query_state).values())
    ]
    if not hourly:
        return

    def delay_seconds(query_state: QueryState) -> float:
        newest = max(start for start, value in _values_by_start(query_state).items() if value)
        return (
            query_state.response.sent_at - bucket_end(newest, Unit.HOUR, query_state.query.zone)
            if query_state.response is not None
            else 0.0
        )

    newest_query = min(hourly, key=delay_seconds)
    seconds, settle = delay_seconds(newest_query), newest_query.query.settle_seconds
    if seconds > settle:
        yield Finding(
            f"the newest hour with a count above 0 ended {_format_minutes(seconds)} ago, but settle is "
            f"{_format_minutes(settle)}; Braze is delayed, or settle is too short"
        )
    else:
        when = f"ended {_format_minutes(seconds)} ago" if seconds > 0 else "has not ended yet"
        text = (
            f"the newest hour with a count above 0 {when}. One response does not show how late Braze revises hours; "
            "see braze_bucket_revision_delay_seconds"
        )
        yield Finding(text, is_problem=False)


def _values_by_start(query_state: QueryState) -> Mapping[int, float]:
    return (
        dict(point for series in query_state.response.series for point in series.points)
        if query_state.response is not None
        else {}
    )


def _format_minutes(seconds: float) -> str:
    return f"{seconds / 60:,.0f} min"


def _describe_query(query: Query) -> str:
    """Return a query as text: its section, its labels and its unit."""
    labels = " / ".join(shorten(value) for name, value in query.labels if name != "workspace" and value)
    return " ".join(part for part in (query.kind.section, labels, f"({query.unit.adverb})") if part)
