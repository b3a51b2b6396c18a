"""Derive the findings of `check --live` from the results of the queries and lists of a workspace. No I/O."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from itertools import compress
from typing import NamedTuple, TypeAlias
from zoneinfo import ZoneInfo

from braze_exporter.braze import time_zones
from braze_exporter.braze.buckets import bucket_end
from braze_exporter.braze.calls import Response
from braze_exporter.braze.client import describe_unauthorized
from braze_exporter.braze.errors import BrazeError, Reason
from braze_exporter.braze.instances import INSTANCES
from braze_exporter.braze.kinds import Unit
from braze_exporter.braze.lists import SEGMENT_LIST, ListEndpoint
from braze_exporter.braze.names import normalize_id
from braze_exporter.braze.query import Query
from braze_exporter.braze.series import bucket_starts
from braze_exporter.config.document import shorten
from braze_exporter.config.loading import ConfiguredWorkspace
from braze_exporter.config.plurals import pluralize
from braze_exporter.config.suggestions import format_suggestions
from braze_exporter.metrics.data_quality import is_timezone_mismatch
from braze_exporter.scheduler.key_state import KEY_REJECTED_DETAIL
from braze_exporter.scheduler.list_reader import ListResult
from braze_exporter.scheduler.plan import Plan
from braze_exporter.scheduler.query_state import QueryState

# The maximum number of queries that a finding names.
_MAX_NAMED = 3
_MISSING_ID_HINT = "; it may be archived, or belong to another workspace"
# Failures that a host other than Braze's REST API causes at every endpoint.
_FOREIGN_RESPONSE = re.compile(
    "30[12378] |404 |405 |response is not JSON|malformed response: (?:not a JSON object|message is not success)"
)


Successes: TypeAlias = Sequence[tuple[Query, Response]]
"""The queries that succeeded, with their responses."""


class Level(Enum):
    """Whether the user should do something about a finding. The values are the start of the line."""

    GOOD = ""
    NOTE = "note: "
    PROBLEM = "problem: "


class Finding(NamedTuple):
    """One sentence about a workspace, or about one of its queries."""

    level: Level
    text: str
    query: Query | None = None


@dataclass(frozen=True, slots=True)
class LiveResults:
    """What Braze responded for a workspace.

    `plan` has the queries of selectors too. `malformed` are the errors of queries whose first response was malformed,
    even if a later one succeeded. `unreachable` is the last failure if Braze has never responded.
    """

    workspace: ConfiguredWorkspace
    plan: Plan
    query_states: Sequence[QueryState]
    lists: Mapping[ListEndpoint, ListResult]
    malformed: Mapping[QueryState, BrazeError]
    unreachable: BrazeError | None

    @property
    def errors(self) -> Mapping[QueryState, BrazeError]:
        """The errors of the queries that failed."""
        errors = {query_state: self.malformed.get(query_state, query_state.error) for query_state in self.query_states}
        return {query_state: error for query_state, error in errors.items() if error is not None}

    @property
    def succeeded(self) -> Successes:
        """The queries that succeeded, with their responses."""
        errors = self.errors
        successes = (item for item in self.query_states if item not in errors)
        return [(item.query, item.response) for item in successes if item.response is not None]


def describe_findings(results: LiveResults) -> Iterator[tuple[Level, str]]:
    """Yield the level and the text of each finding. Findings with the same text about several queries are one."""
    groups: dict[tuple[Level, str], list[Query]] = {}
    for finding in _findings(results):
        groups.setdefault((finding.level, finding.text), []).extend([finding.query] if finding.query else [])
    for (level, text), queries in groups.items():
        more = len(queries) - _MAX_NAMED
        if more > 0 and len(queries) == len(results.query_states):
            yield level, f"all {len(queries):,} queries: {text}"
        else:
            names = ", ".join(map(_describe_query, queries[:_MAX_NAMED])) + (f" and {more:,} more" if more > 0 else "")
            yield level, f"{names}: {text}" if names else text


def _findings(results: LiveResults) -> Iterator[Finding]:
    count, succeeded = len(results.query_states), results.succeeded
    level = Level.GOOD if len(succeeded) == count else Level.NOTE
    yield Finding(level, f"{len(succeeded):,} of {pluralize(count, 'query', 'queries')} succeeded")
    cause = _common_cause(results)
    if cause:
        yield Finding(Level.PROBLEM, cause)
    else:
        yield from _failure_findings(results)
    yield from _unlisted_findings(results)
    yield from _selection_findings(results)
    yield from _segment_findings(results)
    yield from _no_data_findings(succeeded)
    yield from _time_zone_findings(results.workspace, succeeded)
    yield from _delay_findings(succeeded)


def _common_cause(results: LiveResults) -> str:
    """Return why no request to Braze succeeded, if there is one cause for all, otherwise an empty text."""
    url, errors = results.workspace.spec.rest_endpoint, results.errors
    if results.unreachable is not None:
        return f"{url} cannot be reached: {results.unreachable.detail}"
    if results.succeeded or not all(result.failure for result in results.lists.values()):
        return ""
    details = [result.failure for result in results.lists.values()] + [error.detail for error in errors.values()]
    is_rejected = all(result.failure == describe_unauthorized(key) for key, result in results.lists.items())
    if is_rejected and any(error.detail == KEY_REJECTED_DETAIL for error in errors.values()):
        instance = next((f" ({name})" for name, known in INSTANCES.items() if known == url), "")
        belongs = "Each API key belongs to one instance; this key may belong to another instance than"
        return f"{KEY_REJECTED_DETAIL}. {belongs} {url}{instance}"
    if details and all(map(_FOREIGN_RESPONSE.match, details)):
        expected = "set url to the REST endpoint, such as https://rest.iad-01.braze.com"
        return f"{url} is not Braze's REST API: {details[0]}; {expected}"
    return ""


def _failure_findings(results: LiveResults) -> Iterator[Finding]:
    """Yield a finding for each query that failed or was deferred, and for each list with another failure."""
    errors = results.errors
    for query_state, error in errors.items():
        is_unauthorized = error.reason is Reason.UNAUTHORIZED
        text = describe_unauthorized(query_state.query.kind) if is_unauthorized else error.detail
        yield Finding(Level.PROBLEM, text, query_state.query)
    for query_state in results.query_states:
        if query_state not in errors and query_state.response is None:
            text = "deferred, because the budget or Braze's rate limit allows no more calls now"
            yield Finding(Level.PROBLEM, text, query_state.query)
    details = {error.detail for error in errors.values()}
    name = results.workspace.spec.name
    needed = {selector.kind.list_endpoint for selector in results.plan.selectors if selector.workspace == name}
    for list_endpoint, result in results.lists.items():
        if result.failure and (list_endpoint in needed or result.failure not in details):
            is_needed = list_endpoint in needed
            what = "selectors could not be expanded" if is_needed else "configured subjects were not checked"
            text = f"the list of {list_endpoint.item_names[1]} could not be read, so {what}: {result.failure}"
            yield Finding(Level.PROBLEM if is_needed else Level.NOTE, text)


def _unlisted_findings(results: LiveResults) -> Iterator[Finding]:
    """Yield a finding for each subject that the config names and Braze does not list."""
    for item in results.plan.configured_subjects:
        if item.workspace != results.workspace.spec.name or item.is_listed or item.kind.list_endpoint is None:
            continue
        named = f'{item.kind.list_endpoint.item_names[0]} "{shorten(item.subject)}"'
        suggestions = f"{format_suggestions(map(shorten, item.suggestions))}; names are case-sensitive"
        hint = _MISSING_ID_HINT if item.kind.is_identified_by_id else suggestions
        yield Finding(Level.PROBLEM, f"{named} is missing from Braze's list{hint}")


def _selection_findings(results: LiveResults) -> Iterator[Finding]:
    """Yield a finding for each section with selectors, and for each selector that matches no item."""
    for item in results.plan.selection_results:
        if item.workspace != results.workspace.spec.name:
            continue
        for mismatch in item.mismatches:
            yield Finding(Level.PROBLEM, f"{item.kind.section}: {mismatch}")
        listed = pluralize(item.listed_count, "item", "items")
        text = f"{item.kind.section}: selectors match {item.matched_count:,} of {listed} in Braze's list"
        if item.skipped_count:
            skipped = f"{item.skipped_count:,} skipped; raise max_queries or budget.share, or match fewer items"
            yield Finding(Level.PROBLEM, f"{text}, {skipped}")
        elif item.matched_count:
            yield Finding(Level.GOOD, text)


def _segment_findings(results: LiveResults) -> Iterator[Finding]:
    """Yield a finding for each segment that has no series, because Braze does not list or track it."""
    result = results.lists.get(SEGMENT_LIST)
    if result is None or result.failure:
        return
    rows = {normalize_id(row.id): row for row in result.items}
    for name, braze_id in results.workspace.spec.segments.items():
        row = rows.get(normalize_id(braze_id))
        if row is None:
            text = f'the id of segment "{shorten(name)}" is missing from Braze\'s list{_MISSING_ID_HINT}'
            yield Finding(Level.PROBLEM, text)
        elif not row.is_tracked:
            what = f'segment "{shorten(name)}" ("{shorten(row.name)}" in Braze) has no series'
            yield Finding(Level.PROBLEM, f"{what}; enable its analytics tracking in Braze")


def _no_data_findings(succeeded: Successes) -> Iterator[Finding]:
    """Yield a finding for each query whose response has no data, no numbers or only zeros."""
    for query, response in succeeded:
        values = _values(response)
        if any(value for _, value in values):
            continue
        if values:
            buckets = pluralize(len({start for start, _ in values}), query.unit, f"{query.unit}s")
            yield Finding(Level.NOTE, f"all values of the last {buckets} are 0", query)
        elif bucket_starts(response.series):
            yield Finding(Level.PROBLEM, "no bucket of the response has a number", query)
        else:
            is_name = query.subject and not query.subject_id
            new = "the subject may be new, or nothing may have been counted yet"
            hint = "check the spelling of the name" if is_name else new
            yield Finding(Level.PROBLEM, f"the response has no data; {hint}", query)


def _time_zone_findings(workspace: ConfiguredWorkspace, succeeded: Successes) -> Iterator[Finding]:
    """Yield a finding if the responses confirm or contradict the time zone of the workspace."""
    zone = workspace.spec.timezone
    if zone is None:
        return
    remedy = "set timezone to the company's time zone in Braze"
    fits = [fit for fit in _matching_zones(succeeded) if fit]
    common = [name for name in fits[0] if all(name in fit for fit in fits)] if fits else []
    if zone.key in common:
        yield Finding(Level.GOOD, f"timezone {zone.key} is correct: hourly values add up to daily values")
    elif common:
        cause = f"hourly values add up to daily values in {', '.join(common[:_MAX_NAMED])}"
        yield Finding(Level.PROBLEM, f"timezone {zone.key} is wrong, because {cause}; {remedy}")
    else:
        yield from _newest_day_findings(zone, succeeded, remedy)


def _newest_day_findings(zone: ZoneInfo, succeeded: Successes, remedy: str) -> Iterator[Finding]:
    """Yield a finding for each query whose newest day is yesterday or tomorrow, if no query has the current day."""
    mismatches = [is_timezone_mismatch(query, response) for query, response in succeeded]
    if False in mismatches:  # the others may lack a row because nothing has happened today
        return
    for query, response in compress(succeeded, mismatches):
        newest = datetime.fromtimestamp(bucket_starts(response.series)[-1], zone).date()
        text = f"the newest day is {newest}, which is not today in {zone.key}; {remedy}"
        yield Finding(Level.PROBLEM, text, query)


def _matching_zones(succeeded: Successes) -> Iterator[Sequence[str]]:
    """Yield, for each pair of an hourly and a daily query, the time zones in which the hours add up to the days."""
    pairs: dict[tuple[str, ...], dict[Unit, tuple[Query, Response]]] = {}
    for query, response in succeeded:
        pairs.setdefault(query.counter_key, {})[query.unit] = query, response
    for pair in pairs.values():
        if len(pair) == len(Unit):
            (_, hours), (query, days) = pair[Unit.HOUR], pair[Unit.DAY]
            dated = {datetime.fromtimestamp(start, query.zone).date(): value for start, value in _values(days)}
            yield time_zones.find_matching_zones(dated, dict(_values(hours)), hours.sent_at)


def _delay_findings(succeeded: Successes) -> Iterator[Finding]:
    """Yield a finding with the age of the newest hour with a count. A single response shows no more about a delay."""
    ages = [
        (response.sent_at - bucket_end(max(counted), Unit.HOUR, query.zone), query.settle_seconds)
        for query, response in succeeded
        if query.unit is Unit.HOUR and (counted := [start for start, value in _values(response) if value])
    ]
    if not ages:
        return
    seconds, settle = min(ages)
    age = f"{seconds / 60:,.0f} min"
    what = "the newest hour with a count above 0"
    if seconds > settle:
        late = f"ended {age} ago, but settle is {settle / 60:,.0f} min; Braze is delayed, or settle is too short"
        yield Finding(Level.PROBLEM, f"{what} {late}")
    else:
        caveat = "One response does not show how late Braze revises hours; see braze_bucket_revision_delay_seconds"
        yield Finding(Level.GOOD, f"{what} {f'ended {age} ago' if seconds > 0 else 'has not ended yet'}. {caveat}")


def _values(response: Response) -> Sequence[tuple[int, float]]:
    """Return the starts and the values of all buckets of all series of a response, without holes."""
    return [point for one in response.series for point in one.points]


def _describe_query(query: Query) -> str:
    """Return a query as text: its section, its labels and its unit."""
    labels = " / ".join(shorten(value) for name, value in query.labels if name != "workspace" and value)
    return " ".join(part for part in (query.kind.section, labels, f"({query.unit.adverb})") if part)
